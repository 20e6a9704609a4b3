//! The monitor of a machine: QMP, and on top of it the commands that people type (HMP).
//!
//! A front end opens a client for each connection, feeds it what comes, calls [`Control::step`]
//! between two slices of the machine and sends what [`Control::take`] gives. Commands about
//! storage are those of [`orrery_block::qmp`], the same as the storage daemon's; the machine's own
//! are in `table.rs`.

mod args;
mod devices;
mod hmp;
mod host;
mod info;
mod migrate;
mod network;
mod power;
mod probe;
mod qom;
mod query;
mod replay;
mod snapshots;
mod table;
#[cfg(test)]
mod tests;

pub use hmp::complete;
pub(crate) use host::{base64, from_base64};

use crate::machine::{Machine, Waits};
use crate::script::Script;
use crate::{Stop, handles::Handles};
use orrery_block::Event;
use orrery_block::qmp::{self, Answer, Call, QmpError, Session, Step};
use orrery_system::input::InputEvent;
use orrery_system::time::VmTime;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Everything that a monitor understands, as a page of documentation.
pub fn reference() -> String {
    let mut out = String::from(
        "# Commands\n\nMade by `orrery -qmp help > docs/commands.md`; a test keeps it true.\n\n\
         ## The command line\n\n| option | what it does |\n|---|---|\n",
    );
    out += &crate::options::rows();
    out += "\n## Commands that people type (HMP)\n\n| command | what it does |\n|---|---|\n";
    for command in hmp::COMMANDS {
        let usage = format!("{} {}", command.names.join("|"), command.usage);
        let usage = usage.trim().replace('|', "\\|");
        out += &format!("| `{usage}` | {} |\n", command.help);
    }
    for line in info::help().lines() {
        let (name, help) = line.split_once(" -- ").unwrap_or((line, ""));
        out += &format!("| `{name}` | {help} |\n");
    }
    out.push('\n');
    out + &table::reference()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left to do with the machine once the host has done its part.
pub(crate) type Done = Box<dyn FnOnce(&mut Desk<'_>) -> Answer<Value> + Send>;
type Work = Pin<Box<dyn Future<Output = Answer<Done>> + Send>>;

/// How a command goes on.
pub(crate) enum Reply {
    /// It is done.
    Now(Answer<Value>),
    /// The host has to finish something.
    Later(Work),
}

impl Reply {
    /// Waits for the host, then gives a value.
    pub(crate) fn later(work: impl Future<Output = Answer<Value>> + Send + 'static) -> Self {
        Self::Later(Box::pin(async move {
            let value = work.await?;
            Ok(Box::new(move |_: &mut Desk<'_>| Ok(value)) as Done)
        }))
    }

    /// Changes the value that comes out.
    fn map(self, f: impl FnOnce(Value) -> Value + Send + 'static) -> Self {
        match self {
            Self::Now(answer) => Self::Now(answer.map(f)),
            Self::Later(work) => Self::Later(Box::pin(async move {
                let done = work.await?;
                Ok(Box::new(move |desk: &mut Desk<'_>| done(desk).map(f)) as Done)
            })),
        }
    }
}

/// A character device as `query-chardev` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// Its id.
    pub label: String,
    /// Where its other end is.
    pub filename: String,
    /// A device or monitor uses it.
    pub open: bool,
}

/// Bytes of a ring buffer character device: what the guest sent.
pub type Ring = Arc<Mutex<VecDeque<u8>>>;

/// What the monitor knows besides the machine.
#[derive(Default)]
pub struct Settings {
    /// `-name`.
    pub name: Option<String>,
    /// The machine was started with `-S` and has not run yet.
    pub prelaunch: bool,
    /// It waits to be configured (`-preconfig`): few commands are allowed, until one of them ends it.
    pub preconfig: bool,
    /// It stays paused after that (`-S`).
    pub paused: bool,
    /// Character devices.
    pub chardevs: Vec<Chardev>,
    /// Ring buffers by id: (what the guest sent, its capacity, where input goes).
    pub rings: BTreeMap<String, (Ring, usize)>,
    /// There is a window.
    pub window: bool,
    /// `-audiodev`: ids and drivers.
    pub audiodevs: Vec<(String, String)>,
    /// The machine waits for another program to send its life (`-incoming`).
    pub incoming: Option<String>,
    /// The file of `-icount rrfile=`.
    pub replay_file: Option<String>,
}

/// A client's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(u32);

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// QMP; laid out for people to read if `pretty`.
    Control {
        /// Several lines and indentation.
        pretty: bool,
    },
    /// HMP, with a prompt.
    Readline,
}

enum Talk {
    Qmp(Box<Session>),
    Hmp(hmp::Shell),
}

/// A command that waits for the host.
struct Running {
    call: Option<Call>,
    result: Arc<Mutex<Option<Answer<Done>>>>,
}

struct Client {
    talk: Talk,
    queue: VecDeque<Result<String, String>>,
    running: Option<Running>,
    out: Vec<u8>,
}

/// What commands work with between two steps.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    pub(crate) quit: bool,
    /// What it was started for cannot be.
    pub(crate) failed: bool,
    /// The machine does not run while a command works on it.
    pub(crate) held: u32,
    /// Keys on their way.
    pub(crate) input: VecDeque<(VmTime, InputEvent)>,
    /// Where the pointer was last said to be.
    pub(crate) pointer: (u16, u16),
    /// CPU that HMP looks at.
    pub(crate) cpu: usize,
    /// Work that jobs have left for between two slices.
    pub(crate) chores: snapshots::Chores,
    /// The machine on its way to another program, or from one.
    pub(crate) migration: migrate::Migration,
}

/// What a command works on.
pub(crate) struct Desk<'a> {
    pub(crate) machine: &'a mut Machine,
    pub(crate) state: &'a mut State,
    pub(crate) blocks: &'a qmp::Monitor,
}

/// The monitor with its clients.
pub struct Control {
    blocks: qmp::Monitor,
    state: State,
    clients: BTreeMap<u32, Client>,
    next: u32,
    events: Arc<Mutex<VecDeque<Event>>>,
    /// Whether it was running at the last look.
    running: Option<bool>,
}

impl Control {
    /// A monitor of `machine`, without clients.
    pub fn new(machine: &Machine, settings: Settings) -> Self {
        let events: Arc<Mutex<VecDeque<Event>>> = Arc::default();
        let inbox = events.clone();
        machine
            .blocks
            .context()
            .on_event(Arc::new(move |event| lock(&inbox).push_back(event.clone())));
        Self {
            blocks: qmp::Monitor::new(&machine.blocks),
            state: State { settings, ..State::default() },
            clients: BTreeMap::new(),
            next: 0,
            events,
            running: None,
        }
    }

    /// The storage part, for what the command line asks of it.
    pub fn blocks(&self) -> &qmp::Monitor {
        &self.blocks
    }

    /// What the monitor knows besides the machine.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.state.settings
    }

    /// A client has come.
    pub fn open(&mut self, mode: Mode) -> ClientId {
        self.next += 1;
        let (talk, out) = match mode {
            Mode::Control { pretty } => {
                let session = Session::unattached(pretty);
                let greeting = session.greeting();
                (Talk::Qmp(Box::new(session)), greeting)
            }
            Mode::Readline => {
                let shell = hmp::Shell::default();
                let greeting = shell.greeting();
                (Talk::Hmp(shell), greeting)
            }
        };
        let (queue, out) = (VecDeque::new(), out.into_bytes());
        self.clients.insert(self.next, Client { talk, queue, running: None, out });
        ClientId(self.next)
    }

    /// A client has gone. What it began goes on to its end.
    pub fn close(&mut self, id: ClientId) {
        self.clients.remove(&id.0);
    }

    /// A client has sent bytes.
    pub fn feed(&mut self, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&id.0) else { return };
        match &mut client.talk {
            Talk::Qmp(session) => client.queue.extend(session.feed(bytes)),
            Talk::Hmp(shell) => {
                let (lines, echo) = shell.feed(bytes);
                client.out.extend(echo.as_bytes());
                client.queue.extend(lines.into_iter().map(Ok));
            }
        }
    }

    /// What is to be sent to a client.
    pub fn take(&mut self, id: ClientId) -> Vec<u8> {
        self.clients.get_mut(&id.0).map(|c| std::mem::take(&mut c.out)).unwrap_or_default()
    }

    /// A client asked for the program to end.
    pub fn wants_to_quit(&self) -> bool {
        self.state.quit
    }

    /// The program ends because what it was started for cannot be (`-incoming`).
    pub fn has_failed(&self) -> bool {
        self.state.failed
    }

    /// The machine must not run now: a command works on it.
    pub fn holds(&self) -> bool {
        self.state.held > 0
    }

    /// When a script or keys that were sent next do something by themselves. A front end that stops there has them act at
    /// the same instruction on every host.
    pub fn next_act(&self, script: Option<&Script>) -> Option<VmTime> {
        let keys = self.state.input.front().map(|(at, _)| *at);
        script.and_then(Script::next).into_iter().chain(keys).min()
    }

    /// Carries commands out and tells clients what has happened. Call between slices.
    pub fn step(&mut self, machine: &mut Machine) {
        while let Some((at, event)) = self.state.input.front().copied() {
            if at > machine.board.now() {
                break;
            }
            self.state.input.pop_front();
            machine.input(event);
        }
        self.look(machine);
        // A bound, so that a client that never stops talking does not stop the machine.
        for _ in 0..64 {
            machine.blocks.poll();
            let chores = std::mem::take(&mut *lock(&self.state.chores));
            let mut moved = !chores.is_empty();
            for chore in chores {
                chore(&mut Desk { machine, state: &mut self.state, blocks: &self.blocks });
            }
            let ids: Vec<u32> = self.clients.keys().copied().collect();
            for id in ids {
                moved |= self.serve(id, machine);
            }
            if !moved {
                break;
            }
        }
        self.look(machine);
        self.tell();
    }

    /// Runs one command at once, for scripts and for a page. The answer is that of QMP.
    pub fn execute(
        &mut self,
        machine: &mut Machine,
        command: &str,
        arguments: Value,
    ) -> Answer<Value> {
        let id = self.open(Mode::Control { pretty: false });
        let mut desk = Desk { machine, state: &mut self.state, blocks: &self.blocks };
        let reply = desk.call(command, arguments);
        self.close(id);
        match reply {
            Reply::Now(answer) => answer,
            Reply::Later(work) => {
                let exec = machine.blocks.executor().clone();
                let done = exec
                    .run_in_place(work)
                    .ok_or_else(|| QmpError::generic("it has to wait for the host"))??;
                done(&mut Desk { machine, state: &mut self.state, blocks: &self.blocks })
            }
        }
    }

    /// Begins to wait for the machine that `-incoming` announced.
    pub fn await_machine(&mut self, machine: &mut Machine) {
        let uri = self.state.settings.incoming.clone().filter(|uri| uri != "defer");
        let Some(uri) = uri else { return };
        let mut desk = Desk { machine, state: &mut self.state, blocks: &self.blocks };
        let failed = match desk.call("migrate-incoming", json!({"uri": uri})) {
            Reply::Now(answer) => answer.err(),
            Reply::Later(work) => {
                let chores = self.state.chores.clone();
                machine.blocks.executor().spawn(async move {
                    let done = work.await;
                    lock(&chores).push(Box::new(move |desk: &mut Desk<'_>| {
                        if let Err(error) = done.and_then(|done| done(desk)) {
                            desk.cannot_come(&error.desc);
                        }
                    }));
                });
                None
            }
        };
        if let Some(error) = failed {
            let mut desk = Desk { machine, state: &mut self.state, blocks: &self.blocks };
            desk.cannot_come(&error.desc);
        }
    }

    /// Has the program end.
    pub fn quit(&mut self) {
        self.state.quit = true;
    }

    /// Runs a line that a person typed and gives what it prints.
    pub fn human(&mut self, machine: &mut Machine, line: &str) -> String {
        let arguments = json!({"command-line": line});
        match self.execute(machine, "human-monitor-command", arguments) {
            Ok(Value::String(text)) => text,
            Ok(_) => String::new(),
            Err(error) => format!("Error: {}\n", error.desc),
        }
    }

    /// Notes that the machine stopped or went on.
    fn look(&mut self, machine: &Machine) {
        let running = machine.stopped().is_none();
        if running {
            self.state.settings.prelaunch = false;
        }
        if self.running.replace(running).is_some_and(|before| before != running) {
            let name = if running { "RESUME" } else { "STOP" };
            machine.blocks.context().emit(name, json!({}));
        }
    }

    /// Tells every client what has happened.
    fn tell(&mut self) {
        loop {
            let Some(event) = lock(&self.events).pop_front() else { return };
            for client in self.clients.values_mut() {
                if let Talk::Qmp(session) = &client.talk
                    && let Some(line) = session.event(&event)
                {
                    client.out.extend(line.as_bytes());
                }
            }
        }
    }

    /// Moves one client's commands on. False: nothing could be done.
    fn serve(&mut self, id: u32, machine: &mut Machine) -> bool {
        let Some(client) = self.clients.get_mut(&id) else { return false };
        // Out-of-band commands overtake what runs.
        if client.running.is_some() {
            let finished = client.running.as_ref().and_then(|r| lock(&r.result).take());
            let Some(finished) = finished else { return false };
            let call = client.running.take().and_then(|r| r.call);
            let answer = finished.and_then(|done| {
                done(&mut Desk { machine, state: &mut self.state, blocks: &self.blocks })
            });
            self.look(machine);
            self.answer(id, call, answer);
            return true;
        }
        let Some(command) = client.queue.pop_front() else { return false };
        let (call, reply) = match &mut client.talk {
            Talk::Qmp(session) => match session.begin(command) {
                Step::Answer(line) => {
                    self.tell();
                    self.clients.entry(id).and_modify(|c| c.out.extend(line.as_bytes()));
                    return true;
                }
                Step::Run(call) if call.oob && !table::OOB.contains(&call.name.as_str()) => {
                    let text = format!("The command {} does not support OOB", call.name);
                    (Some(call), Reply::Now(Err(QmpError::generic(text))))
                }
                Step::Run(call) => {
                    let mut desk = Desk { machine, state: &mut self.state, blocks: &self.blocks };
                    let reply = desk.call(&call.name, call.arguments.clone());
                    (Some(call), reply)
                }
            },
            Talk::Hmp(_) => {
                let line = command.unwrap_or_default();
                let mut desk = Desk { machine, state: &mut self.state, blocks: &self.blocks };
                (None, desk.hmp(&line))
            }
        };
        self.look(machine);
        match reply {
            Reply::Now(answer) => self.answer(id, call, answer),
            Reply::Later(work) => {
                let result: Arc<Mutex<Option<Answer<Done>>>> = Arc::default();
                let slot = result.clone();
                machine.blocks.executor().spawn(async move {
                    let answer = work.await;
                    *lock(&slot) = Some(answer);
                });
                if let Some(client) = self.clients.get_mut(&id) {
                    client.running = Some(Running { call, result });
                }
            }
        }
        true
    }

    fn answer(&mut self, id: u32, call: Option<Call>, answer: Answer<Value>) {
        // What a command has caused is told before its answer.
        self.tell();
        let Some(client) = self.clients.get_mut(&id) else { return };
        let text = match (&mut client.talk, call) {
            (Talk::Qmp(session), Some(call)) => session.finish(call, answer),
            (Talk::Hmp(shell), _) => shell.finish(&hmp::text_of(answer)),
            (Talk::Qmp(_), None) => return,
        };
        client.out.extend(text.as_bytes());
    }
}

impl Desk<'_> {
    /// Runs a command: the machine's own, or one about storage.
    pub(crate) fn call(&mut self, name: &str, arguments: Value) -> Reply {
        // Objects are the block layer's, and it knows what of them can be changed.
        let path = arguments.get("path").and_then(Value::as_str).unwrap_or_default();
        if self.state.settings.preconfig && !table::PRECONFIG.contains(&name) {
            let text = format!(
                "The command '{name}' is permitted only after machine initialization has completed"
            );
            return Reply::Now(Err(QmpError::generic(text)));
        }
        if let Err(error) = self.check_logged(name) {
            return Reply::Now(Err(error));
        }
        let of_blocks = name == "qom-set" && path.starts_with("/objects/");
        if !of_blocks && let Some(reply) = self.dispatch(name, arguments.clone()) {
            return reply;
        }
        let (monitor, name) = (self.blocks.clone(), name.to_owned());
        Reply::later(async move { monitor.execute(&name, arguments).await })
    }

    pub(crate) fn handles(&self) -> &Handles {
        &self.machine.handles
    }

    pub(crate) fn emit(&self, name: &'static str, data: Value) {
        self.machine.blocks.context().emit(name, data);
    }

    /// Why it is stopped, as clients are told.
    pub(crate) fn run_state(&self) -> args::RunState {
        use args::RunState;
        match self.machine.stopped() {
            None if self.machine.suspended() => RunState::Suspended,
            None => RunState::Running,
            Some(_) if self.machine.powered_off() => RunState::Shutdown,
            Some(_) if self.machine.waits() == Some(Waits::Panicked) => RunState::GuestPanicked,
            Some(_) if self.machine.waits() == Some(Waits::Watchdog) => RunState::Watchdog,
            Some(Stop::Paused) if self.state.settings.incoming.is_some() => RunState::Inmigrate,
            Some(Stop::Paused) if self.has_left() => RunState::Postmigrate,
            Some(Stop::Paused) if self.state.settings.prelaunch => RunState::Prelaunch,
            Some(Stop::Shutdown | Stop::Reset | Stop::Exit(_) | Stop::Script(_)) => {
                RunState::Shutdown
            }
            Some(Stop::Panicked) => RunState::GuestPanicked,
            Some(Stop::IoError) => RunState::IoError,
            Some(Stop::Debug) => RunState::Debug,
            Some(Stop::Paused | Stop::Limit | Stop::ReplayBegin | Stop::ReplayEnd) => {
                RunState::Paused
            }
        }
    }
}
