//! The device's face of the block layer.
//!
//! A device model holds a [`BlockBackend`], submits [`Request`]s, keeps the [`Ticket`]s and asks
//! them for their results. A request may be finished when `submit` returns: that is the normal
//! case for memory and for synchronous host storage, so look at the ticket first.
//!
//! ```
//! use orrery_block::IoBuf;
//! use orrery_block::backend::{BlockBackend, Request};
//!
//! let disk = BlockBackend::ram(vec![0; 1 << 20]);
//! let mut ticket = disk.submit(Request::Read { offset: 512, buf: IoBuf::zeroed(512) });
//! if let Some(result) = ticket.take() {
//!     assert_eq!(result.unwrap().len(), 512);
//! }
//! ```
//!
//! Nothing in this module names a node or a file; that wall is what keeps devices and storage
//! apart. Import `orrery_block::graph` in a front end or a tool, never in a device.

mod medium;
mod request;
mod stats;

pub use medium::{Medium, OnError};
pub use request::{Request, Ticket};
pub use stats::{Histogram, OpStats, Stats};

use crate::Context;
use crate::exec::Executor;
use crate::graph::{BlockGraph, Edge, Node, RawOptions};
use crate::host::{BlockFile, MemFile};
use crate::sync::{Notify, lock};
use crate::throttle::ThrottleGroup;
use crate::{BlockError, IoBuf, Op, Result};
use medium::Tray;
use request::Kind;
use stats::Counters;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Called when a request finished after `submit` had returned. It must only take note.
pub type NotifyHook = Arc<dyn Fn() + Send + Sync>;

/// A drive: identity, medium, policy and counters. Cheap to clone; all clones are one drive.
///
/// It is `Send + Sync` and never waits. Its methods do not panic for any offset or length.
#[derive(Clone)]
pub struct BlockBackend(Arc<Inner>);

/// Refers to a drive without keeping it.
pub(crate) struct WeakBackend(Weak<Inner>);

impl WeakBackend {
    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub(crate) fn upgrade(&self) -> Option<BlockBackend> {
        self.0.upgrade().map(BlockBackend)
    }
}

struct Inner {
    context: Context,
    state: Mutex<State>,
    stats: Counters,
    in_flight: AtomicU64,
    quiesced: AtomicU64,
    changed: Notify,
    write_cache: AtomicBool,
    /// There is a [`Throttled`].
    throttled: AtomicBool,
    generation: AtomicU64,
}

/// Limits on a drive's rate.
#[derive(Clone)]
struct Throttled {
    group: Arc<ThrottleGroup>,
    name: String,
    member: u64,
}

struct State {
    name: Option<String>,
    label: Option<String>,
    device: String,
    removable: bool,
    io_status: &'static str,
    root: Option<Arc<Edge>>,
    read_only: bool,
    tray: Tray,
    on_read_error: OnError,
    on_write_error: OnError,
    notify: Option<NotifyHook>,
    throttled: Option<Throttled>,
}

impl BlockBackend {
    pub(crate) fn empty(context: &Context, name: Option<&str>) -> Self {
        Self(Arc::new(Inner {
            context: context.clone(),
            state: Mutex::new(State {
                name: name.map(str::to_owned),
                label: None,
                device: String::new(),
                removable: false,
                io_status: "ok",
                root: None,
                read_only: false,
                tray: Tray::default(),
                on_read_error: OnError::default(),
                on_write_error: OnError::default(),
                notify: None,
                throttled: None,
            }),
            stats: Counters::default(),
            in_flight: AtomicU64::new(0),
            quiesced: AtomicU64::new(0),
            changed: Notify::default(),
            write_cache: AtomicBool::new(true),
            throttled: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        }))
    }

    /// A drive that stands alone, with a medium in memory; every request finishes in `submit`.
    pub fn ram(bytes: Vec<u8>) -> Self {
        Self::over_file(Arc::new(MemFile::from_bytes(&bytes)))
    }

    /// The same, but the medium is read-only, like a disc.
    pub fn ram_read_only(bytes: Vec<u8>) -> Self {
        Self::over_file(Arc::new(MemFile::read_only(&bytes)))
    }

    /// A drive that stands alone, with no medium.
    pub fn detached() -> Self {
        Self::empty(&Context::default(), None)
    }

    /// A drive that stands alone over a host file, as `raw`. With a
    /// [`HeldFile`](crate::host::HeldFile) a test decides when each request finishes.
    pub fn over_file(file: Arc<dyn BlockFile>) -> Self {
        let graph = BlockGraph::new();
        let backend = graph.anonymous_backend();
        let read_only = file.read_only();
        let node = graph.open_file(None, "", file).expect("unnamed nodes do not collide");
        let node = graph.open_raw(None, &node, &RawOptions::default()).expect("whole file fits");
        backend.insert(node.medium(read_only)).expect("an empty drive takes any medium");
        backend
    }

    /// Name, until the drive is removed from its graph.
    pub fn name(&self) -> Option<String> {
        lock(&self.0.state).name.clone()
    }

    /// Says which drive it is, for a message.
    fn describe(&self) -> String {
        let state = lock(&self.0.state);
        match (&state.label, &state.name) {
            (Some(label), _) => label.clone(),
            (None, Some(name)) => format!("block device '{name}'"),
            (None, None) => "an unnamed block device".into(),
        }
    }

    /// Says on whose behalf a drive without a name works.
    pub(crate) fn set_label(&self, label: &str) {
        lock(&self.0.state).label = Some(label.into());
    }

    /// Says which device has it: its path among the machine's objects, or its id.
    pub fn set_device(&self, path: &str) {
        lock(&self.0.state).device = path.into();
    }

    /// Which device has it; empty: none that is known.
    pub fn device(&self) -> String {
        lock(&self.0.state).device.clone()
    }

    pub(crate) fn forget_name(&self) {
        lock(&self.0.state).name = None;
    }

    /// The executor that runs this drive's unfinished requests; a test polls it.
    pub fn executor(&self) -> &Executor {
        self.0.context.executor()
    }

    pub(crate) fn downgrade(&self) -> WeakBackend {
        WeakBackend(Arc::downgrade(&self.0))
    }

    /// Sets what to call when a request finishes after `submit` returned.
    pub fn set_notify(&self, hook: Option<NotifyHook>) {
        lock(&self.0.state).notify = hook;
    }

    pub(crate) fn root(&self) -> Option<Arc<Node>> {
        lock(&self.0.state).root.as_ref().and_then(|edge| edge.node())
    }

    /// Length of the medium in bytes; zero when there is none or the tray is open.
    pub fn len(&self) -> u64 {
        let state = lock(&self.0.state);
        if state.tray.open {
            return 0;
        }
        state.root.as_ref().and_then(|edge| edge.node()).map_or(0, |node| node.len())
    }

    /// True when there is no medium or it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the medium refuses writes. A drive without one says no.
    pub fn read_only(&self) -> bool {
        lock(&self.0.state).read_only
    }

    /// Whether finished writes may sit in a cache until a flush (the default).
    pub fn write_cache(&self) -> bool {
        self.0.write_cache.load(Ordering::Relaxed)
    }

    /// Turns the write cache on or off; without it every write is stable when it finishes.
    pub fn set_write_cache(&self, on: bool) {
        self.0.write_cache.store(on, Ordering::Relaxed);
    }

    /// What to do when a read fails.
    pub fn on_read_error(&self) -> OnError {
        lock(&self.0.state).on_read_error
    }

    /// What to do when a write, flush or discard fails.
    pub fn on_write_error(&self) -> OnError {
        lock(&self.0.state).on_write_error
    }

    /// Sets both error policies.
    pub fn set_on_error(&self, read: OnError, write: OnError) {
        let mut state = lock(&self.0.state);
        (state.on_read_error, state.on_write_error) = (read, write);
    }

    /// True for a drive whose medium comes and goes.
    pub fn removable(&self) -> bool {
        lock(&self.0.state).removable
    }

    /// Says that the medium comes and goes.
    pub fn set_removable(&self, on: bool) {
        lock(&self.0.state).removable = on;
    }

    /// `ok`, or what kind of error has stopped the machine since it last went on.
    pub fn io_status(&self) -> &'static str {
        lock(&self.0.state).io_status
    }

    /// Sets or forgets what has stopped the machine.
    pub fn set_io_status(&self, error: Option<&BlockError>) {
        lock(&self.0.state).io_status = match error {
            None => "ok",
            Some(error) if error.is_no_space() => "nospace",
            Some(_) => "failed",
        };
    }

    /// Limits its rate together with that of the other members of a group, or not any more.
    pub(crate) fn set_throttle(&self, group: Option<(&str, &Arc<ThrottleGroup>)>) {
        let new = group.map(|(name, group)| Throttled {
            group: group.clone(),
            name: name.to_owned(),
            member: group.join(),
        });
        self.0.throttled.store(new.is_some(), Ordering::Release);
        let old = std::mem::replace(&mut lock(&self.0.state).throttled, new);
        // Whoever waits for the old group's turn may go.
        if let Some(old) = old {
            old.group.wake();
        }
    }

    /// The group that limits it, with its name.
    pub(crate) fn throttle_group(&self) -> Option<(String, Arc<ThrottleGroup>)> {
        let state = lock(&self.0.state);
        state.throttled.as_ref().map(|throttled| (throttled.name.clone(), throttled.group.clone()))
    }

    /// Starts a request when the limits of its group let it pass.
    fn start_in_turn(&self, request: Request) -> Op<IoBuf> {
        let throttled = match request.kind() {
            Kind::Read | Kind::Write if self.0.throttled.load(Ordering::Acquire) => {
                lock(&self.0.state).throttled.clone()
            }
            _ => None,
        };
        let Some(throttled) = throttled else { return self.start(request) };
        let (write, len) = (request.kind() == Kind::Write, request.len());
        if throttled.group.try_pass(write, len) {
            return self.start(request);
        }
        let this = self.clone();
        Op::pending(async move {
            // A drain does not wait for limits, and limits that are gone hold nobody.
            let member = throttled.member;
            let exempt = || {
                this.0.quiesced.load(Ordering::Relaxed) > 0
                    || lock(&this.0.state).throttled.as_ref().is_none_or(|t| t.member != member)
            };
            throttled.group.pass(member, write, len, exempt).await;
            this.start(request).await
        })
    }

    /// Sorts the time that requests take into classes with these boundaries in nanoseconds; with
    /// none it stops.
    pub(crate) fn set_histograms(&self, boundaries: [Option<Vec<u64>>; 3]) {
        self.0.stats.set_histograms(boundaries);
    }

    /// How long reads, writes and flushes took, where that is noted.
    pub fn histograms(&self) -> [Option<Histogram>; 3] {
        self.0.stats.histograms()
    }

    /// Counters since the drive was made.
    pub fn stats(&self) -> Stats {
        self.0.stats.read()
    }

    /// Number of requests that are not finished.
    pub fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// Starts a request. It goes on when the ticket is dropped.
    pub fn submit(&self, request: Request) -> Ticket {
        let kind = request.kind();
        let bytes = request.len();
        let request = match self.check(request) {
            Ok(request) => request,
            Err(error) => {
                self.0.stats.invalid(kind);
                return Ticket::done(Err(error));
            }
        };
        let began = self.0.context.now();
        if kind == Kind::Write {
            self.0.stats.reached(request.offset() + bytes);
        }
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        let op = if self.0.quiesced.load(Ordering::Relaxed) == 0 {
            self.start_in_turn(request)
        } else {
            let this = self.clone();
            Op::pending(async move {
                // Waiting requests are not in flight: drain would wait for itself.
                this.leave();
                let quiesced = &this.0.quiesced;
                let open = || (quiesced.load(Ordering::Relaxed) == 0).then_some(());
                this.0.changed.until(open).await;
                this.0.in_flight.fetch_add(1, Ordering::Relaxed);
                this.start_in_turn(request).await
            })
        };
        match op {
            Op::Done(result) => {
                let result = result.expect("fresh");
                let ns = self.0.context.now() - began;
                self.0.stats.done(kind, bytes, result.is_ok(), ns);
                self.leave();
                Ticket::done(result)
            }
            Op::Pending(future) => {
                let (ticket, slot) = Ticket::waiting();
                let this = self.clone();
                self.executor().spawn(async move {
                    let result = future.await;
                    let ns = this.0.context.now() - began;
                    this.0.stats.done(kind, bytes, result.is_ok(), ns);
                    let late = slot.finish(result);
                    this.leave();
                    let hook = lock(&this.0.state).notify.clone();
                    if let Some(hook) = hook.filter(|_| late) {
                        hook();
                    }
                });
                ticket.returned();
                ticket
            }
        }
    }

    fn leave(&self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.changed.notify();
        }
    }

    fn check(&self, request: Request) -> Result<Request> {
        let (size, read_only) = {
            let state = lock(&self.0.state);
            if state.tray.open {
                return Err(BlockError::NoMedium);
            }
            let node = state.root.as_ref().and_then(|edge| edge.node());
            (node.ok_or(BlockError::NoMedium)?.len(), state.read_only)
        };
        if request.changes_medium() && read_only {
            return Err(BlockError::ReadOnly);
        }
        let (offset, len) = (request.offset(), request.len());
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(BlockError::OutOfRange { offset, len });
        }
        Ok(request)
    }

    fn start(&self, request: Request) -> Op<IoBuf> {
        let Some(node) = self.root() else { return Op::err(BlockError::NoMedium) };
        let none = |op: Op<()>| match op {
            Op::Done(result) => Op::Done(result.map(|r| r.map(|()| IoBuf::default()))),
            Op::Pending(future) => {
                Op::pending(async move { future.await.map(|()| IoBuf::default()) })
            }
        };
        match request {
            Request::Read { offset, buf } => node.read(offset, buf),
            Request::Write { offset, buf, fua } if fua || !self.write_cache() => {
                Op::pending(async move {
                    let buf = node.write(offset, buf).await?;
                    node.flush().await?;
                    Ok(buf)
                })
            }
            Request::Write { offset, buf, .. } => node.write(offset, buf),
            Request::Flush => none(node.flush()),
            Request::Discard { offset, len } => none(node.discard(offset, len)),
            Request::WriteZeroes { offset, len, unmap } => {
                none(node.write_zeroes(offset, len, unmap))
            }
        }
    }

    /// Reads `len` bytes, for code that can wait.
    pub async fn read(&self, offset: u64, len: usize) -> Result<IoBuf> {
        self.submit(Request::Read { offset, buf: IoBuf::zeroed(len) }).await
    }

    /// Writes, for code that can wait.
    pub async fn write(&self, offset: u64, buf: IoBuf) -> Result<()> {
        self.submit(Request::Write { offset, buf, fua: false }).await.map(drop)
    }

    /// Makes finished writes stable, for code that can wait.
    pub async fn flush(&self) -> Result<()> {
        self.submit(Request::Flush).await.map(drop)
    }

    /// Holds back new requests until [`BlockBackend::drain_end`]; calls nest.
    pub fn drain_begin(&self) {
        self.0.quiesced.fetch_add(1, Ordering::Relaxed);
        if let Some((_, group)) = self.throttle_group() {
            group.wake();
        }
    }

    /// True when nothing is in flight.
    pub fn drained(&self) -> bool {
        self.in_flight() == 0
    }

    /// Lets held-back requests go on.
    pub fn drain_end(&self) {
        let before = self.0.quiesced.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "drain_end without drain_begin");
        self.0.changed.notify();
    }

    /// Waits until nothing is in flight; new requests are held back by [`BlockBackend::drain_begin`].
    pub async fn settled(&self) {
        self.0.changed.until(|| self.drained().then_some(())).await;
    }

    /// Waits until nothing is in flight. New requests may come in afterwards.
    pub async fn drain(&self) {
        struct Section<'a>(&'a BlockBackend);
        impl Drop for Section<'_> {
            fn drop(&mut self) {
                self.0.drain_end();
            }
        }
        self.drain_begin();
        let _section = Section(self);
        self.settled().await;
    }
}

impl fmt::Debug for BlockBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBackend({:?}, {} bytes)", self.name(), self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HeldFile;

    #[test]
    fn requests_on_memory_are_finished_when_submit_returns() {
        let disk = BlockBackend::ram(vec![0; 4096]);
        let buf = IoBuf::from(vec![5; 512]);
        let mut write = disk.submit(Request::Write { offset: 1024, buf, fua: false });
        assert!(write.poll());
        assert_eq!(write.take().unwrap().unwrap().len(), 512, "the memory comes back");
        let mut read = disk.submit(Request::Read { offset: 1023, buf: IoBuf::zeroed(2) });
        assert_eq!(&read.take().unwrap().unwrap()[..], [0, 5]);
        assert!(read.take().is_none(), "a result is taken once");
        let stats = disk.stats();
        assert_eq!((stats.write.ops, stats.write.bytes, stats.read.bytes), (1, 512, 2));
    }

    #[test]
    fn a_pending_request_finishes_later_and_tells_the_device() {
        let file = Arc::new(HeldFile::new(MemFile::from_bytes(&[3; 1024])));
        let disk = BlockBackend::over_file(file.clone());
        let told = Arc::new(AtomicU64::new(0));
        let count = told.clone();
        disk.set_notify(Some(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })));
        let mut ticket = disk.submit(Request::Read { offset: 0, buf: IoBuf::zeroed(4) });
        assert!(!ticket.poll() && ticket.take().is_none());
        assert_eq!(disk.in_flight(), 1);
        file.release_one();
        assert!(!ticket.poll(), "results are delivered when the machine polls");
        disk.executor().poll();
        assert_eq!(told.load(Ordering::Relaxed), 1);
        assert_eq!(&ticket.take().unwrap().unwrap()[..], [3; 4]);
        assert!(disk.drained());
    }

    #[test]
    fn a_dropped_ticket_cancels_nothing() {
        let file = Arc::new(HeldFile::new(MemFile::with_len(1024)));
        let disk = BlockBackend::over_file(file.clone());
        drop(disk.submit(Request::Write { offset: 0, buf: vec![1; 4].into(), fua: false }));
        file.release_all();
        disk.executor().poll();
        assert!(disk.drained());
        assert_eq!(file.file().to_vec()[..4], [1; 4]);
    }

    #[test]
    fn requests_outside_the_medium_or_without_one_fail_and_are_counted() {
        let disk = BlockBackend::ram(vec![0; 1024]);
        for (offset, len) in [(1024, 1), (1023, 2), (u64::MAX, 2), (0, 1025)] {
            let mut ticket = disk.submit(Request::Read { offset, buf: IoBuf::zeroed(len) });
            let len = len as u64;
            assert_eq!(ticket.take(), Some(Err(BlockError::OutOfRange { offset, len })));
        }
        assert_eq!(disk.stats().read.invalid, 4);
        let none = BlockBackend::detached();
        assert_eq!(none.submit(Request::Flush).take(), Some(Err(BlockError::NoMedium)));
        let disc = BlockBackend::ram_read_only(vec![0; 2048]);
        let write = Request::Write { offset: 0, buf: vec![1].into(), fua: false };
        assert_eq!(disc.submit(write).take(), Some(Err(BlockError::ReadOnly)));
    }

    #[test]
    fn a_request_during_drain_waits_for_its_end() {
        let disk = BlockBackend::ram(vec![0; 1024]);
        disk.drain_begin();
        let mut ticket = disk.submit(Request::Read { offset: 0, buf: IoBuf::zeroed(1) });
        disk.executor().poll();
        assert!(!ticket.poll() && disk.drained());
        disk.drain_end();
        disk.executor().poll();
        assert!(ticket.take().unwrap().is_ok());
        assert_eq!(disk.in_flight(), 0);
    }

    #[test]
    fn drain_waits_for_what_is_in_flight() {
        let file = Arc::new(HeldFile::new(MemFile::with_len(1024)));
        let disk = BlockBackend::over_file(file.clone());
        let _ticket = disk.submit(Request::Write { offset: 0, buf: vec![1; 4].into(), fua: true });
        assert_eq!(disk.executor().run_in_place(disk.drain()), None);
        disk.executor().block_on(disk.drain(), &|| file.release_all());
        assert_eq!(disk.in_flight(), 0);
    }
}
