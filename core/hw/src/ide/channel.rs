//! A parallel ATA channel: two drives on one cable, the command and control blocks, one
//! interrupt.
//!
//! Reference: ATA/ATAPI-7 volume 2. A host adapter owns a [`Channel`], maps its two register
//! blocks somewhere and may bring a [`BusMaster`].

use super::ata::{self, Drive, Phase, Status};
use crate::block::drive::{DriveIo, Queue};
use orrery_block::backend::BlockBackend;
use orrery_system::time::VmTime;
use orrery_system::{BusError, BusResult, IrqLine, RestoreError, reg_map};
use serde::{Deserialize, Serialize};

reg_map! {
    /// The command block, ATA/ATAPI-7 volume 1 table 5.
    pub enum Reg {
        /// Data: 16 or 32 bits wide, over the registers that follow.
        0x0 Data: 1 Rw,
        /// Error; features where written.
        0x1 Error: 1 Rw,
        /// Sector count; interrupt reason of packet commands.
        0x2 Count: 1 Rw,
        /// LBA low, sector number.
        0x3 LbaLow: 1 Rw,
        /// LBA mid, cylinder low, byte count low.
        0x4 LbaMid: 1 Rw,
        /// LBA high, cylinder high, byte count high.
        0x5 LbaHigh: 1 Rw,
        /// Device and head.
        0x6 Device: 1 Rw,
        /// Status; command where written.
        0x7 Status: 1 Rw,
    }
}

reg_map! {
    /// The control block.
    pub enum Control {
        /// Alternate status; device control where written.
        0x0 AltStatus: 1 Rw,
    }
}

/// Device control: no interrupts.
const NIEN: u8 = 0x02;
/// Device control: reset.
const SRST: u8 = 0x04;
/// Device control: read the older bytes of the task file.
const HOB: u8 = 0x80;
/// Device register: the second drive.
const DEV: u8 = 0x10;

/// Whoever moves data between a drive and guest memory.
pub trait BusMaster {
    /// Whether it was started in the direction of a transfer from (`true`) or to the drive.
    fn running(&self, from_drive: bool) -> bool;
    /// Stores `data`; returns how much of it found a place.
    fn store(&mut self, data: &[u8]) -> usize;
    /// Fetches up to `data.len()` bytes; returns how many there were.
    fn fetch(&mut self, data: &mut [u8]) -> usize;
}

/// Everything the guest can observe of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    drives: Vec<Option<ata::State>>,
    queue: Queue<()>,
    second: bool,
    control: u8,
}

/// A drive that is plugged in: its settings and its backend.
pub type Plug = Option<(ata::Config, BlockBackend)>;

/// A channel.
pub struct Channel {
    drives: [Option<Drive>; 2],
    io: DriveIo,
    irq: IrqLine,
    queue: Queue<()>,
    /// The second drive is selected.
    second: bool,
    control: u8,
}

impl Channel {
    /// A channel with its drives. `io` must have been made from [`Channel::backends`] of the
    /// same drives.
    pub fn new(plugs: [Plug; 2], io: DriveIo, irq: IrqLine) -> Self {
        let drives = plugs.map(|p| p.map(|(config, backend)| Drive::new(config, backend)));
        Self { drives, io, irq, queue: Queue::default(), second: false, control: 0 }
    }

    /// The backends of two plugs, in the order [`DriveIo`] numbers them.
    pub fn backends(plugs: &[Plug; 2]) -> Vec<BlockBackend> {
        let backend = |p: &Plug| p.as_ref().map_or_else(BlockBackend::detached, |(_, b)| b.clone());
        plugs.iter().map(backend).collect()
    }

    /// A drive of the channel: 0 or 1.
    pub fn drive(&self, n: usize) -> Option<&Drive> {
        self.drives.get(n)?.as_ref()
    }

    fn selected(&self) -> Option<&Drive> {
        self.drives[usize::from(self.second)].as_ref()
    }

    fn selected_mut(&mut self) -> Option<&mut Drive> {
        self.drives[usize::from(self.second)].as_mut()
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Drive> {
        self.drives.iter_mut().flatten()
    }

    /// Power-on.
    pub fn reset(&mut self) {
        self.io.abandon_all(&mut self.queue);
        self.each().for_each(Drive::reset);
        (self.second, self.control) = (false, 0);
        self.drive_irq();
    }

    /// Its state.
    pub fn save(&self) -> State {
        State {
            drives: self.drives.iter().map(|d| d.as_ref().map(Drive::save)).collect(),
            queue: self.queue.clone(),
            second: self.second,
            control: self.control,
        }
    }

    /// Refuses a state of a channel with other drives.
    pub fn check(&self, s: &State) -> Result<(), RestoreError> {
        let fits = s.drives.len() == 2
            && self.drives.iter().zip(&s.drives).all(|(have, saved)| match (have, saved) {
                (Some(have), Some(saved)) => have.accepts(saved),
                (None, None) => true,
                _ => false,
            });
        if fits { Ok(()) } else { Err(RestoreError::Invalid("drives on an IDE channel")) }
    }

    /// Takes over a state that [`Channel::check`] found good.
    pub fn restore(&mut self, s: State) {
        for (drive, state) in self.drives.iter_mut().zip(s.drives) {
            if let (Some(drive), Some(state)) = (drive, state) {
                drive.restore(state);
            }
        }
        (self.queue, self.second, self.control) = (s.queue, s.second, s.control);
        self.io.resume(&self.queue);
        self.drive_irq();
    }

    /// Whether the channel requests an interrupt: the selected drive does and may.
    pub fn intrq(&self) -> bool {
        self.control & NIEN == 0 && self.selected().is_some_and(Drive::intrq)
    }

    fn drive_irq(&self) {
        self.irq.set(self.intrq());
    }

    /// Starts what the drives want and lets the bus master work; to be called after anything
    /// happened to either.
    pub fn drive_outputs(&mut self, master: Option<&mut dyn BusMaster>) {
        self.submit();
        if let Some(master) = master {
            self.move_data(master);
            self.submit();
        }
        self.drive_irq();
    }

    fn submit(&mut self) {
        for (n, drive) in self.drives.iter_mut().enumerate() {
            if let Some(op) = drive.as_mut().and_then(Drive::take_op) {
                self.io.submit(&mut self.queue, n, (), op);
            }
        }
    }

    fn move_data(&mut self, master: &mut dyn BusMaster) {
        for drive in self.drives.iter_mut().flatten() {
            // Every round moves data the backend has delivered, or ends the transfer.
            while drive.phase() == Phase::DmaIn && master.running(true) {
                match master.store(drive.dma_in()) {
                    0 => drive.dma_ran_out(),
                    n => drive.dma_taken(n),
                }
            }
            while drive.phase() == Phase::DmaOut && master.running(false) {
                let mut data = vec![0; drive.dma_out()];
                match master.fetch(&mut data) {
                    0 => drive.dma_ran_out(),
                    n => drive.dma_given(&data[..n]),
                }
            }
        }
    }

    // Registers.

    fn status(&self) -> u8 {
        self.selected().map_or(0, |d| d.regs().status.bits())
    }

    /// Reads the command block.
    pub fn read(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        if offset == Reg::Data.offset() {
            return match width {
                // The data register is 16 bits wide; byte reads float.
                1 => Ok(0xff),
                2 | 4 => Ok(self.selected_mut().map_or(0, |d| d.pio_in(width)).into()),
                _ => Err(BusError::Width),
            };
        }
        let (reg, _) = Reg::decode(offset, width)?;
        let hob = self.control & HOB != 0;
        let Some(drive) = self.selected_mut() else { return Ok(0) };
        let show = |r: u16| if hob { r >> 8 } else { r & 0xff };
        let r = drive.regs();
        let value = match reg {
            Reg::Data => 0,
            Reg::Error => r.error.into(),
            Reg::Count => show(r.count),
            Reg::LbaLow => show(r.low),
            Reg::LbaMid => show(r.mid),
            Reg::LbaHigh => show(r.high),
            Reg::Device => u16::from(r.device | 0xa0),
            Reg::Status => {
                let status = r.status.bits();
                drive.clear_intrq();
                status.into()
            }
        };
        Ok(value.into())
    }

    /// Writes the command block.
    pub fn write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if offset == Reg::Data.offset() {
            return match width {
                1 => Ok(()),
                2 | 4 => {
                    if let Some(d) = self.selected_mut() {
                        d.pio_out(width, value as u32);
                    }
                    Ok(())
                }
                _ => Err(BusError::Width),
            };
        }
        let (reg, _) = Reg::decode(offset, width)?;
        if reg == Reg::Status {
            self.command(value as u8);
            return Ok(());
        }
        let busy = Status::BSY | Status::DRQ;
        if self.selected().is_some_and(|d| d.regs().status.intersects(busy)) {
            return Ok(());
        }
        self.control &= !HOB;
        let byte = value as u16 & 0xff;
        let push = |r: &mut u16| *r = *r << 8 | byte;
        // Both drives hear every write; only the selected one carries commands out.
        for drive in self.drives.iter_mut().flatten() {
            let r = drive.regs_mut();
            match reg {
                Reg::Data | Reg::Status => {}
                Reg::Error => push(&mut r.feature),
                Reg::Count => push(&mut r.count),
                Reg::LbaLow => push(&mut r.low),
                Reg::LbaMid => push(&mut r.mid),
                Reg::LbaHigh => push(&mut r.high),
                Reg::Device => r.device = byte as u8,
            }
        }
        if reg == Reg::Device {
            self.second = byte as u8 & DEV != 0;
        }
        Ok(())
    }

    fn command(&mut self, code: u8) {
        const DEVICE_RESET: u8 = 0x08;
        const DIAGNOSTIC: u8 = 0x90;
        if self.control & SRST != 0 {
            return;
        }
        if code == DIAGNOSTIC {
            // Both drives take it, whichever is selected; drive 0 answers.
            self.io.abandon_all(&mut self.queue);
            self.second = false;
            self.each().for_each(|d| d.command(DIAGNOSTIC));
            return;
        }
        let n = usize::from(self.second);
        if code == DEVICE_RESET && self.selected().is_some_and(|d| d.kind() == ata::Kind::Cdrom) {
            self.io.abandon(&mut self.queue, |drive, ()| drive == n);
        }
        if let Some(drive) = self.selected_mut() {
            drive.command(code);
        }
    }

    /// Reads the control block: the status, without taking the interrupt back.
    pub fn read_control(&self, offset: u64, width: u8) -> BusResult<u64> {
        Control::decode(offset, width)?;
        Ok(self.status().into())
    }

    /// Writes device control.
    pub fn write_control(&mut self, offset: u64, width: u8, value: u64) -> BusResult<()> {
        Control::decode(offset, width)?;
        let (old, new) = (self.control, value as u8);
        self.control = new;
        if (old ^ new) & SRST != 0 {
            self.io.abandon_all(&mut self.queue);
            self.second = false;
            for drive in self.each() {
                drive.soft_reset();
                if new & SRST != 0 {
                    drive.regs_mut().status = Status::BSY;
                }
            }
        }
        Ok(())
    }

    // Host operations.

    /// When the first operation in flight completes.
    pub fn due(&self) -> Option<VmTime> {
        self.io.due(&self.queue)
    }

    /// Whether the host has finished it.
    pub fn ready(&self) -> bool {
        self.io.ready(&self.queue)
    }

    /// Gives the drives what is finished and due. The caller drives the outputs afterwards.
    pub fn deliver(&mut self, now: VmTime) {
        while let Some(done) = self.io.take(&mut self.queue, now) {
            if let Some(drive) = self.drives.get_mut(done.drive).and_then(Option::as_mut) {
                drive.op_done(done.result);
            }
        }
    }
}
