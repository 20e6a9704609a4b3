//! The x86 front-end: 8086 to x86-64.

pub mod cpuid;
pub mod decode;
pub mod disasm;
pub mod flags;
pub mod helper;
pub mod insn;
pub mod mmx;
mod opcodes;
pub mod sse;
pub mod state;
pub mod x87;
