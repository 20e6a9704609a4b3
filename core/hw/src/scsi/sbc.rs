//! A disk's commands: SBC-3 on SPC-3.
//!
//! Like [`super::mmc`] it knows nothing of how commands and data travel: `Disk::execute` says what a command comes to.
//!
//! Not modelled: protection information, persistent reservations, long reads and writes, compare and write.

use super::sense::Sense;
use super::spc::{self, Cdb, Identity};
use super::unit::Task;
use crate::block::drive::Op;
use orrery_block::backend::BlockBackend;
use serde::{Deserialize, Serialize};

/// Command codes, SBC-3 chapter 5, besides those of [`spc::op`].
mod op {
    pub(super) use crate::scsi::spc::op::*;

    pub(super) const FORMAT_UNIT: u8 = 0x04;
    pub(super) const READ_6: u8 = 0x08;
    pub(super) const WRITE_6: u8 = 0x0a;
    pub(super) const RESERVE_6: u8 = 0x16;
    pub(super) const RELEASE_6: u8 = 0x17;
    pub(super) const SEND_DIAGNOSTIC: u8 = 0x1d;
    pub(super) const WRITE_10: u8 = 0x2a;
    pub(super) const WRITE_VERIFY_10: u8 = 0x2e;
    pub(super) const WRITE_SAME_10: u8 = 0x41;
    pub(super) const UNMAP: u8 = 0x42;
    pub(super) const RESERVE_10: u8 = 0x56;
    pub(super) const RELEASE_10: u8 = 0x57;
    pub(super) const READ_16: u8 = 0x88;
    pub(super) const WRITE_16: u8 = 0x8a;
    pub(super) const WRITE_VERIFY_16: u8 = 0x8e;
    pub(super) const VERIFY_16: u8 = 0x8f;
    pub(super) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub(super) const WRITE_SAME_16: u8 = 0x93;
    pub(super) const SERVICE_IN_16: u8 = 0x9e;
    pub(super) const WRITE_12: u8 = 0xaa;
    pub(super) const WRITE_VERIFY_12: u8 = 0xae;
    pub(super) const VERIFY_12: u8 = 0xaf;
}

/// Service action: READ CAPACITY (16).
const READ_CAPACITY_16: u8 = 0x10;
/// The most parameters a command may have.
const PARAMETERS: usize = 0x1_0000;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it calls itself; the serial number may be empty.
    pub identity: Identity,
    /// Name of the unit for its device identification page.
    pub device_id: String,
    /// World-wide name; 0: none.
    pub wwn: u64,
    /// World-wide name of its port; 0: none.
    pub port_wwn: u64,
    /// Relative number of its port; 0: none.
    pub port_index: u16,
    /// Logical and physical block size.
    pub block_size: [u32; 2],
    /// Smallest and best transfer, in bytes; 0: not said.
    pub io_size: [u32; 2],
    /// Most bytes of a transfer and of an UNMAP.
    pub most: [u64; 2],
    /// Bytes that are given back together; 0: none are.
    pub discard_granularity: u32,
    /// The medium can be taken out.
    pub removable: bool,
    /// Rotations a minute; 1: it does not rotate, 0: not said.
    pub rotation_rate: u16,
    /// It says that it knows the bits DPO and FUA.
    pub dpofua: bool,
    /// The version of SPC that it claims.
    pub version: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identity: Identity {
                vendor: "QEMU".into(),
                product: "QEMU HARDDISK".into(),
                revision: "2.5+".into(),
                serial: String::new(),
            },
            device_id: String::new(),
            wwn: 0,
            port_wwn: 0,
            port_index: 0,
            block_size: [512; 2],
            io_size: [0; 2],
            most: [i32::MAX as u64, 1 << 30],
            discard_granularity: 4096,
            removable: false,
            rotation_rate: 0,
            dpofua: false,
            version: 5,
        }
    }
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    sense: Sense,
    attention: Option<Sense>,
    locked: bool,
    write_cache: bool,
}

/// The disk.
pub struct Disk {
    config: Config,
    backend: BlockBackend,
    /// The backend's count of media changes, and the capacity, that the guest knows of.
    seen: (u64, u64),
    /// What the guest may observe.
    pub state: State,
}

impl Disk {
    /// A disk in its power-on state.
    pub fn new(config: Config, backend: BlockBackend) -> Self {
        let write_cache = backend.write_cache();
        let seen = (backend.media_generation(), backend.len());
        let state = State { sense: Sense::NONE, attention: None, locked: false, write_cache };
        Self { config, backend, seen, state }
    }

    /// Power-on state.
    pub fn reset(&mut self) {
        let State { write_cache, .. } = self.state;
        self.restore(State { sense: Sense::NONE, attention: None, locked: false, write_cache });
    }

    /// Takes over a restored state.
    pub fn restore(&mut self, state: State) {
        self.state = state;
        self.seen = (self.backend.media_generation(), self.backend.len());
        self.backend.set_write_cache(self.state.write_cache);
        if self.config.removable {
            self.backend.set_locked(self.state.locked);
        }
    }

    /// Keeps `sense` for REQUEST SENSE.
    pub fn set_sense(&mut self, sense: Sense) {
        self.state.sense = sense;
    }

    /// Reports `sense` with the next command that takes notice of it.
    pub fn set_attention(&mut self, sense: Sense) {
        self.state.attention = Some(sense);
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.backend.len() / self.block()
    }

    fn block(&self) -> u64 {
        self.config.block_size[0].into()
    }

    /// Carries out a command block.
    pub(super) fn execute(&mut self, c: Cdb) -> Result<Task, Sense> {
        self.watch_medium();
        let result = self.run(c);
        match &result {
            Err(sense) => {
                tracing::trace!(opcode = c.op(), ?sense, "disk command refused");
                self.state.sense = *sense;
            }
            Ok(_) => self.state.sense = Sense::NONE,
        }
        result
    }

    fn watch_medium(&mut self) {
        let now = (self.backend.media_generation(), self.backend.len());
        if now != self.seen {
            let medium = now.0 != self.seen.0;
            self.seen = now;
            let sense = if medium { Sense::MEDIUM_CHANGED } else { Sense::CAPACITY_CHANGED };
            self.state.attention = Some(sense);
        }
    }

    fn ready(&self) -> Result<(), Sense> {
        match (self.backend.has_medium(), self.backend.tray_open()) {
            (true, _) => Ok(()),
            (_, true) => Err(Sense::TRAY_OPEN),
            _ => Err(Sense::NO_MEDIUM),
        }
    }

    fn run(&mut self, c: Cdb) -> Result<Task, Sense> {
        if !matches!(c.op(), op::INQUIRY | op::REQUEST_SENSE) {
            if let Some(sense) = self.state.attention.take() {
                return Err(sense);
            }
        }
        let data = |d: Vec<u8>, n: usize| Ok(Task::data(d, n));
        match c.op() {
            op::TEST_UNIT_READY => self.ready().map(|()| Task::Done),
            op::REQUEST_SENSE => {
                let sense = self.state.attention.take().unwrap_or(self.state.sense);
                data(sense.fixed().to_vec(), c.u8(4).into())
            }
            op::INQUIRY => data(self.inquiry(c.u8(1), c.u8(2))?, c.u16(3).into()),
            op::MODE_SENSE_6 => data(self.mode_sense(c, false)?, c.u8(4).into()),
            op::MODE_SENSE_10 => data(self.mode_sense(c, true)?, c.u16(7).into()),
            op::MODE_SELECT_6 => self.mode_parameters(c, c.u8(4).into()),
            op::MODE_SELECT_10 => self.mode_parameters(c, c.u16(7).into()),
            op::START_STOP_UNIT => self.start_stop(c.u8(4)),
            op::PREVENT_ALLOW => {
                self.state.locked = c.u8(4) & 1 != 0;
                if self.config.removable {
                    self.backend.set_locked(self.state.locked);
                }
                Ok(Task::Done)
            }
            op::RESERVE_6 | op::RELEASE_6 | op::RESERVE_10 | op::RELEASE_10 => Ok(Task::Done),
            op::SEND_DIAGNOSTIC if c.u16(3) == 0 => Ok(Task::Done),
            op::FORMAT_UNIT if c.u8(1) & 0x10 == 0 => self.writable().map(|()| Task::Done),
            op::READ_CAPACITY => {
                self.ready()?;
                let last = self.blocks().saturating_sub(1).min(u32::MAX.into()) as u32;
                data([last.to_be_bytes(), self.config.block_size[0].to_be_bytes()].concat(), 8)
            }
            op::SERVICE_IN_16 if c.u8(1) & 0x1f == READ_CAPACITY_16 => {
                data(self.capacity_16()?, c.u32(10) as usize)
            }
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => {
                let (offset, len) = self.extent(c)?;
                self.unprotected(c)?;
                Ok(Task::read(offset, len))
            }
            op::WRITE_6
            | op::WRITE_10
            | op::WRITE_12
            | op::WRITE_16
            | op::WRITE_VERIFY_10
            | op::WRITE_VERIFY_12
            | op::WRITE_VERIFY_16 => {
                let (offset, len) = self.extent(c)?;
                self.writable()?;
                self.unprotected(c)?;
                let verify = matches!(
                    c.op(),
                    op::WRITE_VERIFY_10 | op::WRITE_VERIFY_12 | op::WRITE_VERIFY_16
                );
                // The 6-byte command has the address there.
                let fua = verify || c.op() != op::WRITE_6 && c.u8(1) & 8 != 0;
                Ok(Task::Write { offset, len, fua })
            }
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => {
                let (offset, len) = self.extent(c)?;
                match c.u8(1) >> 1 & 3 {
                    0 => Ok(Task::Done),
                    1 => Ok(Task::Compare { offset, len }),
                    _ => Err(Sense::INVALID_FIELD),
                }
            }
            op::SEEK_10 => {
                self.ready()?;
                let there = u64::from(c.u32(2)) < self.blocks();
                there.then_some(Task::Done).ok_or(Sense::LBA_OUT_OF_RANGE)
            }
            op::SYNCHRONIZE_CACHE | op::SYNCHRONIZE_CACHE_16 => {
                self.ready()?;
                Ok(Task::Ops([Op::Flush].into()))
            }
            op::UNMAP => {
                self.writable()?;
                if c.u8(1) & 1 != 0 || self.config.discard_granularity == 0 {
                    return Err(Sense::INVALID_FIELD);
                }
                Ok(Task::parameters(c.u16(7).into()))
            }
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => self.write_same(c),
            _ => Err(Sense::INVALID_OPCODE),
        }
    }

    fn writable(&self) -> Result<(), Sense> {
        self.ready()?;
        if self.backend.read_only() { Err(Sense::WRITE_PROTECTED) } else { Ok(()) }
    }

    /// Protection information is refused.
    fn unprotected(&self, c: Cdb) -> Result<(), Sense> {
        let six = matches!(c.op(), op::READ_6 | op::WRITE_6);
        if six || c.u8(1) & 0xe0 == 0 { Ok(()) } else { Err(Sense::INVALID_FIELD) }
    }

    /// The bytes that a command's blocks are: where they are follows from the length of the command.
    fn extent(&self, c: Cdb) -> Result<(u64, u64), Sense> {
        self.ready()?;
        let (lba, count) = match c.op() >> 5 {
            0 => {
                let count = if c.u8(4) == 0 { 256 } else { c.u8(4).into() };
                (u64::from(c.u32(0) & 0x1f_ffff), count)
            }
            4 => (c.u64(2), c.u32(10).into()),
            5 => (c.u32(2).into(), u64::from(c.u32(6))),
            _ => (c.u32(2).into(), u64::from(c.u16(7))),
        };
        self.bytes(lba, count)
    }

    fn bytes(&self, lba: u64, count: u64) -> Result<(u64, u64), Sense> {
        let end = lba.checked_add(count);
        if end.is_none_or(|end| end > self.blocks()) {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        Ok((lba * self.block(), count * self.block()))
    }

    fn write_same(&self, c: Cdb) -> Result<Task, Sense> {
        let (offset, len) = self.extent(c)?;
        self.writable()?;
        let long = c.op() == op::WRITE_SAME_16;
        let (unmap, no_data) = (c.u8(1) & 8 != 0, long && c.u8(1) & 1 != 0);
        if len == 0 || c.u8(1) & 0xf6 != 0 || c.u8(1) & 1 != 0 && !long {
            return Err(Sense::INVALID_FIELD);
        }
        if no_data {
            return Ok(Task::Ops([Op::WriteZeroes { offset, len, unmap }].into()));
        }
        Ok(Task::parameters(self.block() as usize))
    }

    /// The parameters of a command have come.
    pub(super) fn parameters(&mut self, c: Cdb, data: &[u8]) -> Result<Task, Sense> {
        let result = match c.op() {
            op::MODE_SELECT_6 => self.mode_select(data, 4),
            op::MODE_SELECT_10 => self.mode_select(data, 8),
            op::UNMAP => self.unmap(data),
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => self.same(c, data),
            _ => Ok(Task::Done),
        };
        if let Err(sense) = &result {
            self.state.sense = *sense;
        }
        result
    }

    fn same(&self, c: Cdb, data: &[u8]) -> Result<Task, Sense> {
        let (offset, len) = self.extent(c)?;
        if data.len() as u64 != self.block() {
            return Err(Sense::PARAMETER_LENGTH);
        }
        if data.iter().all(|&b| b == 0) {
            let unmap = c.u8(1) & 8 != 0;
            return Ok(Task::Ops([Op::WriteZeroes { offset, len, unmap }].into()));
        }
        Ok(Task::Same { offset, len, block: data.to_vec() })
    }

    fn unmap(&self, d: &[u8]) -> Result<Task, Sense> {
        if d.is_empty() {
            return Ok(Task::Done);
        }
        let Some((head, list)) = d.split_at_checked(8) else {
            return Err(Sense::PARAMETER_LENGTH);
        };
        let n = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let Some(list) = list.get(..n & !15) else { return Err(Sense::PARAMETER_LENGTH) };
        let mut ops = Vec::new();
        for e in list.as_chunks::<16>().0 {
            let lba = u64::from_be_bytes([e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]]);
            let count = u32::from_be_bytes([e[8], e[9], e[10], e[11]]);
            let (offset, len) = self.bytes(lba, count.into())?;
            if len > 0 {
                ops.push(Op::Discard { offset, len });
            }
        }
        Ok(Task::Ops(ops.into()))
    }

    fn capacity_16(&self) -> Result<Vec<u8>, Sense> {
        self.ready()?;
        let mut d = self.blocks().saturating_sub(1).to_be_bytes().to_vec();
        let [logical, physical] = self.config.block_size;
        d.extend(logical.to_be_bytes());
        d.extend([0, (physical / logical).max(1).ilog2() as u8]);
        // Blocks can be given back.
        d.push(if self.config.discard_granularity != 0 { 0x80 } else { 0 });
        d.resize(32, 0);
        Ok(d)
    }

    fn inquiry(&self, flags: u8, page: u8) -> Result<Vec<u8>, Sense> {
        let config = &self.config;
        if flags & 1 == 0 {
            if page != 0 {
                return Err(Sense::INVALID_FIELD);
            }
            // Hierarchical addresses, format 2; tagged commands and synchronous transfers.
            let head = [config.version, 0x12, 0x12];
            return Ok(spc::standard_inquiry(0, config.removable, head, &config.identity));
        }
        let serial = &config.identity.serial;
        let body = match page {
            0x00 => {
                let has = |page| page != 0x80 || !serial.is_empty();
                [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2].into_iter().filter(|&p| has(p)).collect()
            }
            0x80 if !serial.is_empty() => serial.clone().into_bytes(),
            0x83 => self.identification(),
            0xb0 => self.limits(),
            0xb1 => {
                let mut d = vec![0; 60];
                d[..2].copy_from_slice(&config.rotation_rate.to_be_bytes());
                d
            }
            // Unmaps by UNMAP and by both WRITE SAMEs; thin if it can give blocks back.
            0xb2 => {
                let thin = config.discard_granularity != 0;
                vec![0, if thin { 0xe0 } else { 0 }, if thin { 2 } else { 1 }, 0]
            }
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok(spc::vital_page(0, page, &body))
    }

    fn identification(&self) -> Vec<u8> {
        let config = &self.config;
        let mut d = Vec::new();
        if !config.device_id.is_empty() {
            d.extend(spc::designator(2, 0, config.device_id.as_bytes()));
        }
        if config.wwn != 0 {
            d.extend(spc::designator(1, 3, &config.wwn.to_be_bytes()));
        }
        if config.port_wwn != 0 {
            d.extend(spc::designator(0x61, 0x93, &config.port_wwn.to_be_bytes()));
        }
        if config.port_index != 0 {
            let [high, low] = config.port_index.to_be_bytes();
            d.extend(spc::designator(0x61, 0x94, &[0, 0, high, low]));
        }
        d
    }

    /// Block limits (SBC-3 6.5.3).
    fn limits(&self) -> Vec<u8> {
        let config = &self.config;
        let blocks = |bytes: u64| (bytes / self.block()).min(u32::MAX.into()) as u32;
        let mut d = vec![0; 60];
        let mut put = |at: usize, v: u32| d[at - 4..at].copy_from_slice(&v.to_be_bytes());
        let [smallest, best] = config.io_size.map(|n| blocks(n.into()));
        put(8, blocks(config.most[0]));
        put(12, best);
        if config.discard_granularity != 0 {
            put(20, blocks(config.most[1]));
            put(24, 255);
            put(28, blocks(config.discard_granularity.into()));
        }
        let same = u64::from(blocks(config.most[0]));
        // A WRITE SAME of no blocks is refused.
        d[0] = 1;
        d[2..4].copy_from_slice(&(smallest.min(0xffff) as u16).to_be_bytes());
        d[32..40].copy_from_slice(&same.to_be_bytes());
        d
    }

    fn mode_sense(&self, c: Cdb, long: bool) -> Result<Vec<u8>, Sense> {
        // Which codes of 512-byte blocks that the old geometry pages would hold.
        let cylinders = (self.backend.len() / 512 / (16 * 63)).clamp(2, 0xff_ffff) as u32;
        let [_, high, mid, low] = cylinders.to_be_bytes();
        let mut rigid = vec![0; 24];
        (rigid[0], rigid[1]) = (4, 22);
        rigid[2..6].copy_from_slice(&[high, mid, low, 16]);
        // No landing zone, 5400 rotations a minute.
        rigid[20..22].copy_from_slice(&5400_u16.to_be_bytes());
        let mut caching = vec![0; 20];
        (caching[0], caching[1]) = (8, 18);
        caching[2] = if self.state.write_cache { 4 } else { 0 };
        let mut recovery = vec![0; 12];
        // Automatic reallocation of writes.
        (recovery[0], recovery[1], recovery[2]) = (1, 10, 0x80);
        let pages = [(recovery, vec![]), (rigid, vec![]), (caching, vec![0, 0, 4])];
        let body = spc::mode_pages(c.u8(2), c.u8(3), &pages)?;
        let mut specific = if self.config.dpofua { 0x10 } else { 0 };
        if self.backend.read_only() {
            specific |= 0x80;
        }
        let mut descriptor = Vec::new();
        if c.u8(1) & 8 == 0 && self.backend.has_medium() {
            let blocks = self.blocks().min(0xff_ffff) as u32;
            descriptor.extend(blocks.to_be_bytes());
            descriptor[0] = 0;
            descriptor.extend(self.config.block_size[0].to_be_bytes());
        }
        Ok(spc::mode_data(long, 0, specific, &descriptor, &body))
    }

    fn mode_parameters(&self, c: Cdb, len: usize) -> Result<Task, Sense> {
        // Pages in the standard's format, not saved.
        if c.u8(1) & 0x11 != 0x10 {
            return Err(Sense::INVALID_FIELD);
        }
        Ok(Task::parameters(len.min(PARAMETERS)))
    }

    fn mode_select(&mut self, d: &[u8], head: usize) -> Result<Task, Sense> {
        if d.is_empty() {
            return Ok(Task::Done);
        }
        let Some(header) = d.get(..head) else { return Err(Sense::PARAMETER_LENGTH) };
        let descriptors = match head {
            4 => usize::from(header[3]),
            _ => usize::from(u16::from_be_bytes([header[6], header[7]])),
        };
        if !matches!(descriptors, 0 | 8) {
            return Err(Sense::INVALID_PARAMETER);
        }
        let mut rest = d.get(head + descriptors..).ok_or(Sense::PARAMETER_LENGTH)?;
        while let [code, len, ..] = *rest {
            let end = 2 + usize::from(len);
            let page = rest.get(..end).ok_or(Sense::PARAMETER_LENGTH)?;
            match (code & 0x7f, len) {
                (8, 18) => {
                    self.state.write_cache = page[2] & 4 != 0;
                    self.backend.set_write_cache(self.state.write_cache);
                }
                (1, 10) | (4, 22) => {}
                _ => return Err(Sense::INVALID_PARAMETER),
            }
            rest = &rest[end..];
        }
        Ok(Task::Ops([Op::Flush].into()))
    }

    fn start_stop(&mut self, flags: u8) -> Result<Task, Sense> {
        let (start, load_eject) = (flags & 1 != 0, flags & 2 != 0);
        if flags >> 4 == 0 && load_eject && self.config.removable {
            if !start && !self.backend.tray_open() && self.state.locked {
                return Err(Sense::REMOVAL_PREVENTED);
            }
            self.backend.set_tray_open(!start);
            self.watch_medium();
        }
        Ok(Task::Done)
    }
}
