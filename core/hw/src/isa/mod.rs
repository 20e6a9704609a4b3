//! Bridges from PCI to the ISA and LPC buses, and what lives in them.

pub mod ich9_lpc;
pub mod piix3;
pub mod port92;
pub mod portf0;
