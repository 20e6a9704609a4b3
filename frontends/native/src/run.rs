//! Starts the machine that the command line describes.

use crate::block::Lent;
use crate::chardev::{Chars, User};
use crate::event::Event;
use crate::host::NativeFs;
use crate::runner::{Line, Recording, Runner};
use crate::sound;
use crate::terminal;
use anyhow::{Context as _, Result};
use orrery_block::exec::Executor;
use orrery_block::graph::BlockGraph;
use orrery_block::host::HostFs;
#[cfg(feature = "window")]
use orrery_core::Machine;
use orrery_core::Stop;
use orrery_core::launch::{Host, Launched, launch};
use orrery_core::monitor::{Control, Mode, Settings};
use orrery_core::options::{CharTarget, DisplayOption, MonitorOption, Options};
use orrery_core::script::{Action, Script};
#[cfg(all(feature = "jit", target_os = "linux"))]
use orrery_cpu::jit::{Compiler, abi::Shims};
use orrery_cpu::log::{Items, Wanted};
use std::io::Write;
use std::process::ExitCode;
#[cfg(all(feature = "jit", target_os = "linux"))]
use std::sync::PoisonError;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

struct Native {
    lent: Lent,
    /// What `-d` asks for, and where that goes.
    log: Wanted,
    log_file: Option<Arc<Mutex<dyn Write + Send>>>,
}

impl Native {
    fn new(options: &Options) -> Result<Self> {
        let log_file = match &options.log_file {
            _ if options.log.items == Items::default() && options.monitors.is_empty() => None,
            Some(name) => {
                let file = std::fs::File::create(name)
                    .with_context(|| format!("-D: cannot write '{name}'"))?;
                let file: Arc<Mutex<dyn Write + Send>> = Arc::new(Mutex::new(file));
                Some(file)
            }
            None => {
                let terminal: Arc<Mutex<dyn Write + Send>> =
                    Arc::new(Mutex::new(std::io::stderr()));
                Some(terminal)
            }
        };
        let lent = Lent::new().context("cannot wait for sockets")?;
        Ok(Self { lent, log: options.log.clone(), log_file })
    }
}

impl Host for Native {
    fn fs(&self) -> &dyn HostFs {
        &NativeFs
    }

    fn graph(&self) -> BlockGraph {
        self.lent.graph()
    }

    fn firmware_dirs(&self) -> Vec<String> {
        let mut dirs = Vec::new();
        if let Ok(exe) = std::env::current_exe() {
            if let Some(folder) = exe.parent() {
                dirs.push(format!("{}/../share/orrery/", folder.display()));
            }
        }
        dirs.extend(
            ["guests/firmware/", "/usr/share/seabios/", "/usr/share/qemu/"].map(String::from),
        );
        dirs
    }

    fn epoch_secs(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0))
    }

    #[cfg(all(feature = "jit", target_os = "linux"))]
    fn compiler(&self, shims: Shims, wait: bool) -> Option<Box<dyn Compiler>> {
        match orrery_cpu::jit::native::Native::listed(shims, !wait, self.listing()) {
            Ok(native) => Some(Box::new(native)),
            Err(e) => {
                tracing::warn!("{e}: everything is interpreted");
                None
            }
        }
    }

    fn compiles_by_itself(&self) -> bool {
        cfg!(all(feature = "jit", target_os = "linux"))
    }

    fn diagnostic_disk(&self) -> Option<String> {
        let home = std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".local/share"));
        let data = std::env::var_os("XDG_DATA_HOME").map(std::path::PathBuf::from).or(home)?;
        let folder = data.join("orrery");
        // Without a folder of its own the count is kept in memory; that is no reason to fail.
        std::fs::create_dir_all(&folder).ok()?;
        Some(folder.join("diagnostic.qcow2").to_string_lossy().into_owned())
    }
}

/// A log that several write to.
#[cfg(all(feature = "jit", target_os = "linux"))]
struct Shared(Arc<Mutex<dyn Write + Send>>);

#[cfg(all(feature = "jit", target_os = "linux"))]
impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

#[cfg(all(feature = "jit", target_os = "linux"))]
impl Native {
    /// What `ORRERY_PERF_MAP` (any value) and `-d out_asm` ask for: the places of compiled code for `perf`, and the code
    /// itself.
    fn listing(&self) -> orrery_cpu::jit::native::Listing {
        let map = || -> Option<Box<dyn Write + Send>> {
            let name = format!("/tmp/perf-{}.map", std::process::id());
            match std::fs::File::create(&name) {
                Ok(file) => Some(Box::new(std::io::BufWriter::new(file))),
                Err(e) => {
                    tracing::warn!("cannot write '{name}': {e}");
                    None
                }
            }
        };
        let log = self.log_file.clone().filter(|_| self.log.items.has(Items::OUT_ASM));
        orrery_cpu::jit::native::Listing {
            map: std::env::var_os("ORRERY_PERF_MAP").and_then(|_| map()),
            code: log
                .map(|l| -> Box<dyn Write + Send> { Box::new(std::io::BufWriter::new(Shared(l))) }),
            wanted: self.log.clone(),
        }
    }
}

/// What a person sees where no window can be opened: the serial line, as with `-nographic`.
fn without_desktop(options: &Options) -> Options {
    let mut options = options.clone();
    let typed = |m: &MonitorOption| matches!(m.target, CharTarget::Stdio { .. });
    let window = options.display == DisplayOption::Default
        && options.script.is_none()
        && !options.accel.qtest
        && !options.monitors.iter().any(typed);
    if window && !options.nographic && !has_desktop() {
        tracing::warn!(
            "there is no desktop to open a window on, so the screen is not shown; the serial line is on this terminal \
             (Ctrl-A x ends the machine, Ctrl-A h lists more keys)"
        );
        options.nographic = true;
        options.display = DisplayOption::None;
    }
    options
}

/// Runs until the guest or the person ends it; the exit status is theirs.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let options = &without_desktop(options);
    let (sender, events) = channel();
    let mut chars = Chars::new(sender.clone());
    for (id, target) in &options.chardevs {
        chars.add(id, target)?;
    }
    // Nothing else runs yet, so waiting for the host's storage may as well sleep.
    let park = || std::thread::sleep(Duration::from_micros(100));
    let native = Native::new(options)?;
    let launched = Executor::new().block_on(launch(options, &native), &park)?;
    let Launched { mut machine, lines, warnings } = launched;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if let Some(name) = &options.loadvm {
        let file = std::fs::read(name).with_context(|| format!("-loadvm: cannot read '{name}'"))?;
        machine.restore(&file).with_context(|| format!("-loadvm: '{name}'"))?;
        machine.begin_replay(Some(file))?;
    }
    machine.begin_replay(None)?;
    let recording = Recording::open(options.replay.as_ref())?;
    let script = match &options.script {
        Some(name) => {
            let text = std::fs::read_to_string(name)
                .with_context(|| format!("-script: cannot read '{name}'"))?;
            Some(Script::parse(&text).with_context(|| format!("-script: '{name}'"))?)
        }
        None => None,
    };
    machine.blocks.executor().set_wake_hook(Some(Arc::new({
        let sender = Mutex::new(sender.clone());
        move || {
            if let Ok(s) = sender.lock() {
                let _ = s.send(Event::Host);
            }
        }
    })));
    let host_lines = connect(lines, &mut chars)?;
    let mut control = Control::new(&machine, settings(options));
    monitors(options, &mut chars)?;
    control.settings().chardevs = chars.describe();
    control.settings().rings = chars.rings().collect();
    control.await_machine(&mut machine);
    if let Some(name) = &options.pidfile {
        std::fs::write(name, format!("{}\n", std::process::id()))
            .with_context(|| format!("-pidfile: cannot write '{name}'"))?;
    }
    #[cfg(unix)]
    end_on_signals(sender.clone())?;
    let sounds = sound::open(&options.audiodevs, &machine)?;
    let runner = Runner {
        machine,
        control,
        chars,
        gdb: None,
        qtest: None,
        lines: host_lines,
        events,
        show: None,
        sounds,
        script,
        recording,
        log: native.log_file.clone(),
        stays: !options.monitors.is_empty() || options.gdb.is_some() || options.no_shutdown,
    };
    let windowed = match options.display {
        DisplayOption::None => false,
        DisplayOption::Window => true,
        DisplayOption::Default => has_desktop() && options.script.is_none() && !options.accel.qtest,
    };
    let stop = if windowed { in_window(options, runner, sender) } else { runner.run() };
    if let Some(name) = &options.pidfile {
        let _ = std::fs::remove_file(name);
    }
    Ok(exit_code(stop?))
}

/// The first of these signals ends the machine in order, the second one the program.
#[cfg(unix)]
fn end_on_signals(sender: Sender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use std::io::Read as _;
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let again = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, again.clone())?;
        signal_hook::flag::register(signal, again.clone())?;
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    std::thread::spawn(move || {
        if ours.read(&mut [0]).is_ok() {
            let _ = sender.send(Event::Close);
        }
    });
    Ok(())
}

fn has_desktop() -> bool {
    cfg!(any(windows, target_os = "macos"))
        || std::env::var_os("DISPLAY").is_some()
        || std::env::var_os("WAYLAND_DISPLAY").is_some()
}

#[cfg(feature = "window")]
fn in_window(options: &Options, mut runner: Runner, sender: Sender<Event>) -> Result<Stop> {
    use crate::window::{Tell, show};
    use std::sync::atomic::Ordering;
    let title = options.name.clone().unwrap_or_else(|| "Orrery".into());
    show(&title, sender, move |screen| {
        let ours = screen.clone();
        runner.show = Some(Box::new(move |machine: &mut Machine| {
            let mut surface = ours.surface.lock().expect("no panic while held");
            machine.render(&mut surface, false);
            if surface.dirty.take().is_some() {
                ours.tell(Tell::Redraw);
            }
            ours.absolute.store(machine.absolute_pointer(), Ordering::Relaxed);
        }));
        runner.run()
    })?
}

#[cfg(not(feature = "window"))]
fn in_window(_: &Options, _: Runner, _: Sender<Event>) -> Result<Stop> {
    anyhow::bail!("this build has no window; use -nographic or -display none")
}

/// Gives each line of the machine its place on the host.
fn connect(lines: Vec<orrery_core::launch::Line>, chars: &mut Chars) -> Result<Vec<Line>> {
    let mut out = Vec::new();
    for (i, line) in lines.into_iter().enumerate() {
        let place = match &line.target {
            CharTarget::None | CharTarget::Null | CharTarget::Vc => None,
            CharTarget::Chardev(id) => chars.find(id),
            target => Some(chars.add(&line.name, target)?),
        };
        if let Some(n) = place {
            chars.attach(n, User::Line(i), false)?;
            if line.target == (CharTarget::Stdio { mux: true }) {
                // Ctrl-A c brings the monitor, as with QEMU.
                chars.attach(n, User::Monitor(Mode::Readline, None), true)?;
            }
        }
        out.push(Line { index: i, port: line.port, place });
    }
    Ok(out)
}

fn settings(options: &Options) -> Settings {
    let name = options.name.as_ref().map(|n| n.split(',').next().unwrap_or_default().to_owned());
    Settings {
        name,
        prelaunch: options.paused || options.preconfig,
        preconfig: options.preconfig,
        paused: options.paused,
        window: options.display == DisplayOption::Window,
        audiodevs: options.audiodevs.iter().map(|a| (a.id.clone(), a.driver().into())).collect(),
        incoming: options.incoming.clone(),
        replay_file: options.replay.as_ref().and_then(|r| r.file.clone()),
        ..Settings::default()
    }
}

/// Gives monitors, debugger and test their places.
fn monitors(options: &Options, chars: &mut Chars) -> Result<()> {
    let place = |chars: &mut Chars, target: &CharTarget, label: &str| match target {
        CharTarget::Chardev(id) => chars
            .find(id)
            .with_context(|| format!("{label}: there is no -chardev with the id '{id}'")),
        target => chars.add(label, target),
    };
    for (i, monitor) in options.monitors.iter().enumerate() {
        let n = place(chars, &monitor.target, &format!("compat_monitor{i}"))?;
        chars.attach(n, User::Monitor(monitor.mode, None), false)?;
    }
    for (target, user, label) in
        [(&options.gdb, User::Gdb, "gdb"), (&options.qtest, User::Qtest, "qtest")]
    {
        let Some(target) = target else { continue };
        let n = place(chars, target, label)?;
        chars.attach(n, user, false)?;
    }
    Ok(())
}

/// A guest that ends the emulator through isa-debug-exit chooses the status, as with QEMU:
/// `value * 2 + 1`.
fn exit_code(stop: Stop) -> ExitCode {
    match stop {
        Stop::Exit(code) => ExitCode::from(code as u8),
        Stop::Script(code) => ExitCode::from(code as u8),
        Stop::Panicked => ExitCode::from(3),
        _ => ExitCode::SUCCESS,
    }
}

/// Writes a file under another name first: what has the right name is whole.
fn write_whole(name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let part = format!("{name}.part");
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, name));
    if written.is_err() {
        // The error told is the one that matters.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Does what a script asks of its host.
pub(crate) fn perform(action: Action) -> Result<Option<i32>> {
    match action {
        Action::Write(name, bytes) => {
            write_whole(&name, &bytes).with_context(|| format!("cannot write '{name}'"))?;
            Ok(None)
        }
        Action::Print(text) => {
            terminal::write(format!("{text}\n").as_bytes());
            Ok(None)
        }
        Action::Quit(code) => Ok(Some(code)),
    }
}
