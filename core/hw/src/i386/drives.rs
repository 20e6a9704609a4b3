//! Drives: where each one goes, by its interface or by the device that names it.

use super::chassis::Chassis;
use crate::block::drive::DriveIo;
use crate::block::fdc::{self, Fdc, media::DriveType};
use crate::block::geometry::{Shape, Translation};
use crate::block::pflash_cfi01;
use crate::ide::ata::{self, Geometry};
use crate::ide::channel::Plug;
use crate::machine::{BuildError, DeviceSpec, Drive, Interface};
use crate::pci;
use crate::virtio::{self, blk};
use orrery_block::backend::{BlockBackend, OnError};
use orrery_system::Region;

/// A bus of drives: what it is called, how many drives a cable has, and where firmware finds them.
pub(crate) struct DriveBus<'n> {
    /// Cables are `NAME.0`, `NAME.1` and so on.
    pub(crate) name: &'n str,
    /// Drives that do not say where they go come here.
    pub(crate) usual: bool,
    /// Cables.
    pub(crate) cables: usize,
    /// Drives of a cable.
    pub(crate) units: usize,
    /// Firmware's name for the controller.
    pub(crate) path: String,
}

pub(super) fn property<'s>(spec: &'s DeviceSpec, name: &str) -> Option<&'s str> {
    spec.props.iter().rev().find(|p| p.0 == name).map(|p| p.1.as_str())
}

pub(super) fn wrong<T>(spec: &DeviceSpec, reason: String) -> Result<T, BuildError> {
    Err(BuildError::Property { kind: spec.kind.clone(), reason })
}

pub(super) fn number(spec: &DeviceSpec, name: &str) -> Result<Option<u32>, BuildError> {
    match property(spec, name) {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => wrong(spec, format!("{name} is a number, not '{text}'")),
        },
    }
}

/// Sets what the device says of its drive's errors (`rerror`, `werror`).
pub(crate) fn error_policies(spec: &DeviceSpec, drive: &Drive) -> Result<(), BuildError> {
    let policy = |name| match property(spec, name) {
        None => Ok(OnError::Auto),
        Some(text) => match OnError::from_name(text) {
            Some(policy) if policy != OnError::Enospc || name == "werror" => Ok(policy),
            _ => wrong(spec, format!("{name} cannot be '{text}'")),
        },
    };
    let of_drive = &drive.backend;
    let or = |policy, other| if policy == OnError::Auto { other } else { policy };
    let read = or(policy("rerror")?, of_drive.on_read_error());
    let write = or(policy("werror")?, of_drive.on_write_error());
    of_drive.set_on_error(read, write);
    Ok(())
}

/// The geometry that a device gives its drive (`cyls`, `heads`, `secs`).
fn shape_of(spec: &DeviceSpec) -> Result<Option<Shape>, BuildError> {
    let parts = [number(spec, "cyls")?, number(spec, "heads")?, number(spec, "secs")?];
    let name = property(spec, "bios-chs-trans").unwrap_or("auto");
    let [Some(cylinders @ 1..=65535), Some(heads @ 1..=16), Some(sectors @ 1..=255)] = parts else {
        return match parts {
            [None, None, None] => Ok(None),
            _ => wrong(spec, "cyls is 1 to 65535, heads 1 to 16, secs 1 to 255".into()),
        };
    };
    let geometry =
        Geometry { cylinders: cylinders as u16, heads: heads as u8, sectors: sectors as u8 };
    let small = cylinders <= 1024 && sectors <= 63;
    let translation = match name {
        "auto" if small => Translation::None,
        "auto" => Translation::Lba,
        name => match Translation::from_name(name) {
            Some(translation) => translation,
            None => return wrong(spec, format!("bios-chs-trans cannot be '{name}'")),
        },
    };
    Ok(Some(Shape { geometry, translation }))
}

/// A drive with what its device says of it.
fn described(spec: &DeviceSpec, drive: Drive) -> Result<Drive, BuildError> {
    error_policies(spec, &drive)?;
    let bootindex = number(spec, "bootindex")?.or(drive.bootindex);
    let serial = property(spec, "serial").map(str::to_string).or(drive.serial);
    let [model, version] = ["model", "ver"].map(|name| property(spec, name).map(str::to_owned));
    let [old_model, old_version] = drive.model;
    let model = [model.or(old_model), version.or(old_version)];
    let shape = shape_of(spec)?.or(drive.shape);
    let bios = bios_geometry(spec)?.or(drive.bios);
    Ok(Drive { bootindex, serial, model, shape, bios, ..drive })
}

/// The geometry that firmware is to use for a device (`lcyls`, `lheads`, `lsecs`).
pub(crate) fn bios_geometry(spec: &DeviceSpec) -> Result<Option<[u32; 3]>, BuildError> {
    let parts = [number(spec, "lcyls")?, number(spec, "lheads")?, number(spec, "lsecs")?];
    let parts = parts.map(|n| n.unwrap_or(0));
    Ok((parts != [0; 3]).then_some(parts))
}

impl Chassis<'_> {
    /// Takes the drives of an interface, each at its index; those without one fill the gaps.
    pub(super) fn take_drives(
        &mut self,
        places: usize,
        interfaces: &[Interface],
        what: &str,
    ) -> Result<Vec<Option<Drive>>, BuildError> {
        let mut out: Vec<Option<Drive>> = (0..places).map(|_| None).collect();
        let mut rest = Vec::new();
        for slot in &mut self.drives {
            let Some(drive) = slot.take_if(|d| interfaces.contains(&d.interface)) else { continue };
            match drive.index.map(|i| i as usize) {
                None => rest.push(drive),
                Some(i) if i < places => match &out[i] {
                    None => out[i] = Some(drive),
                    Some(first) => {
                        return Err(BuildError::DriveTaken {
                            place: format!("{what} place {i}"),
                            first: first.id.clone(),
                            second: drive.id,
                        });
                    }
                },
                Some(i) => {
                    let reason = format!("there is no {what} place {i}");
                    return Err(BuildError::Drive { id: drive.id, reason });
                }
            }
        }
        for drive in rest {
            // CD-ROM drives are the third place by custom, so that a disk keeps the first two.
            let from = if drive.cdrom && places > 2 && what == "IDE" { 2 } else { 0 };
            let free = (from..places).chain(0..from).find(|&i| out[i].is_none());
            let Some(i) = free else {
                let reason = format!("every {what} place is taken");
                return Err(BuildError::Drive { id: drive.id, reason });
            };
            out[i] = Some(drive);
        }
        Ok(out)
    }

    /// Says that firmware may start from `path`, if it has a place in the order.
    pub(crate) fn boot_from(&mut self, index: Option<u32>, path: String) -> Result<(), BuildError> {
        let Some(index) = index else { return Ok(()) };
        if self.boot.insert(index, path).is_some() {
            return Err(BuildError::Machine(format!("two devices have bootindex={index}")));
        }
        Ok(())
    }

    /// The drive behind a device, with what the device says of it.
    fn drive_of(&mut self, spec: &DeviceSpec, cdrom: bool) -> Result<Drive, BuildError> {
        let drive = match property(spec, "drive") {
            Some(id) => match self.drive_named(id) {
                Some(drive) => drive,
                None => return wrong(spec, format!("there is no free drive '{id}'")),
            },
            None if cdrom || spec.kind == "floppy" => Drive {
                backend: BlockBackend::detached(),
                id: property(spec, "id").unwrap_or(&spec.kind).to_string(),
                ..Drive::default()
            },
            None => return wrong(spec, "it needs drive=ID".into()),
        };
        described(spec, Drive { cdrom, ..drive })
    }

    /// The properties that `-global` gives to every device of type `kind`, as a device of its own.
    fn globals_of(&self, kind: &str) -> DeviceSpec {
        let of_kind = self.config.globals.iter().filter(|(driver, ..)| driver == kind);
        let props = of_kind.map(|(_, name, value)| (name.clone(), value.clone())).collect();
        DeviceSpec { kind: kind.into(), props }
    }

    /// Gives the drives of an interface what `-global` says of theirs.
    fn apply_globals(&mut self, drives: &mut [Option<Drive>]) -> Result<(), BuildError> {
        for slot in drives {
            let Some(drive) = slot.take() else { continue };
            let spec = self.globals_of(if drive.cdrom { "ide-cd" } else { "ide-hd" });
            *slot = Some(described(&spec, drive)?);
        }
        Ok(())
    }

    /// Puts the drives that are devices (`ide-hd`, `ide-cd`) on a bus.
    fn seat_disks(
        &mut self,
        bus: &DriveBus<'_>,
        drives: &mut [Option<Drive>],
    ) -> Result<(), BuildError> {
        let config = self.config;
        for (i, spec) in config.devices.iter().enumerate() {
            if !matches!(spec.kind.as_str(), "ide-hd" | "ide-cd") || self.seated.contains(&i) {
                continue;
            }
            let cable = match property(spec, "bus") {
                None if bus.usual => None,
                None => continue,
                Some(text) => match text.rsplit_once('.') {
                    Some((name, n)) if name == bus.name => match n.parse::<usize>() {
                        Ok(n) if n < bus.cables => Some(n),
                        _ => return wrong(spec, format!("there is no bus '{text}'")),
                    },
                    _ => continue,
                },
            };
            let unit = number(spec, "unit")?.map(|n| n as usize);
            let (from, to) = match cable {
                Some(n) => (n * bus.units, (n + 1) * bus.units),
                None => (0, drives.len()),
            };
            let place = match unit {
                Some(unit) if unit < to - from => Some(from + unit),
                Some(unit) => return wrong(spec, format!("there is no unit {unit}")),
                None => (from..to).find(|&n| drives[n].is_none()),
            };
            let Some(place) = place else {
                return wrong(spec, format!("every place on '{}' is taken", bus.name));
            };
            let drive = self.drive_of(spec, spec.kind == "ide-cd")?;
            if let Some(first) = &drives[place] {
                return Err(BuildError::DriveTaken {
                    place: format!("IDE place {place}"),
                    first: first.id.clone(),
                    second: drive.id,
                });
            }
            drives[place] = Some(drive);
            self.seated.insert(i);
        }
        Ok(())
    }

    fn seat_floppies(&mut self, drives: &mut [Option<Drive>]) -> Result<(), BuildError> {
        let config = self.config;
        for (i, spec) in config.devices.iter().enumerate().filter(|(_, s)| s.kind == "floppy") {
            let unit = number(spec, "unit")?.map(|n| n as usize);
            let unit = unit.or_else(|| drives.iter().position(Option::is_none));
            let Some(slot) = unit.and_then(|n| drives.get_mut(n)).filter(|d| d.is_none()) else {
                return wrong(spec, "there is no free floppy drive of that number".into());
            };
            *slot = Some(self.drive_of(spec, false)?);
            self.seated.insert(i);
        }
        Ok(())
    }

    /// What to plug into a bus: the drives of the board's usual interface if it is that, and the
    /// devices that name it.
    pub(crate) fn disks(&mut self, bus: &DriveBus<'_>) -> Result<Vec<Plug>, BuildError> {
        let places = bus.cables * bus.units;
        let usual: &[Interface] =
            if bus.usual { &[Interface::Default, Interface::Ide] } else { &[] };
        let mut drives = self.take_drives(places, usual, "IDE")?;
        self.apply_globals(&mut drives)?;
        self.seat_disks(bus, &mut drives)?;
        let config = self.config;
        let cdroms = config.drives.iter().any(|d| d.cdrom)
            || config.devices.iter().any(|d| d.kind == "ide-cd");
        if bus.usual && !config.no_defaults && places > 2 && !cdroms {
            // The usual empty CD-ROM drive.
            drives[2].get_or_insert_with(|| Drive {
                backend: BlockBackend::detached(),
                interface: Interface::Ide,
                cdrom: true,
                id: "ide1-cd0".into(),
                ..Drive::default()
            });
        }
        let mut plugs = Vec::new();
        for (n, drive) in drives.into_iter().enumerate() {
            let Some(d) = drive else {
                plugs.push(None);
                continue;
            };
            let (cable, unit) = (n / bus.units, n % bus.units);
            let path = format!("{}/drive@{cable}/disk@{unit}", bus.path);
            if let Some([c, h, s]) = d.bios {
                self.geometries.push(format!("{path} {c} {h} {s}"));
            }
            self.boot_from(d.bootindex, path)?;
            let number = n as u32;
            let usual =
                if d.cdrom { ata::Config::cdrom(number) } else { ata::Config::disk(number) };
            let serial = d.serial.unwrap_or_else(|| usual.serial.clone());
            if bus.usual && !d.cdrom && n < 4 {
                self.cmos.disk(n, d.backend.len() / 512, d.shape);
            }
            let geometry = d.shape.map(|s| s.geometry);
            d.backend.set_removable(d.cdrom);
            let [model, firmware] = d.model;
            let model = model.unwrap_or_else(|| usual.model.clone());
            let firmware = firmware.unwrap_or_else(|| usual.firmware.clone());
            plugs.push(Some((
                ata::Config { serial, geometry, model, firmware, ..usual },
                d.backend,
            )));
        }
        Ok(plugs)
    }

    /// The floppy controller with its drives, if it is wanted.
    pub(crate) fn floppies(&mut self) -> Result<(), BuildError> {
        let mut drives = self.take_drives(2, &[Interface::Floppy], "floppy")?;
        self.seat_floppies(&mut drives)?;
        let asked = self.config.devices.iter().any(|d| d.kind == "isa-fdc");
        if self.config.no_defaults && !asked && drives.iter().all(Option::is_none) {
            return Ok(());
        }
        let present: Vec<bool> =
            drives.iter().enumerate().map(|(n, d)| d.is_some() || n == 0).collect();
        for (n, drive) in drives.iter().enumerate() {
            let index = drive.as_ref().and_then(|d| d.bootindex);
            self.boot_from(index, format!("/pci@i0cf8/isa@1/fdc@03f0/floppy@{n}"))?;
        }
        let backends: Vec<BlockBackend> = drives
            .into_iter()
            .map(|d| d.map_or_else(BlockBackend::detached, |d| d.backend))
            .collect();
        backends.iter().for_each(|b| b.set_removable(true));
        let kinds = [0, 1].map(|n| {
            if present[n] { DriveType::Auto.resolve(&backends[n]) } else { DriveType::None }
        });
        self.cmos.floppies(kinds.map(DriveType::cmos));
        let irq = self.irq(6);
        let dma = Box::new(self.dma.channel(2));
        let board = &mut self.board;
        let id = board.reserve("isa-fdc");
        let ports = board.regions().device("fdc", 8, id, 0);
        board.io().add(0x3f0, &board.regions().alias("fdc", &ports, 0, 6));
        board.io().add(0x3f7, &board.regions().alias("fdc-dir", &ports, 7, 1));
        let wires = fdc::Wires {
            irq,
            dma,
            clock: board.clock(),
            timer: board.timer(id, fdc::TIMER),
            io: DriveIo::new(board, id, fdc::IO_TIMER, backends),
        };
        board.attach(id, Box::new(Fdc::new(fdc::Config { drives: kinds }, wires)));
        self.floppy = true;
        Ok(())
    }

    /// Puts flash below 4 GiB, unit 0 on top; false if there is none.
    pub(super) fn flash(&mut self, map: &Region) -> Result<bool, BuildError> {
        let mut top = 1_u64 << 32;
        for (n, drive) in
            self.take_drives(2, &[Interface::Pflash], "flash")?.into_iter().enumerate()
        {
            let Some(drive) = drive else { continue };
            let name = format!("system.flash{n}");
            let (_, region) = pflash_cfi01::build(&mut self.board, &name, drive.backend)
                .map_err(|e| BuildError::Drive { id: drive.id, reason: e.to_string() })?;
            top -= region.size();
            map.add(top, &region);
            if n == 0 {
                self.low_alias(map, &region);
            }
        }
        Ok(top != 1 << 32)
    }

    /// A virtio-blk function for each virtio drive, on the free devices from `from`.
    pub(crate) fn virtio_drives(&mut self, bus: &pci::Bus, from: u8) -> Result<(), BuildError> {
        for i in 0..self.drives.len() {
            let Some(d) = self.drives[i].take_if(|d| d.interface == Interface::Virtio) else {
                continue;
            };
            let Some(device) = bus.free_device(from) else {
                return Err(BuildError::Drive { id: d.id, reason: "the PCI bus is full".into() });
            };
            let transport = virtio::pci::Config::default();
            self.virtio_drive(bus, pci::devfn(device, 0), d, transport, blk::Config::default());
        }
        Ok(())
    }

    /// A virtio-blk function for one drive.
    pub(crate) fn virtio_drive(
        &mut self,
        bus: &pci::Bus,
        devfn: u8,
        drive: Drive,
        transport: virtio::pci::Config,
        config: blk::Config,
    ) {
        blk::build(&mut self.board, bus, devfn, transport, config, drive.backend);
    }

    /// The drive that a device names.
    pub(crate) fn drive_named(&mut self, id: &str) -> Option<Drive> {
        self.drives.iter_mut().find_map(|s| s.take_if(|d| d.id == id))
    }
}
