//! Memories that keep configuration.

pub mod fw_cfg;
