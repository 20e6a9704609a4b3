//! The `qcow` format, version 1: two levels of tables, AES, deflate.
//!
//! Reference: the format's description as published with early QEMU; observed images.

use super::mapped::{Layout, Mapped, Parts, Shape, Slot};
use super::{Facts, MappedImage, OpenArgs, StoredName, be32, be64, read_exactly};
use crate::crypto::SectorCipher;
use crate::graph::Node;
use crate::pack::{deflate, inflate};
use crate::{BlockError, IoBuf, Result};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const MAGIC: u32 = 0x5146_49fb;
const HEADER: u64 = 48;
const PACKED: u64 = 1 << 63;

/// The layout.
pub(crate) struct Qcow {
    cluster_bits: u32,
    l1_at: u64,
    cipher: Option<SectorCipher>,
    encrypted: bool,
    backing: Option<String>,
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Mapped<Qcow>> {
    let h = read_exactly(file, "header", 0, HEADER).await?;
    if be32(&h, 0) != MAGIC {
        return Err(BlockError::invalid("Image not in qcow format"));
    }
    let version = be32(&h, 4);
    if version != 1 {
        return Err(BlockError::unsupported(format!(
            "qcow (v{version}) does not support qcow version {version}"
        )));
    }
    let (backing_at, backing_len) = (be64(&h, 8), be32(&h, 16));
    let size = be64(&h, 24);
    let (cluster_bits, l2_bits) = (u32::from(h[32]), u32::from(h[33]));
    let (crypt, l1_at) = (be32(&h, 36), be64(&h, 40));
    if size <= 1 {
        return Err(BlockError::corrupt("Image size is too small (must be at least 2 bytes)"));
    }
    if !(9..=16).contains(&cluster_bits) {
        return Err(BlockError::corrupt("Cluster size must be between 512 and 64k"));
    }
    if !(9 - 3..=16 - 3).contains(&l2_bits) {
        return Err(BlockError::corrupt("L2 table size must be between 512 and 64k"));
    }
    let span = cluster_bits + l2_bits;
    if size > u64::MAX - (1 << span) {
        return Err(BlockError::corrupt("Image too large"));
    }
    let l1_len = size.div_ceil(1 << span);
    if l1_len > i32::MAX as u64 / 8 {
        return Err(BlockError::corrupt("Image too large"));
    }
    let cipher = match crypt {
        0 => None,
        1 if args.no_io => None,
        1 => Some(SectorCipher::legacy(args.secret("AES")?)?),
        _ => return Err(BlockError::corrupt("invalid encryption method in qcow header")),
    };
    // A table that the file is too short for reads as zeros to its end.
    let l1_bytes = l1_len * 8;
    if l1_at.checked_add(l1_bytes).is_none_or(|end| end > file.len().next_multiple_of(512)) {
        return Err(BlockError::corrupt("the L1 table is beyond the end of the file"));
    }
    let raw = file.read(l1_at, IoBuf::zeroed(l1_bytes as usize)).await?;
    let tables = raw.as_chunks().0.iter().copied().map(u64::from_be_bytes).collect();
    let mut backing = None;
    if backing_at != 0 {
        if backing_len > 1023 {
            return Err(BlockError::corrupt("Backing file name too long"));
        }
        let name = read_exactly(file, "backing file name", backing_at, backing_len.into()).await?;
        let name = String::from_utf8(name)
            .map_err(|_| BlockError::corrupt("backing file name is not text"))?;
        backing = Some(name).filter(|name| !name.is_empty());
    }
    let shape = Shape {
        block: 1 << cluster_bits,
        per_table: 1 << l2_bits,
        entry: 8,
        align: 1 << cluster_bits,
        lead: 0,
    };
    let layout = Qcow { cluster_bits, l1_at, cipher, encrypted: crypt != 0, backing };
    let read_only = args.read_only || file.read_only();
    Mapped::new(file, Parts { layout, shape, size, tables, end: file.len(), read_only })
}

impl Layout for Qcow {
    const NAME: &'static str = "qcow";

    fn decode(&self, entry: &[u8]) -> Result<Slot> {
        let word = be64(entry, 0);
        if self.encrypted && self.cipher.is_none() {
            return Err(BlockError::Encrypted("AES"));
        }
        if word & PACKED != 0 {
            let shift = 63 - self.cluster_bits;
            let len = word >> shift & ((1 << self.cluster_bits) - 1);
            return Ok(Slot::Packed(word & ((1 << shift) - 1), len));
        }
        Ok(if word == 0 { Slot::Unallocated } else { Slot::Data(word) })
    }

    fn encode(&self, entry: &mut [u8], slot: Slot) -> bool {
        let word = match slot {
            Slot::Unallocated => 0,
            Slot::Data(at) => at,
            Slot::Packed(at, len) => {
                let shift = 63 - self.cluster_bits;
                if at >> shift != 0 || len >> self.cluster_bits != 0 {
                    return false;
                }
                PACKED | len << shift | at
            }
            Slot::Zero => return false,
        };
        entry.copy_from_slice(&word.to_be_bytes());
        true
    }

    fn table_moved(&self, table: u64, offset: u64) -> Vec<(u64, Vec<u8>)> {
        vec![(self.l1_at + table * 8, offset.to_be_bytes().to_vec())]
    }

    fn unpack(&self, _at: u64, raw: &[u8], block: usize) -> Result<Vec<u8>> {
        inflate(raw, block)
    }

    fn pack(&self, _at: u64, data: &[u8]) -> Option<Vec<u8>> {
        deflate(data).filter(|packed| packed.len() < data.len() && self.cipher.is_none())
    }

    fn cipher(&self) -> Option<&SectorCipher> {
        self.cipher.as_ref()
    }
}

impl MappedImage for Qcow {
    fn backing_name(this: &Mapped<Self>) -> Option<StoredName> {
        this.layout.backing.clone().map(|name| StoredName { name, format: None })
    }

    fn facts(this: &Mapped<Self>) -> Facts {
        Facts {
            cluster_size: Some(1 << this.layout.cluster_bits),
            encrypted: this.layout.encrypted,
            ..Facts::default()
        }
    }
}

/// What a new image is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct QcowCreate {
    /// Bytes of the disk.
    pub size: u64,
    /// Name of the backing file.
    pub backing_file: Option<String>,
    /// Encrypt with AES; the secret is asked for when it is opened.
    pub encrypted: bool,
}

/// Writes an empty image.
pub(crate) async fn create(file: &Node, options: &QcowCreate) -> Result<()> {
    if options.size <= 1 {
        return Err(BlockError::invalid("Image size is too small, cannot be zero length"));
    }
    let backing = options.backing_file.as_deref().unwrap_or_default();
    // Overlays have small clusters, to copy little.
    let (cluster_bits, l2_bits) = if backing.is_empty() { (12u8, 9u8) } else { (9, 12) };
    let span = u32::from(cluster_bits) + u32::from(l2_bits);
    let l1_len = options.size.div_ceil(1 << span);
    if l1_len > i32::MAX as u64 / 8 {
        return Err(BlockError::invalid("Image too large"));
    }
    if backing.len() > 1023 {
        return Err(BlockError::invalid("Backing file name too long"));
    }
    let l1_at = (HEADER + backing.len() as u64).next_multiple_of(8);
    let mut h = Vec::with_capacity(l1_at as usize);
    h.extend(MAGIC.to_be_bytes());
    h.extend(1u32.to_be_bytes());
    h.extend((if backing.is_empty() { 0 } else { HEADER }).to_be_bytes());
    h.extend((backing.len() as u32).to_be_bytes());
    h.extend(0u32.to_be_bytes());
    h.extend(options.size.to_be_bytes());
    h.extend([cluster_bits, l2_bits, 0, 0]);
    h.extend(u32::from(options.encrypted).to_be_bytes());
    h.extend(l1_at.to_be_bytes());
    h.extend(backing.as_bytes());
    file.truncate(0).await?;
    file.truncate((l1_at + l1_len * 8).next_multiple_of(512)).await?;
    file.write(0, h.into()).await?;
    file.flush().await
}
