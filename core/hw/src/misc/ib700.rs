//! IB700 watchdog (`ib700`): a timer on two ports that resets the machine when nobody feeds it.
//!
//! Reference: the interface as Linux's ib700wdt driver describes it. Writing n to 443h starts it with
//! 30 - 2n seconds, writing to 441h stops it.

use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::pins::{Power, PowerRequest};
use orrery_system::time::NANOS_PER_SEC;
use orrery_system::{
    Board, Clock, DeviceId, RestoreError, State as _, StateBlob, Timer, VmTime, reg_map,
};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Ports from 441h.
    pub enum Reg {
        /// Stops the timer.
        0 Stop: 1 Wo,
        /// Starts it anew.
        2 Start: 1 Wo,
    }
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// The reset line.
    pub power: Power,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-up for the end of its patience.
    pub timer: Timer,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When the machine is reset.
    bites_at: Option<VmTime>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "ib700";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Ib700 {
    wires: Wires,
    state: State,
}

/// Puts the watchdog at its ports.
pub fn build(board: &mut Board) -> DeviceId {
    let id = board.reserve("ib700");
    let ports = board.regions().device("ib700", 3, id, 0);
    board.io().add_priority(0x441, 1, &ports);
    let wires = Wires { power: board.power(), clock: board.clock(), timer: board.timer(id, 0) };
    board.attach(id, Box::new(Ib700::new(wires)));
    id
}

impl Ib700 {
    /// Builds the device, stopped.
    pub fn new(wires: Wires) -> Self {
        Self { wires, state: State::default() }
    }

    fn drive(&self) {
        self.wires.timer.set(self.state.bites_at);
    }
}

impl Device for Ib700 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::default();
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

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        let now = self.wires.clock.now();
        if self.state.bites_at.take_if(|t| *t <= now).is_some() {
            self.wires.power.request(PowerRequest::Watchdog);
        }
        self.drive();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for Ib700 {
    fn read(&mut self, _bank: u32, _offset: u64, width: u8) -> BusResult<u64> {
        Err(if width > 1 { BusError::Width } else { BusError::NoRegister })
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Reg::decode(offset, width)?;
        self.state.bites_at = match reg {
            Reg::Stop => None,
            Reg::Start => {
                let secs = 30 - 2 * (value & 15);
                Some(self.wires.clock.now().after(secs * NANOS_PER_SEC))
            }
        };
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (Ib700, Power, Clock) {
        let (power, clock) = (Power::default(), Clock::default());
        let wires = Wires { power: power.clone(), clock: clock.clone(), timer: Timer::default() };
        (Ib700::new(wires), power, clock)
    }

    #[test]
    fn it_resets_the_machine_unless_it_is_fed_or_stopped() {
        let (mut dev, power, clock) = fresh();
        let run = |dev: &mut Ib700, secs: u64| {
            clock.advance_to(clock.now().after(secs * NANOS_PER_SEC));
            dev.wake(0, clock.now());
            power.take()
        };
        dev.write(0, 2, 1, 5).unwrap();
        assert_eq!(run(&mut dev, 19), None);
        dev.write(0, 2, 1, 5).unwrap();
        assert_eq!(run(&mut dev, 19), None, "fed");
        dev.write(0, 0, 1, 0).unwrap();
        assert_eq!(run(&mut dev, 60), None, "stopped");
        dev.write(0, 2, 1, 14).unwrap();
        assert_eq!(run(&mut dev, 2), Some(PowerRequest::Watchdog));
        assert_eq!(run(&mut dev, 60), None, "once");
    }

    orrery_system::conformance!(fresh().0, Reg::TABLE);
}
