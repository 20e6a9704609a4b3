//! Operands: special values, values close to each other, values with few bits, anything.

use orrery_cpu::float::F80;

/// xorshift64*, seeded.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A significand: random, or few bits at either end, or runs of ones.
    fn fraction(&mut self) -> u64 {
        let r = self.next();
        match self.below(6) {
            0 => 0,
            1 => 1 << self.below(64),
            2 => u64::MAX << self.below(64),
            3 => u64::MAX >> self.below(64),
            4 => r & self.next() & self.next() & self.next(),
            _ => r,
        }
    }

    pub(crate) fn f80(&mut self) -> F80 {
        let sign = (self.next() as u16) & 0x8000;
        let fraction = self.fraction();
        let (exponent, sig) = match self.below(16) {
            0 => (0, 0),
            1 => (0, fraction & (u64::MAX >> 1)),
            2 => (0, fraction | 1 << 63),
            3 => (0x7FFF, 1 << 63),
            4 => (0x7FFF, fraction | 3 << 62),
            5 => (0x7FFF, (fraction | 1 << 63) & !(1 << 62)),
            6 => ((self.next() & 0x7FFF) as u16, fraction),
            7 => (0x7FFE - self.below(70) as u16, fraction | 1 << 63),
            8 => (1 + self.below(70) as u16, fraction | 1 << 63),
            9 => ((self.next() & 0x7FFF) as u16, fraction | 1 << 63),
            10 => {
                // An integer.
                let value = self.next() >> self.below(64) | 1;
                let shift = value.leading_zeros();
                (0x3FFF + 63 - shift as u16, value << shift)
            }
            // Near the edges of the shorter formats.
            11 => (0x3FFF - 1022 - self.below(70) as u16, fraction | 1 << 63),
            12 => (0x3FFF - 126 - self.below(40) as u16, fraction | 1 << 63),
            13 => (
                self.pick(&[0x3FFF + 127, 0x3FFF + 128, 0x3FFF + 1023, 0x3FFF + 1024]),
                fraction | 1 << 63,
            ),
            _ => (0x3FFF - 40 + self.below(80) as u16, fraction | 1 << 63),
        };
        F80 { head: sign | exponent, sig }
    }

    pub(crate) fn f64(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        let fraction = self.fraction() >> 12;
        let exponent = match self.below(12) {
            0 => return sign,
            1 | 2 => 0,
            3 => return sign | 0x7FF << 52,
            4 => 0x7FF,
            5 => 1 + self.below(60),
            6 => 0x7FE - self.below(60),
            7 => self.next() & 0x7FF,
            8 => return f64::to_bits(((self.next() as i64) >> self.below(64)) as f64),
            9 => 0x3FF - 126 - 30 + self.below(60),
            _ => 0x3FF - 30 + self.below(70),
        };
        sign | exponent << 52 | fraction
    }

    pub(crate) fn f32(&mut self) -> u32 {
        let sign = self.next() as u32 & 1 << 31;
        let fraction = (self.fraction() >> 41) as u32;
        let exponent = match self.below(11) {
            0 => return sign,
            1 | 2 => 0,
            3 => return sign | 0xFF << 23,
            4 => 0xFF,
            5 => 1 + self.below(30) as u32,
            6 => 0xFE - self.below(30) as u32,
            7 => self.next() as u32 & 0xFF,
            _ => 0x7F - 20 + self.below(55) as u32,
        };
        sign | exponent << 23 | fraction
    }

    pub(crate) fn integer(&mut self) -> u64 {
        let r = ((self.next() as i64) >> self.below(64)) as u64;
        match self.below(4) {
            0 => self.pick(&[
                0,
                1,
                u64::MAX,
                1 << 63,
                1 << 31,
                1 << 15,
                0x7FFF,
                0x7FFF_FFFF,
                u64::MAX >> 1,
            ]),
            _ => r,
        }
    }

    pub(crate) fn u128(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}
