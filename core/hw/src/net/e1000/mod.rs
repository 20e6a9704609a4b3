//! Intel 82540EM gigabit ethernet controller (`e1000`).
//!
//! Reference: Intel 317453 "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual" 4.0 (8254x SDM). Registers are also reached through two I/O ports (13.3). Message
//! interrupts and power management are left out, as QEMU's card leaves them out.
//!
//! Not modelled: wake-up, management (SMBus), flash, the packet buffer as memory, flow control
//! frames (they are dropped), collisions.

mod phy;
mod regs;
mod rx;
mod tx;

#[cfg(test)]
mod tests;

use super::eeprom::{self, Eeprom};
use super::frame::Mac;
use crate::pci::{self, Chip, Slot};
use orrery_system::bus::{BusError, BusResult};
use orrery_system::ports::NetPort;
use orrery_system::{Board, Clock, DeviceId, RestoreError, Timer, VmTime};
use phy::{Asks, Phy};
pub use regs::Reg;
use regs::{ADDRESS_VALID, ADDRESSES, ARRAYS, Ctrl, Eecd, Mdic, Rctl, cause};
use serde::{Deserialize, Serialize};

/// Bank of the registers: 128 KiB of memory.
pub const REGISTERS: u32 = 0;
/// Bank of the I/O ports.
pub const PORTS: u32 = 1;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x100e,
    revision: 3,
    class: 0x02_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Bytes of the register space that hold something.
const SPACE: u64 = 0x6000;
/// Unit of the interrupt throttle.
const THROTTLE_NS: u64 = 256;
/// Unit of the interrupt delays.
const DELAY_NS: u64 = 1024;
/// How long after a burst of descriptors the next one begins.
const BURST_NS: u64 = 10_000;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// The card's address.
    pub mac: Mac,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// The cable.
    pub cable: NetPort,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up.
    pub timer: Timer,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The register space, four bytes each.
    regs: Vec<u32>,
    /// Register that the data port reaches.
    io_address: u32,
    eeprom: Eeprom,
    phy: Phy,
    tx: tx::Transmitter,
    rx: rx::Receiver,
    /// The interrupt pin, which the throttle may hold back.
    interrupting: bool,
    /// No interrupt before.
    throttle: VmTime,
    /// Negotiation is over.
    negotiated_at: Option<VmTime>,
    /// The cable carries a signal.
    carrier: bool,
}

/// The device.
pub struct E1000 {
    config: Config,
    wires: Wires,
    state: State,
}

/// Puts a card at `devfn` whose cable ends in `cable`.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    config: Config,
    cable: NetPort,
) -> DeviceId {
    let id = board.reserve("e1000");
    let pci = function(board, bus, devfn, id);
    let wires = Wires { cable, clock: board.clock(), timer: board.timer(id, 0) };
    board.attach(id, Box::new(pci::Card::new(pci, E1000::new(config, wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .memory_bar(0, REGISTERS, 0x2_0000)
        .io_bar(1, PORTS, 0x40)
        .build(devfn)
}

/// What the EEPROM of a card with this address holds (SDM table 5-2).
fn eeprom(mac: Mac) -> Eeprom {
    let mut words = vec![0xffff; eeprom::WORDS];
    for (word, pair) in words.iter_mut().zip(mac.chunks(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    // Software compatibility, printed board number, initialization control 1, identity,
    // initialization control 2, no management, LEDs.
    words[0x03] = 0;
    words[0x08] = 0x3000;
    words[0x09] = 0x1000;
    words[0x0a] = 0x640b;
    (words[0x0b], words[0x0c]) = (IDENTITY.subsystem.1, IDENTITY.subsystem.0);
    (words[0x0d], words[0x0e]) = (IDENTITY.device, IDENTITY.vendor);
    words[0x0f] = 0x8cc0;
    words[0x10..0x19].fill(0);
    // All words add up to BABAh.
    let sum = words[..eeprom::WORDS - 1].iter().fold(0_u16, |s, w| s.wrapping_add(*w));
    words[eeprom::WORDS - 1] = 0xbaba_u16.wrapping_sub(sum);
    Eeprom::new(words)
}

impl State {
    fn power_on(config: &Config, carrier: bool) -> Self {
        let eeprom = eeprom(config.mac);
        let mut state = Self {
            regs: Vec::new(),
            io_address: 0,
            eeprom,
            phy: Phy::new(carrier),
            tx: tx::Transmitter::default(),
            rx: rx::Receiver::default(),
            interrupting: false,
            throttle: VmTime(0),
            negotiated_at: None,
            carrier,
        };
        state.reset_registers();
        state
    }

    /// The controller's own reset (CTRL.RST): everything but EEPROM, PHY and configuration space.
    fn reset_registers(&mut self) {
        self.regs = vec![0; SPACE as usize / 4];
        let defaults = [
            (Reg::Ctrl, 0x0014_0200 | 1 | 0x40),
            (Reg::Fcal, 0x00c2_8001),
            (Reg::Fcah, 0x0000_0100),
            (Reg::Fct, 0x8808),
            (Reg::Vet, 0x8100),
            (Reg::Ledctl, 0x0706_0302),
            (Reg::Pba, 0x0010_0030),
            (Reg::Tipg, 0x0060_2008),
            (Reg::Rxdctl, 0x0001_0000),
            (Reg::Txdmac, 1),
            (Reg::Tspmt, 0x0100_0400),
            (Reg::Rxcsum, regs::RXCSUM_IP | regs::RXCSUM_TCP),
        ];
        for (reg, value) in defaults {
            self.set(reg, value);
        }
        // The station address comes from the EEPROM.
        let word = |at| u32::from(self.eeprom.word(at).unwrap_or(0));
        let (low, high) = (word(0) | word(1) << 16, word(2));
        self.set_word(ADDRESSES.0, low);
        self.set_word(ADDRESSES.0 + 4, high | ADDRESS_VALID);
        self.tx = tx::Transmitter::default();
        self.rx = rx::Receiver::default();
        self.interrupting = false;
        self.throttle = VmTime(0);
    }

    fn word(&self, offset: u64) -> u32 {
        self.regs.get((offset / 4) as usize).copied().unwrap_or(0)
    }

    fn set_word(&mut self, offset: u64, value: u32) {
        if let Some(r) = self.regs.get_mut((offset / 4) as usize) {
            *r = value;
        }
    }

    fn get(&self, reg: Reg) -> u32 {
        self.word(reg.offset())
    }

    fn set(&mut self, reg: Reg, value: u32) {
        self.set_word(reg.offset(), value);
    }

    fn ctrl(&self) -> Ctrl {
        Ctrl::from_bits(self.get(Reg::Ctrl))
    }

    fn rctl(&self) -> Rctl {
        Rctl::from_bits(self.get(Reg::Rctl))
    }

    fn link(&self) -> bool {
        self.phy.link() && self.ctrl().set_link_up()
    }

    /// Raises interrupt causes.
    fn cause(&mut self, bits: u32) {
        let icr = self.get(Reg::Icr);
        self.set(Reg::Icr, icr | bits & cause::ALL);
    }

    /// Adds to a counter, which stays at its highest value (13.7).
    fn count(&mut self, reg: Reg, n: u32) {
        let value = self.get(reg).saturating_add(n);
        self.set(reg, value);
    }

    /// Adds to a counter of two registers.
    fn count_bytes(&mut self, low: Reg, high: Reg, n: usize) {
        let value = u64::from(self.get(low)) | u64::from(self.get(high)) << 32;
        let value = value.saturating_add(n as u64);
        self.set(low, value as u32);
        self.set(high, (value >> 32) as u32);
    }

    fn read(&mut self, reg: Reg) -> u32 {
        match reg {
            Reg::Status => {
                let link = if self.link() { regs::STATUS_LU } else { 0 };
                regs::STATUS_FD | regs::STATUS_1000 | link
            }
            Reg::Eecd => {
                let eecd = Eecd::from_bits(self.get(reg));
                eecd.with_data_out(self.eeprom.out())
                    .with_grant(eecd.request())
                    .with_present(true)
                    .into()
            }
            Reg::Icr => {
                let causes = self.get(reg);
                self.set(reg, 0);
                causes
            }
            Reg::Ics | Reg::Imc => 0,
            _ if (Reg::Crcerrs.offset()..=Reg::Tsctfc.offset()).contains(&reg.offset()) => {
                self.read_counter(reg)
            }
            _ => self.get(reg),
        }
    }

    fn read_counter(&mut self, reg: Reg) -> u32 {
        let value = self.get(reg);
        match reg {
            // The low half goes with the high one.
            Reg::Gorcl | Reg::Gotcl | Reg::Torl | Reg::Totl => {}
            Reg::Gorch | Reg::Gotch | Reg::Torh | Reg::Toth => {
                self.set(reg, 0);
                self.set_word(reg.offset() - 4, 0);
            }
            _ => self.set(reg, 0),
        }
        value
    }

    fn write(&mut self, reg: Reg, v: u32, now: VmTime) {
        match reg {
            Reg::Ctrl => {
                let ctrl = Ctrl::from_bits(v);
                if ctrl.reset() {
                    self.reset_registers();
                } else {
                    self.set(reg, ctrl.with_phy_reset(false).into());
                    if ctrl.phy_reset() {
                        self.phy = Phy::new(self.carrier);
                    }
                }
            }
            Reg::Eecd => {
                let eecd = Eecd::from_bits(v);
                self.set(reg, v & 0x77);
                self.eeprom.pins(eecd.select(), eecd.clock(), eecd.data_in());
            }
            Reg::Eerd => {
                let word = self.eeprom.word((v >> 8 & 0xff) as usize);
                let done = match (v & regs::EERD_START != 0, word) {
                    (true, Some(w)) => u32::from(w) << 16 | v & 0xff00 | regs::EERD_DONE,
                    (true, None) => v & 0xff00 | regs::EERD_DONE,
                    (false, _) => v & 0xff00,
                };
                self.set(reg, done);
            }
            Reg::Mdic => self.management(Mdic::from_bits(v), now),
            Reg::Icr => {
                let left = self.get(reg) & !v;
                self.set(reg, left);
            }
            Reg::Ics => self.cause(v),
            Reg::Ims => {
                let mask = self.get(reg) | v & cause::ALL;
                self.set(reg, mask);
            }
            Reg::Imc => {
                let mask = self.get(Reg::Ims) & !v;
                self.set(Reg::Ims, mask);
            }
            Reg::Itr => self.set(reg, v & 0xffff),
            Reg::Rdbal | Reg::Tdbal => self.set(reg, v & !15),
            Reg::Rdlen | Reg::Tdlen => self.set(reg, v & 0xf_ff80),
            Reg::Rdh | Reg::Rdt | Reg::Tdh | Reg::Tdt => self.set(reg, v & 0xffff),
            Reg::Rdtr => {
                self.set(reg, v & 0xffff);
                if v >> 31 != 0 {
                    // Flushes what is delayed.
                    self.rx.delay.flush(now);
                }
            }
            Reg::Tidv | Reg::Tadv | Reg::Radv => self.set(reg, v & 0xffff),
            _ => self.set(reg, v),
        }
    }

    fn management(&mut self, m: Mdic, now: VmTime) {
        let mut done = m.with_ready(true).with_error(false);
        match (m.phy(), m.op()) {
            (phy::ADDRESS, 2) => done.set_data(self.phy.read(m.register())),
            (phy::ADDRESS, 1) => {
                if self.phy.write(m.register(), m.data()) == Asks::Negotiation {
                    self.phy.set_link(false);
                    self.negotiated_at = Some(now.after(phy::NEGOTIATION_NS));
                    self.cause(cause::LSC);
                }
            }
            _ => done.set_error(true),
        }
        self.set(Reg::Mdic, done.into());
        if m.interrupt() {
            self.cause(cause::MDAC);
        }
    }

    /// The cable was pulled, or put back: then both sides negotiate.
    fn set_carrier(&mut self, up: bool, now: VmTime) {
        self.carrier = up;
        self.negotiated_at = up.then(|| now.after(phy::NEGOTIATION_NS));
        if !up {
            self.phy.set_link(false);
            self.cause(cause::LSC);
        }
    }

    /// Raises what has been due since.
    fn catch_up(&mut self, now: VmTime) {
        if self.negotiated_at.take_if(|t| *t <= now).is_some() && self.carrier {
            self.phy.set_link(true);
            self.cause(cause::LSC);
        }
        if self.tx.delay.take(now) {
            self.cause(cause::TXDW);
        }
        if self.rx.delay.take(now) {
            self.cause(cause::RXT0);
        }
    }

    fn next_event(&self) -> Option<VmTime> {
        let throttled = self.wants_interrupt() && !self.interrupting;
        [
            self.negotiated_at,
            self.tx.delay.due(),
            self.rx.delay.due(),
            self.tx.resume_at,
            throttled.then_some(self.throttle),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn wants_interrupt(&self) -> bool {
        self.get(Reg::Icr) & self.get(Reg::Ims) != 0
    }
}

/// An interrupt cause that waits for more of its kind (13.4.30, 13.4.44): so long from the last,
/// and no longer than so long from the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Delay {
    last: Option<VmTime>,
    first: Option<VmTime>,
}

impl Delay {
    /// Begins or goes on waiting. The lengths are in units of 1.024 us; without an absolute one
    /// only the other counts.
    fn wait(&mut self, now: VmTime, packet: u32, absolute: u32) {
        self.last = Some(now.after(u64::from(packet) * DELAY_NS));
        if absolute != 0 {
            self.first.get_or_insert(now.after(u64::from(absolute) * DELAY_NS));
        }
    }

    fn due(&self) -> Option<VmTime> {
        [self.last, self.first].into_iter().flatten().min()
    }

    fn flush(&mut self, now: VmTime) {
        if self.last.is_some() {
            self.last = Some(now);
        }
    }

    /// Whether the wait is over.
    fn take(&mut self, now: VmTime) -> bool {
        let over = self.due().is_some_and(|t| t <= now);
        if over {
            *self = Self::default();
        }
        over
    }
}

impl E1000 {
    /// The chip in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let state = State::power_on(&config, wires.cable.carrier());
        Self { config, wires, state }
    }

    /// Sends what the transmit ring holds, and hands received frames to memory.
    fn work(&mut self, slot: &Slot<'_>) {
        let now = self.wires.clock.now();
        let dma = slot.function.dma();
        let sent = self.state.transmit(dma, now);
        let looped = self.state.phy.loopback() || self.state.rctl().loopback() != 0;
        for frame in sent {
            if looped {
                self.state.arrive(frame);
            } else if self.state.link() {
                self.wires.cable.send(frame);
            }
        }
        self.state.store(dma, now);
    }

    fn catch_up(&mut self) -> VmTime {
        let now = self.wires.clock.now();
        self.state.catch_up(now);
        now
    }
}

fn in_array(offset: u64) -> bool {
    ARRAYS.iter().any(|&(first, last)| (first..=last).contains(&offset))
}

impl Chip for E1000 {
    type State = State;
    const NAME: &'static str = "e1000";
    const VERSION: u16 = 3;
    const HOST_IO: bool = true;

    fn reset(&mut self) {
        self.state = State::power_on(&self.config, self.wires.cable.carrier());
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.regs.len() != SPACE as usize / 4 || !state.eeprom.is_whole() {
            return Err(RestoreError::Invalid("register space of another size"));
        }
        state.tx.check()?;
        state.rx.check()?;
        self.state = state;
        Ok(())
    }

    fn drive(&mut self, _: &mut Slot<'_>) -> bool {
        let now = self.wires.clock.now();
        let state = &mut self.state;
        if !state.wants_interrupt() {
            state.interrupting = false;
        } else if !state.interrupting && now >= state.throttle {
            state.interrupting = true;
            state.throttle = now.after(u64::from(state.get(Reg::Itr)) * THROTTLE_NS);
        }
        self.wires.timer.set(state.next_event());
        state.interrupting
    }

    fn read(&mut self, _: &mut Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let offset = match bank {
            REGISTERS => offset,
            PORTS if width == 4 && offset == 0 => return Ok(self.state.io_address.into()),
            PORTS if width == 4 && offset == 4 => self.state.io_address.into(),
            PORTS if width > 1 => return Err(BusError::Width),
            _ => return Err(BusError::NoRegister),
        };
        if width == 4 && offset % 4 == 0 && in_array(offset) {
            return Ok(self.state.word(offset).into());
        }
        let (reg, _) = Reg::decode(offset, width)?;
        self.catch_up();
        Ok(self.state.read(reg).into())
    }

    fn write(
        &mut self,
        slot: &mut Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        let value = value as u32;
        let offset = match bank {
            REGISTERS => offset,
            PORTS if width == 4 && offset == 0 => {
                self.state.io_address = value;
                return Ok(());
            }
            PORTS if width == 4 && offset == 4 => self.state.io_address.into(),
            PORTS if width > 1 => return Err(BusError::Width),
            _ => return Err(BusError::NoRegister),
        };
        if width == 4 && offset % 4 == 0 && in_array(offset) {
            self.state.set_word(offset, value);
            return Ok(());
        }
        let (reg, access) = Reg::decode(offset, width)?;
        let now = self.catch_up();
        if access != orrery_system::reg_map::Access::Ro {
            self.state.write(reg, value, now);
        }
        if matches!(reg, Reg::Tdt | Reg::Tctl | Reg::Rdt | Reg::Rctl) {
            self.work(slot);
        }
        Ok(())
    }

    fn configured(&mut self, _: &pci::ConfigState, slot: &mut Slot<'_>) {
        // Bus mastering may have come on.
        self.work(slot);
    }

    fn wake(&mut self, slot: &mut Slot<'_>, _: VmTime) {
        self.catch_up();
        self.work(slot);
    }

    fn ready(&self) -> bool {
        self.wires.cable.carrier() != self.state.carrier
            || self.wires.cable.has_input() && self.state.rx.has_room()
    }

    fn deliver(&mut self, slot: &mut Slot<'_>, _: VmTime) {
        let now = self.catch_up();
        let carrier = self.wires.cable.carrier();
        if carrier != self.state.carrier {
            self.state.set_carrier(carrier, now);
        }
        while self.state.rx.has_room() {
            let Some(frame) = self.wires.cable.receive() else { break };
            if self.state.link() && !self.state.phy.loopback() {
                self.state.arrive(frame);
            }
        }
        self.work(slot);
    }
}
