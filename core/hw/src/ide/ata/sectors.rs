//! Commands that move, check and trim sectors (ATA8-ACS 7).

use super::{CHUNK, Drive, IDNF, Job, SECTOR};
use crate::block::drive::Op;

impl Drive {
    pub(super) fn multiple(&mut self, ext: bool, command: fn(&mut Self, bool, u32, bool)) {
        match self.state.multiple {
            0 => self.abort(),
            n => command(self, ext, n.into(), false),
        }
    }

    pub(super) fn read(&mut self, ext: bool, block: u32, dma: bool) {
        match self.range(ext) {
            Some((lba, left)) => {
                self.state.job = Job::Read { lba, left, block, dma };
                self.read_more();
            }
            None => self.fail(IDNF),
        }
    }

    pub(super) fn read_more(&mut self) {
        let Job::Read { lba, left, block, .. } = self.state.job else { return };
        // Whole DRQ blocks, read ahead of the host.
        let n = left.min((CHUNK / block).max(1) * block);
        self.ask(Op::Read { offset: lba * SECTOR, len: u64::from(n) * SECTOR });
    }

    pub(super) fn verify(&mut self, ext: bool) {
        match self.range(ext) {
            Some((lba, left)) => {
                self.state.job = Job::Verify { lba, left };
                self.verify_more();
            }
            None => self.fail(IDNF),
        }
    }

    pub(super) fn verify_more(&mut self) {
        let Job::Verify { lba, left } = self.state.job else { return };
        self.ask(Op::Read { offset: lba * SECTOR, len: u64::from(left.min(CHUNK)) * SECTOR });
    }

    pub(super) fn write(&mut self, ext: bool, block: u32, dma: bool) {
        match self.range(ext) {
            Some((lba, left)) => {
                self.state.job = Job::Write { lba, left, block, dma };
                self.write_more(false);
            }
            None => self.fail(IDNF),
        }
    }

    pub(super) fn write_more(&mut self, interrupt: bool) {
        let Job::Write { left, block, dma, .. } = self.state.job else { return };
        if dma {
            self.expect_dma(left.min(CHUNK) as usize * SECTOR as usize);
        } else {
            self.expect_pio(left.min(block) as usize * SECTOR as usize, interrupt);
        }
    }

    pub(super) fn data_set_management(&mut self) {
        // The older byte of the count may be the one of the signature.
        let blocks = self.state.regs.count & 0xff;
        if !self.config.discard || self.state.regs.feature & 0xff != 1 || blocks != 1 {
            return self.abort();
        }
        self.state.job = Job::TrimList;
        self.expect_dma(512);
    }

    pub(super) fn trim_list(&mut self, list: &[u8]) {
        let mut ranges = Vec::new();
        for entry in list.as_chunks().0 {
            let e = u64::from_le_bytes(*entry);
            let (lba, count) = (e & 0xffff_ffff_ffff, e >> 48);
            if count == 0 {
                continue;
            }
            if lba + count > self.sectors() {
                return self.abort();
            }
            ranges.push((lba, count));
        }
        ranges.reverse();
        self.state.job = Job::Trim { ranges };
        self.trim_more();
    }

    pub(super) fn trim_more(&mut self) {
        let Job::Trim { ranges } = &mut self.state.job else { return };
        match ranges.pop() {
            Some((lba, n)) => self.ask(Op::Discard { offset: lba * SECTOR, len: n * SECTOR }),
            None => self.done(),
        }
    }
}
