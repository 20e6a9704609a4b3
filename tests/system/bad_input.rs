//! What cannot be done is refused: one line on standard error, exit status 1, nothing half-written.

use crate::Test;
use crate::program::{Folder, Output, guest, tool};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::process::Command;

/// (name, arguments, what the message must name)
const REFUSED: &[(&str, &[&str], &[&str])] = &[
    ("missing disk", &["-hda", "no-such.img"], &["no-such.img"]),
    ("missing floppy", &["-fda", "no-such.img"], &["no-such.img"]),
    ("missing CD", &["-cdrom", "no-such.iso"], &["no-such.iso"]),
    ("missing kernel", &["-kernel", "no-such"], &["-kernel", "no-such"]),
    ("missing initrd", &["-kernel", "zeros", "-initrd", "no-such"], &["-initrd", "no-such"]),
    ("missing firmware", &["-bios", "no-such.bin"], &["-bios", "no-such.bin"]),
    ("missing flash", &["-pflash", "no-such.fd"], &["no-such.fd"]),
    ("missing snapshot", &["-loadvm", "no-such.orry"], &["-loadvm", "no-such.orry"]),
    ("missing script", &["-script", "no-such.txt"], &["-script", "no-such.txt"]),
    ("unknown option", &["-kernal", "x"], &["-kernal", "did you mean '-kernel'"]),
    ("unknown machine", &["-M", "q36"], &["q36", "did you mean 'q35'"]),
    ("unknown CPU", &["-cpu", "pentium9"], &["pentium9"]),
    ("unknown CPU feature", &["-cpu", "max,+warp"], &["warp"]),
    ("unknown device", &["-device", "no-such-device"], &["no-such-device"]),
    ("unknown display adapter", &["-vga", "no-such"], &["no-such"]),
    ("unknown network card", &["-nic", "user,model=no-such"], &["no-such"]),
    ("unknown network", &["-nic", "usr"], &["-nic", "usr"]),
    ("network that is not there yet", &["-netdev", "tap,id=n"], &["-netdev", "tap"]),
    ("network nobody made", &["-device", "e1000,netdev=n0"], &["e1000", "n0"]),
    ("network address that is none", &["-nic", "user,net=10.0.2"], &["net", "10.0.2"]),
    ("port forward, not there yet", &["-nic", "user,hostfwd=tcp::1-:1"], &["hostfwd"]),
    ("hardware address of a group", &["-device", "e1000,mac=ff:ff:ff:ff:ff:ff"], &["ff:ff"]),
    ("unknown drive property", &["-drive", "file=zeros,flie=x"], &["flie"]),
    ("unknown drive interface", &["-drive", "file=zeros,if=mfm"], &["mfm"]),
    ("unknown image format", &["-drive", "file=zeros,format=qcow9"], &["qcow9"]),
    ("unknown chardev", &["-serial", "chardev:no-such"], &["no-such"]),
    ("option without value", &["-m"], &["-m"]),
    ("unknown log item", &["-d", "in_asm,bogus"], &["-d", "bogus", "out_asm"]),
    ("log of no addresses", &["-dfilter", "0x1000"], &["-dfilter", "0x1000.."]),
    ("log into a folder that is not there", &["-d", "int", "-D", "no/such"], &["-D", "no/such"]),
    ("no memory", &["-m", "0"], &["-m"]),
    ("memory that is no size", &["-m", "lots"], &["-m", "lots"]),
    ("too many CPUs", &["-smp", "99"], &["-smp", "99"]),
    ("too many CPUs for the machine", &["-M", "isapc", "-smp", "2"], &["isapc"]),
    ("append without kernel", &["-append", "x"], &["-append"]),
    ("kernel of zeros", &["-kernel", "zeros"], &["zeros"]),
    ("kernel of text", &["-kernel", "text"], &["text"]),
    ("empty kernel", &["-kernel", "empty"], &["empty"]),
    ("folder as disk", &["-hda", "folder"], &["folder"]),
    ("folder as kernel", &["-kernel", "folder"], &["folder"]),
    ("folder as firmware", &["-bios", "folder"], &["folder"]),
    ("empty firmware", &["-bios", "empty"], &["empty"]),
    ("raw file said to be qcow2", &["-drive", "file=zeros,format=qcow2"], &["zeros"]),
    ("snapshot that is none", &["-loadvm", "text"], &["-loadvm", "text"]),
    ("script with an unknown command", &["-script", "text"], &["-script", "text"]),
    ("serial line to a folder that is not there", &["-serial", "file:no/such"], &["no/such"]),
];

/// All of the matrix.
pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = REFUSED
        .iter()
        .map(|&(name, args, says)| {
            Test::new(&format!("refused: {name}"), 20, move || {
                let work = folder()?;
                refused(&work, args, says)
            })
        })
        .collect();
    tests.push(Test::new("refused: truncated qcow2", 30, truncated_qcow2));
    tests.push(Test::new("refused: qcow2 whose backing file is missing", 30, missing_backing));
    tests.push(Test::new("refused: image in use", 30, image_in_use));
    tests.push(Test::new("refused: file without permission to write", 20, read_only_file));
    tests.push(Test::new("refused: full disk for a snapshot", 60, full_disk));
    tests
}

fn folder() -> Result<Folder> {
    guest("firmware")?;
    let work = Folder::new()?;
    work.write("zeros", vec![0; 65536])?;
    work.write("text", "This is no kernel, no snapshot and no script.\n".repeat(400))?;
    work.write("empty", "")?;
    fs::create_dir(work.file("folder"))?;
    Ok(work)
}

fn refused(work: &Folder, args: &[&str], says: &[&str]) -> Result<()> {
    let before = listing(work)?;
    let output = work.orrery(args, 15)?;
    one_error(&output, says)?;
    ensure!(listing(work)? == before, "it left or changed files");
    Ok(())
}

fn one_error(output: &Output, says: &[&str]) -> Result<()> {
    let Output { status, stderr, stdout } = output;
    ensure!(status.code() == Some(1), "{status} instead of exit status 1; stderr: {stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    ensure!(lines.len() == 1, "{} lines instead of one:\n{stderr}", lines.len());
    ensure!(lines[0].starts_with("orrery: "), "'{}' does not say who speaks", lines[0]);
    for word in says {
        ensure!(lines[0].contains(word), "'{}' does not name '{word}'", lines[0]);
    }
    ensure!(!lines[0].contains("panicked"), "a panic: {}", lines[0]);
    ensure!(stdout.is_empty(), "it said on standard output: {stdout}");
    Ok(())
}

/// Names and contents, but for what the program under test prints.
fn listing(work: &Folder) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(work.path())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && name != "stdout" && name != "stderr" {
            all.push((name, fs::read(entry.path())?));
        }
    }
    all.sort();
    Ok(all)
}

/// Runs qemu-img in a test's folder.
pub(crate) fn qemu_img(work: &Folder, args: &[&str]) -> Result<Output> {
    let mut command = Command::new(tool("qemu-img")?);
    command.args(args);
    work.spawn(command)?.wait(300)
}

fn truncated_qcow2() -> Result<()> {
    let work = folder()?;
    qemu_img(&work, &["create", "-q", "-f", "qcow2", "whole.qcow2", "64M"])?.success()?;
    let whole = fs::read(work.file("whole.qcow2"))?;
    // Inside the header, and before the first table.
    for n in [4, 20, 71, 103] {
        work.write("cut.qcow2", &whole[..n.min(whole.len())])?;
        refused(&work, &["-drive", "file=cut.qcow2,format=qcow2"], &["cut.qcow2"])
            .with_context(|| format!("cut after {n} bytes"))?;
    }
    work.write("cut.qcow2", &whole[..65536 + 100])?;
    refused(&work, &["-hda", "cut.qcow2"], &["cut.qcow2"]).context("cut in its tables")
}

fn missing_backing() -> Result<()> {
    let work = folder()?;
    let args =
        ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "gone.img", "top.qcow2", "1M"];
    qemu_img(&work, &args)?.success()?;
    refused(&work, &["-hda", "top.qcow2"], &["top.qcow2", "gone.img"])
}

fn image_in_use() -> Result<()> {
    let work = folder()?;
    let second = Folder::new()?;
    let image = work.file("zeros").to_string_lossy().into_owned();
    let firmware = guest("firmware")?.to_string_lossy().into_owned();
    work.write("wait.txt", "print icount\nwait 60\n")?;
    let drive = format!("file={image},format=raw");
    let args = ["-display", "none", "-L", &firmware, "-drive", &drive, "-script", "wait.txt"];
    let mut first = work.start(&args.map(String::from))?;
    ensure!(first.wait_for("icount", 15)?, "the first did not start");
    let output = second.orrery(&["-drive", &drive], 15)?;
    one_error(&output, &["zeros"])
}

fn read_only_file() -> Result<()> {
    let work = folder()?;
    let mut mode = fs::metadata(work.file("zeros"))?.permissions();
    mode.set_readonly(true);
    fs::set_permissions(work.file("zeros"), mode)?;
    // The superuser may write to it all the same.
    if fs::OpenOptions::new().write(true).open(work.file("zeros")).is_ok() {
        return refused(&work, &["-drive", "file=/proc/version,format=raw"], &["/proc/version"]);
    }
    refused(&work, &["-drive", "file=zeros,format=raw"], &["zeros"])
}

/// A snapshot that does not fit: the host says so, and no piece of it stays.
fn full_disk() -> Result<()> {
    let work = folder()?;
    work.write("save.txt", "wait 0.5\nsavevm state.orry\nquit 0\n")?;
    let shell = tool("sh")?;
    let orrery = crate::program::orrery()?;
    let firmware = guest("firmware")?;
    // A limit on the size of files does what a full disk does, without one. It would also take the memory for compiled code away.
    let line = format!(
        "trap '' XFSZ; ulimit -f 8; exec '{}' -accel interp -display none -L '{}' -m 16 -icount 5 -script save.txt",
        orrery.display(),
        firmware.display()
    );
    let mut command = Command::new(shell);
    command.args(["-c", &line]);
    let output = work.spawn(command)?.wait(50)?;
    one_error(&output, &["state.orry"])?;
    for name in ["state.orry", "state.orry.part"] {
        ensure!(!work.file(name).exists(), "a piece of the snapshot was left behind: {name}");
    }
    Ok(())
}
