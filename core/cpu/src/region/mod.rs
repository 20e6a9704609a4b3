//! Regions: the blocks around a hot one, to be compiled as one function.
//!
//! A region starts at one block and takes in what that block leads to by known ways (branches,
//! calls, and the places calls return to), each block lifted once, until nothing is left or a
//! limit is reached. Loops are whole inside it. A back end takes a [`Region`] and nothing else:
//! registers live in values across all of it, and a way out that no block of the region stands for
//! writes back what may have changed ([`RBlock::dirty_in`]) and names its program counter.
//!
//! Counting is the interpreter's: a block is entered only when [`RBlock::insns`] are left, which
//! are then charged; a way out in its middle gives back those that did not run.

pub mod flow;
mod known;
pub mod spans;

use std::collections::{BTreeMap, VecDeque};

use crate::frame::FIRST_TEMP;
use crate::ir::stack::Stacked;
use crate::ir::{Builder, Fx, Op, Val, Var, VecKind, opt};
use crate::isa::{Isa, Lift};

/// A block of a region. Blocks end with a terminal op and may be left before it
/// ([`Op::ExitIf`]); temporaries and labels stay within one instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct RBlock {
    /// Program counter of the first instruction.
    pub pc: u64,
    /// Index into [`Region::pages`].
    pub page: u8,
    /// Instructions in all.
    pub insns: u32,
    /// What it does.
    pub ops: Vec<Op>,
    /// Guest variables (a bit each) that may have been written in the region on a way here, and
    /// not been written back since. All of them are live: the block is left at its start when
    /// the budget is used up.
    pub dirty_in: u64,
}

/// A page of guest memory that a region was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RPage {
    /// A program counter in the page: where its first block begins.
    pub pc: u64,
    /// The linear address of that program counter.
    pub linear: u64,
    /// Arena offset of the page.
    pub offset: usize,
    /// Bytes from `linear` on that must be fetchable.
    pub reach: u64,
    /// The bytes that blocks were made from: arena offset and length. Empty for a page
    /// that turned out to hold no block.
    pub bytes: Vec<(usize, usize)>,
}

/// A region. The block it is entered at is the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// The mode its blocks were lifted for ([`Isa::block_key`]).
    pub mode: u64,
    /// The blocks, in the order they were found.
    pub blocks: Vec<RBlock>,
    /// The pages they are in; the first is that of the entry.
    pub pages: Vec<RPage>,
    /// Blocks that a call inside the region returns to: where a computed jump probably goes.
    pub returns: Vec<usize>,
    /// At most so many low bits of each guest variable are not zero where a block starts.
    pub bits: [u8; FIRST_TEMP as usize],
    /// Blocks other than the first that it may be entered at ([`Limits::gates`]).
    pub gates: Vec<usize>,
    /// When floating-point ops may be done on the host ([`Isa::FLOAT_GUARD`]).
    pub guard: (Var, u64, u64),
    /// Bits of the guard that may be missing where a result is exact ([`Isa::FLOAT_INEXACT`]).
    pub inexact: u64,
    /// The names of the kinds of its vector ops ([`Isa::vec_kind`]).
    pub kinds: BTreeMap<u16, VecKind>,
    /// The quick functions it calls, by number: function pointers.
    pub quick: BTreeMap<u16, usize>,
    /// What those of its stack of floating-point registers do, by number and first argument ([`Isa::stack_op`]).
    pub stack: BTreeMap<(u16, u64), Stacked>,
    /// [`Limits::resumes`].
    pub resumes: bool,
    /// Which block begins at a program counter.
    starts: BTreeMap<u64, usize>,
    /// Blocks of an instruction that goes on in another page than the one it begins in: that page, unless it is the
    /// entry's.
    across: BTreeMap<usize, u8>,
}

/// How far a region may go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most blocks.
    pub blocks: usize,
    /// Most instructions in all.
    pub insns: u32,
    /// Most instructions in a block.
    pub block_insns: u32,
    /// Most pages.
    pub pages: usize,
    /// Whether it goes on behind an [`Op::Leave`] to a known place: for back ends that call the shim
    /// [`resume`](crate::jit::abi::Shims::resume).
    pub resumes: bool,
    /// Most places besides its first block that it can be entered at: for back ends that can do that.
    pub gates: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { blocks: 64, insns: 1000, block_insns: 64, pages: 8, resumes: false, gates: 0 }
    }
}

/// Where the bytes at a program counter are.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Linear address.
    pub linear: u64,
    /// Arena offset.
    pub at: usize,
    /// The bytes that may be fetched, to the end of the page at most.
    pub bytes: Vec<u8>,
}

const PAGE: u64 = 4096;

impl Region {
    /// The block that begins at `pc`.
    pub fn block_at(&self, pc: u64) -> Option<usize> {
        self.starts.get(&pc).copied()
    }

    /// Which of the gates begins at `pc`.
    #[cfg(all(test, not(target_family = "wasm")))]
    pub(crate) fn gate_at(&self, pc: u64) -> Option<usize> {
        let block = self.block_at(pc)?;
        self.gates.iter().position(|&gate| gate == block)
    }

    /// Where a way out of block `from` to `pc` leads: a block of the region, and the page it is
    /// in if that must be known to be in place first ([`jit::abi`](crate::jit::abi)).
    pub fn edge(&self, from: usize, pc: u64) -> Option<(usize, Option<u8>)> {
        let to = self.block_at(pc)?;
        let (from, page) = (self.blocks[from].page, self.blocks[to].page);
        // Coming back to the entry's page needs no check: the region was entered through it.
        let first = (page != from && page != 0).then_some(page);
        let second = self.across.get(&to).copied().filter(|&page| page != from);
        match (first, second) {
            // Two to check: left to the runtime.
            (Some(_), Some(_)) => None,
            (first, second) => Some((to, first.or(second))),
        }
    }

    /// Instructions in all.
    pub fn insns(&self) -> u32 {
        self.blocks.iter().map(|b| b.insns).sum()
    }

    /// Whether there is floating point in it (but that which is the host's own, `host`), or next to nothing but integers in
    /// registers: where an optimising compiler gains most. Elsewhere looks at the TLB set the pace.
    pub fn is_arithmetic(&self, host: bool) -> bool {
        let (mut floats, mut accesses) = (0, 0);
        for op in self.blocks.iter().flat_map(|b| &b.ops) {
            match op {
                Op::Float { .. } | Op::FloatInt { .. } | Op::Quick { .. } if !host => floats += 1,
                Op::Load { .. }
                | Op::LoadSext { .. }
                | Op::Store { .. }
                | Op::VLoad { .. }
                | Op::VStore { .. } => accesses += 1,
                _ => {}
            }
        }
        floats > 0 || accesses * 8 < self.insns()
    }

    /// Program counter of the entry.
    pub fn pc(&self) -> u64 {
        self.blocks[0].pc
    }

    /// A region of given blocks, all in one page.
    #[cfg(test)]
    pub(crate) fn of_blocks(bits: [u8; FIRST_TEMP as usize], blocks: Vec<RBlock>) -> Self {
        let starts = blocks.iter().enumerate().map(|(i, b)| (b.pc, i)).collect();
        let returns = Vec::new();
        let (guard, kinds) = ((Var(60), 0xff, 0x20), BTreeMap::new());
        let pages = Vec::new();
        let inexact = 0x20;
        let mut region = Self {
            mode: 0,
            blocks,
            pages,
            returns,
            gates: Vec::new(),
            bits,
            guard,
            inexact,
            kinds,
            quick: BTreeMap::from([(9, 10)]),
            stack: BTreeMap::new(),
            resumes: true,
            starts,
            across: BTreeMap::new(),
        };
        flow::dirty(&mut region);
        region
    }

    /// Forms the region that starts at `pc`.
    ///
    /// `fetch` gives the bytes at a program counter, or nothing where the region is not to go;
    /// what it gives for one page must be of one mapping. `true`: there the rest is of an instruction that begins on
    /// the page before. `None` when not even the instruction at `pc` can be had, all of it in one page.
    pub fn form<I: Isa>(
        cpu: &I::Cpu,
        mode: u64,
        pc: u64,
        limits: &Limits,
        builder: &mut Builder,
        mut fetch: impl FnMut(u64, bool) -> Option<Chunk>,
    ) -> Option<Self> {
        let mut bits = [64; FIRST_TEMP as usize];
        for (v, b) in bits.iter_mut().enumerate() {
            *b = I::var_bits(mode, Var(v as u8)) as u8;
        }
        let mut region = Self {
            mode,
            blocks: Vec::new(),
            pages: Vec::new(),
            returns: Vec::new(),
            gates: Vec::new(),
            bits,
            guard: I::FLOAT_GUARD,
            inexact: I::FLOAT_INEXACT,
            kinds: BTreeMap::new(),
            quick: BTreeMap::new(),
            stack: BTreeMap::new(),
            resumes: limits.resumes,
            starts: BTreeMap::new(),
            across: BTreeMap::new(),
        };
        let mut queue = VecDeque::from([pc]);
        let (mut back, mut resumed) = (Vec::new(), Vec::new());
        while let Some(pc) = queue.pop_front() {
            if region.starts.contains_key(&pc)
                || region.blocks.len() >= limits.blocks
                || region.insns() >= limits.insns
            {
                continue;
            }
            let Some(chunk) = fetch(pc, false) else { continue };
            let Some(page) = region.page(pc, &chunk, limits) else { continue };
            let more = |pc| fetch(pc, true);
            region.lift::<I>(cpu, pc, page, chunk, limits, builder, more);
            let Some(block) = region.blocks.last().filter(|b| b.pc == pc) else { continue };
            for op in &block.ops {
                match *op {
                    Op::ExitIf { pc, .. } | Op::Goto { pc } => queue.push_back(pc),
                    Op::Leave { pc: Val::Imm(pc) } if limits.resumes => {
                        resumed.push(pc);
                        queue.push_back(pc);
                    }
                    _ => {}
                }
            }
            if let Some(pc) = return_address(block) {
                back.push(pc);
                queue.push_back(pc);
            }
        }
        if region.blocks.is_empty() {
            return None;
        }
        for pc in back {
            if let Some(n) = region.block_at(pc)
                && !region.returns.contains(&n)
                && !region.across.contains_key(&n)
            {
                region.returns.push(n);
            }
        }
        region.find_gates(&resumed, limits.gates);
        known::fill_in(&mut region);
        for block in &mut region.blocks {
            if let Some(ops) = expand::<I>(&block.ops) {
                block.ops = ops;
                // The functions read more than the operations in their place.
                opt::optimise(&mut block.ops, |v| I::var_bits(mode, v));
            }
        }
        flow::dirty(&mut region);
        Some(region)
    }

    /// Chooses where it may be entered besides: behind calls and instructions that may have led elsewhere, and where
    /// loops begin.
    fn find_gates(&mut self, resumed: &[u64], most: usize) {
        if most == 0 {
            return;
        }
        let looks = flow::budget(self).look;
        let resumed = resumed.iter().filter_map(|&pc| self.block_at(pc));
        let loops = (0..self.blocks.len()).filter(|&n| looks[n]);
        let mut gates = Vec::new();
        for n in self.returns.iter().copied().chain(resumed).chain(loops) {
            if n != 0 && !self.across.contains_key(&n) && !gates.contains(&n) && gates.len() < most
            {
                gates.push(n);
            }
        }
        self.gates = gates;
    }

    /// The number of the page that a chunk is in, entered if new.
    fn page(&mut self, pc: u64, chunk: &Chunk, limits: &Limits) -> Option<u8> {
        let offset = chunk.at & !(PAGE as usize - 1);
        let same = |p: &RPage| {
            p.offset == offset && chunk.linear.wrapping_sub(p.linear) == pc.wrapping_sub(p.pc)
        };
        match self.pages.iter().position(same) {
            Some(n) => Some(n as u8),
            // A page with two mappings at once is left out.
            None if self.pages.iter().any(|p| p.linear / PAGE == chunk.linear / PAGE) => None,
            None if self.pages.len() >= limits.pages.min(32) => None,
            None => {
                let linear = chunk.linear;
                self.pages.push(RPage { pc, linear, offset, reach: 0, bytes: Vec::new() });
                Some(self.pages.len() as u8 - 1)
            }
        }
    }

    /// Notes that so many bytes of a page are in the region.
    fn take(&mut self, page: u8, pc: u64, linear: u64, at: usize, len: usize) {
        let place = &mut self.pages[usize::from(page)];
        place.bytes.push((at, len));
        // The reach is from the page's first block: make that the lowest.
        if linear < place.linear {
            place.reach += place.linear - linear;
            (place.pc, place.linear) = (pc, linear);
        }
        place.reach = place.reach.max(linear - place.linear + len as u64);
    }

    /// Lifts the block at `pc`; adds none when its first instruction is not all there. One that goes on in the next page
    /// is a block of its own; `more` gives the bytes there.
    #[expect(clippy::too_many_arguments, reason = "of one caller")]
    fn lift<I: Isa>(
        &mut self,
        cpu: &I::Cpu,
        start: u64,
        page: u8,
        chunk: Chunk,
        limits: &Limits,
        b: &mut Builder,
        mut more: impl FnMut(u64) -> Option<Chunk>,
    ) {
        b.clear();
        let Chunk { linear, at, mut bytes } = chunk;
        let here = bytes.len();
        // The page that the block goes on in, and where.
        let mut second: Option<(u8, u64, u64, usize)> = None;
        let (mut pc, mut pos) = (start, 0);
        while !b.ended() {
            // An instruction is not lifted twice where it can be helped.
            if pos > 0 && self.starts.contains_key(&pc) {
                b.end_at(pc);
                break;
            }
            b.begin_insn(pc);
            let (len, end) = match I::lift(cpu, self.mode, pc, &bytes[pos..], b) {
                Lift::Next(len) => (len, b.must_end()),
                Lift::End(len) => (len, true),
                Lift::Short if pos > 0 => {
                    b.abort_insn();
                    b.end_at(pc);
                    break;
                }
                // The region is entered when the first page is known to be in place.
                Lift::Short if self.blocks.is_empty() || second.is_some() => return,
                Lift::Short => {
                    b.abort_insn();
                    let (pc, next) = (start.wrapping_add(here as u64), linear + here as u64);
                    let Some(rest) = more(pc).filter(|c| c.linear == next && next % PAGE == 0)
                    else {
                        return;
                    };
                    let Some(page) = self.page(pc, &rest, limits) else { return };
                    bytes.extend(rest.bytes.iter().take(I::MAX_INSN));
                    second = Some((page, pc, rest.linear, rest.at));
                    continue;
                }
            };
            b.set_insn_len(len);
            pos += usize::from(len);
            pc = pc.wrapping_add(len.into());
            if b.ended() {
                break;
            }
            let full = second.is_some() || u32::from(b.insns()) >= limits.block_insns;
            if end || b.must_end() || full {
                b.end_at(pc);
            }
        }
        opt::optimise(b.ops_mut(), |v| I::var_bits(self.mode, v));
        leave_behind_helpers(b.ops_mut());
        let ops = b.ops().to_vec();
        for op in &ops {
            if let Op::VecOp { kind, .. } = *op
                && let Some(known) = I::vec_kind(kind)
            {
                self.kinds.insert(kind, known);
            }
            if let Op::Quick { f, args, .. } = *op {
                self.quick.extend(I::quick(f).map(|quick| (f, quick as usize)));
                if let Val::Imm(what) = args[0] {
                    self.stack.extend(I::stack_op(f, what).map(|op| ((f, what), op)));
                }
            }
        }
        self.take(page, start, linear, at, pos.min(here));
        if let Some((page, pc, linear, at)) = second {
            self.take(page, pc, linear, at, pos - here);
            if page != 0 {
                self.across.insert(self.blocks.len(), page);
            }
        }
        self.starts.insert(start, self.blocks.len());
        let insns = b.insns().into();
        self.blocks.push(RBlock { pc: start, page, insns, ops, dirty_in: 0 });
    }
}

/// What goes on behind a helper that ends its block does so through the run loop.
fn leave_behind_helpers(ops: &mut [Op]) {
    let mut ends = false;
    for op in ops {
        match *op {
            Op::Call { fx, .. } => ends |= fx.has(Fx::ENDS),
            Op::Goto { pc } if ends => *op = Op::Leave { pc: Val::Imm(pc) },
            Op::GotoVar { pc } if ends => *op = Op::Leave { pc },
            _ => {}
        }
    }
}

/// The ops of a block, with operations for the pure functions that have some; nothing if none has.
fn expand<I: Isa>(ops: &[Op]) -> Option<Vec<Op>> {
    ops.iter().position(|op| matches!(op, Op::Pure { .. }))?;
    let mut first = FIRST_TEMP;
    for op in ops {
        first = first.max(op.dest().map_or(0, |d| d.0 + 1));
    }
    let mut out = Vec::with_capacity(ops.len() + 16);
    let mut any = false;
    for op in ops {
        match op {
            Op::Pure { f, d, args } if I::expand(*f, *d, args, first, &mut out) => any = true,
            op => out.push(*op),
        }
    }
    any.then_some(out)
}

/// Where the call that ends a block comes back to: the address behind the block, stored by its
/// last instruction or put in a variable.
fn return_address(block: &RBlock) -> Option<u64> {
    let last = block.ops.iter().rposition(|op| matches!(op, Op::Insn { .. }))?;
    let Op::Insn { pc, len } = block.ops[last] else { return None };
    let next = pc.wrapping_add(len.into());
    let jumps = |op: &Op| match *op {
        Op::Goto { pc } => pc != next,
        Op::GotoVar { .. } => true,
        _ => false,
    };
    let ops = &block.ops[last + 1..];
    let kept = ops.iter().any(
        |op| matches!(*op, Op::Store { a: Val::Imm(n), .. } | Op::Mov { a: Val::Imm(n), .. } if n == next),
    );
    (kept && ops.last().is_some_and(jumps)).then_some(next)
}

#[cfg(test)]
mod tests;
