//! SCSI host adapters and the units on their buses.

use super::pci::{LEGACY, VECTORS};
use super::{BOOTINDEX, DeviceType, Place, Property, RERROR, WERROR, plugged, property};
use crate::machine::BuildError;
use crate::scsi::UnitConfig;
use crate::scsi::lsi53c895a::{self, Model};
use crate::scsi::pvscsi;
use crate::virtio::scsi as virtio_scsi;

const DRIVE: Property = property("drive", "id of the drive");
const TARGET: Property = property("scsi-id", "place on the bus (the next free one)");
const LUN: Property = property("lun", "logical unit of the target (0)");
const CHANNEL: Property = property("channel", "channel of the bus; there is one, 0");
const SERIAL: Property = property("serial", "serial number");
const VENDOR: Property = property("vendor", "vendor (QEMU)");
const PRODUCT: Property = property("product", "product (QEMU HARDDISK or QEMU CD-ROM)");
const VERSION: Property = property("ver", "revision (2.5+)");

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "scsi-hd",
        bus: "SCSI",
        description: "a SCSI disk",
        properties: &[
            DRIVE,
            TARGET,
            LUN,
            CHANNEL,
            SERIAL,
            VENDOR,
            PRODUCT,
            VERSION,
            property("device_id", "name in the identification page (serial number or drive)"),
            property("wwn", "world-wide name, 0 for none"),
            property("port_wwn", "world-wide name of the port, 0 for none"),
            property("port_index", "relative number of the port, 0 for none"),
            property("logical_block_size", "block size (512)"),
            property("physical_block_size", "block size of the medium (512)"),
            property("min_io_size", "smallest good transfer in bytes, 0 for not said"),
            property("opt_io_size", "best transfer in bytes, 0 for not said"),
            property("discard_granularity", "bytes given back together, 0 for never (4096)"),
            property("max_unmap_size", "most bytes of an UNMAP (1073741824)"),
            property("max_io_size", "most bytes of a transfer (2147483647)"),
            property("rotation_rate", "rotations a minute; 1 for none, 0 for not said"),
            property("removable", "the medium can be taken out (off)"),
            property("dpofua", "it says that it knows the DPO and FUA bits (off)"),
            property("scsi_version", "version of SPC (5)"),
            RERROR,
            WERROR,
            BOOTINDEX,
        ],
        build: plugged,
    },
    DeviceType {
        name: "scsi-cd",
        bus: "SCSI",
        description: "a SCSI CD-ROM drive",
        properties: &[
            DRIVE, TARGET, LUN, CHANNEL, SERIAL, VENDOR, PRODUCT, VERSION, RERROR, WERROR,
            BOOTINDEX,
        ],
        build: plugged,
    },
    DeviceType {
        name: "virtio-scsi-pci",
        bus: "PCI",
        description: "a virtio SCSI host adapter",
        properties: &[
            property("num_queues", "request queues (1)"),
            property("virtqueue_size", "entries of a queue, a power of two (256)"),
            property("max_sectors", "most 512-byte blocks of a request (65535)"),
            property("cmd_per_lun", "commands for a unit at a time (128)"),
            property("hotplug", "tells of units that come and go (on)"),
            property("param_change", "tells of changed parameters (on)"),
            LEGACY,
            VECTORS,
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let usual = virtio_scsi::Config::default();
            let [sectors, commands] = usual.limits;
            let config = virtio_scsi::Config {
                queues: p.given("num_queues")?.unwrap_or(usual.queues),
                queue_size: p.given("virtqueue_size")?.unwrap_or(usual.queue_size),
                limits: [
                    p.given("max_sectors")?.unwrap_or(sectors),
                    p.given("cmd_per_lun")?.unwrap_or(commands),
                ],
                hotplug: p.switch("hotplug", true)?,
                param_change: p.switch("param_change", true)?,
            };
            if !(1..=60).contains(&config.queues) {
                return p.wrong("num_queues is 1 to 60");
            }
            if !config.queue_size.is_power_of_two() || !(4..=1024).contains(&config.queue_size) {
                return p.wrong("virtqueue_size is a power of two from 4 to 1024");
            }
            let transport = p.transport(config.queues + 3)?;
            let units = p.scsi_units(devfn, 256, "channel@0/disk")?;
            virtio_scsi::build(&mut p.chassis.board, &bus, devfn, transport, config, units);
            Ok(())
        },
    },
    DeviceType {
        name: "pvscsi",
        bus: "PCI",
        description: "VMware's paravirtual SCSI host adapter",
        properties: &[],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let units = p.scsi_units(devfn, 64, "disk")?;
            pvscsi::build(&mut p.chassis.board, &bus, devfn, units);
            Ok(())
        },
    },
    lsi("lsi53c895a", "an LSI 53C895A SCSI host adapter", |p| lsi_of(p, Model::C895a)),
    lsi("lsi", "the same as lsi53c895a", |p| lsi_of(p, Model::C895a)),
    lsi("lsi53c810", "an LSI 53C810 SCSI host adapter", |p| lsi_of(p, Model::C810)),
];

const fn lsi(
    name: &'static str,
    description: &'static str,
    build: super::pci::Build,
) -> DeviceType {
    DeviceType { name, bus: "PCI", description, properties: &[], build }
}

fn lsi_of(p: &mut Place<'_, '_>, model: Model) -> Result<(), BuildError> {
    let (bus, devfn) = p.slot()?;
    let units = p.scsi_units(devfn, 7, "disk")?;
    lsi53c895a::build(&mut p.chassis.board, &bus, devfn, model, units);
    Ok(())
}

impl Place<'_, '_> {
    /// The units that go on the bus of this adapter, which has `targets` places; firmware calls one `kind` and its
    /// place.
    pub(super) fn scsi_units(
        &mut self,
        devfn: u8,
        targets: usize,
        kind: &str,
    ) -> Result<Vec<UnitConfig>, BuildError> {
        let path = format!("{}/{kind}", self.firmware_path("scsi", devfn));
        let id = self.get("id").map(str::to_owned);
        self.chassis.scsi_units(id.as_deref(), targets, &path)
    }
}

#[cfg(test)]
mod tests {
    use crate::i386::MACHINES;
    use crate::machine::{BuildError, Built, DeviceSpec, Drive, Interface, MachineConfig};

    /// A `pc` with drives `a` and `b`, and devices as they are typed.
    fn machine(interface: Interface, devices: &[&str]) -> Result<Built, BuildError> {
        let spec = |text: &&str| {
            let mut words = text.split(',');
            let pair = |w: &str| w.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
            DeviceSpec {
                kind: words.next().unwrap_or_default().into(),
                props: words.filter_map(pair).collect(),
            }
        };
        let config = MachineConfig {
            memory: 4 << 20,
            firmware: vec![0xf4; 0x1_0000],
            drives: ["a", "b"]
                .map(|id| Drive { id: id.into(), interface, ..Drive::default() })
                .into(),
            devices: devices.iter().map(spec).collect(),
            ..MachineConfig::default()
        };
        (MACHINES[0].build)(&config)
    }

    #[test]
    fn units_go_to_the_bus_and_place_they_name() {
        let fits: &[&[&str]] = &[
            &["lsi53c895a", "scsi-hd,drive=a,logical_block_size=4k", "scsi-hd,drive=b,scsi-id=6"],
            &["pvscsi,id=p", "lsi53c895a", "scsi-hd,drive=a,bus=p.0,lun=3", "scsi-cd,bus=scsi.0"],
            &["virtio-scsi-pci,id=v", "scsi-hd,drive=a,bus=v.0,scsi-id=200", "scsi-cd,scsi-id=200"],
            &["nvme,serial=s,id=n,drive=a", "nvme-ns,drive=b,nsid=7"],
            &["virtio-serial-pci", "virtconsole", "virtserialport,name=x,nr=5"],
        ];
        for devices in fits {
            let built = machine(Interface::None, devices);
            assert!(built.is_ok(), "{devices:?}: {}", built.err().unwrap());
        }
        let refused: &[(&[&str], &str)] = &[
            (&["scsi-hd,drive=a"], "no bus for it"),
            (&["lsi53c895a", "scsi-hd,drive=a,scsi-id=7"], "no scsi-id 7"),
            (&["pvscsi", "scsi-hd,drive=a,scsi-id=1,lun=0", "scsi-cd,scsi-id=1,lun=0"], "taken"),
            (&["pvscsi", "scsi-hd"], "needs drive"),
            (&["pvscsi", "scsi-hd,drive=a,channel=1"], "no such channel"),
            (&["pvscsi", "scsi-hd,drive=a,logical_block_size=100"], "powers of two"),
            (&["nvme,drive=a"], "serial"),
            (&["nvme,serial=s,drive=a", "nvme-ns,drive=b,nsid=1"], "no free namespace"),
            (&["virtio-serial-pci", "virtconsole,nr=1", "virtserialport,nr=1"], "no free port"),
        ];
        for (devices, why) in refused {
            let error = machine(Interface::None, devices).err().map(|e| e.to_string());
            assert!(error.as_ref().is_some_and(|e| e.contains(why)), "{devices:?}: {error:?}");
        }
    }

    #[test]
    fn drives_of_the_scsi_interface_bring_an_adapter_if_there_is_none() {
        let kinds = |devices: &[&str]| {
            let built = machine(Interface::Scsi, devices).unwrap();
            built.named.into_iter().map(|n| n.kind).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&[]), ["lsi53c895a"]);
        assert_eq!(kinds(&["pvscsi"]), ["pvscsi"]);
    }
}
