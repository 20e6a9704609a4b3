//! Sound.

pub mod pcspk;
