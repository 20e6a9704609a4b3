//! What every device on the bus has in common: its address, its configuration, and endpoint 0.
//!
//! Reference: USB 2.0 chapters 8.5.3 (control transfers) and 9.4 (standard requests).
//!
//! A controller sends packets, and a device answers each at once: with data, or that it has
//! nothing yet ([`In::Nak`], [`Out::Nak`]) and the controller is to ask again. So nothing is ever under way
//! between the two, and a snapshot needs no more than their states. A device that has something new
//! pulses the bus' wire, so that a controller which does not poll asks then.

use super::bus::Socket;
use super::descriptor::{Configuration, Description, Interface, Speed};
use orrery_system::device::HostIo;
use orrery_system::input::{InputEvent, InputSink};
use orrery_system::{Device, IrqLine, RestoreError, State, StateBlob, VmTime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};

/// The answer to an IN token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum In {
    /// Data, at most as much as was asked for.
    Data(Vec<u8>),
    /// Nothing yet.
    Nak,
    /// The endpoint is halted, or does not know the request.
    Stall,
}

/// The answer to an OUT or SETUP token with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Taken.
    Ack,
    /// Not now.
    Nak,
    /// The endpoint is halted, or does not know the request.
    Stall,
}

/// A request on endpoint 0 (USB 2.0 table 9-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Direction, type and recipient.
    pub kind: u8,
    /// Request.
    pub request: u8,
    /// Value.
    pub value: u16,
    /// Index.
    pub index: u16,
    /// Bytes of the data stage.
    pub length: u16,
}

impl Setup {
    /// From the bytes of a SETUP packet.
    pub fn parse(b: [u8; 8]) -> Self {
        let word = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        Self { kind: b[0], request: b[1], value: word(2), index: word(4), length: word(6) }
    }

    /// Towards the host.
    pub const fn is_in(self) -> bool {
        self.kind & 0x80 != 0
    }
}

/// A device's own part: what is behind its endpoints.
pub trait Function: Send {
    /// Everything the guest can observe besides address and configuration.
    type State: Serialize + DeserializeOwned;
    /// The type name.
    const NAME: &'static str;
    /// Version of the state's layout.
    const VERSION: u16 = 1;
    /// It has a cable or waits for the host.
    const HOST_IO: bool = false;
    /// It takes keys or pointer movement.
    const INPUT: bool = false;

    /// What it says of itself.
    fn description(&self) -> Description;
    /// Its state.
    fn save(&self) -> Self::State;
    /// Takes a state over; on an error it keeps its own.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
    /// Back to how it is when plugged in: also what a reset on the bus does.
    fn reset(&mut self, speed: Speed);
    /// Was configured; 0: not any more.
    fn configured(&mut self, _configuration: u8) {}
    /// An interface has another alternate setting.
    fn alternate(&mut self, _interface: u8, _setting: u8) {}
    /// An endpoint is halted no longer.
    fn resumed(&mut self, _endpoint: u8) {}
    /// A request of its class that gives data; `None` stalls.
    fn request_in(&mut self, _setup: Setup) -> Option<Vec<u8>> {
        None
    }
    /// A request of its class with data for it; false stalls.
    fn request_out(&mut self, _setup: Setup, _data: &[u8]) -> bool {
        false
    }
    /// Gives data of an endpoint.
    fn input(&mut self, _endpoint: u8, _max: usize) -> In {
        In::Stall
    }
    /// Takes data for an endpoint.
    fn output(&mut self, _endpoint: u8, _data: &[u8]) -> Out {
        Out::Stall
    }
    /// The places for further devices, if it is a hub.
    fn sockets(&self) -> &[Socket] {
        &[]
    }
    /// Whether packets go through to what is in socket `n` of it.
    fn passes(&self, _n: usize) -> bool {
        false
    }
    /// Something happened on the bus: a hub looks at its sockets.
    fn look(&mut self) {}
    /// Whether it has something to tell that the host, if it sleeps, is woken for.
    fn calls(&self) -> bool {
        false
    }
    /// Whether it wants input of this sort now.
    fn accepts(&self, _event: &InputEvent) -> bool {
        false
    }
    /// Takes input.
    fn take_input(&mut self, _event: InputEvent) {}
    /// Its timer has come due.
    fn wake(&mut self, _now: VmTime) {}
    /// When an operation of the host is due.
    fn due(&self) -> Option<VmTime> {
        None
    }
    /// Whether something has come from the host.
    fn ready(&self) -> bool {
        false
    }
    /// Takes it.
    fn deliver(&mut self, _now: VmTime) {}
}

/// A device as controllers and hubs see it.
pub trait Attached: Send {
    /// The type name.
    fn name(&self) -> &'static str;
    /// What it says of itself.
    fn description(&self) -> &Description;
    /// Its address.
    fn address(&self) -> u8;
    /// Its speed since the last reset.
    fn speed(&self) -> Speed;
    /// Resets it, on a port that signals at most this fast.
    fn reset(&mut self, most: Speed);
    /// A SETUP packet.
    fn setup(&mut self, bytes: [u8; 8]) -> Out;
    /// An IN packet.
    fn input(&mut self, endpoint: u8, max: usize) -> In;
    /// An OUT packet.
    fn output(&mut self, endpoint: u8, data: &[u8]) -> Out;
    /// The places for further devices, if it is a hub.
    fn sockets(&self) -> &[Socket];
    /// Whether packets go through to what is in socket `n` of it.
    fn passes(&self, n: usize) -> bool;
    /// Something happened on the bus.
    fn look(&mut self);
    /// Whether it wakes a host that sleeps: it has something to tell, and software lets it.
    fn calls(&self) -> bool;
}

/// A device, shared by the socket it is in and the board. Each holds the lock only while it calls.
pub type Handle = Arc<Mutex<dyn Attached>>;

/// Where a control transfer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Control {
    Idle,
    /// Data to the host.
    Reading {
        data: Vec<u8>,
        at: usize,
    },
    /// Data from the host.
    Writing {
        setup: Setup,
        data: Vec<u8>,
    },
    /// All is done but the status stage.
    Status,
    /// The address counts from the status stage on.
    Address(u8),
    Stalled,
}

/// What the guest can observe of every device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Common {
    address: u8,
    speed: Speed,
    configuration: u8,
    alternates: Vec<u8>,
    /// Halted endpoints: OUT in the low half.
    halted: u32,
    wakeup: bool,
    control: Control,
}

impl Common {
    fn new(speed: Speed) -> Self {
        Self {
            address: 0,
            speed,
            configuration: 0,
            alternates: Vec::new(),
            halted: 0,
            wakeup: false,
            control: Control::Idle,
        }
    }
}

/// Standard requests, table 9-4.
mod standard {
    pub(super) const GET_STATUS: u8 = 0;
    pub(super) const CLEAR_FEATURE: u8 = 1;
    pub(super) const SET_FEATURE: u8 = 3;
    pub(super) const SET_ADDRESS: u8 = 5;
    pub(super) const GET_DESCRIPTOR: u8 = 6;
    pub(super) const GET_CONFIGURATION: u8 = 8;
    pub(super) const SET_CONFIGURATION: u8 = 9;
    pub(super) const GET_INTERFACE: u8 = 10;
    pub(super) const SET_INTERFACE: u8 = 11;
    pub(super) const SET_SEL: u8 = 48;
    pub(super) const SET_ISOCH_DELAY: u8 = 49;
}

/// A device: its [`Function`] behind the part that all devices share.
pub struct Peripheral<F> {
    description: Description,
    common: Common,
    /// What it is.
    pub function: F,
}

#[derive(Serialize, Deserialize)]
struct Saved<S, F> {
    common: Common,
    function: S,
    #[serde(skip)]
    kind: PhantomData<F>,
}

impl<F: Function> State for Saved<F::State, F> {
    const KIND: &'static str = F::NAME;
    const VERSION: u16 = F::VERSION;
}

fn bit(endpoint: u8) -> u32 {
    1 << (endpoint & 15) << if endpoint & 0x80 != 0 { 16 } else { 0 }
}

impl<F: Function> Peripheral<F> {
    /// A device as it is when it is plugged in.
    pub fn new(function: F) -> Self {
        let description = function.description();
        let speed = description.layout(Speed::Super).map_or(Speed::Full, |l| l.speed);
        Self { description, common: Common::new(speed), function }
    }

    fn reset(&mut self, most: Speed) {
        let speed = self.description.layout(most).map_or(Speed::Full, |l| l.speed);
        self.common = Common::new(speed);
        self.function.reset(speed);
    }

    fn configuration(&self) -> Option<&Configuration> {
        let layout = self.description.layout(self.common.speed)?;
        layout.configurations.iter().find(|c| c.value == self.common.configuration)
    }

    fn interface(&self, number: u8, setting: u8) -> Option<&Interface> {
        let all = &self.configuration()?.interfaces;
        all.iter().find(|i| i.number == number && i.alternate == setting)
    }

    fn endpoint(&self, address: u8) -> bool {
        let Some(c) = self.configuration() else { return false };
        c.interfaces.iter().any(|i| {
            let set = self.common.alternates.get(usize::from(i.number)).copied().unwrap_or(0);
            i.alternate == set && i.endpoints.iter().any(|e| e.address == address)
        })
    }

    /// A standard request that gives data.
    fn standard_in(&mut self, s: Setup) -> Option<Vec<u8>> {
        match (s.kind & 0x1f, s.request) {
            (0, standard::GET_STATUS) => {
                let c = self
                    .configuration()
                    .or_else(|| self.description.layout(self.common.speed)?.configurations.first());
                let own = c.is_some_and(|c| c.self_powered);
                Some(vec![u8::from(own) | u8::from(self.common.wakeup) << 1, 0])
            }
            (1, standard::GET_STATUS) => Some(vec![0, 0]),
            (2, standard::GET_STATUS) => {
                let halted = self.common.halted & bit(s.index as u8) != 0;
                Some(vec![halted.into(), 0])
            }
            (0, standard::GET_DESCRIPTOR) => self.description.get(self.common.speed, s.value),
            (0, standard::GET_CONFIGURATION) => Some(vec![self.common.configuration]),
            (1, standard::GET_INTERFACE) => {
                self.common.alternates.get(usize::from(s.index)).map(|&a| vec![a])
            }
            _ => self.function.request_in(s),
        }
    }

    /// A standard request with data for the device.
    fn standard_out(&mut self, s: Setup, data: &[u8]) -> bool {
        match (s.kind & 0x1f, s.request, s.value) {
            (0, standard::SET_CONFIGURATION, value) => self.configure(value as u8),
            (1, standard::SET_INTERFACE, value) => {
                let (number, setting) = (s.index as u8, value as u8);
                let known = self.interface(number, setting).is_some();
                if let Some(slot) = self.common.alternates.get_mut(usize::from(number))
                    && known
                {
                    *slot = setting;
                    self.function.alternate(number, setting);
                    return true;
                }
                false
            }
            (2, standard::CLEAR_FEATURE, 0) => {
                let endpoint = s.index as u8;
                self.common.halted &= !bit(endpoint);
                self.function.resumed(endpoint);
                true
            }
            (2, standard::SET_FEATURE, 0) => {
                self.common.halted |= bit(s.index as u8);
                true
            }
            (0, standard::CLEAR_FEATURE, 1) => {
                self.common.wakeup = false;
                true
            }
            (0, standard::SET_FEATURE, 1) => {
                self.common.wakeup = true;
                true
            }
            // U1, U2 and latency tolerance, which nothing shows.
            (0, standard::CLEAR_FEATURE | standard::SET_FEATURE, 48..=50)
            | (0, standard::SET_SEL | standard::SET_ISOCH_DELAY, _) => {
                self.common.speed == Speed::Super
            }
            (1, standard::CLEAR_FEATURE | standard::SET_FEATURE, 0) => {
                self.common.speed == Speed::Super
            }
            _ => self.function.request_out(s, data),
        }
    }

    fn configure(&mut self, value: u8) -> bool {
        let layout = self.description.layout(self.common.speed);
        let chosen = layout.and_then(|l| l.configurations.iter().find(|c| c.value == value));
        if chosen.is_none() && value != 0 {
            return false;
        }
        self.common.alternates = vec![0; chosen.map_or(0, Configuration::interfaces)];
        self.common.configuration = value;
        self.common.halted = 0;
        self.function.configured(value);
        true
    }

    fn control_in(&mut self, max: usize) -> In {
        match &mut self.common.control {
            Control::Reading { data, at } => {
                let n = (data.len() - *at).min(max);
                let part = data[*at..*at + n].to_vec();
                *at += n;
                In::Data(part)
            }
            Control::Address(address) => {
                self.common.address = *address;
                self.common.control = Control::Idle;
                In::Data(Vec::new())
            }
            // All data have come: this is the status stage.
            Control::Writing { setup, data } => {
                let (setup, data) = (*setup, std::mem::take(data));
                let done = if setup.kind & 0x60 == 0 {
                    self.standard_out(setup, &data)
                } else {
                    self.function.request_out(setup, &data)
                };
                self.common.control = if done { Control::Idle } else { Control::Stalled };
                if done { In::Data(Vec::new()) } else { In::Stall }
            }
            Control::Status | Control::Idle => In::Data(Vec::new()),
            Control::Stalled => In::Stall,
        }
    }

    fn control_out(&mut self, bytes: &[u8]) -> Out {
        match &mut self.common.control {
            Control::Writing { setup, data } => {
                let room = usize::from(setup.length) - data.len();
                data.extend(&bytes[..bytes.len().min(room)]);
                Out::Ack
            }
            Control::Stalled => Out::Stall,
            // The status stage of a transfer to the host.
            _ => {
                self.common.control = Control::Idle;
                Out::Ack
            }
        }
    }
}

impl<F: Function> Attached for Peripheral<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn address(&self) -> u8 {
        self.common.address
    }

    fn speed(&self) -> Speed {
        self.common.speed
    }

    fn reset(&mut self, most: Speed) {
        Self::reset(self, most);
    }

    fn setup(&mut self, bytes: [u8; 8]) -> Out {
        let setup = Setup::parse(bytes);
        self.common.control = if setup.is_in() {
            let data = if setup.kind & 0x60 == 0 {
                self.standard_in(setup)
            } else {
                self.function.request_in(setup)
            };
            match data {
                Some(mut data) => {
                    data.truncate(setup.length.into());
                    Control::Reading { data, at: 0 }
                }
                None => Control::Stalled,
            }
        } else if (setup.kind, setup.request) == (0, standard::SET_ADDRESS) {
            Control::Address(setup.value as u8 & 0x7f)
        } else {
            Control::Writing { setup, data: Vec::new() }
        };
        Out::Ack
    }

    fn input(&mut self, endpoint: u8, max: usize) -> In {
        if endpoint == 0 {
            return self.control_in(max);
        }
        let address = endpoint | 0x80;
        if self.common.halted & bit(address) != 0 || !self.endpoint(address) {
            return In::Stall;
        }
        let answer = self.function.input(endpoint, max);
        if answer == In::Stall {
            self.common.halted |= bit(address);
        }
        answer
    }

    fn output(&mut self, endpoint: u8, data: &[u8]) -> Out {
        if endpoint == 0 {
            return self.control_out(data);
        }
        if self.common.halted & bit(endpoint) != 0 || !self.endpoint(endpoint) {
            return Out::Stall;
        }
        let answer = self.function.output(endpoint, data);
        if answer == Out::Stall {
            self.common.halted |= bit(endpoint);
        }
        answer
    }

    fn sockets(&self) -> &[Socket] {
        self.function.sockets()
    }

    fn passes(&self, n: usize) -> bool {
        self.function.passes(n)
    }

    fn look(&mut self) {
        self.function.look();
    }

    fn calls(&self) -> bool {
        self.common.wakeup && self.function.calls()
    }
}

/// A device's place on the board: snapshots, timers, input and the host.
pub struct Seat<F> {
    device: Arc<Mutex<Peripheral<F>>>,
    /// Tells the bus that it has something new.
    news: IrqLine,
}

impl<F: Function> Seat<F> {
    /// A place for `device`, which tells of news on `news`.
    pub fn new(device: Arc<Mutex<Peripheral<F>>>, news: IrqLine) -> Self {
        Self { device, news }
    }

    fn lock(&self) -> MutexGuard<'_, Peripheral<F>> {
        self.device.lock().expect("no panic while held")
    }
}

impl<F: Function> Device for Seat<F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn reset(&mut self) {
        self.lock().reset(Speed::Super);
    }

    fn save(&self) -> StateBlob {
        let device = self.lock();
        let (common, function) = (device.common.clone(), device.function.save());
        StateBlob::encode(&Saved::<_, F> { common, function, kind: PhantomData })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let Saved::<F::State, F> { common, function, .. } = blob.decode()?;
        let long = match &common.control {
            Control::Reading { data, at } => *at > data.len(),
            Control::Writing { setup, data } => data.len() > usize::from(setup.length),
            _ => false,
        };
        if long || common.address > 0x7f {
            return Err(RestoreError::Invalid("a control transfer past its end"));
        }
        let mut device = self.lock();
        device.function.restore(function)?;
        device.common = common;
        Ok(())
    }

    fn wake(&mut self, _: u32, now: VmTime) {
        self.lock().function.wake(now);
        self.news.pulse();
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        if F::HOST_IO { Some(self) } else { None }
    }

    fn input(&mut self) -> Option<&mut dyn InputSink> {
        if F::INPUT { Some(self) } else { None }
    }
}

impl<F: Function> HostIo for Seat<F> {
    fn due(&self) -> Option<VmTime> {
        self.lock().function.due()
    }

    fn ready(&self) -> bool {
        self.lock().function.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        self.lock().function.deliver(now);
        self.news.pulse();
    }
}

impl<F: Function> InputSink for Seat<F> {
    fn accepts(&self, event: &InputEvent) -> bool {
        let device = self.lock();
        device.common.configuration != 0 && device.function.accepts(event)
    }

    fn input(&mut self, event: InputEvent) {
        self.lock().function.take_input(event);
        self.news.pulse();
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
