//! Display memory as the CPU sees it at A0000–BFFFF: four planes of 64 KiB behind latches.
//!
//! Byte `o` of plane `p` is display memory byte `4 * o + p`. IBM PS/2 Hardware Interface
//! Technical Reference, "Video Subsystem: graphics controller".

use super::State;

/// The bytes of one offset in the four planes, plane 0 in the low byte.
type Planes = u32;

/// Spreads one bit a plane to one byte a plane.
const fn spread(mask: u8) -> Planes {
    let mut out = 0;
    let mut p = 0;
    while p < 4 {
        if mask >> p & 1 != 0 {
            out |= 0xff << (8 * p);
        }
        p += 1;
    }
    out
}

const fn every(byte: u8) -> Planes {
    byte as u32 * 0x0101_0101
}

impl State {
    /// Where in display memory an access to window offset `at` (from A0000) lies, if the window
    /// covers it.
    pub(super) fn window(&self, at: u64) -> Option<usize> {
        if !self.misc.ram_enable() {
            return None;
        }
        let (base, len) = match self.gc[6] >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let rel = at.checked_sub(base).filter(|&r| r < len)?;
        Some(rel as usize & 0xffff)
    }

    fn chain4(&self) -> bool {
        self.seq[4] & 8 != 0
    }

    /// Reads a byte through the read pipeline. `load` fetches the four planes at an offset.
    pub(super) fn read_planar(&mut self, a: usize, load: impl Fn(usize) -> Planes) -> u8 {
        let odd_even = self.gc[5] & 0x10 != 0;
        let (o, plane) = if self.chain4() {
            (a & !3, a & 3)
        } else if odd_even {
            (a & !1, usize::from(self.gc[4] & 2) | a & 1)
        } else {
            (a, usize::from(self.gc[4] & 3))
        };
        self.latch = load(o);
        if self.gc[5] & 8 == 0 {
            return (self.latch >> (8 * plane)) as u8;
        }
        // Read mode 1: a bit is one where the colour matches in all planes that matter.
        let differs = (self.latch ^ spread(self.gc[2])) & spread(self.gc[7]);
        !(differs | differs >> 8 | differs >> 16 | differs >> 24) as u8
    }

    /// Writes a byte through the write pipeline: the offset, the new bytes of the four planes and
    /// which of their bits change.
    pub(super) fn write_planar(&self, a: usize, v: u8) -> (usize, Planes, Planes) {
        let (o, planes) = if self.chain4() {
            (a & !3, self.seq[2] & 1 << (a & 3))
        } else if self.seq[4] & 4 == 0 {
            (a & !1, self.seq[2] & if a & 1 == 0 { 0b0101 } else { 0b1010 })
        } else {
            (a, self.seq[2])
        };
        let rotated = v.rotate_right(u32::from(self.gc[3] & 7));
        let mut bits = every(self.gc[8]);
        let value = match self.gc[5] & 3 {
            0 => {
                let set = spread(self.gc[1]);
                self.function(every(rotated) & !set | spread(self.gc[0]) & set)
            }
            1 => {
                bits = u32::MAX;
                self.latch
            }
            2 => self.function(spread(v & 0x0f)),
            _ => {
                bits &= every(rotated);
                self.function(spread(self.gc[0]))
            }
        };
        (o, value & bits | self.latch & !bits, spread(planes))
    }

    fn function(&self, v: Planes) -> Planes {
        match self.gc[3] >> 3 & 3 {
            0 => v,
            1 => v & self.latch,
            2 => v | self.latch,
            _ => v ^ self.latch,
        }
    }
}
