//! The receiver: address filters, the packet buffer, and the ring of buffers in memory (8254x
//! SDM 3.2).

use super::regs::{ADDRESS_VALID, ADDRESSES, Reg, cause};
use super::regs::{MULTICAST, RXCSUM_IP, RXCSUM_TCP, VLANS};
use super::{Delay, State};
use crate::net::frame::{self, BROADCAST, MAX_TAGGED, Mac, be16, destination};
use orrery_system::{Dma, RestoreError, VmTime};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes of the packet buffer that frames wait in.
const BUFFER: usize = 48 << 10;
/// Longest frame.
const LONGEST: usize = 16384;

/// Descriptor status: done, end of packet, checksums not looked at, VLAN tag taken out, TCP or UDP
/// checksum looked at, IP checksum looked at, passed by an inexact filter.
const DD: u8 = 0x01;
const EOP: u8 = 0x02;
const IXSM: u8 = 0x04;
const VP: u8 = 0x08;
const TCPCS: u8 = 0x20;
const IPCS: u8 = 0x40;
const PIF: u8 = 0x80;
/// Descriptor errors: TCP or UDP checksum, IP checksum.
const TCPE: u8 = 0x20;
const IPE: u8 = 0x40;

/// What the receiver remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receiver {
    /// Frames that passed the filters; true: an inexact one.
    waiting: VecDeque<(bool, Vec<u8>)>,
    pub(super) delay: Delay,
}

impl Receiver {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|f| f.1.len() + 4).sum()
    }

    /// Whether another frame fits.
    pub(super) fn has_room(&self) -> bool {
        self.bytes() + MAX_TAGGED <= BUFFER
    }

    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.bytes() > BUFFER + LONGEST + 4 {
            return Err(RestoreError::Invalid("more frames than the packet buffer holds"));
        }
        Ok(())
    }
}

/// What the filters say.
enum Pass {
    Exact,
    Inexact,
}

impl State {
    /// A frame comes in from the wire.
    pub(super) fn arrive(&mut self, mut frame: Vec<u8>) {
        if !self.rctl().enable() || frame.len() < frame::HEADER {
            return;
        }
        // What is on the wire has the least length.
        if frame.len() < frame::MIN {
            frame.resize(frame::MIN, 0);
        }
        let wire = frame.len() + 4;
        self.count(Reg::Tpr, 1);
        self.count_bytes(Reg::Torl, Reg::Torh, wire);
        let long = frame.len() > MAX_TAGGED && !self.rctl().long() && !self.rctl().store_bad();
        if long || frame.len() > LONGEST {
            self.count(Reg::Roc, 1);
            return;
        }
        let Some(pass) = self.filter(&frame) else { return };
        if self.rx.bytes() + wire > BUFFER.max(wire) {
            self.count(Reg::Mpc, 1);
            self.cause(cause::RXO);
            return;
        }
        self.rx.waiting.push_back((matches!(pass, Pass::Inexact), frame));
    }

    fn filter(&self, frame: &[u8]) -> Option<Pass> {
        let rctl = self.rctl();
        let to = destination(frame)?;
        if rctl.vlan_filter() && self.is_tagged(frame) {
            let tag = be16(frame, 14)?;
            let word = self.word(VLANS.0 + u64::from(tag >> 5 & 0x7f) * 4);
            if word >> (tag & 31) & 1 == 0 {
                return None;
            }
            if rctl.cfi_enable() && (tag & 0x1000 != 0) != rctl.cfi() {
                return None;
            }
        }
        // MAC control frames stay in the controller.
        if be16(frame, 12) == Some(0x8808) && !rctl.pass_mac_control() {
            return None;
        }
        if self.is_ours(to) {
            return Some(Pass::Exact);
        }
        let group = to[0] & 1 != 0;
        let passes = if to == BROADCAST {
            rctl.broadcast()
        } else if group {
            rctl.all_multicast() || self.in_hash(to)
        } else {
            rctl.promiscuous() || self.in_hash(to)
        };
        passes.then_some(Pass::Inexact)
    }

    fn is_tagged(&self, frame: &[u8]) -> bool {
        be16(frame, 12).map(u32::from) == Some(self.get(Reg::Vet) & 0xffff)
    }

    fn is_ours(&self, to: Mac) -> bool {
        let low = u32::from_le_bytes([to[0], to[1], to[2], to[3]]);
        let high = u32::from(u16::from_le_bytes([to[4], to[5]]));
        (0..16).any(|n| {
            let entry = self.word(ADDRESSES.0 + n * 8 + 4);
            entry & ADDRESS_VALID != 0
                && entry & 0xffff == high
                && self.word(ADDRESSES.0 + n * 8) == low
        })
    }

    /// The hash filter (13.5.1): twelve bits from the end of the address.
    fn in_hash(&self, to: Mac) -> bool {
        let shift = [4, 3, 2, 0][usize::from(self.rctl().hash_shift())];
        let hash = u16::from_le_bytes([to[4], to[5]]) >> shift & 0xfff;
        self.word(MULTICAST.0 + u64::from(hash >> 5) * 4) >> (hash & 31) & 1 != 0
    }

    /// Puts waiting frames into memory as far as there are buffers.
    pub(super) fn store(&mut self, dma: &Dma, now: VmTime) {
        if !self.rctl().enable() || !dma.is_enabled() {
            return;
        }
        let before = self.rx.waiting.len();
        let mut small = false;
        while let Some((inexact, frame)) = self.rx.waiting.pop_front() {
            if !self.store_one(dma, &frame, inexact) {
                self.count(Reg::Rnbc, 1);
                self.rx.waiting.push_front((inexact, frame));
                break;
            }
            small |= frame.len() + 4 <= (self.get(Reg::Rsrpd) & 0xfff) as usize;
        }
        if self.rx.waiting.len() == before {
            return;
        }
        let delay = self.get(Reg::Rdtr);
        if delay == 0 || small {
            self.cause(cause::RXT0);
        } else {
            self.rx.delay.wait(now, delay, self.get(Reg::Radv));
        }
        if small {
            self.cause(cause::SRPD);
        }
        let count = self.get(Reg::Rdlen) / 16;
        if self.free_buffers() <= count >> (u32::from(self.rctl().threshold()) + 1) {
            self.cause(cause::RXDMT0);
        }
    }

    fn free_buffers(&self) -> u32 {
        let count = self.get(Reg::Rdlen) / 16;
        let (head, tail) = (self.get(Reg::Rdh), self.get(Reg::Rdt));
        if count == 0 || head >= count || tail >= count {
            return 0;
        }
        if tail >= head { tail - head } else { tail + count - head }
    }

    /// False if there are not enough buffers.
    fn store_one(&mut self, dma: &Dma, frame: &[u8], inexact: bool) -> bool {
        let mut data = frame.to_vec();
        let (mut status, mut special) = (DD | EOP, 0);
        if inexact {
            status |= PIF;
        }
        let (flags, errors) = self.checksums(&data);
        status |= flags;
        let packet = self.packet_checksum(&data);
        let fcs = frame::crc32(&data);
        if self.ctrl().vlan() && self.is_tagged(&data) {
            special = be16(&data, 14).unwrap_or(0);
            status |= VP;
            data.drain(12..16);
        }
        if !self.rctl().strip_crc() {
            data.extend(fcs.to_le_bytes());
        }
        let size = self.rctl().buffer_len();
        let pieces = data.len().div_ceil(size);
        if (self.free_buffers() as usize) < pieces {
            return false;
        }
        let base = u64::from(self.get(Reg::Rdbal)) | u64::from(self.get(Reg::Rdbah)) << 32;
        let count = self.get(Reg::Rdlen) / 16;
        for (i, piece) in data.chunks(size).enumerate() {
            let head = self.get(Reg::Rdh);
            let at = base.wrapping_add(u64::from(head) * 16);
            // A null address skips the buffer. What points outside memory is lost, as on a bus
            // where nothing answers.
            if let Ok(address @ 1..) = dma.read_u64(at) {
                _ = dma.write(address, piece);
            }
            let last = i + 1 == pieces;
            let mut back = [0; 8];
            back[..2].copy_from_slice(&(piece.len() as u16).to_le_bytes());
            back[2..4].copy_from_slice(&packet.to_le_bytes());
            (back[4], back[5]) = if last { (status, errors) } else { (status & !EOP, 0) };
            back[6..].copy_from_slice(&special.to_le_bytes());
            _ = dma.write(at.wrapping_add(8), &back);
            self.set(Reg::Rdh, (head + 1) % count);
        }
        self.count_received(frame);
        true
    }

    fn checksums(&self, frame: &[u8]) -> (u8, u8) {
        let wanted = self.get(Reg::Rxcsum);
        let Some(found) = frame::transport(frame) else { return (IXSM, 0) };
        let (mut status, mut errors) = (0, 0);
        if wanted & RXCSUM_IP != 0 {
            status |= IPCS;
            errors |= if found.ip_good { 0 } else { IPE };
        }
        if let (true, Some(good)) = (wanted & RXCSUM_TCP != 0, found.good) {
            status |= TCPCS;
            errors |= if good { 0 } else { TCPE };
        }
        if status == 0 { (IXSM, 0) } else { (status, errors) }
    }

    /// The unadjusted sum from a chosen place on (13.4.38).
    fn packet_checksum(&self, frame: &[u8]) -> u16 {
        let start = (self.get(Reg::Rxcsum) & 0xff) as usize;
        frame.get(start..).map_or(0, |part| frame::fold(frame::sum(part)))
    }

    fn count_received(&mut self, frame: &[u8]) {
        let wire = frame.len() + 4;
        self.count(Reg::Gprc, 1);
        self.count_bytes(Reg::Gorcl, Reg::Gorch, wire);
        match destination(frame) {
            Some(BROADCAST) => self.count(Reg::Bprc, 1),
            Some(to) if to[0] & 1 != 0 => self.count(Reg::Mprc, 1),
            _ => {}
        }
        let reg = match wire {
            0..=64 => Reg::Prc64,
            65..=127 => Reg::Prc127,
            128..=255 => Reg::Prc255,
            256..=511 => Reg::Prc511,
            512..=1023 => Reg::Prc1023,
            _ => Reg::Prc1522,
        };
        self.count(reg, 1);
    }
}
