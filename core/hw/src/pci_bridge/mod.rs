//! Bridges to further PCI buses: the PCI Express root port, the bridge from PCI Express to PCI, and the
//! conventional bridge.
//!
//! Reference: PCI-to-PCI Bridge Architecture 1.2, chapter 3; PCI Express Base 3.0, 7.5.3 and 7.8.
//!
//! The root port is a hot-plug slot (PCI Express Base 3.0, 6.7) with power controller, attention button and
//! both indicators, and carries out commands at once. Devices behind the others show at the next bus scan.
//!
//! Not modelled: the standard hot-plug controller of conventional bridges, the
//! secondary bus reset, prefetching, and the bridge's own bus master bit: a function behind it is
//! switched by its own.

use crate::pci::{self, Bus, plug};
use orrery_system::pins::Power;
use orrery_system::{Board, BusError, BusResult, DeviceId, Region, RestoreError};
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

/// The PCI Express capability of a root port, which is its first.
mod express {
    /// Where it is.
    const AT: usize = 0x40;
    pub(super) const LINK_STATUS: usize = AT + 0x12;
    pub(super) const SLOT_CONTROL: usize = AT + 0x18;
    pub(super) const SLOT_STATUS: usize = AT + 0x1a;

    /// Attention button, power controller, both indicators, hot-plug; commands need no time.
    pub(super) const SLOT: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 18;
    /// Link status: the data link is up.
    pub(super) const LINK_UP: u16 = 1 << 13;
    /// Slot status: the attention button was pressed.
    pub(super) const BUTTON: u16 = 1 << 0;
    /// Slot status: a device came or went.
    pub(super) const CHANGED: u16 = 1 << 3;
    /// Slot status: there is a device.
    pub(super) const PRESENT: u16 = 1 << 6;
    /// Slot control: the hot-plug interrupt is enabled.
    pub(super) const INTERRUPT: u16 = 1 << 5;
    /// Slot control: the power indicator is off.
    pub(super) const DARK: u16 = 3 << 8;
    /// Slot control: the slot is without power.
    pub(super) const NO_POWER: u16 = 1 << 10;
    /// Slot control at power-on: indicators off.
    pub(super) const CONTROL: u16 = 3 << 6 | DARK;
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

/// What the configuration space does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// There is a device in the slot.
    present: bool,
}

/// The device.
pub struct Bridge {
    kind: Kind,
    state: State,
    power: Power,
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
    if kind == Kind::RootPort {
        below.set_hotplug(id);
    }
    let (power, state) = (board.power(), State::default());
    let bridge = Bridge { kind, state, power, below: below.clone(), io, memory, prefetchable };
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
            // 2.5 GT/s, one lane; the link says when it is up.
            (express[0x0a], express[0x0c], express[0x10]) = (0x11, 0x10, 0x11);
            // The slot's number is the device's.
            let slot = express::SLOT | u32::from(devfn >> 3) << 19;
            express[0x12..0x16].copy_from_slice(&slot.to_le_bytes());
            express[0x16..0x18].copy_from_slice(&express::CONTROL.to_le_bytes());
            let mut writable = [0; 0x3a];
            (writable[0x06], writable[0x07]) = (0x0f, 0x70);
            (writable[0x0e], writable[0x16], writable[0x17]) = (0xc8, 0xff, 0x1f);
            writable[0x1a] = 0x1f;
            builder.add_capability(0x10, &express, &writable);
            builder = builder.write_one_clears(express::SLOT_STATUS, 2, 0x011f).extended().msi(1);
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

impl State {
    /// Shows what is in the slot; whether the port wants an interrupt.
    fn drive_slot(self, c: &mut pci::ConfigState) -> bool {
        let put = |c: &mut pci::ConfigState, at: usize, bit: u16, on: bool| {
            c.set_u16(at, c.u16(at) & !bit | if on { bit } else { 0 });
        };
        let control = c.u16(express::SLOT_CONTROL);
        put(c, express::SLOT_STATUS, express::PRESENT, self.present);
        let link = self.present && control & express::NO_POWER == 0;
        put(c, express::LINK_STATUS, express::LINK_UP, link);
        // The enable bits of events are where the events are.
        let events = c.u16(express::SLOT_STATUS) & control & 0x1f;
        control & express::INTERRUPT != 0 && events != 0
    }
}

impl pci::Chip for Bridge {
    type State = State;
    const NAME: &'static str = "pci-bridge";

    const VERSION: u16 = 2;

    fn reset(&mut self) {
        self.state.present = self.kind == Kind::RootPort && !self.below.functions().is_empty();
    }

    fn save(&self) -> State {
        self.state
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.state = state;
        Ok(())
    }

    /// Without power and with its indicator dark, a slot lets its device go.
    fn configured(&mut self, before: &pci::ConfigState, slot: &mut pci::Slot<'_>) {
        const EMPTY: u16 = express::NO_POWER | express::DARK;
        let is_off = |c: &pci::ConfigState| c.u16(express::SLOT_CONTROL) & EMPTY == EMPTY;
        if self.kind == Kind::RootPort && is_off(slot.config) && !is_off(before) {
            self.below.functions().into_iter().for_each(|(_, id)| self.power.eject(id));
        }
    }

    fn write(
        &mut self,
        slot: &mut pci::Slot<'_>,
        bank: u32,
        offset: u64,
        _width: u8,
        _value: u64,
    ) -> BusResult<()> {
        if bank != pci::PLUG_BANK || self.kind != Kind::RootPort {
            return Err(BusError::NoRegister);
        }
        let off = slot.config.u16(express::SLOT_CONTROL) & express::NO_POWER != 0;
        let happened = match offset {
            plug::WANTED => express::BUTTON,
            // Who puts a card into a slot that is off presses its button then: systems enable that event alone.
            plug::ARRIVED if off => express::CHANGED | express::BUTTON,
            _ => express::CHANGED,
        };
        self.state.present = !self.below.functions().is_empty();
        let c = &mut *slot.config;
        c.set_u16(express::SLOT_STATUS, c.u16(express::SLOT_STATUS) | happened);
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
        self.kind == Kind::RootPort && self.state.drive_slot(slot.config)
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

    #[test]
    fn a_slot_tells_what_comes_and_lets_go_what_is_without_power() {
        let mut b = board();
        let root = Bus::simple(&b);
        let (port, below) = build(&mut b, &root, devfn(1, 0), Kind::RootPort, "p");
        let get = |b: &mut Board, at: usize| b.device_read(port, CONFIG_BANK, at as u64, 2);
        assert_eq!(get(&mut b, 0x42) & 0x1f0, 0x140, "a root port with a slot");
        assert_eq!(get(&mut b, express::SLOT_STATUS), 0);
        let control = |b: &mut Board, value| {
            b.device_write(port, CONFIG_BANK, express::SLOT_CONTROL as u64, 2, value);
        };
        // Button, presence and the interrupt as such are enabled; the slot is off.
        control(&mut b, 0x0729);
        let card = edu::build(&mut b, &below, devfn(0, 0));
        let plugged = root.hotplug().is_none().then(|| below.hotplug()).flatten();
        assert_eq!(plugged, Some(port));
        b.device_write(port, pci::PLUG_BANK, plug::ARRIVED, 1, 0);
        assert_eq!(get(&mut b, express::SLOT_STATUS), 0x49, "present, that is new, and the button");
        assert!(root.wires()[1].level());
        b.device_write(port, CONFIG_BANK, express::SLOT_STATUS as u64, 2, 9);
        assert!(!root.wires()[1].level());
        assert_eq!(get(&mut b, express::LINK_STATUS) & express::LINK_UP as u64, 0);
        control(&mut b, 0x0129);
        assert_ne!(get(&mut b, express::LINK_STATUS) & express::LINK_UP as u64, 0);
        b.device_write(port, pci::PLUG_BANK, plug::WANTED, 1, 0);
        assert_eq!(get(&mut b, express::SLOT_STATUS), 0x41, "the button was pressed");
        control(&mut b, 0x0529);
        assert_eq!(b.power().take_ejected(), [], "the indicator is still on");
        control(&mut b, 0x0729);
        assert_eq!(b.power().take_ejected(), [card]);
        below.remove(devfn(0, 0));
        b.device_write(port, pci::PLUG_BANK, plug::GONE, 1, 0);
        assert_eq!(get(&mut b, express::SLOT_STATUS), 9);
    }

    fn device() -> pci::Card<Bridge> {
        let mut b = board();
        let bus = Bus::simple(&b);
        let id = b.reserve("pci-bridge");
        let region = || Window(b.regions().alias("w", b.memory(), 0, 1));
        let below = bus.behind(0, "b", b.memory(), b.io(), 32);
        let (io, memory, prefetchable) = (region(), region(), region());
        let pci = function(&b, &bus, id, Kind::RootPort, 0);
        let (kind, state, power) = (Kind::RootPort, State::default(), b.power());
        pci::Card::new(pci, Bridge { kind, state, power, below, io, memory, prefetchable })
    }

    orrery_system::conformance!(device(), [(CONFIG_BANK, &[])]);
}
