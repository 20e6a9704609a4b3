//! The `qed` format: two levels of tables, with a mark while it is written.
//!
//! Reference: the QED specification as published with QEMU (docs/interop/qed_spec.txt).

use super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::{Change, Facts, MappedImage, OpenArgs, StoredName, le32, le64, read_exactly};
use crate::graph::Node;
use crate::qcow2::{CheckResult, Repair};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Op, Result};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

const MAGIC: &[u8; 4] = b"QED\0";
const HEADER: u64 = 64;
const BACKING: u64 = 1;
const NEED_CHECK: u64 = 2;
const BACKING_RAW: u64 = 4;
const KNOWN: u64 = BACKING | NEED_CHECK | BACKING_RAW;

/// The layout.
pub(crate) struct Qed {
    cluster: u64,
    table_clusters: u64,
    l1_at: u64,
    features: AtomicU64,
    backing: Mutex<Option<StoredName>>,
    header_len: u64,
    file_len: u64,
}

fn max_size(cluster: u64, table_clusters: u64) -> u64 {
    let entries = cluster * table_clusters / 8;
    entries.saturating_mul(entries).saturating_mul(cluster)
}

fn check_shape(cluster: u64, table: u64) -> Result<()> {
    if !cluster.is_power_of_two() || !(4 << 10..=64 << 20).contains(&cluster) {
        return Err(BlockError::invalid(
            "QED cluster size must be within range [4096, 67108864] and power of 2",
        ));
    }
    if !table.is_power_of_two() || !(1..=16).contains(&table) {
        return Err(BlockError::invalid(
            "QED table size must be within range [1, 16] and power of 2",
        ));
    }
    Ok(())
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Arc<Mapped<Qed>>> {
    let h = read_exactly(file, "header", 0, HEADER).await?;
    if &h[..4] != MAGIC {
        return Err(BlockError::invalid("Image not in QED format"));
    }
    let (cluster, table_clusters, header_clusters) =
        (u64::from(le32(&h, 4)), u64::from(le32(&h, 8)), u64::from(le32(&h, 12)));
    let (features, autoclear) = (le64(&h, 16), le64(&h, 32));
    let (l1_at, size) = (le64(&h, 40), le64(&h, 48));
    if features & !KNOWN != 0 {
        return Err(BlockError::unsupported(format!(
            "Unsupported QED features: {:x}",
            features & !KNOWN
        )));
    }
    if check_shape(cluster, 4).is_err() {
        return Err(BlockError::corrupt("QED cluster size is invalid"));
    }
    if check_shape(cluster, table_clusters).is_err() {
        return Err(BlockError::corrupt("QED table size is invalid"));
    }
    let table = cluster * table_clusters;
    if size > max_size(cluster, table_clusters) || !size.is_multiple_of(512) {
        return Err(BlockError::corrupt("QED image size is invalid"));
    }
    let file_len = file.len() / cluster * cluster;
    let valid = |at: u64| {
        at.is_multiple_of(cluster)
            && header_clusters.checked_mul(cluster).is_some_and(|start| at >= start)
            && at < file_len
    };
    if !valid(l1_at) || l1_at.checked_add(table).is_none_or(|end| end > file.len()) {
        return Err(BlockError::corrupt("QED table offset is invalid"));
    }
    let mut backing = None;
    if features & BACKING != 0 {
        let (at, len) = (u64::from(le32(&h, 56)), u64::from(le32(&h, 60)));
        if at + len > cluster * header_clusters || len > 1023 {
            return Err(BlockError::corrupt("the name of the backing file is outside the header"));
        }
        let name = read_exactly(file, "backing file name", at, len).await?;
        let name = String::from_utf8(name)
            .map_err(|_| BlockError::corrupt("backing file name is not text"))?;
        let format = (features & BACKING_RAW != 0).then(|| "raw".to_owned());
        backing = Some(StoredName { name, format });
    }
    let read_only = args.read_only || file.read_only();
    if autoclear != 0 && !read_only {
        file.write(32, IoBuf::zeroed(8)).await?;
        file.flush().await?;
    }
    let raw = file.read(l1_at, IoBuf::zeroed(table as usize)).await?;
    let mut tables: Vec<u64> = raw.as_chunks().0.iter().copied().map(u64::from_le_bytes).collect();
    let span = table / 8 * cluster;
    tables.truncate(size.div_ceil(span) as usize);
    if !args.for_check
        && tables.iter().any(|at| *at != 0 && !(valid(*at) && at + table <= file.len()))
    {
        return Err(BlockError::corrupt("an L2 table has an invalid offset"));
    }
    for at in tables.iter_mut().filter(|at| **at != 0) {
        if !valid(*at) || *at + table > file.len() {
            *at = 0;
        }
    }
    let shape = Shape { block: cluster, per_table: table / 8, entry: 8, align: cluster, lead: 0 };
    let layout = Qed {
        cluster,
        table_clusters,
        l1_at,
        features: AtomicU64::new(features),
        backing: Mutex::new(backing),
        header_len: header_clusters * cluster,
        file_len,
    };
    let parts = Parts { layout, shape, size, tables, end: file.len(), read_only };
    let this = Arc::new(Mapped::new(file, parts)?);
    if features & NEED_CHECK != 0 && !read_only && !args.for_check {
        let result = Qed::check_now(&this, Repair::All).await?;
        if result.corruptions > result.corruptions_fixed {
            return Err(BlockError::corrupt("it was not closed cleanly and cannot be repaired"));
        }
        this.close_all().await?;
    }
    Ok(this)
}

impl Qed {
    async fn set_need_check(&self, file: &Node, on: bool) -> Result<()> {
        let old = self.features.load(Ordering::Relaxed);
        let new = if on { old | NEED_CHECK } else { old & !NEED_CHECK };
        if new != old {
            file.write(16, IoBuf::from(&new.to_le_bytes()[..])).await?;
            file.flush().await?;
            self.features.store(new, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn check_now(this: &Mapped<Self>, repair: Repair) -> Result<CheckResult> {
        let (cluster, table) =
            (this.layout.cluster, this.layout.cluster * this.layout.table_clusters);
        let mut result = CheckResult::default();
        let scan = this.scan().await?;
        let file = this.file()?;
        let mut used = std::collections::BTreeSet::new();
        let end = this.layout.file_len / cluster;
        let mut add = |at: u64, n: u64| (0..n).all(|i| used.insert(at / cluster + i));
        add(0, 1);
        add(this.layout.l1_at, this.layout.table_clusters);
        let raw = file.read(this.layout.l1_at, IoBuf::zeroed(table as usize)).await?;
        for word in raw.as_chunks().0.iter().copied().map(u64::from_le_bytes).filter(|at| *at != 0)
        {
            let inside = word.is_multiple_of(cluster)
                && word.checked_add(table).is_some_and(|end| end <= file.len());
            if !inside || !add(word, this.layout.table_clusters) {
                result.corrupt(|| format!("L2 table at {word:#x} is invalid or used twice"));
            }
        }
        let mut next = 0;
        for (block, at) in &scan.data {
            result.allocated_clusters += 1;
            result.fragmented_clusters += u64::from(next != 0 && *at != next);
            next = at + cluster;
            let inside = at.is_multiple_of(cluster) && at / cluster < end.max(1);
            if !inside || !add(*at, 1) {
                result.corrupt(|| format!("cluster {block} at {at:#x} is invalid or used twice"));
                if repair == Repair::All && !inside {
                    this.set_slot(*block, Slot::Unallocated).await?;
                    result.corruptions_fixed += 1;
                }
            }
        }
        for (block, error) in &scan.bad {
            result.corrupt(|| format!("cluster {block}: {error}"));
        }
        result.total_clusters = this.len().div_ceil(cluster);
        result.leaks = (end).saturating_sub(used.len() as u64);
        result.image_end_offset = used.last().map_or(0, |last| (last + 1) * cluster);
        if repair != Repair::Nothing && result.corruptions == result.corruptions_fixed {
            this.begin().await?;
            this.layout.set_need_check(&file, true).await?;
            this.close_all().await?;
        }
        Ok(result)
    }
}

impl Layout for Qed {
    const NAME: &'static str = "qed";
    const REBASES: bool = true;

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        Ok(match le64(entry, 0) {
            0 => Slot::Unallocated,
            1 => Slot::Zero,
            at if at.is_multiple_of(self.cluster) => Slot::Data(at),
            at => return Err(BlockError::corrupt(format!("cluster at {at:#x} is not aligned"))),
        })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let word = match slot {
            Slot::Unallocated => 0,
            Slot::Zero => 1,
            Slot::Data(at) => at,
            Slot::Packed(..) => return false,
        };
        entry.copy_from_slice(&word.to_le_bytes());
        true
    }

    fn table_moved(&self, table: u64, offset: u64) -> Vec<(u64, Vec<u8>)> {
        vec![(self.l1_at + table * 8, offset.to_le_bytes().to_vec())]
    }

    async fn start(&self, file: &Node) -> Result<()> {
        self.set_need_check(file, true).await
    }

    async fn finish(&self, file: &Node, _end: u64) -> Result<()> {
        self.set_need_check(file, false).await
    }
}

impl MappedImage for Qed {
    fn backing_name(this: &Mapped<Self>) -> Option<StoredName> {
        lock(&this.layout.backing).clone()
    }

    fn facts(this: &Mapped<Self>) -> Facts {
        Facts {
            cluster_size: Some(this.layout.cluster),
            dirty: this.layout.features.load(Ordering::Relaxed) & NEED_CHECK != 0,
            ..Facts::default()
        }
    }

    fn check(this: Arc<Mapped<Self>>, repair: Repair) -> Op<CheckResult> {
        Op::pending(async move { Self::check_now(&this, repair).await })
    }

    fn change(this: Arc<Mapped<Self>>, change: Change) -> Op<()> {
        let Change::Backing(stored) = change else {
            return Op::err(BlockError::Errno(crate::errno::ENOTSUP));
        };
        Op::pending(async move {
            let name = stored.as_ref().map_or("", |stored| &stored.name);
            if HEADER + name.len() as u64 > this.layout.header_len || name.len() > 1023 {
                return Err(BlockError::NoSpace);
            }
            this.begin().await?;
            let raw = stored.as_ref().is_some_and(|s| s.format.as_deref() == Some("raw"));
            let file = this.file()?;
            // The name first, and then what refers to it.
            file.write(HEADER, name.as_bytes().into()).await?;
            let mut place =
                (if name.is_empty() { 0 } else { HEADER as u32 }).to_le_bytes().to_vec();
            place.extend((name.len() as u32).to_le_bytes());
            file.write(56, place.into()).await?;
            let mut features = this.layout.features.load(Ordering::Relaxed);
            features &= !(BACKING | BACKING_RAW);
            if !name.is_empty() {
                features |= BACKING | if raw { BACKING_RAW } else { 0 };
            }
            this.layout.features.store(features, Ordering::Relaxed);
            file.write(16, IoBuf::from(&features.to_le_bytes()[..])).await?;
            file.flush().await?;
            *lock(&this.layout.backing) = stored.filter(|stored| !stored.name.is_empty());
            Ok(())
        })
    }

    fn truncate(this: Arc<Mapped<Self>>, len: u64) -> Op<()> {
        Op::pending(async move {
            let layout = &this.layout;
            if len < this.len() {
                return Err(BlockError::unsupported("Shrinking images is currently not supported"));
            }
            if !len.is_multiple_of(512) || len > max_size(layout.cluster, layout.table_clusters) {
                return Err(BlockError::invalid("the size of the disk is not possible"));
            }
            this.begin().await?;
            let span = layout.cluster * layout.table_clusters / 8 * layout.cluster;
            let more = len.div_ceil(span) - this.len().div_ceil(span);
            this.add_tables((0..more).map(|_| 0));
            this.file()?.write(48, IoBuf::from(&len.to_le_bytes()[..])).await?;
            this.set_len(len);
            Ok(())
        })
    }
}

/// What a new image is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct QedCreate {
    /// Bytes of the disk.
    pub size: u64,
    /// Name of the backing file.
    pub backing_file: Option<String>,
    /// Its format; only `raw` is recorded.
    pub backing_format: Option<String>,
    /// Bytes in a cluster.
    pub cluster_size: u64,
    /// Clusters in a table.
    pub table_size: u64,
}

impl Default for QedCreate {
    fn default() -> Self {
        Self {
            size: 0,
            backing_file: None,
            backing_format: None,
            cluster_size: 64 << 10,
            table_size: 4,
        }
    }
}

/// Writes an empty image.
pub(crate) async fn create(file: &Node, options: &QedCreate) -> Result<()> {
    let (cluster, tables) = (options.cluster_size, options.table_size);
    check_shape(cluster, tables)?;
    if !options.size.is_multiple_of(512) || options.size > max_size(cluster, tables) {
        return Err(BlockError::invalid(format!(
            "QED image size must be a non-zero multiple of cluster size and less than {} bytes",
            max_size(cluster, tables)
        )));
    }
    let backing = options.backing_file.as_deref().unwrap_or_default();
    if HEADER + backing.len() as u64 > cluster || backing.len() > 1023 {
        return Err(BlockError::invalid("Backing file name too long"));
    }
    let mut features = 0;
    if !backing.is_empty() {
        features |= BACKING;
        if options.backing_format.as_deref() == Some("raw") {
            features |= BACKING_RAW;
        }
    }
    let mut h = MAGIC.to_vec();
    h.extend((cluster as u32).to_le_bytes());
    h.extend((tables as u32).to_le_bytes());
    h.extend(1u32.to_le_bytes());
    h.extend(features.to_le_bytes());
    h.extend([0; 16]);
    h.extend(cluster.to_le_bytes());
    h.extend(options.size.to_le_bytes());
    h.extend((if backing.is_empty() { 0 } else { HEADER as u32 }).to_le_bytes());
    h.extend((backing.len() as u32).to_le_bytes());
    h.extend(backing.as_bytes());
    file.truncate(0).await?;
    file.truncate(cluster * (1 + tables)).await?;
    file.write(0, h.into()).await?;
    file.flush().await
}
