//! One counter of an 8254, as a function of time.
//!
//! Nothing ticks: a counter remembers the clock pulse that loaded it, and count and output follow
//! from how many pulses ago that was.

use serde::{Deserialize, Serialize};

/// What the counting element does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Run {
    /// Programmed, but no count written yet.
    #[default]
    Unloaded,
    /// Modes 1 and 5: waits for the gate to rise.
    Armed,
    /// Loaded at that clock pulse.
    Counting(i64),
    /// Stopped by the gate, that many pulses after loading.
    Paused(i64),
}

/// A count that takes effect later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    /// The clock pulse at which it does; none: at the next trigger.
    at: Option<i64>,
    count: i64,
}

/// A counter. Instants are pulses of the 1.193182 MHz clock since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    mode: u8,
    bcd: bool,
    /// RW bits of the control word: 1 low byte, 2 high byte, 3 both in turn.
    access: u8,
    gate: bool,
    /// Pulses in a full count, 1 to 65536; 0 before the first.
    count: i64,
    run: Run,
    next: Option<Next>,
    /// The low byte of a count of which the high byte is awaited.
    low_byte: Option<u8>,
    /// The next read gives the high byte.
    read_high: bool,
    latch: Option<u16>,
    status: Option<u8>,
}

impl Counter {
    /// A counter with its gate held high, or low.
    pub(super) fn new(gate: bool) -> Self {
        Self { gate, mode: 3, access: 3, ..Self::default() }
    }

    /// Whether nothing about it can make a computation go astray.
    pub(super) fn is_sane(&self) -> bool {
        let counts = [self.count, self.next.map_or(0, |n| n.count)];
        let at = self.next.and_then(|n| n.at).unwrap_or(0);
        let start = match self.run {
            Run::Counting(t) | Run::Paused(t) => t,
            Run::Unloaded | Run::Armed => 0,
        };
        let loaded = self.count > 0 || !matches!(self.run, Run::Counting(_) | Run::Paused(_));
        let near = |t: i64| t.unsigned_abs() < 1 << 60;
        counts.iter().all(|c| (0..=0x1_0000).contains(c))
            && (self.count != 1 || !self.is_periodic())
            && self.next.is_none_or(|n| n.count > 1 || n.count == 1 && !self.is_periodic())
            && loaded
            && self.mode < 6
            && (1..4).contains(&self.access)
            && near(at)
            && near(start)
    }

    fn modulus(&self) -> i64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// Pulses of the high half of a square wave.
    fn high(count: i64) -> i64 {
        (count + 1) / 2
    }

    fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// OUT.
    pub(super) fn out(&self, now: i64) -> bool {
        let n = self.count;
        let e = match self.run {
            Run::Counting(start) if now >= start => now - start,
            Run::Paused(e) if self.mode == 0 => e,
            _ => return self.mode != 0,
        };
        match self.mode {
            0 | 1 => e >= n,
            2 => e % n != n - 1,
            3 => e % n < Self::high(n),
            _ => e != n,
        }
    }

    /// The first pulse after `now` at which OUT rises.
    pub(super) fn next_rise(&self, now: i64) -> Option<i64> {
        let Run::Counting(start) = self.run else { return None };
        let n = self.count;
        match self.mode {
            0 | 1 => Some(start + n),
            2 | 3 => return Some(start + ((now - start).max(0) / n + 1) * n),
            _ => Some(start + n + 1),
        }
        .filter(|&t| t > now)
    }

    /// The first pulse after `now` at which something happens that a wire may show.
    pub(super) fn next_event(&self, now: i64) -> Option<i64> {
        let fall = match self.run {
            Run::Counting(start) if self.mode == 3 => {
                let e = (now - start).max(0);
                let high = Self::high(self.count);
                let cycles = (e + self.count - high) / self.count;
                Some(start + cycles * self.count + high).filter(|&t| t > now)
            }
            _ => None,
        };
        let switch = self.next.and_then(|n| n.at);
        [self.next_rise(now), fall, switch].into_iter().flatten().min()
    }

    /// Lets a count written earlier take effect. Says whether OUT rose in `(seen, now]`.
    pub(super) fn advance(&mut self, mut seen: i64, now: i64) -> bool {
        let mut rose = false;
        if let Some(Next { at: Some(at), count }) =
            self.next.filter(|n| n.at.is_some_and(|t| t <= now))
        {
            rose = self.next_rise(seen).is_some_and(|t| t <= at);
            // A square wave may change at its falling edge: the new count begins with its low half.
            let into = if self.out(at) { 0 } else { Self::high(count) };
            self.run = Run::Counting(at - into);
            self.count = count;
            self.next = None;
            seen = seen.max(at);
        }
        rose || self.next_rise(seen).is_some_and(|t| t <= now)
    }

    /// GATE.
    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    /// Sets GATE.
    pub(super) fn set_gate(&mut self, now: i64, gate: bool) {
        if std::mem::replace(&mut self.gate, gate) == gate {
            return;
        }
        self.run = match (self.mode, gate, self.run) {
            (_, _, Run::Unloaded) => Run::Unloaded,
            (1 | 5, true, _) => {
                if let Some(next) = self.next.take() {
                    self.count = next.count;
                }
                Run::Counting(now + 1)
            }
            (2 | 3, true, _) => {
                if let Some(next) = self.next.take() {
                    self.count = next.count;
                }
                Run::Counting(now + 1)
            }
            (0 | 4, true, Run::Paused(e)) => Run::Counting(now - e),
            (0 | 2 | 3 | 4, false, Run::Counting(start)) => Run::Paused((now - start).max(0)),
            (_, _, run) => run,
        };
        if let (false, Some(next)) = (gate, &mut self.next) {
            next.at = None;
        }
    }

    /// The counting element as it reads.
    fn value(&self, now: i64) -> u16 {
        let (n, m) = (self.count, self.modulus());
        let e = match self.run {
            Run::Counting(start) => (now - start).max(0),
            Run::Paused(e) => e,
            Run::Unloaded | Run::Armed => 0,
        };
        let v = match self.mode {
            2 | 3 if n == 0 => 0,
            2 => n - e % n,
            3 => {
                // Counts down by two, an odd count from one less, in each half anew.
                let at = e % n;
                let even = n & !1;
                even - 2 * if at < Self::high(n) { at } else { at - Self::high(n) }
            }
            _ => (n - e).rem_euclid(m),
        } % m;
        if self.bcd {
            [1000, 100, 10, 1].into_iter().fold(0, |bcd, place| bcd * 16 + v / place % 10) as u16
        } else {
            v as u16
        }
    }

    fn status_byte(&self, now: i64) -> u8 {
        let null = match self.run {
            Run::Unloaded | Run::Armed => true,
            Run::Counting(start) => start > now || self.next.is_some(),
            Run::Paused(_) => self.next.is_some(),
        };
        u8::from(self.out(now)) << 7
            | u8::from(null) << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    /// Latches the count, unless one is latched already.
    pub(super) fn latch_count(&mut self, now: i64) {
        if self.latch.is_none() {
            self.latch = Some(self.value(now));
            self.read_high = false;
        }
    }

    /// Latches the status, unless one is latched already.
    pub(super) fn latch_status(&mut self, now: i64) {
        if self.status.is_none() {
            self.status = Some(self.status_byte(now));
        }
    }

    /// Takes a control word that is no latch command.
    pub(super) fn control(&mut self, word: u8) {
        let mode = word >> 1 & 7;
        *self = Self {
            gate: self.gate,
            bcd: word & 1 != 0,
            mode: if mode > 5 { mode - 4 } else { mode },
            access: word >> 4 & 3,
            ..Self::default()
        };
    }

    /// Reads the counter's port.
    pub(super) fn read(&mut self, now: i64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = self.latch.unwrap_or_else(|| self.value(now));
        let high = match self.access {
            1 => false,
            2 => true,
            _ => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if high || self.access != 3 {
            self.latch = None;
        }
        if high { (value >> 8) as u8 } else { value as u8 }
    }

    /// Writes the counter's port.
    pub(super) fn write(&mut self, now: i64, byte: u8) {
        let value = match (self.access, self.low_byte) {
            (1, _) => u16::from(byte),
            (2, _) => u16::from(byte) << 8,
            (_, None) => {
                self.low_byte = Some(byte);
                if self.mode == 0 {
                    self.run = Run::Unloaded; // OUT goes low and counting stops
                }
                return;
            }
            (_, Some(low)) => {
                self.low_byte = None;
                u16::from_le_bytes([low, byte])
            }
        };
        self.load(now, value);
    }

    fn load(&mut self, now: i64, value: u16) {
        let v = i64::from(value);
        let digits = (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
        let mut count = match if self.bcd { digits } else { v } {
            0 => self.modulus(),
            n => n,
        };
        if self.is_periodic() {
            count = count.max(2); // 1 is illegal there
        }
        let start = if self.gate { Run::Counting(now + 1) } else { Run::Paused(0) };
        match (self.mode, self.run) {
            (1 | 5, Run::Counting(_)) => self.next = Some(Next { at: None, count }),
            (1 | 5, _) => (self.count, self.run) = (count, Run::Armed),
            (2 | 3, Run::Counting(begin)) if now >= begin => {
                let e = now - begin;
                let cycle = begin + e / self.count * self.count;
                let high = Self::high(self.count);
                let at = if self.mode == 3 && e % self.count < high {
                    cycle + high
                } else {
                    cycle + self.count
                };
                self.next = Some(Next { at: Some(at), count });
            }
            _ => (self.count, self.run) = (count, start),
        }
    }
}
