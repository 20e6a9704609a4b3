//! Sequences for the engines to agree on, and the world they run in.

pub(crate) mod generate;
pub(crate) mod world;
