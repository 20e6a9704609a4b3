//! The controller's commands (290166 chapter 6).

use super::{Fdc, Phase};
use crate::block::drive::{DriveError, Op};
use serde::{Deserialize, Serialize};

const SECTOR: u64 = 512;

/// Status 0: abnormal termination.
const ST0_ABNORMAL: u8 = 0x40;
/// Status 0: no such command.
const ST0_INVALID: u8 = 0x80;
/// Status 0: seek ended.
const ST0_SEEK: u8 = 0x20;
/// Status 0: no track 0 signal, or no drive.
const ST0_CHECK: u8 = 0x10;
/// Status 1: no address mark.
const ST1_MA: u8 = 0x01;
/// Status 1: write-protected.
const ST1_NW: u8 = 0x02;
/// Status 1: no such sector.
const ST1_ND: u8 = 0x04;
/// Status 1: data error.
const ST1_DE: u8 = 0x20;
/// Status 2: data error in the data field.
const ST2_DD: u8 = 0x20;
/// Status 2: wrong cylinder.
const ST2_WC: u8 = 0x10;

/// CONFIGURE: implied seek.
const EIS: u8 = 0x40;

/// The commands, by function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Transfer(Kind),
    Specify,
    SenseDrive,
    Recalibrate,
    SenseInterrupt,
    ReadId,
    Seek,
    RelativeSeek { inward: bool },
    Version,
    PartId,
    Perpendicular,
    Configure,
    Lock(bool),
    DumpRegisters,
    PowerDown,
    Option,
    DriveSpecification,
    Invalid,
}

/// Which way the data of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Read,
    Write,
    Verify,
    Format,
}

/// A transfer being carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exec {
    pub(crate) kind: Kind,
    pub(crate) drive: u8,
    /// Data is moving between host and controller; else the disk is at work.
    pub(crate) moving: bool,
    pub(crate) buf: Vec<u8>,
    pub(crate) pos: usize,
    /// READ ID rather than a transfer.
    id: bool,
    multitrack: bool,
    /// The transfer goes on with the next tracks.
    runs_on: bool,
    /// Sector the command began with.
    cylinder: u8,
    head: u8,
    sector: u8,
    eot: u8,
    /// Filler byte of FORMAT TRACK.
    filler: u8,
    /// Stretches of the image still to be read or written: first sector, number of sectors.
    ranges: Vec<(u64, u32)>,
    /// Bytes of the transfer that reached the disk.
    stored: usize,
}

impl Command {
    pub(crate) fn decode(code: u8) -> Self {
        match code {
            0x03 => Self::Specify,
            0x04 => Self::SenseDrive,
            0x07 => Self::Recalibrate,
            0x08 => Self::SenseInterrupt,
            0x0e => Self::DumpRegisters,
            0x0f => Self::Seek,
            0x10 => Self::Version,
            0x12 => Self::Perpendicular,
            0x13 => Self::Configure,
            0x14 => Self::Lock(false),
            0x94 => Self::Lock(true),
            0x17 => Self::PowerDown,
            0x18 => Self::PartId,
            0x33 => Self::Option,
            0x8e => Self::DriveSpecification,
            0x8f => Self::RelativeSeek { inward: false },
            0xcf => Self::RelativeSeek { inward: true },
            // The upper bits are multitrack, MFM and skip.
            _ => match code & 0x1f {
                0x02 | 0x06 | 0x0c => Self::Transfer(Kind::Read),
                0x05 | 0x09 => Self::Transfer(Kind::Write),
                0x16 => Self::Transfer(Kind::Verify),
                0x0d => Self::Transfer(Kind::Format),
                0x0a => Self::ReadId,
                _ => Self::Invalid,
            },
        }
    }

    /// Bytes of the command with its parameters.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Transfer(Kind::Format) | Self::DriveSpecification => 6,
            Self::Transfer(_) => 9,
            Self::Configure => 4,
            Self::Specify | Self::Seek | Self::RelativeSeek { .. } => 3,
            Self::SenseDrive
            | Self::Recalibrate
            | Self::ReadId
            | Self::Perpendicular
            | Self::PowerDown
            | Self::Option => 2,
            Self::SenseInterrupt
            | Self::Version
            | Self::PartId
            | Self::Lock(_)
            | Self::DumpRegisters
            | Self::Invalid => 1,
        }
    }
}

impl Fdc {
    fn result(&mut self, bytes: &[u8]) {
        self.state.phase = Phase::Result(bytes.iter().rev().copied().collect());
    }

    fn idle(&mut self) {
        self.state.phase = Phase::Command(Vec::new());
    }

    /// Ends a command whose result is not read, with an interrupt that SENSE INTERRUPT STATUS
    /// explains.
    fn moved_heads(&mut self, st0: u8) {
        self.idle();
        self.state.interrupt = true;
        self.state.senses = vec![st0];
    }

    /// Carries out a complete command.
    pub(crate) fn run(&mut self, bytes: &[u8]) {
        let param = |i: usize| bytes.get(i).copied().unwrap_or(0);
        let unit = param(1) & 3;
        let n = usize::from(unit);
        let command = Command::decode(param(0));
        tracing::trace!(?command, ?bytes, "floppy command");
        match command {
            Command::Transfer(Kind::Format) => self.format(bytes),
            Command::Transfer(kind) => self.transfer(kind, bytes),
            Command::Specify => {
                self.state.specify = [param(1), param(2)];
                self.idle();
            }
            Command::SenseDrive => {
                let track0 = self.state.drives.get(n).is_some_and(|d| d.track == 0);
                let protected = self.medium(n).is_some_and(|(b, _)| b.read_only());
                let bits = u8::from(protected) << 6 | u8::from(track0 && self.has_drive(n)) << 4;
                // Ready and two-sided are constants of this wiring.
                self.result(&[bits | 0x28 | param(1) & 7]);
            }
            Command::Recalibrate => {
                let st0 = ST0_SEEK | unit;
                if self.has_drive(n) {
                    self.step(n, 0);
                    self.moved_heads(st0);
                } else {
                    self.moved_heads(st0 | ST0_ABNORMAL | ST0_CHECK);
                }
            }
            Command::Seek => {
                self.step(n, param(2));
                self.moved_heads(ST0_SEEK | param(1) & 7);
            }
            Command::RelativeSeek { inward } => {
                let track = self.state.drives.get(n).map_or(0, |d| d.track);
                let to = if inward {
                    track.saturating_add(param(2))
                } else {
                    track.saturating_sub(param(2))
                };
                self.step(n, to);
                self.moved_heads(ST0_SEEK | param(1) & 7);
            }
            Command::SenseInterrupt => match self.state.senses.pop() {
                Some(st0) => {
                    self.state.interrupt = false;
                    let track = self.state.drives.get(usize::from(st0 & 3)).map_or(0, |d| d.track);
                    self.result(&[st0, track]);
                }
                None => self.result(&[ST0_INVALID]),
            },
            Command::ReadId => {
                let mfm = param(0) & 0x40 != 0;
                let found = mfm && self.medium(n).is_some_and(|(_, f)| f.rate == self.state.rate);
                let mut e = self.exec(Kind::Read, param(1), false);
                e.id = found;
                self.state.phase = Phase::Execute(e);
                self.wake_for_read_id();
            }
            Command::Version => self.result(&[0x90]),
            Command::PartId => self.result(&[0x41]),
            Command::Perpendicular => {
                let value = param(1);
                // Bit 7 lets the drive bits be overwritten.
                self.state.perpendicular = if value & 0x80 != 0 {
                    value & 0x3f
                } else {
                    self.state.perpendicular & 0x3c | value & 3
                };
                self.idle();
            }
            Command::Configure => {
                self.state.configure = [param(2), param(3)];
                self.idle();
            }
            Command::Lock(on) => {
                self.state.lock = on;
                self.result(&[u8::from(on) << 4]);
            }
            Command::DumpRegisters => {
                let s = &self.state;
                let dump = [
                    s.drives[0].track,
                    s.drives[1].track,
                    0,
                    0,
                    s.specify[0],
                    s.specify[1],
                    s.eot,
                    u8::from(s.lock) << 7 | s.perpendicular,
                    s.configure[0],
                    s.configure[1],
                ];
                self.result(&dump);
            }
            Command::PowerDown => self.result(&[param(1)]),
            Command::Option | Command::DriveSpecification => self.idle(),
            Command::Invalid => self.result(&[ST0_INVALID]),
        }
    }

    /// Moves the heads: a step makes a drive with a disk in it forget that it was changed.
    fn step(&mut self, n: usize, track: u8) {
        if !self.has_drive(n) {
            return;
        }
        let present = self.medium(n).is_some();
        if let Some(d) = self.state.drives.get_mut(n) {
            let stepped = d.track != track;
            d.track = track;
            d.changed &= !(present && stepped);
        }
    }

    fn exec(&self, kind: Kind, select: u8, multitrack: bool) -> Exec {
        Exec {
            kind,
            drive: select & 1,
            moving: false,
            buf: Vec::new(),
            pos: 0,
            id: false,
            multitrack,
            runs_on: false,
            cylinder: self.state.drives[usize::from(select & 1)].track,
            head: select >> 2 & 1,
            sector: 1,
            eot: 0,
            filler: 0,
            ranges: Vec::new(),
            stored: 0,
        }
    }

    /// Ends a command with its seven result bytes and an interrupt.
    fn end(&mut self, select: u8, st: [u8; 3], chr: [u8; 3]) {
        self.state.interrupt = true;
        self.state.senses.clear();
        self.result(&[st[0] | select & 7, st[1], st[2], chr[0], chr[1], chr[2], 2]);
    }

    fn transfer(&mut self, kind: Kind, bytes: &[u8]) {
        let param = |i: usize| bytes.get(i).copied().unwrap_or(0);
        let (select, cylinder, head, sector) = (param(1), param(2), param(3), param(4));
        let (size, eot) = (param(5), param(6));
        self.state.eot = eot;
        let n = usize::from(select & 3);
        let refuse = |fdc: &mut Self, st1, st2| {
            fdc.end(select, [ST0_ABNORMAL, st1, st2], [cylinder, head, sector]);
        };
        // A drive without a disk goes there too, as in QEMU's machines.
        if n < 2 && (self.state.configure[0] & EIS != 0 || self.medium(n).is_none()) {
            self.step(n, cylinder);
        }
        let Some((backend, format)) = self.medium(n) else { return refuse(self, ST1_MA, 0) };
        if format.rate != self.state.rate || bytes[0] & 0x40 == 0 {
            return refuse(self, ST1_MA, 0);
        }
        if kind == Kind::Write && backend.read_only() {
            return refuse(self, ST1_NW, 0);
        }
        if self.state.drives[n].track != cylinder {
            return refuse(self, ST1_ND, ST2_WC);
        }
        let reachable = cylinder < format.tracks && head < format.heads && head == select >> 2 & 1;
        if !reachable || sector == 0 || sector > format.sectors || size != 2 {
            return refuse(self, ST1_ND, 0);
        }
        let multitrack = bytes[0] & 0x80 != 0;
        // A last sector that the track does not have: the transfer runs on over the tracks.
        let beyond = if multitrack && eot > format.sectors { 2 * u32::from(eot) } else { 0 };
        let eot = eot.clamp(sector, format.sectors);
        let track = |head: u8| {
            (u64::from(cylinder) * u64::from(format.heads) + u64::from(head))
                * u64::from(format.sectors)
        };
        let mut ranges = vec![(track(head) + u64::from(sector) - 1, u32::from(eot - sector) + 1)];
        if beyond > 0 {
            let left = (format.bytes() / SECTOR).saturating_sub(ranges[0].0);
            ranges[0].1 = (beyond + 1 - u32::from(sector)).min(left as u32);
        } else if multitrack && head == 0 && format.heads == 2 {
            ranges.push((track(1), eot.into()));
        }
        let total = ranges.iter().map(|r| r.1 as usize).sum::<usize>() * SECTOR as usize;
        // Taken from the back.
        ranges.reverse();
        let mut e = self.exec(kind, select, multitrack);
        e.runs_on = beyond > 0;
        (e.cylinder, e.head, e.sector, e.eot, e.ranges) = (cylinder, head, sector, eot, ranges);
        if kind == Kind::Write {
            (e.buf, e.moving) = (vec![0; total], true);
            // Without DMA the chip asks for bytes by interrupt.
            self.state.interrupt = self.state.no_dma();
            self.state.phase = Phase::Execute(e);
        } else {
            self.state.phase = Phase::Execute(e);
            self.disk_step();
        }
    }

    fn format(&mut self, bytes: &[u8]) {
        let param = |i: usize| bytes.get(i).copied().unwrap_or(0);
        let (select, size, count, filler) = (param(1), param(2), param(3), param(5));
        let n = usize::from(select & 3);
        let head = select >> 2 & 1;
        let Some((backend, format)) = self.medium(n) else {
            return self.end(select, [ST0_ABNORMAL, ST1_MA, 0], [0, head, 1]);
        };
        let track = self.state.drives[n].track;
        if backend.read_only() {
            return self.end(select, [ST0_ABNORMAL, ST1_NW, 0], [track, head, 1]);
        }
        // The image can only hold the layout it has.
        if size != 2 || count != format.sectors || track >= format.tracks || head >= format.heads {
            return self.end(select, [ST0_ABNORMAL, ST1_ND, 0], [track, head, 1]);
        }
        let mut e = self.exec(Kind::Format, select, false);
        (e.filler, e.eot, e.moving) = (filler, count, true);
        e.buf = vec![0; 4 * usize::from(count)];
        let first =
            (u64::from(track) * u64::from(format.heads) + u64::from(head)) * u64::from(count);
        e.ranges = vec![(first, count.into())];
        self.state.interrupt = self.state.no_dma();
        self.state.phase = Phase::Execute(e);
    }

    /// Asks the drive for the next stretch.
    fn disk_step(&mut self) {
        let Phase::Execute(e) = &mut self.state.phase else { return };
        e.moving = false;
        let Some((first, count)) = e.ranges.pop() else { return };
        let (offset, len) = (first * SECTOR, u64::from(count) * SECTOR);
        let drive = usize::from(e.drive);
        let op = match e.kind {
            Kind::Read | Kind::Verify => Op::Read { offset, len },
            Kind::Format => Op::Write { offset, data: vec![e.filler; len as usize], fua: false },
            Kind::Write => {
                // Of a sector that the transfer left unfinished, the rest is zeros.
                let end = (e.stored + len as usize).min(e.pos.next_multiple_of(SECTOR as usize));
                let data = e.buf[e.stored..end.min(e.buf.len())].to_vec();
                e.stored += len as usize;
                Op::Write { offset, data, fua: false }
            }
        };
        self.submit(drive, op);
    }

    /// The data phase ended: all bytes moved, or terminal count.
    pub(crate) fn moved(&mut self) {
        let Phase::Execute(e) = &mut self.state.phase else { return };
        e.moving = false;
        // The request for data; the end of the command makes a new one.
        self.state.interrupt = false;
        match e.kind {
            Kind::Read | Kind::Verify => self.finish(),
            Kind::Write if e.pos == 0 => self.finish(),
            Kind::Write | Kind::Format => self.disk_step(),
        }
    }

    /// A stretch was read or written.
    pub(crate) fn op_done(&mut self, result: Result<Vec<u8>, DriveError>) {
        let no_dma = self.state.no_dma();
        let Phase::Execute(e) = &mut self.state.phase else { return };
        match result {
            Ok(mut data) => {
                let more = !e.ranges.is_empty();
                match e.kind {
                    Kind::Read | Kind::Verify => {
                        e.buf.append(&mut data);
                        if more {
                            return self.disk_step();
                        }
                        if e.kind == Kind::Verify {
                            e.pos = e.buf.len();
                            return self.finish();
                        }
                        e.moving = true;
                        self.state.interrupt = no_dma;
                    }
                    Kind::Write if more && e.stored < e.pos => self.disk_step(),
                    Kind::Write | Kind::Format => self.finish(),
                }
            }
            Err(error) => {
                let (select, chr) = (e.drive | e.head << 2, [e.cylinder, e.head, e.sector]);
                let (st1, st2) = match error {
                    DriveError::ReadOnly => (ST1_NW, 0),
                    DriveError::NoMedium => (ST1_MA, 0),
                    // An image that stops before its last track.
                    DriveError::OutOfRange => (ST1_ND, 0),
                    _ => (ST1_DE, ST2_DD),
                };
                self.end(select, [ST0_ABNORMAL, st1, st2], chr);
            }
        }
    }

    /// Ends a transfer well: the result names the sector after the last one (table 6-6).
    fn finish(&mut self) {
        let Phase::Execute(e) = &self.state.phase else { return };
        let done = e.pos.div_ceil(SECTOR as usize) as u32;
        let (mut c, mut h, mut r) = (e.cylinder, e.head, u32::from(e.sector));
        if e.kind == Kind::Format {
            r = 1;
        } else {
            r += done;
            while r > u32::from(e.eot) {
                r -= u32::from(e.eot);
                if e.multitrack {
                    c = c.wrapping_add(h);
                    h ^= 1;
                } else {
                    c = c.wrapping_add(1);
                }
            }
        }
        // The head that is selected: that of the last sector.
        let last = (u32::from(e.sector) + done).saturating_sub(2) / u32::from(e.eot.max(1));
        let head = if e.multitrack { (u32::from(e.head) + last) as u8 & 1 } else { e.head };
        let moved = e.runs_on && u32::from(e.head) + last > 1;
        let (select, st0) = (head << 2 | e.drive, if moved { ST0_SEEK } else { 0 });
        self.end(select, [st0, 0, 0], [c, h, r as u8]);
    }

    /// The timer of READ ID: an address field passed under the head, or two revolutions went by
    /// without one.
    pub(crate) fn read_id_done(&mut self) {
        let Phase::Execute(e) = &self.state.phase else { return };
        if e.moving || !e.buf.is_empty() || e.eot != 0 {
            return;
        }
        let (select, chr) = (e.drive | e.head << 2, [e.cylinder, e.head, e.sector]);
        let st = if e.id { [0, 0, 0] } else { [ST0_ABNORMAL, ST1_MA, 0] };
        self.end(select, st, chr);
    }
}
