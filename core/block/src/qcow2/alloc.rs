//! Host clusters: who has them, who may have them next.

use super::entry::{
    COMPRESSED, OFFSET, REFTABLE_RESERVED, Shape, refcount, refcount_bytes, set_refcount,
};
use super::header::{MAX_REFTABLE_BYTES, field, incompatible};
use super::{Freed, Meta, Qcow2};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use rustc_hash::FxHashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Words of a table in a sector.
const WORDS: u64 = 64;

/// How far behind the first free cluster neighbours are looked for.
const LOOK_AHEAD: u64 = 64;

enum Found {
    Clusters(u64, u64),
    Load(u64),
}

impl Meta {
    /// Takes up to `want` free clusters that are neighbours. Growing the refcount structure
    /// happens in memory; the next write-back puts it on disk in the right order.
    fn find_free(&mut self, shape: &Shape, want: u64, what: &str) -> Result<Found> {
        let per = shape.refcounts_per_block();
        loop {
            let cluster = self.free_hint;
            if cluster << shape.cluster_bits > OFFSET - shape.cluster() * want {
                return Err(BlockError::NoSpace);
            }
            let index = cluster / per;
            let Some(word) = self.reftable.get(index as usize) else {
                self.grow_reftable(shape)?;
                continue;
            };
            let block = word & !REFTABLE_RESERVED;
            if block == 0 {
                self.new_block(shape, index, cluster)?;
                continue;
            }
            let Some(bytes) = self.refblocks.get(block) else { return Ok(Found::Load(block)) };
            let is_free = |c: &u64| refcount(bytes, shape.refcount_order, *c % per) == 0;
            let end = (index + 1) * per;
            let Some(free) = (cluster..end).find(is_free) else {
                self.free_hint = end;
                continue;
            };
            let first = (free..end.min(free + LOOK_AHEAD))
                .find(|first| first + want <= end && (*first..first + want).all(|c| is_free(&c)));
            let first = first.unwrap_or(free);
            let count = (first..end.min(first + want)).take_while(is_free).count() as u64;
            self.check_guarded(first, count, what)?;
            for c in first..first + count {
                let at = c % per;
                let range = refcount_bytes(shape.refcount_order, at);
                self.refblocks
                    .modify(block, range, |b| set_refcount(b, shape.refcount_order, at, 1));
            }
            self.free_hint = if first == free { first + count } else { free };
            return Ok(Found::Clusters(first, count));
        }
    }

    fn check_guarded(&self, first: u64, count: u64, what: &str) -> Result<()> {
        let Some(guarded) = &self.guarded else { return Ok(()) };
        match (first..first + count).find(|c| guarded.contains(c)) {
            Some(0) => Err(BlockError::corrupt(format!(
                "Preventing invalid allocation of {what} at offset 0"
            ))),
            Some(c) => Err(BlockError::corrupt(format!(
                "cluster {c} holds metadata but its refcount says that it is free"
            ))),
            None => Ok(()),
        }
    }

    /// A refcount block for a range that has none; it lies in its own range.
    fn new_block(&mut self, shape: &Shape, index: u64, cluster: u64) -> Result<()> {
        self.check_guarded(cluster, 1, "refcount block")?;
        let mut bytes = vec![0; shape.cluster() as usize];
        set_refcount(&mut bytes, shape.refcount_order, cluster % shape.refcounts_per_block(), 1);
        let offset = cluster << shape.cluster_bits;
        self.refblocks.insert_fresh(offset, bytes);
        self.reftable[index as usize] = offset;
        self.reftable_dirty.insert(index / WORDS);
        self.guard(cluster);
        Ok(())
    }

    pub(super) fn guard(&mut self, cluster: u64) {
        if let Some(guarded) = &mut self.guarded {
            guarded.insert(cluster);
        }
    }

    pub(super) fn unguard(&mut self, cluster: u64) {
        if let Some(guarded) = &mut self.guarded {
            guarded.remove(&cluster);
        }
    }

    /// Takes more neighbours than one refcount block counts, behind everything that is counted:
    /// their refcount blocks come first, so that they do not lie in between.
    fn take_far(&mut self, shape: &Shape, count: u64) -> Result<u64> {
        let per = shape.refcounts_per_block();
        let blocks = count.div_ceil(per - 1);
        let range = loop {
            let used = self.reftable.iter().rposition(|word| word & !REFTABLE_RESERVED != 0);
            let range = used.map_or(0, |last| last as u64 + 1);
            if range + blocks <= self.reftable.len() as u64 {
                break range;
            }
            self.grow_reftable(shape)?;
        };
        let first = range * per;
        let total = blocks + count;
        if (first + total) > OFFSET >> shape.cluster_bits {
            return Err(BlockError::NoSpace);
        }
        self.check_guarded(first, total, "metadata")?;
        for k in 0..blocks {
            let mut bytes = vec![0; shape.cluster() as usize];
            let start = first + k * per;
            for c in start..(first + total).min(start + per) {
                set_refcount(&mut bytes, shape.refcount_order, c % per, 1);
            }
            let offset = (first + k) << shape.cluster_bits;
            self.refblocks.insert_fresh(offset, bytes);
            self.reftable[(range + k) as usize] = offset;
            self.reftable_dirty.insert((range + k) / WORDS);
            self.guard(first + k);
        }
        Ok((first + blocks) << shape.cluster_bits)
    }

    /// Moves the refcount table to a larger place right behind what it covers now.
    fn grow_reftable(&mut self, shape: &Shape) -> Result<()> {
        let per = shape.refcounts_per_block();
        let old_len = self.reftable.len() as u64;
        let per_cluster = shape.cluster() / 8;
        let (mut blocks, mut table) = (1, 1);
        loop {
            let want = (old_len + old_len / 2).max(old_len + blocks);
            let next_table = want.div_ceil(per_cluster);
            let next_blocks = (blocks + next_table).div_ceil(per).max(blocks);
            if (next_table, next_blocks) == (table, blocks) {
                break;
            }
            (table, blocks) = (next_table, next_blocks);
        }
        if table << shape.cluster_bits > MAX_REFTABLE_BYTES {
            return Err(BlockError::NoSpace);
        }
        let first = old_len * per;
        self.check_guarded(first, blocks + table, "refcount block")?;
        self.reftable.resize((table * per_cluster) as usize, 0);
        for k in 0..blocks {
            let mut bytes = vec![0; shape.cluster() as usize];
            let start = first + k * per;
            for c in start..(first + blocks + table).min(start + per) {
                set_refcount(&mut bytes, shape.refcount_order, c % per, 1);
            }
            let offset = (first + k) << shape.cluster_bits;
            self.refblocks.insert_fresh(offset, bytes);
            self.reftable[(old_len + k) as usize] = offset;
        }
        let old = self.reftable_offset;
        if old != self.reftable_on_disk.0 {
            // A move that never reached the disk.
            self.free(old >> shape.cluster_bits, (old_len * 8) >> shape.cluster_bits, false);
        }
        self.reftable_offset = (first + blocks) << shape.cluster_bits;
        (first..first + blocks + table).for_each(|c| self.guard(c));
        Ok(())
    }
}

impl Qcow2 {
    /// Takes up to `want` neighbouring clusters; gives their offset and number.
    pub(super) async fn alloc(&self, want: u64) -> Result<(u64, u64)> {
        self.alloc_for(want, "data cluster").await
    }

    /// The same; `what` they are for is told when that cannot be right.
    pub(super) async fn alloc_for(&self, want: u64, what: &str) -> Result<(u64, u64)> {
        self.event("cluster_alloc").await;
        let mut reused = false;
        loop {
            let found = lock(&self.meta).find_free(&self.shape, want, what);
            match found {
                Ok(Found::Clusters(first, count)) => {
                    if !reused && self.should_reuse(first + count)? {
                        reused = true;
                        self.drop_refs(first, count).await?;
                        self.write_back(true).await?;
                        continue;
                    }
                    return Ok((first << self.shape.cluster_bits, count));
                }
                Ok(Found::Load(block)) => {
                    if let Err(error) = self.load_refblock(block).await {
                        if matches!(error, BlockError::Corrupt(_)) {
                            self.mark_corrupt().await?;
                        }
                        return Err(error);
                    }
                }
                Err(error) => {
                    if matches!(error, BlockError::Corrupt(_)) {
                        self.mark_corrupt().await?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// True when the file would have to grow, to this cluster, although much of it was freed, but not for good.
    fn should_reuse(&self, end: u64) -> Result<bool> {
        const MUCH: u64 = 8 << 20;
        let meta = lock(&self.meta);
        if meta.freed.is_empty() || meta.freed.len() > 256 {
            return Ok(false);
        }
        let freed: u64 = meta.freed.iter().map(|freed| freed.count).sum();
        let bits = self.shape.cluster_bits;
        Ok(freed << bits >= MUCH && end << bits > self.file()?.len())
    }

    /// Nothing is written any more, by us or by whoever opens the image next.
    async fn mark_corrupt(&self) -> Result<()> {
        self.broken.store(true, Ordering::Relaxed);
        self.writable.store(false, Ordering::Relaxed);
        let old = self.incompatible.fetch_or(incompatible::CORRUPT, Ordering::Relaxed);
        if self.shape.version >= 3 && old & incompatible::CORRUPT == 0 {
            let bytes = IoBuf::from(&(old | incompatible::CORRUPT).to_be_bytes()[..]);
            self.file()?.write(field::INCOMPATIBLE as u64, bytes).await?;
        }
        Ok(())
    }

    /// Takes exactly `count` neighbouring clusters.
    pub(super) async fn alloc_exactly(&self, count: u64) -> Result<u64> {
        if count >= self.shape.refcounts_per_block() {
            self.event("cluster_alloc").await;
            return lock(&self.meta).take_far(&self.shape, count);
        }
        let mut misfits = Vec::new();
        let offset = loop {
            let (offset, got) = self.alloc(count).await?;
            if got == count {
                break offset;
            }
            // A run may end at a refcount block; join runs that touch.
            match misfits.last_mut() {
                Some((start, len)) if *start + (*len << self.shape.cluster_bits) == offset => {
                    *len += got;
                    if *len >= count {
                        let (start, len) = misfits.pop().expect("just seen");
                        misfits.push((start + (count << self.shape.cluster_bits), len - count));
                        break start;
                    }
                }
                _ => misfits.push((offset, got)),
            }
        };
        for (offset, count) in misfits {
            self.drop_refs(offset >> self.shape.cluster_bits, count).await?;
        }
        Ok(offset)
    }

    pub(super) async fn load_refblock(&self, block: u64) -> Result<()> {
        let _guard = self.loading.acquire(block..block + 1).await;
        if lock(&self.meta).refblocks.contains(block) {
            return Ok(());
        }
        let file = self.file()?;
        if block & (self.shape.cluster() - 1) != 0 {
            let index = lock(&self.meta).reftable.iter().position(|word| *word == block);
            return Err(BlockError::corrupt(format!(
                "Refblock offset {block:#x} unaligned (reftable index: {:#x})",
                index.unwrap_or(0)
            )));
        }
        if block >= file.len() {
            return Err(BlockError::corrupt(format!("refcount block at {block:#x} cannot be")));
        }
        let bytes = file.read(block, IoBuf::zeroed(self.shape.cluster() as usize)).await?;
        lock(&self.meta).refblocks.insert_clean(block, bytes.into_vec());
        Ok(())
    }

    /// The refcount of a cluster.
    pub(super) async fn refcount_of(&self, cluster: u64) -> Result<u64> {
        let per = self.shape.refcounts_per_block();
        loop {
            let block = {
                let mut meta = lock(&self.meta);
                let word = meta.reftable.get((cluster / per) as usize).copied().unwrap_or(0);
                match word & !REFTABLE_RESERVED {
                    0 => return Ok(0),
                    block => match meta.refblocks.get(block) {
                        Some(bytes) => {
                            return Ok(refcount(bytes, self.shape.refcount_order, cluster % per));
                        }
                        None => block,
                    },
                }
            };
            self.load_refblock(block).await?;
        }
    }

    /// Sets the refcount of a cluster whose block exists.
    pub(super) async fn set_refcount_of(&self, cluster: u64, value: u64) -> Result<()> {
        let (per, order) = (self.shape.refcounts_per_block(), self.shape.refcount_order);
        loop {
            let block = {
                let mut meta = lock(&self.meta);
                let word = meta.reftable.get((cluster / per) as usize).copied().unwrap_or(0);
                let block = word & !REFTABLE_RESERVED;
                if block == 0 {
                    return Err(BlockError::corrupt(format!("cluster {cluster} has no refcount")));
                }
                let range = refcount_bytes(order, cluster % per);
                let set = |b: &mut [u8]| set_refcount(b, order, cluster % per, value);
                if meta.refblocks.modify(block, range, set).is_some() {
                    if value == 0 {
                        meta.free_hint = meta.free_hint.min(cluster);
                    }
                    return Ok(());
                }
                block
            };
            self.load_refblock(block).await?;
        }
    }

    /// Takes one reference away from each cluster, at once.
    pub(super) async fn drop_refs(&self, cluster: u64, count: u64) -> Result<()> {
        self.event("cluster_free").await;
        for c in cluster..cluster + count {
            match self.refcount_of(c).await? {
                0 => return Err(BlockError::corrupt(format!("cluster {c} is freed twice"))),
                n => {
                    if n == 1 {
                        lock(&self.meta).unguard(c);
                    }
                    self.set_refcount_of(c, n - 1).await?;
                }
            }
        }
        Ok(())
    }

    /// Carries out frees that are safe by now.
    pub(super) async fn settle_freed(&self) -> Result<()> {
        loop {
            let next = {
                let mut meta = lock(&self.meta);
                // Leases of an epoch also hold what was freed in later ones.
                match meta.settling.front() {
                    Some(freed) if Arc::strong_count(&freed.epoch) == 1 => {
                        meta.settling.pop_front()
                    }
                    _ => None,
                }
            };
            let Some(Freed { cluster, count, punch, .. }) = next else { return Ok(()) };
            let mut at = cluster;
            while at < cluster + count {
                // Runs of last references are given back to the host first, then to the allocator.
                let mut run = 0;
                while punch && at + run < cluster + count && self.refcount_of(at + run).await? == 1
                {
                    run += 1;
                }
                if run > 0 {
                    let bits = self.shape.cluster_bits;
                    let file = self.file()?;
                    let (start, end) = (at << bits, ((at + run) << bits).min(file.len()));
                    if start < end {
                        // A hint: a host that refuses has lost nothing.
                        let _ = file.discard(start, end - start).await;
                    }
                }
                let run = run.max(1);
                self.drop_refs(at, run).await?;
                at += run;
            }
        }
    }

    /// Clusters whose overwriting would destroy the image.
    pub(super) fn build_guard(&self) {
        let mut meta = lock(&self.meta);
        if meta.guarded.is_some() {
            return;
        }
        let bits = self.shape.cluster_bits;
        let mut set = FxHashSet::default();
        set.insert(0);
        let span = |offset: u64, bytes: u64| offset >> bits..(offset + bytes).div_ceil(1 << bits);
        set.extend(span(meta.l1_offset, meta.l1.len() as u64 * 8));
        set.extend(span(meta.reftable_offset, meta.reftable.len() as u64 * 8));
        set.extend(meta.l1.iter().map(|word| (word & OFFSET) >> bits));
        set.extend(meta.reftable.iter().map(|word| (word & !REFTABLE_RESERVED) >> bits));
        let (snapshots_at, snapshots_len) = *lock(&self.snapshot_table);
        if snapshots_len > 0 {
            set.extend(span(snapshots_at, snapshots_len));
        }
        meta.guarded = Some(set);
    }

    /// Frees what an L2 entry referred to, when the file has forgotten the entry.
    pub(super) fn free_entry(&self, meta: &mut Meta, entry: super::entry::Entry) {
        let bits = self.shape.cluster_bits;
        if entry.word & COMPRESSED != 0 {
            if let Some(packed) = entry.packed(&self.shape) {
                let first = packed.offset >> bits;
                let last = (packed.offset + packed.len - 1) >> bits;
                meta.free(first, last - first + 1, true);
                meta.packed_end = 0;
                meta.unpacked = None;
            }
        } else if let Some(host) = entry.host(&self.shape)
            && !self.shape.data_file
        {
            meta.free(host >> bits, 1, true);
        }
    }
}
