//! The devices that a user asks for by type (`-device`): one row each.

use crate::i386::chassis::Chassis;
use crate::machine::{BuildError, DeviceSpec};
use crate::misc::{debugcon, debugexit, pvpanic};
use crate::virtio::blk;
use crate::{display::vga, pci};

/// A property of a device type.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// Name.
    pub name: &'static str,
    /// What it takes, and what it is if not given.
    pub description: &'static str,
}

/// A device type.
pub struct DeviceType {
    /// Name.
    pub name: &'static str,
    /// The bus it goes on: `PCI` or `ISA`.
    pub bus: &'static str,
    /// One line.
    pub description: &'static str,
    /// Properties besides `id`.
    pub properties: &'static [Property],
    build: fn(&mut Place<'_, '_>) -> Result<(), BuildError>,
}

/// Where a device goes, and how it was described.
struct Place<'p, 'c> {
    chassis: &'p mut Chassis<'c>,
    bus: Option<&'p pci::Bus>,
    spec: &'p DeviceSpec,
}

const fn property(name: &'static str, description: &'static str) -> Property {
    Property { name, description }
}

/// Every device type.
pub const DEVICES: &[DeviceType] = &[
    DeviceType {
        name: "isa-debugcon",
        bus: "ISA",
        description: "a port that prints what is written to it",
        properties: &[
            property("iobase", "port (0xe9)"),
            property("readback", "what the port reads (0xe9)"),
            property("chardev", "where the output goes"),
        ],
        build: |p| {
            let at = p.number("iobase", 0xe9)? as u16;
            let config = debugcon::Config { readback: p.number("readback", 0xe9)? as u8 };
            let name = p.get("chardev").or(p.get("id")).unwrap_or("debugcon").to_string();
            p.chassis.debug_console(at, &name, config);
            Ok(())
        },
    },
    DeviceType {
        name: "isa-debug-exit",
        bus: "ISA",
        description: "a port that ends the emulator",
        properties: &[
            property("iobase", "first port (0x501)"),
            property("iosize", "how many ports (2)"),
        ],
        build: |p| {
            let (at, size) = (p.number("iobase", debugexit::PORT.into())?, p.number("iosize", 2)?);
            let board = &mut p.chassis.board;
            let id = board.reserve("isa-debug-exit");
            let ports = board.regions().device("debug-exit", size.clamp(1, 8), id, 0);
            board.io().add_priority(at & 0xffff, 1, &ports);
            let device = debugexit::DebugExit::new(board.power());
            board.attach(id, Box::new(device));
            Ok(())
        },
    },
    DeviceType {
        name: "pvpanic",
        bus: "ISA",
        description: "a port at which a guest says that it crashed",
        properties: &[property("ioport", "port (0x505)")],
        build: |p| {
            let at = p.number("ioport", 0x505)?;
            let board = &mut p.chassis.board;
            let id = board.reserve("pvpanic");
            let port = board.regions().device("pvpanic", 1, id, 0);
            board.io().add_priority(at & 0xffff, 1, &port);
            let device = pvpanic::PvPanic::new(board.power());
            board.attach(id, Box::new(device));
            p.chassis.items.add_file("etc/pvpanic-port", (at as u16).to_le_bytes());
            Ok(())
        },
    },
    DeviceType {
        name: "virtio-blk-pci",
        bus: "PCI",
        description: "a virtio disk",
        properties: &[
            property("drive", "id of the drive"),
            property("serial", "serial number"),
            property("addr", "device number on the bus"),
        ],
        build: |p| {
            let bus = p.pci_bus()?;
            let from = p.number("addr", 2)? as u8;
            let Some(name) = p.get("drive") else { return p.wrong("it needs drive=ID") };
            let name = name.to_string();
            let Some(drive) = p.chassis.drive_named(&name) else {
                return p.wrong(&format!("there is no free drive '{name}'"));
            };
            let serial = p.get("serial").unwrap_or("").to_string();
            let config = blk::Config { serial, ..blk::Config::default() };
            p.chassis.virtio_drive(&bus, from, drive, config)
        },
    },
    DeviceType {
        name: "VGA",
        bus: "PCI",
        description: "a display adapter with the Bochs interface",
        properties: &[
            property("vgamem_mb", "MiB of video memory (16)"),
            property("addr", "device number on the bus"),
        ],
        build: |p| {
            let bus = p.pci_bus()?;
            let mib = p.number("vgamem_mb", 16)?;
            if !mib.is_power_of_two() || mib > 32 {
                return p.wrong("vgamem_mb is a power of two up to 32");
            }
            let Some(device) = bus.free_device(p.number("addr", 2)? as u8) else {
                return p.wrong("the PCI bus is full");
            };
            let rom = p.chassis.config.video_bios.clone();
            let (memory, devfn) = (bus.memory().clone(), pci::devfn(device, 0));
            let board = &mut p.chassis.board;
            let id = vga::build_pci(board, &bus, devfn, &memory, (mib as usize) << 20, &rom)?;
            p.chassis.built.display.get_or_insert(id);
            Ok(())
        },
    },
];

impl Place<'_, '_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.spec.props.iter().rev().find(|p| p.0 == name).map(|p| p.1.as_str())
    }

    fn wrong<T>(&self, reason: &str) -> Result<T, BuildError> {
        Err(BuildError::Property { kind: self.spec.kind.clone(), reason: reason.into() })
    }

    /// A number, decimal or after `0x`.
    fn number(&self, name: &str, default: u64) -> Result<u64, BuildError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        match parsed {
            Ok(n) => Ok(n),
            Err(_) => self.wrong(&format!("{name} is a number, not '{text}'")),
        }
    }

    fn pci_bus(&self) -> Result<pci::Bus, BuildError> {
        match self.bus {
            Some(bus) => Ok(bus.clone()),
            None => self.wrong("this board has no PCI bus"),
        }
    }
}

/// Puts the device that `spec` describes into the machine.
pub(crate) fn build(
    chassis: &mut Chassis<'_>,
    bus: Option<&pci::Bus>,
    spec: &DeviceSpec,
) -> Result<(), BuildError> {
    let Some(kind) = DEVICES.iter().find(|d| d.name == spec.kind) else {
        let near = DEVICES.iter().map(|d| (distance(d.name, &spec.kind), d.name)).min();
        let hint = match near {
            Some((n, name)) if n <= 3 => format!("; did you mean '{name}'?"),
            _ => String::new(),
        };
        return Err(BuildError::NoDevice { kind: spec.kind.clone(), hint });
    };
    for (name, _) in &spec.props {
        if name != "id" && name != "bus" && !kind.properties.iter().any(|p| p.name == name) {
            let reason = format!("there is no property '{name}'");
            return Err(BuildError::Property { kind: spec.kind.clone(), reason });
        }
    }
    (kind.build)(&mut Place { chassis, bus, spec })
}

/// How many letters to change, add or drop.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::i386::MACHINES;
    use crate::machine::{Built, MachineConfig};

    fn machine(name: &str, kind: &str, props: &[(&str, &str)]) -> Result<Built, BuildError> {
        let props = props.iter().map(|&(k, v)| (k.into(), v.into())).collect();
        let config = MachineConfig {
            memory: 4 << 20,
            firmware: vec![0xf4; 0x1_0000],
            devices: vec![DeviceSpec { kind: kind.into(), props }],
            ..MachineConfig::default()
        };
        let kind = MACHINES.iter().find(|m| m.name == name).expect("a machine");
        (kind.build)(&config)
    }

    #[test]
    fn a_debug_console_prints_on_every_board() {
        for m in MACHINES {
            let mut built = machine(m.name, "isa-debugcon", &[("iobase", "0x402")]).unwrap();
            built.board.port_out(0x402, 1, b'x'.into());
            assert_eq!(built.chars[0].1.drain(), b"x", "{}", m.name);
        }
    }

    #[test]
    fn a_misspelt_device_names_the_nearest_and_a_wrong_property_is_refused() {
        let error = |kind, props| machine("pc", kind, props).err().unwrap().to_string();
        assert_eq!(
            error("isa-debugkon", &[]),
            "there is no device 'isa-debugkon'; did you mean 'isa-debugcon'?"
        );
        assert!(error("pvpanic", &[("iopart", "1")]).contains("there is no property 'iopart'"));
        assert!(error("virtio-blk-pci", &[("drive", "x")]).contains("no free drive 'x'"));
    }
}
