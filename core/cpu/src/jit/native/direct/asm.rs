//! Instructions of x86-64 hosts as bytes (Intel SDM volume 2, chapter 2 and the instruction pages).
//!
//! Only the forms that [`super`] uses. Jumps go to [`Mark`]s, calls to addresses that are put in when
//! the code has its place.

use crate::ir::Width;

/// A general register by its number; of an XMM register the number only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::jit::native) struct Reg(pub(super) u8);

pub(super) const RAX: Reg = Reg(0);
pub(super) const RCX: Reg = Reg(1);
pub(super) const RDX: Reg = Reg(2);
pub(super) const RBX: Reg = Reg(3);
pub(super) const RSP: Reg = Reg(4);
pub(super) const RBP: Reg = Reg(5);
pub(super) const RSI: Reg = Reg(6);
pub(super) const RDI: Reg = Reg(7);
pub(super) const R8: Reg = Reg(8);
pub(super) const R9: Reg = Reg(9);
pub(super) const R10: Reg = Reg(10);
pub(super) const R11: Reg = Reg(11);
pub(super) const R12: Reg = Reg(12);
pub(super) const R13: Reg = Reg(13);
pub(super) const R14: Reg = Reg(14);
pub(super) const R15: Reg = Reg(15);

/// A place in memory: `base + index << scale + disp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) base: Option<Reg>,
    pub(super) index: Option<(Reg, u8)>,
    pub(super) disp: i32,
}

/// `base + disp`.
pub(super) const fn at(base: Reg, disp: i32) -> At {
    At { base: Some(base), index: None, disp }
}

/// `base + index + disp`.
pub(super) const fn at2(base: Reg, index: Reg, disp: i32) -> At {
    At { base: Some(base), index: Some((index, 0)), disp }
}

/// A register or a place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rm {
    Reg(Reg),
    Mem(At),
}

impl From<Reg> for Rm {
    fn from(r: Reg) -> Self {
        Self::Reg(r)
    }
}

impl From<At> for Rm {
    fn from(m: At) -> Self {
        Self::Mem(m)
    }
}

/// The operations of opcodes 00 to 3F and of group 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// The operations of group 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// The operations of group 3 that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group3 {
    Not = 2,
    Neg = 3,
    Mul = 4,
    Imul = 5,
    Div = 6,
    Idiv = 7,
}

/// Conditions by their code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cc {
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cc {
    /// The opposite.
    pub(super) const fn not(self) -> Self {
        match self {
            Self::B => Self::Ae,
            Self::Ae => Self::B,
            Self::E => Self::Ne,
            Self::Ne => Self::E,
            Self::Be => Self::A,
            Self::A => Self::Be,
            Self::L => Self::Ge,
            Self::Ge => Self::L,
            Self::Le => Self::G,
            Self::G => Self::Le,
        }
    }
}

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u32);

/// Code with what is still to be put into it.
#[derive(Default)]
pub(in crate::jit::native) struct Asm {
    code: Vec<u8>,
    marks: Vec<usize>,
    /// Where a 32-bit distance to a mark belongs.
    jumps: Vec<(usize, Mark)>,
    /// Where a 32-bit distance to an address belongs.
    calls: Vec<(usize, usize)>,
}

/// Finished code: bytes, and where in them a 32-bit distance to which address belongs.
pub(in crate::jit::native) struct Code {
    pub(in crate::jit::native) bytes: Vec<u8>,
    pub(in crate::jit::native) calls: Vec<(usize, usize)>,
}

impl Code {
    /// Puts the distances in: the code will be at `place`.
    pub(in crate::jit::native) fn place(&mut self, place: usize) -> &[u8] {
        for &(at, target) in &self.calls {
            let distance = (target as i64 - (place + at + 4) as i64) as i32;
            self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        &self.bytes
    }
}

const NOWHERE: usize = usize::MAX;

impl Asm {
    /// The code, when every mark has its place.
    pub(super) fn finish(mut self) -> Code {
        for &(at, Mark(mark)) in &self.jumps {
            let distance = (self.marks[mark as usize] as i64 - (at + 4) as i64) as i32;
            self.code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        Code { bytes: self.code, calls: self.calls }
    }

    /// A mark without a place yet.
    pub(super) fn mark(&mut self) -> Mark {
        self.marks.push(NOWHERE);
        Mark(self.marks.len() as u32 - 1)
    }

    /// The mark is here.
    pub(super) fn here(&mut self, mark: Mark) {
        self.marks[mark.0 as usize] = self.code.len();
    }

    fn imm32(&mut self, n: i32) {
        self.code.extend(n.to_le_bytes());
    }

    /// Prefixes, opcode (`0x0f..`, `0x0f38..` with its escapes), ModRM, SIB and displacement. `bytes`: which
    /// of the operands are byte registers, `reg` 1 and `rm` 2.
    fn op(&mut self, prefix: u8, wide: bool, bytes: u8, opcode: u32, reg: u8, rm: Rm) {
        if prefix != 0 {
            self.code.push(prefix);
        }
        let (x, b) = match rm {
            Rm::Reg(r) => (0, r.0 >> 3),
            Rm::Mem(m) => (m.index.map_or(0, |(r, _)| r.0 >> 3), m.base.map_or(0, |r| r.0 >> 3)),
        };
        let rex = u8::from(wide) << 3 | (reg >> 3) << 2 | x << 1 | b;
        // SPL to DIL are AH to BH without the prefix.
        let high = |r: u8| (4..8).contains(&r);
        let needs =
            bytes & 1 != 0 && high(reg) || bytes & 2 != 0 && matches!(rm, Rm::Reg(r) if high(r.0));
        if rex != 0 || needs {
            self.code.push(0x40 | rex);
        }
        let opcode = opcode.to_be_bytes();
        let skip = opcode.iter().take(3).take_while(|&&b| b == 0).count();
        self.code.extend(&opcode[skip..]);
        self.modrm(reg & 7, rm);
    }

    fn modrm(&mut self, reg: u8, rm: Rm) {
        let m = match rm {
            Rm::Reg(r) => return self.code.push(0xc0 | reg << 3 | r.0 & 7),
            Rm::Mem(m) => m,
        };
        let Some(base) = m.base else {
            // No base: a SIB byte with base 101 and 32 bits.
            let (index, scale) = m.index.map_or((4, 0), |(r, s)| (r.0 & 7, s));
            self.code.extend([reg << 3 | 4, scale << 6 | index << 3 | 5]);
            return self.imm32(m.disp);
        };
        let size = match m.disp {
            0 if base.0 & 7 != 5 => 0,
            -128..=127 => 1,
            _ => 2,
        };
        match m.index {
            Some((index, scale)) => {
                self.code.extend([
                    size << 6 | reg << 3 | 4,
                    scale << 6 | (index.0 & 7) << 3 | base.0 & 7,
                ]);
            }
            None if base.0 & 7 == 4 => self.code.extend([size << 6 | reg << 3 | 4, 0x24]),
            None => self.code.push(size << 6 | reg << 3 | base.0 & 7),
        }
        match size {
            0 => {}
            1 => self.code.push(m.disp as u8),
            _ => self.imm32(m.disp),
        }
    }

    /// An opcode with forms for bytes (even) and for the other widths (odd).
    fn sized(&mut self, w: Width, opcode: u32, reg: u8, rm: Rm, both: bool) {
        let prefix = if w == Width::W16 { 0x66 } else { 0 };
        let bytes = if w == Width::W8 { 2 | u8::from(both) } else { 0 };
        let odd = u32::from(w != Width::W8);
        self.op(prefix, w == Width::W64, bytes, opcode | odd, reg, rm);
    }

    /// `rm = reg`, of this width: the rest of memory stays, that of a register (8 and 16 bits) too.
    pub(super) fn store(&mut self, w: Width, rm: impl Into<Rm>, r: Reg) {
        self.sized(w, 0x88, r.0, rm.into(), true);
    }

    /// `r = rm`, zero-extended to 64 bits.
    pub(super) fn load(&mut self, w: Width, r: Reg, rm: impl Into<Rm>) {
        let rm = rm.into();
        match w {
            Width::W8 => self.op(0, false, 2, 0x0fb6, r.0, rm),
            Width::W16 => self.op(0, false, 0, 0x0fb7, r.0, rm),
            w => self.op(0, w == Width::W64, 0, 0x8b, r.0, rm),
        }
    }

    /// `r = rm`, sign-extended to 32 or 64 bits.
    pub(super) fn load_signed(&mut self, from: Width, wide: bool, r: Reg, rm: impl Into<Rm>) {
        let rm = rm.into();
        match from {
            Width::W8 => self.op(0, wide, 2, 0x0fbe, r.0, rm),
            Width::W16 => self.op(0, wide, 0, 0x0fbf, r.0, rm),
            Width::W32 if wide => self.op(0, true, 0, 0x63, r.0, rm),
            w => self.op(0, w == Width::W64 || wide, 0, 0x8b, r.0, rm),
        }
    }

    /// `r = n`.
    pub(super) fn set(&mut self, r: Reg, n: u64) {
        if n == 0 {
            self.op(0, false, 0, 0x31, r.0, r.into());
        } else if n <= u64::from(u32::MAX) {
            if r.0 >= 8 {
                self.code.push(0x41);
            }
            self.code.push(0xb8 | r.0 & 7);
            self.imm32(n as i32);
        } else if i32::try_from(n as i64).is_ok() {
            self.op(0, true, 0, 0xc7, 0, r.into());
            self.imm32(n as i32);
        } else {
            self.set_long(r, n);
        }
    }

    /// `r = n` with all of its 64 bits in the instruction, 2 bytes from its start.
    pub(super) fn set_long(&mut self, r: Reg, n: u64) {
        self.code.extend([0x48 | r.0 >> 3, 0xb8 | r.0 & 7]);
        self.code.extend(n.to_le_bytes());
    }

    /// `r = n`, the flags untouched.
    pub(super) fn set_quiet(&mut self, r: Reg, n: u32) {
        if r.0 >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0xb8 | r.0 & 7);
        self.imm32(n as i32);
    }

    /// Memory of this width = `n`, sign-extended from 32 bits.
    pub(super) fn store_imm(&mut self, w: Width, m: At, n: i32) {
        self.sized(w, 0xc6, 0, m.into(), false);
        match w {
            Width::W8 => self.code.push(n as u8),
            Width::W16 => self.code.extend((n as u16).to_le_bytes()),
            _ => self.imm32(n),
        }
    }

    /// `r op= rm`.
    pub(super) fn alu(&mut self, op: Alu, w: Width, r: Reg, rm: impl Into<Rm>) {
        self.sized(w, (op as u32) << 3 | 2, r.0, rm.into(), true);
    }

    /// `m op= r`.
    pub(super) fn alu_to(&mut self, op: Alu, w: Width, m: At, r: Reg) {
        self.sized(w, (op as u32) << 3, r.0, m.into(), true);
    }

    /// `rm op= n`, sign-extended from 32 bits.
    pub(super) fn alu_imm(&mut self, op: Alu, w: Width, rm: impl Into<Rm>, n: i32) {
        let rm = rm.into();
        if w != Width::W8 && i8::try_from(n).is_ok() {
            self.sized(w, 0x82, op as u8, rm, false);
            return self.code.push(n as u8);
        }
        self.sized(w, 0x80, op as u8, rm, false);
        match w {
            Width::W8 => self.code.push(n as u8),
            Width::W16 => self.code.extend((n as u16).to_le_bytes()),
            _ => self.imm32(n),
        }
    }

    /// Flags of `rm & r`.
    pub(super) fn test(&mut self, w: Width, rm: impl Into<Rm>, r: Reg) {
        self.sized(w, 0x84, r.0, rm.into(), true);
    }

    /// Flags of `rm & n`, sign-extended from 32 bits.
    pub(super) fn test_imm(&mut self, w: Width, rm: impl Into<Rm>, n: i32) {
        self.sized(w, 0xf6, 0, rm.into(), false);
        match w {
            Width::W8 => self.code.push(n as u8),
            Width::W16 => self.code.extend((n as u16).to_le_bytes()),
            _ => self.imm32(n),
        }
    }

    pub(super) fn shift_imm(&mut self, op: Shift, w: Width, rm: impl Into<Rm>, n: u8) {
        self.sized(w, 0xc0, op as u8, rm.into(), false);
        self.code.push(n);
    }

    /// By CL.
    pub(super) fn shift(&mut self, op: Shift, w: Width, rm: impl Into<Rm>) {
        self.sized(w, 0xd2, op as u8, rm.into(), false);
    }

    pub(super) fn group3(&mut self, op: Group3, w: Width, rm: impl Into<Rm>) {
        self.sized(w, 0xf6, op as u8, rm.into(), false);
    }

    /// `r *= rm`, the low half; of 32 or 64 bits.
    pub(super) fn imul(&mut self, w: Width, r: Reg, rm: impl Into<Rm>) {
        self.op(0, w == Width::W64, 0, 0x0faf, r.0, rm.into());
    }

    /// `r` = the address, of 32 or 64 bits.
    pub(super) fn lea(&mut self, w: Width, r: Reg, m: At) {
        self.op(0, w == Width::W64, 0, 0x8d, r.0, m.into());
    }

    /// Bit scans; zero sets the zero flag and leaves `r` as it is.
    pub(super) fn scan(&mut self, reverse: bool, w: Width, r: Reg, rm: impl Into<Rm>) {
        let opcode = 0x0fbc | u32::from(reverse);
        self.op(0, w == Width::W64, 0, opcode, r.0, rm.into());
    }

    pub(super) fn popcnt(&mut self, w: Width, r: Reg, rm: impl Into<Rm>) {
        self.op(0xf3, w == Width::W64, 0, 0x0fb8, r.0, rm.into());
    }

    pub(super) fn bswap(&mut self, w: Width, r: Reg) {
        self.code.extend([0x40 | u8::from(w == Width::W64) << 3 | r.0 >> 3, 0x0f, 0xc8 | r.0 & 7]);
    }

    /// The low byte of `r` = the condition.
    pub(super) fn setcc(&mut self, cc: Cc, r: Reg) {
        self.op(0, false, 2, 0x0f90 | cc as u32, 0, r.into());
    }

    /// `r = rm` where the condition holds; 32 bits clear the upper half in any case.
    pub(super) fn cmov(&mut self, cc: Cc, w: Width, r: Reg, rm: impl Into<Rm>) {
        self.op(0, w == Width::W64, 0, 0x0f40 | cc as u32, r.0, rm.into());
    }

    /// Sign-extends RAX into RDX.
    pub(super) fn cqo(&mut self) {
        self.code.extend([0x48, 0x99]);
    }

    pub(super) fn push(&mut self, r: Reg) {
        if r.0 >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x50 | r.0 & 7);
    }

    pub(super) fn pop(&mut self, r: Reg) {
        if r.0 >= 8 {
            self.code.push(0x41);
        }
        self.code.push(0x58 | r.0 & 7);
    }

    pub(super) fn ret(&mut self) {
        self.code.push(0xc3);
    }

    pub(super) fn call_reg(&mut self, r: Reg) {
        self.op(0, false, 0, 0xff, 2, r.into());
    }

    pub(super) fn jump_reg(&mut self, r: Reg) {
        self.op(0, false, 0, 0xff, 4, r.into());
    }

    /// A jump to an address.
    pub(super) fn jump_to(&mut self, target: usize) {
        self.code.push(0xe9);
        self.calls.push((self.code.len(), target));
        self.imm32(0);
    }

    pub(super) fn call(&mut self, target: usize) {
        self.code.push(0xe8);
        self.calls.push((self.code.len(), target));
        self.imm32(0);
    }

    /// The distance to a mark that is near behind, from an instruction of two bytes.
    fn short(&self, mark: Mark) -> Option<i8> {
        let to = self.marks[mark.0 as usize];
        if to == NOWHERE {
            return None;
        }
        i8::try_from(to as i64 - (self.code.len() as i64 + 2)).ok()
    }

    pub(super) fn jump(&mut self, mark: Mark) {
        if let Some(near) = self.short(mark) {
            return self.code.extend([0xeb, near as u8]);
        }
        self.code.push(0xe9);
        self.jumps.push((self.code.len(), mark));
        self.imm32(0);
    }

    pub(super) fn jump_if(&mut self, cc: Cc, mark: Mark) {
        if let Some(near) = self.short(mark) {
            return self.code.extend([0x70 | cc as u8, near as u8]);
        }
        self.code.extend([0x0f, 0x80 | cc as u8]);
        self.jumps.push((self.code.len(), mark));
        self.imm32(0);
    }

    // Vectors. Memory operands of operations lie on multiples of 16 bytes.

    /// `x = 16 bytes`, anywhere.
    pub(super) fn vload(&mut self, x: Reg, m: At) {
        self.op(0xf3, false, 0, 0x0f6f, x.0, m.into());
    }

    /// `16 bytes = x`, anywhere.
    pub(super) fn vstore(&mut self, m: At, x: Reg) {
        self.op(0xf3, false, 0, 0x0f7f, x.0, m.into());
    }

    /// The same at a multiple of 16 bytes.
    pub(super) fn vload_aligned(&mut self, x: Reg, m: At) {
        self.op(0, false, 0, 0x0f28, x.0, m.into());
    }

    /// The same at a multiple of 16 bytes.
    pub(super) fn vstore_aligned(&mut self, m: At, x: Reg) {
        self.op(0, false, 0, 0x0f29, x.0, m.into());
    }

    pub(super) fn vmove(&mut self, x: Reg, y: Reg) {
        self.op(0, false, 0, 0x0f28, x.0, y.into());
    }

    /// `x = 4 or 8 bytes`, zeros above.
    pub(super) fn vload_low(&mut self, w: Width, x: Reg, m: At) {
        if w == Width::W64 {
            self.op(0xf3, false, 0, 0x0f7e, x.0, m.into());
        } else {
            self.op(0x66, false, 0, 0x0f6e, x.0, m.into());
        }
    }

    /// `4 or 8 bytes = x`, its low ones.
    pub(super) fn vstore_low(&mut self, w: Width, m: At, x: Reg) {
        let opcode = if w == Width::W64 { 0x0fd6 } else { 0x0f7e };
        self.op(0x66, false, 0, opcode, x.0, m.into());
    }

    /// A floating-point operation: the prefix says of what shape.
    pub(super) fn float(&mut self, prefix: u8, opcode: u8, x: Reg, y: Reg) {
        self.op(prefix, false, 0, 0x0f00 | u32::from(opcode), x.0, y.into());
    }

    /// The same with an immediate byte.
    pub(super) fn float_imm(&mut self, prefix: u8, opcode: u8, x: Reg, y: Reg, n: u8) {
        self.float(prefix, opcode, x, y);
        self.code.push(n);
    }

    /// From or to an integer of 32 or 64 bits.
    pub(super) fn float_int(&mut self, prefix: u8, opcode: u8, w: Width, r: Reg, rm: Rm) {
        self.op(prefix, w == Width::W64, 0, 0x0f00 | u32::from(opcode), r.0, rm);
    }

    /// An x87 instruction with a memory operand.
    pub(super) fn x87(&mut self, opcode: u8, extension: u8, m: At) {
        self.op(0, false, 0, opcode.into(), extension, m.into());
    }

    /// One without.
    pub(super) fn stack(&mut self, opcode: u8, modrm: u8) {
        self.code.extend([opcode, modrm]);
    }

    /// MXCSR = memory.
    pub(super) fn ldmxcsr(&mut self, m: At) {
        self.op(0, false, 0, 0x0fae, 2, m.into());
    }

    /// Memory = MXCSR.
    pub(super) fn stmxcsr(&mut self, m: At) {
        self.op(0, false, 0, 0x0fae, 3, m.into());
    }

    /// LAHF.
    pub(super) fn flags_to_ah(&mut self) {
        self.code.push(0x9f);
    }

    /// `x = x op rm` of the table of opcodes behind 66 0F.
    pub(super) fn vop(&mut self, opcode: u8, x: Reg, rm: impl Into<Rm>) {
        self.op(0x66, false, 0, 0x0f00 | u32::from(opcode), x.0, rm.into());
    }

    /// The same with an immediate byte.
    pub(super) fn vop_imm(&mut self, opcode: u8, x: Reg, rm: impl Into<Rm>, n: u8) {
        self.vop(opcode, x, rm);
        self.code.push(n);
    }

    /// `SHUFPS x, rm, n`.
    pub(super) fn shufps(&mut self, x: Reg, rm: impl Into<Rm>, n: u8) {
        self.op(0, false, 0, 0x0fc6, x.0, rm.into());
        self.code.push(n);
    }

    /// Shifts of the lanes by a constant: opcodes 71 to 73, with the extension.
    pub(super) fn vshift(&mut self, opcode: u8, extension: u8, x: Reg, n: u8) {
        self.op(0x66, false, 0, 0x0f00 | u32::from(opcode), extension, x.into());
        self.code.push(n);
    }
}

impl Asm {
    /// `rax` = the address `ahead` bytes behind this instruction.
    pub(super) fn lea_ahead(&mut self, ahead: i32) {
        self.code.extend([0x48, 0x8d, 0x05]);
        self.imm32(ahead);
    }

    /// Bytes that are not run, up to a length.
    pub(super) fn fill(&mut self, len: usize) {
        self.code.resize(len, 0xcc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Width::{W8, W16, W32, W64};
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    /// What another disassembler reads.
    fn read(emit: impl FnOnce(&mut Asm)) -> String {
        let mut a = Asm::default();
        emit(&mut a);
        let code = a.finish();
        let mut text = Vec::new();
        for insn in &mut Decoder::new(64, &code.bytes, DecoderOptions::NONE) {
            let mut s = String::new();
            IntelFormatter::new().format(&insn, &mut s);
            text.push(s);
        }
        text.join("; ")
    }

    #[test]
    fn places_in_memory_are_what_they_say() {
        let load = |m: At| read(|a| a.load(W64, RAX, m));
        assert_eq!(load(at(RCX, 0)), "mov rax,[rcx]");
        assert_eq!(load(at(RBP, 0)), "mov rax,[rbp]");
        assert_eq!(load(at(R13, 0)), "mov rax,[r13]");
        assert_eq!(load(at(RSP, 8)), "mov rax,[rsp+8]");
        assert_eq!(load(at(R12, -128)), "mov rax,[r12-80h]");
        assert_eq!(load(at(RDI, 128)), "mov rax,[rdi+80h]");
        assert_eq!(load(at2(R13, R12, 0)), "mov rax,[r13+r12]");
        assert_eq!(load(at2(R14, RCX, 24)), "mov rax,[r14+rcx+18h]");
        let scaled = At { base: Some(RBX), index: Some((R9, 3)), disp: -4 };
        assert_eq!(load(scaled), "mov rax,[rbx+r9*8-4]");
        let alone = At { base: None, index: Some((R8, 2)), disp: 0x1234 };
        assert_eq!(load(alone), "mov rax,[r8*4+1234h]");
        let fixed = At { base: None, index: None, disp: 0x1234 };
        assert_eq!(load(fixed), "mov rax,[1234h]");
    }

    #[test]
    fn widths_and_registers_are_what_they_say() {
        let all =
            |emit: &dyn Fn(&mut Asm, Width)| [W8, W16, W32, W64].map(|w| read(|a| emit(a, w)));
        assert_eq!(
            all(&|a, w| a.load(w, RDI, RSI)),
            ["movzx edi,sil", "movzx edi,si", "mov edi,esi", "mov rdi,rsi"]
        );
        assert_eq!(
            all(&|a, w| a.store(w, at(RBX, 0), RDI)),
            ["mov [rbx],dil", "mov [rbx],di", "mov [rbx],edi", "mov [rbx],rdi"]
        );
        assert_eq!(
            all(&|a, w| a.load_signed(w, true, R8, R9)),
            ["movsx r8,r9b", "movsx r8,r9w", "movsxd r8,r9d", "mov r8,r9"]
        );
        assert_eq!(
            all(&|a, w| a.alu(Alu::Cmp, w, RSI, at(R9, 4))),
            ["cmp sil,[r9+4]", "cmp si,[r9+4]", "cmp esi,[r9+4]", "cmp rsi,[r9+4]"]
        );
        assert_eq!(
            all(&|a, w| a.alu_imm(Alu::And, w, RDI, -4)),
            ["and dil,0FCh", "and di,0FFFCh", "and edi,0FFFFFFFCh", "and rdi,0FFFFFFFFFFFFFFFCh"]
        );
        assert_eq!(
            all(&|a, w| a.alu_imm(Alu::Sub, w, R10, 300)),
            ["sub r10b,2Ch", "sub r10w,12Ch", "sub r10d,12Ch", "sub r10,12Ch"]
        );
        assert_eq!(
            all(&|a, w| a.test_imm(w, at(RSP, 16), 0x40)),
            [
                "test byte ptr [rsp+10h],40h",
                "test word ptr [rsp+10h],40h",
                "test dword ptr [rsp+10h],40h",
                "test qword ptr [rsp+10h],40h"
            ]
        );
        assert_eq!(
            all(&|a, w| a.store_imm(w, at(R15, 0), -1)),
            [
                "mov byte ptr [r15],0FFh",
                "mov word ptr [r15],0FFFFh",
                "mov dword ptr [r15],0FFFFFFFFh",
                "mov qword ptr [r15],0FFFFFFFFFFFFFFFFh"
            ]
        );
        assert_eq!(
            all(&|a, w| a.shift_imm(Shift::Ror, w, RSI, 7)),
            ["ror sil,7", "ror si,7", "ror esi,7", "ror rsi,7"]
        );
        assert_eq!(
            all(&|a, w| a.group3(Group3::Div, w, R11)),
            ["div r11b", "div r11w", "div r11d", "div r11"]
        );
    }

    #[test]
    fn constants_take_the_form_they_fit() {
        let set = |n: u64| read(|a| a.set(R9, n));
        assert_eq!(set(0), "xor r9d,r9d");
        assert_eq!(set(0xffff_ffff), "mov r9d,0FFFFFFFFh");
        assert_eq!(set(u64::MAX), "mov r9,0FFFFFFFFFFFFFFFFh");
        assert_eq!(set(1 << 40), "mov r9,10000000000h");
        assert_eq!(read(|a| a.set_quiet(RBX, 0)), "mov ebx,0");
        let mut a = Asm::default();
        a.set_long(RCX, 0x1122_3344_5566_7788);
        // Stubs read it there.
        assert_eq!(a.finish().bytes[2..], 0x1122_3344_5566_7788u64.to_le_bytes());
    }

    #[test]
    fn other_instructions_are_what_they_say() {
        assert_eq!(read(|a| a.setcc(Cc::Be, RDI)), "setbe dil");
        assert_eq!(read(|a| a.cmov(Cc::G, W32, R8, at(RBP, -8))), "cmovg r8d,[rbp-8]");
        assert_eq!(read(|a| a.imul(W64, RAX, R13)), "imul rax,r13");
        assert_eq!(read(|a| a.lea(W32, RSI, at2(RBX, R10, 1))), "lea esi,[rbx+r10+1]");
        assert_eq!(read(|a| a.scan(true, W64, RAX, RAX)), "bsr rax,rax");
        assert_eq!(read(|a| a.popcnt(W32, RAX, R9)), "popcnt eax,r9d");
        assert_eq!(read(|a| a.bswap(W64, R8)), "bswap r8");
        assert_eq!(read(|a| a.push(R12)), "push r12");
        assert_eq!(read(|a| a.jump_reg(R11)), "jmp r11");
        assert_eq!(read(|a| a.vmove(Reg(9), Reg(1))), "movaps xmm9,xmm1");
        assert_eq!(read(|a| a.vload_aligned(Reg(9), at(RBP, 0))), "movaps xmm9,[rbp]");
        assert_eq!(read(|a| a.vstore_aligned(at(RBP, 0), Reg(9))), "movaps [rbp],xmm9");
        assert_eq!(read(|a| a.vload_low(W64, Reg(9), at(RBP, 0))), "movq xmm9,[rbp]");
        assert_eq!(read(|a| a.vload_low(W32, Reg(9), at(RBP, 0))), "movd xmm9,[rbp]");
        assert_eq!(read(|a| a.vstore_low(W64, at(RBP, 0), Reg(9))), "movq [rbp],xmm9");
        assert_eq!(read(|a| a.vstore_low(W32, at(RBP, 0), Reg(9))), "movd [rbp],xmm9");
        assert_eq!(read(|a| a.float(0xf2, 0x58, Reg(9), Reg(10))), "addsd xmm9,xmm10");
        assert_eq!(read(|a| a.float(0, 0x59, Reg(1), Reg(10))), "mulps xmm1,xmm10");
        assert_eq!(read(|a| a.float_imm(0x66, 0xc2, Reg(1), Reg(2), 2)), "cmplepd xmm1,xmm2");
        let int = |w, r| read(|a| a.float_int(0xf2, 0x2d, w, r, Reg(9).into()));
        assert_eq!((&*int(W64, R8), &*int(W32, RSI)), ("cvtsd2si r8,xmm9", "cvtsd2si esi,xmm9"));
        assert_eq!(read(|a| a.ldmxcsr(at(RSP, 8))), "ldmxcsr [rsp+8]");
        assert_eq!(read(|a| a.stmxcsr(at(RBP, 8))), "stmxcsr [rbp+8]");
        assert_eq!(read(Asm::flags_to_ah), "lahf");
        assert_eq!(read(|a| a.x87(0xdb, 5, at2(RBP, RCX, 8))), "fld st,tbyte ptr [rbp+rcx+8]");
        assert_eq!(read(|a| a.x87(0xd9, 5, at(R12, 8))), "fldcw [r12+8]");
        assert_eq!(read(|a| a.stack(0xde, 0xc2)), "faddp st(2),st");
        assert_eq!(read(|a| a.vload(Reg(1), at(RBP, 0x900))), "movdqu xmm1,[rbp+900h]");
        assert_eq!(read(|a| a.vop(0xef, Reg(0), at(RBP, 16))), "pxor xmm0,[rbp+10h]");
        assert_eq!(
            read(|a| a.vop_imm(0x70, Reg(0), at(RBP, 16), 0x4e)),
            "pshufd xmm0,[rbp+10h],4Eh"
        );
        assert_eq!(read(|a| a.shufps(Reg(0), at(RBP, 16), 1)), "shufps xmm0,[rbp+10h],1");
        assert_eq!(read(|a| a.vshift(0x72, 2, Reg(0), 5)), "psrld xmm0,5");
        assert_eq!(read(|a| a.alu_to(Alu::Add, W64, at(RBP, 8), RSI)), "add [rbp+8],rsi");
    }

    #[test]
    fn jumps_go_to_their_marks_and_calls_to_their_addresses() {
        let mut a = Asm::default();
        let (back, ahead) = (a.mark(), a.mark());
        a.here(back);
        a.jump_if(Cc::E, ahead);
        a.jump(back);
        a.here(ahead);
        a.call(0x2000);
        let mut code = a.finish();
        code.place(0x1000);
        let near = |n: usize| {
            Decoder::with_ip(64, &code.bytes[n..], 0x1000 + n as u64, 0)
                .decode()
                .near_branch_target()
        };
        assert_eq!((near(0), near(6), near(8)), (0x1008, 0x1000, 0x2000));
    }
}
