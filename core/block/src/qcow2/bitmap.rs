//! Persistent bitmaps: the directory, their tables and their bits.
//!
//! Reference: docs/interop/qcow2.txt of QEMU, "Bitmaps extension".

use super::entry::OFFSET;
use super::header::{autoclear, be32, be64, extension, field};
use super::{Qcow2, read_table};
use crate::driver::Driver;
use crate::formats::BitmapChange;
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use serde::Serialize;
use std::sync::atomic::Ordering;

const IN_USE: u32 = 1;
const AUTO: u32 = 2;
const MAX_BYTES: u64 = 512 << 20;
const MAX_BITMAPS: usize = 65_535;

/// A bitmap as the directory lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BitmapInfo {
    /// Name.
    pub name: String,
    /// Bytes that a bit stands for.
    pub granularity: u32,
    /// It was not saved: its bits mean nothing.
    pub in_use: bool,
    /// It follows writes.
    pub auto: bool,
    #[serde(skip)]
    table: (u64, u32),
}

struct Loaded {
    info: BitmapInfo,
    /// Its bits when they change; those of others stay where they are.
    bits: Option<Vec<u8>>,
}

/// Reads the directory.
pub(super) async fn read_directory(
    file: &crate::graph::Node,
    place: super::header::Place,
) -> Result<Vec<BitmapInfo>> {
    let bad = || BlockError::corrupt("the bitmap directory is damaged");
    if place.len > 64 << 20
        || place
            .offset
            .checked_add(place.len)
            .is_none_or(|end| end > file.len().next_multiple_of(512))
    {
        return Err(bad());
    }
    let bytes = file.read(place.offset, IoBuf::zeroed(place.len as usize)).await?;
    let mut list = Vec::new();
    let mut at = 0;
    while at + 24 <= bytes.len() && list.len() < MAX_BITMAPS {
        let (table, size, flags) = (be64(&bytes, at), be32(&bytes, at + 8), be32(&bytes, at + 12));
        let bits = bytes[at + 17];
        let name_len = usize::from(u16::from_be_bytes([bytes[at + 18], bytes[at + 19]]));
        let extra = be32(&bytes, at + 20) as usize;
        let name = bytes
            .get(at + 24..)
            .and_then(|rest| rest.get(extra..)?.get(..name_len))
            .ok_or_else(bad)?;
        if !(9..=31).contains(&bits) || bytes[at + 16] != 1 {
            return Err(bad());
        }
        list.push(BitmapInfo {
            name: String::from_utf8_lossy(name).into_owned(),
            granularity: 1 << bits,
            in_use: flags & IN_USE != 0,
            auto: flags & AUTO != 0,
            table: (table, size),
        });
        at = (at + 24 + extra + name_len).next_multiple_of(8);
    }
    Ok(list)
}

impl Qcow2 {
    fn bitmap_bytes(&self, granularity: u32) -> u64 {
        self.len().div_ceil(granularity.into()).div_ceil(8)
    }

    async fn load_bits(&self, info: &BitmapInfo) -> Result<Vec<u8>> {
        let bytes = self.bitmap_bytes(info.granularity);
        if bytes > MAX_BYTES {
            return Err(BlockError::unsupported("the bitmap is too large"));
        }
        let mut bits = vec![0; bytes as usize];
        if info.in_use {
            return Ok(bits);
        }
        let file = self.file()?;
        let table = read_table(&file, "bitmap table", info.table.0, info.table.1.into()).await?;
        let cluster = self.shape.cluster() as usize;
        for (word, part) in table.iter().zip(bits.chunks_mut(cluster)) {
            match word & OFFSET {
                0 if word & 1 != 0 => part.fill(0xff),
                0 => {}
                at => part.copy_from_slice(&file.read(at, IoBuf::zeroed(part.len())).await?),
            }
        }
        Ok(bits)
    }

    /// Ranges of the disk that a bitmap marks.
    pub(super) async fn bitmap_ranges(&self, name: &str) -> Result<Vec<(u64, u64)>> {
        let list = lock(&self.bitmaps).clone();
        let info = list.iter().find(|info| info.name == name);
        let info =
            info.ok_or_else(|| BlockError::Invalid(format!("Dirty bitmap '{name}' not found")))?;
        if info.in_use {
            return Err(BlockError::Invalid(format!(
                "Bitmap '{name}' is inconsistent and cannot be used"
            )));
        }
        let bits = self.load_bits(info).await?;
        let step = u64::from(info.granularity);
        let mut out: Vec<(u64, u64)> = Vec::new();
        for i in 0..bits.len() as u64 * 8 {
            if bits[i as usize / 8] >> (i % 8) & 1 == 0 {
                continue;
            }
            match out.last_mut() {
                Some((at, len)) if *at + *len == i * step => *len += step,
                _ => out.push((i * step, step)),
            }
        }
        Ok(out)
    }

    pub(super) async fn change_bitmap(&self, change: BitmapChange) -> Result<()> {
        if self.shape.version < 3 {
            return Err(BlockError::Invalid("Cannot store dirty bitmaps in qcow2 v2 files".into()));
        }
        let infos = lock(&self.bitmaps).clone();
        let index = |name: &str| {
            infos
                .iter()
                .position(|info| info.name == name)
                .ok_or_else(|| BlockError::Invalid(format!("Dirty bitmap '{name}' not found")))
        };
        let usable = |name: &str| {
            let at = index(name)?;
            match infos[at].in_use {
                true => Err(BlockError::Invalid(format!(
                    "Bitmap '{name}' is inconsistent and cannot be used\nTry block-dirty-bitmap-remove to delete this bitmap from disk"
                ))),
                false => Ok(at),
            }
        };
        let mut list: Vec<Loaded> =
            infos.iter().map(|info| Loaded { info: info.clone(), bits: None }).collect();
        match change {
            BitmapChange::Add { name, granularity } => {
                if index(&name).is_ok() {
                    return Err(BlockError::Invalid(format!("Bitmap already exists: {name}")));
                }
                if !granularity.is_power_of_two() || granularity < 512 {
                    return Err(BlockError::Invalid(
                        "Granularity must be a power of two, at least 512".into(),
                    ));
                }
                if name.is_empty() || name.len() > 1023 {
                    return Err(BlockError::Invalid("Bitmap name is empty or too long".into()));
                }
                let bytes = self.bitmap_bytes(granularity);
                if bytes > MAX_BYTES {
                    return Err(BlockError::unsupported("the bitmap would be too large"));
                }
                let info =
                    BitmapInfo { name, granularity, in_use: false, auto: true, table: (0, 0) };
                list.push(Loaded { info, bits: Some(vec![0; bytes as usize]) });
            }
            BitmapChange::Remove(name) => drop(list.remove(index(&name)?)),
            BitmapChange::Clear(name) => {
                let loaded = &mut list[usable(&name)?];
                let bytes = self.bitmap_bytes(loaded.info.granularity);
                loaded.bits = Some(vec![0; bytes as usize]);
            }
            BitmapChange::Enable(name, on) => list[usable(&name)?].info.auto = on,
            BitmapChange::Merge(name, ranges) => {
                let loaded = &mut list[usable(&name)?];
                let step = u64::from(loaded.info.granularity);
                let mut bits = self.load_bits(&loaded.info).await?;
                for (at, len) in ranges {
                    let end = (at + len).div_ceil(step).min(bits.len() as u64 * 8);
                    for i in at / step..end {
                        bits[i as usize / 8] |= 1 << (i % 8);
                    }
                }
                loaded.bits = Some(bits);
            }
        }
        self.store_bitmaps(list).await
    }

    /// Says in the file that its bitmaps are not what they should be, when it does not yet.
    pub(super) async fn bitmaps_go_stale(&self) -> Result<()> {
        match self.bitmaps_valid.swap(false, Ordering::Relaxed) {
            true => self.mark_bitmaps_in_use().await,
            false => Ok(()),
        }
    }

    /// Says in the directory, where it is, that no bitmap is what it should be.
    async fn mark_bitmaps_in_use(&self) -> Result<()> {
        let Some(place) = *lock(&self.bitmap_place) else { return Ok(()) };
        lock(&self.bitmaps).iter_mut().for_each(|info| info.in_use = true);
        let file = self.file()?;
        let mut bytes = file.read(place.offset, IoBuf::zeroed(place.len as usize)).await?;
        let mut at = 0;
        while at + 24 <= bytes.len() {
            let flags = be32(&bytes, at + 12) | IN_USE;
            bytes[at + 12..at + 16].copy_from_slice(&flags.to_be_bytes());
            let name = usize::from(u16::from_be_bytes([bytes[at + 18], bytes[at + 19]]));
            let extra = be32(&bytes, at + 20) as usize;
            at = (at + 24 + extra + name).next_multiple_of(8);
        }
        file.write(place.offset, bytes).await?;
        file.flush().await
    }

    /// Writes the bitmaps that change anew, and a directory, and switches to them.
    async fn store_bitmaps(&self, mut list: Vec<Loaded>) -> Result<()> {
        let old = lock(&self.bitmaps).clone();
        let old_place = *lock(&self.bitmap_place);
        let (cluster, bits) = (self.shape.cluster(), self.shape.cluster_bits);
        self.begin().await?;
        let file = self.file()?;
        let mut directory = Vec::new();
        for loaded in list.iter_mut().filter(|loaded| loaded.bits.is_some()) {
            let mut table = Vec::new();
            for part in loaded.bits.iter().flat_map(|bits| bits.chunks(cluster as usize)) {
                if part.iter().all(|b| *b == 0) {
                    table.push(0);
                    continue;
                }
                let at = self.alloc(1).await?.0;
                let mut whole = part.to_vec();
                whole.resize(cluster as usize, 0);
                file.write(at, whole.into()).await?;
                table.push(at);
            }
            let bytes: Vec<u8> = table.iter().flat_map(|word| word.to_be_bytes()).collect();
            let clusters = (bytes.len() as u64).div_ceil(cluster).max(1);
            let at = self.alloc_exactly(clusters).await?;
            let mut padded = bytes;
            padded.resize((clusters * cluster) as usize, 0);
            file.write(at, padded.into()).await?;
            loaded.info.table = (at, table.len() as u32);
        }
        for Loaded { info, .. } in &list {
            directory.extend(info.table.0.to_be_bytes());
            directory.extend(info.table.1.to_be_bytes());
            let flags = u32::from(info.in_use) * IN_USE + u32::from(info.auto) * AUTO;
            directory.extend(flags.to_be_bytes());
            directory.extend([1, info.granularity.trailing_zeros() as u8]);
            directory.extend((info.name.len() as u16).to_be_bytes());
            directory.extend([0; 4]);
            directory.extend(info.name.as_bytes());
            directory.resize(directory.len().next_multiple_of(8), 0);
        }
        let len = directory.len() as u64;
        let count = list.len() as u32;
        let mut at = 0;
        if count > 0 {
            at = self.alloc_exactly(len.div_ceil(cluster)).await?;
            file.write(at, directory.into()).await?;
        }
        self.write_back(true).await?;
        self.edit_header(move |first| {
            let mut data = count.to_be_bytes().to_vec();
            data.extend([0; 4]);
            data.extend(len.to_be_bytes());
            data.extend(at.to_be_bytes());
            first.set(extension::BITMAPS, (count > 0).then_some(data));
            let now = be64(&first.fixed, field::AUTOCLEAR) & !autoclear::BITMAPS;
            first.put64(field::AUTOCLEAR, now | if count > 0 { autoclear::BITMAPS } else { 0 });
        })
        .await?;
        *lock(&self.bitmaps) = list.iter().map(|loaded| loaded.info.clone()).collect();
        *lock(&self.bitmap_place) = (count > 0).then_some(super::header::Place { offset: at, len });
        // Nobody refers to the old ones any more.
        let stays = |info: &BitmapInfo| list.iter().any(|kept| kept.info.table == info.table);
        for info in old.iter().filter(|info| !stays(info)) {
            let table =
                read_table(&file, "bitmap table", info.table.0, info.table.1.into()).await?;
            for word in table.iter().filter(|word| **word & OFFSET != 0) {
                self.drop_refs((word & OFFSET) >> bits, 1).await?;
            }
            let clusters = (u64::from(info.table.1) * 8).div_ceil(cluster).max(1);
            self.drop_refs(info.table.0 >> bits, clusters).await?;
        }
        if let Some(place) = old_place {
            self.drop_refs(place.offset >> bits, place.len.div_ceil(cluster)).await?;
        }
        self.bitmaps_valid.store(true, Ordering::Relaxed);
        self.write_back(true).await
    }
}
