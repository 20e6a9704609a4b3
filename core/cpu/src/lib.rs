//! Orrery: cpu.

pub mod frame;
pub mod x86;
