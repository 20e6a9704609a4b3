use super::*;
use crate::launch::{Host, launch};
use crate::options::Options;
use orrery_block::host::{HostFs, MemFs};
use serde_json::json;

struct Empty(MemFs);

impl Host for Empty {
    fn fs(&self) -> &dyn HostFs {
        &self.0
    }
    fn firmware_dirs(&self) -> Vec<String> {
        Vec::new()
    }
    fn epoch_secs(&self) -> i64 {
        0
    }
}

pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) control: Control,
    client: ClientId,
}

impl Bench {
    pub(super) fn new(args: &str) -> Self {
        let options = Options::parse(&args.split_whitespace().collect::<Vec<_>>()).unwrap();
        let host = Empty(MemFs::new());
        let work = orrery_block::exec::Executor::new();
        let launched = work.run_in_place(launch(&options, &host)).expect("in memory").unwrap();
        let machine = launched.machine;
        machine.blocks.context().set_fs(Arc::new(MemFs::new()));
        let mut control =
            Control::new(&machine, Settings { prelaunch: options.paused, ..Settings::default() });
        let client = control.open(Mode::Control { pretty: false });
        let mut bench = Self { machine, control, client };
        let greeting = bench.lines();
        assert!(greeting[0]["QMP"]["version"]["qemu"]["major"].is_u64());
        bench.send(json!({"execute": "qmp_capabilities"}));
        assert_eq!(bench.lines(), [json!({"return": {}})]);
        bench
    }

    fn send(&mut self, command: Value) {
        self.control.feed(self.client, command.to_string().as_bytes());
        self.control.step(&mut self.machine);
    }

    fn lines(&mut self) -> Vec<Value> {
        let text = String::from_utf8(self.control.take(self.client)).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// The answer to a command; events are dropped.
    fn run(&mut self, name: &str, arguments: Value) -> Value {
        self.send(json!({"execute": name, "arguments": arguments}));
        let mut lines = self.lines();
        lines.retain(|l| l.get("event").is_none());
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        lines.remove(0)
    }

    pub(super) fn ok(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.run(name, arguments);
        answer.get("return").unwrap_or_else(|| panic!("{name}: {answer}")).clone()
    }

    fn hmp(&mut self, line: &str) -> String {
        let text = self.ok("human-monitor-command", json!({"command-line": line}));
        text.as_str().unwrap().replace("\r\n", "\n")
    }
}

#[test]
fn stopping_and_going_on_is_told_before_the_answer() {
    let mut b = Bench::new("-S");
    assert_eq!(b.ok("query-status", json!({}))["status"], "prelaunch");
    b.send(json!({"execute": "cont", "id": 7}));
    let lines = b.lines();
    assert_eq!(lines[0]["event"], "RESUME");
    assert_eq!(lines[1], json!({"return": {}, "id": 7}));
    b.send(json!({"execute": "stop"}));
    assert_eq!(b.lines()[0]["event"], "STOP");
    assert_eq!(b.ok("query-status", json!({})), json!({"running": false, "status": "paused"}));
}

#[test]
fn commands_that_only_ask_all_have_an_answer() {
    let mut b = Bench::new("-S");
    for name in table::names().into_iter().filter(|n| n.starts_with("query-")) {
        let arguments = match name {
            "query-cpu-model-expansion" => json!({"type": "static", "model": {"name": "max"}}),
            "query-stats" => json!({"target": "vm"}),
            _ => json!({}),
        };
        // What is not there.
        let wanted = match name {
            "query-balloon" => Some("No balloon device has been activated"),
            "query-vm-generation-id" => Some("VM Generation ID device not found"),
            "query-sev" => Some("SEV feature is not available"),
            "query-sev-capabilities" => Some("KVM not enabled"),
            "query-sgx" => Some("No EPC regions defined, SGX not available"),
            "query-sgx-capabilities" => Some("SGX is not enabled in KVM"),
            _ => None,
        };
        match wanted {
            None => drop(b.ok(name, arguments)),
            Some(desc) => assert_eq!(b.run(name, arguments)["error"]["desc"], desc, "{name}"),
        }
    }
}

#[test]
fn the_schema_names_every_command_and_every_type_that_it_uses() {
    let mut b = Bench::new("-S");
    let schema = b.ok("query-qmp-schema", json!({}));
    let all = schema.as_array().unwrap();
    let names: Vec<&str> = all.iter().map(|e| e["name"].as_str().unwrap()).collect();
    for name in table::names() {
        assert!(names.contains(&name), "{name}");
    }
    for entry in all {
        for key in ["arg-type", "ret-type", "element-type"] {
            if let Some(kind) = entry.get(key) {
                assert!(names.contains(&kind.as_str().unwrap()), "{entry}");
            }
        }
        for list in ["members", "variants"] {
            for member in entry.get(list).and_then(Value::as_array).into_iter().flatten() {
                if let Some(kind) = member.get("type") {
                    assert!(names.contains(&kind.as_str().unwrap()), "{entry}");
                }
            }
        }
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), names.len(), "every name once");
}

#[test]
fn a_disk_is_plugged_found_on_the_bus_and_taken_away() {
    let mut b = Bench::new("-S");
    b.ok("blockdev-add", json!({"driver": "null-co", "node-name": "n0", "size": 1 << 20}));
    b.ok("device_add", json!({"driver": "virtio-blk-pci", "drive": "n0", "id": "d0"}));
    let pci = b.ok("query-pci", json!({}));
    let found = |pci: &Value| {
        let devices = pci[0]["devices"].as_array().unwrap();
        devices.iter().any(|d| d["qdev_id"] == "d0" && d["id"]["vendor"] == 0x1af4)
    };
    assert!(found(&pci), "{pci}");
    let error = b.run("device_add", json!({"driver": "virtio-blk-pci", "drive": "n0", "id": "d1"}));
    assert!(error["error"]["desc"].as_str().unwrap().contains("already in use"));
    let mine = |blocks: &Value| {
        let of = |b: &&Value| b["qdev"] == "/machine/peripheral/d0/virtio-backend";
        blocks.as_array().unwrap().iter().find(of).cloned()
    };
    let block = mine(&b.ok("query-block", json!({}))).unwrap();
    assert_eq!((&block["device"], &block["inserted"]["node-name"]), (&json!(""), &json!("n0")));
    assert!(b.hmp("info block").contains("n0: "));
    b.ok("device_del", json!({"id": "d0"}));
    assert!(found(&b.ok("query-pci", json!({}))), "the guest has not let it go");
    let again = b.run("device_del", json!({"id": "d0"}));
    let again = again["error"]["desc"].as_str().unwrap();
    assert_eq!(again, "Device d0 is already in the process of unplug");
    b.send(json!({"execute": "system_reset"}));
    assert_eq!(b.lines()[0]["event"], "DEVICE_DELETED");
    assert!(!found(&b.ok("query-pci", json!({}))));
    assert_eq!(mine(&b.ok("query-block", json!({}))), None);
    b.ok("blockdev-del", json!({"node-name": "n0"}));
}

#[test]
fn errors_name_what_is_wrong() {
    let mut b = Bench::new("-S");
    let mut desc = |name: &str, arguments: Value| {
        let answer = b.run(name, arguments);
        answer["error"]["desc"].as_str().unwrap().to_owned()
    };
    assert_eq!(desc("frob", json!({})), "The command frob has not been found");
    assert_eq!(desc("stop", json!({"x": 1})), "Parameter 'x' is unexpected");
    assert_eq!(desc("device_add", json!({})), "Parameter 'driver' is missing");
    assert_eq!(
        desc("device_add", json!({"driver": "frob"})),
        "'frob' is not a valid device model name"
    );
    assert_eq!(
        desc("send-key", json!({"keys": [{"type": "qcode", "data": "frob"}]})),
        "Parameter 'data' does not accept value 'frob'"
    );
}

#[test]
fn a_snapshot_in_a_disk_brings_memory_back() {
    let mut b = Bench::new("-S -icount shift=0");
    let at = 0x10_0000;
    let node = b.machine.blocks.backends()[0].name().unwrap();
    assert_eq!(node, "diagnostic");
    b.machine.board.poke(at, b"before");
    assert_eq!(b.hmp("savevm one"), "");
    b.machine.board.poke(at, b"after!");
    let list = b.hmp("info snapshots");
    assert!(list.contains("one"), "{list}");
    assert_eq!(b.hmp("loadvm one"), "");
    let mut now = [0; 6];
    b.machine.board.peek(at, &mut now);
    assert_eq!(&now, b"before");
    assert_eq!(b.hmp("delvm one"), "");
    assert_eq!(b.hmp("info snapshots"), "There is no snapshot available.\n");
    assert!(b.hmp("loadvm one").starts_with("Error: "));
}

#[test]
fn people_get_registers_memory_and_help() {
    let mut b = Bench::new("-S");
    assert!(b.hmp("info registers").contains("EIP=0000fff0"));
    b.machine.board.poke(0x1000, &[0x78, 0x56, 0x34, 0x12, 0x90]);
    assert_eq!(b.hmp("xp /2xh 0x1000"), "00001000: 0x5678 0x1234\n");
    assert!(b.hmp("xp /1i 0x1004").contains("nop"));
    assert_eq!(b.hmp("p /d 6*7"), "42\n");
    assert_eq!(b.hmp("frob"), "unknown command: 'frob'\n");
    for command in hmp::COMMANDS {
        assert!(b.hmp("help").contains(command.names[0]));
    }
    let mut names: Vec<_> = hmp::COMMANDS.iter().flat_map(|c| c.names).collect();
    names.sort();
    assert!(names.windows(2).all(|two| two[0] != two[1]), "one of these stands twice: {names:?}");
    assert_eq!(complete("info reg"), ["registers"]);
}

#[test]
fn what_the_engines_log_is_chosen_in_the_monitor() {
    let mut b = Bench::new("-S");
    assert!(b.hmp("log help").contains("in_asm"));
    assert!(b.hmp("log bogus").contains("nothing is logged as 'bogus'"));
    assert_eq!(b.hmp("log cpu_reset"), "");
    b.hmp("system_reset");
    assert!(b.machine.cpus.take_log().contains("CPU Reset"));
    assert_eq!(b.hmp("log none"), "");
    b.hmp("system_reset");
    assert_eq!(b.machine.cpus.take_log(), "");
}

#[test]
fn the_page_of_commands_is_what_the_definitions_say() {
    let page = include_str!("../../../docs/commands.md");
    assert!(page == reference(), "make it again: orrery -qmp help > docs/commands.md");
}

#[test]
fn a_guest_that_panics_or_hangs_meets_what_the_user_chose() {
    use orrery_system::pins::PowerRequest;
    let mut b = Bench::new("-M none -action panic=pause");
    let happen = |b: &mut Bench, request| {
        b.machine.board.power().request(request);
        let now = b.machine.board.now();
        b.machine.pass_time(now);
        b.lines();
        b.ok("query-status", json!({}))["status"].clone()
    };
    assert_eq!(happen(&mut b, PowerRequest::Panicked), "guest-panicked");
    assert!(b.run("cont", json!({})).get("error").is_some());
    b.ok("set-action", json!({"panic": "none", "watchdog": "pause"}));
    b.ok("system_reset", json!({}));
    b.ok("cont", json!({}));
    assert_eq!(happen(&mut b, PowerRequest::Panicked), "running");
    assert_eq!(happen(&mut b, PowerRequest::Watchdog), "watchdog");
}

#[test]
fn every_type_descends_from_object() {
    let mut b = Bench::new("-M none");
    let all = b.ok("qom-list-types", json!({"abstract": true}));
    let all = all.as_array().unwrap().clone();
    let find = |name: &Value| all.iter().find(|t| t["name"] == *name).cloned();
    for one in &all {
        let mut at = one.clone();
        while at["name"] != "object" {
            at = find(&at["parent"]).unwrap_or_else(|| panic!("{at}"));
        }
    }
    let cards = b.ok("qom-list-types", json!({"implements": "pci-device"}));
    let names: Vec<_> = cards.as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert!(names.contains(&&json!("e1000")) && !names.contains(&&json!("pci-device")));
}

#[test]
fn a_drive_comes_and_goes_by_hand() {
    let mut b = Bench::new("-M none");
    let text = "drive_add 0 if=none,id=d,file=null-co://,file.read-zeroes=on,format=raw";
    assert_eq!(b.hmp(text), "OK\n");
    let blocks = b.ok("query-block", json!({}));
    assert_eq!(blocks[0]["device"], "d");
    assert_eq!(b.hmp("drive_del d"), "");
    assert_eq!(b.ok("query-block", json!({})), json!([]));
    assert!(b.hmp("device_add \"e1000,help\"").contains("mac"));
}

#[test]
fn a_machine_that_waits_to_be_configured_takes_few_commands() {
    let mut b = Bench::new("-M none -preconfig");
    b.control.settings().preconfig = true;
    assert!(b.run("query-cpus-fast", json!({})).get("error").is_some());
    b.ok("query-status", json!({}));
    b.ok("x-exit-preconfig", json!({}));
    b.ok("query-cpus-fast", json!({}));
    assert!(b.run("x-exit-preconfig", json!({})).get("error").is_some());
}

#[test]
fn a_medium_that_was_ejected_is_out_of_the_drive() {
    let mut b = Bench::new("-M none -drive if=none,id=f");
    b.machine.blocks.backend("f").unwrap().set_removable(true);
    let node = json!({"driver": "null-co", "node-name": "n", "size": 1_474_560});
    b.ok("blockdev-add", node);
    let medium = json!({"id": "f", "node-name": "n"});
    for out in ["eject", "eject"] {
        b.ok("blockdev-open-tray", json!({"id": "f"}));
        b.ok("blockdev-insert-medium", medium.clone());
        let twice = b.run("blockdev-insert-medium", medium.clone());
        assert!(twice["error"]["desc"].as_str().unwrap().contains("already is a medium"));
        b.ok(out, json!({"id": "f"}));
    }
    b.ok("blockdev-del", json!({"node-name": "n"}));
}

#[test]
fn a_link_goes_down_and_up_by_card_or_network_and_is_in_the_snapshot() {
    let mut b = Bench::new(
        "-S -nic user,id=lan,model=e1000 -nic user,id=wan,model=virtio-net-pci,mac=52:54:00:00:00:01",
    );
    let text = "e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\n \\ lan: index=0,type=user,net=10.0.2.0,restrict=on\n\
         virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01\n \\ wan: index=0,type=user,net=10.0.2.0,restrict=on\n";
    assert_eq!(b.hmp("info network"), text);
    let up = |b: &Bench| b.machine.links();
    for (name, n) in [("lan", 0), ("e1000.0", 0), ("virtio-net-pci.0", 1), ("wan", 1)] {
        let mut links = [true; 2];
        links[n] = false;
        b.ok("set_link", json!({"name": name, "up": false}));
        assert_eq!(up(&b), links, "{name}");
        assert_eq!(b.hmp("info network").matches(",link=down").count(), 1);
        let (saved, hash) = (b.machine.save(), b.machine.hash());
        assert_eq!(b.hmp(&format!("set_link {name} on")), "");
        assert_eq!(up(&b), [true; 2]);
        assert_ne!(b.machine.hash(), hash);
        b.machine.restore(&saved).unwrap();
        assert_eq!((up(&b).as_slice(), b.machine.hash()), (links.as_slice(), hash));
        b.ok("set_link", json!({"name": name, "up": true}));
    }
    let error = b.run("set_link", json!({"name": "nobody", "up": true}));
    assert_eq!(error["error"]["class"], "DeviceNotFound");
    assert_eq!(error["error"]["desc"], "Device 'nobody' not found");
    assert!(b.hmp("set_link lan").contains("'on' or 'off'"));
}

#[test]
fn a_machine_of_another_instruction_set_says_which() {
    let mut b = Bench::new("-S -M virt -smp 2 -accel qtest");
    assert_eq!(b.ok("query-target", json!({})), json!({"arch": "aarch64"}));
    let cpus = b.ok("query-cpus-fast", json!({}));
    assert!(cpus.as_array().unwrap().iter().all(|c| c["target"] == "aarch64"), "{cpus}");
    let models = b.ok("query-cpu-definitions", json!({}));
    let kinds = models.as_array().unwrap().iter().map(|m| m["typename"].as_str().unwrap());
    assert!(kinds.clone().count() > 0 && kinds.clone().all(|k| k.ends_with("-arm-cpu")));
    let kind =
        b.ok("qom-get", json!({"path": "/machine/unattached/device[0]", "property": "type"}));
    assert!(kinds.clone().any(|k| kind == k), "{kind}");
    assert!(b.ok("query-memory-size-summary", json!({}))["base-memory"].as_u64() > Some(0));
    let mut b = Bench::new("-S");
    assert_eq!(b.ok("query-target", json!({})), json!({"arch": "x86_64"}));
    assert_eq!(b.ok("query-cpus-fast", json!({}))[0]["target"], "x86_64");
}
