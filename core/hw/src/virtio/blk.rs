//! Virtio block device: VIRTIO 1.2 chapter 5.2.
//!
//! Not modelled: zoned devices, secure erase, several queues, lifetime information.

use super::queue::Chain;
use super::{Context, VirtioDevice};
use crate::block::drive::{DriveIo, Finished, Op, Queue as InFlight};
use crate::pci::Bus;
use orrery_block::backend::BlockBackend;
use orrery_system::time::VmTime;
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};

const SECTOR: u64 = 512;
/// The longest request, and the most bytes in flight before the device leaves the rest in the
/// queue: what one guest may make the host allocate.
const MAX_BYTES: u64 = 32 << 20;

/// Features (5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const GEOMETRY: u64 = 1 << 4;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types (5.2.6).
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// Status bytes.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Offset of the write cache switch in the configuration.
const WRITEBACK: usize = 32;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug)]
pub struct Config {
    /// Serial number, to 20 characters.
    pub serial: String,
    /// Entries of the queue, a power of two.
    pub queue_size: u16,
    /// Logical block size as the guest is told; requests stay in 512-byte sectors.
    pub block_size: u32,
    /// Accepts discard and write zeroes.
    pub discard: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { serial: String::new(), queue_size: 256, block_size: 512, discard: true }
    }
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    in_flight: InFlight<Chain>,
    write_cache: bool,
    /// Bytes of the disk that the driver was told of.
    capacity: u64,
}

/// The device.
pub struct Blk {
    config: Config,
    backend: BlockBackend,
    io: DriveIo,
    state: State,
}

/// Puts a `virtio-blk-pci` for `backend` at `devfn` of `bus`.
pub fn build(
    board: &mut Board,
    bus: &Bus,
    devfn: u8,
    transport: super::pci::Config,
    config: Config,
    backend: BlockBackend,
) -> DeviceId {
    super::pci::build(board, bus, devfn, transport, |board, id| {
        Blk::new(config, DriveIo::new(board, id, 0, vec![backend]))
    })
}

impl Blk {
    /// A device for the one drive of `io`.
    pub fn new(config: Config, io: DriveIo) -> Self {
        let backend = io.drive(0).cloned().unwrap_or_else(BlockBackend::detached);
        let capacity = backend.len();
        let state = State { in_flight: InFlight::default(), write_cache: true, capacity };
        Self { config, backend, io, state }
    }

    fn sectors(&self) -> u64 {
        self.backend.len() / SECTOR
    }

    fn in_flight_bytes(&self) -> u64 {
        self.state.in_flight.tags().map(|(_, c)| c.readable.len() + c.writable.len()).sum()
    }

    /// Takes requests from the queue while there is room.
    fn serve(&mut self, context: &mut Context<'_>) {
        while self.in_flight_bytes() < MAX_BYTES {
            let Some(chain) = context.pop(0) else { return };
            match self.begin(&chain, context) {
                Begin::Started(op) => self.io.submit(&mut self.state.in_flight, 0, chain, op),
                Begin::Done(status, data) => finish(context, &chain, status, &data),
                Begin::Senseless(why) => return context.fail(why),
            }
        }
    }

    fn begin(&self, chain: &Chain, context: &Context<'_>) -> Begin {
        let (readable, writable) = (&chain.readable, &chain.writable);
        let mut header = [0; 16];
        if readable.read(context.dma, 0, &mut header) != Ok(16) {
            return Begin::Senseless("request header");
        }
        // The last byte is the status.
        let Some(room) = writable.len().checked_sub(1) else {
            return Begin::Senseless("no place for the status");
        };
        let payload = readable.len() - 16;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let mut sector = [0; 8];
        sector.copy_from_slice(&header[8..]);
        let sector = u64::from_le_bytes(sector);
        let fits = |len: u64| {
            let last = sector.checked_add(len / SECTOR);
            len.is_multiple_of(SECTOR)
                && len <= MAX_BYTES
                && last.is_some_and(|l| l <= self.sectors())
        };
        match kind {
            request::IN if fits(room) && room > 0 => {
                Begin::Started(Op::Read { offset: sector * SECTOR, len: room })
            }
            request::OUT if fits(payload) && payload > 0 && !self.backend.read_only() => {
                let mut data = vec![0; payload as usize];
                if readable.read(context.dma, 16, &mut data).is_err() {
                    return Begin::Done(IOERR, Vec::new());
                }
                Begin::Started(Op::Write { offset: sector * SECTOR, data, fua: false })
            }
            request::IN | request::OUT => Begin::Done(IOERR, Vec::new()),
            request::FLUSH => Begin::Started(Op::Flush),
            request::GET_ID => {
                let mut id = self.config.serial.clone().into_bytes();
                id.resize(20, 0);
                id.truncate(room.min(20) as usize);
                Begin::Done(OK, id)
            }
            request::DISCARD | request::WRITE_ZEROES if self.config.discard => {
                let mut segment = [0; 16];
                // One segment, as the configuration says.
                if payload != 16 || readable.read(context.dma, 16, &mut segment) != Ok(16) {
                    return Begin::Done(IOERR, Vec::new());
                }
                self.clear(kind, &segment)
            }
            _ => Begin::Done(UNSUPP, Vec::new()),
        }
    }

    fn clear(&self, kind: u32, s: &[u8; 16]) -> Begin {
        let sector = u64::from_le_bytes([s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]]);
        let count = u64::from(u32::from_le_bytes([s[8], s[9], s[10], s[11]]));
        let flags = u32::from_le_bytes([s[12], s[13], s[14], s[15]]);
        let last = sector.checked_add(count);
        if self.backend.read_only() || last.is_none_or(|l| l > self.sectors()) {
            return Begin::Done(IOERR, Vec::new());
        }
        let (offset, len) = (sector * SECTOR, count * SECTOR);
        match (kind, flags) {
            (request::DISCARD, 0) => Begin::Started(Op::Discard { offset, len }),
            (request::WRITE_ZEROES, 0 | 1) => {
                Begin::Started(Op::WriteZeroes { offset, len, unmap: flags == 1 })
            }
            _ => Begin::Done(UNSUPP, Vec::new()),
        }
    }
}

enum Begin {
    Started(Op),
    Done(u8, Vec<u8>),
    Senseless(&'static str),
}

/// Gives a request back: data, then the status in the last byte.
fn finish(context: &mut Context<'_>, chain: &Chain, mut status: u8, data: &[u8]) {
    let last = chain.writable.len().saturating_sub(1);
    if chain.writable.write(context.dma, 0, data).is_err() {
        status = IOERR;
    }
    if chain.writable.write(context.dma, last, &[status]).is_err() {
        return context.fail("status outside memory");
    }
    // The status follows the data; where less data came than there was room, the gap counts.
    let written = if status == OK && !data.is_empty() { last + 1 } else { 1 };
    context.push(0, chain, written.min(u64::from(u32::MAX)) as u32);
}

impl VirtioDevice for Blk {
    type State = State;

    const PCI_NAME: &'static str = "virtio-blk-pci";
    const TYPE: u16 = 2;
    const PCI_CLASS: u32 = 0x01_00_00;

    fn features(&self) -> u64 {
        let mut f = feature::SEG_MAX
            | feature::GEOMETRY
            | feature::BLK_SIZE
            | feature::FLUSH
            | feature::TOPOLOGY
            | feature::CONFIG_WCE;
        if self.config.discard {
            f |= feature::DISCARD | feature::WRITE_ZEROES;
        }
        if self.backend.read_only() {
            f |= feature::RO;
        }
        f
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.config.queue_size]
    }

    fn config(&self) -> Vec<u8> {
        let mut c = vec![0; 60];
        let sectors = self.sectors();
        let cylinders = (sectors / (16 * 63)).clamp(2, 16383) as u16;
        let mut put = |at: usize, bytes: &[u8]| c[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &sectors.to_le_bytes());
        put(12, &u32::from(self.config.queue_size.saturating_sub(2)).to_le_bytes());
        put(16, &cylinders.to_le_bytes());
        put(18, &[16, 63]);
        put(20, &self.config.block_size.to_le_bytes());
        put(WRITEBACK, &[u8::from(self.state.write_cache)]);
        put(34, &1_u16.to_le_bytes());
        if self.config.discard {
            let most = (i32::MAX as u32) / 512;
            put(36, &most.to_le_bytes());
            put(40, &1_u32.to_le_bytes());
            put(44, &(self.config.block_size / 512).to_le_bytes());
            put(48, &most.to_le_bytes());
            put(52, &1_u32.to_le_bytes());
            put(56, &[1]);
        }
        c
    }

    fn write_config(&mut self, at: usize, value: u8) {
        if at == WRITEBACK {
            self.state.write_cache = value & 1 != 0;
            self.backend.set_write_cache(self.state.write_cache);
        }
    }

    fn start(&mut self, features: u64) {
        // A driver that cannot flush wants writes that are stable when they end (5.2.6.2).
        let cached = features & (feature::FLUSH | feature::CONFIG_WCE) != 0;
        self.state.write_cache &= cached;
        self.backend.set_write_cache(self.state.write_cache);
    }

    fn reset(&mut self) {
        self.io.abandon_all(&mut self.state.in_flight);
        self.state.write_cache = true;
        self.state.capacity = self.backend.len();
        self.backend.set_write_cache(true);
    }

    fn notified(&mut self, _: usize, context: &mut Context<'_>) {
        self.serve(context);
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.state = state;
        self.backend.set_write_cache(self.state.write_cache);
        self.io.resume(&self.state.in_flight);
        Ok(())
    }

    fn due(&self) -> Option<VmTime> {
        self.io.due(&self.state.in_flight)
    }

    fn ready(&self) -> bool {
        self.io.ready(&self.state.in_flight) || self.backend.len() != self.state.capacity
    }

    fn deliver(&mut self, now: VmTime, context: &mut Context<'_>) {
        if self.backend.len() != self.state.capacity {
            self.state.capacity = self.backend.len();
            context.config_changed();
        }
        let mut any = false;
        while let Some(done) = self.io.take(&mut self.state.in_flight, now) {
            let Finished { tag: chain, result, .. } = done;
            match result {
                Ok(data) => finish(context, &chain, OK, &data),
                Err(_) => finish(context, &chain, IOERR, &[]),
            }
            any = true;
        }
        if any {
            self.serve(context);
        }
    }
}
