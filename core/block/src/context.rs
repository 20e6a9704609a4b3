//! What every node, backend and job of a graph shares.

use crate::exec::Executor;
use crate::host::{HostClock, HostFs, HostNet};
use crate::sync::lock;
use crate::{BlockError, Result};
use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// Something that happened, as the monitor reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Name, such as `JOB_STATUS_CHANGE`.
    pub name: &'static str,
    /// Facts.
    pub data: Value,
    /// Seconds and nanoseconds since 1970.
    pub time: (u64, u32),
}

/// Hears events. It must only take note.
pub type EventHook = Arc<dyn Fn(&Event) + Send + Sync>;

/// The executor and what the host has lent. Cheap to clone.
#[derive(Clone, Default)]
pub struct Context(Arc<Inner>);

#[derive(Default)]
struct Inner {
    exec: Executor,
    clock: OnceLock<Arc<dyn HostClock>>,
    fs: OnceLock<Arc<dyn HostFs>>,
    net: OnceLock<Arc<dyn HostNet>>,
    events: Mutex<Vec<EventHook>>,
    awaits: AtomicBool,
}

impl Context {
    /// Runs unfinished requests.
    pub fn executor(&self) -> &Executor {
        &self.0.exec
    }

    /// Lends a clock, once.
    pub fn set_clock(&self, clock: Arc<dyn HostClock>) {
        let _ = self.0.clock.set(clock);
    }

    /// Lends files by name, once.
    pub fn set_fs(&self, fs: Arc<dyn HostFs>) {
        let _ = self.0.fs.set(fs);
    }

    /// Lends connections, once.
    pub fn set_net(&self, net: Arc<dyn HostNet>) {
        let _ = self.0.net.set(net);
    }

    /// The host's files.
    pub fn fs(&self) -> Result<Arc<dyn HostFs>> {
        self.0.fs.get().cloned().ok_or_else(|| BlockError::unsupported("no files here"))
    }

    /// The host's connections.
    pub fn net(&self) -> Result<Arc<dyn HostNet>> {
        self.0.net.get().cloned().ok_or_else(|| BlockError::unsupported("no network here"))
    }

    /// Nanoseconds; zero where there is no clock.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.clock.get().map_or(0, |clock| clock.now())
    }

    /// Seconds and nanoseconds since 1970; zeros where there is no clock.
    pub fn wall(&self) -> (u64, u32) {
        self.0.clock.get().map_or((0, 0), |clock| clock.wall())
    }

    /// True when there is a clock to measure with.
    pub fn has_clock(&self) -> bool {
        self.0.clock.get().is_some()
    }

    /// Waits; without a clock not at all, but others get their turn.
    pub async fn sleep(&self, ns: u64) {
        match self.0.clock.get() {
            Some(clock) => drop(clock.sleep(ns).await),
            None => crate::exec::yield_now().await,
        }
    }

    /// Another program has the disks: files are opened without locks, until
    /// [`reload`](crate::graph::BlockGraph::reload).
    pub fn set_awaits(&self, on: bool) {
        self.0.awaits.store(on, Ordering::Relaxed);
    }

    /// Whether another program has the disks.
    pub fn awaits(&self) -> bool {
        self.0.awaits.load(Ordering::Relaxed)
    }

    /// Has `hook` hear every event.
    pub fn on_event(&self, hook: EventHook) {
        lock(&self.0.events).push(hook);
    }

    /// Tells everybody.
    pub fn emit(&self, name: &'static str, data: Value) {
        let hooks = lock(&self.0.events).clone();
        let event = Event { name, data, time: self.wall() };
        hooks.iter().for_each(|hook| hook(&event));
    }
}
