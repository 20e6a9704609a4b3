//! The table of the machine's commands: name, handler, arguments, result.

use super::args::*;
use super::{Desk, Reply};
use orrery_block::qapi::{Registry, Schema};
use orrery_block::qmp::{self, Answer};
use serde_json::{Value, json};

macro_rules! commands {
    (
        $($name:literal $handler:ident $args:ty => $ret:ty;)*
        later { $($lname:literal $lhandler:ident $largs:ty => $lret:ty;)* }
    ) => {
        impl Desk<'_> {
            /// Runs a command of the machine; `None`: it has no such command.
            pub(super) fn dispatch(&mut self, command: &str, arguments: Value) -> Option<Reply> {
                Some(match command {
                    $($name => Reply::Now(self.with::<$args, $ret>(arguments, Self::$handler)),)*
                    $($lname => match qmp::read::<$largs>(arguments).and_then(|a| self.$lhandler(a)) {
                        Ok(reply) => reply,
                        Err(error) => Reply::Now(Err(error)),
                    },)*
                    _ => return None,
                })
            }
        }

        /// Names of the machine's own commands.
        pub(super) const NAMES: &[&str] = &[$($name,)* $($lname,)*];

        fn describe(registry: &mut Registry) -> Vec<Value> {
            let mut out = vec![$({
                let args = <$args as Schema>::define(registry);
                let ret = <$ret as Schema>::define(registry);
                registry.command($name, &args, &ret, OOB.contains(&$name))
            }),*];
            $(
                let args = <$largs as Schema>::define(registry);
                let ret = <$lret as Schema>::define(registry);
                out.push(registry.command($lname, &args, &ret, false));
            )*
            out
        }
    };
}

/// Commands that need not wait for others.
pub(super) const OOB: &[&str] =
    &["query-status", "system_reset", "stop", "cont", "quit", "migrate-pause"];

/// Commands that are allowed while the machine waits to be configured.
pub(super) const PRECONFIG: &[&str] = &[
    "qmp_capabilities",
    "query-version",
    "query-commands",
    "query-qmp-schema",
    "query-status",
    "query-name",
    "query-machines",
    "query-command-line-options",
    "query-hotpluggable-cpus",
    "query-kvm",
    "query-target",
    "query-chardev",
    "query-chardev-backends",
    "query-uuid",
    "query-memdev",
    "qom-list",
    "qom-get",
    "qom-set",
    "qom-list-types",
    "qom-list-properties",
    "object-add",
    "object-del",
    "human-monitor-command",
    "x-exit-preconfig",
    "migrate-incoming",
    "quit",
];

impl Desk<'_> {
    fn with<A: serde::de::DeserializeOwned, R: serde::Serialize>(
        &mut self,
        arguments: Value,
        handler: fn(&mut Self, A) -> Answer<R>,
    ) -> Answer<Value> {
        let args = qmp::read(arguments)?;
        Ok(qmp::result(&handler(self, args)?))
    }
}

/// Everything that commands and events can be, those of the block layer among them.
///
/// Types are named by numbers, as QEMU does, so that nobody comes to rely on their names; built-in
/// ones keep theirs.
pub(super) fn schema() -> Value {
    let mut registry = Registry::default();
    let mut out = describe(&mut registry);
    let ours: Vec<Value> = out.iter().map(|entry| entry["name"].clone()).collect();
    let shared = qmp::describe(&mut registry);
    out.extend(shared.into_iter().filter(|entry| !ours.contains(&entry["name"])));
    out.extend(events(&mut registry));
    out.extend(registry.into_types());
    Value::Array(out)
}

/// Names of all commands, in order.
pub(crate) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = NAMES.iter().chain(qmp::COMMANDS).copied().collect();
    names.sort_unstable();
    names.dedup();
    names
}

commands! {
    "qmp_capabilities" capabilities Capabilities => Nothing;
    "query-version" version Nothing => Value;
    "query-commands" commands Nothing => Vec<CommandInfo>;
    "query-qmp-schema" schema Nothing => Vec<Value>;
    "quit" quit Nothing => Nothing;
    "stop" stop Nothing => Nothing;
    "cont" cont Nothing => Nothing;
    "system_reset" system_reset Nothing => Nothing;
    "system_powerdown" system_powerdown Nothing => Nothing;
    "system_wakeup" system_wakeup Nothing => Nothing;
    "inject-nmi" inject_nmi Nothing => Nothing;
    "set-action" set_action Actions => Nothing;
    "x-exit-preconfig" exit_preconfig Nothing => Nothing;
    "query-status" query_status Nothing => StatusInfo;
    "query-name" query_name Nothing => NameInfo;
    "query-uuid" query_uuid Nothing => UuidInfo;
    "query-kvm" query_kvm Nothing => KvmInfo;
    "query-target" query_target Nothing => TargetInfo;
    "query-machines" query_machines Nothing => Vec<MachineInfo>;
    "query-current-machine" query_current_machine Nothing => CurrentMachine;
    "query-cpus-fast" query_cpus Nothing => Vec<CpuInfo>;
    "query-hotpluggable-cpus" query_hotpluggable Nothing => Vec<Value>;
    "query-cpu-definitions" query_cpu_definitions Nothing => Vec<CpuDefinition>;
    "query-cpu-model-expansion" query_expansion Expansion => Expanded;
    "query-memory-size-summary" query_memory_size Nothing => MemorySize;
    "query-memory-devices" query_none Nothing => Vec<Value>;
    "query-memdev" query_memdev Nothing => Vec<Value>;
    "query-chardev" query_chardev Nothing => Vec<ChardevInfo>;
    "query-chardev-backends" query_chardev_backends Nothing => Vec<BackendInfo>;
    "query-mice" query_mice Nothing => Vec<MouseInfo>;
    "query-iothreads" query_iothreads Nothing => Vec<Value>;
    "query-pci" query_pci Nothing => Vec<Value>;
    "query-command-line-options" query_options OptionName => Vec<Value>;
    "query-migrate" query_migrate Nothing => Value;
    "query-migrate-capabilities" query_capabilities Nothing => Vec<Capability>;
    "migrate-set-capabilities" migrate_capabilities NewCapabilities => Nothing;
    "query-migrate-parameters" query_parameters Nothing => MigrationParameters;
    "migrate-set-parameters" migrate_parameters MigrationParameters => Nothing;
    "migrate_cancel" migrate_cancel Nothing => Nothing;
    "migrate-pause" migrate_pause Nothing => Nothing;
    "query-tpm" query_none Nothing => Vec<Value>;
    "query-tpm-models" query_none Nothing => Vec<Value>;
    "query-tpm-types" query_none Nothing => Vec<Value>;
    "query-rx-filter" query_rx_filter RxFilter => Vec<Value>;
    "query-acpi-ospm-status" query_ospm Nothing => Vec<Value>;
    "query-dump-guest-memory-capability" query_dump Nothing => Value;
    "query-display-options" query_display Nothing => Value;
    "query-audiodevs" query_audiodevs Nothing => Vec<AudioInfo>;
    "query-vnc" query_vnc Nothing => Value;
    "query-vnc-servers" query_none Nothing => Vec<Value>;
    "query-balloon" query_balloon Nothing => Value;
    "query-vm-generation-id" query_generation Nothing => Value;
    "query-sev" query_sev Nothing => Value;
    "query-sev-capabilities" query_sev_capabilities Nothing => Value;
    "query-sgx" query_sgx Nothing => Value;
    "query-sgx-capabilities" query_sgx_capabilities Nothing => Value;
    "query-dump" query_dump_state Nothing => Value;
    "query-dirty-rate" query_dirty_rate DirtyRate => Value;
    "query-stats" query_stats Stats => Vec<Value>;
    "query-stats-schemas" query_stats_schemas Provider => Vec<Value>;
    "query-fdsets" query_none Nothing => Vec<Value>;
    "query-pr-managers" query_none Nothing => Vec<Value>;
    "query-yank" query_none Nothing => Vec<Value>;
    "watchdog-set-action" set_watchdog WatchdogAction => Nothing;
    "query-replay" query_replay Nothing => Value;
    "replay-break" replay_break ReplayIcount => Nothing;
    "replay-delete-break" replay_delete_break Nothing => Nothing;
    "replay-seek" replay_seek ReplayIcount => Nothing;
    "qom-list" qom_list QomPath => Vec<QomProperty>;
    "qom-get" qom_get QomGet => Value;
    "qom-set" qom_set QomSet => Nothing;
    "qom-list-types" qom_list_types QomListTypes => Vec<TypeInfo>;
    "qom-list-properties" qom_list_properties TypeName => Vec<PropertyInfo>;
    "device-list-properties" device_list_properties TypeName => Vec<PropertyInfo>;
    "device_add" device_add DeviceArgs => Nothing;
    "device_del" device_del DeviceId => Nothing;
    "set_link" set_link SetLink => Nothing;
    "send-key" send_key SendKey => Nothing;
    "input-send-event" input_send_event InputEvents => Nothing;
    "ringbuf-read" ringbuf_read RingbufRead => String;
    "ringbuf-write" ringbuf_write RingbufWrite => Nothing;
    "eject" eject Eject => Nothing;
    "blockdev-open-tray" open_tray Tray => Nothing;
    "blockdev-close-tray" close_tray Tray => Nothing;
    "blockdev-remove-medium" remove_medium DeviceId => Nothing;
    "blockdev-insert-medium" insert_medium Medium => Nothing;
    later {
        "screendump" screendump Screendump => Nothing;
        "memsave" memsave FileRange => Nothing;
        "pmemsave" pmemsave FileRange => Nothing;
        "human-monitor-command" human HumanCommand => String;
        "blockdev-change-medium" change_medium ChangeMedium => Nothing;
        "snapshot-save" snapshot_save SnapshotJob => Nothing;
        "snapshot-load" snapshot_load SnapshotJob => Nothing;
        "snapshot-delete" snapshot_delete DeleteJob => Nothing;
        "migrate" migrate Migrate => Nothing;
        "migrate-incoming" migrate_incoming Migrate => Nothing;
    }
}

/// The reference: every command with its arguments, made from the table.
pub(super) fn reference() -> String {
    let schema = schema();
    let all = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows = Vec::new();
    for entry in all.iter().filter(|entry| entry["meta-type"] == json!("command")) {
        let arguments = all.iter().find(|other| {
            other["name"] == entry["arg-type"] && other["meta-type"] == json!("object")
        });
        let members = arguments.and_then(|a| a["members"].as_array()).cloned().unwrap_or_default();
        let one = |m: &Value| {
            let (name, kind) = (text(&m["name"]), text(&m["type"]));
            if m.get("default").is_some() {
                format!("[`{name}`: {kind}]")
            } else {
                format!("`{name}`: {kind}")
            }
        };
        let list: Vec<String> = members.iter().map(one).collect();
        rows.push(format!("| `{}` | {} |\n", text(&entry["name"]), list.join(", ")));
    }
    rows.sort();
    let mut events: Vec<String> = all
        .iter()
        .filter(|entry| entry["meta-type"] == json!("event"))
        .map(|entry| format!("`{}`", text(&entry["name"])))
        .collect();
    events.sort();
    format!(
        "## QMP commands\n\nArguments in brackets may be left out. Unions show what all their cases have.\n\n| command | arguments |\n|---|---|\n{}\n## QMP events\n\n{}\n",
        rows.concat(),
        events.join(", ")
    )
}
