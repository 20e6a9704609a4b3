//! Rounding an exact (or sticky) significand into a format: the only place that raises overflow,
//! underflow and inexact for arithmetic.

use super::{Class, Env, Flags, Format, Parts, Rounding};

/// One half in the low word of a 128-bit significand.
pub(super) const HALF: u64 = 1 << 63;

/// A significand cut to a precision.
struct Cut {
    sig: u64,
    carry: bool,
    inexact: bool,
    up: bool,
}

/// Whether a magnitude rounds up, given the bits below the last one kept (`frac`, top bit one
/// half, lowest bit sticky) and that bit.
#[inline]
pub(super) fn rounds_up(rounding: Rounding, sign: bool, odd: bool, frac: u64) -> bool {
    match rounding {
        Rounding::Nearest => frac > HALF || frac == HALF && odd,
        Rounding::Down => sign && frac != 0,
        Rounding::Up => !sign && frac != 0,
        Rounding::Zero => false,
    }
}

/// Cuts `hi:lo` to the top `precision` bits of `hi`.
#[inline]
fn cut(rounding: Rounding, sign: bool, hi: u64, lo: u64, precision: u32) -> Cut {
    let dropped = 64 - precision;
    let frac = if dropped == 0 { lo } else { hi << precision | u64::from(lo != 0) };
    let kept = hi >> dropped << dropped;
    let up = rounds_up(rounding, sign, hi >> dropped & 1 != 0, frac);
    let (sum, carry) = if up { kept.overflowing_add(1 << dropped) } else { (kept, false) };
    let sig = if carry { HALF } else { sum };
    Cut { sig, carry, inexact: frac != 0, up }
}

/// `value >> count`, the bits shifted out kept as a sticky lowest bit.
#[inline]
pub(super) fn shift_right_sticky(value: u128, count: u32) -> u128 {
    // By halves: not every host shifts 128 bits.
    let (hi, lo) = ((value >> 64) as u64, value as u64);
    let (hi, lo, lost) = match count {
        0 => (hi, lo, 0),
        1..=63 => (hi >> count, lo >> count | hi << (64 - count), lo << (64 - count)),
        64 => (0, hi, lo),
        65..=127 => (0, hi >> (count - 64), lo | hi << (128 - count)),
        _ => (0, 0, hi | lo),
    };
    u128::from(hi) << 64 | u128::from(lo | u64::from(lost != 0))
}

/// A value that is not zero, shifted left until its top bit is set; by how much.
#[inline]
pub(super) fn normalised(value: u128) -> (u64, u64, u32) {
    let (hi, lo) = ((value >> 64) as u64, value as u64);
    match hi.leading_zeros() {
        0 => (hi, lo, 0),
        64 => {
            let shift = lo.leading_zeros();
            (lo << shift, 0, 64 + shift)
        }
        shift => (hi << shift | lo >> (64 - shift), lo << shift, shift),
    }
}

/// Rounds `(-1)^sign * hi:lo / 2^127 * 2^exp` (bit 63 of `hi` set, the lowest bit of `lo`
/// sticky) to `precision` bits in the range of `F`.
#[inline]
pub fn round_parts<F: Format>(
    env: &mut Env,
    sign: bool,
    exp: i32,
    hi: u64,
    lo: u64,
    precision: u32,
) -> Parts {
    let cut = cut(env.rounding, sign, hi, lo, precision);
    let rounded = exp + i32::from(cut.carry);
    if exp >= F::EMIN && rounded <= F::EMAX {
        if cut.inexact {
            env.raise(Flags::INEXACT);
        }
        env.rounded_up = cut.up;
        return Parts::finite(sign, rounded, cut.sig);
    }
    if exp < F::EMIN {
        underflow::<F>(env, sign, exp, hi, lo, precision, &cut)
    } else {
        overflow::<F>(env, sign, rounded, precision, &cut)
    }
}

#[cold]
fn overflow<F: Format>(env: &mut Env, sign: bool, exp: i32, precision: u32, cut: &Cut) -> Parts {
    env.raise(Flags::OVERFLOW);
    if !env.masked.any(Flags::OVERFLOW) {
        if cut.inexact {
            env.raise(Flags::INEXACT);
        }
        env.rounded_up = cut.up;
        let exp = exp - F::WRAP;
        if exp <= F::EMAX {
            return Parts::finite(sign, exp, cut.sig);
        }
        if F::WRAP != 0 {
            // Out of reach of the wrap (FSCALE by far).
            env.raise(Flags::INEXACT);
            env.rounded_up = true;
        }
        return Parts::infinity(sign);
    }
    env.raise(Flags::INEXACT);
    let infinite = match env.rounding {
        Rounding::Nearest => true,
        Rounding::Down => sign,
        Rounding::Up => !sign,
        Rounding::Zero => false,
    };
    env.rounded_up = infinite;
    if infinite {
        Parts::infinity(sign)
    } else {
        Parts::finite(sign, F::EMAX, u64::MAX << (64 - precision))
    }
}

#[cold]
fn underflow<F: Format>(
    env: &mut Env,
    sign: bool,
    exp: i32,
    hi: u64,
    lo: u64,
    precision: u32,
    unbounded: &Cut,
) -> Parts {
    // Tiny after rounding, as if the exponent had no bound.
    let tiny = !(unbounded.carry && exp + 1 == F::EMIN);
    let masked = env.masked.any(Flags::UNDERFLOW);
    if tiny && !masked {
        env.raise(Flags::UNDERFLOW);
        if unbounded.inexact {
            env.raise(Flags::INEXACT);
        }
        env.rounded_up = unbounded.up;
        let wrapped = exp + i32::from(unbounded.carry) + F::WRAP;
        if wrapped >= F::EMIN {
            return Parts::finite(sign, wrapped, unbounded.sig);
        }
        if F::WRAP != 0 {
            env.raise(Flags::INEXACT);
            env.rounded_up = false;
        }
        return Parts::zero(sign);
    }
    if tiny && masked && env.flush_to_zero {
        env.raise(Flags::UNDERFLOW | Flags::INEXACT);
        env.rounded_up = false;
        return Parts::zero(sign);
    }
    let count = F::EMIN.wrapping_sub(exp).clamp(0, 128) as u32;
    let value = shift_right_sticky(u128::from(hi) << 64 | u128::from(lo), count);
    let cut = cut(env.rounding, sign, (value >> 64) as u64, value as u64, precision);
    if cut.inexact {
        env.raise(Flags::INEXACT);
        if tiny {
            env.raise(Flags::UNDERFLOW);
        }
    }
    env.rounded_up = cut.up;
    if cut.sig == 0 {
        return Parts::zero(sign);
    }
    Parts { sign, class: Class::Finite, denormal: false, exp: F::EMIN, sig: cut.sig }
}
