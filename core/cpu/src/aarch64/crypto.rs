//! CRC-32 checksums, and the AES, SHA-1, SHA-256 and polynomial instructions.

/// One of the CRC32 instructions: `size` is log2 of the bytes, bit 2 the Castagnoli polynomial.
pub(super) fn crc32(crc: u32, data: u64, kind: u32) -> u32 {
    let polynomial: u32 = if kind & 4 != 0 { 0x82f6_3b78 } else { 0xedb8_8320 };
    let mut crc = crc;
    for i in 0..1 << (kind & 3) {
        crc ^= (data >> (8 * i)) as u32 & 0xff;
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { polynomial } else { 0 };
        }
    }
    crc
}

/// The product of two polynomials over GF(2).
pub(super) fn polynomial_product(a: u64, b: u64) -> u128 {
    (0..64).filter(|i| b >> i & 1 != 0).fold(0, |sum, i| sum ^ u128::from(a) << i)
}

const fn times(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut r) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            r ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    r
}

/// The S-box of AES and its inverse (FIPS 197, 5.1.1), from their definition.
const BOXES: ([u8; 256], [u8; 256]) = {
    let (mut forward, mut back) = ([0; 256], [0; 256]);
    let (mut p, mut q) = (1_u8, 1_u8);
    loop {
        // p runs through the powers of 3, q through those of its inverse.
        p = times(p, 3);
        q = times(q, 0xf6);
        let x = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        let s = x ^ 0x63;
        forward[p as usize] = s;
        back[s as usize] = p;
        if p == 1 {
            break;
        }
    }
    forward[0] = 0x63;
    back[0x63] = 0;
    (forward, back)
};

/// AESE (or AESD): the key is added, rows are shifted, bytes substituted.
pub(super) fn aes_round(state: u128, key: u128, decrypt: bool) -> u128 {
    let x = (state ^ key).to_le_bytes();
    let mut out = [0; 16];
    for (i, byte) in out.iter_mut().enumerate() {
        let (row, column) = (i % 4, i / 4);
        let from = if decrypt { column + 4 - row } else { column + row } % 4;
        let value = usize::from(x[from * 4 + row]);
        *byte = if decrypt { BOXES.1[value] } else { BOXES.0[value] };
    }
    u128::from_le_bytes(out)
}

/// AESMC (or AESIMC).
pub(super) fn aes_mix(state: u128, inverse: bool) -> u128 {
    let x = state.to_le_bytes();
    let factors: [u8; 4] = if inverse { [14, 11, 13, 9] } else { [2, 3, 1, 1] };
    let mut out = [0; 16];
    for (i, byte) in out.iter_mut().enumerate() {
        let (row, column) = (i % 4, i / 4 * 4);
        *byte = (0..4).fold(0, |sum, k| sum ^ times(x[column + (row + k) % 4], factors[k]));
    }
    u128::from_le_bytes(out)
}

fn words(v: u128) -> [u32; 4] {
    [0, 32, 64, 96].map(|at| (v >> at) as u32)
}

fn vector(w: [u32; 4]) -> u128 {
    w.iter().rev().fold(0, |v, &x| v << 32 | u128::from(x))
}

/// SHA1C, SHA1P or SHA1M (`kind` 0, 1, 2): four rounds.
pub(super) fn sha1_rounds(kind: u32, abcd: u128, e: u32, schedule: u128) -> u128 {
    let [mut a, mut b, mut c, mut d] = words(abcd);
    let mut e = e;
    for w in words(schedule) {
        let f = match kind {
            0 => b & (c ^ d) ^ d,
            1 => b ^ c ^ d,
            _ => b & c | (b | c) & d,
        };
        e = e.wrapping_add(a.rotate_left(5)).wrapping_add(f).wrapping_add(w);
        b = b.rotate_left(30);
        (a, b, c, d, e) = (e, a, b, c, d);
    }
    vector([a, b, c, d])
}

/// SHA1SU0.
pub(super) fn sha1_schedule0(d: u128, n: u128, m: u128) -> u128 {
    (d >> 64 | n << 64) ^ d ^ m
}

/// SHA1SU1.
pub(super) fn sha1_schedule1(d: u128, n: u128) -> u128 {
    let t = words(d ^ n >> 32);
    let last = t[3].rotate_left(1) ^ t[0].rotate_left(2);
    vector([t[0].rotate_left(1), t[1].rotate_left(1), t[2].rotate_left(1), last])
}

/// SHA256H (or SHA256H2): four rounds; the answer is the half of the state that `first` names.
pub(super) fn sha256_rounds(x: u128, y: u128, schedule: u128, first: bool) -> u128 {
    let [mut a, mut b, mut c, mut d] = words(x);
    let [mut e, mut f, mut g, mut h] = words(y);
    for w in words(schedule) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choose = (f ^ g) & e ^ g;
        let t1 = h.wrapping_add(s1).wrapping_add(choose).wrapping_add(w);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t2 = s0.wrapping_add(a & b | (a | b) & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(t2));
    }
    if first { vector([a, b, c, d]) } else { vector([e, f, g, h]) }
}

/// SHA256SU0.
pub(super) fn sha256_schedule0(d: u128, n: u128) -> u128 {
    let (d, n) = (words(d), words(n));
    let s = |x: u32| x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3;
    vector([
        d[0].wrapping_add(s(d[1])),
        d[1].wrapping_add(s(d[2])),
        d[2].wrapping_add(s(d[3])),
        d[3].wrapping_add(s(n[0])),
    ])
}

/// SHA256SU1.
pub(super) fn sha256_schedule1(d: u128, n: u128, m: u128) -> u128 {
    let (d, n, m) = (words(d), words(n), words(m));
    let s = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let r0 = d[0].wrapping_add(n[1]).wrapping_add(s(m[2]));
    let r1 = d[1].wrapping_add(n[2]).wrapping_add(s(m[3]));
    let r2 = d[2].wrapping_add(n[3]).wrapping_add(s(r0));
    let r3 = d[3].wrapping_add(m[0]).wrapping_add(s(r1));
    vector([r0, r1, r2, r3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_nine_digits_are_the_published_ones() {
        let sum = |kind| b"123456789".iter().fold(!0, |crc, &b| crc32(crc, b.into(), kind));
        assert_eq!((!sum(0), !sum(4)), (0xcbf4_3926, 0xe306_9283));
        assert_eq!(
            crc32(7, 0x1122_3344, 2),
            (0..4).fold(7, |c, i| crc32(c, [0x44, 0x33, 0x22, 0x11][i], 0))
        );
    }

    #[test]
    fn the_boxes_of_aes_are_each_others_inverse() {
        assert_eq!((BOXES.0[0], BOXES.0[0x53]), (0x63, 0xed));
        for x in 0..=255_u8 {
            assert_eq!(BOXES.1[usize::from(BOXES.0[usize::from(x)])], x);
        }
        let x = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;
        assert_eq!(aes_mix(aes_mix(x, false), true), x);
    }
}
