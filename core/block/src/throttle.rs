//! Limits on rate, shared by the members of a group.
//!
//! Each limit is a bucket that leaks at the average rate. A request may pass while the bucket is
//! not over its size; bursts make it larger, and a second bucket bounds the rate of a long burst.

use crate::op::race;
use crate::qapi::qapi;
use crate::sync::{Notify, lock};
use crate::{BlockError, Context, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

qapi! {
    /// Limits as the monitor spells them; zero or absent is none.
    #[derive(Default)]
    struct ThrottleLimits {
        iops_total: Option<u64>,
        iops_total_max: Option<u64>,
        iops_total_max_length: Option<u64>,
        iops_read: Option<u64>,
        iops_read_max: Option<u64>,
        iops_read_max_length: Option<u64>,
        iops_write: Option<u64>,
        iops_write_max: Option<u64>,
        iops_write_max_length: Option<u64>,
        bps_total: Option<u64>,
        bps_total_max: Option<u64>,
        bps_total_max_length: Option<u64>,
        bps_read: Option<u64>,
        bps_read_max: Option<u64>,
        bps_read_max_length: Option<u64>,
        bps_write: Option<u64>,
        bps_write_max: Option<u64>,
        bps_write_max_length: Option<u64>,
        iops_size: Option<u64>,
    }
}

/// One limit: average per second, burst per second, seconds of burst.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rate {
    avg: u64,
    max: u64,
    seconds: u64,
}

const BPS: usize = 0;
const IOPS: usize = 3;

impl ThrottleLimits {
    /// Bytes total, read, write; requests total, read, write.
    fn rates(&self) -> [Rate; 6] {
        let rate = |avg: Option<u64>, max: Option<u64>, seconds: Option<u64>| Rate {
            avg: avg.unwrap_or(0),
            max: max.unwrap_or(0),
            seconds: seconds.unwrap_or(1).max(1),
        };
        [
            rate(self.bps_total, self.bps_total_max, self.bps_total_max_length),
            rate(self.bps_read, self.bps_read_max, self.bps_read_max_length),
            rate(self.bps_write, self.bps_write_max, self.bps_write_max_length),
            rate(self.iops_total, self.iops_total_max, self.iops_total_max_length),
            rate(self.iops_read, self.iops_read_max, self.iops_read_max_length),
            rate(self.iops_write, self.iops_write_max, self.iops_write_max_length),
        ]
    }

    /// Refuses limits that contradict each other.
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |text: &str| Err(BlockError::Invalid(text.into()));
        let rates = self.rates();
        for group in [&rates[BPS..IOPS], &rates[IOPS..]] {
            if group[0].avg > 0 && (group[1].avg > 0 || group[2].avg > 0) {
                return bad(
                    "bps/iops/max total values and read/write values cannot be used at the same time",
                );
            }
        }
        if self.iops_size.is_some_and(|size| size > 0) && rates[IOPS..].iter().all(|r| r.avg == 0) {
            return bad("iops size requires an iops value to be set");
        }
        for rate in rates {
            if rate.avg > 1_000_000_000_000_000 || rate.max > 1_000_000_000_000_000 {
                return bad("bps/iops/max values must be within [0, 1000000000000000]");
            }
            if rate.max > 0 && rate.avg == 0 {
                return bad("bps_max/iops_max require corresponding bps/iops values");
            }
            if rate.seconds > 1 && rate.max == 0 {
                return bad("burst length set without burst rate");
            }
            if rate.max > 0 && rate.max < rate.avg {
                return bad("bps_max/iops_max cannot be lower than bps/iops");
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    level: f64,
    burst: f64,
}

const SECOND: f64 = 1e9;

impl Bucket {
    fn leak(&mut self, rate: Rate, ns: u64) {
        let seconds = ns as f64 / SECOND;
        self.level = (self.level - rate.avg as f64 * seconds).max(0.0);
        self.burst = (self.burst - rate.max as f64 * seconds).max(0.0);
    }

    /// Nanoseconds until a request may pass.
    fn wait(&self, rate: Rate) -> u64 {
        if rate.avg == 0 {
            return 0;
        }
        let until = |level: f64, size: f64, rate: u64| {
            if level > size { ((level - size) / rate as f64 * SECOND).ceil() as u64 } else { 0 }
        };
        // Without a burst the bucket holds a tenth of a second.
        if rate.max == 0 {
            return until(self.level, rate.avg as f64 / 10.0, rate.avg);
        }
        let wait = until(self.level, (rate.max * rate.seconds) as f64, rate.avg);
        if rate.seconds > 1 {
            return wait.max(until(self.burst, rate.max as f64 / 10.0, rate.max));
        }
        wait
    }
}

/// A set of drives that share limits.
pub(crate) struct ThrottleGroup {
    context: Context,
    state: Mutex<State>,
    changed: Notify,
    members: AtomicU64,
}

#[derive(Default)]
struct State {
    limits: ThrottleLimits,
    buckets: [Bucket; 6],
    at: u64,
    /// Who waits, reads and writes apart: members in turn, each with its requests in order.
    queues: [VecDeque<(u64, VecDeque<u64>)>; 2],
    last: u64,
}

impl State {
    fn leak(&mut self, now: u64) {
        let ns = now.saturating_sub(self.at);
        self.at = now;
        let rates = self.limits.rates();
        for (bucket, rate) in self.buckets.iter_mut().zip(rates) {
            bucket.leak(rate, ns);
        }
    }

    /// The limits for reads (1) or writes (2), and those for both.
    fn wait(&mut self, now: u64, write: bool) -> u64 {
        self.leak(now);
        let rates = self.limits.rates();
        let own = 1 + usize::from(write);
        let which = [BPS, BPS + own, IOPS, IOPS + own];
        which.iter().map(|i| self.buckets[*i].wait(rates[*i])).max().unwrap_or(0)
    }

    fn account(&mut self, write: bool, bytes: u64) {
        let size = self.limits.iops_size.unwrap_or(0);
        let units = if size > 0 && bytes > size { bytes as f64 / size as f64 } else { 1.0 };
        let own = 1 + usize::from(write);
        for (i, amount) in
            [(BPS, bytes as f64), (BPS + own, bytes as f64), (IOPS, units), (IOPS + own, units)]
        {
            self.buckets[i].level += amount;
            self.buckets[i].burst += amount;
        }
    }

    fn is_first(&self, write: bool, ticket: u64) -> bool {
        let first = self.queues[usize::from(write)].front().and_then(|(_, q)| q.front());
        first == Some(&ticket)
    }

    fn leave(&mut self, write: bool, member: u64, ticket: u64) {
        let queue = &mut self.queues[usize::from(write)];
        let Some(at) = queue.iter().position(|(m, _)| *m == member) else { return };
        let (_, mut waiting) = queue.remove(at).expect("found");
        waiting.retain(|t| *t != ticket);
        if !waiting.is_empty() {
            queue.push_back((member, waiting));
        }
    }
}

impl ThrottleGroup {
    pub(crate) fn new(context: &Context, limits: ThrottleLimits) -> Result<Arc<Self>> {
        limits.check()?;
        let state = State { limits, at: context.now(), ..State::default() };
        Ok(Arc::new(Self {
            context: context.clone(),
            state: Mutex::new(state),
            changed: Notify::default(),
            members: AtomicU64::new(0),
        }))
    }

    pub(crate) fn limits(&self) -> ThrottleLimits {
        lock(&self.state).limits.clone()
    }

    pub(crate) fn set_limits(&self, limits: ThrottleLimits) -> Result<()> {
        limits.check()?;
        {
            let mut state = lock(&self.state);
            state.leak(self.context.now());
            state.limits = limits;
            state.buckets = Default::default();
        }
        self.changed.notify();
        Ok(())
    }

    /// Asks everybody who waits again whether limits count.
    pub(crate) fn wake(&self) {
        self.changed.notify();
    }

    /// A number for a new member.
    pub(crate) fn join(&self) -> u64 {
        self.members.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets a request pass at once, if it may.
    pub(crate) fn try_pass(&self, write: bool, bytes: u64) -> bool {
        let mut state = lock(&self.state);
        if !state.queues[usize::from(write)].is_empty() {
            return false;
        }
        let now = self.context.now();
        if state.wait(now, write) > 0 {
            return false;
        }
        state.account(write, bytes);
        true
    }

    /// Waits until a request may pass, or `exempt` says that limits do not count now.
    pub(crate) async fn pass(
        &self,
        member: u64,
        write: bool,
        bytes: u64,
        exempt: impl Fn() -> bool + Send + Sync,
    ) {
        if exempt() || self.try_pass(write, bytes) {
            return;
        }
        let ticket = {
            let mut state = lock(&self.state);
            state.last += 1;
            let ticket = state.last;
            let queue = &mut state.queues[usize::from(write)];
            match queue.iter_mut().find(|(m, _)| *m == member) {
                Some((_, waiting)) => waiting.push_back(ticket),
                None => queue.push_back((member, VecDeque::from([ticket]))),
            }
            ticket
        };
        loop {
            let first = || (exempt() || lock(&self.state).is_first(write, ticket)).then_some(());
            self.changed.until(first).await;
            let wait = {
                let mut state = lock(&self.state);
                let wait = if exempt() { 0 } else { state.wait(self.context.now(), write) };
                if wait == 0 {
                    state.account(write, bytes);
                    state.leave(write, member, ticket);
                }
                wait
            };
            if wait == 0 {
                self.changed.notify();
                return;
            }
            let woken = self.changed.until(|| exempt().then_some(()));
            let _ = race(std::pin::pin!(self.context.sleep(wait)), std::pin::pin!(woken)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_bursts_through_and_then_the_average() {
        let rate = Rate { avg: 100, max: 0, seconds: 1 };
        let mut bucket = Bucket::default();
        let mut passed = 0;
        let mut now = 0;
        while now < 10_000_000_000 {
            let wait = bucket.wait(rate);
            if wait == 0 {
                bucket.level += 1.0;
                passed += 1;
            } else {
                bucket.leak(rate, wait);
                now += wait;
            }
        }
        assert!((1000..=1012).contains(&passed), "{passed}");
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let total = ThrottleLimits { bps_total: Some(1), bps_read: Some(1), ..Default::default() };
        assert!(total.check().is_err());
        let burst = ThrottleLimits { iops_read_max: Some(5), ..Default::default() };
        assert!(burst.check().is_err());
        let good =
            ThrottleLimits { iops_read: Some(5), iops_size: Some(4096), ..Default::default() };
        good.check().unwrap();
    }

    #[test]
    fn members_take_turns() {
        let group = ThrottleGroup::new(&Context::default(), ThrottleLimits::default()).unwrap();
        let mut state = lock(&group.state);
        state.queues[0] =
            VecDeque::from([(1, VecDeque::from([1, 2, 3])), (2, VecDeque::from([4]))]);
        let mut order = Vec::new();
        while let Some((member, waiting)) = state.queues[0].front() {
            let (member, ticket) = (*member, waiting[0]);
            assert!(state.is_first(false, ticket));
            state.leave(false, member, ticket);
            order.push(ticket);
        }
        assert_eq!(order, [1, 4, 2, 3]);
    }
}
