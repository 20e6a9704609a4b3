//! Compiled code against the interpreter: random programs with loops in 16, 32 and 64-bit mode, run
//! for random numbers of instructions, after which all state and all memory must be the same.
//!
//! `ORRERY_JIT_CASES=n` runs more programs than usual, `ORRERY_JIT_SEED=n` other ones.

#![cfg(all(feature = "jit-native", target_os = "linux"))]
#![expect(clippy::disallowed_methods, reason = "the environment says how many cases to run")]

mod machine;

use machine::{CODE, Machine};
use orrery_cpu::Cpus;
use orrery_cpu::cluster::Cluster;
use orrery_cpu::jit::native::Native;
use orrery_cpu::jit::{Compiler, Done, Job, Policy};
use orrery_cpu::region::Limits;
use orrery_cpu::x86::X86Isa;
use orrery_cpu::x86::cpuid::Model;
use orrery_cpu::x86::decode::decode;
use orrery_cpu::x86::disasm::Disasm;
use orrery_cpu::x86::flags;
use orrery_cpu::x86::insn::{CodeSize, Mode};
use orrery_cpu::x86::state::{flag, var};
use std::sync::{Arc, Mutex};

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
}

/// Opcodes of one byte; those that would mostly raise exceptions are left out.
const ONE: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x10, 0x11, 0x12, 0x13,
    0x14, 0x15, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x28, 0x29,
    0x2a, 0x2b, 0x2c, 0x2d, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d,
    0x40, 0x41, 0x42, 0x43, 0x48, 0x49, 0x4a, 0x4b, 0x50, 0x51, 0x53, 0x55, 0x58, 0x59, 0x5a, 0x5b,
    0x5d, 0x5e, 0x63, 0x68, 0x69, 0x6a, 0x6b, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x8b, 0x8d, 0x8f, 0x90, 0x91, 0x97, 0x98, 0x99, 0x9c, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2, 0xa3,
    0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf, 0xb0, 0xb7, 0xb8, 0xbf,
    0xc0, 0xc1, 0xc6, 0xc7, 0xd0, 0xd1, 0xd2, 0xd3, 0xd7, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde,
    0xdf, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfc, 0xfd, 0xfe, 0xff, 0xc3, 0xc9,
];

/// Opcodes behind 0F.
const TWO: &[u8] = &[
    0x10, 0x11, 0x12, 0x14, 0x16, 0x28, 0x29, 0x2a, 0x2c, 0x2d, 0x2e, 0x2f, 0x40, 0x41, 0x42, 0x43,
    0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x4b, 0x4c, 0x4d, 0x4e, 0x4f, 0x50, 0x51, 0x54, 0x55,
    0x56, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x61, 0x62, 0x63, 0x64, 0x65,
    0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75,
    0x76, 0x7e, 0x7f, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c,
    0x9d, 0x9e, 0x9f, 0xa3, 0xa4, 0xa5, 0xab, 0xac, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xb8,
    0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xcf,
    0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xdb, 0xdc, 0xdf, 0xe0, 0xe5, 0xeb, 0xef, 0xf4,
    0xf5, 0xf6, 0xfa, 0xfe,
];

/// A random program: instructions, some branches among them, and back to the start.
fn program(rng: &mut Rng, mode: Mode, vectors: bool) -> Vec<u8> {
    let mut code: Vec<u8> = Vec::new();
    let mut starts = vec![0];
    let count = 4 + rng.below(20);
    while (starts.len() as u64) < count {
        let mut bytes = Vec::new();
        let kind = rng.below(100);
        if kind < 12 {
            // A branch to an earlier place, or over the next few bytes.
            let back = starts[rng.below(starts.len() as u64) as usize];
            let to = match rng.below(3) {
                0 => (back as i64 - code.len() as i64 - 2).max(-128) as i8,
                _ => rng.below(12) as i8,
            };
            let op = if rng.below(8) == 0 {
                0xe0 + rng.below(4) as u8
            } else {
                0x70 + rng.below(16) as u8
            };
            bytes.extend([op, to as u8]);
        } else {
            if rng.below(8) == 0 {
                bytes.push(0x66);
            }
            if rng.below(40) == 0 {
                bytes.push([0x64, 0x2e, 0x36, 0x67][rng.below(4) as usize]);
            }
            if vectors && rng.below(4) == 0 {
                bytes.push([0xf2, 0xf3, 0x66][rng.below(3) as usize]);
            }
            if mode.code == CodeSize::Bits64 && rng.below(2) == 0 {
                bytes.push(0x40 + rng.below(16) as u8);
            }
            if vectors && rng.below(3) != 0 || rng.below(4) == 0 {
                bytes.extend([0x0f, TWO[rng.below(TWO.len() as u64) as usize]]);
            } else {
                bytes.push(ONE[rng.below(ONE.len() as u64) as usize]);
            }
            bytes.extend((0..12).map(|_| rng.next() as u8));
        }
        let mut it = bytes.iter().copied();
        let Ok(insn) = decode(mode, &mut || it.next().ok_or(())) else { continue };
        bytes.truncate(insn.len.into());
        starts.push(code.len());
        code.extend(bytes);
    }
    let back = -(code.len() as i64 + 5);
    code.push(0xe9);
    let size = if mode.code == CodeSize::Bits16 { 2 } else { 4 };
    let back = if size == 2 { back + 2 } else { back };
    code.extend(&(back as i32).to_le_bytes()[..size]);
    code
}

/// A compiler that does all it is asked, and complains when it cannot.
struct Strict(Native);

impl Compiler for Strict {
    fn submit(&mut self, job: Job) {
        self.0.submit(job);
        let failed = self.0.failed.lock().unwrap();
        assert!(failed.is_empty(), "{failed:?}");
    }
    fn poll(&mut self) -> Vec<Done> {
        self.0.poll()
    }
    fn release(&mut self, id: u64) {
        self.0.release(id);
    }
    fn pending(&self) -> usize {
        self.0.pending()
    }
    fn release_all(&mut self) {
        self.0.release_all();
    }
}

/// A compiler that is taken from machine to machine.
#[derive(Clone)]
struct Lent(Arc<Mutex<Strict>>);

impl Compiler for Lent {
    fn submit(&mut self, job: Job) {
        self.0.lock().unwrap().submit(job);
    }
    fn poll(&mut self) -> Vec<Done> {
        self.0.lock().unwrap().poll()
    }
    fn release(&mut self, id: u64) {
        self.0.lock().unwrap().release(id);
    }
    fn pending(&self) -> usize {
        self.0.lock().unwrap().pending()
    }
    fn release_all(&mut self) {
        self.0.lock().unwrap().release_all();
    }
}

struct Case {
    bits: u32,
    code: Vec<u8>,
    ints: [u64; 16],
    vecs: [u128; 16],
    flags: u64,
    memory: Vec<u8>,
}

impl Case {
    fn random(rng: &mut Rng, vectors: bool) -> Self {
        let bits = [16, 32, 64][rng.below(3) as usize];
        let features = orrery_cpu::x86::lift::features(&Model::named("max").expect("a model"));
        let code = match bits {
            16 => CodeSize::Bits16,
            32 => CodeSize::Bits32,
            _ => CodeSize::Bits64,
        };
        let code = program(rng, Mode { code, protected: bits != 16, features }, vectors);
        let mut ints = [0; 16];
        for v in &mut ints {
            // Addresses of memory, mostly; and numbers.
            *v = match rng.below(8) {
                0 => rng.next(),
                1 => rng.below(256),
                _ => 0x2_0000 + rng.below(0x4000),
            };
            if bits != 64 {
                *v &= 0xffff_ffff;
            }
        }
        ints[var::RSP] = 0x8000 + (rng.below(64) * 4);
        let vecs = std::array::from_fn(|_| {
            let float = |r: &mut Rng| match r.below(3) {
                0 => (r.below(1000) as f64 / 8.0 - 60.0).to_bits(),
                1 => {
                    u64::from((r.below(1000) as f32).to_bits()) << 32 | u64::from(1.5f32.to_bits())
                }
                _ => r.next(),
            };
            u128::from(float(rng)) | u128::from(float(rng)) << 64
        });
        let flags = rng.next() & (flag::ARITH | flag::DF) | 2;
        let memory = (0..0x6000).map(|_| rng.next() as u8).collect();
        Self { bits, code, ints, vecs, flags, memory }
    }

    fn machine(&self, compiler: Option<&Lent>) -> Machine {
        let mut m = match self.bits {
            16 => Machine::real(),
            32 => Machine::protected(0),
            _ => Machine::long(0),
        };
        if let Some(compiler) = compiler {
            let limits = Limits { blocks: 8, insns: 80, ..Limits::default() };
            let policy = Policy { eager: true, limits, ..Policy::default() };
            m.cluster.set_compiler(Box::new(compiler.clone()), policy);
        }
        m.write_all(0x2_0000, &self.memory);
        m.write_all(CODE, &self.code);
        let cpu = m.cpu();
        cpu.frame.ints[..16].copy_from_slice(&self.ints);
        cpu.frame.vecs[..16].copy_from_slice(&self.vecs);
        flags::write(&mut cpu.frame, self.flags);
        m
    }

    /// The state after so many instructions.
    fn run(&self, compiler: Option<&Lent>, budget: u64) -> (u64, String, Vec<u8>) {
        let mut m = self.machine(compiler);
        m.board.begin_slice(m.board.now().after(1_000_000));
        let mut ran = 0;
        for _ in 0..50 {
            let r = m.cluster.run(0, &mut m.board, budget - ran);
            ran += r.insns;
            if !r.runnable || ran == budget {
                break;
            }
        }
        let mut memory = vec![0; machine::RAM / 16];
        m.read_all(0, &mut memory);
        if let Some(lent) = compiler {
            lent.0.lock().unwrap().release_all();
        }
        (ran, format!("{:x?}", m.cpu()), memory)
    }

    fn listing(&self) -> String {
        let code = match self.bits {
            16 => CodeSize::Bits16,
            32 => CodeSize::Bits32,
            _ => CodeSize::Bits64,
        };
        let features = orrery_cpu::x86::lift::features(&Model::named("max").expect("a model"));
        let (mut at, mut out) = (0, String::new());
        while at < self.code.len() {
            let mut it = self.code[at..].iter().copied();
            let Ok(insn) = decode(Mode { code, protected: self.bits != 16, features }, &mut || {
                it.next().ok_or(())
            }) else {
                break;
            };
            let pc = if self.bits == 16 { 0 } else { CODE } + at as u64;
            let bytes = &self.code[at..at + usize::from(insn.len)];
            out += &format!("{pc:6x} {} {bytes:02x?}\n", Disasm { insn: &insn, pc });
            at += usize::from(insn.len);
        }
        out
    }
}

/// The first word that differs.
fn difference(a: &str, b: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (a.split(' ').collect(), b.split(' ').collect());
    let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(0);
    let from = at.saturating_sub(12);
    let end = |v: &Vec<&str>| v[from..(at + 6).min(v.len())].join(" ");
    format!("word {at}: interpreted ...{}\n compiled ...{}", end(&a), end(&b))
}

fn compare(vectors: bool, usual: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let cases = number("ORRERY_JIT_CASES").unwrap_or(usual);
    let seed = number("ORRERY_JIT_SEED").unwrap_or(1);
    let lent = Lent(Arc::new(Mutex::new(Strict(
        Native::new(Cluster::<X86Isa>::shims(), false).expect("a compiler"),
    ))));
    for n in 0..cases {
        let mut rng = Rng((seed * 1_000_003 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let case = Case::random(&mut rng, vectors);
        let budget = 1 + rng.below(400);
        let same = |budget| case.run(None, budget) == case.run(Some(&lent), budget);
        if same(budget) {
            continue;
        }
        let first = (1..=budget).find(|&b| !same(b)).unwrap_or(budget);
        let (a, b) = (case.run(None, first), case.run(Some(&lent), first));
        let at = a.2.iter().zip(&b.2).position(|(a, b)| a != b);
        panic!(
            "case {n} ({} bits): after {first} instructions of {budget}; ran {} and {}, memory at {at:x?}\n{}\n{}",
            case.bits,
            a.0,
            b.0,
            difference(&a.1, &b.1),
            case.listing()
        );
    }
}

#[test]
fn integer_programs_come_out_the_same() {
    compare(false, 60);
}

#[test]
fn vector_programs_come_out_the_same() {
    compare(true, 60);
}
