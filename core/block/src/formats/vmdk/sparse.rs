//! Sparse extents: grain directory, grain tables, grains.
//!
//! Reference: VMware, "Virtual Disk Format 5.0"; observed ESX redo logs ("COWD") and seSparse
//! extents.

use super::super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::super::{Facts, MappedImage, le16, le32, le64, read_exactly};
use crate::graph::Node;
use crate::pack::{inflate_zlib, zlib};
use crate::{BlockError, IoBuf, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) const MAGIC: &[u8; 4] = b"KDMV";
pub(super) const COWD: &[u8; 4] = b"COWD";
pub(super) const FLAG_ZERO_GRAIN: u32 = 4;
pub(super) const FLAG_COMPRESSED: u32 = 1 << 16;
pub(super) const FLAG_MARKERS: u32 = 1 << 17;
const GD_AT_END: u64 = u64::MAX;
const SE_MAGIC: u64 = 0xcafe_babe;

/// Kinds of sparse extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Vmdk4,
    Cowd,
    SeSparse { grains: u64 },
}

/// The layout.
pub(crate) struct Sparse {
    kind: Kind,
    grain: u64,
    zero_grain: bool,
    pub(super) compressed: bool,
    gd: u64,
    rgd: Option<u64>,
    /// Where the second copy of each table is.
    mirrors: BTreeMap<u64, u64>,
    /// The description inside the extent.
    pub(super) description: Option<(u64, u64)>,
    pub(super) wrote: AtomicBool,
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Opens an extent. `for_write` is false for read-only use.
pub(super) async fn open(file: &Arc<Node>, read_only: bool, no_io: bool) -> Result<Mapped<Sparse>> {
    let head = read_exactly(file, "header", 0, 512).await?;
    if &head[..4] == COWD {
        return open_cowd(file, &head, read_only).await;
    }
    if le64(&head, 0) == SE_MAGIC {
        return open_se(file, &head, read_only).await;
    }
    if &head[..4] != MAGIC {
        return Err(BlockError::invalid("Image not in VMDK format"));
    }
    let mut h = head;
    if le64(&h, 56) == GD_AT_END {
        // The header that counts is a kilobyte before the end.
        let at = file.len().checked_sub(1536);
        let at = at.ok_or_else(|| BlockError::corrupt("the footer is missing"))?;
        let footer = read_exactly(file, "footer", at, 1536).await?;
        let is_footer = le64(&footer, 0) == 1 && le32(&footer, 8) == 0 && le32(&footer, 12) == 3;
        let is_end = footer[1024..1040].iter().all(|b| *b == 0);
        if !is_footer || !is_end || &footer[512..516] != MAGIC {
            return bad("the footer is damaged");
        }
        h = footer[512..1024].to_vec();
    }
    let (version, flags) = (le32(&h, 4), le32(&h, 8));
    let (capacity, grain) = (le64(&h, 12), le64(&h, 20));
    let per_table = u64::from(le32(&h, 44));
    let compressed = u32::from(le16(&h, 77)) == 1;
    if version > 3 {
        return Err(BlockError::unsupported(format!("VMDK version {version} is not supported")));
    }
    if version == 3 && !read_only && !no_io && !compressed {
        return Err(BlockError::unsupported("VMDK version 3 must be read only"));
    }
    if capacity == 0 {
        // The disk is elsewhere, and only the description is here.
        return Err(BlockError::unsupported("the extent is empty"));
    }
    if per_table == 0 || per_table > 512 {
        return bad("L2 table size too big");
    }
    if grain == 0 || !grain.is_power_of_two() || grain > 0x20_0000 / 512 * 64 {
        return bad("Invalid granularity, image may be corrupt");
    }
    let span = per_table * grain;
    let tables = capacity.div_ceil(span);
    if tables > 32 << 20 || capacity > i64::MAX as u64 / 512 {
        return bad("L1 size too big");
    }
    if le64(&h, 64).checked_mul(512).is_none_or(|end| end > file.len()) {
        return bad(format!(
            "File truncated, expecting at least {} bytes",
            u128::from(le64(&h, 64)) * 512
        ));
    }
    let rgd = (flags & 2 != 0).then_some(le64(&h, 48));
    let (gd, rgd) = match rgd {
        // The first directory is the one in force; the other one is its copy.
        Some(rgd) => (rgd, Some(le64(&h, 56))),
        None => (le64(&h, 56), None),
    };
    let sector = |n: u64| {
        n.checked_mul(512).ok_or_else(|| BlockError::corrupt("the grain directory is out of range"))
    };
    let gd_at = sector(gd)?;
    let raw = read_exactly(file, "grain directory", gd_at, tables * 4).await?;
    let offsets: Vec<u64> =
        raw.as_chunks().0.iter().map(|w| u64::from(u32::from_le_bytes(*w)) * 512).collect();
    let mut mirrors = BTreeMap::new();
    let mut rgd_at = None;
    if let Some(rgd) = rgd {
        let at = sector(rgd)?;
        let raw = read_exactly(file, "grain directory", at, tables * 4).await?;
        for (table, word) in offsets.iter().zip(raw.as_chunks::<4>().0) {
            if *table != 0 && le32(word, 0) != 0 {
                mirrors.insert(*table, u64::from(le32(word, 0)) * 512);
            }
        }
        rgd_at = Some(at);
    }
    let (desc_at, desc_len) = (le64(&h, 28), le64(&h, 36));
    let description = match desc_at {
        0 => None,
        at => Some((sector(at)?, sector(desc_len)?)),
    };
    let shape = Shape {
        block: grain * 512,
        per_table,
        entry: 4,
        align: if compressed { 512 } else { grain * 512 },
        lead: 0,
    };
    let layout = Sparse {
        kind: Kind::Vmdk4,
        grain: grain * 512,
        zero_grain: flags & FLAG_ZERO_GRAIN != 0,
        compressed,
        gd: gd_at,
        rgd: rgd_at,
        mirrors,
        description,
        wrote: AtomicBool::new(false),
    };
    let size = capacity * 512;
    let parts = Parts { layout, shape, size, tables: offsets, end: file.len(), read_only };
    Mapped::new(file, parts)
}

async fn open_cowd(file: &Arc<Node>, h: &[u8], read_only: bool) -> Result<Mapped<Sparse>> {
    let (sectors, grain) = (u64::from(le32(h, 12)), u64::from(le32(h, 16)));
    let (gd, entries) = (u64::from(le32(h, 20)) * 512, u64::from(le32(h, 24)));
    if grain == 0 || !grain.is_power_of_two() || grain > 4096 {
        return bad("Invalid granularity, image may be corrupt");
    }
    let tables = sectors.div_ceil(grain * 4096);
    if tables > entries.max(1) {
        return bad("the grain directory is too small for the disk");
    }
    let raw = read_exactly(file, "grain directory", gd, tables * 4).await?;
    let tables =
        raw.as_chunks().0.iter().map(|w| u64::from(u32::from_le_bytes(*w)) * 512).collect();
    let shape = Shape { block: grain * 512, per_table: 4096, entry: 4, align: 512, lead: 0 };
    let layout = Sparse {
        kind: Kind::Cowd,
        grain: grain * 512,
        zero_grain: false,
        compressed: false,
        gd,
        rgd: None,
        mirrors: BTreeMap::new(),
        description: None,
        wrote: AtomicBool::new(false),
    };
    let parts = Parts { layout, shape, size: sectors * 512, tables, end: file.len(), read_only };
    Mapped::new(file, parts)
}

async fn open_se(file: &Arc<Node>, h: &[u8], read_only: bool) -> Result<Mapped<Sparse>> {
    if !read_only {
        return Err(BlockError::unsupported("seSparse extents are read-only"));
    }
    if le64(h, 8) != 0x0000_0002_0000_0001 {
        return Err(BlockError::unsupported("unknown version of seSparse"));
    }
    let (capacity, grain, table) = (le64(h, 16), le64(h, 24), le64(h, 32));
    if le64(h, 40) != 0 {
        return Err(BlockError::unsupported("unknown flags of seSparse"));
    }
    if grain != 8 || table != 64 || capacity > i64::MAX as u64 / 512 {
        return Err(BlockError::unsupported("unusual sizes in a seSparse extent"));
    }
    let at = |field: usize| {
        le64(h, field)
            .checked_mul(512)
            .ok_or_else(|| BlockError::corrupt("a seSparse table is out of range"))
    };
    let (gd, gd_len, tables_at, grains) = (at(128)?, at(136)?, at(144)?, at(192)?);
    let tables = capacity.div_ceil(grain * 4096);
    if tables * 8 > gd_len {
        return bad("the grain directory is too small for the disk");
    }
    let raw = read_exactly(file, "grain directory", gd, tables * 8).await?;
    let mut offsets = Vec::new();
    for word in raw.as_chunks().0.iter().copied().map(u64::from_le_bytes) {
        offsets.push(match word >> 32 {
            0 if word == 0 => 0,
            0x1000_0000 => tables_at + (word & 0xffff_ffff) * table * 512,
            _ => return bad("a grain directory entry is damaged"),
        });
    }
    let shape = Shape { block: 4096, per_table: 4096, entry: 8, align: 4096, lead: 0 };
    let layout = Sparse {
        kind: Kind::SeSparse { grains },
        grain: 4096,
        zero_grain: false,
        compressed: false,
        gd,
        rgd: None,
        mirrors: BTreeMap::new(),
        description: None,
        wrote: AtomicBool::new(false),
    };
    let size = capacity * 512;
    Mapped::new(file, Parts { layout, shape, size, tables: offsets, end: file.len(), read_only })
}

impl Layout for Sparse {
    const NAME: &'static str = "vmdk";

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        if let Kind::SeSparse { grains } = self.kind {
            let word = le64(entry, 0);
            return Ok(match word >> 60 {
                0 => Slot::Unallocated,
                1 | 2 => Slot::Zero,
                3 => {
                    // The number's low and high part have changed places.
                    let number =
                        (word & 0x0fff_0000_0000_0000) >> 48 | (word & 0xffff_ffff_ffff) << 12;
                    let at = number.checked_mul(4096).and_then(|at| at.checked_add(grains));
                    Slot::Data(at.ok_or_else(|| BlockError::corrupt("a grain is out of range"))?)
                }
                _ => return bad("a grain table entry is damaged"),
            });
        }
        Ok(match u64::from(le32(entry, 0)) {
            0 => Slot::Unallocated,
            1 if self.zero_grain => Slot::Zero,
            sector if self.compressed => Slot::Packed(sector * 512, self.grain * 2 + 512),
            sector => Slot::Data(sector * 512),
        })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let sector = match slot {
            Slot::Unallocated => 0,
            Slot::Zero if self.zero_grain => 1,
            Slot::Zero => return false,
            Slot::Data(at) | Slot::Packed(at, _) => at / 512,
        };
        match u32::try_from(sector) {
            Ok(word) if entry.len() == 4 => {
                entry.copy_from_slice(&word.to_le_bytes());
                true
            }
            _ => false,
        }
    }

    fn table_moved(&self, table: u64, offset: u64) -> Vec<(u64, Vec<u8>)> {
        let word = ((offset / 512) as u32).to_le_bytes().to_vec();
        let mut out = vec![(self.gd + table * 4, word.clone())];
        out.extend(self.rgd.map(|rgd| (rgd + table * 4, word)));
        out
    }

    fn mirror(&self, offset: u64) -> Option<u64> {
        self.mirrors.get(&offset).copied()
    }

    fn packs_always(&self) -> bool {
        self.compressed
    }

    fn unpack(&self, at: u64, raw: &[u8], block: usize) -> Result<Vec<u8>> {
        if raw.get(..8).is_none_or(|lba| le64(lba, 0) != at / 512) {
            return bad("a compressed grain is not the one that the table says");
        }
        let len = raw.get(8..12).map_or(0, |len| le32(len, 0)) as usize;
        let data = raw.get(12..).and_then(|rest| rest.get(..len));
        let data = data.filter(|data| !data.is_empty());
        inflate_zlib(
            data.ok_or_else(|| BlockError::corrupt("a compressed grain is cut short"))?,
            block,
        )
    }

    fn pack(&self, at: u64, data: &[u8]) -> Option<Vec<u8>> {
        if !self.compressed {
            return None;
        }
        let packed = zlib(data)?;
        let mut out = (at / 512).to_le_bytes().to_vec();
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
        Some(out)
    }

    async fn start(&self, _file: &Node) -> Result<()> {
        self.wrote.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl MappedImage for Sparse {
    fn facts(this: &Mapped<Self>) -> Facts {
        Facts { cluster_size: Some(this.layout.grain), ..Facts::default() }
    }
}

/// Writes an empty sparse extent of `size` bytes.
pub(super) async fn create(
    file: &Node,
    size: u64,
    compressed: bool,
    zero_grain: bool,
    description: Option<&str>,
) -> Result<()> {
    const GRAIN: u64 = 128;
    const PER_TABLE: u64 = 512;
    let sectors = size.div_ceil(512);
    let tables = sectors.div_ceil(GRAIN * PER_TABLE);
    let table_sectors = PER_TABLE * 4 / 512;
    let directory = (tables * 4).div_ceil(512);
    let (desc_at, desc_len) = (1, 20);
    let rgd = desc_at + desc_len;
    let gd = rgd + directory + table_sectors * tables;
    let overhead = (gd + directory + table_sectors * tables).next_multiple_of(GRAIN);
    if overhead * 512 > i64::MAX as u64 {
        return Err(BlockError::invalid("the disk is too large"));
    }
    let mut flags = 3;
    if compressed {
        flags |= FLAG_COMPRESSED | FLAG_MARKERS;
    }
    if zero_grain {
        flags |= FLAG_ZERO_GRAIN;
    }
    let version: u32 = if compressed {
        3
    } else if zero_grain {
        2
    } else {
        1
    };
    let mut h = MAGIC.to_vec();
    h.extend(version.to_le_bytes());
    h.extend(flags.to_le_bytes());
    for field in [sectors, GRAIN, desc_at, desc_len] {
        h.extend(field.to_le_bytes());
    }
    h.extend((PER_TABLE as u32).to_le_bytes());
    for field in [rgd, gd, overhead] {
        h.extend(field.to_le_bytes());
    }
    h.push(0);
    h.extend(b"\n \r\n");
    h.extend(u16::from(compressed).to_le_bytes());
    h.resize(512, 0);
    file.truncate(0).await?;
    file.truncate(overhead * 512).await?;
    for directory_at in [rgd, gd] {
        let first = directory_at + directory;
        let words: Vec<u8> =
            (0..tables).flat_map(|i| ((first + i * table_sectors) as u32).to_le_bytes()).collect();
        if !words.is_empty() {
            file.write(directory_at * 512, IoBuf::from(words)).await?;
        }
    }
    if let Some(text) = description {
        file.write(desc_at * 512, IoBuf::from(text.as_bytes())).await?;
    }
    file.write(0, h.into()).await?;
    file.flush().await
}
