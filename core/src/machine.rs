//! A running machine: the board, its CPUs, its disks, and the one loop that drives them.
//!
//! ```text
//! run CPUs until the next deadline or exit -> settle wires -> deliver due timers and finished
//! host I/O -> hand control back to the front end, which renders, plays, sleeps and calls again
//! ```

use crate::handles::Handles;
use crate::replay::{Entry, Replay};
use orrery_block::backend::Request;
use orrery_block::graph::BlockGraph;
use orrery_cpu::Cpus;
use orrery_cpu::debug::Hit;
use orrery_hw::acpi::{WAKE_BANK, WOKE};
use orrery_hw::pci::CONFIG_BANK;
use orrery_system::DeviceId;
use orrery_system::board::{Board, ClockMode};
use orrery_system::display::Surface;
use orrery_system::input::InputEvent;
use orrery_system::pins::PowerRequest;
use orrery_system::time::VmTime;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// CPUs of a multiprocessor machine take turns of this many instructions.
const TURN: u64 = 10_000;
/// In realtime mode, how far virtual time may fall behind the host's before the difference is
/// forgotten (the host was suspended, the tab was hidden), in nanoseconds.
const FORGET: u64 = 500_000_000;
/// In realtime mode, how fast virtual time catches up while the guest computes: a difference of
/// this many nanoseconds doubles its pace, or halves it when it is ahead. It does not jump then,
/// because guests that compare two clocks (timer calibration, watchdogs of clock sources) take a
/// jump for a fault.
const CATCH_UP: u64 = 20_000_000;

/// What a call of [`Machine::run`] ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The slice is over; there is more to run.
    Busy,
    /// Every CPU waits for an interrupt. Nothing happens by itself before so many nanoseconds
    /// have passed; `None`: until there is input.
    Idle(Option<u64>),
    /// A host operation is due and not finished: call again when the block layer's wake hook
    /// fires.
    WaitHost,
    /// The machine has stopped.
    Stopped(Stop),
}

/// Why a machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// [`Machine::pause`] was called.
    Paused,
    /// The guest powered off.
    Shutdown,
    /// The guest reset the machine, and it was told not to start again.
    Reset,
    /// The guest panicked (pvpanic) and it was told to stop then.
    Panicked,
    /// A drive cannot go on, most often because the host's disk is full; `board.power().reason()`
    /// says which. The request is made again after [`Machine::resume`].
    IoError,
    /// The guest asks the emulator to end with this exit status (isa-debug-exit).
    Exit(u32),
    /// The instruction limit was reached.
    Limit,
    /// A script ended the run with this exit status.
    Script(i32),
    /// A debugger's breakpoint; [`Machine::take_hit`] says which.
    Debug,
    /// The recording that is replayed ends here.
    ReplayEnd,
    /// A debugger went back to where the recording begins.
    ReplayBegin,
}

/// What to do about events that end a machine's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Stop instead of starting again after a reset (`-no-reboot`).
    pub no_reboot: bool,
    /// Pause instead of ending after power-off (`-no-shutdown`).
    pub no_shutdown: bool,
    /// When the guest panicked.
    pub on_panic: OnPanic,
    /// When a watchdog was not fed.
    pub on_watchdog: OnWatchdog,
}

/// An enumeration whose cases have names.
macro_rules! named {
    ($(#[$doc:meta])* $kind:ident { $($(#[$case_doc:meta])* $case:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $kind { $($(#[$case_doc])* $case,)* }

        impl $kind {
            /// The names of its cases.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The case with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$case),)*
                    _ => None,
                }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$case => $name,)*
                }
            }
        }
    };
}

named! {
    /// What to do when the guest panicked.
    OnPanic {
        /// Power off.
        #[default]
        Shutdown = "shutdown",
        /// Stop, for somebody to look at it.
        Pause = "pause",
        /// End with a status that says so.
        ExitFailure = "exit-failure",
        /// Go on.
        None = "none",
    }
}

named! {
    /// What to do when a watchdog was not fed.
    OnWatchdog {
        /// Reset the machine.
        #[default]
        Reset = "reset",
        /// Press the power button.
        Shutdown = "shutdown",
        /// Power off.
        Poweroff = "poweroff",
        /// Stop.
        Pause = "pause",
        /// Say so.
        Debug = "debug",
        /// Interrupt every CPU.
        InjectNmi = "inject-nmi",
        /// Nothing.
        None = "none",
    }
}

/// What a machine that is paused waits after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The guest panicked.
    Panicked,
    /// A watchdog was not fed.
    Watchdog,
}

/// A machine.
pub struct Machine {
    /// Devices, maps, wires, time.
    pub board: Board,
    /// The processors.
    pub cpus: Box<dyn Cpus>,
    /// Disks: backends and the nodes under them.
    pub blocks: BlockGraph,
    /// What the front end talks to.
    pub handles: Handles,
    /// What ends it.
    pub policy: Policy,
    stopped: Option<Stop>,
    /// Suspended to RAM: time passes, CPUs have no power.
    suspended: bool,
    /// The guest powered off and the machine was told to wait then.
    powered_off: bool,
    /// The guest panicked, or a watchdog did, and the machine was told to wait then.
    waits: Option<Waits>,
    hit: Option<(usize, Hit)>,
    qtest: bool,
    limit: u64,
    turn: usize,
    /// Realtime: host time that virtual time zero stands for.
    host_base: Option<u64>,
    last_call: Option<(u64, u64)>,
    /// Realtime: host nanoseconds and instructions of late, the older the less they weigh.
    pace: (u64, u64),
    /// The last call ended with every CPU waiting.
    idle: bool,
    write_back: WriteBack,
    pub(crate) replay: Option<Box<Replay>>,
    /// Devices that the guest was asked to let go.
    pub(crate) leaving: Vec<DeviceId>,
}

/// Guests such as DOS never flush their disks. What they wrote is made stable once a disk has
/// been left alone for a while, so that a tab or a process that dies later loses nothing.
#[derive(Default)]
struct WriteBack {
    looked: VmTime,
    /// By backend: writes seen at the last look, and writes that are stable.
    seen: BTreeMap<String, (u64, u64)>,
}

impl WriteBack {
    /// Time between two looks, in virtual nanoseconds.
    const PERIOD: u64 = 500_000_000;

    fn look(&mut self, now: VmTime, blocks: &BlockGraph) {
        if now.since(self.looked) < Self::PERIOD {
            return;
        }
        self.looked = now;
        for backend in blocks.backends() {
            let writes = backend.stats().write.ops;
            let (seen, stable) = self.seen.entry(backend.name().unwrap_or_default()).or_default();
            if *seen == writes && *stable != writes {
                *stable = writes;
                drop(backend.submit(Request::Flush));
            }
            *seen = writes;
        }
    }
}

impl Machine {
    /// Puts a machine together and resets it.
    pub fn new(board: Board, cpus: Box<dyn Cpus>, blocks: BlockGraph, handles: Handles) -> Self {
        let mut machine = Self {
            board,
            cpus,
            blocks,
            handles,
            policy: Policy::default(),
            stopped: None,
            suspended: false,
            powered_off: false,
            waits: None,
            hit: None,
            qtest: false,
            limit: u64::MAX,
            turn: 0,
            host_base: None,
            last_call: None,
            pace: (0, 0),
            idle: true,
            write_back: WriteBack::default(),
            replay: None,
            leaving: Vec::new(),
        };
        machine.power_on();
        machine
    }

    /// Presses the reset button: everything is as at power-on, but for what says itself that it
    /// holds for the first start only.
    pub fn reset(&mut self) {
        self.take_leaving();
        self.power_on();
        for (index, value) in std::mem::take(&mut self.handles.after_reset) {
            self.board.port_out(0x70, 1, index.into());
            self.board.port_out(0x71, 1, value.into());
        }
    }

    fn power_on(&mut self) {
        self.board.reset();
        self.cpus.reset(&mut self.board);
        self.turn = 0;
        self.suspended = false;
        self.powered_off = false;
        self.waits = None;
    }

    /// Whether it is suspended to RAM.
    pub fn suspended(&self) -> bool {
        self.suspended
    }

    pub(crate) fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// Ends a suspend: everything but memory starts anew, and firmware resumes the guest.
    pub fn wake(&mut self) {
        let (true, Some(how)) = (self.suspended, self.handles.suspend) else { return };
        let board = &mut self.board;
        let events = board.device_read(how.pm, WAKE_BANK, 0, 2);
        let registers = how.attributes..how.attributes + 7;
        let kept: Vec<u64> =
            registers.clone().map(|at| board.device_read(how.host, CONFIG_BANK, at, 1)).collect();
        self.reset();
        let board = &mut self.board;
        for (at, value) in registers.zip(kept) {
            board.device_write(how.host, CONFIG_BANK, at, 1, value);
        }
        // The shutdown status byte of the clock's memory says why firmware starts.
        board.port_out(0x70, 1, 0x0f);
        board.port_out(0x71, 1, 0xfe);
        board.device_write(how.pm, WAKE_BANK, 0, 2, events | u64::from(WOKE));
        board.settle();
    }

    fn wake_events(&mut self) -> bool {
        let pm = self.handles.suspend.map(|s| s.pm);
        pm.is_some_and(|pm| self.board.device_read(pm, WAKE_BANK, 0, 2) != 0)
    }

    /// Whether the guest powered off and the machine waits (`-no-shutdown`).
    pub fn powered_off(&self) -> bool {
        self.powered_off
    }

    /// What it waits after, when the guest went wrong and it was told to stop then.
    pub fn waits(&self) -> Option<Waits> {
        self.waits
    }

    /// Its CPUs never run: a test drives its devices and its clock (`-accel qtest`).
    pub fn set_qtest(&mut self) {
        self.qtest = true;
    }

    /// Which CPU met a breakpoint or watchpoint.
    pub fn take_hit(&mut self) -> Option<(usize, Hit)> {
        self.hit.take()
    }

    /// Executes one instruction of CPU `cpu`, or takes one interrupt. Time passes by it.
    pub fn step_cpu(&mut self, cpu: usize) {
        self.blocks.poll();
        self.board.settle();
        self.board.run_timers();
        self.board.deliver_host_io();
        self.board.begin_slice(VmTime::NEVER);
        self.board.set_current_cpu(cpu);
        self.cpus.pass_breakpoint(cpu);
        let ran = self.cpus.run(cpu, &mut self.board, 1);
        self.board.end_slice(ran.insns);
        self.board.settle();
        self.hit = self.cpus.take_hit();
        if let Some(stop) = self.power() {
            self.stopped = Some(stop);
        }
    }

    /// Reads memory as CPU `cpu` sees it; an error is the first address that it does not see.
    pub fn read_virtual(&mut self, cpu: usize, at: u64, len: usize) -> Result<Vec<u8>, u64> {
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            let linear = at.wrapping_add(done as u64);
            let n = (0x1000 - (linear & 0xfff) as usize).min(len - done);
            let gpa = self.cpus.look_up(cpu, &mut self.board, linear).ok_or(linear)?;
            self.board.peek(gpa, &mut out[done..done + n]);
            done += n;
        }
        Ok(out)
    }

    /// Writes memory as CPU `cpu` sees it, ROM too; an error is the first address that it does
    /// not see.
    pub fn write_virtual(&mut self, cpu: usize, at: u64, bytes: &[u8]) -> Result<(), u64> {
        for (i, byte) in bytes.iter().enumerate() {
            let linear = at.wrapping_add(i as u64);
            let gpa = self.cpus.look_up(cpu, &mut self.board, linear).ok_or(linear)?;
            self.board.poke(gpa, &[*byte]);
        }
        Ok(())
    }

    /// Stops before the next instruction, until [`Machine::resume`].
    pub fn pause(&mut self) {
        self.stopped.get_or_insert(Stop::Paused);
    }

    /// Goes on after a stop.
    pub fn resume(&mut self) {
        self.stopped = None;
        self.waits = None;
        self.board.power().resume();
        self.last_call = None;
        self.host_base = None;
    }

    /// Goes on by itself.
    pub(crate) fn go_on(&mut self) {
        self.stopped = None;
        self.hit = None;
    }

    /// Stops here, wherever it was going.
    pub(crate) fn stop_here(&mut self, stop: Stop) {
        self.stopped = Some(stop);
        if let Some(replay) = &mut self.replay {
            replay.travel = None;
        }
    }

    /// What it waited after has not happened: it was wound back.
    pub(crate) fn revive(&mut self) {
        self.powered_off = false;
        self.waits = None;
        self.idle = true;
        while self.board.power().take().is_some() {}
    }

    pub(crate) fn set_hit(&mut self, hit: (usize, Hit)) {
        self.hit = Some(hit);
    }

    /// Why it is stopped, if it is.
    pub fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    /// Stops when so many instructions have been executed since power-on.
    pub fn set_limit(&mut self, insns: u64) {
        self.limit = insns;
    }

    /// The CPU whose turn it is; part of the machine's state.
    pub(crate) fn turn(&self) -> usize {
        self.turn
    }

    pub(crate) fn set_turn(&mut self, turn: usize) {
        self.turn = turn % self.board.cpus();
        self.host_base = None;
        self.last_call = None;
    }

    /// Runs for about `slice` nanoseconds. `host` is the host's monotonic clock in nanoseconds,
    /// which only realtime mode looks at.
    pub fn run(&mut self, host: u64, slice: u64) -> Outcome {
        if let Some(stop) = self.stopped {
            return Outcome::Stopped(stop);
        }
        if self.begin_replay(None).is_err() {
            self.stopped = Some(Stop::ReplayEnd);
            return Outcome::Stopped(Stop::ReplayEnd);
        }
        let realtime = self.board.config().clock == ClockMode::Realtime && !self.qtest;
        if realtime {
            self.follow_host(host);
        }
        self.idle = false;
        self.write_back.look(self.board.now(), &self.blocks);
        let begun = self.board.now();
        let wanted = begun.after(slice);
        loop {
            self.blocks.poll();
            self.board.settle();
            self.board.run_timers();
            let delivered = self.board.deliver_host_io();
            if let Some(stop) = self.power() {
                self.stopped = Some(stop);
                return Outcome::Stopped(stop);
            }
            if self.qtest {
                return Outcome::Idle(None);
            }
            if !delivered && !realtime {
                return Outcome::WaitHost;
            }
            let now = self.board.now();
            if self.board.icount() >= self.travel_limit() {
                // It may be at another time then.
                self.travel_point();
                return self.stopped.map_or(Outcome::Busy, Outcome::Stopped);
            }
            let cut = self.replay.as_ref().and_then(|r| r.cut(begun));
            if cut.is_some_and(|cut| now >= cut) {
                self.replay_point();
                match self.stopped {
                    Some(stop) => return Outcome::Stopped(stop),
                    None => continue,
                }
            }
            if self.travel_time().is_some_and(|t| now >= t) {
                self.travel_point();
                return self.stopped.map_or(Outcome::Busy, Outcome::Stopped);
            }
            if now >= wanted {
                self.record_mark();
                return Outcome::Busy;
            }
            if self.board.icount() >= self.limit {
                self.stopped = Some(Stop::Limit);
                return Outcome::Stopped(Stop::Limit);
            }
            let end = [cut, self.travel_time()].into_iter().flatten().fold(wanted, VmTime::min);
            if self.suspended {
                if self.wake_events() {
                    self.wake();
                    continue;
                }
                match self.sleep_until(end, realtime) {
                    Some(outcome) => return outcome,
                    None => continue,
                }
            }
            let mut deadline = self.board.next_deadline();
            if realtime && deadline <= now {
                // A host operation is under way: look again soon.
                deadline = now.after(100_000);
            }
            let deadline = deadline.min(end);
            if !self.run_cpus(deadline) {
                if let Some((cpu, hit)) = self.cpus.take_hit()
                    && self.travel_hit(cpu, hit)
                {
                    self.hit = Some((cpu, hit));
                    self.stopped = Some(Stop::Debug);
                    return Outcome::Stopped(Stop::Debug);
                }
                continue;
            }
            // Nobody can run.
            self.board.settle();
            if self.board.attention() {
                continue;
            }
            if let Some(outcome) = self.sleep_until(end, realtime) {
                return outcome;
            }
        }
    }

    /// Lets time pass until something happens, at most until `end`; gives the outcome if that is
    /// for the front end to wait for.
    fn sleep_until(&mut self, end: VmTime, realtime: bool) -> Option<Outcome> {
        let next = self.board.next_deadline();
        if realtime {
            self.blocks.poll();
            self.idle = true;
            let idle = (next != VmTime::NEVER).then(|| next.since(self.board.now()));
            return Some(Outcome::Idle(idle));
        }
        if next == VmTime::NEVER && !self.replay.as_ref().is_some_and(|r| r.is_ahead()) {
            return Some(Outcome::Idle(None));
        }
        self.board.warp_to(next.min(end));
        None
    }

    /// Gives CPUs their turns until `deadline`, attention, or all of them wait. True if all wait.
    fn run_cpus(&mut self, deadline: VmTime) -> bool {
        let n = self.board.cpus();
        let mut waiting = 0;
        let limit = self.limit.min(self.travel_limit());
        let mut budget = self.board.begin_slice(deadline).min(limit - self.board.icount());
        while budget > 0 {
            // Turns end at multiples of a fixed count, so that they do not depend on how the
            // front end cuts its slices.
            let turn_left = if n == 1 { budget } else { TURN - self.board.icount() % TURN };
            self.board.set_current_cpu(self.turn);
            let ran = self.cpus.run(self.turn, &mut self.board, budget.min(turn_left));
            self.board.end_slice(ran.insns);
            if self.cpus.is_hit() {
                return false;
            }
            budget = budget.saturating_sub(ran.insns);
            let turn_over = ran.insns >= turn_left;
            if n > 1 && (turn_over || !ran.runnable || ran.yielded) {
                self.turn = (self.turn + 1) % n;
            }
            waiting = if ran.runnable || ran.insns > 0 { 0 } else { waiting + 1 };
            if waiting == n {
                return true;
            }
            if self.board.attention() {
                return false;
            }
            if budget > 0 {
                budget = self.board.begin_slice(deadline).min(limit - self.board.icount());
                if self.board.now() >= deadline {
                    return false;
                }
            }
        }
        false
    }

    /// Realtime: brings virtual time up to the host's and measures how fast instructions run.
    fn follow_host(&mut self, host: u64) {
        let now = self.board.now().0;
        let base = *self.host_base.get_or_insert_with(|| host.wrapping_sub(now));
        let target = host.wrapping_sub(base);
        if target > now.saturating_add(FORGET) && target < u64::MAX / 2 {
            let keep = if self.idle { FORGET } else { 3 * CATCH_UP };
            self.host_base = Some(host.wrapping_sub(now + keep));
            if self.idle {
                self.board.warp_to(VmTime(now + FORGET));
            }
        } else if target > now && target < u64::MAX / 2 && self.idle {
            self.board.warp_to(VmTime(target));
        }
        if let Some((then, insns)) = self.last_call.filter(|_| !self.idle) {
            // The quotient of sums, not the mean of quotients: a slice in which the host took the
            // processor away weighs no more than its time.
            self.pace.0 = self.pace.0 - self.pace.0 / 16 + host.saturating_sub(then);
            self.pace.1 = self.pace.1 - self.pace.1 / 16 + (self.board.icount() - insns);
            let (ns, ran) = self.pace;
            if ran > 10_000 {
                let rate = ((u128::from(ns) << 16) / u128::from(ran)).clamp(1 << 8, 1 << 23) as u64;
                let now = self.board.now().0;
                let behind = target.saturating_sub(now).min(3 * CATCH_UP);
                let ahead = now.saturating_sub(target).min(1_000 * CATCH_UP);
                let rate = rate + rate * behind / CATCH_UP;
                self.board.set_ns_per_insn_q16((rate * CATCH_UP / (CATCH_UP + ahead)).max(1));
            }
        }
        self.last_call = Some((host, self.board.icount()));
    }

    pub(crate) fn tell(&self, event: &'static str, data: Value) {
        self.blocks.context().emit(event, data);
    }

    /// Passes virtual time until `end` without CPUs, with all that happens by itself till then.
    pub fn pass_time(&mut self, end: VmTime) {
        for _ in 0..1_000_000 {
            self.blocks.poll();
            self.board.settle();
            let next = self.board.next_deadline().min(end);
            self.board.warp_to(next);
            self.board.run_timers();
            self.board.deliver_host_io();
            if let Some(stop) = self.power() {
                self.stopped.get_or_insert(stop);
            }
            if self.board.now() >= end {
                break;
            }
        }
        self.board.settle();
    }

    fn power(&mut self) -> Option<Stop> {
        self.take_ejected();
        match self.board.power().take()? {
            PowerRequest::Reset if self.policy.no_reboot => {
                self.tell("SHUTDOWN", json!({"guest": true, "reason": "guest-reset"}));
                self.powered_off = self.policy.no_shutdown;
                Some(if self.powered_off { Stop::Paused } else { Stop::Reset })
            }
            PowerRequest::Reset => {
                self.reset();
                self.tell("RESET", json!({"guest": true, "reason": "guest-reset"}));
                None
            }
            PowerRequest::Shutdown => Some(self.shut_down("guest-shutdown")),
            PowerRequest::GuestShutdown => {
                self.tell("GUEST_PVSHUTDOWN", json!({}));
                Some(self.shut_down("guest-shutdown"))
            }
            PowerRequest::Watchdog => self.watchdog(),
            PowerRequest::Suspend => {
                self.suspended = self.handles.suspend.is_some();
                if self.suspended {
                    self.tell("SUSPEND", json!({}));
                }
                None
            }
            PowerRequest::Panicked => self.panicked(),
            PowerRequest::IoError => Some(Stop::IoError),
            PowerRequest::Exit(code) => Some(Stop::Exit(code)),
        }
    }

    fn shut_down(&mut self, reason: &str) -> Stop {
        self.tell("SHUTDOWN", json!({"guest": true, "reason": reason}));
        self.powered_off = self.policy.no_shutdown;
        if self.powered_off { Stop::Paused } else { Stop::Shutdown }
    }

    fn panicked(&mut self) -> Option<Stop> {
        match self.policy.on_panic {
            OnPanic::None => {
                self.tell("GUEST_PANICKED", json!({"action": "run"}));
                None
            }
            OnPanic::Pause => self.wait_after(Waits::Panicked),
            OnPanic::Shutdown if self.policy.no_shutdown => self.wait_after(Waits::Panicked),
            _ => {
                self.tell("GUEST_PANICKED", json!({"action": "poweroff"}));
                self.tell("SHUTDOWN", json!({"guest": true, "reason": "guest-panic"}));
                Some(Stop::Panicked)
            }
        }
    }

    fn wait_after(&mut self, what: Waits) -> Option<Stop> {
        if what == Waits::Panicked {
            self.tell("GUEST_PANICKED", json!({"action": "pause"}));
        }
        self.waits = Some(what);
        Some(Stop::Paused)
    }

    fn watchdog(&mut self) -> Option<Stop> {
        let action = self.policy.on_watchdog;
        self.tell("WATCHDOG", json!({"action": action.name()}));
        match action {
            OnWatchdog::Reset => {
                self.board.power().request(PowerRequest::Reset);
                self.power()
            }
            OnWatchdog::Shutdown => {
                if let Some(button) = &self.handles.power_button {
                    button.pulse();
                }
                None
            }
            OnWatchdog::Poweroff => Some(self.shut_down("guest-shutdown")),
            OnWatchdog::Pause => self.wait_after(Waits::Watchdog),
            OnWatchdog::InjectNmi => {
                for cpu in 0..self.board.cpus() {
                    self.board.pins(cpu).nmi.pin().pulse();
                }
                None
            }
            OnWatchdog::Debug | OnWatchdog::None => None,
        }
    }

    /// A person does something.
    pub fn input(&mut self, event: InputEvent) {
        self.enter(Entry::Input(event));
    }

    /// Gives an input event to the first device that wants it.
    pub(crate) fn give_input(&mut self, event: InputEvent) {
        if self.suspended && matches!(event, InputEvent::Key { down: true, .. }) {
            // The keyboard wakes the machine, and that is all it does.
            return self.wake();
        }
        for i in 0..self.handles.inputs.len() {
            let id = self.handles.inputs[i];
            let Some(sink) = self.board.device(id).and_then(|d| d.input()) else { continue };
            if sink.accepts(&event) {
                sink.input(event);
                return;
            }
        }
    }

    /// Whether the pointer is to be told by its place on the screen ([`InputEvent::Position`]), as a
    /// tablet wants it, and not by how far it moved.
    pub fn absolute_pointer(&mut self) -> bool {
        let place = InputEvent::Position { x: 0, y: 0 };
        let inputs = self.handles.inputs.clone();
        inputs.into_iter().any(|id| {
            self.board.device(id).and_then(|d| d.input()).is_some_and(|s| s.accepts(&place))
        })
    }

    /// Brings a surface up to date with the first display. False if there is none.
    pub fn render(&mut self, surface: &mut Surface, full: bool) -> bool {
        let Some(id) = self.handles.display else { return false };
        let Some(display) = self.board.device(id).and_then(|d| d.display()) else { return false };
        display.render(surface, full);
        true
    }

    /// The characters on the screen while it shows text.
    pub fn screen_text(&mut self) -> Option<Vec<String>> {
        let id = self.handles.display?;
        self.board.device(id)?.display()?.text()
    }

    /// Mixes the sound made between two instants.
    pub fn mix(&mut self, from: VmTime, to: VmTime, rate: u32, out: &mut [f32]) {
        out.fill(0.0);
        for (id, ..) in self.board.devices() {
            if let Some(source) = self.board.device(id).and_then(|d| d.audio()) {
                source.mix(from, to, rate, out);
            }
        }
    }
}
