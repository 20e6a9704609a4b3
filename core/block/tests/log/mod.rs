//! What reached a disk, and what a loss of power leaves of it.

use orrery_block::host::{BlockFile, MemFile};
use orrery_block::{BlockError, IoBuf, Op, Result};
use std::sync::{Arc, Mutex};

/// Something that was done to a file.
#[derive(Clone)]
pub(crate) enum Event {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Punch(u64, u64),
    Flush,
}

/// Notes everything that reaches the disk.
pub(crate) struct Recorder {
    pub(crate) file: MemFile,
    /// Without holes, freed clusters keep their old content.
    pub(crate) holes: bool,
    pub(crate) log: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    fn note(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }
}

impl BlockFile for Recorder {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.note(Event::Write(offset, buf.to_vec()));
        self.file.write_at(offset, buf)
    }
    fn flush(&self) -> Op<()> {
        self.note(Event::Flush);
        self.file.flush()
    }
    fn set_len(&self, len: u64) -> Op<()> {
        self.note(Event::SetLen(len));
        self.file.set_len(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        if !self.holes {
            return Op::err(BlockError::Unsupported("no holes".into()));
        }
        self.note(Event::Punch(offset, len));
        self.file.punch_hole(offset, len)
    }
}

/// Does it to another file.
pub(crate) async fn apply(file: &MemFile, event: &Event) -> Result<()> {
    match event {
        Event::Write(at, bytes) => file.write_at(*at, bytes.clone().into()).await.map(drop),
        Event::SetLen(len) => file.set_len(*len).await,
        Event::Punch(at, len) => file.punch_hole(*at, *len).await,
        Event::Flush => Ok(()),
    }
}

/// A part of what came since the last barrier: each event is lost, torn or there. `below` gives
/// random numbers.
pub(crate) async fn apply_some(
    file: &MemFile,
    events: &[Event],
    below: &mut dyn FnMut(u64) -> u64,
) -> Result<()> {
    for event in events {
        match (below(4), event) {
            (0, _) => {}
            // Torn: a part of the sectors arrived.
            (1, Event::Write(at, bytes)) if bytes.len() > 512 => {
                let keep = below(bytes.len() as u64 / 512) as usize * 512;
                apply(file, &Event::Write(*at, bytes[..keep].to_vec())).await?;
            }
            (_, event) => apply(file, event).await?,
        }
    }
    Ok(())
}

/// Bytes in a sector.
pub(crate) const GRAIN: usize = 512;

/// A sector that can be told from all others.
pub(crate) fn sector(tag: u64) -> [u8; GRAIN] {
    let mut bytes = [0; GRAIN];
    if tag != 0 {
        for chunk in bytes.as_chunks_mut::<8>().0 {
            // Taken for a table, it would point anywhere.
            chunk.copy_from_slice(&tag.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        }
    }
    bytes
}

/// How often as much as usual is tried: what a variable says, or once.
pub(crate) fn rounds_of(variable: &str) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The same for crashes.
pub(crate) fn rounds() -> u64 {
    rounds_of("ORRERY_CRASH_ROUNDS")
}
