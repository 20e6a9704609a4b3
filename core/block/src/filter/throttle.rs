//! `throttle`: the limits of a group, in the graph.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::throttle::ThrottleGroup;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

pub(crate) struct Throttle {
    file: Arc<Edge>,
    group: Arc<ThrottleGroup>,
    member: u64,
}

impl Throttle {
    pub(crate) fn new(file: &Arc<Node>, group: &Arc<ThrottleGroup>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            file: Edge::attach(Role::Filtered, file, Perm::empty(), Perm::all())?,
            group: group.clone(),
            member: group.join(),
        }))
    }

    fn pass<T: Send + 'static>(
        self: Arc<Self>,
        write: bool,
        len: u64,
        start: impl FnOnce(Arc<Node>) -> Op<T> + Send + 'static,
    ) -> Op<T> {
        let Some(node) = self.file.node() else { return Op::err(BlockError::NoMedium) };
        if self.group.try_pass(write, len) {
            return start(node);
        }
        Op::pending(async move {
            self.group.pass(self.member, write, len, || false).await;
            start(node).await
        })
    }
}

impl Driver for Throttle {
    fn name(&self) -> &'static str {
        "throttle"
    }

    pass_on!(file: basics children flush truncate status);

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.pass(false, len, move |node| node.read(offset, buf))
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.pass(true, len, move |node| node.write(offset, buf))
    }

    fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        self.pass(true, len, move |node| node.write_compressed(offset, buf))
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        self.pass(true, len, move |node| node.write_zeroes(offset, len, unmap))
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.pass(true, len, move |node| node.discard(offset, len))
    }
}
