//! The state of a machine inside an image: clusters of a snapshot behind the end of the disk
//! (qcow2 specification, "VM state").

use super::Qcow2;
use super::entry::OFFSET;
use crate::driver::Driver;
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use std::sync::atomic::Ordering;

/// Bytes moved at once.
const PIECE: usize = 1 << 20;
/// Largest state that is read.
const MAX_STATE: u64 = 64 << 30;

impl Qcow2 {
    /// Where the state begins: behind everything that the tables of the disk reach.
    fn state_offset(&self) -> u64 {
        self.header.l1_needed(self.len()) << (self.shape.cluster_bits + self.shape.l2_bits)
    }

    /// Takes a snapshot and keeps the machine's state with it. Nobody else uses the disk.
    pub(super) async fn save_state(
        &self,
        name: &str,
        date: (u32, u32),
        clock: u64,
        state: &[u8],
    ) -> Result<()> {
        if self.shape.data_file {
            return Err(BlockError::unsupported("machine state with an external data file"));
        }
        let (size, at) = (self.len(), self.state_offset());
        let end = (at + state.len() as u64).next_multiple_of(self.shape.cluster());
        self.begin().await?;
        {
            let _all = self.guest.acquire_all().await;
            let needed = self.header.l1_needed(end);
            if needed > lock(&self.meta).l1.len() as u64 {
                self.grow_l1(needed).await?;
            }
        }
        self.size.store(end, Ordering::Relaxed);
        let mut written = Ok(());
        for (n, piece) in state.chunks(PIECE).enumerate() {
            let mut bytes = piece.to_vec();
            bytes.resize(piece.len().next_multiple_of(512), 0);
            let to = at + (n * PIECE) as u64;
            if let Err(error) = self.write_any(to, bytes.into()).await {
                written = Err(error);
                break;
            }
        }
        self.size.store(size, Ordering::Relaxed);
        if written.is_ok() {
            written = self.create_snapshot(name, date, clock, state.len() as u64).await;
        }
        let forgotten = self.forget_state().await;
        written.and(forgotten)
    }

    /// Goes back to a snapshot and gives the machine's state that is kept with it.
    pub(super) async fn take_state(&self, name: &str) -> Result<Vec<u8>> {
        let len = self.find_snapshot(name)?.vm_state_size;
        if len > MAX_STATE {
            return Err(BlockError::corrupt("the machine's state is too large"));
        }
        self.apply_snapshot(name).await?;
        let (size, at) = (self.len(), self.state_offset());
        let end = (at + len).next_multiple_of(self.shape.cluster());
        self.size.store(end, Ordering::Relaxed);
        let mut out = Ok(Vec::new());
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PIECE as u64).next_multiple_of(512);
            match self.read_any(at + done, IoBuf::zeroed(n as usize)).await {
                Ok(bytes) => {
                    out.iter_mut().for_each(|out: &mut Vec<u8>| out.extend_from_slice(&bytes));
                }
                Err(error) => {
                    out = Err(error);
                    break;
                }
            }
            done += n;
        }
        self.size.store(size, Ordering::Relaxed);
        self.forget_state().await?;
        let mut out = out?;
        out.truncate(len as usize);
        Ok(out)
    }

    /// Writes a part of the state, which stays with the active tables. Nobody else uses the disk.
    pub(super) async fn put_state(&self, at: u64, state: &[u8]) -> Result<()> {
        if self.shape.data_file {
            return Err(BlockError::unsupported("machine state with an external data file"));
        }
        let start = self.state_offset().checked_add(at).ok_or(BlockError::NoSpace)?;
        let end = start.checked_add(state.len() as u64 + self.shape.cluster());
        let end = end.ok_or(BlockError::NoSpace)?;
        let needed = self.header.l1_needed(end);
        if needed * 8 > super::header::MAX_L1_BYTES {
            return Err(BlockError::Errno(crate::errno::EFBIG));
        }
        self.begin().await?;
        {
            let _all = self.guest.acquire_all().await;
            if needed > lock(&self.meta).l1.len() as u64 {
                self.grow_l1(needed).await?;
            }
        }
        let size = self.len();
        self.size.store(end.next_multiple_of(self.shape.cluster()), Ordering::Relaxed);
        let written = self.write_any(start, IoBuf::from(state)).await;
        self.size.store(size, Ordering::Relaxed);
        written.map(drop)
    }

    /// Reads a part of the state.
    pub(super) async fn state_part(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let start = self.state_offset().checked_add(at).ok_or(BlockError::NoSpace)?;
        let end = start.checked_add(len as u64).ok_or(BlockError::NoSpace)?;
        let there = (lock(&self.meta).l1.len() as u64).saturating_mul(self.shape.l2_span());
        if end > there {
            return Err(BlockError::Errno(crate::errno::EIO));
        }
        let size = self.len();
        self.size.store(end, Ordering::Relaxed);
        let read = self.read_any(start, IoBuf::zeroed(len)).await;
        self.size.store(size, Ordering::Relaxed);
        read.map(IoBuf::into_vec)
    }

    /// Drops what the active tables hold behind the end of the disk.
    async fn forget_state(&self) -> Result<()> {
        let _all = self.guest.acquire_all().await;
        self.close_all().await?;
        let first = self.header.l1_needed(self.len()) as usize;
        let old: Vec<u64> = {
            let mut meta = lock(&self.meta);
            let from = first.min(meta.l1.len());
            let old = meta.l1.split_off(from);
            let total = from + old.len();
            meta.l1.resize(total, 0);
            let sectors = total.div_ceil(64) as u64;
            meta.l1_dirty.extend(0..sectors);
            meta.unpacked = None;
            old
        };
        if old.iter().all(|word| word & OFFSET == 0) {
            return Ok(());
        }
        self.write_back(true).await?;
        self.bump(&old, false).await?;
        self.refresh_copied().await
    }
}
