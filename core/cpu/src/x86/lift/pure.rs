//! Functions of their arguments alone that IR calls: flags, decimal adjustment, wide division,
//! rotates through carry, bit gathering.

use crate::x86::flags;
use crate::x86::mmx::mmx;
use crate::x86::sse::{Mxcsr, SimdOp, crc32c, simd};
use crate::x86::state::flag;

/// All six flags from `CC_*`.
pub(super) const FLAGS: u16 = 0;
/// CF from `CC_*`.
pub(super) const CARRY: u16 = 1;
/// `(ax, flags)` DAA: AX in bits 0-15, flags from bit 16.
pub(super) const DAA: u16 = 2;
/// DAS.
pub(super) const DAS: u16 = 3;
/// AAA.
pub(super) const AAA: u16 = 4;
/// AAS.
pub(super) const AAS: u16 = 5;
/// `(high, low, divisor)` 1 when DIV of 128 by 64 bits overflows or the divisor is 0.
pub(super) const DIV_BAD: u16 = 6;
/// Its quotient.
pub(super) const DIV_QUOTIENT: u16 = 7;
/// Its remainder.
pub(super) const DIV_REMAINDER: u16 = 8;
/// The same for IDIV.
pub(super) const IDIV_BAD: u16 = 9;
/// IDIV's quotient.
pub(super) const IDIV_QUOTIENT: u16 = 10;
/// IDIV's remainder.
pub(super) const IDIV_REMAINDER: u16 = 11;
/// `(value, count, carry, bits)` RCL.
pub(super) const RCL: u16 = 12;
/// CF after RCL.
pub(super) const RCL_CARRY: u16 = 13;
/// RCR.
pub(super) const RCR: u16 = 14;
/// CF after RCR.
pub(super) const RCR_CARRY: u16 = 15;
/// `(crc, value, bytes)` CRC32.
pub(super) const CRC32: u16 = 16;
/// `(value, mask)` PDEP.
pub(super) const PDEP: u16 = 17;
/// PEXT.
pub(super) const PEXT: u16 = 18;
/// `(a, b, imm)` MMX operation `f - MMX`.
pub(super) const MMX: u16 = 0x1000;
/// Condition code `f - CONDITION` from `CC_*`.
pub(super) const CONDITION: u16 = 0x20;

/// Runs a pure function.
#[inline]
pub fn pure(f: u16, args: &[u64; 6]) -> u64 {
    let [a, b, c, d, ..] = *args;
    match f {
        CONDITION..0x30 => flags::condition((f - CONDITION) as u8, a, b, c, d).into(),
        CARRY => flags::carry(a, b, c, d).into(),
        FLAGS => flags::arith(a, b, c, d),
        DAA => decimal(a, b, true),
        DAS => decimal(a, b, false),
        AAA => ascii(a, b, true),
        AAS => ascii(a, b, false),
        DIV_BAD => (a >= c).into(),
        DIV_QUOTIENT => (wide(a, b).checked_div(c.into()).unwrap_or(0)) as u64,
        DIV_REMAINDER => (wide(a, b).checked_rem(c.into()).unwrap_or(0)) as u64,
        IDIV_BAD => match (wide(a, b) as i128).checked_div(i128::from(c as i64)) {
            Some(q) => i64::try_from(q).is_err().into(),
            None => 1,
        },
        IDIV_QUOTIENT => (wide(a, b) as i128).checked_div(i128::from(c as i64)).unwrap_or(0) as u64,
        IDIV_REMAINDER => {
            (wide(a, b) as i128).checked_rem(i128::from(c as i64)).unwrap_or(0) as u64
        }
        RCL => rotate(a, b, c, d).0,
        RCL_CARRY => rotate(a, b, c, d).1,
        RCR => rotate(a, (d + 1 - b % (d + 1)) % (d + 1), c, d).0,
        RCR_CARRY => rotate(a, (d + 1 - b % (d + 1)) % (d + 1), c, d).1,
        CRC32 => crc32c(a as u32, b, c as u8).into(),
        PDEP => {
            let (mut out, mut mask, mut from) = (0, b, a);
            while mask != 0 {
                if from & 1 != 0 {
                    out |= mask & mask.wrapping_neg();
                }
                from >>= 1;
                mask &= mask - 1;
            }
            out
        }
        PEXT => {
            let (mut out, mut mask, mut at) = (0, b, 0);
            while mask != 0 {
                if a & mask & mask.wrapping_neg() != 0 {
                    out |= 1 << at;
                }
                at += 1;
                mask &= mask - 1;
            }
            out
        }
        MMX.. => SimdOp::from_index(f - MMX).map_or(0, |op| mmx(op, a, b, c as u8)),
        _ => 0,
    }
}

/// Runs a pure vector function: a vector operation that does not look at MXCSR.
#[inline]
pub fn vec_op(kind: u16, a: u128, b: u128, imm: u8) -> u128 {
    match SimdOp::from_index(kind) {
        Some(op) => simd(op, a, b, imm, &mut Mxcsr::default()).unwrap_or(a),
        None => a,
    }
}

fn wide(high: u64, low: u64) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

/// Rotates `bits` bits and the carry left by `count`: the value and the carry.
fn rotate(value: u64, count: u64, carry: u64, bits: u64) -> (u64, u64) {
    let all = bits + 1;
    let count = count % all;
    let whole = u128::from(value & (u64::MAX >> (64 - bits))) | u128::from(carry & 1) << bits;
    let turned = if count == 0 { whole } else { whole << count | whole >> (all - count) };
    ((turned as u64) & (u64::MAX >> (64 - bits)), (turned >> bits) as u64 & 1)
}

fn result_flags(al: u64) -> u64 {
    let mut f = 0;
    if al & 0xff == 0 {
        f |= flag::ZF;
    }
    if al & 0x80 != 0 {
        f |= flag::SF;
    }
    if (al as u8).count_ones().is_multiple_of(2) {
        f |= flag::PF;
    }
    f
}

/// DAA and DAS (SDM vol. 2A). OF, undefined, is that of the addition or subtraction.
fn decimal(ax: u64, flags: u64, add: bool) -> u64 {
    let old = ax & 0xff;
    let (old_cf, old_af) = (flags & flag::CF != 0, flags & flag::AF != 0);
    let low = old & 15 > 9 || old_af;
    let high = old > 0x99 || old_cf;
    let adjust = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let al = if add { old + adjust } else { old.wrapping_sub(adjust) } & 0xff;
    let mut cf = high;
    if !add && low && old < 6 {
        cf = true;
    }
    let overflow =
        if add { !(old ^ adjust) & (old ^ al) } else { (old ^ adjust) & (old ^ al) } & 0x80 != 0;
    let mut f = result_flags(al);
    if cf {
        f |= flag::CF;
    }
    if low {
        f |= flag::AF;
    }
    if overflow {
        f |= flag::OF;
    }
    ax & 0xff00 | al | f << 16
}

/// AAA and AAS (SDM vol. 2A), with the borrow out of AL that processors from the 286 on have.
fn ascii(ax: u64, flags: u64, add: bool) -> u64 {
    let adjust = ax & 15 > 9 || flags & flag::AF != 0;
    let changed = match (adjust, add) {
        (false, _) => ax,
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(0x106),
    } & 0xff0f;
    let f = if adjust { flag::CF | flag::AF } else { 0 };
    changed | (f | result_flags(changed)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(f: u16, args: &[u64]) -> u64 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        pure(f, &all)
    }

    #[test]
    fn decimal_adjustment_of_the_manual() {
        // 79 + 35 = AE, adjusted to 14 with carry.
        let out = run(DAA, &[0xae, flag::SF]);
        assert_eq!(out & 0xff, 0x14);
        assert_eq!(out >> 16 & flag::CF, flag::CF);
        // 35 - 47 = EE with borrow, adjusted to 88.
        let out = run(DAS, &[0xee, flag::CF | flag::AF]);
        assert_eq!(out & 0xff, 0x88);
        assert_eq!(out >> 16 & flag::CF, flag::CF);
    }

    #[test]
    fn rotating_through_carry_comes_round() {
        for bits in [8, 16, 32, 64] {
            let value = 0x0123_4567_89ab_cdefu64 & (u64::MAX >> (64 - bits));
            for count in 0..=bits {
                let turned = run(RCL, &[value, count, 1, bits]);
                let carry = run(RCL_CARRY, &[value, count, 1, bits]);
                assert_eq!(run(RCR, &[turned, count, carry, bits]), value);
                assert_eq!(run(RCR_CARRY, &[turned, count, carry, bits]), 1);
            }
        }
    }

    #[test]
    fn wide_division_refuses_what_does_not_fit() {
        assert_eq!(run(DIV_BAD, &[1, 0, 1]), 1);
        assert_eq!(run(DIV_BAD, &[0, 0, 0]), 1);
        assert_eq!(run(DIV_QUOTIENT, &[1, 5, 2]), (1 << 63) + 2);
        assert_eq!(run(IDIV_BAD, &[u64::MAX, 1 << 63, u64::MAX]), 1);
        assert_eq!(run(IDIV_QUOTIENT, &[u64::MAX, (-7i64) as u64, 2]), (-3i64) as u64);
        assert_eq!(run(IDIV_REMAINDER, &[u64::MAX, (-7i64) as u64, 2]), (-1i64) as u64);
    }

    #[test]
    fn gathered_bits_scatter_back() {
        let mask = 0xf0f0_1234_8000_0001;
        assert_eq!(run(PEXT, &[u64::MAX, mask]), (1 << mask.count_ones()) - 1);
        assert_eq!(run(PDEP, &[u64::MAX, mask]), mask);
    }
}
