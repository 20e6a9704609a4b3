//! An ATA drive, without the cable: task file, commands, and the data each command moves.
//!
//! Reference: ATA/ATAPI-7 volume 1 (T13/1532D) and ATA8-ACS. The drive does not know whether a
//! parallel channel, a bus master or AHCI talks to it. It offers the task file, says in
//! [`Phase`] what it waits for, and asks for backend operations through [`Drive::take_op`].
//!
//! Not modelled: security, host protected area (SET MAX), queued commands of the parallel
//! interface, streaming.

mod data;
mod features;
mod sectors;

use super::atapi;
use crate::block::drive::Op;
use crate::scsi::mmc;
use crate::scsi::spc::Identity;
use bitflags::bitflags;
use orrery_block::backend::BlockBackend;
use serde::{Deserialize, Serialize};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Most sectors of a DRQ block in the MULTIPLE commands.
pub(super) const MAX_MULTIPLE: u8 = 16;
/// Most sectors moved by one backend operation.
const CHUNK: u32 = 256;

/// The status register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status(u8);

bitflags! {
    impl Status: u8 {
        /// Busy: the other bits mean nothing.
        const BSY = 0x80;
        /// Ready for commands.
        const DRDY = 0x40;
        /// Device fault.
        const DF = 0x20;
        /// Seek complete.
        const DSC = 0x10;
        /// Data to be moved.
        const DRQ = 0x08;
        /// Error, or check condition.
        const ERR = 0x01;
    }
}

const READY: Status = Status::DRDY.union(Status::DSC);

/// Error register: aborted.
pub const ABRT: u8 = 0x04;
/// Error register: address not found.
const IDNF: u8 = 0x10;
/// Error register: uncorrectable data.
const UNC: u8 = 0x40;

/// What sort of drive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A hard disk: `ide-hd`.
    Disk,
    /// A CD-ROM drive: `ide-cd`.
    Cdrom,
}

/// Cylinders, heads and sectors of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Cylinders, to 65535.
    pub cylinders: u16,
    /// Heads, to 16.
    pub heads: u8,
    /// Sectors of a track, to 255.
    pub sectors: u8,
}

/// Settings of one drive.
#[derive(Clone, Debug)]
pub struct Config {
    /// Disk or CD-ROM.
    pub kind: Kind,
    /// Model name, to 40 characters.
    pub model: String,
    /// Serial number, to 20 characters.
    pub serial: String,
    /// Firmware revision, to 8 characters.
    pub firmware: String,
    /// World-wide name; 0 if it has none.
    pub wwn: u64,
    /// Geometry; computed from the size where the user gave none.
    pub geometry: Option<Geometry>,
    /// Accepts TRIM.
    pub discard: bool,
    /// 0 unknown, 1 not rotating, else revolutions a minute.
    pub rotation_rate: u16,
    /// Sits on a serial link with native command queueing (AHCI).
    pub ncq: bool,
}

impl Config {
    /// The usual disk number `n` of the machine.
    pub fn disk(n: u32) -> Self {
        Self {
            kind: Kind::Disk,
            model: "QEMU HARDDISK".into(),
            serial: format!("QM{:05}", n + 1),
            firmware: "2.5+".into(),
            wwn: 0,
            geometry: None,
            discard: true,
            rotation_rate: 0,
            ncq: false,
        }
    }

    /// The usual CD-ROM drive as drive number `n`.
    pub fn cdrom(n: u32) -> Self {
        Self { kind: Kind::Cdrom, model: "QEMU DVD-ROM".into(), ..Self::disk(n) }
    }
}

/// The task file. Each register remembers the byte written before (ATA/ATAPI-7 6.20): the older
/// one is in the high byte, and 48-bit commands use both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFile {
    /// Features.
    pub feature: u16,
    /// Sector count; interrupt reason of a packet command.
    pub count: u16,
    /// LBA 7:0, sector number.
    pub low: u16,
    /// LBA 15:8, cylinder low; byte count low of a packet command.
    pub mid: u16,
    /// LBA 23:16, cylinder high; byte count high.
    pub high: u16,
    /// Device and head.
    pub device: u8,
    /// Status.
    pub status: Status,
    /// Error.
    pub error: u8,
}

/// What the drive waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// A command.
    #[default]
    Idle,
    /// Its backend operation.
    Busy,
    /// The host to read the DRQ block: [`Drive::pio_in`].
    PioIn,
    /// The host to write the DRQ block: [`Drive::pio_out`].
    PioOut,
    /// The bus master to take data: [`Drive::dma_in`].
    DmaIn,
    /// The bus master to bring data: [`Drive::dma_out`].
    DmaOut,
}

/// The command being carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Job {
    /// None that needs more steps.
    #[default]
    None,
    /// Reading sectors: the next to ask for, how many are left, sectors of a DRQ block.
    Read {
        lba: u64,
        left: u32,
        block: u32,
        dma: bool,
    },
    /// Checking that sectors can be read.
    Verify {
        lba: u64,
        left: u32,
    },
    /// Writing sectors: the next to be filled.
    Write {
        lba: u64,
        left: u32,
        block: u32,
        dma: bool,
    },
    /// Making writes stable.
    Flush,
    /// A block of data for the host and nothing after it.
    Block,
    /// WRITE BUFFER: a block of data nobody keeps.
    Sink,
    /// TRIM: receiving the ranges, then discarding them one after the other.
    TrimList,
    Trim {
        ranges: Vec<(u64, u64)>,
    },
    /// A packet command (see `atapi`).
    Packet(atapi::Job),
}

/// A queued command that failed (ATA8-ACS A.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuedError {
    /// Its tag.
    pub tag: u8,
    /// Error register.
    pub error: u8,
    /// Where it failed.
    pub lba: u64,
}

/// Everything the guest can observe of one drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The registers.
    pub regs: TaskFile,
    /// What it waits for.
    pub phase: Phase,
    /// Interrupt request, before the host's enable bit.
    pub intrq: bool,
    pub(super) job: Job,
    /// Data of the current DRQ block or DMA burst.
    pub(super) buf: Vec<u8>,
    /// How much of it has moved, and where the DRQ block ends.
    pub(super) pos: usize,
    pub(super) end: usize,
    /// Backend operation to be submitted.
    pub(super) want: Option<Op>,
    /// Sectors of a DRQ block in the MULTIPLE commands.
    pub(super) multiple: u8,
    pub(super) translation: Geometry,
    /// The command running has a 48-bit address.
    pub(super) ext: bool,
    pub(super) write_cache: bool,
    pub(super) smart: bool,
    /// Transfer mode as SET FEATURES names it.
    pub(super) mode: u8,
    /// The queued command that failed last: log page 0x10.
    pub(super) queued_error: Option<QueuedError>,
    pub(super) cd: mmc::State,
}

impl State {
    /// IDENTIFY word 63: multiword DMA modes and which is selected.
    pub(super) fn mwdma_word(&self) -> u16 {
        let selected = if self.mode >> 3 == 4 { 0x100 << (self.mode & 7).min(2) } else { 0 };
        0x07 | selected
    }

    /// IDENTIFY word 88: Ultra DMA modes and which is selected.
    pub(super) fn udma_word(&self) -> u16 {
        let selected = if self.mode >> 3 == 8 { 0x100 << (self.mode & 7).min(5) } else { 0 };
        0x3f | selected
    }
}

/// A drive.
pub struct Drive {
    pub(super) config: Config,
    pub(super) backend: BlockBackend,
    pub(super) cd: mmc::Cdrom,
    /// What the guest can observe; [`Drive::save`] completes it.
    pub(super) state: State,
}

impl Drive {
    /// A drive in its power-on state.
    pub fn new(config: Config, backend: BlockBackend) -> Self {
        let identity = Identity {
            vendor: "QEMU".into(),
            product: config.model.clone(),
            revision: config.firmware.clone(),
            serial: config.serial.clone(),
        };
        let cd = mmc::Cdrom::new(identity, backend.clone());
        let state = State {
            regs: TaskFile::default(),
            phase: Phase::Idle,
            intrq: false,
            job: Job::None,
            buf: Vec::new(),
            pos: 0,
            end: 0,
            want: None,
            multiple: 0,
            translation: Geometry { cylinders: 1, heads: 1, sectors: 1 },
            ext: false,
            write_cache: true,
            smart: true,
            mode: 0,
            queued_error: None,
            cd: mmc::State::default(),
        };
        let mut drive = Self { config, backend, cd, state };
        drive.reset();
        drive
    }

    /// Power-on or hardware reset.
    pub fn reset(&mut self) {
        let s = &mut self.state;
        s.multiple = MAX_MULTIPLE;
        (s.write_cache, s.smart) = (true, true);
        // Ultra DMA 5 is what firmware would set.
        s.mode = 0x45;
        self.backend.set_write_cache(true);
        self.state.translation = self.geometry();
        if self.config.kind == Kind::Cdrom {
            self.cd.reset();
        }
        self.soft_reset();
    }

    /// SRST, DEVICE RESET or EXECUTE DEVICE DIAGNOSTIC: drops the command and shows the
    /// signature.
    pub fn soft_reset(&mut self) {
        let s = &mut self.state;
        s.regs = TaskFile::default();
        (s.phase, s.job, s.want, s.intrq) = (Phase::Idle, Job::None, None, false);
        s.ext = false;
        s.queued_error = None;
        s.buf = Vec::new();
        (s.pos, s.end) = (0, 0);
        self.signature();
        // Diagnostics passed.
        self.state.regs.error = 1;
    }

    /// The signature (ATA/ATAPI-7 9.12).
    fn signature(&mut self) {
        let r = &mut self.state.regs;
        (r.count, r.low, r.device) = (1, 1, 0);
        match self.config.kind {
            Kind::Disk => (r.mid, r.high, r.status) = (0, 0, READY),
            Kind::Cdrom => (r.mid, r.high, r.status) = (0x14, 0xeb, Status::empty()),
        }
    }

    /// Its state, for a snapshot.
    pub fn save(&self) -> State {
        State { cd: self.cd.state.clone(), ..self.state.clone() }
    }

    /// Whether a saved state can be this drive's.
    pub fn accepts(&self, s: &State) -> bool {
        s.pos <= s.end
            && s.end <= s.buf.len()
            && s.translation.heads != 0
            && s.translation.sectors != 0
    }

    /// Takes over a saved state.
    pub fn restore(&mut self, state: State) {
        self.cd.restore(state.cd.clone());
        self.state = state;
        self.backend.set_write_cache(self.state.write_cache);
    }

    /// The registers.
    pub fn regs(&self) -> &TaskFile {
        &self.state.regs
    }

    /// The registers, to be written by the host.
    pub fn regs_mut(&mut self) -> &mut TaskFile {
        &mut self.state.regs
    }

    /// What the drive waits for.
    pub fn phase(&self) -> Phase {
        self.state.phase
    }

    /// Whether it requests an interrupt.
    pub fn intrq(&self) -> bool {
        self.state.intrq
    }

    /// Takes the request back, as reading the status register does.
    pub fn clear_intrq(&mut self) {
        self.state.intrq = false;
    }

    /// Disk or CD-ROM.
    pub fn kind(&self) -> Kind {
        self.config.kind
    }

    /// Its backend.
    pub fn backend(&self) -> &BlockBackend {
        &self.backend
    }

    /// Sectors of the disk.
    pub fn sectors(&self) -> u64 {
        (self.backend.len() / SECTOR).min((1 << 48) - 1)
    }

    /// The geometry it was built with.
    pub(super) fn geometry(&self) -> Geometry {
        self.config.geometry.unwrap_or_else(|| {
            let cylinders = (self.sectors() / (16 * 63)).clamp(2, 16383) as u16;
            Geometry { cylinders, heads: 16, sectors: 63 }
        })
    }

    pub(super) fn translated_cylinders(&self) -> u16 {
        let t = self.state.translation;
        let track = u64::from(t.heads) * u64::from(t.sectors);
        let all = u64::from(self.geometry().cylinders)
            * u64::from(self.geometry().heads)
            * u64::from(self.geometry().sectors);
        (all / track.max(1)).min(0xffff) as u16
    }

    // The host's side of a command.

    /// Writes the command register.
    pub fn command(&mut self, code: u8) {
        let busy = self.state.regs.status.intersects(Status::BSY | Status::DRQ);
        let resets = code == 0x08 && self.config.kind == Kind::Cdrom;
        // A busy drive takes no command but DEVICE RESET.
        if busy && !resets {
            return;
        }
        self.state.intrq = false;
        self.state.regs.error = 0;
        self.state.regs.status = READY;
        self.state.job = Job::None;
        tracing::trace!(code, lba = self.lba28(), count = self.state.regs.count, "ATA command");
        match self.config.kind {
            Kind::Disk => self.disk_command(code),
            Kind::Cdrom => self.packet_device_command(code),
        }
    }

    fn disk_command(&mut self, code: u8) {
        match code {
            0x10..=0x1f | 0x70..=0x7f => self.done(),
            0x20 | 0x21 => self.read(false, 1, false),
            0x24 => self.read(true, 1, false),
            0x25 => self.read(true, 1, true),
            0x29 => self.multiple(true, Self::read),
            0x30 | 0x31 | 0x3c => self.write(false, 1, false),
            0x34 => self.write(true, 1, false),
            0x35 => self.write(true, 1, true),
            0x39 => self.multiple(true, Self::write),
            0x40 | 0x41 => self.verify(false),
            0x42 => self.verify(true),
            0xc4 => self.multiple(false, Self::read),
            0xc5 => self.multiple(false, Self::write),
            0xc8 | 0xc9 => self.read(false, 1, true),
            0xca | 0xcb => self.write(false, 1, true),
            0x06 => self.data_set_management(),
            0x27 | 0xf8 => self.read_native_max(code == 0x27),
            0x2f => self.read_log(),
            0x90 => self.diagnose(),
            0x91 => self.initialize_parameters(),
            0x94..=0x97 | 0x99 | 0xe0..=0xe3 | 0xe6 => self.done(),
            0x98 | 0xe5 => {
                // Active or idle.
                self.state.regs.count = 0xff;
                self.done();
            }
            0xb0 => self.smart(),
            0xc6 => self.set_multiple(),
            0xe4 => self.answer(vec![0; 512]),
            0xe7 | 0xea => {
                self.state.job = Job::Flush;
                self.ask(Op::Flush);
            }
            0xe8 => {
                self.state.job = Job::Sink;
                self.expect_pio(512, false);
            }
            0xec => self.answer(self.identify()),
            0xef => self.set_features(),
            _ => self.abort(),
        }
    }

    fn packet_device_command(&mut self, code: u8) {
        match code {
            0x08 => {
                self.soft_reset();
                self.state.regs.status = Status::empty();
            }
            0x20 | 0x21 | 0xec => {
                // These abort, and show what sort of device this is.
                self.signature();
                self.state.regs.status = READY;
                self.abort();
            }
            0x90 => self.diagnose(),
            0x94..=0x97 | 0x99 | 0xe0..=0xe3 | 0xe6 => self.done(),
            0x98 | 0xe5 => {
                self.state.regs.count = 0xff;
                self.done();
            }
            0xa0 => self.packet(),
            0xa1 => self.answer(self.identify()),
            0xef => self.set_features(),
            _ => self.abort(),
        }
    }

    /// Ends the command well.
    pub(super) fn done(&mut self) {
        let s = &mut self.state;
        s.regs.status = READY;
        s.regs.error = 0;
        (s.phase, s.job) = (Phase::Idle, Job::None);
        s.buf = Vec::new();
        (s.pos, s.end) = (0, 0);
        s.intrq = true;
    }

    /// Ends the command with `error`.
    pub(super) fn fail(&mut self, error: u8) {
        self.done();
        self.state.regs.status = READY | Status::ERR;
        self.state.regs.error = error;
    }

    /// Ends the command with "aborted".
    pub(super) fn abort(&mut self) {
        self.fail(ABRT);
    }

    /// Starts a backend operation.
    pub(super) fn ask(&mut self, op: Op) {
        self.state.phase = Phase::Busy;
        self.state.regs.status = READY | Status::BSY;
        self.state.want = Some(op);
    }

    /// Gives the host a block by PIO, and ends the command with it.
    fn answer(&mut self, data: Vec<u8>) {
        self.state.job = Job::Block;
        self.offer_pio(data, usize::MAX);
    }

    /// Gives the host `data` by PIO, in DRQ blocks of `block` bytes.
    pub(super) fn offer_pio(&mut self, data: Vec<u8>, block: usize) {
        let s = &mut self.state;
        (s.pos, s.end) = (0, block.min(data.len()));
        s.buf = data;
        s.phase = Phase::PioIn;
        s.regs.status = READY | Status::DRQ;
        s.intrq = true;
    }

    /// Expects `len` bytes from the host by PIO.
    pub(super) fn expect_pio(&mut self, len: usize, interrupt: bool) {
        let s = &mut self.state;
        (s.pos, s.end, s.buf) = (0, len, vec![0; len]);
        s.phase = Phase::PioOut;
        s.regs.status = READY | Status::DRQ;
        s.intrq = interrupt;
    }

    pub(super) fn offer_dma(&mut self, data: Vec<u8>) {
        let s = &mut self.state;
        (s.pos, s.end) = (0, data.len());
        s.buf = data;
        s.phase = Phase::DmaIn;
        s.regs.status = READY | Status::DRQ;
    }

    fn expect_dma(&mut self, len: usize) {
        self.expect_pio(len, false);
        self.state.phase = Phase::DmaOut;
    }

    // Addresses.

    fn lba28(&self) -> u64 {
        let r = &self.state.regs;
        u64::from(r.low & 0xff)
            | u64::from(r.mid & 0xff) << 8
            | u64::from(r.high & 0xff) << 16
            | u64::from(r.device & 0xf) << 24
    }

    /// First sector and number of sectors of the command; `None` if the address makes no sense.
    fn range(&mut self, ext: bool) -> Option<(u64, u32)> {
        self.state.ext = ext;
        let r = &self.state.regs;
        let (lba, count) = if ext {
            let part =
                |reg: u16, at: u32| u64::from(reg & 0xff) << at | u64::from(reg >> 8) << (at + 24);
            let count = if r.count == 0 { 0x1_0000 } else { u32::from(r.count) };
            (part(r.low, 0) | part(r.mid, 8) | part(r.high, 16), count)
        } else {
            // On a serial link a frame carries all sixteen bits, and QEMU's drives heed them.
            let count = if self.config.ncq { r.count } else { r.count & 0xff };
            let count = if count == 0 { 256 } else { u32::from(count) };
            let lba = if r.device & 0x40 != 0 {
                self.lba28()
            } else {
                let t = self.state.translation;
                let cylinder = u64::from(r.mid & 0xff) | u64::from(r.high & 0xff) << 8;
                let (head, sector) = (u64::from(r.device & 0xf), u64::from(r.low & 0xff));
                if sector == 0 || sector > t.sectors.into() || head >= t.heads.into() {
                    return None;
                }
                (cylinder * u64::from(t.heads) + head) * u64::from(t.sectors) + sector - 1
            };
            (lba, count)
        };
        (lba + u64::from(count) <= self.sectors()).then_some((lba, count))
    }

    /// Writes the address of sector `lba` into the registers, in the form the command used.
    fn show_lba(&mut self, lba: u64, ext: bool) {
        let t = self.state.translation;
        let r = &mut self.state.regs;
        let both = |at: u32| (lba >> at & 0xff) as u16 | ((lba >> (at + 24) & 0xff) as u16) << 8;
        if ext {
            (r.low, r.mid, r.high) = (both(0), both(8), both(16));
        } else if r.device & 0x40 != 0 {
            (r.low, r.mid, r.high) = (both(0) & 0xff, both(8) & 0xff, both(16) & 0xff);
            r.device = r.device & 0xf0 | (lba >> 24 & 0xf) as u8;
        } else {
            let (heads, sectors) = (u64::from(t.heads), u64::from(t.sectors));
            let cylinder = (lba / (heads * sectors)) as u16;
            r.low = (lba % sectors) as u16 + 1;
            (r.mid, r.high) = (cylinder & 0xff, cylinder >> 8);
            r.device = r.device & 0xf0 | (lba / sectors % heads) as u8;
        }
    }

    /// Shows how far the command came.
    fn progress(&mut self, lba: u64, left: u32) {
        self.show_lba(lba, self.state.ext);
        self.state.regs.count = left as u16;
    }
}
