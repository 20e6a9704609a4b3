//! What can go wrong with a block request or an image.

use thiserror::Error;

/// Result of a block operation.
pub type Result<T, E = BlockError> = std::result::Result<T, E>;

/// Why a request, an open or a tool operation failed. Text is lower case without a full stop;
/// the front end puts the file name in front.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// No medium in the drive, or its tray is open.
    #[error("no medium")]
    NoMedium,
    /// The request reaches outside the device.
    #[error("request of {len} bytes at offset {offset} is outside the device")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// Write to something that may only be read.
    #[error("read-only")]
    ReadOnly,
    /// The host's storage is full.
    #[error("no space left")]
    NoSpace,
    /// The host said no; its words.
    #[error("{0}")]
    Host(String),
    /// The image contradicts itself or its specification.
    #[error("image is corrupt: {0}")]
    Corrupt(String),
    /// The image uses something this program does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The image is encrypted and no secret was given.
    #[error("image is encrypted ({0}); cannot be used without its secret")]
    Encrypted(&'static str),
    /// An option or argument makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A name inside an image asked for a file that policy does not allow.
    #[error("image refers to '{0}', which may not be opened without being named explicitly")]
    Forbidden(String),
    /// No such node, backend or file.
    #[error("'{0}' not found")]
    NotFound(String),
    /// A name that is already taken.
    #[error("'{0}' already exists")]
    Exists(String),
    /// Another user of the node forbids this.
    #[error("conflicts with another use: {0}")]
    InUse(String),
    /// The guest locked the medium in the drive.
    #[error("medium is locked in the drive")]
    Locked,
    /// The operation was abandoned because what it belonged to is gone.
    #[error("cancelled")]
    Cancelled,
}

impl BlockError {
    /// True for "disk full", which drives may treat apart (`werror=enospc`).
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace)
    }

    /// Shorthand for [`BlockError::Corrupt`].
    pub(crate) fn corrupt(text: impl Into<String>) -> Self {
        Self::Corrupt(text.into())
    }

    /// Shorthand for [`BlockError::Unsupported`].
    pub(crate) fn unsupported(text: impl Into<String>) -> Self {
        Self::Unsupported(text.into())
    }

    /// Shorthand for [`BlockError::Invalid`].
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }
}
