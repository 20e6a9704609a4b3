//! The virtio slots of a board: what `-device virtio-*-device` and drives and networks put there.

use crate::block::drive::DriveIo;
use crate::machine::{BuildError, DeviceSpec, Drive, Interface, MachineConfig, Netdev, Nic};
use crate::net::{FIRST_MAC, frame};
use crate::virtio::{blk, mmio, net, rng};
use orrery_block::backend::BlockBackend;
use orrery_system::ports::NetPort;
use orrery_system::{Board, IrqLine};

/// Slots one after the other.
pub(super) struct Slots<'a> {
    pub(super) config: &'a MachineConfig,
    pub(super) base: u64,
    /// The interrupts of the slots that are free, the last slot first.
    pub(super) lines: Vec<IrqLine>,
    used: u64,
    cards: usize,
    /// Networks that are connected.
    taken: Vec<String>,
    /// Cables that a front end may take.
    pub(super) nets: Vec<(String, NetPort)>,
    pub(super) nics: Vec<Nic>,
}

fn wrong<T>(kind: &str, reason: impl Into<String>) -> Result<T, BuildError> {
    Err(BuildError::Property { kind: kind.into(), reason: reason.into() })
}

impl<'a> Slots<'a> {
    /// Slots from `base` on, with these interrupts.
    pub(super) fn new(config: &'a MachineConfig, base: u64, mut lines: Vec<IrqLine>) -> Self {
        lines.reverse();
        Self {
            config,
            base,
            lines,
            used: 0,
            cards: 0,
            taken: Vec::new(),
            nets: Vec::new(),
            nics: Vec::new(),
        }
    }

    /// Fills them with all that the machine is to have.
    pub(super) fn fill(&mut self, board: &mut Board) -> Result<(), BuildError> {
        let mut drives: Vec<&Drive> = Vec::new();
        for drive in &self.config.drives {
            match drive.interface {
                Interface::Virtio | Interface::Default => drives.push(drive),
                Interface::None => {}
                _ => {
                    let reason = "this machine has no place for it".into();
                    return Err(BuildError::Drive { id: drive.id.clone(), reason });
                }
            }
        }
        drives.sort_by_key(|d| d.index.unwrap_or(u32::MAX));
        for drive in drives {
            self.disk(board, drive.backend.clone(), drive.serial.clone())?;
        }
        for card in &self.config.nics {
            if !matches!(card.kind.as_str(), "" | "virtio" | "virtio-net-device") {
                return wrong(&card.kind, "this machine has virtio-net-device");
            }
            self.card(board, card)?;
        }
        for spec in &self.config.devices {
            match spec.kind.as_str() {
                "virtio-blk-device" => {
                    let name = prop(spec, "drive").unwrap_or_default();
                    let Some(drive) = self.config.drives.iter().find(|d| d.id == name) else {
                        return wrong(&spec.kind, format!("there is no drive '{name}'"));
                    };
                    let serial = prop(spec, "serial").map(str::to_string);
                    self.disk(board, drive.backend.clone(), serial)?;
                }
                "virtio-net-device" => self.card(board, spec)?,
                "virtio-rng-device" => {
                    let (at, line) = self.slot()?;
                    let seed = self.config.seed;
                    mmio::build(board, at, line, |_, id| {
                        rng::Rng::new(seed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9))
                    });
                }
                _ => {
                    let hint = " for this machine (virtio-blk-device, virtio-net-device, virtio-rng-device)";
                    return Err(BuildError::NoDevice {
                        kind: spec.kind.clone(),
                        hint: hint.into(),
                    });
                }
            }
        }
        Ok(())
    }

    fn slot(&mut self) -> Result<(u64, IrqLine), BuildError> {
        let full = || BuildError::Machine("all virtio slots are taken".into());
        let line = self.lines.pop().ok_or_else(full)?;
        self.used += 1;
        Ok((self.base + (self.used - 1) * mmio::SIZE, line))
    }

    fn disk(
        &mut self,
        board: &mut Board,
        backend: BlockBackend,
        serial: Option<String>,
    ) -> Result<(), BuildError> {
        let (at, line) = self.slot()?;
        let config = blk::Config { serial: serial.unwrap_or_default(), ..blk::Config::default() };
        mmio::build(board, at, line, |board, id| {
            blk::Blk::new(config, DriveIo::new(board, id, 0, vec![backend]))
        });
        Ok(())
    }

    fn card(&mut self, board: &mut Board, spec: &DeviceSpec) -> Result<(), BuildError> {
        let n = self.cards;
        self.cards += 1;
        let mac = match prop(spec, "mac").map(|text| (text, frame::parse_mac(text))) {
            None => frame::nth_mac(FIRST_MAC, n),
            Some((_, Some(mac))) => mac,
            Some((text, None)) => {
                return wrong(&spec.kind, format!("'{text}' is no hardware address of a station"));
            }
        };
        let cable = board.cable();
        match prop(spec, "netdev") {
            Some(id) => {
                let found = self.config.netdevs.iter().find(|n| n.0 == id);
                let free = !self.taken.iter().any(|t| t == id);
                match found.filter(|_| free) {
                    Some((_, Netdev::User(user))) => {
                        crate::net::user::build(board, user.clone(), cable.clone());
                        self.taken.push(id.into());
                    }
                    None => return wrong(&spec.kind, format!("there is no free -netdev '{id}'")),
                }
            }
            None => {
                let id = prop(spec, "id").map_or_else(|| format!("net{n}"), str::to_string);
                self.nets.push((id, cable.clone()));
            }
        }
        let (at, line) = self.slot()?;
        let ours = cable.clone();
        let id = mmio::build(board, at, line, |_, _| net::Net::new(net::Config { mac }, ours));
        self.nics.push(Nic {
            id: prop(spec, "id").unwrap_or_default().into(),
            model: "virtio-net-device".into(),
            mac,
            netdev: prop(spec, "netdev").map(str::to_string),
            device: Some(id),
            cable,
        });
        Ok(())
    }

    /// How many are taken.
    pub(super) fn used(&self) -> u64 {
        self.used
    }
}

fn prop<'s>(spec: &'s DeviceSpec, name: &str) -> Option<&'s str> {
    spec.props.iter().rev().find(|p| p.0 == name).map(|p| p.1.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_place_is_refused() {
        let lines = || vec![IrqLine::open()];
        let fill = |kinds: &[&str]| {
            let spec = |&kind: &&str| DeviceSpec { kind: kind.into(), props: Vec::new() };
            let devices = kinds.iter().map(spec).collect();
            let config = MachineConfig { devices, ..MachineConfig::default() };
            let mut board = Board::with_ram(1 << 20);
            let mut slots = Slots::new(&config, 0x1000, lines());
            slots.fill(&mut board).map(|()| slots.used())
        };
        assert_eq!(fill(&["virtio-rng-device"]), Ok(1));
        assert_eq!(fill(&["virtio-net-device"]), Ok(1));
        assert!(fill(&["virtio-rng-device", "virtio-rng-device"]).is_err());
        assert!(fill(&["virtio-blk-device"]).is_err());
        assert!(fill(&["e1000"]).is_err());
    }
}
