//! Guest systems from distribution packages, into `guests/`. Never committed.
//!
//! Packages come through a private state of apt, so neither root nor a change of the host's
//! configuration is needed. They are Debian 12's whatever the host is.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A guest: a package and the files wanted of it.
struct Guest {
    name: &'static str,
    package: &'static str,
    /// (path in the package, name in `guests/NAME/`). A path `*/name` is a file of that name or
    /// beginning anywhere in the package.
    files: &'static [(&'static str, &'static str)],
}

/// Debian's kernel and the modules that tests load.
const LINUX: &[(&str, &str)] = &[
    ("*/vmlinuz-", "vmlinuz"),
    ("*/scsi_common.ko", "scsi_common.ko"),
    ("*/scsi_mod.ko", "scsi_mod.ko"),
    ("*/libata.ko", "libata.ko"),
    ("*/ata_piix.ko", "ata_piix.ko"),
    ("*/libahci.ko", "libahci.ko"),
    ("*/ahci.ko", "ahci.ko"),
    ("*/crct10dif_common.ko", "crct10dif_common.ko"),
    ("*/crct10dif_generic.ko", "crct10dif_generic.ko"),
    ("*/crc-t10dif.ko", "crc-t10dif.ko"),
    ("*/crc64.ko", "crc64.ko"),
    ("*/crc64-rocksoft.ko", "crc64-rocksoft.ko"),
    ("*/crc64_rocksoft_generic.ko", "crc64_rocksoft_generic.ko"),
    ("*/t10-pi.ko", "t10-pi.ko"),
    ("*/sd_mod.ko", "sd_mod.ko"),
    ("*/virtio.ko", "virtio.ko"),
    ("*/virtio_ring.ko", "virtio_ring.ko"),
    ("*/virtio_pci_legacy_dev.ko", "virtio_pci_legacy_dev.ko"),
    ("*/virtio_pci_modern_dev.ko", "virtio_pci_modern_dev.ko"),
    ("*/virtio_pci.ko", "virtio_pci.ko"),
    ("*/virtio_blk.ko", "virtio_blk.ko"),
    ("*/virtio_scsi.ko", "virtio_scsi.ko"),
    ("*/nvme-core.ko", "nvme-core.ko"),
    ("*/nvme.ko", "nvme.ko"),
    ("*/scsi_transport_spi.ko", "scsi_transport_spi.ko"),
    ("*/sym53c8xx.ko", "sym53c8xx.ko"),
    ("*/vmw_pvscsi.ko", "vmw_pvscsi.ko"),
    ("*/crc16.ko", "crc16.ko"),
    ("*/crc32c_generic.ko", "crc32c_generic.ko"),
    ("*/mbcache.ko", "mbcache.ko"),
    ("*/jbd2.ko", "jbd2.ko"),
    ("*/ext4.ko", "ext4.ko"),
    ("*/usb-common.ko", "usb-common.ko"),
    ("*/usbcore.ko", "usbcore.ko"),
    ("*/ehci-hcd.ko", "ehci-hcd.ko"),
    ("*/ehci-pci.ko", "ehci-pci.ko"),
    ("*/uhci-hcd.ko", "uhci-hcd.ko"),
    ("*/xhci-hcd.ko", "xhci-hcd.ko"),
    ("*/xhci-pci.ko", "xhci-pci.ko"),
    ("*/hid.ko", "hid.ko"),
    ("*/usbhid.ko", "usbhid.ko"),
    ("*/hid-generic.ko", "hid-generic.ko"),
    ("*/ohci-hcd.ko", "ohci-hcd.ko"),
    ("*/ohci-pci.ko", "ohci-pci.ko"),
    ("*/usb-storage.ko", "usb-storage.ko"),
    ("*/uas.ko", "uas.ko"),
];

const GUESTS: &[Guest] = &[
    Guest {
        name: "firmware",
        package: "seabios",
        files: &[
            ("usr/share/seabios/bios.bin", "bios.bin"),
            ("usr/share/seabios/bios-256k.bin", "bios-256k.bin"),
            ("usr/share/seabios/vgabios-stdvga.bin", "vgabios-stdvga.bin"),
        ],
    },
    Guest {
        name: "debian-i386",
        package: "debian-installer-12-netboot-i386",
        files: &[
            ("usr/lib/debian-installer/images/12/i386/text/debian-installer/i386/linux", "linux"),
            (
                "usr/lib/debian-installer/images/12/i386/text/debian-installer/i386/initrd.gz",
                "initrd.gz",
            ),
        ],
    },
    Guest {
        name: "debian-amd64",
        package: "debian-installer-12-netboot-amd64",
        files: &[
            ("usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/linux", "linux"),
            (
                "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/initrd.gz",
                "initrd.gz",
            ),
        ],
    },
    Guest {
        name: "debian-arm64",
        package: "debian-installer-12-netboot-arm64",
        files: &[
            ("usr/lib/debian-installer/images/12/arm64/text/debian-installer/arm64/linux", "linux"),
            (
                "usr/lib/debian-installer/images/12/arm64/text/debian-installer/arm64/initrd.gz",
                "initrd.gz",
            ),
        ],
    },
    Guest {
        name: "memtest",
        package: "memtest86+",
        files: &[
            ("boot/memtest86+ia32.bin", "memtest86+ia32.bin"),
            ("boot/memtest86+x64.bin", "memtest86+x64.bin"),
        ],
    },
    Guest {
        name: "grub",
        package: "grub-rescue-pc",
        files: &[
            ("usr/lib/grub-rescue/grub-rescue-floppy.img", "grub-rescue-floppy.img"),
            ("usr/lib/grub-rescue/grub-rescue-cdrom.iso", "grub-rescue-cdrom.iso"),
        ],
    },
    // Packages without content that depend on the newest kernel.
    Guest { name: "linux-amd64", package: "linux-image-amd64", files: LINUX },
    Guest { name: "linux-i386", package: "linux-image-686:i386", files: LINUX },
    Guest { name: "busybox", package: "busybox-static", files: &[("*/busybox", "busybox")] },
    Guest {
        name: "busybox-i386",
        package: "busybox-static:i386",
        files: &[("*/busybox", "busybox")],
    },
    Guest { name: "e2fsprogs", package: "e2fsprogs", files: &[("sbin/mke2fs", "mke2fs")] },
    Guest {
        name: "libext2fs",
        package: "libext2fs2",
        files: &[("*/libext2fs.so.2.", "libext2fs.so.2"), ("*/libe2p.so.2.", "libe2p.so.2")],
    },
    Guest {
        name: "libcom-err",
        package: "libcom-err2",
        files: &[("*/libcom_err.so.2.", "libcom_err.so.2")],
    },
    Guest {
        name: "libblkid",
        package: "libblkid1",
        files: &[("*/libblkid.so.1.", "libblkid.so.1")],
    },
    Guest { name: "libuuid", package: "libuuid1", files: &[("*/libuuid.so.1.", "libuuid.so.1")] },
    Guest {
        name: "libc",
        package: "libc6",
        files: &[("*/libc.so.6", "libc.so.6"), ("*/ld-linux-x86-64.so.2", "ld-linux-x86-64.so.2")],
    },
    Guest { name: "ipxe", package: "ipxe", files: &[("usr/lib/ipxe/ipxe.iso", "ipxe.iso")] },
    Guest {
        name: "ovmf",
        package: "ovmf",
        files: &[
            ("usr/share/OVMF/OVMF_CODE_4M.fd", "OVMF_CODE_4M.fd"),
            ("usr/share/OVMF/OVMF_VARS_4M.fd", "OVMF_VARS_4M.fd"),
        ],
    },
];

/// No guest, but a program that drives one: QEMU's own client of the monitor, from PyPI.
const CLIENT: &str = "qemu-qmp";
const CLIENT_PACKAGE: &str = "qemu.qmp==0.0.6";

/// Fetches the guests named, or all; those that are there already are left alone.
pub(crate) fn fetch(names: &[String]) -> Result<()> {
    let known = |name: &String| *name == CLIENT || GUESTS.iter().any(|g| g.name == *name);
    if let Some(bad) = names.iter().find(|n| !known(n)) {
        let all: Vec<&str> = GUESTS.iter().map(|g| g.name).chain([CLIENT]).collect();
        bail!("there is no guest '{bad}'; there are: {}", all.join(", "));
    }
    fetch_client(names)?;
    let wanted = |g: &&Guest| names.is_empty() || names.iter().any(|n| n == g.name);
    let missing: Vec<&Guest> = GUESTS.iter().filter(wanted).filter(|g| !g.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for tool in ["apt-get", "dpkg-deb"] {
        if !shell::have(tool) {
            bail!("'{tool}' is needed to fetch Debian packages, and is not on this host");
        }
    }
    let apt = Apt::new(Path::new("guests/.apt"))?;
    apt.run(&["-qq", "update"])?;
    for guest in missing {
        println!("fetching {} (package {})", guest.name, guest.package);
        guest.fetch(&apt)?;
    }
    Ok(())
}

fn fetch_client(names: &[String]) -> Result<()> {
    let folder = Path::new("guests").join(CLIENT);
    let named = names.iter().any(|n| n == CLIENT);
    if !(named || names.is_empty()) || folder.join("qemu/qmp/__init__.py").is_file() {
        return Ok(());
    }
    if !shell::have("pip3") {
        if named {
            bail!("'pip3' is needed to fetch {CLIENT_PACKAGE}, and is not on this host");
        }
        println!("{CLIENT} is left out: 'pip3' is not on this host");
        return Ok(());
    }
    println!("fetching {CLIENT} ({CLIENT_PACKAGE} from PyPI)");
    let folder = folder.to_string_lossy();
    shell::run("pip3", &["install", "--quiet", "--upgrade", "--target", &folder, CLIENT_PACKAGE])
}

impl Guest {
    fn folder(&self) -> PathBuf {
        Path::new("guests").join(self.name)
    }

    fn is_there(&self) -> bool {
        self.files.iter().all(|(_, to)| self.folder().join(to).is_file())
    }

    fn fetch(&self, apt: &Apt) -> Result<()> {
        let unpacked = apt.folder.join("unpacked").join(self.name);
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked)?;
        apt.run(&["-qq", "download", &apt.resolve(self.package)?])?;
        let mut packages = fs::read_dir(&apt.folder)?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "deb"));
        let package = packages.next().context("apt-get left no package")?;
        let unpacked_path = unpacked.clone();
        let [package, to] = [&package, &unpacked].map(|p| p.to_string_lossy().into_owned());
        shell::run("dpkg-deb", &["-x", &package, &to])?;
        fs::create_dir_all(self.folder())?;
        for (from, name) in self.files {
            // Through a temporary name: a file that is there is whole.
            let part = self.folder().join(format!("{name}.part"));
            let from = match from.strip_prefix("*/") {
                Some(start) => find(&unpacked_path, start)
                    .with_context(|| format!("package {} has no {from}", self.package))?,
                None => unpacked_path.join(from),
            };
            fs::copy(&from, &part)
                .with_context(|| format!("package {} has no {}", self.package, from.display()))?;
            fs::rename(part, self.folder().join(name))?;
        }
        fs::remove_file(package)?;
        fs::remove_dir_all(unpacked)?;
        Ok(())
    }
}

/// The first file in or under `folder` whose name begins with `start`, links left out.
fn find(folder: &Path, start: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    let named = |p: &&PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(start) && p.symlink_metadata().is_ok_and(|m| m.is_file())
    };
    let here = entries.iter().find(named).cloned();
    let folders = || entries.iter().filter(|p| p.symlink_metadata().is_ok_and(|m| m.is_dir()));
    here.or_else(|| folders().find_map(|f| find(f, start)))
}

/// A private apt.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        let folder = folder.canonicalize()?;
        fs::write(folder.join("status"), "")?;
        let sources = folder.join("list.sources");
        fs::write(&sources, sources_of_host()?)?;
        let f = folder.display();
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=/dev/null".into(),
            format!("Dir::State={f}"),
            format!("Dir::State::status={f}/status"),
            format!("Dir::Cache={f}/cache"),
            "APT::Sandbox::User=root".into(),
            // The packages are for PCs even where the host is something else.
            "APT::Architecture=amd64".into(),
            "APT::Architectures=amd64,i386".into(),
        ];
        Ok(Self { folder, options: options.to_vec() })
    }

    /// The package itself, or for one that names the newest kernel the kernel's.
    fn resolve(&self, package: &str) -> Result<String> {
        if !package.starts_with("linux-image-") {
            return Ok(package.into());
        }
        let mut command = Command::new("apt-cache");
        for o in &self.options {
            command.args(["-o", o]);
        }
        let out = command.args(["depends", package]).current_dir(&self.folder).output()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut names = text.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        let name = names.find(|n| n.starts_with("linux-image-"));
        Ok(name.with_context(|| format!("package {package} names no kernel"))?.into())
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("apt-get");
        for o in &self.options {
            command.args(["-o", o]);
        }
        let status = command.args(args).current_dir(&self.folder).status()?;
        if !status.success() {
            bail!("apt-get {} failed; is there a network?", args.join(" "));
        }
        Ok(())
    }
}

/// The host's own package sources, for the suite `bookworm`.
fn sources_of_host() -> Result<String> {
    if let Ok(text) = fs::read_to_string("/etc/apt/sources.list.d/debian.sources") {
        let main = text.split("\n\n").find(|p| p.contains("Suites:") && !p.contains("-security"));
        let main = main.context("no suite in debian.sources")?;
        let line = |l: &str| match l.split_once(':') {
            Some(("Suites", _)) => "Suites: bookworm".to_string(),
            _ => l.to_string(),
        };
        return Ok(main.lines().map(|l| line(l) + "\n").collect());
    }
    let text =
        fs::read_to_string("/etc/apt/sources.list").context("no package sources on this host")?;
    let deb = text.lines().find(|l| l.starts_with("deb ") && !l.contains("security"));
    let words: Vec<&str> =
        deb.context("no package source in sources.list")?.split_whitespace().collect();
    let at = words.iter().position(|w| w.contains("://")).context("no address in sources.list")?;
    Ok(format!("Types: deb\nURIs: {}\nSuites: bookworm\nComponents: main\n", words[at]))
}
