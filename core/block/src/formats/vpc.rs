//! The `vpc` format (VHD): fixed, or dynamic with one table of blocks.
//!
//! Reference: Microsoft, "Virtual Hard Disk Image Format Specification", October 2006.

use super::flat::Flat;
use super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::{Facts, Image, MappedImage, OpenArgs, be32, be64, read_exactly};
use crate::driver::{Access, BlockStatus, Driver, Map};
use crate::graph::{Edge, Node};
use crate::{BlockError, IoBuf, Op, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const FOOTER: u64 = 512;
const DYNAMIC_HEADER: u64 = 1024;
const UNALLOCATED: u32 = u32::MAX;
const MAX_GEOMETRY: u64 = 65535 * 16 * 255;
const MAX_SECTORS: u64 = 0xff00_0000;
const BLOCK: u32 = 2 << 20;
/// Creators whose images have the size that their footer says, whatever the geometry.
const EXACT: [&[u8; 4]; 6] = [b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0"];

/// How the size of the disk is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeRule {
    /// By the program that made the image.
    #[default]
    Auto,
    /// The footer's size.
    CurrentSize,
    /// The footer's geometry.
    Chs,
}

/// The layout of dynamic images.
pub(crate) struct Dynamic {
    bitmap: u64,
    block: u64,
    footer: Vec<u8>,
}

/// An image of either kind.
pub(crate) enum Vpc {
    Fixed(Arc<Fixed>),
    Dynamic(Arc<Mapped<Dynamic>>),
}

fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, b| sum.wrapping_add((*b).into()));
    !(sum(&bytes[..at]).wrapping_add(sum(&bytes[at + 4..])))
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs, rule: SizeRule) -> Result<Vpc> {
    let mut footer = read_exactly(file, "footer", 0, FOOTER).await?;
    let read_only = args.read_only || file.read_only();
    let dynamic = &footer[..8] == b"conectix";
    if !dynamic {
        let at = file.len().checked_sub(FOOTER);
        let at = at.ok_or_else(|| BlockError::corrupt("File is too small"))?;
        footer = read_exactly(file, "footer", at, FOOTER).await?;
        if &footer[..8] != b"conectix" || be32(&footer, 60) != 2 {
            return Err(BlockError::invalid("invalid VPC image"));
        }
    }
    if checksum(&footer, 64) != be32(&footer, 64) {
        return bad("Incorrect header checksum");
    }
    let (cyls, heads, secs) = (
        u64::from(footer[56]) << 8 | u64::from(footer[57]),
        u64::from(footer[58]),
        u64::from(footer[59]),
    );
    let chs = cyls * heads * secs;
    let current = be64(&footer, 48) / 512;
    let exact = EXACT.iter().any(|app| &footer[28..32] == *app);
    let sectors = match rule {
        SizeRule::CurrentSize => current,
        SizeRule::Chs => chs,
        SizeRule::Auto if exact || chs == MAX_GEOMETRY => current,
        SizeRule::Auto => chs,
    };
    if sectors > MAX_SECTORS {
        return bad("the disk is too large");
    }
    let size = sectors * 512;
    let kind = be32(&footer, 60);
    if !dynamic {
        let flat = Flat::new(file, 0, size, read_only, None)?;
        return Ok(Vpc::Fixed(Arc::new(Fixed(flat))));
    }
    if kind == 2 {
        // A fixed disk whose first sector happens to be a copy of its footer.
        let flat = Flat::new(file, 0, size, read_only, None)?;
        return Ok(Vpc::Fixed(Arc::new(Fixed(flat))));
    }
    if kind != 3 {
        return Err(BlockError::unsupported("differencing VHD images are not supported"));
    }
    let header_at = be64(&footer, 16);
    if header_at >= file.len() {
        return bad("the dynamic header is beyond the end of the file");
    }
    // What the file does not reach counts as zeros.
    let h = file.read(header_at, IoBuf::zeroed(DYNAMIC_HEADER as usize)).await?;
    if &h[..8] != b"cxsparse" {
        return bad("the dynamic header is not where the footer says");
    }
    let (table_at, entries, block) =
        (be64(&h, 16), u64::from(be32(&h, 28)), u64::from(be32(&h, 32)));
    if !block.is_power_of_two() || block < 512 {
        return bad(format!("Invalid block size {block}"));
    }
    if checksum(&h, 36) != be32(&h, 36) {
        return bad("Incorrect dynamic header checksum");
    }
    let bitmap = (block / 512).div_ceil(8).next_multiple_of(512);
    if block.checked_mul(entries).is_none_or(|covered| covered < size) {
        return bad("Page table too small");
    }
    let wanted = size.div_ceil(block);
    let table_len = entries * 4;
    if entries > i32::MAX as u64 / 4 {
        return bad(format!("Max Table Entries too large ({entries})"));
    }
    if table_at.checked_add(table_len).is_none_or(|end| end > file.len()) {
        return bad("the block table is beyond the end of the file");
    }
    let mut end = (table_at + table_len).next_multiple_of(512);
    let mut at = 0;
    while at < table_len {
        let n = (table_len - at).min(1 << 20);
        let part = file.read(table_at + at, IoBuf::zeroed(n as usize)).await?;
        for word in part.as_chunks().0.iter().copied().map(u32::from_be_bytes) {
            if word != UNALLOCATED {
                end = end.max(u64::from(word) * 512 + bitmap + block);
            }
        }
        at += n;
    }
    if end > file.len() {
        return bad(
            "free_data_block_offset points after the end of file. The image has been truncated.",
        );
    }
    let shape = Shape { block, per_table: 4096, entry: 4, align: 512, lead: bitmap };
    let tables = (0..wanted.div_ceil(4096)).map(|i| table_at + i * 16384).collect();
    let layout = Dynamic { bitmap, block, footer };
    let parts = Parts { layout, shape, size, tables, end, read_only };
    Ok(Vpc::Dynamic(Arc::new(Mapped::new(file, parts)?)))
}

impl Layout for Dynamic {
    const NAME: &'static str = "vpc";
    const ALONE: bool = true;

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        Ok(match be32(entry, 0) {
            UNALLOCATED => Slot::Unallocated,
            sector => Slot::Data(u64::from(sector) * 512 + self.bitmap),
        })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let word = match slot {
            Slot::Unallocated => UNALLOCATED,
            Slot::Data(at) => match u32::try_from((at - self.bitmap) / 512) {
                Ok(sector) if sector != UNALLOCATED => sector,
                _ => return false,
            },
            Slot::Zero | Slot::Packed(..) => return false,
        };
        entry.copy_from_slice(&word.to_be_bytes());
        true
    }

    /// Every sector of a new block is valid.
    fn lead(&self) -> Vec<u8> {
        vec![0xff; self.bitmap as usize]
    }

    async fn grown(&self, file: &Node, end: u64, _blocks: u64) -> Result<()> {
        file.write(end, IoBuf::from(&self.footer[..])).await.map(drop)
    }
}

impl MappedImage for Dynamic {
    fn facts(this: &Mapped<Self>) -> Facts {
        Facts { cluster_size: Some(this.layout.block), ..Facts::default() }
    }
}

/// A fixed disk: its bytes, with a footer behind them.
pub(crate) struct Fixed(Flat);

impl Driver for Fixed {
    fn name(&self) -> &'static str {
        "vpc"
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_only(&self) -> bool {
        self.0.read_only()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.0.edge().clone()]
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        self.0.map(access, offset, len)
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.0.read(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.0.write(offset, buf).await })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move { self.0.write_zeroes(offset, len, unmap).await })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.0.discard(offset, len)
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.0.flush()
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::pending(async move { self.0.status(offset, len).await })
    }
}

impl Image for Fixed {
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

/// What a new image is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct VpcCreate {
    /// Bytes of the disk; rounded up to what a geometry can say unless `force_size` is set.
    pub size: u64,
    /// All in one piece.
    pub fixed: bool,
    /// Exactly this size.
    pub force_size: bool,
}

/// The specification's geometry for a number of sectors.
fn geometry(sectors: u64) -> (u64, u64, u64) {
    let sectors = sectors.min(MAX_GEOMETRY);
    if sectors >= 65535 * 16 * 63 {
        return (sectors / (16 * 255), 16, 255);
    }
    let mut secs = 17;
    let mut cyl_heads = sectors / secs;
    let mut heads = cyl_heads.div_ceil(1024).max(4);
    if cyl_heads >= heads * 1024 || heads > 16 {
        (secs, heads) = (31, 16);
        cyl_heads = sectors / secs;
    }
    if cyl_heads >= heads * 1024 {
        (secs, heads) = (63, 16);
        cyl_heads = sectors / secs;
    }
    (cyl_heads / heads, heads, secs)
}

/// Writes an empty image. `now` is in seconds since 1970.
pub(crate) async fn create(
    file: &Node,
    options: &VpcCreate,
    now: u64,
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<()> {
    let wanted = options.size.div_ceil(512);
    let (cyls, heads, secs, sectors);
    if options.force_size {
        (cyls, heads, secs) = (65535, 16, 255);
        sectors = wanted;
    } else {
        let target = wanted.min(MAX_GEOMETRY);
        let mut try_for = target;
        let mut found = (0, 0, 0);
        while target > found.0 * found.1 * found.2 {
            found = geometry(try_for);
            try_for += 1;
        }
        (cyls, heads, secs) = found;
        sectors = if target == MAX_GEOMETRY { wanted } else { cyls * heads * secs };
    }
    if sectors > MAX_SECTORS {
        return Err(BlockError::invalid("Disk size is too large, max size is 2040 GiB"));
    }
    let size = sectors * 512;
    let mut f = b"conectix".to_vec();
    f.extend(2u32.to_be_bytes());
    f.extend(0x0001_0000u32.to_be_bytes());
    f.extend((if options.fixed { u64::MAX } else { FOOTER }).to_be_bytes());
    f.extend((now.saturating_sub(946_684_800) as u32).to_be_bytes());
    // The creator decides how others find the size: this one says "as the footer says" when forced.
    f.extend(if options.force_size { b"qem2" } else { b"qemu" });
    f.extend(0x0005_0003u32.to_be_bytes());
    f.extend(b"Wi2k");
    f.extend(size.to_be_bytes());
    f.extend(size.to_be_bytes());
    f.extend((cyls as u16).to_be_bytes());
    f.extend([heads as u8, secs as u8]);
    f.extend((if options.fixed { 2u32 } else { 3 }).to_be_bytes());
    f.extend([0; 4]);
    let mut id = [0; 16];
    random(&mut id);
    f.extend(id);
    f.resize(FOOTER as usize, 0);
    let sum = checksum(&f, 64);
    f[64..68].copy_from_slice(&sum.to_be_bytes());
    file.truncate(0).await?;
    if options.fixed {
        file.truncate(size + FOOTER).await?;
        file.write(size, f.into()).await?;
        return file.flush().await;
    }
    let entries = size.div_ceil(BLOCK.into());
    let mut h = b"cxsparse".to_vec();
    h.extend(u64::MAX.to_be_bytes());
    h.extend((FOOTER + DYNAMIC_HEADER).to_be_bytes());
    h.extend(0x0001_0000u32.to_be_bytes());
    h.extend((entries as u32).to_be_bytes());
    h.extend(BLOCK.to_be_bytes());
    h.resize(DYNAMIC_HEADER as usize, 0);
    let sum = checksum(&h, 36);
    h[36..40].copy_from_slice(&sum.to_be_bytes());
    h.resize(DYNAMIC_HEADER as usize + (entries * 4).next_multiple_of(512) as usize, 0xff);
    h.extend(&f);
    file.write(FOOTER, h.into()).await?;
    file.write(0, f.into()).await?;
    file.flush().await
}
