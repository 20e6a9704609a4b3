//! Loads and stores of general registers and whole vector registers (DDI 0487, C4.1.4).

use super::*;
use crate::ir::UnOp;

/// One transfer.
#[derive(Clone, Copy)]
struct Transfer {
    /// A vector register.
    vector: bool,
    /// log2 of its bytes.
    scale: u32,
    load: bool,
    /// Sign-extended to this width.
    sext: Option<Width>,
}

fn size(scale: u32) -> Width {
    Width::from_bytes(1 << scale).unwrap_or(Width::W64)
}

impl Lifter<'_> {
    /// What `size`, `V` and `opc` of the single register forms mean; `Ok(None)` is a prefetch.
    fn single(&mut self) -> Option<Option<Transfer>> {
        let w = self.w;
        let (scale, opc) = (w.bits(30, 2), w.bits(22, 2));
        if w.bit(26) {
            let scale = scale | (opc & 2) << 1;
            let plain = Transfer { vector: true, scale, load: opc & 1 != 0, sext: None };
            return (scale <= 4).then_some(Some(plain));
        }
        let sext = match (opc, scale) {
            (0 | 1, _) => None,
            (2, 3) => return Some(None),
            (2, _) => Some(Width::W64),
            (_, 0 | 1) => Some(Width::W32),
            _ => return None,
        };
        Some(Some(Transfer { vector: false, scale, load: opc != 0, sext }))
    }

    fn base(&self, disp: i64) -> Addr {
        Addr { disp, ..Addr::flat(Var(self.w.rn())) }
    }

    fn transfer_one(&mut self, t: Transfer, r: u8, addr: Addr, mem: Mem) {
        let w = size(t.scale);
        if t.vector {
            let size = 1 << t.scale;
            if t.load {
                self.b.vload(size, VecVar(r), addr, mem);
            } else {
                self.b.vstore(size, VecVar(r), addr, mem);
            }
        } else if !t.load {
            self.b.store(w, Self::x(r), addr, mem);
        } else {
            let d = self.to(r);
            match t.sext {
                Some(to) => self.b.load_sext(w, to, d, addr, mem),
                None => self.b.load(w, d, addr, mem),
            }
        }
    }

    pub(super) fn memory(&mut self, insn: Insn) -> Flow {
        let w = self.w;
        if w.bit(26) && self.fp_trapped_early(insn) {
            return Some(());
        }
        let mem = self.mem();
        match insn {
            Insn::LdLiteral => {
                let at = self.pc.wrapping_add((w.signed(5, 19) << 2) as u64);
                let opc = w.bits(30, 2);
                let load = |vector, scale, sext| Transfer { vector, scale, load: true, sext };
                let t = match (w.bit(26), opc) {
                    (true, 3) => return None,
                    (true, _) => load(true, 2 + opc, None),
                    (false, 2) => load(false, 2, Some(Width::W64)),
                    (false, 3) => return Some(()),
                    (false, _) => load(false, 2 + opc, None),
                };
                self.transfer_one(t, w.rd(), Addr::fixed(at), mem);
            }
            Insn::LdStPair => self.pair()?,
            Insn::LdStUnscaled | Insn::LdStUnsigned => {
                let Some(t) = self.single()? else { return Some(()) };
                let disp = match insn {
                    Insn::LdStUnscaled => w.signed(12, 9),
                    _ => i64::from(w.bits(10, 12)) << t.scale,
                };
                self.transfer_one(t, w.rd(), self.base(disp), mem);
            }
            Insn::LdStUnpriv => {
                let t = self.single()??;
                self.transfer_one(t, w.rd(), self.base(w.signed(12, 9)), Mem::plain(1));
            }
            Insn::LdStReg => {
                let option = w.bits(13, 3);
                let Some(t) = self.single()? else { return Some(()) };
                if option & 2 == 0 {
                    return None;
                }
                let shift = if w.bit(12) { t.scale } else { 0 };
                let base = Var(w.rn());
                let addr = if shift <= 3 {
                    let index = match (option, Self::x(w.rm())) {
                        (3 | 7, Val::Var(v)) => v,
                        _ => match self.extended(option, 0) {
                            Val::Var(v) => v,
                            Val::Imm(_) => return None,
                        },
                    };
                    Addr { index: Some(index), scale: shift as u8, ..Addr::flat(base) }
                } else {
                    let offset = self.extended(option, shift);
                    Addr::flat(self.bin(BinOp::Add, Width::W64, base, offset))
                };
                self.transfer_one(t, w.rd(), addr, mem);
            }
            Insn::LdStPost | Insn::LdStPre => {
                let t = self.single()??;
                let disp = w.signed(12, 9);
                let addr = self.base(if insn == Insn::LdStPre { disp } else { 0 });
                let (r, base) = (w.rd(), Var(w.rn()));
                if t.load && !t.vector {
                    // The base is written back first: a load of the base itself keeps what was loaded.
                    let value = self.tmp();
                    match t.sext {
                        Some(to) => self.b.load_sext(size(t.scale), to, value, addr, mem),
                        None => self.b.load(size(t.scale), value, addr, mem),
                    }
                    self.b.add(Width::W64, base, base, disp as u64);
                    let d = self.to(r);
                    self.b.mov(Width::W64, d, value);
                } else {
                    self.transfer_one(t, r, addr, mem);
                    self.b.add(Width::W64, base, base, disp as u64);
                }
            }
            Insn::LdStOrdered => {
                let (scale, load) = (w.bits(30, 2), w.bit(22));
                let t = Transfer { vector: false, scale, load, sext: None };
                self.transfer_one(t, w.rd(), self.base(0), mem);
            }
            Insn::LdStExcl => self.exclusive(w.bits(30, 2), false),
            Insn::LdStExclPair => self.exclusive(2 + w.bits(30, 1), true),
            Insn::Cas => self.compare_and_swap()?,
            Insn::CasPair => self.compare_and_swap_pair()?,
            _ => self.atomic()?,
        }
        Some(())
    }

    /// Bit 26 says "vector" in all but the exclusive and atomic forms.
    fn fp_trapped_early(&mut self, insn: Insn) -> bool {
        let vectors = !matches!(
            insn,
            Insn::LdStExcl
                | Insn::LdStExclPair
                | Insn::LdStOrdered
                | Insn::Cas
                | Insn::CasPair
                | Insn::Atomic
                | Insn::LdStUnpriv
        );
        vectors && self.fp_trapped()
    }

    fn pair(&mut self) -> Flow {
        let w = self.w;
        let (opc, vector, load, mode) = (w.bits(30, 2), w.bit(26), w.bit(22), w.bits(23, 2));
        let scale = match (vector, opc) {
            (_, 3) => return None,
            (true, _) => 2 + opc,
            (false, 2) => 3,
            (false, 1) if !load || mode == 0 => return None,
            (false, _) => 2,
        };
        let disp = w.signed(15, 7) << scale;
        let offset = if mode == 1 { 0 } else { disp };
        let second = offset + (1 << scale);
        let (base, mem) = (Var(w.rn()), self.mem());
        let (r1, r2) = (w.rd(), w.ra());
        let (first, second) = (self.base(offset), self.base(second));
        if vector {
            let size = 1 << scale;
            if load {
                let t = self.b.vtmp();
                self.b.vload(size, t, first, mem);
                self.b.vload(size, VecVar(r2), second, mem);
                self.b.vmov(VecVar(r1), t);
            } else {
                self.b.vstore(size, VecVar(r1), first, mem);
                self.b.vstore(size, VecVar(r2), second, mem);
            }
        } else if load {
            let (a, b) = (self.tmp(), self.tmp());
            for (t, addr) in [(a, first), (b, second)] {
                if opc == 1 {
                    self.b.load_sext(Width::W32, Width::W64, t, addr, mem);
                } else {
                    self.b.load(size(scale), t, addr, mem);
                }
            }
            if mode & 1 != 0 {
                self.b.add(Width::W64, base, base, disp as u64);
            }
            for (r, t) in [(r1, a), (r2, b)] {
                let d = self.to(r);
                self.b.mov(Width::W64, d, t);
            }
            return Some(());
        } else {
            self.b.store(size(scale), Self::x(r1), first, mem);
            self.b.store(size(scale), Self::x(r2), second, mem);
        }
        if mode & 1 != 0 {
            self.b.add(Width::W64, base, base, disp as u64);
        }
        Some(())
    }

    fn exclusive(&mut self, scale: u32, pair: bool) {
        let w = self.w;
        let (wide, access) = (Width::W64, size(scale));
        let (first, second) = (self.base(0), self.base(1 << scale));
        let base = Var(w.rn());
        let bytes = (1_u64 << scale) << u32::from(pair);
        let (r1, r2) = (w.rd(), w.ra());
        if w.bit(22) {
            let mem = self.mem();
            let (a, b) = (self.tmp(), self.tmp());
            self.b.load(access, a, first, mem);
            if pair {
                self.b.load(access, b, second, mem);
                self.b.mov(wide, var::EX_VALUE2, b);
            }
            self.b.mov(wide, var::EX_ADDRESS, base);
            self.b.mov(wide, var::EX_VALUE, a);
            self.b.konst(var::EX_SIZE, bytes);
            let d = self.to(r1);
            self.b.mov(wide, d, a);
            if pair {
                let d = self.to(r2);
                self.b.mov(wide, d, b);
            }
            return;
        }
        // The store is done if memory still has what was read: nothing else runs in between.
        let (fail, done) = (self.b.new_label(), self.b.new_label());
        let mem = self.rmw();
        let t = self.tmp();
        self.b.branch(Cmp::new(Cond::Ne, wide, var::EX_SIZE, bytes), fail);
        self.b.branch(Cmp::new(Cond::Ne, wide, var::EX_ADDRESS, base), fail);
        self.b.load(access, t, first, mem);
        self.b.branch(Cmp::new(Cond::Ne, access, t, var::EX_VALUE), fail);
        if pair {
            let u = self.tmp();
            self.b.load(access, u, second, mem);
            self.b.branch(Cmp::new(Cond::Ne, access, u, var::EX_VALUE2), fail);
            self.b.store(access, Self::x(r2), second, mem);
        }
        self.b.store(access, Self::x(r1), first, mem);
        self.b.konst(var::EX_SIZE, 0);
        let d = self.to(w.rm());
        self.b.konst(d, 0);
        self.b.jump(done);
        self.b.label(fail);
        self.b.konst(var::EX_SIZE, 0);
        self.b.konst(d, 1);
        self.b.label(done);
    }

    fn compare_and_swap(&mut self) -> Flow {
        if !self.features.lse {
            return None;
        }
        let w = self.w;
        let access = size(w.bits(30, 2));
        let (rs, rt) = (w.rm(), w.rd());
        let (addr, mem) = (self.base(0), self.rmw());
        let old = self.tmp();
        self.b.load(access, old, addr, mem);
        let new = self.tmp();
        let same = Cmp::new(Cond::Eq, access, old, Self::x(rs));
        self.b.select(access, new, same, Self::x(rt), old);
        self.b.store(access, new, addr, mem);
        let d = self.to(rs);
        self.b.mov(access, d, old);
        Some(())
    }

    fn compare_and_swap_pair(&mut self) -> Flow {
        let w = self.w;
        let (rs, rt) = (w.rm(), w.rd());
        if !self.features.lse || (rs | rt) & 1 != 0 {
            return None;
        }
        let scale = 2 + w.bits(30, 1);
        let access = size(scale);
        let (first, second, mem) = (self.base(0), self.base(1 << scale), self.rmw());
        let (a, b) = (self.tmp(), self.tmp());
        self.b.load(access, a, first, mem);
        self.b.load(access, b, second, mem);
        let other = self.b.new_label();
        self.b.branch(Cmp::new(Cond::Ne, access, a, Self::x(rs)), other);
        self.b.branch(Cmp::new(Cond::Ne, access, b, Self::x(rs + 1)), other);
        self.b.store(access, Self::x(rt), first, mem);
        self.b.store(access, Self::x(rt + 1), second, mem);
        self.b.label(other);
        for (r, t) in [(rs, a), (rs + 1, b)] {
            let d = self.to(r);
            self.b.mov(access, d, t);
        }
        Some(())
    }

    fn atomic(&mut self) -> Flow {
        let w = self.w;
        if !self.features.lse {
            return None;
        }
        let access = size(w.bits(30, 2));
        let (rs, rt) = (Self::x(w.rm()), w.rd());
        let (addr, mem) = (self.base(0), self.rmw());
        let old = self.tmp();
        let new = self.tmp();
        let choice = |cond| Cmp::new(cond, access, old, rs);
        let kind = (w.bit(15), w.bits(12, 3));
        self.b.load(access, old, addr, mem);
        match kind {
            (true, 0) => self.b.mov(access, new, rs),
            (false, 0) => self.b.add(access, new, old, rs),
            (false, 1) => self.b.bin(BinOp::AndNot, access, new, old, rs),
            (false, 2) => self.b.xor(access, new, old, rs),
            (false, 3) => self.b.or(access, new, old, rs),
            (false, 4) => self.b.select(access, new, choice(Cond::GtS), old, rs),
            (false, 5) => self.b.select(access, new, choice(Cond::LtS), old, rs),
            (false, 6) => self.b.select(access, new, choice(Cond::GtU), old, rs),
            (false, 7) => self.b.select(access, new, choice(Cond::LtU), old, rs),
            _ => return None,
        }
        self.b.store(access, new, addr, mem);
        let d = self.to(rt);
        self.b.mov(access, d, old);
        Some(())
    }

    /// A vector's lane as a value of its width.
    pub(super) fn lane(&mut self, w: Width, v: VecVar, lane: u8) -> Var {
        let t = self.tmp();
        self.b.vget(w, t, v, lane);
        t
    }

    /// `!x`.
    pub(super) fn not(&mut self, w: Width, x: Val) -> Var {
        let t = self.tmp();
        self.b.un(UnOp::Not, w, t, x);
        t
    }
}
