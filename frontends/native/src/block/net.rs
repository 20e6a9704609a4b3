//! Sockets, as the block layer borrows them.

use super::reactor::{Reactor, Source};
#[cfg(feature = "tls")]
use orrery_block::host::HostTls;
use orrery_block::host::{Address, ByteStream, HostNet, Listener};
use orrery_block::{BlockError, IoBuf, Op, Result};
#[cfg(feature = "tls")]
use serde_json::{Map, Value};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host's network.
pub(super) struct Net(pub(super) Arc<Reactor>);

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).read(buf),
            Self::Unix(socket) => (&mut &*socket).read(buf),
        }
    }

    fn write(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&mut &*socket).write_vectored(bufs),
            Self::Unix(socket) => (&mut &*socket).write_vectored(bufs),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)
            }
            Self::Unix(socket) => socket.set_nonblocking(true),
        }
    }
}

/// A connection with a buffer for what has come.
pub(super) struct Stream(Arc<Inner>);

struct Inner {
    socket: Socket,
    reactor: Arc<Reactor>,
    source: Arc<Source>,
    ahead: Mutex<Ahead>,
    closed: AtomicBool,
}

/// Bytes that were received before anybody asked.
struct Ahead {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

const AHEAD: usize = 64 << 10;

impl Inner {
    /// Takes what is at hand; says how much is in `buf` now.
    fn fill(&self, buf: &mut [u8], mut done: usize) -> io::Result<usize> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut ahead = lock(&self.ahead);
        loop {
            let n = (ahead.end - ahead.start).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&ahead.bytes[ahead.start..ahead.start + n]);
            ahead.start += n;
            done += n;
            if done == buf.len() {
                return Ok(done);
            }
            let direct = buf.len() - done >= AHEAD;
            let got = if direct {
                self.socket.read(&mut buf[done..])
            } else {
                let got = self.socket.read(&mut ahead.bytes);
                (ahead.start, ahead.end) = (0, *got.as_ref().unwrap_or(&0));
                got
            };
            match got {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if direct => done += n,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(done),
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends what there is room for; says how much has gone.
    fn push(&self, bufs: &[IoBuf], mut done: usize) -> io::Result<usize> {
        loop {
            if self.closed.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let mut skip = done;
            let mut slices = Vec::with_capacity(bufs.len());
            for buf in bufs {
                let n = skip.min(buf.len());
                skip -= n;
                if n < buf.len() {
                    slices.push(IoSlice::new(&buf[n..]));
                }
            }
            if slices.is_empty() {
                return Ok(done);
            }
            match self.socket.write(&slices) {
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(done),
                Err(e) => return Err(e),
            }
        }
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            let _ = match &self.socket {
                Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
                Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
            };
            self.source.wake();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.reactor.unregister(&self.socket, &self.source);
    }
}

fn broken(e: &io::Error) -> BlockError {
    BlockError::Host(format!("connection: {e}"))
}

impl Stream {
    fn new(reactor: &Arc<Reactor>, socket: Socket) -> io::Result<Self> {
        socket.prepare()?;
        let source = reactor.register(&socket)?;
        Ok(Self(Arc::new(Inner {
            socket,
            reactor: reactor.clone(),
            source,
            ahead: Mutex::new(Ahead { bytes: vec![0; AHEAD].into(), start: 0, end: 0 }),
            closed: AtomicBool::new(false),
        })))
    }

    pub(super) fn unix(reactor: &Arc<Reactor>, socket: UnixStream) -> io::Result<Self> {
        Self::new(reactor, Socket::Unix(socket))
    }

    /// Whatever has come, at least one byte; nothing at the end.
    pub(super) async fn some(&self) -> io::Result<Vec<u8>> {
        let inner = &self.0;
        let mut buf = vec![0; 4096];
        let n = inner
            .source
            .read(|| {
                if inner.closed.load(Ordering::Relaxed) {
                    return Ok(0);
                }
                inner.socket.read(&mut buf)
            })
            .await?;
        buf.truncate(n);
        Ok(buf)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl ByteStream for Stream {
    fn recv(&self, mut buf: IoBuf) -> Op<IoBuf> {
        let mut done = match self.0.fill(&mut buf, 0) {
            Ok(done) if done == buf.len() => return Op::ok(buf),
            Ok(done) => done,
            Err(e) => return Op::err(broken(&e)),
        };
        let inner = self.0.clone();
        Op::pending(async move {
            let result = inner
                .source
                .read(|| {
                    done = inner.fill(&mut buf, done)?;
                    if done < buf.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
                })
                .await;
            result.map(|()| buf).map_err(|e| broken(&e))
        })
    }

    fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>> {
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut done = match self.0.push(&bufs, 0) {
            Ok(done) if done == total => return Op::ok(bufs),
            Ok(done) => done,
            Err(e) => return Op::err(broken(&e)),
        };
        let inner = self.0.clone();
        Op::pending(async move {
            let result = inner
                .source
                .write(|| {
                    done = inner.push(&bufs, done)?;
                    if done < total { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
                })
                .await;
            result.map(|()| bufs).map_err(|e| broken(&e))
        })
    }

    fn shutdown(&self) {
        self.0.close();
    }
}

enum Door {
    Tcp(TcpListener),
    Unix(UnixListener, Option<String>),
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(door) => door.as_fd(),
            Self::Unix(door, _) => door.as_fd(),
        }
    }
}

struct DoorInner {
    door: Door,
    reactor: Arc<Reactor>,
    source: Arc<Source>,
    closed: AtomicBool,
}

/// A socket that takes connections.
pub(super) struct NativeListener(Arc<DoorInner>);

impl NativeListener {
    /// The next connection.
    pub(super) async fn next(&self) -> io::Result<Stream> {
        Self::next_of(&self.0).await
    }

    async fn next_of(inner: &DoorInner) -> io::Result<Stream> {
        let socket = inner
            .source
            .read(|| {
                if inner.closed.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Ok(match &inner.door {
                    Door::Tcp(door) => Socket::Tcp(door.accept()?.0),
                    Door::Unix(door, _) => Socket::Unix(door.accept()?.0),
                })
            })
            .await?;
        Stream::new(&inner.reactor, socket)
    }
}

impl Listener for NativeListener {
    fn accept(&self) -> Op<Arc<dyn ByteStream>> {
        let inner = self.0.clone();
        Op::pending(async move {
            let stream = Self::next_of(&inner).await.map_err(|e| broken(&e))?;
            Ok(Arc::new(stream) as Arc<dyn ByteStream>)
        })
    }

    fn close(&self) {
        if !self.0.closed.swap(true, Ordering::Relaxed)
            && let Door::Unix(_, Some(path)) = &self.0.door
        {
            let _ = std::fs::remove_file(path);
        }
        self.0.source.wake();
    }
}

impl Drop for DoorInner {
    fn drop(&mut self) {
        self.reactor.unregister(&self.door, &self.source);
        if let Door::Unix(_, Some(path)) = &self.door
            && !self.closed.load(Ordering::Relaxed)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn unix_address(path: &str) -> io::Result<std::os::unix::net::SocketAddr> {
    match path.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => {
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
                name,
            )
        }
        _ => std::os::unix::net::SocketAddr::from_pathname(path),
    }
}

impl Net {
    pub(super) fn connect_now(&self, address: &Address) -> io::Result<Stream> {
        let socket = match address {
            Address::Inet { host, port } => {
                Socket::Tcp(TcpStream::connect(format!("{}:{port}", bracketed(host)))?)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect_addr(&unix_address(path)?)?),
            Address::Fd(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Stream::new(&self.0, socket)
    }

    /// Listens.
    pub(super) fn listen_now(&self, address: &Address) -> io::Result<NativeListener> {
        let door = match address {
            Address::Inet { host, port } => {
                let host = if host.is_empty() { "0.0.0.0" } else { host };
                let all: Vec<_> =
                    format!("{}:{port}", bracketed(host)).to_socket_addrs()?.collect();
                let door = TcpListener::bind(&all[..])?;
                door.set_nonblocking(true)?;
                Door::Tcp(door)
            }
            Address::Unix(path) => {
                let named = !path.starts_with('@');
                if named {
                    // A socket that nobody listens on any more is in the way.
                    let stale = UnixStream::connect(path)
                        .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
                    if stale {
                        std::fs::remove_file(path)?;
                    }
                }
                let door = UnixListener::bind_addr(&unix_address(path)?)?;
                door.set_nonblocking(true)?;
                Door::Unix(door, named.then(|| path.clone()))
            }
            Address::Fd(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let source = self.0.register(&door)?;
        let closed = AtomicBool::new(false);
        Ok(NativeListener(Arc::new(DoorInner { door, reactor: self.0.clone(), source, closed })))
    }
}

/// IPv6 addresses need brackets before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.into() }
}

fn op<T>(result: Result<T>) -> Op<T> {
    match result {
        Ok(value) => Op::ok(value),
        Err(error) => Op::err(error),
    }
}

impl HostNet for Net {
    #[cfg(feature = "tls")]
    fn tls(&self, kind: &str, properties: &Map<String, Value>) -> Result<Arc<dyn HostTls>> {
        Ok(Arc::new(super::tls::Credentials::load(kind, properties)?))
    }

    fn connect(&self, address: &Address) -> Op<Arc<dyn ByteStream>> {
        let made = self.connect_now(address).map_err(|e| {
            BlockError::Host(format!("Failed to connect to '{address}': {}", plain(&e)))
        });
        op(made.map(|stream| Arc::new(stream) as Arc<dyn ByteStream>))
    }

    fn listen(&self, address: &Address) -> Op<Arc<dyn Listener>> {
        let made = self.listen_now(address).map_err(|e| {
            BlockError::Host(format!("Failed to listen on '{address}': {}", plain(&e)))
        });
        op(made.map(|listener| Arc::new(listener) as Arc<dyn Listener>))
    }
}

/// A host error without its number.
pub(super) fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}
