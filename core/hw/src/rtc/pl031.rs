//! Arm PrimeCell PL031 real-time clock.
//!
//! Reference: Arm DDI 0224C. A 1 Hz up-counter with one match register. The
//! counter is modelled as an offset from virtual time, so it costs nothing while
//! the guest is not looking and needs a timer only while the match interrupt is
//! unmasked.
//!
//! Not modelled: the integration-test registers (0x80–0x8c), which no guest uses.

use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::reg_map::Access;
use orrery_system::time::NANOS_PER_SEC;
use orrery_system::{
    Board, Clock, IrqLine, RestoreError, State as _, StateBlob, Timer, VmTime, reg_map,
};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Registers, DDI 0224C table 3-1.
    pub enum Reg {
        /// Data: the counter.
        0x000 Dr:   4 Ro,
        /// Match: raises the interrupt when the counter equals it.
        0x004 Mr:   4 Rw,
        /// Load: sets the counter.
        0x008 Lr:   4 Rw,
        /// Control: reads as one once started; cannot be stopped.
        0x00c Cr:   4 Rw,
        /// Interrupt mask.
        0x010 Imsc: 4 Rw,
        /// Raw interrupt status.
        0x014 Ris:  4 Ro,
        /// Masked interrupt status.
        0x018 Mis:  4 Ro,
        /// Interrupt clear.
        0x01c Icr:  4 Wo,
    }
}

/// PrimeCell identification bytes, one per word from 0xfe0 (DDI 0224C 3.4).
const ID: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
const ID_BASE: u64 = 0xfe0;

fn id_index(offset: u64) -> Option<usize> {
    let rel = offset.checked_sub(ID_BASE)?;
    rel.is_multiple_of(4).then_some((rel / 4) as usize)
}

/// Settings fixed when the machine is built.
pub struct Config {
    /// Seconds since the epoch at power-on, chosen by the front end.
    pub epoch_secs: u32,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// `RTCINTR`.
    pub irq: IrqLine,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the next match.
    pub timer: Timer,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counter value at virtual time zero.
    base_secs: u32,
    match_secs: u32,
    load_secs: u32,
    unmasked: bool,
    pending: bool,
    /// Virtual time up to which matches have been looked for.
    seen: VmTime,
}

impl orrery_system::State for State {
    const KIND: &'static str = "pl031";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Pl031 {
    config: Config,
    wires: Wires,
    state: State,
}

/// Puts the device into memory.
pub fn build(board: &mut Board, at: u64, irq: IrqLine, epoch_secs: u32) {
    let id = board.reserve("pl031");
    board.memory().add(at, &board.regions().device("pl031", 0x1000, id, 0));
    let wires = Wires { irq, clock: board.clock(), timer: board.timer(id, 0) };
    board.attach(id, Box::new(Pl031::new(Config { epoch_secs }, wires)));
}

impl State {
    fn power_on(config: &Config, now: VmTime) -> Self {
        let base_secs = config.epoch_secs.wrapping_sub((now.0 / NANOS_PER_SEC) as u32);
        Self { base_secs, match_secs: 0, load_secs: 0, unmasked: false, pending: false, seen: now }
    }

    fn counter(&self, now: VmTime) -> u32 {
        self.base_secs.wrapping_add((now.0 / NANOS_PER_SEC) as u32)
    }

    /// The next instant at which the counter reaches the match value.
    fn next_match(&self, now: VmTime) -> VmTime {
        let ahead = match self.match_secs.wrapping_sub(self.counter(now)) {
            0 => 1 << 32, // just matched: a full wrap from here
            n => u64::from(n),
        };
        let this_second = VmTime(now.0 - now.0 % NANOS_PER_SEC);
        this_second.after(ahead.saturating_mul(NANOS_PER_SEC))
    }

    fn read(&self, reg: Reg, now: VmTime) -> u32 {
        match reg {
            Reg::Dr => self.counter(now),
            Reg::Mr => self.match_secs,
            Reg::Lr => self.load_secs,
            Reg::Cr => 1,
            Reg::Imsc => self.unmasked.into(),
            Reg::Ris => self.pending.into(),
            Reg::Mis => (self.pending && self.unmasked).into(),
            Reg::Icr => 0,
        }
    }

    fn write(&mut self, reg: Reg, value: u32, now: VmTime) {
        match reg {
            Reg::Mr => self.match_secs = value,
            Reg::Lr => {
                self.load_secs = value;
                self.base_secs = value.wrapping_sub((now.0 / NANOS_PER_SEC) as u32);
            }
            Reg::Imsc => self.unmasked = value & 1 != 0,
            Reg::Icr if value & 1 != 0 => self.pending = false,
            Reg::Icr | Reg::Cr | Reg::Dr | Reg::Ris | Reg::Mis => {}
        }
    }

    /// Latches a match that fell due in `(seen, now]`.
    fn catch_up(&mut self, now: VmTime) {
        if self.next_match(self.seen) <= now {
            self.pending = true;
        }
        self.seen = self.seen.max(now);
    }
}

impl Pl031 {
    /// Builds the device in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let state = State::power_on(&config, wires.clock.now());
        Self { config, wires, state }
    }

    /// Drives the outputs from the state: the one place that touches a pin.
    fn drive(&self) {
        let State { unmasked, pending, .. } = self.state;
        self.wires.irq.set(unmasked && pending);
        if unmasked && !pending {
            self.wires.timer.arm(self.state.next_match(self.wires.clock.now()));
        } else {
            self.wires.timer.disarm();
        }
    }
}

impl Device for Pl031 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::power_on(&self.config, self.wires.clock.now());
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.seen > self.wires.clock.now() {
            return Err(RestoreError::Invalid("last tick is in the future"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, now: VmTime) {
        self.state.catch_up(now);
        self.drive();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for Pl031 {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let now = self.wires.clock.now();
        self.state.catch_up(now);
        self.drive();
        if let Some(&byte) = id_index(offset).and_then(|i| ID.get(i)) {
            return Ok(byte.into());
        }
        let (reg, access) = Reg::decode(offset, width)?;
        Ok(if access == Access::Wo { 0 } else { self.state.read(reg, now).into() })
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, access) = Reg::decode(offset, width)?;
        let now = self.wires.clock.now();
        self.state.catch_up(now);
        if access != Access::Ro {
            self.state.write(reg, value as u32, now);
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dev: Pl031,
        irq: IrqLine,
        clock: Clock,
        timer: Timer,
    }

    impl Bench {
        fn new() -> Self {
            let (irq, clock, timer) = (IrqLine::open(), Clock::default(), Timer::default());
            let wires = Wires { irq: irq.clone(), clock: clock.clone(), timer: timer.clone() };
            let dev = Pl031::new(Config { epoch_secs: 1_000_000 }, wires);
            Self { dev, irq, clock, timer }
        }

        fn read(&mut self, reg: Reg) -> u64 {
            Registers::read(&mut self.dev, 0, reg.offset(), 4).unwrap()
        }

        fn write(&mut self, reg: Reg, value: u64) {
            Registers::write(&mut self.dev, 0, reg.offset(), 4, value).unwrap();
        }

        /// Runs virtual time forward, delivering wake-ups as the scheduler would.
        fn run_secs(&mut self, secs: u64) {
            let end = self.clock.now().after(secs * NANOS_PER_SEC);
            while let Some(t) = self.timer.deadline().filter(|&t| t <= end) {
                self.clock.advance_to(t);
                self.timer.disarm();
                self.dev.wake(0, t);
            }
            self.clock.advance_to(end);
        }
    }

    #[test]
    fn counter_follows_virtual_time_from_the_configured_epoch() {
        let mut b = Bench::new();
        assert_eq!(b.read(Reg::Dr), 1_000_000);
        b.run_secs(61);
        assert_eq!(b.read(Reg::Dr), 1_000_061);
    }

    #[test]
    fn match_raises_the_line_and_clear_lowers_it() {
        let mut b = Bench::new();
        b.write(Reg::Mr, 1_000_005);
        b.write(Reg::Imsc, 1);
        b.run_secs(4);
        assert!(!b.irq.level(), "one second early");
        b.run_secs(1);
        assert!(b.irq.level());
        b.write(Reg::Icr, 1);
        assert!(!b.irq.level());
        assert_eq!(b.read(Reg::Ris), 0, "one match, one interrupt");
    }

    #[test]
    fn a_masked_match_is_pending_but_silent() {
        let mut b = Bench::new();
        b.write(Reg::Mr, 1_000_005);
        b.run_secs(10);
        assert_eq!((b.read(Reg::Ris), b.read(Reg::Mis)), (1, 0));
        assert!(!b.irq.level());
    }

    #[test]
    fn restore_refuses_a_state_from_the_future() {
        let mut late = Bench::new();
        late.run_secs(100);
        late.read(Reg::Dr);
        let blob = late.dev.save();
        assert!(matches!(Bench::new().dev.restore(&blob), Err(RestoreError::Invalid(_))));
    }

    orrery_system::conformance!(Bench::new().dev, Reg::TABLE);
}
