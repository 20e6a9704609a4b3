//! The x86 front-end: 8086 to x86-64.

#[cfg(test)]
mod bench;
mod control;
pub mod cpuid;
mod debug;
pub mod decode;
pub mod disasm;
pub mod flags;
pub mod gdb;
pub mod helper;
pub mod insn;
pub mod interrupt;
pub mod isa;
pub mod lift;
pub mod mmx;
mod msr;
mod noncanonical;
mod opcodes;
pub mod paging;
mod quick;
mod reset;
pub mod segment;
mod smm;
pub mod sse;
pub mod state;
pub mod string;
pub mod task;
pub mod transfer;
pub mod x87;

pub use isa::X86Isa;
pub use state::X86;

impl orrery_system::State for X86 {
    const KIND: &'static str = "x86-cpu";
    const VERSION: u16 = 2;
}
