//! A unit on a SCSI bus: a disk or a CD-ROM drive, and what a command of it comes to.

use super::mmc::{self, Cdrom, Frame};
use super::sbc::{self, Disk};
use super::sense::Sense;
use super::spc::{Cdb, Identity};
use crate::block::drive::{DriveError, Op};
use orrery_block::backend::BlockBackend;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What sort of unit.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A disk (`scsi-hd`).
    Disk(sbc::Config),
    /// A CD-ROM drive (`scsi-cd`).
    Cdrom(Identity),
}

/// A unit as it is plugged in.
#[derive(Clone, Debug)]
pub struct UnitConfig {
    /// Where on the bus.
    pub at: super::Address,
    /// What it is.
    pub kind: Kind,
    /// Where its data is.
    pub backend: BlockBackend,
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Good, no data.
    Done,
    /// Good, after this data.
    Data(Vec<u8>),
    /// Good, after these bytes of the medium; `lba` is their first block where frames are asked for.
    Read { offset: u64, len: u64, lba: u32, frame: Frame },
    /// Takes these bytes of the medium from the initiator.
    Write { offset: u64, len: u64, fua: bool },
    /// Compares them.
    Compare { offset: u64, len: u64 },
    /// Writes one block to all.
    Same { offset: u64, len: u64, block: Vec<u8> },
    /// Needs this many bytes of parameters first.
    Parameters(usize),
    /// Good, after these operations.
    Ops(VecDeque<Op>),
}

impl Task {
    /// Data cut to the allocation length.
    pub(super) fn data(mut bytes: Vec<u8>, allocation: usize) -> Self {
        bytes.truncate(allocation);
        if bytes.is_empty() { Self::Done } else { Self::Data(bytes) }
    }

    pub(super) fn parameters(len: usize) -> Self {
        // Without parameters the command has nothing to do.
        if len == 0 { Self::Done } else { Self::Parameters(len) }
    }

    pub(super) fn read(offset: u64, len: u64) -> Self {
        if len == 0 { Self::Done } else { Self::Read { offset, len, lba: 0, frame: Frame::Data } }
    }
}

/// Everything the guest can observe of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// Of a disk.
    Disk(sbc::State),
    /// Of a CD-ROM drive.
    Cdrom(mmc::State),
}

enum Device {
    Disk(Box<Disk>),
    Cdrom(Box<Cdrom>),
}

/// A unit.
pub(super) struct Unit {
    pub(super) at: super::Address,
    device: Device,
}

impl Unit {
    pub(super) fn new(config: UnitConfig) -> Self {
        let UnitConfig { at, kind, backend } = config;
        let device = match kind {
            Kind::Disk(config) => Device::Disk(Box::new(Disk::new(config, backend))),
            Kind::Cdrom(identity) => Device::Cdrom(Box::new(Cdrom::on_scsi(identity, backend))),
        };
        let mut unit = Self { at, device };
        unit.set_attention(Sense::RESET);
        unit
    }

    pub(super) fn reset(&mut self) {
        match &mut self.device {
            Device::Disk(d) => d.reset(),
            Device::Cdrom(c) => c.reset(),
        }
        self.set_attention(Sense::RESET);
    }

    pub(super) fn save(&self) -> State {
        match &self.device {
            Device::Disk(d) => State::Disk(d.state.clone()),
            Device::Cdrom(c) => State::Cdrom(c.state.clone()),
        }
    }

    /// Whether `state` is of such a unit.
    pub(super) fn accepts(&self, state: &State) -> bool {
        matches!(
            (&self.device, state),
            (Device::Disk(_), State::Disk(_)) | (Device::Cdrom(_), State::Cdrom(_))
        )
    }

    pub(super) fn restore(&mut self, state: State) {
        match (&mut self.device, state) {
            (Device::Disk(d), State::Disk(s)) => d.restore(s),
            (Device::Cdrom(c), State::Cdrom(s)) => c.restore(s),
            _ => {}
        }
    }

    pub(super) fn set_attention(&mut self, sense: Sense) {
        match &mut self.device {
            Device::Disk(d) => d.set_attention(sense),
            Device::Cdrom(c) => c.set_attention(sense),
        }
    }

    pub(super) fn set_sense(&mut self, sense: Sense) {
        match &mut self.device {
            Device::Disk(d) => d.set_sense(sense),
            Device::Cdrom(c) => c.set_sense(sense),
        }
    }

    /// Bytes of a block as commands count them.
    pub(super) fn execute(&mut self, c: Cdb) -> Result<Task, Sense> {
        let reply = match &mut self.device {
            Device::Disk(d) => return d.execute(c),
            Device::Cdrom(cd) => cd.execute(&c.0),
        };
        Ok(match reply {
            mmc::Reply::Done => Task::Done,
            mmc::Reply::Check(sense) => return Err(sense),
            mmc::Reply::Data(d) => Task::Data(d),
            mmc::Reply::Read { lba, count, frame } => {
                let (offset, len) = (u64::from(lba) * mmc::BLOCK, u64::from(count) * mmc::BLOCK);
                Task::Read { offset, len, lba, frame }
            }
        })
    }

    pub(super) fn parameters(&mut self, c: Cdb, data: &[u8]) -> Result<Task, Sense> {
        match &mut self.device {
            Device::Disk(d) => d.parameters(c, data),
            Device::Cdrom(_) => Ok(Task::Done),
        }
    }
}

/// What a failed operation is to the guest.
pub(super) fn sense_of(e: DriveError, read: bool) -> Sense {
    match e {
        DriveError::NoMedium => Sense::NO_MEDIUM,
        DriveError::ReadOnly => Sense::WRITE_PROTECTED,
        DriveError::OutOfRange => Sense::LBA_OUT_OF_RANGE,
        DriveError::NoSpace => Sense::NO_SPACE,
        DriveError::Failed if read => Sense::READ_ERROR,
        DriveError::Failed => Sense::WRITE_ERROR,
    }
}
