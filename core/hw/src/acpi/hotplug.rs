//! PCI hot-plug as ACPI has it: registers that say which slots of a bus have changed, and the methods of the
//! DSDT that read them and let a slot go.
//!
//! The registers are those of QEMU's PIIX4 at AE00 (docs/specs/acpi_pci_hotplug of its manual): 32-bit words in which
//! each bit is a slot.

use super::aml::{self, Aml, Space};
use crate::pci::{Bus, plug};
use orrery_system::pins::Power;
use orrery_system::{BusError, BusResult};
use serde::{Deserialize, Serialize};

/// Where the registers are.
pub(crate) const PORT: u64 = 0xae00;
/// How many ports they take.
pub(crate) const LEN: u64 = 0x14;
/// The general-purpose event that says they have changed.
pub(crate) const EVENT: u8 = 1;

/// Offsets of the registers.
mod reg {
    /// Slots into which a device was put; reading takes them.
    pub(super) const UP: u64 = 0x00;
    /// Slots whose device is wanted back.
    pub(super) const DOWN: u64 = 0x04;
    /// Written: slots to let go.
    pub(super) const EJECT: u64 = 0x08;
    /// Slots that can be let go.
    pub(super) const REMOVABLE: u64 = 0x0c;
    /// Which bus the others are about: there is one.
    pub(super) const BUS: u64 = 0x10;
}

/// The slots of a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slots {
    up: u32,
    down: u32,
    bus: u32,
}

impl Slots {
    /// A read of a register.
    pub(crate) fn read(&mut self, bus: &Bus, offset: u64, width: u8) -> BusResult<u64> {
        if width != 4 {
            return Err(BusError::Width);
        }
        let word = match offset {
            reg::BUS => self.bus,
            _ if self.bus != 0 => 0,
            reg::UP => std::mem::take(&mut self.up),
            reg::DOWN => self.down,
            reg::EJECT => 0,
            reg::REMOVABLE => !bus.fixed(),
            _ => return Err(BusError::NoRegister),
        };
        Ok(word.into())
    }

    /// A write of one: devices that are let go leave through `power`.
    pub(crate) fn write(
        &mut self,
        bus: &Bus,
        power: &Power,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        if width != 4 {
            return Err(BusError::Width);
        }
        match offset {
            reg::BUS => self.bus = value as u32,
            reg::EJECT if self.bus == 0 => {
                let slots = value as u32 & !bus.fixed();
                let named = (0..32).filter(|slot| slots >> slot & 1 != 0);
                named.flat_map(|slot| bus.on(slot)).for_each(|id| power.eject(id));
            }
            reg::UP | reg::DOWN | reg::EJECT | reg::REMOVABLE => {}
            _ => return Err(BusError::NoRegister),
        }
        Ok(())
    }

    /// What the machine says ([`plug`]) of the device at `devfn`; whether the guest is to look.
    pub(crate) fn told(&mut self, what: u64, devfn: u8) -> bool {
        let bit = 1 << (devfn >> 3);
        match what {
            plug::ARRIVED => self.up |= bit,
            plug::WANTED => self.down |= bit,
            _ => {
                self.up &= !bit;
                self.down &= !bit;
            }
        }
        what != plug::GONE
    }
}

fn slot_name(slot: u8) -> String {
    format!("SL{slot:02X}")
}

/// What the host bridge's device has of it, for the slots `slots`.
pub(crate) fn bridge(slots: u32) -> Aml {
    let all = || (0..32_u8).filter(move |slot| slots >> slot & 1 != 0);
    let bit = |value: Aml, slot: u8| aml::and(value, aml::int(1 << slot), aml::nowhere());
    let call =
        |method: &str, arguments: Vec<Aml>| aml::list([aml::name(method), aml::list(arguments)]);
    let slot = |n: u8| {
        let eject = call("PHEJ", vec![aml::name("_SUN")]);
        aml::device(
            &slot_name(n),
            [
                aml::def("_ADR", aml::int(u64::from(n) << 16)),
                aml::def("_SUN", aml::int(n.into())),
                aml::method("_EJ0", 1, false, [eject]),
            ],
        )
    };
    let notify = |n| {
        let tell = aml::notify(aml::name(&slot_name(n)), aml::arg(1));
        aml::if_(bit(aml::arg(0), n), [tell])
    };
    let fields = [("PHUP", 32), ("PHDN", 32), ("PHEB", 32), ("", 32), ("PHBS", 32)];
    let chosen = || aml::store(aml::int(0), aml::name("PHBS"));
    let eject = aml::shift_left(aml::int(1), aml::arg(0), aml::name("PHEB"));
    aml::list([
        aml::op_region("PHRG", Space::Io, PORT, LEN),
        aml::dword_field("PHRG", &fields),
        aml::list(all().map(slot)),
        aml::method("PHEJ", 1, true, [chosen(), eject]),
        aml::method("PHNT", 2, false, all().map(notify)),
        // Device check, and eject request (ACPI 5.0 table 5-132).
        aml::method(
            "PHCK",
            0,
            true,
            [
                chosen(),
                call("PHNT", vec![aml::name("PHUP"), aml::int(1)]),
                call("PHNT", vec![aml::name("PHDN"), aml::int(3)]),
            ],
        ),
    ])
}

/// The event's method.
pub(crate) fn event() -> Aml {
    aml::method(&format!("_E{EVENT:02X}"), 0, false, [aml::name("\\_SB.PCI0.PHCK")])
}
