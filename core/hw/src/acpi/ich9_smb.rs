//! Intel 82801I (ICH9) SMBus controller.
//!
//! Reference: Intel 316972-004, chapter 20. Slave mode and alerts are not modelled.

use super::smbus::{Eeprom, Smbus};
use crate::pci;
use orrery_system::{Board, BusError, BusResult, DeviceId, Region, RestoreError};

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

/// The device.
pub struct Ich9Smb {
    config: Config,
    smbus: Smbus,
}

/// Puts the function at `devfn`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, config: Config) -> DeviceId {
    let id = board.reserve("ICH9-SMB");
    let pci = function(board, bus, devfn, id);
    board.attach(id, Box::new(pci::Card::new(pci, Ich9Smb::new(config))));
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

impl Ich9Smb {
    fn new(config: Config) -> Self {
        Self { smbus: Self::power_on(&config), config }
    }

    fn power_on(config: &Config) -> Smbus {
        let module = |(i, spd): (usize, &Vec<u8>)| Eeprom::new(0x50 + i as u8, spd.clone());
        Smbus::power_on(config.spd.iter().enumerate().map(module).collect())
    }
}

fn is_on(slot: &pci::Slot<'_>) -> bool {
    slot.config.u8(HOSTC) & 1 != 0
}

impl pci::Chip for Ich9Smb {
    type State = Smbus;
    const NAME: &'static str = "ICH9-SMB";

    fn reset(&mut self) {
        self.smbus = Self::power_on(&self.config);
    }

    fn save(&self) -> Smbus {
        self.smbus.clone()
    }

    fn restore(&mut self, state: Smbus) -> Result<(), RestoreError> {
        if !state.is_valid() {
            return Err(RestoreError::Invalid("SMBus controller"));
        }
        self.smbus = state;
        Ok(())
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        self.smbus.interrupt()
    }

    fn read(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
    ) -> BusResult<u64> {
        match bank {
            SMB if is_on(slot) => self.smbus.read(offset, width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        match bank {
            SMB if is_on(slot) => self.smbus.write(offset, width, value),
            _ => Err(BusError::NoRegister),
        }
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

    fn device() -> pci::Card<Ich9Smb> {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let id = board.reserve("ICH9-SMB");
        let pci = function(&board, &bus, 0, id);
        pci::Card::new(pci, Ich9Smb::new(Config { spd: vec![vec![1]] }))
    }

    orrery_system::conformance!(device(), [(SMB, &[]), (pci::CONFIG_BANK, &[])]);
}
