//! Character devices.

pub mod parallel;
pub mod pl011;
pub mod serial;
pub mod serial_pci;
pub mod uart;
