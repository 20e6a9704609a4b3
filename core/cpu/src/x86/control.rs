//! Control registers, privileged flags, fast system calls (SDM vol. 3A sections 2.5 and 5.8.7,
//! AMD APM vol. 2 chapters 3 and 6).

use super::cpuid::feature;
use super::flags;
use super::paging::Bus;
use super::segment::Stack;
use super::state::{Fault, Segment, X86, cr0, cr4, efer, flag, seg, var};
use super::transfer::truncate;

/// CR0 bits that exist.
const CR0_BITS: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

impl X86 {
    /// RFLAGS. RF reads as zero: it is between instructions only.
    pub fn rflags(&self) -> u64 {
        flags::read(&self.frame)
    }

    /// Sets the flags in `mask` from `value`. RF is not kept here.
    pub fn merge_flags(&mut self, value: u64, mask: u64) {
        const KEPT: u64 = flag::ARITH
            | flag::TF
            | flag::IF
            | flag::DF
            | flag::IOPL
            | flag::NT
            | flag::VM
            | flag::AC
            | flag::VIF
            | flag::VIP
            | flag::ID;
        let mut mask = mask & KEPT;
        if !self.has_id_flag() {
            mask &= !flag::ID;
        }
        let old = self.rflags();
        flags::write(&mut self.frame, (old & !mask) | (value & mask));
    }

    /// EFLAGS.ID can be changed from the processors on that have CPUID.
    pub const fn has_id_flag(&self) -> bool {
        self.model.level > 0
    }

    /// Which CR4 bits the model has.
    fn cr4_bits(&self) -> u64 {
        let m = &self.model;
        [
            (feature::VME, cr4::VME | cr4::PVI),
            (feature::TSC, cr4::TSD),
            (feature::DE, cr4::DE),
            (feature::PSE, cr4::PSE),
            (feature::PAE, cr4::PAE),
            (feature::MCE, cr4::MCE),
            (feature::PGE, cr4::PGE),
            (feature::MMX, cr4::PCE),
            (feature::FXSR, cr4::OSFXSR),
            (feature::SSE, cr4::OSXMMEXCPT),
            (feature::UMIP, cr4::UMIP),
            (feature::FSGSBASE, cr4::FSGSBASE),
            (feature::SMEP, cr4::SMEP),
            (feature::SMAP, cr4::SMAP),
        ]
        .into_iter()
        .filter(|(f, _)| m.has(*f))
        .fold(0, |sum, (_, bits)| sum | bits)
    }

    /// MOV r, CRn.
    pub fn read_cr(&mut self, bus: &mut Bus<'_>, n: u64) -> Result<u64, Fault> {
        self.require_cpl0()?;
        match n {
            0 => Ok(self.sys.cr0),
            2 => Ok(self.sys.cr2),
            3 => Ok(self.sys.cr3),
            4 => Ok(self.sys.cr4),
            8 => Ok(bus.board.cr8(self.index)),
            _ => Err(Fault::UD),
        }
    }

    /// MOV CRn, r.
    pub fn write_cr(&mut self, bus: &mut Bus<'_>, n: u64, value: u64) -> Result<(), Fault> {
        self.require_cpl0()?;
        match n {
            0 => self.write_cr0(bus, value),
            2 => {
                self.sys.cr2 = value;
                Ok(())
            }
            3 => {
                if self.long_mode() && value >> self.model.phys_bits != 0 {
                    return Err(Fault::GP0);
                }
                self.switch_cr3(bus, value)
            }
            4 => self.write_cr4(bus, value),
            8 => {
                if value > 15 {
                    return Err(Fault::GP0);
                }
                bus.board.set_cr8(self.index, value);
                Ok(())
            }
            _ => Err(Fault::UD),
        }
    }

    /// Loads CR3 and forgets the translations it had.
    pub(super) fn switch_cr3(&mut self, bus: &mut Bus<'_>, value: u64) -> Result<(), Fault> {
        if Self::uses_pdptes(self.sys.cr0, self.sys.cr4, self.sys.efer) {
            self.sys.pdpte = self.read_pdptes(bus.board, value)?;
        }
        self.sys.cr3 = value;
        bus.tlb.flush_non_global();
        Ok(())
    }

    /// Writes CR0 (SDM vol. 3A section 2.5, long mode: section 9.8.5).
    pub fn write_cr0(&mut self, bus: &mut Bus<'_>, value: u64) -> Result<(), Fault> {
        if value >> 32 != 0
            || (value & cr0::PG != 0 && value & cr0::PE == 0)
            || (value & cr0::NW != 0 && value & cr0::CD == 0)
        {
            return Err(Fault::GP0);
        }
        let old = self.sys.cr0;
        let value = (value & CR0_BITS) | cr0::ET;
        let changed = old ^ value;
        let mut efer = self.sys.efer;
        if changed & cr0::PG != 0 {
            if value & cr0::PG == 0 {
                if self.code64() {
                    return Err(Fault::GP0);
                }
                efer &= !efer::LMA;
            } else if efer & efer::LME != 0 {
                let tss16 = self.sys.tr.kind() & 8 == 0;
                if self.sys.cr4 & cr4::PAE == 0 || self.sys.seg[seg::CS].long() || tss16 {
                    return Err(Fault::GP0);
                }
                efer |= efer::LMA;
            }
        }
        if changed & (cr0::PG | cr0::CD | cr0::NW) != 0
            && Self::uses_pdptes(value, self.sys.cr4, efer)
        {
            self.sys.pdpte = self.read_pdptes(bus.board, self.sys.cr3)?;
        }
        self.sys.cr0 = value;
        self.sys.efer = efer;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            bus.tlb.flush();
        }
        if changed & cr0::PE != 0 {
            self.sys.cpl = 0;
            self.publish_segments();
        }
        Ok(())
    }

    fn write_cr4(&mut self, bus: &mut Bus<'_>, value: u64) -> Result<(), Fault> {
        if value & !self.cr4_bits() != 0 || (self.long_mode() && value & cr4::PAE == 0) {
            return Err(Fault::GP0);
        }
        const PAGING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP | cr4::SMAP;
        let changed = self.sys.cr4 ^ value;
        if changed & PAGING != 0 {
            if Self::uses_pdptes(self.sys.cr0, value, self.sys.efer) {
                self.sys.pdpte = self.read_pdptes(bus.board, self.sys.cr3)?;
            }
            bus.tlb.flush();
        }
        self.sys.cr4 = value;
        Ok(())
    }

    /// LMSW: the low four bits of CR0; PE can be set, not cleared.
    pub fn lmsw(&mut self, bus: &mut Bus<'_>, value: u64) -> Result<(), Fault> {
        self.require_cpl0()?;
        let low = (value & 15) | (self.sys.cr0 & cr0::PE);
        self.write_cr0(bus, (self.sys.cr0 & !15) | low)
    }

    // Flags.

    /// What PUSHF stores.
    pub fn pushf(&self, opsize: u8) -> Result<u64, Fault> {
        let mut image = self.rflags() & !(flag::VM | flag::RF);
        if self.v86() && self.iopl() < 3 {
            if self.sys.cr4 & cr4::VME == 0 || opsize != 2 {
                return Err(Fault::GP0);
            }
            let vif = image & flag::VIF != 0;
            image = (image & !flag::IF) | flag::IOPL | if vif { flag::IF } else { 0 };
        }
        Ok(truncate(image, opsize))
    }

    /// POPF.
    pub fn popf(&mut self, image: u64, opsize: u8) -> Result<(), Fault> {
        let mut mask = flag::ARITH | flag::TF | flag::DF | flag::NT | flag::AC | flag::ID;
        if self.v86() && self.iopl() < 3 {
            if self.sys.cr4 & cr4::VME == 0 || opsize != 2 {
                return Err(Fault::GP0);
            }
            let vip = self.frame.ints[var::EFLAGS_REST] & flag::VIP != 0;
            if image & flag::TF != 0 || (vip && image & flag::IF != 0) {
                return Err(Fault::GP0);
            }
            let vif = if image & flag::IF != 0 { flag::VIF } else { 0 };
            self.merge_flags((image & 0xffff) | vif, truncate(mask, 2) | flag::VIF);
            return Ok(());
        }
        if self.sys.cpl <= self.iopl() {
            mask |= flag::IF;
        }
        if self.sys.cpl == 0 {
            mask |= flag::IOPL;
        }
        self.merge_flags(image, truncate(mask, opsize));
        Ok(())
    }

    /// CLI and STI in common: which flag they change, IF or VIF.
    fn interrupt_flag(&self) -> Result<u64, Fault> {
        if !self.protected() || self.sys.cpl <= self.iopl() {
            return Ok(flag::IF);
        }
        let virtual_flag = if self.v86() { cr4::VME } else { cr4::PVI };
        if self.sys.cpl == 3 && self.sys.cr4 & virtual_flag != 0 {
            return Ok(flag::VIF);
        }
        Err(Fault::GP0)
    }

    /// CLI.
    pub fn cli(&mut self) -> Result<(), Fault> {
        let f = self.interrupt_flag()?;
        self.frame.ints[var::EFLAGS_REST] &= !f;
        Ok(())
    }

    /// STI.
    pub fn sti(&mut self) -> Result<(), Fault> {
        let f = self.interrupt_flag()?;
        let rest = self.frame.ints[var::EFLAGS_REST];
        if f == flag::VIF && rest & flag::VIP != 0 {
            return Err(Fault::GP0);
        }
        if f == flag::IF && rest & flag::IF == 0 {
            self.open_shadow();
        }
        self.frame.ints[var::EFLAGS_REST] = rest | f;
        Ok(())
    }

    /// STI has opened: the next instruction holds interrupts off.
    pub const fn open_shadow(&mut self) {
        self.sys.shadow = 2;
        self.sys.shadow_ss = false;
    }

    /// The instruction behind STI is done, in the same block. What it opened itself stays.
    pub const fn end_shadow(&mut self) {
        if !self.sys.shadow_ss {
            self.sys.shadow = 0;
        }
    }

    /// CLAC and STAC.
    pub fn set_ac(&mut self, on: bool) -> Result<(), Fault> {
        if self.sys.cpl > 0 || !self.model.has(feature::SMAP) {
            return Err(Fault::UD);
        }
        self.merge_flags(if on { flag::AC } else { 0 }, flag::AC);
        Ok(())
    }

    // Fast system calls.

    /// A flat segment as SYSCALL and SYSENTER load it, whatever the descriptor says.
    fn fast_segment(&self, selector: u16, code: bool, level: u8, long: bool) -> Segment {
        let mut attr = 0x8093 | u16::from(level) << 5;
        if code {
            attr |= 8;
        }
        attr |= if long && code { 0x2000 } else { 0x4000 };
        Segment { selector, attr, limit: 0xffff_ffff, base: 0 }
    }

    fn fast_switch(&mut self, code: u16, stack: u16, level: u8, long: bool) {
        let cs = self.fast_segment(code, true, level, long);
        let ss = self.fast_segment(stack, false, level, long);
        self.sys.cpl = level;
        self.set_segment(seg::CS, cs);
        self.set_segment(seg::SS, ss);
    }

    /// SYSCALL (AMD APM vol. 3).
    pub fn syscall(&mut self, next: u64) -> Result<(), Fault> {
        if self.sys.efer & efer::SCE == 0 || !self.protected() {
            return Err(Fault::UD);
        }
        if !self.model.is_amd() && !self.code64() {
            return Err(Fault::UD);
        }
        let star = self.sys.msr.star;
        let cs = (star >> 32) as u16 & 0xfffc;
        let from64 = self.code64();
        let ints = &mut self.frame.ints;
        if self.sys.efer & efer::LMA != 0 {
            ints[var::RCX] = next;
            let image = self.rflags();
            self.frame.ints[var::R11] = image;
            let target = if from64 { self.sys.msr.lstar } else { self.sys.msr.cstar };
            let mask = self.sys.msr.sfmask;
            self.merge_flags(0, mask | flag::VM);
            self.fast_switch(cs, cs.wrapping_add(8), 0, true);
            self.set_rip(target);
        } else {
            ints[var::RCX] = next & 0xffff_ffff;
            self.merge_flags(0, flag::VM | flag::IF);
            self.fast_switch(cs, cs.wrapping_add(8), 0, false);
            self.set_rip(star & 0xffff_ffff);
        }
        // The single-step trap goes by the flags after SYSCALL and SYSRET, not before.
        self.sys.step_armed = self.frame.ints[var::EFLAGS_REST] & flag::TF != 0;
        Ok(())
    }

    /// SYSRET.
    pub fn sysret(&mut self, opsize: u8) -> Result<(), Fault> {
        if self.sys.efer & efer::SCE == 0 || !self.protected() {
            return Err(Fault::UD);
        }
        if !self.model.is_amd() && !self.code64() {
            return Err(Fault::UD);
        }
        self.require_cpl0()?;
        let rcx = self.frame.ints[var::RCX];
        let long = self.long_mode() && opsize == 8;
        if long && !Self::canonical(rcx) {
            return Err(Fault::GP0);
        }
        let base = (self.sys.msr.star >> 48) as u16;
        if self.long_mode() {
            let image = self.frame.ints[var::R11];
            self.merge_flags(image, !(flag::VM | flag::RF));
        } else {
            self.merge_flags(flag::IF, flag::IF);
        }
        let cs = if long { base.wrapping_add(16) } else { base };
        self.fast_switch(cs | 3, base.wrapping_add(8) | 3, 3, long);
        self.set_rip(if long { rcx } else { rcx & 0xffff_ffff });
        if self.frame.ints[var::EFLAGS_REST] & flag::TF != 0 {
            self.sys.step_armed = false;
            self.sys.debug_pending |= 1 << 14;
        }
        Ok(())
    }

    /// SYSENTER.
    pub fn sysenter(&mut self) -> Result<(), Fault> {
        let cs = self.sys.msr.sysenter_cs as u16 & 0xfffc;
        if !self.model.has(feature::SEP) {
            return Err(Fault::UD);
        }
        if !self.protected() || cs == 0 {
            return Err(Fault::GP0);
        }
        let long = self.long_mode();
        self.merge_flags(0, flag::VM | flag::IF);
        self.fast_switch(cs, cs.wrapping_add(8), 0, long);
        let width = if long { 8 } else { 4 };
        self.frame.ints[var::RSP] = truncate(self.sys.msr.sysenter_esp, width);
        self.set_rip(truncate(self.sys.msr.sysenter_eip, width));
        Ok(())
    }

    /// SYSEXIT.
    pub fn sysexit(&mut self, opsize: u8) -> Result<(), Fault> {
        let base = self.sys.msr.sysenter_cs as u16 & 0xfffc;
        if !self.model.has(feature::SEP) {
            return Err(Fault::UD);
        }
        if !self.protected() || base == 0 || self.sys.cpl != 0 {
            return Err(Fault::GP0);
        }
        let (rcx, rdx) = (self.frame.ints[var::RCX], self.frame.ints[var::RDX]);
        let long = self.long_mode() && opsize == 8;
        if long && (!Self::canonical(rcx) || !Self::canonical(rdx)) {
            return Err(Fault::GP0);
        }
        let add = if long { 32 } else { 16 };
        let cs = base.wrapping_add(add);
        self.fast_switch(cs | 3, cs.wrapping_add(8) | 3, 3, long);
        let width = if long { 8 } else { 4 };
        self.frame.ints[var::RSP] = truncate(rcx, width);
        self.set_rip(truncate(rdx, width));
        Ok(())
    }

    /// ENTER (SDM vol. 2).
    pub fn enter_frame(
        &mut self,
        bus: &mut Bus<'_>,
        bytes: u64,
        level: u64,
        opsize: u8,
    ) -> Result<(), Fault> {
        let level = level & 31;
        let mut stack = Stack::current(self);
        let rbp = self.frame.ints[var::RBP];
        stack.push(self, bus, opsize, rbp)?;
        let frame = stack.sp;
        if level > 0 {
            let mut display = Stack { sp: (stack.sp & !stack.mask) | (rbp & stack.mask), ..stack };
            for _ in 1..level {
                display.sp = display.moved(0u64.wrapping_sub(opsize.into()));
                let v = display.peek(self, bus, 0, opsize)?;
                stack.push(self, bus, opsize, v)?;
            }
            stack.push(self, bus, opsize, frame)?;
        }
        let sp = stack.moved(0u64.wrapping_sub(bytes));
        // The new top of stack must be writable, though nothing is written.
        Stack { sp, ..stack }.probe(self, bus, opsize)?;
        let ints = &mut self.frame.ints;
        ints[var::RSP] = sp;
        ints[var::RBP] = match opsize {
            2 => (rbp & !0xffff) | (frame & 0xffff),
            4 => frame & 0xffff_ffff,
            _ => frame,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    #[test]
    fn cr0_refuses_paging_without_protection_and_long_mode_without_pae() {
        let mut b = Bench::real();
        let mut write = |v| b.with(|cpu, bus| cpu.write_cr0(bus, v));
        assert_eq!(write(cr0::PG), Err(Fault::GP0));
        assert_eq!(write(cr0::NW), Err(Fault::GP0));
        let mut b = Bench::protected();
        b.cpu.sys.efer |= efer::LME;
        let value = cr0::PE | cr0::PG;
        assert_eq!(b.with(|cpu, bus| cpu.write_cr0(bus, value)), Err(Fault::GP0));
        b.cpu.sys.cr4 |= cr4::PAE;
        assert_eq!(b.with(|cpu, bus| cpu.write_cr0(bus, value)), Ok(()));
        assert!(b.cpu.long_mode());
        assert_eq!(b.with(|cpu, bus| cpu.write_cr(bus, 4, 0)), Err(Fault::GP0), "PAE stays");
    }

    #[test]
    fn a_user_changes_neither_iopl_nor_the_interrupt_flag() {
        let mut b = Bench::user();
        b.cpu.popf(flag::IF | flag::IOPL | flag::CF | flag::DF, 4).unwrap();
        assert_eq!(b.cpu.pushf(4), Ok(flag::FIXED | flag::CF | flag::DF));
        assert_eq!(b.cpu.cli(), Err(Fault::GP0));
        b.cpu.sys.cr4 |= cr4::PVI;
        assert_eq!(b.cpu.sti(), Ok(()));
        assert_eq!(b.cpu.rflags() & (flag::IF | flag::VIF), flag::VIF);
    }

    #[test]
    fn sti_casts_a_shadow_only_when_it_opens() {
        let mut b = Bench::protected();
        b.cpu.sti().unwrap();
        assert_eq!(b.cpu.sys.shadow, 2);
        b.cpu.sys.shadow = 0;
        b.cpu.sti().unwrap();
        assert_eq!(b.cpu.sys.shadow, 0);
    }

    #[test]
    fn sysenter_and_sysexit_change_levels_without_a_look_at_descriptors() {
        let mut b = Bench::user();
        b.cpu.sys.msr.sysenter_cs = 0x40;
        (b.cpu.sys.msr.sysenter_esp, b.cpu.sys.msr.sysenter_eip) = (0x5000, 0x1111);
        b.cpu.sysenter().unwrap();
        assert_eq!((b.cpu.sys.cpl, b.rip(), b.rsp()), (0, 0x1111, 0x5000));
        assert_eq!(
            (b.cpu.sys.seg[seg::CS].selector, b.cpu.sys.seg[seg::SS].selector),
            (0x40, 0x48)
        );
        (b.cpu.frame.ints[var::RCX], b.cpu.frame.ints[var::RDX]) = (0x6000, 0x2222);
        b.cpu.sysexit(4).unwrap();
        assert_eq!((b.cpu.sys.cpl, b.rip(), b.rsp()), (3, 0x2222, 0x6000));
        assert_eq!(b.cpu.sys.seg[seg::CS].selector, 0x53);
    }

    #[test]
    fn enter_copies_the_display() {
        let mut b = Bench::protected();
        (b.cpu.frame.ints[var::RSP], b.cpu.frame.ints[var::RBP]) = (0x7000, 0x6000);
        b.board.write(0x5ffc, 4, 0xaaaa);
        b.with(|cpu, bus| cpu.enter_frame(bus, 8, 2, 4)).unwrap();
        assert_eq!((b.rsp(), b.cpu.frame.ints[var::RBP]), (0x7000 - 12 - 8, 0x6ffc));
        let saved: Vec<u64> = (2..5).map(|n| b.stack(n)).collect();
        assert_eq!(saved, [0x6ffc, 0xaaaa, 0x6000]);
    }
}
