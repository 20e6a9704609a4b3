//! A PCI bus: which functions it has, and where their windows and pins go.

use orrery_system::{DeviceId, IrqInput, IrqLine, Region};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Device and function number as configuration addresses hold them.
pub const fn devfn(device: u8, function: u8) -> u8 {
    device << 3 | function & 7
}

/// Which of the bus' interrupt wires pin `pin` (0 is INTA#) of device number `device` drives.
pub type PinMap = fn(device: u8, pin: u8) -> usize;

struct Inner {
    memory: Region,
    io: Region,
    wires: Vec<IrqInput>,
    map: PinMap,
    /// What `bus=` of a device calls it.
    name: String,
    /// Firmware's name for it.
    path: String,
    /// Device numbers that it has.
    places: u8,
    functions: Mutex<BTreeMap<u8, DeviceId>>,
    /// The buses behind bridges, by the bridge's place.
    children: Mutex<BTreeMap<u8, Bus>>,
    /// Device numbers that are soldered.
    fixed: AtomicU32,
    /// What tells the guest of devices that come and go.
    hotplug: Mutex<Option<DeviceId>>,
    /// Own bus number, and that of the last bus below, in byte 1.
    numbers: AtomicU32,
}

/// A bus. Clones are the same bus.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

impl Bus {
    /// A bus whose functions' windows appear in `memory` and `io` and whose pins drive `wires` as
    /// `map` says.
    pub fn new(memory: &Region, io: &Region, wires: Vec<IrqInput>, map: PinMap) -> Self {
        Self(Arc::new(Inner {
            memory: memory.clone(),
            io: io.clone(),
            wires,
            map,
            name: String::new(),
            path: "/pci@i0cf8".into(),
            places: 32,
            functions: Mutex::default(),
            children: Mutex::default(),
            fixed: AtomicU32::new(0),
            hotplug: Mutex::default(),
            numbers: AtomicU32::new(0),
        }))
    }

    /// The bus behind a bridge at `at` of this one, with `places` device numbers. The bridge keeps
    /// its [`Bus::set_numbers`] true and opens windows onto `memory` and `io`. Pins rotate with the device
    /// number and go on to those of the bridge (PCI-to-PCI Bridge Architecture 1.2, table 9-1).
    #[must_use]
    pub fn behind(&self, at: u8, name: &str, memory: &Region, io: &Region, places: u8) -> Self {
        let wire = |pin| self.0.wires.get((self.0.map)(at >> 3, pin)).cloned().unwrap_or_default();
        let (device, function) = (at >> 3, at & 7);
        let mut path = format!("{}/pci-bridge@{device:x}", self.0.path);
        if function != 0 {
            path += &format!(",{function:x}");
        }
        let below = Self(Arc::new(Inner {
            memory: memory.clone(),
            io: io.clone(),
            wires: (0..4).map(wire).collect(),
            map: |device, pin| usize::from(device + pin) % 4,
            name: name.into(),
            path,
            places,
            functions: Mutex::default(),
            children: Mutex::default(),
            fixed: AtomicU32::new(0),
            hotplug: Mutex::default(),
            numbers: AtomicU32::new(0),
        }));
        self.0.children.lock().expect("no panic while held").insert(at, below.clone());
        below
    }

    /// A bus in the memory and port maps of `board`, with four wires of its own and the usual
    /// rotation of pins: for tests of devices.
    pub fn simple(board: &orrery_system::Board) -> Self {
        let wires = (0..4).map(|_| board.wire()).collect();
        Self::new(board.memory(), board.io(), wires, |device, pin| usize::from(device + pin) % 4)
    }

    /// Where memory BARs appear.
    pub fn memory(&self) -> &Region {
        &self.0.memory
    }

    /// Where I/O BARs appear.
    pub fn io(&self) -> &Region {
        &self.0.io
    }

    /// The interrupt wires that its functions drive.
    pub fn wires(&self) -> &[IrqInput] {
        &self.0.wires
    }

    /// A pin on the wire that interrupt pin `pin` (1 is INTA#; 0 is none) of function `devfn`
    /// drives.
    pub fn pin(&self, devfn: u8, pin: u8) -> IrqLine {
        let Some(pin) = pin.checked_sub(1) else { return IrqLine::open() };
        let wire = (self.0.map)(devfn >> 3, pin & 3);
        self.0.wires.get(wire).map_or_else(IrqLine::open, IrqInput::pin)
    }

    /// Puts a function at `devfn`. One that was there is gone.
    pub fn insert(&self, devfn: u8, id: DeviceId) {
        self.0.functions.lock().expect("no panic while held").insert(devfn, id);
    }

    /// Takes the function at `devfn` out, and what is behind it.
    pub fn remove(&self, devfn: u8) {
        self.0.functions.lock().expect("no panic while held").remove(&devfn);
        self.0.children.lock().expect("no panic while held").remove(&devfn);
    }

    fn children(&self) -> Vec<Self> {
        self.0.children.lock().expect("no panic while held").values().cloned().collect()
    }

    /// The bus of this name behind a bridge of this one, at any depth.
    pub fn find(&self, name: &str) -> Option<Self> {
        let below = |bus: Self| if bus.0.name == name { Some(bus) } else { bus.find(name) };
        self.children().into_iter().find_map(below)
    }

    /// The place of a function on this bus or behind it: its bus and devfn.
    pub fn place_of(&self, id: DeviceId) -> Option<(Self, u8)> {
        match self.functions().iter().find(|f| f.1 == id) {
            Some(&(devfn, _)) => Some((self.clone(), devfn)),
            None => self.children().iter().find_map(|bus| bus.place_of(id)),
        }
    }

    /// The bus behind the bridge at `devfn`.
    pub fn child(&self, devfn: u8) -> Option<Self> {
        self.0.children.lock().expect("no panic while held").get(&devfn).cloned()
    }

    /// The device that tells the guest of what comes and goes on this bus, in its
    /// [`super::PLUG_BANK`]; `None`: the guest finds out when it looks.
    pub fn hotplug(&self) -> Option<DeviceId> {
        *self.0.hotplug.lock().expect("no panic while held")
    }

    /// Names that device.
    pub fn set_hotplug(&self, id: DeviceId) {
        *self.0.hotplug.lock().expect("no panic while held") = Some(id);
    }

    /// Device numbers, as bits, of what can not be taken out.
    pub fn fixed(&self) -> u32 {
        self.0.fixed.load(Relaxed)
    }

    /// What is on the bus now can not be taken out, but for the devices `but`.
    pub fn solder(&self, but: impl Fn(DeviceId) -> bool) {
        let fixed = self.functions().into_iter().filter(|f| !but(f.1));
        let bits = fixed.fold(0, |bits, (devfn, _)| bits | 1 << (devfn >> 3));
        self.0.fixed.store(bits, Relaxed);
    }

    /// What is at device number `device`.
    pub fn on(&self, device: u8) -> Vec<DeviceId> {
        let at = |f: &(u8, DeviceId)| f.0 >> 3 == device;
        self.functions().into_iter().filter(at).map(|f| f.1).collect()
    }

    /// Firmware's name for it.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Sets the bus' own number and that of the last bus behind it; 0 and 0 for a bridge that
    /// was not set up yet.
    pub fn set_numbers(&self, own: u8, last: u8) {
        self.0.numbers.store(u32::from(own) | u32::from(last) << 8, Relaxed);
    }

    /// The first free device number from `from` on.
    pub fn free_device(&self, from: u8) -> Option<u8> {
        let functions = self.0.functions.lock().expect("no panic while held");
        (from..self.0.places).find(|&d| functions.range(devfn(d, 0)..=devfn(d, 7)).next().is_none())
    }

    /// Device numbers that it has.
    pub fn places(&self) -> u8 {
        self.0.places
    }

    /// Every function on this bus: devfn and device.
    pub fn functions(&self) -> Vec<(u8, DeviceId)> {
        let functions = self.0.functions.lock().expect("no panic while held");
        functions.iter().map(|(&f, &id)| (f, id)).collect()
    }

    /// The function that a configuration cycle for bus `bus` reaches from here.
    pub fn route(&self, bus: u8, devfn: u8) -> Option<DeviceId> {
        let numbers = self.0.numbers.load(Relaxed);
        let (own, last) = (numbers as u8, (numbers >> 8) as u8);
        if bus == own {
            return self.0.functions.lock().expect("no panic while held").get(&devfn).copied();
        }
        if last != 0 && (bus < own || bus > last) {
            return None;
        }
        self.children().iter().filter(|c| c.covers(bus)).find_map(|c| c.route(bus, devfn))
    }

    fn covers(&self, bus: u8) -> bool {
        let numbers = self.0.numbers.load(Relaxed);
        numbers != 0 && (numbers as u8..=(numbers >> 8) as u8).contains(&bus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orrery_system::board::{Board, BoardConfig};

    fn bus() -> Bus {
        Bus::simple(&Board::new(BoardConfig { ram_capacity: 0, ..BoardConfig::default() }))
    }

    #[test]
    fn pins_rotate_with_the_device_number_and_share_wires() {
        let bus = bus();
        let (a, b) = (bus.pin(devfn(1, 0), 1), bus.pin(devfn(5, 0), 1));
        a.set(true);
        b.set(true);
        a.set(false);
        assert!(bus.wires()[1].level());
        assert!(!bus.pin(devfn(1, 0), 0).level());
    }

    #[test]
    fn a_configuration_cycle_finds_a_function_behind_bridges() {
        let root = bus();
        let behind = |at, name: &str| root.behind(at, name, root.memory(), root.io(), 32);
        let (left, right) = (behind(devfn(1, 0), "a"), behind(devfn(2, 0), "b"));
        right.insert(devfn(3, 1), DeviceId(9));
        assert_eq!(root.route(2, devfn(3, 1)), None, "bridges not set up");
        left.set_numbers(1, 1);
        right.set_numbers(2, 2);
        assert_eq!(root.route(2, devfn(3, 1)), Some(DeviceId(9)));
        assert_eq!(root.route(1, devfn(3, 1)), None);
        assert_eq!(root.route(0, devfn(3, 1)), None);
    }

    #[test]
    fn a_device_number_is_free_if_none_of_its_functions_is_taken() {
        let bus = bus();
        bus.insert(devfn(3, 2), DeviceId(0));
        assert_eq!((bus.free_device(2), bus.free_device(3)), (Some(2), Some(4)));
    }
}
