//! Segment registers and descriptors (SDM vol. 3A chapters 3 and 5, AMD APM vol. 2 chapter 4).

use super::paging::{Access, Bus, Rights};
use super::state::{Fault, Segment, X86, attr, cr0, cr4, efer, flag, seg, var};

/// System descriptor types (SDM vol. 3A table 3-2).
pub mod kind {
    /// 16-bit TSS, available.
    pub const TSS16: u8 = 1;
    /// Local descriptor table.
    pub const LDT: u8 = 2;
    /// 16-bit TSS, busy.
    pub const TSS16_BUSY: u8 = 3;
    /// 16-bit call gate.
    pub const CALL16: u8 = 4;
    /// Task gate.
    pub const TASK: u8 = 5;
    /// 16-bit interrupt gate.
    pub const INT16: u8 = 6;
    /// 16-bit trap gate.
    pub const TRAP16: u8 = 7;
    /// 32-bit or 64-bit TSS, available.
    pub const TSS: u8 = 9;
    /// 32-bit or 64-bit TSS, busy.
    pub const TSS_BUSY: u8 = 11;
    /// 32-bit or 64-bit call gate.
    pub const CALL: u8 = 12;
    /// 32-bit or 64-bit interrupt gate.
    pub const INT: u8 = 14;
    /// 32-bit or 64-bit trap gate.
    pub const TRAP: u8 = 15;
}

/// A descriptor as read from its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Its selector.
    pub selector: u16,
    /// The eight bytes.
    pub raw: u64,
    /// The eight bytes after, for system descriptors in long mode.
    pub high: u64,
    /// Linear address.
    pub at: u64,
}

impl Descriptor {
    /// Attribute bits, see [`attr`].
    pub const fn attr(&self) -> u16 {
        (self.raw >> 40) as u16 & 0xf0ff
    }

    /// As a segment register would cache it. Of system descriptors in long mode, the base's upper
    /// half is in `high`.
    pub const fn segment(&self) -> Segment {
        let attr = self.attr();
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        Segment {
            selector: self.selector,
            attr,
            limit: if attr & attr::G != 0 { limit << 12 | 0xfff } else { limit },
            base: self.raw >> 16 & 0xff_ffff | self.raw >> 56 << 24 | self.high << 32,
        }
    }

    /// Type of a system descriptor; `None` for code and data.
    pub const fn system(&self) -> Option<u8> {
        if self.attr() & attr::S != 0 { None } else { Some((self.attr() & 15) as u8) }
    }

    /// Privilege level.
    pub const fn dpl(&self) -> u8 {
        self.segment().dpl()
    }

    /// Present.
    pub const fn present(&self) -> bool {
        self.attr() & attr::P != 0
    }

    /// Gates: the selector they lead to.
    pub const fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Gates: the offset they lead to.
    pub const fn gate_offset(&self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000 | self.high << 32
    }
}

/// Requested privilege level of a selector.
pub const fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// Whether a selector is null.
pub const fn is_null(selector: u16) -> bool {
    selector & 0xfffc == 0
}

impl X86 {
    /// CR0.PE is set.
    pub const fn protected(&self) -> bool {
        self.sys.cr0 & cr0::PE != 0
    }

    /// EFLAGS.VM is set.
    pub const fn v86(&self) -> bool {
        self.frame.ints[var::EFLAGS_REST] & flag::VM != 0
    }

    /// Selectors name descriptors: protected and not v86.
    pub const fn descriptors(&self) -> bool {
        self.protected() && !self.v86()
    }

    /// Long mode is active.
    pub const fn long_mode(&self) -> bool {
        self.sys.efer & efer::LMA != 0
    }

    /// The current code segment is 64-bit.
    pub const fn code64(&self) -> bool {
        self.long_mode() && self.sys.seg[seg::CS].long()
    }

    /// I/O privilege level.
    pub const fn iopl(&self) -> u8 {
        ((self.frame.ints[var::EFLAGS_REST] >> 12) & 3) as u8
    }

    /// Sets a segment register and what lifted code knows of it.
    pub fn set_segment(&mut self, index: usize, s: Segment) {
        self.sys.seg[index] = s;
        self.publish(index);
    }

    /// Sets all copies that the frame holds; after a change of mode.
    pub fn publish_segments(&mut self) {
        for i in 0..6 {
            self.publish(i);
        }
    }

    fn publish(&mut self, index: usize) {
        let s = self.sys.seg[index];
        let typed = self.protected();
        let bound = if s.present() && !s.expand_down() { u64::from(s.limit) + 1 } else { 0 };
        let ints = &mut self.frame.ints;
        ints[var::SEG_SELECTOR + index] = s.selector.into();
        ints[var::SEG_BASE + index] = s.base;
        ints[var::SEG_READ + index] = if !typed || s.readable() { bound } else { 0 };
        ints[var::SEG_WRITE + index] = if !typed || s.writable() { bound } else { 0 };
    }

    /// ES, CS, SS and DS all cover the 4 GiB from 0.
    pub fn flat(&self) -> bool {
        const ALL: u64 = 1 << 32;
        let ints = &self.frame.ints;
        let plain = |i: usize| ints[var::SEG_BASE + i] == 0 && ints[var::SEG_READ + i] == ALL;
        let data = |i: usize| plain(i) && ints[var::SEG_WRITE + i] == ALL;
        plain(seg::CS) && data(seg::ES) && data(seg::SS) && data(seg::DS)
    }

    /// Reads a descriptor; `fault` says what a selector outside its table raises.
    pub fn descriptor(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        fault: fn(u16) -> Fault,
    ) -> Result<Descriptor, Fault> {
        let index = u64::from(selector & 0xfff8);
        let (base, limit) = if selector & 4 == 0 {
            (self.sys.gdtr.base, u64::from(self.sys.gdtr.limit))
        } else if self.sys.ldtr.present() {
            (self.sys.ldtr.base, u64::from(self.sys.ldtr.limit))
        } else {
            return Err(fault(selector));
        };
        if index + 7 > limit {
            return Err(fault(selector));
        }
        let at = base.wrapping_add(index);
        let raw = self.read_linear(bus, at, 8, self.system_rights())?;
        Ok(Descriptor { selector, raw, high: 0, at })
    }

    /// Reads the second half of a system descriptor in long mode.
    pub fn descriptor_high(
        &mut self,
        bus: &mut Bus<'_>,
        d: &mut Descriptor,
        fault: fn(u16) -> Fault,
    ) -> Result<(), Fault> {
        let limit =
            if d.selector & 4 == 0 { self.sys.gdtr.limit.into() } else { self.sys.ldtr.limit };
        if u32::from(d.selector & 0xfff8) + 15 > limit {
            return Err(fault(d.selector));
        }
        d.high = self.read_linear(bus, d.at.wrapping_add(8), 8, self.system_rights())?;
        // The type field of the second half must be zero.
        if d.high >> 40 & 0x1f != 0 {
            return Err(fault(d.selector));
        }
        d.high &= 0xffff_ffff;
        Ok(())
    }

    /// Sets the accessed bit in memory; answers the segment with it set.
    pub fn mark_accessed(&mut self, bus: &mut Bus<'_>, d: &Descriptor) -> Result<Segment, Fault> {
        let mut s = d.segment();
        if s.attr & attr::A == 0 {
            s.attr |= attr::A;
            let rights = self.system_rights();
            self.write_linear(bus, d.at.wrapping_add(5), 1, (s.attr & 0xff).into(), rights)?;
        }
        Ok(s)
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    pub fn set_busy(&mut self, bus: &mut Bus<'_>, at: u64, busy: bool) -> Result<(), Fault> {
        let rights = self.system_rights();
        let b = self.read_linear(bus, at.wrapping_add(5), 1, rights)?;
        let b = if busy { b | 2 } else { b & !2 };
        self.write_linear(bus, at.wrapping_add(5), 1, b, rights)
    }

    /// A segment as a real-mode load leaves it: the limit stays ("unreal mode").
    pub fn real_segment(&self, index: usize, selector: u16) -> Segment {
        let old = self.sys.seg[index];
        let limit = if old.present() && !old.expand_down() { old.limit } else { 0xffff };
        let attr = (old.attr & (attr::G | attr::DB)) | 0x93;
        Segment { selector, attr, limit, base: u64::from(selector) << 4 }
    }

    /// A segment as virtual-8086 mode has it.
    pub const fn v86_segment(selector: u16) -> Segment {
        Segment { selector, attr: 0xf3, limit: 0xffff, base: (selector as u64) << 4 }
    }

    /// MOV Sreg, POP Sreg, Lxx: not CS.
    pub fn load_segment(
        &mut self,
        bus: &mut Bus<'_>,
        index: usize,
        selector: u16,
    ) -> Result<(), Fault> {
        let s = if self.v86() {
            Self::v86_segment(selector)
        } else if !self.protected() {
            self.real_segment(index, selector)
        } else if index == seg::SS {
            self.check_stack_segment(bus, selector)?
        } else {
            self.check_data_segment(bus, index, selector)?
        };
        self.set_segment(index, s);
        Ok(())
    }

    fn check_stack_segment(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<Segment, Fault> {
        let cpl = self.sys.cpl;
        if is_null(selector) {
            // 64-bit code below level 3 may run with a null SS.
            if self.code64() && cpl < 3 && rpl(selector) == cpl {
                return Ok(self.null_stack(selector));
            }
            return Err(Fault::GP0);
        }
        let d = self.descriptor(bus, selector, Fault::gp)?;
        let s = d.segment();
        let data = s.attr & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW;
        if !data || rpl(selector) != cpl || s.dpl() != cpl {
            return Err(Fault::gp(selector));
        }
        if !s.present() {
            return Err(Fault::ss(selector));
        }
        self.mark_accessed(bus, &d)
    }

    /// The null SS of 64-bit code. Its DPL is the privilege level.
    pub fn null_stack(&self, selector: u16) -> Segment {
        Segment { selector, attr: u16::from(rpl(selector)) << attr::DPL_SHIFT, limit: 0, base: 0 }
    }

    fn check_data_segment(
        &mut self,
        bus: &mut Bus<'_>,
        index: usize,
        selector: u16,
    ) -> Result<Segment, Fault> {
        if is_null(selector) {
            let _ = index;
            return Ok(Segment { selector, attr: 0, limit: 0, base: 0 });
        }
        let d = self.descriptor(bus, selector, Fault::gp)?;
        let s = d.segment();
        let code = s.attr & attr::CODE != 0;
        if s.attr & attr::S == 0 || (code && s.attr & attr::RW == 0) {
            return Err(Fault::gp(selector));
        }
        let conforming = code && s.attr & attr::EC != 0;
        if !conforming && (rpl(selector) > s.dpl() || self.sys.cpl > s.dpl()) {
            return Err(Fault::gp(selector));
        }
        if !s.present() {
            return Err(Fault::np(selector));
        }
        self.mark_accessed(bus, &d)
    }

    /// Sets the privilege level's consequences: data segments that the new level may not use
    /// become null (returns to an outer level).
    pub fn drop_inner_segments(&mut self) {
        for i in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let s = self.sys.seg[i];
            let conforming = s.attr & (attr::CODE | attr::EC) == attr::CODE | attr::EC;
            if s.present() && s.dpl() < self.sys.cpl && !conforming {
                self.set_segment(i, Segment { selector: 0, attr: 0, limit: 0, base: s.base });
            }
        }
    }

    /// Checks an access and answers its linear address.
    pub fn check_access(
        &self,
        index: usize,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<u64, Fault> {
        let s = self.sys.seg[index & 7];
        let fault = if index == seg::SS { Fault::SS0 } else { Fault::GP0 };
        if self.code64() {
            let base = if index >= seg::FS { s.base } else { 0 };
            let linear = base.wrapping_add(offset);
            let ok = Self::canonical(linear) && Self::canonical(linear.wrapping_add(len - 1));
            return if ok { Ok(linear) } else { Err(fault) };
        }
        let typed = !self.protected() || if write { s.writable() } else { s.readable() };
        if !typed || !s.present() || !s.covers(offset, len) {
            return Err(fault);
        }
        Ok(self.wrap_linear(s.base.wrapping_add(offset)))
    }

    /// Whether LAR, LSL, VERR and VERW may see the segment, privilege-wise.
    fn visible(&self, s: &Segment, selector: u16) -> bool {
        let conforming =
            s.attr & (attr::S | attr::CODE | attr::EC) == attr::S | attr::CODE | attr::EC;
        conforming || (self.sys.cpl <= s.dpl() && rpl(selector) <= s.dpl())
    }

    /// A descriptor for LAR and friends: `None` where they clear ZF.
    fn peek(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<Option<Descriptor>, Fault> {
        if !self.descriptors() {
            return Err(Fault::UD);
        }
        if is_null(selector) {
            return Ok(None);
        }
        // A mark of our own tells a bad selector from a page fault on the table.
        match self.descriptor(bus, selector, |_| Fault::UD) {
            Ok(d) => Ok(Some(d)),
            Err(Fault::UD) => Ok(None),
            Err(f) => Err(f),
        }
    }

    /// LAR: the access rights, or `None` to clear ZF.
    pub fn lar(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<Option<u32>, Fault> {
        let Some(d) = self.peek(bus, selector)? else { return Ok(None) };
        let known = match d.system() {
            None => true,
            Some(kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL) => true,
            Some(kind::TSS16 | kind::TSS16_BUSY | kind::CALL16 | kind::TASK) => !self.long_mode(),
            Some(_) => false,
        };
        let ok = known && self.visible(&d.segment(), selector);
        Ok(ok.then_some((d.raw >> 32) as u32 & 0x00f0_ff00))
    }

    /// LSL: the limit in bytes, or `None` to clear ZF.
    pub fn lsl(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<Option<u32>, Fault> {
        let Some(d) = self.peek(bus, selector)? else { return Ok(None) };
        let known = match d.system() {
            None => true,
            Some(kind::LDT | kind::TSS | kind::TSS_BUSY) => true,
            Some(kind::TSS16 | kind::TSS16_BUSY) => !self.long_mode(),
            Some(_) => false,
        };
        let s = d.segment();
        Ok((known && self.visible(&s, selector)).then_some(s.limit))
    }

    /// VERR and VERW: ZF.
    pub fn verify(&mut self, bus: &mut Bus<'_>, selector: u16, write: bool) -> Result<bool, Fault> {
        let Some(d) = self.peek(bus, selector)? else { return Ok(false) };
        let mut s = d.segment();
        if s.attr & attr::S == 0 || !self.visible(&s, selector) {
            return Ok(false);
        }
        // Presence is not looked at.
        s.attr |= attr::P;
        Ok(if write { s.writable() } else { s.readable() })
    }

    /// LLDT.
    pub fn lldt(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<(), Fault> {
        if !self.descriptors() {
            return Err(Fault::UD);
        }
        self.require_cpl0()?;
        if is_null(selector) {
            self.sys.ldtr = Segment { selector, ..Segment::default() };
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(Fault::gp(selector));
        }
        let mut d = self.descriptor(bus, selector, Fault::gp)?;
        if d.system() != Some(kind::LDT) {
            return Err(Fault::gp(selector));
        }
        if !d.present() {
            return Err(Fault::np(selector));
        }
        if self.long_mode() {
            self.descriptor_high(bus, &mut d, Fault::gp)?;
            if !Self::canonical(d.segment().base) {
                return Err(Fault::gp(selector));
            }
        }
        self.sys.ldtr = d.segment();
        Ok(())
    }

    /// LTR.
    pub fn ltr(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<(), Fault> {
        if !self.descriptors() {
            return Err(Fault::UD);
        }
        self.require_cpl0()?;
        if is_null(selector) {
            return Err(Fault::GP0);
        }
        if selector & 4 != 0 {
            return Err(Fault::gp(selector));
        }
        let mut d = self.descriptor(bus, selector, Fault::gp)?;
        let ok = match d.system() {
            Some(kind::TSS) => true,
            Some(kind::TSS16) => !self.long_mode(),
            _ => false,
        };
        if !ok {
            return Err(Fault::gp(selector));
        }
        if !d.present() {
            return Err(Fault::np(selector));
        }
        if self.long_mode() {
            self.descriptor_high(bus, &mut d, Fault::gp)?;
            if !Self::canonical(d.segment().base) {
                return Err(Fault::gp(selector));
            }
        }
        self.set_busy(bus, d.at, true)?;
        self.sys.tr = d.segment();
        self.sys.tr.attr |= 2;
        Ok(())
    }

    /// SLDT, STR, SGDT, SIDT, SMSW under UMIP.
    pub const fn check_umip(&self) -> Result<(), Fault> {
        if self.sys.cr4 & cr4::UMIP != 0 && self.sys.cpl > 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }

    /// #GP(0) unless CPL is 0.
    pub const fn require_cpl0(&self) -> Result<(), Fault> {
        if self.sys.cpl == 0 { Ok(()) } else { Err(Fault::GP0) }
    }
}

/// A stack being pushed to or popped from; the stack pointer is committed by the caller.
#[derive(Clone, Copy, Debug)]
pub struct Stack {
    /// Its segment.
    pub segment: Segment,
    /// Current stack pointer.
    pub sp: u64,
    /// Which bits of it take part.
    pub mask: u64,
    /// 64-bit addressing: no segment.
    pub flat: bool,
    /// With whose rights.
    pub rights: Rights,
    /// What a limit violation raises.
    pub fault: Fault,
}

impl Stack {
    /// The stack in use.
    pub fn current(cpu: &X86) -> Self {
        let segment = cpu.sys.seg[seg::SS];
        let flat = cpu.code64();
        let mask = stack_mask(flat, segment);
        let rights = cpu.data_rights();
        let sp = cpu.frame.ints[var::RSP];
        Self { segment, sp, mask, flat, rights, fault: Fault::SS0 }
    }

    /// The linear address of `width` bytes at the stack pointer plus `off`.
    fn at(&self, cpu: &X86, sp: u64, width: u8) -> Result<u64, Fault> {
        let offset = sp & self.mask;
        if self.flat {
            return if X86::canonical(offset) { Ok(offset) } else { Err(self.fault) };
        }
        if !self.segment.covers(offset, width.into()) {
            return Err(self.fault);
        }
        Ok(cpu.wrap_linear(self.segment.base.wrapping_add(offset)))
    }

    /// The pointer moved by `by`, bits outside the mask kept.
    pub fn moved(&self, by: u64) -> u64 {
        (self.sp & !self.mask) | (self.sp.wrapping_add(by) & self.mask)
    }

    /// Pushes.
    pub fn push(
        &mut self,
        cpu: &mut X86,
        bus: &mut Bus<'_>,
        width: u8,
        value: u64,
    ) -> Result<(), Fault> {
        let sp = self.moved(0u64.wrapping_sub(width.into()));
        let at = self.at(cpu, sp, width)?;
        cpu.write_linear(bus, at, width, value, self.rights)?;
        self.sp = sp;
        Ok(())
    }

    /// Pops.
    pub fn pop(&mut self, cpu: &mut X86, bus: &mut Bus<'_>, width: u8) -> Result<u64, Fault> {
        let at = self.at(cpu, self.sp, width)?;
        let v = cpu.read_linear(bus, at, width, self.rights)?;
        self.sp = self.moved(width.into());
        Ok(v)
    }

    /// Checks that `width` bytes at the stack pointer can be written.
    pub fn probe(&self, cpu: &mut X86, bus: &mut Bus<'_>, width: u8) -> Result<(), Fault> {
        let at = self.at(cpu, self.sp, width)?;
        cpu.probe_linear(bus, at, width.into(), Access::Write, self.rights)
    }

    /// Reads at a displacement without moving.
    pub fn peek(
        &self,
        cpu: &mut X86,
        bus: &mut Bus<'_>,
        disp: u64,
        width: u8,
    ) -> Result<u64, Fault> {
        let at = self.at(cpu, self.moved(disp), width)?;
        cpu.read_linear(bus, at, width, self.rights)
    }
}

/// Which bits of the stack pointer a stack segment uses.
pub const fn stack_mask(flat: bool, segment: Segment) -> u64 {
    if flat {
        u64::MAX
    } else if segment.big() {
        0xffff_ffff
    } else {
        0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    fn load(b: &mut Bench, index: usize, selector: u16) -> Result<(), Fault> {
        b.with(|cpu, bus| cpu.load_segment(bus, index, selector))
    }

    #[test]
    fn a_load_checks_type_privilege_and_presence_in_this_order() {
        let mut b = Bench::user();
        assert_eq!(load(&mut b, seg::DS, DATA0), Err(Fault::gp(DATA0)));
        b.gdt(FREE, 0x00cf_7300_0000_ffff);
        assert_eq!(load(&mut b, seg::DS, FREE | 3), Err(Fault::np(FREE)));
        assert_eq!(load(&mut b, seg::SS, FREE | 3), Err(Fault::ss(FREE)));
        assert_eq!(load(&mut b, seg::SS, FREE), Err(Fault::gp(FREE)), "RPL is not CPL");
        assert_eq!(load(&mut b, seg::SS, 0), Err(Fault::GP0));
        assert_eq!(load(&mut b, seg::DS, 0x100), Err(Fault::gp(0x100)), "beyond the table");
        assert_eq!(load(&mut b, seg::DS, FREE | 4), Err(Fault::gp(FREE | 4)), "no LDT");
        assert_eq!(load(&mut b, seg::DS, 3), Ok(()));
        assert_eq!(b.cpu.check_access(seg::DS, 0, 1, false), Err(Fault::GP0), "null");
    }

    #[test]
    fn a_load_marks_its_descriptor_accessed() {
        let mut b = Bench::protected();
        b.gdt(FREE, 0x00cf_9200_0000_ffff);
        load(&mut b, seg::ES, FREE).unwrap();
        assert_eq!(b.board.read(GDT + u64::from(FREE) + 5, 1), 0x93);
        assert_eq!(b.cpu.frame.ints[var::SEG_SELECTOR], u64::from(FREE));
    }

    #[test]
    fn limits_hold_for_both_directions() {
        let mut b = Bench::protected();
        b.gdt(FREE, 0x0040_9300_0000_0fff);
        load(&mut b, seg::ES, FREE).unwrap();
        assert!(b.cpu.check_access(seg::ES, 0xffc, 4, true).is_ok());
        assert_eq!(b.cpu.check_access(seg::ES, 0xffd, 4, true), Err(Fault::GP0));
        assert_eq!(b.cpu.frame.ints[var::SEG_WRITE + seg::ES], 0x1000);
        b.gdt(FREE, 0x0040_9700_0000_0fff);
        load(&mut b, seg::ES, FREE).unwrap();
        assert_eq!(b.cpu.check_access(seg::ES, 0xfff, 1, true), Err(Fault::GP0));
        assert!(b.cpu.check_access(seg::ES, 0x1000, 4, true).is_ok());
        assert!(b.cpu.check_access(seg::ES, 0xffff_fffc, 4, true).is_ok());
        assert_eq!(b.cpu.check_access(seg::ES, 0xffff_fffd, 4, true), Err(Fault::GP0));
    }

    #[test]
    fn real_mode_keeps_the_limit_of_protected_mode() {
        let mut b = Bench::protected();
        b.with(|cpu, bus| cpu.write_cr0(bus, cpu.sys.cr0 & !cr0::PE)).unwrap();
        load(&mut b, seg::ES, 0x1234).unwrap();
        assert_eq!(b.cpu.check_access(seg::ES, 0x10_0000, 1, false), Ok(0x11_2340));
    }

    #[test]
    fn lar_lsl_and_verify_see_what_the_program_may() {
        let mut b = Bench::user();
        b.with(|cpu, bus| {
            assert_eq!(cpu.lar(bus, DATA0), Ok(None));
            assert_eq!(cpu.lar(bus, DATA3), Ok(Some(0x00c0_f300)));
            assert_eq!(cpu.lsl(bus, DATA3), Ok(Some(0xffff_ffff)));
            assert_eq!(cpu.verify(bus, CODE3, false), Ok(true));
            assert_eq!(cpu.verify(bus, CODE3, true), Ok(false));
            assert_eq!(cpu.verify(bus, 0xf8, true), Ok(false));
        });
        let mut b = Bench::real();
        assert_eq!(b.with(|cpu, bus| cpu.lar(bus, 8)), Err(Fault::UD));
    }

    #[test]
    fn ltr_makes_its_task_busy_and_refuses_a_busy_one() {
        let mut b = Bench::protected();
        assert_eq!(b.board.read(GDT + u64::from(TSS_SEL) + 5, 1), 0x8b);
        assert_eq!(b.with(|cpu, bus| cpu.ltr(bus, TSS_SEL)), Err(Fault::gp(TSS_SEL)));
        assert_eq!(b.with(|cpu, bus| cpu.lldt(bus, TSS_SEL)), Err(Fault::gp(TSS_SEL)));
    }
}
