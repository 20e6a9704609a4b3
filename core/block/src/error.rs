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
    /// Something in an image is larger than anybody should have to read.
    #[error("{0}")]
    TooLarge(String),
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
    #[error("{0}")]
    InUse(String),
    /// The guest locked the medium in the drive.
    #[error("medium is locked in the drive")]
    Locked,
    /// The host, a server or a test said so by number.
    #[error("{}", errno_text(*.0))]
    Errno(i32),
    /// The operation was abandoned because what it belonged to is gone.
    #[error("cancelled")]
    Cancelled,
}

/// Error numbers, as Linux has them.
pub mod errno {
    #![expect(missing_docs, reason = "known by their names")]
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EIO: i32 = 5;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const EBUSY: i32 = 16;
    pub const EINVAL: i32 = 22;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const EOVERFLOW: i32 = 75;
    pub const ENOTSUP: i32 = 95;
    pub const ESHUTDOWN: i32 = 108;
    pub const ETIMEDOUT: i32 = 110;
    pub const ENOMEDIUM: i32 = 123;
    pub const ECANCELED: i32 = 125;
}

/// Words for the usual error numbers.
fn errno_text(number: i32) -> String {
    let text = match number {
        errno::EPERM => "Operation not permitted",
        errno::ENOENT => "No such file or directory",
        errno::EIO => "Input/output error",
        errno::ENOMEM => "Cannot allocate memory",
        errno::EACCES => "Permission denied",
        errno::EBUSY => "Device or resource busy",
        errno::EINVAL => "Invalid argument",
        errno::EFBIG => "File too large",
        errno::ENOSPC => "No space left on device",
        errno::EROFS => "Read-only file system",
        errno::EOVERFLOW => "Value too large for defined data type",
        errno::ENOTSUP => "Operation not supported",
        errno::ESHUTDOWN => "Cannot send after transport endpoint shutdown",
        errno::ETIMEDOUT => "Connection timed out",
        errno::ENOMEDIUM => "No medium found",
        errno::ECANCELED => "Operation canceled",
        _ => return format!("Unknown error {number}"),
    };
    text.into()
}

impl BlockError {
    /// True for "disk full", which drives may treat apart (`werror=enospc`).
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace | Self::Errno(errno::ENOSPC))
    }

    /// The number that Linux has for this.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Errno(number) => *number,
            Self::NoSpace => errno::ENOSPC,
            Self::ReadOnly => errno::EPERM,
            Self::OutOfRange { .. } | Self::Invalid(_) => errno::EINVAL,
            Self::NoMedium => errno::ENOMEDIUM,
            Self::Unsupported(_) => errno::ENOTSUP,
            Self::NotFound(_) => errno::ENOENT,
            Self::InUse(_) => errno::EBUSY,
            Self::Cancelled => errno::ECANCELED,
            Self::TooLarge(_) => errno::EFBIG,
            _ => errno::EIO,
        }
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
