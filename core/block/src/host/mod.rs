//! The host ports: what a front end lends to the block layer.

mod clock;
mod gate;
mod mem;
mod net;

pub use clock::HostClock;
pub use gate::{Gate, ImplicitOpen};
pub use mem::{HeldFile, MemFile, MemFs};
pub use net::{Address, ByteStream, HostNet, HostTls, Listener, pipe};

use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

/// How much of a file's range holds data, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes that are alike.
    pub len: u64,
    /// False for a hole, which reads as zeros.
    pub data: bool,
}

/// What other programs may do to a file while it is open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Others may read.
    Read,
    /// Nobody else may write; they may read only where the host cannot tell.
    Write,
    /// Give the lock up.
    Unlock,
}

/// Bytes that the host stores: a native file, an OPFS handle, pages in IndexedDB, memory.
///
/// Contract: offsets and lengths are not checked by the caller against [`BlockFile::len`]. A
/// read past the end gives zeros, a write past it makes the file longer. An operation owns its
/// memory; one that was started finishes even when nobody waits any more. Operations that run
/// at the same time and overlap may take effect in any order. A write is stable only after a
/// [`BlockFile::flush`] that was started after it finished. Nothing panics.
pub trait BlockFile: Send + Sync {
    /// Length in bytes, from memory.
    fn len(&self) -> u64;

    /// True when there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when writes are refused.
    fn read_only(&self) -> bool {
        false
    }

    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf>;

    /// Stores `buf` at `offset`; gives the memory back.
    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf>;

    /// Makes everything written so far survive a crash.
    fn flush(&self) -> Op<()>;

    /// Cuts the file or makes it longer with zeros.
    fn set_len(&self, len: u64) -> Op<()>;

    /// Gives storage back; the range reads as zeros afterwards. `Unsupported` where the host
    /// cannot, in which case nothing has changed.
    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        let _ = (offset, len);
        Op::err(BlockError::Unsupported("holes are not supported".into()))
    }

    /// Says whether the range holds data, from memory or a cheap question to the host.
    fn extent(&self, offset: u64, len: u64) -> Extent {
        let _ = offset;
        Extent { len, data: true }
    }

    /// Takes or gives up the host's lock on the file.
    fn lock(&self, mode: LockMode) -> Result<()> {
        let _ = mode;
        Ok(())
    }
}

/// Opens files by name, for tools and for names found inside images.
pub trait HostFs: Send + Sync {
    /// Opens an existing file.
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>>;

    /// Makes an empty file, replacing one of that name.
    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>>;

    /// Fills `buf` with unpredictable bytes; false where the host has none, so that nothing
    /// secret can be made.
    fn random(&self, buf: &mut [u8]) -> bool {
        let _ = buf;
        false
    }

    /// The name that `name`, found inside the image `base`, stands for. The default takes
    /// relative names from the folder of the image, with `/` as separator.
    fn resolve(&self, base: &str, name: &str) -> String {
        match base.rfind('/') {
            Some(slash) if !name.starts_with('/') => format!("{}{name}", &base[..=slash]),
            _ => name.to_owned(),
        }
    }
}
