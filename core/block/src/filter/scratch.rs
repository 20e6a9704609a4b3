//! `blkreplay`: takes all writes into memory, where its content can be kept and put back at once.
//!
//! A machine that records or replays has one over each disk, so that the disk below stays as it was at the
//! start and time can be wound back.

use crate::driver::{BlockStatus, Driver};
use crate::graph::{BlockGraph, Edge, Node, Perm, Role};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Op, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

const SECTOR: u64 = 512;
/// Sectors kept together.
const GROUP: u64 = 8;
const BYTES: u64 = SECTOR * GROUP;

/// Some sectors in a row, and which of them were written.
#[derive(Clone)]
struct Group {
    there: u8,
    bytes: [u8; BYTES as usize],
}

/// What was written up to some instant. Copies share what they have in common.
#[derive(Clone, Default)]
pub struct Layer {
    groups: BTreeMap<u64, Arc<Group>>,
}

impl Layer {
    /// Bytes of memory it takes, if nothing is shared.
    pub fn size(&self) -> usize {
        self.groups.len() * size_of::<Group>()
    }

    /// Stores whole sectors.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (n, sector) in bytes.chunks(SECTOR as usize).enumerate() {
            let at = offset / SECTOR + n as u64;
            let (number, within) = (at / GROUP, at % GROUP);
            let empty = || Arc::new(Group { there: 0, bytes: [0; BYTES as usize] });
            let group = Arc::make_mut(self.groups.entry(number).or_insert_with(empty));
            group.there |= 1 << within;
            let from = (within * SECTOR) as usize;
            group.bytes[from..from + sector.len()].copy_from_slice(sector);
        }
    }

    /// Puts what is here over what was read from below.
    fn overlay(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        for (number, group) in self.groups.range(offset / BYTES..end.div_ceil(BYTES)) {
            for within in (0..GROUP).filter(|w| group.there >> w & 1 != 0) {
                let at = number * BYTES + within * SECTOR;
                let (from, to) = (at.max(offset), (at + SECTOR).min(end));
                if from < to {
                    let start = number * BYTES;
                    let source = &group.bytes[(from - start) as usize..(to - start) as usize];
                    out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
                }
            }
        }
    }

    /// Whether a range is all here.
    fn covers(&self, offset: u64, len: u64) -> bool {
        let mut sectors = offset / SECTOR..(offset + len).div_ceil(SECTOR);
        sectors.all(|at| {
            self.groups.get(&(at / GROUP)).is_some_and(|g| g.there >> (at % GROUP) & 1 != 0)
        })
    }
}

/// The handle with which a machine keeps and puts back what was written.
#[derive(Clone)]
pub struct Scratch(Arc<Memory>);

impl Scratch {
    /// What has been written so far.
    pub fn save(&self) -> Layer {
        lock(&self.0.layer).clone()
    }

    /// Goes back to it. Nothing may be in flight.
    pub fn restore(&self, layer: &Layer) {
        *lock(&self.0.layer) = layer.clone();
    }
}

struct Memory {
    below: Arc<Edge>,
    len: u64,
    layer: Mutex<Layer>,
}

impl BlockGraph {
    /// A disk over `below` that keeps writes in memory, and its handle.
    pub fn scratch(&self, below: &Arc<Node>) -> Result<(Arc<Node>, Scratch)> {
        let edge = Edge::attach(Role::Backing, below, Perm::CONSISTENT_READ, Perm::all())?;
        let layer = Mutex::default();
        let driver = Arc::new(Memory { below: edge, len: below.len(), layer });
        Ok((self.add_node(None, below.filename(), driver.clone())?, Scratch(driver)))
    }
}

impl Memory {
    fn read_range(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if lock(&self.layer).covers(offset, buf.len() as u64) {
            let mut buf = buf;
            lock(&self.layer).overlay(offset, &mut buf);
            return Op::ok(buf);
        }
        let Some(node) = self.below.node() else { return Op::err(BlockError::NoMedium) };
        let finish = move |mut buf: IoBuf| {
            lock(&self.layer).overlay(offset, &mut buf);
            buf
        };
        match node.read(offset, buf) {
            Op::Done(result) => Op::Done(result.map(|r| r.map(finish))),
            Op::Pending(future) => Op::pending(async move { future.await.map(finish) }),
        }
    }

    fn put(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        if offset.is_multiple_of(SECTOR) && (len.is_multiple_of(SECTOR) || offset + len == self.len)
        {
            lock(&self.layer).write(offset, &buf);
            return Op::ok(buf);
        }
        // Parts of sectors: what is around them is read first.
        Op::pending(async move {
            let start = offset / SECTOR * SECTOR;
            let end = ((offset + len).next_multiple_of(SECTOR)).min(self.len);
            let around = IoBuf::zeroed((end - start) as usize);
            let mut whole = self.clone().read_range(start, around).await?;
            let from = (offset - start) as usize;
            whole[from..from + buf.len()].copy_from_slice(&buf);
            lock(&self.layer).write(start, &whole);
            Ok(buf)
        })
    }
}

impl Driver for Memory {
    fn name(&self) -> &'static str {
        "blkreplay"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        false
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.below.clone()]
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.read_range(offset, buf)
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.put(offset, buf)
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, _: bool) -> Op<()> {
        Op::pending(async move {
            let mut done = 0;
            while done < len {
                let n = (len - done).min(1 << 20);
                self.clone().put(offset + done, IoBuf::zeroed(n as usize)).await?;
                done += n;
            }
            Ok(())
        })
    }

    fn discard(self: Arc<Self>, _: u64, _: u64) -> Op<()> {
        // A guest may not rely on what it reads afterwards.
        Op::ok(())
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::ok(())
    }

    fn status(self: Arc<Self>, _: u64, len: u64) -> Op<BlockStatus> {
        Op::ok(BlockStatus {
            len,
            zero: false,
            allocated: true,
            data: true,
            compressed: false,
            offset: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::MemFile;

    fn bench() -> (BlockGraph, Arc<Node>, Arc<Node>, Scratch) {
        let graph = BlockGraph::new();
        let file = Arc::new(MemFile::from_bytes(&[0x11; 8192 + 100]));
        let below = graph.open_file(None, "disk", file).unwrap();
        let (node, scratch) = graph.scratch(&below).unwrap();
        (graph, below, node, scratch)
    }

    fn read(graph: &BlockGraph, node: &Arc<Node>, at: u64, len: usize) -> Vec<u8> {
        let op = node.read(at, IoBuf::zeroed(len));
        graph.executor().run_in_place(op).unwrap().unwrap().into_vec()
    }

    fn write(graph: &BlockGraph, node: &Arc<Node>, at: u64, bytes: &[u8]) {
        let op = node.write(at, bytes.to_vec().into());
        graph.executor().run_in_place(op).unwrap().unwrap();
    }

    #[test]
    fn writes_of_any_shape_are_read_back_and_the_disk_below_stays() {
        let (graph, below, node, _scratch) = bench();
        for (at, len) in [(0, 512), (1000, 3000), (4096, 4096), (8190, 102)] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + at) as u8).collect();
            write(&graph, &node, at as u64, &bytes);
            assert_eq!(read(&graph, &node, at as u64, len), bytes, "{at}");
        }
        assert_eq!(read(&graph, &node, 600, 300), [0x11; 300]);
        assert!(read(&graph, &below, 0, 8292).iter().all(|b| *b == 0x11));
    }

    #[test]
    fn what_was_kept_comes_back_and_later_writes_do_not_reach_it() {
        let (graph, _, node, scratch) = bench();
        write(&graph, &node, 512, &[1; 512]);
        let kept = scratch.save();
        write(&graph, &node, 512, &[2; 1024]);
        scratch.restore(&kept);
        assert_eq!(read(&graph, &node, 512, 512), [1; 512]);
        assert_eq!(read(&graph, &node, 1024, 512), [0x11; 512]);
        assert!(kept.size() > 512);
    }
}
