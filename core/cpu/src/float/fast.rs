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
