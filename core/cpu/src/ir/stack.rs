//! What quick functions of a stack of 80-bit floating-point registers do, where back ends may know: [`StackOp`].
//!
//! A host that has the same unit (an x86-64 one for x87 instructions) can do them itself, several in a row in its own
//! registers. [`StackUnit`] says where the guest's state is; [`Isa::stack_op`](crate::isa::Isa::stack_op) names
//! the function of an [`Op::Quick`](super::Op::Quick) in the terms of this table.
//!
//! They may be done that way where every exception is masked and none is pending, and where the registers
//! they read are occupied and those they push are not: flags, rounding and special values are then the host's. Names
//! and rules: Intel SDM volume 1, chapter 8.

use super::Var;

/// An operand.
#[expect(missing_docs, reason = "named as the manual does")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    St(u8),
    M32,
    M64,
    I16,
    I32,
    I64,
    One,
    Zero,
}

/// Arithmetic; the number is that of the instructions' ModRM byte.
#[expect(missing_docs, reason = "named as what they do; R turns the operands round")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calc {
    Add = 0,
    Mul = 1,
    Sub = 4,
    SubR = 5,
    Div = 6,
    DivR = 7,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackOp {
    /// Pushes the operand.
    Load(Operand),
    /// `ST(0) = ST(0) op operand`.
    Calc(Calc, Operand),
    /// `ST(i) = ST(i) op ST(0)`, `i` not 0 if it then pops.
    CalcTo(Calc, u8, bool),
    /// Answers `ST(0)` in the operand's form; pops; cuts what is behind the point.
    Store(Operand, bool, bool),
    /// `ST(i) = ST(0)`; pops.
    StoreTo(u8, bool),
    /// Exchanges ST(0) and ST(i).
    Exchange(u8),
    /// `ST(0) = -ST(0)`.
    Negate,
    /// `ST(0) = |ST(0)|`.
    Abs,
    /// `ST(0) = √ST(0)`.
    Sqrt,
    /// Compares ST(0) with the operand (`ST`, `M32`, `M64`) into the condition codes; quiet NaNs are all right; pops so often.
    Compare(Operand, bool, u8),
    /// Does nothing where none is pending.
    Wait,
    /// Answers the status word.
    Status,
}

/// An instruction, and what the unit notes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// What it does.
    pub op: StackOp,
    /// The opcode noted (11 bits), if it is noted at all.
    pub note: Option<u16>,
    /// The variable with the selector of its memory operand's segment.
    pub segment: Option<Var>,
}

/// Where the state of the unit is: bytes from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub struct StackUnit {
    /// Eight registers by their physical number, 16 bytes apart: significand, then sign and exponent.
    pub regs: i32,
    /// Control word.
    pub control: i32,
    /// Status word without TOP.
    pub status: i32,
    /// TOP, a byte.
    pub top: i32,
    /// Physical registers that are occupied, a bit each.
    pub valid: i32,
    /// Opcode of the last instruction noted, 16 bits.
    pub opcode: i32,
    /// Its code segment, 16 bits.
    pub code_segment: i32,
    /// Its program counter, 64 bits.
    pub instruction: i32,
    /// Segment of its operand, 16 bits.
    pub data_segment: i32,
    /// Offset of its operand, 64 bits.
    pub data: i32,
    /// The variable with the code segment's selector.
    pub selector: Var,
}
