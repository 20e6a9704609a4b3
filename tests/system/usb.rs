//! USB under a real guest: Debian's kernel binds its drivers to the controllers, keys arrive from the
//! keyboard, a tablet is found behind a hub, and a device that is unplugged is gone until it comes back.

use crate::Test;
use crate::cpio::Cpio;
use crate::program::{Folder, guest, tail};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

/// (name, machine, controllers and buses, bus of the devices, what the guest says of it)
const CONTROLLERS: &[(&str, &str, &[&str], &str, &str)] = &[
    ("UHCI", "pc", &["-usb"], "usb-bus.0", "new full-speed USB device"),
    ("EHCI with companions", "q35", &["-usb"], "usb-bus.0", "new high-speed USB device"),
];

/// Kernel modules in the order in which they need each other.
const MODULES: &[&str] = &[
    "usb-common",
    "usbcore",
    "ehci-hcd",
    "ehci-pci",
    "uhci-hcd",
    "xhci-hcd",
    "xhci-pci",
    "hid",
    "usbhid",
    "hid-generic",
];

/// What the guest does: there is no other keyboard, for the PS/2 driver is not loaded.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for m in MODULES; do insmod /modules/$m.ko || echo "GUEST: no $m"; done
has() { cat /sys/bus/usb/devices/*/product 2> /dev/null | grep -q "$1"; }
until_it() { i=0; until "$@" || [ $i -ge 3000 ]; do sleep 0.1; i=$((i+1)); done; "$@" || echo "GUEST-FAILED $*"; }
gone() { ! has "$1"; }
until_it has Keyboard
until_it has Tablet
until_it grep -q Tablet /proc/bus/input/devices
sleep 1
cat /sys/bus/usb/devices/*/product
echo GUEST-TYPE
read line < /dev/tty1
echo "GUEST-READ $line"
echo GUEST-UNPLUG
until_it gone Tablet
echo GUEST-PLUG
until_it has Tablet
until_it grep -q Tablet /proc/bus/input/devices
dmesg | grep -iE 'warn|error|fail|timed out|BUG' | grep -iE 'usb|hci|hid' | sed 's/^/GUEST-COMPLAINS /'
echo GUEST-DONE
poweroff -f
"#;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let test = |&(name, machine, options, bus, speed): &'static (_, _, &[&str], _, _)| {
        let name = format!("usb: {name}: keys, a hub, unplugging");
        Test::new(&name, 600, move || used(machine, options, bus, speed))
    };
    CONTROLLERS.iter().map(test).collect()
}

fn initrd() -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for folder in ["bin", "dev", "modules"] {
        cpio.folder(folder);
    }
    cpio.program("bin/busybox", &fs::read(guest("busybox/busybox")?)?);
    for module in MODULES {
        let file = guest(&format!("linux-amd64/{module}.ko"))?;
        cpio.program(&format!("modules/{module}.ko"), &fs::read(file)?);
    }
    cpio.program("init", INIT.replace("MODULES", &MODULES.join(" ")).as_bytes());
    Ok(cpio.finish())
}

fn used(machine: &str, options: &[&str], bus: &str, speed: &str) -> Result<()> {
    let work = Folder::new()?;
    work.write("initrd", initrd()?)?;
    let path = |name: &str| Ok::<_, anyhow::Error>(guest(name)?.to_string_lossy().into_owned());
    let (kernel, firmware) = (path("linux-amd64/vmlinuz")?, path("firmware")?);
    let script = "within 3000\nwait-serial \"GUEST-TYPE\"\nwait 1\ntype \"Hello, usb 42\\n\"\n\
                  wait-serial \"GUEST-DONE\"\nquit 0\n";
    work.write("script.txt", script)?;
    let device = |kind: &str| format!("{kind},bus={bus}");
    let (keyboard, hub) = (device("usb-kbd,port=1"), device("usb-hub,port=2"));
    let tablet = device("usb-tablet,id=t,port=2.1");
    let fixed = ["-M", machine, "-m", "256", "-display", "none", "-L", &firmware, "-no-reboot"];
    let rest = [
        "-icount",
        "2",
        "-serial",
        "stdio",
        "-kernel",
        &kernel,
        "-initrd",
        "initrd",
        "-append",
        "console=ttyS0 panic=-1",
        "-device",
        &keyboard,
        "-device",
        &hub,
        "-device",
        &tablet,
        "-script",
        "script.txt",
        "-qmp",
        "unix:monitor,server=on,wait=off",
    ];
    let args: Vec<String> =
        fixed.iter().chain(options).chain(&rest).map(|s| s.to_string()).collect();
    let mut running = work.start(&args)?;
    let gone = r#"{"execute": "device_del", "arguments": {"id": "t"}}"#.to_owned();
    let arguments =
        format!(r#"{{"driver": "usb-tablet", "id": "t", "port": "2.1", "bus": "{bus}"}}"#);
    let back = format!(r#"{{"execute": "device_add", "arguments": {arguments}}}"#);
    for (mark, command) in [("GUEST-UNPLUG", gone), ("GUEST-PLUG", back)] {
        ensure!(running.wait_for(mark, 400)?, "it ended before {mark}");
        let mut monitor = UnixStream::connect(work.file("monitor"))?;
        let hello = r#"{"execute": "qmp_capabilities"}"#;
        monitor.write_all(format!("{hello}\n{command}\n").as_bytes())?;
        let mut lines = BufReader::new(monitor).lines();
        // The answer to the command is the second one.
        for _ in 0..2 {
            let answer = lines
                .by_ref()
                .find(|l| l.as_ref().is_ok_and(|l| !l.contains("event") && !l.contains("QMP")));
            let answer = answer.context("the monitor hung up")??;
            ensure!(answer.contains("return"), "{command}: {answer}");
        }
    }
    let said = running.wait(550)?.success()?.stdout;
    for text in ["GUEST-READ Hello, usb 42", speed, "USB hub found", "GUEST-DONE"] {
        ensure!(said.contains(text), "'{text}' is not in the output:\n{}", tail(&said));
    }
    for text in ["GUEST-FAILED", "GUEST-COMPLAINS", "GUEST: no", "Call Trace"] {
        ensure!(!said.contains(text), "'{text}' is in the output:\n{}", tail(&said));
    }
    Ok(())
}
