//! Floating-point operations that engines may do on the host: [`FloatOp`].
//!
//! An [`Op::Float`](super::Op::Float) or [`Op::FloatInt`](super::Op::FloatInt) *is* a helper call:
//! `helper(f, [kind, d, a, b, imm])`, which is always right: it reads vector variables `a` and `b`
//! in the frame, writes vector variable `d` there and answers the integer result, keeps the guest's
//! floating-point status, and may trap. It touches no other variable but the one of
//! [`Isa::FLOAT_GUARD`](crate::isa::Isa::FLOAT_GUARD), which nothing but helpers ever writes: an
//! engine reads it from the frame each time.
//!
//! An engine may instead compute the result itself wherever all of this holds; then nothing but the
//! destination changes, because every status flag the operation would raise is raised already:
//!
//! 1. Where [`FloatOp::guarded`]: `frame[var] & mask == value` for the triple
//!    `FLOAT_GUARD`. It says: round to nearest even, *inexact* is raised already and masked. Or that
//!    but for the bits of [`Isa::FLOAT_INEXACT`](crate::isa::Isa::FLOAT_INEXACT), which say that it is
//!    raised, if the result is known to be [`exact`].
//! 2. Every lane taken part in passes the checks of the table, which keep NaNs, infinities and
//!    denormals out, and results near them. *Plain* is zero or normal: with `u` the bits shifted left by
//!    one, `u - 1 >= 2^(p) - 1` unsigned (`p` = 53 or 24, bits of the significand with
//!    the hidden one) and `u < 2 * INFINITY`. *Inside* is finite and above the smallest normal value in
//!    magnitude: `2 * MIN < u < 2 * INFINITY`.
//!
//! | operation | operands | result |
//! |---|---|---|
//! | `Add`, `Sub` | plain | inside, or zero |
//! | `Mul` | plain | inside, or `a` or `b` is zero |
//! | `Div` | plain | inside, or `a` is zero and the result is zero |
//! | `Sqrt` (of `b`) | plain, and not negative unless zero | |
//! | `Min`: `a < b ? a : b`; `Max`: `a > b ? a : b` | plain | |
//! | `Compare`, `Order` | plain | |
//! | `FromInt`, `FromInts` | any | |
//! | `ToInt` | plain | the value, truncated or rounded to even, fits the signed integer |
//! | `Convert` to the wider format | plain | |
//! | `Convert` to the narrower format | plain | inside, or `b` is zero |
//!
//! A check of the operands may be left out where the result's says as much: `Add`, `Sub`, `Mul` of
//! a NaN or infinity is not inside; denormals must be looked for. Lanes that do not take part
//! (all but lane 0 of the scalar shapes) are those of `a`.
//! [`host`] is the operation with its checks, for engines that have no better form, and the
//! definition for those that do.

use super::Width;
use Shape::{D1, D2, S1, S4};

/// Format and lanes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One binary32 value, in lane 0.
    S1,
    /// One binary64 value, in lane 0.
    D1,
    /// Four binary32 values.
    S4,
    /// Two binary64 values.
    D2,
}

/// Arithmetic of two operands (one for `Sqrt`).
#[expect(missing_docs, reason = "named as what they do; see the module's table")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    Min,
    Max,
}

/// What is computed from vectors `a`, `b` and the constant `imm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatOp {
    /// Arithmetic, lane by lane.
    Arith(Arith, Shape),
    /// All ones where the relation holds, else zero; bits 0 to 1 of `imm`: 0 `a == b`, 1 `a < b`,
    /// 2 `a <= b`, 3 unordered (never, of plain values); bit 2 turns it round.
    Compare(Shape),
    /// An integer: 1 for `a < b`, 0x40 for `a == b`, 0 for `a > b`. Scalar shapes. Whether a quiet NaN is all
    /// right, in the helper's eyes.
    Order(Shape, bool),
    /// The signed integer in the low bits of `b` (32 or 64), to lane 0. Scalar shapes.
    FromInt(Width, Shape),
    /// Signed 32-bit integers, as many of the low lanes of `b` as the result has. Packed shapes.
    FromInts(Shape),
    /// Lane 0 of `b` as a signed integer of 32 or 64 bits (zero-extended), truncated (`true`) or
    /// rounded to nearest even. Scalar shapes.
    ToInt(Shape, Width, bool),
    /// Lane 0 of `b`, of the other format, to this one in lane 0. Scalar shapes.
    Convert(Shape),
}

impl FloatOp {
    /// Whether the result depends on rounding, so that the guard must hold.
    pub const fn guarded(self) -> bool {
        !matches!(
            self,
            Self::Arith(Arith::Min | Arith::Max, _)
                | Self::Compare(_)
                | Self::Order(..)
                | Self::FromInt(Width::W32, D1)
                | Self::FromInts(D2)
                | Self::Convert(D1)
        )
    }

    /// Every operation with its name.
    pub const ALL: &'static [(Self, &'static str)] = &{
        use self::Arith::{Add, Div, Max, Min, Mul, Sqrt, Sub};
        use FloatOp::{Arith, Compare, Convert, FromInt, FromInts, Order, ToInt};
        use Width::{W32, W64};
        [
            (Arith(Add, S1), "add.s1"),
            (Arith(Add, D1), "add.d1"),
            (Arith(Add, S4), "add.s4"),
            (Arith(Add, D2), "add.d2"),
            (Arith(Sub, S1), "sub.s1"),
            (Arith(Sub, D1), "sub.d1"),
            (Arith(Sub, S4), "sub.s4"),
            (Arith(Sub, D2), "sub.d2"),
            (Arith(Mul, S1), "mul.s1"),
            (Arith(Mul, D1), "mul.d1"),
            (Arith(Mul, S4), "mul.s4"),
            (Arith(Mul, D2), "mul.d2"),
            (Arith(Div, S1), "div.s1"),
            (Arith(Div, D1), "div.d1"),
            (Arith(Div, S4), "div.s4"),
            (Arith(Div, D2), "div.d2"),
            (Arith(Sqrt, S1), "sqrt.s1"),
            (Arith(Sqrt, D1), "sqrt.d1"),
            (Arith(Sqrt, S4), "sqrt.s4"),
            (Arith(Sqrt, D2), "sqrt.d2"),
            (Arith(Min, S1), "min.s1"),
            (Arith(Min, D1), "min.d1"),
            (Arith(Min, S4), "min.s4"),
            (Arith(Min, D2), "min.d2"),
            (Arith(Max, S1), "max.s1"),
            (Arith(Max, D1), "max.d1"),
            (Arith(Max, S4), "max.s4"),
            (Arith(Max, D2), "max.d2"),
            (Compare(S1), "compare.s1"),
            (Compare(D1), "compare.d1"),
            (Compare(S4), "compare.s4"),
            (Compare(D2), "compare.d2"),
            (Order(S1, false), "order.s1"),
            (Order(D1, false), "order.d1"),
            (Order(S1, true), "order_quiet.s1"),
            (Order(D1, true), "order_quiet.d1"),
            (FromInt(W32, S1), "int32.s1"),
            (FromInt(W64, S1), "int64.s1"),
            (FromInt(W32, D1), "int32.d1"),
            (FromInt(W64, D1), "int64.d1"),
            (FromInts(S4), "ints.s4"),
            (FromInts(D2), "ints.d2"),
            (ToInt(S1, W32, true), "trunc32.s1"),
            (ToInt(S1, W64, true), "trunc64.s1"),
            (ToInt(S1, W32, false), "round32.s1"),
            (ToInt(S1, W64, false), "round64.s1"),
            (ToInt(D1, W32, true), "trunc32.d1"),
            (ToInt(D1, W64, true), "trunc64.d1"),
            (ToInt(D1, W32, false), "round32.d1"),
            (ToInt(D1, W64, false), "round64.d1"),
            (Convert(S1), "convert.s1"),
            (Convert(D1), "convert.d1"),
        ]
    };

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(op, _)| *op == self).map_or("?", |(_, name)| name)
    }

    /// The operation of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(op, _)| *op)
    }
}

macro_rules! lane {
    ($module:ident $float:ident $bits:ident $p:literal) => {
        mod $module {
            use super::Arith;

            const MIN: $bits = $float::MIN_POSITIVE.to_bits() << 1;
            const INFINITY: $bits = $float::INFINITY.to_bits() << 1;

            /// Zero or normal.
            #[inline(always)]
            pub(super) fn plain(bits: $bits) -> bool {
                let u = bits << 1;
                (u.wrapping_sub(1) >= (1 << $p) - 1) & (u < INFINITY)
            }

            /// Finite and above the smallest normal value.
            #[inline(always)]
            pub(super) fn inside(bits: $bits) -> bool {
                (bits << 1).wrapping_sub(MIN + 1) < INFINITY - MIN - 1
            }

            #[inline(always)]
            pub(super) fn arith(op: Arith, a: $bits, b: $bits) -> ($bits, bool) {
                let (x, y) = ($float::from_bits(a), $float::from_bits(b));
                let fine = plain(a) & plain(b);
                match op {
                    Arith::Add => {
                        let r = (x + y).to_bits();
                        (r, fine & (inside(r) | (r << 1 == 0)))
                    }
                    Arith::Sub => {
                        let r = (x - y).to_bits();
                        (r, fine & (inside(r) | (r << 1 == 0)))
                    }
                    Arith::Mul => {
                        let r = (x * y).to_bits();
                        (r, fine & (inside(r) | (a << 1 == 0) | (b << 1 == 0)))
                    }
                    Arith::Div => {
                        let r = (x / y).to_bits();
                        (r, fine & (inside(r) | ((r << 1 == 0) & (a << 1 == 0))))
                    }
                    Arith::Sqrt => (y.sqrt().to_bits(), plain(b) & (y >= 0.0)),
                    Arith::Min => (if x < y { a } else { b }, fine),
                    Arith::Max => (if x > y { a } else { b }, fine),
                }
            }

            /// Whether a result that is inside is known to be exact. The error of a sum is itself a
            /// number (Knuth's two-sum); a product of halves fits.
            #[inline(always)]
            pub(super) fn exact(op: Arith, a: $bits, b: $bits) -> bool {
                let (x, y) = ($float::from_bits(a), $float::from_bits(b));
                match op {
                    Arith::Add => {
                        let s = x + y;
                        let part = s - x;
                        x - (s - part) == part - y
                    }
                    Arith::Sub => {
                        let s = x - y;
                        let part = s - x;
                        x - (s - part) == part + y
                    }
                    Arith::Mul => (a | b) & ((1 << ($p + 1) / 2) - 1) == 0,
                    _ => false,
                }
            }

            #[inline(always)]
            pub(super) fn compare(a: $bits, b: $bits, imm: u8) -> ($bits, bool) {
                let (x, y) = ($float::from_bits(a), $float::from_bits(b));
                let on = match imm & 3 {
                    0 => x == y,
                    1 => x < y,
                    2 => x <= y,
                    _ => false,
                };
                (if on != (imm & 4 != 0) { $bits::MAX } else { 0 }, plain(a) & plain(b))
            }

            #[inline(always)]
            pub(super) fn order(a: $bits, b: $bits) -> Option<u64> {
                let (x, y) = ($float::from_bits(a), $float::from_bits(b));
                let r = u64::from(x < y) | u64::from(x == y) << 6;
                (plain(a) & plain(b)).then_some(r)
            }

            #[inline(always)]
            pub(super) fn to_int(b: $bits, wide: bool, truncate: bool) -> Option<u64> {
                let x = $float::from_bits(b);
                let x = if truncate { x.trunc() } else { x.round_ties_even() };
                let fits = if wide {
                    (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&x)
                } else {
                    (-2_147_483_648.0..2_147_483_648.0).contains(&x)
                };
                let r = if wide { x as i64 as u64 } else { u64::from(x as i32 as u32) };
                (plain(b) & fits).then_some(r)
            }
        }
    };
}

lane!(single f32 u32 24);
lane!(double f64 u64 53);

#[inline(always)]
fn low32(v: u128, low: u32) -> u128 {
    v >> 32 << 32 | u128::from(low)
}

#[inline(always)]
fn low64(v: u128, low: u64) -> u128 {
    v >> 64 << 64 | u128::from(low)
}

/// All lanes of 32 bits.
#[inline(always)]
fn each32(a: u128, b: u128, f: impl Fn(u32, u32) -> (u32, bool)) -> Option<u128> {
    let (mut r, mut fine) = (0, true);
    for i in 0..4 {
        let (x, good) = f((a >> (32 * i)) as u32, (b >> (32 * i)) as u32);
        r |= u128::from(x) << (32 * i);
        fine &= good;
    }
    fine.then_some(r)
}

/// Both lanes of 64 bits.
#[inline(always)]
fn each64(a: u128, b: u128, f: impl Fn(u64, u64) -> (u64, bool)) -> Option<u128> {
    let (x, fine) = f(a as u64, b as u64);
    let (y, good) = f((a >> 64) as u64, (b >> 64) as u64);
    (fine & good).then_some(u128::from(x) | u128::from(y) << 64)
}

#[inline(always)]
fn arith(op: Arith, shape: Shape, a: u128, b: u128) -> Option<u128> {
    match shape {
        S1 => {
            let (r, fine) = single::arith(op, a as u32, b as u32);
            fine.then_some(low32(a, r))
        }
        D1 => {
            let (r, fine) = double::arith(op, a as u64, b as u64);
            fine.then_some(low64(a, r))
        }
        S4 => each32(a, b, |x, y| single::arith(op, x, y)),
        D2 => each64(a, b, |x, y| double::arith(op, x, y)),
    }
}

/// Whether the result that [`host`] gave is known to be what the operation gives without rounding.
#[inline]
pub fn exact(op: FloatOp, a: u128, b: u128) -> bool {
    let FloatOp::Arith(op, shape) = op else { return false };
    let lane32 = |i: u32| single::exact(op, (a >> (32 * i)) as u32, (b >> (32 * i)) as u32);
    let lane64 = |i: u32| double::exact(op, (a >> (64 * i)) as u64, (b >> (64 * i)) as u64);
    match shape {
        S1 => lane32(0),
        D1 => lane64(0),
        S4 => (0..4).all(lane32),
        D2 => (0..2).all(lane64),
    }
}

/// The result on the host, where the checks of the lanes allow it; whether the guard holds is for the
/// caller to see. Operations with an integer result give it in the low 64 bits.
#[inline]
pub fn host(op: FloatOp, a: u128, b: u128, imm: u8) -> Option<u128> {
    match op {
        FloatOp::Arith(op, shape) => match op {
            Arith::Add => arith(Arith::Add, shape, a, b),
            Arith::Sub => arith(Arith::Sub, shape, a, b),
            Arith::Mul => arith(Arith::Mul, shape, a, b),
            Arith::Div => arith(Arith::Div, shape, a, b),
            Arith::Sqrt => arith(Arith::Sqrt, shape, a, b),
            Arith::Min => arith(Arith::Min, shape, a, b),
            Arith::Max => arith(Arith::Max, shape, a, b),
        },
        FloatOp::Compare(S1) => {
            let (r, fine) = single::compare(a as u32, b as u32, imm);
            fine.then_some(low32(a, r))
        }
        FloatOp::Compare(D1) => {
            let (r, fine) = double::compare(a as u64, b as u64, imm);
            fine.then_some(low64(a, r))
        }
        FloatOp::Compare(S4) => each32(a, b, |x, y| single::compare(x, y, imm)),
        FloatOp::Compare(D2) => each64(a, b, |x, y| double::compare(x, y, imm)),
        FloatOp::Order(S1, _) => single::order(a as u32, b as u32).map(u128::from),
        FloatOp::Order(D1, _) => double::order(a as u64, b as u64).map(u128::from),
        FloatOp::FromInt(w, S1) => {
            let n = if w == Width::W64 { b as i64 } else { i64::from(b as i32) };
            Some(low32(a, (n as f32).to_bits()))
        }
        FloatOp::FromInt(w, D1) => {
            let n = if w == Width::W64 { b as i64 } else { i64::from(b as i32) };
            Some(low64(a, (n as f64).to_bits()))
        }
        FloatOp::FromInts(S4) => each32(b, b, |x, _| ((x as i32 as f32).to_bits(), true)),
        FloatOp::FromInts(D2) => {
            let lane = |x: u32| u128::from(f64::from(x as i32).to_bits());
            Some(lane(b as u32) | lane((b >> 32) as u32) << 64)
        }
        FloatOp::ToInt(S1, w, t) => single::to_int(b as u32, w == Width::W64, t).map(u128::from),
        FloatOp::ToInt(D1, w, t) => double::to_int(b as u64, w == Width::W64, t).map(u128::from),
        FloatOp::Convert(D1) => {
            let r = f64::from(f32::from_bits(b as u32)).to_bits();
            single::plain(b as u32).then_some(low64(a, r))
        }
        FloatOp::Convert(S1) => {
            let r = (f64::from_bits(b as u64) as f32).to_bits();
            let fine = double::plain(b as u64) & (single::inside(r) | (b << 65 == 0));
            fine.then_some(low32(a, r))
        }
        _ => None,
    }
}
