//! Extensible host controller (xHCI): all speeds.
//!
//! Reference: Intel eXtensible Host Controller Interface 1.1; NEC uPD720200 for its vendor command.
//!
//! Each socket has two ports, one of `SuperSpeed` and one for the rest; a device shows at the one it can do. The
//! controller looks at a ring when its doorbell rings, and again when a device has news.
//!
//! Not modelled: streams, more than one interrupter, interrupt moderation, scratchpads, bandwidth, link power states, and the pace of
//! isochronous transfers.

mod commands;
mod rings;
mod transfer;

use super::bus::{Bus, Socket};
use super::descriptor::Speed;
use super::device::Handle;
use super::roots::{self, Seen, Wires};
use crate::pci::{self, Chip, Slot};
use bitfield_struct::bitfield;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, DeviceId, RestoreError, VmTime};
use rings::{Events, Ring};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Sockets of a controller.
pub const SOCKETS: usize = 4;
const PORTS: usize = 2 * SOCKETS;
/// Device slots.
const SLOTS: u8 = 64;

orrery_system::reg_map! {
    /// Registers but for ports and doorbells, xHCI 1.1 chapter 5.
    pub enum Reg {
        /// Where the operational registers begin, and the version.
        0x0000 Length: 4 Ro,
        /// Slots, interrupters, ports.
        0x0004 Structure1: 4 Ro,
        /// Scheduling threshold.
        0x0008 Structure2: 4 Ro,
        /// Latencies.
        0x000c Structure3: 4 Ro,
        /// Abilities, and where the extended ones are.
        0x0010 Capability: 4 Ro,
        /// Where the doorbells are.
        0x0014 Doorbells: 4 Ro,
        /// Where the runtime registers are.
        0x0018 Runtime: 4 Ro,
        /// Protocol of the first ports.
        0x0020 Super0: 4 Ro,
        /// Its name.
        0x0024 Super1: 4 Ro,
        /// Its ports.
        0x0028 Super2: 4 Ro,
        /// Its slot type.
        0x002c Super3: 4 Ro,
        /// Protocol of the other ports.
        0x0030 Usb0: 4 Ro,
        /// Its name.
        0x0034 Usb1: 4 Ro,
        /// Its ports.
        0x0038 Usb2: 4 Ro,
        /// Its slot type.
        0x003c Usb3: 4 Ro,
        /// Command.
        0x0040 Command: 4 Rw,
        /// Status.
        0x0044 Status: 4 Rw,
        /// Page size.
        0x0048 PageSize: 4 Ro,
        /// Notifications.
        0x0054 Notification: 4 Rw,
        /// Command ring, low.
        0x0058 RingLow: 4 Rw,
        /// High.
        0x005c RingHigh: 4 Rw,
        /// Device contexts, low.
        0x0070 ContextsLow: 4 Rw,
        /// High.
        0x0074 ContextsHigh: 4 Rw,
        /// Slots in use.
        0x0078 Config: 4 Rw,
        /// Microframe number.
        0x1000 Frame: 4 Ro,
        /// Interrupt management.
        0x1020 Management: 4 Rw,
        /// Interrupt moderation.
        0x1024 Moderation: 4 Rw,
        /// Size of the event ring segment table.
        0x1028 TableSize: 4 Rw,
        /// Its address, low.
        0x1030 TableLow: 4 Rw,
        /// High.
        0x1034 TableHigh: 4 Rw,
        /// Where software is in the event ring, low.
        0x1038 DequeueLow: 4 Rw,
        /// High.
        0x103c DequeueHigh: 4 Rw,
    }
}

/// The command register, 5.4.1.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Runs.
    pub run: bool,
    /// Resets the controller.
    pub reset: bool,
    /// Interrupts.
    pub interrupts: bool,
    /// Signals host system errors.
    pub errors: bool,
    #[bits(28)]
    __: u32,
}

/// The status register, 5.4.2.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Stopped.
    pub halted: bool,
    __: bool,
    /// Memory did not answer.
    pub host_error: bool,
    /// There are events.
    pub event: bool,
    /// A port changed.
    pub port: bool,
    #[bits(27)]
    __: u32,
}

/// A port, 5.4.8.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// There is a device.
    pub connected: bool,
    /// Packets go through.
    pub enabled: bool,
    __: bool,
    /// Over-current.
    pub current: bool,
    /// Reset signals.
    pub reset: bool,
    /// State of the link.
    #[bits(4)]
    pub link: u8,
    /// Has power.
    pub powered: bool,
    /// How fast the device is.
    #[bits(4)]
    pub speed: u8,
    #[bits(2)]
    __: u8,
    /// The link state is written.
    pub strobe: bool,
    /// A device came or went.
    pub c_connected: bool,
    /// Disabled.
    pub c_enabled: bool,
    /// A warm reset is over.
    pub c_warm: bool,
    /// Over-current.
    pub c_current: bool,
    /// A reset is over.
    pub c_reset: bool,
    /// The link has another state.
    pub c_link: bool,
    /// The port cannot be configured.
    pub c_config: bool,
    __: bool,
    /// Wakes on connection, disconnection, over-current.
    #[bits(3)]
    pub wakes: u8,
    #[bits(2)]
    __: u8,
    /// The device cannot be taken away.
    pub fixed: bool,
    /// Warm reset.
    pub warm: bool,
}

/// Bits of a port that are events.
const PORT_EVENTS: u32 = 0x00fe_0000;

/// Link states, table 5-27.
mod link {
    pub(super) const ON: u8 = 0;
    pub(super) const SUSPENDED: u8 = 3;
    pub(super) const NOTHING: u8 = 5;
    pub(super) const POLLING: u8 = 7;
    pub(super) const RESUME: u8 = 15;
}

/// Bank of the registers.
pub const REGISTERS: u32 = 0;
/// Bytes of the register window.
const WINDOW: u64 = 0x4000;
/// First port.
const PORTS_AT: u64 = 0x440;
/// First doorbell.
const DOORBELLS_AT: u64 = 0x2000;
const MICROFRAME_NS: u64 = 125_000;
/// The protocol name that capabilities show.
const USB: u32 = u32::from_le_bytes(*b"USB ");

/// Which chip it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// The type name.
    pub name: &'static str,
    vendor: u16,
    device: u16,
    revision: u8,
}

/// The chips.
pub const MODELS: [Model; 2] = [
    Model { name: "qemu-xhci", vendor: 0x1b36, device: 0x000d, revision: 0x01 },
    Model { name: "nec-usb-xhci", vendor: 0x1033, device: 0x0194, revision: 0x03 },
];

/// An endpoint that software configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Endpoint {
    /// Its context in memory.
    context: u64,
    kind: u8,
    packet: u16,
    /// 1 running, 2 halted, 3 stopped, 4 error.
    state: u8,
    ring: Ring,
    /// Bytes of the transfer at the head of the ring that are done.
    done: u32,
    /// There is a transfer that the device is to be asked for again.
    waits: bool,
}

/// A device slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Device {
    context: u64,
    /// Root port, from 1.
    port: u8,
    route: u32,
    /// By device context index, from 1.
    endpoints: BTreeMap<u8, Endpoint>,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    command: Command,
    status: Status,
    notification: u32,
    commands: Ring,
    /// The command ring runs.
    commanding: bool,
    contexts: u64,
    config: u32,
    ports: [Port; PORTS],
    events: Events,
    slots: BTreeMap<u8, Device>,
    /// When it goes on with what a turn left over.
    again: Option<VmTime>,
}

/// The device.
pub struct Xhci {
    model: Model,
    wires: Wires,
    seen: Seen,
    state: State,
}

/// A bus for a controller.
pub fn bus(board: &Board, name: &str) -> Bus {
    roots::bus(board, name, SOCKETS, Speed::Super)
}

/// Puts the controller of `bus` at `devfn`.
pub fn build(board: &mut Board, pci: &pci::Bus, devfn: u8, model: Model, bus: Bus) -> DeviceId {
    let id = board.reserve(model.name);
    let function = function(board, pci, devfn, id, model);
    let wires = Wires::new(board, id, bus);
    board.attach(id, Box::new(pci::Card::new(function, Xhci::new(model, wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId, model: Model) -> pci::Function {
    let identity = pci::Identity {
        vendor: model.vendor,
        device: model.device,
        revision: model.revision,
        class: 0x0c_03_30,
        subsystem: pci::Identity::SUBSYSTEM,
        pin: 1,
    };
    let registers = board.regions().device("xhci", WINDOW, id, REGISTERS);
    pci::Builder::new(board, bus, id, identity)
        .bar(0, pci::BarKind::Memory64, &registers)
        .register(0x60, 1, 0x30, 0)
        .msi(1)
        .msix(2, 1)
        .build(devfn)
}

impl State {
    fn power_on() -> Self {
        Self {
            command: Command::new(),
            status: Status::new().with_halted(true),
            notification: 0,
            commands: Ring::default(),
            commanding: false,
            contexts: 0,
            config: 0,
            ports: [Port::new().with_powered(true).with_link(link::NOTHING); PORTS],
            events: Events::default(),
            slots: BTreeMap::new(),
            again: None,
        }
    }
}

fn set_low(value: u64, low: u32) -> u64 {
    value & !0xffff_ffff | u64::from(low)
}

fn set_high(value: u64, high: u32) -> u64 {
    value & 0xffff_ffff | u64::from(high) << 32
}

impl Xhci {
    /// The chip in its power-on state.
    pub fn new(model: Model, wires: Wires) -> Self {
        let mut chip = Self { model, wires, seen: Seen::default(), state: State::power_on() };
        Chip::reset(&mut chip);
        chip
    }

    /// The ports of `SuperSpeed` come first.
    fn is_super(port: usize) -> bool {
        port < SOCKETS
    }

    fn socket(&self, port: usize) -> Option<&Socket> {
        self.wires.bus.sockets().get(port % SOCKETS)
    }

    fn moved(&mut self, n: usize) -> bool {
        self.seen.moved(n, self.wires.bus.sockets().get(n))
    }

    /// What shows at a port.
    fn at_port(&self, port: usize) -> Option<Handle> {
        let device = self.socket(port)?.device()?;
        let fast = {
            let d = device.lock().expect("no panic while held");
            d.description().layout(Speed::Super).is_some_and(|l| l.speed == Speed::Super)
        };
        (fast == Self::is_super(port)).then_some(device)
    }

    /// How a port is when something came, or nothing is there.
    fn fresh(&self, port: usize) -> Port {
        let empty = Port::new().with_powered(true).with_link(link::NOTHING);
        match self.at_port(port) {
            None => empty,
            Some(device) if Self::is_super(port) => {
                device.lock().expect("no panic while held").reset(Speed::Super);
                empty.with_connected(true).with_enabled(true).with_link(link::ON).with_speed(4)
            }
            Some(device) => {
                let device = device.lock().expect("no panic while held");
                let speed = device.description().layout(Speed::High).map(|l| l.speed);
                let speed = speed.map_or(1, speed_code);
                empty.with_connected(true).with_link(link::POLLING).with_speed(speed)
            }
        }
    }

    /// Looks at what came and went.
    fn look(&mut self) {
        for n in 0..SOCKETS {
            if !self.moved(n) {
                continue;
            }
            for port in [n, n + SOCKETS] {
                let (old, new) = (self.state.ports[port], self.fresh(port));
                if old.connected() || new.connected() {
                    let events = old.into_bits() & PORT_EVENTS;
                    let new = Port::from_bits(new.into_bits() | events);
                    self.change_port(port, new.with_c_connected(true).with_wakes(old.wakes()));
                }
            }
        }
    }

    /// A device that has something to tell while its port is suspended wakes it.
    fn wake_up(&mut self) {
        for port in 0..PORTS {
            let old = self.state.ports[port];
            if !old.enabled() || old.link() != link::SUSPENDED {
                continue;
            }
            if self.at_port(port).is_some_and(|d| roots::is_calling(&d)) {
                let link = if Self::is_super(port) { link::ON } else { link::RESUME };
                self.change_port(port, old.with_link(link).with_c_link(true));
            }
        }
    }

    /// Sets a port, and tells software of what is news.
    fn change_port(&mut self, port: usize, new: Port) {
        let old = std::mem::replace(&mut self.state.ports[port], new);
        let news = new.into_bits() & !old.into_bits() & PORT_EVENTS;
        if news != 0 {
            self.state.status.set_port(true);
            if self.state.command.run() {
                self.state.events.push_port(port as u8 + 1);
            }
        }
    }

    fn write_port(&mut self, port: usize, value: u32) {
        let new = Port::from_bits(value);
        let old = self.state.ports[port];
        let mut now = Port::from_bits(old.into_bits() & !(value & PORT_EVENTS));
        now.set_wakes(new.wakes());
        if new.enabled() {
            // Written as one it is disabled.
            now.set_enabled(false);
        }
        if new.reset() || new.warm() && Self::is_super(port) {
            if let Some(device) = self.at_port(port) {
                let mut device = device.lock().expect("no panic while held");
                let most = if Self::is_super(port) { Speed::Super } else { Speed::High };
                device.reset(most);
                now = now
                    .with_enabled(true)
                    .with_link(link::ON)
                    .with_speed(speed_code(device.speed()))
                    .with_c_reset(true)
                    .with_c_warm(new.warm());
            }
        } else if new.strobe() && now.connected() {
            match new.link() {
                link::ON => {
                    now.set_c_link(now.c_link() || old.link() != link::ON);
                    now.set_link(link::ON);
                }
                link::SUSPENDED if now.enabled() => now.set_link(link::SUSPENDED),
                link::NOTHING => now.set_link(link::NOTHING),
                link::RESUME if old.link() == link::SUSPENDED => now.set_link(link::RESUME),
                _ => {}
            }
        }
        self.change_port(port, now);
    }

    fn read_register(&self, reg: Reg) -> u32 {
        let s = &self.state;
        let protocol = |major: u32, next: u32| major << 24 | next << 8 | 2;
        match reg {
            Reg::Length => 0x0100_0040,
            Reg::Structure1 => (PORTS as u32) << 24 | 1 << 8 | u32::from(SLOTS),
            Reg::Structure2 => 0xf,
            Reg::Structure3 | Reg::Super3 | Reg::Usb3 => 0,
            // 64-bit addresses; extended capabilities from 20h.
            Reg::Capability => 8 << 16 | 1,
            Reg::Doorbells => DOORBELLS_AT as u32,
            Reg::Runtime => 0x1000,
            Reg::Super0 => protocol(3, 4),
            Reg::Super1 | Reg::Usb1 => USB,
            Reg::Super2 => (SOCKETS as u32) << 8 | 1,
            Reg::Usb0 => protocol(2, 0),
            Reg::Usb2 => (SOCKETS as u32) << 8 | (SOCKETS as u32 + 1),
            Reg::Command => s.command.into_bits(),
            Reg::Status => s.status.into_bits(),
            Reg::PageSize => 1,
            Reg::Notification => s.notification,
            // Only whether it runs can be read.
            Reg::RingLow => u32::from(s.commanding) << 3,
            Reg::RingHigh => 0,
            Reg::ContextsLow => s.contexts as u32,
            Reg::ContextsHigh => (s.contexts >> 32) as u32,
            Reg::Config => s.config,
            Reg::Frame => (self.wires.clock.now().0 / MICROFRAME_NS) as u32 & 0x3fff,
            Reg::Management => s.events.management,
            Reg::Moderation => s.events.moderation,
            Reg::TableSize => s.events.table_size,
            Reg::TableLow => s.events.table as u32,
            Reg::TableHigh => (s.events.table >> 32) as u32,
            Reg::DequeueLow => s.events.dequeue as u32,
            Reg::DequeueHigh => (s.events.dequeue >> 32) as u32,
        }
    }

    fn write_command(&mut self, value: u32) {
        let new = Command::from_bits(value & 0x0f);
        if new.reset() {
            for port in 0..PORTS {
                if let Some(device) = self.at_port(port) {
                    device.lock().expect("no panic while held").reset(Speed::Super);
                }
            }
            Chip::reset(self);
            return;
        }
        let started = new.run() && !self.state.command.run();
        self.state.command = new;
        self.state.status.set_halted(!new.run());
        if !new.run() {
            self.state.commanding = false;
        }
        if started {
            for port in 0..PORTS {
                if self.state.ports[port].into_bits() & PORT_EVENTS != 0 {
                    self.state.events.push_port(port as u8 + 1);
                }
            }
        }
    }

    fn write_register(&mut self, slot: &Slot<'_>, reg: Reg, value: u32) {
        let dma = slot.function.dma();
        let s = &mut self.state;
        match reg {
            Reg::Command => self.write_command(value),
            Reg::Status => {
                let bits = s.status.into_bits() & !(value & 0x1c);
                s.status = Status::from_bits(bits);
            }
            Reg::Notification => s.notification = value & 0xffff,
            Reg::RingLow => {
                if !s.commanding {
                    s.commands.cycle = value & 1 != 0;
                    s.commands.at = set_low(s.commands.at, value & !0x3f);
                } else if value & 6 != 0 {
                    s.commanding = false;
                    self.command_ring_stopped();
                }
            }
            Reg::RingHigh => {
                if !s.commanding {
                    s.commands.at = set_high(s.commands.at, value);
                }
            }
            Reg::ContextsLow => s.contexts = set_low(s.contexts, value & !0x3f),
            Reg::ContextsHigh => s.contexts = set_high(s.contexts, value),
            Reg::Config => s.config = value & 0x3ff,
            Reg::Management => {
                let pending = s.events.management & 1 & !value;
                s.events.management = value & 2 | pending;
            }
            Reg::Moderation => s.events.moderation = value,
            Reg::TableSize => s.events.table_size = value & 0xffff,
            Reg::TableLow => {
                s.events.table = set_low(s.events.table, value & !0x3f);
                s.events.begin(dma);
            }
            Reg::TableHigh => {
                s.events.table = set_high(s.events.table, value);
                s.events.begin(dma);
            }
            Reg::DequeueLow => {
                let busy = s.events.dequeue & 8 & !u64::from(value);
                s.events.dequeue = set_low(s.events.dequeue, value & !0xf | value & 7) | busy;
            }
            Reg::DequeueHigh => s.events.dequeue = set_high(s.events.dequeue, value),
            _ => {}
        }
    }

    fn doorbell(&mut self, slot: &Slot<'_>, n: u8, value: u32) {
        if !self.state.command.run() {
            return;
        }
        let dma = slot.function.dma();
        let target = value as u8;
        if n == 0 {
            if target == 0 {
                self.state.commanding = true;
                self.commands(dma);
            }
            return;
        }
        self.ring(n, target);
        self.work(dma);
    }

    /// Goes on with every endpoint that waits.
    fn work(&mut self, dma: &orrery_system::Dma) {
        self.state.again = None;
        let waits = |s: &State| -> Vec<(u8, u8)> {
            let all = s.slots.iter().flat_map(|(&n, d)| {
                d.endpoints.iter().filter(|(_, e)| e.waits).map(move |(&e, _)| (n, e))
            });
            all.collect()
        };
        for (n, endpoint) in waits(&self.state) {
            self.transfers(dma, n, endpoint);
        }
    }
}

/// The code of a speed in ports and contexts.
fn speed_code(speed: Speed) -> u8 {
    match speed {
        Speed::Full => 1,
        Speed::Low => 2,
        Speed::High => 3,
        Speed::Super => 4,
    }
}

impl Chip for Xhci {
    type State = State;
    const NAME: &'static str = "usb-xhci";
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.state = State::power_on();
        for n in 0..SOCKETS {
            self.moved(n);
            for port in [n, n + SOCKETS] {
                let fresh = self.fresh(port);
                self.state.ports[port] = fresh.with_c_connected(fresh.connected());
            }
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if !state.events.is_sane() {
            return Err(RestoreError::Invalid("more events than it keeps"));
        }
        self.state = state;
        for n in 0..SOCKETS {
            self.moved(n);
        }
        Ok(())
    }

    fn drive(&mut self, slot: &mut Slot<'_>) -> bool {
        self.wires.timer.set(self.state.again);
        if self.state.events.flush(slot.function.dma()) {
            self.state.status.set_event(true);
            self.state.events.management |= 1;
        }
        let on = self.state.events.management & 3 == 3 && self.state.command.interrupts();
        let messages =
            slot.function.msix_enabled(slot.config) || slot.function.msi_enabled(slot.config);
        if on && messages {
            // Sent, and no longer pending.
            self.state.events.management &= !1;
            slot.function.signal(slot.config, 0);
        }
        on && !messages
    }

    fn read(&mut self, _: &mut Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        // Smaller reads are parts of the words.
        if width < 4 {
            let word = self.word(offset & !3)?;
            return Ok(u64::from(word) >> (8 * (offset & 3)) & orrery_system::bus::open_bus(width));
        }
        if width != 4 || offset & 3 != 0 {
            return Err(BusError::Width);
        }
        self.word(offset).map(u64::from)
    }

    fn write(
        &mut self,
        slot: &mut Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        if width != 4 || offset & 3 != 0 {
            return Err(if width > 4 { BusError::Width } else { BusError::NoRegister });
        }
        let value = value as u32;
        if let Some((port, part)) = port_at(offset) {
            if part == 0 {
                self.write_port(port, value);
                self.wake_up();
            }
        } else if let Some(n) = doorbell_at(offset) {
            self.doorbell(slot, n, value);
        } else {
            let (reg, _) = Reg::decode(offset, width)?;
            self.write_register(slot, reg, value);
        }
        Ok(())
    }

    fn settle(&mut self, slot: &mut Slot<'_>) {
        if self.wires.take_news() {
            self.look();
            self.wake_up();
            if self.state.command.run() {
                self.work(slot.function.dma());
            }
            let level = self.drive(slot);
            slot.function.drive(slot.config, level);
        }
    }

    fn wake(&mut self, slot: &mut Slot<'_>, _: VmTime) {
        if self.state.again.is_some() && self.state.command.run() {
            self.work(slot.function.dma());
        }
    }
}

/// The port whose registers are at an offset, and which of its words.
fn port_at(offset: u64) -> Option<(usize, u64)> {
    let at = offset.checked_sub(PORTS_AT)?;
    let port = usize::try_from(at / 16).ok().filter(|p| *p < PORTS)?;
    Some((port, at % 16))
}

fn doorbell_at(offset: u64) -> Option<u8> {
    let n = offset.checked_sub(DOORBELLS_AT)? / 4;
    u8::try_from(n).ok().filter(|n| *n <= SLOTS)
}

impl Xhci {
    fn word(&self, offset: u64) -> BusResult<u32> {
        if let Some((port, part)) = port_at(offset) {
            return Ok(if part == 0 { self.state.ports[port].into_bits() } else { 0 });
        }
        if doorbell_at(offset).is_some() {
            return Ok(0);
        }
        match Reg::decode(offset, 4) {
            Ok((reg, _)) => Ok(self.read_register(reg)),
            // What is reserved reads as zero.
            Err(BusError::NoRegister) if offset < WINDOW => Ok(0),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
