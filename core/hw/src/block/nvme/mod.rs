//! NVM Express controller (`nvme`) with its namespaces (`nvme-ns`).
//!
//! Reference: NVM Express Base Specification 1.4; the chip is QEMU's own (1b36:0010).
//!
//! Not modelled: controller memory buffers, metadata and protection information, several power states, streams,
//! zones, reservations, sanitize.

mod admin;
mod identify;
mod io;
mod memory;
mod queue;
#[cfg(test)]
mod tests;

use super::drive::{DriveIo, Op, Queue as InFlight};
use crate::pci::{self, BarKind};
use orrery_block::backend::BlockBackend;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, DeviceId, RestoreError, VmTime, reg_map};
use queue::{Command, Completion, Submission};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

reg_map! {
    /// Controller registers (3.1). Doorbells follow at 0x1000.
    pub enum Reg {
        /// Capabilities.
        0x00 Cap: 4 Ro,
        /// Capabilities, upper half.
        0x04 CapHigh: 4 Ro,
        /// Version.
        0x08 Vs: 4 Ro,
        /// Interrupt mask: bits to set.
        0x0c Intms: 4 Rw,
        /// Interrupt mask: bits to clear.
        0x10 Intmc: 4 Rw,
        /// Configuration.
        0x14 Cc: 4 Rw,
        /// Status.
        0x1c Csts: 4 Rw,
        /// Subsystem reset.
        0x20 Nssr: 4 Rw,
        /// Sizes of the admin queues.
        0x24 Aqa: 4 Rw,
        /// Admin submission queue.
        0x28 Asq: 4 Rw,
        /// Admin submission queue, upper half.
        0x2c AsqHigh: 4 Rw,
        /// Admin completion queue.
        0x30 Acq: 4 Rw,
        /// Admin completion queue, upper half.
        0x34 AcqHigh: 4 Rw,
    }
}

/// Bank of the registers and doorbells (BAR 0).
pub const REGISTERS: u32 = 0;
const DOORBELLS: u64 = 0x1000;
const BAR_SIZE: u64 = 0x4000;

/// Entries of a queue to 2048, contiguous queues, 7.5 s to become ready, the NVM command set, pages of 4 KiB to 64 KiB.
const CAP: u64 = 0x7ff | 1 << 16 | 15 << 24 | 1 << 37 | 4 << 52;
const VERSION: u32 = 0x0001_0400;

/// Configuration: enabled; shutdown; page size.
const CC_EN: u32 = 1;
const CC_SHN: u32 = 3 << 14;
/// Status: ready, failed, shut down.
const CSTS_RDY: u32 = 1;
const CSTS_CFS: u32 = 2;
const CSTS_SHUT: u32 = 2 << 2;

/// Most bytes of a transfer, as a power of two of 4 KiB.
const MDTS: u8 = 7;
const MOST: u64 = 4096 << MDTS;
/// Most bytes in flight before commands stay in their queues.
const IN_FLIGHT: u64 = 32 << 20;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x1b36,
    device: 0x0010,
    revision: 2,
    class: 0x01_08_02,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// A namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its number, from 1.
    pub id: u32,
    /// Bytes of a block: a power of two.
    pub block_size: u32,
    /// 64-bit identifier; 0: none.
    pub eui64: u64,
    /// Where its data is.
    pub backend: BlockBackend,
}

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// Serial number, to 20 characters.
    pub serial: String,
    /// Pairs of I/O queues.
    pub queues: u16,
    /// MSI-X vectors.
    pub vectors: u16,
    /// Namespaces, by number.
    pub namespaces: Vec<Namespace>,
}

/// What a host operation is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    queue: u16,
    command: Command,
    /// Operations that follow.
    rest: Vec<Op>,
    /// The controller is shutting down; there is no command.
    shutdown: bool,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    mask: u32,
    cc: u32,
    csts: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    submissions: BTreeMap<u16, Submission>,
    completions: BTreeMap<u16, Completion>,
    in_flight: InFlight<Job>,
    features: admin::Features,
    /// Commands that wait for an event.
    events: Vec<Command>,
    /// Reads and writes: commands, then 512-byte units.
    counts: [[u64; 2]; 2],
}

/// The controller.
pub struct Nvme {
    config: Config,
    io: DriveIo,
    state: State,
}

/// Puts a controller at `devfn` of `bus`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, config: Config) -> DeviceId {
    let id = board.reserve("nvme");
    let pci = function(board, bus, devfn, id, &config);
    let drives = config.namespaces.iter().map(|n| n.backend.clone()).collect();
    let io = DriveIo::new(board, id, 0, drives);
    board.attach(id, Box::new(pci::Card::new(pci, Nvme::new(config, io))));
    id
}

fn function(
    board: &Board,
    bus: &pci::Bus,
    devfn: u8,
    id: DeviceId,
    config: &Config,
) -> pci::Function {
    let region = board.regions().device("nvme", BAR_SIZE, id, REGISTERS);
    pci::Builder::new(board, bus, id, IDENTITY)
        .bar(0, BarKind::Memory64, &region)
        .msix(4, config.vectors)
        .build(devfn)
}

impl Nvme {
    /// A controller that is switched off.
    pub fn new(config: Config, io: DriveIo) -> Self {
        Self { config, io, state: State::default() }
    }

    /// Bytes of a memory page.
    fn page(&self) -> u64 {
        4096 << (self.state.cc >> 7 & 15).min(4)
    }

    fn namespace(&self, id: u32) -> Option<(usize, &Namespace)> {
        self.config.namespaces.iter().enumerate().find(|(_, n)| n.id == id)
    }

    /// What clearing the enable bit does.
    fn stop(&mut self) {
        self.io.abandon_all(&mut self.state.in_flight);
        let s = &mut self.state;
        s.submissions.clear();
        s.completions.clear();
        s.events.clear();
        s.features = admin::Features::default();
        s.csts = 0;
    }

    fn enable(&mut self) {
        let s = &mut self.state;
        let (sq, cq) = (s.aqa & 0xfff, s.aqa >> 16 & 0xfff);
        let page = 4096_u64 << (s.cc >> 7 & 15).min(4);
        let fine = sq > 0
            && cq > 0
            && s.cc >> 7 & 15 <= 4
            && s.cc >> 4 & 7 == 0
            && s.asq.is_multiple_of(page)
            && s.acq.is_multiple_of(page);
        if !fine {
            s.csts = CSTS_CFS;
            return;
        }
        s.submissions.insert(0, Submission::new(s.asq, sq + 1, 0));
        s.completions.insert(0, Completion::new(s.acq, cq + 1, Some(0)));
        s.csts = CSTS_RDY;
    }

    fn set_cc(&mut self, value: u32) {
        let old = std::mem::replace(&mut self.state.cc, value);
        match (old & CC_EN != 0, value & CC_EN != 0) {
            (false, true) => self.enable(),
            (true, false) => self.stop(),
            _ => {}
        }
        if value & CC_SHN != 0 && old & CC_SHN == 0 {
            let job =
                Job { queue: 0, command: Command::default(), rest: Vec::new(), shutdown: true };
            if self.config.namespaces.is_empty() {
                self.state.csts |= CSTS_SHUT;
            } else {
                self.io.submit(&mut self.state.in_flight, 0, job, Op::Flush);
            }
        } else if value & CC_SHN == 0 {
            self.state.csts &= !(3 << 2);
        }
    }

    fn doorbell(&mut self, offset: u64, value: u32, slot: &mut pci::Slot<'_>) {
        let n = (offset - DOORBELLS) / 4;
        let (queue, completion) = ((n / 2) as u16, n % 2 == 1);
        if self.state.csts & CSTS_RDY == 0 {
            return;
        }
        if completion {
            let Some(cq) = self.state.completions.get_mut(&queue) else { return };
            cq.taken(value);
            cq.flush(slot.function.dma());
            if cq.is_empty() {
                return self.serve(slot);
            }
            // What the driver has not taken is announced again.
            if let Some(vector) = cq.vector {
                slot.function.signal(slot.config, vector);
            }
            self.serve(slot);
        } else if let Some(sq) = self.state.submissions.get_mut(&queue) {
            sq.offered(value);
            self.serve(slot);
        }
    }

    /// Takes commands from the queues while there is room.
    fn serve(&mut self, slot: &mut pci::Slot<'_>) {
        let queues: Vec<u16> = self.state.submissions.keys().copied().collect();
        for n in queues {
            while self.in_flight_bytes() < IN_FLIGHT {
                let s = &mut self.state;
                let Some(sq) = s.submissions.get_mut(&n) else { break };
                let room = s.completions.get(&sq.completion).is_some_and(Completion::has_room);
                if !room {
                    break;
                }
                let Some(command) = sq.next(slot.function.dma()) else { break };
                let result = if n == 0 {
                    self.admin(&command, slot)
                } else {
                    self.command(n, &command, slot)
                };
                match result {
                    Ok(Some(word)) => self.complete(n, &command, 0, word, slot),
                    Ok(None) => {}
                    Err(status) => self.complete(n, &command, status, 0, slot),
                }
            }
        }
    }

    fn in_flight_bytes(&self) -> u64 {
        self.state.in_flight.tags().map(|(_, job)| job.command.weight()).sum()
    }

    /// Says that a command is over.
    fn complete(
        &mut self,
        queue: u16,
        command: &Command,
        status: u16,
        word: u32,
        slot: &mut pci::Slot<'_>,
    ) {
        let s = &mut self.state;
        let Some(sq) = s.submissions.get(&queue) else { return };
        let (head, to) = (sq.head, sq.completion);
        let Some(cq) = s.completions.get_mut(&to) else { return };
        if status != 0 {
            tracing::trace!(queue, opcode = command.opcode(), status, "NVMe command refused");
        }
        cq.post([word, 0, u32::from(queue) << 16 | head, command.id() | u32::from(status) << 17]);
        cq.flush(slot.function.dma());
        if let Some(vector) = cq.vector {
            slot.function.signal(slot.config, vector);
        }
    }
}

impl pci::Chip for Nvme {
    type State = State;
    const NAME: &'static str = "nvme";
    const HOST_IO: bool = true;

    fn reset(&mut self) {
        self.io.abandon_all(&mut self.state.in_flight);
        self.state = State::default();
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let fits = state.submissions.values().all(Submission::is_sound)
            && state.completions.values().all(Completion::is_sound);
        if !fits {
            return Err(RestoreError::Invalid("a queue that cannot be"));
        }
        self.state = state;
        self.io.resume(&self.state.in_flight);
        Ok(())
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        let s = &self.state;
        let wants = |cq: &Completion| {
            cq.vector.is_some_and(|v| s.mask & 1 << (v & 31) == 0) && !cq.is_empty()
        };
        s.completions.values().any(wants)
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS || offset >= BAR_SIZE {
            return Err(BusError::NoRegister);
        }
        if offset >= 0x38 {
            return Ok(0);
        }
        let word = |offset: u64| {
            let s = &self.state;
            let Ok((reg, _)) = Reg::decode(offset, 4) else { return 0 };
            match reg {
                Reg::Cap => CAP as u32,
                Reg::CapHigh => (CAP >> 32) as u32,
                Reg::Vs => VERSION,
                Reg::Intms | Reg::Intmc => s.mask,
                Reg::Cc => s.cc,
                Reg::Csts => s.csts,
                Reg::Nssr => 0,
                Reg::Aqa => s.aqa,
                Reg::Asq => s.asq as u32,
                Reg::AsqHigh => (s.asq >> 32) as u32,
                Reg::Acq => s.acq as u32,
                Reg::AcqHigh => (s.acq >> 32) as u32,
            }
        };
        let at = offset & !3;
        let value = u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Ok(value >> (8 * (offset & 3)) & orrery_system::bus::open_bus(width))
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if bank != REGISTERS || offset >= BAR_SIZE {
            return Err(BusError::NoRegister);
        }
        if width == 8 {
            self.write(slot, bank, offset, 4, value & 0xffff_ffff)?;
            return self.write(slot, bank, offset + 4, 4, value >> 32);
        }
        if width != 4 || !offset.is_multiple_of(4) {
            return Err(BusError::Width);
        }
        let v = value as u32;
        if offset >= DOORBELLS {
            self.doorbell(offset, v, slot);
            return Ok(());
        }
        let (reg, _) = Reg::decode(offset, 4)?;
        let s = &mut self.state;
        let low = |old: u64| old & !0xffff_ffff | u64::from(v);
        let high = |old: u64| old & 0xffff_ffff | u64::from(v) << 32;
        match reg {
            Reg::Intms => s.mask |= v,
            Reg::Intmc => s.mask &= !v,
            Reg::Cc => self.set_cc(v),
            Reg::Aqa => s.aqa = v & 0x0fff_0fff,
            Reg::Asq => s.asq = low(s.asq) & !0xfff,
            Reg::AsqHigh => s.asq = high(s.asq),
            Reg::Acq => s.acq = low(s.acq) & !0xfff,
            Reg::AcqHigh => s.acq = high(s.acq),
            Reg::Cap | Reg::CapHigh | Reg::Vs | Reg::Csts | Reg::Nssr => {}
        }
        Ok(())
    }

    fn due(&self) -> Option<VmTime> {
        self.io.due(&self.state.in_flight)
    }

    fn ready(&self) -> bool {
        self.io.ready(&self.state.in_flight)
    }

    fn deliver(&mut self, slot: &mut pci::Slot<'_>, now: VmTime) {
        while let Some(done) = self.io.take(&mut self.state.in_flight, now) {
            if done.tag.shutdown {
                self.state.csts |= CSTS_SHUT;
                continue;
            }
            self.finished(done, slot);
        }
        self.serve(slot);
    }
}
