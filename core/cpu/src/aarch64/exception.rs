//! Exceptions (DDI 0487, D1.3): syndromes, entry and return.

use super::state::{AArch64, pstate, var};

/// Exception classes of ESR.
pub mod class {
    /// Undefined instruction.
    pub const UNKNOWN: u64 = 0x00;
    /// Trapped WFI or WFE.
    pub const WFX: u64 = 0x01;
    /// Trapped floating point or SIMD.
    pub const FP: u64 = 0x07;
    /// SVC.
    pub const SVC: u64 = 0x15;
    /// Trapped MSR, MRS or system instruction.
    pub const SYSTEM: u64 = 0x18;
    /// Instruction abort from a lower level; one more from the same.
    pub const FETCH: u64 = 0x20;
    /// Misaligned PC.
    pub const PC_ALIGN: u64 = 0x22;
    /// Data abort from a lower level; one more from the same.
    pub const DATA: u64 = 0x24;
    /// BRK.
    pub const BRK: u64 = 0x3c;
    /// Illegal execution state.
    pub const ILLEGAL: u64 = 0x0e;
}

/// An exception on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1, for aborts.
    pub far: Option<u64>,
    /// The instruction is done: return behind it.
    pub done: bool,
}

const IL: u64 = 1 << 25;

impl Trap {
    /// An exception of this class and syndrome.
    pub const fn new(class: u64, iss: u64) -> Self {
        Self { esr: class << 26 | IL | iss, far: None, done: false }
    }

    /// Undefined instruction.
    pub const UNDEFINED: Self = Self::new(class::UNKNOWN, 0);

    /// A data or instruction abort.
    pub const fn abort(fetch: bool, write: bool, status: u64, far: u64, el: u8) -> Self {
        let class = if fetch { class::FETCH } else { class::DATA } + el as u64;
        let iss = if write { 1 << 6 } else { 0 } | status;
        Self { far: Some(far), ..Self::new(class, iss) }
    }
}

/// Places in the vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Sync = 0,
    Irq = 0x80,
}

impl AArch64 {
    /// Takes an exception to EL1, to return to `pc`.
    pub(super) fn enter(&mut self, entry: Entry, pc: u64) {
        let s = &self.sys;
        let from = match (s.el, s.spsel) {
            (0, _) => 0x400,
            (_, true) => 0x200,
            (_, false) => 0,
        };
        self.sys.spsr = self.pstate();
        self.sys.elr = pc;
        self.sys.daif = pstate::D | pstate::A | pstate::I | pstate::F;
        self.switch(1, true);
        self.pc = (self.sys.vbar & !0x7ff) + from + entry as u64;
    }

    /// Enters the handler of `trap`.
    pub(super) fn deliver(&mut self, trap: Trap) {
        self.sys.esr = trap.esr;
        if let Some(far) = trap.far {
            self.sys.far = far;
        }
        let pc = self.pc.wrapping_add(if trap.done { 4 } else { 0 });
        self.frame.set(var::EX_SIZE, 0);
        self.enter(Entry::Sync, pc);
    }

    /// ERET. An SPSR that is not one of AArch64 at EL1 or EL0 gives an illegal state exception at its target, which
    /// is taken at once.
    pub(super) fn eret(&mut self) {
        let (spsr, elr) = (self.sys.spsr, self.sys.elr);
        self.frame.set(var::EX_SIZE, 0);
        self.sys.event = true;
        self.pc = elr;
        match spsr & 0x1f {
            0 => self.switch(0, true),
            4 => self.switch(1, false),
            5 => self.switch(1, true),
            _ => {
                self.set_nzcv(spsr);
                self.deliver(Trap::new(class::ILLEGAL, 0));
                self.sys.spsr |= pstate::IL;
                return;
            }
        }
        self.set_nzcv(spsr);
        self.sys.daif = spsr & (pstate::D | pstate::A | pstate::I | pstate::F);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::Model;

    #[test]
    fn an_exception_from_el0_comes_back_by_eret() {
        let mut cpu = AArch64::new(Model::default(), 0);
        cpu.sys.vbar = 0x8000;
        cpu.sys.elr = 0x40_0000;
        cpu.sys.spsr = pstate::Z;
        cpu.eret();
        assert_eq!((cpu.pc, cpu.sys.el, cpu.nzcv()), (0x40_0000, 0, pstate::Z));
        cpu.deliver(Trap { done: true, ..Trap::new(class::SVC, 7) });
        assert_eq!((cpu.pc, cpu.sys.el, cpu.sys.elr), (0x8400, 1, 0x40_0004));
        assert_eq!(cpu.sys.esr, 0x5600_0007);
        assert_eq!(cpu.sys.spsr, pstate::Z);
        cpu.deliver(Trap::UNDEFINED);
        assert_eq!(cpu.pc, 0x8200);
    }

    #[test]
    fn returning_to_a_state_that_is_none_is_an_exception() {
        let mut cpu = AArch64::new(Model::default(), 0);
        cpu.sys.spsr = 0x10;
        cpu.eret();
        assert_eq!(cpu.sys.esr >> 26, class::ILLEGAL);
    }
}
