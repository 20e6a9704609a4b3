//! Making new images.

use super::Qcow2;
use super::check::RefcountLayout;
use super::entry::Shape;
use super::header::{
    COMPATIBLE_LAZY_REFCOUNTS, Compression, MAGIC, MAX_L1_BYTES, V2_LEN, autoclear, extension,
    incompatible,
};
use crate::crypto::luks::LuksOptions;
use crate::formats::OpenArgs;
use crate::graph::Node;
use crate::{BlockError, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a new image is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct CreateOptions {
    /// Bytes of the disk.
    pub size: u64,
    /// 2 (`compat=0.10`) or 3 (`compat=1.1`).
    pub version: u32,
    /// Bytes in a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Width of a refcount: a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// Let programs that can update refcounts late.
    pub lazy_refcounts: bool,
    /// Divide clusters into subclusters.
    pub extended_l2: bool,
    /// How compressed clusters are packed.
    pub compression: Compression,
    /// Name of the backing file, stored as given.
    pub backing_file: Option<String>,
    /// Format of the backing file; required with one.
    pub backing_format: Option<String>,
    /// Name of the file that holds the data, stored as given; it exists already.
    pub data_file: Option<String>,
    /// That file is the raw disk at all times.
    pub data_file_raw: bool,
    /// What is allocated from the start.
    pub preallocation: Preallocation,
    /// Encrypt data: with LUKS when its options are given, else with AES.
    pub encrypted: bool,
}

/// What a new image, or the new part of one, has from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// Tables.
    Metadata,
    /// Tables, and room in the file.
    Falloc,
    /// Tables, and zeros in the file.
    Full,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Zlib,
            backing_file: None,
            backing_format: None,
            data_file: None,
            data_file_raw: false,
            preallocation: Preallocation::Off,
            encrypted: false,
        }
    }
}

/// Names of the features that the header of a new image explains.
const FEATURES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

impl CreateOptions {
    fn check(&self) -> Result<Shape> {
        let bad = |text: String| Err(BlockError::invalid(text));
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return bad("Cluster size must be a power of two between 512 and 2048k".into());
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return bad("Refcount width must be a power of two and may not exceed 64 bits".into());
        }
        if self.version != 2 && self.version != 3 {
            return bad(format!("qcow2 version {} does not exist", self.version));
        }
        let v3_only = self.refcount_bits != 16
            || self.lazy_refcounts
            || self.extended_l2
            || self.data_file.is_some()
            || self.compression != Compression::Zlib;
        if self.version == 2 && v3_only {
            return bad(match self.refcount_bits {
                16 if self.lazy_refcounts => "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)".into(),
                16 => "this option needs version 3 (compat=1.1)".into(),
                _ => "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)".into(),
            });
        }
        if self.extended_l2 && self.cluster_size < 16 << 10 {
            return bad("extended L2 entries need clusters of at least 16 KiB".into());
        }
        if !self.size.is_multiple_of(512) {
            return bad("the size of a disk must be a multiple of 512".into());
        }
        match (&self.backing_file, &self.backing_format) {
            (Some(_), None) => return bad("a backing file needs its format recorded".into()),
            (Some(name), _) if name.is_empty() || name.len() > 1023 => {
                return bad("backing file name must have 1 to 1023 bytes".into());
            }
            (_, Some(format)) if format.len() > 15 => {
                return bad("backing format is too long".into());
            }
            _ => {}
        }
        let cluster_bits = self.cluster_size.trailing_zeros();
        let sub_shift = if self.extended_l2 { 5 } else { 0 };
        let shape = Shape {
            version: self.version,
            cluster_bits,
            l2_bits: cluster_bits - if self.extended_l2 { 4 } else { 3 },
            sub_shift,
            refcount_order: self.refcount_bits.trailing_zeros(),
            data_file: self.data_file.is_some(),
        };
        if self.data_file_raw && self.data_file.is_none() {
            return bad("data-file-raw requires data-file".into());
        }
        if self.data_file_raw && self.backing_file.is_some() {
            return bad("Backing file and data-file-raw cannot be used at the same time".into());
        }
        if self.size.div_ceil(shape.l2_span()) * 8 > MAX_L1_BYTES {
            return bad(
                "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
                    .into(),
            );
        }
        Ok(shape)
    }
}

/// Writes an empty image into `file`, whose old content is lost.
pub(crate) async fn create(file: &Arc<Node>, options: &CreateOptions) -> Result<()> {
    create_with(file, None, options, None, &mut |_| ()).await
}

/// The same, with the file for data and what encryption needs.
pub(crate) async fn create_with(
    file: &Arc<Node>,
    data: Option<&Arc<Node>>,
    options: &CreateOptions,
    luks: Option<&(LuksOptions, Arc<[u8]>)>,
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<()> {
    let shape = options.check()?;
    let cluster = shape.cluster();
    let l1_len = options.size.div_ceil(shape.l2_span());
    let l1_clusters = (l1_len * 8).div_ceil(cluster);
    file.truncate(0).await?;
    // The encryption header lies between the L1 table and the refcounts.
    let crypto_at = cluster * (1 + l1_clusters);
    let crypto = match luks {
        Some((luks, secret)) => {
            let len = crate::formats::luks::format(file, crypto_at, luks, secret, random).await?;
            Some((crypto_at, len))
        }
        None => None,
    };
    let crypto_clusters = crypto.map_or(0, |(_, len)| len.div_ceil(cluster));
    let used = 1 + l1_clusters + crypto_clusters;
    let mut layout = RefcountLayout::new(&shape, &vec![1; used as usize])?;
    // Refcounts come first, as others place them, unless the encryption header is there already.
    let l1_at = match crypto {
        None => layout.move_to(1, &shape) << shape.cluster_bits,
        Some(_) => cluster,
    };
    let header = header(options, &shape, (l1_at, l1_len as u32), &layout, crypto)?;
    // The file ends with what is written last, be it in the middle of a cluster.
    let l1_end = l1_at + l1_len * 8;
    file.truncate(if crypto.is_some() { layout.end } else { l1_end }).await?;
    // The header comes last: until then the file is not an image.
    layout.write(file).await?;
    if l1_len > 0 {
        file.write_zeroes(l1_at, l1_len * 8, false).await?;
    }
    file.flush().await?;
    file.write(0, header.into()).await?;
    file.flush().await?;
    if options.preallocation == Preallocation::Off || options.data_file.is_some() && data.is_none()
    {
        return Ok(());
    }
    let args = OpenArgs { no_io: true, ..OpenArgs::default() };
    let image = Qcow2::open(file, &super::Qcow2Options::default(), &args).await?;
    if let Some(data) = data {
        image.set_data_file(data)?;
    }
    let filled = image.preallocate(0, options.size, options.preallocation).await;
    filled.map_err(|error| match error {
        BlockError::Unsupported(text) => {
            BlockError::Unsupported(format!("Could not resize image: {text}"))
        }
        error => error,
    })?;
    image.close_all().await
}

/// The names as an extension has them.
pub(super) fn feature_names() -> Vec<u8> {
    let mut names = Vec::new();
    for (kind, bit, name) in FEATURES {
        names.extend([kind, bit]);
        names.extend(name.as_bytes());
        names.resize(names.len().next_multiple_of(48), 0);
    }
    names
}

fn header(
    options: &CreateOptions,
    shape: &Shape,
    (l1_at, l1_len): (u64, u32),
    layout: &RefcountLayout,
    crypto: Option<(u64, u64)>,
) -> Result<Vec<u8>> {
    let cluster = shape.cluster();
    let mut h = Vec::with_capacity(512);
    h.extend(MAGIC.to_be_bytes());
    h.extend(options.version.to_be_bytes());
    h.extend([0; 12]); // backing file: offset, length
    h.extend(shape.cluster_bits.to_be_bytes());
    h.extend(options.size.to_be_bytes());
    let method = match (options.encrypted, crypto) {
        (_, Some(_)) => 2u32,
        (true, None) => 1,
        (false, None) => 0,
    };
    h.extend(method.to_be_bytes());
    h.extend(l1_len.to_be_bytes());
    h.extend(l1_at.to_be_bytes());
    h.extend(layout.table_offset.to_be_bytes());
    h.extend(((layout.table.len() as u64 * 8 / cluster) as u32).to_be_bytes());
    h.extend([0; 12]); // snapshots: number, offset
    debug_assert_eq!(h.len(), V2_LEN);
    if options.version >= 3 {
        let mut features = 0;
        if options.compression != Compression::Zlib {
            features |= incompatible::COMPRESSION;
        }
        if options.extended_l2 {
            features |= incompatible::EXTENDED_L2;
        }
        if options.data_file.is_some() {
            features |= incompatible::DATA_FILE;
        }
        h.extend(features.to_be_bytes());
        let lazy = if options.lazy_refcounts { COMPATIBLE_LAZY_REFCOUNTS } else { 0 };
        h.extend(lazy.to_be_bytes());
        h.extend((if options.data_file_raw { autoclear::RAW_EXTERNAL } else { 0 }).to_be_bytes());
        h.extend(shape.refcount_order.to_be_bytes());
        h.extend(112u32.to_be_bytes());
        h.push(match options.compression {
            Compression::Zlib => 0,
            Compression::Zstd => 1,
        });
        h.extend([0; 7]);
    }
    let mut extend = |kind: u32, data: &[u8]| {
        h.extend(kind.to_be_bytes());
        h.extend((data.len() as u32).to_be_bytes());
        h.extend(data);
        h.resize(h.len().next_multiple_of(8), 0);
    };
    if let Some(format) = &options.backing_format {
        extend(extension::BACKING_FORMAT, format.as_bytes());
    }
    if let Some(name) = &options.data_file {
        extend(extension::DATA_FILE, name.as_bytes());
    }
    if let Some((at, len)) = crypto {
        extend(extension::CRYPTO, &[at.to_be_bytes(), len.to_be_bytes()].concat());
    }
    let backing_len = options.backing_file.as_ref().map_or(0, String::len);
    if options.version >= 3 {
        let names = feature_names();
        // Small clusters have no room for explanations.
        if names.len() + backing_len + 160 <= cluster as usize {
            extend(extension::FEATURE_NAMES, &names);
        }
    }
    extend(0, &[]);
    if let Some(name) = &options.backing_file {
        let offset = h.len() as u64;
        h[8..16].copy_from_slice(&offset.to_be_bytes());
        h[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        h.extend(name.as_bytes());
    }
    if h.len() > cluster as usize {
        return Err(BlockError::invalid("backing file name does not fit into the first cluster"));
    }
    Ok(h)
}
