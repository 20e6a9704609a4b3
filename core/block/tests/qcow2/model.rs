//! Random operations on every shape of image, compared byte for byte with a plain array.

use crate::{Random, run};
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::{Gate, HostFs, MemFs};
use orrery_block::qcow2::{CreateOptions, Repair};
use orrery_block::{Format, IoBuf, OpenOptions, Result, img};
use std::sync::Arc;

pub(crate) fn shapes() -> Vec<CreateOptions> {
    let base = CreateOptions::default();
    let v3 =
        |cluster_size, refcount_bits| CreateOptions { cluster_size, refcount_bits, ..base.clone() };
    let mut shapes = vec![
        CreateOptions { version: 2, ..base.clone() },
        CreateOptions { version: 2, cluster_size: 512, ..base.clone() },
        CreateOptions { lazy_refcounts: true, ..base.clone() },
        CreateOptions { extended_l2: true, cluster_size: 16 << 10, ..base.clone() },
        CreateOptions {
            extended_l2: true,
            cluster_size: 64 << 10,
            refcount_bits: 1,
            ..base.clone()
        },
    ];
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        shapes.push(v3(512, bits));
    }
    for cluster in [1 << 10, 4 << 10, 64 << 10, 2 << 20] {
        shapes.push(v3(cluster, 16));
    }
    shapes
}

pub(crate) fn options() -> OpenOptions {
    OpenOptions { gate: Gate::PlainFiles, ..OpenOptions::default() }
}

/// One random change, on the image and on the array.
async fn step(node: &Arc<Node>, model: &mut [u8], random: &mut Random) -> Result<()> {
    let size = model.len() as u64;
    let offset = random.below(size);
    let longest = [600, 5000, 70_000, 300_000][random.below(4) as usize];
    let len = (1 + random.below(longest)).min(size - offset);
    let (start, end) = (offset as usize, (offset + len) as usize);
    match random.below(10) {
        0..=4 => {
            let bytes = random.bytes(len as usize);
            model[start..end].copy_from_slice(&bytes);
            node.write(offset, bytes.into()).await?;
        }
        5..=6 => {
            model[start..end].fill(0);
            node.write_zeroes(offset, len, random.below(2) == 0).await?;
        }
        7 => {
            node.discard(offset, len).await?;
            // A discard may or may not take effect; the model follows what it did.
            let now = node.read(offset, IoBuf::zeroed(len as usize)).await?;
            for (i, (old, new)) in model[start..end].iter_mut().zip(now.iter()).enumerate() {
                assert!(*new == *old || *new == 0, "discard left garbage at {}", start + i);
                *old = *new;
            }
        }
        8 => node.flush().await?,
        _ => {
            let now = node.read(offset, IoBuf::zeroed(len as usize)).await?;
            assert!(now[..] == model[start..end], "wrong content in {start}..{end}");
        }
    }
    Ok(())
}

async fn play(create: &CreateOptions, backing: bool, seed: u64) -> Result<()> {
    let size: u64 = if create.cluster_size < 4096 { 600 << 10 } else { (3 << 20) + 1536 };
    let mut random = Random::new(seed);
    let graph = BlockGraph::new();
    let fs = MemFs::new();
    let mut model = vec![0; size as usize];
    let mut create = CreateOptions { size, ..create.clone() };
    if backing {
        // Shorter than the overlay.
        let len = size as usize * 2 / 3 / 512 * 512;
        model[..len].copy_from_slice(&random.bytes(len));
        let file = fs.create("base").await?;
        file.write_at(0, model[..len].to_vec().into()).await?;
        create.backing_file = Some("base".into());
        create.backing_format = Some("raw".into());
    }
    img::create(&graph, fs.create("disk").await?, Format::Qcow2, &create).await?;
    for round in 0..3 {
        let node = graph.open(&fs, "disk", &options()).await?;
        for _ in 0..60 {
            step(&node, &mut model, &mut random).await?;
        }
        if round == 1 {
            let grown = size + 512 * (1 + random.below(2000));
            node.truncate(grown).await?;
            model.resize(grown as usize, 0);
        }
        let all = node.read(0, IoBuf::zeroed(model.len())).await?;
        assert!(all[..] == model[..], "content differs after round {round}");
        node.close().await?;
        drop(node);
        let result = img::check(&graph, &fs, "disk", None, Repair::Nothing).await?;
        assert!(result.is_clean(), "round {round}: {result:?}");
    }
    Ok(())
}

#[test]
fn every_shape_of_image_behaves_like_an_array_and_stays_clean() {
    for (number, shape) in shapes().iter().enumerate() {
        for backing in [false, true] {
            for seed in 0..4 {
                let seed = seed * 100 + number as u64;
                if let Err(error) = run(play(shape, backing, seed)) {
                    panic!("{shape:?}, backing {backing}, seed {seed}: {error}");
                }
            }
        }
    }
}
