//! Data between the host and a command, by PIO and DMA, and between a command and the backend.

use super::{ABRT, CHUNK, Drive, IDNF, Job, Phase, SECTOR, UNC};
use crate::block::drive::{DriveError, Op};

impl Drive {
    // Data, by PIO.

    /// Reads `width` bytes of the data register (2 or 4).
    pub fn pio_in(&mut self, width: u8) -> u32 {
        if self.state.phase != Phase::PioIn {
            return 0;
        }
        let s = &mut self.state;
        let mut v = 0;
        for i in 0..usize::from(width) {
            if s.pos < s.end {
                v |= u32::from(s.buf[s.pos]) << (8 * i);
                s.pos += 1;
            }
        }
        if s.pos >= s.end {
            self.block_read();
        }
        v
    }

    /// Writes `width` bytes of the data register.
    pub fn pio_out(&mut self, width: u8, value: u32) {
        if self.state.phase != Phase::PioOut {
            return;
        }
        let s = &mut self.state;
        for i in 0..usize::from(width) {
            if s.pos < s.end {
                s.buf[s.pos] = (value >> (8 * i)) as u8;
                s.pos += 1;
            }
        }
        if s.pos >= s.end {
            self.block_written();
        }
    }

    /// The DRQ block the host may read now, as a whole: for hosts that move blocks (AHCI).
    pub fn drq_block(&self) -> &[u8] {
        &self.state.buf[self.state.pos..self.state.end]
    }

    /// Says that the whole DRQ block was read.
    pub fn drq_block_taken(&mut self) {
        if self.state.phase == Phase::PioIn {
            self.state.pos = self.state.end;
            self.block_read();
        }
    }

    /// Brings the whole DRQ block; what is missing is zero.
    pub fn drq_block_given(&mut self, data: &[u8]) {
        if self.state.phase == Phase::PioOut {
            let s = &mut self.state;
            let n = data.len().min(s.end - s.pos);
            s.buf[s.pos..s.pos + n].copy_from_slice(&data[..n]);
            s.pos = s.end;
            self.block_written();
        }
    }

    pub(super) fn block_read(&mut self) {
        match &self.state.job {
            Job::Read { lba, left, block, .. } => {
                let (lba, left, block) = (*lba, *left, *block);
                let s = &mut self.state;
                if s.pos < s.buf.len() {
                    s.end = (s.pos + block as usize * SECTOR as usize).min(s.buf.len());
                    s.intrq = true;
                } else if left > 0 {
                    self.read_more();
                } else {
                    self.progress(lba, 0);
                    self.done();
                    // The last block needs no interrupt: the host has all it asked for.
                    self.state.intrq = false;
                }
            }
            Job::Packet(_) => self.packet_block_read(),
            _ => {
                self.done();
                self.state.intrq = false;
            }
        }
    }

    pub(super) fn block_written(&mut self) {
        let data = std::mem::take(&mut self.state.buf);
        (self.state.pos, self.state.end) = (0, 0);
        match &self.state.job {
            Job::Write { lba, .. } => {
                let offset = lba * SECTOR;
                self.ask(Op::Write { offset, data, fua: false });
            }
            Job::TrimList => self.trim_list(&data),
            Job::Packet(_) => self.packet_received(&data),
            _ => self.done(),
        }
    }

    // Data, by DMA.

    /// What the bus master may take now.
    pub fn dma_in(&self) -> &[u8] {
        if self.state.phase == Phase::DmaIn { &self.state.buf[self.state.pos..] } else { &[] }
    }

    /// Says that the bus master took `n` bytes of it.
    pub fn dma_taken(&mut self, n: usize) {
        if self.state.phase != Phase::DmaIn {
            return;
        }
        let s = &mut self.state;
        s.pos = (s.pos + n).min(s.buf.len());
        if s.pos < s.buf.len() {
            return;
        }
        match s.job {
            Job::Read { left, .. } if left > 0 => self.read_more(),
            Job::Read { lba, .. } => {
                self.progress(lba, 0);
                self.done();
            }
            Job::Packet(_) => self.packet_dma_taken(),
            _ => self.done(),
        }
    }

    /// How many bytes the drive wants from the bus master now.
    pub fn dma_out(&self) -> usize {
        if self.state.phase == Phase::DmaOut { self.state.end - self.state.pos } else { 0 }
    }

    /// Brings some of them.
    pub fn dma_given(&mut self, data: &[u8]) {
        if self.state.phase != Phase::DmaOut {
            return;
        }
        let s = &mut self.state;
        let n = data.len().min(s.end - s.pos);
        s.buf[s.pos..s.pos + n].copy_from_slice(&data[..n]);
        s.pos += n;
        if s.pos >= s.end {
            self.block_written();
        }
    }

    /// The bus master ran out of memory to put data in: the command ends without an interrupt.
    pub fn dma_ran_out(&mut self) {
        if matches!(self.state.phase, Phase::DmaIn | Phase::DmaOut) {
            self.done();
            self.state.intrq = false;
        }
    }

    // The backend's side.

    /// Takes the operation the drive wants to have submitted.
    pub fn take_op(&mut self) -> Option<Op> {
        self.state.want.take()
    }

    /// Delivers the result of the operation it waits for.
    pub fn op_done(&mut self, result: Result<Vec<u8>, DriveError>) {
        if self.state.phase != Phase::Busy {
            return;
        }
        if let Job::Packet(_) = self.state.job {
            return self.packet_op_done(result);
        }
        match result {
            Ok(data) => self.op_succeeded(data),
            Err(e) => {
                let position = match self.state.job {
                    Job::Read { lba, left, .. }
                    | Job::Write { lba, left, .. }
                    | Job::Verify { lba, left } => Some((lba, left)),
                    _ => None,
                };
                if let Some((lba, left)) = position {
                    self.progress(lba, left);
                }
                self.fail(match (&self.state.job, e) {
                    (_, DriveError::OutOfRange) => IDNF,
                    (Job::Read { .. } | Job::Verify { .. }, DriveError::Failed) => UNC,
                    _ => ABRT,
                });
            }
        }
    }

    pub(super) fn op_succeeded(&mut self, data: Vec<u8>) {
        match &mut self.state.job {
            Job::Read { lba, left, block, dma } => {
                let n = (data.len() as u64 / SECTOR) as u32;
                *lba += u64::from(n);
                *left = left.saturating_sub(n);
                let (block, dma) = (*block as usize * SECTOR as usize, *dma);
                if dma {
                    self.offer_dma(data);
                } else {
                    self.offer_pio(data, block);
                }
            }
            Job::Verify { lba, left } => {
                let n = (data.len() as u64 / SECTOR) as u32;
                *lba += u64::from(n);
                *left = left.saturating_sub(n);
                let (at, left) = (*lba, *left);
                if left > 0 && n > 0 {
                    self.verify_more();
                } else {
                    self.progress(at, 0);
                    self.done();
                }
            }
            Job::Write { lba, left, block, dma } => {
                let n = (*left).min(if *dma { CHUNK } else { *block });
                *lba += u64::from(n);
                *left -= n;
                let (at, left) = (*lba, *left);
                if left > 0 {
                    self.write_more(true);
                } else {
                    self.progress(at, 0);
                    self.done();
                }
            }
            Job::Trim { .. } => self.trim_more(),
            _ => self.done(),
        }
    }

    // Commands without data.
}
