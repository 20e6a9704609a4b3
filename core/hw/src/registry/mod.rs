//! The devices that a user asks for by type (`-device`): one row each.

mod isa;
mod net;
mod nvme;
mod pci;
pub mod scope;
mod scsi;
mod usb;
mod virtio;

use crate::i386::chassis::{Chassis, Ends};
use crate::machine::{BuildError, DeviceSpec, Drive, MachineConfig, Named, Nic};
use crate::pci::{Bus, CONFIG_BANK, devfn};
use crate::usb::Bus as UsbBus;
use isa::plugged;
use orrery_system::board::{Board, BoardConfig};
use orrery_system::ports::{CharPort, NetPort};
use orrery_system::{DeviceId, IrqLine};

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
    /// The bus it goes on: `PCI`, `ISA`, `IDE`, `SCSI`, `nvme-bus`,
    /// `virtio-serial-bus`, `usb-bus` or `floppy-bus`.
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
        let of_bus: &[Property] = match self.bus {
            "PCI" => &[ADDR],
            "usb-bus" => usb::OF_BUS,
            _ => &[],
        };
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

const BOOTINDEX: Property =
    property("bootindex", "place in the order of what firmware starts from, 0 first");
const RERROR: Property =
    property("rerror", "what to do when a read failed: report, ignore, stop or auto");
const WERROR: Property =
    property("werror", "what to do when a write failed: report, ignore, stop, enospc or auto");
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
    isa::DEVICES
        .iter()
        .chain(pci::DEVICES)
        .chain(scsi::DEVICES)
        .chain(nvme::DEVICES)
        .chain(virtio::DEVICES)
        .chain(net::DEVICES)
        .chain(usb::DEVICES)
}

/// Other names of types.
const ALIASES: &[(&str, &str)] = &[
    ("ahci", "ich9-ahci"),
    ("virtio-blk", "virtio-blk-pci"),
    ("virtio-keyboard", "virtio-keyboard-pci"),
    ("virtio-mouse", "virtio-mouse-pci"),
    ("virtio-net", "virtio-net-pci"),
    ("virtio-rng", "virtio-rng-pci"),
    ("virtio-scsi", "virtio-scsi-pci"),
    ("virtio-serial", "virtio-serial-pci"),
    ("virtio-tablet", "virtio-tablet-pci"),
];

/// A device type by name.
pub fn find(name: &str) -> Option<&'static DeviceType> {
    let name = ALIASES.iter().find(|a| a.0 == name).map_or(name, |a| a.1);
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

    /// A small number, if it is given.
    fn given<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, BuildError> {
        if self.get(name).is_none() {
            return Ok(None);
        }
        match T::try_from(self.number(name, 0)?) {
            Ok(n) => Ok(Some(n)),
            Err(_) => self.wrong(&format!("{name} is too large")),
        }
    }

    /// Makes a character device of the machine, under the name that connects it.
    fn character(&mut self, port: CharPort, usual: &str) {
        let name = self.get("chardev").or(self.get("id")).unwrap_or(usual).to_string();
        self.chassis.built.chars.push((name, port));
    }

    /// Enters the device at `devfn` in the boot order, if it says so: `kind` and `rest` are parts of
    /// the name firmware has for it.
    fn boots(&mut self, kind: &str, devfn: u8, rest: &str) -> Result<(), BuildError> {
        let index = self.given("bootindex")?;
        let path = self.firmware_path(kind, devfn) + rest;
        self.chassis.boot_from(index, path)
    }

    /// What firmware calls a device at `devfn`.
    fn firmware_path(&self, kind: &str, devfn: u8) -> String {
        let bus = self.bus_path();
        match (devfn >> 3, devfn & 7) {
            (device, 0) => format!("{bus}/{kind}@{device:x}"),
            (device, function) => format!("{bus}/{kind}@{device:x},{function:x}"),
        }
    }

    /// Firmware's name for the PCI bus.
    fn bus_path(&self) -> String {
        self.bus.map(|bus| bus.path().to_owned()).unwrap_or_default()
    }

    /// How a virtio device presents itself.
    fn transport(&self, vectors: u16) -> Result<crate::virtio::pci::Config, BuildError> {
        Ok(crate::virtio::pci::Config {
            legacy: !self.switch("disable-legacy", false)?,
            vectors: self.given("vectors")?.unwrap_or(vectors).min(64),
        })
    }

    /// A port number.
    fn port(&self, name: &str, default: u16) -> Result<u16, BuildError> {
        let n = self.number(name, default.into())?;
        u16::try_from(n).or_else(|_| self.wrong(&format!("{name} is at most 0xffff")))
    }

    /// A pin on an ISA interrupt.
    fn isa_irq(&self, name: &str, default: u64) -> Result<IrqLine, BuildError> {
        match self.number(name, default)? {
            n @ 0..16 => Ok(self.chassis.irq(n as usize)),
            n => self.wrong(&format!("{name} is at most 15, not {n}")),
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
            _ => {
                return self
                    .wrong(&format!("addr is a device number such as 5 or 5.0, not '{text}'"));
            }
        };
        if bus.places() <= place >> 3 {
            return self.wrong(&format!("the bus has no place '{text}'"));
        }
        if bus.functions().iter().any(|f| f.0 == place) {
            return self.wrong(&format!("there is another device at '{text}'"));
        }
        Ok((bus, place))
    }
}

/// Whether a type is a drive, which is built with the controller it is plugged into.
pub(crate) fn is_drive(kind: &str) -> bool {
    find(kind).is_some_and(|d| {
        matches!(d.bus, "IDE" | "SCSI" | "nvme-bus" | "virtio-serial-bus" | "floppy-bus")
    })
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
    // The bus that it names may be behind a bridge.
    let named = spec.props.iter().rev().find(|p| p.0 == "bus" && kind.bus == "PCI");
    let behind = named.and_then(|(_, name)| bus?.find(name));
    for (name, value) in &spec.props {
        let wrong = match name.as_str() {
            "id" => None,
            "bus" if is_drive(kind.name) || kind.buses().contains(&value.as_str()) => None,
            "bus" if behind.is_some() => None,
            "bus" if kind.bus == "usb-bus" => None,
            "bus" => Some(format!("there is no bus '{value}' for it")),
            _ if kind.properties().any(|p| p.name == name) => None,
            _ => Some(format!("there is no property '{name}'")),
        };
        if let Some(reason) = wrong {
            return Err(BuildError::Property { kind: spec.kind.clone(), reason });
        }
    }
    let before = chassis.board.devices().len();
    let nics = chassis.built.nics.len();
    (kind.build)(&mut Place { chassis, bus: behind.as_ref().or(bus), spec })?;
    // What else it takes comes after it.
    let made = chassis.board.devices().into_iter().map(|d| d.0).skip(before);
    if let Some(device) = made.min() {
        let id = spec.props.iter().find(|p| p.0 == "id").map(|p| p.1.clone()).unwrap_or_default();
        let (kind, props) = (spec.kind.clone(), spec.props.clone());
        chassis.built.nics[nics..].iter_mut().for_each(|nic| nic.device = Some(device));
        chassis.built.named.push(Named { id, kind, props, device });
    }
    Ok(())
}

/// What came with a device that was plugged.
pub struct Plugged {
    /// The device.
    pub named: Vec<Named>,
    /// Its cables.
    pub nets: Vec<(String, NetPort)>,
    /// The network card that it is.
    pub nics: Vec<Nic>,
    /// Its character devices.
    pub chars: Vec<(String, CharPort)>,
    /// Every USB bus there is by then.
    pub usb: Vec<UsbBus>,
    /// What takes input, in the order they are asked, before what was there.
    pub inputs: Vec<DeviceId>,
}

/// Puts a device on a bus of a machine that runs.
pub fn plug(
    board: &mut Board,
    bus: Option<&Bus>,
    usb: &[UsbBus],
    spec: &DeviceSpec,
    drives: Vec<Drive>,
) -> Result<Plugged, BuildError> {
    let config = MachineConfig { drives, cpus: board.cpus(), ..MachineConfig::default() };
    let settings = BoardConfig { ram_capacity: 0, ..BoardConfig::default() };
    let open = std::mem::replace(board, Board::new(settings));
    let mut chassis = Chassis::reopen(&config, open);
    chassis.built.usb = usb.to_vec();
    let result = build(&mut chassis, bus, spec);
    let Ends { named, nets, nics, chars, usb, inputs, .. } = std::mem::take(&mut chassis.built);
    *board = chassis.board;
    result.map(|()| Plugged { named, nets, nics, chars, usb, inputs })
}

/// Takes a function off the PCI bus of a machine that runs.
pub fn unplug(board: &mut Board, bus: &Bus, place: u8, device: DeviceId) {
    bus.remove(place);
    if let Some(d) = board.device(device) {
        d.reset();
    }
    // The windows and bus mastering go with the command register.
    board.device_write(device, CONFIG_BANK, 4, 2, 0);
    drop(board.detach(device));
    board.settle();
}

/// Takes a device off a USB bus of a machine that runs.
pub fn unplug_usb(board: &mut Board, bus: &UsbBus, device: DeviceId) {
    if let Some(position) = bus.place_of(device) {
        bus.unplug(&position.socket);
    }
    drop(board.detach(device));
    board.settle();
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
    use crate::machine::{Built, Drive, MachineConfig};
    use orrery_block::backend::OnError;

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
    fn every_other_name_is_of_a_type_that_is_there() {
        for (alias, name) in ALIASES {
            assert!(devices().all(|d| d.name != *alias), "{alias}");
            assert_eq!(find(alias).map(|d| d.name), Some(*name));
        }
    }

    #[test]
    fn a_debug_console_prints_on_every_board() {
        for m in MACHINES.iter().filter(|m| m.name != "none") {
            let mut built = machine(m.name, "isa-debugcon", &[("iobase", "0x402")]).unwrap();
            built.board.port_out(0x402, 1, b'x'.into());
            assert_eq!(built.chars[0].1.drain(), b"x", "{}", m.name);
        }
    }

    #[test]
    fn every_type_can_be_had_on_a_board_that_has_its_bus() {
        for kind in devices() {
            let board = if kind.name == "isa-vga" { "isapc" } else { "pc" };
            let needs: &[_] = match kind.name {
                "virtio-blk-pci" | "ide-hd" | "scsi-hd" | "nvme-ns" | "usb-storage" => {
                    &[("drive", "d")]
                }
                "nvme" => &[("serial", "s")],
                "ide-cd" => &[("bus", "ide.1")],
                _ => &[],
            };
            let props = needs.iter().map(|&(k, v)| (k.into(), v.into())).collect();
            let drive = Drive { id: "d".into(), ..Drive::default() };
            // What goes on a device's bus has that device beside it.
            let holder = match kind.bus {
                "SCSI" => Some("virtio-scsi-pci"),
                "nvme-bus" => Some("nvme"),
                "virtio-serial-bus" => Some("virtio-serial-pci"),
                _ => None,
            };
            let holder = holder.map(|kind| DeviceSpec {
                kind: kind.into(),
                props: if kind == "nvme" { vec![("serial".into(), "s".into())] } else { vec![] },
            });
            let config = MachineConfig {
                memory: 4 << 20,
                firmware: vec![0xf4; 0x1_0000],
                vga: "none".into(),
                serials: vec![],
                parallels: vec![],
                drives: vec![drive],
                devices: [DeviceSpec { kind: kind.name.into(), props }]
                    .into_iter()
                    .chain(holder)
                    .collect(),
                props: vec![("usb".into(), "on".into())],
                ..MachineConfig::default()
            };
            let machine = MACHINES.iter().find(|m| m.name == board).unwrap();
            let built = (machine.build)(&config);
            assert!(built.is_ok(), "{}: {}", kind.name, built.err().unwrap());
        }
    }

    #[test]
    fn a_function_goes_where_addr_says_and_what_boots_first_is_told_to_firmware() {
        let spec = |kind: &str, props: &[(&str, &str)]| DeviceSpec {
            kind: kind.into(),
            props: props.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
        };
        let config = MachineConfig {
            memory: 4 << 20,
            firmware: vec![0xf4; 0x1_0000],
            drives: ["a", "b"].map(|id| Drive { id: id.into(), ..Drive::default() }).into(),
            devices: vec![
                spec("e1000", &[("addr", "1f.1"), ("bootindex", "7")]),
                spec(
                    "ide-hd",
                    &[("drive", "b"), ("bus", "ide.1"), ("unit", "1"), ("bootindex", "2")],
                ),
                spec("virtio-blk-pci", &[("drive", "a"), ("addr", "0x5"), ("bootindex", "1")]),
            ],
            ..MachineConfig::default()
        };
        let mut board = (MACHINES[0].build)(&config).unwrap().board;
        board.port_out(0xcf8, 4, 0x8000_f900);
        assert_eq!(board.port_in(0xcfc, 4), 0x100e_8086);
        // The file is found through fw_cfg's directory, as firmware does.
        board.port_out(0x510, 2, 0x19);
        let mut byte = || board.port_in(0x511, 1) as u8;
        let mut bytes = |n: usize| (0..n).map(|_| byte()).collect::<Vec<u8>>();
        let be = |b: Vec<u8>| b.iter().fold(0_u32, |v, &b| v << 8 | u32::from(b));
        let files: Vec<_> =
            (0..be(bytes(4))).map(|_| (be(bytes(4)), be(bytes(2)), bytes(2), bytes(56))).collect();
        let name = |f: &[u8]| f.split(|&b| b == 0).next().unwrap() == b"bootorder";
        let (size, key, ..) = files.iter().find(|f| name(&f.3)).unwrap();
        board.port_out(0x510, 2, *key);
        let text: Vec<u8> = (0..*size).map(|_| board.port_in(0x511, 1) as u8).collect();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "/pci@i0cf8/scsi@5/disk@0,0\n/pci@i0cf8/ide@1,1/drive@1/disk@1\n\
             /pci@i0cf8/ethernet@1f,1/ethernet-phy@0\0"
        );
    }

    #[test]
    fn a_device_says_what_to_do_on_errors_of_its_drive() {
        for (board, kind) in [("pc", "virtio-blk-pci"), ("pc", "ide-hd"), ("q35", "ide-hd")] {
            let drive = Drive { id: "a".into(), ..Drive::default() };
            let backend = drive.backend.clone();
            backend.set_on_error(OnError::Stop, OnError::Stop);
            let props = [("drive", "a"), ("werror", "report")];
            let config = MachineConfig {
                memory: 4 << 20,
                firmware: vec![0xf4; 0x1_0000],
                drives: vec![drive],
                devices: vec![DeviceSpec {
                    kind: kind.into(),
                    props: props.map(|(k, v)| (k.into(), v.into())).into(),
                }],
                ..MachineConfig::default()
            };
            let machine = MACHINES.iter().find(|m| m.name == board).unwrap();
            assert!((machine.build)(&config).is_ok(), "{kind}");
            assert_eq!(backend.on_write_error(), OnError::Report, "{kind}");
            assert_eq!(backend.on_read_error(), OnError::Stop, "the drive's own");
        }
    }

    #[test]
    fn a_misspelt_device_names_the_nearest_and_a_wrong_property_is_refused() {
        let error = |kind, props: &[_]| machine("pc", kind, props).err().unwrap().to_string();
        assert_eq!(
            error("isa-debugkon", &[]),
            "there is no device 'isa-debugkon'; did you mean 'isa-debugcon'?"
        );
        assert!(error("pvpanic", &[("iopart", "1")]).contains("there is no property 'iopart'"));
        assert!(error("virtio-blk-pci", &[("drive", "x")]).contains("no free drive 'x'"));
        assert!(error("e1000", &[("addr", "1.0")]).contains("another device at '1.0'"));
        assert!(error("e1000", &[("bus", "pci.9")]).contains("no bus 'pci.9'"));
        assert!(error("ide-cd", &[("bus", "ide.7")]).contains("no bus 'ide.7'"));
        assert!(error("ide-cd", &[("bus", "sata.0")]).contains("no bus"));
        assert!(error("isa-serial", &[("index", "4")]).contains("four"));
    }
}
