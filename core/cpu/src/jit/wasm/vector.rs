//! Vector operations.

use super::Type;
use super::func::{CTX, Func, Ty, field};
use crate::frame::VecVar;
use crate::ir::{Addr, Mem, Op, Val, Width};
use crate::jit::abi;

impl Func<'_> {
    pub(super) fn vec_op(&mut self, op: &Op) {
        match *op {
            Op::VMov { d, a } => {
                let a = self.vec(a);
                self.i().local_get(a);
                self.vset(d);
            }
            Op::VConst { d, value } => {
                self.i().v128_const(value as i128);
                self.vset(d);
            }
            Op::VLoad { size, d, addr, mem } => self.vload(size, d, &addr, mem),
            Op::VStore { size, a, addr, mem } => self.vstore(size, a, &addr, mem),
            Op::VGet { w, d, a, lane } => {
                let ty = Ty::of(w);
                if u32::from(lane) * w.bits() >= 128 {
                    self.const_(ty, 0);
                } else {
                    let a = self.vec(a);
                    self.i().local_get(a);
                    match w {
                        Width::W8 => self.i().i8x16_extract_lane_u(lane),
                        Width::W16 => self.i().i16x8_extract_lane_u(lane),
                        Width::W32 => self.i().i32x4_extract_lane(lane),
                        Width::W64 => self.i().i64x2_extract_lane(lane),
                    };
                }
                self.set(d, ty, w.bits());
            }
            Op::VPut { w, d, a, lane } => self.vput(w, d, a, lane),
            Op::VecOp { kind, d, a, b, imm } => {
                if let Some(&known) = self.region.kinds.get(&kind)
                    && self.known(known, a, b, imm)
                {
                    return self.vset(d);
                }
                for v in [a, b] {
                    if self.vclean >> v.0 & 1 == 0 {
                        self.store_vec(v);
                        self.vclean |= 1 << v.0;
                    }
                }
                let vars = u32::from(d.0) | u32::from(a.0) << 8 | u32::from(b.0) << 16;
                self.i()
                    .local_get(CTX)
                    .i32_const((u32::from(kind) | u32::from(imm) << 16) as i32)
                    .i32_const(vars as i32);
                self.call(self.shims.vec_op, Type::VecOp);
                self.load_vec(d);
                self.vclean |= 1 << d.0;
            }
            _ => unreachable!("a vector operation"),
        }
    }

    fn vput(&mut self, w: Width, d: VecVar, a: Val, lane: u8) {
        if u32::from(lane) * w.bits() >= 128 {
            return;
        }
        let local = self.vec(d);
        self.i().local_get(local);
        self.get(Ty::of(w), a);
        match w {
            Width::W8 => self.i().i8x16_replace_lane(lane),
            Width::W16 => self.i().i16x8_replace_lane(lane),
            Width::W32 => self.i().i32x4_replace_lane(lane),
            Width::W64 => self.i().i64x2_replace_lane(lane),
        };
        self.vset(d);
    }

    fn vload(&mut self, size: u8, d: VecVar, addr: &Addr, mem: Mem) {
        let local = self.vec(d);
        let direct = |f: &mut Self| {
            let m = field(0, 0);
            match size {
                16 => f.i().v128_load(m),
                8 => f.i().v128_load64_zero(m),
                4 => f.i().v128_load32_zero(m),
                2 => f
                    .i()
                    .i32_load16_u(m)
                    .i64_extend_i32_u()
                    .i64x2_splat()
                    .i64_const(0)
                    .i64x2_replace_lane(1),
                _ => f
                    .i()
                    .i32_load8_u(m)
                    .i64_extend_i32_u()
                    .i64x2_splat()
                    .i64_const(0)
                    .i64x2_replace_lane(1),
            };
            f.i().local_set(local);
        };
        let slow = |f: &mut Self| {
            f.i().i32_const(abi::access(size.into(), mem.mmu, false, d.0) as i32);
            f.call(f.shims.vload, Type::Probe);
            f.check_status();
            f.load_vec(d);
        };
        self.vec_access(size, addr, mem, false, direct, slow);
        self.vclean &= !(1 << d.0);
    }

    fn vstore(&mut self, size: u8, a: VecVar, addr: &Addr, mem: Mem) {
        let local = self.vec(a);
        let direct = |f: &mut Self| {
            let m = field(0, 0);
            f.i().local_get(local);
            match size {
                16 => f.i().v128_store(m),
                8 => f.i().v128_store64_lane(m, 0),
                4 => f.i().v128_store32_lane(m, 0),
                2 => f.i().v128_store16_lane(m, 0),
                _ => f.i().v128_store8_lane(m, 0),
            };
        };
        let slow = |f: &mut Self| {
            // Only the frame's copy is looked at.
            let clean = f.vclean;
            f.store_vec(a);
            f.vclean = clean;
            f.i().i32_const(abi::access(size.into(), mem.mmu, false, a.0) as i32);
            f.call(f.shims.vstore, Type::Probe);
            f.check_status();
        };
        self.vec_access(size, addr, mem, true, direct, slow);
    }
}
