//! The board: devices, address maps, wires, clock and timers of one machine, without its CPUs.
//!
//! CPUs run against `&mut Board`. The run loop (crate `orrery-core`) gives them a slice, and
//! between slices lets the board [settle](Board::settle), deliver [timers](Board::run_timers) and
//! [finished host operations](Board::deliver_host_io).

use crate::bus::{BusError, BusResult, open_bus};
use crate::device::Device;
use crate::device::FirmwareAnswer;
use crate::dma::Dma;
use crate::irq::{Attention, IrqInput};
use crate::map::{Changes, Region, Regions, SharedViews, Target, Views};
use crate::pins::{CpuPins, Power, Startup};
use crate::ports::{MessageQueue, NetPort, Port};
use crate::ram::Ram;
use crate::snapshot::{RestoreError, StateBlob};
use crate::time::{Clock, Latency, Timer, TimerHub, VmTime};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

/// A device of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub u32);

/// How virtual time moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockMode {
    /// Virtual time follows the host's, which the run loop brings in at its edge; within a slice
    /// it is estimated from the instructions executed.
    #[default]
    Realtime,
    /// Virtual time is the number of instructions executed times a rate; idle time warps.
    Deterministic,
}

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct BoardConfig {
    /// Bytes of guest memory of all sorts: RAM, ROM, video memory.
    pub ram_capacity: usize,
    /// Number of CPUs, at least 1.
    pub cpus: usize,
    /// How time moves.
    pub clock: ClockMode,
    /// Virtual nanoseconds per instruction, in 1/65536.
    pub ns_per_insn_q16: u64,
    /// Seconds since 1970-01-01 00:00 UTC at power-on: what a clock chip shows.
    pub epoch_secs: i64,
    /// Seed of everything random in the machine.
    pub seed: u64,
}

impl Default for BoardConfig {
    fn default() -> Self {
        Self {
            ram_capacity: 16 << 20,
            cpus: 1,
            clock: ClockMode::Deterministic,
            ns_per_insn_q16: 1 << 16,
            epoch_secs: 1_700_000_000,
            seed: 0,
        }
    }
}

/// How a CPU may reach the 4 KiB page around an address without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Arena offset of the page for reads and instruction fetch; `None`: use [`Board::read`].
    pub offset: Option<usize>,
    /// Stores go to the same bytes; if not, use [`Board::write`].
    pub writable: bool,
}

struct Slot {
    name: String,
    device: Option<Box<dyn Device>>,
}

/// The board. See the module's documentation.
pub struct Board {
    config: BoardConfig,
    ram: Arc<Ram>,
    regions: Regions,
    memory: Region,
    io: Region,
    views: Arc<Views>,
    io_views: Views,
    shared_views: SharedViews,
    map_generation: u64,
    slots: Vec<Slot>,
    settling: Vec<DeviceId>,
    host_io: Vec<DeviceId>,
    int_ack: Vec<DeviceId>,
    cpu_registers: Option<DeviceId>,
    attention: Attention,
    wires_changed: Attention,
    clock: Clock,
    timers: TimerHub,
    messages: MessageQueue,
    power: Power,
    pins: Vec<CpuPins>,
    smiact: IrqInput,
    current_cpu: Arc<AtomicUsize>,
    /// Instructions executed since power-on, up to the start of the current slice.
    icount: u64,
    /// The instant and count from which time is reckoned.
    base: (VmTime, u64),
}

/// The part of a board's state that belongs to no device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    now: VmTime,
    icount: u64,
    base: (VmTime, u64),
    /// Latched edges of the CPU pins: NMI, SMI, INIT; and a start-up message.
    pins: Vec<(bool, bool, bool, Option<u8>)>,
}

/// Every device's state with the name of its place on the board.
pub type DeviceStates = Vec<(String, StateBlob)>;

impl Board {
    /// An empty board: RAM arena, address spaces, clock, CPU pins.
    pub fn new(config: BoardConfig) -> Self {
        let attention = Attention::default();
        let wires_changed = Attention::default();
        let changes = Changes { attention: attention.clone(), changed: Attention::default() };
        let regions = Regions(changes);
        let memory = regions.container("memory", u64::MAX);
        let io = regions.container("io", 0x1_0000);
        let wire = || IrqInput::new(attention.clone(), wires_changed.clone());
        let a20 = wire();
        let smiact = wire();
        let pins = (0..config.cpus.max(1))
            .map(|_| CpuPins {
                intr: wire(),
                nmi: wire(),
                smi: wire(),
                init: wire(),
                sipi: Startup::new(attention.clone()),
                a20: a20.clone(),
                smiact: smiact.pin(),
                ferr: crate::irq::IrqLine::open(),
                ignne: wire(),
                shootdown: wire(),
            })
            .collect();
        Self {
            ram: Arc::new(Ram::new(config.ram_capacity)),
            views: Arc::default(),
            io_views: Views::default(),
            shared_views: Arc::new(RwLock::default()),
            map_generation: 0,
            slots: Vec::new(),
            settling: Vec::new(),
            host_io: Vec::new(),
            int_ack: Vec::new(),
            cpu_registers: None,
            timers: TimerHub::new(attention.clone()),
            messages: MessageQueue::new(attention.clone(), wires_changed.clone()),
            power: Power::new(attention.clone()),
            clock: Clock::default(),
            pins,
            smiact,
            current_cpu: Arc::default(),
            icount: 0,
            base: (VmTime(0), 0),
            config,
            regions,
            memory,
            io,
            attention,
            wires_changed,
        }
    }

    /// A board with `len` bytes of RAM from address 0, one CPU and A20 open: for CPU tests.
    pub fn with_ram(len: usize) -> Self {
        let mut board = Self::new(BoardConfig { ram_capacity: len, ..BoardConfig::default() });
        let block = board.ram.alloc("ram", len).expect("as large as asked");
        board.memory.add(0, &board.regions.ram("ram", block));
        board.pins[0].a20.pin().set(true);
        board.settle();
        board
    }

    // Building.

    /// The settings.
    pub fn config(&self) -> &BoardConfig {
        &self.config
    }

    /// Guest memory.
    #[inline]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Guest memory, shared: for a device that draws from a block of it.
    pub fn shared_ram(&self) -> Arc<Ram> {
        self.ram.clone()
    }

    /// Makes regions.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }

    /// The root of the memory map.
    pub fn memory(&self) -> &Region {
        &self.memory
    }

    /// The root of the port map (64 KiB).
    pub fn io(&self) -> &Region {
        &self.io
    }

    /// Takes the next device number, so that wires and regions can name the device before it is
    /// built.
    pub fn reserve(&mut self, name: &str) -> DeviceId {
        let mut unique = name.to_string();
        let mut n = 1;
        while self.slots.iter().any(|s| s.name == unique) {
            n += 1;
            unique = format!("{name}.{n}");
        }
        self.slots.push(Slot { name: unique, device: None });
        DeviceId((self.slots.len() - 1) as u32)
    }

    /// Puts the device in its reserved place and looks at what it can do.
    pub fn attach(&mut self, id: DeviceId, mut device: Box<dyn Device>) {
        if device.settle().is_some() {
            self.settling.push(id);
        }
        if device.host_io().is_some() {
            self.host_io.push(id);
        }
        self.slots[id.0 as usize].device = Some(device);
        self.attention.raise();
        self.wires_changed.raise();
    }

    /// Takes a device out of its place. The caller has closed its windows and its pins.
    pub fn detach(&mut self, id: DeviceId) -> Option<Box<dyn Device>> {
        for list in [&mut self.settling, &mut self.host_io] {
            list.retain(|other| *other != id);
        }
        self.refresh_map();
        self.slots.get_mut(id.0 as usize)?.device.take()
    }

    /// A new wire; its changes make the machine settle.
    pub fn wire(&self) -> IrqInput {
        IrqInput::new(self.attention.clone(), self.wires_changed.clone())
    }

    /// A wake-up slot for timer number `index` of a device.
    pub fn timer(&mut self, device: DeviceId, index: u32) -> Timer {
        self.timers.timer(device.0, index)
    }

    /// The machine's clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// How long host operations take in virtual time.
    pub fn latency(&self) -> Latency {
        Latency::new(self.config.clock == ClockMode::Deterministic)
    }

    /// A new DMA handle with a bus-master switch of its own.
    pub fn dma(&self) -> Dma {
        Dma::new(self.ram.clone(), self.shared_views.clone(), self.messages.clone())
    }

    /// The message-signalled interrupts on their way.
    pub fn messages(&self) -> MessageQueue {
        self.messages.clone()
    }

    /// Where devices ask for reset and power-off.
    pub fn power(&self) -> Power {
        self.power.clone()
    }

    /// A host port whose input wakes the run loop.
    pub fn port<T>(&self) -> Port<T> {
        Port::new(self.attention.clone())
    }

    /// A network cable: a device at each end, or a device and a front end.
    pub fn cable(&self) -> NetPort {
        Port::cable(self.attention.clone(), self.wires_changed.clone())
    }

    /// The CPU that makes the current access, for devices with a bank per CPU.
    pub fn current_cpu(&self) -> Arc<AtomicUsize> {
        self.current_cpu.clone()
    }

    /// High while a CPU is in system management mode: for the chipset, which then opens SMRAM.
    pub fn smiact(&self) -> IrqInput {
        self.smiact.clone()
    }

    /// Sets the order in which controllers are asked for an interrupt vector.
    pub fn set_int_ack(&mut self, chain: Vec<DeviceId>) {
        self.int_ack = chain;
    }

    /// Sets the device that holds CPU registers (the local APICs).
    pub fn set_cpu_registers(&mut self, device: DeviceId) {
        self.cpu_registers = Some(device);
    }

    /// A device by number.
    pub fn device(&mut self, id: DeviceId) -> Option<&mut dyn Device> {
        // Written out: `as_deref_mut` would not let the box's `'static` shrink.
        match &mut self.slots.get_mut(id.0 as usize)?.device {
            Some(d) => Some(d.as_mut()),
            None => None,
        }
    }

    /// Every device: number, place name, type name.
    pub fn devices(&self) -> Vec<(DeviceId, String, &'static str)> {
        let named = |(i, s): (usize, &Slot)| {
            s.device.as_ref().map(|d| (DeviceId(i as u32), s.name.clone(), d.name()))
        };
        self.slots.iter().enumerate().filter_map(named).collect()
    }

    // What a CPU sees.

    /// The pins of CPU `cpu`.
    #[inline]
    pub fn pins(&self, cpu: usize) -> &CpuPins {
        &self.pins[cpu]
    }

    /// Wires the FERR# output of a CPU.
    pub fn wire_ferr(&mut self, cpu: usize, to: crate::irq::IrqLine) {
        self.pins[cpu].ferr = to;
    }

    /// Number of CPUs.
    pub fn cpus(&self) -> usize {
        self.pins.len()
    }

    /// Says which CPU runs from now on.
    pub fn set_current_cpu(&self, cpu: usize) {
        self.current_cpu.store(cpu, Relaxed);
    }

    /// Whether the CPU must return to the run loop after the current instruction.
    #[inline]
    pub fn attention(&self) -> bool {
        self.attention.is_raised()
    }

    /// Changes whenever what [`Board::page`] or [`Ram::writes_freely`] said may be void.
    #[inline]
    pub fn map_generation(&self) -> u64 {
        self.map_generation + self.ram.epoch()
    }

    /// How the page around physical address `gpa` may be reached directly.
    pub fn page(&self, gpa: u64) -> Page {
        let offset = self.views.read.page(gpa);
        Page { offset, writable: offset.is_some() && self.views.write.page(gpa) == offset }
    }

    /// Reads 1, 2, 4 or 8 bytes of physical memory, from RAM or a device.
    pub fn read(&mut self, gpa: u64, width: u8) -> u64 {
        match self.views.read.lookup(gpa) {
            Some((Target::Ram { offset }, last)) if fits(gpa, width, last) => {
                self.ram_read(offset, width)
            }
            Some((Target::Device { device, bank, offset }, last)) if fits(gpa, width, last) => {
                self.device_read(device, bank, offset, width)
            }
            None if width == 1 => 0xff,
            Some((Target::Dropped { .. }, _)) if width == 1 => 0xff,
            _ => (0..width)
                .fold(0, |v, i| v | self.read(gpa.wrapping_add(u64::from(i)), 1) << (8 * i)),
        }
    }

    /// Reads physical memory as a debugger does: RAM and ROM; what a device would answer stays as
    /// it is in `out`. Says how many bytes were read.
    pub fn peek(&self, gpa: u64, out: &mut [u8]) -> usize {
        let (mut done, mut read) = (0, 0);
        while done < out.len() {
            let at = gpa.wrapping_add(done as u64);
            let left = out.len() - done;
            match self.views.read.lookup(at) {
                Some((Target::Ram { offset }, last)) => {
                    let n = left.min(usize::try_from(last - at).unwrap_or(left).saturating_add(1));
                    self.ram.read_bytes(offset, &mut out[done..done + n]);
                    (done, read) = (done + n, read + n);
                }
                _ => done += 1,
            }
        }
        read
    }

    /// Writes physical memory as a debugger does: RAM and ROM. Says how many bytes were written.
    pub fn poke(&mut self, gpa: u64, bytes: &[u8]) -> usize {
        let mut written = 0;
        for (i, &byte) in bytes.iter().enumerate() {
            if let Some((Target::Ram { offset }, _)) =
                self.views.read.lookup(gpa.wrapping_add(i as u64))
            {
                self.ram.write_bytes(offset, &[byte]);
                written += 1;
            }
        }
        written
    }

    /// Writes 1, 2, 4 or 8 bytes of physical memory, to RAM or a device.
    pub fn write(&mut self, gpa: u64, width: u8, value: u64) {
        match self.views.write.lookup(gpa) {
            Some((Target::Ram { offset }, last)) if fits(gpa, width, last) => match width {
                1 => self.ram.write_u8(offset, value as u8),
                2 => self.ram.write_u16(offset, value as u16),
                4 => self.ram.write_u32(offset, value as u32),
                _ => self.ram.write_u64(offset, value),
            },
            Some((Target::Device { device, bank, offset }, last)) if fits(gpa, width, last) => {
                self.device_write(device, bank, offset, width, value & open_bus(width));
            }
            None if width == 1 => {}
            Some((Target::Dropped { .. }, _)) if width == 1 => {}
            _ => {
                for i in 0..width {
                    self.write(gpa.wrapping_add(u64::from(i)), 1, value >> (8 * i) & 0xff);
                }
            }
        }
    }

    /// Reads 1, 2 or 4 bytes from an I/O port.
    pub fn port_in(&mut self, port: u16, width: u8) -> u32 {
        match self.io_views.read.lookup(u64::from(port)) {
            Some((Target::Device { device, bank, offset }, last))
                if fits(u64::from(port), width, last) =>
            {
                self.device_read(device, bank, offset, width) as u32
            }
            _ if width > 1 => (0..width)
                .fold(0, |v, i| v | self.port_in(port.wrapping_add(u16::from(i)), 1) << (8 * i)),
            _ => 0xff,
        }
    }

    /// Writes 1, 2 or 4 bytes to an I/O port.
    pub fn port_out(&mut self, port: u16, width: u8, value: u32) {
        match self.io_views.write.lookup(u64::from(port)) {
            Some((Target::Device { device, bank, offset }, last))
                if fits(u64::from(port), width, last) =>
            {
                let value = u64::from(value) & open_bus(width);
                self.device_write(device, bank, offset, width, value);
            }
            _ if width > 1 => {
                for i in 0..width {
                    self.port_out(port.wrapping_add(u16::from(i)), 1, value >> (8 * i) & 0xff);
                }
            }
            _ => {}
        }
    }

    fn ram_read(&self, offset: usize, width: u8) -> u64 {
        match width {
            1 => self.ram.read_u8(offset).into(),
            2 => self.ram.read_u16(offset).into(),
            4 => self.ram.read_u32(offset).into(),
            _ => self.ram.read_u64(offset),
        }
    }

    /// Reads a device's register as the bus does: halves it where the device wants less.
    pub fn device_read(&mut self, mut id: DeviceId, mut bank: u32, mut at: u64, width: u8) -> u64 {
        // A forward may be forwarded (a bridge behind a bridge), but not for ever.
        for _ in 0..8 {
            let result = match self.device(id).and_then(|d| d.registers()) {
                Some(r) => r.read(bank, at, width),
                None => Err(BusError::NoRegister),
            };
            self.refresh_map();
            match result {
                Ok(v) => return v & open_bus(width),
                Err(BusError::Width) if width > 1 => {
                    let half = width / 2;
                    let lo = self.device_read(id, bank, at, half);
                    let hi = self.device_read(id, bank, at.wrapping_add(u64::from(half)), half);
                    return lo | hi << (8 * half);
                }
                Err(BusError::Forward { device, bank: b, offset }) => {
                    (id, bank, at) = (device, b, offset);
                }
                Err(BusError::Width | BusError::NoRegister) => break,
            }
        }
        open_bus(width)
    }

    /// Writes a device's register as the bus does.
    pub fn device_write(
        &mut self,
        mut id: DeviceId,
        mut bank: u32,
        mut at: u64,
        width: u8,
        v: u64,
    ) {
        for _ in 0..8 {
            let result: BusResult<()> = match self.device(id).and_then(|d| d.registers()) {
                Some(r) => r.write(bank, at, width, v),
                None => Err(BusError::NoRegister),
            };
            self.refresh_map();
            match result {
                Err(BusError::Width) if width > 1 => {
                    let half = width / 2;
                    self.device_write(id, bank, at, half, v & open_bus(half));
                    let hi = v >> (8 * half) & open_bus(half);
                    return self.device_write(id, bank, at.wrapping_add(u64::from(half)), half, hi);
                }
                Err(BusError::Forward { device, bank: b, offset }) => {
                    (id, bank, at) = (device, b, offset);
                }
                Ok(()) | Err(BusError::Width | BusError::NoRegister) => return,
            }
        }
    }

    /// Acknowledges the interrupt CPU `cpu` is about to take; `None` if it went away.
    pub fn acknowledge_interrupt(&mut self, cpu: usize) -> Option<u8> {
        for i in 0..self.int_ack.len() {
            let id = self.int_ack[i];
            let vector = self.device(id).and_then(|d| d.int_ack()).and_then(|d| d.acknowledge(cpu));
            if vector.is_some() {
                return vector;
            }
        }
        None
    }

    fn cpu_registers(&mut self) -> Option<&mut dyn crate::device::CpuRegisters> {
        let id = self.cpu_registers?;
        self.device(id)?.cpu_registers()
    }

    /// Reads a model-specific register that lives in a device.
    pub fn msr_read(&mut self, cpu: usize, index: u32) -> Option<u64> {
        self.cpu_registers()?.msr_read(cpu, index)
    }

    /// Writes one; false if no device has it or the value is refused.
    pub fn msr_write(&mut self, cpu: usize, index: u32, value: u64) -> bool {
        let done = self.cpu_registers().is_some_and(|d| d.msr_write(cpu, index, value));
        self.refresh_map();
        done
    }

    /// A call of the machine's firmware interface by CPU `cpu`; `None`: there is no such function.
    pub fn firmware_call(&mut self, cpu: usize, args: [u64; 4]) -> Option<FirmwareAnswer> {
        let answer = self.cpu_registers()?.firmware_call(cpu, args);
        self.refresh_map();
        answer
    }

    /// Where CPU `cpu`, which was off, starts, and the argument it starts with.
    pub fn take_start(&mut self, cpu: usize) -> Option<[u64; 2]> {
        self.cpu_registers()?.take_start(cpu)
    }

    /// CR8: the task priority of CPU `cpu`, 0 where there is no local APIC.
    pub fn cr8(&mut self, cpu: usize) -> u64 {
        self.cpu_registers().map_or(0, |d| d.cr8(cpu))
    }

    /// Writes CR8.
    pub fn set_cr8(&mut self, cpu: usize, value: u64) {
        if let Some(d) = self.cpu_registers() {
            d.set_cr8(cpu, value);
        }
    }

    // Time.

    /// The current virtual time.
    #[inline]
    pub fn now(&self) -> VmTime {
        self.clock.now()
    }

    fn time_of(&self, icount: u64) -> VmTime {
        let (t, i) = self.base;
        let ns = u128::from(icount - i) * u128::from(self.config.ns_per_insn_q16) >> 16;
        VmTime(t.0.saturating_add(ns as u64))
    }

    /// Says that `n` instructions ran since the slice began; the clock follows.
    #[inline]
    pub fn elapse(&mut self, n: u64) {
        self.clock.advance_to(self.time_of(self.icount + n));
    }

    /// Begins a slice that aims at `end` and clears the attention request. Returns how many
    /// instructions lead there: at least one.
    pub fn begin_slice(&mut self, end: VmTime) -> u64 {
        self.attention.take();
        self.timers.set_slice_end(end);
        let (t, i) = self.base;
        let ns = u128::from(end.since(t)) << 16;
        let insns = ns.div_ceil(u128::from(self.config.ns_per_insn_q16.max(1)));
        let target = u128::from(i) + insns;
        u64::try_from(target.saturating_sub(u128::from(self.icount))).unwrap_or(u64::MAX).max(1)
    }

    /// Ends the slice after `n` instructions.
    pub fn end_slice(&mut self, n: u64) {
        self.icount += n;
        self.clock.advance_to(self.time_of(self.icount));
    }

    /// Instructions executed since power-on.
    pub fn icount(&self) -> u64 {
        self.icount
    }

    /// Moves time to `t` without executing anything: idle time, or the host's clock.
    pub fn warp_to(&mut self, t: VmTime) {
        if t > self.now() {
            self.clock.advance_to(t);
            self.base = (t, self.icount);
        }
    }

    /// Changes the rate at which instructions move time (realtime mode calibrates it).
    pub fn set_ns_per_insn_q16(&mut self, rate: u64) {
        self.base = (self.now(), self.icount);
        self.config.ns_per_insn_q16 = rate.max(1);
    }

    // Between slices.

    /// The earliest instant at which something happens by itself: a timer or a host operation.
    pub fn next_deadline(&mut self) -> VmTime {
        self.timers.next().min(self.host_due())
    }

    /// The earliest instant at which a host operation in flight completes.
    pub fn host_due(&mut self) -> VmTime {
        let mut due = VmTime::NEVER;
        for i in 0..self.host_io.len() {
            let id = self.host_io[i];
            if let Some(t) = self.device(id).and_then(|d| d.host_io()).and_then(|h| h.due()) {
                due = due.min(t);
            }
        }
        due
    }

    /// Brings map and wires to rest: renders changed maps, lets controllers look at their inputs
    /// until nothing changes.
    pub fn settle(&mut self) {
        self.refresh_map();
        // A chain of controllers settles in as many rounds as it is deep. A loop of wires that
        // never rests can only be made by a board description; it must not hang.
        for _ in 0..32 {
            if !self.wires_changed.take() {
                return;
            }
            for i in 0..self.settling.len() {
                let id = self.settling[i];
                if let Some(d) = self.device(id).and_then(|d| d.settle()) {
                    d.settle();
                }
            }
            self.refresh_map();
        }
        tracing::warn!("interrupt wires do not settle");
    }

    /// Wakes the devices whose timers are due, in the order of their deadlines.
    pub fn run_timers(&mut self) {
        let now = self.now();
        // A device that re-arms in the past gets its turn again, but not for ever in one call.
        for _ in 0..4096 {
            let Some((device, index)) = self.timers.take_due(now) else { return };
            if let Some(d) = self.device(DeviceId(device)) {
                d.wake(index, now);
            }
            self.settle();
        }
    }

    /// Delivers finished host operations that are due, and input that arrived on ports. False if
    /// an operation is due that the host has not finished: with the deterministic clock, time
    /// must wait.
    pub fn deliver_host_io(&mut self) -> bool {
        let now = self.now();
        let mut all = true;
        for i in 0..self.host_io.len() {
            let id = self.host_io[i];
            for _ in 0..64 {
                let Some(h) = self.device(id).and_then(|d| d.host_io()) else { break };
                if h.ready() {
                    h.deliver(now);
                    self.settle();
                    let Some(h) = self.device(id).and_then(|d| d.host_io()) else { break };
                    if h.due().is_none_or(|t| t > now) {
                        break;
                    }
                } else {
                    all &= h.due().is_none_or(|t| t > now);
                    break;
                }
            }
        }
        all
    }

    /// Renders the address maps anew if a region changed.
    fn refresh_map(&mut self) {
        if !self.regions.0.changed.is_raised() {
            return;
        }
        self.regions.0.changed.take();
        self.views = Arc::new(Views::render(&self.memory));
        self.io_views = Views::render(&self.io);
        *self.shared_views.write().expect("no panic while held") = self.views.clone();
        self.map_generation += 1;
    }

    /// The flat views of the memory map and of the port map, for the monitor (`info mtree -f`).
    pub fn flat_views(&self) -> (&Views, &Views) {
        (&self.views, &self.io_views)
    }

    // Whole-board state.

    /// Puts every device in its power-on state.
    pub fn reset(&mut self) {
        for slot in &mut self.slots {
            if let Some(d) = &mut slot.device {
                d.reset();
            }
        }
        for p in &self.pins {
            p.nmi.set_edge(false);
            p.smi.set_edge(false);
            p.init.set_edge(false);
            p.sipi.take();
        }
        self.settle();
    }

    /// The board's own state and every device's. Call when settled.
    pub fn save(&self) -> (BoardState, DeviceStates) {
        let pins = |p: &CpuPins| {
            let sipi = p.sipi.take();
            if let Some(v) = sipi {
                p.sipi.send(v);
            }
            (p.nmi.has_edge(), p.smi.has_edge(), p.init.has_edge(), sipi)
        };
        let state = BoardState {
            now: self.now(),
            icount: self.icount,
            base: self.base,
            pins: self.pins.iter().map(pins).collect(),
        };
        let save = |s: &Slot| s.device.as_ref().map(|d| (s.name.clone(), d.save()));
        (state, self.slots.iter().filter_map(save).collect())
    }

    /// Restores what [`Board::save`] gave. Every device must be there, under the same name.
    pub fn restore(
        &mut self,
        state: &BoardState,
        devices: &DeviceStates,
    ) -> Result<(), RestoreError> {
        if state.pins.len() != self.pins.len() {
            return Err(RestoreError::Invalid("number of CPUs"));
        }
        let have = self.slots.iter().filter(|s| s.device.is_some()).count();
        if have != devices.len() {
            return Err(RestoreError::Invalid("number of devices"));
        }
        self.clock.set(state.now);
        (self.icount, self.base) = (state.icount, state.base);
        for (name, blob) in devices {
            let Some(slot) = self.slots.iter_mut().find(|s| s.name == *name) else {
                return Err(RestoreError::Invalid("a device that this machine lacks"));
            };
            if let Some(d) = &mut slot.device {
                d.restore(blob)?;
            }
        }
        // Edges latched by driving the pins again are not events; the controllers' state holds
        // what they had latched. Settling sees levels only.
        self.wires_changed.raise();
        self.settle();
        for (p, &(nmi, smi, init, sipi)) in self.pins.iter().zip(&state.pins) {
            p.nmi.set_edge(nmi);
            p.smi.set_edge(smi);
            p.init.set_edge(init);
            p.sipi.take();
            if let Some(v) = sipi {
                p.sipi.send(v);
            }
        }
        Ok(())
    }
}

fn fits(addr: u64, width: u8, last: u64) -> bool {
    last - addr >= u64::from(width) - 1
}

#[cfg(test)]
mod tests;
