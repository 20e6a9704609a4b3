//! The deterministic clock: the same start gives the same machine, instruction by instruction,
//! and a saved machine goes on as if it had never been saved.

use crate::Test;
use crate::program::{Folder, shared};
use anyhow::{Result, ensure};

/// Seed of the points where machines are saved; any will do, but a failure should come again.
const SEED: u64 = 0x5eed_0f0f_2014_0001;
/// Virtual milliseconds of the whole run.
const END: u64 = 9000;
/// A directory is asked for at this time.
const TYPED: u64 = 7000;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    let mut tests = vec![Test::new("determinism: FreeDOS twice is the same", 100, twice)];
    tests.push(Test::new("determinism: the same from every engine", 200, engines));
    let mut state = SEED;
    for i in 0..4 {
        let at = 100 + next(&mut state) % (END - 200);
        let name = format!("determinism: FreeDOS saved and restored, {i}: after {at} ms");
        tests.push(Test::new(&name, 110, move || saved_at(at)));
    }
    tests
}

/// xorshift64*
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
}

/// What happens between two virtual times: a key at [`TYPED`], a look at [`END`].
fn story(from: u64, to: u64) -> String {
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let mut script = String::new();
    if (from..to).contains(&TYPED) {
        script += &format!("until {}\nkey d\n", seconds(TYPED));
    }
    script += &format!("until {}\n", seconds(to));
    if to == END {
        script += "print icount\nprint screen\nprint memory\nprint hash\nprint text\n";
    } else {
        script += "savevm state.orry\n";
    }
    script + "quit 0\n"
}

/// Runs a script; what it printed.
fn run(work: &Folder, script: &str, more: &[&str]) -> Result<String> {
    let image = shared("guests/x86/freedos722.img")?.to_string_lossy().into_owned();
    work.write("script.txt", script)?;
    let mut args = vec!["-M", "pc", "-m", "16", "-icount", "6", "-snapshot", "-fda", &image];
    args.extend(["-rtc", "base=2014-01-01T12:00:00", "-script", "script.txt"]);
    args.extend(more);
    Ok(work.orrery(&args, 90)?.success()?.stdout)
}

fn twice() -> Result<()> {
    let work = Folder::new()?;
    let script = story(0, END);
    let first = run(&work, &script, &[])?;
    let second = run(&work, &script, &[])?;
    ensure!(first.contains("A:\\>d"), "the guest is not where it should be:\n{first}");
    ensure!(first == second, "two runs differ:\n{first}\n{second}");
    Ok(())
}

/// Everything interpreted, hot code compiled as usual, and nearly everything compiled.
fn engines() -> Result<()> {
    let work = Folder::new()?;
    let first = run(&work, &story(0, END), &["-accel", "interp"])?;
    for accel in ["jit", "jit,heat=2"] {
        let other = run(&work, &story(0, END), &["-accel", accel])?;
        ensure!(first == other, "interpreted and with -accel {accel}:\n{first}\n{other}");
    }
    Ok(())
}

fn saved_at(ms: u64) -> Result<()> {
    let work = Folder::new()?;
    let whole = run(&work, &story(0, END), &[])?;
    run(&work, &story(0, ms), &[])?;
    let rest = run(&work, &story(ms, END), &["-loadvm", "state.orry"])?;
    ensure!(whole == rest, "saved after {ms} ms, it goes on differently:\n{whole}\n{rest}");
    Ok(())
}
