//! Command headers and physical region descriptor tables (AHCI 1.3.1, 4.2).

use orrery_system::Dma;
use serde::{Deserialize, Serialize};

/// A command header of the command list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    flags: u16,
    entries: u16,
    /// The command table.
    pub(super) table: u64,
}

impl Header {
    /// Reads the header of `slot` from the list at `list`.
    pub(super) fn fetch(dma: &Dma, list: u64, slot: u8) -> Option<Self> {
        let mut b = [0; 16];
        dma.read(list.wrapping_add(32 * u64::from(slot)), &mut b).ok()?;
        let word = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let table = (u64::from(word(8)) | u64::from(word(12)) << 32) & !0x7f;
        Some(Self { flags: word(0) as u16, entries: (word(0) >> 16) as u16, table })
    }

    /// Length of the command FIS in bytes.
    pub(super) fn fis_len(self) -> usize {
        usize::from(self.flags & 0x1f) * 4
    }

    /// Clears BSY once the command FIS was sent (software reset).
    pub(super) fn clears_busy(self) -> bool {
        self.flags & 1 << 10 != 0
    }

    /// A cursor at the start of its regions.
    pub(super) fn regions(self) -> Cursor {
        Cursor { table: self.table.wrapping_add(0x80), entries: self.entries, index: 0, offset: 0 }
    }
}

/// A place in a table of regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor {
    table: u64,
    entries: u16,
    index: u16,
    offset: u32,
}

impl Cursor {
    /// Calls `piece(address, at, n)` for the pieces of `len` bytes of the regions from here.
    /// Returns how many bytes there were.
    fn walk(
        &mut self,
        dma: &Dma,
        len: usize,
        mut piece: impl FnMut(u64, usize, usize) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < len && self.index < self.entries {
            let mut b = [0; 16];
            let at = self.table.wrapping_add(16 * u64::from(self.index));
            if dma.read(at, &mut b).is_err() {
                break;
            }
            let word = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
            let addr = u64::from(word(0) & !1) | u64::from(word(4)) << 32;
            let size = (word(12) & 0x3f_ffff) + 1;
            if self.offset >= size {
                self.index += 1;
                self.offset = 0;
                continue;
            }
            let n = (len - done).min((size - self.offset) as usize);
            if !piece(addr.wrapping_add(self.offset.into()), done, n) {
                break;
            }
            self.offset += n as u32;
            done += n;
        }
        done
    }

    /// Stores `data` in the regions; returns how much found a place.
    pub(super) fn scatter(&mut self, dma: &Dma, data: &[u8]) -> usize {
        self.walk(dma, data.len(), |addr, at, n| dma.write(addr, &data[at..at + n]).is_ok())
    }

    /// Fetches up to `data.len()` bytes from the regions; returns how many there were.
    pub(super) fn gather(&mut self, dma: &Dma, data: &mut [u8]) -> usize {
        let len = data.len();
        self.walk(dma, len, |addr, at, n| dma.read(addr, &mut data[at..at + n]).is_ok())
    }
}
