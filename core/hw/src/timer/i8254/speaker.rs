//! Counter 2 as the timer and the speaker share it, and the sound it makes.

use super::counter::Counter;
use super::pulses;
use orrery_system::VmTime;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Changes remembered for the sound; the oldest go first when nobody listens.
const HISTORY: usize = 8192;
/// How often the output is looked at for one sample.
const OVERSAMPLE: u64 = 8;
/// Full swing of the speaker.
const LOUDNESS: f32 = 0.25;

/// What the speaker was fed with from a clock pulse on.
#[derive(Clone, Copy)]
struct Segment {
    from: i64,
    counter: Counter,
    data: bool,
}

struct Shared {
    counter: Counter,
    /// The pulse up to which the counter was advanced.
    seen: i64,
    data: bool,
    history: VecDeque<Segment>,
}

/// Counter 2 of a timer. Clones are the same counter.
#[derive(Clone)]
pub struct Channel2(Arc<Mutex<Shared>>);

impl Default for Channel2 {
    fn default() -> Self {
        let shared =
            Shared { counter: Counter::new(false), seen: 0, data: false, history: VecDeque::new() };
        Self(Arc::new(Mutex::new(shared)))
    }
}

impl Shared {
    fn advance(&mut self, now: i64) {
        let before = self.counter;
        self.counter.advance(self.seen, now);
        self.seen = self.seen.max(now);
        if self.counter != before {
            self.note(now);
        }
    }

    /// Remembers that something changed.
    fn note(&mut self, now: i64) {
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(Segment { from: now, counter: self.counter, data: self.data });
    }
}

impl Channel2 {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("no panic while held")
    }

    pub(super) fn peek(&self) -> Counter {
        self.lock().counter
    }

    pub(super) fn counter(&self, now: i64) -> Counter {
        let mut s = self.lock();
        s.advance(now);
        s.counter
    }

    pub(super) fn set_counter(&self, now: i64, counter: Counter) {
        let mut s = self.lock();
        s.seen = now;
        if s.counter != counter {
            s.counter = counter;
            s.note(now);
        }
    }

    /// Sets the counter's gate and whether its output reaches the speaker.
    pub fn set(&self, now: VmTime, gate: bool, data: bool) {
        let now = pulses(now);
        let mut s = self.lock();
        s.advance(now);
        if s.counter.gate() != gate || s.data != data {
            s.counter.set_gate(now, gate);
            s.data = data;
            s.note(now);
        }
    }

    /// Sets whether the counter's output reaches the speaker, leaving the gate alone.
    pub fn set_speaker(&self, now: VmTime, data: bool) {
        let mut s = self.lock();
        s.data = data;
        s.note(pulses(now));
    }

    /// OUT 2.
    pub fn out(&self, now: VmTime) -> bool {
        let now = pulses(now);
        let mut s = self.lock();
        s.advance(now);
        s.counter.out(now)
    }

    /// Adds the speaker's sound to interleaved stereo frames.
    pub fn mix(&self, from: VmTime, to: VmTime, out: &mut [f32]) {
        let frames = (out.len() / 2) as u64;
        if frames == 0 {
            return;
        }
        let mut s = self.lock();
        let span = u128::from(to.since(from));
        let steps = frames * OVERSAMPLE;
        let mut segment = Segment { from: 0, counter: s.counter, data: false };
        for (i, frame) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let mut high = 0;
            for k in 0..OVERSAMPLE {
                let step = u128::from(i as u64 * OVERSAMPLE + k);
                let t = pulses(from.after((span * step / u128::from(steps)) as u64));
                while let Some(&next) = s.history.front().filter(|n| n.from <= t) {
                    segment = next;
                    s.history.pop_front();
                }
                high += u32::from(segment.data && segment.counter.out(t));
            }
            let v = high as f32 / OVERSAMPLE as f32 * LOUDNESS;
            frame[0] += v;
            frame[1] += v;
        }
        // The segment that goes on is the first of the next call.
        let current = Segment { from: segment.from.min(pulses(to)), ..segment };
        s.history.push_front(current);
    }
}
