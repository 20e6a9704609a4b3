//! The part that every device on a PCI bus has in common: its configuration space beside its own
//! registers, in resets, snapshots and accesses.

use super::config::{ConfigState, Function};
use super::{CONFIG_BANK, MSIX_BANK};
use orrery_system::device::{HostIo, Settle};
use orrery_system::display::Display;
use orrery_system::{BusError, BusResult, Registers, RestoreError, StateBlob, VmTime};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::marker::PhantomData;

/// A device's own place on the bus, lent to it while it is called.
pub struct Slot<'a> {
    /// Identity, DMA, message interrupts.
    pub function: &'a Function,
    /// The configuration space.
    pub config: &'a mut ConfigState,
}

/// A device on a PCI bus, without its configuration space: [`Card`] adds that.
pub trait Chip: Send {
    /// Everything the guest can observe, but for the configuration space.
    type State: Serialize + DeserializeOwned;

    /// The type name.
    const NAME: &'static str;
    /// Version of the state's layout.
    const VERSION: u16 = 1;
    /// It looks at input wires.
    const SETTLES: bool = false;
    /// It has a cable or waits for the host.
    const HOST_IO: bool = false;

    /// Back to the power-on state.
    fn reset(&mut self);
    /// Its state.
    fn save(&self) -> Self::State;
    /// Takes a state over; on an error it keeps its own.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
    /// Drives pins, timers and regions from the state, after every call that may have changed it; says whether the
    /// function wants an interrupt.
    fn drive(&mut self, slot: &mut Slot<'_>) -> bool;

    /// Reads a register of its own.
    fn read(&mut self, _: &mut Slot<'_>, _bank: u32, _offset: u64, _width: u8) -> BusResult<u64> {
        Err(BusError::NoRegister)
    }
    /// Writes a register of its own.
    fn write(
        &mut self,
        _: &mut Slot<'_>,
        _bank: u32,
        _offset: u64,
        _width: u8,
        _value: u64,
    ) -> BusResult<()> {
        Err(BusError::NoRegister)
    }
    /// The configuration space was written; `before` is what it held.
    fn configured(&mut self, _before: &ConfigState, _: &mut Slot<'_>) {}
    /// Looks at its input wires, and drives what depends on them.
    fn settle(&mut self, _: &mut Slot<'_>) {}
    /// A timer has come due.
    fn wake(&mut self, _: &mut Slot<'_>, _now: VmTime) {}
    /// When the first operation in flight completes.
    fn due(&self) -> Option<VmTime> {
        None
    }
    /// Whether the host has finished it, or something has come from the host.
    fn ready(&self) -> bool {
        false
    }
    /// Takes it.
    fn deliver(&mut self, _: &mut Slot<'_>, _now: VmTime) {}
    /// The picture it shows.
    fn display(&mut self) -> Option<&mut dyn Display> {
        None
    }
}

/// A [`Chip`] with its configuration space: a device of the board.
pub struct Card<C> {
    function: Function,
    config: ConfigState,
    chip: C,
}

#[derive(Serialize, Deserialize)]
struct Saved<S, C> {
    pci: ConfigState,
    chip: S,
    #[serde(skip)]
    kind: PhantomData<C>,
}

impl<C: Chip> orrery_system::State for Saved<C::State, C> {
    const KIND: &'static str = C::NAME;
    const VERSION: u16 = C::VERSION;
}

impl<C: Chip> Card<C> {
    /// A device in its power-on state.
    pub fn new(function: Function, chip: C) -> Self {
        let config = function.power_on();
        let mut card = Self { function, config, chip };
        card.drive();
        card
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut C, &mut Slot<'_>) -> T) -> T {
        f(&mut self.chip, &mut Slot { function: &self.function, config: &mut self.config })
    }

    fn drive(&mut self) {
        let level = self.with(C::drive);
        self.function.drive(&mut self.config, level);
    }
}

impl<C: Chip> orrery_system::Device for Card<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn reset(&mut self) {
        self.config = self.function.power_on();
        self.chip.reset();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        let (pci, chip) = (self.config.clone(), self.chip.save());
        StateBlob::encode(&Saved::<_, C> { pci, chip, kind: PhantomData })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let Saved::<C::State, C> { pci, chip, .. } = blob.decode()?;
        self.function.check(&pci)?;
        self.chip.restore(chip)?;
        self.config = pci;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, now: VmTime) {
        self.with(|chip, slot| chip.wake(slot, now));
        self.drive();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        if C::SETTLES { Some(self) } else { None }
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        if C::HOST_IO { Some(self) } else { None }
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        self.chip.display()
    }
}

impl<C: Chip> Settle for Card<C> {
    fn settle(&mut self) {
        self.with(C::settle);
    }
}

impl<C: Chip> HostIo for Card<C> {
    fn due(&self) -> Option<VmTime> {
        self.chip.due()
    }

    fn ready(&self) -> bool {
        self.chip.ready()
    }

    fn deliver(&mut self, now: VmTime) {
        self.with(|chip, slot| chip.deliver(slot, now));
        self.drive();
    }
}

impl<C: Chip> Registers for Card<C> {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if let Some(result) = self.function.read(&self.config, bank, offset, width) {
            return result;
        }
        let result = self.with(|chip, slot| chip.read(slot, bank, offset, width));
        self.drive();
        result
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let result = if matches!(bank, CONFIG_BANK | MSIX_BANK) {
            let before = self.config.clone();
            let written = self.function.write(&mut self.config, bank, offset, width, value);
            self.with(|chip, slot| chip.configured(&before, slot));
            written.unwrap_or(Err(BusError::NoRegister))
        } else {
            self.with(|chip, slot| chip.write(slot, bank, offset, width, value))
        };
        self.drive();
        result
    }
}
