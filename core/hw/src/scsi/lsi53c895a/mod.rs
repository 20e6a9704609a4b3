//! LSI Logic 53C895A and 53C810 SCSI host adapters (`lsi53c895a`, `lsi53c810`): the SCRIPTS processor.
//!
//! Reference: LSI53C895A PCI to Ultra2 SCSI Controller Technical Manual 2.2, chapters 4 (registers) and 5 (SCRIPTS).
//!
//! Targets never disconnect: while a unit waits for the host, the bus stays busy without a request, and instructions
//! that wait for a phase wait. Not modelled: the target role, low-level arbitration, the memory of a serial EEPROM,
//! synchronous timing (negotiations are answered by a message reject).

mod regs;
mod script;
#[cfg(test)]
mod tests;
mod wire;

use super::{Bus, BusState, UnitConfig};
use crate::pci::{self, BarKind};
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, Clock, DeviceId, RestoreError, Timer, VmTime};
use regs::{Reg, bits};
use serde::{Deserialize, Serialize};
use wire::Wire;

/// Bank of the registers: BAR 0 (ports) and BAR 1 (memory).
pub const REGISTERS: u32 = 0;
/// Bank of the RAM for scripts: BAR 2.
pub const SCRIPT_RAM: u32 = 1;

const RAM_SIZE: u64 = 0x2000;
/// Instructions in a row before the processor makes a pause.
const BURST: u32 = 4000;
/// How long that is, in nanoseconds.
const PAUSE_NS: u64 = 50_000;
/// Number of the pause's timer; the units have number 0.
const PAUSE_TIMER: u32 = 1;

/// Which chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// 53C895A: Ultra2, 8 KiB of RAM.
    C895a,
    /// 53C810: fast SCSI, no RAM.
    C810,
}

impl Model {
    const fn identity(self) -> pci::Identity {
        pci::Identity {
            vendor: 0x1000,
            device: match self {
                Self::C895a => 0x0012,
                Self::C810 => 0x0001,
            },
            revision: 0,
            class: 0x01_00_00,
            subsystem: match self {
                Self::C895a => (0x1af4, 0x1000),
                Self::C810 => (0, 0),
            },
            pin: 1,
        }
    }
}

/// Services the machine wires up.
pub struct Wires {
    /// Virtual time.
    pub clock: Clock,
    /// The end of a pause.
    pub timer: Timer,
}

/// What the processor does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// Nothing.
    #[default]
    Stopped,
    /// It runs, after a pause.
    Running,
    /// It waits for a phase.
    Phase,
    /// It waits to be selected, or for a signal of the driver.
    Reselect,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    regs: Vec<u8>,
    ram: Vec<u8>,
    carry: bool,
    run: Run,
    wire: Wire,
    /// What is left of a block move that waits for the unit: address and count.
    held: Option<(u64, u32)>,
    /// When a pause ends.
    goes_on: Option<VmTime>,
    bus: Option<BusState>,
}

/// The adapter.
pub struct Lsi {
    model: Model,
    wires: Wires,
    bus: Bus,
    state: State,
}

/// Puts an adapter with `units` at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    model: Model,
    units: Vec<UnitConfig>,
) -> DeviceId {
    let id = board.reserve("lsi53c895a");
    let pci = function(board, bus, devfn, id, model);
    let wires = Wires { clock: board.clock(), timer: board.timer(id, PAUSE_TIMER) };
    let units = Bus::new(board, id, 0, units);
    board.attach(id, Box::new(pci::Card::new(pci, Lsi::new(model, wires, units))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId, model: Model) -> pci::Function {
    let mut builder = pci::Builder::new(board, bus, id, model.identity()).io_bar(0, REGISTERS, 256);
    let memory = board.regions().device("lsi-mmio", 0x400, id, REGISTERS);
    builder = builder.bar(1, BarKind::Memory, &memory);
    if model == Model::C895a {
        let ram = board.regions().device("lsi-ram", RAM_SIZE, id, SCRIPT_RAM);
        builder = builder.bar(2, BarKind::Memory, &ram);
    }
    // Latency timer.
    builder.register(0x0d, 1, 0xff, 0xff).build(devfn)
}

impl State {
    fn power_on(model: Model) -> Self {
        let ram = if model == Model::C895a { RAM_SIZE as usize } else { 0 };
        Self {
            regs: regs::power_on(),
            ram: vec![0; ram],
            carry: false,
            run: Run::Stopped,
            wire: Wire::default(),
            held: None,
            goes_on: None,
            bus: None,
        }
    }

    fn u8(&self, reg: Reg) -> u8 {
        self.regs[reg.at()]
    }

    fn set(&mut self, reg: Reg, value: u8) {
        self.regs[reg.at()] = value;
    }

    fn u32(&self, reg: Reg) -> u32 {
        let at = reg.at();
        u32::from_le_bytes([self.regs[at], self.regs[at + 1], self.regs[at + 2], self.regs[at + 3]])
    }

    fn set_u32(&mut self, reg: Reg, value: u32) {
        self.regs[reg.at()..reg.at() + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// The interrupt pin, and the two summary bits.
    fn interrupt(&mut self) -> bool {
        let dma = self.u8(Reg::Dstat);
        let scsi = [self.u8(Reg::Sist0), self.u8(Reg::Sist1)];
        let mut istat = self.u8(Reg::Istat0) & !(bits::ISTAT_DIP | bits::ISTAT_SIP);
        if dma != 0 {
            istat |= bits::ISTAT_DIP;
        }
        if scsi != [0; 2] {
            istat |= bits::ISTAT_SIP;
        }
        self.set(Reg::Istat0, istat);
        dma & self.u8(Reg::Dien) != 0
            || scsi[0] & self.u8(Reg::Sien0) != 0
            || scsi[1] & self.u8(Reg::Sien1) != 0
            || istat & bits::ISTAT_INTF != 0
    }
}

impl Lsi {
    /// An adapter in its power-on state.
    pub fn new(model: Model, wires: Wires, bus: Bus) -> Self {
        Self { model, wires, bus, state: State::power_on(model) }
    }

    /// What the chip's own reset does: the units see nothing of it, but their commands are gone.
    fn soft_reset(&mut self) {
        self.bus.abort_units(|_| true);
        self.wires.timer.disarm();
        let ram = std::mem::take(&mut self.state.ram);
        self.state = State { ram, ..State::power_on(self.model) };
    }

    /// The bus's reset line.
    fn reset_bus(&mut self) {
        self.bus.reset();
        self.state.wire = Wire::default();
        self.raise_scsi(bits::SIST0_RST, 0);
    }

    fn raise_dma(&mut self, bit: u8) {
        let s = &mut self.state;
        s.regs[Reg::Dstat.at()] |= bit;
        s.run = Run::Stopped;
    }

    /// Raises causes of the two interrupt registers; those that are not masked stop the processor, and so do the fatal
    /// ones.
    fn raise_scsi(&mut self, low: u8, high: u8) {
        let s = &mut self.state;
        s.regs[Reg::Sist0.at()] |= low;
        s.regs[Reg::Sist1.at()] |= high;
        let stops = [
            s.u8(Reg::Sien0) | !(bits::SIST0_CMP | bits::SIST0_SEL | bits::SIST0_RSL),
            s.u8(Reg::Sien1) | !(bits::SIST1_GEN | bits::SIST1_HTH),
        ];
        if low & stops[0] != 0 || high & stops[1] != 0 {
            s.run = Run::Stopped;
        }
    }

    /// Reads memory as the chip masters it: its own RAM is answered inside.
    fn fetch(&self, slot: &pci::Slot<'_>, addr: u64, out: &mut [u8]) -> bool {
        if let Some(at) = self.own_ram(slot, addr, out.len()) {
            out.copy_from_slice(&self.state.ram[at..at + out.len()]);
            return true;
        }
        slot.function.dma().read(addr, out).is_ok()
    }

    fn fetch_u32(&self, slot: &pci::Slot<'_>, addr: u64) -> u32 {
        let mut b = [0; 4];
        self.fetch(slot, addr, &mut b);
        u32::from_le_bytes(b)
    }

    fn store(&mut self, slot: &pci::Slot<'_>, addr: u64, bytes: &[u8]) -> bool {
        if let Some(at) = self.own_ram(slot, addr, bytes.len()) {
            self.state.ram[at..at + bytes.len()].copy_from_slice(bytes);
            return true;
        }
        slot.function.dma().write(addr, bytes).is_ok()
    }

    fn own_ram(&self, slot: &pci::Slot<'_>, addr: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(addr.checked_sub(slot.function.bar_base(2)?)?).ok()?;
        (at.checked_add(len)? <= self.state.ram.len()).then_some(at)
    }

    fn read_reg(&mut self, at: usize) -> u8 {
        let s = &mut self.state;
        let value = s.regs[at];
        match Reg::of(at) {
            Some(Reg::Dstat) => {
                s.regs[at] = 0;
                // The FIFO is always empty.
                value | bits::DSTAT_DFE
            }
            Some(Reg::Sist0 | Reg::Sist1) => std::mem::take(&mut s.regs[at]),
            Some(Reg::Ctest2) => {
                let signal = s.u8(Reg::Istat0) & bits::ISTAT_SIGP;
                s.regs[Reg::Istat0.at()] &= !bits::ISTAT_SIGP;
                // The driver's signal; data in; burst transfers by DMA.
                value & !0x40 | signal << 1
            }
            Some(Reg::Sbcl) => s.wire.lines(),
            Some(Reg::Sstat1) => value & !7 | s.wire.latched(),
            _ => value,
        }
    }

    fn write_reg(&mut self, at: usize, value: u8, slot: &mut pci::Slot<'_>) {
        let s = &mut self.state;
        let old = s.regs[at];
        match Reg::of(at) {
            Some(
                Reg::Dstat
                | Reg::Sstat0
                | Reg::Sstat1
                | Reg::Sstat2
                | Reg::Sbcl
                | Reg::Ssid
                | Reg::Ctest1
                | Reg::Sist0
                | Reg::Sist1
                | Reg::Stest4
                | Reg::Istat1,
            ) => {}
            Some(Reg::Scntl1) => {
                // Connected: only the chip changes it.
                s.regs[at] = value & !0x10 | old & 0x10;
                let line = value & bits::SCNTL1_RST != 0;
                s.set(Reg::Sstat0, if line { bits::SSTAT0_RST } else { 0 });
                if line && old & bits::SCNTL1_RST == 0 {
                    self.reset_bus();
                }
            }
            Some(Reg::Istat0) => self.write_istat(value, slot),
            Some(Reg::Stime1) => {
                s.regs[at] = value;
                if value & 15 != 0 {
                    // The general purpose timer: it is over at once.
                    self.raise_scsi(0, bits::SIST1_GEN);
                }
            }
            Some(Reg::Dcntl) => {
                s.regs[at] = value & !bits::DCNTL_STD;
                if value & bits::DCNTL_STD != 0 {
                    self.start(slot);
                }
            }
            // Shadowed: whose last byte starts the processor.
            _ if at == Reg::Dsp.at() + 3 => {
                s.regs[at] = value;
                if s.u8(Reg::Dmode) & bits::DMODE_MAN == 0 {
                    self.start(slot);
                }
            }
            Some(Reg::Macntl) => s.regs[at] = value & 0x0f | 0xd0,
            Some(Reg::Ctest3) => s.regs[at] = value & 0x0b,
            _ => s.regs[at] = value,
        }
    }

    fn write_istat(&mut self, value: u8, slot: &mut pci::Slot<'_>) {
        const OURS: u8 = bits::ISTAT_ABRT | bits::ISTAT_SRST | bits::ISTAT_SIGP | 0x10;
        let s = &mut self.state;
        let old = s.u8(Reg::Istat0);
        // What interrupts on the fly clears by a one.
        let flying = old & bits::ISTAT_INTF & !value;
        s.set(Reg::Istat0, old & !OURS & !bits::ISTAT_INTF | value & OURS | flying);
        if value & bits::ISTAT_SRST != 0 {
            self.soft_reset();
            return;
        }
        if value & bits::ISTAT_ABRT != 0 {
            self.raise_dma(bits::DSTAT_ABRT);
        }
        if value & bits::ISTAT_SIGP != 0 && self.state.run == Run::Reselect {
            self.signalled();
            self.execute(slot);
        }
    }

    fn start(&mut self, slot: &mut pci::Slot<'_>) {
        self.state.run = Run::Running;
        self.state.held = None;
        self.execute(slot);
    }
}

impl pci::Chip for Lsi {
    type State = State;
    const NAME: &'static str = "lsi53c895a";
    const HOST_IO: bool = true;

    fn reset(&mut self) {
        self.bus.reset();
        self.state = State::power_on(self.model);
    }

    fn save(&self) -> State {
        State { bus: Some(self.bus.save()), ..self.state.clone() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let fits = state.regs.len() == regs::COUNT && state.ram.len() == self.state.ram.len();
        let (true, true, Some(bus)) = (fits, state.wire.is_sound(), state.bus.clone()) else {
            return Err(RestoreError::Invalid("another SCSI adapter"));
        };
        self.bus.restore(bus)?;
        self.state = State { bus: None, ..state };
        Ok(())
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        self.wires.timer.set(self.state.goes_on);
        self.state.interrupt()
    }

    fn wake(&mut self, slot: &mut pci::Slot<'_>, now: VmTime) {
        if self.state.goes_on.take_if(|t| *t <= now).is_some() && self.state.run == Run::Running {
            self.execute(slot);
        }
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let mut value = 0;
        for i in 0..usize::from(width) {
            let at = (offset as usize).wrapping_add(i);
            let byte = match bank {
                REGISTERS if offset < 0x400 => self.read_reg(at & 0xff),
                SCRIPT_RAM if offset < RAM_SIZE => self.state.ram.get(at).copied().unwrap_or(0),
                _ => return Err(BusError::NoRegister),
            };
            value |= u64::from(byte) << (8 * i);
        }
        Ok(value)
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        for i in 0..usize::from(width) {
            let (at, value) = ((offset as usize).wrapping_add(i), (value >> (8 * i)) as u8);
            match bank {
                REGISTERS if offset < 0x400 => self.write_reg(at & 0xff, value, slot),
                SCRIPT_RAM if offset < RAM_SIZE => {
                    if let Some(b) = self.state.ram.get_mut(at) {
                        *b = value;
                    }
                }
                _ => return Err(BusError::NoRegister),
            }
        }
        Ok(())
    }

    fn due(&self) -> Option<VmTime> {
        self.bus.due()
    }

    fn ready(&self) -> bool {
        self.bus.ready()
    }

    fn deliver(&mut self, slot: &mut pci::Slot<'_>, now: VmTime) {
        while let Some((id, step)) = self.bus.take(now) {
            self.state.wire.arrived(id, Some(step));
        }
        if self.state.run == Run::Phase && self.state.wire.phase().is_some() {
            self.state.run = Run::Running;
            self.execute(slot);
        }
    }
}
