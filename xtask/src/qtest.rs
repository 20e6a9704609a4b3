//! `./x qtest TREE [TEST..]`: QEMU's own device tests, unmodified, with our program in the place of QEMU.
//!
//! TREE is a build tree of QEMU in which the programs under `tests/qtest` were built (docs/tests.md
//! says how). Its licence keeps it out of the project.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The programs that are about what we have.
const TESTS: &[&str] = &[
    "ahci-test",
    "boot-order-test",
    "boot-serial-test",
    "cdrom-test",
    "cpu-plug-test",
    "device-introspect-test",
    "device-plug-test",
    "display-vga-test",
    "drive_del-test",
    "endianness-test",
    "fdc-test",
    "fuzz-lsi53c895a-test",
    "fuzz-virtio-scsi-test",
    "fw_cfg-test",
    "hd-geo-test",
    "i440fx-test",
    "ide-test",
    "lpc-ich9-test",
    "machine-none-test",
    "numa-test",
    "pvpanic-pci-test",
    "pvpanic-test",
    "q35-test",
    "qmp-cmd-test",
    "qmp-test",
    "qom-test",
    "qos-test",
    "readconfig-test",
    "rtc-test",
    "rtl8139-test",
    "tco-test",
    "test-hmp",
    "usb-hcd-ehci-test",
    "usb-hcd-uhci-test",
    "usb-hcd-xhci-test",
    "wdt_ib700-test",
];

/// How a case ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Skipped,
    Failed,
}

/// Runs the tests and prints how many cases passed.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some((tree, wanted)) = args.split_first() else { bail!("usage: ./x qtest TREE [TEST..]") };
    let tree = fs::canonicalize(tree).with_context(|| format!("no folder '{tree}'"))?;
    let folder = tree.join("tests/qtest");
    let there = |name: &&str| folder.join(name).is_file();
    let tests: Vec<&str> = match wanted {
        [] => TESTS.iter().copied().filter(there).collect(),
        names => names.iter().map(String::as_str).collect(),
    };
    if tests.is_empty() {
        bail!("'{}' has no programs in tests/qtest: build them first", tree.display());
    }
    shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
    let program = fs::canonicalize(format!("{}/release/orrery", shell::target()))?;
    let work = std::env::temp_dir().join(format!("orrery-qtest-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    // The tests take the instruction set from the program's name.
    let emulator = work.join("qemu-system-x86_64");
    crate::iotests::link(&program, &emulator)?;
    let (mut passed, mut all) = (0, 0);
    println!("{:<24} {:>6} {:>6} {:>7}", "test", "passed", "failed", "skipped");
    for test in tests {
        let cases = run_one(&tree, &folder.join(test), &emulator)?;
        let count = |end| cases.iter().filter(|c| c.1 == end).count();
        let (ok, bad, skipped) = (count(End::Passed), count(End::Failed), count(End::Skipped));
        println!("{test:<24} {ok:>6} {bad:>6} {skipped:>7}");
        for (name, _) in cases.iter().filter(|c| c.1 == End::Failed) {
            println!("    {name}");
        }
        (passed, all) = (passed + ok, all + ok + bad);
    }
    println!("{passed} of {all} cases passed");
    fs::remove_dir_all(&work).context("the scratch folder stays")
}

/// Runs a program; if it ends early, every case by itself: one that aborts takes none of the others
/// along then.
fn run_one(tree: &Path, program: &Path, emulator: &Path) -> Result<Vec<(String, End)>> {
    let command = |seconds: &str| {
        let mut command = Command::new("timeout");
        command.arg(seconds).arg(program).current_dir(tree).stderr(Stdio::null());
        command.env("QTEST_QEMU_BINARY", emulator).env("QTEST_QEMU_IMG", "qemu-img");
        command.env("G_TEST_SRCDIR", tree.join("../tests"));
        command.env("G_TEST_BUILDDIR", tree.join("tests"));
        command
    };
    let whole = command("600").arg("--tap").output().context("a test cannot be started")?;
    if whole.status.success() {
        let text = String::from_utf8_lossy(&whole.stdout).into_owned();
        let end = |line: &str| if line.contains("# SKIP") { End::Skipped } else { End::Passed };
        let passed = text.lines().filter(|line| line.starts_with("ok "));
        return Ok(passed.map(|line| (line.to_owned(), end(line))).collect());
    }
    let list = command("60").arg("-l").output().context("a test cannot be started")?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let mut out = Vec::new();
    for case in list.lines().filter(|line| line.starts_with('/')) {
        let ran = command("60").args(["--tap", "-p", case]).output()?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let end = match ran.status.success() {
            true if text.lines().any(|l| l.starts_with("ok ") && l.contains("# SKIP")) => {
                End::Skipped
            }
            true => End::Passed,
            false => End::Failed,
        };
        out.push((case.to_owned(), end));
    }
    if out.is_empty() {
        out.push(("(its cases cannot be listed)".into(), End::Failed));
    }
    Ok(out)
}
