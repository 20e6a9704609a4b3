//! The commands that people type. Each is a few words on top of QMP.

use super::{Desk, Done, Reply, info};
use crate::keyboard;
use crate::options::{KeyVals, number, size};
use orrery_block::qmp::{Answer, QmpError};
use orrery_cpu::log::{self, Items, Wanted};
use orrery_system::input::{InputEvent, Key};
use serde_json::{Map, Value, json};

type Run = fn(&mut Desk<'_>, &str) -> Reply;

/// A command.
pub(crate) struct Command {
    /// Its names.
    pub(crate) names: &'static [&'static str],
    /// How it is written.
    pub(crate) usage: &'static str,
    /// One line.
    pub(crate) help: &'static str,
    run: Run,
}

const fn row(
    names: &'static [&'static str],
    usage: &'static str,
    help: &'static str,
    run: Run,
) -> Command {
    Command { names, usage, help, run }
}

/// Every command, in the order of `help`.
pub(crate) const COMMANDS: &[Command] = &[
    row(&["help", "?"], "[cmd]", "show the help", |d, a| d.help(a)),
    row(&["block_resize"], "device size", "resize a block image", |d, a| {
        let (device, len) = pair(a);
        match size(len, 1 << 20) {
            Some(len) => d.quiet("block_resize", json!({"device": device, "size": len})),
            None => wrong("block_resize: a size is missing"),
        }
    }),
    row(&["change"], "device filename [format]", "change a removable medium", |d, a| {
        let mut words = a.split_whitespace();
        let (device, file, format) = (words.next(), words.next(), words.next());
        let mut args = json!({"device": device, "filename": file});
        if let Some(format) = format {
            args["format"] = format.into();
        }
        d.quiet("blockdev-change-medium", args)
    }),
    row(&["commit"], "device|all", "commit changes to the disk images or backing files", |d, a| {
        d.commit(a)
    }),
    row(&["cont", "c"], "", "resume emulation", |d, _| d.quiet("cont", Value::Null)),
    row(&["cpu"], "index", "set the default CPU", |d, a| match number(a) {
        Some(n) if (n as usize) < d.machine.cpus.count() => {
            d.state.cpu = n as usize;
            say("")
        }
        _ => say("invalid CPU index\n"),
    }),
    row(&["delvm"], "tag", "delete a VM snapshot from its tag", |d, a| {
        d.snapshot(super::snapshots::What::Delete, a)
    }),
    row(
        &["device_add"],
        "driver[,prop=value][,...]",
        "add device, like -device on the command line",
        |d, a| {
            let mut k = KeyVals::parse(a.trim_matches('"'), Some("driver"));
            let driver = k.take("driver");
            if let Some(driver) = driver.as_ref().filter(|_| k.take("help").is_some()) {
                let print = crate::options::Print::DeviceProps(driver.clone());
                return match crate::launch::print_text(&print) {
                    Ok(text) => say(&text),
                    Err(error) => wrong(&error.to_string()),
                };
            }
            let mut map: Map<String, Value> =
                k.rest().into_iter().map(|(k, v)| (k, Value::String(v))).collect();
            match driver.as_deref() {
                Some("help" | "?") => return say(&info::devices()),
                Some(driver) => map.insert("driver".into(), driver.into()),
                None => None,
            };
            d.quiet("device_add", Value::Object(map))
        },
    ),
    row(&["device_del"], "device", "remove device", |d, a| d.quiet("device_del", json!({"id": a}))),
    row(&["drive_add"], "[-n] bus [file=FILE][,id=ID][,...]", "add a drive", |d, a| {
        let (_, a) = flag(a, "-n");
        let (_, text) = pair(a);
        let options = match crate::options::Options::parse(&["-drive", text]) {
            Ok(options) => options,
            Err(error) => return wrong(&error.to_string()),
        };
        let blocks = d.machine.blocks.clone();
        Reply::later(async move {
            for drive in &options.drives {
                let id = if drive.id.is_empty() { "none0" } else { &drive.id };
                crate::drives::add_drive(&blocks, drive, id)
                    .await
                    .map_err(|error| QmpError::generic(error.to_string()))?;
            }
            Ok("OK\n".into())
        })
    }),
    row(&["drive_del"], "device", "remove host block device", |d, a| {
        match d.machine.blocks.remove_backend(a) {
            Ok(()) => say(""),
            Err(_) => wrong(&format!("Device '{a}' not found")),
        }
    }),
    row(&["eject"], "[-f] device", "eject a removable medium (use -f to force it)", |d, a| {
        let (force, device) = flag(a, "-f");
        d.quiet("eject", json!({"device": device, "force": force}))
    }),
    row(&["gpa2hva"], "addr", "print the host virtual address of guest memory", |_, _| {
        wrong("Memory has no address that a host program could use")
    }),
    row(
        &["gva2gpa"],
        "addr",
        "print the guest physical address of a guest virtual address",
        |d, a| {
            let Some(at) = d.number(a) else { return wrong("gva2gpa: an address is missing") };
            let cpu = d.state.cpu;
            match d.machine.cpus.look_up(cpu, &mut d.machine.board, at) {
                Some(gpa) => say(&format!("gpa: 0x{gpa:x}\n")),
                None => say("Unmapped\n"),
            }
        },
    ),
    row(&["i"], "/fmt addr", "I/O port read", |d, a| {
        let (format, rest) = Format::take(a);
        let Some(port) = d.number(rest) else { return wrong("i: a port is missing") };
        let width = format.size.min(4);
        let value = d.machine.board.port_in(port as u16, width);
        let suffix = match width {
            1 => 'b',
            2 => 'w',
            _ => 'l',
        };
        say(&format!("port{suffix}[0x{port:04x}] = 0x{value:0w$x}\n", w = usize::from(width) * 2))
    }),
    row(&["info"], "[subcommand]", "show various information about the system state", |d, a| {
        d.info(a)
    }),
    row(&["loadvm"], "tag", "restore a VM snapshot from its tag", |d, a| {
        d.snapshot(super::snapshots::What::Load, a)
    }),
    row(&["log"], "item1[,...]", "activate logging of the specified items", |d, a| {
        if a.trim() == "help" {
            return say(&log::help());
        }
        match Items::parse(a) {
            Ok(items) => {
                let wanted = Wanted { items, ..Wanted::default() };
                d.machine.cpus.set_log(&d.machine.board, wanted);
                say("")
            }
            Err(e) => wrong(&format!("log: {e}")),
        }
    }),
    row(&["memsave"], "addr size file", "save to disk virtual memory dump", |d, a| {
        d.dump_memory("memsave", a)
    }),
    row(
        &["migrate"],
        "[-d] uri",
        "migrate to URI (tcp:HOST:PORT, unix:PATH, file:NAME)",
        |d, a| {
            let (_, uri) = flag(a, "-d");
            d.quiet("migrate", json!({"uri": uri}))
        },
    ),
    row(&["migrate_cancel"], "", "cancel the current VM migration", |d, _| {
        d.quiet("migrate_cancel", json!({}))
    }),
    row(&["migrate_incoming"], "uri", "continue an incoming migration using uri", |d, a| {
        d.quiet("migrate-incoming", json!({"uri": a}))
    }),
    row(
        &["migrate_set_capability"],
        "capability state",
        "enable or disable a capability",
        |d, a| {
            let (name, state) = pair(a);
            let one = json!({"capability": name, "state": state.trim() == "on"});
            d.quiet("migrate-set-capabilities", json!({"capabilities": [one]}))
        },
    ),
    row(&["migrate_set_parameter"], "parameter value", "set a parameter of migration", |d, a| {
        let (name, value) = pair(a);
        let value = value.trim();
        let value = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
        let mut map = Map::new();
        map.insert(name.into(), value);
        d.quiet("migrate-set-parameters", Value::Object(map))
    }),
    row(&["mouse_button"], "state", "change mouse button state (1=L, 2=M, 4=R)", |d, a| {
        let bits = number(a).unwrap_or(0);
        for (index, bit) in [(0, 1), (2, 2), (1, 4)] {
            d.machine.input(InputEvent::Button { index, down: bits & bit != 0 });
        }
        say("")
    }),
    row(&["mouse_move"], "dx dy [dz]", "send mouse move events", |d, a| {
        let numbers: Vec<i32> = a.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let at = |i: usize| numbers.get(i).copied().unwrap_or(0);
        d.machine.input(InputEvent::Motion { dx: at(0), dy: at(1) });
        if at(2) != 0 {
            d.machine.input(InputEvent::Wheel { dz: at(2) });
        }
        say("")
    }),
    row(&["mouse_set"], "index", "set which mouse device receives events", |_, _| say("")),
    row(&["nmi"], "", "inject an NMI", |d, _| d.quiet("inject-nmi", Value::Null)),
    row(&["o"], "/fmt addr value", "I/O port write", |d, a| {
        let (format, rest) = Format::take(a);
        let (port, value) = pair(rest);
        match (d.number(port), d.number(value)) {
            (Some(port), Some(value)) => {
                d.machine.board.port_out(port as u16, format.size.min(4), value as u32);
                d.machine.board.settle();
                say("")
            }
            _ => wrong("o: a port and a value are needed"),
        }
    }),
    row(
        &["object_add"],
        "[qom-type=]type,id=str[,prop=value][,...]",
        "create QOM object",
        |d, a| answer(d.machine.blocks.add_object_argument(a).map_err(QmpError::from)),
    ),
    row(&["object_del"], "id", "destroy QOM object", |d, a| {
        d.quiet("object-del", json!({"id": a}))
    }),
    row(&["pmemsave"], "addr size file", "save to disk physical memory dump", |d, a| {
        d.dump_memory("pmemsave", a)
    }),
    row(
        &["print", "p"],
        "/fmt expr",
        "print expression value (use $reg for CPU registers)",
        |d, a| {
            let (format, rest) = Format::take(a);
            match d.number(rest) {
                Some(value) => say(&format!("{}\n", format.one(value, 8).trim_start())),
                None => wrong(&format!("'{rest}' is no expression")),
            }
        },
    ),
    row(&["qom-get"], "path property", "print QOM property", |d, a| {
        let (path, property) = pair(a);
        let reply = d.call("qom-get", json!({"path": path, "property": property}));
        shown(reply, |value| format!("{value}\n"))
    }),
    row(&["qom-list"], "path", "list QOM properties", |d, a| {
        if a.is_empty() {
            return say("/\n");
        }
        let reply = d.call("qom-list", json!({"path": a}));
        shown(reply, |value| {
            let rows = value.as_array().cloned().unwrap_or_default();
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            rows.iter().map(|r| format!("{} ({})\n", text(&r["name"]), text(&r["type"]))).collect()
        })
    }),
    row(&["qom-set"], "path property value", "set QOM property", |d, a| {
        let mut words = a.splitn(3, ' ');
        let (path, property, value) = (words.next(), words.next(), words.next());
        d.quiet("qom-set", json!({"path": path, "property": property, "value": value}))
    }),
    row(&["quit", "q"], "", "quit the emulator", |d, _| d.quiet("quit", Value::Null)),
    row(&["replay_break"], "icount", "set a breakpoint at an instruction count", |d, a| {
        let Some(icount) = d.number(a) else { return wrong("replay_break: a count is missing") };
        d.quiet("replay-break", json!({"icount": icount}))
    }),
    row(&["replay_delete_break"], "", "remove the replay breakpoint", |d, _| {
        d.quiet("replay-delete-break", json!({}))
    }),
    row(&["replay_seek"], "icount", "go to an instruction count, back or forth", |d, a| {
        let Some(icount) = d.number(a) else { return wrong("replay_seek: a count is missing") };
        d.quiet("replay-seek", json!({"icount": icount}))
    }),
    row(&["ringbuf_read"], "device size", "read from a ring buffer character device", |d, a| {
        let (device, len) = pair(a);
        let len = number(len).unwrap_or(0);
        let reply = d.call("ringbuf-read", json!({"device": device, "size": len}));
        shown(reply, |value| format!("{}\n", value.as_str().unwrap_or_default()))
    }),
    row(&["ringbuf_write"], "device data", "write to a ring buffer character device", |d, a| {
        let (device, data) = pair(a);
        d.quiet("ringbuf-write", json!({"device": device, "data": data}))
    }),
    row(&["savevm"], "tag", "save a VM snapshot", |d, a| {
        d.snapshot(super::snapshots::What::Save, a)
    }),
    row(
        &["screendump"],
        "filename [-f format]",
        "save screen into PPM image 'filename'",
        |d, a| {
            let mut words = a.split_whitespace();
            let name = words.next().unwrap_or_default();
            let mut args = json!({"filename": name});
            if words.next() == Some("-f") {
                args["format"] = words.next().unwrap_or_default().into();
            } else if name.ends_with(".png") {
                args["format"] = "png".into();
            }
            d.quiet("screendump", args)
        },
    ),
    row(
        &["sendkey"],
        "keys [hold_ms]",
        "send keys to the VM (e.g. 'sendkey ctrl-alt-f1')",
        |d, a| {
            let (keys, hold) = pair(a);
            // A minus sign by itself is a key of its own.
            let names: Vec<&str> =
                if keys == "-" { vec!["minus"] } else { keys.split('-').collect() };
            let mut codes: Vec<Key> = Vec::new();
            for name in names {
                let found =
                    match name.strip_prefix("0x").and_then(|h| u16::from_str_radix(h, 16).ok()) {
                        Some(code) => Some(Key(code)),
                        None => keyboard::key(name),
                    };
                match found {
                    Some(key) => codes.push(key),
                    None => return say(&format!("Unknown key: '{name}'\n")),
                }
            }
            d.press(&codes, number(hold).unwrap_or(100));
            say("")
        },
    ),
    row(&["set_link"], "name on|off", "change the link status of a network adapter", |d, a| {
        let (name, state) = pair(a);
        match state {
            "on" | "off" => d.quiet("set_link", json!({"name": name, "up": state == "on"})),
            _ => wrong("Parameter 'up' expects 'on' or 'off'"),
        }
    }),
    row(&["stop", "s"], "", "stop emulation", |d, _| d.quiet("stop", Value::Null)),
    row(&["sum"], "addr size", "compute the checksum of a memory region", |d, a| {
        let (at, len) = pair(a);
        let (Some(at), Some(len)) = (d.number(at), d.number(len)) else {
            return wrong("sum: an address and a size are needed");
        };
        let bytes = d.read_physical(at, len.min(1 << 28) as usize);
        // BSD sum: rotate right, then add.
        let sum = bytes.iter().fold(0_u16, |s, &b| s.rotate_right(1).wrapping_add(b.into()));
        say(&format!("{sum:05}\n"))
    }),
    row(&["system_powerdown"], "", "send system power down event", |d, _| {
        d.quiet("system_powerdown", Value::Null)
    }),
    row(&["system_reset"], "", "reset the system", |d, _| d.quiet("system_reset", Value::Null)),
    row(&["system_wakeup"], "", "wakeup guest from suspend", |d, _| {
        d.quiet("system_wakeup", Value::Null)
    }),
    row(&["watchdog_action"], "action", "change watchdog action", |d, a| {
        d.quiet("set-action", json!({"watchdog": a}))
    }),
    row(&["x"], "/fmt addr", "virtual memory dump starting at 'addr'", |d, a| d.examine(a, true)),
    row(&["xp"], "/fmt addr", "physical memory dump starting at 'addr'", |d, a| {
        d.examine(a, false)
    }),
];

fn say(text: &str) -> Reply {
    Reply::Now(Ok(text.into()))
}

fn wrong(text: &str) -> Reply {
    Reply::Now(Ok(format!("Error: {text}\n").into()))
}

fn answer(result: Answer<()>) -> Reply {
    Reply::Now(result.map(|()| "".into()))
}

fn pair(text: &str) -> (&str, &str) {
    let (a, b) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (a, b.trim())
}

fn flag<'a>(text: &'a str, name: &str) -> (bool, &'a str) {
    match text.strip_prefix(name) {
        Some(rest) if rest.is_empty() || rest.starts_with(' ') => (true, rest.trim()),
        _ => (false, text),
    }
}

/// A result as text.
fn shown(reply: Reply, show: impl FnOnce(Value) -> String + Send + 'static) -> Reply {
    reply.map(|value| show(value).into())
}

/// What is printed for an answer; errors begin with `Error:`.
pub(super) fn text_of(answer: Answer<Value>) -> String {
    match answer {
        Ok(Value::String(text)) => text,
        Ok(_) => String::new(),
        Err(error) => format!("Error: {}\n", error.desc),
    }
}

/// How numbers are printed: `/nnfs`.
#[derive(Clone, Copy)]
struct Format {
    count: u64,
    format: char,
    size: u8,
}

impl Format {
    fn take(text: &str) -> (Self, &str) {
        let mut out = Self { count: 1, format: 'x', size: 4 };
        let Some(rest) = text.strip_prefix('/') else { return (out, text.trim()) };
        let (spec, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let digits = spec.len() - spec.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        out.count = spec[..digits].parse().unwrap_or(1).min(100_000);
        for c in spec[digits..].chars() {
            match c {
                'b' => out.size = 1,
                'h' => out.size = 2,
                'w' => out.size = 4,
                'g' => out.size = 8,
                'x' | 'd' | 'u' | 'o' | 'c' | 'i' => out.format = c,
                _ => {}
            }
        }
        (out, rest.trim())
    }

    fn one(&self, value: u64, size: u8) -> String {
        let bits = u32::from(size) * 8;
        let value = if bits < 64 { value & ((1 << bits) - 1) } else { value };
        match self.format {
            'd' => (((value << (64 - bits)) as i64) >> (64 - bits)).to_string(),
            'u' => value.to_string(),
            'o' => format!("0{value:o}"),
            'c' => match value as u8 {
                c @ 0x20..0x7f => format!("'{}'", c as char),
                c => format!("'\\x{c:02x}'"),
            },
            _ => format!("0x{value:0w$x}", w = usize::from(size) * 2),
        }
    }
}

impl Desk<'_> {
    /// A command whose result is nothing to print.
    fn quiet(&mut self, name: &str, arguments: Value) -> Reply {
        let given = match arguments {
            Value::Object(map) => {
                Value::Object(map.into_iter().filter(|(_, value)| !value.is_null()).collect())
            }
            other => other,
        };
        shown(self.call(name, given), |_| String::new())
    }

    /// Runs a line.
    pub(super) fn hmp(&mut self, line: &str) -> Reply {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return say("");
        }
        let end = line.find([' ', '/', '\t']).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        match COMMANDS.iter().find(|c| c.names.contains(&name)) {
            Some(command) => (command.run)(self, rest.trim()),
            None => say(&format!("unknown command: '{name}'\n")),
        }
    }

    pub(super) fn human(&mut self, args: super::args::HumanCommand) -> Answer<Reply> {
        let before = self.state.cpu;
        if let Some(cpu) = args.cpu_index {
            if cpu as usize >= self.machine.cpus.count() {
                return Err(QmpError::generic("Parameter 'cpu-index' expects a CPU number"));
            }
            self.state.cpu = cpu as usize;
        }
        let reply = self.hmp(&args.command_line);
        if args.cpu_index.is_some() {
            self.state.cpu = before;
        }
        Ok(match reply {
            Reply::Now(answer) => Reply::Now(Ok(text_of(answer).into())),
            Reply::Later(work) => Reply::Later(Box::pin(async move {
                let done = work.await;
                Ok(Box::new(move |desk: &mut Desk<'_>| {
                    Ok(text_of(done.and_then(|done| done(desk))).replace('\n', "\r\n").into())
                }) as Done)
            })),
        }
        .map(|value| match value {
            Value::String(text) => text.replace("\r\n", "\n").replace('\n', "\r\n").into(),
            other => other,
        }))
    }

    fn help(&mut self, name: &str) -> Reply {
        let line = |c: &Command| {
            let space = if c.usage.is_empty() { "" } else { " " };
            format!("{}{space}{} -- {}\n", c.names.join("|"), c.usage, c.help)
        };
        if name == "info" {
            return say(&info::help());
        }
        if name.is_empty() {
            return say(&COMMANDS.iter().map(line).collect::<String>());
        }
        match COMMANDS.iter().find(|c| c.names.contains(&name)) {
            Some(command) => say(&line(command)),
            None => say(&format!("unknown command: '{name}'\n")),
        }
    }

    fn commit(&mut self, device: &str) -> Reply {
        let blocks = self.machine.blocks.clone();
        let names: Vec<String> = if device == "all" {
            blocks.backends().iter().filter_map(|b| b.name()).collect()
        } else {
            vec![device.to_owned()]
        };
        let all = device == "all";
        let monitor = self.blocks.clone();
        Reply::later(async move {
            for name in names {
                let has_backing = blocks
                    .backend(&name)
                    .and_then(|b| blocks.root_of(&b))
                    .is_some_and(|node| node.backing().is_some());
                if !has_backing && all {
                    continue;
                }
                let id = format!("commit-{name}");
                let args = json!({"device": name, "job-id": id});
                monitor.execute("block-commit", args).await?;
                loop {
                    let jobs = monitor.execute("query-block-jobs", Value::Null).await?;
                    let mine = jobs.as_array().and_then(|jobs| {
                        jobs.iter().find(|job| job["device"] == json!(id)).cloned()
                    });
                    let Some(job) = mine else { break };
                    if job["ready"] == json!(true) {
                        let args = json!({"device": id});
                        // It may have ended meanwhile.
                        let _ = monitor.execute("block-job-complete", args).await;
                    }
                    blocks.context().sleep(1_000_000).await;
                }
            }
            Ok("".into())
        })
    }

    fn dump_memory(&mut self, command: &str, text: &str) -> Reply {
        let mut words = text.split_whitespace();
        let (at, len, file) = (words.next(), words.next(), words.next());
        match (at.and_then(|t| self.number(t)), len.and_then(number), file) {
            (Some(at), Some(len), Some(file)) => {
                let file = file.trim_matches('"');
                self.quiet(command, json!({"val": at, "size": len, "filename": file}))
            }
            _ => wrong(&format!("{command}: an address, a size and a file are needed")),
        }
    }

    /// A number, a register, or a sum or difference of such.
    pub(super) fn number(&mut self, text: &str) -> Option<u64> {
        let text = text.trim();
        let split = text.char_indices().skip(1).filter(|(_, c)| "+-*".contains(*c)).last();
        if let Some((at, op)) = split {
            let (a, b) = (self.number(&text[..at])?, self.number(&text[at + 1..])?);
            return Some(match op {
                '+' => a.wrapping_add(b),
                '-' => a.wrapping_sub(b),
                _ => a.wrapping_mul(b),
            });
        }
        let cpu = self.state.cpu;
        match text.strip_prefix('$') {
            Some(name) => self.machine.cpus.register_by_name(cpu, name),
            None => number(text),
        }
    }

    fn examine(&mut self, text: &str, virt: bool) -> Reply {
        let (format, rest) = Format::take(text);
        let Some(start) = self.number(rest) else { return wrong("an address is missing") };
        let cpu = self.state.cpu;
        let mut out = String::new();
        let wide = start > u64::from(u32::MAX) || virt && self.machine.cpus.is_wide(cpu);
        let label = |at: u64| if wide { format!("{at:016x}:") } else { format!("{at:08x}:") };
        let mut at = start;
        if format.format == 'i' {
            for _ in 0..format.count {
                let bytes = if virt {
                    self.read_virtual(cpu, at, 16).unwrap_or_default()
                } else {
                    self.read_physical(at, 16)
                };
                let Some((len, words)) = self.machine.cpus.disassemble(cpu, at, &bytes) else {
                    out.push_str(&format!("0x{at:08x}:  Cannot access memory\n"));
                    break;
                };
                let hex: Vec<String> = bytes[..len].iter().map(|b| format!("{b:02x}")).collect();
                out.push_str(&format!("0x{at:08x}:  {:<24} {words}\n", hex.join(" ")));
                at = at.wrapping_add(len as u64);
            }
            return say(&out);
        }
        let width = u64::from(format.size);
        let per_line = match format.format {
            'o' => (80 / (width * 8 / 3 + 3)).max(1),
            'd' | 'u' => (16 / width).max(1),
            'c' => 8,
            _ => (16 / width).max(1),
        };
        let mut left = format.count;
        while left > 0 {
            let n = left.min(per_line);
            let len = (n * width) as usize;
            let bytes = if virt {
                match self.read_virtual(cpu, at, len) {
                    Ok(bytes) => bytes,
                    Err(_) => {
                        out.push_str(&format!("{} Cannot access memory\n", label(at)));
                        break;
                    }
                }
            } else {
                self.read_physical(at, len)
            };
            out.push_str(&label(at));
            for word in bytes.chunks(usize::from(format.size)) {
                let value = word.iter().rev().fold(0_u64, |v, &b| v << 8 | u64::from(b));
                out.push(' ');
                out.push_str(&format.one(value, format.size));
            }
            out.push('\n');
            at = at.wrapping_add(len as u64);
            left -= n;
        }
        say(&out)
    }
}

/// A person's side of the conversation: editing, and a prompt.
#[derive(Default)]
pub(super) struct Shell {
    line: String,
    history: Vec<String>,
    /// Line of the history that is shown.
    shown: usize,
    /// An escape sequence so far.
    escape: Vec<u8>,
}

const PROMPT: &str = "(qemu) ";

impl Shell {
    pub(super) fn greeting(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        format!("Orrery {version} monitor - type 'help' for more information\r\n{PROMPT}")
    }

    /// Takes what was typed: whole lines, and what to echo.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> (Vec<String>, String) {
        let (mut lines, mut echo) = (Vec::new(), String::new());
        for &byte in bytes {
            if !self.escape.is_empty() {
                self.escape.push(byte);
                let over =
                    self.escape.len() > 2 && byte.is_ascii_alphabetic() || self.escape.len() > 8;
                if over || self.escape.len() == 2 && byte != b'[' {
                    let arrow = *self.escape.last().unwrap_or(&0);
                    self.escape.clear();
                    self.recall(arrow, &mut echo);
                }
                continue;
            }
            match byte {
                0x1b => self.escape.push(byte),
                b'\r' | b'\n' => {
                    echo.push_str("\r\n");
                    let line = std::mem::take(&mut self.line);
                    if !line.trim().is_empty() && self.history.last() != Some(&line) {
                        self.history.push(line.clone());
                    }
                    self.shown = self.history.len();
                    lines.push(line);
                }
                8 | 0x7f => {
                    if self.line.pop().is_some() {
                        echo.push_str("\u{8} \u{8}");
                    }
                }
                0x15 => {
                    echo.push_str(&"\u{8} \u{8}".repeat(self.line.chars().count()));
                    self.line.clear();
                }
                b'\t' => {
                    let found = complete(&self.line);
                    let common = common_prefix(&found);
                    let word = self.line.rsplit(' ').next().unwrap_or_default().len();
                    if common.len() > word {
                        echo.push_str(&common[word..]);
                        self.line.push_str(&common[word..]);
                        if found.len() == 1 {
                            echo.push(' ');
                            self.line.push(' ');
                        }
                    } else if found.len() > 1 {
                        let list = found.join("  ");
                        echo.push_str(&format!("\r\n{list}\r\n{PROMPT}{}", self.line));
                    }
                }
                0x20..0x7f | 0x80.. if self.line.len() < 4096 => {
                    self.line.push(byte as char);
                    echo.push(byte as char);
                }
                _ => {}
            }
        }
        (lines, echo)
    }

    fn recall(&mut self, arrow: u8, echo: &mut String) {
        let to = match arrow {
            b'A' => self.shown.checked_sub(1),
            b'B' => Some(self.shown + 1).filter(|n| *n <= self.history.len()),
            _ => None,
        };
        let Some(to) = to else { return };
        self.shown = to;
        echo.push_str(&"\u{8} \u{8}".repeat(self.line.chars().count()));
        self.line = self.history.get(to).cloned().unwrap_or_default();
        echo.push_str(&self.line);
    }

    /// What a command printed, and the next prompt.
    pub(super) fn finish(&self, text: &str) -> String {
        format!("{}{PROMPT}", text.replace("\r\n", "\n").replace('\n', "\r\n"))
    }
}

fn common_prefix(words: &[String]) -> String {
    let Some(first) = words.first() else { return String::new() };
    let same = |i: usize| words.iter().all(|w| w.as_bytes().get(i) == first.as_bytes().get(i));
    let len = (0..first.len()).take_while(|&i| same(i)).count();
    first[..len].to_owned()
}

/// How the last word of a line could go on.
pub fn complete(line: &str) -> Vec<String> {
    let mut words: Vec<&str> = line.split(' ').collect();
    let last = words.pop().unwrap_or_default();
    let names: Vec<&str> = match words.as_slice() {
        [] => COMMANDS.iter().flat_map(|c| c.names.iter().copied()).collect(),
        ["help" | "?"] => COMMANDS.iter().flat_map(|c| c.names.iter().copied()).collect(),
        ["info"] | ["help", "info"] => info::names().collect(),
        ["device_add"] => orrery_hw::registry::devices().map(|d| d.name).collect(),
        _ => Vec::new(),
    };
    let mut out: Vec<String> =
        names.into_iter().filter(|n| n.starts_with(last)).map(str::to_owned).collect();
    out.sort();
    out
}
