//! Random instructions that may run on the processor of the tests, with operands for them.

use super::host::{Context, DATA, DATA_LEN};
use orrery_cpu::x86::decode::decode;
use orrery_cpu::x86::insn::{CodeSize, Features, Id, Insn, Mode, NO_REG, Operand, RIP_REG, Rep};
use orrery_cpu::x86::state::flag;

/// Numbers that look random.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A value with the edges more often than chance would have them.
    fn value(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
            u64::MAX - 1,
        ];
        match self.below(8) {
            0..2 => EDGES[self.below(16) as usize],
            2 => self.next() & 0xff,
            3 => self.next() >> self.below(64),
            4 => ((self.next() as i64) >> self.below(64)) as u64,
            _ => self.next(),
        }
    }
}

/// An instruction to run.
pub(crate) struct Case {
    pub(crate) bytes: Vec<u8>,
    pub(crate) insn: Insn,
}

/// One-byte opcodes that user code may execute in 64-bit mode without leaving the straight line.
const ONE: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x10, 0x11, 0x12, 0x13,
    0x14, 0x15, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x28, 0x29,
    0x2a, 0x2b, 0x2c, 0x2d, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d,
    0x63, 0x69, 0x6b, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x90,
    0x91, 0x97, 0x98, 0x99, 0x9e, 0x9f, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad,
    0xae, 0xaf, 0xb0, 0xb7, 0xb8, 0xbf, 0xc0, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xd7, 0xf5,
    0xf6, 0xf7, 0xf8, 0xf9, 0xfc, 0xfd, 0xfe, 0xff,
];

/// Two-byte opcodes of the same kind.
const TWO: &[u8] = &[
    0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f,
    0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f,
    0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xb8, 0xba, 0xbb, 0xbc,
    0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc7, 0xc8, 0xc9, 0xcf,
];

/// What this processor has of what is compared.
fn features() -> Features {
    let mut f = Features::I486
        | Features::CX8
        | Features::CMOV
        | Features::SSE
        | Features::SSE2
        | Features::LAHF64
        | Features::CX16;
    let mut add = |there: bool, feature: Features| {
        if there {
            f |= feature;
        }
    };
    add(is_x86_feature_detected!("popcnt"), Features::POPCNT);
    add(is_x86_feature_detected!("lzcnt"), Features::LZCNT);
    add(is_x86_feature_detected!("bmi1"), Features::BMI1);
    add(is_x86_feature_detected!("bmi2"), Features::BMI2);
    add(is_x86_feature_detected!("adx"), Features::ADX);
    add(is_x86_feature_detected!("movbe"), Features::MOVBE);
    add(is_x86_feature_detected!("sse3"), Features::SSE3);
    add(is_x86_feature_detected!("ssse3"), Features::SSSE3);
    add(is_x86_feature_detected!("sse4.1"), Features::SSE41);
    add(is_x86_feature_detected!("sse4.2"), Features::SSE42);
    add(is_x86_feature_detected!("aes"), Features::AES);
    add(is_x86_feature_detected!("pclmulqdq"), Features::PCLMULQDQ);
    f
}

impl Case {
    /// An instruction, if these random bytes are one that can be compared.
    pub(crate) fn random(rng: &mut Rng, vectors: bool) -> Option<Self> {
        let mut bytes = Vec::new();
        if vectors {
            Self::vector_bytes(rng, &mut bytes);
        } else {
            Self::integer_bytes(rng, &mut bytes);
        }
        for _ in 0..20 {
            bytes.push(rng.next() as u8);
        }
        let mode = Mode { code: CodeSize::Bits64, protected: true, features: features() };
        let mut at = bytes.iter().copied();
        let insn = decode(mode, &mut || at.next().ok_or(())).ok()?;
        bytes.truncate(insn.len.into());
        let case = Self { bytes, insn };
        case.allowed(vectors).then_some(case)
    }

    fn integer_bytes(rng: &mut Rng, out: &mut Vec<u8>) {
        let rex = 0x40 | rng.next() as u8 & 15;
        let map = rng.below(20);
        if map >= 18 {
            // VEX: BMI1 and BMI2.
            const OPS: [u8; 6] = [0xf2, 0xf3, 0xf5, 0xf6, 0xf7, 0xf0];
            let op = OPS[rng.below(6) as usize];
            let map = if op == 0xf0 { 3 } else { 2 };
            out.extend([0xc4, rng.next() as u8 & 0xe0 | map]);
            let mut last = rng.next() as u8 & 0xfb;
            if op == 0xf0 {
                last = last & 0x83 | 0x78;
            }
            out.extend([last, op]);
            return;
        }
        if rng.chance(25) {
            out.push(0x66);
        }
        if rng.chance(15) {
            out.push(0xf2 | rng.next() as u8 & 1);
        }
        if rng.chance(60) {
            out.push(rex);
        }
        match map {
            0..10 => out.push(ONE[rng.below(ONE.len() as u64) as usize]),
            10..17 => out.extend([0x0f, TWO[rng.below(TWO.len() as u64) as usize]]),
            _ => out.extend([0x0f, 0x38, [0xf0, 0xf1, 0xf6][rng.below(3) as usize]]),
        }
    }

    fn vector_bytes(rng: &mut Rng, out: &mut Vec<u8>) {
        match rng.below(4) {
            0 => out.push(0xf3),
            1 => out.push(0xf2),
            2 => out.push(0x66),
            _ => {}
        }
        if rng.chance(25) && out.is_empty() {
            out.push(0x66);
        }
        if rng.chance(50) {
            out.push(0x40 | rng.next() as u8 & 15);
        }
        out.push(0x0f);
        match rng.below(4) {
            0 => out.extend([0x38, rng.next() as u8]),
            1 => out.extend([0x3a, rng.next() as u8]),
            _ => out.push(rng.next() as u8),
        }
    }

    fn allowed(&self, vectors: bool) -> bool {
        let i = &self.insn;
        let ops = i.operands();
        let stack = |n: u8| n == 4;
        let touches_stack = ops.iter().any(|op| matches!(*op, Operand::Gpr(n, _) if stack(n)));
        let mem = ops.iter().any(|op| matches!(op, Operand::Mem(_)));
        if touches_stack || i.lock || i.addrsize != 8 || i.seg > 3 {
            return false;
        }
        if mem {
            let m = i.mem;
            if m.base == RIP_REG || stack(m.base) || stack(m.index) || m.base == m.index {
                return false;
            }
            // Registers that must hold an address cannot hold a bit number as well.
            let bit = matches!(i.id, Id::BT | Id::BTS | Id::BTR | Id::BTC);
            if bit && matches!(i.ops[1], Operand::Gpr(n, _) if n == m.base || n == m.index) {
                return false;
            }
            if i.id != Id::LEA && m.base == NO_REG {
                return false;
            }
            if i.mem.seg > 3 {
                return false;
            }
        }
        let is_vector = ops.iter().any(|op| matches!(op, Operand::Xmm(_)));
        if ops.iter().any(|op| {
            matches!(
                op,
                Operand::Mm(_)
                    | Operand::Cr(_)
                    | Operand::Dr(_)
                    | Operand::St(_)
                    | Operand::Seg(_)
                    | Operand::Rel
                    | Operand::Far
            )
        }) {
            return false;
        }
        match i.id {
            // Approximations differ between processors, MASKMOVDQU stores through RDI.
            Id::RCPPS | Id::RCPSS | Id::RSQRTPS | Id::RSQRTSS | Id::MASKMOVDQU => false,
            Id::PUSH | Id::POP | Id::CALL | Id::JMP | Id::CALLF | Id::JMPF => false,
            Id::BSWAP => i.opsize != 2,
            Id::XLAT => false,
            _ => is_vector == vectors,
        }
    }

    fn string(&self) -> bool {
        self.insn.operands().iter().any(|op| matches!(op, Operand::Src(_) | Operand::Dst(_)))
    }

    /// Whether memory is looked at or changed.
    pub(crate) fn uses_memory(&self) -> bool {
        self.insn.id != Id::LEA && (self.insn.has_mem() || self.string())
    }

    /// Registers and data to run it with.
    pub(crate) fn operands(&self, rng: &mut Rng) -> (Context, Vec<u8>) {
        const MIDDLE: u64 = DATA + DATA_LEN as u64 / 2;
        let i = &self.insn;
        let mut c = Context::default();
        for r in &mut c.gpr {
            *r = rng.value();
        }
        for x in &mut c.xmm {
            *x = if rng.chance(40) {
                Self::floats(rng)
            } else {
                u128::from(rng.value()) << 64 | u128::from(rng.value())
            };
        }
        let mut flags = flag::FIXED | flag::IF;
        for bit in [flag::CF, flag::PF, flag::AF, flag::ZF, flag::SF, flag::OF] {
            if rng.chance(50) {
                flags |= bit;
            }
        }
        if self.string() {
            if rng.chance(50) {
                flags |= flag::DF;
            }
            c.gpr[6] = MIDDLE + rng.below(64);
            c.gpr[7] = MIDDLE + rng.below(64);
            if i.rep != Rep::None {
                c.gpr[1] = rng.below(40);
            }
        } else if i.has_mem() && i.id != Id::LEA {
            let m = i.mem;
            if let (Id::BT | Id::BTS | Id::BTR | Id::BTC, Operand::Gpr(n, _)) = (i.id, i.ops[1]) {
                c.gpr[usize::from(n)] = (rng.below(8192) as i64 - 4096) as u64;
            }
            let mut base =
                MIDDLE + rng.below(16) * if i.aligned && !self.integer() { 16 } else { 1 };
            if i.id == Id::CMPXCHG8B {
                base &= !15;
            }
            if m.index != NO_REG {
                let index = rng.below(1 << 20).wrapping_sub(1 << 19);
                c.gpr[usize::from(m.index)] = index;
                base = base.wrapping_sub(index << m.scale);
            }
            c.gpr[usize::from(m.base)] = base.wrapping_sub(m.disp as u64);
        }
        c.gpr[4] = 0;
        c.flags = flags;
        let mut data = vec![0u8; DATA_LEN];
        if self.uses_memory() {
            for chunk in data.as_chunks_mut::<8>().0 {
                chunk.copy_from_slice(&rng.value().to_le_bytes());
            }
            // Comparisons should find equal values now and then.
            if let (true, Id::CMPXCHG | Id::CMPXCHG8B) = (rng.chance(50), i.id) {
                let at = DATA_LEN / 2;
                data[at..at + 8]
                    .copy_from_slice(&(c.gpr[0] & 0xffff_ffff | c.gpr[2] << 32).to_le_bytes());
            }
        }
        (c, data)
    }

    fn integer(&self) -> bool {
        !self.insn.operands().iter().any(|op| matches!(op, Operand::Xmm(_)))
    }

    /// Lanes that are ordinary numbers.
    fn floats(rng: &mut Rng) -> u128 {
        let mut out = 0;
        if rng.chance(50) {
            for lane in 0..4 {
                let f = (rng.value() as i32 as f32) / 1024.0;
                out |= u128::from(f.to_bits()) << (32 * lane);
            }
        } else {
            for lane in 0..2 {
                let f = (rng.value() as i64 as f64) / 65536.0;
                out |= u128::from(f.to_bits()) << (64 * lane);
            }
        }
        out
    }
}

/// Flags an instruction leaves undefined (SDM vol. 2), given its operands.
pub(crate) fn undefined_flags(i: &Insn, c: &Context) -> u64 {
    use flag::{AF, CF, OF, PF, SF, ZF};
    let size = match i.ops[0] {
        Operand::Gpr(_, n) | Operand::Mem(n) => u64::from(n),
        _ => 1,
    };
    let count = |op: Operand| {
        let n = if matches!(op, Operand::Imm(_)) { i.imm } else { c.gpr[1] };
        n & if size == 8 { 63 } else { 31 }
    };
    match i.id {
        Id::AND | Id::OR | Id::XOR | Id::TEST => AF,
        Id::SHL | Id::SHR | Id::SAR => match count(i.ops[1]) {
            0 => 0,
            1 => AF,
            n if n >= size * 8 => AF | OF | CF,
            _ => AF | OF,
        },
        Id::ROL | Id::ROR | Id::RCL | Id::RCR => match count(i.ops[1]) {
            0 | 1 => 0,
            _ => OF,
        },
        Id::SHLD | Id::SHRD => match count(i.ops[2]) {
            0 => 0,
            1 => AF,
            n if n > size * 8 => OF | SF | ZF | AF | PF | CF,
            _ => AF | OF,
        },
        Id::MUL | Id::IMUL => SF | ZF | AF | PF,
        Id::DIV | Id::IDIV => OF | SF | ZF | AF | PF | CF,
        Id::BSF | Id::BSR => OF | SF | AF | PF | CF,
        Id::BT | Id::BTS | Id::BTR | Id::BTC => OF | SF | AF | PF,
        Id::LZCNT | Id::TZCNT => OF | SF | AF | PF,
        Id::ANDN | Id::BLSI | Id::BLSMSK | Id::BLSR | Id::BZHI => AF | PF,
        Id::BEXTR => AF | SF | PF,
        _ => 0,
    }
}

/// Whether the result itself is undefined: double shifts by more than the operand has.
pub(crate) fn undefined_result(i: &Insn, c: &Context) -> bool {
    let n = if matches!(i.ops[2], Operand::Imm(_)) { i.imm } else { c.gpr[1] };
    matches!(i.id, Id::SHLD | Id::SHRD) && i.opsize == 2 && n & 31 > 16
}
