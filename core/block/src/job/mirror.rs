//! Mirror: a copy that is kept like its source, and may take its place. An active commit is a
//! mirror of the top image into the base of its chain.

use super::backup::SyncMode;
use super::copy::{Failed, How, copy};
use super::{ErrorAction, Job, Work};
use crate::backend::OnError;
use crate::bitmap::DirtyBitmap;
use crate::filter::MirrorTop;
use crate::graph::{BlockGraph, Edge, Node, Perm, Role};
use crate::op::{BoxFuture, race};
use crate::qapi::{self, qapi};
use crate::sync::{Notify, lock};
use crate::{BlockError, Result};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

qapi! {
    /// When a write reaches the copy.
    enum CopyMode {
        Background = "background",
        WriteBlocking = "write-blocking",
    }

    struct MirrorChange { copy_mode: CopyMode }
}

pub(crate) struct MirrorOptions {
    pub(crate) sync: SyncMode,
    /// What is below it is not copied (`sync=top`).
    pub(crate) base: Option<Arc<Node>>,
    pub(crate) granularity: u64,
    pub(crate) buf_size: u64,
    pub(crate) copy_mode: CopyMode,
    pub(crate) unmap: bool,
    pub(crate) target_is_zero: bool,
    pub(crate) on_source_error: OnError,
    pub(crate) on_target_error: OnError,
    /// The node whose place the copy takes; the source when absent.
    pub(crate) replaces: Option<String>,
    pub(crate) filter_name: Option<String>,
    /// The target is the base of the source's chain.
    pub(crate) commit: bool,
}

struct Parts {
    node: Arc<Node>,
    filter: Arc<MirrorTop>,
    target: Arc<Edge>,
}

pub(crate) struct Mirror {
    graph: BlockGraph,
    source: Arc<Node>,
    target: Arc<Node>,
    options: MirrorOptions,
    parts: Mutex<Option<Parts>>,
    shared: Arc<Shared>,
    was_read_only: bool,
}

/// What copies in progress tell the job.
#[derive(Default)]
struct Shared {
    in_flight: AtomicU64,
    failed: Mutex<Vec<Failed>>,
    changed: Notify,
    pivoted: AtomicBool,
}

/// Most pieces on their way at a time.
const MAX_IN_FLIGHT: u64 = 16;

impl Mirror {
    pub(crate) async fn prepare(
        graph: &BlockGraph,
        id: &str,
        source: &Arc<Node>,
        target: &Arc<Node>,
        options: MirrorOptions,
    ) -> Result<Arc<Self>> {
        if Arc::ptr_eq(source, target) {
            return Err(BlockError::Invalid("Can't mirror node into itself".into()));
        }
        if let Some(replaces) = &options.replaces {
            let node = graph.find_node(replaces)?;
            if node.len() != source.len() {
                return Err(BlockError::Invalid(
                    "cannot replace image with a mirror image of different size".into(),
                ));
            }
        }
        let was_read_only = target.read_only();
        let dirty = DirtyBitmap::new(None, source.len(), options.granularity)?;
        let filter = MirrorTop::new(source, target, dirty, options.commit)?;
        let name = options.filter_name.as_deref();
        let node = graph.add_node(name, source.filename(), filter.clone())?;
        graph.insert_filter(source, &node).await?;
        let ready = async {
            if options.commit {
                graph.set_read_only(target, false).await?;
            }
            let job = if options.commit { "commit" } else { "mirror" };
            let perm = Perm::WRITE | Perm::RESIZE | Perm::CONSISTENT_READ;
            let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED;
            let shared = if options.commit { shared | Perm::WRITE } else { shared };
            let label = format!("{job} job '{id}'");
            let edge = Edge::attach_as("target", &label, Role::Root, target, perm, shared)?;
            if options.commit && target.len() < source.len() {
                target.truncate(source.len()).await?;
            }
            if target.len() != source.len() {
                return Err(BlockError::Invalid(
                    "Source and target image have different sizes".into(),
                ));
            }
            Ok(edge)
        };
        match ready.await {
            Ok(edge) => {
                filter.set_active(options.copy_mode == CopyMode::WriteBlocking);
                Ok(Arc::new(Self {
                    graph: graph.clone(),
                    source: source.clone(),
                    target: target.clone(),
                    options,
                    parts: Mutex::new(Some(Parts { node, filter, target: edge })),
                    shared: Arc::default(),
                    was_read_only,
                }))
            }
            Err(error) => {
                filter.retire();
                graph.remove_filter(&node).await?;
                Err(error)
            }
        }
    }

    fn how(&self) -> How {
        How { unmap: self.options.unmap, ..How::default() }
    }

    /// Notes everything that the copy must get first.
    async fn fill(&self, job: &Arc<Job>, filter: &MirrorTop) -> Result<()> {
        let len = self.source.len();
        if self.options.sync == SyncMode::None {
            return Ok(());
        }
        let base = match self.options.sync {
            SyncMode::Top => self.options.base.as_ref(),
            _ => None,
        };
        let mut at = 0;
        while at < len {
            job.rest().await?;
            let (status, _) = self.source.status_above(base, at, len - at).await?;
            let n = status.len.clamp(1, len - at);
            let wanted = if base.is_some() || self.options.target_is_zero {
                status.allocated && !(self.options.target_is_zero && status.zero)
            } else {
                true
            };
            if wanted {
                filter.dirty.mark(at, n);
            }
            at += n;
        }
        Ok(())
    }

    /// Copies one dirty range; it is clean from the moment its content is read.
    async fn copy_range(&self, filter: &MirrorTop, at: u64, n: u64) -> Result<(), Failed> {
        let _busy = filter.busy.acquire(at..at + n).await;
        filter.dirty.with(|bits| bits.clear(at, n));
        let result = copy(&self.source, &self.target, at, n, self.how()).await;
        if result.is_err() {
            filter.dirty.mark(at, n);
        }
        result
    }

    fn handle(&self, job: &Arc<Job>, failed: Failed) -> Result<()> {
        let policy =
            if failed.read { self.options.on_source_error } else { self.options.on_target_error };
        match job.on_error(&failed.error, failed.read, policy) {
            ErrorAction::Report => Err(failed.error),
            ErrorAction::Ignore | ErrorAction::Stop => Ok(()),
        }
    }

    fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    async fn settle(&self) {
        self.shared.changed.until(|| (self.in_flight() == 0).then_some(())).await;
    }

    async fn work(self: &Arc<Self>, job: &Arc<Job>, filter: &Arc<MirrorTop>) -> Result<()> {
        self.fill(job, filter).await?;
        job.set_len(filter.dirty.info().count);
        let piece = self.options.buf_size.clamp(self.options.granularity, 1 << 20);
        let piece = piece - piece % self.options.granularity;
        let (mut at, mut ready) = (0, false);
        loop {
            if !ready || !job.should_complete() {
                job.rest().await?;
            }
            let failed = std::mem::take(&mut *lock(&self.shared.failed));
            for failed in failed {
                self.handle(job, failed)?;
            }
            let range = filter.dirty.next_dirty(at, piece);
            let range = range.or_else(|| filter.dirty.next_dirty(0, piece));
            let Some(range) = range else {
                if self.in_flight() > 0 {
                    let before = self.in_flight();
                    let fewer = || (self.in_flight() < before).then_some(());
                    self.shared.changed.until(fewer).await;
                    continue;
                }
                if !lock(&self.shared.failed).is_empty() {
                    continue;
                }
                if !ready {
                    self.target.flush().await?;
                    ready = true;
                    job.progress_to_end();
                    job.set_ready();
                }
                if job.is_cancelled() {
                    return Err(BlockError::Cancelled);
                }
                if job.should_complete() {
                    return Ok(());
                }
                let dirty = filter.dirty.until_dirty();
                let told = job.wait(1_000_000_000);
                let _ = race(std::pin::pin!(dirty), std::pin::pin!(told)).await;
                continue;
            };
            at = range.end;
            let n = range.end - range.start;
            // The range leaves the bitmap here, so that the next step finds another one.
            filter.dirty.with(|bits| bits.clear(range.start, n));
            self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
            let (this, filter, task) = (self.clone(), filter.clone(), job.clone());
            job.context().executor().spawn(async move {
                match this.copy_range(&filter, range.start, n).await {
                    Ok(()) => task.progress(n),
                    Err(failed) => lock(&this.shared.failed).push(failed),
                }
                this.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
                this.shared.changed.notify();
            });
            let room = || (self.in_flight() < MAX_IN_FLIGHT).then_some(());
            self.shared.changed.until(room).await;
            job.pace(n).await;
            crate::exec::yield_now().await;
        }
    }

    /// The copy takes the place of its source.
    async fn pivot(&self) -> Result<()> {
        let Some((node, filter)) =
            lock(&self.parts).as_ref().map(|p| (p.node.clone(), p.filter.clone()))
        else {
            return Ok(());
        };
        let _drained = self.graph.drain(&self.source).await;
        self.settle().await;
        while let Some(range) = filter.dirty.next_dirty(0, 1 << 20) {
            let n = range.end - range.start;
            self.copy_range(&filter, range.start, n).await.map_err(|failed| failed.error)?;
        }
        self.target.flush().await?;
        filter.retire();
        let replaced = match &self.options.replaces {
            Some(name) => self.graph.find_node(name)?,
            None => self.source.clone(),
        };
        let parts = lock(&self.parts).take();
        // The new users have needs of their own.
        drop(parts.map(|parts| parts.target));
        self.graph.remove_filter(&node).await?;
        self.graph.replace_node(&replaced, &self.target)?;
        self.shared.pivoted.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A mirror as a job sees it.
pub(crate) struct MirrorWork(pub(crate) Arc<Mirror>);

impl Work for MirrorWork {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let filter = lock(&self.0.parts).as_ref().map(|parts| parts.filter.clone());
            let filter = filter.ok_or(BlockError::Cancelled)?;
            let result = self.0.work(job, &filter).await;
            self.0.settle().await;
            result
        })
    }

    fn prepare<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { if job.soft_cancelled() { Ok(()) } else { self.0.pivot().await } })
    }

    fn clean<'a>(&'a self, _job: &'a Arc<Job>, _ok: bool) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let this = &self.0;
            let parts = lock(&this.parts).take();
            if let Some(Parts { node, filter, target }) = parts {
                filter.retire();
                drop(target);
                if let Err(error) = this.graph.remove_filter(&node).await {
                    tracing::warn!(%error, "mirror filter stays");
                }
            }
            let pivoted = this.shared.pivoted.load(Ordering::Relaxed);
            if this.options.commit && this.was_read_only && !pivoted {
                let _ = this.graph.set_read_only(&this.target, true).await;
            }
        })
    }

    fn completes(&self) -> bool {
        true
    }

    fn change(&self, options: &Value) -> Result<()> {
        let change: MirrorChange = qapi::parse(options.clone())?;
        let parts = lock(&self.0.parts);
        let filter = &parts.as_ref().ok_or(BlockError::Cancelled)?.filter;
        if change.copy_mode == CopyMode::Background && filter.is_active() {
            return Err(BlockError::Invalid(
                "Change to copy mode 'background' is not implemented".into(),
            ));
        }
        filter.set_active(change.copy_mode == CopyMode::WriteBlocking);
        Ok(())
    }

    fn facts(&self) -> Value {
        let active = lock(&self.0.parts).as_ref().is_some_and(|parts| parts.filter.is_active());
        json!({"actively-synced": active})
    }
}
