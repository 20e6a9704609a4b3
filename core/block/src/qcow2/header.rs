//! The header: parsing, validation and the fields that change in place.
//!
//! Reference: docs/interop/qcow2.txt of QEMU, sections "Header", "Header padding", "Header
//! extensions". Unknown extensions are kept as they are because only known fields are patched.

use crate::{BlockError, Result};

pub(super) const MAGIC: u32 = 0x5146_49fb;
pub(super) const V2_LEN: usize = 72;
pub(super) const V3_LEN: usize = 104;

/// Offsets of the fields in the header.
pub(super) mod field {
    pub(in crate::qcow2) const SIZE: usize = 24;
    pub(in crate::qcow2) const L1_SIZE: usize = 36;
    pub(in crate::qcow2) const L1_OFFSET: usize = 40;
    pub(in crate::qcow2) const REFTABLE_OFFSET: usize = 48;
    pub(in crate::qcow2) const SNAPSHOTS: usize = 60;
    pub(in crate::qcow2) const INCOMPATIBLE: usize = 72;
    pub(in crate::qcow2) const AUTOCLEAR: usize = 88;
}

/// Incompatible features.
pub(super) mod incompatible {
    pub(in crate::qcow2) const DIRTY: u64 = 1;
    pub(in crate::qcow2) const CORRUPT: u64 = 2;
    pub(in crate::qcow2) const DATA_FILE: u64 = 4;
    pub(in crate::qcow2) const COMPRESSION: u64 = 8;
    pub(in crate::qcow2) const EXTENDED_L2: u64 = 16;
    pub(in crate::qcow2) const KNOWN: u64 = 31;
}

/// Compatible feature: refcounts may be stale while the dirty bit is set.
pub(super) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;

/// Autoclear features.
pub(super) mod autoclear {
    pub(in crate::qcow2) const BITMAPS: u64 = 1;
    pub(in crate::qcow2) const RAW_EXTERNAL: u64 = 2;
}

/// Header extension types.
pub(super) mod extension {
    pub(in crate::qcow2) const BACKING_FORMAT: u32 = 0xe279_2aca;
    pub(in crate::qcow2) const FEATURE_NAMES: u32 = 0x6803_f857;
    pub(in crate::qcow2) const BITMAPS: u32 = 0x2385_2875;
    pub(in crate::qcow2) const CRYPTO: u32 = 0x0537_be77;
    pub(in crate::qcow2) const DATA_FILE: u32 = 0x4441_5441;
}

/// Largest active L1 table and refcount table, in bytes.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
pub(super) const MAX_REFTABLE_BYTES: u64 = 8 << 20;

/// How compressed clusters are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// One zstd frame.
    Zstd,
}

/// A range of bytes in the image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// The header as read, checked.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) reftable_offset: u64,
    pub(super) reftable_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) compression: Compression,
    pub(super) backing: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<String>,
    /// Bitmap directory.
    pub(super) bitmaps: Option<Place>,
    /// Encryption header.
    pub(super) crypto: Option<Place>,
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Checks a table: aligned, in range, not overflowing.
fn check_table(what: &str, offset: u64, bytes: u64, max: u64, cluster: u64) -> Result<()> {
    if bytes > max {
        return bad(format!("{what} too large"));
    }
    if !offset.is_multiple_of(cluster)
        || offset.checked_add(bytes).is_none_or(|end| end > i64::MAX as u64)
    {
        return bad(format!("{what} offset invalid"));
    }
    Ok(())
}

impl Header {
    /// How many bytes of the file [`Header::parse`] wants to see once it knows `cluster_bits`;
    /// an error when the first bytes are no qcow2 header at all.
    pub(super) fn cluster_bits(head: &[u8]) -> Result<u32> {
        if head.len() < V2_LEN || be32(head, 0) != MAGIC {
            return Err(BlockError::invalid("Image is not in qcow2 format"));
        }
        let version = be32(head, 4);
        if version != 2 && version != 3 {
            return Err(BlockError::unsupported(format!("Unsupported qcow2 version {version}")));
        }
        match be32(head, 20) {
            bits @ 9..=21 => Ok(bits),
            bits => Err(BlockError::unsupported(format!("Unsupported cluster size: 2^{bits}"))),
        }
    }

    /// Parses the first cluster of an image.
    pub(super) fn parse(head: &[u8]) -> Result<Self> {
        let cluster_bits = Self::cluster_bits(head)?;
        let cluster = 1u64 << cluster_bits;
        let version = be32(head, 4);
        let mut h = Self {
            version,
            cluster_bits,
            size: be64(head, 24),
            crypt_method: be32(head, 32),
            l1_size: be32(head, 36),
            l1_offset: be64(head, 40),
            reftable_offset: be64(head, 48),
            reftable_clusters: be32(head, 56),
            snapshots: be32(head, 60),
            snapshots_offset: be64(head, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: Compression::Zlib,
            backing: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            crypto: None,
        };
        let mut header_len = V2_LEN as u64;
        if version >= 3 {
            if head.len() < V3_LEN {
                return bad("header is cut short");
            }
            h.incompatible = be64(head, 72);
            h.compatible = be64(head, 80);
            h.autoclear = be64(head, 88);
            h.refcount_order = be32(head, 96);
            header_len = be32(head, 100).into();
            if header_len < V3_LEN as u64 {
                return bad("qcow2 header too short");
            }
            if header_len > cluster || header_len as usize > head.len() {
                return bad("qcow2 header exceeds cluster size");
            }
        }
        let head = &head[..head.len().min(cluster as usize)];
        let (backing_offset, backing_len) = (be64(head, 8), u64::from(be32(head, 16)));
        if backing_offset > cluster {
            return bad("Invalid backing file offset");
        }
        let extensions_end = if backing_offset == 0 { cluster } else { backing_offset };
        let mut names = Vec::new();
        h.parse_extensions(head, header_len, extensions_end, &mut names)?;
        h.check_features(&names)?;
        if version >= 3 && header_len > V3_LEN as u64 {
            h.compression = match head[V3_LEN] {
                0 => Compression::Zlib,
                1 => Compression::Zstd,
                n => {
                    return Err(BlockError::unsupported(format!(
                        "compression type {n} is not supported"
                    )));
                }
            };
        }
        if (h.compression != Compression::Zlib) != (h.incompatible & incompatible::COMPRESSION != 0)
        {
            return bad("compression type and its feature bit contradict each other");
        }
        if h.autoclear & autoclear::RAW_EXTERNAL != 0
            && h.incompatible & incompatible::DATA_FILE == 0
        {
            return bad("data-file-raw requires a data file");
        }
        if h.refcount_order > 6 {
            return bad(format!("refcount width 2^{} bits is invalid", h.refcount_order));
        }
        match h.crypt_method {
            0..=2 => {}
            n => {
                return Err(BlockError::unsupported(format!(
                    "encryption method {n} is not supported"
                )));
            }
        }
        if h.incompatible & incompatible::EXTENDED_L2 != 0 && cluster_bits < 14 {
            return bad("extended L2 entries need clusters of at least 16 KiB");
        }
        if h.reftable_clusters == 0 {
            return bad("Image does not contain a reference count table");
        }
        let reftable_bytes = u64::from(h.reftable_clusters) << cluster_bits;
        check_table(
            "Reference count table",
            h.reftable_offset,
            reftable_bytes,
            MAX_REFTABLE_BYTES,
            cluster,
        )?;
        let snapshot_bytes = u64::from(h.snapshots) * 40;
        check_table("Snapshot table", h.snapshots_offset, snapshot_bytes, u64::MAX, cluster)?;
        check_table(
            "Active L1 table",
            h.l1_offset,
            u64::from(h.l1_size) * 8,
            MAX_L1_BYTES,
            cluster,
        )?;
        if h.l1_needed(h.size) > u64::from(h.l1_size) {
            return bad(match h.l1_needed(h.size) > MAX_L1_BYTES / 8 {
                true => "Image is too big",
                false => "L1 table is too small",
            });
        }
        if backing_offset != 0 && backing_len != 0 {
            if backing_len > 1023 || backing_offset + backing_len > cluster {
                return bad("Backing file name too long");
            }
            let range = backing_offset as usize..(backing_offset + backing_len) as usize;
            let name = head.get(range).ok_or_else(|| BlockError::corrupt("header is cut short"))?;
            h.backing = Some(text("backing file name", name)?);
        }
        Ok(h)
    }

    fn parse_extensions(
        &mut self,
        head: &[u8],
        mut at: u64,
        end: u64,
        names: &mut Vec<(u8, u8, String)>,
    ) -> Result<()> {
        while at + 8 <= end {
            let Some(tag) = head.get(at as usize..at as usize + 8) else { break };
            let (kind, len) = (be32(tag, 0), u64::from(be32(tag, 4)));
            at += 8;
            if kind == 0 {
                break;
            }
            if at > end || len > end - at {
                return bad("Header extension too large");
            }
            let data = head
                .get(at as usize..(at + len) as usize)
                .ok_or_else(|| BlockError::corrupt("a header extension is cut short"))?;
            match kind {
                extension::BACKING_FORMAT => {
                    if len >= 16 {
                        return bad("name of the backing format is too long");
                    }
                    self.backing_format = Some(text("backing format", data)?);
                }
                extension::FEATURE_NAMES => {
                    for row in data.chunks(48).filter(|row| row.len() > 2) {
                        let name = row[2..].split(|b| *b == 0).next().unwrap_or_default();
                        names.push((row[0], row[1], String::from_utf8_lossy(name).into_owned()));
                    }
                }
                extension::DATA_FILE => self.data_file = Some(text("data file name", data)?),
                extension::BITMAPS if self.autoclear & 1 != 0 => {
                    if len != 24 {
                        return bad("bitmap extension has the wrong length");
                    }
                    self.bitmaps = Some(Place { offset: be64(data, 16), len: be64(data, 8) });
                }
                extension::CRYPTO => {
                    if len != 16 {
                        return bad("encryption extension has the wrong length");
                    }
                    self.crypto = Some(Place { offset: be64(data, 0), len: be64(data, 8) });
                }
                _ => {}
            }
            at = (at + len).next_multiple_of(8);
        }
        Ok(())
    }

    fn check_features(&self, names: &[(u8, u8, String)]) -> Result<()> {
        let unknown = self.incompatible & !incompatible::KNOWN;
        if unknown != 0 {
            let mut unnamed = unknown;
            let mut list = Vec::new();
            for (_, bit, name) in names.iter().filter(|(kind, bit, _)| *kind == 0 && *bit < 64) {
                if unnamed >> bit & 1 != 0 && !name.is_empty() {
                    list.push(name.clone());
                    unnamed &= !(1 << bit);
                }
            }
            if unnamed != 0 {
                list.push(format!("Unknown incompatible feature: {unnamed:x}"));
            }
            return Err(BlockError::unsupported(format!(
                "Unsupported qcow2 feature(s): {}",
                list.join(", ")
            )));
        }
        Ok(())
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub(super) fn l1_needed(&self, size: u64) -> u64 {
        size.div_ceil(1 << (self.cluster_bits + self.l2_bits()))
    }

    /// log2 of the entries in an L2 table.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.extended_l2() { 4 } else { 3 }
    }

    pub(super) fn extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }
}

fn text(what: &str, bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).or_else(|_| bad(format!("{what} is not valid text")))
}
