//! What a server offers under one name.

use super::proto::Features;
use crate::backend::BlockBackend;
use crate::bitmap::DirtyBitmap;
use crate::graph::{BlockGraph, Node};
use crate::host::ByteStream;
use crate::sync::lock;
use crate::{BlockError, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

const SECTOR: u64 = 512;

/// How to offer a node.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Name under which clients ask for it.
    pub name: String,
    /// Words for people.
    pub description: Option<String>,
    /// Clients may write.
    pub writable: bool,
    /// Writes are stable before they are answered.
    pub writethrough: bool,
    /// Names of bitmaps of the node, or of nodes behind it, to show.
    pub bitmaps: Vec<(Option<String>, String)>,
    /// Show how deep in the backing chain data is.
    pub allocation_depth: bool,
    /// A client may use several connections at once.
    pub multi_conn: bool,
    /// Part of the node to offer: first byte and, where it ends early, length.
    pub window: (u64, Option<u64>),
    /// Smallest block that clients are to ask for; zero for bytes.
    pub block: u32,
}

/// A node on offer.
pub struct Export {
    pub(super) options: ExportOptions,
    pub(super) backend: BlockBackend,
    pub(super) bitmaps: Vec<Arc<DirtyBitmap>>,
    clients: Mutex<Vec<Weak<dyn ByteStream>>>,
    connections: AtomicU64,
}

impl Export {
    /// Offers `node`.
    pub fn new(graph: &BlockGraph, node: &Arc<Node>, options: ExportOptions) -> Result<Arc<Self>> {
        if options.writable && node.read_only() {
            return Err(BlockError::Invalid("Export of read-only node cannot be writable".into()));
        }
        let mut bitmaps = Vec::new();
        for (of, name) in &options.bitmaps {
            let bitmap = match of {
                Some(of) => graph.find_node(of)?.bitmap(name),
                None => find_bitmap(node, name),
            };
            let bitmap = bitmap
                .ok_or_else(|| BlockError::Invalid(format!("Bitmap '{name}' is not found")))?;
            bitmap.check(false, false)?;
            // What a client reads twice must be the same: nobody else may change it.
            if !options.writable && bitmap.info().recording && !node.read_only() {
                return Err(BlockError::Invalid(format!(
                    "Enabled bitmap '{name}' incompatible with readonly export"
                )));
            }
            bitmap.set_busy(true);
            bitmaps.push(bitmap);
        }
        let backend = graph.anonymous_backend();
        backend.set_label("an unnamed block device");
        backend.insert(node.medium(!options.writable).share_rw())?;
        backend.set_write_cache(!options.writethrough);
        Ok(Arc::new(Self {
            options,
            backend,
            bitmaps,
            clients: Mutex::default(),
            connections: AtomicU64::new(0),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The node that it offers, which a snapshot or a job may have put another one in the place of.
    pub fn node(&self) -> Option<Arc<Node>> {
        self.backend.root()
    }

    /// Bytes: a disk ends with a whole sector, also where what stores it does not.
    pub fn len(&self) -> u64 {
        match self.options.window.1 {
            Some(len) => len.min(self.stored()),
            None => self.stored().next_multiple_of(SECTOR),
        }
    }

    /// Bytes from the first one on that are there.
    fn stored(&self) -> u64 {
        self.backend.len().saturating_sub(self.options.window.0)
    }

    /// How many bytes of a range in the export are there; what follows is zeros.
    pub(super) fn part(&self, offset: u64, len: u64) -> u64 {
        self.stored().saturating_sub(offset).min(len)
    }

    /// Has bytes behind the end there, so that they can be written to.
    pub(super) async fn grow(&self) -> Result<()> {
        let node = self.node().ok_or(BlockError::NoMedium)?;
        node.truncate(node.len().next_multiple_of(SECTOR)).await
    }

    /// True when it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of clients.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn features(&self, structured: bool, extended: bool) -> Features {
        let mut features = Features::HAS_FLAGS | Features::FLUSH | Features::FUA | Features::CACHE;
        if self.options.writable {
            features |= Features::TRIM | Features::WRITE_ZEROES | Features::FAST_ZERO;
        } else {
            features |= Features::READ_ONLY;
        }
        if self.options.multi_conn {
            features |= Features::MULTI_CONN;
        }
        if structured || extended {
            features |= Features::DF;
        }
        if extended {
            features |= Features::STATUS_PAYLOAD;
        }
        features
    }

    pub(super) fn enter(self: &Arc<Self>, stream: &Arc<dyn ByteStream>) -> Visit {
        let mut clients = lock(&self.clients);
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Arc::downgrade(stream));
        self.connections.fetch_add(1, Ordering::Relaxed);
        Visit(self.clone())
    }

    /// Breaks every connection.
    pub fn disconnect(&self) {
        let clients = std::mem::take(&mut *lock(&self.clients));
        clients.iter().filter_map(Weak::upgrade).for_each(|client| client.shutdown());
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.bitmaps.iter().for_each(|bitmap| bitmap.set_busy(false));
        self.backend.remove_root();
    }
}

/// A client's stay.
pub(super) struct Visit(Arc<Export>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bitmap of a node, or of the first one behind it that has one of this name.
fn find_bitmap(node: &Arc<Node>, name: &str) -> Option<Arc<DirtyBitmap>> {
    let mut node = Some(node.clone());
    while let Some(at) = node {
        if let Some(bitmap) = at.bitmap(name) {
            return Some(bitmap);
        }
        node = at.filtered().or_else(|| at.backing());
    }
    None
}
