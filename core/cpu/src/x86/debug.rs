//! Debug registers and debug exceptions (SDM vol. 3B chapter 17).

use super::paging::{Access, Bus};
use super::state::{Fault, X86, cr4, flag, seg, var};

/// DR6: the debug registers were touched under DR7.GD.
const DR6_BD: u64 = 1 << 13;
/// DR6: single step.
const DR6_BS: u64 = 1 << 14;
/// DR6 bits that always read one.
const DR6_ONES: u64 = 0xffff_0ff0;
/// DR7: general detect.
const DR7_GD: u64 = 1 << 13;
/// Enable bits, local and global, of the four breakpoints.
const DR7_ENABLES: u64 = 0xff;

/// What a breakpoint watches, the R/W field of DR7.
mod watch {
    pub(super) const EXEC: u64 = 0;
    pub(super) const WRITE: u64 = 1;
    pub(super) const IO: u64 = 2;
    pub(super) const ACCESS: u64 = 3;
}

/// An enabled breakpoint.
struct Breakpoint {
    number: usize,
    kind: u64,
    first: u64,
    len: u64,
}

impl X86 {
    /// Whether any breakpoint is enabled, the processor's or a debugger's.
    pub const fn breakpoints(&self) -> bool {
        self.hardware_breakpoints() || !self.watch.list.is_empty()
    }

    /// Whether any of the processor's is. What a debugger watches must not change what the guest
    /// does, nor in how many instructions.
    pub const fn hardware_breakpoints(&self) -> bool {
        self.sys.dr[7] & DR7_ENABLES != 0
    }

    fn enabled(&self) -> impl Iterator<Item = Breakpoint> + '_ {
        let dr7 = self.sys.dr[7];
        (0..4).filter(move |i| dr7 >> (2 * i) & 3 != 0).map(move |i| {
            let control = dr7 >> (16 + 4 * i);
            let kind = control & 3;
            let len = match control >> 2 & 3 {
                _ if kind == watch::EXEC => 1,
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            Breakpoint { number: i, kind, first: self.sys.dr[i] & !(len - 1), len }
        })
    }

    /// MOV r, DRn.
    pub fn read_dr(&mut self, n: u64) -> Result<u64, Fault> {
        let n = self.check_dr(n)?;
        Ok(self.sys.dr[n])
    }

    /// MOV DRn, r.
    pub fn write_dr(&mut self, bus: &mut Bus<'_>, n: u64, value: u64) -> Result<(), Fault> {
        let n = self.check_dr(n)?;
        if n >= 6 && self.code64() && value >> 32 != 0 {
            return Err(Fault::GP0);
        }
        self.sys.dr[n] = match n {
            6 => (value & 0xe00f) | DR6_ONES,
            7 => (value & 0xffff_2bff) | 0x400,
            _ => value,
        };
        // Watched pages must leave the fast path, others may come back.
        bus.tlb.flush();
        Ok(())
    }

    fn check_dr(&mut self, n: u64) -> Result<usize, Fault> {
        let n = match n {
            4 | 5 if self.sys.cr4 & cr4::DE != 0 => return Err(Fault::UD),
            4 | 5 => n + 2,
            0..=7 => n,
            _ => return Err(Fault::UD),
        };
        self.require_cpl0()?;
        if self.sys.dr[7] & DR7_GD != 0 {
            return Err(Fault::debug(DR6_BD));
        }
        Ok(n as usize)
    }

    /// The linear address of the instruction at `rip`.
    pub const fn linear_rip(&self, rip: u64) -> u64 {
        if self.code64() {
            rip
        } else {
            self.wrap_linear(self.sys.seg[seg::CS].base.wrapping_add(rip))
        }
    }

    /// The breakpoints on the instruction about to run, as DR6 bits.
    pub fn instruction_breakpoints(&self) -> u64 {
        if !self.breakpoints() || self.sys.resume != 0 {
            return 0;
        }
        let linear = self.linear_rip(self.frame.ints[var::RIP]);
        self.enabled()
            .filter(|b| b.kind == watch::EXEC && b.first == linear)
            .fold(0, |sum, b| sum | 1 << b.number)
    }

    /// Whether data of this page is watched, so that every access must come through the walk.
    pub fn watched_page(&self, linear: u64) -> bool {
        self.breakpoints()
            && (self.watch_covers_page(linear)
                || self.enabled().any(|b| {
                    matches!(b.kind, watch::WRITE | watch::ACCESS) && b.first >> 12 == linear >> 12
                }))
    }

    /// Notes a data access; the debug exception follows the instruction.
    pub fn note_access(&mut self, linear: u64, access: Access) {
        self.note_watch(linear, access == Access::Write);
        let hit = self
            .enabled()
            .filter(|b| match b.kind {
                watch::WRITE => access == Access::Write,
                watch::ACCESS => access != Access::Exec,
                _ => false,
            })
            .filter(|b| linear.wrapping_sub(b.first) < b.len)
            .fold(0, |sum, b| sum | 1 << b.number);
        self.sys.debug_pending |= hit;
    }

    /// Notes a port access (CR4.DE).
    pub fn note_port(&mut self, port: u16, width: u8) {
        if !self.breakpoints() || self.sys.cr4 & cr4::DE == 0 {
            return;
        }
        let first = u64::from(port);
        let hit = self
            .enabled()
            .filter(|b| b.kind == watch::IO)
            .filter(|b| {
                first.wrapping_sub(b.first) < b.len || b.first.wrapping_sub(first) < width.into()
            })
            .fold(0, |sum, b| sum | 1 << b.number);
        self.sys.debug_pending |= hit;
    }

    /// The instruction is done: raises single-step and data-breakpoint traps, ends the interrupt
    /// shadow, looks for a breakpoint on the next instruction.
    pub fn after_instruction(&mut self, bus: &mut Bus<'_>) {
        self.sys.resume = self.sys.resume.saturating_sub(1);
        let armed = self.sys.step_armed;
        let pending = std::mem::take(&mut self.sys.debug_pending);
        self.sys.step_armed = self.frame.ints[var::EFLAGS_REST] & flag::TF != 0;
        if self.sys.shadow == 2 && self.sys.shadow_ss {
            // Traps wait for the instruction after MOV SS, single steps are lost.
            self.sys.debug_pending = pending;
            return;
        }
        if self.sys.shadow == 1 {
            self.sys.shadow = 0;
        }
        let why = pending | if armed { DR6_BS } else { 0 };
        if why != 0 {
            self.deliver(bus, Fault::debug(why));
        } else {
            self.check_breakpoint(bus);
        }
    }

    /// Raises #DB when the instruction about to run has a breakpoint.
    pub fn check_breakpoint(&mut self, bus: &mut Bus<'_>) {
        let hit = self.instruction_breakpoints();
        if hit != 0 {
            self.deliver(bus, Fault::debug(hit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::super::state::vector;
    use super::*;

    #[test]
    fn dr4_is_dr6_until_debugging_extensions_are_on() {
        let mut b = Bench::protected();
        assert_eq!(b.cpu.read_dr(4), Ok(0xffff_0ff0));
        b.cpu.sys.cr4 |= cr4::DE;
        assert_eq!(b.cpu.read_dr(4), Err(Fault::UD));
        b.cpu.sys.dr[7] |= DR7_GD;
        assert_eq!(b.cpu.read_dr(0), Err(Fault::debug(DR6_BD)));
    }

    #[test]
    fn an_instruction_breakpoint_is_a_fault_and_rf_passes_it() {
        let mut b = Bench::protected();
        b.gate(vector::DB, 0x8e, CODE0, 0x1000);
        b.cpu.frame.ints[var::RSP] = 0x7000;
        b.with(|cpu, bus| {
            cpu.write_dr(bus, 0, 0x100).unwrap();
            cpu.write_dr(bus, 7, 2).unwrap();
            cpu.check_breakpoint(bus);
        });
        assert_eq!((b.rip(), b.stack(0), b.cpu.sys.dr[6] & 15), (0x1000, 0x100, 1));
        b.cpu.set_rip(0x100);
        b.cpu.sys.resume = 1;
        b.with(|cpu, bus| cpu.check_breakpoint(bus));
        assert_eq!(b.rip(), 0x100);
    }

    #[test]
    fn a_single_step_trap_follows_the_instruction_that_began_with_tf() {
        let mut b = Bench::protected();
        b.gate(vector::DB, 0x8e, CODE0, 0x1000);
        b.cpu.frame.ints[var::RSP] = 0x7000;
        b.cpu.frame.ints[var::EFLAGS_REST] |= flag::TF;
        b.with(|cpu, bus| cpu.after_instruction(bus));
        assert_eq!(b.rip(), 0x100, "this one set TF");
        b.with(|cpu, bus| cpu.after_instruction(bus));
        assert_eq!((b.rip(), b.cpu.sys.dr[6] & DR6_BS), (0x1000, DR6_BS));
        assert_eq!(b.cpu.rflags() & flag::TF, 0);
    }

    #[test]
    fn a_watched_write_is_noted_and_a_read_is_not() {
        let mut b = Bench::protected();
        b.with(|cpu, bus| {
            cpu.write_dr(bus, 1, 0x2000).unwrap();
            // Four bytes, writes.
            cpu.write_dr(bus, 7, 0x00d0_0008).unwrap();
        });
        assert!(b.cpu.watched_page(0x2ff0) && !b.cpu.watched_page(0x3000));
        b.cpu.note_access(0x2003, Access::Read);
        assert_eq!(b.cpu.sys.debug_pending, 0);
        b.cpu.note_access(0x2003, Access::Write);
        assert_eq!(b.cpu.sys.debug_pending, 2);
    }
}
