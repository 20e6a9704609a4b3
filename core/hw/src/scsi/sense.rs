//! Sense data (SPC-3 4.5): why a command ended with CHECK CONDITION.

use serde::{Deserialize, Serialize};

/// Sense key, additional code and qualifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sense {
    /// Sense key, 0 to 15.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

impl Sense {
    /// Nothing to report.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// No medium in the drive, tray closed.
    pub const NO_MEDIUM: Self = Self::new(2, 0x3a, 1);
    /// No medium in the drive, tray open.
    pub const TRAY_OPEN: Self = Self::new(2, 0x3a, 2);
    /// A write the medium did not take.
    pub const WRITE_ERROR: Self = Self::new(3, 0x0c, 0);
    /// The medium cannot be read.
    pub const READ_ERROR: Self = Self::new(3, 0x11, 0);
    /// No such command.
    pub const INVALID_OPCODE: Self = Self::new(5, 0x20, 0);
    /// Block address outside the medium.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    /// A field of the command makes no sense.
    pub const INVALID_FIELD: Self = Self::new(5, 0x24, 0);
    /// There is no such unit.
    pub const NO_UNIT: Self = Self::new(5, 0x25, 0);
    /// A field of the parameters makes no sense.
    pub const INVALID_PARAMETER: Self = Self::new(5, 0x26, 0);
    /// The parameters are not as long as they say.
    pub const PARAMETER_LENGTH: Self = Self::new(5, 0x1a, 0);
    /// Saved mode pages are not supported.
    pub const NO_SAVED_PAGES: Self = Self::new(5, 0x39, 0);
    /// The guest locked the tray.
    pub const REMOVAL_PREVENTED: Self = Self::new(5, 0x53, 2);
    /// The medium may have changed.
    pub const MEDIUM_CHANGED: Self = Self::new(6, 0x28, 0);
    /// Power was switched on, or the unit was reset.
    pub const RESET: Self = Self::new(6, 0x29, 0);
    /// The capacity is another.
    pub const CAPACITY_CHANGED: Self = Self::new(6, 0x2a, 9);
    /// The set of units behind the target is another.
    pub const UNITS_CHANGED: Self = Self::new(6, 0x3f, 0x0e);
    /// The operator pressed the eject button.
    pub const EJECT_REQUESTED: Self = Self::new(6, 0x5a, 1);

    /// The medium is protected against writing.
    pub const WRITE_PROTECTED: Self = Self::new(7, 0x27, 0);
    /// The host has no space left.
    pub const NO_SPACE: Self = Self::new(7, 0x27, 7);
    /// The command was aborted.
    pub const ABORTED: Self = Self::new(0xb, 0, 6);
    /// Data that was compared differs.
    pub const MISCOMPARE: Self = Self::new(0xe, 0x1d, 0);

    /// A sense triple.
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq }
    }

    /// Fixed-format sense data, 18 bytes.
    pub fn fixed(self) -> [u8; 18] {
        let mut b = [0; 18];
        (b[0], b[2], b[7], b[12], b[13]) = (0x70, self.key, 10, self.asc, self.ascq);
        b
    }
}
