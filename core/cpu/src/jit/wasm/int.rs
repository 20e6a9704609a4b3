//! Integer operations and comparisons.
//!
//! Operations of up to 32 bits are done in 32-bit arithmetic. Operands come with whatever is above
//! their width; results are cut to it where they may be wider.

use wasm_encoder::{BlockType, ValType};

use super::func::{Func, Ty};
use crate::ir::opt::ones;
use crate::ir::{BinOp, Cmp, Cond, Op, UnOp, Val, Var, Width};

impl Func<'_> {
    pub(super) fn int_op(&mut self, op: &Op) {
        match *op {
            Op::Mov { w, d, a } => {
                let bits = self.bits_of(a);
                let ty = Ty::of(w).min(self.ty(a));
                self.get(ty, a);
                self.cut(ty, bits.min(ty_bits(ty)), w.bits());
                self.set(d, ty, bits.min(w.bits()));
            }
            Op::Bin { op, w, d, a, b } => self.bin(op, w, d, a, b),
            Op::Un { op, w, d, a } => self.un(op, w, d, a),
            Op::Sext { from, to, d, a } => {
                self.get(Ty::of(to), a);
                self.sign(Ty::of(to), from);
                self.cut(Ty::of(to), 64, to.bits());
                self.set(d, Ty::of(to), to.bits());
            }
            Op::Extract { d, a, pos, len } => self.extract(d, a, pos.into(), len.into()),
            Op::Deposit { d, a, b, pos, len } => self.deposit(d, a, b, pos, len),
            Op::Set { d, cmp } => {
                self.cmp(&cmp);
                self.set(d, Ty::I32, 1);
            }
            Op::Select { w, d, cmp, x, y } => {
                let ty = Ty::of(w);
                let bits = self.bits_of(x).max(self.bits_of(y));
                self.get(ty, x);
                self.get(ty, y);
                self.cond(&cmp);
                self.i().select();
                self.cut(ty, bits.min(ty_bits(ty)), w.bits());
                self.set(d, ty, bits.min(w.bits()));
            }
            Op::Lea { d, addr } => {
                let ty = self.addr(&addr);
                let bits = if addr.segment.is_some() { addr.lin } else { addr.wrap.min(addr.lin) };
                self.set(d, ty, bits.bits());
            }
            _ => unreachable!("an integer operation"),
        }
    }

    /// Cuts the value on the stack, of which `have` low bits may not be zero, to `want` bits.
    pub(super) fn cut(&mut self, ty: Ty, have: u32, want: u32) {
        if have > want && want < ty_bits(ty) {
            self.mask(ty, ones(want as u8));
        }
    }

    fn mask(&mut self, ty: Ty, mask: u64) {
        self.const_(ty, mask);
        match ty {
            Ty::I32 => self.i().i32_and(),
            Ty::I64 => self.i().i64_and(),
        };
    }

    /// Sign-extends the value on the stack.
    pub(super) fn sign(&mut self, ty: Ty, from: Width) {
        match (ty, from) {
            (Ty::I32, Width::W8) => self.i().i32_extend8_s(),
            (Ty::I32, Width::W16) => self.i().i32_extend16_s(),
            (Ty::I64, Width::W8) => self.i().i64_extend8_s(),
            (Ty::I64, Width::W16) => self.i().i64_extend16_s(),
            (Ty::I64, Width::W32) => self.i().i64_extend32_s(),
            _ => return,
        };
    }

    /// An operand with nothing above its width.
    fn clean(&mut self, w: Width, v: Val) {
        let ty = Ty::of(w);
        if let Val::Imm(n) = v {
            return self.const_(ty, n & w.mask());
        }
        let bits = self.bits_of(v);
        self.get(ty, v);
        self.cut(ty, bits, w.bits());
    }

    /// An operand sign-extended to its type.
    fn signed(&mut self, w: Width, v: Val) {
        let ty = Ty::of(w);
        if let Val::Imm(n) = v {
            return self.const_(ty, w.sext(n));
        }
        let bits = self.bits_of(v);
        self.get(ty, v);
        if bits >= w.bits() {
            self.sign(ty, w);
        }
    }

    fn bin(&mut self, op: BinOp, w: Width, d: Var, a: Val, b: Val) {
        let ty = Ty::of(w);
        let wide = ty == Ty::I64;
        let (ba, bb) = (self.bits_of(a).min(w.bits()), self.bits_of(b).min(w.bits()));
        // Bits of the result: before it is cut and behind that.
        let (have, bits) = match op {
            BinOp::Add => (ba.max(bb) + 1, (ba.max(bb) + 1).min(w.bits())),
            BinOp::Sub | BinOp::Mul => (64, w.bits()),
            BinOp::And => {
                let n = match b {
                    Val::Imm(n) => 64 - (n & w.mask()).leading_zeros(),
                    Val::Var(_) => self.bits_of(b),
                };
                let have = self.bits_of(a).min(n);
                (have, have.min(w.bits()))
            }
            BinOp::Or | BinOp::Xor => (self.bits_of(a).max(self.bits_of(b)), ba.max(bb)),
            BinOp::AndNot => (self.bits_of(a), ba),
            BinOp::Shr | BinOp::DivU => (ba, ba),
            _ => (64, w.bits()),
        };
        match op {
            BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::And | BinOp::Or | BinOp::Xor => {
                self.get(ty, a);
                match b {
                    Val::Imm(n) => self.const_(ty, n & w.mask()),
                    Val::Var(_) => self.get(ty, b),
                }
                match (op, wide) {
                    (BinOp::Add, false) => self.i().i32_add(),
                    (BinOp::Add, true) => self.i().i64_add(),
                    (BinOp::Sub, false) => self.i().i32_sub(),
                    (BinOp::Sub, true) => self.i().i64_sub(),
                    (BinOp::Mul, false) => self.i().i32_mul(),
                    (BinOp::Mul, true) => self.i().i64_mul(),
                    (BinOp::And, false) => self.i().i32_and(),
                    (BinOp::And, true) => self.i().i64_and(),
                    (BinOp::Or, false) => self.i().i32_or(),
                    (BinOp::Or, true) => self.i().i64_or(),
                    (_, false) => self.i().i32_xor(),
                    (_, true) => self.i().i64_xor(),
                };
                // Operands may hold more than their width.
                let dirty = !matches!(op, BinOp::And)
                    && self.bits_of(a).max(match b {
                        Val::Imm(_) => 0,
                        Val::Var(_) => self.bits_of(b),
                    }) > w.bits();
                self.cut(ty, if dirty { 64 } else { have }, w.bits());
            }
            BinOp::AndNot => {
                self.get(ty, a);
                self.get(ty, b);
                self.const_(ty, u64::MAX);
                match wide {
                    false => self.i().i32_xor().i32_and(),
                    true => self.i().i64_xor().i64_and(),
                };
                self.cut(ty, have, w.bits());
            }
            BinOp::MulHiU | BinOp::MulHiS if !wide => {
                for v in [a, b] {
                    match op {
                        BinOp::MulHiU => {
                            self.clean(w, v);
                            self.i().i64_extend_i32_u();
                        }
                        _ => {
                            self.signed(w, v);
                            self.i().i64_extend_i32_s();
                        }
                    }
                }
                let n = w.bits().into();
                self.i().i64_mul().i64_const(n).i64_shr_u().i32_wrap_i64();
                self.cut(ty, 64, w.bits());
            }
            BinOp::MulHiU | BinOp::MulHiS => self.mul_high(op == BinOp::MulHiS, a, b),
            BinOp::DivU | BinOp::RemU | BinOp::DivS | BinOp::RemS => self.divide(op, w, a, b),
            BinOp::Shl | BinOp::Shr | BinOp::Sar => self.shift(op, w, a, b),
            BinOp::Rol | BinOp::Ror => self.rotate(op, w, a, b),
        }
        self.set(d, ty, bits.min(w.bits()));
    }

    fn shift(&mut self, op: BinOp, w: Width, a: Val, b: Val) {
        let ty = Ty::of(w);
        let wide = ty == Ty::I64;
        let n = w.bits();
        match op {
            BinOp::Shl => self.get(ty, a),
            BinOp::Shr => self.clean(w, a),
            _ => self.signed(w, a),
        }
        if let Val::Imm(count) = b {
            let count = (count & 0xff) as u32;
            let last = if op == BinOp::Sar { count.min(n - 1) } else { count };
            if last >= n {
                self.i().drop();
                return self.const_(ty, 0);
            }
            self.const_(ty, last.into());
            self.shift_op(op, wide);
            if op != BinOp::Shr {
                self.cut(ty, 64, n);
            }
            return;
        }
        // A count that cannot reach the width needs no look.
        if self.bits_of(b) <= n.trailing_zeros() {
            self.get(ty, b);
            self.shift_op(op, wide);
        } else {
            let count = self.scratch(0, ValType::I32);
            self.get(Ty::I32, b);
            let have = self.bits_of(b);
            self.cut(Ty::I32, have, 8);
            self.i().local_set(count);
            if op == BinOp::Sar {
                let most = n as i32 - 1;
                self.i().local_get(count).i32_const(most);
                self.i().local_get(count).i32_const(most).i32_lt_u().select();
                self.convert(Ty::I32, ty);
                self.shift_op(op, wide);
            } else {
                self.i().local_get(count);
                self.convert(Ty::I32, ty);
                self.shift_op(op, wide);
                self.const_(ty, 0);
                self.i().local_get(count).i32_const(n as i32).i32_lt_u().select();
            }
        }
        if op != BinOp::Shr {
            self.cut(ty, 64, n);
        }
    }

    fn shift_op(&mut self, op: BinOp, wide: bool) {
        match (op, wide) {
            (BinOp::Shl, false) => self.i().i32_shl(),
            (BinOp::Shl, true) => self.i().i64_shl(),
            (BinOp::Shr, false) => self.i().i32_shr_u(),
            (BinOp::Shr, true) => self.i().i64_shr_u(),
            (_, false) => self.i().i32_shr_s(),
            (_, true) => self.i().i64_shr_s(),
        };
    }

    fn rotate(&mut self, op: BinOp, w: Width, a: Val, b: Val) {
        let ty = Ty::of(w);
        if w >= Width::W32 {
            self.get(ty, a);
            self.get(ty, b);
            match (op, ty) {
                (BinOp::Rol, Ty::I32) => self.i().i32_rotl(),
                (BinOp::Rol, Ty::I64) => self.i().i64_rotl(),
                (_, Ty::I32) => self.i().i32_rotr(),
                (_, Ty::I64) => self.i().i64_rotr(),
            };
            return;
        }
        let (value, count) = (self.scratch(0, ValType::I32), self.scratch(1, ValType::I32));
        let n = w.bits() as i32;
        self.clean(w, a);
        self.i().local_set(value);
        match op {
            BinOp::Rol => self.get(Ty::I32, b),
            _ => {
                self.i().i32_const(0);
                self.get(Ty::I32, b);
                self.i().i32_sub();
            }
        }
        self.i()
            .i32_const(n - 1)
            .i32_and()
            .local_set(count)
            .local_get(value)
            .local_get(count)
            .i32_shl()
            .local_get(value)
            .i32_const(n)
            .local_get(count)
            .i32_sub()
            .i32_shr_u()
            .i32_or();
        self.cut(Ty::I32, 32, w.bits());
    }

    fn divide(&mut self, op: BinOp, w: Width, a: Val, b: Val) {
        let ty = Ty::of(w);
        let wide = ty == Ty::I64;
        let is_signed = matches!(op, BinOp::DivS | BinOp::RemS);
        let (x, y) = (self.scratch(0, ty.val_type()), self.scratch(1, ty.val_type()));
        for (v, local) in [(a, x), (b, y)] {
            if is_signed {
                self.signed(w, v);
            } else {
                self.clean(w, v);
            }
            self.i().local_set(local);
        }
        let result = BlockType::Result(ty.val_type());
        self.i().local_get(y);
        match wide {
            false => self.i().i32_eqz(),
            true => self.i().i64_eqz(),
        };
        self.if_(result, false);
        self.const_(ty, 0);
        self.else_();
        // The quotient that does not fit must not be asked for.
        if op == BinOp::DivS {
            self.i().local_get(y);
            self.const_(ty, u64::MAX);
            match wide {
                false => self.i().i32_eq(),
                true => self.i().i64_eq(),
            };
            self.if_(result, false);
            self.const_(ty, 0);
            self.i().local_get(x);
            match wide {
                false => self.i().i32_sub(),
                true => self.i().i64_sub(),
            };
            self.else_();
        }
        self.i().local_get(x).local_get(y);
        match (op, wide) {
            (BinOp::DivU, false) => self.i().i32_div_u(),
            (BinOp::DivU, true) => self.i().i64_div_u(),
            (BinOp::RemU, false) => self.i().i32_rem_u(),
            (BinOp::RemU, true) => self.i().i64_rem_u(),
            (BinOp::DivS, false) => self.i().i32_div_s(),
            (BinOp::DivS, true) => self.i().i64_div_s(),
            (_, false) => self.i().i32_rem_s(),
            (_, true) => self.i().i64_rem_s(),
        };
        if op == BinOp::DivS {
            self.end();
        }
        self.end();
        if is_signed {
            self.cut(ty, 64, w.bits());
        }
    }

    /// The high half of a product of 64 bits, from four products of halves.
    fn mul_high(&mut self, is_signed: bool, a: Val, b: Val) {
        let t = ValType::I64;
        let (x, y) = (self.scratch(0, t), self.scratch(1, t));
        let (lh, hl) = (self.scratch(2, t), self.scratch(3, t));
        let low = 0xffff_ffff;
        self.get(Ty::I64, a);
        self.i().local_set(x);
        self.get(Ty::I64, b);
        self.i().local_set(y);
        let mut i = self.i();
        let half = |i: &mut wasm_encoder::InstructionSink<'_>, v, high: bool| {
            i.local_get(v);
            if high {
                i.i64_const(32).i64_shr_u()
            } else {
                i.i64_const(low).i64_and()
            };
        };
        half(&mut i, x, false);
        half(&mut i, y, true);
        i.i64_mul().local_set(lh);
        half(&mut i, x, true);
        half(&mut i, y, false);
        i.i64_mul().local_set(hl);
        // hh + (lh >> 32) + (hl >> 32) + (((ll >> 32) + low(lh) + low(hl)) >> 32)
        half(&mut i, x, true);
        half(&mut i, y, true);
        i.i64_mul();
        half(&mut i, lh, true);
        i.i64_add();
        half(&mut i, hl, true);
        i.i64_add();
        half(&mut i, x, false);
        half(&mut i, y, false);
        i.i64_mul().i64_const(32).i64_shr_u();
        half(&mut i, lh, false);
        i.i64_add();
        half(&mut i, hl, false);
        i.i64_add().i64_const(32).i64_shr_u().i64_add();
        if is_signed {
            for (sign, other) in [(x, y), (y, x)] {
                i.local_get(sign).i64_const(63).i64_shr_s().local_get(other).i64_and().i64_sub();
            }
        }
    }

    fn un(&mut self, op: UnOp, w: Width, d: Var, a: Val) {
        let ty = Ty::of(w);
        let wide = ty == Ty::I64;
        let n = w.bits();
        let mut bits = n;
        match op {
            UnOp::Neg => {
                self.const_(ty, 0);
                self.get(ty, a);
                match wide {
                    false => self.i().i32_sub(),
                    true => self.i().i64_sub(),
                };
                self.cut(ty, 64, n);
            }
            UnOp::Not => {
                self.get(ty, a);
                self.const_(ty, u64::MAX);
                match wide {
                    false => self.i().i32_xor(),
                    true => self.i().i64_xor(),
                };
                self.cut(ty, 64, n);
            }
            UnOp::Bswap => self.bswap(w, a),
            UnOp::Clz => {
                self.clean(w, a);
                match wide {
                    false => self.i().i32_clz(),
                    true => self.i().i64_clz(),
                };
                if n < 32 {
                    self.i().i32_const(32 - n as i32).i32_sub();
                }
                bits = 7;
            }
            UnOp::Ctz => {
                self.get(ty, a);
                if n < 32 {
                    self.i().i32_const(1 << n).i32_or();
                }
                match wide {
                    false => self.i().i32_ctz(),
                    true => self.i().i64_ctz(),
                };
                bits = 7;
            }
            UnOp::Popcnt => {
                self.clean(w, a);
                match wide {
                    false => self.i().i32_popcnt(),
                    true => self.i().i64_popcnt(),
                };
                bits = 7;
            }
        }
        self.set(d, ty, bits.min(n));
    }

    fn bswap(&mut self, w: Width, a: Val) {
        match w {
            Width::W8 => self.clean(w, a),
            Width::W16 => {
                let x = self.scratch(0, ValType::I32);
                self.clean(w, a);
                self.i().local_tee(x).i32_const(8).i32_shl();
                self.cut(Ty::I32, 32, 16);
                self.i().local_get(x).i32_const(8).i32_shr_u().i32_or();
            }
            Width::W32 => {
                self.get(Ty::I32, a);
                self.bswap32();
            }
            Width::W64 => {
                let x = self.scratch(0, ValType::I64);
                self.get(Ty::I64, a);
                self.i().local_tee(x).i32_wrap_i64();
                self.bswap32();
                self.i().i64_extend_i32_u().i64_const(32).i64_shl();
                self.i().local_get(x).i64_const(32).i64_shr_u().i32_wrap_i64();
                self.bswap32();
                self.i().i64_extend_i32_u().i64_or();
            }
        }
    }

    fn bswap32(&mut self) {
        let x = self.scratch(0, ValType::I32);
        self.i()
            .local_tee(x)
            .i32_const(8)
            .i32_rotl()
            .i32_const(0x00ff_00ff)
            .i32_and()
            .local_get(x)
            .i32_const(8)
            .i32_rotr()
            .i32_const(0xff00_ff00_u32 as i32)
            .i32_and()
            .i32_or();
    }

    fn extract(&mut self, d: Var, a: Val, pos: u32, len: u32) {
        // The bits above may only be dropped where they are not asked for.
        let ty = self.ty(a).min(Ty::of_bits(pos + len));
        let have = self.bits_of(a).min(ty_bits(ty)).saturating_sub(pos);
        if pos >= ty_bits(ty) {
            self.const_(Ty::I32, 0);
            return self.set(d, Ty::I32, 0);
        }
        self.get(ty, a);
        if pos > 0 {
            self.const_(ty, pos.into());
            match ty {
                Ty::I32 => self.i().i32_shr_u(),
                Ty::I64 => self.i().i64_shr_u(),
            };
        }
        self.cut(ty, have, len);
        self.set(d, ty, have.min(len));
    }

    fn deposit(&mut self, d: Var, a: Val, b: Val, pos: u8, len: u8) {
        let ty = self.ty(a).max(Ty::of_bits(u32::from(pos) + u32::from(len)));
        let bits = self.bits_of(a).max(u32::from(pos) + u32::from(len)).min(ty_bits(ty));
        let field = ones(len) << pos;
        self.get(ty, a);
        self.mask(ty, !field);
        match b {
            Val::Imm(n) => self.const_(ty, n << pos & field),
            Val::Var(_) => {
                let have = self.bits_of(b);
                self.get(ty, b);
                self.cut(ty, have, len.into());
                if pos > 0 {
                    self.const_(ty, pos.into());
                    match ty {
                        Ty::I32 => self.i().i32_shl(),
                        Ty::I64 => self.i().i64_shl(),
                    };
                }
            }
        }
        match ty {
            Ty::I32 => self.i().i32_or(),
            Ty::I64 => self.i().i64_or(),
        };
        self.set(d, ty, bits);
    }

    /// Leaves something other than 0 on the stack if the comparison holds.
    pub(super) fn cond(&mut self, c: &Cmp) {
        let short = self.bits_of(c.a).max(self.bits_of(c.b)) <= 32;
        match c.cond {
            Cond::Ne if c.w <= Width::W32 && c.b == Val::Imm(0) => self.clean(c.w, c.a),
            Cond::TestNz if c.w <= Width::W32 || short => self.test(Width::W32.min(c.w), c),
            _ => self.cmp(c),
        }
    }

    /// Leaves the bits that both operands have.
    fn test(&mut self, w: Width, c: &Cmp) {
        let ty = Ty::of(w);
        self.get(ty, c.a);
        let mut have = self.bits_of(c.a);
        if c.a != c.b {
            have = have.min(self.bits_of(c.b));
            match c.b {
                Val::Imm(n) => {
                    self.const_(ty, n & w.mask());
                    have = have.min(w.bits());
                }
                Val::Var(_) => self.get(ty, c.b),
            }
            match ty {
                Ty::I32 => self.i().i32_and(),
                Ty::I64 => self.i().i64_and(),
            };
        }
        self.cut(ty, have, w.bits());
    }

    /// Leaves 1 on the stack if the comparison holds, else 0.
    pub(super) fn cmp(&mut self, c: &Cmp) {
        let signed = matches!(c.cond, Cond::LtS | Cond::LeS | Cond::GtS | Cond::GeS);
        // Numbers that are short enough compare as well in 32 bits.
        let short = self.bits_of(c.a).max(self.bits_of(c.b)) <= 32 && !signed;
        let w = if c.w == Width::W64 && short { Width::W32 } else { c.w };
        let wide = w == Width::W64;
        match c.cond {
            Cond::TestZ | Cond::TestNz => {
                self.test(w, c);
                return match (c.cond, wide) {
                    (Cond::TestZ, false) => {
                        self.i().i32_eqz();
                    }
                    (Cond::TestZ, true) => {
                        self.i().i64_eqz();
                    }
                    (_, false) => {
                        self.i().i32_const(0).i32_ne();
                    }
                    (_, true) => {
                        self.i().i64_const(0).i64_ne();
                    }
                };
            }
            Cond::Eq if c.b == Val::Imm(0) => {
                self.clean(w, c.a);
                match wide {
                    false => self.i().i32_eqz(),
                    true => self.i().i64_eqz(),
                };
                return;
            }
            _ => {}
        }
        for v in [c.a, c.b] {
            if signed { self.signed(w, v) } else { self.clean(w, v) }
        }
        match (c.cond, wide) {
            (Cond::Eq, false) => self.i().i32_eq(),
            (Cond::Eq, true) => self.i().i64_eq(),
            (Cond::Ne, false) => self.i().i32_ne(),
            (Cond::Ne, true) => self.i().i64_ne(),
            (Cond::LtU, false) => self.i().i32_lt_u(),
            (Cond::LtU, true) => self.i().i64_lt_u(),
            (Cond::LeU, false) => self.i().i32_le_u(),
            (Cond::LeU, true) => self.i().i64_le_u(),
            (Cond::GtU, false) => self.i().i32_gt_u(),
            (Cond::GtU, true) => self.i().i64_gt_u(),
            (Cond::GeU, false) => self.i().i32_ge_u(),
            (Cond::GeU, true) => self.i().i64_ge_u(),
            (Cond::LtS, false) => self.i().i32_lt_s(),
            (Cond::LtS, true) => self.i().i64_lt_s(),
            (Cond::LeS, false) => self.i().i32_le_s(),
            (Cond::LeS, true) => self.i().i64_le_s(),
            (Cond::GtS, false) => self.i().i32_gt_s(),
            (Cond::GtS, true) => self.i().i64_gt_s(),
            (_, false) => self.i().i32_ge_s(),
            (_, true) => self.i().i64_ge_s(),
        };
    }
}

pub(super) fn ty_bits(ty: Ty) -> u32 {
    match ty {
        Ty::I32 => 32,
        Ty::I64 => 64,
    }
}
