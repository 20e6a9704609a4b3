//! New images.

use super::sparse;
use crate::graph::BlockGraph;
use crate::host::HostFs;
use crate::{BlockError, Result};
use serde::{Deserialize, Serialize};

/// Subformats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VmdkKind {
    /// One sparse file.
    #[default]
    MonolithicSparse,
    /// A description and one flat file.
    MonolithicFlat,
    /// Sparse files of at most 2 GB.
    TwoGbMaxExtentSparse,
    /// Flat files of at most 2 GB.
    TwoGbMaxExtentFlat,
    /// One compressed file.
    StreamOptimized,
}

impl VmdkKind {
    /// Its name in descriptions.
    pub fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

/// What a new image is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VmdkCreate {
    /// Bytes of the disk.
    pub size: u64,
    /// `ide`, `buslogic`, `lsilogic` or `legacyESX`.
    pub adapter_type: Option<String>,
    /// The parent, as it is stored.
    pub backing_file: Option<String>,
    /// Identity of the parent's content.
    pub parent_cid: Option<u32>,
    /// Version 6 of the virtual hardware.
    pub compat6: bool,
    /// Version of the virtual hardware.
    pub hwversion: Option<String>,
    /// Version of the guest's tools.
    pub toolsversion: Option<String>,
    /// Subformat.
    pub subformat: VmdkKind,
    /// Let grains be marked as zeros.
    pub zeroed_grain: bool,
}

const SPLIT: u64 = 0x8000_0000;

/// Writes an empty image and the files that belong to it.
pub(crate) async fn create(
    graph: &BlockGraph,
    fs: &dyn HostFs,
    filename: &str,
    options: &VmdkCreate,
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<()> {
    let kind = options.subformat;
    let flat = matches!(kind, VmdkKind::MonolithicFlat | VmdkKind::TwoGbMaxExtentFlat);
    let split = matches!(kind, VmdkKind::TwoGbMaxExtentFlat | VmdkKind::TwoGbMaxExtentSparse);
    let adapter = options.adapter_type.as_deref().unwrap_or("ide");
    if !["ide", "buslogic", "lsilogic", "legacyESX"].contains(&adapter) {
        return Err(BlockError::invalid(format!("Unknown adapter type: '{adapter}'")));
    }
    if options.compat6 && options.hwversion.is_some() {
        return Err(BlockError::invalid("compat6 cannot be enabled with hwversion set"));
    }
    if options.backing_file.is_some() && flat {
        return Err(BlockError::invalid("Flat image can't have backing file"));
    }
    if flat && options.zeroed_grain {
        return Err(BlockError::invalid("Flat image can't enable zeroed grain"));
    }
    let heads = if adapter == "ide" { 16 } else { 255 };
    let hwversion = match &options.hwversion {
        Some(version) => version.as_str(),
        None if options.compat6 => "6",
        None => "4",
    };
    let tools = options.toolsversion.as_deref().unwrap_or("2147483647");
    let (folder, name) = filename.rsplit_once('/').map_or(("", filename), |(a, b)| (a, b));
    let (stem, suffix) = name.rsplit_once('.').map_or((name, ""), |(a, b)| (a, b));
    let dot = if suffix.is_empty() { "" } else { "." };
    let mut id = [0; 4];
    random(&mut id);
    let cid = u32::from_le_bytes(id) & 0x7fff_ffff;
    let sectors = options.size.div_ceil(512);
    let mut extents = String::new();
    let mut files = Vec::new();
    let one = if split { SPLIT } else { u64::MAX };
    let mut left = options.size;
    let mut number = 1;
    while left > 0 || number == 1 {
        let n = left.min(one);
        let file = match (split, flat) {
            (true, _) => {
                format!("{stem}-{}{number:03}{dot}{suffix}", if flat { 'f' } else { 's' })
            }
            (false, true) => format!("{stem}-flat{dot}{suffix}"),
            (false, false) => name.to_owned(),
        };
        let kind = if flat { "FLAT" } else { "SPARSE" };
        let tail = if flat { " 0" } else { "" };
        extents += &format!("RW {} {kind} \"{file}\"{tail}\n", n.div_ceil(512));
        files.push((file, n));
        left -= n;
        number += 1;
    }
    let parent = match &options.backing_file {
        Some(name) => format!("parentFileNameHint=\"{name}\"\n"),
        None => String::new(),
    };
    let parent_cid = options.parent_cid.unwrap_or(u32::MAX);
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\n\
         createType=\"{}\"\n{parent}\n# Extent description\n{extents}\n\
         # The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{hwversion}\"\n\
         ddb.geometry.cylinders = \"{}\"\nddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"63\"\nddb.adapterType = \"{adapter}\"\n\
         ddb.toolsVersion = \"{tools}\"\n",
        kind.name(),
        sectors / (63 * heads),
    );
    if text.len() > 20 * 512 && !flat && !split {
        return Err(BlockError::invalid("the description does not fit into the image"));
    }
    let zero = options.zeroed_grain;
    if !flat && !split {
        let file = graph.open_file(None, filename, fs.create(filename).await?)?;
        let compressed = kind == VmdkKind::StreamOptimized;
        return sparse::create(&file, options.size, compressed, zero, Some(&text)).await;
    }
    for (name, len) in files {
        let path = if folder.is_empty() && !filename.starts_with('/') {
            name
        } else {
            format!("{folder}/{name}")
        };
        let file = graph.open_file(None, &path, fs.create(&path).await?)?;
        if flat {
            file.truncate(len).await?;
            file.flush().await?;
        } else {
            sparse::create(&file, len, false, zero, None).await?;
        }
    }
    let file = graph.open_file(None, filename, fs.create(filename).await?)?;
    file.write(0, text.into_bytes().into()).await?;
    file.flush().await
}
