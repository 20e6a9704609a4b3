//! Runs programs of kvm-unit-tests (<https://gitlab.com/kvm-unit-tests/kvm-unit-tests>).
//!
//! `KVM_UNIT_TESTS` is a colon-separated list of the `x86` folders of builds; `KVM_UNIT_TESTS_ONLY`
//! picks one program by name. Without the first the test counts as ignored.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test program on the host")]

mod bare;
mod engines;
mod outside;

use std::collections::BTreeSet;

use bare::Bare;

/// Programs that need no more of a machine than there is here.
const PROGRAMS: &[&str] = &[
    "realmode",
    "cmpxchg8b",
    "emulator",
    "taskswitch",
    "taskswitch2",
    "smap",
    "umip",
    "msr",
    "tsc",
    "tsc_adjust",
    "setjmp",
    "syscall",
    "debug",
    "idt_test",
    "memory",
    "access_test",
];

/// What fails so far, in 64-bit builds.
const KNOWN: &[(&str, &str)] = &[];

fn main() -> std::process::ExitCode {
    outside::main(vec![outside::test(
        "kvm_unit_tests_pass_as_far_as_is_known",
        &["KVM_UNIT_TESTS"],
        |folders| {
            for engine in engines::chosen() {
                pass_as_far_as_is_known(&folders[0], engine);
            }
        },
    )])
}

fn pass_as_far_as_is_known(folders: &str, engine: engines::Engine) {
    let limit = std::env::var("KVM_UNIT_TESTS_LIMIT")
        .map_or(3_000_000_000, |v| v.parse().expect("a number"));
    let only = std::env::var("KVM_UNIT_TESTS_ONLY").ok();
    let (mut known, mut unexpected, mut wide) = (BTreeSet::new(), Vec::new(), false);
    for folder in folders.split(':') {
        for &name in PROGRAMS {
            let Ok(elf) = std::fs::read(format!("{folder}/{name}.flat")) else { continue };
            if only.as_ref().is_some_and(|o| o != name) {
                continue;
            }
            let mut machine = Bare::new("max", 256 << 20, &[]);
            machine.multiboot(&elf, &format!("{name}.flat"));
            engine.lend(&mut machine.cpus);
            let insns = machine.run(limit);
            let said = machine.said.lock().unwrap();
            let text = String::from_utf8_lossy(&said.text);
            let failed = |l: &&str| l.starts_with("FAIL") || l.starts_with("Unhandled");
            let failures: Vec<&str> = text.lines().filter(failed).collect();
            let passes = text
                .lines()
                .filter(|l| l.trim_start_matches(char::is_control).starts_with("PASS"))
                .count();
            println!(
                "{engine:?} {folder} {name}: {passes} PASS, {} FAIL, exit {:?}, {insns} instructions ({})",
                failures.len(),
                said.exit,
                engines::compiled(&machine.cpus)
            );
            if only.is_some() {
                println!("{text}");
            }
            if said.exit.is_none() {
                println!("{}", machine.cpus.cpu(0).dump());
                unexpected.push(format!("{engine:?} {folder} {name}: no end"));
            }
            for line in failures {
                println!("  {line}");
                if KNOWN.contains(&(name, line)) {
                    known.insert((name, line.to_string()));
                } else {
                    unexpected.push(format!("{engine:?} {folder} {name}: {line}"));
                }
            }
        }
        // Only 64-bit builds have this one.
        wide |= std::path::Path::new(&format!("{folder}/access_test.flat")).exists();
    }
    assert_eq!(unexpected, Vec::<String>::new());
    if wide && only.is_none() {
        let all = KNOWN.iter().map(|&(name, line)| (name, line.to_string())).collect();
        assert_eq!(known, all, "known failures that no longer fail");
    }
}
