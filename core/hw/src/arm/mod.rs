//! Arm boards.

mod boot;
mod cores;
mod slots;
mod virt;

use crate::machine::{Arch, MachineType};

/// The machines of this family.
pub const MACHINES: &[MachineType] = &[MachineType {
    name: "virt",
    aliases: &["virt-7.2", "virt-10.0"],
    description: "ARM virtual machine",
    arch: Arch::AArch64,
    default_memory: 128 << 20,
    default_cpu: "cortex-a57",
    max_cpus: crate::intc::gic_v2::MAX_CPUS,
    build: virt::build,
}];
