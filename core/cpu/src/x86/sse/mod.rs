//! The vector instructions, MMX to SSE4.2, AES and PCLMULQDQ, as functions on 128-bit values.
//!
//! [`SimdOp`] names them, [`simd`] executes one: `a` is the destination operand, `b` the source,
//! `imm` the immediate byte; both are little-endian (lane 0 in the low bits).

mod aes;
mod fp;
mod int;
mod known;
mod ops;
mod string;

pub use int::crc32c;
pub use known::{float_op, vec_kind};
pub use ops::{SimdOp, simd, simd_pure, simd_pure_into};
pub use string::{StringCompare, pcmpestr, pcmpistr};

use serde::{Deserialize, Serialize};

use crate::float::{Env, Flags, NanRule, Rounding};

/// An unmasked SIMD floating-point exception: the destination is unchanged. The caller raises
/// #XM, or #UD if CR4.OSXMMEXCPT is clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimdException;

/// MXCSR (SDM vol. 1, section 10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mxcsr(pub u32);

impl Default for Mxcsr {
    fn default() -> Self {
        Self(0x1F80)
    }
}

impl Mxcsr {
    /// The bits that exist (MXCSR_MASK of FXSAVE); LDMXCSR and FXRSTOR of others is #GP.
    pub const MASK: u32 = 0xFFFF;

    /// The arithmetic environment.
    #[inline]
    #[must_use]
    pub const fn env(self) -> Env {
        Env {
            rounding: Rounding::from_bits(self.0 >> 13),
            precision: 64,
            denormals_are_zero: self.0 & 0x40 != 0,
            flush_to_zero: self.0 & 0x8000 != 0,
            nan: NanRule::First,
            masked: Flags((self.0 >> 7 & 63) as u8),
            raised: Flags::NONE,
            rounded_up: false,
        }
    }
}
