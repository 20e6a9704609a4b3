//! Bus accesses as a device sees them.

use crate::board::DeviceId;

/// Why a device refused an access.
///
/// A device never panics on guest input and never guesses: it says which of these happened, and
/// the board decides what the guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No register lives at this offset: reads float (all ones), writes are dropped.
    #[error("no register at this offset")]
    NoRegister,
    /// The register exists but not at this width: the board tries two halves instead. Nothing
    /// may have changed in the device.
    #[error("unsupported access width")]
    Width,
    /// The access belongs to another device: PCI configuration through a host bridge, an index
    /// and data port pair. The board makes it there, after this device has returned.
    #[error("the access belongs to another device")]
    Forward {
        /// The device.
        device: DeviceId,
        /// Its bank.
        bank: u32,
        /// Offset in that bank.
        offset: u64,
    },
}

/// What a bus access comes back with.
pub type BusResult<T> = Result<T, BusError>;

/// The register files of a device: its answer to memory-mapped and port accesses alike.
///
/// `bank` tells several register files of one device apart (a PCI function's BARs, its
/// configuration space); a device with one ignores it. `offset` is relative to wherever the
/// machine mapped the bank: a device does not know its base address. `width` is 1, 2, 4 or 8
/// bytes; the access never crosses the end of the mapped bank. Values are little-endian as the
/// bus carries them: byte 0 of the access is the low byte.
pub trait Registers {
    /// Reads `width` bytes at `offset`.
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64>;
    /// Writes the low `width` bytes of `value` at `offset`; the bytes above are zero.
    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()>;
}

/// All ones in `width` bytes: what an open bus reads.
pub const fn open_bus(width: u8) -> u64 {
    if width >= 8 { u64::MAX } else { (1 << (8 * width)) - 1 }
}
