//! Advanced SIMD and floating point: moves and logic in IR, the rest by a helper.

use super::*;
use crate::aarch64::fp;
use crate::ir::Op;

impl Lifter<'_> {
    pub(super) fn simd(&mut self, insn: Insn) -> Flow {
        if self.fp_trapped() {
            return Some(());
        }
        let w = self.w;
        let (rd, rn) = (VecVar(w.rd()), VecVar(w.rn()));
        match insn {
            Insn::SimdModImm => self.modified_immediate(),
            Insn::SimdCopy => self.copy(),
            Insn::ScalarCopy => {
                let (size, lane) = element(w.bits(16, 5))?;
                if w.bits(11, 4) != 0 {
                    return None;
                }
                let t = self.lane(size, rn, lane);
                self.scalar(Width::W64, rd, t.into());
                Some(())
            }
            Insn::FpImm => {
                let f = match w.bits(22, 2) {
                    0 => fp::SINGLE,
                    1 => fp::DOUBLE,
                    _ => return None,
                };
                self.b.push(Op::VConst { d: rd, value: f.immediate(w.bits(13, 8)).into() });
                Some(())
            }
            Insn::FpInt if w.bits(16, 3) >= 6 => self.move_general(),
            Insn::FpOne if w.bits(15, 6) < 3 => {
                let width = [Width::W32, Width::W64].get(w.bits(22, 2) as usize).copied()?;
                let x = self.lane(width, rn, 0);
                let sign = width.sign_bit();
                let x = match w.bits(15, 6) {
                    0 => x,
                    1 => self.bin(BinOp::AndNot, width, x, sign),
                    _ => self.bin(BinOp::Xor, width, x, sign),
                };
                self.scalar(width, rd, x.into());
                Some(())
            }
            Insn::FpCondSel => {
                let width = [Width::W32, Width::W64].get(w.bits(22, 2) as usize).copied()?;
                let (x, y) = (self.lane(width, rn, 0), self.lane(width, VecVar(w.rm()), 0));
                let mut value = x;
                if w.bits(12, 4) < 14 {
                    let cmp = self.condition(w.bits(12, 4));
                    value = self.tmp();
                    self.b.select(width, value, cmp, x, y);
                }
                self.scalar(width, rd, value.into());
                Some(())
            }
            Insn::SimdThreeSame if w.bits(11, 5) == 3 => {
                self.logic();
                Some(())
            }
            _ => {
                let args = [Val::Imm(w.0.into()), Val::Imm(insn as u64)];
                self.call(Helper::Simd, &args, Fx::FAULTS | Fx::READS | Fx::WRITES);
                Some(())
            }
        }
    }

    /// `d` = a value with zeros above it.
    fn scalar(&mut self, width: Width, d: VecVar, x: Val) {
        let t = self.b.vtmp();
        self.b.push(Op::VConst { d: t, value: 0 });
        self.b.vput(width, t, x, 0);
        self.b.vmov(d, t);
    }

    fn halves(&self) -> u8 {
        if self.w.bit(30) { 2 } else { 1 }
    }

    /// AND, BIC, ORR, ORN, EOR, BSL, BIT, BIF.
    fn logic(&mut self) {
        let w = self.w;
        let (d, n, m) = (VecVar(w.rd()), VecVar(w.rn()), VecVar(w.rm()));
        let kind = w.bits(29, 1) << 2 | w.bits(22, 2);
        if kind == 2 && n == m && w.bit(30) {
            return self.b.vmov(d, n);
        }
        let wide = Width::W64;
        let out = self.b.vtmp();
        self.b.push(Op::VConst { d: out, value: 0 });
        for i in 0..self.halves() {
            let (x, y) = (self.lane(wide, n, i), self.lane(wide, m, i));
            let r = match kind {
                0 => self.bin(BinOp::And, wide, x, y),
                1 => self.bin(BinOp::AndNot, wide, x, y),
                2 => self.bin(BinOp::Or, wide, x, y),
                3 => {
                    let y = self.not(wide, y.into());
                    self.bin(BinOp::Or, wide, x, y)
                }
                4 => self.bin(BinOp::Xor, wide, x, y),
                _ => {
                    // BSL chooses by the destination, BIT and BIF by the second source.
                    let z = self.lane(wide, d, i);
                    let (keep, mask) = if kind == 5 { (y, z) } else { (z, y) };
                    let change = self.bin(BinOp::Xor, wide, keep, x);
                    let op = if kind == 7 { BinOp::AndNot } else { BinOp::And };
                    let change = self.bin(op, wide, change, mask);
                    self.bin(BinOp::Xor, wide, keep, change)
                }
            };
            self.b.vput(wide, out, r, i);
        }
        self.b.vmov(d, out);
    }

    /// MOVI, MVNI, ORR, BIC, FMOV.
    fn modified_immediate(&mut self) -> Flow {
        let w = self.w;
        let imm = u64::from(w.bits(16, 3) << 5 | w.bits(5, 5));
        let (op, cmode, q) = (w.bit(29), w.bits(12, 4), w.bit(30));
        let twice = |x: u64| x << 32 | x;
        let four = |x: u64| twice(x << 16 | x);
        let value = match cmode {
            0..=7 => twice(imm << ((cmode >> 1) * 8)),
            8..=11 => four(imm << ((cmode >> 1 & 1) * 8)),
            12 => twice(imm << 8 | 0xff),
            13 => twice(imm << 16 | 0xffff),
            14 if op => (0..8).filter(|i| imm >> i & 1 != 0).fold(0, |v, i| v | 0xff << (i * 8)),
            14 => twice(imm * 0x0101_0101),
            _ if op && !q => return None,
            _ if op => fp::DOUBLE.immediate(imm as u32),
            _ => twice(fp::SINGLE.immediate(imm as u32)),
        };
        let d = VecVar(w.rd());
        if cmode < 12 && cmode & 1 != 0 {
            let wide = Width::W64;
            let out = self.b.vtmp();
            self.b.push(Op::VConst { d: out, value: 0 });
            for i in 0..self.halves() {
                let x = self.lane(wide, d, i);
                let r = self.bin(if op { BinOp::AndNot } else { BinOp::Or }, wide, x, value);
                self.b.vput(wide, out, r, i);
            }
            self.b.vmov(d, out);
            return Some(());
        }
        let value = u128::from(if op && cmode < 14 { !value } else { value });
        let value = if q { value << 64 | value } else { value };
        self.b.push(Op::VConst { d, value });
        Some(())
    }

    /// DUP, INS, SMOV, UMOV.
    fn copy(&mut self) -> Flow {
        let w = self.w;
        let (q, op, imm4) = (w.bit(30), w.bit(29), w.bits(11, 4));
        let (size, lane) = element(w.bits(16, 5))?;
        let (rd, rn) = (w.rd(), w.rn());
        let wide = size == Width::W64;
        if op {
            // INS from an element.
            if !q {
                return None;
            }
            let from = (imm4 >> size.bytes().trailing_zeros()) as u8;
            let t = self.lane(size, VecVar(rn), from);
            self.b.vput(size, VecVar(rd), t, lane);
            return Some(());
        }
        match imm4 {
            0 | 1 if wide && !q => return None,
            0 => {
                let t = self.lane(size, VecVar(rn), lane);
                self.duplicate(size, q, VecVar(rd), t.into());
            }
            1 => self.duplicate(size, q, VecVar(rd), Self::x(rn)),
            3 if q => self.b.vput(size, VecVar(rd), Self::x(rn), lane),
            5 => {
                let to = width(q);
                if size >= to {
                    return None;
                }
                let t = self.lane(size, VecVar(rn), lane);
                let d = self.to(rd);
                self.b.sext(size, to, d, t);
            }
            7 => {
                if wide != q {
                    return None;
                }
                let t = self.lane(size, VecVar(rn), lane);
                let d = self.to(rd);
                self.b.mov(Width::W64, d, t);
            }
            _ => return None,
        }
        Some(())
    }

    /// FMOV between general and vector registers.
    fn move_general(&mut self) -> Flow {
        let w = self.w;
        let to_vector = w.bits(16, 3) == 7;
        let (size, lane) = match (w.bit(31), w.bits(22, 2), w.bits(19, 2)) {
            (false, 0, 0) => (Width::W32, 0),
            (true, 1, 0) => (Width::W64, 0),
            (true, 2, 1) => (Width::W64, 1),
            _ => return None,
        };
        if to_vector {
            let (d, x) = (VecVar(w.rd()), Self::x(w.rn()));
            if lane == 1 {
                self.b.vput(size, d, x, 1);
            } else {
                self.scalar(size, d, x);
            }
        } else {
            let t = self.lane(size, VecVar(w.rn()), lane);
            let d = self.to(w.rd());
            self.b.mov(size, d, t);
        }
        Some(())
    }
}

/// The size and number of an element that `imm5` names.
const fn element(imm5: u32) -> Option<(Width, u8)> {
    let size = imm5.trailing_zeros();
    let width = match size {
        0 => Width::W8,
        1 => Width::W16,
        2 => Width::W32,
        3 => Width::W64,
        _ => return None,
    };
    Some((width, (imm5 >> (size + 1)) as u8))
}
