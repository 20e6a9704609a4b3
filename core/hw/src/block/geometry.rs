//! What a disk's partition table says of the geometry it was made with.
//!
//! Reference: the partition entries of a PC's boot sector: start and end as head, sector and
//! cylinder, then both as sector numbers. Partitions end at the end of a cylinder by custom.

use crate::ide::ata::Geometry;

/// How a PC's BIOS makes disks look smaller in cylinders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Not at all.
    None,
    /// By block numbers.
    Lba,
    /// By moving bits of the cylinder to the head.
    Large,
}

impl Translation {
    /// As in the clock's memory.
    pub(crate) fn cmos(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lba => 1,
            Self::Large => 2,
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "lba" => Some(Self::Lba),
            "large" => Some(Self::Large),
            _ => None,
        }
    }
}

/// A disk as the BIOS is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What the drive says.
    pub geometry: Geometry,
    /// What the BIOS makes of it.
    pub translation: Translation,
}

/// The usual geometry of a disk of so many sectors.
pub fn usual(sectors: u64) -> Geometry {
    let cylinders = (sectors / (16 * 63)).clamp(2, 16383) as u16;
    Geometry { cylinders, heads: 16, sectors: 63 }
}

/// What the partitions in a boot sector say; `None` if they say nothing.
pub fn guess(boot: &[u8], sectors: u64) -> Option<Shape> {
    if boot.get(510..512)? != [0x55, 0xaa] {
        return None;
    }
    for entry in boot.get(446..510)?.chunks(16) {
        let count = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
        let (heads, per_track) = (u64::from(entry[5]) + 1, u64::from(entry[6] & 63));
        if count == 0 || heads == 1 || per_track == 0 {
            continue;
        }
        let cylinders = sectors / (heads * per_track);
        if !(1..=16383).contains(&cylinders) {
            continue;
        }
        if heads > 16 {
            // The BIOS translated; the drive is a usual one.
            let geometry = usual(sectors);
            let few = u32::from(geometry.cylinders) * u32::from(geometry.heads) <= 131_072;
            let translation = if few { Translation::Large } else { Translation::Lba };
            return Some(Shape { geometry, translation });
        }
        let geometry =
            Geometry { cylinders: cylinders as u16, heads: heads as u8, sectors: per_track as u8 };
        return Some(Shape { geometry, translation: Translation::None });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(heads: u8) -> Vec<u8> {
        let mut sector = vec![0; 512];
        let entry = [0x80, 1, 1, 0, 6, heads - 1, 63, 7, 63, 0, 0, 0, 0x41, 0x1f, 0, 0];
        sector[446..462].copy_from_slice(&entry);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn a_partition_that_ends_with_a_cylinder_tells_heads_and_sectors() {
        let shape = guess(&boot(16), 61440).unwrap();
        assert_eq!(shape.geometry, Geometry { cylinders: 60, heads: 16, sectors: 63 });
        assert_eq!(shape.translation, Translation::None);
        let shape = guess(&boot(128), 61440).unwrap();
        assert_eq!((shape.geometry, shape.translation), (usual(61440), Translation::Large));
        assert_eq!(guess(&[0; 512], 61440), None, "no table");
        assert_eq!(guess(&boot(16)[..100], 61440), None);
    }
}
