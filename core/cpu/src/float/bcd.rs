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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::from_i64;

    #[test]
    fn digits_survive_the_way_there_and_back() {
        for value in [0, 7, -42, 999_999_999_999_999_999, -123_456_789_012_345_678] {
            let float: F80 = from_i64(value, &mut Env::extended());
            let mut env = Env::extended();
            let bits = to_bcd(&float.unpack(), Rounding::Nearest, &mut env);
            assert_eq!(from_bcd(bits), float);
            assert_eq!(env.raised, Flags::NONE);
        }
        let float: F80 = from_i64(-42, &mut Env::extended());
        let bits = to_bcd(&float.unpack(), Rounding::Nearest, &mut Env::extended());
        assert_eq!(bits, 0x8000_0000_0000_0000_0042);
    }

    #[test]
    fn nineteen_digits_are_invalid() {
        let float: F80 = from_i64(1_000_000_000_000_000_000, &mut Env::extended());
        let mut env = Env::extended();
        assert_eq!(to_bcd(&float.unpack(), Rounding::Nearest, &mut env), INDEFINITE);
        assert_eq!(env.raised, Flags::INVALID);
    }
}
