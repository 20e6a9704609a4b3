//! The opcode maps, written as the manual prints them (SDM vol. 2D appendix A).
//!
//! One row is one encoding. The decoder looks rows up by map and opcode byte, the disassembler
//! and the lifter take the instruction and its operands from the decoded row.

mod one_byte;
mod simd;
mod two_byte;
mod x87;

use super::insn::{Features, Id};

/// An operand as the opcode map names it.
#[expect(non_camel_case_types, reason = "operands as the manual spells them")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// Byte general register or memory by ModRM.rm.
    Eb,
    /// Word register or memory by ModRM.rm.
    Ew,
    /// Doubleword register or memory by ModRM.rm.
    Ed,
    /// Register or memory of operand size by ModRM.rm.
    Ev,
    /// Doubleword, or quadword with REX.W, register or memory by ModRM.rm.
    Ey,
    /// Byte register by ModRM.reg.
    Gb,
    /// Word register by ModRM.reg.
    Gw,
    /// Register of operand size by ModRM.reg.
    Gv,
    /// Doubleword, or quadword with REX.W, register by ModRM.reg.
    Gy,
    /// Word or doubleword register by ModRM.reg.
    Gz,
    /// Register of the mode's width (32 or 64 bits) by ModRM.reg.
    Gr,
    /// Register of operand size by ModRM.rm.
    Rv,
    /// Doubleword, or quadword with REX.W, register by ModRM.rm.
    Ry,
    /// Register of the mode's width (32 or 64 bits) by ModRM.rm, whatever ModRM.mod says.
    Rr,
    /// Register of operand size or word in memory.
    RvMw,
    /// Doubleword or quadword register, or byte in memory.
    RyMb,
    /// Doubleword or quadword register, or word in memory.
    RyMw,
    /// General register by VEX.vvvv.
    By,
    /// Byte register by the opcode's low three bits.
    Zb,
    /// Register of operand size by the opcode's low three bits.
    Zv,
    /// AL.
    AL,
    /// AX.
    AX,
    /// AX or EAX.
    eAX,
    /// AX, EAX or RAX by operand size.
    rAX,
    /// CL.
    CL,
    /// DX.
    DX,
    /// Constant 1.
    One,
    /// Byte immediate.
    Ib,
    /// Second byte immediate (ENTER).
    Ib2,
    /// Byte immediate, sign-extended to operand size.
    Ibs,
    /// Word immediate.
    Iw,
    /// Word or doubleword immediate, sign-extended to operand size.
    Iz,
    /// Immediate of operand size.
    Iv,
    /// Byte displacement from the next instruction.
    Jb,
    /// Word or doubleword displacement from the next instruction.
    Jz,
    /// Far pointer in the instruction.
    Ap,
    /// Byte at an offset in the instruction.
    Ob,
    /// Operand at an offset in the instruction.
    Ov,
    /// Memory, only its address or a size of the instruction's own.
    M,
    /// 16-bit memory operand.
    Mw,
    /// 32-bit memory operand.
    Md,
    /// 64-bit memory operand.
    Mq,
    /// 128-bit memory operand.
    Mdq,
    /// 80-bit memory operand.
    M80,
    /// Far pointer in memory.
    Mp,
    /// Pair of bounds in memory.
    Ma,
    /// Segment register by ModRM.reg.
    Sw,
    /// Control register by ModRM.reg.
    Cd,
    /// Debug register by ModRM.reg.
    Dd,
    /// ES.
    ES,
    /// CS.
    CS,
    /// SS.
    SS,
    /// DS.
    DS,
    /// FS.
    FS,
    /// GS.
    GS,
    /// Byte at DS:SI.
    Xb,
    /// Operand at DS:SI.
    Xv,
    /// Word or doubleword at DS:SI.
    Xz,
    /// Byte at ES:DI.
    Yb,
    /// Operand at ES:DI.
    Yv,
    /// Word or doubleword at ES:DI.
    Yz,
    /// ST(0).
    ST,
    /// ST(i) by ModRM.rm.
    STi,
    /// MMX register by ModRM.reg.
    P,
    /// MMX register or 64-bit memory by ModRM.rm.
    Q,
    /// MMX register or 32-bit memory by ModRM.rm.
    Qd,
    /// MMX register by ModRM.rm.
    N,
    /// XMM register by ModRM.reg.
    V,
    /// XMM register or 128-bit memory by ModRM.rm.
    W,
    /// XMM register or 64-bit memory by ModRM.rm.
    W64,
    /// XMM register or 32-bit memory by ModRM.rm.
    W32,
    /// XMM register or 16-bit memory by ModRM.rm.
    W16,
    /// XMM register by ModRM.rm.
    U,
}

/// The opcode maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// One-byte opcodes.
    M1,
    /// 0F.
    M2,
    /// 0F 38.
    M38,
    /// 0F 3A.
    M3A,
    /// VEX, map 2.
    V38,
    /// VEX, map 3.
    V3A,
}

const MAPS: usize = 6;

/// What an encoding needs besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) flags: u8,
    pub(super) features: Features,
}

impl Traits {
    /// LOCK is allowed when the first operand is in memory.
    pub(super) const LOCK: Self = Self::flag(1);
    /// Not in 64-bit mode.
    pub(super) const I64: Self = Self::flag(2);
    /// Only in 64-bit mode.
    pub(super) const O64: Self = Self::flag(4);
    /// In 64-bit mode the operand size is 64 bits, or 16 with a prefix.
    pub(super) const D64: Self = Self::flag(8);
    /// In 64-bit mode the operand size is 64 bits whatever the prefixes say.
    pub(super) const F64: Self = Self::flag(16);
    /// Only in protected mode.
    pub(super) const PM: Self = Self::flag(32);
    /// Its 128-bit memory operand need not be aligned.
    pub(super) const UNA: Self = Self::flag(64);

    pub(super) const I486: Self = Self::needs(Features::I486);
    pub(super) const CPUID: Self = Self::needs(Features::CPUID);
    pub(super) const TSC: Self = Self::needs(Features::TSC);
    pub(super) const MSR: Self = Self::needs(Features::MSR);
    pub(super) const CX8: Self = Self::needs(Features::CX8);
    pub(super) const SEP: Self = Self::needs(Features::SEP);
    pub(super) const CMOV: Self = Self::needs(Features::CMOV);
    pub(super) const CLFSH: Self = Self::needs(Features::CLFSH);
    pub(super) const CLFLUSHOPT: Self = Self::needs(Features::CLFLUSHOPT);
    pub(super) const CLWB: Self = Self::needs(Features::CLWB);
    pub(super) const MMX: Self = Self::needs(Features::MMX);
    pub(super) const FXSR: Self = Self::needs(Features::FXSR);
    pub(super) const SSE: Self = Self::needs(Features::SSE);
    pub(super) const SSE2: Self = Self::needs(Features::SSE2);
    pub(super) const SSE3: Self = Self::needs(Features::SSE3);
    pub(super) const SSSE3: Self = Self::needs(Features::SSSE3);
    pub(super) const SSE41: Self = Self::needs(Features::SSE41);
    pub(super) const SSE42: Self = Self::needs(Features::SSE42);
    pub(super) const AES: Self = Self::needs(Features::AES);
    pub(super) const PCLMULQDQ: Self = Self::needs(Features::PCLMULQDQ);
    pub(super) const MONITOR: Self = Self::needs(Features::MONITOR);
    pub(super) const MOVBE: Self = Self::needs(Features::MOVBE);
    pub(super) const POPCNT: Self = Self::needs(Features::POPCNT);
    pub(super) const LZCNT: Self = Self::needs(Features::LZCNT);
    pub(super) const BMI1: Self = Self::needs(Features::BMI1);
    pub(super) const BMI2: Self = Self::needs(Features::BMI2);
    pub(super) const ADX: Self = Self::needs(Features::ADX);
    pub(super) const RDRAND: Self = Self::needs(Features::RDRAND);
    pub(super) const RDSEED: Self = Self::needs(Features::RDSEED);
    pub(super) const RDTSCP: Self = Self::needs(Features::RDTSCP);
    pub(super) const RDPID: Self = Self::needs(Features::RDPID);
    pub(super) const SYSCALL: Self = Self::needs(Features::SYSCALL);
    pub(super) const LAHF64: Self = Self::needs(Features::LAHF64);
    pub(super) const FSGSBASE: Self = Self::needs(Features::FSGSBASE);
    pub(super) const SMAP: Self = Self::needs(Features::SMAP);
    pub(super) const INVPCID: Self = Self::needs(Features::INVPCID);
    pub(super) const PREFETCHW: Self = Self::needs(Features::PREFETCHW);
    pub(super) const XSAVE: Self = Self::needs(Features::XSAVE);

    const NONE: Self = Self::flag(0);

    const fn flag(flags: u8) -> Self {
        Self { flags, features: Features::empty() }
    }

    const fn needs(features: Features) -> Self {
        Self { flags: 0, features }
    }

    const fn and(self, other: Self) -> Self {
        Self { flags: self.flags | other.flags, features: self.features.union(other.features) }
    }

    pub(super) const fn has(self, other: Self) -> bool {
        self.flags & other.flags != 0
    }
}

/// Mandatory prefixes a row accepts, as bits.
pub(super) mod pp {
    pub(in super::super) const NP: u8 = 1;
    pub(in super::super) const P66: u8 = 2;
    pub(in super::super) const F3: u8 = 4;
    pub(in super::super) const F2: u8 = 8;
}

/// Forms of ModRM a row accepts.
pub(super) mod form {
    pub(in super::super) const ANY: u8 = 0x80;
    pub(in super::super) const MEM: u8 = 0x81;
    pub(in super::super) const REG: u8 = 0x82;
}

/// One encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Accepted mandatory prefixes, a set of [`pp`] bits.
    pub(super) prefix: u8,
    pub(super) map: Map,
    pub(super) opcode: u8,
    /// ModRM.reg, or 8 for any.
    pub(super) reg: u8,
    /// One of [`form`], or ModRM.rm of the only register form.
    pub(super) form: u8,
    pub(super) id: Id,
    pub(super) args: &'static [Arg],
    pub(super) traits: Traits,
}

macro_rules! row_prefix {
    (_) => {
        15
    };
    (NPO) => {
        $crate::x86::opcodes::pp::NP | $crate::x86::opcodes::pp::P66
    };
    ($p:ident) => {
        $crate::x86::opcodes::pp::$p
    };
}

macro_rules! row_reg {
    (_) => {
        8
    };
    ($r:literal) => {
        $r
    };
}

macro_rules! row_form {
    (_) => {
        $crate::x86::opcodes::form::ANY
    };
    (mem) => {
        $crate::x86::opcodes::form::MEM
    };
    (reg) => {
        $crate::x86::opcodes::form::REG
    };
    (rm0) => {
        0
    };
    (rm1) => {
        1
    };
    (rm2) => {
        2
    };
    (rm3) => {
        3
    };
    (rm4) => {
        4
    };
    (rm5) => {
        5
    };
    (rm6) => {
        6
    };
    (rm7) => {
        7
    };
}

macro_rules! rows {
    ($($pp:tt $map:ident $op:literal $reg:tt $form:tt $id:ident ($($arg:ident)*) $($trait:ident)*;)*) => {
        &[$($crate::x86::opcodes::Row {
            prefix: $crate::x86::opcodes::row_prefix!($pp),
            map: $crate::x86::opcodes::Map::$map,
            opcode: $op,
            reg: $crate::x86::opcodes::row_reg!($reg),
            form: $crate::x86::opcodes::row_form!($form),
            id: $crate::x86::insn::Id::$id,
            args: &[$($crate::x86::opcodes::Arg::$arg),*],
            traits: $crate::x86::opcodes::Traits::NONE
                $(.and($crate::x86::opcodes::Traits::$trait))*,
        }),*]
    };
}
use {row_form, row_prefix, row_reg, rows};

const TABLES: [&[Row]; 4] = [one_byte::ROWS, two_byte::ROWS, x87::ROWS, simd::ROWS];

const COUNT: usize = {
    let mut n = 0;
    let mut t = 0;
    while t < TABLES.len() {
        n += TABLES[t].len();
        t += 1;
    }
    n
};

const KEYS: usize = MAPS * 256;

/// All rows ordered by map and opcode, and where each opcode's rows start.
struct Index {
    rows: [Row; COUNT],
    start: [u16; KEYS + 1],
}

static INDEX: Index = {
    let mut start = [0u16; KEYS + 1];
    let mut rows = [TABLES[0][0]; COUNT];
    let mut t = 0;
    while t < TABLES.len() {
        let mut i = 0;
        while i < TABLES[t].len() {
            let row = &TABLES[t][i];
            start[row.map as usize * 256 + row.opcode as usize + 1] += 1;
            i += 1;
        }
        t += 1;
    }
    let mut k = 0;
    while k < KEYS {
        start[k + 1] += start[k];
        k += 1;
    }
    let mut next = start;
    let mut t = 0;
    while t < TABLES.len() {
        let mut i = 0;
        while i < TABLES[t].len() {
            let row = TABLES[t][i];
            let key = row.map as usize * 256 + row.opcode as usize;
            rows[next[key] as usize] = row;
            next[key] += 1;
            i += 1;
        }
        t += 1;
    }
    Index { rows, start }
};

/// The encodings of one opcode byte, in table order.
pub(super) fn lookup(map: Map, opcode: u8) -> &'static [Row] {
    let key = map as usize * 256 + usize::from(opcode);
    &INDEX.rows[usize::from(INDEX.start[key])..usize::from(INDEX.start[key + 1])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_under_its_opcode() {
        let mut n = 0;
        for table in TABLES {
            for row in table {
                assert!(lookup(row.map, row.opcode).iter().any(|r| r.id == row.id));
                n += 1;
            }
        }
        assert_eq!(n, COUNT);
    }

    #[test]
    fn no_two_rows_claim_the_same_encoding() {
        for table in TABLES {
            for a in table {
                let same = lookup(a.map, a.opcode).iter().filter(|b| {
                    a.prefix == b.prefix
                        && a.reg == b.reg
                        && a.form == b.form
                        && a.traits == b.traits
                });
                assert_eq!(same.count(), 1, "{a:?}");
            }
        }
    }
}
