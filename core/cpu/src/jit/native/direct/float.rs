//! Floating point by the host's SSE, where the guest's rules are the host's ([`Isa::MXCSR`]).
//!
//! The guest's control and status word is in the host's register of the same name while compiled code does
//! floating point: results, flags and rounding are then the host's own, and nothing is checked. Slot
//! [`slot::FLOAT`] says where it is ([`word`]); stubs put it back into the frame before they call anything. With an
//! exception that is not masked the interpreter does the instruction.
//!
//! Opcodes: Intel SDM volume 2.
//!
//! [`Isa::MXCSR`]: crate::isa::Isa::MXCSR

use super::asm::{Alu, Cc, Mark, RAX, RCX, Rm, Shift, at};
use super::ways::{Cold, Left};
use super::{Emit, RSP, slot};
use crate::ir::float::{Arith, Shape};
use crate::ir::{FloatOp, Var, VecVar, Width};

/// Where the guest's control and status word is: bits.
pub(super) mod word {
    /// In the register; else in the frame, and the host's own is in the register.
    pub(in super::super) const REGISTER: i32 = 1;
    /// The unit with a stack has the guest's control word ([`stack`](super::super::stack)).
    pub(in super::super) const STACK: i32 = 2;
    /// In the frame until a stub returns.
    pub(in super::super) const AWAY: i32 = 4;
}

/// The prefix of a shape's instructions.
fn prefix(shape: Shape) -> u8 {
    match shape {
        Shape::S1 => 0xf3,
        Shape::D1 => 0xf2,
        Shape::S4 => 0,
        Shape::D2 => 0x66,
    }
}

/// What a place in a block is when the host's register is to be loaded.
pub(super) struct Start {
    pub(super) here: Mark,
    pub(super) back: Mark,
    pub(super) left: Left,
    pub(super) rest: u32,
    pub(super) pc: u64,
}

impl Emit<'_> {
    /// Whether floating-point operations are done on the host.
    pub(super) fn floats(&self) -> bool {
        self.stubs.float.is_some()
    }

    /// The host's register has the guest's word from here on.
    fn ready(&mut self) {
        self.end_run();
        if self.float_ready {
            return;
        }
        self.float_ready = true;
        let (here, back) = (self.a.mark(), self.a.mark());
        self.a.test_imm(Width::W32, at(RSP, slot::FLOAT), word::REGISTER);
        self.a.jump_if(Cc::E, here);
        self.a.here(back);
        let (left, rest, pc) = (self.left(), self.rest(), self.pc);
        self.cold.push(Cold::Float(Start { here, back, left, rest, pc }));
    }

    pub(super) fn start_float(&mut self, start: Start) {
        let Start { here, back, left, rest, pc } = start;
        let Some(stub) = self.stubs.float else { return };
        self.a.here(here);
        self.settle_left(&left);
        self.a.set(RCX, rest.into());
        self.a.call(stub);
        // The stub reads this when it has to leave.
        self.a.set_long(RCX, pc);
        self.a.jump(back);
    }

    /// An operation with a vector result.
    pub(super) fn float(&mut self, op: FloatOp, d: VecVar, a: VecVar, b: VecVar, imm: u8) {
        self.ready();
        match op {
            FloatOp::Arith(Arith::Sqrt, shape @ (Shape::S4 | Shape::D2)) => {
                let from = self.vector(b);
                let r = self.new_vector(d);
                self.a.float(prefix(shape), 0x51, r, from);
            }
            FloatOp::Arith(kind, shape) => {
                let opcode = match kind {
                    Arith::Sqrt => 0x51,
                    Arith::Add => 0x58,
                    Arith::Mul => 0x59,
                    Arith::Sub => 0x5c,
                    Arith::Min => 0x5d,
                    Arith::Div => 0x5e,
                    Arith::Max => 0x5f,
                };
                let (r, from) = self.change(d, a, b);
                self.a.float(prefix(shape), opcode, r, from);
            }
            FloatOp::Compare(shape) => {
                let (r, from) = self.change(d, a, b);
                self.a.float_imm(prefix(shape), 0xc2, r, from, imm & 7);
            }
            FloatOp::FromInt(w, shape) => {
                let from = self.vector_place(b);
                let old = self.vector(a);
                let r = self.new_vector(d);
                if r != old {
                    self.a.vmove(r, old);
                }
                self.a.float_int(prefix(shape), 0x2a, w, r, from.into());
            }
            FloatOp::FromInts(shape) => {
                let from = self.vector(b);
                let r = self.new_vector(d);
                let (prefix, opcode) = if shape == Shape::D2 { (0xf3, 0xe6) } else { (0, 0x5b) };
                self.a.float(prefix, opcode, r, from);
            }
            FloatOp::Convert(to) => {
                let (r, from) = self.change(d, a, b);
                let prefix = if to == Shape::D1 { 0xf3 } else { 0xf2 };
                self.a.float(prefix, 0x5a, r, from);
            }
            FloatOp::Order(..) | FloatOp::ToInt(..) => unreachable!("their results are integers"),
        }
    }

    /// One with an integer result.
    pub(super) fn float_int(&mut self, op: FloatOp, d: Var, a: VecVar, b: VecVar) {
        self.ready();
        match op {
            FloatOp::Order(shape, quiet) => {
                let (x, y) = (self.vector(a), self.vector(b));
                let prefix = if shape == Shape::D1 { 0x66 } else { 0 };
                self.a.float(prefix, if quiet { 0x2e } else { 0x2f }, x, y);
                // AH: bit 6 equal, bit 2 not comparable, bit 0 less; the first two and the last if not comparable.
                self.a.flags_to_ah();
                self.a.shift_imm(Shift::Shr, Width::W32, RAX, 8);
                self.a.alu_imm(Alu::And, Width::W32, RAX, 0x45);
                self.put(Width::W64, d, RAX);
            }
            FloatOp::ToInt(shape, w, truncate) => {
                let from = self.vector(b);
                let r = self.target(d);
                let opcode = if truncate { 0x2c } else { 0x2d };
                self.a.float_int(prefix(shape), opcode, w, r, Rm::Reg(from));
                self.computed(d);
            }
            _ => unreachable!("their results are vectors"),
        }
    }
}
