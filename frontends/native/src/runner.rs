//! Runs a machine against the host's clock, terminal, window and files.

use crate::chardev::{Chars, Input, User};
use crate::event::Event;
use crate::run::perform;
use crate::sound::Sound;
use crate::terminal::{self, Typed};
use anyhow::{Context as _, Result};
use orrery_core::gdb::Stub;
use orrery_core::monitor::Control;
use orrery_core::options::ReplayOption;
use orrery_core::qtest::Qtest;
use orrery_core::replay::Mode;
use orrery_core::script::Script;
use orrery_core::{Machine, Outcome, Stop};
use orrery_system::ports::CharPort;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Virtual time run between two looks at the host, in nanoseconds.
const SLICE: u64 = 4_000_000;
/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(16);
/// Time until a disk that was full is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A port and its place on the host.
pub(crate) struct Line {
    /// Its number among the machine's lines.
    pub index: usize,
    /// The guest's end.
    pub port: CharPort,
    /// The character device at the host's end.
    pub place: Option<usize>,
}

/// Called with the machine when a new picture may be shown.
pub(crate) type Show = Box<dyn FnMut(&mut Machine) + Send>;

/// A machine on this host.
pub(crate) struct Runner {
    /// The machine.
    pub machine: Machine,
    /// Its monitor.
    pub control: Control,
    /// Character devices.
    pub chars: Chars,
    /// Its debugger.
    pub gdb: Option<Stub>,
    /// What tests its devices.
    pub qtest: Option<Qtest>,
    /// Its lines.
    pub lines: Vec<Line>,
    /// What happens outside.
    pub events: Receiver<Event>,
    /// Called with each new picture.
    pub show: Option<Show>,
    /// Where its sound goes.
    pub sounds: Vec<Sound>,
    /// Acts in place of a person.
    pub script: Option<Script>,
    /// Where the recording goes.
    pub recording: Recording,
    /// Where what the engines tell goes.
    pub log: Option<Arc<Mutex<dyn Write + Send>>>,
    /// Somebody may want to look at the machine after the end of a replay.
    pub stays: bool,
}

/// The file of a recording.
pub(crate) struct Recording(Option<std::fs::File>);

impl Recording {
    /// Makes the file, if one was asked for.
    pub(crate) fn open(option: Option<&ReplayOption>) -> Result<Self> {
        let name = option.filter(|o| o.mode == Mode::Record).and_then(|o| o.file.as_ref());
        let open = |name: &String| {
            std::fs::File::create(name).with_context(|| format!("-icount: cannot create '{name}'"))
        };
        Ok(Self(name.map(open).transpose()?))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.0 {
            Some(file) => file.write_all(bytes).context("cannot write the recording"),
            None => Ok(()),
        }
    }
}

impl Runner {
    /// Runs until the machine stops or the person ends it.
    pub(crate) fn run(mut self) -> Result<Stop> {
        let start = Instant::now();
        let mut drawn = start;
        let mut told = String::new();
        loop {
            let host = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let outcome = if self.control.holds() {
                self.machine.blocks.poll();
                Outcome::WaitHost
            } else {
                self.machine.run(host, self.slice())
            };
            self.drain()?;
            let recorded = self.machine.take_recording();
            self.recording.write(&recorded)?;
            self.serve();
            if self.control.wants_to_quit() {
                let failed = self.control.has_failed();
                return self.finish(if failed { Stop::Script(1) } else { Stop::Paused });
            }
            for sound in &mut self.sounds {
                sound.play(&mut self.machine)?;
            }
            if let Some(code) = self.step_script()? {
                return self.finish(Stop::Script(code));
            }
            if drawn.elapsed() >= FRAME {
                drawn = Instant::now();
                if let Some(show) = &mut self.show {
                    show(&mut self.machine);
                }
            }
            let wait = match outcome {
                Outcome::Busy => Duration::ZERO,
                // Somebody sent it on its way in the meantime.
                Outcome::Stopped(_) if self.machine.stopped().is_none() => Duration::ZERO,
                Outcome::Idle(ns) => Duration::from_nanos(ns.unwrap_or(u64::MAX)).min(FRAME),
                // Native files answer in place; what does not is looked at again soon.
                Outcome::WaitHost => Duration::from_micros(200),
                Outcome::Stopped(Stop::Paused | Stop::Debug) => FRAME,
                Outcome::Stopped(Stop::IoError) => {
                    let reason = self.machine.board.power().reason();
                    if told != reason {
                        tracing::warn!("{reason}; the machine waits until it can go on");
                        told = reason;
                    }
                    RETRY
                }
                Outcome::Stopped(Stop::ReplayBegin) => FRAME,
                Outcome::Stopped(Stop::ReplayEnd) if self.stays => FRAME,
                Outcome::Stopped(stop) => return self.finish(stop),
            };
            if self.take_events(wait)? {
                return self.finish(Stop::Paused);
            }
            self.serve();
            if outcome == Outcome::Stopped(Stop::IoError) {
                self.machine.resume();
            }
        }
    }

    /// Virtual time to run: up to what the script does next.
    fn slice(&self) -> u64 {
        if self.machine.travels() {
            return 10 * SLICE;
        }
        let next = self.control.next_act(self.script.as_ref());
        let left = next.map_or(SLICE, |t| t.since(self.machine.board.now()));
        left.clamp(1, SLICE)
    }

    /// Lets the script act; the exit status if it ends the run.
    fn step_script(&mut self) -> Result<Option<i32>> {
        let Some(script) = &mut self.script else { return Ok(None) };
        if self.machine.travels() {
            return Ok(None);
        }
        for action in script.step(&mut self.machine)? {
            if let Some(code) = perform(action)? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// Hands what the guest sent to the host.
    fn drain(&mut self) -> Result<()> {
        let told = self.machine.cpus.take_log();
        if let Some(log) = self.log.as_ref().filter(|_| !told.is_empty()) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.write_all(told.as_bytes())
                .and_then(|()| log.flush())
                .context("cannot write the log")?;
        }
        for line in &mut self.lines {
            let bytes = line.port.drain();
            // What it says on its way to another time it has said before.
            if bytes.is_empty() || self.machine.travels() {
                continue;
            }
            if let Some(script) = &mut self.script {
                script.feed(line.index, &bytes);
            }
            if let Some(n) = line.place {
                self.chars.write(n, &bytes);
            }
        }
        Ok(())
    }

    /// Handles what happened outside, waiting up to `wait` for the first. True: end.
    fn take_events(&mut self, wait: Duration) -> Result<bool> {
        let mut next = if wait.is_zero() {
            self.events.try_recv().ok()
        } else {
            match self.events.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(wait);
                    None
                }
            }
        };
        while let Some(event) = next {
            match event {
                Event::Char(n, event) => {
                    for input in self.chars.take(n, event) {
                        if self.take_input(n, input)? {
                            return Ok(true);
                        }
                    }
                }
                Event::Close => return Ok(true),
                Event::Input(event) => self.machine.input(event),
                Event::Host => {}
            }
            next = self.events.try_recv().ok();
        }
        Ok(false)
    }

    /// Gives what came over a character device to whom it is for. True: end.
    fn take_input(&mut self, n: usize, input: Input) -> Result<bool> {
        match input {
            Input::Bytes(User::Line(i), bytes) => {
                if let Some(line) = self.lines.get(i) {
                    self.machine.send(&line.port, &bytes);
                }
            }
            Input::Bytes(User::Monitor(_, Some(id)), bytes) => self.control.feed(id, &bytes),
            Input::Open(User::Monitor(mode, _)) => {
                let id = self.control.open(mode);
                self.chars.set_client(n, mode, Some(id));
            }
            Input::Close(User::Monitor(mode, Some(id))) => {
                self.control.close(id);
                self.chars.set_client(n, mode, None);
            }
            Input::Open(User::Gdb) => self.gdb = Some(Stub::new(&mut self.machine)),
            Input::Bytes(User::Gdb, bytes) => {
                if let Some(gdb) = &mut self.gdb {
                    gdb.feed(&mut self.machine, &mut self.control, &bytes);
                }
            }
            Input::Close(User::Gdb) => {
                if let Some(gdb) = self.gdb.take() {
                    gdb.close(&mut self.machine);
                }
            }
            Input::Open(User::Qtest) => self.qtest = Some(Qtest::default()),
            Input::Bytes(User::Qtest, bytes) => {
                if let Some(qtest) = &mut self.qtest {
                    let out = qtest.feed(&mut self.machine, &bytes);
                    self.chars.write(n, &out);
                }
            }
            // The test has gone.
            Input::Close(User::Qtest) => return Ok(true),
            Input::Typed(Typed::Help) => terminal::write(terminal::HELP.as_bytes()),
            Input::Typed(Typed::Flush) => self.flush()?,
            Input::Typed(Typed::Quit) => return Ok(true),
            Input::Bytes(User::Monitor(_, None), _)
            | Input::Open(User::Line(_))
            | Input::Close(User::Line(_) | User::Monitor(_, None))
            | Input::Typed(Typed::Byte(_) | Typed::Next) => {}
        }
        Ok(false)
    }

    /// Lets monitor and debugger work, and sends what they say.
    fn serve(&mut self) {
        self.control.step(&mut self.machine);
        for (n, id, seen) in self.chars.clients() {
            if seen {
                let bytes = self.control.take(id);
                self.chars.write(n, &bytes);
            }
        }
        if let Some(gdb) = &mut self.gdb {
            gdb.poll(&mut self.machine);
            let bytes = gdb.take();
            if let Some(n) = self.chars.of(User::Gdb) {
                self.chars.write(n, &bytes);
            }
        }
        if let Some(qtest) = &mut self.qtest {
            let bytes = qtest.look(&mut self.machine);
            if let Some(n) = self.chars.of(User::Qtest) {
                self.chars.write(n, &bytes);
            }
        }
    }

    fn flush(&self) -> Result<()> {
        let blocks = &self.machine.blocks;
        let park = || std::thread::sleep(Duration::from_micros(100));
        for backend in blocks.backends() {
            if !backend.is_empty() && !backend.read_only() {
                blocks
                    .executor()
                    .block_on(backend.flush(), &park)
                    .context("cannot write a disk")?;
            }
        }
        Ok(())
    }

    /// Writes everything out: nothing the guest wrote is lost by ending in order.
    fn finish(mut self, stop: Stop) -> Result<Stop> {
        self.drain()?;
        let recorded = self.machine.end_recording();
        self.recording.write(&recorded)?;
        for mut sound in std::mem::take(&mut self.sounds) {
            sound.play(&mut self.machine)?;
            sound.finish()?;
        }
        if let Some(show) = &mut self.show {
            show(&mut self.machine);
        }
        let blocks = &self.machine.blocks;
        let park = || std::thread::sleep(Duration::from_micros(100));
        for backend in blocks.backends() {
            blocks.executor().block_on(backend.drain(), &park);
        }
        blocks.executor().block_on(blocks.close(), &park).context("cannot close the disks")?;
        Ok(stop)
    }
}
