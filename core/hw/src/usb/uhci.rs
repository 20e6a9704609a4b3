//! Universal host controller (UHCI).
//!
//! Reference: Intel Universal Host Controller Interface Design Guide 1.1; the PCI functions in Intel 290550 (PIIX3),
//! 290562 (PIIX4) and 316972 (ICH9), VIA VT82C686B.
//!
//! A frame is carried out when it begins, as far as its 1500 bytes reach. The controller only looks at
//! schedule and devices at frames.

use super::bus::{Bus, Socket};
use super::descriptor::Speed;
use super::device::{In, Out};
use super::roots::{self, Seen, Wires};
use crate::pci::{self, Chip, Slot};
use bitfield_struct::bitfield;
use orrery_system::bus::{BusError, BusResult};
use orrery_system::{Board, DeviceId, Dma, RestoreError, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Registers, UHCI 1.1 chapter 2.1.
    pub enum Reg {
        /// Command.
        0x00 Command: 2 Rw,
        /// Status.
        0x02 Status: 2 Rw,
        /// Interrupt enable.
        0x04 Enable: 2 Rw,
        /// Frame number.
        0x06 Frame: 2 Rw,
        /// Frame list base.
        0x08 Base: 4 Rw,
        /// Start-of-frame timing.
        0x0c Timing: 1 Rw,
        /// First port.
        0x10 Port1: 2 Rw,
        /// Second port.
        0x12 Port2: 2 Rw,
    }
}

/// The command register.
#[bitfield(u16)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Runs.
    pub run: bool,
    /// Resets the controller.
    pub reset: bool,
    /// Resets the bus.
    pub bus_reset: bool,
    /// Suspends the bus.
    pub suspend: bool,
    /// Resumes it.
    pub resume: bool,
    /// Stops after each transaction.
    pub debug: bool,
    /// Software has configured it.
    pub configured: bool,
    /// Bulk packets of 64 bytes at the end of a frame.
    pub max_packet: bool,
    __: u8,
}

/// The status register. What is set clears where a one is written, but for the last.
#[bitfield(u16)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// A transfer with an interrupt ended, or a short packet came.
    pub interrupt: bool,
    /// A transfer failed.
    pub error: bool,
    /// A device wakes the bus.
    pub resume: bool,
    /// Memory did not answer.
    pub host_error: bool,
    /// The schedule makes no sense.
    pub process_error: bool,
    /// Stopped.
    pub halted: bool,
    #[bits(10)]
    __: u16,
}

/// A port.
#[bitfield(u16)]
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
    #[bits(2)]
    __: u8,
    /// A device asks to be resumed, or software does.
    pub resume: bool,
    /// Always one.
    pub reserved: bool,
    /// The device is a slow one.
    pub low_speed: bool,
    /// Reset signals.
    pub reset: bool,
    #[bits(2)]
    __: u8,
    /// Suspended.
    pub suspended: bool,
    #[bits(3)]
    __: u8,
}

/// A transfer descriptor's second word, 3.2.2.
#[bitfield(u32)]
struct Control {
    #[bits(11)]
    actual: u16,
    #[bits(6)]
    __: u8,
    bitstuff: bool,
    timeout: bool,
    nak: bool,
    babble: bool,
    buffer: bool,
    stalled: bool,
    active: bool,
    interrupt: bool,
    isochronous: bool,
    low_speed: bool,
    #[bits(2)]
    errors: u8,
    short: bool,
    #[bits(2)]
    __: u8,
}

/// Its third word.
#[bitfield(u32)]
struct Token {
    pid: u8,
    #[bits(7)]
    address: u8,
    #[bits(4)]
    endpoint: u8,
    toggle: bool,
    __: bool,
    #[bits(11)]
    length: u16,
}

const PID_IN: u8 = 0x69;
const PID_OUT: u8 = 0xe1;
const PID_SETUP: u8 = 0x2d;

/// Bank of the registers.
pub const REGISTERS: u32 = 0;
const FRAME_NS: u64 = 1_000_000;
/// Bytes of data that a frame has room for.
const BANDWIDTH: usize = 1280;
/// Descriptors and queues that it looks at in a frame.
const STEPS: usize = 1024;
/// Frames that it makes up for when time has jumped.
const LATE: u64 = 8;
/// Link flags: the end; a queue; go on in it before the next queue.
const TERMINATE: u32 = 1;
const QUEUE: u32 = 2;
const DEPTH: u32 = 4;
/// Legacy support in configuration space.
const LEGACY: usize = 0xc0;
/// Ports of a controller.
pub const PORTS: usize = 2;

/// Which chip it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// The type name.
    pub name: &'static str,
    vendor: u16,
    device: u16,
    revision: u8,
    /// Interrupt pin.
    pin: u8,
}

/// The chips.
pub const MODELS: [Model; 9] = [
    Model { name: "piix3-usb-uhci", vendor: 0x8086, device: 0x7020, revision: 1, pin: 4 },
    Model { name: "piix4-usb-uhci", vendor: 0x8086, device: 0x7112, revision: 1, pin: 4 },
    Model { name: "vt82c686b-usb-uhci", vendor: 0x1106, device: 0x3038, revision: 1, pin: 4 },
    Model { name: "ich9-usb-uhci1", vendor: 0x8086, device: 0x2934, revision: 3, pin: 1 },
    Model { name: "ich9-usb-uhci2", vendor: 0x8086, device: 0x2935, revision: 3, pin: 2 },
    Model { name: "ich9-usb-uhci3", vendor: 0x8086, device: 0x2936, revision: 3, pin: 3 },
    Model { name: "ich9-usb-uhci4", vendor: 0x8086, device: 0x2937, revision: 3, pin: 1 },
    Model { name: "ich9-usb-uhci5", vendor: 0x8086, device: 0x2938, revision: 3, pin: 2 },
    Model { name: "ich9-usb-uhci6", vendor: 0x8086, device: 0x2939, revision: 3, pin: 3 },
];

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which chip it is.
    pub model: Model,
    /// The first of its sockets on a bus that it shares with a faster controller.
    pub companion: Option<usize>,
}

/// Everything the guest can observe, but for the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    command: Command,
    status: Status,
    enable: u16,
    frame: u16,
    base: u32,
    timing: u8,
    ports: [Port; PORTS],
    /// A short packet raised the interrupt.
    short: bool,
    /// When the next frame begins.
    next: Option<VmTime>,
}

/// The device.
pub struct Uhci {
    config: Config,
    wires: Wires,
    seen: Seen,
    state: State,
}

/// A bus for a controller of its own.
pub fn bus(board: &Board, name: &str) -> Bus {
    roots::bus(board, name, PORTS, Speed::Full)
}

/// Puts the controller of `bus` at `devfn`.
pub fn build(board: &mut Board, pci: &pci::Bus, devfn: u8, config: Config, bus: Bus) -> DeviceId {
    let id = board.reserve(config.model.name);
    let function = function(board, pci, devfn, id, config.model);
    let wires = Wires::new(board, id, bus);
    board.attach(id, Box::new(pci::Card::new(function, Uhci::new(config, wires))));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId, model: Model) -> pci::Function {
    let identity = pci::Identity {
        vendor: model.vendor,
        device: model.device,
        revision: model.revision,
        class: 0x0c_03_00,
        subsystem: pci::Identity::SUBSYSTEM,
        pin: model.pin,
    };
    let builder = pci::Builder::new(board, bus, id, identity)
        .io_bar(4, REGISTERS, 0x20)
        .register(0x60, 1, 0x10, 0)
        .register(LEGACY, 2, 0x2000, 0x20bf)
        .status(0x0280);
    // The functions of a chip that begin with this one.
    let many = devfn & 7 == 0 && model.name.starts_with("ich9");
    if many { builder.multifunction().build(devfn) } else { builder.build(devfn) }
}

/// What becomes of a descriptor.
enum Done {
    /// It is over: the queue goes on behind it.
    Finished,
    /// A short packet, which stops the queue.
    Short,
    /// To be asked again, or inactive, or failed.
    Waits,
}

impl State {
    fn power_on() -> Self {
        Self {
            command: Command::new(),
            status: Status::new().with_halted(true),
            enable: 0,
            frame: 0,
            base: 0,
            timing: 64,
            ports: [Port::new().with_reserved(true); PORTS],
            short: false,
            next: None,
        }
    }

    fn read(&self, reg: Reg) -> u64 {
        match reg {
            Reg::Command => self.command.into_bits().into(),
            Reg::Status => self.status.into_bits().into(),
            Reg::Enable => self.enable.into(),
            Reg::Frame => self.frame.into(),
            Reg::Base => self.base.into(),
            Reg::Timing => self.timing.into(),
            Reg::Port1 => self.ports[0].into_bits().into(),
            Reg::Port2 => self.ports[1].into_bits().into(),
        }
    }

    /// Whether it wants an interrupt: timeout, resume, completion, short packet.
    fn interrupts(&self) -> bool {
        let s = self.status;
        let on = |bit: u16| self.enable & 1 << bit != 0;
        s.interrupt() && (on(2) && !self.short || on(3) && self.short || on(2) && on(3))
            || s.error() && on(0)
            || s.resume() && on(1)
            || s.host_error()
            || s.process_error()
    }
}

impl Uhci {
    /// The chip in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let mut chip = Self { config, wires, seen: Seen::default(), state: State::power_on() };
        Chip::reset(&mut chip);
        chip
    }

    fn socket(&self, n: usize) -> Option<&Socket> {
        let first = self.config.companion.unwrap_or(0);
        let socket = self.wires.bus.sockets().get(first + n)?;
        (self.config.companion.is_none() || socket.is_companions()).then_some(socket)
    }

    /// Whether something came or went; a change of hands counts as that.
    fn moved(&mut self, n: usize) -> bool {
        let socket = self.socket(n).cloned();
        self.seen.moved(n, socket.as_ref())
    }

    fn there(&self, n: usize) -> bool {
        self.socket(n).is_some_and(|s| s.device().is_some())
    }

    /// Looks at what came and went.
    fn look(&mut self) {
        for n in 0..PORTS {
            if !self.moved(n) {
                continue;
            }
            let there = self.there(n);
            let port = &mut self.state.ports[n];
            if there || port.connected() {
                let was_enabled = port.enabled();
                *port = port
                    .with_connected(there)
                    .with_c_connected(true)
                    .with_enabled(false)
                    .with_suspended(false)
                    .with_low_speed(false)
                    .with_c_enabled(port.c_enabled() || was_enabled);
                if self.state.command.suspend() {
                    self.state.status.set_resume(true);
                }
            }
        }
    }

    /// A device that has something to tell while its port sleeps wakes it; where `bus` is true, the whole bus too.
    fn wake_up(&mut self, bus: bool) {
        for n in 0..PORTS {
            let port = self.state.ports[n];
            let sleeps = port.suspended() && !port.resume();
            if (sleeps || bus && self.state.command.suspend()) && roots::calls(self.socket(n)) {
                self.state.status.set_resume(true);
                self.state.ports[n].set_resume(port.suspended());
            }
        }
    }

    fn reset_port(&mut self, n: usize) {
        let device = self.socket(n).and_then(Socket::device);
        if let Some(device) = device {
            let mut device = device.lock().expect("no panic while held");
            device.reset(Speed::Full);
            self.state.ports[n].set_low_speed(device.speed() == Speed::Low);
        }
    }

    fn write_port(&mut self, n: usize, value: u16) {
        let new = Port::from_bits(value);
        if new.reset() && !self.state.ports[n].reset() {
            self.reset_port(n);
        }
        let port = &mut self.state.ports[n];
        let connected = port.connected();
        *port = port
            .with_c_connected(port.c_connected() && !new.c_connected())
            .with_c_enabled(port.c_enabled() && !new.c_enabled())
            .with_enabled(connected && new.enabled() && !new.reset())
            .with_resume(new.resume())
            .with_reset(new.reset())
            .with_suspended(new.suspended() && !new.reset());
    }

    fn write_command(&mut self, value: u16, now: VmTime) {
        let new = Command::from_bits(value & 0xff);
        if new.reset() || new.bus_reset() && !self.state.command.bus_reset() {
            for n in 0..PORTS {
                self.reset_port(n);
            }
            Chip::reset(self);
            self.state.command = new.with_reset(false).with_run(false);
            return;
        }
        if new.run() && !self.state.command.run() {
            self.state.next = Some(now.after(FRAME_NS));
        }
        self.state.command = new;
        if !new.run() {
            self.state.next = None;
        }
        self.state.status.set_halted(!new.run());
    }

    fn write_register(&mut self, reg: Reg, value: u64, now: VmTime) {
        let word = value as u16;
        match reg {
            Reg::Command => self.write_command(word, now),
            Reg::Status => {
                // The last one is a state, not an event.
                let bits = self.state.status.into_bits() & !(word & 0x1f);
                self.state.status = Status::from_bits(bits);
                if !self.state.status.interrupt() {
                    self.state.short = false;
                }
            }
            Reg::Enable => self.state.enable = word & 0x0f,
            Reg::Frame if !self.state.command.run() => self.state.frame = word & 0x7ff,
            Reg::Frame => {}
            Reg::Base => self.state.base = value as u32 & !0xfff,
            Reg::Timing => self.state.timing = value as u8 & 0x7f,
            Reg::Port1 => self.write_port(0, word),
            Reg::Port2 => self.write_port(1, word),
        }
    }

    fn stop(&mut self) {
        self.state.status.set_halted(true);
        self.state.command.set_run(false);
        self.state.next = None;
    }

    /// Sends the packet of a descriptor.
    fn transact(&self, dma: &Dma, token: Token, buffer: u32) -> Answer {
        let open = |n: &usize| {
            let port = self.state.ports[*n];
            port.enabled() && !port.suspended()
        };
        let mut ports = (0..PORTS).filter(open).filter_map(|n| self.socket(n));
        let Some(device) = ports.find_map(|s| s.find(token.address())) else {
            return Answer::Silence;
        };
        let mut device = device.lock().expect("no panic while held");
        // A length of 7ffh is none.
        let len = usize::from(token.length().wrapping_add(1) & 0x7ff);
        let mut data = vec![0; len];
        if token.pid() != PID_IN && dma.read(buffer.into(), &mut data).is_err() {
            return Answer::NoMemory;
        }
        let out = |answer| match answer {
            Out::Ack => Answer::Moved(len),
            Out::Nak => Answer::Nak,
            Out::Stall => Answer::Stall,
        };
        match token.pid() {
            PID_SETUP => match <[u8; 8]>::try_from(data) {
                Ok(bytes) => out(device.setup(bytes)),
                Err(_) => Answer::Silence,
            },
            PID_OUT => out(device.output(token.endpoint(), &data)),
            _ => match device.input(token.endpoint(), len) {
                In::Data(data) if data.len() > len => Answer::Stall,
                In::Data(data) if dma.write(buffer.into(), &data).is_err() => Answer::NoMemory,
                In::Data(data) => Answer::Moved(data.len()),
                In::Nak => Answer::Nak,
                In::Stall => Answer::Stall,
            },
        }
    }

    /// Carries out the descriptor at `at`, whose four words are `td`.
    fn execute(&mut self, dma: &Dma, at: u32, td: [u32; 4], room: &mut usize) -> Done {
        let mut control = Control::from_bits(td[1]);
        let token = Token::from_bits(td[2]);
        if !control.active() {
            return Done::Waits;
        }
        if !matches!(token.pid(), PID_IN | PID_OUT | PID_SETUP) {
            self.state.status.set_process_error(true);
            self.stop();
            return Done::Waits;
        }
        let wanted = usize::from(token.length().wrapping_add(1) & 0x7ff);
        let mut done = Done::Finished;
        match self.transact(dma, token, td[3]) {
            Answer::Moved(n) => {
                *room = room.saturating_sub(n.max(8));
                control.set_actual((n as u16).wrapping_sub(1) & 0x7ff);
                control.set_active(false);
                control.set_nak(false);
                if token.pid() == PID_IN && n < wanted && control.short() {
                    self.state.short = true;
                    self.state.status.set_interrupt(true);
                    done = Done::Short;
                }
            }
            Answer::Nak if control.isochronous() => control.set_active(false),
            Answer::Nak => {
                control.set_nak(true);
                done = Done::Waits;
            }
            Answer::Stall => {
                control.set_stalled(true);
                control.set_active(false);
                self.state.status.set_error(true);
                done = Done::Waits;
            }
            Answer::Silence => {
                // Three errors in a row are the end; 0 counts for ever.
                control.set_timeout(true);
                match control.errors() {
                    _ if control.isochronous() => control.set_active(false),
                    1 => {
                        control.set_errors(0);
                        control.set_stalled(true);
                        control.set_active(false);
                        self.state.status.set_error(true);
                        done = Done::Waits;
                    }
                    n => {
                        control.set_errors(n.saturating_sub(1));
                        done = Done::Waits;
                    }
                }
            }
            Answer::NoMemory => {
                self.state.status.set_host_error(true);
                self.stop();
                return Done::Waits;
            }
        }
        if !control.active() && control.interrupt() {
            self.state.status.set_interrupt(true);
        }
        _ = dma.write(u64::from(at) + 4, &control.into_bits().to_le_bytes());
        done
    }

    /// Follows the schedule of a frame.
    fn frame(&mut self, dma: &Dma) {
        let list = self.state.base.wrapping_add(u32::from(self.state.frame & 0x3ff) * 4);
        let Ok(mut link) = dma.read_u32(list.into()) else { return self.broken() };
        let mut room = BANDWIDTH;
        // The queue that the link came from, and its horizontal link.
        let mut queue: Option<(u32, u32)> = None;
        // Queues that were seen since a packet went through: coming round to one ends the frame.
        let mut seen: Vec<u32> = Vec::new();
        for _ in 0..STEPS {
            if link & TERMINATE != 0 {
                // An empty element: on to the next queue.
                let Some((_, next)) = queue.take() else { return };
                link = next;
                continue;
            }
            let at = link & !0xf;
            if link & QUEUE != 0 {
                if seen.contains(&at) {
                    return;
                }
                seen.push(at);
                let (Ok(next), Ok(element)) =
                    (dma.read_u32(at.into()), dma.read_u32(u64::from(at) + 4))
                else {
                    return self.broken();
                };
                queue = Some((at, next));
                link = element;
                continue;
            }
            let mut bytes = [0; 16];
            if dma.read(at.into(), &mut bytes).is_err() {
                return self.broken();
            }
            let td: [u32; 4] = std::array::from_fn(|i| {
                let b = &bytes[4 * i..4 * i + 4];
                u32::from_le_bytes([b[0], b[1], b[2], b[3]])
            });
            if room == 0 {
                return;
            }
            let before = room;
            let done = self.execute(dma, at, td, &mut room);
            if !self.state.command.run() {
                return;
            }
            if room != before {
                seen.clear();
            }
            let finished = matches!(done, Done::Finished);
            link = match queue {
                Some((head, next)) if finished => {
                    _ = dma.write(u64::from(head) + 4, &td[0].to_le_bytes());
                    if td[0] & DEPTH != 0 {
                        td[0]
                    } else {
                        queue = None;
                        next
                    }
                }
                Some((_, next)) => {
                    queue = None;
                    next
                }
                None => td[0],
            };
        }
    }

    /// Memory that the schedule is in does not answer.
    fn broken(&mut self) {
        self.state.status.set_host_error(true);
        self.stop();
    }

    /// Carries out the frames that have begun.
    fn catch_up(&mut self, slot: &Slot<'_>, now: VmTime) {
        let Some(mut next) = self.state.next else { return };
        let late = now.since(next) / FRAME_NS;
        if late > LATE {
            let skip = late - LATE;
            self.state.frame = self.state.frame.wrapping_add(skip as u16) & 0x7ff;
            next = next.after(skip * FRAME_NS);
        }
        while next <= now && self.state.command.run() {
            self.frame(slot.function.dma());
            self.state.frame = (self.state.frame + 1) & 0x7ff;
            next = next.after(FRAME_NS);
        }
        if self.state.command.run() {
            self.state.next = Some(next);
        }
    }
}

/// What came of a packet.
enum Answer {
    Moved(usize),
    Nak,
    Stall,
    Silence,
    NoMemory,
}

impl Chip for Uhci {
    type State = State;
    const NAME: &'static str = "usb-uhci";
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
        self.state.interrupts()
    }

    fn read(&mut self, _: &mut Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank != REGISTERS {
            return Err(BusError::NoRegister);
        }
        Ok(self.state.read(Reg::decode(offset, width)?.0))
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
        let slept = self.state.command.suspend();
        self.write_register(reg, value, now);
        // What came before it fell asleep counts too.
        self.wake_up(!slept);
        Ok(())
    }

    fn settle(&mut self, slot: &mut Slot<'_>) {
        if self.wires.take_news() {
            self.look();
            self.wake_up(true);
            let level = self.drive(slot);
            slot.function.drive(slot.config, level);
        }
    }

    fn wake(&mut self, slot: &mut Slot<'_>, now: VmTime) {
        self.catch_up(slot, now);
    }
}

#[cfg(test)]
#[path = "uhci_tests.rs"]
mod tests;
