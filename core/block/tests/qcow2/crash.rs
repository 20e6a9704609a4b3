//! A log of writes and flushes, cut everywhere: whatever a crash leaves must open, have leaks
//! at worst, and hold every byte that was flushed.

use crate::log::{Event, GRAIN, Recorder, apply, apply_some, rounds, sector};
use crate::model::{options, shapes};
use crate::{Random, run};
use orrery_block::graph::BlockGraph;
use orrery_block::host::{BlockFile, MemFile, MemFs};
use orrery_block::qcow2::{CreateOptions, Repair};
use orrery_block::{BlockError, Format, IoBuf, OpenOptions, Result, img};
use std::sync::{Arc, Mutex};

/// What each sector of the guest's disk may hold after a crash: the value at the last flush, and
/// everything written since.
struct Promise {
    /// Length of the log when the promise was made.
    at: usize,
    /// Tags by sector.
    stable: Vec<u64>,
}

struct Recording {
    start: MemFile,
    log: Vec<Event>,
    promises: Vec<Promise>,
    /// By log position: sector got this tag at the earliest.
    history: Vec<(usize, usize, u64)>,
    base: Option<Vec<u8>>,
}

/// A session of a guest that writes tagged sectors, flushes, zeroes and discards.
async fn record(
    shape: &CreateOptions,
    backing: bool,
    seed: u64,
    steps: usize,
    filled: u64,
) -> Result<Recording> {
    let sectors = filled * 2 + if shape.cluster_size < 4096 { 512 } else { 2048 };
    let size = sectors * GRAIN as u64;
    let mut random = Random::new(seed);
    let graph = BlockGraph::new();
    let fs = MemFs::new();
    let mut now: Vec<u64> = vec![0; sectors as usize];
    let mut create = CreateOptions { size, ..shape.clone() };
    let mut base = None;
    if backing {
        now.iter_mut().enumerate().for_each(|(i, tag)| *tag = 1_000_000 + i as u64);
        let bytes: Vec<u8> = now.iter().flat_map(|tag| sector(*tag)).collect();
        fs.add("base", Arc::new(MemFile::from_bytes(&bytes)));
        base = Some(bytes);
        create.backing_file = Some("base".into());
        create.backing_format = Some("raw".into());
    }
    let empty = Arc::new(MemFile::new());
    img::create(&graph, empty.clone(), Format::Qcow2, &create).await?;
    if filled > 0 {
        // The session begins with a disk that is in use.
        fs.add("disk", empty.clone());
        let node = graph.open(&fs, "disk", &options()).await?;
        node.write(0, sector(999_999).repeat(filled as usize).into()).await?;
        node.close().await?;
        now[..filled as usize].fill(999_999);
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let start = empty.fork();
    let recorder = Recorder { file: empty.fork(), holes: seed % 4 < 2, log: log.clone() };
    fs.add("disk", Arc::new(recorder));
    let node = graph.open(&fs, "disk", &options()).await?;
    let position = || log.lock().unwrap().len();
    let mut promises = vec![Promise { at: 0, stable: now.clone() }];
    let mut history = Vec::new();
    let mut tag = 0;
    for _ in 0..steps {
        let first = random.below(sectors);
        let most = [2, 40, 300][random.below(3) as usize];
        let count = (1 + random.below(most)).min(sectors - first);
        let range = first as usize..(first + count) as usize;
        let (offset, len) = (first * GRAIN as u64, count * GRAIN as u64);
        match random.below(10) {
            0..=4 => {
                tag += 1;
                let mark = position();
                node.write(offset, sector(tag).repeat(count as usize).into()).await?;
                for i in range {
                    now[i] = tag;
                    history.push((mark, i, tag));
                }
            }
            5 | 6 => {
                let mark = position();
                node.write_zeroes(offset, len, random.below(2) == 0).await?;
                for i in range {
                    now[i] = 0;
                    history.push((mark, i, 0));
                }
            }
            7 => {
                let mark = position();
                node.discard(offset, len).await?;
                let bytes = node.read(offset, IoBuf::zeroed(len as usize)).await?;
                for (k, i) in range.enumerate() {
                    if bytes[k * GRAIN..(k + 1) * GRAIN] == sector(0) {
                        now[i] = 0;
                        history.push((mark, i, 0));
                    }
                }
            }
            _ => {
                node.flush().await?;
                promises.push(Promise { at: position(), stable: now.clone() });
            }
        }
    }
    node.close().await?;
    promises.push(Promise { at: position(), stable: now });
    let log = log.lock().unwrap().clone();
    Ok(Recording { start, log, promises, history, base })
}

impl Recording {
    /// Opens what a crash after `cut` events left on the disk, and judges it.
    async fn judge(&self, disk: MemFile, cut: usize, what: &str) -> Result<()> {
        let graph = BlockGraph::new();
        let fs = MemFs::new();
        if let Some(base) = &self.base {
            fs.add("base", Arc::new(MemFile::from_bytes(base)));
        }
        let head = disk.read_at(0, IoBuf::zeroed(80)).await?;
        fs.add("disk", Arc::new(disk));
        // Refcounts may be stale where the image says so itself; then they are made anew.
        let repair = if head[7] == 3 && head[79] & 1 != 0 { Repair::All } else { Repair::Nothing };
        let result = img::check(&graph, &fs, "disk", None, repair).await?;
        let left = result.corruptions - result.corruptions_fixed;
        assert_eq!(left, 0, "{what}: {:?}", result.messages);
        let promise = self.promises.iter().rev().find(|p| p.at <= cut).expect("one at the start");
        let node = graph.open(&fs, "disk", &OpenOptions { read_only: true, ..options() }).await?;
        let bytes = node.read(0, IoBuf::zeroed(node.len() as usize)).await?;
        for (i, stable) in promise.stable.iter().enumerate() {
            let found = &bytes[i * GRAIN..(i + 1) * GRAIN];
            if *found == sector(*stable) {
                continue;
            }
            // Something newer is allowed as well, where the guest has not flushed since.
            let newer = self.history.iter().any(|(at, s, tag)| {
                *s == i && *at + 1 > promise.at && *at <= cut && *found == sector(*tag)
            });
            assert!(newer, "{what}: sector {i} lost what was flushed as {stable}");
        }
        Ok(())
    }
}

/// Every prefix of the log, and random subsets of what came after the last barrier.
async fn cut_everywhere(
    recording: &Recording,
    random: &mut Random,
    subsets: usize,
) -> Result<usize> {
    let mut cuts = 0;
    let prefix = recording.start.fork();
    let stable = recording.start.fork();
    let mut since = 0;
    for cut in 0..=recording.log.len() {
        recording.judge(prefix.fork(), cut, &format!("cut {cut}")).await?;
        cuts += 1;
        for subset in 0..subsets {
            if cut - since < 2 {
                break;
            }
            let disk = stable.fork();
            let events = &recording.log[since..cut];
            apply_some(&disk, events, &mut |n| random.below(n)).await?;
            recording.judge(disk, cut, &format!("cut {cut}, subset {subset}")).await?;
            cuts += 1;
        }
        let Some(event) = recording.log.get(cut) else { break };
        apply(&prefix, event).await?;
        if matches!(event, Event::Flush) {
            for event in &recording.log[since..cut] {
                apply(&stable, event).await?;
            }
            since = cut + 1;
        }
    }
    Ok(cuts)
}

#[test]
fn a_crash_at_any_point_leaves_leaks_at_worst_and_loses_nothing_flushed() {
    let mut cuts = 0;
    for (number, shape) in shapes().iter().enumerate() {
        if shape.cluster_size > 64 << 10 {
            continue;
        }
        for (backing, round) in (0..rounds() * 2).map(|n| (n % 2 == 1, n / 2)) {
            let seed = 7000 + round * 1000 + number as u64 * 2 + u64::from(backing);
            cuts += run(async {
                let recording = record(shape, backing, seed, 40, 0).await?;
                cut_everywhere(&recording, &mut Random::new(seed), 3).await
            })
            .unwrap_or_else(|error| panic!("{shape:?}, backing {backing}: {error}"));
        }
    }
    eprintln!("{cuts} crashes");
    assert!(cuts > 2000);
}

#[test]
fn a_table_in_a_reused_cluster_is_stable_before_anything_refers_to_it() {
    // Freed clusters full of garbage become L2 tables.
    let shape = CreateOptions { cluster_size: 512, ..CreateOptions::default() };
    run(async {
        for seed in 0..40 {
            let recording = record(&shape, false, 4 * seed + 2, 25, 0).await?;
            cut_everywhere(&recording, &mut Random::new(seed), 3).await?;
        }
        Ok::<_, BlockError>(())
    })
    .unwrap();
}

#[test]
fn a_crash_while_the_refcount_table_moves_is_survived() {
    // One cluster of refcount table covers 2 MiB in this shape; the disk crosses that line.
    let shape = CreateOptions { cluster_size: 512, refcount_bits: 64, ..CreateOptions::default() };
    let moved = |file: &MemFile| {
        let bytes = file.to_vec();
        u32::from_be_bytes(bytes[56..60].try_into().unwrap()) > 1
    };
    run(async {
        let recording = record(&shape, false, 11, 60, 3700).await?;
        assert!(!moved(&recording.start), "it has not moved before");
        let end = recording.start.fork();
        for event in &recording.log {
            apply(&end, event).await?;
        }
        assert!(moved(&end), "and has moved after the session");
        cut_everywhere(&recording, &mut Random::new(5), 1).await
    })
    .unwrap();
}

#[test]
fn a_crash_while_the_disk_grows_is_survived() {
    for shape in shapes().iter().filter(|shape| shape.cluster_size <= 16 << 10) {
        run(async {
            let graph = BlockGraph::new();
            let fs = MemFs::new();
            let file = Arc::new(MemFile::new());
            let create = CreateOptions { size: 256 << 10, ..shape.clone() };
            img::create(&graph, file.clone(), Format::Qcow2, &create).await?;
            let log = Arc::new(Mutex::new(Vec::new()));
            let start = file.fork();
            let recorder = Recorder { file: file.fork(), holes: true, log: log.clone() };
            fs.add("disk", Arc::new(recorder));
            let node = graph.open(&fs, "disk", &options()).await?;
            node.write(0, vec![7; 256 << 10].into()).await?;
            node.flush().await?;
            let written = log.lock().unwrap().len();
            node.truncate(64 << 20).await?;
            node.write(63 << 20, vec![9; 1000].into()).await?;
            node.close().await?;
            let log = log.lock().unwrap().clone();
            let disk = start.fork();
            for (cut, event) in log.iter().enumerate() {
                apply(&disk, event).await?;
                if cut + 1 < written {
                    continue;
                }
                let graph = BlockGraph::new();
                let fs = MemFs::new();
                fs.add("disk", Arc::new(disk.fork()));
                let repair = if shape.lazy_refcounts { Repair::All } else { Repair::Nothing };
                let result = img::check(&graph, &fs, "disk", None, repair).await?;
                let left = result.corruptions - result.corruptions_fixed;
                assert_eq!(left, 0, "{shape:?} cut {cut}: {:?}", result.messages);
                let node = graph.open(&fs, "disk", &options()).await?;
                let bytes = node.read(0, IoBuf::zeroed(256 << 10)).await?;
                assert!(bytes.iter().all(|b| *b == 7), "{shape:?} cut {cut}");
                assert!([256 << 10, 64 << 20].contains(&node.len()));
            }
            Ok::<_, BlockError>(())
        })
        .unwrap();
    }
}

#[test]
fn a_disk_grows_by_more_tables_than_one_refcount_block_counts() {
    run(async {
        let graph = BlockGraph::new();
        let fs = MemFs::new();
        let file = Arc::new(MemFile::new());
        let create = CreateOptions { size: 1 << 20, cluster_size: 512, ..CreateOptions::default() };
        img::create(&graph, file.clone(), Format::Qcow2, &create).await?;
        fs.add("disk", file);
        let node = graph.open(&fs, "disk", &options()).await?;
        node.write(0, vec![7; 4096].into()).await?;
        node.truncate(1 << 30).await?;
        node.write((1 << 30) - 1000, vec![9; 1000].into()).await?;
        node.close().await?;
        drop(node);
        let graph = BlockGraph::new();
        let result = img::check(&graph, &fs, "disk", None, Repair::Nothing).await?;
        assert!(result.is_clean(), "{:?}", result.messages);
        let node = graph.open(&fs, "disk", &options()).await?;
        let end = node.read((1 << 30) - 1000, IoBuf::zeroed(1000)).await?;
        assert!(end.iter().all(|byte| *byte == 9));
        Ok::<_, BlockError>(())
    })
    .unwrap();
}
