//! `preallocate`: a file that grows in large steps, and shrinks to its size when it is closed.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::options::PreallocateOptions;
use crate::sync::RangeLock;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Preallocate {
    file: Arc<Edge>,
    align: u64,
    step: u64,
    /// The end of the data: the length that others see.
    len: AtomicU64,
    growing: Arc<RangeLock>,
}

impl Preallocate {
    pub(crate) fn new(file: &Arc<Node>, options: &PreallocateOptions) -> Result<Arc<Self>> {
        let align = options.prealloc_align.unwrap_or(1 << 20);
        if align == 0 || !align.is_multiple_of(512) {
            return Err(BlockError::Invalid(
                "prealloc-align parameter of preallocate filter is not aligned to 512".into(),
            ));
        }
        let own = if file.read_only() { Perm::empty() } else { Perm::WRITE | Perm::RESIZE };
        let edge = Edge::attach(Role::Filtered, file, own, Perm::all())?;
        Ok(Arc::new(Self {
            file: edge,
            align,
            step: options.prealloc_size.unwrap_or(128 << 20),
            len: AtomicU64::new(file.len()),
            growing: Arc::default(),
        }))
    }

    /// Makes room before something is written up to `end`.
    async fn room(&self, node: &Arc<Node>, end: u64) -> Result<()> {
        if end > self.len.load(Ordering::Relaxed) {
            let _turn = self.growing.acquire_all().await;
            if end > node.len() {
                node.truncate((end + self.step).next_multiple_of(self.align)).await?;
            }
            self.len.fetch_max(end, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Driver for Preallocate {
    fn name(&self) -> &'static str {
        "preallocate"
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.file.node().is_none_or(|node| node.read_only())
    }

    fn is_filter(&self) -> bool {
        true
    }

    pass_on!(file: children read discard flush status);

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            self.room(&node, offset + buf.len() as u64).await?;
            node.write(offset, buf).await
        })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move {
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            self.room(&node, offset + len).await?;
            node.write_zeroes(offset, len, unmap).await
        })
    }

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        Op::pending(async move {
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            let _turn = self.growing.acquire_all().await;
            node.truncate(len).await?;
            self.len.store(len, Ordering::Relaxed);
            Ok(())
        })
    }

    fn close(self: Arc<Self>) -> Op<()> {
        Op::pending(async move {
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            let len = self.len.load(Ordering::Relaxed);
            if node.len() > len && !node.read_only() {
                node.truncate(len).await?;
            }
            node.close().await
        })
    }
}
