//! Commit: data of an image in the middle of a chain moves down, and the image leaves the chain.

use super::copy::{How, PIECE, copy};
use super::{ErrorAction, Job, Work};
use crate::backend::OnError;
use crate::filter::CommitTop;
use crate::graph::{BlockGraph, Edge, Frozen, Node, Perm, Role};
use crate::op::BoxFuture;
use crate::sync::lock;
use crate::{BlockError, Result};
use std::sync::{Arc, Mutex};

pub(crate) struct CommitOptions {
    pub(crate) top: Arc<Node>,
    pub(crate) base: Arc<Node>,
    /// The node that stands on `top`.
    pub(crate) overlay: Arc<Node>,
    /// Name of the base that the overlay records.
    pub(crate) backing_file: Option<String>,
    pub(crate) on_error: OnError,
    pub(crate) filter_name: Option<String>,
}

pub(crate) struct Commit {
    graph: BlockGraph,
    options: CommitOptions,
    filter: Mutex<Option<Arc<Node>>>,
    base: Mutex<Option<Arc<Edge>>>,
    /// The chain from the filter to the base.
    frozen: Mutex<Option<Frozen>>,
    was_read_only: bool,
}

impl Commit {
    pub(crate) async fn prepare(
        graph: &BlockGraph,
        id: &str,
        options: CommitOptions,
    ) -> Result<Arc<Self>> {
        let was_read_only = options.base.read_only();
        let driver = CommitTop::new(&options.top)?;
        let name = options.filter_name.as_deref();
        let filter = graph.add_node(name, options.top.filename(), driver)?;
        graph.insert_filter(&options.top, &filter).await?;
        let ready = async {
            graph.set_read_only(&options.base, false).await?;
            let label = format!("commit job '{id}'");
            let perm = Perm::CONSISTENT_READ | Perm::WRITE | Perm::RESIZE;
            let base = Edge::attach_as(
                "base",
                &label,
                Role::Root,
                &options.base,
                perm,
                Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED,
            )?;
            if options.base.len() < options.top.len() {
                options.base.truncate(options.top.len()).await?;
            }
            Ok(base)
        };
        let ready = ready.await.and_then(|base| {
            let frozen = Frozen::chain(&filter, Some(&options.base))?;
            Ok((base, frozen))
        });
        match ready {
            Ok((base, frozen)) => Ok(Arc::new(Self {
                graph: graph.clone(),
                options,
                filter: Mutex::new(Some(filter)),
                base: Mutex::new(Some(base)),
                frozen: Mutex::new(Some(frozen)),
                was_read_only,
            })),
            Err(error) => {
                graph.remove_filter(&filter).await?;
                Err(error)
            }
        }
    }
}

impl Work for Commit {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (top, base) = (&self.options.top, &self.options.base);
            let len = top.len();
            job.set_len(len);
            let mut at = 0;
            while at < len {
                job.rest().await?;
                let (there, n) = top.allocated_above(Some(base), at, len - at).await?;
                let mut n = n.clamp(1, len - at);
                if there {
                    n = n.min(PIECE);
                    let how = How { unmap: true, ..How::default() };
                    if let Err(failed) = copy(top, base, at, n, how).await {
                        match job.on_error(&failed.error, failed.read, self.options.on_error) {
                            ErrorAction::Stop => continue,
                            ErrorAction::Report => return Err(failed.error),
                            ErrorAction::Ignore => {}
                        }
                    }
                    job.pace(n).await;
                }
                at += n;
                job.progress(n);
                crate::exec::yield_now().await;
            }
            base.flush().await
        })
    }

    fn prepare<'a>(&'a self, _job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let CommitOptions { base, overlay, backing_file, .. } = &self.options;
            let _drained = self.graph.drain(base).await;
            drop(lock(&self.frozen).take());
            // The overlay bears no writer below it.
            drop(lock(&self.base).take());
            let name = backing_file.as_deref().unwrap_or(base.filename());
            let was_read_only = overlay.read_only();
            self.graph.set_read_only(overlay, false).await?;
            self.graph.store_backing_name(overlay, Some((name, Some(base.driver_name())))).await?;
            self.graph.set_read_only(overlay, was_read_only).await?;
            let filter = lock(&self.filter).take();
            if let Some(filter) = filter {
                self.graph.replace_node(&filter, base)?;
            }
            Ok(())
        })
    }

    fn clean<'a>(&'a self, _job: &'a Arc<Job>, _ok: bool) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            drop(lock(&self.base).take());
            drop(lock(&self.frozen).take());
            let filter = lock(&self.filter).take();
            if let Some(filter) = filter
                && let Err(error) = self.graph.remove_filter(&filter).await
            {
                tracing::warn!(%error, "commit filter stays");
            }
            if self.was_read_only
                && let Err(error) = self.graph.set_read_only(&self.options.base, true).await
            {
                tracing::debug!(%error, "base stays writable");
            }
        })
    }
}

/// Refuses a `top` and a `base` that are not in one chain.
pub(crate) fn check_chain(top: &Arc<Node>, base: &Arc<Node>) -> Result<()> {
    if Arc::ptr_eq(top, base) {
        return Err(BlockError::Invalid("cannot commit an image into itself".into()));
    }
    let mut at = top.next_in_chain();
    while let Some(node) = at {
        if Arc::ptr_eq(&node, base) {
            return Ok(());
        }
        at = node.next_in_chain();
    }
    Err(BlockError::Invalid(format!("'{}' is not in this backing file chain", base.filename())))
}
