//! Virtio SCSI host: VIRTIO 1.2 chapter 5.6.
//!
//! Not modelled: protection information, commands with data in both directions.

use super::queue::Chain;
use super::{Context, VirtioDevice};
use crate::pci;
use crate::scsi::{Address, Bus, BusState, Memory, Progress, Step, UnitConfig};
use orrery_system::time::VmTime;
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Features (5.6.3).
mod feature {
    pub(super) const HOTPLUG: u64 = 1 << 1;
    pub(super) const CHANGE: u64 = 1 << 2;
}

/// Responses (5.6.6.1.2, 5.6.6.2).
mod response {
    pub(super) const OK: u8 = 0;
    pub(super) const OVERRUN: u8 = 1;
    pub(super) const ABORTED: u8 = 2;
    pub(super) const BAD_TARGET: u8 = 3;
    pub(super) const RESET: u8 = 4;
    pub(super) const FUNCTION_SUCCEEDED: u8 = 10;
    pub(super) const FUNCTION_REJECTED: u8 = 11;
    pub(super) const INCORRECT_LUN: u8 = 12;
}

/// Queues before those for requests.
const CONTROL: usize = 0;
const EVENT: usize = 1;
const REQUESTS: usize = 2;

/// Offsets of the sizes that a driver may change.
const SENSE_SIZE: usize = 20;
const CDB_SIZE: usize = 24;
/// Their values at reset, and the most they can be.
const USUAL_SENSE: u32 = 96;
const USUAL_CDB: u32 = 32;
const MOST_SENSE: u32 = 252;
const MOST_CDB: u32 = 260;

/// Flag of an event: some were lost.
const EVENTS_MISSED: u32 = 0x8000_0000;

/// Settings fixed when the machine is built.
pub struct Config {
    /// Request queues.
    pub queues: u16,
    /// Entries of each queue, a power of two.
    pub queue_size: u16,
    /// Most 512-byte blocks of a request, and commands for a unit at a time.
    pub limits: [u32; 2],
    /// It tells of units that come and go.
    pub hotplug: bool,
    /// It tells of changed parameters.
    pub param_change: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 256,
            limits: [0xffff, 128],
            hotplug: true,
            param_change: true,
        }
    }
}

/// A command in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    queue: usize,
    chain: Chain,
    tag: u64,
    at: Address,
    progress: Progress,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    bus: BusState,
    jobs: BTreeMap<u64, Job>,
    sense_size: u32,
    cdb_size: u32,
    events: VecDeque<(u32, Address, u32)>,
    missed: bool,
}

/// The device.
pub struct Scsi {
    config: Config,
    bus: Bus,
    jobs: BTreeMap<u64, Job>,
    sense_size: u32,
    cdb_size: u32,
    events: VecDeque<(u32, Address, u32)>,
    missed: bool,
}

/// Puts a `virtio-scsi-pci` with `units` at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    transport: super::pci::Config,
    config: Config,
    units: Vec<UnitConfig>,
) -> DeviceId {
    super::pci::build(board, bus, devfn, transport, |board, id| {
        Scsi::new(config, Bus::new(board, id, 0, units))
    })
}

/// The unit that the eight bytes of a request name.
fn address(lun: &[u8]) -> Option<Address> {
    let lun = lun.first_chunk::<8>()?;
    let [one, target, high, low, ..] = *lun;
    (one == 1).then(|| Address::new(target, Address::lun_of([high, low, 0, 0, 0, 0, 0, 0])))
}

impl Scsi {
    /// A device for the units of `bus`.
    pub fn new(config: Config, bus: Bus) -> Self {
        Self {
            config,
            bus,
            jobs: BTreeMap::new(),
            sense_size: USUAL_SENSE,
            cdb_size: USUAL_CDB,
            events: VecDeque::new(),
            missed: false,
        }
    }

    /// Where in a chain the data begins: behind the request, behind the response.
    fn heads(&self) -> [u64; 2] {
        [19 + u64::from(self.cdb_size), 12 + u64::from(self.sense_size)]
    }

    fn serve(&mut self, queue: usize, context: &mut Context<'_>) {
        while self.bus.has_room() {
            let Some(chain) = context.pop(queue) else { return };
            self.request(queue, chain, context);
        }
    }

    fn request(&mut self, queue: usize, chain: Chain, context: &mut Context<'_>) {
        let [request, response] = self.heads();
        let mut head = vec![0; request as usize];
        if chain.readable.read(context.dma, 0, &mut head) != Ok(head.len())
            || chain.writable.len() < response
        {
            return context.fail("request or response too short");
        }
        let mut tag = [0; 8];
        tag.copy_from_slice(&head[8..16]);
        let at = address(&head);
        let job = Job {
            queue,
            chain,
            tag: u64::from_le_bytes(tag),
            at: at.unwrap_or_default(),
            progress: Progress::default(),
        };
        let Some(at) = at.filter(|at| self.bus.has_target(at.target)) else {
            return self.answer(&job, response::BAD_TARGET, 0, &[], context);
        };
        let (id, step) = self.bus.start(at, &head[19..]);
        self.jobs.insert(id, job);
        self.steps(id, step, context);
    }

    fn steps(&mut self, id: u64, step: Option<Step>, context: &mut Context<'_>) {
        let [request, response] = self.heads();
        let Some(job) = self.jobs.get_mut(&id) else { return self.bus.stop(id) };
        let memory = Memory {
            dma: context.dma,
            input: (&job.chain.writable, response),
            output: (&job.chain.readable, request),
        };
        let Some((status, sense)) = self.bus.run(id, step, &memory, &mut job.progress) else {
            return;
        };
        let Some(job) = self.jobs.remove(&id) else { return };
        let sense = if status == 0 { vec![] } else { sense.fixed().to_vec() };
        let how = if job.progress.overrun { response::OVERRUN } else { response::OK };
        self.answer(&job, how, status, &sense, context);
    }

    /// Writes the response of a job and gives its buffers back.
    fn answer(&self, job: &Job, how: u8, status: u8, sense: &[u8], context: &mut Context<'_>) {
        let [request, response] = self.heads();
        let (out, room) = (
            job.chain.readable.len().saturating_sub(request),
            job.chain.writable.len().saturating_sub(response),
        );
        let left =
            out.saturating_sub(job.progress.moved[1]) + room.saturating_sub(job.progress.moved[0]);
        let sense = &sense[..sense.len().min(self.sense_size as usize)];
        let mut b = (sense.len() as u32).to_le_bytes().to_vec();
        b.extend((left.min(u32::MAX.into()) as u32).to_le_bytes());
        b.extend([0, 0, status, how]);
        b.extend(sense);
        if job.chain.writable.write(context.dma, 0, &b).is_err() {
            return context.fail("response outside memory");
        }
        let written = response + job.progress.moved[0];
        context.push(job.queue, &job.chain, written.min(u64::from(u32::MAX)) as u32);
    }

    /// Ends jobs whose commands are gone.
    fn gone(&mut self, ids: Vec<u64>, how: u8, context: &mut Context<'_>) {
        for id in ids {
            if let Some(job) = self.jobs.remove(&id) {
                self.answer(&job, how, 0, &[], context);
            }
        }
    }

    fn control(&mut self, context: &mut Context<'_>) {
        while let Some(chain) = context.pop(CONTROL) {
            let mut b = [0; 24];
            let n = chain.readable.read(context.dma, 0, &mut b).unwrap_or(0);
            let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            let answer = match word(0) {
                0 if n == 24 => {
                    let mut tag = [0; 8];
                    tag.copy_from_slice(&b[16..]);
                    let at = address(&b[8..16]);
                    vec![self.manage(word(4), at, u64::from_le_bytes(tag), context)]
                }
                // Asynchronous notifications: none, successfully.
                1 | 2 if n >= 16 => vec![0, 0, 0, 0, response::OK],
                _ => return context.fail("control request"),
            };
            match chain.writable.write(context.dma, 0, &answer) {
                Ok(n) if n == answer.len() => context.push(CONTROL, &chain, n as u32),
                _ => return context.fail("no place for the response"),
            }
        }
    }

    /// Task management (5.6.6.2).
    fn manage(
        &mut self,
        what: u32,
        at: Option<Address>,
        tag: u64,
        context: &mut Context<'_>,
    ) -> u8 {
        let Some(at) = at.filter(|at| self.bus.has_target(at.target)) else {
            return response::BAD_TARGET;
        };
        let unit = self.bus.units().any(|u| u == at);
        if !unit && what != 4 {
            return response::INCORRECT_LUN;
        }
        let of = |jobs: &BTreeMap<u64, Job>| {
            jobs.iter().find(|(_, j)| j.at == at && j.tag == tag).map(|(id, _)| *id)
        };
        match what {
            0 => {
                if let Some(id) = of(&self.jobs) {
                    self.bus.abort(id);
                    self.gone(vec![id], response::ABORTED, context);
                }
                response::OK
            }
            // A task set.
            1 | 3 => {
                let ids = self.bus.abort_units(|u| u == at);
                self.gone(ids, response::ABORTED, context);
                response::OK
            }
            // A nexus, a unit.
            4 | 5 => {
                let ids = self.bus.reset_units(|u| u.target == at.target && (what == 4 || u == at));
                self.gone(ids, response::RESET, context);
                response::OK
            }
            6 if of(&self.jobs).is_some() => response::FUNCTION_SUCCEEDED,
            7 if self.jobs.values().any(|j| j.at == at) => response::FUNCTION_SUCCEEDED,
            6 | 7 => response::OK,
            _ => response::FUNCTION_REJECTED,
        }
    }

    fn send_events(&mut self, context: &mut Context<'_>) {
        while self.missed || !self.events.is_empty() {
            let Some(chain) = context.pop(EVENT) else { return };
            let (mut event, at, reason) =
                self.events.pop_front().unwrap_or((0, Address::default(), 0));
            if std::mem::take(&mut self.missed) {
                event |= EVENTS_MISSED;
            }
            let mut b = event.to_le_bytes().to_vec();
            let [high, low] = (at.lun | 0x4000).to_be_bytes();
            b.extend([1, at.target, high, low, 0, 0, 0, 0]);
            b.extend(reason.to_le_bytes());
            match chain.writable.write(context.dma, 0, &b) {
                Ok(16) => context.push(EVENT, &chain, 16),
                _ => return context.fail("no place for an event"),
            }
        }
    }
}

impl VirtioDevice for Scsi {
    type State = State;

    const PCI_NAME: &'static str = "virtio-scsi-pci";
    const TYPE: u16 = 8;
    const PCI_CLASS: u32 = 0x01_00_00;

    fn features(&self) -> u64 {
        let hotplug = if self.config.hotplug { feature::HOTPLUG } else { 0 };
        hotplug | if self.config.param_change { feature::CHANGE } else { 0 }
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.config.queue_size; REQUESTS + usize::from(self.config.queues)]
    }

    fn config(&self) -> Vec<u8> {
        let segments = u32::from(self.config.queue_size.saturating_sub(2));
        let [sectors, commands] = self.config.limits;
        let words = [u32::from(self.config.queues), segments, sectors, commands, 16];
        let mut c: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        c.extend(self.sense_size.to_le_bytes());
        c.extend(self.cdb_size.to_le_bytes());
        // Last channel, target and unit.
        c.extend(0_u16.to_le_bytes());
        c.extend(255_u16.to_le_bytes());
        c.extend(16383_u32.to_le_bytes());
        c
    }

    fn write_config(&mut self, at: usize, value: u8) {
        let (word, base, most) = match at {
            SENSE_SIZE..CDB_SIZE => (&mut self.sense_size, SENSE_SIZE, MOST_SENSE),
            CDB_SIZE..28 => (&mut self.cdb_size, CDB_SIZE, MOST_CDB),
            _ => return,
        };
        let shift = 8 * (at - base);
        *word = (*word & !(0xff << shift) | u32::from(value) << shift).min(most);
    }

    fn reset(&mut self) {
        self.bus.reset();
        self.jobs.clear();
        (self.sense_size, self.cdb_size) = (USUAL_SENSE, USUAL_CDB);
        self.events.clear();
        self.missed = false;
    }

    fn notified(&mut self, n: usize, context: &mut Context<'_>) {
        match n {
            CONTROL => self.control(context),
            EVENT => self.send_events(context),
            n => self.serve(n, context),
        }
    }

    fn save(&self) -> State {
        State {
            bus: self.bus.save(),
            jobs: self.jobs.clone(),
            sense_size: self.sense_size,
            cdb_size: self.cdb_size,
            events: self.events.clone(),
            missed: self.missed,
        }
    }

    fn restore(&mut self, s: State) -> Result<(), RestoreError> {
        let queues = REQUESTS + usize::from(self.config.queues);
        if s.jobs.values().any(|j| j.queue >= queues)
            || s.sense_size > MOST_SENSE
            || s.cdb_size > MOST_CDB
        {
            return Err(RestoreError::Invalid("queues of another SCSI host"));
        }
        self.bus.restore(s.bus)?;
        (self.jobs, self.events, self.missed) = (s.jobs, s.events, s.missed);
        (self.sense_size, self.cdb_size) = (s.sense_size, s.cdb_size);
        Ok(())
    }

    fn due(&self) -> Option<VmTime> {
        self.bus.due()
    }

    fn ready(&self) -> bool {
        self.bus.ready()
    }

    fn deliver(&mut self, now: VmTime, context: &mut Context<'_>) {
        while let Some((id, step)) = self.bus.take(now) {
            self.steps(id, Some(step), context);
        }
        for queue in 0..self.config.queues {
            self.serve(REQUESTS + usize::from(queue), context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::super::pci::standing_alone;
    use super::*;
    use crate::pci::CONFIG_BANK;
    use crate::scsi::{Kind, sbc};
    use crate::virtio::pci::{LEGACY_BANK, MODERN_BANK};
    use orrery_block::backend::BlockBackend;
    use orrery_system::time::{Clock, Latency};

    fn device(disk: &BlockBackend) -> Scsi {
        let kind = Kind::Disk(sbc::Config::default());
        let unit = UnitConfig { at: Address::new(0, 0), kind, backend: disk.clone() };
        let bus = Bus::detached(vec![unit], Clock::default(), Latency::new(false));
        Scsi::new(Config::default(), bus)
    }

    /// A request with `cdb` and `out`, and room for `room` bytes: response and data.
    fn request(
        dev: &mut Scsi,
        target: u8,
        cdb: &[u8],
        out: &[u8],
        room: u32,
    ) -> (Vec<u8>, Vec<u8>) {
        let mut head = vec![1, target, 0x40, 0, 0, 0, 0, 0];
        head.extend([9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        head.extend(cdb);
        head.resize(19 + 32, 0);
        head.extend(out);
        let (mut all, _) = Bench::new().request(dev, REQUESTS, &head, 108 + room).unwrap();
        let data = all.split_off(108);
        (all, data)
    }

    #[test]
    fn commands_go_to_the_unit_and_come_back_with_data_status_and_sense() {
        let disk = BlockBackend::ram(vec![0; 1 << 20]);
        let mut dev = device(&disk);
        let (response, _) = request(&mut dev, 0, &[0], &[], 0);
        assert_eq!((response[0], response[10], response[11]), (18, 2, 0), "power-on");
        assert_eq!(response[12 + 12], 0x29);
        let (response, _) = request(&mut dev, 0, &[0x2a, 0, 0, 0, 0, 1, 0, 0, 1], &[6; 512], 0);
        assert_eq!(response[..12], [0; 12]);
        let (response, data) = request(&mut dev, 0, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1], &[], 600);
        assert_eq!(response[4..12], [88, 0, 0, 0, 0, 0, 0, 0], "what was not filled");
        assert_eq!(data[..512], [6; 512]);
        let (response, _) = request(&mut dev, 0, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1], &[], 100);
        assert_eq!(response[11], response::OVERRUN);
        let (response, _) = request(&mut dev, 7, &[0], &[], 0);
        assert_eq!(response[11], response::BAD_TARGET);
    }

    orrery_system::conformance!(
        {
            let board = Board::with_ram(0x1_0000);
            let bus = pci::Bus::simple(&board);
            standing_alone(&board, &bus, device(&BlockBackend::ram(vec![0; 1 << 20])))
        },
        [(LEGACY_BANK, &[]), (MODERN_BANK, &[]), (CONFIG_BANK, &[])]
    );
}
