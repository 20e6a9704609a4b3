//! Motorola MC146818A real-time clock with 128 bytes of battery-backed memory.
//!
//! Reference: Motorola MC146818A data sheet (ADI1026R2); the century at 32h as PC firmware keeps
//! it. The calendar is computed from virtual time when it is looked at; only interrupts that are
//! enabled cost wake-ups.
//!
//! Not modelled: daylight saving, the square-wave output and the NMI mask in bit 7 of the index.

use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::{Device, Settle};
use orrery_system::time::NANOS_PER_SEC;
use orrery_system::{Clock, IrqInput, IrqLine, RestoreError, State as _, StateBlob, Timer, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Ports 70h and 71h.
    pub enum Reg {
        /// Selects a byte.
        0 Index: 1 Wo,
        /// The byte selected.
        1 Data: 1 Rw,
    }
}

/// Bytes of the chip that are not memory.
mod byte {
    pub(super) const SECONDS: u8 = 0;
    pub(super) const SECONDS_ALARM: u8 = 1;
    pub(super) const MINUTES: u8 = 2;
    pub(super) const MINUTES_ALARM: u8 = 3;
    pub(super) const HOURS: u8 = 4;
    pub(super) const HOURS_ALARM: u8 = 5;
    pub(super) const WEEKDAY: u8 = 6;
    pub(super) const DAY: u8 = 7;
    pub(super) const MONTH: u8 = 8;
    pub(super) const YEAR: u8 = 9;
    pub(super) const A: u8 = 10;
    pub(super) const B: u8 = 11;
    pub(super) const C: u8 = 12;
    pub(super) const D: u8 = 13;
    pub(super) const CENTURY: u8 = 0x32;
}

/// Register A.
mod a {
    pub(super) const UIP: u8 = 0x80;
    pub(super) const DIVIDER_RESET: u8 = 0x60;
}

/// Register B.
mod b {
    pub(super) const SET: u8 = 0x80;
    pub(super) const PIE: u8 = 0x40;
    pub(super) const AIE: u8 = 0x20;
    pub(super) const UIE: u8 = 0x10;
    pub(super) const SQWE: u8 = 0x08;
    pub(super) const BINARY: u8 = 0x04;
    pub(super) const HOURS_24: u8 = 0x02;
}

/// Register C.
mod c {
    pub(super) const IRQF: u8 = 0x80;
    pub(super) const PF: u8 = 0x40;
    pub(super) const AF: u8 = 0x20;
    pub(super) const UF: u8 = 0x10;
}

/// Register D: the battery is good.
const VRT: u8 = 0x80;
const CMOS_SIZE: usize = 128;
const CRYSTAL_HZ: i128 = 32768;
/// UIP rises this long before an update.
const UPDATE_WARNING_NS: i64 = 244_140;
const SECOND: i64 = NANOS_PER_SEC as i64;
const DAY_SECS: i64 = 86_400;

/// Settings fixed when the machine is built.
pub struct Config {
    /// Seconds since 1970-01-01 00:00 at virtual time zero, in the zone the clock is to show.
    pub epoch_secs: i64,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// `IRQ`: IRQ 8.
    pub irq: IrqLine,
    /// While high, an HPET has taken over IRQ 8 (legacy replacement). Leave detached without one.
    pub replaced: IrqInput,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the next interrupt.
    pub timer: Timer,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    index: u8,
    /// All bytes; those of the calendar are current only while it stands still.
    cmos: Vec<u8>,
    flags: u8,
    /// A virtual instant, in nanoseconds, at which a second began.
    anchor: i64,
    /// The calendar at that instant, in seconds since 1970.
    base: i64,
    /// How far the weekday the guest set is from the date's.
    weekday_bias: u8,
    /// Up to when interrupts have been looked for, in nanoseconds.
    seen: i64,
}

impl orrery_system::State for State {
    const KIND: &'static str = "mc146818rtc";
    const VERSION: u16 = 1;
}

/// A date: year, month 1 to 12, day 1 to 31.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years begin in March, so that the leap day is their last: an era has 146097 days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Days since 1970-01-01 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

impl State {
    fn new(config: &Config, now: i64) -> Self {
        let mut cmos = vec![0; CMOS_SIZE];
        cmos[usize::from(byte::A)] = 0x26;
        cmos[usize::from(byte::B)] = b::HOURS_24;
        Self {
            index: 0,
            cmos,
            flags: 0,
            anchor: 0,
            base: config.epoch_secs,
            weekday_bias: 0,
            seen: now,
        }
    }

    fn reg(&self, index: u8) -> u8 {
        self.cmos[usize::from(index)]
    }

    fn reg_mut(&mut self, index: u8) -> &mut u8 {
        &mut self.cmos[usize::from(index)]
    }

    fn b(&self, bit: u8) -> bool {
        self.reg(byte::B) & bit != 0
    }

    fn divider_runs(&self) -> bool {
        self.reg(byte::A) & a::DIVIDER_RESET != a::DIVIDER_RESET
    }

    /// Whether the calendar is updated every second.
    fn runs(&self) -> bool {
        self.divider_runs() && !self.b(b::SET)
    }

    fn encode(&self, v: i64) -> u8 {
        if self.b(b::BINARY) { v as u8 } else { ((v / 10 % 10) << 4 | (v % 10)) as u8 }
    }

    fn decode(&self, v: u8) -> i64 {
        if self.b(b::BINARY) { v.into() } else { i64::from(v >> 4) * 10 + i64::from(v & 15) }
    }

    fn encode_hours(&self, hours: i64) -> u8 {
        if self.b(b::HOURS_24) {
            return self.encode(hours);
        }
        let pm = if hours >= 12 { 0x80 } else { 0 };
        pm | self.encode((hours + 11) % 12 + 1)
    }

    fn decode_hours(&self, v: u8) -> i64 {
        if self.b(b::HOURS_24) {
            return self.decode(v);
        }
        let pm = if v & 0x80 != 0 { 12 } else { 0 };
        self.decode(v & 0x7f) % 12 + pm
    }

    /// The calendar while it runs, in seconds since 1970.
    fn seconds(&self, now: i64) -> i64 {
        self.base + (now - self.anchor).div_euclid(SECOND)
    }

    /// Writes the calendar at `now` into its bytes.
    fn freeze(&mut self, now: i64) {
        let t = self.seconds(now);
        let (day_number, s) = (t.div_euclid(DAY_SECS), t.rem_euclid(DAY_SECS));
        let (year, month, day) = civil(day_number);
        let weekday = (day_number + 4 + i64::from(self.weekday_bias)).rem_euclid(7) + 1;
        let bytes = [
            (byte::SECONDS, self.encode(s % 60)),
            (byte::MINUTES, self.encode(s / 60 % 60)),
            (byte::HOURS, self.encode_hours(s / 3600)),
            (byte::WEEKDAY, self.encode(weekday)),
            (byte::DAY, self.encode(day)),
            (byte::MONTH, self.encode(month)),
            (byte::YEAR, self.encode(year.rem_euclid(100))),
            (byte::CENTURY, self.encode(year.div_euclid(100).clamp(0, 99))),
        ];
        for (index, v) in bytes {
            *self.reg_mut(index) = v;
        }
    }

    /// Starts the calendar from its bytes. Values that are no date are carried over.
    fn thaw(&mut self, now: i64) {
        let r = |index| self.decode(self.reg(index));
        let year = r(byte::CENTURY) * 100 + r(byte::YEAR);
        let date = days(year, (r(byte::MONTH) - 1).rem_euclid(12) + 1, r(byte::DAY));
        let time = self.decode_hours(self.reg(byte::HOURS)) * 3600 + r(byte::MINUTES) * 60;
        let t = date * DAY_SECS + time + r(byte::SECONDS);
        let weekday = (t.div_euclid(DAY_SECS) + 4).rem_euclid(7) + 1;
        self.weekday_bias = (r(byte::WEEKDAY) - weekday).rem_euclid(7) as u8;
        self.base = t - (now - self.anchor).div_euclid(SECOND);
    }

    /// Ticks of the periodic interrupt's rate, in periods of the crystal.
    fn period(&self) -> Option<i128> {
        let rate = match self.reg(byte::A) & 15 {
            0 => return None,
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        self.divider_runs().then_some(1 << (rate - 1))
    }

    fn periods(&self, now: i64, period: i128) -> i128 {
        i128::from(now - self.anchor) * CRYSTAL_HZ / i128::from(SECOND) / period
    }

    fn next_periodic(&self, now: i64) -> Option<i64> {
        let period = self.period()?;
        let ticks = (self.periods(now, period) + 1) * period;
        let ns = (ticks * i128::from(SECOND) + CRYSTAL_HZ - 1) / CRYSTAL_HZ;
        Some(self.anchor + ns as i64)
    }

    fn next_second(&self, now: i64) -> Option<i64> {
        let whole = (now - self.anchor).div_euclid(SECOND) + 1;
        self.runs().then_some(self.anchor + whole * SECOND)
    }

    /// The first second after `t` that the alarm bytes match.
    fn alarm_after(&self, t: i64) -> Option<i64> {
        let matches = |index: u8, v: u8| {
            let alarm = self.reg(index);
            alarm & 0xc0 == 0xc0 || alarm == v
        };
        let (mut at, end) = (t + 1, t + DAY_SECS);
        while at <= end {
            let s = at.rem_euclid(DAY_SECS);
            if !matches(byte::HOURS_ALARM, self.encode_hours(s / 3600)) {
                at += 3600 - s % 3600;
            } else if !matches(byte::MINUTES_ALARM, self.encode(s / 60 % 60)) {
                at += 60 - s % 60;
            } else if !matches(byte::SECONDS_ALARM, self.encode(s % 60)) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    fn next_alarm(&self, now: i64) -> Option<i64> {
        let t = self.alarm_after(self.seconds(now)).filter(|_| self.runs())?;
        Some(self.anchor + (t - self.base) * SECOND)
    }

    /// Sets the flags of what happened in `(seen, now]`.
    fn catch_up(&mut self, now: i64) {
        let seen = std::mem::replace(&mut self.seen, now);
        if now <= seen {
            self.seen = seen;
            return;
        }
        let by_now = |t: Option<i64>| t.is_some_and(|t| t <= now);
        if by_now(self.next_periodic(seen)) {
            self.flags |= c::PF;
        }
        if by_now(self.next_second(seen)) {
            self.flags |= c::UF;
            if by_now(self.next_alarm(seen)) {
                self.flags |= c::AF;
            }
        }
    }

    fn interrupts(&self) -> bool {
        // PF, AF and UF lie where PIE, AIE and UIE do.
        self.flags & self.reg(byte::B) & (b::PIE | b::AIE | b::UIE) != 0
    }

    /// When the next interrupt is due that is enabled and not pending.
    fn next_interrupt(&self) -> Option<i64> {
        let wanted = self.reg(byte::B) & !self.flags;
        let periodic = (wanted & b::PIE != 0).then(|| self.next_periodic(self.seen)).flatten();
        let update = (wanted & b::UIE != 0).then(|| self.next_second(self.seen)).flatten();
        let alarm = (wanted & b::AIE != 0).then(|| self.next_alarm(self.seen)).flatten();
        [periodic, update, alarm].into_iter().flatten().min()
    }

    fn read(&mut self) -> u8 {
        let now = self.seen;
        match self.index {
            byte::A => {
                let soon = self.next_second(now).is_some_and(|t| t - now <= UPDATE_WARNING_NS);
                self.reg(byte::A) | if soon { a::UIP } else { 0 }
            }
            byte::C => {
                let irqf = if self.interrupts() { c::IRQF } else { 0 };
                std::mem::take(&mut self.flags) | irqf
            }
            byte::D => VRT,
            byte::SECONDS
            | byte::MINUTES
            | byte::HOURS
            | byte::WEEKDAY..=byte::YEAR
            | byte::CENTURY => {
                if self.runs() {
                    self.freeze(now);
                }
                self.reg(self.index)
            }
            index => self.reg(index),
        }
    }

    fn write(&mut self, v: u8) {
        let now = self.seen;
        let ran = self.runs();
        match self.index {
            byte::A => {
                if ran {
                    self.freeze(now);
                }
                let was_reset = !self.divider_runs();
                *self.reg_mut(byte::A) = v & !a::UIP;
                if was_reset && self.divider_runs() {
                    // The first update follows half a second after the divider is let go.
                    self.anchor = now - SECOND / 2;
                }
                if self.runs() {
                    self.thaw(now);
                }
            }
            byte::B => {
                if ran {
                    self.freeze(now);
                }
                let format = (self.reg(byte::B) ^ v) & (b::BINARY | b::HOURS_24) != 0;
                *self.reg_mut(byte::B) = if v & b::SET != 0 { v & !b::UIE } else { v };
                if ran && format {
                    self.freeze(now);
                } else if self.runs() {
                    self.thaw(now);
                }
            }
            byte::C | byte::D => {}
            byte::SECONDS
            | byte::MINUTES
            | byte::HOURS
            | byte::WEEKDAY..=byte::YEAR
            | byte::CENTURY => {
                if ran {
                    self.freeze(now);
                }
                *self.reg_mut(self.index) = v;
                if ran {
                    self.thaw(now);
                }
            }
            index => *self.reg_mut(index) = v,
        }
    }
}

/// The device.
pub struct Mc146818 {
    wires: Wires,
    state: State,
}

impl Mc146818 {
    /// Builds the device as its battery kept it, with all memory zero.
    pub fn new(config: Config, wires: Wires) -> Self {
        let now = wires.clock.now().0 as i64;
        Self { wires, state: State::new(&config, now) }
    }

    /// Sets a byte of the memory, as the machine's maker did. Indices past 127 wrap.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        *self.state.reg_mut(index & 0x7f) = value;
    }

    /// A byte of the memory.
    pub fn cmos(&self, index: u8) -> u8 {
        self.state.reg(index & 0x7f)
    }

    fn catch_up(&mut self) {
        self.state.catch_up(self.wires.clock.now().0 as i64);
    }

    fn drive(&self) {
        self.wires.irq.set(self.state.interrupts() && !self.wires.replaced.level());
        self.wires.timer.set(self.state.next_interrupt().map(|t| VmTime(t.max(0) as u64)));
    }
}

impl Device for Mc146818 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    /// The battery keeps time, calendar and memory.
    fn reset(&mut self) {
        self.catch_up();
        self.state.flags = 0;
        *self.state.reg_mut(byte::B) &= !(b::PIE | b::AIE | b::UIE | b::SQWE);
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.cmos.len() != CMOS_SIZE || state.index > 0x7f {
            return Err(RestoreError::Invalid("memory is not 128 bytes"));
        }
        if state.seen > self.wires.clock.now().0 as i64
            || state.anchor > state.seen
            || state.anchor < -SECOND
        {
            return Err(RestoreError::Invalid("last tick is in the future"));
        }
        if state.base.unsigned_abs() > 1 << 48 {
            return Err(RestoreError::Invalid("date out of range"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.catch_up();
        self.drive();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let t = self.state.seconds(self.wires.clock.now().0 as i64);
        let (year, month, day) = civil(t.div_euclid(DAY_SECS));
        let s = t.rem_euclid(DAY_SECS);
        let time = format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
        vec![
            ("date", format!("{year:04}-{month:02}-{day:02} {time}")),
            ("a", format!("{:02x}", self.cmos(byte::A))),
            ("b", format!("{:02x}", self.cmos(byte::B))),
        ]
    }
}

impl Settle for Mc146818 {
    fn settle(&mut self) {
        let want = self.state.interrupts() && !self.wires.replaced.level();
        self.wires.irq.set(want);
    }
}

impl Registers for Mc146818 {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let (reg, _) = Reg::decode(offset, width)?;
        if reg == Reg::Index {
            return Ok(0xff);
        }
        self.catch_up();
        let value = self.state.read();
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Reg::decode(offset, width)?;
        self.catch_up();
        match reg {
            Reg::Index => self.state.index = value as u8 & 0x7f,
            Reg::Data => self.state.write(value as u8),
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dev: Mc146818,
        irq: IrqInput,
        clock: Clock,
        timer: Timer,
    }

    impl Bench {
        /// 2024-02-29 12:34:56, a Thursday.
        fn new() -> Self {
            let irq = IrqInput::detached();
            let (clock, timer) = (Clock::default(), Timer::default());
            let wires = Wires {
                irq: irq.pin(),
                replaced: IrqInput::detached(),
                clock: clock.clone(),
                timer: timer.clone(),
            };
            let dev = Mc146818::new(Config { epoch_secs: 1_709_210_096 }, wires);
            Self { dev, irq, clock, timer }
        }

        fn read(&mut self, index: u8) -> u8 {
            self.dev.write(0, 0, 1, index.into()).unwrap();
            self.dev.read(0, 1, 1).unwrap() as u8
        }

        fn write(&mut self, index: u8, v: u8) {
            self.dev.write(0, 0, 1, index.into()).unwrap();
            self.dev.write(0, 1, 1, v.into()).unwrap();
        }

        fn run(&mut self, ns: i64) -> u32 {
            let end = self.clock.now().after(ns as u64);
            let mut rises = 0;
            while let Some(t) = self.timer.deadline().filter(|&t| t <= end) {
                self.clock.advance_to(t);
                self.timer.disarm();
                self.dev.wake(0, t);
                rises += u32::from(self.irq.take_edge());
            }
            self.clock.advance_to(end);
            rises
        }

        /// Seconds, minutes, hours, weekday, day, month, year, century.
        fn calendar(&mut self) -> [u8; 8] {
            [0, 2, 4, 6, 7, 8, 9, 0x32].map(|i| self.read(i))
        }
    }

    #[test]
    fn the_calendar_shows_the_configured_epoch_in_decimal() {
        let mut b = Bench::new();
        assert_eq!(b.calendar(), [0x56, 0x34, 0x12, 5, 0x29, 2, 0x24, 0x20]);
    }

    #[test]
    fn it_follows_virtual_time_over_the_leap_day() {
        let mut b = Bench::new();
        b.run(12 * 3600 * SECOND);
        assert_eq!(b.calendar(), [0x56, 0x34, 0x00, 6, 0x01, 3, 0x24, 0x20]);
    }

    #[test]
    fn binary_and_twelve_hour_formats() {
        let mut b = Bench::new();
        b.write(byte::B, b::BINARY);
        assert_eq!(b.calendar(), [56, 34, 0x80 | 12, 5, 29, 2, 24, 20]);
        b.run(12 * 3600 * SECOND);
        assert_eq!(b.read(byte::HOURS), 12, "midnight is 12 AM");
        b.write(byte::B, 0);
        b.run(3600 * SECOND);
        assert_eq!(b.read(byte::HOURS), 0x01);
    }

    #[test]
    fn setting_the_clock_holds_it_until_it_is_let_go() {
        let mut b = Bench::new();
        b.write(byte::B, b::SET | b::HOURS_24);
        for (i, v) in
            [(0, 0x58), (2, 0x59), (4, 0x23), (6, 7), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)]
        {
            b.write(i, v);
        }
        b.run(10 * SECOND);
        assert_eq!(b.calendar(), [0x58, 0x59, 0x23, 7, 0x31, 0x12, 0x99, 0x19]);
        b.write(byte::B, b::HOURS_24);
        b.run(2 * SECOND);
        assert_eq!(b.calendar(), [0, 0, 0, 1, 1, 1, 0, 0x20]);
    }

    #[test]
    fn a_weekday_that_does_not_fit_the_date_goes_its_own_way() {
        let mut b = Bench::new();
        b.write(byte::WEEKDAY, 1);
        b.run(86_400 * SECOND);
        assert_eq!(b.read(byte::WEEKDAY), 2);
    }

    #[test]
    fn update_in_progress_announces_the_second() {
        let mut b = Bench::new();
        assert_eq!(b.read(byte::A), 0x26);
        b.run(SECOND - UPDATE_WARNING_NS);
        assert_eq!(b.read(byte::A), 0xa6);
        b.run(UPDATE_WARNING_NS);
        assert_eq!(b.read(byte::A), 0x26);
        assert_eq!(b.read(byte::SECONDS), 0x57);
        b.write(byte::B, b::SET | b::HOURS_24);
        b.run(SECOND - 1000);
        assert_eq!(b.read(byte::A), 0x26, "not while it is held");
    }

    #[test]
    fn the_divider_starts_with_half_a_second() {
        let mut b = Bench::new();
        b.write(byte::A, 0x76);
        b.run(5 * SECOND);
        assert_eq!(b.read(byte::SECONDS), 0x56);
        b.write(byte::A, 0x26);
        b.run(SECOND / 2 - 1);
        assert_eq!(b.read(byte::SECONDS), 0x56);
        b.run(1);
        assert_eq!(b.read(byte::SECONDS), 0x57);
    }

    #[test]
    fn the_periodic_interrupt_comes_at_its_rate_if_each_is_acknowledged() {
        let mut b = Bench::new();
        b.write(byte::B, b::PIE | b::HOURS_24);
        let mut count = 0;
        for _ in 0..2000 {
            count += b.run(SECOND / 2000);
            b.read(byte::C);
        }
        assert_eq!(count, 1024);
        b.run(SECOND);
        b.irq.take_edge();
        assert_eq!(b.run(SECOND), 0, "an unacknowledged one makes no further edge");
        assert_eq!(b.read(byte::C), c::IRQF | c::PF | c::UF);
        assert!(!b.irq.level());
        assert_eq!(b.read(byte::C), 0);
    }

    #[test]
    fn flags_are_set_without_their_interrupts() {
        let mut b = Bench::new();
        assert_eq!(b.read(byte::C), 0);
        b.run(SECOND);
        assert_eq!(b.read(byte::C), c::PF | c::UF);
        b.write(byte::A, 0x20);
        b.run(SECOND / 2);
        assert_eq!(b.read(byte::C), 0);
    }

    #[test]
    fn the_update_interrupt_comes_each_second() {
        let mut b = Bench::new();
        b.write(byte::B, b::UIE | b::HOURS_24);
        for _ in 0..3 {
            assert_eq!(b.run(SECOND), 1);
            assert_eq!(b.read(byte::C), c::IRQF | c::UF | c::PF);
        }
    }

    #[test]
    fn the_alarm_matches_the_bytes_it_cares_about() {
        let mut b = Bench::new();
        for (i, v) in [(1, 0x00), (3, 0x40), (5, 0x12)] {
            b.write(i, v);
        }
        b.write(byte::B, b::AIE | b::HOURS_24);
        assert_eq!(b.run(304 * SECOND - 1), 0);
        assert_eq!(b.run(1), 1);
        assert_eq!(b.read(byte::C) & c::AF, c::AF);
        assert_eq!(b.run(86_400 * SECOND - 1), 0);
        assert_eq!(b.run(1), 1);
        b.read(byte::C);
        b.write(byte::MINUTES_ALARM, 0xff);
        b.write(byte::HOURS_ALARM, 0xc0);
        assert_eq!(b.run(60 * SECOND), 1, "every minute");
    }

    #[test]
    fn reset_keeps_memory_and_time_and_disables_interrupts() {
        let mut b = Bench::new();
        b.write(0x0f, 0x0a);
        b.write(byte::B, b::UIE | b::HOURS_24);
        b.run(SECOND);
        b.dev.reset();
        assert!(!b.irq.level());
        assert_eq!((b.read(0x0f), b.read(byte::B), b.read(byte::SECONDS)), (0x0a, 0x02, 0x57));
    }

    #[test]
    fn the_index_cannot_be_read_and_the_battery_is_good() {
        let mut b = Bench::new();
        b.dev.set_cmos(0x5b, 7);
        assert_eq!(b.read(0x5b | 0x80), 7);
        assert_eq!(b.dev.read(0, 0, 1), Ok(0xff));
        assert_eq!(b.read(byte::D), VRT);
    }

    #[test]
    fn restore_refuses_a_state_from_the_future() {
        let mut late = Bench::new();
        late.run(100 * SECOND);
        late.read(0);
        let blob = late.dev.save();
        assert!(matches!(Bench::new().dev.restore(&blob), Err(RestoreError::Invalid(_))));
    }

    orrery_system::conformance!(battery Bench::new().dev, Reg::TABLE);
}
