//! Keyboard controller (8042) with a keyboard and a mouse, address line 20 and the reset line.
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device
//! controller; Intel UPI-42 data sheet.
//!
//! A device's byte follows the one before no sooner than `BYTE_NS` after that was read: guests
//! chain handlers that read the data port twice and expect the same byte. The line takes a
//! millisecond in truth, but guests wait for it by polling.

use super::keyboard::Keyboard;
use super::mouse::Mouse;
use super::scancode;
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::input::{InputEvent, InputSink};
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{Clock, IrqLine, RestoreError, State as _, StateBlob, Timer, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Bank [`DATA`]: port 60h.
    pub enum Data {
        /// The output buffer; written, a byte for the keyboard or a command's parameter.
        0 Data: 1 Rw,
    }
}

orrery_system::reg_map! {
    /// Bank [`COMMAND`]: port 64h.
    pub enum Command {
        /// Status; written, a command.
        0 Command: 1 Rw,
    }
}

/// Bank of port 60h.
pub const DATA: u32 = 0;
/// Bank of port 64h.
pub const COMMAND: u32 = 1;

/// Least time between reading a byte and the next one's arrival.
const BYTE_NS: u64 = 100_000;

/// Command byte.
mod ccb {
    pub(super) const KBD_INT: u8 = 0x01;
    pub(super) const AUX_INT: u8 = 0x02;
    pub(super) const SYS: u8 = 0x04;
    pub(super) const KBD_OFF: u8 = 0x10;
    pub(super) const AUX_OFF: u8 = 0x20;
    pub(super) const TRANSLATE: u8 = 0x40;
}

/// Status.
mod status {
    pub(super) const OBF: u8 = 0x01;
    pub(super) const COMMAND: u8 = 0x08;
    pub(super) const UNLOCKED: u8 = 0x10;
    pub(super) const AUX: u8 = 0x20;
}

/// Output port.
mod port {
    pub(super) const RUN: u8 = 0x01;
    pub(super) const A20: u8 = 0x02;
    pub(super) const KBD_FULL: u8 = 0x10;
    pub(super) const AUX_FULL: u8 = 0x20;
    pub(super) const POWER_ON: u8 = 0xcf;
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// IRQ 1.
    pub irq_keyboard: IrqLine,
    /// IRQ 12.
    pub irq_mouse: IrqLine,
    /// Address line 20. Port 92 may drive the same pin; the last one written to wins.
    pub a20: IrqLine,
    /// The reset line.
    pub power: Power,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the next byte.
    pub timer: Timer,
}

/// Where the byte in the output buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Keyboard,
    Mouse,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    ccb: u8,
    ram: [u8; 31],
    port: u8,
    /// The last write was a command.
    commanded: bool,
    /// The command whose parameter is awaited.
    command: Option<u8>,
    /// The byte last put in the output buffer.
    data: u8,
    full: Option<Source>,
    /// A reply of the controller's own, which waits for the buffer.
    reply: Option<(u8, Source)>,
    /// F0h came from the keyboard: the next code is translated as a release.
    release: bool,
    /// When the next byte may arrive.
    next: VmTime,
    /// The output port was written, and drives address line 20.
    gated: bool,
    /// The guest pulled the reset line.
    reset: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl orrery_system::State for State {
    const KIND: &'static str = "i8042";
    const VERSION: u16 = 1;
}

impl State {
    fn power_on() -> Self {
        Self {
            ccb: ccb::KBD_INT | ccb::AUX_INT,
            ram: [0; 31],
            port: port::POWER_ON,
            commanded: true,
            command: None,
            data: 0,
            full: None,
            reply: None,
            release: false,
            next: VmTime(0),
            gated: true,
            reset: false,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    /// Whether a device has a byte that may come in.
    fn waiting(&self) -> bool {
        self.ccb & ccb::KBD_OFF == 0 && self.keyboard.has_output()
            || self.ccb & ccb::AUX_OFF == 0 && self.mouse.has_output()
    }

    /// Fills the output buffer if it is empty.
    fn fill(&mut self, now: VmTime) {
        while self.full.is_none() {
            let (byte, source) = if let Some(reply) = self.reply.take() {
                reply
            } else if now < self.next {
                return;
            } else if let Some(byte) =
                (self.ccb & ccb::KBD_OFF == 0).then(|| self.keyboard.take()).flatten()
            {
                let Some(byte) = self.translated(byte) else { continue };
                (byte, Source::Keyboard)
            } else if let Some(byte) =
                (self.ccb & ccb::AUX_OFF == 0).then(|| self.mouse.take()).flatten()
            {
                (byte, Source::Mouse)
            } else {
                return;
            };
            (self.data, self.full) = (byte, Some(source));
        }
    }

    /// What a keyboard's byte becomes; nothing if it is the prefix of a release.
    fn translated(&mut self, byte: u8) -> Option<u8> {
        if self.ccb & ccb::TRANSLATE == 0 {
            return Some(byte);
        }
        if byte == 0xf0 {
            self.release = true;
            return None;
        }
        let release = if std::mem::take(&mut self.release) { 0x80 } else { 0 };
        Some(scancode::translate(byte) | release)
    }

    fn status(&self) -> u8 {
        let full = match self.full {
            Some(Source::Mouse) => status::OBF | status::AUX,
            Some(Source::Keyboard) => status::OBF,
            None => 0,
        };
        let command = if self.commanded { status::COMMAND } else { 0 };
        full | command | self.ccb & ccb::SYS | status::UNLOCKED
    }

    fn read_data(&mut self, now: VmTime) -> u8 {
        if self.full.take().is_some() {
            self.next = now.after(BYTE_NS);
        }
        self.data
    }

    fn output_port(&self) -> u8 {
        self.port & !(port::KBD_FULL | port::AUX_FULL)
            | match self.full {
                Some(Source::Keyboard) => port::KBD_FULL,
                Some(Source::Mouse) => port::AUX_FULL,
                None => 0,
            }
    }

    fn set_output_port(&mut self, v: u8) {
        self.gated = true;
        self.port = v;
        self.reset |= v & port::RUN == 0;
    }

    fn answer(&mut self, byte: u8) {
        self.reply = Some((byte, Source::Keyboard));
    }

    fn write_command(&mut self, v: u8) {
        self.commanded = true;
        self.command = None;
        match v {
            0x20 => self.answer(self.ccb),
            0x21..=0x3f => self.answer(self.ram[usize::from(v - 0x21)]),
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(v),
            0xa4 => self.answer(0xf1), // no password
            0xa7 => self.ccb |= ccb::AUX_OFF,
            0xa8 => self.ccb &= !ccb::AUX_OFF,
            0xa9 | 0xab => self.answer(0), // the line is good
            0xaa => {
                self.ccb |= ccb::SYS;
                self.answer(0x55);
            }
            0xad => self.ccb |= ccb::KBD_OFF,
            0xae => self.ccb &= !ccb::KBD_OFF,
            0xc0 => self.answer(0x80), // unlocked
            0xca => self.answer(0x01), // PS/2 mode
            0xd0 => self.answer(self.output_port()),
            0xdd | 0xdf => {
                self.gated = true;
                self.port = self.port & !port::A20 | v & port::A20;
            }
            0xe0 => self.answer(0),
            0xf0..=0xff => self.reset |= v & port::RUN == 0,
            _ => {}
        }
    }

    fn write_data(&mut self, v: u8) {
        self.commanded = false;
        match self.command.take() {
            Some(0x60) => self.ccb = v,
            Some(c @ 0x61..=0x7f) => self.ram[usize::from(c - 0x61)] = v,
            Some(0xd1) => self.set_output_port(v),
            Some(0xd2) => self.answer(v),
            Some(0xd3) => self.reply = Some((v, Source::Mouse)),
            Some(0xd4) => {
                self.ccb &= !ccb::AUX_OFF;
                self.mouse.write(v);
            }
            _ => {
                self.ccb &= !ccb::KBD_OFF;
                self.keyboard.write(v);
            }
        }
    }
}

/// The device.
pub struct I8042 {
    wires: Wires,
    state: State,
}

impl I8042 {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let mut kbc = Self { wires, state: State::power_on() };
        kbc.drive();
        kbc
    }

    /// The keyboard's lights: scroll lock 1, num lock 2, caps lock 4.
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds()
    }

    fn drive(&mut self) {
        let now = self.wires.clock.now();
        let empty = self.state.full.is_none();
        if empty {
            // A byte that replaces the one just read makes an edge of its own.
            self.wires.irq_keyboard.set(false);
            self.wires.irq_mouse.set(false);
            self.state.fill(now);
        }
        let s = &self.state;
        let interrupts = |source, enable| s.full == Some(source) && s.ccb & enable != 0;
        // The controller's own answers come as the keyboard's do, but drivers switch the keyboard
        // off before they ask, and expect no interrupt then: it would stay latched in the 8259.
        let keyboard_on = s.ccb & ccb::KBD_OFF == 0;
        self.wires.irq_keyboard.set(keyboard_on && interrupts(Source::Keyboard, ccb::KBD_INT));
        self.wires.irq_mouse.set(interrupts(Source::Mouse, ccb::AUX_INT));
        if s.gated {
            self.wires.a20.set(s.port & port::A20 != 0);
            self.state.gated = false;
        }
        let s = &self.state;
        self.wires.timer.set((s.full.is_none() && s.waiting()).then_some(s.next));
        if std::mem::take(&mut self.state.reset) {
            self.state.port |= port::RUN;
            self.wires.power.request(PowerRequest::Reset);
        }
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::power_on();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if !state.keyboard.is_sane() || !state.mouse.is_sane() {
            return Err(RestoreError::Invalid("keyboard or mouse out of range"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.drive();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn input(&mut self) -> Option<&mut dyn InputSink> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![
            ("status", format!("{:02x}", self.state.status())),
            ("command byte", format!("{:02x}", self.state.ccb)),
            ("output port", format!("{:02x}", self.state.output_port())),
            ("leds", format!("{:x}", self.leds())),
        ]
    }
}

impl InputSink for I8042 {
    fn accepts(&self, event: &InputEvent) -> bool {
        !matches!(event, InputEvent::Position { .. })
    }

    fn input(&mut self, event: InputEvent) {
        match event {
            InputEvent::Key { key, down } => self.state.keyboard.key(key, down),
            InputEvent::Motion { dx, dy } => self.state.mouse.motion(dx, dy, 0),
            InputEvent::Wheel { dz } => self.state.mouse.motion(0, 0, dz.saturating_neg()),
            InputEvent::Button { index, down } => self.state.mouse.button(index, down),
            InputEvent::Position { .. } => return,
        }
        self.drive();
    }
}

impl Registers for I8042 {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let value = match bank {
            DATA => {
                Data::decode(offset, width)?;
                self.state.read_data(self.wires.clock.now())
            }
            COMMAND => {
                Command::decode(offset, width)?;
                self.state.status()
            }
            _ => return Err(BusError::NoRegister),
        };
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match bank {
            DATA => {
                Data::decode(offset, width)?;
                self.state.write_data(value as u8);
            }
            COMMAND => {
                Command::decode(offset, width)?;
                self.state.write_command(value as u8);
            }
            _ => return Err(BusError::NoRegister),
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
#[path = "i8042_tests.rs"]
mod tests;
