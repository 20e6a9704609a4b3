//! What debuggers and monitors see of a CPU.

use std::fmt::Write;

use orrery_system::Board;

use super::insn::Insn;
use super::mmu::PRIVILEGED;
use super::state::{AArch64, Activity, pstate, var};
use crate::debug::DebugCpu;
use crate::isa::Access;

/// Registers of the core feature: X0 to X30, SP, PC, CPSR.
const CORE: usize = 34;
/// V0 to V31, FPSR, FPCR.
const ALL: usize = CORE + 34;

impl AArch64 {
    /// The registers as `info registers` prints them.
    pub fn dump(&self) -> String {
        let mut out = format!(" PC={:016x} ", self.pc);
        for n in 0..31 {
            let end = if n % 3 == 1 { "\n" } else { " " };
            // Writing to a string cannot fail.
            let _ = write!(out, "X{n:02}={:016x}{end}", self.x(n));
        }
        let p = self.pstate();
        let letter = |bit, c| if p & bit != 0 { c } else { '-' };
        let _ = writeln!(
            out,
            "SP={:016x}\nPSTATE={p:08x} {}{}{}{} EL{}{}",
            self.x(31),
            letter(pstate::N, 'N'),
            letter(pstate::Z, 'Z'),
            letter(pstate::C, 'C'),
            letter(pstate::V, 'V'),
            self.sys.el,
            if self.sys.spsel { 'h' } else { 't' },
        );
        if self.sys.activity == Activity::Off {
            out += "(powered off)\n";
        }
        out
    }
}

impl DebugCpu for AArch64 {
    fn gdb_xml(&self) -> String {
        let mut core = String::new();
        for n in 0..31 {
            let _ = write!(core, r#"<reg name="x{n}" bitsize="64"/>"#);
        }
        core += concat!(
            r#"<reg name="sp" bitsize="64" type="data_ptr"/>"#,
            r#"<reg name="pc" bitsize="64" type="code_ptr"/><reg name="cpsr" bitsize="32"/>"#,
        );
        let mut fpu = String::new();
        for n in 0..32 {
            let _ = write!(fpu, r#"<reg name="v{n}" bitsize="128" type="uint128"/>"#);
        }
        fpu += r#"<reg name="fpsr" bitsize="32"/><reg name="fpcr" bitsize="32"/>"#;
        format!(
            concat!(
                r#"<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>"#,
                r#"<architecture>aarch64</architecture>"#,
                r#"<feature name="org.gnu.gdb.aarch64.core">{}</feature>"#,
                r#"<feature name="org.gnu.gdb.aarch64.fpu">{}</feature></target>"#,
            ),
            core, fpu
        )
    }

    fn gdb_read(&self, n: usize) -> Option<Vec<u8>> {
        let word = |v: u64| (v as u32).to_le_bytes().to_vec();
        Some(match n {
            0..=31 => self.x(n as u8).to_le_bytes().to_vec(),
            32 => self.pc.to_le_bytes().to_vec(),
            33 => word(self.pstate()),
            CORE..=65 => self.v((n - CORE) as u8).to_le_bytes().to_vec(),
            66 => word(self.frame.get(var::FPSR)),
            67 => word(self.frame.get(var::FPCR)),
            ALL.. => return None,
        })
    }

    fn gdb_write(&mut self, n: usize, bytes: &[u8]) -> bool {
        let mut raw = [0; 16];
        let len = bytes.len().min(16);
        raw[..len].copy_from_slice(&bytes[..len]);
        let value = u128::from_le_bytes(raw);
        match n {
            0..=31 => self.set_x(n as u8, value as u64),
            32 => self.pc = value as u64,
            33 => self.set_nzcv(value as u64),
            CORE..=65 => self.set_v((n - CORE) as u8, value),
            66 => self.frame.set(var::FPSR, value as u64 & 0xf800_009f),
            67 => self.frame.set(var::FPCR, value as u64 & 0x07c0_0000),
            ALL.. => return false,
        }
        true
    }

    fn register(&self, name: &str) -> Option<u64> {
        match name {
            "pc" => Some(self.pc),
            "sp" => Some(self.x(31)),
            "cpsr" => Some(self.pstate()),
            _ => {
                let n: u8 = name.strip_prefix('x')?.parse().ok()?;
                (n < 31).then(|| self.x(n))
            }
        }
    }

    fn is_wide(&self) -> bool {
        true
    }

    fn look_up(&self, board: &mut Board, linear: u64) -> Option<u64> {
        let map = self.translate(board, linear, Access::Read, PRIVILEGED).ok()?;
        Some(map.gpa | linear & 0xfff)
    }

    fn disassemble(&self, _pc: u64, bytes: &[u8]) -> Option<(usize, String)> {
        let word = u32::from_le_bytes(*bytes.first_chunk()?);
        let text = match Insn::decode(word) {
            Some(insn) => insn.row().list(word),
            None => format!(".inst {word:#010x}"),
        };
        Some((4, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::Model;

    #[test]
    fn a_debugger_reads_back_what_it_wrote_and_the_description_names_all() {
        let mut cpu = AArch64::new(Model::default(), 0);
        for n in 0..ALL {
            if !matches!(n, 33 | 66 | 67) {
                let len = cpu.gdb_read(n).unwrap().len();
                assert!(cpu.gdb_write(n, &vec![n as u8 + 1; len]));
                assert_eq!(cpu.gdb_read(n).unwrap(), vec![n as u8 + 1; len], "{n}");
            }
        }
        assert_eq!(cpu.gdb_read(ALL), None);
        assert_eq!(cpu.gdb_xml().matches("<reg ").count(), ALL);
        assert_eq!(cpu.register("x7"), Some(0x0808_0808_0808_0808));
    }
}
