//! Clocks with a calendar.

pub mod mc146818;
