//! One connection: requests out, replies in.

use super::handshake::Agreed;
use crate::host::ByteStream;
use crate::nbd::proto::*;
use crate::op::completion;
use crate::sync::{RangeLock, lock};
use crate::{BlockError, Completion, Context, IoBuf, Op, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What a request brought, besides data.
#[derive(Debug)]
pub(super) enum Reply {
    Nothing,
    Extents(Vec<(u64, u32)>),
}

type Finished = (Result<Reply>, Option<IoBuf>);

/// A request that waits for its answer.
struct Waiting {
    command: u16,
    offset: u64,
    len: u64,
    /// Where data goes.
    buf: Option<IoBuf>,
    /// Bytes of it that are there.
    filled: u64,
    extents: Vec<(u64, u32)>,
    error: Option<BlockError>,
    done: Completion<Finished>,
}

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u64, Waiting>,
    last: u64,
    broken: Option<BlockError>,
}

pub(super) struct Connection {
    stream: Arc<dyn ByteStream>,
    structured: bool,
    extended: bool,
    context: Option<u32>,
    table: Mutex<Table>,
    /// One request goes out at a time.
    turn: Arc<RangeLock>,
}

const MAX_EXTENTS: usize = 1 << 20;

fn rude(text: &str) -> BlockError {
    BlockError::Host(format!("server breaks the protocol: {text}"))
}

impl Connection {
    pub(super) fn start(context: &Context, agreed: Agreed) -> Arc<Self> {
        let this = Arc::new(Self {
            stream: agreed.stream,
            structured: agreed.structured,
            extended: agreed.extended,
            context: agreed.context,
            table: Mutex::default(),
            turn: Arc::default(),
        });
        let weak = Arc::downgrade(&this);
        let stream = this.stream.clone();
        context.executor().spawn(async move {
            loop {
                let head = recv(&*stream, 4).await;
                // Nobody has the connection any more.
                let Some(this) = weak.upgrade() else { break };
                let result = match head {
                    Ok(magic) => this.receive(&magic).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = result {
                    this.fail(&error);
                    break;
                }
            }
        });
        this
    }

    pub(super) fn extended(&self) -> bool {
        self.extended
    }

    pub(super) fn has_context(&self) -> bool {
        self.context.is_some()
    }

    pub(super) fn is_broken(&self) -> bool {
        lock(&self.table).broken.is_some()
    }

    fn fail(&self, error: &BlockError) {
        self.stream.shutdown();
        let waiting = {
            let mut table = lock(&self.table);
            table.broken = Some(error.clone());
            std::mem::take(&mut table.waiting)
        };
        for (_, request) in waiting {
            request.done.finish(Ok((Err(error.clone()), request.buf)));
        }
    }

    /// Leaves in peace, when that is possible at once.
    pub(super) fn say_goodbye(&self) {
        if !self.is_broken() {
            let head = self.head(command::DISCONNECT, Flags::empty(), 0, 0, 0);
            drop(self.stream.send(vec![head.into()]));
        }
        self.stream.shutdown();
    }

    fn head(&self, command: u16, flags: Flags, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
        let magic = if self.extended { REQUEST_EXTENDED } else { REQUEST };
        let head = Pack::with(32).u32(magic).u16(flags.bits()).u16(command).u64(cookie).u64(offset);
        if self.extended { head.u64(len).0 } else { head.u32(len as u32).0 }
    }

    /// Sends a request and waits for its answer. Gives the data of a read, or that of a write
    /// back.
    pub(super) async fn request(
        &self,
        command: u16,
        flags: Flags,
        offset: u64,
        len: u64,
        mut buf: Option<IoBuf>,
    ) -> (Option<IoBuf>, Result<Reply>) {
        let (done, answer) = completion::<Finished>();
        let write = command == command::WRITE;
        let cookie = {
            let mut table = lock(&self.table);
            if let Some(error) = &table.broken {
                return (buf, Err(error.clone()));
            }
            table.last += 1;
            let cookie = table.last;
            let waiting = Waiting {
                command,
                offset,
                len,
                buf: if write { None } else { buf.take() },
                filled: 0,
                extents: Vec::new(),
                error: None,
                done,
            };
            table.waiting.insert(cookie, waiting);
            cookie
        };
        let flags = if write && self.extended { flags | Flags::PAYLOAD } else { flags };
        let mut bufs = vec![self.head(command, flags, cookie, offset, len).into()];
        bufs.extend(buf);
        let sent = {
            let _turn = self.turn.acquire_all().await;
            self.stream.send(bufs).await
        };
        let payload = match sent {
            Ok(mut bufs) if write => bufs.pop(),
            Ok(_) => None,
            Err(error) => {
                self.fail(&error);
                None
            }
        };
        let answer: Op<Finished> = answer;
        match answer.await {
            Ok((result, data)) => (data.or(payload), result),
            Err(error) => (payload, Err(error)),
        }
    }

    /// Takes one reply in.
    async fn receive(&self, magic: &IoBuf) -> Result<()> {
        let stream = &*self.stream;
        match Unpack(magic).u32() {
            Some(SIMPLE_REPLY) if !self.extended => {
                let head = recv(stream, 12).await?;
                let mut head = Unpack(&head);
                let (number, cookie) = (head.u32().unwrap_or(0), head.u64().unwrap_or(0));
                let mut request = self.take(cookie)?;
                if request.command == command::READ {
                    if self.structured {
                        return Err(rude("simple reply to a read"));
                    }
                    if number == 0
                        && let Some(buf) = request.buf.take()
                    {
                        match stream.recv(buf).await {
                            Ok(buf) => request.buf = Some(buf),
                            Err(error) => {
                                // It is not in the table any more.
                                request.done.finish(Ok((Err(error.clone()), None)));
                                return Err(error);
                            }
                        }
                        request.filled = request.len;
                    }
                }
                if number != 0 {
                    request.error = Some(BlockError::Errno(number as i32));
                }
                finish(request);
                Ok(())
            }
            Some(CHUNK) if self.structured && !self.extended => {
                let head = recv(stream, 16).await?;
                let mut head = Unpack(&head);
                let (flags, kind) = (head.u16().unwrap_or(0), head.u16().unwrap_or(0));
                let (cookie, len) = (head.u64().unwrap_or(0), head.u32().unwrap_or(0));
                self.chunk(flags, kind, cookie, len.into()).await
            }
            Some(CHUNK_EXTENDED) if self.extended => {
                let head = recv(stream, 28).await?;
                let mut head = Unpack(&head);
                let (flags, kind) = (head.u16().unwrap_or(0), head.u16().unwrap_or(0));
                let (cookie, _offset) = (head.u64().unwrap_or(0), head.u64());
                self.chunk(flags, kind, cookie, head.u64().unwrap_or(u64::MAX)).await
            }
            _ => Err(rude("not a reply")),
        }
    }

    fn take(&self, cookie: u64) -> Result<Waiting> {
        let request = lock(&self.table).waiting.remove(&cookie);
        request.ok_or_else(|| rude("reply to a request that was not made"))
    }

    async fn chunk(&self, flags: u16, kind: u16, cookie: u64, len: u64) -> Result<()> {
        let mut request = self.take(cookie)?;
        let result = self.chunk_body(&mut request, kind, len).await;
        if let Err(error) = result {
            // The caller breaks the connection; this one is not in the table any more.
            request.done.finish(Ok((Err(error.clone()), request.buf)));
            lock(&self.table).broken = Some(error.clone());
            return Err(error);
        }
        if flags & chunk::DONE != 0 {
            finish(request);
        } else {
            lock(&self.table).waiting.insert(cookie, request);
        }
        Ok(())
    }

    async fn chunk_body(&self, request: &mut Waiting, kind: u16, len: u64) -> Result<()> {
        let stream = &*self.stream;
        if len > MAX_DATA + 64 {
            return Err(rude("reply is too long"));
        }
        let place = |request: &Waiting, offset: u64, n: u64| {
            let at = offset.checked_sub(request.offset);
            let at = at.filter(|at| at.checked_add(n).is_some_and(|end| end <= request.len));
            let at = at.filter(|_| request.command == command::READ && request.buf.is_some());
            at.map(|at| at as usize).ok_or_else(|| rude("data that was not asked for"))
        };
        match kind {
            chunk::NONE if len == 0 => {}
            chunk::DATA if len > 8 => {
                let head = recv(stream, 8).await?;
                let offset = Unpack(&head).u64().unwrap_or(u64::MAX);
                let at = place(request, offset, len - 8)?;
                let mut buf = request.buf.take().unwrap_or_default();
                let old = buf.narrow(at..at + (len - 8) as usize);
                let mut buf = stream.recv(buf).await?;
                buf.widen(old);
                request.buf = Some(buf);
                request.filled += len - 8;
            }
            chunk::HOLE if len == 12 => {
                let body = recv(stream, 12).await?;
                let mut body = Unpack(&body);
                let (offset, n) = (body.u64().unwrap_or(u64::MAX), body.u32().unwrap_or(0));
                let at = place(request, offset, n.into())?;
                if let Some(buf) = &mut request.buf {
                    buf[at..at + n as usize].fill(0);
                }
                request.filled += u64::from(n);
            }
            chunk::STATUS | chunk::STATUS_EXTENDED if len >= 4 => {
                let body = recv(stream, len as usize).await?;
                let mut body = Unpack(&body);
                let id = body.u32();
                if request.command != command::BLOCK_STATUS || id != self.context {
                    return Err(rude("status that was not asked for"));
                }
                if kind == chunk::STATUS_EXTENDED {
                    body.u32().ok_or_else(|| rude("short status"))?;
                    while let (Some(n), Some(state)) = (body.u64(), body.u64()) {
                        request.extents.push((n, state as u32));
                    }
                } else {
                    while let (Some(n), Some(state)) = (body.u32(), body.u32()) {
                        request.extents.push((n.into(), state));
                    }
                }
                if request.extents.is_empty() || request.extents.len() > MAX_EXTENTS {
                    return Err(rude("status without extents"));
                }
            }
            kind if kind & 1 << 15 != 0 => {
                let body = recv(stream, len as usize).await?;
                let number = Unpack(&body).u32().filter(|number| *number != 0);
                let number = number.ok_or_else(|| rude("error without a number"))?;
                request.error.get_or_insert(BlockError::Errno(number as i32));
            }
            _ => return Err(rude("unknown chunk")),
        }
        Ok(())
    }
}

fn finish(request: Waiting) {
    let Waiting { command, len, buf, filled, extents, error, done, .. } = request;
    let result = match error {
        Some(error) => Err(error),
        None if command == command::READ && filled != len => Err(rude("too little data")),
        None if command == command::BLOCK_STATUS => Ok(Reply::Extents(extents)),
        None => Ok(Reply::Nothing),
    };
    done.finish(Ok((result, buf)));
}
