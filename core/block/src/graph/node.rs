//! One node, and the walk of a request down the graph.

use super::edge::{Edge, Perm, Users};
use crate::backend::Medium;
use crate::driver::{Access, BlockStatus, Driver, Lease, Map};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::{Arc, Mutex};

/// A format, filter or protocol, open and ready for requests.
pub struct Node {
    name: String,
    filename: String,
    driver: Arc<dyn Driver>,
    users: Mutex<Users>,
}

/// Leases collected on the way down. A chain of mappings longer than this is walked by its
/// drivers instead.
const MAX_LEASES: usize = 4;

type Leases = [Option<Lease>; MAX_LEASES];

/// End of a walk: the driver that has to work, and what keeps the way to it true.
enum Walk {
    Zero,
    Start(Arc<dyn Driver>, u64, Leases),
}

impl Node {
    pub(super) fn new(name: String, filename: String, driver: Arc<dyn Driver>) -> Self {
        Self { name, filename, driver, users: Mutex::default() }
    }

    /// Name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the file it was opened from.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// Name of its driver.
    pub fn driver_name(&self) -> &'static str {
        self.driver.name()
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.driver.len()
    }

    /// True when it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when writes are refused.
    pub fn read_only(&self) -> bool {
        self.driver.read_only()
    }

    /// Edges to the nodes below.
    pub fn children(&self) -> Vec<Arc<Edge>> {
        self.driver.children()
    }

    /// The node as a medium for a backend.
    pub fn medium(self: &Arc<Self>, read_only: bool) -> Medium {
        Medium { root: self.clone(), read_only }
    }

    pub(super) fn add_user(&self, perm: Perm, shared: Perm) -> Result<()> {
        lock(&self.users).add(perm, shared)
    }

    pub(super) fn remove_user(&self, perm: Perm, shared: Perm) {
        lock(&self.users).remove(perm, shared);
    }

    /// True while an edge points here.
    pub fn is_used(&self) -> bool {
        !lock(&self.users).is_empty()
    }

    fn walk(&self, access: Access, mut offset: u64, len: u64) -> Walk {
        let mut driver = self.driver.clone();
        let mut leases = Leases::default();
        let mut held = 0;
        loop {
            match driver.map(access, offset, len) {
                Map::Child { node, offset: below, len: n, lease }
                    if n >= len && held < MAX_LEASES =>
                {
                    if lease.is_some() {
                        leases[held] = lease;
                        held += 1;
                    }
                    driver = node.driver.clone();
                    offset = below;
                }
                Map::Zero { len: n } if n >= len && access == Access::Read => return Walk::Zero,
                _ => return Walk::Start(driver, offset, leases),
            }
        }
    }

    /// Fills `buf` from `offset`.
    pub fn read(&self, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        if buf.is_empty() {
            return Op::ok(buf);
        }
        match self.walk(Access::Read, offset, buf.len() as u64) {
            Walk::Zero => {
                buf.fill(0);
                Op::ok(buf)
            }
            Walk::Start(driver, offset, leases) => keep(driver.read(offset, buf), leases),
        }
    }

    /// Stores `buf` at `offset`.
    pub fn write(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if self.read_only() {
            return Op::err(BlockError::ReadOnly);
        }
        if buf.is_empty() {
            return Op::ok(buf);
        }
        match self.walk(Access::Write, offset, buf.len() as u64) {
            Walk::Zero => unreachable!("writes are not mapped to zeros"),
            Walk::Start(driver, offset, leases) => keep(driver.write(offset, buf), leases),
        }
    }

    /// Makes a range read as zeros; with `unmap` storage may be given back.
    pub fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Op<()> {
        match (self.read_only(), len) {
            (true, _) => Op::err(BlockError::ReadOnly),
            (_, 0) => Op::ok(()),
            _ => self.driver.clone().write_zeroes(offset, len, unmap),
        }
    }

    /// Declares a range's content as not needed.
    pub fn discard(&self, offset: u64, len: u64) -> Op<()> {
        match (self.read_only(), len) {
            (true, _) => Op::err(BlockError::ReadOnly),
            (_, 0) => Op::ok(()),
            _ => self.driver.clone().discard(offset, len),
        }
    }

    /// Makes finished writes stable.
    pub fn flush(&self) -> Op<()> {
        if self.read_only() { Op::ok(()) } else { self.driver.clone().flush() }
    }

    /// Changes the length.
    pub fn truncate(&self, len: u64) -> Op<()> {
        if self.read_only() {
            return Op::err(BlockError::ReadOnly);
        }
        self.driver.clone().truncate(len)
    }

    /// Says how the start of a range is stored.
    pub fn status(&self, offset: u64, len: u64) -> Op<BlockStatus> {
        self.driver.clone().status(offset, len)
    }

    /// Flushes, and leaves images as a clean shutdown does.
    pub fn close(&self) -> Op<()> {
        if self.read_only() { Op::ok(()) } else { self.driver.clone().close() }
    }
}

fn keep(op: Op<IoBuf>, leases: Leases) -> Op<IoBuf> {
    match op {
        Op::Pending(future) if leases[0].is_some() => Op::pending(async move {
            let result = future.await;
            drop(leases);
            result
        }),
        op => op,
    }
}
