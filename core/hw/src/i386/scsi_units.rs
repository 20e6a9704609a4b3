//! SCSI units: which bus each goes on, and where.

use super::chassis::Chassis;
use super::drives::{error_policies, number, property, wrong};
use crate::machine::{BuildError, DeviceSpec, Drive, Interface};
use crate::scsi::spc::Identity;
use crate::scsi::{Address, Kind, UnitConfig, sbc};
use orrery_block::backend::BlockBackend;

/// A number, decimal or after `0x`; `4k` is 4096.
fn wide(spec: &DeviceSpec, name: &str) -> Result<Option<u64>, BuildError> {
    let Some(text) = property(spec, name) else { return Ok(None) };
    let parsed = match (text.strip_prefix("0x"), text.strip_suffix(['k', 'K'])) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (None, Some(kib)) => kib.parse::<u64>().ok().and_then(|n| n.checked_mul(1024)),
        (None, None) => text.parse().ok(),
    };
    match parsed {
        Some(n) => Ok(Some(n)),
        None => wrong(spec, format!("{name} is a number, not '{text}'")),
    }
}

fn switch(spec: &DeviceSpec, name: &str) -> Result<bool, BuildError> {
    match property(spec, name) {
        Some("on" | "yes" | "true" | "y") => Ok(true),
        None | Some("off" | "no" | "false" | "n") => Ok(false),
        Some(text) => wrong(spec, format!("{name} is on or off, not '{text}'")),
    }
}

fn small<T: TryFrom<u64>>(spec: &DeviceSpec, name: &str, usual: T) -> Result<T, BuildError> {
    match wide(spec, name)? {
        None => Ok(usual),
        Some(n) => T::try_from(n).or_else(|_| wrong(spec, format!("{name} is too large"))),
    }
}

/// What a disk or CD-ROM drive is, as its device and its drive describe it.
pub(crate) fn kind_of(spec: &DeviceSpec, drive: &Drive, cdrom: bool) -> Result<Kind, BuildError> {
    let text = |name, usual: &str| property(spec, name).unwrap_or(usual).to_owned();
    let serial = property(spec, "serial").or(drive.serial.as_deref()).unwrap_or_default();
    let identity = Identity {
        vendor: text("vendor", "QEMU"),
        product: text("product", if cdrom { "QEMU CD-ROM" } else { "QEMU HARDDISK" }),
        revision: text("ver", "2.5+"),
        serial: serial.chars().take(36).collect(),
    };
    if cdrom {
        return Ok(Kind::Cdrom(identity));
    }
    let usual = sbc::Config::default();
    let name = if serial.is_empty() { &drive.id } else { serial };
    let mut block_size = [512_u32; 2];
    block_size[0] = small(spec, "logical_block_size", 512)?;
    block_size[1] = small(spec, "physical_block_size", block_size[0])?;
    if block_size.iter().any(|n| !n.is_power_of_two() || !(512..=0x20_0000).contains(n))
        || block_size[0] > 0x1_0000
        || block_size[1] < block_size[0]
    {
        return wrong(spec, "block sizes are powers of two from 512".into());
    }
    Ok(Kind::Disk(sbc::Config {
        device_id: text("device_id", name),
        wwn: small(spec, "wwn", 0)?,
        port_wwn: small(spec, "port_wwn", 0)?,
        port_index: small(spec, "port_index", 0)?,
        block_size,
        io_size: [small(spec, "min_io_size", 0)?, small(spec, "opt_io_size", 0)?],
        most: [
            small(spec, "max_io_size", usual.most[0])?,
            small(spec, "max_unmap_size", usual.most[1])?,
        ],
        discard_granularity: small(spec, "discard_granularity", usual.discard_granularity)?,
        removable: switch(spec, "removable")?,
        rotation_rate: small(spec, "rotation_rate", 0)?,
        dpofua: switch(spec, "dpofua")?,
        version: small(spec, "scsi_version", usual.version)?,
        identity,
    }))
}

impl Chassis<'_> {
    /// The units on the bus of an adapter with id `id`: `ID.0`, or `scsi.N` for those without one. Drives that say
    /// no more than `if=scsi`, and units that name no bus, go to the first.
    pub(crate) fn scsi_units(
        &mut self,
        id: Option<&str>,
        targets: usize,
        path: &str,
    ) -> Result<Vec<UnitConfig>, BuildError> {
        let first = self.scsi_buses == 0;
        let name = match id {
            Some(id) => format!("{id}.0"),
            None => format!("scsi.{}", self.scsi_unnamed),
        };
        self.scsi_buses += 1;
        self.scsi_unnamed += usize::from(id.is_none());
        let mut units: Vec<UnitConfig> = Vec::new();
        let drives =
            if first { self.take_drives(targets, &[Interface::Scsi], "SCSI")? } else { vec![] };
        for (target, drive) in drives.into_iter().enumerate() {
            let Some(drive) = drive else { continue };
            let kind = if drive.cdrom { "scsi-cd" } else { "scsi-hd" };
            let spec = DeviceSpec { kind: kind.into(), props: vec![] };
            let at = Address::new(target as u8, 0);
            units.push(self.scsi_unit(&spec, drive, at, path)?);
        }
        let config = self.config;
        for (i, spec) in config.devices.iter().enumerate() {
            let ours = matches!(spec.kind.as_str(), "scsi-hd" | "scsi-cd")
                && !self.seated.contains(&i)
                && property(spec, "bus").map_or(first, |bus| bus == name);
            if !ours {
                continue;
            }
            let at = place(spec, targets, &units)?;
            let cdrom = spec.kind == "scsi-cd";
            let drive = match property(spec, "drive") {
                Some(id) => match self.drive_named(id) {
                    Some(drive) => drive,
                    None => return wrong(spec, format!("there is no free drive '{id}'")),
                },
                None if cdrom => Drive {
                    backend: BlockBackend::detached(),
                    id: property(spec, "id").unwrap_or(&spec.kind).to_string(),
                    ..Drive::default()
                },
                None => return wrong(spec, "it needs drive=ID".into()),
            };
            let drive = Drive { cdrom, ..drive };
            units.push(self.scsi_unit(spec, drive, at, path)?);
            self.seated.insert(i);
        }
        Ok(units)
    }

    /// The unit that `spec` describes, with its drive.
    pub(crate) fn scsi_unit(
        &mut self,
        spec: &DeviceSpec,
        drive: Drive,
        at: Address,
        path: &str,
    ) -> Result<UnitConfig, BuildError> {
        error_policies(spec, &drive)?;
        let kind = kind_of(spec, &drive, drive.cdrom)?;
        let index = number(spec, "bootindex")?.or(drive.bootindex);
        self.boot_from(index, format!("{path}@{:x},{:x}", at.target, at.lun))?;
        drive.backend.set_removable(drive.cdrom);
        Ok(UnitConfig { at, kind, backend: drive.backend })
    }
}

/// Where on a bus with `targets` places a unit goes.
fn place(spec: &DeviceSpec, targets: usize, taken: &[UnitConfig]) -> Result<Address, BuildError> {
    if number(spec, "channel")?.is_some_and(|n| n != 0) {
        return wrong(spec, "there is no such channel".into());
    }
    let (target, lun) = (number(spec, "scsi-id")?, number(spec, "lun")?);
    let free = |at: &Address| taken.iter().all(|u| u.at != *at);
    let fits = |n: u32| (n as usize) < targets && n < 256;
    let found = match (target, lun) {
        (Some(t), _) if !fits(t) => return wrong(spec, format!("there is no scsi-id {t}")),
        (_, Some(l @ 256..)) => return wrong(spec, format!("there is no lun {l}")),
        (Some(t), Some(l)) => Some(Address::new(t as u8, l as u16)).filter(free),
        (Some(t), None) => (0..256).map(|l| Address::new(t as u8, l)).find(free),
        (None, lun) => {
            let lun = lun.unwrap_or(0) as u16;
            (0..targets.min(256)).map(|t| Address::new(t as u8, lun)).find(free)
        }
    };
    match found {
        Some(at) => Ok(at),
        None => wrong(spec, "its place on the bus is taken".into()),
    }
}
