//! A device that shows how accesses of every width reach a device (`pc-testdev`).
//!
//! Reference: the addresses that kvm-unit-tests and QEMU's endianness test use: a register of 32
//! bits at ports E0 to E3 and again at E8 to EB, and one in every 32 bits of the memory at FF000000, which all read what
//! was written to their bytes; ports 2000 to 2017 drive interrupts.

use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::{Board, DeviceId, IrqLine, RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// The register at the ports.
    pub enum Reg {
        /// Holds what was written.
        0 Value: 4 Rw,
    }
}

/// Bank of the register at the ports.
pub const PORTS: u32 = 0;
/// Bank of the memory.
pub const MEMORY: u32 = 1;
/// Bank of the interrupts.
pub const INTERRUPTS: u32 = 2;
/// Bytes of the memory.
const LEN: usize = 0x1_0000;

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    value: [u8; 4],
    memory: Vec<u8>,
    lines: u32,
}

impl orrery_system::State for State {
    const KIND: &'static str = "pc-testdev";
    const VERSION: u16 = 1;
}

/// The device.
pub struct TestDevice {
    lines: Vec<IrqLine>,
    state: State,
}

/// Puts the device on the board; `lines` are its interrupts.
pub fn build(board: &mut Board, lines: Vec<IrqLine>) -> DeviceId {
    let id = board.reserve(State::KIND);
    let regions = board.regions();
    let register = regions.device("testdev", 4, id, PORTS);
    board.io().add_priority(0xe0, 1, &register);
    board.io().add_priority(0xe8, 1, &regions.alias("testdev-bytes", &register, 0, 4));
    board.io().add_priority(0x2000, 1, &regions.device("testdev-irq", 24, id, INTERRUPTS));
    let memory = regions.device("testdev-memory", LEN as u64, id, MEMORY);
    board.memory().add_priority(0xff00_0000, 1, &memory);
    board.attach(id, Box::new(TestDevice::new(lines)));
    id
}

impl TestDevice {
    /// Builds the device.
    pub fn new(lines: Vec<IrqLine>) -> Self {
        let state = State { value: [0; 4], memory: vec![0; LEN], lines: 0 };
        let mut device = Self { lines, state };
        device.drive();
        device
    }

    fn drive(&mut self) {
        for (n, line) in self.lines.iter().enumerate() {
            line.set(self.state.lines >> n & 1 != 0);
        }
    }

    fn bytes(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<&mut [u8]> {
        let at = usize::try_from(offset).map_err(|_| BusError::NoRegister)?;
        let bytes: &mut [u8] = match bank {
            PORTS => &mut self.state.value,
            MEMORY => &mut self.state.memory,
            _ => return Err(BusError::NoRegister),
        };
        let end = at.checked_add(width.into()).ok_or(BusError::NoRegister)?;
        bytes.get_mut(at..end).ok_or(BusError::NoRegister)
    }
}

impl Registers for TestDevice {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let bytes = self.bytes(bank, offset, width)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if bank == INTERRUPTS {
            let bit = 1 << (offset & 31);
            self.state.lines = self.state.lines & !bit | if value & 1 != 0 { bit } else { 0 };
            self.drive();
            return Ok(());
        }
        let bytes = self.bytes(bank, offset, width)?;
        let len = bytes.len();
        bytes.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }
}

impl Device for TestDevice {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State { value: [0; 4], memory: vec![0; LEN], lines: 0 };
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.memory.len() != LEN {
            return Err(RestoreError::Invalid("memory of the test device"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_its_register_are_written_and_read_by_any_width() {
        let mut board = Board::with_ram(0x1000);
        let wire = board.wire();
        build(&mut board, vec![wire.pin()]);
        board.settle();
        board.port_out(0xe0, 4, 0x8765_4321);
        assert_eq!(board.port_in(0xe2, 2), 0x8765);
        assert_eq!(board.port_in(0xe1, 1), 0x43);
        board.port_out(0xe3, 1, 0xab);
        assert_eq!(board.port_in(0xe0, 4), 0xab65_4321);
        board.port_out(0x2000, 1, 1);
        assert!(wire.level());
    }

    orrery_system::conformance!(TestDevice::new(Vec::new()), Reg::TABLE);
}
