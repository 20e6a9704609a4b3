//! Transfers: xHCI 1.1 chapters 4.10 and 4.11.

use super::rings::{Trb, code, kind};
use super::{Endpoint, MICROFRAME_NS, Xhci};
use crate::usb::device::{Handle, In, Out};
use orrery_system::Dma;

/// Entries of one transfer.
const ENTRIES: usize = 512;
/// Bytes, and transfers, that it moves before others get their turn.
const BYTES: usize = 1 << 20;
const TRANSFERS: usize = 256;

/// What became of a transfer.
enum Done {
    /// All of it, or as much as the device had: bytes.
    All(u32),
    /// The device has nothing yet.
    Waits,
    /// It failed.
    Failed(u8),
}

/// The entries of a transfer.
struct Td {
    entries: Vec<Trb>,
}

impl Td {
    fn total(&self) -> u32 {
        let data = |t: &&Trb| t.control.kind() != kind::EVENT_DATA;
        self.entries.iter().filter(data).map(Trb::len).fold(0, u32::saturating_add)
    }

    /// Calls `f` with the pieces of memory that bytes `from..from + len` are.
    fn pieces(&self, from: u32, len: u32, mut f: impl FnMut(Piece, usize) -> bool) -> bool {
        let (mut skip, mut left) = (from, len);
        for t in self.entries.iter().filter(|t| t.control.kind() != kind::EVENT_DATA) {
            let here = t.len();
            if skip >= here {
                skip -= here;
                continue;
            }
            let n = (here - skip).min(left);
            let piece = if t.control.immediate() {
                Piece::Here(t.parameter.to_le_bytes(), skip as usize)
            } else {
                Piece::At(t.parameter.wrapping_add(u64::from(skip)))
            };
            if n > 0 && !f(piece, n as usize) {
                return false;
            }
            (skip, left) = (0, left - n);
            if left == 0 {
                break;
            }
        }
        true
    }

    fn read(&self, dma: &Dma, from: u32, len: u32) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let whole = self.pieces(from, len, |piece, n| match piece {
            Piece::At(at) => {
                let mut part = vec![0; n];
                let read = dma.read(at, &mut part).is_ok();
                out.extend(part);
                read
            }
            Piece::Here(bytes, skip) => {
                out.extend(bytes.iter().skip(skip).take(n));
                true
            }
        });
        whole.then_some(out)
    }

    fn write(&self, dma: &Dma, from: u32, data: &[u8]) -> bool {
        let mut rest = data;
        self.pieces(from, data.len() as u32, |piece, n| {
            let (now, later) = rest.split_at(n.min(rest.len()));
            rest = later;
            match piece {
                Piece::At(at) => dma.write(at, now).is_ok(),
                Piece::Here(..) => true,
            }
        })
    }
}

enum Piece {
    At(u64),
    Here([u8; 8], usize),
}

impl Xhci {
    /// A doorbell: endpoint `n` of a slot has something to do.
    pub(super) fn ring(&mut self, slot: u8, n: u8) {
        let endpoint = self.state.slots.get_mut(&slot).and_then(|d| d.endpoints.get_mut(&n));
        if let Some(e) = endpoint {
            // A halted one waits for its reset; a stopped one runs again.
            if e.state == 3 {
                e.state = 1;
            }
            e.waits = e.state == 1;
        }
    }

    /// The device of a slot, where its port lets packets through.
    pub(super) fn device(&self, slot: u8) -> Option<Handle> {
        let d = self.state.slots.get(&slot)?;
        let port = usize::from(d.port.checked_sub(1)?);
        if !self.state.ports.get(port)?.enabled() {
            return None;
        }
        let mut device = self.at_port(port)?;
        for tier in 0..5 {
            let Some(n) = (d.route >> (4 * tier) & 15).checked_sub(1) else { break };
            let below = {
                let hub = device.lock().expect("no panic while held");
                let n = n as usize;
                if hub.passes(n) { hub.sockets().get(n)?.device() } else { None }
            };
            device = below?;
        }
        Some(device)
    }

    /// Works on the transfers of an endpoint.
    pub(super) fn transfers(&mut self, dma: &Dma, slot: u8, n: u8) {
        let Some(d) = self.state.slots.get(&slot) else { return };
        let Some(mut e) = d.endpoints.get(&n).cloned() else { return };
        let device = self.device(slot);
        let mut bytes = 0;
        e.waits = false;
        for turn in 0.. {
            if e.state != 1 {
                break;
            }
            if turn == TRANSFERS || bytes >= BYTES {
                e.waits = true;
                self.state.again = Some(self.wires.clock.now().after(MICROFRAME_NS));
                break;
            }
            let mut ring = e.ring;
            let Some(first) = ring.next(dma) else { break };
            let mut td = Td { entries: vec![first] };
            while td.entries.last().is_some_and(|t| t.control.chain()) {
                // A transfer that is not all there waits until it is.
                let Some(next) = ring.next(dma).filter(|_| td.entries.len() < ENTRIES) else {
                    break;
                };
                td.entries.push(next);
            }
            if td.entries.last().is_some_and(|t| t.control.chain()) {
                break;
            }
            let before = e.done;
            let done = match &device {
                Some(device) => carry_out(device, dma, &mut e, n, &td),
                None => Done::Failed(code::TRANSACTION),
            };
            bytes += e.done.saturating_sub(before) as usize + 8;
            match done {
                Done::Waits => {
                    e.waits = true;
                    break;
                }
                Done::All(moved) => {
                    self.report(&td, moved, (slot, n));
                    (e.ring, e.done) = (ring, 0);
                }
                Done::Failed(why) => {
                    let at = td.entries.first().map_or(0, |t| t.at);
                    let left = td.total().saturating_sub(e.done);
                    self.state.events.push_transfer(at, why, left, (slot, n), false);
                    (e.state, e.done) = (2, 0);
                    // Software finds its place from the context.
                    write_context(dma, &e);
                }
            }
        }
        if let Some(d) = self.state.slots.get_mut(&slot) {
            d.endpoints.insert(n, e);
        }
    }

    /// Events for a transfer of which `moved` bytes were moved.
    fn report(&mut self, td: &Td, moved: u32, place: (u8, u8)) {
        let short = moved < td.total();
        let mut left = moved;
        let mut told = false;
        let mut sum = 0;
        for t in &td.entries {
            if t.control.kind() == kind::EVENT_DATA {
                if t.control.interrupt() {
                    let code = if short { code::SHORT } else { code::SUCCESS };
                    self.state.events.push_transfer(t.parameter, code, sum, place, true);
                    sum = 0;
                }
                continue;
            }
            let here = t.len().min(left);
            left -= here;
            sum += here;
            let rest = t.len() - here;
            let c = t.control;
            if rest > 0 {
                if !told && (c.short() || c.interrupt()) {
                    self.state.events.push_transfer(t.at, code::SHORT, rest, place, false);
                    told = true;
                }
            } else if c.interrupt() {
                let code = if short && t.len() == 0 { code::SHORT } else { code::SUCCESS };
                self.state.events.push_transfer(t.at, code, 0, place, false);
            }
        }
    }
}

/// Writes state and place of an endpoint into its context.
pub(super) fn write_context(dma: &Dma, e: &Endpoint) {
    let word = dma.read_u32(e.context).unwrap_or(0) & !7 | u32::from(e.state);
    _ = dma.write(e.context, &word.to_le_bytes());
    let place = e.ring.at & !0xf | u64::from(e.ring.cycle);
    _ = dma.write(e.context.wrapping_add(8), &place.to_le_bytes());
}

/// Goes on with a transfer.
fn carry_out(device: &Handle, dma: &Dma, e: &mut Endpoint, n: u8, td: &Td) -> Done {
    let Some(first) = td.entries.first() else { return Done::All(0) };
    let mut device = device.lock().expect("no panic while held");
    let number = n / 2;
    let total = td.total();
    let to_host = first.control.endpoint() & 1 != 0;
    let input = match (first.control.kind(), e.kind) {
        (kind::SETUP, 4) => {
            return match device.setup(first.parameter.to_le_bytes()) {
                Out::Ack => Done::All(total),
                Out::Nak => Done::Waits,
                Out::Stall => Done::Failed(code::STALL),
            };
        }
        (kind::STATUS, 4) if to_host => {
            return match device.input(0, 0) {
                In::Data(_) => Done::All(0),
                In::Nak => Done::Waits,
                In::Stall => Done::Failed(code::STALL),
            };
        }
        (kind::STATUS, 4) => {
            return match device.output(0, &[]) {
                Out::Ack => Done::All(0),
                Out::Nak => Done::Waits,
                Out::Stall => Done::Failed(code::STALL),
            };
        }
        (kind::DATA, 4) => to_host,
        (kind::NOTHING | kind::EVENT_DATA, _) => return Done::All(0),
        (kind::NORMAL | kind::ISOCHRONOUS, 5..=7) => true,
        (kind::NORMAL | kind::ISOCHRONOUS, 1..=4) => false,
        _ => return Done::Failed(code::TRB),
    };
    let isochronous = matches!(e.kind, 1 | 5);
    let packet = u32::from(e.packet).max(8);
    loop {
        let want = packet.min(total.saturating_sub(e.done));
        if input {
            match device.input(number, want as usize) {
                In::Data(data) if data.len() > want as usize => return Done::Failed(code::BABBLE),
                In::Data(data) => {
                    if !td.write(dma, e.done, &data) {
                        return Done::Failed(code::TRB);
                    }
                    e.done += data.len() as u32;
                    if (data.len() as u32) < packet || e.done >= total {
                        return Done::All(e.done);
                    }
                }
                In::Nak if isochronous => return Done::All(e.done),
                In::Nak => return Done::Waits,
                In::Stall => return Done::Failed(code::STALL),
            }
        } else {
            let Some(data) = td.read(dma, e.done, want) else { return Done::Failed(code::TRB) };
            match device.output(number, &data) {
                Out::Nak if !isochronous => return Done::Waits,
                Out::Stall => return Done::Failed(code::STALL),
                Out::Ack | Out::Nak => {
                    e.done += want;
                    if e.done >= total {
                        return Done::All(e.done);
                    }
                }
            }
        }
    }
}
