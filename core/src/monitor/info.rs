//! `info`: what there is, for people.

use super::args::Nothing;
use super::query::class_name;
use super::{Desk, Reply};
use orrery_block::qmp::Answer;
use orrery_system::map::{FlatView, Target};
use serde_json::{Value, json};

/// How many places `info jit` names.
const HOT_SPOTS: usize = 16;

type Show = fn(&mut Desk<'_>, &str) -> Reply;

const TOPICS: &[(&str, &str, Show)] = &[
    ("block", "show info of one block device or all block devices", |d, a| d.info_block(a)),
    ("block-jobs", "show progress of ongoing block device operations", |d, _| d.info_jobs()),
    ("blockstats", "show block device statistics", |d, _| d.info_blockstats()),
    ("chardev", "show the character devices", |d, _| {
        let list = d.state.settings.chardevs.clone();
        say(list.iter().map(|c| format!("{}: filename={}\n", c.label, c.filename)).collect())
    }),
    ("cpus", "show infos for each CPU", |d, _| {
        let cpu = d.state.cpu;
        let line = |n| {
            let mark = if n == cpu { '*' } else { ' ' };
            format!("{mark} CPU #{n}: thread_id={}\n", n + 1)
        };
        say((0..d.machine.cpus.count()).map(line).collect())
    }),
    ("history", "show the command line history", |_, _| say(String::new())),
    ("irq", "show the interrupts statistics", |_, _| say(String::new())),
    ("jit", "show dynamic compiler info", |d, _| {
        let insns = d.machine.board.icount();
        let mut text = format!("instructions executed  {insns}\n");
        if let Some(s) = d.machine.cpus.jit_stats() {
            let ms = s.nanos / 1_000_000;
            text += &format!(
                "... in compiled code   {}\n\
                     regions                {} ({} for the best code), {} instructions\n\
                     compiled               {} in {ms} ms, {} bytes, {} failed\n\
                     dropped                {}\n\
                     bytes in use           {}\n\
                     entered                {}, refused {}\n\
                     left for               {} not compiled, {} end of slice, {} pending, {} single, {} exceptions\n\
                     looks at pins          {}\n\
                     lookups                {}\n\
                     single instructions    {}\n\
                     traps                  {}\n",
                s.run,
                s.formed,
                s.best,
                s.insns,
                s.compiled,
                s.bytes,
                s.failed,
                s.dropped,
                s.live,
                s.entered,
                s.refused,
                s.exits.lookup,
                s.exits.budget,
                s.exits.leave,
                s.exits.restart,
                s.exits.fault,
                s.polls,
                s.lookups,
                s.singles,
                s.traps
            );
            let spots = d.machine.cpus.hot_spots(HOT_SPOTS);
            if !spots.is_empty() {
                text += "found running           compiled, interpreted (instructions)\n";
            }
            for spot in spots {
                text +=
                    &format!("  {:016x}     {}, {}\n", spot.pc, spot.compiled, spot.interpreted);
            }
        }
        say(text)
    }),
    ("kvm", "show KVM information", |_, _| say("kvm support: not compiled\n".into())),
    ("mem", "show the active virtual memory mappings", |d, _| d.info_mem()),
    ("memory_size_summary", "show the amount of initially allocated memory", |d, _| {
        let reply = d.query_memory_size(Nothing {});
        text(reply, |size| format!("base memory: {}\nplugged memory: 0\n", size.base_memory))
    }),
    ("mice", "show which guest mouse is receiving events", |d, _| {
        let reply = d.query_mice(Nothing {});
        text(reply, |list| {
            list.iter().map(|m| format!("* Mouse #{}: {}\n", m.index, m.name)).collect()
        })
    }),
    ("migrate", "show migration status", |d, _| d.info_migrate()),
    ("migrate_capabilities", "show current migration capabilities", |d, _| {
        let reply = d.query_capabilities(Nothing {});
        let on = |state| if state { "on" } else { "off" };
        text(reply, |list| {
            list.iter().map(|c| format!("{}: {}\n", c.capability, on(c.state))).collect()
        })
    }),
    ("migrate_parameters", "show current migration parameters", |d, _| {
        let reply = d.query_parameters(Nothing {});
        text(reply, |all| {
            let all = orrery_block::qapi::to_value(&all);
            let one = |(name, value): (&String, &Value)| match value {
                Value::String(text) => format!("{name}: '{text}'\n"),
                Value::Bool(on) => format!("{name}: {}\n", if *on { "on" } else { "off" }),
                value => format!("{name}: {value}\n"),
            };
            all.as_object().into_iter().flatten().map(one).collect()
        })
    }),
    ("mtree", "show memory tree (-f: flat view)", |d, a| d.info_mtree(a)),
    ("name", "show the current VM name", |d, _| {
        say(d.state.settings.name.clone().map(|n| n + "\n").unwrap_or_default())
    }),
    ("network", "show the network state", |d, _| say(d.info_network())),
    ("numa", "show NUMA information", |d, _| d.info_numa()),
    ("pci", "show PCI info", |d, _| d.info_pci()),
    ("pic", "show PIC state", |d, _| d.inspected("isa-i8259")),
    ("qom-tree", "show QOM composition tree", |d, a| {
        let mut out = String::new();
        d.qom_tree(if a.is_empty() { "/machine" } else { a }, 0, &mut out);
        say(out)
    }),
    ("qtree", "show device tree", |d, _| {
        let tree = d.qtree();
        say(tree)
    }),
    ("registers", "show the cpu registers (-a: all cpus)", |d, a| {
        let count = d.machine.cpus.count();
        let which = if a == "-a" { 0..count } else { d.state.cpu..d.state.cpu + 1 };
        let one = |n| format!("\nCPU#{n}\n{}", d.machine.cpus.dump(n));
        say(which.map(one).collect())
    }),
    ("replay", "show record/replay information", |d, _| d.info_replay()),
    ("roms", "show roms", |d, _| {
        let blocks = d.machine.board.ram().blocks();
        let roms = blocks.iter().filter(|b| b.name != "pc.ram");
        say(roms.map(|b| format!("size=0x{:06x} name=\"{}\"\n", b.block.len, b.name)).collect())
    }),
    ("snapshots", "show the currently saved VM snapshots", |d, _| d.info_snapshots()),
    ("status", "show the current VM status (running|paused)", |d, _| {
        let reply = d.query_status(Nothing {});
        text(reply, |info| {
            let status = serde_json::to_value(info.status).unwrap_or_default();
            let name = status.as_str().unwrap_or_default().to_owned();
            match (info.running, name.as_str()) {
                (true, _) => "VM status: running\n".into(),
                (false, "paused") => "VM status: paused\n".into(),
                (false, name) => format!("VM status: paused ({name})\n"),
            }
        })
    }),
    ("tlb", "show virtual to physical memory mappings", |d, _| d.info_mem()),
    ("usb", "show guest USB devices", |d, _| say(d.info_usb())),
    ("usernet", "show user network stack connection states", |_, _| say(String::new())),
    ("uuid", "show the current VM UUID", |_, _| {
        say("00000000-0000-0000-0000-000000000000\n".into())
    }),
    ("version", "show the version", |_, _| {
        let version = orrery_block::qmp::version();
        let n = |key: &str| version["qemu"][key].clone();
        say(format!(
            "{}.{}.{} ({})\n",
            n("major"),
            n("minor"),
            n("micro"),
            version["package"].as_str().unwrap_or_default()
        ))
    }),
    ("vm-generation-id", "show virtual machine generation ID", |_, _| say(String::new())),
];

fn say(text: String) -> Reply {
    Reply::Now(Ok(text.into()))
}

fn text<T>(answer: Answer<T>, show: impl FnOnce(T) -> String) -> Reply {
    Reply::Now(answer.map(|value| show(value).into()))
}

/// Names of what can be asked for.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TOPICS.iter().map(|t| t.0)
}

/// `help info`.
pub(crate) fn help() -> String {
    TOPICS.iter().map(|(name, help, _)| format!("info {name} -- {help}\n")).collect()
}

/// What `device_add help` lists.
pub(super) fn devices() -> String {
    let row = |d: &orrery_hw::registry::DeviceType| {
        format!("name \"{}\", bus {}, desc \"{}\"\n", d.name, d.bus, d.description)
    };
    orrery_hw::registry::devices().map(row).collect()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Desk<'_> {
    /// `info usb`: a line for each device.
    fn info_usb(&self) -> String {
        let handles = self.handles();
        if handles.usb.is_empty() {
            return "USB support not enabled\n".into();
        }
        let mut out = String::new();
        for (n, bus) in handles.usb.iter().enumerate() {
            for position in bus.positions() {
                let Some(device) = position.socket.device() else { continue };
                let device = device.lock().expect("no panic while held");
                let id = handles.named.iter().find(|d| Some(d.device) == position.socket.id());
                let id = id.map(|d| d.id.as_str()).filter(|id| !id.is_empty());
                out += &format!(
                    "  Device {n}.{}, Port {}, Speed {} Mb/s, Product {}{}\n",
                    device.address(),
                    position.path,
                    device.speed().megabits(),
                    device.description().string(2).unwrap_or_default(),
                    id.map(|id| format!(", ID: {id}")).unwrap_or_default(),
                );
            }
        }
        out
    }

    pub(super) fn info(&mut self, line: &str) -> Reply {
        let (topic, rest) = line.split_once(' ').unwrap_or((line, ""));
        if topic.is_empty() {
            return say(help());
        }
        match TOPICS.iter().find(|t| t.0 == topic) {
            Some((_, _, show)) => show(self, rest.trim()),
            None => say(format!("unknown command: 'info {topic}'\n")),
        }
    }

    fn info_block(&mut self, name: &str) -> Reply {
        let name = name.trim_start_matches("-n").trim_start_matches("-v").trim().to_owned();
        self.call("query-block", Value::Null).map(move |list| {
            let mut out = String::new();
            for entry in list.as_array().into_iter().flatten() {
                let (device, qdev) = (words(&entry["device"]), words(&entry["qdev"]));
                let node = words(&entry["inserted"]["node-name"]);
                let device = match (device, node) {
                    ("", "") => qdev.to_owned(),
                    ("", node) => node.to_owned(),
                    (device, "") => device.to_owned(),
                    (device, node) => format!("{device} ({node})"),
                };
                let names = [words(&entry["device"]), node, qdev];
                if !name.is_empty() && !names.contains(&name.as_str()) {
                    continue;
                }
                let inserted = &entry["inserted"];
                if inserted.is_null() {
                    out.push_str(&format!("{device}: [not inserted]\n"));
                } else {
                    let ro = if inserted["ro"] == json!(true) { ", read-only" } else { "" };
                    out.push_str(&format!(
                        "{device}: {} ({}{ro})\n",
                        words(&inserted["file"]),
                        words(&inserted["drv"]),
                    ));
                }
                if !qdev.is_empty() {
                    out.push_str(&format!("    Attached to:      {qdev}\n"));
                }
                if entry["removable"] == json!(true) {
                    let lock = if entry["locked"] == json!(true) { "locked" } else { "not locked" };
                    let tray = if entry["tray_open"] == json!(true) { "open" } else { "closed" };
                    out.push_str(&format!("    Removable device: {lock}, tray {tray}\n"));
                }
                if let Some(backing) = inserted["backing_file"].as_str() {
                    out.push_str(&format!("    Backing file:     {backing}\n"));
                }
                out.push('\n');
            }
            out.trim_end().to_owned().add_newline().into()
        })
    }

    fn info_jobs(&mut self) -> Reply {
        self.call("query-block-jobs", Value::Null).map(|list| {
            let jobs = list.as_array().cloned().unwrap_or_default();
            if jobs.is_empty() {
                return "No active jobs\n".into();
            }
            let row = |j: &Value| {
                format!(
                    "Type {}, device {}: Completed {} of {} bytes, speed limit {} bytes/s\n",
                    words(&j["type"]),
                    words(&j["device"]),
                    j["offset"],
                    j["len"],
                    j["speed"]
                )
            };
            jobs.iter().map(row).collect::<String>().into()
        })
    }

    fn info_blockstats(&mut self) -> Reply {
        self.call("query-blockstats", Value::Null).map(|list| {
            let row = |entry: &Value| {
                let s = &entry["stats"];
                format!(
                    "{}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} \
                     flush_operations={} wr_total_time_ns={} rd_total_time_ns={} \
                     flush_total_time_ns={} rd_merged=0 wr_merged=0 idle_time_ns=0\n",
                    words(&entry["device"]),
                    s["rd_bytes"],
                    s["wr_bytes"],
                    s["rd_operations"],
                    s["wr_operations"],
                    s["flush_operations"],
                    s["wr_total_time_ns"],
                    s["rd_total_time_ns"],
                    s["flush_total_time_ns"],
                )
            };
            list.as_array().into_iter().flatten().map(row).collect::<String>().into()
        })
    }

    fn info_mtree(&mut self, flags: &str) -> Reply {
        if !flags.contains("-f") {
            let mut out = String::from("address-space: memory\n");
            tree(self.machine.board.memory(), 0, 1, &mut out);
            out.push_str("\naddress-space: I/O\n");
            tree(self.machine.board.io(), 0, 1, &mut out);
            out.push('\n');
            return say(out);
        }
        let names: Vec<_> = self.machine.board.devices();
        let (memory, io) = self.machine.board.flat_views();
        let list = |view: &FlatView| -> String {
            let row = |r: &orrery_system::map::FlatRange| {
                let (what, name) = match r.target {
                    Target::Ram { offset } => ("ram", format!("@{offset:016x}")),
                    Target::Dropped { .. } => ("rom", String::new()),
                    Target::Device { device, bank, .. } => {
                        let name = names.iter().find(|n| n.0 == device).map(|n| n.1.as_str());
                        ("i/o", format!("{} bank {bank}", name.unwrap_or("?")))
                    }
                };
                format!("  {:016x}-{:016x} (prio 0, {what}): {name}\n", r.first, r.last)
            };
            view.ranges().iter().map(row).collect()
        };
        say(format!("FlatView memory\n{}\nFlatView I/O\n{}\n", list(&memory.read), list(&io.read)))
    }

    fn info_numa(&mut self) -> Reply {
        let numa = self.handles().numa.clone();
        let mut out = format!("{} nodes\n", numa.nodes());
        for (node, bytes) in numa.memory.iter().enumerate() {
            let cpus = numa.cpus.iter().enumerate().filter(|(_, at)| **at == node);
            let cpus: String = cpus.map(|(cpu, _)| format!(" {cpu}")).collect();
            out += &format!("node {node} cpus:{cpus}\n");
            out += &format!("node {node} size: {} MB\nnode {node} plugged: 0 MB\n", bytes >> 20);
        }
        say(out)
    }

    fn info_pci(&mut self) -> Reply {
        let reply = self.query_pci(Nothing {});
        text(reply, |buses| {
            let mut out = String::new();
            let listed = |v: &Value| v["devices"].as_array().cloned().unwrap_or_default();
            // Those behind a bridge come after it.
            let mut devices = buses.first().map(listed).unwrap_or_default();
            devices.reverse();
            while let Some(d) = devices.pop() {
                devices.extend(listed(&d["pci_bridge"]).into_iter().rev());
                let class = d["class_info"]["class"].as_u64().unwrap_or(0) as u16;
                let hex = |v: &Value| format!("{:04x}", v.as_u64().unwrap_or(0));
                out.push_str(&format!(
                    "  Bus {:2}, device {:3}, function {}:\n    {}: PCI device {}:{}\n",
                    d["bus"],
                    d["slot"],
                    d["function"],
                    class_name(class),
                    hex(&d["id"]["vendor"]),
                    hex(&d["id"]["device"]),
                ));
                if d["id"]["subsystem-vendor"] != json!(0) {
                    out.push_str(&format!(
                        "      PCI subsystem {}:{}\n",
                        hex(&d["id"]["subsystem-vendor"]),
                        hex(&d["id"]["subsystem"]),
                    ));
                }
                if let Some(pin) = d["irq_pin"].as_u64().filter(|p| (1..=4).contains(p)) {
                    let letter = (b'@' + pin as u8) as char;
                    out.push_str(&format!("      IRQ {}, pin {letter}\n", d["irq"]));
                }
                for bar in d["regions"].as_array().into_iter().flatten() {
                    let at = bar["address"].as_i64().unwrap_or(-1) as u64;
                    let last = at.wrapping_add(bar["size"].as_u64().unwrap_or(1) - 1);
                    let number = &bar["bar"];
                    if words(&bar["type"]) == "io" {
                        out.push_str(&format!(
                            "      BAR{number}: I/O at 0x{:04x} [0x{:04x}].\n",
                            at as u32, last as u32
                        ));
                    } else {
                        let bits = if bar["mem_type_64"] == json!(true) { 64 } else { 32 };
                        let pre = if bar["prefetch"] == json!(true) { " prefetchable" } else { "" };
                        out.push_str(&format!(
                            "      BAR{number}: {bits} bit{pre} memory at 0x{at:08x} [0x{last:08x}].\n"
                        ));
                    }
                }
                out.push_str(&format!("      id \"{}\"\n", words(&d["qdev_id"])));
            }
            out
        })
    }

    fn info_migrate(&mut self) -> Reply {
        let reply = self.query_migrate(Nothing {});
        text(reply, |info| {
            let Some(status) = info["status"].as_str() else { return String::new() };
            let mut out = format!("Migration status: {status}");
            if let Some(why) = info["error-desc"].as_str() {
                out += &format!(" ({why})");
            }
            out.push('\n');
            let rows = [
                ("total time", &info["total-time"], 1, "ms"),
                ("downtime", &info["downtime"], 1, "ms"),
                ("setup", &info["setup-time"], 1, "ms"),
                ("transferred ram", &info["ram"]["transferred"], 1024, "kbytes"),
                ("remaining ram", &info["ram"]["remaining"], 1024, "kbytes"),
                ("total ram", &info["ram"]["total"], 1024, "kbytes"),
                ("duplicate", &info["ram"]["duplicate"], 1, "pages"),
                ("normal", &info["ram"]["normal"], 1, "pages"),
                ("normal bytes", &info["ram"]["normal-bytes"], 1024, "kbytes"),
                ("dirty sync count", &info["ram"]["dirty-sync-count"], 1, ""),
            ];
            for (name, value, unit, word) in rows {
                if let Some(n) = value.as_u64() {
                    out += format!("{name}: {} {word}", n / unit).trim_end();
                    out.push('\n');
                }
            }
            out
        })
    }

    fn info_mem(&mut self) -> Reply {
        let cpu = self.state.cpu;
        let machine = &mut *self.machine;
        let list = machine.cpus.mappings(cpu, &mut machine.board);
        if list.is_empty() {
            return say("PG disabled\n".into());
        }
        let row = |(at, len, flags): &(u64, u64, String)| {
            format!("{at:016x}-{:016x} {len:016x} {flags}\n", at.wrapping_add(*len))
        };
        say(list.iter().map(row).collect())
    }

    fn inspected(&mut self, kind: &str) -> Reply {
        let found = self.machine.board.devices().into_iter().find(|d| d.2 == kind);
        let fields = found.and_then(|d| self.machine.board.device(d.0).map(|d| d.inspect()));
        say(fields.unwrap_or_default().iter().map(|(k, v)| format!("{k}={v}\n")).collect())
    }
}

fn tree(region: &orrery_system::Region, base: u64, depth: usize, out: &mut String) {
    if depth > 12 {
        return;
    }
    let last = base.wrapping_add(region.size().wrapping_sub(1));
    let (reads, writes) = region.enabled();
    let off = if reads || writes { "" } else { " [disabled]" };
    out.push_str(&format!(
        "{}{base:016x}-{last:016x} (prio {}, {}): {}{off}\n",
        "  ".repeat(depth),
        region.priority(),
        region.kind_name(),
        region.name()
    ));
    for child in region.children() {
        tree(&child, base.wrapping_add(child.base()), depth + 1, out);
    }
}

trait AddNewline {
    fn add_newline(self) -> String;
}

impl AddNewline for String {
    fn add_newline(mut self) -> String {
        if !self.is_empty() {
            self.push('\n');
        }
        self
    }
}
