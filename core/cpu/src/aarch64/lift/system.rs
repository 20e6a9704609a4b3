//! Exceptions, system registers, barriers, hints (DDI 0487, C4.1.3).

use super::*;
use crate::aarch64::sysreg::{self, Quick};

impl Lifter<'_> {
    pub(super) fn system(&mut self, insn: Insn) -> Flow {
        let w = self.w;
        let imm16 = u64::from(w.bits(5, 16));
        let next = self.next();
        match insn {
            Insn::Svc => self.b.trap(trap_id::DONE, Trap::new(class::SVC, imm16).esr),
            Insn::Brk => self.b.trap(trap_id::RAISE, Trap::new(class::BRK, imm16).esr),
            Insn::Hvc | Insn::Smc if !self.user() => {
                self.transfer(Helper::Firmware, &[Val::Imm(next)]);
            }
            Insn::Hint => match w.bits(5, 7) {
                1 => self.call_and_leave(Helper::Yield, &[]),
                2 => self.call_and_leave(Helper::Wfe, &[]),
                3 => self.transfer(Helper::Wfi, &[Val::Imm(next)]),
                4 | 5 => self.call(Helper::Sev, &[], Fx::NONE),
                _ => {}
            },
            Insn::Clrex => self.b.konst(var::EX_SIZE, 0),
            Insn::Dsb | Insn::Dmb => {}
            Insn::Isb => self.b.leave(next),
            Insn::MsrImm => {
                let (op1, op2) = (w.bits(16, 3), w.bits(5, 3));
                let value = Val::Imm(w.bits(8, 4).into());
                match (op1, op2) {
                    (0, 5) if !self.user() => self.call_and_leave(Helper::SetSpSel, &[value]),
                    (3, 6) => self.call_and_leave(Helper::DaifSet, &[value]),
                    (3, 7) => self.call_and_leave(Helper::DaifClear, &[value]),
                    _ => return None,
                }
            }
            Insn::Sys => self.sys()?,
            Insn::MsrMrs => self.register()?,
            Insn::Eret if !self.user() => self.transfer(Helper::Eret, &[]),
            _ => return None,
        }
        Some(())
    }

    /// MRS and MSR.
    fn register(&mut self) -> Flow {
        let w = self.w;
        let (load, key) = (w.bit(21), sysreg::key_of(w));
        let user = self.user();
        if user && w.bits(16, 3) != 3 {
            return None;
        }
        match sysreg::quick(key, user, load) {
            Some(Quick::Variable(v)) if load => {
                let d = self.to(w.rd());
                self.b.mov(Width::W64, d, v);
            }
            Some(Quick::Variable(v)) => self.b.mov(Width::W64, v, Self::x(w.rd())),
            Some(Quick::Constant(value)) => {
                let d = self.to(w.rd());
                self.b.konst(d, value);
            }
            Some(Quick::Call) => {
                let d = self.to(w.rd());
                let fx = Fx::FAULTS | Fx::READS;
                self.b.call(Helper::Mrs as u16, Some(d), &[Val::Imm(w.0.into())], fx);
            }
            None if load => {
                let d = self.to(w.rd());
                self.b.call(Helper::Mrs as u16, Some(d), &[Val::Imm(w.0.into())], Fx::ALL);
                let next = self.next();
                self.b.leave(next);
            }
            None => self.call_and_leave(Helper::Msr, &[Val::Imm(w.0.into()), Self::x(w.rd())]),
        }
        Some(())
    }

    /// Cache, TLB and address translation operations.
    fn sys(&mut self) -> Flow {
        let w = self.w;
        let (op1, crn, crm, op2) = (w.bits(16, 3), w.bits(12, 4), w.bits(8, 4), w.bits(5, 3));
        if w.bit(21) || self.user() && op1 != 3 {
            return None;
        }
        let x = Self::x(w.rd());
        match (op1, crn, crm, op2) {
            (3, 7, 4, 1) => self.zero_block(x),
            // Caches hold nothing that memory does not.
            (3, 7, 5 | 10 | 11 | 12 | 13 | 14, 1) => {}
            (0, 7, 1 | 5, 0) | (0, 7, 6, 1 | 2) | (0, 7, 10 | 14, 2) => {}
            (0, 7, 8, 0..=3) => self.call_and_leave(Helper::Translate, &[x, Val::Imm(op2.into())]),
            (0, 8, 3 | 7, 0 | 2) => {
                self.call_and_leave(Helper::TlbiAll, &[Val::Imm((crm == 3).into())]);
            }
            (0, 8, 3 | 7, 1 | 3 | 5 | 7) => {
                self.call_and_leave(Helper::TlbiPage, &[x, Val::Imm((crm == 3).into())]);
            }
            _ => return None,
        }
        Some(())
    }

    /// DC ZVA: 64 bytes of zeros.
    fn zero_block(&mut self, x: Val) {
        let at = self.bin(BinOp::AndNot, Width::W64, x, 63u64);
        let mem = self.mem();
        self.b.probe(64, Addr::flat(at), mem);
        let zero = self.b.vtmp();
        self.b.push(crate::ir::Op::VConst { d: zero, value: 0 });
        for i in 0..4 {
            self.b.vstore(16, zero, Addr { disp: i * 16, ..Addr::flat(at) }, mem);
        }
    }
}
