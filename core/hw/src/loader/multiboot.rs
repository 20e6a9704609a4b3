//! Multiboot 1 kernels (Multiboot Specification 0.6.96).

use super::Space;
use crate::machine::{BuildError, Kernel};
use crate::nvram::fw_cfg::{Items, key};

const MAGIC: u32 = 0x1bad_b002;
/// The header lies in the first 8 KiB.
const SEARCH: usize = 8192;
/// Header flag: the load addresses are in the header.
const ADDRESSES: u32 = 1 << 16;
/// Where the information structure goes, and how long it is.
const INFO: u32 = 0x9000;
const INFO_SIZE: usize = 88;

/// Bits of the information structure's flags.
mod info {
    pub(super) const MEMORY: u32 = 1 << 0;
    pub(super) const COMMAND_LINE: u32 = 1 << 2;
    pub(super) const MODULES: u32 = 1 << 3;
    /// The option ROM fills in the map.
    pub(super) const MAP: u32 = 1 << 6;
    pub(super) const LOADER: u32 = 1 << 9;
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn error<T>(reason: &str) -> Result<T, BuildError> {
    Err(BuildError::Kernel(reason.into()))
}

fn header(image: &[u8]) -> Option<usize> {
    (0..SEARCH.min(image.len())).step_by(4).find(|&at| {
        let word = |i: usize| u32_at(image, at + 4 * i).unwrap_or(0);
        word(0) == MAGIC && word(0).wrapping_add(word(1)).wrapping_add(word(2)) == 0
    })
}

/// Whether there is a multiboot header.
pub(super) fn is_multiboot(image: &[u8]) -> bool {
    header(image).is_some()
}

/// What of the image goes where.
struct Loaded {
    base: u32,
    entry: u32,
    memory: Vec<u8>,
}

/// Describes a multiboot kernel and its modules to firmware.
pub(super) fn load(kernel: &Kernel, space: Space, items: &mut Items) -> Result<(), BuildError> {
    let image = &kernel.image;
    let Some(at) = header(image) else { return error("there is no multiboot header") };
    let flags = u32_at(image, at + 4).unwrap_or(0);
    let loaded = if flags & ADDRESSES != 0 { load_flat(image, at) } else { load_elf(image, space) };
    let Some(Loaded { base, entry, mut memory }) = loaded else {
        return error("the multiboot kernel's load addresses make no sense");
    };
    let mut modules = Vec::new();
    for (text, data) in &kernel.initrd {
        memory.resize(memory.len().next_multiple_of(4096), 0);
        let start = base as usize + memory.len();
        memory.extend_from_slice(data);
        modules.push((start as u32, (base as usize + memory.len()) as u32, text.clone()));
    }
    if u64::from(base) + memory.len() as u64 + (1 << 20) > space.low_ram {
        return error("kernel and modules do not fit the machine's memory");
    }
    let information = information(kernel, &modules, space);
    items.set_u32(key::KERNEL_ADDR, base);
    items.set_u32(key::KERNEL_SIZE, memory.len() as u32);
    items.set(key::KERNEL_DATA, memory);
    items.set_u32(key::KERNEL_ENTRY, entry);
    items.set_u32(key::INITRD_ADDR, INFO);
    items.set_u32(key::INITRD_SIZE, information.len() as u32);
    items.set(key::INITRD_DATA, information);
    Ok(())
}

/// A kernel whose header says where it goes.
fn load_flat(image: &[u8], at: usize) -> Option<Loaded> {
    let word = |i: usize| u32_at(image, at + 4 * i);
    let (header, base, data_end, bss_end, entry) =
        (word(3)?, word(4)?, word(5)?, word(6)?, word(7)?);
    let from = at.checked_sub(header.checked_sub(base)? as usize)?;
    let len = match data_end {
        0 => image.len() - from,
        end => end.checked_sub(base)? as usize,
    };
    let mut memory = image.get(from..from.checked_add(len)?)?.to_vec();
    if let Some(all) = bss_end.checked_sub(base).filter(|&n| n as usize > len && n < 1 << 30) {
        memory.resize(all as usize, 0);
    }
    Some(Loaded { base, entry, memory })
}

/// A 32-bit ELF kernel (System V ABI, chapter 4).
fn load_elf(image: &[u8], space: Space) -> Option<Loaded> {
    if image.get(..6)? != b"\x7fELF\x01\x01" {
        return None;
    }
    let (table, size, count) = (u32_at(image, 28)?, u16_at(image, 42)?, u16_at(image, 44)?);
    let mut segments = Vec::new();
    for i in 0..usize::from(count) {
        let at = (table as usize).checked_add(i * usize::from(size))?;
        let word = |n: usize| u32_at(image, at + 4 * n);
        // Loadable, with something in memory.
        if word(0)? == 1 && word(5)? != 0 {
            segments.push((
                word(1)? as usize,
                word(2)?,
                word(3)?,
                word(4)? as usize,
                word(5)? as usize,
            ));
        }
    }
    let base = segments.iter().map(|s| s.2).min()?;
    let end = segments.iter().map(|s| u64::from(s.2) + s.4 as u64).max()?;
    if end > space.low_ram {
        return None;
    }
    let mut memory = vec![0; (end - u64::from(base)) as usize];
    let mut entry = u32_at(image, 24)?;
    let (mut moved, virtual_entry) = (false, entry);
    for &(offset, virt, phys, in_file, in_memory) in &segments {
        let data = image.get(offset..offset.checked_add(in_file)?)?;
        let to = (phys - base) as usize;
        let n = in_file.min(in_memory);
        memory.get_mut(to..to + n)?.copy_from_slice(&data[..n]);
        // The entry point is virtual where the segment's addresses differ.
        if !moved && (virt..virt.saturating_add(in_memory as u32)).contains(&virtual_entry) {
            entry = virtual_entry - virt + phys;
            moved = true;
        }
    }
    Some(Loaded { base, entry, memory })
}

/// The information structure with its modules and strings.
fn information(kernel: &Kernel, modules: &[(u32, u32, String)], space: Space) -> Vec<u8> {
    let mut out = vec![0; INFO_SIZE + 16 * modules.len()];
    let put =
        |out: &mut Vec<u8>, at: usize, v: u32| out[at..at + 4].copy_from_slice(&v.to_le_bytes());
    let text = |out: &mut Vec<u8>, s: &str| {
        let at = INFO + out.len() as u32;
        out.extend(s.as_bytes());
        out.push(0);
        at
    };
    let flags = info::MEMORY | info::COMMAND_LINE | info::MODULES | info::MAP | info::LOADER;
    put(&mut out, 0, flags);
    put(&mut out, 4, 640);
    put(&mut out, 8, ((space.low_ram >> 10) as u32).saturating_sub(1024));
    let line = text(&mut out, &kernel.command_line);
    put(&mut out, 16, line);
    put(&mut out, 20, modules.len() as u32);
    put(&mut out, 24, INFO + INFO_SIZE as u32);
    for (i, (start, end, name)) in modules.iter().enumerate() {
        let at = INFO_SIZE + 16 * i;
        put(&mut out, at, *start);
        put(&mut out, at + 4, *end);
        let name = text(&mut out, name);
        put(&mut out, at + 8, name);
    }
    let loader = text(&mut out, "orrery");
    put(&mut out, 64, loader);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 32-bit ELF with a multiboot header, one segment at 1 MiB linked at C0100000.
    fn elf() -> Vec<u8> {
        let mut f = vec![0; 0x100];
        f[..6].copy_from_slice(b"\x7fELF\x01\x01");
        let mut put = |at: usize, v: u32| f[at..at + 4].copy_from_slice(&v.to_le_bytes());
        put(24, 0xc010_0020);
        put(28, 52);
        put(42, 32);
        put(44, 1);
        for (i, v) in [1, 0x80, 0xc010_0000, 0x10_0000, 0x80, 0x200].into_iter().enumerate() {
            put(52 + 4 * i, v);
        }
        put(0x80, MAGIC);
        put(0x84, 3);
        put(0x88, 0_u32.wrapping_sub(MAGIC + 3));
        f
    }

    #[test]
    fn an_elf_is_loaded_at_its_physical_addresses_and_entered_there() {
        let l = load_elf(&elf(), Space { low_ram: 16 << 20 }).unwrap();
        assert_eq!((l.base, l.entry, l.memory.len()), (0x10_0000, 0x10_0020, 0x200));
        assert_eq!(u32_at(&l.memory, 0), Some(MAGIC));
    }

    #[test]
    fn modules_follow_the_kernel_on_pages_of_their_own() {
        let kernel = Kernel {
            image: elf(),
            initrd: vec![("mod arg".into(), vec![7; 10])],
            command_line: "x".into(),
        };
        let mut items = Items::default();
        load(&kernel, Space { low_ram: 16 << 20 }, &mut items).unwrap();
        let i = information(
            &kernel,
            &[(0x10_1000, 0x10_100a, "mod arg".into())],
            Space { low_ram: 16 << 20 },
        );
        assert_eq!(u32_at(&i, INFO_SIZE), Some(0x10_1000));
        let name = (u32_at(&i, INFO_SIZE + 8).unwrap() - INFO) as usize;
        assert_eq!(&i[name..name + 8], b"mod arg\0");
    }

    #[test]
    fn a_damaged_elf_is_refused() {
        let mut f = elf();
        f.truncate(0x90);
        let kernel = Kernel { image: f, ..Kernel::default() };
        let mut items = Items::default();
        assert!(load(&kernel, Space { low_ram: 16 << 20 }, &mut items).is_err());
    }
}
