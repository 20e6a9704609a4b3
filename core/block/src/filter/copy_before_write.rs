//! `copy-before-write`: keeps a disk as it was when the filter was put in.
//!
//! Before a cluster is overwritten its old content goes to the target, once. Reading the disk as
//! it was means reading the target where it was copied, and the source elsewhere
//! (`snapshot-access`).

use super::pass_on;
use crate::bitmap::Bits;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::job::copy::{Failed, How, copy};
use crate::op::race;
use crate::options::OnCbwError;
use crate::sync::{RangeLock, lock};
use crate::{BlockError, Context, IoBuf, Op, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How to treat the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CbwHow {
    pub(crate) on_error: OnCbwError,
    pub(crate) timeout_ns: u64,
    pub(crate) cluster: u64,
    pub(crate) how: How,
}

impl Default for CbwHow {
    fn default() -> Self {
        Self { on_error: OnCbwError::default(), timeout_ns: 0, cluster: 65536, how: How::default() }
    }
}

pub(crate) struct CopyBeforeWrite {
    context: Context,
    file: Arc<Edge>,
    target: Arc<Edge>,
    how: CbwHow,
    /// What is still to be copied before it may change.
    pending: Mutex<Bits>,
    /// What belongs to the snapshot, copied or not.
    valid: Mutex<Bits>,
    busy: Arc<RangeLock>,
    broken: Mutex<Option<BlockError>>,
    copied: AtomicU64,
}

impl CopyBeforeWrite {
    /// `wanted` says what belongs to the snapshot; everything when absent.
    pub(crate) fn new(
        context: &Context,
        file: &Arc<Node>,
        target: &Arc<Node>,
        wanted: Option<&Bits>,
        how: CbwHow,
    ) -> Result<Arc<Self>> {
        if target.len() < file.len() {
            return Err(BlockError::Invalid("Source and target image have different sizes".into()));
        }
        let cluster = how.cluster.max(512).next_power_of_two();
        let mut pending = Bits::new(file.len(), cluster);
        match wanted {
            Some(wanted) => pending.merge(wanted),
            None => pending.set(0, file.len()),
        }
        // Others may read the target only as this filter leaves it.
        let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        let target = Edge::attach_as(
            "target",
            "",
            Role::Data,
            target,
            Perm::CONSISTENT_READ | Perm::WRITE,
            shared,
        )?;
        let file = Edge::attach(Role::Filtered, file, Perm::CONSISTENT_READ, Perm::all())?;
        Ok(Arc::new(Self {
            context: context.clone(),
            file,
            target,
            how,
            valid: Mutex::new(pending.clone()),
            pending: Mutex::new(pending),
            busy: Arc::default(),
            broken: Mutex::default(),
            copied: AtomicU64::new(0),
        }))
    }

    fn ends(&self) -> Result<(Arc<Node>, Arc<Node>)> {
        let file = self.file.node().ok_or(BlockError::NoMedium)?;
        Ok((file, self.target.node().ok_or(BlockError::NoMedium)?))
    }

    /// The next range that was not copied, from `offset` on.
    pub(crate) fn next_pending(&self, offset: u64, max: u64) -> Option<Range<u64>> {
        lock(&self.pending).next_dirty(offset, max)
    }

    /// Bytes that were not copied.
    pub(crate) fn pending_bytes(&self) -> u64 {
        lock(&self.pending).count()
    }

    /// Leaves a range out of the snapshot.
    pub(crate) fn skip(&self, offset: u64, len: u64) {
        lock(&self.pending).clear(offset, len);
    }

    /// Bytes copied so far, by whomever.
    pub(crate) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    fn widen(&self, offset: u64, len: u64) -> Range<u64> {
        let cluster = lock(&self.pending).granularity();
        offset - offset % cluster..(offset + len).next_multiple_of(cluster)
    }

    /// Why the snapshot cannot be used any more.
    pub(crate) fn broken(&self) -> Option<BlockError> {
        lock(&self.broken).clone()
    }

    /// Copies what is still to be copied in a range.
    pub(crate) async fn copy(&self, offset: u64, len: u64) -> Result<(), Failed> {
        let range = self.widen(offset, len);
        if lock(&self.pending)
            .next_dirty(range.start, u64::MAX)
            .is_none_or(|r| r.start >= range.end)
        {
            // Nothing is pending, but a copy may be on its way.
            drop(self.busy.acquire(range).await);
            return Ok(());
        }
        let _busy = self.busy.acquire(range.clone()).await;
        let (file, target) = self.ends().map_err(|error| Failed { read: true, error })?;
        let mut at = range.start;
        loop {
            let next = lock(&self.pending).next_dirty(at, range.end - at);
            let Some(next) = next.filter(|next| next.start < range.end) else { return Ok(()) };
            let n = next.end - next.start;
            copy(&file, &target, next.start, n, self.how.how).await?;
            lock(&self.pending).clear(next.start, n);
            self.copied.fetch_add(n, Ordering::Relaxed);
            at = next.end;
        }
    }

    /// What comes before a change.
    async fn before(&self, offset: u64, len: u64) -> Result<()> {
        if self.broken().is_some() {
            return Ok(());
        }
        let copying = self.copy(offset, len);
        let result = if self.how.timeout_ns > 0 && self.context.has_clock() {
            let timeout = self.context.sleep(self.how.timeout_ns);
            match race(std::pin::pin!(copying), std::pin::pin!(timeout)).await {
                Ok(result) => result.map_err(|failed| failed.error),
                Err(()) => Err(BlockError::Errno(crate::errno::ETIMEDOUT)),
            }
        } else {
            copying.await.map_err(|failed| failed.error)
        };
        match (result, self.how.on_error) {
            (Ok(()), _) => Ok(()),
            (Err(error), OnCbwError::BreakGuestWrite) => Err(error),
            (Err(error), OnCbwError::BreakSnapshot) => {
                lock(&self.broken).get_or_insert(error);
                Ok(())
            }
        }
    }

    fn change<T: Send + 'static>(
        self: Arc<Self>,
        offset: u64,
        len: u64,
        start: impl FnOnce(Arc<Node>) -> Op<T> + Send + 'static,
    ) -> Op<T> {
        Op::pending(async move {
            self.before(offset, len).await?;
            let range = self.widen(offset, len);
            // Readers of the snapshot who still look at the source finish first.
            let _busy = self.busy.acquire(range).await;
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            start(node).await
        })
    }

    /// Reads the disk as it was.
    pub(crate) async fn read_snapshot(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let (file, target) = self.ends()?;
        if let Some(error) = self.broken() {
            return Err(error);
        }
        let total = buf.len() as u64;
        let _busy = self.busy.acquire(self.widen(offset, total)).await;
        let mut done = 0;
        while done < total {
            let at = offset + done;
            let (from_file, n) = {
                let (pending, valid) = (lock(&self.pending), lock(&self.valid));
                if !valid.get(at) {
                    return Err(BlockError::Errno(crate::errno::EACCES));
                }
                let on = pending.get(at);
                let end = if on {
                    pending.next_clean(at)
                } else {
                    pending.next_dirty(at, 1).map(|range| range.start)
                };
                (on, end.unwrap_or(u64::MAX).min(offset + total) - at)
            };
            let old = buf.narrow(done as usize..(done + n) as usize);
            let from = if from_file { &file } else { &target };
            buf = from.read(at, buf).await?;
            buf.widen(old);
            done += n;
        }
        Ok(buf)
    }

    /// The snapshot does not need a range any more.
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        lock(&self.pending).clear(offset, len);
        lock(&self.valid).clear(offset, len);
    }
}

impl Driver for CopyBeforeWrite {
    fn name(&self) -> &'static str {
        "copy-before-write"
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone(), self.target.clone()]
    }

    fn as_copy_before_write(self: Arc<Self>) -> Option<Arc<CopyBeforeWrite>> {
        Some(self)
    }

    pass_on!(file: basics read flush truncate status);

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.change(offset, len, move |node| node.write(offset, buf))
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        self.change(offset, len, move |node| node.write_zeroes(offset, len, unmap))
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.change(offset, len, move |node| node.discard(offset, len))
    }
}

/// `snapshot-access`: the disk as a `copy-before-write` filter keeps it.
pub(crate) struct SnapshotAccess {
    file: Arc<Edge>,
}

impl SnapshotAccess {
    pub(crate) fn new(file: &Arc<Node>) -> Result<Arc<Self>> {
        if file.driver().as_copy_before_write().is_none() {
            return Err(BlockError::Invalid(
                "snapshot-access requires a copy-before-write node as its file".into(),
            ));
        }
        let file = Edge::attach(Role::Data, file, Perm::empty(), Perm::all())?;
        Ok(Arc::new(Self { file }))
    }

    fn filter(&self) -> Result<Arc<CopyBeforeWrite>> {
        let node = self.file.node().ok_or(BlockError::NoMedium)?;
        node.driver().as_copy_before_write().ok_or(BlockError::NoMedium)
    }
}

impl Driver for SnapshotAccess {
    fn name(&self) -> &'static str {
        "snapshot-access"
    }

    fn len(&self) -> u64 {
        self.file.node().map_or(0, |node| node.len())
    }

    fn read_only(&self) -> bool {
        false
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.filter()?.read_snapshot(offset, buf).await })
    }

    fn write(self: Arc<Self>, _: u64, _: IoBuf) -> Op<IoBuf> {
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    fn write_zeroes(self: Arc<Self>, _: u64, _: u64, _: bool) -> Op<()> {
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        match self.filter() {
            Ok(filter) => {
                filter.forget(offset, len);
                Op::ok(())
            }
            Err(error) => Op::err(error),
        }
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::ok(())
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::ok(BlockStatus {
            len,
            zero: false,
            allocated: true,
            data: true,
            compressed: false,
            offset: Some(offset),
        })
    }
}
