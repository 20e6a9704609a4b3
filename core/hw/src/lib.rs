//! Device models and machines, one folder per family, named as in QEMU's `hw/`.
#![forbid(unsafe_code)]

pub mod display;
pub mod intc;
pub mod pci;
pub mod pci_host;
pub mod rtc;
pub mod timer;
