//! AArch64: A64 of Armv8.0-A, at EL1 and EL0.
//!
//! Reference: Arm Architecture Reference Manual for A-profile (DDI 0487). EL2 and EL3 are not there: HVC and SMC are
//! calls of the machine's firmware interface (PSCI). AArch32 at EL0 is not there either, and the ID registers say so.

mod crypto;
mod debug;
pub mod exception;
mod fp;
pub mod insn;
mod isa;
mod lift;
mod mmu;
pub mod model;
mod simd;
pub mod state;
pub mod sysreg;

pub use isa::{AArch64Isa, Helper};
pub use model::Model;
pub use state::AArch64;
pub use sysreg::{TIMER_REGISTERS, firmware};
