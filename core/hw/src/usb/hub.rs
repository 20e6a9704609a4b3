//! A hub (`usb-hub`): USB 2.0 chapter 11, as a full-speed hub without transaction translator.

use super::bus::Socket;
use super::descriptor::{Configuration, Description, Endpoint, Interface, Layout, Speed, Transfer};
use super::device::{Function, In, Setup};
use super::roots;
use bitfield_struct::bitfield;
use orrery_system::RestoreError;
use serde::{Deserialize, Serialize};

/// The most sockets.
pub const SOCKETS: usize = 8;

/// A port's status (11.24.2.7.1) and, above it, what changed.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// There is a device.
    pub connected: bool,
    /// Packets go through.
    pub enabled: bool,
    /// Suspended.
    pub suspended: bool,
    #[bits(5)]
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

impl Port {
    fn changed(self) -> bool {
        self.into_bits() & 0x001f_0000 != 0
    }
}

/// Port features, table 11-17.
mod feature {
    pub(super) const ENABLE: u16 = 1;
    pub(super) const SUSPEND: u16 = 2;
    pub(super) const RESET: u16 = 4;
    pub(super) const POWER: u16 = 8;
    pub(super) const C_CONNECTION: u16 = 16;
    pub(super) const C_RESET: u16 = 20;
}

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets, at most [`SOCKETS`].
    pub ports: usize,
    /// Software switches their power.
    pub port_power: bool,
    /// Serial number.
    pub serial: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { ports: SOCKETS, port_power: false, serial: None }
    }
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    ports: Vec<Port>,
}

/// The device.
pub struct Hub {
    config: Config,
    sockets: Vec<Socket>,
    /// How often something came or went in each, as far as it has seen.
    seen: Vec<u32>,
    state: State,
}

impl Hub {
    /// A hub with nothing in it.
    pub fn new(config: Config) -> Self {
        let sockets: Vec<_> = (0..config.ports).map(|_| Socket::new(Speed::Full)).collect();
        let state = State { ports: vec![Port::new(); config.ports] };
        let mut hub = Self { config, seen: vec![0; sockets.len()], sockets, state };
        hub.reset(Speed::Full);
        hub
    }

    fn port(&mut self, index: u16) -> Option<(&mut Port, &Socket)> {
        let n = usize::from(index & 0xff).checked_sub(1)?;
        Some((self.state.ports.get_mut(n)?, self.sockets.get(n)?))
    }

    fn set_port(&mut self, index: u16, what: u16) -> bool {
        let Some((port, socket)) = self.port(index) else { return false };
        match what {
            feature::RESET => {
                if let Some(device) = socket.device().filter(|_| port.powered()) {
                    let mut device = device.lock().expect("no panic while held");
                    device.reset(socket.most());
                    port.set_low_speed(device.speed() == Speed::Low);
                    *port = port.with_enabled(true).with_suspended(false).with_c_reset(true);
                }
            }
            feature::SUSPEND => port.set_suspended(port.enabled()),
            feature::POWER => {
                let there = socket.device().is_some();
                if !port.powered() {
                    *port = port.with_powered(true).with_connected(there).with_c_connected(there);
                }
            }
            feature::ENABLE => {}
            _ => return false,
        }
        true
    }

    fn clear_port(&mut self, index: u16, what: u16) -> bool {
        let switched = self.config.port_power;
        let Some((port, _)) = self.port(index) else { return false };
        match what {
            feature::ENABLE => port.set_enabled(false),
            feature::SUSPEND => {
                port.set_c_suspended(port.suspended());
                port.set_suspended(false);
            }
            feature::POWER if switched => *port = Port::new(),
            feature::POWER => {}
            feature::C_CONNECTION..=feature::C_RESET => {
                *port = Port::from_bits(port.into_bits() & !(1 << what));
            }
            _ => return false,
        }
        true
    }

    fn descriptor(&self) -> Vec<u8> {
        let bytes = self.sockets.len() / 8 + 1;
        // Power is switched for each port, or not at all; over-current is reported for each.
        let power = if self.config.port_power { 0x09 } else { 0x0a };
        let len = (7 + 2 * bytes) as u8;
        let mut out = vec![len, 0x29, self.sockets.len() as u8, power, 0, 1, 0];
        out.resize(7 + bytes, 0);
        out.resize(7 + 2 * bytes, 0xff);
        out
    }
}

impl Function for Hub {
    type State = State;
    const NAME: &'static str = "usb-hub";

    fn description(&self) -> Description {
        let packet = (self.config.ports / 8 + 1) as u16;
        let endpoint = Endpoint::new(0x81, Transfer::Interrupt, packet, 0xff);
        let configuration = Configuration {
            self_powered: true,
            wakeup: true,
            current: 0,
            ..Configuration::new(vec![Interface {
                class: [9, 0, 0],
                endpoints: vec![endpoint],
                ..Interface::default()
            }])
        };
        let serial = self.config.serial.clone().unwrap_or_else(|| "314159".into());
        Description {
            vendor: 0x0409,
            product: 0x55aa,
            release: 0x0101,
            class: [9, 0, 0],
            strings: vec!["QEMU".into(), "QEMU USB Hub".into(), serial],
            layouts: vec![Layout {
                speed: Speed::Full,
                packet: 8,
                configurations: vec![configuration],
            }],
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.ports.len() != self.sockets.len() {
            return Err(RestoreError::Invalid("a hub with another number of ports"));
        }
        self.state = state;
        self.seen = self.sockets.iter().map(Socket::moves).collect();
        Ok(())
    }

    fn reset(&mut self, _: Speed) {
        self.seen = self.sockets.iter().map(Socket::moves).collect();
        let powered = !self.config.port_power;
        for (port, socket) in self.state.ports.iter_mut().zip(&self.sockets) {
            let there = powered && socket.device().is_some();
            *port = Port::new().with_powered(powered).with_connected(there).with_c_connected(there);
        }
    }

    fn request_in(&mut self, s: Setup) -> Option<Vec<u8>> {
        match (s.kind, s.request, s.value) {
            (0xa0, 6, 0x2900 | 0) => Some(self.descriptor()),
            (0xa0, 0, _) => Some(vec![0; 4]),
            (0xa3, 0, _) => {
                let (port, _) = self.port(s.index)?;
                Some(port.into_bits().to_le_bytes().into())
            }
            _ => None,
        }
    }

    fn request_out(&mut self, s: Setup, _: &[u8]) -> bool {
        match (s.kind, s.request) {
            (0x20, 1 | 3) => s.value < 2,
            (0x23, 3) => self.set_port(s.index, s.value),
            (0x23, 1) => self.clear_port(s.index, s.value),
            _ => false,
        }
    }

    fn input(&mut self, _: u8, max: usize) -> In {
        self.look();
        let mut map = vec![0; self.sockets.len() / 8 + 1];
        for (n, _) in self.state.ports.iter().enumerate().filter(|(_, p)| p.changed()) {
            map[(n + 1) / 8] |= 1 << ((n + 1) % 8);
        }
        if map.iter().all(|b| *b == 0) {
            return In::Nak;
        }
        map.truncate(max);
        In::Data(map)
    }

    fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    fn passes(&self, n: usize) -> bool {
        self.state.ports.get(n).is_some_and(|p| p.enabled() && !p.suspended())
    }

    fn look(&mut self) {
        for ((port, socket), seen) in
            self.state.ports.iter_mut().zip(&self.sockets).zip(&mut self.seen)
        {
            let moves = socket.moves();
            if std::mem::replace(seen, moves) == moves || !port.powered() {
                // A device that wakes the host wakes the hub's port first.
                let calls = roots::calls(Some(socket));
                if calls && port.suspended() {
                    *port = port.with_suspended(false).with_c_suspended(true);
                }
                continue;
            }
            let there = socket.device().is_some();
            let was_enabled = port.enabled();
            *port = port
                .with_connected(there)
                .with_enabled(false)
                .with_suspended(false)
                .with_c_connected(true)
                .with_c_enabled(port.c_enabled() || was_enabled);
        }
    }

    fn calls(&self) -> bool {
        self.state.ports.iter().any(|p| p.changed())
    }
}
