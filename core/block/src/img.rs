//! What image tools do, as functions that return data. Printing is the front end's.

use crate::driver::BlockStatus;
use crate::formats::{Facts, Specific, StoredName};
use crate::graph::{BlockGraph, Node, Role};
use crate::host::{BlockFile, HostFs};
use crate::open::{Backing, Format, OpenOptions};
use crate::qcow2::{CheckResult, CreateOptions, Qcow2Info, Repair};
use crate::{BlockError, IoBuf, Result, qcow2};
use serde::Serialize;
use std::sync::Arc;

/// Facts about an image, from its header alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Name it was opened by.
    pub filename: String,
    /// Its format.
    pub format: Format,
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Bytes of the file.
    pub file_size: u64,
    /// What the image says about itself; nothing for `raw`.
    pub facts: Facts,
    /// The backing file that it names.
    pub backing: Option<StoredName>,
    /// Names of other files that belong to it.
    pub extents: Vec<String>,
}

impl ImageInfo {
    /// What `qcow2` says about itself.
    pub fn qcow2(&self) -> Option<&Qcow2Info> {
        match &self.facts.specific {
            Some(Specific::Qcow2(info)) => Some(info),
            _ => None,
        }
    }
}

fn header_only(format: Option<Format>) -> OpenOptions {
    OpenOptions {
        format,
        read_only: true,
        backing: Backing::None,
        for_check: true,
        no_io: true,
        ..OpenOptions::default()
    }
}

/// Says what an image is. Opens no other file, whatever the image names.
pub async fn info(
    graph: &BlockGraph,
    fs: &dyn HostFs,
    filename: &str,
    format: Option<Format>,
) -> Result<ImageInfo> {
    let file = graph.open_host_file(fs, filename, false).await?;
    let (node, image) = graph.open_format(&file, &header_only(format)).await?;
    Ok(ImageInfo {
        filename: filename.to_owned(),
        format: Format::from_name(node.driver_name())?,
        virtual_size: node.len(),
        file_size: file.len(),
        facts: image.as_ref().map(|image| image.facts()).unwrap_or_default(),
        backing: image.as_ref().and_then(|image| image.backing_name()),
        extents: image.map(|image| image.extent_names()).unwrap_or_default(),
    })
}

/// Makes an empty image in `file`; of the options, `raw` has only the size. Other formats are
/// made by [`formats::create`](crate::formats::create).
pub async fn create(
    graph: &BlockGraph,
    file: Arc<dyn BlockFile>,
    format: Format,
    options: &CreateOptions,
) -> Result<()> {
    let node = graph.open_file(None, "", file)?;
    match format {
        Format::Raw => {
            node.truncate(0).await?;
            node.truncate(options.size).await?;
            node.flush().await
        }
        Format::Qcow2 => qcow2::create(&node, options).await,
        _ => Err(BlockError::unsupported(format!("'{}' has options of its own", format.name()))),
    }
}

/// Checks an image, and repairs what `repair` allows.
pub async fn check(
    graph: &BlockGraph,
    fs: &dyn HostFs,
    filename: &str,
    format: Option<Format>,
    repair: Repair,
) -> Result<CheckResult> {
    let write = repair != Repair::Nothing;
    let file = graph.open_host_file(fs, filename, write).await?;
    let options = OpenOptions { read_only: !write, ..header_only(format) };
    match graph.open_format(&file, &options).await? {
        (_, Some(image)) => image.check(repair).await,
        (node, None) => Err(BlockError::unsupported(format!(
            "format '{}' has nothing to check",
            node.driver_name()
        ))),
    }
}

/// A stretch of a disk that is stored alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Backing files between the image and the file that has it.
    pub depth: u32,
    /// Some file of the chain has it.
    pub present: bool,
    /// Reads as zeros.
    pub zero: bool,
    /// Stored as data.
    pub data: bool,
    /// Stored compressed.
    pub compressed: bool,
    /// Where in that file, when it is stored as it is.
    pub offset: Option<u64>,
}

/// Says how the start of a range is stored in the chain below `node`.
pub(crate) async fn status_in_chain(
    node: &Arc<Node>,
    start: u64,
    len: u64,
) -> Result<(BlockStatus, u32)> {
    let mut node = node.clone();
    let mut len = len;
    for depth in 0.. {
        let there = node.len().saturating_sub(start).min(len);
        if there == 0 {
            let nothing = BlockStatus {
                len,
                zero: true,
                allocated: false,
                data: false,
                compressed: false,
                offset: None,
            };
            return Ok((nothing, depth));
        }
        let status = node.status(start, there).await?;
        while let Some(below) = node.filtered().filter(|_| node.is_filter()) {
            node = below;
        }
        let below = node.children().into_iter().find(|edge| edge.role() == Role::Backing);
        match below.and_then(|edge| edge.node()) {
            Some(below) if !status.allocated => {
                len = status.len;
                node = below;
            }
            _ => return Ok((status, depth)),
        }
    }
    unreachable!("chains end")
}

/// Says how every byte of a disk is stored.
pub async fn map(node: &Arc<Node>) -> Result<Vec<MapEntry>> {
    let mut out: Vec<MapEntry> = Vec::new();
    let mut start = 0;
    while start < node.len() {
        let (status, depth) = status_in_chain(node, start, node.len() - start).await?;
        let entry = MapEntry {
            start,
            length: status.len,
            depth,
            present: status.allocated,
            zero: status.zero,
            data: status.data,
            compressed: status.compressed,
            offset: status.offset,
        };
        start += status.len;
        match out.last_mut() {
            Some(last) if continues(last, &entry) => last.length += entry.length,
            _ => out.push(entry),
        }
    }
    Ok(out)
}

fn continues(last: &MapEntry, next: &MapEntry) -> bool {
    let contiguous = match (last.offset, next.offset) {
        (Some(a), Some(b)) => a + last.length == b,
        (None, None) => true,
        _ => false,
    };
    contiguous
        && (last.depth, last.present, last.zero, last.data, last.compressed)
            == (next.depth, next.present, next.zero, next.data, next.compressed)
}

/// Bytes moved at a time, and the smallest run of zeros that is left out.
const CHUNK: u64 = 2 << 20;
const GRAIN: usize = 4096;

/// Copies the content of a disk to an empty one of at least its size, leaving zeros out, and
/// flushes. `progress` hears bytes done and to do.
pub async fn convert(
    from: &Arc<Node>,
    to: &Arc<Node>,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<()> {
    let total = from.len();
    if to.len() < total {
        return Err(BlockError::invalid("the target is smaller than the source"));
    }
    let mut at = 0;
    while at < total {
        let (status, _) = status_in_chain(from, at, total - at).await?;
        if status.zero || (!status.allocated && !status.data) {
            at += status.len;
        } else {
            let end = at + status.len;
            while at < end {
                let n = (end - at).min(CHUNK - at % CHUNK);
                let buf = from.read(at, IoBuf::zeroed(n as usize)).await?;
                write_sparse(to, at, buf).await?;
                at += n;
                progress(at, total);
            }
        }
        progress(at, total);
    }
    to.close().await
}

/// Writes what is not zero.
async fn write_sparse(to: &Node, at: u64, mut buf: IoBuf) -> Result<()> {
    let len = buf.len();
    let mut done = 0;
    while done < len {
        let is_zero = |start: usize| buf[start..(start + GRAIN).min(len)].iter().all(|b| *b == 0);
        let mut end = done;
        while end < len && !is_zero(end) {
            end += GRAIN;
        }
        if end > done {
            let end = end.min(len);
            let old = buf.narrow(done..end);
            buf = to.write(at + done as u64, buf).await?;
            buf.widen(old);
        }
        done = end + GRAIN;
    }
    Ok(())
}

/// Finds the first byte in which two disks differ; the shorter one goes on with zeros.
pub async fn compare(a: &Arc<Node>, b: &Arc<Node>) -> Result<Option<u64>> {
    let total = a.len().max(b.len());
    let mut at = 0;
    while at < total {
        let (left, _) = status_in_chain(a, at, total - at).await?;
        let (right, _) = status_in_chain(b, at, total - at).await?;
        let n = left.len.min(right.len);
        if left.zero && right.zero {
            at += n;
            continue;
        }
        let n = n.min(CHUNK);
        let (x, y) = (read_padded(a, at, n).await?, read_padded(b, at, n).await?);
        if x != y {
            let first = x.iter().zip(y.iter()).position(|(x, y)| x != y);
            return Ok(first.map(|i| at + i as u64));
        }
        at += n;
    }
    Ok(None)
}

async fn read_padded(node: &Node, at: u64, n: u64) -> Result<IoBuf> {
    let there = node.len().saturating_sub(at).min(n);
    let mut bytes = node.read(at, IoBuf::zeroed(there as usize)).await?.into_vec();
    bytes.resize(n as usize, 0);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Gate, MemFile, MemFs};

    #[test]
    fn an_image_is_made_filled_mapped_compared_and_checked() {
        let graph = BlockGraph::new();
        let fs = MemFs::new();
        let work = async {
            let base = CreateOptions { size: 1 << 20, ..CreateOptions::default() };
            create(&graph, fs.create("base.qcow2").await?, Format::Qcow2, &base).await?;
            let over = CreateOptions {
                size: 2 << 20,
                backing_file: Some("base.qcow2".into()),
                backing_format: Some("qcow2".into()),
                ..CreateOptions::default()
            };
            create(&graph, fs.create("over.qcow2").await?, Format::Qcow2, &over).await?;
            let options = OpenOptions { gate: Gate::PlainFiles, ..OpenOptions::default() };
            {
                let node = graph.open(&fs, "base.qcow2", &options).await?;
                node.write(65536, vec![7; 65536].into()).await?;
                node.close().await?;
            }
            let node = graph.open(&fs, "over.qcow2", &options).await?;
            node.write(0, vec![9; 10].into()).await?;
            node.write_zeroes(131_072, 65536, true).await?;
            let map = map(&node).await?;
            let short: Vec<_> =
                map.iter().map(|e| (e.start, e.length, e.depth, e.zero, e.data)).collect();
            assert_eq!(
                short,
                [
                    (0, 65536, 0, false, true),
                    (65536, 65536, 1, false, true),
                    (131_072, 65536, 0, true, false),
                    (196_608, (2 << 20) - 196_608, 1, true, false),
                ]
            );
            let copy = graph.open_file(None, "copy", Arc::new(MemFile::with_len(2 << 20)))?;
            convert(&node, &copy, |_, _| ()).await?;
            assert_eq!(compare(&node, &copy).await?, None);
            copy.write(70_000, vec![8].into()).await?;
            assert_eq!(compare(&node, &copy).await?, Some(70_000));
            node.close().await?;
            drop(node);
            let result = check(&graph, &fs, "over.qcow2", None, Repair::Nothing).await?;
            assert!(result.is_clean(), "{result:?}");
            assert_eq!((result.allocated_clusters, result.total_clusters), (1, 32));
            let info = info(&graph, &fs, "over.qcow2", None).await?;
            assert_eq!(info.virtual_size, 2 << 20);
            assert_eq!(info.qcow2().unwrap().backing_file.as_deref(), Some("base.qcow2"));
            Ok::<_, BlockError>(())
        };
        graph.executor().run_in_place(work).expect("memory never waits").unwrap();
    }

    #[test]
    fn nothing_named_by_an_image_is_opened_unless_allowed() {
        let graph = BlockGraph::new();
        let fs = MemFs::new();
        let work = async {
            let over = CreateOptions {
                size: 1 << 20,
                backing_file: Some("secret".into()),
                backing_format: Some("raw".into()),
                ..CreateOptions::default()
            };
            create(&graph, fs.create("over").await?, Format::Qcow2, &over).await?;
            let denied = graph.open(&fs, "over", &OpenOptions::default()).await;
            assert_eq!(denied.err(), Some(BlockError::Forbidden("secret".into())));
            let options = OpenOptions { gate: Gate::PlainFiles, ..OpenOptions::default() };
            let missing = graph.open(&fs, "over", &options).await;
            assert_eq!(missing.err(), Some(BlockError::NotFound("secret".into())));
            Ok::<_, BlockError>(())
        };
        graph.executor().run_in_place(work).expect("memory never waits").unwrap();
    }

    #[test]
    fn a_guessed_raw_disk_cannot_be_turned_into_another_format_by_its_guest() {
        let graph = BlockGraph::new();
        let fs = MemFs::new();
        fs.add("disk", Arc::new(MemFile::with_len(1 << 20)));
        let work = async {
            let node = graph.open(&fs, "disk", &OpenOptions::default()).await?;
            node.write(0, vec![1; 600].into()).await?;
            let evil = node.write(0, b"QFI\xfb".to_vec().into()).await;
            assert!(matches!(evil, Err(BlockError::Unsupported(_))));
            drop(node);
            let named = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
            let node = graph.open(&fs, "disk", &named).await?;
            node.write(0, b"QFI\xfb".to_vec().into()).await?;
            Ok::<_, BlockError>(())
        };
        graph.executor().run_in_place(work).expect("memory never waits").unwrap();
    }
}
