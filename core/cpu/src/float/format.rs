//! The formats, and the one unpacked form that all arithmetic works on.

use serde::{Deserialize, Serialize};

use super::fast::{double, single};
use super::{Env, Flags};

/// An IEEE binary32 value, by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct F32(pub u32);

/// An IEEE binary64 value, by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct F64(pub u64);

/// An x87 double extended value: sign and exponent, explicit integer bit.
/// Laid out as processors store it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(C)]
pub struct F80 {
    /// Significand, bit 63 the integer bit.
    pub sig: u64,
    /// Bit 15: sign; bits 14-0: biased exponent.
    pub head: u16,
}

impl F80 {
    /// The default NaN, "real indefinite".
    pub const INDEFINITE: Self = Self { head: 0xFFFF, sig: 0xC000_0000_0000_0000 };
    /// Plus zero.
    pub const ZERO: Self = Self { head: 0, sig: 0 };
    /// One.
    pub const ONE: Self = Self { head: 0x3FFF, sig: 1 << 63 };

    /// From the 80 bits of a memory image; higher bits are ignored.
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self { head: (bits >> 64) as u16, sig: bits as u64 }
    }

    /// The 80 bits of the memory image.
    #[must_use]
    pub const fn bits(self) -> u128 {
        (self.head as u128) << 64 | self.sig as u128
    }

    /// Whether the sign bit is set.
    #[must_use]
    pub const fn sign(self) -> bool {
        self.head & 0x8000 != 0
    }

    /// The biased exponent.
    #[must_use]
    pub const fn exponent(self) -> u16 {
        self.head & 0x7FFF
    }

    /// With the sign bit as given.
    #[must_use]
    pub const fn with_sign(self, sign: bool) -> Self {
        Self { head: self.head & 0x7FFF | (sign as u16) << 15, sig: self.sig }
    }
}

/// What kind of value an encoding stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Plus or minus zero.
    Zero,
    /// A non-zero finite value.
    Finite,
    /// Plus or minus infinity.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signalling NaN.
    Signalling,
    /// An 80-bit encoding that the x87 rejects (SDM vol. 1, table 8-3): pseudo-NaN,
    /// pseudo-infinity, unnormal.
    Unsupported,
}

/// A value taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Sign bit.
    pub sign: bool,
    /// Kind; the next two fields are meaningful for `Finite`, the last one also for NaNs.
    pub class: Class,
    /// Whether the encoding was denormal (or pseudo-denormal).
    pub denormal: bool,
    /// Unbiased exponent of the integer bit.
    pub exp: i32,
    /// Significand with the integer bit at bit 63; for NaNs the payload below it, bit 62 the
    /// quiet bit.
    pub sig: u64,
}

impl Parts {
    /// A signed zero.
    #[must_use]
    pub const fn zero(sign: bool) -> Self {
        Self { sign, class: Class::Zero, denormal: false, exp: 0, sig: 0 }
    }

    /// A signed infinity.
    #[must_use]
    pub const fn infinity(sign: bool) -> Self {
        Self { sign, class: Class::Infinity, denormal: false, exp: 0, sig: 1 << 63 }
    }

    /// The default NaN of x86: negative, quiet, no payload.
    #[must_use]
    pub const fn indefinite() -> Self {
        Self { sign: true, class: Class::Quiet, denormal: false, exp: 0, sig: 3 << 62 }
    }

    /// A finite value; `sig` has bit 63 set.
    #[must_use]
    pub const fn finite(sign: bool, exp: i32, sig: u64) -> Self {
        Self { sign, class: Class::Finite, denormal: false, exp, sig }
    }

    /// Whether this is a NaN of either kind.
    #[must_use]
    pub fn is_nan(&self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signalling)
    }

    /// This NaN made quiet.
    #[must_use]
    pub const fn quieted(self) -> Self {
        Self { class: Class::Quiet, sig: self.sig | 3 << 62, ..self }
    }
}

/// A floating-point format.
pub trait Format: Copy {
    /// Significand bits, the integer bit included.
    const PRECISION: u32;
    /// Smallest exponent of a normal value.
    const EMIN: i32;
    /// Largest exponent of a finite value.
    const EMAX: i32;
    /// How far the exponent of an unmasked overflow or underflow is wrapped (0: no result is
    /// delivered in that case).
    const WRAP: i32;

    /// Takes the encoding apart; no flags, denormals as they are.
    fn unpack(self) -> Parts;

    /// Puts parts together. A `Finite` must be representable: `sig` within the precision, and
    /// denormals as the (unnormalised) `sig` with `exp == EMIN`.
    fn pack(parts: &Parts) -> Self;

    /// The value with its sign bit replaced.
    #[must_use]
    fn with_sign_of(self, sign: bool) -> Self;

    /// The precision to which arithmetic in this format rounds.
    #[inline]
    fn precision(_env: &Env) -> u32 {
        Self::PRECISION
    }

    /// `a + b` if the host has the exact answer without flags to raise.
    #[inline]
    fn fast_add(_a: Self, _b: Self, _env: &Env) -> Option<Self> {
        None
    }

    /// `a - b`, likewise.
    #[inline]
    fn fast_sub(_a: Self, _b: Self, _env: &Env) -> Option<Self> {
        None
    }

    /// `a * b`, likewise.
    #[inline]
    fn fast_mul(_a: Self, _b: Self, _env: &Env) -> Option<Self> {
        None
    }

    /// `a / b`, likewise.
    #[inline]
    fn fast_div(_a: Self, _b: Self, _env: &Env) -> Option<Self> {
        None
    }

    /// The square root of `a`, likewise.
    #[inline]
    fn fast_sqrt(_a: Self, _env: &Env) -> Option<Self> {
        None
    }

    /// Takes an operand apart under `env`: denormals-are-zero.
    #[inline]
    fn operand(self, env: &Env) -> Parts {
        let parts = self.unpack();
        if parts.denormal && env.denormals_are_zero { Parts::zero(parts.sign) } else { parts }
    }
}

/// Unpacks an encoding whose integer bit is implied.
#[inline]
fn unpack_implicit(bits: u64, exp_bits: u32, frac_bits: u32) -> Parts {
    let sign = bits >> (exp_bits + frac_bits) & 1 != 0;
    let biased = (bits >> frac_bits) as i32 & ((1 << exp_bits) - 1);
    let frac = bits & ((1 << frac_bits) - 1);
    let bias = (1 << (exp_bits - 1)) - 1;
    if biased == (1 << exp_bits) - 1 {
        if frac == 0 {
            return Parts::infinity(sign);
        }
        let sig = 1 << 63 | frac << (63 - frac_bits);
        let class = if sig & 1 << 62 != 0 { Class::Quiet } else { Class::Signalling };
        return Parts { sign, class, denormal: false, exp: 0, sig };
    }
    if biased == 0 {
        if frac == 0 {
            return Parts::zero(sign);
        }
        let sig = frac << (63 - frac_bits);
        let shift = sig.leading_zeros();
        let exp = 1 - bias - shift as i32;
        return Parts { sign, class: Class::Finite, denormal: true, exp, sig: sig << shift };
    }
    Parts::finite(sign, biased - bias, 1 << 63 | frac << (63 - frac_bits))
}

/// Packs into an encoding whose integer bit is implied.
#[inline]
fn pack_implicit(parts: &Parts, exp_bits: u32, frac_bits: u32) -> u64 {
    let bias = (1 << (exp_bits - 1)) - 1;
    let frac = (parts.sig << 1) >> (64 - frac_bits);
    let all_ones = ((1u64 << exp_bits) - 1) << frac_bits;
    let body = match parts.class {
        Class::Zero => 0,
        Class::Infinity => all_ones,
        Class::Quiet => all_ones | 1 << (frac_bits - 1) | frac,
        Class::Signalling | Class::Unsupported => all_ones | frac | u64::from(frac == 0),
        // A denormal has no integer bit and biased exponent 0.
        Class::Finite if parts.sig >> 63 == 0 => frac,
        Class::Finite => ((parts.exp + bias) as u64) << frac_bits | frac,
    };
    u64::from(parts.sign) << (exp_bits + frac_bits) | body
}

impl Format for F32 {
    const PRECISION: u32 = 24;
    const EMIN: i32 = -126;
    const EMAX: i32 = 127;
    const WRAP: i32 = 0;

    #[inline]
    fn unpack(self) -> Parts {
        unpack_implicit(u64::from(self.0), 8, 23)
    }

    #[inline]
    fn pack(parts: &Parts) -> Self {
        Self(pack_implicit(parts, 8, 23) as u32)
    }

    fn with_sign_of(self, sign: bool) -> Self {
        Self(self.0 & 0x7FFF_FFFF | u32::from(sign) << 31)
    }

    #[inline]
    fn fast_add(a: Self, b: Self, env: &Env) -> Option<Self> {
        single::add(a.0, b.0, env)
    }

    #[inline]
    fn fast_sub(a: Self, b: Self, env: &Env) -> Option<Self> {
        single::sub(a.0, b.0, env)
    }

    #[inline]
    fn fast_mul(a: Self, b: Self, env: &Env) -> Option<Self> {
        single::mul(a.0, b.0, env)
    }

    #[inline]
    fn fast_div(a: Self, b: Self, env: &Env) -> Option<Self> {
        single::div(a.0, b.0, env)
    }

    #[inline]
    fn fast_sqrt(a: Self, env: &Env) -> Option<Self> {
        single::sqrt(a.0, env)
    }
}

impl Format for F64 {
    const PRECISION: u32 = 53;
    const EMIN: i32 = -1022;
    const EMAX: i32 = 1023;
    const WRAP: i32 = 0;

    #[inline]
    fn unpack(self) -> Parts {
        unpack_implicit(self.0, 11, 52)
    }

    #[inline]
    fn pack(parts: &Parts) -> Self {
        Self(pack_implicit(parts, 11, 52))
    }

    fn with_sign_of(self, sign: bool) -> Self {
        Self(self.0 & (u64::MAX >> 1) | u64::from(sign) << 63)
    }

    #[inline]
    fn fast_add(a: Self, b: Self, env: &Env) -> Option<Self> {
        double::add(a.0, b.0, env)
    }

    #[inline]
    fn fast_sub(a: Self, b: Self, env: &Env) -> Option<Self> {
        double::sub(a.0, b.0, env)
    }

    #[inline]
    fn fast_mul(a: Self, b: Self, env: &Env) -> Option<Self> {
        double::mul(a.0, b.0, env)
    }

    #[inline]
    fn fast_div(a: Self, b: Self, env: &Env) -> Option<Self> {
        double::div(a.0, b.0, env)
    }

    #[inline]
    fn fast_sqrt(a: Self, env: &Env) -> Option<Self> {
        double::sqrt(a.0, env)
    }
}

impl Format for F80 {
    const PRECISION: u32 = 64;
    const EMIN: i32 = -16382;
    const EMAX: i32 = 16383;
    const WRAP: i32 = 24576;

    #[inline]
    fn unpack(self) -> Parts {
        let sign = self.sign();
        let integer = self.sig >> 63 != 0;
        match self.exponent() {
            0 if self.sig == 0 => Parts::zero(sign),
            0 => {
                let shift = self.sig.leading_zeros();
                let exp = Self::EMIN - shift as i32;
                Parts { sign, class: Class::Finite, denormal: true, exp, sig: self.sig << shift }
            }
            _ if !integer => {
                let class = Class::Unsupported;
                Parts { sign, class, denormal: false, exp: 0, sig: self.sig }
            }
            0x7FFF if self.sig << 1 == 0 => Parts::infinity(sign),
            0x7FFF => {
                let quiet = self.sig & 1 << 62 != 0;
                let class = if quiet { Class::Quiet } else { Class::Signalling };
                Parts { sign, class, denormal: false, exp: 0, sig: self.sig }
            }
            biased => Parts::finite(sign, i32::from(biased) - 16383, self.sig),
        }
    }

    #[inline]
    fn pack(parts: &Parts) -> Self {
        let (biased, sig) = match parts.class {
            Class::Zero => (0, 0),
            Class::Infinity => (0x7FFF, 1 << 63),
            Class::Quiet => (0x7FFF, parts.sig | 3 << 62),
            Class::Signalling => (0x7FFF, parts.sig | 1 << 63),
            Class::Unsupported => return Self::INDEFINITE,
            Class::Finite if parts.sig >> 63 == 0 => (0, parts.sig),
            Class::Finite => ((parts.exp + 16383) as u16, parts.sig),
        };
        Self { head: u16::from(parts.sign) << 15 | biased, sig }
    }

    fn with_sign_of(self, sign: bool) -> Self {
        self.with_sign(sign)
    }

    #[inline]
    fn precision(env: &Env) -> u32 {
        env.precision
    }
}

/// Raises the flags that operands raise by being what they are, NaN and unsupported encodings
/// apart: denormal.
#[inline]
pub(super) fn note_denormal(env: &mut Env, a: &Parts, b: &Parts) {
    if a.denormal | b.denormal {
        env.raise(Flags::DENORMAL);
    }
}

/// The result of an operation of which `a` or `b` is a NaN or unsupported; `None` if neither is.
#[inline]
pub(super) fn propagate(env: &mut Env, a: &Parts, b: &Parts) -> Option<Parts> {
    use Class::{Quiet, Signalling, Unsupported};
    if !matches!(a.class, Quiet | Signalling | Unsupported)
        && !matches!(b.class, Quiet | Signalling | Unsupported)
    {
        return None;
    }
    Some(propagate_nan(env, a, b))
}

#[cold]
fn propagate_nan(env: &mut Env, a: &Parts, b: &Parts) -> Parts {
    use super::NanRule;
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        env.raise(Flags::INVALID);
        return Parts::indefinite();
    }
    if a.class == Class::Signalling || b.class == Class::Signalling {
        env.raise(Flags::INVALID);
    }
    let pick = match (a.is_nan(), b.is_nan()) {
        (true, false) => a,
        (false, _) => b,
        (true, true) => match env.nan {
            NanRule::First => a,
            NanRule::Larger => match (a.class, b.class) {
                (Class::Quiet, Class::Signalling) => a,
                (Class::Signalling, Class::Quiet) => b,
                _ if a.sig != b.sig => {
                    if a.sig > b.sig {
                        a
                    } else {
                        b
                    }
                }
                _ if a.sign => b,
                _ => a,
            },
        },
    };
    pick.quieted()
}
