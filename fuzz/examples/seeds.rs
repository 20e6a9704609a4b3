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

const OPTIONS: &[&str] = &[
    "qcow2,node-name=a,file.driver=file,file.filename=b,l2-cache-size=1M",
    "json:{'driver':'nbd','export':'x','server':{'type':'inet','host':'h','port':'1'}}",
    "nbd+unix:///x?socket=/tmp/s",
    "driver=quorum,vote-threshold=2,children.0=a,children.1.driver=null-co,children.1.size=5",
    "{\"driver\": \"blkdebug\", \"image\": \"n\", \"inject-error\": [{\"event\": \"read_aio\"}]}",
];

const QMP: &[&str] = &[
    r#"{"execute": "query-named-block-nodes"}{"execute": "query-blockstats", "id": 5}"#,
    r#"{"execute": "block-dirty-bitmap-add", "arguments": {"node": "n", "name": "b"}}"#,
    r#"{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "z", "size": 1048576}}
{"execute": "blockdev-mirror", "arguments": {"device": "n", "target": "z", "sync": "full", "job-id": "j"}}
{"execute": "job-complete", "arguments": {"id": "j"}}{"execute": "query-jobs"}"#,
    r#"{"execute": "blockdev-reopen", "arguments": {"options": [{"driver": "raw", "node-name": "n", "offset": 512}]}}
{"execute": "blockdev-del", "arguments": {"node-name": "n"}}{"execute": "quit"}"#,
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
    for (folder, texts) in [("options", OPTIONS), ("qmp", QMP)] {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder)?;
        for (number, text) in texts.iter().enumerate() {
            std::fs::write(folder.join(number.to_string()), text)?;
        }
    }
    let be = |words: &[&[u8]]| words.concat();
    let (magic, option) = (0x4e42_444d_4147_4943_u64.to_be_bytes(), *b"IHAVEOPT");
    let name =
        be(&[&3_u32.to_be_bytes(), &option, &1_u32.to_be_bytes(), &1_u32.to_be_bytes(), b"x"]);
    let request = be(&[&0x2560_9513_u32.to_be_bytes(), &[0; 20], &512_u32.to_be_bytes()]);
    let go = be(&[&3_u32.to_be_bytes(), &option, &7_u32.to_be_bytes(), &7_u32.to_be_bytes()]);
    let go = be(&[&go, &1_u32.to_be_bytes(), b"x", &0_u16.to_be_bytes()]);
    let old = be(&[&magic, &option, &0_u16.to_be_bytes(), &65536_u64.to_be_bytes(), &[0; 126]]);
    let reply = be(&[&0x6744_6698_u32.to_be_bytes(), &[0; 4], &1_u64.to_be_bytes(), &[7; 4096]]);
    for (folder, number, bytes) in [
        ("nbd_server", "0", be(&[&name, &request])),
        ("nbd_server", "1", be(&[&go, &request])),
        ("nbd_client", "0", be(&[&old, &reply])),
    ] {
        std::fs::create_dir_all(root.join(folder))?;
        std::fs::write(root.join(folder).join(number), bytes)?;
    }
    Ok(())
}
