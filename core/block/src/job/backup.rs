//! Backup: a copy of what was there when the job began.

use super::copy::{How, PIECE};
use super::{ErrorAction, Job, Work};
use crate::backend::OnError;
use crate::bitmap::{Bits, DirtyBitmap};
use crate::filter::{CbwHow, CopyBeforeWrite};
use crate::graph::{BlockGraph, Node};
use crate::op::BoxFuture;
use crate::qapi::qapi;
use crate::sync::lock;
use crate::{BlockError, Result};
use std::sync::{Arc, Mutex};

qapi! {
    /// What to copy.
    enum SyncMode {
        Top = "top",
        Full = "full",
        None = "none",
        Incremental = "incremental",
        Bitmap = "bitmap",
    }

    /// What becomes of the bitmap.
    enum BitmapMode {
        OnSuccess = "on-success",
        Never = "never",
        Always = "always",
    }
}

pub(crate) struct BackupOptions {
    pub(crate) sync: SyncMode,
    pub(crate) bitmap: Option<(Arc<DirtyBitmap>, BitmapMode)>,
    pub(crate) on_source_error: OnError,
    pub(crate) on_target_error: OnError,
    pub(crate) filter_name: Option<String>,
    pub(crate) how: CbwHow,
}

pub(crate) struct Backup {
    graph: BlockGraph,
    parts: Mutex<Option<(Arc<Node>, Arc<CopyBeforeWrite>)>>,
    options: BackupOptions,
}

impl Backup {
    /// Puts the filter in: from here on the copy is of this moment. The caller has drained the
    /// source.
    pub(crate) async fn prepare(
        graph: &BlockGraph,
        source: &Arc<Node>,
        target: &Arc<Node>,
        options: BackupOptions,
    ) -> Result<Arc<Self>> {
        if Arc::ptr_eq(source, target) {
            return Err(BlockError::Invalid("Source and target cannot be the same".into()));
        }
        if source.len() != target.len() {
            return Err(BlockError::Invalid("Source and target image have different sizes".into()));
        }
        let wanted = match (&options.bitmap, options.sync) {
            (Some((bitmap, _)), SyncMode::Incremental | SyncMode::Bitmap) => {
                bitmap.check(false, false)?;
                Some(bitmap.with(|bits| bits.clone()))
            }
            (_, SyncMode::Top) => Some(allocated(source, options.how.cluster).await?),
            _ => None,
        };
        let filter =
            CopyBeforeWrite::new(graph.context(), source, target, wanted.as_ref(), options.how)?;
        let name = options.filter_name.as_deref();
        let node = graph.add_node(name, source.filename(), filter.clone())?;
        graph.replace_node(source, &node)?;
        if let Some((bitmap, _)) = &options.bitmap {
            bitmap.freeze();
        }
        Ok(Arc::new(Self {
            graph: graph.clone(),
            parts: Mutex::new(Some((node, filter))),
            options,
        }))
    }

    /// Takes everything back before the job has begun.
    pub(crate) async fn undo(&self) {
        self.end(false).await;
    }

    async fn end(&self, ok: bool) {
        let Some((node, filter)) = lock(&self.parts).take() else { return };
        if let Err(error) = self.graph.remove_filter(&node).await {
            tracing::warn!(%error, "backup filter stays");
        }
        if let Some((bitmap, mode)) = &self.options.bitmap {
            match mode {
                BitmapMode::OnSuccess => bitmap.thaw(ok),
                BitmapMode::Never => bitmap.thaw(false),
                BitmapMode::Always => {
                    bitmap.thaw(true);
                    if !ok {
                        let mut at = 0;
                        while let Some(range) = filter.next_pending(at, u64::MAX) {
                            bitmap.with(|bits| bits.set(range.start, range.end - range.start));
                            at = range.end;
                        }
                    }
                }
            }
        }
    }
}

/// What a node itself has, against its backing chain.
async fn allocated(node: &Arc<Node>, cluster: u64) -> Result<Bits> {
    let base = node.next_in_chain();
    let mut bits = Bits::new(node.len(), cluster.max(512).next_power_of_two());
    let mut at = 0;
    while at < node.len() {
        let (there, n) = node.allocated_above(base.as_ref(), at, node.len() - at).await?;
        if there {
            bits.set(at, n);
        }
        at += n.max(1);
    }
    Ok(bits)
}

impl Work for Backup {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some((_, filter)) = lock(&self.parts).clone() else {
                return Err(BlockError::Cancelled);
            };
            job.set_len(filter.pending_bytes());
            if self.options.sync == SyncMode::None {
                // Only what is about to be overwritten is copied, until somebody ends it.
                loop {
                    job.rest().await?;
                    if job.should_complete() {
                        return Err(BlockError::Cancelled);
                    }
                    job.wait(1_000_000_000).await;
                }
            }
            let mut seen = 0;
            let mut at = 0;
            loop {
                job.rest().await?;
                if let Some(error) = filter.broken() {
                    return Err(error);
                }
                let Some(range) = filter.next_pending(at, PIECE) else { break };
                let n = range.end - range.start;
                match filter.copy(range.start, n).await {
                    Ok(()) => at = range.end,
                    Err(failed) => {
                        let policy = if failed.read {
                            self.options.on_source_error
                        } else {
                            self.options.on_target_error
                        };
                        match job.on_error(&failed.error, failed.read, policy) {
                            ErrorAction::Report => return Err(failed.error),
                            ErrorAction::Ignore => {
                                filter.skip(range.start, n);
                                at = range.end;
                            }
                            ErrorAction::Stop => {}
                        }
                    }
                }
                let copied = filter.copied();
                job.progress(copied - seen);
                seen = copied;
                job.pace(n).await;
                crate::exec::yield_now().await;
            }
            job.progress_to_end();
            Ok(())
        })
    }

    fn clean<'a>(&'a self, _job: &'a Arc<Job>, ok: bool) -> BoxFuture<'a, ()> {
        Box::pin(self.end(ok))
    }
}

/// Pieces of the usual size for a target.
pub(crate) fn cluster_for(target: &Arc<Node>) -> u64 {
    let image = target.driver().image();
    image.and_then(|image| image.facts().cluster_size).unwrap_or(0).max(65536)
}

/// How a target takes data.
pub(crate) fn how_for(compress: bool) -> How {
    How { compress, unmap: true, target_is_zero: false }
}
