//! Interrupt controllers.

pub mod apic;
pub mod gic_v2;
pub mod i8259;
pub mod ioapic;

use orrery_system::IrqInput;

/// The input wires of a controller.
pub(crate) struct Inputs {
    wires: Vec<IrqInput>,
    /// The state was just restored: edges latched since are devices driving their pins again.
    restored: bool,
}

impl Inputs {
    pub(crate) fn new(wires: Vec<IrqInput>) -> Self {
        Self { wires, restored: false }
    }

    /// The levels, and which wires rose since the last time: one bit a wire.
    pub(crate) fn sample(&mut self) -> (u32, u32) {
        let (mut levels, mut edges) = (0, 0);
        for (i, wire) in self.wires.iter().enumerate() {
            levels |= u32::from(wire.level()) << i;
            edges |= u32::from(wire.take_edge()) << i;
        }
        if std::mem::take(&mut self.restored) {
            edges = 0;
        }
        (levels, edges)
    }

    /// Forgets the edges latched so far, and those latched until the next sample.
    pub(crate) fn forget_edges(&mut self) {
        self.restored = true;
    }

    /// Forgets the edges latched so far.
    pub(crate) fn drain(&mut self) {
        for wire in &self.wires {
            wire.take_edge();
        }
    }
}
