//! Disassembly in Intel syntax, from the same rows the decoder uses.

use core::fmt::{self, Write};

use super::insn::{Id, Insn, Mem, NO_REG, Operand, RIP_REG, Rep};

const GPR8: [&str; 16] = [
    "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", "r8b", "r9b", "r10b", "r11b", "r12b",
    "r13b", "r14b", "r15b",
];
const GPR16: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
const SEG: [&str; 8] = ["es", "cs", "ss", "ds", "fs", "gs", "?", "?"];
const CONDITION: [&str; 16] =
    ["o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g"];

/// An instruction with its address, to be printed.
pub struct Disasm<'a> {
    /// The instruction.
    pub insn: &'a Insn,
    /// Where it starts.
    pub pc: u64,
}

impl fmt::Display for Disasm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let insn = self.insn;
        if insn.lock {
            f.write_str("lock ")?;
        }
        let string = insn.operands().iter().any(|o| matches!(o, Operand::Src(_) | Operand::Dst(_)));
        if string {
            f.write_str(match (insn.rep, insn.id) {
                (Rep::None, _) => "",
                (Rep::Repne, _) => "repne ",
                (Rep::Rep, Id::CMPS | Id::SCAS) => "repe ",
                (Rep::Rep, _) => "rep ",
            })?;
        }
        self.mnemonic(f)?;
        if string && !matches!(insn.id, Id::INS | Id::OUTS) {
            return self.string_suffix(f);
        }
        for (i, &op) in insn.operands().iter().enumerate() {
            f.write_str(if i == 0 { " " } else { "," })?;
            self.operand(f, op)?;
        }
        Ok(())
    }
}

impl Disasm<'_> {
    fn mnemonic(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let insn = self.insn;
        let base = match insn.id {
            Id::JCC => "j",
            Id::SETCC => "set",
            Id::CMOVCC => "cmov",
            Id::CBW => return f.write_str(["cbw", "cwde", "cdqe"][size_index(insn.opsize)]),
            Id::CWD => return f.write_str(["cwd", "cdq", "cqo"][size_index(insn.opsize)]),
            Id::CMPXCHG8B if insn.wide => return f.write_str("cmpxchg16b"),
            id => {
                for c in id.name().chars() {
                    f.write_char(c.to_ascii_lowercase())?;
                }
                return Ok(());
            }
        };
        f.write_str(base)?;
        f.write_str(CONDITION[usize::from(insn.condition())])
    }

    fn string_suffix(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.insn.operands().iter().find_map(|o| match o {
            Operand::Src(n) | Operand::Dst(n) => Some(*n),
            _ => None,
        });
        f.write_str(match size {
            Some(1) => "b",
            Some(2) => "w",
            Some(4) => "d",
            _ => "q",
        })
    }

    fn operand(&self, f: &mut fmt::Formatter<'_>, op: Operand) -> fmt::Result {
        let insn = self.insn;
        match op {
            Operand::Gpr(n, size) => gpr(f, n, size),
            Operand::High(n) => f.write_str(["ah", "ch", "dh", "bh"][usize::from(n & 3)]),
            Operand::Mem(size) => self.memory(f, &insn.mem, size),
            Operand::Imm(_) => hex(f, insn.imm),
            Operand::Imm2 => hex(f, insn.imm2.into()),
            Operand::Rel => {
                let size = if insn.opsize == 8 { 64 } else { 8 * u32::from(insn.opsize) };
                let target = self.pc.wrapping_add(insn.len.into()).wrapping_add(insn.imm);
                hex(f, target & (u64::MAX >> (64 - size)))
            }
            Operand::Far => {
                hex(f, insn.imm2.into())?;
                f.write_char(':')?;
                hex(f, insn.imm)
            }
            Operand::Seg(n) => f.write_str(SEG[usize::from(n & 7)]),
            Operand::Cr(n) => write!(f, "cr{n}"),
            Operand::Dr(n) => write!(f, "dr{n}"),
            Operand::Src(_) => f.write_str("[si]"),
            Operand::Dst(_) => f.write_str("[di]"),
            Operand::St(n) => write!(f, "st({n})"),
            Operand::Mm(n) => write!(f, "mm{n}"),
            Operand::Xmm(n) => write!(f, "xmm{n}"),
        }
    }

    fn memory(&self, f: &mut fmt::Formatter<'_>, mem: &Mem, size: u8) -> fmt::Result {
        f.write_str(match size {
            1 => "byte ptr ",
            2 => "word ptr ",
            4 => "dword ptr ",
            6 => "fword ptr ",
            8 => "qword ptr ",
            10 => "tbyte ptr ",
            16 => "xmmword ptr ",
            _ => "",
        })?;
        write!(f, "{}:[", SEG[usize::from(mem.seg & 7)])?;
        let mut any = false;
        if mem.base == RIP_REG {
            f.write_str("rip")?;
            any = true;
        } else if mem.base != NO_REG {
            gpr(f, mem.base, self.insn.addrsize)?;
            any = true;
        }
        if mem.index != NO_REG {
            if any {
                f.write_char('+')?;
            }
            gpr(f, mem.index, self.insn.addrsize)?;
            if mem.scale != 0 {
                write!(f, "*{}", 1 << mem.scale)?;
            }
            any = true;
        }
        if !any {
            hex(f, mem.disp as u64)?;
        } else if mem.disp < 0 {
            f.write_char('-')?;
            hex(f, mem.disp.unsigned_abs())?;
        } else if mem.disp > 0 {
            f.write_char('+')?;
            hex(f, mem.disp as u64)?;
        }
        f.write_char(']')
    }
}

fn size_index(size: u8) -> usize {
    match size {
        2 => 0,
        4 => 1,
        _ => 2,
    }
}

fn gpr(f: &mut fmt::Formatter<'_>, n: u8, size: u8) -> fmt::Result {
    let n = usize::from(n & 15);
    match (size, n) {
        (1, _) => f.write_str(GPR8[n]),
        (2, 0..8) => f.write_str(GPR16[n]),
        (4, 0..8) => write!(f, "e{}", GPR16[n]),
        (_, 0..8) => write!(f, "r{}", GPR16[n]),
        (2, _) => write!(f, "r{n}w"),
        (4, _) => write!(f, "r{n}d"),
        _ => write!(f, "r{n}"),
    }
}

fn hex(f: &mut fmt::Formatter<'_>, value: u64) -> fmt::Result {
    if value < 10 { write!(f, "{value}") } else { write!(f, "{value:#x}") }
}

#[cfg(test)]
mod tests {
    use super::super::decode::decode;
    use super::super::insn::{CodeSize, Features, Mode};
    use super::*;

    fn text(code: CodeSize, bytes: &[u8]) -> String {
        let mode = Mode { code, protected: true, features: Features::all() };
        let mut at = bytes.iter().copied();
        let insn = decode(mode, &mut || at.next().ok_or(())).unwrap();
        assert_eq!(usize::from(insn.len), bytes.len());
        Disasm { insn: &insn, pc: 0x1000 }.to_string()
    }

    #[test]
    fn operands_print_in_intel_order_with_sizes() {
        assert_eq!(text(CodeSize::Bits16, &[0x00, 0x5f, 0x0e]), "add byte ptr ds:[bx+0xe],bl");
        assert_eq!(
            text(CodeSize::Bits32, &[0x8b, 0x84, 0x95, 0, 1, 0, 0]),
            "mov eax,dword ptr ss:[ebp+edx*4+0x100]"
        );
        assert_eq!(
            text(CodeSize::Bits64, &[0x4c, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff]),
            "lea r8,ds:[rip-7]"
        );
        assert_eq!(text(CodeSize::Bits64, &[0xc4, 0xe2, 0xf0, 0xf2, 0xc2]), "andn rax,rcx,rdx");
    }

    #[test]
    fn condition_codes_and_sizes_are_part_of_the_name() {
        assert_eq!(text(CodeSize::Bits32, &[0x74, 0xfe]), "je 0x1000");
        assert_eq!(text(CodeSize::Bits64, &[0x48, 0x99]), "cqo");
        assert_eq!(text(CodeSize::Bits32, &[0xf3, 0xa5]), "rep movsd");
        assert_eq!(
            text(CodeSize::Bits32, &[0xf0, 0x0f, 0xc7, 0x0e]),
            "lock cmpxchg8b qword ptr ds:[esi]"
        );
    }
}
