//! Orrery: a whole machine.
