//! Which operations engines know by another name than ours.

use super::SimdOp;
use crate::ir::float::{Arith, Shape};
use crate::ir::{FloatOp, VecKind, Width};
use Shape::{D1, D2, S1, S4};
use Width::{W8, W16, W32, W64};

/// The operation of [`crate::ir::float`], of those that use MXCSR.
pub fn float_op(op: SimdOp, imm: u8) -> Option<FloatOp> {
    use Arith::{Add, Div, Max, Min, Mul, Sqrt, Sub};
    use FloatOp::{Compare, Convert, FromInt, FromInts, Order, ToInt};
    let arith = FloatOp::Arith;
    Some(match op {
        SimdOp::Addps => arith(Add, S4),
        SimdOp::Addpd => arith(Add, D2),
        SimdOp::Addss => arith(Add, S1),
        SimdOp::Addsd => arith(Add, D1),
        SimdOp::Subps => arith(Sub, S4),
        SimdOp::Subpd => arith(Sub, D2),
        SimdOp::Subss => arith(Sub, S1),
        SimdOp::Subsd => arith(Sub, D1),
        SimdOp::Mulps => arith(Mul, S4),
        SimdOp::Mulpd => arith(Mul, D2),
        SimdOp::Mulss => arith(Mul, S1),
        SimdOp::Mulsd => arith(Mul, D1),
        SimdOp::Divps => arith(Div, S4),
        SimdOp::Divpd => arith(Div, D2),
        SimdOp::Divss => arith(Div, S1),
        SimdOp::Divsd => arith(Div, D1),
        SimdOp::Minps => arith(Min, S4),
        SimdOp::Minpd => arith(Min, D2),
        SimdOp::Minss => arith(Min, S1),
        SimdOp::Minsd => arith(Min, D1),
        SimdOp::Maxps => arith(Max, S4),
        SimdOp::Maxpd => arith(Max, D2),
        SimdOp::Maxss => arith(Max, S1),
        SimdOp::Maxsd => arith(Max, D1),
        SimdOp::Sqrtps => arith(Sqrt, S4),
        SimdOp::Sqrtpd => arith(Sqrt, D2),
        SimdOp::Sqrtss => arith(Sqrt, S1),
        SimdOp::Sqrtsd => arith(Sqrt, D1),
        SimdOp::Cmpps if imm < 8 => Compare(S4),
        SimdOp::Cmppd if imm < 8 => Compare(D2),
        SimdOp::Cmpss if imm < 8 => Compare(S1),
        SimdOp::Cmpsd if imm < 8 => Compare(D1),
        SimdOp::Comiss => Order(S1, false),
        SimdOp::Comisd => Order(D1, false),
        SimdOp::Ucomiss => Order(S1, true),
        SimdOp::Ucomisd => Order(D1, true),
        SimdOp::Cvtss2sd => Convert(D1),
        SimdOp::Cvtsd2ss => Convert(S1),
        SimdOp::Cvtdq2ps => FromInts(S4),
        SimdOp::Cvtdq2pd => FromInts(D2),
        SimdOp::Cvtsi2ss32 => FromInt(W32, S1),
        SimdOp::Cvtsi2ss64 => FromInt(W64, S1),
        SimdOp::Cvtsi2sd32 => FromInt(W32, D1),
        SimdOp::Cvtsi2sd64 => FromInt(W64, D1),
        SimdOp::Cvtss2si32 => ToInt(S1, W32, false),
        SimdOp::Cvtss2si64 => ToInt(S1, W64, false),
        SimdOp::Cvttss2si32 => ToInt(S1, W32, true),
        SimdOp::Cvttss2si64 => ToInt(S1, W64, true),
        SimdOp::Cvtsd2si32 => ToInt(D1, W32, false),
        SimdOp::Cvtsd2si64 => ToInt(D1, W64, false),
        SimdOp::Cvttsd2si32 => ToInt(D1, W32, true),
        SimdOp::Cvttsd2si64 => ToInt(D1, W64, true),
        _ => return None,
    })
}

/// The operation of [`crate::ir::vector`], of those that are pure.
pub fn vec_kind(op: SimdOp) -> Option<VecKind> {
    use VecKind::*;
    Some(match op {
        SimdOp::Mov => Move,
        SimdOp::Movss => MoveLow(W32),
        SimdOp::Movsd => MoveLow(W64),
        SimdOp::Movq => Low(W64),
        SimdOp::Movd => Low(W32),
        SimdOp::Movlhps => UnpackLow(W64),
        SimdOp::Movhlps => HighToLow,
        SimdOp::Pand => And,
        SimdOp::Pandn => AndNot,
        SimdOp::Por => Or,
        SimdOp::Pxor => Xor,
        SimdOp::Paddb => Add(W8),
        SimdOp::Paddw => Add(W16),
        SimdOp::Paddd => Add(W32),
        SimdOp::Paddq => Add(W64),
        SimdOp::Psubb => Sub(W8),
        SimdOp::Psubw => Sub(W16),
        SimdOp::Psubd => Sub(W32),
        SimdOp::Psubq => Sub(W64),
        SimdOp::Paddsb => AddSatS(W8),
        SimdOp::Paddsw => AddSatS(W16),
        SimdOp::Paddusb => AddSatU(W8),
        SimdOp::Paddusw => AddSatU(W16),
        SimdOp::Psubsb => SubSatS(W8),
        SimdOp::Psubsw => SubSatS(W16),
        SimdOp::Psubusb => SubSatU(W8),
        SimdOp::Psubusw => SubSatU(W16),
        SimdOp::Pmullw => Mul(W16),
        SimdOp::Pmulld => Mul(W32),
        SimdOp::Pmulhw => MulHighS,
        SimdOp::Pmulhuw => MulHighU,
        SimdOp::Pmuludq => MulWideU,
        SimdOp::Pmaddwd => MulAdd,
        SimdOp::Pavgb => Average(W8),
        SimdOp::Pavgw => Average(W16),
        SimdOp::Pcmpeqb => Equal(W8),
        SimdOp::Pcmpeqw => Equal(W16),
        SimdOp::Pcmpeqd => Equal(W32),
        SimdOp::Pcmpeqq => Equal(W64),
        SimdOp::Pcmpgtb => GreaterS(W8),
        SimdOp::Pcmpgtw => GreaterS(W16),
        SimdOp::Pcmpgtd => GreaterS(W32),
        SimdOp::Pcmpgtq => GreaterS(W64),
        SimdOp::Pminub => MinU(W8),
        SimdOp::Pminuw => MinU(W16),
        SimdOp::Pminud => MinU(W32),
        SimdOp::Pminsb => MinS(W8),
        SimdOp::Pminsw => MinS(W16),
        SimdOp::Pminsd => MinS(W32),
        SimdOp::Pmaxub => MaxU(W8),
        SimdOp::Pmaxuw => MaxU(W16),
        SimdOp::Pmaxud => MaxU(W32),
        SimdOp::Pmaxsb => MaxS(W8),
        SimdOp::Pmaxsw => MaxS(W16),
        SimdOp::Pmaxsd => MaxS(W32),
        SimdOp::PsllwImm => ShlImm(W16),
        SimdOp::PslldImm => ShlImm(W32),
        SimdOp::PsllqImm => ShlImm(W64),
        SimdOp::PsrlwImm => ShrImm(W16),
        SimdOp::PsrldImm => ShrImm(W32),
        SimdOp::PsrlqImm => ShrImm(W64),
        SimdOp::PsrawImm => SarImm(W16),
        SimdOp::PsradImm => SarImm(W32),
        SimdOp::PslldqImm => ShlBytes,
        SimdOp::PsrldqImm => ShrBytes,
        SimdOp::Punpcklbw => UnpackLow(W8),
        SimdOp::Punpcklwd => UnpackLow(W16),
        SimdOp::Punpckldq => UnpackLow(W32),
        SimdOp::Punpckhbw => UnpackHigh(W8),
        SimdOp::Punpckhwd => UnpackHigh(W16),
        SimdOp::Punpckhdq => UnpackHigh(W32),
        SimdOp::Punpckhqdq => UnpackHigh(W64),
        SimdOp::Pshufd => Shuffle,
        SimdOp::Pshuflw => ShuffleLow,
        SimdOp::Pshufhw => ShuffleHigh,
        SimdOp::Shufps => ShuffleTwo,
        SimdOp::Shufpd => ShuffleTwo64,
        SimdOp::Pshufb => ShuffleBytes,
        SimdOp::Packsswb => PackS(W16),
        SimdOp::Packssdw => PackS(W32),
        SimdOp::Packuswb => PackU(W16),
        SimdOp::Packusdw => PackU(W32),
        SimdOp::Pmovmskb => SignBits(W8),
        SimdOp::Movmskps => SignBits(W32),
        SimdOp::Movmskpd => SignBits(W64),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Mxcsr, simd, simd_pure};
    use super::*;
    use crate::ir::float::host;

    fn xorshift(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn the_names_mean_what_the_instructions_do() {
        let mut state = 0x1234_5678_9abc_def1;
        let mut known = 0;
        for &op in SimdOp::ALL {
            let Some(kind) = vec_kind(op) else { continue };
            known += 1;
            for n in 0..500 {
                let mut v =
                    || u128::from(xorshift(&mut state)) << 64 | u128::from(xorshift(&mut state));
                let (a, mut b) = (v(), v());
                if n % 4 == 0 {
                    b ^= (a ^ b) & v();
                }
                let imm = if n % 2 == 0 { n as u8 % 40 } else { v() as u8 };
                assert_eq!(
                    kind.eval(a, b, imm),
                    simd_pure(op, a, b, imm),
                    "{op:?} {a:x} {b:x} {imm}"
                );
            }
        }
        assert!(known > 80);
    }

    /// A value that is often special.
    fn special(state: &mut u64, double: bool) -> u128 {
        let r = xorshift(state);
        let (exponent, fraction, p) =
            if double { (0x7ff, r >> 12, 52) } else { (0xff, r >> 41, 23) };
        let e = match r & 15 {
            0 => 0,
            1 => exponent,
            2 => 1,
            3 => exponent - 1,
            4..=9 => exponent / 2 + (r >> 4 & 31),
            _ => (r >> 4) & exponent,
        };
        let fraction = if r >> 9 & 3 == 0 { 0 } else { fraction };
        (u128::from(r >> 10 & 1) << if double { 63 } else { 31 })
            | u128::from(e) << p
            | u128::from(fraction)
    }

    #[test]
    fn the_host_answers_only_what_the_helper_would() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        let mut taken = 0u32;
        for &op in SimdOp::ALL {
            for n in 0..4000 {
                let imm = n as u8 & 7;
                let Some(float) = float_op(op, imm) else { break };
                let double = float.name().contains(".d") != matches!(float, FloatOp::Convert(_));
                let mut v = || {
                    let lanes = if double { [0, 64, 0, 64] } else { [0, 32, 64, 96] };
                    lanes.iter().fold(0, |v, at| v | special(&mut state, double) << at)
                };
                let (a, b) = (v(), v());
                let b = if n % 16 == 0 { a } else { b };
                // Guard: inexact raised, masked, to nearest. Denormals as zero must not matter.
                let sticky = if float.guarded() { 0x20 } else { 0 };
                let extra = [0, 0x40, 0x8000, 0x8040][n >> 3 & 3];
                let mut mxcsr = Mxcsr(0x1f80 | sticky | extra);
                let before = mxcsr;
                let expected = simd(op, a, b, imm, &mut mxcsr).unwrap();
                if let Some(got) = host(float, a, b, imm) {
                    taken += 1;
                    let what = format!("{op:?} {a:032x} {b:032x} {imm}");
                    assert_eq!(format!("{got:032x}"), format!("{expected:032x}"), "{what}");
                    assert_eq!(mxcsr.0, before.0, "{what}");
                }
            }
        }
        assert!(taken > 50_000, "the host was used {taken} times");
    }
}
