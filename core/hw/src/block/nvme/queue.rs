//! Queues in guest memory (4.1) and what is in them.

use orrery_system::Dma;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A command (4.2): sixteen words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command(pub(super) [u32; 16]);

impl Command {
    pub(super) fn opcode(&self) -> u8 {
        self.0[0] as u8
    }

    /// The number by which it is told of.
    pub(super) fn id(&self) -> u32 {
        self.0[0] >> 16
    }

    /// Whether the data is described by a scatter gather list.
    pub(super) fn by_list(&self) -> bool {
        self.0[0] >> 14 & 3 != 0
    }

    pub(super) fn namespace(&self) -> u32 {
        self.0[1]
    }

    pub(super) fn word(&self, n: usize) -> u32 {
        self.0[n]
    }

    /// Two words.
    pub(super) fn long(&self, n: usize) -> u64 {
        u64::from(self.0[n]) | u64::from(self.0[n + 1]) << 32
    }

    /// What it counts for among those in flight: about the bytes it moves.
    pub(super) fn weight(&self) -> u64 {
        4096 + (u64::from(self.0[12] & 0xffff) + 1) * 512
    }
}

/// A submission queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Submission {
    base: u64,
    size: u32,
    pub(super) head: u32,
    tail: u32,
    /// Where its completions go.
    pub(super) completion: u16,
}

impl Submission {
    pub(super) fn new(base: u64, size: u32, completion: u16) -> Self {
        Self { base, size, head: 0, tail: 0, completion }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.head < self.size && self.tail < self.size
    }

    /// The driver moved the tail. A tail outside the queue is ignored.
    pub(super) fn offered(&mut self, tail: u32) {
        if tail < self.size {
            self.tail = tail;
        }
    }

    /// Takes the next command; what memory does not hold reads as ones.
    pub(super) fn next(&mut self, dma: &Dma) -> Option<Command> {
        if self.head == self.tail || !dma.is_enabled() {
            return None;
        }
        let mut b = [0; 64];
        // A queue outside memory gives commands that are refused.
        let _ = dma.read(self.base.wrapping_add(64 * u64::from(self.head)), &mut b);
        self.head = (self.head + 1) % self.size;
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(b.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Some(Command(words))
    }
}

/// A completion queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Completion {
    base: u64,
    size: u32,
    head: u32,
    tail: u32,
    phase: bool,
    /// The vector of its interrupts, if they are on.
    pub(super) vector: Option<u16>,
    /// What found no room yet.
    waiting: VecDeque<[u32; 4]>,
}

impl Completion {
    pub(super) fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self { base, size, head: 0, tail: 0, phase: true, vector, waiting: VecDeque::new() }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.head < self.size && self.tail < self.size
    }

    /// Whether the driver has taken all there was.
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Whether commands whose completion goes here may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The driver moved the head.
    pub(super) fn taken(&mut self, head: u32) {
        if head < self.size {
            self.head = head;
        }
    }

    pub(super) fn post(&mut self, entry: [u32; 4]) {
        self.waiting.push_back(entry);
    }

    /// Writes what waits, as far as there is room.
    pub(super) fn flush(&mut self, dma: &Dma) {
        while (self.tail + 1) % self.size != self.head {
            let Some(mut entry) = self.waiting.pop_front() else { return };
            entry[3] |= u32::from(self.phase) << 16;
            let bytes: Vec<u8> = entry.into_iter().flat_map(u32::to_le_bytes).collect();
            // A queue outside memory keeps its completions from the driver; nothing else.
            let _ = dma.write(self.base.wrapping_add(16 * u64::from(self.tail)), &bytes);
            self.tail = (self.tail + 1) % self.size;
            self.phase ^= self.tail == 0;
        }
    }
}
