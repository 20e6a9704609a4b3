//! What every target does with its bytes. None of it may panic, hang, or ask for memory without
//! end.
//!
//! An image is opened, read, written, resized, checked and repaired: the first sixteen bytes choose
//! what is done; the rest is the image. Other targets are given options in words, a monitor's
//! client, and either side of an NBD conversation.

#![forbid(unsafe_code)]

use orrery_block::exec::Executor;
use orrery_block::graph::BlockGraph;
use orrery_block::host::{Address, ByteStream, Gate, HostNet, Listener, MemFile, MemFs, pipe};
use orrery_block::nbd::{Export, ExportOptions, Limits, NbdServer};
use orrery_block::qcow2::Repair;
use orrery_block::qmp::{Monitor, Session};
use orrery_block::{BlockError, Format, IoBuf, NodeOptions, Op, OpenOptions, img, parse_options};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that choose what is done.
pub const SCRIPT: usize = 16;

/// Opens an image of a format, works on it, and checks it.
pub fn image(format: Format, data: &[u8]) {
    let Some((script, image)) = data.split_at_checked(SCRIPT) else { return };
    let fs = MemFs::new();
    fs.add("disk", Arc::new(MemFile::from_bytes(image)));
    // What waits for nobody ends here; what waits for ever is a fault that libFuzzer's timeout
    // does not see.
    let ended = Executor::new().run_in_place(work(format, script, &fs));
    assert!(ended.is_some(), "it waits for something that nobody does");
}

async fn work(format: Format, script: &[u8], fs: &MemFs) {
    let options = OpenOptions {
        format: Some(format),
        gate: Gate::PlainFiles,
        secret: Some(b"secret"[..].into()),
        read_only: script[0] & 1 != 0,
        ..OpenOptions::default()
    };
    let graph = BlockGraph::new();
    if let Ok(node) = graph.open(fs, "disk", &options).await {
        let size = node.len();
        let shown = size.clamp(1, 8 << 20);
        for step in script[1..].chunks_exact(3) {
            let at = u64::from(u16::from_le_bytes([step[1], step[2]])) * 509 % shown;
            let len = (1 + u64::from(step[0] >> 3) * 2741).min(size.saturating_sub(at));
            let buf = || IoBuf::zeroed(len as usize);
            match step[0] & 7 {
                0 | 1 => drop(node.read(at, buf()).await),
                2 => drop(node.write(at, vec![step[1]; len as usize].into()).await),
                3 => drop(node.write_zeroes(at, len, step[2] & 1 == 0).await),
                4 => drop(node.discard(at, len).await),
                5 if len > 0 => drop(node.status(at, len).await),
                6 => drop(node.truncate(shown + at).await),
                _ => drop(node.flush().await),
            }
        }
        let _ = node.close().await;
    }
    let repair = [Repair::Nothing, Repair::Leaks, Repair::All][usize::from(script[0] >> 1) % 3];
    let graph = BlockGraph::new();
    let _ = img::check(&graph, fs, "disk", Some(format), repair).await;
    let _ = img::info(&graph, fs, "disk", Some(format)).await;
}

/// Reads options as a command line, a file name and JSON have them, and writes them again.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    drop(parse_options(text, "driver"));
    for read in [NodeOptions::from_argument(text), NodeOptions::from_filename(text)] {
        if let Ok(options) = read {
            let again = NodeOptions::from_value(options.to_value());
            assert!(again.is_ok_and(|again| again.to_value() == options.to_value()));
        }
    }
    if let Ok(value) = serde_json::from_str(text) {
        drop(NodeOptions::from_value(value));
    }
}

/// A client of a monitor over a few nodes in memory.
pub fn qmp(data: &[u8]) {
    let fs = MemFs::new();
    fs.add("disk", Arc::new(MemFile::with_len(1 << 20)));
    let graph = BlockGraph::new();
    graph.context().set_fs(Arc::new(fs));
    let monitor = Monitor::new(&graph);
    let exec = graph.executor().clone();
    let add =
        json!({"driver": "raw", "node-name": "n", "file": {"driver": "file", "filename": "disk"}});
    let added = exec.run_in_place(monitor.execute("blockdev-add", add));
    assert!(added.is_some_and(|added| added.is_ok()));
    let mut session = Session::new(&monitor);
    let hello = br#"{"execute": "qmp_capabilities"}"#;
    for bytes in [&hello[..], data] {
        for command in session.feed(bytes) {
            let _ = exec.run_in_place(session.answer(command));
            graph.poll();
        }
    }
    let _ = exec.run_in_place(monitor.shutdown());
}

fn raw(graph: &BlockGraph) -> Arc<orrery_block::graph::Node> {
    graph
        .open_file(Some("disk"), "", Arc::new(MemFile::with_len(1 << 16)))
        .expect("a node in memory")
}

/// A client of an NBD server says whatever it likes.
pub fn nbd_server(data: &[u8]) {
    let graph = BlockGraph::new();
    let disk = raw(&graph);
    let options = ExportOptions {
        name: "x".into(),
        writable: true,
        allocation_depth: true,
        ..ExportOptions::default()
    };
    let server = NbdServer::new(&graph, Limits::default());
    server.add(Export::new(&graph, &disk, options).expect("nobody else")).expect("a new name");
    let (ours, theirs) = pipe();
    server.accept(theirs);
    let _ = graph.executor().run_in_place(ours.send(vec![data.into()]));
    graph.poll();
    ours.shutdown();
    graph.poll();
    assert_eq!(server.connections(), 0, "who hangs up is gone");
}

/// A server that has said everything in advance, and listens to nothing.
struct Said(Mutex<Vec<u8>>);

impl ByteStream for Said {
    fn recv(&self, mut buf: IoBuf) -> Op<IoBuf> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() < buf.len() {
            return Op::err(BlockError::Host("connection closed".into()));
        }
        let rest = left.split_off(buf.len());
        buf.copy_from_slice(&std::mem::replace(&mut *left, rest));
        Op::ok(buf)
    }
    fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>> {
        Op::ok(bufs)
    }
    fn shutdown(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

struct Server(Vec<u8>);

impl HostNet for Server {
    fn connect(&self, _: &Address) -> Op<Arc<dyn ByteStream>> {
        Op::ok(Arc::new(Said(Mutex::new(self.0.clone()))))
    }
    fn listen(&self, _: &Address) -> Op<Arc<dyn Listener>> {
        Op::err(BlockError::Cancelled)
    }
}

/// A server says whatever it likes to an NBD client.
pub fn nbd_client(data: &[u8]) {
    let graph = BlockGraph::new();
    graph.context().set_net(Arc::new(Server(data.to_vec())));
    let options = json!({
        "driver": "nbd", "export": "x", "read-only": data.first().is_some_and(|b| b & 1 != 0),
        "server": {"type": "inet", "host": "here", "port": "1"},
    });
    let options = NodeOptions::from_value(options).expect("as they should be");
    let exec = graph.executor().clone();
    let Some(Ok(node)) = exec.run_in_place(graph.open_options(&options)) else { return };
    let len = node.len().min(4096);
    let work = async {
        drop(node.read(0, IoBuf::zeroed(len as usize)).await);
        drop(node.status(0, len.max(1)).await);
        drop(node.write(0, vec![1; len as usize].into()).await);
        drop(node.flush().await);
    };
    assert!(exec.run_in_place(work).is_some(), "it waits for a server that is gone");
}
