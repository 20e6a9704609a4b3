//! `isapc`: a PC/AT with an ISA bus and nothing else.

use super::chassis::Chassis;
use super::drives::DriveBus;
use crate::ide::isa;
use crate::machine::{BuildError, Built, MachineConfig};
use crate::nvram::fw_cfg::{self, NothingMade};
use orrery_system::IrqInput;

/// Ports of the two IDE channels.
const CHANNELS: [(u16, u16, usize); 2] = [(0x1f0, 0x3f6, 14), (0x170, 0x376, 15)];

/// Wires the board.
pub(super) fn build(config: &MachineConfig) -> Result<Built, BuildError> {
    let mut c = Chassis::new(config, 0xe000_0000, 0xc000_0000)?;
    let map = c.board.memory().clone();
    c.firmware(&map, true)?;
    let intr = c.board.pins(0).intr.pin();
    c.floppies()?;
    let path = "/isa/ide@01f0".into();
    let cables = DriveBus { name: "ide", usual: true, cables: 2, units: 2, path };
    let mut plugs = c.disks(&cables)?;
    for (base, control, irq) in CHANNELS {
        let drives = [plugs.remove(0), plugs.remove(0)];
        let config = isa::Config { iobase: base, iobase2: control, drives };
        let line = c.irq(irq);
        isa::build(&mut c.board, config, line);
    }
    c.at_controllers([IrqInput::detached(), IrqInput::detached()], intr);
    c.keyboard();
    c.serial_and_parallel()?;
    c.isa_display()?;
    c.network(None, "ne2k_isa")?;
    c.devices(None)?;
    c.describe("isapc", "ISA-only PC")?;
    let items = std::mem::take(&mut c.items);
    fw_cfg::build(&mut c.board, items, Box::new(NothingMade));
    c.finish()
}
