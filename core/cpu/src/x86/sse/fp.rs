//! Floating-point vector operations.

use super::int::{self, Vector};
use super::{Mxcsr, SimdException};
use crate::float::{self, Class, Env, F32, F64, Flags, Format, Parts, Relation, Rounding};

/// The lanes of a vector.
#[inline(always)]
fn u32s(a: u128) -> [u32; 4] {
    int::u32s(Vector::from_bits(a))
}

/// The vector of these lanes.
#[inline(always)]
fn from_u32s(lanes: [u32; 4]) -> u128 {
    int::from_u32s(lanes).bits()
}

/// The lanes of a vector.
#[inline(always)]
fn u64s(a: u128) -> [u64; 2] {
    [a as u64, (a >> 64) as u64]
}

/// The vector of these lanes.
#[inline(always)]
fn from_u64s(lanes: [u64; 2]) -> u128 {
    u128::from(lanes[0]) | u128::from(lanes[1]) << 64
}

/// `a` with the lanes of `b` that the mask names.
#[inline(always)]
pub(super) fn blend(a: u128, b: u128, mask: u8, width: u32) -> u128 {
    int::blend(Vector::from_bits(a), Vector::from_bits(b), mask, width).bits()
}

/// The operations on two lanes (or one) of the same format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Sqrt,
    Rcp,
    Rsqrt,
}

/// Runs an operation under MXCSR: flags accumulate there; if one that is not masked was raised
/// the result is dropped.
#[inline(always)]
pub(super) fn run(
    f: impl Fn(u128, u128, u8, &mut Env) -> u128,
    a: u128,
    b: u128,
    imm: u8,
    mxcsr: &mut Mxcsr,
) -> Result<u128, SimdException> {
    let mut env = mxcsr.env();
    // An inexact flag that is set and masked need not be found again: lets host arithmetic in.
    env.raised = Flags((mxcsr.0 & mxcsr.0 >> 7 & 0x20) as u8);
    let result = f(a, b, imm, &mut env);
    let unmasked = Flags(!env.masked.0 & 63);
    if env.raised.any(unmasked) {
        return Err(fault(env, mxcsr));
    }
    mxcsr.0 |= u32::from(env.raised.0);
    Ok(result)
}

/// An unmasked exception. Those found before computing keep the others from being looked for
/// (SDM vol. 1, section 11.5.1).
#[cold]
fn fault(env: Env, mxcsr: &mut Mxcsr) -> SimdException {
    let before = Flags::INVALID | Flags::DENORMAL | Flags::ZERO_DIVIDE;
    let unmasked = Flags(!env.masked.0 & 63);
    let mut raised = env.raised;
    if raised.any(Flags(before.0 & unmasked.0)) {
        raised = Flags(raised.0 & before.0);
    }
    mxcsr.0 |= u32::from(raised.0);
    SimdException
}

/// The operations on one format.
trait Lane: Format {
    fn arith(op: Arith, a: Self, b: Self, env: &mut Env) -> Self;
}

/// MIN and MAX: the second operand when either is a NaN or both are zero.
#[inline]
fn min_max<F: Format>(a: F, b: F, less: Relation, env: &mut Env) -> F {
    let pick = if float::compare(a, b, env) == less { a } else { b };
    let parts = pick.operand(env);
    if parts.class == Class::Zero { F::pack(&parts) } else { pick }
}

macro_rules! lane {
    ($ty:ident, $rcp:expr, $rsqrt:expr) => {
        impl Lane for $ty {
            #[inline]
            fn arith(op: Arith, a: Self, b: Self, env: &mut Env) -> Self {
                match op {
                    Arith::Add => float::add(a, b, env),
                    Arith::Sub => float::sub(a, b, env),
                    Arith::Mul => float::mul(a, b, env),
                    Arith::Div => float::div(a, b, env),
                    Arith::Min => min_max(a, b, Relation::Less, env),
                    Arith::Max => min_max(a, b, Relation::Greater, env),
                    Arith::Sqrt => float::sqrt(b, env),
                    Arith::Rcp => $rcp(b),
                    Arith::Rsqrt => $rsqrt(b),
                }
            }
        }
    };
}

lane!(F32, rcp, rsqrt);
lane!(F64, core::convert::identity, core::convert::identity);

/// RCPSS, one lane: 1/x to 12 bits, no exceptions; denormals are zero (SDM vol. 2: relative
/// error at most 1.5 * 2^-12, which leaves the bits to the processor).
fn rcp(x: F32) -> F32 {
    let mut env = approximate_env();
    let parts = x.operand(&env);
    if parts.is_nan() {
        return F32::pack(&parts.quieted());
    }
    let result = float::div(F32(0x3F80_0000), x, &mut env);
    round_to_12(result)
}

/// RSQRTSS, one lane.
fn rsqrt(x: F32) -> F32 {
    let mut env = approximate_env();
    let parts = x.operand(&env);
    if parts.is_nan() {
        return F32::pack(&parts.quieted());
    }
    let root = float::sqrt(x, &mut env);
    let result = float::div(F32(0x3F80_0000), root, &mut env);
    round_to_12(result)
}

fn approximate_env() -> Env {
    Env { denormals_are_zero: true, flush_to_zero: true, ..Env::extended() }
}

/// The significand to 12 bits, as coarse as the hardware's tables.
fn round_to_12(x: F32) -> F32 {
    if x.0 & 0x7F80_0000 == 0x7F80_0000 { x } else { F32(x.0.wrapping_add(0x800) & !0xFFF) }
}

/// Packed single.
#[inline(always)]
pub(super) fn ps(op: Arith, a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (u32s(a), u32s(b));
    let mut out = [0; 4];
    for i in 0..4 {
        out[i] = F32::arith(op, F32(a[i]), F32(b[i]), env).0;
    }
    from_u32s(out)
}

/// Packed double.
#[inline(always)]
pub(super) fn pd(op: Arith, a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (u64s(a), u64s(b));
    let mut out = [0; 2];
    for i in 0..2 {
        out[i] = F64::arith(op, F64(a[i]), F64(b[i]), env).0;
    }
    from_u64s(out)
}

/// Scalar single.
#[inline(always)]
pub(super) fn ss(op: Arith, a: u128, b: u128, env: &mut Env) -> u128 {
    let low = F32::arith(op, F32(a as u32), F32(b as u32), env).0;
    a & !0xFFFF_FFFF | u128::from(low)
}

/// Scalar double.
#[inline(always)]
pub(super) fn sd(op: Arith, a: u128, b: u128, env: &mut Env) -> u128 {
    let low = F64::arith(op, F64(a as u64), F64(b as u64), env).0;
    a >> 64 << 64 | u128::from(low)
}

/// ADDSUBPS: even lanes subtract, odd lanes add.
pub(super) fn addsubps(a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (u32s(a).map(F32), u32s(b).map(F32));
    from_u32s([
        float::sub(a[0], b[0], env).0,
        float::add(a[1], b[1], env).0,
        float::sub(a[2], b[2], env).0,
        float::add(a[3], b[3], env).0,
    ])
}

/// ADDSUBPD.
pub(super) fn addsubpd(a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (u64s(a).map(F64), u64s(b).map(F64));
    from_u64s([float::sub(a[0], b[0], env).0, float::add(a[1], b[1], env).0])
}

/// HADDPS, HSUBPS.
pub(super) fn horizontal_ps(op: Arith, a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (u32s(a), u32s(b));
    let even = from_u32s([a[0], a[2], b[0], b[2]]);
    let odd = from_u32s([a[1], a[3], b[1], b[3]]);
    ps(op, even, odd, env)
}

/// HADDPD, HSUBPD.
pub(super) fn horizontal_pd(op: Arith, a: u128, b: u128, env: &mut Env) -> u128 {
    let (a, b) = (u64s(a), u64s(b));
    pd(op, from_u64s([a[0], b[0]]), from_u64s([a[1], b[1]]), env)
}

/// DPPS: products of the lanes chosen by the high half of the immediate, summed pairwise, into
/// the lanes chosen by the low half.
pub(super) fn dpps(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let (a, b) = (u32s(a).map(F32), u32s(b).map(F32));
    let mut product = [F32(0); 4];
    for i in 0..4 {
        if imm >> (4 + i) & 1 != 0 {
            product[i] = float::mul(a[i], b[i], env);
        }
    }
    let low = float::add(product[0], product[1], env);
    let high = float::add(product[2], product[3], env);
    let sum = float::add(low, high, env).0;
    from_u32s(core::array::from_fn(|i| if imm >> i & 1 != 0 { sum } else { 0 }))
}

/// DPPD.
pub(super) fn dppd(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let (a, b) = (u64s(a).map(F64), u64s(b).map(F64));
    let mut product = [F64(0); 2];
    for i in 0..2 {
        if imm >> (4 + i) & 1 != 0 {
            product[i] = float::mul(a[i], b[i], env);
        }
    }
    let sum = float::add(product[0], product[1], env).0;
    from_u64s(core::array::from_fn(|i| if imm >> i & 1 != 0 { sum } else { 0 }))
}

/// One comparison of CMPPS and its kin: EQ LT LE UNORD NEQ NLT NLE ORD.
#[inline]
fn predicate<F: Format>(a: F, b: F, imm: u8, env: &mut Env) -> bool {
    let relation = match imm & 3 {
        1 | 2 => float::compare(a, b, env),
        _ => float::compare_quiet(a, b, env),
    };
    let on = match imm & 3 {
        0 => relation == Relation::Equal,
        1 => relation == Relation::Less,
        2 => matches!(relation, Relation::Less | Relation::Equal),
        _ => relation == Relation::Unordered,
    };
    on ^ (imm & 4 != 0)
}

/// CMPPS.
pub(super) fn cmpps(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let (a, b) = (u32s(a).map(F32), u32s(b).map(F32));
    let mut out = [0; 4];
    for i in 0..4 {
        out[i] = if predicate(a[i], b[i], imm, env) { u32::MAX } else { 0 };
    }
    from_u32s(out)
}

/// CMPPD.
pub(super) fn cmppd(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let (a, b) = (u64s(a).map(F64), u64s(b).map(F64));
    let mut out = [0; 2];
    for i in 0..2 {
        out[i] = if predicate(a[i], b[i], imm, env) { u64::MAX } else { 0 };
    }
    from_u64s(out)
}

/// CMPSS.
pub(super) fn cmpss(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let on = predicate(F32(a as u32), F32(b as u32), imm, env);
    blend(a, if on { u128::MAX } else { 0 }, 1, 32)
}

/// CMPSD.
pub(super) fn cmpsd(a: u128, b: u128, imm: u8, env: &mut Env) -> u128 {
    let on = predicate(F64(a as u64), F64(b as u64), imm, env);
    blend(a, if on { u128::MAX } else { 0 }, 1, 64)
}

/// ZF, PF and CF of a relation.
fn eflags(relation: Relation) -> u128 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => 0x01,
        Relation::Equal => 0x40,
        Relation::Unordered => 0x45,
    }
}

/// COMISS (`signal`) and UCOMISS.
pub(super) fn comiss(a: u128, b: u128, signal: bool, env: &mut Env) -> u128 {
    let (a, b) = (F32(a as u32), F32(b as u32));
    eflags(if signal { float::compare(a, b, env) } else { float::compare_quiet(a, b, env) })
}

/// COMISD (`signal`) and UCOMISD.
pub(super) fn comisd(a: u128, b: u128, signal: bool, env: &mut Env) -> u128 {
    let (a, b) = (F64(a as u64), F64(b as u64));
    eflags(if signal { float::compare(a, b, env) } else { float::compare_quiet(a, b, env) })
}

/// ROUNDxx, one lane: immediate bit 2 takes MXCSR's rounding, bit 3 hides the inexact flag.
fn round<F: Format>(x: F, imm: u8, env: &mut Env) -> F {
    let mut inner = env.clone();
    if imm & 4 == 0 {
        inner.rounding = Rounding::from_bits(imm.into());
    }
    inner.raised = Flags::NONE;
    let result = float::round_to_integral(x, &mut inner);
    // A denormal operand is not reported.
    let hidden = if imm & 8 != 0 { Flags::INEXACT | Flags::DENORMAL } else { Flags::DENORMAL };
    env.raise(inner.raised.without(hidden));
    result
}

/// ROUNDPS.
pub(super) fn roundps(b: u128, imm: u8, env: &mut Env) -> u128 {
    from_u32s(u32s(b).map(|x| round(F32(x), imm, env).0))
}

/// ROUNDPD.
pub(super) fn roundpd(b: u128, imm: u8, env: &mut Env) -> u128 {
    from_u64s(u64s(b).map(|x| round(F64(x), imm, env).0))
}

/// ROUNDSS, the low lane.
pub(super) fn roundss(b: u128, imm: u8, env: &mut Env) -> u128 {
    u128::from(round(F32(b as u32), imm, env).0)
}

/// ROUNDSD, the low lane.
pub(super) fn roundsd(b: u128, imm: u8, env: &mut Env) -> u128 {
    u128::from(round(F64(b as u64), imm, env).0)
}

fn widen(x: u32, env: &mut Env) -> u64 {
    let wide: F64 = float::convert(F32(x), env);
    wide.0
}

fn narrow(x: u64, env: &mut Env) -> u32 {
    let narrow: F32 = float::convert(F64(x), env);
    narrow.0
}

/// CVTSS2SD, the low lane.
pub(super) fn ss2sd(b: u128, env: &mut Env) -> u128 {
    u128::from(widen(b as u32, env))
}

/// CVTSD2SS, the low lane.
pub(super) fn sd2ss(b: u128, env: &mut Env) -> u128 {
    u128::from(narrow(b as u64, env))
}

/// CVTPS2PD.
pub(super) fn ps2pd(b: u128, env: &mut Env) -> u128 {
    let b = u32s(b);
    from_u64s([widen(b[0], env), widen(b[1], env)])
}

/// CVTPD2PS.
pub(super) fn pd2ps(b: u128, env: &mut Env) -> u128 {
    let b = u64s(b);
    from_u32s([narrow(b[0], env), narrow(b[1], env), 0, 0])
}

/// CVTDQ2PS.
pub(super) fn dq2ps(b: u128, env: &mut Env) -> u128 {
    from_u32s(u32s(b).map(|x| si2ss((x as i32).into(), env) as u32))
}

/// CVTDQ2PD.
pub(super) fn dq2pd(b: u128, env: &mut Env) -> u128 {
    let b = u32s(b);
    from_u64s([b[0], b[1]].map(|x| si2sd((x as i32).into(), env) as u64))
}

/// CVTSI2SS, the low lane.
pub(super) fn si2ss(x: i64, env: &mut Env) -> u128 {
    let result: F32 = float::from_i64(x, env);
    u128::from(result.0)
}

/// CVTSI2SD, the low lane.
pub(super) fn si2sd(x: i64, env: &mut Env) -> u128 {
    let result: F64 = float::from_i64(x, env);
    u128::from(result.0)
}

/// A conversion to an integer of 32 or 64 bits; the flags of the operand's kind other than
/// invalid and inexact do not show.
fn to_int(parts: &Parts, width: u32, truncate: bool, env: &mut Env) -> u64 {
    let rounding = if truncate { Rounding::Zero } else { env.rounding };
    if width == 32 {
        u64::from(float::to_i32(parts, rounding, env) as u32)
    } else {
        float::to_i64(parts, rounding, env) as u64
    }
}

/// CVTPS2DQ, CVTTPS2DQ.
pub(super) fn ps2dq(b: u128, truncate: bool, env: &mut Env) -> u128 {
    from_u32s(u32s(b).map(|x| to_int(&F32(x).operand(env), 32, truncate, env) as u32))
}

/// CVTPD2DQ, CVTTPD2DQ.
pub(super) fn pd2dq(b: u128, truncate: bool, env: &mut Env) -> u128 {
    let b = u64s(b).map(|x| to_int(&F64(x).operand(env), 32, truncate, env) as u32);
    from_u32s([b[0], b[1], 0, 0])
}

/// CVTSS2SI, CVTTSS2SI.
pub(super) fn ss2si(b: u128, width: u32, truncate: bool, env: &mut Env) -> u128 {
    to_int(&F32(b as u32).operand(env), width, truncate, env).into()
}

/// CVTSD2SI, CVTTSD2SI.
pub(super) fn sd2si(b: u128, width: u32, truncate: bool, env: &mut Env) -> u128 {
    to_int(&F64(b as u64).operand(env), width, truncate, env).into()
}
