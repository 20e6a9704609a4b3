//! Conversions between formats and integers, and rounding to integers.

use super::format::{note_denormal, propagate};
use super::round::{HALF, round_parts, rounds_up};
use super::{Class, Env, Flags, Format, Parts, Rounding};

/// Converts between formats, to the full precision of the new one.
pub fn convert<F: Format, G: Format>(a: F, env: &mut Env) -> G {
    convert_parts(&a.operand(env), env)
}

/// [`convert`] of parts.
pub fn convert_parts<G: Format>(a: &Parts, env: &mut Env) -> G {
    if let Some(nan) = propagate(env, a, a) {
        return G::pack(&nan);
    }
    note_denormal(env, a, a);
    match a.class {
        Class::Finite => G::pack(&round_parts::<G>(env, a.sign, a.exp, a.sig, 0, G::PRECISION)),
        _ => G::pack(a),
    }
}

/// From a signed integer.
pub fn from_i64<F: Format>(value: i64, env: &mut Env) -> F {
    if value == 0 {
        return F::pack(&Parts::zero(false));
    }
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    let sign = value < 0;
    let sig = magnitude << shift;
    F::pack(&round_parts::<F>(env, sign, 63 - shift as i32, sig, 0, F::PRECISION))
}

/// The magnitude of a finite value rounded to an integer, whether that was inexact and whether it
/// went up; `None` if it has more than 64 bits.
#[must_use]
pub fn integral_magnitude(a: &Parts, rounding: Rounding) -> Option<(u64, bool, bool)> {
    if a.class != Class::Finite {
        return (a.class == Class::Zero).then_some((0, false, false));
    }
    let (whole, frac) = match a.exp {
        63 => (a.sig, 0),
        0..63 => (a.sig >> (63 - a.exp), a.sig << (a.exp + 1)),
        -1 => (0, a.sig),
        ..-1 => (0, 1),
        _ => return None,
    };
    let up = rounds_up(rounding, a.sign, whole & 1 != 0, frac);
    Some((whole.checked_add(u64::from(up))?, frac != 0, up))
}

/// A signed integer between `-limit` and `limit - 1`, or `None` with invalid raised.
fn to_integer(a: &Parts, rounding: Rounding, limit: u64, env: &mut Env) -> Option<i64> {
    env.rounded_up = false;
    let found = integral_magnitude(a, rounding)
        .filter(|&(magnitude, ..)| magnitude < limit || a.sign && magnitude == limit);
    let Some((magnitude, inexact, up)) = found else {
        env.raise(Flags::INVALID);
        return None;
    };
    if inexact {
        env.raise(Flags::INEXACT);
        env.rounded_up = up;
    }
    let value = magnitude as i64;
    Some(if a.sign { value.wrapping_neg() } else { value })
}

/// To a 16-bit integer; out of range: invalid, the smallest integer.
pub fn to_i16(a: &Parts, rounding: Rounding, env: &mut Env) -> i16 {
    to_integer(a, rounding, 1 << 15, env).map_or(i16::MIN, |v| v as i16)
}

/// To a 32-bit integer, likewise.
pub fn to_i32(a: &Parts, rounding: Rounding, env: &mut Env) -> i32 {
    to_integer(a, rounding, 1 << 31, env).map_or(i32::MIN, |v| v as i32)
}

/// To a 64-bit integer, likewise.
pub fn to_i64(a: &Parts, rounding: Rounding, env: &mut Env) -> i64 {
    to_integer(a, rounding, HALF, env).unwrap_or(i64::MIN)
}

/// Rounds to an integer in the same format.
pub fn round_to_integral<F: Format>(a: F, env: &mut Env) -> F {
    let a = a.operand(env);
    env.rounded_up = false;
    if let Some(nan) = propagate(env, &a, &a) {
        return F::pack(&nan);
    }
    note_denormal(env, &a, &a);
    if a.class != Class::Finite || a.exp >= F::PRECISION as i32 - 1 {
        return F::pack(&a);
    }
    // Below 2^63, so it fits.
    let (magnitude, inexact, up) = integral_magnitude(&a, env.rounding).unwrap_or_default();
    if inexact {
        env.raise(Flags::INEXACT);
        env.rounded_up = up;
    }
    if magnitude == 0 {
        return F::pack(&Parts::zero(a.sign));
    }
    let shift = magnitude.leading_zeros();
    F::pack(&Parts::finite(a.sign, 63 - shift as i32, magnitude << shift))
}
