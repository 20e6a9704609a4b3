//! Shifts.

use super::*;

impl Exec<'_> {
    /// A lane shifted left by a signed count, or right by a negative one.
    pub(super) fn shift_lane(
        &mut self,
        s: Shape,
        x: u64,
        by: i8,
        unsigned: bool,
        round: bool,
        saturate: bool,
    ) -> u64 {
        let value = s.number(x, unsigned);
        let result = if by >= 0 {
            let by = u32::from(by.unsigned_abs());
            if value == 0 || by >= s.bits() && !saturate {
                0
            } else if by >= s.bits() {
                // Far out of range, whatever the lane.
                value.signum() << 100
            } else {
                value << by
            }
        } else {
            let by = u32::from(by.unsigned_abs()).min(127);
            let half = if round { 1_i128 << (by - 1) } else { 0 };
            // A count beyond the lane leaves the sign, or nothing.
            if by > 100 {
                if round || unsigned { 0 } else { value >> 100 }
            } else {
                (value + half) >> by
            }
        };
        if saturate { self.saturate(s, result, unsigned) } else { result as u64 }
    }

    /// Shifts by an immediate, vectors or scalars.
    pub(super) fn shift_imm(&mut self, scalar: bool) -> Done {
        let w = self.w;
        let (immh, opcode, u) = (w.bits(19, 4), w.bits(11, 5), w.bit(29));
        let imm = w.bits(16, 7);
        if immh == 0 {
            return None;
        }
        let size = 31 - immh.leading_zeros();
        let bits = 8 << size;
        let (right, left) = (2 * bits - imm, imm - bits);
        match opcode {
            16..=19 => {
                // SHRN, RSHRN have no scalar form.
                if size == 3 || scalar && opcode < 18 && !u {
                    return None;
                }
                return self.shift_narrow(scalar, size, right);
            }
            20 => return if scalar || size == 3 { None } else { self.shift_long(size, left) },
            28 | 31 => {
                if size < 2 {
                    return None;
                }
                return self.fixed_point(scalar, size, right, opcode == 31);
            }
            _ => {}
        }
        let any_size = matches!((opcode, u), (12, true) | (14, _));
        if scalar && size != 3 && !any_size {
            return None;
        }
        let s = self.shape(scalar, size)?;
        let (d, n) = (self.d(), self.n());
        let shifted = |x: u64, round: bool| {
            let half = if round { 1_i128 << (right - 1) } else { 0 };
            ((s.number(x, u) + half) >> right) as u64
        };
        let value = match (opcode, u) {
            (0, _) => s.map(n, |x| shifted(x, false)),
            (2, _) => s.zip(n, d, |x, y| y.wrapping_add(shifted(x, false))),
            (4, _) => s.map(n, |x| shifted(x, true)),
            (6, _) => s.zip(n, d, |x, y| y.wrapping_add(shifted(x, true))),
            (8, true) => s.zip(n, d, |x, y| {
                let mask = if right == 64 { 0 } else { s.mask() >> right };
                y & !mask | if right == 64 { 0 } else { x >> right }
            }),
            (10, false) => s.map(n, |x| x << left),
            (10, true) => s.zip(n, d, |x, y| x << left | y & ((1 << left) - 1)),
            (12, true) => s.map(n, |x| self.saturate(s, s.number(x, false) << left, true)),
            (14, _) => s.map(n, |x| self.saturate(s, s.number(x, u) << left, u)),
            _ => return None,
        };
        self.set(value)
    }
}
