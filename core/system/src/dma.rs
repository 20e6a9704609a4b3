//! Bus mastering: how a device reaches guest memory.

use crate::map::{SharedViews, Target, Views};
use crate::ports::{Message, MessageQueue};
use crate::ram::Ram;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLock};

/// Why a transfer was refused. Nothing of it was done past `done` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DmaError {
    /// The device may not master the bus (PCI command register, bit 2).
    #[error("bus mastering is off")]
    Disabled,
    /// No memory answers there: a hole or a device's registers.
    #[error("no memory at {addr:#x}")]
    NoMemory {
        /// The first address without memory.
        addr: u64,
    },
}

/// A device's access to guest memory and to message-signalled interrupts. Clones share the
/// bus-master switch.
#[derive(Clone)]
pub struct Dma {
    ram: Arc<Ram>,
    views: SharedViews,
    messages: MessageQueue,
    enabled: Arc<AtomicBool>,
}

impl Dma {
    pub(crate) fn new(ram: Arc<Ram>, views: SharedViews, messages: MessageQueue) -> Self {
        Self { ram, views, messages, enabled: Arc::new(AtomicBool::new(true)) }
    }

    /// A handle onto `len` bytes of its own memory from address 0, for tests of devices.
    pub fn detached(len: usize) -> Self {
        let ram = Arc::new(Ram::new(len));
        let block = ram.alloc("ram", len).expect("as large as asked");
        let regions = crate::map::Regions::detached();
        let root = regions.container("root", u64::MAX);
        root.add(0, &regions.ram("ram", block));
        let views = Arc::new(RwLock::new(Arc::new(Views::render(&root))));
        Self::new(ram, views, MessageQueue::default())
    }

    /// A second handle with a bus-master switch of its own, which starts switched on.
    pub fn another(&self) -> Self {
        Self { enabled: Arc::new(AtomicBool::new(true)), ..self.clone() }
    }

    /// Lets the device master the bus, or not.
    pub fn set_enabled(&self, on: bool) {
        self.enabled.store(on, Relaxed);
    }

    /// Whether it may.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Relaxed)
    }

    /// Copies guest memory at `addr` out. Where none answers, `out` reads all ones from there on.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), DmaError> {
        self.walk(addr, out.len(), false, |range, off| {
            self.ram.read_bytes(off, &mut out[range]);
        })
        .inspect_err(|e| {
            let from = match e {
                DmaError::Disabled => 0,
                DmaError::NoMemory { addr: bad } => bad.wrapping_sub(addr) as usize,
            };
            out[from..].fill(0xff);
        })
    }

    /// Copies `bytes` into guest memory at `addr`. Writes to ROM are dropped.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), DmaError> {
        self.walk(addr, bytes.len(), true, |range, off| {
            self.ram.write_bytes(off, &bytes[range]);
        })
    }

    /// Reads a little-endian 16-bit value.
    pub fn read_u16(&self, addr: u64) -> Result<u16, DmaError> {
        let mut b = [0; 2];
        self.read(addr, &mut b).map(|()| u16::from_le_bytes(b))
    }

    /// Reads a little-endian 32-bit value.
    pub fn read_u32(&self, addr: u64) -> Result<u32, DmaError> {
        let mut b = [0; 4];
        self.read(addr, &mut b).map(|()| u32::from_le_bytes(b))
    }

    /// Reads a little-endian 64-bit value.
    pub fn read_u64(&self, addr: u64) -> Result<u64, DmaError> {
        let mut b = [0; 8];
        self.read(addr, &mut b).map(|()| u64::from_le_bytes(b))
    }

    /// Sends a message-signalled interrupt: a 32-bit write that an interrupt controller takes
    /// when the machine settles.
    pub fn send_message(&self, addr: u64, data: u32) {
        if self.is_enabled() {
            self.messages.send(Message { addr, data });
        }
    }

    fn walk(
        &self,
        addr: u64,
        len: usize,
        write: bool,
        mut piece: impl FnMut(std::ops::Range<usize>, usize),
    ) -> Result<(), DmaError> {
        if !self.is_enabled() {
            return Err(DmaError::Disabled);
        }
        let views = self.views.read().expect("no panic while held").clone();
        let view = if write { &views.write } else { &views.read };
        let mut done = 0;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let Some((target, last)) = view.lookup(at) else {
                return Err(DmaError::NoMemory { addr: at });
            };
            let n = (len - done)
                .min(usize::try_from((last - at).saturating_add(1)).unwrap_or(usize::MAX));
            match target {
                Target::Ram { offset } => piece(done..done + n, offset),
                Target::Dropped { .. } => {}
                Target::Device { .. } => return Err(DmaError::NoMemory { addr: at }),
            }
            done += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_past_the_end_of_memory_says_where_and_reads_ones() {
        let dma = Dma::detached(0x1000);
        dma.write(0xffe, &[1, 2]).unwrap();
        let mut out = [0; 4];
        assert_eq!(dma.read(0xffe, &mut out), Err(DmaError::NoMemory { addr: 0x1000 }));
        assert_eq!(out, [1, 2, 0xff, 0xff]);
    }

    #[test]
    fn without_bus_mastering_nothing_moves() {
        let dma = Dma::detached(0x1000);
        dma.set_enabled(false);
        assert_eq!(dma.write(0, &[1]), Err(DmaError::Disabled));
        dma.set_enabled(true);
        assert_eq!(dma.read_u16(0), Ok(0));
    }
}
