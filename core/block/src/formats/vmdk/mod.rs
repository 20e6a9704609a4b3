//! The `vmdk` format: a description that lists extents, flat and sparse.
//!
//! Reference: VMware, "Virtual Disk Format 5.0".

mod create;
mod sparse;

pub(crate) use create::create;
pub use create::{VmdkCreate, VmdkKind};

use super::flat::Flat;
use super::mapped::Mapped;
use super::{Facts, Image, OpenArgs, Specific, StoredName, le64, read_exactly};
use crate::driver::{Access, BlockStatus, Driver, Map};
use crate::graph::{Edge, Node, Perm, Role};
use crate::qcow2::{CheckResult, Repair};
use crate::sync::{RangeLock, lock};
use crate::{BlockError, IoBuf, Op, Result};
use serde::Serialize;
use sparse::Sparse;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const MAX_DESCRIPTION: u64 = 1 << 20;
const NO_PARENT: u32 = u32::MAX;

/// How an extent is described.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    sectors: u64,
    kind: String,
    file: Option<String>,
    /// First sector in a flat file.
    start: u64,
    writable: bool,
}

/// What the description says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Description {
    cid: u32,
    parent_cid: Option<u32>,
    create_type: String,
    parent: Option<String>,
    lines: Vec<Line>,
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

impl Description {
    fn parse(text: &str) -> Result<Self> {
        let mut out = Self::default();
        let mut has_cid = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with('#') || line.is_empty() {
                continue;
            }
            let first = line.split_whitespace().next().unwrap_or_default();
            if ["RW", "RDONLY", "NOACCESS"].contains(&first) {
                if first != "NOACCESS" {
                    out.lines.push(Self::extent(line)?);
                }
            } else if let Some((key, value)) = line.split_once('=') {
                let value = value.trim().trim_matches('"');
                let hex = || {
                    u32::from_str_radix(value, 16)
                        .map_err(|_| BlockError::corrupt(format!("'{line}' is not a content ID")))
                };
                match key.trim() {
                    "CID" => {
                        out.cid = hex()?;
                        has_cid = true;
                    }
                    "parentCID" => out.parent_cid = Some(hex()?),
                    "createType" => out.create_type = value.into(),
                    "parentFileNameHint" => out.parent = Some(value.into()),
                    _ => {}
                }
            }
        }
        if out.create_type.is_empty() {
            return bad("invalid VMDK image descriptor");
        }
        let _ = has_cid;
        Ok(out)
    }

    /// `RW 12345 SPARSE "name" 0`
    fn extent(line: &str) -> Result<Line> {
        let wrong = || BlockError::corrupt(format!("Invalid extent line: {line}"));
        let (before, after) = match line.split_once('"') {
            Some((before, rest)) => {
                let (name, after) = rest.split_once('"').ok_or_else(wrong)?;
                (before, Some((name, after)))
            }
            None => (line, None),
        };
        let mut words = before.split_whitespace();
        let access = words.next().ok_or_else(wrong)?;
        let sectors: u64 = words.next().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        let kind = words.next().ok_or_else(wrong)?.to_owned();
        if words.next().is_some() || sectors == 0 && kind != "ZERO" {
            return Err(wrong());
        }
        let start = match after {
            Some((_, rest)) => match rest.split_whitespace().next() {
                Some(number) => Some(number.parse::<u64>().map_err(|_| wrong())?),
                None => None,
            },
            None => None,
        };
        let ok = match kind.as_str() {
            "FLAT" => after.is_some() && start.is_some(),
            "VMFS" | "SPARSE" | "VMFSSPARSE" | "SESPARSE" => after.is_some(),
            "ZERO" => after.is_none(),
            _ => return Err(BlockError::unsupported(format!("Unsupported extent type '{kind}'"))),
        };
        if !ok {
            return Err(wrong());
        }
        let file = after.map(|(name, _)| name.to_owned());
        let start = start.unwrap_or(0);
        Ok(Line { sectors, kind, file, start, writable: access == "RW" })
    }
}

/// One extent, open.
enum Body {
    Zero,
    Flat(Flat),
    Sparse(Box<Mapped<Sparse>>),
}

struct Extent {
    /// Where it starts on the disk, and its length.
    start: u64,
    len: u64,
    filename: String,
    body: Body,
}

/// The driver.
pub(crate) struct Vmdk {
    file: Arc<Edge>,
    args: OpenArgs,
    read_only: bool,
    description: Description,
    /// Where the description is: offset and length.
    description_at: (u64, u64),
    len: u64,
    extents: Mutex<Vec<Option<Arc<Extent>>>>,
    backing: Mutex<Option<Arc<Edge>>>,
    parent_ok: AtomicBool,
    cid_done: AtomicBool,
    starting: Arc<RangeLock>,
}

/// What a description says, for tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmdkInfo {
    /// Identity of the content.
    pub cid: u32,
    /// Identity of the parent's content.
    pub parent_cid: u32,
    /// Kind of image.
    pub create_type: String,
    /// The extents.
    pub extents: Vec<ExtentInfo>,
}

/// One extent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExtentInfo {
    /// Grains are compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
    /// Bytes of the disk in it.
    pub virtual_size: u64,
    /// Its file.
    pub filename: String,
    /// Bytes in a grain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// `FLAT` or `SPARSE`.
    pub format: String,
}

/// Opens an image; its extents are attached afterwards.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Vmdk> {
    let head = file.read(0, IoBuf::zeroed(512)).await?;
    let read_only = args.read_only || file.read_only();
    let one =
        |len: u64, body: Body| Extent { start: 0, len, filename: file.filename().into(), body };
    let (description, description_at, len, extents);
    if &head[..4] == sparse::MAGIC || &head[..4] == sparse::COWD || le64(&head, 0) == 0xcafe_babe {
        let extent = sparse::open(file, read_only, args.for_check || args.no_io).await?;
        (description, description_at) = match extent.layout.description {
            Some((at, len)) if len <= MAX_DESCRIPTION => {
                let n = len.min(file.len().saturating_sub(at));
                let bytes = read_exactly(file, "description", at, n).await?;
                (Description::parse(&super::field_text(&bytes))?, (at, n))
            }
            Some(_) => return bad("the description is too long"),
            None => {
                let create_type = "monolithicSparse".into();
                (Description { create_type, ..Description::default() }, (0, 0))
            }
        };
        len = extent.len();
        extents = vec![Some(Arc::new(one(len, Body::Sparse(Box::new(extent)))))];
    } else {
        if file.len() > MAX_DESCRIPTION {
            return Err(BlockError::invalid("Image not in VMDK format"));
        }
        let bytes = read_exactly(file, "description", 0, file.len()).await?;
        let text = super::field_text(&bytes);
        let is_description = text.lines().map(str::trim).find(|line| !line.is_empty());
        if !is_description.is_some_and(|line| line.starts_with('#') || line.starts_with("version"))
        {
            return Err(BlockError::invalid("Image not in VMDK format"));
        }
        let parsed = Description::parse(&text)?;
        const KINDS: [&str; 7] = [
            "monolithicFlat",
            "vmfs",
            "vmfsSparse",
            "seSparse",
            "twoGbMaxExtentSparse",
            "twoGbMaxExtentFlat",
            "monolithicSparse",
        ];
        if !KINDS.contains(&parsed.create_type.as_str()) {
            return Err(BlockError::unsupported(format!(
                "Unsupported image type '{}'",
                parsed.create_type
            )));
        }
        let mut total: u64 = 0;
        for line in &parsed.lines {
            total = line
                .sectors
                .checked_mul(512)
                .and_then(|bytes| total.checked_add(bytes))
                .filter(|total| *total <= i64::MAX as u64)
                .ok_or_else(|| BlockError::corrupt("the disk is too large"))?;
        }
        len = total;
        extents = parsed.lines.iter().map(|_| None).collect();
        description_at = (0, file.len());
        description = parsed;
    }
    let edge = Edge::attach(Role::File, file, Perm::CONSISTENT_READ, Perm::all());
    let no_parent = description.parent_cid.is_none_or(|cid| cid == NO_PARENT);
    Ok(Vmdk {
        file: edge?,
        args: args.clone(),
        read_only,
        description,
        description_at,
        len,
        extents: Mutex::new(extents),
        backing: Mutex::default(),
        parent_ok: AtomicBool::new(no_parent),
        cid_done: AtomicBool::new(false),
        starting: Arc::default(),
    })
}

impl Vmdk {
    fn extent_at(&self, offset: u64) -> Result<Arc<Extent>> {
        let extents = lock(&self.extents);
        let found = extents
            .iter()
            .flatten()
            .find(|extent| offset >= extent.start && offset - extent.start < extent.len);
        found.cloned().ok_or_else(|| BlockError::corrupt("an extent of the disk is not open"))
    }

    fn backing(&self) -> Option<Arc<Node>> {
        lock(&self.backing).as_ref().and_then(|edge| edge.node())
    }

    fn check_parent(&self) -> Result<()> {
        if self.backing().is_some() && !self.parent_ok.load(Ordering::Relaxed) {
            return bad("the content of the parent has changed since the image was made");
        }
        Ok(())
    }

    /// Content is about to change, so it gets a new identity: children made before no longer fit.
    async fn begin(&self) -> Result<()> {
        if self.cid_done.load(Ordering::Acquire) {
            return Ok(());
        }
        let _guard = self.starting.acquire_all().await;
        if self.cid_done.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.read_only {
            return Err(BlockError::ReadOnly);
        }
        let (at, len) = self.description_at;
        if let Some(file) = self.file.node().filter(|_| len > 0) {
            let bytes = file.read(at, IoBuf::zeroed(len as usize)).await?;
            let found = bytes.windows(5).position(|w| w == b"\nCID=");
            if let Some(i) = found.filter(|i| i + 13 <= bytes.len()) {
                let mut next = self.description.cid.wrapping_mul(0x9e37_79b1).wrapping_add(1);
                if next == NO_PARENT || next == self.description.cid {
                    next = self.description.cid.wrapping_add(1) & 0x7fff_ffff;
                }
                let text = format!("{next:08x}");
                file.write(at + i as u64 + 5, IoBuf::from(text.as_bytes())).await?;
            }
        }
        self.cid_done.store(true, Ordering::Release);
        Ok(())
    }

    async fn read_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        self.check_parent()?;
        let total = buf.len();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let extent = self.extent_at(at)?;
            let within = at - extent.start;
            let n = (total - done).min((extent.len - within) as usize);
            match &extent.body {
                Body::Zero => buf[done..done + n].fill(0),
                Body::Flat(flat) => buf = flat.read_into(within, buf, done, n).await?,
                Body::Sparse(sparse) => {
                    let old = buf.narrow(done..done + n);
                    buf = sparse.read_any(within, buf).await?;
                    buf.widen(old);
                }
            }
            done += n;
        }
        Ok(buf)
    }

    async fn write_any(&self, offset: u64, mut buf: IoBuf) -> Result<IoBuf> {
        self.begin().await?;
        let total = buf.len();
        let mut done = 0;
        while done < total {
            let at = offset + done as u64;
            let extent = self.extent_at(at)?;
            let within = at - extent.start;
            let n = (total - done).min((extent.len - within) as usize);
            match &extent.body {
                Body::Zero => return Err(BlockError::unsupported("the extent is all zeros")),
                Body::Flat(flat) => buf = flat.write_from(within, buf, done, n).await?,
                Body::Sparse(sparse) => {
                    let old = buf.narrow(done..done + n);
                    buf = sparse.write_any(within, buf).await?;
                    buf.widen(old);
                }
            }
            done += n;
        }
        Ok(buf)
    }

    async fn zero_any(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        self.begin().await?;
        let mut done = 0;
        while done < len {
            let extent = self.extent_at(offset + done)?;
            let within = offset + done - extent.start;
            let n = (len - done).min(extent.len - within);
            match &extent.body {
                Body::Zero => {}
                Body::Flat(flat) => flat.write_zeroes(within, n, unmap).await?,
                Body::Sparse(sparse) => sparse.zero_any(within, n, unmap).await?,
            }
            done += n;
        }
        Ok(())
    }

    async fn discard_any(&self, offset: u64, len: u64) -> Result<()> {
        self.begin().await?;
        let mut done = 0;
        while done < len {
            let extent = self.extent_at(offset + done)?;
            let within = offset + done - extent.start;
            let n = (len - done).min(extent.len - within);
            match &extent.body {
                Body::Zero => {}
                Body::Flat(flat) => flat.discard(within, n).await?,
                Body::Sparse(sparse) => sparse.discard_any(within, n).await?,
            }
            done += n;
        }
        Ok(())
    }

    async fn for_each_file(&self, close: bool) -> Result<()> {
        let extents: Vec<_> = lock(&self.extents).iter().flatten().cloned().collect();
        for extent in extents {
            match &extent.body {
                Body::Zero => {}
                Body::Flat(flat) => flat.flush().await?,
                Body::Sparse(sparse) if close => sparse.close_all().await?,
                Body::Sparse(sparse) => sparse.flush_all().await?,
            }
        }
        Ok(())
    }

    async fn status_of(&self, offset: u64, len: u64) -> Result<BlockStatus> {
        let zero = BlockStatus {
            len,
            zero: true,
            allocated: true,
            data: false,
            compressed: false,
            offset: None,
        };
        let len = len.min(self.len.saturating_sub(offset));
        if len == 0 {
            return Ok(BlockStatus { len: 0, ..zero });
        }
        let extent = self.extent_at(offset)?;
        let within = offset - extent.start;
        let len = len.min(extent.len - within);
        Ok(match &extent.body {
            Body::Zero => BlockStatus { len, ..zero },
            Body::Flat(flat) => flat.status(within, len).await?,
            Body::Sparse(sparse) => {
                let status = sparse.status_of(within, len).await?;
                let zero = status.zero && (status.allocated || self.backing().is_none());
                BlockStatus { zero, ..status }
            }
        })
    }

    async fn attach(&self, index: usize, node: &Arc<Node>) -> Result<()> {
        let with_file: Vec<usize> = (0..self.description.lines.len())
            .filter(|i| self.description.lines[*i].file.is_some())
            .collect();
        let Some(which) = with_file.get(index).copied() else {
            return Err(BlockError::invalid("no such extent"));
        };
        let start: u64 = self.description.lines[..which].iter().map(|l| l.sectors * 512).sum();
        let line = &self.description.lines[which];
        let read_only = self.read_only || node.read_only();
        let len = line.sectors * 512;
        let body = match line.kind.as_str() {
            "FLAT" | "VMFS" => {
                let at = line.start.checked_mul(512);
                let at = at.ok_or_else(|| BlockError::corrupt("an extent is out of range"))?;
                Body::Flat(Flat::new(node, at, len, read_only, None)?)
            }
            _ => {
                let no_io = self.args.for_check || self.args.no_io;
                let sparse = sparse::open(node, read_only, no_io).await?;
                if sparse.len() < len {
                    return bad("an extent is shorter than its description says");
                }
                Body::Sparse(Box::new(sparse))
            }
        };
        let filename = node.filename().to_owned();
        lock(&self.extents)[which] = Some(Arc::new(Extent { start, len, filename, body }));
        self.attach_zero();
        Ok(())
    }

    fn attach_zero(&self) {
        let mut start = 0;
        let mut extents = lock(&self.extents);
        for (slot, line) in extents.iter_mut().zip(&self.description.lines) {
            let len = line.sectors * 512;
            if line.kind == "ZERO" && slot.is_none() {
                let filename = String::new();
                *slot = Some(Arc::new(Extent { start, len, filename, body: Body::Zero }));
            }
            start += len;
        }
    }

    async fn check_all(&self) -> Result<CheckResult> {
        let mut result = CheckResult::default();
        let extents: Vec<_> = lock(&self.extents).iter().flatten().cloned().collect();
        for extent in extents {
            let Body::Sparse(sparse) = &extent.body else { continue };
            let scan = sparse.scan().await?;
            let len = sparse.file()?.len();
            for (grain, at) in &scan.data {
                if *at >= len {
                    result.corrupt(|| format!("grain {grain} at {at:#x} is beyond the file"));
                }
            }
            for (grain, error) in &scan.bad {
                result.corrupt(|| format!("grain {grain}: {error}"));
            }
            result.allocated_clusters += scan.data.len() as u64;
            result.compressed_clusters += scan.packed;
        }
        Ok(result)
    }
}

impl Driver for Vmdk {
    fn name(&self) -> &'static str {
        "vmdk"
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        let mut edges = vec![self.file.clone()];
        for extent in lock(&self.extents).iter().flatten() {
            match &extent.body {
                Body::Flat(flat) => edges.push(flat.edge().clone()),
                Body::Sparse(sparse) => edges.extend(sparse.children()),
                Body::Zero => {}
            }
        }
        edges.extend(lock(&self.backing).clone());
        edges
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        if access == Access::Write && !self.cid_done.load(Ordering::Acquire)
            || self.check_parent().is_err()
        {
            return Map::Defer;
        }
        let Ok(extent) = self.extent_at(offset) else { return Map::Defer };
        let within = offset - extent.start;
        if len > extent.len - within {
            return Map::Defer;
        }
        match &extent.body {
            Body::Flat(flat) => flat.map(access, within, len),
            Body::Sparse(sparse) => sparse.map(access, within, len),
            Body::Zero => Map::Defer,
        }
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.read_any(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.write_any(offset, buf).await })
    }

    fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            self.begin().await?;
            let extent = self.extent_at(offset)?;
            match &extent.body {
                Body::Sparse(sparse) if sparse.layout.compressed => {
                    sparse.write_packed(offset - extent.start, buf).await
                }
                _ => Err(BlockError::unsupported("only streamOptimized images are compressed")),
            }
        })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move { self.zero_any(offset, len, unmap).await })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        Op::pending(async move { self.discard_any(offset, len).await })
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::pending(async move { self.for_each_file(false).await })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::pending(async move { self.status_of(offset, len).await })
    }

    fn close(self: Arc<Self>) -> Op<()> {
        Op::pending(async move { self.for_each_file(true).await })
    }
}

impl Image for Vmdk {
    fn backing_name(&self) -> Option<StoredName> {
        let cid = self.description.parent_cid?;
        let name = self.description.parent.clone().filter(|_| cid != NO_PARENT)?;
        Some(StoredName { name, format: Some("vmdk".into()) })
    }

    fn set_backing(&self, node: &Arc<Node>) -> Result<()> {
        let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
        let edge = Edge::attach(Role::Backing, node, Perm::CONSISTENT_READ, shared)?;
        // A parent without an identity of its own is taken as it is.
        let ok = match node.image().map(|image| image.facts().specific) {
            Some(Some(Specific::Vmdk(info))) => Some(info.cid) == self.description.parent_cid,
            _ => true,
        };
        self.parent_ok.store(ok, Ordering::Relaxed);
        for extent in lock(&self.extents).iter().flatten() {
            if let Body::Sparse(sparse) = &extent.body {
                sparse.set_backing_at(node, extent.start)?;
            }
        }
        *lock(&self.backing) = Some(edge);
        Ok(())
    }

    fn extent_names(&self) -> Vec<String> {
        if lock(&self.extents).iter().all(Option::is_some) {
            return Vec::new();
        }
        self.attach_zero();
        self.description.lines.iter().filter_map(|line| line.file.clone()).collect()
    }

    fn set_extent(self: Arc<Self>, index: usize, node: Arc<Node>) -> Op<()> {
        Op::pending(async move { self.attach(index, &node).await })
    }

    fn facts(&self) -> Facts {
        let extents = lock(&self.extents);
        let list: Vec<_> = extents
            .iter()
            .flatten()
            .map(|extent| {
                let (format, cluster_size, compressed) = match &extent.body {
                    // An extent that describes itself has no line that would name its kind.
                    Body::Sparse(s) => {
                        let kind = if self.description_at.0 > 0 { "" } else { "SPARSE" };
                        (kind, Some(s.shape.block), s.layout.compressed)
                    }
                    Body::Flat(_) => ("FLAT", None, false),
                    Body::Zero => ("ZERO", None, false),
                };
                ExtentInfo {
                    compressed: compressed.then_some(true),
                    virtual_size: extent.len,
                    filename: extent.filename.clone(),
                    cluster_size,
                    format: format.into(),
                }
            })
            .collect();
        let info = VmdkInfo {
            create_type: self.description.create_type.clone(),
            cid: self.description.cid,
            parent_cid: self.description.parent_cid.unwrap_or(NO_PARENT),
            extents: list,
        };
        let cluster_size = info.extents.iter().find_map(|extent| extent.cluster_size);
        Facts { cluster_size, specific: Some(Specific::Vmdk(info)), ..Facts::default() }
    }

    fn check(self: Arc<Self>, repair: Repair) -> Op<CheckResult> {
        if repair != Repair::Nothing {
            return Op::err(BlockError::unsupported("This image format does not support repairs"));
        }
        Op::pending(async move { self.check_all().await })
    }
}
