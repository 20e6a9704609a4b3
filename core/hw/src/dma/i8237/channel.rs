//! The channels of both controllers, shared with the peripherals that use them.

use crate::block::fdc::DmaChannel;
use orrery_system::{Dma, IrqLine};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard};

/// Mode register.
mod mode {
    pub(super) const TRANSFER: u8 = 0x0c;
    pub(super) const TO_MEMORY: u8 = 0x04;
    pub(super) const FROM_MEMORY: u8 = 0x08;
    pub(super) const AUTO_INIT: u8 = 0x10;
    pub(super) const DOWN: u8 = 0x20;
}

/// Command register.
mod command {
    pub(super) const MEMORY_TO_MEMORY: u8 = 0x01;
    pub(super) const HOLD_0: u8 = 0x02;
    pub(super) const DISABLED: u8 = 0x04;
}

/// One channel's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) base_address: u16,
    pub(super) base_count: u16,
    pub(super) address: u16,
    pub(super) count: u16,
    pub(super) mode: u8,
    pub(super) page: u8,
}

/// One controller's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Controller {
    pub(super) channels: [Registers; 4],
    pub(super) command: u8,
    /// Channels that reached terminal count since the status was read.
    pub(super) terminal: u8,
    /// DREQ pins.
    pub(super) dreq: u8,
    /// Requests by software.
    pub(super) request: u8,
    pub(super) mask: u8,
    pub(super) temporary: u8,
    /// The next access to a 16-bit register is to its high byte.
    pub(super) high: bool,
}

impl Controller {
    pub(super) const POWER_ON: Self = Self {
        channels: [Registers {
            base_address: 0,
            base_count: 0,
            address: 0,
            count: 0,
            mode: 0,
            page: 0,
        }; 4],
        command: 0,
        terminal: 0,
        dreq: 0,
        request: 0,
        mask: 0x0f,
        temporary: 0,
        high: false,
    };

    /// Channels that may transfer.
    fn open(&self) -> u8 {
        if self.command & command::DISABLED != 0 { 0 } else { !self.mask & 0x0f }
    }

    /// Counts one transfer of channel `i`; says whether that was the last.
    fn step(&mut self, i: usize, units: u32) -> bool {
        let c = &mut self.channels[i];
        let moved = units as u16; // 65536 is a full turn
        c.address = if c.mode & mode::DOWN != 0 {
            c.address.wrapping_sub(moved)
        } else {
            c.address.wrapping_add(moved)
        };
        let last = units > u32::from(c.count);
        c.count = c.count.wrapping_sub(moved);
        if last {
            self.terminal |= 1 << i;
            self.request &= !(1 << i);
            if c.mode & mode::AUTO_INIT != 0 {
                (c.address, c.count) = (c.base_address, c.base_count);
            } else {
                self.mask |= 1 << i;
            }
        }
        last
    }
}

pub(super) struct Shared {
    pub(super) controllers: [Controller; 2],
    dma: Dma,
    dack: [IrqLine; 8],
}

/// Data on its way through a channel.
enum Data<'a> {
    ToMemory(&'a [u8]),
    FromMemory(&'a mut [u8]),
}

impl Shared {
    /// Where channel `i` of a controller moves data next, in bytes.
    fn address(controller: usize, c: &Registers) -> u64 {
        let (page, address) = (u64::from(c.page), u64::from(c.address));
        if controller == 0 { page << 16 | address } else { (page & 0xfe) << 16 | address << 1 }
    }

    /// Moves data until it is used up or the channel has reached its count.
    fn transfer(&mut self, channel: usize, mut data: Data<'_>) -> (usize, bool) {
        let (which, i) = (channel / 4, channel % 4);
        let unit = 1 << which;
        let len = match &data {
            Data::ToMemory(d) => d.len(),
            Data::FromMemory(d) => d.len(),
        };
        let mut done = 0;
        while self.controllers[which].open() & 1 << i != 0 && len - done >= unit {
            let c = self.controllers[which].channels[i];
            // In one go up to the terminal count, or to where the 16-bit address wraps.
            let down = c.mode & mode::DOWN != 0;
            let run = if down { 1 } else { 0x1_0000 - u32::from(c.address) };
            let left = u32::from(c.count) + 1;
            let units = run.min(left).min(u32::try_from((len - done) / unit).unwrap_or(u32::MAX));
            let range = done..done + units as usize * unit;
            let at = Self::address(which, &c);
            // Nothing answers at a hole: reads float, writes are lost, and the count goes on.
            match (&mut data, c.mode & mode::TRANSFER) {
                (Data::ToMemory(d), mode::TO_MEMORY) => _ = self.dma.write(at, &d[range.clone()]),
                (Data::FromMemory(d), mode::FROM_MEMORY) => {
                    _ = self.dma.read(at, &mut d[range.clone()]);
                }
                _ => {}
            }
            done = range.end;
            if self.controllers[which].step(i, units) {
                self.drive();
                return (done, true);
            }
        }
        (done, false)
    }

    /// A software request for channel 0 while memory-to-memory is on: channel 0 to channel 1.
    pub(super) fn memory_to_memory(&mut self, which: usize) {
        let c = &self.controllers[which];
        let on = c.command & (command::MEMORY_TO_MEMORY | command::DISABLED)
            == command::MEMORY_TO_MEMORY;
        if !on || c.request & 1 == 0 || which != 0 {
            return;
        }
        loop {
            let c = &mut self.controllers[which];
            let mut byte = [0];
            let hold = c.command & command::HOLD_0 != 0;
            _ = self.dma.read(Self::address(which, &c.channels[0]), &mut byte);
            let held = c.channels[0].address;
            c.temporary = byte[0];
            _ = self.dma.write(Self::address(which, &c.channels[1]), &byte);
            c.step(0, 1);
            if hold {
                c.channels[0].address = held;
            }
            if c.step(1, 1) {
                c.request &= !3;
                return;
            }
        }
    }

    /// Shows which requests are granted.
    pub(super) fn drive(&self) {
        for (n, line) in self.dack.iter().enumerate() {
            let c = &self.controllers[n / 4];
            line.set(c.dreq & c.open() & 1 << (n % 4) != 0);
        }
    }
}

/// The channels of a PC's two controllers. Clones are the same channels.
#[derive(Clone)]
pub struct IsaDma(Arc<Mutex<Shared>>);

impl IsaDma {
    /// Channels that move data through `dma`. Pin `n` of `dack` is high while channel `n` is
    /// requested and may transfer; leave those open that nobody waits for.
    pub fn new(dma: Dma, dack: [IrqLine; 8]) -> Self {
        let shared = Shared { controllers: [Controller::POWER_ON; 2], dma, dack };
        Self(Arc::new(Mutex::new(shared)))
    }

    /// Channel `n`, 0 to 7, for a peripheral.
    pub fn channel(&self, n: usize) -> IsaDmaChannel {
        IsaDmaChannel { dma: self.clone(), n: n & 7 }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("no panic while held")
    }
}

/// One channel as its peripheral sees it: it raises DREQ and moves data itself, in its own time,
/// while the channel lets it. Channels 0 to 3 move bytes, 5 to 7 words.
#[derive(Clone)]
pub struct IsaDmaChannel {
    dma: IsaDma,
    n: usize,
}

impl IsaDmaChannel {
    /// Drives DREQ.
    pub fn set_request(&self, on: bool) {
        let mut s = self.dma.lock();
        let bit = 1 << (self.n % 4);
        let c = &mut s.controllers[self.n / 4];
        c.dreq = if on { c.dreq | bit } else { c.dreq & !bit };
        s.drive();
    }

    /// Whether the channel would transfer now.
    pub fn is_open(&self) -> bool {
        self.dma.lock().controllers[self.n / 4].open() & 1 << (self.n % 4) != 0
    }

    /// Bytes left to the terminal count.
    pub fn remaining(&self) -> usize {
        let c = &self.dma.lock().controllers[self.n / 4];
        (usize::from(c.channels[self.n % 4].count) + 1) << (self.n / 4)
    }
}

impl DmaChannel for IsaDmaChannel {
    fn store(&mut self, data: &[u8]) -> (usize, bool) {
        self.dma.lock().transfer(self.n, Data::ToMemory(data))
    }

    fn fetch(&mut self, data: &mut [u8]) -> (usize, bool) {
        self.dma.lock().transfer(self.n, Data::FromMemory(data))
    }
}
