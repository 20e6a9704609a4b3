//! `./x bench block`: the image tool beside QEMU's, in pairs.
//!
//! Both do the same work on the same files in turn, and what is reported are medians: wall time and
//! processor time (the program's and the kernel's), of which the second suffers less from other load.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Reaches every block of an image of a power of two, in an order that no readahead foresees.
const STRIDE: u64 = 104_729 * 4096;

/// A piece of work: its name, what makes it possible (not timed), what is timed. `{img}` is the
/// tool, `{nbd}` the server, `{own}` a file of the tool's own, other names are files that both read.
struct Case {
    name: &'static str,
    before: &'static str,
    work: &'static str,
}

const fn case(name: &'static str, before: &'static str, work: &'static str) -> Case {
    Case { name, before, work }
}

const FRESH: &str = "{img} create -q -f qcow2 {own} 1G";
/// As a guest leaves it that wrote here and there: every L2 table leads everywhere.
const SCATTERED: &str = "{img} create -q -f qcow2 -o cluster_size=4k {own} 512M && \
    {img} bench -q -w -f qcow2 -d 64 -c 131072 -S {stride} -t unsafe {own}";
/// A server that ends with its client.
const SERVED: &str =
    "{ rm -f {own}.sock && {nbd} --fork -k $PWD/{own}.sock -f raw random.raw </dev/null 2>&1; }";
const GROWN: &str = "{img} create -q -f qcow2 -o preallocation=full {own} 256M";

const CASES: &[Case] = &[
    case("convert raw to qcow2, random", "", "{img} convert -f raw -O qcow2 random.raw {own}"),
    case("convert qcow2 to raw, random", "", "{img} convert -f qcow2 -O raw random.qcow2 {own}"),
    case("convert raw to raw, random", "", "{img} convert -f raw -O raw random.raw {own}"),
    case("convert raw to qcow2, sparse", "", "{img} convert -f raw -O qcow2 sparse.raw {own}"),
    case("convert qcow2 to raw, sparse", "", "{img} convert -f qcow2 -O raw sparse.qcow2 {own}"),
    case("convert raw to qcow2, zeros", "", "{img} convert -f raw -O qcow2 zeros.raw {own}"),
    case("convert to zlib", "", "{img} convert -c -W -m 8 -f raw -O qcow2 text.raw {own}"),
    case(
        "convert to zstd",
        "",
        "{img} convert -c -W -m 8 -f raw -O qcow2 -o compression_type=zstd text.raw {own}",
    ),
    case("convert from zlib", "", "{img} convert -f qcow2 -O raw text.qcow2 {own}"),
    case("compare raw with qcow2", "", "{img} compare -q -f raw -F qcow2 random.raw random.qcow2"),
    case("check", "", "{img} check -q -f qcow2 random.qcow2"),
    case("check, 131072 scattered 4 KiB clusters", SCATTERED, "{img} check -q -f qcow2 {own}"),
    case(
        "2,000,000 reads at depth 1, null-co",
        "",
        "{img} bench -q -d 1 -c 2000000 --image-opts driver=null-co,size=1G",
    ),
    case(
        "the same under 4 raw nodes",
        "",
        "{img} bench -q -d 1 -c 2000000 --image-opts driver=raw,file.driver=raw,file.file.driver=raw,\
         file.file.file.driver=raw,file.file.file.file.driver=null-co,file.file.file.file.size=1G",
    ),
    case(
        "convert raw to qcow2, random, past the page cache",
        "",
        "{img} convert -t none -T none -f raw -O qcow2 random.raw {own}",
    ),
    case(
        "read 4 KiB at depth 1, raw, past the page cache",
        "",
        "{img} bench -q -t none -f raw -d 1 -c 8000 -S {stride} random.raw",
    ),
    case(
        "read 4 KiB at depth 64, raw, past the page cache",
        "",
        "{img} bench -q -t none -f raw -d 64 -c 8000 -S {stride} random.raw",
    ),
    case(
        "convert from NBD to raw, random",
        SERVED,
        "{img} convert -f raw -O raw nbd+unix:///?socket={own}.sock {own}",
    ),
    case(
        "read 4 KiB at depth 1, NBD",
        SERVED,
        "{img} bench -q -f raw -d 1 -c 20000 -S {stride} nbd+unix:///?socket={own}.sock",
    ),
    case(
        "read 4 KiB at depth 64, NBD",
        SERVED,
        "{img} bench -q -f raw -d 64 -c 20000 -S {stride} nbd+unix:///?socket={own}.sock",
    ),
    case(
        "read 4 KiB at depth 1, raw",
        "",
        "{img} bench -q -f raw -d 1 -c 50000 -S {stride} random.raw",
    ),
    case(
        "read 4 KiB at depth 64, raw",
        "",
        "{img} bench -q -f raw -d 64 -c 50000 -S {stride} random.raw",
    ),
    case(
        "read 4 KiB at depth 1, qcow2",
        "",
        "{img} bench -q -f qcow2 -d 1 -c 50000 -S {stride} random.qcow2",
    ),
    case(
        "read 4 KiB at depth 64, qcow2",
        "",
        "{img} bench -q -f qcow2 -d 64 -c 50000 -S {stride} random.qcow2",
    ),
    case(
        "write 4 KiB at depth 1, allocated",
        GROWN,
        "{img} bench -q -w -f qcow2 -d 1 -c 20000 -S {stride} {own}",
    ),
    case(
        "write 4 KiB at depth 64, allocated",
        GROWN,
        "{img} bench -q -w -f qcow2 -d 64 -c 20000 -S {stride} {own}",
    ),
    case(
        "write 4 KiB at depth 1, growing",
        FRESH,
        "{img} bench -q -w -f qcow2 -d 1 -c 8000 -S {stride} {own}",
    ),
    case(
        "write 4 KiB at depth 64, growing",
        FRESH,
        "{img} bench -q -w -f qcow2 -d 64 -c 8000 -S {stride} {own}",
    ),
];

/// `block [--runs N] [--mib SIZE] [--only WORD] [--orrery PROGRAM] [--qemu-img PROGRAM]
/// [--qemu-nbd PROGRAM] [--in FOLDER]`.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    let (mut runs, mut mib, mut only) = (5, 1024, String::new());
    let (mut orrery, mut folder) = (None, None);
    let (mut peer, mut peer_nbd) = ("qemu-img".to_owned(), "qemu-nbd".to_owned());
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("'{word}' wants a value"))?;
        match word {
            "--runs" => runs = value.parse().context("--runs wants a number")?,
            "--mib" => mib = value.parse().context("--mib wants a number")?,
            "--only" => only = value.to_owned(),
            "--orrery" => orrery = Some(value.to_owned()),
            "--qemu-img" => peer = value.to_owned(),
            "--qemu-nbd" => peer_nbd = value.to_owned(),
            "--in" => folder = Some(PathBuf::from(value)),
            other => bail!("'./x bench block' does not know '{other}'"),
        }
    }
    let orrery = match orrery {
        Some(program) => program,
        None => {
            shell::cargo(&["build", "--release", "--package", "orrery-native"])?;
            format!("{}/release/orrery", shell::target())
        }
    };
    let orrery = fs::canonicalize(&orrery).with_context(|| format!("no program '{orrery}'"))?;
    let folder =
        folder.unwrap_or_else(|| PathBuf::from(format!("{}/bench-block", shell::target())));
    fs::create_dir_all(&folder)?;
    let tools = [format!("{} img", orrery.display()), peer];
    let servers = [format!("{} nbd", orrery.display()), peer_nbd];
    prepare(&folder, &tools[0], mib)?;
    println!(
        "| work | Orrery | CPU | qemu-img | CPU | time | CPU |\n|---|---|---|---|---|---|---|"
    );
    for case in CASES.iter().filter(|case| case.name.contains(&only)) {
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            for (i, tool) in tools.iter().enumerate() {
                let own = folder.join(format!("own-{i}"));
                let _ = fs::remove_file(&own);
                let line = |text: &str| {
                    text.replace("{img}", tool)
                        .replace("{nbd}", &servers[i])
                        .replace("{own}", &format!("own-{i}"))
                        .replace("{stride}", &STRIDE.to_string())
                };
                if !case.before.is_empty() {
                    timed(&folder, &line(case.before))?;
                }
                figures[i].push(timed(&folder, &line(case.work))?);
                let _ = fs::remove_file(&own);
            }
        }
        let median = |list: &mut Vec<(f64, f64)>, which: fn(&(f64, f64)) -> f64| {
            list.sort_by(|a, b| which(a).total_cmp(&which(b)));
            which(&list[list.len() / 2])
        };
        let [ours, theirs] = &mut figures;
        let (a, b) = (median(ours, |f| f.0), median(ours, |f| f.1));
        let (c, d) = (median(theirs, |f| f.0), median(theirs, |f| f.1));
        println!(
            "| {} | {a:.3} s | {b:.3} s | {c:.3} s | {d:.3} s | {:.2}x | {:.2}x |",
            case.name,
            c / a.max(1e-3),
            d / b.max(1e-3)
        );
    }
    fs::remove_dir_all(&folder).context("the folder of the images stays")
}

/// Makes the files that both tools read.
fn prepare(folder: &Path, tool: &str, mib: u64) -> Result<()> {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = |kind: &str, n: u64| -> Vec<u8> {
        let random = |seed: &mut u64| {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            *seed
        };
        match kind {
            "zeros" => vec![0; 1 << 20],
            // A tenth is data, 64 KiB at a time.
            "sparse" => {
                let mut data = vec![0; 1 << 20];
                for (i, part) in data.chunks_mut(65536).enumerate() {
                    if (n * 16 + i as u64).is_multiple_of(10) {
                        part.fill_with(|| random(&mut seed) as u8 | 1);
                    }
                }
                data
            }
            // Words that come again and again.
            "text" => {
                let mut data = Vec::with_capacity(1 << 20);
                while data.len() < 1 << 20 {
                    let word = random(&mut seed) % 2000;
                    data.extend_from_slice(format!("word{} {:x}; ", word, word * 7919).as_bytes());
                }
                data.truncate(1 << 20);
                data
            }
            _ => (0..1 << 17).flat_map(|_| random(&mut seed).to_le_bytes()).collect(),
        }
    };
    for (kind, mib) in [("random", mib), ("sparse", mib), ("zeros", mib), ("text", mib / 8)] {
        let mut file = fs::File::create(folder.join(format!("{kind}.raw")))?;
        for n in 0..mib {
            let data = block(kind, n);
            if kind == "sparse" {
                // Holes, where a file system has them.
                for (i, part) in data.chunks(65536).enumerate().filter(|(_, part)| part[0] != 0) {
                    write_at(&mut file, (n << 20) + i as u64 * 65536, part)?;
                }
            } else {
                file.write_all(&data)?;
            }
        }
        file.set_len(mib << 20)?;
    }
    for (from, options) in [("random", ""), ("sparse", ""), ("text", "-c")] {
        let line = format!("{tool} convert {options} -f raw -O qcow2 {from}.raw {from}.qcow2");
        timed(folder, &line)?;
    }
    shell::run("sync", &[])
}

fn write_at(file: &mut fs::File, at: u64, data: &[u8]) -> Result<()> {
    use std::io::{Seek as _, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(data).context("cannot write")
}

/// Runs a command line; its seconds, and those of the processor.
fn timed(folder: &Path, line: &str) -> Result<(f64, f64)> {
    let script = format!("TIMEFORMAT='%R %U %S'; time {line} >/dev/null");
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder)
        .output()
        .context("cannot start 'bash'")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("'{line}' failed: {text}");
    }
    let last = text.lines().last().unwrap_or_default();
    let numbers: Vec<f64> = last.split(' ').filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [real, user, system] => Ok((real, user + system)),
        _ => bail!("bash told no times: {text}"),
    }
}
