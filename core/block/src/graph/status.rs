//! How a range is stored in a whole backing chain.

use super::Node;
use crate::Result;
use crate::driver::BlockStatus;
use std::sync::Arc;

/// What reads as zeros because nobody has it.
fn nothing(len: u64) -> BlockStatus {
    BlockStatus { len, zero: true, allocated: false, data: false, compressed: false, offset: None }
}

impl Node {
    /// The node that decides about content: below filters.
    pub fn skip_filters(self: &Arc<Self>) -> Arc<Self> {
        let mut node = self.clone();
        while node.is_filter() {
            match node.filtered() {
                Some(below) => node = below,
                None => break,
            }
        }
        node
    }

    /// The next node of the backing chain.
    pub fn next_in_chain(self: &Arc<Self>) -> Option<Arc<Self>> {
        let node = self.skip_filters();
        node.backing().map(|below| below.skip_filters())
    }

    /// Says how the start of a range is stored in the chain from here down to `base`, which no
    /// longer counts. The second value is how many steps down it was decided; when nobody in the
    /// chain has the range it is not allocated.
    pub async fn status_above(
        self: &Arc<Self>,
        base: Option<&Arc<Self>>,
        start: u64,
        len: u64,
    ) -> Result<(BlockStatus, u32)> {
        let base = base.map(Self::skip_filters);
        let is_base = |node: &Arc<Self>| base.as_ref().is_some_and(|base| Arc::ptr_eq(base, node));
        let mut node = self.skip_filters();
        let mut len = len;
        let mut depth = 0;
        loop {
            if is_base(&node) {
                return Ok((BlockStatus { zero: false, ..nothing(len) }, depth));
            }
            let there = node.len().saturating_sub(start).min(len);
            if there == 0 {
                // What a short node hides counts as its zeros.
                return Ok((BlockStatus { allocated: depth > 0, ..nothing(len) }, depth));
            }
            let status = node.status(start, there).await?;
            match node.backing() {
                Some(below) if !status.allocated => {
                    len = status.len;
                    node = below.skip_filters();
                    depth += 1;
                }
                None if !status.allocated => {
                    return Ok((BlockStatus { zero: true, ..status }, depth));
                }
                _ => return Ok((status, depth)),
            }
        }
    }

    /// True when the chain from here down to `base`, which no longer counts, has the start of the
    /// range; and how much of it is alike.
    pub async fn allocated_above(
        self: &Arc<Self>,
        base: Option<&Arc<Self>>,
        start: u64,
        len: u64,
    ) -> Result<(bool, u64)> {
        let (status, _) = self.status_above(base, start, len).await?;
        Ok((status.allocated, status.len))
    }
}
