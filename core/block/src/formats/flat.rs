//! Disks that lie in one piece in a file, encrypted or not: `luks`, fixed `vpc`, flat extents
//! of `vmdk`.

use super::mapped::{read_part, write_part};
use crate::crypto::{SECTOR, SectorCipher};
use crate::driver::{Access, BlockStatus, Map};
use crate::graph::{Edge, Node, Perm, Role};
use crate::sync::RangeLock;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A range of a file.
pub(crate) struct Flat {
    file: Arc<Edge>,
    offset: u64,
    len: AtomicU64,
    read_only: bool,
    cipher: Option<SectorCipher>,
    guest: Arc<RangeLock>,
}

impl Flat {
    pub(crate) fn new(
        file: &Arc<Node>,
        offset: u64,
        len: u64,
        read_only: bool,
        cipher: Option<SectorCipher>,
    ) -> Result<Self> {
        let write = if read_only { Perm::empty() } else { Perm::WRITE | Perm::RESIZE };
        let shared = if read_only { Perm::all() } else { Perm::CONSISTENT_READ };
        let file = Edge::attach(Role::File, file, Perm::CONSISTENT_READ | write, shared)?;
        let len = AtomicU64::new(len);
        Ok(Self { file, offset, len, read_only, cipher, guest: Arc::default() })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    pub(crate) fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
    }

    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn edge(&self) -> &Arc<Edge> {
        &self.file
    }

    pub(crate) fn node(&self) -> Result<Arc<Node>> {
        self.file.node().ok_or(BlockError::NoMedium)
    }

    pub(crate) fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        if self.cipher.is_some() || access == Access::Write && self.read_only {
            return Map::Defer;
        }
        match self.file.node() {
            Some(node) => Map::Child { node, offset: self.offset + offset, len, lease: None },
            None => Map::Defer,
        }
    }

    pub(crate) async fn read(&self, at: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let file = self.node()?;
        let Some(cipher) = &self.cipher else {
            return file.read(self.offset + at, buf).await;
        };
        let lead = (at % SECTOR as u64) as usize;
        let first = at - lead as u64;
        if lead == 0 && buf.len().is_multiple_of(SECTOR) {
            buf = file.read(self.offset + at, buf).await?;
            cipher.decrypt(at / SECTOR as u64, &mut buf);
            return Ok(buf);
        }
        let whole = (lead + buf.len()).next_multiple_of(SECTOR);
        let mut bytes = file.read(self.offset + first, IoBuf::zeroed(whole)).await?;
        cipher.decrypt(first / SECTOR as u64, &mut bytes);
        let n = buf.len();
        buf.copy_from_slice(&bytes[lead..lead + n]);
        Ok(buf)
    }

    pub(crate) async fn write(&self, at: u64, buf: IoBuf) -> Result<IoBuf> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let file = self.node()?;
        let Some(cipher) = &self.cipher else {
            return file.write(self.offset + at, buf).await;
        };
        let lead = (at % SECTOR as u64) as usize;
        let first = at - lead as u64;
        let whole = (lead + buf.len()).next_multiple_of(SECTOR);
        let _own = self.guest.acquire(first..first + whole as u64).await;
        let mut bytes = IoBuf::zeroed(whole);
        if whole != buf.len() {
            bytes = file.read(self.offset + first, bytes).await?;
            cipher.decrypt(first / SECTOR as u64, &mut bytes);
        }
        bytes[lead..lead + buf.len()].copy_from_slice(&buf);
        cipher.encrypt(first / SECTOR as u64, &mut bytes);
        file.write(self.offset + first, bytes).await?;
        Ok(buf)
    }

    pub(crate) async fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> Result<()> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        if self.cipher.is_none() {
            return self.node()?.write_zeroes(self.offset + at, len, unmap).await;
        }
        let mut done = 0;
        while done < len {
            let n = (len - done).min(1 << 20);
            self.write(at + done, IoBuf::zeroed(n as usize)).await?;
            done += n;
        }
        Ok(())
    }

    pub(crate) fn discard(&self, at: u64, len: u64) -> Op<()> {
        match (self.read_only, &self.cipher, self.file.node()) {
            (true, ..) => Op::err(BlockError::ReadOnly),
            // Holes in encrypted data would read as noise.
            (_, Some(_), _) => Op::ok(()),
            (_, _, None) => Op::err(BlockError::NoMedium),
            (_, None, Some(node)) => node.discard(self.offset + at, len),
        }
    }

    pub(crate) fn flush(&self) -> Op<()> {
        match self.file.node() {
            Some(node) => node.flush(),
            None => Op::ok(()),
        }
    }

    pub(crate) async fn status(&self, at: u64, len: u64) -> Result<BlockStatus> {
        let data = BlockStatus {
            len,
            zero: false,
            allocated: true,
            data: true,
            compressed: false,
            offset: None,
        };
        if self.cipher.is_some() {
            return Ok(data);
        }
        let below = self.node()?.status(self.offset + at, len).await?;
        Ok(BlockStatus { allocated: true, offset: Some(self.offset + at), ..below })
    }

    /// Fills a part of a buffer.
    pub(crate) async fn read_into(
        &self,
        at: u64,
        buf: IoBuf,
        done: usize,
        len: usize,
    ) -> Result<IoBuf> {
        read_part(&*self.node()?, self.offset + at, buf, done, len).await
    }

    /// Stores a part of a buffer.
    pub(crate) async fn write_from(
        &self,
        at: u64,
        buf: IoBuf,
        done: usize,
        len: usize,
    ) -> Result<IoBuf> {
        write_part(&*self.node()?, self.offset + at, buf, done, len).await
    }
}
