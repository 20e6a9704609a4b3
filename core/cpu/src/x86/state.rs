//! Architectural state of one x86 processor (Intel SDM vol. 3A chapter 2, AMD APM vol. 2 chapter 3).
//!
//! Guest variables that lifted code touches live in the [`Frame`]; everything that changes only
//! through helper functions lives here. Segment bases and limits are held twice: the descriptor
//! cache ([`Segment`]) is the truth, its copy in the frame is what lifted code reads.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize, Serializer};

use super::cpuid::Model;
use super::flags;
use super::insn::Features;
use super::x87::X87;
use crate::frame::Frame;

/// Indices of the guest variables in [`Frame::ints`](crate::frame::Frame).
pub mod var {
    /// RAX; the sixteen general registers follow in encoding order.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8; R9 to R15 follow.
    pub const R8: usize = 8;
    /// R11, which SYSCALL fills with RFLAGS.
    pub const R11: usize = 11;
    /// Instruction pointer: offset into CS, zero-extended from its size.
    pub const RIP: usize = 16;
    /// How to compute the arithmetic flags: operation and width.
    pub const CC_OP: usize = 17;
    /// Result of the last flag-setting operation.
    pub const CC_DST: usize = 18;
    /// First operand of the last flag-setting operation.
    pub const CC_SRC: usize = 19;
    /// Second operand of the last flag-setting operation.
    pub const CC_SRC2: usize = 20;
    /// RFLAGS without OF SF ZF AF PF CF; bit 1 is set.
    pub const EFLAGS_REST: usize = 21;
    /// Base of ES; CS, SS, DS, FS and GS follow.
    pub const SEG_BASE: usize = 22;
    /// For ES CS SS DS FS GS: how many bytes from offset 0 may be read without looking further.
    /// An access of `n` bytes at `off` is fine when `off + n <= bound`; otherwise ask
    /// [`Helper::SegCheckRead`](super::super::helper::Helper). 0 where a segment is null,
    /// unreadable or expands down.
    pub const SEG_READ: usize = 28;
    /// As [`SEG_READ`], for writes.
    pub const SEG_WRITE: usize = 34;
    /// Selectors of ES CS SS DS FS GS (what `MOV r, Sreg` and `PUSH Sreg` read).
    pub const SEG_SELECTOR: usize = 40;
    /// MXCSR. Lifted code leaves it to helpers; see [`Isa::FLOAT_GUARD`](crate::isa::Isa::FLOAT_GUARD).
    pub const MXCSR: usize = 46;
    /// First variable that no guest state uses.
    pub const FIRST_TEMP: usize = 64;
}

/// Segment register numbers as instructions encode them.
pub mod seg {
    /// ES.
    pub const ES: usize = 0;
    /// CS.
    pub const CS: usize = 1;
    /// SS.
    pub const SS: usize = 2;
    /// DS.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
}

/// Bits of RFLAGS (SDM vol. 1 section 3.4.3).
pub mod flag {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap after the next instruction.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// String direction: down.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume: ignore instruction breakpoints once.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check, and SMAP override in supervisor mode.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupt flag.
    pub const VIF: u64 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u64 = 1 << 20;
    /// CPUID is there.
    pub const ID: u64 = 1 << 21;
    /// The flags kept lazily in CC_*.
    pub const ARITH: u64 = CF | PF | AF | ZF | SF | OF;
    /// Bit 1, which always reads one.
    pub const FIXED: u64 = 2;
}

/// Bits of CR0 (SDM vol. 3A section 2.5).
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type: reads one from the 486 on.
    pub const ET: u64 = 1 << 4;
    /// Numeric error: report x87 errors as #MF.
    pub const NE: u64 = 1 << 5;
    /// Write protect in supervisor mode.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// Bits of CR4 (SDM vol. 3A section 2.5).
pub mod cr4 {
    /// Virtual-8086 mode extensions.
    pub const VME: u64 = 1 << 0;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// RDTSC for CPL 0 only.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Large pages in 2-level paging.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine check.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC at any CPL.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE and SSE enabled by the system.
    pub const OSFXSR: u64 = 1 << 9;
    /// #XM enabled by the system.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// RDFSBASE and friends.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
}

/// Bits of EFER.
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// Fast FXSAVE: leaves XMM alone at CPL 0 in 64-bit mode.
    pub const FFXSR: u64 = 1 << 14;
}

/// Exception vectors (SDM vol. 3A table 6-1).
pub mod vector {
    /// Divide error.
    pub const DE: u8 = 0;
    /// Debug.
    pub const DB: u8 = 1;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Breakpoint.
    pub const BP: u8 = 3;
    /// Overflow.
    pub const OF: u8 = 4;
    /// Bound range.
    pub const BR: u8 = 5;
    /// Invalid opcode.
    pub const UD: u8 = 6;
    /// No coprocessor.
    pub const NM: u8 = 7;
    /// Double fault.
    pub const DF: u8 = 8;
    /// Invalid TSS.
    pub const TS: u8 = 10;
    /// Segment not present.
    pub const NP: u8 = 11;
    /// Stack fault.
    pub const SS: u8 = 12;
    /// General protection.
    pub const GP: u8 = 13;
    /// Page fault.
    pub const PF: u8 = 14;
    /// x87 error.
    pub const MF: u8 = 16;
    /// Alignment check.
    pub const AC: u8 = 17;
    /// Machine check.
    pub const MC: u8 = 18;
    /// SIMD floating point.
    pub const XM: u8 = 19;
}

/// Bits of `X86::block_key`: what the translation of an instruction depends on besides its bytes.
pub mod key {
    /// Code size, two bits: 0 = 16, 1 = 32, 2 = 64.
    pub const CODE_SIZE: u64 = 3;
    /// The stack pointer is ESP (CS.L clear and SS.B set).
    pub const STACK32: u64 = 1 << 2;
    /// CPL is 3.
    pub const USER: u64 = 1 << 3;
    /// CR0.PE is set and EFLAGS.VM clear: selectors name descriptors.
    pub const PROTECTED: u64 = 1 << 4;
    /// Virtual-8086 mode.
    pub const V86: u64 = 1 << 5;
    /// ES CS SS DS all have base 0, all 4 GiB and allow what data and code need: no base, no check.
    pub const FLAT: u64 = 1 << 6;
    /// CR0.EM: x87 raises #NM, MMX and SSE raise #UD.
    pub const EM: u64 = 1 << 7;
    /// CR0.TS: x87, MMX and SSE raise #NM.
    pub const TS: u64 = 1 << 8;
    /// CR0.MP: with TS, WAIT raises #NM.
    pub const MP: u64 = 1 << 9;
    /// CR4.OSFXSR: SSE is allowed.
    pub const OSFXSR: u64 = 1 << 10;
    /// The block must end after one instruction (TF, interrupt shadow, instruction breakpoints).
    pub const SINGLE: u64 = 1 << 11;
    /// EFER.LMA: long mode, 64-bit or compatibility.
    pub const LONG: u64 = 1 << 12;
    /// Data accesses of this block check alignment (CPL 3, CR0.AM, EFLAGS.AC).
    pub const ALIGN: u64 = 1 << 13;
    /// Supervisor data accesses may not touch user pages (CR4.SMAP and not EFLAGS.AC).
    pub const SMAP: u64 = 1 << 14;
    /// Real or virtual-8086 mode with all segments of exactly 64 KiB.
    pub const REAL_LIMITS: u64 = 1 << 15;
    /// EFLAGS.DF: strings go down.
    pub const DOWN: u64 = 1 << 16;
    /// CPL is 1 or 2.
    pub const INNER: u64 = 1 << 17;
}

/// Type and attribute bits of a descriptor, as its bits 40..56 hold them.
pub mod attr {
    /// Accessed (code and data).
    pub const A: u16 = 1 << 0;
    /// Data: writable. Code: readable.
    pub const RW: u16 = 1 << 1;
    /// Data: expand down. Code: conforming.
    pub const EC: u16 = 1 << 2;
    /// Code.
    pub const CODE: u16 = 1 << 3;
    /// Code or data, not a system segment.
    pub const S: u16 = 1 << 4;
    /// Where the descriptor privilege level is.
    pub const DPL_SHIFT: u16 = 5;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Long (64-bit code).
    pub const L: u16 = 1 << 13;
    /// Default operation size or big stack.
    pub const DB: u16 = 1 << 14;
    /// Granularity: the limit counts pages.
    pub const G: u16 = 1 << 15;
}

/// A segment register with its descriptor cache. `attr` 0 (not present) is a null selector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// What the program loaded.
    pub selector: u16,
    /// Bits 40..56 of the descriptor; the limit's nibble (8..12) is zero. See [`attr`].
    pub attr: u16,
    /// Highest offset, in bytes.
    pub limit: u32,
    /// Linear address of offset 0.
    pub base: u64,
}

impl Segment {
    /// A segment as real mode has it.
    pub const fn real(selector: u16) -> Self {
        Self { selector, attr: 0x93, limit: 0xffff, base: (selector as u64) << 4 }
    }

    /// Descriptor privilege level.
    pub const fn dpl(&self) -> u8 {
        ((self.attr >> attr::DPL_SHIFT) & 3) as u8
    }

    /// The segment can be used: a descriptor was loaded and is present.
    pub const fn present(&self) -> bool {
        self.attr & attr::P != 0
    }

    /// The D bit of code, the B bit of a stack.
    pub const fn big(&self) -> bool {
        self.attr & attr::DB != 0
    }

    /// 64-bit code.
    pub const fn long(&self) -> bool {
        self.attr & attr::L != 0
    }

    /// Type field, four bits.
    pub const fn kind(&self) -> u8 {
        (self.attr & 15) as u8
    }

    /// A code segment.
    pub const fn is_code(&self) -> bool {
        self.attr & (attr::S | attr::CODE) == attr::S | attr::CODE
    }

    /// Data can be read through it.
    pub const fn readable(&self) -> bool {
        self.present()
            && self.attr & attr::S != 0
            && (self.attr & attr::CODE == 0 || self.attr & attr::RW != 0)
    }

    /// Data can be written through it.
    pub const fn writable(&self) -> bool {
        self.present() && self.attr & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW
    }

    /// A data segment whose offsets lie above its limit.
    pub const fn expand_down(&self) -> bool {
        self.attr & (attr::S | attr::CODE | attr::EC) == attr::S | attr::EC
    }

    /// True when `len` bytes at `offset` lie inside the limit (`len` at least 1).
    pub fn covers(&self, offset: u64, len: u64) -> bool {
        let Some(last) = offset.checked_add(len - 1) else { return false };
        if self.expand_down() {
            let top = if self.big() { 0xffff_ffff } else { 0xffff };
            offset > self.limit.into() && last <= top
        } else {
            last <= self.limit.into()
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReg {
    /// Linear address.
    pub base: u64,
    /// Highest byte offset.
    pub limit: u16,
}

/// Why an instruction did not complete: an exception to deliver with its instruction's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Exception vector.
    pub vector: u8,
    /// Error code, for the vectors that have one.
    pub error: Option<u32>,
    /// Linear address for #PF, goes to CR2 on delivery; DR6 bits to set for #DB.
    pub detail: u64,
}

/// What a helper hands back to the engine instead of a result.
pub type Trap = Fault;

impl Fault {
    /// An exception without error code.
    pub const fn plain(vector: u8) -> Self {
        Self { vector, error: None, detail: 0 }
    }

    /// An exception with an error code.
    pub const fn code(vector: u8, error: u32) -> Self {
        Self { vector, error: Some(error), detail: 0 }
    }

    /// #UD.
    pub const UD: Self = Self::plain(vector::UD);
    /// #NM.
    pub const NM: Self = Self::plain(vector::NM);
    /// #GP(0).
    pub const GP0: Self = Self::code(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Self = Self::code(vector::SS, 0);

    /// Not an exception: the instruction begins again after pins were looked at.
    pub const AGAIN: Self = Self::plain(0xff);

    /// #GP with a selector.
    pub const fn gp(selector: u16) -> Self {
        Self::code(vector::GP, (selector & 0xfffc) as u32)
    }

    /// #NP with a selector.
    pub const fn np(selector: u16) -> Self {
        Self::code(vector::NP, (selector & 0xfffc) as u32)
    }

    /// #SS with a selector.
    pub const fn ss(selector: u16) -> Self {
        Self::code(vector::SS, (selector & 0xfffc) as u32)
    }

    /// #TS with a selector.
    pub const fn ts(selector: u16) -> Self {
        Self::code(vector::TS, (selector & 0xfffc) as u32)
    }

    /// #PF at a linear address.
    pub const fn page(linear: u64, error: u32) -> Self {
        Self { vector: vector::PF, error: Some(error), detail: linear }
    }

    /// #DB with the DR6 bits that say why.
    pub const fn debug(dr6: u64) -> Self {
        Self { vector: vector::DB, error: None, detail: dr6 }
    }
}

/// What the processor is doing between instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Running,
    /// After HLT: an interrupt, NMI, SMI or INIT goes on.
    Halted,
    /// After a triple fault: the machine is expected to reset it.
    Shutdown,
    /// An application processor after INIT.
    WaitForSipi,
}

/// Model-specific registers that are the processor's own storage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msrs {
    /// SYSCALL selectors and legacy target.
    pub star: u64,
    /// SYSCALL target in 64-bit mode.
    pub lstar: u64,
    /// SYSCALL target in compatibility mode.
    pub cstar: u64,
    /// RFLAGS bits SYSCALL clears.
    pub sfmask: u64,
    /// What SWAPGS exchanges with the base of GS.
    pub kernel_gs_base: u64,
    /// SYSENTER code segment.
    pub sysenter_cs: u64,
    /// SYSENTER stack pointer.
    pub sysenter_esp: u64,
    /// SYSENTER target.
    pub sysenter_eip: u64,
    /// Added to virtual time to give the TSC.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// What RDTSCP returns in ECX.
    pub tsc_aux: u64,
    /// Page attribute table.
    pub pat: u64,
    /// MTRR default type.
    pub mtrr_def_type: u64,
    /// Fixed-range MTRRs in MSR order.
    pub mtrr_fixed: [u64; 11],
    /// Variable-range MTRRs: base, mask, base, mask...
    pub mtrr_var: [u64; 16],
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// Machine-check status.
    pub mcg_status: u64,
    /// Machine-check control.
    pub mcg_ctl: u64,
    /// CTL, STATUS, ADDR and MISC of ten machine-check banks.
    pub mc_banks: [[u64; 4]; 10],
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// Microcode revision, upper half of IA32_BIOS_SIGN_ID.
    pub microcode: u64,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// Performance-counter registers a guest may write and read back: selectors, then counters.
    pub perf: [u64; 8],
    /// VM_HSAVE_PA.
    pub hsave_pa: u64,
}

/// System-level state: all that is not in the frame or the x87 unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sys {
    /// ES CS SS DS FS GS.
    pub seg: [Segment; 6],
    /// Local descriptor table.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table.
    pub gdtr: TableReg,
    /// Interrupt descriptor table.
    pub idtr: TableReg,
    /// Current privilege level.
    pub cpl: u8,
    /// CR0.
    pub cr0: u64,
    /// Page-fault linear address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// Extended features.
    pub efer: u64,
    /// Page-directory pointers, loaded with CR3 under PAE paging.
    pub pdpte: [u64; 4],
    /// DR0 to DR7; DR4 and DR5 are unused.
    pub dr: [u64; 8],
    /// Model-specific registers.
    pub msr: Msrs,
    /// What it is doing.
    pub activity: Activity,
    /// Interrupt shadow: 2 = the last instruction set it, 1 = the next one runs under it.
    pub shadow: u8,
    /// The shadow is MOV SS or POP SS: debug traps are held off as well.
    pub shadow_ss: bool,
    /// The instruction about to run started with TF: #DB follows it.
    pub step_armed: bool,
    /// DR6 bits of a debug trap to deliver after the current instruction.
    pub debug_pending: u64,
    /// RF, as long as breakpoints are enabled: 2 = IRET just set it, 1 = the next instruction is
    /// not checked for breakpoints.
    pub resume: u8,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// An NMI is latched.
    pub nmi_pending: bool,
    /// An SMI is latched.
    pub smi_pending: bool,
    /// An INIT arrived where it is blocked (SMM).
    pub init_pending: bool,
    /// In system-management mode.
    pub smm: bool,
    /// Where the SMM code and save area are.
    pub smbase: u32,
    /// The A20 gate is open.
    pub a20: bool,
    /// State of the random-number generator.
    pub rng: u64,
    /// An exception that a task switch found once the new task was in place: raised there.
    pub late_fault: Option<Fault>,
    /// An instruction has waited for the x87 unit, which has an error: that is on FERR# now.
    pub error_waited: bool,
    /// IGNNE#: x87 instructions run in spite of a pending error, which is not on FERR# any more.
    pub ignore_error: bool,
    /// The program asked to be passed over for now (PAUSE, MWAIT).
    pub yielding: bool,
}

/// The variables with the flags in their places. What operation they are from depends on how code was cut into blocks:
/// a rotation, say, keeps those of the operation before it where that is in its block. A snapshot does not.
fn settled<S: Serializer>(frame: &Frame, serializer: S) -> Result<S::Ok, S::Error> {
    let mut frame = frame.clone();
    let now = flags::read(&frame);
    flags::write(&mut frame, now);
    (frame.ints[var::CC_DST], frame.ints[var::CC_SRC2]) = (0, 0);
    frame.serialize(serializer)
}

/// The instructions of a processor's model, found when they are first asked for. No part of its state.
#[derive(Clone, Debug, Default)]
pub struct FoundFeatures(OnceLock<Features>);

impl FoundFeatures {
    /// Those of the model, which is always the same one.
    pub fn of(&self, model: &Model) -> Features {
        *self.0.get_or_init(|| super::lift::features(model))
    }
}

impl PartialEq for FoundFeatures {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// One x86 processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct X86 {
    /// Variables that lifted code reads and writes.
    #[serde(serialize_with = "settled")]
    pub frame: Frame,
    /// System-level state.
    pub sys: Sys,
    /// x87 unit, MMX registers included.
    pub x87: X87,
    /// Fixed at build: which processor this is.
    pub model: Model,
    /// What it has of what lifting asks for.
    #[serde(skip)]
    pub features: FoundFeatures,
    /// Number of this processor in the machine (selects its pins; also the initial APIC ID).
    pub index: usize,
    /// A triple fault asks the machine for a reset; the run loop takes it.
    pub reset_request: bool,
    /// What a debugger watches; no part of the processor.
    #[serde(skip)]
    pub watch: super::gdb::Watches,
    /// Interrupts and exceptions for the log, where they are wanted; no part of the processor.
    #[serde(skip)]
    pub events: Option<Vec<String>>,
}
