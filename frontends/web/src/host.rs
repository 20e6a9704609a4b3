//! What JavaScript does for the core: storage by name, asynchronous.
//!
//! JavaScript objects stay on their side, in a table; here a file is a number. Every operation
//! has a number too, and ends when JavaScript calls [`finish`] or [`fail`] with it, at once or
//! later.

use orrery_block::host::{BlockFile, HostFs};
use orrery_block::{BlockError, Completion, IoBuf, Op, completion};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The monotonic clock of the page, in milliseconds.
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    pub(crate) fn clock() -> f64;
    /// Opens a file; ends with [`opened`] or [`fail`].
    #[wasm_bindgen(js_namespace = orreryHost, js_name = open)]
    fn js_open(op: u32, name: &str, write: bool, create: bool);
    /// Reads `len` bytes, past the end zeros; ends with [`finish`].
    #[wasm_bindgen(js_namespace = orreryHost, js_name = read)]
    fn js_read(op: u32, file: u32, offset: f64, len: u32);
    /// Writes.
    #[wasm_bindgen(js_namespace = orreryHost, js_name = write)]
    fn js_write(op: u32, file: u32, offset: f64, bytes: &[u8]);
    /// Makes all that was written survive the end of the page.
    #[wasm_bindgen(js_namespace = orreryHost, js_name = flush)]
    fn js_flush(op: u32, file: u32);
    /// Changes the length.
    #[wasm_bindgen(js_namespace = orreryHost, js_name = setLen)]
    fn js_set_len(op: u32, file: u32, len: f64);

    /// Whether names that begin with `idb:` are kept beyond the page's life.
    #[wasm_bindgen(js_namespace = orreryHost, js_name = keepsDisks)]
    fn js_keeps_disks() -> bool;

    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub(crate) fn report(text: &str);
}

/// Whether disks can be kept.
pub(crate) fn keeps_disks() -> bool {
    js_keeps_disks()
}

enum Waiting {
    Open(Completion<Arc<dyn BlockFile>>),
    Buffer(Completion<IoBuf>, IoBuf, bool),
    Nothing(Completion<()>),
}

struct Table {
    next: u32,
    waiting: BTreeMap<u32, Waiting>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { next: 1, waiting: BTreeMap::new() });

fn begin(w: Waiting) -> u32 {
    let mut t = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let id = t.next;
    t.next = t.next.wrapping_add(1).max(1);
    t.waiting.insert(id, w);
    id
}

fn end(op: u32) -> Option<Waiting> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&op)
}

/// JavaScript: the file is open.
#[wasm_bindgen]
pub fn opened(op: u32, file: u32, len: f64, read_only: bool) {
    if let Some(Waiting::Open(c)) = end(op) {
        let file = JsFile { id: file, len: AtomicU64::new(len as u64), read_only };
        c.finish(Ok(Arc::new(file)));
    }
}

/// JavaScript: the operation is done; `bytes` are what a read gave.
#[wasm_bindgen]
pub fn finish(op: u32, bytes: &[u8]) {
    match end(op) {
        Some(Waiting::Buffer(c, mut buf, read)) => {
            if read {
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                buf[n..].fill(0);
            }
            c.finish(Ok(buf));
        }
        Some(Waiting::Nothing(c)) => c.finish(Ok(())),
        Some(Waiting::Open(c)) => {
            c.finish(Err(BlockError::Host("the page answered wrongly".into())));
        }
        None => {}
    }
}

/// JavaScript: the operation failed. `full` says that storage is used up.
#[wasm_bindgen]
pub fn fail(op: u32, text: &str, full: bool) {
    let error = if full { BlockError::NoSpace } else { BlockError::Host(text.into()) };
    match end(op) {
        Some(Waiting::Open(c)) => c.finish(Err(error)),
        Some(Waiting::Buffer(c, ..)) => c.finish(Err(error)),
        Some(Waiting::Nothing(c)) => c.finish(Err(error)),
        None => {}
    }
}

struct JsFile {
    id: u32,
    len: AtomicU64,
    read_only: bool,
}

impl BlockFile for JsFile {
    fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let (done, op) = completion();
        let len = buf.len() as u32;
        js_read(begin(Waiting::Buffer(done, buf, true)), self.id, offset as f64, len);
        op
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let (done, op) = completion();
        self.len.fetch_max(offset + buf.len() as u64, Relaxed);
        // The page copies the bytes before it returns.
        let bytes = buf.to_vec();
        js_write(begin(Waiting::Buffer(done, buf, false)), self.id, offset as f64, &bytes);
        op
    }

    fn flush(&self) -> Op<()> {
        let (done, op) = completion();
        js_flush(begin(Waiting::Nothing(done)), self.id);
        op
    }

    fn set_len(&self, len: u64) -> Op<()> {
        let (done, op) = completion();
        self.len.store(len, Relaxed);
        js_set_len(begin(Waiting::Nothing(done)), self.id, len as f64);
        op
    }
}

/// The page's files.
pub(crate) struct JsFs;

impl JsFs {
    fn ask(name: &str, write: bool, create: bool) -> Op<Arc<dyn BlockFile>> {
        let (done, op) = completion();
        js_open(begin(Waiting::Open(done)), name, write, create);
        op
    }
}

impl HostFs for JsFs {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        Self::ask(name, write, false)
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        Self::ask(name, true, true)
    }

    fn resolve(&self, base: &str, name: &str) -> String {
        match base.rfind('/') {
            Some(at) if !name.starts_with('/') => format!("{}{name}", &base[..=at]),
            _ => name.into(),
        }
    }
}
