//! Runs a machine against the host's clock, terminal, window and files.

use crate::event::Event;
use crate::run::perform;
use crate::sound::Sound;
use crate::terminal::{self, Typed};
use anyhow::{Context as _, Result};
use orrery_core::script::Script;
use orrery_core::{Machine, Outcome, Stop};
use orrery_system::ports::CharPort;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Virtual time run between two looks at the host, in nanoseconds.
const SLICE: u64 = 4_000_000;
/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(16);
/// Time until a disk that was full is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where the bytes of a port go.
pub(crate) enum Sink {
    /// The terminal, which also types.
    Terminal,
    /// A file.
    File(std::fs::File),
}

/// A port and its place on the host.
pub(crate) struct Line {
    /// Its number among the machine's lines.
    pub index: usize,
    /// The guest's end.
    pub port: CharPort,
    /// The host's end.
    pub sink: Option<Sink>,
}

/// Called with the machine when a new picture may be shown.
pub(crate) type Show = Box<dyn FnMut(&mut Machine) + Send>;

/// A machine on this host.
pub(crate) struct Runner {
    /// The machine.
    pub machine: Machine,
    /// Its character devices.
    pub lines: Vec<Line>,
    /// What happens outside.
    pub events: Receiver<Event>,
    /// Called with each new picture.
    pub show: Option<Show>,
    /// Where its sound goes.
    pub sounds: Vec<Sound>,
    /// Acts in place of a person.
    pub script: Option<Script>,
}

impl Runner {
    /// Runs until the machine stops or the person ends it.
    pub(crate) fn run(mut self) -> Result<Stop> {
        let start = Instant::now();
        let mut drawn = start;
        let mut told = String::new();
        loop {
            let host = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let outcome = self.machine.run(host, self.slice());
            self.drain()?;
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
                Outcome::Idle(ns) => Duration::from_nanos(ns.unwrap_or(u64::MAX)).min(FRAME),
                // Native files answer in place; what does not is looked at again soon.
                Outcome::WaitHost => Duration::from_micros(200),
                Outcome::Stopped(Stop::Paused) => FRAME,
                Outcome::Stopped(Stop::IoError) => {
                    let reason = self.machine.board.power().reason();
                    if told != reason {
                        tracing::warn!("{reason}; the machine waits until it can go on");
                        told = reason;
                    }
                    RETRY
                }
                Outcome::Stopped(stop) => return self.finish(stop),
            };
            if self.take_events(wait)? {
                return self.finish(Stop::Paused);
            }
            if outcome == Outcome::Stopped(Stop::IoError) {
                self.machine.resume();
            }
        }
    }

    /// Virtual time to run: up to what the script does next.
    fn slice(&self) -> u64 {
        let next = self.script.as_ref().and_then(Script::next);
        let left = next.map_or(SLICE, |t| t.since(self.machine.board.now()));
        left.clamp(1, SLICE)
    }

    /// Lets the script act; the exit status if it ends the run.
    fn step_script(&mut self) -> Result<Option<i32>> {
        let Some(script) = &mut self.script else { return Ok(None) };
        for action in script.step(&mut self.machine)? {
            if let Some(code) = perform(action)? {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    /// Hands what the guest sent to the host.
    fn drain(&mut self) -> Result<()> {
        for line in &mut self.lines {
            let bytes = line.port.drain();
            if bytes.is_empty() {
                continue;
            }
            if let Some(script) = &mut self.script {
                script.feed(line.index, &bytes);
            }
            match &mut line.sink {
                None => {}
                Some(Sink::Terminal) => terminal::write(&bytes),
                Some(Sink::File(f)) => {
                    f.write_all(&bytes).context("cannot write a serial line's file")?;
                }
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
                Event::Typed(Typed::Byte(b)) => {
                    for line in self.lines.iter().filter(|l| matches!(l.sink, Some(Sink::Terminal)))
                    {
                        line.port.push([b]);
                    }
                }
                Event::Typed(Typed::Help) => terminal::write(terminal::HELP.as_bytes()),
                Event::Typed(Typed::Flush) => self.flush()?,
                Event::Typed(Typed::Quit) | Event::Close => return Ok(true),
                Event::Input(event) => self.machine.input(event),
                Event::Host => {}
            }
            next = self.events.try_recv().ok();
        }
        Ok(false)
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
