//! Virtual time.
//!
//! Virtual time only moves when the machine runs. A device never asks the host what time it is;
//! a wall clock reaches it as configuration.

use crate::irq::Attention;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Nanoseconds since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VmTime(pub u64);

impl VmTime {
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `nanos` after this one.
    pub const fn after(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds since `earlier`, or zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole ticks of a `hz` oscillator that started at time zero.
    pub const fn ticks(self, hz: u64) -> u64 {
        (self.0 as u128 * hz as u128 / NANOS_PER_SEC as u128) as u64
    }

    /// The first instant at which a `hz` oscillator that started at zero has made `ticks` ticks.
    pub const fn at_tick(ticks: u64, hz: u64) -> Self {
        let ns = (ticks as u128 * NANOS_PER_SEC as u128).div_ceil(hz as u128);
        Self(if ns > u64::MAX as u128 { u64::MAX } else { ns as u64 })
    }
}

/// A reader of the machine's clock.
#[derive(Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// The current virtual time.
    pub fn now(&self) -> VmTime {
        VmTime(self.0.load(Relaxed))
    }

    /// Moves time forward; going back has no effect. Only the run loop and tests call this.
    pub fn advance_to(&self, t: VmTime) {
        self.0.fetch_max(t.0, Relaxed);
    }

    /// Sets the time, in either direction: for restoring a snapshot.
    pub fn set(&self, t: VmTime) {
        self.0.store(t.0, Relaxed);
    }
}

/// One wake-up slot, drained by the machine's scheduler. `u64::MAX` means disarmed.
#[derive(Clone)]
pub struct Timer {
    deadline: Arc<AtomicU64>,
    hub: Arc<Hub>,
}

/// What all timers of a machine share.
struct Hub {
    /// The instant the current run slice aims at: a timer armed before it must end the slice.
    slice_end: AtomicU64,
    attention: Attention,
}

impl Default for Timer {
    fn default() -> Self {
        TimerHub::new(Attention::default()).timer(0, 0)
    }
}

impl Timer {
    /// Asks for a wake-up at `t`, replacing any earlier request.
    pub fn arm(&self, t: VmTime) {
        self.deadline.store(t.0, Relaxed);
        if t.0 < self.hub.slice_end.load(Relaxed) {
            self.hub.attention.raise();
        }
    }

    /// Withdraws the request.
    pub fn disarm(&self) {
        self.deadline.store(u64::MAX, Relaxed);
    }

    /// Arms at `t`, or disarms if there is none.
    pub fn set(&self, t: Option<VmTime>) {
        match t {
            Some(t) => self.arm(t),
            None => self.disarm(),
        }
    }

    /// The pending deadline.
    pub fn deadline(&self) -> Option<VmTime> {
        let t = self.deadline.load(Relaxed);
        (t != u64::MAX).then_some(VmTime(t))
    }
}

/// Every timer of a machine.
pub(crate) struct TimerHub {
    shared: Arc<Hub>,
    slots: Vec<Slot>,
}

struct Slot {
    deadline: Arc<AtomicU64>,
    device: u32,
    index: u32,
}

impl TimerHub {
    pub(crate) fn new(attention: Attention) -> Self {
        let shared = Arc::new(Hub { slice_end: AtomicU64::new(0), attention });
        Self { shared, slots: Vec::new() }
    }

    /// A new slot whose wake-up goes to `device`, as its timer number `index`.
    pub(crate) fn timer(&mut self, device: u32, index: u32) -> Timer {
        let deadline = Arc::new(AtomicU64::new(u64::MAX));
        self.slots.push(Slot { deadline: deadline.clone(), device, index });
        Timer { deadline, hub: self.shared.clone() }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> VmTime {
        VmTime(self.slots.iter().map(|s| s.deadline.load(Relaxed)).min().unwrap_or(u64::MAX))
    }

    /// Takes the slot that is due first at `now`: (device, index). Ties go to the older slot.
    pub(crate) fn take_due(&self, now: VmTime) -> Option<(u32, u32)> {
        let slot = self.slots.iter().min_by_key(|s| s.deadline.load(Relaxed))?;
        if slot.deadline.load(Relaxed) > now.0 || slot.deadline.load(Relaxed) == u64::MAX {
            return None;
        }
        slot.deadline.store(u64::MAX, Relaxed);
        Some((slot.device, slot.index))
    }

    pub(crate) fn set_slice_end(&self, t: VmTime) {
        self.shared.slice_end.store(t.0, Relaxed);
    }
}

/// How long host operations (disk reads) take in virtual time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    deterministic: bool,
}

impl Latency {
    /// In realtime mode operations take as long as the host takes: zero here.
    pub const fn new(deterministic: bool) -> Self {
        Self { deterministic }
    }

    /// Virtual nanoseconds that moving `bytes` takes: with the deterministic clock 100 us plus
    /// 1 ns a byte, whatever the host does.
    pub const fn of(self, bytes: u64) -> u64 {
        if self.deterministic { 100_000 + bytes } else { 0 }
    }
}
