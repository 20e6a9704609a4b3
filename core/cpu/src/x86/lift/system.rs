//! System instructions: nearly all are one helper call.

use super::*;
use crate::x86::state::flag;

impl Lifter<'_> {
    /// The instruction, if it is one of these.
    pub(super) fn system(&mut self, id: Id) -> Option<Flow> {
        let flow = match id {
            Id::PUSHF => {
                let size = self.i.opsize;
                if !self.has(key::V86) {
                    let flags = self.flags();
                    let hidden = flag::VM | flag::RF | flag::ARITH;
                    let rest = self.bin(BinOp::AndNot, Width::W64, REST, hidden);
                    let rest = self.bin(BinOp::Or, Width::W64, rest, flag::FIXED);
                    let image = self.bin(BinOp::Or, Width::W64, rest, flags);
                    self.push(size, image);
                    return Some(self.done());
                }
                let args = [u64::from(size).into()];
                let image = self.call_value(Helper::Pushf, &args, Fx::FAULTS | Fx::READS);
                self.push(size, image);
                self.done()
            }
            Id::POPF => {
                let size = self.i.opsize;
                let image = self.pop_at(0, size);
                if self.privileged() {
                    return Some(self.popf(image));
                }
                self.call(Helper::Popf, &[image.into(), u64::from(size).into()], Fx::ALL);
                self.move_sp(size.into());
                self.leave_next()
            }
            // Nothing can become possible by CLI that has to be looked at.
            Id::CLI if self.privileged() => {
                self.b.bin(BinOp::AndNot, Width::W64, REST, REST, flag::IF);
                self.done()
            }
            Id::CLI => {
                self.call(Helper::Cli, &[], Fx::FAULTS | Fx::READS | Fx::WRITES);
                self.done()
            }
            Id::STI if self.privileged() => {
                let open = self.b.new_label();
                self.b.branch(Cmp::new(Cond::TestNz, Width::W64, REST, flag::IF), open);
                self.quick(Helper::Shadow, &[]);
                self.b.label(open);
                self.b.bin(BinOp::Or, Width::W64, REST, REST, flag::IF);
                self.b.keep_open();
                self.done()
            }
            Id::STI => {
                self.call(Helper::Sti, &[], Fx::FAULTS | Fx::READS | Fx::WRITES);
                self.b.keep_open();
                self.done()
            }
            Id::CLAC => self.simple(Helper::Clac),
            Id::STAC => self.simple(Helper::Stac),
            Id::CLTS => self.simple(Helper::Clts),
            Id::INVD | Id::WBINVD => self.simple(Helper::Wbinvd),
            Id::CPUID => self.simple(Helper::Cpuid),
            Id::RDTSC => self.simple(Helper::Rdtsc),
            Id::RDTSCP => self.simple(Helper::Rdtscp),
            Id::RDPMC => self.simple(Helper::Rdpmc),
            Id::RDMSR => self.simple(Helper::Rdmsr),
            Id::WRMSR => self.simple(Helper::Wrmsr),
            Id::SWAPGS => self.simple(Helper::Swapgs),
            Id::IN => {
                let port = self.port(1);
                let size = self.size(self.op(0));
                let args = [port, u64::from(size).into()];
                let value = self.call_value(Helper::In, &args, Fx::ALL);
                self.write_reg(self.op(0), value);
                self.leave_next()
            }
            Id::OUT => {
                let port = self.port(0);
                let from = self.op(1);
                let size = self.size(from);
                let value = self.read_copy(from);
                let args = [port, u64::from(size).into(), value.into()];
                self.call(Helper::Out, &args, Fx::ALL);
                self.leave_next()
            }
            Id::SLDT => self.store_selector(Helper::Sldt),
            Id::STR => self.store_selector(Helper::Str),
            Id::SMSW => self.store_selector(Helper::Smsw),
            Id::LLDT => self.with_selector(Helper::Lldt),
            Id::LTR => self.with_selector(Helper::Ltr),
            Id::LMSW => self.with_selector(Helper::Lmsw),
            Id::VERR => self.verify(Helper::Verr),
            Id::VERW => self.verify(Helper::Verw),
            Id::LAR => self.look_up(Helper::Lar),
            Id::LSL => self.look_up(Helper::Lsl),
            Id::ARPL => self.arpl(),
            Id::LGDT => self.load_table(Helper::Lgdt),
            Id::LIDT => self.load_table(Helper::Lidt),
            Id::SGDT => self.store_table(Helper::SgdtBase, Helper::SgdtLimit),
            Id::SIDT => self.store_table(Helper::SidtBase, Helper::SidtLimit),
            Id::INVLPG => {
                let linear = self.linear_of_operand();
                self.call(Helper::Invlpg, &[linear.into()], Fx::ALL);
                self.leave_next()
            }
            Id::MONITOR => {
                let offset = Addr {
                    segment: None,
                    base: Some(RAX),
                    index: None,
                    scale: 0,
                    disp: 0,
                    wrap: self.addr_width(),
                    lin: Width::W64,
                };
                let addr = self.in_segment(self.i.seg, offset, 1, Intent::Read);
                let linear = self.tmp();
                self.b.lea(linear, addr);
                self.call(Helper::Monitor, &[linear.into()], Fx::ALL);
                self.leave_next()
            }
            Id::RDRAND => self.random(Helper::Rdrand),
            Id::RDSEED => self.random(Helper::Rdseed),
            Id::RDFSBASE => self.read_base(seg::FS),
            Id::RDGSBASE => self.read_base(seg::GS),
            Id::WRFSBASE => self.write_base(seg::FS),
            Id::WRGSBASE => self.write_base(seg::GS),
            Id::UD0 | Id::UD1 | Id::UD2 | Id::XGETBV | Id::XSETBV | Id::INVPCID | Id::RDPID => {
                self.undefined()
            }
            _ => return None,
        };
        Some(flow)
    }

    /// POPF where all flags may be written.
    fn popf(&mut self, image: Var) -> Flow {
        let mut mask = flag::TF | flag::IF | flag::DF | flag::IOPL | flag::NT | flag::AC;
        if self.id_flag {
            mask |= flag::ID;
        }
        if self.i.opsize == 2 {
            mask &= 0xffff;
        }
        let flags = self.bin(BinOp::And, Width::W64, image, flag::ARITH);
        let new = self.bin(BinOp::And, Width::W64, image, mask);
        let old = self.bin(BinOp::And, Width::W64, REST, mask);
        let kept = self.bin(BinOp::AndNot, Width::W64, REST, mask | flag::ARITH);
        let kept = self.bin(BinOp::Or, Width::W64, kept, flag::FIXED);
        let changed = self.bin(BinOp::Xor, Width::W64, old, new);
        self.b.bin(BinOp::Or, Width::W64, REST, kept, new);
        self.cc_flags(flags);
        self.move_sp(self.i.opsize.into());
        // Nothing can have become possible that was not.
        let matter = flag::TF | flag::IF | flag::DF | flag::AC;
        self.b.exit_if(Cmp::new(Cond::TestZ, Width::W64, changed, matter), self.next);
        self.leave_next()
    }

    /// A helper without arguments.
    fn simple(&mut self, helper: Helper) -> Flow {
        self.call(helper, &[], Fx::ALL);
        self.leave_next()
    }

    fn port(&mut self, n: usize) -> Val {
        match self.op(n) {
            Operand::Imm(_) => self.i.imm.into(),
            _ => self.copy(Width::W16, RDX).into(),
        }
    }

    /// SLDT, STR, SMSW: 16 bits to memory, the operand size to a register.
    fn store_selector(&mut self, helper: Helper) -> Flow {
        let value = self.call_value(helper, &[], Fx::FAULTS | Fx::READS);
        self.write(self.op(0), value);
        self.done()
    }

    fn with_selector(&mut self, helper: Helper) -> Flow {
        let value = self.read(self.op(0));
        let value = self.copy(Width::W16, value);
        self.call(helper, &[value.into()], Fx::ALL);
        self.leave_next()
    }

    fn set_zero_flag(&mut self, value: Var) {
        let flags = self.flags();
        self.b.deposit(flags, flags, value, 6, 1);
        self.cc_flags(flags);
    }

    fn verify(&mut self, helper: Helper) -> Flow {
        let value = self.read(self.op(0));
        let value = self.copy(Width::W16, value);
        let zf = self.call_value(helper, &[value.into()], Fx::ALL);
        self.set_zero_flag(zf);
        self.leave_next()
    }

    /// LAR and LSL: the register changes only when the selector is good.
    fn look_up(&mut self, helper: Helper) -> Flow {
        let value = self.read(self.op(1));
        let value = self.copy(Width::W16, value);
        let args = [value.into(), u64::from(self.i.opsize).into()];
        let found = self.call_value(helper, &args, Fx::ALL);
        let valid = self.tmp();
        self.b.extract(valid, found, 32, 1);
        let bad = self.b.new_label();
        self.b.branch(Cmp::new(Cond::Eq, Width::W64, valid, 0u64), bad);
        let value = self.copy(Width::W32, found);
        self.write_reg(self.op(0), value);
        self.b.label(bad);
        self.set_zero_flag(valid);
        self.leave_next()
    }

    fn arpl(&mut self) -> Flow {
        let source = self.read(self.op(1));
        let rpl = self.bin(BinOp::And, Width::W16, source, 3u64);
        let a = self.read_copy(self.op(0));
        let old = self.bin(BinOp::And, Width::W16, a, 3u64);
        let lower = self.tmp();
        self.b.set_if(Cond::LtU, Width::W16, lower, old, rpl);
        let raised = self.tmp();
        self.b.deposit(raised, a, rpl, 0, 2);
        // Memory is written, and has to be writable, only when the selector changes.
        let same = self.b.new_label();
        self.b.branch(Cmp::new(Cond::Eq, Width::W64, lower, 0u64), same);
        self.write(self.op(0), raised);
        self.b.label(same);
        self.set_zero_flag(lower);
        self.done()
    }

    fn load_table(&mut self, helper: Helper) -> Flow {
        self.call(Helper::CheckCpl0, &[], Fx::FAULTS | Fx::READS);
        let limit = self.load(2, 0);
        let base = if self.long {
            self.load(8, 2)
        } else {
            let t = self.load(4, 2);
            if self.i.opsize == 2 { self.bin(BinOp::And, Width::W32, t, 0xff_ffffu64) } else { t }
        };
        self.call(helper, &[base.into(), limit.into()], Fx::ALL);
        self.leave_next()
    }

    fn store_table(&mut self, base: Helper, limit: Helper) -> Flow {
        let reads = Fx::FAULTS | Fx::READS;
        let base = self.call_value(base, &[], reads);
        let limit = self.call_value(limit, &[], reads);
        self.store(2, 0, limit);
        self.store(if self.long { 8 } else { 4 }, 2, base);
        self.done()
    }

    /// The linear address of the memory operand, without any check.
    pub(super) fn linear_of_operand(&mut self) -> Var {
        let mem = self.i.mem;
        let mut addr = self.offset(&mem, 0);
        addr.lin = self.linear_width();
        if !self.long || usize::from(mem.seg) > seg::DS {
            addr.segment = Some(of_seg(var::SEG_BASE, mem.seg));
        }
        let linear = self.tmp();
        self.b.lea(linear, addr);
        linear
    }

    fn random(&mut self, helper: Helper) -> Flow {
        let args = [u64::from(self.i.opsize).into()];
        let value = self.call_value(helper, &args, Fx::ALL);
        self.write_reg(self.op(0), value);
        self.cc_flags(flag::CF);
        self.leave_next()
    }

    fn read_base(&mut self, n: usize) -> Flow {
        let args = [(n as u64).into()];
        let value = self.call_value(Helper::ReadBase, &args, Fx::FAULTS | Fx::READS);
        self.write_reg(self.op(0), value);
        self.done()
    }

    fn write_base(&mut self, n: usize) -> Flow {
        let w = self.width(self.op(0));
        let value = self.read(self.op(0));
        let value = self.copy(w, value);
        self.call(Helper::WriteBase, &[(n as u64).into(), value.into()], Fx::ALL);
        self.leave_next()
    }
}
