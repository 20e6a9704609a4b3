//! Random short sequences of instructions.

use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::decode::decode;
use orrery_cpu::x86::disasm::Disasm;
use orrery_cpu::x86::insn::{CodeSize, Features, Id, Insn, Mode, Operand};
use orrery_cpu::x86::lift;

use super::world::{DATA, Kind, LOW_DATA};

/// Numbers that look random.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        rng.next();
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    pub(crate) fn byte(&mut self) -> u8 {
        (self.next() >> 40) as u8
    }

    /// One of them.
    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// A number with the edges more often than chance would have them.
    pub(crate) fn value(&mut self) -> u64 {
        const EDGES: [u64; 10] = [
            0x7f,
            0x80,
            0x7fff,
            0x8000,
            0x7fff_ffff,
            0x8000_0000,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
            u64::MAX - 1,
        ];
        match self.below(8) {
            0 | 1 => self.below(4),
            2 => self.of(&EDGES),
            3 => self.next() & 0xff,
            4 | 5 => self.next() >> self.below(64),
            _ => self.next(),
        }
    }
}

/// What a sequence is made of mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Integer,
    X87,
    Vector,
    Mixed,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// Its bytes.
    Plain(Vec<u8>),
    /// A branch of two bytes, the second an offset, to an item.
    Branch(u8, usize),
    /// A near call of an item.
    Call(usize),
    /// Adds one to the last byte of an item.
    Modify(usize),
}

/// A sequence and what it starts with.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) kind: Kind,
    pub(crate) class: Class,
    pub(crate) items: Vec<Item>,
    /// What registers and flags are made of.
    pub(crate) state: u64,
    /// Where the code begins in its page.
    pub(crate) start: u64,
    /// Most instructions that run.
    pub(crate) budget: u64,
}

/// Instructions that look at the time, or change the world that the machines of a test share.
const LEFT_OUT: &[Id] = &[
    Id::HLT,
    Id::IN,
    Id::OUT,
    Id::INS,
    Id::OUTS,
    Id::RDTSC,
    Id::RDTSCP,
    Id::RDPMC,
    Id::RDMSR,
    Id::WRMSR,
    Id::RDRAND,
    Id::RDSEED,
    Id::MWAIT,
    Id::MONITOR,
    Id::RSM,
    Id::IRET,
    Id::CALLF,
    Id::JMPF,
    Id::RETF,
    Id::LDS,
    Id::LES,
    Id::LFS,
    Id::LGS,
    Id::LSS,
    Id::LGDT,
    Id::LIDT,
    Id::LLDT,
    Id::LTR,
    Id::LMSW,
    Id::SYSCALL,
    Id::SYSRET,
    Id::SYSENTER,
    Id::SYSEXIT,
    Id::XSETBV,
    Id::SWAPGS,
    Id::WRFSBASE,
    Id::WRGSBASE,
];

fn left_out(insn: &Insn) -> bool {
    // Those that have an item of their own, and writes of segment, control and debug registers.
    let own = |op: &Operand| matches!(op, Operand::Rel | Operand::Cr(_) | Operand::Dr(_));
    LEFT_OUT.contains(&insn.id)
        || insn.operands().iter().any(own)
        || matches!(insn.ops[0], Operand::Seg(_)) && insn.id != Id::PUSH
}

fn features() -> Features {
    static ALL: std::sync::OnceLock<Features> = std::sync::OnceLock::new();
    *ALL.get_or_init(|| lift::features(&Model::named("max").expect("a model")))
}

fn mode(kind: Kind) -> Mode {
    Mode { code: kind.code(), protected: kind != Kind::Real, features: features() }
}

/// ModRM with what follows it, for the address size that goes without saying.
fn modrm(rng: &mut Rng, kind: Kind, out: &mut Vec<u8>) {
    let reg = rng.byte() & 0x38;
    if rng.below(100) < 45 {
        out.push(0xc0 | reg | rng.byte() & 7);
        return;
    }
    let near = rng.byte() as i8;
    let data = if kind == Kind::Real { LOW_DATA } else { DATA } + rng.below(0x2000);
    if kind == Kind::Real {
        let (form, rm) = (rng.below(3) as u8, rng.byte() & 7);
        out.push(form << 6 | reg | rm);
        match (form, rm) {
            (0, 6) => out.extend((data as u16).to_le_bytes()),
            (1, _) => out.push(near as u8),
            (2, _) => out.extend(i16::from(near).to_le_bytes()),
            _ => {}
        }
        return;
    }
    // Mostly one of those that are addresses.
    let base = if rng.below(8) == 0 { rng.byte() & 7 } else { rng.of(&[3, 5, 6, 7]) };
    let form = rng.below(3) as u8;
    let absolute = rng.below(10) == 0;
    if absolute && kind.code() == CodeSize::Bits32 {
        out.push(5 | reg);
        out.extend((data as u32).to_le_bytes());
    } else if absolute && rng.below(4) != 0 {
        out.extend([4 | reg, 0x25]);
        out.extend((data as u32).to_le_bytes());
    } else if absolute {
        // By RIP.
        out.push(5 | reg);
        out.extend(i32::from(near).to_le_bytes());
    } else {
        if rng.below(3) == 0 {
            let index = rng.of(&[0, 1, 2, 4]);
            out.extend([form << 6 | reg | 4, rng.byte() & 0xc0 | index << 3 | base]);
        } else {
            out.push(form << 6 | reg | if base == 4 { 3 } else { base });
        }
        match form {
            1 => out.push(near as u8),
            2 => out.extend(i32::from(near).to_le_bytes()),
            // Without one there is no base.
            _ if base == 5 => {
                let value =
                    if kind.code() == CodeSize::Bits64 { i32::from(near) } else { data as i32 };
                out.extend(value.to_le_bytes());
            }
            _ => {}
        }
    }
}

/// The bytes of a random instruction, and some more.
fn random_bytes(rng: &mut Rng, kind: Kind, class: Class) -> Vec<u8> {
    let mut out = Vec::new();
    let class = match (class, rng.below(10)) {
        (Class::Mixed, 0..4) => Class::Integer,
        (Class::Mixed, 4..6) => Class::X87,
        (Class::Mixed, _) => Class::Vector,
        (Class::X87 | Class::Vector, 0) => Class::Integer,
        (class, _) => class,
    };
    let rex = |rng: &mut Rng, out: &mut Vec<u8>| {
        if kind.code() == CodeSize::Bits64 && rng.below(2) == 0 {
            out.push(0x40 | rng.byte() & 15);
        }
    };
    if rng.below(25) == 0 {
        out.push(rng.of(&[0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67, 0xf0]));
    }
    match class {
        Class::Integer => {
            match rng.below(20) {
                0..3 => out.push(0x66),
                3 => out.push(rng.of(&[0xf2, 0xf3])),
                _ => {}
            }
            if rng.below(16) == 0 && kind != Kind::Real {
                // VEX: BMI1 and BMI2.
                let op = rng.of(&[0xf2, 0xf3, 0xf5, 0xf6, 0xf7, 0xf0]);
                let (map, last) =
                    if op == 0xf0 { (3, rng.byte() & 0x83 | 0x78) } else { (2, rng.byte() & 0xfb) };
                out.extend([0xc4, rng.byte() & 0x60 | 0x80 | map, last, op]);
            } else {
                rex(rng, &mut out);
                match rng.below(10) {
                    0..6 => out.push(rng.byte()),
                    6 | 7 => out.extend([0x0f, 0x80 | rng.byte() & 0x7f]),
                    8 => out.extend([0x0f, 0x40 | rng.byte() & 15]),
                    _ => out.extend([0x0f, 0x38, 0xf0 | rng.byte() & 7]),
                }
            }
        }
        Class::X87 => {
            rex(rng, &mut out);
            out.push(0xd8 | rng.byte() & 7);
        }
        Class::Vector | Class::Mixed => {
            out.extend(rng.of(&[&[][..], &[0x66], &[0xf2], &[0xf3]]));
            rex(rng, &mut out);
            out.push(0x0f);
            match rng.below(8) {
                0 => out.extend([0x38, rng.byte() & 0x7f]),
                1 => out.extend([0x3a, rng.byte() & 0x7f]),
                2 => out.push(0x10 | rng.byte() & 15),
                3 => out.push(0x28 | rng.byte() & 7),
                4 => out.push(rng.of(&[0x77, 0xae, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6])),
                5 => out.push(0x50 | rng.byte() & 15),
                6 => out.push(0x60 | rng.byte() & 31),
                _ => out.push(0xd0 | rng.byte() & 47),
            }
        }
    }
    modrm(rng, kind, &mut out);
    out.extend((0..10).map(|_| rng.byte()));
    out
}

impl Item {
    fn random(rng: &mut Rng, kind: Kind, class: Class) -> Self {
        loop {
            let mut bytes = random_bytes(rng, kind, class);
            let mut at = bytes.iter().copied();
            match decode(mode(kind), &mut || at.next().ok_or(())) {
                Ok(insn) if !left_out(&insn) => {
                    bytes.truncate(insn.len.into());
                    return Self::Plain(bytes);
                }
                // What is none raises an exception: now and then.
                Err(_) if rng.below(400) == 0 => return Self::Plain(bytes),
                _ => {}
            }
        }
    }

    fn len(&self, kind: Kind) -> u64 {
        match (self, kind.code()) {
            (Self::Plain(bytes), _) => bytes.len() as u64,
            (Self::Branch(..), _) => 2,
            (Self::Call(_), CodeSize::Bits16) => 3,
            (Self::Modify(_), CodeSize::Bits16) | (Self::Call(_), _) => 5,
            (Self::Modify(_), CodeSize::Bits32) => 6,
            (Self::Modify(_), CodeSize::Bits64) => 7,
        }
    }
}

impl Sequence {
    /// The sequence of this number.
    pub(crate) fn random(kind: Kind, seed: u64, number: u64) -> Self {
        let salt = (kind as u64 + 1) << 56;
        let rng = &mut Rng::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(number) ^ salt);
        let class = match rng.below(100) {
            0..40 => Class::Integer,
            40..58 => Class::X87,
            58..83 => Class::Vector,
            _ => Class::Mixed,
        };
        let count = if rng.below(40) == 0 { 10 + rng.below(20) } else { 1 + rng.below(6) } as usize;
        let mut items = Vec::new();
        while items.len() < count {
            let target = |rng: &mut Rng| rng.below(count as u64 + 1) as usize;
            match rng.below(100) {
                0..5 => items.push(Item::Branch(0x70 | rng.byte() & 15, target(rng))),
                5 => items.push(Item::Branch(rng.of(&[0xe0, 0xe1, 0xe2, 0xe3, 0xeb]), target(rng))),
                6 => items.push(Item::Call(target(rng))),
                7 | 8 => {
                    // A load of a constant that is about to be another one.
                    let after = rng.below(3) as usize;
                    items.push(Item::Modify(items.len() + 1 + after));
                    (0..=after).for_each(|_| {
                        items.push(Item::Plain(vec![rng.of(&[0xb0, 0xb1, 0xb2]), rng.byte()]));
                    });
                }
                _ => items.push(Item::random(rng, kind, class)),
            }
        }
        // Some go on in the next page, some instruction across its start.
        let start = if rng.below(8) == 0 { 0xfe0 + rng.below(0x20) } else { rng.below(0x800) };
        let budget = if rng.below(8) == 0 { 1 + rng.below(8) } else { 60 };
        Self { kind, class, items, state: rng.next(), start, budget }
    }

    /// Where each item is, and where the code ends.
    fn places(&self) -> Vec<u64> {
        let mut at = vec![0];
        for item in &self.items {
            at.push(at[at.len() - 1] + item.len(self.kind));
        }
        at
    }

    /// The code, with its end.
    pub(crate) fn code(&self) -> Vec<u8> {
        let at = self.places();
        let place = |n: usize| at[n.min(self.items.len())];
        let mut out = Vec::new();
        for (n, item) in self.items.iter().enumerate() {
            let next = at[n + 1];
            match (item, self.kind.code()) {
                (Item::Plain(bytes), _) => out.extend(bytes),
                (Item::Branch(op, to), _) => {
                    out.extend([*op, place(*to).wrapping_sub(next) as u8]);
                }
                (Item::Call(to), size) => {
                    out.push(0xe8);
                    let len = if size == CodeSize::Bits16 { 2 } else { 4 };
                    out.extend(&place(*to).wrapping_sub(next).to_le_bytes()[..len]);
                }
                (Item::Modify(of), size) => {
                    let byte = self.kind.ip() + self.start + place(of + 1) - 1;
                    let (form, len): (&[u8], _) = match size {
                        CodeSize::Bits16 => (&[0x2e, 0xfe, 0x06], 2),
                        CodeSize::Bits32 => (&[0xfe, 0x05], 4),
                        CodeSize::Bits64 => (&[0xfe, 0x04, 0x25], 4),
                    };
                    out.extend(form);
                    out.extend(&byte.to_le_bytes()[..len]);
                }
            }
            debug_assert_eq!(out.len() as u64, next);
        }
        out.extend(self.kind.end());
        out
    }

    /// How many instructions it is.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The same without one of its instructions.
    pub(crate) fn without(&self, n: usize) -> Self {
        let mut less = self.clone();
        less.items.remove(n);
        for item in &mut less.items {
            if let Item::Branch(_, to) | Item::Call(to) | Item::Modify(to) = item
                && *to > n
            {
                *to -= 1;
            }
        }
        less
    }

    /// Its text.
    pub(crate) fn listing(&self) -> String {
        let (code, at) = (self.code(), self.places());
        let mut out = String::new();
        for (n, item) in self.items.iter().enumerate() {
            let bytes = &code[at[n] as usize..at[n + 1] as usize];
            let pc = self.kind.ip() + self.start + at[n];
            let mut it = bytes.iter().copied();
            let text = match decode(mode(self.kind), &mut || it.next().ok_or(())) {
                Ok(insn) => Disasm { insn: &insn, pc }.to_string(),
                Err(_) => "(none)".into(),
            };
            let note = if matches!(item, Item::Modify(_)) { "  ; the code" } else { "" };
            out += &format!("  {pc:6x}  {text}{note}  {bytes:02x?}\n");
        }
        out
    }
}
