//! Record and replay: a replay is the machine that was recorded, at any instant that one goes to.

use crate::Test;
use crate::program::{Folder, shared};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeMap;

/// Virtual seconds of the recording.
const END: u64 = 9;
/// Journeys in one test.
const SEEKS: usize = 12;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("time travel: a replay is what was recorded", 60, replayed),
        Test::new("time travel: seeks land on the recorded hashes", 90, sought),
        Test::new("time travel: disks stay as they were", 60, disks),
        Test::new("time travel: a recording of another machine is refused", 5, refused),
    ]
}

/// Runs FreeDOS with a script; what it printed.
fn run(work: &Folder, script: &str, icount: &str, more: &[&str]) -> Result<String> {
    let image = work.file("disk.img");
    if !image.exists() {
        std::fs::copy(shared("guests/x86/freedos722.img")?, &image)?;
    }
    work.write("script.txt", script)?;
    let mut args = vec!["-M", "pc", "-m", "16", "-icount", icount, "-fda", "disk.img"];
    args.extend(["-script", "script.txt"]);
    args.extend(more);
    Ok(work.orrery(&args, 90)?.success()?.stdout)
}

/// A person who starts a directory listing and a file, with looks at the machine every half second.
fn recorded(work: &Folder) -> Result<String> {
    let mut script = String::new();
    for half in 1..2 * END {
        script += &format!("until {}.{}\n", half / 2, half % 2 * 5);
        script += "print icount\nprint hash\n";
        if half == 14 {
            script += "type \"echo x>y\\n\"\n";
        }
    }
    run(work, &(script + "print screen\nquit\n"), "shift=6,rr=record,rrfile=log.rr", &[])
}

fn replayed() -> Result<()> {
    let work = Folder::new()?;
    let first = recorded(&work)?;
    ensure!(work.file("log.rr").metadata()?.len() > 500, "nothing was written down");
    // Nobody types: what was typed is in the log. What a script types now is not heard.
    let mut script = String::new();
    for half in 1..2 * END {
        script += &format!("until {}.{}\n", half / 2, half % 2 * 5);
        script += "print icount\nprint hash\n";
        if half == 3 {
            script += "key x\n";
        }
    }
    let replay = "shift=6,rr=replay,rrfile=log.rr";
    let second = run(&work, &(script + "print screen\nquit\n"), replay, &[])?;
    ensure!(first == second, "recorded and replayed:\n{first}\n{second}");
    Ok(())
}

fn sought() -> Result<()> {
    let work = Folder::new()?;
    let first = recorded(&work)?;
    let hashes: Vec<&str> = first.lines().filter(|l| l.starts_with("hash")).collect();
    let mut random: u64 = 0x5eed_0000_0bad_cafe;
    let mut script = String::new();
    let mut wanted = Vec::new();
    for _ in 0..SEEKS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let half = 1 + random % (2 * END - 1);
        script += &format!("seek {}.{}\nprint hash\n", half / 2, half % 2 * 5);
        wanted.push(*hashes.get(half as usize - 1).context("a hash for each half second")?);
    }
    let found = run(&work, &(script + "quit\n"), "shift=6,rr=replay,rrfile=log.rr", &[])?;
    let found: Vec<&str> = found.lines().collect();
    ensure!(found == wanted, "found and recorded:\n{found:#?}\n{wanted:#?}");
    Ok(())
}

fn disks() -> Result<()> {
    let work = Folder::new()?;
    recorded(&work)?;
    let before = std::fs::read(shared("guests/x86/freedos722.img")?)?;
    ensure!(std::fs::read(work.file("disk.img"))? == before, "the recording changed its disk");
    // While it lasts what was written is there, and it goes where one goes before it.
    let script = "seek 8\nprint memory\nseek 2\nprint memory\nseek 8\nprint memory\nquit\n";
    let found = run(&work, script, "shift=6,rr=replay,rrfile=log.rr", &[])?;
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    found.lines().for_each(|l| *times.entry(l).or_default() += 1);
    ensure!(times.len() == 2 && times.values().any(|n| *n == 2), "{found}");
    Ok(())
}

fn refused() -> Result<()> {
    let work = Folder::new()?;
    run(&work, "until 0.2\nquit\n", "shift=6,rr=record,rrfile=log.rr", &[])?;
    let args = ["-M", "pc", "-m", "32", "-icount", "shift=6,rr=replay,rrfile=log.rr"];
    let out = work.orrery(&args, 10)?;
    ensure!(!out.status.success(), "it started");
    ensure!(out.stderr.contains("a memory of 16777216, this one has 33554432"), "{}", out.stderr);
    Ok(())
}
