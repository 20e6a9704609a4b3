//! Bridges to further PCI buses: the PCI Express root port, the bridge from PCI Express to PCI, and the
//! conventional bridge.
//!
//! Reference: PCI-to-PCI Bridge Architecture 1.2, chapter 3; PCI Express Base 3.0, 7.5.3 and 7.8.
//!
//! Not modelled: hot-plug events (what is plugged behind a bridge shows at the next bus scan), the
//! secondary bus reset, prefetching, and the bridge's own bus master bit: a function behind it is
//! switched by its own.

use crate::pci::{self, Bus};
use orrery_system::{Board, DeviceId, Region, RestoreError};
use serde::{Deserialize, Serialize};

/// Registers of a bridge's header (1.2 figure 3-1).
mod reg {
    /// Numbers of the bus above, the bus below, and the last one below.
    pub(super) const BUSES: usize = 0x18;
    pub(super) const IO_BASE: usize = 0x1c;
    pub(super) const SECONDARY_STATUS: usize = 0x1e;
    pub(super) const MEMORY: usize = 0x20;
    pub(super) const PREFETCHABLE: usize = 0x24;
    pub(super) const PREFETCHABLE_HIGH: usize = 0x28;
    pub(super) const CONTROL: usize = 0x3e;
}

/// Which bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `pcie-root-port`: one device below.
    RootPort,
    /// `pcie-pci-bridge`: a conventional bus below.
    PcieToPci,
    /// `pci-bridge`.
    Pci,
}

impl Kind {
    fn identity(self) -> pci::Identity {
        let device = match self {
            Self::RootPort => 0x000c,
            Self::PcieToPci => 0x000e,
            Self::Pci => 0x0001,
        };
        let pin = u8::from(self == Self::RootPort);
        let (vendor, class) = (0x1b36, 0x06_04_00);
        pci::Identity { vendor, device, revision: 0, class, subsystem: (0, 0), pin }
    }

    /// Places on the bus below.
    fn places(self) -> u8 {
        if self == Self::RootPort { 1 } else { 32 }
    }
}

/// A window onto the bus below.
struct Window(Region);

impl Window {
    fn set(&self, base: u64, limit: u64, on: bool) {
        let on = on && limit >= base;
        if on {
            self.0.set_base(base);
            self.0.set_alias_offset(base);
            self.0.set_size(limit - base + 1);
        }
        self.0.set_enabled(on);
    }
}

/// Nothing that the configuration space does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State;

/// The device.
pub struct Bridge {
    below: Bus,
    io: Window,
    memory: Window,
    prefetchable: Window,
}

/// Puts a bridge at `devfn` of `bus` and gives the bus behind it, which devices find by `name`.
pub fn build(board: &mut Board, bus: &Bus, devfn: u8, kind: Kind, name: &str) -> (DeviceId, Bus) {
    let id = board.reserve("pci-bridge");
    let regions = board.regions();
    let space = regions.container("bridge-memory", u64::MAX);
    let ports = regions.container("bridge-io", 1 << 16);
    let window = |space: &Region, above: &Region| {
        let window = regions.alias("bridge-window", space, 0, 1);
        window.set_enabled(false);
        above.add_priority(0, 1, &window);
        Window(window)
    };
    let (io, memory) = (window(&ports, bus.io()), window(&space, bus.memory()));
    let prefetchable = window(&space, bus.memory());
    let below = bus.behind(devfn, name, &space, &ports, kind.places());
    let function = function(board, bus, id, kind, devfn);
    let bridge = Bridge { below: below.clone(), io, memory, prefetchable };
    board.attach(id, Box::new(pci::Card::new(function, bridge)));
    (id, below)
}

fn function(board: &Board, bus: &Bus, id: DeviceId, kind: Kind, devfn: u8) -> pci::Function {
    let mut builder = pci::Builder::new(board, bus, id, kind.identity())
        .header_type(1)
        .register(reg::BUSES, 4, 0, 0xffff_ffff)
        .register(reg::IO_BASE, 2, 0, 0xf0f0)
        .write_one_clears(reg::SECONDARY_STATUS, 2, 0xf900)
        .register(reg::MEMORY, 4, 0, 0xfff0_fff0)
        .register(reg::PREFETCHABLE, 4, 0x0001_0001, 0xfff0_fff0)
        .register(reg::PREFETCHABLE_HIGH, 4, 0, 0xffff_ffff)
        .register(reg::PREFETCHABLE_HIGH + 4, 4, 0, 0xffff_ffff)
        .register(reg::CONTROL, 2, 0, 0x00bf);
    // PCI Express capability, version 2: port type 4 is a root port, 7 a bridge to PCI.
    match kind {
        Kind::RootPort => {
            let mut express = [0; 0x3a];
            // A slot is implemented.
            express[0] = 0x42;
            express[1] = 0x01;
            // 2.5 GT/s, one lane; the link is up at that.
            (express[0x0a], express[0x10]) = (0x11, 0x11);
            // The slot's number is the device's.
            express[0x14] = (devfn & 0xf8) >> 3 << 3;
            let mut writable = [0; 0x3a];
            (writable[0x06], writable[0x07]) = (0x0f, 0x70);
            (writable[0x0e], writable[0x16], writable[0x17]) = (0xc8, 0xff, 0x1f);
            writable[0x1a] = 0x1f;
            builder.add_capability(0x10, &express, &writable);
            builder = builder.extended().msi(1);
        }
        Kind::PcieToPci => {
            let mut express = [0; 0x3a];
            express[0] = 0x72;
            (express[0x0a], express[0x10]) = (0x11, 0x11);
            let mut writable = [0; 0x3a];
            (writable[0x06], writable[0x07]) = (0x0f, 0xf0);
            builder.add_capability(0x10, &express, &writable);
            builder = builder.extended();
        }
        Kind::Pci => {}
    }
    builder.build(devfn)
}

impl pci::Chip for Bridge {
    type State = State;
    const NAME: &'static str = "pci-bridge";

    fn reset(&mut self) {}

    fn save(&self) -> State {
        State
    }

    fn restore(&mut self, _: State) -> Result<(), RestoreError> {
        Ok(())
    }

    fn drive(&mut self, slot: &mut pci::Slot<'_>) -> bool {
        let c = &*slot.config;
        self.below.set_numbers(c.u8(reg::BUSES + 1), c.u8(reg::BUSES + 2));
        let command = c.command();
        let io = |at: usize| u64::from(c.u8(at) & 0xf0) << 8;
        self.io.set(io(reg::IO_BASE), io(reg::IO_BASE + 1) | 0xfff, command.io());
        let low = |at: usize| u64::from(c.u16(at) & 0xfff0) << 16;
        let memory = (low(reg::MEMORY), low(reg::MEMORY + 2) | 0xf_ffff);
        self.memory.set(memory.0, memory.1, command.memory());
        let high = |at: usize| u64::from(c.u32(at)) << 32;
        let base = low(reg::PREFETCHABLE) | high(reg::PREFETCHABLE_HIGH);
        let limit = low(reg::PREFETCHABLE + 2) | high(reg::PREFETCHABLE_HIGH + 4) | 0xf_ffff;
        self.prefetchable.set(base, limit, command.memory());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::misc::edu;
    use crate::pci::{CONFIG_BANK, devfn};
    use orrery_system::board::BoardConfig;

    fn board() -> Board {
        Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() })
    }

    #[test]
    fn a_function_behind_two_bridges_is_reached_through_their_numbers_and_windows() {
        let mut b = board();
        let root = Bus::simple(&b);
        let (port, one) = build(&mut b, &root, devfn(1, 0), Kind::RootPort, "p");
        let (bridge, two) = build(&mut b, &one, devfn(0, 0), Kind::PcieToPci, "b");
        let card = edu::build(&mut b, &two, devfn(3, 0));
        assert_eq!(root.route(2, devfn(3, 0)), None);
        b.device_write(port, CONFIG_BANK, 0x18, 4, 0x0002_0100);
        assert_eq!(root.route(1, devfn(0, 0)), Some(bridge));
        b.device_write(bridge, CONFIG_BANK, 0x18, 4, 0x0002_0201);
        assert_eq!(root.route(2, devfn(3, 0)), Some(card));
        b.device_write(card, CONFIG_BANK, 0x10, 4, 0xe010_0000);
        b.device_write(card, CONFIG_BANK, 4, 2, 2);
        assert_eq!(b.read(0xe010_0000, 4), 0xffff_ffff, "no window is open");
        for id in [port, bridge] {
            b.device_write(id, CONFIG_BANK, 0x20, 4, 0xe010_e010);
            b.device_write(id, CONFIG_BANK, 4, 2, 2);
        }
        assert_eq!(b.read(0xe010_0000, 4), 0x0100_00ed, "the card's identification");
        b.device_write(port, CONFIG_BANK, 0x20, 4, 0xe000_e020);
        assert_eq!(b.read(0xe010_0000, 4), 0xffff_ffff, "the limit is below the base");
    }

    #[test]
    fn interrupt_pins_rotate_at_every_bridge() {
        let mut b = board();
        let root = Bus::simple(&b);
        let (_, below) = build(&mut b, &root, devfn(2, 0), Kind::Pci, "b");
        // INTA# of device 3 is INTD# of the bridge, device 2: the root's wire (2 + 3) % 4.
        let pin = below.pin(devfn(3, 0), 1);
        pin.set(true);
        assert!(root.wires()[1].level());
    }

    #[test]
    fn a_bus_is_found_by_its_name_and_a_root_port_has_one_place() {
        let mut b = board();
        let root = Bus::simple(&b);
        let (_, port) = build(&mut b, &root, devfn(1, 0), Kind::RootPort, "p");
        build(&mut b, &port, devfn(0, 0), Kind::PcieToPci, "b");
        assert_eq!(port.free_device(0), None);
        assert_eq!(root.find("b").and_then(|bus| bus.free_device(0)), Some(0));
        assert!(root.find("x").is_none());
        assert_eq!(root.find("b").unwrap().path(), "/pci@i0cf8/pci-bridge@1/pci-bridge@0");
    }

    fn device() -> pci::Card<Bridge> {
        let mut b = board();
        let bus = Bus::simple(&b);
        let id = b.reserve("pci-bridge");
        let region = || Window(b.regions().alias("w", b.memory(), 0, 1));
        let below = bus.behind(0, "b", b.memory(), b.io(), 32);
        let (io, memory, prefetchable) = (region(), region(), region());
        let pci = function(&b, &bus, id, Kind::RootPort, 0);
        pci::Card::new(pci, Bridge { below, io, memory, prefetchable })
    }

    orrery_system::conformance!(device(), [(CONFIG_BANK, &[])]);
}
