//! One port of the controller: its registers, its drive, the commands in its slots.

use super::prdt::{Cursor, Header};
use crate::block::drive::{DriveError, DriveIo, Op, Queue};
use crate::ide::ata::{ABRT, Drive, Kind, Phase, QueuedError, SECTOR, Status};
use bitfield_struct::bitfield;
use bitflags::bitflags;
use orrery_system::{Dma, reg_map};
use serde::{Deserialize, Serialize};

reg_map! {
    /// Registers of a port, AHCI 1.3.1 chapter 3.3; the first port's are at 0x100.
    pub enum Reg {
        /// Command list base.
        0x00 Clb: 4 Rw,
        /// Command list base, upper half.
        0x04 Clbu: 4 Rw,
        /// Received FIS base.
        0x08 Fb: 4 Rw,
        /// Received FIS base, upper half.
        0x0c Fbu: 4 Rw,
        /// Interrupt status.
        0x10 Is: 4 Rw,
        /// Interrupt enable.
        0x14 Ie: 4 Rw,
        /// Command and status.
        0x18 Cmd: 4 Rw,
        /// Task file data: status and error.
        0x20 Tfd: 4 Ro,
        /// Signature.
        0x24 Sig: 4 Ro,
        /// Serial ATA status.
        0x28 Ssts: 4 Ro,
        /// Serial ATA control.
        0x2c Sctl: 4 Rw,
        /// Serial ATA error.
        0x30 Serr: 4 Rw,
        /// Queued commands active.
        0x34 Sact: 4 Rw,
        /// Commands issued.
        0x38 Ci: 4 Rw,
    }
}

bitflags! {
    impl Interrupts: u32 {
        /// Device to host register FIS.
        const DHR = 1;
        /// PIO setup FIS.
        const PS = 1 << 1;
        /// Set device bits FIS.
        const SDB = 1 << 3;
        /// Port connect change, as long as SERR says so.
        const PC = 1 << 6;
        /// More data than regions.
        const OF = 1 << 24;
        /// Memory could not be reached.
        const HBF = 1 << 29;
        /// Task file error.
        const TFE = 1 << 30;
    }
}

/// The port's interrupt status bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Interrupts(u32);

/// Bits of the interrupt enable register that are there.
const IE_MASK: u32 = 0xfdc0_00ff;
/// SERR: the link changed.
const SERR_X: u32 = 1 << 26;

/// Command and status.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cmd {
    pub(super) start: bool,
    spin_up: bool,
    power_on: bool,
    clear_busy: bool,
    receive: bool,
    #[bits(3)]
    __: u8,
    #[bits(5)]
    current: u8,
    __: bool,
    receiving: bool,
    running: bool,
    #[bits(8)]
    __: u8,
    atapi: bool,
    #[bits(7)]
    __: u8,
}

impl Cmd {
    const WRITABLE: u32 = 0x0f00_0017;
}

/// Sectors moved by one backend operation of a queued command.
const CHUNK: u32 = 2048;

/// What a backend operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tag {
    /// The command the drive is at.
    Command,
    /// A queued command.
    Queued(u8),
}

/// A queued command being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Queued {
    slot: u8,
    write: bool,
    fua: bool,
    lba: u64,
    left: u32,
    regions: Cursor,
}

/// The command in the drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Current {
    slot: u8,
    table: u64,
    regions: Cursor,
    moved: u32,
    /// The block of the PACKET command was handed over.
    packet_sent: bool,
    overflow: bool,
}

/// Everything the guest can observe of a port, but for its drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    list: u64,
    fis: u64,
    pub(super) interrupts: Interrupts,
    ie: u32,
    cmd: Cmd,
    tfd: u16,
    sig: u32,
    ssts: u32,
    sctl: u32,
    serr: u32,
    sact: u32,
    ci: u32,
    /// The signature FIS waits for a place to be put.
    signature_waits: bool,
    /// A task file error stopped the port until software clears its start bit.
    halted: bool,
    /// The drive is held in reset by the control bit of the last FIS.
    in_reset: bool,
    current: Option<Current>,
    queued: Vec<Queued>,
}

/// A port.
pub(super) struct Port {
    pub(super) drive: Option<Drive>,
    pub(super) state: State,
}

/// What a port needs of the controller while it works.
pub(super) struct Host<'a> {
    pub(super) dma: &'a Dma,
    pub(super) io: &'a mut DriveIo,
    pub(super) queue: &'a mut Queue<Tag>,
    pub(super) number: usize,
}

impl Host<'_> {
    fn submit(&mut self, tag: Tag, op: Op) {
        self.io.submit(self.queue, self.number, tag, op);
    }

    fn abandon(&mut self) {
        let n = self.number;
        self.io.abandon(self.queue, |port, _| port == n);
    }
}

impl Port {
    /// A port with what is plugged in.
    pub(super) fn new(drive: Option<Drive>) -> Self {
        let state = State {
            list: 0,
            fis: 0,
            interrupts: Interrupts::empty(),
            ie: 0,
            cmd: Cmd::new(),
            tfd: 0x7f,
            sig: u32::MAX,
            ssts: 0,
            sctl: 0,
            serr: 0,
            sact: 0,
            ci: 0,
            signature_waits: false,
            halted: false,
            in_reset: false,
            current: None,
            queued: Vec::new(),
        };
        let mut port = Self { drive, state };
        port.power_on();
        port
    }

    /// Power-on or controller reset; the controller has abandoned the operations.
    pub(super) fn power_on(&mut self) {
        if let Some(d) = &mut self.drive {
            d.reset();
        }
        let s = &mut self.state;
        (s.list, s.fis, s.ie, s.sctl, s.serr, s.sact, s.ci) = (0, 0, 0, 0, 0, 0, 0);
        s.interrupts = Interrupts::empty();
        s.cmd = Cmd::new().with_spin_up(true).with_power_on(true);
        (s.halted, s.in_reset, s.current) = (false, false, None);
        s.queued.clear();
        self.link_up();
    }

    /// The drive, if any, sends its signature, which the task file shows when the port receives it.
    fn link_up(&mut self) {
        let s = &mut self.state;
        let there = self.drive.is_some();
        // Present, first generation, active.
        s.ssts = if there { 0x113 } else { 0 };
        (s.tfd, s.sig, s.signature_waits) = (0x7f, u32::MAX, there);
    }

    fn receive_signature(&mut self, dma: &Dma) {
        let Some(drive) = &self.drive else { return };
        self.state.signature_waits = false;
        self.state.sig = match drive.kind() {
            Kind::Disk => 0x0000_0101,
            Kind::Cdrom => 0xeb14_0101,
        };
        let fis = self.register_fis(0x34, false);
        self.post(dma, 0x40, &fis);
        self.copy_task_file();
    }

    /// Whether the port asks for an interrupt.
    pub(super) fn pending(&self) -> bool {
        self.visible_interrupts() & self.state.ie != 0
    }

    fn visible_interrupts(&self) -> u32 {
        let connect =
            if self.state.serr & SERR_X != 0 { Interrupts::PC } else { Interrupts::empty() };
        (self.state.interrupts | connect).bits()
    }

    /// Refuses saved states that name slots or drives that cannot be.
    pub(super) fn accepts(s: &State) -> bool {
        s.current.is_none_or(|c| c.slot < 32)
            && s.queued.len() <= 32
            && s.queued.iter().all(|q| q.slot < 32)
    }

    /// Reads a register.
    pub(super) fn read(&self, reg: Reg) -> u32 {
        let s = &self.state;
        match reg {
            Reg::Clb => s.list as u32,
            Reg::Clbu => (s.list >> 32) as u32,
            Reg::Fb => s.fis as u32,
            Reg::Fbu => (s.fis >> 32) as u32,
            Reg::Is => self.visible_interrupts(),
            Reg::Ie => s.ie,
            Reg::Cmd => {
                let (start, receive) = (s.cmd.start(), s.cmd.receive());
                let current = s.current.map_or(0, |c| c.slot);
                s.cmd.with_running(start).with_receiving(receive).with_current(current).into()
            }
            Reg::Tfd => s.tfd.into(),
            Reg::Sig => s.sig,
            Reg::Ssts => s.ssts,
            Reg::Sctl => s.sctl,
            Reg::Serr => s.serr,
            Reg::Sact => s.sact,
            Reg::Ci => s.ci,
        }
    }

    /// Writes a register.
    pub(super) fn write(&mut self, reg: Reg, value: u32, host: &mut Host<'_>) {
        let s = &mut self.state;
        let low = |old: u64, mask: u32| old & !0xffff_ffff | u64::from(value & mask);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match reg {
            Reg::Clb => s.list = low(s.list, !0x3ff),
            Reg::Clbu => s.list = high(s.list),
            Reg::Fb => s.fis = low(s.fis, !0xff),
            Reg::Fbu => s.fis = high(s.fis),
            Reg::Is => s.interrupts.remove(Interrupts::from_bits_retain(value)),
            Reg::Ie => s.ie = value & IE_MASK,
            Reg::Cmd => self.write_cmd(Cmd::from(value), host),
            Reg::Sctl => self.write_sctl(value, host),
            Reg::Serr => s.serr &= !value,
            Reg::Sact if s.cmd.start() => s.sact |= value,
            Reg::Ci if s.cmd.start() => s.ci |= value,
            Reg::Sact | Reg::Ci | Reg::Tfd | Reg::Sig | Reg::Ssts => {}
        }
    }

    fn write_cmd(&mut self, value: Cmd, host: &mut Host<'_>) {
        let old = self.state.cmd;
        let kept = u32::from(old) & !Cmd::WRITABLE;
        // Spin-up and power are always on: neither can be switched here.
        self.state.cmd = Cmd::from(u32::from(value) & Cmd::WRITABLE | kept)
            .with_spin_up(true)
            .with_power_on(true);
        if value.clear_busy() {
            self.state.tfd &= !u16::from((Status::BSY | Status::DRQ).bits());
        }
        if old.start() && !value.start() {
            // Commands that have not ended never will.
            host.abandon();
            let s = &mut self.state;
            (s.ci, s.sact, s.current, s.halted) = (0, 0, None, false);
            s.queued.clear();
            if let Some(d) = &mut self.drive {
                if matches!(d.phase(), Phase::Idle) {
                    return;
                }
                d.soft_reset();
            }
        }
    }

    fn write_sctl(&mut self, value: u32, host: &mut Host<'_>) {
        let old = std::mem::replace(&mut self.state.sctl, value & 0xfff);
        match (old & 0xf, value & 0xf) {
            (1, 1) => {}
            // COMRESET while the bit is set.
            (_, 1) => {
                host.abandon();
                self.state.current = None;
                self.state.queued.clear();
                if let Some(d) = &mut self.drive {
                    d.reset();
                    self.state.tfd = Status::BSY.bits().into();
                }
                self.state.ssts = 0;
            }
            (1, _) => {
                self.link_up();
                if self.drive.is_some() {
                    self.state.serr |= SERR_X;
                }
            }
            // Interface off.
            (_, 4) => self.state.ssts = if self.drive.is_some() { 4 } else { 0 },
            (4, _) => self.link_up(),
            _ => {}
        }
    }

    // FIS towards the host.

    fn post(&mut self, dma: &Dma, at: u64, fis: &[u8]) {
        if self.state.cmd.receive() && dma.write(self.state.fis.wrapping_add(at), fis).is_err() {
            self.state.interrupts |= Interrupts::HBF;
        }
    }

    /// The registers as a FIS shows them, type 0x34 or 0x5f.
    fn register_fis(&self, kind: u8, interrupt: bool) -> [u8; 20] {
        let mut f = [0; 20];
        let Some(d) = &self.drive else { return f };
        let r = d.regs();
        (f[0], f[1], f[2], f[3]) = (kind, u8::from(interrupt) << 6, r.status.bits(), r.error);
        (f[4], f[5], f[6], f[7]) = (r.low as u8, r.mid as u8, r.high as u8, r.device);
        (f[8], f[9], f[10]) = ((r.low >> 8) as u8, (r.mid >> 8) as u8, (r.high >> 8) as u8);
        (f[12], f[13]) = (r.count as u8, (r.count >> 8) as u8);
        f
    }

    fn copy_task_file(&mut self) {
        if let Some(d) = &self.drive {
            let r = d.regs();
            self.state.tfd = u16::from(r.status.bits()) | u16::from(r.error) << 8;
        }
    }

    fn post_register_fis(&mut self, dma: &Dma, interrupt: bool) {
        let fis = self.register_fis(0x34, interrupt);
        self.post(dma, 0x40, &fis);
        self.copy_task_file();
        if interrupt {
            self.state.interrupts |= Interrupts::DHR;
        }
        if self.state.tfd & 1 != 0 {
            self.state.interrupts |= Interrupts::TFE;
            self.state.halted = true;
        }
    }

    fn post_pio_setup(&mut self, dma: &Dma, to_host: bool, len: usize, interrupt: bool) {
        let mut fis = self.register_fis(0x5f, interrupt);
        fis[1] |= u8::from(to_host) << 5;
        // Status at the end of the block.
        fis[15] = (Status::DRDY | Status::DSC).bits();
        fis[16..18].copy_from_slice(&(len as u16).to_le_bytes());
        self.post(dma, 0x20, &fis);
        if interrupt {
            self.state.interrupts |= Interrupts::PS;
        }
    }

    fn post_device_bits(&mut self, dma: &Dma, finished: u32) {
        let Some(d) = &self.drive else { return };
        let r = d.regs();
        let mut fis = [0; 8];
        // All status bits but busy and data request.
        (fis[0], fis[1], fis[2], fis[3]) = (0xa1, 0x40, r.status.bits() & 0x77, r.error);
        fis[4..].copy_from_slice(&finished.to_le_bytes());
        let failed = r.status.contains(Status::ERR);
        self.post(dma, 0x58, &fis);
        self.state.sact &= !finished;
        self.state.interrupts |= Interrupts::SDB;
        if failed {
            self.copy_task_file();
            self.state.interrupts |= Interrupts::TFE;
            self.state.halted = true;
        }
    }

    // Commands.

    /// Does all that can be done now: signature, new commands, data.
    pub(super) fn run(&mut self, host: &mut Host<'_>) {
        if self.state.signature_waits && self.state.cmd.receive() && self.state.ssts & 0xf == 3 {
            self.receive_signature(host.dma);
        }
        // At most the commands that are in the slots now: software adds more only later.
        for _ in 0..64 {
            self.work(host);
            if self.state.current.is_some() || self.state.halted || !self.state.cmd.start() {
                return;
            }
            let waiting = self.state.ci;
            if waiting == 0 || !host.dma.is_enabled() {
                return;
            }
            self.issue(waiting.trailing_zeros() as u8, host);
        }
    }

    /// Sends the command of `slot` to the drive.
    fn issue(&mut self, slot: u8, host: &mut Host<'_>) {
        let header = Header::fetch(host.dma, self.state.list, slot);
        let mut fis = [0; 64];
        let fetched = header.filter(|h| {
            let n = h.fis_len().min(64);
            h.fis_len() >= 8 && host.dma.read(h.table, &mut fis[..n]).is_ok()
        });
        let (Some(header), Some(drive)) = (fetched, &mut self.drive) else {
            self.state.interrupts |= Interrupts::HBF;
            self.state.halted = true;
            return;
        };
        if fis[0] != 0x27 {
            self.finish_slot(slot);
            return;
        }
        if fis[1] & 0x80 == 0 {
            // Device control: reset begins and ends.
            let srst = fis[15] & 4 != 0;
            let was = std::mem::replace(&mut self.state.in_reset, srst);
            self.state.ci &= !(1 << slot);
            if srst || header.clears_busy() {
                drive.soft_reset();
                self.state.tfd = Status::BSY.bits().into();
            }
            if was && !srst {
                self.link_up();
            }
            return;
        }
        let pair = |lo: usize, hi: usize| u16::from(fis[lo]) | u16::from(fis[hi]) << 8;
        let command = fis[2];
        if matches!(command, 0x60 | 0x61) && drive.kind() == Kind::Disk {
            return self.queue_command(slot, &fis, header, host.dma);
        }
        let r = drive.regs_mut();
        r.feature = pair(3, 11);
        r.count = pair(12, 13);
        (r.low, r.mid, r.high) = (pair(4, 8), pair(5, 9), pair(6, 10));
        r.device = fis[7];
        drive.command(command);
        let (table, regions) = (header.table, header.regions());
        self.state.tfd = Status::BSY.bits().into();
        self.state.current =
            Some(Current { slot, table, regions, moved: 0, packet_sent: false, overflow: false });
    }

    fn finish_slot(&mut self, slot: u8) {
        self.state.ci &= !(1 << slot);
    }

    /// Moves the drive's data until it waits for its backend or has ended.
    fn work(&mut self, host: &mut Host<'_>) {
        loop {
            let (Some(drive), Some(mut current)) = (&mut self.drive, self.state.current) else {
                return;
            };
            if !host.dma.is_enabled() && drive.phase() != Phase::Busy {
                return;
            }
            match drive.phase() {
                Phase::Busy => {
                    if let Some(op) = drive.take_op() {
                        host.submit(Tag::Command, op);
                    }
                    return;
                }
                Phase::Idle => return self.end_command(host),
                Phase::PioIn => {
                    let (len, interrupt) = (drive.drq_block().len(), drive.intrq());
                    let n = current.regions.scatter(host.dma, drive.drq_block());
                    current.moved += n as u32;
                    current.overflow |= n < len;
                    drive.clear_intrq();
                    self.post_pio_setup(host.dma, true, len, interrupt);
                    if let Some(d) = &mut self.drive {
                        d.drq_block_taken();
                    }
                }
                Phase::PioOut => {
                    let (len, interrupt) = (drive.drq_block().len(), drive.intrq());
                    let mut data = vec![0; len];
                    if drive.kind() == Kind::Cdrom && !current.packet_sent {
                        current.packet_sent = true;
                        let n = len.min(16);
                        let _ = host.dma.read(current.table.wrapping_add(0x40), &mut data[..n]);
                    } else {
                        let n = current.regions.gather(host.dma, &mut data);
                        current.moved += n as u32;
                        current.overflow |= n < len;
                    }
                    drive.clear_intrq();
                    self.post_pio_setup(host.dma, false, len, interrupt);
                    if let Some(d) = &mut self.drive {
                        d.drq_block_given(&data);
                    }
                }
                Phase::DmaIn => match current.regions.scatter(host.dma, drive.dma_in()) {
                    0 => {
                        current.overflow = true;
                        drive.dma_ran_out();
                    }
                    n => {
                        current.moved += n as u32;
                        drive.dma_taken(n);
                    }
                },
                Phase::DmaOut => {
                    let mut data = vec![0; drive.dma_out()];
                    match current.regions.gather(host.dma, &mut data) {
                        0 => {
                            current.overflow = true;
                            drive.dma_ran_out();
                        }
                        n => {
                            current.moved += n as u32;
                            drive.dma_given(&data[..n]);
                        }
                    }
                }
            }
            self.state.current = Some(current);
        }
    }

    fn end_command(&mut self, host: &mut Host<'_>) {
        let Some(current) = self.state.current.take() else { return };
        let Some(drive) = &mut self.drive else { return };
        let failed = drive.regs().status.contains(Status::ERR);
        drive.clear_intrq();
        let header = self.state.list.wrapping_add(32 * u64::from(current.slot));
        let _ = host.dma.write(header.wrapping_add(4), &current.moved.to_le_bytes());
        // As QEMU's controller does, also after the data of a PIO read, whose last setup FIS told the
        // status already.
        self.post_register_fis(host.dma, true);
        if current.overflow {
            self.state.interrupts |= Interrupts::OF;
        }
        // The slot of a command that failed stays: software looks which one it was.
        if !failed {
            self.finish_slot(current.slot);
        }
    }

    // Queued commands (Serial ATA 2.6, 13.6).

    fn queue_command(&mut self, slot: u8, fis: &[u8; 64], header: Header, dma: &Dma) {
        let Some(drive) = &mut self.drive else { return };
        let lba = [4, 5, 6, 8, 9, 10].iter().rev().fold(0, |v, &i| v << 8 | u64::from(fis[i]));
        let left = match u32::from(fis[3]) | u32::from(fis[11]) << 8 {
            0 => 0x1_0000,
            n => n,
        };
        let (write, fua) = (fis[2] == 0x61, fis[7] & 0x80 != 0);
        let queued = Queued { slot, write, fua, lba, left, regions: header.regions() };
        // Accepted: the drive releases the link and the slot; only the active bit stays.
        self.state.ci &= !(1 << slot);
        let error = match fis[12] >> 3 == slot {
            true if lba + u64::from(left) <= drive.sectors() => None,
            true => Some(0x10),
            false => Some(ABRT),
        };
        match error {
            None => {
                let r = drive.regs_mut();
                (r.status, r.error) = (Status::DRDY | Status::DSC, 0);
                self.copy_task_file();
                self.state.queued.push(queued);
            }
            Some(error) => self.fail_queued(queued, error, dma),
        }
    }

    /// Starts the next part of every queued command that has nothing in flight.
    pub(super) fn run_queued(&mut self, host: &mut Host<'_>) {
        if self.state.halted || !host.dma.is_enabled() {
            return;
        }
        let mut index = 0;
        while let Some(&(mut q)) = self.state.queued.get(index) {
            index += 1;
            let busy = host.queue.tags().any(|t| t == (host.number, &Tag::Queued(q.slot)));
            if busy {
                continue;
            }
            let n = q.left.min(CHUNK);
            let (offset, len) = (q.lba * SECTOR, u64::from(n) * SECTOR);
            let op = if q.write {
                let mut data = vec![0; len as usize];
                if q.regions.gather(host.dma, &mut data) < data.len() {
                    self.state.interrupts |= Interrupts::OF;
                    self.state.queued.retain(|o| o.slot != q.slot);
                    return self.fail_queued(q, ABRT, host.dma);
                }
                Op::Write { offset, data, fua: q.fua }
            } else {
                Op::Read { offset, len }
            };
            self.state.queued[index - 1] = q;
            host.submit(Tag::Queued(q.slot), op);
        }
    }

    fn fail_queued(&mut self, q: Queued, error: u8, dma: &Dma) {
        if let Some(d) = &mut self.drive {
            d.queued_failed(QueuedError { tag: q.slot, error, lba: q.lba });
        }
        self.post_device_bits(dma, 0);
    }

    /// An operation came back.
    pub(super) fn op_done(&mut self, tag: Tag, result: Result<Vec<u8>, DriveError>, dma: &Dma) {
        match tag {
            Tag::Command => {
                if let Some(d) = &mut self.drive {
                    d.op_done(result);
                }
            }
            Tag::Queued(slot) => self.queued_done(slot, result, dma),
        }
    }

    fn queued_done(&mut self, slot: u8, result: Result<Vec<u8>, DriveError>, dma: &Dma) {
        let Some(index) = self.state.queued.iter().position(|q| q.slot == slot) else { return };
        let q = &mut self.state.queued[index];
        let error = match result {
            Ok(data) if !q.write && q.regions.scatter(dma, &data) < data.len() => {
                self.state.interrupts |= Interrupts::OF;
                Some(ABRT)
            }
            Ok(_) => None,
            Err(DriveError::OutOfRange) => Some(0x10),
            Err(DriveError::Failed) if !q.write => Some(0x40),
            Err(_) => Some(ABRT),
        };
        if let Some(error) = error {
            let q = self.state.queued.remove(index);
            return self.fail_queued(q, error, dma);
        }
        let n = q.left.min(CHUNK);
        q.lba += u64::from(n);
        q.left -= n;
        if q.left == 0 {
            self.state.queued.remove(index);
            self.post_device_bits(dma, 1 << slot);
        }
    }
}
