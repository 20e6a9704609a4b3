//! `compress`: writes become compressed writes.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

pub(crate) struct Compress {
    file: Arc<Edge>,
    cluster: u64,
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
        Ok(Arc::new(Self { file, cluster }))
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
                let old = buf.narrow(done as usize..(stop - offset) as usize);
                // A part of a cluster cannot be packed by itself.
                buf = if whole {
                    node.write_compressed(at, buf).await?
                } else {
                    node.write(at, buf).await?
                };
                buf.widen(old);
                done = stop - offset;
            }
            Ok(buf)
        })
    }
}
