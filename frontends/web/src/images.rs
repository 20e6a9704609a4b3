//! Image tools for JavaScript: facts, new images, copies in other formats, checks, snapshots.
//!
//! Names are those of `orreryHost`. Answers are JSON.

use crate::host::{JsFs, report};
use crate::session::chain;
use orrery_block::formats::create::{self, Values};
use orrery_block::formats::{Change, ImageHandle};
use orrery_block::graph::BlockGraph;
use orrery_block::host::HostFs as _;
use orrery_block::qcow2::Repair;
use orrery_block::{Backing, BlockError, Format, OpenOptions, img};
use serde_json::json;
use wasm_bindgen::prelude::*;

type Answer<T> = Result<T, JsValue>;

/// Rounds of the key derivation of encrypted images.
const ROUNDS: u32 = 200_000;

fn told<T>(result: Result<T, BlockError>) -> Answer<T> {
    result.map_err(|e| chain(&e))
}

/// Names of the formats that images can be made in.
#[wasm_bindgen]
pub fn image_formats() -> Vec<String> {
    let made = Format::ALL.iter().filter(|f| !create::options(**f).is_empty());
    made.map(|f| f.name().to_owned()).collect()
}

/// What an image is: format, sizes, backing file, snapshots.
#[wasm_bindgen]
pub async fn image_info(name: String) -> Answer<String> {
    let graph = BlockGraph::new();
    let info = told(img::info(&graph, &JsFs, &name, None).await)?;
    let mut snapshots = Vec::new();
    if info.format == Format::Qcow2 {
        let (_, image) = open(&graph, &name, false).await?;
        snapshots = image.snapshots();
    }
    let snapshots: Vec<_> = snapshots
        .iter()
        .map(|s| {
            json!({"id": s.id, "name": s.name, "date": s.date_sec, "state": s.vm_state_size,
                "clock": s.vm_clock_nsec as f64 / 1e9})
        })
        .collect();
    Ok(json!({
        "format": info.format.name(),
        "virtualSize": info.virtual_size,
        "fileSize": info.file_size,
        "clusterSize": info.facts.cluster_size,
        "encrypted": info.facts.encrypted,
        "dirty": info.facts.dirty,
        "corrupt": info.facts.corrupt,
        "backing": info.backing.map(|b| b.name),
        "snapshots": snapshots,
    })
    .to_string())
}

async fn open(
    graph: &BlockGraph,
    name: &str,
    write: bool,
) -> Answer<(std::sync::Arc<orrery_block::graph::Node>, ImageHandle)> {
    let options =
        OpenOptions { read_only: !write, backing: Backing::None, ..OpenOptions::default() };
    let node = told(graph.open(&JsFs, name, &options).await)?;
    let image = node.image_handle();
    let none = || BlockError::Invalid(format!("'{}' has no snapshots", node.driver_name()));
    let image = image.ok_or_else(|| chain(&none()))?;
    Ok((node, image))
}

/// Makes an empty image. `size` may have a suffix; `seconds` is the time since 1970.
#[wasm_bindgen]
pub async fn image_create(name: String, format: String, size: String, seconds: f64) -> Answer<()> {
    let graph = BlockGraph::new();
    make(&graph, &name, &format, &size, seconds).await
}

async fn make(
    graph: &BlockGraph,
    name: &str,
    format: &str,
    size: &str,
    seconds: f64,
) -> Answer<()> {
    let format = told(Format::from_name(format))?;
    let mut values = Values::default();
    values.set("size", size);
    let host =
        create::Host { fs: &JsFs, secret: &|_| None, rounds: &|_, _| ROUNDS, now: seconds as u64 };
    told(create::create(graph, &host, name, format, &values).await)
}

/// Copies an image into a new one of another format; `progress` is called with bytes done and to do.
#[wasm_bindgen]
pub async fn image_convert(
    from: String,
    to: String,
    format: String,
    seconds: f64,
    progress: js_sys::Function,
) -> Answer<()> {
    let graph = BlockGraph::new();
    let options = OpenOptions { read_only: true, ..OpenOptions::default() };
    let source = told(graph.open(&JsFs, &from, &options).await)?;
    let size = source.len().next_multiple_of(512).to_string();
    make(&graph, &to, &format, &size, seconds).await?;
    let options =
        OpenOptions { format: Some(told(Format::from_name(&format))?), ..OpenOptions::default() };
    let target = told(graph.open(&JsFs, &to, &options).await)?;
    let tell = Teller(progress);
    told(img::convert(&source, &target, move |done, total| tell.tell(done, total)).await)
}

/// A function of the page that hears of progress. Everything here runs in the one thread that has it.
struct Teller(js_sys::Function);

impl Teller {
    fn tell(&self, done: u64, total: u64) {
        let none = JsValue::NULL;
        if self.0.call2(&none, &(done as f64).into(), &(total as f64).into()).is_err() {
            report("orrery: the page did not listen to progress");
        }
    }
}

/// Looks for contradictions in an image, and repairs them if `repair`.
#[wasm_bindgen]
pub async fn image_check(name: String, repair: bool) -> Answer<String> {
    let graph = BlockGraph::new();
    let how = if repair { Repair::All } else { Repair::Nothing };
    let found = told(img::check(&graph, &JsFs, &name, None, how).await)?;
    told(graph.close().await)?;
    Ok(json!({
        "clean": found.is_clean(),
        "corruptions": found.corruptions - found.corruptions_fixed,
        "leaks": found.leaks - found.leaks_fixed,
        "fixed": found.corruptions_fixed + found.leaks_fixed,
        "messages": found.messages,
    })
    .to_string())
}

/// Changes the snapshots inside an image: `create`, `apply` or `delete` the one called `tag`.
#[wasm_bindgen]
pub async fn image_snapshot(name: String, action: String, tag: String, seconds: f64) -> Answer<()> {
    let graph = BlockGraph::new();
    let (node, image) = open(&graph, &name, true).await?;
    let change = match action.as_str() {
        "create" => {
            Change::CreateSnapshot { name: tag, date: (seconds as u32, 0), vm_clock_nsec: 0 }
        }
        "apply" => Change::ApplySnapshot(tag),
        "delete" => Change::DeleteSnapshot(tag),
        other => return Err(JsError::new(&format!("'{other}' is nothing to do")).into()),
    };
    told(image.change(change).await)?;
    told(node.close().await)
}

/// Copies a whole file of the page's under another name, as it is.
#[wasm_bindgen]
pub async fn image_copy(from: String, to: String) -> Answer<()> {
    let source = told(JsFs.open(&from, false).await)?;
    let target = told(JsFs.create(&to).await)?;
    let len = source.len();
    let mut at = 0;
    while at < len {
        let n = (len - at).min(1 << 20);
        let buf = told(source.read_at(at, orrery_block::IoBuf::zeroed(n as usize)).await)?;
        told(target.write_at(at, buf).await)?;
        at += n;
    }
    told(target.set_len(len).await)?;
    told(target.flush().await)
}
