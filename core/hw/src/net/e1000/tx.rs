//! The transmitter: descriptors, checksum insertion and TCP segmentation (8254x SDM 3.3 to 3.5).

use super::regs::{Reg, Tctl, cause};
use super::{BURST_NS, Delay, State};
use crate::net::frame::{self, BROADCAST, be16, destination, put16};
use orrery_system::{Dma, RestoreError, VmTime};
use serde::{Deserialize, Serialize};

/// Bytes moved in one go; the rest of a long ring waits for the next one.
const BURST: usize = 1 << 20;
/// What a descriptor costs of that besides its data.
const DESCRIPTOR_COST: usize = 64;
/// Longest frame, and the longest header plus segment.
const LONGEST: usize = 0x1_0100;
/// Bytes copied at once.
const PIECE: usize = 16384;

/// Descriptor commands: end of packet, insert check sequence, insert checksum (legacy) or
/// segment (extended), report status, report packet sent, extended, VLAN tag, delay the interrupt.
const EOP: u8 = 0x01;
const IC: u8 = 0x04;
const TSE: u8 = 0x04;
const RS: u8 = 0x08;
const RPS: u8 = 0x10;
const DEXT: u8 = 0x20;
const VLE: u8 = 0x40;
const IDE: u8 = 0x80;
/// Context commands: TCP (not UDP), IPv4 (not IPv6), segmentation.
const TUCMD_TCP: u8 = 0x01;
const TUCMD_IPV4: u8 = 0x02;
const TUCMD_TSE: u8 = 0x04;
/// Options of a data descriptor: insert the IP checksum, the TCP or UDP one.
const IXSM: u8 = 1;
const TXSM: u8 = 2;

/// Offload parameters: the last context descriptor (3.3.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Context {
    /// Where the IP header's checksum begins, goes and ends.
    ip: (u8, u8, u16),
    /// The same of TCP or UDP.
    tu: (u8, u8, u16),
    command: u8,
    header: u8,
    segment: u16,
}

/// What the transmitter remembers between descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transmitter {
    /// For checksums, and for segmentation.
    contexts: [Context; 2],
    /// The packet so far.
    packet: Vec<u8>,
    /// Options, VLAN tag and segmentation of its first data descriptor.
    options: u8,
    tag: Option<u16>,
    segmenting: bool,
    started: bool,
    /// Segments of it that were sent, and their bytes.
    segments: u16,
    segment_bytes: u32,
    pub(super) delay: Delay,
    pub(super) resume_at: Option<VmTime>,
}

impl Transmitter {
    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.packet.len() > LONGEST {
            return Err(RestoreError::Invalid("a frame longer than any"));
        }
        Ok(())
    }
}

struct Descriptor {
    address: u64,
    low: u32,
    high: u32,
}

impl Descriptor {
    fn command(&self) -> u8 {
        (self.low >> 24) as u8
    }
    fn is_context(&self) -> bool {
        self.command() & DEXT != 0 && self.low >> 20 & 15 == 0
    }
    fn len(&self) -> usize {
        let mask = if self.command() & DEXT != 0 { 0xf_ffff } else { 0xffff };
        (self.low & mask) as usize
    }
}

impl State {
    /// Works through the ring; gives the frames to send.
    pub(super) fn transmit(&mut self, dma: &Dma, now: VmTime) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.tx.resume_at = None;
        let count = self.get(Reg::Tdlen) / 16;
        let enabled = Tctl::from_bits(self.get(Reg::Tctl)).enable() && dma.is_enabled();
        if !enabled || self.get(Reg::Tdt) >= count {
            return frames;
        }
        let base = u64::from(self.get(Reg::Tdbal)) | u64::from(self.get(Reg::Tdbah)) << 32;
        let mut budget = BURST;
        let mut any = false;
        let mut head = self.get(Reg::Tdh) % count;
        while head != self.get(Reg::Tdt) {
            if budget == 0 {
                self.tx.resume_at = Some(now.after(BURST_NS));
                break;
            }
            let at = base.wrapping_add(u64::from(head) * 16);
            let mut raw = [0; 16];
            if dma.read(at, &mut raw).is_err() {
                break;
            }
            let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|b| raw[i * 4 + b]));
            let address = u64::from(word(0)) | u64::from(word(1)) << 32;
            let d = Descriptor { address, low: word(2), high: word(3) };
            budget = budget.saturating_sub(DESCRIPTOR_COST + d.len());
            self.descriptor(dma, &d, &mut frames);
            if d.command() & (RS | RPS) != 0 {
                // Status: done.
                _ = dma.write(at.wrapping_add(12), &[raw[12] | 1]);
                self.written_back(&d, now);
            }
            head = (head + 1) % count;
            any = true;
        }
        self.set(Reg::Tdh, head);
        if any && head == self.get(Reg::Tdt) {
            self.cause(cause::TXQE);
        }
        let low = self.get(Reg::Txdctl) >> 25;
        if any && low != 0 && self.left(head, count) <= low * 8 {
            self.cause(cause::TXD_LOW);
        }
        frames
    }

    fn left(&self, head: u32, count: u32) -> u32 {
        let tail = self.get(Reg::Tdt);
        if tail >= head { tail - head } else { tail + count - head }
    }

    fn written_back(&mut self, d: &Descriptor, now: VmTime) {
        let delay = self.get(Reg::Tidv);
        if d.command() & IDE != 0 && delay != 0 {
            self.tx.delay.wait(now, delay, self.get(Reg::Tadv));
        } else {
            self.cause(cause::TXDW);
        }
    }

    fn descriptor(&mut self, dma: &Dma, d: &Descriptor, frames: &mut Vec<Vec<u8>>) {
        if d.is_context() {
            return self.context(d);
        }
        let extended = d.command() & DEXT != 0;
        if !self.tx.started {
            self.tx.started = true;
            self.tx.segmenting = extended && d.command() & TSE != 0;
            self.tx.options = if extended { (d.high >> 8) as u8 } else { 0 };
        }
        if d.command() & VLE != 0 && self.ctrl().vlan() {
            self.tx.tag = Some((d.high >> 16) as u16);
        }
        self.append(dma, d, frames);
        if d.command() & EOP == 0 {
            return;
        }
        if !extended && d.command() & IC != 0 {
            let (start, at) = ((d.high >> 8 & 0xff) as usize, (d.low >> 16 & 0xff) as usize);
            frame::insert_checksum(&mut self.tx.packet, start, at, 0);
        }
        self.emit(true, frames);
        let tx = &mut self.tx;
        tx.packet.clear();
        (tx.started, tx.tag, tx.segments, tx.segment_bytes) = (false, None, 0, 0);
    }

    fn context(&mut self, d: &Descriptor) {
        let place = |word: u64| (word as u8, (word >> 8) as u8, (word >> 16) as u16);
        let context = Context {
            ip: place(d.address),
            tu: place(d.address >> 32),
            command: d.command(),
            header: (d.high >> 8) as u8,
            segment: (d.high >> 16) as u16,
        };
        let segments = context.command & TUCMD_TSE != 0;
        self.tx.contexts[usize::from(segments)] = context;
        if segments {
            self.count(Reg::Tsctc, 1);
        }
    }

    fn append(&mut self, dma: &Dma, d: &Descriptor, frames: &mut Vec<Vec<u8>>) {
        let mut done = 0;
        while done < d.len() {
            let n = (d.len() - done).min(PIECE);
            let mut piece = vec![0; n];
            // Where no memory answers, all ones are sent.
            _ = dma.read(d.address.wrapping_add(done as u64), &mut piece);
            let room = LONGEST.saturating_sub(self.tx.packet.len());
            self.tx.packet.extend_from_slice(&piece[..n.min(room)]);
            done += n;
            self.segment(frames);
        }
    }

    /// Header and segment lengths while a packet is cut into segments.
    fn segments(&self) -> Option<(usize, usize)> {
        let c = &self.tx.contexts[1];
        let (header, segment) = (usize::from(c.header), usize::from(c.segment));
        // A segment of hardly anything would make very many frames.
        (self.tx.segmenting && header > 0 && segment > 0).then_some((header, segment.max(8)))
    }

    /// Sends whole segments, but never the last one, which is different.
    fn segment(&mut self, frames: &mut Vec<Vec<u8>>) {
        let Some((header, segment)) = self.segments() else { return };
        while self.tx.packet.len() > header + segment {
            let rest = self.tx.packet.split_off(header + segment);
            self.emit(false, frames);
            self.tx.packet.truncate(header);
            self.tx.packet.extend(rest);
            self.tx.segments = self.tx.segments.wrapping_add(1);
            self.tx.segment_bytes = self.tx.segment_bytes.wrapping_add(segment as u32);
        }
    }

    /// Makes a frame of the packet, with everything that is inserted.
    fn emit(&mut self, last: bool, frames: &mut Vec<Vec<u8>>) {
        let mut frame = self.tx.packet.clone();
        let context = self.tx.contexts[usize::from(self.tx.segmenting)];
        if self.segments().is_some() {
            self.finish_headers(&mut frame, &context, last);
        }
        let place = |(start, at, end): (u8, u8, u16)| (start.into(), at.into(), end.into());
        if self.tx.options & TXSM != 0 {
            let (start, at, end) = place(context.tu);
            frame::insert_checksum(&mut frame, start, at, end);
        }
        if self.tx.options & IXSM != 0 {
            let (start, at, end) = place(context.ip);
            frame::insert_checksum(&mut frame, start, at, end);
        }
        if let (Some(tag), true) = (self.tx.tag, frame.len() >= 12) {
            let vet = (self.get(Reg::Vet) as u16).to_be_bytes();
            let tag = tag.to_be_bytes();
            frame.splice(12..12, [vet[0], vet[1], tag[0], tag[1]]);
        }
        if frame.len() < frame::HEADER {
            return;
        }
        if frame.len() < frame::MIN && Tctl::from_bits(self.get(Reg::Tctl)).pad() {
            frame.resize(frame::MIN, 0);
        }
        self.count_sent(&frame);
        frames.push(frame);
    }

    /// Lengths, identification, sequence number and flags of one segment (3.5).
    fn finish_headers(&self, frame: &mut [u8], c: &Context, last: bool) {
        let (ip, tu) = (usize::from(c.ip.0), usize::from(c.tu.0));
        let total = frame.len();
        if c.command & TUCMD_IPV4 != 0 {
            put16(frame, ip + 2, total.saturating_sub(ip) as u16);
            let id = be16(frame, ip + 4).unwrap_or(0);
            put16(frame, ip + 4, id.wrapping_add(self.tx.segments));
        } else {
            put16(frame, ip + 4, total.saturating_sub(ip + 40) as u16);
        }
        let len = total.saturating_sub(tu) as u16;
        if c.command & TUCMD_TCP != 0 {
            if let Some(slot) = frame.get_mut(tu + 4..tu + 8) {
                let mut seq = [0; 4];
                seq.copy_from_slice(slot);
                let seq = u32::from_be_bytes(seq).wrapping_add(self.tx.segment_bytes);
                slot.copy_from_slice(&seq.to_be_bytes());
            }
            // FIN and PSH belong to the last segment.
            if let (Some(flags), false) = (frame.get_mut(tu + 13), last) {
                *flags &= !0x09;
            }
        } else {
            put16(frame, tu + 4, len);
        }
        // The pseudo header's sum is there, all but the length.
        if self.tx.options & TXSM != 0 {
            let at = usize::from(c.tu.1);
            let sum = u32::from(be16(frame, at).unwrap_or(0)) + u32::from(len);
            put16(frame, at, frame::fold(sum));
        }
    }

    fn count_sent(&mut self, frame: &[u8]) {
        let wire = frame.len() + 4;
        self.count(Reg::Tpt, 1);
        self.count(Reg::Gptc, 1);
        self.count_bytes(Reg::Totl, Reg::Toth, wire);
        self.count_bytes(Reg::Gotcl, Reg::Gotch, wire);
        match destination(frame) {
            Some(BROADCAST) => self.count(Reg::Bptc, 1),
            Some(to) if to[0] & 1 != 0 => self.count(Reg::Mptc, 1),
            _ => {}
        }
        let reg = match wire {
            0..=64 => Reg::Ptc64,
            65..=127 => Reg::Ptc127,
            128..=255 => Reg::Ptc255,
            256..=511 => Reg::Ptc511,
            512..=1023 => Reg::Ptc1023,
            _ => Reg::Ptc1522,
        };
        self.count(reg, 1);
    }
}
