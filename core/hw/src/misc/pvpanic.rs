//! Panic notifier (`pvpanic`): a port at which a guest says that it crashed.
//!
//! Reference: the pvpanic device specification in QEMU's documentation (interface, not code):
//! the port reads the events it knows, and takes them.

use super::port::Stateless;
use orrery_system::bus::{BusResult, Registers};
use orrery_system::pins::{Power, PowerRequest};

orrery_system::reg_map! {
    /// The port, 505h on ISA.
    pub enum Reg {
        /// Events: read, those it knows; written, what happened.
        0 Events: 1 Rw,
    }
}

/// The guest panicked and stays so.
const PANICKED: u8 = 1;
/// The guest panicked and its crash kernel goes on.
const CRASH_LOADED: u8 = 2;
/// The guest shut down in good order.
const SHUTDOWN: u8 = 4;

/// The device.
pub struct PvPanic {
    power: Power,
}

impl PvPanic {
    /// Builds the device.
    pub fn new(power: Power) -> Self {
        Self { power }
    }
}

impl Stateless for PvPanic {
    const NAME: &'static str = "pvpanic";
}

impl Registers for PvPanic {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        Reg::decode(offset, width)?;
        Ok((PANICKED | CRASH_LOADED | SHUTDOWN).into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        Reg::decode(offset, width)?;
        let event = value as u8;
        if event & PANICKED != 0 {
            self.power.request(PowerRequest::Panicked);
        } else if event & SHUTDOWN != 0 {
            self.power.request(PowerRequest::Shutdown);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_its_events_and_passes_them_on() {
        let power = Power::default();
        let mut dev = PvPanic::new(power.clone());
        assert_eq!(dev.read(0, 0, 1), Ok(7));
        for (event, request) in [
            (PANICKED, Some(PowerRequest::Panicked)),
            (CRASH_LOADED, None),
            (SHUTDOWN, Some(PowerRequest::Shutdown)),
            (0x80, None),
        ] {
            dev.write(0, 0, 1, event.into()).unwrap();
            assert_eq!(power.take(), request);
        }
    }

    orrery_system::conformance!(
        super::super::port::Ports(PvPanic::new(Power::default())),
        Reg::TABLE
    );
}
