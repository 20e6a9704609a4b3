//! Every option: one row each, from which parser and help are made.

use super::chardev::{self, char_target, chardev};
use super::keyval::{KeyVals, number};
use super::numa::numa;
use super::{
    DeviceSpec, DisplayOption, DriveOption, FwCfgValue, IcountOption, Interface, OnError,
    OptionError, Options, Print, ReplayOption, RtcBase, Topology,
};
use super::{audio, net};
use crate::machine::{OnPanic, OnWatchdog};
use crate::monitor::Mode;
use crate::replay::Mode as Rr;
use orrery_cpu::log::{Items, Wanted};

type Apply = fn(&mut Options, &str) -> Result<(), OptionError>;

/// One option.
pub(super) struct Row {
    /// Without the dash.
    pub name: &'static str,
    /// Another spelling.
    pub alias: Option<&'static str>,
    /// How its value is written; `None`: it takes none.
    pub value: Option<&'static str>,
    /// One line of help.
    pub help: &'static str,
    pub apply: Apply,
}

const fn row(
    name: &'static str,
    value: Option<&'static str>,
    help: &'static str,
    apply: Apply,
) -> Row {
    Row { name, alias: None, value, help, apply }
}

const fn alias(
    name: &'static str,
    other: &'static str,
    value: Option<&'static str>,
    help: &'static str,
    apply: Apply,
) -> Row {
    Row { name, alias: Some(other), value, help, apply }
}

pub(super) fn find(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|r| r.name == name || r.alias == Some(name))
}

/// Every option as a row of a table.
pub(crate) fn rows() -> String {
    let row = |r: &Row| {
        let value = r.value.map(|v| format!(" {v}").replace('|', "\\|")).unwrap_or_default();
        let other = r.alias.map(|a| format!(", `-{a}`")).unwrap_or_default();
        format!("| `-{}{value}`{other} | {} |\n", r.name, r.help)
    };
    TABLE.iter().map(row).collect()
}

/// Names of options that take sub-options, and of these, as their usage says.
pub(crate) fn describe() -> Vec<(&'static str, Vec<String>)> {
    let keys = |usage: &str| {
        let ends = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_' && c != '.';
        let parts = usage.split('=');
        let count = parts.clone().count();
        let keys = parts.take(count - 1).map(|p| p.rsplit(ends).next().unwrap_or_default());
        let mut keys: Vec<String> = keys.filter(|k| !k.is_empty()).map(str::to_owned).collect();
        keys.dedup();
        keys
    };
    let rows = TABLE.iter().filter_map(|r| r.value.map(|usage| (r.name, keys(usage))));
    rows.filter(|(_, keys)| !keys.is_empty()).collect()
}

/// The options in the order that help prints them.
pub(super) const TABLE: &[Row] = &[
    alias("help", "h", None, "print this text", |o, _| set(&mut o.print, Print::Help)),
    alias("version", "v", None, "print the version", |o, _| set(&mut o.print, Print::Version)),
    alias(
        "machine",
        "M",
        Some("TYPE[,prop=value]"),
        "machine to build ('help' lists them)",
        machine,
    ),
    row(
        "cpu",
        Some("MODEL[,+feature][,-feature]"),
        "CPU model ('help' lists them)",
        |o, v| match v {
            "help" | "?" => set(&mut o.print, Print::Cpus),
            _ => set(&mut o.cpu, v.into()),
        },
    ),
    row("smp", Some("N"), "number of CPUs", smp),
    row(
        "numa",
        Some("node|cpu|dist,..."),
        "which CPUs and memory are near one another (node,nodeid=,cpus=,memdev=)",
        numa,
    ),
    row("m", Some("[size=]SIZE"), "memory in MiB, or with a suffix k, M, G", memory),
    row(
        "boot",
        Some("[order=]DRIVES[,menu=on|off]"),
        "boot order: a floppy, c disk, d CD-ROM, n network",
        boot,
    ),
    row(
        "accel",
        Some("jit|interp[,heat=N][,best=N][,eager=on|off]"),
        "execution engine; how often code must be found running to be compiled, or all at once",
        |o, v| accel(o, "-accel", v),
    ),
    row(
        "icount",
        Some("[shift=]N[,rr=record|replay,rrfile=FILE]"),
        "virtual time counts instructions: 2^N ns each; record all that comes in, or replay it",
        icount,
    ),
    row("rtc", Some("[base=utc|localtime|DATE]"), "start of the clock chip", rtc),
    row("d", Some("ITEM[,ITEM...]"), "log what the engines do ('help' lists the items)", |o, v| {
        if v == "help" || v == "?" {
            return set(&mut o.print, Print::LogItems);
        }
        o.log.items = Items::parse(v).map_err(|reason| OptionError::refused("-d", reason))?;
        Ok(())
    }),
    row("D", Some("FILE"), "where the log goes (standard error)", |o, v| {
        set(&mut o.log_file, v.into())
    }),
    row(
        "dfilter",
        Some("START..LAST|START+LENGTH[,...]"),
        "log code at these addresses only",
        |o, v| {
            o.log.ranges = Wanted::parse_ranges(v)
                .map_err(|reason| OptionError::refused("-dfilter", reason))?;
            Ok(())
        },
    ),
    row("seed", Some("N"), "seed of everything random in the machine", |o, v| {
        o.seed = number(v).ok_or_else(|| OptionError::value("-seed", "seed", v, "a number"))?;
        Ok(())
    }),
    row("kernel", Some("FILE"), "kernel to start (Linux or multiboot)", |o, v| {
        set(&mut o.kernel, v.into())
    }),
    row("initrd", Some("FILE"), "initial RAM disk, or multiboot modules", |o, v| {
        set(&mut o.initrd, v.into())
    }),
    row("append", Some("TEXT"), "the kernel's command line", |o, v| set(&mut o.append, v.into())),
    row("bios", Some("FILE"), "firmware in place of the default", |o, v| {
        set(&mut o.bios, v.into())
    }),
    row("L", Some("FOLDER"), "where firmware files are", |o, v| {
        o.firmware_dirs.push(v.into());
        Ok(())
    }),
    row("pflash", Some("FILE"), "flash memory with firmware", |o, v| {
        legacy(o, v, Interface::Pflash, None, false)
    }),
    row(
        "drive",
        Some(
            "file=FILE[,if=ide|floppy|scsi|virtio|pflash|none][,media=disk|cdrom][,format=F][,index=N][,id=ID][,readonly=on][,snapshot=on]",
        ),
        "a drive",
        drive,
    ),
    row("hda", Some("FILE"), "disk 0", |o, v| legacy(o, v, Interface::Default, Some(0), false)),
    row("hdb", Some("FILE"), "disk 1", |o, v| legacy(o, v, Interface::Default, Some(1), false)),
    row("hdc", Some("FILE"), "disk 2", |o, v| legacy(o, v, Interface::Default, Some(2), false)),
    row("hdd", Some("FILE"), "disk 3", |o, v| legacy(o, v, Interface::Default, Some(3), false)),
    row("cdrom", Some("FILE"), "CD-ROM (disk 2)", |o, v| {
        legacy(o, v, Interface::Default, Some(2), true)
    }),
    row("fda", Some("FILE"), "floppy disk 0", |o, v| {
        legacy(o, v, Interface::Floppy, Some(0), false)
    }),
    row("fdb", Some("FILE"), "floppy disk 1", |o, v| {
        legacy(o, v, Interface::Floppy, Some(1), false)
    }),
    row("snapshot", None, "keep writes in memory, drop them at the end", |o, _| {
        o.snapshot = true;
        Ok(())
    }),
    row(
        "device",
        Some("TYPE[,prop=value]"),
        "add a device ('help' lists them; 'TYPE,help' its properties)",
        device,
    ),
    row(
        "chardev",
        Some(
            "stdio|null|file|pipe|pty|socket|ringbuf,id=ID[,path=FILE][,host=H,port=N][,server=on][,wait=off][,mux=on]",
        ),
        "a character device for others to use",
        chardev,
    ),
    row(
        "serial",
        Some("stdio|mon:stdio|null|none|pty|file:FILE|unix:PATH|tcp:HOST:PORT|chardev:ID"),
        "the next serial line",
        |o, v| {
            o.serials.push(char_target("-serial", v)?);
            Ok(())
        },
    ),
    row("parallel", Some("null|none|file:FILE|chardev:ID"), "the next parallel port", |o, v| {
        o.parallels.push(char_target("-parallel", v)?);
        Ok(())
    }),
    row("debugcon", Some("stdio|null|file:FILE"), "debug console at port 0xe9", |o, v| {
        o.debugcon = Some(char_target("-debugcon", v)?);
        Ok(())
    }),
    row(
        "monitor",
        Some("DEV"),
        "a monitor for people (HMP) on a line, as -serial names it",
        |o, v| chardev::monitor(o, "-monitor", v, Mode::Readline),
    ),
    row(
        "qmp",
        Some("DEV"),
        "a monitor for programs (QMP) on a line, as -serial names it",
        |o, v| chardev::monitor(o, "-qmp", v, Mode::Control { pretty: false }),
    ),
    row("qmp-pretty", Some("DEV"), "like -qmp, laid out for people to read", |o, v| {
        chardev::monitor(o, "-qmp-pretty", v, Mode::Control { pretty: true })
    }),
    row(
        "mon",
        Some("[chardev=]ID[,mode=readline|control][,pretty=on|off]"),
        "a monitor on a character device",
        chardev::mon,
    ),
    row("gdb", Some("tcp::PORT|unix:PATH|chardev:ID"), "wait for a debugger there", |o, v| {
        let v = v.replacen("tcp::", "tcp:localhost:", 1);
        let text = if v.contains("server") || v.starts_with("chardev:") || v == "stdio" {
            v
        } else {
            format!("{v},server=on,wait=off")
        };
        set(&mut o.gdb, char_target("-gdb", &text)?)
    }),
    row("s", None, "short for -gdb tcp::1234", |o, _| {
        set(&mut o.gdb, char_target("-gdb", "tcp:localhost:1234,server=on,wait=off")?)
    }),
    row("qtest", Some("DEV"), "a test drives the machine over a line", |o, v| {
        set(&mut o.qtest, char_target("-qtest", v)?)
    }),
    row("qtest-log", Some("FILE"), "accepted; tests are not logged", |_, _| Ok(())),
    row("blockdev", Some("[driver=]DRIVER,node-name=NAME[,...]"), "a block node", |o, v| {
        o.blockdevs.push(v.into());
        Ok(())
    }),
    row(
        "object",
        Some("TYPE,id=ID[,prop=value]"),
        "an object: secret, throttle-group, iothread",
        |o, v| {
            o.objects.push(v.into());
            Ok(())
        },
    ),
    row(
        "global",
        Some("DRIVER.PROP=VALUE"),
        "a property that devices of a type have where they are not given another",
        global,
    ),
    row("set", Some("GROUP.ID.KEY=VALUE"), "one more sub-option of an option before it", |_, _| {
        Ok(())
    }),
    row("readconfig", Some("FILE"), "more options, from a file", |_, v| {
        Err(OptionError::refused("-readconfig", format!("'{v}' cannot be read here")))
    }),
    row("audio", Some("none"), "accepted; sound is said by -audiodev", |_, _| Ok(())),
    row("pidfile", Some("FILE"), "write the process number to a file", |o, v| {
        set(&mut o.pidfile, v.into())
    }),
    row(
        "action",
        Some(
            "reboot=reset|shutdown,shutdown=poweroff|pause,panic=pause|shutdown|exit-failure|none,watchdog=ACTION",
        ),
        "what to do about events",
        |o, v| {
            let mut k = KeyVals::parse(v, None);
            if let Some(value) = k.take("panic") {
                o.on_panic = OnPanic::from_name(&value).ok_or_else(|| {
                    OptionError::value("-action", "panic", &value, &OnPanic::NAMES.join(", "))
                })?;
            }
            if let Some(value) = k.take("watchdog") {
                watchdog(o, "-action", &value)?;
            }
            for (key, yes, no) in
                [("reboot", "shutdown", "reset"), ("shutdown", "pause", "poweroff")]
            {
                let Some(value) = k.take(key) else { continue };
                let on = match value.as_str() {
                    v if v == yes => true,
                    v if v == no => false,
                    v => {
                        return Err(OptionError::value(
                            "-action",
                            key,
                            v,
                            &format!("'{no}' or '{yes}'"),
                        ));
                    }
                };
                if key == "reboot" { o.no_reboot = on } else { o.no_shutdown = on }
            }
            k.finish("-action", &["reboot", "shutdown", "panic", "watchdog"])
        },
    ),
    row(
        "watchdog-action",
        Some("reset|shutdown|poweroff|pause|debug|inject-nmi|none"),
        "what to do when a watchdog was not fed",
        |o, v| watchdog(o, "-watchdog-action", v),
    ),
    row("display", Some("window|none"), "where the picture goes", |o, v| {
        o.display = match v.split(',').next().unwrap_or_default() {
            "none" => DisplayOption::None,
            "window" | "gtk" | "sdl" => DisplayOption::Window,
            _ => return Err(OptionError::value("-display", "display", v, "'window' or 'none'")),
        };
        Ok(())
    }),
    row("nographic", None, "no picture; the first serial line on the terminal", |o, _| {
        o.nographic = true;
        o.display = DisplayOption::None;
        Ok(())
    }),
    row("vga", Some("std|none"), "display adapter", |o, v| set(&mut o.vga, v.into())),
    row(
        "nic",
        Some("none|user[,model=NAME][,mac=ADDR][,net=ADDR[/MASK]][,host=ADDR][,hostname=NAME]"),
        "a network card and what it is connected to",
        net::nic,
    ),
    row(
        "netdev",
        Some(
            "user,id=ID[,net=ADDR[/MASK]][,host=ADDR][,dns=ADDR][,dhcpstart=ADDR][,hostname=NAME]",
        ),
        "a network for the card that names it (-device e1000,netdev=ID)",
        net::netdev,
    ),
    row(
        "net",
        Some("none|nic[,model=NAME][,macaddr=ADDR]|user[,...]"),
        "network card and network, old spelling",
        net::net,
    ),
    row(
        "audiodev",
        Some("none|wav|alsa,id=ID[,path=FILE][,out.frequency=HZ]"),
        "where the machine's sound goes",
        audio::audiodev,
    ),
    row("fw_cfg", Some("[name=]NAME,string=TEXT|file=FILE"), "an entry for the firmware", fw_cfg),
    row("uuid", Some("UUID"), "the machine's UUID", |o, v| {
        let digits: String = v.chars().filter(|c| *c != '-').collect();
        let bytes = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
        let bytes = bytes.ok_or_else(|| {
            let wants = "a UUID such as 4600cb32-38ec-4b2f-8acb-81c6ea54f2d8";
            OptionError::value("-uuid", "uuid", v, wants)
        })?;
        set(&mut o.uuid, bytes.to_be_bytes())
    }),
    row("no-fd-bootchk", None, "start from floppy disks without a signature too", |o, _| {
        o.no_floppy_check = true;
        Ok(())
    }),
    row("preconfig", None, "wait for a monitor's x-exit-preconfig", |o, _| {
        o.preconfig = true;
        Ok(())
    }),
    row("no-reboot", None, "end when the guest resets", |o, _| {
        o.no_reboot = true;
        Ok(())
    }),
    row("no-shutdown", None, "pause when the guest powers off", |o, _| {
        o.no_shutdown = true;
        Ok(())
    }),
    row("S", None, "do not start until told to", |o, _| {
        o.paused = true;
        Ok(())
    }),
    row("nodefaults", None, "no devices but those asked for", |o, _| {
        o.no_defaults = true;
        Ok(())
    }),
    row("usb", None, "a USB controller (-machine usb=on)", |o, _| {
        o.machine_props.push(("usb".into(), "on".into()));
        Ok(())
    }),
    row(
        "usbdevice",
        Some("tablet|mouse|keyboard"),
        "a USB controller and a device on it",
        usb_device,
    ),
    row("no-user-config", None, "accepted; there is no user configuration", |_, _| Ok(())),
    row("name", Some("TEXT"), "name of the machine", |o, v| {
        set(&mut o.name, KeyVals::parse(v, Some("guest")).take("guest").unwrap_or_default())
    }),
    row(
        "incoming",
        Some("tcp:HOST:PORT|unix:PATH|file:NAME|defer"),
        "wait for a machine that another program migrates",
        |o, v| {
            o.incoming = Some(v.into());
            Ok(())
        },
    ),
    row("loadvm", Some("FILE"), "start from a snapshot file", |o, v| set(&mut o.loadvm, v.into())),
    row("script", Some("FILE"), "drive the machine by a script (docs/scripts.md)", |o, v| {
        set(&mut o.script, v.into())
    }),
];

fn set<T>(slot: &mut Option<T>, value: T) -> Result<(), OptionError> {
    *slot = Some(value);
    Ok(())
}

fn usb_device(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let kind = match v {
        "tablet" | "mouse" => format!("usb-{v}"),
        "keyboard" => "usb-kbd".into(),
        _ => {
            let wants = "tablet, mouse or keyboard";
            return Err(OptionError::value("-usbdevice", "device", v, wants));
        }
    };
    o.machine_props.push(("usb".into(), "on".into()));
    o.devices.push(DeviceSpec { kind, props: Vec::new() });
    Ok(())
}

fn machine(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("type"));
    match k.take("type").unwrap_or_default().as_str() {
        "help" | "?" => o.print = Some(Print::Machines),
        "" => {}
        name => o.machine = name.into(),
    }
    if let Some(name) = k.take("accel") {
        accel(o, "-machine", &name)?;
    }
    let (cpus, rest): (Vec<_>, Vec<_>) =
        k.rest().into_iter().partition(|(name, _)| name.starts_with("smp."));
    o.machine_props.extend(rest);
    if !cpus.is_empty() {
        let pair = |(name, value): &(String, String)| format!("{}={value}", &name["smp.".len()..]);
        smp(o, &cpus.iter().map(pair).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

fn accel(o: &mut Options, option: &str, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("accel"));
    // `-machine accel=a:b` names what to try in turn, as several `-accel` do.
    let names = k.take("accel").unwrap_or_default();
    let others = |n: &&str| ["kvm", "hvf", "whpx", "xen", "nvmm"].contains(n);
    let Some(name) = names.split(':').find(|n| !others(n)) else {
        if o.accel.refused.is_none() {
            o.accel.refused = Some(names);
        }
        return Ok(());
    };
    if o.accel.named {
        return Ok(());
    }
    o.accel.named = true;
    o.accel.jit = match name {
        // Scripts made for QEMU name its translator: what is here by itself.
        "tcg" => None,
        "qtest" => {
            o.accel.qtest = true;
            Some(false)
        }
        "interp" => Some(false),
        "jit" => Some(true),
        other => {
            return Err(OptionError::value(option, "accel", other, "'jit', 'tcg' or 'interp'"));
        }
    };
    o.accel.heat = k.take_number(option, "heat")?;
    o.accel.best = k.take_number(option, "best")?;
    o.accel.eager = k.take_bool(option, "eager")?.unwrap_or(false);
    // What QEMU's translator can be told says nothing to this one.
    for key in ["thread", "tb-size", "split-wx", "one-insn-per-tb"] {
        k.take(key);
    }
    k.finish(option, &["accel", "heat", "best", "eager", "thread", "tb-size", "split-wx"])
}

fn watchdog(o: &mut Options, option: &str, v: &str) -> Result<(), OptionError> {
    o.on_watchdog = OnWatchdog::from_name(v)
        .ok_or_else(|| OptionError::value(option, "watchdog", v, &OnWatchdog::NAMES.join(", ")))?;
    Ok(())
}

fn global(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let short = v.split_once('=').and_then(|(name, value)| Some((name.rsplit_once('.')?, value)));
    let given = match short {
        // In the long form the first name is `driver`, which has no point.
        Some(((driver, prop), value)) => [driver, prop, value].map(str::to_owned),
        _ => {
            let mut k = KeyVals::parse(v, None);
            let mut part = |name: &str| {
                let reason = format!("'{name}' is missing: write DRIVER.PROP=VALUE");
                k.take(name).ok_or_else(|| OptionError::refused("-global", reason))
            };
            [part("driver")?, part("property")?, part("value")?]
        }
    };
    let [driver, prop, value] = given;
    o.globals.push((driver, prop, value));
    Ok(())
}

fn smp(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("cpus"));
    let cpus = k.take_number("-smp", "cpus")?;
    let [sockets, cores, threads] =
        ["sockets", "cores", "threads"].map(|n| k.take_number("-smp", n));
    let (sockets, cores, threads) = (sockets?, cores?, threads?);
    let [s, c, t] = [sockets, cores, threads].map(|n| n.unwrap_or(1).max(1));
    let product = s.saturating_mul(c).saturating_mul(t);
    k.take("maxcpus");
    k.finish("-smp", &["cpus", "sockets", "cores", "threads", "maxcpus"])?;
    let n = cpus.unwrap_or(product);
    if !(1..=8).contains(&n) {
        return Err(OptionError::value("-smp", "cpus", &n.to_string(), "1 to 8"));
    }
    o.cpus = Some(n as usize);
    if sockets.or(cores).or(threads).is_some() {
        // What is not given follows from the number of CPUs: cores first.
        let missing = n.div_ceil(product.clamp(1, 8));
        let (s, c, t) = match (sockets, cores, threads) {
            (_, None, _) => (s, missing, t),
            (None, Some(_), _) => (missing, c, t),
            (Some(_), Some(_), None) => (s, c, missing),
            _ => (s, c, t),
        };
        let [sockets, cores, threads] = [s, c, t].map(|n| n as usize);
        o.topology = Some(Topology { sockets, cores, threads });
    }
    Ok(())
}

fn memory(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("size"));
    o.memory = k.take_size("-m", "size", 1 << 20)?;
    k.take("slots");
    k.take("maxmem");
    k.finish("-m", &["size", "slots", "maxmem"])?;
    match o.memory {
        Some(0) | None => Err(OptionError::value("-m", "size", v, "at least 1M")),
        Some(_) => Ok(()),
    }
}

fn boot(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("order"));
    o.boot_once = k.take("once").or(o.boot_once.take());
    o.boot_order = k.take("order").or(o.boot_order.take());
    for order in o.boot_once.iter().chain(&o.boot_order) {
        if let Some(bad) = order.chars().find(|c| !"abcdnp".contains(*c)) {
            return Err(OptionError::value(
                "-boot",
                "order",
                &bad.to_string(),
                "letters of 'acdn'",
            ));
        }
    }
    o.boot_menu = k.take_bool("-boot", "menu")?.unwrap_or(o.boot_menu);
    k.take("strict");
    k.take("splash");
    if let Some(ms) = k.take_number("-boot", "splash-time")? {
        let ms = u16::try_from(ms).map_err(|_| {
            OptionError::value("-boot", "splash-time", &ms.to_string(), "0 to 65535")
        })?;
        o.splash_time = Some(ms);
    }
    if let Some(text) = k.take("reboot-timeout") {
        let ms = text.parse::<i32>().ok().filter(|ms| (-1..=0xffff).contains(ms));
        let wants = "-1 to 65535";
        let ms = ms.ok_or_else(|| OptionError::value("-boot", "reboot-timeout", &text, wants))?;
        o.reboot_timeout = Some(ms);
    }
    k.finish("-boot", &["order", "once", "menu", "strict", "splash-time", "reboot-timeout"])
}

fn icount(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("shift"));
    let shift = match k.take("shift").as_deref() {
        None | Some("auto") => 0,
        Some(s) => number(s)
            .filter(|&n| n <= 10)
            .ok_or_else(|| OptionError::value("-icount", "shift", s, "0 to 10"))?
            as u32,
    };
    k.take("sleep");
    k.take("align");
    // A recording holds its start, wherever it begins.
    k.take("rrsnapshot");
    let file = k.take("rrfile");
    o.replay = match k.take("rr").as_deref() {
        None => None,
        Some("record") => Some(ReplayOption { mode: Rr::Record, file }),
        Some("replay") => {
            let missing = || OptionError::value("-icount", "rrfile", "", "the file to replay");
            Some(ReplayOption { mode: Rr::Replay, file: Some(file.ok_or_else(missing)?) })
        }
        Some(other) => return Err(OptionError::value("-icount", "rr", other, "record or replay")),
    };
    k.finish("-icount", &["shift", "sleep", "align", "rr", "rrfile", "rrsnapshot"])?;
    o.icount = IcountOption::Shift(shift);
    Ok(())
}

fn rtc(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("base"));
    if let Some(base) = k.take("base") {
        o.rtc = match base.as_str() {
            "utc" | "localtime" => RtcBase::Host,
            date => RtcBase::At(parse_date(date).ok_or_else(|| {
                OptionError::value(
                    "-rtc",
                    "base",
                    date,
                    "'utc' or a date such as 2006-06-17T16:01:21",
                )
            })?),
        };
    }
    k.take("clock");
    k.take("driftfix");
    k.finish("-rtc", &["base", "clock", "driftfix"])
}

/// `YYYY-MM-DD[THH:MM:SS]` as seconds since 1970.
fn parse_date(text: &str) -> Option<i64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let mut d = date.splitn(3, '-').map(|p| p.parse::<i64>().ok());
    let (y, m, day) = (d.next()??, d.next()??, d.next()??);
    let mut t = time.splitn(3, ':').map(|p| p.parse::<i64>().ok());
    let (h, min, s) = (t.next()??, t.next()??, t.next()??);
    if !(1970..=9999).contains(&y)
        || !(1..=12).contains(&m)
        || !(1..=31).contains(&day)
        || h > 23
        || min > 59
        || s > 59
    {
        return None;
    }
    // Days from civil date (proleptic Gregorian), March-based years.
    let (yy, mm) = if m > 2 { (y, m - 3) } else { (y - 1, m + 9) };
    let days = 365 * yy + yy / 4 - yy / 100 + yy / 400 + (153 * mm + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + h * 3600 + min * 60 + s)
}

fn legacy(
    o: &mut Options,
    file: &str,
    interface: Interface,
    index: Option<u32>,
    cdrom: bool,
) -> Result<(), OptionError> {
    let file = (!file.is_empty()).then(|| file.to_string());
    o.drive(DriveOption {
        file,
        interface,
        index,
        cdrom,
        read_only: cdrom,
        ..DriveOption::default()
    });
    Ok(())
}

fn drive(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let opt = "-drive";
    let mut k = KeyVals::parse(v, None);
    let interface = match k.take("if").as_deref() {
        None => Interface::Default,
        Some("ide") => Interface::Ide,
        Some("floppy") => Interface::Floppy,
        Some("virtio") => Interface::Virtio,
        Some("scsi") => Interface::Scsi,
        Some("pflash") => Interface::Pflash,
        Some("none") => Interface::None,
        Some(other) => {
            return Err(OptionError::value(
                opt,
                "if",
                other,
                "ide, floppy, scsi, virtio, pflash or none",
            ));
        }
    };
    let cdrom = match k.take("media").as_deref() {
        None | Some("disk") => false,
        Some("cdrom") => true,
        Some(other) => return Err(OptionError::value(opt, "media", other, "'disk' or 'cdrom'")),
    };
    let index = k.take_number(opt, "index")?.or(
        match (k.take_number(opt, "bus")?, k.take_number(opt, "unit")?) {
            (None, None) => None,
            (bus, unit) => Some(bus.unwrap_or(0) * 2 + unit.unwrap_or(0)),
        },
    );
    let mut node = k.take_dotted();
    for key in ["size", "offset", "auto-read-only"] {
        node.extend(k.take(key).map(|value| (key.to_owned(), value)));
    }
    let drive = DriveOption {
        node,
        id: k.take("id").unwrap_or_default(),
        file: k.take("file").filter(|f| !f.is_empty()),
        format: k.take("format"),
        interface,
        cdrom,
        index: index.map(|i| i.min(255) as u32),
        read_only: k.take_bool(opt, "readonly")?.unwrap_or(cdrom),
        snapshot: k.take_bool(opt, "snapshot")?.unwrap_or(false),
        on_read_error: error_policy(&mut k, interface, "rerror")?,
        on_write_error: error_policy(&mut k, interface, "werror")?,
    };
    // Host tuning that does not change what the guest sees.
    for key in ["cache", "aio", "discard", "detect-zeroes"] {
        k.take(key);
    }
    k.finish(
        opt,
        &[
            "file",
            "if",
            "media",
            "format",
            "index",
            "id",
            "readonly",
            "snapshot",
            "bus",
            "unit",
            "cache",
            "werror",
            "rerror",
            "auto-read-only",
        ],
    )?;
    o.drive(drive);
    Ok(())
}

/// `werror` and `rerror`.
fn error_policy(k: &mut KeyVals, interface: Interface, name: &str) -> Result<OnError, OptionError> {
    let Some(value) = k.take(name) else { return Ok(OnError::Auto) };
    if matches!(interface, Interface::Floppy | Interface::Pflash) {
        return Err(OptionError::refused("-drive", format!("{name} is not for this interface")));
    }
    let policy = OnError::from_name(&value).filter(|p| match p {
        OnError::Enospc => name == "werror",
        _ => true,
    });
    let wants = if name == "werror" {
        "report, ignore, stop, enospc or auto"
    } else {
        "report, ignore, stop or auto"
    };
    policy.ok_or_else(|| OptionError::value("-drive", name, &value, wants))
}

fn device(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("driver"));
    let kind = k.take("driver").unwrap_or_default();
    if kind == "help" || kind == "?" {
        o.print = Some(Print::Devices);
    } else if k.take("help").is_some() {
        o.print = Some(Print::DeviceProps(kind));
    } else {
        o.devices.push(DeviceSpec { kind, props: k.rest() });
    }
    Ok(())
}

fn fw_cfg(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("name"));
    let name =
        k.take("name").ok_or_else(|| OptionError::refused("-fw_cfg", "'name' is missing"))?;
    let value = match (k.take("string"), k.take("file")) {
        (Some(s), None) => FwCfgValue::String(s),
        (None, Some(f)) => FwCfgValue::File(f),
        _ => return Err(OptionError::refused("-fw_cfg", "give one of 'string' and 'file'")),
    };
    k.finish("-fw_cfg", &["name", "string", "file"])?;
    o.fw_cfg.push((name, value));
    Ok(())
}
