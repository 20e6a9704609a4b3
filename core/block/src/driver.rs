//! What a node does with requests: the trait behind every format, filter and protocol.

use crate::context::Context;
use crate::filter::{Blkdebug, CopyBeforeWrite};
use crate::formats::Image;
use crate::graph::{Edge, Node};
use crate::op::BoxFuture;
use crate::{BlockError, IoBuf, Op, Result};
use serde::Serialize;
use std::sync::Arc;

/// Keeps a mapping true: while one lives, the storage it points into is not put to other use.
#[derive(Clone)]
pub(crate) struct Lease(#[expect(dead_code, reason = "held for its count")] Arc<()>);

impl Lease {
    pub(crate) fn new(token: &Arc<()>) -> Self {
        Self(token.clone())
    }
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Where the bytes of a range are, answered from memory.
pub(crate) enum Map {
    /// In a child, for the first `len` bytes of the range.
    Child { node: Arc<Node>, offset: u64, len: u64, lease: Option<Lease> },
    /// They are zeros (reads only), for the first `len` bytes.
    Zero { len: u64 },
    /// Not known without work: start the operation.
    Defer,
}

/// Allocation state of a range, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BlockStatus {
    /// Bytes that are alike.
    pub len: u64,
    /// Reads as zeros.
    pub zero: bool,
    /// Decided by this node rather than by its backing file.
    pub allocated: bool,
    /// Stored as data (as against a hole or a zero mark).
    pub data: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Where in the node's file the data is, when it can be read there as it is.
    pub offset: Option<u64>,
}

/// How a format stores a range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored {
    /// As it is; where, when it can be read there.
    Data(Option<u64>),
    /// As a mark.
    Zero,
    /// Compressed.
    Packed,
    /// Not at all: the backing file has it, or `nothing` does.
    Below { nothing: bool },
}

impl Stored {
    /// The status of `len` bytes stored like this.
    pub(crate) fn status(self, len: u64) -> BlockStatus {
        let (zero, allocated, data, compressed, offset) = match self {
            Self::Data(offset) => (false, true, true, false, offset),
            Self::Zero => (true, true, false, false, None),
            Self::Packed => (false, true, true, true, None),
            Self::Below { nothing } => (nothing, false, false, false, None),
        };
        BlockStatus { len, zero, allocated, data, compressed, offset }
    }
}

/// A driver's share of a node. Requests are inside [`Driver::len`] unless the driver's
/// documentation says otherwise, and never empty. Dropping an [`Op`] must leave nothing half done: generic code
/// only drops one together with the whole machine.
pub(crate) trait Driver: Send + Sync + 'static {
    /// Name of the driver as options spell it.
    fn name(&self) -> &'static str;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// True when writes are refused.
    fn read_only(&self) -> bool;

    /// Edges to the nodes below.
    fn children(&self) -> Vec<Arc<Edge>>;

    /// True when it passes requests on and holds no data of its own.
    fn is_filter(&self) -> bool {
        false
    }

    /// The driver as an image format, when it is one.
    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        None
    }

    /// The driver as the filter that keeps a snapshot, when it is one.
    fn as_copy_before_write(self: Arc<Self>) -> Option<Arc<CopyBeforeWrite>> {
        None
    }

    /// A format above tells of a step, for rules that wait for it.
    fn debug_event(&self, name: &str) -> Op<()> {
        let _ = name;
        Op::ok(())
    }

    /// The driver as the filter with rules and breakpoints, when it is one.
    fn as_blkdebug(self: Arc<Self>) -> Option<Arc<Blkdebug>> {
        None
    }

    /// True when the format can keep dirty bitmaps in the image.
    fn stores_bitmaps(&self) -> bool {
        false
    }

    /// Keeps other programs from the bytes, or lets them have them.
    fn claim(&self, on: bool) -> Result<()> {
        let _ = on;
        Ok(())
    }

    /// A driver for the same bytes that may write or may not.
    fn reopen(
        self: Arc<Self>,
        context: &Context,
        read_only: bool,
    ) -> BoxFuture<'_, Result<Arc<dyn Driver>>> {
        let _ = (context, read_only);
        let name = self.name();
        Box::pin(async move {
            Err(BlockError::unsupported(format!(
                "driver '{name}' does not support reopening files"
            )))
        })
    }

    /// Maps a range from memory; must be quick and never wait.
    fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        let _ = (access, offset, len);
        Map::Defer
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf>;

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf>;

    /// Stores whole clusters compressed.
    fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let _ = (offset, buf);
        Op::err(BlockError::unsupported(format!("'{}' cannot write compressed data", self.name())))
    }

    /// Makes the range read as zeros; with `unmap` storage may be given back.
    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()>;

    /// The range's content is not needed any more.
    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()>;

    /// Makes finished writes stable.
    fn flush(self: Arc<Self>) -> Op<()>;

    /// Changes the length.
    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        let _ = len;
        Op::err(BlockError::unsupported(format!("'{}' cannot be resized", self.name())))
    }

    /// Says how the start of the range is stored.
    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus>;

    /// Flushes and leaves the image as a clean shutdown does. A filter has what is below it closed.
    fn close(self: Arc<Self>) -> Op<()> {
        if !self.is_filter() {
            return self.flush();
        }
        Op::pending(async move {
            let children = self.children();
            self.flush().await?;
            for node in children.iter().filter_map(|edge| edge.node()) {
                node.close().await?;
            }
            Ok(())
        })
    }
}
