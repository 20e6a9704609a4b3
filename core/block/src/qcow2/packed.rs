//! Writing compressed clusters.

use super::entry::{COMPRESSED, Entry};
use super::header::Compression;
use super::{Meta, Qcow2};
use crate::driver::Driver;
use crate::pack::{deflate, zstd};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};

/// Packs one cluster; `None` when that makes it no smaller.
pub(super) fn pack(method: Compression, data: &[u8]) -> Option<Vec<u8>> {
    let packed = match method {
        Compression::Zlib => deflate(data)?,
        Compression::Zstd => zstd(data),
    };
    (packed.len() < data.len()).then_some(packed)
}

impl Meta {
    /// The rest of the cluster that packed data went into last.
    fn packed_room(&self, cluster: u64) -> Option<(u64, u64)> {
        let at = self.packed_end;
        (!at.is_multiple_of(cluster)).then(|| (at, cluster - at % cluster))
    }
}

impl Qcow2 {
    /// Writes clusters compressed, one by one.
    pub(super) async fn write_packed(&self, offset: u64, buf: IoBuf) -> Result<IoBuf> {
        let cluster = self.shape.cluster();
        let end = offset + buf.len() as u64;
        if !offset.is_multiple_of(cluster) || !end.is_multiple_of(cluster) && end != self.len() {
            return Err(BlockError::invalid("compressed writes are of whole clusters"));
        }
        if self.shape.data_file {
            return Err(BlockError::unsupported("compressed clusters need data in the image"));
        }
        for (i, part) in buf.chunks(cluster as usize).enumerate() {
            let at = offset + i as u64 * cluster;
            let mut whole = part.to_vec();
            whole.resize(cluster as usize, 0);
            match pack(self.header.compression, &whole) {
                Some(packed) => self.put_packed(at, packed).await?,
                None => self.write_any(at, IoBuf::from(part)).await.map(drop)?,
            }
        }
        Ok(buf)
    }

    /// Stores what a cluster was packed to, in place of what it was.
    pub(super) async fn put_packed(&self, at: u64, packed: Vec<u8>) -> Result<()> {
        self.begin().await?;
        let shape = &self.shape;
        let cluster = shape.cluster();
        let len = packed.len() as u64;
        let _own = self.own(at, cluster).await;
        // The table that will refer to the data comes before it.
        self.with_l2(at, |_, _| Ok(())).await?;
        let place = {
            let _packing = self.packing.acquire_all().await;
            let room = lock(&self.meta).packed_room(cluster);
            let mut place = None;
            if let Some((start, left)) = room {
                let first = start >> shape.cluster_bits;
                let count = self.refcount_of(first).await?;
                if count > 0 && count < shape.refcount_max() {
                    if len <= left {
                        self.set_refcount_of(first, count + 1).await?;
                        place = Some(start);
                    } else {
                        // It may go on in the next cluster.
                        let (next, _) = self.alloc(1).await?;
                        if next == start + left {
                            self.set_refcount_of(first, count + 1).await?;
                            place = Some(start);
                        } else {
                            place = Some(next);
                        }
                    }
                }
            }
            let place = match place {
                Some(place) => place,
                None => self.alloc(1).await?.0,
            };
            lock(&self.meta).packed_end = place + len;
            place
        };
        self.file()?.write(place, packed.into()).await?;
        let shift = 62 - (shape.cluster_bits - 8);
        if place >> shift != 0 {
            return Err(BlockError::NoSpace);
        }
        let sectors = ((place + len - 1) >> 9) - (place >> 9);
        let word = COMPRESSED | sectors << shift | place;
        self.with_l2(at, |meta, table| {
            let old = self.load_entry(meta, table, at);
            self.store_entry(meta, table, at, Entry { word, bitmap: 0 });
            self.free_entry(meta, old);
            meta.unpacked = None;
            Ok(())
        })
        .await?;
        self.relieve().await
    }
}
