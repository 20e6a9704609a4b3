//! The log: finding what is in it, and writing it to its place (MS-VHDX 2.3).

use super::super::{le32, le64, read_exactly};
use super::crc32c;
use crate::graph::Node;
use crate::{BlockError, IoBuf, Result};

const SECTOR: u64 = 4096;

/// A valid entry of the log.
pub(super) struct Entry {
    at: u64,
    sequence: u64,
    tail: u64,
    file_len: u64,
    bytes: Vec<u8>,
}

/// Reads one entry, which may wrap around the end of the log.
async fn read_entry(file: &Node, log: (u64, u64), at: u64, id: &[u8]) -> Result<Option<Entry>> {
    let (start, len) = log;
    let head = read_exactly(file, "log", start + at, SECTOR).await?;
    let (total, tail) = (u64::from(le32(&head, 8)), u64::from(le32(&head, 12)));
    let sequence = le64(&head, 16);
    let plausible = &head[..4] == b"loge"
        && &head[32..48] == id
        && total >= SECTOR
        && total.is_multiple_of(SECTOR)
        && total <= len
        && tail < len
        && tail.is_multiple_of(SECTOR)
        && sequence != 0;
    if !plausible {
        return Ok(None);
    }
    let mut bytes = head;
    while (bytes.len() as u64) < total {
        let next = (at + bytes.len() as u64) % len;
        let n = (total - bytes.len() as u64).min(len - next);
        bytes.extend(read_exactly(file, "log", start + next, n).await?);
    }
    if crc32c(&bytes, 4) != le32(&bytes, 4) {
        return Ok(None);
    }
    let file_len = le64(&bytes, 56);
    Ok(Some(Entry { at, sequence, tail, file_len, bytes }))
}

/// The active sequence of entries, oldest first: the one with the highest number whose tail is
/// where it starts.
pub(super) async fn find(file: &Node, start: u64, len: u64, id: &[u8]) -> Result<Vec<Entry>> {
    let mut best: Vec<Entry> = Vec::new();
    let mut at = 0;
    while at < len {
        let mut run: Vec<Entry> = Vec::new();
        let mut next = at;
        let mut walked = 0;
        while walked < len {
            let Some(entry) = read_entry(file, (start, len), next, id).await? else { break };
            if run.last().is_some_and(|last| entry.sequence != last.sequence.wrapping_add(1)) {
                break;
            }
            let size = entry.bytes.len() as u64;
            walked += size;
            next = (next + size) % len;
            run.push(entry);
        }
        let step = if run.is_empty() { SECTOR } else { walked };
        if let Some(head) = run.last() {
            let newer = best.last().is_none_or(|last| head.sequence > last.sequence);
            let from = run.iter().position(|entry| entry.at == head.tail);
            if let Some(from) = from.filter(|_| newer) {
                best = run.split_off(from);
            }
        }
        at += step;
    }
    Ok(best)
}

/// Writes what the entries hold.
pub(super) async fn replay(file: &Node, entries: &[Entry]) -> Result<()> {
    let damaged = || BlockError::corrupt("an entry of the log contradicts itself");
    for entry in entries {
        let bytes = &entry.bytes;
        if file.len() < entry.file_len && entry.file_len < i64::MAX as u64 {
            file.truncate(entry.file_len).await?;
        }
        let count = le32(bytes, 24) as usize;
        let area = (64 + count * 32).next_multiple_of(SECTOR as usize);
        if area > bytes.len() {
            return Err(damaged());
        }
        let mut data = area;
        for i in 0..count {
            let d = &bytes[64 + i * 32..64 + (i + 1) * 32];
            let (at, sequence) = (le64(d, 16), le64(d, 24));
            if sequence != entry.sequence || !at.is_multiple_of(SECTOR) || at > i64::MAX as u64 {
                return Err(damaged());
            }
            match &d[..4] {
                b"zero" => {
                    let len = le64(d, 8);
                    if !len.is_multiple_of(SECTOR)
                        || at.checked_add(len).is_none_or(|end| end > file.len())
                    {
                        return Err(damaged());
                    }
                    file.write_zeroes(at, len, false).await?;
                }
                b"desc" => {
                    let sector = bytes.get(data..data + SECTOR as usize).ok_or_else(damaged)?;
                    let high = u64::from(le32(sector, 4));
                    let low = u64::from(le32(sector, SECTOR as usize - 4));
                    if &sector[..4] != b"data" || high << 32 | low != entry.sequence {
                        return Err(damaged());
                    }
                    let mut page = d[8..16].to_vec();
                    page.extend(&sector[8..SECTOR as usize - 4]);
                    page.extend(&d[4..8]);
                    file.write(at, IoBuf::from(page)).await?;
                    data += SECTOR as usize;
                }
                _ => return Err(damaged()),
            }
        }
    }
    if entries.is_empty() { Ok(()) } else { file.flush().await }
}
