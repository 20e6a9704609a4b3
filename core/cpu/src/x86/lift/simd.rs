//! MMX and SSE instructions: operand traffic in IR, the arithmetic a vector function.

use super::*;
use crate::ir::VecVar;
use crate::x86::sse::{SimdOp, float_op};
use std::sync::LazyLock;

/// A guest vector variable that no instruction sees: operands of helpers.
const SCRATCH: VecVar = VecVar(31);
/// Where a vector result goes that is of no interest, and not always made: no state.
const DISCARD: VecVar = VecVar(63);

/// The vector operation with an instruction's name.
fn named(id: Id) -> Option<SimdOp> {
    static TABLE: LazyLock<Vec<Option<SimdOp>>> = LazyLock::new(|| {
        Id::ALL
            .iter()
            .map(|id| {
                let name = match id.name() {
                    "ANDPS" | "ANDPD" => "PAND",
                    "ANDNPS" | "ANDNPD" => "PANDN",
                    "ORPS" | "ORPD" => "POR",
                    "XORPS" | "XORPD" => "PXOR",
                    "UNPCKLPS" => "PUNPCKLDQ",
                    "UNPCKHPS" => "PUNPCKHDQ",
                    "UNPCKLPD" | "PUNPCKLQDQ" => "MOVLHPS",
                    "UNPCKHPD" => "PUNPCKHQDQ",
                    "PSHUFW" => "PSHUFLW",
                    "CVTPI2PD" => "CVTDQ2PD",
                    "CVTPD2PI" => "CVTPD2DQ",
                    "CVTTPD2PI" => "CVTTPD2DQ",
                    "PBLENDVB" => "SIGNMASKB",
                    "BLENDVPS" => "SIGNMASKD",
                    "BLENDVPD" => "SIGNMASKQ",
                    "PSLLDQ" => "PSLLDQIMM",
                    "PSRLDQ" => "PSRLDQIMM",
                    "EXTRACTPS" => "PEXTRD",
                    name => name,
                };
                by_name(name)
            })
            .collect()
    });
    TABLE.get(id as usize).copied().flatten()
}

fn by_name(name: &str) -> Option<SimdOp> {
    SimdOp::ALL.iter().copied().find(|op| op.name().eq_ignore_ascii_case(name))
}

/// The form with the count in the immediate byte, of a shift.
fn immediate_form(op: SimdOp) -> Option<SimdOp> {
    Some(match op {
        SimdOp::Psllw => SimdOp::PsllwImm,
        SimdOp::Pslld => SimdOp::PslldImm,
        SimdOp::Psllq => SimdOp::PsllqImm,
        SimdOp::Psrlw => SimdOp::PsrlwImm,
        SimdOp::Psrld => SimdOp::PsrldImm,
        SimdOp::Psrlq => SimdOp::PsrlqImm,
        SimdOp::Psraw => SimdOp::PsrawImm,
        SimdOp::Psrad => SimdOp::PsradImm,
        SimdOp::PslldqImm | SimdOp::PsrldqImm => op,
        _ => return None,
    })
}

const fn xmm(n: u8) -> VecVar {
    VecVar(n & 15)
}

impl Lifter<'_> {
    pub(super) fn simd(&mut self) -> Flow {
        let mmx_only = |op: &Operand| matches!(op, Operand::Mm(_));
        let xmm_there = self.i.operands().iter().any(|op| matches!(op, Operand::Xmm(_)));
        let mmx_there = self.i.operands().iter().any(mmx_only) || self.i.id == Id::EMMS;
        match self.i.id {
            Id::FXSAVE | Id::FXRSTOR => return self.fx_state(),
            _ if self.has(key::EM) => return self.undefined(),
            _ if !self.has(key::OSFXSR) && (xmm_there || !mmx_there) => return self.undefined(),
            _ if self.has(key::TS) => return self.raise(vector::NM),
            Id::LDMXCSR => {
                let t = self.load(4, 0);
                self.b.call(ext::LDMXCSR, None, &[t.into()], Fx::FAULTS);
                return self.done();
            }
            Id::STMXCSR => {
                let t = self.tmp();
                self.b.call(ext::STMXCSR, Some(t), &[], Fx::NONE);
                self.store(4, 0, t);
                return self.done();
            }
            Id::EMMS => {
                self.b.call(ext::EMMS, None, &[], Fx::FAULTS);
                return self.done();
            }
            _ => {}
        }
        if mmx_there {
            return self.mmx();
        }
        self.sse()
    }

    // -- operands ---------------------------------------------------------------------------

    /// The address of a vector operand in memory, aligned where it must be.
    fn vector_addr(&mut self, size: u8, intent: Intent) -> Addr {
        let addr = self.ea(size, 0, intent);
        if size < 16 || !self.i.aligned {
            return addr;
        }
        let linear = self.tmp();
        self.b.lea(linear, addr);
        self.gp_if(Cmp::new(Cond::TestNz, Width::W64, linear, 15u64));
        Addr::flat(linear)
    }

    /// A vector operand, zero-extended when it is in memory.
    fn read_xmm(&mut self, op: Operand) -> VecVar {
        match op {
            Operand::Xmm(n) => xmm(n),
            Operand::Mem(size) => {
                let addr = self.vector_addr(size, Intent::Read);
                let t = self.b.vtmp();
                self.b.vload(size, t, addr, ir::Mem::plain(self.mmu));
                t
            }
            _ => SCRATCH,
        }
    }

    fn store_xmm(&mut self, size: u8, value: VecVar) {
        let addr = self.vector_addr(size, Intent::Write);
        self.b.vstore(size, value, addr, ir::Mem::plain(self.mmu));
    }

    /// An integer as a vector.
    fn vector_of(&mut self, value: impl Into<Val>) -> VecVar {
        self.b.push(ir::Op::VConst { d: SCRATCH, value: 0 });
        self.b.vput(Width::W64, SCRATCH, value, 0);
        SCRATCH
    }

    /// `d = op(a, b)`, and its low 64 bits.
    fn vector_op(&mut self, op: SimdOp, d: VecVar, a: VecVar, b: VecVar) {
        let imm = self.i.imm as u8;
        if let Some(float) = float_op(op, imm) {
            let (f, kind) = (ext::SIMD, op as u16);
            self.b.push(ir::Op::Float { op: float, d, a, b, imm, f, kind });
        } else if op.uses_mxcsr() {
            let args = [op as u64, d.0.into(), a.0.into(), b.0.into(), imm.into()].map(Val::Imm);
            self.b.call(ext::SIMD, None, &args, Fx::FAULTS | Fx::READS | Fx::WRITES);
        } else {
            self.b.vec_op(op as u16, d, a, b, imm);
        }
    }

    /// The integer that an operation answers.
    fn vector_value(&mut self, op: SimdOp, a: VecVar, b: VecVar) -> Var {
        let t = self.tmp();
        if let Some(float) = float_op(op, 0) {
            let (f, kind) = (ext::SIMD, op as u16);
            self.b.push(ir::Op::FloatInt { op: float, d: t, v: DISCARD, a, b, f, kind });
        } else if op.uses_mxcsr() {
            let imm = self.i.imm as u8;
            let d = SCRATCH.0;
            let args = [op as u64, d.into(), a.0.into(), b.0.into(), imm.into()].map(Val::Imm);
            self.b.call(ext::SIMD, Some(t), &args, Fx::FAULTS | Fx::READS | Fx::WRITES);
        } else {
            let d = self.b.vtmp();
            self.b.vec_op(op as u16, d, a, b, self.i.imm as u8);
            self.b.vget(Width::W64, t, d, 0);
        }
        t
    }

    // -- SSE --------------------------------------------------------------------------------

    fn sse(&mut self) -> Flow {
        let id = self.i.id;
        let (to, from) = (self.op(0), self.op(1));
        match id {
            Id::MOVUPS
            | Id::MOVUPD
            | Id::MOVAPS
            | Id::MOVAPD
            | Id::MOVDQA
            | Id::MOVDQU
            | Id::LDDQU
            | Id::MOVNTDQA
            | Id::MOVNTPS
            | Id::MOVNTPD
            | Id::MOVNTDQ => match (to, from) {
                (Operand::Xmm(d), Operand::Mem(_)) => {
                    let addr = self.vector_addr(16, Intent::Read);
                    self.b.vload(16, xmm(d), addr, ir::Mem::plain(self.mmu));
                }
                (Operand::Mem(_), Operand::Xmm(s)) => self.store_xmm(16, xmm(s)),
                (Operand::Xmm(d), Operand::Xmm(s)) => self.b.vmov(xmm(d), xmm(s)),
                _ => {}
            },
            // Moves of one element: loads clear the rest, register moves keep it.
            Id::MOVSS | Id::MOVSD | Id::MOVQ => match (to, from) {
                (Operand::Xmm(d), Operand::Mem(size)) => {
                    let addr = self.vector_addr(size, Intent::Read);
                    self.b.vload(size, xmm(d), addr, ir::Mem::plain(self.mmu));
                }
                (Operand::Mem(size), Operand::Xmm(s)) => self.store_xmm(size, xmm(s)),
                (Operand::Xmm(d), Operand::Xmm(s)) => {
                    let op = match id {
                        Id::MOVSS => SimdOp::Movss,
                        Id::MOVSD => SimdOp::Movsd,
                        _ => SimdOp::Movq,
                    };
                    self.b.vec_op(op as u16, xmm(d), xmm(d), xmm(s), 0);
                }
                _ => {}
            },
            Id::MOVLPS | Id::MOVLPD | Id::MOVHPS | Id::MOVHPD => {
                let lane = u8::from(matches!(id, Id::MOVHPS | Id::MOVHPD));
                match (to, from) {
                    (Operand::Xmm(d), _) => {
                        let t = self.load(8, 0);
                        self.b.vput(Width::W64, xmm(d), t, lane);
                    }
                    (_, Operand::Xmm(s)) => {
                        let t = self.tmp();
                        self.b.vget(Width::W64, t, xmm(s), lane);
                        self.store(8, 0, t);
                    }
                    _ => {}
                }
            }
            Id::MOVD => match (to, from) {
                (Operand::Xmm(d), from) => {
                    let t = self.read_copy(from);
                    self.b.push(ir::Op::VConst { d: xmm(d), value: 0 });
                    self.b.vput(Width::W64, xmm(d), t, 0);
                }
                (to, Operand::Xmm(s)) => {
                    let t = self.tmp();
                    self.b.vget(self.width(to), t, xmm(s), 0);
                    self.write(to, t);
                }
                _ => {}
            },
            Id::MASKMOVDQU => return self.mask_store(),
            Id::PCMPESTRI | Id::PCMPESTRM => {
                let b = self.read_xmm(from);
                let a = self.read_xmm(to);
                let mask = u64::from(id == Id::PCMPESTRM);
                let args =
                    [a.0.into(), b.0.into(), self.i.imm & 0xff, u64::from(self.i.wide), mask];
                let t = self.tmp();
                self.b.call(ext::PCMPESTR, Some(t), &args.map(Val::Imm), Fx::READS | Fx::WRITES);
                if id == Id::PCMPESTRI {
                    self.write_gpr(1, 4, t);
                }
            }
            Id::PCMPISTRI | Id::PCMPISTRM => {
                let b = self.read_xmm(from);
                let a = self.read_xmm(to);
                let flags = self.vector_value(SimdOp::PcmpistrFlags, a, b);
                if id == Id::PCMPISTRI {
                    let t = self.vector_value(SimdOp::Pcmpistri, a, b);
                    self.write_gpr(1, 4, t);
                } else {
                    self.vector_op(SimdOp::Pcmpistrm, xmm(0), a, b);
                }
                self.cc_flags(flags);
            }
            Id::PBLENDVB | Id::BLENDVPS | Id::BLENDVPD => {
                let Some(op) = named(id) else { return self.undefined() };
                let b = self.read_xmm(from);
                let a = self.read_xmm(to);
                let (mask, kept) = (self.b.vtmp(), self.b.vtmp());
                self.b.vec_op(op as u16, mask, xmm(0), xmm(0), 0);
                self.b.vec_op(SimdOp::Pandn as u16, kept, mask, a, 0);
                self.b.vec_op(SimdOp::Pand as u16, mask, mask, b, 0);
                self.b.vec_op(SimdOp::Por as u16, a, kept, mask, 0);
            }
            _ => return self.sse_op(id),
        }
        self.done()
    }

    /// Instructions that are one vector operation.
    fn sse_op(&mut self, id: Id) -> Flow {
        let (to, from) = (self.op(0), self.op(1));
        let op = match (id, to, from) {
            (Id::CVTSI2SS, ..) => {
                Some(if self.size(from) == 8 { SimdOp::Cvtsi2ss64 } else { SimdOp::Cvtsi2ss32 })
            }
            (Id::CVTSI2SD, ..) => {
                Some(if self.size(from) == 8 { SimdOp::Cvtsi2sd64 } else { SimdOp::Cvtsi2sd32 })
            }
            (Id::CVTSS2SI | Id::CVTTSS2SI | Id::CVTSD2SI | Id::CVTTSD2SI, ..) => {
                let wide = self.size(to) == 8;
                Some(match (id, wide) {
                    (Id::CVTSS2SI, false) => SimdOp::Cvtss2si32,
                    (Id::CVTSS2SI, true) => SimdOp::Cvtss2si64,
                    (Id::CVTTSS2SI, false) => SimdOp::Cvttss2si32,
                    (Id::CVTTSS2SI, true) => SimdOp::Cvttss2si64,
                    (Id::CVTSD2SI, false) => SimdOp::Cvtsd2si32,
                    (Id::CVTSD2SI, true) => SimdOp::Cvtsd2si64,
                    (_, false) => SimdOp::Cvttsd2si32,
                    (_, true) => SimdOp::Cvttsd2si64,
                })
            }
            (Id::PEXTRD, ..) if self.i.wide && self.long => Some(SimdOp::Pextrq),
            (Id::PINSRD, ..) if self.i.wide && self.long => Some(SimdOp::Pinsrq),
            (_, Operand::Xmm(_), Operand::Imm(_)) => named(id).and_then(immediate_form),
            _ => named(id),
        };
        let Some(op) = op else { return self.undefined() };
        match (to, from) {
            (Operand::Xmm(d), Operand::Imm(_)) => self.vector_op(op, xmm(d), xmm(d), xmm(d)),
            // Flags.
            (Operand::Xmm(d), _)
                if matches!(
                    id,
                    Id::PTEST | Id::COMISS | Id::COMISD | Id::UCOMISS | Id::UCOMISD
                ) =>
            {
                let b = self.read_xmm(from);
                let flags = self.vector_value(op, xmm(d), b);
                self.cc_flags(flags);
            }
            // An integer goes in.
            (Operand::Xmm(d), _) if !matches!(from, Operand::Xmm(_)) && integer_source(id) => {
                let t = self.read_copy(from);
                let b = self.vector_of(t);
                self.vector_op(op, xmm(d), xmm(d), b);
            }
            (Operand::Xmm(d), Operand::Mem(_)) if id == Id::INSERTPS => {
                let b = self.read_xmm(from);
                self.i.imm &= 0x3f;
                self.vector_op(op, xmm(d), xmm(d), b);
            }
            (Operand::Xmm(d), _) => {
                let b = self.read_xmm(from);
                self.vector_op(op, xmm(d), xmm(d), b);
            }
            // An integer comes out.
            (Operand::Gpr(..) | Operand::Mem(_), _) => {
                let b = self.read_xmm(from);
                let t = self.vector_value(op, b, b);
                self.write(to, t);
            }
            _ => return self.undefined(),
        }
        self.done()
    }

    // -- MMX --------------------------------------------------------------------------------

    fn mm_enter(&mut self) {
        self.b.call(ext::MMX_ENTER, None, &[], Fx::FAULTS);
    }

    fn mm_read(&mut self, n: u8) -> Var {
        let t = self.tmp();
        self.b.call(ext::MMX_READ, Some(t), &[u64::from(n).into()], Fx::NONE);
        t
    }

    fn mm_write(&mut self, n: u8, value: impl Into<Val>) {
        self.b.call(ext::MMX_WRITE, None, &[u64::from(n).into(), value.into()], Fx::NONE);
    }

    /// An MMX source operand, zero-extended.
    fn mm_source(&mut self, op: Operand) -> Var {
        match op {
            Operand::Mm(n) => self.mm_read(n),
            op => self.read_copy(op),
        }
    }

    fn mmx(&mut self) -> Flow {
        let id = self.i.id;
        let (to, from) = (self.op(0), self.op(1));
        match (to, from) {
            (Operand::Mm(d), Operand::Xmm(_)) | (Operand::Mm(d), Operand::Mem(16))
                if id != Id::MOVDQ2Q =>
            {
                return self.mm_convert(id, d, from);
            }
            (Operand::Mm(d), Operand::Mem(8)) if matches!(id, Id::CVTPS2PI | Id::CVTTPS2PI) => {
                return self.mm_convert(id, d, from);
            }
            _ => {}
        }
        match (id, to, from) {
            (Id::MOVQ | Id::MOVD, Operand::Mm(d), _) => {
                let t = self.mm_source(from);
                self.mm_enter();
                self.mm_write(d, t);
            }
            (Id::MOVQ | Id::MOVD | Id::MOVNTQ, _, Operand::Mm(s)) => {
                let t = self.mm_read(s);
                if let Operand::Mem(size) = to {
                    let addr = self.ea(size, 0, Intent::Write);
                    self.b.probe(size.into(), addr, ir::Mem::plain(self.mmu));
                    self.mm_enter();
                    self.b.store(width(size), t, addr, ir::Mem::plain(self.mmu));
                } else {
                    self.mm_enter();
                    self.write_reg(to, t);
                }
            }
            (Id::MOVDQ2Q, Operand::Mm(d), Operand::Xmm(s)) => {
                let t = self.tmp();
                self.b.vget(Width::W64, t, xmm(s), 0);
                self.mm_enter();
                self.mm_write(d, t);
            }
            (Id::MOVQ2DQ, Operand::Xmm(d), Operand::Mm(s)) => {
                let t = self.mm_read(s);
                self.mm_enter();
                self.b.push(ir::Op::VConst { d: xmm(d), value: 0 });
                self.b.vput(Width::W64, xmm(d), t, 0);
            }
            (Id::MASKMOVQ, ..) => {
                self.mm_enter();
                return self.mask_store();
            }
            // CVTPI2PS, CVTPI2PD: with a memory operand the x87 state is not looked at.
            (_, Operand::Xmm(d), _) => {
                let Some(op) = named(id) else { return self.undefined() };
                let t = self.mm_source(from);
                if let Operand::Mm(_) = from {
                    self.mm_enter();
                }
                let b = self.vector_of(t);
                self.vector_op(op, xmm(d), xmm(d), b);
            }
            (_, Operand::Mm(d), _) => {
                let op = match from {
                    Operand::Imm(_) => named(id).and_then(immediate_form),
                    _ => named(id),
                };
                let Some(op) = op else { return self.undefined() };
                let b: Val = match from {
                    Operand::Imm(_) => 0u64.into(),
                    from => self.mm_source(from).into(),
                };
                let a = self.mm_read(d);
                self.mm_enter();
                let imm = self.i.imm & 0xff;
                let t = self.tmp();
                self.b.pure(pure::MMX + op as u16, t, &[a.into(), b, imm.into()]);
                self.mm_write(d, t);
            }
            // PMOVMSKB, PEXTRW.
            (_, Operand::Gpr(..), Operand::Mm(s)) => {
                let Some(op) = named(id) else { return self.undefined() };
                let b = self.mm_read(s);
                self.mm_enter();
                let imm = self.i.imm & 0xff;
                let t = self.tmp();
                self.b.pure(pure::MMX + op as u16, t, &[b.into(), b.into(), imm.into()]);
                self.write_reg(to, t);
            }
            _ => return self.undefined(),
        }
        self.done()
    }

    /// CVTPS2PI and its family: XMM or memory to MMX.
    fn mm_convert(&mut self, id: Id, d: u8, from: Operand) -> Flow {
        let Some(op) = named(id) else { return self.undefined() };
        let b = self.read_xmm(from);
        self.mm_enter();
        let t = self.vector_value(op, b, b);
        self.mm_write(d, t);
        self.done()
    }

    /// MASKMOVQ and MASKMOVDQU: selected bytes to DS:DI.
    fn mask_store(&mut self) -> Flow {
        let size = if self.i.id == Id::MASKMOVQ { 8 } else { 16 };
        let offset = Addr {
            segment: None,
            base: Some(gpr(RDI)),
            index: None,
            scale: 0,
            disp: 0,
            wrap: self.addr_width(),
            lin: Width::W64,
        };
        let addr = self.in_segment(self.i.seg, offset, size, Intent::Write);
        let linear = self.tmp();
        self.b.lea(linear, addr);
        for half in 0..size / 8 {
            let (value, mask) = match (self.op(0), self.op(1)) {
                (Operand::Xmm(v), Operand::Xmm(m)) => {
                    let (x, y) = (self.tmp(), self.tmp());
                    self.b.vget(Width::W64, x, xmm(v), half);
                    self.b.vget(Width::W64, y, xmm(m), half);
                    (x, y)
                }
                (Operand::Mm(v), Operand::Mm(m)) => (self.mm_read(v), self.mm_read(m)),
                _ => return self.undefined(),
            };
            let at = self.bin(BinOp::Add, self.linear_width(), linear, u64::from(half) * 8);
            self.b.call(ext::MASKMOV, None, &[at.into(), value.into(), mask.into()], Fx::ALL);
        }
        self.leave_next()
    }

    fn fx_state(&mut self) -> Flow {
        if self.has(key::EM) || self.has(key::TS) {
            return self.raise(vector::NM);
        }
        let save = self.i.id == Id::FXSAVE;
        let addr = self.ea(255, 0, if save { Intent::Write } else { Intent::Read });
        let linear = self.tmp();
        self.b.lea(linear, addr);
        self.gp_if(Cmp::new(Cond::TestNz, Width::W64, linear, 15u64));
        let wide = u64::from(self.i.wide && self.long);
        let f = if save { ext::FXSAVE } else { ext::FXRSTOR };
        self.b.call(f, None, &[linear.into(), wide.into()], Fx::ALL);
        self.leave_next()
    }
}

/// Instructions whose second operand is an integer even in memory.
fn integer_source(id: Id) -> bool {
    matches!(id, Id::CVTSI2SS | Id::CVTSI2SD | Id::PINSRB | Id::PINSRW | Id::PINSRD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_arithmetic_instruction_has_its_operation() {
        for name in ["ADDPS", "SQRTSD", "PADDB", "PSHUFW", "AESENC", "DPPS", "PCLMULQDQ", "HADDPD"]
        {
            let id = Id::ALL.iter().copied().find(|id| id.name() == name).unwrap();
            assert!(named(id).is_some(), "{name}");
        }
    }
}
