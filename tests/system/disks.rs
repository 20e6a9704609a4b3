//! A disk under a real guest: Debian's kernel partitions it, makes a file system, writes, reads
//! back; another program then looks at the image. And a power failure while it writes.

use crate::Test;
use crate::bad_input::qemu_img;
use crate::controllers::Kernel;
use crate::cpio::Cpio;
use crate::media;
use crate::program::{Folder, Running, guest, orrery, search_path, shared, tail, tool};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Command;
use std::time::Duration;

/// (name, machine, `-drive` suffix, name in the guest)
const BUSES: &[(&str, &str, &str, &str)] = &[
    ("IDE", "pc", "if=ide", "sda"),
    ("AHCI", "q35", "if=ide", "sda"),
    ("virtio-blk", "pc", "if=virtio", "vda"),
];

/// Kernel modules in the order in which they need each other.
const MODULES: &[&str] = &[
    "crct10dif_common",
    "crct10dif_generic",
    "crc-t10dif",
    "crc64",
    "crc64_rocksoft_generic",
    "crc64-rocksoft",
    "t10-pi",
    "scsi_common",
    "scsi_mod",
    "libata",
    "ata_piix",
    "libahci",
    "ahci",
    "sd_mod",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "crc32c_generic",
    "mbcache",
    "jbd2",
    "ext4",
];

/// Programs and libraries: (guest file, place in the RAM disk).
const PROGRAMS: &[(&str, &str)] = &[
    ("busybox/busybox", "bin/busybox"),
    ("e2fsprogs/mke2fs", "bin/mke2fs"),
    ("libext2fs/libext2fs.so.2", "lib64/libext2fs.so.2"),
    ("libext2fs/libe2p.so.2", "lib64/libe2p.so.2"),
    ("libcom-err/libcom_err.so.2", "lib64/libcom_err.so.2"),
    ("libblkid/libblkid.so.1", "lib64/libblkid.so.1"),
    ("libuuid/libuuid.so.1", "lib64/libuuid.so.1"),
    ("libc/libc.so.6", "lib64/libc.so.6"),
    ("libc/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
];

/// What the guest does; `disk=` and `task=` come with the kernel's command line.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /mnt
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for m in MODULES; do insmod /modules/$m.ko || echo "GUEST: no $m"; done
for word in $(cat /proc/cmdline); do case $word in disk=*|task=*) eval $word ;; esac; done
i=0; while [ ! -b /dev/$disk ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
fail() { echo "GUEST-FAILED $*"; poweroff -f; }
sums() {
    for n in 1 2 3 4 5 6 7 8; do
        [ -f /mnt/d$n/numbers ] && echo "GUEST-FILE d$n/numbers $(md5sum < /mnt/d$n/numbers)"
        echo "GUEST-FILE d$n/far $(dd if=/mnt/d$n/far bs=64k skip=$((n * 500)) 2> /dev/null | md5sum)"
    done
}
make() {
    printf 'n\np\n1\n\n+1500M\nw\n' | fdisk /dev/$disk > /dev/null || fail fdisk
    [ -b /dev/${disk}1 ] || fail no partition
    LD_LIBRARY_PATH=/lib64 /lib64/ld-linux-x86-64.so.2 /bin/mke2fs -q -F -t ext4 /dev/${disk}1 || fail mke2fs
    mount -t ext4 /dev/${disk}1 /mnt || fail mount
}
case $task in
write)
    make
    for n in 1 2 3 4 5 6 7 8; do
        mkdir /mnt/d$n
        seq $((n * 100000)) $((n * 100000 + 30000)) > /mnt/d$n/numbers || fail write
        # A hole in front of it: blocks far from each other.
        dd if=/bin/busybox of=/mnt/d$n/far bs=64k count=8 seek=$((n * 500)) 2> /dev/null || fail dd
    done
    rm /mnt/d3/numbers
    sums > /sums
    umount /mnt || fail umount
    echo 3 > /proc/sys/vm/drop_caches
    mount -t ext4 /dev/${disk}1 /mnt || fail mount again
    sums > /sums.again
    umount /mnt
    cmp -s /sums /sums.again || fail content
    cat /sums
    # Behind the partition, across clusters, and to the disk's very end.
    for at in 3276801 3686390 4194200; do
        seq 1 12000 | dd of=/dev/$disk bs=512 seek=$at count=104 iflag=fullblock conv=notrunc 2> /dev/null
    done
    sync
    echo 3 > /proc/sys/vm/drop_caches
    SUMS
    ;;
power)
    make
    n=0
    while [ $n -lt 1000 ]; do
        n=$((n+1))
        seq $n $((n + 30000)) > /mnt/f$n || fail write
        sync
        echo "GUEST-FLUSHED $n"
    done
    ;;
esac
echo GUEST-DONE
poweroff -f
"#;

/// Checksums of the disk's first part and of what lies behind the partition, a MiB each, in the
/// guest and on the host.
const SUMS: &str = r#"for mib in $(seq 0 9) 1600 1799 1800 2047; do
    echo "GUEST-SUM $mib $(dd if=/dev/$disk bs=1M skip=$mib count=1 2> /dev/null | md5sum)"
done"#;

/// Bytes at the end of a file that are compared: what stands behind the hole of `far`, and all of
/// `numbers`.
const FILE_END: u32 = 524_288;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for &(name, machine, drive, disk) in BUSES {
        let name = format!("disk: partitioned, formatted, written over {name}");
        tests.push(Test::new(&name, 900, move || written(machine, drive, disk)));
    }
    tests.push(Test::new("disk: full under a running guest", 300, full));
    tests.push(Test::new("disk: full, and the guest is told", 300, full_and_reported));
    tests.push(Test::new("disk: power failure while writing", 900, power_failure));
    tests
}

fn initrd() -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for folder in ["bin", "dev", "lib64", "modules"] {
        cpio.folder(folder);
    }
    for (from, to) in PROGRAMS {
        cpio.program(to, &fs::read(guest(from)?)?);
    }
    for module in MODULES {
        let name = format!("{module}.ko");
        cpio.program(
            &format!("modules/{name}"),
            &fs::read(guest(&format!("linux-amd64/{name}"))?)?,
        );
    }
    let init = INIT.replace("MODULES", &MODULES.join(" ")).replace("SUMS", SUMS);
    cpio.program("init", init.as_bytes());
    Ok(cpio.finish())
}

fn start(work: &Folder, machine: &str, drive: &str, disk: &str, task: &str) -> Result<Running> {
    work.write("initrd", initrd()?)?;
    let mut args = Kernel::Amd64.args(machine, &format!("disk={disk} task={task}"))?;
    args.extend(["-drive".into(), format!("file=disk.qcow2,format=qcow2,{drive}")]);
    work.start(&args)
}

fn new_disk() -> Result<Folder> {
    let work = Folder::new()?;
    qemu_img(&work, &["create", "-q", "-f", "qcow2", "disk.qcow2", "2G"])?.success()?;
    Ok(work)
}

fn written(machine: &str, drive: &str, disk: &str) -> Result<()> {
    let work = new_disk()?;
    let said = start(&work, machine, drive, disk, "write")?.wait(850)?.success()?.stdout;
    ensure!(said.contains("GUEST-DONE"), "the guest did not finish:\n{}", tail(&said));
    let check = qemu_img(&work, &["check", "disk.qcow2"])?.success()?;
    ensure!(check.stdout.contains("No errors were found"), "qemu-img check: {}", check.stdout);
    qemu_img(&work, &["convert", "-O", "raw", "disk.qcow2", "disk.raw"])?.success()?;
    let mut reader = Command::new(tool("sh")?);
    reader.args(["-c", &format!("disk=disk.raw; {}", SUMS.replace("/dev/", ""))]);
    let read = work.spawn(reader)?.wait(120)?.success()?.stdout;
    let (guest, ours) = (lines(&said, "GUEST-SUM "), lines(&read, "GUEST-SUM "));
    ensure!(guest == ours, "the guest read {guest:#?}, the converted image holds {ours:#?}");
    let different: BTreeSet<&str> =
        ours.iter().filter_map(|l| l.split_whitespace().nth(1)).collect();
    ensure!(different.len() > 6, "hardly anything was written: {ours:#?}");
    // The file system, as another program finds it, where the partition table says.
    let system = format!("disk.raw?offset={}", partition(&work)?);
    let mut check = Command::new(tool("e2fsck")?);
    check.args(["-f", "-n", &system]);
    work.spawn(check)?.wait(120)?.success().context("e2fsck")?;
    let files = lines(&said, "GUEST-FILE ");
    ensure!(files.len() == 15, "not all files are there: {files:#?}");
    for file in files {
        let (name, sum) = file.split_once(' ').context("a name and a sum")?;
        let mut reader = Command::new(tool("sh")?);
        let cat = format!("debugfs -R 'cat /{name}' '{system}'");
        reader.args(["-c", &format!("{cat} 2> /dev/null | tail -c {FILE_END} | md5sum")]);
        reader.env("PATH", search_path());
        let ours = work.spawn(reader)?.wait(60)?.success()?.stdout;
        ensure!(ours.trim() == sum, "{name}: the guest wrote {sum}, the image holds {ours}");
    }
    Ok(())
}

/// What a power failure leaves at several points of a guest's writing: the program is stopped, its
/// image copied, and at the last point it is killed.
fn power_failure() -> Result<()> {
    const POINTS: u32 = 6;
    let work = new_disk()?;
    let mut guest = start(&work, "pc", "if=virtio", "vda", "power")?;
    let id = guest.id();
    let signal = |name: &str| -> Result<()> {
        let mut kill = Command::new(tool("sh")?);
        let status = kill.args(["-c", &format!("kill -{name} {id}")]).status()?;
        ensure!(status.success(), "kill -{name}");
        Ok(())
    };
    let mut points = Vec::new();
    for n in 1..=POINTS {
        ensure!(guest.wait_for(&format!("GUEST-FLUSHED {n}\r"), 800)?, "ended: {}", said(&work)?);
        // Somewhere in the next file.
        std::thread::sleep(Duration::from_millis(70 * u64::from(n)));
        if n < POINTS {
            signal("STOP")?;
            points.push((numbers(&said(&work)?, "GUEST-FLUSHED "), format!("after{n}.qcow2")));
            fs::copy(work.file("disk.qcow2"), work.file(&format!("after{n}.qcow2")))?;
            signal("CONT")?;
        }
    }
    guest.kill()?;
    points.push((numbers(&said(&work)?, "GUEST-FLUSHED "), "disk.qcow2".into()));
    for (flushed, image) in points {
        survived(&work, &image, flushed).with_context(|| format!("{image}: {flushed} flushed"))?;
    }
    Ok(())
}

/// The image has at most leaks, and what the guest flushed is in it.
fn survived(work: &Folder, image: &str, flushed: u32) -> Result<()> {
    // 0: nothing found; 3: leaked clusters, no errors.
    let check = qemu_img(work, &["check", image])?;
    let code = check.status.code();
    ensure!(matches!(code, Some(0 | 3)), "qemu-img check: {}{}", check.stdout, check.stderr);
    qemu_img(work, &["convert", "-O", "raw", image, "disk.raw"])?.success()?;
    // On its own: e2fsck loses the offset when it opens the file system again after the journal.
    let start = partition(work)? / 512;
    let mut cut = Command::new(tool("dd")?);
    cut.args(["if=disk.raw", "of=part.raw", "conv=sparse", &format!("skip={start}")]);
    work.spawn(cut)?.wait(120)?.success()?;
    // 0: nothing to do; 1: the journal was played back.
    let mut replay = Command::new(tool("e2fsck")?);
    replay.args(["-f", "-p", "part.raw"]);
    let replay = work.spawn(replay)?.wait(120)?;
    ensure!(matches!(replay.status.code(), Some(0 | 1)), "e2fsck: {}", replay.stdout);
    for n in 1..=flushed {
        let mut reader = Command::new(tool("sh")?);
        let cat = format!("debugfs -R 'cat /f{n}' part.raw 2> /dev/null");
        reader.args(["-c", &format!("seq {n} $(({n} + 30000)) > want; {cat} | cmp - want")]);
        reader.env("PATH", search_path());
        work.spawn(reader)?.wait(60)?.success().with_context(|| format!("f{n}"))?;
    }
    Ok(())
}

/// Where the first partition of `disk.raw` begins, in bytes.
fn partition(work: &Folder) -> Result<u64> {
    let table = read_at(work, "disk.raw", 0x1c6, 4)?;
    Ok(512 * u64::from(u32::from_le_bytes(table.try_into().unwrap_or_default())))
}

/// A disk on which FreeDOS copies a file, and what it is started with when the host has no room
/// for the copy. `then`: the script after the copy was asked for.
fn full_disk(work: &Folder, options: &str, then: &str) -> Result<Command> {
    let floppy = fs::read(shared("guests/x86/freedos722.img")?)?;
    work.write("disk.raw", media::hard_disk(&floppy))?;
    // Whatever is written takes new room.
    let over = ["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "disk.qcow2"];
    qemu_img(work, &over)?.success()?;
    let start = media::FREEDOS.replace("quit 0\n", "type \"del VIM.EXE\\n\"\nwait 2\n");
    let copy = "type \"copy COMMAND.COM K1\\n\"\n";
    work.write("script.txt", format!("{start}{copy}{then}print text\nquit 0\n"))?;
    // A limit on the size of files does what a full disk does; 1 KiB a block.
    let blocks = fs::metadata(work.file("disk.qcow2"))?.len() / 1024 + 128;
    let line = format!(
        "trap '' XFSZ; ulimit -S -f {blocks}; exec '{}' -display none -L '{}' -M pc -m 16 -icount 5 \
         -drive file=disk.qcow2,format=qcow2{options} -script script.txt",
        orrery()?.display(),
        guest("firmware")?.display()
    );
    let mut command = Command::new(tool("bash")?);
    command.args(["-c", &line]);
    Ok(command)
}

/// With `werror=report` the machine goes on, and DOS asks what to do.
fn full_and_reported() -> Result<()> {
    let work = Folder::new()?;
    let command = full_disk(&work, ",werror=report", "wait-screen \"riting\"\n")?;
    work.spawn(command)?.wait(200)?.success()?;
    let check = qemu_img(&work, &["check", "disk.qcow2"])?;
    // 0: nothing found; 3: leaked clusters, no errors.
    let code = check.status.code();
    ensure!(matches!(code, Some(0 | 3)), "qemu-img check: {}{}", check.stdout, check.stderr);
    Ok(())
}

/// FreeDOS copies a file until the host has no room: the machine waits, and goes on when there is.
fn full() -> Result<()> {
    let work = Folder::new()?;
    let command = full_disk(&work, "", "wait 3\n")?;
    let mut running = work.spawn(command)?;
    let told = running.wait_for_error("no space", 90)?;
    ensure!(told, "it ended without a word: {}", said(&work)?);
    let mut room = Command::new(tool("prlimit")?);
    let id = running.id().to_string();
    room.args(["--pid", &id, "--fsize=unlimited:unlimited"]);
    ensure!(room.status()?.success(), "prlimit");
    let said = running.wait(200)?.success()?.stdout;
    let check = qemu_img(&work, &["check", "disk.qcow2"])?.success()?;
    ensure!(check.stdout.contains("No errors were found"), "qemu-img check: {}", check.stdout);
    qemu_img(&work, &["convert", "-O", "raw", "disk.qcow2", "after.raw"])?.success()?;
    let (before, after) = (fs::read(work.file("disk.raw"))?, fs::read(work.file("after.raw"))?);
    let program = before.windows(6).position(|w| w == b"MZ;\x01P\0").context("COMMAND.COM")?;
    let program = &before[program..program + 66_090];
    let copies = after.chunks(512).enumerate();
    let copies = copies.filter(|(i, _)| after[i * 512..].starts_with(program)).count();
    ensure!(copies == 2, "{copies} whole COMMAND.COM are there:\n{said}");
    Ok(())
}

fn read_at(work: &Folder, name: &str, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut file = fs::File::open(work.file(name))?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; len];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The lines behind a mark.
fn lines<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    text.lines().filter_map(|l| l.strip_prefix(mark)).map(str::trim).collect()
}

fn said(work: &Folder) -> Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(work.file("stdout"))?).into_owned())
}

/// The last number behind a mark.
fn numbers(text: &str, mark: &str) -> u32 {
    let number = |l: &str| l.split_once(mark)?.1.trim().parse().ok();
    text.lines().filter_map(number).max().unwrap_or(0)
}
