//! System registers of EL1 and EL0 (DDI 0487, D19), and the registers of the generic timers, which a device has.

use super::exception::{Trap, class};
use super::insn::Word;
use super::isa::Env;
use super::state::{Sys, pstate, var};
use crate::frame::Var;

/// `op0`, `op1`, `CRn`, `CRm`, `op2` of a system register as one number.
pub const fn key(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// The register that an MRS or MSR names.
pub(super) const fn key_of(w: Word) -> u32 {
    2 << 14 | w.bits(5, 15)
}

macro_rules! keys {
    ($($name:ident = ($op0:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal);)*) => {
        $(const $name: u32 = key($op0, $op1, $crn, $crm, $op2);)*
    };
}

keys! {
    MIDR = (3, 0, 0, 0, 0);
    MPIDR = (3, 0, 0, 0, 5);
    REVIDR = (3, 0, 0, 0, 6);
    PFR0 = (3, 0, 0, 4, 0);
    DFR0 = (3, 0, 0, 5, 0);
    ISAR0 = (3, 0, 0, 6, 0);
    MMFR0 = (3, 0, 0, 7, 0);
    SCTLR = (3, 0, 1, 0, 0);
    ACTLR = (3, 0, 1, 0, 1);
    CPACR = (3, 0, 1, 0, 2);
    TTBR0 = (3, 0, 2, 0, 0);
    TTBR1 = (3, 0, 2, 0, 1);
    TCR = (3, 0, 2, 0, 2);
    SPSR = (3, 0, 4, 0, 0);
    ELR = (3, 0, 4, 0, 1);
    SP_EL0 = (3, 0, 4, 1, 0);
    SPSEL = (3, 0, 4, 2, 0);
    CURRENT_EL = (3, 0, 4, 2, 2);
    AFSR0 = (3, 0, 5, 1, 0);
    AFSR1 = (3, 0, 5, 1, 1);
    ESR = (3, 0, 5, 2, 0);
    FAR = (3, 0, 6, 0, 0);
    PAR = (3, 0, 7, 4, 0);
    PMINTENSET = (3, 0, 9, 14, 1);
    PMINTENCLR = (3, 0, 9, 14, 2);
    MAIR = (3, 0, 10, 2, 0);
    AMAIR = (3, 0, 10, 3, 0);
    VBAR = (3, 0, 12, 0, 0);
    RVBAR = (3, 0, 12, 0, 1);
    ISR = (3, 0, 12, 1, 0);
    CONTEXTIDR = (3, 0, 13, 0, 1);
    TPIDR_EL1 = (3, 0, 13, 0, 4);
    CNTKCTL = (3, 0, 14, 1, 0);
    CCSIDR = (3, 1, 0, 0, 0);
    CLIDR = (3, 1, 0, 0, 1);
    AIDR = (3, 1, 0, 0, 7);
    CSSELR = (3, 2, 0, 0, 0);
    CTR = (3, 3, 0, 0, 1);
    DCZID = (3, 3, 0, 0, 7);
    NZCV = (3, 3, 4, 2, 0);
    DAIF = (3, 3, 4, 2, 1);
    FPCR = (3, 3, 4, 4, 0);
    FPSR = (3, 3, 4, 4, 1);
    PMCR = (3, 3, 9, 12, 0);
    PMCNTENSET = (3, 3, 9, 12, 1);
    PMCNTENCLR = (3, 3, 9, 12, 2);
    PMOVSCLR = (3, 3, 9, 12, 3);
    PMSELR = (3, 3, 9, 12, 5);
    PMCEID0 = (3, 3, 9, 12, 6);
    PMCEID1 = (3, 3, 9, 12, 7);
    PMCCNTR = (3, 3, 9, 13, 0);
    PMUSERENR = (3, 3, 9, 14, 0);
    PMCCFILTR = (3, 3, 14, 15, 7);
    TPIDR_EL0 = (3, 3, 13, 0, 2);
    TPIDRRO_EL0 = (3, 3, 13, 0, 3);
    CNTFRQ = (3, 3, 14, 0, 0);
    CNTPCT = (3, 3, 14, 0, 1);
    CNTVCT = (3, 3, 14, 0, 2);
    CNTP_TVAL = (3, 3, 14, 2, 0);
    CNTP_CTL = (3, 3, 14, 2, 1);
    CNTP_CVAL = (3, 3, 14, 2, 2);
    CNTV_TVAL = (3, 3, 14, 3, 0);
    CNTV_CTL = (3, 3, 14, 3, 1);
    CNTV_CVAL = (3, 3, 14, 3, 2);
    MDCCINT = (2, 0, 0, 2, 0);
    MDSCR = (2, 0, 0, 2, 2);
    MDRAR = (2, 0, 1, 0, 0);
    OSLAR = (2, 0, 1, 0, 4);
    OSLSR = (2, 0, 1, 1, 4);
    OSDLR = (2, 0, 1, 3, 4);
}

/// The numbers by which a board's device is asked for the registers of the generic timers ([`key`]): `CNTFRQ_EL0`,
/// `CNTPCT_EL0`, `CNTVCT_EL0`, then `TVAL`, `CTL` and `CVAL` of the physical and of the virtual timer, `CNTKCTL_EL1`.
pub const TIMER_REGISTERS: [u32; 10] = [
    CNTFRQ, CNTPCT, CNTVCT, CNTP_TVAL, CNTP_CTL, CNTP_CVAL, CNTV_TVAL, CNTV_CTL, CNTV_CVAL, CNTKCTL,
];

/// The calls of PSCI (DEN0022) that an AArch64 CPU makes, by function number.
pub mod firmware {
    /// `PSCI_VERSION`.
    pub const VERSION: u32 = 0x8400_0000;
    /// `CPU_SUSPEND`; 64-bit calls have bit 30 set besides.
    pub const CPU_SUSPEND: u32 = 0x8400_0001;
    /// `CPU_OFF`.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// `CPU_ON`.
    pub const CPU_ON: u32 = 0x8400_0003;
    /// `AFFINITY_INFO`.
    pub const AFFINITY_INFO: u32 = 0x8400_0004;
    /// `MIGRATE_INFO_TYPE`.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// `SYSTEM_OFF`.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// `SYSTEM_RESET`.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// `PSCI_FEATURES`.
    pub const FEATURES: u32 = 0x8400_000a;
}

/// How lifted code gets at a register without ending its block.
pub(super) enum Quick {
    Variable(Var),
    Constant(u64),
    /// The helper does it; nothing else changes by it.
    Call,
}

/// See [`Quick`].
pub(super) fn quick(key: u32, user: bool, load: bool) -> Option<Quick> {
    Some(match key {
        TPIDR_EL0 => Quick::Variable(var::TPIDR_EL0),
        TPIDRRO_EL0 if load || !user => Quick::Variable(var::TPIDRRO_EL0),
        TPIDR_EL1 if !user => Quick::Variable(var::TPIDR_EL1),
        CURRENT_EL if !user && load => Quick::Constant(4),
        DCZID if load => Quick::Constant(4),
        DAIF | SP_EL0 | ELR | SPSR | ESR | FAR | MPIDR if !user && load => Quick::Call,
        NZCV | FPCR | FPSR if load => Quick::Call,
        _ => return None,
    })
}

const PMUSERENR_EN: u64 = 1;
const SCTLR_UMA: u64 = 1 << 9;
const SCTLR_UCT: u64 = 1 << 15;

fn trapped(w: Word) -> Trap {
    let iss = w.bits(19, 2) << 20
        | w.bits(5, 3) << 17
        | w.bits(16, 3) << 14
        | w.bits(12, 4) << 10
        | w.bits(0, 5) << 5
        | w.bits(8, 4) << 1
        | w.bits(21, 1);
    Trap::new(class::SYSTEM, iss.into())
}

/// Whether EL0 may use the register; the trap otherwise.
fn check_user(env: &mut Env<'_>, w: Word, key: u32) -> Result<(), Trap> {
    let s = &env.cpu.sys;
    let (sctlr, pmu) = (s.sctlr, s.pmuserenr);
    let allowed = match key {
        DAIF => sctlr & SCTLR_UMA != 0,
        CTR => sctlr & SCTLR_UCT != 0,
        PMCR..=PMCEID1 | PMCCNTR | PMCCFILTR => pmu & PMUSERENR_EN != 0,
        CNTFRQ..=CNTV_CVAL => {
            let control = env.board.msr_read(env.index, CNTKCTL).unwrap_or(0);
            let bits = match key {
                CNTFRQ => 3,
                CNTPCT => 1,
                CNTVCT => 2,
                CNTP_TVAL..=CNTP_CVAL => 1 << 9,
                _ => 1 << 8,
            };
            control & bits != 0
        }
        _ => true,
    };
    if allowed { Ok(()) } else { Err(trapped(w)) }
}

/// MPIDR_EL1 of CPU `index`.
pub const fn mpidr(index: usize) -> u64 {
    1 << 31 | (index as u64 & 7) | (index as u64 >> 3) << 8
}

/// MRS.
pub(super) fn read(env: &mut Env<'_>, w: Word) -> Result<u64, Trap> {
    let key = key_of(w);
    if env.cpu.sys.el == 0 {
        check_user(env, w, key)?;
    }
    if TIMER_REGISTERS.contains(&key) {
        env.sync_clock();
        return env.board.msr_read(env.index, key).ok_or(Trap::UNDEFINED);
    }
    let pending = u64::from(env.cpu.irq(env.board));
    let cpu = &mut *env.cpu;
    let s = &cpu.sys;
    Ok(match key {
        MIDR => cpu.model.midr,
        MPIDR => mpidr(cpu.index),
        PFR0 => 0x11,
        DFR0 => 0x1030_5106 & !0xf00,
        ISAR0 => cpu.model.isar0(),
        // 44 bits of physical address, 16-bit ASIDs, 4, 16 and 64 KiB granules.
        MMFR0 => 0x10_1124 & !0xff00 | 0x0010_0000,
        REVIDR | AIDR | RVBAR => 0,
        SCTLR => s.sctlr,
        ACTLR => s.actlr,
        CPACR => s.cpacr,
        TTBR0 => s.ttbr0,
        TTBR1 => s.ttbr1,
        TCR => s.tcr,
        SPSR => s.spsr,
        ELR => s.elr,
        SP_EL0 if s.spsel => cpu.frame.get(var::SP_EL0),
        SPSEL => s.spsel.into(),
        CURRENT_EL => u64::from(s.el) << 2,
        AFSR0 => s.afsr0,
        AFSR1 => s.afsr1,
        ESR => s.esr,
        FAR => s.far,
        PAR => s.par,
        MAIR => s.mair,
        AMAIR => s.amair,
        VBAR => s.vbar,
        ISR => pending << 7,
        CONTEXTIDR => s.contextidr,
        CSSELR => s.csselr,
        CCSIDR => match s.csselr {
            0 => cpu.model.caches[0],
            1 => cpu.model.caches[1],
            2 => cpu.model.caches[2],
            _ => 0,
        },
        CLIDR => 0x0a20_0023,
        CTR => 0x8444_c004,
        DCZID => 4,
        NZCV => cpu.nzcv(),
        DAIF => s.daif,
        FPCR => cpu.frame.get(var::FPCR),
        FPSR => cpu.frame.get(var::FPSR),
        PMCR => s.pmcr,
        PMCNTENSET | PMCNTENCLR => s.pmcnten,
        PMINTENSET | PMINTENCLR => s.pminten,
        PMSELR => s.pmselr,
        PMUSERENR => s.pmuserenr,
        PMCCFILTR => s.pmccfiltr,
        PMOVSCLR | PMCEID0 | PMCEID1 => 0,
        PMCCNTR => {
            env.sync_clock();
            env.board.now().0
        }
        MDSCR => s.mdscr,
        MDCCINT | MDRAR => 0,
        OSLSR => 8 | u64::from(s.oslock) << 1,
        OSDLR => s.osdlr,
        _ => {
            return debug(s, w).copied().ok_or(Trap::UNDEFINED).or_else(|t| id_space(key).ok_or(t));
        }
    })
}

/// The ID registers that are zero: everything in their space that is not named.
const fn id_space(k: u32) -> Option<u64> {
    if k >= key(3, 0, 0, 1, 0) && k <= key(3, 0, 0, 7, 7) { Some(0) } else { None }
}

/// Breakpoint and watchpoint registers, which hold what is written to them and stop nothing.
fn debug(s: &Sys, w: Word) -> Option<&u64> {
    let n = w.bits(8, 4) as usize;
    if key_of(w) & !0x7f != key(2, 0, 0, 0, 0) {
        return None;
    }
    match w.bits(5, 3) {
        4 => s.bvr.get(n),
        5 => s.bcr.get(n),
        6 => s.wvr.get(n),
        7 => s.wcr.get(n),
        _ => None,
    }
}

fn debug_mut(s: &mut Sys, w: Word) -> Option<&mut u64> {
    let n = w.bits(8, 4) as usize;
    if key_of(w) & !0x7f != key(2, 0, 0, 0, 0) {
        return None;
    }
    match w.bits(5, 3) {
        4 => s.bvr.get_mut(n),
        5 => s.bcr.get_mut(n),
        6 => s.wvr.get_mut(n),
        7 => s.wcr.get_mut(n),
        _ => None,
    }
}

/// MSR.
pub(super) fn write(env: &mut Env<'_>, w: Word, value: u64) -> Result<(), Trap> {
    let key = key_of(w);
    if env.cpu.sys.el == 0 {
        check_user(env, w, key)?;
    }
    if TIMER_REGISTERS.contains(&key) {
        env.sync_clock();
        let done = env.board.msr_write(env.index, key, value);
        return if done { Ok(()) } else { Err(Trap::UNDEFINED) };
    }
    let cpu = &mut *env.cpu;
    let s = &mut cpu.sys;
    match key {
        SCTLR => {
            s.sctlr = value;
            env.tlb.flush();
        }
        ACTLR => s.actlr = value,
        CPACR => s.cpacr = value & 0x30_0000,
        TTBR0 | TTBR1 => {
            let ttbr = if key == TTBR0 { &mut s.ttbr0 } else { &mut s.ttbr1 };
            let asid_from_here = (s.tcr >> 22 & 1 != 0) == (key == TTBR1);
            let old = std::mem::replace(ttbr, value);
            if old != value && (asid_from_here || (old ^ value) << 16 != 0) {
                env.tlb.flush_non_global();
            }
        }
        TCR => {
            s.tcr = value;
            env.tlb.flush();
        }
        SPSR => s.spsr = value & 0xffff_ffff,
        ELR => s.elr = value,
        SP_EL0 if s.spsel => cpu.frame.set(var::SP_EL0, value),
        SPSEL => cpu.switch(1, value & 1 != 0),
        AFSR0 => s.afsr0 = value,
        AFSR1 => s.afsr1 = value,
        ESR => s.esr = value & 0xffff_ffff,
        FAR => s.far = value,
        PAR => s.par = value,
        MAIR => s.mair = value,
        AMAIR => s.amair = value,
        VBAR => s.vbar = value & !0x7ff,
        CONTEXTIDR => s.contextidr = value & 0xffff_ffff,
        CSSELR => s.csselr = value & 15,
        NZCV => cpu.set_nzcv(value),
        DAIF => s.daif = value & (pstate::D | pstate::A | pstate::I | pstate::F),
        FPCR => cpu.frame.set(var::FPCR, value & 0x07c0_0000),
        FPSR => cpu.frame.set(var::FPSR, value & 0xf800_009f),
        PMCR => s.pmcr = s.pmcr & !0x69 | value & 0x69,
        PMCNTENSET => s.pmcnten |= value & 1 << 31,
        PMCNTENCLR => s.pmcnten &= !value,
        PMINTENSET => s.pminten |= value & 1 << 31,
        PMINTENCLR => s.pminten &= !value,
        PMSELR => s.pmselr = value & 31,
        PMUSERENR => s.pmuserenr = value & 15,
        PMCCFILTR => s.pmccfiltr = value & 0xfc00_0000,
        PMOVSCLR | PMCCNTR | MDCCINT => {}
        MDSCR => s.mdscr = value & 0xffff_ffff,
        OSLAR => s.oslock = value & 1 != 0,
        OSDLR => s.osdlr = value & 1,
        _ => *debug_mut(s, w).ok_or(Trap::UNDEFINED)? = value,
    }
    Ok(())
}
