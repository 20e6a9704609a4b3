//! x87 instructions: operands through memory in IR, the rest one quick function.

use super::*;
use crate::x86::x87::quick::what;
use crate::x86::x87::{Memory, X87Op, decode as decode_x87};

impl Lifter<'_> {
    pub(super) fn x87(&mut self) -> Flow {
        if self.i.id == Id::FWAIT {
            if self.has(key::TS) && self.has(key::MP) {
                return self.raise(vector::NM);
            }
            return self.x87_op(X87Op::Fwait);
        }
        if self.has(key::EM) || self.has(key::TS) {
            return self.raise(vector::NM);
        }
        match decode_x87(self.i.opcode, self.i.modrm) {
            Some(op) => self.x87_op(op),
            None => self.undefined(),
        }
    }

    fn x87_op(&mut self, op: X87Op) -> Flow {
        let mem = self.i.mem;
        let has_mem = op.memory() != Memory::None;
        let st = if has_mem { 0 } else { self.i.modrm & 7 };
        let fop = u64::from(self.i.opcode & 7) << 8 | u64::from(self.i.modrm);
        let mut what: Val = (op as u64
            | u64::from(st) << what::ST
            | u64::from(self.i.len) << what::LEN
            | u64::from(mem.seg) << what::SEG
            | u64::from(has_mem) << what::MEMORY
            | fop << what::FOP)
            .into();
        let mut operand: Val = 0u64.into();
        let plain = ir::Mem::plain(self.mmu);
        let mut store = None;
        match op.memory() {
            Memory::None => {
                if op.name().starts_with("Fcmov") {
                    operand = self.flags().into();
                }
            }
            Memory::Load(10) => {
                let addr = self.ea(10, 0, Intent::Read);
                let (low, high) = (self.tmp(), self.tmp());
                self.b.load(Width::W64, low, addr, plain);
                self.b.load(Width::W16, high, Addr { disp: addr.disp + 8, ..addr }, plain);
                let t = self.tmp();
                self.b.deposit(t, what, high, what::HIGH as u8, 16);
                (what, operand) = (t.into(), low.into());
            }
            Memory::Load(n) => operand = self.load(n, 0).into(),
            Memory::Store(n) => {
                let addr = self.ea(n, 0, Intent::Write);
                self.b.probe(n.into(), addr, plain);
                let linear = self.tmp();
                self.b.lea(linear, addr);
                operand = linear.into();
                store = Some((n, addr));
            }
            _ => return self.x87_state(op),
        }
        let offset = if has_mem {
            let t = self.tmp();
            let addr = self.offset(&mem, 0);
            self.b.lea(t, addr);
            t.into()
        } else {
            Val::Imm(0)
        };
        let args = [what, operand, self.pc.into(), offset];
        let (result, head) = (self.tmp(), self.tmp());
        if let Some((10, _)) = store {
            self.b.quick(ext::X87_HEAD, head, &args);
        }
        self.b.quick(ext::X87 + op as u16, result, &args);
        match store {
            Some((10, addr)) => {
                self.b.store(Width::W64, result, addr, plain);
                self.b.store(Width::W16, head, Addr { disp: addr.disp + 8, ..addr }, plain);
            }
            Some((n, addr)) => self.b.store(width(n), result, addr, plain),
            None => {}
        }
        match op {
            X87Op::FnstswAx => self.write_gpr(0, 2, result),
            X87Op::Fcomi | X87Op::Fcomip | X87Op::Fucomi | X87Op::Fucomip => self.cc_flags(result),
            _ => {}
        }
        self.done()
    }

    /// FNSTENV, FLDENV, FNSAVE, FRSTOR.
    fn x87_state(&mut self, op: X87Op) -> Flow {
        let small = self.i.opsize == 2;
        let whole = matches!(op.memory(), Memory::Save | Memory::Restore);
        let len = if small { 14 } else { 28 } + if whole { 80 } else { 0 };
        let writes = matches!(op.memory(), Memory::Save | Memory::StoreEnvironment);
        let addr = self.ea(len, 0, if writes { Intent::Write } else { Intent::Read });
        let linear = self.tmp();
        self.b.lea(linear, addr);
        let protected = u64::from(self.has(key::PROTECTED));
        let layout = protected | if small { 0 } else { 2 };
        let args = [(op as u64).into(), linear.into(), layout.into()];
        self.b.call(ext::X87_STATE, None, &args, Fx::ALL);
        self.leave_next()
    }
}
