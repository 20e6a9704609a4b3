//! `pc`: 440FX host bridge and PIIX.

use super::acpi_build::AcpiFiles;
use super::chassis::Chassis;
use super::drives::DriveBus;
use crate::acpi::piix4;
use crate::ide::piix;
use crate::isa::piix3;
use crate::machine::{BuildError, Built, MachineConfig, Suspend};
use crate::nvram::fw_cfg;
use crate::pci::{self, devfn};
use crate::pci_host::i440fx;
use crate::usb::uhci;

/// Interrupt pins rotate with the device number, from device 1.
fn pin_map(device: u8, pin: u8) -> usize {
    usize::from(device + pin + 3) % 4
}

/// Wires the board.
pub(super) fn build(config: &MachineConfig) -> Result<Built, BuildError> {
    let mut c = Chassis::new(config, 0xe000_0000, 0xc000_0000)?;
    let space = c.board.regions().container("pci", u64::MAX);
    c.board.memory().add_priority(0, -1, &space);
    let wires = (0..4).map(|_| c.board.wire()).collect();
    let bus = pci::Bus::new(&space, c.board.io(), wires, pin_map);
    let bridge = c.board.reserve("PIIX3");
    let host = i440fx::build(&mut c.board, &bus, &space, Some((bridge, piix3::RESET_CONTROL)));
    let isa = c.irqs();
    piix3::build(&mut c.board, &bus, devfn(1, 0), bridge, isa);
    c.firmware(&space, false)?;
    let int = c.board.wire();

    c.floppies()?;
    let path = "/pci@i0cf8/ide@1,1".into();
    let cables = DriveBus { name: "ide", usual: true, cables: 2, units: 2, path };
    let mut plugs = c.disks(&cables)?.into_iter();
    let mut channel = || [plugs.next().flatten(), plugs.next().flatten()];
    let drives = [channel(), channel()];
    let ide = piix::Config { model: piix::Model::Piix3, drives };
    let lines = [c.irq(14), c.irq(15)];
    piix::build(&mut c.board, &bus, devfn(1, 1), ide, lines);
    let no_smm = !c.prop("smm", true)?;
    let (sci, events) = (c.irq(9), c.power_events());
    let pm = piix4::Config { no_smm, spd: Vec::new() };
    let pm = piix4::build(&mut c.board, &bus, devfn(1, 3), pm, sci, events);
    c.suspend = Some(Suspend { pm: pm.id, host, attributes: i440fx::PAM0 as u64 });

    let hpet = c.prop("hpet", true)?;
    let replaced = c.board.wire();
    c.at_controllers([replaced.clone(), replaced.clone()], int.pin());
    c.apics(&int, &[]);
    if hpet {
        c.hpet(&replaced);
    }
    c.keyboard();
    if c.prop("usb", false)? {
        let usb = uhci::bus(&c.board, "usb-bus.0");
        usb.set_path("/pci@i0cf8/usb@1,2".into());
        let config = uhci::Config { model: uhci::MODELS[0], companion: None };
        uhci::build(&mut c.board, &bus, devfn(1, 2), config, usb.clone());
        c.built.usb.push(usb);
    }
    c.serial_and_parallel()?;
    c.pci_display(&bus, devfn(2, 0))?;
    c.network(Some(&bus), "e1000")?;
    c.virtio_drives(&bus, 3)?;
    c.devices(Some(&bus))?;

    c.describe("pc", "Standard PC (i440FX + PIIX, 1996)")?;
    c.solder(&bus);
    let mut acpi = c.acpi(false, hpet);
    acpi.slots = !bus.fixed();
    let made = AcpiFiles { config: acpi, pm: pm.pm, ecam: None };
    let mut items = std::mem::take(&mut c.items);
    made.add_to(&mut items);
    fw_cfg::build(&mut c.board, items, Box::new(made));
    c.finish()
}
