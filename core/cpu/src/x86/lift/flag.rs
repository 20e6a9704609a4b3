//! Setting and reading the lazy flags in IR.

use super::*;
use crate::ir::Op;
use crate::x86::flags::Kind;
use crate::x86::state::flag;

pub(super) const CC_OP: Var = Var(var::CC_OP as u8);
pub(super) const CC_DST: Var = Var(var::CC_DST as u8);
pub(super) const CC_SRC: Var = Var(var::CC_SRC as u8);
pub(super) const CC_SRC2: Var = Var(var::CC_SRC2 as u8);

/// How far back the last setting of the flags is looked for.
const LOOK_BACK: usize = 96;

impl Lifter<'_> {
    /// Says which operation the `CC_*` variables are from.
    pub(super) fn cc(&mut self, kind: Kind, w: Width) {
        self.b.konst(CC_OP, kind.op(w.bytes()));
    }

    /// Flags of an addition: result and second operand.
    pub(super) fn cc_result(&mut self, kind: Kind, w: Width, result: impl Into<Val>) {
        self.b.mov(w, CC_DST, result);
        self.cc(kind, w);
    }

    /// Flags given as their bits.
    pub(super) fn cc_flags(&mut self, flags: impl Into<Val>) {
        self.b.mov(Width::W64, CC_SRC, flags);
        self.cc(Kind::Flags, Width::W8);
    }

    /// The operation the flags are from, where the block says so.
    pub(super) fn known_cc(&self) -> Option<(Kind, Width)> {
        let mut joined = false;
        for op in self.b.ops().iter().rev().take(LOOK_BACK) {
            match op {
                Op::Mov { d, a: Val::Imm(op), .. } if *d == CC_OP => {
                    let kind = Kind::of(*op);
                    return (!joined).then(|| (kind, width(1 << (op & 3))));
                }
                Op::Label { .. } => joined = true,
                Op::Insn { .. } => joined = false,
                Op::Call { fx, .. } if fx.has(Fx::WRITES) => return None,
                _ => {}
            }
        }
        None
    }

    fn cc_pure(&mut self, f: u16) -> Var {
        let t = self.tmp();
        self.cc_pure_into(f, t);
        t
    }

    fn cc_pure_into(&mut self, f: u16, d: Var) {
        self.b.pure(f, d, &[CC_OP.into(), CC_DST.into(), CC_SRC.into(), CC_SRC2.into()]);
    }

    /// The six arithmetic flags in their places.
    pub(super) fn flags(&mut self) -> Var {
        if let Some((Kind::Flags, _)) = self.known_cc() {
            return self.copy(Width::W64, CC_SRC);
        }
        self.cc_pure(pure::FLAGS)
    }

    /// CF as 0 or 1, in a temporary.
    pub(super) fn carry(&mut self) -> Var {
        let t = self.tmp();
        self.carry_into(t);
        t
    }

    /// CF as 0 or 1.
    pub(super) fn carry_into(&mut self, t: Var) {
        match self.known_cc() {
            // There it is already.
            Some((Kind::Inc | Kind::Dec | Kind::Mul | Kind::Carry, _)) if t == CC_SRC => {}
            Some((Kind::Sub | Kind::Add, w)) => self.b.set_if(Cond::LtU, w, t, CC_DST, CC_SRC),
            Some((Kind::Logic, _)) => self.b.konst(t, 0),
            Some((
                Kind::Inc
                | Kind::Dec
                | Kind::Mul
                | Kind::Carry
                | Kind::Shr
                | Kind::Flags
                | Kind::Rol,
                _,
            )) => {
                self.b.and(Width::W64, t, CC_SRC, 1u64);
            }
            Some((Kind::Shl | Kind::Ror, w)) => self.b.extract(t, CC_SRC, (w.bits() - 1) as u8, 1),
            _ => self.cc_pure_into(pure::CARRY, t),
        }
    }

    /// A condition code as a comparison.
    pub(super) fn condition(&mut self, code: u8) -> Cmp {
        let cmp = self.positive(code >> 1 & 7);
        if code & 1 != 0 { cmp.negate() } else { cmp }
    }

    /// O, B, E, BE, S, P, L or LE.
    fn positive(&mut self, code: u8) -> Cmp {
        const O: u8 = 0;
        const B: u8 = 1;
        const E: u8 = 2;
        const BE: u8 = 3;
        const S: u8 = 4;
        const P: u8 = 5;
        const L: u8 = 6;
        const LE: u8 = 7;
        let Some((kind, w)) = self.known_cc() else {
            let t = self.cc_pure(pure::CONDITION + u16::from(code) * 2);
            return Cmp::new(Cond::Ne, Width::W64, t, 0u64);
        };
        let never = Cmp::new(Cond::Ne, Width::W64, 0u64, 0u64);
        let operands = |cond| Cmp::new(cond, w, CC_DST, CC_SRC);
        let result = |cond| Cmp::new(cond, w, CC_DST, 0u64);
        let bits = |mask: u64| Cmp::new(Cond::TestNz, Width::W64, CC_SRC, mask);
        match (kind, code) {
            (Kind::Sub, B) => operands(Cond::LtU),
            (Kind::Sub, E) => operands(Cond::Eq),
            (Kind::Sub, BE) => operands(Cond::LeU),
            (Kind::Sub, L) => operands(Cond::LtS),
            (Kind::Sub, LE) => operands(Cond::LeS),
            (Kind::Sub, S) => {
                let t = self.bin(BinOp::Sub, w, CC_DST, CC_SRC);
                Cmp::new(Cond::LtS, w, t, 0u64)
            }
            (Kind::Add, B) => operands(Cond::LtU),
            (Kind::Logic, B | O) => never,
            (Kind::Logic, E | BE) => result(Cond::Eq),
            (Kind::Logic, S | L) => result(Cond::LtS),
            (Kind::Logic, LE) => result(Cond::LeS),
            (
                Kind::Add
                | Kind::Adc
                | Kind::Inc
                | Kind::Dec
                | Kind::Shl
                | Kind::Shr
                | Kind::Mul
                | Kind::Carry,
                E,
            ) => result(Cond::Eq),
            (
                Kind::Add
                | Kind::Adc
                | Kind::Inc
                | Kind::Dec
                | Kind::Shl
                | Kind::Shr
                | Kind::Mul
                | Kind::Carry,
                S,
            ) => result(Cond::LtS),
            (Kind::Rol | Kind::Ror, E) => result(Cond::Eq),
            (Kind::Rol | Kind::Ror, S) => result(Cond::LtS),
            (Kind::Inc | Kind::Dec | Kind::Mul | Kind::Carry | Kind::Shr, B) => bits(1),
            (Kind::Flags, O) => bits(flag::OF),
            (Kind::Flags, B) => bits(flag::CF),
            (Kind::Flags, E) => bits(flag::ZF),
            (Kind::Flags, BE) => bits(flag::CF | flag::ZF),
            (Kind::Flags, S) => bits(flag::SF),
            (Kind::Flags, P) => bits(flag::PF),
            _ => {
                let t = self.cc_pure(pure::CONDITION + u16::from(code) * 2);
                Cmp::new(Cond::Ne, Width::W64, t, 0u64)
            }
        }
    }

    /// Changes CF (and OF) alone.
    pub(super) fn cc_carry(&mut self, carry: impl Into<Val>, overflow: Option<Val>) {
        let carry = carry.into();
        let t = self.flags();
        self.b.deposit(t, t, carry, 0, 1);
        if let Some(overflow) = overflow {
            self.b.deposit(t, t, overflow, 11, 1);
        }
        self.cc_flags(t);
    }
}
