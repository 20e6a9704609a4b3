//! Orrery: cpu. One IR, engines that run it, a front-end per instruction set.

pub mod cpus;
pub mod env;
pub mod float;
pub mod frame;
pub mod ir;
pub mod isa;
pub mod tlb;
pub mod x86;

pub use cpus::{Cpus, Ran};
