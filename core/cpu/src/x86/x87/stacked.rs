//! x87 instructions in the terms of [`ir::stack`](crate::ir::stack), and where the unit's state is.

use core::mem::offset_of;

use super::quick::what;
use super::{X87, X87Op};
use crate::frame::Var;
use crate::ir::stack::{Calc, Operand, StackOp, StackUnit, Stacked};
use crate::x86::state::{X86, seg, var};

const fn place(field: usize) -> i32 {
    (offset_of!(X86, x87) + field) as i32 - offset_of!(X86, frame) as i32
}

/// Where the state is.
pub(crate) const UNIT: StackUnit = StackUnit {
    regs: place(offset_of!(X87, regs)),
    control: place(offset_of!(X87, control)),
    status: place(offset_of!(X87, status)),
    top: place(offset_of!(X87, top)),
    valid: place(offset_of!(X87, valid)),
    opcode: place(offset_of!(X87, fop)),
    code_segment: place(offset_of!(X87, fcs)),
    instruction: place(offset_of!(X87, fip)),
    data_segment: place(offset_of!(X87, fds)),
    data: place(offset_of!(X87, fdp)),
    selector: Var((var::SEG_SELECTOR + seg::CS) as u8),
};

/// The instruction with this number and first argument.
pub(crate) fn stacked(number: u16, what: u64) -> Option<Stacked> {
    let op = X87Op::from_index(u8::try_from(number).ok()?)?;
    let i = (what >> what::ST & 7) as u8;
    let note = (!op.is_control()).then_some((what >> what::FOP) as u16 & 0x7ff);
    let segment = (note.is_some() && what >> what::MEMORY & 1 != 0)
        .then(|| Var((var::SEG_SELECTOR as u64 + (what >> what::SEG & 7)) as u8));
    Some(Stacked { op: of(op, i)?, note, segment })
}

fn of(op: X87Op, i: u8) -> Option<StackOp> {
    use Calc::{Add, Div, DivR, Mul, Sub, SubR};
    use Operand::{I16, I32, I64, M32, M64, One, St, Zero};
    use StackOp::{CalcTo, Compare, Load, Store, StoreTo};
    use X87Op::*;
    let calc = StackOp::Calc;
    Some(match op {
        FaddM32 => calc(Add, M32),
        FmulM32 => calc(Mul, M32),
        FsubM32 => calc(Sub, M32),
        FsubrM32 => calc(SubR, M32),
        FdivM32 => calc(Div, M32),
        FdivrM32 => calc(DivR, M32),
        FaddM64 => calc(Add, M64),
        FmulM64 => calc(Mul, M64),
        FsubM64 => calc(Sub, M64),
        FsubrM64 => calc(SubR, M64),
        FdivM64 => calc(Div, M64),
        FdivrM64 => calc(DivR, M64),
        FiaddI32 => calc(Add, I32),
        FimulI32 => calc(Mul, I32),
        FisubI32 => calc(Sub, I32),
        FisubrI32 => calc(SubR, I32),
        FidivI32 => calc(Div, I32),
        FidivrI32 => calc(DivR, I32),
        FiaddI16 => calc(Add, I16),
        FimulI16 => calc(Mul, I16),
        FisubI16 => calc(Sub, I16),
        FisubrI16 => calc(SubR, I16),
        FidivI16 => calc(Div, I16),
        FidivrI16 => calc(DivR, I16),
        FaddSt0 => calc(Add, St(i)),
        FmulSt0 => calc(Mul, St(i)),
        FsubSt0 => calc(Sub, St(i)),
        FsubrSt0 => calc(SubR, St(i)),
        FdivSt0 => calc(Div, St(i)),
        FdivrSt0 => calc(DivR, St(i)),
        FaddSti => CalcTo(Add, i, false),
        FmulSti => CalcTo(Mul, i, false),
        FsubSti => CalcTo(Sub, i, false),
        FsubrSti => CalcTo(SubR, i, false),
        FdivSti => CalcTo(Div, i, false),
        FdivrSti => CalcTo(DivR, i, false),
        // Its own operand popped is nobody's.
        FaddP | FmulP | FsubP | FsubrP | FdivP | FdivrP if i == 0 => return None,
        FaddP => CalcTo(Add, i, true),
        FmulP => CalcTo(Mul, i, true),
        FsubP => CalcTo(Sub, i, true),
        FsubrP => CalcTo(SubR, i, true),
        FdivP => CalcTo(Div, i, true),
        FdivrP => CalcTo(DivR, i, true),
        FcomM32 => Compare(M32, false, 0),
        FcompM32 => Compare(M32, false, 1),
        FcomM64 => Compare(M64, false, 0),
        FcompM64 => Compare(M64, false, 1),
        FcomSti => Compare(St(i), false, 0),
        FcompSti => Compare(St(i), false, 1),
        Fcompp => Compare(St(1), false, 2),
        Fucom => Compare(St(i), true, 0),
        Fucomp => Compare(St(i), true, 1),
        Fucompp => Compare(St(1), true, 2),
        FldM32 => Load(M32),
        FldM64 => Load(M64),
        FildI16 => Load(I16),
        FildI32 => Load(I32),
        FildI64 => Load(I64),
        FldSti => Load(St(i)),
        Fld1 => Load(One),
        Fldz => Load(Zero),
        FstM32 => Store(M32, false, false),
        FstpM32 => Store(M32, true, false),
        FstM64 => Store(M64, false, false),
        FstpM64 => Store(M64, true, false),
        FistI16 => Store(I16, false, false),
        FistpI16 => Store(I16, true, false),
        FisttpI16 => Store(I16, true, true),
        FistI32 => Store(I32, false, false),
        FistpI32 => Store(I32, true, false),
        FisttpI32 => Store(I32, true, true),
        FistpI64 => Store(I64, true, false),
        FisttpI64 => Store(I64, true, true),
        FstSti => StoreTo(i, false),
        FstpSti => StoreTo(i, true),
        Fxch => StackOp::Exchange(i),
        Fchs => StackOp::Negate,
        Fabs => StackOp::Abs,
        Fsqrt => StackOp::Sqrt,
        Fwait => StackOp::Wait,
        FnstswM16 | FnstswAx => StackOp::Status,
        _ => return None,
    })
}
