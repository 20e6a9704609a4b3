//! The `raw` format: a disk as it is, or a window into a larger file.

use super::edge::{Edge, Perm, Role};
use super::node::Node;
use crate::context::Context;
use crate::driver::{Access, BlockStatus, Driver, Map};
use crate::op::BoxFuture;
use crate::{BlockError, IoBuf, Op, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Options of the `raw` driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct RawOptions {
    /// Where in the file the disk begins.
    pub offset: u64,
    /// Length of the disk; to the end of the file when absent.
    pub size: Option<u64>,
    /// Refuse writes.
    pub read_only: bool,
    /// The format was guessed: a guest must not turn the disk into another format's header.
    #[serde(skip)]
    pub probed: bool,
}

/// Passes requests on, shifted.
pub(super) struct RawDriver {
    file: Arc<Edge>,
    offset: u64,
    len: AtomicU64,
    fixed: bool,
    read_only: bool,
    probed: bool,
    /// Somebody below waits for events.
    debugged: bool,
}

impl RawDriver {
    pub(super) fn new(file: &Arc<Node>, options: &RawOptions) -> Result<Arc<Self>> {
        let available = file.len().saturating_sub(options.offset);
        if options.offset > file.len() {
            return Err(BlockError::invalid(format!(
                "offset {} is beyond the end of the file ({} bytes)",
                options.offset,
                file.len()
            )));
        }
        if let Some(size) = options.size.filter(|size| *size > available) {
            return Err(BlockError::invalid(format!(
                "size {size} at offset {} reaches beyond the end of the file ({} bytes)",
                options.offset,
                file.len()
            )));
        }
        let read_only = options.read_only || file.read_only();
        let debugged = file.is_debugged();
        let file = Edge::attach(Role::Filtered, file, Perm::empty(), Perm::all())?;
        Ok(Arc::new(Self {
            file,
            offset: options.offset,
            len: AtomicU64::new(options.size.unwrap_or(available)),
            fixed: options.size.is_some(),
            read_only,
            probed: options.probed,
            debugged,
        }))
    }

    fn below(&self) -> Result<Arc<Node>> {
        self.file.node().ok_or(BlockError::NoMedium)
    }

    fn with<T>(&self, start: impl FnOnce(Arc<Node>) -> Op<T>) -> Op<T> {
        match self.below() {
            Ok(node) => start(node),
            Err(error) => Op::err(error),
        }
    }
}

impl Driver for RawDriver {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        if access == Access::Write && self.probed && offset < 512 || self.debugged {
            return Map::Defer;
        }
        match self.file.node() {
            Some(node) => Map::Child { node, offset: self.offset + offset, len, lease: None },
            None => Map::Defer,
        }
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.with(|node| {
            let at = self.offset + offset;
            match node.debug_event("read_aio") {
                Op::Done(_) => node.read(at, buf),
                wait => Op::pending(async move {
                    wait.await?;
                    node.read(at, buf).await
                }),
            }
        })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if self.probed && offset < 512 {
            return Op::pending(async move {
                let node = self.below()?;
                let mut head = node.read(self.offset, IoBuf::zeroed(512)).await?;
                let n = buf.len().min(512 - offset as usize);
                head[offset as usize..offset as usize + n].copy_from_slice(&buf[..n]);
                if let Some(format) = crate::probe::could_be(&head) {
                    return Err(BlockError::unsupported(format!(
                        "write would make the guessed raw disk look like '{format}'; name the format explicitly"
                    )));
                }
                node.write(self.offset + offset, buf).await
            });
        }
        self.with(|node| {
            let at = self.offset + offset;
            match node.debug_event("write_aio") {
                Op::Done(_) => node.write(at, buf),
                wait => Op::pending(async move {
                    wait.await?;
                    node.write(at, buf).await
                }),
            }
        })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        self.with(|node| node.write_zeroes(self.offset + offset, len, unmap))
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.with(|node| node.discard(self.offset + offset, len))
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.with(|node| node.flush())
    }

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        if self.fixed {
            return Op::err(BlockError::unsupported("a raw disk of fixed size cannot be resized"));
        }
        let Some(end) = self.offset.checked_add(len) else {
            return Op::err(BlockError::OutOfRange { offset: self.offset, len });
        };
        Op::pending(async move {
            self.below()?.truncate(end).await?;
            self.len.store(len, Ordering::Relaxed);
            Ok(())
        })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        self.with(|node| node.status(self.offset + offset, len))
    }

    fn close(self: Arc<Self>) -> Op<()> {
        self.with(|node| node.close())
    }

    fn reopen(
        self: Arc<Self>,
        _: &Context,
        read_only: bool,
    ) -> BoxFuture<'_, Result<Arc<dyn Driver>>> {
        Box::pin(async move {
            let options = RawOptions {
                offset: self.offset,
                size: self.fixed.then(|| self.len.load(Ordering::Relaxed)),
                read_only,
                probed: self.probed,
            };
            let new: Arc<dyn Driver> = Self::new(&self.below()?, &options)?;
            Ok(new)
        })
    }
}
