//! Addition, subtraction, multiplication, division, square root.

use super::format::{note_denormal, propagate};
use super::round::{HALF, normalised, round_parts, shift_right_sticky};
use super::{Class, Env, Flags, Format, Parts};

/// `a + b`.
#[inline]
pub fn add<F: Format>(a: F, b: F, env: &mut Env) -> F {
    if let Some(result) = F::fast_add(a, b, env) {
        return result;
    }
    add_parts(&a.operand(env), &b.operand(env), env)
}

/// `a - b`.
#[inline]
pub fn sub<F: Format>(a: F, b: F, env: &mut Env) -> F {
    if let Some(result) = F::fast_sub(a, b, env) {
        return result;
    }
    sub_parts(&a.operand(env), &b.operand(env), env)
}

/// `a * b`.
#[inline]
pub fn mul<F: Format>(a: F, b: F, env: &mut Env) -> F {
    if let Some(result) = F::fast_mul(a, b, env) {
        return result;
    }
    mul_parts(&a.operand(env), &b.operand(env), env)
}

/// `a / b`.
#[inline]
pub fn div<F: Format>(a: F, b: F, env: &mut Env) -> F {
    if let Some(result) = F::fast_div(a, b, env) {
        return result;
    }
    div_parts(&a.operand(env), &b.operand(env), env)
}

/// Square root of `a`.
#[inline]
pub fn sqrt<F: Format>(a: F, env: &mut Env) -> F {
    if let Some(result) = F::fast_sqrt(a, env) {
        return result;
    }
    sqrt_parts(&a.operand(env), env)
}

fn invalid<F: Format>(env: &mut Env) -> F {
    env.raise(Flags::INVALID);
    F::pack(&Parts::indefinite())
}

/// Rounds to the format, to the precision in force.
#[inline]
fn finish<F: Format>(env: &mut Env, sign: bool, exp: i32, hi: u64, lo: u64) -> F {
    let precision = F::precision(env);
    F::pack(&round_parts::<F>(env, sign, exp, hi, lo, precision))
}

/// [`add`] of parts, which may come from other formats.
pub fn add_parts<F: Format>(a: &Parts, b: &Parts, env: &mut Env) -> F {
    signed_sum(a, b, false, env)
}

/// [`sub`] of parts.
pub fn sub_parts<F: Format>(a: &Parts, b: &Parts, env: &mut Env) -> F {
    signed_sum(a, b, true, env)
}

fn signed_sum<F: Format>(a: &Parts, b: &Parts, negate: bool, env: &mut Env) -> F {
    if let Some(nan) = propagate(env, a, b) {
        return F::pack(&nan);
    }
    let b_sign = b.sign ^ negate;
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if a.sign != b_sign => return invalid(env),
        (Class::Infinity, _) => {
            note_denormal(env, a, b);
            return F::pack(&Parts::infinity(a.sign));
        }
        (_, Class::Infinity) => {
            note_denormal(env, a, b);
            return F::pack(&Parts::infinity(b_sign));
        }
        _ => note_denormal(env, a, b),
    }
    match (a.class, b.class) {
        (Class::Zero, Class::Zero) => {
            let sign = if a.sign == b_sign { a.sign } else { cancelled_sign(env) };
            F::pack(&Parts::zero(sign))
        }
        (Class::Zero, _) => finish(env, b_sign, b.exp, b.sig, 0),
        (_, Class::Zero) => finish(env, a.sign, a.exp, a.sig, 0),
        _ => {
            let a_less = (a.exp, a.sig) < (b.exp, b.sig);
            let (x, x_sign, y) = if a_less { (b, b_sign, a) } else { (a, a.sign, b) };
            // One bit of headroom above, 63 of guard below.
            let big = u128::from(x.sig) << 63;
            let small =
                shift_right_sticky(u128::from(y.sig) << 63, (x.exp - y.exp).min(128) as u32);
            let sum = if a.sign == b_sign { big + small } else { big - small };
            if sum == 0 {
                return F::pack(&Parts::zero(cancelled_sign(env)));
            }
            let (hi, lo, shift) = normalised(sum);
            finish(env, x_sign, x.exp + 1 - shift as i32, hi, lo)
        }
    }
}

/// The sign of an exact zero sum.
fn cancelled_sign(env: &Env) -> bool {
    env.rounding == super::Rounding::Down
}

/// [`mul`] of parts.
pub fn mul_parts<F: Format>(a: &Parts, b: &Parts, env: &mut Env) -> F {
    if let Some(nan) = propagate(env, a, b) {
        return F::pack(&nan);
    }
    let sign = a.sign ^ b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => return invalid(env),
        (Class::Infinity, _) | (_, Class::Infinity) => {
            note_denormal(env, a, b);
            return F::pack(&Parts::infinity(sign));
        }
        (Class::Zero, _) | (_, Class::Zero) => {
            note_denormal(env, a, b);
            return F::pack(&Parts::zero(sign));
        }
        _ => note_denormal(env, a, b),
    }
    let product = u128::from(a.sig) * u128::from(b.sig);
    let (hi, lo, shift) = normalised(product);
    finish(env, sign, a.exp + b.exp + 1 - shift as i32, hi, lo)
}

/// [`div`] of parts.
pub fn div_parts<F: Format>(a: &Parts, b: &Parts, env: &mut Env) -> F {
    if let Some(nan) = propagate(env, a, b) {
        return F::pack(&nan);
    }
    let sign = a.sign ^ b.sign;
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => return invalid(env),
        (Class::Infinity, _) => {
            note_denormal(env, a, b);
            return F::pack(&Parts::infinity(sign));
        }
        (_, Class::Infinity) | (Class::Zero, _) => {
            note_denormal(env, a, b);
            return F::pack(&Parts::zero(sign));
        }
        (_, Class::Zero) => {
            // Found before a denormal dividend is.
            env.raise(Flags::ZERO_DIVIDE);
            return F::pack(&Parts::infinity(sign));
        }
        _ => note_denormal(env, a, b),
    }
    let less = a.sig < b.sig;
    let divisor = u128::from(b.sig);
    let dividend = u128::from(a.sig) << if less { 64 } else { 63 };
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    finish(env, sign, a.exp - b.exp - i32::from(less), quotient as u64, below(rest, divisor))
}

/// What lies below a truncated quotient: nothing, less than, exactly or more than one half.
fn below(rest: u128, divisor: u128) -> u64 {
    use core::cmp::Ordering::{Equal, Greater, Less};
    match (rest * 2).cmp(&divisor) {
        _ if rest == 0 => 0,
        Less => 1,
        Equal => HALF,
        Greater => HALF | 1,
    }
}

/// [`sqrt`] of parts.
pub fn sqrt_parts<F: Format>(a: &Parts, env: &mut Env) -> F {
    if let Some(nan) = propagate(env, a, a) {
        return F::pack(&nan);
    }
    match a.class {
        Class::Zero => return F::pack(a),
        _ if a.sign => return invalid(env),
        Class::Infinity => return F::pack(a),
        _ => note_denormal(env, a, a),
    }
    // A radicand of 127 or 128 bits has a root of 64.
    let radicand = u128::from(a.sig) << if a.exp & 1 == 0 { 63 } else { 64 };
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    let lo = match rest {
        0 => 0,
        // (root + 1/2)^2 = root^2 + root + 1/4.
        _ if rest > root => HALF | 1,
        _ => 1,
    };
    finish(env, false, a.exp >> 1, root as u64, lo)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::{F32, F64, F80, NanRule, Rounding};

    fn f64_env(rounding: Rounding) -> Env {
        Env { rounding, nan: NanRule::First, ..Env::extended() }
    }

    fn sum(a: f64, b: f64, rounding: Rounding) -> (f64, Flags) {
        let mut env = f64_env(rounding);
        let result = add(F64(a.to_bits()), F64(b.to_bits()), &mut env);
        (f64::from_bits(result.0), env.raised)
    }

    #[test]
    fn ties_go_to_even_and_the_other_modes_to_their_side() {
        let half_ulp = f64::EPSILON / 2.0;
        let up = 1.0 + f64::EPSILON;
        assert_eq!(sum(1.0, half_ulp, Rounding::Nearest), (1.0, Flags::INEXACT));
        assert_eq!(sum(up, half_ulp, Rounding::Nearest), (up + f64::EPSILON, Flags::INEXACT));
        assert_eq!(sum(1.0, half_ulp, Rounding::Up), (up, Flags::INEXACT));
        assert_eq!(sum(1.0, half_ulp, Rounding::Down), (1.0, Flags::INEXACT));
        assert_eq!(sum(-1.0, -half_ulp, Rounding::Down), (-up, Flags::INEXACT));
        assert_eq!(sum(-1.0, -half_ulp, Rounding::Zero), (-1.0, Flags::INEXACT));
    }

    #[test]
    fn a_cancelled_sum_is_minus_zero_only_when_rounding_down() {
        assert!(sum(1.5, -1.5, Rounding::Nearest).0.is_sign_positive());
        assert!(sum(1.5, -1.5, Rounding::Down).0.is_sign_negative());
    }

    #[test]
    fn overflow_gives_infinity_or_the_largest_value_by_rounding() {
        let both = Flags::OVERFLOW | Flags::INEXACT;
        assert_eq!(sum(f64::MAX, f64::MAX, Rounding::Nearest), (f64::INFINITY, both));
        assert_eq!(sum(f64::MAX, f64::MAX, Rounding::Zero), (f64::MAX, both));
        assert_eq!(sum(f64::MAX, f64::MAX, Rounding::Down), (f64::MAX, both));
        assert_eq!(sum(f64::MIN, f64::MIN, Rounding::Down), (f64::NEG_INFINITY, both));
    }

    #[test]
    fn an_exact_denormal_product_raises_underflow_only_if_unmasked_or_flushed() {
        let (a, b) = (F64(f64::MIN_POSITIVE.to_bits()), F64(0.5f64.to_bits()));
        let mut env = f64_env(Rounding::Nearest);
        assert_eq!(mul(a, b, &mut env), F64(1 << 51));
        assert_eq!(env.raised, Flags::NONE);
        env.masked = Flags::ALL.without(Flags::UNDERFLOW);
        mul(a, b, &mut env);
        assert_eq!(env.raised, Flags::UNDERFLOW);
        let mut env = Env { flush_to_zero: true, ..f64_env(Rounding::Nearest) };
        assert_eq!(mul(a, b, &mut env), F64(0));
        assert_eq!(env.raised, Flags::UNDERFLOW | Flags::INEXACT);
    }

    #[test]
    fn denormals_are_zero_hides_the_denormal() {
        let tiny = F32(1);
        let mut env = f64_env(Rounding::Nearest);
        assert_eq!(add(tiny, tiny, &mut env), F32(2));
        assert_eq!(env.raised, Flags::DENORMAL);
        let mut env = Env { denormals_are_zero: true, ..f64_env(Rounding::Nearest) };
        assert_eq!(add(tiny, tiny, &mut env), F32(0));
        assert_eq!(env.raised, Flags::NONE);
    }

    #[test]
    fn division_tells_zero_by_zero_from_one_by_zero() {
        let (one, zero) = (F32(0x3F80_0000), F32(0x8000_0000));
        let mut env = f64_env(Rounding::Nearest);
        assert_eq!(div(one, zero, &mut env), F32(0xFF80_0000));
        assert_eq!(env.raised, Flags::ZERO_DIVIDE);
        let mut env = f64_env(Rounding::Nearest);
        assert_eq!(div(zero, zero, &mut env), F32(0xFFC0_0000));
        assert_eq!(env.raised, Flags::INVALID);
    }

    #[test]
    fn the_two_nan_rules_differ() {
        let (small, large) = (F64(0x7FF8_0000_0000_0001), F64(0xFFF8_0000_0000_0002));
        let mut env = f64_env(Rounding::Nearest);
        assert_eq!(add(small, large, &mut env), small);
        env.nan = NanRule::Larger;
        assert_eq!(add(small, large, &mut env), large);
        assert_eq!(env.raised, Flags::NONE);
        let signalling = F64(0x7FF0_0000_0000_0005);
        assert_eq!(add(signalling, small, &mut env), small);
        assert_eq!(env.raised, Flags::INVALID);
    }

    #[test]
    fn precision_control_rounds_80_bit_results_short() {
        let third = |precision| {
            let mut env = Env { precision, ..Env::extended() };
            div(F80::ONE, F80 { head: 0x4000, sig: 3 << 62 }, &mut env).sig
        };
        assert_eq!(third(64), 0xAAAA_AAAA_AAAA_AAAB);
        assert_eq!(third(53), 0xAAAA_AAAA_AAAA_A800);
        assert_eq!(third(24), 0xAAAA_AB00_0000_0000);
    }

    #[test]
    fn an_unmasked_overflow_wraps_the_exponent() {
        let huge = F80 { head: 0x7FFE, sig: 1 << 63 };
        let mut env = Env { masked: Flags::ALL.without(Flags::OVERFLOW), ..Env::extended() };
        assert_eq!(add(huge, huge, &mut env), F80 { head: 0x7FFF - 24576, sig: 1 << 63 });
        assert_eq!(env.raised, Flags::OVERFLOW);
    }

    #[test]
    fn the_root_of_two_is_the_nearest() {
        let mut env = f64_env(Rounding::Nearest);
        let root = sqrt(F64(2f64.to_bits()), &mut env);
        assert_eq!(f64::from_bits(root.0), core::f64::consts::SQRT_2);
        let root = sqrt(F64((-2f64).to_bits()), &mut env);
        assert_eq!(root, F64(0xFFF8_0000_0000_0000));
        assert_eq!(env.raised, Flags::INEXACT | Flags::INVALID);
    }
}
