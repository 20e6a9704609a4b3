//! The x87 instructions as a flat list, and how they are encoded (SDM vol. 2, tables ).

/// What an instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Nothing.
    None,
    /// Reads that many bytes, which are `x87_op`'s operand.
    Load(u8),
    /// Writes that many bytes: what `x87_op` answers with `Effect::Store`.
    Store(u8),
    /// FNSTENV: `X87::store_environment`.
    StoreEnvironment,
    /// FLDENV: `X87::load_environment`.
    LoadEnvironment,
    /// FNSAVE: `X87::save`.
    Save,
    /// FRSTOR: `X87::restore`.
    Restore,
}

macro_rules! x87_ops {
    ($($op:ident $doc:literal $memory:expr;)*) => {
        /// An x87 instruction. `St0` forms keep the result in ST(0), `Sti` forms in ST(i), `P`
        /// forms in ST(i) and pop; `M32`... name the memory operand.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum X87Op { $(#[doc = $doc] $op,)* }

        impl X87Op {
            /// Every instruction, by number.
            pub const ALL: &'static [Self] = &[$(Self::$op,)*];

            /// What it does to memory.
            #[must_use]
            pub const fn memory(self) -> Memory {
                use Memory::{Load, LoadEnvironment, None, Restore, Save, Store, StoreEnvironment};
                match self { $(Self::$op => $memory,)* }
            }

            /// Its name, for dumps.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$op => stringify!($op),)* }
            }
        }
    };
}

x87_ops! {
    FaddM32 "ST0 += m32" Load(4);
    FmulM32 "ST0 *= m32" Load(4);
    FcomM32 "Compare ST0 with m32" Load(4);
    FcompM32 "Compare ST0 with m32, pop" Load(4);
    FsubM32 "ST0 -= m32" Load(4);
    FsubrM32 "ST0 = m32 - ST0" Load(4);
    FdivM32 "ST0 /= m32" Load(4);
    FdivrM32 "ST0 = m32 / ST0" Load(4);
    FaddM64 "ST0 += m64" Load(8);
    FmulM64 "ST0 *= m64" Load(8);
    FcomM64 "Compare ST0 with m64" Load(8);
    FcompM64 "Compare ST0 with m64, pop" Load(8);
    FsubM64 "ST0 -= m64" Load(8);
    FsubrM64 "ST0 = m64 - ST0" Load(8);
    FdivM64 "ST0 /= m64" Load(8);
    FdivrM64 "ST0 = m64 / ST0" Load(8);
    FiaddI32 "ST0 += i32" Load(4);
    FimulI32 "ST0 *= i32" Load(4);
    FicomI32 "Compare ST0 with i32" Load(4);
    FicompI32 "Compare ST0 with i32, pop" Load(4);
    FisubI32 "ST0 -= i32" Load(4);
    FisubrI32 "ST0 = i32 - ST0" Load(4);
    FidivI32 "ST0 /= i32" Load(4);
    FidivrI32 "ST0 = i32 / ST0" Load(4);
    FiaddI16 "ST0 += i16" Load(2);
    FimulI16 "ST0 *= i16" Load(2);
    FicomI16 "Compare ST0 with i16" Load(2);
    FicompI16 "Compare ST0 with i16, pop" Load(2);
    FisubI16 "ST0 -= i16" Load(2);
    FisubrI16 "ST0 = i16 - ST0" Load(2);
    FidivI16 "ST0 /= i16" Load(2);
    FidivrI16 "ST0 = i16 / ST0" Load(2);
    FaddSt0 "ST0 += STi" None;
    FmulSt0 "ST0 *= STi" None;
    FcomSti "Compare ST0 with STi" None;
    FcompSti "Compare ST0 with STi, pop" None;
    FsubSt0 "ST0 -= STi" None;
    FsubrSt0 "ST0 = STi - ST0" None;
    FdivSt0 "ST0 /= STi" None;
    FdivrSt0 "ST0 = STi / ST0" None;
    FaddSti "STi += ST0" None;
    FmulSti "STi *= ST0" None;
    FsubSti "STi -= ST0" None;
    FsubrSti "STi = ST0 - STi" None;
    FdivSti "STi /= ST0" None;
    FdivrSti "STi = ST0 / STi" None;
    FaddP "STi += ST0, pop" None;
    FmulP "STi *= ST0, pop" None;
    FsubP "STi -= ST0, pop" None;
    FsubrP "STi = ST0 - STi, pop" None;
    FdivP "STi /= ST0, pop" None;
    FdivrP "STi = ST0 / STi, pop" None;
    Fcompp "Compare ST0 with ST1, pop both" None;
    Fucom "Compare ST0 with STi, quiet NaNs unordered without complaint" None;
    Fucomp "FUCOM, pop" None;
    Fucompp "FUCOM ST1, pop both" None;
    Fcomi "Compare ST0 with STi into EFLAGS" None;
    Fcomip "FCOMI, pop" None;
    Fucomi "FUCOM into EFLAGS" None;
    Fucomip "FUCOMI, pop" None;
    FcmovB "ST0 = STi if CF; the operand is EFLAGS" None;
    FcmovE "ST0 = STi if ZF; the operand is EFLAGS" None;
    FcmovBe "ST0 = STi if CF or ZF; the operand is EFLAGS" None;
    FcmovU "ST0 = STi if PF; the operand is EFLAGS" None;
    FcmovNb "ST0 = STi if not CF; the operand is EFLAGS" None;
    FcmovNe "ST0 = STi if not ZF; the operand is EFLAGS" None;
    FcmovNbe "ST0 = STi if neither CF nor ZF; the operand is EFLAGS" None;
    FcmovNu "ST0 = STi if not PF; the operand is EFLAGS" None;
    FldM32 "Push m32" Load(4);
    FldM64 "Push m64" Load(8);
    FldM80 "Push m80" Load(10);
    FildI16 "Push i16" Load(2);
    FildI32 "Push i32" Load(4);
    FildI64 "Push i64" Load(8);
    Fbld "Push packed BCD" Load(10);
    FldSti "Push STi" None;
    Fld1 "Push 1" None;
    Fldl2t "Push log2(10)" None;
    Fldl2e "Push log2(e)" None;
    Fldpi "Push pi" None;
    Fldlg2 "Push log10(2)" None;
    Fldln2 "Push ln(2)" None;
    Fldz "Push 0" None;
    FstM32 "Store ST0 as m32" Store(4);
    FstpM32 "Store ST0 as m32, pop" Store(4);
    FstM64 "Store ST0 as m64" Store(8);
    FstpM64 "Store ST0 as m64, pop" Store(8);
    FstpM80 "Store ST0 as m80, pop" Store(10);
    FistI16 "Store ST0 as i16" Store(2);
    FistpI16 "Store ST0 as i16, pop" Store(2);
    FisttpI16 "Store ST0 truncated as i16, pop" Store(2);
    FistI32 "Store ST0 as i32" Store(4);
    FistpI32 "Store ST0 as i32, pop" Store(4);
    FisttpI32 "Store ST0 truncated as i32, pop" Store(4);
    FistpI64 "Store ST0 as i64, pop" Store(8);
    FisttpI64 "Store ST0 truncated as i64, pop" Store(8);
    Fbstp "Store ST0 as packed BCD, pop" Store(10);
    FstSti "STi = ST0" None;
    FstpSti "STi = ST0, pop" None;
    Fstpnce "STi = ST0, pop, without looking at tags (undocumented, D9 D8+i)" None;
    Fxch "Exchange ST0 and STi" None;
    Fchs "Change the sign of ST0" None;
    Fabs "Clear the sign of ST0" None;
    Ftst "Compare ST0 with 0" None;
    Fxam "Classify ST0" None;
    F2xm1 "ST0 = 2^ST0 - 1" None;
    Fyl2x "ST1 *= log2(ST0), pop" None;
    Fptan "ST0 = tan(ST0), push 1" None;
    Fpatan "ST1 = arctan(ST1 / ST0), pop" None;
    Fxtract "Split ST0 into exponent and (pushed) significand" None;
    Fprem1 "IEEE partial remainder of ST0 by ST1" None;
    Fprem "Truncating partial remainder of ST0 by ST1" None;
    Fyl2xp1 "ST1 *= log2(ST0 + 1), pop" None;
    Fsqrt "ST0 = sqrt(ST0)" None;
    Fsincos "ST0 = sin(ST0), push cos" None;
    Frndint "Round ST0 to an integer" None;
    Fscale "ST0 *= 2^trunc(ST1)" None;
    Fsin "ST0 = sin(ST0)" None;
    Fcos "ST0 = cos(ST0)" None;
    Fincstp "Increment TOP" None;
    Fdecstp "Decrement TOP" None;
    Ffree "Mark STi empty" None;
    Ffreep "Mark STi empty, pop" None;
    Fnop "Nothing, after pending exceptions" None;
    Fwait "Deliver pending exceptions" None;
    FnNop "8087/80287 controls without effect: FNENI, FNDISI, FNSETPM" None;
    Fnclex "Clear exceptions" None;
    Fninit "Initialise" None;
    Fldcw "Load the control word" Load(2);
    Fnstcw "Store the control word" Store(2);
    FnstswM16 "Store the status word" Store(2);
    FnstswAx "Status word to AX" None;
    Fldenv "Load the environment" LoadEnvironment;
    Fnstenv "Store the environment" StoreEnvironment;
    Frstor "Load the whole state" Restore;
    Fnsave "Store the whole state, then initialise" Save;
}

impl X87Op {
    /// The instruction with that number.
    #[must_use]
    pub fn from_index(index: u8) -> Option<Self> {
        Self::ALL.get(usize::from(index)).copied()
    }

    /// Whether it delivers pending exceptions first (all but the "no wait" ones).
    #[must_use]
    pub const fn waits(self) -> bool {
        use X87Op::{FnNop, Fnclex, Fninit, Fnsave, Fnstcw, Fnstenv, FnstswAx, FnstswM16};
        !matches!(self, FnNop | Fnclex | Fninit | Fnsave | Fnstcw | Fnstenv | FnstswAx | FnstswM16)
    }

    /// Whether it is a control instruction: leaves FOP, FIP and FDP alone.
    #[must_use]
    pub const fn is_control(self) -> bool {
        !self.waits() || matches!(self, X87Op::Fwait | X87Op::Fldcw | X87Op::Fldenv | X87Op::Frstor)
    }
}

/// The instruction of an escape opcode (0xD8-0xDF) and its ModRM byte; `None`: undefined (#UD).
/// The ST index is `modrm & 7` of the register forms.
#[must_use]
pub fn decode(opcode: u8, modrm: u8) -> Option<X87Op> {
    let reg = usize::from(modrm >> 3 & 7);
    if modrm < 0xC0 { decode_memory(opcode, reg) } else { decode_register(opcode, reg, modrm & 7) }
}

fn decode_memory(opcode: u8, reg: usize) -> Option<X87Op> {
    use X87Op::*;
    const NONE: Option<X87Op> = None;
    match opcode {
        0xD8 => {
            Some([FaddM32, FmulM32, FcomM32, FcompM32, FsubM32, FsubrM32, FdivM32, FdivrM32][reg])
        }
        0xD9 => [
            Some(FldM32),
            NONE,
            Some(FstM32),
            Some(FstpM32),
            Some(Fldenv),
            Some(Fldcw),
            Some(Fnstenv),
            Some(Fnstcw),
        ][reg],
        0xDA => Some(
            [FiaddI32, FimulI32, FicomI32, FicompI32, FisubI32, FisubrI32, FidivI32, FidivrI32]
                [reg],
        ),
        0xDB => [
            Some(FildI32),
            Some(FisttpI32),
            Some(FistI32),
            Some(FistpI32),
            NONE,
            Some(FldM80),
            NONE,
            Some(FstpM80),
        ][reg],
        0xDC => {
            Some([FaddM64, FmulM64, FcomM64, FcompM64, FsubM64, FsubrM64, FdivM64, FdivrM64][reg])
        }
        0xDD => [
            Some(FldM64),
            Some(FisttpI64),
            Some(FstM64),
            Some(FstpM64),
            Some(Frstor),
            NONE,
            Some(Fnsave),
            Some(FnstswM16),
        ][reg],
        0xDE => Some(
            [FiaddI16, FimulI16, FicomI16, FicompI16, FisubI16, FisubrI16, FidivI16, FidivrI16]
                [reg],
        ),
        0xDF => Some([FildI16, FisttpI16, FistI16, FistpI16, Fbld, FildI64, Fbstp, FistpI64][reg]),
        _ => NONE,
    }
}

fn decode_register(opcode: u8, reg: usize, rm: u8) -> Option<X87Op> {
    use X87Op::*;
    const NONE: Option<X87Op> = None;
    let rm = usize::from(rm);
    match opcode {
        0xD8 => {
            Some([FaddSt0, FmulSt0, FcomSti, FcompSti, FsubSt0, FsubrSt0, FdivSt0, FdivrSt0][reg])
        }
        0xD9 => match reg {
            0 => Some(FldSti),
            1 => Some(Fxch),
            2 => {
                if rm == 0 {
                    Some(Fnop)
                } else {
                    NONE
                }
            }
            3 => Some(Fstpnce),
            4 => [Some(Fchs), Some(Fabs), NONE, NONE, Some(Ftst), Some(Fxam), NONE, NONE][rm],
            5 => [
                Some(Fld1),
                Some(Fldl2t),
                Some(Fldl2e),
                Some(Fldpi),
                Some(Fldlg2),
                Some(Fldln2),
                Some(Fldz),
                NONE,
            ][rm],
            6 => Some([F2xm1, Fyl2x, Fptan, Fpatan, Fxtract, Fprem1, Fdecstp, Fincstp][rm]),
            _ => Some([Fprem, Fyl2xp1, Fsqrt, Fsincos, Frndint, Fscale, Fsin, Fcos][rm]),
        },
        0xDA => match reg {
            0 => Some(FcmovB),
            1 => Some(FcmovE),
            2 => Some(FcmovBe),
            3 => Some(FcmovU),
            5 if rm == 1 => Some(Fucompp),
            _ => NONE,
        },
        0xDB => match reg {
            0 => Some(FcmovNb),
            1 => Some(FcmovNe),
            2 => Some(FcmovNbe),
            3 => Some(FcmovNu),
            4 => [
                Some(FnNop),
                Some(FnNop),
                Some(Fnclex),
                Some(Fninit),
                Some(FnNop),
                NONE,
                NONE,
                NONE,
            ][rm],
            5 => Some(Fucomi),
            6 => Some(Fcomi),
            _ => NONE,
        },
        // The reversed forms are swapped against 0xD8: DC E0+i is FSUBR STi, ST0.
        0xDC => {
            Some([FaddSti, FmulSti, FcomSti, FcompSti, FsubrSti, FsubSti, FdivrSti, FdivSti][reg])
        }
        0xDD => match reg {
            0 => Some(Ffree),
            1 => Some(Fxch),
            2 => Some(FstSti),
            3 => Some(FstpSti),
            4 => Some(Fucom),
            5 => Some(Fucomp),
            _ => NONE,
        },
        0xDE => match reg {
            0 => Some(FaddP),
            1 => Some(FmulP),
            2 => Some(FcompSti),
            3 if rm == 1 => Some(Fcompp),
            4 => Some(FsubrP),
            5 => Some(FsubP),
            6 => Some(FdivrP),
            7 => Some(FdivP),
            _ => NONE,
        },
        0xDF => match reg {
            0 => Some(Ffreep),
            1 => Some(Fxch),
            2 | 3 => Some(FstpSti),
            4 if rm == 0 => Some(FnstswAx),
            5 => Some(Fucomip),
            6 => Some(Fcomip),
            _ => NONE,
        },
        _ => NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_the_manuals() {
        for (opcode, modrm, op) in [
            (0xD8, 0xC1, X87Op::FaddSt0),
            (0xD8, 0x30, X87Op::FdivM32),
            (0xD9, 0xE8, X87Op::Fld1),
            (0xD9, 0x7C, X87Op::Fnstcw),
            (0xDB, 0x2D, X87Op::FldM80),
            (0xDC, 0xE2, X87Op::FsubrSti),
            (0xDC, 0xEA, X87Op::FsubSti),
            (0xDD, 0x06, X87Op::FldM64),
            (0xDE, 0xC1, X87Op::FaddP),
            (0xDE, 0xD9, X87Op::Fcompp),
            (0xDE, 0xF9, X87Op::FdivP),
            (0xDF, 0xE0, X87Op::FnstswAx),
            (0xDF, 0x3F, X87Op::FistpI64),
        ] {
            assert_eq!(decode(opcode, modrm), Some(op), "{opcode:02x} {modrm:02x}");
        }
        for (opcode, modrm) in
            [(0xD9, 0xD1), (0xD9, 0x08), (0xDA, 0xE8), (0xDD, 0xF0), (0xDF, 0xE1)]
        {
            assert_eq!(decode(opcode, modrm), None, "{opcode:02x} {modrm:02x}");
        }
    }

    #[test]
    fn every_instruction_has_an_encoding_and_a_number() {
        for (index, &op) in X87Op::ALL.iter().enumerate() {
            assert_eq!(X87Op::from_index(index as u8), Some(op));
            // FWAIT is 9B, without a ModRM byte.
            let encoded = (0xD8..=0xDF)
                .any(|opcode| (0..=0xFF).any(|modrm| decode(opcode, modrm) == Some(op)));
            assert_eq!(encoded, op != X87Op::Fwait, "{}", op.name());
        }
    }
}
