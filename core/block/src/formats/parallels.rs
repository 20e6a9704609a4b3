//! The `parallels` format: one map behind the header.
//!
//! Reference: the format's description published with QEMU (docs/interop/parallels.txt).

use super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::{Facts, MappedImage, OpenArgs, le32, le64, read_exactly};
use crate::graph::Node;
use crate::qcow2::{CheckResult, Repair};
use crate::{BlockError, IoBuf, Op, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const MAGIC_OLD: &[u8; 16] = b"WithoutFreeSpace";
const MAGIC: &[u8; 16] = b"WithouFreSpacExt";
const HEADER: u64 = 64;
const IN_USE: u32 = 0x746f_6e59;
const EXTENSION: u64 = 0xab23_4cef_23dc_ea87;

/// The layout.
pub(crate) struct Parallels {
    /// Bytes that an entry counts.
    unit: u64,
    cluster: u64,
    data: u64,
    /// The mark as it is in the file.
    in_use: AtomicBool,
    /// End of the last block in use.
    used_end: AtomicU64,
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Arc<Mapped<Parallels>>> {
    let h = read_exactly(file, "header", 0, HEADER).await?;
    let old = &h[..16] == MAGIC_OLD;
    if !old && &h[..16] != MAGIC {
        return Err(BlockError::invalid("Image not in Parallels format"));
    }
    if le32(&h, 16) != 2 {
        return Err(BlockError::unsupported("unsupported version of the Parallels format"));
    }
    let (tracks, entries) = (u64::from(le32(&h, 28)), u64::from(le32(&h, 32)));
    let sectors = if old { u64::from(le32(&h, 36)) } else { le64(&h, 36) };
    if tracks == 0 {
        return bad("Invalid image: Zero sectors per track");
    }
    if tracks > i32::MAX as u64 / 513 {
        return bad("Invalid image: Too big cluster");
    }
    if entries > i32::MAX as u64 / 4 {
        return bad("Catalog too large");
    }
    let size = sectors
        .checked_mul(512)
        .filter(|size| *size <= i64::MAX as u64)
        .ok_or_else(|| BlockError::corrupt("the disk is too large"))?;
    let cluster = tracks * 512;
    let unit = if old { 512 } else { cluster };
    let table_end = HEADER + entries * 4;
    if table_end > file.len() {
        return bad("the block map is beyond the end of the file");
    }
    let data_off = u64::from(le32(&h, 48)) * 512;
    let mut data = data_off;
    let round = if old { 512 } else { cluster };
    if data == 0 {
        data = table_end.next_multiple_of(round);
    }
    if data < table_end && !args.for_check {
        return bad(format!("data_off is incorrect, {data_off} lies in the block map"));
    }
    let mut dirty = le32(&h, 44) == IN_USE;
    if le32(&h, 44) != 0 && !dirty {
        return bad("the mark of use is invalid");
    }
    let extension = le64(&h, 56);
    if extension != 0 {
        let at = extension
            .checked_mul(512)
            .ok_or_else(|| BlockError::corrupt("the format extension is out of range"))?;
        let magic = read_exactly(file, "format extension", at, 8).await?;
        if le64(&magic, 0) != EXTENSION {
            return bad("Wrong parallels Format Extension magic");
        }
        if !args.read_only {
            return Err(BlockError::unsupported("writing images with extensions is not supported"));
        }
    }
    let mut end = data.max(table_end.next_multiple_of(round));
    let mut outside = false;
    let mut at = HEADER;
    while at < table_end {
        let n = (table_end - at).min(1 << 20);
        let part = file.read(at, IoBuf::zeroed(n as usize)).await?;
        for word in part.as_chunks().0.iter().map(|w| u64::from(u32::from_le_bytes(*w))) {
            let place = word * unit;
            if word != 0 && place + cluster > file.len().next_multiple_of(cluster) {
                outside = true;
            } else if word != 0 {
                end = end.max(place + cluster);
            }
        }
        at += n;
    }
    let read_only = args.read_only || file.read_only();
    let needs_repair = dirty || outside;
    dirty = le32(&h, 44) == IN_USE;
    let shape = Shape { block: cluster, per_table: 4096, entry: 4, align: round, lead: 0 };
    let tables = (0..entries.div_ceil(4096)).map(|i| HEADER + i * 16384).collect();
    let layout = Parallels {
        unit,
        cluster,
        data,
        in_use: AtomicBool::new(dirty),
        used_end: AtomicU64::new(end),
    };
    let parts = Parts { layout, shape, size: size.min(entries * cluster), tables, end, read_only };
    if size > entries * cluster {
        return bad("the block map is too small for the disk");
    }
    let this = Arc::new(Mapped::new(file, parts)?);
    if needs_repair && !read_only && !args.for_check {
        let result = Parallels::check_now(&this, Repair::All).await?;
        if result.corruptions > result.corruptions_fixed {
            return bad("it was not closed cleanly and cannot be repaired");
        }
    }
    Ok(this)
}

impl Parallels {
    async fn mark(&self, file: &Node, on: bool) -> Result<()> {
        let word = if on { IN_USE } else { 0 };
        file.write(44, IoBuf::from(&word.to_le_bytes()[..])).await?;
        file.flush().await?;
        self.in_use.store(on, Ordering::Relaxed);
        Ok(())
    }

    async fn check_now(this: &Mapped<Self>, repair: Repair) -> Result<CheckResult> {
        let mut result = CheckResult::default();
        let layout = &this.layout;
        let file = this.file()?;
        let fix = repair == Repair::All;
        if layout.in_use.load(Ordering::Relaxed) {
            result.corrupt(|| "image was not closed correctly".into());
            result.corruptions_fixed += u64::from(fix);
        }
        let scan = this.scan().await?;
        let len = file.len();
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        let mut next = 0;
        let mut end = layout.data;
        for (block, at) in &scan.data {
            if *at < layout.data || at + layout.cluster > len.next_multiple_of(layout.cluster) {
                result.corrupt(|| format!("cluster {block} is outside image"));
                if fix {
                    this.set_slot(*block, Slot::Unallocated).await?;
                    result.corruptions_fixed += 1;
                }
                continue;
            }
            end = end.max(at + layout.cluster);
            if seen.insert(at / layout.cluster, *block).is_some() {
                result.corrupt(|| format!("cluster {block} uses the place of another"));
                if fix {
                    let n = layout.cluster.min(this.len() - block * layout.cluster) as usize;
                    let bytes = this.read_any(block * layout.cluster, IoBuf::zeroed(n)).await?;
                    this.set_slot(*block, Slot::Unallocated).await?;
                    this.write_any(block * layout.cluster, bytes).await?;
                    result.corruptions_fixed += 1;
                    end = end.max(this.end());
                }
                continue;
            }
            result.allocated_clusters += 1;
            result.fragmented_clusters += u64::from(next != 0 && *at != next);
            next = at + layout.cluster;
        }
        for (block, error) in &scan.bad {
            result.corrupt(|| format!("cluster {block}: {error}"));
        }
        if len > end {
            result.leaks = (len - end).div_ceil(layout.cluster);
            if repair != Repair::Nothing {
                file.truncate(end).await?;
                result.leaks_fixed = result.leaks;
            }
        }
        result.image_end_offset = end;
        result.total_clusters = this.len().div_ceil(layout.cluster);
        if repair != Repair::Nothing {
            layout.used_end.store(end, Ordering::Relaxed);
            this.close_all().await?;
            if fix && layout.in_use.load(Ordering::Relaxed) {
                layout.mark(&file, false).await?;
            }
        }
        Ok(result)
    }
}

impl Layout for Parallels {
    const NAME: &'static str = "parallels";

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        Ok(match le32(entry, 0) {
            0 => Slot::Unallocated,
            word => Slot::Data(u64::from(word) * self.unit),
        })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let word = match slot {
            Slot::Unallocated => 0,
            Slot::Data(at) => match u32::try_from(at / self.unit) {
                Ok(word) => word,
                Err(_) => return false,
            },
            Slot::Zero | Slot::Packed(..) => return false,
        };
        entry.copy_from_slice(&word.to_le_bytes());
        true
    }

    async fn start(&self, file: &Node) -> Result<()> {
        self.mark(file, true).await
    }

    async fn finish(&self, file: &Node, _end: u64) -> Result<()> {
        self.mark(file, false).await
    }
}

impl MappedImage for Parallels {
    fn facts(this: &Mapped<Self>) -> Facts {
        Facts {
            cluster_size: Some(this.layout.cluster),
            dirty: this.layout.in_use.load(Ordering::Relaxed),
            ..Facts::default()
        }
    }

    fn check(this: Arc<Mapped<Self>>, repair: Repair) -> Op<CheckResult> {
        Op::pending(async move { Self::check_now(&this, repair).await })
    }
}

/// What a new image is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct ParallelsCreate {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes in a cluster.
    pub cluster_size: u64,
}

impl Default for ParallelsCreate {
    fn default() -> Self {
        Self { size: 0, cluster_size: 1 << 20 }
    }
}

/// Writes an empty image.
pub(crate) async fn create(file: &Node, options: &ParallelsCreate) -> Result<()> {
    let cluster = options.cluster_size;
    if cluster == 0 || !cluster.is_multiple_of(512) || cluster > 1 << 39 {
        return Err(BlockError::invalid("Cluster size must be a multiple of 512 bytes"));
    }
    if options.size >= u64::from(u32::MAX) * cluster {
        return Err(BlockError::invalid("Image size is too large for this cluster size"));
    }
    let entries = options.size.div_ceil(cluster);
    let data = (HEADER + entries * 4).next_multiple_of(cluster);
    let sectors = options.size / 512;
    let mut h = MAGIC.to_vec();
    h.extend(2u32.to_le_bytes());
    h.extend(16u32.to_le_bytes());
    h.extend((sectors.div_ceil(16).div_ceil(32) as u32).to_le_bytes());
    h.extend(((cluster / 512) as u32).to_le_bytes());
    h.extend((entries as u32).to_le_bytes());
    h.extend(sectors.to_le_bytes());
    h.extend(0u32.to_le_bytes());
    h.extend(((data / 512) as u32).to_le_bytes());
    h.resize(HEADER as usize, 0);
    file.truncate(0).await?;
    file.truncate(data).await?;
    file.write(0, h.into()).await?;
    file.flush().await
}
