//! The interface between compiled regions and the runtime, one for every back end.
//!
//! A compiled region is an [`Entry`]: a function of a [`Context`] that runs guest code and answers
//! why it stopped ([`stop`]). In WebAssembly a function pointer is an index of the function table
//! and a pointer an address in the emulator's own memory, so the same holds there.
//!
//! **What a region may count on** when it is entered: [`Context::left`] is at least the
//! instructions of its first block (which are *not* charged yet), the variables in the frame are
//! up to date, and [`Context::pages`] says which of its pages are in place (bit 0, the entry's, is
//! set). Nothing it calls changes mode, translations that were in place, or
//! [`Context::pages`]: what might is the last instruction of its block, which ends in
//! [`Op::Leave`](crate::ir::Op::Leave).
//!
//! **What it must do**: at the start of each block charge [`RBlock::insns`] to the budget, which must
//! not fall below nothing: stop with [`stop::LOOKUP`] at the block's program counter before it does,
//! also some way ahead ([`flow::budget`](crate::region::flow::budget)), and even on entry. Before a block in a page other than that of the block it comes from
//! ([`Region::edge`]), stop with `LOOKUP` there when the page's bit in [`Context::pages`] is
//! clear. On every stop: write back the variables that changed, [`Context::left`] and
//! [`Context::pc`]. Where an instruction does not complete ([`stop::FAULT`], [`stop::RESTART`]), the
//! frame and the program counter are as before that instruction, and the budget is given back for
//! it and all behind it in its block.
//!
//! **Fast path of memory.** [`Fast`] entries are indexed by bits 12.. of the linear address
//! ([`TLB_BITS`] of them). An access of `size` bytes goes directly to the host address
//! `linear + entry.host` when `entry.read` (or `entry.write`, for stores and for loads with
//! [`Mem::WRITE`](crate::ir::Mem::WRITE)) equals `(linear + size - 1) & !0xfff | mmu`; else the shim is called. The addition
//! wraps at 64 bits; the host address is taken modulo the host's address size.
//!
//! **Shims** ([`Shims`]) are called with the context. [`Context::left`] must hold the budget as
//! charged to the end of the current block before any of them but `vec_op` and `pure`. After one
//! that may fault, [`Context::status`] is 0, or what to stop with: then nothing has happened, and the region
//! stops at that instruction at once (its own return value does not matter).
//!
//! **Quick functions** ([`Isa::quick`](crate::isa::Isa::quick), [`Region::quick`]) are called with
//! [`Context::cpu`] and four values. Where one answers [`DECLINED`](crate::ir::DECLINED), or is not in the
//! region's table, the region stops at that instruction with [`stop::RESTART`].
//!
//! [`Region::quick`]: crate::region::Region::quick
//! [`RBlock::insns`]: crate::region::RBlock::insns
//! [`Region::edge`]: crate::region::Region::edge

use core::mem::offset_of;

use crate::frame::Frame;
pub use crate::tlb::{BITS as TLB_BITS, Fast};

/// A compiled region; answers with a code of [`stop`].
pub type Entry = unsafe extern "C" fn(*mut Context) -> u32;

/// The code of a region.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// What the runtime calls.
    pub entry: Entry,
    /// Where regions of the same back end go on at it by a jump, in bytes from the entry; 0 if they cannot.
    pub chain: u32,
}

impl Code {
    /// Code that only the runtime calls.
    pub const fn called(entry: Entry) -> Self {
        Self { entry, chain: 0 }
    }

    /// Whether these are the same code.
    pub fn is(self, other: Self) -> bool {
        self.entry as usize == other.entry as usize
    }
}

/// Why a region stopped.
pub mod stop {
    /// Go on at the program counter, same mode.
    pub const LOOKUP: u32 = 0;
    /// Go on at the program counter after looking at mode, interrupts and attention.
    pub const LEAVE: u32 = 1;
    /// The instruction at the program counter raised a trap (kept by the shim).
    pub const FAULT: u32 = 2;
    /// The instruction at the program counter must be run on its own.
    pub const RESTART: u32 = 3;
}

/// What [`Shims::resume`] answers.
pub mod resume {
    /// Mode and epoch are what they were: go on in the region, or by a link.
    pub const HERE: u32 = 1;
    /// They have changed: go on by a link only.
    pub const ELSEWHERE: u32 = 2;
    /// Stop with [`stop::LEAVE`](super::stop::LEAVE).
    pub const LEAVE: u32 = 0;
}

/// What a region works on. One for each CPU.
#[repr(C)]
pub struct Context {
    /// The CPU's variables.
    pub frame: *mut Frame,
    /// The fast half of the CPU's TLB for the MMU index of the mode
    /// ([`Isa::data_mmu`](crate::isa::Isa::data_mmu)): what has another one finds nothing there.
    pub tlb: *const Fast,
    /// The runtime's, for shims.
    pub engine: *mut (),
    /// Instructions left.
    pub left: i64,
    /// Program counter on a stop.
    pub pc: u64,
    /// What a shim says: 0, or a code of [`stop`].
    pub status: u32,
    /// The pages of the region that are in place, a bit each.
    pub pages: u32,
    /// Arguments of `pure` and `call`.
    pub args: [u64; 6],
    /// Where regions may go on at directly: [`LINKS`] of them.
    pub links: *const Link,
    /// Mode and epoch of links that hold.
    pub tag: u64,
    /// The CPU, for quick functions.
    pub cpu: *mut (),
    /// The number of the region that runs, or ran last.
    pub region: u32,
}

/// A place whose region is known. Instead of stopping with [`stop::LOOKUP`] at a program counter, a
/// region may look at the link in slot `(pc ^ pc >> 12) % LINKS`. If its `pc` is that one and its
/// `tag` that of the context, all pages of the region there are in place: with
/// [`Context::pages`] all ones, [`Context::left`] up to date and all variables written back, that
/// region may be entered in place of returning, whatever is left of the budget. A back end whose regions
/// go on by a jump keeps to rules of its own instead; [`Context::region`] is then the number of the last one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub struct Link {
    /// The program counter.
    pub pc: u64,
    /// For which mode and epoch.
    pub tag: u64,
    /// The region.
    pub code: Option<Entry>,
    /// Its number, for the runtime.
    pub region: u32,
    /// [`Code::chain`].
    pub chain: u32,
}

impl Link {
    /// A link that never holds.
    pub const NONE: Self = Self { pc: 0, tag: u64::MAX, code: None, region: 0, chain: 0 };
    /// Offset of the program counter.
    pub const PC: u32 = offset_of!(Self, pc) as u32;
    /// Offset of the tag.
    pub const TAG: u32 = offset_of!(Self, tag) as u32;
    /// Offset of the code.
    pub const CODE: u32 = offset_of!(Self, code) as u32;
    /// Offset of the number.
    pub const REGION: u32 = offset_of!(Self, region) as u32;
    /// Offset of where to jump to.
    pub const CHAIN: u32 = offset_of!(Self, chain) as u32;

    /// The slot of a program counter.
    pub const fn slot(pc: u64) -> usize {
        (pc ^ pc >> 12) as usize % LINKS
    }
}

/// Links of a CPU: a power of two.
pub const LINKS: usize = 4096;

/// Offsets of the fields of a [`Context`], in bytes.
#[expect(missing_docs, reason = "named as the fields")]
impl Context {
    pub const FRAME: u32 = offset_of!(Self, frame) as u32;
    pub const TLB: u32 = offset_of!(Self, tlb) as u32;
    pub const ENGINE: u32 = offset_of!(Self, engine) as u32;
    pub const LEFT: u32 = offset_of!(Self, left) as u32;
    pub const PC: u32 = offset_of!(Self, pc) as u32;
    pub const STATUS: u32 = offset_of!(Self, status) as u32;
    pub const PAGES: u32 = offset_of!(Self, pages) as u32;
    pub const ARGS: u32 = offset_of!(Self, args) as u32;
    pub const LINKS: u32 = offset_of!(Self, links) as u32;
    pub const TAG: u32 = offset_of!(Self, tag) as u32;
    pub const CPU: u32 = offset_of!(Self, cpu) as u32;
    pub const REGION: u32 = offset_of!(Self, region) as u32;

    /// A context that points nowhere yet.
    pub const fn new() -> Self {
        Self {
            frame: core::ptr::null_mut(),
            tlb: core::ptr::null(),
            engine: core::ptr::null_mut(),
            left: 0,
            pc: 0,
            status: 0,
            pages: 0,
            args: [0; 6],
            links: core::ptr::null(),
            tag: 0,
            cpu: core::ptr::null_mut(),
            region: 0,
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

/// Offset of an integer variable in the frame.
pub const fn int_offset(var: u8) -> u32 {
    offset_of!(Frame, ints) as u32 + var as u32 * 8
}

/// Offset of a vector variable in the frame.
pub const fn vec_offset(var: u8) -> u32 {
    offset_of!(Frame, vecs) as u32 + var as u32 * 16
}

/// Offsets in a [`Fast`] entry, and the size of one.
pub mod fast {
    use super::{Fast, offset_of};
    /// Tag of pages that may be read.
    pub const READ: u32 = offset_of!(Fast, read) as u32;
    /// Tag of pages that may be written.
    pub const WRITE: u32 = offset_of!(Fast, write) as u32;
    /// What to add to a linear address to have the host's.
    pub const HOST: u32 = offset_of!(Fast, host) as u32;
    /// Bytes of an entry: a power of two.
    pub const SIZE: u32 = size_of::<Fast>() as u32;
    const _: () = assert!(SIZE == 32);
}

/// The width, sign and intent of an access as the memory shims take it.
///
/// | bits | |
/// |---|---|
/// | 0..16 | bytes |
/// | 16..18 | MMU index |
/// | 18 | the load of a read-modify-write |
/// | 24..32 | vector variable |
pub const fn access(bytes: u32, mmu: u8, rmw: bool, vec: u8) -> u32 {
    bytes | (mmu as u32 & 3) << 16 | (rmw as u32) << 18 | (vec as u32) << 24
}

/// What a region may call. The addresses are constants of the compiled code.
#[derive(Clone, Copy, Debug)]
pub struct Shims {
    /// [`Isa::MXCSR`](crate::isa::Isa::MXCSR).
    pub mxcsr: Option<crate::ir::Var>,
    /// [`Isa::STACK`](crate::isa::Isa::STACK).
    pub stack: Option<crate::ir::stack::StackUnit>,
    /// `load(ctx, linear, access) -> value`: 1, 2, 4 or 8 bytes, zero-extended. May fault.
    pub load: extern "C" fn(*mut Context, u64, u32) -> u64,
    /// `store(ctx, linear, value, access)`. May fault.
    pub store: extern "C" fn(*mut Context, u64, u64, u32),
    /// `probe(ctx, linear, access)`: [`Op::Probe`](crate::ir::Op::Probe). May fault.
    pub probe: extern "C" fn(*mut Context, u64, u32),
    /// `vload(ctx, linear, access)`: 1 to 16 bytes into the vector variable. May fault.
    pub vload: extern "C" fn(*mut Context, u64, u32),
    /// `vstore(ctx, linear, access)`: 1 to 16 bytes of the vector variable. May fault.
    pub vstore: extern "C" fn(*mut Context, u64, u32),
    /// `vec_op(ctx, kind | imm << 16, d | a << 8 | b << 16)`, on the frame.
    pub vec_op: extern "C" fn(*mut Context, u32, u32),
    /// `pure(ctx, f) -> value`, with all six arguments in the context.
    pub pure: extern "C" fn(*mut Context, u32) -> u64,
    /// `call(ctx, f | rest << 16) -> value`, with all six arguments in the context. `rest`: instructions of
    /// the block from the current one on. By the helper's [`Fx`](crate::ir::Fx) variables are written back before
    /// and read anew behind. May fault.
    pub call: extern "C" fn(*mut Context, u32) -> u64,
    /// `resume(ctx) -> u32`: in place of stopping with [`stop::LEAVE`], with all variables written
    /// back: whether to go on at once ([`resume`]). Mode, tag and TLB in the context are what
    /// they now are.
    pub resume: extern "C" fn(*mut Context) -> u32,
    /// `trap(ctx, id, arg)`: keeps the trap; the region then stops with [`stop::FAULT`].
    pub trap: extern "C" fn(*mut Context, u32, u64),
}
