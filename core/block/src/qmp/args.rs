//! Arguments and results of the commands. Names and meanings are those of QEMU's reference.

use crate::backend::OnError;
use crate::job::{BitmapMode, CopyMode, SyncMode};
use crate::options::{BitmapRef, NodeRef, SocketAddress};
pub(crate) use crate::qapi::Nothing;
use crate::qapi::{Member, Registry, Schema, Variant, qapi};
use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, Value, json};

impl Schema for OnError {
    fn define(registry: &mut Registry) -> String {
        let values = ["report", "ignore", "enospc", "stop", "auto"];
        registry.enumeration("BlockdevOnError", &values)
    }
}

/// A bitmap of the node that the command is about, or of another one.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum BitmapSource {
    Here(String),
    There(BitmapRef),
}

impl Schema for BitmapSource {
    fn define(registry: &mut Registry) -> String {
        registry.alternate("BlockDirtyBitmapOrStr", |registry| {
            vec![String::define(registry), BitmapRef::define(registry)]
        })
    }
}

/// What `object-add` is given: members depend on the type.
#[derive(serde::Deserialize)]
pub(crate) struct NewObject(pub(crate) Map<String, Value>);

impl Schema for NewObject {
    fn define(registry: &mut Registry) -> String {
        registry.object("ObjectOptions", |registry| {
            vec![registry.member::<String>("qom-type", None), registry.member::<String>("id", None)]
        })
    }
}

/// What `block-job-change` is given: members depend on the job's type.
#[derive(serde::Deserialize)]
pub(crate) struct JobChange(pub(crate) Map<String, Value>);

impl Schema for JobChange {
    fn define(registry: &mut Registry) -> String {
        registry.object("BlockJobChangeOptions", |registry| {
            vec![registry.member::<String>("id", None), registry.member::<String>("type", None)]
        })
    }
}

/// What `block-export-add` is given; NBD is the only kind.
pub(crate) struct ExportAdd(pub(crate) NbdExportArgs);

impl<'de> Deserialize<'de> for ExportAdd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::<String, Value>::deserialize(deserializer)?;
        match map.remove("type") {
            Some(Value::String(kind)) if kind == "nbd" => {
                let map = crate::qapi::nest(map).map_err(de::Error::custom)?;
                crate::qapi::parse(Value::Object(map)).map(Self).map_err(de::Error::custom)
            }
            Some(kind) => {
                Err(de::Error::custom(format!("Parameter 'type' does not accept value {kind}")))
            }
            None => Err(de::Error::custom("Parameter 'type' is missing")),
        }
    }
}

impl Schema for ExportAdd {
    fn define(registry: &mut Registry) -> String {
        registry.union("BlockExportOptions", "type", |registry| {
            let kind = registry.enumeration("BlockExportType", &["nbd"]);
            let variants = vec![Variant { case: "nbd".into(), kind: NbdPart::define(registry) }];
            let members = vec![
                Member { name: "type".into(), kind, optional: false },
                registry.member::<String>("id", None),
                registry.member::<Option<bool>>("fixed_iothread", None),
                registry.member::<Option<Value>>("iothread", None),
                registry.member::<String>("node_name", None),
                registry.member::<Option<bool>>("writable", None),
                registry.member::<Option<bool>>("writethrough", None),
                registry.member::<Option<bool>>("allow_inactive", None),
            ];
            (members, variants)
        })
    }
}

qapi! {
    /// What only an NBD export has.
    struct NbdPart {
        name: Option<String>,
        description: Option<String>,
        bitmaps: Option<Vec<BitmapSource>>,
        allocation_depth: Option<bool>,
    }

    struct Capabilities { enable: Option<Vec<String>> }
    struct CommandInfo { name: String }
    struct ObjectId { id: String }
    struct QomPath { path: String }
    struct QomGet { path: String, property: String }
    struct QomSet { path: String, property: String, value: Value }
    struct QomListTypes { implements: Option<String>, r#abstract: Option<bool> }
    struct JobId { id: String }
    struct JobDevice { device: String }
    struct JobSpeed { device: String, speed: u64 }
    struct JobCancel { device: String, force: Option<bool> }
    struct NodeName { node_name: String }
    struct ReopenArgs { options: Vec<Value> }
    struct CreateArgs { job_id: String, options: Value }
    struct SetActive { node_name: Option<String>, active: bool }
    struct Resize { device: Option<String>, node_name: Option<String>, size: u64 }
    struct Threshold { node_name: String, write_threshold: u64 }
    struct ChangeBacking { device: String, image_node_name: String, backing_file: String }
    struct BlockdevChange { parent: String, child: Option<String>, node: Option<String> }
    struct IoThrottle {
        device: Option<String>,
        id: Option<String>,
        bps: u64,
        bps_rd("bps_rd"): u64,
        bps_wr("bps_wr"): u64,
        iops: u64,
        iops_rd("iops_rd"): u64,
        iops_wr("iops_wr"): u64,
        bps_max("bps_max"): Option<u64>,
        bps_rd_max("bps_rd_max"): Option<u64>,
        bps_wr_max("bps_wr_max"): Option<u64>,
        iops_max("iops_max"): Option<u64>,
        iops_rd_max("iops_rd_max"): Option<u64>,
        iops_wr_max("iops_wr_max"): Option<u64>,
        bps_max_length("bps_max_length"): Option<u64>,
        bps_rd_max_length("bps_rd_max_length"): Option<u64>,
        bps_wr_max_length("bps_wr_max_length"): Option<u64>,
        iops_max_length("iops_max_length"): Option<u64>,
        iops_rd_max_length("iops_rd_max_length"): Option<u64>,
        iops_wr_max_length("iops_wr_max_length"): Option<u64>,
        iops_size("iops_size"): Option<u64>,
        group: Option<String>,
    }
    struct LatencyHistogram {
        id: String,
        boundaries: Option<Vec<u64>>,
        boundaries_read: Option<Vec<u64>>,
        boundaries_write: Option<Vec<u64>>,
        boundaries_flush: Option<Vec<u64>>,
    }
    struct BlockStatsArgs { query_nodes: Option<bool> }
    struct QueryNodes { flat: Option<bool> }

    struct BitmapAdd {
        node: String,
        name: String,
        granularity: Option<u32>,
        persistent: Option<bool>,
        disabled: Option<bool>,
    }
    struct BitmapName { node: String, name: String }
    struct BitmapMerge { node: String, target: String, bitmaps: Vec<BitmapSource> }
    struct Sha256 { sha256: String }

    struct StreamArgs {
        job_id: Option<String>,
        device: String,
        base: Option<String>,
        base_node: Option<String>,
        backing_file: Option<String>,
        backing_mask_protocol: Option<bool>,
        bottom: Option<String>,
        speed: Option<u64>,
        on_error: Option<OnError>,
        filter_node_name: Option<String>,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    }

    struct CommitArgs {
        job_id: Option<String>,
        device: String,
        base_node: Option<String>,
        base: Option<String>,
        top_node: Option<String>,
        top: Option<String>,
        backing_file: Option<String>,
        backing_mask_protocol: Option<bool>,
        speed: Option<u64>,
        on_error: Option<OnError>,
        filter_node_name: Option<String>,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    }

    struct MirrorCommon {
        job_id: Option<String>,
        device: String,
        target: String,
        replaces: Option<String>,
        sync: SyncMode,
        speed: Option<u64>,
        granularity: Option<u32>,
        buf_size: Option<u64>,
        on_source_error: Option<OnError>,
        on_target_error: Option<OnError>,
        copy_mode: Option<CopyMode>,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
    }

    struct MirrorArgs: MirrorCommon {
        filter_node_name: Option<String>,
        target_is_zero: Option<bool>,
    }

    struct DriveMirror: MirrorCommon {
        format: Option<String>,
        node_name: Option<String>,
        mode: Option<ImageMode>,
        unmap: Option<bool>,
    }

    struct BackupPerf {
        use_copy_range: Option<bool>,
        max_workers: Option<i64>,
        max_chunk: Option<i64>,
        min_cluster_size: Option<u64>,
    }

    struct BackupArgs {
        job_id: Option<String>,
        device: String,
        sync: SyncMode,
        speed: Option<u64>,
        bitmap: Option<String>,
        bitmap_mode: Option<BitmapMode>,
        compress: Option<bool>,
        on_source_error: Option<OnError>,
        on_target_error: Option<OnError>,
        auto_finalize: Option<bool>,
        auto_dismiss: Option<bool>,
        filter_node_name: Option<String>,
        discard_source: Option<bool>,
        x_perf: Option<BackupPerf>,
        target: String,
    }

    struct DriveBackup: BackupArgs { format: Option<String>, mode: Option<ImageMode> }

    struct SnapshotArgs { node: String, overlay: String }

    struct SnapshotInternal { device: String, name: String }
    struct SnapshotDelete { device: String, id: Option<String>, name: Option<String> }
    struct SnapshotInfo {
        id: String,
        name: String,
        vm_state_size: u64,
        date_sec: u64,
        date_nsec: u64,
        vm_clock_sec: u64,
        vm_clock_nsec: u64,
        icount: Option<i64>,
    }

    enum ImageMode { Existing = "existing", AbsolutePaths = "absolute-paths" }

    struct SnapshotSync {
        device: Option<String>,
        node_name: Option<String>,
        snapshot_file: String,
        snapshot_node_name: Option<String>,
        format: Option<String>,
        mode: Option<ImageMode>,
    }

    struct NbdStart {
        handshake_max_seconds: Option<u32>,
        tls_creds: Option<String>,
        tls_authz: Option<String>,
        max_connections: Option<u32>,
        addr: SocketAddress,
    }
    struct NbdAdd {
        name: Option<String>,
        description: Option<String>,
        device: String,
        writable: Option<bool>,
        bitmap: Option<String>,
    }
    enum RemoveMode { Safe = "safe", Hard = "hard" }
    struct NbdRemove { name: String, mode: Option<RemoveMode> }
    struct ExportDel { id: String, mode: Option<RemoveMode> }

    struct NbdExportArgs {
        id: String,
        node_name: String,
        writable: Option<bool>,
        writethrough: Option<bool>,
        iothread: Option<Value>,
        fixed_iothread: Option<bool>,
        allow_inactive: Option<bool>,
        name: Option<String>,
        description: Option<String>,
        bitmaps: Option<Vec<BitmapSource>>,
        allocation_depth: Option<bool>,
    }

    struct CreateFile {
        filename: String,
        size: u64,
        preallocation: Option<String>,
        nocow: Option<bool>,
        extent_size_hint: Option<u64>,
    }

    struct CreateQcow2 {
        file: NodeRef,
        size: u64,
        version: Option<String>,
        backing_file: Option<String>,
        backing_fmt: Option<String>,
        cluster_size: Option<u64>,
        extended_l2: Option<bool>,
        lazy_refcounts: Option<bool>,
        refcount_bits: Option<u32>,
        compression_type: Option<String>,
        preallocation: Option<String>,
    }

    enum CompletionMode { Individual = "individual", Grouped = "grouped" }
    struct TransactionProperties { completion_mode: Option<CompletionMode> }
    struct TransactionArgs {
        actions: Vec<Value>,
        properties: Option<TransactionProperties>,
    }

    enum IoOperation { Read = "read", Write = "write" }
    enum ErrorActionName { Ignore = "ignore", Report = "report", Stop = "stop" }
    struct JobStatusEvent { id: String, status: Value }
    struct JobEvent { r#type: Value, device: String, len: i64, offset: i64, speed: i64 }
    struct JobCompletedEvent {
        r#type: Value,
        device: String,
        len: i64,
        offset: i64,
        speed: i64,
        error: Option<String>,
    }
    struct JobPendingEvent { r#type: Value, id: String }
    struct JobErrorEvent { device: String, operation: IoOperation, action: ErrorActionName }
    struct ThresholdEvent { node_name: String, amount_exceeded: u64, write_threshold: u64 }
    struct ExportDeletedEvent { id: String }
}

/// The events that are sent.
pub(super) fn events(registry: &mut Registry) -> Vec<Value> {
    let event =
        |name: &str, args: String| json!({"name": name, "arg-type": args, "meta-type": "event"});
    vec![
        event("JOB_STATUS_CHANGE", JobStatusEvent::define(registry)),
        event("BLOCK_JOB_READY", JobEvent::define(registry)),
        event("BLOCK_JOB_CANCELLED", JobEvent::define(registry)),
        event("BLOCK_JOB_COMPLETED", JobCompletedEvent::define(registry)),
        event("BLOCK_JOB_PENDING", JobPendingEvent::define(registry)),
        event("BLOCK_JOB_ERROR", JobErrorEvent::define(registry)),
        event("BLOCK_WRITE_THRESHOLD", ThresholdEvent::define(registry)),
        event("BLOCK_EXPORT_DELETED", ExportDeletedEvent::define(registry)),
    ]
}
