//! The `bochs` format (growing disks of Bochs), read-only.
//!
//! Reference: the redolog header as Bochs' documentation describes it; observed images.

use super::{Facts, Image, OpenArgs, field_text, le32, le64, read_exactly};
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

/// The driver.
pub(crate) struct Bochs {
    file: Arc<Edge>,
    len: u64,
    catalog: Vec<u32>,
    data: u64,
    extent: u64,
    bitmap_len: u64,
}

fn bad<T>(text: &str) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, _args: &OpenArgs) -> Result<Bochs> {
    let h = read_exactly(file, "header", 0, 512).await?;
    let version = le32(&h, 64);
    if field_text(&h[..32]) != "Bochs Virtual HD Image"
        || field_text(&h[32..48]) != "Redolog"
        || field_text(&h[48..64]) != "Growing"
        || version != 0x20000 && version != 0x10000
    {
        return Err(BlockError::invalid("Image not in Bochs format"));
    }
    let len = if version == 0x10000 { le64(&h, 84) } else { le64(&h, 88) };
    let (header, entries) = (u64::from(le32(&h, 68)), u64::from(le32(&h, 72)));
    let (bitmap, extent) = (u64::from(le32(&h, 76)), u64::from(le32(&h, 80)));
    if entries > 0x10_0000 {
        return bad("Catalog size is too large");
    }
    if extent < 512 {
        return bad("Extent size must be at least 512");
    }
    if !extent.is_power_of_two() {
        return bad("Extent size is not a power of two");
    }
    if extent > 0x80_0000 {
        return bad("Extent size is too large");
    }
    if entries < (len / 512).div_ceil(extent / 512) {
        return bad("Catalog size is too small for this disk size");
    }
    let bitmap_len = bitmap.div_ceil(512).max(1) * 512;
    if bitmap_len * 8 < extent / 512 {
        return bad("the bitmap of an extent is too small");
    }
    let raw = read_exactly(file, "catalog", header, entries * 4).await?;
    let catalog = raw.as_chunks().0.iter().copied().map(u32::from_le_bytes).collect();
    let data = header + entries * 4;
    let file = Edge::attach(Role::File, file, Perm::CONSISTENT_READ, Perm::all())?;
    Ok(Bochs { file, len: len / 512 * 512, catalog, data, extent, bitmap_len })
}

impl Bochs {
    /// Where a sector is; `None` for zeros.
    async fn find(&self, sector: u64) -> Result<Option<u64>> {
        let at = sector * 512;
        let entry = self.catalog.get((at / self.extent) as usize).copied().unwrap_or(u32::MAX);
        if entry == u32::MAX {
            return Ok(None);
        }
        let file = self.file.node().ok_or(BlockError::NoMedium)?;
        let start = self.data + u64::from(entry) * (self.extent + self.bitmap_len);
        let index = at % self.extent / 512;
        let bits = read_exactly(&file, "bitmap", start + index / 8, 1).await?;
        let present = bits[0] >> (index % 8) & 1 != 0;
        Ok(present.then_some(start + self.bitmap_len + index * 512))
    }
}

impl Driver for Bochs {
    fn name(&self) -> &'static str {
        "bochs"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        true
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn read(self: Arc<Self>, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let mut done = 0;
            while done < buf.len() {
                let at = offset + done as u64;
                let within = at % 512;
                let n = (512 - within as usize).min(buf.len() - done);
                match self.find(at / 512).await? {
                    None => buf[done..done + n].fill(0),
                    Some(host) => {
                        let file = self.file.node().ok_or(BlockError::NoMedium)?;
                        let old = buf.narrow(done..done + n);
                        buf = file.read(host + within, buf).await?;
                        buf.widen(old);
                    }
                }
                done += n;
            }
            Ok(buf)
        })
    }

    fn write(self: Arc<Self>, _offset: u64, _buf: IoBuf) -> Op<IoBuf> {
        Op::err(BlockError::ReadOnly)
    }

    fn write_zeroes(self: Arc<Self>, _offset: u64, _len: u64, _unmap: bool) -> Op<()> {
        Op::err(BlockError::ReadOnly)
    }

    fn discard(self: Arc<Self>, _offset: u64, _len: u64) -> Op<()> {
        Op::err(BlockError::ReadOnly)
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::ok(())
    }

    fn status(self: Arc<Self>, _offset: u64, len: u64) -> Op<BlockStatus> {
        Op::ok(BlockStatus {
            len,
            zero: false,
            allocated: true,
            data: true,
            compressed: false,
            offset: None,
        })
    }
}

impl Image for Bochs {
    fn facts(&self) -> Facts {
        Facts::default()
    }
}
