//! The x87 floating-point unit (SDM vol. 1, chapter 8).
//!
//! [`X87`] is the architectural state; [`X87::op`] executes every instruction but the ones that
//! move the environment, which have methods of their own in `image`. The caller checks CR0.EM,
//! CR0.TS and memory, and keeps FOP, FIP and FDP by [`X87::note`].

mod arith;
mod exec;
mod image;
mod op;
mod transcendental;

pub use image::Layout;
pub use op::{Memory, X87Op, decode};

use serde::{Deserialize, Serialize};

use crate::float::{Env, F80, Flags, NanRule, Rounding};

/// Status word: a stack fault (with IE).
pub const STATUS_SF: u16 = 1 << 6;
/// Status word: an unmasked exception is pending.
pub const STATUS_ES: u16 = 1 << 7;
/// Status word: condition code 0.
pub const STATUS_C0: u16 = 1 << 8;
/// Status word: condition code 1.
pub const STATUS_C1: u16 = 1 << 9;
/// Status word: condition code 2.
pub const STATUS_C2: u16 = 1 << 10;
/// Status word: condition code 3.
pub const STATUS_C3: u16 = 1 << 14;
/// Status word: busy, a copy of ES.
pub const STATUS_B: u16 = 1 << 15;

/// An unmasked exception is pending: the waiting instruction did not execute. With CR0.NE the
/// caller raises #MF, without it FERR# (IRQ 13) unless IGNNE# is asserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingException;

/// What an instruction did outside of the x87 state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing (for a store: an unmasked exception prevented it, memory stays).
    None,
    /// Write these bytes to the memory operand (for FNSTSW AX: to AX).
    Store(u128),
    /// Set ZF, PF and CF (EFLAGS bits 6, 2, 0) to this and clear OF, SF, AF.
    Flags(u32),
}

/// The state of an x87 unit, MMX registers included (they are the significands).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct X87 {
    /// R0-R7, by physical number.
    pub regs: [F80; 8],
    /// Control word.
    pub control: u16,
    /// Status word without TOP, which is apart.
    pub status: u16,
    /// Top of stack, 0-7.
    pub top: u8,
    /// Physical registers that hold something, a bit each (the abridged tag of FXSAVE).
    pub valid: u8,
    /// Opcode of the last non-control instruction, 11 bits.
    pub fop: u16,
    /// Its code segment.
    pub fcs: u16,
    /// Its instruction pointer.
    pub fip: u64,
    /// Segment of its memory operand.
    pub fds: u16,
    /// Offset of its memory operand.
    pub fdp: u64,
}

impl Default for X87 {
    fn default() -> Self {
        Self::new()
    }
}

impl X87 {
    /// As RESET leaves it: control word 0x40, all registers plus zero and valid (SDM vol. 3,
    /// table 10-1).
    #[must_use]
    pub const fn new() -> Self {
        Self {
            regs: [F80::ZERO; 8],
            control: 0x40,
            status: 0,
            top: 0,
            valid: 0xFF,
            fop: 0,
            fcs: 0,
            fip: 0,
            fds: 0,
            fdp: 0,
        }
    }

    /// FNINIT: control word 0x37F, everything empty, the register contents stay.
    pub fn init(&mut self) {
        *self = Self { regs: self.regs, control: 0x37F, valid: 0, ..Self::new() };
    }

    /// The status word as FNSTSW shows it.
    #[must_use]
    pub fn status_word(&self) -> u16 {
        self.status | u16::from(self.top & 7) << 11
    }

    /// Loads the status word; ES and B follow the exceptions and their masks.
    pub fn set_status_word(&mut self, value: u16) {
        self.top = (value >> 11 & 7) as u8;
        self.status = value & !0xB880;
        self.update_summary();
    }

    /// Loads the control word; the reserved bits read 0, bit 6 reads 1.
    pub fn set_control_word(&mut self, value: u16) {
        self.control = value & 0x1F3F | 0x40;
        self.update_summary();
    }

    /// Whether an unmasked exception is pending.
    #[must_use]
    pub const fn pending(&self) -> bool {
        self.status & STATUS_ES != 0
    }

    /// Records where a non-control instruction was: `fop` is the low 3 bits of the opcode over
    /// the ModRM byte, `data` the segment and offset of the memory operand if it has one.
    pub fn note(&mut self, fop: u16, fcs: u16, fip: u64, data: Option<(u16, u64)>) {
        self.fop = fop & 0x7FF;
        self.fcs = fcs;
        self.fip = fip;
        if let Some((fds, fdp)) = data {
            self.fds = fds;
            self.fdp = fdp;
        }
    }

    /// MMX register `i`.
    #[must_use]
    pub fn mmx(&self, i: u8) -> u64 {
        self.regs[usize::from(i & 7)].sig
    }

    /// Writes MMX register `i`: sign and exponent become ones.
    pub fn set_mmx(&mut self, i: u8, value: u64) {
        self.regs[usize::from(i & 7)] = F80 { head: 0xFFFF, sig: value };
    }

    /// What every MMX instruction but EMMS does: TOP = 0, all registers valid.
    pub fn enter_mmx(&mut self) {
        self.top = 0;
        self.valid = 0xFF;
    }

    /// EMMS: all registers empty.
    pub fn emms(&mut self) {
        self.valid = 0;
        self.top = 0;
    }

    /// Physical number of ST(i).
    fn phys(&self, i: u8) -> usize {
        usize::from((self.top + i) & 7)
    }

    /// Whether ST(i) is empty.
    fn is_empty(&self, i: u8) -> bool {
        self.valid >> self.phys(i) & 1 == 0
    }

    /// ST(i), whatever its tag.
    #[must_use]
    pub fn st(&self, i: u8) -> F80 {
        self.regs[self.phys(i)]
    }

    /// Writes ST(i) and marks it valid.
    fn set_st(&mut self, i: u8, value: F80) {
        let r = self.phys(i);
        self.regs[r] = value;
        self.valid |= 1 << r;
    }

    /// Empties ST(0) and increments TOP.
    fn pop(&mut self) {
        self.valid &= !(1 << self.phys(0));
        self.top = (self.top + 1) & 7;
    }

    /// Decrements TOP and writes the new ST(0).
    fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    /// The arithmetic environment of the control word.
    fn env(&self) -> Env {
        Env {
            rounding: Rounding::from_bits(u32::from(self.control >> 10)),
            precision: match self.control >> 8 & 3 {
                0 => 24,
                2 => 53,
                _ => 64,
            },
            nan: NanRule::Larger,
            masked: Flags((self.control & 63) as u8),
            ..Env::extended()
        }
    }

    /// The exceptions that are not masked.
    fn unmasked(&self) -> Flags {
        Flags(!self.control as u8 & 63)
    }

    /// ES and B from the exceptions and their masks.
    fn update_summary(&mut self) {
        if self.status & !self.control & 63 != 0 {
            self.status |= STATUS_ES | STATUS_B;
        } else {
            self.status &= !(STATUS_ES | STATUS_B);
        }
    }

    /// Adds exceptions to the status word.
    fn raise(&mut self, flags: Flags) {
        self.status |= u16::from(flags.0);
        self.update_summary();
    }

    /// Sets or clears condition code 1.
    fn set_c1(&mut self, on: bool) {
        self.status = self.status & !STATUS_C1 | if on { STATUS_C1 } else { 0 };
    }
}
