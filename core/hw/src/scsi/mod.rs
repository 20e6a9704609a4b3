//! SCSI: command sets, units and the bus they are on. ATAPI and USB drives speak them too.
//!
//! [`sbc`] and [`mmc`] say what a disk and a CD-ROM drive answer, on the ground of [`spc`]. A host adapter holds a
//! [`Bus`] of units and carries [`Step`]s between it and the guest.

mod bus;
pub mod lsi53c895a;
pub mod mmc;
pub mod pvscsi;
pub mod sbc;
mod scatter;
pub mod sense;
pub mod spc;
mod unit;

pub use bus::{Address, Bus, BusState, Step, Transfer};
pub use scatter::{Memory, Progress};
pub use unit::{Kind, UnitConfig};

/// Status of a command, SAM-3 5.3.1.
pub mod status {
    /// It is done.
    pub const GOOD: u8 = 0;
    /// It failed, and sense data says why.
    pub const CHECK_CONDITION: u8 = 2;
    /// The unit cannot take it now.
    pub const BUSY: u8 = 8;
    /// It was given up.
    pub const TASK_ABORTED: u8 = 0x40;
}
