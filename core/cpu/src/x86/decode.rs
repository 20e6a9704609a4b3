//! Instruction decoding (SDM vol. 2A chapter 2): bytes in, one [`Insn`] out.

use super::insn::{CodeSize, Features, Id, Insn, Mem, Mode, NO_REG, Operand, RIP_REG, Rep};
use super::opcodes::{Arg, Map, Row, Traits, form, lookup, pp};
use super::state::seg;

/// Longest instruction (SDM vol. 2A section 2.3.11).
pub const MAX_LENGTH: u8 = 15;

/// Why bytes are not an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError<E> {
    /// The instruction's bytes could not be fetched.
    Fetch(E),
    /// Invalid opcode: #UD.
    Undefined,
    /// More than 15 bytes: #GP(0).
    TooLong,
}

/// Decodes the instruction that `fetch` hands out byte by byte.
pub fn decode<E>(
    mode: Mode,
    fetch: &mut dyn FnMut() -> Result<u8, E>,
) -> Result<Insn, DecodeError<E>> {
    Decoder { mode, fetch, len: 0, prefixes: Prefixes::default(), modrm: None, vvvv: 0 }.run()
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    opsize: bool,
    addrsize: bool,
    lock: bool,
    /// Last of F2 and F3, or 0.
    rep: u8,
    seg: Option<u8>,
    rex: u8,
}

const REX_W: u8 = 8;
const REX_R: u8 = 4;
const REX_X: u8 = 2;
const REX_B: u8 = 1;

struct Decoder<'a, E> {
    mode: Mode,
    fetch: &'a mut dyn FnMut() -> Result<u8, E>,
    len: u8,
    prefixes: Prefixes,
    modrm: Option<u8>,
    vvvv: u8,
}

type Decoded<T, E> = Result<T, DecodeError<E>>;

impl<E> Decoder<'_, E> {
    fn byte(&mut self) -> Decoded<u8, E> {
        if self.len == MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        let byte = (self.fetch)().map_err(DecodeError::Fetch)?;
        self.len += 1;
        Ok(byte)
    }

    fn unsigned(&mut self, size: u8) -> Decoded<u64, E> {
        let mut value = 0;
        for i in 0..size {
            value |= u64::from(self.byte()?) << (8 * i);
        }
        Ok(value)
    }

    fn signed(&mut self, size: u8) -> Decoded<i64, E> {
        let shift = 64 - 8 * u32::from(size);
        Ok((self.unsigned(size)? << shift) as i64 >> shift)
    }

    fn modrm(&mut self) -> Decoded<u8, E> {
        match self.modrm {
            Some(m) => Ok(m),
            None => {
                let m = self.byte()?;
                self.modrm = Some(m);
                Ok(m)
            }
        }
    }

    fn run(mut self) -> Decoded<Insn, E> {
        let (map, opcode) = self.opcode()?;
        let rows = lookup(map, opcode);
        if rows.is_empty() {
            return Err(DecodeError::Undefined);
        }
        let modrm = if rows.iter().any(needs_modrm) { self.modrm()? } else { 0 };
        let row = self.select(rows, modrm).ok_or(DecodeError::Undefined)?;
        self.operands(row, opcode, modrm)
    }

    /// Prefixes, escape bytes and VEX: everything up to the opcode byte.
    fn opcode(&mut self) -> Decoded<(Map, u8), E> {
        let long = self.mode.long();
        let first = loop {
            let byte = self.byte()?;
            let p = &mut self.prefixes;
            match byte {
                0x66 => p.opsize = true,
                0x67 => p.addrsize = true,
                0xf0 => p.lock = true,
                0xf2 | 0xf3 => p.rep = byte,
                0x26 | 0x2e | 0x36 | 0x3e => {
                    if !long {
                        p.seg = Some(byte >> 3 & 3);
                    }
                }
                0x64 => p.seg = Some(seg::FS as u8),
                0x65 => p.seg = Some(seg::GS as u8),
                0x40..=0x4f if long => {
                    p.rex = byte;
                    continue;
                }
                _ => break byte,
            }
            // A REX prefix counts only directly before the opcode.
            p.rex = 0;
        };
        if first == 0xc4 || first == 0xc5 {
            let vex = if long { true } else { self.modrm()? >= 0xc0 && self.mode.protected };
            if vex {
                return self.vex(first);
            }
        }
        if first != 0x0f {
            return Ok((Map::M1, first));
        }
        match self.byte()? {
            0x38 => Ok((Map::M38, self.byte()?)),
            0x3a => Ok((Map::M3A, self.byte()?)),
            second => Ok((Map::M2, second)),
        }
    }

    /// The bytes of a VEX prefix after C4 or C5 (SDM vol. 2A section 2.3.5).
    fn vex(&mut self, first: u8) -> Decoded<(Map, u8), E> {
        let long = self.mode.long();
        let p = self.prefixes;
        let byte1 = match self.modrm.take() {
            Some(b) => b,
            None => self.byte()?,
        };
        let (bits, map, last) = if first == 0xc5 {
            (byte1 & 0x80 | 0x60, 1, byte1 & 0x7f)
        } else {
            (byte1 & 0xe0, byte1 & 31, self.byte()?)
        };
        if p.lock || p.opsize || p.rep != 0 || p.rex != 0 {
            return Err(DecodeError::Undefined);
        }
        let mut rex = !bits >> 5 & 7;
        if !long {
            rex = 0;
        }
        if last & 0x80 != 0 {
            rex |= REX_W;
        }
        self.prefixes.rex = 0x40 | rex;
        self.vvvv = !last >> 3 & 15;
        match last & 3 {
            1 => self.prefixes.opsize = true,
            2 => self.prefixes.rep = 0xf3,
            3 => self.prefixes.rep = 0xf2,
            _ => {}
        }
        let map = match map {
            2 => Map::V38,
            3 => Map::V3A,
            _ => return Err(DecodeError::Undefined),
        };
        // VEX.L is 0 in every instruction that is here.
        if last & 4 != 0 {
            return Err(DecodeError::Undefined);
        }
        Ok((map, self.byte()?))
    }

    fn select(&self, rows: &'static [Row], modrm: u8) -> Option<&'static Row> {
        let mandatory = match (self.prefixes.rep, self.prefixes.opsize) {
            (0xf3, _) => pp::F3,
            (0xf2, _) => pp::F2,
            (_, true) => pp::P66,
            _ => pp::NP,
        };
        let long = self.mode.long();
        rows.iter().find(|row| {
            row.prefix & mandatory != 0
                && (row.reg == 8 || row.reg == modrm >> 3 & 7)
                && match row.form {
                    form::ANY => true,
                    form::MEM => modrm < 0xc0,
                    form::REG => modrm >= 0xc0,
                    rm => modrm >= 0xc0 && modrm & 7 == rm,
                }
                && (!long || !row.traits.has(Traits::I64))
                && (long || !row.traits.has(Traits::O64))
                && (self.mode.protected || !row.traits.has(Traits::PM))
                && self.mode.features.contains(row.traits.features)
        })
    }

    fn operands(&mut self, row: &Row, opcode: u8, modrm: u8) -> Decoded<Insn, E> {
        let long = self.mode.long();
        let p = self.prefixes;
        let wide = p.rex & REX_W != 0;
        let opsize = if long && row.traits.has(Traits::F64) {
            8
        } else if long && row.traits.has(Traits::D64) {
            if p.opsize && !wide { 2 } else { 8 }
        } else if wide {
            8
        } else if (self.mode.code == CodeSize::Bits16) == p.opsize {
            4
        } else {
            2
        };
        let addrsize = match (self.mode.code, p.addrsize) {
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => 2,
            (CodeSize::Bits64, false) => 8,
            _ => 4,
        };
        let seg = p.seg.unwrap_or(seg::DS as u8);
        let mut insn = Insn {
            id: row.id,
            len: 0,
            opsize,
            addrsize,
            rep: Rep::None,
            lock: p.lock,
            wide,
            aligned: !row.traits.has(Traits::UNA),
            opcode,
            modrm,
            seg,
            count: 0,
            ops: [Operand::Imm2; 4],
            mem: Mem { seg, base: NO_REG, index: NO_REG, scale: 0, disp: 0 },
            imm: 0,
            imm2: 0,
        };
        if row.prefix & (pp::F2 | pp::F3) == pp::F2 | pp::F3 {
            insn.rep = match p.rep {
                0xf3 => Rep::Rep,
                0xf2 => Rep::Repne,
                _ => Rep::None,
            };
        }
        if modrm < 0xc0 && row.args.iter().any(|a| may_be_memory(*a)) {
            self.memory(&mut insn, modrm)?;
        }
        if opcode == 0x90 && matches!(row.id, Id::NOP | Id::PAUSE) && p.rex & REX_B != 0 {
            insn.id = Id::XCHG;
            insn.ops =
                [Operand::Gpr(8, opsize), Operand::Gpr(0, opsize), Operand::Imm2, Operand::Imm2];
            insn.count = 2;
        }
        for &arg in row.args {
            let operand = self.operand(&mut insn, arg)?;
            insn.ops[usize::from(insn.count)] = operand;
            insn.count += 1;
        }
        self.check(&insn, row)?;
        insn.len = self.len;
        Ok(insn)
    }

    /// What is invalid besides unknown opcodes.
    fn check(&self, insn: &Insn, row: &Row) -> Decoded<(), E> {
        let lockable = row.traits.has(Traits::LOCK) && matches!(insn.ops[0], Operand::Mem(_));
        // VEX.vvvv must be all ones (here 0) where it names no operand.
        let stray = self.vvvv != 0 && !row.args.contains(&Arg::By);
        let bad = insn.lock && !lockable
            || stray
            || match insn.id {
                Id::MOV => match (insn.ops[0], insn.ops[1]) {
                    (Operand::Seg(s), _) => s > 5 || usize::from(s) == seg::CS,
                    (_, Operand::Seg(s)) => s > 5,
                    (Operand::Cr(c), _) | (_, Operand::Cr(c)) => {
                        !(matches!(c, 0 | 2 | 3 | 4) || c == 8 && self.mode.long())
                    }
                    (Operand::Dr(d), _) | (_, Operand::Dr(d)) => d > 7,
                    _ => false,
                },
                Id::CMPXCHG8B => insn.wide && !self.mode.features.contains(Features::CX16),
                _ => false,
            };
        if bad { Err(DecodeError::Undefined) } else { Ok(()) }
    }

    /// ModRM, SIB and displacement (SDM vol. 2A tables 2-1 to 2-3).
    fn memory(&mut self, insn: &mut Insn, modrm: u8) -> Decoded<(), E> {
        let (md, rm) = (modrm >> 6, modrm & 7);
        let rex = self.prefixes.rex;
        let mem = &mut insn.mem;
        if insn.addrsize == 2 {
            const BX: u8 = 3;
            const BP: u8 = 5;
            const SI: u8 = 6;
            const DI: u8 = 7;
            (mem.base, mem.index) = match rm {
                0 => (BX, SI),
                1 => (BX, DI),
                2 => (BP, SI),
                3 => (BP, DI),
                4 => (SI, NO_REG),
                5 => (DI, NO_REG),
                6 if md == 0 => (NO_REG, NO_REG),
                6 => (BP, NO_REG),
                _ => (BX, NO_REG),
            };
            mem.disp = match md {
                0 if rm == 6 => self.signed(2)?,
                0 => 0,
                1 => self.signed(1)?,
                _ => self.signed(2)?,
            };
        } else {
            mem.base = rm | (rex & REX_B) << 3;
            let mut no_base = md == 0 && rm == 5;
            if rm == 4 {
                let sib = self.byte()?;
                mem.base = sib & 7 | (rex & REX_B) << 3;
                let index = sib >> 3 & 7 | (rex & REX_X) << 2;
                if index != 4 {
                    mem.index = index;
                    mem.scale = sib >> 6;
                }
                no_base = md == 0 && sib & 7 == 5;
            }
            if no_base {
                mem.base = if rm == 5 && self.mode.long() { RIP_REG } else { NO_REG };
            }
            mem.disp = match md {
                0 if no_base => self.signed(4)?,
                0 => 0,
                1 => self.signed(1)?,
                _ => self.signed(4)?,
            };
        }
        // Through BP and SP the default is the stack segment.
        if self.prefixes.seg.is_none() && matches!(mem.base, 4 | 5) {
            mem.seg = seg::SS as u8;
        }
        Ok(())
    }

    fn operand(&mut self, insn: &mut Insn, arg: Arg) -> Decoded<Operand, E> {
        let rex = self.prefixes.rex;
        let opsize = insn.opsize;
        let natural = if self.mode.long() { 8 } else { 4 };
        let y = if insn.wide && self.mode.long() { 8 } else { 4 };
        let in_memory = insn.modrm < 0xc0;
        let reg = insn.modrm >> 3 & 7 | (rex & REX_R) << 1;
        let rm = insn.modrm & 7 | (rex & REX_B) << 3;
        let low = insn.opcode & 7 | (rex & REX_B) << 3;
        let byte_reg = |n: u8| {
            if rex == 0 && (4..8).contains(&n) { Operand::High(n - 4) } else { Operand::Gpr(n, 1) }
        };
        let e = |size: u8| if in_memory { Operand::Mem(size) } else { Operand::Gpr(rm, size) };
        let either = |reg: Operand, size: u8| if in_memory { Operand::Mem(size) } else { reg };
        let z = opsize.min(4);
        Ok(match arg {
            Arg::Eb => either(byte_reg(rm), 1),
            Arg::Ew => e(2),
            // MOVSXD with a 16-bit destination reads 16 bits.
            Arg::Ed => e(if insn.id == Id::MOVSXD { z } else { 4 }),
            Arg::Ev => e(opsize),
            Arg::Ey => e(y),
            Arg::Gb => byte_reg(reg),
            Arg::Gw => Operand::Gpr(reg, 2),
            Arg::Gv => Operand::Gpr(reg, opsize),
            Arg::Gy => Operand::Gpr(reg, y),
            Arg::Gz => Operand::Gpr(reg, z),
            Arg::Gr => Operand::Gpr(reg, natural),
            Arg::Rv => Operand::Gpr(rm, opsize),
            Arg::Ry => Operand::Gpr(rm, y),
            Arg::Rr => Operand::Gpr(rm, natural),
            Arg::RvMw => either(Operand::Gpr(rm, opsize), 2),
            Arg::RyMb => either(Operand::Gpr(rm, y), 1),
            Arg::RyMw => either(Operand::Gpr(rm, y), 2),
            Arg::By => Operand::Gpr(self.vvvv & if natural == 8 { 15 } else { 7 }, y),
            Arg::Zb => byte_reg(low),
            Arg::Zv => Operand::Gpr(low, opsize),
            Arg::AL => Operand::Gpr(0, 1),
            Arg::AX => Operand::Gpr(0, 2),
            Arg::eAX => Operand::Gpr(0, z),
            Arg::rAX => Operand::Gpr(0, opsize),
            Arg::CL => Operand::Gpr(1, 1),
            Arg::DX => Operand::Gpr(2, 2),
            Arg::One => {
                insn.imm = 1;
                Operand::Imm(1)
            }
            Arg::Ib => {
                insn.imm = self.unsigned(1)?;
                Operand::Imm(1)
            }
            Arg::Ib2 => {
                insn.imm2 = u16::from(self.byte()?);
                Operand::Imm2
            }
            Arg::Ibs => {
                insn.imm = self.signed(1)? as u64 & mask(opsize);
                Operand::Imm(opsize)
            }
            Arg::Iw => {
                insn.imm = self.unsigned(2)?;
                Operand::Imm(2)
            }
            Arg::Iz => {
                insn.imm = self.signed(z)? as u64 & mask(opsize);
                Operand::Imm(opsize)
            }
            Arg::Iv => {
                insn.imm = self.unsigned(opsize)?;
                Operand::Imm(opsize)
            }
            Arg::Jb => {
                insn.imm = self.signed(1)? as u64;
                Operand::Rel
            }
            Arg::Jz => {
                insn.imm = self.signed(z)? as u64;
                Operand::Rel
            }
            Arg::Ap => {
                insn.imm = self.unsigned(opsize)?;
                insn.imm2 = self.unsigned(2)? as u16;
                Operand::Far
            }
            Arg::Ob | Arg::Ov => {
                insn.mem.disp = self.unsigned(insn.addrsize)? as i64;
                Operand::Mem(if arg == Arg::Ob { 1 } else { opsize })
            }
            Arg::M => Operand::Mem(0),
            Arg::Mw => Operand::Mem(2),
            Arg::Md => Operand::Mem(4),
            Arg::Mq => Operand::Mem(if insn.id == Id::CMPXCHG8B && insn.wide { 16 } else { 8 }),
            Arg::Mdq => Operand::Mem(16),
            Arg::M80 => Operand::Mem(10),
            Arg::Mp => Operand::Mem(opsize + 2),
            Arg::Ma => Operand::Mem(opsize * 2),
            Arg::Sw => Operand::Seg(insn.modrm >> 3 & 7),
            Arg::Cd => Operand::Cr(reg),
            Arg::Dd => Operand::Dr(reg),
            Arg::ES => Operand::Seg(seg::ES as u8),
            Arg::CS => Operand::Seg(seg::CS as u8),
            Arg::SS => Operand::Seg(seg::SS as u8),
            Arg::DS => Operand::Seg(seg::DS as u8),
            Arg::FS => Operand::Seg(seg::FS as u8),
            Arg::GS => Operand::Seg(seg::GS as u8),
            Arg::Xb => Operand::Src(1),
            Arg::Xv => Operand::Src(opsize),
            Arg::Xz => Operand::Src(z),
            Arg::Yb => Operand::Dst(1),
            Arg::Yv => Operand::Dst(opsize),
            Arg::Yz => Operand::Dst(z),
            Arg::ST => Operand::St(0),
            Arg::STi => Operand::St(insn.modrm & 7),
            Arg::P => Operand::Mm(reg & 7),
            Arg::Q => either(Operand::Mm(rm & 7), 8),
            Arg::Qd => either(Operand::Mm(rm & 7), 4),
            Arg::N => Operand::Mm(rm & 7),
            Arg::V => Operand::Xmm(reg),
            Arg::W => either(Operand::Xmm(rm), 16),
            Arg::W64 => either(Operand::Xmm(rm), 8),
            Arg::W32 => either(Operand::Xmm(rm), 4),
            Arg::W16 => either(Operand::Xmm(rm), 2),
            Arg::U => Operand::Xmm(rm),
        })
    }
}

fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size))
}

fn needs_modrm(row: &Row) -> bool {
    row.reg != 8 || row.form != form::ANY || row.args.iter().any(|a| uses_modrm(*a))
}

/// The operand is in ModRM.rm and may be in memory.
fn may_be_memory(arg: Arg) -> bool {
    use Arg::*;
    matches!(
        arg,
        Eb | Ew
            | Ed
            | Ev
            | Ey
            | RvMw
            | RyMb
            | RyMw
            | M
            | Mw
            | Md
            | Mq
            | Mdq
            | M80
            | Mp
            | Ma
            | Q
            | Qd
            | W
            | W64
            | W32
            | W16
    )
}

fn uses_modrm(arg: Arg) -> bool {
    use Arg::*;
    may_be_memory(arg)
        || matches!(
            arg,
            Gb | Gw | Gv | Gy | Gz | Gr | Rv | Ry | Rr | Sw | Cd | Dd | STi | P | N | V | U
        )
}
