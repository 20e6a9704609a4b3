//! What a front end talks to in a machine.

use orrery_hw::machine::Named;
use orrery_hw::numa::{Numa, Topology};
use orrery_hw::pci::Bus;
use orrery_system::ports::{CharPort, NetPort};
use orrery_system::{DeviceId, IrqInput, IrqLine};

/// The machine's RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Id of the object that it is.
    pub id: String,
    /// Bytes.
    pub bytes: u64,
}

/// The ends of a machine that stick out of its case.
#[derive(Clone, Default)]
pub struct Handles {
    /// Machine type, as `-M` names it.
    pub machine: String,
    /// Serial lines, first to fourth.
    pub serials: Vec<CharPort>,
    /// Parallel ports.
    pub parallels: Vec<CharPort>,
    /// Other character devices by their `id` (debug consoles).
    pub chars: Vec<(String, CharPort)>,
    /// Network cables by their `id`.
    pub nets: Vec<(String, NetPort)>,
    /// The device that shows the picture.
    pub display: Option<DeviceId>,
    /// How it suspends to RAM.
    pub suspend: Option<orrery_hw::machine::Suspend>,
    /// What the clock's memory says from the first reset on: index and value.
    pub after_reset: Vec<(u8, u8)>,
    /// The lines to the I/O interrupt controller, by number.
    pub irqs: Vec<IrqInput>,
    /// How the CPUs are packaged.
    pub topology: Topology,
    /// Which memory is near which CPU.
    pub numa: Numa,
    /// The RAM.
    pub memory: Memory,
    /// The power button.
    pub power_button: Option<IrqLine>,
    /// Devices that were asked for by type.
    pub named: Vec<Named>,
    /// The PCI bus on which devices can be plugged.
    pub pci: Option<Bus>,
    /// The USB buses.
    pub usb: Vec<orrery_hw::usb::Bus>,
    /// Devices that take keys and pointer movement, in the order they are asked.
    pub inputs: Vec<DeviceId>,
}
