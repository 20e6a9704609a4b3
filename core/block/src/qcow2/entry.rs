//! L1 and L2 entries, and refcounts in their blocks.

use crate::{BlockError, Result};

/// The cluster is referred to once: it may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Reads as zeros whatever the offset (without extended entries).
pub(super) const ZERO: u64 = 1;
/// Host offset in L1, L2 and refcount table entries.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub(super) const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
pub(super) const REFTABLE_RESERVED: u64 = 0x1ff;

/// Shape of the mapping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) l2_bits: u32,
    /// log2 of the subclusters in a cluster: 0 or 5.
    pub(super) sub_shift: u32,
    pub(super) refcount_order: u32,
    /// Data is in a file of its own, at the guest's offsets.
    pub(super) data_file: bool,
}

impl Shape {
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }
    /// Bytes of a subcluster: of a cluster when there are none.
    pub(super) fn sub(&self) -> u64 {
        1 << (self.cluster_bits - self.sub_shift)
    }
    pub(super) fn subs(&self) -> u32 {
        1 << self.sub_shift
    }
    pub(super) fn extended(&self) -> bool {
        self.sub_shift != 0
    }
    pub(super) fn entry_len(&self) -> usize {
        if self.extended() { 16 } else { 8 }
    }
    /// Guest bytes that an L2 table covers.
    pub(super) fn l2_span(&self) -> u64 {
        1 << (self.cluster_bits + self.l2_bits)
    }
    pub(super) fn l1_index(&self, guest: u64) -> u64 {
        guest >> (self.cluster_bits + self.l2_bits)
    }
    pub(super) fn l2_index(&self, guest: u64) -> usize {
        ((guest >> self.cluster_bits) & ((1 << self.l2_bits) - 1)) as usize
    }
    pub(super) fn down(&self, offset: u64) -> u64 {
        offset & !(self.cluster() - 1)
    }
    pub(super) fn up(&self, offset: u64) -> u64 {
        offset.next_multiple_of(self.cluster())
    }
    /// Refcounts in a block.
    pub(super) fn refcounts_per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.refcount_order)
    }
    pub(super) fn refcount_max(&self) -> u64 {
        u64::MAX >> (64 - (1u32 << self.refcount_order))
    }
}

/// Where a subcluster's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In the backing file, or zeros without one.
    Unallocated,
    Zero,
    /// In the data file, at this offset of the subcluster's cluster.
    Data(u64),
    Compressed(Packed),
}

/// A compressed cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// An L2 entry, with the bitmap of an extended one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) word: u64,
    /// Bits 0..32: subcluster is data; bits 32..64: subcluster is zeros.
    pub(super) bitmap: u64,
}

impl Entry {
    pub(super) fn load(table: &[u8], shape: &Shape, index: usize) -> Self {
        let at = index * shape.entry_len();
        let word =
            |at: usize| u64::from_be_bytes(table[at..at + 8].try_into().expect("eight bytes"));
        Self { word: word(at), bitmap: if shape.extended() { word(at + 8) } else { 0 } }
    }

    pub(super) fn store(self, table: &mut [u8], shape: &Shape, index: usize) {
        let at = index * shape.entry_len();
        table[at..at + 8].copy_from_slice(&self.word.to_be_bytes());
        if shape.extended() {
            table[at + 8..at + 16].copy_from_slice(&self.bitmap.to_be_bytes());
        }
    }

    pub(super) fn is_compressed(self) -> bool {
        self.word & COMPRESSED != 0
    }

    pub(super) fn copied(self) -> bool {
        self.word & COPIED != 0
    }

    /// The host cluster that the entry owns, when it is not compressed.
    pub(super) fn host(self, shape: &Shape) -> Option<u64> {
        if self.is_compressed() {
            return None;
        }
        match self.word & OFFSET {
            0 if !(shape.data_file && self.copied()) => None,
            offset => Some(offset),
        }
    }

    /// The compressed data that the entry refers to.
    pub(super) fn packed(self, shape: &Shape) -> Option<Packed> {
        if !self.is_compressed() {
            return None;
        }
        let bits = 62 - (shape.cluster_bits - 8);
        let offset = self.word & ((1 << bits) - 1);
        let sectors = (self.word >> bits & ((1 << (shape.cluster_bits - 8)) - 1)) + 1;
        Some(Packed { offset, len: sectors * 512 - (offset & 511) })
    }

    /// Says what a subcluster is, or why the entry cannot be right.
    pub(super) fn kind(self, shape: &Shape, sub: u32) -> Result<Kind> {
        if let Some(packed) = self.packed(shape) {
            if shape.data_file {
                return Err(BlockError::corrupt("compressed cluster in an image with a data file"));
            }
            return Ok(Kind::Compressed(packed));
        }
        let host = self.host(shape);
        if host.is_some_and(|host| host & (shape.cluster() - 1) != 0) {
            return Err(BlockError::corrupt(format!(
                "data cluster at {:#x} is not aligned",
                self.word & OFFSET
            )));
        }
        if shape.extended() {
            let (data, zero) = (self.bitmap >> sub & 1 != 0, self.bitmap >> (32 + sub) & 1 != 0);
            return match (data, zero, host) {
                (true, true, _) => Err(BlockError::corrupt("subcluster is both data and zeros")),
                (true, false, None) => {
                    Err(BlockError::corrupt("subcluster has data but no cluster"))
                }
                (true, false, Some(host)) => Ok(Kind::Data(host)),
                (false, true, _) => Ok(Kind::Zero),
                (false, false, _) => Ok(Kind::Unallocated),
            };
        }
        if self.word & ZERO != 0 {
            if shape.version < 3 {
                return Err(BlockError::corrupt("zero cluster in an image of version 2"));
            }
            return Ok(Kind::Zero);
        }
        Ok(host.map_or(Kind::Unallocated, Kind::Data))
    }
}

/// Reads refcount `index` of a block.
pub(super) fn refcount(block: &[u8], order: u32, index: u64) -> u64 {
    let index = index as usize;
    match order {
        0..=2 => {
            let bits = 1 << order;
            let per_byte = 8 / bits;
            let byte = block[index / per_byte];
            u64::from(byte >> (index % per_byte * bits)) & ((1 << bits) - 1)
        }
        _ => {
            let bytes = 1 << (order - 3);
            block[index * bytes..(index + 1) * bytes].iter().fold(0, |n, b| n << 8 | u64::from(*b))
        }
    }
}

/// Writes refcount `index` of a block.
pub(super) fn set_refcount(block: &mut [u8], order: u32, index: u64, value: u64) {
    let index = index as usize;
    match order {
        0..=2 => {
            let bits = 1 << order;
            let per_byte = 8 / bits;
            let shift = index % per_byte * bits;
            let mask = ((1u16 << bits) - 1) as u8;
            let byte = &mut block[index / per_byte];
            *byte = *byte & !(mask << shift) | (value as u8 & mask) << shift;
        }
        _ => {
            let bytes = 1 << (order - 3);
            block[index * bytes..(index + 1) * bytes]
                .copy_from_slice(&value.to_be_bytes()[8 - bytes..]);
        }
    }
}

/// Byte range of refcount `index` in its block.
pub(super) fn refcount_bytes(order: u32, index: u64) -> std::ops::Range<usize> {
    let bit = (index as usize) << order;
    let bits = 1usize << order;
    bit / 8..(bit + bits).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width_are_stored_and_read_back() {
        for order in 0..=6 {
            let mut block = vec![0; 512];
            let max = u64::MAX >> (64 - (1u32 << order));
            let count = 4096u64 >> order;
            for i in 0..count {
                set_refcount(&mut block, order, i, i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & max);
            }
            for i in 0..count {
                let want = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & max;
                assert_eq!(refcount(&block, order, i), want, "order {order} index {i}");
                let range = refcount_bytes(order, i);
                assert!(range.end <= 512 && !range.is_empty());
            }
        }
    }

    #[test]
    fn one_bit_refcounts_fill_bytes_from_the_low_end() {
        let mut block = vec![0; 512];
        set_refcount(&mut block, 0, 9, 1);
        assert_eq!(block[1], 2);
        set_refcount(&mut block, 4, 3, 0x1234);
        assert_eq!(block[6..8], [0x12, 0x34]);
    }
}
