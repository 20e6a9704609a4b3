//! The PC family: how its machines are put together, and what their firmware is told.

pub(crate) mod acpi_build;
pub(crate) mod smbios;
