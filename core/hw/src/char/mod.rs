//! Character devices.

pub mod parallel;
pub mod serial;
pub mod serial_pci;
pub mod uart;
