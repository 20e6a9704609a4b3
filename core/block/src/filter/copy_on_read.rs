//! `copy-on-read`: what is read from a backing file is kept.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::sync::RangeLock;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

pub(crate) struct CopyOnRead {
    file: Arc<Edge>,
    /// Data of this node and of what is below it is not copied.
    bottom: Option<Arc<Node>>,
    /// Copies and writes of one range exclude each other.
    busy: Arc<RangeLock>,
}

impl CopyOnRead {
    /// `bottom` is the last node of the chain whose data is copied.
    pub(crate) fn new(file: &Arc<Node>, bottom: Option<&Arc<Node>>) -> Result<Arc<Self>> {
        let own = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        let own = if file.read_only() { Perm::CONSISTENT_READ } else { own };
        Ok(Arc::new(Self {
            file: Edge::attach(Role::Filtered, file, own, Perm::all())?,
            bottom: bottom.and_then(|node| node.next_in_chain()),
            busy: Arc::default(),
        }))
    }

    async fn read_and_keep(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let node = self.file.node().ok_or(BlockError::NoMedium)?;
        let total = buf.len() as u64;
        let mut done = 0;
        while done < total {
            let at = offset + done;
            let _busy = self.busy.acquire(at..offset + total).await;
            let status = node.skip_filters().status(at, total - done).await?;
            let mut n = status.len.clamp(1, total - done);
            let mut keep = !status.allocated && !node.read_only();
            if keep {
                // What nobody above the bottom has stays where it is.
                if self.bottom.is_some() {
                    let (above, len) = node.allocated_above(self.bottom.as_ref(), at, n).await?;
                    n = len.clamp(1, n);
                    keep = above;
                }
            }
            let old = buf.narrow(done as usize..(done + n) as usize);
            buf = node.read(at, buf).await?;
            if keep {
                buf = if buf.iter().all(|byte| *byte == 0) {
                    node.write_zeroes(at, n, true).await?;
                    buf
                } else {
                    node.write(at, buf).await?
                };
            }
            buf.widen(old);
            done += n;
        }
        Ok(buf)
    }

    /// A change that waits for copies of its range.
    fn change<T: Send + 'static>(
        self: Arc<Self>,
        offset: u64,
        len: u64,
        start: impl FnOnce(Arc<Node>) -> Op<T> + Send + 'static,
    ) -> Op<T> {
        Op::pending(async move {
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            let _busy = self.busy.acquire(offset..offset + len).await;
            start(node).await
        })
    }
}

impl Driver for CopyOnRead {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }

    pass_on!(file: basics children flush truncate status);

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.read_and_keep(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.change(offset, len, move |node| node.write(offset, buf))
    }

    fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.change(offset, len, move |node| node.write_compressed(offset, buf))
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        self.change(offset, len, move |node| node.write_zeroes(offset, len, unmap))
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.change(offset, len, move |node| node.discard(offset, len))
    }
}
