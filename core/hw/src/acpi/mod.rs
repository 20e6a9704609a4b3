//! Power management: the ACPI register blocks that chipsets share, and SMBus.

pub(crate) mod aml;
pub mod ich9_smb;
pub mod piix4;
pub(crate) mod pm;
pub(crate) mod smbus;
pub(crate) mod tables;

/// Bank of a power-management device through which the machine says that it woke from suspend:
/// the value written is set in the PM1 status (bit 15 for waking, bit 8 for the power button).
pub const WAKE_BANK: u32 = 0x200;
