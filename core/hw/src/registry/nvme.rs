//! NVM Express controllers and their namespaces.

use super::{BOOTINDEX, DeviceType, Place, RERROR, WERROR, plugged, property};
use crate::block::nvme::{self, Namespace};
use crate::i386::drives::error_policies;
use crate::machine::{BuildError, DeviceSpec, Drive};

pub(super) const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "nvme",
        bus: "PCI",
        description: "an NVM Express controller",
        properties: &[
            property("drive", "id of the drive that is namespace 1 (none)"),
            property("serial", "serial number, which it must have"),
            property("max_ioqpairs", "pairs of queues for reads and writes (64)"),
            property("msix_qsize", "MSI-X vectors (65)"),
            property("logical_block_size", "block size of namespace 1 (512)"),
            RERROR,
            WERROR,
            BOOTINDEX,
        ],
        build: |p| {
            let (bus, devfn) = p.slot()?;
            let Some(serial) = p.get("serial").filter(|s| !s.is_empty()) else {
                return p.wrong("it needs serial=TEXT");
            };
            let serial = serial.to_owned();
            let queues = p.given("max_ioqpairs")?.unwrap_or(64);
            let vectors = p.given("msix_qsize")?.unwrap_or(65);
            if !(1..=256).contains(&queues) || !(1..=128).contains(&vectors) {
                return p.wrong("max_ioqpairs is 1 to 256, msix_qsize 1 to 128");
            }
            let namespaces = p.namespaces()?;
            p.boots("nvme", devfn, "/namespace@1,0")?;
            let config = nvme::Config { serial, queues, vectors, namespaces };
            nvme::build(&mut p.chassis.board, &bus, devfn, config);
            Ok(())
        },
    },
    DeviceType {
        name: "nvme-ns",
        bus: "nvme-bus",
        description: "a namespace of an NVM Express controller",
        properties: &[
            property("drive", "id of the drive"),
            property("nsid", "number (the next free one)"),
            property("logical_block_size", "block size (512)"),
            property("eui64", "64-bit identifier, 0 for none"),
            RERROR,
            WERROR,
        ],
        build: plugged,
    },
];

fn of<'s>(spec: &'s DeviceSpec, name: &str) -> Option<&'s str> {
    spec.props.iter().rev().find(|p| p.0 == name).map(|p| p.1.as_str())
}

fn wrong<T>(spec: &DeviceSpec, reason: &str) -> Result<T, BuildError> {
    Err(BuildError::Property { kind: spec.kind.clone(), reason: reason.into() })
}

fn number(spec: &DeviceSpec, name: &str, usual: u64) -> Result<u64, BuildError> {
    let parsed = match of(spec, name) {
        None => Ok(usual),
        Some(text) => match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        },
    };
    parsed.or_else(|_| wrong(spec, &format!("{name} is a number")))
}

fn namespace(spec: &DeviceSpec, drive: Drive, id: u32) -> Result<Namespace, BuildError> {
    error_policies(spec, &drive)?;
    let block_size = number(spec, "logical_block_size", 512)?;
    if !block_size.is_power_of_two() || !(512..=0x1_0000).contains(&block_size) {
        return wrong(spec, "logical_block_size is a power of two from 512 to 65536");
    }
    let eui64 = number(spec, "eui64", 0)?;
    Ok(Namespace { id, block_size: block_size as u32, eui64, backend: drive.backend })
}

impl Place<'_, '_> {
    /// The namespaces of this controller, by number: its own drive, and those that name it or no controller.
    fn namespaces(&mut self) -> Result<Vec<Namespace>, BuildError> {
        let mut found = Vec::new();
        if let Some(name) = self.get("drive").map(str::to_owned) {
            let Some(drive) = self.chassis.drive_named(&name) else {
                return self.wrong(&format!("there is no free drive '{name}'"));
            };
            found.push(namespace(self.spec, drive, 1)?);
        }
        let config = self.chassis.config;
        for (i, spec) in config.devices.iter().enumerate().filter(|(_, s)| s.kind == "nvme-ns") {
            let ours = of(spec, "bus").is_none_or(|bus| Some(bus) == self.get("id"));
            if self.chassis.seated.contains(&i) || !ours {
                continue;
            }
            let Some(name) = of(spec, "drive") else { return wrong(spec, "it needs drive=ID") };
            let Some(drive) = self.chassis.drive_named(name) else {
                return wrong(spec, &format!("there is no free drive '{name}'"));
            };
            let free = |id: u32| found.iter().all(|n: &Namespace| n.id != id);
            let id = match number(spec, "nsid", 0)? {
                0 => (1..=256).find(|&id| free(id)),
                id @ 1..=256 => Some(id as u32).filter(|&id| free(id)),
                _ => None,
            };
            let Some(id) = id else {
                return wrong(spec, "there is no free namespace of that number");
            };
            found.push(namespace(spec, drive, id)?);
            self.chassis.seated.insert(i);
        }
        found.sort_by_key(|n| n.id);
        Ok(found)
    }
}
