//! Filters, and the drivers that have no storage.

mod blkdebug;
mod blkverify;
mod commit_top;
mod compress;
mod copy_before_write;
mod copy_on_read;
mod fixed;
mod mirror_top;
mod null;
mod preallocate;
mod quorum;
mod scratch;
mod throttle;

pub(crate) use blkdebug::Blkdebug;
pub use blkdebug::{BreakHook, Breakpoints};
pub(crate) use blkverify::Blkverify;
pub(crate) use commit_top::CommitTop;
pub(crate) use compress::Compress;
pub(crate) use copy_before_write::{CbwHow, CopyBeforeWrite, SnapshotAccess};
pub(crate) use copy_on_read::CopyOnRead;
pub(crate) use fixed::Fixed;
pub(crate) use mirror_top::MirrorTop;
pub(crate) use null::Null;
pub(crate) use preallocate::Preallocate;
pub(crate) use quorum::Quorum;
pub use scratch::{Layer, Scratch};
pub(crate) use throttle::Throttle;

use crate::graph::{Edge, Node};
use crate::{BlockError, Op};
use std::sync::Arc;

/// Starts an operation on the child of a filter.
pub(crate) fn below<T>(edge: &Edge, start: impl FnOnce(Arc<Node>) -> Op<T>) -> Op<T> {
    match edge.node() {
        Some(node) => start(node),
        None => Op::err(BlockError::NoMedium),
    }
}

/// What a filter does that only passes requests on: everything that is named.
macro_rules! pass_on {
    ($edge:ident: $($what:ident)*) => { $( $crate::filter::pass_on!(@ $edge $what); )* };
    (@ $edge:ident basics) => {
        fn len(&self) -> u64 {
            self.$edge.node().map_or(0, |node| node.len())
        }
        fn read_only(&self) -> bool {
            self.$edge.node().is_none_or(|node| node.read_only())
        }
        fn is_filter(&self) -> bool {
            true
        }
    };
    (@ $edge:ident children) => {
        fn children(&self) -> Vec<Arc<Edge>> {
            vec![self.$edge.clone()]
        }
    };
    (@ $edge:ident map) => {
        fn map(&self, _: $crate::driver::Access, offset: u64, len: u64) -> $crate::driver::Map {
            match self.$edge.node() {
                Some(node) => $crate::driver::Map::Child { node, offset, len, lease: None },
                None => $crate::driver::Map::Defer,
            }
        }
    };
    (@ $edge:ident read) => {
        fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
            $crate::filter::below(&self.$edge, |node| node.read(offset, buf))
        }
    };
    (@ $edge:ident write) => {
        fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
            $crate::filter::below(&self.$edge, |node| node.write(offset, buf))
        }
    };
    (@ $edge:ident write_compressed) => {
        fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
            $crate::filter::below(&self.$edge, |node| node.write_compressed(offset, buf))
        }
    };
    (@ $edge:ident write_zeroes) => {
        fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
            $crate::filter::below(&self.$edge, |node| node.write_zeroes(offset, len, unmap))
        }
    };
    (@ $edge:ident discard) => {
        fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
            $crate::filter::below(&self.$edge, |node| node.discard(offset, len))
        }
    };
    (@ $edge:ident flush) => {
        fn flush(self: Arc<Self>) -> Op<()> {
            $crate::filter::below(&self.$edge, |node| node.flush())
        }
    };
    (@ $edge:ident truncate) => {
        fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
            $crate::filter::below(&self.$edge, |node| node.truncate(len))
        }
    };
    (@ $edge:ident status) => {
        fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
            $crate::filter::below(&self.$edge, |node| node.status(offset, len))
        }
    };
}
pub(crate) use pass_on;
