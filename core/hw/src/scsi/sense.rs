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
    /// The medium cannot be read.
    pub const READ_ERROR: Self = Self::new(3, 0x11, 0);
    /// No such command.
    pub const INVALID_OPCODE: Self = Self::new(5, 0x20, 0);
    /// Block address outside the medium.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(5, 0x21, 0);
    /// A field of the command makes no sense.
    pub const INVALID_FIELD: Self = Self::new(5, 0x24, 0);
    /// Saved mode pages are not supported.
    pub const NO_SAVED_PAGES: Self = Self::new(5, 0x39, 0);
    /// The guest locked the tray.
    pub const REMOVAL_PREVENTED: Self = Self::new(5, 0x53, 2);
    /// The medium may have changed.
    pub const MEDIUM_CHANGED: Self = Self::new(6, 0x28, 0);
    /// The operator pressed the eject button.
    pub const EJECT_REQUESTED: Self = Self::new(6, 0x5a, 1);

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
