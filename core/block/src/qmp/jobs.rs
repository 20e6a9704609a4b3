//! Commands about jobs.

use super::args::*;
use super::{Answer, Monitor, QmpError};
use crate::backend::OnError;
use crate::filter::CbwHow;
use crate::graph::Node;
use crate::job::{
    Backup, BackupOptions, BitmapMode, Commit, CommitOptions, CopyMode, Job, JobKind, JobOptions,
    Mirror, MirrorOptions, MirrorWork, Stream, StreamOptions, SyncMode, Transaction, check_chain,
    cluster_for, how_for,
};
use crate::options::OnCbwError;
use crate::{BlockError, Result};
use serde_json::Value;
use std::sync::Arc;

fn options(speed: Option<u64>, finalize: Option<bool>, dismiss: Option<bool>) -> JobOptions {
    JobOptions {
        speed: speed.unwrap_or(0),
        auto_finalize: finalize.unwrap_or(true),
        auto_dismiss: dismiss.unwrap_or(true),
    }
}

impl Monitor {
    fn find_job(&self, id: &str) -> Answer<Arc<Job>> {
        self.graph().job(id).ok_or_else(|| QmpError::generic("Job not found"))
    }

    fn find_block_job(&self, id: &str) -> Answer<Arc<Job>> {
        let missing =
            || QmpError { class: "DeviceNotActive", desc: format!("Block job '{id}' not found") };
        self.graph().job(id).ok_or_else(missing)
    }

    pub(super) async fn job_pause(&self, args: JobId) -> Answer<Nothing> {
        self.find_job(&args.id)?.pause()?;
        Ok(Nothing {})
    }

    pub(super) async fn job_resume(&self, args: JobId) -> Answer<Nothing> {
        self.find_job(&args.id)?.resume()?;
        Ok(Nothing {})
    }

    pub(super) async fn job_cancel(&self, args: JobId) -> Answer<Nothing> {
        self.find_job(&args.id)?.cancel(true)?;
        Ok(Nothing {})
    }

    pub(super) async fn job_complete(&self, args: JobId) -> Answer<Nothing> {
        self.find_job(&args.id)?.complete()?;
        Ok(Nothing {})
    }

    pub(super) async fn job_dismiss(&self, args: JobId) -> Answer<Nothing> {
        self.find_job(&args.id)?.dismiss()?;
        Ok(Nothing {})
    }

    pub(super) async fn job_finalize(&self, args: JobId) -> Answer<Nothing> {
        self.find_job(&args.id)?.finalize()?;
        Ok(Nothing {})
    }

    pub(super) async fn query_jobs(&self, _: Nothing) -> Answer<Vec<Value>> {
        Ok(self.graph().jobs().iter().map(|job| job.describe()).collect())
    }

    pub(super) async fn query_block_jobs(&self, _: Nothing) -> Answer<Vec<Value>> {
        Ok(self.graph().jobs().iter().filter_map(|job| job.describe_block_job()).collect())
    }

    pub(super) async fn block_job_set_speed(&self, args: JobSpeed) -> Answer<Nothing> {
        self.find_block_job(&args.device)?.set_speed(args.speed)?;
        Ok(Nothing {})
    }

    pub(super) async fn block_job_cancel(&self, args: JobCancel) -> Answer<Nothing> {
        self.find_block_job(&args.device)?.cancel(args.force.unwrap_or(false))?;
        Ok(Nothing {})
    }

    pub(super) async fn block_job_pause(&self, args: JobDevice) -> Answer<Nothing> {
        self.find_block_job(&args.device)?.pause()?;
        Ok(Nothing {})
    }

    pub(super) async fn block_job_resume(&self, args: JobDevice) -> Answer<Nothing> {
        self.find_block_job(&args.device)?.resume()?;
        Ok(Nothing {})
    }

    pub(super) async fn block_job_complete(&self, args: JobDevice) -> Answer<Nothing> {
        self.find_block_job(&args.device)?.complete()?;
        Ok(Nothing {})
    }

    pub(super) async fn block_job_change(&self, args: JobChange) -> Answer<Nothing> {
        let mut map = args.0;
        let Some(Value::String(id)) = map.remove("id") else {
            return Err(QmpError::generic("Parameter 'id' is missing"));
        };
        map.remove("type");
        self.find_block_job(&id)?.change(&Value::Object(map))?;
        Ok(Nothing {})
    }

    pub(super) async fn block_stream(&self, args: StreamArgs) -> Answer<Nothing> {
        let graph = self.graph();
        let id = graph.job_id(args.job_id.as_deref(), &args.device)?;
        let top = self.node(&args.device)?;
        let base = match (&args.base_node, &args.bottom, &args.base) {
            (Some(base), None, None) => Some(self.node(base)?),
            (None, Some(bottom), None) => self.node(bottom)?.next_in_chain(),
            (None, None, Some(base)) => Some(graph.find_in_chain(&top, base).ok_or_else(|| {
                QmpError::generic(format!("Can't find '{base}' in the backing chain"))
            })?),
            (None, None, None) => None,
            _ => {
                return Err(QmpError::generic(
                    "'base', 'base-node' and 'bottom' cannot be specified at the same time",
                ));
            }
        };
        let stream = StreamOptions {
            base,
            backing_file: args.backing_file,
            on_error: args.on_error.unwrap_or(OnError::Report),
            filter_name: args.filter_node_name,
        };
        let work = Stream::prepare(graph, &id, &top, stream).await;
        let work = work.inspect_err(|_| graph.tell_stillborn(&id))?;
        let options = options(args.speed, args.auto_finalize, args.auto_dismiss);
        graph.start_job(&id, JobKind::Stream, options, work, None);
        Ok(Nothing {})
    }

    pub(super) async fn block_commit(&self, args: CommitArgs) -> Answer<Nothing> {
        let graph = self.graph();
        let id = graph.job_id(args.job_id.as_deref(), &args.device)?;
        let active = self.node(&args.device)?.skip_filters();
        let named = |node: &Option<String>, file: &Option<String>| -> Answer<Option<Arc<Node>>> {
            match (node, file) {
                (Some(node), None) => Ok(Some(self.node(node)?.skip_filters())),
                (None, Some(file)) => {
                    graph.find_in_chain(&active, file).map(Some).ok_or_else(|| {
                        QmpError::generic(format!("Can't find '{file}' in the backing chain"))
                    })
                }
                (None, None) => Ok(None),
                _ => Err(QmpError::generic("names of nodes and files exclude each other")),
            }
        };
        let top = named(&args.top_node, &args.top)?.unwrap_or_else(|| active.clone());
        let base = match named(&args.base_node, &args.base)? {
            Some(base) => base,
            None => {
                let mut base = active.clone();
                while let Some(below) = base.next_in_chain() {
                    base = below;
                }
                base
            }
        };
        check_chain(&top, &base)?;
        let job = options(args.speed, args.auto_finalize, args.auto_dismiss);
        let on_error = args.on_error.unwrap_or(OnError::Report);
        if Arc::ptr_eq(&top, &active) {
            if args.backing_file.is_some() {
                return Err(QmpError::generic(
                    "'backing-file' specified, but 'top' is the active layer",
                ));
            }
            let mirror = MirrorOptions {
                sync: SyncMode::Top,
                base: Some(base.clone()),
                granularity: 65536,
                buf_size: 1 << 20,
                copy_mode: CopyMode::Background,
                unmap: false,
                target_is_zero: false,
                on_source_error: on_error,
                on_target_error: on_error,
                replaces: None,
                filter_name: args.filter_node_name,
                commit: true,
            };
            let mirror = Mirror::prepare(graph, &id, &active, &base, mirror).await?;
            graph.start_job(&id, JobKind::Commit, job, Arc::new(MirrorWork(mirror)), None);
            return Ok(Nothing {});
        }
        let overlay = graph.overlay_of(&active, &top).ok_or_else(|| {
            QmpError::generic(format!("'{}' is not in this backing file chain", top.filename()))
        })?;
        let commit = CommitOptions {
            top,
            base,
            overlay,
            backing_file: args.backing_file,
            on_error,
            filter_name: args.filter_node_name,
        };
        let work = Commit::prepare(graph, &id, commit).await?;
        graph.start_job(&id, JobKind::Commit, job, work, None);
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_mirror(&self, args: MirrorArgs) -> Answer<Nothing> {
        let MirrorArgs { base: args, filter_node_name: filter_name, target_is_zero } = args;
        let graph = self.graph();
        let id = graph.job_id(args.job_id.as_deref(), &args.device)?;
        let (source, target) = (self.node(&args.device)?, self.node(&args.target)?);
        if !matches!(args.sync, SyncMode::Top | SyncMode::Full | SyncMode::None) {
            return Err(QmpError::generic(format!(
                "Sync mode '{}' not supported",
                serde_json::to_value(args.sync)
                    .ok()
                    .and_then(|v| v.as_str().map(String::from))
                    .unwrap_or_default()
            )));
        }
        let granularity = u64::from(args.granularity.unwrap_or(65536));
        if !granularity.is_power_of_two() || !(512..=64 << 20).contains(&granularity) {
            return Err(QmpError::generic(
                "Parameter 'granularity' expects a power of 2 in range [512B, 64MB]",
            ));
        }
        let mirror = MirrorOptions {
            base: source.next_in_chain(),
            sync: if source.next_in_chain().is_none() && args.sync == SyncMode::Top {
                SyncMode::Full
            } else {
                args.sync
            },
            granularity,
            buf_size: args.buf_size.filter(|size| *size > 0).unwrap_or(16 << 20),
            copy_mode: args.copy_mode.unwrap_or(CopyMode::Background),
            unmap: true,
            target_is_zero: target_is_zero.unwrap_or(false),
            on_source_error: args.on_source_error.unwrap_or(OnError::Report),
            on_target_error: args.on_target_error.unwrap_or(OnError::Report),
            replaces: args.replaces,
            filter_name,
            commit: false,
        };
        let mirror = Mirror::prepare(graph, &id, &source, &target, mirror).await?;
        let options = options(args.speed, args.auto_finalize, args.auto_dismiss);
        graph.start_job(&id, JobKind::Mirror, options, Arc::new(MirrorWork(mirror)), None);
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_backup(&self, args: BackupArgs) -> Answer<Nothing> {
        let source = self.node(&args.device)?;
        let _drained = self.graph().drain(&source).await;
        self.make_backup(args, None).await?.0.start();
        Ok(Nothing {})
    }

    /// Makes a backup job, which waits to be started. The caller has drained the source.
    pub(super) async fn make_backup(
        &self,
        args: BackupArgs,
        transaction: Option<&Arc<Transaction>>,
    ) -> Answer<(Arc<Job>, Arc<Backup>)> {
        let graph = self.graph();
        let id = graph.job_id(args.job_id.as_deref(), &args.device)?;
        let (source, target) = (self.node(&args.device)?, self.node(&args.target)?);
        let backup = self.backup_options(&args, &source, &target)?;
        let work = Backup::prepare(graph, &source, &target, backup).await?;
        let options = options(args.speed, args.auto_finalize, args.auto_dismiss);
        let job = graph.make_job(&id, JobKind::Backup, options, work.clone(), transaction);
        Ok((job, work))
    }

    fn backup_options(
        &self,
        args: &BackupArgs,
        source: &Arc<Node>,
        target: &Arc<Node>,
    ) -> Result<BackupOptions> {
        let bad = |text: &str| Err(BlockError::Invalid(text.into()));
        let by_bitmap = matches!(args.sync, SyncMode::Incremental | SyncMode::Bitmap);
        let bitmap = match (&args.bitmap, by_bitmap) {
            (None, true) => return bad("must provide a valid bitmap name for sync mode 'bitmap'"),
            (None, false) => None,
            (Some(name), _) => {
                let bitmap = source.skip_filters().bitmap(name).or_else(|| source.bitmap(name));
                let Some(bitmap) = bitmap else {
                    return bad(&format!("Bitmap '{name}' could not be found"));
                };
                let mode = match (args.sync, args.bitmap_mode) {
                    (SyncMode::Incremental, None | Some(BitmapMode::OnSuccess)) => {
                        BitmapMode::OnSuccess
                    }
                    (SyncMode::Incremental, Some(_)) => {
                        return bad(
                            "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
                        );
                    }
                    (SyncMode::Bitmap | SyncMode::Full | SyncMode::Top, Some(mode)) => mode,
                    (SyncMode::Bitmap | SyncMode::Full | SyncMode::Top, None) => {
                        return bad("Bitmap sync mode must be given when providing a bitmap");
                    }
                    (SyncMode::None, _) => {
                        return bad("sync mode 'none' does not produce meaningful bitmap outputs");
                    }
                };
                Some((bitmap, mode))
            }
        };
        if bitmap.is_none() && args.bitmap_mode.is_some() {
            return bad("Cannot specify bitmap sync mode without a bitmap");
        }
        let perf = args.x_perf.as_ref().and_then(|perf| perf.min_cluster_size).unwrap_or(0);
        Ok(BackupOptions {
            sync: args.sync,
            bitmap,
            on_source_error: args.on_source_error.unwrap_or(OnError::Report),
            on_target_error: args.on_target_error.unwrap_or(OnError::Report),
            filter_name: args.filter_node_name.clone(),
            how: CbwHow {
                on_error: OnCbwError::BreakGuestWrite,
                timeout_ns: 0,
                cluster: cluster_for(target).max(perf),
                how: how_for(args.compress.unwrap_or(false)),
            },
        })
    }
}
