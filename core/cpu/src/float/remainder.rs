//! The x87 partial remainders (SDM vol. 2, FPREM and FPREM1).

use super::format::{note_denormal, propagate};
use super::round::round_parts;
use super::{Class, Env, F80, Flags, Format, Parts};

/// The quotient of a remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotient {
    /// There is none: a NaN or an invalid operation.
    None,
    /// The reduction goes on.
    Partial,
    /// The reduction is complete; the low bits of the quotient.
    Complete(u64),
}

/// A partial remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// The new value.
    pub value: F80,
    /// The quotient so far.
    pub quotient: Quotient,
}

/// One step of `a rem b`; `nearest`: the quotient is rounded (FPREM1), else truncated (FPREM).
pub fn remainder(a: F80, b: F80, nearest: bool, env: &mut Env) -> Remainder {
    let (a, b) = (a.operand(env), b.operand(env));
    let without = |parts: &Parts, quotient| Remainder { value: F80::pack(parts), quotient };
    if let Some(nan) = propagate(env, &a, &b) {
        return without(&nan, Quotient::None);
    }
    if a.class == Class::Infinity || b.class == Class::Zero {
        env.raise(Flags::INVALID);
        return without(&Parts::indefinite(), Quotient::None);
    }
    note_denormal(env, &a, &b);
    if a.class == Class::Zero {
        return without(&a, Quotient::Complete(0));
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
        return Remainder { value, quotient: Quotient::Complete(0) };
    }
    if distance >= 64 {
        // Reduce by 32 to 63 bits; the rest is the loop's.
        let step = (distance & 31 | 32) as u32;
        let sig = (u128::from(a.sig) << step) % u128::from(b.sig);
        let value = exact(env, a.sign, a.exp - step as i32, sig);
        return Remainder { value, quotient: Quotient::Partial };
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
    Remainder { value, quotient: Quotient::Complete(quotient as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::from_i64;

    fn int(value: i64) -> F80 {
        from_i64(value, &mut Env::extended())
    }

    #[test]
    fn the_quotient_is_truncated_or_nearest() {
        let mut env = Env::extended();
        let truncated = remainder(int(17), int(5), false, &mut env);
        assert_eq!(truncated, Remainder { value: int(2), quotient: Quotient::Complete(3) });
        let nearest = remainder(int(18), int(5), true, &mut env);
        assert_eq!(nearest, Remainder { value: int(-2), quotient: Quotient::Complete(4) });
        assert_eq!(env.raised, Flags::NONE);
    }

    #[test]
    fn a_distant_dividend_takes_several_steps_to_the_exact_remainder() {
        // 2^200 mod 7 = 2^(200 mod 3) = 4.
        let mut value = F80 { head: 0x3FFF + 200, sig: 1 << 63 };
        let mut steps = 0;
        loop {
            let step = remainder(value, int(7), false, &mut Env::extended());
            value = step.value;
            steps += 1;
            if step.quotient != Quotient::Partial {
                break;
            }
        }
        assert_eq!(value, int(4));
        assert!((3..=7).contains(&steps));
    }
}
