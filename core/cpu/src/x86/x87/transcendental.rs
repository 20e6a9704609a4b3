//! The elementary functions, FSCALE and FXTRACT (SDM vol. 1, section 8.3.7, and vol. 2).
//!
//! Computed with 128-bit significands, so rounded correctly but for ties nobody can construct;
//! the manual promises 1 ulp. Arguments of the trigonometric functions are reduced with the
//! 66-bit pi that the hardware has: the result is exact for that pi.

use core::ops::{Add, Div, Mul, Sub};

use crate::float::{self, Class, Env, F80, Flags, Format, Parts, Wide, round_parts};

/// Significand of pi cut to 66 bits, as an integer.
const PI_66: u128 = 0x3_243F_6A88_85A3_08D3;

/// arctan(k / 8), k = 0..=8.
const ATAN_EIGHTHS: [Wide; 9] = [
    Wide::ZERO,
    Wide { sign: false, exp: -4, sig: 0xFEAD_D4D5_617B_6E32_C897_989F_3E88_8EF8 },
    Wide { sign: false, exp: -3, sig: 0xFADB_AFC9_6406_EB15_6DC7_9EF5_F7A2_17E6 },
    Wide { sign: false, exp: -2, sig: 0xB7B0_CA0F_26F7_8473_8AA3_2122_DCFE_4483 },
    Wide { sign: false, exp: -2, sig: 0xED63_382B_0DDA_7B45_6FE4_45EC_BC3A_8D03 },
    Wide { sign: false, exp: -1, sig: 0x8F00_5D5E_F7F5_9F9B_5C83_5E16_65C4_3748 },
    Wide { sign: false, exp: -1, sig: 0xA4BC_7D19_34F7_0924_19A8_7F2A_457D_AC9F },
    Wide { sign: false, exp: -1, sig: 0xB805_3E2B_C231_9E73_CB2D_A552_10A4_443D },
    Wide { sign: false, exp: -1, sig: 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1 },
];

/// Operands that end an instruction before it computes: NaN, unsupported.
fn nan(a: F80, b: F80, env: &mut Env) -> Option<F80> {
    let (a, b) = (a.unpack(), b.unpack());
    let is_special =
        |p: &Parts| matches!(p.class, Class::Quiet | Class::Signalling | Class::Unsupported);
    // The sum has the NaN that every two-operand instruction has.
    (is_special(&a) || is_special(&b)).then(|| float::add_parts(&a, &b, env))
}

fn invalid(env: &mut Env) -> F80 {
    env.raise(Flags::INVALID);
    F80::INDEFINITE
}

fn infinity(sign: bool) -> F80 {
    F80::pack(&Parts::infinity(sign))
}

fn zero(sign: bool) -> F80 {
    F80::ZERO.with_sign(sign)
}

fn note_denormal(env: &mut Env, parts: &[&Parts]) {
    if parts.iter().any(|p| p.denormal) {
        env.raise(Flags::DENORMAL);
    }
}

/// Sum of a series: `first` and then terms each made from the one before by `next`, until they
/// no longer count.
fn series(first: Wide, mut next: impl FnMut(Wide, u32) -> (Wide, Wide)) -> Wide {
    let (mut sum, mut term) = (first, first);
    for n in 1..64 {
        let (following, contribution) = next(term, n);
        if contribution.is_zero() || contribution.exp < sum.exp - 128 {
            break;
        }
        sum = sum.add(contribution);
        term = following;
    }
    sum
}

/// e^x - 1 for |x| < 0.7.
fn expm1(x: Wide) -> Wide {
    // An eighth of the argument, then e^2y - 1 = (e^y - 1)(e^y - 1 + 2), three times.
    let x = x.scale(-3);
    let mut y = series(x, |term, n| {
        let term = term.mul(x).div_int(n + 1);
        (term, term)
    });
    for _ in 0..3 {
        y = y.mul(y.add(Wide::ONE.scale(1)));
    }
    y
}

/// ln((1 + s) / (1 - s)) = 2 artanh(s) for |s| < 0.18.
fn twice_artanh(s: Wide) -> Wide {
    let square = s.mul(s);
    series(s, |term, n| {
        let power = term.mul(square);
        (power, power.div_int(2 * n + 1))
    })
    .scale(1)
}

/// log2 of a positive value.
fn log2(x: Wide) -> Wide {
    // 1/sqrt(2) <= m < sqrt(2)
    const SQRT_2: u128 = 0xB504_F333_F9DE_6484_597D_89B3_754A_BE9F;
    let mut whole = x.exp;
    let mut m = Wide { exp: 0, ..x };
    if m.sig >= SQRT_2 {
        m.exp = -1;
        whole += 1;
    }
    let s = m.sub(Wide::ONE).div(m.add(Wide::ONE));
    twice_artanh(s).mul(Wide::LOG2_E).add(Wide::from_int(whole.into()))
}

/// F2XM1: 2^x - 1, defined for -1 <= x <= 1.
pub(super) fn f2xm1(x: F80, env: &mut Env) -> F80 {
    if let Some(nan) = nan(x, x, env) {
        return nan;
    }
    let parts = x.unpack();
    note_denormal(env, &[&parts]);
    match parts.class {
        Class::Zero => return x,
        Class::Infinity if parts.sign => return F80::ONE.with_sign(true),
        Class::Infinity => return x,
        _ => {}
    }
    if parts.exp == 0 && parts.sig << 1 == 0 {
        // 2^1 - 1 and 2^-1 - 1.
        return if parts.sign { F80 { head: 0xBFFE, sig: 1 << 63 } } else { F80::ONE };
    }
    if parts.exp >= 0 {
        // Undefined: the argument comes back.
        return x;
    }
    let x = Wide::from_parts(&parts);
    expm1(x.mul(Wide::LN2)).round(env)
}

/// `sign` times an infinite or zero outcome, or the finite product.
fn times(y: &Parts, log: Wide, env: &mut Env) -> F80 {
    match y.class {
        Class::Infinity => infinity(y.sign ^ log.sign),
        Class::Zero => zero(y.sign ^ log.sign),
        _ => Wide::from_parts(y).mul(log).round(env),
    }
}

/// FYL2X: y * log2(x).
pub(super) fn fyl2x(x: F80, y: F80, env: &mut Env) -> F80 {
    if let Some(nan) = nan(x, y, env) {
        return nan;
    }
    let (x, y) = (x.unpack(), y.unpack());
    if x.sign && x.class != Class::Zero {
        return invalid(env);
    }
    match (x.class, y.class) {
        (Class::Zero, Class::Zero) | (Class::Infinity, Class::Zero) => return invalid(env),
        (Class::Zero, Class::Infinity) => return infinity(!y.sign),
        (Class::Zero, _) => {
            env.raise(Flags::ZERO_DIVIDE);
            return infinity(!y.sign);
        }
        (Class::Infinity, _) => {
            note_denormal(env, &[&y]);
            return infinity(y.sign);
        }
        _ => {}
    }
    if x.exp == 0 && x.sig << 1 == 0 {
        // log2(1) = 0
        if y.class == Class::Infinity {
            return invalid(env);
        }
        note_denormal(env, &[&y]);
        return zero(y.sign);
    }
    note_denormal(env, &[&x, &y]);
    let log = log2(Wide::from_parts(&x));
    times(&y, log, env)
}

/// FYL2XP1: y * log2(x + 1), defined for |x| < 1 - sqrt(1/2).
pub(super) fn fyl2xp1(x: F80, y: F80, env: &mut Env) -> F80 {
    if let Some(nan) = nan(x, y, env) {
        return nan;
    }
    let (x, y) = (x.unpack(), y.unpack());
    match (x.class, y.class) {
        (Class::Zero, Class::Infinity) => return invalid(env),
        (Class::Zero, _) => {
            note_denormal(env, &[&y]);
            return zero(x.sign ^ y.sign);
        }
        (Class::Infinity, Class::Zero) => return invalid(env),
        (Class::Infinity, _) if x.sign => return invalid(env),
        (Class::Infinity, _) => {
            note_denormal(env, &[&y]);
            return infinity(y.sign);
        }
        _ => {}
    }
    let wide = Wide::from_parts(&x);
    let above = wide.add(Wide::ONE);
    if above.sign || above.is_zero() {
        return invalid(env);
    }
    note_denormal(env, &[&x, &y]);
    let log = if x.exp < -2 {
        let s = wide.div(wide.add(Wide::ONE.scale(1)));
        twice_artanh(s).mul(Wide::LOG2_E)
    } else {
        log2(above)
    };
    times(&y, log, env)
}

/// arctan of 0 <= t <= 1.
fn atan(t: Wide) -> Wide {
    // The nearest eighth c: atan(t) = atan(c) + atan((t - c) / (1 + tc)).
    let eighths = if t.is_zero() || t.exp < -5 {
        0
    } else {
        ((t.sig >> (127 - 4 - t.exp.min(0)).min(127) as u32) as usize).div_ceil(2).min(8)
    };
    let c = Wide::from_int(eighths as i64).scale(-3);
    let r = t.sub(c).div(Wide::ONE.add(t.mul(c)));
    let square = r.mul(r).neg();
    let tail = series(r, |term, n| {
        let power = term.mul(square);
        (power, power.div_int(2 * n + 1))
    });
    ATAN_EIGHTHS[eighths].add(tail)
}

/// FPATAN: the angle of the point (x, y).
pub(super) fn fpatan(x: F80, y: F80, env: &mut Env) -> F80 {
    if let Some(nan) = nan(x, y, env) {
        return nan;
    }
    let (x, y) = (x.unpack(), y.unpack());
    note_denormal(env, &[&x, &y]);
    let angle = match (y.class, x.class) {
        (Class::Zero, _) if !x.sign => return zero(y.sign),
        (Class::Zero, _) => Wide::PI,
        (Class::Infinity, Class::Infinity) if x.sign => Wide::PI.scale(-2).add(Wide::PI.scale(-1)),
        (Class::Infinity, Class::Infinity) => Wide::PI.scale(-2),
        (Class::Infinity, _) | (_, Class::Zero) => Wide::PI.scale(-1),
        (_, Class::Infinity) if x.sign => Wide::PI,
        (_, Class::Infinity) => return zero(y.sign),
        _ => {
            let (wide_x, wide_y) = (Wide::from_parts(&x).abs(), Wide::from_parts(&y).abs());
            let first = if wide_y.below(wide_x) {
                atan(wide_y.div(wide_x))
            } else {
                Wide::PI.scale(-1).sub(atan(wide_x.div(wide_y)))
            };
            if x.sign { Wide::PI.sub(first) } else { first }
        }
    };
    Wide { sign: y.sign, ..angle }.round(env)
}

/// An angle reduced to [-pi/4, pi/4] and its quadrant; `None`: magnitude of 2^63 or more.
fn reduce(parts: &Parts) -> Option<(Wide, u32)> {
    if parts.exp >= 63 {
        return None;
    }
    let wide = Wide::from_parts(parts);
    if parts.exp < -1 {
        return Some((wide, 0));
    }
    // In units of 2^-65, of which pi/2 has PI_66.
    let value = u128::from(parts.sig) << (parts.exp + 2);
    let (mut quadrant, mut rest) = ((value / PI_66) as u32 & 3, value % PI_66);
    let mut sign = parts.sign;
    if rest * 2 > PI_66 {
        rest = PI_66 - rest;
        quadrant = (quadrant + 1) & 3;
        sign = !sign;
    }
    if parts.sign {
        quadrant = (4 - quadrant) & 3;
    }
    Some((Wide::new(sign, 127 - 65, rest), quadrant))
}

/// sin(r) and cos(r) for |r| <= pi/4.
fn sin_cos_series(r: Wide) -> (Wide, Wide) {
    let square = r.mul(r).neg();
    let sin = series(r, |term, n| {
        let term = term.mul(square).div_int(2 * n * (2 * n + 1));
        (term, term)
    });
    let cos = series(Wide::ONE, |term, n| {
        let term = term.mul(square).div_int((2 * n - 1) * (2 * n));
        (term, term)
    });
    (sin, cos)
}

/// sin and cos of a finite, non-zero angle; `None`: out of range.
fn sin_cos(parts: &Parts) -> Option<(Wide, Wide)> {
    let (r, quadrant) = reduce(parts)?;
    let (sin, cos) = sin_cos_series(r);
    Some(match quadrant {
        0 => (sin, cos),
        1 => (cos, sin.neg()),
        2 => (sin.neg(), cos.neg()),
        _ => (cos.neg(), sin),
    })
}

/// What a trigonometric function gives without computing: for NaNs, infinity and zero (`at_zero`
/// of the operand). `Err`: the parts to compute with.
fn without_computing(
    x: F80,
    env: &mut Env,
    at_zero: impl Fn(F80) -> (F80, F80),
) -> Result<(F80, F80), Parts> {
    if let Some(nan) = nan(x, x, env) {
        return Ok((nan, nan));
    }
    let parts = x.unpack();
    match parts.class {
        Class::Zero => Ok(at_zero(x)),
        Class::Infinity => {
            let result = invalid(env);
            Ok((result, result))
        }
        _ => {
            note_denormal(env, &[&parts]);
            Err(parts)
        }
    }
}

/// FSIN; `None`: out of range.
pub(super) fn fsin(x: F80, env: &mut Env) -> Option<F80> {
    match without_computing(x, env, |x| (x, F80::ONE)) {
        Ok((sin, _)) => Some(sin),
        Err(parts) => Some(sin_cos(&parts)?.0.round(env)),
    }
}

/// FCOS; `None`: out of range.
pub(super) fn fcos(x: F80, env: &mut Env) -> Option<F80> {
    match without_computing(x, env, |x| (x, F80::ONE)) {
        Ok((_, cos)) => Some(cos),
        Err(parts) => Some(sin_cos(&parts)?.1.round(env)),
    }
}

/// FSINCOS: sine, then the cosine to push; `None`: out of range.
pub(super) fn fsincos(x: F80, env: &mut Env) -> Option<(F80, F80)> {
    match without_computing(x, env, |x| (x, F80::ONE)) {
        Ok(both) => Some(both),
        Err(parts) => {
            let (sin, cos) = sin_cos(&parts)?;
            let sin = sin.round(env);
            Some((sin, cos.round(env)))
        }
    }
}

/// FPTAN: tangent, then the 1 to push; `None`: out of range.
pub(super) fn fptan(x: F80, env: &mut Env) -> Option<(F80, F80)> {
    match without_computing(x, env, |x| (x, F80::ONE)) {
        Ok(both) => Some(both),
        Err(parts) => {
            let (sin, cos) = sin_cos(&parts)?;
            Some((sin.div(cos).round(env), F80::ONE))
        }
    }
}

/// FSCALE: `x * 2^trunc(by)`.
pub(super) fn fscale(x: F80, by: F80, env: &mut Env) -> F80 {
    if let Some(nan) = nan(x, by, env) {
        return nan;
    }
    let (parts, by) = (x.unpack(), by.unpack());
    match (parts.class, by.class) {
        (Class::Infinity, Class::Infinity) if by.sign => return invalid(env),
        (Class::Zero, Class::Infinity) if !by.sign => return invalid(env),
        _ => note_denormal(env, &[&parts, &by]),
    }
    match (parts.class, by.class) {
        (Class::Zero | Class::Infinity, _) => return x,
        (_, Class::Infinity) => {
            return if by.sign { zero(parts.sign) } else { infinity(parts.sign) };
        }
        _ => {}
    }
    // Beyond 2^16 everything overflows or underflows.
    let magnitude = match by.exp {
        _ if by.class == Class::Zero => 0,
        ..0 => 0,
        0..16 => (by.sig >> (63 - by.exp)) as i32,
        _ => 0x1_0000,
    };
    let exp = parts.exp + if by.sign { -magnitude } else { magnitude };
    F80::pack(&round_parts::<F80>(env, parts.sign, exp, parts.sig, 0, 64))
}

/// FXTRACT: the exponent as a number, and the significand with exponent 0 to push.
pub(super) fn fxtract(x: F80, env: &mut Env) -> (F80, F80) {
    if let Some(nan) = nan(x, x, env) {
        return (nan, nan);
    }
    let parts = x.unpack();
    note_denormal(env, &[&parts]);
    match parts.class {
        Class::Zero => {
            env.raise(Flags::ZERO_DIVIDE);
            (infinity(true), x)
        }
        Class::Infinity => (infinity(false), x),
        _ => {
            let exponent = float::from_i64(parts.exp.into(), &mut Env::extended());
            (exponent, F80::pack(&Parts::finite(parts.sign, 0, parts.sig)))
        }
    }
}
