//! The one trait every device implements, and the capabilities it may offer.

use crate::audio::AudioSource;
use crate::bus::Registers;
use crate::display::Display;
use crate::input::InputSink;
use crate::snapshot::{RestoreError, StateBlob};
use crate::time::VmTime;

/// A device in a machine.
///
/// Capabilities are optional trait objects rather than optional methods, so a device that has no
/// registers cannot half-implement them and the board asks once, when the device is attached.
pub trait Device: Send {
    /// The type name, QEMU's where it has one: `"pl031"`.
    fn name(&self) -> &'static str;

    /// Puts the device in its power-on state and drives every output line.
    fn reset(&mut self);

    /// Captures everything the guest could observe.
    fn save(&self) -> StateBlob;

    /// Replaces the device's state and re-drives every output from it. On an error the device
    /// keeps the state it had.
    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError>;

    /// Runs timer number `timer` of this device, which it armed and which has come due: `now` is
    /// at or after the deadline.
    fn wake(&mut self, _timer: u32, _now: VmTime) {}

    /// The register files, if it has any.
    fn registers(&mut self) -> Option<&mut dyn Registers> {
        None
    }

    /// Input wires it looks at when the machine settles: interrupt controllers and routers.
    fn settle(&mut self) -> Option<&mut dyn Settle> {
        None
    }

    /// The vector it gives to an interrupt acknowledge cycle.
    fn int_ack(&mut self) -> Option<&mut dyn IntAck> {
        None
    }

    /// Model-specific registers of a CPU that live in this device (local APIC).
    fn cpu_registers(&mut self) -> Option<&mut dyn CpuRegisters> {
        None
    }

    /// Operations of the host it waits for (disks), and bytes and frames that arrive (ports).
    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        None
    }

    /// The picture it shows.
    fn display(&mut self) -> Option<&mut dyn Display> {
        None
    }

    /// Where keys and pointer movement go.
    fn input(&mut self) -> Option<&mut dyn InputSink> {
        None
    }

    /// The sound it makes.
    fn audio(&mut self) -> Option<&mut dyn AudioSource> {
        None
    }

    /// Its state as readable fields, for the monitor and the board view: name and value.
    fn inspect(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// A device with input wires.
pub trait Settle {
    /// Looks at the input wires (levels and latched edges) and message queue, and drives the
    /// outputs. Called when any wire of the machine changed, before the next guest instruction;
    /// again, until nothing changes any more.
    fn settle(&mut self);
}

/// An interrupt controller that a CPU acknowledges.
pub trait IntAck {
    /// The vector of the interrupt that CPU `cpu` acknowledges, which goes into service; `None`
    /// passes the cycle to the next controller in the chain (local APIC to 8259 pair).
    fn acknowledge(&mut self, cpu: usize) -> Option<u8>;
}

/// CPU registers that live in a device.
pub trait CpuRegisters {
    /// Reads model-specific register `index` of CPU `cpu`; `None` if it is not here or the access
    /// faults (the CPU raises #GP).
    fn msr_read(&mut self, cpu: usize, index: u32) -> Option<u64>;
    /// Writes it; false if it is not here or the value is refused (#GP).
    fn msr_write(&mut self, cpu: usize, index: u32, value: u64) -> bool;
    /// The task priority as CR8 reads it, 0 to 15.
    fn cr8(&mut self, cpu: usize) -> u64;
    /// Writes CR8.
    fn set_cr8(&mut self, cpu: usize, value: u64);
    /// A call of the machine's firmware interface (Arm's PSCI); `None`: there is no such function.
    fn firmware_call(&mut self, _cpu: usize, _args: [u64; 4]) -> Option<FirmwareAnswer> {
        None
    }
    /// Where CPU `cpu`, which was off and is told by its start-up pin, starts, and the argument it starts with.
    fn take_start(&mut self, _cpu: usize) -> Option<[u64; 2]> {
        None
    }
}

/// What comes of a call of the firmware interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareAnswer {
    /// It is done, with this result.
    Value(u64),
    /// It succeeds, and the CPU waits for an interrupt.
    Wait,
    /// The CPU is off.
    Off,
}

/// A device that waits for the host.
///
/// With the deterministic clock an operation completes at the virtual instant [`HostIo::due`]
/// names, however fast the host was; the run loop holds virtual time there until the host has
/// finished. In realtime it completes as soon as the host has.
pub trait HostIo {
    /// The virtual instant at which the operation in flight that completes first may be
    /// delivered; `None` while nothing is in flight.
    fn due(&self) -> Option<VmTime>;
    /// Whether the host has finished that operation, or has input waiting on a port.
    fn ready(&self) -> bool;
    /// Delivers what is due and finished: copies data into guest memory, sets status, drives pins.
    fn deliver(&mut self, now: VmTime);
}
