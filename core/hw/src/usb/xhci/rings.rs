//! Rings in memory: xHCI 1.1 chapters 4.9 and 6.4.

use bitfield_struct::bitfield;
use orrery_system::Dma;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Links in a row that it follows.
const LINKS: usize = 16;
/// Events that it keeps while the ring is full.
const WAITING: usize = 1024;
/// Segments of an event ring.
const SEGMENTS: u32 = 256;

/// Types of ring entries, table 6-86.
pub(super) mod kind {
    pub(in super::super) const NORMAL: u8 = 1;
    pub(in super::super) const SETUP: u8 = 2;
    pub(in super::super) const DATA: u8 = 3;
    pub(in super::super) const STATUS: u8 = 4;
    pub(in super::super) const ISOCHRONOUS: u8 = 5;
    pub(in super::super) const LINK: u8 = 6;
    pub(in super::super) const EVENT_DATA: u8 = 7;
    pub(in super::super) const NOTHING: u8 = 8;
    pub(in super::super) const TRANSFER_EVENT: u8 = 32;
    pub(in super::super) const COMMAND_EVENT: u8 = 33;
    pub(in super::super) const PORT_EVENT: u8 = 34;
}

/// Completion codes, table 6-90.
pub(super) mod code {
    pub(in super::super) const SUCCESS: u8 = 1;
    pub(in super::super) const BABBLE: u8 = 3;
    pub(in super::super) const TRANSACTION: u8 = 4;
    pub(in super::super) const TRB: u8 = 5;
    pub(in super::super) const STALL: u8 = 6;
    pub(in super::super) const NO_SLOTS: u8 = 9;
    pub(in super::super) const SLOT_OFF: u8 = 11;
    pub(in super::super) const SHORT: u8 = 13;
    pub(in super::super) const PARAMETER: u8 = 17;
    pub(in super::super) const STATE: u8 = 19;
    pub(in super::super) const RING_STOPPED: u8 = 24;
    pub(in super::super) const STOPPED: u8 = 26;
}

/// The last word of an entry.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Control {
    pub(super) cycle: bool,
    /// Of a link: the cycle bit changes.
    pub(super) toggle: bool,
    /// A short packet makes an event.
    pub(super) short: bool,
    __: bool,
    pub(super) chain: bool,
    pub(super) interrupt: bool,
    /// The data are in the entry itself.
    pub(super) immediate: bool,
    #[bits(3)]
    __: u8,
    #[bits(6)]
    pub(super) kind: u8,
    /// Of stages: towards the host. Endpoint in commands.
    #[bits(5)]
    pub(super) endpoint: u8,
    #[bits(3)]
    __: u8,
    pub(super) slot: u8,
}

/// An entry of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trb {
    /// Where it is.
    pub(super) at: u64,
    pub(super) parameter: u64,
    pub(super) status: u32,
    pub(super) control: Control,
}

impl Trb {
    /// Reads the entry at `at`.
    pub(super) fn read(dma: &Dma, at: u64) -> Option<Self> {
        let mut b = [0; 16];
        dma.read(at, &mut b).ok()?;
        let word = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let parameter = u64::from(word(0)) | u64::from(word(4)) << 32;
        Some(Self { at, parameter, status: word(8), control: Control::from_bits(word(12)) })
    }

    /// Bytes of a transfer entry.
    pub(super) fn len(&self) -> u32 {
        self.status & 0x1_ffff
    }
}

/// A ring that the controller reads: where it is, and the cycle bit of what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ring {
    pub(super) at: u64,
    pub(super) cycle: bool,
}

impl Default for Ring {
    fn default() -> Self {
        Self { at: 0, cycle: true }
    }
}

impl Ring {
    /// The next entry, links followed; `None`: nothing new.
    pub(super) fn next(&mut self, dma: &Dma) -> Option<Trb> {
        for _ in 0..LINKS {
            let trb = Trb::read(dma, self.at)?;
            if trb.control.cycle() != self.cycle {
                return None;
            }
            if trb.control.kind() != kind::LINK {
                self.at = self.at.wrapping_add(16);
                return Some(trb);
            }
            self.at = trb.parameter & !0xf;
            self.cycle ^= trb.control.toggle();
        }
        None
    }
}

/// The event ring, which the controller writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Events {
    pub(super) management: u32,
    pub(super) moderation: u32,
    pub(super) table_size: u32,
    pub(super) table: u64,
    pub(super) dequeue: u64,
    /// Where the next event goes: segment, its first entry, entries, the next entry; and the cycle bit.
    segment: u32,
    base: u64,
    size: u32,
    next: u32,
    cycle: bool,
    /// Events that are not in memory yet: parameter, status, control.
    waiting: VecDeque<(u64, u32, u32)>,
}

impl Events {
    pub(super) fn is_sane(&self) -> bool {
        self.waiting.len() <= WAITING
    }

    /// Begins at the table's first segment.
    pub(super) fn begin(&mut self, dma: &Dma) {
        (self.segment, self.next, self.cycle) = (0, 0, true);
        self.load(dma);
    }

    fn load(&mut self, dma: &Dma) {
        let at = self.table.wrapping_add(16 * u64::from(self.segment));
        let base = dma.read_u64(at).unwrap_or(0) & !0x3f;
        let size = dma.read_u32(at.wrapping_add(8)).unwrap_or(0) & 0xffff;
        (self.base, self.size) = (base, size);
    }

    fn place(&self) -> u64 {
        self.base.wrapping_add(16 * u64::from(self.next))
    }

    fn push(&mut self, parameter: u64, status: u32, control: Control) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back((parameter, status, control.into_bits()));
        }
    }

    /// A port changed.
    pub(super) fn push_port(&mut self, port: u8) {
        let control = Control::new().with_kind(kind::PORT_EVENT);
        self.push(u64::from(port) << 24, u32::from(code::SUCCESS) << 24, control);
    }

    /// A command is over; `kind` is usually [`kind::COMMAND_EVENT`].
    pub(super) fn push_command(&mut self, kind: u8, at: u64, code: u8, value: u32, slot: u8) {
        let control = Control::new().with_kind(kind).with_slot(slot);
        self.push(at, u32::from(code) << 24 | value & 0xff_ffff, control);
    }

    /// A transfer is over; `data` says that the event was one that software put into the ring.
    pub(super) fn push_transfer(
        &mut self,
        at: u64,
        code: u8,
        left: u32,
        place: (u8, u8),
        data: bool,
    ) {
        let control = Control::new()
            .with_kind(kind::TRANSFER_EVENT)
            .with_slot(place.0)
            .with_endpoint(place.1)
            .with_short(data);
        self.push(at, u32::from(code) << 24 | left & 0xff_ffff, control);
    }

    /// Writes what waits as far as there is room. Says whether there was anything.
    pub(super) fn flush(&mut self, dma: &Dma) -> bool {
        let mut any = false;
        while !self.waiting.is_empty() && self.table_size != 0 && dma.is_enabled() {
            if self.size == 0 {
                self.load(dma);
            }
            if self.next >= self.size {
                self.segment += 1;
                if self.segment >= self.table_size.min(SEGMENTS) {
                    (self.segment, self.cycle) = (0, !self.cycle);
                }
                self.next = 0;
                self.load(dma);
                if self.size == 0 {
                    break;
                }
            }
            // One entry stays free, so that full is not empty.
            let last = self.next + 1 >= self.size;
            let after = if last && self.table_size == 1 {
                self.base
            } else {
                self.place().wrapping_add(16)
            };
            if after == self.dequeue & !0xf {
                break;
            }
            let Some((parameter, status, control)) = self.waiting.pop_front() else { break };
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&parameter.to_le_bytes());
            bytes[8..12].copy_from_slice(&status.to_le_bytes());
            let control = control & !1 | u32::from(self.cycle);
            bytes[12..].copy_from_slice(&control.to_le_bytes());
            _ = dma.write(self.place(), &bytes);
            self.next += 1;
            any = true;
        }
        if any {
            self.dequeue |= 8;
        }
        any
    }
}
