//! The state of one CPU.

use serde::{Deserialize, Serialize};

use super::model::Model;
use crate::frame::{Frame, Var, VecVar};

/// Variables of the frame: X0 to X30 are 0 to 30, V0 to V31 the vector variables of these numbers.
pub mod var {
    use crate::frame::Var;
    /// The stack pointer in use.
    pub const SP: Var = Var(31);
    /// N is its bit 63.
    pub const N: Var = Var(32);
    /// Z is whether it is zero.
    pub const Z: Var = Var(33);
    /// C: 0 or 1.
    pub const C: Var = Var(34);
    /// V is its bit 63.
    pub const V: Var = Var(35);
    /// `TPIDR_EL0`.
    pub const TPIDR_EL0: Var = Var(36);
    /// `TPIDRRO_EL0`.
    pub const TPIDRRO_EL0: Var = Var(37);
    /// `TPIDR_EL1`.
    pub const TPIDR_EL1: Var = Var(38);
    /// `SP_EL0` while another stack pointer is in use.
    pub const SP_EL0: Var = Var(39);
    /// `SP_EL1` while another stack pointer is in use.
    pub const SP_EL1: Var = Var(40);
    /// Address that the exclusive monitor watches.
    pub const EX_ADDRESS: Var = Var(41);
    /// What was read from there.
    pub const EX_VALUE: Var = Var(42);
    /// The second register of a pair.
    pub const EX_VALUE2: Var = Var(43);
    /// Bytes that the monitor watches; 0: it is open.
    pub const EX_SIZE: Var = Var(44);
    /// `FPCR`. Only helpers write it.
    pub const FPCR: Var = Var(45);
    /// `FPSR`. Only helpers write it.
    pub const FPSR: Var = Var(46);
}

/// Bits of PSTATE as SPSR has them.
pub mod pstate {
    /// Negative.
    pub const N: u64 = 1 << 31;
    /// Zero.
    pub const Z: u64 = 1 << 30;
    /// Carry.
    pub const C: u64 = 1 << 29;
    /// Overflow.
    pub const V: u64 = 1 << 28;
    /// Software step.
    pub const SS: u64 = 1 << 21;
    /// Illegal execution state.
    pub const IL: u64 = 1 << 20;
    /// Debug mask.
    pub const D: u64 = 1 << 9;
    /// SError mask.
    pub const A: u64 = 1 << 8;
    /// IRQ mask.
    pub const I: u64 = 1 << 7;
    /// FIQ mask.
    pub const F: u64 = 1 << 6;
}

/// Bits of a block key.
pub mod key {
    /// At EL1.
    pub const EL1: u64 = 1;
    /// Floating point and SIMD do not trap.
    pub const FP: u64 = 2;
}

/// Whether a CPU runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// It executes instructions.
    #[default]
    Running,
    /// WFI: until an interrupt.
    Waiting,
    /// PSCI has it off.
    Off,
}

/// System registers and what else only helpers touch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in the manual")]
pub struct Sys {
    pub sctlr: u64,
    pub actlr: u64,
    pub cpacr: u64,
    pub ttbr0: u64,
    pub ttbr1: u64,
    pub tcr: u64,
    pub mair: u64,
    pub amair: u64,
    pub esr: u64,
    pub far: u64,
    pub afsr0: u64,
    pub afsr1: u64,
    pub elr: u64,
    pub spsr: u64,
    pub vbar: u64,
    pub par: u64,
    pub contextidr: u64,
    pub csselr: u64,
    pub mdscr: u64,
    pub osdlr: u64,
    pub oslock: bool,
    pub pmcr: u64,
    pub pmuserenr: u64,
    pub pmcnten: u64,
    pub pminten: u64,
    pub pmselr: u64,
    pub pmccfiltr: u64,
    pub bvr: [u64; 6],
    pub bcr: [u64; 6],
    pub wvr: [u64; 4],
    pub wcr: [u64; 4],
    /// DAIF in their places of [`pstate`].
    pub daif: u64,
    /// 0 or 1.
    pub el: u8,
    /// EL1 uses `SP_EL1`.
    pub spsel: bool,
    /// The event register (SEV, WFE).
    pub event: bool,
    pub activity: Activity,
    /// WFE or YIELD: gives its turn to another CPU.
    pub yielding: bool,
    /// An address with a tag was translated: invalidations by address must find it under any tag.
    pub tagged: bool,
}

/// One CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AArch64 {
    pub(crate) frame: Frame,
    /// Program counter.
    pub pc: u64,
    /// Its number.
    pub index: usize,
    /// System registers.
    pub sys: Sys,
    /// What it is.
    pub model: Model,
}

impl orrery_system::State for AArch64 {
    const KIND: &'static str = "aarch64";
    const VERSION: u16 = 1;
}

/// SCTLR_EL1 after reset: its bits that are one.
const SCTLR_RESET: u64 = 0x00c5_0838;

impl AArch64 {
    /// A CPU of this model before its reset.
    pub fn new(model: Model, index: usize) -> Self {
        let mut cpu = Self { frame: Frame::new(), pc: 0, index, sys: Sys::default(), model };
        cpu.reset();
        cpu
    }

    /// Puts it in its power-on state: CPU 0 starts at address 0 at EL1, the others wait for PSCI.
    pub fn reset(&mut self) {
        self.frame = Frame::new();
        self.pc = 0;
        let activity = if self.index == 0 { Activity::Running } else { Activity::Off };
        self.sys = Sys {
            sctlr: SCTLR_RESET,
            daif: pstate::D | pstate::A | pstate::I | pstate::F,
            el: 1,
            spsel: true,
            activity,
            pmcr: 0x4100_3000,
            ..Sys::default()
        };
        self.frame.set(var::Z, 1);
    }

    /// Register `n`, 31 the stack pointer.
    pub const fn x(&self, n: u8) -> u64 {
        self.frame.get(Var(n))
    }

    /// Sets register `n`, 31 the stack pointer.
    pub const fn set_x(&mut self, n: u8, value: u64) {
        self.frame.set(Var(n), value);
    }

    /// Vector register `n`.
    pub const fn v(&self, n: u8) -> u128 {
        self.frame.vget(VecVar(n))
    }

    /// Sets vector register `n`.
    pub const fn set_v(&mut self, n: u8, value: u128) {
        self.frame.vset(VecVar(n), value);
    }

    /// The condition flags in their places of [`pstate`].
    pub const fn nzcv(&self) -> u64 {
        let f = &self.frame;
        (f.get(var::N) >> 63) << 31
            | ((f.get(var::Z) == 0) as u64) << 30
            | (f.get(var::C) & 1) << 29
            | (f.get(var::V) >> 63) << 28
    }

    /// Sets the condition flags.
    pub const fn set_nzcv(&mut self, p: u64) {
        let f = &mut self.frame;
        f.set(var::N, if p & pstate::N != 0 { 1 << 63 } else { 0 });
        f.set(var::Z, (p & pstate::Z == 0) as u64);
        f.set(var::C, (p & pstate::C != 0) as u64);
        f.set(var::V, if p & pstate::V != 0 { 1 << 63 } else { 0 });
    }

    /// PSTATE as an exception saves it.
    pub const fn pstate(&self) -> u64 {
        let mode = (self.sys.el as u64) << 2 | (self.sys.spsel && self.sys.el == 1) as u64;
        self.nzcv() | self.sys.daif | mode
    }

    const fn bank(&self) -> Var {
        if self.sys.el == 1 && self.sys.spsel { var::SP_EL1 } else { var::SP_EL0 }
    }

    /// Goes to another exception level or stack pointer.
    pub const fn switch(&mut self, el: u8, spsel: bool) {
        let old = self.bank();
        let sp = self.frame.get(var::SP);
        self.frame.set(old, sp);
        self.sys.el = el;
        self.sys.spsel = spsel;
        let new = self.bank();
        let sp = self.frame.get(new);
        self.frame.set(var::SP, sp);
    }

    /// What translations depend on, see [`key`].
    pub const fn mode_key(&self) -> u64 {
        let fpen = self.sys.cpacr >> 20 & 3;
        let fp = fpen == 3 || fpen == 1 && self.sys.el == 1;
        (self.sys.el as u64 & key::EL1) | if fp { key::FP } else { 0 }
    }

    /// Whether an interrupt line that is high wakes it from WFI.
    pub fn irq(&self, board: &orrery_system::Board) -> bool {
        board.pins(self.index).intr.level()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_has_a_stack_pointer_of_its_own() {
        let mut cpu = AArch64::new(Model::default(), 0);
        cpu.set_x(31, 0x1000);
        cpu.switch(0, true);
        cpu.set_x(31, 0x2000);
        cpu.switch(1, true);
        assert_eq!((cpu.x(31), cpu.frame.get(var::SP_EL0)), (0x1000, 0x2000));
        cpu.switch(1, false);
        assert_eq!(cpu.x(31), 0x2000);
    }

    #[test]
    fn flags_are_what_they_were_set_to() {
        let mut cpu = AArch64::new(Model::default(), 0);
        for bits in 0..16_u64 {
            cpu.set_nzcv(bits << 28);
            assert_eq!(cpu.nzcv(), bits << 28);
        }
    }
}
