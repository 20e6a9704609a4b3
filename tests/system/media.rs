//! What is made here to be started from: floppies turned into hard disks and CDs, and a kernel.

use crate::program::{Folder, root, shared};
use crate::{Test, picture};
use anyhow::{Context as _, Result, ensure};
use std::fs;

const SECTOR: usize = 512;
/// Geometry of the small disks made here.
const HEADS: u16 = 16;
const SECTORS: u16 = 63;

/// (name, machine, floppy image, medium, script)
type Boot = (&'static str, &'static str, &'static str, Medium, &'static str);

#[derive(Clone, Copy)]
enum Medium {
    /// The floppy's sectors from the disk's first on, without a partition table.
    Disk(&'static str),
    /// The floppy's file system in the first partition.
    Partition(&'static str),
    /// The floppy in the first partition of an IDE disk, shown as drive A: by what starts there.
    Shown,
    /// The floppy as El Torito emulates it.
    Cd,
}

/// Its CONFIG.SYS names a shell on drive A:.
pub(crate) const FREEDOS: &str = "within 60\nwait-screen \"full shell command line\"\ntype \"C:\\\\COMMAND.COM\\n\"\nwait-screen \"C:\\\\>\"\ntype \"dir\\n\"\nwait-screen \"bytes free\"\nquit 0\n";
const FREEDOS_CD: &str =
    "within 60\nwait-screen \"A:\\\\>\"\ntype \"dir\\n\"\nwait-screen \"bytes free\"\nquit 0\n";
const MIKEOS: &str = "within 30\nwait-screen \"OK            Cancel\"\nkey ret\nwait-screen \"KERNEL.BIN\"\nquit 0\n";
const KOLIBRI: &str = "within 60\nwait-screen \"KolibriOS comes with ABSOLUTELY NO WARRANTY\"\nwait 20\nscreendump screen.png\nquit 0\n";

const BOOTS: &[Boot] = &[
    ("FreeDOS from an IDE disk", "pc", "freedos722.img", Medium::Partition("if=ide"), FREEDOS),
    ("FreeDOS from an AHCI disk", "q35", "freedos722.img", Medium::Partition("if=ide"), FREEDOS),
    ("FreeDOS from a virtio disk", "pc", "freedos722.img", Medium::Partition("if=virtio"), FREEDOS),
    ("FreeDOS from a CD", "pc", "freedos722.img", Medium::Cd, FREEDOS_CD),
    ("MikeOS from an IDE disk", "pc", "mikeos.flp", Medium::Disk("if=ide"), MIKEOS),
    ("MikeOS from an ISA disk", "isapc", "mikeos.flp", Medium::Disk("if=ide"), MIKEOS),
    ("MikeOS from a CD", "pc", "mikeos.flp", Medium::Cd, MIKEOS),
    ("KolibriOS from an IDE disk", "pc", "kolibri.img", Medium::Shown, KOLIBRI),
    ("KolibriOS from a CD", "pc", "kolibri.img", Medium::Cd, KOLIBRI),
];

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> =
        BOOTS.iter().map(|b| Test::new(&format!("boot: {}", b.0), 120, move || boot(b))).collect();
    tests.push(Test::new("boot: a multiboot kernel and its module", 60, multiboot));
    tests
}

fn boot(&(_, machine, floppy, medium, script): &Boot) -> Result<()> {
    let work = Folder::new()?;
    let floppy = fs::read(shared(&format!("guests/x86/{floppy}"))?)?;
    let drive = match medium {
        Medium::Disk(bus) => {
            work.write("disk.img", &floppy)?;
            format!("file=disk.img,format=raw,{bus}")
        }
        Medium::Partition(bus) => {
            work.write("disk.img", hard_disk(&floppy))?;
            format!("file=disk.img,format=raw,{bus}")
        }
        Medium::Shown => {
            work.write("disk.img", partitioned(SHOWS_FLOPPY, &floppy))?;
            "file=disk.img,format=raw".into()
        }
        Medium::Cd => {
            work.write("cd.iso", cd(&floppy)?)?;
            "file=cd.iso,format=raw,media=cdrom".into()
        }
    };
    work.write("script.txt", script)?;
    let args = ["-M", machine, "-m", "64", "-icount", "5", "-drive", &drive];
    let more = ["-rtc", "base=2014-01-01T12:00:00", "-script", "script.txt"];
    work.orrery(&[&args[..], &more].concat(), 120)?.success()?;
    if script == KOLIBRI {
        let golden = root().join("tests/machines/kolibri/screen.png");
        picture::compare(&work.file("screen.png"), &golden)?;
    }
    Ok(())
}

/// Loads the first partition's first sector and goes there.
#[rustfmt::skip]
const BOOT_RECORD: &[u8] = &[
    0xfa,                           // cli
    0x31, 0xc0,                     // xor ax, ax
    0x8e, 0xd0, 0xbc, 0x00, 0x7c,   // ss:sp = 0:7c00
    0xfb,                           // sti
    0x8e, 0xd8, 0x8e, 0xc0,         // ds = es = 0
    0xbe, 0x00, 0x7c,               // mov si, 7c00
    0xbf, 0x00, 0x06,               // mov di, 0600
    0xb9, 0x00, 0x01,               // mov cx, 256
    0xfc, 0xf3, 0xa5,               // rep movsw
    0xea, 0x1e, 0x06, 0x00, 0x00,   // jmp 0:061e, the next instruction
    0xbe, 0x2f, 0x06,               // mov si, 062f, the packet below
    0xb4, 0x42, 0xcd, 0x13,         // extended read
    0x72, 0xfe,                     // jc $
    0xbe, 0xbe, 0x07,               // mov si, 07be, the partition
    0xea, 0x00, 0x7c, 0x00, 0x00,   // jmp 0:7c00
    16, 0, 1, 0, 0x00, 0x7c, 0, 0, SECTORS as u8, 0, 0, 0, 0, 0, 0, 0,
];

/// Shows the first partition as a floppy with 18 sectors a track, and starts from that: what it
/// leaves at the top of conventional memory turns reads of drive 0 into reads of the disk.
#[rustfmt::skip]
const SHOWS_FLOPPY: &[u8] = &[
    0xfa,                               // cli
    0x31, 0xc0,                         // xor ax, ax
    0x8e, 0xd0, 0xbc, 0x00, 0x7c,       // ss:sp = 0:7c00
    0x8e, 0xd8,                         // ds = 0
    0xfb,                               // sti
    0xff, 0x0e, 0x13, 0x04,             // dec word [413]: a KiB less of memory
    0xcd, 0x12, 0xc1, 0xe0, 0x06,       // where that is,
    0x8e, 0xc0,                         // in es
    0xbe, 0x38, 0x7c, 0x31, 0xff,       // mov si, disk; xor di, di
    0xb9, 0x65, 0x00, 0xfc, 0xf3, 0xa4, // mov cx, length; rep movsb
    0x66, 0xa1, 0x4c, 0x00,             // mov eax, [4c]: int 13
    0x26, 0x66, 0xa3, 0x4d, 0x00,       // mov es:[old], eax
    0xc7, 0x06, 0x4c, 0x00, 0x00, 0x00, // mov word [4c], 0
    0x8c, 0x06, 0x4e, 0x00,             // mov [4e], es
    0x06, 0x6a, 0x51, 0xcb,             // jmp es:start
    // disk:
    0x84, 0xd2, 0x75, 0x48,             // test dl, dl; jnz chain
    0x80, 0xfc, 0x02,                   // cmp ah, 2
    0xb4, 0x00, 0xf8, 0x75, 0x3c,       // mov ah, 0; clc; jne done
    0x1e, 0x60,                         // push ds; pusha
    0x89, 0xdd, 0x0f, 0xb6, 0xd8,       // mov bp, bx; movzx bx, al
    0x88, 0xe8, 0x00, 0xc0,             // mov al, ch; add al, al
    0x00, 0xf0, 0xb4, 0x12, 0xf6, 0xe4, // add al, dh; mov ah, 18; mul ah
    0x83, 0xe1, 0x3f, 0x01, 0xc8,       // and cx, 63; add ax, cx
    0x83, 0xc0, SECTORS as u8 - 1,      // add ax, first sector - 1
    0x66, 0x0f, 0xb7, 0xc0,             // movzx eax, ax
    0x66, 0x6a, 0x00, 0x66, 0x50,       // push dword 0; push eax
    0x06, 0x55, 0x53, 0x6a, 0x10,       // push es; push bp; push bx; push 16
    0x16, 0x1f, 0x89, 0xe6,             // ds:si = ss:sp
    0xb4, 0x42, 0xb2, 0x80,             // extended read of disk 80
    0x9c, 0x2e, 0xff, 0x1e, 0x4d, 0x00, // pushf; call far cs:[old]
    0x8d, 0x64, 0x10,                   // lea sp, [si + 16]
    0x61, 0x1f, 0xb4, 0x00,             // popa; pop ds; mov ah, 0
    // done:
    0xfb, 0xca, 0x02, 0x00,             // sti; retf 2
    // chain:
    0xea, 0x00, 0x00, 0x00, 0x00,       // jmp old
    // start:
    0x31, 0xd2, 0x8e, 0xc2,             // xor dx, dx; mov es, dx
    0xb8, 0x01, 0x02, 0xbb, 0x00, 0x7c, // a sector to 0:7c00
    0xb9, 0x01, 0x00, 0xcd, 0x13,       // the first
    0xea, 0x00, 0x7c, 0x00, 0x00,       // jmp 0:7c00
];

/// A disk whose only partition holds a floppy's FAT file system.
pub(crate) fn hard_disk(floppy: &[u8]) -> Vec<u8> {
    let mut system = floppy.to_vec();
    system[0x18..0x1a].copy_from_slice(&SECTORS.to_le_bytes());
    system[0x1a..0x1c].copy_from_slice(&HEADS.to_le_bytes());
    system[0x1c..0x20].copy_from_slice(&u32::from(SECTORS).to_le_bytes());
    system[0x24] = 0x80;
    partitioned(BOOT_RECORD, &system)
}

/// A disk with a floppy's sectors in its only partition.
fn partitioned(boot_record: &[u8], floppy: &[u8]) -> Vec<u8> {
    let start = usize::from(SECTORS);
    let mut disk = vec![0; start * SECTOR];
    disk[..boot_record.len()].copy_from_slice(boot_record);
    let sectors = (floppy.len() / SECTOR) as u32;
    let last = start as u32 + sectors - 1;
    let (track, sector) = (last / u32::from(SECTORS), last % u32::from(SECTORS) + 1);
    let (cylinder, head) = (track / u32::from(HEADS), track % u32::from(HEADS));
    // Active, from head 1 on, FAT with 12 bits.
    let ends = [0x80, 1, 1, 0, 1, head as u8, sector as u8, cylinder as u8];
    disk[0x1be..0x1c6].copy_from_slice(&ends);
    disk[0x1c6..0x1ca].copy_from_slice(&(start as u32).to_le_bytes());
    disk[0x1ca..0x1ce].copy_from_slice(&sectors.to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk.extend(floppy);
    disk.resize(10 * usize::from(HEADS * SECTORS) * SECTOR, 0);
    disk
}

/// A CD that starts as a 1.44 MB floppy: ECMA-119 descriptors around an El Torito catalogue.
fn cd(floppy: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 2048;
    const SIZE: usize = 1_474_560;
    ensure!(floppy.len() <= SIZE, "larger than the floppy that is emulated");
    let mut floppy = floppy.to_vec();
    // A smaller floppy's sectors, in the larger one's tracks.
    floppy[0x18..0x1a].copy_from_slice(&18_u16.to_le_bytes());
    floppy.resize(SIZE, 0);
    let mut disc = vec![0; 20 * BLOCK];
    let mut put = |at: usize, bytes: &[u8]| disc[at..at + bytes.len()].copy_from_slice(bytes);
    put(16 * BLOCK, b"\x01CD001\x01");
    put(17 * BLOCK, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17 * BLOCK + 0x47, &19_u32.to_le_bytes());
    put(18 * BLOCK, b"\xffCD001\x01");
    let mut validation = [0; 32];
    (validation[0], validation[30], validation[31]) = (1, 0x55, 0xaa);
    let sum =
        validation.chunks(2).fold(0_u16, |s, w| s.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
    validation[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    put(19 * BLOCK, &validation);
    // Bootable, 1.44 MB, one sector of it to the usual place.
    put(19 * BLOCK + 32, &[0x88, 2, 0, 0, 0, 0, 1, 0, 20, 0, 0, 0]);
    disc.extend(floppy);
    Ok(disc)
}

/// Says its command line and its module's text on the serial line, then ends the machine.
#[rustfmt::skip]
const KERNEL: &[u8] = &[
    0x3d, 0x02, 0xb0, 0xad, 0x2b,   // cmp eax, 2badb002
    0x75, 0x27,                     // jne stop
    0x8b, 0x73, 0x10,               // mov esi, [ebx + 16]: command line
    0xe8, 0x14, 0x00, 0x00, 0x00,   // call say
    0x83, 0x7b, 0x14, 0x01,         // cmp dword [ebx + 20], 1: modules
    0x75, 0x19,                     // jne stop
    0x8b, 0x73, 0x18,               // mov esi, [ebx + 24]
    0x8b, 0x36,                     // mov esi, [esi]: the first one's start
    0xe8, 0x04, 0x00, 0x00, 0x00,   // call say
    0xb0, 0x15, 0xe6, 0xf4,         // exit 2 * 21 + 1
    // say:
    0x66, 0xba, 0xf8, 0x03,         // mov dx, 3f8
    0xac,                           // lodsb
    0xee,                           // out dx, al
    0x84, 0xc0,                     // test al, al
    0x75, 0xfa,                     // jnz lodsb
    0xc3,                           // ret
    // stop:
    0xf4,                           // hlt
    0xeb, 0xfd,                     // jmp stop
];

/// A 32-bit executable with a multiboot header before its code.
fn kernel() -> Vec<u8> {
    const FLAGS: u32 = 3;
    const MAGIC: u32 = 0x1bad_b002;
    let (base, headers) = (0x0010_0000_u32, 52 + 32);
    let size = headers + 12 + KERNEL.len() as u32;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, base + headers + 12, 52, 0, 0, 52 | 32 << 16, 1, 0] {
        elf.extend(word.to_le_bytes());
    }
    for word in [1, 0, base, base, size, size, 7, 4096] {
        elf.extend(word.to_le_bytes());
    }
    for word in [MAGIC, FLAGS, 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS)] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(KERNEL);
    elf
}

fn multiboot() -> Result<()> {
    let work = Folder::new()?;
    work.write("kernel", kernel())?;
    work.write("module", b"the module's text\n\0")?;
    for machine in ["pc", "q35"] {
        let args = ["-M", machine, "-m", "32", "-icount", "5", "-serial", "stdio"];
        let load = ["-kernel", "kernel", "-append", "word=1 ", "-initrd", "module"];
        let exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
        let output = work.orrery(&[&args[..], &load, &exit].concat(), 30)?;
        let code = output.status.code().context("killed")?;
        ensure!(code == 43, "{machine}: status {code}\n{}{}", output.stdout, output.stderr);
        let said = output.stdout.replace('\0', "");
        ensure!(said.contains("word=1"), "{machine}: the command line: {said}");
        ensure!(said.contains("the module's text\n"), "{machine}: the module: {said}");
    }
    Ok(())
}
