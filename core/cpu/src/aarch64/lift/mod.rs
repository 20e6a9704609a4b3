//! A64 instructions to IR.

mod branch;
mod flags;
mod integer;
mod memory;
mod simd;
mod structures;
mod system;

use super::exception::{Trap, class};
use super::insn::{Insn, Word};
use super::isa::{Helper, trap_id};
use super::model::Features;
use super::state::{key, var};
use crate::ir::{Addr, BinOp, Builder, Cmp, Cond, Fx, Mem, Val, Var, VecVar, Width};
use crate::isa::Lift;

/// What lifting an instruction came to: `None` is an undefined one.
type Flow = Option<()>;

/// One instruction on its way.
struct Lifter<'a> {
    b: &'a mut Builder,
    key: u64,
    pc: u64,
    w: Word,
    features: Features,
}

/// Lifts `word` at `pc`.
pub(super) fn lift(features: Features, key: u64, pc: u64, word: u32, b: &mut Builder) -> Lift {
    let mut l = Lifter { b, key, pc, w: Word(word), features };
    if Insn::decode(word).and_then(|insn| l.insn(insn)).is_none() {
        l.b.restart_insn();
        l.b.trap(trap_id::RAISE, Trap::UNDEFINED.esr);
    }
    if b.ended() { Lift::End(4) } else { Lift::Next(4) }
}

/// The width that `sf` names.
const fn width(sf: bool) -> Width {
    if sf { Width::W64 } else { Width::W32 }
}

impl Lifter<'_> {
    fn insn(&mut self, insn: Insn) -> Flow {
        use Insn::*;
        match insn {
            Adr | AddSubImm | LogicalImm | MoveWide | Bitfield | Extract | LogicalShifted
            | AddSubShifted | AddSubExt | AddSubCarry | CondCmpReg | CondCmpImm | CondSel
            | DivReg | ShiftReg | Crc32 | Unary | MulAdd | MulAddLong | MulHigh => {
                self.integer(insn)
            }
            BCond | Br | Blr | Ret | B | Cb | Tb => self.branch(insn),
            Svc | Hvc | Smc | Brk | Hlt | Hint | Clrex | Dsb | Dmb | Isb | MsrImm | Sys
            | MsrMrs | Eret => self.system(insn),
            LdStExcl | LdStExclPair | LdStOrdered | Cas | CasPair | LdLiteral | LdStPair
            | LdStUnscaled | LdStPost | LdStUnpriv | LdStPre | LdStReg | LdStUnsigned | Atomic => {
                self.memory(insn)
            }
            LdStMulti | LdStMultiPost | LdStSingle | LdStSinglePost => self.structures(insn),
            _ => self.simd(insn),
        }
    }

    /// The address of the next instruction.
    const fn next(&self) -> u64 {
        self.pc.wrapping_add(4)
    }

    const fn user(&self) -> bool {
        self.key & key::EL1 == 0
    }

    fn mem(&self) -> Mem {
        Mem::plain(u8::from(self.user()))
    }

    fn rmw(&self) -> Mem {
        Mem::locked(u8::from(self.user()))
    }

    /// Register `n` as a source, 31 is zero.
    const fn x(n: u8) -> Val {
        if n == 31 { Val::Imm(0) } else { Val::Var(Var(n)) }
    }

    /// Register `n` as a destination, 31 is none.
    fn to(&mut self, n: u8) -> Var {
        if n == 31 { self.b.tmp() } else { Var(n) }
    }

    fn tmp(&mut self) -> Var {
        self.b.tmp()
    }

    /// A binary operation into a temporary.
    fn bin(&mut self, op: BinOp, w: Width, a: impl Into<Val>, b: impl Into<Val>) -> Var {
        let t = self.tmp();
        self.b.bin(op, w, t, a, b);
        t
    }

    fn call(&mut self, helper: Helper, args: &[Val], fx: Fx) {
        self.b.call(helper as u16, None, args, fx);
    }

    /// Ends the block behind a helper that may have changed anything.
    fn call_and_leave(&mut self, helper: Helper, args: &[Val]) {
        self.call(helper, args, Fx::ALL);
        let next = self.next();
        self.b.leave(next);
    }

    /// A helper that answers where to go on.
    fn transfer(&mut self, helper: Helper, args: &[Val]) {
        let to = self.tmp();
        self.b.call(helper as u16, Some(to), args, Fx::ALL);
        self.b.leave(to);
    }

    /// Raises the exception that floating point gives where it is not enabled; false: it is.
    fn fp_trapped(&mut self) -> bool {
        let trapped = self.key & key::FP == 0;
        if trapped {
            self.b.trap(trap_id::RAISE, Trap::new(class::FP, 0x1e << 20).esr);
        }
        trapped
    }
}
