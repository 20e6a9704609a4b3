//! Admin commands (chapter 5).

use super::io::{Outcome, status};
use super::memory::pieces;
use super::queue::{Command, Completion, Submission};
use super::{Nvme, identify};
use crate::block::drive::Op;
use crate::pci::Slot;
use serde::{Deserialize, Serialize};

/// Command codes.
mod op {
    pub(super) const DELETE_SUBMISSION: u8 = 0x00;
    pub(super) const CREATE_SUBMISSION: u8 = 0x01;
    pub(super) const GET_LOG: u8 = 0x02;
    pub(super) const DELETE_COMPLETION: u8 = 0x04;
    pub(super) const CREATE_COMPLETION: u8 = 0x05;
    pub(super) const IDENTIFY: u8 = 0x06;
    pub(super) const ABORT: u8 = 0x08;
    pub(super) const SET_FEATURES: u8 = 0x09;
    pub(super) const GET_FEATURES: u8 = 0x0a;
    pub(super) const EVENT_REQUEST: u8 = 0x0c;
    pub(super) const FORMAT: u8 = 0x80;
}

/// Status codes of these commands (4.6.1.2.2).
mod refused {
    use super::status::DNR;

    pub(super) const COMPLETION_QUEUE: u16 = 0x100 | DNR;
    pub(super) const QUEUE_ID: u16 = 0x101 | DNR;
    pub(super) const QUEUE_SIZE: u16 = 0x102 | DNR;
    pub(super) const TOO_MANY_EVENTS: u16 = 0x105;
    pub(super) const VECTOR: u16 = 0x108 | DNR;
    pub(super) const LOG_PAGE: u16 = 0x109 | DNR;
    pub(super) const FORMAT: u16 = 0x10a | DNR;
    pub(super) const IN_USE: u16 = 0x10c | DNR;
    pub(super) const NOT_SAVEABLE: u16 = 0x10d | DNR;
    pub(super) const NOT_CHANGEABLE: u16 = 0x10e | DNR;
}

/// Outstanding event requests.
const EVENTS: usize = 4;
/// Entries of an I/O queue.
const MOST_ENTRIES: u32 = 2048;

/// What SET FEATURES changes (5.21).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Features {
    arbitration: u32,
    /// Over and under, in kelvin.
    thresholds: [u32; 2],
    recovery: u32,
    coalescing: u32,
    atomicity: u32,
    events: u32,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            arbitration: 7,
            thresholds: [0x157, 0],
            recovery: 0,
            coalescing: 0,
            atomicity: 0,
            events: 0,
        }
    }
}

impl Nvme {
    /// A command of the admin queue.
    pub(super) fn admin(&mut self, c: &Command, slot: &Slot<'_>) -> Outcome {
        match c.opcode() {
            op::DELETE_SUBMISSION => self.delete_submission(c),
            op::CREATE_SUBMISSION => self.create_submission(c),
            op::DELETE_COMPLETION => self.delete_completion(c),
            op::CREATE_COMPLETION => self.create_completion(c),
            op::IDENTIFY => self.identify(c, slot),
            op::GET_LOG => self.log_page(c, slot),
            // It is over, or too late.
            op::ABORT => Ok(Some(1)),
            op::SET_FEATURES => self.set_feature(c),
            op::GET_FEATURES => self.feature(c),
            op::EVENT_REQUEST if self.state.events.len() >= EVENTS => Err(refused::TOO_MANY_EVENTS),
            op::EVENT_REQUEST => {
                self.state.events.push(c.clone());
                Ok(None)
            }
            op::FORMAT => self.format(c),
            _ => Err(status::INVALID_OPCODE),
        }
    }

    /// The number and size of a queue to create.
    fn new_queue(&self, c: &Command) -> Result<(u16, u32), u16> {
        let (id, size) = (c.word(10) as u16, (c.word(10) >> 16) + 1);
        if id == 0 || id > self.config.queues {
            return Err(refused::QUEUE_ID);
        }
        if !(2..=MOST_ENTRIES).contains(&size) {
            return Err(refused::QUEUE_SIZE);
        }
        if !c.long(6).is_multiple_of(self.page()) {
            return Err(0x13 | status::DNR);
        }
        // Only contiguous queues.
        if c.word(11) & 1 == 0 {
            return Err(status::INVALID_FIELD);
        }
        Ok((id, size))
    }

    fn create_completion(&mut self, c: &Command) -> Outcome {
        let (id, size) = self.new_queue(c)?;
        if self.state.completions.contains_key(&id) {
            return Err(refused::QUEUE_ID);
        }
        let vector = (c.word(11) >> 16) as u16;
        if vector >= self.config.vectors.max(1) {
            return Err(refused::VECTOR);
        }
        let vector = (c.word(11) & 2 != 0).then_some(vector);
        self.state.completions.insert(id, Completion::new(c.long(6), size, vector));
        Ok(Some(0))
    }

    fn create_submission(&mut self, c: &Command) -> Outcome {
        let to = (c.word(11) >> 16) as u16;
        if to == 0 || !self.state.completions.contains_key(&to) {
            return Err(refused::COMPLETION_QUEUE);
        }
        let (id, size) = self.new_queue(c)?;
        if self.state.submissions.contains_key(&id) {
            return Err(refused::QUEUE_ID);
        }
        self.state.submissions.insert(id, Submission::new(c.long(6), size, to));
        Ok(Some(0))
    }

    fn delete_submission(&mut self, c: &Command) -> Outcome {
        let id = c.word(10) as u16;
        if id == 0 || self.state.submissions.remove(&id).is_none() {
            return Err(refused::QUEUE_ID);
        }
        self.io.abandon(&mut self.state.in_flight, |_, job| job.queue == id && !job.shutdown);
        Ok(Some(0))
    }

    fn delete_completion(&mut self, c: &Command) -> Outcome {
        let id = c.word(10) as u16;
        if id == 0 || !self.state.completions.contains_key(&id) {
            return Err(refused::QUEUE_ID);
        }
        if self.state.submissions.values().any(|sq| sq.completion == id) {
            return Err(refused::IN_USE);
        }
        self.state.completions.remove(&id);
        Ok(Some(0))
    }

    /// Gives the guest a structure.
    fn give(&self, c: &Command, bytes: &[u8], slot: &Slot<'_>) -> Outcome {
        let dma = slot.function.dma();
        let to = pieces(dma, c, bytes.len() as u64, self.page()).map_err(|s| s | status::DNR)?;
        match to.write(dma, 0, bytes) {
            Ok(n) if n == bytes.len() => Ok(Some(0)),
            _ => Err(status::TRANSFER_ERROR),
        }
    }

    fn identify(&self, c: &Command, slot: &Slot<'_>) -> Outcome {
        let id = c.namespace();
        let list = |from: u32| {
            let ids = self.config.namespaces.iter().map(|n| n.id).filter(|&n| n > from);
            let mut bytes: Vec<u8> = ids.take(1024).flat_map(u32::to_le_bytes).collect();
            bytes.resize(4096, 0);
            bytes
        };
        let bytes = match c.word(10) as u8 {
            0x00 if id == u32::MAX => identify::no_namespace(),
            0x00 | 0x11 => match self.namespace(id) {
                Some((_, ns)) => identify::namespace(ns),
                None if id == 0 || id > identify::NAMESPACES => {
                    return Err(status::INVALID_NAMESPACE);
                }
                None => vec![0; 4096],
            },
            0x01 => identify::controller(&self.config),
            0x02 | 0x10 if id < u32::MAX - 1 => list(id),
            0x02 | 0x10 => return Err(status::INVALID_NAMESPACE),
            0x03 => match self.namespace(id) {
                Some((_, ns)) => identify::descriptors(ns),
                None => return Err(status::INVALID_NAMESPACE),
            },
            // What is particular to the NVM command set: nothing.
            0x05 | 0x06 if c.word(11) >> 24 == 0 => vec![0; 4096],
            _ => return Err(status::INVALID_FIELD),
        };
        self.give(c, &bytes, slot)
    }

    fn log_page(&mut self, c: &Command, slot: &Slot<'_>) -> Outcome {
        let dwords = u64::from(c.word(10) >> 16 | (c.word(11) & 0xffff) << 16) + 1;
        let len = dwords * 4;
        let offset = c.long(12);
        if offset & 3 != 0 || len > super::MOST {
            return Err(status::INVALID_FIELD);
        }
        let page = match c.word(10) as u8 {
            0x01 => vec![0; 256],
            0x02 => identify::health(self.state.counts),
            0x03 => identify::firmware(),
            0x04 => vec![0; 4096],
            0x05 => identify::effects(),
            _ => return Err(refused::LOG_PAGE),
        };
        let from = usize::try_from(offset).ok().filter(|&n| n <= page.len());
        let Some(from) = from else { return Err(status::INVALID_FIELD) };
        let end = page.len().min(from.saturating_add(len as usize));
        self.give(c, &page[from..end], slot)
    }

    fn feature(&self, c: &Command) -> Outcome {
        let (id, select) = (c.word(10) as u8, c.word(10) >> 8 & 7);
        let changeable = !matches!(id, 0x02 | 0x07);
        if select == 3 {
            let known = matches!(id, 0x01 | 0x02 | 0x04..=0x0b);
            return if known {
                Ok(Some(u32::from(changeable) << 2))
            } else {
                Err(status::INVALID_FIELD)
            };
        }
        let usual = Features::default();
        let f = if select == 0 { &self.state.features } else { &usual };
        Ok(Some(match id {
            0x01 => f.arbitration,
            0x02 => 0,
            0x04 => match c.word(11) >> 16 & 0x3f {
                0 => f.thresholds[(c.word(11) >> 20 & 1) as usize],
                0x10 => f.thresholds[1],
                _ => return Err(status::INVALID_FIELD),
            },
            0x05 => f.recovery,
            0x06 => u32::from(self.config.namespaces.iter().any(|n| n.backend.write_cache())),
            0x07 => self.queue_count(),
            0x08 => f.coalescing,
            0x09 => {
                let vector = c.word(11) & 0xffff;
                if vector >= u32::from(self.config.vectors.max(1)) {
                    return Err(status::INVALID_FIELD);
                }
                // Nothing is coalesced for the admin queue.
                vector | u32::from(vector == 0) << 16
            }
            0x0a => f.atomicity,
            0x0b => f.events,
            _ => return Err(status::INVALID_FIELD),
        }))
    }

    fn queue_count(&self) -> u32 {
        let n = u32::from(self.config.queues.saturating_sub(1));
        n << 16 | n
    }

    fn set_feature(&mut self, c: &Command) -> Outcome {
        if c.word(10) & 1 << 31 != 0 {
            return Err(refused::NOT_SAVEABLE);
        }
        let v = c.word(11);
        let f = &mut self.state.features;
        match c.word(10) as u8 {
            0x01 => f.arbitration = v,
            0x02 if v & 0x1f == 0 => {}
            0x04 if v >> 16 & 0xf == 0 => f.thresholds[(v >> 20 & 1) as usize] = v & 0xffff,
            0x05 => f.recovery = v,
            0x06 => {
                for n in &self.config.namespaces {
                    n.backend.set_write_cache(v & 1 != 0);
                }
                if v & 1 == 0 && !self.config.namespaces.is_empty() {
                    let all = vec![Op::Flush; self.config.namespaces.len()];
                    let mut everywhere = c.clone();
                    everywhere.0[1] = u32::MAX;
                    return self.start(0, &everywhere, 0, all);
                }
            }
            0x07 if v & 0xffff == 0xffff || v >> 16 == 0xffff => return Err(status::INVALID_FIELD),
            0x07 => return Ok(Some(self.queue_count())),
            0x08 => f.coalescing = v & 0xffff,
            0x09 => {}
            0x0a => f.atomicity = v,
            0x0b => f.events = v,
            _ => {
                return Err(if c.word(10) as u8 == 0x02 {
                    refused::NOT_CHANGEABLE
                } else {
                    status::INVALID_FIELD
                });
            }
        }
        Ok(Some(0))
    }

    /// FORMAT NVM: the blocks read as zeros afterwards.
    fn format(&mut self, c: &Command) -> Outcome {
        // The one format there is, without protection information.
        if c.word(10) & 0xf != 0 || c.word(10) >> 4 & 0x1f != 0 {
            return Err(refused::FORMAT);
        }
        let all = c.namespace() == u32::MAX;
        let found = match all {
            true if self.config.namespaces.len() == 1 => Some((0, &self.config.namespaces[0])),
            true => return Err(status::INVALID_NAMESPACE),
            false => self.namespace(c.namespace()),
        };
        let Some((drive, ns)) = found else { return Err(status::INVALID_NAMESPACE) };
        if ns.backend.read_only() {
            return Err(status::WRITE_PROTECTED);
        }
        let len = ns.backend.len();
        self.start(0, c, drive, vec![Op::WriteZeroes { offset: 0, len, unmap: true }])
    }
}
