//! String instructions: once in IR, repeated as a helper call.

use super::flag::{CC_DST, CC_SRC};
use super::*;
use crate::x86::flags::Kind;
use crate::x86::insn::Rep;

impl Lifter<'_> {
    pub(super) fn string(&mut self) -> Flow {
        let id = self.i.id;
        if self.i.rep == Rep::None && !matches!(id, Id::INS | Id::OUTS) {
            self.string_once();
            return self.done();
        }
        let helper = match id {
            Id::MOVS => Helper::Movs,
            Id::STOS => Helper::Stos,
            Id::LODS => Helper::Lods,
            Id::CMPS => Helper::Cmps,
            Id::SCAS => Helper::Scas,
            Id::INS => Helper::Ins,
            _ => Helper::Outs,
        };
        let rep = match self.i.rep {
            Rep::None => 0u64,
            Rep::Rep => 1,
            Rep::Repne => 2,
        };
        let args = [
            u64::from(self.string_size()).into(),
            u64::from(self.i.addrsize).into(),
            rep.into(),
            u64::from(self.i.seg).into(),
            self.pc.into(),
            self.next.into(),
        ];
        self.call(helper, &args, Fx::ALL);
        self.leave_rip()
    }

    fn string_size(&self) -> u8 {
        self.i
            .operands()
            .iter()
            .find_map(|op| match op {
                Operand::Src(n) | Operand::Dst(n) => Some(*n),
                _ => None,
            })
            .unwrap_or(1)
    }

    fn string_addr(&mut self, reg: u8, seg: u8, size: u8, intent: Intent) -> Addr {
        let offset = Addr {
            segment: None,
            base: Some(gpr(reg)),
            index: None,
            scale: 0,
            disp: 0,
            wrap: self.addr_width(),
            lin: Width::W64,
        };
        self.in_segment(seg, offset, size, intent)
    }

    fn string_once(&mut self) {
        let size = self.string_size();
        let w = width(size);
        let mem = ir::Mem::plain(self.mmu);
        let source = self.i.seg;
        let es = seg::ES as u8;
        let (mut from, mut to) = (false, false);
        let step = if self.has(key::DOWN) { -i64::from(size) } else { i64::from(size) };
        let t = self.tmp();
        match self.i.id {
            Id::MOVS => {
                let src = self.string_addr(RSI, source, size, Intent::Read);
                self.b.load(w, t, src, mem);
                let dst = self.string_addr(RDI, es, size, Intent::Write);
                self.b.store(w, t, dst, mem);
                (from, to) = (true, true);
            }
            Id::STOS => {
                let dst = self.string_addr(RDI, es, size, Intent::Write);
                self.b.store(w, RAX, dst, mem);
                to = true;
            }
            Id::LODS => {
                let src = self.string_addr(RSI, source, size, Intent::Read);
                self.b.load(w, t, src, mem);
                self.write_gpr(0, size, t);
                from = true;
            }
            Id::CMPS => {
                let src = self.string_addr(RSI, source, size, Intent::Read);
                self.b.load(w, t, src, mem);
                let dst = self.string_addr(RDI, es, size, Intent::Read);
                let u = self.tmp();
                self.b.load(w, u, dst, mem);
                self.b.mov(w, CC_DST, t);
                self.b.mov(w, CC_SRC, u);
                self.cc(Kind::Sub, w);
                (from, to) = (true, true);
            }
            _ => {
                let dst = self.string_addr(RDI, es, size, Intent::Read);
                self.b.load(w, t, dst, mem);
                self.b.mov(w, CC_DST, RAX);
                self.b.mov(w, CC_SRC, t);
                self.cc(Kind::Sub, w);
                to = true;
            }
        }
        for (reg, moves) in [(RSI, from), (RDI, to)] {
            if moves {
                let t = self.bin(BinOp::Add, self.addr_width(), gpr(reg), step as u64);
                self.write_gpr(reg, self.i.addrsize, t);
            }
        }
    }
}
