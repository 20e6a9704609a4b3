//! Cached address translations of one CPU.
//!
//! A direct-mapped table of 4 KiB pages. The *fast* half is what the interpreter
//! compares on every access: it holds a page only when the bytes can be reached
//! directly in the arena. The *slow* half remembers what the page walk said, so that
//! device pages and pages with translated code do not walk again.

use crate::isa::{Access, Mapping};

const BITS: u32 = 12;
const ENTRIES: usize = 1 << BITS;
const PAGE: u64 = 4096;
const NONE: u64 = u64::MAX;

/// A page reachable directly: tags for reads and writes, and what to add to a linear address.
#[derive(Clone, Copy)]
struct Fast {
    read: u64,
    write: u64,
    addend: u64,
}

#[derive(Clone, Copy)]
struct Slow {
    tag: u64,
    map: Mapping,
}

const NO_MAPPING: Mapping =
    Mapping { gpa: 0, read: false, write: false, exec: false, global: false };

/// The table.
pub struct Tlb {
    fast: Box<[Fast; ENTRIES]>,
    slow: Box<[Slow; ENTRIES]>,
    /// Changes whenever an entry went away, so that caches of fetch addresses are void.
    epoch: u64,
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

fn tag(linear: u64, mmu: u8) -> u64 {
    linear & !(PAGE - 1) | u64::from(mmu)
}

fn index(linear: u64) -> usize {
    (linear / PAGE) as usize % ENTRIES
}

impl Tlb {
    /// An empty table.
    pub fn new() -> Self {
        let fast = vec![Fast { read: NONE, write: NONE, addend: 0 }; ENTRIES];
        let slow = vec![Slow { tag: NONE, map: NO_MAPPING }; ENTRIES];
        Self {
            fast: fast.try_into().unwrap_or_else(|_| unreachable!("of that length")),
            slow: slow.try_into().unwrap_or_else(|_| unreachable!("of that length")),
            epoch: 0,
        }
    }

    /// The arena offset of a read of `size` bytes at `linear`, if known and inside one page.
    #[inline(always)]
    pub fn read(&self, linear: u64, size: u64, mmu: u8) -> Option<usize> {
        let e = &self.fast[index(linear)];
        // A crossing access compares with the next page's tag, which lives in another entry.
        (e.read == tag(linear.wrapping_add(size - 1), mmu))
            .then(|| linear.wrapping_add(e.addend) as usize)
    }

    /// The arena offset of a write of `size` bytes at `linear`, if no page-flag work is needed.
    #[inline(always)]
    pub fn write(&self, linear: u64, size: u64, mmu: u8) -> Option<usize> {
        let e = &self.fast[index(linear)];
        (e.write == tag(linear.wrapping_add(size - 1), mmu))
            .then(|| linear.wrapping_add(e.addend) as usize)
    }

    /// What a page walk for this access found before, if it allowed it.
    pub fn mapping(&self, linear: u64, access: Access, mmu: u8) -> Option<Mapping> {
        let e = &self.slow[index(linear)];
        let allowed = match access {
            Access::Read => e.map.read,
            Access::Write => e.map.write,
            Access::Exec => e.map.exec,
        };
        (e.tag == tag(linear, mmu) && allowed).then_some(e.map)
    }

    /// Remembers a page walk. `offset` is the page's place in the arena when it can be read
    /// directly; `writable` says that stores need no page-flag work.
    pub fn insert(
        &mut self,
        linear: u64,
        mmu: u8,
        map: Mapping,
        offset: Option<usize>,
        writable: bool,
    ) {
        let (i, tag) = (index(linear), tag(linear, mmu));
        self.slow[i] = Slow { tag, map };
        self.fast[i] = match offset {
            None => Fast { read: NONE, write: NONE, addend: 0 },
            Some(offset) => Fast {
                read: if map.read { tag } else { NONE },
                write: if map.write && writable { tag } else { NONE },
                addend: (offset as u64).wrapping_sub(linear & !(PAGE - 1)),
            },
        };
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.fast.fill(Fast { read: NONE, write: NONE, addend: 0 });
        self.slow.fill(Slow { tag: NONE, map: NO_MAPPING });
        self.epoch += 1;
    }

    /// Forgets everything not marked global.
    pub fn flush_non_global(&mut self) {
        for (s, f) in self.slow.iter_mut().zip(self.fast.iter_mut()) {
            if !s.map.global {
                s.tag = NONE;
                *f = Fast { read: NONE, write: NONE, addend: 0 };
            }
        }
        self.epoch += 1;
    }

    /// Forgets the page of `linear`, for every MMU index.
    pub fn flush_page(&mut self, linear: u64) {
        let i = index(linear);
        self.slow[i].tag = NONE;
        self.fast[i] = Fast { read: NONE, write: NONE, addend: 0 };
        self.epoch += 1;
    }

    /// Takes back direct writes where `keep` denies the arena page.
    pub fn revoke_writes(&mut self, mut keep: impl FnMut(usize) -> bool) {
        for f in self.fast.iter_mut() {
            if f.write != NONE
                && !keep((f.write & !(PAGE - 1)).wrapping_add(f.addend) as usize / PAGE as usize)
            {
                f.write = NONE;
            }
        }
    }

    /// Voids caches of fetch addresses without forgetting translations.
    pub fn flush_jumps(&mut self) {
        self.epoch += 1;
    }

    /// Changes whenever a fetch address found earlier may be void.
    #[inline(always)]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
