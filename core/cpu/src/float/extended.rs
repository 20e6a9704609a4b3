//! 80-bit arithmetic for the common case: operands zero or normal, results zero or normal, rounding to
//! nearest. `None` sends the caller to the general functions, which give the same where both apply.

use super::F80;
use super::round::{HALF, normalised};

/// A result, and what rounding did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded {
    /// The result.
    pub value: F80,
    /// It is not the exact one.
    pub inexact: bool,
    /// Its magnitude is larger than the exact one's.
    pub up: bool,
}

impl Rounded {
    /// An exact result.
    #[inline(always)]
    pub const fn exact(value: F80) -> Self {
        Self { value, inexact: false, up: false }
    }
}

/// Biased exponent of the largest finite values.
const LARGEST: i32 = 0x7FFE;
const BIAS: i32 = 16383;

#[inline(always)]
fn exponent(a: F80) -> i32 {
    i32::from(a.head & 0x7FFF)
}

#[inline(always)]
fn is_normal(a: F80) -> bool {
    a.sig >> 63 != 0 && (a.head & 0x7FFF).wrapping_sub(1) < LARGEST as u16
}

#[inline(always)]
fn is_zero(a: F80) -> bool {
    a.sig == 0 && a.head & 0x7FFF == 0
}

/// Whether a value is one that these functions work on.
#[inline(always)]
pub fn is_plain(a: F80) -> bool {
    is_normal(a) || is_zero(a)
}

/// The significand's bits below the precision of a control word's field: 24, 53 or 64 bits.
#[inline(always)]
pub const fn dropped(precision: u16) -> u32 {
    match precision & 3 {
        0 => 40,
        2 => 11,
        _ => 0,
    }
}

/// Rounds `hi:lo` (bit 63 of `hi` set, the lowest bit of `lo` sticky) with biased exponent `exp`.
#[inline(always)]
fn round(sign: u16, exp: i32, hi: u64, lo: u64, dropped: u32) -> Option<Rounded> {
    let (kept, frac) = if dropped == 0 {
        (hi, lo)
    } else {
        (hi >> dropped << dropped, hi << (64 - dropped) | u64::from(lo != 0))
    };
    let ulp = 1u64 << dropped;
    let up = frac > HALF || frac == HALF && kept & ulp != 0;
    let sum = if up { kept.wrapping_add(ulp) } else { kept };
    let carry = sum == 0;
    let rounded = exp + i32::from(carry);
    if exp < 1 || rounded > LARGEST {
        return None;
    }
    let sig = if carry { HALF } else { sum };
    Some(Rounded { value: F80 { head: sign | rounded as u16, sig }, inexact: frac != 0, up })
}

/// `a + b`, or `a - b` where `negate` is the sign bit.
#[inline]
pub fn add(a: F80, b: F80, negate: u16, dropped: u32) -> Option<Rounded> {
    if !is_normal(a) || !is_normal(b) {
        return add_zero(a, F80 { head: b.head ^ negate, ..b }, dropped);
    }
    let b_head = b.head ^ negate;
    let (ea, eb) = (exponent(a), exponent(b));
    let a_less = ea < eb || ea == eb && a.sig < b.sig;
    let (exp, x, head, y) =
        if a_less { (eb, b.sig, b_head, a.sig) } else { (ea, a.sig, a.head, b.sig) };
    let sign = head & 0x8000;
    let far = (ea - eb).unsigned_abs();
    // The smaller one's significand, moved to the larger one's place.
    let (hi, lo) = match far {
        0 => (y, 0),
        1..64 => (y >> far, y << (64 - far)),
        64 => (0, y),
        65..128 => (0, y >> (far - 64) | u64::from(y << (128 - far) != 0)),
        _ => (0, 1),
    };
    if (a.head ^ b_head) & 0x8000 == 0 {
        let (sum, carry) = x.overflowing_add(hi);
        if carry {
            return round(sign, exp + 1, sum >> 1 | HALF, lo >> 1 | lo & 1 | sum << 63, dropped);
        }
        return round(sign, exp, sum, lo, dropped);
    }
    let hi = x - hi - u64::from(lo != 0);
    let lo = lo.wrapping_neg();
    if hi >> 63 != 0 {
        return round(sign, exp, hi, lo, dropped);
    }
    if hi | lo == 0 {
        return Some(Rounded::exact(F80::ZERO));
    }
    let (hi, lo, shift) = normalised(u128::from(hi) << 64 | u128::from(lo));
    round(sign, exp - shift as i32, hi, lo, dropped)
}

/// A sum with a zero in it.
#[inline(never)]
fn add_zero(a: F80, b: F80, dropped: u32) -> Option<Rounded> {
    let other = match (is_zero(a), is_zero(b)) {
        (true, true) => {
            let head = a.head & b.head;
            return Some(Rounded::exact(F80 { head, sig: 0 }));
        }
        (true, false) if is_normal(b) => b,
        (false, true) if is_normal(a) => a,
        _ => return None,
    };
    round(other.head & 0x8000, exponent(other), other.sig, 0, dropped)
}

/// The product of two words.
#[cfg(not(target_arch = "wasm32"))]
#[inline(always)]
fn product(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    ((product >> 64) as u64, product as u64)
}

#[cfg(target_arch = "wasm32")]
use product_by_halves as product;

/// The same where a product of two words is a call.
#[cfg(any(target_arch = "wasm32", test))]
#[inline(always)]
fn product_by_halves(a: u64, b: u64) -> (u64, u64) {
    let (ah, al, bh, bl) = (a >> 32, a & 0xffff_ffff, b >> 32, b & 0xffff_ffff);
    if al | bl == 0 {
        return (ah * bh, 0);
    }
    let low = al * bl;
    let middle = ah * bl + (low >> 32);
    let rest = al * bh + (middle & 0xffff_ffff);
    (ah * bh + (middle >> 32) + (rest >> 32), rest << 32 | low & 0xffff_ffff)
}

/// `a * b`.
#[inline]
pub fn mul(a: F80, b: F80, dropped: u32) -> Option<Rounded> {
    let sign = (a.head ^ b.head) & 0x8000;
    if !is_normal(a) || !is_normal(b) {
        let zero = is_plain(a) && is_plain(b);
        return zero.then_some(Rounded::exact(F80 { head: sign, sig: 0 }));
    }
    let (hi, lo) = product(a.sig, b.sig);
    let exp = exponent(a) + exponent(b) - BIAS;
    if hi >> 63 != 0 {
        round(sign, exp + 1, hi, lo, dropped)
    } else {
        round(sign, exp, hi << 1 | lo >> 63, lo << 1, dropped)
    }
}

/// `hi:lo / by` and the rest, where `by` has its top bit set and is more than `hi`.
#[cfg(not(target_arch = "wasm32"))]
#[inline]
fn divide(hi: u64, lo: u64, by: u64) -> (u64, u64) {
    let dividend = u128::from(hi) << 64 | u128::from(lo);
    let quotient = (dividend / u128::from(by)) as u64;
    (quotient, lo.wrapping_sub(quotient.wrapping_mul(by)))
}

#[cfg(target_arch = "wasm32")]
use divide_by_digits as divide;

/// The same in two digits of 32 bits (Knuth, volume 2, algorithm D).
#[cfg(any(target_arch = "wasm32", test))]
fn divide_by_digits(hi: u64, lo: u64, by: u64) -> (u64, u64) {
    let (top, bottom) = (by >> 32, by & 0xffff_ffff);
    let digit = |hi: u64, next: u64| {
        let (mut q, mut rest) = (hi / top, hi % top);
        while q >> 32 != 0 || q * bottom > (rest << 32 | next) {
            q -= 1;
            rest += top;
            if rest >> 32 != 0 {
                break;
            }
        }
        q
    };
    let first = digit(hi, lo >> 32);
    let rest = (hi << 32 | lo >> 32).wrapping_sub(first.wrapping_mul(by));
    let second = digit(rest, lo & 0xffff_ffff);
    let rest = (rest << 32 | lo & 0xffff_ffff).wrapping_sub(second.wrapping_mul(by));
    (first << 32 | second, rest)
}

/// `a / b`.
#[inline(never)]
pub fn div(a: F80, b: F80, dropped: u32) -> Option<Rounded> {
    let sign = (a.head ^ b.head) & 0x8000;
    if !is_normal(a) || !is_normal(b) {
        let zero = is_zero(a) && is_normal(b);
        return zero.then_some(Rounded::exact(F80 { head: sign, sig: 0 }));
    }
    let less = a.sig < b.sig;
    let (hi, lo) = if less { (a.sig, 0) } else { (a.sig >> 1, a.sig << 63) };
    let (quotient, rest) = divide(hi, lo, b.sig);
    // What is below it: nothing, less than, exactly or more than one half.
    let below = match (rest, b.sig - rest) {
        (0, _) => 0,
        (rest, other) if rest < other => 1,
        (rest, other) if rest > other => HALF | 1,
        _ => HALF,
    };
    round(sign, exponent(a) - exponent(b) + BIAS - i32::from(less), quotient, below, dropped)
}

/// The square root of `a`.
#[inline(never)]
pub fn sqrt(a: F80, dropped: u32) -> Option<Rounded> {
    if is_zero(a) {
        return Some(Rounded::exact(a));
    }
    if !is_normal(a) || a.head & 0x8000 != 0 {
        return None;
    }
    let exp = exponent(a) - BIAS;
    // A radicand of 127 or 128 bits has a root of 64: from the host's, which is good to 52 bits, by
    // one step of Newton's method.
    let radicand = u128::from(a.sig) << if exp & 1 == 0 { 63 } else { 64 };
    let high = (radicand >> 64) as u64;
    let guess = ((high as f64) * 18_446_744_073_709_551_616.0).sqrt();
    let guess = if guess >= 18_446_744_073_709_551_615.0 { u64::MAX } else { guess as u64 };
    let mut root = if high >= guess {
        u64::MAX
    } else {
        let (quotient, _) = divide(high, radicand as u64, guess | HALF);
        (guess >> 1) + (quotient >> 1) + (guess & quotient & 1)
    };
    let square = |root: u64| u128::from(root) * u128::from(root);
    while square(root) > radicand {
        root -= 1;
    }
    while root != u64::MAX && square(root + 1) <= radicand {
        root += 1;
    }
    let rest = radicand - square(root);
    let below = match rest {
        0 => 0,
        // (root + 1/2)^2 = root^2 + root + 1/4.
        _ if rest > u128::from(root) => HALF | 1,
        _ => 1,
    };
    round(0, (exp >> 1) + BIAS, root, below, dropped)
}

/// How `a` compares with `b`: both plain.
#[inline]
pub fn compare(a: F80, b: F80) -> Option<core::cmp::Ordering> {
    use core::cmp::Ordering::{Equal, Greater, Less};
    if !is_plain(a) || !is_plain(b) {
        return None;
    }
    if is_zero(a) && is_zero(b) {
        return Some(Equal);
    }
    let (minus_a, minus_b) = (a.head >> 15 != 0, b.head >> 15 != 0);
    Some(match (minus_a, minus_b) {
        (true, false) => Less,
        (false, true) => Greater,
        (false, false) => (a.head, a.sig).cmp(&(b.head, b.sig)),
        (true, true) => (b.head, b.sig).cmp(&(a.head, a.sig)),
    })
}

/// A binary64 value that is zero or normal.
#[inline(always)]
pub fn from_f64(bits: u64) -> Option<F80> {
    let sign = (bits >> 48) as u16 & 0x8000;
    let exp = (bits >> 52) as u16 & 0x7FF;
    if exp.wrapping_sub(1) < 0x7FE {
        return Some(F80 { head: sign | (exp + 0x3FFF - 0x3FF), sig: HALF | bits << 11 });
    }
    (bits << 1 == 0).then_some(F80 { head: sign, sig: 0 })
}

/// A binary32 value that is zero or normal.
#[inline(always)]
pub fn from_f32(bits: u32) -> Option<F80> {
    let sign = (bits >> 16) as u16 & 0x8000;
    let exp = (bits >> 23) as u16 & 0xFF;
    if exp.wrapping_sub(1) < 0xFE {
        let sig = HALF | u64::from(bits) << 41 >> 1;
        return Some(F80 { head: sign | (exp + 0x3FFF - 0x7F), sig });
    }
    (bits << 1 == 0).then_some(F80 { head: sign, sig: 0 })
}

/// An integer.
#[inline(always)]
pub fn from_int(value: i64) -> F80 {
    if value == 0 {
        return F80::ZERO;
    }
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    let sign = (value >> 48) as u16 & 0x8000;
    F80 { head: sign | (0x3FFF + 63 - shift as u16), sig: magnitude << shift }
}

/// A value narrowed to a format of `fraction` bits below the integer bit and `largest` as the largest
/// biased exponent: bits without sign, whether inexact, whether up.
#[inline(always)]
fn narrow(a: F80, fraction: u32, bias: i32, largest: i32) -> Option<(u64, bool, bool)> {
    if !is_normal(a) {
        return is_zero(a).then_some((0, false, false));
    }
    let exp = exponent(a) - BIAS + bias;
    if exp < 1 || exp > largest {
        return None;
    }
    let (kept, frac) = (a.sig >> (63 - fraction), a.sig << (fraction + 1));
    let up = frac > HALF || frac == HALF && kept & 1 != 0;
    // A carry goes into the exponent.
    let bits = ((exp as u64 - 1) << fraction) + kept + u64::from(up);
    (bits < (largest as u64 + 1) << fraction).then_some((bits, frac != 0, up))
}

/// To binary64: zero or normal.
#[inline(always)]
pub fn to_f64(a: F80) -> Option<(u64, bool, bool)> {
    let (bits, inexact, up) = narrow(a, 52, 1023, 0x7FE)?;
    Some((bits | u64::from(a.head >> 15) << 63, inexact, up))
}

/// To binary32: zero or normal.
#[inline(always)]
pub fn to_f32(a: F80) -> Option<(u64, bool, bool)> {
    let (bits, inexact, up) = narrow(a, 23, 127, 0xFE)?;
    Some((bits | u64::from(a.head >> 15) << 31, inexact, up))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::{self, Env, F32, F64, Flags, Format};

    fn xorshift(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Significands of few bits, of runs of ones, and any; exponents near each other and near the ends.
    fn value(state: &mut u64) -> F80 {
        let (r, s) = (xorshift(state), xorshift(state));
        let sig = HALF
            | match r & 7 {
                0 => 0,
                1 => s << 11,
                2 => s << 40,
                3 => u64::MAX << (s & 63),
                4 => u64::MAX >> (s & 63),
                5 => 1 << (s & 63),
                _ => s,
            };
        let exp = match r >> 3 & 15 {
            0 => 1 + (r >> 8 & 3),
            1 => 0x7FFE - (r >> 8 & 3),
            2 => return F80 { head: (r >> 48) as u16 & 0x8000, sig: 0 },
            3 => r >> 8 & 0x7FFF,
            4 => 0x3FFF + (r >> 8 & 127),
            5 => 0x3FFF - (r >> 8 & 0x7FF),
            _ => 0x3FFF + (r >> 8 & 3),
        };
        F80 { head: (r >> 48) as u16 & 0x8000 | exp as u16, sig }
    }

    type General = fn(F80, F80, &mut Env) -> F80;
    type Quick = fn(F80, F80, u32) -> Option<Rounded>;

    #[test]
    fn the_common_case_is_what_the_general_functions_give() {
        let operations: [(General, Quick); 5] = [
            (float::add, |a, b, d| add(a, b, 0, d)),
            (float::sub, |a, b, d| add(a, b, 0x8000, d)),
            (float::mul, mul),
            (float::div, div),
            (|a, _, env| float::sqrt(a, env), |a, _, d| sqrt(a, d)),
        ];
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let mut quick = 0;
        for n in 0..200_000 {
            let (a, mut b) = (value(&mut state), value(&mut state));
            if n % 7 == 0 {
                b = F80 {
                    head: a.head ^ (n as u16 & 1) ^ (n as u16 & 2) << 14,
                    sig: a.sig ^ n & 8,
                };
                b.sig |= u64::from(b.head & 0x7FFF != 0) << 63;
            }
            for (general, common) in operations {
                for (field, precision) in [(3, 64), (2, 53), (0, 24)] {
                    let Some(r) = common(a, b, dropped(field)) else { continue };
                    quick += 1;
                    let mut env = Env { precision, ..Env::extended() };
                    assert_eq!(r.value, general(a, b, &mut env), "{a:x?} {b:x?} {precision}");
                    let flags = if r.inexact { Flags::INEXACT } else { Flags::NONE };
                    assert_eq!((env.raised, env.rounded_up), (flags, r.up), "{a:x?} {b:x?}");
                }
            }
        }
        assert!(quick > 2_000_000, "{quick}");
    }

    #[test]
    fn products_by_halves_and_quotients_by_digits_are_those_of_wide_words() {
        let mut state = 77;
        for _ in 0..200_000 {
            let (a, b) = (value(&mut state).sig, value(&mut state).sig);
            assert_eq!(product_by_halves(a, b), product(a, b), "{a:x} {b:x}");
            let by = b | HALF;
            let (hi, lo) = (a % by, xorshift(&mut state));
            assert_eq!(divide_by_digits(hi, lo, by), divide(hi, lo, by), "{hi:x} {lo:x} {by:x}");
        }
    }

    #[test]
    fn conversions_are_what_the_general_functions_give() {
        let mut state = 0x1234_5678_9ABC_DEF1;
        for _ in 0..200_000 {
            let r = xorshift(&mut state);
            let near = r & !(0x7FF << 52) | (0x3F0 + (r >> 56 & 31)) << 52;
            for bits in [r, near, r << 32] {
                if let Some(wide) = from_f64(bits) {
                    assert_eq!(wide, float::convert(F64(bits), &mut Env::extended()));
                }
            }
            if let Some(wide) = from_f32(r as u32) {
                assert_eq!(wide, float::convert(F32(r as u32), &mut Env::extended()));
            }
            let int = r as i64 >> (r & 63);
            assert_eq!(from_int(int), float::from_i64(int, &mut Env::extended()));
            let a = value(&mut state);
            let parts = a.unpack();
            if let Some((bits, inexact, up)) = to_f64(a) {
                let mut env = Env::extended();
                let expected: F64 = float::convert_parts(&parts, &mut env);
                assert_eq!((bits, up), (expected.0, env.rounded_up), "{a:x?}");
                assert_eq!(env.raised == Flags::INEXACT, inexact, "{a:x?}");
            }
            if let Some((bits, inexact, up)) = to_f32(a) {
                let mut env = Env::extended();
                let expected: F32 = float::convert_parts(&parts, &mut env);
                assert_eq!((bits, up), (expected.0.into(), env.rounded_up), "{a:x?}");
                assert_eq!(env.raised == Flags::INEXACT, inexact, "{a:x?}");
            }
            let b = value(&mut state);
            let relation = compare(a, b).map(|o| match o {
                core::cmp::Ordering::Less => float::Relation::Less,
                core::cmp::Ordering::Equal => float::Relation::Equal,
                core::cmp::Ordering::Greater => float::Relation::Greater,
            });
            let expected = float::compare(a, b, &mut Env::extended());
            assert!(relation.is_none_or(|r| r == expected), "{a:x?} {b:x?}");
        }
    }
}
