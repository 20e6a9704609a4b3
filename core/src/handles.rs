//! What a front end talks to in a machine.

use orrery_hw::machine::{Arch, Named, Netdev, Nic};
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
    /// The instruction set of its CPUs.
    pub arch: Arch,
    /// Serial lines, first to fourth.
    pub serials: Vec<CharPort>,
    /// Parallel ports.
    pub parallels: Vec<CharPort>,
    /// Other character devices by their `id` (debug consoles).
    pub chars: Vec<(String, CharPort)>,
    /// Network cables by their `id`.
    pub nets: Vec<(String, NetPort)>,
    /// Networks by their `id`.
    pub netdevs: Vec<(String, Netdev)>,
    /// Network cards. Each has a name: its `id`, or its type and a number.
    pub nics: Vec<Nic>,
    /// The device that shows the picture.
    pub display: Option<DeviceId>,
    /// How it suspends to RAM.
    pub suspend: Option<orrery_hw::machine::Suspend>,
    /// What the clock's memory says from the first reset on: index and value.
    pub after_reset: Vec<(u8, u8)>,
    /// The lines to the I/O interrupt controller, by number.
    pub irqs: Vec<IrqInput>,
    /// Model of the CPUs.
    pub cpu_model: String,
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

impl Handles {
    /// Network cards come; those without an id are named by their type and the first number that is free.
    pub(crate) fn add_nics(&mut self, nics: Vec<Nic>) {
        for mut nic in nics {
            if nic.id.is_empty() {
                let same = self.nics.iter().filter(|n| n.model == nic.model).count();
                let name = (same..).map(|n| format!("{}.{n}", nic.model));
                nic.id = { name }
                    .find(|name| self.nics.iter().all(|n| n.id != *name))
                    .unwrap_or_default();
            }
            self.nics.push(nic);
        }
    }
}
