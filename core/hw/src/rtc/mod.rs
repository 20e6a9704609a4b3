//! Clocks with a calendar.

pub mod mc146818;
pub mod pl031;
