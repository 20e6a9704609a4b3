//! Floating point as the architecture defines it (DDI 0487, shared/functions/float): half, single and double precision,
//! default NaNs, flush to zero, tininess before rounding.

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Bits of the exponent.
    exp: u32,
    /// Bits of the fraction.
    frac: u32,
}

pub(super) const HALF: Format = Format { exp: 5, frac: 10 };
pub(super) const SINGLE: Format = Format { exp: 8, frac: 23 };
pub(super) const DOUBLE: Format = Format { exp: 11, frac: 52 };

impl Format {
    /// All its bits.
    pub(super) const fn bits(self) -> u32 {
        self.exp + self.frac + 1
    }
    const fn sign_bit(self) -> u64 {
        1 << (self.exp + self.frac)
    }
    const fn bias(self) -> i32 {
        (1 << (self.exp - 1)) - 1
    }
    const fn exp_max(self) -> u64 {
        (1 << self.exp) - 1
    }
    const fn infinity(self, sign: bool) -> u64 {
        self.exp_max() << self.frac | if sign { self.sign_bit() } else { 0 }
    }
    const fn zero(self, sign: bool) -> u64 {
        if sign { self.sign_bit() } else { 0 }
    }
    const fn default_nan(self) -> u64 {
        self.infinity(false) | 1 << (self.frac - 1)
    }
    const fn max_normal(self, sign: bool) -> u64 {
        self.infinity(sign) - 1
    }
    /// `x` negated.
    pub(super) const fn negate(self, x: u64) -> u64 {
        x ^ self.sign_bit()
    }
    /// `x` without its sign.
    pub(super) const fn abs(self, x: u64) -> u64 {
        x & (self.sign_bit() - 1)
    }
    /// The value of the 8-bit immediate of FMOV.
    pub(super) const fn immediate(self, imm: u32) -> u64 {
        let imm = imm as u64;
        let b = imm >> 6 & 1;
        let repeated = if b != 0 { (1 << (self.exp - 3)) - 1 } else { 0 };
        let exp = (b ^ 1) << (self.exp - 1) | repeated << 2 | imm >> 4 & 3;
        (imm >> 7) << (self.exp + self.frac) | exp << self.frac | (imm & 15) << (self.frac - 4)
    }
}

/// Rounding modes: the first four as FPCR has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Even,
    Up,
    Down,
    Zero,
    Away,
    Odd,
}

impl Mode {
    pub(super) const fn of(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Even,
            1 => Self::Up,
            2 => Self::Down,
            _ => Self::Zero,
        }
    }
}

/// Bits of FPSR.
pub(super) mod flag {
    pub(in crate::aarch64) const INVALID: u64 = 1;
    pub(in crate::aarch64) const ZERO_DIVIDE: u64 = 2;
    pub(in crate::aarch64) const OVERFLOW: u64 = 4;
    pub(in crate::aarch64) const UNDERFLOW: u64 = 8;
    pub(in crate::aarch64) const INEXACT: u64 = 16;
    pub(in crate::aarch64) const DENORMAL: u64 = 128;
    pub(in crate::aarch64) const SATURATED: u64 = 1 << 27;
}

/// What operations obey and what they raise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fp {
    pub(super) mode: Mode,
    default_nan: bool,
    flush: bool,
    /// FPSR.
    pub(super) status: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zero,
    Finite,
    Infinity,
    Quiet,
    Signalling,
}

/// A value taken apart: `sig / 2^63 * 2^exp`, with the top bit of `sig` set where it is finite.
#[derive(Clone, Copy, Debug)]
struct Num {
    sign: bool,
    kind: Kind,
    exp: i32,
    sig: u64,
}

impl Num {
    const fn is_nan(&self) -> bool {
        matches!(self.kind, Kind::Quiet | Kind::Signalling)
    }
}

/// `sig / 2^127 * 2^exp`, the top bit set, the lowest bit sticky.
#[derive(Clone, Copy, Debug)]
struct Wide {
    sign: bool,
    exp: i32,
    sig: u128,
}

const fn shift_sticky(sig: u128, by: u32) -> u128 {
    match by {
        0 => sig,
        1..=127 => sig >> by | (sig << (128 - by) != 0) as u128,
        _ => (sig != 0) as u128,
    }
}

impl Fp {
    pub(super) const fn new(fpcr: u64, fpsr: u64) -> Self {
        Self {
            mode: Mode::of((fpcr >> 22) as u32),
            default_nan: fpcr >> 25 & 1 != 0,
            flush: fpcr >> 24 & 1 != 0,
            status: fpsr,
        }
    }

    fn raise(&mut self, flags: u64) {
        self.status |= flags;
    }

    fn unpack(&mut self, f: Format, x: u64) -> Num {
        let sign = x & f.sign_bit() != 0;
        let exp = x >> f.frac & f.exp_max();
        let frac = x & ((1 << f.frac) - 1);
        let num = |kind, exp, sig| Num { sign, kind, exp, sig };
        if exp == f.exp_max() {
            return match frac {
                0 => num(Kind::Infinity, 0, 0),
                _ if frac >> (f.frac - 1) != 0 => num(Kind::Quiet, 0, frac),
                _ => num(Kind::Signalling, 0, frac),
            };
        }
        if exp == 0 {
            if frac == 0 {
                return num(Kind::Zero, 0, 0);
            }
            if self.flush && f != HALF {
                self.raise(flag::DENORMAL);
                return num(Kind::Zero, 0, 0);
            }
            let up = frac.leading_zeros();
            let exp = 1 - f.bias() - (up as i32 - (63 - f.frac as i32));
            return num(Kind::Finite, exp, frac << up);
        }
        num(Kind::Finite, exp as i32 - f.bias(), (frac | 1 << f.frac) << (63 - f.frac))
    }

    fn nan(&mut self, f: Format, x: u64) -> u64 {
        let quiet = x | 1 << (f.frac - 1);
        if quiet != x {
            self.raise(flag::INVALID);
        }
        if self.default_nan { f.default_nan() } else { quiet }
    }

    /// The NaN that an operation with these operands gives, if there is one among them.
    fn nans(&mut self, f: Format, operands: &[(Num, u64)]) -> Option<u64> {
        let of = |kind| operands.iter().find(|o| o.0.kind == kind).map(|o| o.1);
        let x = of(Kind::Signalling).or_else(|| of(Kind::Quiet))?;
        Some(self.nan(f, x))
    }

    fn invalid(&mut self, f: Format) -> u64 {
        self.raise(flag::INVALID);
        f.default_nan()
    }

    fn round(&mut self, f: Format, w: Wide, mode: Mode) -> u64 {
        let min = 1 - f.bias();
        let tiny = w.exp < min;
        if tiny && self.flush && f != HALF {
            self.raise(flag::UNDERFLOW);
            return f.zero(w.sign);
        }
        let sig = if tiny { shift_sticky(w.sig, (min - w.exp) as u32) } else { w.sig };
        let drop = 127 - f.frac;
        let rest = sig & ((1 << drop) - 1);
        let half = 1_u128 << (drop - 1);
        let mut q = (sig >> drop) as u64;
        let inexact = rest != 0;
        let up = match mode {
            Mode::Even => rest > half || rest == half && q & 1 != 0,
            Mode::Away => rest >= half,
            Mode::Up => inexact && !w.sign,
            Mode::Down => inexact && w.sign,
            Mode::Zero => false,
            Mode::Odd => {
                q |= u64::from(inexact);
                false
            }
        };
        q += u64::from(up);
        let biased = if tiny { 0 } else { (w.exp + f.bias() - 1) as u64 };
        // The leading bit of `q` adds one to the exponent.
        let magnitude = (biased << f.frac) + q;
        if inexact {
            self.raise(flag::INEXACT | if tiny { flag::UNDERFLOW } else { 0 });
        }
        if w.exp > f.bias() || magnitude >= f.infinity(false) {
            self.raise(flag::OVERFLOW | flag::INEXACT);
            let infinite = match mode {
                Mode::Even | Mode::Away => true,
                Mode::Up => !w.sign,
                Mode::Down => w.sign,
                Mode::Zero | Mode::Odd => false,
            };
            return if infinite { f.infinity(w.sign) } else { f.max_normal(w.sign) };
        }
        magnitude | f.zero(w.sign)
    }

    /// The sum of two values, `None` where it is exactly zero.
    fn sum(a: Option<Wide>, b: Option<Wide>) -> Option<Wide> {
        let (a, b) = match (a, b) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => return a.or(b),
        };
        let (a, b) = if (a.exp, a.sig) >= (b.exp, b.sig) { (a, b) } else { (b, a) };
        let (x, y) = (shift_sticky(a.sig, 2), shift_sticky(b.sig, (a.exp - b.exp) as u32 + 2));
        let sig = if a.sign == b.sign { x + y } else { x - y };
        if sig == 0 {
            return None;
        }
        let up = sig.leading_zeros();
        Some(Wide { sign: a.sign, exp: a.exp + 2 - up as i32, sig: sig << up })
    }

    /// The sign of a sum that is exactly zero.
    fn zero_sum(&self, f: Format, a: bool, b: bool) -> u64 {
        f.zero(if a == b { a } else { self.mode == Mode::Down })
    }

    const fn widen(n: &Num) -> Option<Wide> {
        match n.kind {
            Kind::Finite => Some(Wide { sign: n.sign, exp: n.exp, sig: (n.sig as u128) << 64 }),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, f: Format, x: u64, y: u64) -> u64 {
        let (a, b) = (self.unpack(f, x), self.unpack(f, y));
        self.add_unpacked(f, (a, x), (b, y))
    }

    pub(super) fn sub(&mut self, f: Format, x: u64, y: u64) -> u64 {
        let (a, mut b) = (self.unpack(f, x), self.unpack(f, y));
        if !b.is_nan() {
            b.sign = !b.sign;
        }
        self.add_unpacked(f, (a, x), (b, y))
    }

    fn add_unpacked(&mut self, f: Format, x: (Num, u64), y: (Num, u64)) -> u64 {
        if let Some(nan) = self.nans(f, &[x, y]) {
            return nan;
        }
        let (a, b) = (x.0, y.0);
        match (a.kind, b.kind) {
            (Kind::Infinity, Kind::Infinity) if a.sign != b.sign => self.invalid(f),
            (Kind::Infinity, _) => f.infinity(a.sign),
            (_, Kind::Infinity) => f.infinity(b.sign),
            _ => match Self::sum(Self::widen(&a), Self::widen(&b)) {
                Some(w) => self.round(f, w, self.mode),
                None => self.zero_sum(f, a.sign, b.sign),
            },
        }
    }

    fn product(a: &Num, b: &Num) -> Option<Wide> {
        if a.kind != Kind::Finite || b.kind != Kind::Finite {
            return None;
        }
        let p = u128::from(a.sig) * u128::from(b.sig);
        let up = p.leading_zeros();
        Some(Wide { sign: a.sign != b.sign, exp: a.exp + b.exp + 1 - up as i32, sig: p << up })
    }

    pub(super) fn mul(&mut self, f: Format, x: u64, y: u64) -> u64 {
        self.multiply(f, x, y, false)
    }

    /// FMULX: infinity times zero is 2.
    pub(super) fn mulx(&mut self, f: Format, x: u64, y: u64) -> u64 {
        self.multiply(f, x, y, true)
    }

    fn multiply(&mut self, f: Format, x: u64, y: u64, extended: bool) -> u64 {
        let (a, b) = (self.unpack(f, x), self.unpack(f, y));
        if let Some(nan) = self.nans(f, &[(a, x), (b, y)]) {
            return nan;
        }
        let sign = a.sign != b.sign;
        match (a.kind, b.kind) {
            (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity) => {
                if extended {
                    f.zero(sign) | ((f.bias() + 1) as u64) << f.frac
                } else {
                    self.invalid(f)
                }
            }
            (Kind::Infinity, _) | (_, Kind::Infinity) => f.infinity(sign),
            _ => match Self::product(&a, &b) {
                Some(w) => self.round(f, w, self.mode),
                None => f.zero(sign),
            },
        }
    }

    /// `addend + x * y`, rounded once.
    pub(super) fn fma(&mut self, f: Format, addend: u64, x: u64, y: u64) -> u64 {
        self.fused(f, addend, x, y, 0)
    }

    fn fused(&mut self, f: Format, addend: u64, x: u64, y: u64, scale: i32) -> u64 {
        let (c, a, b) = (self.unpack(f, addend), self.unpack(f, x), self.unpack(f, y));
        let nothing =
            matches!((a.kind, b.kind), (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity));
        let nan = self.nans(f, &[(c, addend), (a, x), (b, y)]);
        if c.kind == Kind::Quiet && nothing {
            return self.invalid(f);
        }
        if let Some(nan) = nan {
            return nan;
        }
        let sign = a.sign != b.sign;
        let infinite = a.kind == Kind::Infinity || b.kind == Kind::Infinity;
        if nothing || infinite && c.kind == Kind::Infinity && c.sign != sign {
            return self.invalid(f);
        }
        if infinite || c.kind == Kind::Infinity {
            return f.infinity(if infinite { sign } else { c.sign });
        }
        match Self::sum(Self::widen(&c), Self::product(&a, &b)) {
            Some(w) => self.round(f, Wide { exp: w.exp - scale, ..w }, self.mode),
            None => self.zero_sum(f, c.sign, sign),
        }
    }

    pub(super) fn div(&mut self, f: Format, x: u64, y: u64) -> u64 {
        let (a, b) = (self.unpack(f, x), self.unpack(f, y));
        if let Some(nan) = self.nans(f, &[(a, x), (b, y)]) {
            return nan;
        }
        let sign = a.sign != b.sign;
        match (a.kind, b.kind) {
            (Kind::Infinity, Kind::Infinity) | (Kind::Zero, Kind::Zero) => self.invalid(f),
            (Kind::Infinity, _) => f.infinity(sign),
            (_, Kind::Zero) => {
                self.raise(flag::ZERO_DIVIDE);
                f.infinity(sign)
            }
            (Kind::Zero, _) | (_, Kind::Infinity) => f.zero(sign),
            _ => {
                let n = u128::from(a.sig) << 63;
                let (q, r) = (n / u128::from(b.sig), n % u128::from(b.sig));
                let up = q.leading_zeros();
                let sig = q << up | u128::from(r != 0);
                let exp = a.exp - b.exp + 64 - up as i32;
                self.round(f, Wide { sign, exp, sig }, self.mode)
            }
        }
    }

    pub(super) fn sqrt(&mut self, f: Format, x: u64) -> u64 {
        let a = self.unpack(f, x);
        if let Some(nan) = self.nans(f, &[(a, x)]) {
            return nan;
        }
        match (a.kind, a.sign) {
            (Kind::Zero, sign) => f.zero(sign),
            (_, true) => self.invalid(f),
            (Kind::Infinity, _) => f.infinity(false),
            _ => {
                let odd = a.exp & 1;
                let n = u128::from(a.sig) << (63 + odd);
                let root = n.isqrt();
                let sig = root << 64 | u128::from(root * root != n);
                self.round(f, Wide { sign: false, exp: (a.exp - odd) / 2, sig }, self.mode)
            }
        }
    }

    /// FMAX and FMIN; `number`: FMAXNM and FMINNM.
    pub(super) fn max_min(&mut self, f: Format, x: u64, y: u64, min: bool, number: bool) -> u64 {
        let (mut a, mut b) = (self.unpack(f, x), self.unpack(f, y));
        let (mut x, mut y) = (x, y);
        if number {
            match (a.kind == Kind::Quiet, b.kind == Kind::Quiet) {
                (true, false) => {
                    x = f.infinity(!min);
                    a = Num { sign: !min, kind: Kind::Infinity, exp: 0, sig: 0 };
                }
                (false, true) => {
                    y = f.infinity(!min);
                    b = Num { sign: !min, kind: Kind::Infinity, exp: 0, sig: 0 };
                }
                _ => {}
            }
        }
        if let Some(nan) = self.nans(f, &[(a, x), (b, y)]) {
            return nan;
        }
        let value = |n: &Num, bits: u64| if n.kind == Kind::Zero { f.zero(n.sign) } else { bits };
        let (p, q) = (value(&a, x), value(&b, y));
        // Sign and magnitude as an ordered number; -0 is below +0.
        let order = |v: u64| if v & f.sign_bit() != 0 { -(f.abs(v) as i64) - 1 } else { v as i64 };
        if (order(p) > order(q)) != min { p } else { q }
    }

    /// Compares: `None` is unordered, else the order. `signal`: quiet NaNs are invalid too.
    pub(super) fn compare(
        &mut self,
        f: Format,
        x: u64,
        y: u64,
        signal: bool,
    ) -> Option<std::cmp::Ordering> {
        let (a, b) = (self.unpack(f, x), self.unpack(f, y));
        if a.is_nan() || b.is_nan() {
            let quiet = a.kind != Kind::Signalling && b.kind != Kind::Signalling;
            if signal || !quiet {
                self.raise(flag::INVALID);
            }
            return None;
        }
        let order = |n: &Num, v: u64| match (n.kind, v & f.sign_bit() != 0) {
            (Kind::Zero, _) => 0,
            (_, true) => -(f.abs(v) as i64),
            _ => v as i64,
        };
        Some(order(&a, x).cmp(&order(&b, y)))
    }

    /// To another format.
    pub(super) fn convert(&mut self, from: Format, to: Format, x: u64, mode: Mode) -> u64 {
        let a = self.unpack(from, x);
        match a.kind {
            Kind::Zero => to.zero(a.sign),
            Kind::Infinity => to.infinity(a.sign),
            Kind::Finite => {
                let w = Wide { sign: a.sign, exp: a.exp, sig: u128::from(a.sig) << 64 };
                self.round(to, w, mode)
            }
            Kind::Quiet | Kind::Signalling => {
                if a.kind == Kind::Signalling {
                    self.raise(flag::INVALID);
                }
                if self.default_nan {
                    return to.default_nan();
                }
                let frac = (a.sig << (63 - from.frac)) >> (63 - to.frac);
                to.infinity(a.sign) | frac & ((1 << to.frac) - 1) | 1 << (to.frac - 1)
            }
        }
    }

    /// The magnitude of `n * 2^fbits` rounded to an integer, and whether it was rounded. Large values come out as
    /// large as they need to be to be out of range.
    fn integral(n: &Num, fbits: i32, mode: Mode) -> (u128, bool) {
        let exp = n.exp + fbits;
        if exp >= 66 {
            return (1 << 66, false);
        }
        let sig = u128::from(n.sig) << 62;
        // Value is sig / 2^125 * 2^exp.
        let by = 125 - exp;
        let whole = if by >= 128 { 0 } else { sig >> by };
        let rest = if by >= 128 { (1 << 126) | 1 } else { sig << (128 - by) };
        let half = 1_u128 << 127;
        let inexact = rest != 0;
        let (above, tie) = if by >= 128 { (false, false) } else { (rest > half, rest == half) };
        let up = match mode {
            Mode::Even => above || tie && whole & 1 != 0,
            Mode::Away => above || tie,
            Mode::Up => inexact && !n.sign,
            Mode::Down => inexact && n.sign,
            Mode::Zero | Mode::Odd => false,
        };
        (whole + u128::from(up), inexact)
    }

    /// To an integer of `bits` bits with `fbits` of them fraction.
    pub(super) fn float_to_int(
        &mut self,
        f: Format,
        x: u64,
        mode: Mode,
        (bits, signed, fbits): (u32, bool, u32),
    ) -> u64 {
        let n = self.unpack(f, x);
        let mask = u64::MAX >> (64 - bits);
        let (low, high) = if signed {
            (-(1_i128 << (bits - 1)), (1_i128 << (bits - 1)) - 1)
        } else {
            (0, (1_i128 << bits) - 1)
        };
        let (value, inexact) = match n.kind {
            Kind::Zero => return 0,
            Kind::Quiet | Kind::Signalling => {
                self.raise(flag::INVALID);
                return 0;
            }
            Kind::Infinity => (1 << 66, false),
            Kind::Finite => Self::integral(&n, fbits as i32, mode),
        };
        let value = if n.sign { -(value as i128) } else { value as i128 };
        if value < low || value > high {
            self.raise(flag::INVALID);
            return (if n.sign { low } else { high }) as u64 & mask;
        }
        if inexact {
            self.raise(flag::INEXACT);
        }
        value as u64 & mask
    }

    /// From an integer with `fbits` bits of fraction.
    pub(super) fn int_to_float(&mut self, f: Format, value: i128, fbits: u32) -> u64 {
        if value == 0 {
            return 0;
        }
        let magnitude = value.unsigned_abs();
        let up = magnitude.leading_zeros();
        let exp = 127 - up as i32 - fbits as i32;
        self.round(f, Wide { sign: value < 0, exp, sig: magnitude << up }, self.mode)
    }

    /// To an integral value in the same format.
    pub(super) fn round_int(&mut self, f: Format, x: u64, mode: Mode, exact: bool) -> u64 {
        let n = self.unpack(f, x);
        match n.kind {
            Kind::Zero => return f.zero(n.sign),
            Kind::Infinity => return x,
            Kind::Quiet | Kind::Signalling => return self.nan(f, x),
            Kind::Finite if n.exp >= f.frac as i32 => return x,
            Kind::Finite => {}
        }
        let (value, inexact) = Self::integral(&n, 0, mode);
        if exact && inexact {
            self.raise(flag::INEXACT);
        }
        if value == 0 {
            return f.zero(n.sign);
        }
        let up = value.leading_zeros();
        self.round(f, Wide { sign: n.sign, exp: 127 - up as i32, sig: value << up }, Mode::Zero)
    }

    /// FRECPS.
    pub(super) fn recip_step(&mut self, f: Format, x: u64, y: u64) -> u64 {
        self.step(f, x, y, 0)
    }

    /// FRSQRTS.
    pub(super) fn rsqrt_step(&mut self, f: Format, x: u64, y: u64) -> u64 {
        self.step(f, x, y, 1)
    }

    fn step(&mut self, f: Format, x: u64, y: u64, scale: i32) -> u64 {
        let x = f.negate(x);
        let (two, three) = (
            ((f.bias() + 1) as u64) << f.frac,
            ((f.bias() + 1) as u64) << f.frac | 1 << (f.frac - 1),
        );
        let saved = self.status;
        let (a, b) = (self.unpack(f, x), self.unpack(f, y));
        let nothing =
            matches!((a.kind, b.kind), (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity));
        if nothing {
            // 2, or 1.5.
            return if scale == 0 { two } else { (f.bias() as u64) << f.frac | 1 << (f.frac - 1) };
        }
        if let Some(nan) = self.nans(f, &[(a, x), (b, y)]) {
            return nan;
        }
        self.status = saved;
        self.fused(f, if scale == 0 { two } else { three }, x, y, scale)
    }

    /// FRECPE.
    pub(super) fn recip_estimate(&mut self, f: Format, x: u64) -> u64 {
        let n = self.unpack(f, x);
        match n.kind {
            Kind::Quiet | Kind::Signalling => return self.nan(f, x),
            Kind::Infinity => return f.zero(n.sign),
            Kind::Zero => {
                self.raise(flag::ZERO_DIVIDE);
                return f.infinity(n.sign);
            }
            Kind::Finite => {}
        }
        if n.exp < -f.bias() - 1 {
            self.raise(flag::OVERFLOW | flag::INEXACT);
            let infinite = match self.mode {
                Mode::Up => !n.sign,
                Mode::Down => n.sign,
                Mode::Zero => false,
                _ => true,
            };
            return if infinite { f.infinity(n.sign) } else { f.max_normal(n.sign) };
        }
        if self.flush && f != HALF && n.exp >= f.bias() - 1 {
            self.raise(flag::UNDERFLOW);
            return f.zero(n.sign);
        }
        // Nine bits of the significand, 256 to 511, half a unit added.
        let estimate = recip_table((n.sig >> 55) as u32);
        let exp = -1 - n.exp;
        // A fraction of 8 bits behind a leading one.
        let sig = u128::from(estimate & 0xff | 0x100) << 119;
        let min = 1 - f.bias();
        let sig = if exp < min { sig >> (min - exp) } else { sig };
        let q = (sig >> (127 - f.frac)) as u64;
        let biased = if exp < min { 0 } else { (exp + f.bias() - 1) as u64 };
        (biased << f.frac) + q | f.zero(n.sign)
    }

    /// FRSQRTE.
    pub(super) fn rsqrt_estimate(&mut self, f: Format, x: u64) -> u64 {
        let n = self.unpack(f, x);
        match (n.kind, n.sign) {
            (Kind::Quiet | Kind::Signalling, _) => return self.nan(f, x),
            (Kind::Zero, sign) => {
                self.raise(flag::ZERO_DIVIDE);
                return f.infinity(sign);
            }
            (_, true) => return self.invalid(f),
            (Kind::Infinity, _) => return f.zero(false),
            _ => {}
        }
        // An odd biased exponent takes the significand as it is.
        let odd = (n.exp + f.bias()) & 1 != 0;
        let scaled =
            if odd { 128 + (n.sig >> 56 & 0x7f) as u32 } else { 256 + (n.sig >> 55 & 0xff) as u32 };
        let estimate = rsqrt_table(scaled);
        let exp = (3 * f.bias() - 1 - (n.exp + f.bias())).div_euclid(2);
        (exp as u64) << f.frac | u64::from(estimate & 0xff) << (f.frac - 8)
    }

    /// FRECPX.
    pub(super) fn recip_exponent(&mut self, f: Format, x: u64) -> u64 {
        let n = self.unpack(f, x);
        if n.is_nan() {
            return self.nan(f, x);
        }
        let exp = x >> f.frac & f.exp_max();
        let inverted = if exp == 0 { f.exp_max() - 1 } else { !exp & f.exp_max() };
        f.zero(n.sign) | inverted << f.frac
    }
}

/// `RecipEstimate` of 256 to 511.
pub(super) const fn recip_table(a: u32) -> u32 {
    let a = a * 2 + 1;
    let b = (1 << 19) / a;
    b.div_ceil(2)
}

/// `RecipSqrtEstimate` of 128 to 511.
pub(super) const fn rsqrt_table(a: u32) -> u32 {
    let a = if a < 256 { a * 2 + 1 } else { (a >> 1 << 1) * 2 + 2 };
    let mut b = 512_u64;
    while (a as u64) * (b + 1) * (b + 1) < 1 << 28 {
        b += 1;
    }
    (b as u32).div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fp() -> Fp {
        Fp::new(0, 0)
    }

    fn single(op: impl Fn(&mut Fp, u64, u64) -> u64, a: f32, b: f32) -> (f32, u64) {
        let mut fp = fp();
        let r = op(&mut fp, a.to_bits().into(), b.to_bits().into());
        (f32::from_bits(r as u32), fp.status)
    }

    #[test]
    fn operations_agree_with_the_host_on_ordinary_numbers() {
        let values =
            [0.0, 1.0, -1.5, 3.25, 1e-3, 7.7e10, 1e-40, 3.4e38, f32::MIN_POSITIVE, -2.0e-44];
        for a in values {
            for b in values {
                let same = |got: f32, want: f32| {
                    assert!(
                        got.to_bits() == want.to_bits() || want.is_nan(),
                        "{a} {b}: {got} {want}"
                    );
                };
                same(single(|f, x, y| f.add(SINGLE, x, y), a, b).0, a + b);
                same(single(|f, x, y| f.sub(SINGLE, x, y), a, b).0, a - b);
                same(single(|f, x, y| f.mul(SINGLE, x, y), a, b).0, a * b);
                same(single(|f, x, y| f.div(SINGLE, x, y), a, b).0, a / b);
                same(single(|f, x, y| f.fma(SINGLE, y, x, y), a, b).0, a.mul_add(b, b));
                same(single(|f, x, _| f.sqrt(SINGLE, x), a, b).0, a.sqrt());
            }
        }
    }

    #[test]
    fn flags_say_what_happened() {
        assert_eq!(single(|f, x, y| f.div(SINGLE, x, y), 1.0, 0.0).1, flag::ZERO_DIVIDE);
        assert_eq!(single(|f, x, y| f.div(SINGLE, x, y), 1.0, 3.0).1, flag::INEXACT);
        assert_eq!(
            single(|f, x, y| f.mul(SINGLE, x, y), 3e38, 10.0).1,
            flag::OVERFLOW | flag::INEXACT
        );
        assert_eq!(single(|f, x, _| f.sqrt(SINGLE, x), -1.0, 0.0).1, flag::INVALID);
    }

    #[test]
    fn conversions_saturate_and_round_as_asked() {
        let to = |x: f64, mode, kind| fp().float_to_int(DOUBLE, x.to_bits(), mode, kind);
        assert_eq!(to(2.5, Mode::Even, (32, true, 0)), 2);
        assert_eq!(to(2.5, Mode::Away, (32, true, 0)), 3);
        assert_eq!(to(-1.0, Mode::Zero, (32, false, 0)), 0);
        assert_eq!(to(1e30, Mode::Zero, (64, true, 0)), i64::MAX as u64);
        assert_eq!(to(-0.75, Mode::Down, (32, true, 0)), u64::from(u32::MAX));
        assert_eq!(to(0.75, Mode::Zero, (32, true, 4)), 12);
        assert_eq!(fp().convert(DOUBLE, HALF, 65536_f64.to_bits(), Mode::Even), 0x7c00);
        assert_eq!(
            fp().convert(HALF, SINGLE, 0x0001, Mode::Even),
            u64::from(5.960_464_5e-8_f32.to_bits())
        );
    }
}
