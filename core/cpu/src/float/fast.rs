//! Host arithmetic where it is the guest's: rounding to nearest, operands zero or normal, inexact
//! raised already (it is sticky) or masked away by that, results well inside the normal range.

use super::{Env, F32, F64, Flags, Rounding};

/// Whether the environment allows host arithmetic.
#[inline]
pub(super) fn allowed(env: &Env) -> bool {
    env.rounding == Rounding::Nearest && env.raised.any(Flags::INEXACT)
}

macro_rules! fast {
    ($module:ident $format:ident $bits:ty, $host:ty) => {
        pub(super) mod $module {
            use super::{Env, allowed, $format};

            const MIN: $bits = <$host>::MIN_POSITIVE.to_bits();
            const INFINITY: $bits = <$host>::INFINITY.to_bits();

            /// Zero or normal.
            #[inline]
            fn plain(x: $bits) -> bool {
                let magnitude = x & (<$bits>::MAX >> 1);
                magnitude.wrapping_sub(MIN) < INFINITY - MIN || magnitude == 0
            }

            /// Finite and larger than the smallest normal value.
            #[inline]
            fn inside(x: $bits) -> bool {
                let magnitude = x & (<$bits>::MAX >> 1);
                magnitude.wrapping_sub(MIN + 1) < INFINITY - MIN - 1
            }

            #[inline]
            fn sum(a: $bits, b: $bits, result: $host, env: &Env) -> Option<$format> {
                let bits = result.to_bits();
                // A zero sum of such operands is exact.
                let good = inside(bits) || result == 0.0;
                (allowed(env) && plain(a) && plain(b) && good).then_some($format(bits))
            }

            #[inline]
            pub(in super::super) fn add(a: $bits, b: $bits, env: &Env) -> Option<$format> {
                sum(a, b, <$host>::from_bits(a) + <$host>::from_bits(b), env)
            }

            #[inline]
            pub(in super::super) fn sub(a: $bits, b: $bits, env: &Env) -> Option<$format> {
                sum(a, b, <$host>::from_bits(a) - <$host>::from_bits(b), env)
            }

            #[inline]
            pub(in super::super) fn mul(a: $bits, b: $bits, env: &Env) -> Option<$format> {
                let bits = (<$host>::from_bits(a) * <$host>::from_bits(b)).to_bits();
                (allowed(env) && plain(a) && plain(b) && inside(bits)).then_some($format(bits))
            }

            #[inline]
            pub(in super::super) fn div(a: $bits, b: $bits, env: &Env) -> Option<$format> {
                let bits = (<$host>::from_bits(a) / <$host>::from_bits(b)).to_bits();
                (allowed(env) && plain(a) && plain(b) && inside(bits)).then_some($format(bits))
            }

            #[inline]
            pub(in super::super) fn sqrt(a: $bits, env: &Env) -> Option<$format> {
                let positive = a.wrapping_sub(MIN) < INFINITY - MIN;
                (allowed(env) && positive).then(|| $format(<$host>::from_bits(a).sqrt().to_bits()))
            }
        }
    };
}

fast!(single F32 u32, f32);
fast!(double F64 u64, f64);

#[cfg(test)]
mod tests {
    use crate::float::{self, Env, F32, F64, Flags, Format};

    fn xorshift(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    type Operation<F> = fn(F, F, &mut Env) -> F;

    /// Every operation with inexact raised already, when the host may compute, and without.
    fn both_ways<F: Format + PartialEq + core::fmt::Debug>(a: F, b: F) -> u32 {
        let operations: [Operation<F>; 5] =
            [float::add, float::sub, float::mul, float::div, |a, _, env| float::sqrt(a, env)];
        let mut quick = 0;
        for operation in operations {
            let mut slow = Env::extended();
            let mut fast = Env { raised: Flags::INEXACT, ..Env::extended() };
            let expected = operation(a, b, &mut slow);
            assert_eq!(operation(a, b, &mut fast), expected);
            assert_eq!(fast.raised, slow.raised | Flags::INEXACT);
            quick += u32::from(F::fast_add(a, b, &fast).is_some());
        }
        quick
    }

    #[test]
    fn the_host_computes_what_the_software_computes() {
        let mut state = 0x1234_5678_9ABC_DEF1;
        let mut quick = 0;
        for _ in 0..50_000 {
            let (a, b) = (xorshift(&mut state), xorshift(&mut state));
            quick += both_ways(F32(a as u32), F32(b as u32));
            // Exponents near each other, so that sums are of interest.
            let near = |x: u64| x & !(0x7FF << 52) | (0x3F0 + (x >> 56 & 15)) << 52;
            quick += both_ways(F64(near(a)), F64(near(b)));
            both_ways(F64(a), F64(b));
        }
        assert!(quick > 50_000, "the host was allowed to compute {quick} times");
    }
}
