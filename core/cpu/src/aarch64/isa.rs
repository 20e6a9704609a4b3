//! AArch64 as an instruction set of the engine.

use orrery_system::board::Board;
use orrery_system::device::FirmwareAnswer;

use super::exception::{Entry, Trap, class};
use super::insn::{Insn, Word};
use super::lift;
use super::mmu::{PRIVILEGED, USER};
use super::state::{AArch64, Activity, key, pstate, var};
use super::{crypto, simd, sysreg};
use crate::frame::Frame;
use crate::ir::Builder;
use crate::isa::{Access, CodeWindow, Isa, Lift, Mapping, Poll};

/// The instruction set.
#[derive(Clone, Copy, Debug)]
pub struct AArch64Isa;

pub(super) type Env<'a> = crate::env::Env<'a, AArch64Isa>;

/// What [`crate::ir::Op::Trap`] names.
pub(super) mod trap_id {
    /// An exception with this ESR, at the instruction.
    pub(in crate::aarch64) const RAISE: u16 = 0;
    /// The same, behind it.
    pub(in crate::aarch64) const DONE: u16 = 1;
}

/// Pure functions.
pub(super) mod pure {
    /// `(crc, data, size | castagnoli << 2)`.
    pub(in crate::aarch64) const CRC32: u16 = 0;
    /// `(x, bits)`.
    pub(in crate::aarch64) const RBIT: u16 = 1;
    /// `(x, mask)`.
    pub(in crate::aarch64) const REV16: u16 = 2;
    /// `(x)`.
    pub(in crate::aarch64) const REV32: u16 = 3;
}

/// Helper functions; the discriminant is the number in the IR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Helper {
    /// `(word) -> value` MRS.
    Mrs,
    /// `(word, value)` MSR.
    Msr,
    /// `(value)` MSR SPSel.
    SetSpSel,
    /// `(mask)` MSR DAIFSet.
    DaifSet,
    /// `(mask)` MSR DAIFClr.
    DaifClear,
    /// `() -> pc` ERET.
    Eret,
    /// `(next) -> next` HVC and SMC.
    Firmware,
    /// `(next) -> next` WFI.
    Wfi,
    /// WFE.
    Wfe,
    /// SEV.
    Sev,
    /// YIELD.
    Yield,
    /// `(everywhere)` TLBI of everything.
    TlbiAll,
    /// `(page, everywhere)` TLBI by address.
    TlbiPage,
    /// `(address, op2)` AT.
    Translate,
    /// `(word, row)` Floating point and SIMD.
    Simd,
}

const HELPERS: [Helper; 15] = [
    Helper::Mrs,
    Helper::Msr,
    Helper::SetSpSel,
    Helper::DaifSet,
    Helper::DaifClear,
    Helper::Eret,
    Helper::Firmware,
    Helper::Wfi,
    Helper::Wfe,
    Helper::Sev,
    Helper::Yield,
    Helper::TlbiAll,
    Helper::TlbiPage,
    Helper::Translate,
    Helper::Simd,
];

const SCTLR_UMA: u64 = 1 << 9;

impl Isa for AArch64Isa {
    type Cpu = AArch64;
    type Trap = Trap;
    const MAX_INSN: usize = 4;

    fn reset(cpu: &mut AArch64, index: usize) {
        cpu.index = index;
        cpu.reset();
    }

    fn dump(cpu: &AArch64) -> String {
        cpu.dump()
    }

    fn frame(cpu: &AArch64) -> &Frame {
        &cpu.frame
    }

    fn frame_mut(cpu: &mut AArch64) -> &mut Frame {
        &mut cpu.frame
    }

    fn pc(cpu: &AArch64) -> u64 {
        cpu.pc
    }

    fn set_pc(cpu: &mut AArch64, pc: u64) {
        cpu.pc = pc;
    }

    fn block_key(cpu: &AArch64) -> u64 {
        cpu.mode_key()
    }

    fn fetch_mmu(mode: u64) -> u8 {
        if mode & key::EL1 != 0 { PRIVILEGED } else { USER }
    }

    fn data_mmu(mode: u64) -> u8 {
        Self::fetch_mmu(mode)
    }

    fn code_window(cpu: &AArch64, pc: u64) -> Result<CodeWindow, Trap> {
        if pc & 3 != 0 {
            return Err(Trap { far: Some(pc), ..Trap::new(class::PC_ALIGN, 0) });
        }
        let mmu = if cpu.sys.el == 0 { USER } else { PRIVILEGED };
        Ok(CodeWindow { linear: cpu.untagged(pc), len: u64::MAX, mmu })
    }

    fn lift(cpu: &AArch64, mode: u64, pc: u64, code: &[u8], b: &mut Builder) -> Lift {
        let Some(word) = code.first_chunk() else { return Lift::Short };
        lift::lift(cpu.model.features, mode, pc, u32::from_le_bytes(*word), b)
    }

    fn walk(
        cpu: &mut AArch64,
        board: &mut Board,
        linear: u64,
        access: Access,
        mmu: u8,
    ) -> Result<Mapping, Trap> {
        cpu.walk(board, linear, access, mmu)
    }

    fn linear_mask(_: &AArch64) -> u64 {
        u64::MAX
    }

    fn helper(f: u16, env: &mut Env<'_>, args: &[u64; 6]) -> Result<u64, Trap> {
        let [a, b, ..] = *args;
        match HELPERS[usize::from(f) % HELPERS.len()] {
            Helper::Mrs => return sysreg::read(env, Word(a as u32)),
            Helper::Msr => sysreg::write(env, Word(a as u32), b)?,
            Helper::SetSpSel => env.cpu.switch(1, a & 1 != 0),
            Helper::DaifSet => {
                check_daif(env.cpu)?;
                env.cpu.sys.daif |= (a & 15) << 6;
            }
            Helper::DaifClear => {
                check_daif(env.cpu)?;
                env.cpu.sys.daif &= !((a & 15) << 6);
            }
            Helper::Eret => {
                env.cpu.eret();
                return Ok(env.cpu.pc);
            }
            Helper::Firmware => {
                firmware(env);
                return Ok(a);
            }
            Helper::Wfi => {
                // At EL0 as if it were trapped and emulated: another CPU gets the turn.
                if env.cpu.sys.el == 0 {
                    env.cpu.sys.yielding = true;
                } else {
                    env.cpu.sys.activity = Activity::Waiting;
                }
                return Ok(a);
            }
            Helper::Wfe => {
                let event = std::mem::take(&mut env.cpu.sys.event);
                env.cpu.sys.yielding = !event && env.board.cpus() > 1;
            }
            Helper::Sev => env.cpu.sys.event = true,
            Helper::Yield => env.cpu.sys.yielding = env.board.cpus() > 1,
            Helper::TlbiAll => {
                env.flush();
                broadcast(env, a != 0);
            }
            Helper::TlbiPage => {
                if env.cpu.sys.tagged {
                    env.flush();
                } else {
                    env.flush_page((((a << 20) as i64) >> 8) as u64);
                }
                broadcast(env, b != 0);
            }
            Helper::Translate => {
                let access = if b & 1 != 0 { Access::Write } else { Access::Read };
                let mmu = if b & 2 != 0 { USER } else { PRIVILEGED };
                env.cpu.sys.par = env.cpu.par(env.board, a, access, mmu);
            }
            Helper::Simd => {
                let insn = Insn::ALL[b as usize % Insn::ALL.len()];
                return simd::execute(env.cpu, insn, Word(a as u32))
                    .ok_or(Trap::UNDEFINED)
                    .map(|()| 0);
            }
        }
        Ok(0)
    }

    fn pure(f: u16, args: &[u64; 6]) -> u64 {
        let [a, b, c, ..] = *args;
        match f {
            pure::CRC32 => crypto::crc32(a as u32, b, c as u32).into(),
            pure::RBIT if b == 32 => (a as u32).reverse_bits().into(),
            pure::RBIT => a.reverse_bits(),
            pure::REV16 => ((a & 0x00ff_00ff_00ff_00ff) << 8 | a >> 8 & 0x00ff_00ff_00ff_00ff) & b,
            _ => a.swap_bytes().rotate_left(32),
        }
    }

    fn vec_op(_: u16, a: u128, b: u128, _: u8) -> u128 {
        a ^ b
    }

    fn trap(id: u16, arg: u64) -> Trap {
        Trap { esr: arg, far: None, done: id == trap_id::DONE }
    }

    fn deliver(env: &mut Env<'_>, trap: Trap) {
        env.cpu.deliver(trap);
    }

    fn poll(env: &mut Env<'_>) -> Poll {
        let cpu = &mut *env.cpu;
        let pins = env.board.pins(env.index);
        if pins.shootdown.take_edge() {
            env.tlb.flush();
        }
        if cpu.sys.activity == Activity::Off {
            if !pins.sipi.is_pending() || pins.sipi.take().is_none() {
                return Poll::Halted;
            }
            let Some([entry, context]) = env.board.take_start(env.index) else {
                return Poll::Halted;
            };
            cpu.reset();
            cpu.sys.activity = Activity::Running;
            cpu.pc = entry;
            cpu.set_x(0, context);
            env.tlb.flush();
            return Poll::Run;
        }
        if std::mem::take(&mut cpu.sys.yielding) {
            return Poll::Yield;
        }
        let irq = pins.intr.level();
        if irq {
            cpu.sys.activity = Activity::Running;
        }
        if cpu.sys.activity == Activity::Waiting {
            return Poll::Halted;
        }
        if irq && cpu.sys.daif & pstate::I == 0 {
            let pc = cpu.pc;
            cpu.frame.set(var::EX_SIZE, 0);
            cpu.enter(Entry::Irq, pc);
        }
        Poll::Run
    }

    fn is_quiet(cpu: &mut AArch64, index: usize, board: &Board) -> bool {
        let pins = board.pins(index);
        let s = &cpu.sys;
        !pins.shootdown.has_edge()
            && s.activity == Activity::Running
            && !s.yielding
            && (s.daif & pstate::I != 0 || !pins.intr.level())
    }
}

fn check_daif(cpu: &AArch64) -> Result<(), Trap> {
    let allowed = cpu.sys.el == 1 || cpu.sys.sctlr & SCTLR_UMA != 0;
    if allowed { Ok(()) } else { Err(Trap::UNDEFINED) }
}

/// Tells the other CPUs, which run after this one's turn, to forget their translations.
fn broadcast(env: &mut Env<'_>, everywhere: bool) {
    if everywhere {
        let others = (0..env.board.cpus()).filter(|&i| i != env.index);
        others.for_each(|i| env.board.pins(i).shootdown.set_edge(true));
    }
}

/// A call of the machine's firmware interface: arguments in X0 to X3, the answer in X0.
fn firmware(env: &mut Env<'_>) {
    env.sync_clock();
    let args = [0, 1, 2, 3].map(|n| env.cpu.x(n));
    match env.board.firmware_call(env.index, args) {
        Some(FirmwareAnswer::Value(value)) => env.cpu.set_x(0, value),
        Some(FirmwareAnswer::Wait) => {
            env.cpu.set_x(0, 0);
            env.cpu.sys.activity = Activity::Waiting;
        }
        Some(FirmwareAnswer::Off) => env.cpu.sys.activity = Activity::Off,
        // Not a function that there is.
        None => env.cpu.set_x(0, u64::MAX),
    }
}
