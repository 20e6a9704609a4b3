//! Intel 6300ESB watchdog timer (`i6300esb`).
//!
//! Reference: Intel 300641-004 (6300ESB I/O controller hub), chapter 16. Two stages: the first
//! may interrupt, the second resets the machine. Registers take a write after two magic ones.
//!
//! Not modelled: the SMI of the first stage, free-running mode beyond starting the first stage over.

use crate::pci;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{Board, Clock, DeviceId, RestoreError, Timer, VmTime, reg_map};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Registers in memory (16.5).
    pub enum Reg {
        /// First stage, 20 bits.
        0x0 Preload1: 4 Rw,
        /// Second stage.
        0x4 Preload2: 4 Rw,
        /// Interrupt status.
        0x8 Status: 4 Rw,
        /// Magic numbers, reload (bit 8), and whether the machine was reset (bit 9).
        0xc Reload: 2 Rw,
    }
}

/// Bank of the registers.
pub const REGISTERS: u32 = 0;

/// Configuration: interrupt type, clock, and whether the second stage resets.
const CONFIG: usize = 0x60;
const TYPE: u16 = 0x03;
const FAST: u16 = 0x04;
const NO_RESET: u16 = 0x20;
/// Lock: locked, enabled, free running.
const LOCK: usize = 0x68;
const LOCKED: u8 = 1;
const ENABLED: u8 = 2;
const FREE_RUNNING: u8 = 4;
/// Reload register.
const RELOAD: u16 = 0x100;
const TIMED_OUT: u16 = 0x200;
/// One tick of the PCI clock.
const TICK_NS: u64 = 30;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x25ab,
    revision: 0,
    class: 0x08_80_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Services the machine wires up.
pub struct Wires {
    /// The reset line.
    pub power: Power,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the end of a stage.
    pub timer: Timer,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    preload: [u32; 2],
    interrupt: bool,
    timed_out: bool,
    /// Magic writes so far.
    unlocked: u8,
    /// The stage that runs, and when it ends.
    stage: u8,
    ends_at: Option<VmTime>,
}

/// The device.
pub struct I6300Esb {
    wires: Wires,
    state: State,
}

/// Puts the watchdog at `devfn` of `bus`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8) -> DeviceId {
    let id = board.reserve("i6300esb");
    let pci = function(board, bus, devfn, id);
    let wires = Wires { power: board.power(), clock: board.clock(), timer: board.timer(id, 0) };
    board.attach(id, Box::new(pci::Card::new(pci, I6300Esb::new(wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .memory_bar(0, REGISTERS, 16)
        .register(CONFIG, 2, 0, TYPE as u32 | FAST as u32 | NO_RESET as u32)
        .register(LOCK, 1, 0, (LOCKED | ENABLED | FREE_RUNNING).into())
        .build(devfn)
}

const POWER_ON: State = State {
    preload: [0xf_ffff; 2],
    interrupt: false,
    timed_out: false,
    unlocked: 0,
    stage: 0,
    ends_at: None,
};

impl I6300Esb {
    /// Builds the device, stopped.
    pub fn new(wires: Wires) -> Self {
        Self { wires, state: POWER_ON }
    }

    /// Starts a stage.
    fn start(&mut self, stage: u8, config: &pci::ConfigState) {
        let shift = if config.u16(CONFIG) & FAST != 0 { 5 } else { 15 };
        let ticks = u64::from(self.state.preload[usize::from(stage & 1)]) << shift;
        self.state.stage = stage;
        self.state.ends_at = Some(self.wires.clock.now().after(ticks * TICK_NS));
    }

    fn end_of_stage(&mut self, config: &pci::ConfigState) {
        if self.state.stage == 0 {
            self.state.interrupt |= config.u16(CONFIG) & TYPE == 0;
            self.start(1, config);
        } else if config.u16(CONFIG) & NO_RESET == 0 {
            self.wires.power.request(PowerRequest::Watchdog);
            self.state = State { timed_out: true, ..POWER_ON };
        } else if config.u8(LOCK) & FREE_RUNNING != 0 {
            self.start(0, config);
        }
    }

    fn catch_up(&mut self, config: &pci::ConfigState) {
        let now = self.wires.clock.now();
        if self.state.ends_at.take_if(|t| *t <= now).is_some() {
            self.end_of_stage(config);
        }
    }
}

impl pci::Chip for I6300Esb {
    type State = State;
    const NAME: &'static str = "i6300esb";

    fn reset(&mut self) {
        // That it was the watchdog which reset the machine is what software wants to know.
        self.state = State { timed_out: self.state.timed_out, ..POWER_ON };
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.stage > 1 {
            return Err(RestoreError::Invalid("a stage that there is not"));
        }
        self.state = state;
        Ok(())
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        self.wires.timer.set(self.state.ends_at);
        self.state.interrupt
    }

    fn wake(&mut self, slot: &mut pci::Slot<'_>, _: VmTime) {
        self.catch_up(slot.config);
    }

    fn configured(&mut self, before: &pci::ConfigState, slot: &mut pci::Slot<'_>) {
        if before.u8(LOCK) & LOCKED != 0 {
            slot.config.set_u8(LOCK, before.u8(LOCK));
        }
        let (was, is) = (before.u8(LOCK) & ENABLED != 0, slot.config.u8(LOCK) & ENABLED != 0);
        match (was, is) {
            (false, true) => self.start(0, slot.config),
            (true, false) => self.state.ends_at = None,
            _ => {}
        }
    }

    fn read(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
    ) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = Reg::decode(offset, width)?;
        self.catch_up(slot.config);
        let s = &self.state;
        Ok(match reg {
            Reg::Preload1 => s.preload[0].into(),
            Reg::Preload2 => s.preload[1].into(),
            Reg::Status => s.interrupt.into(),
            Reg::Reload => {
                if s.timed_out {
                    TIMED_OUT.into()
                } else {
                    0
                }
            }
        })
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
        let (reg, _) = Reg::decode(offset, width)?;
        self.catch_up(slot.config);
        let open = std::mem::take(&mut self.state.unlocked);
        match (reg, value) {
            (Reg::Reload, 0x80) if open == 0 => self.state.unlocked = 1,
            (Reg::Reload, 0x86) if open == 1 => self.state.unlocked = 2,
            (Reg::Status, v) => self.state.interrupt &= v & 1 == 0,
            _ if open != 2 => {}
            (Reg::Reload, v) => {
                self.state.timed_out &= v as u16 & TIMED_OUT == 0;
                if v as u16 & RELOAD != 0 && slot.config.u8(LOCK) & ENABLED != 0 {
                    self.start(0, slot.config);
                }
            }
            (Reg::Preload1, v) => self.state.preload[0] = v as u32 & 0xf_ffff,
            (Reg::Preload2, v) => self.state.preload[1] = v as u32 & 0xf_ffff,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{CONFIG_BANK, Card};
    use orrery_system::bus::Registers;
    use orrery_system::{Device, IrqInput};

    struct Bench {
        dev: Card<I6300Esb>,
        bus: pci::Bus,
        power: Power,
        clock: Clock,
    }

    impl Bench {
        fn new() -> Self {
            let board = Board::with_ram(0x1000);
            let bus = pci::Bus::simple(&board);
            let pci = function(&board, &bus, 8, DeviceId(0));
            let (power, clock) = (board.power(), board.clock());
            let wires =
                Wires { power: power.clone(), clock: clock.clone(), timer: Timer::default() };
            Self { dev: Card::new(pci, I6300Esb::new(wires)), bus, power, clock }
        }

        fn unlocked(&mut self, at: u64, width: u8, v: u64) {
            for (at, width, v) in [(0xc, 2, 0x80), (0xc, 2, 0x86), (at, width, v)] {
                self.dev.write(REGISTERS, at, width, v).unwrap();
            }
        }

        fn run(&mut self, ms: u64) -> Option<PowerRequest> {
            self.clock.advance_to(self.clock.now().after(ms * 1_000_000));
            self.dev.wake(0, self.clock.now());
            self.power.take()
        }
    }

    #[test]
    fn two_stages_without_a_reload_reset_the_machine() {
        let mut b = Bench::new();
        b.dev.write(REGISTERS, 0, 4, 5).unwrap();
        assert_eq!(b.dev.read(REGISTERS, 0, 4), Ok(0xf_ffff), "locked");
        b.unlocked(0, 4, 100);
        b.unlocked(4, 4, 200);
        b.dev.write(CONFIG_BANK, LOCK as u64, 1, 2).unwrap();
        assert_eq!(b.run(90), None);
        b.unlocked(0xc, 2, 0x100);
        assert_eq!(b.run(90), None, "fed");
        assert!(!b.bus.wires().iter().any(IrqInput::level));
        assert_eq!(b.run(20), None);
        assert!(b.bus.wires().iter().any(IrqInput::level), "the first stage is over");
        assert_eq!(b.run(200), Some(PowerRequest::Watchdog));
        b.dev.reset();
        assert_eq!(b.dev.read(REGISTERS, 0xc, 2), Ok(0x200));
        b.unlocked(0xc, 2, 0x200);
        assert_eq!(b.dev.read(REGISTERS, 0xc, 2), Ok(0));
    }

    #[test]
    fn a_locked_watchdog_cannot_be_stopped() {
        let mut b = Bench::new();
        b.dev.write(CONFIG_BANK, LOCK as u64, 1, 3).unwrap();
        b.dev.write(CONFIG_BANK, LOCK as u64, 1, 0).unwrap();
        assert_eq!(b.dev.read(CONFIG_BANK, LOCK as u64, 1), Ok(3));
    }

    orrery_system::conformance!(
        battery Bench::new().dev,
        Reg::TABLE
    );
}
