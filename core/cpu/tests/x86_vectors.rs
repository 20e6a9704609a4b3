//! Single-instruction vectors recorded on a real 80286 in real mode (SingleStepTests/80286).
//!
//! The sample beside this file runs always. `ORRERY_VECTORS_286=folder` runs the whole set from
//! its `v1_real_mode` folder and prints what passes; `ORRERY_VECTORS_ONLY=F7` picks files,
//! `ORRERY_VECTORS_EVERY=n` one vector in so many, `ORRERY_ENGINE=one-pass` an engine. Otherwise
//! every engine runs all of them, compiled code made of each vector before it runs.
//!
//! The processor under test is a 486 or later. Where the 286 differs the vector is set aside, see
//! [`difference`]; flags that the manual calls undefined are masked, see [`undefined_flags`].

#![expect(
    clippy::disallowed_methods,
    reason = "test data comes from files that the environment names"
)]
#![expect(clippy::print_stdout, reason = "pass counts are what the full run is for")]

mod engines;
mod machine;
mod outside;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use engines::Engine;
use machine::Machine;
use orrery_cpu::x86::flags;
use orrery_cpu::x86::state::{Activity, Segment, flag, seg, var};

const REGS: [&str; 14] =
    ["ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags"];
const IP: usize = 12;
const FLAGS: usize = 13;

#[derive(Clone, Default)]
struct State {
    regs: [Option<u16>; 14],
    ram: Vec<(u32, u8)>,
}

#[derive(Clone, Default)]
struct Vector {
    index: u32,
    name: String,
    bytes: Vec<u8>,
    before: State,
    after: State,
    /// Exception number and the bus address its flags word was pushed at.
    exception: Option<(u8, u32)>,
}

/// Reads MOO chunks.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, rest) = self.0.split_at_checked(4)?;
        let (len, rest) = rest.split_at_checked(4)?;
        let (body, rest) = rest.split_at_checked(u32_at(len, 0) as usize)?;
        self.0 = rest;
        Some((tag, body))
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

fn state(body: &[u8]) -> State {
    let mut s = State::default();
    for (tag, b) in Chunks(body) {
        match tag {
            b"REGS" => {
                let mask = u16::from_le_bytes([b[0], b[1]]);
                let mut at = 2;
                for (i, reg) in s.regs.iter_mut().enumerate() {
                    if mask >> i & 1 != 0 {
                        *reg = Some(u16::from_le_bytes([b[at], b[at + 1]]));
                        at += 2;
                    }
                }
            }
            b"RAM " => {
                s.ram = b[4..].as_chunks::<5>().0.iter().map(|c| (u32_at(c, 0), c[4])).collect();
            }
            _ => {}
        }
    }
    s
}

fn vectors(file: &[u8]) -> Vec<Vector> {
    let mut all = Vec::new();
    for (tag, body) in Chunks(file) {
        if tag != b"TEST" {
            continue;
        }
        let mut v = Vector { index: u32_at(body, 0), ..Vector::default() };
        for (tag, b) in Chunks(&body[4..]) {
            match tag {
                b"NAME" => v.name = String::from_utf8_lossy(&b[4..]).into_owned(),
                b"BYTS" => v.bytes = b[4..].to_vec(),
                b"INIT" => v.before = state(b),
                b"FINA" => v.after = state(b),
                b"EXCP" => v.exception = Some((b[0], u32_at(b, 1))),
                _ => {}
            }
        }
        all.push(v);
    }
    all
}

fn unpack(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes;
    }
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut out).unwrap();
    out
}

/// The opcode and the ModRM byte (or what follows the opcode), after prefixes.
fn opcode(bytes: &[u8]) -> (u8, u8) {
    let n = bytes
        .iter()
        .position(|b| !matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0 | 0xf2 | 0xf3))
        .unwrap_or(0);
    (bytes[n], bytes.get(n + 1).copied().unwrap_or(0))
}

/// Flags an instruction leaves undefined (80286 programmer's reference; those of the vectors'
/// own description, and what later processors define otherwise).
fn undefined_flags(bytes: &[u8]) -> u64 {
    use flag::{AF, CF, OF, PF, SF, ZF};
    let (op, modrm) = opcode(bytes);
    match (op, modrm >> 3 & 7) {
        (0x08..=0x0d | 0x20..=0x25 | 0x30..=0x35 | 0x84 | 0x85 | 0xa8 | 0xa9, _) => AF,
        (0x80..=0x83, 1 | 4 | 6) | (0xf6 | 0xf7, 0 | 1) => AF,
        (0xd0 | 0xd1, 4..=7) => AF,
        (0xc0 | 0xc1 | 0xd2 | 0xd3, 0..=3) => OF,
        (0xc0 | 0xc1 | 0xd2 | 0xd3, _) => OF | AF | CF,
        (0x27 | 0x2f, _) => OF,
        (0x37 | 0x3f, _) => OF | SF | ZF | PF,
        (0x69 | 0x6b, _) | (0xf6 | 0xf7, 4 | 5) => SF | ZF | AF | PF,
        (0xd4, _) if modrm == 0 => OF | SF | ZF | AF | PF | CF,
        (0xd4 | 0xd5, _) => OF | AF | CF,
        (0xf6 | 0xf7, 6 | 7) => OF | SF | ZF | AF | PF | CF,
        _ => 0,
    }
}

/// Why a 486 does something else than this 286 vector records, if it does.
fn difference(v: &Vector) -> Option<&'static str> {
    let prefixes =
        v.bytes.iter().take_while(|b| matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0 | 0xf2 | 0xf3));
    let (op, modrm) = opcode(&v.bytes);
    let string = matches!(op, 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf);
    match v.exception {
        _ if prefixes.clone().any(|&b| b == 0xf0) => {
            Some("LOCK before an instruction that cannot be locked is #UD from the 386 on")
        }
        // The vector's bytes end with the HLT.
        Some((13, _)) if v.bytes.len() > 11 => {
            Some("the 286 allows 10 bytes in an instruction, later processors 15")
        }
        Some((6, _)) if matches!(op, 0x8c | 0x8e) && matches!(modrm >> 3 & 7, 4 | 5) => {
            Some("the 286 has no FS and GS")
        }
        Some((13, _)) if string => {
            Some("the 286 leaves index and count stepped when a string instruction faults")
        }
        Some((13, _)) if op == 0x8f => Some("the 286 leaves SP incremented when POP faults"),
        Some((13, _)) if matches!(op, 0xc6 | 0xc7) && modrm >> 3 & 7 != 0 => {
            Some("the 286 counts the bytes of an instruction before it looks at ModRM")
        }
        None if op == 0xd8 => Some("without an 80287 nothing checks its operand"),
        None if op == 0xf6 && v.after.regs[0].is_some_and(|ax| ax & 0xff == 0x80) => {
            Some("the 286 misses that an IDIV overflows when its quotient comes out as 80")
        }
        // INT 3B, INTO and an invalid FF /3, one vector each.
        Some(_) if matches!((op, v.index), (0xcd, 2044) | (0xce, 1193) | (0xff, 1141)) => {
            Some("recorded with SS pushed in place of CS")
        }
        _ => None,
    }
}

struct Runner {
    m: Machine,
}

impl Runner {
    fn new(engine: Engine) -> Self {
        let mut m = Machine::real();
        // An instruction and the HLT it leads to.
        engine.lend_within(&mut m.cluster, 2);
        Self { m }
    }

    fn run(&mut self, v: &Vector) -> Result<(), String> {
        let m = &mut self.m;
        let get = |i: usize| v.before.regs[i].unwrap_or(0);
        for &(at, byte) in &v.before.ram {
            m.write(at.into(), &[byte]);
        }
        for &(at, _) in &v.after.ram {
            if !v.before.ram.iter().any(|&(a, _)| a == at) {
                m.write(at.into(), &[0]);
            }
        }
        // The 286 raises 13 where later processors raise 12 for the stack segment: both vectors
        // lead to its handler.
        if let Some((13, _)) = v.exception {
            let handler = m.read(13 * 4, 4) as u32;
            m.write(12 * 4, &handler.to_le_bytes());
        }
        let cpu = m.cpu();
        for (i, r) in [
            (0, var::RAX),
            (1, var::RBX),
            (2, var::RCX),
            (3, var::RDX),
            (8, var::RSP),
            (9, var::RBP),
            (10, var::RSI),
            (11, var::RDI),
            (IP, var::RIP),
        ] {
            cpu.frame.ints[r] = get(i).into();
        }
        for (i, s) in [(4, seg::CS), (5, seg::SS), (6, seg::DS), (7, seg::ES)] {
            cpu.set_segment(s, Segment::real(get(i)));
        }
        flags::write(&mut cpu.frame, u64::from(get(FLAGS)) & 0x0fff);
        cpu.sys.activity = Activity::Running;
        cpu.x87.init();
        m.run(2000);
        let result = self.compare(v);
        for &(at, _) in v.before.ram.iter().chain(&v.after.ram) {
            self.m.write(at.into(), &[0]);
        }
        self.m.write(12 * 4, &[0; 4]);
        result
    }

    fn compare(&mut self, v: &Vector) -> Result<(), String> {
        let m = &mut self.m;
        if !m.halted() {
            return Err(format!("no HLT, IP {:04x}", m.get(var::RIP)));
        }
        let undefined = undefined_flags(&v.bytes);
        let mut wrong = Vec::new();
        let ours = [
            m.get(var::RAX),
            m.get(var::RBX),
            m.get(var::RCX),
            m.get(var::RDX),
            m.get(var::SEG_SELECTOR + seg::CS),
            m.get(var::SEG_SELECTOR + seg::SS),
            m.get(var::SEG_SELECTOR + seg::DS),
            m.get(var::SEG_SELECTOR + seg::ES),
            m.get(var::RSP),
            m.get(var::RBP),
            m.get(var::RSI),
            m.get(var::RDI),
            m.get(var::RIP),
            m.flags(),
        ];
        for (i, name) in REGS.iter().enumerate() {
            let want = u64::from(v.after.regs[i].or(v.before.regs[i]).unwrap_or(0));
            let mask = if i == FLAGS { 0x0fff & !undefined } else { 0xffff };
            // After a HLT at FFFF IP goes on to 10000, where the 286 has no room for it.
            let wide = i < IP && ours[i] > 0xffff;
            if (ours[i] ^ want) & mask != 0 || wide {
                wrong.push(format!("{name} {:04x} not {want:04x}", ours[i]));
            }
        }
        let after = |i: usize| u32::from(v.after.regs[i].or(v.before.regs[i]).unwrap_or(0));
        let flags_at = (after(5) << 4) + ((after(8) + 4) & 0xffff);
        for &(at, want) in &v.after.ram {
            let mut mask = 0xff;
            if v.exception.is_some() {
                if at == flags_at {
                    mask = !undefined as u8;
                } else if at == flags_at + 1 {
                    mask = 0x0f & !(undefined >> 8) as u8;
                }
            }
            let have = m.read(at.into(), 1) as u8;
            if (have ^ want) & mask != 0 {
                wrong.push(format!("[{at:05x}] {have:02x} not {want:02x}"));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!("{} exception {:?}", wrong.join(", "), v.exception))
    }
}

#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
    first: Vec<String>,
    skipped: BTreeMap<&'static str, u32>,
}

fn run_all(runner: &mut Runner, all: &[Vector], every: usize) -> Count {
    let mut count = Count::default();
    for v in all.iter().step_by(every) {
        match runner.run(v) {
            Ok(()) => count.passed += 1,
            Err(e) => {
                if let Some(why) = difference(v) {
                    *count.skipped.entry(why).or_default() += 1;
                    continue;
                }
                count.failed += 1;
                if count.first.len() < 3 {
                    let before: Vec<String> = REGS
                        .iter()
                        .zip(v.before.regs)
                        .map(|(n, r)| format!("{n}={:04x}", r.unwrap_or(0)))
                        .collect();
                    count.first.push(format!(
                        "{} {} {:02x?}: {e} from {}",
                        v.index,
                        v.name,
                        v.bytes,
                        before.join(" ")
                    ));
                }
            }
        }
    }
    count
}

fn main() -> std::process::ExitCode {
    outside::main(vec![
        outside::test("the_sample_passes", &[], |_| the_sample_passes()),
        outside::test("the_full_set_passes", &["ORRERY_VECTORS_286"], |folder| {
            the_full_set_passes(&folder[0]);
        }),
    ])
}

fn the_sample_passes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/80286/sample.moo.gz");
    let all = vectors(&unpack(&path));
    assert!(all.len() > 2000, "{} vectors", all.len());
    for engine in engines::chosen() {
        let mut runner = Runner::new(engine);
        let count = run_all(&mut runner, &all, 1);
        assert_eq!(count.failed, 0, "{engine:?}: {}", count.first.join("\n"));
        assert!(count.passed > 2000, "{engine:?}");
        if let Some(stats) = runner.m.cluster.jit_stats() {
            assert!(stats.run > all.len() as u64, "{engine:?}: {stats:?}");
        }
    }
}

fn the_full_set_passes(folder: &str) {
    let only = std::env::var("ORRERY_VECTORS_ONLY").unwrap_or_default();
    let every = std::env::var("ORRERY_VECTORS_EVERY")
        .map_or(1, |n| n.parse().expect("ORRERY_VECTORS_EVERY is a number"));
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.to_string_lossy().contains(".MOO"))
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(&only))
        .collect();
    files.sort();
    let mut failed = 0;
    for engine in engines::chosen() {
        let mut total = Count::default();
        let mut bad = 0;
        let mut runner = Runner::new(engine);
        for path in &files {
            let count = run_all(&mut runner, &vectors(&unpack(path)), every);
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if count.failed != 0 {
                bad += 1;
                println!(
                    "{engine:?} {name}: {} pass, {} FAIL, {:?}",
                    count.passed, count.failed, count.skipped
                );
                count.first.iter().for_each(|f| println!("    {f}"));
            }
            total.passed += count.passed;
            total.failed += count.failed;
            for (why, n) in count.skipped {
                *total.skipped.entry(why).or_default() += n;
            }
        }
        println!(
            "{engine:?}: {} pass, {} fail in {bad} files ({}); set aside: {:#?}",
            total.passed,
            total.failed,
            engines::compiled(&runner.m.cluster),
            total.skipped
        );
        assert_ne!(total.passed, 0, "no vectors in {folder}");
        failed += total.failed;
    }
    assert_eq!(failed, 0);
}
