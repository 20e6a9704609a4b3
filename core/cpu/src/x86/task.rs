//! Hardware task switches (SDM vol. 3A chapter 7).

use super::paging::{Access, Bus};
use super::segment::{Descriptor, Stack, is_null, kind, rpl};
use super::state::{Fault, Segment, X86, attr, cr0, flag, seg, var, vector};

/// What asks for a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// JMP to a TSS or task gate.
    Jmp,
    /// CALL to one.
    Call,
    /// A task gate in the IDT.
    Interrupt,
    /// IRET with NT set.
    Iret,
}

/// What a TSS holds of a task.
struct Image {
    cr3: u64,
    eip: u64,
    eflags: u64,
    gpr: [u64; 8],
    /// ES CS SS DS FS GS.
    segs: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl X86 {
    /// IRET with NT: back to the task in the link field of the TSS.
    pub(super) fn task_return(&mut self, bus: &mut Bus<'_>, next: u64) -> Result<(), Fault> {
        let link = self.read_linear(bus, self.sys.tr.base, 2, self.system_rights())? as u16;
        self.task_switch(bus, link, Cause::Iret, next, None)
    }

    /// Switches to the task of a TSS selector. `next` is where the old task will go on; `error` is
    /// pushed on the new task's stack.
    ///
    /// Faults found before the new task's state is in place leave the old task as it was; later
    /// ones are left in `late_fault` and raised in the new task (SDM vol. 3A section 7.3).
    pub fn task_switch(
        &mut self,
        bus: &mut Bus<'_>,
        selector: u16,
        cause: Cause,
        next: u64,
        error: Option<u32>,
    ) -> Result<(), Fault> {
        let bad = if cause == Cause::Iret { Fault::ts } else { Fault::gp };
        if is_null(selector) || selector & 4 != 0 {
            return Err(bad(selector));
        }
        let d = self.descriptor(bus, selector, bad)?;
        let wide = match (d.system(), cause) {
            (Some(kind::TSS16_BUSY), Cause::Iret) => false,
            (Some(kind::TSS_BUSY), Cause::Iret) => true,
            (_, Cause::Iret) => return Err(bad(selector)),
            (Some(kind::TSS16), _) => false,
            (Some(kind::TSS), _) => true,
            _ => return Err(bad(selector)),
        };
        if !d.present() {
            return Err(Fault::np(selector));
        }
        let tss = d.segment();
        if tss.limit < if wide { 0x67 } else { 0x2b } {
            return Err(Fault::ts(selector));
        }
        let image = self.read_tss(bus, tss.base, wide)?;
        self.save_tss(bus, cause, next)?;
        if matches!(cause, Cause::Call | Cause::Interrupt) {
            let old = self.sys.tr.selector;
            self.write_linear(bus, tss.base, 2, old.into(), self.system_rights())?;
        }
        // From here on the switch is committed.
        if matches!(cause, Cause::Jmp | Cause::Iret) {
            let at = self.sys.gdtr.base.wrapping_add(u64::from(self.sys.tr.selector & 0xfff8));
            self.set_busy(bus, at, false)?;
        }
        if cause != Cause::Iret {
            self.set_busy(bus, d.at, true)?;
        }
        let nested = matches!(cause, Cause::Call | Cause::Interrupt);
        if let Err(fault) = self.load_task(bus, &d, &image, wide, nested, error) {
            self.sys.late_fault = Some(fault);
        }
        Ok(())
    }

    fn read_tss(&mut self, bus: &mut Bus<'_>, base: u64, wide: bool) -> Result<Image, Fault> {
        let rights = self.system_rights();
        let mut get =
            |at: u64, width: u8| self.read_linear(bus, base.wrapping_add(at), width, rights);
        let mut gpr = [0; 8];
        let mut segs = [0; 6];
        if wide {
            for (i, r) in gpr.iter_mut().enumerate() {
                *r = get(40 + 4 * i as u64, 4)?;
            }
            for (i, s) in segs.iter_mut().enumerate() {
                *s = get(72 + 4 * i as u64, 2)? as u16;
            }
            Ok(Image {
                cr3: get(28, 4)?,
                eip: get(32, 4)?,
                eflags: get(36, 4)?,
                gpr,
                segs,
                ldt: get(96, 2)? as u16,
                trap: get(100, 2)? & 1 != 0,
            })
        } else {
            for (i, r) in gpr.iter_mut().enumerate() {
                *r = get(18 + 2 * i as u64, 2)? | 0xffff_0000;
            }
            for (i, s) in segs.iter_mut().take(4).enumerate() {
                *s = get(34 + 2 * i as u64, 2)? as u16;
            }
            Ok(Image {
                cr3: 0,
                eip: get(14, 2)?,
                eflags: get(16, 2)?,
                gpr,
                segs,
                ldt: get(42, 2)? as u16,
                trap: false,
            })
        }
    }

    fn save_tss(&mut self, bus: &mut Bus<'_>, cause: Cause, next: u64) -> Result<(), Fault> {
        let rights = self.system_rights();
        let tr = self.sys.tr;
        let wide = tr.kind() & 8 != 0;
        let mut flags = self.rflags();
        if cause == Cause::Iret {
            flags &= !flag::NT;
        }
        // Nothing may be half saved: ask for all of it first.
        let len = if wide { 0x5e } else { 0x2a };
        self.probe_linear(bus, tr.base, len, Access::Write, rights)?;
        let gpr: [u64; 8] = std::array::from_fn(|i| self.frame.ints[i]);
        let segs: [u64; 6] = std::array::from_fn(|i| self.sys.seg[i].selector.into());
        let mut put = |at: u64, width: u8, v: u64| {
            self.write_linear(bus, tr.base.wrapping_add(at), width, v, rights)
        };
        if wide {
            put(32, 4, next)?;
            put(36, 4, flags)?;
            for (i, v) in gpr.into_iter().enumerate() {
                put(40 + 4 * i as u64, 4, v)?;
            }
            for (i, v) in segs.into_iter().enumerate() {
                put(72 + 4 * i as u64, 2, v)?;
            }
        } else {
            put(14, 2, next)?;
            put(16, 2, flags)?;
            for (i, v) in gpr.into_iter().enumerate() {
                put(18 + 2 * i as u64, 2, v)?;
            }
            for (i, v) in segs.into_iter().take(4).enumerate() {
                put(34 + 2 * i as u64, 2, v)?;
            }
        }
        Ok(())
    }

    fn load_task(
        &mut self,
        bus: &mut Bus<'_>,
        d: &Descriptor,
        image: &Image,
        wide: bool,
        nested: bool,
        error: Option<u32>,
    ) -> Result<(), Fault> {
        self.sys.tr = d.segment();
        self.sys.tr.attr |= 2;
        self.sys.cr0 |= cr0::TS;
        if wide && self.paging() && image.cr3 != self.sys.cr3 {
            self.switch_cr3(bus, image.cr3)?;
        }
        let mut flags = image.eflags;
        if nested {
            flags |= flag::NT;
        }
        let mask = if wide { 0x003f_7fd5 } else { 0x7fd5 };
        self.merge_flags(flags, mask | flag::VM);
        self.sys.resume =
            if wide && flags & flag::RF != 0 && self.hardware_breakpoints() { 2 } else { 0 };
        self.frame.ints[..8].copy_from_slice(&image.gpr);
        self.set_rip(image.eip);
        // Local breakpoints are the old task's.
        self.sys.dr[7] &= !0x155;
        // Selectors first, unusable until their descriptors are checked.
        for (i, &selector) in image.segs.iter().enumerate() {
            self.set_segment(i, Segment { selector, ..Segment::default() });
        }
        let v86 = flags & flag::VM != 0 && wide;
        self.sys.cpl = if v86 { 3 } else { rpl(image.segs[seg::CS]) };
        self.load_task_ldt(bus, image.ldt)?;
        if v86 {
            for (i, &selector) in image.segs.iter().enumerate() {
                self.set_segment(i, Self::v86_segment(selector));
            }
        } else {
            self.load_task_segments(bus, &image.segs)?;
        }
        if let Some(e) = error {
            let mut stack = Stack::current(self);
            stack.push(self, bus, if wide { 4 } else { 2 }, e.into())?;
            self.frame.ints[var::RSP] = stack.sp;
        }
        let code = self.sys.seg[seg::CS];
        self.check_target(&code, image.eip)?;
        if image.trap {
            // T flag: a debug exception before the task's first instruction.
            self.sys.debug_pending |= 1 << 15;
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, bus: &mut Bus<'_>, selector: u16) -> Result<(), Fault> {
        self.sys.ldtr = Segment { selector, ..Segment::default() };
        if is_null(selector) {
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(Fault::ts(selector));
        }
        let d = self.descriptor(bus, selector, Fault::ts)?;
        if d.system() != Some(kind::LDT) || !d.present() {
            return Err(Fault::ts(selector));
        }
        self.sys.ldtr = d.segment();
        Ok(())
    }

    fn load_task_segments(&mut self, bus: &mut Bus<'_>, segs: &[u16; 6]) -> Result<(), Fault> {
        let level = self.sys.cpl;
        let selector = segs[seg::SS];
        // SS before CS would be as good; the manual's order is CS, SS, then data.
        let cs = segs[seg::CS];
        if is_null(cs) {
            return Err(Fault::ts(0));
        }
        let d = self.descriptor(bus, cs, Fault::ts)?;
        let s = d.segment();
        let dpl_ok = if s.attr & attr::EC != 0 { s.dpl() <= level } else { s.dpl() == level };
        if !s.is_code() || !dpl_ok {
            return Err(Fault::ts(cs));
        }
        if !s.present() {
            return Err(Fault::np(cs));
        }
        let s = self.mark_accessed(bus, &d)?;
        self.set_segment(seg::CS, s);

        if is_null(selector) {
            return Err(Fault::ts(0));
        }
        let d = self.descriptor(bus, selector, Fault::ts)?;
        let s = d.segment();
        let data = s.attr & (attr::S | attr::CODE | attr::RW) == attr::S | attr::RW;
        if !data || s.dpl() != level || rpl(selector) != level {
            return Err(Fault::ts(selector));
        }
        if !s.present() {
            return Err(Fault::ss(selector));
        }
        let s = self.mark_accessed(bus, &d)?;
        self.set_segment(seg::SS, s);

        for i in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let selector = segs[i];
            self.load_segment(bus, i, selector)
                .map_err(|f| if f.vector == vector::GP { Fault::ts(selector) } else { f })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::*;

    const OTHER: u64 = 0x4000;

    /// A second 32-bit task at [`FREE`].
    fn bench() -> Bench {
        let mut b = Bench::protected();
        b.gdt(FREE, 0x0000_8900_4000_0067);
        for (at, v) in [(32, 0x1_0000u64), (36, 2), (40, 0x77), (56, 0x5000)] {
            b.board.write(OTHER + at, 4, v);
        }
        for (i, s) in (0..).zip([DATA0, CODE0, DATA0, DATA0, 0, 0]) {
            b.board.write(OTHER + 72 + 4 * i, 4, s.into());
        }
        b
    }

    #[test]
    fn a_call_nests_and_iret_comes_back() {
        let mut b = bench();
        b.cpu.frame.ints[var::RBX] = 0x1111;
        b.with(|cpu, bus| cpu.call_far(bus, FREE, 0, 4, 0x107)).unwrap();
        assert_eq!((b.rip(), b.cpu.frame.ints[var::RAX], b.rsp()), (0x1_0000, 0x77, 0x5000));
        assert_eq!(b.cpu.sys.tr.selector, FREE);
        assert_ne!(b.cpu.rflags() & flag::NT, 0);
        assert_ne!(b.cpu.sys.cr0 & cr0::TS, 0);
        assert_eq!(b.board.read(OTHER, 2), u64::from(TSS_SEL), "link");
        let busy = |b: &mut Bench, s: u16| b.board.read(GDT + u64::from(s) + 5, 1) & 2 != 0;
        assert!(busy(&mut b, TSS_SEL) && busy(&mut b, FREE));
        b.with(|cpu, bus| cpu.iret(bus, 4, 0x1_0001)).unwrap();
        assert_eq!((b.rip(), b.cpu.frame.ints[var::RBX]), (0x107, 0x1111));
        assert!(busy(&mut b, TSS_SEL) && !busy(&mut b, FREE));
        assert_eq!(b.board.read(OTHER + 32, 4), 0x1_0001);
    }

    #[test]
    fn a_bad_segment_is_raised_in_the_new_task() {
        let mut b = bench();
        b.board.write(OTHER + 72 + 12, 2, 0xf8);
        b.with(|cpu, bus| cpu.jmp_far(bus, FREE, 0, 4, 0x107)).unwrap();
        assert_eq!(b.cpu.sys.late_fault, Some(Fault::ts(0xf8)));
        assert_eq!(b.cpu.sys.tr.selector, FREE);
    }

    #[test]
    fn a_busy_task_is_not_entered() {
        let mut b = bench();
        let r = b.with(|cpu, bus| cpu.jmp_far(bus, TSS_SEL, 0, 4, 0));
        assert_eq!(r, Err(Fault::gp(TSS_SEL)));
    }
}
