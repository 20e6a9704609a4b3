//! Moving data from node to node, piece by piece.

use crate::BlockError;
use crate::IoBuf;
use crate::graph::Node;
use std::sync::Arc;

/// Largest piece.
pub(crate) const PIECE: u64 = 1 << 20;

/// How a piece is moved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    pub(crate) compress: bool,
    /// Zeros may give storage back.
    pub(crate) unmap: bool,
    /// The target reads as zeros where nothing was written.
    pub(crate) target_is_zero: bool,
}

/// Which side failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) read: bool,
    pub(crate) error: BlockError,
}

/// Makes `target` like `source` in a range, which ends within both.
pub(crate) async fn copy(
    source: &Arc<Node>,
    target: &Arc<Node>,
    offset: u64,
    len: u64,
    how: How,
) -> Result<(), Failed> {
    let reading = |error| Failed { read: true, error };
    let writing = |error| Failed { read: false, error };
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let (status, _) = source.status_above(None, at, end - at).await.map_err(reading)?;
        let n = status.len.min(end - at).max(1);
        if status.zero {
            if !how.target_is_zero {
                target.write_zeroes(at, n, how.unmap).await.map_err(writing)?;
            }
            at += n;
            continue;
        }
        let stop = at + n;
        while at < stop {
            let n = (stop - at).min(PIECE);
            let buf = source.read(at, IoBuf::zeroed(n as usize)).await.map_err(reading)?;
            if how.compress {
                target.write_compressed(at, buf).await.map_err(writing)?;
            } else {
                target.write(at, buf).await.map_err(writing)?;
            }
            at += n;
        }
    }
    Ok(())
}
