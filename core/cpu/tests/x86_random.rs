//! The engines against each other: random programs in 16-, 32- and 64-bit mode, with x87 and SSE
//! instructions, that loop, branch, touch memory, fault, and write to what they execute.
//!
//! Every engine runs the same program from the same state; registers, flags, x87 state, vectors,
//! memory and the number of instructions must agree at the end, and where a program is cut off
//! half-way.
//!
//! `ORRERY_RANDOM_INSNS=n` generates more instructions than usual, `ORRERY_RANDOM_SEED=n` other ones.
#![expect(clippy::disallowed_methods, reason = "the environment says how many programs to run")]

mod machine;

use machine::{CODE, Machine};
use orrery_cpu::x86::X86;
use orrery_cpu::x86::decode::decode;
use orrery_cpu::x86::disasm::Disasm;
use orrery_cpu::x86::flags;
use orrery_cpu::x86::insn::{CodeSize, Id, Insn, Mode, NO_REG, Operand, RIP_REG};
use orrery_cpu::x86::lift::features;
use orrery_cpu::x86::state::{Segment, seg, var};

/// Where programs have their data: 16-bit offsets reach it.
const DATA: u64 = 0x4000;
const DATA_LEN: usize = 0x1000;
/// Where the code of 16-bit programs is, so that they reach it as data.
const LOW_CODE: u64 = 0x2000;
/// The stack begins here.
const STACK: u64 = 0x3800;
/// Counts the rounds of a program.
const ROUNDS: u64 = DATA + 0xff8;
/// Registers that hold addresses and stay: SP, BX, BP.
const KEPT: [u8; 3] = [4, 3, 5];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 40) as u8
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    Real,
    Protected,
    Long,
}

impl Size {
    fn machine(self) -> Machine {
        match self {
            Self::Real => Machine::real(),
            Self::Protected => Machine::protected(0),
            Self::Long => Machine::long(0),
        }
    }

    fn code(self) -> CodeSize {
        match self {
            Self::Real => CodeSize::Bits16,
            Self::Protected => CodeSize::Bits32,
            Self::Long => CodeSize::Bits64,
        }
    }

    fn at(self) -> u64 {
        if self == Self::Real { LOW_CODE } else { CODE }
    }
}

/// Instructions that leave the straight line, look at the time, or change what the machine is.
fn excluded(insn: &Insn) -> bool {
    const NAMES: &[&str] = &[
        "JCC", "JMP", "CALL", "RET", "LOOP", "LOOPE", "LOOPNE", "JCXZ", "CALLF", "JMPF", "RETF",
        "IRET", "INT", "INT1", "INT3", "INTO", "SYSCALL", "SYSRET", "SYSENTER", "SYSEXIT", "RSM",
        "HLT", "MWAIT", "MONITOR", "IN", "OUT", "INS", "OUTS", "RDTSC", "RDTSCP", "RDPMC", "RDMSR",
        "WRMSR", "RDRAND", "RDSEED", "CPUID", "LGDT", "LIDT", "LLDT", "LTR", "LMSW", "LDS", "LES",
        "LFS", "LGS", "LSS", "POPF", "POPA", "ENTER", "LEAVE", "STI", "CLI", "STD", "CLTS",
        "INVLPG", "INVD", "WBINVD", "SWAPGS", "WRFSBASE", "WRGSBASE", "FXSAVE", "FXRSTOR",
        "LDMXCSR", "XSETBV", "XGETBV", "XSAVE", "XRSTOR", "PAUSE", "VERR", "VERW", "LAR", "LSL",
    ];
    let kept = |op: &Operand| match *op {
        Operand::Gpr(n, size) => {
            KEPT.contains(&n) || size == 1 && n > 3 && KEPT.contains(&(n & 3)) && n < 8
        }
        Operand::High(n) => n == 3 || n == 1,
        Operand::Seg(_) | Operand::Cr(_) | Operand::Dr(_) => true,
        _ => false,
    };
    let both = matches!(insn.id, Id::XCHG | Id::XADD | Id::MULX);
    let written = insn.operands().iter().take(if both { 4 } else { 1 });
    let segment = insn.operands().iter().any(|o| {
        matches!(o, Operand::Seg(_) | Operand::Cr(_) | Operand::Dr(_) | Operand::Far | Operand::Rel)
    });
    NAMES.contains(&insn.id.name()) || segment || written.into_iter().any(kept) || !addressed(insn)
}

/// Memory operands lie in the data or near it.
fn addressed(insn: &Insn) -> bool {
    let m = insn.mem;
    if !insn.has_mem() {
        return true;
    }
    let base = m.base == 3 || m.base == 5;
    m.base != RIP_REG
        && m.index == NO_REG
        && usize::from(m.seg) < seg::FS
        && if base {
            (-0x100..0x400).contains(&m.disp)
        } else {
            m.base == NO_REG
                && (DATA as i64..(DATA as usize + DATA_LEN) as i64 - 520).contains(&m.disp)
        }
}

/// The bytes of a random instruction.
fn random_bytes(rng: &mut Rng, size: Size) -> Vec<u8> {
    let mut out = Vec::new();
    match rng.below(10) {
        0 => out.push(0x66),
        1 => out.push(if rng.below(4) == 0 { 0x67 } else { 0x66 }),
        2 if rng.below(3) == 0 => out.push(0xf0),
        3 if rng.below(2) == 0 => out.push([0xf2, 0xf3][rng.below(2) as usize]),
        _ => {}
    }
    let kind = rng.below(10);
    // SSE: the prefix chooses the type.
    if kind >= 7 && rng.below(4) != 0 {
        out.clear();
        out.extend([&[][..], &[0x66], &[0xf2], &[0xf3]][rng.below(4) as usize]);
    }
    if size == Size::Long && rng.below(2) == 0 {
        out.push(0x40 | rng.byte() & 15);
    }
    match kind {
        0..4 => out.push(rng.byte() & 0x3f | (rng.byte() & 0x80)),
        4 => out.push(0x40 | rng.byte() & 0xbf),
        5 | 6 => out.push(0xd8 | rng.byte() & 7),
        7 => out.extend([0x0f, 0x10 | rng.byte() & 0x0f]),
        8 => out.extend([0x0f, 0x40 | rng.byte() & 0x3f]),
        _ => out.extend([0x0f, 0x80 | rng.byte() & 0x7f]),
    }
    let reg = rng.byte() & 0x38;
    let absolute = (DATA + rng.below(DATA_LEN as u64 - 520)).to_le_bytes();
    // The address size that the prefix makes of it may be another: then it is tried again.
    match (rng.below(4), size) {
        (0 | 1, _) => out.push(0xc0 | rng.byte() & 7 | reg),
        (2, Size::Real) => {
            out.push(6 | reg);
            out.extend(&absolute[..2]);
        }
        (2, Size::Protected) => {
            out.push(5 | reg);
            out.extend(&absolute[..4]);
        }
        (2, Size::Long) => {
            out.extend([4 | reg, 0x25]);
            out.extend(&absolute[..4]);
        }
        (_, Size::Real) => out.extend([0x40 | 6 | rng.byte() & 1 | reg, rng.byte()]),
        _ => out.extend([0x40 | [3, 5][rng.below(2) as usize] | reg, rng.byte()]),
    }
    out.extend((0..10).map(|_| rng.byte()));
    out
}

/// A program: its bytes, and its text for a report.
struct Program {
    size: Size,
    bytes: Vec<u8>,
    text: Vec<String>,
    /// Writes to itself.
    modifies: bool,
    insns: u64,
}

impl Program {
    fn random(rng: &mut Rng, size: Size) -> Self {
        let mut program = Self {
            size,
            bytes: Vec::new(),
            text: Vec::new(),
            modifies: rng.below(8) == 0,
            insns: 0,
        };
        let model = orrery_cpu::x86::cpuid::Model::named("max").expect("a model");
        let features = features(&model);
        let mode = Mode { code: size.code(), protected: size != Size::Real, features };
        let count = 8 + rng.below(40);
        while program.insns < count {
            let mut bytes = random_bytes(rng, size);
            let mut at = bytes.iter().copied();
            let Ok(insn) = decode(mode, &mut || at.next().ok_or(())) else { continue };
            if excluded(&insn) {
                continue;
            }
            bytes.truncate(insn.len.into());
            // Now and then one is jumped over.
            if rng.below(6) == 0 {
                program.text.push("jcc over the next".into());
                program.bytes.extend([0x70 | rng.byte() & 15, bytes.len() as u8]);
                program.insns += 1;
            }
            let pc = size.at() + program.bytes.len() as u64;
            program.text.push(format!("{} {:02x?}", Disasm { insn: &insn, pc }, bytes));
            program.bytes.extend(bytes);
            program.insns += 1;
        }
        program.finish(rng);
        program
    }

    /// The end of the loop, and what the program does to itself.
    fn finish(&mut self, rng: &mut Rng) {
        let low = ROUNDS.to_le_bytes();
        if self.modifies {
            // mov byte [code], imm8: becomes the immediate of `mov dl, imm8` right behind, or before.
            let there = self.size.at() + self.bytes.len() as u64;
            let near = rng.below(2) == 0;
            let target = if near { there + 20 } else { there + 200 };
            match self.size {
                Size::Real => {
                    self.bytes.extend([0x2e, 0xfe, 0x06]);
                    self.bytes.extend(&target.to_le_bytes()[..2]);
                }
                Size::Protected => {
                    self.bytes.extend([0xfe, 0x05]);
                    self.bytes.extend(&target.to_le_bytes()[..4]);
                }
                Size::Long => {
                    self.bytes.extend([0xfe, 0x04, 0x25]);
                    self.bytes.extend(&target.to_le_bytes()[..4]);
                }
            }
            self.text.push(format!("inc byte [{target:x}], code"));
            self.insns += 1;
            // Ten times `mov dl, n`.
            for _ in 0..10 {
                self.bytes.extend([0xb2, rng.byte()]);
                self.text.push("mov dl, n".into());
                self.insns += 1;
            }
        }
        // dec dword [ROUNDS]; jnz start; hlt
        match self.size {
            Size::Real => {
                self.bytes.extend([0x66, 0xff, 0x0e]);
                self.bytes.extend(&low[..2]);
                self.bytes.extend([0x0f, 0x85]);
                let back = -(self.bytes.len() as i64 + 2);
                self.bytes.extend(&back.to_le_bytes()[..2]);
            }
            _ => {
                let form: &[u8] =
                    if self.size == Size::Long { &[0xff, 0x0c, 0x25] } else { &[0xff, 0x0d] };
                self.bytes.extend(form);
                self.bytes.extend(&low[..4]);
                self.bytes.extend([0x0f, 0x85]);
                let back = -(self.bytes.len() as i64 + 4);
                self.bytes.extend(&back.to_le_bytes()[..4]);
            }
        }
        self.bytes.push(0xf4);
        self.insns += 2;
    }
}

/// Everything that engines must agree on.
#[derive(Debug, PartialEq)]
struct Outcome {
    ints: Vec<u64>,
    flags: u64,
    vectors: Vec<u128>,
    x87: orrery_cpu::x86::x87::X87,
    activity: String,
    insns: u64,
    memory: Vec<u8>,
}

/// Puts a program and its first state into a machine that may have run others.
fn prepare(m: &mut Machine, fresh: &X86, program: &Program, seed: u64) {
    let mut rng = Rng(seed | 1);
    *m.cpu() = fresh.clone();
    let cpu = m.cpu();
    cpu.sys.cr4 |= 0x600;
    // CR0.NE in half of them.
    cpu.sys.cr0 |= rng.next() & 0x20;
    for n in 0..16 {
        let v = rng.next() >> rng.below(64);
        cpu.frame.ints[n] = if program.size == Size::Long { v } else { v & 0xffff_ffff };
    }
    cpu.frame.ints[usize::from(KEPT[1])] = DATA + 0x200;
    cpu.frame.ints[usize::from(KEPT[2])] = DATA + 0x600;
    // String instructions stay near, too.
    cpu.frame.ints[6] = DATA + 0x300;
    cpu.frame.ints[7] = DATA + 0x800;
    cpu.frame.ints[1] = rng.below(40);
    cpu.frame.ints[var::RSP] = STACK;
    for n in 0..16 {
        // Doubles and singles of usual size, most of them.
        let double = (rng.byte() as f64 - 100.0) / (1 + u32::from(rng.byte())) as f64;
        let v = match rng.below(3) {
            0 => u128::from(double.to_bits()) << 64 | u128::from((double * 3.5).to_bits()),
            1 => u128::from((double as f32).to_bits()) * 0x1_0000_0001_0000_0001_0000_0001,
            _ => u128::from(rng.next()) << 64 | u128::from(rng.next()),
        };
        cpu.frame.vecs[n] = v;
    }
    if rng.below(2) == 0 {
        cpu.x87.init();
    }
    let sticky = [0x1f80, 0x1fa0, 0x1fa0, 0x9fe0][rng.below(4) as usize];
    cpu.frame.ints[var::MXCSR] = sticky;
    flags::write(&mut cpu.frame, 2 | rng.next() & 0x8d5);
    if program.size == Size::Real {
        cpu.set_segment(seg::CS, Segment::real(0));
    }
    cpu.frame.ints[var::RIP] = program.size.at();
    let data: Vec<u8> = (0..DATA_LEN)
        .map(|i| {
            let double = (i as f64 / 8.0).to_bits().to_le_bytes();
            if i % 64 < 32 { double[i % 8] } else { rng.byte() }
        })
        .collect();
    m.write_all(DATA, &data);
    if program.size == Size::Real {
        // Every exception halts.
        m.write_all(0, &[0xf0, 0x0f, 0, 0].repeat(256));
        m.write_all(0xff0, &[0xf4]);
    }
    m.write_all(STACK - 0x400, &[0x5a; 0x500]);
    m.write(ROUNDS, &3u32.to_le_bytes());
    m.write_all(program.size.at(), &[0xf4; 0x800]);
    m.write(program.size.at(), &program.bytes);
    let Machine { cluster, board } = m;
    cluster.forget(board);
}

fn outcome(m: &mut Machine, program: &Program, insns: u64) -> Outcome {
    let mut memory = vec![0; 0x3000];
    m.read_all(program.size.at(), &mut memory[..0x1000]);
    m.read_all(STACK - 0x800, &mut memory[0x1000..0x2000]);
    m.read_all(DATA, &mut memory[0x2000..]);
    let cpu = m.cpu();
    let mut ints = cpu.frame.ints[..17].to_vec();
    ints.extend(&cpu.frame.ints[21..47]);
    Outcome {
        ints,
        flags: flags::read(&cpu.frame),
        vectors: cpu.frame.vecs[..16].to_vec(),
        x87: cpu.x87.clone(),
        activity: format!("{:?}", cpu.sys.activity),
        insns,
        memory,
    }
}

/// A way of running a program for at most so many instructions; answers how many it ran.
type Engine = fn(&mut Machine, u64) -> u64;

/// What is compared with the first of them.
const ENGINES: &[(&str, Engine)] = &[
    ("one instruction at a time", |m, budget| {
        let mut done = 0;
        while done < budget {
            let ran = m.run(1);
            if ran == 0 {
                break;
            }
            done += ran;
        }
        done
    }),
    ("blocks", |m, budget| m.run(budget)),
    ("blocks in uneven slices", |m, budget| {
        let (mut done, mut slice) = (0, 1);
        while done < budget {
            let ran = m.run(slice.min(budget - done));
            if ran == 0 {
                break;
            }
            done += ran;
            slice = slice * 5 % 37 + 1;
        }
        done
    }),
];

/// The same machine with a compiler that takes every block at once and is waited for.
#[cfg(all(feature = "jit-native", target_os = "linux"))]
fn compiling(size: Size) -> Option<Machine> {
    use orrery_cpu::jit::{Policy, native::Native};
    let shims = orrery_cpu::cluster::Cluster::<orrery_cpu::x86::X86Isa>::shims();
    let native = Native::new(shims, false).expect("a compiler");
    let mut m = size.machine();
    m.cluster.set_compiler(Box::new(native), Policy { eager: true, ..Policy::default() });
    Some(m)
}

#[cfg(not(all(feature = "jit-native", target_os = "linux")))]
fn compiling(_: Size) -> Option<Machine> {
    None
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn compare(size: Size, usual: u64) {
    let total = number("ORRERY_RANDOM_INSNS").map_or(usual, |n| n / 3);
    let seed = number("ORRERY_RANDOM_SEED").unwrap_or(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rng = Rng(seed ^ (size as u64 + 1) << 20 | 1);
    let fresh = size.machine().cpu().clone();
    let mut machines: Vec<Machine> = ENGINES.iter().map(|_| size.machine()).collect();
    let mut engines = ENGINES.to_vec();
    engines.push(("compiled", |m, budget| m.run(budget)));
    let (mut generated, mut executed, mut whole, mut programs) = (0, 0, 0u64, 0u64);
    while generated < total {
        let program = Program::random(&mut rng, size);
        let state = rng.next();
        // Some are cut off, where the state must be as exact.
        let budget = if rng.below(4) == 0 { rng.below(3 * program.insns) } else { 3000 };
        let mut first: Option<Outcome> = None;
        // Compiling takes its time: some of the programs, on new machines, because what earlier
        // programs left in memory is in the others only.
        if programs.is_multiple_of(64) {
            machines = ENGINES.iter().map(|_| size.machine()).chain(compiling(size)).collect();
        } else {
            machines.truncate(ENGINES.len());
        }
        for ((name, run), m) in engines.iter().zip(&mut machines) {
            prepare(m, &fresh, &program, state);
            let insns = run(m, budget);
            let outcome = outcome(m, &program, insns);
            match &first {
                None => {
                    executed += outcome.insns;
                    whole += u64::from(outcome.activity == "Halted");
                    first = Some(outcome);
                }
                Some(first) => {
                    if *first != outcome {
                        let text = program.text.join("\n");
                        let memory = (0..outcome.memory.len())
                            .find(|&i| first.memory[i] != outcome.memory[i]);
                        let (mut a, mut b) = (format!("{first:x?}"), format!("{outcome:x?}"));
                        a.truncate(a.find("memory").unwrap_or(0));
                        b.truncate(b.find("memory").unwrap_or(0));
                        panic!(
                            "{size:?}, program {programs}, budget {budget}, {name}:\n{text}\n\
                             {a}\n{b}\nmemory differs at {memory:x?}"
                        );
                    }
                }
            }
        }
        generated += program.insns;
        programs += 1;
    }
    // Enough of them must come to their end for the comparison to mean something.
    assert!(whole * 4 > programs, "{whole} of {programs} programs ended, {executed} instructions");
}

#[test]
fn sixteen_bit_programs_end_alike() {
    compare(Size::Real, 350_000);
}

#[test]
fn thirty_two_bit_programs_end_alike() {
    compare(Size::Protected, 350_000);
}

#[test]
fn sixty_four_bit_programs_end_alike() {
    compare(Size::Long, 350_000);
}
