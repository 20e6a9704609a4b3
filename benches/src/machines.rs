//! Many machines at once: the diagnostic ROM with its RAM tests, text and graphics.

use crate::{Options, threads, timed};
use anyhow::{Context as _, Result, ensure};
use orrery_block::exec::Executor;
use orrery_block::host::{HostFs, MemFs};
use orrery_core::launch::{Host, launch};
use rayon::prelude::*;

const SECOND: u64 = 1_000_000_000;

struct NoFiles(MemFs);

impl Host for NoFiles {
    fn fs(&self) -> &dyn HostFs {
        &self.0
    }
    fn firmware_dirs(&self) -> Vec<String> {
        Vec::new()
    }
    fn epoch_secs(&self) -> i64 {
        1_000_000_000
    }
}

/// Runs one machine; its instructions and the hash of all of its state.
fn machine(seconds: u64) -> Result<(u64, u64)> {
    let files = NoFiles(MemFs::new());
    let args = ["-M", "pc", "-m", "16", "-icount", "3", "-serial", "null", "-display", "none"];
    let options = orrery_core::options::Options::parse(&args)?;
    let launched = Executor::new().run_in_place(launch(&options, &files));
    let mut machine = launched.context("memory does not wait")??.machine;
    while machine.board.now().0 < seconds * SECOND {
        machine.run(0, SECOND / 100);
        machine.handles.serials.iter().for_each(|s| drop(s.drain()));
    }
    Ok((machine.board.icount(), machine.hash()))
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let &Options { count, seconds, .. } = options;
    let alone = machine(seconds)?;
    println!("{count} machines, {seconds} virtual seconds each, {} instructions each", alone.0);
    println!("{:>8} {:>9} {:>14} {:>12}", "threads", "seconds", "million insn/s", "times one");
    let mut first = None;
    for threads in threads() {
        let run = || (0..count).into_par_iter().map(|_| machine(seconds)).collect();
        let (all, time): (Vec<_>, f64) = timed(threads, run)?;
        ensure!(all.iter().all(|m| *m == alone), "machines side by side end differently");
        let rate = (alone.0 * count) as f64 / time / 1e6;
        let ratio = rate / *first.get_or_insert(rate);
        println!("{threads:>8} {time:>9.2} {rate:>14.1} {ratio:>12.2}");
    }
    Ok(())
}
