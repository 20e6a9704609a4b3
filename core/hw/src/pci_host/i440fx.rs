//! Intel 82441FX (440FX) PCI and memory controller: the host bridge of `pc`.
//!
//! Reference: Intel 290549-001. The configuration mechanism's ports are here too.
//!
//! Not modelled: DRAM geometry and timing registers beyond storage, the error and trusted
//! (multi-transaction) logic, SMRAM closed to data alone.

use super::mechanism::{Mechanism, MechanismWires};
use super::pam::{LowMap, write_smram};
use crate::pci;
use orrery_system::{Board, BusError, BusResult, DeviceId, IrqInput, Region, RestoreError};

/// Bank of ports CF8–CFF.
pub const PORTS: u32 = 0;

/// First of seven attribute registers.
pub(crate) const PAM0: usize = 0x59;
/// SMRAM control.
const SMRAM: usize = 0x72;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x8086,
    device: 0x1237,
    revision: 0x02,
    class: 0x06_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

/// What the machine wires up.
pub struct Wires {
    /// The root bus, which is bus 0.
    pub bus: pci::Bus,
    /// Where port CF9 goes: a bank of the ISA bridge.
    pub reset_control: Option<(DeviceId, u32)>,
    /// High while a CPU is in system management mode.
    pub smiact: IrqInput,
    low: LowMap,
}

/// The device.
pub struct I440fx {
    wires: Wires,
    mechanism: Mechanism,
}

/// Puts the bridge at 00:00.0 of the root bus, its ports and PCI's windows into the board's maps.
/// `pci` is the memory space of the bus.
pub fn build(
    board: &mut Board,
    bus: &pci::Bus,
    pci: &Region,
    reset_control: Option<(DeviceId, u32)>,
) -> DeviceId {
    let id = board.reserve("i440FX");
    let function = pci::Builder::new(board, bus, id, IDENTITY)
        .status(0x0280)
        // The bridge always answers memory and masters the bus.
        .fixed_command(0x0006)
        .register(0x50, 2, 0x0000, 0xffff)
        .register(0x57, 1, 0x01, 0xff)
        .register(0x58, 1, 0x00, 0xff)
        .register(PAM0, 4, 0, 0x3333_3330)
        .register(PAM0 + 4, 3, 0, 0x33_3333)
        .register(0x60, 4, 0x0101_0101, u32::MAX)
        .register(0x64, 4, 0x0101_0101, u32::MAX)
        .register(0x68, 1, 0x00, 0xff)
        .register(SMRAM, 1, 0x02, 0xff)
        .register(0x93, 1, 0x00, 0xff)
        .build(pci::devfn(0, 0));
    board.io().add(0xcf8, &board.regions().device("pci-conf", 8, id, PORTS));
    let wires = Wires {
        bus: bus.clone(),
        reset_control,
        smiact: board.smiact(),
        low: LowMap::new(board, pci, id),
    };
    board.attach(id, Box::new(pci::Card::new(function, I440fx::new(wires))));
    id
}

impl I440fx {
    fn new(wires: Wires) -> Self {
        Self { wires, mechanism: Mechanism::default() }
    }
}

impl pci::Chip for I440fx {
    type State = Mechanism;
    const NAME: &'static str = "i440FX";
    const SETTLES: bool = true;

    fn reset(&mut self) {
        self.mechanism = Mechanism::default();
    }

    fn save(&self) -> Mechanism {
        self.mechanism
    }

    fn restore(&mut self, state: Mechanism) -> Result<(), RestoreError> {
        self.mechanism = state;
        Ok(())
    }

    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let smram = slot.config.u8(SMRAM);
        // D_OPEN, or the CPU is in SMM; both need G_SMRAME.
        let open = smram & 8 != 0 && (smram & 0x40 != 0 || self.wires.smiact.level());
        self.wires.low.drive(std::array::from_fn(|i| slot.config.u8(PAM0 + i)), open);
        false
    }

    fn settle(&mut self, slot: &mut pci::Slot<'_>) {
        self.drive(slot);
    }

    fn configured(&mut self, before: &pci::ConfigState, slot: &mut pci::Slot<'_>) {
        let (smram, written) = (before.u8(SMRAM), slot.config.u8(SMRAM));
        if written != smram {
            slot.config.set_u8(SMRAM, write_smram(smram, written));
        }
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let Wires { bus, reset_control, .. } = &self.wires;
        match bank {
            PORTS => {
                let wires = MechanismWires { bus, reset_control: *reset_control };
                self.mechanism.read(&wires, offset, width)
            }
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
        let Wires { bus, reset_control, .. } = &self.wires;
        match bank {
            PORTS => {
                let wires = MechanismWires { bus, reset_control: *reset_control };
                self.mechanism.write(&wires, offset, width, value)
            }
            _ => Err(BusError::NoRegister),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    fn board() -> (Board, DeviceId) {
        let mut b = Board::new(BoardConfig { ram_capacity: 3 << 20, ..BoardConfig::default() });
        let ram = b.ram().alloc("ram", 1 << 20).unwrap();
        let rom = b.ram().alloc("bios", 0x1_0000).unwrap();
        b.memory().add(0, &b.regions().ram("ram", ram));
        b.ram().write_u32(rom.offset, 0x5105_b105);
        let pci = b.regions().container("pci", u64::MAX);
        pci.add(0xf_0000, &b.regions().rom("bios", rom));
        b.memory().add_priority(0, -1, &pci);
        let bus = pci::Bus::new(&pci, b.io(), Vec::new(), |_, _| 0);
        let id = build(&mut b, &bus, &pci, None);
        b.settle();
        (b, id)
    }

    fn config_write(b: &mut Board, at: u32, width: u8, value: u32) {
        b.port_out(0xcf8, 4, 0x8000_0000 | at & !3);
        b.port_out(0xcfc + (at & 3) as u16, width, value);
    }

    #[test]
    fn configuration_cycles_reach_the_bridge_and_nothing_else() {
        let (mut b, _) = board();
        b.port_out(0xcf8, 4, 0x8000_0000);
        assert_eq!(b.port_in(0xcf8, 4), 0x8000_0000);
        assert_eq!(b.port_in(0xcfc, 4), 0x1237_8086);
        assert_eq!(b.port_in(0xcfe, 2), 0x1237);
        b.port_out(0xcf8, 4, 0x8000_0800);
        assert_eq!(b.port_in(0xcfc, 4), 0xffff_ffff);
        b.port_out(0xcf8, 4, 0);
        assert_eq!(b.port_in(0xcfc, 4), 0xffff_ffff, "not enabled");
    }

    #[test]
    fn the_bios_is_copied_into_the_ram_below_it_and_then_runs_there() {
        let (mut b, _) = board();
        assert_eq!(b.read(0xf_0000, 4), 0x5105_b105);
        config_write(&mut b, 0x59, 1, 0x20);
        let v = b.read(0xf_0000, 4);
        b.write(0xf_0000, 4, v + 1);
        assert_eq!(b.read(0xf_0000, 4), 0x5105_b105, "reads still come from ROM");
        config_write(&mut b, 0x59, 1, 0x30);
        assert_eq!(b.read(0xf_0000, 4), 0x5105_b106);
        config_write(&mut b, 0x59, 1, 0x10);
        b.write(0xf_0000, 4, 0);
        assert_eq!(b.read(0xf_0000, 4), 0x5105_b106, "write protected");
    }

    #[test]
    fn smram_is_open_while_told_to_or_while_the_cpu_is_in_smm() {
        let (mut b, _) = board();
        assert_eq!(b.read(0xa_0000, 1), 0xff);
        config_write(&mut b, 0x72, 1, 0x4a);
        b.write(0xa_0000, 1, 0x5a);
        assert_eq!(b.read(0xa_0000, 1), 0x5a);
        config_write(&mut b, 0x72, 1, 0x1a);
        assert_eq!(b.read(0xa_0000, 1), 0xff);
        config_write(&mut b, 0x72, 1, 0x4a);
        assert_eq!(b.read(0xa_0000, 1), 0xff, "locked");
        let smiact = b.pins(0).smiact.clone();
        smiact.set(true);
        b.settle();
        assert_eq!(b.read(0xa_0000, 1), 0x5a);
        smiact.set(false);
        b.settle();
        assert_eq!(b.read(0xa_0000, 1), 0xff);
    }

    fn device() -> pci::Card<I440fx> {
        let mut b = Board::new(BoardConfig { ram_capacity: 0x1000, ..BoardConfig::default() });
        let id = b.reserve("i440FX");
        let bus = pci::Bus::simple(&b);
        let pci = pci::Builder::new(&b, &bus, id, IDENTITY)
            .register(PAM0, 4, 0, 0x3333_3330)
            .register(PAM0 + 4, 3, 0, 0x33_3333)
            .register(SMRAM, 1, 0x02, 0xff)
            .build(0);
        let low = LowMap::new(&b, b.memory(), id);
        let wires = Wires { bus, reset_control: None, smiact: b.smiact(), low };
        pci::Card::new(pci, I440fx::new(wires))
    }

    orrery_system::conformance!(device(), [(PORTS, &[]), (pci::CONFIG_BANK, &[])]);
}
