//! Record and replay, and with it travel in time.
//!
//! A machine with the deterministic clock is a function of its start and of what comes in. All that comes in
//! passes [`Machine::enter`]. While a machine is recorded it takes effect at the end of the next piece of
//! work, an instant that is a function of the machine alone, and is written down with that instant; a
//! replay makes the same piece of work and gives it to the machine there. Host operations
//! need no log: they complete at virtual instants that do not depend on the host.
//!
//! Now and then the machine is kept in memory (`moments.rs`). To go somewhere is to go back to the last of
//! these before it and to run on from there.
//!
//! Writes to disks are kept in memory while a machine is recorded or replayed, because a
//! replay needs the disks as they were.

mod log;
mod moments;
mod travel;

pub use log::{At, Entry, Head, LogError, head};
pub use travel::{Backwards, TravelError};

use crate::machine::{Machine, Stop};
use log::{Note, What};
use moments::Moments;
use orrery_block::Scratch;
use orrery_system::ports::CharPort;
use orrery_system::time::VmTime;
use serde_json::json;
use std::collections::VecDeque;

/// Instructions between two moments that are kept.
const INTERVAL: u64 = 25_000_000;

/// What is done with the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What comes in is written down.
    Record,
    /// What came in comes again.
    Replay,
}

/// A machine's log and its place in it.
pub struct Replay {
    mode: Mode,
    head: Head,
    notes: Vec<Note>,
    /// Notes that lie behind.
    next: usize,
    /// What came in and has not taken effect.
    inbox: VecDeque<Entry>,
    /// Bytes for the file that are not written yet.
    out: Vec<u8>,
    /// The log is being recorded by this machine: at its end recording goes on.
    live: bool,
    /// How far this machine has come while it was recorded.
    tip: At,
    begun: bool,
    /// The last mark.
    marked: u64,
    moments: Moments,
    scratches: Vec<Scratch>,
    pub(crate) travel: Option<travel::Travel>,
    /// `replay_break`.
    pub(crate) stop_at: Option<u64>,
    diverged: Option<String>,
}

impl Replay {
    /// A recording that begins with the machine's first instruction.
    pub fn record(head: Head, scratches: Vec<Scratch>) -> Self {
        Self::new(Mode::Record, head, Vec::new(), scratches)
    }

    /// The replay of a file by a machine that `here` describes.
    pub fn of_file(file: &[u8], here: &Head, scratches: Vec<Scratch>) -> Result<Self, LogError> {
        let (head, notes) = log::read(file)?;
        head.check(here)?;
        Ok(Self::new(Mode::Replay, head, notes, scratches))
    }

    fn new(mode: Mode, head: Head, notes: Vec<Note>, scratches: Vec<Scratch>) -> Self {
        Self {
            mode,
            head,
            notes,
            next: 0,
            inbox: VecDeque::new(),
            out: Vec::new(),
            live: mode == Mode::Record,
            tip: At::default(),
            begun: false,
            marked: 0,
            moments: Moments::default(),
            scratches,
            travel: None,
            stop_at: None,
            diverged: None,
        }
    }

    /// What is done now.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Notes and moments, for those who ask.
    pub fn counts(&self) -> (usize, usize) {
        (self.notes.len(), self.moments.len())
    }

    /// Where the log ends, as far as is known.
    pub fn end(&self) -> Option<At> {
        if self.live {
            return Some(self.tip);
        }
        self.notes.last().filter(|note| note.what == What::End).map(|note| note.at)
    }

    /// Why the replay is not what was recorded.
    pub fn diverged(&self) -> Option<&str> {
        self.diverged.as_deref()
    }

    fn note(&mut self, at: At, what: What) {
        let note = Note { at, what };
        log::add(&mut self.out, &note);
        self.notes.push(note);
        self.next = self.notes.len();
    }

    /// Where the next piece of work has to end.
    pub(crate) fn cut(&self, begun_at: VmTime) -> Option<VmTime> {
        match self.mode {
            Mode::Record => (!self.inbox.is_empty()).then(|| begun_at.after(1)),
            Mode::Replay => match self.notes.get(self.next) {
                Some(note) => Some(note.at.now),
                None => self.live.then_some(self.tip.now),
            },
        }
    }

    /// Whether what has not happened yet is known to be in the log, so that idle time may pass up
    /// to it.
    pub(crate) fn is_ahead(&self) -> bool {
        match self.mode {
            Mode::Record => !self.inbox.is_empty(),
            Mode::Replay => self.next < self.notes.len() || self.live,
        }
    }
}

impl Machine {
    /// The log, if the machine is recorded or replayed.
    pub fn replay(&self) -> Option<&Replay> {
        self.replay.as_deref()
    }

    /// Has the machine recorded or replayed from its first instruction on.
    pub fn set_replay(&mut self, replay: Replay) {
        self.replay = Some(Box::new(replay));
    }

    /// Where it is.
    pub fn at(&self) -> At {
        At { icount: self.board.icount(), now: self.board.now() }
    }

    /// Whether it is the log that says what comes in.
    pub fn replays(&self) -> bool {
        self.replay.as_ref().is_some_and(|r| r.mode == Mode::Replay)
    }

    /// Every character device's port, in an order that does not change.
    pub(crate) fn char_ports(&self) -> impl Iterator<Item = &CharPort> {
        let handles = &self.handles;
        handles.serials.iter().chain(&handles.parallels).chain(handles.chars.iter().map(|(_, p)| p))
    }

    /// Something comes in. This is the only way in.
    pub fn enter(&mut self, entry: Entry) {
        match &mut self.replay {
            None => self.take_in(&entry),
            Some(replay) => match replay.mode {
                Mode::Record => replay.inbox.push_back(entry),
                Mode::Replay => {}
            },
        }
    }

    /// Bytes come in on one of its character devices.
    pub fn send(&mut self, port: &CharPort, bytes: &[u8]) {
        let number = self.char_ports().position(|p| p.is(port));
        match number {
            Some(n) => self.enter(Entry::Bytes(n as u32, bytes.to_vec())),
            None => port.push(bytes.iter().copied()),
        }
    }

    /// It takes effect.
    fn take_in(&mut self, entry: &Entry) {
        match entry {
            Entry::Input(event) => self.give_input(*event),
            Entry::Bytes(n, bytes) => {
                if let Some(port) = self.char_ports().nth(*n as usize) {
                    port.push(bytes.iter().copied());
                }
            }
            Entry::Frame(n, frame) => {
                if let Some((_, cable)) = self.handles.nets.get(*n as usize) {
                    cable.push([frame.clone()]);
                }
            }
            Entry::Reset => {
                self.reset();
                let data = json!({"guest": false, "reason": "host-qmp-system-reset"});
                self.tell("RESET", data);
            }
            Entry::PowerButton => {
                if let Some(button) = &self.handles.power_button {
                    button.pulse();
                }
            }
            Entry::Nmi => {
                for cpu in 0..self.board.cpus() {
                    self.board.pins(cpu).nmi.pin().pulse();
                }
            }
            Entry::Wake => self.wake(),
            Entry::Link(n, up) => {
                if let Some(nic) = self.handles.nics.get(*n as usize) {
                    nic.cable.set_carrier(*up);
                }
            }
        }
    }

    /// Begins: the state at the start is kept. `start`: the snapshot that the machine has been
    /// given instead of a power-on.
    pub fn begin_replay(&mut self, start: Option<Vec<u8>>) -> Result<(), crate::SnapshotError> {
        let Some(replay) = self.replay.as_mut().filter(|r| !r.begun) else { return Ok(()) };
        replay.begun = true;
        match replay.mode {
            Mode::Record => {
                replay.head.start = start;
                replay.out = log::begin(&replay.head);
            }
            Mode::Replay => {
                if let Some(start) = replay.head.start.take() {
                    self.restore(&start)?;
                }
            }
        }
        self.board.settle();
        self.keep_moment();
        Ok(())
    }

    /// Keeps the present as something to go back to; the hash of what is not memory.
    fn keep_moment(&mut self) -> u64 {
        let Some(mut replay) = self.replay.take() else { return 0 };
        // What a processor remembers of page tables is no part of its state: it is dropped where
        // the machine may be wound back to, always.
        self.cpus.flush();
        // Every time moments were thinned they lie twice as far apart.
        let nth = replay.notes[..replay.next].iter().filter(|n| matches!(n.what, What::Mark(_)));
        let keep = nth.count().is_multiple_of(1 << replay.moments.thinned);
        let hash = replay.moments.take(self, &replay.scratches, replay.next, keep);
        replay.marked = self.board.icount();
        self.replay = Some(replay);
        hash
    }

    /// A piece of work has ended where the log asked for it: what came in takes effect.
    pub(crate) fn replay_point(&mut self) {
        let at = self.at();
        let Some(replay) = &mut self.replay else { return };
        match replay.mode {
            Mode::Record => {
                while let Some(entry) = self.replay.as_mut().and_then(|r| r.inbox.pop_front()) {
                    self.take_in(&entry);
                    if let Some(replay) = &mut self.replay {
                        replay.note(at, What::Entry(entry));
                    }
                }
            }
            Mode::Replay => self.replay_notes(at),
        }
    }

    fn replay_notes(&mut self, at: At) {
        loop {
            let Some(replay) = &mut self.replay else { return };
            let Some(note) = replay.notes.get(replay.next).cloned() else {
                if replay.live && at >= replay.tip {
                    // Where it was before it went back: recording goes on from here.
                    replay.mode = Mode::Record;
                    self.stop_here(Stop::ReplayEnd);
                }
                return;
            };
            if note.at.now > at.now {
                return;
            }
            if note.at != at {
                let text = format!(
                    "the recording had executed {} instructions here, this machine {}",
                    note.at.icount, at.icount
                );
                return self.diverge(text);
            }
            match note.what {
                What::Entry(entry) => {
                    replay.next += 1;
                    self.take_in(&entry);
                }
                What::Mark(recorded) => {
                    let hash = self.keep_moment();
                    if let Some(replay) = &mut self.replay {
                        replay.next += 1;
                    }
                    if hash != recorded {
                        return self.diverge("its state is not what it was".into());
                    }
                }
                What::End => return self.stop_here(Stop::ReplayEnd),
            }
        }
    }

    fn diverge(&mut self, why: String) {
        let text = format!("after {} instructions: {why}", self.board.icount());
        tracing::error!("the replay is not what was recorded, {text}");
        if let Some(replay) = &mut self.replay {
            replay.diverged = Some(text);
            replay.travel = None;
        }
        self.stop_here(Stop::ReplayEnd);
    }

    /// A slice is over while the machine is recorded.
    pub(crate) fn record_mark(&mut self) {
        let at = self.at();
        let Some(replay) = &mut self.replay else { return };
        if replay.mode != Mode::Record {
            return;
        }
        replay.tip = at;
        if at.icount - replay.marked >= INTERVAL {
            let hash = self.keep_moment();
            if let Some(replay) = &mut self.replay {
                replay.note(at, What::Mark(hash));
            }
        }
    }

    /// The recording ends here. What belongs into its file, so far not taken.
    pub fn end_recording(&mut self) -> Vec<u8> {
        let at = self.at();
        if let Some(replay) = self.replay.as_mut().filter(|r| r.live && r.begun) {
            // Somebody may have gone back; the recording ends where it had come to.
            let at = at.max(replay.tip);
            replay.note(at, What::End);
        }
        self.take_recording()
    }

    /// What is to be added to the recording's file.
    pub fn take_recording(&mut self) -> Vec<u8> {
        self.replay.as_mut().map(|r| std::mem::take(&mut r.out)).unwrap_or_default()
    }
}
