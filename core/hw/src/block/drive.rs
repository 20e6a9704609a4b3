//! Disk operations in flight: what every device with a drive behind it shares.
//!
//! A device asks with [`DriveIo::submit`] and keeps the [`Queue`] in its state. The operation
//! goes to the host at once, but its effect on the guest waits for the virtual instant the
//! machine's [`Latency`] gives it: the device copies data and raises its interrupt when
//! [`DriveIo::take`] hands the result out, from its `HostIo::deliver`. With the deterministic
//! clock results come in the order of their instants, however the host reordered them.
//!
//! A snapshot holds the queue, not the results: restoring submits every operation again, which
//! is harmless because none of them has been answered.

use orrery_block::backend::{BlockBackend, OnError, Request, Ticket};
use orrery_block::{BlockError, IoBuf};
use orrery_system::pins::Power;
use orrery_system::time::{Clock, Latency, Timer, VmTime};
use orrery_system::{Board, DeviceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One operation on a drive. Offsets and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Reads `len` bytes.
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Writes `data`.
    Write {
        /// First byte.
        offset: u64,
        /// What to store.
        data: Vec<u8>,
        /// Stable when finished.
        fua: bool,
    },
    /// Makes finished writes stable.
    Flush,
    /// The range is not needed any more.
    Discard {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Makes the range read as zeros.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Storage may be given back.
        unmap: bool,
    },
}

impl Op {
    /// Bytes moved between the guest and the drive.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } => *len,
            Self::Write { data, .. } => data.len() as u64,
            Self::Flush | Self::Discard { .. } | Self::WriteZeroes { .. } => 0,
        }
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read { .. })
    }

    fn request(&self) -> Request {
        match self {
            // Devices bound what they ask for; a length no host could hold becomes a request
            // that the backend refuses as outside the medium.
            Self::Read { offset, len } => match usize::try_from(*len) {
                Ok(n) if *len <= MAX_BYTES => {
                    Request::Read { offset: *offset, buf: IoBuf::zeroed(n) }
                }
                _ => Request::Read { offset: u64::MAX, buf: IoBuf::zeroed(1) },
            },
            Self::Write { offset, data, fua } => {
                Request::Write { offset: *offset, buf: data.clone().into(), fua: *fua }
            }
            Self::Flush => Request::Flush,
            Self::Discard { offset, len } => Request::Discard { offset: *offset, len: *len },
            Self::WriteZeroes { offset, len, unmap } => {
                Request::WriteZeroes { offset: *offset, len: *len, unmap: *unmap }
            }
        }
    }
}

/// The longest read one operation may ask for.
const MAX_BYTES: u64 = 256 << 20;

/// Why an operation failed, as far as a guest can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// No medium, or the tray is open.
    #[error("no medium")]
    NoMedium,
    /// The medium refuses writes.
    #[error("write-protected")]
    ReadOnly,
    /// Outside the medium.
    #[error("outside the medium")]
    OutOfRange,
    /// The host's storage is full.
    #[error("no space left")]
    NoSpace,
    /// Anything else.
    #[error("medium error")]
    Failed,
}

impl From<&BlockError> for DriveError {
    fn from(e: &BlockError) -> Self {
        match e {
            BlockError::NoMedium => Self::NoMedium,
            BlockError::ReadOnly => Self::ReadOnly,
            BlockError::OutOfRange { .. } => Self::OutOfRange,
            e if e.is_no_space() => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending<T> {
    seq: u64,
    drive: u8,
    tag: T,
    op: Op,
    due: VmTime,
}

/// The operations in flight of one device: part of its state. `T` says what each is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue<T> {
    next: u64,
    list: Vec<Pending<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { next: 0, list: Vec::new() }
    }
}

impl<T> Queue<T> {
    /// Number of operations in flight.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What the operations in flight are for: drive number and tag, oldest first.
    pub fn tags(&self) -> impl Iterator<Item = (usize, &T)> {
        self.list.iter().map(|p| (usize::from(p.drive), &p.tag))
    }

    fn first(&self) -> Option<&Pending<T>> {
        self.list.iter().min_by_key(|p| (p.due, p.seq))
    }
}

/// A finished operation.
#[derive(Debug)]
pub struct Finished<T> {
    /// Which of the device's drives.
    pub drive: usize,
    /// What it was for.
    pub tag: T,
    /// What was asked.
    pub op: Op,
    /// The bytes read (empty for anything else), or why it failed.
    pub result: Result<Vec<u8>, DriveError>,
}

/// The drives of one device and the host's half of its operations.
pub struct DriveIo {
    drives: Vec<BlockBackend>,
    clock: Clock,
    latency: Latency,
    /// Ends the CPUs' slice when an operation falls due; its wake-up has nothing else to do.
    timer: Timer,
    power: Power,
    tickets: BTreeMap<u64, Ticket>,
    /// Failed operations for which the machine was stopped, and [`Power::resumed`] then.
    held: BTreeMap<u64, u64>,
}

impl DriveIo {
    /// Wires up `drives` as those of device `id`, whose timer number `timer` it takes. The
    /// device need not do anything when that timer wakes it.
    pub fn new(board: &mut Board, id: DeviceId, timer: u32, drives: Vec<BlockBackend>) -> Self {
        let timer = board.timer(id, timer);
        Self {
            drives,
            clock: board.clock(),
            latency: board.latency(),
            timer,
            power: board.power(),
            tickets: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Drives of a device without a board, for its tests.
    pub fn detached(drives: Vec<BlockBackend>, clock: Clock, latency: Latency) -> Self {
        Self {
            drives,
            clock,
            latency,
            timer: Timer::default(),
            power: Power::default(),
            tickets: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Drive number `drive`.
    pub fn drive(&self, drive: usize) -> Option<&BlockBackend> {
        self.drives.get(drive)
    }

    /// Starts `op` on drive number `drive`.
    pub fn submit<T>(&mut self, queue: &mut Queue<T>, drive: usize, tag: T, op: Op) {
        let due = self.clock.now().after(self.latency.of(op.bytes()));
        let seq = queue.next;
        queue.next += 1;
        self.start(seq, drive, &op);
        queue.list.push(Pending { seq, drive: drive as u8, tag, op, due });
        self.timer.set(self.due(queue));
    }

    fn start(&mut self, seq: u64, drive: usize, op: &Op) {
        if let Some(backend) = self.drives.get(drive) {
            self.tickets.insert(seq, backend.submit(op.request()));
        }
    }

    fn finished(&self, seq: u64) -> bool {
        match self.held.get(&seq) {
            Some(&then) => then != self.power.resumed(),
            None => self.tickets.get(&seq).is_none_or(Ticket::poll),
        }
    }

    /// Starts the operations again for which the machine was stopped, once it goes on.
    fn retry<T>(&mut self, queue: &Queue<T>) {
        let now = self.power.resumed();
        for p in &queue.list {
            if self.held.get(&p.seq).is_some_and(|&then| then != now) {
                self.held.remove(&p.seq);
                self.start(p.seq, usize::from(p.drive), &p.op);
            }
        }
    }

    fn in_order(&self) -> bool {
        self.latency.of(1) != 0
    }

    /// When the first operation completes: for `HostIo::due`.
    pub fn due<T>(&self, queue: &Queue<T>) -> Option<VmTime> {
        queue.first().map(|p| p.due)
    }

    /// Whether the host has finished it: for `HostIo::ready`.
    pub fn ready<T>(&self, queue: &Queue<T>) -> bool {
        if self.in_order() {
            return queue.first().is_some_and(|p| self.finished(p.seq));
        }
        queue.list.iter().any(|p| self.finished(p.seq))
    }

    /// Takes the next operation that is finished and due.
    pub fn take<T>(&mut self, queue: &mut Queue<T>, now: VmTime) -> Option<Finished<T>> {
        self.retry(queue);
        loop {
            let next = if self.in_order() {
                queue.first().filter(|p| p.due <= now && self.finished(p.seq))?
            } else {
                queue.list.iter().find(|p| p.due <= now && self.finished(p.seq))?
            };
            let (seq, drive) = (next.seq, usize::from(next.drive));
            let result = match self.tickets.remove(&seq).and_then(|mut t| t.take()) {
                Some(Ok(buf)) if next.op.is_read() => Ok(buf.into_vec()),
                Some(Ok(_)) => Ok(Vec::new()),
                Some(Err(e)) => match self.failure(drive, &next.op, &e) {
                    Some(result) => result,
                    None => {
                        self.held.insert(seq, self.power.resumed());
                        continue;
                    }
                },
                None => Err(DriveError::NoMedium),
            };
            let index = queue.list.iter().position(|p| p.seq == seq)?;
            let Pending { tag, op, .. } = queue.list.remove(index);
            return Some(Finished { drive, tag, op, result });
        }
    }

    /// What the guest is told; `None`: nothing yet, the machine stops.
    fn failure(
        &self,
        drive: usize,
        op: &Op,
        e: &BlockError,
    ) -> Option<Result<Vec<u8>, DriveError>> {
        let backend = self.drives.get(drive);
        let policy = match backend {
            Some(d) if op.is_read() => d.on_read_error(),
            Some(d) => d.on_write_error(),
            None => OnError::Report,
        };
        tracing::debug!(drive, error = %e, "disk operation failed");
        let guest = matches!(e, BlockError::NoMedium | BlockError::OutOfRange { .. });
        let full = e.is_no_space();
        match policy {
            OnError::Stop if !guest => self.stop(backend, e),
            OnError::Enospc if full => self.stop(backend, e),
            OnError::Auto if full && !op.is_read() => self.stop(backend, e),
            OnError::Ignore if !matches!(e, BlockError::NoMedium) => Some(match op {
                Op::Read { len, .. } if *len <= MAX_BYTES => Ok(vec![0; *len as usize]),
                Op::Read { .. } => Err(e.into()),
                _ => Ok(Vec::new()),
            }),
            _ => Some(Err(e.into())),
        }
    }

    fn stop<R>(&self, backend: Option<&BlockBackend>, e: &BlockError) -> Option<R> {
        let name = backend.and_then(BlockBackend::name).unwrap_or_default();
        self.power.io_error(format!("disk '{name}': {e}"));
        None
    }

    /// Forgets operations, as a reset does: what was started goes on, but nobody is told.
    pub fn abandon<T>(&mut self, queue: &mut Queue<T>, mut which: impl FnMut(usize, &T) -> bool) {
        queue.list.retain(|p| {
            let gone = which(usize::from(p.drive), &p.tag);
            if gone {
                self.held.remove(&p.seq);
                self.tickets.remove(&p.seq);
            }
            !gone
        });
    }

    /// Forgets every operation and starts numbering anew.
    pub fn abandon_all<T>(&mut self, queue: &mut Queue<T>) {
        self.tickets.clear();
        self.held.clear();
        *queue = Queue::default();
    }

    /// Starts every operation of a restored queue.
    pub fn resume<T>(&mut self, queue: &Queue<T>) {
        self.tickets.clear();
        self.held.clear();
        for p in &queue.list {
            self.start(p.seq, usize::from(p.drive), &p.op);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_block::host::{HeldFile, MemFile};
    use orrery_system::pins::PowerRequest;
    use std::sync::Arc;

    fn held() -> (Arc<HeldFile>, BlockBackend) {
        let file = Arc::new(HeldFile::new(MemFile::from_bytes(&[7; 4096])));
        (file.clone(), BlockBackend::over_file(file))
    }

    fn read(offset: u64, len: u64) -> Op {
        Op::Read { offset, len }
    }

    #[test]
    fn with_the_deterministic_clock_results_keep_the_order_of_their_instants() {
        let (file, disk) = held();
        let clock = Clock::default();
        let mut io = DriveIo::detached(vec![disk.clone()], clock.clone(), Latency::new(true));
        let mut q = Queue::default();
        io.submit(&mut q, 0, 'a', read(0, 1000));
        io.submit(&mut q, 0, 'b', read(0, 10));
        assert_eq!(io.due(&q), Some(VmTime(100_010)), "the short one is first");
        file.release(0);
        disk.executor().poll();
        assert!(!io.ready(&q), "the host finished the other one");
        file.release(0);
        disk.executor().poll();
        assert!(io.ready(&q));
        assert!(io.take(&mut q, VmTime(100_009)).is_none(), "early");
        assert_eq!(io.take(&mut q, VmTime(200_000)).unwrap().tag, 'b');
        let last = io.take(&mut q, VmTime(200_000)).unwrap();
        assert_eq!((last.tag, last.result), ('a', Ok(vec![7; 1000])));
        assert!(q.is_empty() && io.due(&q).is_none());
    }

    #[test]
    fn in_realtime_whatever_the_host_finished_comes_out() {
        let (file, disk) = held();
        let mut io = DriveIo::detached(vec![disk.clone()], Clock::default(), Latency::new(false));
        let mut q = Queue::default();
        io.submit(&mut q, 0, 'a', read(0, 1));
        io.submit(&mut q, 0, 'b', read(0, 1));
        assert!(!io.ready(&q));
        file.release(1);
        disk.executor().poll();
        assert_eq!(io.take(&mut q, VmTime(0)).unwrap().tag, 'b');
        assert!(io.take(&mut q, VmTime(0)).is_none());
    }

    #[test]
    fn a_restored_queue_starts_its_operations_again() {
        let (_, disk) = held();
        let mut io = DriveIo::detached(vec![disk], Clock::default(), Latency::new(true));
        let mut q = Queue::default();
        io.submit(&mut q, 0, 1u8, Op::Write { offset: 0, data: vec![9; 4], fua: false });
        let other = BlockBackend::ram(vec![0; 16]);
        let mut restored =
            DriveIo::detached(vec![other.clone()], Clock::default(), Latency::new(true));
        restored.resume(&q);
        assert!(restored.ready(&q));
        assert!(restored.take(&mut q, VmTime::NEVER).unwrap().result.is_ok());
        restored.submit(&mut q, 0, 2, read(0, 8));
        let data = restored.take(&mut q, VmTime::NEVER).unwrap().result.unwrap();
        assert_eq!(data, [9, 9, 9, 9, 0, 0, 0, 0]);
    }

    #[test]
    fn a_full_disk_stops_the_machine_and_the_write_is_made_again_when_it_goes_on() {
        for deterministic in [true, false] {
            let (file, disk) = held();
            let latency = Latency::new(deterministic);
            let mut io = DriveIo::detached(vec![disk.clone()], Clock::default(), latency);
            let power = io.power.clone();
            let mut q = Queue::default();
            io.submit(&mut q, 0, 'w', Op::Write { offset: 8, data: vec![1; 4], fua: false });
            file.fail_one(BlockError::NoSpace);
            disk.executor().poll();
            assert!(io.ready(&q));
            assert!(io.take(&mut q, VmTime::NEVER).is_none(), "the guest is told nothing");
            assert_eq!(power.take(), Some(PowerRequest::IoError));
            assert!(!io.ready(&q) && q.len() == 1 && file.held() == 0, "not before it goes on");
            power.resume();
            assert!(io.ready(&q));
            assert!(io.take(&mut q, VmTime::NEVER).is_none(), "started, not finished");
            file.release(0);
            disk.executor().poll();
            let done = io.take(&mut q, VmTime::NEVER).unwrap();
            assert_eq!((done.tag, done.result), ('w', Ok(vec![])));
            assert_eq!(file.file().to_vec()[7..13], [7, 1, 1, 1, 1, 7]);
            assert_eq!(power.take(), None);
        }
    }

    #[test]
    fn a_policy_to_report_tells_the_guest_that_the_disk_is_full() {
        let (file, disk) = held();
        disk.set_on_error(OnError::Report, OnError::Report);
        let mut io = DriveIo::detached(vec![disk.clone()], Clock::default(), Latency::new(false));
        let mut q = Queue::default();
        io.submit(&mut q, 0, (), Op::Flush);
        file.fail_one(BlockError::NoSpace);
        disk.executor().poll();
        assert_eq!(io.take(&mut q, VmTime(0)).unwrap().result, Err(DriveError::NoSpace));
        assert_eq!(io.power.take(), None);
    }

    #[test]
    fn errors_are_named_as_a_guest_sees_them_or_hidden_where_the_user_said_so() {
        let disk = BlockBackend::ram_read_only(vec![1; 512]);
        let none = BlockBackend::detached();
        let drives = vec![disk.clone(), none];
        let mut io = DriveIo::detached(drives, Clock::default(), Latency::new(false));
        let mut q = Queue::default();
        let mut ask = |drive, op| {
            io.submit(&mut q, drive, (), op);
            io.take(&mut q, VmTime(0)).unwrap().result
        };
        let write = Op::Write { offset: 0, data: vec![0], fua: false };
        assert_eq!(ask(0, write.clone()), Err(DriveError::ReadOnly));
        assert_eq!(ask(0, read(512, 1)), Err(DriveError::OutOfRange));
        assert_eq!(ask(0, read(0, u64::MAX)), Err(DriveError::OutOfRange));
        assert_eq!(ask(1, read(0, 1)), Err(DriveError::NoMedium));
        assert_eq!(ask(7, read(0, 1)), Err(DriveError::NoMedium), "no such drive");
        disk.set_on_error(OnError::Ignore, OnError::Ignore);
        assert_eq!(ask(0, read(512, 3)), Ok(vec![0; 3]));
        assert_eq!(ask(0, write), Ok(vec![]));
    }
}
