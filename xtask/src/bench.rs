//! `./x bench cpu`: the benchmark guest on Orrery's engines and on the installed peers, natively, in
//! Node and in Chromium.
//!
//! The guest (`benches/guest`) is the `/init` of an otherwise empty Linux system; it says on the
//! serial line when each piece of work begins and ends. What is compared is the processor time of
//! the emulator's busiest thread between the two, which other load on the machine disturbs least.
//! Every engine runs once in each round, so that a change of the machine's speed meets all.

use crate::{bench_web, guests, shell};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds below which a kernel is too short for the clock of processor time to tell engines apart.
const SHORTEST: f64 = 0.01;

/// The longest that one run may take.
const LIMIT: Duration = Duration::from_secs(900);
/// The time from power-on to the guest's first line, among the kernels.
const BOOT: &str = "boot";

/// An emulator with its engine.
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
}

/// What is compared with what: the first engine with the others.
pub(crate) type Group = Vec<&'static str>;

/// What a run of the guest gave.
#[derive(Default)]
struct Figures {
    /// Seconds of each kernel, in the order run.
    seconds: Vec<(String, f64)>,
    /// Checksums, which all engines must agree on.
    sums: BTreeMap<String, String>,
}

/// `cpu [i386|amd64] [--runs N] [--bench A,B] [--in native|node|chromium,..]`.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    if let Some(what @ ("machines" | "images")) = args.first().map(String::as_str) {
        return parallel(what, &args[1..]);
    }
    if args.first().is_some_and(|what| what == "block") {
        return crate::bench_block::bench(&args[1..]);
    }
    let (mut arch, mut runs, mut only) = ("i386", 3, String::new());
    let mut places = String::from("native,node,chromium");
    let mut words = args.iter().map(String::as_str);
    if words.next() != Some("cpu") {
        bail!("usage: ./x bench cpu|machines|images|block ...; './x help' says more");
    }
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("'{word}' wants a value"));
        match word {
            "i386" => arch = "i386",
            "amd64" => arch = "amd64",
            "--runs" => runs = value()?.parse().context("--runs wants a number")?,
            "--bench" => only = value()?.to_string(),
            "--in" => places = value()?.to_string(),
            other => bail!("'./x bench cpu' does not know '{other}'"),
        }
    }
    guests::fetch(&["firmware".into(), format!("debian-{arch}")])?;
    let folder = format!("{}/bench", shell::target());
    std::fs::create_dir_all(&folder)?;
    let folder = Path::new(&folder).canonicalize()?.display().to_string();
    shell::run("make", &["-s", "-C", "benches/guest", &format!("OUT={folder}"), "all"])?;

    let mut append =
        String::from("console=ttyS0 nokaslr mitigations=off tsc=reliable quiet panic=1");
    if !only.is_empty() {
        append += &format!(" BENCH={only}");
    }
    let mut engines = Vec::new();
    let mut groups = Vec::new();
    let places: Vec<&str> = places.split(',').collect();
    if places.contains(&"native") {
        shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
        engines.extend(own_engines(arch, &folder, &append));
        groups.push(vec!["jit", "interp", "qemu"]);
    }
    engines.extend(qemu(arch, &folder, &append));
    bench_web::add(&places, arch, &folder, &append, &mut engines, &mut groups)?;
    let mut all: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    for round in 0..runs {
        for engine in &engines {
            println!("round {} of {runs}: {}", round + 1, engine.name);
            all.entry(engine.name).or_default().push(run(engine)?);
        }
    }
    groups.iter().for_each(|group| print_table(group, &all));
    Ok(())
}

/// Many at once: the program of `benches/`.
fn parallel(what: &str, args: &[String]) -> Result<()> {
    shell::cargo(&["build", "--release", "--package", "orrery-benches"])?;
    let program = |name: &str| format!("{}/release/{name}", shell::target());
    let orrery = program("orrery");
    let mut words = vec![what];
    words.extend(args.iter().map(String::as_str));
    if what == "images" {
        shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
        words.extend(["--orrery", &orrery]);
    }
    shell::run(&program("orrery-bench"), &words)
}

/// A command line that QEMU takes too.
pub(crate) fn machine(arch: &str, folder: &str, append: &str, more: &str) -> Vec<String> {
    let cpu = if arch == "i386" { "qemu32" } else { "qemu64" };
    let line = format!(
        "{more} -M pc -cpu {cpu} -m 512 -nographic -no-reboot -net none \
         -kernel guests/debian-{arch}/linux -initrd {folder}/bench-{arch}.cpio -append"
    );
    let words = line.split_whitespace().map(String::from);
    words.chain([append.to_string()]).collect()
}

fn own_engines(arch: &str, folder: &str, append: &str) -> Vec<Engine> {
    let engine = |name, more| Engine {
        name,
        program: format!("{}/release/orrery", shell::target()),
        args: machine(arch, folder, append, more),
    };
    vec![engine("jit", "-accel jit"), engine("interp", "-accel interp")]
}

fn qemu(arch: &str, folder: &str, append: &str) -> Option<Engine> {
    let qemu = if arch == "i386" { "qemu-system-i386" } else { "qemu-system-x86_64" };
    if !shell::have(qemu) {
        println!("'{qemu}' is not installed: nothing to compare with natively");
        return None;
    }
    let more = "-accel tcg -monitor none -serial stdio -display none";
    let args = machine(arch, folder, append, more);
    Some(Engine { name: "qemu", program: qemu.into(), args })
}

/// A process with all it started, by their numbers.
fn processes(root: u32) -> Vec<u32> {
    let number = |e: &std::fs::DirEntry| e.file_name().to_str()?.parse::<u32>().ok();
    let parent = |id: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> =
        all.filter_map(|e| number(&e)).filter_map(|id| Some((id, parent(id)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&id) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == id).map(|(id, _)| id));
        next += 1;
    }
    found
}

/// Processor seconds of each thread of a process and those it started.
fn threads(child: &Child) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for id in processes(child.id()) {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{id}/task")) else { continue };
        all.extend(tasks.flatten().filter_map(|t| {
            let text = std::fs::read_to_string(t.path().join("schedstat")).ok()?;
            let nanos: f64 = text.split(' ').next()?.parse().ok()?;
            Some((t.file_name().to_string_lossy().into_owned(), nanos / 1e9))
        }));
    }
    all
}

/// The seconds of the busiest thread between two looks.
fn busiest(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> f64 {
    let spent = |(t, s): (&String, &f64)| s - before.get(t).unwrap_or(&0.0);
    after.iter().map(spent).fold(0.0, f64::max)
}

/// Boots the guest and takes its times.
fn run(engine: &Engine) -> Result<Figures> {
    let mut child = Command::new(&engine.program)
        .args(&engine.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start '{}'", engine.program))?;
    let mut out = child.stdout.take().context("its output")?;
    let (mut figures, mut text, mut chunk) = (Figures::default(), String::new(), [0; 4096]);
    let mut began: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    let start = Instant::now();
    let mut done = false;
    while !done && start.elapsed() < LIMIT {
        let n = out.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        let now = threads(&child);
        text += &String::from_utf8_lossy(&chunk[..n]);
        while let Some((line, rest)) = text.split_once('\n') {
            let line = line.trim().to_string();
            text = rest.to_string();
            let words: Vec<&str> = line.split_whitespace().collect();
            match *words.as_slice() {
                [.., "B>", name] => {
                    began.insert(name.into(), now.clone());
                }
                ["B<", name, .., sum] => {
                    let Some(before) = began.get(name) else { continue };
                    figures.seconds.push((name.into(), busiest(before, &now)));
                    figures.sums.insert(name.into(), sum.into());
                }
                _ if line.contains("BENCH-USERSPACE-START") => {
                    figures.seconds.push((BOOT.into(), busiest(&BTreeMap::new(), &now)));
                }
                _ => done |= line.contains("BENCH-DONE"),
            }
        }
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait()?;
    if !done {
        bail!("'{}' did not come to the end of the benchmark", engine.name);
    }
    Ok(figures)
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn print_table(group: &Group, all: &BTreeMap<&str, Vec<Figures>>) {
    let engines: Vec<&str> = group.iter().copied().filter(|e| all.contains_key(e)).collect();
    let of = |engine: &str, kernel: &str| {
        let runs = all.get(engine)?.iter();
        let found = |f: &Figures| f.seconds.iter().find(|(k, _)| k == kernel).map(|(_, s)| *s);
        median(runs.filter_map(found).collect())
    };
    let first = engines.first().and_then(|e| all.get(e)?.first());
    let Some(first) = first else { return };
    print!("\n{:<12}", "kernel");
    engines.iter().for_each(|e| print!("{e:>14}"));
    println!("   others / {}", engines[0]);
    let mut products: BTreeMap<&str, (f64, u32)> = BTreeMap::new();
    for (kernel, _) in &first.seconds {
        print!("{kernel:<12}");
        for e in &engines {
            match of(e, kernel) {
                Some(s) => print!("{s:>14.3}"),
                None => print!("{:>14}", "-"),
            }
        }
        print!("  ");
        for e in &engines[1..] {
            if let (Some(other), Some(own)) = (of(e, kernel), of(engines[0], kernel)) {
                if other < SHORTEST || own < SHORTEST {
                    print!("{:>7}", "-");
                    continue;
                }
                let ratio = other / own;
                print!("{ratio:>7.2}");
                if kernel != BOOT {
                    let p = products.entry(e).or_insert((0.0, 0));
                    *p = (p.0 + ratio.ln(), p.1 + 1);
                }
            }
        }
        let sums = |e: &str| all.get(e).and_then(|r| r.first()?.sums.get(kernel));
        let differ = engines.iter().any(|e| sums(e) != first.sums.get(kernel));
        println!("{}", if differ { "   CHECKSUMS DIFFER" } else { "" });
    }
    for e in &engines[1..] {
        if let Some((sum, n)) = products.get(e) {
            println!("geometric mean of {e} / {}: {:.2}", engines[0], (sum / f64::from(*n)).exp());
        }
    }
}
