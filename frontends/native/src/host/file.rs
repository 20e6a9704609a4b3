//! A disk image in a host file.
//!
//! Requests complete in place: the page cache answers most of them faster than a thread could be
//! woken. Writes are stable after `fdatasync`.

use orrery_block::host::{BlockFile, Extent, LockMode};
use orrery_block::{BlockError, IoBuf, Op, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An open host file.
pub(super) struct NativeFile {
    file: File,
    name: String,
    len: AtomicU64,
    read_only: bool,
}

impl NativeFile {
    /// Wraps an open file or block device.
    pub(super) fn new(file: File, name: &str, read_only: bool) -> io::Result<Self> {
        use std::io::{Seek, SeekFrom};
        // The end of a block device is found by seeking, not in its metadata.
        let len = (&file).seek(SeekFrom::End(0))?;
        Ok(Self { file, name: name.into(), len: AtomicU64::new(len), read_only })
    }

    fn error(&self, what: &str, e: &io::Error) -> BlockError {
        host_error(&self.name, what, e)
    }

    fn read_all(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.file.read_at(buf, offset) {
                // Past the end of the file there are zeros.
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// A host error as the block layer carries it.
pub(super) fn host_error(name: &str, what: &str, e: &io::Error) -> BlockError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            BlockError::NoSpace
        }
        _ => BlockError::Host(format!("cannot {what} '{name}': {e}")),
    }
}

impl BlockFile for NativeFile {
    fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        match self.read_all(offset, &mut buf) {
            Ok(()) => Op::ok(buf),
            Err(e) => Op::err(self.error("read", &e)),
        }
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        match self.file.write_all_at(&buf, offset) {
            Ok(()) => {
                self.len.fetch_max(offset + buf.len() as u64, Relaxed);
                Op::ok(buf)
            }
            Err(e) => Op::err(self.error("write", &e)),
        }
    }

    fn flush(&self) -> Op<()> {
        match self.file.sync_data() {
            Ok(()) => Op::ok(()),
            Err(e) => Op::err(self.error("flush", &e)),
        }
    }

    fn set_len(&self, len: u64) -> Op<()> {
        // The first block of a file that was empty is written: what alignment the host asks for
        // can be found out on it, and tools expect it there.
        let first = if self.len() == 0 { len.min(4096) as usize } else { 0 };
        let sized = self.file.set_len(len);
        match sized.and_then(|()| self.file.write_all_at(&[0; 4096][..first], 0)) {
            Ok(()) => {
                self.len.store(len, Relaxed);
                Op::ok(())
            }
            Err(e) => Op::err(self.error("resize", &e)),
        }
    }

    #[cfg(target_os = "linux")]
    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, len) {
            Ok(()) => Op::ok(()),
            Err(e) => Op::err(BlockError::Unsupported(format!("no holes in '{}': {e}", self.name))),
        }
    }

    #[cfg(target_os = "linux")]
    fn extent(&self, offset: u64, len: u64) -> Extent {
        use rustix::fs::{SeekFrom, seek};
        let all = Extent { len, data: true };
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Extent { len: len.min(data - offset), data: false },
            Ok(_) => match seek(&self.file, SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => Extent { len: len.min(hole - offset), data: true },
                _ => all,
            },
            // No data behind the offset.
            Err(rustix::io::Errno::NXIO) => Extent { len, data: false },
            Err(_) => all,
        }
    }

    fn lock(&self, mode: LockMode) -> Result<()> {
        let busy = || {
            Err(BlockError::Host(format!(
                "'{}' is in use by another program; close it there, or open it read-only here",
                self.name
            )))
        };
        match mode {
            LockMode::Unlock => self.file.unlock().map_err(|e| self.error("unlock", &e)),
            LockMode::Read => match self.file.try_lock_shared() {
                Err(std::fs::TryLockError::WouldBlock) => busy(),
                // A file system without locks is used without them.
                _ => Ok(()),
            },
            LockMode::Write => match self.file.try_lock() {
                Err(std::fs::TryLockError::WouldBlock) => busy(),
                _ => Ok(()),
            },
        }
    }
}
