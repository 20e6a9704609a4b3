//! Parallel port in its standard and bidirectional mode (`isa-parallel`), with a printer that is
//! always ready.
//!
//! Reference: IEEE 1284 compatibility mode; IBM PC technical reference, parallel printer adapter.
//!
//! Not modelled: EPP and ECP.

use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::ports::CharPort;
use orrery_system::{IrqLine, RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Ports 378h to 37ah and the like.
    pub enum Reg {
        /// Data.
        0 Data: 1 Rw,
        /// Status.
        1 Status: 1 Ro,
        /// Control.
        2 Control: 1 Rw,
    }
}

/// I/O address and interrupt of LPT1 to LPT3.
pub const ISA_PARALLEL: [(u16, u8); 3] = [(0x378, 7), (0x278, 5), (0x3bc, 7)];

const STROBE: u8 = 0x01;
const IRQ_ENABLE: u8 = 0x10;
const INPUT: u8 = 0x20;
/// Not busy, no acknowledge pulse, selected, no error.
const READY: u8 = 0xd8;

/// Pins and services the machine wires up.
pub struct Wires {
    /// IRQ 7.
    pub irq: IrqLine,
    /// The printer.
    pub port: CharPort,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    data: u8,
    control: u8,
    /// The printer's acknowledge pulse has ended and nobody has looked since.
    acknowledged: bool,
}

impl orrery_system::State for State {
    const KIND: &'static str = "isa-parallel";
    const VERSION: u16 = 1;
}

impl State {
    const POWER_ON: Self = Self { data: 0, control: 0x0c, acknowledged: false };
}

/// The device.
pub struct Parallel {
    wires: Wires,
    state: State,
}

impl Parallel {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        Self { wires, state: State::POWER_ON }
    }

    fn drive(&self) {
        let State { control, acknowledged, .. } = self.state;
        self.wires.irq.set(acknowledged && control & IRQ_ENABLE != 0);
    }
}

impl Device for Parallel {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::POWER_ON;
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        self.state = blob.decode()?;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for Parallel {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let (reg, _) = Reg::decode(offset, width)?;
        let s = &mut self.state;
        let value = match reg {
            Reg::Data if s.control & INPUT != 0 => 0xff,
            Reg::Data => s.data,
            Reg::Status => {
                s.acknowledged = false;
                READY
            }
            Reg::Control => s.control | 0xc0,
        };
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Reg::decode(offset, width)?;
        let (s, v) = (&mut self.state, value as u8);
        match reg {
            Reg::Data => s.data = v,
            Reg::Status => {}
            Reg::Control => {
                let was = std::mem::replace(&mut s.control, v & 0x3f);
                if v & !was & STROBE != 0 {
                    self.wires.port.send(s.data);
                    // The pulse of a second character makes a second edge.
                    s.acknowledged = false;
                    self.drive();
                    self.state.acknowledged = true;
                }
            }
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::IrqInput;

    fn bench() -> (Parallel, IrqInput, CharPort) {
        let (irq, port) = (IrqInput::detached(), CharPort::default());
        (Parallel::new(Wires { irq: irq.pin(), port: port.clone() }), irq, port)
    }

    #[test]
    fn a_strobe_prints_the_data() {
        let (mut dev, irq, port) = bench();
        assert_eq!(dev.read(0, 1, 1), Ok(0xd8));
        for c in *b"hi" {
            dev.write(0, 0, 1, c.into()).unwrap();
            dev.write(0, 2, 1, 0x0d).unwrap();
            dev.write(0, 2, 1, 0x0c).unwrap();
        }
        assert_eq!(port.drain(), b"hi");
        assert!(!irq.has_edge(), "not enabled");
    }

    #[test]
    fn each_character_taken_interrupts_if_enabled() {
        let (mut dev, irq, _) = bench();
        for _ in 0..2 {
            dev.write(0, 2, 1, 0x1d).unwrap();
            dev.write(0, 2, 1, 0x1c).unwrap();
            assert!(irq.take_edge());
        }
        dev.read(0, 1, 1).unwrap();
        assert!(!irq.level());
    }

    #[test]
    fn the_latches_read_back_and_turn_round() {
        let (mut dev, ..) = bench();
        dev.write(0, 0, 1, 0x5a).unwrap();
        assert_eq!(dev.read(0, 0, 1), Ok(0x5a));
        dev.write(0, 2, 1, 0x2c).unwrap();
        assert_eq!((dev.read(0, 0, 1), dev.read(0, 2, 1)), (Ok(0xff), Ok(0xec)));
    }

    orrery_system::conformance!(bench().0, Reg::TABLE);
}
