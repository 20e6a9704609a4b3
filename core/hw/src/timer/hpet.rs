//! High precision event timer.
//!
//! Reference: Intel IA-PC HPET specification 1.0a. A 64-bit counter at 100 MHz and 3 to 32
//! comparators, each able to repeat.
//!
//! A periodic comparator written while VAL_SET is on takes the value as its first match and as
//! its period; written again, as its period alone.

use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::ports::{Message, MessageQueue};
use orrery_system::{Clock, IrqLine, RestoreError, State as _, StateBlob, Timer, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Registers at the base, fed00000h; further comparators follow, 20h bytes apart.
    pub enum Reg {
        /// Capabilities and identification.
        0x000 Capabilities: 8 Ro,
        /// General configuration.
        0x010 Config: 8 Rw,
        /// General interrupt status.
        0x020 Status: 8 Rw,
        /// Main counter.
        0x0f0 Counter: 8 Rw,
        /// Timer 0 configuration and capabilities.
        0x100 Config0: 8 Rw,
        /// Timer 0 comparator.
        0x108 Comparator0: 8 Rw,
        /// Timer 0 message.
        0x110 Fsb0: 8 Rw,
        /// Timer 1 configuration and capabilities.
        0x120 Config1: 8 Rw,
        /// Timer 1 comparator.
        0x128 Comparator1: 8 Rw,
        /// Timer 1 message.
        0x130 Fsb1: 8 Rw,
        /// Timer 2 configuration and capabilities.
        0x140 Config2: 8 Rw,
        /// Timer 2 comparator.
        0x148 Comparator2: 8 Rw,
        /// Timer 2 message.
        0x150 Fsb2: 8 Rw,
    }
}

/// Nanoseconds a tick.
const TICK_NS: u64 = 10;
/// The same in femtoseconds, as the capabilities say it.
const TICK_FS: u64 = TICK_NS * 1_000_000;

/// Shortest period that is served match for match: 10 us.
const SHORTEST_TICKS: u64 = 1000;

/// General configuration.
mod general {
    pub(super) const ENABLE: u64 = 1;
    pub(super) const LEGACY: u64 = 2;
}

/// Timer configuration.
mod cfg {
    pub(super) const LEVEL: u64 = 1 << 1;
    pub(super) const ENABLE: u64 = 1 << 2;
    pub(super) const PERIODIC: u64 = 1 << 3;
    pub(super) const PERIODIC_CAP: u64 = 1 << 4;
    pub(super) const SIZE_CAP: u64 = 1 << 5;
    pub(super) const VAL_SET: u64 = 1 << 6;
    pub(super) const BITS_32: u64 = 1 << 8;
    pub(super) const FSB: u64 = 1 << 14;
    pub(super) const FSB_CAP: u64 = 1 << 15;
    /// What can be written: trigger, enable, type, VAL_SET, size, route, FSB.
    pub(super) const WRITABLE: u64 = 0x7f4e;
}

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Comparators, 3 to 32.
    pub timers: usize,
    /// Inputs of the I/O APIC that a comparator may be routed to, one bit each.
    pub routes: u32,
    /// Comparators can send messages.
    pub fsb: bool,
}

impl Default for Config {
    /// Three comparators on input 2.
    fn default() -> Self {
        Self { timers: 3, routes: 1 << 2, fsb: false }
    }
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// A pin on each input of the I/O APIC; open where there is none.
    pub routes: [IrqLine; 32],
    /// IRQ 0 and IRQ 8, for timers 0 and 1 in place of the PIT and the clock.
    pub legacy: [IrqLine; 2],
    /// High while they are in place of those.
    pub replaces: IrqLine,
    /// Where messages go.
    pub messages: MessageQueue,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the next match.
    pub timer: Timer,
}

/// One comparator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Comparator {
    config: u64,
    value: u64,
    period: u64,
    fsb: u64,
    /// The main counter's value, unwrapped, at the next match.
    next: Option<u64>,
}

impl Comparator {
    fn is(&self, bit: u64) -> bool {
        self.config & bit != 0
    }

    fn mask(&self) -> u64 {
        if self.is(cfg::BITS_32) { u64::from(u32::MAX) } else { u64::MAX }
    }

    /// Finds the next match at or after `counter`.
    fn aim(&mut self, counter: u64) {
        self.value &= self.mask();
        self.next = if self.is(cfg::BITS_32) {
            let ahead = (self.value as u32).wrapping_sub(counter as u32);
            counter.checked_add(ahead.into())
        } else {
            (self.value >= counter).then_some(self.value)
        };
    }

    /// Moves past the matches up to `counter`; says whether there was one.
    fn pass(&mut self, counter: u64) -> bool {
        let Some(at) = self.next.filter(|&t| t <= counter) else { return false };
        self.next = if !self.is(cfg::PERIODIC) {
            // A 32-bit comparator matches once a turn.
            let turn = 1 << 32;
            let turns = (counter - at) / turn + 1;
            self.is(cfg::BITS_32).then(|| at.checked_add(turns.saturating_mul(turn))).flatten()
        } else {
            (counter - at).checked_div(self.period).and_then(|passed| {
                let ahead = (passed + 1).wrapping_mul(self.period);
                self.value = self.value.wrapping_add(ahead) & self.mask();
                at.checked_add(ahead)
            })
        };
        true
    }
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    config: u64,
    status: u32,
    /// The main counter at `since`; it stands there while disabled.
    counter: u64,
    since: u64,
    timers: Vec<Comparator>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "hpet";
    const VERSION: u16 = 1;
}

/// What an access hits.
enum Target {
    Global(Reg),
    Config(usize),
    Comparator(usize),
    Fsb(usize),
}

impl State {
    fn power_on(config: &Config) -> Self {
        let fsb = if config.fsb { cfg::FSB_CAP } else { 0 };
        let caps = cfg::PERIODIC_CAP | cfg::SIZE_CAP | fsb | u64::from(config.routes) << 32;
        let timer = Comparator { config: caps, value: u64::MAX, ..Comparator::default() };
        let timers = vec![timer; config.timers.clamp(3, 32)];
        Self { config: 0, status: 0, counter: 0, since: 0, timers }
    }

    fn capabilities(&self) -> u64 {
        let last = self.timers.len() as u64 - 1;
        TICK_FS << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | last << 8 | 1
    }

    fn runs(&self) -> bool {
        self.config & general::ENABLE != 0
    }

    fn replaces(&self) -> bool {
        let both = general::ENABLE | general::LEGACY;
        self.config & both == both
    }

    fn counter(&self, now: u64) -> u64 {
        let ticks = if self.runs() { now.saturating_sub(self.since) / TICK_NS } else { 0 };
        self.counter.wrapping_add(ticks)
    }

    /// Passes the matches up to `now`; returns the timers that interrupt, one bit each.
    fn catch_up(&mut self, now: u64) -> u32 {
        let counter = self.counter(now);
        let mut fired = 0;
        if self.runs() {
            for (n, t) in self.timers.iter_mut().enumerate() {
                if t.pass(counter) && t.is(cfg::ENABLE) {
                    fired |= 1 << n;
                    if t.is(cfg::LEVEL) && !t.is(cfg::FSB) {
                        self.status |= 1 << n;
                    }
                }
            }
        }
        fired
    }

    /// When the next interrupt is due. Periods too short to serve are served late, all in one.
    fn next_interrupt(&self, now: u64) -> Option<u64> {
        let soonest = self.counter(now).saturating_add(SHORTEST_TICKS);
        let live = self.timers.iter().filter(|t| self.runs() && t.is(cfg::ENABLE));
        let short = |t: &Comparator| t.is(cfg::PERIODIC) && t.period < SHORTEST_TICKS;
        let due = |t: &Comparator| t.next.map(|at| if short(t) { at.max(soonest) } else { at });
        let next = live.filter_map(due).min()?;
        let ns = next.saturating_sub(self.counter).saturating_mul(TICK_NS);
        Some(self.since.saturating_add(ns))
    }

    fn target(&self, offset: u64) -> BusResult<Target> {
        let n = (offset.wrapping_sub(0x100) >> 5) as usize;
        if offset >= 0x100 && n < self.timers.len() {
            return match offset & 0x1f {
                0x00 => Ok(Target::Config(n)),
                0x08 => Ok(Target::Comparator(n)),
                0x10 => Ok(Target::Fsb(n)),
                _ => Err(BusError::NoRegister),
            };
        }
        Reg::decode(offset, 8).map(|(reg, _)| Target::Global(reg))
    }

    fn read(&self, target: &Target, now: u64) -> u64 {
        match *target {
            Target::Global(Reg::Capabilities) => self.capabilities(),
            Target::Global(Reg::Config) => self.config,
            Target::Global(Reg::Status) => self.status.into(),
            Target::Global(_) => self.counter(now),
            Target::Config(n) => self.timers[n].config,
            Target::Comparator(n) => self.timers[n].value,
            Target::Fsb(n) => self.timers[n].fsb,
        }
    }

    /// Writes a register whole: `v` is what it holds with the bytes written, `low` whether its
    /// low half is among them.
    fn write(&mut self, target: &Target, v: u64, low: bool, now: u64) {
        let counter = self.counter(now);
        match *target {
            Target::Global(Reg::Config) => {
                // The counter goes on, or stands still, from where it is.
                (self.counter, self.since) = (counter, now);
                self.config = v & (general::ENABLE | general::LEGACY);
            }
            Target::Global(Reg::Counter) => {
                (self.counter, self.since) = (v, now);
                self.timers.iter_mut().for_each(|t| t.aim(v));
            }
            Target::Global(_) => {}
            Target::Config(n) => {
                let t = &mut self.timers[n];
                let changed = (t.config ^ v) & (cfg::BITS_32 | cfg::PERIODIC);
                let fsb = if t.is(cfg::FSB_CAP) { 0 } else { cfg::FSB };
                t.config = t.config & !cfg::WRITABLE | v & cfg::WRITABLE & !fsb;
                if t.config & (cfg::ENABLE | cfg::LEVEL) != cfg::ENABLE | cfg::LEVEL {
                    self.status &= !(1 << n);
                }
                if changed & cfg::BITS_32 != 0 {
                    t.period &= t.mask();
                    t.aim(counter);
                } else if changed != 0 {
                    t.aim(counter);
                }
            }
            Target::Comparator(n) => {
                let t = &mut self.timers[n];
                if !t.is(cfg::PERIODIC) || t.is(cfg::VAL_SET) {
                    t.value = v;
                    t.aim(counter);
                }
                if t.is(cfg::PERIODIC) {
                    t.period = v & t.mask();
                }
                if low {
                    t.config &= !cfg::VAL_SET;
                }
            }
            Target::Fsb(n) => self.timers[n].fsb = v,
        }
    }
}

/// The device.
pub struct Hpet {
    config: Config,
    wires: Wires,
    state: State,
}

impl Hpet {
    /// Builds the device in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let state = State::power_on(&config);
        Self { config, wires, state }
    }

    /// The line of timer `n`.
    fn line(&self, n: usize) -> &IrqLine {
        if self.state.replaces() && n < 2 {
            return &self.wires.legacy[n];
        }
        &self.wires.routes[(self.state.timers[n].config >> 9) as usize & 31]
    }

    /// Shows the state on the wires; the timers in `fired` have just matched.
    fn drive(&self, fired: u32) {
        let s = &self.state;
        self.wires.replaces.set(s.replaces());
        for line in self.wires.routes.iter().chain(&self.wires.legacy) {
            let high = (0..s.timers.len())
                .any(|n| s.status & 1 << n != 0 && std::ptr::eq(self.line(n), line));
            line.set(high);
        }
        for n in (0..s.timers.len()).filter(|n| fired & 1 << n != 0) {
            let t = &s.timers[n];
            if t.is(cfg::FSB) {
                self.wires.messages.send(Message { addr: t.fsb >> 32, data: t.fsb as u32 });
            } else if !t.is(cfg::LEVEL) {
                self.line(n).pulse();
            }
        }
        self.wires.timer.set(s.next_interrupt(self.now()).map(VmTime));
    }

    fn now(&self) -> u64 {
        self.wires.clock.now().0
    }
}

impl Device for Hpet {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::power_on(&self.config);
        self.drive(0);
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.timers.len() != self.state.timers.len() {
            return Err(RestoreError::Invalid("number of comparators"));
        }
        if state.since > self.now() {
            return Err(RestoreError::Invalid("last change is in the future"));
        }
        self.state = state;
        self.drive(0);
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        let fired = self.state.catch_up(self.now());
        self.drive(fired);
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![
            ("config", format!("{:x}", self.state.config)),
            ("counter", format!("{:x}", self.state.counter(self.now()))),
            ("comparators", format!("{:x?}", self.state.timers)),
        ]
    }
}

impl Registers for Hpet {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let target = self.state.target(offset & !7)?;
        let now = self.now();
        let fired = self.state.catch_up(now);
        self.drive(fired);
        let value = self.state.read(&target, now);
        match (width, offset & 7) {
            (8, 0) => Ok(value),
            (4, 0 | 4) => Ok(value >> (8 * (offset & 7)) & 0xffff_ffff),
            (8, _) => Err(BusError::Width),
            // Narrower accesses are not defined; they see the bytes.
            (_, at) => Ok(value >> (8 * at) & orrery_system::bus::open_bus(width)),
        }
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let target = self.state.target(offset & !7)?;
        let at = offset & 7;
        if width == 8 && at != 0 {
            return Err(BusError::Width);
        }
        if width < 4 || at & 3 != 0 {
            return Ok(()); // not defined
        }
        let now = self.now();
        let mut fired = self.state.catch_up(now);
        if matches!(target, Target::Global(Reg::Status)) {
            self.state.status &= !((value << (8 * at)) as u32);
        } else {
            let before = self.state.read(&target, now);
            let mask = orrery_system::bus::open_bus(width) << (8 * at);
            self.state.write(&target, before & !mask | value << (8 * at) & mask, at == 0, now);
        }
        fired |= self.state.catch_up(now);
        self.drive(fired);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::IrqInput;

    struct Bench {
        dev: Hpet,
        inputs: Vec<IrqInput>,
        legacy: [IrqInput; 2],
        replaces: IrqInput,
        messages: MessageQueue,
        clock: Clock,
        timer: Timer,
    }

    const EDGE: u64 = cfg::ENABLE | 16 << 9;

    impl Bench {
        fn new() -> Self {
            let inputs: Vec<IrqInput> = (0..32).map(|_| IrqInput::detached()).collect();
            let legacy = [IrqInput::detached(), IrqInput::detached()];
            let replaces = IrqInput::detached();
            let (messages, clock, timer) =
                (MessageQueue::default(), Clock::default(), Timer::default());
            let wires = Wires {
                routes: std::array::from_fn(|i| inputs[i].pin()),
                legacy: [legacy[0].pin(), legacy[1].pin()],
                replaces: replaces.pin(),
                messages: messages.clone(),
                clock: clock.clone(),
                timer: timer.clone(),
            };
            let config = Config { timers: 3, routes: 0x00ff_0004, fsb: true };
            let dev = Hpet::new(config, wires);
            Self { dev, inputs, legacy, replaces, messages, clock, timer }
        }

        fn read(&mut self, reg: Reg) -> u64 {
            self.dev.read(0, reg.offset(), 8).unwrap()
        }

        fn write(&mut self, reg: Reg, v: u64) {
            self.dev.write(0, reg.offset(), 8, v).unwrap();
        }

        /// Runs for ticks; returns how often input `n` rose.
        fn run(&mut self, ticks: u64, n: usize) -> u32 {
            let end = self.clock.now().after(ticks * TICK_NS);
            let mut rises = u32::from(self.inputs[n].take_edge());
            while let Some(t) = self.timer.deadline().filter(|&t| t <= end) {
                self.clock.advance_to(t);
                self.timer.disarm();
                self.dev.wake(0, t);
                rises += u32::from(self.inputs[n].take_edge());
            }
            self.clock.advance_to(end);
            rises
        }
    }

    #[test]
    fn the_capabilities_tell_its_clock_and_size() {
        let mut b = Bench::new();
        assert_eq!(b.read(Reg::Capabilities), 0x0098_9680_8086_a201);
        assert_eq!(b.dev.read(0, 4, 4), Ok(10_000_000));
        assert_eq!(b.read(Reg::Config0), 0x00ff_0004_0000_8030);
    }

    #[test]
    fn the_counter_runs_while_enabled_and_can_be_set_while_not() {
        let mut b = Bench::new();
        b.run(100, 0);
        assert_eq!(b.read(Reg::Counter), 0);
        b.write(Reg::Counter, 1000);
        b.write(Reg::Config, 1);
        b.run(50, 0);
        assert_eq!(b.read(Reg::Counter), 1050);
        b.write(Reg::Config, 0);
        b.run(50, 0);
        assert_eq!(b.read(Reg::Counter), 1050);
        b.dev.write(0, 0xf4, 4, 1).unwrap();
        assert_eq!(b.read(Reg::Counter), 1 << 32 | 1050);
        assert_eq!(b.dev.read(0, 0xf0, 4), Ok(1050));
    }

    #[test]
    fn one_shot_comparators_match_once() {
        let mut b = Bench::new();
        b.write(Reg::Config, 1);
        b.write(Reg::Config0, EDGE);
        b.write(Reg::Comparator0, 100);
        assert_eq!(b.run(99, 16), 0);
        assert_eq!(b.run(1, 16), 1);
        assert_eq!(b.run(100_000, 16), 0);
        b.write(Reg::Comparator0, 5);
        assert_eq!(b.run(100_000, 16), 0, "past");
    }

    #[test]
    fn a_32_bit_comparator_matches_once_a_turn() {
        let mut b = Bench::new();
        b.write(Reg::Counter, 0xffff_fff0);
        b.write(Reg::Config, 1);
        b.write(Reg::Config0, EDGE | cfg::BITS_32);
        b.write(Reg::Comparator0, 0x10);
        assert_eq!(b.run(0x20, 16), 1);
        assert_eq!(b.run((1 << 32) - 1, 16), 0);
        assert_eq!(b.run(1, 16), 1);
    }

    #[test]
    fn periodic_comparators_repeat_from_the_value_set() {
        let mut b = Bench::new();
        b.write(Reg::Config, 1);
        b.run(1000, 16);
        b.write(Reg::Config0, EDGE | cfg::PERIODIC | cfg::VAL_SET);
        b.write(Reg::Comparator0, 1500);
        assert_eq!(b.read(Reg::Config0) & cfg::VAL_SET, 0);
        b.write(Reg::Comparator0, 2000);
        assert_eq!(b.run(499, 16), 0);
        assert_eq!(b.run(1, 16), 1);
        assert_eq!(b.run(20_000, 16), 10);
        assert_eq!(b.read(Reg::Comparator0), 23_500);
    }

    #[test]
    fn one_write_sets_first_match_and_period() {
        let mut b = Bench::new();
        b.write(Reg::Config0, EDGE | cfg::PERIODIC | cfg::VAL_SET | cfg::BITS_32);
        b.dev.write(0, 0x108, 4, 2500).unwrap();
        b.write(Reg::Config, 1);
        assert_eq!(b.run(10_000, 16), 4);
    }

    #[test]
    fn a_period_too_short_to_serve_does_not_hang_the_machine() {
        let mut b = Bench::new();
        b.write(Reg::Config0, EDGE | cfg::PERIODIC | cfg::VAL_SET);
        b.write(Reg::Comparator0, 1);
        b.write(Reg::Config, 1);
        let rises = b.run(100_000, 16);
        assert!((90..=101).contains(&rises), "{rises}");
    }

    #[test]
    fn a_level_interrupt_stands_until_its_status_is_cleared() {
        let mut b = Bench::new();
        b.write(Reg::Config, 1);
        b.write(Reg::Config1, EDGE | cfg::LEVEL);
        b.write(Reg::Comparator1, 10);
        b.run(10, 16);
        assert!(b.inputs[16].level());
        assert_eq!(b.read(Reg::Status), 2);
        b.write(Reg::Status, 1);
        assert!(b.inputs[16].level());
        b.write(Reg::Status, 2);
        assert!(!b.inputs[16].level());
    }

    #[test]
    fn legacy_replacement_takes_the_interrupts_of_timer_and_clock() {
        let mut b = Bench::new();
        b.write(Reg::Config, 2);
        assert!(!b.replaces.level());
        b.write(Reg::Config, 3);
        assert!(b.replaces.level());
        for reg in [Reg::Config0, Reg::Config1, Reg::Config2] {
            b.write(reg, EDGE);
        }
        for reg in [Reg::Comparator0, Reg::Comparator1, Reg::Comparator2] {
            b.write(reg, 100);
        }
        assert_eq!(b.run(100, 16), 1, "timer 2 keeps its route");
        assert!(b.legacy[0].take_edge() && b.legacy[1].take_edge());
    }

    #[test]
    fn a_comparator_may_send_a_message() {
        let mut b = Bench::new();
        b.write(Reg::Config, 1);
        b.write(Reg::Fsb2, 0xfee0_1000 << 32 | 0x41);
        b.write(Reg::Config2, cfg::ENABLE | cfg::FSB);
        b.write(Reg::Comparator2, 10);
        b.run(10, 0);
        assert_eq!(b.messages.take(), Some(Message { addr: 0xfee0_1000, data: 0x41 }));
    }

    #[test]
    fn restore_refuses_a_state_from_the_future() {
        let mut late = Bench::new();
        late.run(100, 0);
        late.write(Reg::Config, 1);
        let blob = late.dev.save();
        assert!(matches!(Bench::new().dev.restore(&blob), Err(RestoreError::Invalid(_))));
    }

    orrery_system::conformance!(Bench::new().dev, Reg::TABLE);
}
