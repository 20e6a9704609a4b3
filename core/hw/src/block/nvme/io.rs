//! The NVM command set (chapter 6).

use super::memory::pieces;
use super::queue::Command;
use super::{Job, MOST, Nvme};
use crate::block::drive::{DriveError, Finished, Op};
use crate::pci::Slot;

/// Command codes.
mod op {
    pub(super) const FLUSH: u8 = 0x00;
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
    pub(super) const COMPARE: u8 = 0x05;
    pub(super) const WRITE_ZEROES: u8 = 0x08;
    pub(super) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Status codes (4.6.1), with the type above the code; refusals that a retry would not change say so.
pub(super) mod status {
    pub(in super::super) const DNR: u16 = 0x4000;
    pub(in super::super) const INVALID_OPCODE: u16 = 0x01 | DNR;
    pub(in super::super) const INVALID_FIELD: u16 = 0x02 | DNR;
    pub(in super::super) const TRANSFER_ERROR: u16 = 0x04;
    pub(in super::super) const INVALID_NAMESPACE: u16 = 0x0b | DNR;
    pub(in super::super) const WRITE_PROTECTED: u16 = 0x20 | DNR;
    pub(in super::super) const LBA_RANGE: u16 = 0x80 | DNR;
    pub(in super::super) const CAPACITY: u16 = 0x81;
    pub(in super::super) const WRITE_FAULT: u16 = 0x280;
    pub(in super::super) const UNRECOVERED_READ: u16 = 0x281;
    pub(in super::super) const COMPARE_FAILURE: u16 = 0x285 | DNR;
}

/// What a command comes to at once: `Some` ends it with that word, `None` waits.
pub(super) type Outcome = Result<Option<u32>, u16>;

impl Nvme {
    /// A command of I/O queue `queue`.
    pub(super) fn command(&mut self, queue: u16, c: &Command, slot: &Slot<'_>) -> Outcome {
        if c.opcode() == op::FLUSH && c.namespace() == u32::MAX {
            // All of them, one after the other.
            return match self.config.namespaces.len() {
                0 => Ok(Some(0)),
                n => self.start(queue, c, 0, vec![Op::Flush; n]),
            };
        }
        let Some((drive, ns)) = self.namespace(c.namespace()) else {
            return Err(status::INVALID_NAMESPACE);
        };
        let (block, read_only) = (u64::from(ns.block_size), ns.backend.read_only());
        let blocks = ns.backend.len() / block;
        let extent = |lba: u64, count: u64| match lba.checked_add(count) {
            Some(end) if end <= blocks => Ok((lba * block, count * block)),
            _ => Err(status::LBA_RANGE),
        };
        let dma = slot.function.dma();
        let page = self.page();
        let usual = || extent(c.long(10), u64::from(c.word(12) & 0xffff) + 1);
        let fua = c.word(12) & 1 << 30 != 0;
        let ops = match c.opcode() {
            op::FLUSH => vec![Op::Flush],
            op::READ | op::COMPARE => {
                let (offset, len) = usual()?;
                if len > MOST {
                    return Err(status::INVALID_FIELD);
                }
                // The list must make sense before the disk is asked.
                pieces(dma, c, len, page).map_err(|s| s | status::DNR)?;
                vec![Op::Read { offset, len }]
            }
            op::WRITE => {
                let (offset, len) = usual()?;
                if len > MOST {
                    return Err(status::INVALID_FIELD);
                }
                if read_only {
                    return Err(status::WRITE_PROTECTED);
                }
                let from = pieces(dma, c, len, page).map_err(|s| s | status::DNR)?;
                let mut data = vec![0; len as usize];
                if from.read(dma, 0, &mut data) != Ok(data.len()) {
                    return Err(status::TRANSFER_ERROR);
                }
                vec![Op::Write { offset, data, fua }]
            }
            op::WRITE_ZEROES => {
                let (offset, len) = usual()?;
                if read_only {
                    return Err(status::WRITE_PROTECTED);
                }
                let unmap = c.word(12) & 1 << 25 != 0;
                vec![Op::WriteZeroes { offset, len, unmap }]
            }
            op::DATASET_MANAGEMENT => {
                // Only deallocation does anything; the rest is advice.
                if c.word(11) & 4 == 0 {
                    return Ok(Some(0));
                }
                if read_only {
                    return Err(status::WRITE_PROTECTED);
                }
                let mut list = vec![0; (c.word(10) as usize & 0xff) * 16 + 16];
                let from = pieces(dma, c, list.len() as u64, page)?;
                if from.read(dma, 0, &mut list) != Ok(list.len()) {
                    return Err(status::TRANSFER_ERROR);
                }
                let mut ops = Vec::new();
                for r in list.as_chunks::<16>().0 {
                    let count = u32::from_le_bytes([r[4], r[5], r[6], r[7]]);
                    let mut lba = [0; 8];
                    lba.copy_from_slice(&r[8..]);
                    let (offset, len) = extent(u64::from_le_bytes(lba), count.into())?;
                    if len > 0 {
                        ops.push(Op::Discard { offset, len });
                    }
                }
                ops
            }
            _ => return Err(status::INVALID_OPCODE),
        };
        let moved = ops.iter().map(Op::bytes).sum::<u64>().div_ceil(512);
        match c.opcode() {
            op::READ => self.count(0, moved),
            op::WRITE => self.count(1, moved),
            _ => {}
        }
        self.start(queue, c, drive, ops)
    }

    fn count(&mut self, which: usize, units: u64) {
        let [commands, sum] = &mut self.state.counts[which];
        *commands = commands.wrapping_add(1);
        *sum = sum.wrapping_add(units);
    }

    /// Starts the first of `ops`; the others follow. A flush of all namespaces has one for each.
    pub(super) fn start(
        &mut self,
        queue: u16,
        c: &Command,
        drive: usize,
        mut ops: Vec<Op>,
    ) -> Outcome {
        ops.reverse();
        let Some(first) = ops.pop() else { return Ok(Some(0)) };
        let job = Job { queue, command: c.clone(), rest: ops, shutdown: false };
        self.io.submit(&mut self.state.in_flight, drive, job, first);
        Ok(None)
    }

    /// A host operation is over.
    pub(super) fn finished(&mut self, done: Finished<Job>, slot: &mut Slot<'_>) {
        let Finished { drive, tag: mut job, op, result } = done;
        let result = match result {
            Ok(data) => match job.rest.pop() {
                Some(next) => {
                    let all = job.command.namespace() == u32::MAX;
                    let drive = if all { drive + 1 } else { drive };
                    return self.io.submit(&mut self.state.in_flight, drive, job, next);
                }
                None if op.is_read() => self.arrived(&job.command, &data, slot),
                None => Ok(()),
            },
            Err(e) => Err(match e {
                DriveError::ReadOnly => status::WRITE_PROTECTED,
                DriveError::OutOfRange => status::LBA_RANGE,
                DriveError::NoSpace => status::CAPACITY,
                _ if op.is_read() => status::UNRECOVERED_READ,
                _ => status::WRITE_FAULT,
            }),
        };
        self.complete(job.queue, &job.command, result.err().unwrap_or(0), 0, slot);
    }

    /// What was read goes to the guest, or is compared with what it has.
    fn arrived(&self, c: &Command, data: &[u8], slot: &Slot<'_>) -> Result<(), u16> {
        let dma = slot.function.dma();
        let to = pieces(dma, c, data.len() as u64, self.page())?;
        if c.opcode() == op::COMPARE {
            let mut other = vec![0; data.len()];
            if to.read(dma, 0, &mut other) != Ok(other.len()) {
                return Err(status::TRANSFER_ERROR);
            }
            return if other == data { Ok(()) } else { Err(status::COMPARE_FAILURE) };
        }
        match to.write(dma, 0, data) {
            Ok(n) if n == data.len() => Ok(()),
            _ => Err(status::TRANSFER_ERROR),
        }
    }
}
