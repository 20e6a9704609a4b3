//! Floating-point operations on the host, where [`ir::float`](crate::ir::float) allows it; by their
//! helpers elsewhere. Scalar shapes.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F64, I32, I64};
use cranelift_codegen::ir::{Block, InstBuilder, MemFlagsData, Type, Value};

use super::{Emit, own};
use crate::ir::float::{Arith, FloatOp, Shape};
use crate::ir::{VecVar, Width};
use crate::jit::abi::{int_offset, vec_offset};

/// What the checks compare with: bits shifted left by one.
struct Format {
    float: Type,
    int: Type,
    /// Bits of the significand, with the hidden one.
    precision: u32,
    min: u64,
    infinity: u64,
}

fn format(shape: Shape) -> Option<Format> {
    Some(match shape {
        Shape::S1 => Format {
            float: F32,
            int: I32,
            precision: 24,
            min: u64::from(f32::MIN_POSITIVE.to_bits()) << 1,
            infinity: u64::from(f32::INFINITY.to_bits() << 1),
        },
        Shape::D1 => Format {
            float: F64,
            int: I64,
            precision: 53,
            min: f64::MIN_POSITIVE.to_bits() << 1,
            infinity: f64::INFINITY.to_bits() << 1,
        },
        Shape::S4 | Shape::D2 => return None,
    })
}

/// Exact results are not told from others.
const NEVER: Option<fn(&mut Emit<'_, '_>) -> Value> = None;

impl Emit<'_, '_> {
    fn lane0(&mut self, t: Type, v: VecVar) -> Value {
        self.b.ins().load(t, own(), self.frame, vec_offset(v.0) as i32)
    }

    fn bits(&mut self, f: &Format, v: Value) -> Value {
        let bits = self.b.ins().bitcast(f.int, MemFlagsData::new(), v);
        self.b.ins().ishl_imm_u(bits, 1)
    }

    fn k(&mut self, f: &Format, n: u64) -> Value {
        let n = if f.int == I32 { i64::from(n as u32) } else { n as i64 };
        self.b.ins().iconst(f.int, n)
    }

    /// Zero or normal.
    fn plain(&mut self, f: &Format, v: Value) -> Value {
        let u = self.bits(f, v);
        let less = self.b.ins().iadd_imm_s(u, -1);
        let edge = self.k(f, (1 << f.precision) - 1);
        let top = self.k(f, f.infinity);
        let low = self.b.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, less, edge);
        let high = self.b.ins().icmp(IntCC::UnsignedLessThan, u, top);
        self.b.ins().band(low, high)
    }

    /// Finite and above the smallest normal value.
    fn inside(&mut self, f: &Format, v: Value) -> Value {
        let u = self.bits(f, v);
        let first = self.k(f, f.min + 1);
        let above = self.b.ins().isub(u, first);
        let range = self.k(f, f.infinity - f.min - 1);
        self.b.ins().icmp(IntCC::UnsignedLessThan, above, range)
    }

    fn zero(&mut self, f: &Format, v: Value) -> Value {
        let u = self.bits(f, v);
        self.b.ins().icmp_imm_u(IntCC::Equal, u, 0)
    }

    /// Goes on where `fine`; answers the cold block for where not. `exact` says whether the result
    /// is exact: then it may also be that no inexact result was noted so far.
    fn unless(
        &mut self,
        op: FloatOp,
        fine: Value,
        exact: Option<impl FnOnce(&mut Self) -> Value>,
    ) -> Block {
        let (on, helper) = (self.b.create_block(), self.cold());
        if !op.guarded() {
            self.b.ins().brif(fine, on, &[], helper, &[]);
            self.begin(on);
            return helper;
        }
        let (var, mask, value) = self.region.guard;
        let inexact = self.region.inexact;
        let v = self.b.ins().load(I64, own(), self.frame, int_offset(var.0) as i32);
        let v = self.b.ins().band_imm_s(v, mask as i64);
        let noted = self.b.ins().icmp_imm_s(IntCC::Equal, v, value as i64);
        match exact {
            Some(exact) if inexact != 0 => {
                let (next, rest) = (self.b.create_block(), self.b.create_block());
                self.b.ins().brif(fine, next, &[], helper, &[]);
                self.begin(next);
                self.b.ins().brif(noted, on, &[], rest, &[]);
                self.begin(rest);
                let clear = self.b.ins().icmp_imm_s(IntCC::Equal, v, (value & !inexact) as i64);
                let exact = exact(self);
                let both = self.b.ins().band(clear, exact);
                self.b.ins().brif(both, on, &[], helper, &[]);
            }
            _ => {
                let fine = self.b.ins().band(fine, noted);
                self.b.ins().brif(fine, on, &[], helper, &[]);
            }
        }
        self.begin(on);
        helper
    }

    /// Whether `r`, the rounded result of operands that passed the checks, is exact; not certain to
    /// find all that are.
    fn exact(&mut self, kind: Arith, f: &Format, x: Value, y: Value, r: Value) -> Value {
        match kind {
            // What is lost in a sum is itself a number (Knuth's two-sum).
            Arith::Add | Arith::Sub => {
                let y = if kind == Arith::Sub { self.b.ins().fneg(y) } else { y };
                let part = self.b.ins().fsub(r, x);
                let rest = self.b.ins().fsub(r, part);
                let (dx, dy) = (self.b.ins().fsub(x, rest), self.b.ins().fsub(y, part));
                let lost = self.b.ins().fadd(dx, dy);
                self.zero(f, lost)
            }
            // Significands that are short enough have an exact product.
            Arith::Mul => self.short(f, x, y),
            _ => {
                let short = self.short(f, r, y);
                let back = self.b.ins().fmul(r, y);
                let same = self.b.ins().fcmp(FloatCC::Equal, back, x);
                self.b.ins().band(short, same)
            }
        }
    }

    /// Whether the significands of `x` and `y` have no more bits together than one has room for.
    fn short(&mut self, f: &Format, x: Value, y: Value) -> Value {
        let mut zeros = |v| {
            let bits = self.b.ins().bitcast(f.int, MemFlagsData::new(), v);
            let hidden = self.k(f, 1 << (f.precision - 1));
            let bits = self.b.ins().bor(bits, hidden);
            self.b.ins().ctz(bits)
        };
        let (a, b) = (zeros(x), zeros(y));
        let sum = self.b.ins().iadd(a, b);
        let least = i64::from(f.precision);
        self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, sum, least)
    }

    /// Lane 0 of `d` = `r`, the others those of `a`.
    fn put0(&mut self, d: VecVar, a: VecVar, r: Value) {
        if d != a {
            let t = super::I8X16;
            let rest = self.b.ins().load(t, own(), self.frame, vec_offset(a.0) as i32);
            self.b.ins().store(own(), rest, self.frame, vec_offset(d.0) as i32);
        }
        self.b.ins().store(own(), r, self.frame, vec_offset(d.0) as i32);
    }

    /// The operation with a vector result; answers the block in which the helper is to be called,
    /// with the current block the one where that was not necessary. `None`: always the helper.
    pub(super) fn float(&mut self, op: FloatOp, d: VecVar, a: VecVar, b: VecVar) -> Option<Block> {
        match op {
            FloatOp::Arith(kind, shape) => {
                let f = format(shape)?;
                let y = self.lane0(f.float, b);
                let mut first = y;
                let (r, fine) = if kind == Arith::Sqrt {
                    let plain = self.plain(&f, y);
                    let zero = if f.float == F32 {
                        self.b.ins().f32const(0.0)
                    } else {
                        self.b.ins().f64const(0.0)
                    };
                    let sign = self.b.ins().fcmp(FloatCC::GreaterThanOrEqual, y, zero);
                    (self.b.ins().sqrt(y), self.b.ins().band(plain, sign))
                } else {
                    let x = self.lane0(f.float, a);
                    first = x;
                    let (px, py) = (self.plain(&f, x), self.plain(&f, y));
                    let both = self.b.ins().band(px, py);
                    let r = match kind {
                        Arith::Add => self.b.ins().fadd(x, y),
                        Arith::Sub => self.b.ins().fsub(x, y),
                        Arith::Mul => self.b.ins().fmul(x, y),
                        Arith::Div => self.b.ins().fdiv(x, y),
                        _ => {
                            let less = kind == Arith::Min;
                            let cc = if less { FloatCC::LessThan } else { FloatCC::GreaterThan };
                            let first = self.b.ins().fcmp(cc, x, y);
                            self.b.ins().select(first, x, y)
                        }
                    };
                    let fine = match kind {
                        Arith::Min | Arith::Max => both,
                        _ => {
                            let inside = self.inside(&f, r);
                            let other = match kind {
                                Arith::Mul => {
                                    let (zx, zy) = (self.zero(&f, x), self.zero(&f, y));
                                    self.b.ins().bor(zx, zy)
                                }
                                Arith::Div => {
                                    let (zr, zx) = (self.zero(&f, r), self.zero(&f, x));
                                    self.b.ins().band(zr, zx)
                                }
                                _ => self.zero(&f, r),
                            };
                            let result = self.b.ins().bor(inside, other);
                            self.b.ins().band(both, result)
                        }
                    };
                    (r, fine)
                };
                let exact =
                    (kind != Arith::Sqrt).then_some(|e: &mut Self| e.exact(kind, &f, first, y, r));
                let helper = self.unless(op, fine, exact);
                self.put0(d, a, r);
                Some(helper)
            }
            FloatOp::FromInt(w, shape) => {
                let f = format(shape)?;
                let n = self.lane0(if w == Width::W64 { I64 } else { I32 }, b);
                let r = self.b.ins().fcvt_from_sint(f.float, n);
                let yes = self.b.ins().iconst(super::I8, 1);
                let helper = self.unless(op, yes, NEVER);
                self.put0(d, a, r);
                Some(helper)
            }
            FloatOp::Convert(Shape::D1) => {
                let from = format(Shape::S1)?;
                let y = self.lane0(F32, b);
                let fine = self.plain(&from, y);
                let r = self.b.ins().fpromote(F64, y);
                let helper = self.unless(op, fine, NEVER);
                self.put0(d, a, r);
                Some(helper)
            }
            FloatOp::Convert(Shape::S1) => {
                let (from, to) = (format(Shape::D1)?, format(Shape::S1)?);
                let y = self.lane0(F64, b);
                let r = self.b.ins().fdemote(F32, y);
                let (plain, inside, zero) =
                    (self.plain(&from, y), self.inside(&to, r), self.zero(&from, y));
                let result = self.b.ins().bor(inside, zero);
                let fine = self.b.ins().band(plain, result);
                let exact = |e: &mut Self| {
                    let back = e.b.ins().fpromote(F64, r);
                    e.b.ins().fcmp(FloatCC::Equal, back, y)
                };
                let helper = self.unless(op, fine, Some(exact));
                self.put0(d, a, r);
                Some(helper)
            }
            _ => None,
        }
    }

    /// The operation with an integer result: the result, and the block for the helper.
    pub(super) fn float_int(
        &mut self,
        op: FloatOp,
        a: VecVar,
        b: VecVar,
    ) -> Option<(Value, Block)> {
        match op {
            FloatOp::Order(shape, _) => {
                let f = format(shape)?;
                let (x, y) = (self.lane0(f.float, a), self.lane0(f.float, b));
                let (px, py) = (self.plain(&f, x), self.plain(&f, y));
                let fine = self.b.ins().band(px, py);
                let helper = self.unless(op, fine, NEVER);
                let less = self.b.ins().fcmp(FloatCC::LessThan, x, y);
                let same = self.b.ins().fcmp(FloatCC::Equal, x, y);
                let (less, same) = (self.wide(less), self.wide(same));
                let same = self.b.ins().ishl_imm_u(same, 6);
                Some((self.b.ins().bor(less, same), helper))
            }
            FloatOp::ToInt(shape, w, true) => {
                let f = format(shape)?;
                let y = self.lane0(f.float, b);
                let plain = self.plain(&f, y);
                // In 64 bits: what is out of range there comes out as the smallest or greatest.
                let n = self.b.ins().fcvt_to_sint_sat(I64, y);
                let (r, fits) = if w == Width::W64 {
                    let up = self.b.ins().iadd_imm_s(n, 1);
                    let edge = self.b.ins().iconst(I64, i64::MIN + 1);
                    (n, self.b.ins().icmp(IntCC::SignedGreaterThan, up, edge))
                } else {
                    let low = self.b.ins().ireduce(I32, n);
                    let back = self.b.ins().sextend(I64, low);
                    (self.wide(low), self.b.ins().icmp(IntCC::Equal, back, n))
                };
                let fine = self.b.ins().band(plain, fits);
                let exact = |e: &mut Self| {
                    let back = e.b.ins().fcvt_from_sint(f.float, n);
                    e.b.ins().fcmp(FloatCC::Equal, back, y)
                };
                let helper = self.unless(op, fine, Some(exact));
                Some((r, helper))
            }
            _ => None,
        }
    }
}
