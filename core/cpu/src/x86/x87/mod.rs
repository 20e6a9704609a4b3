//! The x87 floating-point unit (SDM vol. 1, chapter 8).
//!
//! [`X87`] is the architectural state; [`X87::op`] executes every instruction but the ones that
//! move the environment, which have methods of their own in `image`. The caller checks CR0.EM,
//! CR0.TS and memory, and keeps FOP, FIP and FDP by [`X87::note`].

mod arith;
mod exec;
mod image;
mod op;
pub(crate) mod quick;
pub(crate) mod stacked;
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_MASKED: u16 = 0x37F;

    fn ready() -> X87 {
        let mut fpu = X87::new();
        fpu.init();
        fpu
    }

    fn run(fpu: &mut X87, op: X87Op, i: u8, operand: u128) -> Effect {
        fpu.op(op, i, operand).expect("nothing is pending")
    }

    fn m64(value: f64) -> u128 {
        value.to_bits().into()
    }

    fn store(fpu: &mut X87) -> f64 {
        match run(fpu, X87Op::FstpM64, 0, 0) {
            Effect::Store(bits) => f64::from_bits(bits as u64),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arithmetic_pops_and_leaves_the_result() {
        let mut fpu = ready();
        run(&mut fpu, X87Op::FldM64, 0, m64(10.0));
        run(&mut fpu, X87Op::FldM64, 0, m64(4.0));
        run(&mut fpu, X87Op::FdivP, 1, 0);
        assert_eq!(store(&mut fpu), 2.5);
        assert_eq!(fpu.valid, 0);
        assert_eq!(fpu.top, 0);
    }

    #[test]
    fn the_ninth_push_overflows_the_stack() {
        let mut fpu = ready();
        for _ in 0..8 {
            run(&mut fpu, X87Op::Fld1, 0, 0);
        }
        assert_eq!(fpu.status & (STATUS_SF | 1), 0);
        run(&mut fpu, X87Op::Fldz, 0, 0);
        assert_eq!(fpu.status & (STATUS_SF | STATUS_C1 | 1), STATUS_SF | STATUS_C1 | 1);
        assert_eq!(fpu.st(0), F80::INDEFINITE);
    }

    #[test]
    fn an_empty_register_underflows_the_stack() {
        let mut fpu = ready();
        let effect = run(&mut fpu, X87Op::FistpI32, 0, 0);
        assert_eq!(effect, Effect::Store(0x8000_0000));
        assert_eq!(fpu.status & (STATUS_SF | STATUS_C1 | 1), STATUS_SF | 1);
    }

    #[test]
    fn an_unmasked_exception_waits_for_the_next_waiting_instruction() {
        let mut fpu = ready();
        fpu.set_control_word(ALL_MASKED & !4);
        run(&mut fpu, X87Op::Fld1, 0, 0);
        run(&mut fpu, X87Op::FdivM64, 0, m64(0.0));
        assert_eq!(fpu.st(0), F80::ONE);
        assert_eq!(fpu.status & (STATUS_ES | STATUS_B | 4), STATUS_ES | STATUS_B | 4);
        assert_eq!(fpu.op(X87Op::Fwait, 0, 0), Err(PendingException));
        assert_eq!(fpu.op(X87Op::Fld1, 0, 0), Err(PendingException));
        let status = run(&mut fpu, X87Op::FnstswAx, 0, 0);
        assert_eq!(status, Effect::Store(fpu.status_word().into()));
        run(&mut fpu, X87Op::Fnclex, 0, 0);
        assert_eq!(fpu.op(X87Op::Fwait, 0, 0), Ok(Effect::None));
    }

    #[test]
    fn masking_a_pending_exception_withdraws_it() {
        let mut fpu = ready();
        fpu.set_control_word(ALL_MASKED & !1);
        run(&mut fpu, X87Op::Fabs, 0, 0);
        assert!(fpu.pending());
        fpu.set_control_word(ALL_MASKED);
        assert!(!fpu.pending());
        fpu.set_control_word(ALL_MASKED & !1);
        assert!(fpu.pending());
    }

    #[test]
    fn mmx_registers_are_the_significands() {
        let mut fpu = ready();
        run(&mut fpu, X87Op::Fld1, 0, 0);
        assert_eq!(fpu.mmx(7), 1 << 63);
        fpu.enter_mmx();
        fpu.set_mmx(2, 0x1122_3344);
        assert_eq!((fpu.top, fpu.valid), (0, 0xFF));
        assert_eq!(fpu.st(2), F80 { head: 0xFFFF, sig: 0x1122_3344 });
        fpu.emms();
        assert_eq!(fpu.valid, 0);
    }

    #[test]
    fn constants_follow_the_rounding() {
        let mut fpu = ready();
        run(&mut fpu, X87Op::Fldpi, 0, 0);
        assert_eq!(fpu.st(0).sig, 0xC90F_DAA2_2168_C235);
        fpu.set_control_word(ALL_MASKED | 3 << 10);
        run(&mut fpu, X87Op::Fldpi, 0, 0);
        assert_eq!(fpu.st(0).sig, 0xC90F_DAA2_2168_C234);
    }

    #[test]
    fn elementary_functions_meet_known_values() {
        let mut fpu = ready();
        run(&mut fpu, X87Op::Fldln2, 0, 0);
        run(&mut fpu, X87Op::FldM64, 0, m64(10.0));
        run(&mut fpu, X87Op::Fyl2x, 0, 0);
        assert_eq!(store(&mut fpu), core::f64::consts::LN_10);
        run(&mut fpu, X87Op::FldM64, 0, m64(0.5));
        run(&mut fpu, X87Op::F2xm1, 0, 0);
        assert_eq!(store(&mut fpu), 0.414_213_562_373_095_05);
        run(&mut fpu, X87Op::FldM64, 0, m64(1.0));
        run(&mut fpu, X87Op::FldM64, 0, m64(1.0));
        run(&mut fpu, X87Op::Fpatan, 0, 0);
        assert_eq!(store(&mut fpu), core::f64::consts::FRAC_PI_4);
        run(&mut fpu, X87Op::FldM64, 0, m64(core::f64::consts::FRAC_PI_6));
        run(&mut fpu, X87Op::Fsin, 0, 0);
        assert!((store(&mut fpu) - 0.5).abs() < 1e-15);
        run(&mut fpu, X87Op::FldM64, 0, m64(1e19));
        run(&mut fpu, X87Op::Fcos, 0, 0);
        assert_eq!(fpu.status & STATUS_C2, STATUS_C2);
        assert_eq!(store(&mut fpu), 1e19);
    }
}
