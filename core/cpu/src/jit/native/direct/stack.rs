//! A guest's stack of floating-point registers on the host's own ([`ir::stack`](crate::ir::stack)).
//!
//! Instructions of a block that can be done so make *runs*. A run begins with a look at what it needs: the host has
//! the guest's control word, and registers are occupied or free as it wants them; where they are not, the block goes on
//! in a copy that calls the quick functions. Within a run the host's stack holds guest registers in any order, loaded as they
//! are needed; it ends with all of it, flags, TOP and what is noted, back in the guest's state.
//!
//! Guest registers are named by how far they are above TOP as it was at the start of the run, modulo 8.

use super::asm::{Alu, At, Cc, Mark, RAX, RCX, RDX, Shift, at};
use super::float::word;
use super::{BIAS, Emit, Plain, RBP, RSP, Src, home, slot};
use crate::ir::stack::{Operand, StackOp, StackUnit, Stacked};
use crate::ir::{Op, Val, Var, Width};

/// Condition codes 0, 2, 3 in the status word; 1; the exceptions.
const CODES: i32 = 0x4500;
const C1: i32 = 0x200;
const EXCEPTIONS: i32 = 0x3f;

/// What a run needs of the guest's registers, and what it makes of them: a bit for each.
#[derive(Clone, Copy, Default)]
struct Registers {
    /// Must be occupied at the start; must be free.
    occupied: u8,
    free: u8,
    /// Become so.
    filled: u8,
    emptied: u8,
    /// ST(0).
    top: u8,
}

impl Registers {
    fn st(&self, i: u8) -> u8 {
        (self.top + i) & 7
    }

    /// A register must be occupied or free: whether it can be.
    fn need(&mut self, r: u8, occupied: bool) -> bool {
        let bit = 1 << r;
        if (self.filled | self.emptied) & bit != 0 {
            return (self.filled & bit != 0) == occupied;
        }
        if (self.occupied | self.free) & bit != 0 {
            return (self.occupied & bit != 0) == occupied;
        }
        if occupied {
            self.occupied |= bit;
        } else {
            self.free |= bit;
        }
        true
    }

    fn fill(&mut self, r: u8) {
        self.filled |= 1 << r;
        self.emptied &= !(1 << r);
    }

    fn pop(&mut self) {
        self.emptied |= 1 << self.top;
        self.filled &= !(1 << self.top);
        self.top = self.st(1);
    }

    /// Does what an instruction does to them; false where the run cannot have it.
    fn step(&mut self, op: StackOp) -> bool {
        let other = |o: Operand| if let Operand::St(i) = o { i } else { 0 };
        let zero = !matches!(op, StackOp::Load(_) | StackOp::Wait | StackOp::Status);
        if zero && !self.need(self.top, true) {
            return false;
        }
        match op {
            StackOp::Load(from) => {
                if matches!(from, Operand::St(i) if !self.need(self.st(i), true))
                    || !self.need(self.st(7), false)
                {
                    return false;
                }
                self.top = self.st(7);
                self.fill(self.top);
            }
            StackOp::Calc(_, with) => return self.need(self.st(other(with)), true),
            StackOp::CalcTo(_, i, pops) => {
                if !self.need(self.st(i), true) {
                    return false;
                }
                if pops {
                    self.pop();
                }
            }
            StackOp::Store(_, pops, _) => {
                if pops {
                    self.pop();
                }
            }
            StackOp::StoreTo(i, pops) => {
                self.fill(self.st(i));
                if pops {
                    self.pop();
                }
            }
            StackOp::Exchange(i) => return self.need(self.st(i), true),
            StackOp::Compare(with, _, pops) => {
                if !self.need(self.st(other(with)), true) {
                    return false;
                }
                (0..pops).for_each(|_| self.pop());
            }
            StackOp::Negate | StackOp::Abs | StackOp::Sqrt | StackOp::Wait => {}
            // The run ends before it.
            StackOp::Status => {}
        }
        true
    }
}

/// A run under way.
#[derive(Clone)]
pub(super) struct Run {
    registers: Registers,
    /// The host's registers from its top: which of the guest's, and whether the guest's state has an older value. Those
    /// that the guest popped stay: what was in them can still be seen.
    host: Vec<(u8, bool)>,
    /// The host's condition code 1 is the guest's, or it is 0.
    c1: bool,
    /// The last instruction to be noted: opcode, program counter.
    note: Option<(u16, u64)>,
    segment: Option<Var>,
}

/// What is known of the unit at a place in a block.
#[derive(Clone, Default)]
pub(super) struct Fpu {
    /// The host has the guest's control word.
    pub(super) ready: bool,
    pub(super) run: Option<Run>,
    /// Functions are called throughout.
    pub(super) calls: bool,
}

fn field(offset: i32) -> At {
    at(RBP, offset - BIAS)
}

impl Emit<'_> {
    /// What a quick function is, if it is done here.
    fn stacked(&self, f: u16, what: Val) -> Option<Stacked> {
        let Val::Imm(what) = what else { return None };
        self.region.stack.get(&(f, what)).copied().filter(|_| !self.fpu.calls)
    }

    /// Does a quick function on the host, if it can be.
    pub(super) fn stack_op(&mut self, f: u16, d: Var, args: &[Val]) -> bool {
        let (Some(unit), Some(stacked)) = (self.stubs.unit, self.stacked(f, args[0])) else {
            return false;
        };
        if stacked.op == StackOp::Status {
            self.end_run();
            self.a.load(Width::W8, RAX, field(unit.top));
            self.a.shift_imm(Shift::Shl, Width::W32, RAX, 11);
            self.a.load(Width::W16, RCX, field(unit.status));
            self.a.alu(Alu::Or, Width::W32, RAX, RCX);
            self.put(Width::W64, d, RAX);
            return true;
        }
        let goes_on = self.fpu.run.as_ref().is_some_and(|run| {
            let mut after = run.registers;
            // Nothing that was not looked at.
            after.step(stacked.op)
                && (after.occupied, after.free) == (run.registers.occupied, run.registers.free)
        });
        if !goes_on {
            self.end_run();
            if !self.begin_run(&unit, stacked.op) {
                return false;
            }
        }
        let Some(mut run) = self.fpu.run.take() else { return false };
        if stacked.note.is_some() && stacked.segment.is_some() {
            let offset = self.src(args[3]);
            let r = self.in_register(Width::W64, RAX, offset);
            self.a.store(Width::W64, field(unit.data), r);
        }
        if let Some(fop) = stacked.note {
            run.note = Some((fop, self.pc));
            run.segment = stacked.segment.or(run.segment);
        }
        if run.host.len() > 5 && stacked.op != StackOp::Wait {
            self.empty_host(&unit, &mut run);
        }
        self.do_on_host(&unit, &mut run, stacked.op, args[1], d);
        self.fpu.run = Some(run);
        true
    }

    /// A copy of the block from here on that calls functions.
    fn calling(&mut self) -> Mark {
        let mark = self.a.mark();
        let mut state = self.state();
        state.fpu.calls = true;
        let (block, from) = (self.at, self.index);
        self.plains.push(Plain { block, from, state, marks: vec![(from, mark)] });
        mark
    }

    /// Looks whether the guest's registers are as the run wants them that begins here.
    fn begin_run(&mut self, unit: &StackUnit, op: StackOp) -> bool {
        let mut want = Registers::default();
        if op == StackOp::Wait || !want.step(op) {
            return false;
        }
        let region = self.region;
        for op in &region.blocks[self.at].ops[self.index + 1..] {
            let op = match op {
                Op::Quick { f, args, .. } => match self.stacked(*f, args[0]) {
                    Some(s) if s.op != StackOp::Status => s.op,
                    _ => break,
                },
                op if self.ends_run(op) => break,
                _ => continue,
            };
            let before = want;
            if !want.step(op) {
                want = before;
                break;
            }
        }
        let calls = self.calling();
        if !self.fpu.ready {
            self.fpu.ready = true;
            let (here, back) = (self.a.mark(), self.a.mark());
            self.a.test_imm(Width::W32, at(RSP, slot::FLOAT), word::STACK);
            self.a.jump_if(Cc::E, here);
            self.a.here(back);
            self.cold.push(super::ways::Cold::Stack { here, back, otherwise: calls });
        }
        self.a.load(Width::W8, RCX, field(unit.top));
        self.a.store(Width::W32, at(RSP, slot::TOP), RCX);
        if want.occupied | want.free != 0 {
            self.a.load(Width::W8, RAX, field(unit.valid));
            self.a.shift(Shift::Ror, Width::W8, RAX);
            self.a.alu_imm(Alu::And, Width::W8, RAX, (want.occupied | want.free) as i8 as i32);
            self.a.alu_imm(Alu::Cmp, Width::W8, RAX, want.occupied as i8 as i32);
            self.a.jump_if(Cc::Ne, calls);
        }
        let registers =
            Registers { occupied: want.occupied, free: want.free, ..Default::default() };
        self.fpu.run =
            Some(Run { registers, host: Vec::new(), c1: false, note: None, segment: None });
        true
    }

    /// Whether a run ends before an operation.
    fn ends_run(&self, op: &Op) -> bool {
        self.settles(op)
            || matches!(
                op,
                Op::Float { .. } | Op::FloatInt { .. } | Op::Pure { .. } | Op::Label { .. }
            )
            || matches!(op, Op::VecOp { kind, .. } if !self.region.kinds.contains_key(kind))
    }

    /// Where a guest register is; RCX is lost.
    fn register_place(&mut self, unit: &StackUnit, r: u8) -> At {
        self.a.load(Width::W32, RCX, at(RSP, slot::TOP));
        if r != 0 {
            self.a.alu_imm(Alu::Add, Width::W32, RCX, r.into());
            self.a.alu_imm(Alu::And, Width::W32, RCX, 7);
        }
        self.a.shift_imm(Shift::Shl, Width::W32, RCX, 4);
        At { index: Some((RCX, 0)), ..field(unit.regs) }
    }

    /// A guest register is in the host's.
    fn bring(&mut self, unit: &StackUnit, run: &mut Run, r: u8) {
        if run.host.iter().all(|h| h.0 != r) {
            let place = self.register_place(unit, r);
            self.a.x87(0xdb, 5, place);
            run.host.insert(0, (r, false));
        }
    }

    /// It is the host's ST(0).
    fn bring_up(&mut self, unit: &StackUnit, run: &mut Run, r: u8) {
        self.bring(unit, run, r);
        let n = run.host.iter().position(|h| h.0 == r).unwrap_or(0);
        if n != 0 {
            self.a.stack(0xd9, 0xc8 + n as u8);
            run.host.swap(0, n);
        }
    }

    /// The host forgets a register that the guest fills anew.
    fn discard(&mut self, run: &mut Run, r: u8) {
        let Some(n) = run.host.iter().position(|h| h.0 == r) else { return };
        if n != 0 {
            self.a.stack(0xd9, 0xc8 + n as u8);
            run.host.swap(0, n);
        }
        self.a.stack(0xdd, 0xd8);
        run.host.remove(0);
    }

    /// An operand in memory, for the host; RAX may be lost.
    fn operand(&mut self, form: Operand, v: Val) -> At {
        let w = match form {
            Operand::M32 | Operand::I32 => Width::W32,
            Operand::I16 => Width::W16,
            _ => Width::W64,
        };
        match self.src(v) {
            Src::Mem(m) => m,
            other => {
                let r = self.in_register(w, RAX, other);
                self.a.store(Width::W64, at(RSP, slot::OPERAND), r);
                at(RSP, slot::OPERAND)
            }
        }
    }

    fn do_on_host(&mut self, unit: &StackUnit, run: &mut Run, op: StackOp, v: Val, d: Var) {
        let top = run.registers.top;
        let st = |run: &Run, i: u8| run.registers.st(i);
        let find = |run: &Run, r: u8| run.host.iter().position(|h| h.0 == r).unwrap_or(0) as u8;
        if op != StackOp::Wait {
            run.c1 = !matches!(op, StackOp::Exchange(_));
        }
        match op {
            StackOp::Load(from) => {
                self.discard(run, st(run, 7));
                match from {
                    Operand::St(i) => {
                        let r = st(run, i);
                        match run.host.iter().position(|h| h.0 == r) {
                            Some(n) => self.a.stack(0xd9, 0xc0 + n as u8),
                            None => {
                                let place = self.register_place(unit, r);
                                self.a.x87(0xdb, 5, place);
                            }
                        }
                    }
                    Operand::One => self.a.stack(0xd9, 0xe8),
                    Operand::Zero => self.a.stack(0xd9, 0xee),
                    form => {
                        let m = self.operand(form, v);
                        let (opcode, extension) = match form {
                            Operand::M32 => (0xd9, 0),
                            Operand::M64 => (0xdd, 0),
                            Operand::I16 => (0xdf, 0),
                            Operand::I32 => (0xdb, 0),
                            _ => (0xdf, 5),
                        };
                        self.a.x87(opcode, extension, m);
                    }
                }
                run.registers.top = st(run, 7);
                let r = run.registers.top;
                run.registers.fill(r);
                run.host.insert(0, (r, true));
            }
            StackOp::Calc(calc, Operand::St(i)) => {
                self.bring(unit, run, st(run, i));
                self.bring_up(unit, run, top);
                let n = find(run, st(run, i));
                self.a.stack(0xd8, 0xc0 | (calc as u8) << 3 | n);
                run.host[0].1 = true;
            }
            StackOp::Calc(calc, form) => {
                self.bring_up(unit, run, top);
                let m = self.operand(form, v);
                let opcode = match form {
                    Operand::M32 => 0xd8,
                    Operand::M64 => 0xdc,
                    Operand::I32 => 0xda,
                    _ => 0xde,
                };
                self.a.x87(opcode, calc as u8, m);
                run.host[0].1 = true;
            }
            StackOp::CalcTo(calc, i, pops) => {
                self.bring(unit, run, st(run, i));
                self.bring_up(unit, run, top);
                let n = find(run, st(run, i));
                // Here the forms with and without R have each other's number (SDM volume 2, table A-11).
                let number = if calc as u8 >= 4 { calc as u8 ^ 1 } else { calc as u8 };
                self.a.stack(0xdc, 0xc0 | number << 3 | n);
                run.host[usize::from(n)].1 = true;
                if pops {
                    run.registers.pop();
                }
            }
            StackOp::Store(form, pops, cut) => {
                self.bring_up(unit, run, top);
                let (opcode, extension, w) = match (form, cut) {
                    (Operand::M32, _) => (0xd9, 2, Width::W32),
                    (Operand::M64, _) => (0xdd, 2, Width::W64),
                    (Operand::I16, false) => (0xdf, 2, Width::W16),
                    (Operand::I32, false) => (0xdb, 2, Width::W32),
                    // These have only forms that pop.
                    (Operand::I16, true) => (0xdf, 1, Width::W16),
                    (Operand::I32, true) => (0xdb, 1, Width::W32),
                    (_, true) => (0xdd, 1, Width::W64),
                    (_, false) => (0xdf, 7, Width::W64),
                };
                if extension != 2 {
                    self.a.stack(0xd9, 0xc0);
                }
                self.a.x87(opcode, extension, at(RSP, slot::OPERAND));
                self.a.load(w, RAX, at(RSP, slot::OPERAND));
                self.put(Width::W64, d, RAX);
                if pops {
                    run.registers.pop();
                }
            }
            StackOp::StoreTo(i, pops) => {
                let to = st(run, i);
                self.bring_up(unit, run, top);
                match run.host.iter().position(|h| h.0 == to) {
                    Some(n) => {
                        self.a.stack(0xdd, 0xd0 + n as u8);
                        run.host[n].1 = true;
                    }
                    None => {
                        self.a.stack(0xd9, 0xc0);
                        run.host.insert(0, (to, true));
                    }
                }
                run.registers.fill(to);
                if pops {
                    run.registers.pop();
                }
            }
            StackOp::Exchange(i) => {
                let other = st(run, i);
                self.bring(unit, run, top);
                self.bring(unit, run, other);
                for h in &mut run.host {
                    if h.0 == top {
                        *h = (other, true);
                    } else if h.0 == other {
                        *h = (top, true);
                    }
                }
            }
            StackOp::Negate | StackOp::Abs | StackOp::Sqrt => {
                self.bring_up(unit, run, top);
                let code = match op {
                    StackOp::Negate => 0xe0,
                    StackOp::Abs => 0xe1,
                    _ => 0xfa,
                };
                self.a.stack(0xd9, code);
                run.host[0].1 = true;
            }
            StackOp::Compare(with, quiet, pops) => {
                match with {
                    Operand::St(i) => {
                        self.bring(unit, run, st(run, i));
                        self.bring_up(unit, run, top);
                        let n = find(run, st(run, i));
                        let (opcode, code) = if quiet { (0xdd, 0xe0) } else { (0xd8, 0xd0) };
                        self.a.stack(opcode, code + n);
                    }
                    form => {
                        self.bring_up(unit, run, top);
                        let m = self.operand(form, v);
                        self.a.x87(if form == Operand::M32 { 0xd8 } else { 0xdc }, 2, m);
                    }
                }
                self.a.stack(0xdf, 0xe0);
                self.merge_status(unit, CODES, CODES);
                (0..pops).for_each(|_| run.registers.pop());
            }
            StackOp::Wait | StackOp::Status => {}
        }
    }

    /// Puts the host's status word, in AX, into the guest's: bits that are replaced, and bits that count.
    fn merge_status(&mut self, unit: &StackUnit, replaced: i32, bits: i32) {
        self.a.alu_imm(Alu::And, Width::W32, RAX, bits);
        self.a.load(Width::W16, RCX, field(unit.status));
        self.a.alu_imm(Alu::And, Width::W32, RCX, !replaced);
        self.a.alu(Alu::Or, Width::W32, RCX, RAX);
        self.a.store(Width::W16, field(unit.status), RCX);
    }

    /// The host's registers go to the guest's; RCX is lost.
    fn empty_host(&mut self, unit: &StackUnit, run: &mut Run) {
        for (r, newer) in std::mem::take(&mut run.host) {
            if newer {
                let place = self.register_place(unit, r);
                self.a.x87(0xdb, 7, place);
            } else {
                self.a.stack(0xdd, 0xd8);
            }
        }
    }

    /// The run ends here, if there is one. RAX and RCX are lost.
    pub(super) fn end_run(&mut self) {
        if let Some(run) = self.fpu.run.take() {
            self.settle_run(&run);
        }
    }

    /// The guest's state is made what it is at a place in a run. RAX and RCX are lost.
    pub(super) fn settle_run(&mut self, run: &Run) {
        let Some(unit) = self.stubs.unit else { return };
        let mut run = run.clone();
        self.a.stack(0xdf, 0xe0);
        self.merge_status(&unit, C1, EXCEPTIONS | if run.c1 { C1 } else { 0 });
        self.empty_host(&unit, &mut run);
        let Registers { occupied, free, filled, emptied, top } = run.registers;
        let (filled, emptied) = (filled & !occupied, emptied & !free);
        if filled | emptied != 0 {
            self.a.load(Width::W32, RCX, at(RSP, slot::TOP));
            self.a.load(Width::W8, RAX, field(unit.valid));
            self.a.shift(Shift::Ror, Width::W8, RAX);
            self.a.alu_imm(Alu::And, Width::W8, RAX, !emptied as i8 as i32);
            self.a.alu_imm(Alu::Or, Width::W8, RAX, filled as i8 as i32);
            self.a.shift(Shift::Rol, Width::W8, RAX);
            self.a.store(Width::W8, field(unit.valid), RAX);
        }
        if top != 0 {
            self.a.load(Width::W32, RCX, at(RSP, slot::TOP));
            self.a.alu_imm(Alu::Add, Width::W32, RCX, top.into());
            self.a.alu_imm(Alu::And, Width::W32, RCX, 7);
            self.a.store(Width::W8, field(unit.top), RCX);
        }
        if let Some((fop, pc)) = run.note {
            self.a.store_imm(Width::W16, field(unit.opcode), fop.into());
            self.put_constant(field(unit.instruction), pc);
            self.a.load(Width::W16, RAX, home(unit.selector));
            self.a.store(Width::W16, field(unit.code_segment), RAX);
        }
        if let Some(segment) = run.segment {
            self.a.load(Width::W16, RAX, home(segment));
            self.a.store(Width::W16, field(unit.data_segment), RAX);
        }
    }

    /// Seldom run code: what was settled is on the host again. RCX and RDX are lost.
    pub(super) fn resume_run(&mut self, fpu: &Fpu) {
        let Some(unit) = self.stubs.unit.filter(|_| fpu.ready) else { return };
        self.a.stack(0xdb, 0xe2);
        self.a.x87(0xd9, 5, field(unit.control));
        self.a.alu_imm(Alu::Or, Width::W32, at(RSP, slot::FLOAT), word::STACK);
        let Some(run) = &fpu.run else { return };
        for &(r, _) in run.host.iter().rev() {
            let place = self.register_place(&unit, r);
            self.a.x87(0xdb, 5, place);
        }
        // TOP and what is occupied are again as at the start of the run, which its end relies on.
        let Registers { occupied, free, .. } = run.registers;
        self.a.load(Width::W32, RCX, at(RSP, slot::TOP));
        self.a.store(Width::W8, field(unit.top), RCX);
        self.a.load(Width::W8, RDX, field(unit.valid));
        self.a.shift(Shift::Ror, Width::W8, RDX);
        self.a.alu_imm(Alu::And, Width::W8, RDX, !free as i8 as i32);
        self.a.alu_imm(Alu::Or, Width::W8, RDX, occupied as i8 as i32);
        self.a.shift(Shift::Rol, Width::W8, RDX);
        self.a.store(Width::W8, field(unit.valid), RDX);
        if run.c1 {
            // The host's condition code 1, which loading has cleared, by its environment.
            let status = slot::ENVIRONMENT + 4;
            self.a.x87(0xd9, 6, at(RSP, slot::ENVIRONMENT));
            self.a.load(Width::W16, RCX, field(unit.status));
            self.a.alu_imm(Alu::And, Width::W32, RCX, C1);
            self.a.alu_to(Alu::Or, Width::W32, at(RSP, status), RCX);
            self.a.x87(0xd9, 4, at(RSP, slot::ENVIRONMENT));
        }
    }

    /// Seldom run code: the host gets the guest's control word, or the block goes on with calls.
    pub(super) fn start_stack(&mut self, here: Mark, back: Mark, otherwise: Mark) {
        let Some(stub) = self.stubs.stack else { return };
        self.a.here(here);
        self.a.call(stub);
        self.a.test(Width::W32, RAX, RAX);
        self.a.jump_if(Cc::Ne, back);
        self.a.jump(otherwise);
    }
}
