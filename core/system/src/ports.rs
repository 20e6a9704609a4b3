//! Host ports: queues between a device and a front end.
//!
//! A device pushes and pops without knowing who is at the other end; with nobody there, output
//! is bounded and dropped, and input never comes.

use crate::irq::Attention;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Bytes a port holds before it drops the oldest: nobody is reading.
const LIMIT: usize = 1 << 20;
/// Frames a cable holds in each direction.
const CABLE_LIMIT: usize = 1024;

#[derive(Default)]
struct Queues<T> {
    to_guest: VecDeque<T>,
    to_host: VecDeque<T>,
}

/// A two-way queue of `T` between a device and a front end. Clones are the same port.
#[derive(Clone)]
pub struct Port<T> {
    queues: Arc<Mutex<Queues<T>>>,
    waiting: Arc<AtomicBool>,
    /// Nothing passes: a cable that was pulled.
    cut: Arc<AtomicBool>,
    attention: Attention,
    /// Raised by what the device sends, where the other end is a device that settles.
    sent: Option<Attention>,
    limit: usize,
}

/// A character device: a serial line, a console.
pub type CharPort = Port<u8>;
/// A network card's cable: whole ethernet frames without checksum.
pub type NetPort = Port<Vec<u8>>;

impl<T> Default for Port<T> {
    fn default() -> Self {
        Self::new(Attention::default())
    }
}

impl<T> Port<T> {
    pub(crate) fn new(attention: Attention) -> Self {
        let queues =
            Arc::new(Mutex::new(Queues { to_guest: VecDeque::new(), to_host: VecDeque::new() }));
        Self {
            queues,
            waiting: Arc::default(),
            cut: Arc::default(),
            attention,
            sent: None,
            limit: LIMIT,
        }
    }

    /// A port for frames; what the device sends makes the machine settle, so that a device at
    /// the other end sees it at a defined instant.
    pub(crate) fn cable(attention: Attention, changed: Attention) -> Self {
        Self { sent: Some(changed), limit: CABLE_LIMIT, ..Self::new(attention) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues<T>> {
        self.queues.lock().expect("no panic while held")
    }

    /// Device: sends to the host.
    pub fn send(&self, item: T) {
        if !self.carrier() {
            return;
        }
        let mut q = self.lock();
        if q.to_host.len() >= self.limit {
            q.to_host.pop_front();
        }
        q.to_host.push_back(item);
        if let Some(changed) = &self.sent {
            changed.raise();
            self.attention.raise();
        }
    }

    /// Device: takes what the host sent.
    pub fn receive(&self) -> Option<T> {
        if !self.has_input() {
            return None;
        }
        let mut q = self.lock();
        let item = q.to_guest.pop_front();
        self.waiting.store(!q.to_guest.is_empty(), Relaxed);
        item
    }

    /// Device: whether the host sent something.
    #[inline]
    pub fn has_input(&self) -> bool {
        self.waiting.load(Relaxed)
    }

    /// Front end: sends to the guest. Items past the port's limit are dropped.
    pub fn push(&self, items: impl IntoIterator<Item = T>) {
        if !self.carrier() {
            return;
        }
        let mut q = self.lock();
        for item in items {
            if q.to_guest.len() < self.limit {
                q.to_guest.push_back(item);
            }
        }
        self.waiting.store(!q.to_guest.is_empty(), Relaxed);
        self.attention.raise();
    }

    /// Front end: takes all the guest sent.
    pub fn drain(&self) -> Vec<T> {
        self.lock().to_host.drain(..).collect()
    }

    /// Whether there is a signal. Without one nothing passes in either direction.
    #[inline]
    pub fn carrier(&self) -> bool {
        !self.cut.load(Relaxed)
    }

    /// Front end: pulls the cable, and what is on it is lost, or puts it back. The device sees it when it
    /// next looks for input.
    pub fn set_carrier(&self, up: bool) {
        self.cut.store(!up, Relaxed);
        if !up {
            *self.lock() = Queues { to_guest: VecDeque::new(), to_host: VecDeque::new() };
            self.waiting.store(false, Relaxed);
        }
        self.attention.raise();
    }

    /// Whether both are the same port.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queues, &other.queues)
    }

    /// What was sent to the guest and not taken yet: part of the world around a machine, which a
    /// snapshot does not hold.
    pub fn waiting(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.lock().to_guest.iter().cloned().collect()
    }

    /// Puts that back, in place of what waits now.
    pub fn set_waiting(&self, items: impl IntoIterator<Item = T>) {
        let mut q = self.lock();
        q.to_guest = items.into_iter().collect();
        self.waiting.store(!q.to_guest.is_empty(), Relaxed);
        self.attention.raise();
    }

    /// How many items the guest has not taken yet.
    pub fn input_len(&self) -> usize {
        self.lock().to_guest.len()
    }
}

/// A message-signalled interrupt: a write that an interrupt controller takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Address written: destination and mode (Intel SDM vol. 3, 11.11.1).
    pub addr: u64,
    /// Data written: vector, delivery mode, trigger.
    pub data: u32,
}

/// Messages on their way to interrupt controllers, delivered when the machine settles.
#[derive(Clone, Default)]
pub struct MessageQueue {
    queue: Arc<Mutex<VecDeque<Message>>>,
    attention: Attention,
    changed: Attention,
}

impl MessageQueue {
    pub(crate) fn new(attention: Attention, changed: Attention) -> Self {
        Self { queue: Arc::default(), attention, changed }
    }

    /// Sends one.
    pub fn send(&self, m: Message) {
        self.queue.lock().expect("no panic while held").push_back(m);
        self.changed.raise();
        self.attention.raise();
    }

    /// Takes the oldest.
    pub fn take(&self) -> Option<Message> {
        self.queue.lock().expect("no panic while held").pop_front()
    }
}
