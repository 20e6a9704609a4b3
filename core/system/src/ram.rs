//! The arena that holds every byte of guest memory.
//!
//! RAM, ROM and video memory of a machine are blocks of one allocation, addressed by byte
//! offset. A translation cache can then keep a plain offset, a snapshot is one copy, and one
//! array of page flags serves the display, migration and the code cache.
//!
//! Values are little-endian. All accesses go through atomics with relaxed ordering, so that
//! sharing the arena between threads is sound; on the hosts Orrery runs on an aligned relaxed
//! access costs the same as a plain one.
#![expect(unsafe_code, reason = "guest memory is one raw allocation shared by CPUs and devices")]

use crate::PAGE_SIZE;
use std::alloc::{Layout, handle_alloc_error};
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed,
};

/// A block of the arena: where a RAM, ROM or video memory begins, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamBlock {
    /// Byte offset in the arena; a multiple of [`PAGE_SIZE`].
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
}

/// One block as listed by [`Ram::blocks`].
#[derive(Clone, Debug)]
pub struct NamedBlock {
    /// Stable name, as in snapshots: `pc.ram`, `vga.vram`.
    pub name: String,
    /// Place in the arena.
    pub block: RamBlock,
}

/// Why a block could not be allocated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory is full: {wanted} bytes for `{name}` asked, {left} left")]
pub struct RamFull {
    /// The block that did not fit.
    pub name: String,
    /// Its length in bytes.
    pub wanted: usize,
    /// Bytes still free in the arena.
    pub left: usize,
}

/// The arena.
pub struct Ram {
    base: *mut u8,
    layout: Layout,
    used: AtomicUsize,
    flags: Box<[AtomicU8]>,
    stale: Mutex<Vec<(usize, usize)>>,
    has_stale: AtomicBool,
    /// Bumped when a page flag was taken back, so that cached "may write directly" is void.
    epoch: AtomicU64,
    blocks: Mutex<Vec<NamedBlock>>,
}

/// Zeroed memory of page alignment from the allocator.
#[cfg(not(target_arch = "wasm32"))]
mod arena {
    pub(super) use std::alloc::{alloc_zeroed as allocate, dealloc as free};
}

/// Zeroed memory of page alignment. New pages of a WebAssembly memory are zero: the allocator does
/// not know that, and clears hundreds of megabytes. They cannot be given back; what is
/// freed waits here for the next machine.
#[cfg(target_arch = "wasm32")]
mod arena {
    use super::Layout;
    use std::sync::{Mutex, PoisonError};

    const PAGE: usize = 65536;
    static SPARE: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

    /// Null where there is no more memory.
    pub(super) unsafe fn allocate(layout: Layout) -> *mut u8 {
        let pages = layout.size().div_ceil(PAGE);
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = spare.iter().position(|&(_, n)| n == pages) {
            let base = spare.swap_remove(at).0 as *mut u8;
            // SAFETY: the pages were grown below and freed since: nobody else has them.
            unsafe { base.write_bytes(0, pages * PAGE) };
            return base;
        }
        match core::arch::wasm32::memory_grow::<0>(pages) {
            usize::MAX => core::ptr::null_mut(),
            first => (first * PAGE) as *mut u8,
        }
    }

    /// `base` is from `allocate` with this layout.
    pub(super) unsafe fn free(base: *mut u8, layout: Layout) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push((base as usize, layout.size().div_ceil(PAGE)));
    }
}

// SAFETY: the allocation is owned, never moves, and is only accessed through atomics.
unsafe impl Send for Ram {}
// SAFETY: as above; `&Ram` hands out values, never references into the allocation.
unsafe impl Sync for Ram {}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: `base` came from `allocate` with this layout and is freed once.
        unsafe { arena::free(self.base, self.layout) }
    }
}

macro_rules! scalar {
    ($read:ident, $write:ident, $write_fast:ident, $ty:ty, $atomic:ty) => {
        /// Reads a little-endian value at byte offset `off`, aligned or not.
        #[inline]
        pub fn $read(&self, off: usize) -> $ty {
            const N: usize = size_of::<$ty>();
            let p = self.at(off, N);
            if off.is_multiple_of(N) {
                // SAFETY: `at` checked the bounds; the address is aligned because `base` is
                // page-aligned; the arena is only ever accessed atomically.
                <$ty>::from_le(unsafe { <$atomic>::from_ptr(p.cast()) }.load(Relaxed))
            } else {
                self.read_unaligned(off, N) as $ty
            }
        }

        /// Writes a little-endian value at byte offset `off` and does the page-flag work.
        #[inline]
        pub fn $write(&self, off: usize, value: $ty) {
            self.$write_fast(off, value);
            self.touch(off, size_of::<$ty>());
        }

        /// Writes without the page-flag work: only for a page seen by [`Ram::writes_freely`].
        #[inline]
        pub fn $write_fast(&self, off: usize, value: $ty) {
            const N: usize = size_of::<$ty>();
            let p = self.at(off, N);
            if off.is_multiple_of(N) {
                // SAFETY: as in the read.
                unsafe { <$atomic>::from_ptr(p.cast()) }.store(value.to_le(), Relaxed);
            } else {
                self.write_unaligned(off, &value.to_le_bytes());
            }
        }
    };
}

impl Ram {
    /// Page flag: changed since the display last looked.
    pub const DIRTY_DISPLAY: u8 = 1 << 0;
    /// Page flag: changed since the last snapshot or migration pass.
    pub const DIRTY_SNAPSHOT: u8 = 1 << 1;
    /// Both dirty flags: a page with all of them set and no [`Ram::CODE`] may be written directly.
    pub const DIRTY: u8 = Self::DIRTY_DISPLAY | Self::DIRTY_SNAPSHOT;
    /// Page flag: translated code was made from this page.
    pub const CODE: u8 = 1 << 2;

    /// Allocates an arena of `capacity` bytes (rounded up to pages), all zero, no block in it.
    pub fn new(capacity: usize) -> Self {
        let pages = capacity.div_ceil(PAGE_SIZE).max(1);
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE)
            .expect("a guest memory of less than half the address space");
        // SAFETY: the layout is not empty.
        let base = unsafe { arena::allocate(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        Self {
            base,
            layout,
            used: AtomicUsize::new(0),
            flags: (0..pages).map(|_| AtomicU8::new(Self::DIRTY)).collect(),
            stale: Mutex::default(),
            has_stale: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            blocks: Mutex::default(),
        }
    }

    /// Takes the next `len` bytes of the arena as a named block.
    pub fn alloc(&self, name: &str, len: usize) -> Result<RamBlock, RamFull> {
        let mut blocks = self.blocks.lock().expect("no panic while held");
        let offset = self.used.load(Relaxed);
        let left = self.layout.size() - offset;
        let Some(rounded) = len.checked_next_multiple_of(PAGE_SIZE).filter(|&n| n <= left) else {
            return Err(RamFull { name: name.into(), wanted: len, left });
        };
        self.used.store(offset + rounded, Relaxed);
        let block = RamBlock { offset, len };
        blocks.push(NamedBlock { name: name.into(), block });
        Ok(block)
    }

    /// Every block, in the order of allocation.
    pub fn blocks(&self) -> Vec<NamedBlock> {
        self.blocks.lock().expect("no panic while held").clone()
    }

    /// Bytes in use by blocks.
    pub fn len(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether no block was allocated yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The whole allocation, for an engine that addresses guest memory itself: its address and
    /// length. Accesses through it must be atomic or made while no other thread runs.
    pub fn as_ptr_range(&self) -> (*mut u8, usize) {
        (self.base, self.layout.size())
    }

    #[inline]
    fn at(&self, off: usize, n: usize) -> *mut u8 {
        // An offset comes from the address map, which only holds ranges inside blocks: anything
        // else is our own fault and must not touch foreign memory.
        assert!(off <= self.layout.size() - n, "offset {off:#x} outside guest memory");
        // SAFETY: in bounds by the assertion (the arena is at least one page, so no underflow).
        unsafe { self.base.add(off) }
    }

    /// Byte by byte: an unaligned access need not be one access.
    #[cold]
    fn read_unaligned(&self, off: usize, n: usize) -> u64 {
        let (word, bit) = (off & !7, (off & 7) as u32 * 8);
        let low = self.read_u64(word) >> bit;
        if off % 8 + n <= 8 { low } else { low | self.read_u64(word + 8) << (64 - bit) }
    }

    /// The aligned pieces of the bytes, one after the other.
    #[cold]
    fn write_unaligned(&self, mut off: usize, mut bytes: &[u8]) {
        while let [b, rest @ ..] = bytes {
            bytes = match bytes {
                [a, b, c, d, rest @ ..] if off.is_multiple_of(4) => {
                    self.write_fast_u32(off, u32::from_le_bytes([*a, *b, *c, *d]));
                    off += 4;
                    rest
                }
                [a, b, rest @ ..] if off.is_multiple_of(2) => {
                    self.write_fast_u16(off, u16::from_le_bytes([*a, *b]));
                    off += 2;
                    rest
                }
                _ => {
                    self.write_fast_u8(off, *b);
                    off += 1;
                    rest
                }
            };
        }
    }

    scalar!(read_u8, write_u8, write_fast_u8, u8, AtomicU8);
    scalar!(read_u16, write_u16, write_fast_u16, u16, AtomicU16);
    scalar!(read_u32, write_u32, write_fast_u32, u32, AtomicU32);
    scalar!(read_u64, write_u64, write_fast_u64, u64, AtomicU64);

    /// Copies guest bytes out.
    pub fn read_bytes(&self, off: usize, out: &mut [u8]) {
        if out.is_empty() {
            return;
        }
        self.at(off, 1);
        self.at(off + out.len() - 1, 1);
        let (mut i, n) = (0, out.len());
        while i < n && !(off + i).is_multiple_of(8) {
            out[i] = self.read_u8(off + i);
            i += 1;
        }
        for word in out[i..].as_chunks_mut().0 {
            *word = self.read_u64(off + i).to_le_bytes();
            i += 8;
        }
        for b in &mut out[i..] {
            *b = self.read_u8(off + i);
            i += 1;
        }
    }

    /// Copies bytes in and does the page-flag work.
    pub fn write_bytes(&self, off: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.at(off, 1);
        self.at(off + bytes.len() - 1, 1);
        let mut i = 0;
        while i < bytes.len() && !(off + i).is_multiple_of(8) {
            self.write_fast_u8(off + i, bytes[i]);
            i += 1;
        }
        for word in bytes[i..].as_chunks().0 {
            self.write_fast_u64(off + i, u64::from_le_bytes(*word));
            i += 8;
        }
        for &b in &bytes[i..] {
            self.write_fast_u8(off + i, b);
            i += 1;
        }
        self.touch(off, bytes.len());
    }

    /// Sets `len` bytes to `value` and does the page-flag work.
    pub fn fill(&self, off: usize, len: usize, value: u8) {
        let chunk = [value; 256];
        let mut done = 0;
        while done < len {
            let n = chunk.len().min(len - done);
            self.write_bytes(off + done, &chunk[..n]);
            done += n;
        }
    }

    /// Sets `len` bytes to the eight of `pattern`, over and over, and does the page-flag work.
    pub fn fill_with(&self, off: usize, len: usize, pattern: [u8; 8]) {
        if len == 0 {
            return;
        }
        self.at(off, len);
        let end = off + len;
        let head = off.next_multiple_of(8).min(end);
        for at in off..head {
            self.write_fast_u8(at, pattern[at - off]);
        }
        let mut turned = pattern;
        turned.rotate_left((head - off) % 8);
        let word = u64::from_le_bytes(turned);
        let words = (end - head) / 8;
        for i in 0..words {
            self.write_fast_u64(head + 8 * i, word);
        }
        for (at, byte) in (head + 8 * words..end).zip(turned) {
            self.write_fast_u8(at, byte);
        }
        self.touch(off, len);
    }

    /// Copies `len` bytes from `from` to `to` and does the page-flag work. `to` must not lie
    /// behind `from` in what is copied.
    pub fn copy(&self, from: usize, to: usize, len: usize) {
        debug_assert!(to <= from || to >= from + len);
        #[cfg(target_arch = "wasm32")]
        {
            // SAFETY: both ranges are in bounds by the assertion in `at`, and no other thread
            // runs; `copy` minds overlaps.
            unsafe { core::ptr::copy(self.at(from, len), self.at(to, len), len) };
            self.touch(to, len);
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let mut chunk = [0; 512];
            let mut done = 0;
            while done < len {
                let n = chunk.len().min(len - done);
                self.read_bytes(from + done, &mut chunk[..n]);
                self.write_bytes(to + done, &chunk[..n]);
                done += n;
            }
        }
    }

    /// Marks the pages of a write dirty and queues those that hold translated code.
    #[inline]
    pub fn touch(&self, off: usize, len: usize) {
        let end = off + len.max(1);
        for page in off / PAGE_SIZE..=(end - 1) / PAGE_SIZE {
            if !self.writes_freely(page) {
                let start = off.max(page * PAGE_SIZE);
                self.touch_slow(page, start, end.min((page + 1) * PAGE_SIZE) - start);
            }
        }
    }

    #[cold]
    fn touch_slow(&self, page: usize, off: usize, len: usize) {
        let before = self.flags[page].fetch_or(Self::DIRTY, Relaxed);
        if before & Self::CODE != 0 {
            let mut stale = self.stale.lock().expect("no panic while held");
            match stale.last_mut() {
                // Bytes in a row are one range.
                Some((start, n)) if *start + *n == off => *n += len,
                Some(last) if *last == (off, len) => {}
                _ => stale.push((off, len)),
            }
            self.has_stale.store(true, Relaxed);
        }
    }

    /// Whether stores to arena page `page` need no page-flag work: dirty already, and no code.
    #[inline]
    pub fn writes_freely(&self, page: usize) -> bool {
        self.flags[page].load(Relaxed) & (Self::DIRTY | Self::CODE) == Self::DIRTY
    }

    /// The flags of arena page `page`.
    #[inline]
    pub fn page_flags(&self, page: usize) -> u8 {
        self.flags[page].load(Relaxed)
    }

    /// Sets flag bits of a page. Setting [`Ram::CODE`] voids cached write permission.
    pub fn set_page_flags(&self, page: usize, bits: u8) {
        let before = self.flags[page].fetch_or(bits, Relaxed);
        if bits & !before & Self::CODE != 0 {
            self.epoch.fetch_add(1, Relaxed);
        }
    }

    /// Clears flag bits of a page. Clearing a dirty bit voids cached write permission.
    pub fn clear_page_flags(&self, page: usize, bits: u8) {
        let before = self.flags[page].fetch_and(!bits, Relaxed);
        if before & bits & Self::DIRTY != 0 {
            self.epoch.fetch_add(1, Relaxed);
        }
    }

    /// Calls `f` with every arena page of `block` that has `bit` set, and clears it there.
    pub fn take_dirty(&self, block: RamBlock, bit: u8, mut f: impl FnMut(usize)) {
        let mut any = false;
        for page in block.offset / PAGE_SIZE..(block.offset + block.len).div_ceil(PAGE_SIZE) {
            if self.flags[page].load(Relaxed) & bit != 0 {
                self.flags[page].fetch_and(!bit, Relaxed);
                any = true;
                f(page);
            }
        }
        if any {
            self.epoch.fetch_add(1, Relaxed);
        }
    }

    /// Changes whenever cached write permission ([`Ram::writes_freely`]) may have become void.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Whether pages with translated code were written since [`Ram::take_stale_code`].
    #[inline]
    pub fn has_stale_code(&self) -> bool {
        self.has_stale.load(Relaxed)
    }

    /// The ranges written, offset and length, in pages with translated code. The pages keep their
    /// [`Ram::CODE`] flag: whoever drops the last translation of a page clears it.
    pub fn take_stale_code(&self) -> Vec<(usize, usize)> {
        self.has_stale.store(false, Relaxed);
        std::mem::take(&mut *self.stale.lock().expect("no panic while held"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_little_endian_at_any_alignment() {
        let ram = Ram::new(2 * PAGE_SIZE);
        for off in 0..16 {
            ram.write_u64(off, 0x0807_0605_0403_0201);
            assert_eq!(ram.read_u8(off), 1);
            assert_eq!(ram.read_u16(off + 1), 0x0302);
            assert_eq!(ram.read_u32(off + 3), 0x0706_0504);
            assert_eq!(ram.read_u64(off), 0x0807_0605_0403_0201);
        }
    }

    #[test]
    fn bytes_copied_in_come_out_at_any_alignment() {
        let ram = Ram::new(2 * PAGE_SIZE);
        for off in 4080..4096 {
            let data: Vec<u8> = (0..37).map(|i| i as u8 ^ off as u8).collect();
            ram.write_bytes(off, &data);
            let mut back = vec![0; 37];
            ram.read_bytes(off, &mut back);
            assert_eq!(back, data);
        }
    }

    #[test]
    fn a_write_across_pages_dirties_both() {
        let ram = Ram::new(3 * PAGE_SIZE);
        let block = ram.alloc("a", 3 * PAGE_SIZE).unwrap();
        ram.take_dirty(block, Ram::DIRTY_DISPLAY, |_| {});
        ram.write_u32(PAGE_SIZE - 2, 7);
        let mut seen = vec![];
        ram.take_dirty(block, Ram::DIRTY_DISPLAY, |p| seen.push(p));
        assert_eq!(seen, [0, 1]);
    }

    #[test]
    fn writes_to_a_code_page_are_reported_as_ranges() {
        let ram = Ram::new(PAGE_SIZE);
        let epoch = ram.epoch();
        ram.set_page_flags(0, Ram::CODE);
        assert_ne!(ram.epoch(), epoch, "cached write permission is void");
        ram.write_u8(5, 1);
        ram.write_u8(6, 1);
        assert!(ram.has_stale_code());
        ram.write_u8(9, 1);
        assert_eq!(ram.take_stale_code(), [(5, 2), (9, 1)]);
        assert!(!ram.has_stale_code());
    }

    #[test]
    fn a_block_that_does_not_fit_is_refused_by_name() {
        let ram = Ram::new(PAGE_SIZE);
        let err = ram.alloc("vga.vram", PAGE_SIZE + 1).unwrap_err();
        assert_eq!(err.name, "vga.vram");
        assert!(ram.alloc("ok", PAGE_SIZE).is_ok());
    }
}
