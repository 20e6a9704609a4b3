//! Runs test386.asm (<https://github.com/barotto/test386.asm>), a test of the 80386's instruction
//! set and system architecture that takes the place of the BIOS.
//!
//! `TEST386_ROM` names the assembled ROM (64 or 128 KiB, `OUT_PORT equ 0xe9`), `TEST386_REFERENCE`
//! the project's `test386-EE-reference.txt`. Without them the test counts as ignored.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test program on the host")]

mod bare;
mod engines;
mod outside;

use bare::Bare;

fn main() -> std::process::ExitCode {
    outside::main(vec![outside::test(
        "test386_reaches_its_end_and_prints_what_a_386_prints",
        &["TEST386_ROM", "TEST386_REFERENCE"],
        |files| {
            for engine in engines::chosen() {
                prints_what_a_386_prints(&files[0], &files[1], engine);
            }
        },
    )])
}

fn prints_what_a_386_prints(path: &str, reference: &str, engine: engines::Engine) {
    let rom = std::fs::read(path).expect("the ROM can be read");
    let mut machine = Bare::new("486", 0x10_0000, &rom);
    engine.lend(&mut machine.cpus);
    let insns = machine.run(200_000_000);
    let said = machine.said.lock().unwrap();
    let text = String::from_utf8_lossy(&said.text);
    println!(
        "{engine:?}: {insns} instructions ({}), POST codes {:02x?}",
        engines::compiled(&machine.cpus),
        said.post
    );
    if said.post.last() != Some(&0xff) {
        println!(
            "{}\n{}",
            text.lines().rev().take(5).collect::<Vec<_>>().join("\n"),
            machine.cpus.cpu(0).dump()
        );
    }
    assert_eq!(said.post.last(), Some(&0xff), "the last test it began");
    let reference = std::fs::read(reference).expect("the reference can be read");
    let reference = String::from_utf8_lossy(&reference);
    let pairs = || text.lines().zip(reference.lines());
    let wrong = pairs().filter(|(a, b)| a != b).count();
    for (a, b) in pairs().filter(|(a, b)| a != b).take(20) {
        println!("  is  {a}\n  not {b}");
    }
    println!("{} of {} lines equal", pairs().count() - wrong, reference.lines().count());
    assert_eq!((wrong, text.lines().count()), (0, reference.lines().count()));
}
