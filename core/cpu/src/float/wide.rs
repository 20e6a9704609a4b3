//! Arithmetic with 128-bit significands, for computing elementary functions to the last bit of
//! an 80-bit result. Truncating, no flags, no special values, exponents far from their ends.

use core::ops::{Add, Div, Mul, Sub};

use super::{Class, Env, F80, Flags, Format, Parts, round_parts};

/// `(-1)^sign * sig / 2^127 * 2^exp`; bit 127 of `sig` is set, or `sig` is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// Sign bit.
    pub sign: bool,
    /// Exponent of the top bit.
    pub exp: i32,
    /// Significand.
    pub sig: u128,
}

impl Wide {
    /// Zero.
    pub const ZERO: Self = Self { sign: false, exp: 0, sig: 0 };
    /// One.
    pub const ONE: Self = Self { sign: false, exp: 0, sig: 1 << 127 };
    /// Natural logarithm of 2.
    pub const LN2: Self =
        Self { sign: false, exp: -1, sig: 0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF };
    /// Its inverse.
    pub const LOG2_E: Self =
        Self { sign: false, exp: 0, sig: 0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E89 };
    /// Pi.
    pub const PI: Self =
        Self { sign: false, exp: 1, sig: 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1 };

    /// `sig / 2^127 * 2^exp` with any `sig`.
    #[must_use]
    pub const fn new(sign: bool, exp: i32, sig: u128) -> Self {
        if sig == 0 {
            return Self::ZERO;
        }
        let shift = sig.leading_zeros();
        Self { sign, exp: exp - shift as i32, sig: sig << shift }
    }

    /// The value of finite parts.
    #[must_use]
    pub fn from_parts(parts: &Parts) -> Self {
        if parts.class == Class::Finite {
            Self { sign: parts.sign, exp: parts.exp, sig: u128::from(parts.sig) << 64 }
        } else {
            Self::ZERO
        }
    }

    /// An integer.
    #[must_use]
    pub const fn from_int(value: i64) -> Self {
        Self::new(value < 0, 127, value.unsigned_abs() as u128)
    }

    /// Whether it is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.sig == 0
    }

    /// `-self`.
    #[must_use]
    pub const fn neg(self) -> Self {
        Self { sign: !self.sign, ..self }
    }

    /// Without the sign.
    #[must_use]
    pub const fn abs(self) -> Self {
        Self { sign: false, ..self }
    }

    /// `self * 2^by`.
    #[must_use]
    pub const fn scale(self, by: i32) -> Self {
        Self { exp: self.exp + by, ..self }
    }

    /// Whether the magnitude is less than that of `other`.
    #[must_use]
    pub fn below(self, other: Self) -> bool {
        match (self.sig, other.sig) {
            (_, 0) => false,
            (0, _) => true,
            _ => (self.exp, self.sig) < (other.exp, other.sig),
        }
    }

    /// `self / divisor`, an integer other than zero.
    #[must_use]
    pub fn div_int(self, divisor: u32) -> Self {
        if self.sig == 0 {
            return self;
        }
        let divisor = u128::from(divisor.max(1));
        let (quotient, rest) = (self.sig / divisor, self.sig % divisor);
        let shift = quotient.leading_zeros();
        let sig = quotient << shift | ((rest << shift) / divisor);
        Self { sign: self.sign, exp: self.exp - shift as i32, sig }
    }

    /// Rounds to 80 bits as the result of an inexact function.
    #[must_use]
    pub fn round(self, env: &mut Env) -> F80 {
        if self.sig == 0 {
            return F80::ZERO.with_sign(self.sign);
        }
        // What is denormal counts as inexact, so underflow is raised with it.
        let tiny = u64::from(self.exp < F80::EMIN);
        let (hi, lo) = ((self.sig >> 64) as u64, self.sig as u64 | tiny);
        env.raise(Flags::INEXACT);
        F80::pack(&round_parts::<F80>(env, self.sign, self.exp, hi, lo, 64))
    }
}

impl Add for Wide {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        if other.sig == 0 {
            return self;
        }
        if self.sig == 0 {
            return other;
        }
        let (x, y) = if self.below(other) { (other, self) } else { (self, other) };
        let distance = (x.exp - y.exp) as u32;
        let small = if distance < 128 { y.sig >> distance } else { 0 };
        if x.sign == y.sign {
            let (sum, carry) = x.sig.overflowing_add(small);
            if carry {
                return Self { sign: x.sign, exp: x.exp + 1, sig: sum >> 1 | 1 << 127 };
            }
            Self { sig: sum, ..x }
        } else {
            Self::new(x.sign, x.exp, x.sig - small)
        }
    }
}

impl Sub for Wide {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.add(other.neg())
    }
}

impl Mul for Wide {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let low = |v: u128| v & u128::from(u64::MAX);
        let (a1, a0) = (self.sig >> 64, low(self.sig));
        let (b1, b0) = (other.sig >> 64, low(other.sig));
        let (mid1, mid2) = (a1 * b0, a0 * b1);
        let carry = (low(mid1) + low(mid2) + ((a0 * b0) >> 64)) >> 64;
        let high = a1 * b1 + (mid1 >> 64) + (mid2 >> 64) + carry;
        Self::new(self.sign ^ other.sign, self.exp + other.exp + 1, high)
    }
}

/// Zero for a zero divisor.
impl Div for Wide {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        if self.sig == 0 || other.sig == 0 {
            return Self::ZERO;
        }
        // One quotient bit at a time; the remainder may have 129 bits.
        let mut quotient = 0u128;
        let mut rest = self.sig;
        let mut carry = false;
        let mut exp = self.exp - other.exp;
        if rest < other.sig {
            exp -= 1;
            carry = true;
            rest <<= 1;
        }
        for _ in 0..128 {
            let fits = carry || rest >= other.sig;
            quotient = quotient << 1 | u128::from(fits);
            if fits {
                rest = rest.wrapping_sub(other.sig);
            }
            carry = rest >> 127 != 0;
            rest <<= 1;
        }
        Self { sign: self.sign ^ other.sign, exp, sig: quotient }
    }
}
