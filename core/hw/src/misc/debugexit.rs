//! A port that ends the emulator (`isa-debug-exit`), for test kernels.
//!
//! Writing `v` exits with status `v << 1 | 1`, so that no value looks like success.

use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};

/// The port it usually sits at, four bytes long.
pub const PORT: u16 = 0x501;

/// Everything the guest can observe: nothing changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State;

impl orrery_system::State for State {
    const KIND: &'static str = "isa-debug-exit";
    const VERSION: u16 = 1;
}

/// The device. It answers at every offset and width.
pub struct DebugExit {
    power: Power,
}

impl DebugExit {
    /// Builds the device.
    pub fn new(power: Power) -> Self {
        Self { power }
    }
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {}

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        blob.decode::<State>().map(|State| ())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for DebugExit {
    fn read(&mut self, _bank: u32, _offset: u64, width: u8) -> BusResult<u64> {
        if width > 4 { Err(BusError::Width) } else { Ok(0) }
    }

    fn write(&mut self, _bank: u32, _offset: u64, width: u8, value: u64) -> BusResult<()> {
        if width > 4 {
            return Err(BusError::Width);
        }
        self.power.request(PowerRequest::Exit((value as u32) << 1 | 1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_exits_with_an_odd_status() {
        let power = Power::default();
        let mut dev = DebugExit::new(power.clone());
        assert_eq!((dev.read(0, 0, 4), power.take()), (Ok(0), None));
        dev.write(0, 0, 4, 0x10).unwrap();
        assert_eq!(power.take(), Some(PowerRequest::Exit(0x21)));
    }

    orrery_system::conformance!(DebugExit::new(Power::default()), []);
}
