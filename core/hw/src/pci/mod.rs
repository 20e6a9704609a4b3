//! PCI: configuration spaces, interrupts and buses.
//!
//! Reference: PCI Local Bus 3.0, PCI Express Base 3.0 (message interrupts are section 6.8 of the
//! former).
//!
//! # A PCI device is one file
//!
//! A function's configuration space is a bank of its registers, [`CONFIG_BANK`]; the host bridge
//! forwards configuration cycles there. The device writes down what it has besides, as a [`Chip`], and a
//! [`Card`] around it holds the configuration space: the fixed part (identity, masks, BAR regions, pin,
//! DMA) is a [`Function`], the part the guest changes a [`ConfigState`].
//!
//! ```text
//! /// Puts the device on a bus.
//! pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, config: Config) -> DeviceId {
//!     let id = board.reserve("my-device");
//!     let pci = pci::Builder::new(board, bus, id, IDENTITY)
//!         .memory_bar(0, BANK_MMIO, 0x1000)        // registers of bank BANK_MMIO
//!         .io_bar(1, BANK_IO, 0x40)
//!         .msi(1)
//!         .build(devfn);
//!     board.attach(id, Box::new(pci::Card::new(pci, MyChip::new(config))));
//!     id
//! }
//!
//! impl pci::Chip for MyChip {
//!     type State = State;
//!     const NAME: &'static str = "my-device";
//!
//!     fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
//!         self.state.irq_status & self.state.irq_mask != 0     // INTx, or MSI vector 0
//!     }
//!
//!     fn read(&mut self, slot: &mut pci::Slot<'_>, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
//!         ..                                       // banks of its own
//!     }
//!     ..
//! }
//! ```
//!
//! A device that needs more of the board's interface embeds a [`Function`] among its wires and a
//! [`ConfigState`] in its state, and calls their `read`, `write`, `drive`, `power_on` and `check` itself.
//!
//! DMA goes through `slot.function.dma()`, which the command register switches. A device with several
//! message vectors calls [`Function::signal`] besides.

mod bus;
mod config;
mod device;
mod msi;

pub use bus::{Bus, PinMap, devfn};
pub use config::{BarKind, Builder, Command, ConfigState, Function, Identity};
pub use device::{Card, Chip, Slot};

/// The bank of a function's configuration space.
pub const CONFIG_BANK: u32 = 0xffff_0000;
/// The bank of a function's MSI-X table and pending bits.
pub const MSIX_BANK: u32 = 0xffff_0001;

/// The bank in which a bus' hot-plug controller ([`Bus::hotplug`]) is told of what comes and goes: the value is a
/// place on the bus, the register is one of [`plug`].
pub const PLUG_BANK: u32 = 0xffff_0002;

/// Registers of [`PLUG_BANK`].
pub mod plug {
    /// A device was put there.
    pub const ARRIVED: u64 = 0;
    /// The device there is wanted back: the guest is asked to let it go.
    pub const WANTED: u64 = 1;
    /// The device there was taken away.
    pub const GONE: u64 = 2;
}

/// Offsets in a configuration space that code names (PCI 3.0 figure 6-1).
pub mod reg {
    /// Command, 16 bits.
    pub const COMMAND: usize = 0x04;
    /// Status, 16 bits.
    pub const STATUS: usize = 0x06;
    /// Revision, 8 bits.
    pub const REVISION: usize = 0x08;
    /// First base address.
    pub const BAR0: usize = 0x10;
    /// Expansion ROM base address.
    pub const ROM: usize = 0x30;
    /// First capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line, which software keeps for itself.
    pub const INTERRUPT_LINE: usize = 0x3c;
    /// Interrupt pin.
    pub const INTERRUPT_PIN: usize = 0x3d;
}
