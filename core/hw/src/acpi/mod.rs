//! Power management: the ACPI register blocks that chipsets share, and SMBus.

pub(crate) mod aml;
pub(crate) mod hotplug;
pub mod ich9_smb;
pub mod piix4;
pub(crate) mod pm;
pub(crate) mod smbus;
pub(crate) mod srat;
pub(crate) mod tables;
pub(crate) mod tco;

use orrery_system::IrqInput;

/// Bank of a power-management device for a machine that is suspended. It reads the PM1 status bits
/// of events that wake it; a value written is set in the PM1 status (bit 15 for waking).
pub const WAKE_BANK: u32 = 0x200;

/// PM1 status: the system woke up.
pub const WOKE: u16 = 1 << 15;

/// Wires that make PM1 events when they rise.
pub struct Events {
    /// The power button.
    pub power_button: IrqInput,
    /// The clock's alarm: its interrupt.
    pub rtc: IrqInput,
}

impl Events {
    /// Takes what rose since into `pm`; whether anything did.
    pub(crate) fn take(&self, pm: &mut pm::Pm) -> bool {
        let (button, alarm) = (self.power_button.take_edge(), self.rtc.take_edge());
        if button {
            pm.press_power_button();
        }
        if alarm {
            pm.ring_alarm();
        }
        button || alarm
    }
}
