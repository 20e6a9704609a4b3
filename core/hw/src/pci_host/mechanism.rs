//! PCI configuration mechanism 1: ports CF8 to CFF (PCI 3.0 3.2.2.3.2).

use crate::pci::{self, CONFIG_BANK};
use orrery_system::{BusError, BusResult, DeviceId};
use serde::{Deserialize, Serialize};

/// The address register at CF8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mechanism {
    address: u32,
}

impl Mechanism {
    /// A read of port CF8 + `offset`.
    pub(super) fn read(self, wires: &MechanismWires<'_>, offset: u64, width: u8) -> BusResult<u64> {
        match (offset, width) {
            (0, 4) => Ok(self.address.into()),
            (1, 1) => Err(wires.reset()),
            (4.., _) => self.target(wires.bus, offset).map_or(Ok(u64::MAX), Err),
            _ => Err(BusError::NoRegister),
        }
    }

    /// A write of it.
    pub(super) fn write(
        &mut self,
        wires: &MechanismWires<'_>,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        match (offset, width) {
            (0, 4) => {
                // The lowest two bits are kept, as QEMU keeps them: its tests address bytes by them,
                // where the data port's own address does not say which.
                self.address = value as u32 & 0x80ff_ffff;
                Ok(())
            }
            (1, 1) => Err(wires.reset()),
            (4.., _) => self.target(wires.bus, offset).map_or(Ok(()), Err),
            _ => Err(BusError::NoRegister),
        }
    }

    fn target(self, bus: &pci::Bus, offset: u64) -> Option<BusError> {
        if self.address & 0x8000_0000 == 0 {
            return None;
        }
        let device = bus.route((self.address >> 16) as u8, (self.address >> 8) as u8)?;
        let offset = u64::from(self.address & 0xff) | offset & 3;
        Some(BusError::Forward { device, bank: CONFIG_BANK, offset })
    }
}

/// What the mechanism's ports reach.
pub(super) struct MechanismWires<'a> {
    pub(super) bus: &'a pci::Bus,
    pub(super) reset_control: Option<(DeviceId, u32)>,
}

impl MechanismWires<'_> {
    fn reset(&self) -> BusError {
        match self.reset_control {
            Some((device, bank)) => BusError::Forward { device, bank, offset: 0 },
            None => BusError::NoRegister,
        }
    }
}
