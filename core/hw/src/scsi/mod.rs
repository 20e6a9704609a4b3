//! SCSI command sets. ATAPI drives speak them too.

pub mod mmc;
pub mod sense;
