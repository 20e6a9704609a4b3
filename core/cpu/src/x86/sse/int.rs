//! Integer vector operations: helpers over lanes, and the operations too long for the table.

use zerocopy::transmute;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A vector as the operations pass it: in memory, so that it is never spread over general
/// registers and the compiler sees lanes. Byte 0 is the lowest.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(16))]
pub(super) struct Vector([u8; 16]);

impl Vector {
    /// All zero.
    pub(super) const ZERO: Self = Self([0; 16]);

    #[inline(always)]
    pub(super) fn from_bits(bits: u128) -> Self {
        Self(bits.to_le_bytes())
    }

    #[inline(always)]
    pub(super) fn bits(self) -> u128 {
        u128::from_le_bytes(self.0)
    }

    /// The low 64 bits.
    #[inline(always)]
    pub(super) fn low(self) -> u64 {
        u64s(self)[0]
    }

    /// The high 64 bits.
    #[inline(always)]
    pub(super) fn high(self) -> u64 {
        u64s(self)[1]
    }
}

macro_rules! lanes {
    ($($split:ident $join:ident $map:ident $ty:ty, $n:literal;)*) => {
        $(
            /// The lanes of a vector, lane 0 first.
            #[inline(always)]
            pub(super) fn $split(a: Vector) -> [$ty; $n] {
                let lanes: [$ty; $n] = transmute!(a);
                lanes.map(<$ty>::from_le)
            }

            /// The vector of these lanes.
            #[inline(always)]
            pub(super) fn $join(lanes: [$ty; $n]) -> Vector {
                transmute!(lanes.map(<$ty>::to_le))
            }

            /// Lane by lane.
            #[inline(always)]
            pub(super) fn $map(a: Vector, b: Vector, f: impl Fn($ty, $ty) -> $ty) -> Vector {
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
            pub(super) fn $left(a: Vector, count: u64) -> Vector {
                if count < $width { $join($split(a).map(|x| x << count)) } else { Vector::ZERO }
            }

            #[inline(always)]
            pub(super) fn $right(a: Vector, count: u64) -> Vector {
                if count < $width { $join($split(a).map(|x| x >> count)) } else { Vector::ZERO }
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
pub(super) fn sra16(a: Vector, count: u64) -> Vector {
    let count = count.min(15);
    from_i16s(i16s(a).map(|x| x >> count))
}

/// PSRAD.
#[inline(always)]
pub(super) fn sra32(a: Vector, count: u64) -> Vector {
    let count = count.min(31);
    from_i32s(i32s(a).map(|x| x >> count))
}

/// An integer in the low bits.
#[inline(always)]
pub(super) fn integer(value: u64) -> Vector {
    from_u64s([value, 0])
}

/// PSLLDQ, by bytes.
#[inline]
pub(super) fn slldq(a: Vector, bytes: u8) -> Vector {
    if bytes < 16 { Vector::from_bits(a.bits() << (8 * bytes)) } else { Vector::ZERO }
}

/// PSRLDQ, by bytes.
#[inline]
pub(super) fn srldq(a: Vector, bytes: u8) -> Vector {
    if bytes < 16 { Vector::from_bits(a.bits() >> (8 * bytes)) } else { Vector::ZERO }
}

/// PALIGNR: bytes `n..n + 16` of `a:b`.
#[inline]
pub(super) fn alignr(a: Vector, b: Vector, n: u8) -> Vector {
    match n {
        0 => b,
        1..=15 => Vector::from_bits(b.bits() >> (8 * n) | a.bits() << (128 - 8 * n)),
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
pub(super) fn pack16(a: Vector, b: Vector, f: impl Fn(i16) -> u8) -> Vector {
    let (a, b) = (i16s(a).map(&f), i16s(b).map(&f));
    let mut out = [0; 16];
    out[..8].copy_from_slice(&a);
    out[8..].copy_from_slice(&b);
    from_u8s(out)
}

/// PACKSSDW and PACKUSDW.
#[inline(always)]
pub(super) fn pack32(a: Vector, b: Vector, f: impl Fn(i32) -> u16) -> Vector {
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
            pub(super) fn $low(a: Vector, b: Vector) -> Vector {
                let (a, b) = ($split(a), $split(b));
                let mut out = [0; $n];
                for i in 0..$n / 2 {
                    out[2 * i] = a[i];
                    out[2 * i + 1] = b[i];
                }
                $join(out)
            }

            #[inline(always)]
            pub(super) fn $high(a: Vector, b: Vector) -> Vector {
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
pub(super) fn unpackl64(a: Vector, b: Vector) -> Vector {
    from_u64s([a.low(), b.low()])
}

/// PUNPCKHQDQ.
#[inline(always)]
pub(super) fn unpackh64(a: Vector, b: Vector) -> Vector {
    from_u64s([a.high(), b.high()])
}

/// PMADDWD.
#[inline(always)]
pub(super) fn maddwd(a: Vector, b: Vector) -> Vector {
    let (a, b) = (i16s(a), i16s(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    from_i32s([0, 2, 4, 6].map(|i| product(i).wrapping_add(product(i + 1))))
}

/// PMADDUBSW: unsigned bytes of `a` by signed bytes of `b`.
#[inline(always)]
pub(super) fn maddubsw(a: Vector, b: Vector) -> Vector {
    let (a, b) = (u8s(a), i8s(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i]);
    from_u16s(core::array::from_fn(|i| sat_i16(product(2 * i) + product(2 * i + 1))))
}

/// PSADBW.
#[inline(always)]
pub(super) fn sadbw(a: Vector, b: Vector) -> Vector {
    let (a, b) = (u8s(a), u8s(b));
    let sum =
        |from: usize| -> u64 { (from..from + 8).map(|i| u64::from(a[i].abs_diff(b[i]))).sum() };
    from_u64s([sum(0), sum(8)])
}

/// PSHUFB.
#[inline]
pub(super) fn shufb(a: Vector, b: Vector) -> Vector {
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
pub(super) fn shufd(b: Vector, imm: u8) -> Vector {
    let b = u32s(b);
    from_u32s(quad(imm).map(|i| b[i]))
}

/// PSHUFLW: the low four words.
#[inline]
pub(super) fn shuflw(b: Vector, imm: u8) -> Vector {
    let b = u16s(b);
    let q = quad(imm).map(|i| b[i]);
    from_u16s([q[0], q[1], q[2], q[3], b[4], b[5], b[6], b[7]])
}

/// PSHUFHW: the high four words.
#[inline]
pub(super) fn shufhw(b: Vector, imm: u8) -> Vector {
    let b = u16s(b);
    let q = quad(imm).map(|i| b[4 + i]);
    from_u16s([b[0], b[1], b[2], b[3], q[0], q[1], q[2], q[3]])
}

/// SHUFPS.
#[inline]
pub(super) fn shufps(a: Vector, b: Vector, imm: u8) -> Vector {
    let (a, b, q) = (u32s(a), u32s(b), quad(imm));
    from_u32s([a[q[0]], a[q[1]], b[q[2]], b[q[3]]])
}

/// SHUFPD.
#[inline]
pub(super) fn shufpd(a: Vector, b: Vector, imm: u8) -> Vector {
    let (a, b) = (u64s(a), u64s(b));
    from_u64s([a[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]])
}

/// Horizontal operations on words: pairs of `a`, then pairs of `b`.
#[inline(always)]
pub(super) fn horizontal16(a: Vector, b: Vector, f: impl Fn(i16, i16) -> i16) -> Vector {
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
pub(super) fn horizontal32(a: Vector, b: Vector, f: impl Fn(i32, i32) -> i32) -> Vector {
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
pub(super) fn minpos(b: Vector) -> Vector {
    let words = u16s(b);
    let mut best = 0;
    for i in 1..8 {
        if words[i] < words[best] {
            best = i;
        }
    }
    integer(u64::from(words[best]) | (best as u64) << 16)
}

/// MPSADBW.
#[inline]
pub(super) fn mpsadbw(a: Vector, b: Vector, imm: u8) -> Vector {
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
pub(super) fn blend(a: Vector, b: Vector, imm: u8, width: u32) -> Vector {
    let lane = u128::MAX >> (128 - width);
    let mut mask = 0;
    for i in 0..128 / width {
        if imm >> i & 1 != 0 {
            mask |= lane << (i * width);
        }
    }
    Vector::from_bits(a.bits() & !mask | b.bits() & mask)
}

/// INSERTPS from a register (a memory source is `b` with the value in lane 0 and bits 7-6 of the
/// immediate clear).
#[inline]
pub(super) fn insertps(a: Vector, b: Vector, imm: u8) -> Vector {
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
pub(super) fn extract(b: Vector, imm: u8, width: u32) -> Vector {
    let lane = u32::from(imm) & (128 / width - 1);
    Vector::from_bits(b.bits() >> (lane * width) & (u128::MAX >> (128 - width)))
}

/// `a` with one lane replaced by the low bits of `b`; the index wraps.
#[inline]
pub(super) fn insert(a: Vector, b: Vector, imm: u8, width: u32) -> Vector {
    let at = (u32::from(imm) & (128 / width - 1)) * width;
    let lane = u128::MAX >> (128 - width);
    Vector::from_bits(a.bits() & !(lane << at) | (b.bits() & lane) << at)
}

/// PMOVMSKB.
#[inline]
pub(super) fn movmskb(b: Vector) -> Vector {
    // The eight sign bits of each half gathered by a multiplication.
    let gather =
        |half: u64| (half >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    integer(gather(b.low()) | gather(b.high()) << 8)
}

/// The sign bits of lanes of `width` bits (MOVMSKPS, MOVMSKPD).
#[inline]
pub(super) fn movmsk(b: Vector, width: u32) -> Vector {
    let mut out = 0;
    for i in 0..128 / width {
        out |= (b.bits() >> (i * width + width - 1) & 1) << i;
    }
    Vector::from_bits(out)
}

/// PTEST: ZF and CF in their EFLAGS bits.
#[inline]
pub(super) fn ptest(a: Vector, b: Vector) -> Vector {
    let (a, b) = (a.bits(), b.bits());
    integer(u64::from(a & b == 0) << 6 | u64::from(!a & b == 0))
}

/// PCLMULQDQ.
#[inline]
pub(super) fn clmul(a: Vector, b: Vector, imm: u8) -> Vector {
    let x = if imm & 1 == 0 { a.low() } else { a.high() };
    let y = if imm & 0x10 == 0 { b.low() } else { b.high() };
    let x = u128::from(x);
    let mut out = 0;
    for i in 0..64 {
        out ^= (x << i) & 0u128.wrapping_sub(u128::from(y >> i & 1));
    }
    Vector::from_bits(out)
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
