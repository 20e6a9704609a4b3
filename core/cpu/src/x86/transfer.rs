//! Far control transfers: JMP, CALL, RET and IRET through code segments, call gates and task
//! gates (SDM vol. 3A section 5.8, vol. 2 JMP, CALL, RET, IRET).

use super::paging::Bus;
use super::segment::{Descriptor, Stack, is_null, kind, rpl, stack_mask};
use super::state::{Fault, Segment, X86, attr, cr4, flag, seg, var};
use super::task::Cause;

/// The low `opsize` bytes of a value.
pub const fn truncate(value: u64, opsize: u8) -> u64 {
    match opsize {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

impl X86 {
    /// Writes the instruction pointer.
    pub const fn set_rip(&mut self, rip: u64) {
        self.frame.ints[var::RIP] = rip;
    }

    /// Checks a branch target against the code segment it will run in.
    pub fn check_target(&self, code: &Segment, target: u64) -> Result<(), Fault> {
        let ok = if self.long_mode() && code.long() {
            Self::canonical(target)
        } else {
            target <= code.limit.into()
        };
        if ok { Ok(()) } else { Err(Fault::GP0) }
    }

    /// A code segment as loaded: the selector's RPL is the privilege level.
    fn code_segment(
        &mut self,
        bus: &mut Bus<'_>,
        d: &Descriptor,
        level: u8,
    ) -> Result<Segment, Fault> {
        let mut s = self.mark_accessed(bus, d)?;
        s.selector = (d.selector & !3) | u16::from(level);
        Ok(s)
    }

    /// Type checks common to all loads of CS: a code segment, not both L and D in long mode.
    fn check_code(&self, d: &Descriptor) -> Result<(), Fault> {
        let s = d.segment();
        if !s.is_code() || (self.long_mode() && s.long() && s.big()) {
            return Err(Fault::gp(d.selector));
        }
        Ok(())
    }

    /// Privilege checks of a direct JMP or CALL.
    fn check_direct(&self, d: &Descriptor) -> Result<(), Fault> {
        let s = d.segment();
        let cpl = self.sys.cpl;
        let ok = if s.attr & attr::EC != 0 {
            s.dpl() <= cpl
        } else {
            rpl(d.selector) <= cpl && s.dpl() == cpl
        };
        if !ok {
            return Err(Fault::gp(d.selector));
        }
        if !s.present() {
            return Err(Fault::np(d.selector));
        }
        Ok(())
    }

    /// Privilege and presence of a gate or TSS descriptor used directly.
    fn check_gate(&self, d: &Descriptor) -> Result<(), Fault> {
        if d.dpl() < self.sys.cpl || d.dpl() < rpl(d.selector) {
            return Err(Fault::gp(d.selector));
        }
        if !d.present() {
            return Err(Fault::np(d.selector));
        }
        Ok(())
    }

    /// Switches through a task gate or a TSS descriptor.
    fn transfer_task(
        &mut self,
        bus: &mut Bus<'_>,
        d: &Descriptor,
        cause: Cause,
        next: u64,
    ) -> Result<(), Fault> {
        self.check_gate(d)?;
        let selector = if d.system() == Some(kind::TASK) { d.gate_selector() } else { d.selector };
        self.task_switch(bus, selector, cause, next, None)
    }

    /// JMP far.
    pub fn jmp_far(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        offset: u64,
        opsize: u8,
        next: u64,
    ) -> Result<(), Fault> {
        let offset = truncate(offset, opsize);
        if !self.descriptors() {
            return self.jmp_real(selector, offset);
        }
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let mut d = self.descriptor(bus, selector, Fault::gp)?;
        match d.system() {
            None => {
                self.check_code(&d)?;
                self.check_direct(&d)?;
                self.check_target(&d.segment(), offset)?;
                let s = self.code_segment(bus, &d, self.sys.cpl)?;
                self.set_segment(seg::CS, s);
                self.set_rip(offset);
                Ok(())
            }
            Some(kind::CALL16 | kind::CALL) => {
                let code = self.open_call_gate(bus, &mut d)?;
                self.check_direct_gate(&code, false)?;
                let offset = self.gate_target(&d);
                self.check_target(&code.segment(), offset)?;
                let s = self.code_segment(bus, &code, self.sys.cpl)?;
                self.set_segment(seg::CS, s);
                self.set_rip(offset);
                Ok(())
            }
            Some(kind::TASK | kind::TSS16 | kind::TSS) if !self.long_mode() => {
                self.transfer_task(bus, &d, Cause::Jmp, next)
            }
            _ => Err(Fault::gp(selector)),
        }
    }

    fn jmp_real(&mut self, selector: u16, offset: u64) -> Result<(), Fault> {
        let s = if self.v86() {
            Self::v86_segment(selector)
        } else {
            self.real_segment(seg::CS, selector)
        };
        if offset > s.limit.into() {
            return Err(Fault::GP0);
        }
        self.set_segment(seg::CS, s);
        self.set_rip(offset);
        Ok(())
    }

    /// Checks a call gate and reads the code descriptor it leads to.
    fn open_call_gate(
        &mut self,
        bus: &mut Bus<'_>,
        gate: &mut Descriptor,
    ) -> Result<Descriptor, Fault> {
        if self.long_mode() {
            if gate.system() == Some(kind::CALL16) {
                return Err(Fault::gp(gate.selector));
            }
            self.check_gate(gate)?;
            self.descriptor_high(bus, gate, Fault::gp)?;
        } else {
            self.check_gate(gate)?;
        }
        let target = gate.gate_selector();
        if is_null(target) {
            return Err(Fault::GP0);
        }
        let code = self.descriptor(bus, target, Fault::gp)?;
        self.check_code(&code)?;
        // In long mode a call gate leads to 64-bit code only.
        if self.long_mode() && !code.segment().long() {
            return Err(Fault::gp(target));
        }
        Ok(code)
    }

    fn check_direct_gate(&self, code: &Descriptor, call: bool) -> Result<(), Fault> {
        let s = code.segment();
        let inward = call || s.attr & attr::EC != 0;
        let ok = if inward { s.dpl() <= self.sys.cpl } else { s.dpl() == self.sys.cpl };
        if !ok {
            return Err(Fault::gp(code.selector));
        }
        if !s.present() {
            return Err(Fault::np(code.selector));
        }
        Ok(())
    }

    fn gate_target(&self, gate: &Descriptor) -> u64 {
        let offset = gate.gate_offset();
        match gate.system() {
            Some(kind::CALL16 | kind::INT16 | kind::TRAP16) => offset & 0xffff,
            _ if self.long_mode() => offset,
            _ => offset & 0xffff_ffff,
        }
    }

    /// CALL far.
    pub fn call_far(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        offset: u64,
        opsize: u8,
        next: u64,
    ) -> Result<(), Fault> {
        let offset = truncate(offset, opsize);
        let cs = u64::from(self.sys.seg[seg::CS].selector);
        if !self.descriptors() {
            let mut stack = Stack::current(self);
            stack.push(self, bus, opsize, cs)?;
            stack.push(self, bus, opsize, next)?;
            self.jmp_real(selector, offset)?;
            self.frame.ints[var::RSP] = stack.sp;
            return Ok(());
        }
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let mut d = self.descriptor(bus, selector, Fault::gp)?;
        match d.system() {
            None => {
                self.check_code(&d)?;
                self.check_direct(&d)?;
                let mut stack = Stack::current(self);
                stack.push(self, bus, opsize, cs)?;
                stack.push(self, bus, opsize, next)?;
                self.check_target(&d.segment(), offset)?;
                let s = self.code_segment(bus, &d, self.sys.cpl)?;
                self.set_segment(seg::CS, s);
                self.set_rip(offset);
                self.frame.ints[var::RSP] = stack.sp;
                Ok(())
            }
            Some(kind::CALL16 | kind::CALL) => self.call_gate(bus, &mut d, next),
            Some(kind::TASK | kind::TSS16 | kind::TSS) if !self.long_mode() => {
                self.transfer_task(bus, &d, Cause::Call, next)
            }
            _ => Err(Fault::gp(selector)),
        }
    }

    fn call_gate(
        &mut self,
        bus: &mut Bus<'_>,
        gate: &mut Descriptor,
        next: u64,
    ) -> Result<(), Fault> {
        let code = self.open_call_gate(bus, gate)?;
        self.check_direct_gate(&code, true)?;
        let target = self.gate_target(gate);
        let width = match gate.system() {
            Some(kind::CALL16) => 2,
            _ if self.long_mode() => 8,
            _ => 4,
        };
        let cs = u64::from(self.sys.seg[seg::CS].selector);
        let cseg = code.segment();
        let inner = cseg.attr & attr::EC == 0 && cseg.dpl() < self.sys.cpl;
        if !inner {
            let mut stack = Stack::current(self);
            if self.long_mode() {
                // The gate is 64-bit whatever the caller is.
                stack.flat |= self.code64();
            }
            stack.push(self, bus, width, cs)?;
            stack.push(self, bus, width, next)?;
            self.check_target(&cseg, target)?;
            let s = self.code_segment(bus, &code, self.sys.cpl)?;
            self.set_segment(seg::CS, s);
            self.set_rip(target);
            self.frame.ints[var::RSP] = stack.sp;
            return Ok(());
        }
        let level = cseg.dpl();
        let mut stack = self.inner_stack(bus, level)?;
        let old = Stack::current(self);
        let old_ss = u64::from(self.sys.seg[seg::SS].selector);
        stack.push(self, bus, width, old_ss)?;
        stack.push(self, bus, width, old.sp)?;
        if !self.long_mode() {
            let params = (gate.raw >> 32 & 31) as u8;
            for i in (0..params).rev() {
                let v = old.peek(self, bus, u64::from(i) * u64::from(width), width)?;
                stack.push(self, bus, width, v)?;
            }
        }
        stack.push(self, bus, width, cs)?;
        stack.push(self, bus, width, next)?;
        self.check_target(&cseg, target)?;
        let s = self.code_segment(bus, &code, level)?;
        self.enter(s, stack, level, target);
        Ok(())
    }

    /// Commits a change of code segment, stack and level.
    pub(super) fn enter(&mut self, code: Segment, stack: Stack, level: u8, target: u64) {
        self.sys.cpl = level;
        self.set_segment(seg::CS, code);
        self.set_segment(seg::SS, stack.segment);
        self.frame.ints[var::RSP] = truncate(stack.sp, if self.long_mode() { 8 } else { 4 });
        self.set_rip(target);
    }

    /// The stack that the TSS gives for an inner level (SDM vol. 3A section 5.8.5).
    pub(super) fn inner_stack(&mut self, bus: &mut Bus<'_>, level: u8) -> Result<Stack, Fault> {
        let tr = self.sys.tr;
        let rights = self.system_rights();
        let n = u64::from(level);
        let bad = Fault::ts(tr.selector);
        if self.long_mode() {
            let at = 4 + 8 * n;
            if at + 7 > tr.limit.into() {
                return Err(bad);
            }
            let sp = self.read_linear(bus, tr.base.wrapping_add(at), 8, rights)?;
            return Ok(self.long_stack(sp, u16::from(level)));
        }
        let wide = tr.kind() & 8 != 0;
        let (at, width) = if wide { (4 + 8 * n, 4) } else { (2 + 4 * n, 2) };
        if at + u64::from(width) + 1 > tr.limit.into() {
            return Err(bad);
        }
        let sp = self.read_linear(bus, tr.base.wrapping_add(at), width, rights)?;
        let ss = self.read_linear(bus, tr.base.wrapping_add(at + u64::from(width)), 2, rights)?;
        let segment = self.inner_stack_segment(bus, ss as u16, level)?;
        let mask = stack_mask(false, segment);
        let fault = Fault::ss(ss as u16);
        Ok(Stack { segment, sp, mask, flat: false, rights: self.level_rights(level), fault })
    }

    /// A 64-bit stack with a null selector of this level.
    pub(super) fn long_stack(&self, sp: u64, selector: u16) -> Stack {
        Stack {
            segment: self.null_stack(selector),
            sp,
            mask: u64::MAX,
            flat: true,
            rights: self.level_rights(rpl(selector)),
            fault: Fault::SS0,
        }
    }

    /// Rights of stack accesses once the processor is at a level. Pushes during delivery count
    /// as supervisor accesses with SMAP.
    fn level_rights(&self, level: u8) -> super::paging::Rights {
        if level == 3 { super::paging::Rights::User } else { self.system_rights() }
    }

    fn inner_stack_segment(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        level: u8,
    ) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Err(Fault::ts(0));
        }
        let d = self.descriptor(bus, selector, Fault::ts)?;
        let s = d.segment();
        let data = s.attr & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW;
        if rpl(selector) != level || s.dpl() != level || !data {
            return Err(Fault::ts(selector));
        }
        if !s.present() {
            return Err(Fault::ss(selector));
        }
        self.mark_accessed(bus, &d)
    }

    /// RETF.
    pub fn ret_far(&mut self, bus: &mut Bus<'_>, opsize: u8, bytes: u64) -> Result<(), Fault> {
        let mut stack = Stack::current(self);
        let rip = stack.pop(self, bus, opsize)?;
        let selector = stack.pop(self, bus, opsize)? as u16;
        if !self.descriptors() {
            self.jmp_real(selector, rip)?;
            self.frame.ints[var::RSP] = stack.moved(bytes);
            return Ok(());
        }
        let code = self.check_return(bus, selector)?;
        let level = rpl(selector);
        if level == self.sys.cpl {
            self.check_target(&code.segment(), rip)?;
            let s = self.code_segment(bus, &code, level)?;
            self.set_segment(seg::CS, s);
            self.frame.ints[var::RSP] = stack.moved(bytes);
            self.set_rip(rip);
            return Ok(());
        }
        stack.sp = stack.moved(bytes);
        let sp = stack.pop(self, bus, opsize)?;
        let ss = stack.pop(self, bus, opsize)? as u16;
        let segment = self.check_return_stack(bus, ss, level, &code)?;
        self.check_target(&code.segment(), rip)?;
        let s = self.code_segment(bus, &code, level)?;
        self.leave(s, segment, level, rip, sp);
        let sp = self.frame.ints[var::RSP];
        let mask = stack_mask(self.code64(), segment);
        self.frame.ints[var::RSP] = (sp & !mask) | (sp.wrapping_add(bytes) & mask);
        Ok(())
    }

    /// Checks the code segment that RET or IRET goes to.
    fn check_return(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<Descriptor, Fault> {
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        let d = self.descriptor(bus, selector, Fault::gp)?;
        self.check_code(&d)?;
        let s = d.segment();
        let level = rpl(selector);
        let dpl_ok = if s.attr & attr::EC != 0 { s.dpl() <= level } else { s.dpl() == level };
        if level < self.sys.cpl || !dpl_ok {
            return Err(Fault::gp(selector));
        }
        if !s.present() {
            return Err(Fault::np(selector));
        }
        Ok(d)
    }

    /// Checks the stack segment that RET or IRET goes to.
    fn check_return_stack(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        level: u8,
        code: &Descriptor,
    ) -> Result<Segment, Fault> {
        if is_null(selector) {
            if self.long_mode() && code.segment().long() && level != 3 && rpl(selector) == level {
                return Ok(self.null_stack(selector));
            }
            return Err(Fault::GP0);
        }
        let d = self.descriptor(bus, selector, Fault::gp)?;
        let s = d.segment();
        let data = s.attr & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW;
        if rpl(selector) != level || s.dpl() != level || !data {
            return Err(Fault::gp(selector));
        }
        if !s.present() {
            return Err(Fault::ss(selector));
        }
        self.mark_accessed(bus, &d)
    }

    /// Commits a return to another level.
    fn leave(&mut self, code: Segment, stack: Segment, level: u8, rip: u64, sp: u64) {
        let outer = level > self.sys.cpl;
        self.sys.cpl = level;
        self.set_segment(seg::CS, code);
        self.set_segment(seg::SS, stack);
        let mask = stack_mask(self.code64(), stack);
        // A 16-bit stack keeps the upper half of ESP.
        let old = if mask == 0xffff { self.frame.ints[var::RSP] & !mask } else { 0 };
        self.frame.ints[var::RSP] = old | (sp & mask);
        self.set_rip(rip);
        if outer {
            self.drop_inner_segments();
        }
    }

    /// IRET.
    pub fn iret(&mut self, bus: &mut Bus<'_>, opsize: u8, next: u64) -> Result<(), Fault> {
        if self.v86() {
            return self.iret_v86(bus, opsize);
        }
        if !self.protected() {
            let mut stack = Stack::current(self);
            let rip = stack.pop(self, bus, opsize)?;
            let cs = stack.pop(self, bus, opsize)? as u16;
            let flags = stack.pop(self, bus, opsize)?;
            self.jmp_real(cs, rip)?;
            self.frame.ints[var::RSP] = stack.sp;
            let all = !(flag::VM | flag::VIF | flag::VIP);
            self.merge_flags(flags, truncate(all, opsize));
            self.end_of_interrupt(flags, opsize);
            return Ok(());
        }
        if self.frame.ints[var::EFLAGS_REST] & flag::NT != 0 {
            if self.long_mode() {
                return Err(Fault::GP0);
            }
            self.task_return(bus, next)?;
            self.sys.nmi_blocked = false;
            return Ok(());
        }
        let mut stack = Stack::current(self);
        let rip = stack.pop(self, bus, opsize)?;
        let selector = stack.pop(self, bus, opsize)? as u16;
        let flags = stack.pop(self, bus, opsize)?;
        if flags & flag::VM != 0 && opsize == 4 && self.sys.cpl == 0 && !self.long_mode() {
            return self.iret_to_v86(bus, stack, rip, selector, flags);
        }
        let code = self.check_return(bus, selector)?;
        let level = rpl(selector);
        // IRET in 64-bit mode always pops the stack pointer.
        let outer = level > self.sys.cpl;
        let mask = self.iret_mask(opsize);
        if outer || self.code64() {
            let sp = stack.pop(self, bus, opsize)?;
            let ss = stack.pop(self, bus, opsize)? as u16;
            let segment = self.check_return_stack(bus, ss, level, &code)?;
            self.check_target(&code.segment(), rip)?;
            let s = self.code_segment(bus, &code, level)?;
            self.leave(s, segment, level, rip, sp);
        } else {
            self.check_target(&code.segment(), rip)?;
            let s = self.code_segment(bus, &code, level)?;
            self.set_segment(seg::CS, s);
            self.frame.ints[var::RSP] = stack.sp;
            self.set_rip(rip);
        }
        self.merge_flags(flags, mask);
        self.end_of_interrupt(flags, opsize);
        Ok(())
    }

    /// Which flags IRET at the current level loads.
    fn iret_mask(&self, opsize: u8) -> u64 {
        let mut mask =
            flag::ARITH | flag::TF | flag::DF | flag::NT | flag::RF | flag::AC | flag::ID;
        if self.sys.cpl <= self.iopl() {
            mask |= flag::IF;
        }
        if self.sys.cpl == 0 {
            mask |= flag::IOPL | flag::VIF | flag::VIP;
        }
        truncate(mask, opsize)
    }

    /// What IRET does besides returning: NMIs are open again, RF holds off breakpoints once.
    fn end_of_interrupt(&mut self, flags: u64, opsize: u8) {
        self.sys.nmi_blocked = false;
        if opsize > 2 && flags & flag::RF != 0 && self.hardware_breakpoints() {
            self.sys.resume = 2;
        }
    }

    fn iret_v86(&mut self, bus: &mut Bus<'_>, opsize: u8) -> Result<(), Fault> {
        let extended = self.iopl() < 3;
        if extended && (self.sys.cr4 & cr4::VME == 0 || opsize != 2) {
            return Err(Fault::GP0);
        }
        let mut stack = Stack::current(self);
        let rip = stack.pop(self, bus, opsize)?;
        let cs = stack.pop(self, bus, opsize)? as u16;
        let flags = stack.pop(self, bus, opsize)?;
        if extended {
            // Virtual interrupt flag in place of IF (SDM vol. 3B section 20.3.3.4).
            let vip = self.frame.ints[var::EFLAGS_REST] & flag::VIP != 0;
            if flags & flag::TF != 0 || (vip && flags & flag::IF != 0) {
                return Err(Fault::GP0);
            }
        }
        self.jmp_real(cs, rip)?;
        self.frame.ints[var::RSP] = stack.sp;
        let kept = flag::ARITH | flag::TF | flag::DF | flag::NT | flag::RF | flag::AC | flag::ID;
        if extended {
            let vif = if flags & flag::IF != 0 { flag::VIF } else { 0 };
            self.merge_flags((flags & 0xffff) | vif, truncate(kept, 2) | flag::VIF);
        } else {
            self.merge_flags(flags, truncate(kept | flag::IF, opsize));
        }
        self.end_of_interrupt(flags, opsize);
        Ok(())
    }

    fn iret_to_v86(
        &mut self,
        bus: &mut Bus<'_>,
        mut stack: Stack,
        rip: u64,
        cs: u16,
        flags: u64,
    ) -> Result<(), Fault> {
        let sp = stack.pop(self, bus, 4)?;
        let mut s = [0u16; 5];
        for v in &mut s {
            *v = stack.pop(self, bus, 4)? as u16;
        }
        if rip > 0xffff {
            return Err(Fault::GP0);
        }
        self.sys.cpl = 3;
        self.merge_flags(flags, 0xffff_ffff);
        self.set_segment(seg::CS, Self::v86_segment(cs));
        for (index, v) in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS].into_iter().zip(s) {
            self.set_segment(index, Self::v86_segment(v));
        }
        self.frame.ints[var::RSP] = sp;
        self.set_rip(rip & 0xffff);
        self.end_of_interrupt(flags, 4);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    #[test]
    fn a_return_to_the_outer_level_takes_its_stack_and_drops_inner_segments() {
        let b = Bench::user();
        assert_eq!((b.rip(), b.rsp()), (0x200, 0x6000));
        assert_eq!(b.cpu.sys.seg[seg::SS].selector, DATA3);
        assert!(!b.cpu.sys.seg[seg::DS].present());
    }

    #[test]
    fn a_call_gate_switches_stacks_and_copies_parameters() {
        let mut b = Bench::user();
        // Two parameters, gate privilege level 3, to level 0.
        b.gdt(FREE, 0x0000_ec02_0008_4444);
        b.board.write(0x6000, 8, 0xbbbb_0000_aaaa);
        b.with(|cpu, bus| cpu.call_far(bus, FREE | 3, 0x9999, 4, 0x205)).unwrap();
        assert_eq!((b.cpu.sys.cpl, b.rip(), b.rsp()), (0, 0x4444, 0x9000 - 24));
        let frame: Vec<u64> = (0..6).map(|n| b.stack(n)).collect();
        assert_eq!(frame, [0x205, CODE3.into(), 0xaaaa, 0xbbbb, 0x6000, DATA3.into()]);
        b.with(|cpu, bus| cpu.ret_far(bus, 4, 8)).unwrap();
        assert_eq!((b.cpu.sys.cpl, b.rip(), b.rsp()), (3, 0x205, 0x6008));
    }

    #[test]
    fn a_direct_transfer_does_not_change_the_level() {
        let mut b = Bench::user();
        let jump = |b: &mut Bench, s| b.with(|cpu, bus| cpu.jmp_far(bus, s, 0x300, 4, 0));
        assert_eq!(jump(&mut b, CODE0), Err(Fault::gp(CODE0)));
        b.gdt(FREE, 0x00cf_9f00_0000_ffff);
        assert_eq!(jump(&mut b, FREE), Ok(()), "conforming");
        assert_eq!((b.cpu.sys.cpl, b.cpu.sys.seg[seg::CS].selector), (3, FREE | 3));
        assert_eq!(jump(&mut b, DATA3), Err(Fault::gp(DATA3)));
        b.gdt(FREE, 0x0040_fb00_0000_00ff);
        assert_eq!(jump(&mut b, FREE | 3), Err(Fault::GP0), "outside the limit");
    }

    #[test]
    fn iret_enters_virtual_8086_mode_at_level_0_only() {
        let mut b = Bench::protected();
        let image = [0x10u64, 0x1000, 0x2_3002, 0x2000, 0x3000, 1, 2, 3, 4];
        for (i, v) in (0..).zip(image) {
            b.board.write(0x7000 + 4 * i, 4, v);
        }
        b.cpu.frame.ints[var::RSP] = 0x7000;
        b.with(|cpu, bus| cpu.iret(bus, 4, 0)).unwrap();
        assert!(b.cpu.v86());
        assert_eq!((b.cpu.sys.cpl, b.cpu.iopl(), b.rip(), b.rsp()), (3, 3, 0x10, 0x2000));
        let bases: Vec<u64> = b.cpu.sys.seg.iter().map(|s| s.base).collect();
        assert_eq!(bases, [0x10, 0x10000, 0x30000, 0x20, 0x30, 0x40]);
    }

    #[test]
    fn iret_of_a_user_keeps_what_is_not_his() {
        let mut b = Bench::user();
        for (i, v) in (0..).zip([0x210, u64::from(CODE3), 0x3fffd7u64 & !flag::VM & !flag::NT]) {
            b.board.write(0x5000 + 4 * i, 4, v);
        }
        b.cpu.frame.ints[var::RSP] = 0x5000;
        b.with(|cpu, bus| cpu.iret(bus, 4, 0)).unwrap();
        assert_eq!(b.cpu.rflags() & (flag::IF | flag::IOPL | flag::VIF | flag::VIP), 0);
        assert_ne!(b.cpu.rflags() & flag::AC, 0);
    }
}
