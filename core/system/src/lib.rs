//! Orrery: system.
