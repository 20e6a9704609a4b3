//! Integer vector operations: helpers over lanes, and the operations too long for the table.

use zerocopy::transmute;

macro_rules! lanes {
    ($($split:ident $join:ident $map:ident $ty:ty, $n:literal;)*) => {
        $(
            /// The lanes of a vector, lane 0 first.
            #[inline(always)]
            pub(super) fn $split(a: u128) -> [$ty; $n] {
                let lanes: [$ty; $n] = transmute!(a.to_le());
                lanes.map(<$ty>::from_le)
            }

            /// The vector of these lanes.
            #[inline(always)]
            pub(super) fn $join(lanes: [$ty; $n]) -> u128 {
                let bits: u128 = transmute!(lanes.map(<$ty>::to_le));
                u128::from_le(bits)
            }

            /// Lane by lane.
            #[inline(always)]
            pub(super) fn $map(a: u128, b: u128, f: impl Fn($ty, $ty) -> $ty) -> u128 {
                let (a, b) = ($split(a), $split(b));
                let mut out = [0; $n];
                for i in 0..$n {
                    out[i] = f(a[i], b[i]);
                }
                $join(out)
            }
        )*
    };
}

lanes! {
    u8s from_u8s map_u8 u8, 16;
    u16s from_u16s map_u16 u16, 8;
    u32s from_u32s map_u32 u32, 4;
    u64s from_u64s map_u64 u64, 2;
    i8s from_i8s map_i8 i8, 16;
    i16s from_i16s map_i16 i16, 8;
    i32s from_i32s map_i32 i32, 4;
    i64s from_i64s map_i64 i64, 2;
}

/// Shift of every lane by the same count, which is the low 64 bits of a vector or an immediate:
/// counts of a lane's width and more give zero.
macro_rules! shifts {
    ($($left:ident $right:ident $split:ident $join:ident $width:literal;)*) => {
        $(
            #[inline(always)]
            pub(super) fn $left(a: u128, count: u64) -> u128 {
                if count < $width { $join($split(a).map(|x| x << count)) } else { 0 }
            }

            #[inline(always)]
            pub(super) fn $right(a: u128, count: u64) -> u128 {
                if count < $width { $join($split(a).map(|x| x >> count)) } else { 0 }
            }
        )*
    };
}

shifts! {
    sll16 srl16 u16s from_u16s 16;
    sll32 srl32 u32s from_u32s 32;
    sll64 srl64 u64s from_u64s 64;
}

/// PSRAW: counts past the width act as width - 1.
#[inline(always)]
pub(super) fn sra16(a: u128, count: u64) -> u128 {
    let count = count.min(15);
    from_i16s(i16s(a).map(|x| x >> count))
}

/// PSRAD.
#[inline(always)]
pub(super) fn sra32(a: u128, count: u64) -> u128 {
    let count = count.min(31);
    from_i32s(i32s(a).map(|x| x >> count))
}

/// PSLLDQ, by bytes.
#[inline]
pub(super) fn slldq(a: u128, bytes: u8) -> u128 {
    if bytes < 16 { a << (8 * bytes) } else { 0 }
}

/// PSRLDQ, by bytes.
#[inline]
pub(super) fn srldq(a: u128, bytes: u8) -> u128 {
    if bytes < 16 { a >> (8 * bytes) } else { 0 }
}

/// PALIGNR: bytes `n..n + 16` of `a:b`.
#[inline]
pub(super) fn alignr(a: u128, b: u128, n: u8) -> u128 {
    match n {
        0 => b,
        1..=15 => b >> (8 * n) | a << (128 - 8 * n),
        _ => srldq(a, n - 16),
    }
}

/// All ones or zero.
macro_rules! mask {
    ($($name:ident $ty:ty;)*) => { $(
        #[inline(always)]
        pub(super) fn $name(on: bool) -> $ty {
            if on { <$ty>::MAX } else { 0 }
        }
    )* };
}

mask! { m8 u8; m16 u16; m32 u32; m64 u64; }

/// i16 saturated to i8.
#[inline(always)]
pub(super) fn sat_i8(x: i16) -> u8 {
    x.clamp(-128, 127) as u8
}

/// i16 saturated to u8.
#[inline(always)]
pub(super) fn sat_u8(x: i16) -> u8 {
    x.clamp(0, 255) as u8
}

/// i32 saturated to i16.
#[inline(always)]
pub(super) fn sat_i16(x: i32) -> u16 {
    x.clamp(-0x8000, 0x7FFF) as u16
}

/// i32 saturated to u16.
#[inline(always)]
pub(super) fn sat_u16(x: i32) -> u16 {
    x.clamp(0, 0xFFFF) as u16
}

/// PACKSSWB and PACKUSWB.
#[inline(always)]
pub(super) fn pack16(a: u128, b: u128, f: impl Fn(i16) -> u8) -> u128 {
    let (a, b) = (i16s(a).map(&f), i16s(b).map(&f));
    let mut out = [0; 16];
    out[..8].copy_from_slice(&a);
    out[8..].copy_from_slice(&b);
    from_u8s(out)
}

/// PACKSSDW and PACKUSDW.
#[inline(always)]
pub(super) fn pack32(a: u128, b: u128, f: impl Fn(i32) -> u16) -> u128 {
    let (a, b) = (i32s(a).map(&f), i32s(b).map(&f));
    let mut out = [0; 8];
    out[..4].copy_from_slice(&a);
    out[4..].copy_from_slice(&b);
    from_u16s(out)
}

macro_rules! unpacks {
    ($($low:ident $high:ident $split:ident $join:ident $n:literal;)*) => {
        $(
            #[inline(always)]
            pub(super) fn $low(a: u128, b: u128) -> u128 {
                let (a, b) = ($split(a), $split(b));
                let mut out = [0; $n];
                for i in 0..$n / 2 {
                    out[2 * i] = a[i];
                    out[2 * i + 1] = b[i];
                }
                $join(out)
            }

            #[inline(always)]
            pub(super) fn $high(a: u128, b: u128) -> u128 {
                let (a, b) = ($split(a), $split(b));
                let mut out = [0; $n];
                for i in 0..$n / 2 {
                    out[2 * i] = a[$n / 2 + i];
                    out[2 * i + 1] = b[$n / 2 + i];
                }
                $join(out)
            }
        )*
    };
}

unpacks! {
    unpackl8 unpackh8 u8s from_u8s 16;
    unpackl16 unpackh16 u16s from_u16s 8;
    unpackl32 unpackh32 u32s from_u32s 4;
}

/// PUNPCKLQDQ.
#[inline(always)]
pub(super) fn unpackl64(a: u128, b: u128) -> u128 {
    a & u128::from(u64::MAX) | b << 64
}

/// PUNPCKHQDQ.
#[inline(always)]
pub(super) fn unpackh64(a: u128, b: u128) -> u128 {
    a >> 64 | b >> 64 << 64
}

/// PMADDWD.
#[inline(always)]
pub(super) fn maddwd(a: u128, b: u128) -> u128 {
    let (a, b) = (i16s(a), i16s(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    from_i32s([0, 2, 4, 6].map(|i| product(i).wrapping_add(product(i + 1))))
}

/// PMADDUBSW: unsigned bytes of `a` by signed bytes of `b`.
#[inline(always)]
pub(super) fn maddubsw(a: u128, b: u128) -> u128 {
    let (a, b) = (u8s(a), i8s(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    from_u16s(core::array::from_fn(|i| sat_i16(product(2 * i) + product(2 * i + 1))))
}

/// PSADBW.
#[inline(always)]
pub(super) fn sadbw(a: u128, b: u128) -> u128 {
    let (a, b) = (u8s(a), u8s(b));
    let sum =
        |from: usize| -> u64 { (from..from + 8).map(|i| u64::from(a[i].abs_diff(b[i]))).sum() };
    from_u64s([sum(0), sum(8)])
}

/// PSHUFB.
#[inline]
pub(super) fn shufb(a: u128, b: u128) -> u128 {
    let (a, b) = (u8s(a), u8s(b));
    from_u8s(b.map(|i| if i & 0x80 != 0 { 0 } else { a[usize::from(i & 15)] }))
}

/// The four indices of a shuffle immediate.
#[inline(always)]
fn quad(imm: u8) -> [usize; 4] {
    [0, 2, 4, 6].map(|s| usize::from(imm >> s & 3))
}

/// PSHUFD.
#[inline]
pub(super) fn shufd(b: u128, imm: u8) -> u128 {
    let b = u32s(b);
    from_u32s(quad(imm).map(|i| b[i]))
}

/// PSHUFLW: the low four words.
#[inline]
pub(super) fn shuflw(b: u128, imm: u8) -> u128 {
    let b = u16s(b);
    let q = quad(imm).map(|i| b[i]);
    from_u16s([q[0], q[1], q[2], q[3], b[4], b[5], b[6], b[7]])
}

/// PSHUFHW: the high four words.
#[inline]
pub(super) fn shufhw(b: u128, imm: u8) -> u128 {
    let b = u16s(b);
    let q = quad(imm).map(|i| b[4 + i]);
    from_u16s([b[0], b[1], b[2], b[3], q[0], q[1], q[2], q[3]])
}

/// SHUFPS.
#[inline]
pub(super) fn shufps(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b, q) = (u32s(a), u32s(b), quad(imm));
    from_u32s([a[q[0]], a[q[1]], b[q[2]], b[q[3]]])
}

/// SHUFPD.
#[inline]
pub(super) fn shufpd(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (u64s(a), u64s(b));
    from_u64s([a[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]])
}

/// Horizontal operations on words: pairs of `a`, then pairs of `b`.
#[inline(always)]
pub(super) fn horizontal16(a: u128, b: u128, f: impl Fn(i16, i16) -> i16) -> u128 {
    let (a, b) = (i16s(a), i16s(b));
    let mut out = [0; 8];
    for i in 0..4 {
        out[i] = f(a[2 * i], a[2 * i + 1]);
        out[4 + i] = f(b[2 * i], b[2 * i + 1]);
    }
    from_i16s(out)
}

/// Horizontal operations on doublewords.
#[inline(always)]
pub(super) fn horizontal32(a: u128, b: u128, f: impl Fn(i32, i32) -> i32) -> u128 {
    let (a, b) = (i32s(a), i32s(b));
    from_i32s([f(a[0], a[1]), f(a[2], a[3]), f(b[0], b[1]), f(b[2], b[3])])
}

/// PMULHRSW, one lane.
#[inline(always)]
pub(super) fn mulhrs(a: i16, b: i16) -> i16 {
    ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16
}

/// PHMINPOSUW.
#[inline]
pub(super) fn minpos(b: u128) -> u128 {
    let words = u16s(b);
    let mut best = 0;
    for i in 1..8 {
        if words[i] < words[best] {
            best = i;
        }
    }
    u128::from(words[best]) | (best as u128) << 16
}

/// MPSADBW.
#[inline]
pub(super) fn mpsadbw(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (u8s(a), u8s(b));
    let (a_at, b_at) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
    let mut out = [0u16; 8];
    for (i, lane) in out.iter_mut().enumerate() {
        *lane = (0..4).map(|j| u16::from(a[a_at + i + j].abs_diff(b[b_at + j]))).sum();
    }
    from_u16s(out)
}

/// PBLENDW, BLENDPS, BLENDPD: lane `i` from `b` where bit `i` of the mask is set. `width` is the
/// lane's bits.
#[inline]
pub(super) fn blend(a: u128, b: u128, imm: u8, width: u32) -> u128 {
    let lane = u128::MAX >> (128 - width);
    let mut mask = 0;
    for i in 0..128 / width {
        if imm >> i & 1 != 0 {
            mask |= lane << (i * width);
        }
    }
    a & !mask | b & mask
}

/// INSERTPS from a register (a memory source is `b` with the value in lane 0 and bits 7-6 of the
/// immediate clear).
#[inline]
pub(super) fn insertps(a: u128, b: u128, imm: u8) -> u128 {
    let (mut out, b) = (u32s(a), u32s(b));
    out[usize::from(imm >> 4 & 3)] = b[usize::from(imm >> 6)];
    for (i, lane) in out.iter_mut().enumerate() {
        if imm >> i & 1 != 0 {
            *lane = 0;
        }
    }
    from_u32s(out)
}

/// The lane of `width` bits with that index, zero-extended; the index wraps.
#[inline]
pub(super) fn extract(b: u128, imm: u8, width: u32) -> u128 {
    let lane = u32::from(imm) & (128 / width - 1);
    b >> (lane * width) & (u128::MAX >> (128 - width))
}

/// `a` with one lane replaced by the low bits of `b`; the index wraps.
#[inline]
pub(super) fn insert(a: u128, b: u128, imm: u8, width: u32) -> u128 {
    let at = (u32::from(imm) & (128 / width - 1)) * width;
    let lane = u128::MAX >> (128 - width);
    a & !(lane << at) | (b & lane) << at
}

/// PMOVMSKB.
#[inline]
pub(super) fn movmskb(b: u128) -> u128 {
    // The eight sign bits of each half gathered by a multiplication.
    let gather = |half: u64| {
        ((half >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u128
    };
    gather(b as u64) | gather((b >> 64) as u64) << 8
}

/// The sign bits of lanes of `width` bits (MOVMSKPS, MOVMSKPD).
#[inline]
pub(super) fn movmsk(b: u128, width: u32) -> u128 {
    let mut out = 0;
    for i in 0..128 / width {
        out |= (b >> (i * width + width - 1) & 1) << i;
    }
    out
}

/// PTEST: ZF and CF in their EFLAGS bits.
#[inline]
pub(super) fn ptest(a: u128, b: u128) -> u128 {
    u128::from(a & b == 0) << 6 | u128::from(!a & b == 0)
}

/// PCLMULQDQ.
#[inline]
pub(super) fn clmul(a: u128, b: u128, imm: u8) -> u128 {
    let x = if imm & 1 == 0 { a as u64 } else { (a >> 64) as u64 };
    let y = if imm & 0x10 == 0 { b as u64 } else { (b >> 64) as u64 };
    let x = u128::from(x);
    let mut out = 0;
    for i in 0..64 {
        out ^= (x << i) & 0u128.wrapping_sub(u128::from(y >> i & 1));
    }
    out
}

/// CRC32 (SSE4.2): `len` bytes (1, 2, 4 or 8) of `data` into a CRC-32C.
#[must_use]
pub fn crc32c(mut crc: u32, data: u64, len: u8) -> u32 {
    for i in 0..len.min(8) {
        crc ^= u32::from((data >> (8 * i)) as u8);
        for _ in 0..8 {
            crc = crc >> 1 ^ 0x82F6_3B78 & 0u32.wrapping_sub(crc & 1);
        }
    }
    crc
}
