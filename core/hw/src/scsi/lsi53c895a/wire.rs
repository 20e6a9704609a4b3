//! The SCSI bus between the chip and the target that it selected: phases, messages and data.

use crate::scsi::{Address, Bus, Step};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A phase, as the lines MSG, C/D and I/O say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(super) enum Phase {
    DataOut = 0,
    DataIn = 1,
    Command = 2,
    Status = 3,
    MessageOut = 6,
    MessageIn = 7,
}

/// What the target wants now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Want {
    /// Nobody is selected.
    #[default]
    Free,
    Messages,
    Command,
    /// The unit works.
    Wait,
    /// It gives these bytes, from a place on.
    Give(Vec<u8>, usize),
    /// It takes bytes until there are so many.
    Take(Vec<u8>, usize),
    Status(u8),
    /// It says something, and then goes on.
    Say(VecDeque<u8>, Box<Want>),
}

/// The bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wire {
    want: Want,
    target: u8,
    lun: Option<u8>,
    id: Option<u64>,
    /// The initiator wants to send a message.
    attention: bool,
    latched: u8,
}

impl Wire {
    pub(super) fn is_sound(&self) -> bool {
        match &self.want {
            Want::Give(data, at) => at <= &data.len(),
            _ => true,
        }
    }

    pub(super) fn connected(&self) -> bool {
        self.want != Want::Free
    }

    /// The phase of the request that the target makes.
    pub(super) fn phase(&self) -> Option<Phase> {
        Some(match self.want {
            Want::Free | Want::Wait => return None,
            Want::Messages => Phase::MessageOut,
            Want::Command => Phase::Command,
            Want::Give(..) => Phase::DataIn,
            Want::Take(..) => Phase::DataOut,
            Want::Status(_) => Phase::Status,
            Want::Say(..) => Phase::MessageIn,
        })
    }

    /// The control lines as SBCL shows them.
    pub(super) fn lines(&self) -> u8 {
        let busy = if self.connected() { 0x20 } else { 0 };
        let attention = if self.attention { 0x08 } else { 0 };
        busy | attention | self.phase().map_or(0, |p| 0x80 | p as u8)
    }

    /// The phase that was latched with the last request.
    pub(super) fn latched(&self) -> u8 {
        self.phase().map_or(self.latched, |p| p as u8)
    }

    /// Selects a target.
    pub(super) fn select(&mut self, target: u8, attention: bool) {
        let want = if attention { Want::Messages } else { Want::Command };
        *self = Self { want, target, attention, ..Self::default() };
    }

    /// The script is about to send a message. One that selects without attention goes on with its command at once, but
    /// SeaBIOS's identifies the unit all the same: the target takes that.
    pub(super) fn accept_messages(&mut self) {
        if self.want == Want::Command {
            self.want = Want::Messages;
        }
    }

    pub(super) fn set_attention(&mut self, on: bool) {
        self.attention = on;
        if on && self.want == Want::Command {
            self.want = Want::Messages;
        }
    }

    /// The target lets go of the bus.
    pub(super) fn free(&mut self) {
        *self = Self { latched: self.latched(), ..Self::default() };
    }

    /// The next step of command `id`.
    pub(super) fn arrived(&mut self, id: u64, step: Option<Step>) {
        if self.id != Some(id) {
            return;
        }
        self.latched = self.latched();
        self.want = match step {
            None => Want::Wait,
            Some(Step::In(data)) => Want::Give(data, 0),
            Some(Step::Out(n)) => Want::Take(Vec::new(), n),
            Some(Step::Done { status, .. }) => {
                self.id = None;
                Want::Status(status)
            }
        };
    }

    /// Bytes the target takes yet, or has to give, in this phase without the units doing anything.
    pub(super) fn room(&self) -> usize {
        match &self.want {
            Want::Free | Want::Wait => 0,
            Want::Messages => usize::MAX,
            Want::Command => 16,
            Want::Give(data, at) => data.len() - at,
            Want::Take(data, n) => n.saturating_sub(data.len()),
            Want::Status(_) => 1,
            Want::Say(bytes, _) => bytes.len(),
        }
    }

    /// Takes bytes from the target: at most `n`.
    pub(super) fn take(&mut self, n: usize, bus: &mut Bus) -> Vec<u8> {
        self.latched = self.latched();
        match &mut self.want {
            Want::Give(data, at) => {
                let end = data.len().min(at.saturating_add(n));
                let out = data[*at..end].to_vec();
                *at = end;
                if end == data.len() {
                    if let Some(id) = self.id {
                        let step = bus.proceed(id);
                        self.arrived(id, step);
                    }
                }
                out
            }
            Want::Status(status) => {
                let out = vec![*status];
                // Command complete; then the bus is free.
                self.want = Want::Say([0].into(), Box::new(Want::Free));
                out
            }
            Want::Say(bytes, then) => {
                let n = n.min(bytes.len());
                let out: Vec<u8> = bytes.drain(..n).collect();
                if bytes.is_empty() {
                    self.want = std::mem::take(then);
                    if self.want == Want::Free {
                        self.free();
                    }
                }
                out
            }
            _ => Vec::new(),
        }
    }

    /// Gives bytes to the target; not more than [`Wire::room`].
    pub(super) fn give(&mut self, bytes: &[u8], bus: &mut Bus) {
        self.latched = self.latched();
        match &mut self.want {
            Want::Messages => self.messages(bytes, bus),
            Want::Command => {
                let lun = self.lun.unwrap_or_else(|| bytes.get(1).map_or(0, |b| b >> 5));
                let at = Address::new(self.target, lun.into());
                let (id, step) = bus.start(at, bytes);
                self.id = Some(id);
                self.arrived(id, step);
            }
            Want::Take(data, n) => {
                data.extend(bytes);
                if data.len() >= *n {
                    let data = std::mem::take(data);
                    if let Some(id) = self.id {
                        let step = bus.supply(id, data);
                        self.arrived(id, step);
                    }
                }
            }
            _ => {}
        }
    }

    /// Messages of the initiator (SPI-2 chapter 16).
    fn messages(&mut self, bytes: &[u8], bus: &mut Bus) {
        self.attention = false;
        let mut rest = bytes;
        let mut reject = false;
        while let [first, tail @ ..] = rest {
            rest = tail;
            match first {
                0x80.. => self.lun = Some(first & 7),
                // A tag, of which there is one here at a time; whether the residue is ignored.
                0x20..=0x23 => rest = rest.get(1..).unwrap_or_default(),
                // An extended message: it would be a negotiation.
                0x01 => {
                    let len = rest.first().map_or(0, |&n| usize::from(n));
                    rest = rest.get(1 + len..).unwrap_or_default();
                    reject = true;
                }
                // Abort, abort with a tag, clear queue.
                0x06 | 0x0d | 0x0e => {
                    let (target, lun) = (self.target, self.lun);
                    bus.abort_units(|at| {
                        at.target == target && lun.is_none_or(|lun| at.lun == u16::from(lun))
                    });
                    return self.free();
                }
                // Reset of the target.
                0x0c => {
                    let target = self.target;
                    bus.reset_units(|at| at.target == target);
                    return self.free();
                }
                // Disconnect, message reject, no operation, parity error, initiator detected error.
                0x04 | 0x05 | 0x07 | 0x08 | 0x09 => {}
                _ => reject = true,
            }
        }
        self.want =
            if reject { Want::Say([7].into(), Box::new(Want::Command)) } else { Want::Command };
    }
}
