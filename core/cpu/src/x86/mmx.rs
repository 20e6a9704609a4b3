//! MMX: the operations of [`super::sse`] on 64-bit values.

use super::sse::{Mxcsr, SimdOp, simd};

/// Executes an integer vector operation on MMX operands (`imm` as in [`simd`]). Conversions
/// between MMX and XMM registers go through [`simd`] itself, they need MXCSR.
#[must_use]
pub fn mmx(op: SimdOp, a: u64, b: u64, imm: u8) -> u64 {
    let run = |a: u128, b: u128, imm: u8| -> u128 {
        simd(op, a, b, imm, &mut Mxcsr::default()).unwrap_or(a)
    };
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
        SimdOp::Punpckhbw => (run_low(SimdOp::Punpcklbw, wide_a, wide_b) >> 64) as u64,
        SimdOp::Punpckhwd => (run_low(SimdOp::Punpcklwd, wide_a, wide_b) >> 64) as u64,
        SimdOp::Punpckhdq => (run_low(SimdOp::Punpckldq, wide_a, wide_b) >> 64) as u64,
        SimdOp::Pshufb => run(wide_a, wide_b & 0x8787_8787_8787_8787, 0) as u64,
        SimdOp::Palignr => match imm {
            0..=15 => ((wide_a << 64 | wide_b) >> (8 * imm)) as u64,
            _ => 0,
        },
        SimdOp::Pextrw | SimdOp::Pinsrw => run(wide_a, wide_b, imm & 3) as u64,
        _ => run(wide_a, wide_b, imm) as u64,
    }
}

fn run_low(op: SimdOp, a: u128, b: u128) -> u128 {
    simd(op, a, b, 0, &mut Mxcsr::default()).unwrap_or(a)
}
