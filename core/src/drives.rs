//! The drives of a command line: what their options open.

use crate::launch::LaunchError;
use crate::options::DriveOption;
use orrery_block::backend::BlockBackend;
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::{Gate, HostFs, MemFile};
use orrery_block::{Backing, BlockError, Format, IoBuf, NodeOptions, OpenOptions};
use orrery_hw::block::geometry::{self, Shape};
use orrery_hw::machine::DeviceSpec;
use std::sync::Arc;

/// A drive of the command line, with its medium.
pub(crate) async fn open_drive(
    blocks: &BlockGraph,
    fs: &dyn HostFs,
    drive: &DriveOption,
    id: &str,
    snapshot: bool,
) -> Result<BlockBackend, LaunchError> {
    let file = drive.file.clone().unwrap_or_default();
    let error = |source| LaunchError::File { option: "-drive", file: file.clone(), source };
    let backend = blocks.create_backend(id).map_err(error)?;
    backend.set_on_error(drive.on_read_error, drive.on_write_error);
    let (limits, node): (Vec<_>, Vec<_>) =
        drive.node.iter().cloned().partition(|(key, _)| key.starts_with("throttling."));
    let drive = &DriveOption { node, ..drive.clone() };
    if !limits.is_empty() {
        let property = |(key, value): (String, String)| {
            (key["throttling.".len()..].to_owned(), serde_json::Value::String(value))
        };
        blocks.limit(&backend, limits.into_iter().map(property).collect()).map_err(error)?;
    }
    let Some(name) = &drive.file else { return Ok(backend) };
    let overlay = (snapshot || drive.snapshot) && !drive.read_only;
    let format = drive.format.as_deref().map(Format::from_name).transpose().map_err(error)?;
    let options = OpenOptions {
        format,
        read_only: drive.read_only || overlay,
        gate: Gate::PlainFiles,
        ..OpenOptions::default()
    };
    let described =
        ["blkdebug:", "blkverify:", "json:", "nbd:"].iter().any(|p| name.starts_with(p));
    let mut node = if drive.node.is_empty() && !name.contains("://") && !described {
        blocks.open(fs, name, &options).await.map_err(error)?
    } else {
        open_described(blocks, drive, name).await.map_err(error)?
    };
    if overlay {
        node = snapshot_overlay(blocks, node).await.map_err(error)?;
    }
    backend.insert(node.medium(drive.read_only)).map_err(error)?;
    Ok(backend)
}

/// Notes on a drive which device it is for: as QEMU says it, the id, or where the device has a part that
/// is the disk, the path of that.
pub(crate) fn note_device(backend: &BlockBackend, spec: &DeviceSpec) {
    let prop = |name: &str| spec.props.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    let id = prop("id").unwrap_or_default();
    let virtio = spec.kind.starts_with("virtio-blk");
    let path = match (id, virtio) {
        ("", _) => format!("/machine/peripheral-anon/{}", spec.kind),
        (id, true) => format!("/machine/peripheral/{id}/virtio-backend"),
        (id, false) => id.to_owned(),
    };
    backend.set_device(&path);
}

/// The geometry that a disk was partitioned with.
pub(crate) async fn partition_geometry(disk: &Node) -> Option<Shape> {
    if disk.len() < 512 {
        return None;
    }
    // The node is read, not the backend, whose requests wait until the machine runs. A disk that
    // cannot be read says so to the guest.
    let boot = disk.read(0, IoBuf::zeroed(512)).await.ok()?;
    geometry::guess(&boot.into_vec(), disk.len() / 512)
}

/// Makes a drive that a device may be given later.
pub(crate) async fn add_drive(
    blocks: &BlockGraph,
    drive: &DriveOption,
    id: &str,
) -> Result<(), BlockError> {
    let backend = blocks.create_backend(id)?;
    backend.set_on_error(drive.on_read_error, drive.on_write_error);
    let Some(name) = &drive.file else { return Ok(()) };
    match open_described(blocks, drive, name).await {
        Ok(node) => backend.insert(node.medium(drive.read_only)),
        Err(error) => {
            blocks.remove_backend(id)?;
            Err(error)
        }
    }
}

/// Opens a drive whose file is described by more than its name.
async fn open_described(
    blocks: &BlockGraph,
    drive: &DriveOption,
    name: &str,
) -> Result<Arc<Node>, BlockError> {
    let quoted = |text: &str| text.replace(',', ",,");
    let mut text = format!("driver={}", quoted(drive.format.as_deref().unwrap_or("raw")));
    let mut known = Vec::new();
    flatten("file", &NodeOptions::from_filename(name)?.to_value(), &mut known);
    for (key, value) in known {
        text += &format!(",{key}={}", quoted(&value));
    }
    for (key, value) in &drive.node {
        text += &format!(",{key}={}", quoted(value));
    }
    if drive.read_only {
        text += ",read-only=on";
    }
    blocks.open_options(&NodeOptions::from_argument(&text)?).await
}

/// Options as `path.to.key` and value.
fn flatten(path: &str, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
    use serde_json::Value;
    match value {
        Value::Null => {}
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, out));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, v)| flatten(&format!("{path}.{n}"), v, out));
        }
        Value::String(text) => out.push((path.into(), text.clone())),
        other => out.push((path.into(), other.to_string())),
    }
}

/// A layer in memory that takes the writes.
async fn snapshot_overlay(blocks: &BlockGraph, below: Arc<Node>) -> Result<Arc<Node>, BlockError> {
    let file = Arc::new(MemFile::from_bytes(&[]));
    let options = orrery_block::qcow2::CreateOptions { size: below.len(), ..Default::default() };
    orrery_block::img::create(blocks, file.clone(), Format::Qcow2, &options).await?;
    let node = blocks.open_file(None, "", file)?;
    let options = OpenOptions {
        format: Some(Format::Qcow2),
        backing: Backing::Node(below),
        ..OpenOptions::default()
    };
    blocks.open_over(&node, &options).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_options_become_paths_and_what_is_absent_is_left_out() {
        let mut out = Vec::new();
        let value =
            json!({"driver": "blkdebug", "image": {"filename": "a,b"}, "align": 512, "x": null});
        flatten("file", &value, &mut out);
        let pairs: Vec<_> = out.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [("file.driver", "blkdebug"), ("file.image.filename", "a,b"), ("file.align", "512")]
        );
    }
}
