//! The tree of objects as clients know it.

use super::Desk;
use super::args::*;
use super::query::model_names;
use orrery_block::qmp::{Answer, QmpError};
use orrery_hw::machine::Arch;
use orrery_hw::registry::{self, devices};
use orrery_system::DeviceId as Board;
use serde_json::{Value, json};

fn missing(path: &str) -> QmpError {
    QmpError { class: "DeviceNotFound", desc: format!("Device '{path}' not found") }
}

fn no_property(path: &str, name: &str) -> QmpError {
    QmpError::generic(format!("Property '{path}.{name}' not found"))
}

fn child(name: &str, kind: &str) -> QomProperty {
    QomProperty { name: name.into(), r#type: format!("child<{kind}>") }
}

fn plain(name: &str, kind: &str) -> QomProperty {
    QomProperty { name: name.into(), r#type: kind.into() }
}

/// What a path leads to.
enum Place {
    Root,
    Machine,
    Container(&'static str),
    Cpu(usize),
    Device(Board, String),
    Object(String),
    Chardev,
}

impl Desk<'_> {
    /// Devices by their place below `/machine`.
    fn board_devices(&self) -> Vec<(String, Board, &'static str)> {
        let cpus = self.machine.cpus.count();
        let named = &self.handles().named;
        let mut n = cpus;
        let mut out = Vec::new();
        for (id, _, kind) in self.machine.board.devices() {
            let place = match named.iter().find(|d| d.device == id) {
                Some(d) if !d.id.is_empty() => format!("/machine/peripheral/{}", d.id),
                _ => {
                    n += 1;
                    format!("/machine/unattached/device[{}]", n - 1)
                }
            };
            out.push((place, id, kind));
        }
        out
    }

    fn place(&self, path: &str) -> Answer<Place> {
        let trimmed = path.trim_end_matches('/');
        Ok(match trimmed {
            "" => Place::Root,
            "/machine" => Place::Machine,
            "/machine/peripheral" => Place::Container("/machine/peripheral"),
            "/machine/peripheral-anon" => Place::Container("/machine/peripheral-anon"),
            "/machine/unattached" => Place::Container("/machine/unattached"),
            "/objects" => Place::Container("/objects"),
            "/chardevs" => Place::Container("/chardevs"),
            _ => {
                if let Some(id) = trimmed.strip_prefix("/objects/") {
                    self.machine.blocks.object(id).ok_or_else(|| missing(path))?;
                    return Ok(Place::Object(id.into()));
                }
                if let Some(id) = trimmed.strip_prefix("/chardevs/") {
                    let found = self.state.settings.chardevs.iter().any(|c| c.label == id);
                    return found.then_some(Place::Chardev).ok_or_else(|| missing(path));
                }
                let index = trimmed.strip_prefix("/machine/unattached/device[");
                let index = index.and_then(|t| t.strip_suffix(']')).and_then(|t| t.parse().ok());
                if let Some(n) = index.filter(|n| *n < self.machine.cpus.count()) {
                    return Ok(Place::Cpu(n));
                }
                // A name without a path is a device's id, or an object's.
                let full = format!("/machine/peripheral/{trimmed}");
                let devices = self.board_devices();
                let found = devices.into_iter().find(|(p, ..)| p == trimmed || *p == full);
                match found {
                    Some((_, id, kind)) => Place::Device(id, kind.into()),
                    None if self.machine.blocks.object(trimmed).is_some() => {
                        Place::Object(trimmed.into())
                    }
                    None => return Err(missing(path)),
                }
            }
        })
    }

    pub(super) fn qom_list(&mut self, args: QomPath) -> Answer<Vec<QomProperty>> {
        Ok(match self.place(&args.path)? {
            Place::Root => vec![
                plain("type", "string"),
                child("machine", &format!("{}-machine", self.handles().machine)),
                child("objects", "container"),
                child("chardevs", "container"),
            ],
            Place::Machine => {
                let mut out = vec![plain("type", "string")];
                for (name, kind) in MACHINE_PROPERTIES {
                    out.push(plain(name, kind));
                }
                for name in ["unattached", "peripheral", "peripheral-anon"] {
                    out.push(child(name, "container"));
                }
                out
            }
            Place::Container("/objects") => {
                let objects = self.machine.blocks.objects();
                let mut out = vec![plain("type", "string")];
                out.extend(objects.iter().map(|(id, o)| child(id, &o.kind)));
                out
            }
            Place::Container("/chardevs") => {
                let mut out = vec![plain("type", "string")];
                let chardevs = &self.state.settings.chardevs;
                out.extend(chardevs.iter().map(|c| child(&c.label, "chardev")));
                out
            }
            Place::Container(at) => {
                let mut out = vec![plain("type", "string")];
                let prefix = format!("{at}/");
                if at == "/machine/unattached" {
                    for n in 0..self.machine.cpus.count() {
                        out.push(child(&format!("device[{n}]"), &self.cpu_type()));
                    }
                }
                for (path, _, kind) in self.board_devices() {
                    if let Some(name) = path.strip_prefix(&prefix) {
                        out.push(child(name, kind));
                    }
                }
                out
            }
            Place::Cpu(_) => {
                vec![plain("type", "string"), plain("apic-id", "uint32"), plain("realized", "bool")]
            }
            Place::Device(id, _) => {
                let mut out = vec![plain("type", "string"), plain("realized", "bool")];
                let inspected =
                    self.machine.board.device(id).map(|d| d.inspect()).unwrap_or_default();
                out.extend(inspected.iter().map(|(name, _)| plain(name, "string")));
                let props = self.handles().named.iter().find(|n| n.device == id);
                let props = props.map(|n| n.props.clone()).unwrap_or_default();
                out.extend(props.iter().map(|(name, _)| plain(name, "string")));
                out
            }
            Place::Object(id) => {
                let mut out = vec![plain("type", "string")];
                let object = self.machine.blocks.object(&id);
                let props = object.map(|o| o.properties).unwrap_or_default();
                out.extend(props.keys().map(|name| plain(name, "string")));
                out
            }
            Place::Chardev => vec![plain("type", "string")],
        })
    }

    pub(super) fn qom_get(&mut self, args: QomGet) -> Answer<Value> {
        let QomGet { path, property } = args;
        let none = || no_property(&path, &property);
        let (place, property) = (self.place(&path)?, property.as_str());
        if let (Place::Object(_), _) = (&place, property) {
            let id = path.strip_prefix("/objects/").unwrap_or(&path);
            let object = self.machine.blocks.object(id).ok_or_else(|| missing(&path))?;
            return match object.properties.get(property) {
                Some(value) => Ok(value.clone()),
                None if property == "type" => Ok(object.kind.into()),
                None => Err(none()),
            };
        }
        Ok(match (place, property) {
            (Place::Root | Place::Container(_), "type") => "container".into(),
            (Place::Machine, "type") => format!("{}-machine", self.handles().machine).into(),
            (Place::Machine, "memory-backend") => "/machine/ram".into(),
            (Place::Machine, "accel") => "tcg".into(),
            (Place::Machine, "suppress-vmdesc" | "graphics" | "usb" | "dump-guest-core") => {
                (property == "graphics").into()
            }
            (Place::Machine, "smm" | "hpet" | "pit" | "pic" | "smbus" | "sata") => "auto".into(),
            (Place::Machine, name) if MACHINE_PROPERTIES.iter().any(|p| p.0 == name) => "".into(),
            (Place::Cpu(_), "type") => self.cpu_type().into(),
            (Place::Cpu(n), "apic-id") => n.into(),
            (Place::Cpu(_) | Place::Device(..), "realized") => true.into(),
            (Place::Device(_, kind), "type") => kind.into(),
            (Place::Device(id, _), name) => {
                let inspected =
                    self.machine.board.device(id).map(|d| d.inspect()).unwrap_or_default();
                let props = self.handles().named.iter().find(|n| n.device == id);
                let prop = props.and_then(|n| n.props.iter().find(|(k, _)| k == name));
                match (inspected.into_iter().find(|(k, _)| *k == name), prop) {
                    (Some((_, value)), _) => value.into(),
                    (None, Some((_, value))) => value.clone().into(),
                    (None, None) => return Err(none()),
                }
            }
            (Place::Chardev, "type") => "chardev".into(),
            _ => return Err(none()),
        })
    }

    pub(super) fn qom_set(&mut self, args: QomSet) -> Answer<Nothing> {
        self.place(&args.path)?;
        let at = QomGet { path: args.path.clone(), property: args.property.clone() };
        self.qom_get(at)?;
        let text = format!("Property '{}.{}' is not writable", args.path, args.property);
        Err(QmpError::generic(text))
    }

    pub(super) fn qom_list_types(&mut self, args: QomListTypes) -> Answer<Vec<TypeInfo>> {
        let all = types(self.handles().arch);
        let parent =
            |name: &str| all.iter().find(|t| t.name == name).and_then(|t| t.parent.clone());
        let implements = |t: &TypeInfo, wanted: &str| {
            if wanted == "user-creatable" {
                return orrery_block::graph::OBJECT_TYPES.contains(&t.name.as_str());
            }
            let mut name = Some(t.name.clone());
            while let Some(n) = name {
                if n == wanted {
                    return true;
                }
                name = parent(&n);
            }
            false
        };
        let mut out: Vec<TypeInfo> = all
            .iter()
            .filter(|t| t.r#abstract.is_none() || args.r#abstract == Some(true))
            .filter(|t| args.implements.as_ref().is_none_or(|wanted| implements(t, wanted)))
            .cloned()
            .collect();
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out.dedup_by(|a, b| a.name == b.name);
        Ok(out)
    }

    pub(super) fn device_list_properties(&mut self, args: TypeName) -> Answer<Vec<PropertyInfo>> {
        let Some(kind) = registry::find(&args.typename) else {
            let arch = self.handles().arch;
            if model_names(arch).iter().any(|m| arch.cpu_type(m) == args.typename) {
                return Ok(Vec::new());
            }
            let desc = format!("Device '{}' not found", args.typename);
            return Err(QmpError { class: "DeviceNotFound", desc });
        };
        let one = |p: &registry::Property| PropertyInfo {
            name: p.name.into(),
            r#type: "str".into(),
            description: Some(p.description.into()),
        };
        Ok(kind.properties().map(one).collect())
    }

    pub(super) fn qom_list_properties(&mut self, args: TypeName) -> Answer<Vec<PropertyInfo>> {
        if args.typename.ends_with("-machine") {
            let one = |(name, kind): &(&str, &str)| PropertyInfo {
                name: (*name).into(),
                r#type: (*kind).into(),
                description: None,
            };
            return Ok(MACHINE_PROPERTIES.iter().map(one).collect());
        }
        let known = QomListTypes { implements: None, r#abstract: None };
        if registry::find(&args.typename).is_none()
            && self.qom_list_types(known)?.iter().any(|t| t.name == args.typename)
        {
            let own =
                PropertyInfo { name: "type".into(), r#type: "string".into(), description: None };
            return Ok(vec![own]);
        }
        let desc = format!("Class '{}' not found", args.typename);
        let unknown = |_| QmpError { class: "DeviceNotFound", desc };
        self.device_list_properties(args).map_err(unknown)
    }

    /// The tree as `info qom-tree` draws it.
    pub(super) fn qom_tree(&mut self, path: &str, depth: usize, out: &mut String) {
        if depth > 8 {
            return;
        }
        let Ok(list) = self.qom_list(QomPath { path: path.into() }) else { return };
        for property in list {
            let Some(kind) = property.r#type.strip_prefix("child<") else { continue };
            let kind = kind.trim_end_matches('>');
            out.push_str(&format!("{}/{} ({kind})\n", "  ".repeat(depth), property.name));
            let below = format!("{}/{}", path.trim_end_matches('/'), property.name);
            self.qom_tree(&below, depth + 1, out);
        }
    }

    /// Numbers and names of devices for `info qtree`.
    pub(super) fn qtree(&mut self) -> String {
        let mut out = String::from("bus: main-system-bus\n  type System\n");
        for (path, _, kind) in self.board_devices() {
            let id = path.strip_prefix("/machine/peripheral/").unwrap_or_default();
            out.push_str(&format!("  dev: {kind}, id {}\n", json!(id)));
        }
        out
    }
}

/// Every type with its parent.
fn types(arch: Arch) -> Vec<TypeInfo> {
    // Types that nothing is of directly.
    const ABSTRACT: &[(&str, &str)] = &[
        ("device", "object"),
        ("pci-device", "device"),
        ("isa-device", "device"),
        ("ide-device", "device"),
        ("cpu", "device"),
        ("machine", "object"),
        ("generic-pc-machine", "machine"),
        ("accel", "object"),
    ];
    let one = |name: &str, parent: Option<&str>, is_abstract: bool| TypeInfo {
        name: name.into(),
        parent: parent.map(str::to_owned),
        r#abstract: is_abstract.then_some(true),
    };
    let mut out = vec![one("object", None, true), one("container", Some("object"), false)];
    out.extend(ABSTRACT.iter().map(|(name, parent)| one(name, Some(parent), true)));
    for d in devices() {
        let parent = match d.bus {
            "PCI" => "pci-device",
            "ISA" => "isa-device",
            "IDE" => "ide-device",
            _ => "device",
        };
        out.push(one(d.name, Some(parent), false));
    }
    for m in orrery_hw::i386::MACHINES {
        let parent = if m.name == "none" { "machine" } else { "generic-pc-machine" };
        out.push(one(&format!("{}-machine", m.name), Some(parent), false));
    }
    let cpu = match arch {
        Arch::X86 => "x86_64-cpu",
        Arch::AArch64 => "arm-cpu",
    };
    out.push(one(cpu, Some("cpu"), true));
    for name in model_names(arch) {
        out.push(one(&arch.cpu_type(name), Some(cpu), false));
    }
    for name in orrery_block::graph::OBJECT_TYPES {
        out.push(one(name, Some("object"), false));
    }
    for name in ["tcg-accel", "qtest-accel"] {
        out.push(one(name, Some("accel"), false));
    }
    out
}

/// Properties of every PC.
const MACHINE_PROPERTIES: &[(&str, &str)] = &[
    ("accel", "string"),
    ("dump-guest-core", "bool"),
    ("graphics", "bool"),
    ("hpet", "bool"),
    ("kernel", "string"),
    ("initrd", "string"),
    ("append", "string"),
    ("memory-backend", "string"),
    ("smm", "OnOffAuto"),
    ("suppress-vmdesc", "bool"),
    ("usb", "bool"),
];
