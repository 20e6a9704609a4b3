//! Disks in compressed chunks, read-only: `cloop` and `dmg`.
//!
//! Reference: the compressed loop device's header; Apple's UDIF as observed in images ("koly"
//! trailer, property list, "mish" tables).

use super::{Facts, Image, OpenArgs, be32, be64, read_exactly};
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::pack::{bunzip2, inflate_zlib, unlzfse};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Zero,
    Raw,
    Zlib,
    Bzip2,
    Lzfse,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Place on the disk.
    start: u64,
    len: u64,
    codec: Codec,
    offset: u64,
    packed: u64,
}

/// The driver.
pub(crate) struct Chunked {
    name: &'static str,
    file: Arc<Edge>,
    len: u64,
    /// By place on the disk.
    chunks: Vec<Chunk>,
    last: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

const MAX_CHUNK: u64 = 64 << 20;

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(BlockError::corrupt(text))
}

/// Opens a `cloop` image.
pub(crate) async fn open_cloop(file: &Arc<Node>, _args: &OpenArgs) -> Result<Chunked> {
    let h = read_exactly(file, "header", 0, 136).await?;
    let (block, count) = (u64::from(be32(&h, 128)), u64::from(be32(&h, 132)));
    if block == 0 {
        return bad("block_size cannot be zero");
    }
    if !block.is_multiple_of(512) {
        return bad(format!("block_size {block} must be a multiple of 512"));
    }
    if block > MAX_CHUNK {
        return bad(format!("block_size {block} must be 64 MB or less"));
    }
    if count > (u64::from(u32::MAX) - 8) / 8 {
        return bad(format!("n_blocks {count} must be 536870911 or less"));
    }
    let table = (count + 1) * 8;
    if table > 512 << 20 {
        return bad("image requires too many offsets, try increasing block size");
    }
    let raw = read_exactly(file, "offsets", 136, table).await?;
    let mut chunks = Vec::with_capacity(count as usize);
    for (i, pair) in raw.windows(16).step_by(8).enumerate() {
        let (offset, next) = (be64(pair, 0), be64(pair, 8));
        if next < offset {
            return bad(format!(
                "offsets not monotonically increasing at index {}, image file is corrupt",
                i + 1
            ));
        }
        if next - offset > 2 * MAX_CHUNK {
            return bad(format!(
                "invalid compressed block size at index {}, image file is corrupt",
                i + 1
            ));
        }
        let start = i as u64 * block;
        chunks.push(Chunk { start, len: block, codec: Codec::Zlib, offset, packed: next - offset });
    }
    Chunked::new("cloop", file, count * block, chunks)
}

/// The text between two marks, wherever they come.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(inner, _)| inner))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut word) = (0, 0u32);
    for byte in text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

/// Opens a `dmg` image.
pub(crate) async fn open_dmg(file: &Arc<Node>, _args: &OpenArgs) -> Result<Chunked> {
    const TRAILER: u64 = 512;
    let mut trailer = None;
    // It stands at the end, but for padding.
    for back in 0..2 {
        if let Some(at) = file.len().checked_sub(TRAILER + back * 512) {
            let t = read_exactly(file, "trailer", at, TRAILER).await?;
            if &t[..4] == b"koly" {
                trailer = Some(t);
                break;
            }
        }
    }
    let Some(t) = trailer else { return Err(BlockError::invalid("Image not in DMG format")) };
    let fork = be64(&t, 0x18);
    let (rsrc_at, rsrc_len) = (be64(&t, 0x28), be64(&t, 0x30));
    let (xml_at, xml_len) = (be64(&t, 0xd8), be64(&t, 0xe0));
    let sectors = be64(&t, 0x1ec);
    let mut tables = Vec::new();
    if rsrc_len > 0 && rsrc_len <= 16 << 20 {
        let fork = read_exactly(file, "resource fork", rsrc_at, rsrc_len).await?;
        let mut at = if fork.len() >= 0x104 { 0x100 } else { fork.len() };
        while at + 4 <= fork.len() {
            let len = be32(&fork, at) as usize;
            let Some(table) = fork.get(at + 4..).and_then(|rest| rest.get(..len)) else { break };
            if len == 0 {
                break;
            }
            tables.push(table.to_vec());
            at += 4 + len;
        }
    } else if xml_len > 0 && xml_len <= 16 << 20 {
        let xml = read_exactly(file, "property list", xml_at, xml_len).await?;
        let xml = String::from_utf8_lossy(&xml).into_owned();
        for data in between(&xml, "<data>", "</data>") {
            let table = base64(data);
            tables.push(table.ok_or_else(|| BlockError::corrupt("a block table is damaged"))?);
        }
    } else {
        return bad("the image has no block tables");
    }
    let mut chunks = Vec::new();
    for table in tables.iter().filter(|table| table.len() >= 204 && &table[..4] == b"mish") {
        let (first, offset) = (be64(table, 8), be64(table, 24));
        for row in table[204..].as_chunks::<40>().0 {
            let codec = match be32(row, 0) {
                0 | 2 => Codec::Zero,
                1 => Codec::Raw,
                0x8000_0005 => Codec::Zlib,
                0x8000_0006 => Codec::Bzip2,
                0x8000_0007 => Codec::Lzfse,
                _ => continue,
            };
            let (sector, count) = (be64(row, 8), be64(row, 16));
            let (at, packed) = (be64(row, 24), be64(row, 32));
            let chunk = (|| {
                Some(Chunk {
                    start: first.checked_add(sector)?.checked_mul(512)?,
                    len: count.checked_mul(512)?,
                    codec,
                    offset: at.checked_add(offset)?.checked_add(fork)?,
                    packed,
                })
            })();
            let chunk = chunk.ok_or_else(|| BlockError::corrupt("a chunk is out of range"))?;
            if codec != Codec::Zero && (chunk.len > MAX_CHUNK || packed > MAX_CHUNK) {
                return bad(format!("sector count {count} for chunk is larger than max (131072)"));
            }
            if chunk.len > 0 {
                chunks.push(chunk);
            }
        }
    }
    let end = chunks.iter().filter_map(|c| c.start.checked_add(c.len)).max().unwrap_or(0);
    let len = match sectors {
        0 => end,
        n => n.checked_mul(512).ok_or_else(|| BlockError::corrupt("the disk is too large"))?,
    };
    Chunked::new("dmg", file, len, chunks)
}

impl Chunked {
    fn new(name: &'static str, file: &Arc<Node>, len: u64, mut chunks: Vec<Chunk>) -> Result<Self> {
        if len > i64::MAX as u64 {
            return bad("the disk is too large");
        }
        chunks.sort_by_key(|chunk| chunk.start);
        let file = Edge::attach(Role::File, file, Perm::CONSISTENT_READ, Perm::all())?;
        Ok(Self { name, file, len, chunks, last: Mutex::default() })
    }

    /// The chunk that has a byte, or where the next one starts.
    fn find(&self, at: u64) -> Result<&Chunk, u64> {
        let next = self.chunks.partition_point(|chunk| chunk.start <= at);
        match next.checked_sub(1).map(|i| &self.chunks[i]) {
            Some(chunk) if at - chunk.start < chunk.len => Ok(chunk),
            _ => Err(self.chunks.get(next).map_or(u64::MAX, |chunk| chunk.start)),
        }
    }

    async fn unpack(&self, chunk: &Chunk) -> Result<Arc<Vec<u8>>> {
        if let Some((start, bytes)) = &*lock(&self.last)
            && *start == chunk.start
        {
            return Ok(bytes.clone());
        }
        let file = self.file.node().ok_or(BlockError::NoMedium)?;
        let raw = read_exactly(&file, "a compressed chunk", chunk.offset, chunk.packed).await?;
        let len = chunk.len as usize;
        let mut bytes = match chunk.codec {
            Codec::Zlib => inflate_zlib(&raw, len)?,
            Codec::Bzip2 => bunzip2(&raw, len)?,
            Codec::Lzfse => unlzfse(&raw, len)?,
            Codec::Raw | Codec::Zero => raw,
        };
        if bytes.len() != len && chunk.codec != Codec::Raw {
            return bad("a compressed chunk has the wrong length");
        }
        bytes.resize(len, 0);
        let bytes = Arc::new(bytes);
        *lock(&self.last) = Some((chunk.start, bytes.clone()));
        Ok(bytes)
    }
}

impl Driver for Chunked {
    fn name(&self) -> &'static str {
        self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        true
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn read(self: Arc<Self>, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let mut done = 0;
            while done < buf.len() {
                let at = offset + done as u64;
                let left = buf.len() - done;
                done += match self.find(at) {
                    Err(next) => {
                        let n = left.min(usize::try_from(next - at).unwrap_or(left));
                        buf[done..done + n].fill(0);
                        n
                    }
                    Ok(chunk) => {
                        let within = (at - chunk.start) as usize;
                        let n = left.min(usize::try_from(chunk.len).unwrap_or(left) - within);
                        if chunk.codec == Codec::Zero {
                            buf[done..done + n].fill(0);
                        } else {
                            let bytes = self.unpack(chunk).await?;
                            buf[done..done + n].copy_from_slice(&bytes[within..within + n]);
                        }
                        n
                    }
                };
            }
            Ok(buf)
        })
    }

    fn write(self: Arc<Self>, _offset: u64, _buf: IoBuf) -> Op<IoBuf> {
        Op::err(BlockError::ReadOnly)
    }

    fn write_zeroes(self: Arc<Self>, _offset: u64, _len: u64, _unmap: bool) -> Op<()> {
        Op::err(BlockError::ReadOnly)
    }

    fn discard(self: Arc<Self>, _offset: u64, _len: u64) -> Op<()> {
        Op::err(BlockError::ReadOnly)
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::ok(())
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        let data = BlockStatus {
            len,
            zero: false,
            allocated: true,
            data: true,
            compressed: true,
            offset: None,
        };
        let zero = BlockStatus { zero: true, data: false, compressed: false, ..data };
        Op::ok(match self.find(offset) {
            Err(next) => BlockStatus { len: len.min(next - offset), ..zero },
            Ok(chunk) => {
                let len = len.min(chunk.start + chunk.len - offset);
                match chunk.codec {
                    Codec::Zero => BlockStatus { len, ..zero },
                    Codec::Raw => BlockStatus { len, compressed: false, ..data },
                    _ => BlockStatus { len, ..data },
                }
            }
        })
    }
}

impl Image for Chunked {
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::BlockGraph;
    use crate::host::MemFile;

    /// An image with a chunk in each way, and tables in its resource fork.
    fn image(chunks: &[(u32, Vec<u8>, u64)]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut table = b"mish".to_vec();
        table.resize(204, 0);
        let mut sector = 0;
        for (kind, packed, sectors) in chunks {
            table.extend(kind.to_be_bytes());
            table.extend([0; 4]);
            for word in [sector, *sectors, file.len() as u64, packed.len() as u64] {
                table.extend(word.to_be_bytes());
            }
            file.extend(packed);
            sector += sectors;
        }
        let fork = file.len() as u64;
        file.resize(file.len() + 0x100, 0);
        file.extend((table.len() as u32).to_be_bytes());
        file.extend(table);
        let mut trailer = vec![0; 512];
        trailer[..4].copy_from_slice(b"koly");
        let len = file.len() as u64 - fork;
        for (at, word) in [(0x28, fork), (0x30, len), (0x1ec, sector)] {
            trailer[at..at + 8].copy_from_slice(&word.to_be_bytes());
        }
        file.extend(trailer);
        file
    }

    #[test]
    fn chunks_of_every_kind_are_read() {
        let graph = BlockGraph::new();
        let data: Vec<u8> = (0..65536u32).map(|i| (i / 100 * i) as u8).collect();
        let zlib = crate::pack::zlib(&data).unwrap();
        let mut lzfse = Vec::new();
        lzfse_rust::encode_bytes(&data, &mut lzfse).unwrap();
        let chunks = [
            (0x8000_0005, zlib, 128),
            (0x8000_0007, lzfse.clone(), 128),
            (1, data.clone(), 128),
            (2, Vec::new(), 128),
        ];
        let open = |bytes: &[u8]| {
            let file = graph.open_file(None, "", Arc::new(MemFile::from_bytes(bytes))).unwrap();
            let args = OpenArgs::default();
            graph.executor().run_in_place(async move { open_dmg(&file, &args).await }).unwrap()
        };
        let read = |disk: Chunked| {
            let disk = Arc::new(disk);
            let len = disk.len as usize;
            graph.executor().run_in_place(disk.read(0, IoBuf::zeroed(len))).unwrap()
        };
        let all = read(open(&image(&chunks)).unwrap()).unwrap();
        assert_eq!(all.len(), 4 * 65536);
        for part in all.chunks(65536).take(3) {
            assert!(part == data);
        }
        assert!(all[3 * 65536..].iter().all(|byte| *byte == 0));
        let short = image(&[(0x8000_0007, lzfse, 129)]);
        assert!(read(open(&short).unwrap()).is_err(), "the chunk is shorter than its table says");
    }
}
