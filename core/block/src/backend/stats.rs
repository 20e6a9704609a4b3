//! What a drive has done.

use super::request::Kind;
use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many requests took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Nanoseconds at which a new class begins; the first begins at zero.
    pub boundaries: Vec<u64>,
    /// Requests in each class: one more than there are boundaries.
    pub bins: Vec<u64>,
}

impl Histogram {
    fn new(boundaries: Vec<u64>) -> Self {
        Self { bins: vec![0; boundaries.len() + 1], boundaries }
    }

    fn count(&mut self, ns: u64) {
        let class = self.boundaries.partition_point(|boundary| *boundary <= ns);
        self.bins[class] += 1;
    }
}

/// Counters of one kind of request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpStats {
    /// Finished well.
    pub ops: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Failed in the storage below.
    pub failed: u64,
    /// Refused before they got there.
    pub invalid: u64,
    /// Nanoseconds that those that finished well took together, where there is a clock.
    pub total_ns: u64,
}

/// Counters of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Reads.
    pub read: OpStats,
    /// Writes and zero writes.
    pub write: OpStats,
    /// Flushes.
    pub flush: OpStats,
    /// Discards.
    pub discard: OpStats,
    /// Bytes from the start that were ever written.
    pub highest_write: u64,
}

#[derive(Default)]
struct Cell {
    ops: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    invalid: AtomicU64,
    total_ns: AtomicU64,
}

#[derive(Default)]
pub(super) struct Counters([Cell; 4], AtomicU64, Timing);

/// Histograms of reads, writes and flushes; `on` when there is one.
#[derive(Default)]
struct Timing {
    on: AtomicBool,
    histograms: Mutex<[Option<Histogram>; 3]>,
}

impl Counters {
    /// Notes that a write reached `end`.
    pub(super) fn reached(&self, end: u64) {
        if self.1.load(Ordering::Relaxed) < end {
            self.1.fetch_max(end, Ordering::Relaxed);
        }
    }

    pub(super) fn done(&self, kind: Kind, bytes: u64, ok: bool, ns: u64) {
        if self.2.on.load(Ordering::Relaxed)
            && let Some(Some(histogram)) = lock(&self.2.histograms).get_mut(kind as usize)
        {
            histogram.count(ns);
        }
        let cell = &self.0[kind as usize];
        if ok {
            cell.total_ns.fetch_add(ns, Ordering::Relaxed);
            cell.ops.fetch_add(1, Ordering::Relaxed);
            cell.bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            cell.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn set_histograms(&self, boundaries: [Option<Vec<u64>>; 3]) {
        let mut histograms = lock(&self.2.histograms);
        *histograms = boundaries.map(|list| list.map(Histogram::new));
        self.2.on.store(histograms.iter().any(Option::is_some), Ordering::Relaxed);
    }

    pub(super) fn histograms(&self) -> [Option<Histogram>; 3] {
        lock(&self.2.histograms).clone()
    }

    pub(super) fn invalid(&self, kind: Kind) {
        self.0[kind as usize].invalid.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Stats {
        let one = |kind: Kind| {
            let cell = &self.0[kind as usize];
            OpStats {
                ops: cell.ops.load(Ordering::Relaxed),
                bytes: cell.bytes.load(Ordering::Relaxed),
                failed: cell.failed.load(Ordering::Relaxed),
                invalid: cell.invalid.load(Ordering::Relaxed),
                total_ns: cell.total_ns.load(Ordering::Relaxed),
            }
        };
        Stats {
            read: one(Kind::Read),
            write: one(Kind::Write),
            flush: one(Kind::Flush),
            discard: one(Kind::Discard),
            highest_write: self.1.load(Ordering::Relaxed),
        }
    }
}
