//! Changing the size of the disk.

use super::Qcow2;
use super::header::{MAX_L1_BYTES, field};
use crate::driver::Driver;
use crate::sync::lock;
use crate::{BlockError, Result};
use std::sync::atomic::Ordering;

impl Qcow2 {
    pub(super) async fn resize(&self, len: u64) -> Result<()> {
        self.begin().await?;
        let old = self.len();
        if len < old {
            return Err(BlockError::unsupported("qcow2 disks cannot be made smaller"));
        }
        if !len.is_multiple_of(512) {
            return Err(BlockError::invalid("the size of a disk must be a multiple of 512"));
        }
        if !lock(&self.snapshots).is_empty() && self.shape.version < 3 {
            return Err(BlockError::invalid("Can't resize a v2 image which has snapshots"));
        }
        let needed = self.header.l1_needed(len);
        if needed * 8 > MAX_L1_BYTES {
            return Err(BlockError::invalid("the disk would be too large for its cluster size"));
        }
        let file = self.file()?;
        if self.shape.data_file {
            let data = self.data()?;
            if data.len() < len {
                data.truncate(len).await?;
            }
        }
        {
            let _all = self.guest.acquire_all().await;
            if needed > lock(&self.meta).l1.len() as u64 {
                self.grow_l1(needed).await?;
            }
            self.size.store(len, Ordering::Relaxed);
        }
        // What the backing file has behind the old end must not show.
        let shown = self.backing().map_or(0, |node| node.len()).min(len);
        if shown > old {
            self.zero_any(old, shown - old, false).await?;
        }
        self.write_back(true).await?;
        file.write(field::SIZE as u64, len.to_be_bytes().to_vec().into()).await?;
        file.flush().await
    }

    /// Moves the L1 table to a larger place. The caller keeps everybody off the mapping.
    pub(super) async fn grow_l1(&self, entries: u64) -> Result<()> {
        let bits = self.shape.cluster_bits;
        let clusters = (entries * 8).div_ceil(self.shape.cluster());
        let offset = self.alloc_exactly(clusters).await?;
        self.write_back(true).await?;
        let file = self.file()?;
        let mut l1 = lock(&self.meta).l1.clone();
        l1.resize(entries as usize, 0);
        let mut bytes: Vec<u8> = l1.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.resize((clusters << bits) as usize, 0);
        file.write(offset, bytes.into()).await?;
        file.flush().await?;
        let mut header = (entries as u32).to_be_bytes().to_vec();
        header.extend(offset.to_be_bytes());
        file.write(field::L1_SIZE as u64, header.into()).await?;
        file.flush().await?;
        let mut guard = lock(&self.meta);
        let meta = &mut *guard;
        let old =
            (meta.l1_offset >> bits, (meta.l1.len() as u64 * 8).div_ceil(self.shape.cluster()));
        meta.l1 = l1;
        meta.l1_offset = offset;
        (0..clusters).for_each(|i| meta.guard((offset >> bits) + i));
        if old.1 > 0 {
            meta.free(old.0, old.1, false);
        }
        Ok(())
    }
}
