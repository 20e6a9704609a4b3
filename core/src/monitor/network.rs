//! Network cards and what they are connected to.

use super::Desk;
use super::args::*;
use crate::replay::Entry;
use orrery_block::qmp::{Answer, QmpError};
use orrery_hw::machine::Nic;
use orrery_hw::net::frame;

impl Desk<'_> {
    /// The first card of this name, or on the network of this name.
    fn nic(&self, name: &str) -> Option<usize> {
        let nics = &self.handles().nics;
        let at = |f: &dyn Fn(&Nic) -> bool| nics.iter().position(f);
        at(&|n| n.id == name).or_else(|| at(&|n| n.netdev.as_deref() == Some(name)))
    }

    pub(super) fn set_link(&mut self, args: SetLink) -> Answer<Nothing> {
        match self.nic(&args.name) {
            Some(n) => self.machine.enter(Entry::Link(n as u32, args.up)),
            // Nothing passes to it or from it anyway.
            None if self.handles().netdevs.iter().any(|(id, _)| *id == args.name) => {}
            None => {
                let desc = format!("Device '{}' not found", args.name);
                return Err(QmpError { class: "DeviceNotFound", desc });
            }
        }
        Ok(Nothing {})
    }

    /// `info network`: cards, each with its network below it, and networks without a card.
    pub(super) fn info_network(&self) -> String {
        let handles = self.handles();
        let of_netdev = |id: &str| {
            let found = handles.netdevs.iter().find(|(name, _)| name == id);
            found.map(|(id, n)| format!("{id}: index=0,{}", n.info()))
        };
        let mut out = String::new();
        for nic in &handles.nics {
            let (model, mac) = (&nic.model, frame::mac_text(nic.mac));
            let down = if nic.cable.carrier() { "" } else { ",link=down" };
            out += &format!("{}: index=0,type=nic,model={model},macaddr={mac}{down}\n", nic.id);
            if let Some(line) = nic.netdev.as_deref().and_then(of_netdev) {
                out += &format!(" \\ {line}\n");
            }
        }
        for (id, _) in &handles.netdevs {
            if !handles.nics.iter().any(|n| n.netdev.as_ref() == Some(id)) {
                out += &of_netdev(id).map(|line| line + "\n").unwrap_or_default();
            }
        }
        out
    }
}
