//! A processor on a board with RAM, for the unit tests of this folder.

use orrery_system::board::Board;

use super::cpuid::Model;
use super::paging::Bus;
use super::state::{Segment, TableReg, X86, cr0, seg, var};
use crate::tlb::Tlb;

/// Where the tests keep their descriptor tables.
pub(super) const GDT: u64 = 0x1000;
/// The interrupt descriptor table.
pub(super) const IDT: u64 = 0x2000;
/// The task-state segment of selector [`TSS_SEL`].
pub(super) const TSS: u64 = 0x3000;
/// Code of level 0.
pub(super) const CODE0: u16 = 0x08;
/// Data of level 0.
pub(super) const DATA0: u16 = 0x10;
/// Code of level 3.
pub(super) const CODE3: u16 = 0x1b;
/// Data of level 3.
pub(super) const DATA3: u16 = 0x23;
/// The task-state segment.
pub(super) const TSS_SEL: u16 = 0x28;
/// Free for the test.
pub(super) const FREE: u16 = 0x30;

/// Processor, board and TLB.
pub(super) struct Bench {
    pub(super) cpu: X86,
    pub(super) board: Board,
    pub(super) tlb: Tlb,
}

impl Bench {
    /// Real mode, 4 MiB of RAM.
    pub(super) fn real() -> Self {
        let mut cpu = X86::new(Model::named("max").unwrap(), 0, 1);
        for i in 0..6 {
            cpu.set_segment(i, Segment::real(0));
        }
        cpu.frame.ints[var::RSP] = 0x8000;
        Self { cpu, board: Board::with_ram(4 << 20), tlb: Tlb::new() }
    }

    /// 32-bit protected mode at level 0 with flat segments and the tables above.
    pub(super) fn protected() -> Self {
        let mut b = Self::real();
        b.gdt(CODE0, 0x00cf_9b00_0000_ffff);
        b.gdt(DATA0, 0x00cf_9300_0000_ffff);
        b.gdt(CODE3, 0x00cf_fb00_0000_ffff);
        b.gdt(DATA3, 0x00cf_f300_0000_ffff);
        b.gdt(TSS_SEL, 0x0000_8900_3000_0067);
        b.cpu.sys.gdtr = TableReg { base: GDT, limit: 0xff };
        b.cpu.sys.idtr = TableReg { base: IDT, limit: 0x7ff };
        b.cpu.sys.cr0 |= cr0::PE;
        for i in [seg::ES, seg::SS, seg::DS] {
            b.with(|cpu, bus| cpu.load_segment(bus, i, DATA0)).unwrap();
        }
        b.with(|cpu, bus| cpu.jmp_far(bus, CODE0, 0x100, 4, 0)).unwrap();
        b.with(|cpu, bus| cpu.ltr(bus, TSS_SEL)).unwrap();
        b.board.write(TSS + 4, 4, 0x9000);
        b.board.write(TSS + 8, 4, DATA0.into());
        b
    }

    /// The same at level 3.
    pub(super) fn user() -> Self {
        let mut b = Self::protected();
        for (at, v) in [(0, 0x200), (4, u64::from(CODE3)), (8, 0x6000), (12, u64::from(DATA3))] {
            b.board.write(0x7000 + at, 4, v);
        }
        b.cpu.frame.ints[var::RSP] = 0x7000;
        b.with(|cpu, bus| cpu.ret_far(bus, 4, 0)).unwrap();
        assert_eq!(b.cpu.sys.cpl, 3);
        b
    }

    pub(super) fn gdt(&mut self, selector: u16, raw: u64) {
        self.board.write(GDT + u64::from(selector & !7), 8, raw);
    }

    /// A gate of the IDT: type and privilege level as the attribute byte has them.
    pub(super) fn gate(&mut self, vector: u8, attr: u64, selector: u16, offset: u64) {
        let raw = offset & 0xffff | u64::from(selector) << 16 | attr << 40 | (offset >> 16) << 48;
        self.board.write(IDT + 8 * u64::from(vector), 8, raw);
    }

    pub(super) fn with<R>(&mut self, f: impl FnOnce(&mut X86, &mut Bus<'_>) -> R) -> R {
        f(&mut self.cpu, &mut Bus::new(&mut self.board, &mut self.tlb))
    }

    pub(super) fn rip(&self) -> u64 {
        self.cpu.frame.ints[var::RIP]
    }

    pub(super) fn rsp(&self) -> u64 {
        self.cpu.frame.ints[var::RSP]
    }

    /// The 32-bit word at the stack pointer plus `4 * n`, flat.
    pub(super) fn stack(&mut self, n: u64) -> u64 {
        let at = self.rsp() + 4 * n;
        self.board.read(at, 4)
    }
}
