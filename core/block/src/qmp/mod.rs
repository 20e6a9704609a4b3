//! The monitor's commands about storage, as QMP has them.
//!
//! [`Monitor`] carries commands out; [`Session`] is one client's conversation. Connections belong
//! to the front end.

mod args;
mod bitmaps;
mod control;
mod drive;
mod export;
mod jobs;
mod node;
mod query;
mod rate;
mod session;
mod snapshot;
#[cfg(test)]
mod tests;
mod transaction;

pub use control::version;
pub use session::{Call, Session, Step};

use crate::graph::{BlockGraph, Node};
use crate::nbd::NbdServer;
use crate::options::NodeOptions;
use crate::qapi::{self, Registry, Schema};
use crate::sync::lock;
use crate::{BlockError, Result};
use args::*;
use export::Exports;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Why a command failed, as a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// Class, such as `GenericError`.
    pub class: &'static str,
    /// Words.
    pub desc: String,
}

impl QmpError {
    /// An error of the class that says nothing.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: "GenericError", desc: desc.into() }
    }

    /// There is no such command.
    pub fn not_found(command: &str) -> Self {
        let desc = format!("The command {command} has not been found");
        Self { class: "CommandNotFound", desc }
    }
}

impl From<BlockError> for QmpError {
    fn from(error: BlockError) -> Self {
        let desc = match &error {
            BlockError::NotFound(text) => text.clone(),
            BlockError::Exists(text) if text.contains(' ') => text.clone(),
            other => other.to_string(),
        };
        Self::generic(desc)
    }
}

/// What came of a command.
pub type Answer<T> = std::result::Result<T, QmpError>;

/// Carries commands out on a graph. Cheap to clone.
#[derive(Clone)]
pub struct Monitor(Arc<Inner>);

struct Inner {
    graph: BlockGraph,
    exports: Exports,
    nbd: Mutex<Option<NbdServer>>,
    quit: AtomicBool,
}

impl Monitor {
    /// A monitor of `graph`.
    pub fn new(graph: &BlockGraph) -> Self {
        Self(Arc::new(Inner {
            graph: graph.clone(),
            exports: Exports::default(),
            nbd: Mutex::default(),
            quit: AtomicBool::new(false),
        }))
    }

    /// The graph.
    pub fn graph(&self) -> &BlockGraph {
        &self.0.graph
    }

    /// True once a client has asked the program to end.
    pub fn wants_to_quit(&self) -> bool {
        self.0.quit.load(Ordering::Relaxed)
    }

    /// Runs a command with its arguments.
    pub async fn execute(&self, command: &str, arguments: Value) -> Answer<Value> {
        self.dispatch(command, arguments).await
    }

    /// Ends everything: exports, jobs, nodes.
    pub async fn shutdown(&self) -> Result<()> {
        for job in self.graph().jobs() {
            let _ = job.cancel(true);
        }
        if let Some(server) = lock(&self.0.nbd).take() {
            server.stop();
        }
        self.drop_exports();
        let over = || {
            self.graph().jobs().iter().all(|job| {
                use crate::job::JobStatus::{Concluded, Null};
                [Concluded, Null].contains(&job.status())
            })
        };
        for _ in 0..10_000 {
            if over() {
                break;
            }
            crate::exec::yield_now().await;
        }
        self.graph().close().await
    }

    fn node(&self, name: &str) -> Answer<Arc<Node>> {
        let missing = || QmpError {
            class: "GenericError",
            desc: format!("Cannot find device='{name}' nor node-name='{name}'"),
        };
        self.graph().find_node(name).map_err(|_| missing())
    }
}

/// The table of commands: name, handler, arguments, result.
macro_rules! commands {
    ($($name:literal $handler:ident $args:ty => $ret:ty;)*) => {
        impl Monitor {
            async fn dispatch(&self, command: &str, arguments: Value) -> Answer<Value> {
                match command {
                    $($name => {
                        let args: $args = read(arguments)?;
                        let done: $ret = self.$handler(args).await?;
                        Ok(result(&done))
                    })*
                    "query-qmp-schema" => Ok(schema()),
                    _ => Err(QmpError::not_found(command)),
                }
            }
        }

        /// Names of all commands.
        pub const COMMANDS: &[&str] = &[$($name,)* "query-qmp-schema"];

        /// Notes the types of commands and events; gives what is said of these.
        pub fn describe(registry: &mut Registry) -> Vec<Value> {
            let mut out = vec![$({
                let args = <$args as Schema>::define(registry);
                let ret = <$ret as Schema>::define(registry);
                registry.command($name, &args, &ret, false)
            }),*];
            let (args, ret) = (<() as Schema>::define(registry), Vec::<Value>::define(registry));
            out.push(registry.command("query-qmp-schema", &args, &ret, false));
            out.extend(args::events(registry));
            out
        }
    };
}

fn schema() -> Value {
    let mut registry = Registry::default();
    let mut out = describe(&mut registry);
    out.extend(registry.into_types());
    Value::Array(out)
}

/// Reads the arguments of a command.
pub fn read<T: serde::de::DeserializeOwned>(arguments: Value) -> Answer<T> {
    let arguments = if arguments.is_null() { json!({}) } else { arguments };
    qapi::parse(arguments).map_err(|error| QmpError::generic(error.to_string()))
}

/// A command's result as clients see it.
pub fn result(value: &impl serde::Serialize) -> Value {
    match qapi::to_value(value) {
        Value::Null => json!({}),
        value => value,
    }
}

commands! {
    "qmp_capabilities" capabilities Capabilities => Nothing;
    "query-version" version Nothing => Value;
    "query-commands" commands Nothing => Vec<CommandInfo>;
    "quit" quit Nothing => Nothing;
    "object-add" object_add NewObject => Nothing;
    "object-del" object_del ObjectId => Nothing;
    "qom-list" qom_list QomPath => Vec<Value>;
    "qom-get" qom_get QomGet => Value;
    "qom-set" qom_set QomSet => Nothing;
    "qom-list-types" qom_list_types QomListTypes => Vec<Value>;
    "job-pause" job_pause JobId => Nothing;
    "job-resume" job_resume JobId => Nothing;
    "job-cancel" job_cancel JobId => Nothing;
    "job-complete" job_complete JobId => Nothing;
    "job-dismiss" job_dismiss JobId => Nothing;
    "job-finalize" job_finalize JobId => Nothing;
    "query-jobs" query_jobs Nothing => Vec<Value>;
    "query-block-jobs" query_block_jobs Nothing => Vec<Value>;
    "block-job-set-speed" block_job_set_speed JobSpeed => Nothing;
    "block-job-cancel" block_job_cancel JobCancel => Nothing;
    "block-job-pause" block_job_pause JobDevice => Nothing;
    "block-job-resume" block_job_resume JobDevice => Nothing;
    "block-job-complete" block_job_complete JobDevice => Nothing;
    "block-job-dismiss" job_dismiss JobId => Nothing;
    "block-job-finalize" job_finalize JobId => Nothing;
    "block-job-change" block_job_change JobChange => Nothing;
    "blockdev-add" blockdev_add NodeOptions => Nothing;
    "blockdev-del" blockdev_del NodeName => Nothing;
    "blockdev-reopen" blockdev_reopen ReopenArgs => Nothing;
    "blockdev-create" blockdev_create CreateArgs => Nothing;
    "blockdev-set-active" blockdev_set_active SetActive => Nothing;
    "block_resize" block_resize Resize => Nothing;
    "block_set_io_throttle" set_io_throttle IoThrottle => Nothing;
    "block-latency-histogram-set" set_histogram LatencyHistogram => Nothing;
    "block-set-write-threshold" set_write_threshold Threshold => Nothing;
    "change-backing-file" change_backing_file ChangeBacking => Nothing;
    "x-blockdev-change" blockdev_change BlockdevChange => Nothing;
    "query-block" query_block Nothing => Vec<Value>;
    "query-blockstats" query_blockstats BlockStatsArgs => Vec<Value>;
    "query-named-block-nodes" query_nodes QueryNodes => Vec<Value>;
    "x-debug-query-block-graph" query_graph Nothing => Value;
    "block-dirty-bitmap-add" bitmap_add BitmapAdd => Nothing;
    "block-dirty-bitmap-remove" bitmap_remove BitmapName => Nothing;
    "block-dirty-bitmap-clear" bitmap_clear BitmapName => Nothing;
    "block-dirty-bitmap-enable" bitmap_enable BitmapName => Nothing;
    "block-dirty-bitmap-disable" bitmap_disable BitmapName => Nothing;
    "block-dirty-bitmap-merge" bitmap_merge BitmapMerge => Nothing;
    "x-debug-block-dirty-bitmap-sha256" bitmap_sha256 BitmapName => Sha256;
    "block-stream" block_stream StreamArgs => Nothing;
    "block-commit" block_commit CommitArgs => Nothing;
    "blockdev-mirror" blockdev_mirror MirrorArgs => Nothing;
    "drive-mirror" drive_mirror DriveMirror => Nothing;
    "drive-backup" drive_backup DriveBackup => Nothing;
    "blockdev-backup" blockdev_backup BackupArgs => Nothing;
    "blockdev-snapshot" blockdev_snapshot SnapshotArgs => Nothing;
    "blockdev-snapshot-internal-sync" snapshot_internal SnapshotInternal => Nothing;
    "blockdev-snapshot-delete-internal-sync" snapshot_delete_internal SnapshotDelete => SnapshotInfo;
    "blockdev-snapshot-sync" blockdev_snapshot_sync SnapshotSync => Nothing;
    "nbd-server-start" nbd_server_start NbdStart => Nothing;
    "nbd-server-add" nbd_server_add NbdAdd => Nothing;
    "nbd-server-remove" nbd_server_remove NbdRemove => Nothing;
    "nbd-server-stop" nbd_server_stop Nothing => Nothing;
    "block-export-add" block_export_add ExportAdd => Nothing;
    "block-export-del" block_export_del ExportDel => Nothing;
    "query-block-exports" query_block_exports Nothing => Vec<Value>;
    "transaction" transaction TransactionArgs => Nothing;
}
