//! Small devices of no other family.

pub mod debugcon;
pub mod debugexit;
pub mod edu;
pub mod i6300esb;
pub mod ib700;
pub mod port;
pub mod pvpanic;
pub mod testdev;
