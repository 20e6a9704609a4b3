//! Intel 82371SB (PIIX3) PCI-to-ISA bridge: interrupt routing and reset control.
//!
//! Reference: Intel 290550-002. The PIIX3's 8259s, 8254, 8237s and APM ports are devices of their
//! own; edge/level control lives in the 8259s.
//!
//! Not modelled: motherboard DMA and interrupt routing (no device uses them), SMI generation
//! (the power management function does that on this board).

use crate::pci;
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{Board, BusError, BusResult, DeviceId, IrqInput, IrqLine, RestoreError};

/// Bank of port CF9.
pub const RESET_CONTROL: u32 = 0;

/// First of the four interrupt route registers.
const PIRQRC: usize = 0x60;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x7000,
    revision: 0x00,
    class: 0x06_01_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

/// Pins and services the machine wires up.
pub struct Wires {
    /// PIRQA# to PIRQD#.
    pub pirq: Vec<IrqInput>,
    /// The sixteen ISA interrupts.
    pub isa: Vec<IrqLine>,
    /// Where a reset goes.
    pub power: Power,
}

/// The device.
pub struct Piix3 {
    wires: Wires,
    reset_control: u8,
}

/// Puts the bridge at `devfn`. It routes the bus' four wires to `isa`. The host bridge takes port
/// CF9 to bank [`RESET_CONTROL`] of it; `id` was reserved for that.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, id: DeviceId, isa: Vec<IrqLine>) {
    let pirq = bus.wires().iter().take(4).cloned().collect();
    let pci = function(board, bus, devfn, id);
    let wires = Wires { pirq, isa, power: board.power() };
    board.attach(id, Box::new(pci::Card::new(pci, Piix3 { wires, reset_control: 0 })));
}

fn function(board: &Board, bus: &pci::Bus, devfn: u8, id: DeviceId) -> pci::Function {
    pci::Builder::new(board, bus, id, IDENTITY)
        .status(0x0200)
        .fixed_command(0x0007)
        .multifunction()
        .register(0x4c, 1, 0x4d, 0xff)
        .register(0x4e, 2, 0x0003, 0x03ff)
        .register(PIRQRC, 4, 0x8080_8080, 0x8f8f_8f8f)
        .register(0x69, 1, 0x02, 0xfe)
        .register(0x70, 1, 0x80, 0xff)
        .register(0x76, 2, 0x0c0c, 0x8f8f)
        .register(0x78, 2, 0x0002, 0xffff)
        .register(0x82, 1, 0x00, 0x0f)
        .register(0xa0, 1, 0x08, 0x1f)
        .register(0xa2, 2, 0, 0x01ff)
        .register(0xa4, 4, 0, u32::MAX)
        .register(0xa8, 1, 0x0f, 0xff)
        .register(0xac, 1, 0, 0xff)
        .register(0xae, 1, 0, 0xff)
        .build(devfn)
}

/// The ISA interrupt that a route register selects, if it is one that may be shared.
pub(super) fn route(register: u8) -> Option<usize> {
    let irq = register & 0x0f;
    let possible = !matches!(irq, 0..=2 | 8 | 13);
    (register & 0x80 == 0 && possible).then_some(irq.into())
}

/// What writing `value` to port CF9 makes of `old`; resets on a rising bit 2.
pub(super) fn write_reset_control(old: u8, value: u8, power: &Power) -> u8 {
    if value & 4 != 0 && old & 4 == 0 {
        power.request(PowerRequest::Reset);
    }
    value & 0x02
}

impl pci::Chip for Piix3 {
    type State = u8;
    const NAME: &'static str = "PIIX3";
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.reset_control = 0;
    }

    fn save(&self) -> u8 {
        self.reset_control
    }

    fn restore(&mut self, state: u8) -> Result<(), RestoreError> {
        self.reset_control = state;
        Ok(())
    }

    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let mut high = [false; 16];
        for (i, wire) in self.wires.pirq.iter().enumerate() {
            if let Some(irq) = route(slot.config.u8(PIRQRC + i)) {
                high[irq] |= wire.level();
            }
        }
        for (line, level) in self.wires.isa.iter().zip(high) {
            line.set(level);
        }
        false
    }

    fn settle(&mut self, slot: &mut pci::Slot<'_>) {
        self.drive(slot);
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (bank, offset, width) {
            (RESET_CONTROL, 0, 1) => Ok(self.reset_control.into()),
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
        if (bank, offset, width) != (RESET_CONTROL, 0, 1) {
            return Err(BusError::NoRegister);
        }
        let old = self.reset_control;
        self.reset_control = write_reset_control(old, value as u8, &self.wires.power);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    fn bench() -> (Board, DeviceId, pci::Bus, Vec<IrqInput>) {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let isa: Vec<IrqInput> = (0..16).map(|_| board.wire()).collect();
        let id = board.reserve("PIIX3");
        let pins = isa.iter().map(IrqInput::pin).collect();
        build(&mut board, &bus, pci::devfn(1, 0), id, pins);
        board.settle();
        (board, id, bus, isa)
    }

    #[test]
    fn a_pci_interrupt_arrives_where_its_route_register_says() {
        let (mut b, id, bus, isa) = bench();
        let pin = bus.pin(pci::devfn(2, 0), 1);
        pin.set(true);
        b.settle();
        assert!(isa.iter().all(|w| !w.level()), "routes start disabled");
        b.device_write(id, pci::CONFIG_BANK, 0x62, 1, 0x0b);
        assert!(isa[11].level());
        b.device_write(id, pci::CONFIG_BANK, 0x62, 1, 0x0a);
        assert!(isa[10].level() && !isa[11].level());
        pin.set(false);
        b.settle();
        assert!(!isa[10].level());
    }

    #[test]
    fn two_routes_to_one_interrupt_share_it() {
        let (mut b, id, bus, isa) = bench();
        b.device_write(id, pci::CONFIG_BANK, 0x60, 4, 0x0b0b_0b0b);
        let (x, y) = (bus.pin(pci::devfn(1, 0), 1), bus.pin(pci::devfn(2, 0), 1));
        x.set(true);
        y.set(true);
        b.settle();
        x.set(false);
        b.settle();
        assert!(isa[11].level());
        y.set(false);
        b.settle();
        assert!(!isa[11].level());
    }

    #[test]
    fn reset_control_resets_on_its_rising_bit() {
        let (mut b, id, ..) = bench();
        b.device_write(id, RESET_CONTROL, 0, 1, 2);
        assert_eq!(b.power().take(), None);
        b.device_write(id, RESET_CONTROL, 0, 1, 6);
        assert_eq!(b.power().take(), Some(PowerRequest::Reset));
        assert_eq!(b.device_read(id, RESET_CONTROL, 0, 1), 2);
    }

    fn device() -> pci::Card<Piix3> {
        let mut board = Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() });
        let bus = pci::Bus::simple(&board);
        let id = board.reserve("PIIX3");
        let pci = function(&board, &bus, 0, id);
        let isa = (0..16).map(|_| IrqLine::open()).collect();
        let wires = Wires { pirq: bus.wires().to_vec(), isa, power: Power::default() };
        pci::Card::new(pci, Piix3 { wires, reset_control: 0 })
    }

    orrery_system::conformance!(device(), [(RESET_CONTROL, &[]), (pci::CONFIG_BANK, &[])]);
}
