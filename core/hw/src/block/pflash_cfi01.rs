//! Parallel NOR flash with the Intel command set (`cfi.pflash01`): firmware and its variables.
//!
//! Reference: Intel 290606 (28F320J3), JEDEC JESD68.01 (common flash interface). One 8-bit chip.
//! Erasing and programming take no time. The status register is zero once cleared, as OVMF
//! expects of this board's flash; it shows ready (bit 7) from the first operation on.
//!
//! Not modelled: protection registers, suspending, block locks beyond taking their commands.

use super::drive::{DriveIo, Op, Queue};
use orrery_block::IoBuf;
use orrery_block::backend::{BlockBackend, Request};
use orrery_system::device::{Device, HostIo};
use orrery_system::{
    Board, BusError, BusResult, DeviceId, Ram, RamBlock, Region, Registers, RestoreError,
    StateBlob, VmTime,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bytes that are erased together.
pub const BLOCK: usize = 4096;
/// Most bytes of a buffered write.
const BUFFER: u16 = 256;

/// Status register.
mod status {
    pub(super) const READY: u8 = 0x80;
    pub(super) const ERASE_ERROR: u8 = 0x20;
    pub(super) const PROGRAM_ERROR: u8 = 0x10;
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// Guest memory, which holds the contents.
    pub ram: Arc<Ram>,
    /// The contents.
    pub block: RamBlock,
    /// Where they show: reads are direct in array mode.
    pub region: Region,
    /// The drive that keeps them.
    pub io: DriveIo,
}

/// What reads show and what the next write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Array,
    Status,
    Identifier,
    Query,
    Program,
    EraseConfirm,
    LockConfirm,
    BufferCount,
    /// Bytes of a buffered write still to come.
    Buffer(u16),
    BufferConfirm,
}

/// Everything the guest can observe, besides the contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    mode: Mode,
    status: u8,
    /// A buffered write so far: offsets and bytes.
    buffer: Vec<(u32, u8)>,
    queue: Queue<()>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "cfi.pflash01";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Pflash {
    wires: Wires,
    read_only: bool,
    state: State,
}

/// Why a flash could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Not a number of blocks.
    #[error("its size is not a multiple of 4 KiB")]
    Size,
    /// The drive gave no data.
    #[error("it could not be read: {0}")]
    Read(String),
    /// Guest memory is full.
    #[error(transparent)]
    Memory(#[from] orrery_system::ram::RamFull),
}

/// Makes a flash with the contents of `backend`, for the machine to map; gives its region.
pub fn build(
    board: &mut Board,
    name: &str,
    backend: BlockBackend,
) -> Result<(DeviceId, Region), BuildError> {
    let len = usize::try_from(backend.len()).unwrap_or(0);
    if len == 0 || len % BLOCK != 0 || len > 64 << 20 {
        return Err(BuildError::Size);
    }
    let mut ticket = backend.submit(Request::Read { offset: 0, buf: IoBuf::zeroed(len) });
    // The host may need a few turns to bring the data; it has nothing else to wait for.
    for _ in 0..1_000_000 {
        if ticket.poll() {
            break;
        }
        backend.executor().poll();
    }
    let data = match ticket.take() {
        Some(Ok(buf)) => buf.into_vec(),
        Some(Err(e)) => return Err(BuildError::Read(e.to_string())),
        None => return Err(BuildError::Read("the host has not answered".into())),
    };
    let block = board.ram().alloc(name, len)?;
    board.ram().write_bytes(block.offset, &data);
    let id = board.reserve("cfi.pflash01");
    let region = board.regions().rom_device(name, block, id, 0);
    let read_only = backend.read_only();
    let io = DriveIo::new(board, id, 0, vec![backend]);
    let wires = Wires { ram: board.shared_ram(), block, region: region.clone(), io };
    board.attach(id, Box::new(Pflash::new(read_only, wires)));
    Ok((id, region))
}

impl State {
    fn power_on() -> Self {
        Self { mode: Mode::Array, status: 0, buffer: Vec::new(), queue: Queue::default() }
    }
}

impl Pflash {
    /// Builds the device in its power-on state; `read_only` refuses every change.
    pub fn new(read_only: bool, wires: Wires) -> Self {
        let dev = Self { wires, read_only, state: State::power_on() };
        dev.drive();
        dev
    }

    fn drive(&self) {
        self.wires.region.set_direct(self.state.mode == Mode::Array);
    }

    /// A command in array or status mode.
    fn command(&mut self, v: u8) -> Mode {
        match v {
            0x10 | 0x40 => Mode::Program,
            0x20 => Mode::EraseConfirm,
            0x50 => {
                self.state.status = 0;
                Mode::Array
            }
            0x60 => Mode::LockConfirm,
            0x70 => Mode::Status,
            0x90 => Mode::Identifier,
            0x98 => Mode::Query,
            0xe8 => {
                self.state.status |= status::READY;
                Mode::BufferCount
            }
            _ => Mode::Array,
        }
    }

    fn write_byte(&mut self, offset: u64, v: u8) {
        let at = offset as usize % self.wires.block.len;
        let next = match self.state.mode {
            Mode::Array | Mode::Status | Mode::Identifier | Mode::Query => self.command(v),
            Mode::Program => {
                self.program(&[(at as u32, v)]);
                Mode::Status
            }
            Mode::EraseConfirm => {
                if v == 0xd0 {
                    self.erase(at);
                    Mode::Status
                } else {
                    self.command(v)
                }
            }
            Mode::LockConfirm if matches!(v, 0x01 | 0xd0) => {
                self.state.status |= status::READY;
                Mode::Status
            }
            Mode::LockConfirm => self.command(v),
            Mode::BufferCount => {
                self.state.buffer.clear();
                Mode::Buffer((u16::from(v) + 1).min(BUFFER))
            }
            Mode::Buffer(left) => {
                self.state.buffer.push((at as u32, v));
                if left > 1 { Mode::Buffer(left - 1) } else { Mode::BufferConfirm }
            }
            Mode::BufferConfirm => {
                let bytes = std::mem::take(&mut self.state.buffer);
                if v == 0xd0 {
                    self.program(&bytes);
                    Mode::Status
                } else {
                    self.command(v)
                }
            }
        };
        self.state.mode = next;
        self.drive();
    }

    fn program(&mut self, bytes: &[(u32, u8)]) {
        self.state.status |= status::READY;
        if self.read_only {
            self.state.status |= status::PROGRAM_ERROR;
            return;
        }
        let (ram, base) = (&self.wires.ram, self.wires.block.offset);
        for &(at, v) in bytes {
            // Programming only clears bits.
            let at = base + at as usize;
            ram.write_u8(at, ram.read_u8(at) & v);
        }
        let blocks: std::collections::BTreeSet<usize> =
            bytes.iter().map(|b| b.0 as usize / 512 * 512).collect();
        for at in blocks {
            self.keep(at, 512);
        }
    }

    fn erase(&mut self, at: usize) {
        self.state.status |= status::READY;
        if self.read_only {
            self.state.status |= status::ERASE_ERROR;
            return;
        }
        let at = at / BLOCK * BLOCK;
        self.wires.ram.fill(self.wires.block.offset + at, BLOCK, 0xff);
        self.keep(at, BLOCK);
    }

    /// Writes a piece of the contents to the drive.
    fn keep(&mut self, at: usize, len: usize) {
        let mut data = vec![0; len];
        self.wires.ram.read_bytes(self.wires.block.offset + at, &mut data);
        let op = Op::Write { offset: at as u64, data, fua: false };
        self.wires.io.submit(&mut self.state.queue, 0, (), op);
    }

    fn read_byte(&self, offset: u64) -> u8 {
        let at = offset as usize % self.wires.block.len;
        match self.state.mode {
            Mode::Array => self.wires.ram.read_u8(self.wires.block.offset + at),
            Mode::Identifier => match at & 0xff {
                0 => 0x89,
                1 => 0x18,
                _ => 0,
            },
            Mode::Query => self.query(at & 0xff),
            _ => self.state.status,
        }
    }

    /// The query table (JESD68.01 2.3).
    fn query(&self, at: usize) -> u8 {
        let size = self.wires.block.len.next_power_of_two().ilog2() as u8;
        let blocks = (self.wires.block.len / BLOCK - 1) as u16;
        match at {
            0x10..0x13 => b"QRY"[at - 0x10],
            // Intel command set, and where its own table is.
            0x13 => 1,
            0x15 => 0x31,
            // Supply voltages; typical and longest times as powers of two.
            0x1b => 0x45,
            0x1c => 0x55,
            0x1f | 0x20 => 7,
            0x21 => 10,
            0x23..=0x25 => 4,
            0x27 => size,
            0x2a => 8,
            // One region of equal blocks: how many less one, and their size in 256 bytes.
            0x2c => 1,
            0x2d => blocks as u8,
            0x2e => (blocks >> 8) as u8,
            0x2f => (BLOCK >> 8) as u8,
            0x30 => (BLOCK >> 16) as u8,
            0x31..0x34 => b"PRI"[at - 0x31],
            0x34 | 0x35 => b'1',
            _ => 0,
        }
    }
}

impl Device for Pflash {
    fn name(&self) -> &'static str {
        "cfi.pflash01"
    }

    /// The contents stay.
    fn reset(&mut self) {
        let queue = std::mem::take(&mut self.state.queue);
        self.state = State { queue, ..State::power_on() };
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        let len = self.wires.block.len;
        if state.buffer.len() > usize::from(BUFFER)
            || state.buffer.iter().any(|b| b.0 as usize >= len)
        {
            return Err(RestoreError::Invalid("flash write buffer"));
        }
        self.wires.io.abandon_all(&mut self.state.queue);
        self.state = state;
        self.wires.io.resume(&self.state.queue);
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

impl HostIo for Pflash {
    fn due(&self) -> Option<VmTime> {
        self.wires.io.due(&self.state.queue)
    }

    fn ready(&self) -> bool {
        self.wires.io.ready(&self.state.queue)
    }

    fn deliver(&mut self, now: VmTime) {
        while let Some(done) = self.wires.io.take(&mut self.state.queue, now) {
            if done.result.is_err() {
                tracing::warn!("flash contents could not be kept");
            }
        }
    }
}

impl Registers for Pflash {
    fn read(&mut self, _: u32, offset: u64, width: u8) -> BusResult<u64> {
        if width != 1 {
            return Err(BusError::Width);
        }
        Ok(self.read_byte(offset).into())
    }

    fn write(&mut self, _: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if width != 1 {
            return Err(BusError::Width);
        }
        self.write_byte(offset, value as u8);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    fn flash(contents: Vec<u8>, read_only: bool) -> (Board, BlockBackend) {
        let config = BoardConfig { ram_capacity: 1 << 20, ..BoardConfig::default() };
        let mut board = Board::new(config);
        let backend = if read_only {
            BlockBackend::ram_read_only(contents)
        } else {
            BlockBackend::ram(contents)
        };
        let (_, region) = build(&mut board, "flash", backend.clone()).unwrap();
        board.memory().add(0, &region);
        board.settle();
        (board, backend)
    }

    fn run(b: &mut Board, writes: &[(u64, u8)]) {
        for &(at, v) in writes {
            b.write(at, 1, v.into());
        }
    }

    #[test]
    fn the_probe_sees_flash_and_not_ram() {
        let (mut b, _) = flash(vec![0x5a; 8192], false);
        run(&mut b, &[(0, 0x50)]);
        assert_eq!(b.read(0, 1), 0x5a, "array");
        run(&mut b, &[(0, 0x70)]);
        assert_eq!(b.read(0, 1), 0, "cleared status");
        run(&mut b, &[(0, 0xff)]);
        assert_eq!(b.read(0, 4), 0x5a5a_5a5a);
    }

    #[test]
    fn erased_and_programmed_bytes_reach_the_drive() {
        let (mut b, backend) = flash(vec![0; 8192], false);
        run(&mut b, &[(0x1004, 0x20), (0x1004, 0xd0), (0x1001, 0x10), (0x1001, 0xa5)]);
        assert_eq!(b.read(0x1001, 1), 0x80, "ready");
        run(&mut b, &[(0, 0xff)]);
        assert_eq!(b.read(0x1000, 4), 0xffff_a5ff);
        b.warp_to(VmTime(1 << 30));
        while !b.deliver_host_io() {}
        let mut t = backend.submit(Request::Read { offset: 0x1000, buf: IoBuf::zeroed(512) });
        while !t.poll() {
            backend.executor().poll();
        }
        let kept = t.take().unwrap().unwrap().into_vec();
        assert_eq!(kept[..4], [0xff, 0xa5, 0xff, 0xff]);
    }

    #[test]
    fn a_buffered_write_programs_all_its_bytes_or_none() {
        let (mut b, _) = flash(vec![0xff; 8192], false);
        run(&mut b, &[(0, 0xe8), (0, 1), (8, 1), (9, 2), (8, 0xd0), (0, 0xff)]);
        assert_eq!(b.read(8, 2), 0x0201);
        run(&mut b, &[(0, 0xe8), (0, 0), (12, 3), (12, 0xff)]);
        assert_eq!(b.read(12, 1), 0xff);
    }

    #[test]
    fn a_read_only_drive_refuses() {
        let (mut b, _) = flash(vec![0xff; 8192], true);
        run(&mut b, &[(0, 0x10), (0, 0)]);
        assert_eq!(b.read(0, 1), 0x90);
        run(&mut b, &[(0, 0xff)]);
        assert_eq!(b.read(0, 1), 0xff);
    }

    fn device() -> Pflash {
        let ram = Arc::new(Ram::new(8192));
        let block = ram.alloc("flash", 8192).unwrap();
        let region = orrery_system::map::Regions::detached().container("flash", 8192);
        let drives = vec![BlockBackend::ram(vec![0; 8192])];
        let io = DriveIo::detached(drives, Default::default(), Default::default());
        Pflash::new(false, Wires { ram, block, region, io })
    }

    orrery_system::conformance!(device(), &[]);
}
