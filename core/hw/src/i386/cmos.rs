//! What a PC's clock memory says when it leaves the factory: memory, drives, boot order.
//!
//! Reference: the layout as SeaBIOS and the PC/AT's BIOS read it (Ralf Brown's CMOS list).

use crate::block::geometry::{self, Shape};
use std::collections::BTreeMap;

/// The bytes that are set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cmos {
    bytes: BTreeMap<u8, u8>,
}

/// Equipment: a floating-point unit and a PS/2 mouse.
const EQUIPMENT: u8 = 0x06;

impl Cmos {
    /// Memory below and above 4 GiB, CPUs, and the boot order.
    pub(crate) fn new(low: u64, high: u64, cpus: usize, boot: [(u8, u8); 2]) -> Self {
        let mut c = Self::default();
        // KiB below 640K; KiB above 1 MiB, twice; 64 KiB units above 16 MiB; and above 4 GiB.
        c.word(0x15, 640);
        let extended = (low >> 10).saturating_sub(1024).min(0xffff) as u16;
        c.word(0x17, extended);
        c.word(0x30, extended);
        c.word(0x34, (low.saturating_sub(16 << 20) >> 16).min(0xffff) as u16);
        c.word(0x5b, (high >> 16) as u16);
        c.set(0x5d, (high >> 32) as u8);
        c.set(0x5f, cpus.saturating_sub(1) as u8);
        c.set(0x14, EQUIPMENT);
        for (index, value) in boot {
            c.set(index, value);
        }
        c
    }

    /// The bytes of a boot order, letters of `acdn`. `check`: a floppy disk must have a boot
    /// sector's signature.
    pub(crate) fn boot_order(order: &str, check: bool) -> [(u8, u8); 2] {
        let device = |letter| match letter {
            'a' | 'b' => 1,
            'c' => 2,
            'd' => 3,
            'n' => 4,
            _ => 0,
        };
        let order: Vec<u8> = order.chars().map(device).chain([0; 3]).take(3).collect();
        [(0x38, order[2] << 4 | u8::from(!check)), (0x3d, order[1] << 4 | order[0])]
    }

    fn set(&mut self, index: u8, value: u8) {
        self.bytes.insert(index, value);
    }

    fn word(&mut self, index: u8, value: u16) {
        self.set(index, value as u8);
        self.set(index + 1, (value >> 8) as u8);
    }

    /// Types of the floppy drives.
    pub(crate) fn floppies(&mut self, kinds: [u8; 2]) {
        self.set(0x10, kinds[0] << 4 | kinds[1]);
        let count = kinds.iter().filter(|&&k| k != 0).count() as u8;
        // Bit 0: there are floppy drives; bits 7:6: how many, less one.
        let drives = if count > 0 { 1 | (count - 1) << 6 } else { 0 };
        self.set(0x14, EQUIPMENT | drives);
    }

    /// IDE disk `n` (0 to 3) of so many sectors.
    pub(crate) fn disk(&mut self, n: usize, sectors: u64, shape: Option<Shape>) {
        let geometry = shape.map_or_else(|| geometry::usual(sectors), |s| s.geometry);
        let (cylinders, heads) = (u64::from(geometry.cylinders), u64::from(geometry.heads));
        // How the BIOS translates addresses: not at all, by moving cylinder bits to heads, by LBA.
        let usual = match cylinders {
            0..=1024 => 0,
            c if c * heads <= 131_072 => 2,
            _ => 1,
        };
        let translation = shape.map_or(usual, |s| s.translation.cmos());
        let old = self.bytes.get(&0x39).copied().unwrap_or(0);
        self.set(0x39, old | translation << (2 * n));
        if n >= 2 {
            return;
        }
        // Type 47: given in the bytes from 1B and 24.
        let types = self.bytes.get(&0x12).copied().unwrap_or(0);
        self.set(0x12, types | 0xf0 >> (4 * n));
        self.set(0x19 + n as u8, 47);
        let base = 0x1b + 9 * n as u8;
        self.word(base, cylinders as u16);
        self.set(base + 2, heads as u8);
        self.word(base + 3, 0xffff);
        self.set(base + 5, 0xc0 | u8::from(heads > 8) << 3);
        self.word(base + 6, cylinders as u16);
        self.set(base + 8, geometry.sectors);
    }

    /// Index and value of every byte that is set.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = (u8, u8)> {
        self.bytes.iter().map(|(&i, &v)| (i, v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(c: &Cmos, i: u8) -> u16 {
        u16::from(c.bytes[&i]) | u16::from(c.bytes[&(i + 1)]) << 8
    }

    #[test]
    fn memory_is_counted_in_its_three_units() {
        let c = Cmos::new(512 << 20, 3 << 30, 2, Cmos::boot_order("cad", true));
        assert_eq!((word(&c, 0x30), word(&c, 0x34)), (0xffff, 496 * 16));
        assert_eq!((word(&c, 0x5b), c.bytes[&0x5d], c.bytes[&0x5f]), (0xc000, 0, 1));
    }

    #[test]
    fn the_boot_order_is_three_nibbles() {
        assert_eq!(Cmos::boot_order("dc", true), [(0x38, 0), (0x3d, 0x23)]);
        assert_eq!(Cmos::boot_order("cad", true), [(0x38, 0x30), (0x3d, 0x12)]);
        assert_eq!(Cmos::boot_order("", false), [(0x38, 1), (0x3d, 0)]);
    }

    #[test]
    fn two_floppy_drives_show_in_the_equipment() {
        let mut c = Cmos::new(1 << 20, 0, 1, Cmos::boot_order("a", true));
        c.floppies([4, 5]);
        assert_eq!((c.bytes[&0x10], c.bytes[&0x14]), (0x45, 0x47));
    }

    #[test]
    fn a_large_second_disk_is_translated_by_lba() {
        let mut c = Cmos::new(1 << 20, 0, 1, Cmos::boot_order("c", true));
        c.disk(0, 400 * 16 * 63, None);
        c.disk(1, 1 << 24, None);
        assert_eq!((c.bytes[&0x39], c.bytes[&0x12]), (0x04, 0xff));
        assert_eq!(word(&c, 0x1b), 400);
    }
}
