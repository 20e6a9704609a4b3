//! The `vdi` format of VirtualBox: one map of 1 MiB blocks.
//!
//! Reference: VirtualBox's published VDI header description; observed images. Snapshots and
//! parents are refused, as their disks cannot be put together from one file.

use super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::{Facts, MappedImage, OpenArgs, le32, le64, read_exactly};
use crate::graph::Node;
use crate::qcow2::{CheckResult, Repair};
use crate::{BlockError, IoBuf, Op, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const BLOCK: u64 = 1 << 20;
const UNALLOCATED: u32 = 0xffff_ffff;
const DISCARDED: u32 = 0xffff_fffe;
const MAX_BLOCKS: u64 = 0x1fff_ff80;
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;
const HEADER: usize = 512;

/// The layout.
pub(crate) struct Vdi {
    data: u64,
    allocated: u32,
    old: AtomicBool,
}

fn bad<T>(text: String) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Mapped<Vdi>> {
    let h = read_exactly(file, "header", 0, HEADER as u64).await?;
    if le32(&h, 0x40) != SIGNATURE {
        return Err(BlockError::invalid(format!(
            "Image not in VDI format (bad signature {:08x})",
            le32(&h, 0x40)
        )));
    }
    let version = le32(&h, 0x44);
    if version != VERSION {
        return Err(BlockError::unsupported(format!(
            "unsupported VDI image (version {}.{})",
            version >> 16,
            version & 0xffff
        )));
    }
    let (map_at, data) = (le32(&h, 0x154), le32(&h, 0x158));
    let mut size = le64(&h, 0x170);
    let (block, extra, blocks, allocated) =
        (le32(&h, 0x178), le32(&h, 0x17c), le32(&h, 0x180), le32(&h, 0x184));
    // Odd sizes occur; the last sector is whole.
    size = size
        .checked_next_multiple_of(512)
        .ok_or_else(|| BlockError::corrupt("the disk is too large"))?;
    if !map_at.is_multiple_of(512) || !data.is_multiple_of(512) {
        return bad(format!("map at {map_at:#x} or data at {data:#x} is not aligned"));
    }
    if le32(&h, 0x168) != 512 {
        return Err(BlockError::unsupported(format!(
            "unsupported VDI image (sector size {} is not 512)",
            le32(&h, 0x168)
        )));
    }
    if u64::from(block) != BLOCK || extra != 0 {
        return Err(BlockError::unsupported(format!(
            "unsupported VDI image (block size {block} is not 1048576)"
        )));
    }
    if size > MAX_BLOCKS * BLOCK {
        return Err(BlockError::unsupported(format!(
            "Unsupported VDI image size (size is {size:#x}, max supported is {:#x})",
            MAX_BLOCKS * BLOCK
        )));
    }
    if size > u64::from(blocks) * BLOCK {
        return bad(format!(
            "unsupported VDI image (disk size {size}, image bitmap has room for {})",
            u64::from(blocks) * BLOCK
        ));
    }
    if u64::from(blocks) > MAX_BLOCKS {
        return Err(BlockError::unsupported(format!(
            "unsupported VDI image (too many blocks {blocks}, max is {MAX_BLOCKS})"
        )));
    }
    if h[0x1a8..0x1c8].iter().any(|b| *b != 0) {
        return Err(BlockError::unsupported("unsupported VDI image (it has a parent)"));
    }
    if le32(&h, 0x4c) != DYNAMIC && le32(&h, 0x4c) != STATIC {
        return Err(BlockError::unsupported("unsupported VDI image (not dynamic or static)"));
    }
    let shape = Shape { block: BLOCK, per_table: 4096, entry: 4, align: 512, lead: 0 };
    let map_len = u64::from(blocks) * 4;
    if u64::from(map_at) + map_len > file.len() && !args.no_io {
        return bad("the block map is beyond the end of the file".into());
    }
    let tables = (0..map_len.div_ceil(16384)).map(|i| u64::from(map_at) + i * 16384).collect();
    let end = u64::from(data) + u64::from(allocated) * BLOCK;
    let layout = Vdi { data: data.into(), allocated, old: AtomicBool::new(false) };
    let read_only = args.read_only || file.read_only();
    Mapped::new(file, Parts { layout, shape, size, tables, end, read_only })
}

impl Layout for Vdi {
    const NAME: &'static str = "vdi";

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        Ok(match le32(entry, 0) {
            UNALLOCATED => Slot::Unallocated,
            DISCARDED => Slot::Zero,
            n => Slot::Data(self.data + u64::from(n) * BLOCK),
        })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let word = match slot {
            Slot::Unallocated => UNALLOCATED,
            Slot::Zero => DISCARDED,
            Slot::Data(at) => match u32::try_from((at - self.data) / BLOCK) {
                Ok(n) if n < DISCARDED => n,
                _ => return false,
            },
            Slot::Packed(..) => return false,
        };
        entry.copy_from_slice(&word.to_le_bytes());
        true
    }

    async fn grown(&self, file: &Node, _end: u64, blocks: u64) -> Result<()> {
        self.old.store(true, Ordering::Relaxed);
        let count = self.allocated.saturating_add(blocks as u32);
        file.write(0x184, IoBuf::from(&count.to_le_bytes()[..])).await.map(drop)
    }
}

impl MappedImage for Vdi {
    fn facts(_this: &Mapped<Self>) -> Facts {
        Facts { cluster_size: Some(BLOCK), ..Facts::default() }
    }

    fn check(this: Arc<Mapped<Self>>, repair: Repair) -> Op<CheckResult> {
        if repair != Repair::Nothing {
            return Op::err(BlockError::unsupported("This image format does not support repairs"));
        }
        Op::pending(async move {
            let mut result = CheckResult::default();
            let scan = this.scan().await?;
            let blocks = this.len().div_ceil(BLOCK);
            let mut seen = std::collections::BTreeMap::new();
            for (block, at) in &scan.data {
                let index = (at - this.layout.data) / BLOCK;
                if index >= blocks {
                    result.corrupt(|| format!("block index {block} out of range, is {index}"));
                } else if seen.insert(index, block).is_some() {
                    result.corrupt(|| format!("block {index} is used twice"));
                }
            }
            for (block, error) in &scan.bad {
                result.corrupt(|| format!("block {block}: {error}"));
            }
            if scan.data.len() as u64 != u64::from(this.layout.allocated)
                && !this.layout.old.load(Ordering::Relaxed)
            {
                result.corrupt(|| {
                    format!(
                        "allocated blocks mismatch, is {}, should be {}",
                        scan.data.len(),
                        this.layout.allocated
                    )
                });
            }
            result.total_clusters = blocks;
            result.allocated_clusters = scan.data.len() as u64;
            Ok(result)
        })
    }
}

/// What a new image is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct VdiCreate {
    /// Bytes of the disk.
    pub size: u64,
    /// Allocate every block now (`preallocation=metadata`).
    pub preallocated: bool,
}

/// Writes an empty image; `random` gives its identity.
pub(crate) async fn create(
    file: &Node,
    options: &VdiCreate,
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<()> {
    let blocks = options.size.div_ceil(BLOCK);
    if blocks > MAX_BLOCKS {
        return Err(BlockError::invalid(format!(
            "Unsupported VDI image size (size is {:#x}, max supported is {:#x})",
            options.size,
            MAX_BLOCKS * BLOCK
        )));
    }
    let map_len = (blocks * 4).next_multiple_of(512);
    let data = HEADER as u64 + map_len;
    let mut h = vec![0; HEADER];
    let title = b"<<< Orrery VM Virtual Disk Image >>>\n";
    h[..title.len()].copy_from_slice(title);
    let mut put = |at: usize, value: u32| h[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0x40, SIGNATURE);
    put(0x44, VERSION);
    put(0x48, 0x180);
    put(0x4c, if options.preallocated { STATIC } else { DYNAMIC });
    put(0x154, HEADER as u32);
    put(0x158, data as u32);
    put(0x168, 512);
    put(0x178, BLOCK as u32);
    put(0x180, blocks as u32);
    put(0x184, if options.preallocated { blocks as u32 } else { 0 });
    h[0x170..0x178].copy_from_slice(&options.size.to_le_bytes());
    random(&mut h[0x188..0x198]);
    random(&mut h[0x198..0x1a8]);
    file.truncate(0).await?;
    let mut at = HEADER as u64;
    let mut block = 0u32;
    while at < data {
        let n = (data - at).min(1 << 20);
        let mut bytes = IoBuf::zeroed(n as usize);
        for word in bytes.as_chunks_mut::<4>().0 {
            let value = match u64::from(block) < blocks {
                true if options.preallocated => block,
                true => UNALLOCATED,
                false => 0,
            };
            word.copy_from_slice(&value.to_le_bytes());
            block += 1;
        }
        file.write(at, bytes).await?;
        at += n;
    }
    if options.preallocated {
        file.truncate(data + blocks * BLOCK).await?;
    }
    file.write(0, h.into()).await?;
    file.flush().await
}
