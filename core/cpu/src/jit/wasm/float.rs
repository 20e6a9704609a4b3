//! Floating-point operations with the host's, where [`ir::float`](crate::ir::float) says that they give the
//! guest's results and status; the helper elsewhere.

use wasm_encoder::{BlockType, ValType};

use super::Type;
use super::func::{CTX, EXACT, FRAME, Func, GUARD, Ty, field};
use crate::frame::{Var, VecVar};
use crate::ir::float::{Arith, Shape};
use crate::ir::{FloatOp, Width};
use crate::jit::abi::{Context, int_offset};

/// The helper that does the operation anyway: its number, and the kind it is called with.
#[derive(Clone, Copy)]
pub(super) struct Fallback {
    pub(super) f: u16,
    pub(super) kind: u16,
    pub(super) v: VecVar,
    pub(super) imm: u8,
}

fn is_double(shape: Shape) -> bool {
    matches!(shape, Shape::D1 | Shape::D2)
}

fn is_scalar(shape: Shape) -> bool {
    matches!(shape, Shape::S1 | Shape::D1)
}

/// A constant in every lane.
fn all(shape: Shape, v: f64) -> i128 {
    if is_double(shape) {
        let bits = i128::from(v.to_bits());
        bits << 64 | bits
    } else {
        let bits = i128::from((v as f32).to_bits());
        bits << 96 | bits << 64 | bits << 32 | bits
    }
}

fn smallest(shape: Shape) -> i128 {
    let v = if is_double(shape) { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) };
    all(shape, v)
}

/// Bits of the smallest normal number and of infinity, double and single.
const SMALLEST_D: i64 = 1 << 52;
const INFINITE_D: i64 = 0x7ff << 52;
const SMALLEST_S: i32 = 1 << 23;
const INFINITE_S: i32 = 0xff << 23;

macro_rules! by_shape {
    ($self:ident, $shape:expr, $single:ident, $double:ident) => {
        match is_double($shape) {
            true => {
                $self.i().$double();
            }
            false => {
                $self.i().$single();
            }
        }
    };
}

impl Func<'_> {
    /// Notes whether operations that depend on rounding may be done here.
    pub(super) fn read_guard(&mut self) {
        let (var, mask, value) = self.guard();
        let wrong = self.scratch(8, ValType::I64);
        let most = mask & !self.region.inexact;
        self.i()
            .local_get(FRAME)
            .i64_load(field(int_offset(var.0), 3))
            .i64_const(mask as i64)
            .i64_and()
            .i64_const(value as i64)
            .i64_xor()
            .local_tee(wrong)
            .i64_eqz()
            .local_set(GUARD)
            .local_get(wrong)
            .i64_const(most as i64)
            .i64_and()
            .i64_eqz()
            .local_set(EXACT);
    }

    pub(super) fn float(&mut self, op: FloatOp, a: VecVar, b: VecVar, fall: Fallback) {
        let on_lane = match op {
            FloatOp::Arith(op, shape) => self.on_lane(op, shape, a, b, fall.v),
            _ => false,
        };
        let result = self.scratch(0, ValType::V128);
        let fine = self.scratch(8, ValType::I32);
        self.compute(op, a, b, fall.imm, result, fine);
        self.check_guard(op, fine);
        self.if_(BlockType::Empty, true);
        let d = self.vec(fall.v);
        self.i().local_get(result).local_set(d);
        self.else_();
        let exact = self.exact(op, a, b, fine);
        if exact {
            self.if_(BlockType::Empty, true);
            self.i().local_get(result).local_set(d);
            self.else_();
        }
        self.fall_back(a, b, fall);
        self.load_vec(fall.v);
        if exact {
            self.end();
        }
        self.end();
        if on_lane {
            self.end();
        }
        self.vclean &= !(1 << fall.v.0);
    }

    /// Does arithmetic on one lane where the result is normal and no operand is denormal: then the
    /// operands are no infinities nor NaNs either. Leaves the code in the branch where that is not so; false,
    /// and nothing, for other operations.
    fn on_lane(&mut self, op: Arith, shape: Shape, a: VecVar, b: VecVar, d: VecVar) -> bool {
        if !is_scalar(shape) || !matches!(op, Arith::Add | Arith::Sub | Arith::Mul | Arith::Div) {
            return false;
        }
        let ty = if is_double(shape) { ValType::F64 } else { ValType::F32 };
        let result = self.scratch(4, ty);
        self.lane_pair(shape, a, b);
        match op {
            Arith::Add => by_shape!(self, shape, f32_add, f64_add),
            Arith::Sub => by_shape!(self, shape, f32_sub, f64_sub),
            Arith::Mul => by_shape!(self, shape, f32_mul, f64_mul),
            _ => by_shape!(self, shape, f32_div, f64_div),
        }
        self.i().local_tee(result);
        by_shape!(self, shape, i32_reinterpret_f32, i64_reinterpret_f64);
        self.number_inside(shape);
        for v in [a, b] {
            // Less one, zero is the largest number of all.
            self.size_bits(shape, v);
            if is_double(shape) {
                self.i().i64_const(1).i64_sub().i64_const(2 * SMALLEST_D - 1).i64_ge_u();
            } else {
                self.i().i32_const(1).i32_sub().i32_const(2 * SMALLEST_S - 1).i32_ge_u();
            }
            self.i().i32_and();
        }
        self.i().local_get(GUARD).i32_and();
        self.if_(BlockType::Empty, true);
        self.get_vec(a);
        self.i().local_get(result);
        self.put_lane(shape);
        let d = self.vec(d);
        self.i().local_set(d);
        self.else_();
        true
    }

    /// Takes the bits of a number; leaves whether it is finite and above the smallest normal one.
    fn number_inside(&mut self, shape: Shape) {
        if is_double(shape) {
            let above = 2 * SMALLEST_D + 1;
            self.i().i64_const(1).i64_shl().i64_const(above).i64_sub();
            self.i().i64_const((2 * INFINITE_D as u64 - above as u64) as i64).i64_lt_u();
        } else {
            let above = 2 * SMALLEST_S + 1;
            self.i().i32_const(1).i32_shl().i32_const(above).i32_sub();
            self.i().i32_const((2 * INFINITE_S as u32 - above as u32) as i32).i32_lt_u();
        }
    }

    /// Leaves the bits of the first lane but for its sign, one to the left.
    fn size_bits(&mut self, shape: Shape, v: VecVar) {
        self.get_vec(v);
        if is_double(shape) {
            self.i().i64x2_extract_lane(0).i64_const(1).i64_shl();
        } else {
            self.i().i32x4_extract_lane(0).i32_const(1).i32_shl();
        }
    }

    /// Leaves whether the first lane is zero or normal.
    fn number_plain(&mut self, shape: Shape, v: VecVar) {
        self.size_bits(shape, v);
        if is_double(shape) {
            let size = self.scratch(4, ValType::I64);
            self.i().local_tee(size).i64_const(2 * SMALLEST_D).i64_sub();
            self.i().i64_const((2 * (INFINITE_D - SMALLEST_D) as u64) as i64).i64_lt_u();
            self.i().local_get(size).i64_eqz().i32_or();
        } else {
            let size = self.scratch(4, ValType::I32);
            self.i().local_tee(size).i32_const(2 * SMALLEST_S).i32_sub();
            self.i().i32_const((2 * (INFINITE_S - SMALLEST_S) as u32) as i32).i32_lt_u();
            self.i().local_get(size).i32_eqz().i32_or();
        }
    }

    /// Leaves whether all lanes that take part are zero or normal.
    fn all_plain(&mut self, shape: Shape, v: VecVar) {
        if is_scalar(shape) {
            self.number_plain(shape, v);
        } else {
            self.plain(shape, v);
            self.lanes_hold(shape);
        }
    }

    pub(super) fn float_int(&mut self, op: FloatOp, d: Var, a: VecVar, b: VecVar, fall: Fallback) {
        let wide = matches!(op, FloatOp::ToInt(_, Width::W64, _));
        let ty = if wide { Ty::I64 } else { Ty::I32 };
        let fine = self.scratch(8, ValType::I32);
        let result = self.scratch(9, ty.val_type());
        match op {
            FloatOp::Order(shape, _) => {
                self.all_plain(shape, a);
                self.all_plain(shape, b);
                self.i().i32_and().local_set(fine);
                self.lane_pair(shape, a, b);
                by_shape!(self, shape, f32_lt, f64_lt);
                self.lane_pair(shape, a, b);
                by_shape!(self, shape, f32_eq, f64_eq);
                self.i().i32_const(6).i32_shl().i32_or().local_set(result);
            }
            FloatOp::ToInt(shape, w, truncate) => {
                self.float_to_int(shape, w, truncate, b, result, fine);
            }
            _ => self.i_never(fine),
        }
        self.check_guard(op, fine);
        self.if_(BlockType::Empty, true);
        self.else_();
        self.fall_back(a, b, fall);
        let value = self.scratch(0, ValType::I64);
        self.i().local_get(value);
        self.convert(Ty::I64, ty);
        self.i().local_set(result);
        self.end();
        self.i().local_get(result);
        self.set(d, ty, if wide { 64 } else { 32 });
        self.vclean &= !(1 << fall.v.0);
    }

    /// Leaves whether the result may be used.
    fn check_guard(&mut self, op: FloatOp, fine: u32) {
        self.i().local_get(fine);
        if op.guarded() {
            self.i().local_get(GUARD).i32_and();
        }
    }

    /// Leaves whether the result is known to be exact and may be used then; nothing, and false, for
    /// operations of which that is never known.
    fn exact(&mut self, op: FloatOp, a: VecVar, b: VecVar, fine: u32) -> bool {
        let FloatOp::Arith(op @ (Arith::Add | Arith::Sub | Arith::Mul), shape) = op else {
            return false;
        };
        if op == Arith::Mul {
            let low =
                if is_double(shape) { 1i128 << 64 | 1 } else { (1i128 << 64 | 1) * (1 << 32 | 1) };
            let half = if is_double(shape) { (1 << 27) - 1 } else { (1 << 12) - 1 };
            self.get_vec(a);
            self.get_vec(b);
            self.i().v128_or().v128_const(low * half).v128_and().v128_const(0);
            by_shape!(self, shape, i32x4_eq, i64x2_eq);
        } else {
            let (sum, part) = (self.scratch(3, ValType::V128), self.scratch(1, ValType::V128));
            self.get_vec(a);
            self.get_vec(b);
            match op {
                Arith::Add => by_shape!(self, shape, f32x4_add, f64x2_add),
                _ => by_shape!(self, shape, f32x4_sub, f64x2_sub),
            }
            self.i().local_tee(sum);
            self.get_vec(a);
            by_shape!(self, shape, f32x4_sub, f64x2_sub);
            self.i().local_set(part);
            self.get_vec(a);
            self.i().local_get(sum).local_get(part);
            by_shape!(self, shape, f32x4_sub, f64x2_sub);
            by_shape!(self, shape, f32x4_sub, f64x2_sub);
            self.i().local_get(part);
            self.get_vec(b);
            match op {
                Arith::Add => by_shape!(self, shape, f32x4_sub, f64x2_sub),
                _ => by_shape!(self, shape, f32x4_add, f64x2_add),
            }
            by_shape!(self, shape, f32x4_eq, f64x2_eq);
        }
        self.lanes_hold(shape);
        self.i().local_get(fine).i32_and().local_get(EXACT).i32_and();
        true
    }

    fn i_never(&mut self, fine: u32) {
        self.i().i32_const(0).local_set(fine);
    }

    /// Calls the helper; its answer is left in the first scratch local of 64 bits.
    fn fall_back(&mut self, a: VecVar, b: VecVar, fall: Fallback) {
        for v in [a, b] {
            if self.vclean >> v.0 & 1 == 0 {
                self.store_vec(v);
            }
        }
        let numbers =
            [fall.kind.into(), u64::from(fall.v.0), a.0.into(), b.0.into(), fall.imm.into(), 0];
        for (n, v) in numbers.into_iter().enumerate() {
            let at = field(Context::ARGS + 8 * n as u32, 3);
            self.i().local_get(CTX).i64_const(v as i64).i64_store(at);
        }
        self.put_left();
        let rest = self.rest();
        self.i().local_get(CTX).i32_const((u32::from(fall.f) | rest << 16) as i32);
        self.call(self.shims.call, Type::Call);
        let value = self.scratch(0, ValType::I64);
        self.i().local_set(value);
        self.check_status();
        self.read_guard();
        let (var, ..) = self.guard();
        self.load_int(usize::from(var.0));
    }

    fn get_vec(&mut self, v: VecVar) {
        let local = self.vec(v);
        self.i().local_get(local);
    }

    /// Leaves the first lanes of two vectors.
    fn lane_pair(&mut self, shape: Shape, a: VecVar, b: VecVar) {
        for v in [a, b] {
            self.get_vec(v);
            self.first_lane(shape);
        }
    }

    fn first_lane(&mut self, shape: Shape) {
        if is_double(shape) {
            self.i().f64x2_extract_lane(0);
        } else {
            self.i().f32x4_extract_lane(0);
        }
    }

    /// Leaves all ones in the lanes that are zero or normal.
    fn plain(&mut self, shape: Shape, v: VecVar) {
        let size = self.scratch(1, ValType::V128);
        self.get_vec(v);
        by_shape!(self, shape, f32x4_abs, f64x2_abs);
        self.i().local_tee(size).v128_const(smallest(shape));
        by_shape!(self, shape, f32x4_ge, f64x2_ge);
        self.i().local_get(size).v128_const(all(shape, f64::INFINITY));
        by_shape!(self, shape, f32x4_lt, f64x2_lt);
        self.i().v128_and();
        self.zero(shape, size);
        self.i().v128_or();
    }

    /// Leaves all ones in the lanes that are zero.
    fn zero(&mut self, shape: Shape, local: u32) {
        self.i().local_get(local).v128_const(0);
        by_shape!(self, shape, f32x4_eq, f64x2_eq);
    }

    /// Leaves all ones in the lanes that are finite and above the smallest normal value.
    fn inside(&mut self, shape: Shape, local: u32) {
        let size = self.scratch(1, ValType::V128);
        self.i().local_get(local);
        by_shape!(self, shape, f32x4_abs, f64x2_abs);
        self.i().local_tee(size).v128_const(smallest(shape));
        by_shape!(self, shape, f32x4_gt, f64x2_gt);
        self.i().local_get(size).v128_const(all(shape, f64::INFINITY));
        by_shape!(self, shape, f32x4_lt, f64x2_lt);
        self.i().v128_and();
    }

    /// Whether the lanes that take part are all ones.
    fn lanes_hold(&mut self, shape: Shape) {
        match shape {
            Shape::S1 => self.i().i32x4_extract_lane(0).i32_const(0).i32_ne(),
            Shape::D1 => self.i().i64x2_extract_lane(0).i64_const(0).i64_ne(),
            Shape::S4 => self.i().i32x4_all_true(),
            Shape::D2 => self.i().i64x2_all_true(),
        };
    }

    /// Puts the first lane of the vector on the stack into `a`, for scalar shapes.
    fn merge(&mut self, shape: Shape, a: VecVar) {
        if is_scalar(shape) {
            let whole = self.scratch(1, ValType::V128);
            self.i().local_set(whole);
            self.get_vec(a);
            self.i().local_get(whole);
            self.first_lane(shape);
            self.put_lane(shape);
        }
    }

    /// Puts the number on the stack into the first lane of the vector below it.
    fn put_lane(&mut self, shape: Shape) {
        if is_double(shape) {
            self.i().f64x2_replace_lane(0);
        } else {
            self.i().f32x4_replace_lane(0);
        }
    }

    fn compute(&mut self, op: FloatOp, a: VecVar, b: VecVar, imm: u8, result: u32, fine: u32) {
        match op {
            FloatOp::Arith(op, shape) => self.arith(op, shape, a, b, result, fine),
            FloatOp::Compare(shape) => {
                self.all_plain(shape, a);
                self.all_plain(shape, b);
                self.i().i32_and().local_set(fine);
                self.get_vec(a);
                self.get_vec(b);
                match imm & 3 {
                    0 => by_shape!(self, shape, f32x4_eq, f64x2_eq),
                    1 => by_shape!(self, shape, f32x4_lt, f64x2_lt),
                    2 => by_shape!(self, shape, f32x4_le, f64x2_le),
                    _ => {
                        self.i().v128_xor().v128_const(0).v128_and();
                    }
                };
                if imm & 4 != 0 {
                    self.i().v128_not();
                }
                if is_scalar(shape) {
                    // As bits: a lane of ones is not a number.
                    let whole = self.scratch(1, ValType::V128);
                    self.i().local_set(whole);
                    self.get_vec(a);
                    self.i().local_get(whole);
                    if is_double(shape) {
                        self.i().i64x2_extract_lane(0).i64x2_replace_lane(0);
                    } else {
                        self.i().i32x4_extract_lane(0).i32x4_replace_lane(0);
                    }
                }
                self.i().local_set(result);
            }
            FloatOp::FromInt(w, shape) => {
                self.get_vec(a);
                self.get_vec(b);
                match (w, is_double(shape)) {
                    (Width::W64, true) => self.i().i64x2_extract_lane(0).f64_convert_i64_s(),
                    (Width::W64, false) => self.i().i64x2_extract_lane(0).f32_convert_i64_s(),
                    (_, true) => self.i().i32x4_extract_lane(0).f64_convert_i32_s(),
                    (_, false) => self.i().i32x4_extract_lane(0).f32_convert_i32_s(),
                };
                self.put_lane(shape);
                self.i().local_set(result).i32_const(1).local_set(fine);
            }
            FloatOp::FromInts(shape) => {
                self.get_vec(b);
                by_shape!(self, shape, f32x4_convert_i32x4_s, f64x2_convert_low_i32x4_s);
                self.i().local_set(result).i32_const(1).local_set(fine);
            }
            FloatOp::Convert(Shape::D1) => {
                self.number_plain(Shape::S1, b);
                self.i().local_set(fine);
                self.get_vec(a);
                self.get_vec(b);
                self.i().f32x4_extract_lane(0).f64_promote_f32().f64x2_replace_lane(0);
                self.i().local_set(result);
            }
            FloatOp::Convert(Shape::S1) => {
                self.get_vec(a);
                self.get_vec(b);
                self.i().f64x2_extract_lane(0).f32_demote_f64().f32x4_replace_lane(0);
                self.i().local_set(result);
                self.number_plain(Shape::D1, b);
                self.i().local_get(result).i32x4_extract_lane(0);
                self.number_inside(Shape::S1);
                self.get_vec(b);
                self.i().f64x2_extract_lane(0).f64_const(0.0.into()).f64_eq().i32_or().i32_and();
                self.i().local_set(fine);
            }
            _ => self.i_never(fine),
        }
    }

    fn arith(&mut self, op: Arith, shape: Shape, a: VecVar, b: VecVar, result: u32, fine: u32) {
        let whole = self.scratch(2, ValType::V128);
        match op {
            Arith::Sqrt => {
                self.get_vec(b);
                by_shape!(self, shape, f32x4_sqrt, f64x2_sqrt);
            }
            // `x < y ? x : y` is the pseudo-minimum with the operands exchanged.
            Arith::Min | Arith::Max => {
                self.get_vec(b);
                self.get_vec(a);
                match op {
                    Arith::Min => by_shape!(self, shape, f32x4_pmin, f64x2_pmin),
                    _ => by_shape!(self, shape, f32x4_pmax, f64x2_pmax),
                };
            }
            _ => {
                self.get_vec(a);
                self.get_vec(b);
                match op {
                    Arith::Add => by_shape!(self, shape, f32x4_add, f64x2_add),
                    Arith::Sub => by_shape!(self, shape, f32x4_sub, f64x2_sub),
                    Arith::Mul => by_shape!(self, shape, f32x4_mul, f64x2_mul),
                    _ => by_shape!(self, shape, f32x4_div, f64x2_div),
                };
            }
        }
        self.i().local_tee(whole);
        self.merge(shape, a);
        self.i().local_set(result);
        if op != Arith::Sqrt {
            self.plain(shape, a);
        }
        self.plain(shape, b);
        match op {
            Arith::Sqrt => {
                self.get_vec(b);
                self.i().v128_const(0);
                by_shape!(self, shape, f32x4_ge, f64x2_ge);
            }
            Arith::Min | Arith::Max => {}
            _ => {
                self.i().v128_and();
                self.inside(shape, whole);
                let (x, y) = (self.vec(a), self.vec(b));
                match op {
                    Arith::Mul => {
                        self.zero(shape, x);
                        self.zero(shape, y);
                        self.i().v128_or();
                    }
                    Arith::Div => {
                        self.zero(shape, x);
                        self.zero(shape, whole);
                        self.i().v128_and();
                    }
                    _ => self.zero(shape, whole),
                }
                self.i().v128_or();
            }
        }
        self.i().v128_and();
        self.lanes_hold(shape);
        self.i().local_set(fine);
    }

    fn float_to_int(
        &mut self,
        shape: Shape,
        w: Width,
        truncate: bool,
        b: VecVar,
        result: u32,
        fine: u32,
    ) {
        let double = is_double(shape);
        let ty = if double { ValType::F64 } else { ValType::F32 };
        let whole = self.scratch(0, ty);
        self.get_vec(b);
        self.first_lane(shape);
        match (truncate, double) {
            (true, true) => self.i().f64_trunc(),
            (true, false) => self.i().f32_trunc(),
            (false, true) => self.i().f64_nearest(),
            (false, false) => self.i().f32_nearest(),
        };
        self.i().local_tee(whole);
        match (w, double) {
            (Width::W64, true) => self.i().i64_trunc_sat_f64_s(),
            (Width::W64, false) => self.i().i64_trunc_sat_f32_s(),
            (_, true) => self.i().i32_trunc_sat_f64_s(),
            (_, false) => self.i().i32_trunc_sat_f32_s(),
        };
        self.i().local_set(result);
        self.all_plain(shape, b);
        let limit = if w == Width::W64 { 9_223_372_036_854_775_808.0 } else { 2_147_483_648.0 };
        self.i().local_get(whole);
        if double {
            self.i().f64_const((-limit).into()).f64_ge();
            self.i().local_get(whole).f64_const(limit.into()).f64_lt();
        } else {
            self.i().f32_const((-limit as f32).into()).f32_ge();
            self.i().local_get(whole).f32_const((limit as f32).into()).f32_lt();
        }
        self.i().i32_and().i32_and().local_set(fine);
    }
}
