//! System control port A (port 92): fast reset and address line 20.
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference, system control port A. The pin
//! of address line 20 is shared with the keyboard controller: the last one written to wins, as
//! firmware that uses one and systems that use the other expect.

use bitfield_struct::bitfield;
use orrery_system::device::Device;
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::{
    Board, BusError, BusResult, DeviceId, IrqLine, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};

/// The port.
#[bitfield(u8)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Rising: resets the machine.
    pub reset: bool,
    /// Address line 20 passes.
    pub a20: bool,
    #[bits(6)]
    __: u8,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// Address line 20: the keyboard controller's pin.
    pub a20: IrqLine,
    /// Where a reset goes.
    pub power: Power,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    control: Control,
    /// The level of the shared pin when this was saved.
    a20: bool,
}

impl orrery_system::State for State {
    const KIND: &'static str = "port92";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Port92 {
    wires: Wires,
    state: State,
}

/// Puts the port on the board; `a20` is the keyboard controller's pin on the gate's wire.
pub fn build(board: &mut Board, a20: IrqLine) -> DeviceId {
    let id = board.reserve("port92");
    board.io().add(0x92, &board.regions().device("port92", 1, id, 0));
    board.attach(id, Box::new(Port92::new(Wires { a20, power: board.power() })));
    id
}

impl Port92 {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        wires.a20.set(true);
        Self { wires, state: State { control: Control::new(), a20: true } }
    }
}

impl Device for Port92 {
    fn name(&self) -> &'static str {
        "port92"
    }

    fn reset(&mut self) {
        self.state = State { control: Control::new(), a20: true };
        self.wires.a20.set(true);
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State { a20: self.wires.a20.level(), ..self.state.clone() })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        self.state = blob.decode()?;
        self.wires.a20.set(self.state.a20);
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for Port92 {
    fn read(&mut self, _: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (offset, width) {
            (0, 1) => Ok(self.state.control.into_bits().into()),
            (0, _) => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(&mut self, _: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match (offset, width) {
            (0, 1) => {}
            (0, _) => return Err(BusError::Width),
            _ => return Err(BusError::NoRegister),
        }
        let old = self.state.control;
        self.state.control = Control::from_bits(value as u8);
        if self.state.control.reset() && !old.reset() {
            self.wires.power.request(PowerRequest::Reset);
        }
        self.wires.a20.set(self.state.control.a20());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (Port92, IrqLine, Power) {
        let (a20, power) = (IrqLine::open(), Power::default());
        (Port92::new(Wires { a20: a20.clone(), power: power.clone() }), a20, power)
    }

    #[test]
    fn the_last_write_wins_over_the_keyboard_controller() {
        let (mut dev, a20, _) = device();
        a20.set(true);
        assert_eq!(dev.read(0, 0, 1), Ok(0));
        dev.write(0, 0, 1, 0).unwrap();
        assert!(!a20.level());
        dev.write(0, 0, 1, 2).unwrap();
        assert_eq!((a20.level(), dev.read(0, 0, 1)), (true, Ok(2)));
        let blob = dev.save();
        a20.set(false);
        dev.restore(&blob).unwrap();
        assert!(a20.level());
    }

    #[test]
    fn only_a_rising_bit_zero_resets() {
        let (mut dev, _, power) = device();
        dev.write(0, 0, 1, 1).unwrap();
        assert_eq!(power.take(), Some(PowerRequest::Reset));
        dev.write(0, 0, 1, 3).unwrap();
        assert_eq!(power.take(), None);
    }

    orrery_system::conformance!(device().0, &[]);
}
