//! What units of every kind answer alike: SPC-3.

use super::sense::Sense;

/// Command codes that SPC-3 gives to every device type, or that several share.
pub mod op {
    /// TEST UNIT READY.
    pub const TEST_UNIT_READY: u8 = 0x00;
    /// REQUEST SENSE.
    pub const REQUEST_SENSE: u8 = 0x03;
    /// INQUIRY.
    pub const INQUIRY: u8 = 0x12;
    /// MODE SELECT (6).
    pub const MODE_SELECT_6: u8 = 0x15;
    /// MODE SENSE (6).
    pub const MODE_SENSE_6: u8 = 0x1a;
    /// START STOP UNIT.
    pub const START_STOP_UNIT: u8 = 0x1b;
    /// PREVENT ALLOW MEDIUM REMOVAL.
    pub const PREVENT_ALLOW: u8 = 0x1e;
    /// READ CAPACITY (10).
    pub const READ_CAPACITY: u8 = 0x25;
    /// READ (10).
    pub const READ_10: u8 = 0x28;
    /// SEEK (10).
    pub const SEEK_10: u8 = 0x2b;
    /// VERIFY (10).
    pub const VERIFY_10: u8 = 0x2f;
    /// SYNCHRONIZE CACHE (10).
    pub const SYNCHRONIZE_CACHE: u8 = 0x35;
    /// MODE SELECT (10).
    pub const MODE_SELECT_10: u8 = 0x55;
    /// MODE SENSE (10).
    pub const MODE_SENSE_10: u8 = 0x5a;
    /// REPORT LUNS.
    pub const REPORT_LUNS: u8 = 0xa0;
    /// READ (12).
    pub const READ_12: u8 = 0xa8;
}

/// Names a unit gives itself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// INQUIRY vendor, 8 characters.
    pub vendor: String,
    /// INQUIRY product, 16 characters.
    pub product: String,
    /// INQUIRY revision, 4 characters.
    pub revision: String,
    /// Unit serial number.
    pub serial: String,
}

/// Fields of a command block, padded to 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cdb(pub [u8; 16]);

impl Cdb {
    /// From the bytes there are; those it lacks are zero.
    pub fn new(bytes: &[u8]) -> Self {
        let mut c = [0; 16];
        let n = bytes.len().min(16);
        c[..n].copy_from_slice(&bytes[..n]);
        Self(c)
    }

    /// The command code.
    pub fn op(&self) -> u8 {
        self.0[0]
    }

    /// A byte.
    pub fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    /// Two bytes.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Four bytes.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    /// Eight bytes.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}

/// Standard INQUIRY data (6.4.2): device type, removable medium, the version of SPC it claims, the byte with the
/// response format, and the seventh byte's flags.
pub fn standard_inquiry(kind: u8, removable: bool, head: [u8; 3], identity: &Identity) -> Vec<u8> {
    let [version, format, flags] = head;
    let mut d = vec![kind, u8::from(removable) << 7, version, format, 31, 0, 0, flags];
    d.extend(padded(&identity.vendor, 8).bytes());
    d.extend(padded(&identity.product, 16).bytes());
    d.extend(padded(&identity.revision, 4).bytes());
    d
}

/// A page of vital product data (7.6).
pub fn vital_page(kind: u8, page: u8, body: &[u8]) -> Vec<u8> {
    let mut d = vec![kind, page];
    d.extend((body.len() as u16).to_be_bytes());
    d.extend(body);
    d
}

/// A designator (7.6.3.1): code set and type.
pub fn designator(code_set: u8, kind: u8, id: &[u8]) -> Vec<u8> {
    let id = &id[..id.len().min(255)];
    let mut d = vec![code_set, kind, 0, id.len() as u8];
    d.extend(id);
    d
}

/// Mode pages behind their header (7.4.3): the long one of MODE SENSE (10) or the short one.
pub fn mode_data(long: bool, medium: u8, specific: u8, descriptor: &[u8], pages: &[u8]) -> Vec<u8> {
    let n = descriptor.len() as u8;
    let mut d = match long {
        true => vec![0, 0, medium, specific, 0, 0, 0, n],
        false => vec![0, medium, specific, n],
    };
    d.extend(descriptor);
    d.extend(pages);
    if long {
        let len = (d.len() as u16 - 2).to_be_bytes();
        d[..2].copy_from_slice(&len);
    } else {
        d[0] = (d.len() - 1).min(255) as u8;
    }
    d
}

/// Those of `pages` that MODE SENSE's page byte `select` asks for, as the page control in it says: what can be
/// changed are the bits of `changeable`.
pub fn mode_pages(select: u8, subpage: u8, pages: &[(Vec<u8>, Vec<u8>)]) -> Result<Vec<u8>, Sense> {
    if select >> 6 == 3 {
        return Err(Sense::NO_SAVED_PAGES);
    }
    if !matches!(subpage, 0 | 0xff) {
        return Err(Sense::INVALID_FIELD);
    }
    let wanted = select & 0x3f;
    let mut body = Vec::new();
    for (page, changeable) in pages {
        if wanted != page[0] && wanted != 0x3f {
            continue;
        }
        body.extend(&page[..2]);
        if select >> 6 == 1 {
            body.extend((2..page.len()).map(|i| changeable.get(i).copied().unwrap_or(0)));
        } else {
            body.extend(&page[2..]);
        }
    }
    if body.is_empty() { Err(Sense::INVALID_FIELD) } else { Ok(body) }
}

/// Text cut or filled to `width` characters.
pub fn padded(text: &str, width: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii).take(width).collect();
    format!("{text:width$}")
}
