//! The `vhdx` format: fixed and dynamic disks, with replay of the log.
//!
//! Reference: Microsoft, MS-VHDX "Virtual Hard Disk v2 (VHDX) File Format". Changes of the block
//! table go straight to their place: an entry never crosses a sector, and data, table and
//! header are ordered by flushes, so that nothing needs the log to be consistent.

mod create;
mod log;

pub(crate) use create::create;
pub use create::{VhdxCreate, VhdxKind};

use super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::{Facts, MappedImage, OpenArgs, le32, le64, read_exactly};
use crate::graph::Node;
use crate::qcow2::{CheckResult, Repair};
use crate::{BlockError, IoBuf, Op, Result};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGION_LEN: u64 = 64 << 10;
const HEADER_LEN: u64 = 4096;
const MIB: u64 = 1 << 20;
const BAT: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const METADATA: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const DISK_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const DISK_ID: [u8; 16] = guid(0xbeca_12ab, 0xb2e6, 0x4523, 0x93ef_c309_e000_c746);
const LOGICAL_SECTOR: [u8; 16] = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
const PHYSICAL_SECTOR: [u8; 16] = guid(0xcda3_48c7, 0x445d, 0x4471, 0x9cc9_e988_5251_c556);

/// A GUID as it is stored: the first three parts little endian.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// CRC-32C of `bytes`, with the four bytes at `hole` taken as zeros.
fn crc32c(bytes: &[u8], hole: usize) -> u32 {
    let table = const {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut k = 0;
            while k < 8 {
                c = if c & 1 != 0 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 };
                k += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    let mut crc = u32::MAX;
    for (i, byte) in bytes.iter().enumerate() {
        let byte = if (hole..hole + 4).contains(&i) { 0 } else { *byte };
        crc = crc >> 8 ^ table[((crc ^ u32::from(byte)) & 0xff) as usize];
    }
    !crc
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// The layout.
pub(crate) struct Vhdx {
    block: u64,
    chunk: u64,
    /// The header in force: which of the two, and its bytes.
    header: Mutex<(usize, Vec<u8>)>,
    /// What the log had was written to its place when the image was opened.
    replayed: AtomicBool,
}

/// One of the two headers, when it is valid.
async fn read_header(file: &Node, at: u64) -> Result<Option<Vec<u8>>> {
    let h = read_exactly(file, "header", at, HEADER_LEN).await?;
    let valid = &h[..4] == b"head" && crc32c(&h, 4) == le32(&h, 4) && le32(&h, 64) >> 16 == 1;
    Ok(valid.then_some(h))
}

struct Region {
    at: u64,
    len: u64,
}

/// Finds the block table and the metadata, each of which must be there once.
async fn read_regions(file: &Node) -> Result<(Region, Region)> {
    // The second table only copies the first one. When they differ, something has written where it
    // should not have, and what else it hit cannot be known.
    let t = read_exactly(file, "region table", REGIONS[0], REGION_LEN).await?;
    if &t[..4] != b"regi" || crc32c(&t, 4) != le32(&t, 4) || le32(&t, 8) > 2047 {
        return bad("the region table is damaged");
    }
    let (mut bat, mut metadata) = (None, None);
    let mut taken: Vec<(u64, u64)> = vec![(0, MIB)];
    for i in 0..le32(&t, 8) as usize {
        let at = 16 + i * 32;
        let region = Region { at: le64(&t, at + 16), len: le32(&t, at + 24).into() };
        let end = region.at.checked_add(region.len);
        if !region.at.is_multiple_of(MIB) || !region.len.is_multiple_of(MIB) || end.is_none() {
            return bad("a region is not aligned");
        }
        let end = end.unwrap_or(u64::MAX);
        if taken.iter().any(|(from, to)| region.at < *to && *from < end) {
            return bad("regions overlap");
        }
        taken.push((region.at, end));
        let slot = match &t[at..at + 16] {
            id if id == BAT => &mut bat,
            id if id == METADATA => &mut metadata,
            _ if le32(&t, at + 28) & 1 != 0 => {
                return Err(BlockError::unsupported("the image has an unknown required region"));
            }
            _ => continue,
        };
        if slot.is_some() {
            return bad("a region is there twice");
        }
        *slot = Some(region);
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok((bat, metadata)),
        _ => bad("the block table or the metadata is missing"),
    }
}

struct Metadata {
    block: u64,
    size: u64,
    sector: u64,
}

async fn read_metadata(file: &Node, region: &Region) -> Result<Metadata> {
    let t = read_exactly(file, "metadata table", region.at, REGION_LEN).await?;
    let count = usize::from(super::le16(&t, 10));
    if &t[..8] != b"metadata" || count > 2047 {
        return bad("metadata table is damaged");
    }
    let (mut parameters, mut size, mut logical, mut physical) = (None, None, None, None);
    for i in 0..count {
        let at = 32 + i * 32;
        let (offset, len) = (u64::from(le32(&t, at + 16)), u64::from(le32(&t, at + 20)));
        let (slot, want) = match &t[at..at + 16] {
            id if id == FILE_PARAMETERS => (&mut parameters, 8),
            id if id == DISK_SIZE => (&mut size, 8),
            id if id == LOGICAL_SECTOR => (&mut logical, 4),
            id if id == PHYSICAL_SECTOR => (&mut physical, 4),
            id if id == DISK_ID => continue,
            _ if le32(&t, at + 24) & 4 != 0 => {
                return Err(BlockError::unsupported(
                    "the image has unknown required metadata, such as a parent",
                ));
            }
            _ => continue,
        };
        if slot.is_some() || len < want || offset < REGION_LEN || offset + len > region.len {
            return bad("a metadata item is damaged or there twice");
        }
        *slot = Some(read_exactly(file, "metadata", region.at + offset, want).await?);
    }
    let (Some(parameters), Some(size), Some(logical), Some(_)) =
        (parameters, size, logical, physical)
    else {
        return bad("metadata is missing");
    };
    let block = u64::from(le32(&parameters, 0));
    if le32(&parameters, 4) & 2 != 0 {
        return Err(BlockError::unsupported("differencing VHDX images are not supported"));
    }
    let (size, sector) = (le64(&size, 0), u64::from(le32(&logical, 0)));
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        return bad(format!("block size {block} is invalid"));
    }
    if sector != 512 && sector != 4096 {
        return bad(format!("sector size {sector} is invalid"));
    }
    if size > 64 << 40 || !size.is_multiple_of(sector) {
        return bad(format!("disk size {size} is invalid"));
    }
    Ok(Metadata { block, size, sector })
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Mapped<Vhdx>> {
    let id = read_exactly(file, "file identifier", 0, 8).await?;
    if &id != b"vhdxfile" {
        return Err(BlockError::invalid("Image not in VHDX format"));
    }
    let read_only = args.read_only || file.read_only();
    let (first, second) =
        (read_header(file, HEADERS[0]).await?, read_header(file, HEADERS[1]).await?);
    let (which, header) = match (first, second) {
        (Some(a), Some(b)) if le64(&b, 8) > le64(&a, 8) => (1, b),
        (Some(a), Some(b)) if le64(&b, 8) == le64(&a, 8) && a != b => {
            return bad("both headers claim to be the newer one");
        }
        (Some(a), _) => (0, a),
        (None, Some(b)) => (1, b),
        (None, None) => return bad("both headers are damaged"),
    };
    let (bat, metadata) = read_regions(file).await?;
    let log_at = le64(&header, 72);
    let log_len = u64::from(le32(&header, 68));
    if le32(&header, 64) & 0xffff != 0 {
        return Err(BlockError::unsupported("unknown version of the VHDX log"));
    }
    if log_at < MIB
        || !log_at.is_multiple_of(MIB)
        || !log_len.is_multiple_of(MIB)
        || log_at.checked_add(log_len).is_none()
    {
        return bad("the log has an invalid place");
    }
    let overlaps = |r: &Region| log_at < r.at + r.len && r.at < log_at + log_len;
    if overlaps(&bat) || overlaps(&metadata) {
        return bad("the log overlaps a region");
    }
    let mut header = header;
    let mut which = which;
    let mut replayed = false;
    if header[48..64] != [0; 16] {
        let entries = log::find(file, log_at, log_len, &header[48..64]).await?;
        if !entries.is_empty() && read_only {
            let name = file.filename();
            return Err(BlockError::unsupported(format!(
                "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed\nTo replay the log, run:\nqemu-img check -r all '{name}'"
            )));
        }
        replayed = !entries.is_empty();
        log::replay(file, &entries).await?;
        if !read_only {
            header[48..64].fill(0);
            write_header(file, &mut which, &mut header).await?;
        }
    }
    let meta = read_metadata(file, &metadata).await?;
    let chunk = (meta.sector << 23) / meta.block;
    let blocks = meta.size.div_ceil(meta.block);
    let entries = blocks + blocks.saturating_sub(1) / chunk;
    if entries * 8 > bat.len {
        return bad("the block table is too small for the disk");
    }
    if bat.at + entries * 8 > file.len() {
        return bad("the block table is beyond the end of the file");
    }
    // Blocks must not lie over anything else, or over each other.
    let mut end = (log_at + log_len).max(metadata.at + metadata.len).max(bat.at + bat.len);
    let mut places = Vec::new();
    let mut at = 0;
    while at < entries * 8 {
        let n = (entries * 8 - at).min(MIB);
        let part = file.read(bat.at + at, IoBuf::zeroed(n as usize)).await?;
        for (i, word) in part.as_chunks().0.iter().copied().map(u64::from_le_bytes).enumerate() {
            let number = at / 8 + i as u64;
            if number % (chunk + 1) == chunk || word & 7 != 6 {
                continue;
            }
            let place = word & !(MIB - 1);
            let Some(stop) = place.checked_add(meta.block) else {
                return bad("a block is beyond the end of the file");
            };
            if !args.for_check && place >= file.len() {
                return bad("a block is beyond the end of the file");
            }
            let over = |from: u64, len: u64| place < from + len && from < stop;
            if over(0, MIB)
                || over(log_at, log_len)
                || over(bat.at, bat.len)
                || over(metadata.at, metadata.len)
            {
                return bad("a block lies over metadata");
            }
            places.push(place);
            end = end.max(stop);
        }
        at += n;
    }
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[1] - pair[0] < meta.block) {
        return bad("blocks overlap");
    }
    end = end.max(file.len());
    let shape = Shape { block: meta.block, per_table: 8192, entry: 8, align: MIB, lead: 0 };
    let tables = (0..(entries * 8).div_ceil(65536)).map(|i| bat.at + i * 65536).collect();
    let layout = Vhdx {
        block: meta.block,
        chunk,
        header: Mutex::new((which, header)),
        replayed: AtomicBool::new(replayed),
    };
    Mapped::new(file, Parts { layout, shape, size: meta.size, tables, end, read_only })
}

/// Writes the next header into the place of the older one.
async fn write_header(file: &Node, which: &mut usize, header: &mut [u8]) -> Result<()> {
    let sequence = le64(header, 8).wrapping_add(1);
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    let sum = crc32c(header, 4);
    header[4..8].copy_from_slice(&sum.to_le_bytes());
    *which = 1 - *which;
    file.write(HEADERS[*which], IoBuf::from(&*header)).await?;
    file.flush().await
}

impl Layout for Vhdx {
    const NAME: &'static str = "vhdx";

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        let word = le64(entry, 0);
        Ok(match word & 7 {
            0 => Slot::Unallocated,
            1..=3 => Slot::Zero,
            6 => Slot::Data(word & !(MIB - 1)),
            state => {
                return Err(BlockError::corrupt(format!("a block has the unknown state {state}")));
            }
        })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let word = match slot {
            Slot::Unallocated => 0,
            Slot::Zero => 2,
            Slot::Data(at) => at | 6,
            Slot::Packed(..) => return false,
        };
        entry.copy_from_slice(&word.to_le_bytes());
        true
    }

    /// Behind each chunk's entries there is one for its sector bitmap.
    fn entry_of(&self, block: u64) -> u64 {
        block + block / self.chunk
    }

    /// Content is about to change, so the file gets a new identity.
    async fn start(&self, file: &Node) -> Result<()> {
        let (mut which, mut header) = crate::sync::lock(&self.header).clone();
        for range in [16..32, 32..48] {
            let fresh = Sha256::digest(&header[..80]);
            header[range].copy_from_slice(&fresh[..16]);
        }
        write_header(file, &mut which, &mut header).await?;
        *crate::sync::lock(&self.header) = (which, header);
        Ok(())
    }
}

impl MappedImage for Vhdx {
    fn facts(this: &Mapped<Self>) -> Facts {
        Facts { cluster_size: Some(this.layout.block), ..Facts::default() }
    }

    fn check(this: Arc<Mapped<Self>>, _repair: Repair) -> Op<CheckResult> {
        Op::pending(async move {
            let mut result = CheckResult::default();
            // It is told once.
            if this.layout.replayed.swap(false, Ordering::Relaxed) {
                result.corruptions += 1;
                result.corruptions_fixed += 1;
            }
            let scan = this.scan().await?;
            let len = this.file()?.len();
            for (block, at) in &scan.data {
                if *at >= len {
                    result.corrupt(|| format!("block {block} at {at:#x} is beyond the file"));
                }
            }
            for (block, error) in &scan.bad {
                result.corrupt(|| format!("block {block}: {error}"));
            }
            Ok(result)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789", 100), 0xe306_9283);
    }
}
