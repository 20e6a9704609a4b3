//! One node, and the walk of a request down the graph.

use super::edge::{Edge, Grant, Perm, Role, Users, conflict};
use crate::backend::Medium;
use crate::bitmap::DirtyBitmap;
use crate::driver::{Access, BlockStatus, Driver, Lease, Map};
use crate::filter::Breakpoints;
use crate::formats::{Image, ImageHandle};
use crate::sync::lock;
use crate::{BlockError, IoBuf, NodeOptions, Op, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

/// A format, filter or protocol, open and ready for requests.
pub struct Node {
    name: String,
    filename: String,
    driver: RwLock<Arc<dyn Driver>>,
    users: Mutex<Users>,
    /// [`flags`]; zero is the quick way.
    flags: AtomicU32,
    hooks: Arc<Mutex<Hooks>>,
    options: Mutex<Option<NodeOptions>>,
}

/// What makes requests to a node leave the quick way.
mod flags {
    /// Bitmaps or a threshold look at writes.
    pub(super) const WATCHED: u32 = 1;
    /// Discards are dropped.
    pub(super) const KEEP: u32 = 2;
    /// Writes of zeros are found and turned into zero marks.
    pub(super) const ZEROES: u32 = 4;
    /// The same, and storage is given back.
    pub(super) const ZEROES_UNMAP: u32 = 8;
    /// Flushes do nothing.
    pub(super) const NO_FLUSH: u32 = 16;
    /// Another program has the image: no requests.
    pub(super) const INACTIVE: u32 = 32;
    /// Other programs may have the file at the same time.
    pub(super) const SHARED: u32 = 64;
    /// Those that concern a write of data.
    pub(super) const WRITE: u32 = WATCHED | ZEROES | ZEROES_UNMAP | INACTIVE;
}

#[derive(Default)]
struct Hooks {
    bitmaps: Vec<Arc<DirtyBitmap>>,
    threshold: Option<Threshold>,
    detect_zeroes: DetectZeroes,
}

/// Called once with the bytes by which a write went over a threshold, and the threshold.
pub type ThresholdHook = Arc<dyn Fn(u64, u64) + Send + Sync>;

struct Threshold {
    offset: u64,
    hook: ThresholdHook,
}

/// What to do with writes that hold nothing but zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectZeroes {
    /// Write them.
    #[default]
    Off,
    /// Mark the range as zeros.
    On,
    /// Mark it and give storage back.
    Unmap,
}

/// Leases collected on the way down. A chain of mappings longer than this is walked by its
/// drivers instead.
const MAX_LEASES: usize = 4;

type Leases = [Option<Lease>; MAX_LEASES];

/// End of a walk: the driver that has to work, and what keeps the way to it true.
enum Walk {
    Zero,
    Start(Arc<dyn Driver>, u64, Leases),
}

impl Node {
    pub(super) fn new(name: String, filename: String, driver: Arc<dyn Driver>) -> Arc<Self> {
        let node = Arc::new(Self {
            name,
            filename,
            driver: RwLock::new(driver),
            users: Mutex::default(),
            flags: AtomicU32::new(0),
            hooks: Arc::default(),
            options: Mutex::default(),
        });
        node.adopt();
        node
    }

    /// Tells the edges below whose they are.
    pub(crate) fn adopt(self: &Arc<Self>) {
        for edge in self.children() {
            edge.set_parent(&Arc::downgrade(self));
        }
    }

    /// Name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the file it was opened from.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    pub(crate) fn driver(&self) -> Arc<dyn Driver> {
        self.driver.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another driver into the node; the caller has drained its users.
    pub(crate) fn set_driver(self: &Arc<Self>, driver: Arc<dyn Driver>) -> Arc<dyn Driver> {
        let mut slot = self.driver.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *slot, driver);
        drop(slot);
        self.adopt();
        old
    }

    /// Name of its driver.
    pub fn driver_name(&self) -> &'static str {
        self.driver().name()
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.driver.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True when it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when writes are refused.
    pub fn read_only(&self) -> bool {
        self.driver.read().unwrap_or_else(PoisonError::into_inner).read_only()
    }

    /// Edges to the nodes below.
    pub fn children(&self) -> Vec<Arc<Edge>> {
        self.driver().children()
    }

    /// The child through the edge of this name.
    pub fn child(&self, name: &str) -> Option<Arc<Node>> {
        self.children().iter().find(|edge| edge.name() == name).and_then(|edge| edge.node())
    }

    /// True when it passes requests through to its only data child.
    pub fn is_filter(&self) -> bool {
        self.driver().is_filter()
    }

    /// What a filter stands on.
    pub fn filtered(&self) -> Option<Arc<Self>> {
        let edges = self.children();
        edges.iter().find(|edge| edge.role() == Role::Filtered).and_then(|edge| edge.node())
    }

    /// Where it reads what it has not.
    pub fn backing(&self) -> Option<Arc<Self>> {
        let edges = self.children();
        edges.iter().find(|edge| edge.role() == Role::Backing).and_then(|edge| edge.node())
    }

    /// Edges that point here.
    pub fn users(&self) -> Vec<Arc<Edge>> {
        lock(&self.users).edges()
    }

    /// The node as a medium for a backend.
    pub fn medium(self: &Arc<Self>, read_only: bool) -> Medium {
        Medium::new(self, read_only)
    }

    /// The format of the image, for tools; `None` for protocols and filters.
    pub(crate) fn image(&self) -> Option<Arc<dyn Image>> {
        self.driver().image()
    }

    /// The format of the image, for tools; `None` for protocols, filters and `raw`.
    pub fn image_handle(&self) -> Option<ImageHandle> {
        self.image().map(ImageHandle)
    }

    pub(super) fn add_user(&self, edge: &Arc<Edge>) {
        lock(&self.users).add(edge);
    }

    pub(super) fn remove_user(&self, edge: &Edge) {
        lock(&self.users).remove(edge);
    }

    /// What all users together ask for and bear.
    pub(super) fn cumulative(&self) -> Grant {
        self.users().iter().fold(Grant::NONE, |sum, edge| {
            let grant = edge.grant();
            Grant { perm: sum.perm | grant.perm, shared: sum.shared & grant.shared }
        })
    }

    /// Recomputes what this node asks of those below.
    pub(crate) fn refresh_grants(self: &Arc<Self>) -> Result<()> {
        super::edge::refresh(self)
    }

    /// True while somebody may write.
    pub(crate) fn is_written(&self) -> bool {
        self.cumulative().perm.contains(Perm::WRITE)
    }

    /// Says whether `edge` may ask for `wanted`.
    pub(super) fn check_grant(&self, edge: &Edge, wanted: Grant) -> Result<()> {
        if wanted.perm.contains(Perm::WRITE) && self.read_only() {
            return Err(BlockError::InUse("Block node is read-only".into()));
        }
        conflict(&self.name, &self.users(), edge, wanted).map_or(Ok(()), Err)
    }

    /// True while an edge points here.
    pub fn is_used(&self) -> bool {
        !lock(&self.users).is_empty()
    }

    /// What it was opened with, when that is known.
    pub fn options(&self) -> Option<NodeOptions> {
        lock(&self.options).clone()
    }

    pub(crate) fn set_options(&self, options: NodeOptions) {
        *lock(&self.options) = Some(options);
    }

    fn set_flag(&self, flag: u32, on: bool) {
        if on {
            self.flags.fetch_or(flag, Ordering::Release);
        } else {
            self.flags.fetch_and(!flag, Ordering::Release);
        }
    }

    fn flag(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Drops discards, as `discard=ignore` asks.
    pub fn set_ignore_discard(&self, on: bool) {
        self.set_flag(flags::KEEP, on);
    }

    /// True when discards are dropped.
    pub fn ignores_discard(&self) -> bool {
        self.flag(flags::KEEP)
    }

    /// Looks for zeros in what is written.
    pub fn set_detect_zeroes(&self, mode: DetectZeroes) {
        self.set_flag(flags::ZEROES, mode == DetectZeroes::On);
        self.set_flag(flags::ZEROES_UNMAP, mode == DetectZeroes::Unmap);
        lock(&self.hooks).detect_zeroes = mode;
    }

    /// How writes of zeros are treated.
    pub fn detect_zeroes(&self) -> DetectZeroes {
        lock(&self.hooks).detect_zeroes
    }

    /// Makes flushes do nothing, as `cache.no-flush=on` asks.
    pub fn set_no_flush(&self, on: bool) {
        self.set_flag(flags::NO_FLUSH, on);
    }

    /// True when flushes do nothing.
    pub fn no_flush(&self) -> bool {
        self.flag(flags::NO_FLUSH)
    }

    /// Whether requests are taken at all.
    pub fn active(&self) -> bool {
        !self.flag(flags::INACTIVE)
    }

    pub(crate) fn set_shared(&self, on: bool) {
        self.set_flag(flags::SHARED, on);
    }

    /// Keeps other programs from the file below, or lets them have it.
    pub(crate) fn claim(&self, on: bool) -> Result<()> {
        if self.flag(flags::SHARED) { Ok(()) } else { self.driver().claim(on) }
    }

    pub(crate) fn set_active(&self, on: bool) {
        self.set_flag(flags::INACTIVE, !on);
    }

    /// Has `hook` called once when a write reaches beyond `offset`; zero is never.
    pub fn set_write_threshold(&self, offset: u64, hook: ThresholdHook) {
        lock(&self.hooks).threshold = (offset > 0).then_some(Threshold { offset, hook });
        self.update_watched();
    }

    /// The write threshold, or zero.
    pub fn write_threshold(&self) -> u64 {
        lock(&self.hooks).threshold.as_ref().map_or(0, |threshold| threshold.offset)
    }

    fn update_watched(&self) {
        let hooks = lock(&self.hooks);
        self.set_flag(flags::WATCHED, !hooks.bitmaps.is_empty() || hooks.threshold.is_some());
    }

    /// Bitmaps that follow the writes to this node.
    pub fn bitmaps(&self) -> Vec<Arc<DirtyBitmap>> {
        lock(&self.hooks).bitmaps.clone()
    }

    /// The bitmap of this name.
    pub fn bitmap(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        lock(&self.hooks).bitmaps.iter().find(|bitmap| bitmap.name() == Some(name)).cloned()
    }

    /// Lets a bitmap follow the writes. Names must be unique.
    pub fn add_bitmap(&self, bitmap: Arc<DirtyBitmap>) -> Result<()> {
        {
            let mut hooks = lock(&self.hooks);
            let taken = |other: &Arc<DirtyBitmap>| other.name() == bitmap.name();
            if let Some(name) = bitmap.name()
                && hooks.bitmaps.iter().any(taken)
            {
                return Err(BlockError::Invalid(format!("Bitmap already exists: {name}")));
            }
            hooks.bitmaps.push(bitmap);
        }
        self.update_watched();
        Ok(())
    }

    /// Lets it go.
    pub fn remove_bitmap(&self, bitmap: &Arc<DirtyBitmap>) {
        lock(&self.hooks).bitmaps.retain(|other| !Arc::ptr_eq(other, bitmap));
        self.update_watched();
    }

    fn walk(&self, access: Access, mut offset: u64, len: u64) -> Walk {
        let mut driver = self.driver();
        let mut leases = Leases::default();
        let mut held = 0;
        loop {
            match driver.map(access, offset, len) {
                Map::Child { node, offset: below, len: n, lease }
                    if n >= len
                        && held < MAX_LEASES
                        && (access == Access::Read || !node.flag(flags::WRITE)) =>
                {
                    if lease.is_some() {
                        leases[held] = lease;
                        held += 1;
                    }
                    driver = node.driver();
                    offset = below;
                }
                Map::Zero { len: n } if n >= len && access == Access::Read => return Walk::Zero,
                _ => return Walk::Start(driver, offset, leases),
            }
        }
    }

    /// Fills `buf` from `offset`.
    pub fn read(&self, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        if buf.is_empty() {
            return Op::ok(buf);
        }
        match self.walk(Access::Read, offset, buf.len() as u64) {
            Walk::Zero => {
                buf.fill(0);
                Op::ok(buf)
            }
            Walk::Start(driver, offset, leases) => keep(driver.read(offset, buf), leases),
        }
    }

    fn may_write(&self) -> Result<()> {
        match (self.read_only(), self.active()) {
            (true, _) => Err(BlockError::ReadOnly),
            (_, false) => Err(BlockError::InUse(format!("node '{}' is inactive", self.name))),
            _ => Ok(()),
        }
    }

    /// Stores `buf` at `offset`.
    pub fn write(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if let Err(error) = self.may_write() {
            return Op::err(error);
        }
        if buf.is_empty() {
            return Op::ok(buf);
        }
        let len = buf.len() as u64;
        if self.flag(flags::ZEROES | flags::ZEROES_UNMAP) && buf.iter().all(|byte| *byte == 0) {
            let unmap = self.flag(flags::ZEROES_UNMAP) && !self.ignores_discard();
            let op = self.driver().write_zeroes(offset, len, unmap);
            let op = match op {
                Op::Done(result) => Op::Done(result.map(|r| r.map(|()| buf))),
                Op::Pending(future) => Op::pending(async move { future.await.map(|()| buf) }),
            };
            return self.watch(offset, len, op);
        }
        let op = match self.walk(Access::Write, offset, len) {
            Walk::Zero => unreachable!("writes are not mapped to zeros"),
            Walk::Start(driver, offset, leases) => keep(driver.write(offset, buf), leases),
        };
        self.watch(offset, len, op)
    }

    /// Stores `buf` compressed, where the format can.
    pub fn write_compressed(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        match self.may_write() {
            Err(error) => Op::err(error),
            Ok(()) => {
                let len = buf.len() as u64;
                self.watch(offset, len, self.driver().write_compressed(offset, buf))
            }
        }
    }

    /// Tells the watchers about a write when it has finished.
    fn watch<T: Send + 'static>(&self, offset: u64, len: u64, op: Op<T>) -> Op<T> {
        if !self.flag(flags::WATCHED) {
            return op;
        }
        let hooks = self.hooks.clone();
        let over = {
            let mut hooks = lock(&hooks);
            let end = offset + len;
            let over = hooks.threshold.as_ref().is_some_and(|t| end > t.offset);
            if over { hooks.threshold.take().map(|t| (end - t.offset, t)) } else { None }
        };
        if let Some((exceeded, threshold)) = over {
            (threshold.hook)(exceeded, threshold.offset);
            self.update_watched();
        }
        // A write that failed may have left its mark all the same.
        let mark = move || lock(&hooks).bitmaps.iter().for_each(|bitmap| bitmap.mark(offset, len));
        match op {
            Op::Done(result) => {
                mark();
                Op::Done(result)
            }
            Op::Pending(future) => Op::pending(async move {
                let result = future.await;
                mark();
                result
            }),
        }
    }

    /// Makes a range read as zeros; with `unmap` storage may be given back.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Op<()> {
        match (self.may_write(), len) {
            (Err(error), _) => Op::err(error),
            (_, 0) => Op::ok(()),
            _ => {
                let unmap = unmap && !self.ignores_discard();
                self.watch(offset, len, self.driver().write_zeroes(offset, len, unmap))
            }
        }
    }

    /// Declares a range's content as not needed.
    pub fn discard(&self, offset: u64, len: u64) -> Op<()> {
        match (self.may_write(), len) {
            (Err(error), _) => Op::err(error),
            (_, 0) => Op::ok(()),
            _ if self.ignores_discard() => Op::ok(()),
            _ => self.watch(offset, len, self.driver().discard(offset, len)),
        }
    }

    /// Makes finished writes stable.
    pub fn flush(&self) -> Op<()> {
        if self.read_only() || self.flag(flags::NO_FLUSH) {
            Op::ok(())
        } else {
            self.driver().flush()
        }
    }

    /// Changes the length.
    pub fn truncate(&self, len: u64) -> Op<()> {
        if let Err(error) = self.may_write() {
            return Op::err(error);
        }
        let op = self.driver().truncate(len);
        if !self.flag(flags::WATCHED) {
            return op;
        }
        let hooks = self.hooks.clone();
        Op::pending(async move {
            op.await?;
            lock(&hooks).bitmaps.iter().for_each(|bitmap| bitmap.resize(len));
            Ok(())
        })
    }

    /// Says how the start of a range is stored.
    pub fn status(&self, offset: u64, len: u64) -> Op<BlockStatus> {
        self.driver().status(offset, len)
    }

    /// Flushes, and leaves images as a clean shutdown does.
    pub fn close(&self) -> Op<()> {
        // All that storage has to do is a flush.
        let storage = self.no_flush() && self.children().is_empty();
        if self.read_only() || storage || !self.active() {
            Op::ok(())
        } else {
            self.driver().close()
        }
    }

    /// Tells this node, which a format stands on, of a step that it takes.
    pub(crate) fn debug_event(&self, name: &str) -> Op<()> {
        self.driver().debug_event(name)
    }

    /// The breakpoints of this node, or of what it stands on.
    pub fn breakpoints(&self) -> Option<Breakpoints> {
        if let Some(driver) = self.driver().as_blkdebug() {
            return Some(Breakpoints(driver));
        }
        let below = self.children().into_iter().find(|edge| edge.role() != Role::Backing)?;
        below.node()?.breakpoints()
    }

    /// True when rules wait for [`Node::debug_event`].
    pub(crate) fn is_debugged(&self) -> bool {
        self.driver_name() == "blkdebug"
    }

    /// True when `other` is this node or below it.
    pub fn reaches(&self, other: &Arc<Self>) -> bool {
        std::ptr::eq(self, &**other)
            || self.children().iter().any(|e| e.node().is_some_and(|node| node.reaches(other)))
    }

    /// A reference that does not keep it alive.
    pub fn downgrade(self: &Arc<Self>) -> Weak<Self> {
        Arc::downgrade(self)
    }
}

fn keep(op: Op<IoBuf>, leases: Leases) -> Op<IoBuf> {
    match op {
        Op::Pending(future) if leases[0].is_some() => Op::pending(async move {
            let result = future.await;
            drop(leases);
            result
        }),
        op => op,
    }
}
