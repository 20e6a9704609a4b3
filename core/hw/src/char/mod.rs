//! Character devices.

pub mod parallel;
pub mod serial;
pub mod uart;
