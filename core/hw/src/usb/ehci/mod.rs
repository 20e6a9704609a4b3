//! Enhanced host controller (EHCI): high speed.
//!
//! Reference: Intel EHCI Specification 1.0; the PCI functions in Intel 316972 (ICH9).
//!
//! Slower devices are for companion controllers, which have the same sockets: which of the two a port belongs to
//! is decided here. Time goes in microframes while the asynchronous schedule has work, else in frames.
//!
//! Not modelled: split transactions (there is no hub with a translator), 64-bit addresses, interrupt throttling, and nak counters.

mod schedule;

use super::bus::{Bus, Socket};
use super::descriptor::Speed;
use super::roots::{self, Seen, Wires};
use crate::pci::{self, Chip, Slot};
use bitfield_struct::bitfield;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, DeviceId, RestoreError, VmTime};
use serde::{Deserialize, Serialize};

/// Ports of a controller.
pub const PORTS: usize = 6;

orrery_system::reg_map! {
    /// Registers, EHCI 1.0 chapter 2.
    pub enum Reg {
        /// Where the operational registers begin.
        0x00 Length: 1 Ro,
        /// Version.
        0x02 Version: 2 Ro,
        /// Ports and companions.
        0x04 Structure: 4 Ro,
        /// Abilities.
        0x08 Capability: 4 Ro,
        /// Command.
        0x20 Command: 4 Rw,
        /// Status.
        0x24 Status: 4 Rw,
        /// Interrupt enable.
        0x28 Enable: 4 Rw,
        /// Microframe number.
        0x2c Frame: 4 Rw,
        /// Upper half of addresses.
        0x30 Segment: 4 Rw,
        /// Frame list.
        0x34 Periodic: 4 Rw,
        /// Current queue of the asynchronous schedule.
        0x38 Async: 4 Rw,
        /// Ports are this controller's.
        0x60 Config: 4 Rw,
        /// Ports.
        0x64 Port1: 4 Rw,
        /// Second.
        0x68 Port2: 4 Rw,
        /// Third.
        0x6c Port3: 4 Rw,
        /// Fourth.
        0x70 Port4: 4 Rw,
        /// Fifth.
        0x74 Port5: 4 Rw,
        /// Sixth.
        0x78 Port6: 4 Rw,
    }
}

/// The command register, 2.3.1.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Runs.
    pub run: bool,
    /// Resets the controller.
    pub reset: bool,
    /// Frame list of 1024, 512 or 256 entries.
    #[bits(2)]
    pub list_size: u8,
    /// Goes through the frame list.
    pub periodic: bool,
    /// Goes through the asynchronous schedule.
    pub asynchronous: bool,
    /// Asks to be told when it has let go of old queues.
    pub doorbell: bool,
    #[bits(9)]
    __: u16,
    /// Microframes between interrupts.
    pub threshold: u8,
    __: u8,
}

/// The status register, 2.3.2.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// A transfer with an interrupt ended, or a short packet came.
    pub interrupt: bool,
    /// A transfer failed.
    pub error: bool,
    /// A port changed.
    pub port: bool,
    /// The frame list begins anew.
    pub rollover: bool,
    /// Memory did not answer.
    pub host_error: bool,
    /// It has let go of old queues.
    pub advance: bool,
    #[bits(6)]
    __: u8,
    /// Stopped.
    pub halted: bool,
    /// Nothing to do in the asynchronous schedule.
    pub reclamation: bool,
    /// Goes through the frame list.
    pub periodic: bool,
    /// Goes through the asynchronous schedule.
    pub asynchronous: bool,
    __: u16,
}

/// A port, 2.3.9.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// There is a device.
    pub connected: bool,
    /// A device came or went.
    pub c_connected: bool,
    /// Packets go through.
    pub enabled: bool,
    /// The port was disabled.
    pub c_enabled: bool,
    /// Over-current.
    pub current: bool,
    /// Over-current changed.
    pub c_current: bool,
    /// Resume signals.
    pub resume: bool,
    /// Suspended.
    pub suspended: bool,
    /// Reset signals.
    pub reset: bool,
    __: bool,
    /// The signal lines; 1 is what a slow device shows.
    #[bits(2)]
    pub lines: u8,
    /// Has power.
    pub powered: bool,
    /// A companion controller has it.
    pub companion: bool,
    #[bits(2)]
    __: u8,
    #[bits(4)]
    __: u8,
    /// Wakes on connection, disconnection, over-current.
    #[bits(3)]
    pub wakes: u8,
    #[bits(9)]
    __: u16,
}

/// Bank of the registers.
pub const REGISTERS: u32 = 0;
/// Bits of the status register that are events.
const EVENTS: u32 = 0x3f;
const MICROFRAME_NS: u64 = 125_000;
/// Microframes that it makes up for when time has jumped.
const LATE: u64 = 64;

/// Which chip it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// The type name.
    pub name: &'static str,
    device: u16,
    revision: u8,
}

/// The chips.
pub const MODELS: [Model; 3] = [
    Model { name: "usb-ehci", device: 0x24cd, revision: 0x10 },
    Model { name: "ich9-usb-ehci1", device: 0x293a, revision: 0x03 },
    Model { name: "ich9-usb-ehci2", device: 0x293c, revision: 0x03 },
];

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    command: Command,
    status: Status,
    enable: u32,
    frame: u32,
    segment: u32,
    periodic: u32,
    asynchronous: u32,
    configured: bool,
    ports: [Port; PORTS],
    /// The next microframe, and when it begins.
    next: Option<VmTime>,
    /// The asynchronous schedule moved data in the last one.
    busy: bool,
}

/// The device.
pub struct Ehci {
    wires: Wires,
    seen: Seen,
    state: State,
}

/// A bus for a controller.
pub fn bus(board: &Board, name: &str) -> Bus {
    roots::bus(board, name, PORTS, Speed::High)
}

/// Puts the controller of `bus` at `devfn`.
pub fn build(board: &mut Board, pci: &pci::Bus, devfn: u8, model: Model, bus: Bus) -> DeviceId {
    let id = board.reserve(model.name);
    let function = function(board, pci, devfn, id, model);
    let wires = Wires::new(board, id, bus);
    board.attach(id, Box::new(pci::Card::new(function, Ehci::new(wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId, model: Model) -> pci::Function {
    let identity = pci::Identity {
        vendor: 0x8086,
        device: model.device,
        revision: model.revision,
        class: 0x0c_03_20,
        subsystem: pci::Identity::SUBSYSTEM,
        pin: 4,
    };
    let builder = pci::Builder::new(board, bus, id, identity)
        .memory_bar(0, REGISTERS, 0x1000)
        // Release 2.0, frame length, and legacy support that is not there.
        .register(0x60, 2, 0x2020, 0x3f00)
        .register(0x62, 2, 0x007f, 0xffff)
        .status(0x0280);
    if devfn & 7 == 0 { builder.build(devfn) } else { builder.multifunction().build(devfn) }
}

impl State {
    fn power_on() -> Self {
        Self {
            command: Command::new().with_threshold(8),
            status: Status::new().with_halted(true),
            enable: 0,
            frame: 0,
            segment: 0,
            periodic: 0,
            asynchronous: 0,
            configured: false,
            ports: [Port::new().with_powered(true); PORTS],
            next: None,
            busy: false,
        }
    }
}

impl Ehci {
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

    /// What is in a port, as far as it belongs to this controller.
    fn there(&self, n: usize) -> bool {
        !self.state.ports[n].companion() && self.socket(n).is_some_and(|s| s.device().is_some())
    }

    /// What the lines of a port show while it is not enabled.
    fn lines(&self, n: usize) -> u8 {
        let Some(device) = self.socket(n).and_then(Socket::device) else { return 0 };
        let device = device.lock().expect("no panic while held");
        let slow = device.description().layout(Speed::High).is_some_and(|l| l.speed == Speed::Low);
        slow.into()
    }

    /// Gives a port to its companion controller, or takes it back.
    fn give(&mut self, n: usize, companion: bool) {
        let companion = companion && self.wires.bus.has_companions();
        let port = &mut self.state.ports[n];
        if port.companion() == companion {
            return;
        }
        port.set_companion(companion);
        let there = self.there(n);
        let port = &mut self.state.ports[n];
        *port = port
            .with_connected(there)
            .with_c_connected(there)
            .with_enabled(false)
            .with_suspended(false)
            .with_resume(false);
        if there {
            self.state.status.set_port(true);
        }
    }

    /// Looks at what came and went.
    fn look(&mut self) {
        if !self.state.configured {
            // Companions may have come after the controller.
            (0..PORTS).for_each(|n| self.give(n, true));
        }
        for n in 0..PORTS {
            if !self.moved(n) || self.state.ports[n].companion() {
                continue;
            }
            let there = self.there(n);
            let port = &mut self.state.ports[n];
            let was_enabled = port.enabled();
            *port = port
                .with_connected(there)
                .with_c_connected(true)
                .with_enabled(false)
                .with_suspended(false)
                .with_resume(false)
                .with_c_enabled(port.c_enabled() || was_enabled && !there);
            self.state.status.set_port(true);
        }
    }

    /// A device that has something to tell while its port is suspended wakes it.
    fn wake_up(&mut self) {
        for n in 0..PORTS {
            if !self.state.ports[n].suspended() || self.state.ports[n].resume() {
                continue;
            }
            if roots::calls(self.socket(n)) {
                self.state.ports[n].set_resume(true);
                self.state.status.set_port(true);
            }
        }
    }

    fn write_port(&mut self, n: usize, value: u32) {
        let new = Port::from_bits(value);
        if new.companion() != self.state.ports[n].companion() {
            self.give(n, new.companion());
        }
        let old = self.state.ports[n];
        let mut enabled = old.enabled() && new.enabled();
        let mut suspended = old.suspended();
        if old.reset() && !new.reset() && old.connected() {
            // The end of a reset: only a fast device is this controller's.
            let device = self.socket(n).and_then(Socket::device);
            if let Some(device) = device {
                let mut device = device.lock().expect("no panic while held");
                device.reset(Speed::High);
                enabled = device.speed() == Speed::High;
            }
        }
        if new.reset() {
            (enabled, suspended) = (false, false);
        }
        if new.suspended() && enabled {
            suspended = true;
        }
        if old.resume() && !new.resume() {
            suspended = false;
        }
        self.state.ports[n] = old
            .with_c_connected(old.c_connected() && !new.c_connected())
            .with_c_enabled(old.c_enabled() && !new.c_enabled())
            .with_c_current(old.c_current() && !new.c_current())
            .with_enabled(enabled)
            .with_suspended(suspended)
            .with_resume(new.resume() && suspended)
            .with_reset(new.reset())
            .with_wakes(new.wakes());
    }

    fn write_command(&mut self, value: u32, now: VmTime) {
        let mut new = Command::from_bits(value & 0x00ff_007f);
        if new.reset() {
            Chip::reset(self);
            return;
        }
        let old = self.state.command;
        if new.run() && !old.run() {
            self.state.next = Some(now.after(MICROFRAME_NS));
        } else if !new.run() {
            self.state.next = None;
        }
        if self.state.command.doorbell() {
            new.set_doorbell(true);
        }
        // Something to do: at once, not at the end of a frame.
        if new.run() && (new.asynchronous() && !old.asynchronous() || new.doorbell()) {
            self.state.busy = true;
            let soon = now.after(MICROFRAME_NS);
            self.state.next = self.state.next.map(|t| t.min(soon));
        }
        self.state.command = new;
        self.state.status = self
            .state
            .status
            .with_halted(!new.run())
            .with_periodic(new.run() && new.periodic())
            .with_asynchronous(new.run() && new.asynchronous());
    }

    fn configure(&mut self, on: bool) {
        if self.state.configured == on {
            return;
        }
        self.state.configured = on;
        for n in 0..PORTS {
            self.give(n, !on);
        }
    }

    fn structure(&self) -> u32 {
        // Two ports for each companion.
        let companions = self.wires.bus.companions() as u32;
        let each = if companions > 0 { 2 } else { 0 };
        PORTS as u32 | each << 8 | companions.min(15) << 12
    }

    fn read_register(&self, reg: Reg) -> u64 {
        let s = &self.state;
        let port = |n: usize| {
            let p = s.ports[n];
            let lines = if p.connected() && !p.enabled() { self.lines(n) } else { 0 };
            p.with_lines(lines).into_bits()
        };
        let value = match reg {
            Reg::Length => 0x20,
            Reg::Version => 0x0100,
            Reg::Structure => self.structure(),
            Reg::Capability => 0x80,
            Reg::Command => s.command.into_bits(),
            Reg::Status => s.status.into_bits(),
            Reg::Enable => s.enable,
            Reg::Frame => s.frame,
            Reg::Segment => s.segment,
            Reg::Periodic => s.periodic,
            Reg::Async => s.asynchronous,
            Reg::Config => s.configured.into(),
            Reg::Port1 => port(0),
            Reg::Port2 => port(1),
            Reg::Port3 => port(2),
            Reg::Port4 => port(3),
            Reg::Port5 => port(4),
            Reg::Port6 => port(5),
        };
        value.into()
    }

    fn write_register(&mut self, reg: Reg, value: u32, now: VmTime) {
        match reg {
            Reg::Length | Reg::Version | Reg::Structure | Reg::Capability => {}
            Reg::Command => self.write_command(value, now),
            Reg::Status => {
                let bits = self.state.status.into_bits() & !(value & EVENTS);
                self.state.status = Status::from_bits(bits);
            }
            Reg::Enable => self.state.enable = value & EVENTS,
            Reg::Frame if !self.state.command.run() => self.state.frame = value & 0x3fff,
            Reg::Frame => {}
            Reg::Segment => self.state.segment = 0,
            Reg::Periodic => self.state.periodic = value & !0xfff,
            Reg::Async => self.state.asynchronous = value & !0x1f,
            Reg::Config => self.configure(value & 1 != 0),
            Reg::Port1 => self.write_port(0, value),
            Reg::Port2 => self.write_port(1, value),
            Reg::Port3 => self.write_port(2, value),
            Reg::Port4 => self.write_port(3, value),
            Reg::Port5 => self.write_port(4, value),
            Reg::Port6 => self.write_port(5, value),
        }
    }

    /// Carries out the microframes that have begun.
    fn catch_up(&mut self, slot: &Slot<'_>, now: VmTime) {
        let Some(mut next) = self.state.next else { return };
        let late = now.since(next) / MICROFRAME_NS;
        if late > LATE {
            self.count(late - LATE);
            next = next.after((late - LATE) * MICROFRAME_NS);
        }
        while next <= now && self.state.command.run() {
            // A whole frame at once when there is nothing to hurry for.
            let aligned = self.state.frame & 7 == 0;
            let steps = if aligned && !self.state.busy { 8 } else { 1 };
            for _ in 0..steps {
                if self.state.command.run() {
                    self.microframe(slot.function.dma());
                    self.count(1);
                }
            }
            self.asynchronous(slot.function.dma());
            next = next.after(steps * MICROFRAME_NS);
        }
        if self.state.command.run() {
            self.state.next = Some(next);
        }
    }

    /// Counts microframes.
    fn count(&mut self, n: u64) {
        let before = self.state.frame;
        self.state.frame = (u64::from(before).wrapping_add(n) & 0x3fff) as u32;
        let bit = 13 - u32::from(self.state.command.list_size().min(2));
        if (before ^ self.state.frame) & 1 << bit != 0 {
            self.state.status.set_rollover(true);
        }
    }

    fn stop(&mut self) {
        self.state.command.set_run(false);
        self.state.status.set_halted(true);
        self.state.status.set_host_error(true);
        self.state.next = None;
    }
}

impl Chip for Ehci {
    type State = State;
    const NAME: &'static str = "usb-ehci";
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.state = State::power_on();
        self.look();
        for n in 0..PORTS {
            let there = self.there(n);
            let port = &mut self.state.ports[n];
            *port = port.with_connected(there).with_c_connected(there);
        }
        self.state.status.set_port(false);
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.next.is_some() != state.command.run() {
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
        let mut changed = false;
        for (socket, port) in self.wires.bus.sockets().iter().zip(&self.state.ports) {
            changed |= socket.give_to_companion(port.companion());
        }
        if changed {
            self.wires.bus.news().pulse();
        }
        self.state.status.into_bits() & self.state.enable & EVENTS != 0
    }

    fn read(&mut self, _: &mut Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        // Software also reads the first two as one word.
        if (offset, width) == (0, 4) {
            return Ok(0x0100_0020);
        }
        Ok(self.read_register(Reg::decode(offset, width)?.0))
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
        let now = self.wires.clock.now();
        self.write_register(reg, value as u32, now);
        self.wake_up();
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
