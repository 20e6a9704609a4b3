//! Memory accesses: a look at the fast TLB, and the access itself ([`abi`](crate::jit::abi), "Fast path of memory").

use super::asm::{Alu, At, Cc, Mark, R14, R15, RAX, RCX, RDX, RSP, Rm, Shift, at, at2};
use super::ways::{Cold, Left};
use super::xmm::Vectors;
use super::{Emit, Extend, Group, Span, Src, slot};
use crate::ir::{Addr, Mem, Val, Var, VecVar, Width};
use crate::jit::abi::{TLB_BITS, access, fast};

impl Emit<'_> {
    /// RAX = the linear address.
    pub(super) fn address(&mut self, addr: &Addr) {
        let w = if addr.wrap == Width::W64 { Width::W64 } else { Width::W32 };
        let base = addr.base.map(|v| self.src(Val::Var(v)));
        let base = base.map(|s| self.in_register(w, RAX, s));
        let index = addr.index.map(|v| self.src(Val::Var(v)));
        let index = index.map(|s| (self.in_register(w, RCX, s), addr.scale));
        // In 32 bits the displacement counts modulo those.
        let near =
            if w == Width::W32 { Some(addr.disp as i32) } else { i32::try_from(addr.disp).ok() };
        match (base, index, near) {
            (None, None, _) => {
                let n = addr.disp as u64 & w.mask();
                self.a.set(RAX, n);
            }
            (Some(base), None, Some(0)) => {
                if base != RAX {
                    self.a.load(w, RAX, base);
                }
            }
            (base, index, Some(disp)) => self.a.lea(w, RAX, At { base, index, disp }),
            (base, index, None) => {
                self.a.lea(w, RAX, At { base, index, disp: 0 });
                self.a.set(RDX, addr.disp as u64);
                self.a.alu(Alu::Add, w, RAX, RDX);
            }
        }
        if matches!(addr.wrap, Width::W8 | Width::W16) {
            self.a.load(addr.wrap, RAX, RAX);
        }
        let sum = match addr.segment.map(|v| self.place(v)) {
            Some(segment) => {
                let w = if addr.lin == Width::W64 { Width::W64 } else { Width::W32 };
                self.a.alu(Alu::Add, w, RAX, segment);
                w
            }
            None => addr.wrap,
        };
        if addr.lin.bits() < sum.bits() {
            self.a.load(addr.lin, RAX, RAX);
        }
    }

    /// Looks the page of the address in RAX up: RCX is then what to add to it for the host's. The mark is where
    /// it goes on a miss.
    fn look_up(&mut self, bytes: u32, mem: Mem, write: bool) -> Mark {
        let miss = self.a.mark();
        self.look_up_or(bytes, mem.mmu, write, miss);
        miss
    }

    fn look_up_or(&mut self, bytes: u32, mmu: u8, write: bool, miss: Mark) {
        let shift = 12 - fast::SIZE.trailing_zeros();
        let mask = ((1u32 << TLB_BITS) - 1) * fast::SIZE;
        self.a.load(Width::W32, RCX, RAX);
        self.a.shift_imm(Shift::Shr, Width::W32, RCX, shift as u8);
        self.a.alu_imm(Alu::And, Width::W32, RCX, mask as i32);
        let wide = self.wide;
        if wide {
            self.a.alu(Alu::Add, Width::W64, RCX, at(RSP, slot::TLB));
        }
        self.a.lea(Width::W64, RDX, at(RAX, bytes as i32 - 1));
        self.a.alu_imm(Alu::And, Width::W64, RDX, !0xfff);
        if mmu != 0 {
            self.a.alu_imm(Alu::Or, Width::W64, RDX, i32::from(mmu));
        }
        let which = if write { fast::WRITE } else { fast::READ };
        let entry = |offset: u32| match wide {
            true => at(RCX, offset as i32),
            false => at2(R14, RCX, offset as i32),
        };
        self.a.alu(Alu::Cmp, Width::W64, RDX, entry(which));
        self.a.jump_if(Cc::Ne, miss);
        self.a.load(Width::W64, RCX, entry(fast::HOST));
    }

    /// Where the current operation's bytes are in the host's memory, if it belongs to a group: the first of one
    /// looks that up. RCX may be part of it.
    fn in_group(&mut self) -> Option<At> {
        let n = self.spans.binary_search_by_key(&self.index, |s| s.op).ok()?;
        let Span { group, first, offset, .. } = self.spans[n];
        let keep = self.keeps[group]?;
        if first {
            let Group { addr, len, mmu, write } = self.groups[group];
            self.address(&addr);
            let miss = self.plainly();
            self.look_up_or(len, mmu, write, miss);
            match keep {
                Rm::Reg(r) => self.a.lea(Width::W64, r, at2(RAX, RCX, 0)),
                Rm::Mem(m) => {
                    self.a.alu(Alu::Add, Width::W64, RCX, RAX);
                    self.a.store(Width::W64, m, RCX);
                }
            }
            if keep != Rm::Reg(R15) {
                return Some(at(RCX, offset as i32));
            }
        }
        let base = self.in_register(Width::W64, RCX, keep.into());
        Some(at(base, offset as i32))
    }

    /// The slow way of an access, which comes back here; vectors before it were where `before` says.
    fn slow(
        &mut self,
        here: Mark,
        before: Vectors,
        stub: usize,
        access: u32,
        value: Option<Src>,
        result: Option<(Rm, Width, Extend)>,
    ) {
        let back = self.a.mark();
        self.a.here(back);
        let (rest, pc, vectors) = (self.rest(), self.pc, self.vectors);
        self.cold.push(Cold::Access {
            here,
            left: Left { vectors: before, ..self.left() },
            vectors,
            back,
            stub,
            value,
            access,
            rest,
            pc,
            result,
        });
    }

    /// Puts what was loaded where it belongs: from memory, or zero-extended from RAX.
    pub(super) fn loaded(&mut self, place: Rm, w: Width, extend: Extend, from: Rm) {
        let r = match place {
            Rm::Reg(r) => r,
            Rm::Mem(_) => RAX,
        };
        match extend {
            Extend::Zero => self.a.load(w, r, from),
            Extend::Sign(to) if to == w => self.a.load(w, r, from),
            Extend::Sign(to) => {
                self.a.load_signed(w, to == Width::W64, r, from);
                if matches!(to, Width::W8 | Width::W16) {
                    self.a.load(to, r, r);
                }
            }
        }
        if let Rm::Mem(m) = place {
            self.a.store(Width::W64, m, RAX);
        }
    }

    pub(super) fn read(&mut self, w: Width, extend: Extend, d: Var, addr: &Addr, mem: Mem) {
        self.most[usize::from(d.0)] = u64::MAX;
        let place = self.place(d);
        if let Some(from) = self.in_group() {
            return self.loaded(place, w, extend, from.into());
        }
        self.address(addr);
        let rmw = mem.flags & Mem::WRITE != 0;
        let miss = self.look_up(w.bytes(), mem, rmw);
        self.loaded(place, w, extend, at2(RAX, RCX, 0).into());
        let how = access(w.bytes(), mem.mmu, rmw, 0);
        self.slow(miss, self.vectors, self.stubs.load, how, None, Some((place, w, extend)));
    }

    pub(super) fn write(&mut self, w: Width, a: Val, addr: &Addr, mem: Mem) {
        let value = self.src(a);
        if let Some(to) = self.in_group() {
            return self.stored(w, value, to);
        }
        self.address(addr);
        let miss = self.look_up(w.bytes(), mem, true);
        self.stored(w, value, at2(RAX, RCX, 0));
        let how = access(w.bytes(), mem.mmu, false, 0);
        self.slow(miss, self.vectors, self.stubs.store, how, Some(value), None);
    }

    /// Stores a value; RDX is lost.
    fn stored(&mut self, w: Width, value: Src, to: At) {
        match value {
            Src::Imm(n) if i32::try_from(w.sext(n) as i64).is_ok() => {
                self.a.store_imm(w, to, w.sext(n) as i32);
            }
            value => {
                let r = self.in_register(w, RDX, value);
                self.a.store(w, to, r);
            }
        }
    }

    pub(super) fn probe(&mut self, size: u16, addr: &Addr, mem: Mem) {
        self.address(addr);
        let miss = self.look_up(size.into(), mem, true);
        let how = access(size.into(), mem.mmu, false, 0);
        self.slow(miss, self.vectors, self.stubs.probe, how, None, None);
    }

    pub(super) fn vread(&mut self, size: u8, d: VecVar, addr: &Addr, mem: Mem) {
        if let Some(from) = self.in_group() {
            return self.vloaded(size, d, from);
        }
        self.address(addr);
        let miss = self.look_up(size.into(), mem, false);
        let before = self.vectors;
        self.vloaded(size, d, at2(RAX, RCX, 0));
        let how = access(size.into(), mem.mmu, false, d.0);
        self.slow(miss, before, self.stubs.vload, how, None, None);
    }

    fn vloaded(&mut self, size: u8, d: VecVar, from: At) {
        match Width::from_bytes(size.into()) {
            None => {
                let r = self.new_vector(d);
                self.a.vload(r, from);
            }
            Some(w @ (Width::W32 | Width::W64)) => {
                let r = self.new_vector(d);
                self.a.vload_low(w, r, from);
            }
            Some(w) => {
                let to = self.take_vector(d);
                self.a.load(w, RAX, from);
                self.a.store(Width::W64, to, RAX);
                self.a.store_imm(Width::W64, At { disp: to.disp + 8, ..to }, 0);
            }
        }
    }

    pub(super) fn vwrite(&mut self, size: u8, a: VecVar, addr: &Addr, mem: Mem) {
        if let Some(to) = self.in_group() {
            return self.vstored(size, a, to);
        }
        self.address(addr);
        let miss = self.look_up(size.into(), mem, true);
        let before = self.vectors;
        self.vstored(size, a, at2(RAX, RCX, 0));
        let how = access(size.into(), mem.mmu, false, a.0);
        self.slow(miss, before, self.stubs.vstore, how, None, None);
    }

    fn vstored(&mut self, size: u8, a: VecVar, to: At) {
        match Width::from_bytes(size.into()) {
            None => {
                let r = self.vector(a);
                self.a.vstore(to, r);
            }
            Some(w @ (Width::W32 | Width::W64)) => {
                let r = self.vector(a);
                self.a.vstore_low(w, to, r);
            }
            Some(w) => {
                let from = self.vector_place(a);
                self.a.load(w, RDX, from);
                self.a.store(w, to, RDX);
            }
        }
    }
}
