//! Ways between blocks and out of a region, and the code of what is seldom run.

use super::asm::{Alu, Cc, Mark, RAX, RCX, RDX, RSP, Rm, at};
use super::float::Start;
use super::held::Held;
use super::late::Late;
use super::stack::Fpu;
use super::xmm::Vectors;
use super::{Emit, Extend, Src, slot};
use crate::ir::{Val, Width};
use crate::jit::abi::stop;

/// Code that is seldom run, and where it is jumped to from.
pub(super) enum Cold {
    /// An access that the TLB does not know, with its address in RAX.
    Access {
        here: Mark,
        left: Left,
        /// The vectors when it is done.
        vectors: Vectors,
        back: Mark,
        stub: usize,
        /// A store's value.
        value: Option<Src>,
        access: u32,
        rest: u32,
        pc: u64,
        /// Where a load's result belongs.
        result: Option<(Rm, Width, Extend)>,
    },
    /// A way from block `from` to `pc`, with instructions given back.
    Go { here: Mark, left: Left, from: usize, pc: u64, back: u32 },
    /// The same out of the region.
    Exit { here: Mark, pc: u64 },
    /// The budget is used up.
    Short { here: Mark, pc: u64 },
    /// A trap.
    Trap { here: Mark, left: Left, id: u16, arg: Src, rest: u32, pc: u64 },
    /// Floating point begins.
    Float(Start),
    /// The same of the unit with a stack; where to go on if it cannot.
    Stack { here: Mark, back: Mark, otherwise: Mark },
}

/// What is not in the frame yet where a block is left.
#[derive(Default)]
pub(super) struct Left {
    pub(super) late: Vec<Late>,
    pub(super) held: Held,
    pub(super) vectors: Vectors,
    pub(super) fpu: Fpu,
}

impl Emit<'_> {
    /// Stops before block `to` unless enough is left to get to the next look.
    pub(super) fn look(&mut self, to: usize) {
        let here = self.a.mark();
        self.compare_left(to);
        self.a.jump_if(Cc::L, here);
        let pc = self.region.blocks[to].pc;
        self.cold.push(Cold::Short { here, pc });
    }

    pub(super) fn compare_left(&mut self, to: usize) {
        let need = self.budget.need[to] as i32;
        self.a.alu_imm(Alu::Cmp, Width::W64, at(RSP, slot::LEFT), need);
    }

    /// Leaves for the region at `pc`.
    pub(super) fn exit(&mut self, pc: u64) {
        self.a.set(RAX, pc);
        self.a.jump_to(self.stubs.lookup);
    }

    pub(super) fn give_back(&mut self, back: u32) {
        if back != 0 {
            self.a.alu_imm(Alu::Add, Width::W64, at(RSP, slot::LEFT), back as i32);
        }
    }

    /// Goes on at `pc` with instructions given back.
    pub(super) fn go(&mut self, pc: u64, back: u32) {
        self.give_back(back);
        let Some((to, page)) = self.region.edge(self.at, pc) else { return self.exit(pc) };
        if let Some(page) = page {
            let here = self.a.mark();
            self.a.test_imm(Width::W32, at(RSP, slot::PAGES), (1u32 << page) as i32);
            self.a.jump_if(Cc::E, here);
            self.cold.push(Cold::Exit { here, pc });
        }
        if self.budget.look[to] {
            self.look(to);
        }
        if self.next != Some(to) || !self.last {
            let to = self.blocks[to];
            self.a.jump(to);
        }
    }

    /// Goes on at `pc` where the condition holds.
    pub(super) fn go_if(&mut self, cc: Cc, pc: u64) {
        let back = self.region.blocks[self.at].insns - self.insn;
        match self.region.edge(self.at, pc) {
            Some((to, None)) if back == 0 && !self.budget.look[to] => {
                let to = self.blocks[to];
                self.a.jump_if(cc, to);
            }
            Some((to, None)) if back == 0 => {
                let (over, short) = (self.a.mark(), self.a.mark());
                self.a.jump_if(cc.not(), over);
                self.compare_left(to);
                let to = self.blocks[to];
                self.a.jump_if(Cc::Ge, to);
                self.a.jump(short);
                self.a.here(over);
                self.cold.push(Cold::Short { here: short, pc });
            }
            _ => {
                let here = self.a.mark();
                self.a.jump_if(cc, here);
                let left = self.left();
                self.cold.push(Cold::Go { here, left, from: self.at, pc, back });
            }
        }
    }

    pub(super) fn go_var(&mut self, pc: Val) {
        let target = match self.src(pc) {
            Src::Imm(pc) => return self.go(pc, 0),
            other => other,
        };
        self.fetch(Width::W64, RAX, target);
        // One or two are compared faster than looked up.
        let region = self.region;
        for &to in region.returns.iter().take(2) {
            let pc = region.blocks[to].pc;
            match i32::try_from(pc as i64) {
                Ok(n) => self.a.alu_imm(Alu::Cmp, Width::W64, RAX, n),
                Err(_) => {
                    self.a.set(RCX, pc);
                    self.a.alu(Alu::Cmp, Width::W64, RAX, RCX);
                }
            }
            let here = self.a.mark();
            self.a.jump_if(Cc::E, here);
            self.cold.push(Cold::Go { here, left: Left::default(), from: self.at, pc, back: 0 });
        }
        self.a.jump_to(self.stubs.lookup);
    }

    /// Instructions of the block that are not done when this one is not.
    pub(super) fn rest(&self) -> u32 {
        self.region.blocks[self.at].insns - (self.insn - 1)
    }

    pub(super) fn emit_cold(&mut self, cold: Cold) {
        match cold {
            Cold::Access { here, left, vectors, back, stub, value, access, rest, pc, result } => {
                self.a.here(here);
                let running = left.fpu.run.is_some();
                if running {
                    self.a.load(Width::W64, RDX, RAX);
                }
                self.settle_left(&left);
                if running {
                    self.a.load(Width::W64, RAX, RDX);
                }
                if let Some(value) = value {
                    self.fetch(Width::W64, RDX, value);
                }
                self.a.set(RCX, u64::from(access) | u64::from(rest) << 32);
                self.a.call(stub);
                // The stub reads this when it has to leave.
                self.a.set_long(RCX, pc);
                if let Some((place, w, extend)) = result {
                    self.loaded(place, w, extend, RAX.into());
                }
                self.load_vectors(&vectors);
                self.resume_run(&left.fpu);
                self.a.jump(back);
            }
            Cold::Go { here, left, from, pc, back } => {
                self.a.here(here);
                self.settle_left(&left);
                self.at = from;
                self.go(pc, back);
            }
            Cold::Exit { here, pc } => {
                self.a.here(here);
                self.exit(pc);
            }
            Cold::Short { here, pc } => {
                self.a.here(here);
                self.a.set(RAX, pc);
                self.a.set_quiet(RCX, stop::LOOKUP);
                self.a.jump_to(self.stubs.leave);
            }
            Cold::Float(start) => self.start_float(start),
            Cold::Stack { here, back, otherwise } => self.start_stack(here, back, otherwise),
            Cold::Trap { here, left, id, arg, rest, pc } => {
                self.a.here(here);
                self.settle_left(&left);
                self.fetch(Width::W64, RDX, arg);
                self.a.set(RCX, u64::from(id) | u64::from(rest) << 32);
                self.a.call(self.stubs.trap);
                self.a.set_long(RCX, pc);
            }
        }
    }

    pub(super) fn trap(&mut self, here: Mark, id: u16, arg: Val) {
        let arg = self.src(arg);
        let left = self.left();
        self.cold.push(Cold::Trap { here, left, id, arg, rest: self.rest(), pc: self.pc });
    }

    /// What is not in the frame yet.
    pub(super) fn left(&self) -> Left {
        let (late, fpu) = (self.late.clone(), self.fpu.clone());
        Left { late, held: self.held, vectors: self.vectors, fpu }
    }

    /// Puts it there; RAX and RCX may be lost.
    pub(super) fn settle_left(&mut self, left: &Left) {
        // Where what is written late is.
        self.held = left.held;
        left.late.iter().for_each(|&l| self.write_late(l));
        self.store_held(&left.held);
        self.store_vectors(&left.vectors);
        if let Some(run) = &left.fpu.run {
            self.settle_run(run);
        }
    }
}
