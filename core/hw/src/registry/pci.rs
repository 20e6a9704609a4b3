//! Devices on a PCI bus, but for network cards.

use super::{BOOTINDEX, DeviceType, Place, Property, RERROR, WERROR, property};
use crate::char::serial_pci;
use crate::display::vga;
use crate::i386::drives::{DriveBus, bios_geometry, error_policies};
use crate::ide::{ahci, channel::Plug};
use crate::machine::BuildError;
use crate::misc::{edu, i6300esb, pvpanic};
use crate::pci_bridge::{self, Kind};
use crate::virtio::{blk, rng};

/// Properties of every virtio device.
pub(super) const LEGACY: Property =
    property("disable-legacy", "without the interface of before version 1 (off)");
/// As above.
pub(super) const VECTORS: Property = property("vectors", "MSI-X vectors, 0 for none");

pub(super) type Build = fn(&mut Place<'_, '_>) -> Result<(), BuildError>;

/// A bridge; its id is the name of the bus behind it.
const fn bridge(name: &'static str, description: &'static str, build: Build) -> DeviceType {
    const PROPERTIES: &[Property] = &[
        property("chassis_nr", "number of the chassis, which nothing looks at"),
        property("chassis", "number of the chassis, which nothing looks at"),
        property("slot", "number of the slot, which nothing looks at"),
        property("port", "number of the port, which nothing looks at"),
        property("multifunction", "the device has more functions (off)"),
    ];
    DeviceType { name, bus: "PCI", description, properties: PROPERTIES, build }
}

fn bridge_of(p: &mut Place<'_, '_>, kind: Kind) -> Result<(), BuildError> {
    let (bus, devfn) = p.slot()?;
    let name = p.get("id").unwrap_or_default().to_owned();
    let _ = pci_bridge::build(&mut p.chassis.board, &bus, devfn, kind, &name);
    Ok(())
}

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "virtio-blk-pci",
        bus: "PCI",
        description: "a virtio disk",
        properties: &[
            property("drive", "id of the drive"),
            property("serial", "serial number"),
            property("queue-size", "entries of the queue, a power of two (256)"),
            property("logical_block_size", "block size that the guest sees (512)"),
            property("lcyls", "cylinders that a BIOS is to use"),
            property("lheads", "heads that a BIOS is to use"),
            property("lsecs", "sectors of a track that a BIOS is to use"),
            property("discard", "takes discard and write-zeroes requests (on)"),
            RERROR,
            WERROR,
            LEGACY,
            VECTORS,
            BOOTINDEX,
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let Some(name) = p.get("drive") else { return p.wrong("it needs drive=ID") };
            let name = name.to_string();
            let Some(drive) = p.chassis.drive_named(&name) else {
                return p.wrong(&format!("there is no free drive '{name}'"));
            };
            error_policies(p.spec, &drive)?;
            let config = blk::Config {
                serial: p.get("serial").unwrap_or("").to_string(),
                queue_size: p.given("queue-size")?.unwrap_or(256),
                block_size: p.given("logical_block_size")?.unwrap_or(512),
                discard: p.switch("discard", true)?,
            };
            if !config.queue_size.is_power_of_two() || !(4..=1024).contains(&config.queue_size) {
                return p.wrong("queue-size is a power of two from 4 to 1024");
            }
            if !config.block_size.is_power_of_two() || !(512..=32768).contains(&config.block_size) {
                return p.wrong("logical_block_size is a power of two from 512 to 32768");
            }
            if let Some([c, h, s]) = bios_geometry(p.spec)? {
                let path = p.bus_path();
                let place = format!("{path}/scsi@{:x}/disk@0,0 {c} {h} {s}", devfn >> 3);
                p.chassis.geometries.push(place);
            }
            p.boots("scsi", devfn, "/disk@0,0")?;
            let transport = p.transport(2)?;
            p.chassis.virtio_drive(&bus, devfn, drive, transport, config);
            Ok(())
        },
    },
    DeviceType {
        name: "ich9-ahci",
        bus: "PCI",
        description: "an AHCI controller with six ports",
        properties: &[],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let name = p.get("id").unwrap_or("ahci").to_string();
            let path = format!("{}/pci8086,2922@{:x}", p.bus_path(), devfn >> 3);
            let cables = ahci::PORTS;
            let ports = DriveBus { name: &name, usual: false, cables, units: 1, path };
            let mut plugs = p.chassis.disks(&ports)?.into_iter();
            let drives: [Plug; ahci::PORTS] = std::array::from_fn(|_| plugs.next().flatten());
            ahci::build(&mut p.chassis.board, &bus, devfn, ahci::Config { drives });
            Ok(())
        },
    },
    bridge("pcie-root-port", "a PCI Express port with one place", |p| bridge_of(p, Kind::RootPort)),
    bridge("pcie-pci-bridge", "a PCI bus behind PCI Express", |p| bridge_of(p, Kind::PcieToPci)),
    bridge("pci-bridge", "a further PCI bus", |p| bridge_of(p, Kind::Pci)),
    DeviceType {
        name: "pci-serial",
        bus: "PCI",
        description: "a serial port (16550A)",
        properties: &[property("chardev", "where the output goes")],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let port = p.chassis.board.port();
            serial_pci::build(&mut p.chassis.board, &bus, devfn, port.clone());
            p.character(port, "pci-serial");
            Ok(())
        },
    },
    DeviceType {
        name: "i6300esb",
        bus: "PCI",
        description: "a watchdog (Intel 6300ESB)",
        properties: &[],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            i6300esb::build(&mut p.chassis.board, &bus, devfn);
            Ok(())
        },
    },
    DeviceType {
        name: "pvpanic-pci",
        bus: "PCI",
        description: "a register in which a guest says that it crashed",
        properties: &[],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            pvpanic::build_pci(&mut p.chassis.board, &bus, devfn);
            Ok(())
        },
    },
    DeviceType {
        name: "virtio-rng-pci",
        bus: "PCI",
        description: "a virtio source of random numbers",
        properties: &[
            property("rng", "id of the source (rng-builtin); all give the machine's own numbers"),
            LEGACY,
            VECTORS,
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let transport = p.transport(2)?;
            rng::build(&mut p.chassis.board, &bus, devfn, transport);
            Ok(())
        },
    },
    DeviceType {
        name: "edu",
        bus: "PCI",
        description: "a device for learning to write drivers",
        properties: &[],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            edu::build(&mut p.chassis.board, &bus, devfn);
            Ok(())
        },
    },
    DeviceType {
        name: "VGA",
        bus: "PCI",
        description: "a display adapter with the Bochs interface",
        properties: &[property("vgamem_mb", "MiB of video memory (16)")],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let len = p.video_memory(16)?;
            let rom = p.chassis.config.video_bios.clone();
            let memory = bus.memory().clone();
            let board = &mut p.chassis.board;
            let id = vga::build_pci(board, &bus, devfn, &memory, len, &rom)?;
            p.chassis.built.display.get_or_insert(id);
            Ok(())
        },
    },
];
