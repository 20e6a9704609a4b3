//! From a command line to a machine, with files that the front end lends.

use crate::compat::{globals, version};
use crate::drives::{note_device, open_drive, partition_geometry};
use crate::handles::{Handles, Memory};
use crate::machine::{Machine, Policy};
use crate::numa;
use crate::options::{
    CharTarget, DriveOption, FwCfgValue, IcountOption, Interface, NetdevOption, Options, Print,
    ReplayOption, RtcBase, help, hint,
};
use crate::replay::{self, Head, LogError, Mode, Replay};
use orrery_block::backend::BlockBackend;
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::{HostFs, MemFile};
use orrery_block::{BlockError, Format, IoBuf, NodeOptions, OpenOptions};
use orrery_cpu::aarch64::model::MODELS;
use orrery_cpu::aarch64::{AArch64, AArch64Isa};
use orrery_cpu::isa::Isa;
use orrery_cpu::jit::abi::Shims;
use orrery_cpu::jit::{self, Compiler};
use orrery_cpu::log::Items;
use orrery_cpu::x86::cpuid::{Model, ModelError};
use orrery_cpu::x86::{X86, X86Isa};
use orrery_cpu::{Cluster, Cpus};
use orrery_hw::machine::{
    Arch, BuildError, Built, DeviceSpec, Drive, Kernel, MachineConfig, MachineType, Netdev,
};
use orrery_hw::machines;
use orrery_hw::numa::{Numa, Topology};
use orrery_hw::registry::{devices, find};
use orrery_system::board::ClockMode;
use orrery_system::ports::CharPort;
use std::sync::Arc;

/// What a front end lends to a machine.
pub trait Host {
    /// Files by name.
    fn fs(&self) -> &dyn HostFs;
    /// Folders where firmware is looked for after those of `-L`, each with a slash at its end.
    fn firmware_dirs(&self) -> Vec<String>;
    /// Seconds since 1970-01-01 00:00 UTC.
    fn epoch_secs(&self) -> i64;
    /// The graph for the machine's disks, with what this host lends to it.
    fn graph(&self) -> BlockGraph {
        BlockGraph::new()
    }
    /// Name of the disk on which the diagnostic ROM counts its starts; it is made when it is not
    /// there. `None`: a disk in memory.
    fn diagnostic_disk(&self) -> Option<String> {
        None
    }
    /// A compiler for hot code that calls these shims; `wait`: one that is done when it returns.
    /// `None`: everything is interpreted.
    fn compiler(&self, shims: Shims, wait: bool) -> Option<Box<dyn Compiler>> {
        let _ = (shims, wait);
        None
    }
    /// Whether hot code is compiled where `-accel` does not say.
    fn compiles_by_itself(&self) -> bool {
        false
    }
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file that cannot be used.
    #[error("{option}: '{file}'")]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        file: String,
        /// What is wrong with it.
        source: BlockError,
    },
    /// Firmware that is not there.
    #[error(
        "firmware '{name}' was not found in {places}; install the package 'seabios', or name a file with -bios or a folder with -L"
    )]
    Firmware {
        /// File name.
        name: String,
        /// Where it was looked for.
        places: String,
    },
    /// An unknown machine.
    #[error("there is no machine '{name}'{hint}; '-M help' lists them")]
    NoMachine {
        /// As typed.
        name: String,
        /// `; did you mean '...'?`, or empty.
        hint: String,
    },
    /// More than the machine can have.
    #[error("-smp: '{machine}' takes at most {max} CPUs")]
    TooManyCpus {
        /// The machine.
        machine: &'static str,
        /// Its limit.
        max: usize,
    },
    /// A CPU model that cannot be.
    #[error("-cpu")]
    Cpu(#[from] ModelError),
    /// The board refuses.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An option names something that is not there.
    #[error("{0}")]
    Missing(String),
}

/// A character device of the machine and where its bytes go.
pub struct Line {
    /// `serial0`, `parallel0`, `debugcon`.
    pub name: String,
    /// The guest's end.
    pub port: CharPort,
    /// Where its bytes go.
    pub target: CharTarget,
}

/// A machine that is ready to run.
pub struct Launched {
    /// The machine.
    pub machine: Machine,
    /// Its character devices.
    pub lines: Vec<Line>,
    /// Remarks for the person: features a CPU model does not have.
    pub warnings: Vec<String>,
}

/// Finds a machine type by name or alias.
pub fn machine_type(name: &str) -> Result<&'static MachineType, LaunchError> {
    let name = if name.is_empty() { "pc" } else { name };
    let find = |name: &str| machines().find(|m| m.name == name || m.aliases.contains(&name));
    let found = find(name).or_else(|| find(version(name)?.0));
    found.ok_or_else(|| {
        let names = machines().flat_map(|m| m.aliases.iter().copied().chain([m.name]));
        LaunchError::NoMachine { name: name.into(), hint: hint(name, names) }
    })
}

/// The nodes that `-numa` makes.
fn nodes(
    options: &Options,
    blocks: &BlockGraph,
    cpus: usize,
    memory: u64,
) -> Result<Numa, LaunchError> {
    let memdev = |id: &str| {
        let object = blocks.object(id).filter(|o| o.kind.starts_with("memory-backend"))?;
        object.properties.get("size")?.as_u64()
    };
    let topology = topology(options, cpus);
    let parts = numa::Parts { cpus, topology, memory, memdev: &memdev };
    numa::resolve(&options.numa, &parts)
        .map_err(|why| LaunchError::Missing(format!("-numa: {why}")))
}

/// How the CPUs are packaged.
fn topology(options: &Options, cpus: usize) -> Topology {
    options.topology.unwrap_or(Topology::cores(cpus))
}

/// What `-help`, `-M help` and the like print.
pub fn print_text(print: &Print) -> Result<String, LaunchError> {
    Ok(match print {
        Print::Help => help(),
        Print::Version => format!("Orrery emulator version {}\n", env!("CARGO_PKG_VERSION")),
        Print::Machines => {
            let default = machine_type("")?.name;
            let row = |m: &MachineType| {
                let mark = if m.name == default { " (default)" } else { "" };
                format!("{:<20} {}{mark}\n", m.name, m.description)
            };
            format!("Supported machines are:\n{}", machines().map(row).collect::<String>())
        }
        Print::Cpus => {
            let arm = MODELS.iter().map(|m| m.name).filter(|n| !Model::NAMES.contains(n));
            let names: String =
                Model::NAMES.iter().copied().chain(arm).map(|n| format!("  {n}\n")).collect();
            format!("Available CPUs:\n{names}")
        }
        Print::Reference => crate::monitor::reference(),
        Print::LogItems => orrery_cpu::log::help(),
        Print::Chardevs => {
            let names = crate::options::CHARDEV_BACKENDS.iter();
            names
                .fold("Available chardev backend types:\n".into(), |out, n| format!("{out}  {n}\n"))
        }
        Print::Devices => {
            devices().map(|d| format!("{:<20} {}\n", d.name, d.description)).collect()
        }
        Print::DeviceProps(kind) => {
            let device = find(kind).ok_or_else(|| BuildError::NoDevice {
                kind: kind.clone(),
                hint: hint(kind, devices().map(|d| d.name)),
            })?;
            let props =
                device.properties().map(|p| format!("  {:<14} {}\n", p.name, p.description));
            format!("{} options:\n{}", device.name, props.collect::<String>())
        }
    })
}

/// Reads a whole file.
pub async fn read_file(
    fs: &dyn HostFs,
    option: &'static str,
    name: &str,
) -> Result<Vec<u8>, LaunchError> {
    let error = |source| LaunchError::File { option, file: name.into(), source };
    let file = fs.open(name, false).await.map_err(error)?;
    let len = usize::try_from(file.len())
        .ok()
        .filter(|&n| n <= 1 << 30)
        .ok_or_else(|| error(BlockError::Invalid("it is larger than 1 GiB".into())))?;
    let buf = file.read_at(0, IoBuf::zeroed(len)).await.map_err(error)?;
    Ok(buf.to_vec())
}

/// Builds the machine that `options` describe.
pub async fn launch(options: &Options, host: &dyn Host) -> Result<Launched, LaunchError> {
    let kind = machine_type(&options.machine)?;
    let cpus = options.cpus.unwrap_or(1);
    if cpus > kind.max_cpus {
        return Err(LaunchError::TooManyCpus { machine: kind.name, max: kind.max_cpus });
    }
    let model_text = options.cpu.as_deref().unwrap_or(kind.default_cpu);
    // Which place a CPU has follows from its number.
    let parts = model_text.split(',').filter(|part| !part.starts_with("apic-id="));
    let model_text = parts.collect::<Vec<_>>().join(",");
    let (model, mut warnings) = match kind.arch {
        Arch::X86 => {
            let (model, warnings) = Model::parse(&model_text)?;
            (Processor::X86(model), warnings)
        }
        Arch::AArch64 => (Processor::AArch64(arm_model(&model_text)?), Vec::new()),
    };
    let pc = kind.arch == Arch::X86 && !is_empty(kind);
    check_chardevs(options)?;
    let recording = match &options.replay {
        Some(ReplayOption { mode: Mode::Replay, file: Some(name) }) => {
            Some((name, read_file(host.fs(), "-icount", name).await?))
        }
        _ => None,
    };
    // A replay shows the time and draws the numbers of the recording.
    let mut seed = options.seed;
    let mut rtc = options.rtc;
    if let Some((name, file)) = &recording {
        let head = replay::head(file).map_err(|e| refused(name, &e))?;
        (seed, rtc) = (head.seed, RtcBase::At(head.epoch_secs));
    }
    let mut scratches = Vec::new();
    let blocks = host.graph();
    // Another program has the disks until its machine is here.
    blocks.context().set_awaits(options.incoming.is_some());
    let (serials, parallels) = char_targets(options);
    for text in &options.objects {
        blocks.add_object_argument(text).map_err(|source| wrong("-object", text, source))?;
    }
    for text in &options.blockdevs {
        let added = match NodeOptions::from_argument(text) {
            Ok(node) => blocks.add(&node).await,
            Err(error) => Err(error),
        };
        added.map_err(|source| wrong("-blockdev", text, source))?;
    }
    let memory = options.memory.unwrap_or(kind.default_memory);
    let mut config = MachineConfig {
        memory,
        cpus,
        cpu_model: model_text,
        vga: options
            .vga
            .clone()
            .unwrap_or_else(|| if options.no_defaults { "none" } else { "std" }.into()),
        serials: serials.iter().map(|t| *t != CharTarget::None).collect(),
        parallels: parallels.iter().map(|t| *t != CharTarget::None).collect(),
        debugcon: options.debugcon.as_ref().map(|_| 0xe9),
        devices: with_globals(&options.devices, options),
        netdevs: netdevs(options)?,
        nics: with_globals(&options.nics, options),
        no_defaults: options.no_defaults,
        boot_once: options.boot_once.clone(),
        floppy_check: !options.no_floppy_check,
        boot_menu: options.boot_menu,
        splash_time: options.splash_time,
        reboot_timeout: options.reboot_timeout,
        uuid: options.uuid.unwrap_or_default(),
        props: options.machine_props.clone(),
        globals: globals(options),
        numa: nodes(options, &blocks, cpus, memory)?,
        seed,
        epoch_secs: match rtc {
            RtcBase::Host => host.epoch_secs(),
            RtcBase::At(secs) => secs,
        },
        ..MachineConfig::default()
    };
    if let Some(order) = &options.boot_order {
        config.boot_order = order.clone();
    }
    if let IcountOption::Shift(shift) = options.icount {
        config.clock = ClockMode::Deterministic;
        config.ns_per_insn_q16 = 1 << (16 + shift);
    }
    let files = Files { host, dirs: &options.firmware_dirs };
    let flash = options.drives.iter().any(|d| d.interface == Interface::Pflash);
    let diagnose = wants_diagnostics(options) && pc;
    if diagnose {
        config.firmware = orrery_diag::ROM.to_vec();
        let backend = diagnostic_disk(&blocks, host).await?;
        let id = "diagnostic".into();
        let interface = Interface::Ide;
        config.drives.push(Drive { backend, interface, index: Some(0), id, ..Drive::default() });
    } else if !pc {
        if let Some(name) = options.bios.as_deref() {
            config.firmware = files.firmware(Some(name), name).await?;
        }
    } else if !flash || options.bios.is_some() {
        let small = kind.name == "isapc";
        let default = if small { "bios.bin" } else { "bios-256k.bin" };
        config.firmware = files.firmware(options.bios.as_deref(), default).await?;
    }
    if config.vga != "none" && !diagnose && pc {
        config.video_bios = match files.firmware(None, "vgabios-stdvga.bin").await {
            // Firmware of another sort brings its own driver; only a default one must be there.
            Err(e) if options.bios.is_none() && !flash => return Err(e),
            other => other.unwrap_or_default(),
        };
    }
    for (name, value) in &options.fw_cfg {
        let bytes = match value {
            FwCfgValue::String(s) => s.clone().into_bytes(),
            FwCfgValue::File(f) => read_file(host.fs(), "-fw_cfg", f).await?,
        };
        config.fw_cfg.push((name.clone(), bytes));
    }
    config.kernel = kernel(options, host.fs()).await?;
    for (i, drive) in options.drives.iter().enumerate() {
        let id = if drive.id.is_empty() { default_id(drive, i) } else { drive.id.clone() };
        let backend = open_drive(&blocks, host.fs(), drive, &id, options.snapshot).await?;
        let &DriveOption { interface, cdrom, index, .. } = drive;
        let hard_disk = !cdrom && !matches!(interface, Interface::Floppy | Interface::Pflash);
        let shape = match blocks.root_of(&backend).filter(|_| hard_disk) {
            Some(disk) => partition_geometry(&disk).await,
            None => None,
        };
        config.drives.push(Drive {
            backend,
            interface,
            cdrom,
            index,
            id,
            shape,
            ..Drive::default()
        });
    }
    nodes_of_devices(&blocks, options, &mut config)?;
    if options.replay.is_some() {
        for drive in &config.drives {
            scratches.extend(keep_writes(&blocks, &drive.backend).await?);
        }
    }
    let head = Head {
        machine: kind.name.into(),
        cpus: cpus as u32,
        memory,
        rate: config.ns_per_insn_q16,
        epoch_secs: config.epoch_secs,
        seed,
        drives: config.drives.iter().map(|d| (d.id.clone(), d.backend.len())).collect(),
        start: None,
    };
    let built = (kind.build)(&config).map_err(|e| match (e, &options.kernel) {
        (BuildError::Kernel(reason), Some(file)) => LaunchError::File {
            option: "-kernel",
            file: file.clone(),
            source: BlockError::Invalid(reason),
        },
        (e, _) => e.into(),
    })?;
    let processors: Box<dyn Cpus> = match model {
        Processor::X86(model) => {
            let all = (0..cpus).map(|i| X86::new(model.clone(), i, seed));
            with_compiler(Cluster::<X86Isa>::new(all), options, host, &mut warnings)
        }
        Processor::AArch64(model) => {
            let all = (0..cpus).map(|i| AArch64::new(model, i));
            with_compiler(Cluster::<AArch64Isa>::new(all), options, host, &mut warnings)
        }
    };
    let numa = config.numa;
    let mut launched =
        assemble(kind, built, processors, numa, blocks, options, &serials, &parallels, warnings);
    launched.machine.handles.netdevs = std::mem::take(&mut config.netdevs);
    if options.replay.is_some() && config.clock != ClockMode::Deterministic {
        return Err(refused("rr", &LogError::Realtime));
    }
    match (&options.replay, recording) {
        (Some(_), Some((name, file))) => {
            let replay = Replay::of_file(&file, &head, scratches).map_err(|e| refused(name, &e))?;
            launched.machine.set_replay(replay);
        }
        (Some(_), None) => launched.machine.set_replay(Replay::record(head, scratches)),
        (None, _) => {}
    }
    Ok(launched)
}

/// A CPU model of one of the instruction sets.
enum Processor {
    X86(Model),
    AArch64(orrery_cpu::aarch64::Model),
}

fn arm_model(text: &str) -> Result<orrery_cpu::aarch64::Model, LaunchError> {
    let name = text.split(',').next().unwrap_or_default();
    let found = orrery_cpu::aarch64::Model::named(name).filter(|_| name == text);
    found.ok_or_else(|| {
        let names = MODELS.iter().map(|m| m.name);
        LaunchError::Missing(format!("-cpu: unknown CPU model '{text}'{}", hint(text, names)))
    })
}

/// Lends a compiler to CPUs, where there is one.
fn with_compiler<I: Isa>(
    mut cluster: Cluster<I>,
    options: &Options,
    host: &dyn Host,
    warnings: &mut Vec<String>,
) -> Box<dyn Cpus> {
    let accel = &options.accel;
    if accel.jit.unwrap_or_else(|| host.compiles_by_itself()) {
        match host.compiler(Cluster::<I>::shims(), accel.eager) {
            Some(compiler) => {
                let mut policy = jit::Policy { eager: accel.eager, ..jit::Policy::default() };
                if let Some(heat) = accel.heat {
                    policy.heat = heat.clamp(1, 255) as u8;
                }
                if let Some(best) = accel.best {
                    policy.best = (best != 0).then_some(best.min(255) as u8);
                }
                cluster.set_compiler(compiler, policy);
            }
            None if accel.jit.is_none() => {}
            None => warnings
                .push("-accel jit: this build compiles no code; everything is interpreted".into()),
        }
    }
    Box::new(cluster)
}

fn refused(name: &str, error: &LogError) -> LaunchError {
    LaunchError::Missing(format!("-icount: '{name}': {error}"))
}

/// Has writes to a drive kept in memory.
async fn keep_writes(
    blocks: &BlockGraph,
    drive: &BlockBackend,
) -> Result<Option<orrery_block::Scratch>, LaunchError> {
    let Some(node) = blocks.root_of(drive).filter(|_| !drive.read_only()) else { return Ok(None) };
    let name = drive.name().unwrap_or_default();
    let error = |source| wrong("-icount", &name, source);
    let (top, scratch) = blocks.scratch(&node).map_err(error)?;
    drive.replace(top.medium(false), true).map_err(error)?;
    Ok(Some(scratch))
}

/// Devices with the properties that `-global` gives to all of their type.
fn with_globals(devices: &[DeviceSpec], options: &Options) -> Vec<DeviceSpec> {
    let mut devices = devices.to_vec();
    for device in &mut devices {
        for (driver, prop, value) in options.globals.iter().rev() {
            if *driver == device.kind && !device.props.iter().any(|(name, _)| name == prop) {
                device.props.push((prop.clone(), value.clone()));
            }
        }
    }
    devices
}

fn wrong(option: &'static str, text: &str, source: BlockError) -> LaunchError {
    LaunchError::File { option, file: text.into(), source }
}

/// Devices may name a node of `-blockdev` in place of a drive.
fn nodes_of_devices(
    blocks: &BlockGraph,
    options: &Options,
    config: &mut MachineConfig,
) -> Result<(), LaunchError> {
    for spec in &mut config.devices {
        let given = |name: &str| spec.props.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        let removable = matches!(spec.kind.as_str(), "floppy" | "ide-cd");
        if let (None, Some(id), true) = (given("drive"), given("id"), removable) {
            // An empty drive, which a monitor can put media into.
            let error = |source| wrong("-device", &id, source);
            let backend = blocks.create_backend(&id).map_err(error)?;
            let interface = Interface::None;
            config.drives.push(Drive { backend, interface, id: id.clone(), ..Drive::default() });
            spec.props.push(("drive".into(), id));
        }
    }
    for spec in &options.devices {
        let Some((_, name)) = spec.props.iter().find(|(k, _)| k == "drive") else { continue };
        if let Some(drive) = config.drives.iter().find(|d| d.id == *name) {
            note_device(&drive.backend, spec);
            continue;
        }
        let Some(node) = blocks.node(name) else { continue };
        let backend = blocks.anonymous_backend();
        note_device(&backend, spec);
        let medium = node.medium(node.read_only());
        backend.insert(medium).map_err(|source| wrong("-device", name, source))?;
        let interface = Interface::None;
        config.drives.push(Drive { backend, interface, id: name.clone(), ..Drive::default() });
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the parts of one machine, put together once")]
fn assemble(
    kind: &MachineType,
    built: Built,
    cpus: Box<dyn Cpus>,
    numa: Numa,
    blocks: BlockGraph,
    options: &Options,
    serials: &[CharTarget],
    parallels: &[CharTarget],
    warnings: Vec<String>,
) -> Launched {
    let mut lines = Vec::new();
    let mut add = |name: String, port: &CharPort, target: &CharTarget| {
        let target = match target {
            CharTarget::Chardev(id) => options
                .chardevs
                .iter()
                .find(|(name, _)| name == id)
                .map_or(CharTarget::Null, |(_, t)| t.clone()),
            other => other.clone(),
        };
        lines.push(Line { name, port: port.clone(), target });
    };
    for (what, ports, targets) in
        [("serial", &built.serials, serials), ("parallel", &built.parallels, parallels)]
    {
        for (i, (port, target)) in ports.iter().zip(targets).enumerate() {
            if let Some(port) = port {
                add(format!("{what}{i}"), port, target);
            }
        }
    }
    for (name, port) in &built.chars {
        let device = |spec: &&DeviceSpec| {
            spec.props.iter().any(|(k, v)| k == "id" && v == name)
                || spec.props.iter().any(|(k, v)| k == "chardev" && v == name)
        };
        let target = match (name.as_str(), &options.debugcon) {
            ("debugcon", Some(target)) => target.clone(),
            _ => match options.devices.iter().find(device) {
                Some(spec) => {
                    let chardev = spec.props.iter().find(|(k, _)| k == "chardev");
                    chardev.map_or(CharTarget::Null, |(_, id)| CharTarget::Chardev(id.clone()))
                }
                None => CharTarget::Null,
            },
        };
        add(name.clone(), port, &target);
    }
    let backend = options.machine_props.iter().rev().find(|p| p.0 == "memory-backend");
    let usual = match kind.arch {
        _ if is_empty(kind) => "ram",
        Arch::X86 => "pc.ram",
        Arch::AArch64 => "mach-virt.ram",
    };
    let model = options.cpu.as_deref().unwrap_or(kind.default_cpu);
    let model = model.split(',').next().unwrap_or(model);
    let id = backend.map_or(usual, |p| &p.1).to_owned();
    let bytes = options.memory.unwrap_or(kind.default_memory);
    let topology = topology(options, cpus.count());
    let mut handles = Handles {
        machine: kind.name.into(),
        arch: kind.arch,
        serials: built.serials.iter().flatten().cloned().collect(),
        parallels: built.parallels.iter().flatten().cloned().collect(),
        chars: built.chars,
        nets: built.nets,
        nics: Vec::new(),
        netdevs: Vec::new(),
        cpu_model: model.into(),
        display: built.display,
        inputs: built.inputs,
        suspend: built.suspend,
        after_reset: built.after_reset,
        power_button: built.power_button,
        irqs: built.irqs,
        named: built.named,
        pci: built.pci,
        usb: built.usb,
        topology,
        numa,
        memory: Memory { id, bytes },
    };
    handles.add_nics(built.nics);
    let mut machine = Machine::new(built.board, cpus, blocks, handles);
    machine.policy = Policy {
        no_reboot: options.no_reboot,
        no_shutdown: options.no_shutdown,
        on_panic: options.on_panic,
        on_watchdog: options.on_watchdog,
    };
    if options.accel.qtest || is_empty(kind) {
        machine.set_qtest();
    }
    if options.log.items != Items::default() {
        machine.cpus.set_log(&machine.board, options.log.clone());
    }
    if options.paused || options.preconfig || options.incoming.is_some() {
        machine.pause();
    }
    Launched { machine, lines, warnings }
}

struct Files<'a> {
    host: &'a dyn Host,
    dirs: &'a [String],
}

impl Files<'_> {
    /// A firmware file: the one named, else the default one from the first folder that has it.
    async fn firmware(&self, named: Option<&str>, default: &str) -> Result<Vec<u8>, LaunchError> {
        let fs = self.host.fs();
        let name = named.unwrap_or(default);
        if named.is_some() {
            if let Ok(file) = read_file(fs, "-bios", name).await {
                if file.is_empty() {
                    let source = BlockError::Invalid("it is empty".into());
                    return Err(LaunchError::File { option: "-bios", file: name.into(), source });
                }
                return Ok(file);
            }
        }
        let slash = |d: &String| if d.ends_with('/') { d.clone() } else { format!("{d}/") };
        let dirs: Vec<String> =
            self.dirs.iter().map(slash).chain(self.host.firmware_dirs()).collect();
        for dir in &dirs {
            if let Ok(file) = read_file(fs, "-bios", &format!("{dir}{name}")).await {
                return Ok(file);
            }
        }
        match named {
            Some(name) => read_file(fs, "-bios", name).await,
            None => Err(LaunchError::Firmware { name: name.into(), places: dirs.join(", ") }),
        }
    }
}

/// A machine without a board: nothing runs on it.
fn is_empty(kind: &MachineType) -> bool {
    kind.default_memory == 0
}

/// Whether nothing was given that a machine could start from.
fn wants_diagnostics(options: &Options) -> bool {
    options.drives.is_empty()
        && options.kernel.is_none()
        && options.bios.is_none()
        && options.devices.is_empty()
        && options.loadvm.is_none()
        && !options.accel.qtest
}

/// Bytes of the disk on which the diagnostic ROM counts its starts.
const DIAGNOSTIC_DISK: u64 = 1 << 20;

fn diagnostic_image() -> (orrery_block::qcow2::CreateOptions, OpenOptions) {
    let create = orrery_block::qcow2::CreateOptions { size: DIAGNOSTIC_DISK, ..Default::default() };
    (create, OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::default() })
}

/// The disk in a file, made when it is not there; one that is empty was left by a start that did
/// not get far.
async fn kept_diagnostic_disk(
    blocks: &BlockGraph,
    fs: &dyn HostFs,
    name: &str,
) -> Result<Arc<Node>, BlockError> {
    let (create, open) = diagnostic_image();
    let there = fs.open(name, false).await.is_ok_and(|file| !file.is_empty());
    if !there {
        let file = fs.create(name).await?;
        orrery_block::img::create(blocks, file, Format::Qcow2, &create).await?;
    }
    blocks.open(fs, name, &open).await
}

async fn diagnostic_disk(
    blocks: &BlockGraph,
    host: &dyn Host,
) -> Result<BlockBackend, LaunchError> {
    let error =
        |source| LaunchError::File { option: "diagnostic disk", file: "memory".into(), source };
    let kept = match host.diagnostic_disk() {
        Some(name) => match kept_diagnostic_disk(blocks, host.fs(), &name).await {
            Ok(node) => Some(node),
            // Another machine has it, or its folder cannot be written: no reason not to start.
            Err(e) => {
                tracing::info!("starts are not counted: '{name}': {e}");
                None
            }
        },
        None => None,
    };
    let node = match kept {
        Some(node) => node,
        None => {
            let file = Arc::new(MemFile::from_bytes(&[]));
            let (create, open) = diagnostic_image();
            let made = orrery_block::img::create(blocks, file.clone(), Format::Qcow2, &create);
            made.await.map_err(error)?;
            let node = blocks.open_file(None, "", file).map_err(error)?;
            blocks.open_over(&node, &open).await.map_err(error)?
        }
    };
    let backend = blocks.create_backend("diagnostic").map_err(error)?;
    backend.insert(node.medium(false)).map_err(error)?;
    Ok(backend)
}

/// Every character device that an option names is there.
fn check_chardevs(options: &Options) -> Result<(), LaunchError> {
    let props = options.devices.iter().flat_map(|d| &d.props);
    let of_devices = props.filter(|(k, _)| k == "chardev").map(|(_, id)| id);
    let targets = options.serials.iter().chain(&options.parallels).chain(&options.debugcon);
    let of_targets = targets.filter_map(|t| match t {
        CharTarget::Chardev(id) => Some(id),
        _ => None,
    });
    let there = |id: &&String| options.chardevs.iter().any(|(name, _)| name == *id);
    match of_devices.chain(of_targets).find(|id| !there(id)) {
        Some(id) => {
            let names = options.chardevs.iter().map(|(name, _)| name.as_str());
            Err(LaunchError::Missing(format!(
                "there is no -chardev with the id '{id}'{}",
                hint(id, names)
            )))
        }
        None => Ok(()),
    }
}

/// What the serial lines and parallel ports are connected to, defaults filled in.
fn char_targets(options: &Options) -> (Vec<CharTarget>, Vec<CharTarget>) {
    let mut serials = options.serials.clone();
    let mut parallels = options.parallels.clone();
    if !options.no_defaults {
        if serials.is_empty() {
            let target =
                if options.nographic { CharTarget::Stdio { mux: true } } else { CharTarget::Vc };
            serials.push(target);
        }
        if parallels.is_empty() {
            parallels.push(CharTarget::Null);
        }
    }
    (serials, parallels)
}

/// The networks.
fn netdevs(options: &Options) -> Result<Vec<(String, Netdev)>, LaunchError> {
    let one = |n: &NetdevOption| {
        let config = orrery_hw::net::user::Config::parse(&n.props)
            .map_err(|e| LaunchError::Missing(format!("-netdev {}: {e}", n.kind)))?;
        Ok((n.id.clone(), Netdev::User(config)))
    };
    options.netdevs.iter().map(one).collect()
}

fn default_id(drive: &DriveOption, i: usize) -> String {
    let bus = match drive.interface {
        Interface::Floppy => "floppy",
        Interface::Virtio => "virtio",
        Interface::Scsi => "scsi",
        Interface::Pflash => "pflash",
        Interface::Default | Interface::Ide if drive.cdrom => "cd",
        Interface::Default | Interface::Ide => "hd",
        Interface::None => "none",
    };
    format!("{bus}{}", drive.index.unwrap_or(i as u32))
}

async fn kernel(options: &Options, fs: &dyn HostFs) -> Result<Option<Kernel>, LaunchError> {
    let Some(name) = &options.kernel else { return Ok(None) };
    let image = read_file(fs, "-kernel", name).await?;
    let mut initrd = Vec::new();
    for module in options.initrd.iter().flat_map(|text| text.split(',')) {
        // Multiboot modules may have a command line after the file name.
        let file = module.split(' ').next().unwrap_or(module);
        initrd.push((module.to_string(), read_file(fs, "-initrd", file).await?));
    }
    let command_line = options.append.clone().unwrap_or_default();
    Ok(Some(Kernel { image, initrd, command_line }))
}
