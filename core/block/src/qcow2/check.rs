//! Counting every reference to every cluster and comparing with the refcounts.
//!
//! Tables are read once each and in the order of the file; the counts are one array.

use super::entry::{
    COPIED, Entry, Kind, L1_RESERVED, OFFSET, REFTABLE_RESERVED, Shape, refcount, set_refcount,
};
use super::header::{MAX_REFTABLE_BYTES, Place, be32, be64, field, incompatible};
use super::snapshot::{MAX_SNAPSHOTS, Salvage, Snapshot, read_snapshots};
use super::{Qcow2, read_table};
use crate::driver::Driver;
use crate::graph::Node;
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// What `check` may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    Nothing,
    /// Give back clusters that nobody refers to.
    Leaks,
    /// That, and rebuild refcounts that are too low.
    All,
}

/// What `check` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckResult {
    /// Contradictions that can lead to loss of data.
    pub corruptions: u64,
    /// Clusters whose refcount is too high.
    pub leaks: u64,
    /// Corruptions that were repaired.
    pub corruptions_fixed: u64,
    /// Leaks that were repaired.
    pub leaks_fixed: u64,
    /// The first few findings in words.
    pub messages: Vec<String>,
    /// First byte behind the last cluster in use.
    pub image_end_offset: u64,
    /// Guest clusters in the disk.
    pub total_clusters: u64,
    /// Guest clusters that have host clusters.
    pub allocated_clusters: u64,
    /// Those that are not behind their predecessor.
    pub fragmented_clusters: u64,
    /// Compressed guest clusters.
    pub compressed_clusters: u64,
}

/// Most clusters that fit into the count: 256 MiB of it.
const MAX_CLUSTERS: u64 = 1 << 26;

impl CheckResult {
    /// True when nothing is wrong, or nothing is wrong any more.
    pub fn is_clean(&self) -> bool {
        self.corruptions == self.corruptions_fixed && self.leaks == self.leaks_fixed
    }

    pub(crate) fn corrupt(&mut self, text: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.say(text);
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if self.messages.len() < 100 {
            self.messages.push(text());
        }
    }
}

/// References counted so far, by cluster of the file.
struct Count<'a> {
    shape: Shape,
    file: &'a Node,
    file_len: u64,
    counts: Vec<u32>,
    result: CheckResult,
}

impl Count<'_> {
    /// One more reference to everything in a range of the file.
    fn add(&mut self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let cluster = self.shape.cluster();
        let Some(end) = offset.checked_add(len).filter(|end| *end < self.file_len + cluster) else {
            self.result.corrupt(|| {
                format!(
                    "ERROR: counting reference for region exceeding the end of the file by one cluster \
                     or more: offset {offset:#x} size {len:#x}"
                )
            });
            return;
        };
        for c in offset / cluster..end.div_ceil(cluster) {
            if c as usize >= self.counts.len() {
                self.counts.resize(c as usize + 1, 0);
            }
            let count = &mut self.counts[c as usize];
            if u64::from(*count) >= self.shape.refcount_max() {
                let at = c * cluster;
                self.result.corrupt(|| {
                    format!(
                        "ERROR: overflow cluster offset={at:#x}\nUse qemu-img amend to increase the \
                         refcount entry width or qemu-img convert to create a clean copy if the image \
                         cannot be opened for writing"
                    )
                });
                continue;
            }
            *count = count.saturating_add(1);
        }
    }

    fn aligned(&mut self, offset: u64, what: &str) -> bool {
        let ok = offset & (self.shape.cluster() - 1) == 0;
        if !ok {
            self.result.corrupt(|| format!("{what} at {offset:#x} is not aligned"));
        }
        ok
    }

    /// Everything that an L1 table leads to. Statistics are of the active table.
    async fn add_l1(&mut self, offset: u64, l1: &[u64], active: bool) -> Result<()> {
        self.add(offset, l1.len() as u64 * 8);
        let mut next = 0;
        for word in l1 {
            if word & L1_RESERVED != 0 {
                self.result.corrupt(|| format!("L1 entry {word:#x} has reserved bits set"));
            }
            let table = word & OFFSET;
            if table == 0 || !self.aligned(table, "L2 table") {
                continue;
            }
            self.add(table, self.shape.cluster());
            if table >= self.file_len {
                continue;
            }
            let bytes = self.file.read(table, IoBuf::zeroed(self.shape.cluster() as usize)).await?;
            for index in 0..1 << self.shape.l2_bits {
                let entry = Entry::load(&bytes, &self.shape, index);
                if entry != Entry::default() {
                    self.add_entry(entry, active, &mut next);
                }
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: Entry, active: bool, next: &mut u64) {
        let shape = self.shape;
        for sub in 0..shape.subs() {
            if let Err(error) = entry.kind(&shape, sub) {
                self.result.corrupt(|| error.to_string());
                return;
            }
        }
        if let Some(packed) = entry.packed(&shape) {
            if entry.copied() {
                self.result.corrupt(|| {
                    format!("compressed cluster at {:#x} is marked copied", packed.offset)
                });
            }
            // Whole sectors are counted, as they are when the cluster is freed.
            let start = packed.offset & !511;
            self.add(start, packed.offset + packed.len - start);
            self.result.allocated_clusters += u64::from(active);
            self.result.compressed_clusters += u64::from(active);
            self.result.fragmented_clusters += u64::from(active);
        } else if let Some(host) = entry.host(&shape) {
            if !shape.data_file {
                self.add(host, shape.cluster());
            }
            let data =
                (0..shape.subs()).any(|sub| matches!(entry.kind(&shape, sub), Ok(Kind::Data(_))));
            if active && data {
                self.result.allocated_clusters += 1;
                self.result.fragmented_clusters += u64::from(*next != 0 && host != *next);
                *next = host + shape.cluster();
            }
        }
    }

    async fn add_snapshots(&mut self, at: u64, len: u64, list: Vec<Snapshot>) -> Result<()> {
        self.add(at, len);
        for snapshot in list {
            if !self.aligned(snapshot.l1_offset, "L1 table of a snapshot") {
                continue;
            }
            let what = "L1 table of a snapshot";
            match read_table(self.file, what, snapshot.l1_offset, snapshot.l1_size.into()).await {
                Ok(l1) => self.add_l1(snapshot.l1_offset, &l1, false).await?,
                Err(error) => self.result.corrupt(|| error.to_string()),
            }
        }
        Ok(())
    }

    async fn add_bitmaps(&mut self, directory: Place) -> Result<()> {
        if directory.len > 64 << 20 || directory.offset.checked_add(directory.len).is_none() {
            self.result.corrupt(|| "bitmap directory is too large".into());
            return Ok(());
        }
        self.add(directory.offset, directory.len);
        let bytes = self.file.read(directory.offset, IoBuf::zeroed(directory.len as usize)).await?;
        let mut at = 0;
        while at + 24 <= bytes.len() {
            let (table, len) = (be64(&bytes, at), u64::from(be32(&bytes, at + 8)));
            let name = u64::from(be32(&bytes, at + 16) & 0xffff);
            let extra = u64::from(be32(&bytes, at + 20));
            at = (at as u64 + 24 + name + extra).next_multiple_of(8) as usize;
            self.add(table, len * 8);
            match read_table(self.file, "bitmap table", table, len).await {
                Ok(words) => {
                    for word in words.iter().filter(|word| **word & OFFSET != 0) {
                        self.add(word & OFFSET, self.shape.cluster());
                    }
                }
                Err(error) => self.result.corrupt(|| error.to_string()),
            }
        }
        Ok(())
    }
}

impl Qcow2 {
    /// Checks the image and repairs what `repair` allows. Nobody else works on the mapping
    /// meanwhile.
    pub(crate) async fn check(&self, repair: Repair) -> Result<CheckResult> {
        if self.read_only && repair != Repair::Nothing {
            return Err(BlockError::ReadOnly);
        }
        let _all = self.guest.acquire_all().await;
        if self.writable.load(Ordering::Acquire) {
            self.close_all().await?;
        }
        let file = self.file()?;
        let salvage = self.check_snapshot_table(&file, repair).await?;
        let mut count = self.count(&file, true).await?;
        count.result.corruptions += salvage.faults;
        drop(count.result.messages.splice(0..0, salvage.messages));
        let actual = self.read_refcounts(&file, &mut count).await?;
        let (mut too_low, mut missing) = (0, false);
        let mut wrong_counts = Vec::new();
        let known = count.counts.len().max(actual.len());
        count.counts.resize(known, 0);
        for (c, want) in count.counts.iter().enumerate() {
            let have = actual.get(c).copied().unwrap_or(0);
            let want = u64::from(*want);
            if have != want {
                wrong_counts.push((c as u64, have, want));
                let what = if have < want { "ERROR" } else { "Leaked" };
                too_low += u64::from(have < want);
                missing |= have == 0;
                count.result.leaks += u64::from(have > want);
                count.result.say(|| format!("{what} cluster {c} refcount={have} reference={want}"));
            }
        }
        count.result.corruptions += too_low;
        let mut result = count.result;
        let used = count.counts.iter().rposition(|n| *n > 0).map_or(0, |last| last as u64 + 1);
        result.image_end_offset = used << self.shape.cluster_bits;
        result.total_clusters = self.len().div_ceil(self.shape.cluster());
        let counts = count.counts;
        let may_fix = |have: u64, want: u64| match repair {
            Repair::Nothing => false,
            Repair::Leaks => have > want,
            Repair::All => true,
        };
        if missing && repair == Repair::All {
            result.say(|| "Rebuilding refcount structure".into());
            let base = self.count(&file, false).await?.counts;
            // What held the old structure is free afterwards.
            for (c, had) in counts.iter().enumerate().filter(|(_, had)| **had > 0) {
                if base.get(c).copied().unwrap_or(0) == 0 {
                    result.say(|| format!("Repairing cluster {c} refcount={had} reference=0"));
                }
            }
            self.rebuild(&file, &base).await?;
            result.corruptions_fixed += too_low;
            result.leaks_fixed = result.leaks;
            let wrong = self.check_copied(&file, &base, true, &mut result).await?;
            result.corruptions_fixed += wrong;
        } else {
            // A refcount that is wrong makes the mark wrong only after its repair.
            let mut now: Vec<u32> =
                actual.iter().map(|n| u32::try_from(*n).unwrap_or(u32::MAX)).collect();
            now.resize(counts.len().max(now.len()), 0);
            for (cluster, have, want) in &wrong_counts {
                if may_fix(*have, *want) && *have > 0 {
                    result.say(|| {
                        format!("Repairing cluster {cluster} refcount={have} reference={want}")
                    });
                    self.set_refcount_of(*cluster, *want).await?;
                    now[*cluster as usize] = u32::try_from(*want).unwrap_or(u32::MAX);
                    if have > want {
                        result.leaks_fixed += 1;
                    } else {
                        result.corruptions_fixed += 1;
                    }
                }
            }
            if result.leaks_fixed + result.corruptions_fixed > 0 {
                self.write_back(true).await?;
            }
            let fix = repair == Repair::All || (repair == Repair::Leaks && result.leaks_fixed > 0);
            let wrong = self.check_copied(&file, &now, fix, &mut result).await?;
            if fix {
                result.corruptions_fixed += wrong;
            }
        }
        if salvage.faults > 0 && repair == Repair::All {
            if salvage.changed {
                // Refcounts are right by now, so that there is room for a table.
                self.build_guard();
                let list = lock(&self.snapshots).clone();
                self.store_snapshots(list).await?;
            }
            result.corruptions_fixed += salvage.faults;
        }
        let known = super::autoclear::BITMAPS | super::autoclear::RAW_EXTERNAL;
        if repair != Repair::Nothing && self.header.autoclear & !known != 0 {
            // Features that nobody here has kept true.
            let kept = IoBuf::from(&(self.header.autoclear & known).to_be_bytes()[..]);
            file.write(field::AUTOCLEAR as u64, kept).await?;
            file.flush().await?;
        }
        if repair == Repair::All && result.corruptions == result.corruptions_fixed {
            self.clear_marks(&file).await?;
        }
        Ok(result)
    }

    /// Reads a table of snapshots that could not be read when the image was opened, as far as a
    /// repair allows, and looks at all entries. What is wrong is put right by storing the table.
    async fn check_snapshot_table(&self, file: &Node, repair: Repair) -> Result<Salvage> {
        let fix = repair == Repair::All;
        let mut salvage = Salvage::default();
        if self.snapshots_unread.load(Ordering::Relaxed) {
            let read = read_snapshots(file, &self.header, fix.then_some(&mut salvage)).await;
            let (list, len) = read.map_err(|error| match (error, self.header.snapshots) {
                (BlockError::TooLarge(_), n) if n > MAX_SNAPSHOTS => BlockError::TooLarge(format!(
                    "ERROR snapshot table too large\nYou can force-remove all {} overhanging \
                         snapshots with qemu-img check -r all",
                    n - MAX_SNAPSHOTS
                )),
                (BlockError::TooLarge(text), _) => {
                    BlockError::TooLarge(format!("ERROR failed to read the snapshot table: {text}"))
                }
                (error, _) => error,
            })?;
            *lock(&self.snapshots) = list;
            lock(&self.snapshot_table).1 = len;
            self.snapshots_unread.store(false, Ordering::Relaxed);
        }
        if self.shape.version >= 3 {
            let what = if fix { "Repairing" } else { "ERROR" };
            for (index, snapshot) in lock(&self.snapshots).iter().enumerate() {
                if snapshot.disk_size.is_none() {
                    let text = format!("{what} snapshot table entry {index} is incomplete");
                    salvage.messages.push(text);
                    salvage.faults += 1;
                    salvage.changed = true;
                }
            }
        }
        if fix && salvage.faults > 0 && !salvage.changed {
            // It only ends earlier, and says so before anything is given back.
            let len = lock(&self.snapshots).len() as u32;
            file.write(field::SNAPSHOTS as u64, IoBuf::from(&len.to_be_bytes()[..])).await?;
            file.flush().await?;
        }
        Ok(salvage)
    }

    async fn count<'a>(&self, file: &'a Node, refcounts: bool) -> Result<Count<'a>> {
        let file_len = file.len();
        let clusters = file_len.div_ceil(self.shape.cluster());
        if clusters > MAX_CLUSTERS {
            return Err(BlockError::unsupported("image has too many clusters to be checked"));
        }
        let mut count = Count {
            shape: self.shape,
            file,
            file_len,
            counts: vec![0; clusters as usize],
            result: CheckResult::default(),
        };
        count.add(0, self.shape.cluster());
        let (l1_offset, l1, reftable_offset, reftable) = {
            let meta = lock(&self.meta);
            (meta.l1_offset, meta.l1.clone(), meta.reftable_offset, meta.reftable.clone())
        };
        count.add_l1(l1_offset, &l1, true).await?;
        let (snapshots_at, snapshots_len) = *lock(&self.snapshot_table);
        let snapshots = lock(&self.snapshots).clone();
        if !snapshots.is_empty() {
            count.add_snapshots(snapshots_at, snapshots_len, snapshots).await?;
        }
        if let Some(crypto) = self.header.crypto {
            count.add(crypto.offset, crypto.len);
        }
        let bitmaps = *lock(&self.bitmap_place);
        let there = self.bitmaps_valid.load(Ordering::Relaxed)
            || self.bitmaps_followed.load(Ordering::Relaxed);
        if let Some(bitmaps) = bitmaps.filter(|_| there) {
            count.add_bitmaps(bitmaps).await?;
        }
        if refcounts {
            count.add(reftable_offset, reftable.len() as u64 * 8);
            let mut seen = BTreeSet::new();
            for word in reftable {
                let block = word & !REFTABLE_RESERVED;
                if word & REFTABLE_RESERVED != 0 {
                    count.result.corrupt(|| {
                        format!("refcount table entry {word:#x} has reserved bits set")
                    });
                }
                if block != 0 && count.aligned(block, "refcount block") {
                    if !seen.insert(block) {
                        count
                            .result
                            .corrupt(|| format!("refcount block at {block:#x} is used twice"));
                    }
                    count.add(block, self.shape.cluster());
                }
            }
        }
        Ok(count)
    }

    /// References to every cluster but those of the refcount structure itself.
    pub(super) async fn counts_without_refcounts(&self) -> Result<Vec<u32>> {
        let file = self.file()?;
        Ok(self.count(&file, false).await?.counts)
    }

    async fn read_refcounts(&self, file: &Node, count: &mut Count<'_>) -> Result<Vec<u64>> {
        let (per, order) = (self.shape.refcounts_per_block(), self.shape.refcount_order);
        let reftable = lock(&self.meta).reftable.clone();
        let mut all = Vec::new();
        let limit = count.counts.len() as u64;
        for (index, word) in reftable.iter().enumerate() {
            let block = word & !REFTABLE_RESERVED;
            if block == 0 || block & (self.shape.cluster() - 1) != 0 || block >= file.len() {
                continue;
            }
            let bytes = file.read(block, IoBuf::zeroed(self.shape.cluster() as usize)).await?;
            let first = index as u64 * per;
            // Behind the end of the file only what is not zero is of interest.
            let last =
                (0..per).rev().find(|i| first + i < limit || refcount(&bytes, order, *i) != 0);
            let Some(last) = last else { continue };
            if first + last > limit + (1 << 22) {
                count.result.corrupt(|| {
                    format!("refcount of cluster {} far beyond the file", first + last)
                });
                continue;
            }
            all.resize((first + last + 1) as usize, 0);
            for i in 0..=last {
                all[(first + i) as usize] = refcount(&bytes, order, i);
            }
        }
        Ok(all)
    }

    /// Compares the copied marks with the refcounts, and corrects them when asked to.
    async fn check_copied(
        &self,
        file: &Node,
        refcounts: &[u32],
        fix: bool,
        result: &mut CheckResult,
    ) -> Result<u64> {
        let shape = &self.shape;
        let refs =
            |at: u64| refcounts.get((at >> shape.cluster_bits) as usize).copied().unwrap_or(0);
        let once = |offset: u64| refs(offset) == 1;
        let what = if fix { "Repairing" } else { "ERROR" };
        let (l1_offset, l1) = {
            let meta = lock(&self.meta);
            (meta.l1_offset, meta.l1.clone())
        };
        let mut wrong = 0;
        for (index, word) in l1.iter().enumerate() {
            let table = word & OFFSET;
            if table == 0 || table & (shape.cluster() - 1) != 0 || table >= file.len() {
                continue;
            }
            if (word & COPIED != 0) != once(table) {
                wrong += 1;
                result.corrupt(|| {
                    let refs = refs(table);
                    format!("{what} OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={word:x} refcount={refs}")
                });
                if fix {
                    let word = word ^ COPIED;
                    lock(&self.meta).l1[index] = word;
                    let bytes = IoBuf::from(&word.to_be_bytes()[..]);
                    file.write(l1_offset + index as u64 * 8, bytes).await?;
                }
            }
            if shape.data_file {
                continue;
            }
            let mut bytes = file.read(table, IoBuf::zeroed(shape.cluster() as usize)).await?;
            let mut changed = false;
            for index in 0..1 << shape.l2_bits {
                let mut entry = Entry::load(&bytes, shape, index);
                let Some(host) = entry.host(shape) else { continue };
                if host & (shape.cluster() - 1) == 0 && entry.copied() != once(host) {
                    wrong += 1;
                    result.corrupt(|| {
                        let (word, refs) = (entry.word, refs(host));
                        format!(
                            "{what} OFLAG_COPIED data cluster: l2_entry={word:x} refcount={refs}"
                        )
                    });
                    entry.word ^= COPIED;
                    entry.store(&mut bytes, shape, index);
                    changed = true;
                }
            }
            if fix && changed {
                file.write(table, bytes).await?;
                lock(&self.meta).l2.remove(table);
            }
        }
        if fix && wrong > 0 {
            file.flush().await?;
        }
        Ok(wrong)
    }

    /// Writes a new refcount structure behind everything else and switches to it.
    async fn rebuild(&self, file: &Node, base: &[u32]) -> Result<()> {
        let layout = RefcountLayout::new(&self.shape, base)?;
        layout.write(file).await?;
        file.flush().await?;
        let clusters = (layout.table.len() as u64 * 8) >> self.shape.cluster_bits;
        let mut bytes = layout.table_offset.to_be_bytes().to_vec();
        bytes.extend((clusters as u32).to_be_bytes());
        file.write(field::REFTABLE_OFFSET as u64, bytes.into()).await?;
        file.flush().await?;
        let mut meta = lock(&self.meta);
        meta.reftable_offset = layout.table_offset;
        meta.reftable_on_disk = (layout.table_offset, clusters);
        meta.reftable = layout.table;
        meta.reftable_dirty.clear();
        meta.refblocks.clear();
        meta.free_hint = 0;
        meta.guarded = None;
        drop(meta);
        if self.writable.load(Ordering::Relaxed) {
            self.build_guard();
        }
        Ok(())
    }

    async fn clear_marks(&self, file: &Node) -> Result<()> {
        let marks = incompatible::DIRTY | incompatible::CORRUPT;
        let now = self.incompatible.load(Ordering::Relaxed);
        if now & marks != 0 {
            let now = now & !marks;
            file.write(field::INCOMPATIBLE as u64, IoBuf::from(&now.to_be_bytes()[..])).await?;
            file.flush().await?;
            self.incompatible.store(now, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A refcount structure that covers given clusters and itself, placed behind them.
pub(super) struct RefcountLayout {
    pub(super) table_offset: u64,
    pub(super) table: Vec<u64>,
    blocks: Vec<Vec<u8>>,
    /// Length of the file with it.
    pub(super) end: u64,
}

impl RefcountLayout {
    pub(super) fn new(shape: &Shape, counts: &[u32]) -> Result<Self> {
        Self::in_walks(shape, counts, &mut |_| ())
    }

    /// The same. `walked` hears of each attempt, and whether everything had room.
    pub(super) fn in_walks(
        shape: &Shape,
        counts: &[u32],
        walked: &mut (dyn FnMut(bool) + Send),
    ) -> Result<Self> {
        let (per, cluster) = (shape.refcounts_per_block(), shape.cluster());
        let used = counts.len() as u64;
        let (mut table, mut blocks) = (1, 1);
        loop {
            let next_blocks = (used + table + blocks).div_ceil(per);
            let next_table = (next_blocks * 8).div_ceil(cluster);
            let settled = (next_table, next_blocks) == (table, blocks);
            walked(settled);
            if settled {
                break;
            }
            (table, blocks) = (next_table.max(table), next_blocks.max(blocks));
        }
        if table * cluster > MAX_REFTABLE_BYTES {
            return Err(BlockError::invalid("image needs a refcount table that is too large"));
        }
        let mut data = vec![vec![0; cluster as usize]; blocks as usize];
        let all = counts.iter().copied().chain(std::iter::repeat_n(1, (table + blocks) as usize));
        for (c, count) in all.enumerate() {
            let (block, index) = (c as u64 / per, c as u64 % per);
            set_refcount(&mut data[block as usize], shape.refcount_order, index, count.into());
        }
        let mut words = vec![0; (table * cluster / 8) as usize];
        for (i, word) in words.iter_mut().take(blocks as usize).enumerate() {
            *word = (used + i as u64) * cluster;
        }
        let end = (used + table + blocks) * cluster;
        Ok(Self { table_offset: (used + blocks) * cluster, table: words, blocks: data, end })
    }

    /// Puts it in front of everything but the first `cluster` clusters. Every cluster counts once,
    /// so only places change. Gives the first cluster behind it.
    pub(super) fn move_to(&mut self, cluster: u64, shape: &Shape) -> u64 {
        let table = (self.table.len() as u64 * 8) >> shape.cluster_bits;
        self.table_offset = cluster << shape.cluster_bits;
        let blocks = self.blocks.len() as u64;
        for (i, word) in self.table.iter_mut().take(blocks as usize).enumerate() {
            *word = (cluster + table + i as u64) << shape.cluster_bits;
        }
        cluster + table + blocks
    }

    pub(super) async fn write(&self, file: &Node) -> Result<()> {
        let bytes: Vec<u8> = self.table.iter().flat_map(|word| word.to_be_bytes()).collect();
        for (at, block) in self.table.iter().zip(&self.blocks) {
            file.write(*at, IoBuf::from(&block[..])).await?;
        }
        file.write(self.table_offset, bytes.into()).await?;
        Ok(())
    }
}
