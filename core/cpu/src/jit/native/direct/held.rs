//! Guest variables that have no register of their own, in registers within a block.
//!
//! What the block writes stays in a register until another variable needs that, or something may look at the
//! frame. Registers that no temporary of the current instruction is in are free for it. Calls keep them all.

use super::asm::{R13, R14, R15, Reg};
use super::{At, Emit, PINNED, home};
use crate::ir::{Op, Var, Width, opt};

/// The registers.
pub(super) const POOL: [Reg; 3] = [R13, R15, R14];
/// The variables: the general registers that are not pinned.
const FIRST: u8 = PINNED.len() as u8;
const END: u8 = 16;

/// A variable in a register.
#[derive(Clone, Copy)]
struct Entry {
    v: u8,
    /// The frame has an older value.
    newer: bool,
    /// When it was last written.
    used: u32,
}

/// Which variables are in which registers.
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    entries: [Option<Entry>; POOL.len()],
    now: u32,
}

impl Held {
    /// Where a variable is, if in a register.
    pub(super) fn find(&self, v: Var) -> Option<Reg> {
        let held = |e: &Option<Entry>| e.is_some_and(|e| e.v == v.0);
        self.entries.iter().position(held).map(|n| POOL[n])
    }

    /// Registers and the places of their variables, where the frame has an older value.
    fn newer(&self) -> impl Iterator<Item = (Reg, At)> {
        let all = self.entries.into_iter().zip(POOL);
        all.filter_map(|(e, r)| e.filter(|e| e.newer).map(|e| (r, home(Var(e.v)))))
    }

    /// Whether a register holds nothing.
    pub(super) fn is_free(&self, r: Reg) -> bool {
        POOL.iter().position(|&p| p == r).is_none_or(|n| self.entries[n].is_none())
    }
}

/// Whether a variable may be held.
pub(super) fn may_be_held(v: Var) -> bool {
    (FIRST..END).contains(&v.0)
}

impl Emit<'_> {
    /// The registers of [`POOL`] that this block may use.
    pub(super) fn pool(&self) -> impl Iterator<Item = Reg> + use<> {
        let (wide, groups) = (self.wide, !self.keeps.is_empty());
        POOL.into_iter().filter(move |&r| match r {
            R14 => wide,
            R15 => !groups,
            _ => true,
        })
    }

    /// Makes a register free.
    pub(super) fn evict(&mut self, r: Reg) {
        let Some(n) = POOL.iter().position(|&p| p == r) else { return };
        if let Some(e) = self.held.entries[n].take().filter(|e| e.newer) {
            self.a.store(Width::W64, home(Var(e.v)), r);
        }
    }

    /// Finds a register for what an operation writes.
    pub(super) fn claim(&mut self, op: &Op) {
        let plain = matches!(
            op,
            Op::Mov { .. }
                | Op::Bin { .. }
                | Op::Un { .. }
                | Op::Sext { .. }
                | Op::Extract { .. }
                | Op::Deposit { .. }
                | Op::Set { .. }
                | Op::Select { .. }
                | Op::Lea { .. }
                | Op::Load { .. }
                | Op::LoadSext { .. }
        );
        let Some(d) = op.dest().filter(|&d| plain && may_be_held(d)) else { return };
        self.held.now += 1;
        let now = self.held.now;
        if let Some(e) = self.held.entries.iter_mut().flatten().find(|e| e.v == d.0) {
            e.used = now;
            return;
        }
        let taken = |r: Reg| self.temps.iter().any(|&(_, t)| t == r);
        let age = |r: &Reg| {
            let n = POOL.iter().position(|p| p == r);
            n.and_then(|n| self.held.entries[n]).map_or(0, |e| e.used)
        };
        let Some(r) = self.pool().filter(|&r| !taken(r)).min_by_key(age) else { return };
        self.evict(r);
        let mut reads = false;
        opt::reads(op, &mut |v| reads |= v == d);
        if reads {
            self.a.load(Width::W64, r, home(d));
        }
        // Newer when the operation is done: it may fault.
        let entry = Entry { v: d.0, newer: false, used: now };
        let n = POOL.iter().position(|&p| p == r);
        n.into_iter().for_each(|n| self.held.entries[n] = Some(entry));
    }

    /// An operation was emitted: what it wrote is newer than the frame.
    pub(super) fn claimed(&mut self, op: &Op) {
        if let Some(d) = op.dest().filter(|&d| may_be_held(d)) {
            let held = self.held.entries.iter_mut().flatten();
            held.filter(|e| e.v == d.0).for_each(|e| e.newer = true);
        }
    }

    /// All values go to the frame.
    pub(super) fn settle_held(&mut self) {
        let held = self.held;
        self.store_held(&held);
        self.held.entries.iter_mut().flatten().for_each(|e| e.newer = false);
    }

    /// The same as they were at a place in the block.
    pub(super) fn store_held(&mut self, held: &Held) {
        for (r, place) in held.newer() {
            self.a.store(Width::W64, place, r);
        }
    }

    /// The registers hold nothing: a helper may have changed the variables.
    pub(super) fn forget_held(&mut self) {
        debug_assert!(self.held.newer().next().is_none(), "a value would be lost");
        self.held = Held::default();
    }
}
