//! A disk image in a host file.
//!
//! Requests complete in place: the page cache answers most of them faster than a thread could be
//! woken. Writes are stable after `fdatasync`.
//!
//! A file can be opened past the page cache. Requests then go through aligned memory, in whole
//! blocks: a block that changes in part is read before.

use orrery_block::host::{BlockFile, Extent, LockMode};
use orrery_block::{BlockError, IoBuf, Op, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

/// Alignment of memory that every disk takes.
const PAGE: usize = 4096;
/// Disks are whole sectors.
const SECTOR: u64 = 512;

/// An open host file.
pub(super) struct NativeFile {
    file: File,
    name: String,
    len: AtomicU64,
    read_only: bool,
    direct: Option<Direct>,
}

/// Access past the page cache.
struct Direct {
    /// What offsets and lengths are multiples of.
    align: u64,
    /// Held alone while a block changes in part.
    blocks: RwLock<()>,
}

/// Zeroed memory at an address that every disk takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().align_offset(PAGE) == 0
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self { bytes, start, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl NativeFile {
    /// Wraps an open file or block device.
    pub(super) fn new(file: File, name: &str, read_only: bool) -> io::Result<Self> {
        use std::io::{Seek, SeekFrom};
        // The end of a block device is found by seeking, not in its metadata.
        let len = (&file).seek(SeekFrom::End(0))?;
        Ok(Self { file, name: name.into(), len: AtomicU64::new(len), read_only, direct: None })
    }

    /// The same for a file that was opened past the page cache.
    pub(super) fn new_direct(file: File, name: &str, read_only: bool) -> io::Result<Self> {
        let this = Self::new(file, name, read_only)?;
        // What the disk takes is found by asking it.
        let takes =
            |align: u64| this.file.read_at(Aligned::new(align as usize).get(), align).is_ok();
        let align = if takes(SECTOR) { SECTOR } else { PAGE as u64 };
        Ok(Self { direct: Some(Direct { align, blocks: RwLock::default() }), ..this })
    }

    fn read_direct(&self, align: u64, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = offset / align * align;
        let to = (offset + buf.len() as u64).next_multiple_of(align);
        if to - from == buf.len() as u64 && is_aligned(buf) {
            return self.read_all(from, buf);
        }
        let mut bounce = Aligned::new((to - from) as usize);
        self.read_all(from, bounce.get())?;
        let skip = (offset - from) as usize;
        buf.copy_from_slice(&bounce.get()[skip..skip + buf.len()]);
        Ok(())
    }

    fn write_direct(&self, direct: &Direct, offset: u64, buf: &[u8]) -> io::Result<()> {
        let align = direct.align;
        let end = offset + buf.len() as u64;
        let (from, to) = (offset / align * align, end.next_multiple_of(align));
        if (from, to) == (offset, end) {
            let _together = direct.blocks.read().unwrap_or_else(PoisonError::into_inner);
            if is_aligned(buf) {
                self.file.write_all_at(buf, from)?;
            } else {
                let mut bounce = Aligned::new(buf.len());
                bounce.get().copy_from_slice(buf);
                self.file.write_all_at(bounce.get(), from)?;
            }
        } else {
            let mut bounce = Aligned::new((to - from) as usize);
            let _alone = direct.blocks.write().unwrap_or_else(PoisonError::into_inner);
            let last = (to - align - from) as usize;
            if from < offset {
                self.read_all(from, &mut bounce.get()[..align as usize])?;
            }
            if end < to && (last > 0 || from == offset) {
                self.read_all(to - align, &mut bounce.get()[last..])?;
            }
            let skip = (offset - from) as usize;
            bounce.get()[skip..skip + buf.len()].copy_from_slice(buf);
            self.file.write_all_at(bounce.get(), from)?;
            let len = self.len.load(Relaxed).max(end);
            if to > len {
                self.file.set_len(len)?;
            }
        }
        self.len.fetch_max(end, Relaxed);
        Ok(())
    }

    /// Data and holes as the host knows them.
    #[cfg(target_os = "linux")]
    fn host_extent(&self, offset: u64, len: u64) -> Extent {
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
        let len = self.len.load(Relaxed);
        if self.direct.is_some() { len.next_multiple_of(SECTOR) } else { len }
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        let result = match &self.direct {
            None => self.read_all(offset, &mut buf),
            Some(direct) => self.read_direct(direct.align, offset, &mut buf),
        };
        match result {
            Ok(()) => Op::ok(buf),
            Err(e) => Op::err(self.error("read", &e)),
        }
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let result = match &self.direct {
            None => self.file.write_all_at(&buf, offset),
            Some(direct) => self.write_direct(direct, offset, &buf),
        };
        match result {
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
        let zeros = &[0; 4096][..first];
        let written = sized.and_then(|()| match &self.direct {
            Some(direct) if first > 0 => self.write_direct(direct, 0, zeros),
            _ => self.file.write_all_at(zeros, 0),
        });
        match written {
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
        let extent = self.host_extent(offset, len);
        let Some(Direct { align, .. }) = &self.direct else { return extent };
        let end = offset + extent.len;
        // What a block has anywhere, the whole block has.
        match (extent.data, end / align * align) {
            (true, _) => Extent { len: end.next_multiple_of(*align) - offset, data: true },
            (false, _) if extent.len == len => extent,
            (false, end) if end > offset => Extent { len: end - offset, data: false },
            _ => Extent { len: align - offset % align, data: true },
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn past_the_page_cache_parts_of_blocks_change_and_the_length_is_exact() {
        let name = std::env::temp_dir().join(format!("orrery-direct-{}", std::process::id()));
        std::fs::write(&name, vec![1; 10_000]).expect("a temporary file");
        let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
        let opened =
            std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&name);
        if let Ok(file) = opened {
            let file = NativeFile::new_direct(file, "disk", false).expect("opens");
            assert_eq!(file.len(), 10_240, "a disk is whole sectors");
            let done = |op: Op<IoBuf>| match op {
                Op::Done(Some(result)) => result.expect("works"),
                _ => panic!("requests to files are done in place"),
            };
            done(file.write_at(5000, vec![2; 100].into()));
            done(file.write_at(9990, vec![3; 100].into()));
            let mut large = IoBuf::zeroed(65_536);
            large.fill(4);
            done(file.write_at(65_536, large));
            let bytes = done(file.read_at(4990, IoBuf::zeroed(120)));
            assert_eq!(bytes.iter().map(|b| u32::from(*b)).sum::<u32>(), 20 + 200);
        }
        let bytes = std::fs::read(&name).expect("still there");
        let _ = std::fs::remove_file(&name);
        if bytes.len() != 10_000 {
            assert_eq!(bytes.len(), 131_072);
            assert_eq!((bytes[9989], bytes[9990], bytes[10_089], bytes[10_090]), (1, 3, 3, 0));
            assert_eq!((bytes[65_535], bytes[65_536]), (0, 4));
        }
    }
}
