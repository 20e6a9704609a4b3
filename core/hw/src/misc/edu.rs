//! A PCI device for learning to write drivers (`edu`).
//!
//! Reference: QEMU's specification of its educational device: a liveness register, a factorial
//! that takes a moment, interrupts that software raises, and DMA to a 4 KiB buffer inside.

use crate::pci::{self, Chip, Slot};
use orrery_system::bus::{BusError, BusResult};
use orrery_system::reg_map::Access;
use orrery_system::{Board, Clock, DeviceId, Dma, RestoreError, Timer, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Registers in BAR 0. Those from 80h on are 64 bits wide.
    pub enum Reg {
        /// Identification: version 1.0, `edu`.
        0x00 Id: 4 Ro,
        /// Reads the complement of what was written.
        0x04 Live: 4 Rw,
        /// Written, a number; once computed, its factorial.
        0x08 Factorial: 4 Rw,
        /// Bit 0: computing. Bit 7: interrupt when done.
        0x20 Status: 4 Rw,
        /// Interrupts that are raised.
        0x24 InterruptStatus: 4 Ro,
        /// Raises interrupts.
        0x60 InterruptRaise: 4 Wo,
        /// Ends interrupts.
        0x64 InterruptAcknowledge: 4 Wo,
        /// DMA source.
        0x80 DmaSource: 8 Rw,
        /// DMA destination.
        0x88 DmaDestination: 8 Rw,
        /// DMA length in bytes.
        0x90 DmaCount: 8 Rw,
        /// Bit 0: start. Bit 1: out of the device. Bit 2: interrupt when done.
        0x98 DmaCommand: 8 Rw,
    }
}

/// Bank of the registers.
pub const REGISTERS: u32 = 0;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x1234,
    device: 0x11e8,
    revision: 0x10,
    class: 0x00_ff_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

const ID: u32 = 0x0100_00ed;
const COMPUTING: u32 = 0x01;
const INTERRUPT: u32 = 0x80;
const FACTORIAL_DONE: u32 = 0x01;
const DMA_DONE: u32 = 0x100;
const DMA_START: u64 = 1;
const DMA_OUT: u64 = 2;
const DMA_INTERRUPT: u64 = 4;
/// Where the buffer lies, as the device counts.
const BUFFER: u64 = 0x4_0000;
const BUFFER_LEN: usize = 4096;
/// How far it reaches into memory: 28 address bits.
const REACH: u64 = (1 << 28) - 1;
const FACTORIAL_NS: u64 = 1_000_000;
const DMA_NS: u64 = 100_000_000;

/// Number of the timer of the factorial.
pub const TIMER_FACTORIAL: u32 = 0;
/// Number of the timer of the DMA.
pub const TIMER_DMA: u32 = 1;

/// Pins and services the machine wires up.
pub struct Wires {
    /// Virtual time.
    pub clock: Clock,
    /// Wake-ups, in the order of [`TIMER_FACTORIAL`], [`TIMER_DMA`].
    pub timers: [Timer; 2],
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    live: u32,
    factorial: u32,
    status: u32,
    interrupts: u32,
    dma: [u64; 4],
    factorial_at: Option<VmTime>,
    dma_at: Option<VmTime>,
    buffer: Vec<u8>,
}

/// The device.
pub struct Edu {
    wires: Wires,
    state: State,
}

/// Puts the device at `devfn`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8) -> DeviceId {
    let id = board.reserve("edu");
    let pci = function(board, bus, devfn, id);
    let timers = [TIMER_FACTORIAL, TIMER_DMA].map(|i| board.timer(id, i));
    let clock = board.clock();
    board.attach(id, Box::new(pci::Card::new(pci, Edu::new(Wires { clock, timers }))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .memory_bar(0, REGISTERS, 1 << 20)
        .msi(1)
        .build(devfn)
}

/// The factorial of `n`, modulo 2^32: zero from 34 on, which has 32 factors of two.
fn factorial(n: u32) -> u32 {
    if n >= 34 { 0 } else { (1..=n).fold(1, u32::wrapping_mul) }
}

impl State {
    fn power_on() -> Self {
        Self {
            live: 0,
            factorial: 0,
            status: 0,
            interrupts: 0,
            dma: [0; 4],
            factorial_at: None,
            dma_at: None,
            buffer: vec![0; BUFFER_LEN],
        }
    }

    /// The part of the buffer at `at`, if all of it is there.
    fn range(at: u64, len: u64) -> Option<std::ops::Range<usize>> {
        let from = at.checked_sub(BUFFER)?;
        let to = from.checked_add(len)?;
        (to <= BUFFER_LEN as u64).then_some(from as usize..to as usize)
    }

    fn read(&self, reg: Reg) -> u64 {
        match reg {
            Reg::Id => ID.into(),
            Reg::Live => (!self.live).into(),
            Reg::Factorial => self.factorial.into(),
            Reg::Status => self.status.into(),
            Reg::InterruptStatus => self.interrupts.into(),
            Reg::InterruptRaise | Reg::InterruptAcknowledge => 0,
            Reg::DmaSource => self.dma[0],
            Reg::DmaDestination => self.dma[1],
            Reg::DmaCount => self.dma[2],
            Reg::DmaCommand => self.dma[3],
        }
    }

    fn write(&mut self, reg: Reg, v: u64, now: VmTime) {
        match reg {
            Reg::Live => self.live = v as u32,
            Reg::Factorial if self.status & COMPUTING == 0 => {
                self.factorial = v as u32;
                self.status |= COMPUTING;
                self.factorial_at = Some(now.after(FACTORIAL_NS));
            }
            Reg::Status => self.status = self.status & !INTERRUPT | v as u32 & INTERRUPT,
            Reg::InterruptRaise => self.interrupts |= v as u32,
            Reg::InterruptAcknowledge => self.interrupts &= !(v as u32),
            Reg::DmaSource | Reg::DmaDestination | Reg::DmaCount | Reg::DmaCommand
                if self.dma[3] & DMA_START == 0 =>
            {
                self.dma[(reg.offset() as usize - 0x80) / 8] = v;
                if reg == Reg::DmaCommand && v & DMA_START != 0 {
                    self.dma_at = Some(now.after(DMA_NS));
                }
            }
            _ => {}
        }
    }
}

impl Edu {
    /// The chip in its power-on state.
    pub fn new(wires: Wires) -> Self {
        Self { wires, state: State::power_on() }
    }

    /// Moves the data. A transfer out of the buffer's bounds or of memory moves nothing.
    fn transfer(&mut self, dma: &Dma) {
        let [source, destination, count, command] = self.state.dma;
        if command & DMA_OUT != 0 {
            if let Some(range) = State::range(source, count) {
                _ = dma.write(destination & REACH, &self.state.buffer[range]);
            }
        } else if let Some(range) = State::range(destination, count) {
            let mut data = vec![0; range.len()];
            if dma.read(source & REACH, &mut data).is_ok() {
                self.state.buffer[range].copy_from_slice(&data);
            }
        }
        self.state.dma[3] &= !DMA_START;
        if command & DMA_INTERRUPT != 0 {
            self.state.interrupts |= DMA_DONE;
        }
    }

    /// Finishes what has been due since.
    fn catch_up(&mut self, slot: &Slot<'_>) -> VmTime {
        let now = self.wires.clock.now();
        if self.state.factorial_at.take_if(|t| *t <= now).is_some() {
            let s = &mut self.state;
            s.factorial = factorial(s.factorial);
            s.status &= !COMPUTING;
            if s.status & INTERRUPT != 0 {
                s.interrupts |= FACTORIAL_DONE;
            }
        }
        if self.state.dma_at.take_if(|t| *t <= now).is_some() {
            self.transfer(slot.function.dma());
        }
        now
    }
}

impl Chip for Edu {
    type State = State;
    const NAME: &'static str = "edu";
    const VERSION: u16 = 2;

    fn reset(&mut self) {
        self.state = State::power_on();
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.buffer.len() != BUFFER_LEN {
            return Err(RestoreError::Invalid("buffer is not 4 KiB"));
        }
        self.state = state;
        Ok(())
    }

    fn drive(&mut self, _: &mut Slot<'_>) -> bool {
        let [factorial, dma] = &self.wires.timers;
        factorial.set(self.state.factorial_at);
        dma.set(self.state.dma_at);
        self.state.interrupts != 0
    }

    fn read(&mut self, slot: &mut Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let (reg, access) = decode(offset, width)?;
        self.catch_up(slot);
        let value = if access == Access::Wo { 0 } else { self.state.read(reg) };
        Ok(value & orrery_system::bus::open_bus(width))
    }

    fn write(
        &mut self,
        slot: &mut Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = decode(offset, width)?;
        let now = self.catch_up(slot);
        self.state.write(reg, value, now);
        Ok(())
    }

    fn wake(&mut self, slot: &mut Slot<'_>, _: VmTime) {
        self.catch_up(slot);
    }
}

/// The DMA registers may also be accessed as 32 bits, which are then all of them.
fn decode(offset: u64, width: u8) -> BusResult<(Reg, Access)> {
    let width = if width == 4 && offset >= 0x80 { 8 } else { width };
    Reg::decode(offset, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::Card;
    use orrery_system::{Device as _, IrqInput, Registers as _};

    struct Bench {
        dev: Card<Edu>,
        board: Board,
        bus: pci::Bus,
        clock: Clock,
    }

    impl Bench {
        fn new() -> Self {
            let mut board = Board::with_ram(0x1_0000);
            let bus = pci::Bus::simple(&board);
            let pci = function(&board, &bus, 8, DeviceId(0));
            let clock = board.clock();
            let timers = [0, 1].map(|i| board.timer(DeviceId(0), i));
            let mut dev = Card::new(pci, Edu::new(Wires { clock: clock.clone(), timers }));
            dev.write(pci::CONFIG_BANK, 4, 2, 6).unwrap();
            Self { dev, board, bus, clock }
        }

        fn read(&mut self, reg: Reg) -> u64 {
            self.dev.read(REGISTERS, reg.offset(), if reg.offset() < 0x80 { 4 } else { 8 }).unwrap()
        }

        fn write(&mut self, reg: Reg, v: u64) {
            let width = if reg.offset() < 0x80 { 4 } else { 8 };
            self.dev.write(REGISTERS, reg.offset(), width, v).unwrap();
        }

        fn run(&mut self, ns: u64) {
            self.clock.advance_to(self.clock.now().after(ns));
            self.dev.wake(0, self.clock.now());
        }

        fn interrupts(&self) -> bool {
            self.bus.wires().iter().any(IrqInput::level)
        }
    }

    #[test]
    fn it_identifies_itself_and_is_alive() {
        let mut b = Bench::new();
        assert_eq!(b.read(Reg::Id), 0x0100_00ed);
        b.write(Reg::Live, 0x1234_5678);
        assert_eq!(b.read(Reg::Live), 0xedcb_a987);
    }

    #[test]
    fn a_factorial_takes_a_moment_and_interrupts() {
        let mut b = Bench::new();
        b.write(Reg::Status, 0x80);
        b.write(Reg::Factorial, 10);
        assert_eq!(b.read(Reg::Status), 0x81);
        b.run(FACTORIAL_NS);
        assert_eq!((b.read(Reg::Factorial), b.read(Reg::Status)), (3_628_800, 0x80));
        assert!(b.interrupts());
        assert_eq!(b.read(Reg::InterruptStatus), 1);
        b.write(Reg::InterruptAcknowledge, 1);
        assert!(!b.interrupts());
    }

    #[test]
    fn data_goes_into_the_buffer_and_back() {
        let mut b = Bench::new();
        b.board.write(0x1000, 4, 0x1122_3344);
        for (reg, v) in
            [(Reg::DmaSource, 0x1000), (Reg::DmaDestination, 0x4_0010), (Reg::DmaCount, 4)]
        {
            b.write(reg, v);
        }
        b.write(Reg::DmaCommand, 1);
        b.write(Reg::DmaCount, 99);
        assert_eq!(b.read(Reg::DmaCount), 4, "busy");
        b.run(DMA_NS);
        assert_eq!(b.read(Reg::DmaCommand), 0);
        for (reg, v) in [(Reg::DmaSource, 0x4_0010), (Reg::DmaDestination, 0x2000)] {
            b.write(reg, v);
        }
        b.write(Reg::DmaCommand, 7);
        b.run(DMA_NS);
        assert_eq!(b.board.read(0x2000, 4), 0x1122_3344);
        assert_eq!(b.read(Reg::InterruptStatus), 0x100);
    }

    #[test]
    fn a_transfer_past_the_buffer_moves_nothing() {
        let mut b = Bench::new();
        b.board.write(0x2000, 4, 7);
        b.write(Reg::DmaSource, 0x4_0ffe);
        b.write(Reg::DmaDestination, 0x2000);
        b.write(Reg::DmaCount, 4);
        b.write(Reg::DmaCommand, 3);
        b.run(DMA_NS);
        assert_eq!((b.board.read(0x2000, 4), b.read(Reg::DmaCommand)), (7, 2));
    }

    mod suite {
        use super::*;

        fn fresh() -> Card<Edu> {
            let mut board = Board::with_ram(0x1_0000);
            let bus = pci::Bus::simple(&board);
            let pci = function(&board, &bus, 8, DeviceId(0));
            let timers = [0, 1].map(|i| board.timer(DeviceId(0), i));
            Card::new(pci, Edu::new(Wires { clock: board.clock(), timers }))
        }

        orrery_system::conformance!(fresh(), [(REGISTERS, Reg::TABLE), (pci::CONFIG_BANK, &[])]);
    }
}
