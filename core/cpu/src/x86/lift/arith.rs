//! Addition, subtraction, logic, multiplication, division, decimal adjustment.

use super::flag::{CC_DST, CC_SRC, CC_SRC2};
use super::*;
use crate::ir::UnOp;
use crate::x86::flags::Kind;
use crate::x86::state::flag;

impl Lifter<'_> {
    pub(super) fn arith(&mut self) -> Flow {
        match self.i.id {
            Id::ADD | Id::ADC => self.add(),
            Id::SUB | Id::SBB => self.subtract(),
            Id::CMP => self.compare(),
            Id::AND => self.logic(BinOp::And),
            Id::OR => self.logic(BinOp::Or),
            Id::XOR => self.logic(BinOp::Xor),
            Id::TEST => self.test(),
            Id::INC => self.count(Kind::Inc, BinOp::Add),
            Id::DEC => self.count(Kind::Dec, BinOp::Sub),
            Id::NEG => self.negate(),
            Id::NOT => {
                let w = self.width(self.op(0));
                let (a, dest) = self.read_dest(self.op(0));
                let t = self.tmp();
                self.b.un(UnOp::Not, w, t, a);
                self.write_dest(dest, t);
            }
            Id::MUL => self.multiply(false),
            Id::IMUL if self.i.count == 1 => self.multiply(true),
            Id::IMUL => self.multiply_into(),
            Id::MULX => self.mulx(),
            Id::DIV => self.divide(false),
            Id::IDIV => self.divide(true),
            Id::AAA => self.adjust(pure::AAA),
            Id::AAS => self.adjust(pure::AAS),
            Id::DAA => self.adjust(pure::DAA),
            Id::DAS => self.adjust(pure::DAS),
            Id::AAM => self.aam(),
            Id::AAD => self.aad(),
            Id::CBW => self.convert(),
            Id::CWD => {
                let w = width(self.i.opsize);
                let t = self.bin(BinOp::Sar, w, RAX, u64::from(w.bits() - 1));
                self.write_gpr(2, self.i.opsize, t);
            }
            Id::XADD => self.exchange_add(),
            Id::CMPXCHG => self.compare_exchange(),
            Id::CMPXCHG8B => self.compare_exchange_wide(),
            Id::ADCX => self.add_one_flag(flag::CF),
            _ => self.add_one_flag(flag::OF),
        }
        self.done()
    }

    /// `a op b` into a destination: straight into the register where it has no upper part to keep.
    /// Answers where the result is.
    fn compute_dest(&mut self, op: BinOp, w: Width, dest: Dest, a: Val, b: Val) -> Val {
        match dest {
            Dest::Reg(Operand::Gpr(n, 4 | 8)) => {
                self.b.bin(op, w, gpr(n), a, b);
                gpr(n).into()
            }
            _ => {
                let t = self.bin(op, w, a, b);
                self.write_dest(dest, t);
                t.into()
            }
        }
    }

    fn add(&mut self) {
        let w = self.width(self.op(0));
        let b = self.read(self.op(1));
        let (a, dest) = self.read_dest(self.op(0));
        if self.i.id == Id::ADD {
            let b = self.stable(b, dest, w);
            let result = self.compute_dest(BinOp::Add, w, dest, a, b);
            self.b.mov(w, CC_SRC, b);
            self.cc_result(Kind::Add, w, result);
        } else {
            let carry = self.carry();
            let b = self.stable(b, dest, w);
            let t = self.bin(BinOp::Add, w, a, b);
            let result = self.compute_dest(BinOp::Add, w, dest, t.into(), carry.into());
            self.b.mov(w, CC_SRC, b);
            self.b.mov(Width::W64, CC_SRC2, carry);
            self.cc_result(Kind::Adc, w, result);
        }
    }

    /// An operand that is still itself after the destination was written.
    fn stable(&mut self, value: Val, dest: Dest, w: Width) -> Val {
        match (value, dest) {
            (Val::Var(v), Dest::Reg(Operand::Gpr(n, _))) if v == gpr(n) => self.copy(w, v).into(),
            (Val::Var(v), Dest::Reg(Operand::High(n))) if v == gpr(n) => self.copy(w, v).into(),
            _ => value,
        }
    }

    fn subtract(&mut self) {
        let w = self.width(self.op(0));
        let b = self.read(self.op(1));
        let (a, dest) = self.read_dest(self.op(0));
        if self.i.id == Id::SUB {
            if let Dest::Mem(..) = dest {
                let t = self.bin(BinOp::Sub, w, a, b);
                self.write_dest(dest, t);
                self.b.mov(w, CC_DST, a);
                self.b.mov(w, CC_SRC, b);
            } else {
                self.b.mov(w, CC_DST, a);
                self.b.mov(w, CC_SRC, b);
                self.compute_dest(BinOp::Sub, w, dest, a, b);
            }
            self.cc(Kind::Sub, w);
        } else {
            let borrow = self.carry();
            let (a, b) = (self.stable(a, dest, w), self.stable(b, dest, w));
            let t = self.bin(BinOp::Sub, w, a, b);
            let t = self.bin(BinOp::Sub, w, t, borrow);
            self.write_dest(dest, t);
            self.b.mov(w, CC_DST, a);
            self.b.mov(w, CC_SRC, b);
            self.b.mov(Width::W64, CC_SRC2, borrow);
            self.cc(Kind::Sbb, w);
        }
    }

    fn compare(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read(self.op(0));
        let b = self.read(self.op(1));
        self.b.mov(w, CC_DST, a);
        self.b.mov(w, CC_SRC, b);
        self.cc(Kind::Sub, w);
    }

    fn logic(&mut self, op: BinOp) {
        let w = self.width(self.op(0));
        if op == BinOp::Xor && self.op(0) == self.op(1) {
            self.write_reg(self.op(0), 0u64);
            self.b.konst(CC_DST, 0);
            self.cc(Kind::Logic, w);
            return;
        }
        let b = self.read(self.op(1));
        let (a, dest) = self.read_dest(self.op(0));
        let result = self.compute_dest(op, w, dest, a, b);
        self.cc_result(Kind::Logic, w, result);
    }

    fn test(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read(self.op(0));
        let b = self.read(self.op(1));
        if a == b {
            self.b.mov(w, CC_DST, a);
        } else {
            self.b.and(w, CC_DST, a, b);
        }
        self.cc(Kind::Logic, w);
    }

    fn count(&mut self, kind: Kind, op: BinOp) {
        let w = self.width(self.op(0));
        let (a, dest) = self.read_dest(self.op(0));
        if let Dest::Reg(_) = dest {
            // Nothing faults any more.
            self.carry_into(CC_SRC);
            let result = self.compute_dest(op, w, dest, a, 1u64.into());
            self.cc_result(kind, w, result);
            return;
        }
        let carry = self.carry();
        let result = self.compute_dest(op, w, dest, a, 1u64.into());
        self.b.mov(Width::W64, CC_SRC, carry);
        self.cc_result(kind, w, result);
    }

    fn negate(&mut self) {
        let w = self.width(self.op(0));
        let (a, dest) = self.read_dest(self.op(0));
        let a = self.stable(a, dest, w);
        let t = self.bin(BinOp::Sub, w, 0u64, a);
        self.write_dest(dest, t);
        self.b.konst(CC_DST, 0);
        self.b.mov(w, CC_SRC, a);
        self.cc(Kind::Sub, w);
    }

    /// MUL and IMUL with the accumulator.
    fn multiply(&mut self, signed: bool) {
        let size = self.size(self.op(0));
        let w = width(size);
        let (low, high);
        if size == 8 {
            let b = self.read_copy(self.op(0));
            low = self.bin(BinOp::Mul, w, RAX, b);
            high = self.bin(if signed { BinOp::MulHiS } else { BinOp::MulHiU }, w, RAX, b);
        } else {
            let twice = width(size * 2);
            let (a, b);
            if signed {
                b = self.read_sext(self.op(0), twice);
                a = self.tmp();
                self.b.sext(w, twice, a, RAX);
            } else {
                b = self.read_copy(self.op(0));
                a = self.copy(w, RAX);
            }
            let product = self.bin(BinOp::Mul, twice, a, b);
            low = self.copy(w, product);
            high = self.tmp();
            self.b.extract(high, product, size * 8, size * 8);
        }
        let big = self.tmp();
        if signed {
            let sign = self.bin(BinOp::Sar, w, low, u64::from(w.bits() - 1));
            self.b.set_if(Cond::Ne, w, big, high, sign);
        } else {
            self.b.set_if(Cond::Ne, w, big, high, 0u64);
        }
        if size == 1 {
            self.b.deposit(RAX, RAX, low, 0, 8);
            self.b.deposit(RAX, RAX, high, 8, 8);
        } else {
            self.write_gpr(0, size, low);
            self.write_gpr(2, size, high);
        }
        self.b.mov(Width::W64, CC_SRC, big);
        self.cc_result(Kind::Mul, w, low);
    }

    /// IMUL with two or three operands.
    fn multiply_into(&mut self) {
        let op = self.op(0);
        let w = self.width(op);
        let (x, y) = if self.i.count == 3 { (1, 2) } else { (0, 1) };
        let low;
        let big = self.tmp();
        if w == Width::W64 {
            let b = self.read(self.op(y));
            let a = self.read(self.op(x));
            low = self.bin(BinOp::Mul, w, a, b);
            let high = self.bin(BinOp::MulHiS, w, a, b);
            let sign = self.bin(BinOp::Sar, w, low, 63u64);
            self.b.set_if(Cond::Ne, w, big, high, sign);
        } else {
            let twice = width(self.size(op) * 2);
            let b = self.read_sext(self.op(y), twice);
            let a = self.read_sext(self.op(x), twice);
            let product = self.bin(BinOp::Mul, twice, a, b);
            low = self.copy(w, product);
            let back = self.tmp();
            self.b.sext(w, twice, back, low);
            self.b.set_if(Cond::Ne, twice, big, back, product);
        }
        self.write_reg(op, low);
        self.b.mov(Width::W64, CC_SRC, big);
        self.cc_result(Kind::Mul, w, low);
    }

    fn mulx(&mut self) {
        let w = self.width(self.op(0));
        let b = self.read(self.op(2));
        let a = self.copy(w, RDX);
        let (low, high);
        if w == Width::W64 {
            low = self.bin(BinOp::Mul, w, a, b);
            high = self.bin(BinOp::MulHiU, w, a, b);
        } else {
            let b = self.copy(w, b);
            let product = self.bin(BinOp::Mul, Width::W64, a, b);
            low = self.copy(w, product);
            high = self.tmp();
            self.b.extract(high, product, 32, 32);
        }
        self.write_reg(self.op(1), low);
        self.write_reg(self.op(0), high);
    }

    fn divide(&mut self, signed: bool) {
        let size = self.size(self.op(0));
        let w = width(size);
        let de = u16::from(vector::DE);
        let (quotient, remainder);
        if size == 8 {
            let d = self.read_copy(self.op(0));
            let args: [Val; 3] = [RDX.into(), RAX.into(), d.into()];
            let names = if signed {
                [pure::IDIV_BAD, pure::IDIV_QUOTIENT, pure::IDIV_REMAINDER]
            } else {
                [pure::DIV_BAD, pure::DIV_QUOTIENT, pure::DIV_REMAINDER]
            };
            let bad = self.tmp();
            self.b.pure(names[0], bad, &args);
            self.b.trap_if(Cmp::new(Cond::Ne, w, bad, 0u64), de, 0u64);
            quotient = self.tmp();
            self.b.pure(names[1], quotient, &args);
            remainder = self.tmp();
            self.b.pure(names[2], remainder, &args);
        } else {
            let twice = width(size * 2);
            let d =
                if signed { self.read_sext(self.op(0), twice) } else { self.read_copy(self.op(0)) };
            self.b.trap_if(Cmp::new(Cond::Eq, twice, d, 0u64), de, 0u64);
            let dividend = self.tmp();
            if size == 1 {
                self.b.mov(twice, dividend, RAX);
            } else {
                self.b.mov(w, dividend, RAX);
                self.b.deposit(dividend, dividend, RDX, size * 8, size * 8);
            }
            let (div, rem) =
                if signed { (BinOp::DivS, BinOp::RemS) } else { (BinOp::DivU, BinOp::RemU) };
            quotient = self.bin(div, twice, dividend, d);
            if signed {
                // The most negative dividend by -1 wraps to itself and is caught too, except
                // that it is not representable only one width up.
                let back = self.tmp();
                self.b.sext(w, twice, back, quotient);
                self.b.trap_if(Cmp::new(Cond::Ne, twice, back, quotient), de, 0u64);
            } else {
                self.b.trap_if(Cmp::new(Cond::GtU, twice, quotient, w.mask()), de, 0u64);
            }
            remainder = self.bin(rem, twice, dividend, d);
        }
        if size == 1 {
            self.b.deposit(RAX, RAX, quotient, 0, 8);
            self.b.deposit(RAX, RAX, remainder, 8, 8);
        } else {
            self.write_gpr(0, size, quotient);
            self.write_gpr(2, size, remainder);
        }
    }

    fn adjust(&mut self, f: u16) {
        let flags = self.flags();
        let t = self.tmp();
        self.b.pure(f, t, &[RAX.into(), flags.into()]);
        self.write_gpr(0, 2, t);
        let flags = self.tmp();
        self.b.extract(flags, t, 16, 16);
        self.cc_flags(flags);
    }

    fn aam(&mut self) {
        let base = self.i.imm & 0xff;
        if base == 0 {
            self.b.trap(vector::DE.into(), 0u64);
            return;
        }
        let al = self.copy(Width::W8, RAX);
        let high = self.bin(BinOp::DivU, Width::W8, al, base);
        let low = self.bin(BinOp::RemU, Width::W8, al, base);
        self.b.deposit(RAX, RAX, low, 0, 8);
        self.b.deposit(RAX, RAX, high, 8, 8);
        self.cc_result(Kind::Logic, Width::W8, low);
    }

    /// AAD leaves the flags of its last addition, as processors do.
    fn aad(&mut self) {
        let base = self.i.imm & 0xff;
        let high = self.tmp();
        self.b.extract(high, RAX, 8, 8);
        let part = self.bin(BinOp::Mul, Width::W8, high, base);
        let al = self.bin(BinOp::Add, Width::W8, RAX, part);
        self.b.deposit(RAX, RAX, al, 0, 16);
        self.b.mov(Width::W8, CC_SRC, part);
        self.cc_result(Kind::Add, Width::W8, al);
    }

    /// CBW, CWDE, CDQE.
    fn convert(&mut self) {
        let size = self.i.opsize;
        let t = self.tmp();
        self.b.sext(width(size / 2), width(size), t, RAX);
        self.write_gpr(0, size, t);
    }

    fn exchange_add(&mut self) {
        let w = self.width(self.op(0));
        let b = self.read_copy(self.op(1));
        let (a, dest) = self.read_dest(self.op(0));
        let a = self.copy(w, a);
        let sum = self.bin(BinOp::Add, w, a, b);
        if let Dest::Mem(..) = dest {
            self.write_dest(dest, sum);
            self.write_reg(self.op(1), a);
        } else {
            self.write_reg(self.op(1), a);
            self.write_dest(dest, sum);
        }
        self.b.mov(w, CC_SRC, b);
        self.cc_result(Kind::Add, w, sum);
    }

    fn compare_exchange(&mut self) {
        let w = self.width(self.op(0));
        let new = self.read_copy(self.op(1));
        let (old, dest) = self.read_dest(self.op(0));
        let old = self.copy(w, old);
        let acc = self.copy(w, RAX);
        let equal = Cmp::new(Cond::Eq, w, acc, old);
        let value = self.tmp();
        self.b.select(w, value, equal, new, old);
        match dest {
            // Memory is written in any case.
            Dest::Mem(..) => self.write_dest(dest, value),
            Dest::Reg(_) if w == Width::W32 => {
                // A register that is not changed keeps its upper half.
                let differ = self.b.new_label();
                self.b.branch(equal.negate(), differ);
                self.write_dest(dest, new);
                self.b.label(differ);
            }
            Dest::Reg(_) => self.write_dest(dest, value),
        }
        let same = self.b.new_label();
        self.b.branch(equal, same);
        self.write_gpr(0, self.size(self.op(0)), old);
        self.b.label(same);
        self.b.mov(w, CC_DST, acc);
        self.b.mov(w, CC_SRC, old);
        self.cc(Kind::Sub, w);
    }

    /// CMPXCHG8B and CMPXCHG16B.
    fn compare_exchange_wide(&mut self) {
        let mem = ir::Mem::locked(self.mmu);
        let equal = self.tmp();
        if self.i.wide {
            let addr = self.ea(16, 0, Intent::Write);
            let at = self.tmp();
            self.b.lea(at, addr);
            self.gp_if(Cmp::new(Cond::TestNz, Width::W64, at, 15u64));
            let (low, high) = (self.tmp(), self.tmp());
            let upper = Addr { disp: 8, ..Addr::flat(at) };
            self.b.load(Width::W64, low, Addr::flat(at), mem);
            self.b.load(Width::W64, high, upper, mem);
            let x = self.bin(BinOp::Xor, Width::W64, low, RAX);
            let y = self.bin(BinOp::Xor, Width::W64, high, RDX);
            let differ = self.bin(BinOp::Or, Width::W64, x, y);
            self.b.set_if(Cond::Eq, Width::W64, equal, differ, 0u64);
            let same = Cmp::new(Cond::Ne, Width::W64, equal, 0u64);
            let (new_low, new_high) = (self.tmp(), self.tmp());
            self.b.select(Width::W64, new_low, same, RBX, low);
            self.b.select(Width::W64, new_high, same, RCX, high);
            self.b.store(Width::W64, new_low, Addr::flat(at), mem);
            self.b.store(Width::W64, new_high, upper, mem);
            self.b.select(Width::W64, RAX, same, RAX, low);
            self.b.select(Width::W64, RDX, same, RDX, high);
        } else {
            let addr = self.ea(8, 0, Intent::Write);
            let old = self.tmp();
            self.b.load(Width::W64, old, addr, mem);
            let acc = self.copy(Width::W32, RAX);
            self.b.deposit(acc, acc, RDX, 32, 32);
            let new = self.copy(Width::W32, RBX);
            self.b.deposit(new, new, RCX, 32, 32);
            self.b.set_if(Cond::Eq, Width::W64, equal, acc, old);
            let value = self.tmp();
            self.b.select(Width::W64, value, Cmp::new(Cond::Ne, Width::W64, equal, 0u64), new, old);
            self.b.store(Width::W64, value, addr, mem);
            let same = self.b.new_label();
            self.b.branch(Cmp::new(Cond::Ne, Width::W64, equal, 0u64), same);
            let high = self.tmp();
            self.b.extract(high, old, 32, 32);
            self.b.mov(Width::W32, RAX, old);
            self.b.mov(Width::W32, RDX, high);
            self.b.label(same);
        }
        let flags = self.flags();
        self.b.deposit(flags, flags, equal, 6, 1);
        self.cc_flags(flags);
    }

    /// ADCX and ADOX: an addition through one flag, the others untouched.
    fn add_one_flag(&mut self, which: u64) {
        let bit = which.trailing_zeros() as u8;
        let w = self.width(self.op(0));
        let b = self.read(self.op(1));
        let a = self.copy(w, gpr_of(self.op(0)));
        let b = self.copy(w, b);
        let flags = self.flags();
        let carry = self.tmp();
        self.b.extract(carry, flags, bit, 1);
        let t = self.bin(BinOp::Add, w, a, b);
        let first = self.tmp();
        self.b.set_if(Cond::LtU, w, first, t, a);
        let sum = self.bin(BinOp::Add, w, t, carry);
        let second = self.tmp();
        self.b.set_if(Cond::LtU, w, second, sum, t);
        let out = self.bin(BinOp::Or, Width::W64, first, second);
        self.write_reg(self.op(0), sum);
        self.b.deposit(flags, flags, out, bit, 1);
        self.cc_flags(flags);
    }
}

/// The register of an operand that is one.
fn gpr_of(op: Operand) -> Var {
    match op {
        Operand::Gpr(n, _) => gpr(n),
        _ => RAX,
    }
}
