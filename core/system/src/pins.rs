//! The pins of a CPU, and of the machine's power supply.

use crate::DeviceId;
use crate::irq::{Attention, IrqInput, IrqLine};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What comes into one CPU from outside.
#[derive(Clone, Default)]
pub struct CpuPins {
    /// Maskable interrupt request: a level.
    pub intr: IrqInput,
    /// Non-maskable interrupt: an edge.
    pub nmi: IrqInput,
    /// System management interrupt: an edge.
    pub smi: IrqInput,
    /// Reset to the wait-for-start state: an edge.
    pub init: IrqInput,
    /// Start-up message with its vector.
    pub sipi: Startup,
    /// Address line 20 passes: a level, common to all CPUs. Machines without the gate drive it.
    pub a20: IrqInput,
    /// SMIACT#: driven by the CPU while it is in system management mode, so that the chipset
    /// opens SMRAM ([`crate::Board::smiact`]). The CPU calls [`crate::Board::settle`] after it changed
    /// this, before it touches the save area.
    pub smiact: IrqLine,
    /// FERR#: driven by the CPU while its floating-point unit has an unmasked error that is not
    /// reported as an exception. Open where the machine does not wire it.
    pub ferr: IrqLine,
    /// IGNNE#, as the edge that asserts it: the CPU goes on in spite of the error, until that is cleared.
    pub ignne: IrqInput,
    /// Another CPU invalidated translations that this one may hold (Arm's broadcast TLBI): an edge. It is taken before
    /// the CPU's next turn.
    pub shootdown: IrqInput,
}

/// A start-up (SIPI) message on its way to a CPU.
#[derive(Clone, Default)]
pub struct Startup(Arc<AtomicU32>, Attention);

impl Startup {
    pub(crate) fn new(attention: Attention) -> Self {
        Self(Arc::default(), attention)
    }

    /// Sends the message: the CPU starts at physical `vector << 12`.
    pub fn send(&self, vector: u8) {
        self.0.store(0x100 | u32::from(vector), Relaxed);
        self.1.raise();
    }

    /// Takes it.
    pub fn take(&self) -> Option<u8> {
        let v = self.0.swap(0, Relaxed);
        (v & 0x100 != 0).then_some(v as u8)
    }

    /// Whether one waits.
    pub fn is_pending(&self) -> bool {
        self.0.load(Relaxed) != 0
    }
}

/// What the machine asks of whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Reset everything (keyboard controller, port 92, CF9, triple fault).
    Reset,
    /// Power off (ACPI S5, APM).
    Shutdown,
    /// Suspend to RAM (ACPI S3).
    Suspend,
    /// The guest says it panicked (pvpanic).
    Panicked,
    /// The guest says that it shut down in good order (pvpanic): power off.
    GuestShutdown,
    /// A watchdog was not fed in time; what follows is the user's choice.
    Watchdog,
    /// Wait: a drive cannot go on ([`Power::io_error`]).
    IoError,
    /// End the emulator with this exit status (isa-debug-exit).
    Exit(u32),
}

#[derive(Default)]
struct Asides {
    /// Why a drive cannot go on.
    reason: Mutex<String>,
    /// Devices that the guest let go.
    ejected: Mutex<Vec<DeviceId>>,
    /// How often the machine went on after a stop.
    resumed: AtomicU64,
}

/// A handle to make such requests; the run loop takes them. The first one stands until taken.
#[derive(Clone, Default)]
pub struct Power(Arc<AtomicU64>, Attention, Arc<Asides>);

impl Power {
    pub(crate) fn new(attention: Attention) -> Self {
        Self(Arc::default(), attention, Arc::default())
    }

    /// Asks for a stop because of a drive, and says why. The drive tries again when
    /// [`Power::resumed`] has changed.
    pub fn io_error(&self, reason: String) {
        *self.2.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
        self.request(PowerRequest::IoError);
    }

    /// Why the last [`PowerRequest::IoError`] was made.
    pub fn reason(&self) -> String {
        self.2.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the machine goes on after a stop.
    pub fn resume(&self) {
        self.2.resumed.fetch_add(1, Relaxed);
        self.1.raise();
    }

    /// Counts the times it went on.
    pub fn resumed(&self) -> u64 {
        self.2.resumed.load(Relaxed)
    }

    /// Says that the guest let a device go: its slot is without power. The run loop takes it out.
    pub fn eject(&self, device: DeviceId) {
        self.2.ejected.lock().unwrap_or_else(PoisonError::into_inner).push(device);
        self.1.raise();
    }

    /// Takes the devices that the guest let go.
    pub fn take_ejected(&self) -> Vec<DeviceId> {
        std::mem::take(&mut *self.2.ejected.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a request.
    pub fn request(&self, r: PowerRequest) {
        let code = match r {
            PowerRequest::Reset => 1,
            PowerRequest::Shutdown => 2,
            PowerRequest::Suspend => 3,
            PowerRequest::Panicked => 4,
            PowerRequest::IoError => 6,
            PowerRequest::GuestShutdown => 7,
            PowerRequest::Watchdog => 8,
            PowerRequest::Exit(code) => 5 | u64::from(code) << 32,
        };
        // A reset after a shutdown in the same instant loses, as pulling the plug would win.
        let _ = self.0.compare_exchange(0, code, Relaxed, Relaxed);
        self.1.raise();
    }

    /// Takes the request that stands.
    pub fn take(&self) -> Option<PowerRequest> {
        let v = self.0.swap(0, Relaxed);
        Some(match v as u32 {
            1 => PowerRequest::Reset,
            2 => PowerRequest::Shutdown,
            3 => PowerRequest::Suspend,
            4 => PowerRequest::Panicked,
            6 => PowerRequest::IoError,
            7 => PowerRequest::GuestShutdown,
            8 => PowerRequest::Watchdog,
            5 => PowerRequest::Exit((v >> 32) as u32),
            _ => return None,
        })
    }
}
