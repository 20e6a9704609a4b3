//! Stage 1 translation of EL1 and EL0 with 4 KiB, 16 KiB and 64 KiB granules, up to 48 bits (DDI 0487, D8).

use orrery_system::board::Board;

use super::exception::Trap;
use super::state::AArch64;
use crate::isa::{Access, Mapping};

/// MMU index of EL1.
pub(super) const PRIVILEGED: u8 = 0;
/// MMU index of EL0, and of LDTR and STTR.
pub(super) const USER: u8 = 1;

/// Fault status codes; the level is added.
mod status {
    pub(super) const ADDRESS: u64 = 0x00;
    pub(super) const TRANSLATION: u64 = 0x04;
    pub(super) const ACCESS: u64 = 0x08;
    pub(super) const PERMISSION: u64 = 0x0c;
}

const SCTLR_M: u64 = 1;
const SCTLR_WXN: u64 = 1 << 19;
const OUTPUT: u64 = 0x0000_ffff_ffff_f000;

/// What a walk found: physical address of the 4 KiB page, and attributes gathered on the way.
#[derive(Clone, Copy, Debug)]
struct Found {
    gpa: u64,
    level: u64,
    ap: u64,
    pxn: bool,
    uxn: bool,
    global: bool,
}

impl AArch64 {
    /// Whether the top byte of `va` is a tag.
    const fn ignores_top(&self, va: u64) -> bool {
        let tbi = if va >> 55 & 1 != 0 { 38 } else { 37 };
        self.sys.tcr >> tbi & 1 != 0
    }

    /// The address without its tag, where it has one.
    pub(super) const fn untagged(&self, va: u64) -> u64 {
        if self.sys.sctlr & SCTLR_M != 0 && self.ignores_top(va) {
            (((va << 8) as i64) >> 8) as u64
        } else {
            va
        }
    }

    fn table_walk(&self, board: &Board, va: u64) -> Result<Found, u64> {
        let tcr = self.sys.tcr;
        let high = va >> 55 & 1 != 0;
        let (tsz, disabled, ttbr, granule) = if high {
            let bits = match tcr >> 30 & 3 {
                1 => 14,
                3 => 16,
                _ => 12,
            };
            (tcr >> 16 & 0x3f, tcr >> 23 & 1 != 0, self.sys.ttbr1, bits)
        } else {
            let bits = match tcr >> 14 & 3 {
                1 => 16,
                2 => 14,
                _ => 12,
            };
            (tcr & 0x3f, tcr >> 7 & 1 != 0, self.sys.ttbr0, bits)
        };
        let size = 64 - tsz.clamp(16, 39) as u32;
        let top = if high { u64::MAX >> size } else { 0 };
        if va >> size != top || disabled {
            return Err(status::TRANSLATION);
        }
        let stride = granule - 3;
        let levels = (size - granule).div_ceil(stride);
        let mut level = 4 - levels;
        let mut table = ttbr & 0x0000_ffff_ffff_fffe;
        let first = size - granule - (levels - 1) * stride;
        table &= !((8_u64 << first) - 1);
        let (mut ap_table, mut pxn_table, mut uxn_table) = (0, false, false);
        loop {
            let shift = granule + (3 - level) * stride;
            let bits = if level == 4 - levels { first } else { stride };
            let index = va >> shift & ((1 << bits) - 1);
            let mut raw = [0; 8];
            if board.peek(table + index * 8, &mut raw) < 8 {
                return Err(status::ADDRESS | 0x10 | u64::from(level) | 4);
            }
            let descriptor = u64::from_le_bytes(raw);
            if descriptor & 1 == 0 {
                return Err(status::TRANSLATION + u64::from(level));
            }
            if descriptor & 2 != 0 && level < 3 {
                ap_table |= descriptor >> 61 & 3;
                pxn_table |= descriptor >> 59 & 1 != 0;
                uxn_table |= descriptor >> 60 & 1 != 0;
                table = descriptor & OUTPUT & !((1 << granule) - 1);
                level += 1;
                continue;
            }
            let block = match granule {
                12 => matches!(level, 1 | 2),
                _ => level == 2,
            };
            if (level == 3) != (descriptor & 2 != 0) || level != 3 && !block {
                return Err(status::TRANSLATION + u64::from(level));
            }
            if descriptor >> 10 & 1 == 0 {
                return Err(status::ACCESS + u64::from(level));
            }
            let inside = (1 << shift) - 1;
            let mut ap = descriptor >> 6 & 3;
            // APTable: bit 0 takes EL0's rights, bit 1 takes writes.
            ap = ap & !(ap_table & 1) | ap_table & 2;
            return Ok(Found {
                gpa: (descriptor & OUTPUT & !inside) | (va & inside & !0xfff),
                level: level.into(),
                ap,
                pxn: descriptor >> 53 & 1 != 0 || pxn_table,
                uxn: descriptor >> 54 & 1 != 0 || uxn_table,
                global: descriptor >> 11 & 1 == 0,
            });
        }
    }

    /// Translates for an access of MMU index `mmu`; an error is the fault status.
    pub(super) fn translate(
        &self,
        board: &Board,
        va: u64,
        access: Access,
        mmu: u8,
    ) -> Result<Mapping, u64> {
        if self.sys.sctlr & SCTLR_M == 0 {
            if va >> 48 != 0 {
                return Err(status::ADDRESS);
            }
            let gpa = va & !0xfff;
            return Ok(Mapping { gpa, read: true, write: true, exec: true, global: true });
        }
        let found = self.table_walk(board, self.untagged(va))?;
        let user = mmu == USER;
        let readable = !user || found.ap & 1 != 0;
        let writable = readable && found.ap & 2 == 0;
        // What EL0 may write, EL1 must not execute.
        let never = if user { found.uxn } else { found.pxn || found.ap == 1 };
        let exec = !(never || writable && self.sys.sctlr & SCTLR_WXN != 0);
        let allowed = match access {
            Access::Read => readable,
            Access::Write => writable,
            Access::Exec => exec,
        };
        if !allowed {
            return Err(status::PERMISSION + found.level);
        }
        Ok(Mapping { gpa: found.gpa, read: readable, write: writable, exec, global: found.global })
    }

    /// The page of `va`, or the abort.
    pub(super) fn walk(
        &mut self,
        board: &Board,
        va: u64,
        access: Access,
        mmu: u8,
    ) -> Result<Mapping, Trap> {
        self.sys.tagged |= va != self.untagged(va);
        self.translate(board, va, access, mmu).map_err(|status| {
            let (fetch, write) = (access == Access::Exec, access == Access::Write);
            Trap::abort(fetch, write, status, va, self.sys.el)
        })
    }

    /// PAR_EL1 after an address translation instruction.
    pub(super) fn par(&self, board: &Board, va: u64, access: Access, mmu: u8) -> u64 {
        match self.translate(board, va, access, mmu) {
            // Normal memory, write-back, outer shareable.
            Ok(map) => map.gpa | 0xff << 56 | 2 << 7 | 1 << 11,
            Err(status) => 1 | status << 1 | 1 << 11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::Model;

    const TABLE: u64 = 0x1000;

    fn machine() -> (AArch64, Board) {
        let board = Board::with_ram(1 << 20);
        let mut cpu = AArch64::new(Model::default(), 0);
        cpu.sys.sctlr |= SCTLR_M;
        cpu.sys.tcr = 16 | 16 << 16 | 2 << 30 | 1 << 37;
        cpu.sys.ttbr0 = TABLE;
        (cpu, board)
    }

    fn put(board: &Board, at: u64, descriptor: u64) {
        board.ram().write_u64(at as usize, descriptor);
    }

    fn pages(board: &Board, last: u64) {
        put(board, TABLE, 0x2003);
        put(board, 0x2000, 0x3003);
        put(board, 0x3000, 0x4003);
        put(board, 0x4000 + 5 * 8, last);
    }

    #[test]
    fn a_page_is_found_through_four_levels_whatever_its_tag() {
        let (cpu, board) = machine();
        pages(&board, 0x9000 | 0x403 | 1 << 6 | 1 << 11);
        for va in [0x5123, 0x5a00_0000_0000_5123] {
            let map = cpu.translate(&board, va, Access::Write, USER).unwrap();
            assert_eq!((map.gpa, map.global, map.exec), (0x9000, false, true), "{va:#x}");
        }
    }

    #[test]
    fn faults_say_what_and_at_which_level() {
        let (mut cpu, board) = machine();
        pages(&board, 0x9000 | 0x403 | 2 << 6);
        let status = |va, access, mmu| cpu.translate(&board, va, access, mmu).unwrap_err();
        assert_eq!(status(0x5000, Access::Write, PRIVILEGED), 0xf);
        assert_eq!(status(0x5000, Access::Read, USER), 0xf);
        assert_eq!(status(0x6000, Access::Read, USER), 7);
        assert_eq!(status(1 << 30, Access::Read, USER), 5);
        assert_eq!(status(1 << 50, Access::Read, USER), 4);
        cpu.sys.el = 0;
        let trap = cpu.walk(&board, 0x6004, Access::Write, USER).unwrap_err();
        assert_eq!((trap.esr, trap.far), (0x9200_0047, Some(0x6004)));
        put(&board, 0x4000 + 5 * 8, 0x9003);
        let trap = cpu.walk(&board, 0x5000, Access::Exec, USER).unwrap_err();
        assert_eq!(trap.esr, 0x8200_000b, "access flag");
    }

    #[test]
    fn blocks_map_what_lies_below_them() {
        let (cpu, board) = machine();
        pages(&board, 0);
        put(&board, 0x2008, 0x4000_0401);
        let map = cpu.translate(&board, 0x4765_4321, Access::Read, PRIVILEGED).unwrap();
        assert_eq!(map.gpa, 0x4765_4000);
    }
}
