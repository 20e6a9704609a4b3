//! The interpreter against the processor that runs the tests: random instructions with random
//! operands in 64-bit mode, all registers, memory and the defined flags compared.
//!
//! `ORRERY_NATIVE_CASES=n` runs more cases than usual, `ORRERY_NATIVE_SEED=n` other ones.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(clippy::disallowed_methods, reason = "the environment says how many cases to run")]
#![expect(unsafe_code, reason = "runs machine code it has made")]

mod machine;
mod native {
    pub(crate) mod generate;
    pub(crate) mod host;
}

use std::collections::BTreeMap;

use machine::{CODE, Machine};
use native::generate::{Case, Rng, undefined_flags, undefined_result};
use native::host::{Context, DATA, DATA_LEN, Host};
use orrery_cpu::x86::disasm::Disasm;
use orrery_cpu::x86::flags;
use orrery_cpu::x86::state::{Activity, flag, var};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs one instruction here; true when it raised an exception.
fn run_ours(m: &mut Machine, context: &Context) -> (Context, bool) {
    let base = m.cpu().sys.clone();
    let cpu = m.cpu();
    for n in (0..16).filter(|&n| n != var::RSP) {
        cpu.frame.ints[n] = context.gpr[n];
    }
    cpu.frame.vecs[..16].copy_from_slice(&context.xmm);
    flags::write(&mut cpu.frame, context.flags);
    cpu.frame.ints[var::RIP] = CODE;
    // A repeated string instruction may stop between two elements.
    for _ in 0..100 {
        m.run_one();
        if m.get(var::RIP) != CODE {
            break;
        }
    }
    let mut after = Context::default();
    let cpu = m.cpu();
    after.gpr.copy_from_slice(&cpu.frame.ints[..16]);
    after.gpr[var::RSP] = 0;
    after.xmm.copy_from_slice(&cpu.frame.vecs[..16]);
    after.flags = flags::read(&cpu.frame) & (flag::ARITH | flag::DF);
    let trapped = cpu.sys.activity == Activity::Shutdown;
    if trapped {
        cpu.sys = base;
        cpu.reset_request = false;
    }
    (after, trapped)
}

fn differences(ours: &Context, theirs: &Context, undefined: u64) -> Vec<String> {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    let mut out = Vec::new();
    for (n, name) in NAMES.iter().enumerate() {
        if ours.gpr[n] != theirs.gpr[n] {
            out.push(format!("{name} {:x} not {:x}", ours.gpr[n], theirs.gpr[n]));
        }
        if ours.xmm[n] != theirs.xmm[n] {
            out.push(format!("xmm{n} {:032x} not {:032x}", ours.xmm[n], theirs.xmm[n]));
        }
    }
    if (ours.flags ^ theirs.flags) & !undefined != 0 {
        out.push(format!(
            "flags {:x} not {:x} (undefined {undefined:x})",
            ours.flags, theirs.flags
        ));
    }
    out
}

fn compare(vectors: bool, usual: u64) {
    let cases = number("ORRERY_NATIVE_CASES").unwrap_or(usual);
    let seed = number("ORRERY_NATIVE_SEED").unwrap_or(1);
    let mut rng = Rng::new(seed);
    let mut host = Host::new();
    let mut m = Machine::long(0);
    let mut done = 0;
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let mut bad: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    while done < cases {
        let Some(case) = Case::random(&mut rng, vectors) else { continue };
        let name = case.insn.id.name();
        m.write(CODE, &case.bytes);
        host.place(&case.bytes);
        for _ in 0..8 {
            let (context, data) = case.operands(&mut rng);
            if undefined_result(&case.insn, &context) {
                continue;
            }
            if case.uses_memory() {
                m.write_all(DATA, &data);
                host.data().copy_from_slice(&data);
            }
            let (ours, trapped) = run_ours(&mut m, &context);
            let (theirs, native_trap) = host.run(&context);
            done += 1;
            *seen.entry(name).or_default() += 1;
            let mut wrong = if trapped || native_trap {
                if trapped == native_trap {
                    continue;
                }
                vec![format!("trapped here {trapped}, there {native_trap}")]
            } else {
                differences(&ours, &theirs, undefined_flags(&case.insn, &context))
            };
            if case.uses_memory() {
                let mut mine = vec![0; DATA_LEN];
                m.read_all(DATA, &mut mine);
                if let Some(at) = (0..DATA_LEN).find(|&i| mine[i] != host.data()[i]) {
                    wrong.push(format!(
                        "memory at {at:x}: {:02x} not {:02x}",
                        mine[at],
                        host.data()[at]
                    ));
                }
            }
            if !wrong.is_empty() {
                let text = Disasm { insn: &case.insn, pc: CODE };
                let entry = bad.entry(name).or_default();
                entry.0 += 1;
                if entry.1.is_empty() {
                    entry.1 = format!(
                        "{text} {:02x?}: {} from {context:x?}",
                        case.bytes,
                        wrong.join(", ")
                    );
                }
            }
        }
    }
    let report: Vec<String> = bad
        .iter()
        .map(|(name, (n, first))| format!("{name}: {n} of {}: {first}", seen[name]))
        .collect();
    assert!(bad.is_empty(), "{done} cases, {} instructions\n{}", seen.len(), report.join("\n"));
    assert!(seen.len() > 60, "only {} instructions: {seen:?}", seen.len());
}

#[test]
fn integer_instructions_do_what_this_processor_does() {
    compare(false, 400_000);
}

#[test]
fn vector_instructions_do_what_this_processor_does() {
    compare(true, 200_000);
}
