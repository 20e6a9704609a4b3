//! Vector operations by the host's, where they have a name; by the shim elsewhere.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8X16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, Type, Value};

use super::{Emit, int, own};
use crate::ir::{VecKind, VecVar, Width};
use crate::jit::abi::vec_offset;

fn lanes(w: Width) -> Type {
    match w {
        Width::W8 => I8X16,
        Width::W16 => I16X8,
        Width::W32 => I32X4,
        Width::W64 => I64X2,
    }
}

impl Emit<'_, '_> {
    fn vec(&mut self, t: Type, v: VecVar) -> Value {
        self.b.ins().load(t, own(), self.frame, vec_offset(v.0) as i32)
    }

    /// Bytes of `a` (0 to 15) and `b` (16 to 31).
    fn shuffle(&mut self, a: Value, b: Value, bytes: impl Fn(u8) -> u8) -> Value {
        let mask: Vec<u8> = (0..16).map(bytes).collect();
        let mask = self.b.func.dfg.immediates.push(mask.into());
        self.b.ins().shuffle(a, b, mask)
    }

    /// Does the operation if it is one of those known here.
    pub(super) fn vector(
        &mut self,
        kind: VecKind,
        d: VecVar,
        a: VecVar,
        b: VecVar,
        imm: u8,
    ) -> bool {
        let r = match kind {
            VecKind::Move => self.vec(I8X16, b),
            VecKind::MoveLow(w) => {
                let low = self.vec(int(w), b);
                let rest = self.vec(I8X16, a);
                self.b.ins().store(own(), rest, self.frame, vec_offset(d.0) as i32);
                low
            }
            VecKind::Low(w) => {
                let low = self.vec(int(w), b);
                let low = self.wide(low);
                let zero = self.b.ins().iconst(I64, 0);
                self.b.ins().store(own(), zero, self.frame, vec_offset(d.0) as i32 + 8);
                low
            }
            VecKind::And | VecKind::AndNot | VecKind::Or | VecKind::Xor => {
                let (x, y) = (self.vec(I64X2, a), self.vec(I64X2, b));
                match kind {
                    VecKind::And => self.b.ins().band(x, y),
                    VecKind::AndNot => self.b.ins().band_not(y, x),
                    VecKind::Or => self.b.ins().bor(x, y),
                    _ => self.b.ins().bxor(x, y),
                }
            }
            VecKind::Add(w) | VecKind::Sub(w) | VecKind::Equal(w) | VecKind::GreaterS(w) => {
                let (x, y) = (self.vec(lanes(w), a), self.vec(lanes(w), b));
                match kind {
                    VecKind::Add(_) => self.b.ins().iadd(x, y),
                    VecKind::Sub(_) => self.b.ins().isub(x, y),
                    VecKind::Equal(_) => self.b.ins().icmp(IntCC::Equal, x, y),
                    _ => self.b.ins().icmp(IntCC::SignedGreaterThan, x, y),
                }
            }
            VecKind::MinU(w @ (Width::W8 | Width::W16))
            | VecKind::MaxU(w @ (Width::W8 | Width::W16))
            | VecKind::MinS(w @ (Width::W8 | Width::W16))
            | VecKind::MaxS(w @ (Width::W8 | Width::W16)) => {
                let (x, y) = (self.vec(lanes(w), a), self.vec(lanes(w), b));
                match kind {
                    VecKind::MinU(_) => self.b.ins().umin(x, y),
                    VecKind::MaxU(_) => self.b.ins().umax(x, y),
                    VecKind::MinS(_) => self.b.ins().smin(x, y),
                    _ => self.b.ins().smax(x, y),
                }
            }
            VecKind::ShlImm(w @ (Width::W16 | Width::W32 | Width::W64))
            | VecKind::ShrImm(w @ (Width::W16 | Width::W32 | Width::W64))
                if u32::from(imm) < w.bits() =>
            {
                let x = self.vec(lanes(w), a);
                let n = self.b.ins().iconst(I32, i64::from(imm));
                match kind {
                    VecKind::ShlImm(_) => self.b.ins().ishl(x, n),
                    _ => self.b.ins().ushr(x, n),
                }
            }
            VecKind::UnpackLow(w) | VecKind::UnpackHigh(w) => {
                let (x, y) = (self.vec(I8X16, a), self.vec(I8X16, b));
                let n = w.bytes() as u8;
                let first = if matches!(kind, VecKind::UnpackHigh(_)) { 8 } else { 0 };
                self.shuffle(x, y, |i| {
                    let (lane, byte) = (i / n, i % n);
                    first + lane / 2 * n + byte + lane % 2 * 16
                })
            }
            VecKind::Shuffle => {
                let y = self.vec(I8X16, b);
                self.shuffle(y, y, |i| (imm >> (i / 4 * 2) & 3) * 4 + i % 4)
            }
            VecKind::ShuffleTwo => {
                let (x, y) = (self.vec(I8X16, a), self.vec(I8X16, b));
                self.shuffle(x, y, |i| {
                    (imm >> (i / 4 * 2) & 3) * 4 + i % 4 + if i < 8 { 0 } else { 16 }
                })
            }
            VecKind::ShuffleTwo64 => {
                let (x, y) = (self.vec(I8X16, a), self.vec(I8X16, b));
                self.shuffle(x, y, |i| {
                    (imm >> (i / 8) & 1) * 8 + i % 8 + if i < 8 { 0 } else { 16 }
                })
            }
            VecKind::HighToLow => {
                let (x, y) = (self.vec(I8X16, a), self.vec(I8X16, b));
                self.shuffle(x, y, |i| if i < 8 { 24 + i } else { i })
            }
            _ => return false,
        };
        self.b.ins().store(own(), r, self.frame, vec_offset(d.0) as i32);
        true
    }
}
