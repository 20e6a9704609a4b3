//! Stream: an image takes over what it reads from below, and needs it no longer.

use super::copy::PIECE;
use super::{ErrorAction, Job, Work};
use crate::backend::OnError;
use crate::filter::CopyOnRead;
use crate::graph::{BlockGraph, Edge, Frozen, Node, Perm, Role};
use crate::op::BoxFuture;
use crate::sync::lock;
use crate::{BlockError, IoBuf, Result};
use std::sync::{Arc, Mutex};

pub(crate) struct StreamOptions {
    /// The node of the chain that stays below; nothing when the chain goes.
    pub(crate) base: Option<Arc<Node>>,
    /// Name of it that the image records.
    pub(crate) backing_file: Option<String>,
    pub(crate) on_error: OnError,
    pub(crate) filter_name: Option<String>,
}

pub(crate) struct Stream {
    graph: BlockGraph,
    top: Arc<Node>,
    filter: Mutex<Option<Arc<Node>>>,
    /// The chain down to what stays.
    frozen: Mutex<Option<Frozen>>,
    /// Nobody writes to what is read.
    between: Mutex<Vec<Arc<Edge>>>,
    options: StreamOptions,
}

impl Stream {
    pub(crate) async fn prepare(
        graph: &BlockGraph,
        id: &str,
        top: &Arc<Node>,
        options: StreamOptions,
    ) -> Result<Arc<Self>> {
        let top = top.skip_filters();
        if top.read_only() {
            graph.set_read_only(&top, false).await?;
        }
        let bottom = match &options.base {
            Some(base) => Some(graph.overlay_of(&top, base).ok_or_else(|| {
                BlockError::Invalid(format!("'{}' is not in the backing chain", base.name()))
            })?),
            None => None,
        };
        let frozen = Mutex::new(Some(Frozen::chain(&top, bottom.as_ref())?));
        let mut between = Vec::new();
        let mut next = top.next_in_chain();
        while let Some(node) = next.filter(|node| !is_base(node, options.base.as_ref())) {
            let reads = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
            let label = format!("stream job '{id}'");
            between.push(Edge::attach_as(
                "intermediate node",
                &label,
                Role::Root,
                &node,
                Perm::CONSISTENT_READ,
                reads,
            )?);
            next = node.next_in_chain();
        }
        let driver = CopyOnRead::new(&top, bottom.as_ref())?;
        let filter = graph.add_node(options.filter_name.as_deref(), top.filename(), driver)?;
        graph.insert_filter(&top, &filter).await?;
        let filter = Mutex::new(Some(filter));
        let between = Mutex::new(between);
        Ok(Arc::new(Self { graph: graph.clone(), top, filter, frozen, between, options }))
    }
}

fn is_base(node: &Arc<Node>, base: Option<&Arc<Node>>) -> bool {
    base.is_some_and(|base| Arc::ptr_eq(node, &base.skip_filters()))
}

impl Work for Stream {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(filter) = lock(&self.filter).clone() else {
                return Err(BlockError::Cancelled);
            };
            let len = self.top.len();
            job.set_len(len);
            if self.top.backing().is_none() {
                job.progress(len);
                return Ok(());
            }
            let mut first_error = None;
            let mut at = 0;
            while at < len {
                job.rest().await?;
                let own = self.top.status(at, len - at).await?;
                let mut n = own.len.max(1).min(len - at);
                let mut needed = !own.allocated;
                if needed {
                    let base = self.options.base.as_ref();
                    let (there, m) = self.top.allocated_above(base, at, n).await?;
                    (needed, n) = (there, m.clamp(1, n));
                }
                if needed {
                    n = n.min(PIECE);
                    if let Err(error) = filter.read(at, IoBuf::zeroed(n as usize)).await {
                        match job.on_error(&error, true, self.options.on_error) {
                            ErrorAction::Stop => continue,
                            ErrorAction::Report => return Err(error),
                            ErrorAction::Ignore => drop(first_error.get_or_insert(error)),
                        }
                    }
                    job.pace(n).await;
                }
                at += n;
                job.progress(n);
                crate::exec::yield_now().await;
            }
            first_error.map_or(Ok(()), Err)
        })
    }

    fn prepare<'a>(&'a self, _job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let _drained = self.graph.drain(&self.top).await;
            drop(lock(&self.frozen).take());
            lock(&self.between).clear();
            let base = self.options.base.as_ref();
            if self.top.backing().is_none() && base.is_none() {
                return Ok(());
            }
            let name = base.map(|base| {
                let name = self.options.backing_file.as_deref().unwrap_or(base.filename());
                (name, Some(base.driver_name()))
            });
            self.graph.store_backing_name(&self.top, name).await?;
            self.graph.set_backing(&self.top, base)
        })
    }

    fn clean<'a>(&'a self, _job: &'a Arc<Job>, _ok: bool) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            drop(lock(&self.frozen).take());
            lock(&self.between).clear();
            let filter = lock(&self.filter).take();
            if let Some(filter) = filter
                && let Err(error) = self.graph.remove_filter(&filter).await
            {
                tracing::warn!(%error, "stream filter stays");
            }
        })
    }
}
