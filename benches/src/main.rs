//! What one host does with many machines and many images: `./x bench machines`, `./x bench images`.
//!
//! A machine and an image belong to one thread each; rayon spreads them over the host's cores.
//! Every result is checked: machines that run beside each other end as one that runs alone.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "measures time on the developer's machine"
)]

mod images;
mod machines;

use anyhow::{Context as _, Result, bail};
use std::time::Instant;

const USAGE: &str = "\
usage: orrery-bench machines [--count N] [--seconds VIRTUAL]
       orrery-bench images [--count N] [--mib SIZE] [--orrery PROGRAM]";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut options = Options { count: 8, seconds: 6, mib: 64, orrery: None };
    let mut words = args.iter().skip(1).map(String::as_str);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("'{word}' wants a value\n{USAGE}"))?;
        let number = || value.parse::<u64>().with_context(|| format!("'{word}' wants a number"));
        match word {
            "--count" => options.count = number()?.max(1),
            "--seconds" => options.seconds = number()?.max(1),
            "--mib" => options.mib = number()?.max(1),
            "--orrery" => options.orrery = Some(value.into()),
            _ => bail!("there is no option '{word}'\n{USAGE}"),
        }
    }
    match args.first().map(String::as_str) {
        Some("machines") => machines::bench(&options),
        Some("images") => images::bench(&options),
        _ => bail!("{USAGE}"),
    }
}

struct Options {
    /// Machines or images.
    count: u64,
    /// Virtual seconds of each machine.
    seconds: u64,
    /// Size of each image.
    mib: u64,
    /// The program to time beside qemu-img.
    orrery: Option<String>,
}

/// Numbers of threads to measure: one, its doubles, and all cores.
fn threads() -> Vec<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all: Vec<usize> =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < cores).collect();
    all.push(cores);
    all
}

/// Does `body` with so many threads; its result and seconds.
fn timed<T: Send>(threads: usize, body: impl FnOnce() -> Result<T> + Send) -> Result<(T, f64)> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let start = Instant::now();
    let result = pool.install(body)?;
    Ok((result, start.elapsed().as_secs_f64()))
}
