//! The lists in memory: OHCI 1.0a chapters 4, 5 and 6.

use super::{NEVER, Ohci, PORTS, cause, command};
use crate::usb::device::{Handle, In, Out};
use bitfield_struct::bitfield;
use orrery_system::Dma;

/// Endpoints and transfers that it looks at in a frame.
const STEPS: usize = 1024;
/// Bytes of data that a frame has room for.
const BANDWIDTH: usize = 1280;

/// First word of an endpoint descriptor, 4.2.
#[bitfield(u32)]
struct Endpoint {
    #[bits(7)]
    address: u8,
    #[bits(4)]
    number: u8,
    /// 1 out, 2 in, else the transfer says.
    #[bits(2)]
    direction: u8,
    low_speed: bool,
    skip: bool,
    isochronous: bool,
    #[bits(11)]
    packet: u16,
    #[bits(5)]
    __: u8,
}

/// First word of a transfer descriptor, 4.3.1.
#[bitfield(u32)]
struct Transfer {
    #[bits(18)]
    __: u32,
    /// Less than all is all right.
    rounding: bool,
    /// 0 setup, 1 out, 2 in.
    #[bits(2)]
    direction: u8,
    /// Frames until it is told that it is over; 7: never.
    #[bits(3)]
    delay: u8,
    #[bits(2)]
    toggle: u8,
    #[bits(2)]
    errors: u8,
    #[bits(4)]
    code: u8,
}

/// Completion codes, table 4-7.
mod code {
    pub(super) const GOOD: u8 = 0;
    pub(super) const STALL: u8 = 4;
    pub(super) const SILENCE: u8 = 5;
    pub(super) const BAD_PID: u8 = 7;
    pub(super) const OVERRUN: u8 = 8;
    pub(super) const UNDERRUN: u8 = 9;
}

const HALTED: u32 = 1;
const CARRY: u32 = 2;

fn words(dma: &Dma, at: u32) -> Option<[u32; 4]> {
    let mut b = [0; 16];
    dma.read(at.into(), &mut b).ok()?;
    Some(std::array::from_fn(|i| {
        u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]])
    }))
}

fn put(dma: &Dma, at: u32, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    _ = dma.write(at.into(), &bytes);
}

/// The buffer of a transfer: from `now` to `end`, which may be in another page.
#[derive(Clone, Copy)]
struct Buffer {
    now: u32,
    end: u32,
}

impl Buffer {
    fn two_pages(self) -> bool {
        (self.now ^ self.end) & !0xfff != 0
    }

    fn len(self) -> usize {
        let offset = |v: u32| (v & 0xfff) as usize;
        match (self.now, self.two_pages()) {
            (0, _) => 0,
            (_, false) => (offset(self.end) + 1).saturating_sub(offset(self.now)),
            (_, true) => 0x1000 - offset(self.now) + offset(self.end) + 1,
        }
    }

    /// The guest addresses of the next `len` bytes, in at most two pieces.
    fn pieces(self, len: usize) -> [(u64, usize); 2] {
        let first = match self.two_pages() {
            true => len.min(0x1000 - (self.now & 0xfff) as usize),
            false => len,
        };
        [(self.now.into(), first), ((self.end & !0xfff).into(), len - first)]
    }

    fn moved(&mut self, len: usize) {
        let here = 0x1000 - (self.now & 0xfff) as usize;
        self.now = match self.two_pages() && len >= here {
            true => (self.end & !0xfff) + (len - here) as u32,
            false => self.now.wrapping_add(len as u32),
        };
    }
}

/// What came of a packet.
enum Answer {
    Moved(usize),
    Nak,
    Failed(u8),
    NoMemory,
}

/// Sends one packet.
fn transact(
    device: &Handle,
    dma: &Dma,
    number: u8,
    direction: u8,
    at: Buffer,
    len: usize,
) -> Answer {
    let mut device = device.lock().expect("no panic while held");
    let pieces = at.pieces(len);
    if direction == 2 {
        return match device.input(number, len) {
            In::Data(data) if data.len() > len => Answer::Failed(code::OVERRUN),
            In::Data(data) => {
                let mut rest = &data[..];
                for (at, n) in pieces {
                    let (now, later) = rest.split_at(n.min(rest.len()));
                    if !now.is_empty() && dma.write(at, now).is_err() {
                        return Answer::NoMemory;
                    }
                    rest = later;
                }
                Answer::Moved(data.len())
            }
            In::Nak => Answer::Nak,
            In::Stall => Answer::Failed(code::STALL),
        };
    }
    let mut data = vec![0; len];
    let (first, second) = data.split_at_mut(pieces[0].1);
    for ((at, _), part) in pieces.into_iter().zip([first, second]) {
        if !part.is_empty() && dma.read(at, part).is_err() {
            return Answer::NoMemory;
        }
    }
    let answer = match (direction, <[u8; 8]>::try_from(&data[..])) {
        (0, Ok(bytes)) => device.setup(bytes),
        (1, _) => device.output(number, &data),
        _ => return Answer::Failed(code::BAD_PID),
    };
    match answer {
        Out::Ack => Answer::Moved(len),
        Out::Nak => Answer::Nak,
        Out::Stall => Answer::Failed(code::STALL),
    }
}

/// What was done for an endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    /// There was nothing to do.
    Idle,
    /// It is to be asked again.
    Waits,
    /// Packets went through.
    Moved,
}

impl Ohci {
    /// The device with this address behind a port that lets packets through.
    fn find(&self, address: u8) -> Option<Handle> {
        let open = |n: &usize| {
            let p = self.state.ports[*n];
            p.enabled() && !p.suspended()
        };
        (0..PORTS).filter(open).filter_map(|n| self.socket(n)).find_map(|s| s.find(address))
    }

    /// Memory does not answer: it stops until it is reset.
    fn broken(&mut self) {
        self.state.causes |= cause::BROKEN;
        self.state.control.set_bus(super::bus_state::RESET);
        self.state.next = None;
    }

    /// A frame.
    pub(super) fn frame(&mut self, dma: &Dma) {
        let before = self.state.frame;
        self.state.frame = before.wrapping_add(1);
        if (before ^ self.state.frame) & 0x8000 != 0 {
            self.state.causes |= cause::ROLLOVER;
        }
        // The frame's number, and a word that is zero when it changes.
        let number = u32::from(self.state.frame).to_le_bytes();
        if dma.write(u64::from(self.state.area) + 0x80, &number).is_err() {
            return self.broken();
        }
        let mut room = BANDWIDTH;
        if self.state.control.periodic() {
            let entry = u64::from(self.state.area) + 4 * u64::from(self.state.frame & 31);
            let Ok(head) = dma.read_u32(entry) else { return self.broken() };
            self.list(dma, head, &mut room, 1);
        }
        let lists = [
            (self.state.control.control(), command::CONTROL_FILLED),
            (self.state.control.bulk(), command::BULK_FILLED),
        ];
        loop {
            let mut moved = false;
            for (n, (on, filled)) in lists.into_iter().enumerate() {
                if !on || self.state.command & filled == 0 || !self.state.runs() {
                    continue;
                }
                self.state.command &= !filled;
                let served = self.list(dma, self.state.heads[n], &mut room, 4);
                if served != Served::Idle {
                    self.state.command |= filled;
                }
                moved |= served == Served::Moved;
            }
            if !moved || room == 0 || !self.state.runs() {
                break;
            }
        }
        if self.state.runs() {
            self.hand_over(dma);
            self.state.causes |= cause::FRAME;
        }
    }

    /// Hands the done queue over when it is time.
    fn hand_over(&mut self, dma: &Dma) {
        let s = &mut self.state;
        if s.delay == 0 && s.causes & cause::DONE == 0 {
            let others = s.causes & s.enable & cause::ALL & !cause::DONE != 0;
            let head = s.done | u32::from(others);
            put(dma, s.area.wrapping_add(0x84), &[head]);
            s.causes |= cause::DONE;
            (s.done, s.delay) = (0, NEVER);
        } else if s.delay != 0 && s.delay != NEVER {
            s.delay -= 1;
        }
    }

    /// Goes through a list of endpoints; each gets as many packets at most.
    fn list(&mut self, dma: &Dma, head: u32, room: &mut usize, packets: usize) -> Served {
        let mut served = Served::Idle;
        let mut at = head & !0xf;
        for _ in 0..STEPS {
            if at == 0 || *room == 0 {
                break;
            }
            let Some(ed) = words(dma, at) else {
                self.broken();
                break;
            };
            let now = self.serve(dma, at, ed, room, packets);
            if !self.state.runs() {
                break;
            }
            served = match (served, now) {
                (Served::Moved, _) | (_, Served::Moved) => Served::Moved,
                (Served::Waits, _) | (_, Served::Waits) => Served::Waits,
                _ => Served::Idle,
            };
            at = ed[3] & !0xf;
        }
        served
    }

    /// Works on an endpoint.
    fn serve(
        &mut self,
        dma: &Dma,
        at: u32,
        mut ed: [u32; 4],
        room: &mut usize,
        packets: usize,
    ) -> Served {
        let endpoint = Endpoint::from_bits(ed[0]);
        let mut served = Served::Idle;
        if endpoint.skip() {
            return served;
        }
        let device = self.find(endpoint.address());
        for _ in 0..packets.max(1) {
            let td_at = ed[2] & !0xf;
            if ed[2] & HALTED != 0 || td_at == ed[1] & !0xf || *room == 0 || !self.state.runs() {
                break;
            }
            if endpoint.isochronous() {
                if !self.state.control.isochronous()
                    || !self.isochronous(dma, &device, endpoint, &mut ed)
                {
                    break;
                }
                put(dma, at + 8, &[ed[2]]);
                continue;
            }
            let Some(mut td) = words(dma, td_at) else {
                self.broken();
                break;
            };
            let transfer = Transfer::from_bits(td[0]);
            let direction = match endpoint.direction() {
                1 => 1,
                2 => 2,
                _ => transfer.direction(),
            };
            let mut buffer = Buffer { now: td[1], end: td[3] };
            let total = buffer.len();
            let len = total.min(endpoint.packet().max(8).into());
            let answer = match &device {
                Some(device) => transact(device, dma, endpoint.number(), direction, buffer, len),
                None => Answer::Failed(code::SILENCE),
            };
            match answer {
                Answer::Moved(n) => {
                    served = Served::Moved;
                    *room = room.saturating_sub(n.max(8));
                    let toggle = self.toggle(transfer, ed[2]) ^ 1;
                    buffer.moved(n);
                    let short = direction == 2 && n < len;
                    let over = short || n == total;
                    let mut transfer =
                        transfer.with_toggle(2 | toggle as u8).with_errors(0).with_code(code::GOOD);
                    td[1] = if n == total { 0 } else { buffer.now };
                    ed[2] = ed[2] & !CARRY | toggle << 1;
                    if short && !transfer.rounding() {
                        transfer.set_code(code::UNDERRUN);
                    }
                    td[0] = transfer.into_bits();
                    if over {
                        self.retire(dma, td_at, td, &mut ed);
                    } else {
                        put(dma, td_at, &td[..2]);
                    }
                    put(dma, at + 8, &[ed[2]]);
                    if short {
                        break;
                    }
                }
                Answer::Nak => {
                    if served == Served::Idle {
                        served = Served::Waits;
                    }
                    break;
                }
                Answer::Failed(code::SILENCE) if transfer.errors() < 2 => {
                    td[0] = transfer.with_errors(transfer.errors() + 1).into_bits();
                    put(dma, td_at, &td[..1]);
                    served = Served::Waits;
                    break;
                }
                Answer::Failed(why) => {
                    td[0] = transfer.with_code(why).into_bits();
                    self.retire(dma, td_at, td, &mut ed);
                    put(dma, at + 8, &[ed[2]]);
                    served = Served::Moved;
                    break;
                }
                Answer::NoMemory => {
                    self.broken();
                    break;
                }
            }
        }
        served
    }

    /// The toggle of the next packet: the transfer's own, or the endpoint's.
    fn toggle(&self, transfer: Transfer, head: u32) -> u32 {
        match transfer.toggle() {
            t @ 2.. => u32::from(t & 1),
            _ => head >> 1 & 1,
        }
    }

    /// Takes a transfer off its endpoint and puts it into the done queue.
    fn retire(&mut self, dma: &Dma, at: u32, mut td: [u32; 4], ed: &mut [u32; 4]) {
        let transfer = Transfer::from_bits(td[0]);
        ed[2] = td[2] & !0xf | ed[2] & CARRY;
        let mut delay = transfer.delay();
        if transfer.code() != code::GOOD {
            ed[2] |= HALTED;
            delay = 0;
        }
        td[2] = self.state.done;
        put(dma, at, &td[..3]);
        self.state.done = at;
        self.state.delay = self.state.delay.min(delay);
    }

    /// The part of an isochronous transfer for this frame (4.3.2). Says whether the endpoint has another one to look at.
    fn isochronous(
        &mut self,
        dma: &Dma,
        device: &Option<Handle>,
        endpoint: Endpoint,
        ed: &mut [u32; 4],
    ) -> bool {
        let at = ed[2] & !0xf;
        let (Some(mut td), Some(offsets)) = (words(dma, at), words(dma, at.wrapping_add(16)))
        else {
            self.broken();
            return false;
        };
        let count = td[0] >> 24 & 7;
        let n = self.state.frame.wrapping_sub(td[0] as u16) as i16;
        if n < 0 {
            return false;
        }
        let n = n as u32;
        if n > count {
            // Its time is over.
            td[0] = td[0] & 0x0fff_ffff | u32::from(code::OVERRUN) << 28;
            let carry = ed[2];
            self.retire(dma, at, td, ed);
            ed[2] = ed[2] & !(HALTED | CARRY) | carry & CARRY;
            return true;
        }
        let offset = |i: u32| offsets[(i / 2) as usize] >> (16 * (i % 2)) & 0xffff;
        let place =
            |o: u32| if o & 0x1000 == 0 { td[1] & !0xfff } else { td[3] & !0xfff } | o & 0xfff;
        let start = place(offset(n));
        let end = if n == count { td[3] } else { place(offset(n + 1).wrapping_sub(1)) };
        let buffer = Buffer { now: start, end };
        let len = buffer.len().min(endpoint.packet().into());
        let direction = endpoint.direction();
        let answer = match device {
            Some(device) => transact(device, dma, endpoint.number(), direction, buffer, len),
            None => Answer::Failed(code::SILENCE),
        };
        let (why, size) = match answer {
            Answer::Moved(moved) if direction == 2 && moved < len => (code::UNDERRUN, moved),
            Answer::Moved(moved) => (code::GOOD, if direction == 2 { moved } else { 0 }),
            Answer::Nak => (code::UNDERRUN, 0),
            Answer::Failed(why) => (why, 0),
            Answer::NoMemory => {
                self.broken();
                return false;
            }
        };
        let status = (u16::from(why) << 12 | size as u16 & 0x7ff).to_le_bytes();
        _ = dma.write(u64::from(at) + 16 + 2 * u64::from(n), &status);
        if n == count {
            td[0] &= 0x0fff_ffff;
            self.retire(dma, at, td, ed);
        }
        false
    }
}
