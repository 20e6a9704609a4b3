//! The devices that a user asks for by type (`-device`): one row each.

mod isa;
mod net;
mod pci;

use crate::i386::chassis::Chassis;
use crate::machine::{BuildError, DeviceSpec};
use crate::pci::{Bus, devfn};

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
    /// Properties besides `id` and `bus`, and `addr` on PCI.
    properties: &'static [Property],
    build: fn(&mut Place<'_, '_>) -> Result<(), BuildError>,
}

impl DeviceType {
    /// Its properties, those of its bus among them.
    pub fn properties(&self) -> impl Iterator<Item = &'static Property> {
        let of_bus: &[Property] = if self.bus == "PCI" { &[ADDR] } else { &[] };
        self.properties.iter().chain(of_bus)
    }

    /// The names that its bus goes by.
    fn buses(&self) -> &'static [&'static str] {
        match self.bus {
            "PCI" => &["pci", "pci.0", "pcie.0"],
            "ISA" => &["isa", "isa.0"],
            _ => &[],
        }
    }
}

const ADDR: Property = property("addr", "device number on the bus, or device.function");

/// Where a device goes, and how it was described.
struct Place<'p, 'c> {
    chassis: &'p mut Chassis<'c>,
    bus: Option<&'p Bus>,
    spec: &'p DeviceSpec,
}

const fn property(name: &'static str, description: &'static str) -> Property {
    Property { name, description }
}

/// Every device type.
pub fn devices() -> impl Iterator<Item = &'static DeviceType> {
    isa::DEVICES.iter().chain(pci::DEVICES).chain(net::DEVICES)
}

/// A device type by name.
pub fn find(name: &str) -> Option<&'static DeviceType> {
    devices().find(|d| d.name == name)
}

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

    /// A switch.
    fn switch(&self, name: &str, default: bool) -> Result<bool, BuildError> {
        match self.get(name) {
            None => Ok(default),
            Some("on" | "yes" | "true" | "y") => Ok(true),
            Some("off" | "no" | "false" | "n") => Ok(false),
            Some(text) => self.wrong(&format!("{name} is on or off, not '{text}'")),
        }
    }

    /// The PCI bus, and the place on it: `addr`, in hexadecimal with a function after a point, or
    /// the next free device.
    fn slot(&self) -> Result<(Bus, u8), BuildError> {
        let Some(bus) = self.bus.cloned() else {
            return self.wrong("this board has no PCI bus");
        };
        let Some(text) = self.get("addr") else {
            return match bus.free_device(0) {
                Some(device) => Ok((bus, devfn(device, 0))),
                None => self.wrong("the PCI bus is full"),
            };
        };
        let (device, function) = text.split_once('.').unwrap_or((text, "0"));
        let hex = |t: &str| u8::from_str_radix(t.strip_prefix("0x").unwrap_or(t), 16).ok();
        let place = match (hex(device), hex(function)) {
            (Some(d @ 0..32), Some(f @ 0..8)) => devfn(d, f),
            _ => return self.wrong(&format!("addr is a device number such as 5 or 5.0, not '{text}'")),
        };
        if bus.functions().iter().any(|f| f.0 == place) {
            return self.wrong(&format!("there is another device at '{text}'"));
        }
        Ok((bus, place))
    }
}

/// Puts the device that `spec` describes into the machine.
pub(crate) fn build(
    chassis: &mut Chassis<'_>,
    bus: Option<&Bus>,
    spec: &DeviceSpec,
) -> Result<(), BuildError> {
    let Some(kind) = find(&spec.kind) else {
        let near = devices().map(|d| (distance(d.name, &spec.kind), d.name)).min();
        let hint = match near {
            Some((n, name)) if n <= 3 => format!("; did you mean '{name}'?"),
            _ => String::new(),
        };
        return Err(BuildError::NoDevice { kind: spec.kind.clone(), hint });
    };
    for (name, value) in &spec.props {
        let wrong = match name.as_str() {
            "id" => None,
            "bus" if kind.buses().contains(&value.as_str()) => None,
            "bus" => Some(format!("there is no bus '{value}' for it")),
            _ if kind.properties().any(|p| p.name == name) => None,
            _ => Some(format!("there is no property '{name}'")),
        };
        if let Some(reason) = wrong {
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
