//! Small devices of no other family.

pub mod debugcon;
pub mod debugexit;
pub mod edu;
pub mod port;
pub mod pvpanic;
