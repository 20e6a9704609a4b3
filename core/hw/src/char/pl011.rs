//! Arm PrimeCell PL011 UART.
//!
//! Reference: Arm DDI 0183G. Characters leave at once, and arrive as soon as there is room for them.
//!
//! Not modelled: the line's speed, modem signals, DMA and IrDA.

use orrery_system::bus::{BusResult, Registers};
use orrery_system::device::{Device, HostIo};
use orrery_system::ports::CharPort;
use orrery_system::reg_map::Access;
use orrery_system::{
    Board, DeviceId, IrqLine, RestoreError, State as _, StateBlob, VmTime, reg_map,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

reg_map! {
    /// Registers, DDI 0183G table 3-1.
    pub enum Reg {
        /// Data.
        0x000 Dr: 4 Rw,
        /// Receive status; cleared by any write.
        0x004 Rsr: 4 Rw,
        /// Flags.
        0x018 Fr: 4 Ro,
        /// IrDA low-power counter.
        0x020 Ilpr: 4 Rw,
        /// Baud rate, integer part.
        0x024 Ibrd: 4 Rw,
        /// Baud rate, fraction.
        0x028 Fbrd: 4 Rw,
        /// Line control.
        0x02c Lcrh: 4 Rw,
        /// Control.
        0x030 Cr: 4 Rw,
        /// FIFO levels of interrupts.
        0x034 Ifls: 4 Rw,
        /// Interrupt mask.
        0x038 Imsc: 4 Rw,
        /// Raw interrupts.
        0x03c Ris: 4 Ro,
        /// Masked interrupts.
        0x040 Mis: 4 Ro,
        /// Interrupt clear.
        0x044 Icr: 4 Wo,
        /// DMA control.
        0x048 Dmacr: 4 Rw,
    }
}

/// PrimeCell identification bytes, one per word from 0xfe0.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
const ID_BASE: u64 = 0xfe0;
const FIFO: usize = 16;

mod irq {
    pub(super) const RX: u16 = 1 << 4;
    pub(super) const TX: u16 = 1 << 5;
    pub(super) const ALL: u16 = 0x7ff;
}

const FR_RXFE: u32 = 1 << 4;
const FR_RXFF: u32 = 1 << 6;
const FR_TXFE: u32 = 1 << 7;
const LCRH_FEN: u16 = 1 << 4;
const CR_LOOP: u16 = 1 << 7;
const CR_RESET: u16 = 0x300;

/// Pins and services the machine wires up.
pub struct Wires {
    /// `UARTINTR`.
    pub irq: IrqLine,
    /// The line.
    pub port: CharPort,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    rx: VecDeque<u8>,
    ilpr: u8,
    ibrd: u16,
    fbrd: u8,
    lcrh: u16,
    cr: u16,
    ifls: u16,
    imsc: u16,
    ris: u16,
    dmacr: u16,
}

impl orrery_system::State for State {
    const KIND: &'static str = "pl011";
    const VERSION: u16 = 1;
}

impl State {
    fn power_on() -> Self {
        Self {
            rx: VecDeque::new(),
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcrh: 0,
            cr: CR_RESET,
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        }
    }

    fn depth(&self) -> usize {
        if self.lcrh & LCRH_FEN != 0 { FIFO } else { 1 }
    }

    fn receive(&mut self, byte: u8) {
        self.rx.push_back(byte);
        self.ris |= irq::RX;
    }

    fn flags(&self) -> u32 {
        let rx = match self.rx.len() {
            0 => FR_RXFE,
            n if n >= self.depth() => FR_RXFF,
            _ => 0,
        };
        rx | FR_TXFE
    }
}

/// The device.
pub struct Pl011 {
    wires: Wires,
    state: State,
}

/// Puts the device into memory; the answer is its line.
pub fn build(board: &mut Board, at: u64, irq: IrqLine) -> CharPort {
    let id: DeviceId = board.reserve("pl011");
    board.memory().add(at, &board.regions().device("pl011", 0x1000, id, 0));
    let port: CharPort = board.port();
    board.attach(id, Box::new(Pl011::new(Wires { irq, port: port.clone() })));
    port
}

impl Pl011 {
    /// Builds the device in its power-on state.
    pub fn new(wires: Wires) -> Self {
        Self { wires, state: State::power_on() }
    }

    fn drive(&self) {
        self.wires.irq.set(self.state.ris & self.state.imsc != 0);
    }
}

impl Device for Pl011 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::power_on();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.rx.len() > FIFO {
            return Err(RestoreError::Invalid("FIFO longer than 16"));
        }
        self.state = state;
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

impl HostIo for Pl011 {
    fn due(&self) -> Option<VmTime> {
        None
    }

    fn ready(&self) -> bool {
        self.wires.port.has_input()
            && self.state.cr & CR_LOOP == 0
            && self.state.rx.len() < self.state.depth()
    }

    fn deliver(&mut self, _now: VmTime) {
        while self.ready() {
            let Some(byte) = self.wires.port.receive() else { break };
            self.state.receive(byte);
        }
        self.drive();
    }
}

impl Registers for Pl011 {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if offset >= ID_BASE && offset.is_multiple_of(4) {
            if let Some(&byte) = ID.get(((offset - ID_BASE) / 4) as usize) {
                return Ok(byte.into());
            }
        }
        // Drivers read the data and flag registers with any width.
        let (reg, access) = Reg::decode(offset, width.max(4))?;
        if access == Access::Wo {
            return Ok(0);
        }
        let s = &mut self.state;
        let value = match reg {
            Reg::Dr => {
                let byte = s.rx.pop_front().unwrap_or(0);
                if s.rx.is_empty() {
                    s.ris &= !irq::RX;
                }
                byte.into()
            }
            Reg::Rsr | Reg::Icr => 0,
            Reg::Fr => s.flags(),
            Reg::Ilpr => s.ilpr.into(),
            Reg::Ibrd => s.ibrd.into(),
            Reg::Fbrd => s.fbrd.into(),
            Reg::Lcrh => s.lcrh.into(),
            Reg::Cr => s.cr.into(),
            Reg::Ifls => s.ifls.into(),
            Reg::Imsc => s.imsc.into(),
            Reg::Ris => s.ris.into(),
            Reg::Mis => (s.ris & s.imsc).into(),
            Reg::Dmacr => s.dmacr.into(),
        };
        self.drive();
        Ok(value.into())
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let (reg, _) = Reg::decode(offset, width.max(4))?;
        let s = &mut self.state;
        let v = value as u16;
        match reg {
            Reg::Dr => {
                if s.cr & CR_LOOP != 0 {
                    if s.rx.len() < s.depth() {
                        s.receive(value as u8);
                    }
                } else {
                    self.wires.port.send(value as u8);
                }
                s.ris |= irq::TX;
            }
            Reg::Ilpr => s.ilpr = value as u8,
            Reg::Ibrd => s.ibrd = v,
            Reg::Fbrd => s.fbrd = (value & 0x3f) as u8,
            Reg::Lcrh => {
                if (v ^ s.lcrh) & LCRH_FEN != 0 {
                    s.rx.clear();
                    s.ris &= !irq::RX;
                }
                s.lcrh = v & 0xff;
            }
            Reg::Cr => s.cr = v,
            Reg::Ifls => s.ifls = v & 0x3f,
            Reg::Imsc => s.imsc = v & irq::ALL,
            Reg::Icr => s.ris &= !v,
            Reg::Dmacr => s.dmacr = v & 7,
            Reg::Rsr | Reg::Fr | Reg::Ris | Reg::Mis => {}
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (Pl011, IrqLine, CharPort) {
        let (irq, port) = (IrqLine::open(), CharPort::default());
        (Pl011::new(Wires { irq: irq.clone(), port: port.clone() }), irq, port)
    }

    #[test]
    fn what_is_written_leaves_and_what_arrives_interrupts_until_it_is_read() {
        let (mut dev, irq, port) = fresh();
        dev.write(0, 0, 1, 0x41).unwrap();
        assert_eq!(port.drain(), [0x41]);
        dev.write(0, Reg::Lcrh.offset(), 4, LCRH_FEN.into()).unwrap();
        dev.write(0, Reg::Imsc.offset(), 4, irq::RX.into()).unwrap();
        port.push(*b"xy");
        assert!(dev.ready());
        dev.deliver(VmTime(0));
        assert!(irq.level());
        assert_eq!(dev.read(0, 0, 4), Ok(b'x'.into()));
        assert!(irq.level());
        assert_eq!(dev.read(0, 0, 4), Ok(b'y'.into()));
        assert!(!irq.level());
        assert_eq!(dev.read(0, Reg::Fr.offset(), 4), Ok((FR_RXFE | FR_TXFE).into()));
    }

    #[test]
    fn without_its_fifo_it_holds_one_character() {
        let (mut dev, _, port) = fresh();
        port.push(*b"xy");
        dev.deliver(VmTime(0));
        assert!(!dev.ready());
        dev.read(0, 0, 4).unwrap();
        assert!(dev.ready());
    }

    orrery_system::conformance!(fresh().0, Reg::TABLE);
}
