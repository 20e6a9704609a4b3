//! Orrery: block.
