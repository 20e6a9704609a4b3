//! Moves, the stack, flag bits, and instructions that do nothing here.

use super::*;
use crate::ir::UnOp;
use crate::x86::quick::{WRITABLE, what};
use crate::x86::state::flag;

impl Lifter<'_> {
    pub(super) fn data(&mut self) -> Flow {
        match self.i.id {
            Id::MOV | Id::MOVNTI => return self.mov(),
            Id::MOVZX => {
                let t = self.read_copy(self.op(1));
                self.write_reg(self.op(0), t);
            }
            Id::MOVSX | Id::MOVSXD => self.movsx(),
            Id::MOVBE => {
                let w = self.width(self.op(0));
                let a = self.read(self.op(1));
                let t = self.tmp();
                if w == Width::W16 {
                    self.b.bin(BinOp::Rol, w, t, a, 8u64);
                } else {
                    self.b.un(UnOp::Bswap, w, t, a);
                }
                self.write(self.op(0), t);
            }
            Id::LEA => {
                let mem = self.i.mem;
                let offset = self.offset(&mem, 0);
                let op = self.op(0);
                if let Operand::Gpr(n, 8) = op {
                    self.b.lea(gpr(n), offset);
                } else {
                    let t = self.tmp();
                    self.b.lea(t, offset);
                    self.write_reg(op, t);
                }
            }
            Id::XCHG => {
                let b = self.read_copy(self.op(1));
                let (a, dest) = self.read_dest(self.op(0));
                let w = self.width(self.op(0));
                let a = self.copy(w, a);
                self.write_dest(dest, b);
                self.write_reg(self.op(1), a);
            }
            Id::XLAT => self.xlat(),
            Id::PUSH => return self.push_operand(),
            Id::POP => return self.pop_operand(),
            Id::PUSHA => self.push_all(),
            Id::POPA => self.pop_all(),
            Id::ENTER => return self.enter(),
            Id::LEAVE => self.leave_frame(),
            Id::LES => return self.load_far(seg::ES),
            Id::LDS => return self.load_far(seg::DS),
            Id::LFS => return self.load_far(seg::FS),
            Id::LGS => return self.load_far(seg::GS),
            Id::LSS => return self.load_far(seg::SS),
            Id::SETCC => {
                let cmp = self.condition(self.i.condition());
                let t = self.tmp();
                self.b.set(t, cmp);
                self.write(self.op(0), t);
            }
            Id::CMOVCC => {
                let op = self.op(0);
                let w = self.width(op);
                let b = self.read(self.op(1));
                let a = self.read(op);
                let cmp = self.condition(self.i.condition());
                let t = self.tmp();
                self.b.select(w, t, cmp, b, a);
                self.write_reg(op, t);
            }
            Id::LAHF => {
                let flags = self.flags();
                let t = self.bin(BinOp::Or, Width::W64, flags, flag::FIXED);
                self.b.deposit(RAX, RAX, t, 8, 8);
            }
            Id::SAHF => {
                const LOW: u64 = flag::SF | flag::ZF | flag::AF | flag::PF | flag::CF;
                let flags = self.flags();
                let kept = self.bin(BinOp::And, Width::W64, flags, flag::OF);
                let ah = self.tmp();
                self.b.extract(ah, RAX, 8, 8);
                let ah = self.bin(BinOp::And, Width::W64, ah, LOW);
                let t = self.bin(BinOp::Or, Width::W64, kept, ah);
                self.cc_flags(t);
            }
            Id::SALC => {
                let carry = self.carry();
                let t = self.bin(BinOp::Sub, Width::W8, 0u64, carry);
                self.b.deposit(RAX, RAX, t, 0, 8);
            }
            Id::CLC => self.cc_carry(0u64, None),
            Id::STC => self.cc_carry(1u64, None),
            Id::CMC => {
                let carry = self.carry();
                let t = self.bin(BinOp::Xor, Width::W64, carry, 1u64);
                self.cc_carry(t, None);
            }
            // The direction is part of the block key.
            Id::CLD if self.has(key::DOWN) => {
                self.b.and(Width::W64, REST, REST, !flag::DF);
                return self.leave_next();
            }
            Id::STD if !self.has(key::DOWN) => {
                self.b.or(Width::W64, REST, REST, flag::DF);
                return self.leave_next();
            }
            Id::CLFLUSH | Id::CLFLUSHOPT | Id::CLWB => {
                // Faults as a read of a byte would.
                self.load(1, 0);
            }
            // NOP, prefetches and fences: accesses are in program order already.
            _ => {}
        }
        self.done()
    }

    fn mov(&mut self) -> Flow {
        match (self.op(0), self.op(1)) {
            (Operand::Seg(n), from) => {
                let value = self.read_copy(from);
                let value = self.copy(Width::W16, value);
                if let Some(flow) = self.load_data_segment(n, value, 0) {
                    return flow;
                }
                self.load_segment(n, value);
                if usize::from(n) == seg::SS {
                    self.call(Helper::ShadowSs, &[], Fx::ALL);
                }
                self.leave_next()
            }
            (Operand::Cr(n), from) => {
                let size = self.size(from);
                let value = self.read(from);
                let value = self.copy(width(size), value);
                self.call(Helper::WriteCr, &[u64::from(n).into(), value.into()], Fx::ALL);
                self.leave_next()
            }
            (Operand::Dr(n), from) => {
                let size = self.size(from);
                let value = self.read(from);
                let value = self.copy(width(size), value);
                self.call(Helper::WriteDr, &[u64::from(n).into(), value.into()], Fx::ALL);
                self.leave_next()
            }
            (to, Operand::Cr(n)) => {
                let t = self.call_value(Helper::ReadCr, &[u64::from(n).into()], Fx::ALL);
                self.write_reg(to, t);
                self.leave_next()
            }
            (to, Operand::Dr(n)) => {
                let t = self.call_value(Helper::ReadDr, &[u64::from(n).into()], Fx::ALL);
                self.write_reg(to, t);
                self.leave_next()
            }
            (to, from) => {
                match (to, from) {
                    (Operand::Gpr(n, size @ (4 | 8)), Operand::Mem(_)) => {
                        let addr = self.ea(size, 0, Intent::Read);
                        self.b.load(width(size), gpr(n), addr, ir::Mem::plain(self.mmu));
                    }
                    _ => {
                        let value = self.read(from);
                        self.write(to, value);
                    }
                }
                self.done()
            }
        }
    }

    fn movsx(&mut self) {
        let op = self.op(0);
        let to = self.width(op);
        let t = match (self.op(1), self.width(self.op(1))) {
            (Operand::Mem(size), from) if from != to => {
                let addr = self.ea(size, 0, Intent::Read);
                let t = self.tmp();
                self.b.load_sext(from, to, t, addr, ir::Mem::plain(self.mmu));
                t
            }
            (from, _) => self.read_sext(from, to),
        };
        self.write_reg(op, t);
    }

    fn xlat(&mut self) {
        let al = self.copy(Width::W8, RAX);
        let offset = Addr {
            segment: None,
            base: Some(RBX),
            index: Some(al),
            scale: 0,
            disp: 0,
            wrap: self.addr_width(),
            lin: Width::W64,
        };
        let addr = self.in_segment(self.i.seg, offset, 1, Intent::Read);
        let t = self.tmp();
        self.b.load(Width::W8, t, addr, ir::Mem::plain(self.mmu));
        self.b.deposit(RAX, RAX, t, 0, 8);
    }

    /// A selector into a data segment register by quick functions, where nothing that blocks depend on changes by that; `pop`
    /// bytes go off the stack.
    fn load_data_segment(&mut self, n: u8, selector: Var, pop: i64) -> Option<Flow> {
        let known = self.has(key::FLAT) && matches!(usize::from(n), seg::ES | seg::DS);
        if !self.has(key::PROTECTED) || !(known || matches!(usize::from(n), seg::FS | seg::GS)) {
            return None;
        }
        let mut what = u64::from(n);
        if known {
            what |= what::FLAT;
        }
        let smap = self.has(key::SMAP);
        if smap {
            what |= what::SMAP;
        }
        let sp = self.copy(Width::W64, RSP);
        if pop > 0 && self.stack_width() == Width::W16 {
            let t = self.bin(BinOp::Add, Width::W16, RSP, pop as u64);
            self.b.deposit(sp, RSP, t, 0, 16);
        } else if pop > 0 {
            self.b.add(self.stack_width(), sp, RSP, pop as u64);
        }
        let next = self.next;
        let args = |raw: Val| -> ir::Args {
            [what.into(), selector.into(), raw, Val::Imm(0), next.into(), sp.into()]
        };
        let raw = self.tmp();
        let (first, second) = (args(Val::Imm(0)), args(raw.into()));
        self.b.konst(raw, 0);
        let null = self.b.new_label();
        self.b.branch(Cmp::new(Cond::TestZ, Width::W64, selector, 0xfffcu64), null);
        let at = self.quick(Helper::SegAt, &first);
        let mmu = if smap { 2 } else { 0 };
        self.b.load(Width::W64, raw, Addr::flat(at), ir::Mem::plain(mmu));
        self.b.label(null);
        let bytes = self.quick(Helper::SegLoad, &second);
        let (base, high) = (self.tmp(), self.tmp());
        self.b.extract(base, raw, 16, 24);
        self.b.extract(high, raw, 56, 8);
        self.b.deposit(base, base, high, 24, 8);
        let readable = self.tmp();
        self.b.extract(readable, bytes, 0, WRITABLE);
        let of = |table| of_seg(table, n);
        self.b.mov(Width::W64, of(var::SEG_SELECTOR), selector);
        self.b.mov(Width::W64, of(var::SEG_BASE), base);
        self.b.mov(Width::W64, of(var::SEG_READ), readable);
        let writes = Cmp::new(Cond::TestNz, Width::W64, bytes, 1u64 << WRITABLE);
        let d = of(var::SEG_WRITE);
        self.b.push(ir::Op::Select {
            w: Width::W64,
            d,
            cmp: writes,
            x: readable.into(),
            y: Val::Imm(0),
        });
        if pop > 0 {
            self.b.mov(Width::W64, RSP, sp);
        }
        Some(self.done())
    }

    /// A selector into a segment register. The block must end after it.
    pub(super) fn load_segment(&mut self, n: u8, selector: Var) {
        self.call(Helper::LoadSeg, &[u64::from(n).into(), selector.into()], Fx::ALL);
    }

    fn push_operand(&mut self) -> Flow {
        let size = self.i.opsize;
        let value = match self.op(0) {
            Operand::Seg(n) => {
                // A 32-bit push of a selector writes its low half alone.
                let selector = of_seg(var::SEG_SELECTOR, n);
                let addr = self.stack_addr(RSP, -i64::from(size), size, Intent::Write);
                let w = if size == 4 { Width::W16 } else { width(size) };
                self.b.store(w, selector, addr, ir::Mem::plain(self.mmu));
                self.move_sp(-i64::from(size));
                return self.done();
            }
            op => self.read(op),
        };
        self.push(size, value);
        self.done()
    }

    fn pop_operand(&mut self) -> Flow {
        let size = self.i.opsize;
        let step = i64::from(size);
        match self.op(0) {
            Operand::Seg(n) => {
                let t = self.pop_at(0, size);
                let t = self.copy(Width::W16, t);
                if let Some(flow) = self.load_data_segment(n, t, step) {
                    return flow;
                }
                self.load_segment(n, t);
                self.move_sp(step);
                if usize::from(n) == seg::SS {
                    self.call(Helper::ShadowSs, &[], Fx::ALL);
                }
                return self.leave_next();
            }
            Operand::Mem(_) => {
                let t = self.pop_at(0, size);
                // An address through the stack pointer sees it after the increment.
                let mem = self.i.mem;
                let extra = if mem.base == var::RSP as u8 { step } else { 0 };
                self.store(size, extra, t);
                self.move_sp(step);
            }
            op => {
                let t = self.pop_at(0, size);
                self.move_sp(step);
                self.write_reg(op, t);
            }
        }
        self.done()
    }

    fn push_all(&mut self) {
        let size = self.i.opsize;
        for n in 0..8u8 {
            self.push_at(i64::from(size) * i64::from(n + 1), size, gpr(n));
        }
        self.move_sp(-8 * i64::from(size));
    }

    fn pop_all(&mut self) {
        let size = self.i.opsize;
        let values: Vec<Var> =
            (0..8).map(|n| self.pop_at(i64::from(size) * (7 - n), size)).collect();
        for n in (0..8u8).filter(|&n| usize::from(n) != var::RSP) {
            self.write_gpr(n, size, values[usize::from(n)]);
        }
        self.move_sp(8 * i64::from(size));
    }

    fn enter(&mut self) -> Flow {
        let size = self.i.opsize;
        let (bytes, level) = (self.i.imm, u64::from(self.i.imm2) & 31);
        if level != 0 {
            let args = [bytes.into(), level.into(), u64::from(size).into()];
            self.call(Helper::Enter, &args, Fx::ALL);
            return self.leave_next();
        }
        // The new top of stack must be writable, though nothing is written.
        let top = i64::from(size).wrapping_add(bytes as i64).wrapping_neg();
        let addr = self.stack_addr(RSP, top, size, Intent::Write);
        self.b.probe(size.into(), addr, ir::Mem::plain(self.mmu));
        self.push_at(size.into(), size, RBP);
        let mut sp = self.tmp();
        let w = self.stack_width();
        self.b.sub(w, sp, RSP, u64::from(size));
        if w == Width::W16 {
            // The upper half of ESP stays.
            let low = sp;
            sp = self.tmp();
            self.b.deposit(sp, RSP, low, 0, 16);
        }
        self.write_gpr(5, size, sp);
        self.set_sp_from(sp, -(bytes as i64));
        self.done()
    }

    fn leave_frame(&mut self) {
        let size = self.i.opsize;
        let addr = self.stack_addr(RBP, 0, size, Intent::Read);
        let t = self.tmp();
        self.b.load(width(size), t, addr, ir::Mem::plain(self.mmu));
        self.set_sp_from(RBP, size.into());
        self.write_gpr(5, size, t);
    }

    fn load_far(&mut self, n: usize) -> Flow {
        let size = self.i.opsize;
        let offset = self.load(size, 0);
        let selector = self.load(2, size.into());
        self.load_segment(n as u8, selector);
        self.write_reg(self.op(0), offset);
        if n == seg::SS {
            self.call(Helper::ShadowSs, &[], Fx::ALL);
        }
        self.leave_next()
    }
}
