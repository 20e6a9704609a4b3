//! Floppy disk formats and drive types.

use orrery_block::backend::BlockBackend;
use serde::{Deserialize, Serialize};

/// A type of drive, as the PC's clock memory and QEMU's `-global isa-fdc.driveA=` name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriveType {
    /// What fits the disk that is in the drive at power-on.
    #[default]
    Auto,
    /// 5.25 inch, 1.2 MB.
    D120,
    /// 3.5 inch, 1.44 MB.
    D144,
    /// 3.5 inch, 2.88 MB.
    D288,
    /// No drive.
    None,
}

impl DriveType {
    /// The type a drive with this backend has: resolves [`DriveType::Auto`].
    pub fn resolve(self, backend: &BlockBackend) -> Self {
        match self {
            Self::Auto if backend.has_medium() => {
                let format = Format::detect(backend.len(), Self::Auto);
                format.drive
            }
            Self::Auto => Self::D288,
            known => known,
        }
    }

    /// The nibble that tells it to firmware (clock memory, offset 0x10).
    pub fn cmos(self) -> u8 {
        match self {
            Self::D120 => 2,
            Self::D144 => 4,
            Self::D288 => 5,
            Self::Auto | Self::None => 0,
        }
    }
}

/// How a disk is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The drive that such disks are made for.
    pub drive: DriveType,
    /// Sectors of a track, each 512 bytes.
    pub sectors: u8,
    /// Tracks of a side.
    pub tracks: u8,
    /// Sides.
    pub heads: u8,
    /// Data rate as the data rate select register codes it: 0 500, 1 300, 2 250, 3 1000 kbit/s.
    pub rate: u8,
}

const fn format(drive: DriveType, sectors: u8, tracks: u8, heads: u8, rate: u8) -> Format {
    Format { drive, sectors, tracks, heads, rate }
}

/// Layouts that were in use, the usual ones of each drive first.
const FORMATS: &[Format] = &[
    // 3.5 inch, high density: 1440 KB and what formatting tools squeezed in.
    format(DriveType::D144, 18, 80, 2, 0),
    format(DriveType::D144, 20, 80, 2, 0),
    format(DriveType::D144, 21, 80, 2, 0),
    format(DriveType::D144, 21, 82, 2, 0),
    format(DriveType::D144, 21, 83, 2, 0),
    format(DriveType::D144, 22, 80, 2, 0),
    format(DriveType::D144, 23, 80, 2, 0),
    format(DriveType::D144, 24, 80, 2, 0),
    // 3.5 inch, extra density: 2880 KB.
    format(DriveType::D288, 36, 80, 2, 3),
    format(DriveType::D288, 39, 80, 2, 3),
    format(DriveType::D288, 40, 80, 2, 3),
    format(DriveType::D288, 44, 80, 2, 3),
    format(DriveType::D288, 48, 80, 2, 3),
    // 3.5 inch, double density: 720 KB.
    format(DriveType::D144, 9, 80, 2, 2),
    format(DriveType::D144, 10, 80, 2, 2),
    format(DriveType::D144, 10, 82, 2, 2),
    format(DriveType::D144, 10, 83, 2, 2),
    format(DriveType::D144, 13, 80, 2, 2),
    format(DriveType::D144, 14, 80, 2, 2),
    // 5.25 inch, high density: 1200 KB.
    format(DriveType::D120, 15, 80, 2, 0),
    format(DriveType::D120, 18, 82, 2, 0),
    format(DriveType::D120, 18, 83, 2, 0),
    // 5.25 inch, double density in a high-density drive: 160 to 420 KB.
    format(DriveType::D120, 11, 80, 2, 2),
    format(DriveType::D120, 9, 40, 2, 1),
    format(DriveType::D120, 9, 40, 1, 1),
    format(DriveType::D120, 10, 41, 2, 1),
    format(DriveType::D120, 10, 42, 2, 1),
    format(DriveType::D120, 8, 40, 2, 1),
    format(DriveType::D120, 8, 40, 1, 1),
    // Single-sided 3.5 inch: 360 KB has the size of the 5.25 inch disk above.
    format(DriveType::D144, 9, 80, 1, 2),
];

impl Format {
    /// Bytes on such a disk.
    pub fn bytes(self) -> u64 {
        u64::from(self.sectors) * u64::from(self.tracks) * u64::from(self.heads) * 512
    }

    /// The layout of a disk of `len` bytes: one of exactly that size, if possible for this drive.
    /// Other sizes are images that stop early; they get the standard layout that holds them.
    pub fn detect(len: u64, drive: DriveType) -> Self {
        let mut exact = FORMATS.iter().filter(|f| f.bytes() == len);
        let own = exact.clone().find(|f| f.drive == drive);
        let standard = if len > FORMATS[0].bytes() { &FORMATS[8] } else { &FORMATS[0] };
        *own.or_else(|| exact.next()).unwrap_or(standard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_an_image_tells_its_layout() {
        for (kb, sectors, tracks, heads) in [
            (160, 8, 40, 1),
            (180, 9, 40, 1),
            (320, 8, 40, 2),
            (360, 9, 40, 2),
            (720, 9, 80, 2),
            (1200, 15, 80, 2),
            (1440, 18, 80, 2),
            (1680, 21, 80, 2),
            (2880, 36, 80, 2),
        ] {
            let f = Format::detect(kb * 1024, DriveType::Auto);
            assert_eq!((f.sectors, f.tracks, f.heads), (sectors, tracks, heads), "{kb} KB");
        }
        assert_eq!(Format::detect(512, DriveType::D144).sectors, 18, "a boot sector alone");
        assert_eq!(Format::detect(2_000_000, DriveType::D144).sectors, 36);
        assert_eq!(Format::detect(360 * 1024, DriveType::D144).heads, 1);
    }

    #[test]
    fn an_empty_drive_takes_any_disk_and_others_follow_the_one_they_hold() {
        assert_eq!(DriveType::Auto.resolve(&BlockBackend::detached()).cmos(), 5);
        let disk = BlockBackend::ram(vec![0; 1440 * 1024]);
        assert_eq!(DriveType::Auto.resolve(&disk).cmos(), 4);
        assert_eq!(DriveType::None.resolve(&disk).cmos(), 0);
    }
}
