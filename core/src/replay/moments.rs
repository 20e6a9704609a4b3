//! Moments of a machine's life, kept in memory: what can be gone back to at once.
//!
//! Memory is kept page by page; moments share the pages that did not change between them.

use super::log::At;
use crate::machine::Machine;
use orrery_block::{Layer, Scratch};
use orrery_system::board::{BoardState, DeviceStates};
use orrery_system::ram::Ram;
use orrery_system::{PAGE_SIZE, StateBlob};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// Pages that are compared at once.
const CHUNK: usize = 256;
/// Bytes of memory that moments may take before every other one is dropped.
const BUDGET: usize = if cfg!(target_arch = "wasm32") { 192 << 20 } else { 1 << 30 };

type Page = [u8; PAGE_SIZE];
/// `None`: all zeros.
type Chunk = Vec<Option<Arc<Page>>>;
type Pages = Vec<Arc<Chunk>>;

/// One of them.
pub(crate) struct Moment {
    pub(crate) at: At,
    /// Notes of the log that came before it.
    pub(crate) notes: usize,
    board: BoardState,
    devices: DeviceStates,
    cpus: Vec<StateBlob>,
    turn: usize,
    suspended: bool,
    pages: Pages,
    disks: Vec<Layer>,
    /// What waits on each character device, and on each cable.
    bytes: Vec<Vec<u8>>,
    frames: Vec<Vec<Vec<u8>>>,
    /// Which cards' cables carry a signal.
    links: Vec<bool>,
    /// Bytes that it has for itself.
    size: usize,
}

/// All of them, oldest first.
#[derive(Default)]
pub(crate) struct Moments {
    list: Vec<Moment>,
    /// Memory as it was at the moment taken or gone back to last; pages written since are marked dirty.
    pages: Pages,
    size: usize,
    /// How often every other one was dropped.
    pub(crate) thinned: u32,
}

fn zero(page: &Page) -> bool {
    page.as_chunks::<16>().0.iter().all(|w| u128::from_ne_bytes(*w) == 0)
}

impl Moments {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Moment> {
        self.list.get(index)
    }

    /// The last one that `is_before` holds for.
    pub(crate) fn last_where(&self, is_before: impl Fn(&Moment) -> bool) -> Option<usize> {
        self.list.partition_point(is_before).checked_sub(1)
    }

    /// Brings `self.pages` up to date with memory; says how many bytes that took.
    fn look(&mut self, ram: &Ram) -> usize {
        let chunks = (ram.len() / PAGE_SIZE).div_ceil(CHUNK);
        self.pages.resize_with(chunks, || Arc::new(vec![None; CHUNK]));
        let mut size = 0;
        let mut bytes = [0; PAGE_SIZE];
        for block in ram.blocks() {
            ram.take_dirty(block.block, Ram::DIRTY_SNAPSHOT, |page| {
                ram.read_bytes(page * PAGE_SIZE, &mut bytes);
                let slot = &self.pages[page / CHUNK][page % CHUNK];
                let same = slot.as_ref().map_or_else(|| zero(&bytes), |old| **old == bytes);
                if !same {
                    let new = (!zero(&bytes)).then(|| Arc::new(bytes));
                    size += if new.is_some() { PAGE_SIZE } else { 0 };
                    Arc::make_mut(&mut self.pages[page / CHUNK])[page % CHUNK] = new;
                }
            });
        }
        size
    }

    /// Makes memory what it was at a moment.
    fn put_back(&mut self, ram: &Ram, pages: &Pages) {
        let mut dirty = Vec::new();
        for block in ram.blocks() {
            ram.take_dirty(block.block, Ram::DIRTY_SNAPSHOT, |page| dirty.push(page));
        }
        const ZERO: Page = [0; PAGE_SIZE];
        let write = |page: usize, to: &Option<Arc<Page>>| {
            ram.write_bytes(page * PAGE_SIZE, to.as_deref().unwrap_or(&ZERO));
        };
        for page in dirty {
            write(page, &pages[page / CHUNK][page % CHUNK]);
        }
        for (n, (from, to)) in self.pages.iter().zip(pages).enumerate() {
            if Arc::ptr_eq(from, to) {
                continue;
            }
            for (i, (from, to)) in from.iter().zip(to.iter()).enumerate() {
                let same = match (from, to) {
                    (None, None) => true,
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    _ => false,
                };
                if !same {
                    write(n * CHUNK + i, to);
                }
            }
        }
        for block in ram.blocks() {
            ram.take_dirty(block.block, Ram::DIRTY_SNAPSHOT, |_| {});
        }
        self.pages = pages.clone();
    }

    /// Keeps the present; gives the hash of everything but memory. `keep` false: the hash alone.
    pub(crate) fn take(
        &mut self,
        machine: &mut Machine,
        scratches: &[Scratch],
        notes: usize,
        keep: bool,
    ) -> u64 {
        let at = machine.at();
        let (board, devices) = machine.board.save();
        let cpus = machine.cpus.save();
        let plain = "plain data encodes";
        let mut hash = Xxh3::new();
        hash.update(&postcard::to_allocvec(&board).expect(plain));
        hash.update(&postcard::to_allocvec(&devices).expect(plain));
        hash.update(&postcard::to_allocvec(&cpus).expect(plain));
        let hash = hash.digest();
        if !keep || self.list.last().is_some_and(|last| last.at >= at) {
            return hash;
        }
        let mut size = self.look(machine.board.ram());
        let disks: Vec<Layer> = scratches.iter().map(Scratch::save).collect();
        size += self.pages.len() * 8 + (64 << 10);
        let moment = Moment {
            at,
            notes,
            board,
            devices,
            cpus,
            turn: machine.turn(),
            suspended: machine.suspended(),
            pages: self.pages.clone(),
            disks,
            bytes: machine.char_ports().map(|p| p.waiting()).collect(),
            links: machine.links(),
            frames: machine.handles.nets.iter().map(|(_, p)| p.waiting()).collect(),
            size,
        };
        self.size += size;
        self.list.push(moment);
        if self.size > BUDGET && self.list.len() > 8 {
            self.thin();
        }
        hash
    }

    /// Drops every other moment but the first; what is shared goes with the last that has it, so
    /// that the count of bytes is an estimate from here on.
    fn thin(&mut self) {
        let mut n = 0;
        self.list.retain(|_| {
            n += 1;
            n % 2 == 1
        });
        self.thinned += 1;
        self.size = self.list.iter().map(|m| m.size).sum();
    }

    /// Makes the machine what it was at a moment. Nothing is in flight on its disks.
    pub(crate) fn restore(
        &mut self,
        index: usize,
        machine: &mut Machine,
        scratches: &[Scratch],
    ) -> Result<(), orrery_system::RestoreError> {
        let Some(pages) = self.list.get(index).map(|m| m.pages.clone()) else { return Ok(()) };
        self.put_back(machine.board.ram(), &pages);
        let moment = &self.list[index];
        for (scratch, layer) in scratches.iter().zip(&moment.disks) {
            scratch.restore(layer);
        }
        machine.set_links(&moment.links);
        machine.board.restore(&moment.board, &moment.devices)?;
        machine.cpus.rewind(&mut machine.board, &moment.cpus)?;
        machine.set_turn(moment.turn);
        machine.set_suspended(moment.suspended);
        for (port, bytes) in machine.char_ports().zip(&moment.bytes) {
            port.set_waiting(bytes.iter().copied());
        }
        for ((_, port), frames) in machine.handles.nets.iter().zip(&moment.frames) {
            port.set_waiting(frames.iter().cloned());
        }
        Ok(())
    }
}
