//! Options of each driver. Names and meanings are those of QEMU's reference for `blockdev-add`.

use super::reference::{NodeRef, NodeRefOrNull};
use crate::graph::DetectZeroes;
use crate::host::Address;
use crate::qapi::{Member, Registry, Schema, Variant, qapi};
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value, json};

impl Schema for DetectZeroes {
    fn define(registry: &mut Registry) -> String {
        registry.enumeration("BlockdevDetectZeroesOptions", &["off", "on", "unmap"])
    }
}

qapi! {
    #[derive(Default)]
    struct CacheOptions {
        direct: Option<bool>,
        no_flush: Option<bool>,
    }

    #[derive(Default)]
    enum Discard {
        #[default]
        Ignore = "ignore",
        Unmap = "unmap",
    }

    enum OnOffAuto { Auto = "auto", On = "on", Off = "off" }

    enum Aio { Threads = "threads", Native = "native", IoUring = "io_uring" }
}

/// Options that every node has.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct CommonOptions {
    pub(crate) node_name: Option<String>,
    pub(crate) discard: Option<Discard>,
    pub(crate) cache: Option<CacheOptions>,
    pub(crate) active: Option<bool>,
    pub(crate) read_only: Option<bool>,
    pub(crate) auto_read_only: Option<bool>,
    pub(crate) force_share: Option<bool>,
    pub(crate) detect_zeroes: Option<DetectZeroes>,
}

impl CommonOptions {
    pub(super) const NAMES: [&'static str; 8] = [
        "node-name",
        "discard",
        "cache",
        "active",
        "read-only",
        "auto-read-only",
        "force-share",
        "detect-zeroes",
    ];

    pub(super) fn members(registry: &mut Registry) -> Vec<Member> {
        vec![
            registry.member::<Option<String>>("node_name", None),
            registry.member::<Option<Discard>>("discard", None),
            registry.member::<Option<CacheOptions>>("cache", None),
            registry.member::<Option<bool>>("active", None),
            registry.member::<Option<bool>>("read_only", None),
            registry.member::<Option<bool>>("auto_read_only", None),
            registry.member::<Option<bool>>("force_share", None),
            registry.member::<Option<DetectZeroes>>("detect_zeroes", None),
        ]
    }
}

/// Where a server is; `{"type": "inet", "host": ..., "port": ...}` and its relatives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketAddress(pub(crate) Address);

qapi! {
    struct InetAddress {
        host: String,
        port: String,
        numeric: Option<bool>,
        to: Option<u16>,
        ipv4: Option<bool>,
        ipv6: Option<bool>,
        keep_alive: Option<bool>,
        mptcp: Option<bool>,
    }

    struct UnixAddress {
        path: String,
        r#abstract: Option<bool>,
        tight: Option<bool>,
    }

    struct FdAddress { str: String }
}

impl<'de> Deserialize<'de> for SocketAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::<String, Value>::deserialize(deserializer)?;
        let kind = map.remove("type").unwrap_or_else(|| "inet".into());
        // The older form wraps the rest in `data`.
        let rest = match map.remove("data") {
            Some(data) if map.is_empty() => data,
            _ => Value::Object(map),
        };
        fn read<T: de::DeserializeOwned, E: de::Error>(value: Value) -> Result<T, E> {
            crate::qapi::parse(value).map_err(E::custom)
        }
        Ok(Self(match kind.as_str() {
            Some("inet") => {
                let inet: InetAddress = read(rest)?;
                Address::Inet { host: inet.host, port: inet.port }
            }
            Some("unix") => {
                let unix: UnixAddress = read(rest)?;
                let sign = if unix.r#abstract == Some(true) { "@" } else { "" };
                Address::Unix(format!("{sign}{}", unix.path))
            }
            Some("fd") => Address::Fd(read::<FdAddress, _>(rest)?.str),
            _ => {
                return Err(de::Error::custom(format!(
                    "Parameter 'type' does not accept value {kind}"
                )));
            }
        }))
    }
}

impl SocketAddress {
    pub(crate) fn to_value(&self) -> Value {
        match &self.0 {
            Address::Inet { host, port } => json!({"type": "inet", "host": host, "port": port}),
            Address::Unix(path) => json!({"type": "unix", "path": path}),
            Address::Fd(fd) => json!({"type": "fd", "str": fd}),
        }
    }
}

impl Serialize for SocketAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl Schema for SocketAddress {
    fn define(registry: &mut Registry) -> String {
        registry.union("SocketAddress", "type", |registry| {
            let kind = registry.enumeration("SocketAddressType", &["inet", "unix", "fd"]);
            let variants = vec![
                Variant { case: "inet".into(), kind: InetAddress::define(registry) },
                Variant { case: "unix".into(), kind: UnixAddress::define(registry) },
                Variant { case: "fd".into(), kind: FdAddress::define(registry) },
            ];
            (vec![Member { name: "type".into(), kind, optional: false }], variants)
        })
    }
}

qapi! {
    struct FileOptions {
        filename: String,
        pr_manager: Option<String>,
        locking: Option<OnOffAuto>,
        aio: Option<Aio>,
        aio_max_batch: Option<u64>,
        drop_cache: Option<bool>,
        x_check_cache_dropped: Option<bool>,
    }

    #[derive(Default)]
    struct NullOptions {
        size: Option<u64>,
        latency_ns: Option<u64>,
        read_zeroes: Option<bool>,
    }

    struct NbdOptions {
        server: SocketAddress,
        export: Option<String>,
        tls_creds: Option<String>,
        tls_hostname: Option<String>,
        x_dirty_bitmap: Option<String>,
        reconnect_delay: Option<u32>,
        open_timeout: Option<u32>,
    }

    /// A format that needs nothing but its file.
    struct GenericFormat { file: NodeRef }

    /// A format with a backing file.
    struct CowFormat {
        file: NodeRef,
        backing: Option<NodeRefOrNull>,
    }

    struct RawFormat {
        file: NodeRef,
        offset: Option<u64>,
        size: Option<u64>,
    }

    struct LuksFormat {
        file: NodeRef,
        key_secret: Option<String>,
        header: Option<NodeRef>,
    }

    struct Qcow2Encrypt {
        format: Option<String>,
        key_secret: Option<String>,
    }

    struct Qcow2Format {
        file: NodeRef,
        backing: Option<NodeRefOrNull>,
        lazy_refcounts: Option<bool>,
        pass_discard_request: Option<bool>,
        pass_discard_snapshot: Option<bool>,
        pass_discard_other: Option<bool>,
        discard_no_unref: Option<bool>,
        overlap_check: Option<Value>,
        cache_size: Option<u64>,
        l2_cache_size: Option<u64>,
        l2_cache_entry_size: Option<u64>,
        refcount_cache_size: Option<u64>,
        cache_clean_interval: Option<u64>,
        encrypt: Option<Qcow2Encrypt>,
        data_file: Option<NodeRef>,
    }

    struct CopyOnReadOptions {
        file: NodeRef,
        bottom: Option<String>,
    }

    struct ThrottleOptions {
        throttle_group: String,
        file: NodeRef,
    }

    #[derive(Default)]
    enum OnCbwError {
        #[default]
        BreakGuestWrite = "break-guest-write",
        BreakSnapshot = "break-snapshot",
    }

    struct BitmapRef {
        node: String,
        name: String,
    }

    struct CbwOptions {
        file: NodeRef,
        target: NodeRef,
        bitmap: Option<BitmapRef>,
        on_cbw_error: Option<OnCbwError>,
        cbw_timeout: Option<u32>,
        min_cluster_size: Option<u64>,
    }

    enum IoType {
        Read = "read",
        Write = "write",
        WriteZeroes = "write-zeroes",
        Discard = "discard",
        Flush = "flush",
        BlockStatus = "block-status",
    }

    struct InjectError {
        event: String,
        state: Option<i32>,
        iotype: Option<IoType>,
        errno: Option<i32>,
        sector: Option<i64>,
        once: Option<bool>,
        immediately: Option<bool>,
    }

    struct SetState {
        event: String,
        state: Option<i32>,
        new_state("new_state"): i32,
    }

    struct BlkdebugOptions {
        image: NodeRef,
        config: Option<String>,
        align: Option<u64>,
        max_transfer: Option<u32>,
        opt_write_zero: Option<u32>,
        max_write_zero: Option<u32>,
        opt_discard: Option<u32>,
        max_discard: Option<u32>,
        inject_error: Option<Vec<InjectError>>,
        set_state: Option<Vec<SetState>>,
        take_child_perms: Option<Vec<String>>,
        unshare_child_perms: Option<Vec<String>>,
    }

    struct BlkverifyOptions {
        test: NodeRef,
        raw: NodeRef,
    }

    #[derive(Default)]
    enum ReadPattern {
        #[default]
        Quorum = "quorum",
        Fifo = "fifo",
    }

    struct QuorumOptions {
        blkverify: Option<bool>,
        children: Vec<NodeRef>,
        vote_threshold: u64,
        rewrite_corrupted: Option<bool>,
        read_pattern: Option<ReadPattern>,
    }

    struct PreallocateOptions {
        file: NodeRef,
        prealloc_align: Option<u64>,
        prealloc_size: Option<u64>,
    }
}
