//! Port F0: the latch between the floating-point unit's error pin and IRQ 13.
//!
//! A program that runs with CR0.NE clear (DOS) hears of x87 errors through FERR# and IRQ 13. A write
//! to port F0 takes the request back and asserts IGNNE#, so that the handler itself may use the unit
//! before it clears the error (Intel 440FX data sheet, section "Coprocessor error support").

use orrery_system::board::Board;
use orrery_system::{
    BusError, BusResult, Device, DeviceId, IrqLine, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};

/// Nothing: the CPU remembers whether IGNNE# is asserted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State;

impl orrery_system::State for State {
    const KIND: &'static str = "portf0";
    const VERSION: u16 = 1;
}

/// The device.
pub struct PortF0 {
    ignne: IrqLine,
}

/// Wires FERR# of the first CPU to `irq`, and puts the port on the board.
pub fn build(board: &mut Board, irq: IrqLine) -> DeviceId {
    let id = board.reserve("portf0");
    board.io().add(0xf0, &board.regions().device("portf0", 1, id, 0));
    board.wire_ferr(0, irq);
    let ignne = board.pins(0).ignne.pin();
    board.attach(id, Box::new(PortF0 { ignne }));
    id
}

impl Device for PortF0 {
    fn name(&self) -> &'static str {
        "portf0"
    }

    fn reset(&mut self) {}

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        blob.decode().map(|State| ())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for PortF0 {
    fn read(&mut self, _: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (offset, width) {
            (0, 1) => Ok(0xff),
            (0, _) => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(&mut self, _: u32, offset: u64, width: u8, _: u64) -> BusResult<()> {
        match (offset, width) {
            (0, 1) => {
                self.ignne.pulse();
                Ok(())
            }
            (0, _) => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::irq::IrqInput;

    #[test]
    fn a_write_asserts_ignne() {
        let wire = IrqInput::detached();
        let mut dev = PortF0 { ignne: wire.pin() };
        assert_eq!(dev.read(0, 0, 1), Ok(0xff));
        assert!(!wire.take_edge());
        dev.write(0, 0, 1, 0).unwrap();
        assert!(wire.take_edge());
    }

    orrery_system::conformance!(PortF0 { ignne: IrqLine::open() }, &[]);
}
