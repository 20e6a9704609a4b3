//! Arguments and results of the machine's commands. Names and meanings are those of QEMU's reference.

pub(crate) use orrery_block::qapi::Nothing;
use orrery_block::qapi::{Registry, Schema};
use orrery_block::qapi_types;
use serde_json::{Map, Value, json};

/// Members that depend on a device's type.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct DeviceArgs {
    pub(crate) driver: String,
    pub(crate) id: Option<String>,
    pub(crate) bus: Option<String>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Schema for DeviceArgs {
    fn define(registry: &mut Registry) -> String {
        registry.object("DeviceOptions", |registry| {
            vec![
                registry.member::<String>("driver", None),
                registry.member::<Option<String>>("bus", None),
                registry.member::<Option<String>>("id", None),
            ]
        })
    }
}

qapi_types! {
    enum RunState {
        Debug = "debug",
        Inmigrate = "inmigrate",
        InternalError = "internal-error",
        IoError = "io-error",
        Paused = "paused",
        Postmigrate = "postmigrate",
        Prelaunch = "prelaunch",
        FinishMigrate = "finish-migrate",
        RestoreVm = "restore-vm",
        Running = "running",
        SaveVm = "save-vm",
        Shutdown = "shutdown",
        Suspended = "suspended",
        Watchdog = "watchdog",
        GuestPanicked = "guest-panicked",
        Colo = "colo",
    }

    struct Capabilities { enable: Option<Vec<String>> }
    struct CommandInfo { name: String }
    struct StatusInfo { running: bool, status: RunState }
    struct NameInfo { name: Option<String> }
    struct UuidInfo { uuid("UUID"): String }
    struct KvmInfo { enabled: bool, present: bool }
    struct TargetInfo { arch: String }
    struct MemorySize { base_memory: u64, plugged_memory: u64 }
    struct CpuInstance {
        core_id: u64,
        thread_id: u64,
        socket_id: u64,
        node_id: Option<u64>,
    }
    struct CpuInfo {
        cpu_index("cpu-index"): u64,
        qom_path: String,
        thread_id: u64,
        props: CpuInstance,
        target: String,
    }
    struct MachineInfo {
        name: String,
        alias: Option<String>,
        is_default: Option<bool>,
        cpu_max("cpu-max"): u64,
        hotpluggable_cpus: bool,
        numa_mem_supported: bool,
        deprecated: bool,
        default_cpu_type: Option<String>,
        default_ram_id: Option<String>,
        acpi: bool,
    }
    struct CurrentMachine { wakeup_suspend_support: bool }
    struct ChardevInfo { label: String, filename: String, frontend_open: bool }
    struct BackendInfo { name: String }
    struct CpuDefinition {
        name: String,
        migration_safe: bool,
        r#static("static"): bool,
        unavailable_features: Vec<String>,
        typename: String,
        deprecated: bool,
    }
    struct CpuModel { name: String, props: Option<Value>, deprecated_props: Option<Vec<String>> }
    struct Expansion { r#type("type"): String, model: CpuModel }
    struct Expanded { model: CpuModel }
    struct MouseInfo { name: String, index: u64, current: bool, absolute: bool }
    struct QomPath { path: String }
    struct QomGet { path: String, property: String }
    struct QomSet { path: String, property: String, value: Value }
    struct QomProperty { name: String, r#type("type"): String }
    struct QomListTypes { implements: Option<String>, r#abstract: Option<bool> }
    struct TypeInfo { name: String, parent: Option<String>, r#abstract("abstract"): Option<bool> }
    struct TypeName { typename: String }
    struct PropertyInfo {
        name: String,
        r#type("type"): String,
        description: Option<String>,
    }
    struct DeviceId { id: String }
    struct RxFilter { name: Option<String> }
    struct OptionName { option: Option<String> }
    struct FileRange { val: u64, size: u64, filename: String, cpu_index("cpu-index"): Option<u64> }
    enum ImageFormat { Ppm = "ppm", Png = "png" }
    struct Screendump {
        filename: String,
        device: Option<String>,
        head: Option<u64>,
        format: Option<ImageFormat>,
    }
    struct SendKey { keys: Vec<Value>, hold_time: Option<u64> }
    struct InputEvents { device: Option<String>, head: Option<u64>, events: Vec<Value> }
    struct HumanCommand { command_line: String, cpu_index("cpu-index"): Option<u64> }
    struct Eject { device: Option<String>, id: Option<String>, force: Option<bool> }
    struct Tray { device: Option<String>, id: Option<String>, force: Option<bool> }
    struct Medium { id: String, node_name: String }
    struct ChangeMedium {
        device: Option<String>,
        id: Option<String>,
        filename: String,
        format: Option<String>,
        force: Option<bool>,
        read_only_mode: Option<String>,
    }
    struct SnapshotJob { job_id: String, tag: String, vmstate: Option<String>, devices: Vec<String> }
    struct DeleteJob { job_id: String, tag: String, devices: Vec<String> }
    struct Actions {
        reboot: Option<String>,
        shutdown: Option<String>,
        panic: Option<String>,
        watchdog: Option<String>,
    }
    struct SetLink { name: String, up: bool }
    struct RingbufRead { device: String, size: u64, format: Option<String> }
    struct RingbufWrite { device: String, data: String, format: Option<String> }
    struct Migrate { uri: Option<String>, channels: Option<Vec<Value>>, detach: Option<bool> }
    struct Capability { capability: String, state: bool }
    struct NewCapabilities { capabilities: Vec<Capability> }
    struct MigrationParameters {
        announce_initial: Option<u64>,
        announce_max: Option<u64>,
        announce_rounds: Option<u64>,
        announce_step: Option<u64>,
        throttle_trigger_threshold: Option<u64>,
        cpu_throttle_initial: Option<u64>,
        cpu_throttle_increment: Option<u64>,
        cpu_throttle_tailslow: Option<bool>,
        max_cpu_throttle: Option<u64>,
        tls_creds: Option<String>,
        tls_hostname: Option<String>,
        tls_authz: Option<String>,
        max_bandwidth: Option<u64>,
        avail_switchover_bandwidth: Option<u64>,
        max_postcopy_bandwidth: Option<u64>,
        downtime_limit: Option<u64>,
        multifd_channels: Option<u64>,
        xbzrle_cache_size: Option<u64>,
    }
    struct AudioInfo { id: String, driver: String }
    struct DirtyRate { calc_time_unit: Option<String> }
    struct Stats { target: String, vcpus: Option<Vec<String>>, providers: Option<Vec<Value>> }
    struct Provider { provider: Option<String> }
    struct WatchdogAction { action: String }
    struct ReplayIcount { icount: u64 }
    struct Oob { run_oob: Option<bool> }

    struct ResetEvent { guest: bool, reason: String }
    struct DeletedEvent { device: Option<String>, path: String }
    struct PanickedEvent { action: String }
    struct WatchdogEvent { action: String }
    struct RtcEvent { offset: i64, qom_path: String }
    struct MigrationEvent { status: String }
    struct PassEvent { pass: u64 }
    struct TrayEvent { device: String, id: String, tray_open: bool }
}

/// The machine's events; those of the block layer are described with it.
pub(super) fn events(registry: &mut Registry) -> Vec<Value> {
    let event =
        |name: &str, args: String| json!({"name": name, "arg-type": args, "meta-type": "event"});
    let mut out = vec![
        event("RESET", ResetEvent::define(registry)),
        event("SHUTDOWN", ResetEvent::define(registry)),
        event("DEVICE_DELETED", DeletedEvent::define(registry)),
        event("GUEST_PANICKED", PanickedEvent::define(registry)),
        event("WATCHDOG", WatchdogEvent::define(registry)),
        event("DEVICE_TRAY_MOVED", TrayEvent::define(registry)),
        event("MIGRATION", MigrationEvent::define(registry)),
        event("MIGRATION_PASS", PassEvent::define(registry)),
        event("RTC_CHANGE", RtcEvent::define(registry)),
    ];
    for name in ["STOP", "RESUME", "POWERDOWN", "SUSPEND", "WAKEUP", "GUEST_PVSHUTDOWN"] {
        out.push(event(name, Nothing::define(registry)));
    }
    out
}
