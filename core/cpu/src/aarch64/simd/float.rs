//! Floating-point arithmetic, scalars and vectors.

use super::*;
use crate::aarch64::state::pstate;
use std::cmp::Ordering;

impl Exec<'_> {
    /// Three registers of one shape.
    pub(super) fn three_same_float(&mut self, scalar: bool) -> Done {
        let (opcode, u, size) = (self.w.bits(11, 5), self.u(), self.size());
        let second = size & 2 != 0;
        let s = self.shape(scalar, 2 + (size & 1))?;
        let f = s.format();
        let (d, n, m) = (self.d(), self.n(), self.m());
        let for_scalars = matches!(
            (opcode, u, second),
            (27, false, false) | (28 | 29, _, _) | (31, false, _) | (26, true, true)
        );
        if scalar && !for_scalars {
            return None;
        }
        let all = |on: bool| if on { s.mask() } else { 0 };
        let fp = &mut self.fp;
        let compare = |fp: &mut Fp, x, y, signal, holds: fn(Ordering) -> bool| {
            all(fp.compare(f, x, y, signal).is_some_and(holds))
        };
        let value = match (opcode, u, second) {
            (24, false, min) => s.zip(n, m, |x, y| fp.max_min(f, x, y, min, true)),
            (24, true, min) => s.pairs(n, m, |x, y| fp.max_min(f, x, y, min, true)),
            (25, false, sub) => s.make(|i| {
                let x = s.get(n, i);
                fp.fma(f, s.get(d, i), if sub { f.negate(x) } else { x }, s.get(m, i))
            }),
            (26, false, false) => s.zip(n, m, |x, y| fp.add(f, x, y)),
            (26, false, true) => s.zip(n, m, |x, y| fp.sub(f, x, y)),
            (26, true, false) => s.pairs(n, m, |x, y| fp.add(f, x, y)),
            (26, true, true) => s.zip(n, m, |x, y| f.abs(fp.sub(f, x, y))),
            (27, false, false) => s.zip(n, m, |x, y| fp.mulx(f, x, y)),
            (27, true, false) => s.zip(n, m, |x, y| fp.mul(f, x, y)),
            (28, false, false) => s.zip(n, m, |x, y| compare(fp, x, y, false, Ordering::is_eq)),
            (28, true, false) => s.zip(n, m, |x, y| compare(fp, x, y, true, Ordering::is_ge)),
            (28, true, true) => s.zip(n, m, |x, y| compare(fp, x, y, true, Ordering::is_gt)),
            (29, true, false) => {
                s.zip(n, m, |x, y| compare(fp, f.abs(x), f.abs(y), true, Ordering::is_ge))
            }
            (29, true, true) => {
                s.zip(n, m, |x, y| compare(fp, f.abs(x), f.abs(y), true, Ordering::is_gt))
            }
            (30, false, min) => s.zip(n, m, |x, y| fp.max_min(f, x, y, min, false)),
            (30, true, min) => s.pairs(n, m, |x, y| fp.max_min(f, x, y, min, false)),
            (31, false, false) => s.zip(n, m, |x, y| fp.recip_step(f, x, y)),
            (31, false, true) => s.zip(n, m, |x, y| fp.rsqrt_step(f, x, y)),
            (31, true, false) => s.zip(n, m, |x, y| fp.div(f, x, y)),
            _ => return None,
        };
        self.set(value)
    }

    /// Pairs in one register to a scalar.
    pub(super) fn pairwise(&mut self) -> Done {
        let (opcode, u, size) = (self.w.bits(12, 5), self.u(), self.size());
        let n = self.n();
        if (opcode, u, size) == (27, false, 3) {
            return self.set(u128::from((n as u64).wrapping_add((n >> 64) as u64)));
        }
        if !u {
            return None;
        }
        let s = Shape::scalar(2 + (size & 1));
        let f = s.format();
        let (x, y, second) = (s.get(n, 0), s.get(n, 1), size & 2 != 0);
        let value = match (opcode, second) {
            (12, min) => self.fp.max_min(f, x, y, min, true),
            (13, false) => self.fp.add(f, x, y),
            (15, min) => self.fp.max_min(f, x, y, min, false),
            _ => return None,
        };
        self.set(value.into())
    }

    /// The format that `ftype` names.
    fn format(&self) -> Option<Format> {
        match self.w.bits(22, 2) {
            0 => Some(fp::SINGLE),
            1 => Some(fp::DOUBLE),
            _ => None,
        }
    }

    const fn scalar_of(&self, f: Format, r: u8) -> u64 {
        self.cpu.v(r) as u64 & u64::MAX >> (64 - f.bits())
    }

    pub(super) fn fp_two(&mut self) -> Done {
        let f = self.format()?;
        let (x, y) = (self.scalar_of(f, self.w.rn()), self.scalar_of(f, self.w.rm()));
        let fp = &mut self.fp;
        let value = match self.w.bits(12, 4) {
            0 => fp.mul(f, x, y),
            1 => fp.div(f, x, y),
            2 => fp.add(f, x, y),
            3 => fp.sub(f, x, y),
            4 => fp.max_min(f, x, y, false, false),
            5 => fp.max_min(f, x, y, true, false),
            6 => fp.max_min(f, x, y, false, true),
            7 => fp.max_min(f, x, y, true, true),
            8 => f.negate(fp.mul(f, x, y)),
            _ => return None,
        };
        self.set(value.into())
    }

    pub(super) fn fp_three(&mut self) -> Done {
        let f = self.format()?;
        let w = self.w;
        let [mut x, y, mut a] = [w.rn(), w.rm(), w.ra()].map(|r| self.scalar_of(f, r));
        // FMADD, FMSUB, FNMADD, FNMSUB.
        if w.bit(21) {
            a = f.negate(a);
        }
        if w.bit(21) != w.bit(15) {
            x = f.negate(x);
        }
        let value = self.fp.fma(f, a, x, y);
        self.set(value.into())
    }

    fn flags(&mut self, order: Option<Ordering>) {
        let nzcv = match order {
            None => pstate::C | pstate::V,
            Some(Ordering::Equal) => pstate::Z | pstate::C,
            Some(Ordering::Less) => pstate::N,
            Some(Ordering::Greater) => pstate::C,
        };
        self.cpu.set_nzcv(nzcv);
    }

    pub(super) fn fp_cmp(&mut self) -> Done {
        let f = self.format()?;
        let opcode2 = self.w.bits(0, 5);
        if opcode2 & 7 != 0 {
            return None;
        }
        let x = self.scalar_of(f, self.w.rn());
        let y = if opcode2 & 8 != 0 { 0 } else { self.scalar_of(f, self.w.rm()) };
        let order = self.fp.compare(f, x, y, opcode2 & 16 != 0);
        self.flags(order);
        Some(())
    }

    pub(super) fn fp_cond_cmp(&mut self) -> Done {
        let f = self.format()?;
        if self.holds(self.w.bits(12, 4)) {
            let (x, y) = (self.scalar_of(f, self.w.rn()), self.scalar_of(f, self.w.rm()));
            let order = self.fp.compare(f, x, y, self.w.bit(4));
            self.flags(order);
        } else {
            self.cpu.set_nzcv(u64::from(self.w.bits(0, 4)) << 28);
        }
        Some(())
    }

    /// Whether a condition holds.
    fn holds(&self, cond: u32) -> bool {
        let p = self.cpu.nzcv();
        let on = |bit| p & bit != 0;
        let (n, z, c, v) = (on(pstate::N), on(pstate::Z), on(pstate::C), on(pstate::V));
        let positive = match cond >> 1 {
            0 => z,
            1 => c,
            2 => n,
            3 => v,
            4 => c && !z,
            5 => n == v,
            6 => n == v && !z,
            _ => return true,
        };
        positive != (cond & 1 != 0)
    }

    /// One source: signs, roots, conversions between formats, rounding.
    pub(super) fn fp_one(&mut self) -> Done {
        let opcode = self.w.bits(15, 6);
        let from = match self.w.bits(22, 2) {
            0 => fp::SINGLE,
            1 => fp::DOUBLE,
            3 => fp::HALF,
            _ => return None,
        };
        let x = self.scalar_of(from, self.w.rn());
        if opcode >> 2 == 1 {
            let to = match opcode & 3 {
                0 => fp::SINGLE,
                1 => fp::DOUBLE,
                3 => fp::HALF,
                _ => return None,
            };
            if to == from {
                return None;
            }
            let mode = self.fp.mode;
            let value = self.fp.convert(from, to, x, mode);
            return self.set(value.into());
        }
        let f = self.format()?;
        let value = match opcode {
            0 => x,
            1 => f.abs(x),
            2 => f.negate(x),
            3 => self.fp.sqrt(f, x),
            8..=12 | 14 | 15 => {
                let mode = match opcode {
                    8..=11 => fp::Mode::of(opcode & 3),
                    12 => fp::Mode::Away,
                    _ => self.fp.mode,
                };
                self.fp.round_int(f, x, mode, opcode == 14)
            }
            _ => return None,
        };
        self.set(value.into())
    }
}
