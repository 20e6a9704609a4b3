//! Bit tests, scans and counts, byte swaps, CRC32, BMI1 and BMI2.

use super::flag::CC_SRC;
use super::*;
use crate::ir::UnOp;
use crate::x86::flags::Kind;
use crate::x86::state::flag;

impl Lifter<'_> {
    pub(super) fn bits(&mut self) -> Flow {
        match self.i.id {
            Id::BT | Id::BTS | Id::BTR | Id::BTC => self.bit_test(),
            Id::BSF | Id::BSR => self.scan(),
            Id::LZCNT => self.count_zeros(UnOp::Clz),
            Id::TZCNT => self.count_zeros(UnOp::Ctz),
            Id::POPCNT => self.popcnt(),
            Id::BSWAP => self.bswap(),
            Id::CRC32 => self.crc32(),
            Id::ANDN => {
                let w = self.width(self.op(0));
                let b = self.read(self.op(2));
                let a = self.read(self.op(1));
                let t = self.bin(BinOp::AndNot, w, b, a);
                self.write_reg(self.op(0), t);
                self.cc_result(Kind::Logic, w, t);
            }
            Id::BEXTR => self.bextr(),
            Id::BLSI | Id::BLSMSK | Id::BLSR => self.lowest_bit(),
            Id::BZHI => self.bzhi(),
            id => {
                let w = self.width(self.op(0));
                let mask = self.read_copy(self.op(2));
                let a = self.read(self.op(1));
                let a = self.copy(w, a);
                let t = self.tmp();
                let f = if id == Id::PDEP { pure::PDEP } else { pure::PEXT };
                self.b.pure(f, t, &[a.into(), mask.into()]);
                self.write_reg(self.op(0), t);
            }
        }
        self.done()
    }

    /// BT, BTS, BTR, BTC. A bit number in a register reaches beyond the operand in memory.
    fn bit_test(&mut self) {
        let op = self.op(0);
        let size = self.size(op);
        let w = width(size);
        let low = u64::from(w.bits() - 1);
        let number = match self.op(1) {
            Operand::Imm(_) => Val::Imm(self.i.imm & low),
            reg => self.read(reg),
        };
        let changes = self.i.id != Id::BT;
        let (a, dest) = match (op, number) {
            (Operand::Mem(_), Val::Var(n)) => {
                let far = self.tmp();
                self.b.sext(w, Width::W64, far, n);
                let far = self.bin(BinOp::Sar, Width::W64, far, u64::from(low.count_ones()));
                let far = self.bin(BinOp::Shl, Width::W64, far, u64::from(size.trailing_zeros()));
                let mem = self.i.mem;
                let start = self.tmp();
                let offset = self.offset(&mem, 0);
                self.b.lea(start, offset);
                let offset =
                    Addr { base: Some(start), index: Some(far), scale: 0, disp: 0, ..offset };
                let intent = if changes { Intent::Write } else { Intent::Read };
                let addr = self.in_segment(mem.seg, offset, size, intent);
                let access = match (changes, self.i.lock) {
                    (false, _) => ir::Mem::plain(self.mmu),
                    (true, false) => ir::Mem::rmw(self.mmu),
                    (true, true) => ir::Mem::locked(self.mmu),
                };
                let t = self.tmp();
                self.b.load(w, t, addr, access);
                (Val::Var(t), Dest::Mem(addr, w, access))
            }
            _ if changes => self.read_dest(op),
            _ => (self.read(op), Dest::Reg(op)),
        };
        let n = self.bin(BinOp::And, Width::W64, number, low);
        let t = self.bin(BinOp::Shr, w, a, n);
        let carry = self.bin(BinOp::And, Width::W64, t, 1u64);
        if changes {
            let bit = self.bin(BinOp::Shl, w, 1u64, n);
            let change = match self.i.id {
                Id::BTS => BinOp::Or,
                Id::BTR => BinOp::AndNot,
                _ => BinOp::Xor,
            };
            let result = self.bin(change, w, a, bit);
            self.write_dest(dest, result);
        }
        self.cc_carry(carry, None);
    }

    /// BSF and BSR: of 0 they leave the destination alone.
    fn scan(&mut self) {
        let op = self.op(0);
        let w = self.width(op);
        let a = self.read_copy(self.op(1));
        let t = self.tmp();
        if self.i.id == Id::BSF {
            self.b.un(UnOp::Ctz, w, t, a);
        } else {
            let zeros = self.tmp();
            self.b.un(UnOp::Clz, w, zeros, a);
            self.b.sub(w, t, u64::from(w.bits() - 1), zeros);
        }
        let none = self.b.new_label();
        self.b.branch(Cmp::new(Cond::Eq, w, a, 0u64), none);
        self.write_reg(op, t);
        self.b.label(none);
        self.cc_result(Kind::Logic, w, a);
    }

    fn count_zeros(&mut self, op: UnOp) {
        let w = self.width(self.op(0));
        let a = self.read_copy(self.op(1));
        let t = self.tmp();
        self.b.un(op, w, t, a);
        self.write_reg(self.op(0), t);
        let carry = self.tmp();
        self.b.set_if(Cond::Eq, w, carry, a, 0u64);
        self.b.mov(Width::W64, CC_SRC, carry);
        self.cc_result(Kind::Carry, w, t);
    }

    fn popcnt(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read_copy(self.op(1));
        let t = self.tmp();
        self.b.un(UnOp::Popcnt, w, t, a);
        self.write_reg(self.op(0), t);
        let flags = self.tmp();
        self.b.select(Width::W64, flags, Cmp::new(Cond::Eq, w, a, 0u64), flag::ZF, 0u64);
        self.cc_flags(flags);
    }

    fn bswap(&mut self) {
        let op = self.op(0);
        let w = self.width(op);
        let a = self.read(op);
        let t = self.tmp();
        if w == Width::W16 {
            // Undefined; processors give 0.
            self.b.konst(t, 0);
        } else {
            self.b.un(UnOp::Bswap, w, t, a);
        }
        self.write_reg(op, t);
    }

    fn crc32(&mut self) {
        let data = self.read_copy(self.op(1));
        let crc = self.read(self.op(0));
        let bytes = u64::from(self.size(self.op(1)));
        let t = self.tmp();
        self.b.pure(pure::CRC32, t, &[crc, data.into(), bytes.into()]);
        self.write_reg(self.op(0), t);
    }

    fn bextr(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read_copy(self.op(1));
        let control = self.read(self.op(2));
        let start = self.bin(BinOp::And, Width::W64, control, 0xffu64);
        let len = self.tmp();
        self.b.extract(len, control, 8, 8);
        let t = self.bin(BinOp::Shr, w, a, start);
        let ones = self.bin(BinOp::Shl, Width::W64, u64::MAX, len);
        let t = self.bin(BinOp::AndNot, w, t, ones);
        self.write_reg(self.op(0), t);
        self.cc_result(Kind::Logic, w, t);
    }

    fn lowest_bit(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read_copy(self.op(1));
        let (op, with, zero_carries) = match self.i.id {
            Id::BLSI => (BinOp::And, self.bin(BinOp::Sub, w, 0u64, a), false),
            Id::BLSMSK => (BinOp::Xor, self.bin(BinOp::Sub, w, a, 1u64), true),
            _ => (BinOp::And, self.bin(BinOp::Sub, w, a, 1u64), true),
        };
        let t = self.bin(op, w, a, with);
        self.write_reg(self.op(0), t);
        let carry = self.tmp();
        self.b.set_if(if zero_carries { Cond::Eq } else { Cond::Ne }, w, carry, a, 0u64);
        self.b.mov(Width::W64, CC_SRC, carry);
        self.cc_result(Kind::Carry, w, t);
    }

    fn bzhi(&mut self) {
        let w = self.width(self.op(0));
        let a = self.read_copy(self.op(1));
        let n = self.read(self.op(2));
        let n = self.bin(BinOp::And, Width::W64, n, 0xffu64);
        let ones = self.bin(BinOp::Shl, Width::W64, u64::MAX, n);
        let t = self.bin(BinOp::AndNot, w, a, ones);
        self.write_reg(self.op(0), t);
        let carry = self.tmp();
        self.b.set_if(Cond::GtU, Width::W64, carry, n, u64::from(w.bits() - 1));
        self.b.mov(Width::W64, CC_SRC, carry);
        self.cc_result(Kind::Carry, w, t);
    }
}
