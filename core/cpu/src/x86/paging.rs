//! Address translation (SDM vol. 3A chapter 4, AMD APM vol. 2 chapter 5) and the memory accesses
//! that helper functions make.

use orrery_system::board::Board;

use super::cpuid::feature;
use super::isa::X86Isa;
use super::state::{Fault, X86, cr0, cr4, efer, flag};
use crate::cache::CodeMap;
use crate::env::Env;
use crate::ir::Width;
pub use crate::isa::{Access, Mapping};
use crate::tlb::Tlb;

/// Memory and devices as helper functions reach them.
pub struct Bus<'a> {
    /// The board.
    pub board: &'a mut Board,
    /// The processor's translations.
    pub tlb: &'a mut Tlb,
    /// Instructions completed since the slice began.
    pub done: u64,
    /// Which bytes are translated.
    pub code: Option<&'a CodeMap>,
}

impl<'a> Bus<'a> {
    /// Outside of a run: for tests and debuggers.
    pub fn new(board: &'a mut Board, tlb: &'a mut Tlb) -> Self {
        Self { board, tlb, done: 0, code: None }
    }
}

/// With whose rights an access is made. The number is the MMU index of IR memory operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Rights {
    /// Supervisor that may touch user pages.
    Supervisor = 0,
    /// User.
    User = 1,
    /// Supervisor under SMAP.
    Smap = 2,
}

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const NX: u64 = 1 << 63;

/// Error-code bits of #PF (SDM vol. 3A section 4.7).
mod code {
    pub(super) const P: u32 = 1 << 0;
    pub(super) const W: u32 = 1 << 1;
    pub(super) const U: u32 = 1 << 2;
    pub(super) const RSVD: u32 = 1 << 3;
    pub(super) const I: u32 = 1 << 4;
}

/// The engine's name of a width in bytes.
const fn width_of(bytes: u8) -> Width {
    match bytes {
        1 => Width::W8,
        2 => Width::W16,
        4 => Width::W32,
        _ => Width::W64,
    }
}

/// Bits `from..to` set.
const fn bits(from: u32, to: u32) -> u64 {
    if to <= from { 0 } else { (u64::MAX >> (64 - (to - from))) << from }
}

impl X86 {
    /// CR0.PG is set.
    pub const fn paging(&self) -> bool {
        self.sys.cr0 & cr0::PG != 0
    }

    /// The rights of ordinary data accesses now.
    pub fn data_rights(&self) -> Rights {
        use super::state::var;
        if self.sys.cpl == 3 {
            Rights::User
        } else if self.sys.cr4 & cr4::SMAP != 0 && self.frame.ints[var::EFLAGS_REST] & flag::AC == 0
        {
            Rights::Smap
        } else {
            Rights::Supervisor
        }
    }

    /// The rights of accesses to descriptor tables and task state: supervisor whatever the CPL,
    /// with SMAP in force (SDM vol. 3A section 4.6.1).
    pub const fn system_rights(&self) -> Rights {
        if self.sys.cr4 & cr4::SMAP != 0 { Rights::Smap } else { Rights::Supervisor }
    }

    /// Physical address as it leaves the processor.
    pub const fn a20_mask(&self, phys: u64) -> u64 {
        if self.sys.a20 { phys } else { phys & !(1 << 20) }
    }

    /// Linear addresses wrap at 4 GiB outside long mode.
    pub const fn wrap_linear(&self, linear: u64) -> u64 {
        if self.sys.efer & efer::LMA != 0 { linear } else { linear & 0xffff_ffff }
    }

    /// Whether the upper bits of a 64-bit address all equal bit 47.
    pub const fn canonical(linear: u64) -> bool {
        (((linear << 16) as i64) >> 16) as u64 == linear
    }

    /// Translates a linear address, setting accessed and dirty flags.
    pub fn walk(
        &mut self,
        board: &mut Board,
        linear: u64,
        access: Access,
        rights: Rights,
    ) -> Result<Mapping, Fault> {
        if !self.paging() {
            let gpa = self.a20_mask(linear & 0xffff_f000);
            return Ok(Mapping { gpa, read: true, write: true, exec: true, global: false });
        }
        if self.sys.efer & efer::LMA != 0 {
            if !Self::canonical(linear) {
                return Err(super::noncanonical::at(linear));
            }
            return self.walk_wide(board, linear, access, rights, 4);
        }
        if self.sys.cr4 & cr4::PAE != 0 {
            return self.walk_wide(board, linear & 0xffff_ffff, access, rights, 3);
        }
        self.walk_two_level(board, linear & 0xffff_ffff, access, rights)
    }

    fn page_fault(&self, linear: u64, access: Access, rights: Rights, bits: u32) -> Fault {
        let mut error = bits;
        if access == Access::Write {
            error |= code::W;
        }
        if rights == Rights::User {
            error |= code::U;
        }
        let nx = self.sys.cr4 & cr4::PAE != 0 && self.sys.efer & efer::NXE != 0;
        if access == Access::Exec && (nx || self.sys.cr4 & cr4::SMEP != 0) {
            error |= code::I;
        }
        Fault::page(linear, error)
    }

    /// Whether the rights gathered over all levels (`RW`, `US` anded, `NX` ored) allow the access.
    fn allowed(&self, sum: u64, access: Access, rights: Rights) -> bool {
        let user_page = sum & US != 0;
        if rights == Rights::User {
            if !user_page {
                return false;
            }
        } else if user_page {
            if access == Access::Exec && self.sys.cr4 & cr4::SMEP != 0 {
                return false;
            }
            if access != Access::Exec && rights == Rights::Smap {
                return false;
            }
        }
        match access {
            Access::Read => true,
            Access::Write => self.write_allowed(sum, rights),
            Access::Exec => sum & NX == 0,
        }
    }

    fn write_allowed(&self, sum: u64, rights: Rights) -> bool {
        sum & RW != 0 || (rights != Rights::User && self.sys.cr0 & cr0::WP == 0)
    }

    /// 32-bit paging (SDM vol. 3A section 4.3).
    fn walk_two_level(
        &mut self,
        board: &mut Board,
        linear: u64,
        access: Access,
        rights: Rights,
    ) -> Result<Mapping, Fault> {
        let at = self.a20_mask((self.sys.cr3 & 0xffff_f000) | ((linear >> 20) & 0xffc));
        let pde = board.read(at, 4);
        if pde & P == 0 {
            return Err(self.page_fault(linear, access, rights, 0));
        }
        if pde & PS != 0 && self.sys.cr4 & cr4::PSE != 0 {
            let high =
                if self.model.has(feature::PSE36) { self.model.phys_bits.min(40) } else { 32 };
            if pde & bits(high - 19, 22) != 0 {
                return Err(self.page_fault(linear, access, rights, code::P | code::RSVD));
            }
            if !self.allowed(pde & !NX, access, rights) {
                return Err(self.page_fault(linear, access, rights, code::P));
            }
            let base = (pde & 0xffc0_0000) | (pde & bits(13, high - 19)) << 19;
            let entry = self.mark(board, at, pde, access, 4);
            return Ok(self.found(base | (linear & 0x3f_ffff), entry, pde & (RW | US), rights));
        }
        let pde_at = at;
        let at = self.a20_mask((pde & 0xffff_f000) | ((linear >> 10) & 0xffc));
        let pte = board.read(at, 4);
        if pte & P == 0 {
            return Err(self.page_fault(linear, access, rights, 0));
        }
        let sum = pde & pte & (RW | US);
        if !self.allowed(sum, access, rights) {
            return Err(self.page_fault(linear, access, rights, code::P));
        }
        self.mark(board, pde_at, pde, Access::Read, 4);
        let entry = self.mark(board, at, pte, access, 4);
        Ok(self.found(pte & 0xffff_f000, entry, sum, rights))
    }

    /// PAE and 4-level paging (SDM vol. 3A sections 4.4 and 4.5).
    fn walk_wide(
        &mut self,
        board: &mut Board,
        linear: u64,
        access: Access,
        rights: Rights,
        levels: u32,
    ) -> Result<Mapping, Fault> {
        let nxe = self.sys.efer & efer::NXE != 0;
        let address = bits(12, self.model.phys_bits);
        // Outside long mode bits 52..63 are reserved too; in long mode software may use them.
        let reserved = bits(self.model.phys_bits, if levels == 3 { 63 } else { 52 })
            | if nxe { 0 } else { NX };
        let mut sum = RW | US;
        let (mut level, mut table);
        // Tables on the way; their accessed flags are set when the access is found to be allowed.
        let mut path = [(0, 0); 3];
        let mut depth = 0;
        if levels == 3 {
            let pdpte = self.sys.pdpte[(linear >> 30) as usize & 3];
            if pdpte & P == 0 {
                return Err(self.page_fault(linear, access, rights, 0));
            }
            (level, table) = (1, pdpte & address);
        } else {
            (level, table) = (3, self.sys.cr3 & address);
        }
        loop {
            let shift = 12 + 9 * level;
            let at = self.a20_mask(table | (((linear >> shift) & 0x1ff) << 3));
            let entry = board.read(at, 8);
            if entry & P == 0 {
                return Err(self.page_fault(linear, access, rights, 0));
            }
            let large = level > 0 && entry & PS != 0;
            let bad = match level {
                3 => PS,
                2 if large && !self.model.has(feature::PDPE1GB) => PS,
                1 | 2 if large => bits(13, shift),
                _ => 0,
            };
            if entry & (reserved | bad) != 0 {
                return Err(self.page_fault(linear, access, rights, code::P | code::RSVD));
            }
            sum = (sum & entry & (RW | US)) | ((sum | entry) & NX);
            if level == 0 || large {
                if !self.allowed(sum, access, rights) {
                    return Err(self.page_fault(linear, access, rights, code::P));
                }
                for &(at, entry) in &path[..depth] {
                    self.mark(board, at, entry, Access::Read, 8);
                }
                let marked = self.mark(board, at, entry, access, 8);
                let inside = (1 << shift) - 1;
                let phys = (entry & address & !inside) | (linear & inside);
                return Ok(self.found(phys, marked, sum, rights));
            }
            path[depth] = (at, entry);
            depth += 1;
            table = entry & address;
            level -= 1;
        }
    }

    /// Sets the accessed flag, and the dirty flag for a write, in a leaf entry.
    fn mark(&self, board: &mut Board, at: u64, entry: u64, access: Access, width: u8) -> u64 {
        let marked = entry | A | if access == Access::Write { D } else { 0 };
        if marked != entry {
            board.write(at, width, marked);
        }
        marked
    }

    fn found(&self, phys: u64, entry: u64, sum: u64, rights: Rights) -> Mapping {
        Mapping {
            gpa: self.a20_mask(phys & !0xfff),
            read: self.allowed(sum, Access::Read, rights),
            write: entry & D != 0 && self.allowed(sum, Access::Write, rights),
            exec: self.allowed(sum, Access::Exec, rights),
            global: entry & G != 0 && self.sys.cr4 & cr4::PGE != 0,
        }
    }

    /// Reads the four page-directory pointers of PAE paging; #GP(0) for reserved bits
    /// (SDM vol. 3A section 4.4.1).
    pub fn read_pdptes(&self, board: &mut Board, cr3: u64) -> Result<[u64; 4], Fault> {
        let reserved = bits(self.model.phys_bits, 64) | 0x1e6;
        let mut out = [0; 4];
        for (i, slot) in out.iter_mut().enumerate() {
            *slot = board.read(self.a20_mask((cr3 & 0xffff_ffe0) + 8 * i as u64), 8);
            if *slot & P != 0 && *slot & reserved != 0 {
                return Err(Fault::GP0);
            }
        }
        Ok(out)
    }

    /// True when the mapping in force is PAE outside long mode.
    pub const fn uses_pdptes(cr0: u64, cr4: u64, efer: u64) -> bool {
        cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && efer & efer::LMA == 0
    }

    // Accesses of helper functions.

    /// The engine's view of the same memory.
    fn env<'a>(&'a mut self, bus: &'a mut Bus<'_>) -> Env<'a, X86Isa> {
        Env {
            index: self.index,
            cpu: self,
            board: bus.board,
            tlb: bus.tlb,
            done: bus.done,
            code: bus.code,
        }
    }

    /// The page of an access, from the TLB or by a walk.
    pub fn page(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        access: Access,
        rights: Rights,
    ) -> Result<Mapping, Fault> {
        self.env(bus).mapping(linear, access, rights as u8)
    }

    /// Reads `width` (1, 2, 4 or 8) bytes of linear memory.
    pub fn read_linear(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        width: u8,
        rights: Rights,
    ) -> Result<u64, Fault> {
        let linear = self.wrap_linear(linear);
        self.env(bus).read(linear, width_of(width), rights as u8)
    }

    /// Writes `width` bytes of linear memory; nothing is written when it faults.
    pub fn write_linear(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        width: u8,
        value: u64,
        rights: Rights,
    ) -> Result<(), Fault> {
        let linear = self.wrap_linear(linear);
        let value = super::transfer::truncate(value, width);
        self.env(bus).write(linear, width_of(width), rights as u8, value)
    }

    /// Checks that `len` bytes can be accessed; a write marks the pages dirty.
    pub fn probe_linear(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        len: u64,
        access: Access,
        rights: Rights,
    ) -> Result<(), Fault> {
        if len == 0 {
            return Ok(());
        }
        let mut at = self.wrap_linear(linear);
        let mut left = len;
        loop {
            self.page(bus, at, access, rights)?;
            let step = 0x1000 - (at & 0xfff);
            if left <= step {
                return Ok(());
            }
            left -= step;
            at = self.wrap_linear(at.wrapping_add(step));
        }
    }

    /// Reads the bytes of `out` from linear memory.
    pub fn read_linear_bytes(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        out: &mut [u8],
        rights: Rights,
    ) -> Result<(), Fault> {
        self.probe_linear(bus, linear, out.len() as u64, Access::Read, rights)?;
        for (i, b) in out.iter_mut().enumerate() {
            *b = self.read_linear(bus, linear.wrapping_add(i as u64), 1, rights)? as u8;
        }
        Ok(())
    }

    /// Writes bytes to linear memory; nothing is written when it faults.
    pub fn write_linear_bytes(
        &mut self,
        bus: &mut Bus<'_>,
        linear: u64,
        bytes: &[u8],
        rights: Rights,
    ) -> Result<(), Fault> {
        self.probe_linear(bus, linear, bytes.len() as u64, Access::Write, rights)?;
        for (i, b) in bytes.iter().enumerate() {
            self.write_linear(bus, linear.wrapping_add(i as u64), 1, (*b).into(), rights)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::*;

    /// A page table at 0x11000 under a directory at 0x10000: page 5 of the linear space.
    fn two_level(pde: u64, pte: u64) -> Bench {
        let mut b = Bench::protected();
        // Page 0 to 4 and the tables themselves stay reachable as they are.
        for page in 0..0x20 {
            b.board.write(0x11000 + 4 * page, 4, page << 12 | 3);
        }
        b.board.write(0x10000, 4, 0x11000 | pde);
        b.board.write(0x11000 + 4 * 5, 4, 0x9000 | pte);
        b.cpu.sys.cr3 = 0x10000;
        b.with(|cpu, bus| cpu.write_cr0(bus, cpu.sys.cr0 | cr0::PG)).unwrap();
        b
    }

    fn walk(b: &mut Bench, access: Access, rights: Rights) -> Result<Mapping, Fault> {
        b.cpu.walk(&mut b.board, 0x5123, access, rights)
    }

    #[test]
    fn a_write_sets_accessed_and_dirty_a_read_only_accessed() {
        let mut b = two_level(7, 7);
        let map = walk(&mut b, Access::Read, Rights::User).unwrap();
        assert_eq!((map.gpa, map.write), (0x9000, false), "a store must come by again");
        assert_eq!(b.board.read(0x11014, 4), 0x9027);
        assert!(walk(&mut b, Access::Write, Rights::User).unwrap().write);
        assert_eq!(b.board.read(0x11014, 4), 0x9067);
        assert_eq!(b.board.read(0x10000, 4), 0x11027);
    }

    #[test]
    fn error_codes_tell_presence_write_and_user() {
        let mut b = two_level(7, 6);
        assert_eq!(walk(&mut b, Access::Write, Rights::User), Err(Fault::page(0x5123, 6)));
        let mut b = two_level(7, 3);
        assert_eq!(walk(&mut b, Access::Read, Rights::User), Err(Fault::page(0x5123, 5)));
        assert_eq!(b.board.read(0x10000, 4), 0x11007, "a refused access leaves no trace");
        let mut b = two_level(7, 5);
        assert_eq!(walk(&mut b, Access::Write, Rights::User), Err(Fault::page(0x5123, 7)));
        assert!(walk(&mut b, Access::Write, Rights::Supervisor).is_ok(), "without WP");
        b.cpu.sys.cr0 |= cr0::WP;
        assert_eq!(walk(&mut b, Access::Write, Rights::Supervisor), Err(Fault::page(0x5123, 3)));
    }

    #[test]
    fn smep_and_smap_keep_the_supervisor_off_user_pages() {
        let mut b = two_level(7, 7);
        b.cpu.sys.cr4 |= cr4::SMEP | cr4::SMAP;
        assert_eq!(walk(&mut b, Access::Exec, Rights::Supervisor), Err(Fault::page(0x5123, 0x11)));
        assert_eq!(walk(&mut b, Access::Read, Rights::Smap), Err(Fault::page(0x5123, 1)));
        assert!(walk(&mut b, Access::Read, Rights::Supervisor).is_ok());
    }

    #[test]
    fn reserved_bits_and_no_execute_fault_in_long_mode() {
        let mut b = Bench::protected();
        b.board.write(0x10000, 8, 0x11007);
        b.board.write(0x11000, 8, 0x12007);
        b.board.write(0x12000, 8, 0x87);
        b.board.write(0x12008, 8, 1 << 63 | 0x20_0087);
        b.board.write(0x12010, 8, 0x40_2087);
        (b.cpu.sys.cr3, b.cpu.sys.cr4) = (0x10000, cr4::PAE);
        b.cpu.sys.efer = efer::LME | efer::NXE;
        b.with(|cpu, bus| cpu.write_cr0(bus, cpu.sys.cr0 | cr0::PG)).unwrap();
        assert!(b.cpu.long_mode());
        let mut at = |linear, access| b.cpu.walk(&mut b.board, linear, access, Rights::User);
        assert_eq!(at(0x1234, Access::Read).unwrap().gpa, 0x1000);
        assert!(!at(0x20_0000, Access::Read).unwrap().exec);
        assert_eq!(at(0x20_0000, Access::Exec), Err(Fault::page(0x20_0000, 0x15)));
        assert_eq!(at(0x40_0000, Access::Read), Err(Fault::page(0x40_0000, 0xd)));
        assert_eq!(at(1 << 47, Access::Read), Err(super::super::noncanonical::at(1 << 47)));
    }

    #[test]
    fn a_closed_a20_gate_folds_the_odd_megabytes() {
        let mut b = Bench::real();
        b.cpu.sys.a20 = false;
        let map = b.cpu.walk(&mut b.board, 0x10_5000, Access::Read, Rights::Supervisor);
        assert_eq!(map.unwrap().gpa, 0x5000);
    }

    #[test]
    fn an_access_across_pages_writes_all_or_nothing() {
        let mut b = two_level(7, 6);
        let r =
            b.with(|cpu, bus| cpu.write_linear(bus, 0x4ffe, 4, 0x1122_3344, Rights::Supervisor));
        assert_eq!(r, Err(Fault::page(0x5000, 2)));
        assert_eq!(b.board.read(0x4ffe, 2), 0);
    }
}
