//! The table of internal snapshots.

use super::header::{Header, be32, be64};
use crate::graph::Node;
use crate::{BlockError, IoBuf, Result};
use serde::Serialize;

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Snapshot {
    /// Number, as text.
    pub id: String,
    /// Name.
    pub name: String,
    /// Seconds since the epoch at which it was taken.
    pub date_sec: u32,
    /// Nanoseconds on top of that.
    pub date_nsec: u32,
    /// Virtual time of the machine in nanoseconds.
    pub vm_clock_nsec: u64,
    /// Bytes of machine state stored with it.
    pub vm_state_size: u64,
    /// Bytes of the disk when it was taken, where recorded.
    pub disk_size: Option<u64>,
    /// Instructions that the machine had executed, where recorded.
    pub icount: Option<u64>,
    #[serde(skip)]
    pub(super) l1_offset: u64,
    #[serde(skip)]
    pub(super) l1_size: u32,
    /// Extra data behind what is known.
    #[serde(skip)]
    pub(super) extra: Vec<u8>,
}

impl Snapshot {
    /// Adds the entry to the bytes of a table. `disk` is the size of a disk that was not recorded.
    pub(super) fn append_to(&self, out: &mut Vec<u8>, disk: u64) {
        let mut extra = self.vm_state_size.to_be_bytes().to_vec();
        extra.extend(self.disk_size.unwrap_or(disk).to_be_bytes());
        extra.extend(self.icount.unwrap_or(NO_ICOUNT).to_be_bytes());
        extra.extend(&self.extra);
        out.resize(out.len().next_multiple_of(8), 0);
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.l1_size.to_be_bytes());
        out.extend((self.id.len() as u16).to_be_bytes());
        out.extend((self.name.len() as u16).to_be_bytes());
        out.extend(self.date_sec.to_be_bytes());
        out.extend(self.date_nsec.to_be_bytes());
        out.extend(self.vm_clock_nsec.to_be_bytes());
        out.extend(u32::try_from(self.vm_state_size).unwrap_or(0).to_be_bytes());
        out.extend((extra.len() as u32).to_be_bytes());
        out.extend(extra);
        out.extend(self.id.as_bytes());
        out.extend(self.name.as_bytes());
    }
}

const FIXED: usize = 40;
/// Extra data that is known: size of the state, size of the disk, instructions.
const KNOWN_EXTRA: usize = 24;
const MAX_EXTRA: usize = 1024;
const MAX_TABLE: u64 = 64 << 20;
/// Most snapshots that an image may have.
pub(super) const MAX_SNAPSHOTS: u32 = 65_536;
/// What stands for a number of instructions that nobody knows.
const NO_ICOUNT: u64 = u64::MAX;

/// What a table has too much of, and what was left out for it.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// In words.
    pub(super) messages: Vec<String>,
    /// How many times something was left out.
    pub(super) faults: u64,
    /// Entries are not what they were, so that the table has to be stored anew. Else it ends earlier.
    pub(super) changed: bool,
}

/// Bytes of the file, which is zeros behind its end: the last entry may be padded by what is not there.
async fn read_padded(file: &Node, at: u64, len: usize) -> Result<Vec<u8>> {
    let there = file.len().saturating_sub(at).min(len as u64) as usize;
    let mut out = match there {
        0 => Vec::new(),
        _ => file.read(at, IoBuf::zeroed(there)).await?.into_vec(),
    };
    out.resize(len, 0);
    Ok(out)
}

/// Reads the table. Gives its length in the file as well. Without a `salvage` a table that is too
/// large is refused.
pub(super) async fn read_snapshots(
    file: &Node,
    header: &Header,
    mut salvage: Option<&mut Salvage>,
) -> Result<(Vec<Snapshot>, u64)> {
    let mut list = Vec::new();
    let mut at = header.snapshots_offset;
    let mut total = header.snapshots;
    if total > 0 && at >= file.len().next_multiple_of(512) {
        return Err(BlockError::corrupt("snapshot table: it is beyond the end of the file"));
    }
    if total > MAX_SNAPSHOTS {
        let over = total - MAX_SNAPSHOTS;
        let Some(salvage) = salvage.as_deref_mut() else {
            return Err(BlockError::TooLarge("Snapshot table too large".into()));
        };
        salvage.messages.push(format!("Discarding {over} overhanging snapshots"));
        salvage.faults += u64::from(over);
        total = MAX_SNAPSHOTS;
    }
    // Bytes of the table as it will be written.
    let mut kept: u64 = 0;
    for index in 0..total {
        let start = at;
        let fixed = read_padded(file, at, FIXED).await?;
        let lengths = be32(&fixed, 12);
        let (id_len, name_len) = ((lengths >> 16) as usize, (lengths & 0xffff) as usize);
        let stored_extra = be32(&fixed, 36) as usize;
        let extra_len = stored_extra.min(MAX_EXTRA);
        let mut cut = None;
        if stored_extra > MAX_EXTRA {
            if salvage.is_none() {
                return Err(BlockError::TooLarge(format!(
                    "Too much extra metadata in snapshot table entry {index}\n\
                     You can force-remove this extra metadata with qemu-img check -r all"
                )));
            }
            cut = Some(format!(
                "Discarding too much extra metadata in snapshot table entry {index} \
                 ({stored_extra} > {MAX_EXTRA})"
            ));
        }
        let names_at = at + FIXED as u64 + stored_extra as u64;
        let stop = names_at + (id_len + name_len) as u64;
        let extra = read_padded(file, at + FIXED as u64, extra_len).await?;
        let names = read_padded(file, names_at, id_len + name_len).await?;
        kept = kept.next_multiple_of(8) + (FIXED + extra_len + id_len + name_len) as u64;
        at = stop.next_multiple_of(8);
        if let (Some(text), Some(salvage)) = (cut, salvage.as_deref_mut()) {
            salvage.messages.push(text);
            salvage.faults += 1;
            salvage.changed = true;
        }
        if kept > MAX_TABLE || at - header.snapshots_offset > i32::MAX as u64 {
            let over = total - index;
            let Some(salvage) = salvage else {
                return Err(BlockError::TooLarge(format!(
                    "Snapshot table is too big\n\
                     You can force-remove all {over} overhanging snapshots with qemu-img check -r all"
                )));
            };
            salvage.messages.push(format!(
                "Discarding {over} overhanging snapshots (snapshot table is too big)"
            ));
            salvage.faults += u64::from(over);
            at = start;
            break;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let wide_state = (extra_len >= 8).then(|| be64(&extra, 0));
        list.push(Snapshot {
            id: text(&names[..id_len]),
            name: text(&names[id_len..]),
            date_sec: be32(&fixed, 16),
            date_nsec: be32(&fixed, 20),
            vm_clock_nsec: be64(&fixed, 24),
            vm_state_size: wide_state.unwrap_or(be32(&fixed, 32).into()),
            disk_size: (extra_len >= 16).then(|| be64(&extra, 8)),
            icount: (extra_len >= KNOWN_EXTRA)
                .then(|| be64(&extra, 16))
                .filter(|icount| *icount != NO_ICOUNT),
            extra: extra.get(KNOWN_EXTRA..).unwrap_or_default().to_vec(),
            l1_offset: be64(&fixed, 0),
            l1_size: be32(&fixed, 8),
        });
    }
    Ok((list, at - header.snapshots_offset))
}
