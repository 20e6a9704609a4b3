//! What an instruction set gives the engines: [`Isa`].

use orrery_system::board::Board;

use crate::env::Env;
use crate::frame::Frame;
use crate::ir::stack::{StackUnit, Stacked};
use crate::ir::{Args, Builder, Op, Var, VecKind};

/// Why memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Exec,
}

/// What a page walk found: the 4 KiB page, whatever the size of the guest's page.
///
/// The permissions are those of the MMU index asked for, as they stand: `write` only
/// when a store needs no more work (the dirty bit is set).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Physical address of the 4 KiB page (A20 and such applied).
    pub gpa: u64,
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Fetches are allowed.
    pub exec: bool,
    /// Survives [`Env::flush_non_global`].
    pub global: bool,
}

/// Where instructions are fetched from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeWindow {
    /// Linear address of the program counter.
    pub linear: u64,
    /// Bytes from there that may be fetched (to the code segment's limit); at least 1.
    pub len: u64,
    /// MMU index of fetches.
    pub mmu: u8,
}

/// What lifting one instruction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lift {
    /// So many bytes long; the block may go on with the next instruction.
    Next(u8),
    /// So many bytes long, and the ops emitted end the block.
    End(u8),
    /// The bytes given are the beginning of an instruction; give more.
    Short,
}

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Execute instructions.
    Run,
    /// Wait for an interrupt.
    Halted,
    /// Give the turn to another CPU (a spin-wait hint), then go on.
    Yield,
    /// Stopped for good until reset (x86: triple fault); the board was told.
    Shutdown,
}

/// A function of the CPU's state outside of its frame, and of four values: quick to call from compiled
/// code. Answers [`DECLINED`](crate::ir::DECLINED) where it did nothing.
pub type Quick<C> = extern "C" fn(&mut C, u64, u64, u64, u64) -> u64;

/// An instruction set: decoding, translation to IR, address translation, exceptions.
///
/// Implementors are zero-sized; all state is in [`Isa::Cpu`].
pub trait Isa: Sized + 'static {
    /// Architectural state of one CPU; all of it is saved in a snapshot.
    type Cpu: orrery_system::State + Send + crate::debug::DebugCpu;
    /// An exception on its way.
    type Trap: Copy + core::fmt::Debug;
    /// Three variables that comparisons write together before a conditional branch (x86: the lazy
    /// flags' operation, result and operand). Back ends may do all of it in one operation.
    const COMPARED: Option<[Var; 3]> = None;
    /// When floating-point ops may be done on the host: variable, mask and value of
    /// [`FloatOp::guarded`](crate::ir::FloatOp::guarded). Only helpers write that variable.
    const FLOAT_GUARD: (Var, u64, u64) = (Var(0), 0, 1);
    /// The bits of its mask that say that *inexact* is raised already.
    const FLOAT_INEXACT: u64 = 0;
    /// The variable, if there is one, that has floating-point control and status in the form of x86's MXCSR (Intel SDM
    /// volume 1, section 10.2.3) where [`FloatOp`](crate::ir::FloatOp)s are SSE's instructions of the same names, down to
    /// NaNs and flags: x86-64 hosts then do them without a check. Only helpers and back ends write it. Nothing that must not
    /// be done twice comes before such an op in its instruction.
    const MXCSR: Option<Var> = None;
    /// Its stack of floating-point registers, if it has one that is x87's.
    const STACK: Option<StackUnit> = None;
    /// Longest instruction in bytes.
    const MAX_INSN: usize;

    /// Puts CPU number `index` in its power-on state.
    fn reset(cpu: &mut Self::Cpu, index: usize);
    /// The registers as `info registers` prints them.
    fn dump(cpu: &Self::Cpu) -> String;
    /// At most how many low bits of integer variable `v` are not zero in this mode (x86: 32 for
    /// the general registers outside long mode). What lifted code and helpers write must agree.
    fn var_bits(key: u64, v: Var) -> u32 {
        let _ = (key, v);
        64
    }

    /// The CPU's variables.
    fn frame(cpu: &Self::Cpu) -> &Frame;
    /// The CPU's variables.
    fn frame_mut(cpu: &mut Self::Cpu) -> &mut Frame;
    /// The program counter.
    fn pc(cpu: &Self::Cpu) -> u64;
    /// Sets the program counter.
    fn set_pc(cpu: &mut Self::Cpu, pc: u64);

    /// Everything the translation of an instruction depends on besides its bytes and its `pc`.
    fn block_key(cpu: &Self::Cpu) -> u64;
    /// Whether blocks of this key hold one instruction; [`Isa::stepped`] is then called after each.
    fn one_insn(key: u64) -> bool {
        let _ = key;
        false
    }
    /// [`CodeWindow::mmu`] of this key.
    fn fetch_mmu(key: u64) -> u8 {
        let _ = key;
        0
    }
    /// The MMU index of (nearly) all memory operations in code of this key.
    fn data_mmu(key: u64) -> u8 {
        let _ = key;
        0
    }
    /// Where `pc` fetches from, or the trap when nothing may be fetched there.
    fn code_window(cpu: &Self::Cpu, pc: u64) -> Result<CodeWindow, Self::Trap>;
    /// Emits the instruction at `pc`, whose bytes are at the start of `code`.
    ///
    /// `cpu` is only for what never changes (the model's features); everything else is in `key`.
    /// Never emits [`Op::Insn`]. An instruction that must end the block
    /// ([`Fx::ENDS`](crate::ir::Fx::ENDS)) and answers [`Lift::Next`] is ended by the engine.
    fn lift(cpu: &Self::Cpu, key: u64, pc: u64, code: &[u8], b: &mut Builder) -> Lift;

    /// Finds the page of `linear`, updating accessed and dirty bits. Memory through `board.read`.
    fn walk(
        cpu: &mut Self::Cpu,
        board: &mut Board,
        linear: u64,
        access: Access,
        mmu: u8,
    ) -> Result<Mapping, Self::Trap>;
    /// Linear addresses wrap to these bits (checked only where an access crosses a page).
    fn linear_mask(cpu: &Self::Cpu) -> u64;

    /// Runs helper `f`. See [`Fx`](crate::ir::Fx) for what it may do.
    fn helper(f: u16, env: &mut Env<'_, Self>, args: &[u64; 6]) -> Result<u64, Self::Trap>;
    /// Quick function `f`. It may read variables of the frame that lifted code never writes.
    /// [`Isa::helper`] of the same number does the whole instruction where it declines.
    fn quick(f: u16) -> Option<Quick<Self::Cpu>> {
        let _ = f;
        None
    }
    /// What quick function `f` does with this first argument, if it is of [`STACK`](Self::STACK) and a host's instruction does that.
    fn stack_op(f: u16, what: u64) -> Option<Stacked> {
        let _ = (f, what);
        None
    }
    /// Pure function `f` of its arguments.
    fn pure(f: u16, args: &[u64; 6]) -> u64;
    /// Appends ops that do the same as [`Op::Pure`], without labels and with
    /// temporaries from `first` on, where compiled code has more of that than of a call. False: there are none.
    fn expand(f: u16, d: Var, args: &Args, first: u8, out: &mut Vec<Op>) -> bool {
        let _ = (f, d, args, first, out);
        false
    }
    /// Pure vector function `kind`.
    fn vec_op(kind: u16, a: u128, b: u128, imm: u8) -> u128;
    /// The same from memory to memory, for where vectors are better not taken apart.
    #[inline]
    fn vec_op_into(kind: u16, a: &u128, b: &u128, imm: u8, out: &mut u128) {
        *out = Self::vec_op(kind, *a, *b, imm);
    }
    /// What [`Isa::vec_op`] of this kind does, where the back ends have a name for it.
    fn vec_kind(kind: u16) -> Option<VecKind> {
        let _ = kind;
        None
    }
    /// The exception that [`Op::Trap`] names.
    fn trap(id: u16, arg: u64) -> Self::Trap;

    /// Enters the handler of `trap`. The program counter is that of the faulting instruction.
    fn deliver(env: &mut Env<'_, Self>, trap: Self::Trap);
    /// Called between blocks when something may have changed: takes interrupts, resets, start-up
    /// messages; applies A20.
    fn poll(env: &mut Env<'_, Self>) -> Poll;
    /// Whether [`Isa::poll`] would change nothing and answer [`Poll::Run`]. May say no when in doubt.
    fn is_quiet(cpu: &mut Self::Cpu, index: usize, board: &Board) -> bool {
        let _ = (cpu, index, board);
        false
    }
    /// Called after an instruction of a block with [`Isa::one_insn`] completed without a trap:
    /// single-step exceptions, the end of an interrupt shadow.
    fn stepped(env: &mut Env<'_, Self>) {
        let _ = env;
    }
}
