//! Branches (DDI 0487, C4.1.3).

use super::*;

impl Lifter<'_> {
    pub(super) fn branch(&mut self, insn: Insn) -> Flow {
        let w = self.w;
        let to = |imm: i64| self.pc.wrapping_add((imm << 2) as u64);
        match insn {
            Insn::BCond => {
                let (to, cond) = (to(w.signed(5, 19)), w.bits(0, 4));
                if cond >= 14 {
                    self.b.goto(to);
                } else {
                    let cmp = self.condition(cond);
                    self.b.exit_if(cmp, to);
                }
            }
            Insn::B => {
                let to = to(w.signed(0, 26));
                if w.bit(31) {
                    let next = self.next();
                    self.b.konst(Var(30), next);
                }
                self.b.goto(to);
            }
            Insn::Cb => {
                let to = to(w.signed(5, 19));
                let cond = if w.bit(24) { Cond::Ne } else { Cond::Eq };
                self.b.exit_if(Cmp::new(cond, width(w.bit(31)), Self::x(w.rd()), 0u64), to);
            }
            Insn::Tb => {
                let to = to(w.signed(5, 14));
                let bit = w.bits(31, 1) << 5 | w.bits(19, 5);
                let cond = if w.bit(24) { Cond::TestNz } else { Cond::TestZ };
                self.b.exit_if(Cmp::new(cond, Width::W64, Self::x(w.rd()), 1u64 << bit), to);
            }
            Insn::Blr => {
                let to = self.tmp();
                self.b.mov(Width::W64, to, Self::x(w.rn()));
                let next = self.next();
                self.b.konst(Var(30), next);
                self.b.goto_var(to);
            }
            // BR, RET.
            _ => self.b.goto_var(Self::x(w.rn())),
        }
        Some(())
    }
}
