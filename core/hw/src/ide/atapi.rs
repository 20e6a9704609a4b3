//! The packet interface: how an ATA channel carries SCSI commands to a CD-ROM drive.
//!
//! Reference: ATA/ATAPI-7 volume 2 chapter 11 (PACKET), SFF-8020i. The host writes a 12-byte
//! command block, the drive moves data in DRQ blocks no longer than the byte count limit the
//! host gave (or by DMA), then reports status.

use super::ata::{Drive, Job as AtaJob, Phase};
use crate::block::drive::{DriveError, Op};
use crate::scsi::mmc::{self, Frame, Reply};
use crate::scsi::sense::Sense;
use serde::{Deserialize, Serialize};

/// Bytes of a command block.
const PACKET: usize = 12;
/// Most blocks of one backend operation.
const CHUNK: u32 = 32;

/// Interrupt reason (in the sector count register): the packet, or the end of the command.
const COD: u16 = 1;
/// Interrupt reason: towards the host.
const IO: u16 = 2;

/// A packet command being carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    dma: bool,
    /// Longest DRQ block.
    limit: u16,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Waits for the command block.
    Packet,
    /// Moves the last of its data.
    Data,
    /// Reads blocks: the next to ask for and how many are left.
    Read { lba: u32, left: u32, frame: Frame },
}

impl Drive {
    fn job(&self) -> Option<Job> {
        match &self.state.job {
            AtaJob::Packet(job) => Some(job.clone()),
            _ => None,
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let AtaJob::Packet(job) = &mut self.state.job {
            job.stage = stage;
        }
    }

    /// The PACKET command.
    pub(super) fn packet(&mut self) {
        let r = &mut self.state.regs;
        let dma = r.feature & 1 != 0;
        let limit = (r.mid & 0xff) | (r.high & 0xff) << 8;
        r.count = COD;
        self.expect_pio(PACKET, false);
        self.state.job = AtaJob::Packet(Job { dma, limit, stage: Stage::Packet });
    }

    /// The command block arrived.
    pub(super) fn packet_received(&mut self, packet: &[u8]) {
        match self.cd.execute(packet) {
            Reply::Done => self.packet_done(),
            Reply::Check(sense) => self.packet_check(sense),
            Reply::Data(data) => {
                self.set_stage(Stage::Data);
                self.packet_offer(data);
            }
            Reply::Read { lba, count, frame } => {
                self.set_stage(Stage::Read { lba, left: count, frame });
                if self.can_move_data() {
                    self.packet_read_more();
                }
            }
        }
    }

    /// A byte count limit of zero leaves no way to move data by PIO.
    fn can_move_data(&mut self) -> bool {
        let can = self.job().is_some_and(|j| j.dma || j.limit != 0);
        if !can {
            self.state.regs.count = COD | IO;
            self.abort();
        }
        can
    }

    fn packet_offer(&mut self, data: Vec<u8>) {
        let Some(job) = self.job() else { return };
        if !self.can_move_data() {
            return;
        }
        self.state.regs.count = IO;
        if job.dma {
            return self.offer_dma(data);
        }
        self.offer_pio(data, 0);
        self.next_block(job.limit);
    }

    /// Begins the next DRQ block of what is in the buffer.
    fn next_block(&mut self, limit: u16) {
        // All blocks but the last are even (11.8.1).
        let most = usize::from(limit & !1).max(2);
        let s = &mut self.state;
        let n = (s.buf.len() - s.pos).min(most);
        s.end = s.pos + n;
        (s.regs.mid, s.regs.high) = (n as u16 & 0xff, n as u16 >> 8);
        s.intrq = true;
    }

    /// The host read the DRQ block.
    pub(super) fn packet_block_read(&mut self) {
        match self.job() {
            Some(job) if self.state.pos < self.state.buf.len() => self.next_block(job.limit),
            _ => self.packet_data_moved(),
        }
    }

    /// The bus master took the burst.
    pub(super) fn packet_dma_taken(&mut self) {
        self.packet_data_moved();
    }

    fn packet_data_moved(&mut self) {
        match self.job().map(|j| j.stage) {
            Some(Stage::Read { left, .. }) if left > 0 => self.packet_read_more(),
            _ => self.packet_done(),
        }
    }

    fn packet_read_more(&mut self) {
        let Some(Stage::Read { lba, left, .. }) = self.job().map(|j| j.stage) else { return };
        let len = u64::from(left.min(CHUNK)) * mmc::BLOCK;
        self.ask(Op::Read { offset: u64::from(lba) * mmc::BLOCK, len });
    }

    /// The disc was read, or could not be.
    pub(super) fn packet_op_done(&mut self, result: Result<Vec<u8>, DriveError>) {
        let Some(Stage::Read { lba, left, frame }) = self.job().map(|j| j.stage) else { return };
        match result {
            Ok(data) => {
                let n = (data.len() as u64 / mmc::BLOCK) as u32;
                self.set_stage(Stage::Read { lba: lba + n, left: left.saturating_sub(n), frame });
                self.packet_offer(frame.wrap(lba, data));
            }
            Err(e) => self.packet_check(match e {
                DriveError::NoMedium => Sense::NO_MEDIUM,
                DriveError::OutOfRange => Sense::LBA_OUT_OF_RANGE,
                _ => Sense::READ_ERROR,
            }),
        }
    }

    fn packet_done(&mut self) {
        self.done();
        self.state.regs.count = COD | IO;
        self.state.phase = Phase::Idle;
    }

    fn packet_check(&mut self, sense: Sense) {
        self.cd.set_sense(sense);
        self.fail(sense.key << 4 | if sense.key == 5 { super::ata::ABRT } else { 0 });
        self.state.regs.count = COD | IO;
    }
}
