//! The card on the ISA bus.

use super::core::{Config, Ne2000, PORTS, State};
use orrery_system::device::{Device, HostIo};
use orrery_system::ports::NetPort;
use orrery_system::{
    Board, BusResult, DeviceId, IrqLine, Registers, RestoreError, StateBlob, VmTime,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Saved(State);

impl orrery_system::State for Saved {
    const KIND: &'static str = "ne2k_isa";
    const VERSION: u16 = 1;
}

/// The device.
pub(super) struct IsaNe2000 {
    irq: IrqLine,
    card: Ne2000,
}

/// Puts a card at ports `at` to `at + 31`.
pub fn build(board: &mut Board, at: u16, irq: IrqLine, config: Config, cable: NetPort) -> DeviceId {
    let id = board.reserve("ne2k_isa");
    let ports = board.regions().device("ne2000", PORTS, id, 0);
    board.io().add_priority(at.into(), 1, &ports);
    board.attach(id, Box::new(IsaNe2000::new(&config, irq, cable)));
    id
}

impl IsaNe2000 {
    /// Builds the device in its power-on state.
    pub(super) fn new(config: &Config, irq: IrqLine, cable: NetPort) -> Self {
        Self { irq, card: Ne2000::new(config, cable) }
    }

    fn drive(&self) {
        self.irq.set(self.card.interrupts());
    }
}

impl Device for IsaNe2000 {
    fn name(&self) -> &'static str {
        "ne2k_isa"
    }

    fn reset(&mut self) {
        self.card.reset();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&Saved(self.card.state().clone()))
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let Saved(state) = blob.decode()?;
        self.card.set_state(state)?;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }
}

impl HostIo for IsaNe2000 {
    fn due(&self) -> Option<VmTime> {
        None
    }

    fn ready(&self) -> bool {
        self.card.ready()
    }

    fn deliver(&mut self, _now: VmTime) {
        self.card.deliver();
        self.drive();
    }
}

impl Registers for IsaNe2000 {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let value = self.card.read(offset, width);
        self.drive();
        value
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let done = self.card.write(offset, width, value);
        self.drive();
        done
    }
}
