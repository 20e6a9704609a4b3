//! Realtek RTL8139C+ fast ethernet controller (`rtl8139`).
//!
//! Reference: Realtek RTL8139D and RTL8139C+ data sheets (rev. 1.2 and 1.6). The older interface
//! (four transmit buffers, one receive ring) and the newer one (descriptor rings, offloads) are
//! both there; the C+ command register chooses.
//!
//! Not modelled: wake-up, the boot ROM, the high-priority transmit ring's precedence, statistics
//! dumps.

use crate::net::eeprom::Eeprom;
use crate::net::frame::{self, BROADCAST, Mac};
use crate::pci;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::ports::NetPort;
use orrery_system::{Board, Clock, DeviceId, Dma, RestoreError, Timer, VmTime, reg_map};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Registers that are not arrays (data sheet 5).
    pub enum Reg {
        /// Start of the receive ring.
        0x30 Rbstart: 4 Rw,
        /// Command.
        0x37 Cr: 1 Rw,
        /// Where the guest has read to, less 16.
        0x38 Capr: 2 Rw,
        /// Where the card has written to.
        0x3a Cbr: 2 Ro,
        /// Interrupt mask.
        0x3c Imr: 2 Rw,
        /// Interrupt status.
        0x3e Isr: 2 Rw,
        /// Transmit configuration.
        0x40 Tcr: 4 Rw,
        /// Receive configuration.
        0x44 Rcr: 4 Rw,
        /// Timer; any write starts it anew.
        0x48 Tctr: 4 Rw,
        /// Frames missed.
        0x4c Mpc: 4 Rw,
        /// The EEPROM's pins.
        0x50 Cr9346: 1 Rw,
        /// Configuration 0.
        0x51 Config0: 1 Ro,
        /// Configuration 1.
        0x52 Config1: 1 Rw,
        /// Timer interrupt: at this count.
        0x54 TimerInt: 4 Rw,
        /// Media status.
        0x58 Msr: 1 Ro,
        /// Configuration 3.
        0x59 Config3: 1 Rw,
        /// Configuration 4.
        0x5a Config4: 1 Rw,
        /// Early interrupts.
        0x5c Mulint: 2 Rw,
        /// PCI revision.
        0x5e Rerid: 1 Ro,
        /// Status of all four transmit buffers.
        0x60 Tsad: 2 Ro,
        /// PHY: control.
        0x62 Bmcr: 2 Rw,
        /// PHY: status.
        0x64 Bmsr: 2 Ro,
        /// PHY: what is advertised.
        0x66 Anar: 2 Rw,
        /// PHY: what the other side advertises.
        0x68 Anlpar: 2 Ro,
        /// PHY: negotiation expansion.
        0x6a Aner: 2 Ro,
        /// Configuration 5.
        0xd8 Config5: 1 Rw,
        /// C+: something is in a transmit ring.
        0xd9 TpPoll: 1 Wo,
        /// C+: command.
        0xe0 Cpcr: 2 Rw,
        /// C+: interrupt mitigation, stored.
        0xe2 Mitigate: 2 Rw,
        /// C+: receive ring, low.
        0xe4 RdsarLow: 4 Rw,
        /// C+: receive ring, high.
        0xe8 RdsarHigh: 4 Rw,
        /// C+: early transmit threshold.
        0xec Etthr: 1 Rw,
    }
}

/// Bank of the registers, in I/O ports and in memory.
pub const REGISTERS: u32 = 0;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x10ec,
    device: 0x8139,
    revision: 0x20,
    class: 0x02_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Command: buffer empty, transmitter on, receiver on, reset.
const BUFE: u8 = 0x01;
const TE: u8 = 0x04;
const RE: u8 = 0x08;
const RST: u8 = 0x10;

/// Interrupts.
mod isr {
    pub(super) const ROK: u16 = 0x0001;
    pub(super) const TOK: u16 = 0x0004;
    pub(super) const RXOVW: u16 = 0x0010;
    pub(super) const LINK: u16 = 0x0020;
    pub(super) const TDU: u16 = 0x0080;
    pub(super) const SWINT: u16 = 0x0100;
    pub(super) const TIMEOUT: u16 = 0x4000;
    pub(super) const ALL: u16 = 0xe1ff;
}

/// Transmit status: the card is done with it, and sent it.
const TSD_OWN: u32 = 1 << 13;
const TSD_TOK: u32 = 1 << 15;
/// Chip version in the transmit configuration: an 8139C+.
const VERSION: u32 = 0x7480_0000;
/// Receive configuration.
const AAP: u32 = 0x01;
const APM: u32 = 0x02;
const AM: u32 = 0x04;
const AB: u32 = 0x08;
const WRAP: u32 = 0x80;
/// C+ command: transmit and receive rings on, checksums looked at, VLAN tags taken out.
const CP_TX: u16 = 0x01;
const CP_RX: u16 = 0x02;
const CP_CHECKSUM: u16 = 0x20;
const CP_VLAN: u16 = 0x40;
/// Descriptors: the card's, end of ring, first and last segment, large send.
const OWN: u32 = 1 << 31;
const EOR: u32 = 1 << 30;
const FS: u32 = 1 << 29;
const LS: u32 = 1 << 28;
const LGSEN: u32 = 1 << 27;
/// Checksums to fill in: IP, UDP, TCP.
const OFFLOADS: u32 = 7 << 16;

/// Descriptors of a ring.
const RING: u64 = 64;
/// Most descriptors looked at in one go.
const BURST: usize = 256;
/// Longest packet before it is cut up.
const LONGEST: usize = 0x1_0000;
/// Frequency of the timer.
const TIMER_HZ: u64 = 33_000_000;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// The card's address.
    pub mac: Mac,
}

/// Services the machine wires up.
pub struct Wires {
    /// The cable.
    pub cable: NetPort,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the timer interrupt.
    pub timer: Timer,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    mac: Mac,
    groups: [u8; 8],
    transmit_status: [u32; 4],
    transmit_address: [u32; 4],
    /// The transmit buffer whose turn it is.
    turn: u8,
    receive_start: u32,
    command: u8,
    read_at: u16,
    write_at: u16,
    mask: u16,
    status: u16,
    tcr: u32,
    rcr: u32,
    timer_start: VmTime,
    timer_interrupt: u32,
    /// When the timer's count was last looked at: it interrupts when it comes by after this.
    timer_seen: VmTime,
    missed: u32,
    cr9346: u8,
    config: [u8; 5],
    mulint: u16,
    bmcr: u16,
    anar: u16,
    cpcr: u16,
    mitigate: u16,
    etthr: u8,
    receive_ring: u64,
    /// Next descriptor of the C+ rings.
    receive_next: u64,
    transmit_next: u64,
    packet: Vec<u8>,
    eeprom: Eeprom,
    /// The cable carries a signal.
    carrier: bool,
}

/// The device.
pub struct Rtl8139 {
    setup: Config,
    wires: Wires,
    state: State,
}

/// Puts a card at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    config: Config,
    cable: NetPort,
) -> DeviceId {
    let id = board.reserve("rtl8139");
    let pci = function(board, bus, devfn, id);
    let wires = Wires { cable, clock: board.clock(), timer: board.timer(id, 0) };
    board.attach(id, Box::new(pci::Card::new(pci, Rtl8139::new(config, wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .io_bar(0, REGISTERS, 0x100)
        .memory_bar(1, REGISTERS, 0x100)
        .build(devfn)
}

/// What the EEPROM of a card with this address holds.
fn eeprom(mac: Mac) -> Eeprom {
    let mut words = vec![0; crate::net::eeprom::WORDS];
    words[..4].copy_from_slice(&[0x8129, 0x10ec, 0x8139, 0x10ec]);
    for (word, pair) in words[7..].iter_mut().zip(mac.chunks(2)) {
        *word = u16::from_le_bytes([pair[0], pair[1]]);
    }
    Eeprom::new(words)
}

impl State {
    fn power_on(setup: &Config, now: VmTime, carrier: bool) -> Self {
        Self {
            mac: setup.mac,
            groups: [0; 8],
            transmit_status: [TSD_OWN; 4],
            transmit_address: [0; 4],
            turn: 0,
            receive_start: 0,
            command: BUFE,
            read_at: 0xfff0,
            write_at: 0,
            mask: 0,
            status: 0,
            tcr: VERSION | 0x0300_0000,
            rcr: 0,
            timer_start: now,
            timer_interrupt: 0,
            timer_seen: now,
            missed: 0,
            cr9346: 0,
            // Configurations 0, 1, 3, 4, 5: MMIO and I/O mapped, driver may wake.
            config: [0x10, 0x0c, 0x01, 0, 0],
            mulint: 0,
            bmcr: 0x3100,
            anar: 0x05e1,
            cpcr: 0,
            mitigate: 0,
            etthr: 0,
            receive_ring: 0,
            receive_next: 0,
            transmit_next: 0,
            packet: Vec::new(),
            eeprom: eeprom(setup.mac),
            carrier,
        }
    }

    /// Software reset: everything but address, EEPROM and PHY.
    fn soft_reset(&mut self, setup: &Config, now: VmTime) {
        let fresh = Self::power_on(setup, now, self.carrier);
        *self = Self {
            mac: self.mac,
            groups: self.groups,
            bmcr: self.bmcr,
            anar: self.anar,
            eeprom: self.eeprom.clone(),
            ..fresh
        };
    }

    fn raise(&mut self, bits: u16) {
        self.status |= bits;
    }

    /// The status with which a frame is accepted: how its address matched.
    fn wants(&self, frame: &[u8]) -> Option<u16> {
        let to = frame::destination(frame)?;
        let rcr = self.rcr;
        if to == BROADCAST {
            (rcr & (AB | AAP) != 0).then_some(0x2000)
        } else if to[0] & 1 != 0 {
            let bit = (frame::crc_msb_first(&to) >> 26) as usize;
            let listed = rcr & AM != 0 && self.groups[bit >> 3] >> (bit & 7) & 1 != 0;
            (listed || rcr & AAP != 0).then_some(0x8000)
        } else if to == self.mac {
            (rcr & (APM | AAP) != 0).then_some(0x4000)
        } else {
            (rcr & AAP != 0).then_some(0)
        }
    }

    /// Bytes of the receive ring.
    fn ring_len(&self) -> u32 {
        8192 << (self.rcr >> 11 & 3)
    }

    /// Bytes of it that may be written.
    fn room(&self) -> u32 {
        let len = self.ring_len();
        let read = u32::from(self.read_at.wrapping_add(16)) % len;
        let write = u32::from(self.write_at) % len;
        if read == write { len } else { (read + len - write) % len }
    }

    fn receive(&mut self, dma: &Dma, mut frame: Vec<u8>) {
        if self.command & RE == 0 || frame.len() < frame::HEADER {
            return;
        }
        if frame.len() < frame::MIN {
            frame.resize(frame::MIN, 0);
        }
        let Some(matched) = self.wants(&frame) else { return };
        if self.cpcr & CP_RX != 0 {
            self.receive_descriptor(dma, frame, matched);
        } else {
            self.receive_ring(dma, &frame, matched);
        }
    }

    /// The older interface: a header of status and length, the frame, its check sequence.
    fn receive_ring(&mut self, dma: &Dma, frame: &[u8], matched: u16) {
        let len = self.ring_len();
        let total = (4 + frame.len() as u32 + 4).next_multiple_of(4);
        if total >= self.room() {
            self.missed = self.missed.wrapping_add(1) & 0xff_ffff;
            return self.raise(isr::RXOVW);
        }
        let mut bytes = Vec::with_capacity(total as usize);
        bytes.extend((matched | 1).to_le_bytes());
        bytes.extend((frame.len() as u16 + 4).to_le_bytes());
        bytes.extend_from_slice(frame);
        bytes.extend(frame::crc32(frame).to_le_bytes());
        let at = u32::from(self.write_at) % len;
        let first = if self.rcr & WRAP != 0 && len < 65536 {
            // It goes on past the end of the ring.
            bytes.len()
        } else {
            bytes.len().min((len - at) as usize)
        };
        // What points outside memory is lost.
        _ = dma.write(u64::from(self.receive_start) + u64::from(at), &bytes[..first]);
        _ = dma.write(self.receive_start.into(), &bytes[first..]);
        self.write_at = ((at + total) % len) as u16;
        self.command &= !BUFE;
        self.raise(isr::ROK);
    }

    /// The newer interface: one descriptor a frame.
    fn receive_descriptor(&mut self, dma: &Dma, mut frame: Vec<u8>, matched: u16) {
        let at = self.receive_ring.wrapping_add(self.receive_next * 16);
        let mut d = [0; 16];
        let word =
            |d: &[u8; 16], i: usize| u32::from_le_bytes(std::array::from_fn(|b| d[i * 4 + b]));
        if dma.read(at, &mut d).is_err() || word(&d, 0) & OWN == 0 {
            self.missed = self.missed.wrapping_add(1) & 0xff_ffff;
            return self.raise(isr::RXOVW);
        }
        let checks = self.checksums(&frame);
        let mut tag = 0;
        if self.cpcr & CP_VLAN != 0 && frame::be16(&frame, 12) == Some(0x8100) {
            let vlan = frame::be16(&frame, 14).unwrap_or(0);
            // The tag is in network order, with a bit that says it is there.
            tag = 1 << 16 | u32::from(vlan.swap_bytes());
            frame.drain(12..16);
        }
        let fcs = frame::crc32(&frame);
        frame.extend(fcs.to_le_bytes());
        let first = word(&d, 0);
        let size = (first & 0x1fff) as usize;
        let len = frame.len().min(size);
        let address = u64::from(word(&d, 2)) | u64::from(word(&d, 3)) << 32;
        _ = dma.write(address, &frame[..len]);
        let matched = u32::from(matched >> 13) << 25;
        let status = first & EOR | FS | LS | matched | checks | len as u32 & 0x1fff;
        let mut back = [0; 8];
        back[..4].copy_from_slice(&status.to_le_bytes());
        back[4..].copy_from_slice(&tag.to_le_bytes());
        _ = dma.write(at, &back);
        self.receive_next = if first & EOR != 0 { 0 } else { (self.receive_next + 1) % RING };
        self.raise(isr::ROK);
    }

    /// Protocol and failed checksums, as a receive descriptor says them.
    fn checksums(&self, frame: &[u8]) -> u32 {
        let Some(found) = frame::transport(frame).filter(|_| self.cpcr & CP_CHECKSUM != 0) else {
            return 0;
        };
        let protocol = frame.get(found.ip + 9).copied().unwrap_or(0);
        let (kind, fail) = match (protocol, found.good) {
            (6, Some(good)) => (1, if good { 0 } else { 1 << 13 }),
            (17, Some(good)) => (2, if good { 0 } else { 1 << 14 }),
            _ => (3, 0),
        };
        kind << 16 | fail | if found.ip_good { 0 } else { 1 << 15 }
    }

    /// Sends transmit buffer `n` (older interface).
    fn send_buffer(&mut self, dma: &Dma, n: usize) -> Option<Vec<u8>> {
        let status = self.transmit_status[n];
        let len = (status & 0x1fff) as usize;
        self.transmit_status[n] = status | TSD_OWN | TSD_TOK;
        self.turn = (self.turn + 1) & 3;
        self.raise(isr::TOK);
        let mut frame = vec![0; len];
        _ = dma.read(self.transmit_address[n].into(), &mut frame);
        if len < frame::HEADER {
            return None;
        }
        frame.resize(len.max(frame::MIN), 0);
        Some(frame)
    }

    /// Works through the transmit ring (newer interface).
    fn send_ring(&mut self, dma: &Dma) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        if self.cpcr & CP_TX == 0 || self.command & TE == 0 {
            return frames;
        }
        let ring = u64::from(self.transmit_address[0]) | u64::from(self.transmit_address[1]) << 32;
        for _ in 0..BURST {
            let at = ring.wrapping_add(self.transmit_next * 16);
            let mut d = [0; 16];
            if dma.read(at, &mut d).is_err() {
                break;
            }
            let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|b| d[i * 4 + b]));
            let (flags, tag) = (word(0), word(1));
            if flags & OWN == 0 {
                self.raise(isr::TDU);
                break;
            }
            if flags & FS != 0 {
                self.packet.clear();
            }
            let mut piece = vec![0; (flags & 0xffff) as usize];
            _ = dma.read(u64::from(word(2)) | u64::from(word(3)) << 32, &mut piece);
            let room = LONGEST.saturating_sub(self.packet.len());
            self.packet.extend_from_slice(&piece[..piece.len().min(room)]);
            _ = dma.write(at, &(flags & !OWN).to_le_bytes());
            self.transmit_next = if flags & EOR != 0 { 0 } else { (self.transmit_next + 1) % RING };
            if flags & LS != 0 {
                let packet = std::mem::take(&mut self.packet);
                frames.extend(finish(packet, flags, tag));
                self.raise(isr::TOK);
            }
        }
        frames
    }

    fn timer_due(&self) -> Option<VmTime> {
        if self.timer_interrupt == 0 {
            return None;
        }
        // The counter has 32 bits and goes on from zero.
        let ticks = VmTime(self.timer_seen.since(self.timer_start)).ticks(TIMER_HZ);
        let ahead = self.timer_interrupt.wrapping_sub(ticks as u32);
        let ahead = if ahead == 0 { 1 << 32 } else { ahead.into() };
        Some(self.timer_start.after(VmTime::at_tick(ticks + ahead, TIMER_HZ).0))
    }

    fn catch_up(&mut self, now: VmTime) {
        if self.timer_due().is_some_and(|t| t <= now) {
            self.timer_seen = now;
            self.raise(isr::TIMEOUT);
        }
    }

    fn timer(&self, now: VmTime) -> u32 {
        VmTime(now.since(self.timer_start)).ticks(TIMER_HZ) as u32
    }

    fn read(&self, reg: Reg, now: VmTime) -> u32 {
        match reg {
            Reg::Rbstart => self.receive_start,
            Reg::Cr => self.command.into(),
            Reg::Capr => self.read_at.into(),
            Reg::Cbr => self.write_at.into(),
            Reg::Imr => self.mask.into(),
            Reg::Isr => self.status.into(),
            Reg::Tcr => self.tcr,
            Reg::Rcr => self.rcr,
            Reg::Tctr => self.timer(now),
            Reg::Mpc => self.missed,
            Reg::Cr9346 => u32::from(self.cr9346) | u32::from(self.eeprom.out()),
            Reg::Config0 => self.config[0].into(),
            Reg::Config1 => self.config[1].into(),
            Reg::TimerInt => self.timer_interrupt,
            // Link up (low), 100 Mb/s (low), auxiliary power.
            Reg::Msr if self.carrier => 0x80,
            Reg::Msr => 0x84,
            Reg::Config3 => self.config[2].into(),
            Reg::Config4 => self.config[3].into(),
            Reg::Mulint => self.mulint.into(),
            Reg::Rerid => IDENTITY.revision.into(),
            Reg::Tsad => self.transmit_status.iter().enumerate().fold(0, |v, (n, s)| {
                let bit = |mask: u32, at: usize| u32::from(s & mask != 0) << (at + n);
                v | bit(TSD_OWN, 0) | bit(TSD_TOK, 12)
            }),
            Reg::Bmcr => self.bmcr.into(),
            Reg::Bmsr if self.carrier => 0x782d,
            // Neither link nor a negotiation that is complete.
            Reg::Bmsr => 0x7809,
            Reg::Anar => self.anar.into(),
            Reg::Anlpar => 0x45e1,
            Reg::Aner => 0x0001,
            Reg::Config5 => self.config[4].into(),
            Reg::TpPoll => 0,
            Reg::Cpcr => self.cpcr.into(),
            Reg::Mitigate => self.mitigate.into(),
            Reg::RdsarLow => self.receive_ring as u32,
            Reg::RdsarHigh => (self.receive_ring >> 32) as u32,
            Reg::Etthr => self.etthr.into(),
        }
    }
}

/// The frames that a packet becomes: cut up, with its checksums and its tag.
fn finish(mut packet: Vec<u8>, flags: u32, tag: u32) -> Vec<Vec<u8>> {
    let mut frames = if flags & LGSEN != 0 {
        frame::segment_tcp(&packet, (flags >> 16 & 0x7ff) as usize)
    } else {
        if flags & OFFLOADS != 0 {
            frame::fill_checksums(&mut packet);
        }
        vec![packet]
    };
    frames.retain(|f| f.len() >= frame::HEADER);
    for frame in &mut frames {
        if tag & 1 << 17 != 0 {
            let vlan = (tag as u16).to_le_bytes();
            frame.splice(12..12, [0x81, 0x00, vlan[0], vlan[1]]);
        }
        let len = frame.len().max(frame::MIN);
        frame.resize(len, 0);
    }
    frames
}

impl Rtl8139 {
    /// Builds the device in its power-on state.
    pub fn new(setup: Config, wires: Wires) -> Self {
        let state = State::power_on(&setup, wires.clock.now(), wires.cable.carrier());
        Self { setup, wires, state }
    }

    fn send(&mut self, dma: &Dma, frame: Vec<u8>) {
        // Loopback at the chip.
        if self.state.tcr >> 17 & 3 == 3 {
            self.state.receive(dma, frame);
        } else {
            self.wires.cable.send(frame);
        }
    }

    fn write_reg(&mut self, dma: &Dma, reg: Reg, v: u32, now: VmTime) {
        let s = &mut self.state;
        match reg {
            Reg::Rbstart => {
                s.receive_start = v;
                s.write_at = 0;
            }
            Reg::Cr if v as u8 & RST != 0 => s.soft_reset(&self.setup, now),
            Reg::Cr => s.command = s.command & BUFE | v as u8 & (TE | RE),
            Reg::Capr => {
                s.read_at = v as u16;
                if s.room() == s.ring_len() {
                    s.command |= BUFE;
                }
            }
            Reg::Imr => s.mask = v as u16 & isr::ALL,
            Reg::Isr => s.status &= !(v as u16),
            Reg::Tcr => s.tcr = v & !0x7cc0_0001 | VERSION,
            Reg::Rcr => s.rcr = v,
            Reg::Tctr => (s.timer_start, s.timer_seen) = (now, now),
            Reg::Mpc => s.missed = 0,
            Reg::Cr9346 => {
                s.cr9346 = v as u8 & 0xce;
                let pins = v as u8 & 0xc0 == 0x80;
                s.eeprom.pins(pins && v & 8 != 0, v & 4 != 0, v & 2 != 0);
            }
            Reg::Config1 => s.config[1] = v as u8 & 0xf3 | 0x0c,
            Reg::Config3 => s.config[2] = v as u8 & 0x3e | 1,
            Reg::Config4 => s.config[3] = v as u8 & 0xf5,
            Reg::Config5 => s.config[4] = v as u8 & 0x7f,
            Reg::TimerInt => (s.timer_interrupt, s.timer_seen) = (v, now),
            Reg::Mulint => s.mulint = v as u16,
            // Reset and restart of negotiation are over at once.
            Reg::Bmcr => s.bmcr = v as u16 & 0x3d80,
            Reg::Anar => s.anar = v as u16,
            Reg::TpPoll => {
                // Bit 0 asks for an interrupt, the others for the rings.
                if v & 1 != 0 {
                    s.raise(isr::SWINT);
                }
                if v & 0xc0 != 0 {
                    for frame in self.state.send_ring(dma) {
                        self.send(dma, frame);
                    }
                }
            }
            Reg::Cpcr => {
                s.cpcr = v as u16 & 0x02ff;
                if s.cpcr & CP_TX == 0 {
                    s.transmit_next = 0;
                }
            }
            Reg::Mitigate => s.mitigate = v as u16,
            Reg::RdsarLow => {
                s.receive_ring = s.receive_ring & !0xffff_ffff | u64::from(v & !0xff);
                s.receive_next = 0;
            }
            Reg::RdsarHigh => {
                s.receive_ring = s.receive_ring & 0xffff_ffff | u64::from(v) << 32;
            }
            Reg::Etthr => s.etthr = v as u8,
            Reg::Cbr | Reg::Config0 | Reg::Msr | Reg::Rerid | Reg::Tsad | Reg::Bmsr => {}
            Reg::Anlpar | Reg::Aner => {}
        }
    }

    /// The arrays: address and group hash by byte, transmit status and address by 32 bits.
    fn read_array(&self, offset: u64, width: u8) -> Option<BusResult<u64>> {
        let s = &self.state;
        let words = |a: &[u32; 4], at: u64| {
            let i = (at / 4) as usize;
            match width {
                8 => Err(BusError::Width),
                _ if at % 4 + u64::from(width) > 4 => Err(BusError::Width),
                _ => Ok(u64::from(a[i]) >> (8 * (at % 4))),
            }
        };
        let bytes = || {
            let byte = |at: u64| match at {
                0..6 => s.mac[at as usize],
                8..16 => s.groups[at as usize - 8],
                _ => 0,
            };
            (0..u64::from(width)).fold(0, |v, i| v | u64::from(byte(offset + i)) << (8 * i))
        };
        Some(match offset {
            0..0x10 => Ok(bytes()),
            0x10..0x20 => words(&s.transmit_status, offset - 0x10),
            0x20..0x30 => words(&s.transmit_address, offset - 0x20),
            _ => return None,
        })
    }

    fn write_array(
        &mut self,
        dma: &Dma,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Option<BusResult<()>> {
        let s = &mut self.state;
        match (offset, width) {
            (0..0x10, _) => {
                for i in 0..u64::from(width) {
                    let byte = (value >> (8 * i)) as u8;
                    match offset + i {
                        at @ 0..6 => s.mac[at as usize] = byte,
                        at @ 8..16 => s.groups[at as usize - 8] = byte,
                        _ => {}
                    }
                }
            }
            (0x10..0x20, 4) if offset.is_multiple_of(4) => {
                let n = (offset - 0x10) as usize / 4;
                s.transmit_status[n] = value as u32 & 0x003f_3fff;
                // Clearing the bit gives the buffer to the card.
                if value as u32 & TSD_OWN == 0 && s.command & TE != 0 && s.cpcr & CP_TX == 0 {
                    if let Some(frame) = s.send_buffer(dma, n) {
                        self.send(dma, frame);
                    }
                }
            }
            (0x20..0x30, 4) if offset.is_multiple_of(4) => {
                s.transmit_address[(offset - 0x20) as usize / 4] = value as u32;
                if offset < 0x28 {
                    s.transmit_next = 0;
                }
            }
            (0x10..0x30, 8) => return Some(Err(BusError::Width)),
            (0x10..0x30, _) => return Some(Err(BusError::NoRegister)),
            _ => return None,
        }
        Some(Ok(()))
    }

    /// Where a wide access to narrow registers begins inside one, it is split.
    fn decode(offset: u64, width: u8) -> BusResult<Reg> {
        match Reg::decode(offset, width) {
            Ok((reg, _)) => Ok(reg),
            Err(_) if width > 1 => Err(BusError::Width),
            Err(e) => Err(e),
        }
    }

    /// A byte of a wider register, which drivers read on its own.
    fn byte(&self, offset: u64, now: VmTime) -> BusResult<u64> {
        let inside =
            |r: &&reg_map::RegInfo| (r.offset..r.offset + u64::from(r.width)).contains(&offset);
        let info = Reg::TABLE.iter().find(inside).ok_or(BusError::NoRegister)?;
        let (reg, _) = Reg::decode(info.offset, info.width)?;
        Ok(u64::from(self.state.read(reg, now)) >> (8 * (offset - info.offset)))
    }
}

impl pci::Chip for Rtl8139 {
    type State = State;
    const NAME: &'static str = "rtl8139";
    const VERSION: u16 = 3;
    const HOST_IO: bool = true;

    fn reset(&mut self) {
        let carrier = self.wires.cable.carrier();
        self.state = State::power_on(&self.setup, self.wires.clock.now(), carrier);
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if !state.eeprom.is_whole() || state.packet.len() > LONGEST || state.turn > 3 {
            return Err(RestoreError::Invalid("EEPROM or packet of another size"));
        }
        self.state = state;
        Ok(())
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        self.wires.timer.set(self.state.timer_due());
        self.state.status & self.state.mask != 0
    }

    fn wake(&mut self, _: &mut pci::Slot<'_>, _: VmTime) {
        self.state.catch_up(self.wires.clock.now());
    }

    fn ready(&self) -> bool {
        self.wires.cable.has_input() || self.wires.cable.carrier() != self.state.carrier
    }

    fn deliver(&mut self, slot: &mut pci::Slot<'_>, _: VmTime) {
        let carrier = self.wires.cable.carrier();
        if carrier != self.state.carrier {
            self.state.carrier = carrier;
            self.state.raise(isr::LINK);
        }
        while let Some(frame) = self.wires.cable.receive() {
            if frame.len() <= frame::MAX_TAGGED {
                self.state.receive(slot.function.dma(), frame);
            }
        }
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let now = self.wires.clock.now();
        self.state.catch_up(now);
        if let Some(result) = self.read_array(offset, width) {
            return result;
        }
        match Self::decode(offset, width) {
            Ok(reg) => Ok(self.state.read(reg, now).into()),
            Err(_) if width == 1 => self.byte(offset, now),
            Err(e) => Err(e),
        }
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let now = self.wires.clock.now();
        self.state.catch_up(now);
        let dma = slot.function.dma();
        if let Some(result) = self.write_array(dma, offset, width, value) {
            return result;
        }
        let reg = Self::decode(offset, width)?;
        self.write_reg(dma, reg, value as u32, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
