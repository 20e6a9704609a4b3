//! USB: controllers, which are on a PCI bus, and devices.

use super::{BOOTINDEX, DeviceType, Place, Property, RERROR, WERROR, property};
use crate::machine::BuildError;
use crate::scsi::{self, Address};
use crate::usb::{self, Position, ehci, hid, hub, ohci, storage, uas, uhci, xhci};
use orrery_system::Board;

const PORT: Property = property("port", "place on the bus: 2, or 1.3 for the third of a hub");
const SERIAL: Property = property("serial", "serial number");
const VERSION: Property =
    property("usb_version", "1: the device knows full speed, 2: high speed too (2)");

const MULTIFUNCTION: Property = property("multifunction", "the device has more functions (off)");

/// Properties of every USB device.
pub(super) const OF_BUS: &[Property] = &[PORT, SERIAL];

/// Settings of controllers that share a bus.
const COMPANION: &[Property] = &[
    property("masterbus", "bus of the faster controller that it is a companion of"),
    property("firstport", "the first of its ports there, from 0 (0)"),
    MULTIFUNCTION,
];

impl Place<'_, '_> {
    /// The name of the bus that a controller makes.
    fn bus_name(&self) -> String {
        match self.get("id") {
            Some(id) => format!("{id}.0"),
            None => {
                let taken =
                    self.chassis.built.usb.iter().filter(|b| b.name().starts_with("usb-bus."));
                format!("usb-bus.{}", taken.count())
            }
        }
    }

    /// The bus that `bus=` names, or the first with room, and the place on it.
    fn socket(&mut self) -> Result<(usb::Bus, Position), BuildError> {
        let buses = &self.chassis.built.usb;
        let named = self.get("bus");
        let free = |bus: &usb::Bus| bus.positions().into_iter().filter(|p| p.socket.id().is_none());
        let bus = match named {
            Some(name) => buses.iter().find(|b| b.name() == name),
            None => buses.iter().find(|b| free(b).next().is_some()).or(buses.first()),
        };
        let Some(bus) = bus.cloned() else {
            return match named {
                Some(name) => self.wrong(&format!("there is no bus '{name}' for it")),
                None => self.wrong("there is no USB bus: a controller or -usb makes one"),
            };
        };
        if let Some(path) = self.get("port") {
            let position = free(&bus).find(|p| p.path == path);
            return match position {
                Some(position) => Ok((bus, position)),
                None => {
                    let name = bus.name();
                    self.wrong(&format!("usb port {path} (bus {name}) not found (in use?)"))
                }
            };
        }
        let mut places: Vec<_> = free(&bus).collect();
        if places.len() == 1 && self.spec.kind != "usb-hub" {
            // The last place gets a hub, so that there are more.
            let config = hub::Config::default();
            bus.plug(&mut self.chassis.board, &places[0].socket, |_, _| hub::Hub::new(config));
            places = free(&bus).collect();
        }
        match places.into_iter().next() {
            Some(position) => Ok((bus, position)),
            None => self.wrong("the bus has no free ports"),
        }
    }

    /// The serial number, if one is given.
    fn serial(&self) -> Option<String> {
        self.get("serial").map(str::to_owned)
    }

    fn hid<K: hid::Kind + 'static>(&mut self) -> Result<(), BuildError> {
        let high_speed = match self.number("usb_version", 2)? {
            1 => false,
            2 => true,
            _ => return self.wrong("usb_version is 1 or 2"),
        };
        let (bus, place) = self.socket()?;
        let config = hid::Config { serial: self.serial(), high_speed };
        let id = bus.plug(&mut self.chassis.board, &place.socket, |board, id| {
            hid::Hid::<K>::new(config, hid::Wires::new(board, id))
        });
        // The latest is asked first, and those of the board last.
        self.chassis.built.inputs.insert(0, id);
        Ok(())
    }

    /// The bus of a controller at `devfn`, which `make` makes.
    fn new_bus(&mut self, devfn: u8, make: fn(&Board, &str) -> usb::Bus) -> usb::Bus {
        let bus = make(&self.chassis.board, &self.bus_name());
        bus.set_path(self.firmware_path("usb", devfn));
        self.chassis.built.usb.push(bus.clone());
        bus
    }

    /// A disk or CD-ROM drive on the bus.
    fn storage(&mut self) -> Result<(), BuildError> {
        let Some(name) = self.get("drive").map(str::to_owned) else {
            return self.wrong("it needs drive=ID");
        };
        let (bus, place) = self.socket()?;
        let Some(drive) = self.chassis.drive_named(&name) else {
            return self.wrong(&format!("there is no free drive '{name}'"));
        };
        let path = bus.firmware_path(&place.path, "storage") + "/channel@0/disk";
        let unit = self.chassis.scsi_unit(self.spec, drive, Address::new(0, 0), &path)?;
        let config = storage::Config { serial: self.serial() };
        bus.plug(&mut self.chassis.board, &place.socket, |board, id| {
            storage::Storage::new(config, scsi::Bus::new(board, id, 0, vec![unit]))
        });
        Ok(())
    }

    /// Units of the SCSI bus that the device makes, named after its id.
    fn storage_bus(&mut self) -> Result<StorageBus, BuildError> {
        let (bus, place) = self.socket()?;
        let path = bus.firmware_path(&place.path, "storage") + "/channel@0/disk";
        let id = self.get("id").map(str::to_owned);
        let units = self.chassis.scsi_units(id.as_deref(), 1, &path)?;
        Ok(StorageBus { bus, place, units, config: storage::Config { serial: self.serial() } })
    }

    fn ehci(&mut self, model: ehci::Model) -> Result<(), BuildError> {
        let (pci, devfn) = self.slot()?;
        let bus = self.new_bus(devfn, ehci::bus);
        ehci::build(&mut self.chassis.board, &pci, devfn, model, bus);
        Ok(())
    }

    fn xhci(&mut self, model: xhci::Model) -> Result<(), BuildError> {
        let (pci, devfn) = self.slot()?;
        let bus = self.new_bus(devfn, xhci::bus);
        xhci::build(&mut self.chassis.board, &pci, devfn, model, bus);
        Ok(())
    }

    fn uhci(&mut self, model: uhci::Model) -> Result<(), BuildError> {
        let (pci, devfn) = self.slot()?;
        let (bus, companion) = match self.spec.props.iter().rev().find(|p| p.0 == "masterbus") {
            None => (self.new_bus(devfn, uhci::bus), None),
            Some((_, name)) => {
                let Some(bus) = self.chassis.built.usb.iter().find(|b| b.name() == name).cloned()
                else {
                    return self.wrong(&format!("there is no bus '{name}' to be a companion on"));
                };
                let first = self.number("firstport", 0)? as usize;
                if first + uhci::PORTS > bus.sockets().len() {
                    return self.wrong("firstport is past the last port of the bus");
                }
                bus.add_companion();
                (bus, Some(first))
            }
        };
        let config = uhci::Config { model, companion };
        uhci::build(&mut self.chassis.board, &pci, devfn, config, bus);
        Ok(())
    }
}

/// What a device with a SCSI bus is made of.
struct StorageBus {
    bus: usb::Bus,
    place: Position,
    units: Vec<scsi::UnitConfig>,
    config: storage::Config,
}

/// A row for an EHCI controller.
macro_rules! ehci {
    ($index:literal) => {
        DeviceType {
            name: ehci::MODELS[$index].name,
            bus: "PCI",
            description: "a USB 2.0 controller (EHCI)",
            properties: &[MULTIFUNCTION],
            build: |p| p.ehci(ehci::MODELS[$index]),
        }
    };
}

/// A row for an xHCI controller.
macro_rules! xhci {
    ($index:literal) => {
        DeviceType {
            name: xhci::MODELS[$index].name,
            bus: "PCI",
            description: "a USB 3 controller (xHCI)",
            properties: &[MULTIFUNCTION],
            build: |p| p.xhci(xhci::MODELS[$index]),
        }
    };
}

/// A row for a UHCI controller.
macro_rules! uhci {
    ($index:literal) => {
        DeviceType {
            name: uhci::MODELS[$index].name,
            bus: "PCI",
            description: "a USB 1.1 controller (UHCI)",
            properties: COMPANION,
            build: |p| p.uhci(uhci::MODELS[$index]),
        }
    };
}

pub(super) const DEVICES: &[DeviceType] = &[
    uhci!(0),
    uhci!(1),
    uhci!(2),
    uhci!(3),
    uhci!(4),
    uhci!(5),
    uhci!(6),
    uhci!(7),
    uhci!(8),
    ehci!(0),
    ehci!(1),
    ehci!(2),
    xhci!(0),
    xhci!(1),
    DeviceType {
        name: ohci::NAME,
        bus: "PCI",
        description: "a USB 1.1 controller (OHCI)",
        properties: &[MULTIFUNCTION],
        build: |p| {
            let (pci, devfn) = p.slot()?;
            let bus = p.new_bus(devfn, ohci::bus);
            ohci::build(&mut p.chassis.board, &pci, devfn, bus);
            Ok(())
        },
    },
    DeviceType {
        name: "usb-kbd",
        bus: "usb-bus",
        description: "a keyboard",
        properties: &[VERSION],
        build: |p| p.hid::<hid::Keyboard>(),
    },
    DeviceType {
        name: "usb-mouse",
        bus: "usb-bus",
        description: "a mouse",
        properties: &[VERSION],
        build: |p| p.hid::<hid::Mouse>(),
    },
    DeviceType {
        name: "usb-tablet",
        bus: "usb-bus",
        description: "a pointer that is where the host's is",
        properties: &[VERSION],
        build: |p| p.hid::<hid::Tablet>(),
    },
    DeviceType {
        name: "usb-storage",
        bus: "usb-bus",
        description: "a disk or CD-ROM drive",
        properties: &[
            property("drive", "id of the drive"),
            property("removable", "the medium can be taken out (off)"),
            property("logical_block_size", "block size that the guest sees (512)"),
            property("physical_block_size", "block size of the medium (the logical one)"),
            RERROR,
            WERROR,
            BOOTINDEX,
        ],
        build: |p| p.storage(),
    },
    DeviceType {
        name: "usb-bot",
        bus: "usb-bus",
        description: "a SCSI bus with one target, by bulk transfers only",
        properties: &[],
        build: |p| {
            let StorageBus { bus, place, units, config } = p.storage_bus()?;
            bus.plug(&mut p.chassis.board, &place.socket, |board, id| {
                storage::Storage::new(config, scsi::Bus::new(board, id, 0, units))
            });
            Ok(())
        },
    },
    DeviceType {
        name: uas::NAME,
        bus: "usb-bus",
        description: "a SCSI bus with one target, with commands in parallel (UAS)",
        properties: &[],
        build: |p| {
            let StorageBus { bus, place, units, config } = p.storage_bus()?;
            bus.plug(&mut p.chassis.board, &place.socket, |board, id| {
                uas::Uas::new(config, scsi::Bus::new(board, id, 0, units))
            });
            Ok(())
        },
    },
    DeviceType {
        name: "usb-hub",
        bus: "usb-bus",
        description: "a hub",
        properties: &[
            property("ports", "places of the hub, to 8 (8)"),
            property("port-power", "software switches their power (off)"),
        ],
        build: |p| {
            let ports = match p.number("ports", hub::SOCKETS as u64)? {
                n @ 1..=8 => n as usize,
                _ => return p.wrong("ports is 1 to 8"),
            };
            let port_power = p.switch("port-power", false)?;
            let config = hub::Config { ports, port_power, serial: p.serial() };
            let (bus, place) = p.socket()?;
            bus.plug(&mut p.chassis.board, &place.socket, |_, _| hub::Hub::new(config));
            Ok(())
        },
    },
];
