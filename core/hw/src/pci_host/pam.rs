//! Programmable attribute map and SMRAM: RAM or PCI in the first megabyte.

use orrery_system::{Board, DeviceId, Region};

/// Segments of the attribute map: base, size, and the register and nibble that govern them
/// (82441FX data sheet 3.2.16; the later memory controllers have the same).
const SEGMENTS: [(u64, u64, usize, u32); 13] = [
    (0xf_0000, 0x1_0000, 0, 4),
    (0xc_0000, 0x4000, 1, 0),
    (0xc_4000, 0x4000, 1, 4),
    (0xc_8000, 0x4000, 2, 0),
    (0xc_c000, 0x4000, 2, 4),
    (0xd_0000, 0x4000, 3, 0),
    (0xd_4000, 0x4000, 3, 4),
    (0xd_8000, 0x4000, 4, 0),
    (0xd_c000, 0x4000, 4, 4),
    (0xe_0000, 0x4000, 5, 0),
    (0xe_4000, 0x4000, 5, 4),
    (0xe_8000, 0x4000, 6, 0),
    (0xe_c000, 0x4000, 6, 4),
];

/// Bank of the bridges that answers like an empty bus: where PCI shows but no device is, RAM must
/// not shine through.
pub(super) const EMPTY: u32 = 2;

/// The windows through which PCI shows in front of RAM from A0000 to FFFFF.
pub(super) struct LowMap {
    segments: Vec<Region>,
    /// A0000–BFFFF.
    video: Region,
}

impl LowMap {
    /// Puts the windows onto `pci` in front of the RAM in the board's memory map. `bridge` has
    /// the bank [`EMPTY`].
    pub(super) fn new(board: &Board, pci: &Region, bridge: DeviceId) -> Self {
        let empty = board.regions().device("pci-empty", 0x6_0000, bridge, EMPTY);
        pci.add_priority(0xa_0000, -1, &empty);
        let window = |name: &str, base: u64, size: u64| {
            let alias = board.regions().alias(name, pci, base, size);
            board.memory().add_priority(base, 1, &alias);
            alias
        };
        Self {
            segments: SEGMENTS.iter().map(|&(base, size, ..)| window("pam", base, size)).collect(),
            video: window("smram", 0xa_0000, 0x2_0000),
        }
    }

    /// Directs reads and writes of each segment as the seven attribute registers say, and shows
    /// SMRAM instead of PCI from A0000 if `smram`.
    pub(super) fn drive(&self, attributes: [u8; 7], smram: bool) {
        for (region, &(_, _, index, shift)) in self.segments.iter().zip(&SEGMENTS) {
            let bits = attributes[index] >> shift;
            region.set_access(bits & 1 == 0, bits & 2 == 0);
        }
        self.video.set_enabled(!smram);
    }
}

/// What writing `value` makes of an SMRAM control register that reads `old`: bit 4 locks it with
/// SMRAM closed, bit 3 enables, and the base segment is fixed.
pub(super) const fn write_smram(old: u8, value: u8) -> u8 {
    if old & 0x10 != 0 {
        return old;
    }
    let new = value & 0x78 | 0x02;
    if new & 0x10 != 0 { new & !0x40 } else { new }
}
