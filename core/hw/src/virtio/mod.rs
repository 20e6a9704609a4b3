//! Virtio devices: Virtual I/O Device (VIRTIO) 1.2, and the legacy interface of 0.9.5.
//!
//! A device implements [`VirtioDevice`]; what is in front of it ([`pci::VirtioPci`], [`mmio::VirtioMmio`]) are
//! registers around one transport, which owns its queues, negotiates features, and turns what the device gives back
//! into interrupts.

#[cfg(test)]
mod bench;
pub mod blk;
pub mod input;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod scsi;
pub mod serial;
mod transport;

use orrery_system::input::InputSink;
use orrery_system::time::VmTime;
use orrery_system::{Dma, RestoreError};
use queue::{Broken, Chain, Queue};
use serde::{Serialize, de::DeserializeOwned};

/// Feature: conforms to version 1.
pub const F_VERSION_1: u64 = 1 << 32;

/// What a device may use while it is called.
pub struct Context<'a> {
    /// Guest memory.
    pub dma: &'a Dma,
    /// Features the driver accepted.
    pub features: u64,
    queues: &'a mut [Queue],
    /// Queues with something given back: one bit each.
    given: u64,
    broken: Option<Broken>,
    changed: bool,
}

impl Context<'_> {
    /// Takes the next chain of queue `n`.
    pub fn pop(&mut self, n: usize) -> Option<Chain> {
        if self.broken.is_some() {
            return None;
        }
        match self.queues.get_mut(n)?.pop(self.dma, self.features) {
            Ok(chain) => chain,
            Err(e) => {
                self.broken = Some(e);
                None
            }
        }
    }

    /// Gives a chain of queue `n` back with `written` bytes in its writable part.
    pub fn push(&mut self, n: usize, chain: &Chain, written: u32) {
        let Some(queue) = self.queues.get_mut(n) else { return };
        match queue.push(self.dma, chain.head, written) {
            Ok(()) => self.given |= 1 << n,
            Err(e) => self.broken = Some(e),
        }
    }

    /// Tells the driver that the configuration changed.
    pub fn config_changed(&mut self) {
        self.changed = true;
    }

    /// Declares the driver's requests senseless: the device stops until it is reset.
    pub fn fail(&mut self, why: &'static str) {
        self.broken = Some(Broken(why));
    }
}

/// A device behind a virtio transport.
pub trait VirtioDevice: Send {
    /// Everything the guest can observe, but for the transport.
    type State: Serialize + DeserializeOwned + Clone + PartialEq;

    /// The type name of the device on PCI: `virtio-blk-pci`.
    const PCI_NAME: &'static str;
    /// Device type (chapter 5): 2 is a block device.
    const TYPE: u16;
    /// PCI class code.
    const PCI_CLASS: u32;

    /// Features it offers, without those of the transport.
    fn features(&self) -> u64;
    /// Most entries of each of its queues.
    fn queues(&self) -> Vec<u16>;
    /// Its configuration structure.
    fn config(&self) -> Vec<u8>;
    /// The driver writes a byte of it.
    fn write_config(&mut self, _at: usize, _value: u8) {}
    /// The driver is ready, with these features.
    fn start(&mut self, _features: u64) {}
    /// Back to the state before any driver.
    fn reset(&mut self);
    /// The driver says that queue `n` has something.
    fn notified(&mut self, n: usize, context: &mut Context<'_>);
    /// Its state.
    fn save(&self) -> Self::State;
    /// Takes over a state; it was saved with the same queues.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;

    /// When the first host operation in flight completes.
    fn due(&self) -> Option<VmTime> {
        None
    }
    /// Whether the host has finished it.
    fn ready(&self) -> bool {
        false
    }
    /// Where keys and pointer movement go.
    fn input(&mut self) -> Option<&mut dyn InputSink> {
        None
    }
    /// Delivers what is due and finished.
    fn deliver(&mut self, _now: VmTime, _context: &mut Context<'_>) {}
}
