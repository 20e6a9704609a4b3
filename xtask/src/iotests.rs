//! `./x iotests TREE [FORMAT..]`: QEMU's own image tests, unmodified, with our tools in the place of
//! QEMU's.
//!
//! TREE is a source tree of QEMU. Its licence keeps it out of the project; a distribution's source
//! package has it. Tests that need a machine emulator, a server or a daemon that is not there count
//! as not run.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names under which the test suite looks for its programs.
const TOOLS: [(&str, &str); 4] = [
    ("QEMU_IMG_PROG", "qemu-img"),
    ("QEMU_IO_PROG", "qemu-io"),
    ("QEMU_NBD_PROG", "qemu-nbd"),
    ("QSD_PROG", "qemu-storage-daemon"),
];

/// What stands in for the emulator: it knows every driver and runs nothing.
const STUB: &str = "#!/bin/sh
case \"$*\" in
  *'-machine help'*) printf 'Supported machines are:\\nnone                 empty machine (default)\\n' ;;
  *'-drive format='*) echo 'Supported formats: blkdebug blklogwrites blkverify bochs cloop compress copy-before-write copy-on-read dmg file host_device luks nbd null-aio null-co parallels preallocate qcow qcow2 qed quorum raw snapshot-access throttle vdi vhdx vmdk vpc' ;;
  *) echo 'there is no emulator here' >&2; exit 1 ;;
esac
";

/// Runs the suite for each format, and says how many tests passed.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some((tree, rest)) = args.split_first() else {
        bail!("usage: ./x iotests TREE [FORMAT..] [-- TEST..]")
    };
    let split = rest.iter().position(|arg| arg == "--").unwrap_or(rest.len());
    let (formats, tests) = (&rest[..split], rest.get(split + 1..).unwrap_or_default());
    let tree = fs::canonicalize(tree).with_context(|| format!("no folder '{tree}'"))?;
    let suite = tree.join("tests/qemu-iotests/check");
    if !suite.exists() {
        bail!("'{}' has no tests/qemu-iotests", tree.display());
    }
    shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
    let program = fs::canonicalize(PathBuf::from(shell::target()).join("release/orrery"))?;
    let work = std::env::temp_dir().join(format!("orrery-iotests-{}", std::process::id()));
    let build = work.join("build/tests/qemu-iotests");
    let scratch = work.join("scratch");
    // The suite's filters tell the two apart by their names.
    let sockets = work.join("sockets");
    for folder in [&build, &scratch, &sockets] {
        fs::create_dir_all(folder)?;
    }
    link(&suite, &build.join("check"))?;
    let mut variables = BTreeMap::from([
        ("PYTHON", PathBuf::from("python3")),
        ("TEST_DIR", scratch.clone()),
        ("SOCK_DIR", sockets),
        ("QEMU_PROG", work.join("qemu")),
    ]);
    for (variable, name) in TOOLS {
        link(&program, &work.join(name))?;
        variables.insert(variable, work.join(name));
    }
    fs::write(work.join("qemu"), STUB)?;
    shell::make_executable(&work.join("qemu"))?;
    let raw = ["raw".to_owned(), "qcow2".to_owned()];
    let formats = if formats.is_empty() { &raw[..] } else { formats };
    for format in formats {
        let output = Command::new(build.join("check"))
            .arg(format!("-{format}"))
            .args(tests)
            .current_dir(&build)
            .envs(&variables)
            .output()
            .context("the suite cannot be started")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(format!("{}/iotests-{format}.txt", shell::target()), &text)?;
        let verdict = |word: &str| {
            text.lines().filter(|line| line.split_whitespace().any(|w| w == word)).count()
        };
        println!(
            "{format}: {} pass, {} fail; the record is {}/iotests-{format}.txt",
            verdict("pass"),
            verdict("fail"),
            shell::target()
        );
    }
    fs::remove_dir_all(&work).context("the scratch folder stays")
}

#[cfg(unix)]
pub(crate) fn link(from: &Path, to: &Path) -> Result<()> {
    std::os::unix::fs::symlink(from, to).with_context(|| format!("cannot link {}", to.display()))
}

#[cfg(unix)]
#[cfg(not(unix))]
pub(crate) fn link(_from: &Path, _to: &Path) -> Result<()> {
    bail!("the suite needs a Unix host")
}
