//! Storage controllers under Debian's kernels, all on one machine: each has a disk of its own size, which the guest
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
    Controller {
        name: "piix3-usb-uhci",
        args: &["piix3-usb-uhci,id=u", "usb-storage,bus=u.0,drive=DISK"],
        modules: &["usb-common", "usbcore", "uhci-hcd", "usb-storage"],
    },
    Controller {
        name: "pci-ohci",
        args: &["pci-ohci,id=o", "usb-storage,bus=o.0,drive=DISK"],
        modules: &["ohci-hcd", "ohci-pci"],
    },
    Controller {
        name: "usb-ehci",
        args: &["usb-ehci,id=e", "usb-storage,bus=e.0,drive=DISK"],
        modules: &["ehci-hcd", "ehci-pci"],
    },
    Controller {
        name: "usb-uas",
        args: &["usb-uas,id=uas,bus=e.0", "scsi-hd,bus=uas.0,drive=DISK"],
        modules: &["uas"],
    },
    Controller {
        name: "qemu-xhci",
        args: &["qemu-xhci,id=x", "usb-storage,bus=x.0,drive=DISK"],
        modules: &["xhci-hcd", "xhci-pci"],
    },
];

/// Modules that SCSI disks and virtio need, in the order in which they need each other.
pub(crate) const COMMON: &[&str] = &[
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

/// What every guest here begins with: its modules, and functions for disks, which are told apart by their blocks.
const BEGIN: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for m in MODULES; do insmod /modules/$m.ko || echo "GUEST-FAILED no $m"; done
find() {
    for try in $(seq 1 150); do
        for d in /sys/block/*; do
            [ "$(cat $d/size 2> /dev/null)" = $1 ] && disk=${d##*/} && [ -b /dev/$disk ] && return
        done
        sleep 0.2
    done
    echo "GUEST-FAILED no disk of $1 blocks"
    poweroff -f
}
numbers() { seq $1 $(($1 + 300000)); }
work() {
    find $1
    numbers $1 | dd of=/dev/$disk bs=64k count=16 iflag=fullblock conv=fsync 2> /dev/null || echo "GUEST-FAILED write $disk"
    numbers $1 | dd of=/dev/$disk bs=512 seek=5001 count=33 iflag=fullblock conv=fsync 2> /dev/null || echo "GUEST-FAILED write $disk"
    echo 3 > /proc/sys/vm/drop_caches
    numbers $1 | dd bs=64k count=16 iflag=fullblock 2> /dev/null > /want
    dd if=/dev/$disk bs=64k count=16 2> /dev/null | cmp - /want || echo "GUEST-FAILED compare $disk"
    echo "GUEST-DISK $1 $disk"
}
"#;

/// The rest of it: `SIZES` are the disks' sizes in blocks.
const INIT: &str = r#"
for size in SIZES; do work $size; done
dmesg -r | grep '^<[0-3]>' | sed 's/^/GUEST-ERROR /'
echo GUEST-DONE
poweroff -f
"#;

/// Where the second write goes, and how long it is.
const FAR: (usize, usize) = (5001 * 512, 33 * 512);
const NEAR: usize = 16 * 0x1_0000;

/// A kernel, and the programs that run on it.
#[derive(Clone, Copy)]
pub(crate) enum Kernel {
    I386,
    Amd64,
}

impl Kernel {
    const fn folders(self) -> [&'static str; 2] {
        match self {
            Self::I386 => ["linux-i386", "busybox-i386"],
            Self::Amd64 => ["linux-amd64", "busybox"],
        }
    }

    /// A RAM disk with `modules`, which does `init` after what all do.
    pub(crate) fn initrd(self, modules: &[&str], init: &str) -> Result<Vec<u8>> {
        let [linux, programs] = self.folders();
        let mut cpio = Cpio::default();
        for folder in ["bin", "dev", "modules"] {
            cpio.folder(folder);
        }
        cpio.program("bin/busybox", &fs::read(guest(&format!("{programs}/busybox"))?)?);
        for module in modules {
            let file = guest(&format!("{linux}/{module}.ko"))?;
            cpio.program(&format!("modules/{module}.ko"), &fs::read(file)?);
        }
        let init = BEGIN.replace("MODULES", &modules.join(" ")) + init;
        cpio.program("init", init.as_bytes());
        Ok(cpio.finish())
    }

    /// How it is started on a machine, with the RAM disk `initrd` and more words for the kernel.
    pub(crate) fn args(self, machine: &str, words: &str) -> Result<Vec<String>> {
        let append = format!("console=ttyS0 panic=-1 {words}");
        let path = |name: &str| Ok::<_, anyhow::Error>(guest(name)?.to_string_lossy().into_owned());
        let (kernel, firmware) =
            (path(&format!("{}/vmlinuz", self.folders()[0]))?, path("firmware")?);
        let args = [
            "-M",
            machine,
            "-m",
            "256",
            "-display",
            "none",
            "-L",
            &firmware,
            "-no-reboot",
            // Deterministic, as fast as a machine of the time: the host's load changes nothing.
            "-icount",
            "2",
            "-serial",
            "stdio",
            "-kernel",
            &kernel,
            "-initrd",
            "initrd",
            "-append",
            append.trim_end(),
        ];
        Ok(args.map(String::from).into())
    }
}

/// All of them, on either board and with either kernel.
pub(crate) fn tests() -> Vec<Test> {
    let on = |name: &str, machine: &'static str, kernel: Kernel| {
        let name = format!("controllers: each with a disk, {name} on {machine}");
        Test::new(&name, 300, move || written(machine, kernel))
    };
    let starts = Test::new("controllers: SeaBIOS starts from a disk on each", 120, started);
    vec![on("i386", "pc", Kernel::I386), on("amd64", "q35", Kernel::Amd64), starts]
}

/// A boot sector that reads the next one through the BIOS and prints what stands there on the serial line.
#[rustfmt::skip]
const BOOT: &[u8] = &[
    // xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 7c00h; mov si, packet; mov ah, 42h; int 13h; jc end
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xbe, 0x24, 0x7c, 0xb4, 0x42, 0xcd, 0x13, 0x72, 0x0f,
    // mov si, 8000h; cld; next: lodsb; test al, al; jz end; mov dx, 3f8h; out dx, al; jmp next; end: hlt; jmp end
    0xbe, 0x00, 0x80, 0xfc, 0xac, 0x84, 0xc0, 0x74, 0x06, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xf5, 0xf4, 0xeb, 0xfd,
    // packet: one block, block 1, to 0:8000h
    0x10, 0, 1, 0, 0x00, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
];

fn started() -> Result<()> {
    for controller in CONTROLLERS {
        let work = Folder::new()?;
        let text = format!("started from {}", controller.name);
        let mut disk = BOOT.to_vec();
        disk.resize(510, 0);
        disk.extend([0x55, 0xaa]);
        disk.extend(text.bytes());
        disk.resize(1 << 20, 0);
        work.write("disk.raw", disk)?;
        let script = format!("within 60\nwait-serial \"{text}\"\nquit 0\n");
        work.write("script.txt", script)?;
        let mut args = vec!["-M", "pc", "-m", "64", "-icount", "2", "-serial", "stdio"];
        args.extend(["-script", "script.txt"]);
        args.extend(["-drive", "file=disk.raw,format=raw,if=none,id=disk"]);
        let devices: Vec<String> =
            controller.args.iter().map(|arg| arg.replace("DISK", "disk")).collect();
        // What shares another one's controller brings it along.
        if controller.name == "usb-uas" {
            args.extend(["-device", "usb-ehci,id=e"]);
        }
        args.extend(devices.iter().flat_map(|d| ["-device", d.as_str()]));
        let end = work.orrery(&args, 100)?;
        ensure!(end.stdout.contains(&text), "{}: {}{}", controller.name, end.stdout, end.stderr);
    }
    Ok(())
}

/// The size of disk `n`.
pub(crate) fn blocks(n: usize) -> u64 {
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

/// An image as it is when the guest worked on disk `n`.
pub(crate) fn is_worked_on(n: usize, image: &[u8]) -> bool {
    let mut want = numbers(blocks(n), NEAR);
    let (at, len) = FAR;
    want.resize(at, 0);
    want.extend(numbers(blocks(n), len));
    want.resize(image.len(), 0);
    image == want
}

/// What a guest said, if it finished and nothing failed.
pub(crate) fn finished(said: String) -> Result<String> {
    ensure!(said.contains("GUEST-DONE"), "the guest did not finish:\n{}", tail(&said));
    for bad in ["GUEST-FAILED", "GUEST-ERROR", "Call Trace"] {
        ensure!(!said.contains(bad), "{bad}:\n{}", tail(&said));
    }
    Ok(said)
}

fn written(machine: &str, kernel: Kernel) -> Result<()> {
    let work = Folder::new()?;
    let mut modules = COMMON.to_vec();
    let mut args = kernel.args(machine, "")?;
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
    let sizes: Vec<String> = (0..CONTROLLERS.len()).map(|n| blocks(n).to_string()).collect();
    work.write("initrd", kernel.initrd(&modules, &INIT.replace("SIZES", &sizes.join(" ")))?)?;
    finished(work.start(&args)?.wait(280)?.success()?.stdout)?;
    for (n, controller) in CONTROLLERS.iter().enumerate() {
        let image = fs::read(work.file(&format!("{}.raw", controller.name)))?;
        ensure!(is_worked_on(n, &image), "{}: its disk holds something else", controller.name);
    }
    Ok(())
}
