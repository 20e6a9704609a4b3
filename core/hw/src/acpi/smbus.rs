//! The SMBus host controller that PIIX4 and ICH9 share (Intel 290562, 5.2; 316972, 20.2), with
//! EEPROMs on its bus.

use orrery_system::{BusError, BusResult};
use serde::{Deserialize, Serialize};

/// Status bits.
mod status {
    /// The transaction finished.
    pub(super) const DONE: u8 = 1 << 1;
    /// Nobody acknowledged, or the command is not one.
    pub(super) const DEVICE_ERROR: u8 = 1 << 2;
    /// Those a one clears.
    pub(super) const CLEARS: u8 = 0xfe;
}

/// An EEPROM with its own idea of where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Eeprom {
    address: u8,
    pointer: u8,
    bytes: Vec<u8>,
}

impl Eeprom {
    /// An EEPROM of up to 256 bytes at 7-bit bus address `address`.
    pub(crate) fn new(address: u8, mut bytes: Vec<u8>) -> Self {
        bytes.resize(256, 0xff);
        Self { address, pointer: 0, bytes }
    }

    fn next(&mut self) -> u8 {
        let v = self.bytes.get(usize::from(self.pointer)).copied().unwrap_or(0xff);
        self.pointer = self.pointer.wrapping_add(1);
        v
    }
}

/// The controller's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smbus {
    status: u8,
    control: u8,
    command: u8,
    address: u8,
    data: [u8; 2],
    block: Vec<u8>,
    block_at: u8,
    aux: u8,
    eeproms: Vec<Eeprom>,
}

impl Smbus {
    pub(crate) fn power_on(eeproms: Vec<Eeprom>) -> Self {
        Self { block: vec![0; 32], eeproms, ..Self::default() }
    }

    /// Whether a saved state is one the controller can be in.
    pub(crate) fn is_valid(&self) -> bool {
        self.block.len() == 32
            && self.block_at < 32
            && self.eeproms.iter().all(|e| e.bytes.len() == 256)
    }

    pub(crate) fn read(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        if width != 1 {
            return Err(BusError::Width);
        }
        let v = match offset {
            0 => self.status,
            2 => {
                // Reading the control register rewinds the block buffer.
                self.block_at = 0;
                self.control & 0x1f
            }
            3 => self.command,
            4 => self.address,
            5 => self.data[0],
            6 => self.data[1],
            7 => {
                let v = self.block[usize::from(self.block_at)];
                self.block_at = (self.block_at + 1) % 32;
                v
            }
            0xd => self.aux,
            _ => 0,
        };
        Ok(v.into())
    }

    pub(crate) fn write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if width != 1 {
            return Err(BusError::Width);
        }
        let v = value as u8;
        match offset {
            0 => self.status &= !(v & status::CLEARS),
            2 => {
                self.control = v & 0xbf;
                self.block_at = 0;
                if v & 0x40 != 0 {
                    self.run(v >> 2 & 7);
                }
            }
            3 => self.command = v,
            4 => self.address = v,
            5 => self.data[0] = v,
            6 => self.data[1] = v,
            7 => {
                self.block[usize::from(self.block_at)] = v;
                self.block_at = (self.block_at + 1) % 32;
            }
            0xd => self.aux = v & 3,
            _ => {}
        }
        Ok(())
    }

    /// Whether a finished transaction asks for an interrupt.
    pub(crate) fn interrupt(&self) -> bool {
        self.control & 1 != 0 && self.status & (status::DONE | status::DEVICE_ERROR) != 0
    }

    fn run(&mut self, protocol: u8) {
        let (address, read) = (self.address >> 1, self.address & 1 != 0);
        let Some(e) = self.eeproms.iter_mut().find(|e| e.address == address) else {
            self.status |= status::DEVICE_ERROR;
            return;
        };
        match (protocol, read) {
            (0, _) => {}
            (1, true) => self.data[0] = e.next(),
            (1, false) => e.pointer = self.command,
            (2 | 3, true) => {
                e.pointer = self.command;
                self.data[0] = e.next();
                if protocol == 3 {
                    self.data[1] = e.next();
                }
            }
            // Serial presence detect is write protected.
            (2 | 3, false) => e.pointer = self.command,
            (5, true) => {
                e.pointer = self.command;
                self.data[0] = 32;
                self.block.fill_with(|| e.next());
            }
            _ => {
                self.status |= status::DEVICE_ERROR;
                return;
            }
        }
        self.status |= status::DONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_byte_of_an_eeprom_and_of_nobody() {
        let mut bus = Smbus::power_on(vec![Eeprom::new(0x50, (0..=255).collect())]);
        bus.write(4, 1, 0xa1).unwrap();
        bus.write(3, 1, 0x42).unwrap();
        bus.write(2, 1, 0x48).unwrap();
        assert_eq!((bus.read(0, 1), bus.read(5, 1)), (Ok(2), Ok(0x42)));
        bus.write(0, 1, 0xff).unwrap();
        bus.write(4, 1, 0xa3).unwrap();
        bus.write(2, 1, 0x48).unwrap();
        assert_eq!(bus.read(0, 1), Ok(4), "no answer");
    }

    #[test]
    fn a_block_read_fills_the_buffer() {
        let mut bus = Smbus::power_on(vec![Eeprom::new(0x50, (0..=255).collect())]);
        bus.write(4, 1, 0xa1).unwrap();
        bus.write(3, 1, 0x10).unwrap();
        bus.write(2, 1, 0x54).unwrap();
        assert_eq!((bus.read(5, 1), bus.read(7, 1), bus.read(7, 1)), (Ok(32), Ok(0x10), Ok(0x11)));
    }
}
