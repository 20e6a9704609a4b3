//! The schedules in memory: EHCI 1.0 chapters 3 and 4.

use super::Ehci;
use crate::usb::device::{Handle, In, Out};
use bitfield_struct::bitfield;
use orrery_system::Dma;

/// Entries of a schedule that it looks at in a microframe.
const STEPS: usize = 256;
/// Bytes that a microframe of the asynchronous schedule has room for.
const BANDWIDTH: usize = 13 * 512;

/// What a link leads to, 3.1.
mod kind {
    pub(super) const ITD: u32 = 0;
    pub(super) const QUEUE: u32 = 1;
}

/// Endpoint characteristics of a queue, 3.6.
#[bitfield(u32)]
struct Characteristics {
    #[bits(7)]
    address: u8,
    inactivate: bool,
    #[bits(4)]
    endpoint: u8,
    #[bits(2)]
    speed: u8,
    /// The toggle comes from the transfer, not from the queue.
    toggle: bool,
    /// The head of the list.
    head: bool,
    #[bits(11)]
    packet: u16,
    #[bits(5)]
    __: u8,
}

/// Status and length of a transfer, 3.5.
#[bitfield(u32)]
struct Token {
    ping: bool,
    split: bool,
    missed: bool,
    failed: bool,
    babble: bool,
    buffer: bool,
    halted: bool,
    active: bool,
    /// 0 out, 1 in, 2 setup.
    #[bits(2)]
    pid: u8,
    #[bits(2)]
    errors: u8,
    #[bits(3)]
    page: u8,
    interrupt: bool,
    #[bits(15)]
    total: u16,
    toggle: bool,
}

/// A queue as it lies in memory.
struct Queue {
    at: u32,
    words: [u32; 12],
}

const CURRENT: usize = 3;
const NEXT: usize = 4;
const ALTERNATE: usize = 5;
const TOKEN: usize = 6;
const BUFFERS: usize = 7;

fn words<const N: usize>(dma: &Dma, at: u32) -> Option<[u32; N]> {
    let mut out = [0; N];
    for (i, w) in out.iter_mut().enumerate() {
        *w = dma.read_u32(u64::from(at) + 4 * i as u64).ok()?;
    }
    Some(out)
}

impl Queue {
    fn read(dma: &Dma, at: u32) -> Option<Self> {
        Some(Self { at, words: words(dma, at)? })
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::from_bits(self.words[1])
    }

    fn token(&self) -> Token {
        Token::from_bits(self.words[TOKEN])
    }

    fn set_token(&mut self, token: Token) {
        self.words[TOKEN] = token.into_bits();
    }

    /// Writes back what the controller owns of it.
    fn write(&self, dma: &Dma) {
        let bytes: Vec<u8> = self.words[CURRENT..].iter().flat_map(|w| w.to_le_bytes()).collect();
        _ = dma.write(u64::from(self.at) + 4 * CURRENT as u64, &bytes);
    }

    /// Goes on to the next transfer, if there is one (4.10.2).
    fn advance(&mut self, dma: &Dma) -> bool {
        let old = self.token();
        let alternate = self.words[ALTERNATE];
        let short = old.total() != 0 && alternate & 1 == 0;
        let next = if short { alternate } else { self.words[NEXT] };
        if next & 1 != 0 {
            return false;
        }
        let at = next & !0x1f;
        let Some(td) = words::<8>(dma, at) else { return false };
        let mut token = Token::from_bits(td[2]);
        if !token.active() {
            return false;
        }
        if !self.characteristics().toggle() {
            token.set_toggle(old.toggle());
        }
        self.words[CURRENT] = at;
        self.words[NEXT..].copy_from_slice(&td);
        self.set_token(token);
        true
    }

    /// The guest addresses of the next `len` bytes of the buffer: at most two pieces for a packet.
    fn pieces(&self, len: usize) -> Option<Vec<(u64, usize)>> {
        let mut page = usize::from(self.token().page());
        let mut offset = self.words[BUFFERS] & 0xfff;
        let mut left = len;
        let mut out = Vec::new();
        while left > 0 {
            let base = *self.words[BUFFERS..].get(page)? & !0xfff;
            let n = left.min(0x1000 - offset as usize);
            out.push((u64::from(base | offset), n));
            (left, offset, page) = (left - n, 0, page + 1);
        }
        Some(out)
    }

    /// Moves the place in the buffer.
    fn moved(&mut self, len: usize) {
        let mut token = self.token();
        let offset = (self.words[BUFFERS] & 0xfff) as usize + len;
        token.set_page((usize::from(token.page()) + offset / 0x1000).min(7) as u8);
        token.set_total(token.total().saturating_sub(len as u16));
        token.set_toggle(!token.toggle());
        self.words[BUFFERS] = self.words[BUFFERS] & !0xfff | (offset & 0xfff) as u32;
        self.set_token(token);
    }
}

/// What came of a packet.
enum Answer {
    Moved(usize),
    Nak,
    Stall,
    Silence,
    Babble,
    NoMemory,
}

/// Sends one packet of a queue's transfer.
fn transact(device: &Handle, q: &Queue, dma: &Dma) -> Answer {
    let (c, token) = (q.characteristics(), q.token());
    let len = usize::from(token.total()).min(usize::from(c.packet()));
    let Some(pieces) = q.pieces(len) else { return Answer::NoMemory };
    let mut device = device.lock().expect("no panic while held");
    if token.pid() == 1 {
        return match device.input(c.endpoint(), len) {
            In::Data(data) if data.len() > len => Answer::Babble,
            In::Data(data) => {
                let mut rest = &data[..];
                for (at, n) in pieces {
                    let (now, later) = rest.split_at(n.min(rest.len()));
                    if dma.write(at, now).is_err() {
                        return Answer::NoMemory;
                    }
                    rest = later;
                }
                Answer::Moved(data.len())
            }
            In::Nak => Answer::Nak,
            In::Stall => Answer::Stall,
        };
    }
    let mut data = vec![0; len];
    let mut done = 0;
    for (at, n) in pieces {
        if dma.read(at, &mut data[done..done + n]).is_err() {
            return Answer::NoMemory;
        }
        done += n;
    }
    let answer = match (token.pid(), <[u8; 8]>::try_from(&data[..])) {
        (2, Ok(bytes)) => device.setup(bytes),
        (0, _) => device.output(c.endpoint(), &data),
        _ => return Answer::Silence,
    };
    match answer {
        Out::Ack => Answer::Moved(len),
        Out::Nak => Answer::Nak,
        Out::Stall => Answer::Stall,
    }
}

impl Ehci {
    /// The device with this address behind a port that lets packets through.
    fn find(&self, address: u8) -> Option<Handle> {
        let open = |n: &usize| {
            let p = self.state.ports[*n];
            p.enabled() && !p.suspended()
        };
        let mut sockets = (0..super::PORTS).filter(open).filter_map(|n| self.socket(n));
        sockets.find_map(|s| s.find(address))
    }

    /// Works on a queue, with room for `room` bytes. Says how many were moved, packets counting as 8 at least.
    fn serve(&mut self, dma: &Dma, q: &mut Queue, room: usize) -> usize {
        let mut used = 0;
        let mut device = None;
        while used < room {
            let token = q.token();
            if token.halted() {
                break;
            }
            if !token.active() && !q.advance(dma) {
                break;
            }
            if device.is_none() {
                device = self.find(q.characteristics().address());
            }
            let answer = match &device {
                Some(device) => transact(device, q, dma),
                None => Answer::Silence,
            };
            let packet = usize::from(q.characteristics().packet());
            match answer {
                Answer::Moved(n) => {
                    let input = q.token().pid() == 1;
                    let wanted = usize::from(q.token().total());
                    q.moved(n);
                    used += n.max(8);
                    let short = input && n < packet.min(wanted);
                    if short || q.token().total() == 0 {
                        q.set_token(q.token().with_active(false));
                        self.finish(dma, q, short);
                    }
                }
                Answer::Nak => break,
                Answer::Stall | Answer::Babble => {
                    let babble = matches!(answer, Answer::Babble);
                    let token = q.token().with_active(false).with_halted(true);
                    q.set_token(token.with_babble(babble));
                    self.state.status.set_error(true);
                    self.finish(dma, q, false);
                }
                Answer::Silence => {
                    // Three errors in a row are the end; 0 counts for ever.
                    let token = q.token().with_failed(true);
                    let left = token.errors();
                    q.set_token(token.with_errors(left.saturating_sub(1)));
                    if left == 1 {
                        q.set_token(q.token().with_active(false).with_halted(true));
                        self.state.status.set_error(true);
                        self.finish(dma, q, false);
                    }
                    used += 8;
                    break;
                }
                Answer::NoMemory => {
                    self.stop();
                    break;
                }
            }
        }
        q.write(dma);
        used
    }

    /// Writes back a transfer that is over.
    fn finish(&mut self, dma: &Dma, q: &Queue, short: bool) {
        let at = u64::from(q.words[CURRENT] & !0x1f) + 8;
        _ = dma.write(at, &q.words[TOKEN].to_le_bytes());
        if q.token().interrupt() || short {
            self.state.status.set_interrupt(true);
        }
    }

    /// Goes once round the asynchronous schedule, and again while data move.
    pub(super) fn asynchronous(&mut self, dma: &Dma) {
        self.state.busy = false;
        if !self.state.command.run() {
            return;
        }
        if self.state.command.asynchronous() {
            let mut room = BANDWIDTH;
            loop {
                let moved = self.round(dma, room);
                self.state.busy |= moved > 0;
                room = room.saturating_sub(moved);
                if moved == 0 || room == 0 || !self.state.command.run() {
                    break;
                }
            }
        }
        if self.state.command.doorbell() {
            self.state.command.set_doorbell(false);
            self.state.status.set_advance(true);
        }
    }

    fn round(&mut self, dma: &Dma, room: usize) -> usize {
        let first = self.state.asynchronous;
        let mut at = first;
        let mut moved = 0;
        for _ in 0..STEPS {
            let Some(mut q) = Queue::read(dma, at) else {
                self.stop();
                break;
            };
            // A few packets each, so that all get their turn.
            let share = (room - moved).min(4 * 512);
            moved += self.serve(dma, &mut q, share);
            let next = q.words[0];
            at = next & !0x1f;
            let queue = next >> 1 & 3 == kind::QUEUE;
            if next & 1 != 0 || !queue || at == first || moved >= room {
                break;
            }
        }
        moved
    }

    /// Goes through the frame list's entry for a microframe.
    pub(super) fn microframe(&mut self, dma: &Dma) {
        if !self.state.command.periodic() {
            return;
        }
        let (frame, micro) = (self.state.frame >> 3, self.state.frame & 7);
        let entries = 1024 >> self.state.command.list_size().min(2);
        let list = self.state.periodic.wrapping_add(frame % entries * 4);
        let Ok(mut link) = dma.read_u32(list.into()) else { return self.stop() };
        for _ in 0..STEPS {
            if link & 1 != 0 || !self.state.command.run() {
                return;
            }
            let at = link & !0x1f;
            link = match link >> 1 & 3 {
                kind::QUEUE => {
                    let Some(mut q) = Queue::read(dma, at) else { return self.stop() };
                    if q.words[2] >> micro & 1 != 0 {
                        // As many packets as it may have in a microframe.
                        let many = (q.words[2] >> 30).max(1) as usize;
                        let packet = usize::from(q.characteristics().packet()).max(8);
                        self.serve(dma, &mut q, many * packet);
                    }
                    q.words[0]
                }
                kind::ITD => match self.isochronous(dma, at, micro) {
                    Some(next) => next,
                    None => return self.stop(),
                },
                // Split transfers, and places where they go back.
                _ => match dma.read_u32(at.into()) {
                    Ok(next) => next,
                    Err(_) => return self.stop(),
                },
            };
        }
    }

    /// The part of an isochronous transfer for this microframe (3.3). Gives the next link.
    fn isochronous(&mut self, dma: &Dma, at: u32, micro: u32) -> Option<u32> {
        let td = words::<16>(dma, at)?;
        let slot = td[1 + micro as usize];
        if slot & 1 << 31 == 0 {
            return Some(td[0]);
        }
        let (endpoint, address) = ((td[9] >> 8 & 15) as u8, (td[9] & 0x7f) as u8);
        let (input, packet) = (td[10] & 0x800 != 0, (td[10] & 0x7ff) as usize);
        let many = (td[11] & 3).max(1) as usize;
        let len = ((slot >> 16 & 0xfff) as usize).min(packet.max(1) * many);
        let page = (slot >> 12 & 7) as usize;
        let mut data = vec![0; len];
        let base = |i: usize| u64::from(td.get(9 + i).copied().unwrap_or(0) & !0xfff);
        let start = base(page) + u64::from(slot & 0xfff);
        let first = len.min(0x1000 - (slot & 0xfff) as usize);
        let mut status = 0;
        let mut done = len;
        let device = self.find(address);
        if let Some(device) = device {
            let mut device = device.lock().expect("no panic while held");
            if input {
                let mut got = Vec::new();
                while got.len() < len {
                    let most = packet.min(len - got.len());
                    match device.input(endpoint, most) {
                        In::Data(part) => {
                            let n = part.len();
                            got.extend(part);
                            if n < packet {
                                break;
                            }
                        }
                        In::Nak => break,
                        In::Stall => {
                            status = 1 << 28;
                            break;
                        }
                    }
                }
                done = got.len().min(len);
                let cut = first.min(done);
                dma.write(start, &got[..cut]).ok()?;
                dma.write(base(page + 1), &got[cut..done]).ok()?;
            } else {
                dma.read(start, &mut data[..first]).ok()?;
                dma.read(base(page + 1), &mut data[first..]).ok()?;
                for part in data.chunks(packet.max(1)) {
                    _ = device.output(endpoint, part);
                }
            }
        } else {
            status = 1 << 28;
            done = 0;
        }
        let word = slot & 0x0000_ffff | (done as u32) << 16 | status;
        _ = dma.write(u64::from(at) + 4 + 4 * u64::from(micro), &word.to_le_bytes());
        if slot & 1 << 15 != 0 {
            self.state.status.set_interrupt(true);
        }
        Some(td[0])
    }
}
