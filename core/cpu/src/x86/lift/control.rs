//! Jumps, calls, returns, interrupts, waiting.

use super::*;
use crate::ir::Op;

/// What a helper that transfers control may do.
const JUMP: Fx = Fx::ALL;

impl Lifter<'_> {
    /// The instruction lifted last stands behind STI, which holds interrupts off until it is done
    /// (SDM vol. 2, STI): every way on from it goes through the run loop.
    pub(super) fn end_shadow(&mut self, flow: Flow) -> Flow {
        let exit = |op: &Op| op.is_terminal() || matches!(op, Op::ExitIf { .. });
        let ops = self.b.insn_ops();
        let end = ops.iter().position(exit).unwrap_or(ops.len());
        let exits = self.b.take_insn_ops(end);
        let pc = match exits[..] {
            [] => Val::Imm(self.next),
            [Op::Goto { pc }] => Val::Imm(pc),
            [Op::GotoVar { pc } | Op::Leave { pc }] => pc,
            [Op::ExitIf { cmp, pc }, Op::Goto { pc: next }] => {
                let to = self.tmp();
                let (x, y) = (Val::Imm(pc), Val::Imm(next));
                self.b.push(Op::Select { w: Width::W64, d: to, cmp, x, y });
                to.into()
            }
            [Op::ExitIf { cmp, pc }] => {
                let to = self.tmp();
                let (x, y) = (Val::Imm(pc), Val::Imm(self.next));
                self.b.push(Op::Select { w: Width::W64, d: to, cmp, x, y });
                to.into()
            }
            [Op::Trap { .. }] => {
                exits.into_iter().for_each(|op| self.b.push(op));
                return flow;
            }
            // Its ways are too many: a block of its own.
            _ => return Lift::Short,
        };
        self.quick(Helper::EndShadow, &[]);
        self.b.leave(pc);
        self.end()
    }

    pub(super) fn control(&mut self) -> Flow {
        let opsize: Val = u64::from(self.i.opsize).into();
        let next: Val = self.next.into();
        match self.i.id {
            Id::JCC => {
                let taken = self.condition(self.i.condition());
                self.branch(taken)
            }
            Id::JMP => self.jump(),
            Id::CALL => self.call_near(),
            Id::RET => self.ret(),
            Id::LOOP | Id::LOOPE | Id::LOOPNE | Id::JCXZ => self.count_and_branch(),
            Id::CALLF => self.far(Helper::CallFar),
            Id::JMPF => self.far(Helper::JmpFar),
            Id::RETF => {
                let bytes = if self.i.count == 1 { self.i.imm } else { 0 };
                self.transfer(Helper::RetFar, &[opsize, bytes.into()])
            }
            Id::IRET => self.transfer(Helper::Iret, &[opsize, next]),
            Id::INT => self.transfer(Helper::Int, &[self.i.imm.into(), next]),
            Id::INT1 => self.transfer(Helper::Int1, &[next]),
            Id::INT3 => self.transfer(Helper::Int3, &[next]),
            Id::INTO => {
                let none = self.condition(1);
                self.b.exit_if(none, self.next);
                self.transfer(Helper::Into, &[next])
            }
            Id::BOUND => self.bound(),
            Id::SYSCALL => self.transfer(Helper::Syscall, &[next]),
            Id::SYSRET => self.transfer(Helper::Sysret, &[opsize]),
            Id::SYSENTER => self.transfer(Helper::Sysenter, &[]),
            Id::SYSEXIT => self.transfer(Helper::Sysexit, &[opsize]),
            Id::RSM => self.transfer(Helper::Rsm, &[]),
            Id::HLT => self.transfer(Helper::Hlt, &[next]),
            Id::MWAIT => self.transfer(Helper::Mwait, &[next]),
            _ => self.transfer(Helper::Pause, &[next]),
        }
    }

    /// A helper that puts the next instruction's address into RIP.
    fn transfer(&mut self, helper: Helper, args: &[Val]) -> Flow {
        self.call(helper, args, JUMP);
        self.leave_rip()
    }

    /// Cuts a branch target to the operand size.
    fn cut(&self, target: u64) -> u64 {
        target & width(self.i.opsize).mask()
    }

    fn target(&self) -> u64 {
        self.cut(self.next.wrapping_add(self.i.imm))
    }

    /// Whether a target may lie outside the code segment.
    fn limited(&self) -> bool {
        !self.long && !self.has(key::FLAT) && (self.has(key::PROTECTED) || self.i.opsize != 2)
    }

    fn check_target(&mut self, target: impl Into<Val>) {
        if self.limited() {
            self.call(Helper::CheckTarget, &[target.into()], Fx::FAULTS | Fx::READS);
        }
    }

    /// The same for a target out of a register or memory, which in 64-bit mode may not be canonical.
    fn check_indirect(&mut self, target: Var) {
        self.check_target(target);
        if self.long {
            // The lower half begins at 0 then, the upper one ends below 1 << 48.
            let t = self.bin(BinOp::Add, Width::W64, target, 1u64 << 47);
            let t = self.bin(BinOp::Shr, Width::W64, t, 48u64);
            self.gp_if(Cmp::new(Cond::Ne, Width::W64, t, 0u64));
        }
    }

    /// Goes to the relative target if the comparison holds, else on.
    fn branch(&mut self, taken: Cmp) -> Flow {
        let target = self.target();
        if self.limited() {
            let fine = self.b.new_label();
            self.b.branch(taken.negate(), fine);
            self.check_target(target);
            self.b.label(fine);
        }
        self.b.exit_if(taken, target);
        if target > self.next {
            // Forward: more often not taken, and what follows knows the flags.
            return self.done();
        }
        self.b.goto(self.next);
        self.end()
    }

    /// The target of an indirect branch.
    fn indirect(&mut self) -> Var {
        self.read_copy(self.op(0))
    }

    fn jump(&mut self) -> Flow {
        if self.op(0) == Operand::Rel {
            let target = self.target();
            self.check_target(target);
            self.b.goto(target);
        } else {
            let target = self.indirect();
            self.check_indirect(target);
            self.b.goto_var(target);
        }
        self.end()
    }

    fn call_near(&mut self) -> Flow {
        let size = self.i.opsize;
        let back = self.cut(self.next);
        if self.op(0) == Operand::Rel {
            let target = self.target();
            self.check_target(target);
            self.push(size, back);
            self.b.goto(target);
        } else {
            let target = self.indirect();
            self.check_indirect(target);
            self.push(size, back);
            self.b.goto_var(target);
        }
        self.end()
    }

    fn ret(&mut self) -> Flow {
        let size = self.i.opsize;
        let target = self.pop_at(0, size);
        self.check_indirect(target);
        let bytes = if self.i.count == 1 { self.i.imm } else { 0 };
        self.move_sp(i64::from(size) + bytes as i64);
        self.b.goto_var(target);
        self.end()
    }

    /// LOOP, LOOPE, LOOPNE and JCXZ count with the address size.
    fn count_and_branch(&mut self) -> Flow {
        let size = self.i.addrsize;
        let w = width(size);
        if self.i.id == Id::JCXZ {
            return self.branch(Cmp::new(Cond::Eq, w, RCX, 0u64));
        }
        let left = self.bin(BinOp::Sub, w, RCX, 1u64);
        let counted = Cmp::new(Cond::Ne, w, left, 0u64);
        let taken = match self.i.id {
            Id::LOOP => counted,
            id => {
                let flag = self.condition(if id == Id::LOOPE { 4 } else { 5 });
                let (x, y) = (self.tmp(), self.tmp());
                self.b.set(x, flag);
                self.b.set(y, counted);
                Cmp::new(Cond::TestNz, Width::W64, x, y)
            }
        };
        let target = self.target();
        if self.limited() {
            let fine = self.b.new_label();
            self.b.branch(taken.negate(), fine);
            self.check_target(target);
            self.b.label(fine);
        }
        self.write_gpr(1, size, left);
        self.b.exit_if(taken, target);
        self.b.goto(self.next);
        self.end()
    }

    fn far(&mut self, helper: Helper) -> Flow {
        let (selector, offset): (Val, Val) = if self.op(0) == Operand::Far {
            (u64::from(self.i.imm2).into(), self.i.imm.into())
        } else {
            let size = self.i.opsize;
            let offset = self.load(size, 0);
            let selector = self.load(2, size.into());
            (selector.into(), offset.into())
        };
        let args = [selector, offset, u64::from(self.i.opsize).into(), self.next.into()];
        self.transfer(helper, &args)
    }

    /// #BR when the signed index lies outside the two bounds in memory.
    fn bound(&mut self) -> Flow {
        let size = self.i.opsize;
        let w = width(size);
        let low = self.load(size, 0);
        let high = self.load(size, size.into());
        let index = self.read(self.op(0));
        let br = u16::from(vector::BR);
        self.b.trap_if(Cmp::new(Cond::LtS, w, index, low), br, 0u64);
        self.b.trap_if(Cmp::new(Cond::GtS, w, index, high), br, 0u64);
        self.done()
    }
}
