//! Packed decimal: 18 digits in 9 bytes, the sign in the tenth (SDM vol. 1, section 4.7).

use super::convert::integral_magnitude;
use super::{Env, F80, Flags, Format, Parts, Rounding};

/// The indefinite packed decimal.
const INDEFINITE: u128 = 0xFFFF_C000_0000_0000_0000;

/// The value of a packed decimal; digits above 9 count as they are.
#[must_use]
pub fn from_bcd(bits: u128) -> F80 {
    let magnitude = (0..18).rev().fold(0u64, |sum, digit| {
        sum.wrapping_mul(10).wrapping_add((bits >> (4 * digit)) as u64 & 15)
    });
    let sign = bits >> 79 & 1 != 0;
    if magnitude == 0 {
        return F80::ZERO.with_sign(sign);
    }
    let shift = magnitude.leading_zeros();
    F80::pack(&Parts::finite(sign, 63 - shift as i32, magnitude << shift))
}

/// The packed decimal nearest to a value under a rounding; out of range: invalid, indefinite.
pub fn to_bcd(a: &Parts, rounding: Rounding, env: &mut Env) -> u128 {
    env.rounded_up = false;
    let found = integral_magnitude(a, rounding)
        .filter(|&(magnitude, ..)| magnitude < 1_000_000_000_000_000_000);
    let Some((mut magnitude, inexact, up)) = found else {
        env.raise(Flags::INVALID);
        return INDEFINITE;
    };
    if inexact {
        env.raise(Flags::INEXACT);
        env.rounded_up = up;
    }
    let mut bits = u128::from(a.sign) << 79;
    for digit in 0..18 {
        bits |= u128::from(magnitude % 10) << (4 * digit);
        magnitude /= 10;
    }
    bits
}
