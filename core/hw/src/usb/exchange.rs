//! A SCSI command of a USB device: what its unit does, and data on their way.

use crate::scsi::{Address, Bus, Step, status};
use serde::{Deserialize, Serialize};

/// What the unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Unit {
    /// Nothing: the command is over, with this status.
    Over(u8),
    /// It waits for its medium.
    Busy,
    /// It goes on when its data have been taken.
    Gives,
    /// It wants this many bytes.
    Takes(usize),
}

/// A command. One that was never started is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exchange {
    pub(super) unit: Unit,
    /// Its number on the bus, while it is there.
    id: Option<u64>,
    /// Data on their way in either direction.
    pub(super) buffer: Vec<u8>,
    /// Why it failed.
    pub(super) sense: Vec<u8>,
}

impl Default for Exchange {
    fn default() -> Self {
        let (buffer, sense) = (Vec::new(), Vec::new());
        Self { unit: Unit::Over(status::GOOD), id: None, buffer, sense }
    }
}

impl Exchange {
    /// Begins a command.
    pub(super) fn start(bus: &mut Bus, at: Address, cdb: &[u8]) -> Self {
        let (id, step) = bus.start(at, cdb);
        let mut command = Self { id: Some(id), ..Self::default() };
        command.step(step);
        command
    }

    fn step(&mut self, step: Option<Step>) {
        self.unit = match step {
            None => Unit::Busy,
            Some(Step::In(data)) => {
                self.buffer.extend(data);
                Unit::Gives
            }
            Some(Step::Out(n)) => Unit::Takes(n),
            Some(Step::Done { status, sense }) => {
                self.id = None;
                if status != status::GOOD {
                    self.sense = sense.fixed().to_vec();
                }
                Unit::Over(status)
            }
        };
    }

    /// What comes next of command `id` of the bus. Says whether it is this one.
    pub(super) fn arrived(&mut self, id: u64, step: Step) -> bool {
        let mine = self.id == Some(id);
        if mine {
            self.step(Some(step));
        }
        mine
    }

    /// Gives the unit what it waits for, as far as that has come; all of it when no more comes.
    pub(super) fn supply(&mut self, bus: &mut Bus, all: bool) {
        while let (Unit::Takes(n), Some(id)) = (self.unit, self.id) {
            if self.buffer.len() < n && !all {
                return;
            }
            let n = n.min(self.buffer.len());
            let data: Vec<u8> = self.buffer.drain(..n).collect();
            let step = bus.supply(id, data);
            self.step(step);
        }
    }

    /// Takes `need` bytes, or what there is where no more comes; `None` where the unit is still at it.
    pub(super) fn take(&mut self, bus: &mut Bus, need: usize) -> Option<Vec<u8>> {
        while let (Unit::Gives, Some(id)) = (self.unit, self.id) {
            if self.buffer.len() >= need {
                break;
            }
            let step = bus.proceed(id);
            self.step(step);
        }
        if self.buffer.len() < need && self.unit == Unit::Busy {
            return None;
        }
        let n = need.min(self.buffer.len());
        Some(self.buffer.drain(..n).collect())
    }

    /// Lets a unit whose data have all been taken go on.
    pub(super) fn drain(&mut self, bus: &mut Bus) {
        if let (Unit::Gives, Some(id), true) = (self.unit, self.id, self.buffer.is_empty()) {
            let step = bus.proceed(id);
            self.step(step);
        }
    }

    /// Gives it up.
    pub(super) fn stop(&mut self, bus: &mut Bus) {
        if let Some(id) = self.id.take() {
            bus.stop(id);
        }
        self.unit = Unit::Over(status::GOOD);
    }
}
