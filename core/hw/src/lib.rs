//! Orrery: hw.

#![forbid(unsafe_code)]

pub mod display;
