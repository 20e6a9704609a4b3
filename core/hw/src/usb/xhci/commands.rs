//! The command ring: xHCI 1.1 chapter 4.6.

use super::rings::{Ring, Trb, code, kind};
use super::transfer::write_context;
use super::{Device, Endpoint, PORTS, SLOTS, Xhci};
use crate::usb::device::In;
use orrery_system::Dma;

/// Commands in one turn.
const TURN: usize = 256;
/// Bytes of a context.
const CONTEXT: u64 = 32;

/// Commands, table 6-86.
mod command {
    pub(super) const ENABLE_SLOT: u8 = 9;
    pub(super) const DISABLE_SLOT: u8 = 10;
    pub(super) const ADDRESS: u8 = 11;
    pub(super) const CONFIGURE: u8 = 12;
    pub(super) const EVALUATE: u8 = 13;
    pub(super) const RESET_ENDPOINT: u8 = 14;
    pub(super) const STOP_ENDPOINT: u8 = 15;
    pub(super) const SET_DEQUEUE: u8 = 16;
    pub(super) const RESET_DEVICE: u8 = 17;
    pub(super) const NOTHING: u8 = 23;
    /// NEC: firmware version.
    pub(super) const FIRMWARE: u8 = 49;
}

/// Slot states, table 6-1.
mod slot_state {
    pub(super) const DEFAULT: u32 = 1;
    pub(super) const ADDRESSED: u32 = 2;
    pub(super) const CONFIGURED: u32 = 3;
}

fn copy(dma: &Dma, from: u64, to: u64) -> Option<()> {
    let mut bytes = [0; CONTEXT as usize];
    dma.read(from, &mut bytes).ok()?;
    dma.write(to, &bytes).ok()
}

fn set_word(dma: &Dma, at: u64, clear: u32, set: u32) {
    let word = dma.read_u32(at).unwrap_or(0) & !clear | set;
    _ = dma.write(at, &word.to_le_bytes());
}

/// Sets the state in a slot context, and the address where one is given.
fn set_slot_state(dma: &Dma, context: u64, state: u32, address: Option<u8>) {
    let (clear, set) = match address {
        Some(address) => (0xf800_00ff, u32::from(address)),
        None => (0xf800_0000, 0),
    };
    set_word(dma, context.wrapping_add(12), clear, state << 27 | set);
}

impl Xhci {
    /// The command ring was told to stop.
    pub(super) fn command_ring_stopped(&mut self) {
        let at = self.state.commands.at;
        self.state.events.push_command(kind::COMMAND_EVENT, at, code::RING_STOPPED, 0, 0);
    }

    /// Carries out what is in the command ring.
    pub(super) fn commands(&mut self, dma: &Dma) {
        for _ in 0..TURN {
            let mut ring = self.state.commands;
            let Some(trb) = ring.next(dma) else {
                self.state.commands = ring;
                return;
            };
            self.state.commands = ring;
            let slot = trb.control.slot();
            if trb.control.kind() == command::FIRMWARE && self.model.name == "nec-usb-xhci" {
                self.state.events.push_command(48, trb.at, code::SUCCESS, 0x3034, 0);
                continue;
            }
            let (code, slot) = self.command(dma, &trb, slot);
            self.state.events.push_command(kind::COMMAND_EVENT, trb.at, code, 0, slot);
        }
    }

    fn command(&mut self, dma: &Dma, trb: &Trb, slot: u8) -> (u8, u8) {
        let flag = trb.control.into_bits() & 1 << 9 != 0;
        match trb.control.kind() {
            command::ENABLE_SLOT => {
                let most = (self.state.config as u8).min(SLOTS);
                match (1..=most).find(|n| !self.state.slots.contains_key(n)) {
                    Some(n) => {
                        self.state.slots.insert(n, Device::default());
                        (code::SUCCESS, n)
                    }
                    None => (code::NO_SLOTS, 0),
                }
            }
            command::NOTHING => (code::SUCCESS, 0),
            _ if !self.state.slots.contains_key(&slot) => (code::SLOT_OFF, slot),
            command::DISABLE_SLOT => {
                if let Some(d) = self.state.slots.remove(&slot).filter(|d| d.context != 0) {
                    set_slot_state(dma, d.context, 0, None);
                }
                (code::SUCCESS, slot)
            }
            command::ADDRESS => {
                (self.address(dma, slot, trb.parameter & !0xf, flag).unwrap_or(code::TRB), slot)
            }
            command::CONFIGURE => {
                (self.configure(dma, slot, trb.parameter & !0xf, flag).unwrap_or(code::TRB), slot)
            }
            command::EVALUATE => {
                (self.evaluate(dma, slot, trb.parameter & !0xf).unwrap_or(code::TRB), slot)
            }
            command::RESET_ENDPOINT | command::STOP_ENDPOINT | command::SET_DEQUEUE => {
                (self.endpoint(dma, slot, trb), slot)
            }
            command::RESET_DEVICE => {
                if let Some(d) = self.state.slots.get_mut(&slot) {
                    d.endpoints.retain(|&n, _| n == 1);
                    set_slot_state(dma, d.context, slot_state::DEFAULT, Some(0));
                }
                (code::SUCCESS, slot)
            }
            _ => (code::TRB, slot),
        }
    }

    /// Reads an endpoint context, as it is now in `context`, into an endpoint that runs.
    fn enable(dma: &Dma, context: u64) -> Option<Endpoint> {
        let word = dma.read_u32(context.wrapping_add(4)).ok()?;
        let place = dma.read_u64(context.wrapping_add(8)).ok()?;
        set_word(dma, context, 7, 1);
        Some(Endpoint {
            context,
            kind: (word >> 3 & 7) as u8,
            packet: (word >> 16) as u16,
            state: 1,
            ring: Ring { at: place & !0xf, cycle: place & 1 != 0 },
            done: 0,
            waits: false,
        })
    }

    fn address(&mut self, dma: &Dma, slot: u8, input: u64, block: bool) -> Option<u8> {
        let at = self.state.contexts.wrapping_add(8 * u64::from(slot));
        let context = dma.read_u64(at).ok()? & !0x3f;
        let add = dma.read_u32(input.wrapping_add(4)).ok()?;
        if add & 3 != 3 {
            return Some(code::TRB);
        }
        let route = dma.read_u32(input.wrapping_add(CONTEXT)).ok()? & 0xf_ffff;
        let port = (dma.read_u32(input.wrapping_add(CONTEXT + 4)).ok()? >> 16) as u8;
        if port == 0 || usize::from(port) > PORTS {
            return Some(code::TRB);
        }
        copy(dma, input.wrapping_add(CONTEXT), context)?;
        copy(dma, input.wrapping_add(2 * CONTEXT), context.wrapping_add(CONTEXT))?;
        let control = Self::enable(dma, context.wrapping_add(CONTEXT))?;
        let d = self.state.slots.get_mut(&slot)?;
        (d.context, d.port, d.route) = (context, port, route);
        d.endpoints.clear();
        d.endpoints.insert(1, control);
        let Some(device) = self.device(slot) else { return Some(code::TRANSACTION) };
        if block {
            set_slot_state(dma, context, slot_state::DEFAULT, Some(0));
            return Some(code::SUCCESS);
        }
        let mut device = device.lock().expect("no panic while held");
        device.setup([0, 5, slot, 0, 0, 0, 0, 0]);
        if device.input(0, 0) == In::Stall {
            return Some(code::TRANSACTION);
        }
        set_slot_state(dma, context, slot_state::ADDRESSED, Some(slot));
        Some(code::SUCCESS)
    }

    fn configure(&mut self, dma: &Dma, slot: u8, input: u64, deconfigure: bool) -> Option<u8> {
        let d = self.state.slots.get_mut(&slot)?;
        if d.context == 0 {
            return Some(code::STATE);
        }
        let (drop, add) = if deconfigure {
            (u32::MAX, 0)
        } else {
            (dma.read_u32(input).ok()?, dma.read_u32(input.wrapping_add(4)).ok()?)
        };
        for n in 2..32_u8 {
            let context = d.context.wrapping_add(CONTEXT * u64::from(n));
            if drop & 1 << n != 0 {
                d.endpoints.remove(&n);
                set_word(dma, context, 7, 0);
            }
            if add & 1 << n != 0 {
                copy(dma, input.wrapping_add(CONTEXT * (u64::from(n) + 1)), context)?;
                d.endpoints.insert(n, Self::enable(dma, context)?);
            }
        }
        if add & 1 != 0 {
            // How many contexts there are, and what a hub is.
            let entries = dma.read_u32(input.wrapping_add(CONTEXT)).ok()?;
            set_word(dma, d.context, 0xfe00_0000, entries & 0xfe00_0000);
        }
        let state = if deconfigure { slot_state::ADDRESSED } else { slot_state::CONFIGURED };
        set_slot_state(dma, d.context, state, None);
        Some(code::SUCCESS)
    }

    fn evaluate(&mut self, dma: &Dma, slot: u8, input: u64) -> Option<u8> {
        let d = self.state.slots.get_mut(&slot)?;
        let add = dma.read_u32(input.wrapping_add(4)).ok()?;
        if add & 1 != 0 {
            let latency = dma.read_u32(input.wrapping_add(CONTEXT + 4)).ok()?;
            set_word(dma, d.context.wrapping_add(4), 0xffff, latency & 0xffff);
        }
        if add & 2 != 0 {
            // The packet size of endpoint 0, known once its descriptor was read.
            let word = dma.read_u32(input.wrapping_add(2 * CONTEXT + 4)).ok()?;
            set_word(dma, d.context.wrapping_add(CONTEXT + 4), 0xffff_0000, word & 0xffff_0000);
            if let Some(e) = d.endpoints.get_mut(&1) {
                e.packet = (word >> 16) as u16;
            }
        }
        Some(code::SUCCESS)
    }

    fn endpoint(&mut self, dma: &Dma, slot: u8, trb: &Trb) -> u8 {
        let n = trb.control.endpoint();
        let Some(d) = self.state.slots.get_mut(&slot) else { return code::SLOT_OFF };
        let Some(e) = d.endpoints.get_mut(&n) else { return code::PARAMETER };
        match (trb.control.kind(), e.state) {
            (command::RESET_ENDPOINT, 2) => (e.state, e.waits) = (3, false),
            (command::STOP_ENDPOINT, 1) => {
                let waited = std::mem::take(&mut e.waits);
                e.state = 3;
                let (at, done) = (e.ring.at, e.done);
                if waited {
                    let place = (slot, n);
                    let left = Trb::read(dma, at).map_or(0, |t| t.len()).saturating_sub(done);
                    self.state.events.push_transfer(at, code::STOPPED, left, place, false);
                }
            }
            (command::SET_DEQUEUE, 2..=4) => {
                e.ring = Ring { at: trb.parameter & !0xf, cycle: trb.parameter & 1 != 0 };
                (e.state, e.done) = (3, 0);
            }
            _ => return code::STATE,
        }
        if let Some(e) = self.state.slots.get(&slot).and_then(|d| d.endpoints.get(&n)) {
            write_context(dma, e);
        }
        code::SUCCESS
    }
}
