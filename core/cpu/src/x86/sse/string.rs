//! The SSE4.2 string comparisons (SDM vol. 2, section 4.1).

use super::int::{Vector, from_u8s, from_u16s, u8s, u16s};

/// What a comparison gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringCompare {
    /// ECX of the index forms.
    pub index: u32,
    /// XMM0 of the mask forms.
    pub mask: u128,
    /// CF, ZF, SF and OF in their EFLAGS bits; AF and PF are 0.
    pub flags: u32,
}

/// PCMPISTRI and PCMPISTRM: strings end at a zero element.
#[must_use]
pub fn pcmpistr(a: u128, b: u128, imm: u8) -> StringCompare {
    let count = if imm & 1 == 0 { 16 } else { 8 };
    let (x, y) = (elements(a, imm), elements(b, imm));
    let end = |v: &[i32; 16]| v[..count].iter().position(|&e| e == 0).unwrap_or(count);
    compare(&x, end(&x), &y, end(&y), count, imm)
}

/// PCMPESTRI and PCMPESTRM: the lengths are (E/R)AX for `a` and (E/R)DX for `b`, sign-extended;
/// their magnitude saturates at the number of elements.
#[must_use]
pub fn pcmpestr(a: u128, a_len: i64, b: u128, b_len: i64, imm: u8) -> StringCompare {
    let count = if imm & 1 == 0 { 16 } else { 8 };
    let (x, y) = (elements(a, imm), elements(b, imm));
    let len = |n: i64| n.unsigned_abs().min(count as u64) as usize;
    compare(&x, len(a_len), &y, len(b_len), count, imm)
}

/// The elements of a vector by the format bits of the immediate.
fn elements(v: u128, imm: u8) -> [i32; 16] {
    let mut out = [0; 16];
    let v = Vector::from_bits(v);
    match imm & 3 {
        0 => out = u8s(v).map(i32::from),
        1 => (0..8).for_each(|i| out[i] = u16s(v)[i].into()),
        2 => out = u8s(v).map(|e| (e as i8).into()),
        _ => (0..8).for_each(|i| out[i] = (u16s(v)[i] as i16).into()),
    }
    out
}

fn compare(
    x: &[i32; 16],
    x_len: usize,
    y: &[i32; 16],
    y_len: usize,
    count: usize,
    imm: u8,
) -> StringCompare {
    let mut bits = 0u32;
    for j in 0..count {
        let on = match imm >> 2 & 3 {
            // Equal any: y[j] is one of x.
            0 => j < y_len && x[..x_len].contains(&y[j]),
            // Ranges: pairs of x bound y[j]; a pair of which the second is missing does not count.
            1 => {
                j < y_len
                    && x[..x_len & !1]
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .any(|p| p[0] <= y[j] && y[j] <= p[1])
            }
            // Equal each: both past the end count as equal.
            2 => match (j < x_len, j < y_len) {
                (true, true) => x[j] == y[j],
                (false, false) => true,
                _ => false,
            },
            // Equal ordered: x is found at y[j..], as far as the vector reaches.
            _ => (0..x_len.min(count - j)).all(|i| j + i < y_len && x[i] == y[j + i]),
        };
        bits |= u32::from(on) << j;
    }
    let all = (1u32 << count) - 1;
    match imm >> 4 & 3 {
        1 => bits ^= all,
        3 => bits ^= (1u32 << y_len) - 1,
        _ => {}
    }
    let index = match bits {
        0 => count as u32,
        _ if imm & 0x40 == 0 => bits.trailing_zeros(),
        _ => 31 - bits.leading_zeros(),
    };
    let mask = match (imm & 0x40 != 0, count) {
        (false, _) => u128::from(bits),
        (true, 16) => {
            from_u8s(core::array::from_fn(|i| if bits >> i & 1 != 0 { 0xFF } else { 0 })).bits()
        }
        (true, _) => {
            from_u16s(core::array::from_fn(|i| if bits >> i & 1 != 0 { 0xFFFF } else { 0 })).bits()
        }
    };
    let flags = u32::from(bits != 0)
        | u32::from(y_len < count) << 6
        | u32::from(x_len < count) << 7
        | (bits & 1) << 11;
    StringCompare { index, mask, flags }
}
