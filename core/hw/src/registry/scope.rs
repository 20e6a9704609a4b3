//! What is in scope of the PC's device families, whether it is there or not.
//!
//! One row each: the family as QEMU's `hw/` names its folders, the type name, the guest driver that uses it, and the
//! tests in which a guest did. [`page`] makes docs/devices.md of it; a type that is registered and has no row fails a test.

use super::find;
use crate::i386::MACHINES;
use crate::machine::MachineConfig;
use std::collections::BTreeMap;

struct Row(&'static str, &'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row("acpi", "PIIX4_PM", "i2c-piix4, ACPI", &[]),
    Row("audio", "AC97", "snd-intel8x0", &[]),
    Row("audio", "adlib", "snd-sb8", &[]),
    Row("audio", "cs4231a", "snd-cs4231", &[]),
    Row("audio", "ES1370", "snd-ens1370", &[]),
    Row("audio", "gus", "snd-gusclassic", &[]),
    Row("audio", "hda-duplex", "snd-hda-codec-generic", &[]),
    Row("audio", "hda-micro", "snd-hda-codec-generic", &[]),
    Row("audio", "hda-output", "snd-hda-codec-generic", &[]),
    Row("audio", "ich9-intel-hda", "snd-hda-intel", &[]),
    Row("audio", "intel-hda", "snd-hda-intel", &[]),
    Row("audio", "isa-pcspk", "pcspkr", &[]),
    Row("audio", "sb16", "snd-sb16", &[]),
    Row("audio", "wm8750", "snd-soc-wm8750", &[]),
    Row("block", "floppy", "floppy", &["tests/machines/grub-floppy"]),
    Row("block", "isa-fdc", "floppy", &["tests/machines/grub-floppy"]),
    Row("block", "nvme", "nvme", &["tests/system/controllers.rs"]),
    Row("block", "nvme-ns", "nvme", &[]),
    Row("char", "ipoctal232", "ipoctal", &[]),
    Row("char", "isa-debugcon", "firmware", &[]),
    Row("char", "isa-parallel", "parport_pc", &[]),
    Row("char", "isa-serial", "8250", &[]),
    Row("char", "pci-serial", "8250_pci", &[]),
    Row("char", "pci-serial-2x", "8250_pci", &[]),
    Row("char", "pci-serial-4x", "8250_pci", &[]),
    Row("char", "virtconsole", "virtio_console", &[]),
    Row("char", "virtserialport", "virtio_console", &[]),
    Row("display", "bochs-display", "bochs", &[]),
    Row("display", "cirrus-vga", "cirrus", &[]),
    Row("display", "isa-cirrus-vga", "cirrus of DOS and Windows 9x", &[]),
    Row("display", "isa-vga", "vgabios", &[]),
    Row("display", "secondary-vga", "bochs", &[]),
    Row("display", "ssd0303", "Stellaris firmware", &[]),
    Row("display", "VGA", "bochs", &[]),
    Row("display", "virtio-gpu-pci", "virtio_gpu", &[]),
    Row("display", "vmware-svga", "vmwgfx", &[]),
    Row("dma", "i82374", "DMA of PReP", &[]),
    Row("i2c", "ICH9-SMB", "i2c-i801", &[]),
    Row("i2c", "smbus-eeprom", "at24", &[]),
    Row("ide", "cmd646-ide", "pata_cmd64x", &[]),
    Row("ide", "ich9-ahci", "ahci", &["tests/system/disks.rs"]),
    Row("ide", "ide-cd", "sr", &["tests/machines/grub-cdrom"]),
    Row("ide", "ide-hd", "sd", &["tests/system/disks.rs"]),
    Row("ide", "isa-ide", "pata_legacy", &[]),
    Row("ide", "piix3-ide", "ata_piix", &["tests/system/disks.rs"]),
    Row("ide", "piix4-ide", "ata_piix", &[]),
    Row("ide", "via-ide", "pata_via", &[]),
    Row("input", "i8042", "i8042, atkbd, psmouse", &[]),
    Row("input", "virtio-keyboard-pci", "virtio_input", &[]),
    Row("input", "virtio-mouse-pci", "virtio_input", &[]),
    Row("input", "virtio-tablet-pci", "virtio_input", &[]),
    Row("input", "vmmouse", "vmmouse", &[]),
    Row("intc", "isa-i8259", "every system", &[]),
    Row("ipack", "tpci200", "tpci200", &[]),
    Row("isa", "i82378", "PReP", &[]),
    Row("isa", "ICH9-LPC", "lpc_ich", &[]),
    Row("isa", "pc87312", "PReP", &[]),
    Row("isa", "PIIX4", "Malta", &[]),
    Row("isa", "VT82C686B", "Fuloong", &[]),
    Row("isa", "VT82C686B_AC97", "Fuloong", &[]),
    Row("isa", "VT82C686B_MC97", "Fuloong", &[]),
    Row("isa", "VT82C686B_PM", "Fuloong", &[]),
    Row("misc", "edu", "none", &[]),
    Row("misc", "isa-applesmc", "applesmc", &[]),
    Row("misc", "isa-debug-exit", "test programs", &[]),
    Row("misc", "ivshmem-plain", "uio", &[]),
    Row("misc", "pc-testdev", "kvm-unit-tests", &[]),
    Row("misc", "pci-testdev", "kvm-unit-tests", &[]),
    Row("misc", "pvpanic", "pvpanic", &[]),
    Row("misc", "pvpanic-pci", "pvpanic-pci", &[]),
    Row("misc", "tmp105", "lm75", &[]),
    Row("misc", "vmport", "VMware tools", &[]),
    Row("net", "e1000", "e1000", &["tests/machines/network-e1000"]),
    Row("net", "e1000-82544gc", "e1000", &[]),
    Row("net", "e1000-82545em", "e1000", &[]),
    Row("net", "i82550", "e100", &[]),
    Row("net", "i82551", "e100", &[]),
    Row("net", "i82557a", "e100", &[]),
    Row("net", "i82557b", "e100", &[]),
    Row("net", "i82557c", "e100", &[]),
    Row("net", "i82558a", "e100", &[]),
    Row("net", "i82558b", "e100", &[]),
    Row("net", "i82559a", "e100", &[]),
    Row("net", "i82559b", "e100", &[]),
    Row("net", "i82559c", "e100", &[]),
    Row("net", "i82559er", "e100", &[]),
    Row("net", "i82562", "e100", &[]),
    Row("net", "i82801", "e100", &[]),
    Row("net", "ne2k_isa", "ne", &[]),
    Row("net", "ne2k_pci", "ne2k-pci", &["tests/machines/network-ne2k_pci"]),
    Row("net", "pcnet", "pcnet32", &[]),
    Row("net", "rtl8139", "8139cp", &["tests/machines/network-rtl8139"]),
    Row("net", "vmxnet3", "vmxnet3", &[]),
    Row("pci-bridge", "i82801b11-bridge", "PCI core", &[]),
    Row("pci-bridge", "ioh3420", "pcieport", &[]),
    Row("pci-bridge", "pci-bridge", "PCI core, shpchp", &[]),
    Row("pci-bridge", "pcie-pci-bridge", "PCI core", &[]),
    Row("pci-bridge", "pcie-root-port", "pcieport", &[]),
    Row("pci-bridge", "x3130-upstream", "pcieport", &[]),
    Row("pci-bridge", "xio3130-downstream", "pcieport", &[]),
    Row("pci-host", "i440FX", "PCI core", &[]),
    Row("pci-host", "mch", "PCI core", &[]),
    Row("pci-host", "PIIX3", "PCI core", &[]),
    Row("scsi", "am53c974", "am53c974", &[]),
    Row("scsi", "dc390", "am53c974", &[]),
    Row("scsi", "lsi", "sym53c8xx", &[]),
    Row("scsi", "lsi53c810", "sym53c8xx", &[]),
    Row("scsi", "lsi53c895a", "sym53c8xx", &["tests/system/controllers.rs"]),
    Row("scsi", "megasas", "megaraid_sas", &[]),
    Row("scsi", "mptsas1068", "mptsas", &[]),
    Row("scsi", "pvscsi", "vmw_pvscsi", &["tests/system/controllers.rs"]),
    Row("scsi", "scsi-cd", "sr", &[]),
    Row("scsi", "scsi-hd", "sd", &["tests/system/controllers.rs"]),
    Row("sd", "sd-card", "mmc_block", &[]),
    Row("sd", "sdhci-pci", "sdhci-pci", &[]),
    Row("timer", "ds1338", "rtc-ds1307", &[]),
    Row("timer", "isa-pit", "every system", &[]),
    Row("timer", "m48t59_isa", "PReP", &[]),
    Row("timer", "mc146818rtc", "rtc_cmos", &[]),
    Row("tpm", "tpm-tis", "tpm_tis", &[]),
    Row("usb", "ich9-usb-ehci1", "ehci_hcd", &["tests/system/usb.rs"]),
    Row("usb", "ich9-usb-ehci2", "ehci_hcd", &[]),
    Row("usb", "ich9-usb-uhci1", "uhci_hcd", &["tests/system/usb.rs"]),
    Row("usb", "ich9-usb-uhci2", "uhci_hcd", &[]),
    Row("usb", "ich9-usb-uhci3", "uhci_hcd", &[]),
    Row("usb", "ich9-usb-uhci4", "uhci_hcd", &[]),
    Row("usb", "ich9-usb-uhci5", "uhci_hcd", &[]),
    Row("usb", "ich9-usb-uhci6", "uhci_hcd", &[]),
    Row("usb", "nec-usb-xhci", "xhci_hcd", &[]),
    Row("usb", "pci-ohci", "ohci-pci", &["tests/system/controllers.rs", "tests/system/usb.rs"]),
    Row("usb", "piix3-usb-uhci", "uhci_hcd", &["tests/system/controllers.rs", "tests/system/usb.rs"]),
    Row("usb", "piix4-usb-uhci", "uhci_hcd", &[]),
    Row("usb", "qemu-xhci", "xhci_hcd", &["tests/system/controllers.rs", "tests/system/usb.rs"]),
    Row("usb", "usb-audio", "snd-usb-audio", &[]),
    Row("usb", "usb-bot", "usb-storage", &[]),
    Row("usb", "usb-braille", "BrlTTY", &[]),
    Row("usb", "usb-bt-dongle", "btusb", &[]),
    Row("usb", "usb-ccid", "pcscd", &[]),
    Row("usb", "usb-ehci", "ehci_hcd", &["tests/system/controllers.rs"]),
    Row("usb", "usb-hub", "hub", &["tests/system/usb.rs"]),
    Row("usb", "usb-kbd", "usbhid", &["tests/system/usb.rs"]),
    Row("usb", "usb-mouse", "usbhid", &[]),
    Row("usb", "usb-mtp", "libmtp", &[]),
    Row("usb", "usb-net", "cdc_ether, rndis_host", &[]),
    Row("usb", "usb-serial", "ftdi_sio", &[]),
    Row("usb", "usb-storage", "usb-storage", &["tests/system/controllers.rs", "tests/system/usb.rs"]),
    Row("usb", "usb-tablet", "usbhid", &["tests/system/usb.rs"]),
    Row("usb", "usb-uas", "uas", &["tests/system/controllers.rs"]),
    Row("usb", "usb-wacom-tablet", "wacom", &[]),
    Row("usb", "vt82c686b-usb-uhci", "uhci_hcd", &[]),
    Row("virtio", "virtio-9p-pci", "9pnet_virtio", &[]),
    Row("virtio", "virtio-balloon-pci", "virtio_balloon", &[]),
    Row("virtio", "virtio-blk-pci", "virtio_blk", &["tests/system/disks.rs"]),
    Row("virtio", "virtio-net-pci", "virtio_net", &["tests/machines/network-virtio-net-pci"]),
    Row("virtio", "virtio-rng-pci", "virtio_rng", &[]),
    Row("virtio", "virtio-scsi-pci", "virtio_scsi", &["tests/system/controllers.rs"]),
    Row("virtio", "virtio-serial-pci", "virtio_console", &[]),
    Row("watchdog", "i6300esb", "i6300esb", &[]),
    Row("watchdog", "ib700", "ib700wdt", &[]),
];

/// The types that are on boards without being asked for, and on which.
fn on_boards() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for machine in MACHINES {
        let config = MachineConfig {
            memory: 4 << 20,
            firmware: vec![0xf4; 0x1_0000],
            ..MachineConfig::default()
        };
        let Ok(built) = (machine.build)(&config) else { continue };
        for (_, _, name) in built.board.devices() {
            let boards = found.entry(name).or_default();
            if boards.last() != Some(&machine.name) {
                boards.push(machine.name);
            }
        }
    }
    found
}

/// The page of devices, docs/devices.md.
pub fn page() -> String {
    let boards = on_boards();
    let mut out = String::from(
        "# Devices\n\nMade by `registry::scope` of `orrery-hw`, whose test prints it anew when it is not what there is.\n\n\
         Every type of QEMU's `hw/` that plugs into a PC. What is there has tests of its registers in its own file, the\n\
         conformance suite among them; the last column says where a guest's driver was seen at work with it, which is\n\
         run by `./x test`. Where nothing stands, no test has a guest use it.\n\n",
    );
    let status = |name: &str| match (find(name), boards.get(name)) {
        (Some(_), _) => "`-device`".to_owned(),
        (None, Some(boards)) => format!("on {}", boards.join(", ")),
        (None, None) => "missing".to_owned(),
    };
    let missing = ROWS.iter().filter(|r| status(r.1) == "missing").count();
    let seen = ROWS.iter().filter(|r| !r.3.is_empty()).count();
    out += &format!(
        "{} types: {} are there, {missing} are missing; {seen} were seen at work.\n",
        ROWS.len(),
        ROWS.len() - missing,
    );
    let mut family = "";
    for Row(of, name, driver, tests) in ROWS {
        if *of != family {
            family = of;
            out += &format!(
                "\n## {of}\n\n| type | status | driver | seen at work |\n|---|---|---|---|\n"
            );
        }
        let tests: Vec<String> = tests.iter().map(|t| format!("`{t}`")).collect();
        out += &format!("| `{name}` | {} | {driver} | {} |\n", status(name), tests.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::devices;
    use std::collections::BTreeSet;

    #[test]
    fn every_type_has_one_row_and_families_stand_together() {
        let names: BTreeSet<&str> = ROWS.iter().map(|r| r.1).collect();
        assert_eq!(names.len(), ROWS.len());
        for kind in devices() {
            assert!(names.contains(kind.name), "'{}' has no row", kind.name);
        }
        assert!(ROWS.is_sorted_by_key(|r| r.0));
        for row in ROWS.iter().filter(|r| !r.3.is_empty()) {
            let there = find(row.1).is_some() || on_boards().contains_key(row.1);
            assert!(there, "'{}' was seen at work and is missing", row.1);
        }
    }

    #[test]
    fn the_page_of_devices_is_what_there_is() {
        let page = include_str!("../../../../docs/devices.md");
        let now = super::page();
        assert!(page == now, "docs/devices.md should be:\n{now}");
    }
}
