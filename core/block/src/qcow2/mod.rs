//! The `qcow2` format, versions 2 and 3, for reading and writing.
//!
//! Reference: the specification in QEMU's documentation, docs/interop/qcow2.txt.
//!
//! A write is *resolve, data, commit*: the mapping is looked up in memory, data goes to the file,
//! and only then the new mapping is published in the table cache. Tables go to the file in
//! write-back cycles (`flush`) whose order keeps every state that a crash can leave behind
//! consistent but for leaked clusters: refcounts and new tables first, then a barrier, then
//! whatever refers to them, then a barrier, and only then are freed clusters put to new use.
//!
//! Not done: encryption, writing compressed clusters, internal snapshot operations (snapshots
//! are preserved) and persistent bitmaps (they are marked inconsistent on the first write, as the
//! specification asks).

mod alloc;
mod bitmap;
mod change;
mod check;
mod create;
mod crypt;
mod empty;
mod entry;
mod flush;
mod header;
mod packed;
mod read;
mod resize;
mod rewrite;
mod snapshot;
mod vmstate;

mod write;

pub use bitmap::BitmapInfo;
pub use check::{CheckResult, Repair};
pub use create::{CreateOptions, Preallocation};
pub use header::Compression;
pub use snapshot::Snapshot;

use crate::context::Context;
use crate::crypto::SectorCipher;
use crate::driver::{Access, BlockStatus, Driver, Map};
use crate::formats::luks::LuksInfo;
use crate::formats::{Change, Facts, Image, OpenArgs, Packer, Specific, StoredName};
use crate::graph::{Edge, Node, Perm, Role};
use crate::op::BoxFuture;
use crate::sync::{RangeGuard, RangeLock, lock};
use crate::table::Cache;
use crate::{BlockError, IoBuf, Op, Result};
use entry::Shape;
use header::{Header, autoclear, incompatible};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use snapshot::read_snapshots;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) use create::{create, create_with};

/// Runtime options of the `qcow2` driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Qcow2Options {
    /// Refuse writes, and touch nothing.
    pub read_only: bool,
    /// Bytes of L2 tables kept in memory.
    pub l2_cache_size: u64,
    /// Bytes of refcount blocks kept in memory.
    pub refcount_cache_size: u64,
    /// Write refcounts late, whatever the image says about it.
    pub lazy_refcounts: Option<bool>,
    /// Show the disk as it was in this internal snapshot (id or name); implies read-only.
    pub snapshot: Option<String>,
    /// Open images that are marked corrupt or cut short, for `check` to look at.
    #[serde(skip)]
    pub for_check: bool,
}

impl Default for Qcow2Options {
    fn default() -> Self {
        Self {
            read_only: false,
            l2_cache_size: 32 << 20,
            refcount_cache_size: 8 << 20,
            lazy_refcounts: None,
            snapshot: None,
            for_check: false,
        }
    }
}

/// The driver.
pub(crate) struct Qcow2 {
    shape: Shape,
    header: Header,
    /// Encrypts data clusters.
    cipher: Option<SectorCipher>,
    /// The encryption header, with its place.
    luks: Option<LuksInfo>,
    snapshots: Mutex<Vec<Snapshot>>,
    /// Offset and length of the table of snapshots.
    snapshot_table: Mutex<(u64, u64)>,
    /// The table of snapshots could not be read when the image was opened.
    snapshots_unread: AtomicBool,
    backing_name: Mutex<Option<StoredName>>,
    /// What was repaired when it was opened, in words.
    repairs: Mutex<Vec<String>>,
    /// Refcounts are written late.
    late_refcounts: bool,
    /// What opened it, for when it is opened again.
    secret: Option<Arc<[u8]>>,
    bitmaps: Mutex<Vec<BitmapInfo>>,
    bitmap_place: Mutex<Option<header::Place>>,
    /// The bitmaps in the file are as they should be.
    bitmaps_valid: AtomicBool,
    /// Somebody has them follow what is written: they stay in the file, marked as in use.
    bitmaps_followed: AtomicBool,
    read_only: bool,
    file: Arc<Edge>,
    /// Somebody below waits for events.
    debugged: bool,
    data_file: Mutex<Option<Arc<Edge>>>,
    backing: Mutex<Option<Arc<Edge>>>,
    size: AtomicU64,
    /// Incompatible features as they are in the file.
    incompatible: AtomicU64,
    /// Set once the header says that we write; until then writes take the slow way.
    writable: AtomicBool,
    /// Metadata was found to contradict itself while writing: no more writes.
    broken: AtomicBool,
    /// The image is being closed: nothing may wait any longer.
    closing: AtomicBool,
    /// The file has another shape than what is in memory: no more writes until it is opened again.
    outdated: AtomicBool,
    meta: Mutex<Meta>,
    /// Guest ranges whose mapping is being changed.
    guest: Arc<RangeLock>,
    /// L1 indices whose table is being made, and tables being loaded (by file offset).
    making: Arc<RangeLock>,
    loading: Arc<RangeLock>,
    /// One write-back cycle at a time.
    cycle: Arc<RangeLock>,
    /// Header updates and refcount table growth.
    growing: Arc<RangeLock>,
    /// One place for packed data is found at a time.
    packing: Arc<RangeLock>,
}

/// What the driver knows in memory. Never locked across a wait.
struct Meta {
    l1: Vec<u64>,
    l1_offset: u64,
    /// Sectors of the L1 table that differ from the file.
    l1_dirty: BTreeSet<u64>,
    l2: Cache,
    reftable: Vec<u64>,
    reftable_offset: u64,
    reftable_dirty: BTreeSet<u64>,
    /// Where the header on disk says that it is, and its clusters.
    reftable_on_disk: (u64, u64),
    refblocks: Cache,
    /// No cluster below this one is free.
    free_hint: u64,
    /// Clusters that hold metadata, which no allocation may ever return.
    guarded: Option<FxHashSet<u64>>,
    /// Freed, but the file may still refer to them.
    freed: Vec<Freed>,
    /// Freed for good, waiting for their leases.
    settling: VecDeque<Freed>,
    /// Leases are clones of this one.
    epoch: Arc<()>,
    /// Where packed data goes on, unless at the start of a cluster.
    packed_end: u64,
    /// The cluster unpacked last.
    unpacked: Option<(entry::Packed, Arc<Vec<u8>>)>,
}

/// Clusters of the file that lost a reference.
struct Freed {
    /// First cluster number.
    cluster: u64,
    count: u64,
    epoch: Arc<()>,
    /// Give the storage back when this was the last reference.
    punch: bool,
}

impl Meta {
    /// Notes that clusters lost a reference; it takes effect once the file does not refer to
    /// them any more and nobody reads them.
    fn free(&mut self, cluster: u64, count: u64, punch: bool) {
        let epoch = std::mem::take(&mut self.epoch);
        if let Some(last) = self.freed.last_mut()
            && last.cluster + last.count == cluster
            && last.punch == punch
            && Arc::strong_count(&epoch) == 1
            && Arc::strong_count(&last.epoch) == 1
        {
            last.count += count;
            return;
        }
        self.freed.push(Freed { cluster, count, epoch, punch });
    }
}

impl Qcow2 {
    /// Opens the image in `file`. Backing and data files are attached afterwards.
    pub(crate) async fn open(
        file: &Arc<Node>,
        options: &Qcow2Options,
        args: &OpenArgs,
    ) -> Result<Arc<Self>> {
        let head = file.read(0, IoBuf::zeroed(file.len().min(4096) as usize)).await?;
        let cluster_bits = Header::cluster_bits(&head)?;
        let head_len = (1u64 << cluster_bits).min(file.len()) as usize;
        let head =
            if head.len() < head_len { file.read(0, IoBuf::zeroed(head_len)).await? } else { head };
        let header = Header::parse(&head)?;
        drop(head);
        let (cipher, luks) = crypt::open(file, &header, args).await?;
        let read_only = options.read_only || options.snapshot.is_some() || file.read_only();
        if header.incompatible & incompatible::CORRUPT != 0 && !read_only && !options.for_check {
            return Err(BlockError::corrupt(
                "it is marked corrupt; it can only be opened read-only",
            ));
        }
        let mut snapshots_unread = false;
        let (snapshots, snapshots_len) = match read_snapshots(file, &header, None).await {
            Err(_) if options.for_check => {
                snapshots_unread = true;
                (Vec::new(), 0)
            }
            table => table?,
        };
        let bitmaps = match header.bitmaps {
            None => Vec::new(),
            Some(place) => match bitmap::read_directory(file, place).await {
                Err(_) if options.for_check => Vec::new(),
                list => list?,
            },
        };
        let (l1_offset, l1_size) = match &options.snapshot {
            None => (header.l1_offset, header.l1_size),
            Some(wanted) => {
                let by_id = snapshots.iter().find(|s| s.id == *wanted);
                let found = by_id.or_else(|| snapshots.iter().find(|s| s.name == *wanted));
                let found = found.ok_or_else(|| BlockError::NotFound(wanted.clone()))?;
                (found.l1_offset, found.l1_size)
            }
        };
        if u64::from(l1_size) * 8 > header::MAX_L1_BYTES {
            return Err(BlockError::corrupt("L1 table of the snapshot is too large"));
        }
        let l1 = read_table(file, "L1 table", l1_offset, l1_size.into()).await?;
        let reftable_len = u64::from(header.reftable_clusters) << (cluster_bits - 3);
        let reftable =
            read_table(file, "refcount table", header.reftable_offset, reftable_len).await?;
        if !options.for_check
            && let Some(bad) =
                l1.iter().find(|entry| **entry & entry::OFFSET >= file.len() && **entry != 0)
        {
            return Err(BlockError::corrupt(format!(
                "it is cut short: an L2 table at {:#x} is beyond its end",
                bad & entry::OFFSET
            )));
        }
        let shape = Shape {
            version: header.version,
            cluster_bits,
            l2_bits: header.l2_bits(),
            sub_shift: if header.extended_l2() { 5 } else { 0 },
            refcount_order: header.refcount_order,
            data_file: header.incompatible & incompatible::DATA_FILE != 0,
        };
        let write = if read_only { Perm::empty() } else { Perm::WRITE | Perm::RESIZE };
        // Nobody else may write what we hold in memory.
        let shared = if read_only { Perm::all() } else { Perm::CONSISTENT_READ };
        let edge = Edge::attach(Role::File, file, Perm::CONSISTENT_READ | write, shared)?;
        let table = shape.cluster();
        let this = Arc::new(Self {
            shape,
            read_only,
            file: edge,
            debugged: file.is_debugged(),
            data_file: Mutex::new(None),
            backing: Mutex::new(None),
            size: AtomicU64::new(header.size),
            incompatible: AtomicU64::new(header.incompatible),
            snapshots: Mutex::new(snapshots),
            snapshot_table: Mutex::new((header.snapshots_offset, snapshots_len)),
            snapshots_unread: AtomicBool::new(snapshots_unread),
            repairs: Mutex::default(),
            late_refcounts: options
                .lazy_refcounts
                .unwrap_or(header.compatible & header::COMPATIBLE_LAZY_REFCOUNTS != 0)
                && header.version >= 3,
            secret: args.secret.clone(),
            backing_name: Mutex::new(
                header
                    .backing
                    .clone()
                    .map(|name| StoredName { name, format: header.backing_format.clone() }),
            ),
            bitmaps_valid: AtomicBool::new(!bitmaps.is_empty()),
            bitmaps_followed: AtomicBool::new(false),
            bitmaps: Mutex::new(bitmaps),
            bitmap_place: Mutex::new(header.bitmaps),
            writable: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            outdated: AtomicBool::new(false),
            meta: Mutex::new(Meta {
                l1,
                l1_offset,
                l1_dirty: BTreeSet::new(),
                l2: Cache::new(options.l2_cache_size, table),
                reftable,
                reftable_offset: header.reftable_offset,
                reftable_dirty: BTreeSet::new(),
                reftable_on_disk: (header.reftable_offset, header.reftable_clusters.into()),
                refblocks: Cache::new(options.refcount_cache_size, table),
                free_hint: 0,
                guarded: None,
                freed: Vec::new(),
                settling: VecDeque::new(),
                epoch: Arc::new(()),
                packed_end: 0,
                unpacked: None,
            }),
            header,
            cipher,
            luks,
            guest: Arc::default(),
            making: Arc::default(),
            loading: Arc::default(),
            cycle: Arc::default(),
            growing: Arc::default(),
            packing: Arc::default(),
        });
        let dirty = this.header.incompatible & incompatible::DIRTY != 0;
        if dirty && !read_only && !options.for_check {
            let result = Self::check(&this, Repair::All).await?;
            lock(&this.repairs).clone_from(&result.messages);
            if result.corruptions != result.corruptions_fixed {
                return Err(BlockError::corrupt(
                    "it was not closed cleanly and cannot be repaired",
                ));
            }
        }
        Ok(this)
    }

    /// What the header says about the image, with names of other files.
    pub(crate) fn info(&self) -> Qcow2Info {
        let h = &self.header;
        let incompatible = self.incompatible.load(Ordering::Relaxed);
        let stored = lock(&self.backing_name).clone();
        let (name, format) =
            stored.map_or((None, None), |stored| (Some(stored.name), stored.format));
        Qcow2Info {
            version: h.version,
            cluster_size: self.shape.cluster(),
            virtual_size: self.len(),
            refcount_bits: 1 << h.refcount_order,
            lazy_refcounts: h.compatible & header::COMPATIBLE_LAZY_REFCOUNTS != 0,
            extended_l2: h.extended_l2(),
            compression: h.compression,
            corrupt: incompatible & incompatible::CORRUPT != 0,
            dirty: incompatible & incompatible::DIRTY != 0,
            snapshots: lock(&self.snapshots).clone(),
            bitmaps: lock(&self.bitmaps).clone(),
            bitmaps_valid: self.bitmaps_valid.load(Ordering::Relaxed),
            backing_file: name,
            backing_format: format,
            data_file: h.data_file.clone(),
            external_data: self.shape.data_file,
            data_file_raw: self.shape.data_file && h.autoclear & autoclear::RAW_EXTERNAL != 0,
            encryption: match h.crypt_method {
                0 => None,
                1 => Some(Encryption::Aes),
                _ => self.luks.clone().map(Encryption::Luks),
            },
        }
    }

    pub(crate) fn set_data_file(&self, node: &Arc<Node>) -> Result<()> {
        let write = if self.read_only { Perm::empty() } else { Perm::WRITE };
        let edge =
            Edge::attach(Role::File, node, Perm::CONSISTENT_READ | write, Perm::CONSISTENT_READ)?;
        *lock(&self.data_file) = Some(edge);
        Ok(())
    }

    fn attach_backing(&self, node: &Arc<Node>) -> Result<()> {
        let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        let edge = Edge::attach(Role::Backing, node, Perm::CONSISTENT_READ, shared)?;
        *lock(&self.backing) = Some(edge);
        Ok(())
    }

    fn file(&self) -> Result<Arc<Node>> {
        self.file.node().ok_or(BlockError::NoMedium)
    }

    /// Tells what is below of a step.
    async fn event(&self, name: &str) {
        if self.debugged
            && let Some(node) = self.file.node()
        {
            // A request that waited at a breakpoint goes on, whatever became of the breakpoint.
            let _ = node.debug_event(name).await;
        }
    }

    /// The node that holds data clusters.
    fn data(&self) -> Result<Arc<Node>> {
        if self.shape.data_file {
            let edge = lock(&self.data_file).clone();
            return edge.and_then(|edge| edge.node()).ok_or_else(|| {
                BlockError::unsupported(
                    "the image keeps its data in another file, which is not open",
                )
            });
        }
        self.file()
    }

    fn backing(&self) -> Option<Arc<Node>> {
        lock(&self.backing).as_ref().and_then(|edge| edge.node())
    }

    /// Waits until nobody changes the mapping of the range's clusters.
    async fn own(&self, offset: u64, len: u64) -> RangeGuard {
        self.guest.acquire(self.shape.down(offset)..self.shape.up(offset + len)).await
    }
}

/// Facts about a qcow2 image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// Bytes in a cluster.
    pub cluster_size: u64,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Width of a refcount.
    pub refcount_bits: u32,
    /// Refcounts may be updated late.
    pub lazy_refcounts: bool,
    /// Clusters have subclusters.
    pub extended_l2: bool,
    /// How compressed clusters are packed.
    pub compression: Compression,
    /// Marked corrupt.
    pub corrupt: bool,
    /// Refcounts may be stale.
    pub dirty: bool,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Bitmaps inside the image.
    pub bitmaps: Vec<BitmapInfo>,
    /// They are as they should be: nothing was written since.
    #[serde(skip)]
    pub bitmaps_valid: bool,
    /// Name of the backing file as stored.
    pub backing_file: Option<String>,
    /// Recorded format of the backing file.
    pub backing_format: Option<String>,
    /// Name of the data file as stored.
    pub data_file: Option<String>,
    /// Data lies in another file.
    pub external_data: bool,
    /// The data file is a raw disk by itself.
    pub data_file_raw: bool,
    /// What data is encrypted with.
    pub encryption: Option<Encryption>,
}

/// What data is encrypted with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "format", rename_all = "lowercase")]
pub enum Encryption {
    /// AES with the password as key, as old images have it.
    Aes,
    /// A LUKS header inside the image.
    Luks(LuksInfo),
}

/// Reads a table of words, which must be inside the file.
async fn read_table(file: &Node, what: &str, offset: u64, len: u64) -> Result<Vec<u64>> {
    if len == 0 {
        return Ok(Vec::new());
    }
    let bytes = len * 8;
    if offset + bytes > file.len().next_multiple_of(512) {
        return Err(BlockError::corrupt(format!("it is cut short: the {what} is beyond its end")));
    }
    let bytes =
        usize::try_from(bytes).map_err(|_| BlockError::corrupt(format!("{what} is too large")))?;
    let raw = file.read(offset, IoBuf::zeroed(bytes)).await?;
    Ok(raw.as_chunks().0.iter().copied().map(u64::from_be_bytes).collect())
}

impl Driver for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn len(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        let mut edges = vec![self.file.clone()];
        edges.extend(lock(&self.data_file).clone());
        edges.extend(lock(&self.backing).clone());
        edges
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        self.map_in_memory(access, offset, len)
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.read_any(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.write_any(offset, buf).await })
    }

    fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.write_packed(offset, buf).await })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move { self.zero_any(offset, len, unmap).await })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        Op::pending(async move { self.discard_any(offset, len).await })
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::pending(async move { self.flush_all().await })
    }

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        Op::pending(async move { self.resize(len).await })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::pending(async move { self.status_of(offset, len).await })
    }

    fn close(self: Arc<Self>) -> Op<()> {
        Op::pending(async move { self.close_all().await })
    }

    fn stores_bitmaps(&self) -> bool {
        self.shape.version >= 3
    }

    fn reopen(
        self: Arc<Self>,
        _: &Context,
        read_only: bool,
    ) -> BoxFuture<'_, Result<Arc<dyn Driver>>> {
        Box::pin(async move {
            let options = Qcow2Options {
                read_only,
                lazy_refcounts: Some(self.late_refcounts),
                ..Qcow2Options::default()
            };
            let args = OpenArgs { read_only, secret: self.secret.clone(), ..OpenArgs::default() };
            // What the old one asks for must not stand in the way of the new one.
            self.file.set_own(Perm::empty(), Perm::all())?;
            let new = Self::open(&self.file()?, &options, &args).await?;
            let data_file = lock(&self.data_file).take().and_then(|edge| edge.cut());
            if let Some(node) = data_file {
                new.set_data_file(&node)?;
            }
            let backing = lock(&self.backing).take().and_then(|edge| edge.cut());
            if let Some(node) = backing {
                new.attach_backing(&node)?;
            }
            let new: Arc<dyn Driver> = new;
            Ok(new)
        })
    }
}

impl Image for Qcow2 {
    fn backing_name(&self) -> Option<StoredName> {
        lock(&self.backing_name).clone()
    }

    fn set_backing(&self, node: &Arc<Node>) -> Result<()> {
        self.attach_backing(node)
    }

    fn extent_names(&self) -> Vec<String> {
        if !self.shape.data_file || lock(&self.data_file).is_some() {
            return Vec::new();
        }
        vec![self.header.data_file.clone().unwrap_or_default()]
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        lock(&self.snapshots).clone()
    }

    fn load_state(self: Arc<Self>, name: String) -> Op<Vec<u8>> {
        Op::pending(async move { self.take_state(&name).await })
    }

    fn read_state(self: Arc<Self>, at: u64, len: usize) -> Op<Vec<u8>> {
        Op::pending(async move { self.state_part(at, len).await })
    }

    fn write_state(self: Arc<Self>, at: u64, state: Vec<u8>) -> Op<()> {
        Op::pending(async move { self.put_state(at, &state).await })
    }

    fn change(self: Arc<Self>, change: Change) -> Op<()> {
        Op::pending(async move { self.apply_change(change).await })
    }

    fn packer(&self) -> Option<Packer> {
        if self.shape.data_file || self.header.crypt_method != 0 {
            return None;
        }
        let method = self.header.compression;
        Some(Arc::new(move |data: &[u8]| packed::pack(method, data)))
    }

    fn store_packed(self: Arc<Self>, at: u64, packed: Vec<u8>) -> Op<()> {
        Op::pending(async move { self.put_packed(at, packed).await })
    }

    fn bitmap_ranges(self: Arc<Self>, name: String) -> Op<Vec<(u64, u64)>> {
        Op::pending(async move { Self::bitmap_ranges(&self, &name).await })
    }

    fn set_extent(self: Arc<Self>, _index: usize, node: Arc<Node>) -> Op<()> {
        self.set_data_file(&node).into()
    }

    fn facts(&self) -> Facts {
        let info = self.info();
        Facts {
            cluster_size: Some(info.cluster_size),
            encrypted: info.encryption.is_some(),
            dirty: info.dirty,
            corrupt: info.corrupt,
            specific: Some(Specific::Qcow2(info)),
            repairs: lock(&self.repairs).clone(),
        }
    }

    fn check(self: Arc<Self>, repair: Repair) -> Op<CheckResult> {
        Op::pending(async move { Self::check(&self, repair).await })
    }
}
