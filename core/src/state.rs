//! Snapshots of whole machines: exactly their state, portable between hosts.
//!
//! A file is a header (magic, format version, machine), a body (postcard) and a checksum; what comes
//! behind is a front end's. Memory is stored page by page, zero pages left out, compressed with LZ4.

use crate::machine::Machine;
use orrery_system::board::{BoardState, DeviceStates};
use orrery_system::{PAGE_SIZE, RestoreError, StateBlob};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8; 8] = b"ORRERYSS";
/// Bumped when the body's layout changes.
const VERSION: u32 = 3;
/// Pages compressed together.
const CHUNK: usize = 4096;
/// Bytes of the largest memory.
const MAX_BLOCK: u64 = 64 << 30;

/// Why a snapshot was refused.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not one of ours.
    #[error("this is not an Orrery snapshot")]
    Magic,
    /// Made by another version.
    #[error("snapshot format {found}, this program reads {VERSION}")]
    Version {
        /// The format in the file.
        found: u32,
    },
    /// Damaged or cut short.
    #[error("the snapshot is damaged or cut short")]
    Damaged,
    /// Of another machine.
    #[error("the snapshot is of a `{found}` machine, this one is a `{expected}`")]
    Machine {
        /// Machine in the file.
        found: String,
        /// Machine that is running.
        expected: String,
    },
    /// Memory of another size.
    #[error("memory `{name}` is {found} bytes in the snapshot, {expected} here")]
    Memory {
        /// The block.
        name: String,
        /// Its size in the file.
        found: u64,
        /// Its size here.
        expected: u64,
    },
    /// A device refused its part.
    #[error("a device refuses its state")]
    Device(#[from] RestoreError),
}

#[derive(Serialize, Deserialize)]
struct Body {
    machine: String,
    board: BoardState,
    devices: DeviceStates,
    cpus: Vec<StateBlob>,
    turn: u32,
    suspended: bool,
    /// Which network cards' cables carry a signal.
    links: Vec<bool>,
    memory: Vec<Block>,
}

#[derive(Serialize, Deserialize)]
struct Block {
    name: String,
    len: u64,
    /// Bit per page: it is not all zeros.
    present: Vec<u8>,
    /// The present pages one after another, [`CHUNK`] pages at a time, LZ4 with the length in
    /// front.
    chunks: Vec<Vec<u8>>,
}

impl Machine {
    /// The machine's state as a file.
    pub fn save(&self) -> Vec<u8> {
        self.save_with(true)
    }

    /// The same without the content of memory.
    pub fn save_devices(&self) -> Vec<u8> {
        self.save_with(false)
    }

    fn save_with(&self, memory: bool) -> Vec<u8> {
        let (board, devices) = self.board.save();
        let ram = self.board.ram();
        let pack = |b: orrery_system::ram::NamedBlock| {
            let pages = if memory { b.block.len.div_ceil(PAGE_SIZE) } else { 0 };
            let mut present = vec![0u8; pages.div_ceil(8)];
            let mut bytes = Vec::new();
            let mut page = [0u8; PAGE_SIZE];
            for i in 0..pages {
                ram.read_bytes(b.block.offset + i * PAGE_SIZE, &mut page);
                if page.iter().any(|&v| v != 0) {
                    present[i / 8] |= 1 << (i % 8);
                    bytes.extend_from_slice(&page);
                }
            }
            let chunks =
                bytes.chunks(CHUNK * PAGE_SIZE).map(lz4_flex::compress_prepend_size).collect();
            Block { name: b.name, len: b.block.len as u64, present, chunks }
        };
        let body = Body {
            machine: self.handles.machine.clone(),
            board,
            devices,
            cpus: self.cpus.save(),
            turn: self.turn() as u32,
            suspended: self.suspended(),
            links: self.links(),
            memory: ram.blocks().into_iter().map(pack).collect(),
        };
        let body = postcard::to_allocvec(&body).expect("plain data encodes");
        let mut out = Vec::with_capacity(body.len() + 28);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&xxh3_64(&body).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Replaces the machine's state. On an error after the checks of form the machine must be
    /// reset or restored again before it runs.
    pub fn restore(&mut self, file: &[u8]) -> Result<(), SnapshotError> {
        self.restore_with(file, true)
    }

    /// Replaces the state of everything but memory by what [`Machine::save_devices`] gave.
    pub fn restore_devices(&mut self, file: &[u8]) -> Result<(), SnapshotError> {
        self.restore_with(file, false)
    }

    fn restore_with(&mut self, file: &[u8], memory: bool) -> Result<(), SnapshotError> {
        let (head, body) = file.split_at_checked(28).ok_or(SnapshotError::Magic)?;
        if &head[..8] != MAGIC {
            return Err(SnapshotError::Magic);
        }
        let found = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        let field =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let body = usize::try_from(field(12)).ok().and_then(|len| body.get(..len));
        let body = body.filter(|body| field(20) == xxh3_64(body)).ok_or(SnapshotError::Damaged)?;
        let body: Body = postcard::from_bytes(body).map_err(|_| SnapshotError::Damaged)?;
        if body.machine != self.handles.machine {
            let expected = self.handles.machine.clone();
            return Err(SnapshotError::Machine { found: body.machine, expected });
        }
        let blocks = self.board.ram().blocks();
        if blocks.len() != body.memory.len() {
            return Err(RestoreError::Invalid("number of memories").into());
        }
        for (have, saved) in blocks.iter().zip(&body.memory) {
            let expected = have.block.len as u64;
            if have.name != saved.name || expected != saved.len || saved.len > MAX_BLOCK {
                let (name, found) = (saved.name.clone(), saved.len);
                return Err(SnapshotError::Memory { name, found, expected });
            }
        }
        for (have, saved) in blocks.iter().zip(&body.memory).filter(|_| memory) {
            self.unpack(have.block, saved)?;
        }
        self.set_links(&body.links);
        self.board.restore(&body.board, &body.devices)?;
        self.cpus.restore(&mut self.board, &body.cpus)?;
        self.set_turn(body.turn as usize);
        self.set_suspended(body.suspended);
        Ok(())
    }

    /// Which network cards' cables carry a signal.
    pub(crate) fn links(&self) -> Vec<bool> {
        self.handles.nics.iter().map(|nic| nic.cable.carrier()).collect()
    }

    /// Puts that back.
    pub(crate) fn set_links(&self, links: &[bool]) {
        for (nic, up) in self.handles.nics.iter().zip(links) {
            nic.cable.set_carrier(*up);
        }
    }

    fn unpack(&self, block: orrery_system::RamBlock, saved: &Block) -> Result<(), SnapshotError> {
        let pages = block.len.div_ceil(PAGE_SIZE);
        let ones: u32 = saved.present.iter().map(|b| b.count_ones()).sum();
        if saved.present.len() != pages.div_ceil(8) {
            return Err(SnapshotError::Damaged);
        }
        let mut bytes = Vec::new();
        for chunk in &saved.chunks {
            // The length in front must not make the reader allocate what was never there.
            let size =
                chunk.get(..4).map(|s| u32::from_le_bytes(s.try_into().expect("four bytes")));
            if size.is_none_or(|s| s as usize > CHUNK * PAGE_SIZE) {
                return Err(SnapshotError::Damaged);
            }
            bytes.extend(
                lz4_flex::decompress_size_prepended(chunk).map_err(|_| SnapshotError::Damaged)?,
            );
        }
        if bytes.len() != ones as usize * PAGE_SIZE {
            return Err(SnapshotError::Damaged);
        }
        let mut stored = bytes.as_chunks::<PAGE_SIZE>().0.iter();
        let zero = [0u8; PAGE_SIZE];
        for i in 0..pages {
            let page = if saved.present[i / 8] >> (i % 8) & 1 != 0 {
                stored.next().ok_or(SnapshotError::Damaged)?
            } else {
                &zero
            };
            self.board.ram().write_bytes(block.offset + i * PAGE_SIZE, page);
        }
        Ok(())
    }

    /// A hash of everything the guest can observe: memory, devices, CPUs, time.
    pub fn hash(&self) -> u64 {
        let mut h = Xxh3::new();
        let (board, devices) = self.board.save();
        let plain = "plain data encodes";
        h.update(&postcard::to_allocvec(&board).expect(plain));
        h.update(&postcard::to_allocvec(&devices).expect(plain));
        h.update(&postcard::to_allocvec(&self.cpus.save()).expect(plain));
        h.update(&postcard::to_allocvec(&self.links()).expect(plain));
        h.update(&self.memory_hash().to_le_bytes());
        h.digest()
    }

    /// A hash of all guest memory.
    pub fn memory_hash(&self) -> u64 {
        let mut h = Xxh3::new();
        let mut page = [0u8; PAGE_SIZE];
        for b in self.board.ram().blocks() {
            h.update(b.name.as_bytes());
            for at in (0..b.block.len).step_by(PAGE_SIZE) {
                self.board.ram().read_bytes(b.block.offset + at, &mut page);
                h.update(&page);
            }
        }
        h.digest()
    }
}
