//! The client: a node whose bytes are on a server.
//!
//! One connection at a time. A task reads replies and hands them to whoever waits; when the
//! connection breaks, everybody who waits fails, or tries again on a new one for as long as
//! `reconnect-delay` allows.

mod connection;
mod handshake;

pub use handshake::{ExportInfo, Tls, list};

use super::proto::{Features, Flags, MAX_DATA, STATE_HOLE, STATE_ZERO, command};
use crate::driver::{BlockStatus, Driver};
use crate::graph::Edge;
use crate::host::{Address, HostTls};
use crate::options::NbdOptions;
use crate::sync::{RangeLock, lock};
use crate::{BlockError, Context, IoBuf, Op, Result};
use connection::{Connection, Reply};
use handshake::{Wish, handshake};
use std::cmp::Ordering;
use std::sync::{Arc, Mutex};

/// The driver.
pub(crate) struct NbdClient {
    context: Context,
    address: Address,
    wish: Wish,
    reconnect_ns: u64,
    read_only: bool,
    info: ExportInfo,
    connection: Mutex<Arc<Connection>>,
    /// One attempt to connect again at a time.
    connecting: Arc<RangeLock>,
    /// Writes that are smaller than the server's blocks.
    partial: Arc<RangeLock>,
}

/// How long to wait between two attempts to connect.
const RETRY_NS: u64 = 100_000_000;

impl NbdClient {
    /// Connects and chooses an export.
    pub(crate) async fn open(
        context: &Context,
        options: &NbdOptions,
        tls: Option<Arc<dyn HostTls>>,
        read_only: bool,
        auto_read_only: bool,
    ) -> Result<Arc<Self>> {
        let wish = Wish {
            tls: match tls {
                Some(tls) => Some((tls, tls_name(options)?)),
                None => None,
            },
            export: options.export.clone().unwrap_or_default(),
            context: match &options.x_dirty_bitmap {
                Some(context) => context.clone(),
                None => super::proto::BASE_ALLOCATION.into(),
            },
        };
        let address = options.server.0.clone();
        let deadline = context.now() + u64::from(options.open_timeout.unwrap_or(0)) * 1_000_000_000;
        let (connection, info) = loop {
            match connect(context, &address, &wish).await {
                Ok(made) => break made,
                Err(_) if context.now() < deadline => context.sleep(RETRY_NS).await,
                Err(error) => return Err(error),
            }
        };
        let refused = info.features().contains(Features::READ_ONLY);
        if refused && !read_only && !auto_read_only {
            return Err(BlockError::Invalid(
                "request on write denied without write permission".into(),
            ));
        }
        Ok(Arc::new(Self {
            context: context.clone(),
            address,
            wish,
            reconnect_ns: u64::from(options.reconnect_delay.unwrap_or(0)) * 1_000_000_000,
            read_only: read_only || refused,
            info,
            connection: Mutex::new(connection),
            connecting: Arc::default(),
            partial: Arc::default(),
        }))
    }

    /// A living connection, made anew when `broken` is the one in use.
    async fn connection(
        &self,
        broken: Option<&Arc<Connection>>,
        deadline: u64,
    ) -> Result<Arc<Connection>> {
        let current = lock(&self.connection).clone();
        match broken {
            Some(broken) if Arc::ptr_eq(broken, &current) => {}
            _ => return Ok(current),
        }
        let _turn = self.connecting.acquire_all().await;
        let current = lock(&self.connection).clone();
        if broken.is_some_and(|broken| !Arc::ptr_eq(broken, &current)) {
            return Ok(current);
        }
        loop {
            match connect(&self.context, &self.address, &self.wish).await {
                Ok((_, info)) if info.size < self.info.size => {
                    return Err(BlockError::Host("the export has shrunk".into()));
                }
                Ok((connection, _)) => {
                    *lock(&self.connection) = connection.clone();
                    return Ok(connection);
                }
                Err(error) if !self.context.has_clock() || self.context.now() >= deadline => {
                    return Err(error);
                }
                Err(_) => self.context.sleep(RETRY_NS).await,
            }
        }
    }

    /// Sends a request and waits for the answer, on as many connections as it takes.
    async fn request(
        &self,
        command: u16,
        flags: Flags,
        offset: u64,
        len: u64,
        mut payload: Option<IoBuf>,
    ) -> Result<(Reply, Option<IoBuf>)> {
        let mut broken: Option<Arc<Connection>> = None;
        let mut deadline = 0;
        loop {
            let connection = self.connection(broken.as_ref(), deadline).await?;
            let (back, result) =
                connection.request(command, flags, offset, len, payload.take()).await;
            payload = back;
            match result {
                Err(error) if connection.is_broken() => {
                    if self.reconnect_ns == 0 {
                        return Err(error);
                    }
                    deadline = self.context.now() + self.reconnect_ns;
                    broken = Some(connection);
                }
                result => return Ok((result?, payload)),
            }
        }
    }

    fn max(&self) -> u64 {
        let max = u64::from(self.info.max_block);
        let max = if max == 0 { MAX_DATA } else { max.min(MAX_DATA) };
        max - max % self.block()
    }

    fn block(&self) -> u64 {
        u64::from(self.info.min_block.max(1))
    }

    async fn read_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let (block, len) = (self.block(), buf.len() as u64);
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            let start = offset - offset % block;
            let end = (offset + len).next_multiple_of(block);
            let wide =
                Box::pin(self.read_any(start, IoBuf::zeroed((end - start) as usize))).await?;
            let at = (offset - start) as usize;
            buf.copy_from_slice(&wide[at..at + len as usize]);
            return Ok(buf);
        }
        let mut done = 0;
        while done < len {
            let n = (len - done).min(self.max());
            let at = offset + done;
            // Behind the end of the export there are zeros.
            let there = self.info.size.saturating_sub(at).min(n);
            if there == 0 {
                buf[done as usize..].fill(0);
                break;
            }
            let old = buf.narrow(done as usize..(done + there) as usize);
            let (reply, back) =
                self.request(command::READ, Flags::empty(), at, there, Some(buf)).await?;
            drop(reply);
            buf = back.ok_or(BlockError::Cancelled)?;
            buf.widen(old);
            done += there;
        }
        Ok(buf)
    }

    async fn write_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let (block, len) = (self.block(), buf.len() as u64);
        if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            let start = offset - offset % block;
            let end = (offset + len).next_multiple_of(block);
            let _turn = self.partial.acquire(start..end).await;
            let mut wide = self.read_any(start, IoBuf::zeroed((end - start) as usize)).await?;
            let at = (offset - start) as usize;
            wide[at..at + len as usize].copy_from_slice(&buf);
            Box::pin(self.write_whole(start, wide)).await?;
            return Ok(buf);
        }
        let _turn =
            if block > 1 { Some(self.partial.acquire(offset..offset + len).await) } else { None };
        buf = self.write_whole(offset, buf).await?;
        Ok(buf)
    }

    async fn write_whole(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        let len = buf.len() as u64;
        let mut done = 0;
        while done < len {
            let n = (len - done).min(self.max());
            let old = buf.narrow(done as usize..(done + n) as usize);
            let (_, back) =
                self.request(command::WRITE, Flags::empty(), offset + done, n, Some(buf)).await?;
            buf = back.ok_or(BlockError::Cancelled)?;
            buf.widen(old);
            done += n;
        }
        Ok(buf)
    }

    /// A request without data, in pieces that the server takes. Parts of blocks are left to
    /// `odd`.
    async fn plain(&self, command: u16, flags: Flags, offset: u64, len: u64) -> Result<()> {
        let longest = if lock(&self.connection).extended() { 1 << 40 } else { 1 << 30 };
        let mut done = 0;
        while done < len {
            let n = (len - done).min(longest);
            self.request(command, flags, offset + done, n, None).await?;
            done += n;
        }
        Ok(())
    }
}

/// Who the server proves to be: what was said, or where it is.
fn tls_name(options: &NbdOptions) -> Result<String> {
    match (&options.tls_hostname, &options.server.0) {
        (Some(name), _) => Ok(name.clone()),
        (None, Address::Inet { host, .. }) => Ok(host.clone()),
        (None, _) => Err(BlockError::invalid("tls-hostname is required with a Unix socket")),
    }
}

async fn connect(
    context: &Context,
    address: &Address,
    wish: &Wish,
) -> Result<(Arc<Connection>, ExportInfo)> {
    let stream = context.net()?.connect(address).await?;
    let agreed = handshake(&stream, wish).await?;
    let info = agreed.info.clone();
    Ok((Connection::start(context, agreed), info))
}

impl Driver for NbdClient {
    fn name(&self) -> &'static str {
        "nbd"
    }

    fn len(&self) -> u64 {
        self.info.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        Vec::new()
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.read_any(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.write_any(offset, buf).await })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move {
            let block = self.block();
            let whole = offset.next_multiple_of(block)..(offset + len) - (offset + len) % block;
            if !self.info.features().contains(Features::WRITE_ZEROES) || whole.is_empty() {
                let mut at = offset;
                while at < offset + len {
                    let n = (offset + len - at).min(1 << 20);
                    self.write_any(at, IoBuf::zeroed(n as usize)).await?;
                    at += n;
                }
                return Ok(());
            }
            for (start, end) in [(offset, whole.start), (whole.end, offset + len)] {
                if start < end {
                    self.write_any(start, IoBuf::zeroed((end - start) as usize)).await?;
                }
            }
            let flags = if unmap { Flags::empty() } else { Flags::NO_HOLE };
            self.plain(command::WRITE_ZEROES, flags, whole.start, whole.end - whole.start).await
        })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        if !self.info.features().contains(Features::TRIM) {
            return Op::ok(());
        }
        let block = self.block();
        let (start, end) =
            (offset.next_multiple_of(block), (offset + len) - (offset + len) % block);
        if start >= end {
            return Op::ok(());
        }
        Op::pending(
            async move { self.plain(command::TRIM, Flags::empty(), start, end - start).await },
        )
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        if !self.info.features().contains(Features::FLUSH) {
            return Op::ok(());
        }
        Op::pending(async move {
            self.request(command::FLUSH, Flags::empty(), 0, 0, None).await.map(drop)
        })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        let data = move |len| BlockStatus {
            len,
            zero: false,
            allocated: true,
            data: true,
            compressed: false,
            offset: Some(offset),
        };
        if !lock(&self.connection).has_context() {
            return Op::ok(data(len));
        }
        Op::pending(async move {
            let block = self.block();
            let start = offset - offset % block;
            let ask = (offset + len - start).next_multiple_of(block).min(self.max().max(1 << 30));
            let ask = ask.min(self.info.size - start);
            let flags = Flags::REQ_ONE;
            let (reply, _) = self.request(command::BLOCK_STATUS, flags, start, ask, None).await?;
            let Reply::Extents(extents) = reply else { return Ok(data(len)) };
            let Some((n, state)) = extents.first().copied() else { return Ok(data(len)) };
            let n = n.saturating_sub(offset - start).clamp(1, len);
            let (zero, data_there) = (state & STATE_ZERO != 0, state & STATE_HOLE == 0);
            // A hole that does not read as zeros is nothing of this node's.
            let allocated = zero || data_there;
            Ok(BlockStatus {
                zero,
                data: data_there,
                allocated,
                offset: allocated.then_some(offset),
                ..data(n)
            })
        })
    }

    /// A server's exports stay as they are.
    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        match len.cmp(&self.info.size) {
            Ordering::Equal => Op::ok(()),
            Ordering::Greater => Op::err(BlockError::unsupported("Cannot grow NBD nodes")),
            Ordering::Less => Op::err(BlockError::unsupported("Cannot resize NBD nodes")),
        }
    }

    fn close(self: Arc<Self>) -> Op<()> {
        self.flush()
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        lock(&self.connection).say_goodbye();
    }
}
