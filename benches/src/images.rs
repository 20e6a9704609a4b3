//! Work on many images at once, in memory; then on files, beside qemu-img where there is one.

use crate::{Options, threads, timed};
use anyhow::{Context as _, Result, ensure};
use orrery_block::exec::Executor;
use orrery_block::graph::BlockGraph;
use orrery_block::host::{MemFile, MemFs};
use orrery_block::qcow2::{CreateOptions, Repair};
use orrery_block::{Format, OpenOptions, img};
use rayon::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

const MIB: u64 = 1 << 20;

/// A disk's content: a third empty, a third text-like, a third noise.
fn content(seed: u64, mib: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = vec![0; (mib * MIB) as usize];
    for (i, chunk) in out.chunks_mut(1 << 20).enumerate() {
        match i % 3 {
            1 => chunk.chunks_mut(8).for_each(|w| w.fill(b'a' + (next() % 26) as u8)),
            2 => chunk.chunks_mut(8).for_each(|w| w.copy_from_slice(&next().to_le_bytes())),
            _ => {}
        }
    }
    out
}

/// What is done with one image: raw to qcow2, check, and compare with what it was made from.
fn work(seed: u64, mib: u64, content: &[u8]) -> Result<()> {
    let all = async {
        let graph = BlockGraph::new();
        let fs = MemFs::new();
        let file = Arc::new(MemFile::new());
        let create = CreateOptions { size: mib * MIB, ..CreateOptions::default() };
        img::create(&graph, file.clone(), Format::Qcow2, &create).await?;
        fs.add("image", file);
        fs.add("disk", Arc::new(MemFile::read_only(content)));
        let open = |format, read_only| OpenOptions {
            format: Some(format),
            read_only,
            ..OpenOptions::default()
        };
        let from = graph.open(&fs, "disk", &open(Format::Raw, true)).await?;
        let to = graph.open(&fs, "image", &open(Format::Qcow2, false)).await?;
        img::convert(&from, &to, |_, _| {}).await?;
        drop(to);
        let found = img::check(&graph, &fs, "image", Some(Format::Qcow2), Repair::Nothing).await?;
        let to = graph.open(&fs, "image", &open(Format::Qcow2, true)).await?;
        let differs = img::compare(&from, &to).await?;
        Ok::<_, orrery_block::BlockError>((found, differs))
    };
    let done = Executor::new().run_in_place(all).context("memory does not wait")?;
    let (found, differs) = done?;
    ensure!(found.corruptions == 0 && found.leaks == 0, "image {seed}: {found:?}");
    ensure!(differs.is_none(), "image {seed} differs at {differs:?}");
    Ok(())
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let &Options { count, mib, .. } = options;
    println!("{count} images of {mib} MiB in memory: raw to qcow2, check, compare");
    println!("{:>8} {:>9} {:>9} {:>12}", "threads", "seconds", "MiB/s", "times one");
    let contents: Vec<Vec<u8>> = (0..count).into_par_iter().map(|i| content(i, mib)).collect();
    let mut first = None;
    for threads in threads() {
        let run = || contents.par_iter().enumerate().try_for_each(|(i, c)| work(i as u64, mib, c));
        let ((), time) = timed(threads, run)?;
        let rate = (count * mib) as f64 / time;
        let ratio = rate / *first.get_or_insert(rate);
        println!("{threads:>8} {time:>9.2} {rate:>9.0} {ratio:>12.2}");
    }
    match &options.orrery {
        Some(orrery) => programs(orrery, &contents, mib),
        None => Ok(()),
    }
}

/// The image tools on files, as many at once as there are cores.
fn programs(orrery: &str, contents: &[Vec<u8>], mib: u64) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("orrery-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let result = side_by_side(orrery, contents, mib, &folder);
    // What is left behind costs space and nothing else.
    let _ = fs::remove_dir_all(&folder);
    result
}

fn side_by_side(orrery: &str, contents: &[Vec<u8>], mib: u64, folder: &Path) -> Result<()> {
    for (i, content) in contents.iter().enumerate() {
        fs::write(folder.join(format!("{i}.raw")), content)?;
    }
    let mut tools: Vec<(&str, Vec<&str>)> = vec![("orrery img", vec![orrery, "img"])];
    if Command::new("qemu-img").arg("--version").output().is_ok() {
        tools.push(("qemu-img", vec!["qemu-img"]));
    } else {
        println!("'qemu-img' is not installed: no peer to compare with");
    }
    println!("\nthe same number of files, MiB/s (median of three)");
    println!("{:<34}{}", "", tools.iter().map(|t| format!("{:>12}", t.0)).collect::<String>());
    let tasks: [(&str, &[&str], &str, &str); 4] = [
        ("raw to qcow2", &["convert", "-O", "qcow2"], "raw", "qcow2"),
        ("qcow2 to raw", &["convert", "-O", "raw"], "qcow2", "back"),
        ("raw to compressed qcow2", &["convert", "-c", "-O", "qcow2"], "raw", "small"),
        ("qcow2 check", &["check", "-q"], "qcow2", ""),
    ];
    for (name, args, from, to) in tasks {
        let mut rates = vec![Vec::new(); tools.len()];
        for _ in 0..3 {
            for ((_, program), rates) in tools.iter().zip(&mut rates) {
                let start = Instant::now();
                (0..contents.len()).into_par_iter().try_for_each(|i| {
                    let mut command = Command::new(program[0]);
                    command.args(&program[1..]).args(args).arg(folder.join(format!("{i}.{from}")));
                    if !to.is_empty() {
                        command.arg(folder.join(format!("{i}.{to}")));
                    }
                    let status = command.status()?;
                    ensure!(status.success(), "{command:?}: {status}");
                    Ok(())
                })?;
                rates.push(contents.len() as f64 * mib as f64 / start.elapsed().as_secs_f64());
            }
        }
        print!("{name:<34}");
        for rates in &mut rates {
            rates.sort_by(f64::total_cmp);
            print!("{:>12.0}", rates[rates.len() / 2]);
        }
        println!();
    }
    for (i, content) in contents.iter().enumerate() {
        let back = fs::read(folder.join(format!("{i}.back")))?;
        ensure!(back == *content, "image {i} came back different");
    }
    Ok(())
}
