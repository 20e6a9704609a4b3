//! Firmware configuration device (`fw_cfg`): how the machine tells firmware what it is.
//!
//! Reference: the fw_cfg device specification as SeaBIOS, OVMF and Linux implement it. Items have
//! a 16-bit key; items with a name are listed in the directory, key 19. Data is read through a
//! byte port or by DMA.

use orrery_system::device::Device;
use orrery_system::{
    Board, BusError, BusResult, DeviceId, Dma, Registers, RestoreError, StateBlob,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bank of ports 510 and 511: selector and data.
pub const PORTS: u32 = 0;
/// Bank of the DMA address register, ports 514 to 51B.
pub const DMA: u32 = 1;

/// Keys of items without a name.
pub mod key {
    /// `QEMU`.
    pub const SIGNATURE: u16 = 0x00;
    /// Which interfaces there are.
    pub const ID: u16 = 0x01;
    /// System UUID.
    pub const UUID: u16 = 0x02;
    /// Bytes of RAM, 64 bits.
    pub const RAM_SIZE: u16 = 0x03;
    /// Whether there is no display, 16 bits.
    pub const NOGRAPHIC: u16 = 0x04;
    /// CPUs present, 16 bits.
    pub const NB_CPUS: u16 = 0x05;
    /// Where the protected-mode kernel goes.
    pub const KERNEL_ADDR: u16 = 0x07;
    /// Its size.
    pub const KERNEL_SIZE: u16 = 0x08;
    /// Where the initial RAM disk goes.
    pub const INITRD_ADDR: u16 = 0x0a;
    /// Its size.
    pub const INITRD_SIZE: u16 = 0x0b;
    /// NUMA topology.
    pub const NUMA: u16 = 0x0d;
    /// Whether to offer a boot menu, 16 bits.
    pub const BOOT_MENU: u16 = 0x0e;
    /// Highest APIC id plus one, 16 bits.
    pub const MAX_CPUS: u16 = 0x0f;
    /// Where a multiboot kernel is entered.
    pub const KERNEL_ENTRY: u16 = 0x10;
    /// The protected-mode kernel.
    pub const KERNEL_DATA: u16 = 0x11;
    /// The initial RAM disk.
    pub const INITRD_DATA: u16 = 0x12;
    /// Where the command line goes.
    pub const CMDLINE_ADDR: u16 = 0x13;
    /// Its size, with the final zero.
    pub const CMDLINE_SIZE: u16 = 0x14;
    /// The command line.
    pub const CMDLINE_DATA: u16 = 0x15;
    /// Where the real-mode part of the kernel goes.
    pub const SETUP_ADDR: u16 = 0x16;
    /// Its size.
    pub const SETUP_SIZE: u16 = 0x17;
    /// The real-mode part of the kernel.
    pub const SETUP_DATA: u16 = 0x18;
    /// The directory.
    pub const FILE_DIR: u16 = 0x19;
    /// The first item with a name.
    pub const FILE_FIRST: u16 = 0x20;
    /// PC: interrupt 0 of the ISA bus is input 2 of the I/O APIC.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Bytes of a name in the directory, with the final zero.
const NAME_LEN: usize = 56;

/// What an item holds.
#[derive(Clone, Debug)]
enum Content {
    Fixed(Vec<u8>),
    /// Firmware may write it, by DMA.
    Writable(Vec<u8>),
    /// Made when it is selected.
    Made(usize),
}

/// The items of a machine.
#[derive(Clone, Debug, Default)]
pub struct Items {
    items: BTreeMap<u16, Content>,
    files: BTreeMap<String, u16>,
}

impl Items {
    /// Sets the item with `key`.
    pub fn set(&mut self, key: u16, data: impl Into<Vec<u8>>) {
        self.items.insert(key, Content::Fixed(data.into()));
    }

    /// Sets a 16-bit item.
    pub fn set_u16(&mut self, key: u16, value: u16) {
        self.set(key, value.to_le_bytes());
    }

    /// Sets a 32-bit item.
    pub fn set_u32(&mut self, key: u16, value: u32) {
        self.set(key, value.to_le_bytes());
    }

    /// Adds a file, or replaces one. Names are at most 55 bytes.
    pub fn add_file(&mut self, name: &str, data: impl Into<Vec<u8>>) {
        self.put(name, Content::Fixed(data.into()));
    }

    /// Adds a file that firmware may write.
    pub fn add_writable(&mut self, name: &str, data: impl Into<Vec<u8>>) {
        self.put(name, Content::Writable(data.into()));
    }

    /// Adds file `index` of the [`Wires::made`] files.
    pub fn add_made(&mut self, name: &str, index: usize) {
        self.put(name, Content::Made(index));
    }

    fn put(&mut self, name: &str, content: Content) {
        let next = key::FILE_FIRST + self.files.len() as u16;
        let key = *self.files.entry(name.into()).or_insert(next);
        self.items.insert(key, content);
    }

    /// The names of all files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    fn directory(&self, made: &dyn MadeFiles) -> Vec<u8> {
        let mut out = (self.files.len() as u32).to_be_bytes().to_vec();
        for (name, &key) in &self.files {
            let size = match &self.items[&key] {
                Content::Fixed(d) | Content::Writable(d) => d.len(),
                Content::Made(i) => made.make(*i, made.inputs()).len(),
            };
            out.extend((size as u32).to_be_bytes());
            out.extend(key.to_be_bytes());
            out.extend([0; 2]);
            let mut field = [0; NAME_LEN];
            let n = name.len().min(NAME_LEN - 1);
            field[..n].copy_from_slice(&name.as_bytes()[..n]);
            out.extend(field);
        }
        out
    }
}

/// Files that depend on what firmware did before it reads them: ACPI tables name the addresses
/// that firmware gave to the chipset.
pub trait MadeFiles: Send {
    /// What the files depend on, now.
    fn inputs(&self) -> [u64; 2];
    /// File `index` for these inputs. Its size does not depend on them.
    fn make(&self, index: usize, inputs: [u64; 2]) -> Vec<u8>;
}

/// No such files.
pub struct NothingMade;

impl MadeFiles for NothingMade {
    fn inputs(&self) -> [u64; 2] {
        [0; 2]
    }

    fn make(&self, _: usize, _: [u64; 2]) -> Vec<u8> {
        Vec::new()
    }
}

/// What the machine wires up.
pub struct Wires {
    /// Guest memory.
    pub dma: Dma,
    /// Files made when they are selected.
    pub made: Box<dyn MadeFiles>,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    key: u16,
    offset: u32,
    /// High half of the DMA address, which is written first.
    dma_high: u32,
    /// What made files depend on, since one was first selected.
    inputs: Option<[u64; 2]>,
    /// Files that were written.
    written: BTreeMap<u16, Vec<u8>>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "fw_cfg";
    const VERSION: u16 = 1;
}

/// The device.
pub struct FwCfg {
    items: Items,
    wires: Wires,
    state: State,
    /// The selected made file: a function of the state.
    made: Vec<u8>,
}

/// Puts the device at ports 510 to 51B.
pub fn build(board: &mut Board, items: Items, made: Box<dyn MadeFiles>) -> DeviceId {
    let id = board.reserve("fw_cfg");
    board.io().add(0x510, &board.regions().device("fwcfg", 2, id, PORTS));
    board.io().add(0x514, &board.regions().device("fwcfg.dma", 8, id, DMA));
    let dma = board.dma();
    board.attach(id, Box::new(FwCfg::new(items, Wires { dma, made })));
    id
}

/// Bits of a DMA request's control word.
mod control {
    pub(super) const ERROR: u32 = 1 << 0;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

impl FwCfg {
    /// Builds the device with its directory.
    pub fn new(mut items: Items, wires: Wires) -> Self {
        items.set(key::SIGNATURE, *b"QEMU");
        items.set_u32(key::ID, 3);
        let directory = items.directory(wires.made.as_ref());
        items.set(key::FILE_DIR, directory);
        Self { items, wires, state: State::default(), made: Vec::new() }
    }

    fn select(&mut self, key: u16) {
        self.state.key = key;
        self.state.offset = 0;
        if let Some(Content::Made(_)) = self.items.items.get(&key) {
            self.state.inputs = Some(self.wires.made.inputs());
        }
        self.remake();
    }

    /// Makes the selected file, if it is one of those.
    fn remake(&mut self) {
        self.made = match (self.items.items.get(&self.state.key), self.state.inputs) {
            (Some(&Content::Made(index)), Some(inputs)) => self.wires.made.make(index, inputs),
            _ => Vec::new(),
        };
    }

    fn data(&self) -> &[u8] {
        match self.items.items.get(&self.state.key) {
            Some(Content::Fixed(d)) => d,
            Some(Content::Writable(d)) => self.state.written.get(&self.state.key).unwrap_or(d),
            Some(Content::Made(_)) => &self.made,
            None => &[],
        }
    }

    fn next_byte(&mut self) -> u8 {
        let v = self.data().get(self.state.offset as usize).copied().unwrap_or(0);
        self.state.offset = self.state.offset.saturating_add(1);
        v
    }

    /// Runs the DMA request whose descriptor is at `at`.
    fn run_dma(&mut self, at: u64) {
        let mut d = [0; 16];
        if self.wires.dma.read(at, &mut d).is_err() {
            return;
        }
        let word = |i: usize| u32::from_be_bytes([d[i], d[i + 1], d[i + 2], d[i + 3]]);
        let (control, length) = (word(0), word(4));
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        if control & control::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let ok = if control & control::READ != 0 {
            self.dma_read(address, length)
        } else if control & control::WRITE != 0 {
            self.dma_write(address, length)
        } else {
            true
        };
        if control & (control::READ | control::WRITE | control::SKIP) != 0 && ok {
            self.state.offset = self.state.offset.saturating_add(length);
        }
        let result = if ok { 0 } else { control::ERROR };
        // The guest may have put the descriptor where no memory is; nobody waits there.
        let _ = self.wires.dma.write(at, &result.to_be_bytes());
    }

    fn dma_read(&self, address: u64, length: u32) -> bool {
        let data = self.data();
        let from = (self.state.offset as usize).min(data.len());
        let n = (length as usize).min(data.len() - from);
        if self.wires.dma.write(address, &data[from..from + n]).is_err() {
            return false;
        }
        // Past the end of the item the guest reads zeros.
        let zeros = [0; 4096];
        let mut at = n as u64;
        while at < u64::from(length) {
            let piece = (u64::from(length) - at).min(zeros.len() as u64);
            let to = address.wrapping_add(at);
            if self.wires.dma.write(to, &zeros[..piece as usize]).is_err() {
                return false;
            }
            at += piece;
        }
        true
    }

    fn dma_write(&mut self, address: u64, length: u32) -> bool {
        let Some(Content::Writable(initial)) = self.items.items.get(&self.state.key) else {
            return false;
        };
        let file = self.state.written.entry(self.state.key).or_insert_with(|| initial.clone());
        let from = self.state.offset as usize;
        let end = from.checked_add(length as usize).filter(|&end| end <= file.len());
        let Some(target) = end.and_then(|end| file.get_mut(from..end)) else { return false };
        self.wires.dma.read(address, target).is_ok()
    }
}

impl Device for FwCfg {
    fn name(&self) -> &'static str {
        "fw_cfg"
    }

    fn reset(&mut self) {
        self.state = State::default();
        self.remake();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        for (key, data) in &state.written {
            match self.items.items.get(key) {
                Some(Content::Writable(d)) if d.len() == data.len() => {}
                _ => return Err(RestoreError::Invalid("a file this fw_cfg lacks")),
            }
        }
        self.state = state;
        self.remake();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }
}

impl Registers for FwCfg {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match (bank, offset, width) {
            (PORTS, 0 | 1, 1) => Ok(self.next_byte().into()),
            (PORTS, 0, _) => Err(BusError::Width),
            (DMA, 0..8, _) if offset + u64::from(width) <= 8 => {
                // The register reads as a signature, byte for byte.
                let bytes = b"QEMU CFG";
                let at = offset as usize;
                Ok(bytes[at..at + usize::from(width)]
                    .iter()
                    .rev()
                    .fold(0, |v, &b| v << 8 | u64::from(b)))
            }
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match (bank, offset, width) {
            (PORTS, 0, 2) => self.select(value as u16),
            // Data written through the port is dropped; only DMA writes.
            (PORTS, 0 | 1, 1) => {}
            (DMA, 0, 4) => self.state.dma_high = (value as u32).swap_bytes(),
            (DMA, 4, 4) => {
                let low = (value as u32).swap_bytes();
                let at = u64::from(self.state.dma_high) << 32 | u64::from(low);
                self.state.dma_high = 0;
                self.run_dma(at);
            }
            (DMA, 0, 8) => {
                self.state.dma_high = 0;
                self.run_dma(value.swap_bytes());
            }
            _ => return Err(BusError::NoRegister),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl MadeFiles for Echo {
        fn inputs(&self) -> [u64; 2] {
            [7, 8]
        }

        fn make(&self, index: usize, inputs: [u64; 2]) -> Vec<u8> {
            vec![inputs[index] as u8; 3]
        }
    }

    fn device() -> (FwCfg, Dma) {
        let mut items = Items::default();
        items.set_u16(key::NB_CPUS, 4);
        items.add_file("etc/b", *b"hello");
        items.add_writable("etc/a", vec![0; 4]);
        items.add_made("etc/made", 1);
        let dma = Dma::detached(0x4000);
        let wires = Wires { dma: dma.another(), made: Box::new(Echo) };
        (FwCfg::new(items, wires), dma)
    }

    fn read(dev: &mut FwCfg, key: u16, n: usize) -> Vec<u8> {
        dev.write(PORTS, 0, 2, key.into()).unwrap();
        (0..n).map(|_| dev.read(PORTS, 1, 1).unwrap() as u8).collect()
    }

    fn request(dev: &mut FwCfg, dma: &Dma, control: u32, length: u32, address: u64) -> u32 {
        let mut d = control.to_be_bytes().to_vec();
        d.extend(length.to_be_bytes());
        d.extend(address.to_be_bytes());
        dma.write(0x100, &d).unwrap();
        dev.write(DMA, 0, 4, 0).unwrap();
        dev.write(DMA, 4, 4, 0x100_u32.swap_bytes().into()).unwrap();
        let mut c = [0; 4];
        dma.read(0x100, &mut c).unwrap();
        u32::from_be_bytes(c)
    }

    #[test]
    fn items_read_byte_by_byte_and_zero_past_their_end() {
        let (mut dev, _) = device();
        assert_eq!(read(&mut dev, key::SIGNATURE, 6), b"QEMU\0\0");
        assert_eq!(read(&mut dev, key::NB_CPUS, 2), [4, 0]);
        assert_eq!(read(&mut dev, 0x7777, 2), [0, 0]);
    }

    #[test]
    fn the_directory_lists_the_files_with_their_sizes_and_keys() {
        let (mut dev, _) = device();
        let dir = read(&mut dev, key::FILE_DIR, 4 + 3 * 64);
        assert_eq!(dir[..4], [0, 0, 0, 3]);
        assert_eq!(&dir[12..18], b"etc/a\0");
        let b = &dir[68..];
        assert_eq!(b[..4], [0, 0, 0, 5]);
        let key = u16::from_be_bytes([b[4], b[5]]);
        assert_eq!(read(&mut dev, key, 5), b"hello");
    }

    #[test]
    fn dma_selects_skips_and_reads() {
        let (mut dev, dma) = device();
        let select = u32::from(key::FILE_FIRST) << 16 | control::SELECT;
        assert_eq!(request(&mut dev, &dma, select | control::SKIP, 1, 0), 0);
        dma.write(0x200, &[9; 8]).unwrap();
        assert_eq!(request(&mut dev, &dma, control::READ, 6, 0x200), 0);
        let mut out = [0; 8];
        dma.read(0x200, &mut out).unwrap();
        assert_eq!(&out, b"ello\0\0\x09\x09");
        assert_eq!(dev.read(DMA, 0, 8), Ok(u64::from_le_bytes(*b"QEMU CFG")));
    }

    #[test]
    fn only_writable_files_are_written_and_only_inside() {
        let (mut dev, dma) = device();
        dma.write(0x200, &[1, 2, 3, 4, 5]).unwrap();
        let a = u32::from(key::FILE_FIRST + 1) << 16 | control::SELECT | control::WRITE;
        assert_eq!(request(&mut dev, &dma, a, 4, 0x200), 0);
        assert_eq!(read(&mut dev, key::FILE_FIRST + 1, 4), [1, 2, 3, 4]);
        assert_eq!(request(&mut dev, &dma, a, 5, 0x200), control::ERROR);
        let b = u32::from(key::FILE_FIRST) << 16 | control::SELECT | control::WRITE;
        assert_eq!(request(&mut dev, &dma, b, 4, 0x200), control::ERROR);
        assert_eq!(request(&mut dev, &dma, a, 4, 0xffff_0000), control::ERROR);
    }

    #[test]
    fn a_made_file_is_made_from_what_holds_when_it_is_selected() {
        let (mut dev, _) = device();
        assert_eq!(read(&mut dev, key::FILE_FIRST + 2, 4), [8, 8, 8, 0]);
    }

    orrery_system::conformance!(device().0, [(PORTS, &[]), (DMA, &[])]);
}
