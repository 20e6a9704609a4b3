//! Address maps: what answers where.
//!
//! A map is a tree of regions. A region may be RAM, ROM, a device's bank of registers, a
//! container of others, or a window (alias) onto another region. Regions overlap; the one with
//! the higher priority answers, and among equals the one added last. Devices move and switch
//! their regions through the same handles (PCI BARs, PAM, SMRAM); the board then renders the tree
//! anew into two flat views, one for reads and one for writes, because chipsets direct the two
//! apart (PAM: read the ROM, write the RAM below).

use crate::PAGE_SIZE;
use crate::board::DeviceId;
use crate::irq::Attention;
use crate::ram::RamBlock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

/// What a region is made of.
#[derive(Clone)]
enum Kind {
    Container,
    Ram(RamBlock),
    /// Reads come from memory; writes are dropped.
    Rom(RamBlock),
    /// Reads come from memory while `direct`, else from the device; writes go to the device.
    RomDevice(RamBlock, DeviceId, u32),
    Device(DeviceId, u32),
    Alias(Region),
}

struct Inner {
    name: String,
    kind: Kind,
    size: AtomicU64,
    base: AtomicU64,
    /// Where in the target an alias begins.
    alias_offset: AtomicU64,
    priority: Mutex<i32>,
    readable: AtomicBool,
    writable: AtomicBool,
    /// ROM devices: reads bypass the device.
    direct: AtomicBool,
    children: Mutex<Vec<Region>>,
    changes: Changes,
}

/// Says that some region of the machine moved.
#[derive(Clone, Default)]
pub(crate) struct Changes {
    pub(crate) attention: Attention,
    pub(crate) changed: Attention,
}

/// Makes the regions of one machine; boards hand these out.
#[derive(Clone, Default)]
pub struct Regions(pub(crate) Changes);

/// A handle to a region. Clones are the same region.
#[derive(Clone)]
pub struct Region(Arc<Inner>);

impl Regions {
    /// Regions of a map of their own, for tests of devices without a board.
    pub fn detached() -> Self {
        Self::default()
    }

    fn make(&self, name: &str, size: u64, kind: Kind) -> Region {
        Region(Arc::new(Inner {
            name: name.into(),
            kind,
            size: AtomicU64::new(size),
            base: AtomicU64::new(0),
            alias_offset: AtomicU64::new(0),
            priority: Mutex::new(0),
            readable: AtomicBool::new(true),
            writable: AtomicBool::new(true),
            direct: AtomicBool::new(true),
            children: Mutex::default(),
            changes: self.0.clone(),
        }))
    }

    /// A region that only holds others. `size` is in bytes; `u64::MAX` means the whole space.
    pub fn container(&self, name: &str, size: u64) -> Region {
        self.make(name, size, Kind::Container)
    }

    /// Read-write memory.
    pub fn ram(&self, name: &str, block: RamBlock) -> Region {
        self.make(name, block.len as u64, Kind::Ram(block))
    }

    /// Read-only memory: writes are dropped.
    pub fn rom(&self, name: &str, block: RamBlock) -> Region {
        self.make(name, block.len as u64, Kind::Rom(block))
    }

    /// Memory that reads directly while [`Region::set_direct`] is on, and whose writes go to a
    /// device (flash).
    pub fn rom_device(&self, name: &str, block: RamBlock, device: DeviceId, bank: u32) -> Region {
        self.make(name, block.len as u64, Kind::RomDevice(block, device, bank))
    }

    /// A bank of a device's registers, `size` bytes.
    pub fn device(&self, name: &str, size: u64, device: DeviceId, bank: u32) -> Region {
        self.make(name, size, Kind::Device(device, bank))
    }

    /// A window of `size` bytes onto `target` from `offset`.
    pub fn alias(&self, name: &str, target: &Region, offset: u64, size: u64) -> Region {
        let region = self.make(name, size, Kind::Alias(target.clone()));
        region.0.alias_offset.store(offset, Relaxed);
        region
    }
}

impl Region {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.0.size.load(Relaxed)
    }

    /// Its base address in its parent.
    pub fn base(&self) -> u64 {
        self.0.base.load(Relaxed)
    }

    /// Whether accesses reach it: (reads, writes).
    pub fn enabled(&self) -> (bool, bool) {
        (self.0.readable.load(Relaxed), self.0.writable.load(Relaxed))
    }

    /// Where overlapping regions stand to one another.
    pub fn priority(&self) -> i32 {
        *self.0.priority.lock().expect("no panic while held")
    }

    /// What it holds.
    pub fn children(&self) -> Vec<Self> {
        self.0.children.lock().expect("no panic while held").clone()
    }

    /// What it is made of, in a word.
    pub fn kind_name(&self) -> &'static str {
        match self.0.kind {
            Kind::Ram(_) => "ram",
            Kind::Rom(_) => "rom",
            Kind::RomDevice(..) => "romd",
            Kind::Container | Kind::Device(..) => "i/o",
            Kind::Alias(_) => "alias",
        }
    }

    /// Adds `child` at `base` with priority 0.
    pub fn add(&self, base: u64, child: &Region) {
        self.add_priority(base, 0, child);
    }

    /// Adds `child` at `base`; where children overlap, the higher priority answers.
    pub fn add_priority(&self, base: u64, priority: i32, child: &Region) {
        child.0.base.store(base, Relaxed);
        *child.0.priority.lock().expect("no panic while held") = priority;
        self.0.children.lock().expect("no panic while held").push(child.clone());
        self.changed();
    }

    /// Takes `child` out again.
    pub fn remove(&self, child: &Region) {
        let mut children = self.0.children.lock().expect("no panic while held");
        children.retain(|c| !Arc::ptr_eq(&c.0, &child.0));
        drop(children);
        self.changed();
    }

    /// Moves it.
    pub fn set_base(&self, base: u64) {
        if self.0.base.swap(base, Relaxed) != base {
            self.changed();
        }
    }

    /// Changes its size.
    pub fn set_size(&self, size: u64) {
        if self.0.size.swap(size, Relaxed) != size {
            self.changed();
        }
    }

    /// Moves an alias' window over its target.
    pub fn set_alias_offset(&self, offset: u64) {
        if self.0.alias_offset.swap(offset, Relaxed) != offset {
            self.changed();
        }
    }

    /// Switches it on or off.
    pub fn set_enabled(&self, on: bool) {
        self.set_access(on, on);
    }

    /// Switches reads and writes on or off; what is off falls through to what lies below.
    pub fn set_access(&self, reads: bool, writes: bool) {
        let r = self.0.readable.swap(reads, Relaxed) != reads;
        let w = self.0.writable.swap(writes, Relaxed) != writes;
        if r || w {
            self.changed();
        }
    }

    /// ROM devices: whether reads bypass the device.
    pub fn set_direct(&self, direct: bool) {
        if self.0.direct.swap(direct, Relaxed) != direct {
            self.changed();
        }
    }

    fn changed(&self) {
        self.0.changes.changed.raise();
        self.0.changes.attention.raise();
    }

    /// Puts what this region shows between `lo` and `hi` (inclusive, absolute) into `out`, where
    /// nothing with a higher claim is yet. `at` is the absolute address of the region's byte 0,
    /// which may lie outside the range (and wrap) when it is seen through an alias.
    fn render(&self, at: u64, lo: u64, hi: u64, write: bool, depth: u32, out: &mut Vec<FlatRange>) {
        let i = &*self.0;
        let on = if write { &i.writable } else { &i.readable };
        if !on.load(Relaxed) || i.size.load(Relaxed) == 0 || depth > 16 {
            return;
        }
        let target = match &i.kind {
            Kind::Container | Kind::Alias(_) => None,
            Kind::Ram(b) => Some(Target::Ram { offset: b.offset }),
            Kind::Rom(b) if write => Some(Target::Dropped { offset: b.offset }),
            Kind::Rom(b) => Some(Target::Ram { offset: b.offset }),
            Kind::RomDevice(b, ..) if !write && i.direct.load(Relaxed) => {
                Some(Target::Ram { offset: b.offset })
            }
            &Kind::RomDevice(_, device, bank) | &Kind::Device(device, bank) => {
                Some(Target::Device { device, bank, offset: 0 })
            }
        };
        if let Some(target) = target {
            return claim(out, lo, hi, target.advance(lo.wrapping_sub(at)));
        }
        if let Kind::Alias(inner) = &i.kind {
            let at = at.wrapping_sub(i.alias_offset.load(Relaxed));
            let last = lo.wrapping_sub(at).saturating_add(hi - lo);
            let reach = inner.size().saturating_sub(1).min(last);
            let first = lo.wrapping_sub(at);
            if first <= reach {
                inner.render(at, lo, lo + (reach - first), write, depth + 1, out);
            }
            return;
        }
        let mut children = i.children.lock().expect("no panic while held").clone();
        children.reverse();
        children.sort_by_key(|c| -*c.0.priority.lock().expect("no panic while held"));
        // Offsets of this container that are in sight.
        let (see_lo, see_hi) = (lo.wrapping_sub(at), hi.wrapping_sub(at));
        for c in &children {
            let (base, size) = (c.base(), c.size());
            if size == 0 {
                continue;
            }
            let end = base.saturating_add(size - 1);
            let (from, to) = (base.max(see_lo), end.min(see_hi));
            if from <= to {
                let (clo, chi) = (at.wrapping_add(from), at.wrapping_add(to));
                c.render(at.wrapping_add(base), clo, chi, write, depth + 1, out);
            }
        }
    }
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Bytes of the arena.
    Ram {
        /// Byte offset in the arena.
        offset: usize,
    },
    /// A write to ROM: nothing happens.
    Dropped {
        /// Byte offset in the arena of the ROM byte.
        offset: usize,
    },
    /// A device's register.
    Device {
        /// The device.
        device: DeviceId,
        /// Its bank.
        bank: u32,
        /// Offset in the bank.
        offset: u64,
    },
}

impl Target {
    fn advance(self, by: u64) -> Self {
        match self {
            Self::Ram { offset } => Self::Ram { offset: offset.wrapping_add(by as usize) },
            Self::Dropped { offset } => Self::Dropped { offset: offset.wrapping_add(by as usize) },
            Self::Device { device, bank, offset } => {
                Self::Device { device, bank, offset: offset.wrapping_add(by) }
            }
        }
    }
}

/// A stretch of addresses with one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatRange {
    /// First address.
    pub first: u64,
    /// Last address, inclusive.
    pub last: u64,
    /// Target of the first address.
    pub target: Target,
}

/// Adds `[lo, hi]` to the sorted list where it is still free.
fn claim(out: &mut Vec<FlatRange>, lo: u64, hi: u64, target: Target) {
    let mut at = lo;
    let mut i = out.partition_point(|r| r.last < lo);
    loop {
        let gap_end = match out.get(i) {
            Some(r) if r.first <= hi => r.first.checked_sub(1).filter(|&e| e >= at),
            _ => Some(hi),
        };
        if let Some(end) = gap_end {
            let range = FlatRange { first: at, last: end, target: target.advance(at - lo) };
            out.insert(i, range);
            i += 1;
        }
        let Some(r) = out.get(i).filter(|r| r.first <= hi) else { return };
        if r.last >= hi {
            return;
        }
        at = r.last + 1;
        i += 1;
    }
}

/// A rendered map: sorted, disjoint ranges for one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlatView(Vec<FlatRange>);

impl FlatView {
    fn render(root: &Region, write: bool) -> Self {
        let mut out = Vec::new();
        let size = root.size();
        let hi = if size == u64::MAX { u64::MAX } else { size.saturating_sub(1) };
        root.render(0, 0, hi, write, 0, &mut out);
        Self(out)
    }

    /// The ranges in address order.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.0
    }

    /// What answers at `addr`, and the last address for which the same range does.
    #[inline]
    pub fn lookup(&self, addr: u64) -> Option<(Target, u64)> {
        let i = self.0.partition_point(|r| r.last < addr);
        let r = self.0.get(i).filter(|r| r.first <= addr)?;
        Some((r.target.advance(addr - r.first), r.last))
    }

    /// The arena offset of the 4 KiB page around `addr` if all of it is one piece of memory.
    pub fn page(&self, addr: u64) -> Option<usize> {
        let first = addr & !(PAGE_SIZE as u64 - 1);
        match self.lookup(first)? {
            (Target::Ram { offset }, last) if last - first >= PAGE_SIZE as u64 - 1 => {
                offset.is_multiple_of(PAGE_SIZE).then_some(offset)
            }
            _ => None,
        }
    }
}

/// The two flat views of one address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views {
    /// For reads and instruction fetch.
    pub read: FlatView,
    /// For writes.
    pub write: FlatView,
}

impl Views {
    /// Renders both.
    pub fn render(root: &Region) -> Self {
        Self { read: FlatView::render(root, false), write: FlatView::render(root, true) }
    }
}

/// The current views, shared with DMA handles.
pub(crate) type SharedViews = Arc<RwLock<Arc<Views>>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn block(offset: usize, len: usize) -> RamBlock {
        RamBlock { offset, len }
    }

    fn ram_at(v: &FlatView, addr: u64) -> Option<usize> {
        match v.lookup(addr)?.0 {
            Target::Ram { offset } => Some(offset),
            _ => None,
        }
    }

    #[test]
    fn the_higher_priority_answers_and_the_rest_shows_around_it() {
        let r = Regions::detached();
        let root = r.container("root", u64::MAX);
        root.add(0, &r.ram("ram", block(0, 0x10000)));
        root.add_priority(0xa000, 1, &r.device("vga", 0x1000, DeviceId(3), 0));
        let v = FlatView::render(&root, false);
        assert_eq!(v.ranges().len(), 3);
        assert_eq!(ram_at(&v, 0x9fff), Some(0x9fff));
        let dev = Target::Device { device: DeviceId(3), bank: 0, offset: 0x10 };
        assert_eq!(v.lookup(0xa010), Some((dev, 0xafff)));
        assert_eq!(ram_at(&v, 0xb000), Some(0xb000));
        assert_eq!(v.lookup(0x10000), None);
    }

    #[test]
    fn an_alias_shows_a_moving_window() {
        let r = Regions::detached();
        let root = r.container("root", u64::MAX);
        let ram = r.ram("ram", block(0x4000, 0x10000));
        let window = r.alias("window", &ram, 0x2000, 0x1000);
        root.add(0xf000_0000, &window);
        let v = FlatView::render(&root, false);
        assert_eq!(ram_at(&v, 0xf000_0010), Some(0x4000 + 0x2010));
        window.set_alias_offset(0xf800);
        let v = FlatView::render(&root, false);
        assert_eq!(ram_at(&v, 0xf000_07ff), Some(0x4000 + 0xffff));
        assert_eq!(v.lookup(0xf000_0800), None, "past the end of the target");
    }

    #[test]
    fn an_alias_of_a_container_clips_its_children() {
        let r = Regions::detached();
        let pci = r.container("pci", 1 << 32);
        pci.add(0xe000_0000, &r.device("bar", 0x1000, DeviceId(1), 2));
        let root = r.container("root", u64::MAX);
        root.add(0xe000_0800, &r.alias("hole", &pci, 0xe000_0800, 0x1000_0000));
        let v = FlatView::render(&root, false);
        let dev = Target::Device { device: DeviceId(1), bank: 2, offset: 0x900 };
        assert_eq!(v.lookup(0xe000_0900), Some((dev, 0xe000_0fff)));
        assert_eq!(v.lookup(0xe000_0000), None);
    }

    #[test]
    fn reads_and_writes_can_go_apart() {
        let r = Regions::detached();
        let root = r.container("root", u64::MAX);
        root.add(0, &r.rom("rom", block(0x8000, 0x1000)));
        let shadow = r.ram("shadow", block(0, 0x1000));
        root.add_priority(0, 1, &shadow);
        shadow.set_access(false, true);
        let v = Views::render(&root);
        assert_eq!(ram_at(&v.read, 0x10), Some(0x8010));
        assert_eq!(ram_at(&v.write, 0x10), Some(0x10));
        shadow.set_access(false, false);
        assert_eq!(Views::render(&root).write.page(0), None, "ROM is not written");
    }

    #[test]
    fn a_page_split_between_memories_has_no_direct_access() {
        let r = Regions::detached();
        let root = r.container("root", u64::MAX);
        root.add(0, &r.ram("a", block(0, 0x800)));
        root.add(0x800, &r.ram("b", block(0x1000, 0x1000)));
        assert_eq!(FlatView::render(&root, false).page(0), None);
    }

    #[test]
    fn the_last_address_of_the_space_can_be_mapped() {
        let r = Regions::detached();
        let root = r.container("root", u64::MAX);
        root.add(u64::MAX - 0xfff, &r.ram("top", block(0, 0x1000)));
        assert_eq!(ram_at(&FlatView::render(&root, false), u64::MAX - 1), Some(0xffe));
    }
}
