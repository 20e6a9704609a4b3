//! Device models and machines, one folder per family, named as in QEMU's `hw/`.
#![forbid(unsafe_code)]

pub mod display;
pub mod pci;
pub mod pci_host;
