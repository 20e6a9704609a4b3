//! The `file` driver: bytes that the host stores.

use super::Edge;
use crate::context::Context;
use crate::driver::{BlockStatus, Driver};
use crate::host::{BlockFile, LockMode};
use crate::op::BoxFuture;
use crate::{BlockError, IoBuf, Op, Result};
use std::sync::Arc;

/// Passes requests to a [`BlockFile`]. Reads past its end give zeros, writes past it make it
/// longer.
pub(super) struct FileDriver {
    file: Arc<dyn BlockFile>,
    /// Name by which the host opens it again.
    name: String,
}

impl FileDriver {
    pub(super) fn new(file: Arc<dyn BlockFile>, name: &str) -> Arc<Self> {
        Arc::new(Self { file, name: name.into() })
    }
}

/// Most bytes of zeros written at a time where the host has no holes.
const ZEROS: u64 = 1 << 20;

impl Driver for FileDriver {
    fn name(&self) -> &'static str {
        "file"
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_only(&self) -> bool {
        self.file.read_only()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        Vec::new()
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.file.read_at(offset, buf)
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.file.write_at(offset, buf)
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move {
            let end = offset.checked_add(len).ok_or(BlockError::OutOfRange { offset, len })?;
            if self.file.len() < end {
                self.file.set_len(end).await?;
            }
            if unmap {
                match self.file.punch_hole(offset, len).await {
                    Err(BlockError::Unsupported(_)) => {}
                    result => return result,
                }
            }
            let mut at = offset;
            let mut buf = IoBuf::zeroed(len.min(ZEROS) as usize);
            while at < end {
                let old = buf.narrow(0..(end - at).min(ZEROS) as usize);
                let n = buf.len() as u64;
                buf = self.file.write_at(at, buf).await?;
                buf.widen(old);
                at += n;
            }
            Ok(())
        })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        Op::pending(async move {
            match self.file.punch_hole(offset, len).await {
                Err(BlockError::Unsupported(_)) => Ok(()),
                result => result,
            }
        })
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.file.flush()
    }

    fn claim(&self, on: bool) -> Result<()> {
        self.file.lock(match (on, self.file.read_only()) {
            (false, _) => LockMode::Unlock,
            (true, true) => LockMode::Read,
            (true, false) => LockMode::Write,
        })
    }

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        self.file.set_len(len)
    }

    fn reopen(
        self: Arc<Self>,
        context: &Context,
        read_only: bool,
    ) -> BoxFuture<'_, Result<Arc<dyn Driver>>> {
        let context = context.clone();
        Box::pin(async move {
            let fs = context.fs()?;
            self.file.lock(LockMode::Unlock)?;
            let (new, old) = if read_only {
                (LockMode::Read, LockMode::Write)
            } else {
                (LockMode::Write, LockMode::Read)
            };
            let opened = async {
                let file = fs.open(&self.name, !read_only).await?;
                file.lock(new)?;
                Ok(file)
            };
            match opened.await {
                Ok(file) => {
                    let new: Arc<dyn Driver> = Self::new(file, &self.name);
                    Ok(new)
                }
                Err(error) => {
                    self.file.lock(old)?;
                    Err(error)
                }
            }
        })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        let extent = self.file.extent(offset, len);
        Op::ok(BlockStatus {
            len: extent.len.clamp(1, len.max(1)),
            zero: !extent.data,
            allocated: true,
            data: extent.data,
            compressed: false,
            offset: Some(offset),
        })
    }
}
