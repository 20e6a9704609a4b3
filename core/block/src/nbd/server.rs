//! The server: exports, connections and their limits.

use super::export::Export;
use super::negotiate::negotiate;
use super::transmit::transmit;
use crate::graph::BlockGraph;
use crate::host::{ByteStream, HostTls, Listener};
use crate::op::race;
use crate::sync::{Notify, lock};
use crate::{BlockError, Context, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// What a server allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; zero is any number.
    pub connections: u64,
    /// Seconds for the negotiation; zero is any time.
    pub handshake_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 100, handshake_seconds: 10 }
    }
}

/// A server of exports. Cheap to clone; stops when told to.
#[derive(Clone)]
pub struct NbdServer(Arc<Inner>);

struct Inner {
    context: Context,
    limits: Limits,
    exports: Mutex<BTreeMap<String, Arc<Export>>>,
    streams: Mutex<Vec<Weak<dyn ByteStream>>>,
    listeners: Mutex<Vec<Arc<dyn Listener>>>,
    /// Nobody sees anything before the connection is encrypted.
    tls: Mutex<Option<Arc<dyn HostTls>>>,
    connections: AtomicU64,
    served: AtomicU64,
    stopped: AtomicBool,
    changed: Notify,
}

impl NbdServer {
    /// A server without exports.
    pub fn new(graph: &BlockGraph, limits: Limits) -> Self {
        Self(Arc::new(Inner {
            context: graph.context().clone(),
            limits,
            exports: Mutex::default(),
            streams: Mutex::default(),
            listeners: Mutex::default(),
            tls: Mutex::default(),
            connections: AtomicU64::new(0),
            served: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            changed: Notify::default(),
        }))
    }

    /// Has every client encrypt its connection first.
    pub fn set_tls(&self, tls: Arc<dyn HostTls>) {
        *lock(&self.0.tls) = Some(tls);
    }

    pub(super) fn tls(&self) -> Option<Arc<dyn HostTls>> {
        lock(&self.0.tls).clone()
    }

    /// Offers something.
    pub fn add(&self, export: Arc<Export>) -> Result<()> {
        let mut exports = lock(&self.0.exports);
        if exports.contains_key(export.name()) {
            return Err(BlockError::Invalid(format!(
                "NBD server already has export named '{}'",
                export.name()
            )));
        }
        exports.insert(export.name().to_owned(), export);
        Ok(())
    }

    /// Takes an export back. Connected clients keep it until they leave, unless `hard`.
    pub fn remove(&self, name: &str, hard: bool) -> Option<Arc<Export>> {
        let export = lock(&self.0.exports).remove(name)?;
        if hard {
            export.disconnect();
        }
        Some(export)
    }

    /// The export of this name.
    pub fn export(&self, name: &str) -> Option<Arc<Export>> {
        lock(&self.0.exports).get(name).cloned()
    }

    pub(super) fn exports(&self) -> Vec<Arc<Export>> {
        lock(&self.0.exports).values().cloned().collect()
    }

    /// Number of connections.
    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Finishes when `served` is over: at least one client has come and all have gone.
    pub async fn idle(&self) {
        let idle = || {
            let served = self.0.served.load(Ordering::Relaxed) > 0;
            (served && self.connections() == 0).then_some(())
        };
        self.0.changed.until(idle).await;
    }

    /// Takes connections from `listener` until it or the server stops.
    pub fn listen(&self, listener: Arc<dyn Listener>) {
        lock(&self.0.listeners).push(listener.clone());
        let this = self.clone();
        self.0.context.executor().spawn(async move {
            loop {
                let room = || {
                    let limit = this.0.limits.connections;
                    let stopped = this.0.stopped.load(Ordering::Relaxed);
                    (stopped || limit == 0 || this.connections() < limit).then_some(())
                };
                this.0.changed.until(room).await;
                if this.0.stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = listener.accept().await else { break };
                this.accept(stream);
            }
        });
    }

    /// Serves one client, in a task of its own.
    pub fn accept(&self, stream: Arc<dyn ByteStream>) {
        let this = self.clone();
        this.0.connections.fetch_add(1, Ordering::Relaxed);
        {
            let mut streams = lock(&this.0.streams);
            streams.retain(|stream| stream.strong_count() > 0);
            streams.push(Arc::downgrade(&stream));
        }
        self.0.context.executor().spawn(async move {
            if let Err(error) = this.serve(&stream).await {
                tracing::debug!(%error, "client");
            }
            stream.shutdown();
            this.0.connections.fetch_sub(1, Ordering::Relaxed);
            this.0.changed.notify();
        });
    }

    async fn serve(&self, stream: &Arc<dyn ByteStream>) -> Result<()> {
        let limit = self.0.limits.handshake_seconds;
        let session = {
            let talk = negotiate(self, stream);
            if limit == 0 || !self.0.context.has_clock() {
                talk.await
            } else {
                let timeout = self.0.context.sleep(limit * 1_000_000_000);
                match race(std::pin::pin!(talk), std::pin::pin!(timeout)).await {
                    Ok(session) => session,
                    Err(()) => Err(BlockError::Host("negotiation took too long".into())),
                }
            }
        };
        let Some(session) = session? else { return Ok(()) };
        self.0.served.fetch_add(1, Ordering::Relaxed);
        let stream = session.stream.clone();
        let _visit = session.export.enter(&stream);
        transmit(session, &stream, &self.0.context).await
    }

    /// Stops listening and breaks every connection.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.0.listeners)).iter().for_each(|l| l.close());
        lock(&self.0.exports).clear();
        let streams = std::mem::take(&mut *lock(&self.0.streams));
        streams.iter().filter_map(Weak::upgrade).for_each(|stream| stream.shutdown());
        self.0.changed.notify();
    }
}
