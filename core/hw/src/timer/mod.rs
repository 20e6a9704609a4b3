//! Timers.

pub mod i8254;
