//! A log of writes and flushes, cut everywhere, for the formats other than qcow2: whatever a loss
//! of power leaves must open, be repaired, and hold every byte that was flushed.
//!
//! `ORRERY_CRASH_ROUNDS=40` tries that many times as much; a failure names seed and cut.

use crate::log::{Event, GRAIN, Recorder, apply, apply_some, rounds, sector};
use crate::{Files, Shape, open, run};
use orrery_block::formats::create::{Host, Values, create};
use orrery_block::graph::BlockGraph;
use orrery_block::host::{HostFs, MemFile, MemFs};
use orrery_block::qcow2::Repair;
use orrery_block::{BlockError, Format, IoBuf, Result, img};
use std::sync::{Arc, Mutex};

/// Formats that keep a table of where things are, in one file.
const SHAPES: &[Shape] = &[
    (Format::Qed, &[("cluster_size", "4096"), ("table_size", "1")]),
    (Format::Qed, &[]),
    (Format::Vhdx, &[("block_size", "1M")]),
    (Format::Vmdk, &[]),
    (Format::Vmdk, &[("zeroed_grain", "on")]),
    (Format::Vdi, &[]),
    (Format::Parallels, &[("cluster_size", "65536")]),
];

const SECTORS: u64 = 6 << 11;

/// What a sector holds at a place in the log: from there on it may have this tag.
struct Change {
    at: usize,
    sector: usize,
    tag: u64,
}

struct Recording {
    start: MemFile,
    log: Vec<Event>,
    /// Lengths of the log at flushes, with the tags that are stable from there on.
    promises: Vec<(usize, Vec<u64>)>,
    changes: Vec<Change>,
}

async fn make(files: &Files, format: Format, options: &[(&str, &str)]) -> Result<()> {
    let mut values = Values::default();
    values.set("size", (SECTORS * GRAIN as u64).to_string());
    options.iter().for_each(|(name, value)| values.set(name, *value));
    let host =
        Host { fs: files, secret: &|_: &str| None, rounds: &|_, _| 1000, now: 1_700_000_000 };
    create(&BlockGraph::new(), &host, "disk", format, &values).await
}

/// A session of a guest that writes tagged sectors, zeroes and flushes.
async fn record(files: &Files, (format, options): &Shape, steps: usize) -> Result<Recording> {
    make(files, *format, options).await?;
    let made = files.open("disk", true).await?;
    let bytes = made.read_at(0, IoBuf::zeroed(made.len() as usize)).await?;
    let start = MemFile::from_bytes(&bytes);
    let log = Arc::new(Mutex::new(Vec::new()));
    let fs = MemFs::new();
    fs.add("disk", Arc::new(Recorder { file: start.fork(), holes: true, log: log.clone() }));
    let graph = BlockGraph::new();
    let node = graph.open(&fs, "disk", &open(*format)).await?;
    let mut now = vec![0; SECTORS as usize];
    let mut promises = vec![(0, now.clone())];
    let mut changes = Vec::new();
    for tag in 1..=steps as u64 {
        let at = log.lock().unwrap().len();
        let first = files.below(SECTORS);
        let most = [2, 40, 300][files.below(3) as usize];
        let count = (1 + files.below(most)).min(SECTORS - first);
        let (offset, len) = (first * GRAIN as u64, count * GRAIN as u64);
        let tag = match files.below(10) {
            0..=5 => {
                node.write(offset, sector(tag).repeat(count as usize).into()).await?;
                tag
            }
            6 => {
                node.write_zeroes(offset, len, files.below(2) == 0).await?;
                0
            }
            _ => {
                node.flush().await?;
                promises.push((log.lock().unwrap().len(), now.clone()));
                continue;
            }
        };
        let written = first as usize..(first + count) as usize;
        now[written.clone()].fill(tag);
        changes.extend(written.map(|sector| Change { at, sector, tag }));
    }
    node.close().await?;
    let log = log.lock().unwrap().clone();
    promises.push((log.len(), now));
    Ok(Recording { start, log, promises, changes })
}

impl Recording {
    /// Opens what a crash after `cut` events left on the disk, and judges it.
    async fn judge(&self, format: Format, disk: MemFile, cut: usize, what: &str) -> Result<()> {
        let fs = MemFs::new();
        fs.add("disk", Arc::new(disk));
        match img::check(&BlockGraph::new(), &fs, "disk", Some(format), Repair::All).await {
            Ok(result) => {
                let left = result.corruptions - result.corruptions_fixed;
                assert_eq!(left, 0, "{what}: {:?}", result.messages);
            }
            Err(BlockError::Unsupported(_)) => {}
            Err(error) => panic!("{what}: check: {error}"),
        }
        let node = BlockGraph::new().open(&fs, "disk", &open(format)).await;
        let node = node.unwrap_or_else(|error| panic!("{what}: {error}"));
        let bytes = node.read(0, IoBuf::zeroed(node.len() as usize)).await?;
        let (at, stable) =
            self.promises.iter().rev().find(|(at, _)| *at <= cut).expect("one at the start");
        for (i, tag) in stable.iter().enumerate() {
            let found = &bytes[i * GRAIN..(i + 1) * GRAIN];
            if *found == sector(*tag) {
                continue;
            }
            // Something newer is allowed as well, where the guest has not flushed since.
            let newer = self.changes.iter().any(|change| {
                change.sector == i
                    && change.at + 1 > *at
                    && change.at <= cut
                    && *found == sector(change.tag)
            });
            assert!(newer, "{what}: sector {i} lost what was flushed as {tag}");
        }
        Ok(())
    }

    /// Every prefix of the log, and random subsets of what came after the last barrier.
    async fn cut_everywhere(&self, files: &Files, format: Format, what: &str) -> Result<usize> {
        let mut cuts = 0;
        let (prefix, stable) = (self.start.fork(), self.start.fork());
        let mut since = 0;
        for cut in 0..=self.log.len() {
            self.judge(format, prefix.fork(), cut, &format!("{what}, cut {cut}")).await?;
            cuts += 1;
            for subset in 0..3 {
                if cut - since < 2 {
                    break;
                }
                let disk = stable.fork();
                apply_some(&disk, &self.log[since..cut], &mut |n| files.below(n)).await?;
                let what = format!("{what}, cut {cut}, subset {subset}");
                self.judge(format, disk, cut, &what).await?;
                cuts += 1;
            }
            let Some(event) = self.log.get(cut) else { break };
            apply(&prefix, event).await?;
            if matches!(event, Event::Flush) {
                for event in &self.log[since..cut] {
                    apply(&stable, event).await?;
                }
                since = cut + 1;
            }
        }
        Ok(cuts)
    }
}

#[test]
fn a_crash_at_any_point_can_be_repaired_and_loses_nothing_flushed() {
    let mut cuts = 0;
    for (number, shape) in SHAPES.iter().enumerate() {
        for round in 0..rounds() * 2 {
            let seed = 500 + round * 1000 + number as u64;
            let files = Files::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let what = format!("{:?} {:?}, seed {seed}", shape.0, shape.1);
            cuts += run(async {
                let recording = record(&files, shape, 45).await?;
                recording.cut_everywhere(&files, shape.0, &what).await
            })
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    eprintln!("{cuts} crashes");
    assert!(cuts > 2000);
}
