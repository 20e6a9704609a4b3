//! A 16550A on the PCI bus (`pci-serial`).
//!
//! Reference: QEMU's specification of its PCI serial cards (vendor 1b36h, device 2).

use super::uart::{self, Reg, Uart};
use crate::pci;
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::{Device, HostIo};
use orrery_system::ports::CharPort;
use orrery_system::{Board, DeviceId, IrqInput, RestoreError, State as _, StateBlob, VmTime};
use serde::{Deserialize, Serialize};

/// Bank of the UART's registers: eight ports.
pub const UART: u32 = 0;

const IDENTITY: pci::Identity = pci::Identity {
    vendor: 0x1b36,
    device: 0x0002,
    revision: 1,
    class: 0x07_00_02,
    subsystem: pci::Identity::SUBSYSTEM,
    pin: 1,
};

/// Pins and services the machine wires up.
pub struct Wires {
    /// Configuration space and interrupt.
    pub pci: pci::Function,
    /// The UART's; its `irq` is a pin on `interrupt`.
    pub uart: uart::Wires,
    /// What the UART interrupts.
    pub interrupt: IrqInput,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pci: pci::ConfigState,
    uart: uart::State,
}

impl orrery_system::State for State {
    const KIND: &'static str = "pci-serial";
    const VERSION: u16 = 1;
}

/// The device.
pub struct PciSerial {
    pci: pci::Function,
    interrupt: IrqInput,
    config: pci::ConfigState,
    uart: Uart,
}

/// Puts the card at `devfn`; what it sends goes to `port`.
pub fn build(board: &mut Board, bus: &pci::Bus, devfn: u8, port: CharPort) -> DeviceId {
    let id = board.reserve("pci-serial");
    let pci = pci::Builder::new(board, bus, id, IDENTITY).io_bar(0, UART, 8).build(devfn);
    let interrupt = IrqInput::detached();
    let uart = uart::Wires {
        irq: interrupt.pin(),
        port,
        clock: board.clock(),
        timers: [uart::TIMER_RX, uart::TIMER_TIMEOUT, uart::TIMER_TX].map(|i| board.timer(id, i)),
    };
    board.attach(id, Box::new(PciSerial::new(Wires { pci, uart, interrupt })));
    id
}

impl PciSerial {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        let Wires { pci, uart, interrupt } = wires;
        let config = pci.power_on();
        let uart = Uart::new(uart::Config::default(), uart);
        let mut card = Self { pci, interrupt, config, uart };
        card.drive();
        card
    }

    fn drive(&mut self) {
        self.pci.drive(&mut self.config, self.interrupt.level());
    }
}

impl Device for PciSerial {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.config = self.pci.power_on();
        self.uart.reset();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State { pci: self.config.clone(), uart: self.uart.state().clone() })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        self.pci.check(&state.pci)?;
        self.uart.set_state(state.uart)?;
        self.config = state.pci;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.uart.wake();
        self.drive();
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn host_io(&mut self) -> Option<&mut dyn HostIo> {
        Some(self)
    }
}

impl HostIo for PciSerial {
    fn due(&self) -> Option<VmTime> {
        None
    }

    fn ready(&self) -> bool {
        self.uart.ready()
    }

    fn deliver(&mut self, _now: VmTime) {
        self.uart.deliver();
        self.drive();
    }
}

impl Registers for PciSerial {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if let Some(result) = self.pci.read(&self.config, bank, offset, width) {
            return result;
        }
        if bank != UART {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let value = self.uart.read(reg);
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if let Some(result) = self.pci.write(&mut self.config, bank, offset, width, value) {
            self.drive();
            return result;
        }
        if bank != UART {
            return Err(BusError::NoRegister);
        }
        let (reg, _) = Reg::decode(offset, width)?;
        self.uart.write(reg, value as u8);
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::{Clock, Timer};

    fn card(board: &Board, bus: &pci::Bus) -> (PciSerial, CharPort) {
        let pci = pci::Builder::new(board, bus, DeviceId(0), IDENTITY).io_bar(0, UART, 8).build(8);
        let (interrupt, port) = (IrqInput::detached(), CharPort::default());
        let uart = uart::Wires {
            irq: interrupt.pin(),
            port: port.clone(),
            clock: Clock::default(),
            timers: [Timer::default(), Timer::default(), Timer::default()],
        };
        (PciSerial::new(Wires { pci, uart, interrupt }), port)
    }

    fn bench() -> (PciSerial, CharPort, pci::Bus) {
        let board = Board::with_ram(0x1000);
        let bus = pci::Bus::simple(&board);
        let (dev, port) = card(&board, &bus);
        (dev, port, bus)
    }

    #[test]
    fn it_is_a_16550_that_interrupts_by_inta() {
        let (mut dev, port, bus) = bench();
        assert_eq!(dev.read(pci::CONFIG_BANK, 0, 4), Ok(0x0002_1b36));
        assert_eq!(dev.read(pci::CONFIG_BANK, 9, 2), Ok(0x0002));
        dev.write(UART, 0, 1, b'x'.into()).unwrap();
        assert_eq!(port.drain(), b"x");
        let asserted = |bus: &pci::Bus| bus.wires().iter().any(IrqInput::level);
        assert!(!asserted(&bus));
        dev.write(UART, 1, 1, 0x02).unwrap();
        assert!(asserted(&bus));
        assert_eq!(dev.read(UART, 2, 1), Ok(0x02));
        assert!(!asserted(&bus));
    }

    #[test]
    fn a_character_from_the_port_interrupts() {
        let (mut dev, port, bus) = bench();
        dev.write(UART, 1, 1, 0x01).unwrap();
        port.push(*b"y");
        assert!(HostIo::ready(&dev));
        dev.deliver(VmTime(0));
        assert!(bus.wires().iter().any(IrqInput::level));
        assert_eq!(dev.read(UART, 0, 1), Ok(b'y'.into()));
    }

    orrery_system::conformance!(bench().0, [(UART, Reg::TABLE), (pci::CONFIG_BANK, &[])]);
}
