//! Writes of guest variables in the frame that are put off until something may look.

use super::asm::RCX;
use super::held::may_be_held;
use super::{Emit, PINNED, Src, home};
use crate::ir::{Op, Val, Var, Width, opt};
use crate::region::flow;

/// A write of a guest variable in the frame that is put off: most flags are written again before anything
/// can look at them.
#[derive(Clone, Copy)]
pub(super) struct Late {
    pub(super) d: Var,
    pub(super) w: Width,
    pub(super) a: Val,
}

impl Emit<'_> {
    /// Whether all that was put off must be written before an operation.
    pub(super) fn settles(&self, op: &Op) -> bool {
        match op {
            Op::ExitIf { pc, .. } => self.region.edge(self.at, *pc).is_some(),
            Op::Label { .. } | Op::Jump { .. } | Op::Branch { .. } | Op::Call { .. } => true,
            Op::Float { .. } | Op::FloatInt { .. } => !self.floats(),
            op => op.is_terminal(),
        }
    }

    /// Writes what must be in the frame before an operation.
    pub(super) fn settle(&mut self, op: &Op) {
        if self.settles(op) {
            return self.flush();
        }
        if self.late.is_empty() {
            return;
        }
        let d = op.dest();
        // Where it faults, what it would have overwritten counts.
        let faults = matches!(op, Op::Load { .. } | Op::LoadSext { .. });
        let mut read = 0u64;
        opt::reads(op, &mut |v| read |= flow::bit(v));
        let late = std::mem::take(&mut self.late);
        for l in late {
            let source = matches!(l.a, Val::Var(v) if Some(v) == d);
            if source || flow::bit(l.d) & read != 0 {
                self.write_late(l);
            } else if Some(l.d) != d || faults {
                self.late.push(l);
            }
        }
    }

    /// The operation was emitted: what it has overwritten need not be written.
    pub(super) fn overwritten(&mut self, op: &Op) {
        if !self.late.is_empty()
            && let Op::Load { d, .. } | Op::LoadSext { d, .. } = *op
        {
            self.late.retain(|l| l.d != d);
        }
    }

    /// All that was put off is written: variables and vectors.
    pub(super) fn flush(&mut self) {
        self.end_run();
        self.settle_held();
        self.settle_vectors();
        for l in std::mem::take(&mut self.late) {
            self.write_late(l);
        }
    }

    /// Writes to the frame what was put off; RCX is lost, the flags are not.
    pub(super) fn write_late(&mut self, Late { d, w, a }: Late) {
        let to = home(d);
        match self.src(a) {
            Src::Imm(n) => match i32::try_from(n as i64) {
                Ok(n) => self.a.store_imm(Width::W64, to, n),
                Err(_) => {
                    self.a.set(RCX, n);
                    self.a.store(Width::W64, to, RCX);
                }
            },
            Src::Reg(r) if w == Width::W64 => self.a.store(w, to, r),
            s => {
                self.fetch_zero(w, RCX, s);
                self.a.store(Width::W64, to, RCX);
            }
        }
    }

    /// Whether a move to the frame can be put off: nothing but another write changes its source.
    pub(super) fn may_wait(&self, d: Var, a: Val) -> bool {
        let still = match a {
            Val::Imm(_) => true,
            Val::Var(v) => usize::from(v.0) < PINNED.len() || may_be_held(v),
        };
        !d.is_temp() && d.0 >= 16 && still
    }
}
