//! Instructions as compiled code calls them: a function each, which does all of the instruction but
//! its memory access, or nothing ([`DECLINED`]) where an exception is or would be pending.

use core::cmp::Ordering;

use super::{Effect, STATUS_C0, STATUS_C1, STATUS_C2, STATUS_C3, STATUS_ES, X87, X87Op};
use crate::float::extended::{self as ext, Rounded};
use crate::float::{self, Class, F80, Parts, Rounding};
use crate::ir::DECLINED;
use crate::isa::Quick;
use crate::x86::state::{X86, seg, var};

/// The first argument of these functions and of the helper that stands in for them: the instruction's
/// number in the low eight bits, and from these bits on
pub(crate) mod what {
    /// ST index, three bits.
    pub(crate) const ST: u32 = 8;
    /// Length of the instruction in bytes, four bits.
    pub(crate) const LEN: u32 = 12;
    /// Segment of the memory operand, three bits.
    pub(crate) const SEG: u32 = 16;
    /// Whether there is one.
    pub(crate) const MEMORY: u32 = 24;
    /// Low bits of the opcode over the ModRM byte, eleven bits.
    pub(crate) const FOP: u32 = 32;
    /// Bits 64 to 79 of the operand.
    pub(crate) const HIGH: u32 = 48;
}

/// Number of the function that looks at what FSTP m80 will store, above those of instructions.
pub(crate) const HEAD: u16 = 0xFF;

/// The function of an instruction: `(cpu, what, operand, pc, offset)`, where `operand` is what was loaded,
/// zero-extended, or EFLAGS for FCMOVcc. Answers what to store, the flags, or 0.
pub(crate) fn quick(number: u16) -> Option<Quick<X86>> {
    use X87Op::*;
    if number == HEAD {
        return Some(head);
    }
    let quick: Quick<X86> = match X87Op::from_index(u8::try_from(number).ok()?)? {
        FaddM32 => arith_m32::<ADD>,
        FmulM32 => arith_m32::<MUL>,
        FsubM32 => arith_m32::<SUB>,
        FsubrM32 => arith_m32::<SUBR>,
        FdivM32 => arith_m32::<DIV>,
        FdivrM32 => arith_m32::<DIVR>,
        FaddM64 => arith_m64::<ADD>,
        FmulM64 => arith_m64::<MUL>,
        FsubM64 => arith_m64::<SUB>,
        FsubrM64 => arith_m64::<SUBR>,
        FdivM64 => arith_m64::<DIV>,
        FdivrM64 => arith_m64::<DIVR>,
        FiaddI32 => arith_i32::<ADD>,
        FimulI32 => arith_i32::<MUL>,
        FisubI32 => arith_i32::<SUB>,
        FisubrI32 => arith_i32::<SUBR>,
        FidivI32 => arith_i32::<DIV>,
        FidivrI32 => arith_i32::<DIVR>,
        FaddSt0 => arith_st::<ADD, ST0>,
        FmulSt0 => arith_st::<MUL, ST0>,
        FsubSt0 => arith_st::<SUB, ST0>,
        FsubrSt0 => arith_st::<SUBR, ST0>,
        FdivSt0 => arith_st::<DIV, ST0>,
        FdivrSt0 => arith_st::<DIVR, ST0>,
        FaddSti => arith_st::<ADD, STI>,
        FmulSti => arith_st::<MUL, STI>,
        FsubSti => arith_st::<SUB, STI>,
        FsubrSti => arith_st::<SUBR, STI>,
        FdivSti => arith_st::<DIV, STI>,
        FdivrSti => arith_st::<DIVR, STI>,
        FaddP => arith_st::<ADD, POP>,
        FmulP => arith_st::<MUL, POP>,
        FsubP => arith_st::<SUB, POP>,
        FsubrP => arith_st::<SUBR, POP>,
        FdivP => arith_st::<DIV, POP>,
        FdivrP => arith_st::<DIVR, POP>,
        FcomM32 => compare_m32::<0>,
        FcompM32 => compare_m32::<1>,
        FcomM64 => compare_m64::<0>,
        FcompM64 => compare_m64::<1>,
        FcomSti | Fucom => compare_st::<0>,
        FcompSti | Fucomp => compare_st::<1>,
        Fcompp | Fucompp => compare_st::<2>,
        Ftst => compare_zero,
        Fcomi | Fucomi => compare_flags::<0>,
        Fcomip | Fucomip => compare_flags::<1>,
        FldM32 => load_m32,
        FldM64 => load_m64,
        FldM80 => load_m80,
        FildI16 => load_i16,
        FildI32 => load_i32,
        FildI64 => load_i64,
        FldSti => load_st,
        Fld1 => load_one,
        Fldz => load_zero,
        FstM32 => store_m32::<false>,
        FstpM32 => store_m32::<true>,
        FstM64 => store_m64::<false>,
        FstpM64 => store_m64::<true>,
        FstpM80 => store_m80,
        FistI16 => store_int::<16, false, false>,
        FistpI16 => store_int::<16, false, true>,
        FisttpI16 => store_int::<16, true, true>,
        FistI32 => store_int::<32, false, false>,
        FistpI32 => store_int::<32, false, true>,
        FisttpI32 => store_int::<32, true, true>,
        FistpI64 => store_int::<64, false, true>,
        FisttpI64 => store_int::<64, true, true>,
        FstSti => store_st::<false>,
        FstpSti => store_st::<true>,
        FcmovB => conditional::<0x01, true>,
        FcmovE => conditional::<0x40, true>,
        FcmovBe => conditional::<0x41, true>,
        FcmovU => conditional::<0x04, true>,
        FcmovNb => conditional::<0x01, false>,
        FcmovNe => conditional::<0x40, false>,
        FcmovNbe => conditional::<0x41, false>,
        FcmovNu => conditional::<0x04, false>,
        Fxch => exchange,
        Fchs => change_sign,
        Fabs => clear_sign,
        Fsqrt => root,
        Fwait => wait,
        Fnstcw => control_word,
        FnstswM16 | FnstswAx => status_word,
        Fldcw => load_control_word,
        Fbstp | Fldenv | Fnstenv | Frstor | Fnsave => decline,
        _ => general,
    };
    Some(quick)
}

const ADD: u8 = 0;
const MUL: u8 = 1;
const SUB: u8 = 2;
const SUBR: u8 = 3;
const DIV: u8 = 4;
const DIVR: u8 = 5;

/// ST(0) = ST(0) op ST(i).
const ST0: u8 = 0;
/// ST(i) = ST(i) op ST(0).
const STI: u8 = 1;
/// The same, and pop.
const POP: u8 = 2;

/// Inexact, in the status and in the control word.
const INEXACT: u16 = 1 << 5;

#[inline(always)]
fn compute<const OP: u8>(a: F80, b: F80, dropped: u32) -> Option<Rounded> {
    match OP {
        ADD => ext::add(a, b, 0, dropped),
        MUL => ext::mul(a, b, dropped),
        SUB => ext::add(a, b, 0x8000, dropped),
        SUBR => ext::add(b, a, 0x8000, dropped),
        DIV => ext::div(a, b, dropped),
        _ => ext::div(b, a, dropped),
    }
}

fn st_of(what: u64) -> u8 {
    (what >> what::ST & 7) as u8
}

impl X87 {
    /// The value of ST(i), if it is occupied.
    #[inline(always)]
    fn held(&self, i: u8) -> Option<F80> {
        let r = self.phys(i);
        (self.valid >> r & 1 != 0).then_some(self.regs[r])
    }

    /// Bits that arithmetic drops from a significand, when it may go the quick way.
    #[inline(always)]
    fn quick_mode(&self) -> Option<u32> {
        (self.control & 0xC00 == 0 && self.status & STATUS_ES == 0)
            .then(|| ext::dropped(self.control >> 8))
    }

    /// Takes over what rounding did; false where that is an exception that is not masked.
    #[inline(always)]
    fn settle(&mut self, inexact: bool, up: bool) -> bool {
        if inexact && self.control & INEXACT == 0 {
            return false;
        }
        let c1 = if up { STATUS_C1 } else { 0 };
        self.status = self.status & !STATUS_C1 | c1 | if inexact { INEXACT } else { 0 };
        true
    }

    #[inline(always)]
    fn quick_memory<const OP: u8>(&mut self, b: Option<F80>) -> Option<()> {
        let r = compute::<OP>(self.held(0)?, b?, self.quick_mode()?)?;
        let at = self.phys(0);
        self.settle(r.inexact, r.up).then(|| self.regs[at] = r.value)
    }

    #[inline(always)]
    fn quick_stack<const OP: u8, const TO: u8>(&mut self, i: u8) -> Option<()> {
        let (to, other) = if TO == ST0 { (0, i) } else { (i, 0) };
        let r = compute::<OP>(self.held(to)?, self.held(other)?, self.quick_mode()?)?;
        if !self.settle(r.inexact, r.up) {
            return None;
        }
        let at = self.phys(to);
        self.regs[at] = r.value;
        if TO == POP {
            self.pop();
        }
        Some(())
    }

    fn quick_root(&mut self) -> Option<()> {
        let r = ext::sqrt(self.held(0)?, self.quick_mode()?)?;
        let at = self.phys(0);
        self.settle(r.inexact, r.up).then(|| self.regs[at] = r.value)
    }

    #[inline(always)]
    fn quick_load(&mut self, value: Option<F80>) -> Option<()> {
        let value = value?;
        if self.status & STATUS_ES != 0 || !self.is_empty(7) {
            return None;
        }
        self.set_c1(false);
        self.push(value);
        Some(())
    }

    #[inline(always)]
    fn quick_compare(&mut self, b: Option<F80>, pops: u8) -> Option<()> {
        if self.status & STATUS_ES != 0 {
            return None;
        }
        let codes = match ext::compare(self.held(0)?, b?)? {
            Ordering::Greater => 0,
            Ordering::Less => STATUS_C0,
            Ordering::Equal => STATUS_C3,
        };
        let all = STATUS_C0 | STATUS_C1 | STATUS_C2 | STATUS_C3;
        self.status = self.status & !all | codes;
        for _ in 0..pops {
            self.pop();
        }
        Some(())
    }

    /// Compares into EFLAGS, which has C1 left alone.
    #[inline(always)]
    fn quick_flags(&mut self, i: u8, pops: u8) -> Option<u64> {
        if self.status & STATUS_ES != 0 {
            return None;
        }
        let flags = match ext::compare(self.held(0)?, self.held(i)?)? {
            Ordering::Greater => 0,
            Ordering::Less => 0x01,
            Ordering::Equal => 0x40,
        };
        for _ in 0..pops {
            self.pop();
        }
        Some(flags)
    }

    /// ST(0) narrowed by `f` and, if so, popped.
    #[inline(always)]
    fn quick_store<const POPS: bool>(
        &mut self,
        f: impl FnOnce(F80) -> Option<(u64, bool, bool)>,
    ) -> Option<u64> {
        self.quick_mode()?;
        let (bits, inexact, up) = f(self.held(0)?)?;
        if !self.settle(inexact, up) {
            return None;
        }
        if POPS {
            self.pop();
        }
        Some(bits)
    }

    /// ST(0) as an integer, rounded as the control word says or cut.
    #[inline(always)]
    fn quick_int<const BITS: u32, const CUT: bool, const POPS: bool>(&mut self) -> Option<u64> {
        let a = self.held(0)?;
        if self.status & STATUS_ES != 0 || !ext::is_plain(a) {
            return None;
        }
        let class = if a.sig == 0 { Class::Zero } else { Class::Finite };
        let exp = i32::from(a.exponent()) - 16383;
        let parts = Parts { sign: a.sign(), class, denormal: false, exp, sig: a.sig };
        let rounding =
            if CUT { Rounding::Zero } else { Rounding::from_bits(u32::from(self.control >> 10)) };
        let (magnitude, inexact, up) = float::integral_magnitude(&parts, rounding)?;
        // The smallest integer goes the other way, which is also what invalid gives.
        if magnitude >> (BITS - 1) != 0 {
            return None;
        }
        let value = if parts.sign { magnitude.wrapping_neg() } else { magnitude };
        if value == DECLINED || !self.settle(inexact, up && inexact) {
            return None;
        }
        if POPS {
            self.pop();
        }
        Some(value & (u64::MAX >> (64 - BITS)))
    }

    /// Any instruction, on a copy.
    fn quick_general(&mut self, op: X87Op, i: u8, operand: u128) -> Option<u64> {
        if self.status & STATUS_ES != 0 {
            return None;
        }
        let mut copy = self.clone();
        let answer = match copy.op(op, i, operand).ok()? {
            Effect::None => 0,
            Effect::Store(value) => value as u64,
            Effect::Flags(flags) => flags.into(),
        };
        if copy.pending() || answer == DECLINED {
            return None;
        }
        *self = copy;
        Some(answer)
    }
}

/// Notes where the instruction was.
#[inline(always)]
fn note(cpu: &mut X86, what: u64, pc: u64) {
    cpu.x87.fop = (what >> what::FOP) as u16 & 0x7FF;
    cpu.x87.fcs = cpu.frame.ints[var::SEG_SELECTOR + seg::CS] as u16;
    cpu.x87.fip = pc;
}

/// The same with a memory operand.
#[inline(always)]
fn note_memory(cpu: &mut X86, what: u64, pc: u64, offset: u64) {
    note(cpu, what, pc);
    cpu.x87.fds = cpu.frame.ints[var::SEG_SELECTOR + (what >> what::SEG & 7) as usize] as u16;
    cpu.x87.fdp = offset;
}

/// Does it the general way.
#[inline(never)]
extern "C" fn general(cpu: &mut X86, what: u64, operand: u64, pc: u64, offset: u64) -> u64 {
    let Some(op) = X87Op::from_index(what as u8) else { return DECLINED };
    let operand = u128::from(operand) | u128::from(what >> what::HIGH) << 64;
    let Some(answer) = cpu.x87.quick_general(op, st_of(what), operand) else { return DECLINED };
    if !op.is_control() {
        if what >> what::MEMORY & 1 != 0 {
            note_memory(cpu, what, pc, offset);
        } else {
            note(cpu, what, pc);
        }
    }
    answer
}

extern "C" fn decline(_: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    DECLINED
}

/// A function whose instruction has a memory operand: `$body` answers, or nothing.
macro_rules! memory {
    ($(#[$doc:meta])* $name:ident [$($generic:tt)*] |$x87:ident, $operand:ident| $body:expr) => {
        $(#[$doc])*
        extern "C" fn $name<$($generic)*>(
            cpu: &mut X86,
            what: u64,
            operand: u64,
            pc: u64,
            offset: u64,
        ) -> u64 {
            let ($x87, $operand) = (&mut cpu.x87, operand);
            match $body {
                Some(answer) => {
                    note_memory(cpu, what, pc, offset);
                    answer
                }
                None => general(cpu, what, operand, pc, offset),
            }
        }
    };
}

/// The same without; `$i` is the ST index.
macro_rules! register {
    ($(#[$doc:meta])* $name:ident [$($generic:tt)*] |$x87:ident, $i:ident| $body:expr) => {
        $(#[$doc])*
        extern "C" fn $name<$($generic)*>(
            cpu: &mut X86,
            what: u64,
            operand: u64,
            pc: u64,
            offset: u64,
        ) -> u64 {
            let ($x87, $i) = (&mut cpu.x87, st_of(what));
            match $body {
                Some(answer) => {
                    note(cpu, what, pc);
                    answer
                }
                None => general(cpu, what, operand, pc, offset),
            }
        }
    };
}

memory!(arith_m32 [const OP: u8] |x, v| x.quick_memory::<OP>(ext::from_f32(v as u32)).map(|()| 0));
memory!(arith_m64 [const OP: u8] |x, v| x.quick_memory::<OP>(ext::from_f64(v)).map(|()| 0));
memory!(arith_i32 [const OP: u8] |x, v| {
    x.quick_memory::<OP>(Some(ext::from_int((v as i32).into()))).map(|()| 0)
});
memory!(compare_m32 [const POPS: u8] |x, v| {
    x.quick_compare(ext::from_f32(v as u32), POPS).map(|()| 0)
});
memory!(compare_m64 [const POPS: u8] |x, v| x.quick_compare(ext::from_f64(v), POPS).map(|()| 0));
memory!(load_m32 [] |x, v| x.quick_load(ext::from_f32(v as u32)).map(|()| 0));
memory!(load_m64 [] |x, v| x.quick_load(ext::from_f64(v)).map(|()| 0));
memory!(load_i16 [] |x, v| x.quick_load(Some(ext::from_int((v as i16).into()))).map(|()| 0));
memory!(load_i32 [] |x, v| x.quick_load(Some(ext::from_int((v as i32).into()))).map(|()| 0));
memory!(load_i64 [] |x, v| x.quick_load(Some(ext::from_int(v as i64))).map(|()| 0));
memory!(store_m32 [const POPS: bool] |x, _v| x.quick_store::<POPS>(ext::to_f32));
memory!(store_m64 [const POPS: bool] |x, _v| x.quick_store::<POPS>(ext::to_f64));
memory!(store_int [const BITS: u32, const CUT: bool, const POPS: bool] |x, _v| {
    x.quick_int::<BITS, CUT, POPS>()
});

extern "C" fn load_m80(cpu: &mut X86, what: u64, low: u64, pc: u64, offset: u64) -> u64 {
    let value = F80 { head: (what >> what::HIGH) as u16, sig: low };
    match cpu.x87.quick_load(Some(value)) {
        Some(()) => {
            note_memory(cpu, what, pc, offset);
            0
        }
        None => general(cpu, what, low, pc, offset),
    }
}

/// Sign and exponent that FSTP m80 will store.
extern "C" fn head(cpu: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    match cpu.x87.held(0) {
        Some(value) if !cpu.x87.pending() => value.head.into(),
        _ => DECLINED,
    }
}

extern "C" fn store_m80(cpu: &mut X86, what: u64, _: u64, pc: u64, offset: u64) -> u64 {
    let x87 = &mut cpu.x87;
    let Some(value) = x87.held(0) else { return DECLINED };
    if x87.pending() || value.sig == DECLINED {
        return DECLINED;
    }
    x87.set_c1(false);
    x87.pop();
    note_memory(cpu, what, pc, offset);
    value.sig
}

register!(arith_st [const OP: u8, const TO: u8] |x, i| x.quick_stack::<OP, TO>(i).map(|()| 0));
register!(compare_st [const POPS: u8] |x, i| {
    let other = x.held(if POPS == 2 { 1 } else { i });
    x.quick_compare(other, POPS).map(|()| 0)
});
register!(compare_zero [] |x, _i| x.quick_compare(Some(F80::ZERO), 0).map(|()| 0));
register!(compare_flags [const POPS: u8] |x, i| x.quick_flags(i, POPS));
register!(load_st [] |x, i| x.quick_load(x.held(i)).map(|()| 0));
register!(load_one [] |x, _i| x.quick_load(Some(F80::ONE)).map(|()| 0));
register!(load_zero [] |x, _i| x.quick_load(Some(F80::ZERO)).map(|()| 0));
register!(store_st [const POPS: bool] |x, i| {
    x.held(0).filter(|_| !x.pending()).map(|value| {
        x.set_c1(false);
        x.set_st(i, value);
        if POPS {
            x.pop();
        }
        0
    })
});
register!(exchange [] |x, i| {
    x.held(0).zip(x.held(i)).filter(|_| !x.pending()).map(|(a, b)| {
        x.set_c1(false);
        x.set_st(0, b);
        x.set_st(i, a);
        0
    })
});
register!(change_sign [] |x, _i| {
    x.held(0).filter(|_| !x.pending()).map(|value| {
        x.set_c1(false);
        x.set_st(0, value.with_sign(!value.sign()));
        0
    })
});
register!(clear_sign [] |x, _i| {
    x.held(0).filter(|_| !x.pending()).map(|value| {
        x.set_c1(false);
        x.set_st(0, value.with_sign(false));
        0
    })
});
/// FCMOVcc: when the flags of `MASK` are set, or not.
extern "C" fn conditional<const MASK: u64, const SET: bool>(
    cpu: &mut X86,
    what: u64,
    flags: u64,
    pc: u64,
    offset: u64,
) -> u64 {
    let x87 = &mut cpu.x87;
    match (x87.held(0), x87.held(st_of(what))) {
        (Some(_), Some(value)) if !x87.pending() => {
            if (flags & MASK != 0) == SET {
                x87.set_st(0, value);
            }
            note(cpu, what, pc);
            0
        }
        _ => general(cpu, what, flags, pc, offset),
    }
}

register!(root [] |x, _i| x.quick_root().map(|()| 0));

extern "C" fn wait(cpu: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    if cpu.x87.pending() { DECLINED } else { 0 }
}

extern "C" fn control_word(cpu: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    cpu.x87.control.into()
}

extern "C" fn status_word(cpu: &mut X86, _: u64, _: u64, _: u64, _: u64) -> u64 {
    cpu.x87.status_word().into()
}

extern "C" fn load_control_word(cpu: &mut X86, what: u64, operand: u64, pc: u64, o: u64) -> u64 {
    let x87 = &mut cpu.x87;
    if x87.pending() || x87.status & !(operand as u16) & 63 != 0 {
        return general(cpu, what, operand, pc, o);
    }
    x87.control = operand as u16 & 0x1F3F | 0x40;
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::cpuid::Model;
    use crate::x86::x87::Memory;

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
        }

        fn below(&mut self, n: u64) -> u64 {
            (self.next() >> 11) % n
        }

        fn f80(&mut self) -> F80 {
            let (r, s) = (self.next(), self.next());
            let sign = (r >> 48) as u16 & 0x8000;
            let sig = match r & 7 {
                0 => 1 << 63,
                1 => s << 11 | 1 << 63,
                2 => u64::MAX << (s & 63) | 1 << 63,
                3 => s,
                _ => s | 1 << 63,
            };
            match r >> 3 & 15 {
                0 => F80 { head: sign, sig: 0 },
                1 => F80 { head: sign, sig: s >> (s & 63) },
                2 => F80 { head: sign | 0x7FFF, sig },
                3 => F80 { head: r as u16, sig },
                4 => F80 { head: sign | (1 + (r >> 8 & 3)) as u16, sig },
                5 => F80 { head: sign | (0x7FFE - (r >> 8 & 3)) as u16, sig },
                6 => F80 { head: sign | (0x3FFF + (r >> 8 & 1023)) as u16, sig },
                7 => F80 { head: sign | (0x3FFF - (r >> 8 & 1023)) as u16, sig },
                8 => F80 { head: sign | 0x3FFF, sig: 1 << 63 },
                _ => F80 { head: sign | (0x3FFF + (r >> 8 & 63)) as u16, sig },
            }
        }

        fn state(&mut self) -> X87 {
            let mut fpu = X87::new();
            for r in &mut fpu.regs {
                *r = self.f80();
            }
            let masks = if self.below(3) > 0 { 0x3F } else { self.next() as u16 & 0x3F };
            let rounding = if self.below(3) > 0 { 0 } else { self.next() as u16 & 3 };
            fpu.set_control_word(masks | (self.next() as u16 & 3) << 8 | rounding << 10);
            let (top, depth) = (self.below(8), self.below(9));
            for i in 0..depth {
                fpu.valid |= 1 << ((top + i) & 7);
            }
            let sticky = if self.below(16) == 0 { 0x3F } else { masks };
            fpu.valid ^= ((self.below(16) == 0) as u8) << self.below(8);
            fpu.set_status_word(self.next() as u16 & (0x4700 | sticky) | (top as u16) << 11);
            fpu
        }

        fn operand(&mut self) -> u64 {
            let r = self.next();
            match self.below(6) {
                0 => r,
                1 => (r as i32 as f64).to_bits(),
                2 => ((r as i16 as f32) / 64.0).to_bits().into(),
                3 => [0, 1 << 63, 1 << 31, 0x7FF0 << 48, 0xFF80_0000, 1][self.below(6) as usize],
                4 => r >> 32,
                _ => f64::from_bits(r & !(0x7FF << 52) | (0x3E0 + (r >> 56 & 63)) << 52).to_bits(),
            }
        }
    }

    /// All of them on random states, against the general functions.
    #[test]
    fn a_quick_function_does_what_its_instruction_does_or_nothing() {
        let model = Model::named("max").expect("a model");
        let mut cpu = X86::new(model, 0, 1);
        cpu.frame.ints[var::SEG_SELECTOR + seg::CS] = 0x1234;
        cpu.frame.ints[var::SEG_SELECTOR + seg::ES] = 0x4321;
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for &op in X87Op::ALL {
            if op.memory() == Memory::Store(10) && op != X87Op::FstpM80 {
                continue;
            }
            let quick = quick(op as u16).expect("every instruction has one");
            let mut done = 0;
            for _ in 0..6000 {
                let before = random.state();
                let (mut operand, i) = (random.operand(), random.below(8) as u8);
                let mut high = 0;
                match op.memory() {
                    Memory::Load(bytes @ 1..8) => operand &= u64::MAX >> (64 - 8 * bytes),
                    Memory::Load(10) => {
                        let value = random.f80();
                        (operand, high) = (value.sig, u64::from(value.head));
                    }
                    _ => {}
                }
                let memory = op.memory() != Memory::None;
                let i = if memory { 0 } else { i };
                let what = op as u64
                    | u64::from(i) << what::ST
                    | u64::from(memory) << what::MEMORY
                    | 0x5A5 << what::FOP
                    | high << what::HIGH;
                cpu.x87 = before.clone();
                let head = super::quick(HEAD).expect("it is there")(&mut cpu, what, 0, 0, 0);
                let answer = quick(&mut cpu, what, operand, 77, 88);
                if answer == DECLINED {
                    assert_eq!(cpu.x87, before, "{op:?} did something");
                    continue;
                }
                done += 1;
                let mut expected = before.clone();
                let value = u128::from(operand) | u128::from(high) << 64;
                let effect = expected.op(op, i, value).expect("nothing is pending");
                if !op.is_control() {
                    expected.note(0x5A5, 0x1234, 77, memory.then_some((0x4321, 88)));
                }
                assert_eq!(cpu.x87, expected, "{op:?} {i} {value:x} of {before:x?}");
                let expected = match effect {
                    Effect::None => 0,
                    Effect::Store(value) => value as u64,
                    Effect::Flags(flags) => flags.into(),
                };
                assert_eq!(answer, expected, "{op:?} of {before:x?}");
                if let (X87Op::FstpM80, Effect::Store(value)) = (op, effect) {
                    assert_eq!(u128::from(head), value >> 64);
                }
            }
            let never = matches!(op.memory(), Memory::Save | Memory::Restore)
                || matches!(op, X87Op::Fldenv | X87Op::Fnstenv);
            assert!(never || done > 300, "{op:?}: {done}");
        }
    }
}
