//! Data processing on general registers (DDI 0487, C4.1.2 and C4.1.5).

use super::*;
use crate::aarch64::insn::bit_masks;
use crate::aarch64::isa::pure;
use crate::ir::UnOp;

impl Lifter<'_> {
    pub(super) fn integer(&mut self, insn: Insn) -> Flow {
        let w = self.w;
        let sf = w.bit(31);
        let width = width(sf);
        let (rd, rn, rm) = (w.rd(), w.rn(), w.rm());
        match insn {
            Insn::Adr => {
                let imm = w.signed(5, 19) << 2 | i64::from(w.bits(29, 2));
                let at = if w.bit(31) {
                    (self.pc & !0xfff).wrapping_add((imm << 12) as u64)
                } else {
                    self.pc.wrapping_add(imm as u64)
                };
                let d = self.to(rd);
                self.b.konst(d, at);
            }
            Insn::AddSubImm => {
                let imm = u64::from(w.bits(10, 12)) << if w.bit(22) { 12 } else { 0 };
                self.add_sub(Val::Var(Var(rn)), Val::Imm(imm), true);
            }
            Insn::AddSubShifted => {
                let b = self.shifted(false)?;
                self.add_sub(Self::x(rn), b, false);
            }
            Insn::AddSubExt => {
                let shift = w.bits(10, 3);
                if shift > 4 {
                    return None;
                }
                let b = self.extended(w.bits(13, 3), shift);
                self.add_sub(Val::Var(Var(rn)), b, true);
            }
            Insn::AddSubCarry => {
                let (sub, flags) = (w.bit(30), w.bit(29));
                let mut b = Self::x(rm);
                if sub {
                    let t = self.tmp();
                    self.b.un(UnOp::Not, width, t, b);
                    b = t.into();
                }
                let d = self.to(rd);
                self.add_carry(width, flags, d, Self::x(rn), b);
            }
            Insn::LogicalImm => {
                let n = w.bits(22, 1);
                if !sf && n != 0 {
                    return None;
                }
                let (mask, _) = bit_masks(n, w.bits(10, 6), w.bits(16, 6), true)?;
                self.logical(Val::Imm(mask & width.mask()), true);
            }
            Insn::LogicalShifted => {
                let mut b = self.shifted(true)?;
                if w.bit(21) {
                    let t = self.tmp();
                    self.b.un(UnOp::Not, width, t, b);
                    b = t.into();
                }
                self.logical(b, false);
            }
            Insn::MoveWide => {
                let shift = w.bits(21, 2) as u8 * 16;
                if !sf && shift > 16 {
                    return None;
                }
                let imm = u64::from(w.bits(5, 16));
                let d = self.to(rd);
                match w.bits(29, 2) {
                    0 => self.b.konst(d, !(imm << shift) & width.mask()),
                    2 => self.b.konst(d, imm << shift),
                    3 => {
                        let t = self.tmp();
                        self.b.deposit(t, Self::x(rd), imm, shift, 16);
                        self.b.mov(width, d, t);
                    }
                    _ => return None,
                }
            }
            Insn::Bitfield => self.bitfield(width)?,
            Insn::Extract => {
                let lsb = w.bits(10, 6);
                if w.bit(22) != sf || lsb >= width.bits() {
                    return None;
                }
                let d = self.to(rd);
                if lsb == 0 {
                    self.b.mov(width, d, Self::x(rm));
                } else {
                    let low = self.bin(BinOp::Shr, width, Self::x(rm), u64::from(lsb));
                    let up = u64::from(width.bits() - lsb);
                    let high = self.bin(BinOp::Shl, width, Self::x(rn), up);
                    self.b.or(width, d, low, high);
                }
            }
            Insn::CondCmpReg | Insn::CondCmpImm => {
                let b = match insn {
                    Insn::CondCmpReg => Self::x(rm),
                    _ => Val::Imm(rm.into()),
                };
                let cond = w.bits(12, 4);
                let sub = w.bit(30);
                let done = self.b.new_label();
                let scratch = self.tmp();
                if cond < 14 {
                    let cmp = self.condition(cond);
                    let holds = self.b.new_label();
                    self.b.branch(cmp, holds);
                    self.set_flags(w.bits(0, 4));
                    self.b.jump(done);
                    self.b.label(holds);
                }
                self.add_sub_flags(width, sub, scratch, Self::x(rn), b);
                if cond < 14 {
                    self.b.label(done);
                }
            }
            Insn::CondSel => {
                let cond = w.bits(12, 4);
                let (x, y) = (Self::x(rn), Self::x(rm));
                let d = self.to(rd);
                if cond >= 14 {
                    self.b.mov(width, d, x);
                    return Some(());
                }
                let cmp = self.condition(cond);
                let other = match (w.bit(30), w.bit(10)) {
                    (false, false) => y,
                    (false, true) => self.bin(BinOp::Add, width, y, 1u64).into(),
                    (true, negate) => {
                        let t = self.tmp();
                        self.b.un(if negate { UnOp::Neg } else { UnOp::Not }, width, t, y);
                        t.into()
                    }
                };
                self.b.select(width, d, cmp, x, other);
            }
            Insn::DivReg => {
                let op = if w.bit(10) { BinOp::DivS } else { BinOp::DivU };
                let d = self.to(rd);
                self.b.bin(op, width, d, Self::x(rn), Self::x(rm));
            }
            Insn::ShiftReg => {
                let op = [BinOp::Shl, BinOp::Shr, BinOp::Sar, BinOp::Ror][w.bits(10, 2) as usize];
                let count = self.bin(BinOp::And, width, Self::x(rm), u64::from(width.bits() - 1));
                let d = self.to(rd);
                self.b.bin(op, width, d, Self::x(rn), count);
            }
            Insn::Crc32 => {
                let size = w.bits(10, 2);
                if !self.features.crc32 || sf != (size == 3) {
                    return None;
                }
                let d = self.to(rd);
                let kind = size | w.bits(12, 1) << 2;
                self.b.pure(pure::CRC32, d, &[Self::x(rn), Self::x(rm), Val::Imm(kind.into())]);
            }
            Insn::Unary => self.unary(width)?,
            Insn::MulAdd => {
                let product = self.bin(BinOp::Mul, width, Self::x(rn), Self::x(rm));
                let op = if w.bit(15) { BinOp::Sub } else { BinOp::Add };
                let d = self.to(rd);
                self.b.bin(op, width, d, Self::x(w.ra()), product);
            }
            Insn::MulAddLong => {
                let (a, b) = (self.tmp(), self.tmp());
                for (t, r) in [(a, rn), (b, rm)] {
                    if w.bit(23) {
                        self.b.mov(Width::W32, t, Self::x(r));
                    } else {
                        self.b.sext(Width::W32, Width::W64, t, Self::x(r));
                    }
                }
                let product = self.bin(BinOp::Mul, Width::W64, a, b);
                let op = if w.bit(15) { BinOp::Sub } else { BinOp::Add };
                let d = self.to(rd);
                self.b.bin(op, Width::W64, d, Self::x(w.ra()), product);
            }
            _ => {
                // MulHigh.
                let op = if w.bit(23) { BinOp::MulHiU } else { BinOp::MulHiS };
                let d = self.to(rd);
                self.b.bin(op, Width::W64, d, Self::x(rn), Self::x(rm));
            }
        }
        Some(())
    }

    /// ADD, ADDS, SUB or SUBS. `sp`: register 31 is the stack pointer where no flags are set.
    fn add_sub(&mut self, a: Val, b: Val, sp: bool) {
        let (sub, flags) = (self.w.bit(30), self.w.bit(29));
        let width = width(self.w.bit(31));
        let rd = self.w.rd();
        let d = if sp && !flags { Var(rd) } else { self.to(rd) };
        if flags {
            self.add_sub_flags(width, sub, d, a, b);
        } else {
            let op = if sub { BinOp::Sub } else { BinOp::Add };
            self.b.bin(op, width, d, a, b);
        }
    }

    /// AND, ORR, EOR or ANDS.
    fn logical(&mut self, b: Val, immediate: bool) {
        let opc = self.w.bits(29, 2);
        let width = width(self.w.bit(31));
        let rd = self.w.rd();
        let a = Self::x(self.w.rn());
        let op = [BinOp::And, BinOp::Or, BinOp::Xor, BinOp::And][opc as usize];
        if opc == 3 {
            let r = self.bin(op, width, a, b);
            self.logic_flags(width, r);
            let d = self.to(rd);
            self.b.mov(width, d, r);
        } else {
            let d = if immediate { Var(rd) } else { self.to(rd) };
            self.b.bin(op, width, d, a, b);
        }
    }

    /// The shifted second operand.
    fn shifted(&mut self, ror: bool) -> Option<Val> {
        let w = self.w;
        let width = width(w.bit(31));
        let (kind, amount) = (w.bits(22, 2), w.bits(10, 6));
        if kind == 3 && !ror || amount >= width.bits() {
            return None;
        }
        let x = Self::x(w.rm());
        if amount == 0 {
            return Some(x);
        }
        let op = [BinOp::Shl, BinOp::Shr, BinOp::Sar, BinOp::Ror][kind as usize];
        Some(self.bin(op, width, x, u64::from(amount)).into())
    }

    /// Rm extended and shifted.
    pub(super) fn extended(&mut self, option: u32, shift: u32) -> Val {
        let x = Self::x(self.w.rm());
        let from = Width::from_bytes(1 << (option & 3)).unwrap_or(Width::W64);
        let t = self.tmp();
        if option & 4 != 0 && from != Width::W64 {
            self.b.sext(from, Width::W64, t, x);
        } else {
            self.b.mov(from, t, x);
        }
        if shift != 0 {
            self.b.shl(Width::W64, t, t, u64::from(shift));
        }
        t.into()
    }

    fn bitfield(&mut self, width: Width) -> Flow {
        let w = self.w;
        let (r, s) = (w.bits(16, 6), w.bits(10, 6));
        let bits = width.bits();
        if w.bit(22) != (bits == 64) || r >= bits || s >= bits {
            return None;
        }
        let opc = w.bits(29, 2);
        let (rd, x) = (w.rd(), Self::x(w.rn()));
        let d = self.to(rd);
        // The field's length, and where it goes.
        let (len, from, to) = if s >= r { (s - r + 1, r, 0) } else { (s + 1, 0, bits - r) };
        let field = self.tmp();
        self.b.extract(field, x, from as u8, len as u8);
        match opc {
            // SBFM.
            0 => {
                let up = self.bin(BinOp::Shl, width, field, u64::from(bits - len));
                let down = bits - len - to;
                self.b.sar(width, d, up, u64::from(down));
            }
            // BFM.
            1 => {
                let t = self.tmp();
                self.b.deposit(t, Self::x(rd), field, to as u8, len as u8);
                self.b.mov(width, d, t);
            }
            // UBFM.
            2 => self.b.shl(width, d, field, u64::from(to)),
            _ => return None,
        }
        Some(())
    }

    fn unary(&mut self, width: Width) -> Flow {
        let x = Self::x(self.w.rn());
        let d = self.to(self.w.rd());
        match (self.w.bits(10, 3), width) {
            (0, _) => self.b.pure(pure::RBIT, d, &[x, Val::Imm(width.bits().into())]),
            (1, _) => self.b.pure(pure::REV16, d, &[x, Val::Imm(width.mask())]),
            (2, Width::W64) => self.b.pure(pure::REV32, d, &[x]),
            (2, _) | (3, Width::W64) => self.b.un(UnOp::Bswap, width, d, x),
            (4, _) => self.b.un(UnOp::Clz, width, d, x),
            (5, _) => {
                // CLS: leading zeros of the value with each bit against the one above it.
                let up = self.bin(BinOp::Sar, width, x, u64::from(width.bits() - 1));
                let t = self.bin(BinOp::Xor, width, x, up);
                let count = self.tmp();
                self.b.un(UnOp::Clz, width, count, t);
                self.b.sub(width, d, count, 1u64);
            }
            _ => return None,
        }
        Some(())
    }
}
