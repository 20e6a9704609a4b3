//! `mirror_top`: tells a mirror job what is written, or writes it to the copy at once.

use super::pass_on;
use crate::bitmap::DirtyBitmap;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::op::BoxFuture;
use crate::sync::{RangeLock, lock};
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) struct MirrorTop {
    file: Arc<Edge>,
    /// What differs from the copy.
    pub(crate) dirty: Arc<DirtyBitmap>,
    /// Ranges that are being copied or written at once.
    pub(crate) busy: Arc<RangeLock>,
    /// Where writes go as well; nothing once the job is over.
    target: Mutex<Option<Arc<Node>>>,
    active: AtomicBool,
}

impl MirrorTop {
    pub(crate) fn new(
        file: &Arc<Node>,
        target: &Arc<Node>,
        dirty: Arc<DirtyBitmap>,
        shares_all: bool,
    ) -> Result<Arc<Self>> {
        let file = Edge::attach(Role::Filtered, file, Perm::empty(), Perm::all())?;
        file.set_shares_all(shares_all);
        Ok(Arc::new(Self {
            file,
            dirty,
            busy: Arc::default(),
            target: Mutex::new(Some(target.clone())),
            active: AtomicBool::new(false),
        }))
    }

    /// Writes go to the copy at once from here on.
    pub(crate) fn set_active(&self, on: bool) {
        self.active.store(on, Ordering::Relaxed);
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// The job is over.
    pub(crate) fn retire(&self) {
        *lock(&self.target) = None;
    }

    /// Carries out `write` here and, in active mode, `copy` on the target.
    fn both<T: Send + 'static>(
        self: Arc<Self>,
        offset: u64,
        len: u64,
        write: impl FnOnce(Arc<Node>) -> Op<T> + Send + 'static,
        copy: impl FnOnce(Arc<Node>, &T) -> BoxFuture<'static, Result<()>> + Send + 'static,
    ) -> Op<T> {
        let Some(node) = self.file.node() else { return Op::err(BlockError::NoMedium) };
        let target = lock(&self.target).clone();
        let Some(target) = target else { return write(node) };
        if !self.is_active() {
            return match write(node) {
                Op::Done(result) => {
                    self.dirty.mark(offset, len);
                    Op::Done(result)
                }
                Op::Pending(future) => Op::pending(async move {
                    let result = future.await;
                    self.dirty.mark(offset, len);
                    result
                }),
            };
        }
        Op::pending(async move {
            let grain = self.dirty.info().granularity;
            let range = offset - offset % grain..(offset + len).next_multiple_of(grain);
            let _busy = self.busy.acquire(range).await;
            let result = write(node).await;
            let copied = match &result {
                Ok(value) => copy(target, value).await,
                Err(error) => Err(error.clone()),
            };
            if copied.is_err() {
                self.dirty.mark(offset, len);
            }
            result
        })
    }
}

impl Driver for MirrorTop {
    fn name(&self) -> &'static str {
        "mirror_top"
    }

    pass_on!(file: basics children read flush truncate status);

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.both(
            offset,
            len,
            move |node| node.write(offset, buf),
            move |target, buf: &IoBuf| {
                let buf = IoBuf::from(&buf[..]);
                Box::pin(async move { target.write(offset, buf).await.map(drop) })
            },
        )
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        self.both(
            offset,
            len,
            move |node| node.write_zeroes(offset, len, unmap),
            move |target, ()| {
                Box::pin(async move { target.write_zeroes(offset, len, unmap).await })
            },
        )
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.both(
            offset,
            len,
            move |node| node.discard(offset, len),
            move |target, ()| Box::pin(async move { target.discard(offset, len).await }),
        )
    }
}
