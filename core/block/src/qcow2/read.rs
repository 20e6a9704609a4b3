//! From guest offset to bytes.

use super::entry::{Entry, Kind, OFFSET, Packed};
use super::header::Compression;
use super::{Meta, Qcow2};
use crate::driver::{Access, BlockStatus, Driver, Lease, Map, Stored};
use crate::formats::mapped::read_part;
use crate::pack::{inflate, unzstd};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the start of a range is, with the length over which that holds.
pub(super) enum Step {
    Data {
        host: u64,
        len: u64,
        in_place: bool,
        lease: Lease,
    },
    Zero {
        len: u64,
    },
    Unallocated {
        len: u64,
    },
    Packed {
        packed: Packed,
        at: u64,
        len: u64,
        lease: Lease,
    },
    /// The L2 table at this offset must be loaded first.
    Load(u64),
}

impl Qcow2 {
    /// Looks up the start of a range, which must not be empty.
    pub(super) fn step(&self, meta: &mut Meta, offset: u64, len: u64) -> Result<Step> {
        let shape = &self.shape;
        let span_left = shape.l2_span() - (offset & (shape.l2_span() - 1));
        let len = len.min(span_left);
        let l1 = meta.l1.get(shape.l1_index(offset) as usize).copied().unwrap_or(0);
        let table = l1 & OFFSET;
        if table == 0 {
            return Ok(Step::Unallocated { len });
        }
        if table & (shape.cluster() - 1) != 0 {
            return Err(BlockError::corrupt(format!("L2 table at {table:#x} is not aligned")));
        }
        let Some(bytes) = meta.l2.get(table) else { return Ok(Step::Load(table)) };
        let sub = shape.sub();
        let mut index = shape.l2_index(offset);
        let mut entry = Entry::load(bytes, shape, index);
        let within = offset & (shape.cluster() - 1);
        let mut number = (within / sub) as u32;
        let first = entry.kind(shape, number)?;
        let first_copied = entry.copied();
        let mut run = (sub - within % sub).min(len);
        // The run goes on over subclusters of the same kind, for data as long as it is contiguous.
        while run < len && !matches!(first, Kind::Compressed(_)) {
            number += 1;
            if number == shape.subs() {
                number = 0;
                index += 1;
                entry = Entry::load(bytes, shape, index);
            }
            let same = match (first, entry.kind(shape, number)) {
                (Kind::Data(host), Ok(Kind::Data(next))) => {
                    let distance = shape.down(offset + run) - shape.down(offset);
                    next == host + distance && entry.copied() == first_copied
                }
                (a, Ok(b)) => a == b,
                (_, Err(_)) => false,
            };
            if !same {
                break;
            }
            run = (run + sub).min(len);
        }
        Ok(match first {
            Kind::Unallocated => Step::Unallocated { len: run },
            Kind::Zero => Step::Zero { len: run },
            Kind::Data(host) => Step::Data {
                host: host + within,
                len: run,
                in_place: first_copied,
                lease: Lease::new(&meta.epoch),
            },
            Kind::Compressed(packed) => Step::Packed {
                packed,
                at: within,
                len: len.min(shape.cluster() - within),
                lease: Lease::new(&meta.epoch),
            },
        })
    }

    /// The same, loading what is missing.
    pub(super) async fn look_up(&self, offset: u64, len: u64) -> Result<Step> {
        loop {
            let step = self.step(&mut lock(&self.meta), offset, len)?;
            match step {
                Step::Load(table) => self.load_l2(table).await?,
                step => return Ok(step),
            }
        }
    }

    /// Brings an L2 table into memory.
    pub(super) async fn load_l2(&self, table: u64) -> Result<()> {
        let _guard = self.loading.acquire(table..table + 1).await;
        if lock(&self.meta).l2.contains(table) {
            return Ok(());
        }
        let file = self.file()?;
        if table >= file.len() {
            return Err(BlockError::corrupt(format!(
                "L2 table at {table:#x} is beyond the end of the file"
            )));
        }
        self.event("l2_load").await;
        let bytes = file.read(table, IoBuf::zeroed(self.shape.cluster() as usize)).await?;
        lock(&self.meta).l2.insert_clean(table, bytes.into_vec());
        Ok(())
    }

    pub(super) fn map_in_memory(&self, access: Access, offset: u64, len: u64) -> Map {
        if self.header.crypt_method != 0
            || self.debugged
            || access == Access::Write && !self.writable.load(Ordering::Acquire)
        {
            return Map::Defer;
        }
        let step = self.step(&mut lock(&self.meta), offset, len);
        match (step, access) {
            (Ok(Step::Data { host, len, in_place, lease }), access)
                if access == Access::Read || in_place =>
            {
                match self.data() {
                    Ok(node) if self.shape.down(host) < node.len() => {
                        Map::Child { node, offset: host, len, lease: Some(lease) }
                    }
                    _ => Map::Defer,
                }
            }
            (Ok(Step::Zero { len }), Access::Read) => Map::Zero { len },
            (Ok(Step::Unallocated { len }), Access::Read) => match self.backing() {
                None => Map::Zero { len },
                Some(node) => match node.len() {
                    end if end <= offset => Map::Zero { len },
                    end => Map::Child { node, offset, len: len.min(end - offset), lease: None },
                },
            },
            _ => Map::Defer,
        }
    }

    pub(super) async fn read_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        if self.locked() {
            return Err(BlockError::Encrypted("qcow2"));
        }
        let total = buf.len();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let step = self.look_up(at, (total - done) as u64).await?;
            match step {
                Step::Load(_) => unreachable!("look_up loads"),
                Step::Zero { len } => {
                    buf[done..done + len as usize].fill(0);
                    done += len as usize;
                }
                Step::Unallocated { len } => {
                    buf = self.read_backing(at, buf, done, len as usize).await?;
                    done += len as usize;
                }
                Step::Data { host, len, lease, .. } => {
                    let node = self.data()?;
                    if self.shape.down(host) >= node.len() && !self.shape.data_file {
                        return Err(BlockError::corrupt(format!(
                            "data cluster at {host:#x} is beyond the end of the file"
                        )));
                    }
                    self.event("read_aio").await;
                    buf = match &self.cipher {
                        Some(cipher) => {
                            self.read_clear(cipher, at, host, buf, done, len as usize).await?
                        }
                        None => read_part(&node, host, buf, done, len as usize).await?,
                    };
                    drop(lease);
                    done += len as usize;
                }
                Step::Packed { packed, at, len, lease } => {
                    let cluster = self.unpack(packed).await?;
                    drop(lease);
                    let (at, len) = (at as usize, len as usize);
                    buf[done..done + len].copy_from_slice(&cluster[at..at + len]);
                    done += len;
                }
            }
        }
        Ok(buf)
    }

    async fn read_backing(
        &self,
        at: u64,
        mut buf: IoBuf,
        done: usize,
        len: usize,
    ) -> Result<IoBuf> {
        let node = self.backing();
        let there = node.as_ref().map_or(0, |node| node.len().saturating_sub(at));
        let there = there.min(len as u64) as usize;
        if let Some(node) = node.filter(|_| there > 0) {
            self.event("read_backing_aio").await;
            buf = read_part(&node, at, buf, done, there).await?;
        }
        buf[done + there..done + len].fill(0);
        Ok(buf)
    }

    async fn unpack(&self, packed: Packed) -> Result<Arc<Vec<u8>>> {
        if let Some((last, bytes)) = &lock(&self.meta).unpacked
            && *last == packed
        {
            return Ok(bytes.clone());
        }
        let file = self.file()?;
        if packed.offset >= file.len() {
            return Err(BlockError::corrupt(format!(
                "compressed cluster at {:#x} is beyond the end of the file",
                packed.offset
            )));
        }
        self.event("read_compressed").await;
        let raw = file.read(packed.offset, IoBuf::zeroed(packed.len as usize)).await?;
        let len = self.shape.cluster() as usize;
        let bytes = match self.header.compression {
            Compression::Zlib => inflate(&raw, len)?,
            Compression::Zstd => unzstd(&raw, len)?,
        };
        let bytes = Arc::new(bytes);
        lock(&self.meta).unpacked = Some((packed, bytes.clone()));
        Ok(bytes)
    }

    /// How a run of zeros is stored: with clusters of its own, or without.
    fn zero_status(&self, offset: u64, len: u64) -> BlockStatus {
        let shape = &self.shape;
        let table = lock(&self.meta).l1[shape.l1_index(offset) as usize] & OFFSET;
        let first = shape.down(offset);
        let mut meta = lock(&self.meta);
        let Some(bytes) = meta.l2.get(table).filter(|_| self.header.crypt_method == 0) else {
            return Stored::Zero.status(len);
        };
        let place = |guest: u64| Entry::load(bytes, shape, shape.l2_index(guest)).host(shape);
        let start = place(first);
        let mut end = first + shape.cluster();
        let same = |guest: u64| place(guest) == start.map(|start| start + (guest - first));
        while end < offset + len && same(end) {
            end += shape.cluster();
        }
        let mut status = Stored::Zero.status(len.min(end - offset));
        status.offset = start.map(|start| start + (offset - first));
        status
    }

    pub(super) async fn status_of(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        let len = len.min(self.len().saturating_sub(offset));
        if len == 0 {
            return Ok(Stored::Zero.status(0));
        }
        Ok(match self.look_up(offset, len).await? {
            Step::Load(_) => unreachable!("look_up loads"),
            Step::Data { host, len, .. } => {
                Stored::Data((self.header.crypt_method == 0).then_some(host)).status(len)
            }
            Step::Zero { len } => self.zero_status(offset, len),
            Step::Unallocated { len } => {
                Stored::Below { nothing: self.backing().is_none() }.status(len)
            }
            Step::Packed { len, .. } => Stored::Packed.status(len),
        })
    }
}
