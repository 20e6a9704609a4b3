//! New images.

use super::{
    BAT, DISK_ID, DISK_SIZE, FILE_PARAMETERS, HEADER_LEN, HEADERS, LOGICAL_SECTOR, METADATA, MIB,
    PHYSICAL_SECTOR, REGION_LEN, REGIONS, crc32c,
};
use crate::graph::Node;
use crate::{BlockError, IoBuf, Result};
use serde::{Deserialize, Serialize};

/// Kinds of image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VhdxKind {
    /// Blocks come as they are written.
    #[default]
    Dynamic,
    /// All blocks are there from the start.
    Fixed,
}

/// What a new image is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct VhdxCreate {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of the log.
    pub log_size: u64,
    /// Bytes in a block; by the size of the disk when zero.
    pub block_size: u64,
    /// Kind of image.
    pub subformat: VhdxKind,
    /// Mark blocks that are not there as zeros rather than as absent.
    pub block_state_zero: bool,
}

impl Default for VhdxCreate {
    fn default() -> Self {
        Self {
            size: 0,
            log_size: MIB,
            block_size: 0,
            subformat: VhdxKind::Dynamic,
            block_state_zero: true,
        }
    }
}

/// Writes an empty image.
pub(crate) async fn create(
    file: &Node,
    options: &VhdxCreate,
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<()> {
    let size = options.size;
    if size > 64 << 40 {
        return Err(BlockError::invalid("Image size too large; max of 64TB"));
    }
    if !size.is_multiple_of(512) {
        return Err(BlockError::invalid("Image size must be a multiple of 512 bytes"));
    }
    let log = options.log_size;
    if log < MIB || !log.is_multiple_of(MIB) || log >= 4 << 30 {
        return Err(BlockError::invalid("Log size must be a multiple of 1 MB"));
    }
    let block = match options.block_size {
        0 if size > 32 << 40 => 64 * MIB,
        0 if size > 100 << 30 => 32 * MIB,
        0 if size > 1 << 30 => 16 * MIB,
        0 => 8 * MIB,
        block => block,
    };
    if !block.is_multiple_of(MIB) {
        return Err(BlockError::invalid("Block size must be a multiple of 1 MB"));
    }
    if !block.is_power_of_two() {
        return Err(BlockError::invalid("Block size must be a power of two"));
    }
    if block > 256 * MIB {
        return Err(BlockError::invalid("Block size must not exceed 268435456"));
    }
    let chunk = (512 << 23) / block;
    let blocks = size.div_ceil(block);
    let entries = blocks + blocks.saturating_sub(1) / chunk;
    let bat_at = MIB + log;
    let bat_len = (entries * 8).max(1).next_multiple_of(MIB);
    let meta_at = bat_at + bat_len;
    let data_at = meta_at + MIB;
    file.truncate(0).await?;
    let fixed = options.subformat == VhdxKind::Fixed;
    file.truncate(data_at + if fixed { blocks * block } else { 0 }).await?;

    let mut id = b"vhdxfile".to_vec();
    id.extend("Orrery".encode_utf16().flat_map(u16::to_le_bytes));
    let mut header = b"head".to_vec();
    header.resize(HEADER_LEN as usize, 0);
    random(&mut header[16..32]);
    random(&mut header[32..48]);
    header[66..68].copy_from_slice(&1u16.to_le_bytes());
    header[68..72].copy_from_slice(&(log as u32).to_le_bytes());
    header[72..80].copy_from_slice(&MIB.to_le_bytes());
    for (i, at) in HEADERS.into_iter().enumerate() {
        header[8..16].copy_from_slice(&(i as u64 + 1).to_le_bytes());
        let sum = crc32c(&header, 4);
        header[4..8].copy_from_slice(&sum.to_le_bytes());
        file.write(at, IoBuf::from(&header[..])).await?;
    }
    let mut regions = b"regi".to_vec();
    regions.extend([0; 4]);
    regions.extend(2u32.to_le_bytes());
    regions.extend([0; 4]);
    for (guid, at, len) in [(BAT, bat_at, bat_len), (METADATA, meta_at, MIB)] {
        regions.extend(guid);
        regions.extend(at.to_le_bytes());
        regions.extend((len as u32).to_le_bytes());
        regions.extend(1u32.to_le_bytes());
    }
    regions.resize(REGION_LEN as usize, 0);
    let sum = crc32c(&regions, 4);
    regions[4..8].copy_from_slice(&sum.to_le_bytes());
    for at in REGIONS {
        file.write(at, IoBuf::from(&regions[..])).await?;
    }
    let mut disk_id = [0; 16];
    random(&mut disk_id);
    let parameters = [(block as u32).to_le_bytes(), u32::from(fixed).to_le_bytes()].concat();
    // Flags: 2 = about the virtual disk, 4 = must be understood.
    let items: [(_, u32, Vec<u8>); 5] = [
        (FILE_PARAMETERS, 4, parameters),
        (DISK_SIZE, 6, size.to_le_bytes().to_vec()),
        (DISK_ID, 6, disk_id.to_vec()),
        (LOGICAL_SECTOR, 6, 512u32.to_le_bytes().to_vec()),
        (PHYSICAL_SECTOR, 6, 512u32.to_le_bytes().to_vec()),
    ];
    let mut table = b"metadata".to_vec();
    table.extend([0; 2]);
    table.extend((items.len() as u16).to_le_bytes());
    table.resize(32, 0);
    let mut values: Vec<u8> = Vec::new();
    for (guid, flags, value) in &items {
        table.extend(guid);
        table.extend((REGION_LEN as u32 + values.len() as u32).to_le_bytes());
        table.extend((value.len() as u32).to_le_bytes());
        table.extend(flags.to_le_bytes());
        table.extend([0; 4]);
        values.extend(value);
    }
    table.resize(REGION_LEN as usize, 0);
    table.extend(values);
    file.write(meta_at, table.into()).await?;
    let state = if options.block_state_zero { 2 } else { 0 };
    if fixed || state != 0 {
        let mut at = 0;
        while at < entries {
            let n = (entries - at).min(8192);
            let mut part = Vec::with_capacity(n as usize * 8);
            for entry in at..at + n {
                let word = match entry % (chunk + 1) == chunk {
                    true => 0,
                    false if fixed => data_at + (entry - entry / (chunk + 1)) * block | 6,
                    false => state,
                };
                part.extend(word.to_le_bytes());
            }
            file.write(bat_at + at * 8, part.into()).await?;
            at += n;
        }
    }
    file.write(0, id.into()).await?;
    file.flush().await
}
