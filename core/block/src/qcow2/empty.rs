//! Emptying an image at once: it starts over with a table of nothing and refcounts of its first
//! clusters, instead of giving back cluster after cluster.

use super::Qcow2;
use super::entry::set_refcount;
use super::header::field;
use crate::sync::lock;
use crate::{IoBuf, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where the parts begin, in clusters: behind the header are the refcount table, its only block
/// and the L1 table.
const TABLE: u64 = 1;
const BLOCK: u64 = 2;
const L1: u64 = 3;

impl Qcow2 {
    fn l1_clusters(&self) -> u64 {
        (lock(&self.meta).l1.len() as u64 * 8).div_ceil(self.shape.cluster())
    }

    /// True when nothing but the disk's clusters lies behind the header, one refcount block is
    /// enough for what stays, and nobody reads a cluster that would go.
    pub(super) fn may_start_over(&self) -> bool {
        let shape = &self.shape;
        let alone = shape.version >= 3
            && !shape.data_file
            && lock(&self.snapshots).is_empty()
            && lock(&self.bitmaps).is_empty()
            && self.header.crypto.is_none();
        let fits = L1 + self.l1_clusters() <= shape.refcounts_per_block();
        let meta = lock(&self.meta);
        let quiet = meta.freed.is_empty()
            && meta.settling.is_empty()
            && Arc::strong_count(&meta.epoch) == 1;
        alone && fits && quiet
    }

    /// Forgets every cluster of the disk. The caller keeps everybody off the mapping, and has
    /// written everything back. Where it fails the image is marked dirty: what it leaves is put
    /// right by a repair.
    pub(super) async fn start_over(&self) -> Result<()> {
        let (shape, file) = (self.shape, self.file()?);
        let cluster = shape.cluster();
        let l1_clusters = self.l1_clusters();
        self.mark_dirty(true).await?;
        // Nothing that is in memory may be written from here on.
        self.outdated.store(true, Ordering::Relaxed);
        self.writable.store(false, Ordering::Release);
        self.event("l1_update").await;
        let old_l1 = lock(&self.meta).l1_offset;
        file.write_zeroes(old_l1, l1_clusters * cluster, false).await?;
        file.flush().await?;
        self.event("empty_image_prepare").await;
        file.write_zeroes(TABLE * cluster, (BLOCK + l1_clusters) * cluster, false).await?;
        file.flush().await?;
        self.event("reftable_update").await;
        let mut fields = (L1 * cluster).to_be_bytes().to_vec();
        fields.extend((TABLE * cluster).to_be_bytes());
        fields.extend(1u32.to_be_bytes());
        file.write(field::L1_OFFSET as u64, fields.into()).await?;
        file.flush().await?;
        self.event("refblock_alloc").await;
        let mut block = vec![0; cluster as usize];
        for index in 0..L1 + l1_clusters {
            set_refcount(&mut block, shape.refcount_order, index, 1);
        }
        file.write(BLOCK * cluster, IoBuf::from(&block[..])).await?;
        file.flush().await?;
        let word = IoBuf::from(&(BLOCK * cluster).to_be_bytes()[..]);
        file.write(TABLE * cluster, word).await?;
        file.flush().await?;
        {
            let mut guard = lock(&self.meta);
            let meta = &mut *guard;
            meta.l1.iter_mut().for_each(|word| *word = 0);
            meta.l1_offset = L1 * cluster;
            meta.l1_dirty = BTreeSet::new();
            meta.l2.clear();
            meta.reftable = vec![0; (cluster / 8) as usize];
            meta.reftable[0] = BLOCK * cluster;
            meta.reftable_offset = TABLE * cluster;
            meta.reftable_on_disk = (TABLE * cluster, 1);
            meta.reftable_dirty = BTreeSet::new();
            meta.refblocks.clear();
            meta.refblocks.insert_clean(BLOCK * cluster, block);
            meta.free_hint = L1 + l1_clusters;
            meta.guarded = None;
            meta.packed_end = 0;
            meta.unpacked = None;
        }
        self.mark_dirty(self.lazy()).await?;
        self.build_guard();
        self.outdated.store(false, Ordering::Relaxed);
        self.writable.store(true, Ordering::Release);
        file.truncate((L1 + l1_clusters) * cluster).await
    }
}
