//! Bochs' debug console: a port that prints (`isa-debugcon`).
//!
//! Firmware finds it by reading [`READBACK`] from the port, and writes its log there.

use super::port::Stateless;
use orrery_system::bus::{BusResult, Registers};
use orrery_system::ports::CharPort;

orrery_system::reg_map! {
    /// The port, usually e9h or 402h.
    pub enum Reg {
        /// Written, a character; read, the readback value.
        0 Data: 1 Rw,
    }
}

/// What the port reads unless configured otherwise.
pub const READBACK: u8 = 0xe9;

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What the port reads.
    pub readback: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self { readback: READBACK }
    }
}

/// The device.
pub struct DebugCon {
    config: Config,
    port: CharPort,
}

impl DebugCon {
    /// Builds the device; what it prints goes to `port`.
    pub fn new(config: Config, port: CharPort) -> Self {
        Self { config, port }
    }
}

impl Stateless for DebugCon {
    const NAME: &'static str = "isa-debugcon";
}

impl Registers for DebugCon {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        Reg::decode(offset, width)?;
        Ok(self.config.readback.into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        Reg::decode(offset, width)?;
        self.port.send(value as u8);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_finds_it_and_prints() {
        let port = CharPort::default();
        let mut dev = DebugCon::new(Config::default(), port.clone());
        assert_eq!(dev.read(0, 0, 1), Ok(0xe9));
        for c in *b"ok" {
            dev.write(0, 0, 1, c.into()).unwrap();
        }
        assert_eq!(port.drain(), b"ok");
    }

    orrery_system::conformance!(
        super::super::port::Ports(DebugCon::new(Config::default(), CharPort::default())),
        Reg::TABLE
    );
}
