//! Network cards.

use super::pci::{LEGACY, VECTORS};
use super::{BOOTINDEX, DeviceType, Place, Property, property};
use crate::machine::{BuildError, Nic};
use crate::net::{FIRST_MAC, e1000, frame, ne2000, rtl8139};
use crate::virtio;
use orrery_system::ports::NetPort;

const MAC: Property = property("mac", "hardware address (52:54:00:12:34:56, counted up)");
const NETDEV: Property = property("netdev", "id of the -netdev at the other end of its cable");

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "e1000",
        bus: "PCI",
        description: "Intel Gigabit Ethernet (82540EM)",
        properties: &[MAC, NETDEV, BOOTINDEX],
        build: |p| {
            let (mac, cable) = p.card()?;
            let (bus, devfn) = p.slot()?;
            p.boots("ethernet", devfn, "/ethernet-phy@0")?;
            e1000::build(&mut p.chassis.board, &bus, devfn, e1000::Config { mac }, cable);
            Ok(())
        },
    },
    DeviceType {
        name: "virtio-net-pci",
        bus: "PCI",
        description: "a virtio network card",
        properties: &[MAC, NETDEV, LEGACY, VECTORS, BOOTINDEX],
        build: |p| {
            let (mac, cable) = p.card()?;
            let (bus, devfn) = p.slot()?;
            p.boots("ethernet", devfn, "/ethernet-phy@0")?;
            let transport = p.transport(3)?;
            let config = virtio::net::Config { mac };
            virtio::net::build(&mut p.chassis.board, &bus, devfn, transport, config, cable);
            Ok(())
        },
    },
    DeviceType {
        name: "rtl8139",
        bus: "PCI",
        description: "Realtek Fast Ethernet (8139C+)",
        properties: &[MAC, NETDEV, BOOTINDEX],
        build: |p| {
            let (mac, cable) = p.card()?;
            let (bus, devfn) = p.slot()?;
            p.boots("ethernet", devfn, "/ethernet-phy@0")?;
            rtl8139::build(&mut p.chassis.board, &bus, devfn, rtl8139::Config { mac }, cable);
            Ok(())
        },
    },
    DeviceType {
        name: "ne2k_pci",
        bus: "PCI",
        description: "NE2000 on PCI (Realtek 8029)",
        properties: &[MAC, NETDEV, BOOTINDEX],
        build: |p| {
            let (mac, cable) = p.card()?;
            let (bus, devfn) = p.slot()?;
            p.boots("ethernet", devfn, "/ethernet-phy@0")?;
            ne2000::build_pci(&mut p.chassis.board, &bus, devfn, ne2000::Config { mac }, cable);
            Ok(())
        },
    },
    DeviceType {
        name: "ne2k_isa",
        bus: "ISA",
        description: "NE2000",
        properties: &[
            property("iobase", "first of 32 ports (0x300)"),
            property("irq", "interrupt (9)"),
            MAC,
            NETDEV,
        ],
        build: |p| {
            let (at, line) = (p.port("iobase", 0x300)?, p.isa_irq("irq", 9)?);
            let (mac, cable) = p.card()?;
            ne2000::build_isa(&mut p.chassis.board, at, line, ne2000::Config { mac }, cable);
            Ok(())
        },
    },
];

impl Place<'_, '_> {
    /// The address of a network card and its cable, whose other end is connected.
    fn card(&mut self) -> Result<(frame::Mac, NetPort), BuildError> {
        let n = self.chassis.cards;
        self.chassis.cards += 1;
        let mac = match self.get("mac") {
            None => frame::nth_mac(FIRST_MAC, n),
            Some(text) => match frame::parse_mac(text) {
                Some(mac) => mac,
                None => {
                    return self.wrong(&format!("'{text}' is no hardware address of a station"));
                }
            },
        };
        let cable = self.chassis.board.cable();
        match self.get("netdev").map(str::to_string) {
            Some(id) => match self.chassis.connect(&id, cable.clone()) {
                Ok(()) => {}
                Err(reason) => return self.wrong(&reason),
            },
            // A front end may take the other end.
            None => {
                let id = self.get("id").map_or_else(|| format!("net{n}"), str::to_string);
                self.chassis.built.nets.push((id, cable.clone()));
            }
        }
        let netdev = self.get("netdev").map(str::to_string);
        let id = self.get("id").unwrap_or_default().to_string();
        let model = super::find(&self.spec.kind).map_or("", |d| d.name).to_string();
        let nic = Nic { id, model, mac, netdev, device: None, cable: cable.clone() };
        self.chassis.built.nics.push(nic);
        Ok((mac, cable))
    }
}
