//! Waiting for sockets and for time, in one place.

use orrery_block::Op;
use orrery_block::host::HostClock;
use rustix::event::epoll;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An epoll instance and a list of alarms.
pub(super) struct Reactor {
    epoll: OwnedFd,
    /// Written to when an alarm is set while somebody waits.
    kick: Arc<OwnedFd>,
    start: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: u64,
    sources: BTreeMap<u64, Arc<Source>>,
    /// Who wakes when; the number tells equal times apart.
    alarms: BTreeMap<(u64, u64), Waker>,
}

/// A descriptor that somebody may wait for.
#[derive(Default)]
pub(super) struct Source {
    token: u64,
    readable: Mutex<Option<Waker>>,
    writable: Mutex<Option<Waker>>,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let kick = Arc::new(rustix::event::eventfd(0, flags)?);
        epoll::add(&epoll, &kick, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(Self { epoll, kick, start: Instant::now(), state: Arc::default() })
    }

    /// Watches a descriptor, which does not block.
    pub(super) fn register(&self, fd: impl AsFd) -> io::Result<Arc<Source>> {
        let mut state = lock(&self.state);
        state.last += 1;
        let source = Arc::new(Source { token: state.last, ..Source::default() });
        // Edge-triggered: whoever waits has tried first.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let flags = flags | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(source.token), flags)?;
        state.sources.insert(source.token, source.clone());
        Ok(source)
    }

    /// Forgets a descriptor.
    pub(super) fn unregister(&self, fd: impl AsFd, source: &Source) {
        let _ = epoll::delete(&self.epoll, fd);
        lock(&self.state).sources.remove(&source.token);
    }

    /// Waits until something happens, and wakes whom it concerns.
    pub(super) fn turn(&self) {
        let next = lock(&self.state).alarms.first_key_value().map(|((at, _), _)| *at);
        let timeout = next.map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
        let timeout = timeout.and_then(|t| rustix::event::Timespec::try_from(t).ok());
        let mut events = Vec::with_capacity(64);
        let waited =
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
        if waited.is_ok() {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.kick, &mut count);
            for event in &events {
                let source = lock(&self.state).sources.get(&event.data.u64()).cloned();
                let Some(source) = source else { continue };
                let flags = event.flags;
                let broken = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                if flags.intersects(broken | epoll::EventFlags::IN | epoll::EventFlags::RDHUP) {
                    source.wake_reader();
                }
                if flags.intersects(broken | epoll::EventFlags::OUT) {
                    source.wake_writer();
                }
            }
        }
        let now = self.now();
        loop {
            let due = {
                let mut state = lock(&self.state);
                match state.alarms.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    _ => break,
                }
            };
            due.wake();
        }
    }
}

impl Source {
    fn wake_reader(&self) {
        if let Some(waker) = lock(&self.readable).take() {
            waker.wake();
        }
    }

    fn wake_writer(&self) {
        if let Some(waker) = lock(&self.writable).take() {
            waker.wake();
        }
    }

    /// Wakes both, so that they see that the descriptor is closed.
    pub(super) fn wake(&self) {
        self.wake_reader();
        self.wake_writer();
    }

    async fn ready<T>(
        slot: &Mutex<Option<Waker>>,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        poll_fn(|cx| {
            loop {
                // The waker is in place before the attempt: an edge in between is not lost.
                *lock(slot) = Some(cx.waker().clone());
                match attempt() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    result => return Poll::Ready(result),
                }
            }
        })
        .await
    }

    /// Repeats `attempt` whenever something may have come, until it does not block.
    pub(super) async fn read<T>(&self, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        Self::ready(&self.readable, attempt).await
    }

    /// Repeats `attempt` whenever there may be room, until it does not block.
    pub(super) async fn write<T>(&self, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        Self::ready(&self.writable, attempt).await
    }
}

impl HostClock for Reactor {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn wall(&self) -> (u64, u32) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (since.as_secs(), since.subsec_nanos())
    }

    fn sleep(&self, ns: u64) -> Op<()> {
        let start = self.start;
        let (state, kick) = (self.state.clone(), self.kick.clone());
        let mut alarm = Alarm { state, kick, at: self.now() + ns, key: None };
        Op::pending(async move {
            poll_fn(|cx| {
                if start.elapsed().as_nanos() as u64 >= alarm.at {
                    return Poll::Ready(());
                }
                alarm.set(cx.waker());
                Poll::Pending
            })
            .await;
            Ok(())
        })
    }
}

/// A place in the list of alarms; leaves it when dropped.
struct Alarm {
    state: Arc<Mutex<State>>,
    kick: Arc<OwnedFd>,
    at: u64,
    key: Option<(u64, u64)>,
}

impl Alarm {
    fn set(&mut self, waker: &Waker) {
        let mut state = lock(&self.state);
        let at = self.at;
        let key = *self.key.get_or_insert_with(|| {
            state.last += 1;
            (at, state.last)
        });
        state.alarms.insert(key, waker.clone());
        drop(state);
        let _ = rustix::io::write(&self.kick, &1_u64.to_ne_bytes());
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(&self.state).alarms.remove(&key);
        }
    }
}
