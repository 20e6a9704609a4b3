//! Random A64 instructions, made by the decode table, in all engines and in another emulator.
//!
//! A program sets all registers, flags and FPCR, executes one random instruction, and stores all registers and FPSR; this
//! it does some thousand times. The same image runs in every engine here, and, if `ORRERY_QEMU_AARCH64` names QEMU's user
//! mode emulator (`qemu-aarch64`), there: registers, flags, FPSR and memory must be the same.
//! `ORRERY_A64_PROGRAMS=n` runs more programs than usual, `ORRERY_A64_SEED=n` other ones, `ORRERY_A64_ONLY=NAME` only
//! instructions of one row, `ORRERY_A64_CPU` names another model than `cortex-a57`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test program on the host"
)]

mod engines;
mod outside;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use engines::Engine;
use libtest_mimic::Trial;
use orrery_cpu::Cpus;
use orrery_cpu::aarch64::insn::Insn;
use orrery_cpu::aarch64::{AArch64, AArch64Isa, Model};
use orrery_cpu::cluster::Cluster;
use orrery_system::Board;

/// Most instructions of one program.
const TESTS: u32 = 2500;
/// Instructions of a program that every engine compiles.
const FEW: u32 = 400;
const RAM: usize = 16 << 20;
const BASE: u32 = 0x40_0000;
const CODE: u32 = BASE + 0x1000;
const INPUT: u32 = 0x48_0000;
const INPUTS: u32 = 64;
/// Bytes of a state: X0 to X28, SP, NZCV, FPSR, FPCR, V0 to V31.
const STATE: u32 = 784;
const DATA: u32 = 0x4a_0000;
const DATA_LEN: u32 = 0x4_0000;
const OUTPUT: u32 = DATA + DATA_LEN;
const OUTPUT_LEN: u32 = TESTS * STATE;
const STACK: u32 = 0x7e_0000;
const END: u32 = 0x80_0000;
const VECTORS: u64 = 0x10_0000;

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
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The words of a program.
struct Asm {
    words: Vec<u32>,
}

const fn movz(r: u32, imm: u32, hw: u32) -> u32 {
    0xd280_0000 | hw << 21 | (imm & 0xffff) << 5 | r
}
const fn movk(r: u32, imm: u32, hw: u32) -> u32 {
    0xf280_0000 | hw << 21 | (imm & 0xffff) << 5 | r
}
/// `ldr xt, [xn, #at]`
const fn ldr(t: u32, n: u32, at: u32) -> u32 {
    0xf940_0000 | at / 8 << 10 | n << 5 | t
}
const fn str(t: u32, n: u32, at: u32) -> u32 {
    0xf900_0000 | at / 8 << 10 | n << 5 | t
}
const fn ldr_q(t: u32, n: u32, at: u32) -> u32 {
    0x3dc0_0000 | at / 16 << 10 | n << 5 | t
}
const fn str_q(t: u32, n: u32, at: u32) -> u32 {
    0x3d80_0000 | at / 16 << 10 | n << 5 | t
}
const SVC: u32 = 0xd400_0001;
const RET: u32 = 0xd65f_03c0;

impl Asm {
    fn here(&self) -> u32 {
        CODE + self.words.len() as u32 * 4
    }
    fn emit(&mut self, words: &[u32]) {
        self.words.extend(words);
    }
    fn set(&mut self, r: u32, value: u32) {
        self.emit(&[movz(r, value, 0), movk(r, value >> 16, 1)]);
    }
    fn call(&mut self, to: u32) {
        let by = (to.wrapping_sub(self.here()) >> 2) & 0x03ff_ffff;
        self.emit(&[0x9400_0000 | by]);
    }
    fn syscall(&mut self, number: u32, args: &[u32]) {
        for (i, &arg) in args.iter().enumerate() {
            self.set(i as u32, arg);
        }
        self.emit(&[movz(8, number, 0), SVC]);
    }
}

/// Rows that a program of this kind cannot hold.
fn excluded(insn: Insn) -> bool {
    use Insn::*;
    matches!(
        insn,
        Svc | Hvc
            | Smc
            | Brk
            | Hlt
            | Hint
            | Clrex
            | Isb
            | Dsb
            | Dmb
            | MsrImm
            | Sys
            | MsrMrs
            | Br
            | Blr
            | Ret
            | Eret
            | B
            | LdStExcl
            | LdStExclPair
            | LdStUnpriv
    )
}

fn is_memory(insn: Insn) -> bool {
    use Insn::*;
    matches!(
        insn,
        LdStOrdered
            | Cas
            | CasPair
            | LdStPair
            | LdStUnscaled
            | LdStPost
            | LdStPre
            | LdStReg
            | LdStUnsigned
            | Atomic
            | LdStMulti
            | LdStMultiPost
            | LdStSingle
            | LdStSinglePost
    )
}

/// A random instruction of a row, with registers and places that the program can bear.
fn instruction(insn: Insn, rng: &mut Rng) -> u32 {
    let row = insn.row();
    let mut word = row.random(rng.next() as u32);
    for field in row.pattern.fields() {
        let value = field.get(word);
        let put = |word: u32, v: u32| {
            let mask = ((1 << field.len) - 1) << field.pos;
            word & !mask | v << field.pos
        };
        if field.name().starts_with('R') && field.len == 5 && matches!(value, 29 | 30) {
            word = put(word, value - 16);
        }
        match field.name() {
            "imm19" | "imm14" if insn == Insn::LdLiteral => word = put(word, value & 63),
            "imm19" | "imm14" => word = put(word, 2),
            _ => {}
        }
    }
    if is_memory(insn) {
        // The base is X27, the index X28, the data some other.
        let rt = (word & 31) % 16;
        word = word & !0x3ff | 27 << 5 | rt;
        match insn {
            Insn::LdStPair => word = word & !(31 << 10) | (16 + rng.below(8) as u32) << 10,
            Insn::LdStReg => word = word & !(31 << 16) | 28 << 16,
            Insn::LdStMultiPost | Insn::LdStSinglePost => {
                word = word & !(31 << 16) | rng.pick(&[28, 31]) << 16;
            }
            Insn::Cas | Insn::CasPair | Insn::Atomic => {
                word = word & !(31 << 16) | (16 + rng.below(8) as u32) << 16;
            }
            _ => {}
        }
    }
    word
}

fn double(rng: &mut Rng) -> u64 {
    let f = |x: f64| x.to_bits();
    match rng.below(12) {
        0 => rng.pick(&[0, 1 << 63, f(1.0), f(-1.0), f(2.0), f(0.5), f(1.5), f(3.0)]),
        1 => rng.pick(&[
            f64::INFINITY.to_bits(),
            f64::NEG_INFINITY.to_bits(),
            0x7ff0_0000_0000_0001,
            0xfff8_0000_0000_1234,
        ]),
        2 => rng.pick(&[1, 0x000f_ffff_ffff_ffff, 0x0010_0000_0000_0000, 0x7fef_ffff_ffff_ffff]),
        3 => rng.next() >> 12 | (1000 + rng.below(60)) << 52,
        4 => f((rng.below(2000) as f64 - 1000.0) / 4.0),
        5 => {
            // Singles.
            let s = |rng: &mut Rng| {
                let x = rng.below(200) as f32 / 8.0 - 12.0;
                rng.pick(&[
                    x.to_bits(),
                    0,
                    0x8000_0000,
                    0x3f80_0000,
                    0x7f80_0000,
                    0xff80_0000,
                    0x7f80_0001,
                    0x7fc0_1234,
                    1,
                    0x007f_ffff,
                    0x0080_0000,
                    0x7f7f_ffff,
                ])
            };
            u64::from(s(rng)) << 32 | u64::from(s(rng))
        }
        6 => {
            let s = |rng: &mut Rng| {
                (rng.next() as u32 & 0x807f_ffff) | (100 + rng.below(50) as u32) << 23
            };
            u64::from(s(rng)) << 32 | u64::from(s(rng))
        }
        7 => (0..8).fold(0, |v, _| v << 8 | rng.pick(&[0_u64, 1, 0x7f, 0x80, 0xff, 0x55])),
        _ => rng.next(),
    }
}

fn integer(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => rng.below(64),
        1 => rng.pick(&[
            0,
            1,
            u64::MAX,
            1 << 63,
            (1 << 63) - 1,
            0x8000_0000,
            0x7fff_ffff,
            0xffff_ffff,
        ]),
        2 => u64::from(rng.next() as u32),
        _ => rng.next(),
    }
}

/// What a program is made of: the image from [`BASE`] to [`OUTPUT`], and the words under test with their addresses.
struct Program {
    image: Vec<u8>,
    tests: Vec<(u32, u32)>,
    entry: u32,
}

/// Where the instructions of a program come from.
fn rows(only: Option<&str>) -> Vec<Insn> {
    let all = Insn::ALL.iter().copied().filter(|&i| !excluded(i));
    let rows: Vec<Insn> = match only {
        Some(name) => all.filter(|i| format!("{i:?}").contains(name)).collect(),
        None => all.collect(),
    };
    assert!(!rows.is_empty(), "no such row");
    rows
}

fn program(rng: &mut Rng, rows: &[Insn], tests: u32) -> Program {
    let mut a = Asm { words: Vec::new() };
    // load: all registers from the state at X29.
    let load = a.here();
    a.emit(&[ldr(0, 29, 240), 0xd51b_4200, ldr(0, 29, 248), 0xd51b_4420]);
    a.emit(&[ldr(0, 29, 256), 0xd51b_4400, ldr(0, 29, 232), 0x9100_001f]);
    (0..32).for_each(|n| a.emit(&[ldr_q(n, 29, 272 + n * 16)]));
    (0..29).for_each(|n| a.emit(&[ldr(n, 29, n * 8)]));
    a.emit(&[RET]);
    // save: all registers to the state at X29.
    let save = a.here();
    (0..29).for_each(|n| a.emit(&[str(n, 29, n * 8)]));
    a.emit(&[
        0x9100_03e0,
        str(0, 29, 232),
        0xd53b_4200,
        str(0, 29, 240),
        0xd53b_4420,
        str(0, 29, 248),
    ]);
    (0..32).for_each(|n| a.emit(&[str_q(n, 29, 272 + n * 16)]));
    a.emit(&[RET]);
    // The handler of undefined instructions goes on behind them. X2 is the context: PC is at 440.
    let handler = a.here();
    a.emit(&[ldr(3, 2, 440), 0x9100_1063, str(3, 2, 440), RET]);
    let entry = a.here();
    // sigaltstack and rt_sigaction(SIGILL) with structures in front of the stack.
    a.syscall(132, &[STACK - 0x100, 0]);
    a.syscall(134, &[4, STACK - 0x80, 0, 8]);
    let (count, mut tests) = (tests, Vec::new());
    for n in 0..count {
        let insn = rng.pick(rows);
        let input = INPUT + rng.below(INPUTS.into()) as u32 * STATE;
        a.set(29, input);
        a.call(load);
        if is_memory(insn) {
            let at = DATA + DATA_LEN / 2 + rng.below(0x400) as u32;
            a.set(
                27,
                if matches!(insn, Insn::LdStOrdered | Insn::Cas | Insn::CasPair | Insn::Atomic) {
                    at & !15
                } else {
                    at
                },
            );
            a.set(28, rng.below(200) as u32);
        }
        let word = instruction(insn, rng);
        tests.push((a.here(), word));
        a.emit(&[word]);
        if matches!(insn, Insn::BCond | Insn::Cb | Insn::Tb) {
            a.emit(&[movz(1, 0x77, 0)]);
        }
        a.set(29, OUTPUT + n * STATE);
        a.call(save);
    }
    a.syscall(64, &[1, DATA, DATA_LEN + OUTPUT_LEN]);
    a.syscall(94, &[0]);
    assert!(a.here() < INPUT, "the program is too long");

    let mut image = vec![0; (OUTPUT - BASE) as usize];
    let put = |image: &mut Vec<u8>, at: u32, bytes: &[u8]| {
        let at = (at - BASE) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    for (i, word) in a.words.iter().enumerate() {
        put(&mut image, CODE + i as u32 * 4, &word.to_le_bytes());
    }
    for n in 0..INPUTS {
        let at = INPUT + n * STATE;
        for i in 0..30 {
            put(&mut image, at + i * 8, &integer(rng).to_le_bytes());
        }
        put(&mut image, at + 240, &((rng.next() & 15) << 28).to_le_bytes());
        let fpcr = if rng.below(2) == 0 { 0 } else { (rng.next() & 15) << 22 };
        put(&mut image, at + 256, &fpcr.to_le_bytes());
        for i in 0..64 {
            put(&mut image, at + 272 + i * 8, &double(rng).to_le_bytes());
        }
    }
    for at in (DATA..DATA + DATA_LEN).step_by(8) {
        put(&mut image, at, &double(rng).to_le_bytes());
    }
    // An ELF header and its one segment.
    let word = |v: u64| v.to_le_bytes();
    let mut head = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec();
    head.extend([word(entry.into()), word(64), word(0)].concat());
    head.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    head.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    head.extend([word(0), word(BASE.into()), word(BASE.into())].concat());
    let (file, memory) = (u64::from(OUTPUT - BASE), u64::from(END - BASE));
    head.extend([word(file), word(memory), word(0x1000)].concat());
    put(&mut image, BASE, &head);
    // struct sigaction: handler, SA_ONSTACK | SA_SIGINFO, mask. stack_t: pointer, flags, size.
    let mut program = Program { image, tests, entry };
    program.image.resize((END - BASE) as usize, 0);
    put(
        &mut program.image,
        STACK - 0x80,
        &[word(handler.into()), word(0x0800_0004), word(0)].concat(),
    );
    put(&mut program.image, STACK - 0x100, &[word(STACK.into()), word(0), word(0x1_0000)].concat());
    // All of it is in the file.
    put(&mut program.image, BASE + 64 + 32, &word(u64::from(END - BASE)));
    program
}

/// What the program leaves in one of the engines: data and states.
fn run_here(p: &Program, engine: Engine, model: Model) -> Vec<u8> {
    let mut board = Board::with_ram(RAM);
    board.ram().write_bytes(BASE as usize, &p.image);
    let mut cluster: Cluster<AArch64Isa> = Cluster::new([AArch64::new(model, 0)]);
    engine.lend(&mut cluster);
    let cpu = cluster.cpu_mut(0);
    cpu.sys.cpacr = 3 << 20;
    cpu.sys.vbar = VECTORS;
    cpu.switch(0, true);
    cpu.pc = p.entry.into();
    // Exceptions stop the run there.
    let stop = 0x1400_0000_u32;
    board.ram().write_bytes(VECTORS as usize + 0x400, &stop.to_le_bytes());
    loop {
        let end = board.now().after(1_000_000_000);
        board.begin_slice(end);
        let ran = cluster.run(0, &mut board, 50_000);
        board.end_slice(ran.insns);
        let cpu = cluster.cpu_mut(0);
        if cpu.sys.el == 0 {
            continue;
        }
        let (class, number) = (cpu.sys.esr >> 26, cpu.x(8));
        assert!(
            matches!(class, 0 | 0x15),
            "ESR {:x} at {:x}, FAR {:x}",
            cpu.sys.esr,
            cpu.sys.elr,
            cpu.sys.far
        );
        if class == 0x15 && number == 64 {
            let mut out = vec![0; (DATA_LEN + OUTPUT_LEN) as usize];
            board.ram().read_bytes(DATA as usize, &mut out);
            return out;
        }
        if class == 0 {
            cpu.sys.elr += 4;
        } else {
            cpu.set_x(0, 0);
        }
        cpu.set_nzcv(cpu.sys.spsr);
        let elr = cpu.sys.elr;
        cpu.switch(0, true);
        cpu.pc = elr;
    }
}

fn run_there(p: &Program, qemu: &str, model: &str, n: u64) -> Vec<u8> {
    let dir = std::env::temp_dir();
    let name =
        |end: &str| -> PathBuf { dir.join(format!("orrery-a64-{}-{n}{end}", std::process::id())) };
    let (image, output) = (name(".elf"), name(".out"));
    std::fs::write(&image, &p.image).expect("a place for the program");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&image, mode).expect("its mode");
    }
    let out = std::fs::File::create(&output).expect("a place for its output");
    let status = Command::new(qemu)
        .args(["-cpu", model])
        .arg(&image)
        .stdin(Stdio::null())
        .stdout(out)
        .status()
        .expect("the other emulator");
    let bytes = std::fs::read(&output).expect("its output");
    let _ = std::fs::remove_file(&output);
    if status.success() {
        let _ = std::fs::remove_file(&image);
    }
    assert!(status.success(), "{status}: {}", image.display());
    bytes
}

fn differences(p: &Program, ours: &[u8], theirs: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    let data = DATA_LEN as usize;
    for (n, &(at, word)) in p.tests.iter().enumerate() {
        let from = data + n * STATE as usize;
        let (a, b) = (&ours[from..from + STATE as usize], &theirs[from..from + STATE as usize]);
        if a == b {
            continue;
        }
        let text = Insn::decode(word).map_or("?".into(), |i| i.row().list(word));
        let mut line = format!("{at:x} {word:08x} {text}");
        let parts = (0..34).map(|i| (i * 8, 8)).chain((0..32).map(|i| (272 + i * 16, 16)));
        for (i, (at, len)) in parts.enumerate() {
            let (x, y) = (&a[at..at + len], &b[at..at + len]);
            if x != y {
                let hex = |v: &[u8]| v.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
                let name = match i {
                    0..=28 => format!("x{i}"),
                    29 => "sp".into(),
                    30 => "nzcv".into(),
                    31 => "fpsr".into(),
                    32 | 33 => "fpcr".into(),
                    _ => format!("v{}", i - 34),
                };
                line += &format!("\n    {name}: {} and {}", hex(x), hex(y));
            }
        }
        out.push(line);
    }
    if out.is_empty() {
        if let Some(at) = (0..data).find(|&i| ours[i] != theirs[i]) {
            out.push(format!("memory at {:x}", DATA as usize + at));
        }
    }
    out
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(usual)
}

fn model() -> Model {
    let name = std::env::var("ORRERY_A64_CPU").unwrap_or("cortex-a57".into());
    Model::named(&name).expect("a CPU model")
}

fn programs(usual: u64, tests: u32, mut each: impl FnMut(u64, &Program)) {
    let only = std::env::var("ORRERY_A64_ONLY").ok();
    let rows = rows(only.as_deref());
    let seed = number("ORRERY_A64_SEED", 1);
    for n in 0..number("ORRERY_A64_PROGRAMS", usual) {
        let mut rng = Rng((seed * 1_000_003 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        each(n, &program(&mut rng, &rows, tests));
    }
}

fn agree(p: &Program, ours: &[u8], theirs: &[u8], who: &str) {
    assert_eq!(theirs.len(), ours.len(), "{who} wrote less");
    let found = differences(p, ours, theirs);
    assert!(
        found.is_empty(),
        "{} of {} instructions differ from {who}:\n{}",
        found.len(),
        p.tests.len(),
        found.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    );
}

fn main() -> std::process::ExitCode {
    outside::main(vec![
        Trial::test("random_instructions_come_out_the_same_in_all_engines", || {
            programs(2, FEW, |_, p| {
                let want = run_here(p, Engine::Interpreter, model());
                for engine in engines::chosen().into_iter().filter(|&e| e != Engine::Interpreter) {
                    agree(p, &run_here(p, engine, model()), &want, engine.name());
                }
            });
            Ok(())
        }),
        outside::test(
            "random_instructions_come_out_as_in_another_emulator",
            &["ORRERY_QEMU_AARCH64"],
            |values| {
                programs(40, TESTS, |n, p| {
                    let want = run_there(p, &values[0], model().name, n);
                    agree(p, &run_here(p, Engine::Interpreter, model()), &want, "QEMU");
                });
            },
        ),
    ])
}
