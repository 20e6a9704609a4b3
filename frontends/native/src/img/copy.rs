//! The work of `convert`: what is data, what is not, and moving it.

use super::map::stored;
use super::{Done, Fail, Image, Progress, Session, system_words, warn};
use orrery_block::exec::Executor;
use orrery_block::graph::Node;
use orrery_block::{BlockError, IoBuf};
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

/// Bytes moved at a time.
pub(super) const CHUNK: u64 = 2 << 20;
/// How many of them the reader may be ahead.
const DEPTH: usize = 4;

/// True when there is nothing but zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (lines, rest) = bytes.as_chunks::<64>();
    // Lines are short enough to give up early and long enough for the widest registers.
    lines.iter().all(|line| line.iter().fold(0, |sum, byte| sum | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// What the reader hands on.
enum Work {
    /// A stretch of zeros.
    Zero { at: u64, len: u64 },
    /// Bytes, of which parts may be zeros: whoever writes looks for them, having less to do.
    Data { at: u64, buf: IoBuf },
    /// From here on the sources do not answer at once.
    Wait(u64),
    /// It cannot go on.
    Fail(Fail),
}

/// What the reader needs of a copy.
struct Source {
    exec: Executor,
    nodes: Vec<Arc<Node>>,
    starts: Vec<u64>,
    total: u64,
    has_backing: bool,
    min_sparse: u64,
}

impl Source {
    fn of(copy: &Copy<'_>) -> Self {
        Self {
            exec: copy.session.graph.executor().clone(),
            nodes: copy.sources.iter().map(|image| image.node.clone()).collect(),
            starts: copy.starts.clone(),
            total: copy.total,
            has_backing: copy.has_backing,
            min_sparse: copy.min_sparse,
        }
    }
}

/// Splits a buffer that lies at `at` on the disk into what is zeros and what is not. Zeros count
/// from `min_sparse` bytes on; never when that is none.
fn parts(min_sparse: u64, at: u64, buf: &[u8]) -> Vec<(Range<usize>, bool)> {
    if min_sparse == 0 {
        return vec![(0..buf.len(), false)];
    }
    let grain = min_sparse.max(512) as usize;
    let next =
        |from: usize| (from + grain - ((at % grain as u64) as usize + from) % grain).min(buf.len());
    let mut out: Vec<(Range<usize>, bool)> = Vec::new();
    let mut start = 0;
    while start < buf.len() {
        let end = next(start);
        let zero = is_zero(&buf[start..end]);
        match out.last_mut() {
            Some((last, kind)) if *kind == zero => last.end = end,
            _ => out.push((start..end, zero)),
        }
        start = end;
    }
    out
}

/// The reading half of a copy.
struct Reader {
    copy: Source,
    out: SyncSender<Work>,
    pool: Receiver<IoBuf>,
}

impl Reader {
    fn run(self) {
        let source = &self.copy;
        let mut at = 0;
        while at < source.total {
            let i = source.starts.partition_point(|start| *start <= at) - 1;
            let (node, within) = (&source.nodes[i], at - source.starts[i]);
            let left = node.len().saturating_sub(within);
            let base = if source.has_backing { node.backing() } else { None };
            let look = stored(node, base.as_ref(), within, left);
            let work = match source.exec.run_in_place(look) {
                None => Err(Work::Wait(at)),
                Some(Err(e)) => Err(Work::Fail(Fail::new(format!(
                    "error while reading block status at offset {at}: {}",
                    system_words(&e)
                )))),
                Some(Ok(found)) => Ok(found.status),
            };
            let status = match work {
                Ok(status) => status,
                Err(work) => return drop(self.out.send(work)),
            };
            let len = status.len.min(source.total - at);
            let below = source.has_backing && base.is_some() && !status.allocated;
            let zero = status.zero || !status.allocated && !status.data;
            if below {
                at += len;
            } else if zero && source.min_sparse != 0 {
                if self.out.send(Work::Zero { at, len }).is_err() {
                    return;
                }
                at += len;
            } else {
                match self.data(node, within, at, len) {
                    Ok(()) => at += len,
                    Err(Some(work)) => return drop(self.out.send(work)),
                    Err(None) => return,
                }
            }
        }
    }

    /// Reads a stretch and hands it on; an error when it cannot, `None` when nobody listens.
    fn data(&self, node: &Node, within: u64, at: u64, len: u64) -> Result<(), Option<Work>> {
        let mut done = 0;
        while done < len {
            let place = at + done;
            let n = (CHUNK - place % CHUNK).min(len - done);
            let mut buf = self.pool.try_recv().unwrap_or_default();
            if buf.len() as u64 != n {
                buf = IoBuf::zeroed(n as usize);
            }
            let buf = match self.copy.exec.run_in_place(node.read(within + done, buf)) {
                None => return Err(Some(Work::Wait(place))),
                Some(Err(e)) => {
                    return Err(Some(Work::Fail(Fail::new(format!(
                        "error while reading at byte {place}: {}",
                        system_words(&e)
                    )))));
                }
                Some(Ok(buf)) => buf,
            };
            self.out.send(Work::Data { at: place, buf }).map_err(|_| None)?;
            done += n;
        }
        Ok(())
    }
}

/// One stretch of the sources.
enum Piece {
    Data,
    Zero,
    Below,
}

/// A copy of one or more images, in the order of the disk.
pub(super) struct Copy<'a> {
    pub(super) session: &'a Session,
    pub(super) sources: Vec<Image>,
    pub(super) starts: Vec<u64>,
    pub(super) total: u64,
    pub(super) target: Image,
    pub(super) has_backing: bool,
    pub(super) zero_init: bool,
    pub(super) compress: Option<u64>,
    pub(super) min_sparse: u64,
    pub(super) salvage: bool,
    pub(super) quiet: bool,
}

impl Copy<'_> {
    fn source_at(&self, at: u64) -> (&Image, u64) {
        let i = self.starts.partition_point(|start| *start <= at) - 1;
        (&self.sources[i], at - self.starts[i])
    }

    fn piece(&self, at: u64) -> Result<(Piece, u64), Fail> {
        let (image, within) = self.source_at(at);
        let left = image.node.len().saturating_sub(within);
        if left == 0 {
            return Ok((Piece::Zero, 1));
        }
        let base = if self.has_backing { image.node.backing() } else { None };
        let mut len = left;
        let found = loop {
            let found = self.session.run(stored(&image.node, base.as_ref(), within, len));
            // Less may be known where the whole is not.
            match found {
                Err(_) if self.salvage && len > 512 => len = (len / 2).next_multiple_of(512),
                found => break found,
            }
        };
        let s = match found {
            Ok(s) => s.status,
            Err(e) if self.salvage => {
                if !self.quiet {
                    warn(&format!(
                        "qemu-img: warning: error while reading block status at offset {at}: {}",
                        system_words(&e)
                    ));
                }
                return Ok((Piece::Data, len));
            }
            Err(e) => {
                return Err(Fail::new(format!(
                    "error while reading block status at offset {at}: {}",
                    system_words(&e)
                )));
            }
        };
        if self.has_backing && base.is_some() && !s.allocated {
            return Ok((Piece::Below, s.len));
        }
        let zero = s.zero || !s.allocated && !s.data;
        Ok((if zero { Piece::Zero } else { Piece::Data }, s.len))
    }

    /// Reads a piece, in sectors where single ones are damaged and that is borne.
    fn read(&self, at: u64, len: u64) -> Result<IoBuf, Fail> {
        self.read_into(at, len, IoBuf::default())
    }

    /// The same, to memory that was used before, where it fits.
    fn read_into(&self, at: u64, len: u64, mut buf: IoBuf) -> Result<IoBuf, Fail> {
        let (image, within) = self.source_at(at);
        if buf.len() as u64 != len {
            buf = IoBuf::zeroed(len as usize);
        }
        match self.session.run(image.node.read(within, buf)) {
            Ok(buf) => Ok(buf),
            Err(_) if self.salvage => {
                let mut out = IoBuf::zeroed(len as usize);
                for (i, part) in out.chunks_mut(512).enumerate() {
                    let sector = within + i as u64 * 512;
                    match self.session.run(image.node.read(sector, IoBuf::zeroed(part.len()))) {
                        Ok(buf) => part.copy_from_slice(&buf),
                        Err(e) if !self.quiet => warn(&format!(
                            "qemu-img: warning: error while reading offset {}: {}",
                            at + i as u64 * 512,
                            system_words(&e)
                        )),
                        Err(_) => {}
                    }
                }
                Ok(out)
            }
            Err(e) => {
                Err(Fail::new(format!("error while reading at byte {at}: {}", system_words(&e))))
            }
        }
    }

    fn write_error(at: u64, e: &BlockError) -> Fail {
        Fail::new(format!("error while writing at byte {at}: {}", system_words(e)))
    }

    fn zero(&self, at: u64, len: u64) -> Done {
        if self.zero_init {
            return Ok(());
        }
        self.session
            .run(self.target.node.write_zeroes(at, len, true))
            .map_err(|e| Self::write_error(at, &e))
    }

    /// Writes what is not zero, and gives the memory back.
    fn write(&self, at: u64, mut buf: IoBuf) -> Result<IoBuf, Fail> {
        for (range, zero) in parts(self.min_sparse, at, &buf) {
            let place = at + range.start as u64;
            if zero {
                self.zero(place, range.len() as u64)?;
                continue;
            }
            let whole = buf.narrow(range);
            let write = self.target.node.write(place, buf);
            buf = self.session.run(write).map_err(|e| Self::write_error(place, &e))?;
            buf.widen(whole);
        }
        Ok(buf)
    }

    /// Packs clusters on all cores and stores them in order.
    fn write_compressed(&self, at: u64, buf: &[u8], cluster: u64) -> Done {
        let handle = self.target.handle.as_ref();
        let packer = handle.and_then(|handle| handle.packer());
        let mut parts: Vec<(u64, &[u8])> = Vec::new();
        for (i, part) in buf.chunks(cluster as usize).enumerate() {
            let place = at + i as u64 * cluster;
            if self.min_sparse != 0 && is_zero(part) {
                self.zero(place, part.len() as u64)?;
            } else {
                parts.push((place, part));
            }
        }
        let (Some(packer), Some(handle)) = (packer, handle) else {
            for (place, part) in parts {
                let write = self.target.node.write_compressed(place, IoBuf::from(part));
                self.session.run(write).map_err(|e| Self::write_error(place, &e))?;
            }
            return Ok(());
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = parts.len().div_ceil(cores).max(1);
        let packed: Vec<Option<Vec<u8>>> = std::thread::scope(|scope| {
            let work: Vec<_> = parts
                .chunks(share)
                .map(|parts| {
                    let packer = &packer;
                    scope.spawn(move || {
                        let pack = |(_, part): &(u64, &[u8])| {
                            let mut whole = part.to_vec();
                            whole.resize(cluster as usize, 0);
                            packer(&whole)
                        };
                        parts.iter().map(pack).collect::<Vec<_>>()
                    })
                })
                .collect();
            work.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        for ((place, part), packed) in parts.into_iter().zip(packed) {
            let result = match packed {
                Some(packed) => self.session.run(handle.store_packed(place, packed)),
                None => {
                    self.session.run(self.target.node.write(place, IoBuf::from(part))).map(drop)
                }
            };
            result.map_err(|e| Self::write_error(place, &e))?;
        }
        Ok(())
    }

    /// Bytes of data to copy.
    fn data(&self) -> Result<u64, Fail> {
        let (mut at, mut sum) = (0, 0);
        while at < self.total {
            let (piece, len) = self.piece(at)?;
            let len = len.min(self.total - at);
            sum += if matches!(piece, Piece::Data) { len } else { 0 };
            at += len;
        }
        Ok(sum)
    }

    pub(super) fn run(&self, progress: &mut Progress) -> Done {
        if self.compress.is_none() && !self.salvage {
            return self.run_threads(progress);
        }
        self.run_from(0, progress)
    }

    /// One thread reads, this one looks for zeros and writes.
    fn run_threads(&self, progress: &mut Progress) -> Done {
        let all = if progress.is_on() { self.data()? } else { 0 };
        let (out, work) = sync_channel(DEPTH);
        let (back, pool) = channel();
        let reader = Reader { copy: Source::of(self), out, pool };
        let mut done = 0;
        let rest = std::thread::scope(|scope| {
            scope.spawn(move || reader.run());
            for work in work {
                match work {
                    Work::Zero { at, len } => self.zero(at, len)?,
                    Work::Data { at, buf } => {
                        let buf = self.write(at, buf)?;
                        done += buf.len() as u64;
                        progress.show(done, all);
                        // The reader may be done already.
                        let _ = back.send(buf);
                    }
                    // This one can wait for what it reads.
                    Work::Wait(at) => return Ok(Some(at)),
                    Work::Fail(fail) => return Err(fail),
                }
            }
            Ok(None)
        })?;
        match rest {
            Some(at) => self.run_from(at, progress),
            None => Ok(()),
        }
    }

    fn run_from(&self, start: u64, progress: &mut Progress) -> Done {
        let unit = self.compress.map_or(CHUNK, |cluster| CHUNK.max(cluster) * 4);
        let (mut at, mut done) = (start, start);
        // Memory that is used again is not made anew by the host, page after page.
        let mut spare = IoBuf::default();
        let all = if progress.is_on() || self.salvage { self.data()? } else { 0 };
        while at < self.total {
            let (piece, len) = self.piece(at)?;
            let mut len = len.min(self.total - at);
            let counts = matches!(piece, Piece::Data);
            match (piece, self.compress) {
                (Piece::Below, None) => {}
                (Piece::Zero, None) if self.min_sparse != 0 => self.zero(at, len)?,
                (Piece::Data | Piece::Zero, None) => {
                    len = len.min(unit - at % unit);
                    let buf = self.read_into(at, len, std::mem::take(&mut spare))?;
                    spare = self.write(at, buf)?;
                }
                (piece, Some(cluster)) => {
                    let whole = len / cluster * cluster;
                    if !matches!(piece, Piece::Data)
                        && (self.min_sparse != 0 || matches!(piece, Piece::Below))
                        && at.is_multiple_of(cluster)
                        && (whole > 0 || at + len == self.total)
                    {
                        if whole > 0 {
                            len = whole;
                        }
                        if matches!(piece, Piece::Zero) {
                            self.zero(at, len)?;
                        }
                    } else {
                        // Whole clusters, whatever they are made of.
                        let end = (at + len)
                            .next_multiple_of(cluster)
                            .min(at - at % unit + unit)
                            .min(self.total);
                        let mut buf = Vec::with_capacity((end - at) as usize);
                        while at + (buf.len() as u64) < end {
                            let from = at + buf.len() as u64;
                            let (image, within) = self.source_at(from);
                            let n = (end - from).min(image.node.len() - within);
                            buf.extend_from_slice(&self.read(from, n)?);
                        }
                        len = buf.len() as u64;
                        self.write_compressed(at, &buf, cluster)?;
                    }
                }
            }
            at += len;
            if counts {
                done += len;
                progress.show(done, all);
            }
        }
        Ok(())
    }
}
