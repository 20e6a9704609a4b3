//! The command line: QEMU's options, parsed into plain data.
//!
//! Nothing is opened here. [`crate::launch`] turns [`Options`] into a machine with files that a
//! front end lends.

mod audio;
mod chardev;
mod help;
mod keyval;
mod net;
mod numa;
mod readconfig;
mod table;

pub(crate) use chardev::CHARDEV_BACKENDS;
pub use help::help;
pub use keyval::{KeyVals, number, size};
pub use numa::NumaOption;
pub use orrery_block::backend::OnError;
pub use orrery_hw::machine::{DeviceSpec, Interface};
pub use orrery_hw::numa::Topology;
pub use readconfig::readconfig;
pub(crate) use table::{describe, rows};

use crate::machine::{OnPanic, OnWatchdog};
use crate::monitor::Mode;
use orrery_block::host::Address;
use orrery_cpu::log::Wanted;
use std::fmt::Write as _;

/// Why the command line was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// There is no such option.
    #[error("{option}: no such option{hint}")]
    Unknown {
        /// As typed.
        option: String,
        /// `; did you mean '...'?`, or empty.
        hint: String,
    },
    /// The option wants a value.
    #[error("{option}: a value is missing: {usage}")]
    Missing {
        /// The option.
        option: String,
        /// How it is used.
        usage: String,
    },
    /// A sub-option the option does not have.
    #[error("{option}: it has no '{key}'{hint}")]
    SubOption {
        /// The option.
        option: String,
        /// As typed.
        key: String,
        /// As above.
        hint: String,
    },
    /// A value that cannot be.
    #[error("{option}: '{value}' is not a value of '{key}': it takes {wants}")]
    Value {
        /// The option.
        option: String,
        /// The sub-option.
        key: String,
        /// As typed.
        value: String,
        /// What it takes.
        wants: String,
    },
    /// Two things that do not go together, or something this program does not do.
    #[error("{option}: {reason}")]
    Refused {
        /// The option.
        option: String,
        /// Why.
        reason: String,
    },
}

impl OptionError {
    pub(crate) fn value(option: &str, key: &str, value: &str, wants: &str) -> Self {
        let [option, key, value, wants] = [option, key, value, wants].map(str::to_string);
        Self::Value { option, key, value, wants }
    }

    pub(crate) fn refused(option: &str, reason: impl Into<String>) -> Self {
        Self::Refused { option: option.into(), reason: reason.into() }
    }
}

/// `; did you mean 'x'?` for the nearest of `known`, if one is near.
pub fn hint<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known
        .map(|k| (strsim::damerau_levenshtein(typed, k), k))
        .min_by_key(|(d, _)| *d)
        .filter(|(d, k)| *d <= 1 + k.len().max(typed.len()) / 3);
    near.map(|(_, k)| format!("; did you mean '{k}'?")).unwrap_or_default()
}

/// A drive to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveOption {
    /// Name of the block backend; made up if empty.
    pub id: String,
    /// File name; `None`: no medium.
    pub file: Option<String>,
    /// Image format; `None`: looked for in the file.
    pub format: Option<String>,
    /// How it is attached.
    pub interface: Interface,
    /// A CD-ROM drive instead of a disk.
    pub cdrom: bool,
    /// Place on the bus; `None`: the next.
    pub index: Option<u32>,
    /// Refuse writes.
    pub read_only: bool,
    /// Keep writes in memory and drop them at the end.
    pub snapshot: bool,
    /// Options of the node and those below it (`file.read-zeroes`).
    pub node: Vec<(String, String)>,
    /// What to do when a read failed (`rerror`).
    pub on_read_error: OnError,
    /// What to do when a write failed (`werror`).
    pub on_write_error: OnError,
}

/// Where a character device's bytes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CharTarget {
    /// Nowhere, and the device is not there.
    None,
    /// Nowhere.
    Null,
    /// The terminal; with `mux` Ctrl-A escapes reach the emulator.
    Stdio {
        /// Ctrl-A escapes.
        mux: bool,
    },
    /// A file, for output.
    File(String),
    /// A `-chardev` by its id.
    Chardev(String),
    /// A virtual console: kept for the window.
    Vc,
    /// A pipe, or two: `PATH.in` and `PATH.out`.
    Pipe(String),
    /// A pseudo-terminal of its own.
    Pty,
    /// The last bytes are kept.
    Ringbuf(usize),
    /// A connection.
    Socket(SocketOption),
}

/// A connection (`-chardev socket`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// Where.
    pub address: Address,
    /// It listens, instead of connecting.
    pub server: bool,
    /// The machine is not built before somebody has connected.
    pub wait: bool,
}

/// A monitor (`-mon`, `-qmp`, `-monitor`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorOption {
    /// Its line.
    pub target: CharTarget,
    /// How it talks.
    pub mode: Mode,
}

/// Where sound goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioTarget {
    /// Nowhere.
    None,
    /// A WAV file.
    Wav(String),
    /// What the host plays sound with.
    Host,
}

/// A place for the machine's sound (`-audiodev`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioOption {
    /// Name that other options refer to.
    pub id: String,
    /// Where it goes.
    pub target: AudioTarget,
    /// Frames a second.
    pub rate: u32,
}

impl AudioOption {
    /// The name of its kind.
    pub fn driver(&self) -> &'static str {
        match self.target {
            AudioTarget::None => "none",
            AudioTarget::Wav(_) => "wav",
            AudioTarget::Host => "alsa",
        }
    }
}

/// What a network card is connected to (`-netdev`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetdevOption {
    /// Name that cards refer to.
    pub id: String,
    /// `user`.
    pub kind: String,
    /// The rest.
    pub props: Vec<(String, String)>,
}

/// Where the picture goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DisplayOption {
    /// A window if there is a desktop, else the terminal.
    #[default]
    Default,
    /// A window.
    Window,
    /// Nowhere.
    None,
}

/// How time moves (`-icount`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IcountOption {
    /// With the host.
    #[default]
    Off,
    /// With instructions: nanoseconds an instruction are two to this power.
    Shift(u32),
}

/// Record and replay (`-icount rr=`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayOption {
    /// What is done.
    pub mode: crate::replay::Mode,
    /// The recording. Without one it is kept in memory.
    pub file: Option<String>,
}

/// Start time of the clock chip (`-rtc base=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time.
    #[default]
    Host,
    /// Seconds since 1970.
    At(i64),
}

/// `-accel`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accel {
    /// Hot code is compiled; if nothing is said, where the front end does so by itself.
    pub jit: Option<bool>,
    /// How often code must be found running to be compiled.
    pub heat: Option<u64>,
    /// How often compiled code must be found running to be compiled again, for the best code; 0: never.
    pub best: Option<u64>,
    /// Everything is compiled before it is run: for tests.
    pub eager: bool,
    /// Nothing is executed: a test drives the devices.
    pub qtest: bool,
    /// One that this program has was named.
    pub named: bool,
    /// One that it does not have was named first.
    pub refused: Option<String>,
}

/// Everything the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-M`: machine type; empty: the default one.
    pub machine: String,
    /// Properties of the machine.
    pub machine_props: Vec<(String, String)>,
    /// `-accel`: how instructions are executed.
    pub accel: Accel,
    /// `-m`: memory in bytes.
    pub memory: Option<u64>,
    /// `-smp`: number of CPUs.
    pub cpus: Option<usize>,
    /// How CPUs are packaged, where it is given.
    pub topology: Option<Topology>,
    /// `-numa`, in order.
    pub numa: Vec<NumaOption>,
    /// `-cpu`: model and features.
    pub cpu: Option<String>,
    /// Drives in the order given.
    pub drives: Vec<DriveOption>,
    /// `-kernel`.
    pub kernel: Option<String>,
    /// `-initrd`: one file, or several separated by commas (multiboot modules).
    pub initrd: Option<String>,
    /// `-append`.
    pub append: Option<String>,
    /// `-bios`.
    pub bios: Option<String>,
    /// `-L`: folders where firmware is looked for.
    pub firmware_dirs: Vec<String>,
    /// `-device`.
    pub devices: Vec<DeviceSpec>,
    /// `-chardev`: (id, target).
    pub chardevs: Vec<(String, CharTarget)>,
    /// `-mon`, `-qmp`, `-monitor`.
    pub monitors: Vec<MonitorOption>,
    /// `-gdb`.
    pub gdb: Option<CharTarget>,
    /// `-qtest`.
    pub qtest: Option<CharTarget>,
    /// `-blockdev`.
    pub blockdevs: Vec<String>,
    /// `-object`.
    pub objects: Vec<String>,
    /// `-pidfile`.
    pub pidfile: Option<String>,
    /// `-serial`, in order.
    pub serials: Vec<CharTarget>,
    /// `-parallel`, in order.
    pub parallels: Vec<CharTarget>,
    /// `-debugcon`.
    pub debugcon: Option<CharTarget>,
    /// `-display`, `-nographic`.
    pub display: DisplayOption,
    /// `-nographic`: serial and monitor on the terminal.
    pub nographic: bool,
    /// `-vga`.
    pub vga: Option<String>,
    /// Networks: `-netdev`, and those that `-nic` and `-net` imply.
    pub netdevs: Vec<NetdevOption>,
    /// `-nic` and `-net nic`: network cards, their type empty for the machine's usual one.
    pub nics: Vec<DeviceSpec>,
    /// Something was said about the network, if only that there is none.
    pub network: bool,
    /// `-audiodev`.
    pub audiodevs: Vec<AudioOption>,
    /// `-boot order=`.
    pub boot_order: Option<String>,
    /// `-boot once=`: until the first reset.
    pub boot_once: Option<String>,
    /// `-boot splash-time=`, in milliseconds.
    pub splash_time: Option<u16>,
    /// `-boot reboot-timeout=`, in milliseconds; -1: never.
    pub reboot_timeout: Option<i32>,
    /// `-no-fd-bootchk`.
    pub no_floppy_check: bool,
    /// `-uuid`.
    pub uuid: Option<[u8; 16]>,
    /// `-global`: device type, property and value.
    pub globals: Vec<(String, String, String)>,
    /// `-action panic=`.
    pub on_panic: OnPanic,
    /// `-action watchdog=`, `-watchdog-action`.
    pub on_watchdog: OnWatchdog,
    /// `-preconfig`: it waits for a monitor to let it begin.
    pub preconfig: bool,
    /// `-boot menu=`.
    pub boot_menu: bool,
    /// `-icount`.
    pub icount: IcountOption,
    /// `-incoming`.
    pub incoming: Option<String>,
    /// `-icount rr=`.
    pub replay: Option<ReplayOption>,
    /// `-rtc base=`.
    pub rtc: RtcBase,
    /// `-seed`.
    pub seed: u64,
    /// `-no-reboot`.
    pub no_reboot: bool,
    /// `-no-shutdown`.
    pub no_shutdown: bool,
    /// `-snapshot`.
    pub snapshot: bool,
    /// `-S`.
    pub paused: bool,
    /// `-nodefaults`.
    pub no_defaults: bool,
    /// `-d` and `-dfilter`: what the engines tell.
    pub log: Wanted,
    /// `-D`: the file it goes to.
    pub log_file: Option<String>,
    /// `-name`.
    pub name: Option<String>,
    /// `-fw_cfg`: (name, value or file).
    pub fw_cfg: Vec<(String, FwCfgValue)>,
    /// `-loadvm`: a snapshot file to start from.
    pub loadvm: Option<String>,
    /// What to print instead of running.
    pub print: Option<Print>,
    /// Commands to run by a script instead of a person, see the guide.
    pub script: Option<String>,
}

/// Contents of a `-fw_cfg` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FwCfgValue {
    /// The string itself.
    String(String),
    /// A file's contents.
    File(String),
}

/// What to print instead of running a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Print {
    /// `-help`.
    Help,
    /// `-version`.
    Version,
    /// `-M help`.
    Machines,
    /// `-cpu help`.
    Cpus,
    /// `-d help`.
    LogItems,
    /// `-chardev help`.
    Chardevs,
    /// `-qmp help`.
    Reference,
    /// `-device help`.
    Devices,
    /// `-device TYPE,help`.
    DeviceProps(String),
}

impl Options {
    /// Parses arguments (without the program's name).
    pub fn parse<S: AsRef<str>>(args: &[S]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let args = readconfig::with_sets(args)?;
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let Some(name) = arg.strip_prefix('-').filter(|n| !n.is_empty()) else {
                // A bare argument is a disk image, as with QEMU.
                options.drive(DriveOption {
                    file: Some(arg.into()),
                    index: Some(0),
                    ..Default::default()
                });
                continue;
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let Some(row) = table::find(name) else {
                let known = table::TABLE.iter().map(|r| r.name);
                return Err(OptionError::Unknown {
                    option: arg.into(),
                    hint: hint_option(name, known),
                });
            };
            let value = match row.value {
                None => "",
                Some(usage) => args.next().ok_or_else(|| OptionError::Missing {
                    option: arg.into(),
                    usage: format!("-{} {usage}", row.name),
                })?,
            };
            (row.apply)(&mut options, value)?;
        }
        options.check()?;
        net::finish(&mut options);
        Ok(options)
    }

    pub(crate) fn drive(&mut self, drive: DriveOption) {
        self.drives.push(drive);
    }

    fn check(&self) -> Result<(), OptionError> {
        if let (Some(name), false) = (&self.accel.refused, self.accel.named) {
            let reason =
                format!("'{name}' is not in this program: it has 'jit', 'tcg' and 'interp'");
            return Err(OptionError::refused("-accel", reason));
        }
        if self.kernel.is_none() {
            if self.append.is_some() {
                return Err(OptionError::refused("-append", "it needs -kernel"));
            }
            if self.initrd.is_some() {
                return Err(OptionError::refused("-initrd", "it needs -kernel"));
            }
        }
        for (name, id) in self.machine_props.iter().filter(|p| p.0 == "pcspk-audiodev") {
            if !self.audiodevs.iter().any(|a| a.id == *id) {
                let reason = format!("'{name}': there is no -audiodev with the id '{id}'");
                return Err(OptionError::refused("-machine", reason));
            }
        }
        let muxed = self.serials.iter().chain(&self.parallels);
        let stdio = muxed.filter(|t| matches!(t, CharTarget::Stdio { mux: false })).count();
        if stdio > 1 {
            return Err(OptionError::refused(
                "-serial",
                "the terminal can be given to one device only",
            ));
        }
        Ok(())
    }
}

fn hint_option<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut h = hint(typed, known);
    if h.is_empty() {
        let _ = write!(h, "; 'orrery -help' lists them");
    } else {
        h = h.replace("mean '", "mean '-");
    }
    h
}

#[cfg(test)]
mod tests;
