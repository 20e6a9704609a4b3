//! Waiting for each other inside the block layer, first come first served.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes everybody who waits for a condition to change.
#[derive(Default)]
pub(crate) struct Notify(Mutex<Vec<Waker>>);

impl Notify {
    pub(crate) fn notify(&self) {
        let wakers = std::mem::take(&mut *lock(&self.0));
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits until `ready` gives a value; it is asked again after every [`Notify::notify`].
    pub(crate) fn until<'a, T>(
        &'a self,
        mut ready: impl FnMut() -> Option<T> + 'a,
    ) -> impl Future<Output = T> + 'a {
        poll_fn(move |cx| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            lock(&self.0).push(cx.waker().clone());
            // The condition may have come true between the question and the registration.
            match ready() {
                Some(value) => Poll::Ready(value),
                None => Poll::Pending,
            }
        })
    }
}

/// Serialises users of overlapping ranges in the order in which they came.
///
/// A range takes its place before it waits and waits only for earlier ones, so nobody starves
/// and no cycle can form.
#[derive(Default)]
pub(crate) struct RangeLock {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Default)]
struct Held {
    /// The last place given out.
    last: u64,
    /// Who is here, by place.
    ranges: Vec<(u64, Range<u64>)>,
}

/// Holds a range; gives it back when dropped.
pub(crate) struct RangeGuard {
    lock: Arc<RangeLock>,
    id: u64,
}

impl RangeLock {
    /// Takes a place in the queue for `range`.
    fn enter(self: &Arc<Self>, range: Range<u64>) -> RangeGuard {
        let mut held = lock(&self.held);
        held.last += 1;
        let id = held.last;
        held.ranges.push((id, range));
        RangeGuard { lock: self.clone(), id }
    }

    /// Waits until no earlier holder overlaps `range`.
    pub(crate) async fn acquire(self: &Arc<Self>, range: Range<u64>) -> RangeGuard {
        let guard = self.enter(range.clone());
        let id = guard.id;
        self.changed
            .until(|| {
                let held = lock(&self.held);
                let blocked = held.ranges.iter().any(|(other, theirs)| {
                    *other < id && theirs.start < range.end && range.start < theirs.end
                });
                (!blocked).then_some(())
            })
            .await;
        guard
    }

    /// Waits until nobody holds a part of `range`, and may overtake others who wait as well.
    pub(crate) async fn acquire_unfairly(self: &Arc<Self>, range: Range<u64>) -> RangeGuard {
        self.changed
            .until(|| {
                let mut held = lock(&self.held);
                let overlaps =
                    |theirs: &Range<u64>| theirs.start < range.end && range.start < theirs.end;
                if held.ranges.iter().any(|(_, theirs)| overlaps(theirs)) {
                    return None;
                }
                held.last += 1;
                let id = held.last;
                held.ranges.push((id, range.clone()));
                Some(RangeGuard { lock: self.clone(), id })
            })
            .await
    }

    /// Waits for everybody.
    pub(crate) async fn acquire_all(self: &Arc<Self>) -> RangeGuard {
        self.acquire(0..u64::MAX).await
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        lock(&self.lock.held).ranges.retain(|(id, _)| *id != self.id);
        self.lock.changed.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Executor;
    use crate::op::completion;

    #[test]
    fn overlapping_ranges_are_served_in_order_and_disjoint_ones_at_once() {
        let exec = Executor::new();
        let ranges = Arc::new(RangeLock::default());
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut gates = Vec::new();
        for (name, range) in [('a', 0..10), ('b', 5..15), ('c', 12..20), ('d', 30..40)] {
            let (gate, op) = completion::<()>();
            gates.push(Some(gate));
            let (ranges, log) = (ranges.clone(), log.clone());
            exec.spawn(async move {
                let _guard = ranges.acquire(range).await;
                lock(&log).push(name);
                op.await.unwrap();
            });
        }
        assert_eq!(*lock(&log), ['a', 'd'], "c waits for b, which waits for a");
        gates[0].take().unwrap().finish(Ok(()));
        exec.poll();
        assert_eq!(*lock(&log), ['a', 'd', 'b']);
        gates[1].take().unwrap().finish(Ok(()));
        exec.poll();
        assert_eq!(*lock(&log), ['a', 'd', 'b', 'c']);
    }

    #[test]
    fn who_is_not_fair_goes_past_those_who_wait() {
        let exec = Executor::new();
        let ranges = Arc::new(RangeLock::default());
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut gates = Vec::new();
        for (name, range) in [('a', 0..10), ('b', 5..15), ('c', 12..20)] {
            let (gate, op) = completion::<()>();
            gates.push(Some(gate));
            let (ranges, log) = (ranges.clone(), log.clone());
            exec.spawn(async move {
                let _guard = ranges.acquire_unfairly(range).await;
                lock(&log).push(name);
                op.await.unwrap();
            });
        }
        assert_eq!(*lock(&log), ['a', 'c'], "b holds nothing while it waits");
        gates[0].take().unwrap().finish(Ok(()));
        exec.poll();
        assert_eq!(*lock(&log), ['a', 'c']);
        gates[2].take().unwrap().finish(Ok(()));
        exec.poll();
        assert_eq!(*lock(&log), ['a', 'c', 'b']);
    }
}
