//! Bus-master IDE: the engine that moves a channel's data by itself.
//!
//! Reference: Intel "Programming Interface for Bus Master IDE Controller" 1.0, and 29055002
//! (82371FB/SB PIIX) chapter 2.7. The engine walks a table of physical regions in guest memory.

use super::channel::BusMaster;
use bitfield_struct::bitfield;
use orrery_system::{BusError, BusResult, Dma, reg_map};
use serde::{Deserialize, Serialize};

reg_map! {
    /// The registers of one channel's engine.
    pub enum Reg {
        /// Command.
        0x0 Command: 1 Rw,
        /// Status.
        0x2 Status: 1 Rw,
        /// Address of the descriptor table.
        0x4 Table: 4 Rw,
    }
}

/// The command register.
#[bitfield(u8)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Run.
    pub start: bool,
    #[bits(2)]
    __: u8,
    /// Towards memory.
    pub to_memory: bool,
    #[bits(4)]
    __: u8,
}

/// The status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Running, with table left.
    pub active: bool,
    /// Memory could not be reached.
    pub error: bool,
    /// The drive interrupted since this was last cleared.
    pub interrupt: bool,
    #[bits(2)]
    __: u8,
    /// Software says that drive 0 does DMA.
    pub drive0: bool,
    /// Software says that drive 1 does DMA.
    pub drive1: bool,
    /// The channels cannot run at the same time: never.
    pub simplex: bool,
}

/// Entries of a table: it may not cross a 64 KiB boundary.
const MAX_ENTRIES: u32 = 0x1_0000 / 8;

/// Everything the guest can observe of one engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    command: Command,
    status: Status,
    table: u32,
    /// Table entries fetched.
    fetched: u32,
    /// What is left of the current region.
    addr: u32,
    left: u32,
    /// The current region is the last.
    last: bool,
    /// Level of the drive's interrupt when last looked at.
    line: bool,
}

impl State {
    /// Reads a register. 16- and 32-bit accesses are split by the board.
    pub fn read(&self, offset: u64, width: u8) -> BusResult<u64> {
        match (offset, width) {
            (0, 1) => Ok(u8::from(self.command).into()),
            (2, 1) => Ok(u8::from(self.status).into()),
            (4, 4) => Ok(self.table.into()),
            (1 | 3, 1) => Ok(0),
            (4..8, 1) => Ok((self.table >> (8 * (offset - 4)) & 0xff).into()),
            (0..8, 2..) => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }

    /// Writes a register.
    pub fn write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match (offset, width) {
            (0, 1) => self.set_command(Command::from(value as u8 & 9)),
            (2, 1) => {
                let v = Status::from(value as u8);
                let old = self.status;
                self.status = old
                    .with_error(old.error() && !v.error())
                    .with_interrupt(old.interrupt() && !v.interrupt())
                    .with_drive0(v.drive0())
                    .with_drive1(v.drive1());
            }
            (4, 4) => self.table = value as u32 & !3,
            (4..8, 1) => {
                let at = 8 * (offset - 4);
                self.table = (self.table & !(0xff << at) | (value as u32 & 0xff) << at) & !3;
            }
            (1 | 3, 1) => {}
            (0..8, 2..) => return Err(BusError::Width),
            _ => return Err(BusError::NoRegister),
        }
        Ok(())
    }

    fn set_command(&mut self, new: Command) {
        let old = self.command;
        self.command = new;
        if new.start() && !old.start() {
            (self.fetched, self.addr, self.left, self.last) = (0, 0, 0, false);
            self.status.set_active(true);
        } else if !new.start() {
            self.status.set_active(false);
        }
    }

    /// Looks at the drive's interrupt: its rise is latched in the status register.
    pub fn watch(&mut self, line: bool) {
        if line && !self.line {
            self.status.set_interrupt(true);
        }
        self.line = line;
    }
}

/// An engine at work: its registers and its way to memory.
pub struct Engine<'a> {
    /// The registers.
    pub state: &'a mut State,
    /// Guest memory.
    pub dma: &'a Dma,
}

impl Engine<'_> {
    /// Moves on to a region with bytes left; false at the end of the table or on an error.
    fn region(&mut self) -> bool {
        let s = &mut *self.state;
        if s.left > 0 {
            return true;
        }
        if s.last || s.fetched >= MAX_ENTRIES {
            s.status.set_active(false);
            return false;
        }
        let mut entry = [0; 8];
        let at = s.table.wrapping_add(8 * s.fetched);
        if self.dma.read(at.into(), &mut entry).is_err() {
            s.status.set_error(true);
            s.status.set_active(false);
            return false;
        }
        s.fetched += 1;
        let word =
            |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
        s.addr = word(0) & !1;
        s.left = if word(4) & 0xfffe == 0 { 0x1_0000 } else { word(4) & 0xfffe };
        s.last = word(4) >> 31 != 0;
        true
    }

    fn walk(
        &mut self,
        len: usize,
        mut piece: impl FnMut(&Dma, u64, usize, usize) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < len && self.region() {
            let n = (len - done).min(self.state.left as usize);
            if !piece(self.dma, self.state.addr.into(), done, n) {
                self.state.status.set_error(true);
                self.state.status.set_active(false);
                break;
            }
            self.state.addr = self.state.addr.wrapping_add(n as u32);
            self.state.left -= n as u32;
            done += n;
        }
        // The engine goes idle as soon as the last region is used up.
        if self.state.left == 0 && self.state.last {
            self.state.status.set_active(false);
        }
        done
    }
}

impl BusMaster for Engine<'_> {
    fn running(&self, from_drive: bool) -> bool {
        self.state.command.start()
            && self.dma.is_enabled()
            && !self.state.status.error()
            && self.state.command.to_memory() == from_drive
    }

    fn store(&mut self, data: &[u8]) -> usize {
        self.walk(data.len(), |dma, addr, at, n| dma.write(addr, &data[at..at + n]).is_ok())
    }

    fn fetch(&mut self, data: &mut [u8]) -> usize {
        let len = data.len();
        self.walk(len, |dma, addr, at, n| dma.read(addr, &mut data[at..at + n]).is_ok())
    }
}
