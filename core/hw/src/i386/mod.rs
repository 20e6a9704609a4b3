//! The PC family: how its machines are put together, and what their firmware is told.

pub(crate) mod acpi_build;
pub(crate) mod chassis;
mod cmos;
pub(crate) mod drives;
mod isapc;
mod none;
mod pc;
mod q35;
mod scsi_units;
pub(crate) mod smbios;

use crate::machine::{Arch, MachineType};

/// The machines of this family.
pub const MACHINES: &[MachineType] = &[
    MachineType {
        name: "pc",
        aliases: &["pc-i440fx", "pc-i440fx-10.0", "pc-i440fx-7.2", "pc-i440fx-2.1"],
        description: "Standard PC (i440FX + PIIX, 1996)",
        arch: Arch::X86,
        default_memory: 128 << 20,
        default_cpu: "qemu64",
        max_cpus: 8,
        build: pc::build,
    },
    MachineType {
        name: "q35",
        aliases: &["pc-q35", "pc-q35-10.0", "pc-q35-7.2"],
        description: "Standard PC (Q35 + ICH9, 2009)",
        arch: Arch::X86,
        default_memory: 128 << 20,
        default_cpu: "qemu64",
        max_cpus: 8,
        build: q35::build,
    },
    MachineType {
        name: "isapc",
        aliases: &[],
        description: "ISA-only PC",
        arch: Arch::X86,
        default_memory: 128 << 20,
        default_cpu: "486",
        max_cpus: 1,
        build: isapc::build,
    },
    MachineType {
        name: "none",
        aliases: &[],
        description: "empty machine",
        arch: Arch::X86,
        default_memory: 0,
        default_cpu: "qemu64",
        max_cpus: 1,
        build: none::build,
    },
];
