//! A port that ends the emulator (`isa-debug-exit`), for test kernels.
//!
//! Writing `v` exits with status `v << 1 | 1`, so that no value looks like success.

use super::port::Stateless;
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::pins::{Power, PowerRequest};

/// The port it usually sits at, four bytes long.
pub const PORT: u16 = 0x501;

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

impl Stateless for DebugExit {
    const NAME: &'static str = "isa-debug-exit";
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

    orrery_system::conformance!(super::super::port::Ports(DebugExit::new(Power::default())), []);
}
