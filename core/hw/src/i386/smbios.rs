//! SMBIOS tables (DMTF DSP0134 2.8): what the machine is called and how much memory it has.

/// What the tables say.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Product: the machine's description.
    pub(crate) product: String,
    /// Version: the machine's name.
    pub(crate) version: String,
    /// System UUID.
    pub(crate) uuid: [u8; 16],
    /// CPUs.
    pub(crate) cpus: u8,
    /// Bytes of RAM below 4 GiB and above.
    pub(crate) ram: [u64; 2],
}

/// The tables, and their entry point without address and checksums, which firmware fills in.
pub(crate) struct Files {
    /// The tables.
    pub(crate) tables: Vec<u8>,
    /// The entry point.
    pub(crate) anchor: Vec<u8>,
}

const MANUFACTURER: &str = "Orrery";

struct Writer {
    out: Vec<u8>,
    count: u16,
    largest: usize,
}

impl Writer {
    /// Adds a structure: its bytes after the header, and its strings.
    fn add(&mut self, kind: u8, handle: u16, body: &[u8], strings: &[&str]) {
        let at = self.out.len();
        self.out.extend([kind, (4 + body.len()) as u8]);
        self.out.extend(handle.to_le_bytes());
        self.out.extend(body);
        for s in strings {
            self.out.extend(s.as_bytes());
            self.out.push(0);
        }
        self.out.push(0);
        if strings.is_empty() {
            self.out.push(0);
        }
        self.count += 1;
        self.largest = self.largest.max(self.out.len() - at);
    }
}

/// Builds them.
pub(crate) fn build(c: &Config) -> Files {
    let mut w = Writer { out: Vec::new(), count: 0, largest: 0 };
    // System: manufacturer, product, version, serial number, UUID, woken by the power switch.
    let mut body = vec![1, 2, 3, 0];
    // The first three groups of a UUID are little-endian here.
    body.extend([3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|i: usize| c.uuid[i]));
    body.extend([6, 0, 0]);
    w.add(1, 0x100, &body, &[MANUFACTURER, &c.product, &c.version]);
    // Enclosure: other; states safe.
    let mut body = vec![1, 1, 2, 0, 0, 3, 3, 3, 2];
    body.extend([0; 4]);
    body.extend([0, 0, 0, 0, 0]);
    w.add(3, 0x300, &body, &[MANUFACTURER, &c.version]);
    for cpu in 0..c.cpus {
        processor(&mut w, cpu, &c.version);
    }
    memory(&mut w, c.ram);
    w.add(32, 0x2000, &[0, 0, 0, 0, 0, 0, 0], &[]);
    w.add(127, 0x7f00, &[], &[]);
    Files { anchor: anchor(&w), tables: w.out }
}

fn processor(w: &mut Writer, cpu: u8, version: &str) {
    let socket = format!("CPU {cpu}");
    // Socket, central processor, family other, manufacturer, id.
    let mut body = vec![1, 3, 1, 2];
    body.extend([0; 8]);
    // Version; voltage, clock and speeds unknown; enabled; upgrade other; no caches.
    body.extend([3, 0, 0, 0, 0, 0, 0, 0, 0x41, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    // No serial number, tag or part; one core, enabled, one thread; characteristics unknown.
    body.extend([0, 0, 0, 1, 1, 1, 2, 0]);
    // Family, in 16 bits.
    body.extend([1, 0]);
    w.add(4, 0x400 + u16::from(cpu), &body, &[&socket, MANUFACTURER, version]);
}

fn memory(w: &mut Writer, ram: [u64; 2]) {
    const MODULE: u64 = 16 << 30;
    let total: u64 = ram.iter().sum();
    let modules = total.div_ceil(MODULE).max(1);
    // Array: other location, system memory, multi-bit ECC; capacity in KiB, or extended.
    let kib = total >> 10;
    let mut body = vec![1, 3, 6];
    let small = u32::try_from(kib).ok().filter(|&v| v < 0x8000_0000);
    body.extend(small.unwrap_or(0x8000_0000).to_le_bytes());
    body.extend(0xfffe_u16.to_le_bytes());
    body.extend((modules as u16).to_le_bytes());
    body.extend(if small.is_some() { 0 } else { total }.to_le_bytes());
    w.add(16, 0x1000, &body, &[]);
    for i in 0..modules {
        let mib = (total - i * MODULE).min(MODULE) >> 20;
        let mut body = 0x1000_u16.to_le_bytes().to_vec();
        // No error handle, width unknown; size in MiB; DIMM, no set; locators; RAM.
        body.extend(0xfffe_u16.to_le_bytes());
        body.extend([0xff; 4]);
        body.extend((mib as u16).min(0x7fff).to_le_bytes());
        body.extend([9, 0, 1, 0, 7]);
        body.extend(2_u16.to_le_bytes());
        // Speed unknown; manufacturer; no serial number, tag, part; attributes; extended size,
        // configured speed and voltages.
        body.extend([0, 0, 2, 0, 0, 0, 0]);
        body.extend([0; 12]);
        w.add(17, 0x1100 + i as u16, &body, &[&format!("DIMM {i}"), MANUFACTURER]);
    }
    let starts = [0, 1 << 32];
    for (i, (&len, start)) in ram.iter().zip(starts).enumerate().filter(|(_, (l, _))| **l != 0) {
        let mut body = Vec::new();
        body.extend(((start >> 10) as u32).to_le_bytes());
        body.extend((((start + len) >> 10) as u32).wrapping_sub(1).to_le_bytes());
        body.extend(0x1000_u16.to_le_bytes());
        body.push(1);
        // Addresses in 64 bits, used where the 32-bit ones do not reach.
        body.extend([0; 16]);
        w.add(19, 0x1300 + i as u16, &body, &[]);
    }
}

/// The 2.1 entry point (DSP0134 5.2.1).
fn anchor(w: &Writer) -> Vec<u8> {
    let mut a = b"_SM_\0\x1f\x02\x08".to_vec();
    a.extend((w.largest as u16).to_le_bytes());
    a.extend([0; 6]);
    a.extend(b"_DMI_\0");
    a.extend((w.out.len() as u16).to_le_bytes());
    a.extend([0; 4]);
    a.extend(w.count.to_le_bytes());
    a.push(0x28);
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        build(&Config {
            product: "Standard PC".into(),
            version: "pc".into(),
            uuid: std::array::from_fn(|i| i as u8),
            cpus: 2,
            ram: [128 << 20, 0],
        })
    }

    /// (type, formatted length) of each structure, found as a reader does.
    fn walk(tables: &[u8]) -> Vec<(u8, u8)> {
        let (mut at, mut out) = (0, Vec::new());
        while at < tables.len() {
            out.push((tables[at], tables[at + 1]));
            at += usize::from(tables[at + 1]);
            while tables[at..at + 2] != [0, 0] {
                at += 1;
            }
            at += 2;
        }
        out
    }

    #[test]
    fn a_reader_finds_every_structure_at_its_length() {
        let f = files();
        let expect = [
            (1, 0x1b),
            (3, 0x16),
            (4, 0x2a),
            (4, 0x2a),
            (16, 0x17),
            (17, 0x28),
            (19, 0x1f),
            (32, 0x0b),
            (127, 4),
        ];
        assert_eq!(walk(&f.tables), expect);
    }

    #[test]
    fn the_entry_point_says_how_long_and_how_many() {
        let f = files();
        assert_eq!(f.anchor.len(), 0x1f);
        assert_eq!(usize::from(f.anchor[0x16]) | usize::from(f.anchor[0x17]) << 8, f.tables.len());
        assert_eq!(f.anchor[0x1c], 9);
    }
}
