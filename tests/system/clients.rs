//! Programs made for QEMU's monitor drive this one: a script on `qemu.qmp`, `qmp-shell`, and what libvirt asks before
//! it starts a machine.

use crate::Test;
use crate::controllers::{COMMON, Kernel};
use crate::program::{Folder, Running, guest, root, tool};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::process::Command;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("clients: a script on qemu.qmp does a day's work", 150, day),
        Test::new("clients: qmp-shell", 30, shell),
        Test::new("clients: what libvirt asks", 30, probing),
    ]
}

/// Its first disk.
const FIRST: &str = "driver=raw,node-name=disk0,file.driver=file,file.filename=first.img";

/// The guest says when a second disk is there, and ends when it is told to.
const INIT: &str = r#"
while [ ! -b /dev/vda ]; do sleep 0.1; done
echo "GUEST: up"
while [ ! -b /dev/vdb ]; do sleep 0.1; done
echo hello | dd of=/dev/vdb bs=512 conv=sync,fsync 2> /dev/null
echo first | dd of=/dev/vda bs=512 conv=sync,fsync 2> /dev/null
echo "GUEST: wrote vdb"
read line
echo second | dd of=/dev/vda bs=512 seek=8 conv=sync,fsync 2> /dev/null
echo "GUEST: ends"
poweroff -f
"#;

/// Hot-plugs a disk, takes a snapshot, mirrors, takes a picture, ends the guest.
const DAY: &str = r#"
import asyncio, json, os, sys
from qemu.qmp import EventListener, ExecuteError, QMPClient

async def main():
    qmp = QMPClient("day")
    told = EventListener()
    qmp.register_listener(told)
    await qmp.connect("qmp.sock")
    assert qmp.greeting.QMP.version["qemu"]["major"] >= 7
    line = await asyncio.open_unix_connection("serial.sock")

    async def said(text):
        got = b""
        while text not in got:
            more = await asyncio.wait_for(line[0].read(4096), 120)
            assert more, got
            got += more

    async def event(name, **facts):
        async def look():
            while True:
                e = await told.get()
                data = e.get("data", {})
                if e["event"] == name and all(data.get(k) == v for k, v in facts.items()):
                    return data
        return await asyncio.wait_for(look(), 60)

    assert (await qmp.execute("query-status"))["status"] == "prelaunch"
    await qmp.execute("cont")
    await event("RESUME")
    await said(b"GUEST: up")

    # A disk is plugged in while the guest runs.
    await qmp.execute("blockdev-create", {"job-id": "c", "options": {
        "driver": "file", "filename": "new.qcow2", "size": 0}})
    await event("JOB_STATUS_CHANGE", id="c", status="concluded")
    await qmp.execute("job-dismiss", {"id": "c"})
    await qmp.execute("blockdev-add", {"driver": "file", "filename": "new.qcow2", "node-name": "f"})
    await qmp.execute("blockdev-create", {"job-id": "c", "options": {
        "driver": "qcow2", "file": "f", "size": 4 << 20}})
    await event("JOB_STATUS_CHANGE", id="c", status="concluded")
    assert "error" not in (await qmp.execute("query-jobs"))[0]
    await qmp.execute("job-dismiss", {"id": "c"})
    await qmp.execute("blockdev-add", {"driver": "qcow2", "file": "f", "node-name": "disk1"})
    await qmp.execute("device_add", {"driver": "virtio-blk-pci", "drive": "disk1", "id": "second"})
    await said(b"GUEST: wrote vdb")
    try:
        await qmp.execute("device_add", {"driver": "virtio-blk-pci", "drive": "nothing"})
        assert False
    except ExecuteError as error:
        assert error.error_class == "GenericError", error

    # A snapshot of the first one.
    nodes = [n["node-name"] for n in await qmp.execute("query-named-block-nodes")]
    assert "disk0" in nodes, nodes
    await qmp.execute("blockdev-snapshot-sync", {
        "node-name": "disk0", "snapshot-file": "overlay.qcow2", "snapshot-node-name": "top"})
    blocks = await qmp.execute("query-block")
    inserted = [b["inserted"] for b in blocks if b.get("inserted")]
    assert any(i["file"].endswith("overlay.qcow2") for i in inserted), blocks

    # A mirror of the second one.
    await qmp.execute("blockdev-add", {
        "driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": "copy.raw"}})
    await qmp.execute("blockdev-mirror", {
        "job-id": "m", "device": "disk1", "target": "copy", "sync": "full"})
    await event("BLOCK_JOB_READY", device="m")
    jobs = await qmp.execute("query-block-jobs")
    assert jobs[0]["type"] == "mirror" and jobs[0]["ready"], jobs
    await qmp.execute("block-job-complete", {"device": "m"})
    done = await event("BLOCK_JOB_COMPLETED", device="m")
    assert done["offset"] == done["len"] and "error" not in done, done

    # Copies into files that the commands make.
    await qmp.execute("drive-backup", {
        "job-id": "b", "device": "disk1", "target": "backup.qcow2", "sync": "full", "format": "qcow2"})
    await event("BLOCK_JOB_COMPLETED", device="b")
    await qmp.execute("drive-mirror", {
        "job-id": "d", "device": "copy", "target": "mirror.raw", "sync": "full", "format": "raw"})
    await event("BLOCK_JOB_READY", device="d")
    await qmp.execute("block-job-cancel", {"device": "d"})
    await event("BLOCK_JOB_COMPLETED", device="d")

    await qmp.execute("screendump", {"filename": "picture.ppm"})
    with open("picture.ppm", "rb") as f:
        assert f.read(3) == b"P6\n"
    text = await qmp.execute("human-monitor-command", {"command-line": "info block"})
    assert "copy.raw" in text, text

    await qmp.execute("system_powerdown")
    await event("POWERDOWN")
    line[1].write(b"end\n")
    await said(b"GUEST: ends")
    assert (await event("SHUTDOWN"))["guest"]

asyncio.run(main())
"#;

fn python(work: &Folder, program: &str, args: &[&str]) -> Result<String> {
    let client = guest("qemu-qmp/qemu/qmp/__init__.py")?;
    let modules = client.ancestors().nth(3).context("a folder")?;
    let mut command = Command::new(tool("python3")?);
    command.arg(program).args(args).env("PYTHONPATH", modules).current_dir(work.path());
    let out = command.output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    Ok(said)
}

fn start(work: &Folder, args: &[&str]) -> Result<Running> {
    let firmware = root().join("guests/firmware").to_string_lossy().into_owned();
    let common = ["-L", &firmware, "-qmp", "unix:qmp.sock,server=on,wait=off"];
    let args: Vec<String> = common.iter().chain(args).map(|s| s.to_string()).collect();
    let running = work.start(&args)?;
    for _ in 0..200 {
        if work.file("qmp.sock").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(running)
}

fn day() -> Result<()> {
    guest("qemu-qmp/qemu/qmp/__init__.py")?;
    let work = Folder::new()?;
    let kernel = Kernel::Amd64;
    work.write("initrd", kernel.initrd(&[COMMON, &["virtio_blk"]].concat(), INIT)?)?;
    work.write("first.img", vec![0; 1 << 20])?;
    work.write("copy.raw", vec![0; 4 << 20])?;
    work.write("day.py", DAY)?;
    let mut args = kernel.args("pc", "quiet")?;
    // Its line is the script's.
    let line = args.iter_mut().find(|arg| *arg == "stdio").context("a serial line")?;
    *line = "unix:serial.sock,server=on,wait=off".into();
    args.extend(
        ["-S", "-blockdev", FIRST, "-device", "virtio-blk-pci,drive=disk0"].map(String::from),
    );
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let machine = start(&work, &args)?;
    python(&work, "day.py", &[])?;
    machine.wait(30)?.success()?;
    let begins = |name: &str, text: &[u8]| -> Result<()> {
        ensure!(fs::read(work.file(name))?.starts_with(text), "{name} is not what was written");
        Ok(())
    };
    begins("copy.raw", b"hello\n")?;
    begins("mirror.raw", b"hello\n")?;
    begins("backup.qcow2", b"QFI\xfb")?;
    begins("first.img", b"first\n")?;
    begins("overlay.qcow2", b"QFI\xfb")?;
    ensure!(fs::read(work.file("first.img"))?[4096..4102] == [0; 6], "the snapshot was written to");
    Ok(())
}

/// Lines typed into `qmp-shell`, and what it must say of each.
const TYPED: &[(&str, &str)] = &[
    ("query-status", "\"status\": \"prelaunch\""),
    ("query-kvm", "\"enabled\": false"),
    ("blockdev-add driver=null-co node-name=n0 size=1048576", "{\"return\": {}}"),
    ("device_add driver=virtio-blk-pci drive=n0 id=d0", "{\"return\": {}}"),
    ("human-monitor-command command-line=help", "show the help"),
    ("nonsense", "CommandNotFound"),
    ("quit", "{\"return\": {}}"),
];

fn shell() -> Result<()> {
    guest("qemu-qmp/qemu/qmp/__init__.py")?;
    let work = Folder::new()?;
    let machine = start(&work, &["-M", "pc", "-display", "none", "-S"])?;
    let lines: Vec<&str> = TYPED.iter().map(|(line, _)| *line).collect();
    work.write("typed", lines.join("\n") + "\n")?;
    work.write(
        "shell.py",
        "import sys\nfrom qemu.qmp.qmp_shell import main\nsys.stdin = open('typed')\n\
         sys.argv = ['qmp-shell', 'qmp.sock']\nmain()\n",
    )?;
    let said = python(&work, "shell.py", &[])?;
    let mut rest = said.as_str();
    for (line, answer) in TYPED {
        let at = rest.find(answer).with_context(|| format!("{line}: no {answer} in:\n{said}"))?;
        rest = &rest[at + answer.len()..];
    }
    machine.wait(20)?.success()?;
    Ok(())
}

/// What libvirt asks a machine of type `none`: for each question what must be in the answer, or the error.
const PROBING: &str = r#"
import asyncio
from qemu.qmp import QMPClient

def has(*keys):
    return lambda answer: all(k in answer for k in keys)

def each(*keys):
    return lambda answer: isinstance(answer, list) and answer and all(k in a for a in answer for k in keys)

def names(*wanted, key="name"):
    return lambda answer: set(wanted) <= {a[key] for a in answer}

def is_list(answer):
    return isinstance(answer, list)

def error(kind, text):
    return (kind, text)

ASKED = [
    ("qmp_capabilities", {}, error("CommandNotFound",
        "Capabilities negotiation is already complete, command ignored")),
    ("query-version", {}, lambda a: a["qemu"]["major"] >= 7 and "package" in a),
    ("query-target", {}, lambda a: a == {"arch": "x86_64"}),
    ("query-commands", {}, names("query-commands", "blockdev-add", "device_add", "migrate", "quit")),
    ("query-kvm", {}, lambda a: a["enabled"] is False and "present" in a),
    ("qom-list-types", {}, names("virtio-blk-pci", "e1000", "ide-hd", "usb-tablet", "pvpanic")),
    ("qom-list-types", {"implements": "machine", "abstract": False}, is_list),
    ("device-list-properties", {"typename": "virtio-blk-pci"},
        names("drive", "bootindex", "addr", "serial", "logical_block_size")),
    ("device-list-properties", {"typename": "nosuch"},
        error("DeviceNotFound", "Device 'nosuch' not found")),
    ("query-machines", {}, each("name", "cpu-max", "hotpluggable-cpus", "numa-mem-supported",
        "deprecated")),
    ("query-cpu-definitions", {}, each("name", "typename", "static", "migration-safe")),
    ("query-cpu-model-expansion", {"type": "static", "model": {"name": "max"}},
        lambda a: isinstance(a["model"]["props"], dict) and a["model"]["name"]),
    ("query-cpu-model-expansion", {"type": "full", "model": {"name": "nosuch"}},
        error("GenericError", "CPU model 'nosuch' not found")),
    ("query-cpu-model-expansion", {"type": "none", "model": {"name": "max"}},
        error("GenericError", "Parameter 'type' does not accept value 'none'")),
    ("query-qmp-schema", {}, each("name", "meta-type")),
    ("query-command-line-options", {}, each("option", "parameters")),
    ("query-command-line-options", {"option": "nosuch"},
        error("GenericError", "invalid option name: nosuch")),
    ("query-tpm-models", {}, is_list),
    ("query-tpm-types", {}, is_list),
    ("query-migrate-capabilities", {}, names("events", "xbzrle", "multifd", key="capability")),
    ("query-migrate-parameters", {}, has("max-bandwidth", "downtime-limit", "multifd-channels")),
    ("query-migrate", {}, lambda a: a == {}),
    ("query-sev-capabilities", {}, error("GenericError", "KVM not enabled")),
    ("query-sgx-capabilities", {}, error("GenericError", "SGX is not enabled in KVM")),
    ("query-gic-capabilities", {}, error("CommandNotFound",
        "The command query-gic-capabilities has not been found")),
    ("query-chardev-backends", {}, names("socket", "file", "pty", "null")),
    ("query-display-options", {}, has("type")),
    ("query-dump-guest-memory-capability", {}, has("formats")),
    ("qom-list-properties", {"typename": "max-x86_64-cpu"}, each("name", "type")),
    ("qom-list-properties", {"typename": "pc-machine"}, is_list),
    ("qom-list-properties", {"typename": "nosuch"},
        error("DeviceNotFound", "Class 'nosuch' not found")),
    ("query-audiodevs", {}, is_list),
    ("query-vnc", {}, lambda a: a == {"enabled": False}),
    ("query-balloon", {}, error("DeviceNotActive", "No balloon device has been activated")),
    ("query-block", {}, is_list),
    ("query-named-block-nodes", {}, is_list),
    ("query-iothreads", {}, is_list),
    ("query-chardev", {}, each("label", "filename", "frontend-open")),
    ("query-events", {}, error("CommandNotFound", "The command query-events has not been found")),
    ("query-version", {"x": 1}, error("GenericError", "Parameter 'x' is unexpected")),
    ("human-monitor-command", {}, error("GenericError", "Parameter 'command-line' is missing")),
]

async def main():
    qmp = QMPClient("probe")
    await qmp.connect("qmp.sock")
    wrong = []
    for command, arguments, wanted in ASKED:
        answer = await qmp._raw({"execute": command, "arguments": arguments})
        if isinstance(wanted, tuple):
            good = "error" in answer and (answer["error"]["class"], answer["error"]["desc"]) == wanted
        else:
            good = "return" in answer and wanted(answer["return"])
        if not good:
            wrong.append(command + ": " + str(dict(answer))[:400])
    # Every type that the schema names is in it.
    schema = await qmp.execute("query-qmp-schema")
    known = {e["name"] for e in schema}
    for e in schema:
        used = [e.get(k) for k in ("arg-type", "ret-type", "element-type")]
        used += [m["type"] for m in e.get("members", []) if isinstance(m, dict) and "type" in m]
        used += [v["type"] for v in e.get("variants", [])]
        wrong += [e["name"] + " names " + u for u in used if u and u not in known]
    commands = {c["name"] for c in await qmp.execute("query-commands")}
    described = {e["name"] for e in schema if e["meta-type"] == "command"}
    if commands != described:
        wrong.append("commands and schema differ: " + str(commands ^ described))
    assert not wrong, "\n".join(wrong)
    await qmp.execute("quit")

asyncio.run(main())
"#;

fn probing() -> Result<()> {
    guest("qemu-qmp/qemu/qmp/__init__.py")?;
    let work = Folder::new()?;
    let args = ["-S", "-no-user-config", "-nodefaults", "-nographic"];
    let machine = start(&work, &[&args[..], &["-machine", "none,accel=kvm:tcg"]].concat())?;
    work.write("probe.py", PROBING)?;
    python(&work, "probe.py", &[])?;
    machine.wait(20)?.success()?;
    Ok(())
}
