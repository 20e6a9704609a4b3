//! The DP8390 controller with its memory, whatever bus it is on.

use crate::net::frame::{self, BROADCAST, Mac};
use orrery_system::ports::NetPort;
use orrery_system::{BusError, BusResult, RestoreError};
use serde::{Deserialize, Serialize};

/// Ports of the card.
pub(super) const PORTS: u64 = 32;
/// Where the buffer memory lies in the controller's address space, and its end.
const MEMORY: usize = 0x4000;
const END: usize = 0x8000;
/// Bytes in a page of the buffer ring.
const PAGE: usize = 256;

/// Data and reset ports, behind the sixteen registers.
const DATA: u64 = 0x10;
const RESET: u64 = 0x18;

/// Command register.
const STOP: u8 = 0x01;
const START: u8 = 0x02;
const TRANSMIT: u8 = 0x04;
const REMOTE: u8 = 0x38;
const READ: u8 = 0x08;
const WRITE: u8 = 0x10;

/// Interrupt status.
mod isr {
    pub(super) const RECEIVED: u8 = 0x01;
    pub(super) const SENT: u8 = 0x02;
    pub(super) const OVERWRITE: u8 = 0x10;
    pub(super) const COUNTER: u8 = 0x20;
    pub(super) const REMOTE_DONE: u8 = 0x40;
    pub(super) const RESET: u8 = 0x80;
}

/// Receive configuration.
const ACCEPT_BROADCAST: u8 = 0x04;
const ACCEPT_MULTICAST: u8 = 0x08;
const PROMISCUOUS: u8 = 0x10;
const MONITOR: u8 = 0x20;
/// Receive status: intact, and addressed to many.
const INTACT: u8 = 0x01;
const TO_MANY: u8 = 0x20;
/// Data configuration: the data port is 16 bits wide.
const WIDE: u8 = 0x01;
/// Transmit configuration: loopback modes.
const LOOPBACK: u8 = 0x06;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// The card's address.
    pub mac: Mac,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    command: u8,
    page_start: u8,
    page_stop: u8,
    boundary: u8,
    current: u8,
    transmit_page: u8,
    transmit_count: u16,
    transmit_status: u8,
    remote_address: u16,
    remote_count: u16,
    interrupts: u8,
    mask: u8,
    receive_config: u8,
    receive_status: u8,
    transmit_config: u8,
    data_config: u8,
    missed: u8,
    station: Mac,
    groups: [u8; 8],
    memory: Vec<u8>,
}

/// The controller.
pub struct Ne2000 {
    prom: [u8; 32],
    cable: NetPort,
    state: State,
}

impl State {
    fn power_on() -> Self {
        Self {
            command: STOP | 0x20,
            page_start: 0,
            page_stop: 0,
            boundary: 0,
            current: 0,
            transmit_page: 0,
            transmit_count: 0,
            transmit_status: 0,
            remote_address: 0,
            remote_count: 0,
            interrupts: isr::RESET,
            mask: 0,
            receive_config: 0,
            receive_status: 0,
            transmit_config: 0,
            data_config: 0,
            missed: 0,
            station: [0; 6],
            groups: [0; 8],
            memory: vec![0; END - MEMORY],
        }
    }

    /// First byte and end of the receive ring; none if it is not all in memory.
    fn ring(&self) -> Option<(usize, usize)> {
        let (start, stop) =
            (usize::from(self.page_start) * PAGE, usize::from(self.page_stop) * PAGE);
        (start >= MEMORY && start < stop && stop <= END).then_some((start, stop))
    }

    fn wants(&self, frame: &[u8]) -> Option<u8> {
        let to = frame::destination(frame)?;
        let config = self.receive_config;
        let many = to[0] & 1 != 0;
        let passes = if to == BROADCAST {
            config & ACCEPT_BROADCAST != 0
        } else if many {
            let hash = (frame::crc_msb_first(&to) >> 26) as usize;
            config & ACCEPT_MULTICAST != 0 && self.groups[hash >> 3] >> (hash & 7) & 1 != 0
        } else {
            config & PROMISCUOUS != 0 || to == self.station
        };
        passes.then_some(if many { INTACT | TO_MANY } else { INTACT })
    }

    /// Puts a frame into the ring, behind a header of four bytes (data sheet 7.0).
    fn receive(&mut self, mut frame: Vec<u8>) {
        if self.command & STOP != 0 || self.receive_config & MONITOR != 0 {
            return;
        }
        if frame.len() < frame::MIN {
            frame.resize(frame::MIN, 0);
        }
        let (Some(status), Some((start, stop))) = (self.wants(&frame), self.ring()) else { return };
        let total = frame.len() + 4 + 4;
        let at = usize::from(self.current) * PAGE;
        if !(start..stop).contains(&at) {
            return;
        }
        if self.room(start, stop) < total {
            self.interrupts |= isr::OVERWRITE;
            self.missed = self.missed.saturating_add(1);
            if self.missed & 0x80 != 0 {
                self.interrupts |= isr::COUNTER;
            }
            return;
        }
        let wrap = |at: usize| if at >= stop { at - (stop - start) } else { at };
        let next = (wrap(at + total.next_multiple_of(PAGE)) / PAGE) as u8;
        let len = (frame.len() + 4) as u16;
        let header = [status, next, len as u8, (len >> 8) as u8];
        let fcs = frame::crc32(&frame).to_le_bytes();
        let bytes = header.into_iter().chain(frame).chain(fcs);
        for (i, byte) in bytes.enumerate() {
            self.memory[wrap(at + i) - MEMORY] = byte;
        }
        self.current = next;
        self.receive_status = status;
        self.interrupts |= isr::RECEIVED;
    }

    /// Bytes between where the next frame goes and what the guest has not read.
    fn room(&self, start: usize, stop: usize) -> usize {
        let (at, end) = (usize::from(self.current) * PAGE, usize::from(self.boundary) * PAGE);
        if at == end {
            stop - start
        } else {
            (end + (stop - start)).saturating_sub(at) % (stop - start)
        }
    }

    fn read(&mut self, reg: u8) -> u8 {
        if reg == 0 {
            return self.command;
        }
        match (self.command >> 6, reg) {
            (0, 1) => self.remote_address as u8,
            (0, 2) => (self.remote_address >> 8) as u8,
            (0, 3) => self.boundary,
            (0, 4) => self.transmit_status,
            (0, 7) => self.interrupts,
            (0, 8) => self.remote_address as u8,
            (0, 9) => (self.remote_address >> 8) as u8,
            // The Realtek's name.
            (0, 0xa) => b'P',
            (0, 0xb) => b'C',
            (0, 0xc) => self.receive_status,
            (0, 0xf) => std::mem::take(&mut self.missed),
            (1, 1..=6) => self.station[usize::from(reg - 1)],
            (1, 7) => self.current,
            (1, 8..) => self.groups[usize::from(reg - 8)],
            (2, 1) => self.page_start,
            (2, 2) => self.page_stop,
            (2, 4) => self.transmit_page,
            (2, 0xc) => self.receive_config | 0xc0,
            (2, 0xd) => self.transmit_config | 0xe0,
            (2, 0xe) => self.data_config | 0x80,
            (2, 0xf) => self.mask | 0x80,
            // Page 3: twisted pair, full duplex possible.
            (3, 5 | 6) => 0x40,
            _ => 0,
        }
    }

    fn write(&mut self, reg: u8, v: u8) {
        let low = |old: u16| old & 0xff00 | u16::from(v);
        let high = |old: u16| old & 0xff | u16::from(v) << 8;
        if reg == 0 {
            return self.write_command(v);
        }
        match (self.command >> 6, reg) {
            (0, 1) => self.page_start = v,
            (0, 2) => self.page_stop = v,
            (0, 3) => self.boundary = v,
            (0, 4) => self.transmit_page = v,
            (0, 5) => self.transmit_count = low(self.transmit_count),
            (0, 6) => self.transmit_count = high(self.transmit_count),
            (0, 7) => self.interrupts &= !(v & 0x7f),
            (0, 8) => self.remote_address = low(self.remote_address),
            (0, 9) => self.remote_address = high(self.remote_address),
            (0, 0xa) => self.remote_count = low(self.remote_count),
            (0, 0xb) => self.remote_count = high(self.remote_count),
            (0, 0xc) => self.receive_config = v & 0x3f,
            (0, 0xd) => self.transmit_config = v & 0x1f,
            (0, 0xe) => self.data_config = v & 0x7f,
            (0, 0xf) => self.mask = v & 0x7f,
            (1, 1..=6) => self.station[usize::from(reg - 1)] = v,
            (1, 7) => self.current = v,
            (1, 8..) => self.groups[usize::from(reg - 8)] = v,
            _ => {}
        }
    }

    fn write_command(&mut self, v: u8) {
        // The transmit bit stays until the frame is out, which is at once.
        self.command = v & !TRANSMIT;
        if v & STOP != 0 {
            self.interrupts |= isr::RESET;
        } else {
            self.interrupts &= !isr::RESET;
        }
        if v & (READ | WRITE) != 0 && self.remote_count == 0 {
            self.interrupts |= isr::REMOTE_DONE;
        }
    }

    /// Moves the remote address on, and ends the transfer when its bytes are through (6.0).
    fn advance(&mut self, n: u16) {
        let mut at = self.remote_address.wrapping_add(n);
        if at == u16::from(self.page_stop) << 8 {
            at = u16::from(self.page_start) << 8;
        }
        self.remote_address = at;
        self.remote_count = self.remote_count.saturating_sub(n);
        if self.remote_count == 0 {
            self.interrupts |= isr::REMOTE_DONE;
        }
    }

    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.memory.len() != END - MEMORY {
            return Err(RestoreError::Invalid("buffer memory of another size"));
        }
        Ok(())
    }
}

impl Ne2000 {
    /// Builds the controller in its power-on state.
    pub fn new(config: &Config, cable: NetPort) -> Self {
        let mut prom = [0; 32];
        for (i, &byte) in config.mac.iter().enumerate() {
            prom[2 * i..2 * i + 2].fill(byte);
        }
        // What says that the card has a 16-bit data port.
        prom[28..].fill(0x57);
        Self { prom, cable, state: State::power_on() }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn set_state(&mut self, state: State) -> Result<(), RestoreError> {
        state.check()?;
        self.state = state;
        Ok(())
    }

    pub(super) fn reset(&mut self) {
        self.state = State::power_on();
    }

    pub(super) fn interrupts(&self) -> bool {
        self.state.interrupts & self.state.mask & 0x7f != 0
    }

    pub(super) fn ready(&self) -> bool {
        self.cable.has_input()
    }

    pub(super) fn deliver(&mut self) {
        while let Some(frame) = self.cable.receive() {
            if frame.len() <= frame::MAX_TAGGED {
                self.state.receive(frame);
            }
        }
    }

    fn byte(&self, at: u16) -> u8 {
        match usize::from(at) {
            at @ 0..32 => self.prom[at],
            at @ MEMORY..END => self.state.memory[at - MEMORY],
            _ => 0xff,
        }
    }

    fn transmit(&mut self) {
        let s = &mut self.state;
        let start = usize::from(s.transmit_page) * PAGE;
        let end = start + usize::from(s.transmit_count);
        if start >= MEMORY && end <= END && end - start >= frame::HEADER {
            let frame = s.memory[start - MEMORY..end - MEMORY].to_vec();
            if s.transmit_config & LOOPBACK != 0 {
                s.receive(frame);
            } else {
                self.cable.send(frame);
            }
        }
        let s = &mut self.state;
        s.transmit_status = 1;
        s.interrupts |= isr::SENT;
    }

    /// How many bytes an access to the data port moves: a 16-bit port moves two even where only
    /// one of them is looked at.
    fn data_width(&self, width: u8) -> BusResult<u16> {
        match (width, self.state.data_config & WIDE != 0) {
            (1, wide) => Ok(if wide { 2 } else { 1 }),
            (2 | 4, true) => Ok(width.into()),
            _ => Err(BusError::Width),
        }
    }

    pub(super) fn read(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        match offset {
            0..DATA if width == 1 => Ok(self.state.read(offset as u8).into()),
            0..DATA => Err(BusError::Width),
            DATA..RESET => {
                let n = self.data_width(width)?;
                // One at a time: the ring's end may lie between.
                let mut value = 0;
                for i in 0..n {
                    if self.state.remote_count > 0 {
                        value |= u64::from(self.byte(self.state.remote_address)) << (8 * i);
                        self.state.advance(1);
                    }
                }
                Ok(value)
            }
            RESET..PORTS if width == 1 => {
                self.state.write_command(STOP | 0x20);
                Ok(0)
            }
            RESET..PORTS => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }

    pub(super) fn write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match offset {
            0..DATA if width == 1 => {
                let v = value as u8;
                self.state.write(offset as u8, v);
                if offset == 0 && v & (STOP | START | TRANSMIT) == START | TRANSMIT {
                    self.transmit();
                }
                Ok(())
            }
            0..DATA => Err(BusError::Width),
            DATA..RESET => {
                let n = self.data_width(width)?;
                let writing = self.state.command & REMOTE == WRITE;
                for i in 0..n {
                    if self.state.remote_count > 0 && writing {
                        let at = usize::from(self.state.remote_address);
                        if (MEMORY..END).contains(&at) {
                            self.state.memory[at - MEMORY] = (value >> (8 * i)) as u8;
                        }
                        self.state.advance(1);
                    }
                }
                Ok(())
            }
            RESET..PORTS if width == 1 => Ok(()),
            RESET..PORTS => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }
}
