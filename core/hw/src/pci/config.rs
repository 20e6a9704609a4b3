//! The configuration space of one function.

use super::bus::Bus;
use super::msi::{self, Caps};
use super::{CONFIG_BANK, MSIX_BANK, reg};
use bitfield_struct::bitfield;
use orrery_system::{Board, BusError, BusResult, DeviceId, Dma, IrqLine, Region, RestoreError};
use serde::{Deserialize, Serialize};

/// What a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface: `0x01_06_01`.
    pub class: u32,
    /// Subsystem vendor and subsystem; zeros where the chip has none.
    pub subsystem: (u16, u16),
    /// Interrupt pin: 0 none, 1 INTA#.
    pub pin: u8,
}

impl Identity {
    /// The subsystem of QEMU's machines, which drivers and firmware match.
    pub const SUBSYSTEM: (u16, u16) = (0x1af4, 0x1100);
}

/// The command register (PCI 3.0 6.2.2).
#[bitfield(u16)]
pub struct Command {
    /// Answers I/O cycles.
    pub io: bool,
    /// Answers memory cycles.
    pub memory: bool,
    /// May master the bus.
    pub master: bool,
    #[bits(7)]
    __: u8,
    /// INTx is silent.
    pub intx_off: bool,
    #[bits(5)]
    __: u8,
}

/// What sort of window a base address register opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory,
    /// Memory below 4 GiB without side effects.
    Prefetchable,
    /// Memory anywhere; takes two registers.
    Memory64,
    /// Memory anywhere without side effects; takes two registers.
    Prefetchable64,
}

struct Bar {
    /// Offset in the configuration space.
    at: usize,
    io: bool,
    wide: bool,
    rom: bool,
    size: u64,
    region: Region,
}

/// What the guest can change of a configuration space, and what it can see of its interrupts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    bytes: Vec<u8>,
    /// What the function last said its interrupt was.
    level: bool,
    pub(super) msix_table: Vec<u8>,
    pub(super) msix_pending: Vec<u64>,
}

impl ConfigState {
    /// A byte; zero past the end.
    pub fn u8(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// A 16-bit register.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from(self.u8(at)) | u16::from(self.u8(at + 1)) << 8
    }

    /// A 32-bit register.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Sets a byte from the device's side, past any mask.
    pub fn set_u8(&mut self, at: usize, value: u8) {
        if let Some(b) = self.bytes.get_mut(at) {
            *b = value;
        }
    }

    /// Sets a 16-bit register from the device's side.
    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.set_u8(at, value as u8);
        self.set_u8(at + 1, (value >> 8) as u8);
    }

    /// Sets a 32-bit register from the device's side.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.set_u16(at, value as u16);
        self.set_u16(at + 2, (value >> 16) as u16);
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits(self.u16(reg::COMMAND))
    }
}

/// The fixed part of a function: identity, masks, windows, pin and DMA. Made by a [`Builder`].
pub struct Function {
    reset: Vec<u8>,
    writable: Vec<u8>,
    clears: Vec<u8>,
    bars: Vec<Bar>,
    pub(super) msi: Caps,
    dma: Dma,
    intx: IrqLine,
}

impl Function {
    /// The configuration space at power-on.
    pub fn power_on(&self) -> ConfigState {
        let n = usize::from(self.msi.vectors);
        let mut msix_table = vec![0; n * 16];
        // Vectors start masked (PCI 3.0 6.8.2.9).
        msix_table.iter_mut().skip(12).step_by(16).for_each(|b| *b = 1);
        ConfigState {
            bytes: self.reset.clone(),
            level: false,
            msix_table,
            msix_pending: vec![0; n.div_ceil(64)],
        }
    }

    /// Refuses a saved state that is not of this function.
    pub fn check(&self, s: &ConfigState) -> Result<(), RestoreError> {
        let n = usize::from(self.msi.vectors);
        let fixed = |i: usize| (self.writable[i] | self.clears[i]) == 0;
        if s.bytes.len() != self.reset.len()
            || s.msix_table.len() != n * 16
            || s.msix_pending.len() != n.div_ceil(64)
            || (0..4).chain(8..16).any(|i| fixed(i) && s.bytes[i] != self.reset[i])
        {
            return Err(RestoreError::Invalid("the configuration space of another PCI function"));
        }
        Ok(())
    }

    /// The function's access to memory, switched by its command register.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// A read of the configuration space or the MSI-X bank; `None` for any other bank.
    pub fn read(
        &self,
        s: &ConfigState,
        bank: u32,
        offset: u64,
        width: u8,
    ) -> Option<BusResult<u64>> {
        match bank {
            CONFIG_BANK => Some(self.config_read(s, offset, width)),
            MSIX_BANK => Some(self.msix_read(s, offset, width)),
            _ => None,
        }
    }

    /// A write of the configuration space or the MSI-X bank; `None` for any other bank. The
    /// device then calls [`Function::drive`].
    pub fn write(
        &self,
        s: &mut ConfigState,
        bank: u32,
        offset: u64,
        width: u8,
        value: u64,
    ) -> Option<BusResult<()>> {
        match bank {
            CONFIG_BANK => Some(self.config_write(s, offset, width, value)),
            MSIX_BANK => Some(self.msix_write(s, offset, width, value)),
            _ => None,
        }
    }

    fn config_range(&self, offset: u64, width: u8) -> BusResult<usize> {
        let at = usize::try_from(offset).map_err(|_| BusError::NoRegister)?;
        if at >= self.reset.len() {
            return Err(BusError::NoRegister);
        }
        if width > 4 || at + usize::from(width) > self.reset.len() {
            return Err(BusError::Width);
        }
        Ok(at)
    }

    fn config_read(&self, s: &ConfigState, offset: u64, width: u8) -> BusResult<u64> {
        let at = self.config_range(offset, width)?;
        let mut word = s.bytes[at..at + usize::from(width)]
            .iter()
            .rev()
            .fold(0, |v, &b| v << 8 | u64::from(b));
        // The interrupt bit of the status register shows the request even while INTx is off.
        if s.level && (at..at + usize::from(width)).contains(&reg::STATUS) {
            word |= 8 << (8 * (reg::STATUS - at));
        }
        Ok(word)
    }

    fn config_write(
        &self,
        s: &mut ConfigState,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        let at = self.config_range(offset, width)?;
        for i in 0..usize::from(width) {
            let (v, m, c) = ((value >> (8 * i)) as u8, self.writable[at + i], self.clears[at + i]);
            let b = &mut s.bytes[at + i];
            *b = (*b & !m | v & m) & !(v & c);
        }
        Ok(())
    }

    /// Drives windows, bus mastering and interrupts from the state: `level` says whether the
    /// function wants an interrupt.
    pub fn drive(&self, s: &mut ConfigState, level: bool) {
        let command = s.command();
        self.dma.set_enabled(command.master());
        for bar in &self.bars {
            bar.drive(s, command);
        }
        let rose = level && !s.level;
        s.level = level;
        if self.msix_enabled(s) {
            self.intx.set(false);
            self.send_pending(s);
        } else if self.msi_enabled(s) {
            self.intx.set(false);
            if rose {
                self.signal(s, 0);
            }
        } else {
            self.intx.set(level && !command.intx_off());
        }
    }

    /// Where the window of base address register `bar` is, if it is open.
    pub fn bar_base(&self, bar: u8) -> Option<u64> {
        let at = reg::BAR0 + 4 * usize::from(bar);
        let bar = self.bars.iter().find(|b| b.at == at && !b.rom)?;
        bar.region.enabled().0.then(|| bar.region.base())
    }
}

impl Bar {
    fn drive(&self, s: &ConfigState, command: Command) {
        let low = u64::from(s.u32(self.at));
        let high = if self.wide { u64::from(s.u32(self.at + 4)) << 32 } else { 0 };
        let base = (low | high) & !(self.size - 1);
        let (last, limit) = match (self.io, self.wide) {
            (true, _) => (0xffff, 0xffff),
            (false, false) => (0xffff_ffff, 0xffff_ffff - 1),
            (false, true) => (u64::MAX, u64::MAX - 1),
        };
        let end = base.checked_add(self.size - 1);
        // All ones is what sizing leaves behind, and no address.
        let fits = end.is_some_and(|end| end <= last && (self.io || end <= limit));
        let asked = if self.io { command.io() } else { command.memory() };
        let on = asked && fits && base != 0 && (!self.rom || low & 1 != 0);
        if on {
            self.region.set_base(base);
        }
        self.region.set_enabled(on);
    }
}

/// Builds a [`Function`] on a bus.
pub struct Builder<'a> {
    board: &'a Board,
    bus: &'a Bus,
    id: DeviceId,
    pin: u8,
    next_cap: usize,
    last_cap: usize,
    reset: Vec<u8>,
    writable: Vec<u8>,
    clears: Vec<u8>,
    bars: Vec<Bar>,
    msi: Caps,
}

impl<'a> Builder<'a> {
    /// Begins a function that is the registers of device `id` in bank [`CONFIG_BANK`].
    pub fn new(board: &'a Board, bus: &'a Bus, id: DeviceId, identity: Identity) -> Self {
        let zero = || vec![0; 256];
        let mut b = Self {
            board,
            bus,
            id,
            pin: identity.pin,
            next_cap: 0x40,
            last_cap: 0,
            reset: zero(),
            writable: zero(),
            clears: zero(),
            bars: Vec::new(),
            msi: Caps::default(),
        };
        b.put(0x00, 2, identity.vendor.into());
        b.put(0x02, 2, identity.device.into());
        b.put(reg::REVISION, 4, u32::from(identity.revision) | identity.class << 8);
        b.put(0x2c, 2, identity.subsystem.0.into());
        b.put(0x2e, 2, identity.subsystem.1.into());
        b.put(reg::INTERRUPT_PIN, 1, identity.pin.into());
        // I/O, memory, master, parity response, SERR#, INTx disable.
        b.mask(reg::COMMAND, 2, 0x0547);
        b.mask(0x0c, 1, 0xff);
        b.mask(reg::INTERRUPT_LINE, 1, 0xff);
        b.clear_mask(reg::STATUS, 2, 0xf900);
        b
    }

    fn put(&mut self, at: usize, width: usize, value: u32) {
        self.reset[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    }

    fn mask(&mut self, at: usize, width: usize, mask: u32) {
        self.writable[at..at + width].copy_from_slice(&mask.to_le_bytes()[..width]);
    }

    fn clear_mask(&mut self, at: usize, width: usize, mask: u32) {
        self.clears[at..at + width].copy_from_slice(&mask.to_le_bytes()[..width]);
    }

    /// Sets a register of `width` bytes: its value at power-on and the bits software may write.
    #[must_use]
    pub fn register(mut self, at: usize, width: usize, reset: u32, writable: u32) -> Self {
        self.put(at, width, reset);
        self.mask(at, width, writable);
        self
    }

    /// Says which bits of a register clear where a one is written.
    #[must_use]
    pub fn write_one_clears(mut self, at: usize, width: usize, bits: u32) -> Self {
        self.clear_mask(at, width, bits);
        self
    }

    /// Sets the fixed status bits (`0x0280`: fast back to back, medium timing).
    #[must_use]
    pub fn status(mut self, bits: u16) -> Self {
        let old = u32::from(self.reset[reg::STATUS]) & 0x10;
        self.put(reg::STATUS, 2, u32::from(bits) | old);
        self
    }

    /// Sets bits of the command register that are always on and cannot be written.
    #[must_use]
    pub fn fixed_command(mut self, bits: u16) -> Self {
        self.put(reg::COMMAND, 2, bits.into());
        self.mask(reg::COMMAND, 2, 0x0547 & !u32::from(bits));
        self
    }

    /// Sets the header type's layout (1: bridge) or the multi-function bit (0x80).
    #[must_use]
    pub fn header_type(mut self, value: u8) -> Self {
        self.reset[0x0e] |= value;
        self
    }

    /// Says that the device has more functions than this one.
    #[must_use]
    pub fn multifunction(self) -> Self {
        self.header_type(0x80)
    }

    /// Gives the function the 4 KiB configuration space of PCI Express.
    #[must_use]
    pub fn extended(mut self) -> Self {
        for v in [&mut self.reset, &mut self.writable, &mut self.clears] {
            v.resize(4096, 0);
        }
        self
    }

    /// An I/O window of `size` ports (a power of two) onto the device's bank `bank`.
    #[must_use]
    pub fn io_bar(self, index: u8, bank: u32, size: u64) -> Self {
        let region = self.bank_region("io", size, bank);
        self.bar(index, BarKind::Io, &region)
    }

    /// A memory window of `size` bytes (a power of two) onto the device's bank `bank`.
    #[must_use]
    pub fn memory_bar(self, index: u8, bank: u32, size: u64) -> Self {
        let region = self.bank_region("mmio", size, bank);
        self.bar(index, BarKind::Memory, &region)
    }

    fn bank_region(&self, what: &str, size: u64, bank: u32) -> Region {
        self.board.regions().device(what, size.next_power_of_two(), self.id, bank)
    }

    /// A window onto any region, whose size is a power of two.
    #[must_use]
    pub fn bar(mut self, index: u8, kind: BarKind, region: &Region) -> Self {
        let at = reg::BAR0 + 4 * usize::from(index);
        let size = region.size();
        debug_assert!(size.is_power_of_two(), "BAR sizes are powers of two");
        let mask = !(size - 1);
        let wide = matches!(kind, BarKind::Memory64 | BarKind::Prefetchable64);
        let (flags, fixed) = match kind {
            BarKind::Io => (1, 3),
            BarKind::Memory => (0, 15),
            BarKind::Prefetchable => (8, 15),
            BarKind::Memory64 => (4, 15),
            BarKind::Prefetchable64 => (12, 15),
        };
        self.put(at, 4, flags);
        self.mask(at, 4, mask as u32 & !fixed);
        if wide {
            self.mask(at + 4, 4, (mask >> 32) as u32);
        }
        let io = kind == BarKind::Io;
        self.add_bar(Bar { at, io, wide, rom: false, size, region: region.clone() });
        self
    }

    fn add_bar(&mut self, bar: Bar) {
        bar.region.set_enabled(false);
        let parent = if bar.io { self.bus.io() } else { self.bus.memory() };
        parent.add_priority(0, 1, &bar.region);
        self.bars.push(bar);
    }

    /// An expansion ROM: a region whose size is a power of two, at least 2 KiB.
    #[must_use]
    pub fn rom(mut self, region: &Region) -> Self {
        let size = region.size();
        self.mask(reg::ROM, 4, !(size as u32 - 1) | 1);
        self.add_bar(Bar {
            at: reg::ROM,
            io: false,
            wide: false,
            rom: true,
            size,
            region: region.clone(),
        });
        self
    }

    /// Adds a capability: its id, the bytes after the two header bytes, and which bits of those
    /// software may write. Returns where it begins.
    pub fn add_capability(&mut self, id: u8, bytes: &[u8], writable: &[u8]) -> usize {
        let at = self.next_cap;
        self.place_capability(at, id, bytes, writable);
        at
    }

    /// Adds a capability at a place of its own (where the chip's data sheet has it).
    pub fn place_capability(&mut self, at: usize, id: u8, bytes: &[u8], writable: &[u8]) {
        if self.last_cap == 0 {
            self.reset[reg::CAPABILITIES] = at as u8;
            self.reset[reg::STATUS] |= 0x10;
        } else {
            self.reset[self.last_cap + 1] = at as u8;
        }
        self.last_cap = at;
        self.reset[at] = id;
        self.reset[at + 2..][..bytes.len()].copy_from_slice(bytes);
        self.writable[at + 2..][..writable.len()].copy_from_slice(writable);
        self.next_cap = self.next_cap.max((at + 2 + bytes.len()).next_multiple_of(4));
    }

    /// Adds a capability and goes on building.
    #[must_use]
    pub fn capability(mut self, id: u8, bytes: &[u8], writable: &[u8]) -> Self {
        self.add_capability(id, bytes, writable);
        self
    }

    /// Adds MSI with 64-bit addresses and up to `vectors` messages (a power of two to 32).
    #[must_use]
    pub fn msi(self, vectors: u16) -> Self {
        let at = self.next_cap;
        self.msi_at(at, vectors)
    }

    /// Adds MSI at a place of its own.
    #[must_use]
    pub fn msi_at(mut self, at: usize, vectors: u16) -> Self {
        let log = vectors.max(1).ilog2() as u8;
        let mut bytes = [0; 12];
        bytes[0] = log << 1 | 0x80;
        let mut writable = [0xff; 12];
        (writable[0], writable[1]) = (0x71, 0);
        writable[2] = 0xfc;
        (writable[10], writable[11]) = (0xff, 0xff);
        self.place_capability(at, 0x05, &bytes, &writable);
        self.msi.msi = at;
        self
    }

    /// Adds MSI-X with `vectors` messages (to 128), whose table is base address register `bar`:
    /// 4 KiB of bank [`MSIX_BANK`].
    #[must_use]
    pub fn msix(mut self, bar: u8, vectors: u16) -> Self {
        let vectors = vectors.clamp(1, (msi::PENDING / 16) as u16);
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        bytes[2..6].copy_from_slice(&u32::from(bar).to_le_bytes());
        bytes[6..].copy_from_slice(&(u32::from(bar) | msi::PENDING as u32).to_le_bytes());
        self.msi.msix = self.add_capability(0x11, &bytes, &[0, 0xc0]);
        self.msi.vectors = vectors;
        let region = self.bank_region("msix", 0x1000, MSIX_BANK);
        self.bar(bar, BarKind::Memory, &region)
    }

    /// Puts the function on the bus.
    pub fn build(self, devfn: u8) -> Function {
        self.bus.insert(devfn, self.id);
        let dma = self.board.dma();
        dma.set_enabled(self.reset[reg::COMMAND] & 4 != 0);
        Function {
            reset: self.reset,
            writable: self.writable,
            clears: self.clears,
            bars: self.bars,
            msi: self.msi,
            dma,
            intx: self.bus.pin(devfn, self.pin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::devfn;
    use orrery_system::board::BoardConfig;

    const NIC: Identity = Identity {
        vendor: 0x8086,
        device: 0x100e,
        revision: 3,
        class: 0x02_00_00,
        subsystem: Identity::SUBSYSTEM,
        pin: 1,
    };

    struct Bench {
        board: Board,
        bus: Bus,
        f: Function,
        s: ConfigState,
    }

    impl Bench {
        fn new(more: impl FnOnce(Builder<'_>) -> Builder<'_>) -> Self {
            let mut board =
                Board::new(BoardConfig { ram_capacity: 0x1000, ..BoardConfig::default() });
            let bus = Bus::simple(&board);
            let id = board.reserve("nic");
            let f = more(
                Builder::new(&board, &bus, id, NIC)
                    .bar(0, BarKind::Memory64, &board.regions().device("mmio", 0x2_0000, id, 0))
                    .io_bar(2, 1, 0x40),
            )
            .build(devfn(2, 0));
            let s = f.power_on();
            Self { board, bus, f, s }
        }

        fn read(&self, at: u64, width: u8) -> u64 {
            self.f.read(&self.s, CONFIG_BANK, at, width).unwrap().unwrap()
        }

        fn write(&mut self, at: u64, width: u8, value: u64) {
            self.f.write(&mut self.s, CONFIG_BANK, at, width, value).unwrap().unwrap();
            self.f.drive(&mut self.s, false);
        }
    }

    #[test]
    fn sizing_a_base_address_register_shows_its_size_and_kind() {
        let mut b = Bench::new(|b| b);
        assert_eq!(b.read(0, 4), 0x100e_8086);
        b.write(0x10, 4, 0xffff_ffff);
        b.write(0x14, 4, 0xffff_ffff);
        b.write(0x18, 4, 0xffff_ffff);
        assert_eq!(b.read(0x10, 4), 0xfffe_0004);
        assert_eq!(b.read(0x14, 4), 0xffff_ffff);
        assert_eq!(b.read(0x18, 4), 0xffff_ffc1);
        assert_eq!(b.read(0x1c, 4), 0, "no such register");
    }

    #[test]
    fn windows_open_with_the_command_register_and_never_at_the_sizing_value() {
        let mut b = Bench::new(|b| b);
        b.write(0x10, 4, 0xe000_0000);
        assert_eq!(b.f.bar_base(0), None);
        b.write(0x04, 2, 2);
        assert_eq!((b.f.bar_base(0), b.f.bar_base(2)), (Some(0xe000_0000), None));
        b.write(0x14, 4, 1);
        assert_eq!(b.f.bar_base(0), Some(0x1_e000_0000));
        b.write(0x10, 4, 0xffff_ffff);
        b.write(0x14, 4, 0xffff_ffff);
        assert_eq!(b.f.bar_base(0), None);
        b.write(0x18, 4, 0xc001);
        b.write(0x04, 2, 1);
        assert_eq!(b.f.bar_base(2), Some(0xc000));
    }

    #[test]
    fn intx_follows_the_level_unless_disabled_and_shows_in_the_status() {
        let mut b = Bench::new(|b| b);
        b.f.drive(&mut b.s, true);
        assert!(b.bus.wires()[2].level());
        assert_eq!(b.read(0x06, 2) & 8, 8);
        b.f.write(&mut b.s, CONFIG_BANK, 4, 2, 0x400).unwrap().unwrap();
        b.f.drive(&mut b.s, true);
        assert!(!b.bus.wires()[2].level());
        assert_eq!(b.read(0x04, 4) >> 16 & 8, 8);
    }

    #[test]
    fn msi_sends_one_message_for_each_rise_and_silences_the_pin() {
        let mut b = Bench::new(|b| b.msi(1));
        let cap = b.read(0x34, 1);
        assert_eq!((b.read(cap, 1), b.read(0x06, 1) & 0x10), (5, 0x10));
        b.write(0x04, 2, 4);
        b.write(cap + 4, 4, 0xfee0_1000);
        b.write(cap + 12, 2, 0x4041);
        b.write(cap + 2, 2, 1);
        b.f.drive(&mut b.s, true);
        b.f.drive(&mut b.s, true);
        assert!(!b.bus.wires()[2].level());
        let m = b.board.messages().take().unwrap();
        assert_eq!((m.addr, m.data), (0xfee0_1000, 0x4041));
        assert!(b.board.messages().take().is_none());
    }

    #[test]
    fn a_masked_msix_vector_waits_until_it_is_unmasked() {
        let mut b = Bench::new(|b| b.msix(3, 4));
        let cap = b.read(0x34, 1);
        assert_eq!(b.read(cap, 4) >> 16, 3);
        b.write(0x04, 2, 4);
        b.write(cap + 2, 2, 0x8000);
        for (at, v) in [(0x20, 0xfee0_0000), (0x28, 0x51)] {
            b.f.write(&mut b.s, MSIX_BANK, at, 4, v).unwrap().unwrap();
        }
        b.f.signal(&mut b.s, 2);
        assert!(b.board.messages().take().is_none());
        assert_eq!(b.f.read(&b.s, MSIX_BANK, 0x800, 4), Some(Ok(4)), "pending");
        b.f.write(&mut b.s, MSIX_BANK, 0x2c, 4, 0).unwrap().unwrap();
        b.f.drive(&mut b.s, false);
        assert_eq!(b.board.messages().take().unwrap().data, 0x51);
        assert_eq!(b.f.read(&b.s, MSIX_BANK, 0x800, 4), Some(Ok(0)));
    }

    #[test]
    fn a_state_of_another_function_is_refused() {
        let b = Bench::new(|b| b);
        let mut s = b.f.power_on();
        assert!(b.f.check(&s).is_ok());
        s.set_u16(2, 0x1234);
        assert!(b.f.check(&s).is_err());
    }
}
