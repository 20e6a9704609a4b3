//! The adapter on its buses: `VGA` on PCI, `isa-vga` on ISA.

use super::{Config, MMIO, PORTS, State, VBE_PORTS, Vga, WINDOW, Wires};
use crate::pci;
use orrery_system::device::Device;
use orrery_system::display::Display;
use orrery_system::map::Region;
use orrery_system::ram::RamFull;
use orrery_system::{Board, BusResult, DeviceId, Registers, RestoreError};

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x1234,
    device: 0x1111,
    revision: 2,
    class: 0x03_00_00,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 0,
};

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
    board.attach(id, Box::new(pci::Card::new(pci, PciVga(Vga::new(Config::default(), wires)))));
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

/// The `VGA` PCI function.
pub struct PciVga(Vga);

impl pci::Chip for PciVga {
    type State = State;
    const NAME: &'static str = "VGA";

    fn reset(&mut self) {
        self.0.reset();
    }

    fn save(&self) -> State {
        self.0.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.0.take(state)
    }

    fn drive(&mut self, _: &mut pci::Slot<'_>) -> bool {
        self.0.drive();
        false
    }

    fn read(&mut self, _: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        self.0.read(bank, offset, width)
    }

    fn write(
        &mut self,
        _: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        self.0.write(bank, offset, width, value)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(&mut self.0)
    }
}
