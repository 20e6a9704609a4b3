//! MMX: the operations of [`super::sse`] on 64-bit values.

use super::sse::{SimdOp, simd_pure};

/// Executes an integer vector operation on MMX operands. Conversions between MMX and XMM registers
/// go through [`simd`](super::sse::simd), they need MXCSR.
#[must_use]
pub fn mmx(op: SimdOp, a: u64, b: u64, imm: u8) -> u64 {
    let run = |a, b, imm| simd_pure(op, a, b, imm);
    let (wide_a, wide_b) = (u128::from(a), u128::from(b));
    match op {
        // Both operands side by side as one 128-bit operand: the result is its low half.
        SimdOp::Packsswb
        | SimdOp::Packuswb
        | SimdOp::Packssdw
        | SimdOp::Phaddw
        | SimdOp::Phaddd
        | SimdOp::Phaddsw
        | SimdOp::Phsubw
        | SimdOp::Phsubd
        | SimdOp::Phsubsw => run(wide_a | wide_b << 64, 0, 0) as u64,
        // The high half of the 64-bit interleave is the high half of the 128-bit one's low part.
        SimdOp::Punpckhbw => (simd_pure(SimdOp::Punpcklbw, wide_a, wide_b, 0) >> 64) as u64,
        SimdOp::Punpckhwd => (simd_pure(SimdOp::Punpcklwd, wide_a, wide_b, 0) >> 64) as u64,
        SimdOp::Punpckhdq => (simd_pure(SimdOp::Punpckldq, wide_a, wide_b, 0) >> 64) as u64,
        SimdOp::Pshufb => run(wide_a, wide_b & 0x8787_8787_8787_8787, 0) as u64,
        SimdOp::Palignr => match imm {
            0..=15 => ((wide_a << 64 | wide_b) >> (8 * imm)) as u64,
            _ => 0,
        },
        SimdOp::Pextrw | SimdOp::Pinsrw => run(wide_a, wide_b, imm & 3) as u64,
        _ => run(wide_a, wide_b, imm) as u64,
    }
}
