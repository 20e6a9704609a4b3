//! Images with data and random damage: opened, read, written, checked, and none of it may panic,
//! hang or ask for memory without end.
//!
//! A few rounds of each format go with the other tests. `ORRERY_FUZZ_ROUNDS=100000` makes it a
//! long search, `ORRERY_FUZZ_SEED` another one; a failure names the seed of its round.

use crate::{Files, SHAPES, make, open, run};
use orrery_block::graph::BlockGraph;
use orrery_block::host::{HostFs, MemFile, MemFs};
use orrery_block::qcow2::Repair;
use orrery_block::{IoBuf, img};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Damage of the kinds that find most: odd values in fields, bytes from elsewhere, a short file.
fn damage(files: &Files, bytes: &mut Vec<u8>) {
    const ODD: [u64; 8] =
        [0, 1, 0x7f, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];
    for _ in 0..=files.below(3) {
        let len = bytes.len() as u64;
        // Metadata lies in front, and in clusters of its own.
        let zone = [512, 4096, 70_000, 1 << 20, len][files.below(5) as usize].min(len);
        let at = (files.below(zone.max(9) - 8) & !3) as usize;
        match files.below(6) {
            0 => {
                let bit = 1 << files.below(8);
                bytes[at] ^= bit;
            }
            1 => {
                let from = files.below(len - 8) as usize & !7;
                bytes.copy_within(from..from + 8, at);
            }
            2 if files.below(4) == 0 => {
                let keep = files.below(len).max(512);
                bytes.truncate(keep as usize);
            }
            _ => {
                let odd = ODD[files.below(8) as usize];
                let width = [2, 4, 8][files.below(3) as usize];
                let (big, little) = (odd.to_be_bytes(), odd.to_le_bytes());
                let value = if files.below(2) == 0 { &big[8 - width..] } else { &little[..width] };
                bytes[at..at + width].copy_from_slice(value);
            }
        }
        if bytes.len() < 64 {
            return;
        }
    }
}

#[test]
fn damaged_images_survive_everything_that_is_done_with_them() {
    let rounds = number("ORRERY_FUZZ_ROUNDS", 40);
    let seed = number("ORRERY_FUZZ_SEED", 1);
    let mut runs = 0;
    for (shape, (format, options)) in SHAPES.iter().enumerate() {
        let files = Files::new(shape as u64 + 1000);
        // Key derivation would take most of the time.
        if options.iter().any(|(name, _)| name.ends_with("key-secret")) {
            continue;
        }
        run(make(&files, *format, options)).unwrap();
        run(async {
            let node = BlockGraph::new().open(&files, "disk", &open(*format)).await.unwrap();
            for at in [0, 70_000, 1 << 20, 3 << 20] {
                let _ = node.write(at, vec![7; 30_000].into()).await;
            }
            let _ = node.write_zeroes(2 << 20, 1 << 19, true).await;
            let _ = node.close().await;
        });
        let file = run(files.open("disk", false)).unwrap();
        let len = file.len().min(6 << 20) as usize;
        let good = run(file.read_at(0, IoBuf::zeroed(len))).unwrap().into_vec();
        for round in 0..rounds {
            let round = seed.wrapping_mul(0x9e37_79b9).wrapping_add(round) ^ (shape as u64) << 48;
            let dice = Files::new(round);
            let mut bytes = good.clone();
            damage(&dice, &mut bytes);
            let fs = MemFs::new();
            fs.add("disk", Arc::new(MemFile::from_bytes(&bytes)));
            runs += 1;
            let work = async {
                let graph = BlockGraph::new();
                if let Ok(node) = graph.open(&fs, "disk", &open(*format)).await {
                    let size = node.len();
                    for _ in 0..6 {
                        let at = dice.below(size.clamp(1, 6 << 20));
                        let n = (1 + dice.below(100_000)).min(size.saturating_sub(at));
                        let buf = || IoBuf::zeroed(n as usize);
                        match dice.below(6) {
                            0 | 1 => drop(node.read(at, buf()).await),
                            2 => drop(node.write(at, buf()).await),
                            3 => drop(node.write_zeroes(at, n, true).await),
                            4 => drop(node.discard(at, n).await),
                            _ if n > 0 => drop(node.status(at, n).await),
                            _ => drop(node.flush().await),
                        }
                    }
                    let _ = node.close().await;
                }
                let graph = BlockGraph::new();
                let repair = [Repair::Nothing, Repair::Leaks, Repair::All];
                let repair = repair[dice.below(3) as usize];
                let _ = img::check(&graph, &fs, "disk", Some(*format), repair).await;
                let _ = img::info(&graph, &fs, "disk", Some(*format)).await;
            };
            // What was being done is told when it goes wrong.
            let ended = catch_unwind(AssertUnwindSafe(|| run(work)));
            assert!(ended.is_ok(), "{format:?} in the round with seed {round}");
        }
    }
    assert!(runs > 0);
}
