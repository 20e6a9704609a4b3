//! Storage that stays as long as it is, while an image is made in it.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::{IoBuf, Op, Result};
use std::sync::Arc;

/// Takes every length that fits for its own.
pub(crate) struct Fixed {
    file: Arc<Edge>,
}

impl Fixed {
    pub(crate) fn new(file: &Arc<Node>) -> Result<Arc<Self>> {
        let file = Edge::attach(Role::Filtered, file, Perm::empty(), Perm::all())?;
        Ok(Arc::new(Self { file }))
    }
}

impl Driver for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }

    pass_on!(file: basics children map read write write_compressed write_zeroes discard flush status);

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        super::below(&self.file, |node| match len > node.len() {
            true => node.truncate(len),
            false => Op::ok(()),
        })
    }
}
