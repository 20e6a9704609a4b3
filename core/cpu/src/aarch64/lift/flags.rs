//! Condition flags: N, Z, C and V have a variable each (see [`var`]), in the form that is cheapest to make.

use super::*;
use crate::ir::Op;

/// How far back a comparison is looked for.
const LOOK_BACK: usize = 40;

impl Lifter<'_> {
    /// N and Z of a result.
    fn set_nz(&mut self, w: Width, r: Var) {
        if w == Width::W64 {
            self.b.mov(w, var::N, r);
        } else {
            self.b.sext(w, Width::W64, var::N, r);
        }
        self.b.mov(w, var::Z, r);
    }

    /// The flags of a logical operation.
    pub(super) fn logic_flags(&mut self, w: Width, r: Var) {
        self.b.konst(var::C, 0);
        self.b.konst(var::V, 0);
        self.set_nz(w, r);
    }

    /// `d = a + b` or `d = a - b`, with flags.
    pub(super) fn add_sub_flags(&mut self, w: Width, sub: bool, d: Var, a: Val, b: Val) {
        let r = self.tmp();
        let op = if sub { BinOp::Sub } else { BinOp::Add };
        self.b.bin(op, w, r, a, b);
        self.overflow(w, sub, a, b, r);
        if sub {
            self.b.set_if(Cond::GeU, w, var::C, a, b);
        } else {
            self.b.set_if(Cond::LtU, w, var::C, r, a);
        }
        self.set_nz(w, r);
        self.b.mov(w, d, r);
    }

    /// V of `r = a + b` or `r = a - b`.
    fn overflow(&mut self, w: Width, sub: bool, a: Val, b: Val, r: Var) {
        let wide = Width::W64;
        let s = self.bin(BinOp::Xor, wide, a, b);
        let t = self.bin(BinOp::Xor, wide, a, r);
        let op = if sub { BinOp::And } else { BinOp::AndNot };
        if w == wide {
            self.b.bin(op, wide, var::V, t, s);
        } else {
            let v = self.bin(op, wide, t, s);
            self.b.shl(wide, var::V, v, 32u64);
        }
    }

    /// `d = a + b + C`, where `b` has been inverted for a subtraction.
    pub(super) fn add_carry(&mut self, w: Width, flags: bool, d: Var, a: Val, b: Val) {
        let s = self.bin(BinOp::Add, w, a, b);
        let r = self.bin(BinOp::Add, w, s, var::C);
        if flags {
            let first = self.tmp();
            self.b.set_if(Cond::LtU, w, first, s, a);
            let second = self.tmp();
            self.b.set_if(Cond::LtU, w, second, r, s);
            self.overflow(w, false, a, b, r);
            self.b.or(Width::W64, var::C, first, second);
            self.set_nz(w, r);
        }
        self.b.mov(w, d, r);
    }

    /// Sets the flags to a constant of four bits.
    pub(super) fn set_flags(&mut self, nzcv: u32) {
        let bit = |n: u32| u64::from(nzcv >> n & 1);
        self.b.konst(var::N, bit(3) << 63);
        self.b.konst(var::Z, bit(2) ^ 1);
        self.b.konst(var::C, bit(1));
        self.b.konst(var::V, bit(0) << 63);
    }

    /// The subtraction or conjunction that the flags are from, if it is in this block and its operands are still
    /// what they were: whether it is a subtraction, width, operands.
    fn compared(&self) -> Option<(bool, Width, Val, Val)> {
        let ops = self.b.ops();
        let start = ops.len().saturating_sub(LOOK_BACK);
        let mut written: u64 = 0;
        let mut result = None;
        for op in ops[start..].iter().rev() {
            let d = match *op {
                Op::Insn { .. } | Op::Store { .. } | Op::ExitIf { .. } | Op::VStore { .. } => {
                    continue;
                }
                Op::Mov { w, d, a: Val::Var(r) } if d == var::Z && result.is_none() => {
                    if written >> d.0 & 1 != 0 {
                        return None;
                    }
                    result = Some((w, r));
                    d
                }
                Op::Bin { op: kind @ (BinOp::Sub | BinOp::And), w, d, a, b }
                    if result == Some((w, d)) =>
                {
                    let kept = |v: Val| match v {
                        Val::Imm(_) => true,
                        Val::Var(v) => !v.is_temp() && written >> v.0 & 1 == 0,
                    };
                    return (kept(a) && kept(b)).then_some((kind == BinOp::Sub, w, a, b));
                }
                Op::Bin { d, .. } if result.is_some_and(|(_, r)| r == d) => return None,
                // They write more than their result.
                Op::Call { .. } | Op::Quick { .. } => return None,
                _ => op.dest()?,
            };
            if !d.is_temp() {
                written |= 1 << d.0;
            }
        }
        None
    }

    /// A condition as a comparison. `cond` is not AL or NV.
    pub(super) fn condition(&mut self, cond: u32) -> Cmp {
        let cmp = self.positive(cond >> 1);
        if cond & 1 != 0 { cmp.negate() } else { cmp }
    }

    fn positive(&mut self, kind: u32) -> Cmp {
        let wide = Width::W64;
        if let Some((sub, w, a, b)) = self.compared() {
            let direct = match (sub, kind) {
                (true, 0) => Some(Cond::Eq),
                (true, 1) => Some(Cond::GeU),
                (true, 4) => Some(Cond::GtU),
                (true, 5) => Some(Cond::GeS),
                (true, 6) => Some(Cond::GtS),
                (false, 0) => Some(Cond::TestZ),
                _ => None,
            };
            if let Some(cond) = direct {
                return Cmp::new(cond, w, a, b);
            }
        }
        match kind {
            0 => Cmp::new(Cond::Eq, wide, var::Z, 0u64),
            1 => Cmp::new(Cond::Ne, wide, var::C, 0u64),
            2 => Cmp::new(Cond::LtS, wide, var::N, 0u64),
            3 => Cmp::new(Cond::LtS, wide, var::V, 0u64),
            4 => {
                // C and not Z.
                let t = self.tmp();
                self.b.select(wide, t, Cmp::new(Cond::Eq, wide, var::Z, 0u64), 0u64, var::C);
                Cmp::new(Cond::Ne, wide, t, 0u64)
            }
            5 => {
                let t = self.bin(BinOp::Xor, wide, var::N, var::V);
                Cmp::new(Cond::GeS, wide, t, 0u64)
            }
            _ => {
                // Not Z, and N is V.
                let t = self.bin(BinOp::Xor, wide, var::N, var::V);
                let u = self.tmp();
                let zero = Cmp::new(Cond::Eq, wide, var::Z, 0u64);
                self.b.select(wide, u, zero, 1u64 << 63, t);
                Cmp::new(Cond::GeS, wide, u, 0u64)
            }
        }
    }
}
