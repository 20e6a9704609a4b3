//! What a front end talks to in a machine.

use orrery_system::DeviceId;
use orrery_system::ports::{CharPort, NetPort};

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
    /// Devices that take keys and pointer movement, in the order they are asked.
    pub inputs: Vec<DeviceId>,
}
