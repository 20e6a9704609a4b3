//! Block devices that are no IDE or SCSI: floppy disks, flash; and what all drives share.

pub mod drive;
pub mod fdc;
pub mod geometry;
pub mod nvme;
pub mod pflash_cfi01;
