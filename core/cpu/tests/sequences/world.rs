//! Where sequences run: a few pages, with others beside them that fault, and a handler of each
//! exception that halts. So the state at the end tells which exception there was, if any.

use orrery_cpu::x86::insn::CodeSize;
use orrery_cpu::x86::state::{
    Activity, Segment, Sys, TableReg, attr, cr0, cr4, efer, flag, seg, var,
};
use orrery_cpu::x86::x87::X87;
use orrery_cpu::x86::{X86, flags};
use orrery_system::PAGE_SIZE;
use orrery_system::ram::Ram;

use super::generate::{Rng, Sequence};
use crate::engines::{self, Engine};
use crate::machine::{CODE, Machine, RAM};

/// Data of protected and long mode: two pages, one that is not there, and one of the supervisor.
/// The page before them may only be read.
pub(crate) const DATA: u64 = 0x2_0000;
/// Data of real mode: the two last pages of the segment.
pub(crate) const LOW_DATA: u64 = 0xe000;

const PAGE: u64 = 0x1000;
const GDT: u64 = 0x1000;
const TSS: u64 = 0x1800;
const IDT: u64 = 0x2000;
/// A handler every 16 bytes.
const HANDLERS: u64 = 0x3000;
const STACK: u64 = 0x8000;
/// Where handlers of programs at privilege level 3 have theirs.
const KERNEL_STACK: u64 = 0x7000;
/// The software interrupt that ends what runs without privilege.
const END: u8 = 0x80;
/// Page tables, from the root on; the last one names the pages.
const TABLES: u64 = 0xe0_0000;

/// Mode and privilege level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Real,
    Protected0,
    Protected3,
    Long0,
    Long3,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Real, Self::Protected0, Self::Protected3, Self::Long0, Self::Long3];

    pub(crate) fn code(self) -> CodeSize {
        match self {
            Self::Real => CodeSize::Bits16,
            Self::Protected0 | Self::Protected3 => CodeSize::Bits32,
            Self::Long0 | Self::Long3 => CodeSize::Bits64,
        }
    }

    /// The instruction pointer at the start of the page of code.
    pub(crate) fn ip(self) -> u64 {
        if self == Self::Real { 0 } else { CODE }
    }

    /// What a sequence ends with: HLT, where that is allowed.
    pub(crate) fn end(self) -> &'static [u8] {
        if self.user() { &[0xcd, END] } else { &[0xf4] }
    }

    fn user(self) -> bool {
        matches!(self, Self::Protected3 | Self::Long3)
    }

    fn last_table(self) -> u64 {
        TABLES + if self.code() == CodeSize::Bits64 { 3 * PAGE } else { PAGE }
    }

    fn machine(self) -> Machine {
        let (mut m, bytes) = match self {
            Self::Real => (Machine::real(), 4),
            Self::Protected0 => (Machine::protected(0), 8),
            Self::Protected3 => (Machine::protected(3), 8),
            Self::Long0 => (Machine::long(0), 16),
            Self::Long3 => (Machine::long(3), 16),
        };
        m.write_all(HANDLERS, &[0xf4; PAGE as usize]);
        let mut rng = Rng::new(7);
        for at in (DATA - PAGE..DATA + 4 * PAGE).chain(LOW_DATA..0x1_0000).step_by(8) {
            let value = if at % 64 < 32 { (at as f64 / 8.0).to_bits() } else { rng.value() };
            m.write_all(at, &value.to_le_bytes());
        }
        for vector in 0..256 {
            let handler = HANDLERS + (vector * 16) % PAGE;
            let gate = match self.code() {
                CodeSize::Bits16 => handler,
                // Interrupt gates that programs may call.
                _ => handler | 8 << 16 | 0xee << 40,
            };
            let table = if self == Self::Real { 0 } else { IDT };
            m.write_all(table + vector * bytes, &gate.to_le_bytes()[..bytes.min(8) as usize]);
        }
        if self == Self::Real {
            for n in [seg::ES, seg::SS, seg::DS, seg::FS, seg::GS] {
                m.cpu().set_segment(n, Segment::real(u16::from(n >= seg::FS)));
            }
        } else {
            self.protect(&mut m);
        }
        m
    }

    /// Descriptors and page tables.
    fn protect(self, m: &mut Machine) {
        let long = self.code() == CodeSize::Bits64;
        let code = if long { 0x00af_9b00_0000_ffff_u64 } else { 0x00cf_9b00_0000_ffff };
        let data = 0x00cf_9300_0000_ffff;
        let level3 = 3 << 45;
        let tss = 0x0000_8b00_0000_0067 | TSS << 16;
        for (n, d) in [0, code, data, code | level3, data | level3, tss, 0].into_iter().enumerate()
        {
            m.write_all(GDT + 8 * n as u64, &d.to_le_bytes());
        }
        if long {
            m.write_all(TSS + 4, &KERNEL_STACK.to_le_bytes());
        } else {
            m.write_all(TSS + 4, &(KERNEL_STACK as u32).to_le_bytes());
            m.write_all(TSS + 8, &0x10u32.to_le_bytes());
        }
        // Present, writable, of the user, accessed, dirty.
        let size = if long { 8 } else { 4 };
        let mut table = TABLES;
        while table != self.last_table() {
            m.write_all(table, &((table + PAGE) | 0x67).to_le_bytes()[..size]);
            table += PAGE;
        }
        for page in 0..64 {
            let at = page * PAGE;
            let bits: u64 = match at {
                0x1000 => 0x63,
                // Written to by nobody.
                0x2000 => 0x61,
                0x3000 => 0x65,
                _ if at == KERNEL_STACK - PAGE => 0x63,
                _ if at == DATA - PAGE => 0x65,
                // One that nobody has looked at.
                _ if at == DATA + PAGE => 7,
                _ if at == DATA + 2 * PAGE => 0,
                _ if at == DATA + 3 * PAGE => 0x63,
                0x7000 | 0x1_0000 | 0x1_1000 | 0x2_0000 => 0x67,
                _ => 0,
            };
            m.write_all(table + size as u64 * page, &(at | bits).to_le_bytes()[..size]);
        }
        let level = if self.user() { 3 } else { 0 };
        let cpu = m.cpu();
        cpu.sys.gdtr = TableReg { base: GDT, limit: 0x37 };
        cpu.sys.idtr = TableReg { base: IDT, limit: 0xfff };
        let busy = attr::P | 0xb;
        cpu.sys.tr = Segment { selector: 0x28, attr: busy, limit: 0x67, base: TSS };
        cpu.sys.cr3 = TABLES;
        cpu.sys.cr0 |= cr0::PG | cr0::PE | cr0::WP;
        if long {
            cpu.sys.cr4 |= cr4::PAE;
            cpu.sys.efer |= efer::LME | efer::LMA | efer::SCE;
        }
        for n in 0..6 {
            let mut s = cpu.sys.seg[n];
            s.selector = match (n == seg::CS, level) {
                (true, 0) => 8,
                (false, 0) => 0x10,
                (true, _) => 0x1b,
                (false, _) => 0x23,
            };
            cpu.set_segment(n, s);
        }
    }
}

/// Everything that engines must agree on.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    ints: Vec<u64>,
    flags: u64,
    vectors: Vec<u128>,
    x87: X87,
    sys: Sys,
    /// How many instructions ran.
    pub(crate) insns: u64,
    /// Words of memory that changed.
    memory: Vec<(u64, u64)>,
}

impl Outcome {
    /// How it ended: the vector of the exception, if there was one.
    pub(crate) fn exception(&self) -> Option<u64> {
        let rip = self.ints[var::RIP];
        let halted = self.sys.activity == Activity::Halted;
        let vector =
            (halted && (HANDLERS..HANDLERS + PAGE).contains(&rip)).then(|| (rip - HANDLERS) / 16);
        vector.filter(|&v| v != u64::from(END))
    }

    /// What is not the same, in words.
    pub(crate) fn differences(&self, other: &Self) -> String {
        let mut out = String::new();
        let mut say = |what: String, a: String, b: String| {
            if a != b {
                out += &format!("  {what}: {a}, {b}\n");
            }
        };
        say("instructions".into(), self.insns.to_string(), other.insns.to_string());
        say("flags".into(), format!("{:x}", self.flags), format!("{:x}", other.flags));
        for (n, (a, b)) in self.ints.iter().zip(&other.ints).enumerate() {
            say(format!("variable {n}"), format!("{a:x}"), format!("{b:x}"));
        }
        for (n, (a, b)) in self.vectors.iter().zip(&other.vectors).enumerate() {
            say(format!("xmm{n}"), format!("{a:032x}"), format!("{b:032x}"));
        }
        say("x87".into(), format!("{:x?}", self.x87), format!("{:x?}", other.x87));
        say("system".into(), format!("{:x?}", self.sys), format!("{:x?}", other.sys));
        say("memory".into(), format!("{:x?}", self.memory), format!("{:x?}", other.memory));
        out
    }
}

/// A machine of an engine, used for one sequence after the other.
pub(crate) struct World {
    pub(crate) machine: Machine,
    pub(crate) engine: Engine,
    /// Each instruction in a run of its own.
    steps: bool,
    fresh: X86,
    /// All of memory, as each sequence finds it.
    memory: Vec<u64>,
}

impl World {
    pub(crate) fn new(kind: Kind, engine: Engine, steps: bool) -> Self {
        let mut machine = kind.machine();
        engine.lend(&mut machine.cluster);
        let fresh = machine.cpu().clone();
        let mut bytes = vec![0; RAM];
        machine.read_all(0, &mut bytes);
        let memory = bytes.as_chunks().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
        for page in 0..RAM / PAGE_SIZE {
            machine.board.ram().clear_page_flags(page, Ram::DIRTY_SNAPSHOT);
        }
        Self { machine, engine, steps, fresh, memory }
    }

    /// What it is called.
    pub(crate) fn name(&self) -> String {
        let how = if self.steps { ", one instruction at a time" } else { "" };
        format!("{:?}{how}", self.engine)
    }

    /// Runs a sequence, and puts everything back.
    pub(crate) fn run(&mut self, sequence: &Sequence) -> Outcome {
        let m = &mut self.machine;
        let code = sequence.code();
        m.write_all(CODE + sequence.start, &code);
        *m.cpu() = self.fresh.clone();
        state(m.cpu(), sequence);
        let Machine { cluster, board } = m;
        cluster.forget(board);
        let mut insns = 0;
        while insns < sequence.budget {
            let most = if self.steps { 1 } else { sequence.budget - insns };
            let ran = m.run(most);
            insns += ran;
            if ran < most || m.halted() {
                break;
            }
        }
        let mut memory = Vec::new();
        let ram = m.board.ram();
        for page in 0..RAM / PAGE_SIZE {
            if ram.page_flags(page) & Ram::DIRTY_SNAPSHOT == 0 {
                continue;
            }
            for at in (page * PAGE_SIZE..(page + 1) * PAGE_SIZE).step_by(8) {
                let (now, word) = (ram.read_u64(at), self.memory[at / 8]);
                if now != word {
                    memory.push((at as u64, now));
                    ram.write_u64(at, word);
                }
            }
            ram.clear_page_flags(page, Ram::DIRTY_SNAPSHOT);
        }
        let cpu = m.cpu();
        let mut ints = cpu.frame.ints[..=var::RIP].to_vec();
        ints.extend(&cpu.frame.ints[var::EFLAGS_REST..=var::MXCSR]);
        Outcome {
            ints,
            flags: flags::read(&cpu.frame),
            vectors: cpu.frame.vecs[..16].to_vec(),
            x87: cpu.x87.clone(),
            sys: cpu.sys.clone(),
            insns,
            memory,
        }
    }

    /// How much of what it ran was compiled.
    pub(crate) fn compiled(&self) -> String {
        engines::compiled(&self.machine.cluster)
    }
}

/// Somewhere in the data, or beside it.
fn pointer(rng: &mut Rng, kind: Kind) -> u64 {
    let data = if kind == Kind::Real { LOW_DATA } else { DATA };
    match rng.below(100) {
        0..25 => data + PAGE - rng.below(20),
        25..50 => data + (rng.below(0x1e00) & !15),
        50..80 => data + rng.below(0x1f00),
        80..88 => data + 2 * PAGE - rng.below(20),
        88..92 => data - rng.below(12),
        92..94 => data + 3 * PAGE + rng.below(64),
        94..96 => kind.ip() + rng.below(0x1000),
        _ => rng.value(),
    }
}

/// An 80-bit number: a usual one mostly.
fn extended(rng: &mut Rng) -> (u64, u16) {
    let sign = (rng.byte() as u16 & 1) << 15;
    match rng.below(12) {
        0 => (rng.next(), rng.next() as u16),
        1 => (0, sign),
        2 => (1 << 63, sign | 0x7fff),
        3 => (rng.next() | 3 << 62, sign | 0x7fff),
        4 => (rng.next() >> 1, sign),
        5 => (rng.next() | 1 << 63, sign | (0x3fff - 64 + rng.below(128) as u16)),
        // Few digits: exact results.
        _ => (1 << 63 | rng.below(256) << 55, sign | (0x3fff - 8 + rng.below(20) as u16)),
    }
}

/// A vector of numbers that are usual, mostly.
fn vector(rng: &mut Rng) -> u128 {
    let double = (f64::from(rng.byte()) - 100.0) / f64::from(1 + u32::from(rng.byte()));
    match rng.below(6) {
        0 | 1 => u128::from(double.to_bits()) << 64 | u128::from((double * 3.5).to_bits()),
        2 | 3 => {
            let (a, b) = ((double as f32).to_bits(), (double as f32 + 1.5).to_bits());
            u128::from(u64::from(a) << 32 | u64::from(b)) * 0x1_0000_0000_0000_0001
        }
        4 => u128::from(rng.value()) << 64 | u128::from(rng.value()),
        _ => u128::from(rng.next()) << 64 | u128::from(rng.next()),
    }
}

/// Registers and flags at the start.
fn state(cpu: &mut X86, sequence: &Sequence) {
    let (kind, rng) = (sequence.kind, &mut Rng::new(sequence.state));
    for n in 0..16 {
        cpu.frame.ints[n] = match n {
            var::RSP => {
                let stack = STACK - 0x100 - 8 * rng.below(16);
                // Now and then it is odd, or ends where nothing is.
                match rng.below(40) {
                    0 => stack + rng.below(8),
                    1 => STACK - PAGE + rng.below(24),
                    _ => stack,
                }
            }
            var::RBX | var::RBP | var::RSI | var::RDI => pointer(rng, kind),
            var::RCX => {
                let n = rng.value();
                if rng.below(4) == 0 { n } else { n & 31 }
            }
            _ if rng.below(3) == 0 => rng.below(64),
            _ if n > 7 && rng.below(2) == 0 => pointer(rng, kind),
            _ => rng.value(),
        };
        if kind.code() != CodeSize::Bits64 {
            cpu.frame.ints[n] &= 0xffff_ffff;
        }
        cpu.frame.vecs[n] = vector(rng);
    }
    cpu.frame.ints[var::RIP] = kind.ip() + sequence.start;
    let mut flags = 2 | rng.next() & flag::ARITH;
    for (one_in, bit) in [(10, flag::DF), (100, flag::TF), (30, flag::AC), (4, flag::IF)] {
        if rng.below(one_in) == 0 {
            flags |= bit;
        }
    }
    flags::write(&mut cpu.frame, flags);
    cpu.frame.ints[var::MXCSR] = match rng.below(8) {
        0..3 => 0x1f80,
        3..6 => 0x1fa0,
        6 => 0x1f80 | rng.next() & 0xe07f,
        _ => rng.next() & 0xffff,
    };
    cpu.sys.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.sys.cr0 |= cr0::ET;
    for (one_in, bit) in [(2, cr0::NE), (8, cr0::MP), (100, cr0::TS), (150, cr0::EM), (8, cr0::AM)]
    {
        if rng.below(one_in) == 0 {
            cpu.sys.cr0 |= bit;
        }
    }
    match rng.below(100) {
        0 => cpu.sys.cr4 &= !cr4::OSFXSR,
        1 => cpu.sys.cr4 &= !cr4::OSXMMEXCPT,
        _ => {}
    }
    cpu.x87.init();
    for r in &mut cpu.x87.regs {
        let (significand, high) = extended(rng);
        *r = orrery_cpu::float::F80 { head: high, sig: significand };
    }
    cpu.x87.top = rng.byte() & 7;
    cpu.x87.valid = match rng.below(4) {
        0 => rng.byte(),
        1 => 0,
        _ => 0x7f_u8.rotate_left(u32::from(cpu.x87.top)),
    };
    match rng.below(6) {
        0 => cpu.x87.set_control_word(0x7f | (rng.next() & 0xf00) as u16),
        1 => cpu.x87.set_control_word((rng.next() & 0xf3f) as u16 | 0x40),
        2 => cpu.x87.set_control_word(0x27f),
        _ => {}
    }
}
