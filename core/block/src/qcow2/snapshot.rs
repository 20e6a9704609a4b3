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
    /// Adds the entry to the bytes of a table.
    pub(super) fn append_to(&self, out: &mut Vec<u8>) {
        let mut extra = self.vm_state_size.to_be_bytes().to_vec();
        if let Some(size) = self.disk_size {
            extra.extend(size.to_be_bytes());
            if let Some(icount) = self.icount {
                extra.extend(icount.to_be_bytes());
                extra.extend(&self.extra);
            }
        }
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
const MAX_EXTRA: usize = 1024;
const MAX_TABLE: u64 = 64 << 20;

/// Reads the table. Gives its length in bytes as well.
pub(super) async fn read_snapshots(file: &Node, header: &Header) -> Result<(Vec<Snapshot>, u64)> {
    let bad = |text: &str| Err(BlockError::corrupt(format!("snapshot table: {text}")));
    let mut list = Vec::new();
    let mut at = header.snapshots_offset;
    let end = file.len();
    for _ in 0..header.snapshots {
        if at + FIXED as u64 > end.next_multiple_of(512) {
            return bad("it is beyond the end of the file");
        }
        let fixed = file.read(at, IoBuf::zeroed(FIXED)).await?;
        let lengths = be32(&fixed, 12);
        let (id_len, name_len) = ((lengths >> 16) as usize, (lengths & 0xffff) as usize);
        let extra_len = be32(&fixed, 36) as usize;
        if extra_len > MAX_EXTRA {
            return bad("an entry has too much extra data");
        }
        let rest =
            file.read(at + FIXED as u64, IoBuf::zeroed(extra_len + id_len + name_len)).await?;
        let (extra, names) = rest.split_at(extra_len);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let wide_state = (extra_len >= 8).then(|| be64(extra, 0));
        list.push(Snapshot {
            id: text(&names[..id_len]),
            name: text(&names[id_len..]),
            date_sec: be32(&fixed, 16),
            date_nsec: be32(&fixed, 20),
            vm_clock_nsec: be64(&fixed, 24),
            vm_state_size: wide_state.unwrap_or(be32(&fixed, 32).into()),
            disk_size: (extra_len >= 16).then(|| be64(extra, 8)),
            icount: (extra_len >= 24).then(|| be64(extra, 16)),
            extra: extra.get(24..).unwrap_or_default().to_vec(),
            l1_offset: be64(&fixed, 0),
            l1_size: be32(&fixed, 8),
        });
        at = (at + (FIXED + rest.len()) as u64).next_multiple_of(8);
        if at - header.snapshots_offset > MAX_TABLE {
            return bad("it is too large");
        }
    }
    Ok((list, at - header.snapshots_offset))
}
