//! `blkverify`: two images that must be alike.

use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

pub(crate) struct Blkverify {
    test: Arc<Edge>,
    raw: Arc<Edge>,
}

impl Blkverify {
    pub(crate) fn new(test: &Arc<Node>, raw: &Arc<Node>) -> Result<Arc<Self>> {
        let attach = |name: &str, node: &Arc<Node>, role| {
            Edge::attach_as(name, "", role, node, Perm::CONSISTENT_READ, Perm::all())
        };
        let this = Self {
            test: attach("test", test, Role::Filtered)?,
            raw: attach("raw", raw, Role::Filtered)?,
        };
        Ok(Arc::new(this))
    }

    fn both(&self) -> Result<(Arc<Node>, Arc<Node>)> {
        let test = self.test.node().ok_or(BlockError::NoMedium)?;
        Ok((test, self.raw.node().ok_or(BlockError::NoMedium)?))
    }
}

impl Driver for Blkverify {
    fn name(&self) -> &'static str {
        "blkverify"
    }

    fn len(&self) -> u64 {
        self.test.node().map_or(0, |node| node.len())
    }

    fn read_only(&self) -> bool {
        self.both().map_or(true, |(test, raw)| test.read_only() || raw.read_only())
    }

    fn is_filter(&self) -> bool {
        true
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.test.clone(), self.raw.clone()]
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let (test, raw) = self.both()?;
            let good = raw.read(offset, IoBuf::zeroed(buf.len())).await;
            let seen = test.read(offset, buf).await;
            match (good, seen) {
                (Ok(good), Ok(seen)) if good == seen => Ok(seen),
                (Ok(good), Ok(seen)) => {
                    let at = good.iter().zip(seen.iter()).position(|(a, b)| a != b).unwrap_or(0);
                    Err(BlockError::corrupt(format!(
                        "blkverify: contents mismatch at offset {}",
                        offset + at as u64
                    )))
                }
                (Err(a), Err(b)) if a == b => Err(a),
                (Err(error), _) | (_, Err(error)) => {
                    Err(BlockError::corrupt(format!("blkverify: results differ: {error}")))
                }
            }
        })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let (test, raw) = self.both()?;
            let buf = raw.write(offset, buf).await?;
            test.write(offset, buf).await
        })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move {
            let (test, raw) = self.both()?;
            raw.write_zeroes(offset, len, unmap).await?;
            test.write_zeroes(offset, len, unmap).await
        })
    }

    fn discard(self: Arc<Self>, _: u64, _: u64) -> Op<()> {
        // What a discarded range holds is anybody's guess: it cannot be compared.
        Op::ok(())
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        super::below(&self.test, |node| node.flush())
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        super::below(&self.test, |node| node.status(offset, len))
    }
}
