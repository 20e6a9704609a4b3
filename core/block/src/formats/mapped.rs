//! Images that keep a disk in blocks and say with tables where each block is.
//!
//! One engine serves `qcow`, `qed`, `vdi`, `vpc`, `vhdx`, `parallels` and the sparse extents of
//! `vmdk`: a [`Layout`] says how an entry reads and where tables lie, the engine does the rest.
//! A block that has a place keeps it: discarding punches a hole into it. So a mapping never
//! changes under a reader, and the order of write-back is simple: data and new tables, a
//! barrier, then whatever refers to them.

use crate::crypto::SectorCipher;
use crate::driver::{Access, BlockStatus, Map, Stored};
use crate::graph::{Edge, Node, Perm, Role};
use crate::sync::{RangeLock, lock};
use crate::table::Cache;
use crate::{BlockError, IoBuf, Result};
use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// In the backing file, or zeros without one.
    Unallocated,
    /// Zeros, whatever the backing file has.
    Zero,
    /// At this offset of the file.
    Data(u64),
    /// Compressed at this offset, in at most that many bytes.
    Packed(u64, u64),
}

/// Sizes that all layouts have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes in a block.
    pub(crate) block: u64,
    /// Entries in a table.
    pub(crate) per_table: u64,
    /// Bytes in an entry.
    pub(crate) entry: usize,
    /// New blocks start at multiples of this.
    pub(crate) align: u64,
    /// Bytes in front of a block's data.
    pub(crate) lead: u64,
}

/// What is different from format to format.
pub(crate) trait Layout: Send + Sync + 'static {
    /// Name of the driver.
    const NAME: &'static str;

    /// Another backing file may take the place of the one that is there, so that zeros must be
    /// said even where nothing would show now.
    const REBASES: bool = false;

    /// There can be no backing file, so that what is not stored is decided here, too.
    const ALONE: bool = false;

    /// Where a block is, from its entry.
    fn decode(&self, entry: &[u8]) -> Result<Slot>;

    /// Writes an entry; false when the format cannot say this.
    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool;

    /// Number of a block's entry.
    fn entry_of(&self, block: u64) -> u64 {
        block
    }

    /// Bytes of the first-level table to write when table `table` got a place.
    fn table_moved(&self, table: u64, offset: u64) -> Vec<(u64, Vec<u8>)> {
        let _ = (table, offset);
        Vec::new()
    }

    /// Where the copy of a table is, for formats that keep two.
    fn mirror(&self, offset: u64) -> Option<u64> {
        let _ = offset;
        None
    }

    /// What stands in front of a new block's data.
    fn lead(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Unpacks a block; `raw` may go on behind it.
    fn unpack(&self, at: u64, raw: &[u8], block: usize) -> Result<Vec<u8>> {
        let _ = (at, raw, block);
        Err(BlockError::corrupt("compressed block in a format without compression"))
    }

    /// Packs a block; `None` when that makes it no smaller. The place given is the start of the
    /// block on the disk.
    fn pack(&self, at: u64, data: &[u8]) -> Option<Vec<u8>> {
        let _ = (at, data);
        None
    }

    /// Every block is packed when it is written.
    fn packs_always(&self) -> bool {
        false
    }

    /// The entry for packed data.
    fn packed(&self, offset: u64, len: u64) -> Slot {
        Slot::Packed(offset, len)
    }

    /// Blocks are encrypted with this, by their place on the disk.
    fn cipher(&self) -> Option<&SectorCipher> {
        None
    }

    /// Marks the image as being written, before the first change.
    fn start(&self, file: &Node) -> impl Future<Output = Result<()>> + Send {
        let _ = file;
        async { Ok(()) }
    }

    /// Writes header fields that follow from allocation: the end of the used part of the file
    /// and the number of blocks allocated since it was opened.
    fn grown(&self, file: &Node, end: u64, blocks: u64) -> impl Future<Output = Result<()>> + Send {
        let _ = (file, end, blocks);
        async { Ok(()) }
    }

    /// Takes back the mark of [`Layout::start`].
    fn finish(&self, file: &Node, end: u64) -> impl Future<Output = Result<()>> + Send {
        let _ = (file, end);
        async { Ok(()) }
    }
}

/// The engine around a layout.
pub(crate) struct Mapped<L> {
    pub(crate) layout: L,
    pub(crate) shape: Shape,
    size: AtomicU64,
    read_only: bool,
    file: Arc<Edge>,
    backing: Mutex<Option<Arc<Edge>>>,
    /// Where this disk starts on the backing file's.
    backing_start: AtomicU64,
    meta: Mutex<Meta>,
    /// Disk ranges whose mapping is being changed.
    guest: Arc<RangeLock>,
    loading: Arc<RangeLock>,
    cycle: Arc<RangeLock>,
    starting: Arc<RangeLock>,
    writable: AtomicBool,
}

struct Meta {
    /// Offset of each table; zero when there is none yet.
    tables: Vec<u64>,
    moved: BTreeSet<u64>,
    cache: Cache,
    /// Where the next new block goes.
    end: u64,
    grown: bool,
    blocks: u64,
    unpacked: Option<(u64, Arc<Vec<u8>>)>,
}

/// What the start of a range is, with the length over which that holds.
#[derive(Debug)]
enum Step {
    Data { host: u64, len: u64 },
    Zero { len: u64 },
    Unallocated { len: u64 },
    Packed { offset: u64, bytes: u64, within: u64, len: u64 },
    Load(u64),
}

/// What became of publishing an entry.
enum Commit {
    Done,
    NoTable,
    NotHere,
}

/// How to make the engine.
pub(crate) struct Parts<L> {
    pub(crate) layout: L,
    pub(crate) shape: Shape,
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// Offset of each table, zero for none.
    pub(crate) tables: Vec<u64>,
    /// Where the next new block goes; rounded up to the alignment.
    pub(crate) end: u64,
    pub(crate) read_only: bool,
}

/// Everything that the tables say, for `check`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    /// Entry number and place of each block with data.
    pub(crate) data: Vec<(u64, u64)>,
    /// Entries that cannot be read.
    pub(crate) bad: Vec<(u64, BlockError)>,
    pub(crate) packed: u64,
}

impl<L: Layout> Mapped<L> {
    pub(crate) fn new(file: &Arc<Node>, parts: Parts<L>) -> Result<Self> {
        let Parts { layout, shape, size, tables, end, read_only } = parts;
        let write = if read_only { Perm::empty() } else { Perm::WRITE | Perm::RESIZE };
        let shared = if read_only { Perm::all() } else { Perm::CONSISTENT_READ };
        let edge = Edge::attach(Role::File, file, Perm::CONSISTENT_READ | write, shared)?;
        let table = shape.per_table * shape.entry as u64;
        let end = end
            .checked_next_multiple_of(shape.align)
            .ok_or_else(|| BlockError::corrupt("the end of the file is out of range"))?;
        Ok(Self {
            layout,
            shape,
            size: AtomicU64::new(size),
            read_only,
            file: edge,
            backing: Mutex::default(),
            backing_start: AtomicU64::new(0),
            meta: Mutex::new(Meta {
                tables,
                moved: BTreeSet::new(),
                cache: Cache::new(32 << 20, table),
                end,
                grown: false,
                blocks: 0,
                unpacked: None,
            }),
            guest: Arc::default(),
            loading: Arc::default(),
            cycle: Arc::default(),
            starting: Arc::default(),
            writable: AtomicBool::new(false),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn set_len(&self, len: u64) {
        self.size.store(len, Ordering::Relaxed);
    }

    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn file(&self) -> Result<Arc<Node>> {
        self.file.node().ok_or(BlockError::NoMedium)
    }

    pub(crate) fn children(&self) -> Vec<Arc<Edge>> {
        let mut edges = vec![self.file.clone()];
        edges.extend(lock(&self.backing).clone());
        edges
    }

    pub(crate) fn set_backing(&self, node: &Arc<Node>) -> Result<()> {
        let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        let edge = Edge::attach(Role::Backing, node, Perm::CONSISTENT_READ, shared)?;
        *lock(&self.backing) = Some(edge);
        Ok(())
    }

    /// Attaches a backing file of which this disk is only a part.
    pub(crate) fn set_backing_at(&self, node: &Arc<Node>, start: u64) -> Result<()> {
        self.backing_start.store(start, Ordering::Relaxed);
        self.set_backing(node)
    }

    /// Bytes of this disk that the backing file has; `None` without one.
    fn backing_len(&self) -> Option<u64> {
        let start = self.backing_start.load(Ordering::Relaxed);
        self.backing().map(|node| node.len().saturating_sub(start))
    }

    pub(crate) fn backing(&self) -> Option<Arc<Node>> {
        lock(&self.backing).as_ref().and_then(|edge| edge.node())
    }

    /// Where the next new block would go.
    pub(crate) fn end(&self) -> u64 {
        lock(&self.meta).end
    }

    fn place(&self, offset: u64) -> (u64, usize) {
        let entry = self.layout.entry_of(offset / self.shape.block);
        let slot = (entry % self.shape.per_table) as usize * self.shape.entry;
        (entry / self.shape.per_table, slot)
    }

    /// Looks up the start of a range, which must not be empty.
    fn step(&self, offset: u64, len: u64) -> Result<Step> {
        let block = self.shape.block;
        let within = offset % block;
        let mut run = (block - within).min(len);
        let mut meta = lock(&self.meta);
        let (table, slot) = self.place(offset);
        let at = meta.tables.get(table as usize).copied().unwrap_or(0);
        if at == 0 {
            // To the end of what this table would cover.
            let mut next = offset - within + block;
            while run < len && self.place(next).0 == table && next - offset < 1 << 30 {
                run = (run + block).min(len);
                next += block;
            }
            return Ok(Step::Unallocated { len: run });
        }
        let Some(bytes) = meta.cache.get(at) else { return Ok(Step::Load(table)) };
        let read = |slot: usize| match bytes.get(slot..slot + self.shape.entry) {
            Some(entry) => self.layout.decode(entry),
            None => Err(BlockError::corrupt("block table is too short")),
        };
        let first = read(slot)?;
        let mut next = offset - within + block;
        while run < len && !matches!(first, Slot::Packed(..)) {
            let (next_table, slot) = self.place(next);
            if next_table != table {
                break;
            }
            let same = match (first, read(slot)) {
                (Slot::Data(host), Ok(Slot::Data(other))) => {
                    host.checked_add(next - (offset - within)) == Some(other)
                }
                (a, Ok(b)) => a == b,
                _ => false,
            };
            if !same {
                break;
            }
            run = (run + block).min(len);
            next += block;
        }
        Ok(match first {
            Slot::Unallocated => Step::Unallocated { len: run },
            Slot::Zero => Step::Zero { len: run },
            Slot::Data(host) => match host.checked_add(within + run) {
                Some(_) => Step::Data { host: host + within, len: run },
                None => return Err(BlockError::corrupt("block is beyond the end of the file")),
            },
            Slot::Packed(offset, bytes) => Step::Packed { offset, bytes, within, len: run },
        })
    }

    async fn look_up(&self, offset: u64, len: u64) -> Result<Step> {
        loop {
            match self.step(offset, len)? {
                Step::Load(table) => self.load(table).await?,
                step => return Ok(step),
            }
        }
    }

    /// Brings a table into memory.
    async fn load(&self, table: u64) -> Result<()> {
        let _guard = self.loading.acquire(table..table + 1).await;
        let at = {
            let mut meta = lock(&self.meta);
            let at = meta.tables[table as usize];
            if at == 0 || meta.cache.get(at).is_some() {
                return Ok(());
            }
            at
        };
        let file = self.file()?;
        if at >= file.len() {
            return Err(BlockError::corrupt(format!(
                "block table at {at:#x} is beyond the end of the file"
            )));
        }
        let len = (self.shape.per_table * self.shape.entry as u64) as usize;
        let bytes = file.read(at, IoBuf::zeroed(len)).await?;
        lock(&self.meta).cache.insert_clean(at, bytes.into_vec());
        Ok(())
    }

    pub(crate) fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        if self.layout.cipher().is_some()
            || access == Access::Write && !self.writable.load(Ordering::Acquire)
        {
            return Map::Defer;
        }
        match (self.step(offset, len), access) {
            (Ok(Step::Data { host, len }), _) => match self.file() {
                Ok(node) if host + len <= node.len() => {
                    Map::Child { node, offset: host, len, lease: None }
                }
                _ => Map::Defer,
            },
            (Ok(Step::Zero { len }), Access::Read) => Map::Zero { len },
            (Ok(Step::Unallocated { len }), Access::Read) => {
                let start = self.backing_start.load(Ordering::Relaxed);
                match (self.backing(), self.backing_len()) {
                    (Some(node), Some(end)) if end > offset => {
                        let len = len.min(end - offset);
                        Map::Child { node, offset: offset + start, len, lease: None }
                    }
                    _ => Map::Zero { len },
                }
            }
            _ => Map::Defer,
        }
    }

    pub(crate) async fn read_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let total = buf.len();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let step = self.look_up(at, (total - done) as u64).await?;
            let len = match step {
                Step::Load(_) => unreachable!("look_up loads"),
                Step::Zero { len } => {
                    buf[done..done + len as usize].fill(0);
                    len
                }
                Step::Unallocated { len } => {
                    let below = at + self.backing_start.load(Ordering::Relaxed);
                    buf = read_backing(self.backing(), below, buf, done, len as usize).await?;
                    len
                }
                Step::Data { host, len } => {
                    buf = self.read_data(at, host, buf, done, len as usize).await?;
                    len
                }
                Step::Packed { offset, bytes, within, len } => {
                    let data = self.unpack(at - within, offset, bytes).await?;
                    let within = within as usize;
                    let n = len as usize;
                    buf[done..done + n].copy_from_slice(&data[within..within + n]);
                    len
                }
            };
            done += len as usize;
        }
        Ok(buf)
    }

    async fn read_data(
        &self,
        at: u64,
        host: u64,
        mut buf: IoBuf,
        done: usize,
        len: usize,
    ) -> Result<IoBuf> {
        let file = self.file()?;
        if host >= file.len() {
            return Err(BlockError::corrupt(format!(
                "block at {host:#x} is beyond the end of the file"
            )));
        }
        let Some(cipher) = self.layout.cipher() else {
            return read_part(&file, host, buf, done, len).await;
        };
        let lead = (at % 512) as usize;
        let whole = (lead + len).next_multiple_of(512);
        let mut bytes = file.read(host - lead as u64, IoBuf::zeroed(whole)).await?;
        cipher.decrypt((at - lead as u64) / 512, &mut bytes);
        buf[done..done + len].copy_from_slice(&bytes[lead..lead + len]);
        Ok(buf)
    }

    async fn unpack(&self, at: u64, offset: u64, bytes: u64) -> Result<Arc<Vec<u8>>> {
        if let Some((last, bytes)) = &lock(&self.meta).unpacked
            && *last == offset
        {
            return Ok(bytes.clone());
        }
        let file = self.file()?;
        if offset >= file.len() {
            return Err(BlockError::corrupt(format!(
                "compressed block at {offset:#x} is beyond the end of the file"
            )));
        }
        let n = bytes.min(file.len() - offset) as usize;
        let raw = file.read(offset, IoBuf::zeroed(n)).await?;
        let block = self.shape.block as usize;
        let mut data = self.layout.unpack(at, &raw, block)?;
        if (data.len() as u64) < self.shape.block.min(self.len().saturating_sub(at)) {
            return Err(BlockError::corrupt(format!(
                "compressed block at {offset:#x} is shorter than a block"
            )));
        }
        data.resize(block, 0);
        let data = Arc::new(data);
        lock(&self.meta).unpacked = Some((offset, data.clone()));
        Ok(data)
    }

    /// Must come before the first change.
    pub(crate) async fn begin(&self) -> Result<()> {
        if self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        let _guard = self.starting.acquire_all().await;
        if self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        self.layout.start(&*self.file()?).await?;
        self.writable.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) async fn write_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        self.begin().await?;
        let total = buf.len();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            match self.look_up(at, (total - done) as u64).await? {
                Step::Data { host, len } => {
                    buf = self.write_data(at, host, buf, done, len as usize).await?;
                    done += len as usize;
                }
                _ => {
                    let block = self.shape.block;
                    let len = (block - at % block).min((total - done) as u64) as usize;
                    buf = if self.layout.packs_always() {
                        self.write_whole(at, buf, done, len).await?
                    } else {
                        self.write_new(at, buf, done, len).await?
                    };
                    done += len;
                }
            }
        }
        self.relieve().await?;
        Ok(buf)
    }

    async fn write_data(
        &self,
        at: u64,
        host: u64,
        buf: IoBuf,
        done: usize,
        len: usize,
    ) -> Result<IoBuf> {
        let file = self.file()?;
        let Some(cipher) = self.layout.cipher() else {
            return write_part(&file, host, buf, done, len).await;
        };
        let lead = (at % 512) as usize;
        let whole = (lead + len).next_multiple_of(512);
        let _own = self.guest.acquire(at - lead as u64..at - lead as u64 + whole as u64).await;
        let mut bytes = IoBuf::zeroed(whole);
        if whole != len {
            bytes = file.read(host - lead as u64, bytes).await?;
            cipher.decrypt((at - lead as u64) / 512, &mut bytes);
        }
        bytes[lead..lead + len].copy_from_slice(&buf[done..done + len]);
        cipher.encrypt((at - lead as u64) / 512, &mut bytes);
        file.write(host - lead as u64, bytes).await?;
        Ok(buf)
    }

    /// Writes a part of a block that has no place yet.
    async fn write_new(&self, at: u64, buf: IoBuf, done: usize, len: usize) -> Result<IoBuf> {
        let block = self.shape.block;
        let first = at - at % block;
        {
            let _own = self.guest.acquire(first..first + block).await;
            let step = self.look_up(at, len as u64).await?;
            if !matches!(step, Step::Data { .. }) {
                let end = (first + block).min(self.len().max(at + len as u64));
                let from_zero = match step {
                    Step::Zero { .. } => true,
                    Step::Unallocated { .. } => self.backing_len().is_none_or(|len| len <= first),
                    _ => false,
                };
                let host = self.alloc(&*self.file()?).await?;
                let file = self.file()?;
                if self.layout.cipher().is_some() || !from_zero {
                    self.fill(first..end, host, &buf[done..done + len], at).await?;
                } else {
                    // The rest is zeros already: the file ends here.
                    write_from(&file, host + (at - first), &buf[done..done + len]).await?;
                }
                return self.commit(first, Slot::Data(host)).await.map(|()| buf);
            }
        }
        // Somebody else gave it a place meanwhile.
        match self.look_up(at, len as u64).await? {
            Step::Data { host, .. } => self.write_data(at, host, buf, done, len).await,
            _ => Err(BlockError::corrupt("a block lost its place")),
        }
    }

    /// Writes a part of a block by packing all of it anew.
    async fn write_whole(&self, at: u64, buf: IoBuf, done: usize, len: usize) -> Result<IoBuf> {
        let block = self.shape.block;
        let first = at - at % block;
        let _own = self.guest.acquire(first..first + block).await;
        let there = self.len().saturating_sub(first).min(block) as usize;
        let mut data = self.read_any(first, IoBuf::zeroed(there)).await?.into_vec();
        data.resize(block as usize, 0);
        let within = (at - first) as usize;
        data[within..within + len].copy_from_slice(&buf[done..done + len]);
        self.put_packed(first, &data).await?;
        Ok(buf)
    }

    /// Appends a block, packed, and publishes it. False when it cannot be packed.
    async fn put_packed(&self, first: u64, data: &[u8]) -> Result<bool> {
        let Some(mut packed) = self.layout.pack(first, data) else { return Ok(false) };
        let len = packed.len() as u64;
        let start = {
            let mut meta = lock(&self.meta);
            let start = meta.end;
            meta.end += len.next_multiple_of(512);
            meta.grown = true;
            meta.blocks += 1;
            meta.unpacked = None;
            start
        };
        packed.resize(len.next_multiple_of(512) as usize, 0);
        self.file()?.write(start, packed.into()).await?;
        self.commit(first, self.layout.packed(start, len)).await?;
        Ok(true)
    }

    /// Copies the old content of a block to its new place, with `new` laid over it.
    async fn fill(&self, range: Range<u64>, host: u64, new: &[u8], new_at: u64) -> Result<()> {
        const CHUNK: u64 = 1 << 20;
        let file = self.file()?;
        let new_end = new_at + new.len() as u64;
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(CHUNK);
            let covered = new_at <= at && at + n <= new_end;
            let whole = (n as usize).next_multiple_of(512);
            let mut bytes = IoBuf::zeroed(n as usize);
            if !covered {
                let there = self.len().saturating_sub(at).min(n) as usize;
                let old = bytes.narrow(0..there);
                bytes = self.read_any(at, bytes).await?;
                bytes.widen(old);
            }
            let (from, to) = (new_at.max(at), new_end.min(at + n));
            if from < to {
                bytes[(from - at) as usize..(to - at) as usize]
                    .copy_from_slice(&new[(from - new_at) as usize..(to - new_at) as usize]);
            }
            if let Some(cipher) = self.layout.cipher() {
                let mut padded = bytes.into_vec();
                padded.resize(whole, 0);
                cipher.encrypt(at / 512, &mut padded);
                bytes = padded.into();
            }
            file.write(host + (at - range.start), bytes).await?;
            at += n;
        }
        Ok(())
    }

    /// A place for a new block at the end of the file, which is made longer to hold it.
    async fn alloc(&self, file: &Node) -> Result<u64> {
        let (lead, align) = (self.shape.lead, self.shape.align);
        let start = {
            let mut meta = lock(&self.meta);
            let start = meta.end;
            let end = start
                .checked_add(lead + self.shape.block)
                .and_then(|end| end.checked_next_multiple_of(align))
                .filter(|end| *end < i64::MAX as u64)
                .ok_or(BlockError::NoSpace)?;
            meta.end = end;
            meta.grown = true;
            meta.blocks += 1;
            start
        };
        let end = start + lead + self.shape.block;
        let len = file.len();
        if len > start {
            // Something unused lies there: a footer, or what a crash left.
            file.write_zeroes(start, len.min(end) - start, true).await?;
        }
        // Somebody with a later place may have made the file longer meanwhile.
        if file.len() < end {
            file.truncate(end).await?;
        }
        let prefix = self.layout.lead();
        if !prefix.is_empty() {
            file.write(start, prefix.into()).await?;
        }
        Ok(start + lead)
    }

    /// Publishes where a block is.
    async fn commit(&self, first: u64, to: Slot) -> Result<()> {
        let table = self.place(first).0;
        loop {
            match self.try_commit(first, to)? {
                Commit::Done => return Ok(()),
                Commit::NoTable => self.make_table(table).await?,
                Commit::NotHere => self.load(table).await?,
            }
        }
    }

    fn try_commit(&self, first: u64, to: Slot) -> Result<Commit> {
        let (table, slot) = self.place(first);
        let range = slot..slot + self.shape.entry;
        let mut meta = lock(&self.meta);
        let at = match meta.tables.get(table as usize).copied() {
            None => return Err(BlockError::corrupt("block table is too small for the disk")),
            Some(0) => return Ok(Commit::NoTable),
            Some(at) => at,
        };
        meta.unpacked = None;
        let done = meta.cache.modify(at, range.clone(), |bytes| {
            bytes.get_mut(range).is_some_and(|entry| self.layout.encode(entry, to))
        });
        match done {
            Some(true) => Ok(Commit::Done),
            Some(false) => Err(BlockError::unsupported(
                "the image cannot say where its block is: it is too large",
            )),
            None => Ok(Commit::NotHere),
        }
    }

    async fn make_table(&self, table: u64) -> Result<()> {
        let _guard = self.loading.acquire(table..table + 1).await;
        let bytes = self.shape.per_table * self.shape.entry as u64;
        let mut meta = lock(&self.meta);
        if meta.tables[table as usize] == 0 {
            let at = meta.end;
            meta.end = (at + bytes).next_multiple_of(self.shape.align);
            meta.grown = true;
            meta.cache.insert_fresh(at, vec![0; bytes as usize]);
            meta.tables[table as usize] = at;
            meta.moved.insert(table);
        }
        Ok(())
    }

    /// Writes a whole block compressed, or as it is when that is no shorter.
    pub(crate) async fn write_packed(&self, offset: u64, buf: IoBuf) -> Result<IoBuf> {
        self.begin().await?;
        let block = self.shape.block;
        if !offset.is_multiple_of(block)
            || buf.len() as u64 != block && offset + buf.len() as u64 != self.len()
            || buf.len() as u64 > block
        {
            return Err(BlockError::invalid("compressed writes are of whole clusters"));
        }
        let mut data = buf.to_vec();
        data.resize(block as usize, 0);
        {
            let _own = self.guest.acquire(offset..offset + block).await;
            match self.look_up(offset, 1).await? {
                Step::Unallocated { .. } => {}
                _ => return Err(BlockError::unsupported("the block was written before")),
            }
            if self.put_packed(offset, &data).await? {
                self.relieve().await?;
                return Ok(buf);
            }
        }
        self.write_any(offset, buf).await
    }

    pub(crate) async fn zero_any(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.begin().await?;
        let block = self.shape.block;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let left = end - at;
            let whole = at.is_multiple_of(block) && (left >= block || end == self.len());
            match self.look_up(at, left).await? {
                Step::Zero { len } => at += len,
                Step::Unallocated { len }
                    if !L::REBASES && self.backing_len().is_none_or(|len| len <= at) =>
                {
                    at += len;
                }
                Step::Data { host, len } if self.layout.cipher().is_none() => {
                    self.file()?.write_zeroes(host, len, unmap).await?;
                    at += len;
                }
                Step::Unallocated { .. } | Step::Packed { .. } if whole && self.can_zero() => {
                    let _own = self.guest.acquire(at..at + block).await;
                    if !matches!(self.look_up(at, 1).await?, Step::Data { .. }) {
                        self.commit(at, Slot::Zero).await?;
                        at += block.min(left);
                    }
                }
                _ => {
                    let n = (block - at % block).min(left).min(1 << 20);
                    self.write_any(at, IoBuf::zeroed(n as usize)).await?;
                    at += n;
                }
            }
        }
        self.relieve().await
    }

    fn can_zero(&self) -> bool {
        let mut entry = vec![0; self.shape.entry];
        self.layout.encode(&mut entry, Slot::Zero)
    }

    /// Gives storage back: discarded data reads as zeros.
    pub(crate) async fn discard_any(&self, offset: u64, len: u64) -> Result<()> {
        self.begin().await?;
        let end = offset + len;
        let mut at = offset;
        while at < end {
            at += match self.look_up(at, end - at).await? {
                Step::Data { host, len } => {
                    if self.layout.cipher().is_none() {
                        self.file()?.discard(host, len).await?;
                    }
                    len
                }
                Step::Zero { len } | Step::Unallocated { len } | Step::Packed { len, .. } => len,
                Step::Load(_) => unreachable!("look_up loads"),
            };
        }
        Ok(())
    }

    pub(crate) async fn status_of(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        let len = len.min(self.len().saturating_sub(offset));
        if len == 0 {
            return Ok(Stored::Zero.status(0));
        }
        Ok(match self.look_up(offset, len).await? {
            Step::Load(_) => unreachable!("look_up loads"),
            Step::Data { host, len } => {
                Stored::Data(self.layout.cipher().is_none().then_some(host)).status(len)
            }
            Step::Zero { len } => Stored::Zero.status(len),
            Step::Unallocated { len } if L::ALONE => Stored::Zero.status(len),
            Step::Unallocated { len } => {
                Stored::Below { nothing: self.backing().is_none() }.status(len)
            }
            Step::Packed { len, .. } => Stored::Packed.status(len),
        })
    }

    async fn relieve(&self) -> Result<()> {
        let crowded = lock(&self.meta).cache.crowded();
        if crowded { self.write_back(false).await } else { Ok(()) }
    }

    /// Writes tables: new ones first, a barrier, then whatever refers to data and to them.
    async fn write_back(&self, sync: bool) -> Result<()> {
        let _cycle = self.cycle.acquire_all().await;
        let file = self.file()?;
        let (dirty, moved, grown, end, blocks) = {
            let mut meta = lock(&self.meta);
            let grown = std::mem::take(&mut meta.grown);
            (meta.cache.take_dirty(), std::mem::take(&mut meta.moved), grown, meta.end, meta.blocks)
        };
        let result = async {
            for item in dirty.iter().filter(|item| item.fresh) {
                write_from(&file, item.offset, &item.data).await?;
            }
            if !dirty.is_empty() || !moved.is_empty() || sync {
                file.flush().await?;
            }
            for item in dirty.iter().filter(|item| !item.fresh) {
                let bytes = &item.data[item.range.clone()];
                let at = item.range.start as u64;
                write_from(&file, item.offset + at, bytes).await?;
                if let Some(mirror) = self.layout.mirror(item.offset) {
                    write_from(&file, mirror + at, bytes).await?;
                }
            }
            for table in &moved {
                let at = lock(&self.meta).tables[*table as usize];
                for (at, bytes) in self.layout.table_moved(*table, at) {
                    file.write(at, bytes.into()).await?;
                }
            }
            if grown {
                self.layout.grown(&file, end, blocks).await?;
            }
            if sync && (!dirty.is_empty() || !moved.is_empty() || grown) {
                file.flush().await?;
            }
            Ok(())
        }
        .await;
        let mut meta = lock(&self.meta);
        dirty.iter().for_each(|item| meta.cache.written(item, result.is_ok()));
        if result.is_err() {
            meta.moved.extend(moved);
            meta.grown |= grown;
        }
        result
    }

    pub(crate) async fn flush_all(&self) -> Result<()> {
        if self.writable.load(Ordering::Acquire) { self.write_back(true).await } else { Ok(()) }
    }

    pub(crate) async fn close_all(&self) -> Result<()> {
        if !self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.write_back(true).await?;
        let file = self.file()?;
        let end = self.end();
        self.layout.finish(&file, end).await?;
        self.writable.store(false, Ordering::Release);
        Ok(())
    }

    /// Reads every entry, table by table.
    pub(crate) async fn scan(&self) -> Result<Scan> {
        let mut scan = Scan::default();
        let blocks = self.len().div_ceil(self.shape.block);
        let mut block = 0;
        while block < blocks {
            let (table, slot) = self.place(block * self.shape.block);
            let at = lock(&self.meta).tables.get(table as usize).copied().unwrap_or(0);
            if at == 0 {
                let entry = self.layout.entry_of(block);
                block += self.shape.per_table - entry % self.shape.per_table;
                continue;
            }
            if lock(&self.meta).cache.get(at).is_none() {
                if let Err(error) = self.load(table).await {
                    scan.bad.push((block, error));
                    block += self.shape.per_table;
                    continue;
                }
            }
            let mut meta = lock(&self.meta);
            let Some(bytes) = meta.cache.get(at) else { continue };
            match bytes.get(slot..slot + self.shape.entry).map(|entry| self.layout.decode(entry)) {
                Some(Ok(Slot::Data(at))) => scan.data.push((block, at)),
                Some(Ok(Slot::Packed(at, _))) => {
                    scan.data.push((block, at));
                    scan.packed += 1;
                }
                Some(Err(error)) => scan.bad.push((block, error)),
                _ => {}
            }
            block += 1;
        }
        Ok(scan)
    }

    /// Replaces the entry of a block, for repairs.
    pub(crate) async fn set_slot(&self, block: u64, to: Slot) -> Result<()> {
        self.begin().await?;
        self.commit(block * self.shape.block, to).await
    }

    /// More tables at given places, for a disk that grows.
    pub(crate) fn add_tables(&self, tables: impl IntoIterator<Item = u64>) {
        lock(&self.meta).tables.extend(tables);
    }
}

/// Fills `len` bytes of `buf` from `done` on with what the backing file has; zeros without one.
pub(crate) async fn read_backing(
    node: Option<Arc<Node>>,
    at: u64,
    mut buf: IoBuf,
    done: usize,
    len: usize,
) -> Result<IoBuf> {
    let there = node.as_ref().map_or(0, |node| node.len().saturating_sub(at));
    let there = there.min(len as u64) as usize;
    if let Some(node) = node.filter(|_| there > 0) {
        buf = read_part(&node, at, buf, done, there).await?;
    }
    buf[done + there..done + len].fill(0);
    Ok(buf)
}

/// Fills `len` bytes of `buf` from `at` on.
pub(crate) async fn read_part(
    node: &Node,
    offset: u64,
    mut buf: IoBuf,
    at: usize,
    len: usize,
) -> Result<IoBuf> {
    let old = buf.narrow(at..at + len);
    buf = node.read(offset, buf).await?;
    buf.widen(old);
    Ok(buf)
}

/// Stores `len` bytes of `buf` from `at` on.
pub(crate) async fn write_part(
    node: &Node,
    offset: u64,
    mut buf: IoBuf,
    at: usize,
    len: usize,
) -> Result<IoBuf> {
    let old = buf.narrow(at..at + len);
    buf = node.write(offset, buf).await?;
    buf.widen(old);
    Ok(buf)
}

async fn write_from(node: &Node, offset: u64, bytes: &[u8]) -> Result<()> {
    node.write(offset, IoBuf::from(bytes)).await.map(drop)
}
