//! Split virtqueues: Virtual I/O Device 1.2, chapter 2.7.
//!
//! Everything in a queue's memory is written by the guest and believed by nobody: a chain is
//! walked at most as many steps as it may have, and a queue that makes no sense is broken until
//! the device is reset.

pub use crate::dma::Pieces;
use orrery_system::Dma;
use serde::{Deserialize, Serialize};

/// Feature: indirect descriptors.
pub const F_INDIRECT: u64 = 1 << 28;
/// Feature: notifications by index.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// Descriptor flag: another follows.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes it.
const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
const INDIRECT: u16 = 4;

/// Most descriptors of one chain.
const MAX_CHAIN: usize = 1024;

/// The queue makes no sense: the device needs a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("virtqueue makes no sense: {0}")]
pub struct Broken(pub &'static str);

/// A chain of descriptors: one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its first descriptor, by which it is given back.
    pub head: u16,
    /// What the device reads.
    pub readable: Pieces,
    /// What the device writes.
    pub writable: Pieces,
}

/// One queue, as the driver set it up and the device has used it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Entries, a power of two.
    pub size: u16,
    /// Most entries.
    pub max: u16,
    /// The driver has set it up.
    pub enabled: bool,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring (the driver's).
    pub avail: u64,
    /// Used ring (the device's).
    pub used: u64,
    /// MSI-X vector, 0xffff for none.
    pub vector: u16,
    next_avail: u16,
    next_used: u16,
    /// Used index when the driver was last interrupted, if it was.
    signalled: Option<u16>,
}

/// No vector.
pub const NO_VECTOR: u16 = 0xffff;

impl Queue {
    /// A queue of up to `max` entries that the driver has not set up.
    pub fn new(max: u16) -> Self {
        Self {
            size: max,
            max,
            enabled: false,
            desc: 0,
            avail: 0,
            used: 0,
            vector: NO_VECTOR,
            next_avail: 0,
            next_used: 0,
            signalled: None,
        }
    }

    /// Lays the rings out after the descriptor table as legacy drivers do, in pages from `base`.
    pub fn set_legacy_base(&mut self, base: u64) {
        let n = u64::from(self.size);
        self.desc = base;
        self.avail = base.wrapping_add(16 * n);
        self.used = (self.avail.wrapping_add(6 + 2 * n)).wrapping_add(0xfff) & !0xfff;
        self.enabled = base != 0;
    }

    /// Whether a saved queue can be this one.
    pub fn accepts(&self, saved: &Self) -> bool {
        saved.max == self.max && saved.size <= saved.max && (saved.size.is_power_of_two())
    }

    /// Takes the next chain the driver made available. `Ok(None)`: there is none, or memory may
    /// not be reached now.
    pub fn pop(&mut self, dma: &Dma, features: u64) -> Result<Option<Chain>, Broken> {
        if !self.enabled || !dma.is_enabled() {
            return Ok(None);
        }
        let bad = |_| Broken("ring outside memory");
        let index = dma.read_u16(self.avail.wrapping_add(2)).map_err(bad)?;
        let waiting = index.wrapping_sub(self.next_avail);
        if waiting > self.size {
            return Err(Broken("more available than there is room for"));
        }
        if features & F_EVENT_IDX != 0 {
            // Ask to be told of whatever comes after what is known.
            let event = self.used.wrapping_add(4 + 8 * u64::from(self.size));
            dma.write(event, &index.to_le_bytes()).map_err(bad)?;
        }
        if waiting == 0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_avail % self.size);
        let head = dma.read_u16(self.avail.wrapping_add(4 + 2 * slot)).map_err(bad)?;
        let chain = self.chain(dma, head, features)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    fn chain(&self, dma: &Dma, head: u16, features: u64) -> Result<Chain, Broken> {
        let mut chain = Chain { head, ..Chain::default() };
        let (mut table, mut entries, mut index) =
            (self.desc, u32::from(self.size), u32::from(head));
        let (mut indirect, mut steps) = (false, 0);
        loop {
            if index >= entries {
                return Err(Broken("descriptor index"));
            }
            steps += 1;
            if steps > MAX_CHAIN.min(entries as usize + usize::from(indirect)) {
                return Err(Broken("chain without end"));
            }
            let mut d = [0; 16];
            let at = table.wrapping_add(16 * u64::from(index));
            dma.read(at, &mut d).map_err(|_| Broken("descriptor outside memory"))?;
            let addr = u64::from_le_bytes([d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]);
            let len = u32::from_le_bytes([d[8], d[9], d[10], d[11]]);
            let flags = u16::from_le_bytes([d[12], d[13]]);
            if flags & INDIRECT != 0 {
                if features & F_INDIRECT == 0 || indirect || flags & NEXT != 0 {
                    return Err(Broken("indirect descriptor out of place"));
                }
                if len == 0 || len % 16 != 0 {
                    return Err(Broken("size of an indirect table"));
                }
                (table, entries, index, indirect) = (addr, len / 16, 0, true);
                continue;
            }
            if flags & WRITE != 0 {
                chain.writable.add(addr, len);
            } else if chain.writable.count() == 0 {
                chain.readable.add(addr, len);
            } else {
                return Err(Broken("readable after writable"));
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = u16::from_le_bytes([d[14], d[15]]).into();
        }
    }

    /// Gives a chain back, of which the device has written `len` bytes.
    pub fn push(&mut self, dma: &Dma, head: u16, len: u32) -> Result<(), Broken> {
        if !self.enabled || !dma.is_enabled() {
            return Ok(());
        }
        let bad = |_| Broken("ring outside memory");
        let slot = u64::from(self.next_used % self.size);
        let mut entry = [0; 8];
        entry[..2].copy_from_slice(&head.to_le_bytes());
        entry[4..].copy_from_slice(&len.to_le_bytes());
        dma.write(self.used.wrapping_add(4 + 8 * slot), &entry).map_err(bad)?;
        self.next_used = self.next_used.wrapping_add(1);
        dma.write(self.used.wrapping_add(2), &self.next_used.to_le_bytes()).map_err(bad)
    }

    /// Whether the driver wants an interrupt for what was given back since it last got one.
    pub fn wants_interrupt(&mut self, dma: &Dma, features: u64) -> bool {
        if !self.enabled {
            return false;
        }
        if features & F_EVENT_IDX == 0 {
            // Flag: no interrupt, please.
            return dma.read_u16(self.avail).is_ok_and(|flags| flags & 1 == 0);
        }
        let event = dma.read_u16(self.avail.wrapping_add(4 + 2 * u64::from(self.size)));
        let (new, old) = (self.next_used, self.signalled.replace(self.next_used));
        match (event, old) {
            (Ok(event), Some(old)) => {
                new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
            }
            (Ok(_), None) => true,
            (Err(_), _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESC: u64 = 0x1000;
    const AVAIL: u64 = 0x2000;
    const USED: u64 = 0x3000;

    fn queue() -> (Dma, Queue) {
        let mut q = Queue::new(8);
        (q.desc, q.avail, q.used, q.enabled) = (DESC, AVAIL, USED, true);
        (Dma::detached(0x10000), q)
    }

    fn descriptor(dma: &Dma, table: u64, i: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut d = addr.to_le_bytes().to_vec();
        d.extend(len.to_le_bytes());
        d.extend(flags.to_le_bytes());
        d.extend(next.to_le_bytes());
        dma.write(table + 16 * i, &d).unwrap();
    }

    /// Makes the chain at `head` available as number `n`.
    fn available(dma: &Dma, n: u16, head: u16) {
        dma.write(AVAIL + 4 + 2 * u64::from(n % 8), &head.to_le_bytes()).unwrap();
        dma.write(AVAIL + 2, &(n + 1).to_le_bytes()).unwrap();
    }

    #[test]
    fn a_chain_comes_out_in_its_two_parts_and_goes_back() {
        let (dma, mut q) = queue();
        assert_eq!(q.pop(&dma, 0), Ok(None));
        descriptor(&dma, DESC, 3, 0x8000, 16, NEXT, 5);
        descriptor(&dma, DESC, 5, 0x9000, 512, NEXT | WRITE, 1);
        descriptor(&dma, DESC, 1, 0xa000, 1, WRITE, 0);
        available(&dma, 0, 3);
        let chain = q.pop(&dma, 0).unwrap().unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (16, 513));
        chain.writable.write(&dma, 511, &[7, 8]).unwrap();
        assert_eq!((dma.read_u16(0x91fe), dma.read_u16(0xa000)), (Ok(0x0700), Ok(8)));
        q.push(&dma, chain.head, 513).unwrap();
        assert_eq!((dma.read_u16(USED + 2), dma.read_u32(USED + 4)), (Ok(1), Ok(3)));
        assert_eq!(dma.read_u32(USED + 8), Ok(513));
        assert_eq!(q.pop(&dma, 0), Ok(None));
    }

    #[test]
    fn indirect_tables_hold_longer_chains_than_the_queue() {
        let (dma, mut q) = queue();
        for i in 0..20 {
            descriptor(&dma, 0x6000, i, 0x8000, 4, NEXT, i as u16 + 1);
        }
        descriptor(&dma, 0x6000, 20, 0x9000, 1, WRITE, 0);
        descriptor(&dma, DESC, 0, 0x6000, 21 * 16, INDIRECT, 0);
        available(&dma, 0, 0);
        let mut other = q.clone();
        let chain = q.pop(&dma, F_INDIRECT).unwrap().unwrap();
        assert_eq!((chain.readable.len(), chain.writable.len()), (80, 1));
        assert!(other.pop(&dma, 0).is_err(), "not negotiated");
    }

    #[test]
    fn loops_and_wild_indices_break_the_queue_and_nothing_else() {
        let (dma, q) = queue();
        let broken = |flags: u16, next: u16, head: u16, len: u32| {
            descriptor(&dma, DESC, 0, 0x8000, len, flags, next);
            available(&dma, 0, head);
            q.clone().pop(&dma, F_INDIRECT).is_err()
        };
        assert!(broken(NEXT, 0, 0, 4), "a loop");
        assert!(broken(NEXT, 9, 0, 4), "next outside the table");
        assert!(broken(0, 0, 8, 4), "head outside the table");
        assert!(broken(INDIRECT, 0, 0, 24), "odd table size");
        assert!(broken(INDIRECT | NEXT, 0, 0, 16));
        dma.write(AVAIL + 2, &100_u16.to_le_bytes()).unwrap();
        assert!(q.clone().pop(&dma, 0).is_err(), "more than the ring holds");
        let mut outside = Queue { avail: 0xffff_0000, ..q };
        assert!(outside.pop(&dma, 0).is_err());
    }

    #[test]
    fn readable_after_writable_is_refused() {
        let (dma, mut q) = queue();
        descriptor(&dma, DESC, 0, 0x8000, 4, NEXT | WRITE, 1);
        descriptor(&dma, DESC, 1, 0x8000, 4, 0, 0);
        available(&dma, 0, 0);
        assert!(q.pop(&dma, 0).is_err());
    }

    #[test]
    fn interrupts_come_when_the_used_index_passes_the_event() {
        let (dma, mut q) = queue();
        let mut give = |event: u16| {
            dma.write(AVAIL + 4 + 16, &event.to_le_bytes()).unwrap();
            q.push(&dma, 0, 0).unwrap();
            q.wants_interrupt(&dma, F_EVENT_IDX)
        };
        assert!(give(0));
        assert!(!give(2), "not yet");
        assert!(give(2), "now");
        assert!(!give(2), "passed");
        dma.write(AVAIL, &1_u16.to_le_bytes()).unwrap();
        assert!(!q.wants_interrupt(&dma, 0), "by flag");
        dma.write(AVAIL, &0_u16.to_le_bytes()).unwrap();
        assert!(q.wants_interrupt(&dma, 0));
    }

    #[test]
    fn the_legacy_layout_puts_the_used_ring_on_a_page_of_its_own() {
        let mut q = Queue::new(256);
        q.set_legacy_base(0x10_0000);
        assert_eq!((q.desc, q.avail, q.used), (0x10_0000, 0x10_1000, 0x10_2000));
    }

    #[test]
    fn random_rings_end() {
        let mut rng = orrery_system::fuzz::Rng::new(3);
        let (dma, _) = queue();
        for _ in 0..2000 {
            let (_, mut q) = queue();
            for at in (0x1000..0x3200).step_by(8) {
                let v = rng.next_u64();
                // Small numbers make plausible rings.
                let v = if rng.below(2) == 0 { v & 0x0007_0007_0000_ffff } else { v };
                dma.write(at, &v.to_le_bytes()).unwrap();
            }
            dma.write(AVAIL + 2, &8_u16.to_le_bytes()).unwrap();
            for _ in 0..10 {
                if let Ok(Some(chain)) = q.pop(&dma, rng.next_u64()) {
                    let mut out = [0; 64];
                    let _ = chain.readable.read(&dma, 0, &mut out);
                    let _ = q.push(&dma, chain.head, 0);
                }
            }
        }
    }
}
