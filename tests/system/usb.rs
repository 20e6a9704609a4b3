//! USB under Debian's kernel: it binds its drivers to the controllers, keys arrive from a keyboard, a tablet is found
//! behind a hub on each, what is unplugged is gone until it comes back, and a disk is plugged in, used and taken away.

use crate::Test;
use crate::controllers::{COMMON, Kernel, blocks, finished, is_worked_on};
use crate::program::{Folder, Running, tail};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

/// A machine: what makes its buses, and each with the driver that says it uses it. The keyboard is on the first.
struct Buses {
    name: &'static str,
    machine: &'static str,
    args: &'static [&'static str],
    buses: &'static [(&'static str, &'static str)],
}

const BUSES: &[Buses] = &[
    Buses {
        name: "UHCI, OHCI, xHCI",
        machine: "pc",
        args: &["-usb", "-device", "pci-ohci,id=o", "-device", "qemu-xhci,id=x"],
        buses: &[
            ("usb-bus.0", "full-speed USB device number 2 using uhci_hcd"),
            ("o.0", "full-speed USB device number 2 using ohci-pci"),
            ("x.0", "full-speed USB device number 2 using xhci_hcd"),
        ],
    },
    Buses {
        name: "EHCI with companions",
        machine: "q35",
        args: &["-usb"],
        buses: &[("usb-bus.0", "high-speed USB device number 2 using ehci-pci")],
    },
];

/// Kernel modules in the order in which they need each other.
const MODULES: &[&str] = &[
    "usb-common",
    "usbcore",
    "ehci-hcd",
    "ehci-pci",
    "ohci-hcd",
    "ohci-pci",
    "uhci-hcd",
    "xhci-hcd",
    "xhci-pci",
    "hid",
    "usbhid",
    "hid-generic",
    "usb-storage",
];

/// What the guest does with tablets on `COUNT` buses: there is no other keyboard, for the PS/2 driver is not loaded.
const INIT: &str = r#"
until_it() { i=0; until "$@" || [ $i -ge 600 ]; do sleep 0.1; i=$((i+1)); done; "$@" || echo "GUEST-FAILED $*"; }
are() { [ "$(cat /sys/bus/usb/devices/*/product 2> /dev/null | grep -c $2)" = $1 ]; }
inputs() { [ "$(grep -c Name.*Tablet /proc/bus/input/devices)" = $1 ]; }
until_it are 1 Keyboard
until_it are COUNT Tablet
until_it inputs COUNT
sleep 1
echo GUEST-TYPE
read line < /dev/tty1
echo "GUEST-READ $line"
echo GUEST-UNPLUG
until_it are 0 Tablet
echo GUEST-PLUG
until_it are COUNT Tablet
until_it inputs COUNT
echo GUEST-DISKS
for size in SIZES; do work $size; done
echo GUEST-AWAY
until_it are 0 HARDDRIVE
sleep 1
# That the cache of a disk taken away cannot be flushed, Linux says of every disk that it was not told of before.
dmesg | grep -iE 'warn|error|fail|timed out|BUG' | grep -iE 'usb|hci|hid|sd ' |
  grep -v 'Synchronize Cache(10) failed: Result: hostbyte=DID_NO_CONNECT' | sed 's/^/GUEST-FAILED /'
echo GUEST-DONE
poweroff -f
"#;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let test = |buses: &'static Buses| {
        let name = format!("usb: {}: keys, a hub, plugging and unplugging", buses.name);
        Test::new(&name, 300, move || used(buses))
    };
    BUSES.iter().map(test).collect()
}

/// Gives the monitor commands, once the guest has said `mark`.
fn command(running: &mut Running, work: &Folder, mark: &str, commands: &[String]) -> Result<()> {
    ensure!(running.wait_for(mark, 250)?, "it ended before {mark}");
    let mut monitor = UnixStream::connect(work.file("monitor"))?;
    let mut lines = BufReader::new(monitor.try_clone()?).lines();
    let hello = r#"{"execute": "qmp_capabilities"}"#.to_owned();
    for command in std::iter::once(&hello).chain(commands) {
        monitor.write_all(format!("{command}\n").as_bytes())?;
        let is_answer = |l: &std::io::Result<String>| {
            l.as_ref().is_ok_and(|l| !l.contains("event") && !l.contains("QMP"))
        };
        let answer = lines.by_ref().find(is_answer).context("the monitor hung up")??;
        ensure!(answer.contains("return"), "{command}: {answer}");
    }
    Ok(())
}

fn used(buses: &Buses) -> Result<()> {
    let work = Folder::new()?;
    let kernel = Kernel::Amd64;
    let count = buses.buses.len();
    let sizes: Vec<String> = (0..count).map(|n| blocks(n).to_string()).collect();
    let init = INIT.replace("COUNT", &count.to_string()).replace("SIZES", &sizes.join(" "));
    work.write("initrd", kernel.initrd(&[COMMON, MODULES].concat(), &init)?)?;
    let script = "within 3000\nwait-serial \"GUEST-TYPE\"\nwait 1\ntype \"Hello, usb 42\\n\"\n\
                  wait-serial \"GUEST-DONE\"\nquit 0\n";
    work.write("script.txt", script)?;
    let mut args = kernel.args(buses.machine, "")?;
    args.extend(buses.args.iter().map(|s| s.to_string()));
    let mut device = |text: String| args.extend(["-device".into(), text]);
    for (n, (bus, _)) in buses.buses.iter().enumerate() {
        if n == 0 {
            device(format!("usb-kbd,bus={bus},port=1"));
        }
        device(format!("usb-hub,bus={bus},port=2"));
        device(format!("usb-tablet,id=t{n},bus={bus},port=2.1"));
    }
    for n in 0..count {
        let file = format!("disk{n}.raw");
        fs::File::create(work.file(&file))?.set_len(blocks(n) * 512)?;
        args.extend(["-drive".into(), format!("file={file},format=raw,if=none,id=disk{n}")]);
    }
    let rest = ["-script", "script.txt", "-qmp", "unix:monitor,server=on,wait=off"];
    args.extend(rest.map(String::from));
    let mut running = work.start(&args)?;
    let each = |f: &dyn Fn(usize, &str) -> String| -> Vec<String> {
        buses.buses.iter().enumerate().map(|(n, (bus, _))| f(n, bus)).collect()
    };
    let add =
        |arguments: String| format!(r#"{{"execute": "device_add", "arguments": {{{arguments}}}}}"#);
    let del = |id: String| format!(r#"{{"execute": "device_del", "arguments": {{"id": "{id}"}}}}"#);
    let gone = each(&|n, _| del(format!("t{n}")));
    let back = each(&|n, bus| {
        add(format!(r#""driver": "usb-tablet", "id": "t{n}", "port": "2.1", "bus": "{bus}""#))
    });
    let disks = each(&|n, bus| {
        add(format!(
            r#""driver": "usb-storage", "id": "s{n}", "port": "2.2", "bus": "{bus}", "drive": "disk{n}""#
        ))
    });
    let away = each(&|n, _| del(format!("s{n}")));
    let steps = [
        ("GUEST-UNPLUG", gone),
        ("GUEST-PLUG", back),
        ("GUEST-DISKS", disks),
        ("GUEST-AWAY", away),
    ];
    for (mark, commands) in steps {
        command(&mut running, &work, mark, &commands)?;
    }
    let said = finished(running.wait(280)?.success()?.stdout)?;
    let drivers = buses.buses.iter().map(|(_, says)| *says);
    for text in ["GUEST-READ Hello, usb 42", "USB hub found"].into_iter().chain(drivers) {
        ensure!(said.contains(text), "'{text}' is not in the output:\n{}", tail(&said));
    }
    for n in 0..count {
        let image = fs::read(work.file(&format!("disk{n}.raw")))?;
        ensure!(is_worked_on(n, &image), "disk {n} holds something else");
    }
    Ok(())
}
