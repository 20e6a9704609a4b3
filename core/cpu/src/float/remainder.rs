//! The x87 partial remainders (SDM vol. 2, FPREM and FPREM1).

use super::format::{note_denormal, propagate};
use super::round::round_parts;
use super::{Class, Env, F80, Flags, Format, Parts};

/// A partial remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The new value.
    pub value: F80,
    /// The low bits of the quotient, if the reduction is complete.
    pub quotient: Option<u64>,
}

/// One step of `a rem b`; `nearest`: the quotient is rounded (FPREM1), else truncated (FPREM).
pub fn remainder(a: F80, b: F80, nearest: bool, env: &mut Env) -> Remainder {
    let (a, b) = (a.operand(env), b.operand(env));
    let complete = |parts: &Parts| Remainder { value: F80::pack(parts), quotient: Some(0) };
    if let Some(nan) = propagate(env, &a, &b) {
        return complete(&nan);
    }
    if a.class == Class::Infinity || b.class == Class::Zero {
        env.raise(Flags::INVALID);
        return complete(&Parts::indefinite());
    }
    note_denormal(env, &a, &b);
    if a.class == Class::Zero {
        return complete(&a);
    }
    let exact = |env: &mut Env, sign, exp, sig: u128| {
        if sig == 0 {
            return F80::pack(&Parts::zero(a.sign));
        }
        let shift = sig.leading_zeros();
        let sig = sig << shift;
        // The remainder is exact: at most 64 bits.
        F80::pack(&round_parts::<F80>(
            env,
            sign,
            exp + 64 - shift as i32,
            (sig >> 64) as u64,
            0,
            64,
        ))
    };
    let distance = a.exp - b.exp;
    if b.class == Class::Infinity || distance < -1 || distance == -1 && !nearest {
        let value = exact(env, a.sign, a.exp, u128::from(a.sig));
        return Remainder { value, quotient: Some(0) };
    }
    if distance >= 64 {
        // Reduce by 32 to 63 bits; the rest is the loop's.
        let step = (distance & 31 | 32) as u32;
        let sig = (u128::from(a.sig) << step) % u128::from(b.sig);
        let value = exact(env, a.sign, a.exp - step as i32, sig);
        return Remainder { value, quotient: None };
    }
    // In units of the last bit of `b` (of half of it for distance -1).
    let (numerator, divisor, exp) = if distance < 0 {
        (u128::from(a.sig), u128::from(b.sig) << 1, b.exp - 1)
    } else {
        (u128::from(a.sig) << distance, u128::from(b.sig), b.exp)
    };
    let (mut quotient, mut rest) = (numerator / divisor, numerator % divisor);
    let mut sign = a.sign;
    if nearest && (rest * 2 > divisor || rest * 2 == divisor && quotient & 1 != 0) {
        rest = divisor - rest;
        quotient += 1;
        sign = !sign;
    }
    let value = exact(env, sign, exp, rest);
    Remainder { value, quotient: Some(quotient as u64) }
}
