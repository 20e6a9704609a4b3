//! Cached address translations of one CPU.
//!
//! A direct-mapped table of 4 KiB pages for each MMU index, so that a kernel that looks at a program's
//! pages does not push out what the program knows of them. The *fast* half is what the interpreter
//! compares on every access: it holds a page only when the bytes can be reached
//! directly in the arena. The *slow* half remembers what the page walk said, so that
//! device pages and pages with translated code do not walk again.

use crate::isa::{Access, Mapping};

/// The table of an MMU index has two to the power of so many entries.
pub const BITS: u32 = 12;
const ENTRIES: usize = 1 << BITS;
const TABLES: usize = 4;
const ALL: usize = ENTRIES * TABLES;
const PAGE: u64 = 4096;
const NONE: u64 = u64::MAX;

/// A page reachable directly: tags for reads and writes, and what to add to a linear address.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Fast {
    /// Page address and MMU index where reads are direct.
    pub read: u64,
    /// The same for writes.
    pub write: u64,
    /// Added to a linear address: the arena offset.
    pub addend: u64,
    /// Added to a linear address: the host's address.
    pub host: u64,
}

/// Pages that instructions are fetched from have a table of their own, so that which data pages
/// are known does not depend on how code is looked up: every engine walks alike.
const CODE_ENTRIES: usize = 2048;
/// Bits that pages fetched from are remembered by.
const FETCHED: usize = 1 << 14;

#[derive(Clone, Copy)]
struct Slow {
    tag: u64,
    entry: Entry,
    /// The index is in [`Tlb::used`].
    listed: bool,
}

/// What is known of a page: what the walk found, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the page walk found.
    pub map: Mapping,
    /// Arena offset of the page, where it can be read directly.
    pub offset: Option<usize>,
    /// Stores go to the same bytes.
    pub writable: bool,
}

const NO_ENTRY: Entry = Entry {
    map: Mapping { gpa: 0, read: false, write: false, exec: false, global: false },
    offset: None,
    writable: false,
};
const NO_FAST: Fast = Fast { read: NONE, write: NONE, addend: 0, host: 0 };

/// The table.
pub struct Tlb {
    fast: Box<[Fast; ALL]>,
    slow: Box<[Slow; ALL]>,
    code: Box<[(u64, Entry); CODE_ENTRIES]>,
    /// Indices that may hold something, so that a flush costs what was used.
    used: Vec<u16>,
    /// The same for code.
    code_used: Vec<u16>,
    /// Changes whenever a page that instructions may have been fetched from was flushed, so that
    /// caches of fetch addresses are void: one for each MMU index.
    epochs: [u64; 4],
    /// Pages fetched from since everything was flushed, by a hash: a bit each.
    fetched: Box<[u64; FETCHED / 64]>,
    /// Pages that are not global are among them, by MMU index.
    local: [bool; 4],
    /// Host address of the arena.
    base: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

fn tag(linear: u64, mmu: u8) -> u64 {
    linear & !(PAGE - 1) | u64::from(mmu)
}

fn index(linear: u64, mmu: u8) -> usize {
    usize::from(mmu) % TABLES * ENTRIES + (linear / PAGE) as usize % ENTRIES
}

fn code_index(linear: u64) -> usize {
    (linear / PAGE) as usize % CODE_ENTRIES
}

impl Tlb {
    /// An empty table.
    pub fn new() -> Self {
        let fast = vec![NO_FAST; ALL];
        let slow = vec![Slow { tag: NONE, entry: NO_ENTRY, listed: false }; ALL];
        Self {
            fast: fast.try_into().unwrap_or_else(|_| unreachable!("of that length")),
            slow: slow.try_into().unwrap_or_else(|_| unreachable!("of that length")),
            code: vec![(NONE, NO_ENTRY); CODE_ENTRIES]
                .try_into()
                .unwrap_or_else(|_| unreachable!("of that length")),
            used: Vec::with_capacity(ENTRIES),
            code_used: Vec::with_capacity(CODE_ENTRIES),
            epochs: [0; 4],
            fetched: Box::new([0; FETCHED / 64]),
            local: [false; 4],
            base: 0,
        }
    }

    /// Says where the arena is in the host's memory, for compiled code. What was remembered is
    /// forgotten when that changes.
    pub fn set_base(&mut self, base: u64) {
        if base != self.base {
            self.base = base;
            self.flush();
        }
    }

    /// The fast half for an MMU index.
    pub fn fast(&self, mmu: u8) -> &[Fast] {
        &self.fast[index(0, mmu)..][..ENTRIES]
    }

    /// The arena offset of a read of `size` bytes at `linear`, if known and inside one page.
    #[inline(always)]
    pub fn read(&self, linear: u64, size: u64, mmu: u8) -> Option<usize> {
        let e = &self.fast[index(linear, mmu)];
        // A crossing access compares with the next page's tag, which lives in another entry.
        (e.read == tag(linear.wrapping_add(size - 1), mmu))
            .then(|| linear.wrapping_add(e.addend) as usize)
    }

    /// The arena offset of a write of `size` bytes at `linear`, if no page-flag work is needed.
    #[inline(always)]
    pub fn write(&self, linear: u64, size: u64, mmu: u8) -> Option<usize> {
        let e = &self.fast[index(linear, mmu)];
        (e.write == tag(linear.wrapping_add(size - 1), mmu))
            .then(|| linear.wrapping_add(e.addend) as usize)
    }

    /// What is known of the page, if the page walk allowed this access.
    #[inline]
    pub fn entry(&self, linear: u64, access: Access, mmu: u8) -> Option<Entry> {
        let s = &self.slow[index(linear, mmu)];
        let allowed = match access {
            Access::Read => s.entry.map.read,
            Access::Write => s.entry.map.write,
            Access::Exec => {
                let (at, entry) = self.code[code_index(linear)];
                return (at == tag(linear, mmu) && entry.map.exec).then_some(entry);
            }
        };
        (s.tag == tag(linear, mmu) && allowed).then_some(s.entry)
    }

    /// Remembers a page that instructions were fetched from.
    pub fn insert_code(&mut self, linear: u64, mmu: u8, entry: Entry) {
        let bit = (linear / PAGE) as usize % FETCHED;
        self.fetched[bit / 64] |= 1 << (bit % 64);
        self.local[usize::from(mmu & 3)] |= !entry.map.global;
        let i = code_index(linear);
        if self.code[i].0 == NONE {
            // Single pages that come and go leave their index here more than once.
            if self.code_used.len() >= 2 * CODE_ENTRIES {
                self.code_used.sort_unstable();
                self.code_used.dedup();
            }
            self.code_used.push(i as u16);
        }
        self.code[i] = (tag(linear, mmu), entry);
    }

    /// Remembers a page. `free` says that stores need no page-flag work now.
    pub fn insert(&mut self, linear: u64, mmu: u8, entry: Entry, free: bool) {
        let (i, tag) = (index(linear, mmu), tag(linear, mmu));
        let slow = &mut self.slow[i];
        if !slow.listed {
            self.used.push(i as u16);
        }
        *slow = Slow { tag, entry, listed: true };
        let map = entry.map;
        self.fast[i] = match entry.offset {
            None => NO_FAST,
            Some(offset) => {
                let addend = (offset as u64).wrapping_sub(linear & !(PAGE - 1));
                Fast {
                    read: if map.read { tag } else { NONE },
                    write: if map.write && entry.writable && free { tag } else { NONE },
                    addend,
                    host: addend.wrapping_add(self.base),
                }
            }
        };
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        for i in self.used.drain(..) {
            let i = usize::from(i);
            (self.slow[i].tag, self.slow[i].listed) = (NONE, false);
            self.fast[i] = NO_FAST;
        }
        for i in self.code_used.drain(..) {
            self.code[usize::from(i)].0 = NONE;
        }
        self.fetched.fill(0);
        self.local = [false; 4];
        self.flush_jumps();
    }

    /// Forgets everything not marked global.
    pub fn flush_non_global(&mut self) {
        self.used.retain(|&i| {
            let i = usize::from(i);
            let s = &mut self.slow[i];
            let keep = s.entry.map.global && s.tag != NONE;
            if !keep {
                (s.tag, s.listed) = (NONE, false);
                self.fast[i] = NO_FAST;
            }
            keep
        });
        self.code_used.retain(|&i| {
            let (tag, entry) = &mut self.code[usize::from(i)];
            if !entry.map.global {
                *tag = NONE;
            }
            *tag != NONE
        });
        for (epoch, local) in self.epochs.iter_mut().zip(&mut self.local) {
            *epoch += u64::from(core::mem::take(local));
        }
    }

    /// Forgets the page of `linear`, for every MMU index.
    pub fn flush_page(&mut self, linear: u64) {
        for mmu in 0..TABLES as u8 {
            let i = index(linear, mmu);
            self.slow[i].tag = NONE;
            self.fast[i] = NO_FAST;
        }
        self.code[code_index(linear)].0 = NONE;
        let bit = (linear / PAGE) as usize % FETCHED;
        if self.fetched[bit / 64] >> (bit % 64) & 1 != 0 {
            self.flush_jumps();
        }
    }

    /// Takes back direct writes where `keep` denies the arena page.
    pub fn revoke_writes(&mut self, mut keep: impl FnMut(usize) -> bool) {
        for &i in &self.used {
            let f = &mut self.fast[usize::from(i)];
            if f.write != NONE
                && !keep((f.write & !(PAGE - 1)).wrapping_add(f.addend) as usize / PAGE as usize)
            {
                f.write = NONE;
            }
        }
    }

    /// Voids caches of fetch addresses without forgetting translations.
    pub fn flush_jumps(&mut self) {
        self.epochs.iter_mut().for_each(|epoch| *epoch += 1);
    }

    /// Changes whenever a fetch address found earlier with this MMU index may be void.
    #[inline(always)]
    pub fn epoch(&self, mmu: u8) -> u64 {
        self.epochs[usize::from(mmu & 3)]
    }
}
