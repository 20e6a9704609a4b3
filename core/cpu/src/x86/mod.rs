//! The x86 front-end: 8086 to x86-64.

pub mod cpuid;
pub mod helper;
pub mod state;
