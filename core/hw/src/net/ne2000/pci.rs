//! The card on PCI: Realtek 8029.

use super::core::{Config, Ne2000, PORTS, State};
use crate::pci;
use orrery_system::ports::NetPort;
use orrery_system::{Board, BusError, BusResult, DeviceId, RestoreError, VmTime};

/// Bank of the ports.
pub(super) const IO: u32 = 0;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x10ec,
    device: 0x8029,
    revision: 0,
    class: 0x02_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Puts a card at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    config: Config,
    cable: NetPort,
) -> DeviceId {
    let id = board.reserve("ne2k_pci");
    let pci = function(board, bus, devfn, id);
    board.attach(id, Box::new(pci::Card::new(pci, Ne2000::new(&config, cable))));
    id
}

pub(super) fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    // 32 ports of the card in a window of 256.
    pci::Builder::new(board, bus, id, IDENTITY).io_bar(0, IO, 256).build(devfn)
}

impl pci::Chip for Ne2000 {
    type State = State;
    const NAME: &'static str = "ne2k_pci";
    const HOST_IO: bool = true;

    fn reset(&mut self) {
        Self::reset(self);
    }

    fn save(&self) -> State {
        self.state().clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.set_state(state)
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        self.interrupts()
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (bank, offset) {
            (IO, 0..PORTS) => Self::read(self, offset, width),
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
        match (bank, offset) {
            (IO, 0..PORTS) => Self::write(self, offset, width, value),
            _ => Err(BusError::NoRegister),
        }
    }

    fn ready(&self) -> bool {
        Self::ready(self)
    }

    fn deliver(&mut self, _: &mut pci::Slot<'_>, _now: VmTime) {
        Self::deliver(self);
    }
}
