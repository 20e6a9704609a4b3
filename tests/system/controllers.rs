//! Storage controllers under Debian's kernel, all on one machine: each has a disk of its own size, which the guest
//! finds by that, writes, and reads back past its cache; then the images are compared with what it should have written.

use crate::Test;
use crate::cpio::Cpio;
use crate::program::{Folder, guest, tail};
use anyhow::{Result, ensure};
use std::fmt::Write as _;
use std::fs;

/// A controller: its name, how it is asked for where its disk is `DISK`, and its driver's modules.
struct Controller {
    name: &'static str,
    args: &'static [&'static str],
    modules: &'static [&'static str],
}

const CONTROLLERS: &[Controller] = &[
    Controller {
        name: "virtio-scsi-pci",
        args: &["virtio-scsi-pci,id=vs", "scsi-hd,bus=vs.0,drive=DISK"],
        modules: &["virtio_scsi"],
    },
    Controller {
        name: "nvme",
        args: &["nvme,drive=DISK,serial=nv"],
        modules: &["nvme-core", "nvme"],
    },
    Controller {
        name: "lsi53c895a",
        args: &["lsi53c895a,id=lsi", "scsi-hd,bus=lsi.0,scsi-id=3,drive=DISK"],
        modules: &["scsi_transport_spi", "sym53c8xx"],
    },
    Controller {
        name: "pvscsi",
        args: &["pvscsi,id=pv", "scsi-hd,bus=pv.0,drive=DISK"],
        modules: &["vmw_pvscsi"],
    },
];

/// Modules that all need, in the order in which they need each other.
const COMMON: &[&str] = &[
    "crct10dif_common",
    "crct10dif_generic",
    "crc-t10dif",
    "crc64",
    "crc64_rocksoft_generic",
    "crc64-rocksoft",
    "t10-pi",
    "scsi_common",
    "scsi_mod",
    "sd_mod",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
];

/// What the guest does: `SIZES` are the disks' sizes in blocks.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for m in MODULES; do insmod /modules/$m.ko || echo "GUEST-FAILED no $m"; done
find() {
    for try in $(seq 1 100); do
        for d in /sys/block/*; do
            [ "$(cat $d/size)" = $1 ] && disk=${d##*/} && [ -b /dev/$disk ] && return
        done
        sleep 0.2
    done
    echo "GUEST-FAILED no disk of $1 blocks"
    poweroff -f
}
numbers() { seq $1 $(($1 + 300000)); }
for size in SIZES; do
    find $size
    numbers $size | dd of=/dev/$disk bs=64k count=24 iflag=fullblock conv=fsync 2> /dev/null || echo "GUEST-FAILED write $disk"
    numbers $size | dd of=/dev/$disk bs=512 seek=5001 count=33 iflag=fullblock conv=fsync 2> /dev/null || echo "GUEST-FAILED write $disk"
    echo 3 > /proc/sys/vm/drop_caches
    numbers $size | dd bs=64k count=24 iflag=fullblock 2> /dev/null > /want
    dd if=/dev/$disk bs=64k count=24 2> /dev/null | cmp - /want || echo "GUEST-FAILED compare $disk"
    echo "GUEST-DISK $size $disk"
done
dmesg -r | grep '^<[0-3]>' | sed 's/^/GUEST-ERROR /'
echo GUEST-DONE
poweroff -f
"#;

/// Where the second write goes, and how long it is.
const FAR: (usize, usize) = (5001 * 512, 33 * 512);
const NEAR: usize = 24 * 0x1_0000;

/// All of them, on either board.
pub(crate) fn tests() -> Vec<Test> {
    let on = |machine: &'static str| {
        Test::new(&format!("controllers: each with a disk on {machine}"), 600, move || {
            written(machine)
        })
    };
    vec![on("pc"), on("q35")]
}

fn blocks(n: usize) -> u64 {
    (8 + n as u64) * 2048
}

/// The first `len` bytes of the numbers from `n` on, one a line.
fn numbers(n: u64, len: usize) -> Vec<u8> {
    let mut text = String::with_capacity(len + 8);
    for i in n.. {
        if text.len() >= len {
            break;
        }
        let _ = writeln!(text, "{i}");
    }
    text.truncate(len);
    text.into_bytes()
}

fn written(machine: &str) -> Result<()> {
    let work = Folder::new()?;
    let mut modules = COMMON.to_vec();
    let mut args = Vec::new();
    for (n, controller) in CONTROLLERS.iter().enumerate() {
        modules.extend(controller.modules);
        let file = format!("{}.raw", controller.name);
        fs::File::create(work.file(&file))?.set_len(blocks(n) * 512)?;
        let id = format!("disk{n}");
        args.extend(["-drive".into(), format!("file={file},format=raw,if=none,id={id}")]);
        for arg in controller.args {
            args.extend(["-device".into(), arg.replace("DISK", &id)]);
        }
    }
    work.write("initrd", initrd(&modules)?)?;
    let path = |name: &str| Ok::<_, anyhow::Error>(guest(name)?.to_string_lossy().into_owned());
    let (kernel, firmware) = (path("linux-amd64/vmlinuz")?, path("firmware")?);
    let usual = [
        "-M",
        machine,
        "-m",
        "256",
        "-display",
        "none",
        "-L",
        &firmware,
        "-no-reboot",
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
    ];
    args.splice(0..0, usual.map(String::from));
    let said = work.start(&args)?.wait(580)?.success()?.stdout;
    ensure!(said.contains("GUEST-DONE"), "the guest did not finish:\n{}", tail(&said));
    for bad in ["GUEST-FAILED", "GUEST-ERROR"] {
        ensure!(!said.contains(bad), "{bad}:\n{}", tail(&said));
    }
    for (n, controller) in CONTROLLERS.iter().enumerate() {
        let image = fs::read(work.file(&format!("{}.raw", controller.name)))?;
        let mut want = numbers(blocks(n), NEAR);
        let (at, len) = FAR;
        want.resize(at, 0);
        want.extend(numbers(blocks(n), len));
        want.resize(image.len(), 0);
        ensure!(image == want, "{}: its disk holds something else", controller.name);
    }
    Ok(())
}

fn initrd(modules: &[&str]) -> Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for folder in ["bin", "dev", "modules"] {
        cpio.folder(folder);
    }
    cpio.program("bin/busybox", &fs::read(guest("busybox/busybox")?)?);
    for module in modules {
        let name = format!("{module}.ko");
        let file = guest(&format!("linux-amd64/{name}"))?;
        cpio.program(&format!("modules/{name}"), &fs::read(file)?);
    }
    let sizes: Vec<String> = (0..CONTROLLERS.len()).map(|n| blocks(n).to_string()).collect();
    let init = INIT.replace("MODULES", &modules.join(" ")).replace("SIZES", &sizes.join(" "));
    cpio.program("init", init.as_bytes());
    Ok(cpio.finish())
}
