//! What the blocks of a region mean to each other: which variables may have changed.
//!
//! The frame in memory is brought up to date where something may look at it. Between such places
//! a *changed* variable is one whose value in the frame is old.

use super::Region;
use crate::frame::FIRST_TEMP;
use crate::ir::{Fx, Op, Var, opt};

/// A guest variable as a bit; nothing for a temporary.
pub const fn bit(v: Var) -> u64 {
    if v.0 < FIRST_TEMP { 1 << v.0 } else { 0 }
}

/// The variables changed after an op, from those changed before it. Before a helper that reads or
/// writes variables the back end writes back what changed; behind one that writes, it reads them
/// anew.
pub fn after(op: &Op, changed: u64) -> u64 {
    let written = opt::dest(op).map_or(0, bit);
    match op {
        Op::Call { fx, .. } if fx.has(Fx::READS) || fx.has(Fx::WRITES) => written,
        _ => changed | written,
    }
}

/// Finds what may have changed at the start of each block.
pub(crate) fn dirty(region: &mut Region) {
    let mut again = true;
    while again {
        again = false;
        for i in 0..region.blocks.len() {
            let mut changed = region.blocks[i].dirty_in;
            // Changed where a branch inside the instruction was: a helper may be jumped over.
            let mut skipped = 0;
            let mut out = Vec::new();
            for op in &region.blocks[i].ops {
                match *op {
                    Op::ExitIf { pc, .. } | Op::Goto { pc } => {
                        out.extend(region.block_at(pc).map(|to| (to, changed)));
                    }
                    Op::GotoVar { .. } => {
                        out.extend(region.returns.iter().map(|&to| (to, changed)));
                    }
                    Op::Insn { .. } => skipped = 0,
                    Op::Branch { .. } | Op::Jump { .. } => skipped |= changed,
                    Op::Label { .. } => changed |= skipped,
                    _ => changed = after(op, changed),
                }
            }
            for (to, changed) in out {
                let d = &mut region.blocks[to].dirty_in;
                again |= *d | changed != *d;
                *d |= changed;
            }
        }
    }
}
