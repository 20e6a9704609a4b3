//! Starts kernels without a boot loader: hands them to firmware through fw_cfg, with an option
//! ROM that fetches and enters them.

mod linux;
mod multiboot;
mod rom;

use crate::machine::{BuildError, Kernel};
use crate::nvram::fw_cfg::Items;

/// The memory that a kernel may be put into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// First address above the RAM below 4 GiB.
    pub(crate) low_ram: u64,
}

/// Name of the file with the option ROM.
const ROM_FILE: &str = "genroms/kernel.bin";

/// The option ROM in firmware's boot order.
pub(crate) const BOOT_PATH: &str = "/rom@genroms/kernel.bin";

/// Describes `kernel` to firmware, which finds it at [`BOOT_PATH`].
pub(crate) fn load(kernel: &Kernel, space: Space, items: &mut Items) -> Result<(), BuildError> {
    if multiboot::is_multiboot(&kernel.image) {
        multiboot::load(kernel, space, items)?;
    } else {
        linux::load(kernel, space, items)?;
    }
    items.add_file(ROM_FILE, rom::kernel_rom());
    Ok(())
}
