//! What goes into a machine and what sticks out of it, the same for every board.
//!
//! A board is described by a row of [`MachineType`]: a name, defaults, and a function that wires
//! devices onto a [`Board`]. Files have been read and images opened by then: nothing here names a
//! host.

use crate::block::geometry::Shape;
use orrery_block::backend::BlockBackend;
use orrery_system::board::{Board, BoardConfig, ClockMode};
use orrery_system::ports::{CharPort, NetPort};
use orrery_system::ram::RamFull;
use orrery_system::{DeviceId, IrqInput, IrqLine};

/// How a drive is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// The board's usual disk bus.
    #[default]
    Default,
    /// ATA.
    Ide,
    /// Floppy disk controller.
    Floppy,
    /// virtio-blk over PCI.
    Virtio,
    /// The first SCSI bus.
    Scsi,
    /// Parallel flash: firmware and its variables.
    Pflash,
    /// Nothing: a device refers to it by its id.
    None,
}

/// A drive of the machine.
#[derive(Clone, Debug)]
pub struct Drive {
    /// Where its data is.
    pub backend: BlockBackend,
    /// How it is attached.
    pub interface: Interface,
    /// A CD-ROM drive instead of a disk.
    pub cdrom: bool,
    /// Place on the bus; `None`: the next free one.
    pub index: Option<u32>,
    /// Name other options refer to.
    pub id: String,
    /// Place in the order of what firmware starts from.
    pub bootindex: Option<u32>,
    /// Serial number; `None`: the usual one.
    pub serial: Option<String>,
    /// Model name and firmware version, where they are given.
    pub model: [Option<String>; 2],
    /// Geometry that is given, or that its partitions tell.
    pub shape: Option<Shape>,
    /// Cylinders, heads and sectors that firmware is to use.
    pub bios: Option<[u32; 3]>,
}

impl Default for Drive {
    fn default() -> Self {
        Self {
            backend: BlockBackend::detached(),
            interface: Interface::None,
            cdrom: false,
            index: None,
            id: String::new(),
            bootindex: None,
            serial: None,
            model: [None, None],
            shape: None,
            bios: None,
        }
    }
}

/// A kernel that starts without a boot loader of its own.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// The file: a Linux bzImage or a multiboot ELF.
    pub image: Vec<u8>,
    /// Initial RAM disk, or multiboot modules with their command lines.
    pub initrd: Vec<(String, Vec<u8>)>,
    /// Command line.
    pub command_line: String,
}

/// A device asked for by type (`-device`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Type name.
    pub kind: String,
    /// Properties, `id` among them.
    pub props: Vec<(String, String)>,
}

/// What is at the other end of a network card's cable (`-netdev`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Netdev {
    /// A small network of its own.
    User(crate::net::user::Config),
}

impl Netdev {
    /// As monitors describe it: its type, and what is to be said of it.
    pub fn info(&self) -> String {
        match self {
            Self::User(config) => format!("type=user,net={},restrict=on", config.network),
        }
    }
}

/// Everything a machine is built from.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Bytes of RAM.
    pub memory: u64,
    /// CPUs.
    pub cpus: usize,
    /// The CPUs' model.
    pub cpu_model: String,
    /// Firmware (`bios.bin`), whole.
    pub firmware: Vec<u8>,
    /// Video BIOS; empty: none.
    pub video_bios: Vec<u8>,
    /// `std` or `none`.
    pub vga: String,
    /// Other option ROMs: name and contents.
    pub option_roms: Vec<(String, Vec<u8>)>,
    /// Drives.
    pub drives: Vec<Drive>,
    /// Kernel to start.
    pub kernel: Option<Kernel>,
    /// Which of the board's serial lines are there.
    pub serials: Vec<bool>,
    /// Which parallel ports are there.
    pub parallels: Vec<bool>,
    /// A debug console at this port (`isa-debugcon`).
    pub debugcon: Option<u16>,
    /// Devices asked for.
    pub devices: Vec<DeviceSpec>,
    /// Networks, by id.
    pub netdevs: Vec<(String, Netdev)>,
    /// Network cards that take the board's first places; an empty type is the board's usual one.
    pub nics: Vec<DeviceSpec>,
    /// The board's usual optional devices are left out (`-nodefaults`).
    pub no_defaults: bool,
    /// Boot order, letters of `acdn`.
    pub boot_order: String,
    /// Boot order until the first reset, after which `boot_order` holds.
    pub boot_once: Option<String>,
    /// The firmware does not start a floppy disk without a boot sector's signature.
    pub floppy_check: bool,
    /// The firmware shows its boot menu.
    pub boot_menu: bool,
    /// Milliseconds that the firmware shows its picture or menu.
    pub splash_time: Option<u16>,
    /// Milliseconds after which the firmware starts anew when nothing boots; -1: never.
    pub reboot_timeout: Option<i32>,
    /// The machine's UUID.
    pub uuid: [u8; 16],
    /// Entries for the firmware: name and contents.
    pub fw_cfg: Vec<(String, Vec<u8>)>,
    /// Properties of the machine (`-M pc,smm=off`).
    pub props: Vec<(String, String)>,
    /// Properties that all devices of a type have (`-global`): type, property, value; later ones win.
    pub globals: Vec<(String, String, String)>,
    /// Which memory is near which CPU.
    pub numa: crate::numa::Numa,
    /// How time moves.
    pub clock: ClockMode,
    /// Virtual nanoseconds per instruction, in 1/65536.
    pub ns_per_insn_q16: u64,
    /// Seconds since 1970 at power-on.
    pub epoch_secs: i64,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            memory: 128 << 20,
            cpus: 1,
            cpu_model: String::new(),
            firmware: Vec::new(),
            video_bios: Vec::new(),
            vga: "std".into(),
            option_roms: Vec::new(),
            drives: Vec::new(),
            kernel: None,
            serials: vec![true],
            parallels: vec![true],
            debugcon: None,
            devices: Vec::new(),
            netdevs: Vec::new(),
            nics: Vec::new(),
            no_defaults: false,
            boot_order: "cad".into(),
            boot_once: None,
            floppy_check: true,
            boot_menu: false,
            splash_time: None,
            reboot_timeout: None,
            uuid: [0; 16],
            fw_cfg: Vec::new(),
            props: Vec::new(),
            globals: Vec::new(),
            numa: crate::numa::Numa::default(),
            clock: ClockMode::Realtime,
            ns_per_insn_q16: 1 << 16,
            epoch_secs: 1_700_000_000,
            seed: 0,
        }
    }
}

impl MachineConfig {
    /// The board's settings, with `extra` bytes of guest memory besides RAM.
    pub fn board_config(&self, extra: usize) -> BoardConfig {
        BoardConfig {
            ram_capacity: usize::try_from(self.memory)
                .unwrap_or(usize::MAX / 2)
                .saturating_add(extra),
            cpus: self.cpus,
            clock: self.clock,
            ns_per_insn_q16: self.ns_per_insn_q16,
            epoch_secs: self.epoch_secs,
            seed: self.seed,
        }
    }
}

/// What suspending to RAM (ACPI S3) takes on a board. Memory outlasts it; devices are reset when
/// the machine wakes, and firmware finds its way from the clock's memory.
#[derive(Clone, Copy, Debug)]
pub struct Suspend {
    /// The power management device, with a bank [`crate::acpi::WAKE_BANK`].
    pub pm: DeviceId,
    /// The host bridge.
    pub host: DeviceId,
    /// The first of its seven attribute registers, which keep their values: firmware goes on in the
    /// copy of itself that it made in RAM.
    pub attributes: u64,
}

/// A device that was asked for by type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its `id`; empty: it has none.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its properties as they were given.
    pub props: Vec<(String, String)>,
    /// Its number on the board.
    pub device: DeviceId,
}

impl Named {
    /// A property as it was given.
    pub fn prop(&self, name: &str) -> Option<&str> {
        self.props.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }
}

/// A network card, as monitors speak of it.
#[derive(Clone)]
pub struct Nic {
    /// Its `id`; empty: it has none.
    pub id: String,
    /// Its type.
    pub model: String,
    /// The address it has at power-on.
    pub mac: crate::net::frame::Mac,
    /// Id of the network it is connected to.
    pub netdev: Option<String>,
    /// Its number on the board.
    pub device: Option<DeviceId>,
    /// Its cable.
    pub cable: NetPort,
}

/// A wired board and the ends that stick out of it.
pub struct Built {
    /// The board.
    pub board: Board,
    /// Serial lines, by number; `None` where there is none.
    pub serials: Vec<Option<CharPort>>,
    /// Parallel ports.
    pub parallels: Vec<Option<CharPort>>,
    /// Other character devices by id: `debugcon`.
    pub chars: Vec<(String, CharPort)>,
    /// Network cables by id, whose other ends are nowhere yet.
    pub nets: Vec<(String, NetPort)>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// The device that shows the picture.
    pub display: Option<DeviceId>,
    /// Devices that take input, in the order they are asked.
    pub inputs: Vec<DeviceId>,
    /// The power button: [`IrqLine::pulse`] presses it.
    pub power_button: Option<IrqLine>,
    /// How it suspends to RAM; `None`: it does not.
    pub suspend: Option<Suspend>,
    /// What the clock's memory says from the first reset on: index and value.
    pub after_reset: Vec<(u8, u8)>,
    /// Devices that were asked for by type.
    pub named: Vec<Named>,
    /// The lines to the I/O interrupt controller, by number.
    pub irqs: Vec<IrqInput>,
    /// The PCI bus on which devices can be plugged.
    pub pci: Option<crate::pci::Bus>,
    /// The USB buses.
    pub usb: Vec<crate::usb::Bus>,
}

/// Why a machine could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Two drives in one place.
    #[error("{place} is taken by '{first}'; '{second}' needs another index")]
    DriveTaken {
        /// The place.
        place: String,
        /// The drive that is there.
        first: String,
        /// The drive that wants it.
        second: String,
    },
    /// A drive the board has no place for.
    #[error("drive '{id}': {reason}")]
    Drive {
        /// The drive.
        id: String,
        /// Why.
        reason: String,
    },
    /// An unknown device type.
    #[error("there is no device '{kind}'{hint}")]
    NoDevice {
        /// As typed.
        kind: String,
        /// `; did you mean '...'?`, or empty.
        hint: String,
    },
    /// A property that cannot be.
    #[error("device '{kind}': {reason}")]
    Property {
        /// The type.
        kind: String,
        /// What is wrong.
        reason: String,
    },
    /// A setting this board cannot have.
    #[error("{0}")]
    Machine(String),
    /// A kernel that is none.
    #[error("kernel: {0}")]
    Kernel(String),
    /// Guest memory that does not fit the host.
    #[error(transparent)]
    Memory(#[from] RamFull),
}

/// The instruction set of a board's CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arch {
    /// x86.
    #[default]
    X86,
    /// AArch64.
    AArch64,
}

impl Arch {
    /// As monitors name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::AArch64 => "aarch64",
        }
    }

    /// What the type of a CPU of this model is called.
    pub fn cpu_type(self, model: &str) -> String {
        match self {
            Self::X86 => format!("{model}-x86_64-cpu"),
            Self::AArch64 => format!("{model}-arm-cpu"),
        }
    }
}

/// A board as `-M` names it.
pub struct MachineType {
    /// Name.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// One line.
    pub description: &'static str,
    /// What its CPUs are.
    pub arch: Arch,
    /// RAM if `-m` is not given, in bytes.
    pub default_memory: u64,
    /// CPU model if `-cpu` is not given.
    pub default_cpu: &'static str,
    /// Most CPUs.
    pub max_cpus: usize,
    /// Wires the board.
    pub build: fn(&MachineConfig) -> Result<Built, BuildError>,
}
