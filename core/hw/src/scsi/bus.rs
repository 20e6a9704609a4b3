//! A SCSI bus as a host adapter sees it: commands go to units, data and status come back in steps.
//!
//! [`Bus::start`] begins a command. What it returns, and what [`Bus::take`] returns later, is the next [`Step`] of a
//! command: data for the initiator (answered by [`Bus::proceed`]), a wish for data (answered by [`Bus::supply`]), or
//! its end. `None` means that the unit waits for the host; [`Bus::due`] and [`Bus::ready`] are for `HostIo`. Data
//! comes in pieces of bounded size, so a command of any length holds little memory.

use super::mmc::Frame;
use super::sense::Sense;
use super::spc::{Cdb, op, padded, standard_inquiry};
use super::unit::{self, Task, Unit, UnitConfig, sense_of};
use super::{spc, status};
use crate::block::drive::{DriveIo, Op, Queue};
use orrery_block::backend::BlockBackend;
use orrery_system::time::{Clock, Latency, VmTime};
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Most bytes of the medium in one step.
const CHUNK: u64 = 256 << 10;
/// Commands in progress before an adapter should wait with the next.
const ROOM: usize = 256;

/// A unit's place on a bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Target (SCSI id).
    pub target: u8,
    /// Logical unit of the target.
    pub lun: u16,
}

impl Address {
    /// Unit `lun` of target `target`.
    pub const fn new(target: u8, lun: u16) -> Self {
        Self { target, lun }
    }

    /// The logical unit that eight bytes of SAM-3 4.9 name, by peripheral device or flat space addressing.
    pub fn lun_of(bytes: [u8; 8]) -> u16 {
        let [high, low, ..] = bytes;
        u16::from_be_bytes([high & 0x3f, low])
    }

    /// The logical unit as eight bytes.
    fn lun_bytes(self) -> [u8; 8] {
        let [high, low] = self.lun.to_be_bytes();
        let mut b = [0; 8];
        // Above 255 by flat space addressing.
        b[..2].copy_from_slice(&if self.lun < 256 { [0, low] } else { [0x40 | high, low] });
        b
    }
}

/// What comes next of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes are for the initiator; [`Bus::proceed`] goes on.
    In(Vec<u8>),
    /// The unit wants this many bytes; [`Bus::supply`] goes on.
    Out(usize),
    /// The command is over and forgotten.
    Done {
        /// Status ([`status`]).
        status: u8,
        /// Why it failed; also kept for REQUEST SENSE.
        sense: Sense,
    },
}

impl Step {
    const GOOD: Self = Self::Done { status: status::GOOD, sense: Sense::NONE };

    fn check(sense: Sense) -> Self {
        Self::Done { status: status::CHECK_CONDITION, sense }
    }
}

/// What a command moves besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Nothing.
    None,
    /// This many bytes more to the initiator.
    In(u64),
    /// This many bytes more from the initiator.
    Out(u64),
}

/// Where a command stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The initiator has the last of its data.
    Last,
    Read {
        offset: u64,
        left: u64,
        lba: u32,
        frame: Frame,
    },
    Write {
        offset: u64,
        left: u64,
        fua: bool,
    },
    /// Waits for the initiator (`data` is empty) or for the medium.
    Compare {
        offset: u64,
        left: u64,
        data: Vec<u8>,
    },
    Same {
        offset: u64,
        left: u64,
        block: Vec<u8>,
    },
    Parameters {
        cdb: [u8; 16],
        len: usize,
    },
    Ops(VecDeque<Op>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    unit: usize,
    stage: Stage,
}

/// Everything the guest can observe of a bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusState {
    units: Vec<unit::State>,
    requests: BTreeMap<u64, Request>,
    next: u64,
    in_flight: Queue<u64>,
}

/// The bus.
pub struct Bus {
    units: Vec<Unit>,
    io: DriveIo,
    requests: BTreeMap<u64, Request>,
    next: u64,
    in_flight: Queue<u64>,
}

impl Bus {
    /// The bus of device `id`, whose timer number `timer` it takes.
    pub fn new(board: &mut Board, id: DeviceId, timer: u32, units: Vec<UnitConfig>) -> Self {
        let io = DriveIo::new(board, id, timer, backends(&units));
        Self::over(units, io)
    }

    /// A bus of a device without a board, for its tests.
    pub fn detached(units: Vec<UnitConfig>, clock: Clock, latency: Latency) -> Self {
        let io = DriveIo::detached(backends(&units), clock, latency);
        Self::over(units, io)
    }

    fn over(units: Vec<UnitConfig>, io: DriveIo) -> Self {
        let units = units.into_iter().map(Unit::new).collect();
        Self { units, io, requests: BTreeMap::new(), next: 0, in_flight: Queue::default() }
    }

    /// Power-on state, or what the bus's reset line does: commands are gone.
    pub fn reset(&mut self) {
        self.abandon_all();
        self.next = 0;
        self.units.iter_mut().for_each(Unit::reset);
    }

    fn abandon_all(&mut self) {
        self.io.abandon_all(&mut self.in_flight);
        self.requests.clear();
    }

    /// Its state.
    pub fn save(&self) -> BusState {
        BusState {
            units: self.units.iter().map(Unit::save).collect(),
            requests: self.requests.clone(),
            next: self.next,
            in_flight: self.in_flight.clone(),
        }
    }

    /// Takes a state over; on an error it keeps its own.
    pub fn restore(&mut self, state: BusState) -> Result<(), RestoreError> {
        let same = state.units.len() == self.units.len()
            && self.units.iter().zip(&state.units).all(|(unit, s)| unit.accepts(s))
            && state.requests.values().all(|r| r.unit < self.units.len());
        if !same {
            return Err(RestoreError::Invalid("the units of another SCSI bus"));
        }
        for (unit, state) in self.units.iter_mut().zip(state.units) {
            unit.restore(state);
        }
        (self.requests, self.next) = (state.requests, state.next);
        self.in_flight = state.in_flight;
        self.io.resume(&self.in_flight);
        Ok(())
    }

    /// The places of its units.
    pub fn units(&self) -> impl Iterator<Item = Address> {
        self.units.iter().map(|u| u.at)
    }

    /// Whether there is anything at a target.
    pub fn has_target(&self, target: u8) -> bool {
        self.units().any(|at| at.target == target)
    }

    /// Whether an adapter should begin another command now.
    pub fn has_room(&self) -> bool {
        self.requests.len() < ROOM
    }

    /// Whether nothing is in progress.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Begins a command: its number, and what comes first. At a target that is not there
    /// ([`Bus::has_target`]) an adapter sees a timeout instead of calling this.
    pub fn start(&mut self, at: Address, cdb: &[u8]) -> (u64, Option<Step>) {
        let id = self.next;
        self.next += 1;
        let cdb = Cdb::new(cdb);
        if cdb.op() == op::REPORT_LUNS {
            let task = self.report_luns(at.target, cdb);
            return (id, self.without_unit(id, task));
        }
        let Some(unit) = self.units.iter().position(|u| u.at == at) else {
            let task = absent(cdb);
            return (id, self.without_unit(id, task));
        };
        let task = self.units[unit].execute(cdb);
        (id, self.begin(id, unit, cdb, task))
    }

    /// Answers for a target or a unit that is not there.
    fn without_unit(&mut self, id: u64, task: Result<Task, Sense>) -> Option<Step> {
        match task {
            Ok(Task::Data(d)) => {
                self.requests.insert(id, Request { unit: 0, stage: Stage::Last });
                Some(Step::In(d))
            }
            Ok(_) => Some(Step::GOOD),
            Err(sense) => Some(Step::check(sense)),
        }
    }

    fn report_luns(&self, target: u8, c: Cdb) -> Result<Task, Sense> {
        // All units, or those without the well-known ones.
        if c.u8(2) > 2 || c.u32(6) < 16 {
            return Err(Sense::INVALID_FIELD);
        }
        let mut luns: Vec<_> = self.units().filter(|at| at.target == target).collect();
        if luns.iter().all(|at| at.lun != 0) {
            // Unit 0 answers this command, so it is there.
            luns.push(Address::new(target, 0));
        }
        luns.sort();
        let mut d = (8 * luns.len() as u32).to_be_bytes().to_vec();
        d.extend([0; 4]);
        luns.iter().for_each(|at| d.extend(at.lun_bytes()));
        Ok(Task::data(d, c.u32(6) as usize))
    }

    fn begin(&mut self, id: u64, unit: usize, cdb: Cdb, task: Result<Task, Sense>) -> Option<Step> {
        let (stage, step) = match task {
            Err(sense) => return self.fail(id, unit, sense),
            Ok(Task::Done) => return self.finish(id),
            Ok(Task::Data(d)) => (Stage::Last, Some(Step::In(d))),
            Ok(Task::Read { offset, len, lba, frame }) => {
                (Stage::Read { offset, left: len, lba, frame }, None)
            }
            Ok(Task::Write { len: 0, .. } | Task::Compare { len: 0, .. }) => {
                return self.finish(id);
            }
            Ok(Task::Write { offset, len, fua }) => {
                (Stage::Write { offset, left: len, fua }, Some(chunk(len)))
            }
            Ok(Task::Compare { offset, len }) => {
                (Stage::Compare { offset, left: len, data: Vec::new() }, Some(chunk(len)))
            }
            Ok(Task::Same { offset, len, block }) => {
                (Stage::Same { offset, left: len, block }, None)
            }
            Ok(Task::Parameters(len)) => {
                (Stage::Parameters { cdb: cdb.0, len }, Some(Step::Out(len)))
            }
            Ok(Task::Ops(ops)) => (Stage::Ops(ops), None),
        };
        self.requests.insert(id, Request { unit, stage });
        step.or_else(|| self.advance(id))
    }

    fn finish(&mut self, id: u64) -> Option<Step> {
        self.requests.remove(&id);
        Some(Step::GOOD)
    }

    fn fail(&mut self, id: u64, unit: usize, sense: Sense) -> Option<Step> {
        self.requests.remove(&id);
        if let Some(u) = self.units.get_mut(unit) {
            u.set_sense(sense);
        }
        Some(Step::check(sense))
    }

    /// What command `id` moves yet; for the phases of a parallel bus.
    pub fn transfer(&self, id: u64) -> Transfer {
        match self.requests.get(&id).map(|r| &r.stage) {
            Some(Stage::Read { left, frame, .. }) => {
                let blocks = left / Frame::Data.size() as u64;
                match frame {
                    Frame::Data => Transfer::In(*left),
                    Frame::Raw => Transfer::In(blocks * Frame::Raw.size() as u64),
                }
            }
            Some(Stage::Write { left, .. } | Stage::Compare { left, .. }) => Transfer::Out(*left),
            Some(Stage::Parameters { len, .. }) => Transfer::Out(*len as u64),
            Some(Stage::Last | Stage::Same { .. } | Stage::Ops(_)) | None => Transfer::None,
        }
    }

    /// The initiator took the data of the last step.
    pub fn proceed(&mut self, id: u64) -> Option<Step> {
        self.advance(id)
    }

    /// Gives a command up without a word: the initiator has no room for what is left.
    pub fn stop(&mut self, id: u64) {
        self.requests.remove(&id);
        self.io.abandon(&mut self.in_flight, |_, &tag| tag == id);
    }

    /// Asks the host for what the stage needs next, or ends the command.
    fn advance(&mut self, id: u64) -> Option<Step> {
        let Some(Request { unit, stage }) = self.requests.get_mut(&id) else {
            return Some(Step::GOOD);
        };
        let op = match stage {
            Stage::Read { offset, left, .. } if *left > 0 => {
                Some(Op::Read { offset: *offset, len: (*left).min(CHUNK) })
            }
            Stage::Write { left, .. } if *left > 0 => return Some(chunk(*left)),
            Stage::Compare { left, .. } if *left > 0 => return Some(chunk(*left)),
            Stage::Same { offset, left, block } if *left > 0 => {
                // A chunk is a whole number of blocks: block sizes are powers of two.
                let len = (*left).min(CHUNK);
                let data = block.repeat((len as usize).div_ceil(block.len().max(1)));
                let op = Op::Write { offset: *offset, data, fua: false };
                (*offset, *left) = (*offset + len, *left - len);
                Some(op)
            }
            Stage::Parameters { len, .. } => return Some(Step::Out(*len)),
            Stage::Ops(ops) => ops.pop_front(),
            _ => None,
        };
        match op {
            Some(op) => {
                self.io.submit(&mut self.in_flight, *unit, id, op);
                None
            }
            None => self.finish(id),
        }
    }

    /// The bytes that [`Step::Out`] asked for. With fewer the command ends after those.
    pub fn supply(&mut self, id: u64, mut data: Vec<u8>) -> Option<Step> {
        let Some(Request { unit, stage }) = self.requests.get_mut(&id) else {
            return Some(Step::GOOD);
        };
        let unit = *unit;
        let op = match stage {
            Stage::Write { offset, left, fua } => {
                if (data.len() as u64) < (*left).min(CHUNK) {
                    data.truncate(data.len() & !511);
                    *left = data.len() as u64;
                }
                let len = (*left).min(CHUNK);
                data.truncate(len as usize);
                let op = Op::Write { offset: *offset, data, fua: *fua };
                (*offset, *left) = (*offset + len, *left - len);
                if len == 0 {
                    return self.finish(id);
                }
                op
            }
            Stage::Compare { offset, left, data: expected } => {
                let len = (*left).min(CHUNK).min(data.len() as u64);
                data.truncate(len as usize);
                *expected = data;
                if len == 0 {
                    return self.finish(id);
                }
                Op::Read { offset: *offset, len }
            }
            Stage::Parameters { cdb, len } => {
                let cdb = Cdb(*cdb);
                data.truncate(*len);
                let task = self.units[unit].parameters(cdb, &data);
                return self.begin(id, unit, cdb, task);
            }
            _ => return self.advance(id),
        };
        self.io.submit(&mut self.in_flight, unit, id, op);
        None
    }

    /// When the first operation in flight completes.
    pub fn due(&self) -> Option<VmTime> {
        self.io.due(&self.in_flight)
    }

    /// Whether the host has finished it.
    pub fn ready(&self) -> bool {
        self.io.ready(&self.in_flight)
    }

    /// The next step of some command that waited for the host.
    pub fn take(&mut self, now: VmTime) -> Option<(u64, Step)> {
        loop {
            let done = self.io.take(&mut self.in_flight, now)?;
            let id = done.tag;
            let Some(request) = self.requests.get_mut(&id) else { continue };
            let step = match done.result {
                Err(e) => self.fail(id, done.drive, sense_of(e, done.op.is_read())),
                Ok(data) => match &mut request.stage {
                    Stage::Read { offset, left, lba, frame } => {
                        let n = (data.len() as u64).min(*left);
                        let data = frame.wrap(*lba, data);
                        *lba = lba.wrapping_add((n / Frame::Data.size() as u64) as u32);
                        (*offset, *left) = (*offset + n, *left - n);
                        Some(Step::In(data))
                    }
                    Stage::Compare { offset, left, data: expected } => {
                        let n = data.len() as u64;
                        let same = std::mem::take(expected) == data;
                        (*offset, *left) = (*offset + n, left.saturating_sub(n));
                        if same {
                            self.advance(id)
                        } else {
                            self.fail(id, done.drive, Sense::MISCOMPARE)
                        }
                    }
                    _ => self.advance(id),
                },
            };
            if let Some(step) = step {
                return Some((id, step));
            }
        }
    }

    /// Gives up a command. Says whether it was in progress.
    pub fn abort(&mut self, id: u64) -> bool {
        let there = self.requests.contains_key(&id);
        self.stop(id);
        there
    }

    /// Gives up the commands of the units that `which` says: their numbers.
    pub fn abort_units(&mut self, which: impl Fn(Address) -> bool) -> Vec<u64> {
        let units = &self.units;
        let of = |r: &Request| units.get(r.unit).is_some_and(|u| which(u.at));
        let ids: Vec<u64> = self.requests.iter().filter(|(_, r)| of(r)).map(|r| *r.0).collect();
        ids.iter().for_each(|&id| self.stop(id));
        ids
    }

    /// Resets the units that `which` says: the numbers of the commands that are gone.
    pub fn reset_units(&mut self, which: impl Fn(Address) -> bool) -> Vec<u64> {
        let ids = self.abort_units(&which);
        self.units.iter_mut().filter(|u| which(u.at)).for_each(Unit::reset);
        ids
    }
}

fn backends(units: &[UnitConfig]) -> Vec<BlockBackend> {
    units.iter().map(|u| u.backend.clone()).collect()
}

/// The wish for the next chunk of a write.
fn chunk(left: u64) -> Step {
    Step::Out(left.min(CHUNK) as usize)
}

/// What a target answers for a unit that it lacks (SPC-3 6.4.1, 6.27).
fn absent(c: Cdb) -> Result<Task, Sense> {
    match c.op() {
        op::INQUIRY if c.u8(1) & 1 == 0 => {
            let nobody = spc::Identity { vendor: padded("", 8), ..spc::Identity::default() };
            let mut d = standard_inquiry(0x7f, false, [5, 0x12, 0], &nobody);
            d.truncate(c.u16(3).into());
            Ok(Task::data(d, 36))
        }
        op::REQUEST_SENSE => Ok(Task::data(Sense::NO_UNIT.fixed().to_vec(), c.u8(4).into())),
        _ => Err(Sense::NO_UNIT),
    }
}

#[cfg(test)]
mod tests;
