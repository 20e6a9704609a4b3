//! Devices on a PCI bus, but for network cards.

use super::{DeviceType, property};
use crate::display::vga;
use crate::virtio::blk;

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "virtio-blk-pci",
        bus: "PCI",
        description: "a virtio disk",
        properties: &[
            property("drive", "id of the drive"),
            property("serial", "serial number"),
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let Some(name) = p.get("drive") else { return p.wrong("it needs drive=ID") };
            let name = name.to_string();
            let Some(drive) = p.chassis.drive_named(&name) else {
                return p.wrong(&format!("there is no free drive '{name}'"));
            };
            let serial = p.get("serial").unwrap_or("").to_string();
            let config = blk::Config { serial, ..blk::Config::default() };
            p.chassis.virtio_drive(&bus, devfn, drive, config);
            Ok(())
        },
    },
    DeviceType {
        name: "VGA",
        bus: "PCI",
        description: "a display adapter with the Bochs interface",
        properties: &[
            property("vgamem_mb", "MiB of video memory (16)"),
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let mib = p.number("vgamem_mb", 16)?;
            if !mib.is_power_of_two() || mib > 32 {
                return p.wrong("vgamem_mb is a power of two up to 32");
            }
            let rom = p.chassis.config.video_bios.clone();
            let memory = bus.memory().clone();
            let board = &mut p.chassis.board;
            let id = vga::build_pci(board, &bus, devfn, &memory, (mib as usize) << 20, &rom)?;
            p.chassis.built.display.get_or_insert(id);
            Ok(())
        },
    },
];
