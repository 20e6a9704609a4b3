//! The adapter on its buses: `VGA` on PCI, `isa-vga` on ISA.

use super::{Config, MMIO, PORTS, State, VBE_PORTS, Vga, WINDOW, Wires};
use crate::pci;
use orrery_system::device::Device;
use orrery_system::display::{Display, Surface};
use orrery_system::map::Region;
use orrery_system::ram::RamFull;
use orrery_system::{Board, BusResult, DeviceId, Registers, RestoreError, StateBlob};
use serde::{Deserialize, Serialize};

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x1234,
    device: 0x1111,
    revision: 2,
    class: 0x03_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

/// The `VGA` PCI function.
pub struct PciVga {
    pci: pci::Function,
    pci_state: pci::ConfigState,
    vga: Vga,
}

#[derive(Serialize, Deserialize)]
struct CardState {
    pci: pci::ConfigState,
    vga: State,
}

impl orrery_system::State for CardState {
    const KIND: &'static str = "VGA";
    const VERSION: u16 = 1;
}

/// Makes the adapter's memory, ports and windows. `memory` is where A0000–BFFFF is looked for:
/// PCI's memory space, or the board's.
fn wire(
    board: &mut Board,
    id: DeviceId,
    memory: &Region,
    vram: usize,
) -> Result<(Wires, Region), RamFull> {
    let block = board.ram().alloc("vga.vram", vram)?;
    let regions = board.regions().clone();
    let linear = regions.ram("vga.vram", block);
    let window = regions.container("vga-lowmem", 0x2_0000);
    window.add(0, &regions.device("vga-planes", 0x2_0000, id, WINDOW));
    let bank = regions.alias("vga-bank", &linear, 0, 0x1_0000);
    bank.set_enabled(false);
    window.add_priority(0, 1, &bank);
    memory.add_priority(0xa_0000, 1, &window);
    board.io().add(0x3b0, &regions.device("vga", 0x30, id, PORTS));
    board.io().add(0x1ce, &regions.device("vbe", 3, id, VBE_PORTS));
    let wires = Wires {
        ram: board.shared_ram(),
        vram: block,
        clock: board.clock(),
        linear_window: Some(bank),
    };
    Ok((wires, linear))
}

/// Puts a `VGA` adapter with `vram` bytes of memory (a power of two) and its video BIOS on a PCI
/// bus.
pub fn build_pci(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    memory: &Region,
    vram: usize,
    rom: &[u8],
) -> Result<DeviceId, RamFull> {
    let id = board.reserve("VGA");
    let (wires, linear) = wire(board, id, memory, vram)?;
    let mut builder = pci::Builder::new(board, bus, id, IDENTITY)
        .bar(0, pci::BarKind::Prefetchable, &linear)
        .memory_bar(2, MMIO, 0x1000);
    if !rom.is_empty() {
        let len = rom.len().next_power_of_two().max(2048);
        let block = board.ram().alloc("vga.rom", len)?;
        board.ram().write_bytes(block.offset, rom);
        builder = builder.rom(&board.regions().rom("vga.rom", block));
    }
    let pci = builder.build(devfn);
    let pci_state = pci.power_on();
    let mut card = PciVga { pci, pci_state, vga: Vga::new(Config::default(), wires) };
    card.drive();
    board.attach(id, Box::new(card));
    Ok(id)
}

/// Puts an `isa-vga` adapter on the board; its video BIOS is mapped at C0000.
pub fn build_isa(board: &mut Board, vram: usize, rom: &[u8]) -> Result<DeviceId, RamFull> {
    let id = board.reserve("isa-vga");
    let memory = board.memory().clone();
    let (wires, linear) = wire(board, id, &memory, vram)?;
    memory.add(0xe000_0000, &linear);
    if !rom.is_empty() {
        let block = board.ram().alloc("vga.rom", rom.len())?;
        board.ram().write_bytes(block.offset, rom);
        memory.add_priority(0xc_0000, 1, &board.regions().rom("vga.rom", block));
    }
    board.attach(id, Box::new(Vga::new(Config::default(), wires)));
    Ok(id)
}

impl PciVga {
    fn drive(&mut self) {
        self.pci.drive(&mut self.pci_state, false);
        self.vga.drive();
    }
}

impl Device for PciVga {
    fn name(&self) -> &'static str {
        "VGA"
    }

    fn reset(&mut self) {
        self.pci_state = self.pci.power_on();
        self.vga.reset();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&CardState { pci: self.pci_state.clone(), vga: self.vga.state.clone() })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let CardState { pci, vga } = blob.decode()?;
        self.pci.check(&pci)?;
        self.vga.take(vga)?;
        self.pci_state = pci;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(self)
    }
}

impl Registers for PciVga {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match self.pci.read(&self.pci_state, bank, offset, width) {
            Some(result) => result,
            None => self.vga.read(bank, offset, width),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match self.pci.write(&mut self.pci_state, bank, offset, width, value) {
            Some(result) => {
                self.drive();
                result
            }
            None => self.vga.write(bank, offset, width, value),
        }
    }
}

impl Display for PciVga {
    fn render(&mut self, surface: &mut Surface, full: bool) {
        self.vga.render(surface, full);
    }

    fn text(&mut self) -> Option<Vec<String>> {
        self.vga.text()
    }
}
