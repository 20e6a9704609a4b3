//! Parallel NOR flash with Intel's command set: `cfi.pflash01`, the PC's firmware store.
//!
//! Reference: JEDEC JESD68.01 (common flash interface), Intel 290667 (28F320J3) for the commands.
//! The array lives in guest memory and is read there directly; only while the chip shows status,
//! identification or query data do reads come here. One chip, 8 bits wide.
//!
//! Deviations: programming stores the byte instead of clearing bits, and nothing takes time, both
//! as firmware finds it in QEMU. Not modelled: protection registers, suspend.

use super::drive::{DriveIo, Op, Queue};
use orrery_block::IoBuf;
use orrery_block::backend::{BlockBackend, Request};
use orrery_system::device::HostIo;
use orrery_system::ram::RamFull;
use orrery_system::time::VmTime;
use orrery_system::{
    Board, BusError, BusResult, Device, DeviceId, Ram, RamBlock, Region, Registers, RestoreError,
    StateBlob,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Status: ready.
const READY: u8 = 0x80;
/// Status: erase or lock failed, program failed: a command sequence that makes no sense.
const SEQUENCE_ERROR: u8 = 0x30;
/// Status: the chip is write-protected.
const PROTECTED: u8 = 0x02;
/// Most bytes of a buffered program.
const BUFFER: u32 = 2048;

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of an erase block, a power of two from 256.
    pub block: u32,
    /// Refuses programming.
    pub read_only: bool,
}

/// Services.
pub struct Wires {
    /// Guest memory.
    pub ram: Arc<Ram>,
    /// The array in it.
    pub array: RamBlock,
    /// Where it is mapped.
    pub region: Region,
    /// The image behind it; may have no drive.
    pub io: DriveIo,
}

/// What the chip shows and expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// The array; a command.
    Array,
    /// Status; a command.
    Status,
    /// Identification; a command.
    Id,
    /// CFI query data; a command.
    Query,
    /// Status; the byte to program.
    Program,
    /// Status; the confirmation of an erase.
    Erase,
    /// Status; the second half of a lock command.
    Lock,
    /// Status; how many bytes follow, less one.
    BufferCount,
    /// Status; so many bytes.
    Buffer(u32),
    /// Status; the confirmation of a buffered program.
    BufferConfirm,
}

/// Everything the guest can observe, but for the array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    mode: Mode,
    status: u8,
    /// Bytes of a buffered program with their offsets.
    buffer: Vec<(u64, u8)>,
    /// Programmed but not yet written to the image: from, to.
    dirty: Option<(u64, u64)>,
    queue: Queue<()>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "cfi.pflash01";
    const VERSION: u16 = 1;
}

/// The chip.
pub struct Pflash {
    config: Config,
    wires: Wires,
    state: State,
}

/// What a drive holds, for [`build`], if the host has it at hand. Elsewhere (a browser) the front
/// end reads it before.
pub fn contents(backend: &BlockBackend) -> Option<Vec<u8>> {
    let len = usize::try_from(backend.len()).ok()?;
    let mut ticket = backend.submit(Request::Read { offset: 0, buf: IoBuf::zeroed(len) });
    ticket.take()?.ok().map(IoBuf::into_vec)
}

/// Maps a chip that holds `image` so that it ends at address `end` of `memory`; what is
/// programmed goes to `backend`.
pub fn build(
    board: &mut Board,
    memory: &Region,
    end: u64,
    config: Config,
    image: &[u8],
    backend: Option<BlockBackend>,
) -> Result<DeviceId, RamFull> {
    let id = board.reserve(<State as orrery_system::State>::KIND);
    let array = board.ram().alloc("flash", image.len())?;
    board.ram().write_bytes(array.offset, image);
    let region = board.regions().rom_device("flash", array, id, 0);
    memory.add(end.wrapping_sub(image.len() as u64), &region);
    let io = DriveIo::new(board, id, 0, backend.into_iter().collect());
    let wires = Wires { ram: board.shared_ram(), array, region, io };
    board.attach(id, Box::new(Pflash::new(config, wires)));
    Ok(id)
}

impl State {
    fn power_on() -> Self {
        Self {
            mode: Mode::Array,
            status: READY,
            buffer: Vec::new(),
            dirty: None,
            queue: Queue::default(),
        }
    }
}

impl Pflash {
    /// The chip in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        Self { config, wires, state: State::power_on() }
    }

    fn size(&self) -> u64 {
        self.wires.array.len as u64
    }

    /// Drives the outputs from the state: whether reads go to the array, and what goes to the
    /// image.
    fn drive(&mut self) {
        let array = self.state.mode == Mode::Array;
        self.wires.region.set_direct(array);
        if array {
            self.flush();
        }
    }

    /// Writes what was programmed to the image.
    fn flush(&mut self) {
        let Some((from, to)) = self.state.dirty.take() else { return };
        if self.wires.io.drive(0).is_none() {
            return;
        }
        let mut data = vec![0; (to - from) as usize];
        self.wires.ram.read_bytes(self.wires.array.offset + from as usize, &mut data);
        let op = Op::Write { offset: from, data, fua: false };
        self.wires.io.submit(&mut self.state.queue, 0, (), op);
    }

    fn store(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        if end > self.size() {
            return;
        }
        self.wires.ram.write_bytes(self.wires.array.offset + at as usize, bytes);
        // Neighbouring bytes go to the image together.
        match self.state.dirty {
            Some((from, to))
                if at <= to && end >= from && end.max(to) - at.min(from) <= 0x1_0000 =>
            {
                self.state.dirty = Some((from.min(at), to.max(end)));
            }
            _ => {
                self.flush();
                self.state.dirty = Some((at, end));
            }
        }
    }

    /// Whether the chip may be changed; else says so in the status.
    fn writable(&mut self) -> bool {
        if self.config.read_only {
            self.state.status |= PROTECTED | 0x10;
        }
        !self.config.read_only
    }

    fn command(&mut self, code: u8) -> Mode {
        match code {
            0x10 | 0x40 => Mode::Program,
            0x20 | 0x28 => Mode::Erase,
            0x50 => {
                self.state.status = 0;
                Mode::Array
            }
            0x60 => Mode::Lock,
            0x70 => Mode::Status,
            0x90 => Mode::Id,
            0x98 => Mode::Query,
            0xe8 => {
                self.state.status |= READY;
                Mode::BufferCount
            }
            _ => Mode::Array,
        }
    }

    fn write_byte(&mut self, at: u64, value: u8) {
        self.state.mode = match self.state.mode {
            Mode::Array | Mode::Status | Mode::Id | Mode::Query => self.command(value),
            Mode::Program => {
                if self.writable() {
                    self.store(at, &[value]);
                }
                self.state.status |= READY;
                Mode::Status
            }
            Mode::Erase if value == 0xd0 => {
                if self.writable() {
                    let block = u64::from(self.config.block);
                    self.store(at & !(block - 1), &vec![0xff; block as usize]);
                }
                self.state.status |= READY;
                Mode::Status
            }
            Mode::Lock if matches!(value, 0x01 | 0xd0 | 0x2f) => {
                self.state.status |= READY;
                Mode::Status
            }
            Mode::BufferCount => {
                self.state.buffer.clear();
                Mode::Buffer((u32::from(value) + 1).min(BUFFER))
            }
            Mode::Buffer(left) => {
                self.state.buffer.push((at, value));
                if left > 1 { Mode::Buffer(left - 1) } else { Mode::BufferConfirm }
            }
            Mode::BufferConfirm if value == 0xd0 => {
                let buffer = std::mem::take(&mut self.state.buffer);
                if self.writable() {
                    for (at, value) in buffer {
                        self.store(at, &[value]);
                    }
                }
                self.state.status |= READY;
                Mode::Status
            }
            Mode::Erase | Mode::Lock | Mode::BufferConfirm => {
                self.state.buffer.clear();
                if value == 0xff {
                    Mode::Array
                } else {
                    self.state.status |= READY | SEQUENCE_ERROR;
                    Mode::Status
                }
            }
        };
    }

    /// CFI query data (JESD68.01 3.1).
    fn query(&self, at: u64) -> u8 {
        let blocks = (self.size() / u64::from(self.config.block)).saturating_sub(1) as u16;
        let block = (self.config.block / 256) as u16;
        match at {
            0x10..=0x12 => b"QRY"[at as usize - 0x10],
            // Intel extended command set, whose table is at 0x31.
            0x13 => 0x01,
            0x15 => 0x31,
            // Voltages; usual and longest times as powers of two.
            0x1b => 0x45,
            0x1c => 0x55,
            0x1f | 0x20 => 0x07,
            0x21 => 0x0a,
            0x23..=0x25 => 0x04,
            0x27 => self.size().max(1).ilog2() as u8,
            0x2a => BUFFER.ilog2() as u8,
            0x2c => 1,
            0x2d => blocks as u8,
            0x2e => (blocks >> 8) as u8,
            0x2f => block as u8,
            0x30 => (block >> 8) as u8,
            0x31..=0x33 => b"PRI"[at as usize - 0x31],
            0x34 => b'1',
            0x35 => b'0',
            _ => 0,
        }
    }
}

impl Device for Pflash {
    fn name(&self) -> &'static str {
        <State as orrery_system::State>::KIND
    }

    fn reset(&mut self) {
        self.flush();
        self.wires.io.abandon_all(&mut self.state.queue);
        self.state = State::power_on();
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.dirty.is_some_and(|(from, to)| from >= to || to > self.size()) {
            return Err(RestoreError::Invalid("programmed range of a flash chip"));
        }
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

impl Registers for Pflash {
    fn read(&mut self, _: u32, offset: u64, width: u8) -> BusResult<u64> {
        if offset >= self.size() {
            return Err(BusError::NoRegister);
        }
        if width > 1 && self.state.mode == Mode::Array {
            return Err(BusError::Width);
        }
        let byte = match self.state.mode {
            Mode::Array => self.wires.ram.read_u8(self.wires.array.offset + offset as usize),
            // Manufacturer Intel, device 28F320J3; no block is locked.
            Mode::Id => [0x89, 0x16, 0][(offset & 0xff).min(2) as usize],
            Mode::Query => self.query(offset & 0xff),
            _ => self.state.status,
        };
        Ok(byte.into())
    }

    fn write(&mut self, _: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if offset >= self.size() {
            return Err(BusError::NoRegister);
        }
        let data = matches!(self.state.mode, Mode::Program | Mode::Buffer(_));
        if width > 1 && data {
            return Err(BusError::Width);
        }
        self.write_byte(offset, value as u8);
        self.drive();
        Ok(())
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
            if let Err(error) = done.result {
                tracing::warn!(%error, "flash image was not written");
                self.state.status |= 0x10;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::BoardConfig;

    const BASE: u64 = 0xfff0_0000;

    struct Bench {
        board: Board,
        disk: BlockBackend,
    }

    impl Bench {
        fn new(read_only: bool) -> Self {
            let mut board =
                Board::new(BoardConfig { ram_capacity: 0x20_0000, ..BoardConfig::default() });
            let disk = BlockBackend::ram((0..0x10_0000).map(|i| (i >> 12) as u8).collect());
            let image = contents(&disk).unwrap();
            let memory = board.memory().clone();
            let config = Config { block: 4096, read_only };
            build(&mut board, &memory, 1 << 32, config, &image, Some(disk.clone())).unwrap();
            board.settle();
            Self { board, disk }
        }

        fn get(&mut self, at: u64) -> u64 {
            self.board.read(BASE + at, 1)
        }

        fn put(&mut self, at: u64, value: u64) {
            self.board.write(BASE + at, 1, value);
        }
    }

    #[test]
    fn the_array_is_read_directly_until_a_command_shows_something_else() {
        let mut b = Bench::new(false);
        assert_eq!((b.get(0x5123), b.board.read(BASE + 0x5ffe, 4)), (5, 0x0606_0505));
        assert!(b.board.page(BASE + 0x5000).offset.is_some());
        b.put(0, 0x70);
        assert_eq!(b.get(0x5123), 0x80);
        assert!(b.board.page(BASE + 0x5000).offset.is_none());
        b.put(0, 0x50);
        b.put(0, 0x70);
        assert_eq!(b.get(0), 0, "cleared, as firmware expects to find it");
        b.put(0, 0x98);
        assert_eq!([b.get(0x10), b.get(0x11), b.get(0x12)], [0x51, 0x52, 0x59]);
        assert_eq!((b.get(0x27), b.get(0x2d), b.get(0x2f)), (20, 255, 16));
        b.put(0, 0xff);
        assert_eq!(b.get(0x5123), 5);
    }

    #[test]
    fn what_is_erased_and_programmed_reaches_the_image() {
        let mut b = Bench::new(false);
        b.put(0x3004, 0x20);
        b.put(0x3004, 0xd0);
        assert_eq!(b.get(0), 0x80);
        for (i, byte) in b"variables".iter().enumerate() {
            b.put(0x3000 + i as u64, 0x10);
            b.put(0x3000 + i as u64, (*byte).into());
        }
        b.put(0, 0xff);
        assert_eq!(b.board.read(BASE + 0x3000, 8), u64::from_le_bytes(*b"variable"));
        assert_eq!((b.get(0x3fff), b.get(0x4000)), (0xff, 4));
        let stored = contents(&b.disk).unwrap();
        assert_eq!(stored[0x3000..0x300a], *b"variables\xff");
        assert_eq!((stored[0x2fff], stored[0x4000]), (2, 4));
        assert_eq!(b.disk.stats().write.ops, 1, "in one piece");
    }

    #[test]
    fn a_buffered_program_waits_for_its_confirmation() {
        let mut b = Bench::new(false);
        b.put(0x1000, 0xe8);
        assert_eq!(b.get(0) & 0x80, 0x80);
        b.put(0x1000, 1);
        b.put(0x1000, 0xaa);
        b.put(0x1001, 0xbb);
        b.put(0x1000, 0xd0);
        b.put(0, 0xff);
        assert_eq!(b.board.read(BASE + 0x1000, 2), 0xbbaa);
        b.put(0x1000, 0xe8);
        b.put(0x1000, 0);
        b.put(0x1000, 0xcc);
        b.put(0x1000, 0x12);
        assert_eq!(b.get(0) & 0x30, 0x30, "sequence error");
        b.put(0, 0xff);
        assert_eq!(b.get(0x1000), 0xaa);
    }

    #[test]
    fn a_protected_chip_says_so_and_keeps_its_contents() {
        let mut b = Bench::new(true);
        b.put(0x3000, 0x40);
        b.put(0x3000, 0x55);
        assert_eq!(b.get(0) & 0x12, 0x12);
        b.put(0, 0xff);
        assert_eq!(b.get(0x3000), 3);
        assert_eq!(b.disk.stats().write.ops, 0);
    }

    fn alone() -> Pflash {
        let mut board = Board::new(BoardConfig::default());
        let id = board.reserve("flash");
        let array = board.ram().alloc("flash", 0x1_0000).unwrap();
        let region = board.regions().rom_device("flash", array, id, 0);
        let io = DriveIo::new(&mut board, id, 0, vec![BlockBackend::ram(vec![0; 0x1_0000])]);
        let wires = Wires { ram: board.shared_ram(), array, region, io };
        Pflash::new(Config { block: 4096, read_only: false }, wires)
    }

    orrery_system::conformance!(alone(), &[]);
}
