//! Vector operations that have a name ([`VecKind`]) as instructions of the host.

use wasm_encoder::ValType;

use super::func::Func;
use crate::frame::VecVar;
use crate::ir::{VecKind, Width};
use Width::{W8, W16, W32, W64};

macro_rules! lanes {
    ($self:ident, $w:expr, $($width:ident => $op:ident),*) => {
        $(if $w == $width { $self.i().$op(); } else)* { return false; }
    };
}

impl Func<'_> {
    /// Leaves the result on the stack; if not, nothing was written.
    pub(super) fn known(&mut self, kind: VecKind, a: VecVar, b: VecVar, imm: u8) -> bool {
        let start = self.code.len();
        let done = self.simd(kind, a, b, imm);
        if !done {
            self.code.truncate(start);
        }
        done
    }

    fn both(&mut self, a: VecVar, b: VecVar) {
        let (a, b) = (self.vec(a), self.vec(b));
        self.i().local_get(a).local_get(b);
    }

    fn one(&mut self, v: VecVar) {
        let v = self.vec(v);
        self.i().local_get(v);
    }

    /// Bytes of `a` (0 to 15) and `b` (16 to 31).
    fn pick(&mut self, a: VecVar, b: VecVar, byte: impl Fn(u8) -> u8) {
        self.both(a, b);
        self.i().i8x16_shuffle(std::array::from_fn(|i| byte(i as u8)));
    }

    fn simd(&mut self, kind: VecKind, a: VecVar, b: VecVar, imm: u8) -> bool {
        use VecKind as K;
        let two = |i: u8| imm >> (2 * i) & 3;
        match kind {
            K::Move => self.one(b),
            K::MoveLow(w) => {
                let n = w.bytes() as u8;
                self.pick(a, b, |i| if i < n { i + 16 } else { i });
            }
            K::Low(w) => {
                self.one(b);
                self.i().v128_const(i128::from(w.mask())).v128_and();
            }
            K::HighToLow => self.pick(a, b, |i| if i < 8 { i + 24 } else { i }),
            K::And | K::Or | K::Xor => {
                self.both(a, b);
                match kind {
                    K::And => self.i().v128_and(),
                    K::Or => self.i().v128_or(),
                    _ => self.i().v128_xor(),
                };
            }
            K::AndNot => {
                self.both(b, a);
                self.i().v128_andnot();
            }
            K::Add(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_add, W16 => i16x8_add, W32 => i32x4_add, W64 => i64x2_add);
            }
            K::Sub(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_sub, W16 => i16x8_sub, W32 => i32x4_sub, W64 => i64x2_sub);
            }
            K::AddSatS(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_add_sat_s, W16 => i16x8_add_sat_s);
            }
            K::AddSatU(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_add_sat_u, W16 => i16x8_add_sat_u);
            }
            K::SubSatS(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_sub_sat_s, W16 => i16x8_sub_sat_s);
            }
            K::SubSatU(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_sub_sat_u, W16 => i16x8_sub_sat_u);
            }
            K::Mul(w) => {
                self.both(a, b);
                lanes!(self, w, W16 => i16x8_mul, W32 => i32x4_mul, W64 => i64x2_mul);
            }
            K::MulHighS | K::MulHighU => {
                let (x, y) = (self.vec(a), self.vec(b));
                let mut i = self.i();
                i.local_get(x).local_get(y);
                if kind == K::MulHighS {
                    i.i32x4_extmul_low_i16x8_s().local_get(x).local_get(y);
                    i.i32x4_extmul_high_i16x8_s();
                } else {
                    i.i32x4_extmul_low_i16x8_u().local_get(x).local_get(y);
                    i.i32x4_extmul_high_i16x8_u();
                }
                // The upper half of each product.
                i.i8x16_shuffle(std::array::from_fn(|i| (i / 2 * 4 + 2 + i % 2) as u8));
            }
            K::MulWideU => {
                let (x, y) = (self.vec(a), self.vec(b));
                let low = 0xffff_ffff_0000_0000_ffff_ffff;
                self.i().local_get(x).v128_const(low).v128_and();
                self.i().local_get(y).v128_const(low).v128_and().i64x2_mul();
            }
            K::MulAdd => {
                self.both(a, b);
                self.i().i32x4_dot_i16x8_s();
            }
            K::Average(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_avgr_u, W16 => i16x8_avgr_u);
            }
            K::Equal(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_eq, W16 => i16x8_eq, W32 => i32x4_eq, W64 => i64x2_eq);
            }
            K::GreaterS(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_gt_s, W16 => i16x8_gt_s, W32 => i32x4_gt_s, W64 => i64x2_gt_s);
            }
            K::MinU(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_min_u, W16 => i16x8_min_u, W32 => i32x4_min_u);
            }
            K::MinS(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_min_s, W16 => i16x8_min_s, W32 => i32x4_min_s);
            }
            K::MaxU(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_max_u, W16 => i16x8_max_u, W32 => i32x4_max_u);
            }
            K::MaxS(w) => {
                self.both(a, b);
                lanes!(self, w, W8 => i8x16_max_s, W16 => i16x8_max_s, W32 => i32x4_max_s);
            }
            K::ShlImm(w) | K::ShrImm(w) if u32::from(imm) >= w.bits() => {
                self.i().v128_const(0);
            }
            K::ShlImm(w) => {
                self.one(a);
                self.i().i32_const(imm.into());
                lanes!(self, w, W8 => i8x16_shl, W16 => i16x8_shl, W32 => i32x4_shl, W64 => i64x2_shl);
            }
            K::ShrImm(w) => {
                self.one(a);
                self.i().i32_const(imm.into());
                lanes!(self, w, W8 => i8x16_shr_u, W16 => i16x8_shr_u, W32 => i32x4_shr_u, W64 => i64x2_shr_u);
            }
            K::SarImm(w) => {
                self.one(a);
                self.i().i32_const(u32::from(imm).min(w.bits() - 1) as i32);
                lanes!(self, w, W8 => i8x16_shr_s, W16 => i16x8_shr_s, W32 => i32x4_shr_s, W64 => i64x2_shr_s);
            }
            K::ShlBytes | K::ShrBytes => {
                let (v, n) = (self.vec(a), imm.min(16));
                self.i().local_get(v).v128_const(0).i8x16_shuffle(std::array::from_fn(|i| {
                    let i = i as u8;
                    match kind {
                        K::ShlBytes => {
                            if i < n {
                                16
                            } else {
                                i - n
                            }
                        }
                        _ => {
                            if i + n < 16 {
                                i + n
                            } else {
                                16
                            }
                        }
                    }
                }));
            }
            K::UnpackLow(w) | K::UnpackHigh(w) => {
                let n = w.bytes() as u8;
                let base = if matches!(kind, K::UnpackHigh(_)) { 8 } else { 0 };
                self.pick(a, b, |i| {
                    let lane = i / n;
                    base + lane / 2 * n + i % n + lane % 2 * 16
                });
            }
            K::Shuffle => self.pick(b, b, |i| two(i / 4) * 4 + i % 4),
            K::ShuffleLow => {
                self.pick(b, b, |i| if i < 8 { two(i / 2) * 2 + i % 2 } else { i });
            }
            K::ShuffleHigh => {
                self.pick(b, b, |i| if i < 8 { i } else { 8 + two(i / 2 - 4) * 2 + i % 2 });
            }
            K::ShuffleTwo => {
                self.pick(a, b, |i| two(i / 4) * 4 + i % 4 + if i < 8 { 0 } else { 16 });
            }
            K::ShuffleTwo64 => self.pick(a, b, |i| match i {
                0..8 => (imm & 1) * 8 + i,
                _ => 16 + (imm >> 1 & 1) * 8 + i - 8,
            }),
            K::ShuffleBytes => {
                let y = self.vec(b);
                self.one(a);
                // Bits 4 to 6 do not count; what is above 15 gives 0.
                self.i().local_get(y).v128_const(i128::from_le_bytes([0x8f; 16])).v128_and();
                self.i().i8x16_swizzle();
            }
            K::PackS(w) => {
                self.both(a, b);
                lanes!(self, w, W16 => i8x16_narrow_i16x8_s, W32 => i16x8_narrow_i32x4_s);
            }
            K::PackU(w) => {
                self.both(a, b);
                lanes!(self, w, W16 => i8x16_narrow_i16x8_u, W32 => i16x8_narrow_i32x4_u);
            }
            K::SignBits(w) => {
                let bits = self.scratch(0, ValType::I32);
                self.one(b);
                lanes!(self, w, W8 => i8x16_bitmask, W16 => i16x8_bitmask, W32 => i32x4_bitmask, W64 => i64x2_bitmask);
                self.i().local_set(bits).v128_const(0).local_get(bits).i32x4_replace_lane(0);
            }
        }
        true
    }
}
