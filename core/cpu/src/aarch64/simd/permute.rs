//! Tables, permutations, extraction.

use super::*;

impl Exec<'_> {
    /// TBL and TBX.
    pub(super) fn table(&mut self) -> Done {
        let (len, keep) = (self.w.bits(13, 2) + 1, self.w.bit(12));
        let s = Shape::vector(0, self.q());
        let first = self.w.rn();
        let tables: Vec<u128> = (0..len).map(|i| self.cpu.v((first + i as u8) & 31)).collect();
        let (d, m) = (self.d(), self.m());
        let value = s.make(|i| {
            let index = s.get(m, i);
            match tables.get((index / 16) as usize) {
                Some(&t) => s.get(t, (index % 16) as u32),
                None if keep => s.get(d, i),
                None => 0,
            }
        });
        self.set(value)
    }

    /// UZP, TRN, ZIP.
    pub(super) fn permute(&mut self) -> Done {
        let s = self.shape(false, self.size())?;
        let (n, m, half) = (self.n(), self.m(), s.lanes / 2);
        let kind = self.w.bits(12, 3);
        let second = kind >> 2;
        let either = |i: u32| if i < s.lanes { s.get(n, i) } else { s.get(m, i - s.lanes) };
        let value = match kind & 3 {
            1 => s.make(|i| either(i * 2 + second)),
            2 => s.make(|i| s.get(if i & 1 == 0 { n } else { m }, (i & !1) + second)),
            3 => s.make(|i| s.get(if i & 1 == 0 { n } else { m }, i / 2 + second * half)),
            _ => return None,
        };
        self.set(value)
    }

    /// EXT.
    pub(super) fn extract(&mut self) -> Done {
        let at = self.w.bits(11, 4);
        if !self.q() && at >= 8 {
            return None;
        }
        let s = Shape::vector(0, self.q());
        let (n, m) = (self.n(), self.m());
        let value = s.make(|i| {
            let i = i + at;
            if i < s.lanes { s.get(n, i) } else { s.get(m, i - s.lanes) }
        });
        self.set(value)
    }
}
