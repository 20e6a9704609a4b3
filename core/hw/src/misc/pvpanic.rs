//! Panic notifier (`pvpanic`): a port at which a guest says that it crashed.
//!
//! Reference: the pvpanic device specification in QEMU's documentation (interface, not code):
//! the port reads the events it knows, and takes them. On PCI (`pvpanic-pci`) it is the first byte
//! of the memory behind base address 0.

use super::port::Stateless;
use crate::pci;
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{Board, DeviceId, RestoreError};

orrery_system::reg_map! {
    /// The port, 505h on ISA.
    pub enum Reg {
        /// Events: read, those it knows; written, what happened.
        0 Events: 1 Rw,
    }
}

/// The guest panicked and stays so.
const PANICKED: u8 = 1;
/// The guest panicked and its crash kernel goes on.
const CRASH_LOADED: u8 = 2;
/// The guest shut down in good order.
const SHUTDOWN: u8 = 4;

/// The device.
pub struct PvPanic {
    power: Power,
}

impl PvPanic {
    /// Builds the device.
    pub fn new(power: Power) -> Self {
        Self { power }
    }
}

impl Stateless for PvPanic {
    const NAME: &'static str = "pvpanic";
}

impl Registers for PvPanic {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        Reg::decode(offset, width)?;
        Ok((PANICKED | CRASH_LOADED | SHUTDOWN).into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        Reg::decode(offset, width)?;
        let event = value as u8;
        if event & PANICKED != 0 {
            self.power.request(PowerRequest::Panicked);
        } else if event & SHUTDOWN != 0 {
            self.power.request(PowerRequest::GuestShutdown);
        }
        Ok(())
    }
}

/// Bank of the register on PCI.
const REGISTERS: u32 = 0;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x1b36,
    device: 0x0011,
    revision: 1,
    class: 0x08_80_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

/// The register on a card.
pub struct PvPanicPci(PvPanic);

/// Puts the device at `devfn` of a PCI bus.
pub fn build_pci(board: &mut Board, bus: &pci::Bus, devfn: u8) -> DeviceId {
    let id = board.reserve("pvpanic-pci");
    let function =
        pci::Builder::new(board, bus, id, IDENTITY).memory_bar(0, REGISTERS, 16).build(devfn);
    let chip = PvPanicPci(PvPanic::new(board.power()));
    board.attach(id, Box::new(pci::Card::new(function, chip)));
    id
}

impl pci::Chip for PvPanicPci {
    type State = ();

    const NAME: &'static str = "pvpanic-pci";

    fn reset(&mut self) {}

    fn save(&self) {}

    fn restore(&mut self, (): ()) -> Result<(), RestoreError> {
        Ok(())
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        false
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match bank {
            REGISTERS => self.0.read(0, offset, width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(
        &mut self,
        _: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        match bank {
            REGISTERS => self.0.write(0, offset, width, value),
            _ => Err(BusError::NoRegister),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_pci_it_is_a_byte_of_memory() {
        let mut board = Board::with_ram(0x1000);
        let bus = pci::Bus::simple(&board);
        let id = build_pci(&mut board, &bus, 8);
        board.device_write(id, pci::CONFIG_BANK, 0x10, 4, 0xfe00_0000);
        board.device_write(id, pci::CONFIG_BANK, 4, 2, 2);
        board.settle();
        assert_eq!(board.read(0xfe00_0000, 1), 7);
        board.write(0xfe00_0000, 1, 1);
        assert_eq!(board.power().take(), Some(PowerRequest::Panicked));
    }

    #[test]
    fn it_names_its_events_and_passes_them_on() {
        let power = Power::default();
        let mut dev = PvPanic::new(power.clone());
        assert_eq!(dev.read(0, 0, 1), Ok(7));
        for (event, request) in [
            (PANICKED, Some(PowerRequest::Panicked)),
            (CRASH_LOADED, None),
            (SHUTDOWN, Some(PowerRequest::GuestShutdown)),
            (0x80, None),
        ] {
            dev.write(0, 0, 1, event.into()).unwrap();
            assert_eq!(power.take(), request);
        }
    }

    orrery_system::conformance!(
        super::super::port::Ports(PvPanic::new(Power::default())),
        Reg::TABLE
    );
}
