//! VMware's paravirtual SCSI host adapter (`pvscsi`).
//!
//! There is no public manual; the interface is what the driver of Linux (`vmw_pvscsi`) uses: rings of requests and
//! completions in guest memory, and a command register behind which the words of a command follow.
//!
//! Not modelled: the ring of messages about units that come and go, configuration pages.

use super::{Address, Bus, BusState, Memory, Progress, Step, UnitConfig, status};
use crate::dma::Pieces;
use crate::pci;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, DeviceId, Dma, RestoreError, VmTime, reg_map};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

reg_map! {
    /// Registers.
    pub enum Reg {
        /// Command.
        0x0000 Command: 4 Rw,
        /// Words of the command.
        0x0004 CommandData: 4 Rw,
        /// How it went.
        0x0008 CommandStatus: 4 Ro,
        /// Interrupt causes, cleared by ones.
        0x100c InterruptStatus: 4 Rw,
        /// Which of them interrupt.
        0x2010 InterruptMask: 4 Rw,
        /// There are requests that neither read nor write.
        0x3014 KickOther: 4 Rw,
        /// There are reads and writes.
        0x4018 Kick: 4 Rw,
    }
}

/// Bank of the registers (BAR 0).
pub const REGISTERS: u32 = 0;
const BAR_SIZE: u64 = 0x8000;

/// Commands, and the words that follow.
mod command {
    pub(super) const ADAPTER_RESET: u32 = 1;
    pub(super) const SETUP_RINGS: u32 = 3;
    pub(super) const RESET_BUS: u32 = 4;
    pub(super) const RESET_DEVICE: u32 = 5;
    pub(super) const ABORT: u32 = 6;

    /// Words behind a command; `None` if it is not known.
    pub(super) fn words(command: u32) -> Option<usize> {
        match command {
            ADAPTER_RESET | RESET_BUS => Some(0),
            SETUP_RINGS => Some(132),
            RESET_DEVICE => Some(3),
            ABORT => Some(4),
            _ => None,
        }
    }
}

const SUCCEEDED: u32 = 0;
const FAILED: u32 = u32::MAX;
/// Some of a command's words have not come yet.
const INCOMPLETE: u32 = u32::MAX - 1;

/// Cause of an interrupt: completions.
const COMPLETED: u32 = 1;

/// Host status of a completion.
mod host {
    pub(super) const SUCCESS: u16 = 0;
    pub(super) const DATA_RUN: u16 = 0x12;
    pub(super) const SELECTION_TIMEOUT: u16 = 0x11;
    pub(super) const BAD_PARAMETER: u16 = 0x1a;
    pub(super) const RESET: u16 = 0x22;
    pub(super) const ABORTED: u16 = 0x26;
}

/// Flags of a request: its data is a list; data from and to the unit.
const SCATTER: u32 = 1;
const IN: u32 = 1 << 3;
const OUT: u32 = 1 << 4;
/// Flag of a list's element: it leads to the next part.
const CHAIN: u32 = 1;

const PAGE: u64 = 4096;
/// Most pages of a ring, and bytes of a request and of a completion.
const PAGES: usize = 32;
const REQUEST: u64 = 128;
const COMPLETION: u64 = 32;
/// Most elements of a list.
const ELEMENTS: usize = 2048;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x15ad,
    device: 0x07c0,
    revision: 2,
    class: 0x01_00_00,
    subsystem: (0x15ad, 0x07c0),
    pin: 1,
};

/// A ring in guest memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ring {
    pages: Vec<u64>,
    index: u32,
}

impl Ring {
    fn entries(&self, size: u64) -> u32 {
        (self.pages.len() as u64 * PAGE / size) as u32
    }

    /// Where the entry at the index is.
    fn at(&self, size: u64) -> Option<u64> {
        let n = u64::from(self.index % self.entries(size).max(1));
        let per_page = PAGE / size;
        let page = *self.pages.get((n / per_page) as usize)?;
        Some(page.wrapping_mul(PAGE).wrapping_add(n % per_page * size))
    }
}

/// A request in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    context: u64,
    at: Address,
    sense: (u64, u32),
    input: Pieces,
    output: Pieces,
    progress: Progress,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    command: u32,
    words: Vec<u32>,
    status: u32,
    causes: u32,
    mask: u32,
    /// Where the rings' indices are; none: they are not set up.
    rings: Option<u64>,
    requests: Ring,
    completions: Ring,
    jobs: BTreeMap<u64, Job>,
    bus: Option<BusState>,
}

/// The adapter.
pub struct Pvscsi {
    bus: Bus,
    /// Completions since the last message: drivers that use messages do not clear causes.
    news: bool,
    state: State,
}

/// Puts an adapter with `units` at `devfn` of `bus`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, units: Vec<UnitConfig>) -> DeviceId {
    let id = board.reserve("pvscsi");
    let pci = function(board, bus, devfn, id);
    let units = Bus::new(board, id, 0, units);
    board.attach(id, Box::new(pci::Card::new(pci, Pvscsi::new(units))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .memory_bar(0, REGISTERS, BAR_SIZE)
        .msi(1)
        .build(devfn)
}

/// A little-endian number in `b`.
fn word(b: &[u8], at: usize) -> u32 {
    let bytes = b.get(at..at + 4).and_then(|b| b.first_chunk());
    bytes.map_or(0, |b| u32::from_le_bytes(*b))
}

fn long(b: &[u8], at: usize) -> u64 {
    u64::from(word(b, at)) | u64::from(word(b, at + 4)) << 32
}

impl Pvscsi {
    /// An adapter in its power-on state.
    pub fn new(bus: Bus) -> Self {
        Self { bus, news: false, state: State::default() }
    }

    /// Begins a command, or takes its next word.
    fn command(&mut self, dma: &Dma) {
        let s = &mut self.state;
        let Some(words) = command::words(s.command) else {
            s.status = FAILED;
            return;
        };
        if s.words.len() < words {
            s.status = INCOMPLETE;
            return;
        }
        let command = std::mem::take(&mut s.command);
        let bytes: Vec<u8> =
            std::mem::take(&mut s.words).into_iter().flat_map(u32::to_le_bytes).collect();
        s.status = SUCCEEDED;
        match command {
            command::ADAPTER_RESET => {
                self.bus.reset();
                self.state = State::default();
            }
            command::SETUP_RINGS => self.set_up(&bytes, dma),
            command::RESET_BUS => {
                let gone = self.bus.reset_units(|_| true);
                self.end(gone, host::RESET, dma);
            }
            command::RESET_DEVICE => {
                let target = word(&bytes, 0);
                let lun = bytes.get(4..12).and_then(|b| b.first_chunk()).copied();
                let lun = lun.map_or(0, Address::lun_of);
                let gone =
                    self.bus.reset_units(|at| u32::from(at.target) == target && at.lun == lun);
                self.end(gone, host::RESET, dma);
            }
            _ => {
                let (context, target) = (long(&bytes, 0), word(&bytes, 8));
                let found =
                    self.state.jobs.iter().find(|(_, job)| {
                        job.context == context && u32::from(job.at.target) == target
                    });
                if let Some(id) = found.map(|(id, _)| *id) {
                    self.bus.abort(id);
                    self.end(vec![id], host::ABORTED, dma);
                }
            }
        }
    }

    fn set_up(&mut self, b: &[u8], dma: &Dma) {
        let counts = [word(b, 0) as usize, word(b, 4) as usize];
        if counts.iter().any(|n| !(1..=PAGES).contains(n) || !n.is_power_of_two()) {
            self.state.status = FAILED;
            return;
        }
        let pages = |at: usize, n: usize| (0..n).map(|i| long(b, at + 8 * i)).collect();
        let base = long(b, 8).wrapping_mul(PAGE);
        let s = &mut self.state;
        s.requests = Ring { pages: pages(16, counts[0]), index: 0 };
        s.completions = Ring { pages: pages(16 + 8 * PAGES, counts[1]), index: 0 };
        s.rings = Some(base);
        let sizes =
            [s.requests.entries(REQUEST).ilog2(), s.completions.entries(COMPLETION).ilog2()];
        let page = [0, 0, sizes[0], 0, 0, sizes[1]];
        let page: Vec<u8> = page.into_iter().flat_map(u32::to_le_bytes).collect();
        if dma.write(base, &page).is_err() {
            s.status = FAILED;
            s.rings = None;
        }
    }

    /// Takes requests from the ring.
    fn serve(&mut self, dma: &Dma) {
        let Some(rings) = self.state.rings else { return };
        let Ok(end) = dma.read_u32(rings) else { return };
        let entries = self.state.requests.entries(REQUEST);
        while self.bus.has_room() {
            let waiting = end.wrapping_sub(self.state.requests.index);
            if waiting == 0 || waiting > entries {
                return;
            }
            let mut b = [0; REQUEST as usize];
            let Some(at) = self.state.requests.at(REQUEST) else { return };
            if dma.read(at, &mut b).is_err() {
                return;
            }
            let ring = &mut self.state.requests;
            ring.index = ring.index.wrapping_add(1);
            if dma.write(rings.wrapping_add(4), &ring.index.to_le_bytes()).is_err() {
                return;
            }
            self.request(&b, dma);
        }
    }

    fn request(&mut self, b: &[u8; REQUEST as usize], dma: &Dma) {
        let mut lun = [0; 8];
        lun.copy_from_slice(&b[57..65]);
        let flags = word(b, 36);
        let pieces = list(dma, long(b, 8), long(b, 16), flags);
        let (mut input, mut output) = (Pieces::default(), Pieces::default());
        let there = pieces.is_some();
        match flags & (IN | OUT) {
            IN => input = pieces.unwrap_or_default(),
            OUT => output = pieces.unwrap_or_default(),
            _ => {}
        }
        let job = Job {
            context: long(b, 0),
            at: Address::new(b[67], Address::lun_of(lun)),
            sense: (long(b, 24), word(b, 32)),
            input,
            output,
            progress: Progress::default(),
        };
        if !there {
            return self.complete(&job, host::BAD_PARAMETER, 0, 0, dma);
        }
        if b[66] != 0 || !self.bus.has_target(job.at.target) {
            return self.complete(&job, host::SELECTION_TIMEOUT, 0, 0, dma);
        }
        let len = usize::from(b[56]).clamp(1, 16);
        let (id, step) = self.bus.start(job.at, &b[40..40 + len]);
        self.state.jobs.insert(id, job);
        self.steps(id, step, dma);
    }

    fn steps(&mut self, id: u64, step: Option<Step>, dma: &Dma) {
        let Some(job) = self.state.jobs.get_mut(&id) else { return self.bus.stop(id) };
        let memory = Memory { dma, input: (&job.input, 0), output: (&job.output, 0) };
        let Some((code, sense)) = self.bus.run(id, step, &memory, &mut job.progress) else {
            return;
        };
        let Some(job) = self.state.jobs.remove(&id) else { return };
        let mut sense_len = 0;
        if code == status::CHECK_CONDITION {
            let data = sense.fixed();
            let n = data.len().min(job.sense.1 as usize);
            if dma.write(job.sense.0, &data[..n]).is_ok() {
                sense_len = n as u32;
            }
        }
        let wanted = job.input.len() + job.output.len();
        let moved: u64 = job.progress.moved.iter().sum();
        let short = moved != wanted || job.progress.overrun;
        let how = if short { host::DATA_RUN } else { host::SUCCESS };
        self.complete(&job, how, code, sense_len, dma);
    }

    /// Ends jobs whose commands are gone.
    fn end(&mut self, ids: Vec<u64>, how: u16, dma: &Dma) {
        for id in ids {
            if let Some(job) = self.state.jobs.remove(&id) {
                self.complete(&job, how, 0, 0, dma);
            }
        }
    }

    fn complete(&mut self, job: &Job, how: u16, code: u8, sense_len: u32, dma: &Dma) {
        let s = &mut self.state;
        let Some(rings) = s.rings else { return };
        let moved: u64 = job.progress.moved.iter().sum();
        let mut b = job.context.to_le_bytes().to_vec();
        b.extend(moved.to_le_bytes());
        b.extend(sense_len.to_le_bytes());
        b.extend(how.to_le_bytes());
        b.extend(u16::from(code).to_le_bytes());
        b.resize(COMPLETION as usize, 0);
        let Some(at) = s.completions.at(COMPLETION) else { return };
        // A ring outside memory keeps completions from the driver; nothing else.
        let _ = dma.write(at, &b);
        s.completions.index = s.completions.index.wrapping_add(1);
        let _ = dma.write(rings.wrapping_add(12), &s.completions.index.to_le_bytes());
        s.causes |= COMPLETED;
        self.news = true;
    }
}

/// The pieces of a request's data; `None` if its list makes no sense.
fn list(dma: &Dma, addr: u64, len: u64, flags: u32) -> Option<Pieces> {
    let mut pieces = Pieces::default();
    let mut left = len;
    let mut add = |at: u64, n: u64, left: &mut u64| {
        let mut at = at;
        let mut n = n.min(*left);
        *left -= n;
        while n > 0 {
            let part = n.min(1 << 30);
            pieces.add(at, part as u32);
            (at, n) = (at.wrapping_add(part), n - part);
        }
    };
    if flags & (IN | OUT) == 0 {
        return Some(pieces);
    }
    if len > 1 << 40 {
        return None;
    }
    if flags & SCATTER == 0 {
        add(addr, len, &mut left);
        return Some(pieces);
    }
    let mut at = addr;
    for _ in 0..ELEMENTS {
        if left == 0 {
            break;
        }
        let mut b = [0; 16];
        dma.read(at, &mut b).ok()?;
        if word(&b, 12) & CHAIN != 0 {
            at = long(&b, 0);
        } else {
            add(long(&b, 0), word(&b, 8).into(), &mut left);
            at = at.wrapping_add(16);
        }
    }
    Some(pieces)
}

impl pci::Chip for Pvscsi {
    type State = State;
    const NAME: &'static str = "pvscsi";
    const HOST_IO: bool = true;

    fn reset(&mut self) {
        self.bus.reset();
        self.state = State::default();
    }

    fn save(&self) -> State {
        State { bus: Some(self.bus.save()), ..self.state.clone() }
    }

    fn restore(&mut self, mut state: State) -> Result<(), RestoreError> {
        let Some(bus) = state.bus.take() else {
            return Err(RestoreError::Invalid("an adapter without a bus"));
        };
        self.bus.restore(bus)?;
        self.state = state;
        Ok(())
    }

    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let wanted = self.state.causes & self.state.mask != 0;
        let news = std::mem::take(&mut self.news);
        if !slot.function.msi_enabled(slot.config) {
            return wanted;
        }
        if news && wanted {
            slot.function.signal(slot.config, 0);
        }
        false
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = Reg::decode(offset, width)?;
        Ok(match reg {
            Reg::CommandStatus => self.state.status,
            Reg::InterruptStatus => self.state.causes,
            Reg::InterruptMask => self.state.mask,
            Reg::Command | Reg::CommandData | Reg::KickOther | Reg::Kick => 0,
        }
        .into())
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let (v, dma) = (value as u32, slot.function.dma());
        match reg {
            Reg::Command => {
                (self.state.command, self.state.words) = (v, Vec::new());
                self.command(dma);
            }
            // Words without a command go nowhere.
            Reg::CommandData if self.state.command != 0 => {
                self.state.words.push(v);
                self.command(dma);
            }
            Reg::InterruptStatus => self.state.causes &= !v,
            Reg::InterruptMask => self.state.mask = v,
            Reg::KickOther | Reg::Kick => self.serve(dma),
            Reg::CommandData | Reg::CommandStatus => {}
        }
        Ok(())
    }

    fn due(&self) -> Option<VmTime> {
        self.bus.due()
    }

    fn ready(&self) -> bool {
        self.bus.ready()
    }

    fn deliver(&mut self, slot: &mut pci::Slot<'_>, now: VmTime) {
        let dma = slot.function.dma();
        while let Some((id, step)) = self.bus.take(now) {
            self.steps(id, Some(step), dma);
        }
        self.serve(dma);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{CONFIG_BANK, Card};
    use crate::scsi::{Kind, sbc};
    use orrery_block::backend::BlockBackend;
    use orrery_system::IrqInput;
    use orrery_system::bus::Registers;
    use orrery_system::device::HostIo;
    use orrery_system::time::Latency;

    const RINGS: u64 = 0x1000;
    const REQUESTS: u64 = 0x2000;
    const COMPLETIONS: u64 = 0x3000;
    const DATA: u64 = 0x8000;

    fn device() -> (Card<Pvscsi>, Dma, pci::Bus) {
        let board = Board::with_ram(0x2_0000);
        let bus = pci::Bus::simple(&board);
        let pci = function(&board, &bus, 8, DeviceId(0));
        let kind = Kind::Disk(sbc::Config::default());
        let backend = BlockBackend::ram(vec![0; 1 << 20]);
        let unit = UnitConfig { at: Address::new(1, 0), kind, backend };
        let units = Bus::detached(vec![unit], board.clock(), Latency::new(false));
        (Card::new(pci, Pvscsi::new(units)), board.dma(), bus)
    }

    struct Bench {
        dev: Card<Pvscsi>,
        dma: Dma,
        bus: pci::Bus,
        n: u32,
    }

    impl Bench {
        fn new() -> Self {
            let (dev, dma, bus) = device();
            let mut b = Self { dev, dma, bus, n: 0 };
            b.dev.write(CONFIG_BANK, 4, 2, 6).unwrap();
            b.set(0, command::SETUP_RINGS);
            let mut words = vec![0; 132];
            (words[0], words[1], words[2]) = (1, 1, (RINGS / PAGE) as u32);
            (words[4], words[68]) = ((REQUESTS / PAGE) as u32, (COMPLETIONS / PAGE) as u32);
            words.into_iter().for_each(|w| b.set(4, w));
            assert_eq!(b.dev.read(REGISTERS, 8, 4), Ok(0));
            assert_eq!((b.dma.read_u32(RINGS + 8), b.dma.read_u32(RINGS + 20)), (Ok(5), Ok(7)));
            b.set(0x2010, 1);
            b
        }

        fn set(&mut self, at: u64, v: u32) {
            self.dev.write(REGISTERS, at, 4, v.into()).unwrap();
        }

        /// Makes a request: host status, SCSI status and bytes moved.
        fn run(&mut self, target: u8, cdb: &[u8], len: u32, flags: u32) -> (u16, u16, u32) {
            let mut b = vec![0; 128];
            b[0] = 0x77;
            b[8..16].copy_from_slice(&DATA.to_le_bytes());
            b[16..20].copy_from_slice(&len.to_le_bytes());
            b[24..32].copy_from_slice(&0x7000_u64.to_le_bytes());
            b[32] = 64;
            b[36..40].copy_from_slice(&flags.to_le_bytes());
            b[40..40 + cdb.len()].copy_from_slice(cdb);
            (b[56], b[67]) = (cdb.len() as u8, target);
            self.dma.write(REQUESTS + 128 * u64::from(self.n % 32), &b).unwrap();
            let at = COMPLETIONS + 32 * u64::from(self.n % 128);
            self.n += 1;
            self.dma.write(RINGS, &self.n.to_le_bytes()).unwrap();
            self.set(0x4018, 0);
            while self.dev.ready() {
                self.dev.deliver(VmTime::NEVER);
            }
            assert!(self.bus.wires().iter().any(IrqInput::level));
            self.set(0x100c, 1);
            assert_eq!(self.dma.read_u32(RINGS + 12), Ok(self.n));
            assert_eq!(self.dma.read_u64(at), Ok(0x77));
            let code = |n| self.dma.read_u16(at + n).unwrap();
            (code(20), code(22), self.dma.read_u32(at + 8).unwrap())
        }
    }

    #[test]
    fn requests_go_through_the_rings() {
        let mut b = Bench::new();
        assert_eq!(b.run(1, &[0; 6], 0, 4), (0, 2, 0), "power-on");
        assert_eq!(b.dma.read_u16(0x7002), Ok(6), "sense");
        b.dma.write(DATA, &[5; 1024]).unwrap();
        assert_eq!(b.run(1, &[0x0a, 0, 0, 1, 2, 0], 1024, OUT), (0, 0, 1024));
        b.dma.write(DATA, &[0; 1024]).unwrap();
        assert_eq!(b.run(1, &[0x08, 0, 0, 1, 2, 0], 1024, IN), (0, 0, 1024));
        assert_eq!(b.dma.read_u32(DATA + 1020), Ok(0x0505_0505));
        assert_eq!(b.run(1, &[0x12, 0, 0, 0, 255, 0], 255, IN), (host::DATA_RUN, 0, 36));
        assert_eq!(b.run(2, &[0; 6], 0, 4).0, host::SELECTION_TIMEOUT);
        for _ in 0..200 {
            assert_eq!(b.run(1, &[0; 6], 0, 4), (0, 0, 0), "round the rings");
        }
    }

    #[test]
    fn lists_are_followed_through_chains() {
        let mut b = Bench::new();
        b.run(1, &[0; 6], 0, 4);
        let element = |at: u64, len: u32, flags: u32| {
            [at.to_le_bytes().to_vec(), len.to_le_bytes().into(), flags.to_le_bytes().into()]
                .concat()
        };
        b.dma.write(DATA, &element(0x9000, 100, 0)).unwrap();
        b.dma.write(DATA + 16, &element(0xa000, 0, CHAIN)).unwrap();
        b.dma.write(0xa000, &element(0xb000, 412, 0)).unwrap();
        assert_eq!(b.run(1, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, IN | SCATTER), (0, 0, 8));
        assert_eq!(b.dma.read_u32(0x9004), Ok(0x0002_0000));
        assert_eq!(b.run(1, &[0x08, 0, 0, 1, 1, 0], 512, IN | SCATTER), (0, 0, 512));
    }

    #[test]
    fn unknown_commands_fail_and_known_ones_wait_for_their_words() {
        let mut b = Bench::new();
        b.set(0, 8);
        assert_eq!(b.dev.read(REGISTERS, 8, 4), Ok(FAILED.into()));
        b.set(0, command::ABORT);
        assert_eq!(b.dev.read(REGISTERS, 8, 4), Ok(INCOMPLETE.into()));
        (0..4).for_each(|_| b.set(4, 0));
        assert_eq!(b.dev.read(REGISTERS, 8, 4), Ok(0));
        b.set(0, command::RESET_BUS);
        assert_eq!(b.run(1, &[0; 6], 0, 4), (0, 2, 0), "it was reset");
    }

    orrery_system::conformance!(device().0, [(REGISTERS, Reg::TABLE), (CONFIG_BANK, &[])]);
}
