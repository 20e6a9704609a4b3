//! `q35`: Q35 memory controller hub and ICH9.

use super::acpi_build::AcpiFiles;
use super::chassis::Chassis;
use super::drives::DriveBus;
use crate::acpi::ich9_smb;
use crate::ide::ahci;
use crate::ide::channel::Plug;
use crate::isa::ich9_lpc;
use crate::machine::{BuildError, Built, MachineConfig, Suspend};
use crate::nvram::fw_cfg;
use crate::pci::{self, devfn};
use crate::pci_host::q35;
use crate::usb::{ehci, uhci};
use orrery_system::IrqInput;

/// Wires the board.
pub(super) fn build(config: &MachineConfig) -> Result<Built, BuildError> {
    let mut c = Chassis::new(config, 0xb000_0000, 0x8000_0000)?;
    let space = c.board.regions().container("pci", u64::MAX);
    c.board.memory().add_priority(0, -1, &space);
    let wires = (0..ich9_lpc::BUS_WIRES).map(|_| c.board.wire()).collect();
    let bus = pci::Bus::new(&space, c.board.io(), wires, ich9_lpc::pin_map);
    let lpc = c.board.reserve("ICH9-LPC");
    let mut mch = q35::Config::new(c.layout.low);
    mch.smbase = c.global_switch("mch", "smbase-smram", true)?;
    if let Some(text) = c.global("mch", "extended-tseg-mbytes") {
        let wrong = || BuildError::Property {
            kind: "mch".into(),
            reason: format!("extended-tseg-mbytes is 0 to 4095, not '{text}'"),
        };
        mch.ext_tseg_mib = text.parse().ok().filter(|n| *n < 4096).ok_or_else(wrong)?;
    }
    let reset = Some((lpc, ich9_lpc::RESET_CONTROL));
    let (host, ecam) = q35::build(&mut c.board, &bus, &space, &c.ram, mch, reset);
    let apic: Vec<IrqInput> = (0..8).map(|_| c.board.wire()).collect();
    let no_smm = !c.prop("smm", true)?;
    let (isa, pins) = (c.irqs(), apic.iter().map(IrqInput::pin).collect());
    let events = c.power_events();
    let no_reboot = c.global_switch("ICH9-LPC", "noreboot", false)?;
    let config = ich9_lpc::Config { no_smm, no_reboot };
    let pm = ich9_lpc::build(&mut c.board, &bus, devfn(31, 0), lpc, config, isa, pins, events);
    c.suspend = Some(Suspend { pm: lpc, host, attributes: q35::PAM0 as u64 });
    c.firmware(&space, false)?;
    let int = c.board.wire();

    c.floppies()?;
    let path = "/pci@i0cf8/pci8086,2922@1f,2".into();
    let ports = DriveBus { name: "ide", usual: true, cables: ahci::PORTS, units: 1, path };
    let plugs: [Plug; ahci::PORTS] =
        c.disks(&ports)?.try_into().unwrap_or_else(|_| std::array::from_fn(|_| None));
    ahci::build(&mut c.board, &bus, devfn(31, 2), ahci::Config { drives: plugs });
    ich9_smb::build(&mut c.board, &bus, devfn(31, 3), ich9_smb::Config::default());
    let hpet = c.prop("hpet", true)?;
    let replaced = c.board.wire();
    c.at_controllers([replaced.clone(), replaced.clone()], int.pin());
    c.apics(&int, &apic);
    if hpet {
        c.hpet(&replaced);
    }
    c.keyboard();
    if c.prop("usb", false)? {
        let usb = ehci::bus(&c.board, "usb-bus.0");
        usb.set_path("/pci@i0cf8/usb@1d,7".into());
        ehci::build(&mut c.board, &bus, devfn(29, 7), ehci::MODELS[1], usb.clone());
        for n in 0..3 {
            usb.add_companion();
            let model = uhci::MODELS[3 + n];
            let config = uhci::Config { model, companion: Some(2 * n) };
            uhci::build(&mut c.board, &bus, devfn(29, n as u8), config, usb.clone());
        }
        c.built.usb.push(usb);
    }
    c.serial_and_parallel()?;
    c.pci_display(&bus, devfn(1, 0))?;
    c.network(Some(&bus), "e1000")?;
    c.virtio_drives(&bus, 2)?;
    c.devices(Some(&bus))?;

    c.describe("q35", "Standard PC (Q35 + ICH9, 2009)")?;
    let made = AcpiFiles { config: c.acpi(true, hpet), pm, ecam: Some(ecam) };
    let mut items = std::mem::take(&mut c.items);
    made.add_to(&mut items);
    fw_cfg::build(&mut c.board, items, Box::new(made));
    c.finish()
}
