//! Devices that leave a machine while it runs.
//!
//! Behind a bus with a hot-plug controller ([`orrery_hw::pci::Bus::hotplug`]) a device is asked for and leaves when the guest lets it
//! go, or at the next reset. Elsewhere it leaves at once.

use crate::machine::Machine;
use orrery_block::qmp::{Answer, QmpError};
use orrery_hw::pci::{Bus, PLUG_BANK, plug};
use orrery_hw::registry;
use orrery_system::DeviceId;
use serde_json::json;

impl Machine {
    /// Tells the hot-plug controller of the bus of `device`, if there is one, that it has come.
    pub(crate) fn device_arrived(&mut self, device: DeviceId) {
        if let Some((controller, devfn)) = self.hotplug_of(device) {
            self.board.device_write(controller, PLUG_BANK, plug::ARRIVED, 1, devfn.into());
        }
        self.board.settle();
    }

    fn pci_place(&self, device: DeviceId) -> Option<(Bus, u8)> {
        self.handles.pci.as_ref()?.place_of(device)
    }

    fn hotplug_of(&self, device: DeviceId) -> Option<(DeviceId, u8)> {
        let (bus, devfn) = self.pci_place(device)?;
        Some((bus.hotplug()?, devfn))
    }

    /// Takes the device of this id out, or asks the guest to let it go.
    pub(crate) fn want_back(&mut self, id: &str) -> Answer<()> {
        let Some(named) = self.handles.named.iter().find(|n| n.id == id && !id.is_empty()) else {
            let desc = format!("Device '{id}' not found");
            return Err(QmpError { class: "DeviceNotFound", desc });
        };
        let device = named.device;
        if let Some((bus, devfn)) = self.pci_place(device) {
            let mine = format!("{id}.0");
            let usb = self.handles.usb.iter().find(|b| b.name() == mine);
            let below = bus.child(devfn).is_some_and(|below| !below.functions().is_empty());
            if below || usb.is_some_and(|b| b.positions().iter().any(|p| p.socket.id().is_some())) {
                return Err(QmpError::generic(format!("there are devices behind '{id}'")));
            }
            let Some(controller) = bus.hotplug() else {
                let root = self
                    .handles
                    .pci
                    .as_ref()
                    .is_some_and(|pci| pci.on(devfn >> 3).contains(&device));
                if root {
                    return Err(QmpError::generic("Bus 'pcie.0' does not support hotplugging"));
                }
                return self.take_out(device);
            };
            if self.leaving.contains(&device) {
                let text = format!("Device {id} is already in the process of unplug");
                return Err(QmpError::generic(text));
            }
            self.leaving.push(device);
            self.board.device_write(controller, PLUG_BANK, plug::WANTED, 1, devfn.into());
            self.board.settle();
            return Ok(());
        }
        let position = self.handles.usb.iter().find_map(|bus| bus.place_of(device));
        let Some(position) = position else {
            let text = format!("Bus of device '{id}' does not support hotplugging");
            return Err(QmpError::generic(text));
        };
        if position.socket.below().iter().any(|s| s.id().is_some()) {
            return Err(QmpError::generic(format!("there are devices behind '{id}'")));
        }
        self.take_out(device)
    }

    /// Takes a device out of its slot or socket, and says so.
    fn take_out(&mut self, device: DeviceId) -> Answer<()> {
        self.leaving.retain(|&d| d != device);
        let Some(at) = self.handles.named.iter().position(|n| n.device == device) else {
            return Ok(());
        };
        let place = self.pci_place(device);
        let gone = self.handles.named.remove(at);
        if let Some((bus, devfn)) = place {
            registry::unplug(&mut self.board, &bus, devfn, device);
            if let Some(controller) = bus.hotplug() {
                self.board.device_write(controller, PLUG_BANK, plug::GONE, 1, devfn.into());
            }
            let mine = format!("{}.0", gone.id);
            self.handles.usb.retain(|b| b.name() != mine);
        } else if let Some(bus) = self.handles.usb.iter().find(|b| b.place_of(device).is_some()) {
            registry::unplug_usb(&mut self.board, &bus.clone(), device);
        }
        self.board.settle();
        self.handles.inputs.retain(|input| *input != device);
        self.handles.nics.retain(|nic| nic.device != Some(device));
        let path = match gone.id.as_str() {
            "" => format!("/machine/peripheral-anon/device[{at}]"),
            id => format!("/machine/peripheral/{id}"),
        };
        let removed = match gone.prop("drive") {
            // As with QEMU, a drive made with -drive goes with its device.
            Some(name) if self.blocks.backend(name).is_some() => self.blocks.remove_backend(name),
            _ => Ok(()),
        };
        let mut data = json!({"path": path});
        if !gone.id.is_empty() {
            data["device"] = gone.id.into();
        }
        self.tell("DEVICE_DELETED", data);
        Ok(removed?)
    }

    /// Takes out what the guest let go.
    pub(crate) fn take_ejected(&mut self) {
        // What is recorded ends with the same devices as it began.
        let fixed = self.replay().is_some();
        for device in self.board.power().take_ejected() {
            if !fixed {
                let _ = self.take_out(device);
            }
        }
    }

    /// At a reset those that were wanted back go.
    pub(crate) fn take_leaving(&mut self) {
        for device in std::mem::take(&mut self.leaving) {
            let _ = self.take_out(device);
        }
    }
}
