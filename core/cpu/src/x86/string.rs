//! String instructions with and without repeat prefix (SDM vol. 2 REP, MOVS, CMPS, SCAS, LODS,
//! STOS, INS, OUTS).
//!
//! One call does at most what is left of the pages it works on, so that interrupts are taken in
//! between; it counts as one instruction. Pages of plain RAM are worked on in bulk, devices an
//! element at a time.

use super::flags::Kind;
use super::paging::{Access, Bus};
use super::state::{Fault, X86, flag, seg, var};
use super::transfer::truncate;

/// Which string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StringInsn {
    /// Memory to memory.
    Movs,
    /// Accumulator to memory.
    Stos,
    /// Memory to accumulator.
    Lods,
    /// Memory with memory.
    Cmps,
    /// Accumulator with memory.
    Scas,
    /// Port to memory.
    Ins,
    /// Memory to port.
    Outs,
}

impl StringInsn {
    const fn reads_source(self) -> bool {
        matches!(self, Self::Movs | Self::Lods | Self::Cmps | Self::Outs)
    }

    const fn uses_destination(self) -> bool {
        matches!(self, Self::Movs | Self::Stos | Self::Cmps | Self::Scas | Self::Ins)
    }

    const fn writes(self) -> bool {
        matches!(self, Self::Movs | Self::Stos | Self::Ins)
    }

    const fn compares(self) -> bool {
        matches!(self, Self::Cmps | Self::Scas)
    }
}

/// Operands of a string instruction.
#[derive(Clone, Copy, Debug)]
pub struct StringOp {
    /// Which.
    pub insn: StringInsn,
    /// Element width in bytes.
    pub width: u8,
    /// Address size in bytes.
    pub addrsize: u8,
    /// 0 = no prefix, 1 = REP or REPE, 2 = REPNE.
    pub rep: u8,
    /// Source segment.
    pub seg: usize,
}

/// Elements of a device page done per call.
const SLOW_BATCH: u64 = 64;

impl X86 {
    /// Executes as much as fits; leaves `start` or `next` in the instruction pointer.
    pub fn string(
        &mut self,
        bus: &mut Bus<'_>,
        op: StringOp,
        start: u64,
        next: u64,
    ) -> Result<(), Fault> {
        let count = truncate(self.frame.ints[var::RCX], op.addrsize);
        if op.rep != 0 && count == 0 {
            self.set_rip(next);
            return Ok(());
        }
        if matches!(op.insn, StringInsn::Ins | StringInsn::Outs) {
            let port = self.frame.ints[var::RDX] as u16;
            self.check_io(bus, port, op.width)?;
        }
        if op.rep == 0 {
            self.string_element(bus, op)?;
            self.set_rip(next);
            return Ok(());
        }
        let stepping = self.hardware_breakpoints()
            || self.sys.shadow != 0
            || self.frame.ints[var::EFLAGS_REST] & flag::TF != 0;
        let done = if stepping {
            self.string_slow(bus, op, 1)?
        } else {
            match self.string_bulk(bus, op, count)? {
                Some(done) => done,
                None => self.string_slow(bus, op, count.min(SLOW_BATCH))?,
            }
        };
        self.set_rip(if done { next } else { start });
        Ok(())
    }

    /// Up to `n` iterations one by one; true when the instruction is complete.
    fn string_slow(&mut self, bus: &mut Bus<'_>, op: StringOp, n: u64) -> Result<bool, Fault> {
        for _ in 0..n {
            let equal = self.string_element(bus, op)?;
            let left = truncate(self.frame.ints[var::RCX], op.addrsize).wrapping_sub(1);
            self.set_address_register(var::RCX, op.addrsize, left);
            let stop = op.insn.compares() && equal == (op.rep == 2);
            if truncate(left, op.addrsize) == 0 || stop {
                return Ok(true);
            }
            if bus.board.attention() {
                break;
            }
        }
        Ok(false)
    }

    fn set_address_register(&mut self, register: usize, addrsize: u8, value: u64) {
        let r = &mut self.frame.ints[register];
        *r = match addrsize {
            2 => (*r & !0xffff) | (value & 0xffff),
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    fn advance(&mut self, register: usize, op: StringOp, elements: u64) {
        let by = elements.wrapping_mul(op.width.into());
        let down = self.frame.ints[var::EFLAGS_REST] & flag::DF != 0;
        let by = if down { 0u64.wrapping_sub(by) } else { by };
        let value = self.frame.ints[register].wrapping_add(by);
        self.set_address_register(register, op.addrsize, value);
    }

    fn compare_flags(&mut self, width: u8, a: u64, b: u64) {
        let ints = &mut self.frame.ints;
        ints[var::CC_OP] = Kind::Sub.op(width.into());
        ints[var::CC_DST] = a;
        ints[var::CC_SRC] = b;
        ints[var::CC_SRC2] = 0;
    }

    /// One element, registers but the count updated. For comparisons: whether they were equal.
    fn string_element(&mut self, bus: &mut Bus<'_>, op: StringOp) -> Result<bool, Fault> {
        let w = op.width;
        let rights = self.data_rights();
        let offset = |cpu: &Self, r: usize| truncate(cpu.frame.ints[r], op.addrsize);
        let source = if op.insn.reads_source() {
            let at = self.check_access(op.seg, offset(self, var::RSI), w.into(), false)?;
            self.read_linear(bus, at, w, rights)?
        } else {
            truncate(self.frame.ints[var::RAX], w)
        };
        let mut equal = false;
        if op.insn.uses_destination() {
            let write = op.insn.writes();
            let at = self.check_access(seg::ES, offset(self, var::RDI), w.into(), write)?;
            match op.insn {
                StringInsn::Ins => {
                    self.probe_linear(bus, at, w.into(), Access::Write, rights)?;
                    let port = self.frame.ints[var::RDX] as u16;
                    self.note_port(port, w);
                    let v = bus.board.port_in(port, w);
                    self.write_linear(bus, at, w, v.into(), rights)?;
                }
                StringInsn::Movs | StringInsn::Stos => {
                    self.write_linear(bus, at, w, source, rights)?;
                }
                _ => {
                    let b = self.read_linear(bus, at, w, rights)?;
                    self.compare_flags(w, source, b);
                    equal = source == b;
                }
            }
        } else if op.insn == StringInsn::Outs {
            let port = self.frame.ints[var::RDX] as u16;
            self.note_port(port, w);
            bus.board.port_out(port, w, source as u32);
        } else {
            let rax = &mut self.frame.ints[var::RAX];
            *rax = match w {
                1 => (*rax & !0xff) | source,
                2 => (*rax & !0xffff) | source,
                _ => source,
            };
        }
        if op.insn.reads_source() {
            self.advance(var::RSI, op, 1);
        }
        if op.insn.uses_destination() {
            self.advance(var::RDI, op, 1);
        }
        Ok(equal)
    }

    /// The arena offset of `n` elements upwards from a register's address, when they lie in one
    /// page of RAM, one segment, and do not wrap. `n` is cut to what fits.
    fn string_span(
        &mut self,
        bus: &mut Bus<'_>,
        op: StringOp,
        index: usize,
        register: usize,
        n: &mut u64,
        write: bool,
    ) -> Result<Option<usize>, Fault> {
        let w = u64::from(op.width);
        let offset = truncate(self.frame.ints[register], op.addrsize);
        let at = self.check_access(index, offset, w, write)?;
        let mut fit = (0x1000 - (at & 0xfff)) / w;
        if op.addrsize == 2 {
            fit = fit.min((0x1_0000 - offset) / w);
        }
        *n = (*n).min(fit);
        if *n == 0 || self.check_access(index, offset, *n * w, write).is_err() {
            return Ok(None);
        }
        let access = if write { Access::Write } else { Access::Read };
        let rights = self.data_rights();
        let map = self.page(bus, at, access, rights)?;
        let page = bus.board.page(map.gpa);
        Ok(page.offset.filter(|_| !write || page.writable).map(|o| o + (at & 0xfff) as usize))
    }

    /// A debugger may watch what `n` elements upwards from a register's address are.
    fn note_string(
        &mut self,
        index: usize,
        register: usize,
        op: StringOp,
        n: u64,
        write: bool,
    ) -> Result<(), Fault> {
        if self.watch.list.is_empty() {
            return Ok(());
        }
        let w = u64::from(op.width);
        let offset = truncate(self.frame.ints[register], op.addrsize);
        let at = self.check_access(index, offset, w, write)?;
        self.note_watched_span(at, n * w, write);
        Ok(())
    }

    /// Upward runs inside pages of RAM. `None`: not such a case, nothing done.
    fn string_bulk(
        &mut self,
        bus: &mut Bus<'_>,
        op: StringOp,
        count: u64,
    ) -> Result<Option<bool>, Fault> {
        let down = self.frame.ints[var::EFLAGS_REST] & flag::DF != 0;
        let io = matches!(op.insn, StringInsn::Ins | StringInsn::Outs | StringInsn::Lods);
        if down || io || count < 2 {
            return Ok(None);
        }
        let w = usize::from(op.width);
        let mut n = count;
        let source = if op.insn.reads_source() {
            let Some(at) = self.string_span(bus, op, op.seg, var::RSI, &mut n, false)? else {
                return Ok(None);
            };
            Some(at)
        } else {
            None
        };
        let write = op.insn.writes();
        let Some(to) = self.string_span(bus, op, seg::ES, var::RDI, &mut n, write)? else {
            return Ok(None);
        };
        let len = n as usize * w;
        let ram = bus.board.ram();
        let accumulator = self.frame.ints[var::RAX];
        let mut complete = n == count;
        let mut done = n;
        match source {
            Some(from) if op.insn == StringInsn::Movs => {
                if to > from && to < from + len {
                    // The copy reads what it has written: the gap repeats. Elements wider than
                    // the gap are left to the slow path.
                    let gap = to - from;
                    if gap < w {
                        return Ok(None);
                    }
                    for i in (0..len).step_by(gap) {
                        ram.copy(from, to + i, gap.min(len - i));
                    }
                } else {
                    ram.copy(from, to, len);
                }
            }
            None if op.insn == StringInsn::Stos => {
                let pattern = match w {
                    1 => accumulator as u8 as u64 * 0x0101_0101_0101_0101,
                    2 => accumulator as u16 as u64 * 0x0001_0001_0001_0001,
                    4 => accumulator as u32 as u64 * 0x0000_0001_0000_0001,
                    _ => accumulator,
                };
                ram.fill_with(to, len, pattern.to_le_bytes());
            }
            _ => {
                let element = |at: usize| match w {
                    1 => u64::from(ram.read_u8(at)),
                    2 => u64::from(ram.read_u16(at)),
                    4 => u64::from(ram.read_u32(at)),
                    _ => ram.read_u64(at),
                };
                let stop_on = op.rep == 2;
                let (mut x, mut y) = (truncate(accumulator, op.width), 0);
                for i in 0..n {
                    let at = i as usize * w;
                    if let Some(from) = source {
                        x = element(from + at);
                    }
                    y = element(to + at);
                    if (x == y) == stop_on {
                        done = i + 1;
                        complete = true;
                        break;
                    }
                }
                self.compare_flags(op.width, x, y);
            }
        }
        if source.is_some() {
            self.note_string(op.seg, var::RSI, op, done, false)?;
            self.advance(var::RSI, op, done);
        }
        self.note_string(seg::ES, var::RDI, op, done, write)?;
        self.advance(var::RDI, op, done);
        let left = truncate(self.frame.ints[var::RCX], op.addrsize).wrapping_sub(done);
        self.set_address_register(var::RCX, op.addrsize, left);
        Ok(Some(complete))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    fn run(b: &mut Bench, insn: StringInsn, width: u8, rep: u8) -> usize {
        let op = StringOp { insn, width, addrsize: 4, rep, seg: seg::DS };
        for calls in 1.. {
            b.with(|cpu, bus| cpu.string(bus, op, 1, 2)).unwrap();
            if b.rip() == 2 {
                return calls;
            }
        }
        unreachable!("it ends")
    }

    fn set(b: &mut Bench, rsi: u64, rdi: u64, rcx: u64) {
        let ints = &mut b.cpu.frame.ints;
        (ints[var::RSI], ints[var::RDI], ints[var::RCX]) = (rsi, rdi, rcx);
    }

    #[test]
    fn a_long_copy_stops_at_pages_and_goes_on() {
        let mut b = Bench::protected();
        for i in 0..0x3000 {
            b.board.write(0x10_0000 + i, 1, i * 7 & 0xff);
        }
        set(&mut b, 0x10_0010, 0x20_0f00, 0x2000);
        assert!(run(&mut b, StringInsn::Movs, 1, 1) > 2);
        assert_eq!(b.cpu.frame.ints[var::RCX], 0);
        assert_eq!(b.cpu.frame.ints[var::RDI], 0x20_2f00);
        for i in 0..0x2000 {
            assert_eq!(b.board.read(0x20_0f00 + i, 1), (i + 0x10) * 7 & 0xff);
        }
    }

    #[test]
    fn an_overlapping_copy_repeats_the_gap() {
        let mut b = Bench::protected();
        b.board.write(0x8000, 4, 0x0403_0201);
        set(&mut b, 0x8000, 0x8003, 9);
        run(&mut b, StringInsn::Movs, 1, 1);
        assert_eq!(b.board.read(0x8003, 8), 0x0201_0302_0103_0201);
    }

    #[test]
    fn downwards_and_upwards_fill_the_same_bytes() {
        let mut b = Bench::protected();
        b.cpu.frame.ints[var::RAX] = 0x1122_3344;
        set(&mut b, 0, 0x8000, 4);
        run(&mut b, StringInsn::Stos, 4, 1);
        b.cpu.frame.ints[var::EFLAGS_REST] |= flag::DF;
        set(&mut b, 0, 0x900c, 4);
        run(&mut b, StringInsn::Stos, 4, 1);
        assert_eq!(b.cpu.frame.ints[var::RDI], 0x8ffc);
        for at in (0..16).step_by(4) {
            assert_eq!(
                (b.board.read(0x8000 + at, 4), b.board.read(0x9000 + at, 4)),
                (0x1122_3344, 0x1122_3344)
            );
        }
    }

    #[test]
    fn a_scan_stops_behind_its_find_with_zf() {
        let mut b = Bench::protected();
        b.board.write(0x8000 + 100, 1, 0x55);
        b.cpu.frame.ints[var::RAX] = 0x55;
        set(&mut b, 0, 0x8000, 1000);
        run(&mut b, StringInsn::Scas, 1, 2);
        assert_eq!((b.cpu.frame.ints[var::RDI], b.cpu.frame.ints[var::RCX]), (0x8065, 899));
        assert_ne!(b.cpu.rflags() & flag::ZF, 0);
        set(&mut b, 0, 0x9000, 10);
        run(&mut b, StringInsn::Scas, 1, 2);
        assert_eq!(b.cpu.frame.ints[var::RCX], 0);
        assert_eq!(b.cpu.rflags() & flag::ZF, 0);
    }

    #[test]
    fn a_fault_leaves_whole_iterations_done() {
        let mut b = Bench::protected();
        b.gdt(0x30, 0x0040_9300_0000_0003);
        b.with(|cpu, bus| cpu.load_segment(bus, seg::ES, 0x30)).unwrap();
        set(&mut b, 0x8000, 0, 8);
        let op = StringOp { insn: StringInsn::Movs, width: 1, addrsize: 4, rep: 1, seg: seg::DS };
        let mut call = || b.with(|cpu, bus| cpu.string(bus, op, 1, 2));
        let fault = (0..8).find_map(|_| call().err());
        assert_eq!(fault, Some(Fault::GP0));
        assert_eq!((b.cpu.frame.ints[var::RDI], b.cpu.frame.ints[var::RCX]), (4, 4));
    }
}
