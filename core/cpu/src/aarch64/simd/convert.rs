//! Conversions, and the other floating-point operations of one register.

use super::*;
use crate::aarch64::fp::{Mode, recip_table, rsqrt_table};
use std::cmp::Ordering;

impl Exec<'_> {
    /// Two registers: comparisons with zero, rounding, conversions, estimates.
    pub(super) fn two_misc_float(&mut self, scalar: bool) -> Done {
        let (opcode, u, size) = (self.w.bits(12, 5), self.u(), self.size());
        let second = size & 2 != 0;
        if matches!(opcode, 22 | 23) {
            return self.convert_format(scalar);
        }
        let for_scalars = match opcode {
            12..=14 | 26 | 27 | 29 => true,
            28 => !second,
            31 => !u,
            _ => false,
        };
        if scalar && !for_scalars || !scalar && (opcode, u) == (31, false) {
            return None;
        }
        let s = self.shape(scalar, 2 + (size & 1))?;
        let f = s.format();
        let n = self.n();
        let fp = &mut self.fp;
        let all = |on: bool| if on { s.mask() } else { 0 };
        let round = |fp: &mut Fp, mode, exact| s.map(n, |x| fp.round_int(f, x, mode, exact));
        let to_int =
            |fp: &mut Fp, mode| s.map(n, |x| fp.float_to_int(f, x, mode, (s.bits(), !u, 0)));
        let current = fp.mode;
        let value = match (opcode, second, u) {
            (12..=14, true, _) => {
                let holds: fn(Ordering) -> bool = match (opcode, u) {
                    (12, false) => Ordering::is_gt,
                    (12, true) => Ordering::is_ge,
                    (13, false) => Ordering::is_eq,
                    (13, true) => Ordering::is_le,
                    (14, false) => Ordering::is_lt,
                    _ => return None,
                };
                let signal = (opcode, u) != (13, false);
                s.map(n, |x| all(fp.compare(f, x, 0, signal).is_some_and(holds)))
            }
            (15, true, false) => s.map(n, |x| f.abs(x)),
            (15, true, true) => s.map(n, |x| f.negate(x)),
            (24, false, false) => round(fp, Mode::Even, false),
            (24, false, true) => round(fp, Mode::Away, false),
            (24, true, false) => round(fp, Mode::Up, false),
            (25, false, false) => round(fp, Mode::Down, false),
            (25, false, true) => round(fp, current, true),
            (25, true, false) => round(fp, Mode::Zero, false),
            (25, true, true) => round(fp, current, false),
            (26, false, _) => to_int(fp, Mode::Even),
            (26, true, _) => to_int(fp, Mode::Up),
            (27, false, _) => to_int(fp, Mode::Down),
            (27, true, _) => to_int(fp, Mode::Zero),
            (28, false, _) => to_int(fp, Mode::Away),
            (28, true, false) if size == 2 => s.map(n, |x| recip_integer(x as u32).into()),
            (28, true, true) if size == 2 => s.map(n, |x| rsqrt_integer(x as u32).into()),
            (29, false, _) => s.map(n, |x| fp.int_to_float(f, s.number(x, u), 0)),
            (29, true, false) => s.map(n, |x| fp.recip_estimate(f, x)),
            (29, true, true) => s.map(n, |x| fp.rsqrt_estimate(f, x)),
            (31, true, true) => s.map(n, |x| fp.sqrt(f, x)),
            (31, true, false) => s.map(n, |x| fp.recip_exponent(f, x)),
            _ => return None,
        };
        self.set(value)
    }

    /// FCVTN, FCVTXN, FCVTL.
    fn convert_format(&mut self, scalar: bool) -> Done {
        let (opcode, u, size, q) = (self.w.bits(12, 5), self.u(), self.size(), self.q());
        if size & 2 != 0 || scalar && (opcode, u) != (22, true) || u && (opcode != 22 || size != 1)
        {
            return None;
        }
        let (small, large) =
            if size == 0 { (fp::HALF, fp::SINGLE) } else { (fp::SINGLE, fp::DOUBLE) };
        let lanes = if scalar { 1 } else { 4 >> size };
        let (s, wide) = (Shape { size: 1 + size, lanes }, Shape { size: 2 + size, lanes });
        let n = self.n();
        let mode = if u { Mode::Odd } else { self.fp.mode };
        if opcode == 23 {
            let n = if q { n >> 64 } else { n };
            let value = wide.make(|i| self.fp.convert(small, large, s.get(n, i), mode));
            return self.set(value);
        }
        let value = s.make(|i| self.fp.convert(large, small, wide.get(n, i), mode));
        if q && !scalar {
            let d = self.d();
            return self.set(d & u128::from(u64::MAX) | value << 64);
        }
        self.set(value)
    }

    /// Fixed point to floating point and back, in vector registers.
    pub(super) fn fixed_point(
        &mut self,
        scalar: bool,
        size: u32,
        fbits: u32,
        to_int: bool,
    ) -> Done {
        let s = self.shape(scalar, size)?;
        let (f, n, u) = (s.format(), self.n(), self.u());
        let fp = &mut self.fp;
        let value = s.map(n, |x| {
            if to_int {
                fp.float_to_int(f, x, Mode::Zero, (s.bits(), !u, fbits))
            } else {
                fp.int_to_float(f, s.number(x, u), fbits)
            }
        });
        self.set(value)
    }

    /// The format of a conversion with a general register, and that register's width.
    fn general(&self) -> Option<(Format, Shape)> {
        let f = match self.w.bits(22, 2) {
            0 => fp::SINGLE,
            1 => fp::DOUBLE,
            _ => return None,
        };
        Some((f, Shape::scalar(if self.w.bit(31) { 3 } else { 2 })))
    }

    fn general_to_float(&mut self, f: Format, s: Shape, unsigned: bool, fbits: u32) -> Done {
        let n = self.w.rn();
        let x = if n == 31 { 0 } else { self.cpu.x(n) & s.mask() };
        let value = self.fp.int_to_float(f, s.number(x, unsigned), fbits);
        self.set(value.into())
    }

    fn float_to_general(&mut self, f: Format, mode: Mode, kind: (u32, bool, u32)) -> Done {
        let x = self.n() as u64 & u64::MAX >> (64 - f.bits());
        let value = self.fp.float_to_int(f, x, mode, kind);
        if self.w.rd() != 31 {
            self.cpu.set_x(self.w.rd(), value);
        }
        Some(())
    }

    /// Conversions between fixed point in general registers and floating point.
    pub(super) fn fp_fixed(&mut self) -> Done {
        let (f, s) = self.general()?;
        let fbits = 64 - self.w.bits(10, 6);
        if fbits > s.bits() {
            return None;
        }
        match (self.w.bits(19, 2), self.w.bits(16, 3)) {
            (0, kind @ (2 | 3)) => self.general_to_float(f, s, kind == 3, fbits),
            (3, kind @ (0 | 1)) => {
                self.float_to_general(f, Mode::Zero, (s.bits(), kind == 0, fbits))
            }
            _ => None,
        }
    }

    /// Conversions between integers in general registers and floating point. Moves are lifted.
    pub(super) fn fp_int(&mut self) -> Done {
        let (f, s) = self.general()?;
        match (self.w.bits(19, 2), self.w.bits(16, 3)) {
            (0, kind @ (2 | 3)) => self.general_to_float(f, s, kind == 3, 0),
            (mode, kind @ (0 | 1)) => {
                self.float_to_general(f, Mode::of(mode), (s.bits(), kind == 0, 0))
            }
            (0, kind @ (4 | 5)) => self.float_to_general(f, Mode::Away, (s.bits(), kind == 4, 0)),
            _ => None,
        }
    }
}

/// URECPE.
const fn recip_integer(x: u32) -> u32 {
    if x >> 31 == 0 { u32::MAX } else { recip_table(x >> 23) << 23 }
}

/// URSQRTE.
const fn rsqrt_integer(x: u32) -> u32 {
    if x >> 30 == 0 { u32::MAX } else { rsqrt_table(x >> 23) << 23 }
}
