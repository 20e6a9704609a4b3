//! What Advanced SIMD and scalar floating point instructions do, from the instruction word (DDI 0487, C4.1.6 and C7).

mod convert;
mod float;
mod int;
mod narrow;
mod permute;
mod shift;

use super::crypto;
use super::fp::{self, Format, Fp};
use super::insn::{Insn, Word};
use super::state::{AArch64, var};

/// `None`: the word is not allocated. Nothing has changed then.
type Done = Option<()>;

/// The shape of the operands.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// log2 of the bytes of a lane.
    size: u32,
    /// How many lanes.
    lanes: u32,
}

impl Shape {
    const fn vector(size: u32, q: bool) -> Self {
        Self { size, lanes: (if q { 16 } else { 8 }) >> size }
    }
    const fn scalar(size: u32) -> Self {
        Self { size, lanes: 1 }
    }
    const fn bits(self) -> u32 {
        8 << self.size
    }
    const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }
    const fn get(self, v: u128, lane: u32) -> u64 {
        (v >> (lane * self.bits())) as u64 & self.mask()
    }
    const fn signed(self, x: u64) -> i64 {
        let up = 64 - self.bits();
        ((x << up) as i64) >> up
    }
    /// A lane as a number, by its sign or not.
    const fn number(self, x: u64, unsigned: bool) -> i128 {
        if unsigned { x as i128 } else { self.signed(x) as i128 }
    }
    const fn put(self, v: u128, lane: u32, x: u64) -> u128 {
        let at = lane * self.bits();
        v & !((self.mask() as u128) << at) | ((x & self.mask()) as u128) << at
    }
    /// A vector of lanes.
    fn make(self, mut lane: impl FnMut(u32) -> u64) -> u128 {
        (0..self.lanes).fold(0, |v, i| self.put(v, i, lane(i)))
    }
    fn map(self, a: u128, mut f: impl FnMut(u64) -> u64) -> u128 {
        self.make(|i| f(self.get(a, i)))
    }
    fn zip(self, a: u128, b: u128, mut f: impl FnMut(u64, u64) -> u64) -> u128 {
        self.make(|i| f(self.get(a, i), self.get(b, i)))
    }
    /// Pairs of neighbours of `a`, then of `b`.
    fn pairs(self, a: u128, b: u128, mut f: impl FnMut(u64, u64) -> u64) -> u128 {
        let half = self.lanes / 2;
        self.make(|i| {
            let (v, at) = if i < half { (a, i * 2) } else { (b, (i - half) * 2) };
            f(self.get(v, at), self.get(v, at + 1))
        })
    }
    const fn format(self) -> Format {
        match self.size {
            1 => fp::HALF,
            2 => fp::SINGLE,
            _ => fp::DOUBLE,
        }
    }
}

/// An instruction on its way.
struct Exec<'a> {
    cpu: &'a mut AArch64,
    w: Word,
    /// FPCR and FPSR.
    fp: Fp,
}

/// Executes an instruction.
pub(super) fn execute(cpu: &mut AArch64, insn: Insn, w: Word) -> Done {
    let fp = Fp::new(cpu.frame.get(var::FPCR), cpu.frame.get(var::FPSR));
    let mut e = Exec { cpu, w, fp };
    e.run(insn)?;
    let status = e.fp.status;
    e.cpu.frame.set(var::FPSR, status);
    Some(())
}

impl Exec<'_> {
    fn run(&mut self, insn: Insn) -> Done {
        use Insn::*;
        match insn {
            SimdTable => self.table(),
            SimdPermute => self.permute(),
            SimdExtract => self.extract(),
            SimdThreeSame => self.three_same(false),
            ScalarThreeSame => self.three_same(true),
            SimdThreeDiff => self.three_diff(false),
            ScalarThreeDiff => self.three_diff(true),
            SimdTwoMisc => self.two_misc(false),
            ScalarTwoMisc => self.two_misc(true),
            SimdAcross => self.across(),
            SimdShiftImm => self.shift_imm(false),
            ScalarShiftImm => self.shift_imm(true),
            SimdIndexed => self.indexed(false),
            ScalarIndexed => self.indexed(true),
            ScalarPairwise => self.pairwise(),
            FpFixed => self.fp_fixed(),
            FpInt => self.fp_int(),
            FpOne => self.fp_one(),
            FpCmp => self.fp_cmp(),
            FpCondCmp => self.fp_cond_cmp(),
            FpTwo => self.fp_two(),
            FpThree => self.fp_three(),
            AesOp => self.aes(),
            Sha3Reg => self.sha_three(),
            Sha2Reg => self.sha_two(),
            _ => None,
        }
    }

    const fn q(&self) -> bool {
        self.w.bit(30)
    }
    const fn u(&self) -> bool {
        self.w.bit(29)
    }
    const fn size(&self) -> u32 {
        self.w.bits(22, 2)
    }
    const fn d(&self) -> u128 {
        self.cpu.v(self.w.rd())
    }
    const fn n(&self) -> u128 {
        self.cpu.v(self.w.rn())
    }
    const fn m(&self) -> u128 {
        self.cpu.v(self.w.rm())
    }
    const fn set(&mut self, value: u128) -> Done {
        self.cpu.set_v(self.w.rd(), value);
        Some(())
    }

    /// The shape that `size` and `Q` name, or one lane.
    const fn shape(&self, scalar: bool, size: u32) -> Option<Shape> {
        if scalar {
            Some(Shape::scalar(size))
        } else if size == 3 && !self.q() {
            None
        } else {
            Some(Shape::vector(size, self.q()))
        }
    }

    /// A number in the range of a lane; QC if it was not.
    fn saturate(&mut self, s: Shape, x: i128, unsigned: bool) -> u64 {
        let (low, high) = if unsigned {
            (0, (1_i128 << s.bits()) - 1)
        } else {
            (-(1_i128 << (s.bits() - 1)), (1_i128 << (s.bits() - 1)) - 1)
        };
        let y = x.clamp(low, high);
        if x != y {
            self.fp.status |= fp::flag::SATURATED;
        }
        y as u64 & s.mask()
    }

    fn aes(&mut self) -> Done {
        if !self.cpu.model.features.crypto {
            return None;
        }
        let (d, n) = (self.d(), self.n());
        let value = match self.w.bits(12, 5) {
            4 => crypto::aes_round(d, n, false),
            5 => crypto::aes_round(d, n, true),
            6 => crypto::aes_mix(n, false),
            7 => crypto::aes_mix(n, true),
            _ => return None,
        };
        self.set(value)
    }

    fn sha_three(&mut self) -> Done {
        if !self.cpu.model.features.crypto {
            return None;
        }
        let (d, n, m) = (self.d(), self.n(), self.m());
        let value = match self.w.bits(12, 3) {
            kind @ 0..=2 => crypto::sha1_rounds(kind, d, n as u32, m),
            3 => crypto::sha1_schedule0(d, n, m),
            4 => crypto::sha256_rounds(d, n, m, true),
            5 => crypto::sha256_rounds(n, d, m, false),
            6 => crypto::sha256_schedule1(d, n, m),
            _ => return None,
        };
        self.set(value)
    }

    fn sha_two(&mut self) -> Done {
        if !self.cpu.model.features.crypto {
            return None;
        }
        let (d, n) = (self.d(), self.n());
        let value = match self.w.bits(12, 5) {
            0 => u128::from((n as u32).rotate_left(30)),
            1 => crypto::sha1_schedule1(d, n),
            2 => crypto::sha256_schedule0(d, n),
            _ => return None,
        };
        self.set(value)
    }
}
