//! Translated blocks: where they are, what they were made from, how they link.
//!
//! All operations live in one vector that only grows until it is full and is then
//! emptied. A block is found by its place in guest memory (arena page and offset), its
//! program counter and its mode, so that the same page seen by several address
//! spaces shares its blocks. Exits are linked directly to blocks of the same page only:
//! what lies in one page stays together whatever the page tables say.

use std::cell::Cell;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::ir::Args;
use crate::jit::abi::Code;
use crate::region::RPage;
use crate::uop::Uop;

const PAGE: usize = 4096;

/// What a block is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Arena offset of the first byte.
    pub(crate) at: usize,
    pub(crate) pc: u64,
    pub(crate) mode: u64,
    /// Limited to one instruction, all exits through the run loop.
    pub(crate) single: bool,
}

/// One translated block.
pub(crate) struct Block {
    pub(crate) key: Key,
    /// Index of its first operation.
    pub(crate) start: u32,
    pub(crate) insns: u8,
    /// Guest bytes it was made from.
    pub(crate) bytes: u32,
    /// The arena page its last instruction reaches into, if it crosses.
    pub(crate) second_page: Option<usize>,
    /// First of its marks and exits; they end where the next block's begin.
    marks: u32,
    exits: u32,
    pub(crate) alive: bool,
    /// How often it was found to be running.
    pub(crate) heat: u8,
    /// A region that starts here was formed.
    pub(crate) formed: bool,
}

/// A region of which a block is the entry.
pub(crate) struct Slot {
    pub(crate) block: u32,
    /// Its pages, and which of them the block is in.
    pub(crate) pages: Arc<[RPage]>,
    pub(crate) own: usize,
    /// The compiled code, once it is there.
    pub(crate) code: Option<Code>,
    /// What it replaced at the start of the block.
    first: Uop,
    pub(crate) alive: bool,
    /// It is compiled for the best code, or its code is good enough.
    pub(crate) best: bool,
    /// How often it was found running.
    pub(crate) heat: u8,
    /// The block is not the first of the region.
    gate: bool,
    /// For this CPU in this epoch, all its pages were found in place.
    pub(crate) checked: Cell<(usize, u64)>,
}

/// Where an instruction begins in the operations.
struct Mark {
    uop: u32,
    pc: u64,
}

/// A way out of a block.
pub(crate) struct Exit {
    /// The operation that takes it.
    pub(crate) uop: u32,
    /// The stub it goes to while not linked (itself, for an unconditional exit).
    pub(crate) stub: u32,
    pub(crate) pc: u64,
}

/// Which bytes of a page translated code was made from.
struct PageCode {
    blocks: Vec<u32>,
    regions: Vec<u32>,
    covered: Box<[u64; PAGE / 64]>,
}

/// An operand list of a call.
pub(crate) type CallArgs = Args;

/// Which bytes of guest memory translated code was made from.
#[derive(Default)]
pub struct CodeMap {
    pages: FxHashMap<usize, PageCode>,
}

impl CodeMap {
    fn page(&mut self, page: usize) -> &mut PageCode {
        self.pages.entry(page).or_insert_with(|| PageCode {
            blocks: Vec::new(),
            regions: Vec::new(),
            covered: Box::new([0; PAGE / 64]),
        })
    }

    /// Whether any of `len` bytes at arena offset `off` (within one page) is translated.
    pub fn covers(&self, off: usize, len: usize) -> bool {
        let Some(page) = self.pages.get(&(off / PAGE)) else { return false };
        let (first, end) = (off % PAGE, off % PAGE + len);
        if first / 64 == (end - 1) / 64 {
            let mask = (u64::MAX >> (64 - len)) << (first % 64);
            return page.covered[first / 64] & mask != 0;
        }
        (first..end).any(|b| page.covered[b % PAGE / 64] >> (b % 64) & 1 != 0)
    }
}

/// The cache.
pub(crate) struct CodeCache {
    pub(crate) code: Vec<Uop>,
    pub(crate) args: Vec<CallArgs>,
    pub(crate) consts: Vec<u128>,
    pub(crate) exits: Vec<Exit>,
    marks: Vec<Mark>,
    blocks: Vec<Block>,
    slots: Vec<Slot>,
    /// Regions that went away since they were last asked for.
    dead: Vec<u32>,
    by_key: FxHashMap<Key, u32>,
    pub(crate) map: CodeMap,
    /// Changes whenever a block went away.
    epoch: u64,
    limit: usize,
}

/// A block being added.
pub(crate) struct Adding {
    first_mark: usize,
    first_exit: usize,
    start: u32,
}

impl CodeCache {
    /// A cache of about so many operations (16 bytes each).
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            code: Vec::new(),
            args: Vec::new(),
            consts: Vec::new(),
            exits: Vec::new(),
            marks: Vec::new(),
            blocks: Vec::new(),
            slots: Vec::new(),
            dead: Vec::new(),
            by_key: FxHashMap::default(),
            map: CodeMap::default(),
            epoch: 0,
            limit,
        }
    }

    /// Changes whenever a block found earlier may be gone.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether it is time to [`clear`](Self::clear).
    pub(crate) fn is_full(&self) -> bool {
        self.code.len() >= self.limit
    }

    /// Forgets everything; gives the pages that held code.
    pub(crate) fn clear(&mut self) -> Vec<usize> {
        self.code.clear();
        self.args.clear();
        self.consts.clear();
        self.exits.clear();
        self.marks.clear();
        self.blocks.clear();
        self.slots.clear();
        self.dead.clear();
        self.by_key.clear();
        self.epoch += 1;
        self.map.pages.drain().map(|(page, _)| page).collect()
    }

    /// Number of live blocks.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn block(&self, id: u32) -> &Block {
        &self.blocks[id as usize]
    }

    /// The block whose first operation is `start`.
    pub(crate) fn block_at(&self, start: u32) -> &Block {
        match self.code.get((start as usize).wrapping_sub(1)) {
            Some(Uop::Block { id }) => self.block(*id),
            _ => unreachable!("links lead to the start of blocks"),
        }
    }

    /// The block that operation `uop` belongs to, the number of its instruction in it, and that
    /// instruction's program counter.
    pub(crate) fn locate(&self, uop: u32) -> (&Block, u8, u64) {
        let id = self.blocks.partition_point(|b| b.start <= uop) - 1;
        let end = self.blocks.get(id + 1).map_or(self.marks.len(), |b| b.marks as usize);
        let marks = &self.marks[self.blocks[id].marks as usize..end];
        let k = marks.partition_point(|m| m.uop <= uop).max(1) - 1;
        (&self.blocks[id], k as u8, marks[k].pc)
    }

    // Adding a block: `begin`, operations with marks and exits, `finish`.

    pub(crate) fn begin(&mut self) -> Adding {
        self.code.push(Uop::Block { id: self.blocks.len() as u32 });
        Adding {
            first_mark: self.marks.len(),
            first_exit: self.exits.len(),
            start: self.code.len() as u32,
        }
    }

    pub(crate) fn mark(&mut self, pc: u64) {
        self.marks.push(Mark { uop: self.code.len() as u32, pc });
    }

    pub(crate) fn add_exit(&mut self, uop: u32, stub: u32, pc: u64) -> u32 {
        self.exits.push(Exit { uop, stub, pc });
        self.exits.len() as u32 - 1
    }

    /// Enters the block, made from `bytes` bytes. `keep` = it may be found again.
    pub(crate) fn finish(
        &mut self,
        adding: &Adding,
        key: Key,
        insns: u8,
        bytes: u32,
        second_page: Option<usize>,
        keep: bool,
    ) -> u32 {
        let id = self.blocks.len() as u32;
        self.blocks.push(Block {
            key,
            start: adding.start,
            insns,
            bytes,
            second_page,
            marks: adding.first_mark as u32,
            exits: adding.first_exit as u32,
            alive: keep,
            heat: 0,
            formed: false,
        });
        if keep {
            self.by_key.insert(key, id);
            let first = (PAGE - key.at % PAGE).min(bytes as usize);
            self.cover(id, key.at, first);
            if let Some(page) = second_page {
                self.cover(id, page * PAGE, bytes as usize - first);
            }
        }
        id
    }

    fn cover(&mut self, id: u32, at: usize, len: usize) {
        let page = self.map.page(at / PAGE);
        page.blocks.push(id);
        page.cover(at, len);
    }

    // Regions.

    pub(crate) fn slot(&self, region: u32) -> &Slot {
        &self.slots[region as usize]
    }

    pub(crate) fn block_mut(&mut self, id: u32) -> &mut Block {
        &mut self.blocks[id as usize]
    }

    /// Regions that went away: their code is not used any more.
    pub(crate) fn take_dead(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.dead)
    }

    /// How many regions there were since the cache was last emptied.
    pub(crate) fn regions(&self) -> usize {
        self.slots.len()
    }

    /// Enters a region formed at a block, without code as yet.
    pub(crate) fn add_region(&mut self, block: u32, pages: Arc<[RPage]>, best: bool) -> u32 {
        for (at, len) in pages.iter().flat_map(|p| p.bytes.iter().copied()) {
            self.map.page(at / PAGE).cover(at, len);
        }
        self.add_slot(block, pages, 0, best, false)
    }

    /// Enters a block, in page `own`, at which a region that was entered may be entered, too.
    pub(crate) fn add_gate(&mut self, region: u32, block: u32, own: usize) -> u32 {
        let Slot { ref pages, best, .. } = self.slots[region as usize];
        self.blocks[block as usize].formed = true;
        self.add_slot(block, pages.clone(), own, best, true)
    }

    fn add_slot(
        &mut self,
        block: u32,
        pages: Arc<[RPage]>,
        own: usize,
        best: bool,
        gate: bool,
    ) -> u32 {
        let region = self.slots.len() as u32;
        for p in pages.iter().filter(|p| !p.bytes.is_empty()) {
            let page = self.map.page(p.offset / PAGE);
            if page.regions.last() != Some(&region) {
                page.regions.push(region);
            }
        }
        let (first, checked) = (Uop::Enter { region, len: 0 }, Cell::new((usize::MAX, 0)));
        let (code, alive, heat) = (None, true, 0);
        self.slots.push(Slot { block, pages, own, code, first, alive, best, heat, gate, checked });
        region
    }

    /// Puts a region's code in place of its first block. Answers the program counter and the code that was
    /// there before, which is not to be entered any more.
    pub(crate) fn publish(&mut self, region: u32, code: Code) -> Option<(u64, Code)> {
        let slot = &self.slots[region as usize];
        let block = &self.blocks[slot.block as usize];
        if !(slot.alive && block.alive) {
            return None;
        }
        let (best, start, pc) = (slot.best, block.start as usize, block.key.pc);
        let (mut first, mut before) = (self.code[start], None);
        if let Uop::Enter { region: old, .. } = first {
            let keeps = slot.gate || self.slots[old as usize].best && !best;
            let loser = if keeps { region } else { old };
            let slot = &mut self.slots[loser as usize];
            slot.alive = false;
            self.dead.push(loser);
            if loser == region {
                return None;
            }
            (first, before) = (slot.first, slot.code.take().map(|code| (pc, code)));
        }
        let slot = &mut self.slots[region as usize];
        (slot.code, slot.first) = (Some(code), first);
        self.code[start] = Uop::Enter { region, len: block.insns };
        before
    }

    /// A region was found running; answers how often that was, and its block. Nothing when it is the
    /// best there is.
    pub(crate) fn warm(&mut self, region: u32) -> Option<(u8, u32)> {
        let slot = self.slots.get_mut(region as usize).filter(|s| s.alive && !s.best)?;
        slot.heat = slot.heat.saturating_add(1);
        Some((slot.heat, slot.block))
    }

    /// A region is compiled for the best code: not again.
    pub(crate) fn set_best(&mut self, region: u32) {
        self.slots[region as usize].best = true;
    }

    /// Puts the first operation of a region's first block back.
    pub(crate) fn uncover(&mut self, region: u32) {
        let slot = &self.slots[region as usize];
        let block = &self.blocks[slot.block as usize];
        let (start, mut first) = (block.start, slot.first);
        if first.link().is_some() {
            // What it was linked to may be gone by now.
            let exits = &self.exits[block.exits as usize..];
            if let Some(e) = exits.iter().find(|e| e.uop == start) {
                first.set_link(e.stub, 0);
            }
        }
        self.code[start as usize] = first;
    }

    /// Undoes [`uncover`](Self::uncover).
    pub(crate) fn cover_again(&mut self, region: u32) {
        let slot = &self.slots[region as usize];
        let block = &self.blocks[slot.block as usize];
        if slot.alive && block.alive {
            self.code[block.start as usize] = Uop::Enter { region, len: block.insns };
        }
    }

    fn drop_region(&mut self, region: u32) {
        if self.slots[region as usize].code.is_some() {
            self.uncover(region);
        }
        let slot = &mut self.slots[region as usize];
        slot.alive = false;
        slot.code = None;
        self.blocks[slot.block as usize].formed = false;
        self.dead.push(region);
    }

    /// Whether an exit of the block at `from` may be linked to `to` for good.
    pub(crate) fn linkable(&self, from: &Block, to: &Block) -> bool {
        from.alive
            && to.alive
            && !from.key.single
            && !to.key.single
            && from.key.mode == to.key.mode
            && from.key.at / PAGE == to.key.at / PAGE
            && to.second_page.is_none()
            // Same page of the address space, not a page mapped twice.
            && from.key.at.wrapping_sub(to.key.at) as u64 == from.key.pc.wrapping_sub(to.key.pc)
    }

    /// Links an exit to a block.
    pub(crate) fn link(&mut self, exit: u32, to: u32) {
        let (start, insns) = (self.blocks[to as usize].start, self.blocks[to as usize].insns);
        let uop = self.exits[exit as usize].uop;
        self.code[uop as usize].set_link(start, insns);
    }

    /// Makes an exit look its target up each time it is taken.
    pub(crate) fn never_link(&mut self, exit: u32) {
        let e = &self.exits[exit as usize];
        self.code[e.stub as usize] = Uop::GotoPc { pc: e.pc };
    }

    /// Drops the blocks made from any of `len` bytes at arena offset `off` (which may span pages).
    /// Answers how many there were, and calls `empty` with pages that hold no code any more.
    pub(crate) fn invalidate(
        &mut self,
        off: usize,
        len: usize,
        mut empty: impl FnMut(usize),
    ) -> usize {
        let mut dropped = 0;
        for page in off / PAGE..=(off + len - 1) / PAGE {
            let start = off.max(page * PAGE);
            let end = (off + len).min((page + 1) * PAGE);
            if self.map.covers(start, end - start) {
                dropped += self.invalidate_in(page, start, end);
                if self.map.pages.get(&page).is_none_or(PageCode::is_empty) {
                    self.map.pages.remove(&page);
                    empty(page);
                }
            }
        }
        dropped
    }

    fn invalidate_in(&mut self, page: usize, start: usize, end: usize) -> usize {
        let Some(mut code) = self.map.pages.remove(&page) else { return 0 };
        self.epoch += 1;
        let mut gone = Vec::new();
        code.blocks.retain(|&id| {
            let block = &mut self.blocks[id as usize];
            let (at, len) = block.part_in(page);
            let keep = block.alive && (at >= end || at + len <= start);
            if !keep && block.alive {
                block.alive = false;
                gone.push((id, block.start));
            }
            keep
        });
        for &(id, _) in &gone {
            let key = self.blocks[id as usize].key;
            if self.by_key.get(&key) == Some(&id) {
                self.by_key.remove(&key);
            }
        }
        let mut lost = Vec::new();
        // A region and its gates follow each other and share their pages.
        let mut last: Option<(Arc<[RPage]>, bool)> = None;
        code.regions.retain(|&id| {
            let slot = &self.slots[id as usize];
            let there = match &last {
                Some((pages, there)) if Arc::ptr_eq(pages, &slot.pages) => *there,
                _ => {
                    let hit = |&(at, len): &(usize, usize)| at < end && start < at + len;
                    let there = !slot.pages.iter().any(|p| p.bytes.iter().any(hit));
                    last = Some((slot.pages.clone(), there));
                    there
                }
            };
            let keep = slot.alive && there;
            if !keep && slot.alive {
                lost.push(id);
            }
            keep
        });
        for &id in &lost {
            self.drop_region(id);
        }
        // Links come from the same page only; the block itself may be the one that is running.
        for &id in code.blocks.iter().chain(gone.iter().map(|(id, _)| id)) {
            let first = self.blocks[id as usize].exits as usize;
            let last =
                self.blocks.get(id as usize + 1).map_or(self.exits.len(), |b| b.exits as usize);
            for e in &self.exits[first..last] {
                let uop = &mut self.code[e.uop as usize];
                if uop.link().is_some_and(|to| gone.iter().any(|&(_, start)| start == to)) {
                    uop.set_link(e.stub, 0);
                }
            }
        }
        code.covered.fill(0);
        for i in 0..code.blocks.len() {
            let (at, len) = self.blocks[code.blocks[i] as usize].part_in(page);
            code.cover(at, len);
        }
        for i in 0..code.regions.len() {
            let pages = &self.slots[code.regions[i] as usize].pages;
            if i > 0 && Arc::ptr_eq(pages, &self.slots[code.regions[i - 1] as usize].pages) {
                continue;
            }
            for p in &**pages {
                for &(at, len) in p.bytes.iter().filter(|(at, _)| at / PAGE == page) {
                    code.cover(at, len);
                }
            }
        }
        let dropped = gone.len() + lost.len();
        if !code.is_empty() {
            self.map.pages.insert(page, code);
        }
        dropped
    }
}

impl Block {
    /// The bytes in an arena page that it was made from: offset and length.
    fn part_in(&self, page: usize) -> (usize, usize) {
        let bytes = self.bytes as usize;
        let first = (PAGE - self.key.at % PAGE).min(bytes);
        if self.key.at / PAGE == page { (self.key.at, first) } else { (page * PAGE, bytes - first) }
    }
}

impl PageCode {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.regions.is_empty()
    }

    fn cover(&mut self, at: usize, len: usize) {
        for b in at % PAGE..at % PAGE + len {
            self.covered[b / 64] |= 1 << (b % 64);
        }
    }
}
