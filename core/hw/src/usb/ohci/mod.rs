//! Open host controller (OHCI): low and full speed.
//!
//! Reference: Compaq, Microsoft, National Semiconductor, Open Host Controller Interface Specification 1.0a.
//!
//! A frame is carried out when it begins, as far as its 1500 bytes reach. Ports are always powered. Not modelled:
//! legacy support, over-current, scheduling overruns.

mod schedule;

use super::bus::{Bus, Socket};
use super::descriptor::Speed;
use super::roots::{self, Seen, Wires};
use crate::pci::{self, Chip, Slot};
use bitfield_struct::bitfield;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, DeviceId, RestoreError, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Registers, chapter 7.
    pub enum Reg {
        /// Revision.
        0x00 Revision: 4 Ro,
        /// Control.
        0x04 Control: 4 Rw,
        /// Command and status.
        0x08 Command: 4 Rw,
        /// Interrupt causes, cleared by ones.
        0x0c Status: 4 Rw,
        /// Which of them interrupt; ones set.
        0x10 Enable: 4 Rw,
        /// The same; ones clear.
        0x14 Disable: 4 Rw,
        /// The communication area.
        0x18 Area: 4 Rw,
        /// Endpoint of the periodic list that is worked on.
        0x1c Periodic: 4 Ro,
        /// First endpoint of the control list.
        0x20 ControlHead: 4 Rw,
        /// The one worked on.
        0x24 ControlNow: 4 Rw,
        /// First endpoint of the bulk list.
        0x28 BulkHead: 4 Rw,
        /// The one worked on.
        0x2c BulkNow: 4 Rw,
        /// Transfers that are over, the last one first.
        0x30 Done: 4 Ro,
        /// Length of a frame.
        0x34 Interval: 4 Rw,
        /// What is left of it.
        0x38 Remaining: 4 Ro,
        /// Frame number.
        0x3c Frame: 4 Ro,
        /// When in a frame the periodic list begins.
        0x40 PeriodicStart: 4 Rw,
        /// Whether there is time for a packet of low speed.
        0x44 Threshold: 4 Rw,
        /// The root hub.
        0x48 HubA: 4 Rw,
        /// The same.
        0x4c HubB: 4 Rw,
        /// Status of the root hub.
        0x50 HubStatus: 4 Rw,
        /// A port.
        0x54 Port1: 4 Rw,
        /// A port.
        0x58 Port2: 4 Rw,
        /// A port.
        0x5c Port3: 4 Rw,
    }
}

/// The control register.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Control packets for each bulk packet, less one.
    #[bits(2)]
    pub ratio: u8,
    /// The periodic list is carried out.
    pub periodic: bool,
    /// Isochronous endpoints of it too.
    pub isochronous: bool,
    /// The control list is.
    pub control: bool,
    /// The bulk list is.
    pub bulk: bool,
    /// What the bus does.
    #[bits(2)]
    pub bus: u8,
    /// Interrupts go to system management.
    pub routed: bool,
    /// Wake-up is connected.
    pub wakeup_connected: bool,
    /// And lets wake.
    pub wakeup: bool,
    #[bits(21)]
    __: u32,
}

/// What the bus does, [`Control::bus`].
mod bus_state {
    pub(super) const RESET: u8 = 0;
    pub(super) const RESUMES: u8 = 1;
    pub(super) const RUNS: u8 = 2;
    pub(super) const SLEEPS: u8 = 3;
}

/// Bits of the command register.
mod command {
    pub(super) const RESET: u32 = 1;
    pub(super) const CONTROL_FILLED: u32 = 1 << 1;
    pub(super) const BULK_FILLED: u32 = 1 << 2;
    pub(super) const OWNER: u32 = 1 << 3;
}

/// Causes of interrupts.
mod cause {
    pub(super) const DONE: u32 = 1 << 1;
    pub(super) const FRAME: u32 = 1 << 2;
    pub(super) const RESUME: u32 = 1 << 3;
    pub(super) const BROKEN: u32 = 1 << 4;
    pub(super) const ROLLOVER: u32 = 1 << 5;
    pub(super) const HUB: u32 = 1 << 6;
    pub(super) const OWNER: u32 = 1 << 30;
    pub(super) const ALL: u32 = 0x4000_007f;
    /// In the enable register: any at all.
    pub(super) const MASTER: u32 = 1 << 31;
}

/// A port.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// There is a device.
    pub connected: bool,
    /// Packets go through.
    pub enabled: bool,
    /// Suspended.
    pub suspended: bool,
    /// Over-current.
    pub current: bool,
    /// Reset signals.
    pub reset: bool,
    #[bits(3)]
    __: u8,
    /// Has power.
    pub powered: bool,
    /// The device is a slow one.
    pub low_speed: bool,
    #[bits(6)]
    __: u8,
    /// A device came or went.
    pub c_connected: bool,
    /// The port was disabled.
    pub c_enabled: bool,
    /// Resumed.
    pub c_suspended: bool,
    /// Over-current.
    pub c_current: bool,
    /// A reset is over.
    pub c_reset: bool,
    #[bits(11)]
    __: u16,
}

/// Bits of a port that say what changed.
const CHANGES: u32 = 0x001f_0000;

/// Bank of the registers.
pub const REGISTERS: u32 = 0;
const FRAME_NS: u64 = 1_000_000;
/// Frames that it makes up for when time has jumped.
const LATE: u64 = 8;
/// Ports of the root hub, none of them switched.
pub const PORTS: usize = 3;
const HUB_A: u32 = PORTS as u32 | 1 << 9;
/// Length of a frame less one, in bit times.
const INTERVAL: u32 = 0x2edf;
/// The delay of the done queue when there is none.
const NEVER: u8 = 7;
/// The type name.
pub const NAME: &str = "pci-ohci";

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    control: Control,
    command: u32,
    causes: u32,
    enable: u32,
    area: u32,
    heads: [u32; 2],
    now: [u32; 2],
    done: u32,
    /// Frames until the done queue is handed over.
    delay: u8,
    interval: u32,
    frame: u16,
    periodic_start: u32,
    threshold: u32,
    hub_wakeup: bool,
    ports: [Port; PORTS],
    /// When the next frame begins.
    next: Option<VmTime>,
}

/// The device.
pub struct Ohci {
    wires: Wires,
    seen: Seen,
    state: State,
}

/// A bus for a controller.
pub fn bus(board: &Board, name: &str) -> Bus {
    roots::bus(board, name, PORTS, Speed::Full)
}

/// Puts the controller of `bus` at `devfn`.
pub fn build(board: &mut Board, pci: &pci::Bus, devfn: u8, bus: Bus) -> DeviceId {
    let id = board.reserve(NAME);
    let function = function(board, pci, devfn, id);
    let wires = Wires::new(board, id, bus);
    board.attach(id, Box::new(pci::Card::new(function, Ohci::new(wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    let identity = pci::Identity {
        // Apple's KeyLargo.
        vendor: 0x106b,
        device: 0x003f,
        revision: 0,
        class: 0x0c_03_10,
        subsystem: pci::Identity::SUBSYSTEM,
        pin: 1,
    };
    pci::Builder::new(board, bus, id, identity).memory_bar(0, REGISTERS, 0x100).build(devfn)
}

impl State {
    fn power_on() -> Self {
        Self {
            control: Control::new(),
            command: 0,
            causes: 0,
            enable: 0,
            area: 0,
            heads: [0; 2],
            now: [0; 2],
            done: 0,
            delay: NEVER,
            interval: INTERVAL | 0x2778 << 16,
            frame: 0,
            periodic_start: 0,
            threshold: 0x628,
            hub_wakeup: false,
            ports: [Port::new().with_powered(true); PORTS],
            next: None,
        }
    }

    fn runs(&self) -> bool {
        self.control.bus() == bus_state::RUNS
    }
}

impl Ohci {
    /// The chip in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let mut chip = Self { wires, seen: Seen::default(), state: State::power_on() };
        Chip::reset(&mut chip);
        chip
    }

    fn socket(&self, n: usize) -> Option<&Socket> {
        self.wires.bus.sockets().get(n)
    }

    fn moved(&mut self, n: usize) -> bool {
        self.seen.moved(n, self.wires.bus.sockets().get(n))
    }

    fn there(&self, n: usize) -> bool {
        self.socket(n).is_some_and(|s| s.device().is_some())
    }

    /// Sets a port, and tells software of what is news.
    fn change_port(&mut self, n: usize, new: Port) {
        let old = std::mem::replace(&mut self.state.ports[n], new);
        if new.into_bits() & !old.into_bits() & CHANGES != 0 {
            self.state.causes |= cause::HUB;
        }
    }

    /// Looks at what came and went.
    fn look(&mut self) {
        for n in 0..PORTS {
            let old = self.state.ports[n];
            if !self.moved(n) || !self.there(n) && !old.connected() {
                continue;
            }
            let new = old
                .with_connected(self.there(n))
                .with_c_connected(true)
                .with_enabled(false)
                .with_suspended(false)
                .with_low_speed(false)
                .with_c_enabled(old.c_enabled() || old.enabled());
            self.change_port(n, new);
            if self.state.hub_wakeup {
                self.resume();
            }
        }
    }

    /// A sleeping bus wakes.
    fn resume(&mut self) {
        if self.state.control.bus() == bus_state::SLEEPS {
            self.state.control.set_bus(bus_state::RESUMES);
            self.state.causes |= cause::RESUME;
        }
    }

    /// A device that has something to tell while its port or the bus sleeps wakes it.
    fn wake_up(&mut self) {
        for n in 0..PORTS {
            let port = self.state.ports[n];
            let sleeps = self.state.control.bus() == bus_state::SLEEPS;
            if (port.suspended() || sleeps) && roots::calls(self.socket(n)) {
                if port.suspended() {
                    self.change_port(n, port.with_suspended(false).with_c_suspended(true));
                }
                self.resume();
            }
        }
    }

    fn reset_ports(&mut self) {
        for n in 0..PORTS {
            if let Some(device) = self.socket(n).and_then(Socket::device) {
                device.lock().expect("no panic while held").reset(Speed::Full);
            }
            self.moved(n);
            let there = self.there(n);
            let port = Port::new().with_powered(true);
            self.state.ports[n] = port.with_connected(there).with_c_connected(there);
        }
    }

    fn write_port(&mut self, n: usize, value: u32) {
        let old = self.state.ports[n];
        let mut new = Port::from_bits(old.into_bits() & !(value & CHANGES));
        let asks = Port::from_bits(value);
        if asks.connected() {
            new.set_enabled(false);
        }
        if !new.connected() {
            // What is asked of an empty port only tells that it is empty.
            if asks.enabled() || asks.suspended() || asks.reset() {
                new.set_c_connected(true);
            }
            return self.change_port(n, new);
        }
        if asks.enabled() {
            new.set_enabled(true);
        }
        if asks.suspended() {
            new.set_suspended(true);
        }
        // The bit of over-current ends a suspension.
        if asks.current() && new.suspended() {
            new = new.with_suspended(false).with_c_suspended(true);
        }
        if asks.reset()
            && let Some(device) = self.socket(n).and_then(Socket::device)
        {
            let mut device = device.lock().expect("no panic while held");
            device.reset(Speed::Full);
            new = new
                .with_enabled(true)
                .with_suspended(false)
                .with_c_reset(true)
                .with_low_speed(device.speed() == Speed::Low);
        }
        self.change_port(n, new);
    }

    fn write_control(&mut self, value: u32, now: VmTime) {
        let before = self.state.control.bus();
        let control = Control::from_bits(value & 0x7ff);
        self.state.control = control;
        if control.bus() == before {
            return;
        }
        self.state.next = self.state.runs().then(|| now.after(FRAME_NS));
        if control.bus() == bus_state::RESET {
            self.reset_ports();
        }
    }

    fn write_command(&mut self, value: u32) {
        if value & command::RESET != 0 {
            // The root hub keeps its state.
            let (ports, hub_wakeup) = (self.state.ports, self.state.hub_wakeup);
            let routed = self.state.control.routed();
            let control = Control::new().with_routed(routed).with_bus(bus_state::SLEEPS);
            self.state = State { control, ports, hub_wakeup, ..State::power_on() };
            return;
        }
        self.state.command |= value & (command::CONTROL_FILLED | command::BULK_FILLED);
        if value & command::OWNER != 0 {
            self.state.causes |= cause::OWNER;
        }
    }

    fn write_hub(&mut self, value: u32) {
        if value & 1 << 15 != 0 {
            self.state.hub_wakeup = true;
        }
        if value & 1 << 31 != 0 {
            self.state.hub_wakeup = false;
        }
    }

    /// What is left of the frame, in bit times.
    fn remaining(&self) -> u32 {
        let s = &self.state;
        let Some(next) = s.next else { return 0 };
        let left = next.since(self.wires.clock.now()).min(FRAME_NS);
        let length = u64::from(s.interval & 0x3fff);
        s.interval & 1 << 31 | (left * length / FRAME_NS) as u32
    }

    fn read_register(&self, reg: Reg) -> u32 {
        let s = &self.state;
        match reg {
            Reg::Revision => 0x10,
            Reg::Control => s.control.into_bits(),
            Reg::Command => s.command,
            Reg::Status => s.causes,
            Reg::Enable | Reg::Disable => s.enable,
            Reg::Area => s.area,
            Reg::Periodic => 0,
            Reg::ControlHead => s.heads[0],
            Reg::ControlNow => s.now[0],
            Reg::BulkHead => s.heads[1],
            Reg::BulkNow => s.now[1],
            Reg::Done => s.done,
            Reg::Interval => s.interval,
            Reg::Remaining => self.remaining(),
            Reg::Frame => s.frame.into(),
            Reg::PeriodicStart => s.periodic_start,
            Reg::Threshold => s.threshold,
            Reg::HubA => HUB_A,
            Reg::HubB => 0,
            Reg::HubStatus => u32::from(s.hub_wakeup) << 15,
            Reg::Port1 => s.ports[0].into_bits(),
            Reg::Port2 => s.ports[1].into_bits(),
            Reg::Port3 => s.ports[2].into_bits(),
        }
    }

    fn write_register(&mut self, reg: Reg, value: u32, now: VmTime) {
        let s = &mut self.state;
        match reg {
            Reg::Control => self.write_control(value, now),
            Reg::Command => self.write_command(value),
            Reg::Status => s.causes &= !value,
            Reg::Enable => s.enable |= value & (cause::ALL | cause::MASTER),
            Reg::Disable => s.enable &= !value,
            Reg::Area => s.area = value & !0xff,
            Reg::ControlHead => s.heads[0] = value & !0xf,
            Reg::ControlNow => s.now[0] = value & !0xf,
            Reg::BulkHead => s.heads[1] = value & !0xf,
            Reg::BulkNow => s.now[1] = value & !0xf,
            Reg::Interval => s.interval = value & 0xffff_3fff,
            Reg::PeriodicStart => s.periodic_start = value & 0x3fff,
            Reg::Threshold => s.threshold = value & 0xfff,
            Reg::HubStatus => self.write_hub(value),
            Reg::Port1 => self.write_port(0, value),
            Reg::Port2 => self.write_port(1, value),
            Reg::Port3 => self.write_port(2, value),
            // What can be chosen of the root hub is not.
            Reg::HubA | Reg::HubB => {}
            Reg::Revision | Reg::Periodic | Reg::Done | Reg::Remaining | Reg::Frame => {}
        }
    }

    /// Carries out the frames that have begun.
    fn catch_up(&mut self, slot: &Slot<'_>, now: VmTime) {
        let Some(mut next) = self.state.next else { return };
        let late = now.since(next) / FRAME_NS;
        if late > LATE {
            self.state.frame = self.state.frame.wrapping_add((late - LATE) as u16);
            next = next.after((late - LATE) * FRAME_NS);
        }
        while next <= now && self.state.runs() {
            self.frame(slot.function.dma());
            next = next.after(FRAME_NS);
        }
        self.state.next = self.state.runs().then_some(next);
    }
}

impl Chip for Ohci {
    type State = State;
    const NAME: &'static str = NAME;
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.state = State::power_on();
        for n in 0..PORTS {
            self.moved(n);
            let there = self.there(n);
            let port = &mut self.state.ports[n];
            *port = port.with_connected(there).with_c_connected(there);
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.next.is_some() != state.runs() || state.delay > NEVER {
            return Err(RestoreError::Invalid("frames without running, or the other way round"));
        }
        self.state = state;
        for n in 0..PORTS {
            self.moved(n);
        }
        Ok(())
    }

    fn drive(&mut self, _: &mut Slot<'_>) -> bool {
        self.wires.timer.set(self.state.next);
        let s = &self.state;
        s.enable & cause::MASTER != 0 && s.causes & s.enable & cause::ALL != 0
    }

    fn read(&mut self, _: &mut Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        Ok(self.read_register(Reg::decode(offset, width)?.0).into())
    }

    fn write(
        &mut self,
        _: &mut Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let slept = self.state.control.bus() == bus_state::SLEEPS;
        self.write_register(reg, value as u32, self.wires.clock.now());
        // What came before the bus or the port fell asleep counts too.
        let port = matches!(reg, Reg::Port1 | Reg::Port2 | Reg::Port3);
        if port || !slept {
            self.wake_up();
        }
        Ok(())
    }

    fn settle(&mut self, slot: &mut Slot<'_>) {
        if self.wires.take_news() {
            self.look();
            self.wake_up();
            let level = self.drive(slot);
            slot.function.drive(slot.config, level);
        }
    }

    fn wake(&mut self, slot: &mut Slot<'_>, now: VmTime) {
        self.catch_up(slot, now);
    }
}

#[cfg(test)]
mod tests;
