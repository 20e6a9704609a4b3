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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::{F32, F64, F80};

    #[test]
    fn a_signalling_nan_keeps_its_payload_and_becomes_quiet() {
        let mut env = Env::extended();
        let wide: F80 = convert(F32(0xFF80_0001), &mut env);
        assert_eq!(wide, F80 { head: 0xFFFF, sig: 0xC000_0100_0000_0000 });
        assert_eq!(env.raised, Flags::INVALID);
        let back: F32 = convert(wide, &mut env);
        assert_eq!(back, F32(0xFFC0_0001));
    }

    #[test]
    fn integers_out_of_range_are_invalid_and_not_inexact() {
        let mut env = Env::extended();
        let big = F64(2_147_483_647.5f64.to_bits()).unpack();
        assert_eq!(to_i32(&big, Rounding::Zero, &mut env), i32::MAX);
        assert_eq!(env.raised, Flags::INEXACT);
        let mut env = Env::extended();
        assert_eq!(to_i32(&big, Rounding::Nearest, &mut env), i32::MIN);
        assert_eq!(env.raised, Flags::INVALID);
        let lowest = F64((-2_147_483_648.0f64).to_bits()).unpack();
        let mut env = Env::extended();
        assert_eq!(to_i32(&lowest, Rounding::Zero, &mut env), i32::MIN);
        assert_eq!(env.raised, Flags::NONE);
    }

    #[test]
    fn rounding_to_an_integer_keeps_the_sign_of_zero() {
        let mut env = Env::extended();
        let x = F64((-0.3f64).to_bits());
        assert_eq!(round_to_integral(x, &mut env), F64((-0.0f64).to_bits()));
        env.rounding = Rounding::Down;
        assert_eq!(round_to_integral(x, &mut env), F64((-1.0f64).to_bits()));
        let x = F64(2.5f64.to_bits());
        env.rounding = Rounding::Nearest;
        assert_eq!(round_to_integral(x, &mut env), F64(2.0f64.to_bits()));
    }

    #[test]
    fn a_double_too_small_for_single_goes_denormal() {
        let mut env = Env::extended();
        let x: F32 = convert(F64((f64::from(f32::from_bits(3)) * 1.1).to_bits()), &mut env);
        assert_eq!(x, F32(3));
        assert_eq!(env.raised, Flags::UNDERFLOW | Flags::INEXACT);
    }
}
