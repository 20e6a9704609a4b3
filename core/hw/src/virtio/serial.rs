//! Virtio console device: VIRTIO 1.2 chapter 5.3, with its ports (`virtconsole`, `virtserialport`).
//!
//! Not modelled: the size of the console, ports that come and go.

use super::queue::Chain;
use super::{Context, VirtioDevice};
use crate::pci;
use orrery_system::ports::CharPort;
use orrery_system::time::VmTime;
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Features (5.3.3).
mod feature {
    pub(super) const MULTIPORT: u64 = 1 << 1;
    pub(super) const EMERGENCY_WRITE: u64 = 1 << 2;
}

/// Control messages (5.3.6.2).
mod event {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const CONSOLE_PORT: u16 = 4;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;
/// Offset of the emergency write register.
const EMERGENCY: usize = 8;
/// Entries of each queue.
const ENTRIES: u16 = 128;
/// Control messages that wait for buffers.
const MESSAGES: usize = 256;
/// Most bytes of a message taken at once.
const MOST: u64 = 1 << 16;

/// A port as it is plugged in.
#[derive(Clone)]
pub struct Port {
    /// Its number.
    pub nr: u32,
    /// It is a console.
    pub console: bool,
    /// Name that the guest finds it by; empty: none.
    pub name: String,
    /// The other end.
    pub end: CharPort,
}

/// Settings fixed when the machine is built.
#[derive(Clone)]
pub struct Config {
    /// Most ports, 1 to 31.
    pub max_ports: u32,
    /// Has a register for output in need.
    pub emergency_write: bool,
    /// The ports, by number.
    pub ports: Vec<Port>,
}

/// A port as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct PortState {
    /// A program of the guest has it open.
    open: bool,
    /// There are no buffers for what comes.
    starved: bool,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    features: u64,
    ports: Vec<PortState>,
    messages: VecDeque<Vec<u8>>,
}

/// The device.
pub struct SerialDevice {
    config: Config,
    state: State,
}

/// Puts a `virtio-serial-pci` at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    transport: super::pci::Config,
    config: Config,
) -> DeviceId {
    super::pci::build(board, bus, devfn, transport, |_, _| SerialDevice::new(config))
}

/// The queue with the guest's buffers for port `nr`; the one with its output follows.
fn queue_of(nr: u32) -> usize {
    if nr == 0 { 0 } else { 2 * (nr as usize + 1) }
}

impl SerialDevice {
    /// A device with its ports.
    pub fn new(config: Config) -> Self {
        let ports = config.ports.iter().map(|_| PortState::default()).collect();
        Self { config, state: State { features: 0, ports, messages: VecDeque::new() } }
    }

    fn many(&self) -> bool {
        self.state.features & feature::MULTIPORT != 0
    }

    fn tell(&mut self, nr: u32, what: u16, value: u16, more: &[u8]) {
        if self.state.messages.len() < MESSAGES {
            let mut b = nr.to_le_bytes().to_vec();
            b.extend(what.to_le_bytes());
            b.extend(value.to_le_bytes());
            b.extend(more);
            self.state.messages.push_back(b);
        }
    }

    fn send_messages(&mut self, context: &mut Context<'_>) {
        while !self.state.messages.is_empty() {
            let Some(chain) = context.pop(CONTROL_IN) else { return };
            let Some(message) = self.state.messages.pop_front() else { return };
            match chain.writable.write(context.dma, 0, &message) {
                Ok(n) => context.push(CONTROL_IN, &chain, n as u32),
                Err(_) => return context.fail("no place for a control message"),
            }
        }
    }

    fn control(&mut self, context: &mut Context<'_>) {
        while let Some(chain) = context.pop(CONTROL_OUT) {
            let mut b = [0; 8];
            if chain.readable.read(context.dma, 0, &mut b) != Ok(8) {
                return context.fail("control message too short");
            }
            context.push(CONTROL_OUT, &chain, 0);
            let nr = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let value = u16::from_le_bytes([b[6], b[7]]);
            let index = self.config.ports.iter().position(|p| p.nr == nr);
            match (u16::from_le_bytes([b[4], b[5]]), index) {
                (event::DEVICE_READY, _) if value == 1 => {
                    let all: Vec<u32> = self.config.ports.iter().map(|p| p.nr).collect();
                    all.into_iter().for_each(|nr| self.tell(nr, event::DEVICE_ADD, 1, &[]));
                }
                (event::PORT_READY, Some(i)) if value == 1 => {
                    let Port { console, name, .. } = self.config.ports[i].clone();
                    if console {
                        self.tell(nr, event::CONSOLE_PORT, 1, &[]);
                    }
                    if !name.is_empty() {
                        self.tell(nr, event::PORT_NAME, 1, name.as_bytes());
                    }
                    self.tell(nr, event::PORT_OPEN, 1, &[]);
                }
                (event::PORT_OPEN, Some(i)) => self.state.ports[i].open = value != 0,
                _ => {}
            }
        }
        self.send_messages(context);
    }

    /// What the guest sends through a port.
    fn output(&self, nr: u32, context: &mut Context<'_>) {
        let queue = queue_of(nr) + 1;
        let port = self.config.ports.iter().find(|p| p.nr == nr);
        while let Some(chain) = context.pop(queue) {
            let bytes = bytes_of(&chain, context);
            if let (Some(port), Some(bytes)) = (port, bytes) {
                bytes.into_iter().for_each(|b| port.end.send(b));
            }
            context.push(queue, &chain, 0);
        }
    }

    /// Whether port `i` takes what comes.
    fn listens(&self, i: usize) -> bool {
        let (port, state) = (&self.config.ports[i], &self.state.ports[i]);
        !state.starved && (state.open || port.console) && (self.many() || port.nr == 0)
    }

    fn input(&mut self, context: &mut Context<'_>) {
        for i in 0..self.config.ports.len() {
            let (nr, end) = (self.config.ports[i].nr, self.config.ports[i].end.clone());
            while self.listens(i) && end.has_input() {
                let Some(chain) = context.pop(queue_of(nr)) else {
                    self.state.ports[i].starved = true;
                    break;
                };
                let room = chain.writable.len().min(MOST) as usize;
                let bytes: Vec<u8> = std::iter::from_fn(|| end.receive()).take(room).collect();
                match chain.writable.write(context.dma, 0, &bytes) {
                    Ok(n) => context.push(queue_of(nr), &chain, n as u32),
                    Err(_) => return context.fail("a buffer outside memory"),
                }
            }
        }
    }
}

fn bytes_of(chain: &Chain, context: &Context<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; chain.readable.len().min(MOST) as usize];
    let n = chain.readable.read(context.dma, 0, &mut bytes).ok()?;
    bytes.truncate(n);
    Some(bytes)
}

impl VirtioDevice for SerialDevice {
    type State = State;

    const PCI_NAME: &'static str = "virtio-serial-pci";
    const TYPE: u16 = 3;
    const PCI_CLASS: u32 = 0x07_80_00;

    fn features(&self) -> u64 {
        let many = if self.config.max_ports > 1 { feature::MULTIPORT } else { 0 };
        many | if self.config.emergency_write { feature::EMERGENCY_WRITE } else { 0 }
    }

    fn queues(&self) -> Vec<u16> {
        match self.config.max_ports {
            1 => vec![ENTRIES; 2],
            n => vec![ENTRIES; 2 * (n as usize + 1)],
        }
    }

    fn config(&self) -> Vec<u8> {
        let mut c = vec![0; 12];
        c[4..8].copy_from_slice(&self.config.max_ports.to_le_bytes());
        c
    }

    fn write_config(&mut self, at: usize, value: u8) {
        if at == EMERGENCY && self.config.emergency_write {
            if let Some(console) = self.config.ports.iter().find(|p| p.console) {
                console.end.send(value);
            }
        }
    }

    fn start(&mut self, features: u64) {
        self.state.features = features;
    }

    fn reset(&mut self) {
        let ports = self.config.ports.iter().map(|_| PortState::default()).collect();
        self.state = State { features: 0, ports, messages: VecDeque::new() };
    }

    fn notified(&mut self, n: usize, context: &mut Context<'_>) {
        match n {
            CONTROL_IN if self.many() => self.send_messages(context),
            CONTROL_OUT if self.many() => self.control(context),
            n => {
                let nr = if n < 2 { 0 } else { n as u32 / 2 - 1 };
                if n % 2 == 1 {
                    return self.output(nr, context);
                }
                if let Some(i) = self.config.ports.iter().position(|p| p.nr == nr) {
                    self.state.ports[i].starved = false;
                }
                self.input(context);
            }
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.ports.len() != self.config.ports.len() {
            return Err(RestoreError::Invalid("the ports of another serial device"));
        }
        self.state = state;
        Ok(())
    }

    fn ready(&self) -> bool {
        let mut ports = self.config.ports.iter().enumerate();
        ports.any(|(i, port)| self.listens(i) && port.end.has_input())
    }

    fn deliver(&mut self, _: VmTime, context: &mut Context<'_>) {
        self.input(context);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::super::pci::standing_alone;
    use super::*;
    use crate::pci::CONFIG_BANK;
    use crate::virtio::pci::{LEGACY_BANK, MODERN_BANK};

    fn device() -> (SerialDevice, [CharPort; 2]) {
        let ends = [CharPort::default(), CharPort::default()];
        let port = |nr: u32, console, name: &str| Port {
            nr,
            console,
            name: name.into(),
            end: ends[nr as usize].clone(),
        };
        let ports = vec![port(0, true, ""), port(1, false, "org.agent")];
        (SerialDevice::new(Config { max_ports: 31, emergency_write: true, ports }), ends)
    }

    /// The control messages that wait.
    fn messages(dev: &mut SerialDevice) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some((b, n)) = Bench::new().request(dev, CONTROL_IN, &[], 64) {
            all.push(b[..n as usize].to_vec());
        }
        all
    }

    #[test]
    fn ports_are_announced_named_and_opened() {
        let (mut dev, _) = device();
        dev.start(feature::MULTIPORT);
        let say = |dev: &mut SerialDevice, b: [u8; 8]| {
            Bench::new().request(dev, CONTROL_OUT, &b, 0).unwrap();
            messages(dev)
        };
        let ports = say(&mut dev, [0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(ports, [[0, 0, 0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0, 1, 0]]);
        let console = say(&mut dev, [0, 0, 0, 0, 3, 0, 1, 0]);
        assert_eq!(console, [[0, 0, 0, 0, 4, 0, 1, 0], [0, 0, 0, 0, 6, 0, 1, 0]]);
        let agent = say(&mut dev, [1, 0, 0, 0, 3, 0, 1, 0]);
        assert_eq!(&agent[0][8..], b"org.agent");
        assert!(say(&mut dev, [9, 0, 0, 0, 3, 0, 1, 0]).is_empty(), "no such port");
    }

    #[test]
    fn bytes_go_out_and_come_in_where_somebody_listens() {
        let (mut dev, [console, agent]) = device();
        dev.start(feature::MULTIPORT);
        Bench::new().request(&mut dev, 1, b"hello", 0).unwrap();
        Bench::new().request(&mut dev, 5, b"agent", 0).unwrap();
        assert_eq!((console.drain(), agent.drain()), (b"hello".to_vec(), b"agent".to_vec()));
        agent.push(*b"early");
        assert!(!dev.ready(), "nobody has it open");
        console.push(*b"typed");
        let (bytes, n) = Bench::new().request(&mut dev, 0, &[], 3).unwrap();
        assert_eq!((bytes.as_slice(), n), (b"typ".as_slice(), 3));
        assert!(!dev.ready(), "no buffers");
        Bench::new().request(&mut dev, CONTROL_OUT, &[1, 0, 0, 0, 6, 0, 1, 0], 0).unwrap();
        let (bytes, n) = Bench::new().request(&mut dev, 4, &[], 16).unwrap();
        assert_eq!((&bytes[..5], n), (b"early".as_slice(), 5));
        dev.write_config(EMERGENCY, b'!');
        assert_eq!(console.drain(), b"!");
    }

    orrery_system::conformance!(
        {
            let board = Board::with_ram(0x1_0000);
            let bus = pci::Bus::simple(&board);
            standing_alone(&board, &bus, device().0)
        },
        [(LEGACY_BANK, &[]), (MODERN_BANK, &[]), (CONFIG_BANK, &[])]
    );
}
