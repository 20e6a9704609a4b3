//! A machine as JavaScript holds it.

use crate::host::{self, JsFs};
#[cfg(target_arch = "wasm32")]
use crate::jit::Jit;
use orrery_block::host::HostFs;
use orrery_core::audio::Listener;
use orrery_core::launch::{Host, LaunchError, Launched, Line, launch, print_text};
use orrery_core::monitor::{Control, Settings};
use orrery_core::options::{CharTarget, Options};
use orrery_core::replay::Entry;
use orrery_core::script::{Action, Script};
use orrery_core::{Machine, Outcome, Stop, keyboard, screenshot};
#[cfg(target_arch = "wasm32")]
use orrery_cpu::jit::{Compiler, abi::Shims};
use orrery_system::display::Surface;
use orrery_system::input::{InputEvent, Key};
#[cfg(target_arch = "wasm32")]
use std::cell::RefCell;
use wasm_bindgen::prelude::*;

struct Page {
    epoch_secs: i64,
    firmware: Vec<String>,
    /// Disks can be kept (in the browser's storage).
    kept: bool,
    #[cfg(target_arch = "wasm32")]
    jit: RefCell<Option<Jit>>,
}

impl Host for Page {
    fn fs(&self) -> &dyn HostFs {
        &JsFs
    }

    fn firmware_dirs(&self) -> Vec<String> {
        self.firmware.clone()
    }

    fn epoch_secs(&self) -> i64 {
        self.epoch_secs
    }

    #[cfg(target_arch = "wasm32")]
    fn compiler(&self, shims: Shims, wait: bool) -> Option<Box<dyn Compiler>> {
        let (jit, compiler) = Jit::new(&shims, wait)?;
        self.jit.replace(Some(jit));
        Some(compiler)
    }

    fn compiles_by_itself(&self) -> bool {
        true
    }

    fn diagnostic_disk(&self) -> Option<String> {
        self.kept.then(|| "idb:diagnostic.qcow2".into())
    }
}

/// The error with its causes, as the native program prints it.
pub(crate) fn chain(e: &dyn std::error::Error) -> JsValue {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        text += &format!(": {e}");
        source = e.source();
    }
    JsError::new(&text).into()
}

/// How many parts a slice is run in. The time is looked at between them: how long a part takes is only known
/// from how fast the code before it ran, and the next may be ten times slower.
const PARTS: u32 = 4;

/// Most frames of sound behind the machine: what is older is left out.
const LATE: u64 = 4800;

/// A machine.
#[wasm_bindgen]
pub struct Session {
    pub(crate) machine: Machine,
    lines: Vec<Line>,
    warnings: Vec<String>,
    script: Option<Script>,
    surface: Surface,
    rgba: Vec<u8>,
    fresh: bool,
    listener: Option<Listener>,
    pub(crate) control: Control,
    #[cfg(target_arch = "wasm32")]
    jit: Option<Jit>,
}

#[wasm_bindgen]
impl Session {
    /// Builds the machine of a command line. Files are opened through `orreryHost`; firmware is
    /// looked for under `firmware_dir`. `seconds` is the time since 1970.
    pub async fn create(
        args: Vec<String>,
        firmware_dir: String,
        seconds: f64,
    ) -> Result<Session, JsValue> {
        let options = Options::parse(&args).map_err(|e| chain(&e))?;
        let host = Page {
            epoch_secs: seconds as i64,
            firmware: vec![firmware_dir],
            kept: host::keeps_disks(),
            #[cfg(target_arch = "wasm32")]
            jit: RefCell::default(),
        };
        let launched: Result<Launched, LaunchError> = launch(&options, &host).await;
        let Launched { machine, lines, warnings } = launched.map_err(|e| chain(&e))?;
        let settings = Settings { name: options.name.clone(), ..Settings::default() };
        Ok(Self {
            control: Control::new(&machine, settings),
            machine,
            lines,
            warnings,
            script: None,
            surface: Surface::default(),
            rgba: Vec::new(),
            fresh: true,
            listener: None,
            #[cfg(target_arch = "wasm32")]
            jit: host.jit.into_inner(),
        })
    }

    /// What `-help` and the like print; nothing for a command line that starts a machine.
    pub fn print(args: Vec<String>) -> Result<Option<String>, JsValue> {
        let options = Options::parse(&args).map_err(|e| chain(&e))?;
        options.print.as_ref().map(print_text).transpose().map_err(|e| chain(&e))
    }

    /// Remarks about the command line.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// Runs for about `slice_ms`. `now_ms` is a monotonic clock. Gives the milliseconds after
    /// which to call again: 0 at once, -1 when a host operation finishes, -2 when there is input;
    /// from -10 on downwards the machine has stopped: -10 paused, -11 powered off, -12 reset,
    /// -13 panicked, -14 limit, -15 a disk cannot be written, -100 - N exit status N.
    pub fn run(&mut self, now_ms: f64, slice_ms: f64) -> f64 {
        let outcome = if self.control.holds() {
            self.machine.blocks.poll();
            Outcome::WaitHost
        } else {
            self.run_parts(now_ms, slice_ms)
        };
        self.control.step(&mut self.machine);
        #[cfg(target_arch = "wasm32")]
        if let Some(jit) = &self.jit {
            jit.flush();
        }
        match outcome {
            Outcome::Busy => 0.0,
            Outcome::WaitHost => -1.0,
            Outcome::Idle(None) => -2.0,
            Outcome::Idle(Some(ns)) => (ns as f64 / 1e6).max(0.01),
            Outcome::Stopped(stop) => match stop {
                Stop::Paused => -10.0,
                Stop::Shutdown => -11.0,
                Stop::Reset => -12.0,
                Stop::Panicked => -13.0,
                Stop::Limit => -14.0,
                Stop::IoError => -15.0,
                Stop::Debug | Stop::ReplayEnd | Stop::ReplayBegin => -10.0,
                Stop::Exit(n) => -100.0 - f64::from(n),
                Stop::Script(n) => -100.0 - f64::from(n),
            },
        }
    }

    /// The character devices: `serial0=stdio`.
    pub fn lines(&self) -> Vec<String> {
        let target = |t: &CharTarget| match t {
            CharTarget::Stdio { mux: true } => "mon:stdio".to_string(),
            CharTarget::Stdio { mux: false } => "stdio".into(),
            CharTarget::File(name) => format!("file:{name}"),
            CharTarget::Vc => "vc".into(),
            _ => "null".into(),
        };
        self.lines.iter().map(|l| format!("{}={}", l.name, target(&l.target))).collect()
    }

    /// What line number `line` sent since the last call.
    pub fn take_line(&mut self, line: usize) -> Vec<u8> {
        let bytes = self.lines.get(line).map(|l| l.port.drain()).unwrap_or_default();
        if let Some(s) = &mut self.script {
            s.feed(line, &bytes);
        }
        bytes
    }

    /// Sends bytes to the guest over a line.
    pub fn send_line(&mut self, line: usize, bytes: &[u8]) {
        if let Some(l) = self.lines.get(line) {
            self.machine.send(&l.port, bytes);
        }
    }

    /// A key by its set-1 scan code (0xe0xx for extended keys).
    pub fn key(&mut self, code: u16, down: bool) {
        self.machine.input(InputEvent::Key { key: Key(code), down });
    }

    /// The scan code of a character on a US keyboard, plus 0x10000 with shift; 0 if there is none.
    pub fn char_code(c: char) -> u32 {
        keyboard::type_char(c).map_or(0, |(k, shift)| u32::from(k.0) | u32::from(shift) << 16)
    }

    /// Pointer movement.
    pub fn motion(&mut self, dx: i32, dy: i32) {
        self.machine.input(InputEvent::Motion { dx, dy });
    }

    /// The pointer's place on the screen, each axis 0 to 32767, for machines with a tablet.
    pub fn position(&mut self, x: u16, y: u16) {
        self.machine.input(InputEvent::Position { x, y });
    }

    /// Whether the machine wants the pointer's place, not its movement.
    pub fn absolute_pointer(&mut self) -> bool {
        self.machine.absolute_pointer()
    }

    /// A pointer button: 0 left, 1 middle, 2 right.
    pub fn button(&mut self, index: u8, down: bool) {
        self.machine.input(InputEvent::Button { index, down });
    }

    /// The wheel.
    pub fn wheel(&mut self, dz: i32) {
        self.machine.input(InputEvent::Wheel { dz });
    }

    /// Brings the picture up to date. True if it changed; `width`, `height` and `pixels` then
    /// describe it.
    pub fn render(&mut self) -> bool {
        let full = std::mem::take(&mut self.fresh);
        if !self.machine.render(&mut self.surface, full) || self.surface.dirty.take().is_none() {
            return false;
        }
        self.rgba.clear();
        self.rgba.extend(
            self.surface
                .pixels
                .iter()
                .flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8, 255]),
        );
        true
    }

    /// Width of the picture in pixels.
    pub fn width(&self) -> u32 {
        self.surface.width
    }

    /// Height of the picture in pixels.
    pub fn height(&self) -> u32 {
        self.surface.height
    }

    /// The picture, four bytes a pixel: red, green, blue, 255.
    pub fn pixels(&self) -> js_sys::Uint8ClampedArray {
        js_sys::Uint8ClampedArray::from(self.rgba.as_slice())
    }

    /// The picture as a PNG file.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let mut surface = Surface::default();
        self.machine.render(&mut surface, true);
        self.fresh = true;
        screenshot::png(&surface)
    }

    /// The characters on a text screen, a line each; nothing in graphics modes.
    pub fn text(&mut self) -> Option<String> {
        self.machine.screen_text().map(|rows| rows.join("\n"))
    }

    /// Sound since the last call, from the first call on: interleaved stereo at `rate` Hz. Call until it gives nothing.
    pub fn sound(&mut self, rate: u32) -> Vec<f32> {
        let machine = &mut self.machine;
        let listener = match &mut self.listener {
            Some(listener) if listener.rate() == rate => listener,
            other => other.insert(Listener::new(machine, rate)),
        };
        listener.skip_to(machine, LATE);
        listener.take(machine)
    }

    /// The state of the whole machine as a file.
    pub fn save(&self) -> Vec<u8> {
        self.machine.save()
    }

    /// Replaces the state of the machine.
    pub fn restore(&mut self, file: &[u8]) -> Result<(), JsValue> {
        self.fresh = true;
        self.machine.restore(file).map_err(|e| chain(&e))
    }

    /// Resets the machine.
    pub fn reset(&mut self) {
        self.machine.enter(Entry::Reset);
    }

    /// Stops before the next instruction.
    pub fn pause(&mut self) {
        self.machine.pause();
    }

    /// Goes on.
    pub fn resume(&mut self) {
        self.machine.resume();
    }

    /// Instructions executed since power-on.
    pub fn icount(&self) -> f64 {
        self.machine.board.icount() as f64
    }

    /// What came of compiling hot code, in words; nothing where all is interpreted.
    pub fn jit(&self) -> Option<String> {
        self.machine.cpus.jit_stats().map(|s| format!("{s:?}"))
    }

    /// What the engines told of the code that runs (`-d`) since this was last asked.
    pub fn take_log(&mut self) -> String {
        self.machine.cpus.take_log()
    }

    /// A hash of everything the guest can observe.
    pub fn hash(&self) -> String {
        format!("{:016x}", self.machine.hash())
    }

    /// Loads a script; [`Session::step`] then acts for it.
    pub fn load_script(&mut self, text: &str) -> Result<(), JsValue> {
        self.script = Some(Script::parse(text).map_err(|e| chain(&e))?);
        Ok(())
    }

    /// Lets the script act: an array of `["print", text]`, `["write", name, bytes]`, `["quit", n]`.
    pub fn step(&mut self) -> Result<js_sys::Array, JsValue> {
        let out = js_sys::Array::new();
        let Some(script) = &mut self.script else { return Ok(out) };
        for action in script.step(&mut self.machine).map_err(|e| chain(&e))? {
            let item = js_sys::Array::new();
            match action {
                Action::Print(text) => {
                    item.push(&"print".into());
                    item.push(&text.into());
                }
                Action::Write(name, bytes) => {
                    item.push(&"write".into());
                    item.push(&name.into());
                    item.push(&js_sys::Uint8Array::from(bytes.as_slice()).into());
                }
                Action::Quit(n) => {
                    item.push(&"quit".into());
                    item.push(&n.into());
                }
            }
            out.push(&item);
        }
        Ok(out)
    }

    /// Writes all disks to storage and closes them.
    pub async fn close(self) -> Result<(), JsValue> {
        let blocks = self.machine.blocks.clone();
        drop(self.machine);
        blocks.close().await.map_err(|e| chain(&e))
    }
}

impl Session {
    /// Runs for about `slice_ms`, and not much longer even where the guest turns slow.
    fn run_parts(&mut self, now_ms: f64, slice_ms: f64) -> Outcome {
        let part = slice_ms / f64::from(PARTS);
        let mut now = now_ms;
        for n in 1.. {
            // A script and a recording act at the same instruction on every host.
            let next = self.control.next_act(self.script.as_ref());
            let left = next.map_or(u64::MAX, |t| t.since(self.machine.board.now()));
            if left == 0 && n > 1 {
                return Outcome::Busy;
            }
            let most = ((part * 1e6) as u64).min(left.max(1));
            let outcome = self.machine.run((now * 1e6) as u64, most);
            if n == PARTS || outcome != Outcome::Busy {
                return outcome;
            }
            now = host::clock().max(now);
            if self.script.is_none() && now - now_ms >= slice_ms {
                return outcome;
            }
        }
        Outcome::Busy
    }
}
