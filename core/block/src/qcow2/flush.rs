//! Write-back of tables, in an order that a crash cannot hurt.
//!
//! 1. refcount blocks, new L2 tables and a moved refcount table: nothing on disk refers to the
//!    new ones, and refcounts only grew for what will be referred to;
//! 2. after a barrier, entries of the refcount table, or the header's reference to a moved one;
//! 3. after a barrier, L2 and L1 entries: data, copies and refcounts are stable by now;
//! 4. after a barrier, clusters that lost a reference are freed. Their decremented refcounts go
//!    to disk with the next cycle; until then they are leaks at worst.

use super::header::{field, incompatible};
use super::{Freed, Qcow2};
use crate::graph::Node;
use crate::sync::lock;
use crate::table::Dirty;
use crate::{BlockError, IoBuf, Result};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

const WORDS: usize = 64;

/// One cycle's worth of changes.
struct Batch {
    refblocks: Vec<Dirty>,
    l2: Vec<Dirty>,
    l1: Vec<(u64, Vec<u8>)>,
    l1_sectors: BTreeSet<u64>,
    reftable: Vec<(u64, Vec<u8>)>,
    reftable_sectors: BTreeSet<u64>,
    /// Offset and bytes of a refcount table that moved.
    moved: Option<(u64, Vec<u8>)>,
    freed: Vec<Freed>,
}

/// The bytes of the dirty sectors of a table of words.
fn sectors(table: &[u64], offset: u64, dirty: &BTreeSet<u64>) -> Vec<(u64, Vec<u8>)> {
    let mut out: Vec<(u64, Vec<u8>)> = Vec::new();
    for sector in dirty {
        let start = *sector as usize * WORDS;
        let words = &table[start.min(table.len())..(start + WORDS).min(table.len())];
        let bytes = words.iter().flat_map(|word| word.to_be_bytes());
        let at = offset + sector * 512;
        match out.last_mut() {
            Some((last, run)) if *last + run.len() as u64 == at => run.extend(bytes),
            _ => out.push((at, bytes.collect())),
        }
    }
    out
}

impl Qcow2 {
    fn take_batch(&self, with_freed: bool) -> Batch {
        let mut guard = lock(&self.meta);
        let meta = &mut *guard;
        // Under the dirty mark refcounts may wait until the image is closed.
        let marked = self.incompatible.load(Ordering::Relaxed) & incompatible::DIRTY != 0;
        let late = self.lazy() && marked && !self.closing.load(Ordering::Relaxed);
        let late = late && !meta.refblocks.crowded();
        if late {
            let l1_sectors = std::mem::take(&mut meta.l1_dirty);
            return Batch {
                refblocks: Vec::new(),
                l2: meta.l2.take_dirty(),
                l1: sectors(&meta.l1, meta.l1_offset, &l1_sectors),
                l1_sectors,
                reftable: Vec::new(),
                reftable_sectors: BTreeSet::new(),
                moved: None,
                freed: if with_freed { std::mem::take(&mut meta.freed) } else { Vec::new() },
            };
        }
        let moved = (meta.reftable_offset != meta.reftable_on_disk.0).then(|| {
            let bytes = meta.reftable.iter().flat_map(|word| word.to_be_bytes()).collect();
            (meta.reftable_offset, bytes)
        });
        let reftable_sectors = std::mem::take(&mut meta.reftable_dirty);
        let l1_sectors = std::mem::take(&mut meta.l1_dirty);
        Batch {
            refblocks: meta.refblocks.take_dirty(),
            l2: meta.l2.take_dirty(),
            l1: sectors(&meta.l1, meta.l1_offset, &l1_sectors),
            l1_sectors,
            reftable: match moved {
                Some(_) => Vec::new(),
                None => sectors(&meta.reftable, meta.reftable_offset, &reftable_sectors),
            },
            reftable_sectors,
            moved,
            freed: if with_freed { std::mem::take(&mut meta.freed) } else { Vec::new() },
        }
    }

    /// Writes the refcounts that have changed, whoever they are for.
    pub(super) async fn write_refcounts(&self) -> Result<()> {
        let _cycle = self.cycle.acquire_all().await;
        let file = self.file()?;
        let dirty = lock(&self.meta).refblocks.take_dirty();
        let mut result = Ok(());
        for item in &dirty {
            if result.is_ok() {
                result = write_table(&file, item).await;
            }
        }
        let mut meta = lock(&self.meta);
        dirty.iter().for_each(|item| meta.refblocks.written(item, result.is_ok()));
        result
    }

    /// Writes everything that has changed. With `sync` it is stable afterwards.
    pub(super) async fn write_back(&self, sync: bool) -> Result<()> {
        let _cycle = self.cycle.acquire_all().await;
        let file = self.file()?;
        let mut batch = self.take_batch(sync);
        let result = self.write_batch(&file, &batch, sync).await;
        let ok = result.is_ok();
        {
            let mut guard = lock(&self.meta);
            let meta = &mut *guard;
            batch.refblocks.iter().for_each(|item| meta.refblocks.written(item, ok));
            batch.l2.iter().for_each(|item| meta.l2.written(item, ok));
            if ok {
                if let Some((offset, bytes)) = &batch.moved {
                    let bits = self.shape.cluster_bits;
                    let (old, clusters) = meta.reftable_on_disk;
                    meta.reftable_on_disk = (*offset, bytes.len() as u64 >> bits);
                    meta.free(old >> bits, clusters, false);
                }
                meta.settling.extend(batch.freed.drain(..));
            } else {
                meta.l1_dirty.append(&mut batch.l1_sectors);
                meta.reftable_dirty.append(&mut batch.reftable_sectors);
                batch.freed.append(&mut meta.freed);
                meta.freed = batch.freed;
            }
        }
        result?;
        if sync { self.settle_freed().await } else { Ok(()) }
    }

    async fn write_batch(&self, file: &Node, batch: &Batch, sync: bool) -> Result<()> {
        let mut unstable = false;
        if !batch.refblocks.is_empty() {
            self.event("refblock_update_part").await;
        }
        for item in batch.refblocks.iter().chain(batch.l2.iter().filter(|item| item.fresh)) {
            write_table(file, item).await?;
            unstable = true;
        }
        if let Some((offset, bytes)) = &batch.moved {
            file.write(*offset, bytes.clone().into()).await?;
            unstable = true;
        }
        if batch.moved.is_some() || !batch.reftable.is_empty() {
            if unstable {
                file.flush().await?;
            }
            for (offset, bytes) in &batch.reftable {
                self.event("reftable_update").await;
                file.write(*offset, bytes.clone().into()).await?;
            }
            if let Some((offset, bytes)) = &batch.moved {
                let clusters = (bytes.len() as u64 >> self.shape.cluster_bits) as u32;
                let mut field = offset.to_be_bytes().to_vec();
                field.extend(clusters.to_be_bytes());
                file.write(field::REFTABLE_OFFSET as u64, field.into()).await?;
            }
        }
        let old_l2 = || batch.l2.iter().filter(|item| !item.fresh);
        if old_l2().next().is_some() || !batch.l1.is_empty() {
            // Guest data that the entries point to becomes stable here as well.
            self.barrier(file).await?;
            for item in old_l2() {
                self.event("l2_update").await;
                write_table(file, item).await?;
            }
            for (offset, bytes) in &batch.l1 {
                self.event("l1_update").await;
                file.write(*offset, bytes.clone().into()).await?;
            }
        }
        if sync {
            self.barrier(file).await?;
        }
        Ok(())
    }

    async fn barrier(&self, file: &Node) -> Result<()> {
        if self.shape.data_file {
            self.data()?.flush().await?;
        }
        file.flush().await
    }

    /// The guest's flush.
    pub(super) async fn flush_all(&self) -> Result<()> {
        if self.writable.load(Ordering::Acquire) {
            return self.write_back(true).await;
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(broken());
        }
        Ok(())
    }

    /// True when refcounts are written late.
    pub(super) fn lazy(&self) -> bool {
        self.late_refcounts
    }

    /// Leaves nothing in memory that the file lacks.
    pub(super) async fn close_all(&self) -> Result<()> {
        self.closing.store(true, Ordering::Relaxed);
        let result = self.close_now().await;
        self.closing.store(false, Ordering::Relaxed);
        result
    }

    async fn close_now(&self) -> Result<()> {
        self.flush_all().await?;
        // Frees dirty refcounts, whose write-back may free a moved table: three rounds at most.
        for _ in 0..4 {
            let clean = {
                let meta = lock(&self.meta);
                !meta.refblocks.is_dirty() && meta.freed.is_empty()
            };
            if clean {
                break;
            }
            self.flush_all().await?;
        }
        // The file ends with a whole cluster.
        if self.writable.load(Ordering::Acquire) {
            let file = self.file()?;
            let end = file.len().next_multiple_of(self.shape.cluster());
            if end != file.len() {
                file.truncate(end).await?;
            }
        }
        // Whatever comes after this is written in order, mark or no mark.
        if self.lazy() && self.writable.load(Ordering::Acquire) {
            self.mark_dirty(false).await?;
        }
        Ok(())
    }

    /// Sets or takes back the mark of stale refcounts.
    pub(super) async fn mark_dirty(&self, on: bool) -> Result<()> {
        let old = self.incompatible.load(Ordering::Relaxed);
        let new = if on { old | incompatible::DIRTY } else { old & !incompatible::DIRTY };
        if new != old {
            let file = self.file()?;
            let bytes = IoBuf::from(&new.to_be_bytes()[..]);
            file.write(field::INCOMPATIBLE as u64, bytes).await?;
            file.flush().await?;
            self.incompatible.store(new, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes back early when changes crowd the caches or much waits to be freed.
    pub(super) async fn relieve(&self) -> Result<()> {
        let (crowded, freed) = {
            let meta = lock(&self.meta);
            (meta.l2.crowded() || meta.refblocks.crowded(), meta.freed.len() > 4096)
        };
        if crowded || freed { self.write_back(freed).await } else { Ok(()) }
    }

    /// Must come before the first change: leaves the marks that the specification asks for.
    pub(super) async fn begin(&self) -> Result<()> {
        if self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        let _guard = self.growing.acquire_all().await;
        if self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        if self.broken.load(Ordering::Relaxed) {
            return Err(broken());
        }
        if self.outdated.load(Ordering::Relaxed) {
            return Err(BlockError::invalid("the image must be opened again first"));
        }
        // Bitmaps that nobody keeps up to date are not valid any more.
        let mut kept = self.header.autoclear & super::autoclear::RAW_EXTERNAL;
        if self.bitmaps_followed.load(Ordering::Relaxed) {
            self.bitmaps_go_stale().await?;
            kept |= self.header.autoclear & super::autoclear::BITMAPS;
        }
        self.bitmaps_valid.store(false, Ordering::Relaxed);
        if self.header.autoclear != kept {
            let file = self.file()?;
            let bytes = IoBuf::from(&kept.to_be_bytes()[..]);
            file.write(field::AUTOCLEAR as u64, bytes).await?;
            file.flush().await?;
        }
        if self.lazy() {
            self.mark_dirty(true).await?;
        }
        self.build_guard();
        self.writable.store(true, Ordering::Release);
        Ok(())
    }
}

fn broken() -> BlockError {
    BlockError::corrupt("its metadata contradicts itself; writes are refused")
}

async fn write_table(file: &Node, item: &Dirty) -> Result<()> {
    let bytes = IoBuf::from(&item.data[item.range.clone()]);
    file.write(item.offset + item.range.start as u64, bytes).await.map(drop)
}
