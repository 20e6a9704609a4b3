//! `map` and `measure`, and how a range is stored in a chain.

use super::create::{format_of, values};
use super::info::output;
use super::{Args, Done, Fail, Image, Session, Spec, prepare, reason, say, size_argument};
use orrery_block::graph::{BlockStatus, Node};
use orrery_block::{BlockError, Format};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// The start of a range, as a chain stores it.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) status: BlockStatus,
    pub(crate) depth: u32,
    pub(crate) node: Arc<Node>,
}

/// True when data clusters of an image may be holes of its file.
pub(crate) fn looks_preallocated(node: &Arc<Node>) -> bool {
    let Some(handle) = node.image_handle() else { return false };
    let Some(cluster) = handle.facts().cluster_size.filter(|_| node.driver_name() == "qcow2")
    else {
        return false;
    };
    let Some(file) = node.child("file") else { return false };
    let Ok(meta) = std::fs::metadata(file.filename()) else { return false };
    let (used, real) = (meta.len() / cluster, meta.blocks() * 512 / cluster);
    used >= (real * 10 / 9).max(real + 2)
}

/// Says how the start of a range is stored in one node.
async fn status(node: &Arc<Node>, at: u64, len: u64) -> Result<BlockStatus, BlockError> {
    let mut status = node.status(at, len).await?;
    if let (true, Some(offset)) = (status.data && !status.zero, status.offset)
        && looks_preallocated(node)
        && let Some(file) = node.child("data-file").or_else(|| node.child("file"))
        && offset < file.len()
    {
        let below = file.status(offset, status.len).await?;
        status.zero = below.zero;
        status.len = status.len.min(below.len.max(512));
    }
    Ok(status)
}

/// Says how the start of a range is stored in a chain, `base` and what is below it left out.
pub(crate) async fn stored(
    node: &Arc<Node>,
    base: Option<&Arc<Node>>,
    at: u64,
    len: u64,
) -> Result<Stored, BlockError> {
    let mut node = node.clone();
    let mut len = len;
    let mut depth = 0;
    loop {
        let there = node.len().saturating_sub(at).min(len);
        if there == 0 {
            if depth == 0 && node.driver_name() == "raw" {
                let status = BlockStatus {
                    len,
                    zero: true,
                    allocated: true,
                    data: false,
                    compressed: false,
                    offset: Some(at),
                };
                return Ok(Stored { status, depth, node });
            }
            let status = BlockStatus {
                len,
                zero: true,
                allocated: depth > 0,
                data: false,
                compressed: false,
                offset: None,
            };
            return Ok(Stored { status, depth, node });
        }
        let now = status(&node, at, there).await?;
        let mut image = node.clone();
        while let Some(below) = image.filtered().filter(|_| image.is_filter()) {
            image = below;
        }
        match image.backing() {
            Some(below) if !now.allocated => {
                if base.is_some_and(|base| Arc::ptr_eq(base, &below)) {
                    return Ok(Stored { status: BlockStatus { zero: false, ..now }, depth, node });
                }
                len = now.len;
                node = below;
                depth += 1;
            }
            // (What a server does not have may be anything.)
            None if !now.allocated && node.driver_name() != "nbd" => {
                return Ok(Stored { status: BlockStatus { zero: true, ..now }, depth, node });
            }
            _ => return Ok(Stored { status: now, depth, node }),
        }
    }
}

struct Entry {
    start: u64,
    stored: Stored,
}

impl Entry {
    fn same(&self, next: &Self) -> bool {
        let (a, b) = (&self.stored.status, &next.stored.status);
        let contiguous = match (a.offset, b.offset) {
            (Some(x), Some(y)) => x + a.len == y,
            (None, None) => true,
            _ => false,
        };
        contiguous
            && self.stored.depth == next.stored.depth
            && (a.zero, a.data, a.allocated, a.compressed)
                == (b.zero, b.data, b.allocated, b.compressed)
            && self.stored.node.filename() == next.stored.node.filename()
    }

    fn print(&self, json: bool, first: bool, last: bool) -> Done {
        let s = &self.stored.status;
        if json {
            let offset = s.offset.map_or(String::new(), |at| format!(", \"offset\": {at}"));
            let text = format!(
                "{}{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}{offset}}}{}",
                if first { "[" } else { "" },
                self.start,
                s.len,
                self.stored.depth,
                s.allocated,
                s.zero,
                s.data,
                s.compressed,
                if last { "]" } else { "," },
            );
            say(&text);
            return Ok(());
        }
        if s.data && s.offset.is_none() {
            return Err(Fail::new("File contains external, encrypted or compressed clusters."));
        }
        if s.data && !s.zero {
            let file =
                self.stored.node.child("data-file").or_else(|| self.stored.node.child("file"));
            let name = file.map_or_else(
                || self.stored.node.filename().to_owned(),
                |f| f.filename().to_owned(),
            );
            say(&format!(
                "{:<16}{:<16}{:<16}{name}",
                hex(self.start),
                hex(s.len),
                hex(s.offset.unwrap_or(0))
            ));
        }
        Ok(())
    }
}

/// `%#x`
fn hex(n: u64) -> String {
    if n == 0 { "0".into() } else { format!("{n:#x}") }
}

pub(super) fn map(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "f:s:l:Uh",
        &[
            "output=",
            "object=",
            "image-opts",
            "force-share",
            "start-offset=",
            "max-length=",
            "help",
        ],
    )?;
    prepare(session, &args)?;
    let json = output(&args)?;
    let size = |short: &str, long: &str, what: &str| match args.get(short).or(args.get(long)) {
        Some(text) => size_argument(what, text).map(Some),
        None => Ok(None),
    };
    let start = size("s", "start-offset", "start offset")?.unwrap_or(0);
    let max = size("l", "max-length", "max length")?;
    let [name] = &args.rest[..] else { return Err(Fail::usage("Expecting one image file name")) };
    let image = session.open(&Spec {
        name: name.clone(),
        format: args.get("f").map(str::to_owned),
        image_opts: args.has("image-opts"),
        share: args.has("U") || args.has("force-share"),
        ..Spec::default()
    })?;
    if !json {
        say(&format!("{:<16}{:<16}{:<16}{}", "Offset", "Length", "Mapped to", "File"));
    }
    // Disks end at a sector, wherever their file does.
    let len = image.node.len().next_multiple_of(512);
    let end = max.map_or(len, |max| len.min(start.saturating_add(max)));
    let mut at = start;
    let mut last: Option<Entry> = None;
    let mut first = true;
    while at < end {
        let stored = session
            .run(stored(&image.node, None, at, end - at))
            .map_err(|e| Fail::new(format!("Failed to read image metadata: {}", reason(&e))))?;
        let len = stored.status.len;
        let entry = Entry { start: at, stored };
        at += len;
        match &mut last {
            Some(old) if old.same(&entry) => old.stored.status.len += len,
            _ => {
                if let Some(old) = last.replace(entry) {
                    old.print(json, first, false)?;
                    first = false;
                }
            }
        }
    }
    match last {
        Some(last) => last.print(json, first, true)?,
        None if json => say("[]"),
        None => {}
    }
    Ok(())
}

/// What a qcow2 image of a disk needs besides data clusters.
fn qcow2_metadata(clusters: u64, cluster: u64, entry: u64, refcount_order: u64) -> u64 {
    let l2 = (clusters * entry).div_ceil(cluster) * cluster;
    let l1 = ((l2 / cluster) * 8).div_ceil(cluster) * cluster;
    let used = 1 + l2 / cluster + l1 / cluster + clusters;
    let per_block = cluster * 8 >> refcount_order;
    // Refcount structures count themselves.
    let (mut blocks, mut table) = (0, 0);
    loop {
        let next_blocks = (used + blocks + table).div_ceil(per_block);
        let next_table = (next_blocks * 8).div_ceil(cluster);
        if (next_blocks, next_table) == (blocks, table) {
            break;
        }
        (blocks, table) = (next_blocks, next_table);
    }
    cluster + l2 + l1 + (blocks + table) * cluster
}

pub(super) fn measure(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "f:O:o:l:Uh",
        &["output=", "object=", "image-opts", "force-share", "size=", "help"],
    )?;
    prepare(session, &args)?;
    let json = output(&args)?;
    let target = args.get("O").unwrap_or("raw");
    let values = values(&args)?;
    if let Some(text) = args.get("l").and_then(|text| text.strip_prefix("snapshot."))
        && !text.starts_with("id=")
        && !text.starts_with("name=")
    {
        let name = text.split('=').next().unwrap_or_default();
        return Err(Fail::new(format!(
            "Invalid parameter 'snapshot.{name}'\nqemu-img: Failed in parsing snapshot param 'snapshot.{text}'"
        )));
    }
    let given = match args.get("size") {
        Some(text) => Some(size_argument("Image", text)?),
        None => None,
    };
    if args.rest.len() > 1 {
        return Err(Fail::new("At most one filename argument is allowed."));
    }
    if args.rest.is_empty() && (args.has("image-opts") || args.has("f") || args.has("l")) {
        return Err(Fail::new("--image-opts, -f, and -l require a filename argument."));
    }
    match (given, args.rest.is_empty()) {
        (None, true) => {
            return Err(Fail::new("Either --size N or one filename must be specified."));
        }
        (Some(_), false) => {
            return Err(Fail::new("--size N cannot be used together with a filename."));
        }
        _ => {}
    }
    let image: Option<Image> = match args.rest.first() {
        Some(name) => Some(session.open(&Spec {
            name: name.clone(),
            format: args.get("f").map(str::to_owned),
            image_opts: args.has("image-opts"),
            share: args.has("U") || args.has("force-share"),
            snapshot: args.get("l").map(super::convert::snapshot_name),
            ..Spec::default()
        })?),
        None => None,
    };
    let format = format_of(target)?;
    values.check(format).map_err(|e| Fail::new(reason(&e)))?;
    let fail = |e: BlockError| Fail::new(reason(&e));
    let size = match (&image, given, values.size("size").map_err(fail)?) {
        (Some(image), ..) => image.node.len(),
        (None, Some(size), _) | (None, None, Some(size)) => size,
        _ => 0,
    };
    let (mut required, mut full);
    let mut bitmaps = None;
    match format {
        Format::Raw => {
            required = size.next_multiple_of(512);
            full = required;
        }
        Format::Luks => {
            let options = orrery_block::crypto::luks::LuksOptions::default();
            let _ = options;
            full = 2_068_480 + size.next_multiple_of(512);
            required = full;
        }
        Format::Qcow2 => {
            let cluster = values.size("cluster_size").map_err(fail)?.unwrap_or(65536);
            if !cluster.is_power_of_two() || !(512..=2 << 20).contains(&cluster) {
                return Err(Fail::new("Cluster size must be a power of two between 512 and 2048k"));
            }
            let bits = values.number("refcount_bits").map_err(fail)?.unwrap_or(16);
            if !bits.is_power_of_two() || bits > 64 {
                return Err(Fail::new(
                    "Refcount width must be a power of two and may not exceed 64 bits",
                ));
            }
            let entry = if values.flag("extended_l2").map_err(fail)? { 16 } else { 8 };
            let disk = size.next_multiple_of(cluster);
            if size.div_ceil(cluster * cluster / entry) * 8 > 32 << 20 {
                return Err(Fail::new(
                    "The image size is too large (try using a larger cluster size)",
                ));
            }
            let luks = match values.get("encrypt.format") {
                Some("luks") => 2_068_480u64.next_multiple_of(cluster),
                _ => 0,
            };
            let metadata =
                qcow2_metadata(disk / cluster, cluster, entry, u64::from(bits.trailing_zeros()))
                    + luks;
            full = metadata + disk;
            required = full;
            if let Some(image) = &image {
                // How much of a chain the copy will share is not known: it may need all of it.
                if values.get("backing_file").is_none() {
                    required = metadata + data_in(session, image, cluster)?;
                }
                if !matches!(values.get("compat"), Some("0.10" | "v2")) {
                    bitmaps = super::bitmap::size_of_all(image, cluster);
                }
            } else if matches!(values.get("preallocation"), None | Some("off" | "metadata")) {
                required = metadata;
            }
            if matches!(values.get("preallocation"), Some("falloc" | "full")) {
                required = full;
            }
        }
        _ => {
            return Err(Fail::new(format!(
                "Block driver '{}' does not support size measurement",
                format.name()
            )));
        }
    }
    if format == Format::Raw
        && let Some(image) = &image
    {
        // As large as it is: holes are the host's affair.
        let _ = image;
        required = size.next_multiple_of(512);
        full = size.next_multiple_of(512);
    }
    if json {
        let mut map = serde_json::Map::new();
        if let Some(bitmaps) = bitmaps {
            map.insert("bitmaps".into(), bitmaps.into());
        }
        map.insert("required".into(), required.into());
        map.insert("fully-allocated".into(), full.into());
        super::info::print_json(&serde_json::Value::Object(map));
    } else {
        say(&format!("required size: {required}\nfully allocated size: {full}"));
        if let Some(bitmaps) = bitmaps {
            say(&format!("bitmaps size: {bitmaps}"));
        }
    }
    Ok(())
}

/// Bytes of data in a disk, in whole clusters.
fn data_in(session: &Session, image: &Image, cluster: u64) -> Result<u64, Fail> {
    let total = image.node.len();
    let (mut at, mut sum) = (0, 0);
    while at < total {
        let s = session
            .run(stored(&image.node, None, at, total - at))
            .map_err(|e| Fail::new(reason(&e)))?;
        let end = at + s.status.len;
        if s.status.data && !s.status.zero {
            let stop = end.next_multiple_of(cluster);
            sum += stop - at / cluster * cluster;
            at = stop;
        } else {
            at = end;
        }
    }
    Ok(sum)
}
