//! Images to begin with: `seeds FOLDER` makes `FOLDER/FORMAT/...`, small and with some data.

#![forbid(unsafe_code)]

use orrery_block::exec::Executor;
use orrery_block::formats::create::{Host, Values, create};
use orrery_block::graph::BlockGraph;
use orrery_block::host::{BlockFile, HostFs, MemFs};
use orrery_block::{BlockError, Format, IoBuf, Op, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;

/// Formats with options that keep their files small.
const SHAPES: &[(Format, &[(&str, &str)])] = &[
    (Format::Qcow2, &[("cluster_size", "512")]),
    (Format::Qcow2, &[("cluster_size", "512"), ("compat", "0.10")]),
    (Format::Qcow2, &[("cluster_size", "512"), ("refcount_bits", "1")]),
    (Format::Qcow2, &[("cluster_size", "512"), ("lazy_refcounts", "on")]),
    (Format::Qcow2, &[("cluster_size", "16384"), ("extended_l2", "on")]),
    (Format::Qcow2, &[("cluster_size", "4096"), ("preallocation", "metadata")]),
    (Format::Qcow, &[]),
    (Format::Qed, &[("cluster_size", "4096"), ("table_size", "1")]),
    (Format::Vmdk, &[]),
    (Format::Vmdk, &[("subformat", "streamOptimized")]),
    (Format::Vmdk, &[("zeroed_grain", "on")]),
    (Format::Vdi, &[]),
    (Format::Vhdx, &[("block_size", "1M")]),
    (Format::Vpc, &[("force_size", "on")]),
    (Format::Parallels, &[("cluster_size", "4096")]),
    (Format::Luks, &[("key-secret", "s"), ("iter-time", "1")]),
];

struct Files(MemFs);

impl HostFs for Files {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        self.0.open(name, write)
    }
    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        self.0.create(name)
    }
    fn random(&self, buf: &mut [u8]) -> bool {
        buf.fill(0x5a);
        true
    }
}

async fn seed(format: Format, options: &[(&str, &str)]) -> Result<Vec<u8>, BlockError> {
    let files = Files(MemFs::new());
    let mut values = Values::default();
    values.set("size", (1 << 20).to_string());
    options.iter().for_each(|(name, value)| values.set(name, *value));
    let host = Host {
        fs: &files,
        secret: &|_: &str| Some(b"secret"[..].into()),
        rounds: &|_, _| 1000,
        now: 1_700_000_000,
    };
    create(&BlockGraph::new(), &host, "disk", format, &values).await?;
    let options = OpenOptions {
        format: Some(format),
        secret: Some(b"secret"[..].into()),
        ..OpenOptions::default()
    };
    let node = BlockGraph::new().open(&files, "disk", &options).await?;
    // (A stream-optimized image takes only what its compressor takes.)
    let _ = node.write(512, vec![7; 1024].into()).await;
    let _ = node.write_zeroes(70_000, 4096, true).await;
    node.close().await?;
    drop(node);
    let file = files.open("disk", false).await?;
    Ok(file.read_at(0, IoBuf::zeroed(file.len() as usize)).await?.into_vec())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "corpus".into()));
    for (number, (format, options)) in SHAPES.iter().enumerate() {
        let image = Executor::new().run_in_place(seed(*format, options)).ok_or("it waits")??;
        let folder = root.join(format.name());
        std::fs::create_dir_all(&folder)?;
        for script in [0u8, 1, 4] {
            let mut bytes = vec![script; orrery_fuzz::SCRIPT];
            bytes[1..].copy_from_slice(&[2, 1, 0, 13, 40, 0, 3, 130, 0, 37, 3, 0, 36, 2, 0]);
            bytes.extend_from_slice(&image);
            std::fs::write(folder.join(format!("{number}-{script}")), bytes)?;
        }
    }
    Ok(())
}
