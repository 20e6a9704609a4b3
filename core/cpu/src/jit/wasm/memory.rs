//! Guest memory: addresses, the fast half of the TLB, and the shims behind it.

use wasm_encoder::{BlockType, ValType};

use super::Type;
use super::func::{CTX, Func, Rmw, TLB, Ty, field};
use super::int::ty_bits;
use crate::ir::{Addr, Mem, Val, Var, Width};
use crate::jit::abi::{self, TLB_BITS, fast};

const PAGE_BITS: u32 = 12;

/// A linear address in a local, and the entry of the TLB it may be found in.
struct Look {
    linear: u32,
    ty: Ty,
    entry: u32,
}

/// An access between its two halves.
struct Reach {
    look: Look,
    /// How far from the host address on the stack it is.
    offset: u32,
}

impl Func<'_> {
    /// How an address is held.
    pub(super) fn addr_ty(&self, a: &Addr) -> Ty {
        let sum = Ty::of(a.wrap);
        match a.segment {
            None => sum.min(Ty::of(a.lin)),
            Some(_) => Ty::of(a.lin),
        }
    }

    /// Leaves a linear address on the stack.
    pub(super) fn addr(&mut self, a: &Addr) -> Ty {
        let result = self.addr_ty(a);
        // The sum only needs the bits that are left of it.
        let ty = Ty::of(a.wrap).min(Ty::of(a.lin));
        let mut parts = 0;
        if let Some(base) = a.base {
            self.get(ty, Val::Var(base));
            parts += 1;
        }
        if let Some(index) = a.index {
            self.get(ty, Val::Var(index));
            if a.scale > 0 {
                self.const_(ty, a.scale.into());
                match ty {
                    Ty::I32 => self.i().i32_shl(),
                    Ty::I64 => self.i().i64_shl(),
                };
            }
            self.plus(ty, &mut parts);
        }
        if a.disp != 0 || parts == 0 {
            self.const_(ty, a.disp as u64);
            self.plus(ty, &mut parts);
        }
        let have = match (a.base, a.index, a.disp) {
            (Some(base), None, 0) => self.bits_of(Val::Var(base)),
            _ => 64,
        };
        let cut = if a.segment.is_none() { a.wrap.min(a.lin) } else { a.wrap };
        self.cut(ty, have.min(ty_bits(ty)), cut.bits());
        if let Some(segment) = a.segment {
            self.convert(ty, result);
            self.get(result, Val::Var(segment));
            let mut one = 1;
            self.plus(result, &mut one);
            self.cut(result, 64, a.lin.bits());
        }
        result
    }

    /// Adds the value on the stack to the one below it, if there is one.
    fn plus(&mut self, ty: Ty, parts: &mut u32) {
        if *parts > 0 {
            match ty {
                Ty::I32 => self.i().i32_add(),
                Ty::I64 => self.i().i64_add(),
            };
        }
        *parts = 1;
    }

    /// Puts an address into a local and compares it with its entry; leaves 1 if the access is direct.
    fn look(&mut self, addr: &Addr, bytes: u32, mmu: u8, write: bool) -> Look {
        let ty = self.addr(addr);
        let linear = self.scratch(4, ty.val_type());
        let entry = self.scratch(5, ValType::I32);
        let shift = PAGE_BITS - fast::SIZE.trailing_zeros();
        let mask = ((1 << TLB_BITS) - 1) * fast::SIZE;
        self.i().local_tee(linear);
        self.convert(ty, Ty::I32);
        let tag = if write { fast::WRITE } else { fast::READ };
        self.i()
            .i32_const(shift as i32)
            .i32_shr_u()
            .i32_const(mask as i32)
            .i32_and()
            .local_get(TLB)
            .i32_add()
            .local_tee(entry)
            .i64_load(field(tag, 3))
            .local_get(linear);
        if bytes > 1 {
            self.const_(ty, u64::from(bytes) - 1);
            self.plus(ty, &mut 1);
        }
        self.const_(ty, !0xfff);
        match ty {
            Ty::I32 => self.i().i32_and(),
            Ty::I64 => self.i().i64_and(),
        };
        if mmu > 0 {
            self.const_(ty, mmu.into());
            match ty {
                Ty::I32 => self.i().i32_or(),
                Ty::I64 => self.i().i64_or(),
            };
        }
        self.convert(ty, Ty::I64);
        self.i().i64_eq();
        Look { linear, ty, entry }
    }

    /// Begins the half of an access that is done directly, if it is; the host address is on the
    /// stack.
    fn reach(&mut self, addr: &Addr, bytes: u32, mem: Mem, write: bool, ty: BlockType) -> Reach {
        let Some(span) = self.span else {
            let look = self.look(addr, bytes, mem.mmu, write);
            self.if_(ty, true);
            self.host(&look);
            return Reach { look, offset: 0 };
        };
        let near = self.near(span.group);
        let look = if span.first {
            let group = self.groups[span.group];
            let look = self.look(&group.addr, group.len, group.mmu, group.write);
            self.if_(ty, true);
            self.host(&look);
            self.i().local_tee(near);
            look
        } else {
            self.i().local_get(near);
            self.if_(ty, true);
            self.i().local_get(near);
            let ty = self.addr_ty(addr);
            Look { linear: self.scratch(4, ty.val_type()), ty, entry: 0 }
        };
        Reach { look, offset: span.offset }
    }

    /// Begins the other half: the address is in its local then.
    fn missed(&mut self, addr: &Addr, reach: &Reach) {
        self.else_();
        if let Some(span) = self.span {
            if span.first {
                let near = self.near(span.group);
                self.i().i32_const(0).local_set(near);
            }
            self.addr(addr);
            self.i().local_set(reach.look.linear);
        }
    }

    /// Leaves the host address on the stack.
    fn host(&mut self, l: &Look) {
        self.i().local_get(l.linear);
        self.convert(l.ty, Ty::I32);
        self.i().local_get(l.entry).i32_load(field(fast::HOST, 2)).i32_add();
    }

    /// The first parameters of every memory shim.
    fn shim(&mut self, l: &Look) {
        self.put_left();
        self.i().local_get(CTX).local_get(l.linear);
        self.convert(l.ty, Ty::I64);
    }

    pub(super) fn load(&mut self, w: Width, to: Option<Width>, d: Var, addr: &Addr, mem: Mem) {
        let rmw = mem.flags & Mem::WRITE != 0;
        let ty = Ty::of(to.unwrap_or(w));
        let result = BlockType::Result(ty.val_type());
        let reach = self.reach(addr, w.bytes(), mem, rmw, result);
        let l = &reach.look;
        let kept = (rmw && self.span.is_none()).then(|| self.scratch(6, ValType::I32));
        let value = self.scratch(4, ty.val_type());
        let value = if value == l.linear { self.scratch(5, ty.val_type()) } else { value };
        let value = if value == l.entry { self.scratch(7, ty.val_type()) } else { value };
        if let Some(kept) = kept {
            self.i().local_tee(kept);
        }
        let m = field(reach.offset, 0);
        match (w, ty, to.is_some()) {
            (Width::W8, Ty::I32, false) => self.i().i32_load8_u(m),
            (Width::W8, Ty::I32, true) => self.i().i32_load8_s(m),
            (Width::W8, Ty::I64, false) => self.i().i64_load8_u(m),
            (Width::W8, Ty::I64, true) => self.i().i64_load8_s(m),
            (Width::W16, Ty::I32, false) => self.i().i32_load16_u(m),
            (Width::W16, Ty::I32, true) => self.i().i32_load16_s(m),
            (Width::W16, Ty::I64, false) => self.i().i64_load16_u(m),
            (Width::W16, Ty::I64, true) => self.i().i64_load16_s(m),
            (Width::W32, Ty::I32, _) => self.i().i32_load(m),
            (Width::W32, Ty::I64, false) => self.i().i64_load32_u(m),
            (Width::W32, Ty::I64, true) => self.i().i64_load32_s(m),
            (Width::W64, ..) => self.i().i64_load(m),
        };
        self.missed(addr, &reach);
        self.shim(&reach.look);
        self.i().i32_const(abi::access(w.bytes(), mem.mmu, rmw, 0) as i32);
        self.call(self.shims.load, Type::Load);
        self.convert(Ty::I64, ty);
        if to.is_some() {
            self.sign(ty, w);
        }
        self.i().local_set(value);
        self.check_status();
        if let Some(kept) = kept {
            self.i().i32_const(0).local_set(kept);
        }
        self.i().local_get(value);
        self.end();
        let bits = match to {
            Some(to) => {
                self.cut(ty, 64, to.bits());
                to.bits()
            }
            None => w.bits(),
        };
        if let Some(host) = kept {
            self.rmw = Some(Rmw { addr: *addr, mem, bytes: w.bytes(), host });
        }
        self.set(d, ty, bits);
    }

    pub(super) fn store(&mut self, w: Width, a: Val, addr: &Addr, mem: Mem) {
        let ty = Ty::of(w).min(self.ty(a));
        let again = self
            .rmw
            .as_ref()
            .filter(|_| self.span.is_none())
            .filter(|r| r.addr == *addr && r.bytes == w.bytes() && r.mem.mmu == mem.mmu)
            .map(|r| r.host);
        let reach = match again {
            Some(host) => {
                let ty = self.addr_ty(addr);
                self.i().local_get(host).i32_const(0).i32_ne();
                self.if_(BlockType::Empty, true);
                self.i().local_get(host);
                let look = Look { linear: self.scratch(4, ty.val_type()), ty, entry: 0 };
                Reach { look, offset: 0 }
            }
            None => self.reach(addr, w.bytes(), mem, true, BlockType::Empty),
        };
        let ty = if w == Width::W64 { Ty::I64 } else { ty };
        self.get(ty, a);
        let m = field(reach.offset, 0);
        match (w, ty) {
            (Width::W8, Ty::I32) => self.i().i32_store8(m),
            (Width::W8, Ty::I64) => self.i().i64_store8(m),
            (Width::W16, Ty::I32) => self.i().i32_store16(m),
            (Width::W16, Ty::I64) => self.i().i64_store16(m),
            (Width::W32, Ty::I32) => self.i().i32_store(m),
            (Width::W32, Ty::I64) => self.i().i64_store32(m),
            (Width::W64, _) => self.i().i64_store(m),
        };
        self.missed(addr, &reach);
        if again.is_some() {
            self.addr(addr);
            self.i().local_set(reach.look.linear);
        }
        self.shim(&reach.look);
        self.get(Ty::I64, a);
        self.i().i32_const(abi::access(w.bytes(), mem.mmu, false, 0) as i32);
        self.call(self.shims.store, Type::Store);
        self.check_status();
        self.end();
    }

    pub(super) fn probe(&mut self, size: u16, addr: &Addr, mem: Mem) {
        let l = self.look(addr, size.into(), mem.mmu, true);
        self.i().i32_eqz();
        self.if_(BlockType::Empty, false);
        self.shim(&l);
        self.i().i32_const(abi::access(size.into(), mem.mmu, false, 0) as i32);
        self.call(self.shims.probe, Type::Probe);
        self.check_status();
        self.end();
    }

    /// Between `direct` and `slow`: whether 1 to 16 bytes are reached directly. `direct` finds the host address on the
    /// stack; `slow` the shim's first two parameters.
    pub(super) fn vec_access(
        &mut self,
        size: u8,
        addr: &Addr,
        mem: Mem,
        write: bool,
        direct: impl FnOnce(&mut Self),
        slow: impl FnOnce(&mut Self),
    ) {
        let reach = self.reach(addr, size.into(), mem, write, BlockType::Empty);
        if reach.offset > 0 {
            self.i().i32_const(reach.offset as i32).i32_add();
        }
        direct(self);
        self.missed(addr, &reach);
        self.shim(&reach.look);
        slow(self);
        self.end();
    }
}
