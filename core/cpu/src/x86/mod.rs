//! The x86 front-end: 8086 to x86-64.

pub mod cpuid;
pub mod decode;
pub mod disasm;
pub mod helper;
pub mod mmx;
pub mod sse;
pub mod insn;
mod opcodes;
pub mod state;
pub mod x87;
