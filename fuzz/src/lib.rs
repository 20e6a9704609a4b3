//! What every target does with its bytes: an image is opened, read, written, resized, checked
//! and repaired, and none of it may panic, hang, or ask for memory without end.
//!
//! The first sixteen bytes choose what is done; the rest is the image.

#![forbid(unsafe_code)]

use orrery_block::exec::Executor;
use orrery_block::graph::BlockGraph;
use orrery_block::host::{Gate, MemFile, MemFs};
use orrery_block::qcow2::Repair;
use orrery_block::{Format, IoBuf, OpenOptions, img};
use std::sync::Arc;

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
