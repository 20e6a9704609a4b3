//! Starts kernels without a boot loader: hands them to firmware through fw_cfg, with an option
//! ROM that fetches and enters them.

pub(crate) mod linux;

use crate::machine::{BuildError, Kernel};
use crate::nvram::fw_cfg::Items;

/// The memory that a kernel may be put into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// First address above the RAM below 4 GiB.
    pub(crate) low_ram: u64,
}

/// Describes `kernel` to firmware.
pub(crate) fn load(kernel: &Kernel, space: Space, items: &mut Items) -> Result<(), BuildError> {
    linux::load(kernel, space, items)
}
