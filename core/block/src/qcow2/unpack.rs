//! Compressed clusters.

use super::header::Compression;
use crate::{BlockError, Result};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// Unpacks one cluster. `packed` may have any bytes after the compressed data.
pub(super) fn unpack(method: Compression, packed: &[u8], cluster: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; cluster];
    let filled = match method {
        Compression::Zlib => {
            let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
            let mut state = Box::<DecompressorOxide>::default();
            let (status, _, n) = decompress(&mut state, packed, &mut out, 0, flags);
            let ok = matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput);
            if ok { n } else { 0 }
        }
        Compression::Zstd => unzstd(packed, &mut out),
    };
    if filled != cluster {
        return Err(BlockError::corrupt("compressed cluster cannot be unpacked"));
    }
    Ok(out)
}

fn unzstd(packed: &[u8], out: &mut [u8]) -> usize {
    use ruzstd::io::Read;
    let Ok(mut decoder) = ruzstd::decoding::StreamingDecoder::new(packed) else { return 0 };
    let mut filled = 0;
    while filled < out.len() {
        match decoder.read(&mut out[filled..]) {
            Ok(0) | Err(_) => break,
            Ok(n) => filled += n,
        }
    }
    filled
}
