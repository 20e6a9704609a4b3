//! Orrery: cpu.
