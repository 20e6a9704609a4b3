//! Orrery: hw.
