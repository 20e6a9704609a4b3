//! Keyboards, mice and tablets.
//!
//! Reference: USB HID 1.11, HID Usage Tables 1.12.
//!
//! What is common to them is here: the class requests, idle time and the endpoint. A [`Kind`] makes the reports.

mod keyboard;
mod pointer;

pub use keyboard::Keyboard;
pub use pointer::{Mouse, Pointer, Tablet};

use super::descriptor::{Configuration, Description, Endpoint, Interface, Layout, Speed, Transfer};
use super::device::{Function, In, Setup};
use orrery_system::input::InputEvent;
use orrery_system::{Board, Clock, DeviceId, RestoreError, Timer, VmTime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Unit of the idle time, HID 1.11 7.2.4.
const IDLE_NS: u64 = 4_000_000;

/// Requests of the class, 7.2.
mod request {
    pub(super) const GET_DESCRIPTOR: u8 = 6;
    pub(super) const GET_REPORT: u8 = 1;
    pub(super) const GET_IDLE: u8 = 2;
    pub(super) const GET_PROTOCOL: u8 = 3;
    pub(super) const SET_REPORT: u8 = 9;
    pub(super) const SET_IDLE: u8 = 10;
    pub(super) const SET_PROTOCOL: u8 = 11;
}

/// What distinguishes one from another.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub product: &'static str,
    /// Serial number, where none is given.
    pub serial: &'static str,
    /// Subclass and protocol of the interface.
    pub boot: [u8; 2],
    /// Largest packet.
    pub packet: u16,
    /// Polling intervals at full and at high speed, as written.
    pub intervals: [u8; 2],
    /// The report descriptor.
    pub reports: &'static [u8],
}

/// Makes reports of input.
pub trait Kind: Send {
    /// Everything the guest can observe.
    type State: Serialize + DeserializeOwned + Clone + Send;
    /// The type name.
    const NAME: &'static str;

    /// What it is.
    fn identity() -> Identity;
    /// As it is when plugged in.
    fn power_on() -> Self::State;
    /// Whether a saved state can be.
    fn is_sane(state: &Self::State) -> bool;
    /// Whether events of this sort are for it.
    fn accepts(event: &InputEvent) -> bool;
    /// Takes one.
    fn event(state: &mut Self::State, event: InputEvent);
    /// Whether there is something to report.
    fn pending(state: &Self::State) -> bool;
    /// The next report, taking what is pending into account.
    fn report(state: &mut Self::State, boot: bool) -> Vec<u8>;
    /// Takes an output report.
    fn output(_state: &mut Self::State, _data: &[u8]) -> bool {
        false
    }
}

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// Serial number.
    pub serial: Option<String>,
    /// Knows high speed.
    pub high_speed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { serial: None, high_speed: true }
    }
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for a report that idle time makes.
    pub timer: Timer,
}

impl Wires {
    /// Those of device `id`.
    pub fn new(board: &mut Board, id: DeviceId) -> Self {
        Self { clock: board.clock(), timer: board.timer(id, 0) }
    }
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State<K> {
    boot: bool,
    idle: u8,
    /// The endpoint was polled since the device was configured.
    polled: bool,
    last: VmTime,
    kind: K,
}

/// The device.
pub struct Hid<K: Kind> {
    config: Config,
    wires: Wires,
    state: State<K::State>,
}

impl<K: Kind> Hid<K> {
    /// A device as it is when plugged in.
    pub fn new(config: Config, wires: Wires) -> Self {
        Self { config, wires, state: Self::power_on() }
    }

    fn power_on() -> State<K::State> {
        State { boot: false, idle: 0, polled: false, last: VmTime(0), kind: K::power_on() }
    }

    /// When idle time makes a report.
    fn repeats(&self) -> Option<VmTime> {
        let idle = u64::from(self.state.idle);
        (idle != 0 && self.state.polled).then(|| self.state.last.after(idle * IDLE_NS))
    }

    fn drive(&self) {
        self.wires.timer.set(self.repeats());
    }

    fn class_descriptor() -> [u8; 9] {
        let [lo, hi] = (K::identity().reports.len() as u16).to_le_bytes();
        [9, 0x21, 0x11, 0x01, 0, 1, 0x22, lo, hi]
    }
}

impl<K: Kind + 'static> Function for Hid<K> {
    type State = State<K::State>;
    const NAME: &'static str = K::NAME;
    const INPUT: bool = true;

    fn description(&self) -> Description {
        let i = K::identity();
        let [subclass, protocol] = i.boot;
        let layout = |speed, packet, interval| Layout {
            speed,
            packet,
            configurations: vec![Configuration {
                wakeup: true,
                ..Configuration::new(vec![Interface {
                    class: [3, subclass, protocol],
                    extra: Self::class_descriptor().into(),
                    endpoints: vec![Endpoint::new(0x81, Transfer::Interrupt, i.packet, interval)],
                    ..Interface::default()
                }])
            }],
        };
        let mut layouts = vec![layout(Speed::Full, 8, i.intervals[0])];
        if self.config.high_speed {
            layouts.push(layout(Speed::High, 64, i.intervals[1]));
        }
        let serial = self.config.serial.clone().unwrap_or_else(|| i.serial.into());
        Description {
            vendor: 0x0627,
            product: 0x0001,
            release: 0,
            class: [0; 3],
            strings: vec!["QEMU".into(), i.product.into(), serial],
            layouts,
        }
    }

    fn save(&self) -> Self::State {
        self.state.clone()
    }

    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        if !K::is_sane(&state.kind) {
            return Err(RestoreError::Invalid("more input than it keeps"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn reset(&mut self, _: Speed) {
        self.state = Self::power_on();
        self.drive();
    }

    fn configured(&mut self, _: u8) {
        self.state.polled = false;
        self.drive();
    }

    fn request_in(&mut self, s: Setup) -> Option<Vec<u8>> {
        match (s.kind, s.request) {
            (0x81, request::GET_DESCRIPTOR) if s.value >> 8 == 0x22 => {
                Some(K::identity().reports.into())
            }
            (0x81, request::GET_DESCRIPTOR) if s.value >> 8 == 0x21 => {
                Some(Self::class_descriptor().into())
            }
            (0xa1, request::GET_REPORT) => Some(K::report(&mut self.state.kind, self.state.boot)),
            (0xa1, request::GET_IDLE) => Some(vec![self.state.idle]),
            (0xa1, request::GET_PROTOCOL) => Some(vec![u8::from(!self.state.boot)]),
            _ => None,
        }
    }

    fn request_out(&mut self, s: Setup, data: &[u8]) -> bool {
        match (s.kind, s.request) {
            (0x21, request::SET_REPORT) => return K::output(&mut self.state.kind, data),
            (0x21, request::SET_IDLE) => {
                self.state.idle = (s.value >> 8) as u8;
                self.state.last = self.wires.clock.now();
            }
            (0x21, request::SET_PROTOCOL) => self.state.boot = s.value == 0,
            _ => return false,
        }
        self.drive();
        true
    }

    fn input(&mut self, _: u8, max: usize) -> In {
        self.state.polled = true;
        let now = self.wires.clock.now();
        let due = K::pending(&self.state.kind) || self.repeats().is_some_and(|t| t <= now);
        if due {
            self.state.last = now;
        }
        self.drive();
        if !due {
            return In::Nak;
        }
        let mut report = K::report(&mut self.state.kind, self.state.boot);
        report.truncate(max);
        In::Data(report)
    }

    fn calls(&self) -> bool {
        K::pending(&self.state.kind)
    }

    fn accepts(&self, event: &InputEvent) -> bool {
        self.state.polled && K::accepts(event)
    }

    fn take_input(&mut self, event: InputEvent) {
        K::event(&mut self.state.kind, event);
    }
}
