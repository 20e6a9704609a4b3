//! Integer operations of lanes of one size.

use super::*;

impl Exec<'_> {
    /// Three registers of one shape, vectors or scalars.
    pub(super) fn three_same(&mut self, scalar: bool) -> Done {
        let (opcode, unsigned, size) = (self.w.bits(11, 5), self.u(), self.size());
        if opcode >= 24 {
            return self.three_same_float(scalar);
        }
        if opcode == 3 {
            return if scalar { None } else { self.logic() };
        }
        let allowed = match opcode {
            1 | 5 | 9 | 11 => true,
            6 | 7 | 8 | 10 | 16 | 17 => !scalar || size == 3,
            22 => matches!(size, 1 | 2),
            19 if unsigned => !scalar && size == 0,
            23 => !scalar && !unsigned,
            _ => !scalar && size != 3,
        };
        if !allowed {
            return None;
        }
        let s = self.shape(scalar, size)?;
        let (d, n, m) = (self.d(), self.n(), self.m());
        let num = |x| s.number(x, unsigned);
        let all = |on: bool| if on { s.mask() } else { 0 };
        let larger = |max: bool| {
            move |x: u64, y: u64| {
                if (s.number(x, unsigned) > s.number(y, unsigned)) == max { x } else { y }
            }
        };
        let value = match opcode {
            0 => s.zip(n, m, |x, y| ((num(x) + num(y)) >> 1) as u64),
            1 => s.zip(n, m, |x, y| self.saturate(s, num(x) + num(y), unsigned)),
            2 => s.zip(n, m, |x, y| ((num(x) + num(y) + 1) >> 1) as u64),
            4 => s.zip(n, m, |x, y| ((num(x) - num(y)) >> 1) as u64),
            5 => s.zip(n, m, |x, y| self.saturate(s, num(x) - num(y), unsigned)),
            6 => s.zip(n, m, |x, y| all(num(x) > num(y))),
            7 => s.zip(n, m, |x, y| all(num(x) >= num(y))),
            8..=11 => s.zip(n, m, |x, y| {
                self.shift_lane(s, x, y as i8, unsigned, opcode & 2 != 0, opcode & 1 != 0)
            }),
            12 => s.zip(n, m, larger(true)),
            13 => s.zip(n, m, larger(false)),
            14 => s.zip(n, m, |x, y| (num(x) - num(y)).unsigned_abs() as u64),
            15 => s.make(|i| {
                let (x, y) = (num(s.get(n, i)), num(s.get(m, i)));
                s.get(d, i).wrapping_add((x - y).unsigned_abs() as u64)
            }),
            16 if unsigned => s.zip(n, m, u64::wrapping_sub),
            16 => s.zip(n, m, u64::wrapping_add),
            17 if unsigned => s.zip(n, m, |x, y| all(x == y)),
            17 => s.zip(n, m, |x, y| all(x & y != 0)),
            18 => s.make(|i| {
                let p = s.get(n, i).wrapping_mul(s.get(m, i));
                if unsigned { s.get(d, i).wrapping_sub(p) } else { s.get(d, i).wrapping_add(p) }
            }),
            19 if unsigned => s.zip(n, m, |x, y| crypto::polynomial_product(x, y) as u64),
            19 => s.zip(n, m, u64::wrapping_mul),
            20 => s.pairs(n, m, larger(true)),
            21 => s.pairs(n, m, larger(false)),
            22 => s.zip(n, m, |x, y| self.double_high(s, x, y, unsigned)),
            _ => s.pairs(n, m, u64::wrapping_add),
        };
        self.set(value)
    }

    /// SQDMULH and SQRDMULH.
    pub(super) fn double_high(&mut self, s: Shape, x: u64, y: u64, round: bool) -> u64 {
        let half = if round { 1_i128 << (s.bits() - 1) } else { 0 };
        let p = s.number(x, false) * s.number(y, false) * 2 + half;
        self.saturate(s, p >> s.bits(), false)
    }

    fn logic(&mut self) -> Done {
        let (d, n, m) = (self.d(), self.n(), self.m());
        let value = match (self.u(), self.size()) {
            (false, 0) => n & m,
            (false, 1) => n & !m,
            (false, 2) => n | m,
            (false, _) => n | !m,
            (true, 0) => n ^ m,
            (true, 1) => m ^ (m ^ n) & d,
            (true, 2) => d ^ (d ^ n) & m,
            (true, _) => d ^ (d ^ n) & !m,
        };
        self.set(if self.q() { value } else { value & u128::from(u64::MAX) })
    }

    /// Two registers of one shape, and what widens, narrows or converts.
    pub(super) fn two_misc(&mut self, scalar: bool) -> Done {
        let (opcode, unsigned, size) = (self.w.bits(12, 5), self.u(), self.size());
        if opcode >= 12 && !matches!(opcode, 18..=20) {
            return self.two_misc_float(scalar);
        }
        let allowed = match opcode {
            3 | 7 => true,
            8 | 9 | 11 => !scalar || size == 3,
            10 => !unsigned && (!scalar || size == 3),
            20 => size != 3,
            18 => size != 3 && (!scalar || unsigned),
            19 => !scalar && unsigned && size != 3,
            0 => !scalar && if unsigned { size < 2 } else { size < 3 },
            1 => !scalar && !unsigned && size == 0,
            2 | 4 | 6 => !scalar && size != 3,
            5 => !scalar && if unsigned { size < 2 } else { size == 0 },
            _ => false,
        };
        if !allowed {
            return None;
        }
        if matches!(opcode, 18..=20) {
            return self.narrow_misc(scalar);
        }
        let s = self.shape(scalar, if opcode == 5 { 0 } else { size })?;
        let (d, n) = (self.d(), self.n());
        let all = |on: bool| if on { s.mask() } else { 0 };
        let value = match opcode {
            // REV64, REV32, REV16: lanes turned round in containers.
            0 | 1 => {
                let container = match (opcode, unsigned) {
                    (0, false) => 8,
                    (0, true) => 4,
                    _ => 2,
                };
                let flip = (container >> size) - 1;
                s.make(|i| s.get(n, i ^ flip))
            }
            2 | 6 => {
                let wide = Shape { size: size + 1, lanes: s.lanes / 2 };
                wide.make(|i| {
                    let pair = s.number(s.get(n, i * 2), unsigned)
                        + s.number(s.get(n, i * 2 + 1), unsigned);
                    let before = if opcode == 6 { wide.get(d, i) } else { 0 };
                    before.wrapping_add(pair as u64)
                })
            }
            // SUQADD adds an unsigned number to a signed one, USQADD the other way round.
            3 => s.zip(n, d, |x, y| {
                self.saturate(s, s.number(x, !unsigned) + s.number(y, unsigned), unsigned)
            }),
            4 if unsigned => s.map(n, |x| (x.leading_zeros() - (64 - s.bits())).into()),
            4 => s.map(n, |x| {
                let t = (s.signed(x) ^ s.signed(x) >> 1) as u64 & s.mask();
                u64::from(t.leading_zeros() - (64 - s.bits())) - 1
            }),
            5 => match (unsigned, size) {
                (false, _) => s.map(n, |x| x.count_ones().into()),
                (true, 0) => s.map(n, |x| !x),
                (true, _) => s.map(n, |x| u64::from((x as u8).reverse_bits())),
            },
            7 if unsigned => s.map(n, |x| self.saturate(s, -s.number(x, false), false)),
            7 => s.map(n, |x| self.saturate(s, s.number(x, false).abs(), false)),
            8 => s.map(n, |x| all(if unsigned { s.signed(x) >= 0 } else { s.signed(x) > 0 })),
            9 => s.map(n, |x| all(if unsigned { s.signed(x) <= 0 } else { x == 0 })),
            10 => s.map(n, |x| all(s.signed(x) < 0)),
            _ if unsigned => s.map(n, u64::wrapping_neg),
            _ => s.map(n, |x| s.signed(x).wrapping_abs() as u64),
        };
        self.set(value)
    }

    /// Operations across lanes.
    pub(super) fn across(&mut self) -> Done {
        let (opcode, unsigned, size) = (self.w.bits(12, 5), self.u(), self.size());
        let n = self.n();
        if matches!(opcode, 12 | 15) {
            if !unsigned || !self.q() || size & 1 != 0 {
                return None;
            }
            let s = Shape::vector(2, true);
            let (min, number) = (size & 2 != 0, opcode == 12);
            let mut op = |x, y| self.fp.max_min(fp::SINGLE, x, y, min, number);
            let (low, high) = (op(s.get(n, 0), s.get(n, 1)), op(s.get(n, 2), s.get(n, 3)));
            let value = op(low, high);
            return self.set(value.into());
        }
        if size == 3 || size == 2 && !self.q() {
            return None;
        }
        let s = self.shape(false, size)?;
        let lanes = (0..s.lanes).map(|i| s.number(s.get(n, i), unsigned));
        let (value, wide) = match (opcode, unsigned) {
            (3, _) => (lanes.sum::<i128>(), true),
            (10, _) => (lanes.max()?, false),
            (26, _) => (lanes.min()?, false),
            (27, false) => (lanes.sum(), false),
            _ => return None,
        };
        let s = if wide { Shape::scalar(size + 1) } else { s };
        self.set(u128::from(value as u64 & s.mask()))
    }
}
