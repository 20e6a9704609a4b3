//! Intel 82077AA floppy disk controller as the PC/AT wires it.
//!
//! Reference: Intel 290166-007 (82077AA). Two drives, DMA channel 2, IRQ 6.
//!
//! Deviations, all of them QEMU's too: seeking takes no time; a transfer that ends with the last
//! sector and no terminal count ends normally (the chip says "end of cylinder"), because drivers
//! that do without DMA cannot give a terminal count. Not modelled: sectors of other than 512
//! bytes, SCAN, deleted data marks, the SAVE and RESTORE commands.

pub mod command;
pub mod media;

use crate::block::drive::{DriveIo, Finished, Op, Queue};
use command::{Command, Exec, Kind};
use media::{DriveType, Format};
use orrery_block::backend::BlockBackend;
use orrery_system::device::HostIo;
use orrery_system::time::{Clock, Timer, VmTime};
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, IrqLine, Registers, RestoreError, StateBlob,
    reg_map,
};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Registers, 290166 table 2-1.
    pub enum Reg {
        /// Status B: motors and selection, as a PS/2 reads them.
        0x1 Srb: 1 Ro,
        /// Digital output: drive, reset, DMA and interrupt gate, motors.
        0x2 Dor: 1 Rw,
        /// Tape drive.
        0x3 Tdr: 1 Rw,
        /// Main status; data rate select where written.
        0x4 Msr: 1 Rw,
        /// Data.
        0x5 Fifo: 1 Rw,
        /// Digital input: disk change; configuration control where written.
        0x7 Dir: 1 Rw,
    }
}

/// Digital output: not in reset.
const DOR_NRESET: u8 = 0x04;
/// Digital output: DMA and interrupt pins are driven.
const DOR_GATE: u8 = 0x08;

/// Main status: ready for the host.
const MSR_RQM: u8 = 0x80;
/// Main status: towards the host.
const MSR_DIO: u8 = 0x40;
/// Main status: executing without DMA.
const MSR_NDMA: u8 = 0x20;
/// Main status: in a command.
const MSR_BUSY: u8 = 0x10;

/// How long after a pass of the index hole a sector's address is found.
const READ_ID_NS: u64 = 1_000_000;
/// How often a transfer looks whether the DMA controller takes it now.
const DMA_RETRY_NS: u64 = 100_000;

/// Timer that finishes READ ID and retries DMA.
pub const TIMER: u32 = 0;
/// Timer of [`DriveIo`].
pub const IO_TIMER: u32 = 1;

/// A channel of the DMA controller, as the controller's data pins see it.
pub trait DmaChannel: Send {
    /// Stores `data`. Returns how many bytes it took and whether it reached terminal count.
    fn store(&mut self, data: &[u8]) -> (usize, bool);
    /// Fetches up to `data.len()` bytes. Returns how many and whether it reached terminal count.
    fn fetch(&mut self, data: &mut [u8]) -> (usize, bool);
}

/// No DMA controller: transfers wait for ever.
pub struct NoDma;

impl DmaChannel for NoDma {
    fn store(&mut self, _: &[u8]) -> (usize, bool) {
        (0, false)
    }
    fn fetch(&mut self, _: &mut [u8]) -> (usize, bool) {
        (0, false)
    }
}

/// Settings fixed when the machine is built.
pub struct Config {
    /// What drives A and B are; see [`DriveType::resolve`].
    pub drives: [DriveType; 2],
}

/// Pins and services.
pub struct Wires {
    /// IRQ 6.
    pub irq: IrqLine,
    /// DMA channel 2.
    pub dma: Box<dyn DmaChannel>,
    /// Virtual time.
    pub clock: Clock,
    /// Timer number [`TIMER`].
    pub timer: Timer,
    /// The two drives' backends.
    pub io: DriveIo,
}

/// One drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DriveState {
    /// Where the heads stand.
    pub(crate) track: u8,
    /// The disk was changed since the heads last moved.
    pub(crate) changed: bool,
}

/// What the controller is at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Receiving a command: the bytes so far.
    Command(Vec<u8>),
    /// Carrying it out.
    Execute(Exec),
    /// Giving its result: the bytes left, last one first.
    Result(Vec<u8>),
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(crate) dor: u8,
    tdr: u8,
    /// Data rate, from the data rate select or configuration control register.
    pub(crate) rate: u8,
    pub(crate) phase: Phase,
    /// Interrupt pending.
    pub(crate) interrupt: bool,
    /// Status bytes that SENSE INTERRUPT STATUS gives: after a reset, one for each drive.
    pub(crate) senses: Vec<u8>,
    pub(crate) drives: [DriveState; 2],
    /// SPECIFY: step rate and head unload; head load and no-DMA.
    pub(crate) specify: [u8; 2],
    /// CONFIGURE: implied seek, FIFO, polling, threshold; precompensation track.
    pub(crate) configure: [u8; 2],
    pub(crate) perpendicular: u8,
    pub(crate) lock: bool,
    /// Last end-of-track parameter.
    pub(crate) eot: u8,
    pub(crate) queue: Queue<()>,
    /// When the timer comes.
    pub(crate) wake: Option<VmTime>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "isa-fdc";
    const VERSION: u16 = 2;
}

/// The controller.
pub struct Fdc {
    config: Config,
    wires: Wires,
    /// Media changes the drives know of.
    seen: [u64; 2],
    state: State,
}

/// Puts a controller into the port map of `board` from port `base` (0x3f0); it interrupts on
/// `irq` and moves data through `dma`. `drives` has been [resolved](DriveType::resolve).
pub fn build(
    board: &mut Board,
    base: u16,
    drives: [DriveType; 2],
    backends: [BlockBackend; 2],
    irq: IrqLine,
    dma: Box<dyn DmaChannel>,
) -> DeviceId {
    let id = board.reserve(<State as orrery_system::State>::KIND);
    let (clock, timer) = (board.clock(), board.timer(id, TIMER));
    let io = DriveIo::new(board, id, IO_TIMER, backends.to_vec());
    let regions = board.regions();
    let all = regions.device("fdc", 8, id, 0);
    // Port 6 in between belongs to the IDE adapter.
    board.io().add(u64::from(base) + 1, &regions.alias("fdc", &all, 1, 5));
    board.io().add(u64::from(base) + 7, &regions.alias("fdc-dir", &all, 7, 1));
    let wires = Wires { irq, dma, clock, timer, io };
    board.attach(id, Box::new(Fdc::new(Config { drives }, wires)));
    id
}

/// CONFIGURE at power-on: FIFO disabled, polling.
const CONFIGURE_RESET: [u8; 2] = [0x20, 0];

impl State {
    fn power_on() -> Self {
        Self {
            dor: 0x0c,
            tdr: 0,
            // What QEMU's machines start with; the chip's manual says 2.
            rate: 0,
            phase: Phase::Command(Vec::new()),
            interrupt: false,
            senses: Vec::new(),
            drives: [DriveState { track: 0, changed: true }; 2],
            specify: [0; 2],
            configure: CONFIGURE_RESET,
            perpendicular: 0,
            lock: false,
            eot: 0,
            queue: Queue::default(),
            wake: None,
        }
    }

    /// Whether transfers go through the processor: SPECIFY says so, or the gate to the DMA controller is
    /// closed, which in QEMU's machines leaves the interrupt alone.
    pub(crate) fn no_dma(&self) -> bool {
        self.specify[1] & 1 != 0 || self.dor & DOR_GATE == 0
    }

    fn msr(&self) -> u8 {
        if self.dor & DOR_NRESET == 0 {
            return 0;
        }
        match &self.phase {
            Phase::Command(bytes) if bytes.is_empty() => MSR_RQM,
            Phase::Command(_) => MSR_RQM | MSR_BUSY,
            Phase::Result(_) => MSR_RQM | MSR_DIO | MSR_BUSY,
            Phase::Execute(e) if self.no_dma() && e.moving => {
                let direction = if e.kind == Kind::Read { MSR_DIO } else { 0 };
                MSR_RQM | direction | MSR_NDMA | MSR_BUSY
            }
            Phase::Execute(_) => MSR_BUSY,
        }
    }
}

impl Fdc {
    /// The controller in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let mut fdc = Self { config, wires, seen: [0; 2], state: State::power_on() };
        fdc.seen = [0, 1].map(|n| fdc.generation(n));
        fdc
    }

    fn generation(&self, n: usize) -> u64 {
        self.wires.io.drive(n).map_or(0, BlockBackend::media_generation)
    }

    /// The disk in drive `n`.
    pub(crate) fn medium(&self, n: usize) -> Option<(&BlockBackend, Format)> {
        let kind = *self.config.drives.get(n)?;
        let backend = self.wires.io.drive(n).filter(|b| b.has_medium())?;
        (kind != DriveType::None).then(|| (backend, Format::detect(backend.len(), kind)))
    }

    /// Whether there is such a drive.
    pub(crate) fn has_drive(&self, n: usize) -> bool {
        self.config.drives.get(n).is_some_and(|&d| d != DriveType::None)
    }

    fn watch_media(&mut self) {
        for n in 0..2 {
            let now = self.generation(n);
            if now != self.seen[n] {
                self.seen[n] = now;
                self.state.drives[n].changed = true;
            }
        }
    }

    /// Drives the outputs from the state.
    fn drive(&self) {
        let s = &self.state;
        self.wires.irq.set(s.interrupt);
        self.wires.timer.set(s.wake);
    }

    /// Software reset, by either reset bit: ends with an interrupt.
    fn chip_reset(&mut self) {
        self.wires.io.abandon_all(&mut self.state.queue);
        let s = &mut self.state;
        s.phase = Phase::Command(Vec::new());
        s.wake = None;
        if !s.lock {
            s.configure = CONFIGURE_RESET;
        }
        s.perpendicular &= 0x3c;
        s.interrupt = true;
        // With polling on, each of four drives reports that it became ready.
        s.senses =
            if s.configure[0] & 0x10 == 0 { vec![0xc3, 0xc2, 0xc1, 0xc0] } else { vec![0xc0] };
    }

    fn write_dor(&mut self, value: u8) {
        let old = std::mem::replace(&mut self.state.dor, value);
        if value & DOR_NRESET == 0 {
            self.wires.io.abandon_all(&mut self.state.queue);
            self.state.phase = Phase::Command(Vec::new());
            (self.state.interrupt, self.state.wake) = (false, None);
        } else if old & DOR_NRESET == 0 {
            self.chip_reset();
        }
    }

    fn dir(&self) -> u8 {
        // As in QEMU's machines the line is that of the selected drive, whether its motor runs or
        // not; without a disk it stays on.
        let n = usize::from(self.state.dor & 3);
        let changed = self.state.drives.get(n).is_some_and(|d| d.changed);
        u8::from(self.has_drive(n) && (changed || self.medium(n).is_none())) << 7
    }

    fn read_fifo(&mut self) -> u8 {
        let no_dma = self.state.no_dma();
        match &mut self.state.phase {
            Phase::Result(left) => {
                let value = left.pop().unwrap_or(0);
                if left.is_empty() {
                    self.state.interrupt = false;
                    self.state.phase = Phase::Command(Vec::new());
                }
                value
            }
            Phase::Execute(e) if no_dma && e.moving && e.kind == Kind::Read => {
                let value = e.buf.get(e.pos).copied().unwrap_or(0);
                e.pos += 1;
                if e.pos >= e.buf.len() {
                    self.moved();
                }
                value
            }
            _ => 0,
        }
    }

    fn write_fifo(&mut self, value: u8) {
        if self.state.dor & DOR_NRESET == 0 {
            return;
        }
        let no_dma = self.state.no_dma();
        match &mut self.state.phase {
            Phase::Command(bytes) => {
                bytes.push(value);
                if bytes.len() >= Command::decode(bytes[0]).len() {
                    let bytes = std::mem::take(bytes);
                    self.run(&bytes);
                }
            }
            Phase::Execute(e) if no_dma && e.moving && e.kind != Kind::Read => {
                if let Some(b) = e.buf.get_mut(e.pos) {
                    *b = value;
                }
                e.pos += 1;
                if e.pos >= e.buf.len() {
                    self.moved();
                }
            }
            _ => {}
        }
    }

    /// Lets the DMA controller take or bring data.
    fn pump(&mut self) {
        let no_dma = self.state.no_dma();
        let Phase::Execute(e) = &mut self.state.phase else { return };
        if no_dma || !e.moving {
            return;
        }
        let (n, terminal) = match e.kind {
            Kind::Read => self.wires.dma.store(&e.buf[e.pos..]),
            Kind::Verify => (e.buf.len() - e.pos, true),
            Kind::Write | Kind::Format => self.wires.dma.fetch(&mut e.buf[e.pos..]),
        };
        e.pos = (e.pos + n).min(e.buf.len());
        if terminal || e.pos >= e.buf.len() {
            self.state.wake = None;
            self.moved();
        } else {
            self.state.wake = Some(self.wires.clock.now().after(DMA_RETRY_NS));
        }
    }

    pub(crate) fn submit(&mut self, drive: usize, op: Op) {
        self.wires.io.submit(&mut self.state.queue, drive, (), op);
    }

    pub(crate) fn wake_for_read_id(&mut self) {
        self.state.wake = Some(self.wires.clock.now().after(READ_ID_NS));
    }
}

impl Device for Fdc {
    fn name(&self) -> &'static str {
        <State as orrery_system::State>::KIND
    }

    fn reset(&mut self) {
        self.wires.io.abandon_all(&mut self.state.queue);
        self.state = State::power_on();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        let sound = match &state.phase {
            Phase::Command(bytes) => bytes.len() < 16,
            Phase::Execute(e) => e.pos <= e.buf.len() && usize::from(e.drive) < 2,
            Phase::Result(left) => !left.is_empty(),
        };
        if !sound {
            return Err(RestoreError::Invalid("floppy controller phase"));
        }
        self.state = state;
        self.seen = [0, 1].map(|n| self.generation(n));
        self.wires.io.resume(&self.state.queue);
        self.drive();
        Ok(())
    }

    fn wake(&mut self, timer: u32, now: VmTime) {
        if timer == TIMER && self.state.wake.is_some_and(|t| t <= now) {
            self.state.wake = None;
            self.read_id_done();
            self.pump();
            self.drive();
        }
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }
}

impl Registers for Fdc {
    fn read(&mut self, _: u32, offset: u64, width: u8) -> BusResult<u64> {
        let (reg, _) = Reg::decode(offset, width)?;
        self.watch_media();
        let value = match reg {
            Reg::Srb => 0xc0 | (self.state.dor & 1) << 5 | self.state.dor >> 4 & 3,
            Reg::Dor => self.state.dor,
            Reg::Tdr => self.state.tdr,
            Reg::Msr => self.state.msr(),
            Reg::Fifo => self.read_fifo(),
            Reg::Dir => self.dir(),
        };
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, _: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Reg::decode(offset, width)?;
        self.watch_media();
        let value = value as u8;
        match reg {
            Reg::Srb => {}
            Reg::Dor => self.write_dor(value),
            Reg::Tdr => self.state.tdr = value & 3,
            Reg::Msr => {
                self.state.rate = value & 3;
                if value & 0x80 != 0 && self.state.dor & DOR_NRESET != 0 {
                    self.chip_reset();
                }
            }
            Reg::Fifo => self.write_fifo(value),
            Reg::Dir => self.state.rate = value & 3,
        }
        self.pump();
        self.drive();
        Ok(())
    }
}

impl HostIo for Fdc {
    fn due(&self) -> Option<VmTime> {
        self.wires.io.due(&self.state.queue)
    }

    fn ready(&self) -> bool {
        self.wires.io.ready(&self.state.queue)
    }

    fn deliver(&mut self, now: VmTime) {
        while let Some(Finished { result, .. }) = self.wires.io.take(&mut self.state.queue, now) {
            self.op_done(result);
        }
        self.pump();
        self.drive();
    }
}

/// A register access at a port that is not there is refused, so that port 6 stays with IDE.
const _: () = assert!(matches!(Reg::decode(6, 1), Err(BusError::NoRegister)));

#[cfg(test)]
mod tests;
