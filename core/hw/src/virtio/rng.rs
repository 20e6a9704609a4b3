//! Virtio entropy device: VIRTIO 1.2 chapter 5.4.
//!
//! What it gives follows from the machine's seed, as everything random in a machine does.

use super::{Context, VirtioDevice};
use crate::pci::Bus;
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};

/// Entries of the queue.
const QUEUE: u16 = 8;
/// Most bytes for one request.
const MOST: u64 = 1 << 16;

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Place in the sequence (SplitMix64).
    sequence: u64,
}

/// The device.
pub struct Rng {
    state: State,
}

/// Puts a `virtio-rng-pci` at `devfn` of `bus`.
pub fn build(board: &mut Board, bus: &Bus, devfn: u8, transport: super::pci::Config) -> DeviceId {
    let seed = board.config().seed;
    super::pci::build(board, bus, devfn, transport, |_, id| {
        Rng::new(seed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9))
    })
}

impl Rng {
    /// A device whose sequence begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: State { sequence: seed } }
    }

    fn next(&mut self) -> u64 {
        self.state.sequence = self.state.sequence.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state.sequence;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl VirtioDevice for Rng {
    type State = State;

    const PCI_NAME: &'static str = "virtio-rng-pci";
    const TYPE: u16 = 4;
    const PCI_CLASS: u32 = 0x00_ff_00;

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    // The sequence goes on: what was given once is not given again.
    fn reset(&mut self) {}

    fn notified(&mut self, _: usize, context: &mut Context<'_>) {
        while let Some(chain) = context.pop(0) {
            let len = chain.writable.len().min(MOST) as usize;
            let words = (0..len.div_ceil(8)).map(|_| self.next());
            let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            bytes.truncate(len);
            match chain.writable.write(context.dma, 0, &bytes) {
                Ok(n) => context.push(0, &chain, n as u32),
                Err(_) => return context.fail("a buffer outside memory"),
            }
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_sequence_follows_from_the_seed_and_outlasts_a_reset() {
        let (mut a, mut b) = (Rng::new(1), Rng::new(1));
        let first = a.next();
        assert_eq!(b.next(), first);
        b.reset();
        assert_ne!(b.next(), first);
        let mut c = Rng::new(2);
        c.restore(b.save()).unwrap();
        assert_eq!(c.next(), b.next());
        assert_ne!(Rng::new(2).next(), first);
    }
}
