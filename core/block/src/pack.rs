//! Compression of clusters, grains and chunks.

use crate::{BlockError, Result};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use zlib_rs::{
    DeflateConfig, InflateConfig, ReturnCode, compress_bound, compress_slice, decompress_slice,
};

fn inflate_into(raw: &[u8], out: &mut [u8], flags: u32) -> Option<usize> {
    let flags = flags | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (status, _, n) = decompress(&mut state, raw, out, 0, flags);
    matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput).then_some(n)
}

/// Unpacks raw deflate into exactly `len` bytes; `raw` may go on behind it.
pub(crate) fn inflate(raw: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let (whole, code) = decompress_slice(&mut out, raw, InflateConfig { window_bits: -15 });
    if whole.len() == len && code == ReturnCode::Ok {
        return Ok(out);
    }
    // It takes a stream that has no end, too.
    match inflate_into(raw, &mut out, 0) {
        Some(n) if n == len => Ok(out),
        _ => Err(BlockError::corrupt("compressed cluster cannot be unpacked")),
    }
}

/// Unpacks a zlib stream into at most `len` bytes.
pub(crate) fn inflate_zlib(raw: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let n = inflate_into(raw, &mut out, inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER);
    let n = n.ok_or_else(|| BlockError::corrupt("compressed block cannot be unpacked"))?;
    out.truncate(n);
    Ok(out)
}

fn squeeze(data: &[u8], window_bits: i32) -> Option<Vec<u8>> {
    let config = DeflateConfig { window_bits, ..DeflateConfig::default() };
    let mut out = vec![0; compress_bound(data.len()) + 64];
    let (packed, code) = compress_slice(&mut out, data, config);
    let n = packed.len();
    (code == ReturnCode::Ok).then(|| {
        out.truncate(n);
        out
    })
}

/// Packs as raw deflate with a window of 4 KiB, which is what readers of `qcow2` have room for.
pub(crate) fn deflate(data: &[u8]) -> Option<Vec<u8>> {
    squeeze(data, -12)
}

/// Packs as a zlib stream.
pub(crate) fn zlib(data: &[u8]) -> Option<Vec<u8>> {
    squeeze(data, 15)
}

/// Unpacks a zstd frame into exactly `len` bytes; `raw` may go on behind it.
#[cfg(not(feature = "zstd-c"))]
pub(crate) fn unzstd(raw: &[u8], len: usize) -> Result<Vec<u8>> {
    use ruzstd::io::Read;
    let mut out = vec![0; len];
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(raw).map_err(|_| bad_cluster())?;
    let mut filled = 0;
    while filled < len {
        match decoder.read(&mut out[filled..]) {
            Ok(0) | Err(_) => return Err(bad_cluster()),
            Ok(n) => filled += n,
        }
    }
    Ok(out)
}

/// Packs as a zstd frame.
#[cfg(not(feature = "zstd-c"))]
pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Unpacks a zstd frame into exactly `len` bytes; `raw` may go on behind it.
#[cfg(feature = "zstd-c")]
pub(crate) fn unzstd(raw: &[u8], len: usize) -> Result<Vec<u8>> {
    use zstd_safe::{DCtx, InBuffer, OutBuffer};
    let mut out = vec![0; len];
    let mut state = DCtx::create();
    let mut input = InBuffer::around(raw);
    let mut output = OutBuffer::around(&mut out[..]);
    while output.pos() < len {
        let before = (input.pos(), output.pos());
        let left = state.decompress_stream(&mut output, &mut input).map_err(|_| bad_cluster())?;
        if output.pos() < len && (left == 0 || before == (input.pos(), output.pos())) {
            return Err(bad_cluster());
        }
    }
    Ok(out)
}

/// Packs as a zstd frame.
#[cfg(feature = "zstd-c")]
pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; zstd_safe::compress_bound(data.len())];
    match zstd_safe::compress(&mut out[..], data, zstd_safe::CLEVEL_DEFAULT) {
        Ok(len) => {
            out.truncate(len);
            out
        }
        // (Only without memory. What is as long as the data is stored as it is.)
        Err(_) => data.to_vec(),
    }
}

fn bad_cluster() -> BlockError {
    BlockError::corrupt("compressed cluster cannot be unpacked")
}

/// Unpacks bzip2 into at most `len` bytes.
pub(crate) fn bunzip2(raw: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let mut state = bzip2::Decompress::new(false);
    match state.decompress(raw, &mut out) {
        Ok(_) => {
            out.truncate(state.total_out() as usize);
            Ok(out)
        }
        Err(_) => Err(BlockError::corrupt("compressed block cannot be unpacked")),
    }
}

/// Unpacks LZFSE (or LZVN) into at most `len` bytes.
pub(crate) fn unlzfse(raw: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let mut left = &mut out[..];
    // What is longer does not fit, and is an error.
    let unpacked = lzfse_rust::LzfseRingDecoder::default().decode(&mut &raw[..], &mut left);
    let left = left.len();
    match unpacked {
        Ok(_) => {
            out.truncate(len - left);
            Ok(out)
        }
        Err(_) => Err(BlockError::corrupt("compressed block cannot be unpacked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_unpacks() {
        let data: Vec<u8> = (0..65536u32).map(|i| (i / 100 * i) as u8).collect();
        let mut packed = deflate(&data).unwrap();
        assert!(packed.len() < data.len());
        packed.extend([1, 2, 3]);
        assert_eq!(inflate(&packed, data.len()).unwrap(), data);
        assert_eq!(inflate_zlib(&zlib(&data).unwrap(), data.len()).unwrap(), data);
        assert_eq!(unzstd(&zstd(&data), data.len()).unwrap(), data);
        assert!(inflate(&packed[..100], data.len()).is_err());
        assert!(unzstd(&packed, data.len()).is_err());
    }

    #[test]
    fn lzfse_unpacks_into_what_there_is_room_for() {
        let data: Vec<u8> = (0..300_000u32).map(|i| (i / 100 * i) as u8).collect();
        for data in [&data[..], &data[..5000], &data[..20], &[]] {
            let mut packed = Vec::new();
            lzfse_rust::encode_bytes(data, &mut packed).unwrap();
            assert_eq!(unlzfse(&packed, data.len()).unwrap(), data);
            assert_eq!(unlzfse(&packed, data.len() + 100).unwrap(), data);
            if let Some(short) = data.len().checked_sub(1) {
                assert!(unlzfse(&packed, short).is_err());
                assert!(unlzfse(&packed[..packed.len() - 5], data.len()).is_err());
            }
        }
        assert!(unlzfse(&[0x5a; 64], 64).is_err());
    }

    #[test]
    fn damaged_lzfse_is_an_error_or_other_data() {
        let data: Vec<u8> = (0..40_000u32).map(|i| (i / 7 * i) as u8).collect();
        let mut packed = Vec::new();
        lzfse_rust::encode_bytes(&data, &mut packed).unwrap();
        let mut seed = 1u64;
        for _ in 0..3000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut damaged = packed.clone();
            let at = (seed >> 33) as usize % damaged.len();
            damaged[at] ^= (seed >> 24) as u8 | 1;
            if let Ok(bytes) = unlzfse(&damaged, data.len()) {
                assert!(bytes.len() <= data.len());
            }
        }
    }
}
