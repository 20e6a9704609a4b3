//! A disk is put into a running machine, used by Debian's kernel, asked for, let go and put in once more: on 440FX through
//! ACPI, on Q35 in a slot of PCI Express.

use crate::Test;
use crate::controllers::{COMMON, Kernel, blocks, finished, is_worked_on};
use crate::program::{Folder, Running};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

const INIT: &str = r#"
echo GUEST-PLUG
work SIZE
echo GUEST-UNPLUG
while [ -e /sys/block/$disk ]; do sleep 0.2; done
echo GUEST-AGAIN
find SIZE
dd if=/dev/$disk bs=64k count=16 2> /dev/null | cmp - /want || echo "GUEST-FAILED it is another one"
dmesg -r | grep '^<[0-3]>' | sed 's/^/GUEST-ERROR /'
echo GUEST-DONE
poweroff -f
"#;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let port = &["-device", "pcie-root-port,id=rp,chassis=1"];
    vec![
        Test::new("hot-plug: a disk comes and goes, through ACPI", 120, || {
            used("pc", "pci.0", &[])
        }),
        Test::new("hot-plug: a disk comes and goes, in a root port", 120, || {
            used("q35", "rp", port)
        }),
    ]
}

struct Monitor {
    stream: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Monitor {
    fn new(work: &Folder) -> Result<Self> {
        let stream = UnixStream::connect(work.file("monitor"))?;
        let lines = BufReader::new(stream.try_clone()?).lines();
        let mut monitor = Self { stream, lines };
        monitor.run("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let line = self.lines.next().context("the monitor hung up")??;
            let said: Value = serde_json::from_str(&line)?;
            if wanted(&said) {
                return Ok(said);
            }
        }
    }

    fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.stream, "{}", json!({"execute": command, "arguments": arguments}))?;
        let answer = self.next(|said| said.get("return").or(said.get("error")).is_some())?;
        ensure!(answer.get("return").is_some(), "{command}: {answer}");
        Ok(answer["return"].clone())
    }
}

fn used(machine: &str, bus: &str, more: &[&str]) -> Result<()> {
    let work = Folder::new()?;
    let kernel = Kernel::Amd64;
    let init = INIT.replace("SIZE", &blocks(0).to_string());
    work.write("initrd", kernel.initrd(&[COMMON, &["virtio_blk"]].concat(), &init)?)?;
    fs::File::create(work.file("disk.raw"))?.set_len(blocks(0) * 512)?;
    let mut args = kernel.args(machine, "")?;
    args.extend(more.iter().map(|s| s.to_string()));
    args.extend(["-qmp", "unix:monitor,server=on,wait=off"].map(String::from));
    let mut running = work.start(&args)?;
    let until = |running: &mut Running, mark: &str| -> Result<()> {
        ensure!(running.wait_for(mark, 100)?, "it ended before {mark}");
        Ok(())
    };
    until(&mut running, "GUEST-PLUG")?;
    let mut monitor = Monitor::new(&work)?;
    let file = json!({"driver": "file", "filename": "disk.raw"});
    monitor.run("blockdev-add", json!({"driver": "raw", "node-name": "disk", "file": file}))?;
    let disk = json!({"driver": "virtio-blk-pci", "id": "d", "drive": "disk", "bus": bus});
    monitor.run("device_add", disk.clone())?;
    until(&mut running, "GUEST-UNPLUG")?;
    let shown = monitor.run("query-block", json!({}))?;
    ensure!(shown[0]["qdev"] == "/machine/peripheral/d/virtio-backend", "{shown}");
    monitor.run("device_del", json!({"id": "d"}))?;
    let gone = monitor.next(|said| said["event"] == "DEVICE_DELETED")?;
    ensure!(gone["data"]["device"] == "d", "{gone}");
    until(&mut running, "GUEST-AGAIN")?;
    ensure!(monitor.run("query-block", json!({}))? == json!([]), "the disk is still there");
    monitor.run("device_add", disk)?;
    finished(running.wait(100)?.success()?.stdout)?;
    let image = fs::read(work.file("disk.raw"))?;
    ensure!(is_worked_on(0, &image), "the disk holds something else");
    Ok(())
}
