//! `compress`: writes become compressed writes.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::sync::RangeLock;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

pub(crate) struct Compress {
    file: Arc<Edge>,
    cluster: u64,
    /// Clusters that are being changed in part.
    changing: Arc<RangeLock>,
}

impl Compress {
    pub(crate) fn new(file: &Arc<Node>) -> Result<Arc<Self>> {
        let image = file.driver().image();
        let cluster = image.and_then(|image| image.facts().cluster_size).ok_or_else(|| {
            BlockError::Invalid(format!(
                "Compression is not supported for underlying format: {}",
                file.driver_name()
            ))
        })?;
        let file = Edge::attach(Role::Filtered, file, Perm::empty(), Perm::all())?;
        Ok(Arc::new(Self { file, cluster, changing: Arc::default() }))
    }
}

impl Driver for Compress {
    fn name(&self) -> &'static str {
        "compress"
    }

    pass_on!(file: basics children read write_compressed write_zeroes discard flush truncate status);

    fn write(self: Arc<Self>, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let node = self.file.node().ok_or(BlockError::NoMedium)?;
            let total = buf.len() as u64;
            let mut done = 0;
            while done < total {
                let at = offset + done;
                let stop = (at - at % self.cluster + self.cluster).min(offset + total);
                let whole = at.is_multiple_of(self.cluster)
                    && (stop - at == self.cluster || stop == node.len());
                let part = done as usize..(stop - offset) as usize;
                if whole {
                    let old = buf.narrow(part);
                    buf = node.write_compressed(at, buf).await?;
                    buf.widen(old);
                } else {
                    // A cluster is packed as a whole, with what was there before.
                    let first = at - at % self.cluster;
                    let end = (first + self.cluster).min(node.len()).max(stop);
                    let _changing = self.changing.acquire(first..end).await;
                    let there = (node.len().min(end) - first) as usize;
                    let mut cluster = node.read(first, IoBuf::zeroed(there)).await?.into_vec();
                    cluster.resize((end - first) as usize, 0);
                    cluster[(at - first) as usize..(stop - first) as usize]
                        .copy_from_slice(&buf[part]);
                    node.write_compressed(first, cluster.into()).await?;
                }
                done = stop - offset;
            }
            Ok(buf)
        })
    }
}
