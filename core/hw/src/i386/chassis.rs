//! What every PC has: memory, interrupt wires, the PC/AT's devices, and what its firmware is told.

use super::acpi_build::{self, HPET_BASE, IOAPIC_BASE, LAPIC_BASE};
use super::cmos::Cmos;
use super::smbios;
use crate::acpi::Events;
use crate::audio::pcspk::{self, PcSpeaker};
use crate::char::parallel::{self, ISA_PARALLEL, Parallel};
use crate::char::serial::{self, ISA_SERIAL, Serial};
use crate::char::uart;
use crate::display::vga;
use crate::dma::i8237::{self, I8237, IsaDma};
use crate::input::i8042::{self, I8042};
use crate::intc::apic::{self, Apic};
use crate::intc::i8259::{self, I8259};
use crate::intc::ioapic::{self, IoApic};
use crate::machine::{
    BuildError, Built, DeviceSpec, Drive, Interface, MachineConfig, Named, Netdev, Nic, Suspend,
};
use crate::misc::debugcon::{self, DebugCon};
use crate::misc::port::Ports;
use crate::numa::Numa;
use crate::nvram::fw_cfg::{Items, key};
use crate::pci;
use crate::rtc::mc146818::{self, Mc146818};
use crate::timer::hpet::{self, Hpet};
use crate::timer::i8254::{self, I8254};
use orrery_system::ports::{CharPort, NetPort};
use orrery_system::ram::RamBlock;
use orrery_system::{Board, DeviceId, IrqInput, IrqLine, Region};
use std::collections::{BTreeMap, BTreeSet};

/// Guest memory besides RAM: firmware, flash, video memory and option ROMs.
const EXTRA_MEMORY: usize = 64 << 20;
/// Video memory.
const VIDEO_MEMORY: usize = 16 << 20;
/// Most RAM a machine may have: what 39 address bits reach, less the hole.
const MAX_MEMORY: u64 = (1 << 39) - (4 << 30);

/// How the RAM lies below and above 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes below 4 GiB.
    pub(crate) low: u64,
    /// Bytes from 4 GiB.
    pub(crate) high: u64,
}

impl Layout {
    /// All of it below as long as it stays under `limit`; else `split` below and the rest above.
    pub(crate) fn new(memory: u64, limit: u64, split: u64) -> Self {
        let low = if memory >= limit { split } else { memory };
        Self { low, high: memory - low }
    }

    /// First address above all RAM, at least 4 GiB.
    pub(crate) fn end(self) -> u64 {
        (1 << 32) + self.high
    }
}

/// What firmware is told of nodes: how many, the node of each CPU, the memory of each node.
fn numa_entry(numa: &Numa) -> Vec<u8> {
    let nodes = numa.nodes() as u64;
    let cpus = numa.cpus.iter().map(|&node| node as u64);
    let all = std::iter::once(nodes).chain(cpus).chain(numa.memory.iter().copied());
    all.flat_map(u64::to_le_bytes).collect()
}

/// A machine while it is put together.
pub(crate) struct Chassis<'a> {
    pub(crate) config: &'a MachineConfig,
    pub(crate) board: Board,
    pub(crate) layout: Layout,
    /// RAM, from its first byte.
    pub(crate) ram: Region,
    /// The sixteen ISA interrupt wires.
    pub(crate) isa: Vec<IrqInput>,
    pub(crate) power_button: IrqInput,
    /// How the machine sleeps.
    pub(crate) suspend: Option<Suspend>,
    pub(crate) cmos: Cmos,
    pub(crate) items: Items,
    pub(super) drives: Vec<Option<Drive>>,
    /// Devices asked for that are part of another one by now: drives.
    pub(crate) seated: BTreeSet<usize>,
    /// SCSI buses so far, and those of adapters without an id.
    pub(super) scsi_buses: usize,
    pub(super) scsi_unnamed: usize,
    /// What firmware starts from, and how early.
    pub(super) boot: BTreeMap<u32, String>,
    /// Geometries that firmware is to use: its name for the disk, and three numbers.
    pub(crate) geometries: Vec<String>,
    netdevs: Vec<(String, Option<Netdev>)>,
    /// Network cards so far.
    pub(crate) cards: usize,
    pub(crate) built: Ends,
    /// The DMA controllers' channels.
    pub(super) dma: IsaDma,
    /// Controllers that give vectors, in the order they are asked.
    pub(crate) int_ack: Vec<DeviceId>,
    pub(crate) floppy: bool,
    serial: [bool; 4],
    parallels: [bool; 3],
}

/// The ends that stick out, as they come into being.
#[derive(Default)]
pub(crate) struct Ends {
    pub(crate) serials: Vec<Option<CharPort>>,
    pub(crate) parallels: Vec<Option<CharPort>>,
    pub(crate) chars: Vec<(String, CharPort)>,
    pub(crate) nets: Vec<(String, NetPort)>,
    pub(crate) nics: Vec<Nic>,
    pub(crate) display: Option<DeviceId>,
    pub(crate) inputs: Vec<DeviceId>,
    pub(crate) named: Vec<Named>,
    pub(crate) irqs: Vec<IrqInput>,
    pub(crate) pci: Option<pci::Bus>,
    pub(crate) usb: Vec<crate::usb::Bus>,
}

impl<'a> Chassis<'a> {
    /// A board with its RAM. `limit` and `split` say how it lies, see [`Layout::new`].
    pub(crate) fn new(
        config: &'a MachineConfig,
        limit: u64,
        split: u64,
    ) -> Result<Self, BuildError> {
        if config.memory < 1 << 20
            || config.memory > MAX_MEMORY
            || !config.memory.is_multiple_of(4096)
        {
            let mib = config.memory >> 20;
            return Err(BuildError::Machine(format!(
                "{mib} MiB of RAM cannot be put on this board"
            )));
        }
        let layout = Layout::new(config.memory, limit, split);
        let roms: usize = config.option_roms.iter().map(|r| r.1.len().next_power_of_two()).sum();
        let board = Board::new(config.board_config(EXTRA_MEMORY + roms));
        let block = board.ram().alloc("pc.ram", config.memory as usize)?;
        let regions = board.regions();
        let ram = regions.ram("pc.ram", block);
        board.memory().add(0, &regions.alias("ram-below-4g", &ram, 0, layout.low));
        if layout.high > 0 {
            let high = regions.alias("ram-above-4g", &ram, layout.low, layout.high);
            board.memory().add(1 << 32, &high);
        }
        Ok(Self::empty(config, board, layout, ram))
    }

    /// A machine that runs, opened again to put a device in. Wires of the chipset are not at hand:
    /// this is for devices on PCI.
    pub(crate) fn reopen(config: &'a MachineConfig, board: Board) -> Self {
        let ram = board.memory().clone();
        Self::empty(config, board, Layout { low: 0, high: 0 }, ram)
    }

    /// Nothing is built yet.
    fn empty(config: &'a MachineConfig, board: Board, layout: Layout, ram: Region) -> Self {
        let order = config.boot_once.as_ref().unwrap_or(&config.boot_order);
        let boot = Cmos::boot_order(order, config.floppy_check);
        Self {
            config,
            ram,
            isa: (0..16).map(|_| board.wire()).collect(),
            power_button: board.wire(),
            suspend: None,
            cmos: Cmos::new(layout.low, layout.high, config.cpus, boot),
            items: Items::default(),
            drives: config.drives.iter().cloned().map(Some).collect(),
            seated: BTreeSet::new(),
            scsi_buses: 0,
            scsi_unnamed: 0,
            boot: BTreeMap::new(),
            geometries: Vec::new(),
            netdevs: config.netdevs.iter().cloned().map(|(id, n)| (id, Some(n))).collect(),
            cards: 0,
            built: Ends::default(),
            dma: IsaDma::new(board.dma(), std::array::from_fn(|_| IrqLine::open())),
            int_ack: Vec::new(),
            floppy: false,
            serial: [false; 4],
            parallels: [false; 3],
            layout,
            board,
        }
    }

    /// Whether machine property `name` is on; `default` if it is not given.
    pub(crate) fn prop(&self, name: &str, default: bool) -> Result<bool, BuildError> {
        match self.config.props.iter().rev().find(|p| p.0 == name) {
            None => Ok(default),
            Some((_, v)) => match v.as_str() {
                "on" | "yes" | "true" | "" => Ok(true),
                "off" | "no" | "false" => Ok(false),
                v => Err(BuildError::Machine(format!("'{name}' is on or off, not '{v}'"))),
            },
        }
    }

    /// What `-global` says of property `name` of the board's own devices of type `driver`.
    pub(crate) fn global(&self, driver: &str, name: &str) -> Option<&str> {
        let given = self.config.globals.iter().rev();
        let mut given = given.filter(|(d, n, _)| d == driver && n == name);
        given.next().map(|(_, _, value)| value.as_str())
    }

    /// The same of a property that is on or off.
    pub(crate) fn global_switch(
        &self,
        driver: &str,
        name: &str,
        default: bool,
    ) -> Result<bool, BuildError> {
        match self.global(driver, name) {
            None => Ok(default),
            Some("on" | "yes" | "true") => Ok(true),
            Some("off" | "no" | "false") => Ok(false),
            Some(v) => {
                let reason = format!("'{name}' is on or off, not '{v}'");
                Err(BuildError::Property { kind: driver.into(), reason })
            }
        }
    }

    /// What a power management device looks at.
    pub(crate) fn power_events(&self) -> Events {
        Events { power_button: self.power_button.clone(), rtc: self.isa[8].tap() }
    }

    /// A pin on ISA interrupt `n`.
    pub(crate) fn irq(&self, n: usize) -> IrqLine {
        self.isa[n].pin()
    }

    /// Pins on all of them.
    pub(crate) fn irqs(&self) -> Vec<IrqLine> {
        self.isa.iter().map(IrqInput::pin).collect()
    }

    /// A ROM or RAM block with these contents at its end.
    fn block(&self, name: &str, bytes: &[u8], len: usize) -> Result<RamBlock, BuildError> {
        let block = self.board.ram().alloc(name, len)?;
        self.board.ram().write_bytes(block.offset + len - bytes.len(), bytes);
        Ok(block)
    }

    /// Puts the firmware (from flash, if there is any) below 4 GiB, and its last 128 KiB below 1 MiB, into `map`. ISA machines
    /// have no attribute map to write it with: there it is `writable`.
    pub(crate) fn firmware(&mut self, map: &Region, writable: bool) -> Result<(), BuildError> {
        if self.flash(map)? {
            return Ok(());
        }
        let bytes = &self.config.firmware;
        if bytes.is_empty() {
            return Err(BuildError::Machine("there is no firmware".into()));
        }
        let len = bytes.len().next_multiple_of(0x1_0000);
        if len > 16 << 20 {
            return Err(BuildError::Machine("the firmware is larger than 16 MiB".into()));
        }
        let block = self.block("pc.bios", bytes, len)?;
        let regions = self.board.regions();
        let rom =
            if writable { regions.ram("pc.bios", block) } else { regions.rom("pc.bios", block) };
        map.add((1 << 32) - len as u64, &rom);
        self.low_alias(map, &rom);
        Ok(())
    }

    /// The interrupt, DMA and timer chips of the PC/AT. `replaced` is high while an HPET
    /// has taken over the timer's interrupt.
    pub(crate) fn at_controllers(&mut self, replaced: [IrqInput; 2], intr: IrqLine) {
        let board = &mut self.board;
        let pic = board.reserve("isa-i8259");
        let bank = |n| board.regions().device("pic", 2, pic, n);
        board.io().add(0x20, &bank(i8259::MASTER));
        board.io().add(0xa0, &bank(i8259::SLAVE));
        board.io().add(0x4d0, &bank(i8259::ELCR));
        let inputs = std::array::from_fn(|i| self.isa[i].clone());
        board.attach(pic, Box::new(I8259::new(i8259::Wires { inputs, intr })));
        self.int_ack.push(pic);

        let dma = board.reserve("i8257");
        let bank = |n, size| board.regions().device("dma", size, dma, n);
        board.io().add(0x00, &bank(i8237::FIRST, 16));
        board.io().add(0xc0, &bank(i8237::SECOND, 32));
        board.io().add(0x80, &bank(i8237::PAGES, 16));
        board.attach(dma, Box::new(I8237::new(self.dma.clone())));

        let [pit_replaced, rtc_replaced] = replaced;
        let pit = board.reserve("isa-pit");
        board.io().add(0x40, &board.regions().device("pit", 4, pit, 0));
        let channel2 = i8254::Channel2::default();
        let wires = i8254::Wires {
            irq: self.isa[0].pin(),
            replaced: pit_replaced,
            channel2: channel2.clone(),
            clock: board.clock(),
            timer: board.timer(pit, 0),
        };
        board.attach(pit, Box::new(I8254::new(wires)));
        let speaker = board.reserve("isa-pcspk");
        board.io().add(0x61, &board.regions().device("pcspk", 1, speaker, 0));
        let wires = pcspk::Wires { channel2, clock: board.clock() };
        board.attach(speaker, Box::new(PcSpeaker::new(wires)));

        let rtc = board.reserve("mc146818rtc");
        board.io().add(0x70, &board.regions().device("rtc", 2, rtc, 0));
        let wires = mc146818::Wires {
            irq: self.isa[8].pin(),
            replaced: rtc_replaced,
            clock: board.clock(),
            timer: board.timer(rtc, 0),
        };
        let epoch_secs = board.config().epoch_secs;
        let mut chip = Mc146818::new(mc146818::Config { epoch_secs }, wires);
        for (i, v) in self.cmos.bytes() {
            chip.set_cmos(i, v);
        }
        board.attach(rtc, Box::new(chip));
    }

    /// The local APICs, with the 8259s' `int` at LINT0, and the I/O APIC, whose inputs from 16 are
    /// `inputs`.
    pub(crate) fn apics(&mut self, int: &IrqInput, inputs: &[IrqInput]) {
        let board = &mut self.board;
        let eoi = apic::EoiBus::new(board.wire().pin());
        let id = board.reserve("apic");
        let region = board.regions().device("apic", 0x1000, id, 0);
        board.memory().add_priority(LAPIC_BASE.into(), 3, &region);
        let count = board.cpus();
        let wires = apic::Wires {
            cpus: (0..count).map(|i| board.pins(i).clone()).collect(),
            lint0: int.tap(),
            lint1: board.wire(),
            current_cpu: board.current_cpu(),
            messages: board.messages(),
            eoi: eoi.clone(),
            region,
            clock: board.clock(),
            timers: (0..count).map(|i| board.timer(id, i as u32)).collect(),
        };
        board.attach(id, Box::new(Apic::new(apic::Config { cpus: count }, wires)));
        board.set_cpu_registers(id);
        self.int_ack.insert(0, id);

        let id = board.reserve("ioapic");
        let window = board.regions().device("ioapic", 0x1000, id, 0);
        board.memory().add_priority(IOAPIC_BASE.into(), 1, &window);
        self.built.irqs = inputs.iter().map(IrqInput::tap).collect();
        let input = |n: usize| match n {
            // The timer is on 2, where the 8259s cascade.
            0 => IrqInput::detached(),
            2 => self.isa[0].tap(),
            1..16 => self.isa[n].tap(),
            _ => inputs.get(n - 16).map_or_else(IrqInput::detached, IrqInput::tap),
        };
        let inputs = std::array::from_fn(input);
        let wires = ioapic::Wires { inputs, messages: board.messages(), eoi };
        board.attach(id, Box::new(IoApic::new(wires)));
    }

    /// Keyboard and mouse behind the 8042, and ports 92 and F0.
    pub(crate) fn keyboard(&mut self) {
        let board = &mut self.board;
        let id = board.reserve("i8042");
        board.io().add(0x60, &board.regions().device("i8042-data", 1, id, i8042::DATA));
        board.io().add(0x64, &board.regions().device("i8042-cmd", 1, id, i8042::COMMAND));
        let a20 = board.pins(0).a20.pin();
        let wires = i8042::Wires {
            irq_keyboard: self.isa[1].pin(),
            irq_mouse: self.isa[12].pin(),
            a20: a20.clone(),
            power: board.power(),
            clock: board.clock(),
            timer: board.timer(id, 0),
        };
        board.attach(id, Box::new(I8042::new(wires)));
        self.built.inputs.push(id);
        crate::isa::port92::build(board, a20);
        crate::isa::portf0::build(board, self.isa[13].pin());
    }

    /// The serial and parallel ports that were asked for.
    pub(crate) fn serial_and_parallel(&mut self) -> Result<(), BuildError> {
        for n in 0..self.config.serials.len().max(self.built.serials.len()) {
            let wanted = self.config.serials.get(n).copied().unwrap_or(false);
            if n >= 4 && wanted {
                return Err(BuildError::Machine("a PC has four serial ports at most".into()));
            }
            let port = wanted.then(|| self.serial_port(n));
            self.built.serials.push(port);
        }
        for (n, &wanted) in self.config.parallels.iter().enumerate() {
            if n >= 3 && wanted {
                return Err(BuildError::Machine("a PC has three parallel ports at most".into()));
            }
            let port = wanted.then(|| self.parallel_port(n));
            self.built.parallels.push(port);
        }
        Ok(())
    }

    fn serial_port(&mut self, n: usize) -> CharPort {
        let (base, irq) = ISA_SERIAL[n];
        let line = self.irq(irq.into());
        self.serial[n] = true;
        self.serial_at(base, line)
    }

    /// A serial port somewhere.
    fn serial_at(&mut self, base: u16, irq: IrqLine) -> CharPort {
        let board = &mut self.board;
        let id = board.reserve("isa-serial");
        board.io().add(base.into(), &board.regions().device("serial", 8, id, 0));
        let port = board.port();
        let wires = uart::Wires {
            irq,
            port: port.clone(),
            clock: board.clock(),
            timers: [uart::TIMER_RX, uart::TIMER_TIMEOUT, uart::TIMER_TX]
                .map(|i| board.timer(id, i)),
        };
        board.attach(id, Box::new(Serial::new(serial::Config::default(), wires)));
        port
    }

    /// A serial port asked for as a device: number `n`, or the next one; elsewhere if told so.
    pub(crate) fn more_serial(
        &mut self,
        n: Option<usize>,
        base: Option<u16>,
        irq: Option<u8>,
    ) -> Result<CharPort, String> {
        let n = n.or_else(|| self.serial.iter().position(|taken| !taken));
        let Some(n) = n.filter(|n| *n < ISA_SERIAL.len()) else {
            return Err("a PC has four serial ports at most".into());
        };
        if std::mem::replace(&mut self.serial[n], true) {
            return Err(format!("serial port {n} is there already"));
        }
        let usual = ISA_SERIAL[n];
        let (base, irq) = (base.unwrap_or(usual.0), irq.unwrap_or(usual.1));
        // Firmware and ACPI know the usual places only.
        self.serial[n] = (base, irq) == usual;
        let line = self.irq(irq.into());
        Ok(self.serial_at(base, line))
    }

    fn parallel_port(&mut self, n: usize) -> CharPort {
        let (base, irq) = ISA_PARALLEL[n];
        self.parallels[n] = true;
        let line = self.irq(irq.into());
        self.parallel_at(base, line)
    }

    /// A parallel port somewhere.
    fn parallel_at(&mut self, base: u16, irq: IrqLine) -> CharPort {
        let board = &mut self.board;
        let id = board.reserve("isa-parallel");
        // The third one has the display's ports after its own three.
        let len = if base == ISA_PARALLEL[2].0 { 4 } else { 8 };
        board.io().add(base.into(), &board.regions().device("parallel", len, id, 0));
        let port = board.port();
        board.attach(id, Box::new(Parallel::new(parallel::Wires { irq, port: port.clone() })));
        port
    }

    /// A parallel port asked for as a device, like [`Chassis::more_serial`].
    pub(crate) fn more_parallel(
        &mut self,
        n: Option<usize>,
        base: Option<u16>,
        irq: Option<u8>,
    ) -> Result<CharPort, String> {
        let n = n.or_else(|| self.parallels.iter().position(|taken| !taken));
        let Some(n) = n.filter(|n| *n < ISA_PARALLEL.len()) else {
            return Err("a PC has three parallel ports at most".into());
        };
        if std::mem::replace(&mut self.parallels[n], true) {
            return Err(format!("parallel port {n} is there already"));
        }
        let usual = ISA_PARALLEL[n];
        let (base, irq) = (base.unwrap_or(usual.0), irq.unwrap_or(usual.1));
        let line = self.irq(irq.into());
        Ok(self.parallel_at(base, line))
    }

    /// A debug console at port `at`; its output is the character device `name`.
    pub(crate) fn debug_console(&mut self, at: u16, name: &str, config: debugcon::Config) {
        let board = &mut self.board;
        let id = board.reserve("isa-debugcon");
        board.io().add_priority(at.into(), 1, &board.regions().device("debugcon", 1, id, 0));
        let port = board.port();
        self.built.chars.push((name.into(), port.clone()));
        board.attach(id, Box::new(Ports(DebugCon::new(config, port))));
    }

    /// The high-precision timers. `replaces` is the wire that says so when they take over the
    /// timer's and the clock's interrupts.
    pub(crate) fn hpet(&mut self, replaces: &IrqInput) {
        let board = &mut self.board;
        let id = board.reserve("hpet");
        let window = board.regions().device("hpet", 0x400, id, 0);
        board.memory().add_priority(HPET_BASE.into(), 1, &window);
        // Input 2 of the I/O APIC is the timer's ISA wire, and the only one they may use.
        let route = |n| if n == 2 { self.isa[0].pin() } else { IrqLine::open() };
        let wires = hpet::Wires {
            routes: std::array::from_fn(route),
            legacy: [self.isa[0].pin(), self.isa[8].pin()],
            replaces: replaces.pin(),
            messages: board.messages(),
            clock: board.clock(),
            timer: board.timer(id, 0),
        };
        board.attach(id, Box::new(Hpet::new(hpet::Config::default(), wires)));
    }

    /// Shows the last 128 KiB of the firmware below 1 MiB.
    pub(super) fn low_alias(&self, map: &Region, firmware: &Region) {
        let len = firmware.size().min(0x2_0000);
        let alias = self.board.regions().alias("isa-bios", firmware, firmware.size() - len, len);
        map.add_priority(0x10_0000 - len, 1, &alias);
    }

    /// The network cards that have no address of their own; `model` is the board's usual one.
    pub(crate) fn network(
        &mut self,
        bus: Option<&pci::Bus>,
        model: &str,
    ) -> Result<(), BuildError> {
        let config = self.config;
        for card in &config.nics {
            let kind = if card.kind.is_empty() { model } else { &card.kind };
            crate::registry::build(self, bus, &DeviceSpec { kind: kind.into(), ..card.clone() })?;
        }
        Ok(())
    }

    /// Connects network `id` to a card's cable.
    pub(crate) fn connect(&mut self, id: &str, cable: NetPort) -> Result<(), String> {
        let Some((_, slot)) = self.netdevs.iter_mut().find(|n| n.0 == id) else {
            return Err(format!("there is no -netdev with the id '{id}'"));
        };
        match slot.take() {
            None => Err(format!("the -netdev '{id}' is connected to another card")),
            Some(Netdev::User(config)) => {
                crate::net::user::build(&mut self.board, config, cable);
                Ok(())
            }
        }
    }

    /// The devices asked for by type.
    pub(crate) fn devices(&mut self, bus: Option<&pci::Bus>) -> Result<(), BuildError> {
        let config = self.config;
        self.built.pci = bus.cloned();
        if let Some(port) = config.debugcon {
            self.debug_console(port, "debugcon", debugcon::Config::default());
        }
        for spec in &config.devices {
            crate::registry::build(self, bus, spec)?;
        }
        if config.drives.iter().any(|d| d.interface == Interface::Scsi) && self.scsi_buses == 0 {
            // `-drive if=scsi` without an adapter.
            let spec = DeviceSpec { kind: "lsi53c895a".into(), props: vec![] };
            crate::registry::build(self, bus, &spec)?;
        }
        // Drives may sit on a controller that came after them.
        for (n, spec) in config.devices.iter().enumerate() {
            if crate::registry::is_drive(&spec.kind) && !self.seated.contains(&n) {
                let reason = "there is no bus for it".into();
                return Err(BuildError::Property { kind: spec.kind.clone(), reason });
            }
        }
        Ok(())
    }

    /// The display adapter on a PCI bus.
    pub(crate) fn pci_display(&mut self, bus: &pci::Bus, devfn: u8) -> Result<bool, BuildError> {
        match self.config.vga.as_str() {
            "none" => return Ok(false),
            "std" | "" => {}
            other => {
                return Err(BuildError::Machine(format!("there is no display adapter '{other}'")));
            }
        }
        let rom = &self.config.video_bios;
        let memory = bus.memory().clone();
        let id = vga::build_pci(&mut self.board, bus, devfn, &memory, VIDEO_MEMORY, rom)?;
        self.built.display = Some(id);
        Ok(true)
    }

    /// The display adapter on ISA. Firmware copies its BIOS to C0000 itself.
    pub(crate) fn isa_display(&mut self) -> Result<(), BuildError> {
        if self.config.vga != "none" {
            self.built.display = Some(vga::build_isa(&mut self.board, VIDEO_MEMORY, &[])?);
            if !self.config.video_bios.is_empty() {
                self.items.add_file("vgaroms/vgabios.bin", self.config.video_bios.clone());
            }
        }
        Ok(())
    }

    /// What the ACPI tables say.
    pub(crate) fn acpi(&self, q35: bool, hpet: bool) -> acpi_build::Config {
        acpi_build::Config {
            q35,
            cpus: self.config.cpus as u8,
            low_ram: self.layout.low,
            ram_end: self.layout.end(),
            hpet,
            floppy: self.floppy,
            serial: self.serial,
            parallel: self.parallels[0],
            numa: self.config.numa.clone(),
            slots: 0,
        }
    }

    /// What is on the bus by now stays there, but for the devices that were asked for by type.
    pub(crate) fn solder(&self, bus: &pci::Bus) {
        bus.solder(|id| self.built.named.iter().any(|n| n.device == id));
    }

    /// Tells firmware about RAM, CPUs and what else every PC's wants to know.
    pub(crate) fn describe(&mut self, name: &str, description: &str) -> Result<(), BuildError> {
        let cpus = self.config.cpus as u16;
        let layout = self.layout;
        let no_graphics = self.config.vga == "none" || !self.prop("graphics", true)?;
        let items = &mut self.items;
        items.set(key::RAM_SIZE, self.config.memory.to_le_bytes());
        items.set_u16(key::NB_CPUS, cpus);
        items.set_u16(key::MAX_CPUS, cpus);
        items.set(key::UUID, self.config.uuid);
        items.set_u16(key::NOGRAPHIC, no_graphics.into());
        items.set_u16(key::BOOT_MENU, self.config.boot_menu.into());
        items.set(key::NUMA, numa_entry(&self.config.numa));
        if let Some(ms) = self.config.splash_time {
            items.add_file("etc/boot-menu-wait", ms.to_le_bytes());
        }
        if let Some(ms) = self.config.reboot_timeout {
            items.add_file("etc/boot-fail-wait", ms.to_le_bytes());
        }
        items.set_u32(key::IRQ0_OVERRIDE, 1);
        items.add_file("etc/e820", e820(layout));
        // Sleep states: bit 7 says that S3, S4 and S5 are there, the rest is their type.
        items.add_file("etc/system-states", [128, 0, 0, 129, 130, 128]);
        items.add_file(
            "etc/reserved-memory-end",
            layout.end().next_multiple_of(1 << 30).to_le_bytes(),
        );
        let smbios = smbios::build(&smbios::Config {
            product: description.into(),
            version: name.into(),
            uuid: self.config.uuid,
            cpus: self.config.cpus as u8,
            ram: [layout.low, layout.high],
        });
        items.add_file("etc/smbios/smbios-tables", smbios.tables);
        items.add_file("etc/smbios/smbios-anchor", smbios.anchor);
        for (name, rom) in &self.config.option_roms {
            items.add_file(&format!("genroms/{name}"), rom.clone());
        }
        for (name, data) in &self.config.fw_cfg {
            items.add_file(name, data.clone());
        }
        if let Some(kernel) = &self.config.kernel {
            let space = crate::loader::Space { low_ram: layout.low };
            crate::loader::load(kernel, space, items)?;
        }
        if !self.geometries.is_empty() {
            items.add_file("bios-geometry", self.geometries.join("\n") + "\n\0");
        }
        // A kernel goes before everything else.
        let kernel = self.config.kernel.iter().map(|_| crate::loader::BOOT_PATH.to_string());
        let order: Vec<String> = kernel.chain(self.boot.values().cloned()).collect();
        if !order.is_empty() {
            items.add_file("bootorder", order.join("\n") + "\0");
        }
        Ok(())
    }

    /// Every drive must have found its place.
    pub(crate) fn finish(mut self) -> Result<Built, BuildError> {
        if let Some(d) = self.drives.iter().flatten().find(|d| d.interface != Interface::None) {
            let reason = "this board has no such interface".into();
            return Err(BuildError::Drive { id: d.id.clone(), reason });
        }
        self.board.set_int_ack(self.int_ack);
        self.board.settle();
        Ok(Built {
            serials: self.built.serials,
            parallels: self.built.parallels,
            chars: self.built.chars,
            nets: self.built.nets,
            nics: self.built.nics,
            display: self.built.display,
            inputs: self.built.inputs,
            power_button: Some(self.power_button.pin()),
            suspend: self.suspend,
            after_reset: match self.config.boot_once {
                Some(_) => {
                    let order = &self.config.boot_order;
                    Cmos::boot_order(order, self.config.floppy_check).into()
                }
                None => Vec::new(),
            },
            named: self.built.named,
            irqs: self.isa.iter().map(IrqInput::tap).chain(self.built.irqs).collect(),
            pci: self.built.pci,
            usb: self.built.usb,
            board: self.board,
        })
    }
}

/// The memory map: entries of base, length and type (1: RAM).
fn e820(layout: Layout) -> Vec<u8> {
    let mut out = Vec::new();
    let mut entry = |base: u64, len: u64| {
        out.extend(base.to_le_bytes());
        out.extend(len.to_le_bytes());
        out.extend(1_u32.to_le_bytes());
    };
    entry(0, layout.low);
    if layout.high > 0 {
        entry(1 << 32, layout.high);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_that_reaches_the_hole_is_split() {
        let gib = 1 << 30;
        let pc = |m| Layout::new(m, 0xe000_0000, 3 * gib);
        assert_eq!(pc(gib), Layout { low: gib, high: 0 });
        assert_eq!(pc(0xdfff_f000), Layout { low: 0xdfff_f000, high: 0 });
        assert_eq!(pc(4 * gib), Layout { low: 3 * gib, high: gib });
        assert_eq!(pc(4 * gib).end(), 5 * gib);
    }
}
