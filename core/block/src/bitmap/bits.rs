//! A sparse set of equal pieces of a disk.

use std::ops::Range;

const WORDS: usize = 64;
const CHUNK_BITS: u64 = WORDS as u64 * 64;

/// One bit for each `granularity` bytes of a disk. Clean stretches take no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    size: u64,
    shift: u32,
    chunks: Vec<Option<Box<[u64; WORDS]>>>,
    ones: u64,
}

impl Bits {
    /// All clean. `granularity` is a power of two.
    pub fn new(size: u64, granularity: u64) -> Self {
        let mut bits =
            Self { size: 0, shift: granularity.trailing_zeros(), chunks: Vec::new(), ones: 0 };
        bits.resize(size);
        bits
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes to a bit.
    pub fn granularity(&self) -> u64 {
        1 << self.shift
    }

    /// Number of bits.
    pub fn bits(&self) -> u64 {
        self.size.div_ceil(self.granularity())
    }

    /// Dirty bytes; the last bit counts whole.
    pub fn count(&self) -> u64 {
        self.ones << self.shift
    }

    /// True when nothing is dirty.
    pub fn is_clean(&self) -> bool {
        self.ones == 0
    }

    /// Follows the disk to a new size; what is new is clean.
    pub fn resize(&mut self, size: u64) {
        if size < self.size {
            let first = size.div_ceil(self.granularity());
            self.apply(first, self.bits(), false);
        }
        self.size = size;
        self.chunks.resize(self.bits().div_ceil(CHUNK_BITS) as usize, None);
    }

    fn range(&self, offset: u64, len: u64) -> Option<(u64, u64)> {
        let end = offset.saturating_add(len).min(self.size);
        (offset < end).then(|| (offset >> self.shift, ((end - 1) >> self.shift) + 1))
    }

    fn apply(&mut self, mut bit: u64, end: u64, on: bool) {
        while bit < end {
            let chunk = (bit / CHUNK_BITS) as usize;
            let stop = end.min((chunk as u64 + 1) * CHUNK_BITS);
            let slot = &mut self.chunks[chunk];
            if slot.is_none() && !on {
                bit = stop;
                continue;
            }
            let words = slot.get_or_insert_with(|| Box::new([0; WORDS]));
            while bit < stop {
                let within = (bit % 64) as u32;
                let n = (64 - u64::from(within)).min(stop - bit);
                let mask = (u64::MAX >> (64 - n)) << within;
                let word = &mut words[(bit % CHUNK_BITS / 64) as usize];
                let before = word.count_ones();
                *word = if on { *word | mask } else { *word & !mask };
                self.ones = self.ones + u64::from(word.count_ones()) - u64::from(before);
                bit += n;
            }
            if !on && words.iter().all(|word| *word == 0) {
                *slot = None;
            }
        }
    }

    /// Makes every piece that the range touches dirty.
    pub fn set(&mut self, offset: u64, len: u64) {
        if let Some((first, end)) = self.range(offset, len) {
            self.apply(first, end, true);
        }
    }

    /// Makes every piece that the range touches clean.
    pub fn clear(&mut self, offset: u64, len: u64) {
        if let Some((first, end)) = self.range(offset, len) {
            self.apply(first, end, false);
        }
    }

    fn word(&self, index: u64) -> u64 {
        let chunk = self.chunks.get((index / WORDS as u64) as usize).and_then(Option::as_ref);
        chunk.map_or(0, |words| words[index as usize % WORDS])
    }

    /// True when the piece with this byte is dirty.
    pub fn get(&self, offset: u64) -> bool {
        let bit = offset >> self.shift;
        offset < self.size && self.word(bit / 64) >> (bit % 64) & 1 != 0
    }

    /// The first bit from `bit` on that is `on`.
    fn find(&self, mut bit: u64, on: bool) -> Option<u64> {
        let end = self.bits();
        while bit < end {
            if on && self.chunks[(bit / CHUNK_BITS) as usize].is_none() {
                bit = (bit / CHUNK_BITS + 1) * CHUNK_BITS;
                continue;
            }
            let word = self.word(bit / 64);
            let word = if on { word } else { !word } & (u64::MAX << (bit % 64));
            if word != 0 {
                let found = bit / 64 * 64 + u64::from(word.trailing_zeros());
                return (found < end).then_some(found);
            }
            bit = (bit / 64 + 1) * 64;
        }
        None
    }

    /// The next dirty range at or after `offset`, at most `max` bytes of it.
    pub fn next_dirty(&self, offset: u64, max: u64) -> Option<Range<u64>> {
        if offset >= self.size {
            return None;
        }
        let first = self.find(offset >> self.shift, true)?;
        let end = self.find(first, false).map_or(self.size, |bit| bit << self.shift);
        let start = (first << self.shift).max(offset);
        Some(start..end.min(start.saturating_add(max)).min(self.size))
    }

    /// The next clean byte at or after `offset`.
    pub fn next_clean(&self, offset: u64) -> Option<u64> {
        let first = self.find(offset >> self.shift, false)?;
        Some((first << self.shift).max(offset))
    }

    /// Adds everything that is dirty in `other`, whatever its granularity.
    pub fn merge(&mut self, other: &Self) {
        let mut at = 0;
        while let Some(range) = other.next_dirty(at, u64::MAX) {
            self.set(range.start, range.end - range.start);
            at = range.end;
        }
    }

    /// The bits from `first` on as little-endian bytes, `len` of them.
    pub fn bytes(&self, first: u64, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8) as u64)
            .flat_map(|i| self.word(first / 64 + i).to_le_bytes())
            .take(len)
            .collect()
    }

    /// Adds bits from little-endian bytes; what lies behind the end is ignored.
    pub fn load(&mut self, first: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 != 0) {
                let bit = first + i as u64 * 8 + bit;
                if bit < self.bits() {
                    self.apply(bit, bit + 1, true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_a_plain_vector() {
        let (size, grain) = (1_000_000, 512);
        let mut bits = Bits::new(size, grain);
        let mut model = vec![false; size.div_ceil(grain) as usize];
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for _ in 0..400 {
            let (offset, len, on) = (random(size), random(60_000) + 1, random(3) != 0);
            let end = (offset + len).min(size);
            model[(offset / grain) as usize..=((end - 1) / grain) as usize].fill(on);
            if on {
                bits.set(offset, len);
            } else {
                bits.clear(offset, len);
            }
            let ones = model.iter().filter(|bit| **bit).count() as u64;
            assert_eq!(bits.count(), ones * grain);
            let from = random(size);
            let first = (from / grain..model.len() as u64).find(|i| model[*i as usize]);
            let found = bits.next_dirty(from, u64::MAX);
            assert_eq!(found.clone().map(|r| r.start / grain), first);
            if let Some(range) = found {
                let stop = (first.unwrap()..model.len() as u64).find(|i| !model[*i as usize]);
                assert_eq!(range.end, stop.map_or(size, |i| i * grain));
            }
        }
        let mut copy = Bits::new(size, grain);
        copy.load(0, &bits.bytes(0, model.len().div_ceil(8)));
        assert_eq!(copy.count(), bits.count());
        let mut coarse = Bits::new(size, 65536);
        coarse.merge(&bits);
        assert!((0..size).step_by(100).all(|at| !bits.get(at) || coarse.get(at)));
        bits.resize(10_000);
        assert!(bits.next_dirty(10_000, 1).is_none());
        bits.resize(size);
        assert!(bits.next_dirty(10_240, 1).is_none(), "what was cut off is clean");
    }
}
