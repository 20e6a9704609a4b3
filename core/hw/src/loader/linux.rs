//! Linux' boot protocol on x86 (Documentation/x86/boot.rst).

use super::Space;
use crate::machine::{BuildError, Kernel};
use crate::nvram::fw_cfg::{Items, key};

/// What the boot protocol's header says, at 1F1 of the image.
mod header {
    /// Sectors of the setup code.
    pub(super) const SETUP_SECTS: usize = 0x1f1;
    /// `HdrS`.
    pub(super) const MAGIC: usize = 0x202;
    /// Protocol version.
    pub(super) const VERSION: usize = 0x206;
    /// Type of the loader.
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    /// Flags: bit 0 the kernel goes to 1 MiB, bit 7 there is a heap.
    pub(super) const LOADFLAGS: usize = 0x211;
    /// Address of the initial RAM disk.
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    /// Its size.
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    /// End of the heap, less 512.
    pub(super) const HEAP_END_PTR: usize = 0x224;
    /// Address of the command line.
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    /// Highest address the initial RAM disk may reach.
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    /// Longest command line.
    pub(super) const CMDLINE_SIZE: usize = 0x238;
}

/// What firmware keeps at the top of low RAM for itself: its tables, and then some.
const FIRMWARE_RESERVE: u64 = 1 << 20;

fn error<T>(reason: &str) -> Result<T, BuildError> {
    Err(BuildError::Kernel(reason.into()))
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn put_u32(b: &mut [u8], at: usize, v: u32) {
    b[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

/// Where the parts go, by protocol version.
struct Addresses {
    real: u32,
    cmdline: u32,
    kernel: u32,
}

/// Describes a bzImage or zImage to firmware.
pub(crate) fn load(kernel: &Kernel, space: Space, items: &mut Items) -> Result<(), BuildError> {
    let image = &kernel.image;
    if image.len() < 0x400 || image[0x1fe..0x200] != [0x55, 0xaa] {
        return error("the file is neither a Linux kernel nor a multiboot image");
    }
    let version = if u32_at(image, header::MAGIC) == u32::from_le_bytes(*b"HdrS") {
        u16::from_le_bytes([image[header::VERSION], image[header::VERSION + 1]])
    } else {
        0
    };
    let mut cmdline = kernel.command_line.clone().into_bytes();
    cmdline.push(0);
    let loads_high = version >= 0x200 && image[header::LOADFLAGS] & 1 != 0;
    let at = match (loads_high, version) {
        (true, 0x202..) => Addresses { real: 0x1_0000, cmdline: 0x2_0000, kernel: 0x10_0000 },
        (high, _) => Addresses {
            real: 0x9_0000,
            cmdline: 0x9_a000 - (cmdline.len() as u32).next_multiple_of(16),
            kernel: if high { 0x10_0000 } else { 0x1_0000 },
        },
    };
    if version >= 0x206 {
        let longest = u32_at(image, header::CMDLINE_SIZE) as usize;
        if cmdline.len() - 1 > longest {
            return error(&format!("the command line is longer than the kernel's {longest} bytes"));
        }
    }
    let sectors = match image[header::SETUP_SECTS] {
        0 => 4,
        n => usize::from(n),
    };
    let setup_size = (sectors + 1) * 512;
    if image.len() <= setup_size {
        return error("the kernel is cut off");
    }
    let (setup, protected) = image.split_at(setup_size);
    let mut setup = setup.to_vec();
    let initrd: Vec<u8> = kernel.initrd.iter().flat_map(|(_, data)| data.iter().copied()).collect();
    if protected.len() as u64 + u64::from(at.kernel) + initrd.len() as u64 + FIRMWARE_RESERVE
        > space.low_ram
    {
        return error("kernel and initial RAM disk do not fit the machine's memory");
    }
    if version >= 0x200 {
        setup[header::TYPE_OF_LOADER] = 0xb0;
    }
    if version >= 0x201 {
        setup[header::LOADFLAGS] |= 0x80;
        let heap = (at.cmdline - at.real - 0x200).min(0xfe00) as u16;
        setup[header::HEAP_END_PTR..][..2].copy_from_slice(&heap.to_le_bytes());
    }
    if version >= 0x202 {
        put_u32(&mut setup, header::CMD_LINE_PTR, at.cmdline);
    } else {
        // The old way: a magic number and the offset from the real-mode part.
        setup[0x20..0x22].copy_from_slice(&0xa33f_u16.to_le_bytes());
        setup[0x22..0x24].copy_from_slice(&((at.cmdline - at.real) as u16).to_le_bytes());
    }
    if !initrd.is_empty() {
        if version < 0x200 {
            return error("this kernel is too old for an initial RAM disk");
        }
        let max =
            if version >= 0x203 { u32_at(image, header::INITRD_ADDR_MAX) } else { 0x37ff_ffff };
        let top = (u64::from(max) + 1).min(space.low_ram - FIRMWARE_RESERVE);
        let Some(address) = top.checked_sub(initrd.len() as u64).map(|a| a & !0xfff) else {
            return error("the initial RAM disk does not fit below the kernel's limit");
        };
        put_u32(&mut setup, header::RAMDISK_IMAGE, address as u32);
        put_u32(&mut setup, header::RAMDISK_SIZE, initrd.len() as u32);
        items.set_u32(key::INITRD_ADDR, address as u32);
        items.set_u32(key::INITRD_SIZE, initrd.len() as u32);
        items.set(key::INITRD_DATA, initrd);
    } else {
        items.set_u32(key::INITRD_ADDR, 0);
        items.set_u32(key::INITRD_SIZE, 0);
    }
    items.set_u32(key::KERNEL_ADDR, at.kernel);
    items.set_u32(key::KERNEL_SIZE, protected.len() as u32);
    items.set(key::KERNEL_DATA, protected);
    items.set_u32(key::SETUP_ADDR, at.real);
    items.set_u32(key::SETUP_SIZE, setup.len() as u32);
    items.set(key::SETUP_DATA, setup);
    items.set_u32(key::CMDLINE_ADDR, at.cmdline);
    items.set_u32(key::CMDLINE_SIZE, cmdline.len() as u32);
    items.set(key::CMDLINE_DATA, cmdline);
    Ok(())
}
