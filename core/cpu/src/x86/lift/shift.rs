//! Shifts and rotates.

use super::flag::CC_SRC;
use super::*;
use crate::x86::flags::Kind;

/// A shift count: known when translating, or in a variable (already cut to 5 or 6 bits).
#[derive(Clone, Copy)]
enum Count {
    Known(u64),
    Var(Var),
}

impl Count {
    fn val(self) -> Val {
        match self {
            Self::Known(n) => n.into(),
            Self::Var(v) => v.into(),
        }
    }
}

impl Lifter<'_> {
    pub(super) fn shift(&mut self) -> Flow {
        match self.i.id {
            Id::SHLX | Id::SHRX | Id::SARX | Id::RORX => self.shift_without_flags(),
            Id::SHLD | Id::SHRD => self.shift_double(),
            _ => self.shift_operand(),
        }
        self.done()
    }

    fn shift_count(&mut self, op: Operand, w: Width) -> Count {
        let mask = if w == Width::W64 { 63 } else { 31 };
        match op {
            Operand::Imm(_) => Count::Known(self.i.imm & mask),
            _ => Count::Var(self.bin(BinOp::And, Width::W64, RCX, mask)),
        }
    }

    fn shift_operand(&mut self) {
        let w = self.width(self.op(0));
        let count = self.shift_count(self.op(1), w);
        let (a, dest) = self.read_dest(self.op(0));
        let a = self.copy(w, a);
        if let Count::Known(0) = count {
            // Nothing changes but the upper half of a 32-bit register in 64-bit mode.
            if let Dest::Reg(_) = dest {
                self.write_dest(dest, a);
            }
            return;
        }
        let id = self.i.id;
        let bits = u64::from(w.bits());
        let result = match id {
            Id::SHL => self.bin(BinOp::Shl, w, a, count.val()),
            Id::SHR => self.bin(BinOp::Shr, w, a, count.val()),
            Id::SAR => self.bin(BinOp::Sar, w, a, count.val()),
            Id::ROL => self.bin(BinOp::Rol, w, a, count.val()),
            Id::ROR => self.bin(BinOp::Ror, w, a, count.val()),
            _ => return self.rotate_through_carry(w, count, a, dest),
        };
        // What is known of the flags before, while it is.
        let kept = self.kept_by_rotation(w, count);
        self.write_dest(dest, result);
        let skip = self.skip_if_zero(count);
        match id {
            Id::ROL | Id::ROR if kept => {
                self.b.mov(w, CC_SRC, result);
                self.cc(if id == Id::ROL { Kind::Rol } else { Kind::Ror }, w);
            }
            Id::SHL | Id::SHR | Id::SAR => {
                let before = match count {
                    Count::Known(n) => Val::Imm(n - 1),
                    Count::Var(v) => self.bin(BinOp::Sub, Width::W64, v, 1u64).into(),
                };
                let (op, kind) = match id {
                    Id::SHL => (BinOp::Shl, Kind::Shl),
                    Id::SHR => (BinOp::Shr, Kind::Shr),
                    _ => (BinOp::Sar, Kind::Shr),
                };
                self.b.bin(op, w, CC_SRC, a, before);
                self.cc_result(kind, w, result);
            }
            Id::ROL => {
                let carry = self.bin(BinOp::And, w, result, 1u64);
                let top = self.bin(BinOp::Shr, w, result, bits - 1);
                let overflow = self.bin(BinOp::Xor, w, top, carry);
                self.cc_carry(carry, Some(overflow.into()));
            }
            _ => {
                let carry = self.bin(BinOp::Shr, w, result, bits - 1);
                let below = self.bin(BinOp::Shr, w, result, bits - 2);
                let overflow = self.bin(BinOp::Xor, w, carry, below);
                self.cc_carry(carry, Some(overflow.into()));
            }
        }
        self.place(skip);
    }

    /// Whether a rotation leaves flags of which the result before is all that is wanted: AF is clear, and CF and
    /// OF it sets itself.
    fn kept_by_rotation(&self, w: Width, count: Count) -> bool {
        let known = matches!(count, Count::Known(_));
        known
            && self.known_cc().is_some_and(|(kind, of)| {
                let result = matches!(
                    kind,
                    Kind::Logic
                        | Kind::Carry
                        | Kind::Shl
                        | Kind::Shr
                        | Kind::Mul
                        | Kind::Rol
                        | Kind::Ror
                );
                of == w && result
            })
    }

    /// With a count that is not known, skips what follows when it is 0.
    fn skip_if_zero(&mut self, count: Count) -> Option<ir::Label> {
        let Count::Var(v) = count else { return None };
        let label = self.b.new_label();
        self.b.branch(Cmp::new(Cond::Eq, Width::W64, v, 0u64), label);
        Some(label)
    }

    fn place(&mut self, label: Option<ir::Label>) {
        if let Some(label) = label {
            self.b.label(label);
        }
    }

    fn rotate_through_carry(&mut self, w: Width, count: Count, a: Var, dest: Dest) {
        let bits = u64::from(w.bits());
        let left = self.i.id == Id::RCL;
        let carry_in = self.carry();
        let (result, carry) = if let Count::Known(1) = count {
            let (shifted, out, at) = if left {
                let out = self.bin(BinOp::Shr, w, a, bits - 1);
                (self.bin(BinOp::Shl, w, a, 1u64), out, 0)
            } else {
                let out = self.bin(BinOp::And, w, a, 1u64);
                (self.bin(BinOp::Shr, w, a, 1u64), out, w.bits() as u8 - 1)
            };
            self.b.deposit(shifted, shifted, carry_in, at, 1);
            (shifted, out)
        } else {
            let args: [Val; 4] = [a.into(), count.val(), carry_in.into(), bits.into()];
            let (value, out) =
                if left { (pure::RCL, pure::RCL_CARRY) } else { (pure::RCR, pure::RCR_CARRY) };
            let (result, carry) = (self.tmp(), self.tmp());
            self.b.pure(value, result, &args);
            self.b.pure(out, carry, &args);
            (result, carry)
        };
        self.write_dest(dest, result);
        let skip = self.skip_if_zero(count);
        let top = self.bin(BinOp::Shr, w, result, bits - 1);
        let other = if left { carry } else { self.bin(BinOp::Shr, w, result, bits - 2) };
        let overflow = self.bin(BinOp::Xor, w, top, other);
        self.cc_carry(carry, Some(overflow.into()));
        self.place(skip);
    }

    /// SHLD and SHRD. Counts above 16 of 16-bit operands go on with the destination's own bits, as
    /// most processors do.
    fn shift_double(&mut self) {
        let w = self.width(self.op(0));
        let count = self.shift_count(self.op(2), w);
        let fill = self.read_copy(self.op(1));
        let (a, dest) = self.read_dest(self.op(0));
        let a = self.copy(w, a);
        if let Count::Known(0) = count {
            if let Dest::Reg(_) = dest {
                self.write_dest(dest, a);
            }
            return;
        }
        let left = self.i.id == Id::SHLD;
        let before: Val = match count {
            Count::Known(n) => (n - 1).into(),
            Count::Var(v) => self.bin(BinOp::Sub, Width::W64, v, 1u64).into(),
        };
        let (result, last);
        if w == Width::W16 {
            // a:fill:a (left) or a:fill:a (right) as 48 bits.
            let whole = self.copy(w, a);
            self.b.deposit(whole, whole, fill, 16, 16);
            self.b.deposit(whole, whole, a, 32, 16);
            if left {
                let t = self.bin(BinOp::Shl, Width::W64, whole, count.val());
                result = self.tmp();
                self.b.extract(result, t, 32, 16);
                let t = self.bin(BinOp::Shl, Width::W64, whole, before);
                last = self.tmp();
                self.b.extract(last, t, 32, 16);
            } else {
                let t = self.bin(BinOp::Shr, Width::W64, whole, count.val());
                result = self.copy(w, t);
                let t = self.bin(BinOp::Shr, Width::W64, whole, before);
                last = self.copy(w, t);
            }
        } else {
            let (one, other) =
                if left { (BinOp::Shl, BinOp::Shr) } else { (BinOp::Shr, BinOp::Shl) };
            let kept = self.bin(one, w, a, count.val());
            // A count of 0 makes this a shift by the width, which gives 0.
            let rest = self.bin(BinOp::Sub, Width::W64, u64::from(w.bits()), count.val());
            let filled = self.bin(other, w, fill, rest);
            result = self.bin(BinOp::Or, w, kept, filled);
            last = self.bin(one, w, a, before);
        }
        self.write_dest(dest, result);
        let skip = self.skip_if_zero(count);
        self.b.mov(w, CC_SRC, last);
        self.cc_result(if left { Kind::Shl } else { Kind::Shr }, w, result);
        self.place(skip);
    }

    fn shift_without_flags(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read(self.op(1));
        let count = match self.op(2) {
            Operand::Imm(_) => Val::Imm(self.i.imm & u64::from(w.bits() - 1)),
            op => {
                let n = self.read(op);
                self.bin(BinOp::And, Width::W64, n, u64::from(w.bits() - 1)).into()
            }
        };
        let op = match self.i.id {
            Id::SHLX => BinOp::Shl,
            Id::SHRX => BinOp::Shr,
            Id::SARX => BinOp::Sar,
            _ => BinOp::Ror,
        };
        let t = self.bin(op, w, a, count);
        self.write_reg(self.op(0), t);
    }
}
