//! Devices that come and go, and media.

use super::args::*;
use super::{Desk, Done, Reply};
use crate::drives::note_device;
use orrery_block::backend::BlockBackend;
use orrery_block::qmp::{Answer, QmpError};
use orrery_block::{NodeOptions, qapi};
use orrery_hw::machine::{DeviceSpec, Drive, Interface};
use orrery_hw::registry;
use serde_json::{Map, Value, json};

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "on".into(),
        Value::Bool(false) => "off".into(),
        other => other.to_string(),
    }
}

impl Desk<'_> {
    pub(super) fn device_add(&mut self, args: DeviceArgs) -> Answer<Nothing> {
        let DeviceArgs { driver: kind, id, bus, rest } = args;
        if let Some(id) = &id
            && self.handles().named.iter().any(|n| n.id == *id)
        {
            return Err(QmpError::generic(format!("Duplicate device ID '{id}'")));
        }
        let Some(row) = registry::find(&kind) else {
            let text = format!("'{kind}' is not a valid device model name");
            return Err(QmpError::generic(text));
        };
        let pci = self.handles().pci.clone();
        let usb = self.handles().usb.clone();
        let there = match row.bus {
            "PCI" => pci.is_some(),
            "usb-bus" => !usb.is_empty(),
            _ => {
                let text = format!("Device '{kind}' does not support hotplugging");
                return Err(QmpError::generic(text));
            }
        };
        let on = bus.as_deref().unwrap_or("pcie.0");
        let root = pci.as_ref().filter(|pci| row.bus == "PCI" && pci.find(on).is_none());
        if self.handles().machine == "q35" && root.is_some() {
            return Err(QmpError::generic("Bus 'pcie.0' does not support hotplugging"));
        }
        if !there {
            let text = format!("No '{}' bus found for device '{kind}'", row.bus);
            return Err(QmpError::generic(text));
        }
        let mut props: Vec<(String, String)> = Vec::new();
        if let Some(id) = &id {
            props.push(("id".into(), id.clone()));
        }
        if let Some(bus) = bus {
            props.push(("bus".into(), bus));
        }
        props.extend(rest.iter().map(|(k, v)| (k.clone(), text_of(v))));
        let mut drives = Vec::new();
        if let Some((_, name)) = props.iter().find(|(k, _)| k == "drive") {
            let backend = self.drive(name)?;
            if !backend.has_medium() {
                return Err(QmpError::generic("Device needs media, but drive is empty"));
            }
            drives.push(Drive {
                backend,
                interface: Interface::None,
                id: name.clone(),
                ..Drive::default()
            });
        }
        let spec = DeviceSpec { kind, props };
        drives.iter().for_each(|drive| note_device(&drive.backend, &spec));
        let made = registry::plug(&mut self.machine.board, pci.as_ref(), &usb, &spec, drives)
            .map_err(|e| QmpError::generic(e.to_string()))?;
        let arrived = made.named.iter().map(|n| n.device).next();
        let handles = &mut self.machine.handles;
        handles.named.extend(made.named);
        handles.nets.extend(made.nets);
        handles.add_nics(made.nics);
        handles.chars.extend(made.chars);
        handles.usb = made.usb;
        handles.inputs.splice(0..0, made.inputs);
        arrived.into_iter().for_each(|device| self.machine.device_arrived(device));
        Ok(Nothing {})
    }

    /// A drive that nothing uses, by its id or by the name of a node.
    fn drive(&mut self, name: &str) -> Answer<BlockBackend> {
        let blocks = &self.machine.blocks;
        let taken = self.handles().named.iter().any(|n| n.prop("drive") == Some(name));
        if taken {
            return Err(QmpError::generic(format!(
                "Drive '{name}' is already in use by another block device"
            )));
        }
        if let Some(backend) = blocks.backend(name) {
            return Ok(backend);
        }
        let Some(node) = blocks.node(name) else {
            return Err(QmpError::generic(format!(
                "Property 'virtio-blk-device.drive' can't find value '{name}'"
            )));
        };
        let backend = blocks.anonymous_backend();
        backend.insert(node.medium(node.read_only()))?;
        Ok(backend)
    }

    pub(super) fn device_del(&mut self, args: DeviceId) -> Answer<Nothing> {
        let id = args.id.strip_prefix("/machine/peripheral/").unwrap_or(&args.id).to_owned();
        self.machine.want_back(&id)?;
        Ok(Nothing {})
    }

    /// The backend that a removable device has: by the drive's name or the device's id.
    fn removable(&mut self, device: Option<&str>, id: Option<&str>) -> Answer<BlockBackend> {
        let name = match (device, id) {
            (Some(name), None) | (None, Some(name)) => name.to_owned(),
            _ => return Err(QmpError::generic("Need exactly one of 'device' and 'id'")),
        };
        let drive = self.handles().named.iter().find(|n| n.id == name);
        let drive = drive.and_then(|n| n.prop("drive")).map(str::to_owned).unwrap_or(name.clone());
        match self.machine.blocks.backend(&drive) {
            Some(backend) => Ok(backend),
            None => {
                let desc = format!("Device '{name}' not found");
                Err(QmpError { class: "DeviceNotFound", desc })
            }
        }
    }

    /// Whether there is a medium in a drive, on an open tray too.
    fn is_loaded(&self, drive: &BlockBackend) -> bool {
        self.machine.blocks.root_of(drive).is_some()
    }

    fn tray_moved(&mut self, backend: &BlockBackend, id: Option<&str>, open: bool) {
        let device = backend.name().unwrap_or_default();
        let id = id.unwrap_or_default();
        self.emit("DEVICE_TRAY_MOVED", json!({"device": device, "id": id, "tray-open": open}));
    }

    fn open(
        &mut self,
        device: Option<&str>,
        id: Option<&str>,
        force: bool,
    ) -> Answer<BlockBackend> {
        let backend = self.removable(device, id)?;
        if !backend.removable() {
            let name = backend.name().unwrap_or_default();
            return Err(QmpError::generic(format!("Device '{name}' is not removable")));
        }
        if backend.locked() && !force {
            let name = backend.name().unwrap_or_default();
            let text = format!(
                "Device '{name}' is locked and force was not specified, wait for tray to open and try again"
            );
            return Err(QmpError::generic(text));
        }
        if !backend.tray_open() {
            backend.set_tray_open(true);
            self.tray_moved(&backend, id, true);
        }
        Ok(backend)
    }

    pub(super) fn eject(&mut self, args: Eject) -> Answer<Nothing> {
        let (device, id) = (args.device.as_deref(), args.id.as_deref());
        let backend = self.open(device, id, args.force.unwrap_or(false))?;
        if self.is_loaded(&backend) {
            backend.eject(true)?;
        }
        Ok(Nothing {})
    }

    pub(super) fn open_tray(&mut self, args: Tray) -> Answer<Nothing> {
        let force = args.force.unwrap_or(false);
        self.open(args.device.as_deref(), args.id.as_deref(), force)?;
        Ok(Nothing {})
    }

    pub(super) fn close_tray(&mut self, args: Tray) -> Answer<Nothing> {
        let backend = self.removable(args.device.as_deref(), args.id.as_deref())?;
        if backend.tray_open() {
            backend.set_tray_open(false);
            self.tray_moved(&backend, args.id.as_deref(), false);
        }
        Ok(Nothing {})
    }

    pub(super) fn remove_medium(&mut self, args: DeviceId) -> Answer<Nothing> {
        let backend = self.removable(None, Some(&args.id))?;
        if self.is_loaded(&backend) {
            if !backend.tray_open() {
                return Err(QmpError::generic(format!("Tray of device '{}' is not open", args.id)));
            }
            backend.eject(true)?;
        }
        Ok(Nothing {})
    }

    pub(super) fn insert_medium(&mut self, args: Medium) -> Answer<Nothing> {
        let backend = self.removable(None, Some(&args.id))?;
        let Some(node) = self.machine.blocks.node(&args.node_name) else {
            return Err(QmpError::generic(format!("Node '{}' not found", args.node_name)));
        };
        if self.is_loaded(&backend) {
            return Err(QmpError::generic(format!(
                "There already is a medium in device '{}'",
                args.id
            )));
        }
        backend.insert(node.medium(node.read_only()))?;
        Ok(Nothing {})
    }

    /// Another medium in a drive: tray open, out, in, tray closed.
    pub(super) fn change_medium(&mut self, args: ChangeMedium) -> Answer<Reply> {
        let force = args.force.unwrap_or(false);
        let backend = self.open(args.device.as_deref(), args.id.as_deref(), force)?;
        let graph = self.machine.blocks.clone();
        let read_only = match args.read_only_mode.as_deref() {
            None | Some("retain") => backend.read_only(),
            Some("read-only") => true,
            Some("read-write") => false,
            Some(other) => {
                let text = format!("Parameter 'read-only-mode' does not accept value '{other}'");
                return Err(QmpError::generic(text));
            }
        };
        let (id, format) = (args.id, args.format);
        Ok(Reply::Later(Box::pin(async move {
            let mut map = Map::new();
            map.insert("driver".into(), format.unwrap_or_else(|| "raw".into()).into());
            map.insert("read-only".into(), read_only.into());
            let file = NodeOptions::from_filename(&args.filename)?;
            let mut file = file.to_value();
            file["read-only"] = read_only.into();
            map.insert("file".into(), file);
            let options: NodeOptions = qapi::parse(Value::Object(map))?;
            let node = graph.open_options(&options).await?;
            Ok(Box::new(move |desk: &mut Desk<'_>| {
                if desk.is_loaded(&backend) {
                    backend.eject(true)?;
                }
                backend.insert(node.medium(read_only))?;
                backend.set_tray_open(false);
                desk.tray_moved(&backend, id.as_deref(), false);
                Ok(json!({}))
            }) as Done)
        })))
    }
}
