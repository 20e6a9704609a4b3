//! The structures that IDENTIFY and GET LOG PAGE give (5.14, 5.15).

use super::{Config, MDTS, Namespace, VERSION};

/// Namespaces a controller can have.
pub(super) const NAMESPACES: u32 = 256;

/// Optional commands: compare, dataset management, write zeroes.
const ONCS: u16 = 1 | 4 | 8;

struct Structure(Vec<u8>);

impl Structure {
    fn new() -> Self {
        Self(vec![0; 4096])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn text(&mut self, at: usize, width: usize, text: &str) {
        let text = crate::scsi::spc::padded(text, width);
        self.put(at, text.as_bytes());
    }
}

/// The controller.
pub(super) fn controller(config: &Config) -> Vec<u8> {
    let mut s = Structure::new();
    s.put(0, &0x1b36_u16.to_le_bytes());
    s.put(2, &0x1af4_u16.to_le_bytes());
    s.text(4, 20, &config.serial);
    s.text(24, 40, "QEMU NVMe Ctrl");
    s.text(64, 8, "1.0");
    // Arbitration burst, maker, and how long a transfer may be.
    s.put(72, &[6, 0x00, 0x54, 0x52, 0, MDTS]);
    s.put(80, &VERSION.to_le_bytes());
    // An I/O controller.
    s.put(111, &[1]);
    // It formats; aborts and events, four each; one firmware slot, read-only; the effects log.
    s.put(256, &2_u16.to_le_bytes());
    s.put(258, &[3, 3, 3, 6, 0, 0, 0, 0]);
    // Temperatures that warn, in kelvin.
    s.put(266, &0x157_u16.to_le_bytes());
    s.put(268, &0x175_u16.to_le_bytes());
    // Sizes of queue entries.
    s.put(512, &[0x66, 0x44]);
    s.put(516, &NAMESPACES.to_le_bytes());
    s.put(520, &ONCS.to_le_bytes());
    // A volatile write cache, and flushes of all namespaces.
    s.put(525, &[7]);
    // Scatter gather lists, at any alignment.
    s.put(536, &1_u32.to_le_bytes());
    let name = format!("nqn.2019-08.org.qemu:{}", config.serial);
    s.put(768, &name.as_bytes()[..name.len().min(255)]);
    // One power state: 25 W.
    s.put(2048, &2500_u16.to_le_bytes());
    s.put(2052, &16_u32.to_le_bytes());
    s.put(2056, &4_u32.to_le_bytes());
    s.0
}

/// A namespace.
pub(super) fn namespace(ns: &Namespace) -> Vec<u8> {
    let mut s = Structure::new();
    let blocks = ns.backend.len() / u64::from(ns.block_size);
    for at in [0, 8, 16] {
        s.put(at, &blocks.to_le_bytes());
    }
    // It says what it does with deallocated blocks: they read as zeros.
    s.put(24, &[4]);
    s.put(33, &[9]);
    if ns.eui64 != 0 {
        s.put(120, &ns.eui64.to_be_bytes());
    }
    s.put(130, &[ns.block_size.ilog2() as u8]);
    s.0
}

/// What is common to all namespaces.
pub(super) fn no_namespace() -> Vec<u8> {
    let mut s = Structure::new();
    s.put(130, &[9]);
    s.0
}

/// A namespace's identifiers (figure 249): a UUID made of its number, and its EUI-64.
pub(super) fn descriptors(ns: &Namespace) -> Vec<u8> {
    let mut s = Structure::new();
    let mut at = 0;
    if ns.eui64 != 0 {
        s.put(0, &[1, 8, 0, 0]);
        s.put(4, &ns.eui64.to_be_bytes());
        at = 12;
    }
    // The command set: NVM.
    s.put(at, &[4, 1, 0, 0, 0]);
    s.0
}

/// SMART and health information.
pub(super) fn health(counts: [[u64; 2]; 2]) -> Vec<u8> {
    let mut b = vec![0; 512];
    // 50 degrees; all spare there.
    b[1..3].copy_from_slice(&0x143_u16.to_le_bytes());
    (b[3], b[4]) = (100, 10);
    for (i, [commands, units]) in counts.into_iter().enumerate() {
        // In thousands of 512 bytes.
        b[32 + 16 * i..][..8].copy_from_slice(&units.div_ceil(1000).to_le_bytes());
        b[64 + 16 * i..][..8].copy_from_slice(&commands.to_le_bytes());
    }
    b
}

/// The firmware slots.
pub(super) fn firmware() -> Vec<u8> {
    let mut b = vec![0; 512];
    b[0] = 1;
    b[8..16].copy_from_slice(b"1.0     ");
    b
}

/// Which commands there are, and which change what a namespace holds.
pub(super) fn effects() -> Vec<u8> {
    let mut b = vec![0; 4096];
    for admin in [0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x80] {
        b[4 * admin] = 1;
    }
    b[4 * 0x80] = 3;
    for (command, effect) in [(0, 3), (1, 3), (2, 1), (5, 1), (8, 3), (9, 3)] {
        b[1024 + 4 * command] = effect;
    }
    b
}
