//! Integer operations.

use super::asm::{Alu, Cc, Group3, RAX, RCX, RDX, Reg, Rm, Shift, at2};
use super::{At, Emit, Src, host};
use crate::ir::{BinOp, Cmp, Cond, Op, UnOp, Val, Var, Width, opt};

/// Where the rest of the division that is operation `at` belongs, if the instruction wants that too: the index of
/// the operation for it, and a temporary that may be written as soon as the quotient is there.
pub(super) fn rest_of(ops: &[Op], at: usize) -> Option<(usize, Var)> {
    let Op::Bin { op, w, a, b, .. } = ops[at] else { return None };
    let rest = match op {
        BinOp::DivU => BinOp::RemU,
        BinOp::DivS => BinOp::RemS,
        _ => return None,
    };
    // Variables written from here on, and read.
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for (i, op) in ops.iter().enumerate().skip(at) {
        match *op {
            Op::Insn { .. } | Op::Label { .. } | Op::Branch { .. } | Op::Jump { .. } => break,
            Op::Bin { op, w: x, d, a: y, b: z } if (op, x, y, z) == (rest, w, a, b) => {
                let still = |v: Val| !matches!(v, Val::Var(v) if written.contains(&v));
                let fresh = d.is_temp() && !read.contains(&d) && still(d.into());
                return (fresh && still(a) && still(b)).then_some((i, d));
            }
            ref op => {
                written.extend(op.dest());
                opt::reads(op, &mut |v| read.push(v));
            }
        }
    }
    None
}

impl Emit<'_> {
    // Comparisons.

    /// Sets the flags; answers the condition.
    pub(super) fn cmp(&mut self, c: &Cmp) -> Cc {
        let (a, b) = (self.src(c.a), self.src(c.b));
        let test = matches!(c.cond, Cond::TestZ | Cond::TestNz);
        let cc = match c.cond {
            Cond::Eq | Cond::TestZ => Cc::E,
            Cond::Ne | Cond::TestNz => Cc::Ne,
            Cond::LtU => Cc::B,
            Cond::LeU => Cc::Be,
            Cond::GtU => Cc::A,
            Cond::GeU => Cc::Ae,
            Cond::LtS => Cc::L,
            Cond::LeS => Cc::Le,
            Cond::GtS => Cc::G,
            Cond::GeS => Cc::Ge,
        };
        // An immediate of the width, sign-extended from 32 bits.
        let short = match b {
            Src::Imm(n) => i32::try_from(c.w.sext(n) as i64).ok(),
            _ => None,
        };
        let left = match a {
            Src::Reg(r) => Rm::Reg(r),
            Src::Mem(m) if short.is_some() => Rm::Mem(m),
            a => {
                self.fetch(c.w, RAX, a);
                Rm::Reg(RAX)
            }
        };
        match (left, short) {
            (Rm::Reg(r), Some(0)) if !test => self.a.test(c.w, r, r),
            (left, Some(n)) if test => self.a.test_imm(c.w, left, n),
            (left, Some(n)) => self.a.alu_imm(Alu::Cmp, c.w, left, n),
            (left, None) => {
                let Rm::Reg(r) = left else { unreachable!("memory only with an immediate") };
                let right = match b {
                    Src::Reg(x) => Rm::Reg(x),
                    Src::Mem(m) => Rm::Mem(m),
                    b => {
                        self.fetch(c.w, RCX, b);
                        Rm::Reg(RCX)
                    }
                };
                if test {
                    self.a.test(c.w, right, r);
                } else {
                    self.a.alu(Alu::Cmp, c.w, r, right);
                }
            }
        }
        cc
    }

    // Operations.

    /// An operand in a register: its own, or `other`.
    pub(super) fn in_register(&mut self, w: Width, other: Reg, s: Src) -> Reg {
        match s {
            Src::Reg(r) => r,
            s => {
                self.fetch(w, other, s);
                other
            }
        }
    }

    /// Eight bytes of memory = a constant.
    pub(super) fn put_constant(&mut self, m: At, n: u64) {
        match i32::try_from(n as i64) {
            Ok(n) => self.a.store_imm(Width::W64, m, n),
            Err(_) => {
                self.a.set(RAX, n);
                self.a.store(Width::W64, m, RAX);
            }
        }
    }

    pub(super) fn mov(&mut self, w: Width, d: Var, a: Val) {
        let (s, place) = (self.src(a), self.place(d));
        match (place, s) {
            (Rm::Mem(m), Src::Imm(n)) => self.put_constant(m, n & w.mask()),
            (Rm::Mem(m), Src::Reg(r)) if w == Width::W64 => self.a.store(w, m, r),
            (Rm::Reg(x), Src::Imm(n)) => self.a.set(x, n & w.mask()),
            (Rm::Reg(x), Src::Reg(r)) if x == r && w == Width::W64 => {}
            (Rm::Reg(x), s) => self.fetch_zero(w, x, s),
            (Rm::Mem(m), s) => {
                self.fetch_zero(w, RAX, s);
                self.a.store(Width::W64, m, RAX);
            }
        }
        self.most[usize::from(d.0)] = match a {
            Val::Imm(n) => n & w.mask(),
            Val::Var(_) => u64::MAX,
        };
    }

    /// `r = r op s`.
    fn apply(&mut self, op: Alu, w: Width, r: Reg, s: Src) {
        match s {
            Src::Reg(x) => self.a.alu(op, w, r, x),
            Src::Mem(m) => self.a.alu(op, w, r, m),
            Src::Imm(n) => {
                let n = if w == Width::W64 { n as i64 } else { i64::from(n as i32) };
                match i32::try_from(n) {
                    Ok(n) => self.a.alu_imm(op, w, r, n),
                    Err(_) => {
                        self.a.set(RCX, n as u64);
                        self.a.alu(op, w, r, RCX);
                    }
                }
            }
        }
    }

    pub(super) fn bin(&mut self, op: BinOp, w: Width, d: Var, a: Val, b: Val) {
        match op {
            BinOp::Add => self.simple(Alu::Add, w, d, a, b),
            BinOp::Sub => self.simple(Alu::Sub, w, d, a, b),
            BinOp::And => self.simple(Alu::And, w, d, a, b),
            BinOp::Or => self.simple(Alu::Or, w, d, a, b),
            BinOp::Xor => self.simple(Alu::Xor, w, d, a, b),
            BinOp::AndNot => {
                let (a, b) = (self.src(a), self.src(b));
                self.fetch(w, RCX, b);
                self.a.group3(Group3::Not, host(w), RCX);
                self.fetch(w, RAX, a);
                self.a.alu(Alu::And, host(w), RAX, RCX);
                self.put(w, d, RAX);
            }
            BinOp::Shl | BinOp::Shr | BinOp::Sar => self.shift(op, w, d, a, b),
            BinOp::Rol | BinOp::Ror => self.rotate(op, w, d, a, b),
            BinOp::Mul => {
                let (a, b) = (self.src(a), self.src(b));
                self.fetch(w, RAX, a);
                match b {
                    Src::Reg(r) => self.a.imul(host(w), RAX, r),
                    Src::Mem(m) => self.a.imul(host(w), RAX, m),
                    b => {
                        self.fetch(w, RCX, b);
                        self.a.imul(host(w), RAX, RCX);
                    }
                }
                self.put(w, d, RAX);
            }
            BinOp::MulHiU | BinOp::MulHiS => self.high(op == BinOp::MulHiS, w, d, a, b),
            BinOp::DivU | BinOp::RemU | BinOp::DivS | BinOp::RemS => self.divide(op, w, d, a, b),
        }
        if let (BinOp::And, Val::Imm(m)) = (op, b) {
            self.most[usize::from(d.0)] = m & w.mask();
        }
    }

    /// Operations whose low bits come from the low bits of the operands.
    fn simple(&mut self, op: Alu, w: Width, d: Var, a: Val, b: Val) {
        let turn = op != Alu::Sub;
        let (mut a, mut b) = (self.src(a), self.src(b));
        if turn && matches!(a, Src::Imm(_)) {
            (a, b) = (b, a);
        }
        let place = self.place(d);
        let wide = host(w);
        // In memory at once.
        if let (Rm::Mem(m), Src::Mem(x), Width::W64) = (place, a, w)
            && m == x
        {
            match b {
                Src::Reg(r) => {
                    self.a.alu_to(op, w, m, r);
                    return self.changed(d);
                }
                Src::Imm(n) if i32::try_from(n as i64).is_ok() => {
                    self.a.alu_imm(op, w, m, n as i32);
                    return self.changed(d);
                }
                _ => {}
            }
        }
        let mut r = self.target(d);
        let is = |s: Src, r: Reg| matches!(s, Src::Reg(x) if x == r);
        if is(b, r) && !is(a, r) {
            if turn {
                (a, b) = (b, a);
            } else {
                r = RAX;
            }
        }
        match (op, a, b) {
            (Alu::Add, Src::Reg(x), Src::Reg(y)) if x != r => {
                self.a.lea(wide, r, at2(x, y, 0));
            }
            (Alu::Add | Alu::Sub, Src::Reg(x), Src::Imm(n))
                if x != r && w != Width::W64 && n as i32 != i32::MIN =>
            {
                let n = if op == Alu::Sub { -(n as i32) } else { n as i32 };
                self.a.lea(wide, r, At { base: Some(x), index: None, disp: n });
            }
            _ => {
                self.fetch(w, r, a);
                self.apply(op, wide, r, b);
            }
        }
        if w != wide {
            self.a.load(w, r, r);
        }
        match place {
            Rm::Reg(x) if x != r => self.a.load(wide, x, r),
            Rm::Reg(_) => {}
            Rm::Mem(m) => self.a.store(Width::W64, m, r),
        }
        self.changed(d);
    }

    fn changed(&mut self, d: Var) {
        self.most[usize::from(d.0)] = u64::MAX;
    }

    fn shift(&mut self, op: BinOp, w: Width, d: Var, a: Val, n: Val) {
        let bits = u64::from(host(w).bits());
        let (kind, fill) = match op {
            BinOp::Shl => (Shift::Shl, 0),
            BinOp::Shr => (Shift::Shr, 0),
            _ => (Shift::Sar, bits - 1),
        };
        let most = match n {
            Val::Imm(n) => n & 0xff,
            Val::Var(v) => self.most[usize::from(v.0)].min(0xff),
        };
        let (a, count) = (self.src(a), self.src(n));
        if let Src::Imm(n) = count {
            let n = n & 0xff;
            let r = self.target(d);
            if n >= bits && fill == 0 {
                self.a.set(r, 0);
                return self.computed(d);
            }
            self.shifted(op, w, r, a);
            self.a.shift_imm(kind, host(w), r, n.min(bits - 1) as u8);
            if w != host(w) {
                self.a.load(w, r, r);
            }
            return self.computed(d);
        }
        self.fetch(Width::W32, RCX, count);
        let r = self.target(d);
        self.shifted(op, w, r, a);
        if most < bits {
            self.a.shift(kind, host(w), r);
        } else {
            // The host takes the count modulo its width.
            self.a.load(Width::W8, RCX, RCX);
            let (fits, on) = (self.a.mark(), self.a.mark());
            self.a.alu_imm(Alu::Cmp, Width::W32, RCX, bits as i32);
            self.a.jump_if(Cc::B, fits);
            if fill == 0 {
                self.a.set(r, 0);
            } else {
                self.a.shift_imm(Shift::Sar, host(w), r, fill as u8);
            }
            self.a.jump(on);
            self.a.here(fits);
            self.a.shift(kind, host(w), r);
            self.a.here(on);
        }
        if w != host(w) {
            self.a.load(w, r, r);
        }
        self.computed(d);
    }

    /// What is shifted, wide enough that the bits which come in are right.
    fn shifted(&mut self, op: BinOp, w: Width, r: Reg, a: Src) {
        if w == host(w) || op == BinOp::Shl {
            self.fetch(w, r, a);
        } else if op == BinOp::Shr {
            self.fetch_zero(w, r, a);
        } else {
            self.fetch_signed(w, r, a);
        }
    }

    fn rotate(&mut self, op: BinOp, w: Width, d: Var, a: Val, n: Val) {
        let kind = if op == BinOp::Rol { Shift::Rol } else { Shift::Ror };
        let (a, count) = (self.src(a), self.src(n));
        let r = if let Src::Imm(n) = count {
            let r = self.target(d);
            self.fetch(w, r, a);
            self.a.shift_imm(kind, w, r, (n & u64::from(w.bits() - 1)) as u8);
            r
        } else {
            self.fetch(Width::W32, RCX, count);
            let r = self.target(d);
            self.fetch(w, r, a);
            self.a.shift(kind, w, r);
            r
        };
        // A 32-bit rotation by nothing clears the upper half too.
        if w != host(w) {
            self.a.load(w, r, r);
        }
        self.computed(d);
    }

    fn high(&mut self, signed: bool, w: Width, d: Var, a: Val, b: Val) {
        let (a, b) = (self.src(a), self.src(b));
        if w == Width::W64 {
            self.fetch(w, RCX, b);
            self.fetch(w, RAX, a);
            self.a.group3(if signed { Group3::Imul } else { Group3::Mul }, w, RCX);
            return self.put(w, d, RDX);
        }
        for (r, s) in [(RCX, b), (RAX, a)] {
            if signed {
                self.fetch_signed(w, r, s);
            } else {
                self.fetch_zero(w, r, s);
            }
        }
        self.a.imul(Width::W64, RAX, RCX);
        self.a.shift_imm(Shift::Shr, Width::W64, RAX, w.bits() as u8);
        self.put(w, d, RAX);
    }

    /// The quotient or rest; 0 of a division by 0, and what wraps wraps.
    fn divide(&mut self, op: BinOp, w: Width, d: Var, a: Val, b: Val) {
        let signed = matches!(op, BinOp::DivS | BinOp::RemS);
        let quotient = matches!(op, BinOp::DivU | BinOp::DivS);
        if std::mem::take(&mut self.rest_done) == Some(self.index) {
            return;
        }
        let region = self.region;
        let other = rest_of(&region.blocks[self.at].ops, self.index);
        self.rest_done = other.map(|(i, _)| i);
        let (a, b) = (self.src(a), self.src(b));
        // Narrow ones are done in 64 bits, where nothing overflows; that is slow, so not unsigned ones.
        let wide = if signed || w == Width::W64 { Width::W64 } else { Width::W32 };
        for (r, s) in [(RCX, b), (RAX, a)] {
            if signed {
                self.fetch_signed(w, r, s);
            } else {
                self.fetch_zero(w, r, s);
            }
        }
        let (none, minus, done) = (self.a.mark(), self.a.mark(), self.a.mark());
        self.a.test(wide, RCX, RCX);
        self.a.jump_if(Cc::E, none);
        if signed && w == Width::W64 {
            self.a.alu_imm(Alu::Cmp, wide, RCX, -1);
            self.a.jump_if(Cc::E, minus);
        }
        if signed {
            self.a.cqo();
            self.a.group3(Group3::Idiv, wide, RCX);
        } else if w == Width::W64 {
            // Half the width is much faster, and mostly enough: a divisor of 32 bits, and above the lower 32
            // of the dividend less than it.
            let (long, divided) = (self.a.mark(), self.a.mark());
            self.a.load(Width::W32, RDX, RCX);
            self.a.alu(Alu::Cmp, w, RDX, RCX);
            self.a.jump_if(Cc::Ne, long);
            self.a.load(w, RDX, RAX);
            self.a.shift_imm(Shift::Shr, w, RDX, 32);
            self.a.alu(Alu::Cmp, w, RDX, RCX);
            self.a.jump_if(Cc::Ae, long);
            self.a.group3(Group3::Div, Width::W32, RCX);
            self.a.jump(divided);
            self.a.here(long);
            self.a.set(RDX, 0);
            self.a.group3(Group3::Div, w, RCX);
            self.a.here(divided);
        } else {
            self.a.set(RDX, 0);
            self.a.group3(Group3::Div, wide, RCX);
        }
        if !quotient {
            self.a.load(Width::W64, RAX, RDX);
        }
        self.a.jump(done);
        if signed && w == Width::W64 {
            self.a.here(minus);
            if quotient {
                self.a.group3(Group3::Neg, wide, RAX);
                self.a.set(RDX, 0);
                self.a.jump(done);
            }
        } else {
            self.a.here(minus);
        }
        self.a.here(none);
        self.a.set(RAX, 0);
        self.a.set(RDX, 0);
        self.a.here(done);
        if let Some((_, rest)) = other {
            self.put(w, rest, RDX);
        }
        self.put(w, d, RAX);
    }

    pub(super) fn un(&mut self, op: UnOp, w: Width, d: Var, a: Val) {
        let (a, wide) = (self.src(a), host(w));
        match op {
            UnOp::Neg | UnOp::Not => {
                let r = self.target(d);
                self.fetch(w, r, a);
                self.a.group3(if op == UnOp::Neg { Group3::Neg } else { Group3::Not }, wide, r);
                if w != wide {
                    self.a.load(w, r, r);
                }
                self.computed(d);
            }
            UnOp::Bswap => {
                self.fetch(w, RAX, a);
                match w {
                    Width::W8 => {}
                    Width::W16 => self.a.shift_imm(Shift::Rol, w, RAX, 8),
                    w => self.a.bswap(w, RAX),
                }
                self.put(w, d, RAX);
            }
            UnOp::Clz | UnOp::Ctz => {
                let bits = w.bits();
                self.fetch_zero(w, RAX, a);
                // What the exclusive or turns into the number of bits.
                self.a.set_quiet(RCX, if op == UnOp::Clz { 2 * bits - 1 } else { bits });
                self.a.scan(op == UnOp::Clz, wide, RAX, RAX);
                self.a.cmov(Cc::E, Width::W32, RAX, RCX);
                if op == UnOp::Clz {
                    self.a.alu_imm(Alu::Xor, Width::W32, RAX, bits as i32 - 1);
                }
                self.put(Width::W32, d, RAX);
            }
            UnOp::Popcnt => {
                self.fetch_zero(w, RAX, a);
                self.a.popcnt(wide, RAX, RAX);
                self.put(Width::W32, d, RAX);
            }
        }
    }

    pub(super) fn sext(&mut self, from: Width, to: Width, d: Var, a: Val) {
        let a = self.src(a);
        if to == from {
            self.fetch_zero(from, RAX, a);
            return self.put(Width::W64, d, RAX);
        }
        self.fetch_signed(from, RAX, a);
        self.put(to, d, RAX);
    }

    pub(super) fn extract(&mut self, d: Var, a: Val, pos: u8, len: u8) {
        let a = self.src(a);
        let r = self.target(d);
        self.fetch(Width::W64, r, a);
        if pos != 0 {
            self.a.shift_imm(Shift::Shr, Width::W64, r, pos);
        }
        match len {
            8 => self.a.load(Width::W8, r, r),
            16 => self.a.load(Width::W16, r, r),
            32 => self.a.load(Width::W32, r, r),
            _ if pos + len >= 64 => {}
            _ => self.apply(Alu::And, Width::W64, r, Src::Imm(opt::ones(len))),
        }
        self.computed(d);
    }

    pub(super) fn deposit(&mut self, d: Var, a: Val, b: Val, pos: u8, len: u8) {
        let (a, b, place) = (self.src(a), self.src(b), self.place(d));
        // The low byte or word of a register, as it is.
        if let (Rm::Reg(r), Src::Reg(x), 0, 8 | 16) = (place, a, pos, len)
            && r == x
        {
            let w = if len == 8 { Width::W8 } else { Width::W16 };
            let from = self.in_register(w, RAX, b);
            self.a.store(w, r, from);
            return self.changed(d);
        }
        let field = opt::ones(len) << pos;
        // The field in RAX, the rest in RCX or RDX.
        match b {
            Src::Imm(n) => self.a.set(RAX, (n & opt::ones(len)) << pos),
            b => {
                self.fetch(Width::W64, RAX, b);
                match len {
                    8 => self.a.load(Width::W8, RAX, RAX),
                    16 => self.a.load(Width::W16, RAX, RAX),
                    32 => self.a.load(Width::W32, RAX, RAX),
                    64 => {}
                    _ => self.apply(Alu::And, Width::W64, RAX, Src::Imm(opt::ones(len))),
                }
                if pos != 0 {
                    self.a.shift_imm(Shift::Shl, Width::W64, RAX, pos);
                }
            }
        }
        self.fetch(Width::W64, RDX, a);
        self.apply(Alu::And, Width::W64, RDX, Src::Imm(!field));
        self.a.alu(Alu::Or, Width::W64, RAX, RDX);
        self.put(Width::W64, d, RAX);
    }

    pub(super) fn select(&mut self, w: Width, d: Var, cmp: &Cmp, x: Val, y: Val) {
        let cc = self.cmp(cmp);
        // Nothing from here to the move touches the flags.
        let (x, y) = (self.src(x), self.src(y));
        self.fetch(w, RAX, y);
        match x {
            Src::Reg(r) => self.a.cmov(cc, host(w), RAX, r),
            Src::Mem(m) => self.a.cmov(cc, host(w), RAX, m),
            x => {
                self.fetch(w, RCX, x);
                self.a.cmov(cc, host(w), RAX, RCX);
            }
        }
        self.put(w, d, RAX);
    }
}
