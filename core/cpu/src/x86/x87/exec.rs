//! The instructions: what is moved, the stack checks, condition codes.

use super::arith::Arith;
use super::transcendental as trans;
use super::{
    Effect, PendingException, STATUS_B, STATUS_C0, STATUS_C1, STATUS_C2, STATUS_C3, STATUS_ES,
    STATUS_SF, X87, X87Op,
};
use crate::float::{
    self, Class, Env, F32, F64, F80, Flags, Format, Parts, Quotient, Relation, Rounding,
};

/// The integer operand of an instruction as parts; exact.
fn integer(value: i64) -> Parts {
    let exact: F80 = float::from_i64(value, &mut Env::extended());
    exact.unpack()
}

/// Integer operand widths.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Int {
    I16,
    I32,
    I64,
}

/// Constants as hardware holds them, truncated, and whether to-nearest rounds them up.
const CONSTANTS: [(u16, u64, bool); 5] = [
    // log2(10)
    (0x4000, 0xD49A_784B_CD1B_8AFE, false),
    // log2(e)
    (0x3FFF, 0xB8AA_3B29_5C17_F0BB, true),
    // pi
    (0x4000, 0xC90F_DAA2_2168_C234, true),
    // log10(2)
    (0x3FFD, 0x9A20_9A84_FBCF_F798, true),
    // ln(2)
    (0x3FFE, 0xB172_17F7_D1CF_79AB, true),
];

impl X87 {
    /// Executes an instruction that is not about the environment. `i` is the ST index (0 where
    /// there is none), `operand` the memory operand zero-extended, or EFLAGS for FCMOVcc.
    ///
    /// # Errors
    /// [`PendingException`] if the instruction waits and an unmasked exception is pending.
    pub fn op(&mut self, op: X87Op, i: u8, operand: u128) -> Result<Effect, PendingException> {
        if self.pending() && op.waits() {
            return Err(PendingException);
        }
        Ok(self.execute(op, i & 7, operand))
    }

    #[expect(clippy::too_many_lines, reason = "the instruction set, a line each")]
    fn execute(&mut self, op: X87Op, i: u8, operand: u128) -> Effect {
        use Arith::{Add, Div, DivReversed, Mul, Sub, SubReversed};
        use X87Op::*;
        let m32 = || F32(operand as u32).unpack();
        let m64 = || F64(operand as u64).unpack();
        let i16 = || integer((operand as i16).into());
        let i32 = || integer((operand as i32).into());
        match op {
            FaddM32 => self.with_memory(Add, m32()),
            FmulM32 => self.with_memory(Mul, m32()),
            FsubM32 => self.with_memory(Sub, m32()),
            FsubrM32 => self.with_memory(SubReversed, m32()),
            FdivM32 => self.with_memory(Div, m32()),
            FdivrM32 => self.with_memory(DivReversed, m32()),
            FaddM64 => self.with_memory(Add, m64()),
            FmulM64 => self.with_memory(Mul, m64()),
            FsubM64 => self.with_memory(Sub, m64()),
            FsubrM64 => self.with_memory(SubReversed, m64()),
            FdivM64 => self.with_memory(Div, m64()),
            FdivrM64 => self.with_memory(DivReversed, m64()),
            FiaddI32 => self.with_memory(Add, i32()),
            FimulI32 => self.with_memory(Mul, i32()),
            FisubI32 => self.with_memory(Sub, i32()),
            FisubrI32 => self.with_memory(SubReversed, i32()),
            FidivI32 => self.with_memory(Div, i32()),
            FidivrI32 => self.with_memory(DivReversed, i32()),
            FiaddI16 => self.with_memory(Add, i16()),
            FimulI16 => self.with_memory(Mul, i16()),
            FisubI16 => self.with_memory(Sub, i16()),
            FisubrI16 => self.with_memory(SubReversed, i16()),
            FidivI16 => self.with_memory(Div, i16()),
            FidivrI16 => self.with_memory(DivReversed, i16()),
            FaddSt0 => self.registers(Add, 0, i, false),
            FmulSt0 => self.registers(Mul, 0, i, false),
            FsubSt0 => self.registers(Sub, 0, i, false),
            FsubrSt0 => self.registers(SubReversed, 0, i, false),
            FdivSt0 => self.registers(Div, 0, i, false),
            FdivrSt0 => self.registers(DivReversed, 0, i, false),
            FaddSti => self.registers(Add, i, 0, false),
            FmulSti => self.registers(Mul, i, 0, false),
            FsubSti => self.registers(Sub, i, 0, false),
            FsubrSti => self.registers(SubReversed, i, 0, false),
            FdivSti => self.registers(Div, i, 0, false),
            FdivrSti => self.registers(DivReversed, i, 0, false),
            FaddP => self.registers(Add, i, 0, true),
            FmulP => self.registers(Mul, i, 0, true),
            FsubP => self.registers(Sub, i, 0, true),
            FsubrP => self.registers(SubReversed, i, 0, true),
            FdivP => self.registers(Div, i, 0, true),
            FdivrP => self.registers(DivReversed, i, 0, true),
            FcomM32 => self.compare(Some(m32()), true, 0),
            FcompM32 => self.compare(Some(m32()), true, 1),
            FcomM64 => self.compare(Some(m64()), true, 0),
            FcompM64 => self.compare(Some(m64()), true, 1),
            FicomI32 => self.compare(Some(i32()), true, 0),
            FicompI32 => self.compare(Some(i32()), true, 1),
            FicomI16 => self.compare(Some(i16()), true, 0),
            FicompI16 => self.compare(Some(i16()), true, 1),
            FcomSti => self.compare(self.occupied(i), true, 0),
            FcompSti => self.compare(self.occupied(i), true, 1),
            Fcompp => self.compare(self.occupied(1), true, 2),
            Fucom => self.compare(self.occupied(i), false, 0),
            Fucomp => self.compare(self.occupied(i), false, 1),
            Fucompp => self.compare(self.occupied(1), false, 2),
            Ftst => self.compare(Some(Parts::zero(false)), true, 0),
            Fcomi => return self.compare_flags(i, true, 0),
            Fcomip => return self.compare_flags(i, true, 1),
            Fucomi => return self.compare_flags(i, false, 0),
            Fucomip => return self.compare_flags(i, false, 1),
            FcmovB => self.conditional_move(i, operand & 0x01 != 0),
            FcmovE => self.conditional_move(i, operand & 0x40 != 0),
            FcmovBe => self.conditional_move(i, operand & 0x41 != 0),
            FcmovU => self.conditional_move(i, operand & 0x04 != 0),
            FcmovNb => self.conditional_move(i, operand & 0x01 == 0),
            FcmovNe => self.conditional_move(i, operand & 0x40 == 0),
            FcmovNbe => self.conditional_move(i, operand & 0x41 == 0),
            FcmovNu => self.conditional_move(i, operand & 0x04 == 0),
            FldM32 => self.load(&m32()),
            FldM64 => self.load(&m64()),
            FldM80 => self.load_value(F80::from_bits(operand)),
            FildI16 => self.load(&i16()),
            FildI32 => self.load(&i32()),
            FildI64 => self.load(&integer(operand as i64)),
            Fbld => self.load_value(float::from_bcd(operand)),
            FldSti => self.load_register(i),
            Fld1 => self.load_value(F80::ONE),
            Fldz => self.load_value(F80::ZERO),
            Fldl2t => self.load_constant(0),
            Fldl2e => self.load_constant(1),
            Fldpi => self.load_constant(2),
            Fldlg2 => self.load_constant(3),
            Fldln2 => self.load_constant(4),
            FstM32 => return self.store_float(4, false),
            FstpM32 => return self.store_float(4, true),
            FstM64 => return self.store_float(8, false),
            FstpM64 => return self.store_float(8, true),
            FstpM80 => return self.store_extended(),
            FistI16 => return self.store_integer(Int::I16, false, false),
            FistpI16 => return self.store_integer(Int::I16, false, true),
            FisttpI16 => return self.store_integer(Int::I16, true, true),
            FistI32 => return self.store_integer(Int::I32, false, false),
            FistpI32 => return self.store_integer(Int::I32, false, true),
            FisttpI32 => return self.store_integer(Int::I32, true, true),
            FistpI64 => return self.store_integer(Int::I64, false, true),
            FisttpI64 => return self.store_integer(Int::I64, true, true),
            Fbstp => return self.store_decimal(),
            FstSti => self.store_register(i, false),
            FstpSti => self.store_register(i, true),
            Fstpnce => {
                // Unlike FSTP it does not mind an empty register.
                self.set_c1(false);
                if !self.is_empty(0) {
                    self.set_st(i, self.st(0));
                }
                self.pop();
            }
            Fxch => self.exchange(i),
            Fchs => self.sign_only(|x| x.with_sign(!x.sign())),
            Fabs => self.sign_only(|x| x.with_sign(false)),
            Fxam => self.examine(),
            Fsqrt => self.unary(float::sqrt),
            Frndint => self.unary(float::round_to_integral),
            F2xm1 => self.unary(trans::f2xm1),
            Fscale => self.binary_keep(trans::fscale),
            Fyl2x => self.binary_pop(trans::fyl2x),
            Fyl2xp1 => self.binary_pop(trans::fyl2xp1),
            Fpatan => self.binary_pop(trans::fpatan),
            Fprem => self.partial_remainder(false),
            Fprem1 => self.partial_remainder(true),
            Fsin => self.reduced(|x, env| Some((trans::fsin(x, env)?, None))),
            Fcos => self.reduced(|x, env| Some((trans::fcos(x, env)?, None))),
            Fsincos => self.reduced_push(trans::fsincos),
            Fptan => self.reduced_push(trans::fptan),
            Fxtract => self.extract(),
            Fincstp => self.turn(1),
            Fdecstp => self.turn(7),
            Ffree => self.free(i),
            Ffreep => {
                self.free(i);
                self.pop();
            }
            Fnclex => self.status &= !(STATUS_B | STATUS_ES | STATUS_SF | 0x3F),
            Fninit => self.init(),
            Fldcw => self.set_control_word(operand as u16),
            Fnstcw => return Effect::Store(self.control.into()),
            FnstswM16 | FnstswAx => return Effect::Store(self.status_word().into()),
            // The environment is not this function's.
            Fnop | Fwait | FnNop | Fldenv | Fnstenv | Frstor | Fnsave => {}
        }
        Effect::None
    }

    // --- Exceptions ---------------------------------------------------------------------------

    /// A stack fault; whether the masked response is to be given.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.status |= STATUS_SF;
        self.set_c1(overflow);
        self.raise(Flags::INVALID);
        !self.unmasked().any(Flags::INVALID)
    }

    /// Takes over what an operation raised; whether its result is to be delivered. Invalid,
    /// denormal and zero-divide are found before computing: unmasked, they end the operation.
    fn conclude(&mut self, env: &Env) -> bool {
        let before = Flags::INVALID | Flags::DENORMAL | Flags::ZERO_DIVIDE;
        if env.raised.any(Flags(before.0 & self.unmasked().0)) {
            self.set_c1(false);
            self.raise(Flags(env.raised.0 & before.0));
            return false;
        }
        self.set_c1(env.rounded_up);
        self.raise(env.raised);
        true
    }

    /// ST(i) taken apart, unless it is empty.
    fn occupied(&self, i: u8) -> Option<Parts> {
        (!self.is_empty(i)).then(|| self.st(i).unpack())
    }

    // --- Arithmetic ---------------------------------------------------------------------------

    fn with_memory(&mut self, op: Arith, b: Parts) {
        let Some(a) = self.occupied(0) else {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        };
        let mut env = self.env();
        let result = op.apply(&a, &b, &mut env);
        if self.conclude(&env) {
            self.set_st(0, result);
        }
    }

    /// `ST(to) = ST(to) op ST(other)`.
    fn registers(&mut self, op: Arith, to: u8, other: u8, pop: bool) {
        let result = match (self.occupied(to), self.occupied(other)) {
            (Some(a), Some(b)) => {
                let mut env = self.env();
                let result = op.apply(&a, &b, &mut env);
                if !self.conclude(&env) {
                    return;
                }
                result
            }
            _ if self.stack_fault(false) => F80::INDEFINITE,
            _ => return,
        };
        self.set_st(to, result);
        if pop {
            self.pop();
        }
    }

    /// `ST(0) = f(ST(0))`.
    fn unary(&mut self, f: impl Fn(F80, &mut Env) -> F80) {
        let result = if self.is_empty(0) {
            if !self.stack_fault(false) {
                return;
            }
            F80::INDEFINITE
        } else {
            let mut env = self.env();
            let result = f(self.st(0), &mut env);
            if !self.conclude(&env) {
                return;
            }
            result
        };
        self.set_st(0, result);
    }

    /// `f(ST(0), ST(1))`, `None` if it must not be delivered.
    fn binary(&mut self, f: impl Fn(F80, F80, &mut Env) -> F80) -> Option<F80> {
        if self.is_empty(0) || self.is_empty(1) {
            return self.stack_fault(false).then_some(F80::INDEFINITE);
        }
        let mut env = self.env();
        let result = f(self.st(0), self.st(1), &mut env);
        self.conclude(&env).then_some(result)
    }

    fn binary_keep(&mut self, f: impl Fn(F80, F80, &mut Env) -> F80) {
        if let Some(result) = self.binary(f) {
            self.set_st(0, result);
        }
    }

    fn binary_pop(&mut self, f: impl Fn(F80, F80, &mut Env) -> F80) {
        if let Some(result) = self.binary(f) {
            self.set_st(1, result);
            self.pop();
        }
    }

    fn partial_remainder(&mut self, nearest: bool) {
        let found = core::cell::Cell::new(None);
        self.status &= !(STATUS_C1 | STATUS_C2);
        let result = self.binary(|a, b, env| {
            let step = float::remainder(a, b, nearest, env);
            found.set(Some(step.quotient));
            step.value
        });
        let Some(result) = result else { return };
        self.set_st(0, result);
        match found.get() {
            None | Some(Quotient::None) => {}
            Some(Quotient::Partial) => {
                self.status &= !(STATUS_C0 | STATUS_C3);
                self.status |= STATUS_C2;
            }
            Some(Quotient::Complete(q)) => {
                let bit = |n: u32, code| if q >> n & 1 != 0 { code } else { 0 };
                self.status &= !(STATUS_C0 | STATUS_C3 | STATUS_C1);
                self.status |= bit(2, STATUS_C0) | bit(1, STATUS_C3) | bit(0, STATUS_C1);
            }
        }
    }

    /// FSIN and FCOS: C2 if the operand is out of range.
    fn reduced(&mut self, f: impl Fn(F80, &mut Env) -> Option<(F80, Option<F80>)>) {
        self.status &= !STATUS_C2;
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.env();
        match f(self.st(0), &mut env) {
            None => {
                self.set_c1(false);
                self.status |= STATUS_C2;
            }
            Some((result, _)) => {
                if self.conclude(&env) {
                    self.set_st(0, result);
                }
            }
        }
    }

    /// FSINCOS and FPTAN: the second result is pushed.
    fn reduced_push(&mut self, f: impl Fn(F80, &mut Env) -> Option<(F80, F80)>) {
        self.status &= !STATUS_C2;
        if !self.room_to_split() {
            return;
        }
        let mut env = self.env();
        match f(self.st(0), &mut env) {
            None => {
                self.set_c1(false);
                self.status |= STATUS_C2;
            }
            Some((first, second)) => {
                if self.conclude(&env) {
                    self.set_st(0, first);
                    self.push(second);
                }
            }
        }
    }

    /// Whether ST(0) is occupied and ST(7) empty; if not, the stack fault has been answered.
    fn room_to_split(&mut self) -> bool {
        let (missing, full) = (self.is_empty(0), !self.is_empty(7));
        if missing || full {
            if self.stack_fault(!missing) {
                self.set_st(0, F80::INDEFINITE);
                self.push(F80::INDEFINITE);
            }
            return false;
        }
        true
    }

    fn extract(&mut self) {
        if !self.room_to_split() {
            return;
        }
        let mut env = self.env();
        let (exponent, significand) = trans::fxtract(self.st(0), &mut env);
        if self.conclude(&env) {
            self.set_st(0, exponent);
            self.push(significand);
        }
    }

    fn sign_only(&mut self, f: impl Fn(F80) -> F80) {
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        self.set_c1(false);
        self.set_st(0, f(self.st(0)));
    }

    // --- Comparison ---------------------------------------------------------------------------

    /// ST(0) against `b` (`None`: an empty register), and whether to go on to pop: not after an
    /// unmasked exception.
    fn relation(&mut self, b: Option<Parts>, signal: bool) -> (Relation, bool) {
        let (Some(a), Some(b)) = (self.occupied(0), b) else {
            return (Relation::Unordered, self.stack_fault(false));
        };
        let mut env = self.env();
        let relation = float::compare_parts(&a, &b, signal, &mut env);
        self.raise(env.raised);
        (relation, !env.raised.any(self.unmasked()))
    }

    fn compare(&mut self, b: Option<Parts>, signal: bool, pops: u8) {
        self.set_c1(false);
        let (relation, goes_on) = self.relation(b, signal);
        let codes = match relation {
            Relation::Greater => 0,
            Relation::Less => STATUS_C0,
            Relation::Equal => STATUS_C3,
            Relation::Unordered => STATUS_C0 | STATUS_C2 | STATUS_C3,
        };
        self.status = self.status & !(STATUS_C0 | STATUS_C2 | STATUS_C3) | codes;
        for _ in 0..if goes_on { pops } else { 0 } {
            self.pop();
        }
    }

    fn compare_flags(&mut self, i: u8, signal: bool, pops: u8) -> Effect {
        let (relation, goes_on) = self.relation(self.occupied(i), signal);
        for _ in 0..if goes_on { pops } else { 0 } {
            self.pop();
        }
        Effect::Flags(match relation {
            Relation::Greater => 0,
            Relation::Less => 0x01,
            Relation::Equal => 0x40,
            Relation::Unordered => 0x45,
        })
    }

    fn examine(&mut self) {
        let x = self.st(0);
        let parts = x.unpack();
        let codes = match parts.class {
            _ if self.is_empty(0) => STATUS_C3 | STATUS_C0,
            Class::Unsupported => 0,
            Class::Quiet | Class::Signalling => STATUS_C0,
            Class::Infinity => STATUS_C2 | STATUS_C0,
            Class::Zero => STATUS_C3,
            Class::Finite if parts.denormal => STATUS_C3 | STATUS_C2,
            Class::Finite => STATUS_C2,
        };
        self.status = self.status & !(STATUS_C0 | STATUS_C2 | STATUS_C3) | codes;
        self.set_c1(x.sign());
    }

    // --- Moves --------------------------------------------------------------------------------

    /// Pushes a value as it is.
    fn load_value(&mut self, value: F80) {
        if !self.is_empty(7) {
            if self.stack_fault(true) {
                self.push(F80::INDEFINITE);
            }
            return;
        }
        self.set_c1(false);
        self.push(value);
    }

    /// Pushes a value of another format.
    fn load(&mut self, parts: &Parts) {
        if !self.is_empty(7) {
            if self.stack_fault(true) {
                self.push(F80::INDEFINITE);
            }
            return;
        }
        let mut env = self.env();
        let value = float::convert_parts(parts, &mut env);
        // A denormal is loaded even if that exception is not masked.
        self.set_c1(false);
        self.raise(env.raised);
        if !env.raised.any(Flags(Flags::INVALID.0 & self.unmasked().0)) {
            self.push(value);
        }
    }

    fn load_register(&mut self, i: u8) {
        if self.is_empty(i) {
            if self.stack_fault(false) {
                self.push(F80::INDEFINITE);
            }
            return;
        }
        self.load_value(self.st(i));
    }

    fn load_constant(&mut self, which: usize) {
        let (head, truncated, nearest_up) = CONSTANTS[which];
        let up = match self.env().rounding {
            Rounding::Nearest => nearest_up,
            Rounding::Up => true,
            Rounding::Down | Rounding::Zero => false,
        };
        self.load_value(F80 { head, sig: truncated + u64::from(up) });
    }

    /// Delivers a store unless an unmasked exception of `fatal` kind was raised.
    fn deliver(&mut self, env: &Env, bits: u128, pop: bool) -> Effect {
        // A value that does not reach memory cannot be wrapped: overflow and underflow end it.
        let range = Flags::OVERFLOW | Flags::UNDERFLOW;
        if env.raised.any(Flags(range.0 & self.unmasked().0)) {
            self.set_c1(false);
            self.raise(env.raised.without(Flags::INEXACT));
            return Effect::None;
        }
        if !self.conclude(env) {
            return Effect::None;
        }
        if pop {
            self.pop();
        }
        Effect::Store(bits)
    }

    /// The answer to storing an empty register.
    fn store_empty(&mut self, indefinite: u128, pop: bool) -> Effect {
        if !self.stack_fault(false) {
            return Effect::None;
        }
        if pop {
            self.pop();
        }
        Effect::Store(indefinite)
    }

    fn store_float(&mut self, bytes: u8, pop: bool) -> Effect {
        let Some(parts) = self.occupied(0) else {
            let indefinite = if bytes == 4 { 0xFFC0_0000 } else { 0xFFF8_0000_0000_0000 };
            return self.store_empty(indefinite, pop);
        };
        // A denormal source is not reported by stores.
        let parts = Parts { denormal: false, ..parts };
        let mut env = self.env();
        let bits = if bytes == 4 {
            let value: F32 = float::convert_parts(&parts, &mut env);
            u128::from(value.0)
        } else {
            let value: F64 = float::convert_parts(&parts, &mut env);
            u128::from(value.0)
        };
        self.deliver(&env, bits, pop)
    }

    fn store_extended(&mut self) -> Effect {
        if self.is_empty(0) {
            return self.store_empty(F80::INDEFINITE.bits(), true);
        }
        self.set_c1(false);
        let bits = self.st(0).bits();
        self.pop();
        Effect::Store(bits)
    }

    fn store_integer(&mut self, width: Int, truncate: bool, pop: bool) -> Effect {
        let Some(parts) = self.occupied(0) else {
            let indefinite = match width {
                Int::I16 => 1 << 15,
                Int::I32 => 1 << 31,
                Int::I64 => 1 << 63,
            };
            return self.store_empty(indefinite, pop);
        };
        let mut env = self.env();
        let rounding = if truncate { Rounding::Zero } else { env.rounding };
        let bits = match width {
            Int::I16 => u128::from(float::to_i16(&parts, rounding, &mut env) as u16),
            Int::I32 => u128::from(float::to_i32(&parts, rounding, &mut env) as u32),
            Int::I64 => u128::from(float::to_i64(&parts, rounding, &mut env) as u64),
        };
        self.deliver(&env, bits, pop)
    }

    fn store_decimal(&mut self) -> Effect {
        let Some(parts) = self.occupied(0) else {
            return self.store_empty(0xFFFF_C000_0000_0000_0000, true);
        };
        let mut env = self.env();
        let bits = float::to_bcd(&parts, env.rounding, &mut env);
        self.deliver(&env, bits, true)
    }

    fn store_register(&mut self, i: u8, pop: bool) {
        let value = if self.is_empty(0) {
            if !self.stack_fault(false) {
                return;
            }
            F80::INDEFINITE
        } else {
            self.set_c1(false);
            self.st(0)
        };
        self.set_st(i, value);
        if pop {
            self.pop();
        }
    }

    fn exchange(&mut self, i: u8) {
        let (mut a, mut b) = (self.st(0), self.st(i));
        if self.is_empty(0) || self.is_empty(i) {
            let (a_empty, b_empty) = (self.is_empty(0), self.is_empty(i));
            if !self.stack_fault(false) {
                return;
            }
            a = if a_empty { F80::INDEFINITE } else { a };
            b = if b_empty { F80::INDEFINITE } else { b };
        } else {
            self.set_c1(false);
        }
        self.set_st(0, b);
        self.set_st(i, a);
    }

    fn conditional_move(&mut self, i: u8, on: bool) {
        if self.is_empty(0) || self.is_empty(i) {
            if self.stack_fault(false) {
                self.set_st(0, F80::INDEFINITE);
            }
            return;
        }
        if on {
            self.set_st(0, self.st(i));
        }
    }

    fn free(&mut self, i: u8) {
        self.set_c1(false);
        self.valid &= !(1 << self.phys(i));
    }

    fn turn(&mut self, by: u8) {
        self.set_c1(false);
        self.top = (self.top + by) & 7;
    }
}
