//! Files in memory: for tests, for small media, and as the model of what a host file does.

use super::{BlockFile, Extent, HostFs};
use crate::op::completion;
use crate::sync::lock;
use crate::{BlockError, Completion, IoBuf, Op};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

const PAGE: u64 = 4096;

/// A sparse file in memory. Every operation finishes in place.
#[derive(Default)]
pub struct MemFile {
    inner: Mutex<Inner>,
    read_only: bool,
    limit: Option<u64>,
}

#[derive(Default, Clone)]
struct Inner {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl MemFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file of `len` zeros, which take no memory.
    pub fn with_len(len: u64) -> Self {
        Self { inner: Mutex::new(Inner { len, pages: BTreeMap::new() }), ..Self::default() }
    }

    /// A file with this content.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let file = Self::new();
        lock(&file.inner).write(0, bytes);
        file
    }

    /// The same, but writes are refused.
    pub fn read_only(bytes: &[u8]) -> Self {
        Self { read_only: true, ..Self::from_bytes(bytes) }
    }

    /// Refuses to grow beyond `limit` bytes with "no space".
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The whole content. Meant for files that fit in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let inner = lock(&self.inner);
        let mut out = vec![0; usize::try_from(inner.len).expect("fits in memory")];
        inner.read(0, &mut out);
        out
    }

    /// A copy that lives on its own.
    pub fn fork(&self) -> Self {
        let inner = Mutex::new(lock(&self.inner).clone());
        Self { inner, read_only: self.read_only, limit: self.limit }
    }

    fn check_write(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        match offset.checked_add(len) {
            None => Err(BlockError::OutOfRange { offset, len }),
            Some(end) if self.limit.is_some_and(|limit| end > limit) => Err(BlockError::NoSpace),
            Some(_) => Ok(()),
        }
    }
}

/// Splits a range at page boundaries: (page number, offset in page, offset in buffer, length).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset.wrapping_add(done as u64);
        let within = (at % PAGE) as usize;
        let n = (PAGE as usize - within).min(len - done);
        let piece = (at / PAGE, within, done, n);
        done += n;
        Some(piece)
    })
}

impl Inner {
    fn read(&self, offset: u64, buf: &mut [u8]) {
        for (page, within, at, n) in pieces(offset, buf.len()) {
            match self.pages.get(&page) {
                Some(bytes) => buf[at..at + n].copy_from_slice(&bytes[within..within + n]),
                None => buf[at..at + n].fill(0),
            }
        }
    }

    fn write(&mut self, offset: u64, buf: &[u8]) {
        for (page, within, at, n) in pieces(offset, buf.len()) {
            let bytes = self.pages.entry(page).or_insert_with(|| vec![0; PAGE as usize].into());
            bytes[within..within + n].copy_from_slice(&buf[at..at + n]);
        }
        self.len = self.len.max(offset + buf.len() as u64);
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        let (first, last) = (offset / PAGE, (end - 1) / PAGE);
        let touched: Vec<u64> = self.pages.range(first..=last).map(|(page, _)| *page).collect();
        for page in touched {
            let start = (page * PAGE).max(offset);
            let stop = ((page + 1) * PAGE).min(end);
            if stop - start == PAGE {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                bytes[(start - page * PAGE) as usize..(stop - page * PAGE) as usize].fill(0);
            }
        }
    }
}

impl BlockFile for MemFile {
    fn len(&self) -> u64 {
        lock(&self.inner).len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        lock(&self.inner).read(offset, &mut buf);
        Op::ok(buf)
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if let Err(error) = self.check_write(offset, buf.len() as u64) {
            return Op::err(error);
        }
        lock(&self.inner).write(offset, &buf);
        Op::ok(buf)
    }

    fn flush(&self) -> Op<()> {
        Op::ok(())
    }

    fn set_len(&self, len: u64) -> Op<()> {
        if let Err(error) = self.check_write(len, 0) {
            return Op::err(error);
        }
        let mut inner = lock(&self.inner);
        if len < inner.len {
            let old = inner.len;
            inner.zero(len, old - len);
        }
        inner.len = len;
        Op::ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        if let Err(error) = self.check_write(offset, 0) {
            return Op::err(error);
        }
        lock(&self.inner).zero(offset, len);
        Op::ok(())
    }

    fn extent(&self, offset: u64, len: u64) -> Extent {
        let inner = lock(&self.inner);
        let data = inner.pages.contains_key(&(offset / PAGE));
        let end = offset.saturating_add(len);
        let boundary = |page: u64| (page.saturating_mul(PAGE)).clamp(offset, end);
        let mut next = offset / PAGE;
        if data {
            while boundary(next) < end && inner.pages.contains_key(&next) {
                next += 1;
            }
        } else {
            next = inner.pages.range(next..).next().map_or(u64::MAX, |(page, _)| *page);
        }
        Extent { len: boundary(next) - offset, data }
    }
}

/// Named files in memory.
#[derive(Default)]
pub struct MemFs(Mutex<BTreeMap<String, Arc<dyn BlockFile>>>);

impl MemFs {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a file under a name.
    pub fn add(&self, name: &str, file: Arc<dyn BlockFile>) {
        lock(&self.0).insert(name.to_owned(), file);
    }
}

impl HostFs for MemFs {
    fn open(&self, name: &str, _write: bool) -> Op<Arc<dyn BlockFile>> {
        match lock(&self.0).get(name) {
            Some(file) => Op::ok(file.clone()),
            None => Op::err(BlockError::NotFound(name.to_owned())),
        }
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        let file: Arc<dyn BlockFile> = Arc::new(MemFile::new());
        lock(&self.0).insert(name.to_owned(), file.clone());
        Op::ok(file)
    }
}

/// A file that finishes an operation only when told to: what a promise or a slow disk looks
/// like to a device under test.
pub struct HeldFile {
    file: MemFile,
    held: Mutex<VecDeque<Held>>,
    hold: Mutex<bool>,
}

enum Held {
    Read(u64, IoBuf, Completion<IoBuf>),
    Write(u64, IoBuf, Completion<IoBuf>),
    Flush(Completion<()>),
}

impl HeldFile {
    /// Holds back every operation on `file`.
    pub fn new(file: MemFile) -> Self {
        Self { file, held: Mutex::default(), hold: Mutex::new(true) }
    }

    /// Number of operations held.
    pub fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// Carries out the oldest held operation; false when there is none.
    pub fn release_one(&self) -> bool {
        self.finish_at(0, None)
    }

    /// Carries out the held operation at `index`, out of order; false when there is none.
    pub fn release(&self, index: usize) -> bool {
        self.finish_at(index, None)
    }

    /// Carries out everything held, and what that leads to nothing further.
    pub fn release_all(&self) {
        while self.release_one() {}
    }

    /// Fails the oldest held operation.
    pub fn fail_one(&self, error: BlockError) -> bool {
        self.finish_at(0, Some(error))
    }

    /// Chooses whether new operations are held.
    pub fn set_hold(&self, hold: bool) {
        *lock(&self.hold) = hold;
    }

    /// What is stored.
    pub fn file(&self) -> &MemFile {
        &self.file
    }

    fn finish_at(&self, index: usize, error: Option<BlockError>) -> bool {
        let Some(held) = lock(&self.held).remove(index) else { return false };
        let now = |op: Op<IoBuf>| match op {
            Op::Done(Some(result)) => result,
            _ => Err(BlockError::Cancelled),
        };
        match (held, error) {
            (Held::Read(_, _, done) | Held::Write(_, _, done), Some(error)) => {
                done.finish(Err(error));
            }
            (Held::Flush(done), Some(error)) => done.finish(Err(error)),
            (Held::Read(at, buf, done), None) => done.finish(now(self.file.read_at(at, buf))),
            (Held::Write(at, buf, done), None) => done.finish(now(self.file.write_at(at, buf))),
            (Held::Flush(done), None) => done.finish(Ok(())),
        }
        true
    }
}

impl BlockFile for HeldFile {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if !*lock(&self.hold) {
            return self.file.read_at(offset, buf);
        }
        let (done, op) = completion();
        lock(&self.held).push_back(Held::Read(offset, buf, done));
        op
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if !*lock(&self.hold) {
            return self.file.write_at(offset, buf);
        }
        let (done, op) = completion();
        lock(&self.held).push_back(Held::Write(offset, buf, done));
        op
    }

    fn flush(&self) -> Op<()> {
        if !*lock(&self.hold) {
            return self.file.flush();
        }
        let (done, op) = completion();
        lock(&self.held).push_back(Held::Flush(done));
        op
    }

    fn set_len(&self, len: u64) -> Op<()> {
        self.file.set_len(len)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        self.file.punch_hole(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Executor;

    fn read(file: &dyn BlockFile, offset: u64, len: usize) -> Vec<u8> {
        Executor::new()
            .run_in_place(file.read_at(offset, IoBuf::zeroed(len)))
            .unwrap()
            .unwrap()
            .into_vec()
    }

    #[test]
    fn a_memory_file_grows_has_holes_and_reads_zeros_past_its_end() {
        let file = MemFile::new();
        Executor::new().run_in_place(file.write_at(10_000, vec![7; 3].into())).unwrap().unwrap();
        assert_eq!(file.len(), 10_003);
        assert_eq!(read(&file, 9_999, 6), [0, 7, 7, 7, 0, 0]);
        assert_eq!(file.extent(0, 10_003), Extent { len: 8192, data: false });
        assert_eq!(file.extent(8192, 1811), Extent { len: 1811, data: true });
        Executor::new().run_in_place(file.set_len(10_001)).unwrap().unwrap();
        Executor::new().run_in_place(file.set_len(10_003)).unwrap().unwrap();
        assert_eq!(read(&file, 9_999, 6), [0, 7, 0, 0, 0, 0]);
    }

    #[test]
    fn a_full_or_read_only_file_says_so_and_is_unchanged() {
        let exec = Executor::new();
        let full = MemFile::new().with_limit(8);
        assert_eq!(
            exec.run_in_place(full.write_at(4, vec![1; 8].into())),
            Some(Err(BlockError::NoSpace))
        );
        assert_eq!(full.len(), 0);
        let fixed = MemFile::read_only(b"abc");
        assert_eq!(
            exec.run_in_place(fixed.write_at(0, vec![1].into())),
            Some(Err(BlockError::ReadOnly))
        );
        assert_eq!(fixed.to_vec(), b"abc");
    }
}
