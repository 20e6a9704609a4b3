//! Intel 8254 programmable interval timer.
//!
//! Reference: Intel 8254 data sheet (231164-005). Counter 0 drives IRQ 0; counter 1, once the
//! memory refresh, drives nothing; counter 2 is the speaker's and calibration's, with its gate and
//! output in port 61h, which belongs to the speaker: the two share it through [`Channel2`].
//!
//! In mode 2 the low pulse of one clock is shown on the wire as a pulse of no length at its end.

mod counter;
mod speaker;
#[cfg(test)]
mod tests;

pub use speaker::Channel2;

use counter::Counter;
use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::{Device, Settle};
use orrery_system::reg_map::Access;
use orrery_system::{Clock, IrqInput, IrqLine, RestoreError, State as _, StateBlob, Timer, VmTime};
use serde::{Deserialize, Serialize};

/// The PC's timer clock.
pub const PIT_HZ: u64 = 1_193_182;

orrery_system::reg_map! {
    /// Ports 40h to 43h.
    pub enum Reg {
        /// Counter 0.
        0 Counter0: 1 Rw,
        /// Counter 1.
        1 Counter1: 1 Rw,
        /// Counter 2.
        2 Counter2: 1 Rw,
        /// Control word.
        3 Control: 1 Wo,
    }
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// OUT 0: IRQ 0.
    pub irq: IrqLine,
    /// While high, an HPET has taken over IRQ 0 (legacy replacement). Leave detached without one.
    pub replaced: IrqInput,
    /// Counter 2.
    pub channel2: Channel2,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the next edge of OUT 0.
    pub timer: Timer,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    counters: [Counter; 3],
    /// The clock pulse up to which edges have been looked for.
    seen: i64,
}

impl orrery_system::State for State {
    const KIND: &'static str = "isa-pit";
    const VERSION: u16 = 1;
}

impl State {
    fn power_on(now: i64) -> Self {
        Self { counters: [true, true, false].map(Counter::new), seen: now }
    }

    fn control(&mut self, now: i64, word: u8) {
        let select = word >> 6;
        if select == 3 {
            for (i, c) in self.counters.iter_mut().enumerate() {
                if word & 2 << i != 0 {
                    if word & 0x20 == 0 {
                        c.latch_count(now);
                    }
                    if word & 0x10 == 0 {
                        c.latch_status(now);
                    }
                }
            }
            return;
        }
        let c = &mut self.counters[usize::from(select)];
        if word & 0x30 == 0 {
            c.latch_count(now);
        } else {
            c.control(word);
        }
    }

    /// Brings counters 0 and 1 to `now`; says whether OUT 0 rose on the way.
    fn catch_up(&mut self, now: i64) -> bool {
        let seen = self.seen;
        self.seen = seen.max(now);
        self.counters[1].advance(seen, self.seen);
        self.counters[0].advance(seen, self.seen)
    }
}

/// Clock pulses since power-on.
pub(crate) fn pulses(t: VmTime) -> i64 {
    t.ticks(PIT_HZ) as i64
}

/// The device.
pub struct I8254 {
    wires: Wires,
    state: State,
}

impl I8254 {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let now = pulses(wires.clock.now());
        let mut pit = Self { wires, state: State::power_on(now) };
        pit.reset();
        pit
    }

    /// Brings the state to now, does `f` to it and shows the outcome on the wires.
    fn step<T>(&mut self, f: impl FnOnce(&mut State, i64) -> T) -> T {
        let now = pulses(self.wires.clock.now());
        let rose = self.state.catch_up(now);
        self.state.counters[2] = self.wires.channel2.counter(now);
        let result = f(&mut self.state, now);
        self.wires.channel2.set_counter(now, self.state.counters[2]);
        self.drive(rose);
        result
    }

    fn drive(&self, rose: bool) {
        let now = self.state.seen;
        let out = &self.state.counters[0];
        if self.wires.replaced.level() {
            self.wires.irq.set(false);
        } else {
            if rose {
                self.wires.irq.set(false);
                self.wires.irq.set(true);
            }
            self.wires.irq.set(out.out(now));
        }
        let next = out.next_event(now).map(|t| VmTime::at_tick(t.max(0) as u64, PIT_HZ));
        self.wires.timer.set(next);
    }
}

impl Device for I8254 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        let now = pulses(self.wires.clock.now());
        self.state = State::power_on(now);
        self.wires.channel2.set_counter(now, self.state.counters[2]);
        self.drive(false);
    }

    fn save(&self) -> StateBlob {
        let mut state = self.state.clone();
        state.counters[2] = self.wires.channel2.peek();
        StateBlob::encode(&state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if !state.counters.iter().all(Counter::is_sane) {
            return Err(RestoreError::Invalid("counter out of range"));
        }
        if state.seen < 0 || state.seen > pulses(self.wires.clock.now()) {
            return Err(RestoreError::Invalid("last edge is in the future"));
        }
        self.state = state;
        self.wires.channel2.set_counter(self.state.seen, self.state.counters[2]);
        self.drive(false);
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.step(|_, _| ());
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let c = |i: usize| format!("{:?}", self.state.counters[i]);
        vec![
            ("counter0", c(0)),
            ("counter1", c(1)),
            ("counter2", format!("{:?}", self.wires.channel2.peek())),
        ]
    }
}

impl Settle for I8254 {
    fn settle(&mut self) {
        let out = self.state.counters[0].out(self.state.seen);
        if self.wires.irq.level() != (out && !self.wires.replaced.level()) {
            self.drive(false);
        }
    }
}

impl Registers for I8254 {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let (reg, access) = Reg::decode(offset, width)?;
        if access == Access::Wo {
            return Ok(0);
        }
        Ok(self.step(|s, now| s.counters[reg as usize].read(now)).into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Reg::decode(offset, width)?;
        let value = value as u8;
        self.step(|s, now| match reg {
            Reg::Control => s.control(now, value),
            _ => s.counters[reg as usize].write(now, value),
        });
        Ok(())
    }
}
