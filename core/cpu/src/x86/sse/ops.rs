//! The table: every operation, what it is called and what it does.

use super::fp::{self, Arith};
use super::int::*;
use super::{Mxcsr, SimdException, aes, string};

macro_rules! simd_ops {
    (
        integer { $($int:ident $int_doc:literal => $int_f:expr;)* }
        float { $($float:ident $float_doc:literal => $float_f:expr;)* }
    ) => {
        /// A vector operation. Unless the description says otherwise the result is the new
        /// destination register; "scalar" ones keep the upper lanes of `a`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum SimdOp {
            $(#[doc = $int_doc] $int,)*
            $(#[doc = $float_doc] $float,)*
        }

        impl SimdOp {
            /// Every operation, by number.
            pub const ALL: &'static [Self] = &[$(Self::$int,)* $(Self::$float,)*];

            /// Its name, for dumps.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$int => stringify!($int),)*
                    $(Self::$float => stringify!($float),)*
                }
            }

            /// Whether it reads and writes MXCSR, and so may raise an exception.
            #[must_use]
            pub const fn uses_mxcsr(self) -> bool {
                matches!(self, $(Self::$float)|*)
            }
        }

        /// Executes one operation.
        ///
        /// # Errors
        /// An unmasked floating-point exception; MXCSR has its flags, the destination must stay.
        #[inline]
        pub fn simd(
            op: SimdOp,
            a: u128,
            b: u128,
            imm: u8,
            mxcsr: &mut Mxcsr,
        ) -> Result<u128, SimdException> {
            match op {
                $(SimdOp::$float => fp::run($float_f, a, b, imm, mxcsr),)*
                _ => Ok(simd_pure(op, a, b, imm)),
            }
        }

        fn run_pure(op: SimdOp, a: Vector, b: Vector, imm: u8) -> Vector {
            match op {
                $(SimdOp::$int => typed($int_f, a, b, imm),)*
                _ => a,
            }
        }
    };
}

/// Gives the closures of the table their types.
#[inline(always)]
fn typed(f: impl Fn(Vector, Vector, u8) -> Vector, a: Vector, b: Vector, imm: u8) -> Vector {
    f(a, b, imm)
}

/// Executes an operation that does not use MXCSR; the others give `a`.
#[inline]
#[must_use]
pub fn simd_pure(op: SimdOp, a: u128, b: u128, imm: u8) -> u128 {
    run_pure(op, Vector::from_bits(a), Vector::from_bits(b), imm).bits()
}

/// [`simd_pure`] from memory to memory, which is what the compiler makes vector code of.
#[inline]
pub fn simd_pure_into(op: SimdOp, a: &u128, b: &u128, imm: u8, out: &mut u128) {
    *out =
        zerocopy::transmute!(run_pure(op, zerocopy::transmute!(*a), zerocopy::transmute!(*b), imm));
}

simd_ops! {
    integer {
        // Moves.
        Mov "MOVAPS, MOVDQA and the like: `b`" => |_, b, _| b;
        Movss "MOVSS register form: lane 0 (32 bits) of `b` into `a`" => |a, b, _| blend(a, b, 1, 32);
        Movsd "MOVSD register form, MOVLPS/MOVLPD load: low 64 bits of `b` into `a`" => |a, b, _| blend(a, b, 1, 64);
        Movq "MOVQ: low 64 bits of `b`, zero above" => |_, b, _| integer(b.low());
        Movd "MOVD: low 32 bits of `b`, zero above" => |_, b, _| integer(b.low() & 0xFFFF_FFFF);
        Movlhps "MOVLHPS, MOVHPS/MOVHPD load, PUNPCKLQDQ, UNPCKLPD" => |a, b, _| unpackl64(a, b);
        Movhlps "MOVHLPS: high half of `b` into the low half of `a`" => |a, b, _| from_u64s([b.high(), a.high()]);
        MovHigh "MOVHPS/MOVHPD store: the high half of `b`, zero above" => |_, b, _| integer(b.high());
        Movddup "MOVDDUP" => |_, b, _| unpackl64(b, b);
        Movsldup "MOVSLDUP" => |_, b, _| shufd(b, 0b10_10_00_00);
        Movshdup "MOVSHDUP" => |_, b, _| shufd(b, 0b11_11_01_01);
        // Logic.
        Pand "PAND, ANDPS, ANDPD" => |a, b, _| map_u64(a, b, |x, y| x & y);
        Pandn "PANDN, ANDNPS, ANDNPD" => |a, b, _| map_u64(a, b, |x, y| !x & y);
        Por "POR, ORPS, ORPD" => |a, b, _| map_u64(a, b, |x, y| x | y);
        Pxor "PXOR, XORPS, XORPD" => |a, b, _| map_u64(a, b, |x, y| x ^ y);
        Ptest "PTEST; the result is ZF and CF in their EFLAGS bits" => |a, b, _| ptest(a, b);
        // Sums and differences.
        Paddb "PADDB" => |a, b, _| map_u8(a, b, u8::wrapping_add);
        Paddw "PADDW" => |a, b, _| map_u16(a, b, u16::wrapping_add);
        Paddd "PADDD" => |a, b, _| map_u32(a, b, u32::wrapping_add);
        Paddq "PADDQ" => |a, b, _| map_u64(a, b, u64::wrapping_add);
        Psubb "PSUBB" => |a, b, _| map_u8(a, b, u8::wrapping_sub);
        Psubw "PSUBW" => |a, b, _| map_u16(a, b, u16::wrapping_sub);
        Psubd "PSUBD" => |a, b, _| map_u32(a, b, u32::wrapping_sub);
        Psubq "PSUBQ" => |a, b, _| map_u64(a, b, u64::wrapping_sub);
        Paddsb "PADDSB" => |a, b, _| map_i8(a, b, i8::saturating_add);
        Paddsw "PADDSW" => |a, b, _| map_i16(a, b, i16::saturating_add);
        Paddusb "PADDUSB" => |a, b, _| map_u8(a, b, u8::saturating_add);
        Paddusw "PADDUSW" => |a, b, _| map_u16(a, b, u16::saturating_add);
        Psubsb "PSUBSB" => |a, b, _| map_i8(a, b, i8::saturating_sub);
        Psubsw "PSUBSW" => |a, b, _| map_i16(a, b, i16::saturating_sub);
        Psubusb "PSUBUSB" => |a, b, _| map_u8(a, b, u8::saturating_sub);
        Psubusw "PSUBUSW" => |a, b, _| map_u16(a, b, u16::saturating_sub);
        Phaddw "PHADDW" => |a, b, _| horizontal16(a, b, i16::wrapping_add);
        Phaddd "PHADDD" => |a, b, _| horizontal32(a, b, i32::wrapping_add);
        Phaddsw "PHADDSW" => |a, b, _| horizontal16(a, b, i16::saturating_add);
        Phsubw "PHSUBW" => |a, b, _| horizontal16(a, b, i16::wrapping_sub);
        Phsubd "PHSUBD" => |a, b, _| horizontal32(a, b, i32::wrapping_sub);
        Phsubsw "PHSUBSW" => |a, b, _| horizontal16(a, b, i16::saturating_sub);
        Pavgb "PAVGB" => |a, b, _| map_u8(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8);
        Pavgw "PAVGW" => |a, b, _| map_u16(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16);
        Psadbw "PSADBW" => |a, b, _| sadbw(a, b);
        Mpsadbw "MPSADBW" => mpsadbw;
        // Products.
        Pmullw "PMULLW" => |a, b, _| map_u16(a, b, u16::wrapping_mul);
        Pmulhw "PMULHW" => |a, b, _| map_i16(a, b, |x, y| ((i32::from(x) * i32::from(y)) >> 16) as i16);
        Pmulhuw "PMULHUW" => |a, b, _| map_u16(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16);
        Pmulhrsw "PMULHRSW" => |a, b, _| map_i16(a, b, mulhrs);
        Pmulld "PMULLD" => |a, b, _| map_u32(a, b, u32::wrapping_mul);
        Pmuludq "PMULUDQ" => |a, b, _| map_u64(a, b, |x, y| (x & 0xFFFF_FFFF) * (y & 0xFFFF_FFFF));
        Pmuldq "PMULDQ" => |a, b, _| map_i64(a, b, |x, y| i64::from(x as i32) * i64::from(y as i32));
        Pmaddwd "PMADDWD" => |a, b, _| maddwd(a, b);
        Pmaddubsw "PMADDUBSW" => |a, b, _| maddubsw(a, b);
        Pclmulqdq "PCLMULQDQ" => clmul;
        // Comparisons, minima and maxima.
        Pcmpeqb "PCMPEQB" => |a, b, _| map_u8(a, b, |x, y| m8(x == y));
        Pcmpeqw "PCMPEQW" => |a, b, _| map_u16(a, b, |x, y| m16(x == y));
        Pcmpeqd "PCMPEQD" => |a, b, _| map_u32(a, b, |x, y| m32(x == y));
        Pcmpeqq "PCMPEQQ" => |a, b, _| map_u64(a, b, |x, y| m64(x == y));
        Pcmpgtb "PCMPGTB" => |a, b, _| map_i8(a, b, |x, y| m8(x > y) as i8);
        Pcmpgtw "PCMPGTW" => |a, b, _| map_i16(a, b, |x, y| m16(x > y) as i16);
        Pcmpgtd "PCMPGTD" => |a, b, _| map_i32(a, b, |x, y| m32(x > y) as i32);
        Pcmpgtq "PCMPGTQ" => |a, b, _| map_i64(a, b, |x, y| m64(x > y) as i64);
        Pminub "PMINUB" => |a, b, _| map_u8(a, b, u8::min);
        Pminuw "PMINUW" => |a, b, _| map_u16(a, b, u16::min);
        Pminud "PMINUD" => |a, b, _| map_u32(a, b, u32::min);
        Pminsb "PMINSB" => |a, b, _| map_i8(a, b, i8::min);
        Pminsw "PMINSW" => |a, b, _| map_i16(a, b, i16::min);
        Pminsd "PMINSD" => |a, b, _| map_i32(a, b, i32::min);
        Pmaxub "PMAXUB" => |a, b, _| map_u8(a, b, u8::max);
        Pmaxuw "PMAXUW" => |a, b, _| map_u16(a, b, u16::max);
        Pmaxud "PMAXUD" => |a, b, _| map_u32(a, b, u32::max);
        Pmaxsb "PMAXSB" => |a, b, _| map_i8(a, b, i8::max);
        Pmaxsw "PMAXSW" => |a, b, _| map_i16(a, b, i16::max);
        Pmaxsd "PMAXSD" => |a, b, _| map_i32(a, b, i32::max);
        Phminposuw "PHMINPOSUW" => |_, b, _| minpos(b);
        // Signs.
        Pabsb "PABSB" => |_, b, _| from_i8s(i8s(b).map(i8::wrapping_abs));
        Pabsw "PABSW" => |_, b, _| from_i16s(i16s(b).map(i16::wrapping_abs));
        Pabsd "PABSD" => |_, b, _| from_i32s(i32s(b).map(i32::wrapping_abs));
        Psignb "PSIGNB" => |a, b, _| map_i8(a, b, |x, y| x.wrapping_mul(y.signum()));
        Psignw "PSIGNW" => |a, b, _| map_i16(a, b, |x, y| x.wrapping_mul(y.signum()));
        Psignd "PSIGND" => |a, b, _| map_i32(a, b, |x, y| x.wrapping_mul(y.signum()));
        // Shifts: by the low 64 bits of `b`, or by the immediate.
        Psllw "PSLLW by `b`" => |a, b, _| sll16(a, b.low());
        Pslld "PSLLD by `b`" => |a, b, _| sll32(a, b.low());
        Psllq "PSLLQ by `b`" => |a, b, _| sll64(a, b.low());
        Psrlw "PSRLW by `b`" => |a, b, _| srl16(a, b.low());
        Psrld "PSRLD by `b`" => |a, b, _| srl32(a, b.low());
        Psrlq "PSRLQ by `b`" => |a, b, _| srl64(a, b.low());
        Psraw "PSRAW by `b`" => |a, b, _| sra16(a, b.low());
        Psrad "PSRAD by `b`" => |a, b, _| sra32(a, b.low());
        PsllwImm "PSLLW of `a` by the immediate" => |a, _, n| sll16(a, n.into());
        PslldImm "PSLLD of `a` by the immediate" => |a, _, n| sll32(a, n.into());
        PsllqImm "PSLLQ of `a` by the immediate" => |a, _, n| sll64(a, n.into());
        PsrlwImm "PSRLW of `a` by the immediate" => |a, _, n| srl16(a, n.into());
        PsrldImm "PSRLD of `a` by the immediate" => |a, _, n| srl32(a, n.into());
        PsrlqImm "PSRLQ of `a` by the immediate" => |a, _, n| srl64(a, n.into());
        PsrawImm "PSRAW of `a` by the immediate" => |a, _, n| sra16(a, n.into());
        PsradImm "PSRAD of `a` by the immediate" => |a, _, n| sra32(a, n.into());
        PslldqImm "PSLLDQ of `a` by the immediate, in bytes" => |a, _, n| slldq(a, n);
        PsrldqImm "PSRLDQ of `a` by the immediate, in bytes" => |a, _, n| srldq(a, n);
        Palignr "PALIGNR" => alignr;
        // Packing and shuffling.
        Packsswb "PACKSSWB" => |a, b, _| pack16(a, b, sat_i8);
        Packuswb "PACKUSWB" => |a, b, _| pack16(a, b, sat_u8);
        Packssdw "PACKSSDW" => |a, b, _| pack32(a, b, sat_i16);
        Packusdw "PACKUSDW" => |a, b, _| pack32(a, b, sat_u16);
        Punpcklbw "PUNPCKLBW" => |a, b, _| unpackl8(a, b);
        Punpcklwd "PUNPCKLWD" => |a, b, _| unpackl16(a, b);
        Punpckldq "PUNPCKLDQ, UNPCKLPS" => |a, b, _| unpackl32(a, b);
        Punpckhbw "PUNPCKHBW" => |a, b, _| unpackh8(a, b);
        Punpckhwd "PUNPCKHWD" => |a, b, _| unpackh16(a, b);
        Punpckhdq "PUNPCKHDQ, UNPCKHPS" => |a, b, _| unpackh32(a, b);
        Punpckhqdq "PUNPCKHQDQ, UNPCKHPD" => |a, b, _| unpackh64(a, b);
        Pshufb "PSHUFB" => |a, b, _| shufb(a, b);
        Pshufd "PSHUFD" => |_, b, imm| shufd(b, imm);
        Pshuflw "PSHUFLW; PSHUFW of MMX" => |_, b, imm| shuflw(b, imm);
        Pshufhw "PSHUFHW" => |_, b, imm| shufhw(b, imm);
        Shufps "SHUFPS" => shufps;
        Shufpd "SHUFPD" => shufpd;
        Pblendw "PBLENDW" => |a, b, imm| blend(a, b, imm, 16);
        Blendps "BLENDPS" => |a, b, imm| blend(a, b, imm, 32);
        Blendpd "BLENDPD" => |a, b, imm| blend(a, b, imm, 64);
        SignMaskB "Each byte all ones where its sign bit is set: PBLENDVB is `a & !m | b & m`" => |_, b, _| from_i8s(i8s(b).map(|x| x >> 7));
        SignMaskD "The same for doublewords: BLENDVPS" => |_, b, _| from_i32s(i32s(b).map(|x| x >> 31));
        SignMaskQ "The same for quadwords: BLENDVPD" => |_, b, _| from_i64s(i64s(b).map(|x| x >> 63));
        Insertps "INSERTPS (memory form: the value in lane 0, immediate bits 7-6 cleared)" => insertps;
        Pmovsxbw "PMOVSXBW" => |_, b, _| from_i16s(core::array::from_fn(|i| i8s(b)[i].into()));
        Pmovsxbd "PMOVSXBD" => |_, b, _| from_i32s(core::array::from_fn(|i| i8s(b)[i].into()));
        Pmovsxbq "PMOVSXBQ" => |_, b, _| from_i64s(core::array::from_fn(|i| i8s(b)[i].into()));
        Pmovsxwd "PMOVSXWD" => |_, b, _| from_i32s(core::array::from_fn(|i| i16s(b)[i].into()));
        Pmovsxwq "PMOVSXWQ" => |_, b, _| from_i64s(core::array::from_fn(|i| i16s(b)[i].into()));
        Pmovsxdq "PMOVSXDQ" => |_, b, _| from_i64s(core::array::from_fn(|i| i32s(b)[i].into()));
        Pmovzxbw "PMOVZXBW" => |_, b, _| from_u16s(core::array::from_fn(|i| u8s(b)[i].into()));
        Pmovzxbd "PMOVZXBD" => |_, b, _| from_u32s(core::array::from_fn(|i| u8s(b)[i].into()));
        Pmovzxbq "PMOVZXBQ" => |_, b, _| from_u64s(core::array::from_fn(|i| u8s(b)[i].into()));
        Pmovzxwd "PMOVZXWD" => |_, b, _| from_u32s(core::array::from_fn(|i| u16s(b)[i].into()));
        Pmovzxwq "PMOVZXWQ" => |_, b, _| from_u64s(core::array::from_fn(|i| u16s(b)[i].into()));
        Pmovzxdq "PMOVZXDQ" => |_, b, _| from_u64s(core::array::from_fn(|i| u32s(b)[i].into()));
        // To and from general registers: integers are in the low bits, zero-extended.
        Pextrb "PEXTRB; the result is an integer" => |_, b, imm| extract(b, imm, 8);
        Pextrw "PEXTRW; the result is an integer" => |_, b, imm| extract(b, imm, 16);
        Pextrd "PEXTRD, EXTRACTPS; the result is an integer" => |_, b, imm| extract(b, imm, 32);
        Pextrq "PEXTRQ; the result is an integer" => |_, b, imm| extract(b, imm, 64);
        Pinsrb "PINSRB; `b` is an integer" => |a, b, imm| insert(a, b, imm, 8);
        Pinsrw "PINSRW; `b` is an integer" => |a, b, imm| insert(a, b, imm, 16);
        Pinsrd "PINSRD; `b` is an integer" => |a, b, imm| insert(a, b, imm, 32);
        Pinsrq "PINSRQ; `b` is an integer" => |a, b, imm| insert(a, b, imm, 64);
        Pmovmskb "PMOVMSKB; the result is an integer" => |_, b, _| movmskb(b);
        Movmskps "MOVMSKPS; the result is an integer" => |_, b, _| movmsk(b, 32);
        Movmskpd "MOVMSKPD; the result is an integer" => |_, b, _| movmsk(b, 64);
        // AES.
        Aesenc "AESENC" => |a, b, _| aes::enc(a, b);
        Aesenclast "AESENCLAST" => |a, b, _| aes::enc_last(a, b);
        Aesdec "AESDEC" => |a, b, _| aes::dec(a, b);
        Aesdeclast "AESDECLAST" => |a, b, _| aes::dec_last(a, b);
        Aesimc "AESIMC" => |_, b, _| aes::imc(b);
        Aeskeygenassist "AESKEYGENASSIST" => |_, b, imm| aes::keygen_assist(b, imm);
        // Strings: the other result is had by another operation of the same operands.
        Pcmpistri "PCMPISTRI; the result is ECX" => |a, b, imm| integer(string::pcmpistr(a.bits(), b.bits(), imm).index.into());
        Pcmpistrm "PCMPISTRM; the result is XMM0" => |a, b, imm| Vector::from_bits(string::pcmpistr(a.bits(), b.bits(), imm).mask);
        PcmpistrFlags "The EFLAGS bits of PCMPISTRI and PCMPISTRM (CF, ZF, SF, OF; the others 0)" => |a, b, imm| integer(string::pcmpistr(a.bits(), b.bits(), imm).flags.into());
    }
    float {
        Addps "ADDPS" => |a, b, _, env| fp::ps(Arith::Add, a, b, env);
        Addpd "ADDPD" => |a, b, _, env| fp::pd(Arith::Add, a, b, env);
        Addss "ADDSS" => |a, b, _, env| fp::ss(Arith::Add, a, b, env);
        Addsd "ADDSD" => |a, b, _, env| fp::sd(Arith::Add, a, b, env);
        Subps "SUBPS" => |a, b, _, env| fp::ps(Arith::Sub, a, b, env);
        Subpd "SUBPD" => |a, b, _, env| fp::pd(Arith::Sub, a, b, env);
        Subss "SUBSS" => |a, b, _, env| fp::ss(Arith::Sub, a, b, env);
        Subsd "SUBSD" => |a, b, _, env| fp::sd(Arith::Sub, a, b, env);
        Mulps "MULPS" => |a, b, _, env| fp::ps(Arith::Mul, a, b, env);
        Mulpd "MULPD" => |a, b, _, env| fp::pd(Arith::Mul, a, b, env);
        Mulss "MULSS" => |a, b, _, env| fp::ss(Arith::Mul, a, b, env);
        Mulsd "MULSD" => |a, b, _, env| fp::sd(Arith::Mul, a, b, env);
        Divps "DIVPS" => |a, b, _, env| fp::ps(Arith::Div, a, b, env);
        Divpd "DIVPD" => |a, b, _, env| fp::pd(Arith::Div, a, b, env);
        Divss "DIVSS" => |a, b, _, env| fp::ss(Arith::Div, a, b, env);
        Divsd "DIVSD" => |a, b, _, env| fp::sd(Arith::Div, a, b, env);
        Minps "MINPS" => |a, b, _, env| fp::ps(Arith::Min, a, b, env);
        Minpd "MINPD" => |a, b, _, env| fp::pd(Arith::Min, a, b, env);
        Minss "MINSS" => |a, b, _, env| fp::ss(Arith::Min, a, b, env);
        Minsd "MINSD" => |a, b, _, env| fp::sd(Arith::Min, a, b, env);
        Maxps "MAXPS" => |a, b, _, env| fp::ps(Arith::Max, a, b, env);
        Maxpd "MAXPD" => |a, b, _, env| fp::pd(Arith::Max, a, b, env);
        Maxss "MAXSS" => |a, b, _, env| fp::ss(Arith::Max, a, b, env);
        Maxsd "MAXSD" => |a, b, _, env| fp::sd(Arith::Max, a, b, env);
        Sqrtps "SQRTPS" => |a, b, _, env| fp::ps(Arith::Sqrt, a, b, env);
        Sqrtpd "SQRTPD" => |a, b, _, env| fp::pd(Arith::Sqrt, a, b, env);
        Sqrtss "SQRTSS" => |a, b, _, env| fp::ss(Arith::Sqrt, a, b, env);
        Sqrtsd "SQRTSD" => |a, b, _, env| fp::sd(Arith::Sqrt, a, b, env);
        Rcpps "RCPPS" => |a, b, _, env| fp::ps(Arith::Rcp, a, b, env);
        Rcpss "RCPSS" => |a, b, _, env| fp::ss(Arith::Rcp, a, b, env);
        Rsqrtps "RSQRTPS" => |a, b, _, env| fp::ps(Arith::Rsqrt, a, b, env);
        Rsqrtss "RSQRTSS" => |a, b, _, env| fp::ss(Arith::Rsqrt, a, b, env);
        Addsubps "ADDSUBPS" => |a, b, _, env| fp::addsubps(a, b, env);
        Addsubpd "ADDSUBPD" => |a, b, _, env| fp::addsubpd(a, b, env);
        Haddps "HADDPS" => |a, b, _, env| fp::horizontal_ps(Arith::Add, a, b, env);
        Haddpd "HADDPD" => |a, b, _, env| fp::horizontal_pd(Arith::Add, a, b, env);
        Hsubps "HSUBPS" => |a, b, _, env| fp::horizontal_ps(Arith::Sub, a, b, env);
        Hsubpd "HSUBPD" => |a, b, _, env| fp::horizontal_pd(Arith::Sub, a, b, env);
        Dpps "DPPS" => fp::dpps;
        Dppd "DPPD" => fp::dppd;
        Cmpps "CMPPS; the immediate is the predicate" => fp::cmpps;
        Cmppd "CMPPD" => fp::cmppd;
        Cmpss "CMPSS" => fp::cmpss;
        Cmpsd "CMPSD" => fp::cmpsd;
        Comiss "COMISS; the result is ZF, PF and CF in their EFLAGS bits" => |a, b, _, env| fp::comiss(a, b, true, env);
        Comisd "COMISD; the result is ZF, PF and CF in their EFLAGS bits" => |a, b, _, env| fp::comisd(a, b, true, env);
        Ucomiss "UCOMISS; the result is ZF, PF and CF in their EFLAGS bits" => |a, b, _, env| fp::comiss(a, b, false, env);
        Ucomisd "UCOMISD; the result is ZF, PF and CF in their EFLAGS bits" => |a, b, _, env| fp::comisd(a, b, false, env);
        Roundps "ROUNDPS" => |_, b, imm, env| fp::roundps(b, imm, env);
        Roundpd "ROUNDPD" => |_, b, imm, env| fp::roundpd(b, imm, env);
        Roundss "ROUNDSS" => |a, b, imm, env| fp::blend(a, fp::roundss(b, imm, env), 1, 32);
        Roundsd "ROUNDSD" => |a, b, imm, env| fp::blend(a, fp::roundsd(b, imm, env), 1, 64);
        // Conversions. Two-lane results of the `2ps`, `2dq` and `2pi` kinds are zero above.
        Cvtss2sd "CVTSS2SD" => |a, b, _, env| fp::blend(a, fp::ss2sd(b, env), 1, 64);
        Cvtsd2ss "CVTSD2SS" => |a, b, _, env| fp::blend(a, fp::sd2ss(b, env), 1, 32);
        Cvtps2pd "CVTPS2PD" => |_, b, _, env| fp::ps2pd(b, env);
        Cvtpd2ps "CVTPD2PS" => |_, b, _, env| fp::pd2ps(b, env);
        Cvtdq2ps "CVTDQ2PS" => |_, b, _, env| fp::dq2ps(b, env);
        Cvtdq2pd "CVTDQ2PD, CVTPI2PD: the low two doublewords of `b`" => |_, b, _, env| fp::dq2pd(b, env);
        Cvtps2dq "CVTPS2DQ" => |_, b, _, env| fp::ps2dq(b, false, env);
        Cvttps2dq "CVTTPS2DQ" => |_, b, _, env| fp::ps2dq(b, true, env);
        Cvtpd2dq "CVTPD2DQ, CVTPD2PI" => |_, b, _, env| fp::pd2dq(b, false, env);
        Cvttpd2dq "CVTTPD2DQ, CVTTPD2PI" => |_, b, _, env| fp::pd2dq(b, true, env);
        Cvtpi2ps "CVTPI2PS: two doublewords of `b` into the low half of `a`" => |a, b, _, env| fp::blend(a, fp::dq2ps(b & u128::from(u64::MAX), env), 1, 64);
        Cvtps2pi "CVTPS2PI" => |_, b, _, env| fp::ps2dq(b & u128::from(u64::MAX), false, env);
        Cvttps2pi "CVTTPS2PI" => |_, b, _, env| fp::ps2dq(b & u128::from(u64::MAX), true, env);
        Cvtsi2ss32 "CVTSI2SS; `b` is a 32-bit integer" => |a, b, _, env| fp::blend(a, fp::si2ss((b as i32).into(), env), 1, 32);
        Cvtsi2ss64 "CVTSI2SS; `b` is a 64-bit integer" => |a, b, _, env| fp::blend(a, fp::si2ss(b as i64, env), 1, 32);
        Cvtsi2sd32 "CVTSI2SD; `b` is a 32-bit integer" => |a, b, _, env| fp::blend(a, fp::si2sd((b as i32).into(), env), 1, 64);
        Cvtsi2sd64 "CVTSI2SD; `b` is a 64-bit integer" => |a, b, _, env| fp::blend(a, fp::si2sd(b as i64, env), 1, 64);
        Cvtss2si32 "CVTSS2SI; the result is a 32-bit integer" => |_, b, _, env| fp::ss2si(b, 32, false, env);
        Cvtss2si64 "CVTSS2SI; the result is a 64-bit integer" => |_, b, _, env| fp::ss2si(b, 64, false, env);
        Cvttss2si32 "CVTTSS2SI; the result is a 32-bit integer" => |_, b, _, env| fp::ss2si(b, 32, true, env);
        Cvttss2si64 "CVTTSS2SI; the result is a 64-bit integer" => |_, b, _, env| fp::ss2si(b, 64, true, env);
        Cvtsd2si32 "CVTSD2SI; the result is a 32-bit integer" => |_, b, _, env| fp::sd2si(b, 32, false, env);
        Cvtsd2si64 "CVTSD2SI; the result is a 64-bit integer" => |_, b, _, env| fp::sd2si(b, 64, false, env);
        Cvttsd2si32 "CVTTSD2SI; the result is a 32-bit integer" => |_, b, _, env| fp::sd2si(b, 32, true, env);
        Cvttsd2si64 "CVTTSD2SI; the result is a 64-bit integer" => |_, b, _, env| fp::sd2si(b, 64, true, env);
    }
}

impl SimdOp {
    /// The operation with that number.
    #[must_use]
    pub fn from_index(index: u16) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::mmx::mmx;
    use crate::x86::sse::crc32c;

    #[test]
    fn numbers_and_operations_are_one_to_one() {
        for (index, &op) in SimdOp::ALL.iter().enumerate() {
            assert_eq!(SimdOp::from_index(index as u16), Some(op));
        }
        assert_eq!(SimdOp::from_index(SimdOp::ALL.len() as u16), None);
    }

    #[test]
    fn the_two_forms_of_integer_operations_agree() {
        let (a, b) =
            (0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210, 0x8000_7FFF_0001_FFFF_0102_0304_0506_0708);
        for &op in SimdOp::ALL.iter().filter(|op| !op.uses_mxcsr()) {
            let mut out = 0;
            simd_pure_into(op, &a, &b, 0x5A, &mut out);
            assert_eq!(simd(op, a, b, 0x5A, &mut Mxcsr::default()), Ok(out), "{}", op.name());
            assert_eq!(simd_pure(op, a, b, 0x5A), out);
        }
    }

    #[test]
    fn saturation_clamps() {
        let run = |op, a, b| simd_pure(op, a, b, 0);
        assert_eq!(run(SimdOp::Paddusb, 0xF0_10, 0x20_20), 0xFF_30);
        assert_eq!(run(SimdOp::Packsswb, 0x7FFF_8000_0001, 0), 0x7F_80_01);
        assert_eq!(run(SimdOp::Psubsw, 0x8000, 0x0001), 0x8000);
    }

    #[test]
    fn an_unmasked_exception_is_reported_with_its_flag() {
        let mut mxcsr = Mxcsr(0x1F80 & !0x0200);
        let (one, zero) = (u128::from(1f32.to_bits()), 0);
        assert_eq!(simd(SimdOp::Divss, one, zero, 0, &mut mxcsr), Err(SimdException));
        assert_eq!(mxcsr.0 & 0x3F, 4);
        let mut mxcsr = Mxcsr::default();
        let infinity = u128::from(f32::INFINITY.to_bits());
        assert_eq!(simd(SimdOp::Divss, one, zero, 0, &mut mxcsr), Ok(infinity));
        assert_eq!(mxcsr.0 & 0x3F, 4);
    }

    #[test]
    fn comparisons_give_the_flags_of_eflags() {
        let flags = |op, a: f64, b: f64| {
            let (a, b) = (a.to_bits().into(), b.to_bits().into());
            let mut mxcsr = Mxcsr::default();
            (simd(op, a, b, 0, &mut mxcsr), mxcsr.0 & 0x3F)
        };
        assert_eq!(flags(SimdOp::Ucomisd, 1.0, 2.0), (Ok(0x01), 0));
        assert_eq!(flags(SimdOp::Ucomisd, 2.0, 2.0), (Ok(0x40), 0));
        assert_eq!(flags(SimdOp::Ucomisd, 3.0, 2.0), (Ok(0x00), 0));
        assert_eq!(flags(SimdOp::Ucomisd, f64::NAN, 2.0), (Ok(0x45), 0));
        assert_eq!(flags(SimdOp::Comisd, f64::NAN, 2.0), (Ok(0x45), 1));
    }

    #[test]
    fn a_string_length_is_found_by_comparing_with_zeros() {
        let text = u128::from_le_bytes(*b"seven..\0........");
        // Unsigned bytes, equal each, masked negative polarity left off.
        let flags = simd_pure(SimdOp::PcmpistrFlags, 0, text, 0x08);
        assert_eq!(simd_pure(SimdOp::Pcmpistri, 0, text, 0x08), 7);
        assert_eq!(flags & 0x41, 0x41);
    }

    #[test]
    fn the_check_value_of_crc_32c_comes_out() {
        let crc = b"123456789".iter().fold(u32::MAX, |crc, &byte| crc32c(crc, byte.into(), 1));
        assert_eq!(!crc, 0xE306_9283);
    }

    #[test]
    fn mmx_forms_use_sixty_four_bits() {
        let (a, b) = (0x0011_2233_4455_6677, 0x8899_AABB_CCDD_EEFF);
        assert_eq!(mmx(SimdOp::Punpckhbw, a, b, 0), 0x8800_9911_AA22_BB33);
        assert_eq!(mmx(SimdOp::Palignr, a, b, 3), 0x5566_7788_99AA_BBCC);
        assert_eq!(mmx(SimdOp::Pshufb, a, 0x0F08_0700_8001_0203, 0), 0x0077_0077_0066_5544);
    }
}
