//! Operations whose result has wider or narrower lanes, and multiplications by an element.

use super::*;

impl Exec<'_> {
    /// The half of a source that the second form of an instruction works on.
    fn half(&self, v: u128, scalar: bool) -> u128 {
        if self.q() && !scalar { v >> 64 } else { v }
    }

    /// Puts a narrow result into the half that the instruction's form names.
    fn set_half(&mut self, value: u128, scalar: bool) -> Done {
        let low = u128::from(u64::MAX);
        if self.q() && !scalar {
            let d = self.d();
            self.set(d & low | value << 64)
        } else {
            self.set(value & low)
        }
    }

    /// XTN, SQXTUN, SQXTN, UQXTN, SHLL.
    pub(super) fn narrow_misc(&mut self, scalar: bool) -> Done {
        let (opcode, u, size) = (self.w.bits(12, 5), self.u(), self.size());
        let n = self.n();
        let lanes = if scalar { 1 } else { 8 >> size };
        let (s, wide) = (Shape { size, lanes }, Shape { size: size + 1, lanes });
        if opcode == 19 {
            let n = self.half(n, false);
            return self.set(wide.make(|i| s.get(n, i) << s.bits()));
        }
        let value = s.make(|i| {
            let x = wide.get(n, i);
            match (opcode, u) {
                (18, false) => x,
                (18, true) => self.saturate(s, wide.number(x, false), true),
                _ => self.saturate(s, wide.number(x, u), u),
            }
        });
        self.set_half(value, scalar)
    }

    /// `2 * x * y` added to or taken from `acc` with saturation (`None`: neither).
    fn doubled(&mut self, wide: Shape, acc: Option<(i128, bool)>, p: i128) -> u64 {
        let p = self.saturate(wide, p * 2, false);
        let p = wide.number(p, false);
        match acc {
            None => p as u64,
            Some((acc, true)) => self.saturate(wide, acc - p, false),
            Some((acc, false)) => self.saturate(wide, acc + p, false),
        }
    }

    /// Three registers of different shapes.
    pub(super) fn three_diff(&mut self, scalar: bool) -> Done {
        let (opcode, unsigned, size) = (self.w.bits(12, 4), self.u(), self.size());
        let doubling = matches!(opcode, 9 | 11 | 13);
        let allowed = match opcode {
            9 | 11 | 13 => !unsigned && matches!(size, 1 | 2),
            14 => !scalar && !unsigned && matches!(size, 0 | 3),
            15 => false,
            _ => !scalar && size != 3,
        };
        if !allowed {
            return None;
        }
        let (d, n, m) = (self.d(), self.n(), self.m());
        if opcode == 14 && size == 3 {
            if !self.cpu.model.features.crypto {
                return None;
            }
            let (n, m) = (self.half(n, false) as u64, self.half(m, false) as u64);
            return self.set(crypto::polynomial_product(n, m));
        }
        let lanes = if scalar { 1 } else { 8 >> size };
        let (s, wide) = (Shape { size, lanes }, Shape { size: size + 1, lanes });
        if matches!(opcode, 4 | 6) {
            // ADDHN, SUBHN; U rounds.
            let half = if unsigned { 1 << (s.bits() - 1) } else { 0 };
            let value = s.make(|i| {
                let (x, y) = (wide.get(n, i), wide.get(m, i));
                let r = if opcode == 4 { x.wrapping_add(y) } else { x.wrapping_sub(y) };
                r.wrapping_add(half) >> s.bits()
            });
            return self.set_half(value, false);
        }
        let (hn, hm) = (self.half(n, scalar), self.half(m, scalar));
        let value = wide.make(|i| {
            let (x, y) = (s.number(s.get(hn, i), unsigned), s.number(s.get(hm, i), unsigned));
            let (w, acc) = (wide.number(wide.get(n, i), unsigned), wide.get(d, i));
            let signed_acc = wide.number(acc, false);
            if doubling {
                let into = (opcode != 13).then_some((signed_acc, opcode == 11));
                return self.doubled(wide, into, x * y);
            }
            match opcode {
                0 => (x + y) as u64,
                1 => (w + y) as u64,
                2 => (x - y) as u64,
                3 => (w - y) as u64,
                5 => acc.wrapping_add((x - y).unsigned_abs() as u64),
                7 => (x - y).unsigned_abs() as u64,
                8 => acc.wrapping_add((x * y) as u64),
                10 => acc.wrapping_sub((x * y) as u64),
                12 => (x * y) as u64,
                _ => crypto::polynomial_product(s.get(hn, i), s.get(hm, i)) as u64,
            }
        });
        self.set(value)
    }

    /// A vector or scalar by an element of a vector.
    pub(super) fn indexed(&mut self, scalar: bool) -> Done {
        let w = self.w;
        let (opcode, u, size) = (w.bits(12, 4), w.bit(29), w.bits(22, 2));
        let (h, l, m) = (w.bits(11, 1), w.bits(21, 1), w.bits(20, 1));
        let float = matches!((opcode, u), (1 | 5, false) | (9, _));
        let (index, register) = match size {
            1 if !float => (h << 2 | l << 1 | m, w.bits(16, 4) as u8),
            2 => (h << 1 | l, w.rm()),
            3 if float && l == 0 => (h, w.rm()),
            _ => return None,
        };
        let allowed = match (opcode, u) {
            (1 | 5, false) | (9, _) => true,
            (0 | 4, true) | (8, false) => !scalar,
            (2 | 6 | 10, _) => !scalar,
            (3 | 7 | 11 | 12 | 13, false) => true,
            _ => false,
        };
        if !allowed {
            return None;
        }
        let element = Shape::scalar(size).get(self.cpu.v(register), index);
        let (d, n) = (self.d(), self.n());
        if float {
            let s = self.shape(scalar, size)?;
            let f = s.format();
            let value = s.make(|i| {
                let (x, acc) = (s.get(n, i), s.get(d, i));
                match (opcode, u) {
                    (1, _) => self.fp.fma(f, acc, x, element),
                    (5, _) => self.fp.fma(f, acc, f.negate(x), element),
                    (_, false) => self.fp.mul(f, x, element),
                    (_, true) => self.fp.mulx(f, x, element),
                }
            });
            return self.set(value);
        }
        if matches!(opcode, 0 | 4 | 8 | 12 | 13) {
            let s = self.shape(scalar, size)?;
            let value = s.make(|i| {
                let (x, acc) = (s.get(n, i), s.get(d, i));
                let p = x.wrapping_mul(element);
                match opcode {
                    0 => acc.wrapping_add(p),
                    4 => acc.wrapping_sub(p),
                    8 => p,
                    _ => self.double_high(s, x, element, opcode == 13),
                }
            });
            return self.set(value);
        }
        let lanes = if scalar { 1 } else { 8 >> size };
        let (s, wide) = (Shape { size, lanes }, Shape { size: size + 1, lanes });
        let n = self.half(n, scalar);
        let value = wide.make(|i| {
            let acc = wide.get(d, i);
            let p = s.number(s.get(n, i), u) * s.number(element, u);
            match opcode {
                2 => acc.wrapping_add(p as u64),
                6 => acc.wrapping_sub(p as u64),
                10 => p as u64,
                11 => self.doubled(wide, None, p),
                _ => {
                    let acc = wide.number(acc, false);
                    self.doubled(wide, Some((acc, opcode == 7)), p)
                }
            }
        });
        self.set(value)
    }

    /// Narrowing shifts right by an immediate.
    pub(super) fn shift_narrow(&mut self, scalar: bool, size: u32, shift: u32) -> Done {
        let (opcode, u) = (self.w.bits(11, 5), self.u());
        let n = self.n();
        let lanes = if scalar { 1 } else { 8 >> size };
        let (s, wide) = (Shape { size, lanes }, Shape { size: size + 1, lanes });
        let half = if opcode & 1 != 0 { 1_i128 << (shift - 1) } else { 0 };
        let value = s.make(|i| {
            let x = wide.get(n, i);
            let shifted = |unsigned| (wide.number(x, unsigned) + half) >> shift;
            match (opcode, u) {
                (16 | 17, false) => shifted(true) as u64,
                (16 | 17, true) => self.saturate(s, shifted(false), true),
                _ => self.saturate(s, shifted(u), u),
            }
        });
        self.set_half(value, scalar)
    }

    /// SSHLL and USHLL.
    pub(super) fn shift_long(&mut self, size: u32, shift: u32) -> Done {
        let lanes = 8 >> size;
        let (s, wide) = (Shape { size, lanes }, Shape { size: size + 1, lanes });
        let (n, u) = (self.half(self.n(), false), self.u());
        self.set(wide.make(|i| (s.number(s.get(n, i), u) << shift) as u64))
    }
}
