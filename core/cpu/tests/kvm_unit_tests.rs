//! Runs programs of kvm-unit-tests (<https://gitlab.com/kvm-unit-tests/kvm-unit-tests>).
//!
//! `KVM_UNIT_TESTS` is a colon-separated list of the `x86` folders of builds; `KVM_UNIT_TESTS_ONLY`
//! picks one program by name. Without the first there is nothing to run.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test program on the host")]

mod bare;

use bare::Bare;

/// Programs, model, arguments, and how many of their checks pass and fail.
const PROGRAMS: &[(&str, &str, &str, usize, usize)] = &[
    ("realmode", "max", "", 0, 0),
    ("cmpxchg8b", "max", "", 0, 0),
    ("emulator", "max", "", 0, 0),
    ("taskswitch", "max", "", 0, 0),
    ("taskswitch2", "max", "", 0, 0),
    ("smap", "max", "", 0, 0),
    ("umip", "max", "", 0, 0),
    ("msr", "max", "", 0, 0),
    ("tsc", "max", "", 0, 0),
    ("tsc_adjust", "max", "", 0, 0),
    ("setjmp", "max", "", 0, 0),
    ("syscall", "max", "", 0, 0),
    ("debug", "max", "", 0, 0),
    ("idt_test", "max", "", 0, 0),
    ("memory", "max", "", 0, 0),
    ("access_test", "max", "", 0, 0),
];

#[test]
fn kvm_unit_tests_pass_as_far_as_is_known() {
    let Ok(folders) = std::env::var("KVM_UNIT_TESTS") else {
        println!("KVM_UNIT_TESTS is not set: nothing was run");
        return;
    };
    let limit = std::env::var("KVM_UNIT_TESTS_LIMIT").map_or(3_000_000_000, |v| v.parse().expect("a number"));
    let only = std::env::var("KVM_UNIT_TESTS_ONLY").ok();
    for folder in folders.split(':') {
        for &(name, model, arguments, passes, failures) in PROGRAMS {
            let Ok(elf) = std::fs::read(format!("{folder}/{name}.flat")) else { continue };
            if only.as_ref().is_some_and(|o| o != name) {
                continue;
            }
            let mut machine = Bare::new(model, 256 << 20, &[]);
            machine.multiboot(&elf, &format!("{name}.flat {arguments}"));
            let insns = machine.run(limit);
            let said = machine.said.lock().unwrap();
            let text = String::from_utf8_lossy(&said.text);
            let count = |what: &str| text.lines().filter(|l| l.starts_with(what)).count();
            println!(
                "{folder} {name}: {} PASS, {} FAIL, exit {:?}, {insns} instructions",
                count("PASS"),
                count("FAIL"),
                said.exit
            );
            if only.is_some() {
                println!("{text}");
            }
            if said.exit.is_none() {
                let last: Vec<&str> = text.lines().rev().take(3).collect();
                println!("{last:?}\n{}", machine.cpus.cpu(0).dump());
            } else {
                text.lines().filter(|l| l.starts_with("FAIL")).for_each(|l| println!("  {l}"));
            }
            let _ = (passes, failures);
        }
    }
}
