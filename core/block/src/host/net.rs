//! Connections, as the host lends them.

use crate::{BlockError, IoBuf, Op, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Where to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// A TCP port.
    Inet {
        /// Name or number of the host; empty for every interface.
        host: String,
        /// Number of the port.
        port: String,
    },
    /// A socket in the file system; an abstract one begins with `@`.
    Unix(String),
    /// A descriptor that the program was started with.
    Fd(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
        }
    }
}

/// Two directions of bytes. An operation owns its memory; dropping the last reference closes the
/// connection. At most one receive and one send are outstanding at a time.
pub trait ByteStream: Send + Sync {
    /// Fills `buf` completely. At the end of the stream, or when it breaks, an error.
    fn recv(&self, buf: IoBuf) -> Op<IoBuf>;

    /// Sends all of the buffers, in order; gives them back.
    fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>>;

    /// Breaks the connection; pending operations fail.
    fn shutdown(&self);
}

/// Takes connections.
pub trait Listener: Send + Sync {
    /// The next connection.
    fn accept(&self) -> Op<Arc<dyn ByteStream>>;

    /// Stops listening; a pending accept fails.
    fn close(&self);
}

/// Credentials for encrypted connections.
pub trait HostTls: Send + Sync {
    /// True when they are a server's, false when they are a client's.
    fn serves(&self) -> bool;

    /// Encrypts a connection as its server.
    fn accept(&self, stream: Arc<dyn ByteStream>) -> Op<Arc<dyn ByteStream>>;

    /// Encrypts a connection as its client. The server proves that it is `name`.
    fn connect(&self, stream: Arc<dyn ByteStream>, name: &str) -> Op<Arc<dyn ByteStream>>;
}

/// Makes connections and listens for them.
pub trait HostNet: Send + Sync {
    /// Credentials, from type and properties of a `tls-creds-...` object.
    fn tls(&self, kind: &str, properties: &Map<String, Value>) -> Result<Arc<dyn HostTls>> {
        let _ = properties;
        Err(BlockError::unsupported(format!("'{kind}' is not supported here")))
    }

    /// Connects.
    fn connect(&self, address: &Address) -> Op<Arc<dyn ByteStream>>;

    /// Listens.
    fn listen(&self, address: &Address) -> Op<Arc<dyn Listener>>;
}

/// Both ends of a connection inside the program: for tests, and for a client and a server in one
/// page.
pub fn pipe() -> (Arc<dyn ByteStream>, Arc<dyn ByteStream>) {
    let (a, b) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
    (Arc::new(Pipe { from: a.clone(), to: b.clone() }), Arc::new(Pipe { from: b, to: a }))
}

#[derive(Default)]
struct Lane {
    state: std::sync::Mutex<LaneState>,
    changed: crate::sync::Notify,
}

#[derive(Default)]
struct LaneState {
    bytes: std::collections::VecDeque<u8>,
    closed: bool,
}

struct Pipe {
    from: Arc<Lane>,
    to: Arc<Lane>,
}

impl ByteStream for Pipe {
    fn recv(&self, mut buf: IoBuf) -> Op<IoBuf> {
        let lane = self.from.clone();
        Op::pending(async move {
            let n = buf.len();
            let take = || {
                let mut state = crate::sync::lock(&lane.state);
                if state.bytes.len() >= n {
                    return Some(Ok(state.bytes.drain(..n).collect::<Vec<u8>>()));
                }
                state.closed.then(|| Err(BlockError::Host("connection closed".into())))
            };
            let bytes = lane.changed.until(take).await?;
            buf.copy_from_slice(&bytes);
            Ok(buf)
        })
    }

    fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>> {
        {
            let mut state = crate::sync::lock(&self.to.state);
            if state.closed {
                return Op::err(BlockError::Host("connection closed".into()));
            }
            bufs.iter().for_each(|buf| state.bytes.extend(buf.iter()));
        }
        self.to.changed.notify();
        Op::ok(bufs)
    }

    fn shutdown(&self) {
        for lane in [&self.from, &self.to] {
            crate::sync::lock(&lane.state).closed = true;
            lane.changed.notify();
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.shutdown();
    }
}
