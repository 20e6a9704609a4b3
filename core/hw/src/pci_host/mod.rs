//! Host bridges: where the CPU's bus meets PCI, and what answers in the first megabyte.

pub mod i440fx;
mod mechanism;
mod pam;
pub mod q35;
