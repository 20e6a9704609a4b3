//! System-management mode (SDM vol. 3C chapter 31, AMD APM vol. 2 chapter 10).
//!
//! Processors without long mode save the 32-bit map, others AMD's 64-bit map: firmware tells them
//! apart by the revision field. Offsets count from SMBASE + 0x8000 + 0x7c00 upwards, that is they
//! are the last three hex digits of the manuals' 7Cxx to 7Fxx, plus 0x8000.

use super::cpuid::feature;
use super::paging::Bus;
use super::state::{Activity, Fault, Segment, TableReg, X86, cr0, cr4, efer, flag, seg, var};

const REVISION_32: u64 = 0x2_0000;
const REVISION_64: u64 = 0x2_0064;
/// Descriptor attributes as the AMD map packs them: the limit's nibble squeezed out.
const fn pack(attr: u16) -> u64 {
    (attr & 0xff | attr >> 4 & 0xf00) as u64
}
const fn unpack(v: u64) -> u16 {
    let v = v as u16;
    v & 0xff | (v & 0xf00) << 4
}

/// The save area of one processor.
struct Area<'a, 'b> {
    bus: &'a mut Bus<'b>,
    base: u64,
}

impl Area<'_, '_> {
    fn put(&mut self, at: u64, width: u8, value: u64) {
        let value = super::transfer::truncate(value, width);
        self.bus.board.write(self.base + at, width, value);
    }

    fn get(&mut self, at: u64, width: u8) -> u64 {
        self.bus.board.read(self.base + at, width)
    }
}

impl X86 {
    /// Opens or closes SMRAM on the board.
    fn drive_smiact(&self, bus: &mut Bus<'_>, on: bool) {
        bus.board.pins(self.index).smiact.set(on);
        bus.board.settle();
        bus.tlb.flush();
    }

    /// Takes an SMI.
    pub fn enter_smm(&mut self, bus: &mut Bus<'_>) {
        let halted = self.sys.activity == Activity::Halted;
        self.sys.smm = true;
        self.drive_smiact(bus, true);
        let base = u64::from(self.sys.smbase) + 0x8000;
        let area = Area { bus, base };
        if self.model.has(feature::LM) {
            self.save_64(area, halted);
        } else {
            self.save_32(area, halted);
        }
        self.sys.activity = Activity::Running;
        self.sys.cr0 &= !(cr0::PE | cr0::EM | cr0::TS | cr0::PG);
        self.sys.cr4 = 0;
        self.sys.efer = 0;
        self.sys.dr[7] = 0x400;
        self.sys.cpl = 0;
        self.sys.shadow = 0;
        self.sys.step_armed = false;
        self.sys.nmi_blocked = true;
        super::flags::write(&mut self.frame, flag::FIXED);
        self.set_rip(0x8000);
        let smbase = self.sys.smbase;
        let flat = Segment { selector: 0, attr: 0x8093, limit: 0xffff_ffff, base: 0 };
        for i in 0..6 {
            self.set_segment(i, flat);
        }
        let cs = Segment { selector: (smbase >> 4) as u16, base: smbase.into(), ..flat };
        self.set_segment(seg::CS, cs);
    }

    fn save_32(&self, mut a: Area<'_, '_>, halted: bool) {
        let s = &self.sys;
        let r = |i: usize| self.frame.ints[i];
        a.put(0x7ffc, 4, s.cr0);
        a.put(0x7ff8, 4, s.cr3);
        a.put(0x7ff4, 4, self.rflags());
        a.put(0x7ff0, 4, r(var::RIP));
        for (i, at) in [
            (var::RDI, 0x7fec),
            (var::RSI, 0x7fe8),
            (var::RBP, 0x7fe4),
            (var::RSP, 0x7fe0),
            (var::RBX, 0x7fdc),
            (var::RDX, 0x7fd8),
            (var::RCX, 0x7fd4),
            (var::RAX, 0x7fd0),
        ] {
            a.put(at, 4, r(i));
        }
        a.put(0x7fcc, 4, s.dr[6]);
        a.put(0x7fc8, 4, s.dr[7]);
        a.put(0x7fc4, 4, s.tr.selector.into());
        a.put(0x7f64, 4, s.tr.base);
        a.put(0x7f60, 4, s.tr.limit.into());
        a.put(0x7f5c, 4, s.tr.attr.into());
        a.put(0x7fc0, 4, s.ldtr.selector.into());
        a.put(0x7f80, 4, s.ldtr.base);
        a.put(0x7f7c, 4, s.ldtr.limit.into());
        a.put(0x7f78, 4, s.ldtr.attr.into());
        a.put(0x7f74, 4, s.gdtr.base);
        a.put(0x7f70, 4, s.gdtr.limit.into());
        a.put(0x7f58, 4, s.idtr.base);
        a.put(0x7f54, 4, s.idtr.limit.into());
        for (i, seg) in s.seg.iter().enumerate() {
            let at = segment_at(i);
            a.put(0x7fa8 + 4 * i as u64, 4, seg.selector.into());
            a.put(at + 8, 4, seg.base);
            a.put(at + 4, 4, seg.limit.into());
            a.put(at, 4, seg.attr.into());
        }
        a.put(0x7f14, 4, s.cr4);
        a.put(0x7f02, 2, halted.into());
        a.put(0x7efc, 4, REVISION_32);
        a.put(0x7ef8, 4, s.smbase.into());
    }

    fn save_64(&self, mut a: Area<'_, '_>, halted: bool) {
        let s = &self.sys;
        for (i, seg) in s.seg.iter().enumerate() {
            put_segment(&mut a, 0x7e00 + 16 * i as u64, seg);
        }
        a.put(0x7e64, 4, s.gdtr.limit.into());
        a.put(0x7e68, 8, s.gdtr.base);
        put_segment(&mut a, 0x7e70, &s.ldtr);
        a.put(0x7e84, 4, s.idtr.limit.into());
        a.put(0x7e88, 8, s.idtr.base);
        put_segment(&mut a, 0x7e90, &s.tr);
        a.put(0x7ec8, 1, 0);
        a.put(0x7ec9, 1, halted.into());
        a.put(0x7ed0, 8, s.efer);
        a.put(0x7efc, 4, REVISION_64);
        a.put(0x7f00, 4, s.smbase.into());
        a.put(0x7f48, 8, s.cr4);
        a.put(0x7f50, 8, s.cr3);
        a.put(0x7f58, 8, s.cr0);
        a.put(0x7f60, 8, s.dr[7]);
        a.put(0x7f68, 8, s.dr[6]);
        a.put(0x7f70, 8, self.rflags());
        a.put(0x7f78, 8, self.frame.ints[var::RIP]);
        for (i, at) in gpr_64() {
            a.put(at, 8, self.frame.ints[i]);
        }
    }

    /// RSM: back to where the SMI was taken.
    pub fn rsm(&mut self, bus: &mut Bus<'_>) -> Result<(), Fault> {
        if !self.sys.smm {
            return Err(Fault::UD);
        }
        let base = u64::from(self.sys.smbase) + 0x8000;
        let area = Area { bus, base };
        if self.model.has(feature::LM) {
            self.restore_64(area);
        } else {
            self.restore_32(area);
        }
        if Self::uses_pdptes(self.sys.cr0, self.sys.cr4, self.sys.efer) {
            match self.read_pdptes(bus.board, self.sys.cr3) {
                Ok(p) => self.sys.pdpte = p,
                Err(_) => self.shutdown(),
            }
        }
        let v86 = self.v86();
        self.sys.cpl = match (self.protected(), v86) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => self.sys.seg[seg::SS].dpl(),
        };
        self.publish_segments();
        self.sys.smm = false;
        self.sys.nmi_blocked = false;
        self.sys.shadow = 0;
        self.sys.step_armed = false;
        self.drive_smiact(bus, false);
        Ok(())
    }

    fn restore_32(&mut self, mut a: Area<'_, '_>) {
        self.sys.cr0 = a.get(0x7ffc, 4) | cr0::ET;
        self.sys.cr3 = a.get(0x7ff8, 4);
        self.sys.cr4 = a.get(0x7f14, 4);
        let flags = a.get(0x7ff4, 4);
        super::flags::write(&mut self.frame, flags & !flag::RF);
        self.set_rip(a.get(0x7ff0, 4));
        for (i, at) in [
            (var::RDI, 0x7fec),
            (var::RSI, 0x7fe8),
            (var::RBP, 0x7fe4),
            (var::RSP, 0x7fe0),
            (var::RBX, 0x7fdc),
            (var::RDX, 0x7fd8),
            (var::RCX, 0x7fd4),
            (var::RAX, 0x7fd0),
        ] {
            self.frame.ints[i] = a.get(at, 4);
        }
        self.sys.dr[6] = a.get(0x7fcc, 4);
        self.sys.dr[7] = a.get(0x7fc8, 4);
        let mut segment = |selector: u64, base: u64, limit: u64, attr: u64| Segment {
            selector: a.get(selector, 4) as u16,
            base: a.get(base, 4),
            limit: a.get(limit, 4) as u32,
            attr: a.get(attr, 4) as u16,
        };
        self.sys.tr = segment(0x7fc4, 0x7f64, 0x7f60, 0x7f5c);
        self.sys.ldtr = segment(0x7fc0, 0x7f80, 0x7f7c, 0x7f78);
        for i in 0..6 {
            let at = segment_at(i);
            self.sys.seg[i] = segment(0x7fa8 + 4 * i as u64, at + 8, at + 4, at);
        }
        self.sys.gdtr = TableReg { base: a.get(0x7f74, 4), limit: a.get(0x7f70, 4) as u16 };
        self.sys.idtr = TableReg { base: a.get(0x7f58, 4), limit: a.get(0x7f54, 4) as u16 };
        if a.get(0x7f02, 2) & 1 != 0 {
            self.sys.activity = Activity::Halted;
        }
        self.sys.smbase = a.get(0x7ef8, 4) as u32;
    }

    fn restore_64(&mut self, mut a: Area<'_, '_>) {
        for i in 0..6 {
            self.sys.seg[i] = get_segment(&mut a, 0x7e00 + 16 * i as u64);
        }
        self.sys.gdtr = TableReg { base: a.get(0x7e68, 8), limit: a.get(0x7e64, 4) as u16 };
        self.sys.idtr = TableReg { base: a.get(0x7e88, 8), limit: a.get(0x7e84, 4) as u16 };
        self.sys.ldtr = get_segment(&mut a, 0x7e70);
        self.sys.tr = get_segment(&mut a, 0x7e90);
        self.sys.cr0 = (a.get(0x7f58, 8) & 0xffff_ffff) | cr0::ET;
        self.sys.cr3 = a.get(0x7f50, 8);
        self.sys.cr4 = a.get(0x7f48, 8);
        let efer = a.get(0x7ed0, 8) & !efer::LMA;
        let long =
            efer & efer::LME != 0 && self.sys.cr0 & cr0::PG != 0 && self.sys.cr4 & cr4::PAE != 0;
        self.sys.efer = efer | if long { efer::LMA } else { 0 };
        self.sys.dr[7] = a.get(0x7f60, 8);
        self.sys.dr[6] = a.get(0x7f68, 8);
        let flags = a.get(0x7f70, 8);
        super::flags::write(&mut self.frame, flags & !flag::RF);
        self.set_rip(a.get(0x7f78, 8));
        for (i, at) in gpr_64() {
            self.frame.ints[i] = a.get(at, 8);
        }
        if a.get(0x7ec9, 1) & 1 != 0 {
            self.sys.activity = Activity::Halted;
        }
        self.sys.smbase = a.get(0x7f00, 4) as u32;
    }
}

/// Where the 32-bit map has the hidden part of ES CS SS, DS FS GS.
const fn segment_at(i: usize) -> u64 {
    if i < 3 { 0x7f84 + 12 * i as u64 } else { 0x7f2c + 12 * (i as u64 - 3) }
}

/// Where the 64-bit map has the general registers: R15 first, RAX last.
fn gpr_64() -> impl Iterator<Item = (usize, u64)> {
    const ORDER: [usize; 16] = [
        15,
        14,
        13,
        12,
        11,
        10,
        9,
        8,
        var::RDI,
        var::RSI,
        var::RBP,
        var::RSP,
        var::RBX,
        var::RDX,
        var::RCX,
        var::RAX,
    ];
    ORDER.into_iter().zip((0x7f80..).step_by(8))
}

fn put_segment(a: &mut Area<'_, '_>, at: u64, s: &Segment) {
    a.put(at, 2, s.selector.into());
    a.put(at + 2, 2, pack(s.attr));
    a.put(at + 4, 4, s.limit.into());
    a.put(at + 8, 8, s.base);
}

fn get_segment(a: &mut Area<'_, '_>, at: u64) -> Segment {
    Segment {
        selector: a.get(at, 2) as u16,
        attr: unpack(a.get(at + 2, 2)),
        limit: a.get(at + 4, 4) as u32,
        base: a.get(at + 8, 8),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::super::cpuid::Model;
    use super::*;

    fn round_trip(model: &str) -> Bench {
        let mut b = Bench::user();
        b.cpu.model = Model::named(model).unwrap();
        b.cpu.frame.ints[var::RBX] = 0x1234_5678;
        let before = b.cpu.clone();
        b.with(|cpu, bus| cpu.enter_smm(bus));
        assert!(!b.cpu.protected() && b.cpu.sys.smm && b.cpu.sys.cpl == 0);
        assert_eq!((b.rip(), b.cpu.sys.seg[seg::CS].base), (0x8000, 0x3_0000));
        b.cpu.frame.ints[var::RBX] = 0;
        b.with(|cpu, bus| cpu.rsm(bus)).unwrap();
        assert_eq!(b.cpu, before);
        b
    }

    #[test]
    fn rsm_undoes_an_smi_in_both_layouts() {
        let mut b = round_trip("pentium3");
        assert_eq!(b.board.read(0x3_fefc, 4), REVISION_32);
        assert_eq!(b.board.read(0x3_fff0, 4), 0x200, "EIP");
        let mut b = round_trip("qemu64");
        assert_eq!(b.board.read(0x3_fefc, 4), REVISION_64);
        assert_eq!(b.board.read(0x3_ff78, 8), 0x200, "RIP");
        assert_eq!(b.board.read(0x3_ffe0, 8), 0x1234_5678, "RBX");
    }

    #[test]
    fn the_save_area_moves_with_smbase() {
        let mut b = Bench::real();
        b.with(|cpu, bus| cpu.enter_smm(bus));
        b.board.write(0x3_ff00, 4, 0xa_0000);
        b.with(|cpu, bus| cpu.rsm(bus)).unwrap();
        assert_eq!(b.cpu.sys.smbase, 0xa_0000);
        assert_eq!(b.with(|cpu, bus| cpu.rsm(bus)), Err(Fault::UD), "not in SMM");
    }
}
