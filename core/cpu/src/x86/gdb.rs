//! What a debugger is told of an x86 processor: gdb's `i386` features.

use super::decode::decode;
use super::disasm::Disasm;
use super::state::{X86, cr0, cr4, efer, flag, seg, var};
use crate::debug::{DebugCpu, MappedRange, Watch, WatchKind};
use crate::x86::x87::Layout;
use orrery_system::board::Board;
use std::fmt::Write as _;

/// Watched ranges, and the last one that was used. No part of the processor's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    pub(super) list: Vec<Watch>,
    pub(super) hit: Option<Watch>,
}

/// A register: name, bits, gdb's type.
type Row = (&'static str, u32, &'static str);

const CORE64: &[Row] = &[
    ("rax", 64, "int64"),
    ("rbx", 64, "int64"),
    ("rcx", 64, "int64"),
    ("rdx", 64, "int64"),
    ("rsi", 64, "int64"),
    ("rdi", 64, "int64"),
    ("rbp", 64, "data_ptr"),
    ("rsp", 64, "data_ptr"),
    ("r8", 64, "int64"),
    ("r9", 64, "int64"),
    ("r10", 64, "int64"),
    ("r11", 64, "int64"),
    ("r12", 64, "int64"),
    ("r13", 64, "int64"),
    ("r14", 64, "int64"),
    ("r15", 64, "int64"),
    ("rip", 64, "code_ptr"),
];
/// Their numbers in instructions.
const ORDER64: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

const CORE32: &[Row] = &[
    ("eax", 32, "int32"),
    ("ecx", 32, "int32"),
    ("edx", 32, "int32"),
    ("ebx", 32, "int32"),
    ("esp", 32, "data_ptr"),
    ("ebp", 32, "data_ptr"),
    ("esi", 32, "int32"),
    ("edi", 32, "int32"),
    ("eip", 32, "code_ptr"),
];

const REST: &[Row] = &[
    ("eflags", 32, "i386_eflags"),
    ("cs", 32, "int32"),
    ("ss", 32, "int32"),
    ("ds", 32, "int32"),
    ("es", 32, "int32"),
    ("fs", 32, "int32"),
    ("gs", 32, "int32"),
    ("st0", 80, "i387_ext"),
    ("st1", 80, "i387_ext"),
    ("st2", 80, "i387_ext"),
    ("st3", 80, "i387_ext"),
    ("st4", 80, "i387_ext"),
    ("st5", 80, "i387_ext"),
    ("st6", 80, "i387_ext"),
    ("st7", 80, "i387_ext"),
    ("fctrl", 32, "int"),
    ("fstat", 32, "int"),
    ("ftag", 32, "int"),
    ("fiseg", 32, "int"),
    ("fioff", 32, "int"),
    ("foseg", 32, "int"),
    ("fooff", 32, "int"),
    ("fop", 32, "int"),
];

const SEGMENTS: &[Row] = &[("fs_base", 64, "int64"), ("gs_base", 64, "int64")];

/// Not of gdb's own; QEMU has them under these names.
const SYSTEM: &[Row] = &[
    ("k_gs_base", 64, "int64"),
    ("cr0", 64, "int64"),
    ("cr2", 64, "int64"),
    ("cr3", 64, "int64"),
    ("cr4", 64, "int64"),
    ("cr8", 64, "int64"),
    ("efer", 64, "int64"),
];

/// What a register number stands for.
enum Register {
    General(usize),
    Pc,
    Flags,
    Segment(usize),
    Stack(usize),
    Control(usize),
    Xmm(usize),
    Mxcsr,
    Base(usize),
    System(usize),
}

/// Segments in gdb's order.
const SEGS: [usize; 6] = [seg::CS, seg::SS, seg::DS, seg::ES, seg::FS, seg::GS];

impl X86 {
    /// The processor has long mode, so that gdb is told of 64-bit registers, in every mode.
    fn has_long(&self) -> bool {
        self.model.has(super::cpuid::feature::LM)
    }

    fn gdb_register(&self, n: usize) -> Option<Register> {
        let (general, xmm) = if self.has_long() { (16, 16) } else { (8, 8) };
        let mut n = n;
        let mut part = |len: usize| {
            let inside = (n < len).then_some(n);
            n = n.wrapping_sub(len);
            inside
        };
        if let Some(i) = part(general) {
            return Some(Register::General(if general == 16 { ORDER64[i] } else { i }));
        }
        if part(1).is_some() {
            return Some(Register::Pc);
        }
        if part(1).is_some() {
            return Some(Register::Flags);
        }
        if let Some(i) = part(6) {
            return Some(Register::Segment(SEGS[i]));
        }
        if let Some(i) = part(8) {
            return Some(Register::Stack(i));
        }
        if let Some(i) = part(8) {
            return Some(Register::Control(i));
        }
        if let Some(i) = part(xmm) {
            return Some(Register::Xmm(i));
        }
        if part(1).is_some() {
            return Some(Register::Mxcsr);
        }
        if self.has_long()
            && let Some(i) = part(2)
        {
            return Some(Register::Base(i));
        }
        part(SYSTEM.len()).map(Register::System)
    }

    fn gdb_bytes(&self, register: &Register) -> Vec<u8> {
        let wide = self.has_long();
        let word = |v: u64| {
            if wide { v.to_le_bytes().to_vec() } else { (v as u32).to_le_bytes().to_vec() }
        };
        let short = |v: u64| (v as u32).to_le_bytes().to_vec();
        match *register {
            Register::General(i) => word(self.frame.ints[i]),
            Register::Pc => word(self.linear_rip(self.frame.ints[var::RIP])),
            Register::Flags => short(self.rflags()),
            Register::Segment(i) => short(self.sys.seg[i].selector.into()),
            Register::Stack(i) => {
                let mut image = [0; 512];
                self.x87.put_fxsave(true, &mut image);
                image[32 + 16 * i..][..10].to_vec()
            }
            Register::Control(i) => {
                let mut image = [0; 28];
                self.x87.put_environment(Layout::Protected32, &mut image);
                let at = |i: usize| {
                    u32::from_le_bytes([image[i], image[i + 1], image[i + 2], image[i + 3]])
                };
                short(u64::from(match i {
                    0 => at(0) & 0xffff,
                    1 => at(4) & 0xffff,
                    2 => at(8) & 0xffff,
                    3 => at(16) & 0xffff,
                    4 => at(12),
                    5 => at(24) & 0xffff,
                    6 => at(20),
                    _ => at(16) >> 16 & 0x7ff,
                }))
            }
            Register::Xmm(i) => self.frame.vecs[i].to_le_bytes().to_vec(),
            Register::Mxcsr => short(self.frame.ints[var::MXCSR]),
            Register::Base(i) => self.sys.seg[seg::FS + i].base.to_le_bytes().to_vec(),
            Register::System(i) => {
                let s = &self.sys;
                let v = [s.msr.kernel_gs_base, s.cr0, s.cr2, s.cr3, s.cr4, 0, s.efer][i];
                v.to_le_bytes().to_vec()
            }
        }
    }

    /// Reads a word of a page table.
    fn entry(board: &mut Board, at: u64, width: u8) -> u64 {
        let mut bytes = [0; 8];
        board.peek(at, &mut bytes[..usize::from(width)]);
        u64::from_le_bytes(bytes)
    }

    /// Levels of the page tables: (bits of the index, bits below it), top first; bytes an entry.
    fn levels(&self) -> (&'static [(u32, u32)], u8) {
        if self.long_mode() {
            (&[(9, 39), (9, 30), (9, 21), (9, 12)], 8)
        } else if self.sys.cr4 & cr4::PAE != 0 {
            (&[(2, 30), (9, 21), (9, 12)], 8)
        } else {
            (&[(10, 22), (10, 12)], 4)
        }
    }

    fn table_root(&self) -> u64 {
        if self.long_mode() {
            self.sys.cr3 & 0x000f_ffff_ffff_f000
        } else if self.sys.cr4 & cr4::PAE != 0 {
            self.sys.cr3 & 0xffff_ffe0
        } else {
            self.sys.cr3 & 0xffff_f000
        }
    }

    /// Whether an entry above the last level maps memory itself.
    fn is_large(&self, shift: u32, entry: u64) -> bool {
        let allowed = match shift {
            22 => self.sys.cr4 & cr4::PSE != 0,
            21 => true,
            30 => self.long_mode(),
            _ => false,
        };
        shift > 12 && allowed && entry & 0x80 != 0
    }

    fn physical(&self, linear: u64, shift: u32, entry: u64, width: u8) -> u64 {
        let offset = linear & ((1 << shift) - 1);
        let base = if width == 4 {
            let high = if shift == 22 { (entry >> 13 & 0xff) << 32 } else { 0 };
            entry & 0xffff_f000 | high
        } else {
            entry & 0x000f_ffff_ffff_f000
        };
        base & !((1 << shift) - 1) | offset
    }

    fn walk_mappings(
        &self,
        board: &mut Board,
        level: usize,
        table: u64,
        base: u64,
        rights: u64,
        out: &mut Vec<(u64, u64, u64)>,
    ) {
        let (levels, width) = self.levels();
        let (bits, shift) = levels[level];
        for i in 0..1_u64 << bits {
            if out.len() > 100_000 {
                return;
            }
            let entry = Self::entry(board, table + i * u64::from(width), width);
            if entry & 1 == 0 {
                continue;
            }
            let mut linear = base | i << shift;
            if shift == 39 && i >= 256 {
                linear |= 0xffff << 48;
            }
            let top_of_pae = shift == 30 && !self.long_mode();
            let rights = if top_of_pae { rights } else { rights & entry };
            if shift == 12 || self.is_large(shift, entry) {
                match out.last_mut() {
                    Some((at, len, r)) if *at + *len == linear && *r == rights & 6 => {
                        *len += 1 << shift;
                    }
                    _ => out.push((linear, 1 << shift, rights & 6)),
                }
            } else {
                let next = self.physical(0, 12, entry, width);
                self.walk_mappings(board, level + 1, next, linear, rights, out);
            }
        }
    }

    pub(super) fn watch_covers_page(&self, linear: u64) -> bool {
        self.watch
            .list
            .iter()
            .any(|w| w.at >> 12 <= linear >> 12 && (w.at + (w.len - 1)) >> 12 >= linear >> 12)
    }

    /// `len` bytes from `linear` on are used at once.
    pub(super) fn note_watched_span(&mut self, linear: u64, len: u64, write: bool) {
        let hit = self.watch.list.iter().find(|w| {
            let wanted = match w.kind {
                WatchKind::Write => write,
                WatchKind::Read => !write,
                WatchKind::Access => true,
            };
            wanted && linear < w.at.saturating_add(w.len) && w.at < linear.saturating_add(len)
        });
        if let Some(hit) = hit {
            self.watch.hit = Some(*hit);
        }
    }

    pub(super) fn note_watch(&mut self, linear: u64, write: bool) {
        let hit = self.watch.list.iter().find(|w| {
            let wanted = match w.kind {
                WatchKind::Write => write,
                WatchKind::Read => !write,
                WatchKind::Access => true,
            };
            // An access is at most eight bytes; where it begins is what is known.
            wanted && linear.wrapping_sub(w.at) < w.len
        });
        if let Some(hit) = hit {
            self.watch.hit = Some(*hit);
        }
    }
}

impl DebugCpu for X86 {
    fn gdb_xml(&self) -> String {
        let wide = self.has_long();
        let mut out = String::from(
            "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target>",
        );
        let arch = if wide { "i386:x86-64" } else { "i386" };
        let _ = write!(out, "<architecture>{arch}</architecture>");
        out.push_str("<feature name=\"org.gnu.gdb.i386.core\">");
        out.push_str("<flags id=\"i386_eflags\" size=\"4\">");
        for (name, bit) in [
            ("CF", 0),
            ("", 1),
            ("PF", 2),
            ("AF", 4),
            ("ZF", 6),
            ("SF", 7),
            ("TF", 8),
            ("IF", 9),
            ("DF", 10),
            ("OF", 11),
            ("NT", 14),
            ("RF", 16),
            ("VM", 17),
            ("AC", 18),
            ("VIF", 19),
            ("VIP", 20),
            ("ID", 21),
        ] {
            let _ = write!(out, "<field name=\"{name}\" start=\"{bit}\" end=\"{bit}\"/>");
        }
        out.push_str("</flags>");
        let row = |out: &mut String, (name, bits, kind): &Row| {
            let group = match *kind {
                "int" => " group=\"float\"",
                _ => "",
            };
            let _ = write!(out, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind}\"{group}/>");
        };
        if wide { CORE64 } else { CORE32 }.iter().for_each(|r| row(&mut out, r));
        REST.iter().for_each(|r| row(&mut out, r));
        out.push_str("</feature><feature name=\"org.gnu.gdb.i386.sse\">");
        for (id, kind, count) in [
            ("v4f", "ieee_single", 4),
            ("v2d", "ieee_double", 2),
            ("v16i8", "int8", 16),
            ("v8i16", "int16", 8),
            ("v4i32", "int32", 4),
            ("v2i64", "int64", 2),
        ] {
            let _ = write!(out, "<vector id=\"{id}\" type=\"{kind}\" count=\"{count}\"/>");
        }
        out.push_str("<union id=\"vec128\">");
        for (name, kind) in [
            ("v4_float", "v4f"),
            ("v2_double", "v2d"),
            ("v16_int8", "v16i8"),
            ("v8_int16", "v8i16"),
            ("v4_int32", "v4i32"),
            ("v2_int64", "v2i64"),
            ("uint128", "uint128"),
        ] {
            let _ = write!(out, "<field name=\"{name}\" type=\"{kind}\"/>");
        }
        out.push_str("</union>");
        for i in 0..if wide { 16 } else { 8 } {
            let _ = write!(out, "<reg name=\"xmm{i}\" bitsize=\"128\" type=\"vec128\"/>");
        }
        out.push_str(
            "<reg name=\"mxcsr\" bitsize=\"32\" type=\"int\" group=\"vector\"/></feature>",
        );
        if wide {
            out.push_str("<feature name=\"org.gnu.gdb.i386.segments\">");
            SEGMENTS.iter().for_each(|r| row(&mut out, r));
            out.push_str("</feature>");
        }
        out.push_str("<feature name=\"org.qemu.gdb.i386.sys\">");
        SYSTEM.iter().for_each(|r| row(&mut out, r));
        out.push_str("</feature></target>");
        out
    }

    fn gdb_read(&self, n: usize) -> Option<Vec<u8>> {
        self.gdb_register(n).map(|r| self.gdb_bytes(&r))
    }

    fn gdb_write(&mut self, n: usize, bytes: &[u8]) -> bool {
        let Some(register) = self.gdb_register(n) else { return false };
        let mut wide = [0; 16];
        let len = bytes.len().min(16);
        wide[..len].copy_from_slice(&bytes[..len]);
        let word = u128::from_le_bytes(wide);
        let value = word as u64;
        match register {
            Register::General(i) => {
                self.frame.ints[i] = if self.long_mode() { value } else { value & 0xffff_ffff };
            }
            Register::Pc => {
                let base = if self.code64() { 0 } else { self.sys.seg[seg::CS].base };
                let pc = value.wrapping_sub(base);
                self.frame.ints[var::RIP] = if self.code64() { pc } else { pc & 0xffff_ffff };
            }
            Register::Flags => {
                super::flags::write(&mut self.frame, value & 0x3f_7fd5 | flag::FIXED);
            }
            Register::Xmm(i) => self.frame.vecs[i] = word,
            Register::Base(i) => {
                self.sys.seg[seg::FS + i].base = value;
                self.publish_segments();
            }
            Register::System(0) => self.sys.msr.kernel_gs_base = value,
            Register::System(2) => self.sys.cr2 = value,
            // Selectors mean descriptors, modes mean more than a number: gdb writes back what it read.
            other => return self.gdb_bytes(&other) == bytes,
        }
        true
    }

    fn register(&self, name: &str) -> Option<u64> {
        let rows64 = CORE64.iter().map(|r| r.0).zip(ORDER64);
        let rows32 = CORE32.iter().map(|r| r.0).take(8).zip(0..8);
        if let Some((_, i)) = rows64.take(16).chain(rows32).find(|(n, _)| *n == name) {
            let v = self.frame.ints[i];
            return Some(if name.starts_with('e') { v & 0xffff_ffff } else { v });
        }
        Some(match name {
            "pc" | "rip" | "eip" => self.frame.ints[var::RIP],
            "eflags" | "rflags" => self.rflags(),
            "cs" | "ss" | "ds" | "es" | "fs" | "gs" => {
                let i = ["es", "cs", "ss", "ds", "fs", "gs"].iter().position(|n| *n == name)?;
                self.sys.seg[i].selector.into()
            }
            "cs.base" => self.sys.seg[seg::CS].base,
            "fs_base" | "fs.base" => self.sys.seg[seg::FS].base,
            "gs_base" | "gs.base" => self.sys.seg[seg::GS].base,
            "cr0" => self.sys.cr0,
            "cr2" => self.sys.cr2,
            "cr3" => self.sys.cr3,
            "cr4" => self.sys.cr4,
            "efer" => self.sys.efer,
            _ => return None,
        })
    }

    fn linear_pc(&self, pc: u64) -> u64 {
        self.linear_rip(pc)
    }

    fn is_wide(&self) -> bool {
        self.sys.efer & efer::LMA != 0
    }

    fn look_up(&self, board: &mut Board, linear: u64) -> Option<u64> {
        let linear = if self.long_mode() { linear } else { linear & 0xffff_ffff };
        let folded = |gpa: u64| if self.sys.a20 { gpa } else { gpa & !(1 << 20) };
        if self.sys.cr0 & cr0::PG == 0 {
            return Some(folded(linear));
        }
        if self.long_mode() && !Self::is_canonical(linear) {
            return None;
        }
        let (levels, width) = self.levels();
        let mut table = self.table_root();
        for &(bits, shift) in levels {
            let index = linear >> shift & ((1 << bits) - 1);
            let entry = X86::entry(board, folded(table + index * u64::from(width)), width);
            if entry & 1 == 0 {
                return None;
            }
            if shift == 12 || self.is_large(shift, entry) {
                return Some(folded(self.physical(linear, shift, entry, width)));
            }
            table = self.physical(0, 12, entry, width);
        }
        None
    }

    fn mappings(&self, board: &mut Board) -> Vec<MappedRange> {
        if self.sys.cr0 & cr0::PG == 0 {
            return Vec::new();
        }
        let mut out = Vec::new();
        self.walk_mappings(board, 0, self.table_root(), 0, u64::MAX, &mut out);
        let text = |rights: u64| {
            let mark = |bit: u64, c: char| if rights & bit != 0 { c } else { '-' };
            format!("{}r{}", mark(4, 'u'), mark(2, 'w'))
        };
        out.into_iter().map(|(at, len, rights)| (at, len, text(rights))).collect()
    }

    fn disassemble(&self, pc: u64, bytes: &[u8]) -> Option<(usize, String)> {
        if bytes.is_empty() {
            return None;
        }
        let mut at = bytes.iter();
        let mut fetch = || at.next().copied().ok_or(());
        match decode(super::lift::mode(self.mode_key(), super::insn::Features::all()), &mut fetch) {
            Ok(insn) => Some((usize::from(insn.len), Disasm { insn: &insn, pc }.to_string())),
            Err(_) => Some((1, format!(".byte 0x{:02x}", bytes[0]))),
        }
    }

    fn set_watches(&mut self, list: &[Watch]) {
        self.watch = Watches { list: list.to_vec(), hit: None };
    }

    fn note_events(&mut self, on: bool) {
        self.events = on.then(Vec::new);
    }

    fn take_events(&mut self) -> Vec<String> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn take_watch(&mut self) -> Option<Watch> {
        self.watch.hit.take()
    }
}

impl X86 {
    const fn is_canonical(linear: u64) -> bool {
        (linear as i64) << 16 >> 16 == linear as i64
    }
}
