//! `commit_top`: stands above what a commit job moves, so that nothing below is relied on.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::{IoBuf, Op, Result};
use std::sync::Arc;

pub(crate) struct CommitTop {
    file: Arc<Edge>,
}

impl CommitTop {
    pub(crate) fn new(file: &Arc<Node>) -> Result<Arc<Self>> {
        let file = Edge::attach(Role::Filtered, file, Perm::empty(), Perm::all())?;
        file.set_shares_all(true);
        Ok(Arc::new(Self { file }))
    }
}

impl Driver for CommitTop {
    fn name(&self) -> &'static str {
        "commit_top"
    }

    pass_on!(file: basics children map read write write_zeroes discard flush truncate status);
}
