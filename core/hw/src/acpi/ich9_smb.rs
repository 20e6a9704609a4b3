//! Intel 82801I (ICH9) SMBus controller.
//!
//! Reference: Intel 316972-004, chapter 20. Slave mode and alerts are not modelled.

use super::smbus::{Eeprom, Smbus};
use crate::pci;
use orrery_system::device::Device;
use orrery_system::{
    Board, BusError, BusResult, DeviceId, Region, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};

/// Bank of the I/O window (32 ports).
pub const SMB: u32 = 0;

/// Host configuration: bit 0 switches the controller on.
const HOSTC: usize = 0x40;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x2930,
    revision: 0x02,
    class: 0x0c_05_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Settings fixed when the machine is built.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Serial presence detect of each memory module.
    pub spd: Vec<Vec<u8>>,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// Configuration space.
    pub pci: pci::Function,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pci: pci::ConfigState,
    smbus: Smbus,
}

impl orrery_system::State for State {
    const KIND: &'static str = "ICH9-SMB";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Ich9Smb {
    config: Config,
    wires: Wires,
    state: State,
}

/// Puts the function at `devfn`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, config: Config) -> DeviceId {
    let id = board.reserve("ICH9-SMB");
    let wires = Wires { pci: function(board, bus, devfn, id) };
    board.attach(id, Box::new(Ich9Smb::new(config, wires)));
    id
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    let window: Region = board.regions().device("ich9-smb", 32, id, SMB);
    pci::Builder::new(board, bus, id, IDENTITY)
        .status(0x0280)
        .register(HOSTC, 1, 0, 0x1f)
        .bar(4, pci::BarKind::Io, &window)
        .build(devfn)
}

impl State {
    fn power_on(config: &Config, pci: &pci::Function) -> Self {
        let module = |(i, spd): (usize, &Vec<u8>)| Eeprom::new(0x50 + i as u8, spd.clone());
        let eeproms = config.spd.iter().enumerate().map(module).collect();
        Self { pci: pci.power_on(), smbus: Smbus::power_on(eeproms) }
    }

    fn is_on(&self) -> bool {
        self.pci.u8(HOSTC) & 1 != 0
    }
}

impl Ich9Smb {
    /// Builds the device in its power-on state.
    fn new(config: Config, wires: Wires) -> Self {
        let mut dev = Self { state: State::power_on(&config, &wires.pci), config, wires };
        dev.drive();
        dev
    }

    fn drive(&mut self) {
        let level = self.state.smbus.interrupt();
        self.wires.pci.drive(&mut self.state.pci, level);
    }
}

impl Device for Ich9Smb {
    fn name(&self) -> &'static str {
        "ICH9-SMB"
    }

    fn reset(&mut self) {
        self.state = State::power_on(&self.config, &self.wires.pci);
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        self.wires.pci.check(&state.pci)?;
        if !state.smbus.is_valid() {
            return Err(RestoreError::Invalid("SMBus controller"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for Ich9Smb {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if let Some(result) = self.wires.pci.read(&self.state.pci, bank, offset, width) {
            return result;
        }
        if bank != SMB || !self.state.is_on() {
            return Err(BusError::NoRegister);
        }
        self.state.smbus.read(offset, width)
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let result = match self.wires.pci.write(&mut self.state.pci, bank, offset, width, value) {
            Some(result) => result,
            None if bank == SMB && self.state.is_on() => {
                self.state.smbus.write(offset, width, value)
            }
            None => Err(BusError::NoRegister),
        };
        self.drive();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    fn bench() -> (Board, DeviceId) {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let config = Config { spd: vec![vec![0x80, 8, 7]] };
        let id = build(&mut board, &bus, pci::devfn(31, 3), config);
        board.settle();
        (board, id)
    }

    #[test]
    fn it_answers_once_switched_on_and_reads_a_memory_module() {
        let (mut b, id) = bench();
        b.device_write(id, pci::CONFIG_BANK, 0x20, 4, 0x0701);
        b.device_write(id, pci::CONFIG_BANK, 0x04, 2, 1);
        assert_eq!(b.port_in(0x700, 1), 0xff);
        b.device_write(id, pci::CONFIG_BANK, 0x40, 1, 1);
        b.port_out(0x704, 1, 0xa1);
        b.port_out(0x703, 1, 2);
        b.port_out(0x702, 1, 0x48);
        assert_eq!((b.port_in(0x700, 1), b.port_in(0x705, 1)), (2, 7));
    }

    fn device() -> Ich9Smb {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let id = board.reserve("ICH9-SMB");
        let wires = Wires { pci: function(&board, &bus, 0, id) };
        Ich9Smb::new(Config { spd: vec![vec![1]] }, wires)
    }

    orrery_system::conformance!(device(), [(SMB, &[]), (pci::CONFIG_BANK, &[])]);
}
