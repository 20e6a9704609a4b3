//! A CD/DVD-ROM drive's commands: MMC-5 with the parts of SPC-3 and SFF-8020i that drivers use.
//!
//! The drive reads discs of 2048-byte blocks with one data track. It knows nothing of how
//! commands and data travel: [`Cdrom::execute`] takes a command block and says what to answer.
//!
//! Not modelled: writing, audio tracks, error correction bytes of raw frames (they read zero).

use super::sense::Sense;
use super::spc::{self, Cdb, Identity, padded};
use orrery_block::backend::BlockBackend;
use serde::{Deserialize, Serialize};

/// Versions of the standard that a drive on a SCSI bus claims.
const SCSI_CLAIMS: [u8; 3] = [5, 0x12, 0x12];

/// Bytes of user data in a block.
pub const BLOCK: u64 = 2048;
/// Bytes of a raw frame.
pub const RAW_FRAME: usize = 2352;
/// Blocks of an 80-minute CD; larger media are DVDs.
const CD_BLOCKS: u64 = 80 * 60 * 75;

/// Command codes, MMC-5 chapter 6, besides those of [`spc::op`].
mod op {
    pub(super) use crate::scsi::spc::op::*;

    pub(super) const READ_6: u8 = 0x08;
    pub(super) const READ_SUBCHANNEL: u8 = 0x42;
    pub(super) const READ_TOC: u8 = 0x43;
    pub(super) const GET_CONFIGURATION: u8 = 0x46;
    pub(super) const GET_EVENT_STATUS: u8 = 0x4a;
    pub(super) const READ_DISC_INFO: u8 = 0x51;
    pub(super) const READ_TRACK_INFO: u8 = 0x52;
    pub(super) const READ_DISC_STRUCTURE: u8 = 0xad;
    pub(super) const READ_CD_MSF: u8 = 0xb9;
    pub(super) const SET_CD_SPEED: u8 = 0xbb;
    pub(super) const MECHANISM_STATUS: u8 = 0xbd;
    pub(super) const READ_CD: u8 = 0xbe;
}

/// What one block looks like on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// 2048 bytes of user data.
    Data,
    /// 2352 bytes: sync pattern, header, user data, zeros for the check bytes.
    Raw,
}

impl Frame {
    /// Bytes of one block.
    pub const fn size(self) -> usize {
        match self {
            Self::Data => BLOCK as usize,
            Self::Raw => RAW_FRAME,
        }
    }

    /// Turns user data of the blocks from `lba` into frames.
    pub fn wrap(self, lba: u32, data: Vec<u8>) -> Vec<u8> {
        if self == Self::Data {
            return data;
        }
        let mut out = Vec::with_capacity(data.len() / BLOCK as usize * RAW_FRAME);
        for (i, block) in data.as_chunks::<{ BLOCK as usize }>().0.iter().enumerate() {
            out.push(0);
            out.extend([0xff; 10]);
            out.push(0);
            out.extend(msf(lba.wrapping_add(i as u32)).map(bcd));
            out.push(1);
            out.extend(block);
            out.resize((i + 1) * RAW_FRAME, 0);
        }
        out
    }
}

/// What the drive answers to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Good, no data.
    Done,
    /// Check condition: the sense data is kept for REQUEST SENSE.
    Check(Sense),
    /// Good, after this data (already cut to the allocation length).
    Data(Vec<u8>),
    /// Good, after these blocks; at least one.
    Read {
        /// First block.
        lba: u32,
        /// Number of blocks.
        count: u32,
        /// What the blocks look like.
        frame: Frame,
    },
}

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    sense: Sense,
    /// Unit attention to report with the next command.
    attention: Option<Sense>,
    /// Media event code for GET EVENT STATUS NOTIFICATION: 1 eject request, 2 new, 3 removed.
    event: u8,
    locked: bool,
}

/// The drive.
pub struct Cdrom {
    identity: Identity,
    /// Version, response format and flags of its INQUIRY data.
    claims: [u8; 3],
    backend: BlockBackend,
    /// The backend's count of media changes the guest knows of.
    seen: u64,
    /// What it may observe.
    pub state: State,
}

impl Cdrom {
    /// An ATAPI drive without a disc but what is in `backend`.
    pub fn new(identity: Identity, backend: BlockBackend) -> Self {
        // The version is none, and the response format that of ATAPI-2.
        Self::claiming([0, 0x21, 0], identity, backend)
    }

    /// A drive on a SCSI bus: SPC-3, with tagged queueing.
    pub fn on_scsi(identity: Identity, backend: BlockBackend) -> Self {
        Self::claiming(SCSI_CLAIMS, identity, backend)
    }

    fn claiming(claims: [u8; 3], identity: Identity, backend: BlockBackend) -> Self {
        let seen = backend.media_generation();
        Self { identity, claims, backend, seen, state: State::default() }
    }

    /// Power-on state. The disc stays, the tray is unlocked.
    pub fn reset(&mut self) {
        self.state = State::default();
        self.apply();
    }

    /// Reports `sense` with the next command that takes notice of it.
    pub fn set_attention(&mut self, sense: Sense) {
        self.state.attention = Some(sense);
    }

    /// Takes over a restored state.
    pub fn restore(&mut self, state: State) {
        self.state = state;
        self.apply();
    }

    fn apply(&mut self) {
        self.seen = self.backend.media_generation();
        self.backend.set_locked(self.state.locked);
    }

    /// Blocks on the disc; zero without one.
    pub fn blocks(&self) -> u64 {
        (self.backend.len() / BLOCK).min(u64::from(u32::MAX))
    }

    /// Keeps `sense` for REQUEST SENSE.
    pub fn set_sense(&mut self, sense: Sense) {
        self.state.sense = sense;
    }

    /// Notes what the host did to disc and tray since the last command.
    fn watch_medium(&mut self) {
        let now = self.backend.media_generation();
        if now != self.seen {
            self.seen = now;
            if self.backend.has_medium() {
                (self.state.attention, self.state.event) = (Some(Sense::MEDIUM_CHANGED), 2);
            } else {
                self.state.event = 3;
            }
        }
        if self.backend.take_eject_request() {
            self.state.event = 1;
        }
    }

    fn ready(&self) -> Result<(), Sense> {
        if self.backend.has_medium() {
            Ok(())
        } else if self.backend.tray_open() {
            Err(Sense::TRAY_OPEN)
        } else {
            Err(Sense::NO_MEDIUM)
        }
    }

    /// Carries out the command block `cdb`; bytes it lacks are zero.
    pub fn execute(&mut self, cdb: &[u8]) -> Reply {
        let c = Cdb::new(cdb);
        self.watch_medium();
        match self.run(c) {
            Ok(reply) => {
                if c.op() != op::REQUEST_SENSE {
                    self.state.sense = Sense::NONE;
                }
                reply
            }
            Err(sense) => {
                tracing::trace!(opcode = c.op(), ?sense, "CD-ROM command refused");
                self.state.sense = sense;
                Reply::Check(sense)
            }
        }
    }

    fn run(&mut self, cdb: Cdb) -> Result<Reply, Sense> {
        let c = &cdb.0;
        let quiet = [op::INQUIRY, op::REQUEST_SENSE, op::GET_CONFIGURATION, op::GET_EVENT_STATUS];
        if !quiet.contains(&c[0]) {
            if let Some(sense) = self.state.attention.take() {
                return Err(sense);
            }
        }
        let be16 = |at: usize| usize::from(cdb.u16(at));
        let be32 = |at: usize| cdb.u32(at);
        match c[0] {
            op::TEST_UNIT_READY => self.ready().map(|()| Reply::Done),
            op::REQUEST_SENSE => {
                let pending = self.state.attention.take();
                let sense = pending.unwrap_or(std::mem::take(&mut self.state.sense));
                self.state.sense = Sense::NONE;
                Ok(data(sense.fixed().to_vec(), c[4].into()))
            }
            op::INQUIRY => self.inquiry(c[1], c[2]).map(|d| data(d, be16(3))),
            op::MODE_SENSE_6 => self.mode_sense(c[2], false).map(|d| data(d, c[4].into())),
            op::MODE_SENSE_10 => self.mode_sense(c[2], true).map(|d| data(d, be16(7))),
            op::START_STOP_UNIT => self.start_stop(c[4]),
            op::PREVENT_ALLOW => {
                self.state.locked = c[4] & 1 != 0;
                self.backend.set_locked(self.state.locked);
                Ok(Reply::Done)
            }
            op::READ_CAPACITY => {
                self.ready()?;
                let last = self.blocks().saturating_sub(1) as u32;
                Ok(data([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat(), 8))
            }
            op::READ_6 => {
                let count = if c[4] == 0 { 256 } else { c[4].into() };
                self.read(be32(0) & 0x1f_ffff, count, Frame::Data)
            }
            op::READ_10 => self.read(be32(2), be16(7) as u32, Frame::Data),
            op::READ_12 => self.read(be32(2), be32(6), Frame::Data),
            op::READ_CD => {
                let count = u32::from_be_bytes([0, c[6], c[7], c[8]]);
                self.read_cd(be32(2), count, c[9], c[10])
            }
            op::READ_CD_MSF => {
                let (from, to) = (lba(c[3], c[4], c[5])?, lba(c[6], c[7], c[8])?);
                let count = to.checked_sub(from).ok_or(Sense::INVALID_FIELD)?;
                self.read_cd(from, count, c[9], c[10])
            }
            op::SEEK_10 => {
                self.ready()?;
                let there = u64::from(be32(2)) < self.blocks();
                there.then_some(Reply::Done).ok_or(Sense::LBA_OUT_OF_RANGE)
            }
            op::VERIFY_10 | op::SYNCHRONIZE_CACHE => self.ready().map(|()| Reply::Done),
            op::SET_CD_SPEED => Ok(Reply::Done),
            op::READ_SUBCHANNEL => {
                self.ready()?;
                // No audio plays: header only, audio status "not supported or invalid".
                Ok(data(vec![0, 0x15, 0, 0], be16(7)))
            }
            op::READ_TOC => {
                self.ready()?;
                let format = if c[2] & 0xf != 0 { c[2] & 0xf } else { c[9] >> 6 };
                self.toc(format, c[1] & 2 != 0, c[6]).map(|d| data(d, be16(7)))
            }
            op::GET_CONFIGURATION => {
                self.configuration(c[1] & 3, be16(2)).map(|d| data(d, be16(7)))
            }
            op::GET_EVENT_STATUS => self.event_status(c[1], c[4]).map(|d| data(d, be16(7))),
            op::READ_DISC_INFO => {
                self.ready()?;
                let mut d = vec![0; 34];
                // Complete disc, complete last session; one session, one track; disc type CD.
                (d[1], d[2], d[3], d[4], d[5], d[6]) = (32, 0x0e, 1, 1, 1, 1);
                d[7] = 0x20;
                Ok(data(d, be16(7)))
            }
            op::READ_TRACK_INFO => {
                self.ready()?;
                let mut d = vec![0; 36];
                (d[1], d[2], d[3], d[5], d[6]) = (34, 1, 1, 4, 1);
                d[24..28].copy_from_slice(&(self.blocks() as u32).to_be_bytes());
                Ok(data(d, be16(7)))
            }
            op::READ_DISC_STRUCTURE => self.disc_structure(c[1], c[7]).map(|d| data(d, be16(8))),
            op::MECHANISM_STATUS => Ok(data(vec![0, 0, 0, 0, 0, 1, 0, 0], be16(8))),
            // Writes of 10 and 12 bytes: the drive is known to the initiator as a unit like others, read-only.
            0x2a | 0xaa if self.claims == SCSI_CLAIMS => Err(Sense::WRITE_PROTECTED),
            _ => Err(Sense::INVALID_OPCODE),
        }
    }

    fn inquiry(&self, flags: u8, page: u8) -> Result<Vec<u8>, Sense> {
        let Identity { product, serial, .. } = &self.identity;
        if flags & 1 != 0 {
            let body = match page {
                0x00 => vec![0x00, 0x80, 0x83],
                0x80 => serial.clone().into_bytes(),
                0x83 => {
                    // One designator: vendor's own, ASCII.
                    let id = format!("{} {serial}", padded(product, 16).trim_end());
                    spc::designator(2, 0, id.as_bytes())
                }
                _ => return Err(Sense::INVALID_FIELD),
            };
            return Ok(spc::vital_page(5, page, &body));
        }
        if page != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        Ok(spc::standard_inquiry(5, true, self.claims, &self.identity))
    }

    fn mode_sense(&self, select: u8, long: bool) -> Result<Vec<u8>, Sense> {
        let error_recovery = vec![0x01, 6, 0, 5, 0, 0, 0, 0];
        let audio = vec![0x0e, 14, 4, 0, 0, 0, 0, 0, 1, 0xff, 2, 0xff, 0, 0, 0, 0];
        let mut caps = vec![0; 20];
        // Reads CD-R, CD-RW, DVD-ROM, DVD-R; mode 2 forms, multisession; CD-DA commands.
        (caps[0], caps[1], caps[2], caps[4], caps[5]) = (0x2a, 18, 0x1b, 0x70, 0x01);
        // Tray; can be locked; ejects on command.
        caps[6] = 0x29 | u8::from(self.state.locked) << 1;
        let speed = (4 * 176_u16).to_be_bytes();
        caps[8..10].copy_from_slice(&speed);
        caps[11] = 2;
        caps[12..14].copy_from_slice(&512_u16.to_be_bytes());
        caps[14..16].copy_from_slice(&speed);
        // Nothing can be changed.
        let pages = [error_recovery, audio, caps].map(|page| (page, Vec::new()));
        let body = spc::mode_pages(select, 0, &pages)?;
        // Medium type: door open, no disc, data disc (SFF-8020i table 97).
        let medium = match (self.backend.tray_open(), self.backend.has_medium()) {
            (true, _) => 0x71,
            (_, false) => 0x70,
            _ => 0x01,
        };
        Ok(spc::mode_data(long, medium, 0, &[], &body))
    }

    fn start_stop(&mut self, flags: u8) -> Result<Reply, Sense> {
        let (start, load_eject) = (flags & 1 != 0, flags & 2 != 0);
        // A power condition makes the other bits void.
        if flags >> 4 == 0 && load_eject {
            if !start && !self.backend.tray_open() && self.state.locked {
                let key = if self.backend.has_medium() { 5 } else { 2 };
                return Err(Sense { key, ..Sense::REMOVAL_PREVENTED });
            }
            self.backend.set_tray_open(!start);
            self.watch_medium();
        }
        Ok(Reply::Done)
    }

    fn read(&self, lba: u32, count: u32, frame: Frame) -> Result<Reply, Sense> {
        self.ready()?;
        if u64::from(lba) + u64::from(count) > self.blocks() {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        Ok(if count == 0 { Reply::Done } else { Reply::Read { lba, count, frame } })
    }

    fn read_cd(&self, lba: u32, count: u32, what: u8, subchannel: u8) -> Result<Reply, Sense> {
        if subchannel & 7 != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        match what & 0xf8 {
            0x00 => self.ready().map(|()| Reply::Done),
            0x10 => self.read(lba, count, Frame::Data),
            0xf8 => self.read(lba, count, Frame::Raw),
            _ => Err(Sense::INVALID_FIELD),
        }
    }

    fn toc(&self, format: u8, as_msf: bool, start: u8) -> Result<Vec<u8>, Sense> {
        let at = |lba: u32| match as_msf {
            true => [[0].as_slice(), &msf(lba)].concat(),
            false => lba.to_be_bytes().to_vec(),
        };
        let lead_out = self.blocks() as u32;
        let mut d = vec![0, 0, 1, 1];
        match format {
            0 => {
                if start > 1 && start != 0xaa {
                    return Err(Sense::INVALID_FIELD);
                }
                if start <= 1 {
                    d.extend([0, 0x14, 1, 0]);
                    d.extend(at(0));
                }
                d.extend([0, 0x14, 0xaa, 0]);
                d.extend(at(lead_out));
            }
            1 => {
                d.extend([0, 0x14, 1, 0]);
                d.extend(at(0));
            }
            2 => {
                let [m, s, f] = msf(lead_out);
                d.extend([1, 0x14, 0, 0xa0, 0, 0, 0, 0, 1, 0, 0]);
                d.extend([1, 0x14, 0, 0xa1, 0, 0, 0, 0, 1, 0, 0]);
                d.extend([1, 0x14, 0, 0xa2, 0, 0, 0, 0, m, s, f]);
                d.extend([1, 0x14, 0, 1, 0, 0, 0, 0, 0, 2, 0]);
            }
            _ => return Err(Sense::INVALID_FIELD),
        }
        let len = (d.len() as u16 - 2).to_be_bytes();
        d[..2].copy_from_slice(&len);
        Ok(d)
    }

    /// Current profile: 0 none, 0x08 CD-ROM, 0x10 DVD-ROM.
    fn profile(&self) -> u16 {
        match self.blocks() {
            _ if !self.backend.has_medium() => 0,
            n if n <= CD_BLOCKS => 0x08,
            _ => 0x10,
        }
    }

    fn configuration(&self, kind: u8, first: usize) -> Result<Vec<u8>, Sense> {
        if kind == 3 {
            return Err(Sense::INVALID_FIELD);
        }
        let profile = self.profile();
        let (cd, dvd) = (u8::from(profile == 0x08), u8::from(profile == 0x10));
        let readable = u8::from(profile != 0);
        // (feature, bytes): persistent ones have bit 1 of byte 2 set, current ones bit 0.
        let features: [(usize, Vec<u8>); 5] = [
            (0x0000, vec![0, 0, 0x03, 8, 0, 0x10, dvd, 0, 0, 0x08, cd, 0]),
            (0x0001, vec![0, 1, 0x0b, 8, 0, 0, 0, 2, 1, 0, 0, 0]),
            (0x0003, vec![0, 3, 0x03, 4, 0x29, 0, 0, 0]),
            (0x0010, vec![0, 0x10, readable, 8, 0, 0, 8, 0, 0, 1, 0, 0]),
            (0x001e, vec![0, 0x1e, cd, 4, 0, 0, 0, 0]),
        ];
        let mut d = vec![0; 8];
        d[6..8].copy_from_slice(&profile.to_be_bytes());
        for (code, bytes) in features {
            let wanted = match kind {
                0 => code >= first,
                1 => code >= first && bytes[2] & 1 != 0,
                _ => code == first,
            };
            if wanted {
                d.extend(bytes);
            }
        }
        let len = (d.len() as u32 - 4).to_be_bytes();
        d[..4].copy_from_slice(&len);
        Ok(d)
    }

    fn event_status(&mut self, flags: u8, classes: u8) -> Result<Vec<u8>, Sense> {
        const MEDIA: u8 = 4;
        if flags & 1 == 0 {
            // Asynchronous notification is not supported.
            return Err(Sense::INVALID_FIELD);
        }
        if classes & 1 << MEDIA == 0 {
            return Ok(vec![0, 2, 0x80, 1 << MEDIA]);
        }
        let event = std::mem::take(&mut self.state.event);
        let open = u8::from(self.backend.tray_open());
        let present = u8::from(self.backend.has_medium());
        Ok(vec![0, 6, MEDIA, 1 << MEDIA, event, open | present << 1, 0, 0])
    }

    fn disc_structure(&self, media: u8, format: u8) -> Result<Vec<u8>, Sense> {
        self.ready()?;
        if media & 0xf != 0 || self.profile() != 0x10 {
            return Err(Sense::INVALID_FIELD);
        }
        let body = match format {
            // Physical format: DVD-ROM, 120 mm, one layer; data area from 0x30000.
            0 => {
                let last = 0x3_0000 + self.blocks() as u32 - 1;
                let mut d = vec![0; 2048];
                (d[0], d[1], d[2]) = (0x01, 0x0f, 0x01);
                d[4..8].copy_from_slice(&0x3_0000_u32.to_be_bytes());
                d[8..12].copy_from_slice(&last.to_be_bytes());
                d
            }
            // Copyright: none.
            1 => vec![0; 4],
            _ => return Err(Sense::INVALID_FIELD),
        };
        let mut d = (body.len() as u16 + 2).to_be_bytes().to_vec();
        d.extend([0, 0]);
        d.extend(body);
        Ok(d)
    }
}

fn data(mut bytes: Vec<u8>, allocation: usize) -> Reply {
    bytes.truncate(allocation);
    if bytes.is_empty() { Reply::Done } else { Reply::Data(bytes) }
}

/// Minute, second, frame of a block; block 0 is at 00:02.00.
fn msf(lba: u32) -> [u8; 3] {
    let frames = lba.wrapping_add(150);
    [(frames / 4500) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

fn lba(m: u8, s: u8, f: u8) -> Result<u32, Sense> {
    let frames = (u32::from(m) * 60 + u32::from(s)) * 75 + u32::from(f);
    frames.checked_sub(150).ok_or(Sense::INVALID_FIELD)
}

fn bcd(n: u8) -> u8 {
    (n / 10 % 10) << 4 | n % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(backend: &BlockBackend) -> Cdrom {
        let identity = Identity {
            vendor: "QEMU".into(),
            product: "QEMU DVD-ROM".into(),
            revision: "2.5+".into(),
            serial: "QM00003".into(),
        };
        Cdrom::new(identity, backend.clone())
    }

    fn disc() -> BlockBackend {
        BlockBackend::ram_read_only(vec![0; 300 * BLOCK as usize])
    }

    fn bytes(cd: &mut Cdrom, cdb: &[u8]) -> Vec<u8> {
        match cd.execute(cdb) {
            Reply::Data(d) => d,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn capacity_and_table_of_contents_describe_one_data_track() {
        let mut cd = drive(&disc());
        assert_eq!(bytes(&mut cd, &[0x25]), [0, 0, 1, 43, 0, 0, 8, 0]);
        let toc = bytes(&mut cd, &[0x43, 2, 0, 0, 0, 0, 0, 0, 100]);
        assert_eq!(toc[..12], [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 2, 0]);
        assert_eq!(toc[12..], [0, 0x14, 0xaa, 0, 0, 0, 6, 0], "300 + 150 frames are 6 seconds");
        let short = bytes(&mut cd, &[0x43, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(short, [0, 18, 1, 1], "the length says what there would be");
        let last_session = bytes(&mut cd, &[0x43, 0, 0, 0, 0, 0, 0, 0, 12, 0x40]);
        assert_eq!(last_session[..4], [0, 10, 1, 1]);
    }

    #[test]
    fn without_a_disc_the_drive_says_so_and_why() {
        let mut cd = drive(&BlockBackend::detached());
        assert_eq!(cd.execute(&[0]), Reply::Check(Sense::NO_MEDIUM));
        let sense = bytes(&mut cd, &[3, 0, 0, 0, 18]);
        assert_eq!((sense[2], sense[12]), (2, 0x3a));
        let again = bytes(&mut cd, &[3, 0, 0, 0, 18]);
        assert_eq!(again[2], 0, "sense is reported once");
        assert_eq!(cd.execute(&[0x1b, 0, 0, 0, 2]), Reply::Done);
        assert_eq!(cd.execute(&[0]), Reply::Check(Sense::TRAY_OPEN));
    }

    #[test]
    fn a_changed_disc_is_reported_once_as_attention_and_as_event() {
        let backend = disc();
        let mut cd = drive(&backend);
        assert_eq!(cd.execute(&[0]), Reply::Done);
        backend.set_tray_open(true);
        let event = bytes(&mut cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
        assert_eq!(event[4..6], [3, 1]);
        backend.set_tray_open(false);
        let event = bytes(&mut cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
        assert_eq!(event[4..6], [2, 2], "polling for events leaves the attention alone");
        assert_eq!(cd.execute(&[0]), Reply::Check(Sense::MEDIUM_CHANGED));
        assert_eq!(cd.execute(&[0]), Reply::Done);
    }

    #[test]
    fn a_locked_tray_stays_closed_and_asks_for_the_host() {
        let backend = disc();
        let mut cd = drive(&backend);
        cd.execute(&[0x1e, 0, 0, 0, 1]);
        let refused = cd.execute(&[0x1b, 0, 0, 0, 2]);
        assert_eq!(refused, Reply::Check(Sense::REMOVAL_PREVENTED));
        assert!(backend.eject(false).is_err(), "the host asks first");
        let event = bytes(&mut cd, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8]);
        assert_eq!(event[4], 1, "and the guest hears of it");
        cd.execute(&[0x1e]);
        assert_eq!(cd.execute(&[0x1b, 0, 0, 0, 2]), Reply::Done);
        assert!(backend.tray_open());
    }

    #[test]
    fn reads_past_the_end_are_refused_and_raw_frames_carry_their_address() {
        let mut cd = drive(&disc());
        let past = [0x28, 0, 0, 0, 1, 43, 0, 0, 2];
        assert_eq!(cd.execute(&past), Reply::Check(Sense::LBA_OUT_OF_RANGE));
        let raw = cd.execute(&[0xbe, 0, 0, 0, 0, 16, 0, 0, 1, 0xf8]);
        assert_eq!(raw, Reply::Read { lba: 16, count: 1, frame: Frame::Raw });
        let frame = Frame::Raw.wrap(16, vec![0xaa; 2048]);
        assert_eq!(frame.len(), RAW_FRAME);
        assert_eq!(frame[12..17], [0x00, 0x02, 0x16, 0x01, 0xaa]);
    }

    #[test]
    fn the_profile_follows_the_medium() {
        let mut cd = drive(&disc());
        let d = bytes(&mut cd, &[0x46, 0, 0, 0, 0, 0, 0, 0, 200]);
        assert_eq!(d[6..8], [0, 8]);
        assert_eq!(u32::from_be_bytes([d[0], d[1], d[2], d[3]]) as usize, d.len() - 4);
        let mut none = drive(&BlockBackend::detached());
        assert_eq!(bytes(&mut none, &[0x46, 0, 0, 0, 0, 0, 0, 0, 8])[6..8], [0, 0]);
    }

    #[test]
    fn any_command_block_is_answered() {
        let mut rng = orrery_system::fuzz::Rng::new(1);
        let mut cd = drive(&disc());
        for _ in 0..50_000 {
            let cdb = [rng.next_u64().to_le_bytes(), rng.next_u64().to_le_bytes()].concat();
            let mut cdb: Vec<u8> = cdb;
            if rng.below(2) == 0 {
                cdb[1..].fill(0);
            }
            cdb.truncate(rng.below(17) as usize);
            cd.execute(&cdb);
        }
    }
}
