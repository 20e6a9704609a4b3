//! The tables that tell which memory is near which CPU: SRAT and SLIT.
//!
//! Reference: ACPI 6.4, 5.2.16 and 5.2.17.

use super::tables::Table;
use crate::numa::Numa;

/// The affinity of CPUs, whose APIC ids are their numbers, and of memory, of which `low` bytes are
/// below 4 GiB.
pub(crate) fn srat(numa: &Numa, low: u64) -> Table {
    let mut t = Table::new(*b"SRAT", 1);
    t.u32(1).u64(0);
    for (cpu, &node) in numa.cpus.iter().enumerate() {
        // Type 0: a local APIC; enabled; the upper bytes of the domain are zero.
        t.raw(&[0, 16, node as u8, cpu as u8]).u32(1).u64(0);
    }
    for (node, base, bytes) in numa.ranges(low) {
        // Type 1: memory; enabled.
        t.raw(&[1, 40]).u32(node as u32).u16(0).u64(base).u64(bytes).u32(0).u32(1).u64(0);
    }
    t
}

/// How far nodes are from one another.
pub(crate) fn slit(numa: &Numa) -> Table {
    let mut t = Table::new(*b"SLIT", 1);
    t.u64(numa.nodes() as u64).raw(&numa.distances);
    t
}
