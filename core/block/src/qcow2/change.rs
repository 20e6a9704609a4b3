//! Changes that are no requests: snapshots, names, features, the size downwards.

use super::check::RefcountLayout;
use super::entry::{COPIED, Entry, Kind, OFFSET, Shape, ZERO};
use super::header::{autoclear, extension, field, incompatible};
use super::snapshot::Snapshot;
use super::{Qcow2, read_table};
use crate::driver::Driver;
use crate::formats::{Amend, AmendProgress, Change, StoredName};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result, errno};
use std::sync::atomic::Ordering;

/// The change is made, but what it no longer needs is still counted.
fn not_freed(error: &BlockError) -> BlockError {
    let why = BlockError::Errno(error.errno());
    BlockError::Host(format!("Failed to free the cluster and L1 table: {why}"))
}

impl Qcow2 {
    pub(super) async fn apply_change(&self, change: Change) -> Result<()> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        match change {
            Change::CreateSnapshot { name, date, vm_clock_nsec } => {
                self.create_snapshot(&name, date, vm_clock_nsec, 0).await
            }
            Change::SaveState { name, date, vm_clock_nsec, state } => {
                self.save_state(&name, date, vm_clock_nsec, &state).await
            }
            Change::ApplySnapshot(name) => self.apply_snapshot(&name).await,
            Change::DeleteSnapshot(name) => self.delete_snapshot(&name).await,
            Change::Backing(stored) => self.set_backing_name(stored).await,
            Change::Empty => self.make_empty().await,
            Change::Shrink(len) => self.shrink(len).await,
            Change::Preallocate { from, to, how } => self.preallocate(from, to, how).await,
            Change::Amend(amend) => self.amend(&amend).await,
            Change::Bitmap(change) => self.change_bitmap(change).await,
            Change::FollowBitmaps => {
                self.bitmaps_followed.store(true, Ordering::Relaxed);
                // Until they are stored again, nobody may take those in the file for good.
                self.bitmaps_go_stale().await
            }
        }
    }

    pub(super) fn find_snapshot(&self, name: &str) -> Result<Snapshot> {
        let list = lock(&self.snapshots);
        let by_id = list.iter().find(|s| s.id == name);
        let found = by_id.or_else(|| list.iter().find(|s| s.name == name));
        found.cloned().ok_or_else(|| BlockError::NotFound(name.to_owned()))
    }

    /// Adds or takes one reference to everything that an L1 table leads to.
    pub(super) async fn bump(&self, l1: &[u64], up: bool) -> Result<()> {
        let shape = self.shape;
        for word in l1 {
            let table = word & OFFSET;
            if table == 0 {
                continue;
            }
            self.load_l2(table).await?;
            let bytes = match lock(&self.meta).l2.get(table) {
                Some(bytes) => bytes.to_vec(),
                None => continue,
            };
            for index in 0..1 << shape.l2_bits {
                let entry = Entry::load(&bytes, &shape, index);
                if let Some(packed) = entry.packed(&shape) {
                    let first = packed.offset >> shape.cluster_bits;
                    let last = (packed.offset + packed.len - 1) >> shape.cluster_bits;
                    for cluster in first..=last {
                        self.bump_one(cluster, up).await?;
                    }
                } else if let Some(host) = entry.host(&shape).filter(|_| !shape.data_file) {
                    self.bump_one(host >> shape.cluster_bits, up).await?;
                }
            }
            self.bump_one(table >> shape.cluster_bits, up).await?;
        }
        Ok(())
    }

    async fn bump_one(&self, cluster: u64, up: bool) -> Result<()> {
        if !up {
            return self.drop_refs(cluster, 1).await;
        }
        let now = self.refcount_of(cluster).await?;
        if now >= self.shape.refcount_max() {
            return Err(BlockError::Errno(errno::EINVAL));
        }
        self.set_refcount_of(cluster, now + 1).await
    }

    /// Makes the copied marks of the active tables agree with the refcounts.
    pub(super) async fn refresh_copied(&self) -> Result<()> {
        let shape = self.shape;
        let l1 = lock(&self.meta).l1.clone();
        for (i, word) in l1.iter().enumerate() {
            let table = word & OFFSET;
            if table == 0 {
                continue;
            }
            let mine = self.refcount_of(table >> shape.cluster_bits).await? == 1;
            {
                let mut meta = lock(&self.meta);
                let new = if mine { table | COPIED } else { table };
                if meta.l1[i] != new {
                    meta.l1[i] = new;
                    meta.l1_dirty.insert(i as u64 / 64);
                }
            }
            self.load_l2(table).await?;
            for index in 0..1 << shape.l2_bits {
                let entry = {
                    let mut meta = lock(&self.meta);
                    match meta.l2.get(table) {
                        Some(bytes) => Entry::load(bytes, &shape, index),
                        None => continue,
                    }
                };
                let Some(host) = entry.host(&shape) else { continue };
                if shape.data_file {
                    continue;
                }
                let mine = self.refcount_of(host >> shape.cluster_bits).await? == 1;
                if entry.copied() != mine {
                    self.load_l2(table).await?;
                    let at = index * shape.entry_len();
                    let entry = Entry { word: entry.word ^ COPIED, ..entry };
                    let store = |bytes: &mut [u8]| entry.store(bytes, &shape, index);
                    lock(&self.meta).l2.modify(table, at..at + shape.entry_len(), store);
                }
            }
            self.relieve().await?;
        }
        self.write_back(true).await
    }

    /// Writes a new table of snapshots and switches to it.
    pub(super) async fn store_snapshots(&self, mut list: Vec<Snapshot>) -> Result<()> {
        let shape = &self.shape;
        let file = self.file()?;
        let mut bytes = Vec::new();
        let disk = self.len();
        for s in &mut list {
            s.append_to(&mut bytes, disk);
            s.disk_size.get_or_insert(disk);
        }
        let (old_at, old_len) = *lock(&self.snapshot_table);
        let mut at = 0;
        if !bytes.is_empty() {
            at = self.alloc_exactly((bytes.len() as u64).div_ceil(shape.cluster())).await?;
        }
        self.write_back(true).await?;
        let len = bytes.len() as u64;
        if !bytes.is_empty() {
            file.write(at, bytes.into()).await?;
            file.flush().await?;
        }
        let mut header = (list.len() as u32).to_be_bytes().to_vec();
        header.extend(at.to_be_bytes());
        file.write(60, header.into()).await?;
        file.flush().await?;
        *lock(&self.snapshot_table) = (at, len);
        *lock(&self.snapshots) = list;
        if old_len > 0 {
            let clusters = old_len.div_ceil(shape.cluster());
            let freed = self.drop_refs(old_at >> shape.cluster_bits, clusters).await;
            freed.map_err(|error| not_freed(&error))?;
        }
        self.write_back(true).await.map_err(|error| not_freed(&error))
    }

    pub(super) async fn create_snapshot(
        &self,
        name: &str,
        date: (u32, u32),
        clock: u64,
        state: u64,
    ) -> Result<()> {
        self.begin().await?;
        let _all = self.guest.acquire_all().await;
        self.close_all().await?;
        if self.shape.data_file {
            return Err(BlockError::Errno(errno::ENOTSUP));
        }
        let shape = &self.shape;
        let l1 = lock(&self.meta).l1.clone();
        let clusters = (l1.len() as u64 * 8).div_ceil(shape.cluster());
        let at = if clusters > 0 { self.alloc_exactly(clusters).await? } else { 0 };
        // When there are too many references, what was added is found by a repair of leaks.
        self.bump(&l1, true).await?;
        self.refresh_copied().await?;
        let l1 = lock(&self.meta).l1.clone();
        let mut bytes: Vec<u8> = l1.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.resize((clusters * shape.cluster()) as usize, 0);
        if !bytes.is_empty() {
            self.file()?.write(at, bytes.into()).await?;
        }
        let mut list = lock(&self.snapshots).clone();
        let next = list.iter().filter_map(|s| s.id.parse::<u64>().ok()).max().unwrap_or(0) + 1;
        list.push(Snapshot {
            id: next.to_string(),
            name: name.to_owned(),
            date_sec: date.0,
            date_nsec: date.1,
            vm_clock_nsec: clock,
            vm_state_size: state,
            disk_size: Some(self.len()),
            icount: Some(0),
            l1_offset: at,
            l1_size: l1.len() as u32,
            extra: Vec::new(),
        });
        self.store_snapshots(list).await
    }

    pub(super) async fn apply_snapshot(&self, name: &str) -> Result<()> {
        self.begin().await?;
        let _all = self.guest.acquire_all().await;
        self.close_all().await?;
        let snapshot = self.find_snapshot(name)?;
        let file = self.file()?;
        let size = snapshot.disk_size.unwrap_or(self.len());
        if self.shape.version < 3 && size != self.len() {
            return Err(BlockError::Errno(errno::ENOTSUP));
        }
        let l1 = read_table(
            &file,
            "L1 table of the snapshot",
            snapshot.l1_offset,
            snapshot.l1_size.into(),
        )
        .await?;
        self.bump(&l1, true).await?;
        self.write_back(true).await?;
        if l1.len() > lock(&self.meta).l1.len() {
            self.grow_l1(l1.len() as u64).await?;
        }
        let old = {
            let mut meta = lock(&self.meta);
            let old = meta.l1.clone();
            let mut new: Vec<u64> = l1.iter().map(|word| word & OFFSET).collect();
            new.resize(old.len(), 0);
            meta.l1 = new;
            let sectors = old.len().div_ceil(64) as u64;
            meta.l1_dirty.extend(0..sectors);
            meta.unpacked = None;
            old
        };
        self.write_back(true).await?;
        file.write(field::SIZE as u64, IoBuf::from(&size.to_be_bytes()[..])).await?;
        self.size.store(size, Ordering::Relaxed);
        file.flush().await?;
        self.bump(&old, false).await?;
        self.refresh_copied().await
    }

    async fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.begin().await?;
        let _all = self.guest.acquire_all().await;
        self.close_all().await?;
        let snapshot = self.find_snapshot(name)?;
        let file = self.file()?;
        let l1 = read_table(
            &file,
            "L1 table of the snapshot",
            snapshot.l1_offset,
            snapshot.l1_size.into(),
        )
        .await?;
        let list = lock(&self.snapshots).iter().filter(|s| s.id != snapshot.id).cloned().collect();
        self.store_snapshots(list).await?;
        self.bump(&l1, false).await.map_err(|error| not_freed(&error))?;
        let clusters = (l1.len() as u64 * 8).div_ceil(self.shape.cluster());
        if clusters > 0 {
            self.drop_refs(snapshot.l1_offset >> self.shape.cluster_bits, clusters).await?;
        }
        self.refresh_copied().await
    }

    async fn set_backing_name(&self, stored: Option<StoredName>) -> Result<()> {
        if stored.is_some()
            && self.shape.data_file
            && self.header.autoclear & autoclear::RAW_EXTERNAL != 0
        {
            return Err(BlockError::Errno(errno::EINVAL));
        }
        if stored.as_ref().is_some_and(|s| s.name.len() > 1023) {
            return Err(BlockError::Errno(errno::EINVAL));
        }
        self.flush_all().await?;
        self.edit_header(|first| {
            first.backing = stored.as_ref().map(|s| s.name.clone());
            let format = stored.as_ref().and_then(|s| s.format.clone());
            first.set(extension::BACKING_FORMAT, format.map(String::into_bytes));
        })
        .await?;
        *lock(&self.backing_name) = stored;
        Ok(())
    }

    async fn make_empty(&self) -> Result<()> {
        self.begin().await?;
        let _all = self.guest.acquire_all().await;
        self.close_all().await?;
        if self.may_start_over() {
            return self.start_over().await;
        }
        let old = {
            let mut meta = lock(&self.meta);
            let old = meta.l1.clone();
            meta.l1.iter_mut().for_each(|word| *word = 0);
            let sectors = old.len().div_ceil(64) as u64;
            meta.l1_dirty.extend(0..sectors);
            meta.unpacked = None;
            old
        };
        self.write_back(true).await?;
        self.bump(&old, false).await?;
        for word in old.iter().filter(|word| **word & OFFSET != 0) {
            let table = word & OFFSET;
            if self.refcount_of(table >> self.shape.cluster_bits).await? == 0 {
                lock(&self.meta).l2.remove(table);
            }
        }
        self.write_back(true).await?;
        self.trim_file().await
    }

    /// Cuts off what is not in use at the end of the file.
    async fn trim_file(&self) -> Result<()> {
        let bits = self.shape.cluster_bits;
        let file = self.file()?;
        let mut clusters = file.len().div_ceil(self.shape.cluster());
        while clusters > 1 && self.refcount_of(clusters - 1).await? == 0 {
            clusters -= 1;
        }
        if clusters << bits < file.len() {
            file.truncate(clusters << bits).await?;
        }
        Ok(())
    }

    async fn shrink(&self, len: u64) -> Result<()> {
        if !len.is_multiple_of(512) {
            return Err(BlockError::invalid("The new size must be a multiple of 512"));
        }
        self.begin().await?;
        {
            let _all = self.guest.acquire_all().await;
            self.close_all().await?;
            let shape = self.shape;
            if !lock(&self.snapshots).is_empty() && shape.version < 3 {
                return Err(BlockError::invalid("Can't resize a v2 image which has snapshots"));
            }
            let file = self.file()?;
            let old_l1 = lock(&self.meta).l1.clone();
            let first = shape.up(len);
            // Single clusters in the table that stays.
            let keep = len.div_ceil(shape.l2_span());
            let mut guest = first;
            while guest < (keep * shape.l2_span()).min(shape.up(self.len())) {
                if old_l1.get(shape.l1_index(guest) as usize).copied().unwrap_or(0) & OFFSET == 0 {
                    break;
                }
                self.with_l2(guest, |meta, table| {
                    let old = self.load_entry(meta, table, guest);
                    if old != Entry::default() {
                        self.store_entry(meta, table, guest, Entry::default());
                        self.free_entry(meta, old);
                    }
                    Ok(())
                })
                .await?;
                guest += shape.cluster();
            }
            let gone: Vec<u64> = {
                let mut meta = lock(&self.meta);
                let from = (keep as usize).min(meta.l1.len());
                let gone = meta.l1[from..].to_vec();
                meta.l1[from..].iter_mut().for_each(|word| *word = 0);
                let sectors = (from as u64 / 64)..(meta.l1.len().div_ceil(64) as u64);
                meta.l1_dirty.extend(sectors);
                gone
            };
            self.write_back(true).await?;
            self.bump(&gone, false).await?;
            for word in gone.iter().filter(|word| **word & OFFSET != 0) {
                lock(&self.meta).l2.remove(word & OFFSET);
            }
            file.write(field::SIZE as u64, IoBuf::from(&len.to_be_bytes()[..])).await?;
            self.size.store(len, Ordering::Relaxed);
            if shape.data_file && self.header.autoclear & autoclear::RAW_EXTERNAL != 0 {
                self.data()?.truncate(len).await?;
            }
        }
        self.close_all().await?;
        self.trim_file().await
    }

    async fn amend(&self, amend: &Amend) -> Result<()> {
        let invalid = |text: &str| Err(BlockError::invalid(text));
        let old_version = self.shape.version;
        let version = amend.version.unwrap_or(old_version);
        let bits = 1u32 << self.shape.refcount_order;
        let new_bits = amend.refcount_bits.unwrap_or(bits);
        let lazy_now = self.header.compatible & super::header::COMPATIBLE_LAZY_REFCOUNTS != 0;
        let lazy = amend.lazy_refcounts.unwrap_or(lazy_now);
        if let Some(key) = &amend.key {
            let Some(place) = self.header.crypto else {
                return invalid(
                    "Only LUKS encryption options can be amended for qcow2 with 'amend' command",
                );
            };
            let password = self.secret.as_deref().ok_or(BlockError::Encrypted("LUKS"))?;
            let file = self.file()?;
            return crate::formats::luks::change_keys(&file, place.offset, password, key).await;
        }
        if let Some(name) = &amend.data_file {
            if !self.shape.data_file {
                return invalid(
                    "data-file can only be set for images that use an external data file",
                );
            }
            let name = name.clone();
            self.edit_header(move |first| {
                let name = (!name.is_empty()).then(|| name.into_bytes());
                first.set(extension::DATA_FILE, name);
            })
            .await?;
        }
        if amend.data_file_raw == Some(true) && self.header.autoclear & autoclear::RAW_EXTERNAL == 0
        {
            return invalid("data-file-raw cannot be set on existing images");
        }
        if amend.data_file_raw == Some(false) {
            self.edit_header(|first| {
                let now = super::header::be64(&first.fixed, field::AUTOCLEAR);
                first.put64(field::AUTOCLEAR, now & !autoclear::RAW_EXTERNAL);
            })
            .await?;
        }
        if version < 3 && lazy && amend.lazy_refcounts == Some(true) {
            return invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)",
            );
        }
        if version < 3 && amend.refcount_bits.is_some() && new_bits != 16 {
            return invalid(
                "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
            );
        }
        if version > old_version {
            let snapshots = lock(&self.snapshots).clone();
            if !snapshots.is_empty() {
                // What the third version requires of them.
                self.begin().await?;
                self.store_snapshots(snapshots).await?;
            }
            self.edit_header(|first| {
                first.set_version(3);
                if first.extensions.iter().all(|(kind, _)| *kind != extension::FEATURE_NAMES) {
                    first.set(extension::FEATURE_NAMES, Some(super::create::feature_names()));
                }
            })
            .await?;
        }
        if new_bits != bits {
            self.set_refcount_bits(new_bits, &amend.progress).await?;
        }
        if version < old_version {
            self.downgrade(&amend.progress).await?;
        }
        if version >= 3 && lazy != lazy_now {
            self.edit_header(move |first| {
                let now = super::header::be64(&first.fixed, 80);
                first.put64(80, if lazy { now | 1 } else { now & !1 });
            })
            .await?;
        }
        Ok(())
    }

    /// Stores refcounts with another width. The image must be opened again afterwards.
    async fn set_refcount_bits(&self, bits: u32, progress: &AmendProgress) -> Result<()> {
        self.begin().await?;
        let _all = self.guest.acquire_all().await;
        self.close_all().await?;
        let order = bits.trailing_zeros();
        let shape = Shape { refcount_order: order, ..self.shape };
        let counts = self.counts_without_refcounts().await?;
        let fits = |count: &u32| u64::from(*count) <= shape.refcount_max();
        if let Some(cluster) = counts.iter().position(|count| !fits(count)) {
            return Err(BlockError::invalid(format!(
                "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {:#x} has a refcount of {}",
                (cluster as u64) << shape.cluster_bits,
                counts[cluster]
            )));
        }
        // One walk for the references, at least one for the places of the new refcounts, which
        // count themselves, and one that writes them.
        let (mut done, mut walks) = (1, 3);
        progress.show(done, walks);
        let layout = RefcountLayout::in_walks(&shape, &counts, &mut |settled| {
            done += 1;
            progress.show(done, walks);
            if !settled {
                // They did not fit: once more.
                walks += 1;
                progress.show(done, walks);
            }
        })?;
        let file = self.file()?;
        layout.write(&file).await?;
        file.flush().await?;
        progress.show(done + 1, walks);
        let clusters = (layout.table.len() as u64 * 8) >> shape.cluster_bits;
        let at = layout.table_offset;
        self.edit_header(move |first| {
            first.put64(field::REFTABLE_OFFSET, at);
            first.put32(field::REFTABLE_OFFSET + 8, clusters as u32);
            first.put32(96, order);
        })
        .await?;
        // What is in memory has the old width: nothing may be written from it.
        self.outdated.store(true, Ordering::Relaxed);
        self.writable.store(false, Ordering::Release);
        Ok(())
    }

    /// Makes a version 2 image of a version 3 one.
    async fn downgrade(&self, progress: &AmendProgress) -> Result<()> {
        let features = self.incompatible.load(Ordering::Relaxed) & !incompatible::DIRTY;
        if self.shape.data_file {
            return Err(BlockError::invalid("Cannot downgrade an image with a data file"));
        }
        if self.shape.refcount_order != 4 {
            return Err(BlockError::invalid("compat=0.10 requires refcount_bits=16"));
        }
        if lock(&self.snapshots).iter().any(|s| {
            s.vm_state_size > u64::from(u32::MAX)
                || s.disk_size.is_some_and(|size| size != self.len())
        }) {
            return Err(BlockError::invalid("Internal snapshots prevent downgrade of image"));
        }
        if features != 0 {
            return Err(BlockError::invalid(format!(
                "Cannot downgrade an image with incompatible features {features:#x} set"
            )));
        }
        self.begin().await?;
        let snapshots = lock(&self.snapshots).clone();
        let entries = lock(&self.meta).l1.len() as u64;
        let old: u64 = snapshots.iter().map(|snapshot| u64::from(snapshot.l1_size)).sum();
        let (mut done, total) = (0, entries + old);
        let mut step = || {
            done += 1;
            progress.show(done, total);
        };
        self.expand_zeroes(&mut step).await?;
        self.close_all().await?;
        for snapshot in &snapshots {
            self.expand_snapshot_zeroes(snapshot, &mut step).await?;
        }
        self.close_all().await?;
        self.edit_header(|first| first.set_version(2)).await
    }

    /// The same as [`Qcow2::expand_zeroes`] for what only a snapshot refers to.
    async fn expand_snapshot_zeroes(
        &self,
        snapshot: &Snapshot,
        step: &mut (dyn FnMut() + Send),
    ) -> Result<()> {
        let shape = self.shape;
        let file = self.file()?;
        let what = "L1 table of the snapshot";
        let l1 = read_table(&file, what, snapshot.l1_offset, snapshot.l1_size.into()).await?;
        for word in l1 {
            step();
            let table = word & OFFSET;
            if table == 0 {
                continue;
            }
            let mut bytes = file.read(table, IoBuf::zeroed(shape.cluster() as usize)).await?;
            let refs = self.refcount_of(table >> shape.cluster_bits).await?;
            let mut changed = false;
            for index in 0..1 << shape.l2_bits {
                let mut entry = Entry::load(&bytes, &shape, index);
                if entry.is_compressed() || entry.word & ZERO == 0 {
                    continue;
                }
                let old = entry.host(&shape);
                // Its own place may also be somebody's data.
                let alone = match old {
                    Some(host) => self.refcount_of(host >> shape.cluster_bits).await? == refs,
                    None => false,
                };
                let host = match old {
                    Some(host) if alone => host,
                    _ => {
                        let (host, _) = self.alloc(1).await?;
                        for _ in 1..refs {
                            self.bump_one(host >> shape.cluster_bits, true).await?;
                        }
                        host
                    }
                };
                file.write_zeroes(host, shape.cluster(), false).await?;
                let mark = if refs == 1 { COPIED } else { 0 };
                entry.word = host | mark;
                entry.store(&mut bytes, &shape, index);
                changed = true;
                if let Some(old) = old.filter(|_| !alone) {
                    for _ in 0..refs {
                        lock(&self.meta).free(old >> shape.cluster_bits, 1, false);
                    }
                }
            }
            if changed {
                // New refcounts go before what they are for.
                self.write_back(false).await?;
                file.flush().await?;
                file.write(table, bytes).await?;
                lock(&self.meta).l2.remove(table);
            }
        }
        self.write_back(true).await
    }

    /// Turns zero marks into data, or into nothing where nothing is below. `step` is called for
    /// each entry of the L1 table.
    async fn expand_zeroes(&self, step: &mut (dyn FnMut() + Send)) -> Result<()> {
        let shape = self.shape;
        let mut at = 0;
        let mut seen = 0;
        while at < self.len() {
            while seen < shape.l1_index(at) {
                seen += 1;
                step();
            }
            if lock(&self.meta).l1[shape.l1_index(at) as usize] & OFFSET == 0 {
                at = (at / shape.l2_span() + 1) * shape.l2_span();
                continue;
            }
            let below = self.backing().is_some_and(|node| node.len() > at);
            let zero = self
                .with_l2(at, |meta, table| {
                    let entry = self.load_entry(meta, table, at);
                    if entry.kind(&shape, 0)? != Kind::Zero {
                        return Ok(false);
                    }
                    if !below && entry.host(&shape).is_none() {
                        self.store_entry(meta, table, at, Entry::default());
                        return Ok(false);
                    }
                    Ok(true)
                })
                .await?;
            if zero {
                let reused = self
                    .with_l2(at, |meta, table| {
                        let entry = self.load_entry(meta, table, at);
                        Ok(entry.host(&shape).filter(|_| entry.copied()))
                    })
                    .await?;
                let n = shape.cluster().min(self.len() - at);
                match reused {
                    Some(host) => {
                        self.data()?.write_zeroes(host, shape.cluster(), true).await?;
                        self.with_l2(at, |meta, table| {
                            let entry = self.load_entry(meta, table, at);
                            let entry = Entry { word: entry.word & !ZERO, ..entry };
                            self.store_entry(meta, table, at, entry);
                            Ok(())
                        })
                        .await?;
                    }
                    None => drop(self.write_any(at, IoBuf::zeroed(n as usize)).await?),
                }
            }
            at += shape.cluster();
        }
        let entries = lock(&self.meta).l1.len();
        (seen..entries as u64).for_each(|_| step());
        Ok(())
    }
}
