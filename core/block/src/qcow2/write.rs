//! Writes, zero marks and discards: resolve, data, commit.

use super::entry::{COPIED, Entry, Kind, OFFSET, ZERO};
use super::read::Step;
use super::{Meta, Preallocation, Qcow2};
use crate::driver::Driver;
use crate::formats::mapped::write_part;
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use std::ops::Range;

/// Longest stretch of a write that is allocated in one step.
const MAX_STRETCH: u64 = 16 << 20;
/// What is encrypted in one piece.
const SECTOR: u64 = 512;

impl Qcow2 {
    pub(super) async fn write_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        if self.locked() {
            return Err(BlockError::Encrypted("qcow2"));
        }
        self.begin().await?;
        let total = buf.len();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let len = (total - done) as u64;
            let step = self.look_up(at, len).await?;
            if let Some(n) = self.marks_ahead(&step, at, len).await? {
                let own = self.own(at, n).await;
                if let Some(host) = self.owned_run(at, n).await? {
                    self.event("write_aio").await;
                    buf = write_part(&*self.data()?, host, buf, done, n as usize).await?;
                    self.clear_marks_of(at, n).await?;
                    drop(own);
                    done += n as usize;
                }
                continue;
            }
            match step {
                Step::Data { host, len, in_place: true, lease } => {
                    let n = len as usize;
                    self.event("write_aio").await;
                    match &self.cipher {
                        Some(cipher) => {
                            let start = at / SECTOR * SECTOR;
                            let whole = start..(at + len).next_multiple_of(SECTOR);
                            let _own = self.guest.acquire(whole).await;
                            self.write_secret(cipher, at, host, &buf[done..done + n]).await?;
                        }
                        None => buf = write_part(&*self.data()?, host, buf, done, n).await?,
                    }
                    drop(lease);
                    done += len as usize;
                }
                _ => {
                    let (back, n) = self.write_new(at, len.min(MAX_STRETCH), buf, done).await?;
                    self.relieve().await?;
                    buf = back;
                    done += n as usize;
                }
            }
        }
        self.relieve().await?;
        Ok(buf)
    }

    /// Bytes from `at` on that lie in neighbouring clusters of ours, when that is more than `step`
    /// says because some of them are marked as zeros and will be written as a whole.
    async fn marks_ahead(&self, step: &Step, at: u64, len: u64) -> Result<Option<u64>> {
        let shape = &self.shape;
        let first = match step {
            Step::Data { in_place: true, len: n, .. } if *n < len => *n,
            Step::Zero { .. } if at.is_multiple_of(shape.cluster()) => 0,
            _ => return Ok(None),
        };
        if self.cipher.is_some() || shape.extended() || shape.data_file {
            return Ok(None);
        }
        let len = len.min(shape.l2_span() - (at & (shape.l2_span() - 1)));
        if first >= len || lock(&self.meta).l1[shape.l1_index(at) as usize] & COPIED == 0 {
            return Ok(None);
        }
        let run = self.with_l2(at, |meta, table| Ok(self.run_of(meta, table, at, len))).await?;
        Ok(run.filter(|(_, n, marked)| *marked && *n > first).map(|(_, n, _)| n))
    }

    /// Where `len` bytes from `at` on are, when their clusters are neighbours and ours.
    async fn owned_run(&self, at: u64, len: u64) -> Result<Option<u64>> {
        if lock(&self.meta).l1[self.shape.l1_index(at) as usize] & COPIED == 0 {
            return Ok(None);
        }
        let run = self.with_l2(at, |meta, table| Ok(self.run_of(meta, table, at, len))).await?;
        Ok(run.filter(|(_, n, _)| *n == len).map(|(host, ..)| host))
    }

    /// Host offset and length of a run of clusters that can be written over, and whether zero
    /// marks must be taken from it.
    fn run_of(&self, meta: &mut Meta, table: u64, at: u64, len: u64) -> Option<(u64, u64, bool)> {
        let shape = &self.shape;
        let first = shape.down(at);
        let mut start = None;
        let (mut marked, mut end) = (false, at);
        for guest in (first..at + len).step_by(shape.cluster() as usize) {
            let entry = self.load_entry(meta, table, guest);
            let zero = match entry.kind(shape, 0) {
                Ok(Kind::Data(_)) => false,
                Ok(Kind::Zero) => true,
                _ => break,
            };
            let whole = guest >= at && guest + shape.cluster() <= at + len;
            let Some(host) = entry.host(shape).filter(|_| entry.copied() && (!zero || whole))
            else {
                break;
            };
            match start {
                None => start = Some(host),
                Some(start) if start + (guest - first) == host => {}
                Some(_) => break,
            }
            marked |= zero;
            end = (guest + shape.cluster()).min(at + len);
        }
        start.map(|host| (host + (at - first), end - at, marked))
    }

    /// Takes the zero marks from clusters that have been written.
    async fn clear_marks_of(&self, at: u64, len: u64) -> Result<()> {
        self.with_l2(at, |meta, table| {
            let first = self.shape.down(at);
            for guest in (first..at + len).step_by(self.shape.cluster() as usize) {
                let entry = self.load_entry(meta, table, guest);
                if entry.word & ZERO != 0 {
                    let entry = Entry { word: entry.word & !ZERO, ..entry };
                    self.store_entry(meta, table, guest, entry);
                }
            }
            Ok(())
        })
        .await
    }

    /// The L2 table for a guest offset, in memory and ours to change.
    async fn l2_for_write(&self, guest: u64) -> Result<u64> {
        let index = self.shape.l1_index(guest) as usize;
        loop {
            let word = {
                let meta = lock(&self.meta);
                let word = *meta
                    .l1
                    .get(index)
                    .ok_or_else(|| BlockError::corrupt("L1 table is too small"))?;
                let table = word & OFFSET;
                if table != 0 && word & COPIED != 0 && meta.l2.contains(table) {
                    return Ok(table);
                }
                word
            };
            let table = word & OFFSET;
            if table != 0 {
                if table & (self.shape.cluster() - 1) != 0 {
                    return Err(BlockError::corrupt(format!(
                        "L2 table at {table:#x} is not aligned"
                    )));
                }
                self.load_l2(table).await?;
                if word & COPIED != 0 {
                    continue;
                }
            }
            self.make_l2(index, word).await?;
        }
    }

    /// Makes a new L2 table, as a copy when there is one that is shared.
    async fn make_l2(&self, index: usize, seen: u64) -> Result<()> {
        let at = index as u64;
        let _guard = self.making.acquire(at..at + 1).await;
        if lock(&self.meta).l1[index] != seen {
            return Ok(());
        }
        let offset = self.alloc_for(1, "L2 table").await?.0;
        if self.lazy() {
            // Refcounts of data may be stale after a crash, those of tables are not.
            self.write_refcounts().await?;
        }
        let bits = self.shape.cluster_bits;
        let old = seen & OFFSET;
        let made = {
            let mut guard = lock(&self.meta);
            let meta = &mut *guard;
            let bytes = match old {
                0 => Some(vec![0; self.shape.cluster() as usize]),
                old => meta.l2.get(old).map(<[u8]>::to_vec),
            };
            if let Some(bytes) = bytes {
                meta.l2.insert_fresh(offset, bytes);
                meta.l1[index] = offset | COPIED;
                meta.l1_dirty.insert(at / 64);
                meta.guard(offset >> bits);
                if old != 0 {
                    meta.l2.remove(old);
                    meta.free(old >> bits, 1, false);
                }
                true
            } else {
                false
            }
        };
        if !made {
            // The old table was evicted meanwhile; the caller loads it again.
            self.drop_refs(offset >> bits, 1).await?;
        }
        Ok(())
    }

    /// Runs `change` with the L2 table of a guest offset in memory and ours.
    pub(super) async fn with_l2<T>(
        &self,
        guest: u64,
        mut change: impl FnMut(&mut Meta, u64) -> Result<T>,
    ) -> Result<T> {
        loop {
            let table = self.l2_for_write(guest).await?;
            let mut meta = lock(&self.meta);
            if meta.l2.contains(table) {
                return change(&mut meta, table);
            }
        }
    }

    pub(super) fn load_entry(&self, meta: &mut Meta, table: u64, guest: u64) -> Entry {
        let bytes = meta.l2.get(table).expect("the caller has it in memory");
        Entry::load(bytes, &self.shape, self.shape.l2_index(guest))
    }

    pub(super) fn store_entry(&self, meta: &mut Meta, table: u64, guest: u64, entry: Entry) {
        let index = self.shape.l2_index(guest);
        let at = index * self.shape.entry_len();
        let store = |bytes: &mut [u8]| entry.store(bytes, &self.shape, index);
        meta.l2
            .modify(table, at..at + self.shape.entry_len(), store)
            .expect("the caller has it in memory");
    }

    /// Writes the start of a range that cannot simply be overwritten. Says how much of it, which
    /// is nothing when the range has changed meanwhile.
    async fn write_new(&self, at: u64, len: u64, buf: IoBuf, done: usize) -> Result<(IoBuf, u64)> {
        let shape = &self.shape;
        let len = len.min(shape.l2_span() - (at & (shape.l2_span() - 1)));
        let own = self.own(at, len).await;
        if let Step::Data { in_place: true, .. } = self.look_up(at, len).await? {
            return Ok((buf, 0));
        }
        let first = shape.down(at);
        // What is there: a cluster of ours with holes, or a stretch that needs new clusters.
        let (reuse, clusters) = self
            .with_l2(at, |meta, table| {
                let entry = self.load_entry(meta, table, at);
                entry.kind(shape, 0)?;
                if let Some(host) = entry.host(shape).filter(|_| entry.copied()) {
                    return Ok((Some(host), 1));
                }
                let end = shape.up(at + len);
                let ours = |guest: &u64| {
                    let entry = self.load_entry(meta, table, *guest);
                    entry.host(shape).is_none() || !entry.copied()
                };
                let guests = (first..end).step_by(shape.cluster() as usize);
                Ok((None, guests.take_while(ours).count() as u64))
            })
            .await?;
        let (host, clusters) = match reuse {
            Some(host) => (host, 1),
            None if shape.data_file => (first, clusters),
            None => self.alloc(clusters).await?,
        };
        let end = (at + len).min(first + clusters * shape.cluster());
        let result = self.fill_and_write(at..end, host, reuse.is_some(), buf, done).await;
        let (buf, covered) = match result {
            Ok(written) => written,
            Err(error) => {
                if reuse.is_none() && !shape.data_file {
                    self.drop_refs(host >> shape.cluster_bits, clusters).await?;
                }
                return Err(error);
            }
        };
        self.with_l2(at, |meta, table| {
            for i in 0..clusters {
                let guest = first + i * shape.cluster();
                let old = self.load_entry(meta, table, guest);
                let mut new = Entry { word: (host + i * shape.cluster()) | COPIED, bitmap: 0 };
                if shape.extended() {
                    if !old.is_compressed() {
                        new.bitmap = old.bitmap;
                    }
                    for sub in 0..shape.subs() {
                        let start = guest + u64::from(sub) * shape.sub();
                        if start < covered.end && covered.start < start + shape.sub() {
                            new.bitmap = new.bitmap & !(1 << (32 + sub)) | 1 << sub;
                        }
                    }
                }
                self.store_entry(meta, table, guest, new);
                if reuse.is_none() {
                    self.free_entry(meta, old);
                }
            }
            Ok(())
        })
        .await?;
        drop(own);
        Ok((buf, end - at))
    }

    /// Puts the guest's bytes into their clusters, together with what must surround them. Gives
    /// the guest range that is valid in the clusters afterwards.
    async fn fill_and_write(
        &self,
        range: Range<u64>,
        host: u64,
        reuse: bool,
        mut buf: IoBuf,
        done: usize,
    ) -> Result<(IoBuf, Range<u64>)> {
        let shape = &self.shape;
        let (first, last) = (shape.down(range.start), shape.down(range.end - 1));
        let (head, tail) = self
            .with_l2(first, |meta, table| {
                Ok((self.load_entry(meta, table, first), self.load_entry(meta, table, last)))
            })
            .await?;
        // Subclusters around the write: those it touches are completed; those of an old cluster
        // that hold data move along.
        let mut covered =
            range.start - range.start % shape.sub()..range.end.next_multiple_of(shape.sub());
        let is_data = |entry: Entry, guest: u64| {
            let sub = (guest & (shape.cluster() - 1)) / shape.sub();
            Ok::<_, BlockError>(matches!(
                entry.kind(shape, sub as u32)?,
                Kind::Data(_) | Kind::Compressed(_)
            ))
        };
        if reuse {
            if is_data(head, covered.start)? {
                covered.start = range.start;
            }
            if is_data(tail, range.end - 1)? {
                covered.end = range.end;
            }
        } else {
            let mut guest = first;
            while guest < covered.start && !is_data(head, guest)? {
                guest += shape.sub();
            }
            covered.start = guest.min(covered.start);
            let mut guest = last + shape.cluster();
            while guest > covered.end && !is_data(tail, guest - shape.sub())? {
                guest -= shape.sub();
            }
            covered.end = guest.max(covered.end);
        }
        // Clusters past the end of the file hold zeros already.
        let node = self.data()?;
        let mut fill = covered.clone();
        // (Encrypted ones do not: zeros there are no zeros here.)
        let unused = |guest: u64| {
            !shape.data_file
                && self.cipher.is_none()
                && host + (shape.down(guest) - first) >= node.len()
        };
        if fill.start < range.start
            && unused(first)
            && self.is_zero(fill.start..range.start).await?
        {
            fill.start = range.start;
        }
        if fill.end > range.end && unused(last) && self.is_zero(range.end..fill.end).await? {
            fill.end = range.end;
        }
        if self.cipher.is_some() {
            // Whole sectors, so that nothing has to be read back.
            fill.start -= fill.start % SECTOR;
            fill.end = fill.end.next_multiple_of(SECTOR);
        }
        let to = host + (fill.start - first);
        let n = (range.end - range.start) as usize;
        self.event("write_aio").await;
        if fill == range && self.cipher.is_none() {
            buf = write_part(&node, to, buf, done, n).await?;
        } else {
            let mut whole = IoBuf::zeroed((fill.end - fill.start) as usize);
            let (before, after) =
                ((range.start - fill.start) as usize, (range.end - fill.start) as usize);
            whole = self.read_old(fill.start, whole, 0..before).await?;
            whole =
                self.read_old(range.end, whole, after..(fill.end - fill.start) as usize).await?;
            whole[before..after].copy_from_slice(&buf[done..done + n]);
            match &self.cipher {
                Some(cipher) => self.write_secret(cipher, fill.start, to, &whole).await?,
                None => node.write(to, whole).await.map(drop)?,
            }
        }
        Ok((buf, covered))
    }

    /// Reads the old content for the part `to` of `buf`; zeros beyond the end of the disk.
    async fn read_old(&self, guest: u64, mut buf: IoBuf, to: Range<usize>) -> Result<IoBuf> {
        let there = self.len().saturating_sub(guest).min(to.len() as u64) as usize;
        if there > 0 {
            self.event("cow_read").await;
            let old = buf.narrow(to.start..to.start + there);
            buf = self.read_any(guest, buf).await?;
            buf.widen(old);
        }
        Ok(buf)
    }

    /// True when the range is known to read as zeros, without looking at data.
    async fn is_zero(&self, range: Range<u64>) -> Result<bool> {
        let mut at = range.start;
        let end = range.end.min(self.len());
        while at < end {
            at += match self.look_up(at, end - at).await? {
                Step::Zero { len } => len,
                Step::Unallocated { len } => match self.backing() {
                    Some(node) if node.len() > at => {
                        let len = len.min(node.len() - at);
                        let (status, _) = crate::img::status_in_chain(&node, at, len).await?;
                        if !status.zero {
                            return Ok(false);
                        }
                        status.len.max(1)
                    }
                    _ => len,
                },
                _ => return Ok(false),
            };
        }
        Ok(true)
    }

    /// Writes zeros as data.
    async fn write_zero_bytes(&self, offset: u64, len: u64) -> Result<()> {
        let mut at = offset;
        while at < offset + len {
            let n = (offset + len - at).min(1 << 20);
            // Zeros of a backing file are not ours: another one may take its place.
            if self.backing().is_some() || !self.is_zero(at..at + n).await? {
                self.write_any(at, IoBuf::zeroed(n as usize)).await?;
            }
            at += n;
        }
        Ok(())
    }

    pub(super) async fn zero_any(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.begin().await?;
        let shape = &self.shape;
        if shape.version < 3 || shape.data_file {
            return self.write_zero_bytes(offset, len).await;
        }
        let sub = shape.sub();
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let span_end = (at - at % shape.l2_span() + shape.l2_span()).min(end);
            // What lies behind the end of the disk in its last subcluster does not matter.
            let last = span_end == self.len();
            let stop = if last { span_end.next_multiple_of(sub) } else { span_end };
            let whole_end = stop - stop % sub;
            if !at.is_multiple_of(sub) || whole_end <= at {
                let n = (sub - at % sub).min(end - at);
                let whole = at - at % sub..at - at % sub + sub;
                let own = self.own(whole.start, sub).await;
                let marks =
                    !matches!(self.look_up(at, n).await?, Step::Data { .. } | Step::Packed { .. })
                        && self.is_zero(whole.start..at).await?
                        && self.is_zero(at + n..whole.end).await?;
                if marks {
                    // All of it reads as zeros then.
                    self.mark_zero_owned(whole, unmap).await?;
                } else {
                    drop(own);
                    self.write_any(at, IoBuf::zeroed(n as usize)).await?;
                }
                at += n;
                continue;
            }
            if !self.mark_zero(at..whole_end, unmap).await? {
                let stop = whole_end.min(self.len());
                self.write_zero_bytes(at, stop - at).await?;
            }
            at = whole_end.min(end);
        }
        self.relieve().await
    }

    /// Marks subclusters in one table's span as zeros. Does nothing and gives false where only
    /// data can do it: in a part of a compressed cluster.
    async fn mark_zero(&self, range: Range<u64>, unmap: bool) -> Result<bool> {
        let _own = self.own(range.start, range.end - range.start).await;
        self.mark_zero_owned(range, unmap).await
    }

    /// The same for a range that nobody else changes.
    async fn mark_zero_owned(&self, range: Range<u64>, unmap: bool) -> Result<bool> {
        let shape = &self.shape;
        self.with_l2(range.start, |meta, table| {
            let mut at = range.start;
            for edge in [range.start, range.end - 1] {
                let first = shape.down(edge);
                let whole = range.start <= first && first + shape.cluster() <= range.end;
                if !whole && self.load_entry(meta, table, edge).is_compressed() {
                    return Ok(false);
                }
            }
            while at < range.end {
                let next = (shape.down(at) + shape.cluster()).min(range.end);
                let old = self.load_entry(meta, table, at);
                let whole = next - at == shape.cluster();
                if whole {
                    let keep = old.host(shape).is_some() && old.copied() && !unmap;
                    let mut new = Entry { word: if keep { old.word } else { 0 }, bitmap: 0 };
                    if shape.extended() {
                        new.bitmap = u64::MAX << 32;
                    } else {
                        new.word |= ZERO;
                    }
                    if new != old {
                        self.store_entry(meta, table, at, new);
                        if !keep {
                            self.free_entry(meta, old);
                        }
                    }
                } else {
                    let first = (at & (shape.cluster() - 1)) / shape.sub();
                    let count = (next - at) / shape.sub();
                    let mask = (u64::MAX >> (64 - count)) << first;
                    let bitmap = old.bitmap & !mask | mask << 32;
                    self.store_entry(meta, table, at, Entry { bitmap, ..old });
                }
                at = next;
            }
            Ok(true)
        })
        .await
    }

    /// Gives every cluster of a range a place, without writing its data.
    pub(crate) async fn preallocate(&self, from: u64, to: u64, how: Preallocation) -> Result<()> {
        if how == Preallocation::Off {
            return Ok(());
        }
        self.begin().await?;
        let shape = &self.shape;
        let node = self.data()?;
        let mut at = shape.down(from);
        let end = shape.up(to);
        let kept = self.backing().is_some_and(|node| node.len() > at);
        if at < from && (kept || how != Preallocation::Metadata) {
            // The first cluster keeps what the backing file has of it, and gets storage.
            let stop = (at + shape.cluster()).min(self.len());
            self.write_any(from, IoBuf::zeroed((stop - from) as usize)).await?;
        }
        while at < end {
            let stop = (at - at % shape.l2_span() + shape.l2_span()).min(end);
            let _own = self.own(at, stop - at).await;
            // Clusters without a place: nothing, or a mark that goes.
            let homeless = |entry: Entry| {
                !entry.is_compressed()
                    && entry.host(shape).is_none()
                    && (entry.word & !ZERO, entry.bitmap as u32) == (0, 0)
            };
            let guests = |from: u64| (from..stop).step_by(shape.cluster() as usize);
            let (skip, want) = self
                .with_l2(at, |meta, table| {
                    let mut has = |guest: &u64| !homeless(self.load_entry(meta, table, *guest));
                    let skip = guests(at).take_while(|guest| has(guest)).count() as u64;
                    let from = at + skip * shape.cluster();
                    Ok((skip, guests(from).take_while(|guest| !has(guest)).count() as u64))
                })
                .await?;
            at += skip * shape.cluster();
            if want == 0 {
                continue;
            }
            let (host, count) = if shape.data_file { (at, want) } else { self.alloc(want).await? };
            self.with_l2(at, |meta, table| {
                for i in 0..count {
                    let guest = at + i * shape.cluster();
                    let old = self.load_entry(meta, table, guest);
                    // What lies in the new place is not known unless it is written.
                    let mark = if how == Preallocation::Metadata { old.word & ZERO } else { 0 };
                    let word = (host + i * shape.cluster()) | COPIED | mark;
                    self.store_entry(meta, table, guest, Entry { word, ..old });
                }
                Ok(())
            })
            .await?;
            let host_end = host + count * shape.cluster();
            if how != Preallocation::Metadata {
                node.write_zeroes(host, host_end - host, false).await?;
            } else if node.len() < host_end {
                node.truncate(host_end).await?;
            }
            at += count * shape.cluster();
            self.relieve().await?;
        }
        Ok(())
    }

    pub(super) async fn discard_any(&self, offset: u64, len: u64) -> Result<()> {
        self.begin().await?;
        let shape = &self.shape;
        if shape.data_file || (shape.version < 3 && self.backing().is_some()) {
            return Ok(());
        }
        let end = offset + len;
        let end = if end == self.len() { shape.up(end) } else { shape.down(end) };
        let mut at = shape.up(offset);
        while at < end {
            let stop = (at - at % shape.l2_span() + shape.l2_span()).min(end);
            if lock(&self.meta).l1[shape.l1_index(at) as usize] != 0 {
                let _own = self.own(at, stop - at).await;
                self.with_l2(at, |meta, table| {
                    for guest in (at..stop).step_by(shape.cluster() as usize) {
                        let old = self.load_entry(meta, table, guest);
                        if old.is_compressed() || old.host(shape).is_some() {
                            let zero = if shape.version < 3 || shape.extended() { 0 } else { ZERO };
                            let bitmap = if shape.extended() { u64::MAX << 32 } else { 0 };
                            self.store_entry(meta, table, guest, Entry { word: zero, bitmap });
                            self.free_entry(meta, old);
                        }
                    }
                    Ok(())
                })
                .await?;
            }
            at = stop;
        }
        self.relieve().await
    }
}
