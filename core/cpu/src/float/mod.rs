//! Software floating point: binary32, binary64 and the x87 80-bit extended format, with the
//! exception flags, roundings and NaN rules of the guest (IEEE 754-2008; Intel SDM vol. 1,
//! chapters 4, 8 and 11).
//!
//! Every operation takes an [`Env`]: the controls it obeys and the flags it raises. Nothing here
//! uses the host's floating point except where the result and the flags are provably the same.

mod arith;
mod bcd;
mod compare;
mod convert;
pub mod extended;
mod fast;
mod format;
mod remainder;
mod round;
mod wide;

pub use arith::{add, add_parts, div, div_parts, mul, mul_parts, sqrt, sqrt_parts, sub, sub_parts};
pub use bcd::{from_bcd, to_bcd};
pub use compare::{Relation, compare, compare_parts, compare_quiet};
pub use convert::{
    convert, convert_parts, from_i64, integral_magnitude, round_to_integral, to_i16, to_i32, to_i64,
};
pub use format::{Class, F32, F64, F80, Format, Parts};
pub use remainder::{Quotient, Remainder, remainder};
pub use round::round_parts;
pub use wide::Wide;

use core::ops::{BitOr, BitOrAssign};

/// Exception flags, in the bit order of the x87 status word and of MXCSR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// Nothing raised.
    pub const NONE: Self = Self(0);
    /// Invalid operation.
    pub const INVALID: Self = Self(1);
    /// An operand was denormal.
    pub const DENORMAL: Self = Self(2);
    /// A finite value was divided by zero.
    pub const ZERO_DIVIDE: Self = Self(4);
    /// The result exceeded the format's range.
    pub const OVERFLOW: Self = Self(8);
    /// The result was tiny (and, where underflow is masked, inexact).
    pub const UNDERFLOW: Self = Self(16);
    /// The result was rounded.
    pub const INEXACT: Self = Self(32);
    /// All six.
    pub const ALL: Self = Self(63);

    /// Whether any flag of `other` is set here.
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flags set here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Rounding modes, in the encoding of the x87 control word and of MXCSR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// Towards zero.
    Zero,
}

impl Rounding {
    /// The mode of a two-bit rounding-control field; higher bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Nearest,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// Which NaN an operation with two NaN operands gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NanRule {
    /// The first operand (SSE; SDM vol. 1, table 4-7).
    #[default]
    First,
    /// A quiet one before a signalling one, then the larger significand (x87; same table).
    Larger,
}

/// What an operation obeys and what it reports.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Rounding mode.
    pub rounding: Rounding,
    /// Significand bits to which 80-bit results are rounded: 24, 53 or 64 (x87 precision
    /// control); other formats ignore it.
    pub precision: u32,
    /// Denormal operands count as zero.
    pub denormals_are_zero: bool,
    /// Tiny results become zero (only while underflow is masked).
    pub flush_to_zero: bool,
    /// Choice between two NaNs.
    pub nan: NanRule,
    /// The exceptions that are masked.
    pub masked: Flags,
    /// The exceptions raised so far (sticky).
    pub raised: Flags,
    /// Whether the last rounding increased the magnitude (x87 C1).
    pub rounded_up: bool,
}

impl Env {
    /// Round to nearest, full precision, everything masked, x87 NaN rule.
    #[must_use]
    pub const fn extended() -> Self {
        Self {
            rounding: Rounding::Nearest,
            precision: 64,
            denormals_are_zero: false,
            flush_to_zero: false,
            nan: NanRule::Larger,
            masked: Flags::ALL,
            raised: Flags::NONE,
            rounded_up: false,
        }
    }

    /// Raises `flags`.
    #[inline]
    pub fn raise(&mut self, flags: Flags) {
        self.raised |= flags;
    }
}
