//! Timers.

pub mod hpet;
pub mod i8254;
