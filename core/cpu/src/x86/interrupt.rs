//! Interrupt and exception delivery (SDM vol. 3A chapter 6 and vol. 2 INT n, AMD APM vol. 2
//! chapter 8; virtual-8086 mode: SDM vol. 3B chapter 20).

use super::paging::{Access, Bus};
use super::segment::{Descriptor, Stack, is_null, kind, rpl, stack_mask};
use super::state::{Activity, Fault, Segment, X86, attr, cr4, flag, seg, var, vector};
use super::task::Cause;
use super::transfer::truncate;

/// Where an interrupt comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// INT n.
    Software,
    /// INT3, INTO: as INT n, but never redirected or refused in virtual-8086 mode.
    Breakpoint,
    /// INT1: a software interrupt without privilege check.
    Icebp,
    /// A pin or message, NMI.
    External,
    /// An exception.
    Exception,
}

impl Source {
    /// An instruction asked for it: the gate's privilege level is checked.
    const fn checked(self) -> bool {
        matches!(self, Self::Software | Self::Breakpoint)
    }
}

/// Exceptions that make a double fault of each other (SDM vol. 3A table 6-4).
const fn contributory(v: u8) -> bool {
    matches!(v, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

/// Exceptions reported before their instruction, whose frame holds RF.
const fn is_fault(v: u8) -> bool {
    !matches!(v, vector::DB | vector::NMI | vector::BP | vector::OF | vector::DF | vector::MC)
}

impl X86 {
    /// Enters the handler of an exception whose instruction is at the instruction pointer. Nested
    /// exceptions become double faults, and the third shuts the processor down.
    pub fn deliver(&mut self, bus: &mut Bus<'_>, fault: Fault) {
        let mut fault = fault;
        self.after_event();
        // A single-step trap after HLT goes on.
        if self.sys.activity == Activity::Halted {
            self.sys.activity = Activity::Running;
        }
        // Task gates whose tasks fault at once could go round for ever.
        let mut late = 0;
        loop {
            match fault.vector {
                vector::PF => self.sys.cr2 = fault.detail,
                vector::DB => {
                    // SDM vol. 3B section 17.2.3: bits 0 to 3 report this exception, the others stick.
                    self.sys.dr[6] = (self.sys.dr[6] & !15) | fault.detail;
                    self.sys.dr[7] &= !(1 << 13);
                }
                _ => {}
            }
            let rip = self.frame.ints[var::RIP];
            let rf = is_fault(fault.vector) || self.sys.resume != 0;
            match self.interrupt(bus, fault.vector, Source::Exception, fault.error, rip, rf) {
                Ok(()) => match self.sys.late_fault.take() {
                    Some(_) if late > 16 => {
                        self.shutdown();
                        break;
                    }
                    Some(next) => {
                        late += 1;
                        fault = next;
                    }
                    None => break,
                },
                Err(next) => {
                    let (a, b) = (fault.vector, next.vector);
                    let double = (contributory(a) && contributory(b))
                        || (a == vector::PF && (b == vector::PF || contributory(b)));
                    if a == vector::DF && (b == vector::PF || contributory(b)) {
                        self.shutdown();
                        break;
                    }
                    if b == vector::PF {
                        self.sys.cr2 = next.detail;
                    }
                    fault = if double { Fault::code(vector::DF, 0) } else { next };
                }
            }
        }
        self.sys.resume = 0;
    }

    /// An interrupt or NMI is taken between instructions.
    pub fn take_interrupt(&mut self, bus: &mut Bus<'_>, vector: u8) {
        self.after_event();
        self.sys.activity = Activity::Running;
        let rip = self.frame.ints[var::RIP];
        let rf = self.sys.resume != 0;
        match self.interrupt(bus, vector, Source::External, None, rip, rf) {
            Ok(()) => self.sys.resume = 0,
            Err(fault) => self.deliver(bus, fault),
        }
        self.raise_late(bus);
    }

    /// Raises what a task switch left to be raised in the new task.
    pub fn raise_late(&mut self, bus: &mut Bus<'_>) {
        if let Some(fault) = self.sys.late_fault.take() {
            self.deliver(bus, fault);
        }
    }

    /// INT n, INT3, INTO and INT1: `next` is the return address.
    pub fn software_interrupt(
        &mut self,
        bus: &mut Bus<'_>,
        vector: u8,
        source: Source,
        next: u64,
    ) -> Result<(), Fault> {
        if self.v86() && source == Source::Software {
            if self.sys.cr4 & cr4::VME != 0 && !self.redirected(bus, vector)? {
                return self.interrupt_v86(bus, vector, next);
            }
            if self.iopl() < 3 {
                return Err(Fault::GP0);
            }
        }
        self.interrupt(bus, vector, source, None, next, false)?;
        // A data breakpoint that MOV SS held off is taken at the handler; INT1 swallows it.
        let pending = self.sys.debug_pending;
        self.after_event();
        if source != Source::Icebp {
            self.sys.debug_pending = pending;
        }
        Ok(())
    }

    /// What any entry into a handler forgets.
    fn after_event(&mut self) {
        self.sys.shadow = 0;
        self.sys.step_armed = false;
        self.sys.debug_pending = 0;
    }

    /// The processor stops until it is reset.
    pub fn shutdown(&mut self) {
        self.sys.activity = Activity::Shutdown;
        self.reset_request = true;
    }

    /// The interrupt redirection bitmap of the TSS: true where the bit is set and the
    /// protected-mode handler gets the interrupt (SDM vol. 3B section 20.3.3).
    fn redirected(&mut self, bus: &mut Bus<'_>, vector: u8) -> Result<bool, Fault> {
        let tr = self.sys.tr;
        let rights = self.system_rights();
        if tr.limit < 0x67 || tr.kind() & 8 == 0 {
            return Err(Fault::GP0);
        }
        let io = self.read_linear(bus, tr.base.wrapping_add(0x66), 2, rights)?;
        let at = io.wrapping_sub(32).wrapping_add(u64::from(vector >> 3)) & 0xffff;
        if at > tr.limit.into() {
            return Err(Fault::GP0);
        }
        let byte = self.read_linear(bus, tr.base.wrapping_add(at), 1, rights)?;
        Ok(byte >> (vector & 7) & 1 != 0)
    }

    /// INT n of a virtual-8086 program to a handler of its own.
    fn interrupt_v86(&mut self, bus: &mut Bus<'_>, vector: u8, next: u64) -> Result<(), Fault> {
        let user = self.data_rights();
        let entry = self.read_linear(bus, u64::from(vector) * 4, 4, user)?;
        let mut image = self.rflags() & 0xffff;
        let extended = self.iopl() < 3;
        if extended {
            image |= flag::IOPL;
            let vif = self.frame.ints[var::EFLAGS_REST] & flag::VIF != 0;
            image = (image & !flag::IF) | if vif { flag::IF } else { 0 };
        }
        let mut stack = Stack::current(self);
        stack.push(self, bus, 2, image)?;
        stack.push(self, bus, 2, self.sys.seg[seg::CS].selector.into())?;
        stack.push(self, bus, 2, next)?;
        self.frame.ints[var::RSP] = stack.sp;
        self.set_segment(seg::CS, Self::v86_segment((entry >> 16) as u16));
        self.set_rip(entry & 0xffff);
        let gone = flag::TF | flag::NT | if extended { flag::VIF } else { flag::IF };
        self.merge_flags(0, gone);
        self.after_event();
        Ok(())
    }

    /// Enters a handler; `rip` is the address to return to. Nothing has changed on a fault.
    pub fn interrupt(
        &mut self,
        bus: &mut Bus<'_>,
        vector: u8,
        source: Source,
        error: Option<u32>,
        rip: u64,
        rf: bool,
    ) -> Result<(), Fault> {
        if self.events.is_some() {
            self.note_event(vector, source, error, rip);
        }
        if !self.protected() {
            return self.interrupt_real(bus, vector, rip);
        }
        let result = if self.long_mode() {
            self.interrupt_long(bus, vector, source, error, rip, rf)
        } else {
            self.interrupt_protected(bus, vector, source, error, rip, rf)
        };
        // Whatever goes wrong was not the program's doing, unless it said INT.
        result.map_err(|mut f| {
            if !source.checked() && (contributory(f.vector)) {
                f.error = f.error.map(|e| e | 1);
            }
            f
        })
    }

    /// What `-d int` says of an interrupt: vector, error code, whether a program asked for it, privilege, return address,
    /// stack, and what was accessed (page faults) or EAX.
    #[cold]
    fn note_event(&mut self, vector: u8, source: Source, error: Option<u32>, rip: u64) {
        let by_program = u8::from(!matches!(source, Source::Exception | Source::External));
        let last = match vector {
            vector::PF => format!("CR2={:016x}", self.sys.cr2),
            _ => format!("EAX={:016x}", self.frame.ints[var::RAX]),
        };
        let (cs, ss) = (self.sys.seg[seg::CS], self.sys.seg[seg::SS]);
        let text = format!(
            "v={vector:02x} e={:04x} i={by_program} cpl={} IP={:04x}:{rip:016x} pc={:016x} SP={:04x}:{:016x} {last}\n{}",
            error.unwrap_or(0),
            self.sys.cpl,
            cs.selector,
            cs.base.wrapping_add(rip),
            ss.selector,
            self.frame.ints[var::RSP],
            self.dump()
        );
        if let Some(events) = &mut self.events {
            events.push(text);
        }
    }

    fn interrupt_real(&mut self, bus: &mut Bus<'_>, vector: u8, rip: u64) -> Result<(), Fault> {
        let at = u64::from(vector) * 4;
        if at + 3 > self.sys.idtr.limit.into() {
            return Err(Fault::code(vector::GP, u32::from(vector) * 8 + 2));
        }
        let rights = self.system_rights();
        let entry = self.read_linear(bus, self.sys.idtr.base.wrapping_add(at), 4, rights)?;
        let mut stack = Stack::current(self);
        let flags = self.rflags();
        stack.push(self, bus, 2, flags)?;
        stack.push(self, bus, 2, self.sys.seg[seg::CS].selector.into())?;
        stack.push(self, bus, 2, rip)?;
        self.frame.ints[var::RSP] = stack.sp;
        let cs = self.real_segment(seg::CS, (entry >> 16) as u16);
        self.set_segment(seg::CS, cs);
        self.set_rip(entry & 0xffff);
        self.merge_flags(0, flag::IF | flag::TF | flag::AC);
        Ok(())
    }

    /// Reads a gate of the IDT and makes the checks common to all modes.
    fn gate(
        &mut self,
        bus: &mut Bus<'_>,
        vector: u8,
        source: Source,
        size: u64,
    ) -> Result<Descriptor, Fault> {
        let number = u32::from(vector) * 8 + 2;
        let at = u64::from(vector) * size;
        if at + size - 1 > self.sys.idtr.limit.into() {
            return Err(Fault::code(vector::GP, number));
        }
        let at = self.sys.idtr.base.wrapping_add(at);
        let rights = self.system_rights();
        let raw = self.read_linear(bus, at, 8, rights)?;
        let high =
            if size == 16 { self.read_linear(bus, at.wrapping_add(8), 8, rights)? } else { 0 };
        let d = Descriptor { selector: 0, raw, high: high & 0xffff_ffff, at };
        let known = match d.system() {
            Some(kind::INT | kind::TRAP) => true,
            Some(kind::TASK | kind::INT16 | kind::TRAP16) => size == 8,
            _ => false,
        };
        if !known || (source.checked() && d.dpl() < self.sys.cpl) {
            return Err(Fault::code(vector::GP, number));
        }
        if !d.present() {
            return Err(Fault::code(vector::NP, number));
        }
        Ok(d)
    }

    /// Reads and checks the handler's code segment.
    fn handler(&mut self, bus: &mut Bus<'_>, gate: &Descriptor) -> Result<Descriptor, Fault> {
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let d = self.descriptor(bus, selector, Fault::gp)?;
        let s = d.segment();
        if !s.is_code() || s.dpl() > self.sys.cpl {
            return Err(Fault::gp(selector));
        }
        if self.long_mode() && (!s.long() || s.big()) {
            return Err(Fault::gp(selector));
        }
        if !s.present() {
            return Err(Fault::np(selector));
        }
        Ok(d)
    }

    fn interrupt_protected(
        &mut self,
        bus: &mut Bus<'_>,
        vector: u8,
        source: Source,
        error: Option<u32>,
        rip: u64,
        rf: bool,
    ) -> Result<(), Fault> {
        let gate = self.gate(bus, vector, source, 8)?;
        let mut image = self.rflags() | if rf { flag::RF } else { 0 };
        if gate.system() == Some(kind::TASK) {
            return self.task_switch(bus, gate.gate_selector(), Cause::Interrupt, rip, error);
        }
        let code = self.handler(bus, &gate)?;
        let cseg = code.segment();
        let wide = matches!(gate.system(), Some(kind::INT | kind::TRAP));
        let width = if wide { 4 } else { 2 };
        let target = truncate(gate.gate_offset(), width);
        let conforming = cseg.attr & attr::EC != 0;
        let v86 = self.v86();
        if v86 && (conforming || cseg.dpl() != 0) {
            return Err(Fault::gp(code.selector));
        }
        let inner = !conforming && cseg.dpl() < self.sys.cpl;
        let level = if conforming { self.sys.cpl } else { cseg.dpl() };
        let mut stack = if inner {
            let mut stack = self.inner_stack(bus, level)?;
            if v86 {
                for i in [seg::GS, seg::FS, seg::DS, seg::ES] {
                    stack.push(self, bus, width, self.sys.seg[i].selector.into())?;
                }
            }
            stack.push(self, bus, width, self.sys.seg[seg::SS].selector.into())?;
            stack.push(self, bus, width, self.frame.ints[var::RSP])?;
            stack
        } else {
            Stack::current(self)
        };
        if !wide {
            image &= 0xffff;
        }
        stack.push(self, bus, width, image)?;
        stack.push(self, bus, width, self.sys.seg[seg::CS].selector.into())?;
        stack.push(self, bus, width, rip)?;
        if let Some(e) = error {
            stack.push(self, bus, width, e.into())?;
        }
        self.check_target(&cseg, target)?;
        let mut cs = self.mark_accessed(bus, &code)?;
        cs.selector = (cs.selector & !3) | u16::from(level);
        if v86 {
            for i in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.set_segment(i, Segment::default());
            }
        }
        let mut gone = flag::TF | flag::NT | flag::VM | flag::RF;
        if matches!(gate.system(), Some(kind::INT | kind::INT16)) {
            gone |= flag::IF;
        }
        self.merge_flags(0, gone);
        self.commit_handler(cs, stack, level, target, inner);
        Ok(())
    }

    fn commit_handler(&mut self, cs: Segment, stack: Stack, level: u8, rip: u64, inner: bool) {
        self.sys.cpl = level;
        self.set_segment(seg::CS, cs);
        if inner {
            self.set_segment(seg::SS, stack.segment);
        }
        self.frame.ints[var::RSP] = stack.sp;
        self.set_rip(rip);
    }

    fn interrupt_long(
        &mut self,
        bus: &mut Bus<'_>,
        vector: u8,
        source: Source,
        error: Option<u32>,
        rip: u64,
        rf: bool,
    ) -> Result<(), Fault> {
        let gate = self.gate(bus, vector, source, 16)?;
        let image = self.rflags() | if rf { flag::RF } else { 0 };
        let code = self.handler(bus, &gate)?;
        let cseg = code.segment();
        let conforming = cseg.attr & attr::EC != 0;
        let inner = !conforming && cseg.dpl() < self.sys.cpl;
        let level = if conforming { self.sys.cpl } else { cseg.dpl() };
        let ist = gate.raw >> 32 & 7;
        let old_sp = self.frame.ints[var::RSP];
        let old_ss = self.sys.seg[seg::SS];
        let mut stack = if ist != 0 {
            let tr = self.sys.tr;
            let at = 28 + 8 * ist;
            if at + 7 > tr.limit.into() {
                return Err(Fault::ts(tr.selector));
            }
            let sp = self.read_linear(bus, tr.base.wrapping_add(at), 8, self.system_rights())?;
            self.long_stack(sp, u16::from(level))
        } else if inner {
            self.inner_stack(bus, level)?
        } else {
            let mut stack = self.long_stack(truncate_stack(self, old_sp), u16::from(level));
            stack.segment = old_ss;
            stack
        };
        if ist != 0 && !inner {
            stack.segment = old_ss;
        }
        stack.sp &= !15;
        stack.push(self, bus, 8, old_ss.selector.into())?;
        stack.push(self, bus, 8, old_sp)?;
        stack.push(self, bus, 8, image)?;
        stack.push(self, bus, 8, self.sys.seg[seg::CS].selector.into())?;
        stack.push(self, bus, 8, rip)?;
        if let Some(e) = error {
            stack.push(self, bus, 8, e.into())?;
        }
        let target = gate.gate_offset();
        if !Self::canonical(target) {
            return Err(Fault::GP0);
        }
        let mut cs = self.mark_accessed(bus, &code)?;
        cs.selector = (cs.selector & !3) | u16::from(level);
        let mut gone = flag::TF | flag::NT | flag::VM | flag::RF;
        if gate.system() == Some(kind::INT) {
            gone |= flag::IF;
        }
        self.merge_flags(0, gone);
        self.commit_handler(cs, stack, level, target, inner);
        Ok(())
    }

    /// Whether the I/O bitmap of the TSS lets the program use `width` ports from `port` on
    /// (SDM vol. 1 section 19.5.2). #GP(0) if not.
    pub fn check_io(&mut self, bus: &mut Bus<'_>, port: u16, width: u8) -> Result<(), Fault> {
        if !self.protected() || (self.sys.cpl <= self.iopl() && !self.v86()) {
            return Ok(());
        }
        let tr = self.sys.tr;
        if !tr.present() || tr.kind() & 8 == 0 || tr.limit < 0x67 {
            return Err(Fault::GP0);
        }
        let rights = self.system_rights();
        let io = self.read_linear(bus, tr.base.wrapping_add(0x66), 2, rights)?;
        let at = io + u64::from(port >> 3);
        if at + 1 > tr.limit.into() {
            return Err(Fault::GP0);
        }
        let bits = self.read_linear(bus, tr.base.wrapping_add(at), 2, rights)?;
        let mask = (1 << width) - 1;
        if bits >> (port & 7) & mask != 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }

    /// Whether an instruction fetch at a linear address would fault; for the first page of a
    /// handler this is found when it runs.
    pub fn probe_fetch(&mut self, bus: &mut Bus<'_>, linear: u64) -> Result<(), Fault> {
        let rights = self.fetch_rights();
        self.page(bus, linear, Access::Exec, rights).map(|_| ())
    }
}

/// The stack pointer as the current stack segment uses it.
fn truncate_stack(cpu: &X86, sp: u64) -> u64 {
    sp & stack_mask(cpu.code64(), cpu.sys.seg[seg::SS])
}

/// The privilege level of a code selector.
pub const fn selector_level(selector: u16) -> u8 {
    rpl(selector)
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    #[test]
    fn real_mode_goes_through_the_vector_table() {
        let mut b = Bench::real();
        b.cpu.sys.idtr.limit = 0x3ff;
        b.board.write(0x21 * 4, 4, 0x1234_5678);
        b.cpu.frame.ints[var::EFLAGS_REST] |= flag::IF;
        let int = |cpu: &mut X86, bus: &mut Bus<'_>| {
            cpu.software_interrupt(bus, 0x21, Source::Software, 0x102)
        };
        b.with(int).unwrap();
        assert_eq!((b.rip(), b.cpu.sys.seg[seg::CS].base, b.rsp()), (0x5678, 0x12340, 0x7ffa));
        assert_eq!((b.board.read(0x7ffa, 2), b.board.read(0x7ffe, 2)), (0x102, 0x202));
        assert_eq!(b.cpu.rflags() & flag::IF, 0);
    }

    #[test]
    fn an_exception_in_user_mode_lands_on_the_inner_stack_with_its_code() {
        let mut b = Bench::user();
        b.gate(vector::PF, 0x8e, CODE0, 0x1_2345);
        b.with(|cpu, bus| cpu.deliver(bus, Fault::page(0xdead_b000, 6)));
        assert_eq!((b.rip(), b.cpu.sys.cpl, b.cpu.sys.cr2), (0x1_2345, 0, 0xdead_b000));
        let frame: Vec<u64> = (0..6).map(|n| b.stack(n)).collect();
        assert_eq!(frame, [6, 0x200, CODE3.into(), 0x1_0002, 0x6000, DATA3.into()], "RF is set");
    }

    #[test]
    fn a_program_may_only_call_gates_open_to_it() {
        let mut b = Bench::user();
        b.gate(0x80, 0x8e, CODE0, 0x100);
        let int = |cpu: &mut X86, bus: &mut Bus<'_>| {
            cpu.software_interrupt(bus, 0x80, Source::Software, 0x202)
        };
        assert_eq!(b.with(int), Err(Fault::code(vector::GP, 0x402)));
        b.gate(0x80, 0x0e, CODE0, 0x100);
        assert_eq!(b.with(int).unwrap_err().vector, vector::GP, "privilege before presence");
        b.gate(0x80, 0xee, CODE0, 0x100);
        assert_eq!(b.with(int), Ok(()));
        assert_eq!((b.cpu.sys.cpl, b.rip()), (0, 0x100));
    }

    #[test]
    fn contributory_exceptions_become_a_double_fault_and_then_shutdown() {
        let mut b = Bench::protected();
        b.gate(vector::DF, 0x8e, CODE0, 0x888);
        b.cpu.frame.ints[var::RSP] = 0x7000;
        b.with(|cpu, bus| cpu.deliver(bus, Fault::GP0));
        assert_eq!((b.rip(), b.stack(0)), (0x888, 0), "no gate for #GP");
        b.gate(vector::DF, 0, 0, 0);
        b.with(|cpu, bus| cpu.deliver(bus, Fault::GP0));
        assert_eq!(b.cpu.sys.activity, Activity::Shutdown);
        assert!(b.cpu.reset_request);
    }

    #[test]
    fn a_page_fault_after_an_invalid_opcode_is_delivered_as_such() {
        let mut b = Bench::protected();
        b.gate(vector::GP, 0x8e, CODE0, 0xddd);
        b.cpu.frame.ints[var::RSP] = 0x7000;
        b.with(|cpu, bus| cpu.deliver(bus, Fault::UD));
        assert_eq!((b.rip(), b.stack(0)), (0xddd, 6 * 8 + 2 + 1), "the gate of #UD, external");
    }

    #[test]
    fn ports_are_open_by_iopl_or_by_the_bitmap() {
        let mut b = Bench::user();
        b.board.write(TSS + 0x66, 2, 0x68);
        let mut check = |port, width| b.with(|cpu, bus| cpu.check_io(bus, port, width));
        assert_eq!(check(0x60, 1), Err(Fault::GP0), "no bitmap");
        b.cpu.sys.tr.limit = 0x68 + 0x2000;
        b.board.write(TSS + 0x68 + 0xc, 1, 0x02);
        let mut check = |port, width| b.with(|cpu, bus| cpu.check_io(bus, port, width));
        assert_eq!((check(0x60, 1), check(0x60, 2)), (Ok(()), Err(Fault::GP0)));
        b.cpu.frame.ints[var::EFLAGS_REST] |= flag::IOPL;
        assert_eq!(b.with(|cpu, bus| cpu.check_io(bus, 0x61, 1)), Ok(()));
    }
}
