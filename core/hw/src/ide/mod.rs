//! IDE: ATA and ATAPI drives, their channels and host adapters.

pub mod ahci;
pub mod ata;
mod atapi;
pub mod bmdma;
pub mod channel;
mod identify;
pub mod isa;
pub mod piix;
