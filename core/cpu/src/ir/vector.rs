//! What the vector operations of instruction sets do, where back ends may know: [`VecKind`].
//!
//! [`Op::VecOp`](super::Op::VecOp) is a pure function of its operands;
//! [`Isa::vec_kind`](crate::isa::Isa::vec_kind) names it in the terms of this table, so that a back end
//! can emit vector instructions of its host. For the others, and for kinds it does not know, it
//! calls [`Isa::vec_op`](crate::isa::Isa::vec_op). [`VecKind::eval`] defines each.

use super::Width;

/// A vector operation. `a`, `b` and `imm` are those of the op. A width is that of the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VecKind {
    /// `b`.
    Move,
    /// Lane 0 of `b`, the other lanes of `a`.
    MoveLow(Width),
    /// Lane 0 of `b`, zero above.
    Low(Width),
    /// Low half: the high half of `b`; high half: that of `a`.
    HighToLow,
    /// `a & b`.
    And,
    /// `!a & b`.
    AndNot,
    /// `a | b`.
    Or,
    /// `a ^ b`.
    Xor,
    /// `a + b`, wrapping.
    Add(Width),
    /// `a - b`, wrapping.
    Sub(Width),
    /// `a + b`, saturating signed.
    AddSatS(Width),
    /// `a + b`, saturating unsigned.
    AddSatU(Width),
    /// `a - b`, saturating signed.
    SubSatS(Width),
    /// `a - b`, saturating unsigned.
    SubSatU(Width),
    /// `a * b`, low half.
    Mul(Width),
    /// `a * b`, high half, signed. 16-bit lanes.
    MulHighS,
    /// `a * b`, high half, unsigned. 16-bit lanes.
    MulHighU,
    /// 64-bit products of the even 32-bit lanes, unsigned.
    MulWideU,
    /// 32-bit sums of pairs of products of signed 16-bit lanes.
    MulAdd,
    /// `(a + b + 1) >> 1`, unsigned, without overflow.
    Average(Width),
    /// All ones where equal.
    Equal(Width),
    /// All ones where `a > b`, signed.
    GreaterS(Width),
    /// The smaller, unsigned.
    MinU(Width),
    /// The smaller, signed.
    MinS(Width),
    /// The greater, unsigned.
    MaxU(Width),
    /// The greater, signed.
    MaxS(Width),
    /// `a << imm`; 0 from the width on.
    ShlImm(Width),
    /// `a >> imm`; 0 from the width on.
    ShrImm(Width),
    /// `a >> imm` with the sign; all sign from the width on.
    SarImm(Width),
    /// `a` moved up by `imm` bytes; 0 from 16 on.
    ShlBytes,
    /// `a` moved down by `imm` bytes; 0 from 16 on.
    ShrBytes,
    /// The low halves' lanes in turn, `a` first.
    UnpackLow(Width),
    /// The high halves' lanes in turn, `a` first.
    UnpackHigh(Width),
    /// 32-bit lane `i` is lane `imm >> 2i & 3` of `b`.
    Shuffle,
    /// 16-bit lane `i` of the low half is lane `imm >> 2i & 3` of `b`; the high half of `b`.
    ShuffleLow,
    /// The same with the halves exchanged.
    ShuffleHigh,
    /// 32-bit lanes: two of `a`, two of `b`, chosen as by [`Shuffle`](Self::Shuffle).
    ShuffleTwo,
    /// 64-bit lanes: `imm & 1` of `a`, `imm >> 1 & 1` of `b`.
    ShuffleTwo64,
    /// Byte `i` is byte `b[i] & 15` of `a`, or 0 where bit 7 of `b[i]` is set.
    ShuffleBytes,
    /// Signed lanes of this width narrowed with signed saturation; those of `a` are the low half.
    PackS(Width),
    /// Signed lanes of this width narrowed with unsigned saturation.
    PackU(Width),
    /// The sign bits of `b`'s lanes, as an integer.
    SignBits(Width),
}

fn lane(v: u128, w: Width, i: u32) -> u64 {
    (v >> (i * w.bits())) as u64 & w.mask()
}

fn signed(v: u128, w: Width, i: u32) -> i64 {
    w.sext(lane(v, w, i)) as i64
}

fn build(w: Width, f: impl Fn(u32) -> u64) -> u128 {
    let put = |v, i| v | u128::from(f(i) & w.mask()) << (i * w.bits());
    (0..128 / w.bits()).fold(0, put)
}

fn narrower(w: Width) -> Width {
    Width::from_bytes(w.bytes() / 2).unwrap_or(Width::W8)
}

impl VecKind {
    /// The result.
    pub fn eval(self, a: u128, b: u128, imm: u8) -> u128 {
        use Width::{W8, W16, W32, W64};
        let u = |w: Width, f: fn(u64, u64, u64) -> u64| {
            build(w, |i| f(lane(a, w, i), lane(b, w, i), w.mask()))
        };
        let s = |w: Width, f: fn(i64, i64) -> i64| {
            build(w, |i| f(signed(a, w, i), signed(b, w, i)) as u64)
        };
        let limit = |w: Width, f: fn(i64, i64) -> i64| {
            let top = (w.mask() >> 1) as i64;
            build(w, |i| f(signed(a, w, i), signed(b, w, i)).clamp(-top - 1, top) as u64)
        };
        let low = |w: Width| u128::from(w.mask());
        let shuffle = |v: u128, w: Width, i: u32| lane(v, w, u32::from(imm >> (2 * i) & 3));
        match self {
            Self::Move => b,
            Self::MoveLow(w) => a & !low(w) | b & low(w),
            Self::Low(w) => b & low(w),
            Self::HighToLow => a >> 64 << 64 | b >> 64,
            Self::And => a & b,
            Self::AndNot => !a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
            Self::Add(w) => u(w, |x, y, _| x.wrapping_add(y)),
            Self::Sub(w) => u(w, |x, y, _| x.wrapping_sub(y)),
            Self::AddSatS(w) => limit(w, |x, y| x + y),
            Self::AddSatU(w) => u(w, |x, y, max| (x + y).min(max)),
            Self::SubSatS(w) => limit(w, |x, y| x - y),
            Self::SubSatU(w) => u(w, |x, y, _| x.saturating_sub(y)),
            Self::Mul(w) => u(w, |x, y, _| x.wrapping_mul(y)),
            Self::MulHighS => s(W16, |x, y| (x * y) >> 16),
            Self::MulHighU => u(W16, |x, y, _| (x * y) >> 16),
            Self::MulWideU => build(W64, |i| lane(a, W32, 2 * i) * lane(b, W32, 2 * i)),
            Self::MulAdd => build(W32, |i| {
                let product = |i| signed(a, W16, i) * signed(b, W16, i);
                (product(2 * i) + product(2 * i + 1)) as u64
            }),
            Self::Average(w) => u(w, |x, y, _| (x + y + 1) >> 1),
            Self::Equal(w) => u(w, |x, y, max| if x == y { max } else { 0 }),
            Self::GreaterS(w) => s(w, |x, y| -i64::from(x > y)),
            Self::MinU(w) => u(w, |x, y, _| x.min(y)),
            Self::MinS(w) => s(w, i64::min),
            Self::MaxU(w) => u(w, |x, y, _| x.max(y)),
            Self::MaxS(w) => s(w, i64::max),
            Self::ShlImm(w) => {
                let n = u32::from(imm);
                build(w, |i| if n < w.bits() { lane(a, w, i) << n } else { 0 })
            }
            Self::ShrImm(w) => {
                let n = u32::from(imm);
                build(w, |i| if n < w.bits() { lane(a, w, i) >> n } else { 0 })
            }
            Self::SarImm(w) => {
                let n = u32::from(imm).min(w.bits() - 1);
                build(w, |i| (signed(a, w, i) >> n) as u64)
            }
            Self::ShlBytes => {
                if imm < 16 {
                    a << (8 * imm)
                } else {
                    0
                }
            }
            Self::ShrBytes => {
                if imm < 16 {
                    a >> (8 * imm)
                } else {
                    0
                }
            }
            Self::UnpackLow(w) => build(w, |i| lane(if i % 2 == 0 { a } else { b }, w, i / 2)),
            Self::UnpackHigh(w) => {
                let half = 64 / w.bits();
                build(w, |i| lane(if i % 2 == 0 { a } else { b }, w, half + i / 2))
            }
            Self::Shuffle => build(W32, |i| shuffle(b, W32, i)),
            Self::ShuffleLow => {
                build(W16, |i| if i < 4 { shuffle(b, W16, i) } else { lane(b, W16, i) })
            }
            Self::ShuffleHigh => {
                build(W16, |i| if i < 4 { lane(b, W16, i) } else { shuffle(b >> 64, W16, i - 4) })
            }
            Self::ShuffleTwo => build(W32, |i| shuffle(if i < 2 { a } else { b }, W32, i)),
            Self::ShuffleTwo64 => {
                let bit = |i: u32| u32::from(imm >> i & 1);
                build(W64, |i| lane(if i == 0 { a } else { b }, W64, bit(i)))
            }
            Self::ShuffleBytes => build(W8, |i| {
                let n = lane(b, W8, i) as u32;
                if n & 0x80 != 0 { 0 } else { lane(a, W8, n & 15) }
            }),
            Self::PackS(w) | Self::PackU(w) => {
                let to = narrower(w);
                let top = (to.mask() >> 1) as i64;
                let (min, max) = match self {
                    Self::PackS(_) => (-top - 1, top),
                    _ => (0, to.mask() as i64),
                };
                let n = 128 / w.bits();
                build(to, |i| {
                    let x = if i < n { signed(a, w, i) } else { signed(b, w, i - n) };
                    x.clamp(min, max) as u64
                })
            }
            Self::SignBits(w) => {
                (0..128 / w.bits()).fold(0, |v, i| v | u128::from(signed(b, w, i) < 0) << i)
            }
        }
    }
}
