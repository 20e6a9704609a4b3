//! Intel 82441FX (440FX) PCI and memory controller: the host bridge of `pc`.
//!
//! Reference: Intel 290549-001. The configuration mechanism's ports are here too.
//!
//! Not modelled: DRAM geometry and timing registers beyond storage, the error and trusted
//! (multi-transaction) logic, SMRAM closed to data alone.

use super::mechanism::{Mechanism, MechanismWires};
use super::pam::{LowMap, write_smram};
use crate::pci;
use orrery_system::device::{Device, Settle};
use orrery_system::{
    Board, BusError, BusResult, DeviceId, IrqInput, Region, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};

/// Bank of ports CF8–CFF.
pub const PORTS: u32 = 0;

/// First attribute register.
const PAM0: usize = 0x59;
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
    /// The bridge's own configuration space.
    pub pci: pci::Function,
    /// The root bus, which is bus 0.
    pub bus: pci::Bus,
    /// Where port CF9 goes: a bank of the ISA bridge.
    pub reset_control: Option<(DeviceId, u32)>,
    /// High while a CPU is in system management mode.
    pub smiact: IrqInput,
    low: LowMap,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pci: pci::ConfigState,
    mechanism: Mechanism,
}

impl orrery_system::State for State {
    const KIND: &'static str = "i440FX";
    const VERSION: u16 = 1;
}

/// The device.
pub struct I440fx {
    wires: Wires,
    state: State,
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
        pci: function,
        bus: bus.clone(),
        reset_control,
        smiact: board.smiact(),
        low: LowMap::new(board, pci, id),
    };
    board.attach(id, Box::new(I440fx::new(wires)));
    id
}

impl State {
    fn power_on(pci: &pci::Function) -> Self {
        Self { pci: pci.power_on(), mechanism: Mechanism::default() }
    }
}

impl I440fx {
    /// Builds the device in its power-on state.
    fn new(wires: Wires) -> Self {
        let mut dev = Self { state: State::power_on(&wires.pci), wires };
        dev.drive();
        dev
    }

    fn drive(&mut self) {
        self.wires.pci.drive(&mut self.state.pci, false);
        let s = &self.state.pci;
        let smram = s.u8(SMRAM);
        // D_OPEN, or the CPU is in SMM; both need G_SMRAME.
        let open = smram & 8 != 0 && (smram & 0x40 != 0 || self.wires.smiact.level());
        self.wires.low.drive(std::array::from_fn(|i| s.u8(PAM0 + i)), open);
    }

    fn mechanism(wires: &Wires) -> MechanismWires<'_> {
        MechanismWires { bus: &wires.bus, reset_control: wires.reset_control }
    }
}

impl Device for I440fx {
    fn name(&self) -> &'static str {
        "i440FX"
    }

    fn reset(&mut self) {
        self.state = State::power_on(&self.wires.pci);
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        self.wires.pci.check(&state.pci)?;
        self.state = state;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }
}

impl Settle for I440fx {
    fn settle(&mut self) {
        self.drive();
    }
}

impl Registers for I440fx {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if bank == PORTS {
            return self.state.mechanism.read(&Self::mechanism(&self.wires), offset, width);
        }
        self.wires
            .pci
            .read(&self.state.pci, bank, offset, width)
            .unwrap_or(Err(BusError::NoRegister))
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if bank == PORTS {
            return self.state.mechanism.write(&Self::mechanism(&self.wires), offset, width, value);
        }
        let smram = self.state.pci.u8(SMRAM);
        let Some(result) = self.wires.pci.write(&mut self.state.pci, bank, offset, width, value)
        else {
            return Err(BusError::NoRegister);
        };
        let written = self.state.pci.u8(SMRAM);
        if written != smram {
            self.state.pci.set_u8(SMRAM, write_smram(smram, written));
        }
        self.drive();
        result
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

    fn device() -> I440fx {
        let mut b = Board::new(BoardConfig { ram_capacity: 0x1000, ..BoardConfig::default() });
        let id = b.reserve("i440FX");
        let bus = pci::Bus::simple(&b);
        let pci = pci::Builder::new(&b, &bus, id, IDENTITY)
            .register(PAM0, 4, 0, 0x3333_3330)
            .register(PAM0 + 4, 3, 0, 0x33_3333)
            .register(SMRAM, 1, 0x02, 0xff)
            .build(0);
        let low = LowMap::new(&b, b.memory(), id);
        I440fx::new(Wires { pci, bus, reset_control: None, smiact: b.smiact(), low })
    }

    orrery_system::conformance!(device(), [(PORTS, &[]), (pci::CONFIG_BANK, &[])]);
}
