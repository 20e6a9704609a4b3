//! The server's side of the transmission.

use super::negotiate::{Meta, Session};
use super::proto::*;
use crate::backend::Request;
use crate::host::ByteStream;
use crate::sync::{Notify, RangeLock, lock};
use crate::{BlockError, Context, IoBuf, Result};
use std::sync::{Arc, Mutex};

/// What one connection may have in progress.
const MAX_REQUESTS: usize = 128;
const MAX_IN_PROGRESS: u64 = 64 << 20;
/// Most extents in a reply.
const MAX_EXTENTS: usize = 1 << 17;

/// A request off the wire.
#[derive(Clone, Copy, Debug)]
struct Header {
    flags: Flags,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u64,
}

struct Connection {
    session: Session,
    stream: Arc<dyn ByteStream>,
    /// One reply at a time.
    turn: Arc<RangeLock>,
    /// Requests and bytes in progress.
    load: Mutex<(usize, u64)>,
    changed: Notify,
}

/// Serves a client until it leaves.
pub(super) async fn transmit(
    session: Session,
    stream: &Arc<dyn ByteStream>,
    context: &Context,
) -> Result<()> {
    let this = Arc::new(Connection {
        session,
        stream: stream.clone(),
        turn: Arc::default(),
        load: Mutex::default(),
        changed: Notify::default(),
    });
    let result = loop {
        match this.next().await {
            Ok(Some((header, payload))) => {
                if this.quick(header).await? {
                    continue;
                }
                let bytes = if header.command == command::READ { header.len } else { 0 };
                this.enter(bytes + payload.len() as u64).await;
                let task = this.clone();
                context.executor().spawn(async move {
                    let size = bytes + payload.len() as u64;
                    if task.serve(header, payload).await.is_err() {
                        task.stream.shutdown();
                    }
                    task.leave(size);
                });
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // What the client has asked for is carried out even when it does not wait.
    this.changed.until(|| (lock(&this.load).0 == 0).then_some(())).await;
    result
}

impl Connection {
    async fn enter(&self, bytes: u64) {
        let room = || {
            let mut load = lock(&self.load);
            let fits = load.0 < MAX_REQUESTS && (load.0 == 0 || load.1 + bytes <= MAX_IN_PROGRESS);
            fits.then(|| *load = (load.0 + 1, load.1 + bytes))
        };
        self.changed.until(room).await;
    }

    fn leave(&self, bytes: u64) {
        {
            let mut load = lock(&self.load);
            *load = (load.0 - 1, load.1 - bytes);
        }
        self.changed.notify();
    }

    /// The next request with its payload; `None` when the client says goodbye.
    async fn next(&self) -> Result<Option<(Header, IoBuf)>> {
        let extended = self.session.extended;
        let head = recv(&*self.stream, if extended { 32 } else { 28 }).await?;
        let mut head = Unpack(&head);
        let wanted = if extended { REQUEST_EXTENDED } else { REQUEST };
        let parsed = (|| {
            let magic = head.u32()?;
            let (flags, command) = (head.u16()?, head.u16()?);
            let (cookie, offset) = (head.u64()?, head.u64()?);
            let len = if extended { head.u64()? } else { head.u32()?.into() };
            let flags = Flags::from_bits_retain(flags);
            (magic == wanted).then_some(Header { flags, command, cookie, offset, len })
        })();
        let header = parsed.ok_or_else(|| BlockError::Host("not a request".into()))?;
        let payload = match header.command {
            command::DISCONNECT => return Ok(None),
            command::WRITE => header.len,
            command::BLOCK_STATUS if extended && header.flags.contains(Flags::PAYLOAD) => {
                header.len
            }
            _ if extended && header.flags.contains(Flags::PAYLOAD) => header.len,
            _ => 0,
        };
        if payload > MAX_DATA {
            return Err(BlockError::Host("client sends too much at a time".into()));
        }
        Ok(Some((header, recv(&*self.stream, payload as usize).await?)))
    }

    /// Answers a read whose data is at hand; true when that was it.
    async fn quick(&self, header: Header) -> Result<bool> {
        if header.command != command::READ || self.check(&header).is_err() || header.len == 0 {
            return Ok(false);
        }
        let export = &self.session.export;
        if export.part(header.offset, header.len) < header.len {
            return Ok(false);
        }
        let offset = export.options.window.0 + header.offset;
        let buf = IoBuf::zeroed(header.len as usize);
        let mut ticket = export.backend.submit(Request::Read { offset, buf });
        match ticket.take() {
            Some(result) => self.answer_read(header, result).await.map(|()| true),
            None => {
                let result = ticket.await;
                self.answer_read(header, result).await.map(|()| true)
            }
        }
    }

    fn check(&self, header: &Header) -> Result<()> {
        let invalid = |text: &str| Err(BlockError::Invalid(text.into()));
        let export = &self.session.export;
        let known = match header.command {
            command::READ if self.session.structured => Flags::DF,
            command::READ => Flags::empty(),
            command::WRITE => Flags::FUA,
            command::WRITE_ZEROES => Flags::FUA | Flags::NO_HOLE | Flags::FAST_ZERO,
            command::TRIM => Flags::FUA,
            command::BLOCK_STATUS => Flags::REQ_ONE | Flags::PAYLOAD,
            _ => Flags::empty(),
        };
        let payload = self.session.extended && header.command == command::WRITE;
        let known = if payload { known | Flags::PAYLOAD } else { known };
        // Some clients set FUA where it means nothing.
        if !(header.flags - known - Flags::FUA).is_empty() {
            return invalid("unsupported flags");
        }
        let changes = [command::WRITE, command::WRITE_ZEROES, command::TRIM];
        if changes.contains(&header.command) && !export.options.writable {
            return Err(BlockError::ReadOnly);
        }
        if header.command == command::READ && header.len > MAX_DATA {
            return invalid("request is too large");
        }
        if header.command == command::FLUSH
            || header.command == command::BLOCK_STATUS && header.flags.contains(Flags::PAYLOAD)
        {
            return Ok(());
        }
        if header.offset.checked_add(header.len).is_none_or(|end| end > export.len()) {
            if header.command == command::WRITE || header.command == command::WRITE_ZEROES {
                return Err(BlockError::NoSpace);
            }
            return invalid("operation past EOF");
        }
        Ok(())
    }

    async fn serve(&self, header: Header, payload: IoBuf) -> Result<()> {
        if let Err(error) = self.check(&header) {
            return self.answer(header, Err(error)).await;
        }
        let export = &self.session.export;
        let offset = export.options.window.0 + header.offset;
        let fua = header.flags.contains(Flags::FUA);
        let backend = &export.backend;
        let mut len = header.len;
        let there = export.part(header.offset, len);
        match header.command {
            command::WRITE | command::WRITE_ZEROES if there < len => {
                if let Err(error) = export.grow().await {
                    return self.answer(header, Err(error)).await;
                }
            }
            command::TRIM => len = there,
            _ => {}
        }
        let none = |buf: IoBuf| drop(buf);
        match header.command {
            command::READ => {
                let mut buf = IoBuf::zeroed(len as usize);
                let old = buf.narrow(0..there as usize);
                let result = backend.submit(Request::Read { offset, buf }).await.map(|mut buf| {
                    buf.widen(old);
                    buf
                });
                self.answer_read(header, result).await
            }
            command::WRITE => {
                let request = Request::Write { offset, buf: payload, fua };
                let result = backend.submit(request).await.map(none);
                self.answer(header, result).await
            }
            command::FLUSH => self.answer(header, backend.flush().await).await,
            command::TRIM => {
                let result = backend.submit(Request::Discard { offset, len }).await.map(none);
                self.after(header, fua, result).await
            }
            command::WRITE_ZEROES => {
                let unmap = !header.flags.contains(Flags::NO_HOLE);
                let request = Request::WriteZeroes { offset, len, unmap };
                let result = backend.submit(request).await.map(none);
                self.after(header, fua, result).await
            }
            command::CACHE => self.answer(header, Ok(())).await,
            command::BLOCK_STATUS => self.status(header, &payload).await,
            _ => self.answer(header, Err(BlockError::Invalid("invalid request type".into()))).await,
        }
    }

    async fn after(&self, header: Header, fua: bool, result: Result<()>) -> Result<()> {
        let result = match result {
            Ok(()) if fua => self.session.export.backend.flush().await,
            result => result,
        };
        self.answer(header, result).await
    }

    async fn send(&self, bufs: Vec<IoBuf>) -> Result<()> {
        let _turn = self.turn.acquire_all().await;
        self.stream.send(bufs).await.map(drop)
    }

    /// The head of a chunk.
    fn chunk(&self, header: Header, flags: u16, kind: u16, len: u64) -> Pack {
        let pack = Pack::with(64);
        if self.session.extended {
            let pack = pack.u32(CHUNK_EXTENDED).u16(flags).u16(kind).u64(header.cookie);
            pack.u64(header.offset).u64(len)
        } else {
            pack.u32(CHUNK).u16(flags).u16(kind).u64(header.cookie).u32(len as u32)
        }
    }

    async fn answer(&self, header: Header, result: Result<()>) -> Result<()> {
        let bytes = match result {
            Err(error) if self.session.structured => {
                let text = error.to_string();
                let text = &text.as_bytes()[..text.len().min(MAX_STRING)];
                self.chunk(header, chunk::DONE, chunk::ERROR, 6 + text.len() as u64)
                    .u32(wire_errno(&error))
                    .u16(text.len() as u16)
                    .bytes(text)
            }
            Ok(()) if self.session.extended => self.chunk(header, chunk::DONE, chunk::NONE, 0),
            result => {
                let number = result.err().map_or(0, |error| wire_errno(&error));
                Pack::with(16).u32(SIMPLE_REPLY).u32(number).u64(header.cookie)
            }
        };
        self.send(vec![bytes.0.into()]).await
    }

    async fn answer_read(&self, header: Header, result: Result<IoBuf>) -> Result<()> {
        let data = match result {
            Ok(data) => data,
            Err(error) => return self.answer(header, Err(error)).await,
        };
        let head = if !self.session.structured {
            Pack::with(16).u32(SIMPLE_REPLY).u32(0).u64(header.cookie)
        } else if data.is_empty() {
            self.chunk(header, chunk::DONE, chunk::NONE, 0)
        } else {
            let len = 8 + data.len() as u64;
            self.chunk(header, chunk::DONE, chunk::DATA, len).u64(header.offset)
        };
        self.send(vec![head.0.into(), data]).await
    }

    /// Answers a question about ranges: a chunk for each context.
    async fn status(&self, header: Header, payload: &IoBuf) -> Result<()> {
        let invalid = |text: &str| BlockError::Invalid(text.into());
        let mut wanted: Vec<usize> = (0..self.session.contexts.len()).collect();
        let mut len = header.len;
        if header.flags.contains(Flags::PAYLOAD) {
            let mut payload = Unpack(payload);
            let chosen = (|| {
                let len = payload.u64()?;
                let mut ids = Vec::new();
                while !payload.0.is_empty() {
                    let id = payload.u32()? as usize;
                    (id < wanted.len() && !ids.contains(&id)).then(|| ids.push(id))?;
                }
                Some((len, ids))
            })();
            let Some(chosen) = chosen else {
                return self.answer(header, Err(invalid("malformed payload"))).await;
            };
            (len, wanted) = chosen;
            let end = header.offset.checked_add(len);
            if end.is_none_or(|end| end > self.session.export.len()) {
                return self.answer(header, Err(invalid("operation past EOF"))).await;
            }
        }
        if wanted.is_empty() {
            return self.answer(header, Err(invalid("no contexts are negotiated"))).await;
        }
        if len == 0 {
            return self.answer(header, Err(invalid("need non-zero length"))).await;
        }
        let limit = if header.flags.contains(Flags::REQ_ONE) { 1 } else { MAX_EXTENTS };
        let mut bytes = Vec::new();
        for (i, id) in wanted.iter().enumerate() {
            let extents = self.extents(self.session.contexts[*id], header.offset, len, limit).await;
            let extents = match extents {
                Ok(extents) => {
                    let block = u64::from(self.session.export.options.block);
                    let whole = |n: u64| block > 1 && n.is_multiple_of(block);
                    let allocation = self.session.contexts[*id] == Meta::Allocation;
                    match allocation && whole(header.offset) && whole(len) {
                        true => in_blocks(&extents, block),
                        false => extents,
                    }
                }
                Err(error) => {
                    // Contexts that were described already stay so.
                    self.send(vec![bytes.into()]).await?;
                    return self.answer(header, Err(error)).await;
                }
            };
            let flags = if i + 1 == wanted.len() { chunk::DONE } else { 0 };
            let count = extents.len() as u64;
            let mut part = if self.session.extended {
                self.chunk(header, flags, chunk::STATUS_EXTENDED, 8 + 16 * count)
                    .u32(*id as u32)
                    .u32(count as u32)
            } else {
                self.chunk(header, flags, chunk::STATUS, 4 + 8 * count).u32(*id as u32)
            };
            for (len, state) in extents {
                part = if self.session.extended {
                    part.u64(len).u64(state.into())
                } else {
                    part.u32(len as u32).u32(state)
                };
            }
            bytes.extend(part.0);
        }
        self.send(vec![bytes.into()]).await
    }

    /// Lengths and states from `start` on; at least one, at most `limit`.
    async fn extents(
        &self,
        meta: Meta,
        start: u64,
        len: u64,
        limit: usize,
    ) -> Result<Vec<(u64, u32)>> {
        // A length has 32 bits without extended headers.
        let longest = if self.session.extended { u64::MAX } else { (u32::MAX - 4095).into() };
        let mut out: Vec<(u64, u32)> = Vec::new();
        let export = &self.session.export;
        let window = export.options.window.0;
        let there = export.part(start, len);
        let (mut at, end) = (window + start, window + start + there);
        while at < end {
            let (n, state) = match meta {
                Meta::Bitmap(i) => export.bitmaps[i].with(|bits| {
                    if bits.get(at) {
                        (bits.next_clean(at).unwrap_or(end).min(end) - at, 1)
                    } else {
                        let next = bits.next_dirty(at, 1).map_or(end, |range| range.start);
                        (next.min(end) - at, 0)
                    }
                }),
                Meta::Allocation | Meta::Depth => {
                    let node = export.node().ok_or(BlockError::NoMedium)?;
                    let (status, depth) = node.status_above(None, at, end - at).await?;
                    let state = match meta {
                        Meta::Depth if status.allocated => depth + 1,
                        Meta::Depth => 0,
                        _ => {
                            let hole = if status.data { 0 } else { STATE_HOLE };
                            hole | if status.zero { STATE_ZERO } else { 0 }
                        }
                    };
                    (status.len.min(end - at), state)
                }
            };
            let n = n.max(1);
            let full = out.len() == limit;
            match out.last_mut() {
                Some((len, last)) if *last == state && *len + n <= longest => *len += n,
                _ if full => break,
                _ => out.push((n.min(longest), state)),
            }
            at += n;
        }
        // Behind the end of what is stored.
        let state = if meta == Meta::Allocation { STATE_HOLE | STATE_ZERO } else { 0 };
        let (rest, full) = (len - there, out.len() == limit);
        if rest > 0 && at >= end {
            match out.last_mut() {
                Some((len, last)) if *last == state && *len + rest <= longest => *len += rest,
                _ if full => {}
                _ => out.push((rest, state)),
            }
        }
        Ok(out)
    }
}

/// The same extents in whole blocks: a block that has data in it is data.
fn in_blocks(extents: &[(u64, u32)], block: u64) -> Vec<(u64, u32)> {
    let mut out: Vec<(u64, u32)> = Vec::new();
    let (mut at, mut end) = (0, 0);
    let mut push = |to: u64, state: u32, at: &mut u64| {
        match out.last_mut() {
            Some((len, last)) if *last == state => *len += to - *at,
            _ => out.push((to - *at, state)),
        }
        *at = to;
    };
    for (len, state) in extents {
        end += len;
        if end <= at {
            continue;
        }
        let down = end - end % block;
        if *state == 0 {
            push(end.next_multiple_of(block), 0, &mut at);
        } else if down > at {
            push(down, *state, &mut at);
        }
        if at < end && end - at < block {
            push(at + block, 0, &mut at);
        }
    }
    out
}
