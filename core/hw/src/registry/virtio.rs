//! Virtio devices besides disks, SCSI and network cards.

use super::pci::{Build, LEGACY, VECTORS};
use super::{DeviceType, Place, Property, plugged, property};
use crate::machine::BuildError;
use crate::virtio::{input, serial};

const PORT: &[Property] = &[
    property("chardev", "where the other end goes"),
    property("name", "name that the guest finds it by"),
    property("nr", "number of the port (the next free one)"),
];

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "virtio-serial-pci",
        bus: "PCI",
        description: "a virtio console device with its ports",
        properties: &[
            property("max_ports", "most ports (31)"),
            property("emergency-write", "has a register for output in need (on)"),
            LEGACY,
            VECTORS,
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let max_ports = p.given("max_ports")?.unwrap_or(31);
            if !(1..=31).contains(&max_ports) {
                return p.wrong("max_ports is 1 to 31");
            }
            let emergency_write = p.switch("emergency-write", true)?;
            let transport = p.transport(2)?;
            let ports = p.serial_ports(max_ports)?;
            let config = serial::Config { max_ports, emergency_write, ports };
            serial::build(&mut p.chassis.board, &bus, devfn, transport, config);
            Ok(())
        },
    },
    DeviceType {
        name: "virtconsole",
        bus: "virtio-serial-bus",
        description: "a console on a virtio console device",
        properties: PORT,
        build: plugged,
    },
    DeviceType {
        name: "virtserialport",
        bus: "virtio-serial-bus",
        description: "a serial port on a virtio console device",
        properties: PORT,
        build: plugged,
    },
    input_of("virtio-keyboard-pci", "a virtio keyboard", build_input::<{ input::KEYBOARD }>),
    input_of("virtio-mouse-pci", "a virtio mouse", build_input::<{ input::MOUSE }>),
    input_of("virtio-tablet-pci", "a virtio tablet", build_input::<{ input::TABLET }>),
];

/// An input device.
const fn input_of(name: &'static str, description: &'static str, build: Build) -> DeviceType {
    const PROPERTIES: &[Property] = &[property("serial", "serial number"), VECTORS];
    DeviceType { name, bus: "PCI", description, properties: PROPERTIES, build }
}

fn build_input<const KIND: u8>(p: &mut Place<'_, '_>) -> Result<(), BuildError> {
    let (bus, devfn) = p.slot()?;
    // There never was one of before version 1.
    let transport = crate::virtio::pci::Config { legacy: false, ..p.transport(2)? };
    let serial = p.get("serial").unwrap_or_default().to_owned();
    let id = input::build::<KIND>(&mut p.chassis.board, &bus, devfn, transport, serial);
    // Before the PC's own: it has events once a driver takes them.
    p.chassis.built.inputs.insert(0, id);
    Ok(())
}

impl Place<'_, '_> {
    /// The ports that name this device, or none.
    fn serial_ports(&mut self, max: u32) -> Result<Vec<serial::Port>, BuildError> {
        let mut ports: Vec<serial::Port> = Vec::new();
        let config = self.chassis.config;
        for (i, spec) in config.devices.iter().enumerate() {
            let console = spec.kind == "virtconsole";
            if !console && spec.kind != "virtserialport" || self.chassis.seated.contains(&i) {
                continue;
            }
            let get =
                |name: &str| spec.props.iter().rev().find(|p| p.0 == name).map(|p| p.1.as_str());
            let ours = get("bus").is_none_or(|bus| match bus.strip_suffix(".0") {
                Some(id) => Some(id) == self.get("id").or(Some("virtio-serial0")),
                None => false,
            });
            if !ours {
                continue;
            }
            let wrong = |reason: String| BuildError::Property { kind: spec.kind.clone(), reason };
            let free = |nr: u32| nr < max && ports.iter().all(|p| p.nr != nr);
            let nr = match get("nr").map(str::parse) {
                None => (u32::from(!console)..max).find(|&nr| free(nr)),
                Some(Ok(nr)) => Some(nr).filter(|&nr| free(nr)),
                Some(Err(_)) => return Err(wrong("nr is a number".into())),
            };
            let Some(nr) = nr else {
                return Err(wrong("there is no free port of that number".into()));
            };
            let end = self.chassis.board.port();
            let usual = format!("{}{nr}", spec.kind);
            let name = get("chardev").or(get("id")).unwrap_or(&usual).to_owned();
            self.chassis.built.chars.push((name, end.clone()));
            let name = get("name").unwrap_or_default().to_owned();
            ports.push(serial::Port { nr, console, name, end });
            self.chassis.seated.insert(i);
        }
        ports.sort_by_key(|p| p.nr);
        Ok(ports)
    }
}
