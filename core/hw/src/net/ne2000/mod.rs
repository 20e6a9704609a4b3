//! NE2000 network card: `ne2k_isa`, and on PCI as the Realtek 8029 (`ne2k_pci`).
//!
//! Reference: National Semiconductor DP8390D data sheet (RRD-B30M105) for the controller, the
//! NE2000's place of its address PROM and buffer memory, Realtek RTL8029AS data sheet for page 3.
//!
//! Not modelled: loopback at the encoder and beyond, collisions, the remote "send packet" command.

mod core;
mod isa;
mod pci;

pub use self::core::{Config, Ne2000};
pub use isa::build as build_isa;
pub use pci::build as build_pci;

#[cfg(test)]
mod tests;
