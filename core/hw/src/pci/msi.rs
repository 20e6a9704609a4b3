//! Message-signalled interrupts: the MSI and MSI-X capabilities.

use super::config::{ConfigState, Function};
use orrery_system::{BusError, BusResult};

/// Bytes of a table entry: address, data, control.
const ENTRY: usize = 16;
/// Where the pending bits begin in the MSI-X bank.
pub(super) const PENDING: u64 = 0x800;

/// Where a function's MSI and MSI-X capabilities are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caps {
    /// Offset of the MSI capability, if not zero.
    pub(super) msi: usize,
    /// Offset of the MSI-X capability, if not zero.
    pub(super) msix: usize,
    /// Entries of the MSI-X table.
    pub(super) vectors: u16,
}

impl Function {
    /// Whether software switched MSI on: INTx is silent then.
    pub fn msi_enabled(&self, s: &ConfigState) -> bool {
        self.msi.msi != 0 && s.u16(self.msi.msi + 2) & 1 != 0
    }

    /// Whether software switched MSI-X on: INTx is silent then.
    pub fn msix_enabled(&self, s: &ConfigState) -> bool {
        self.msi.msix != 0 && s.u16(self.msi.msix + 2) & 0x8000 != 0
    }

    fn msix_masked(&self, s: &ConfigState, vector: usize) -> bool {
        s.u16(self.msi.msix + 2) & 0x4000 != 0 || s.msix_table[vector * ENTRY + 12] & 1 != 0
    }

    /// Signals message `vector`: sends it, or leaves it pending while masked. Does nothing if
    /// neither MSI nor MSI-X is on.
    pub fn signal(&self, s: &mut ConfigState, vector: u16) {
        if self.msix_enabled(s) {
            if vector < self.msi.vectors {
                s.msix_pending[usize::from(vector / 64)] |= 1 << (vector % 64);
                self.send_pending(s);
            }
        } else if self.msi_enabled(s) {
            let control = s.u16(self.msi.msi + 2);
            let granted = 1 << (control >> 4 & 7);
            let addr =
                u64::from(s.u32(self.msi.msi + 4)) | u64::from(s.u32(self.msi.msi + 8)) << 32;
            let data = u32::from(s.u16(self.msi.msi + 12));
            self.dma()
                .send_message(addr, data & !(granted - 1) | u32::from(vector) & (granted - 1));
        }
    }

    /// Sends the MSI-X messages that are pending and not masked.
    pub(super) fn send_pending(&self, s: &mut ConfigState) {
        if !self.msix_enabled(s) || s.msix_pending.iter().all(|&w| w == 0) {
            return;
        }
        for vector in 0..usize::from(self.msi.vectors) {
            let (word, bit) = (vector / 64, 1 << (vector % 64));
            if s.msix_pending[word] & bit != 0 && !self.msix_masked(s, vector) {
                s.msix_pending[word] &= !bit;
                let entry = &s.msix_table[vector * ENTRY..][..ENTRY];
                let word = |i: usize| {
                    u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]])
                };
                self.dma().send_message(u64::from(word(0)) | u64::from(word(4)) << 32, word(8));
            }
        }
    }

    /// Reads the MSI-X bank.
    pub(super) fn msix_read(&self, s: &ConfigState, offset: u64, width: u8) -> BusResult<u64> {
        let byte = |at: u64| -> u64 {
            let pending = at.checked_sub(PENDING).and_then(|at| {
                Some(s.msix_pending.get(usize::try_from(at / 8).ok()?)? >> (8 * (at % 8)) & 0xff)
            });
            let table = || usize::try_from(at).ok().and_then(|i| s.msix_table.get(i)).copied();
            pending.or_else(|| table().map(u64::from)).unwrap_or(0)
        };
        if offset > 0x1_0000 {
            return Err(BusError::NoRegister);
        }
        Ok((0..u64::from(width)).fold(0, |v, i| v | byte(offset + i) << (8 * i)))
    }

    /// Writes the MSI-X bank: table entries only.
    pub(super) fn msix_write(
        &self,
        s: &mut ConfigState,
        offset: u64,
        width: u8,
        value: u64,
    ) -> BusResult<()> {
        let Ok(offset) = usize::try_from(offset) else { return Err(BusError::NoRegister) };
        for i in 0..usize::from(width) {
            if let Some(b) = offset.checked_add(i).and_then(|at| s.msix_table.get_mut(at)) {
                *b = (value >> (8 * i)) as u8;
            }
        }
        Ok(())
    }
}
