//! Scattered guest memory: what a list of a driver's buffers comes to.

use orrery_system::Dma;
use orrery_system::dma::DmaError;
use serde::{Deserialize, Serialize};

/// Pieces of guest memory: address and length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces(Vec<(u64, u32)>);

impl Pieces {
    /// Adds a piece behind the others.
    pub fn add(&mut self, addr: u64, len: u32) {
        self.0.push((addr, len));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes in all of them.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|p| u64::from(p.1)).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `piece(address, at, n)` for `len` bytes from offset `from`; the number there were.
    fn walk(
        &self,
        from: u64,
        len: usize,
        mut piece: impl FnMut(u64, usize, usize) -> Result<(), DmaError>,
    ) -> Result<usize, DmaError> {
        let (mut skip, mut done) = (from, 0);
        for &(addr, size) in &self.0 {
            let size = u64::from(size);
            if skip >= size {
                skip -= size;
                continue;
            }
            if done >= len {
                break;
            }
            let n = usize::try_from(size - skip).unwrap_or(usize::MAX).min(len - done);
            piece(addr.wrapping_add(skip), done, n)?;
            skip = 0;
            done += n;
        }
        Ok(done)
    }

    /// Reads bytes from offset `from`; the number there were.
    pub fn read(&self, dma: &Dma, from: u64, out: &mut [u8]) -> Result<usize, DmaError> {
        let len = out.len();
        self.walk(from, len, |addr, at, n| dma.read(addr, &mut out[at..at + n]))
    }

    /// Writes bytes from offset `from`; the number that found a place.
    pub fn write(&self, dma: &Dma, from: u64, data: &[u8]) -> Result<usize, DmaError> {
        self.walk(from, data.len(), |addr, at, n| dma.write(addr, &data[at..at + n]))
    }
}
