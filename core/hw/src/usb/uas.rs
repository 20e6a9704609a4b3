//! Mass storage with commands in parallel (`usb-uas`): SCSI units behind four pipes.
//!
//! Reference: USB Attached SCSI 1.0 (T10 UAS revision 4).
//!
//! Data of one command at a time are on their way; the host is told whose by a ready unit. Not modelled: streams, and so
//! `SuperSpeed`, which has no other way.

use super::descriptor::{Configuration, Endpoint, Interface, Speed, Transfer};
use super::device::{Function, In, Out};
use super::exchange::{Exchange, Unit};
use super::storage::{self, bulk_packet};
use super::{Description, Layout};
use crate::scsi::{Address, Bus, BusState};
use orrery_system::{RestoreError, VmTime};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Pipes by their endpoints.
mod pipe {
    pub(super) const COMMAND: u8 = 1;
    pub(super) const STATUS: u8 = 2;
    pub(super) const IN: u8 = 3;
    pub(super) const OUT: u8 = 4;
}

/// Information units, table 10.
mod iu {
    pub(super) const COMMAND: u8 = 1;
    pub(super) const SENSE: u8 = 3;
    pub(super) const RESPONSE: u8 = 4;
    pub(super) const TASK: u8 = 5;
    pub(super) const READ_READY: u8 = 6;
    pub(super) const WRITE_READY: u8 = 7;
}

/// Response codes, table 19.
mod response {
    pub(super) const COMPLETE: u8 = 0;
    pub(super) const INVALID: u8 = 2;
    pub(super) const NOT_SUPPORTED: u8 = 4;
    pub(super) const OVERLAPPED: u8 = 10;
}

/// Task management functions, table 17.
mod task {
    pub(super) const ABORT: u8 = 1;
    pub(super) const ABORT_SET: u8 = 2;
    pub(super) const CLEAR_SET: u8 = 4;
    pub(super) const RESET_UNIT: u8 = 8;
}

/// Commands at a time.
const COMMANDS: usize = 64;
/// The type name.
pub const NAME: &str = "usb-uas";

/// A command in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    tag: u16,
    lun: u16,
    command: Exchange,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    jobs: VecDeque<Job>,
    /// The command whose data are on their way.
    moves: Option<u16>,
    /// The data of the last one to the host ended with a full packet.
    full: bool,
    /// Units for the host.
    told: VecDeque<Vec<u8>>,
    bus: Option<BusState>,
}

/// The device.
pub struct Uas {
    config: storage::Config,
    bus: Bus,
    state: State,
}

impl Uas {
    /// A device with the units of `bus`.
    pub fn new(config: storage::Config, bus: Bus) -> Self {
        Self { config, bus, state: State::default() }
    }

    fn tell(&mut self, kind: u8, tag: u16, rest: &[u8]) {
        let [high, low] = tag.to_be_bytes();
        let mut unit = vec![kind, 0, high, low];
        unit.extend(rest);
        self.state.told.push_back(unit);
    }

    fn respond(&mut self, tag: u16, code: u8) {
        self.tell(iu::RESPONSE, tag, &[0, 0, 0, code]);
    }

    /// Tells of what is over, and starts the data of the next command that has some.
    fn go_on(&mut self) {
        let mut over = Vec::new();
        self.state.jobs.retain_mut(|job| {
            job.command.drain(&mut self.bus);
            match job.command.unit {
                Unit::Over(status) if job.command.buffer.is_empty() => {
                    over.push((job.tag, status, std::mem::take(&mut job.command.sense)));
                    false
                }
                _ => true,
            }
        });
        for (tag, status, sense) in over {
            self.state.moves.take_if(|moves| *moves == tag);
            let mut rest = vec![0, 0, status, 0, 0, 0, 0, 0, 0, 0, 0, sense.len() as u8];
            rest.extend(sense);
            self.tell(iu::SENSE, tag, &rest);
        }
        if self.state.moves.is_some() {
            return;
        }
        let next = self.state.jobs.iter().find_map(|job| match job.command.unit {
            Unit::Gives => Some((job.tag, iu::READ_READY)),
            Unit::Takes(_) => Some((job.tag, iu::WRITE_READY)),
            _ => None,
        });
        if let Some((tag, kind)) = next {
            (self.state.moves, self.state.full) = (Some(tag), false);
            self.tell(kind, tag, &[]);
        }
    }

    /// The command whose data are on their way.
    fn mover(&mut self) -> Option<&mut Job> {
        let tag = self.state.moves?;
        self.state.jobs.iter_mut().find(|job| job.tag == tag)
    }

    fn command(&mut self, b: &[u8]) -> Out {
        let &[kind, _, high, low, ..] = b else { return Out::Stall };
        let tag = u16::from_be_bytes([high, low]);
        match (kind, b.get(8..16).and_then(|lun| lun.first_chunk())) {
            (iu::COMMAND, Some(lun)) if b.len() >= 32 => {
                if self.state.jobs.iter().any(|job| job.tag == tag) {
                    self.respond(tag, response::OVERLAPPED);
                    return Out::Ack;
                }
                if self.state.jobs.len() >= COMMANDS {
                    return Out::Nak;
                }
                let at = Address::new(0, Address::lun_of(*lun));
                let command = Exchange::start(&mut self.bus, at, &b[16..32]);
                self.state.jobs.push_back(Job { tag, lun: at.lun, command });
                self.go_on();
            }
            (iu::TASK, Some(lun)) => {
                let lun = Address::lun_of(*lun);
                let other = u16::from_be_bytes([b[6], b[7]]);
                let code = self.manage(b[4], other, lun);
                self.respond(tag, code);
                self.go_on();
            }
            _ => self.respond(tag, response::INVALID),
        }
        Out::Ack
    }

    /// Task management.
    fn manage(&mut self, what: u8, tag: u16, lun: u16) -> u8 {
        match what {
            task::ABORT | task::ABORT_SET | task::CLEAR_SET | task::RESET_UNIT => {}
            _ => return response::NOT_SUPPORTED,
        }
        self.state.jobs.retain_mut(|job| {
            let ends = job.lun == lun && (what != task::ABORT || job.tag == tag);
            if ends {
                job.command.stop(&mut self.bus);
                self.state.moves.take_if(|moves| *moves == job.tag);
            }
            !ends
        });
        if what == task::RESET_UNIT {
            self.bus.reset_units(|at| at.lun == lun);
        }
        response::COMPLETE
    }

    fn data_in(&mut self, max: usize) -> In {
        let Some(tag) = self.state.moves else {
            // The host waits for more than there is.
            let ends = std::mem::take(&mut self.state.full);
            return if ends { In::Data(Vec::new()) } else { In::Nak };
        };
        let Some(job) = self.state.jobs.iter_mut().find(|job| job.tag == tag) else {
            return In::Nak;
        };
        if matches!(job.command.unit, Unit::Takes(_)) {
            return In::Nak;
        }
        let Some(data) = job.command.take(&mut self.bus, max) else { return In::Nak };
        self.state.full = data.len() == max;
        self.go_on();
        In::Data(data)
    }

    fn data_out(&mut self, data: &[u8], packet: usize) -> Out {
        let Some(job) = self.mover() else { return Out::Nak };
        match job.command.unit {
            Unit::Takes(_) => {}
            Unit::Busy | Unit::Gives => return Out::Nak,
            // What comes yet means nothing.
            Unit::Over(_) => return Out::Ack,
        }
        job.command.buffer.extend(data);
        let all = data.len() < packet;
        let tag = self.state.moves;
        if let Some(job) = self.state.jobs.iter_mut().find(|job| Some(job.tag) == tag) {
            job.command.supply(&mut self.bus, all);
            if matches!(job.command.unit, Unit::Over(_)) {
                job.command.buffer.clear();
            }
        }
        self.go_on();
        Out::Ack
    }
}

impl Function for Uas {
    type State = State;
    const NAME: &'static str = NAME;
    const HOST_IO: bool = true;

    fn description(&self) -> Description {
        let layout = |(speed, packet)| Layout {
            speed,
            packet,
            configurations: vec![Configuration {
                self_powered: true,
                current: 0,
                ..Configuration::new(vec![Interface {
                    class: [8, 6, 0x62],
                    endpoints: [pipe::COMMAND, pipe::STATUS, pipe::IN, pipe::OUT]
                        .map(|pipe| {
                            let input = matches!(pipe, pipe::STATUS | pipe::IN);
                            let address = if input { pipe | 0x80 } else { pipe };
                            Endpoint {
                                // The pipe's usage.
                                extra: vec![4, 0x24, pipe, 0],
                                ..Endpoint::new(address, Transfer::Bulk, bulk_packet(speed), 0)
                            }
                        })
                        .into(),
                    ..Interface::default()
                }])
            }],
        };
        Description {
            vendor: 0x46f4,
            product: 0x0003,
            release: 0,
            class: [0; 3],
            strings: vec![
                "QEMU".into(),
                "USB Attached SCSI HBA".into(),
                self.config.serial.clone().unwrap_or_else(|| "27842".into()),
            ],
            layouts: [(Speed::Full, 8), (Speed::High, 64)].map(layout).into(),
        }
    }

    fn save(&self) -> State {
        State { bus: Some(self.bus.save()), ..self.state.clone() }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let Some(bus) = state.bus.clone().filter(|_| state.jobs.len() <= COMMANDS) else {
            return Err(RestoreError::Invalid("storage without units"));
        };
        self.bus.restore(bus)?;
        self.state = State { bus: None, ..state };
        Ok(())
    }

    fn reset(&mut self, _: Speed) {
        self.bus.reset();
        self.state = State::default();
    }

    fn input(&mut self, endpoint: u8, max: usize) -> In {
        match endpoint {
            pipe::STATUS => match self.state.told.pop_front() {
                Some(mut unit) => {
                    unit.truncate(max);
                    In::Data(unit)
                }
                None => In::Nak,
            },
            pipe::IN => self.data_in(max),
            _ => In::Stall,
        }
    }

    fn output(&mut self, endpoint: u8, data: &[u8]) -> Out {
        match endpoint {
            // A host that does not fetch what it is told is told no more.
            pipe::COMMAND if self.state.told.len() > 2 * COMMANDS => Out::Nak,
            pipe::COMMAND => self.command(data),
            pipe::OUT => self.data_out(data, 512),
            _ => Out::Stall,
        }
    }

    fn due(&self) -> Option<VmTime> {
        self.bus.due()
    }

    fn ready(&self) -> bool {
        self.bus.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        while let Some((id, step)) = self.bus.take(now) {
            let jobs = &mut self.state.jobs;
            if jobs.iter_mut().any(|job| job.command.arrived(id, step.clone())) {
                self.go_on();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::{Kind, UnitConfig, sbc};
    use crate::usb::device::{Attached, Peripheral};
    use orrery_block::backend::BlockBackend;
    use orrery_system::time::{Clock, Latency};

    fn device() -> Peripheral<Uas> {
        let unit = UnitConfig {
            at: Address::new(0, 0),
            kind: Kind::Disk(sbc::Config::default()),
            backend: BlockBackend::ram((0..0x1_0000_u32).flat_map(u32::to_le_bytes).collect()),
        };
        let bus = Bus::detached(vec![unit], Clock::default(), Latency::new(false));
        let mut d = Peripheral::new(Uas::new(storage::Config::default(), bus));
        Attached::reset(&mut d, Speed::High);
        d.setup([0, 9, 1, 0, 0, 0, 0, 0]);
        assert_eq!(d.input(0, 0), In::Data(vec![]));
        // What happened at power-on is told once.
        command(&mut d, 1, &[0; 6]);
        assert_eq!(told(&mut d)[..7], [3, 0, 0, 1, 0, 0, 2]);
        d
    }

    fn unit(kind: u8, tag: u8, cdb: &[u8]) -> Vec<u8> {
        let mut b = vec![kind, 0, 0, tag];
        b.resize(16, 0);
        b.extend(cdb);
        b.resize(32, 0);
        b
    }

    fn command(d: &mut Peripheral<Uas>, tag: u8, cdb: &[u8]) {
        assert_eq!(d.output(pipe::COMMAND, &unit(iu::COMMAND, tag, cdb)), Out::Ack);
    }

    fn wait(d: &mut Peripheral<Uas>) {
        while d.function.ready() {
            d.function.deliver(VmTime::NEVER);
        }
    }

    fn told(d: &mut Peripheral<Uas>) -> Vec<u8> {
        wait(d);
        match d.input(pipe::STATUS, 112) {
            In::Data(b) => b,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn two_commands_at_a_time_move_their_data_one_after_the_other() {
        let mut d = device();
        command(&mut d, 7, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0]);
        command(&mut d, 8, &[0x2a, 0, 0, 0, 0, 9, 0, 0, 1, 0]);
        // The write has nothing to wait for, so it is first.
        assert_eq!(told(&mut d), [iu::WRITE_READY, 0, 0, 8]);
        assert_eq!(d.input(pipe::IN, 512), In::Nak, "not yet");
        assert_eq!(d.output(pipe::OUT, &[0x5a; 512]), Out::Ack);
        assert_eq!(told(&mut d)[..7], [iu::SENSE, 0, 0, 8, 0, 0, 0]);
        assert_eq!(told(&mut d), [iu::READ_READY, 0, 0, 7]);
        let In::Data(first) = d.input(pipe::IN, 512) else { panic!() };
        assert_eq!((first.len(), &first[..4]), (512, &[0x80, 0, 0, 0][..]));
        let In::Data(second) = d.input(pipe::IN, 512) else { panic!() };
        assert_eq!(second[..4], [0, 1, 0, 0]);
        assert_eq!(told(&mut d)[..7], [iu::SENSE, 0, 0, 7, 0, 0, 0]);
        // A host that waits for more is told that there is none.
        assert_eq!(d.input(pipe::IN, 512), In::Data(vec![]));
        assert_eq!(d.input(pipe::IN, 512), In::Nak);
        command(&mut d, 9, &[0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0]);
        assert_eq!(told(&mut d), [iu::READ_READY, 0, 0, 9]);
        assert_eq!(d.input(pipe::IN, 512), In::Data(vec![0x5a; 512]));
    }

    #[test]
    fn what_fails_says_why_and_tasks_are_managed() {
        let mut d = device();
        command(&mut d, 2, &[0x28, 0, 0, 1, 0, 0, 0, 0, 1, 0]);
        let b = told(&mut d);
        assert_eq!((b[6], b[15], b[18], b[28]), (2, 18, 5, 0x21), "past the end");
        command(&mut d, 3, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        command(&mut d, 3, &[0; 6]);
        assert_eq!(told(&mut d), [iu::WRITE_READY, 0, 0, 3]);
        assert_eq!(told(&mut d)[7], response::OVERLAPPED);
        let mut abort = unit(iu::TASK, 4, &[]);
        (abort[4], abort[7]) = (task::ABORT, 3);
        assert_eq!(d.output(pipe::COMMAND, &abort), Out::Ack);
        assert_eq!(told(&mut d), [iu::RESPONSE, 0, 0, 4, 0, 0, 0, response::COMPLETE]);
        assert_eq!(d.output(pipe::OUT, &[0; 512]), Out::Nak, "its data are not wanted any more");
        assert_eq!(d.output(pipe::COMMAND, &unit(9, 5, &[])), Out::Ack);
        assert_eq!(told(&mut d)[7], response::INVALID);
    }
}
