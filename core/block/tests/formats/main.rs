//! Every format against a plain array, and with damaged headers.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a long search is asked for from outside, and says how long it was"
)]

mod crash;
mod fuzz;
#[path = "../log/mod.rs"]
mod log;

use orrery_block::exec::Executor;
use orrery_block::formats::create::{Host, Values, create};
use orrery_block::graph::BlockGraph;
use orrery_block::host::{BlockFile, Gate, HostFs, MemFile, MemFs};
use orrery_block::qcow2::Repair;
use orrery_block::{BlockError, Format, IoBuf, Op, OpenOptions, img};
use std::future::Future;
use std::sync::{Arc, Mutex};

fn run<T>(future: impl Future<Output = T>) -> T {
    Executor::new().run_in_place(future).expect("nothing here waits")
}

/// Files in memory, with random bytes that tests can repeat.
struct Files {
    fs: MemFs,
    seed: Mutex<u64>,
}

impl Files {
    fn new(seed: u64) -> Self {
        Self { fs: MemFs::new(), seed: Mutex::new(seed | 1) }
    }

    fn next(&self) -> u64 {
        let mut seed = self.seed.lock().unwrap();
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed >> 11
    }

    fn below(&self, n: u64) -> u64 {
        self.next() % n
    }
}

impl HostFs for Files {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        self.fs.open(name, write)
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        self.fs.create(name)
    }

    fn random(&self, buf: &mut [u8]) -> bool {
        buf.iter_mut().for_each(|byte| *byte = self.next() as u8);
        true
    }
}

/// A format, and options by name.
type Shape = (Format, &'static [(&'static str, &'static str)]);

/// Formats with options that change how they store data.
const SHAPES: &[Shape] = &[
    (Format::Raw, &[]),
    (Format::Qcow2, &[("cluster_size", "4096")]),
    (
        Format::Qcow2,
        &[("encrypt.format", "luks"), ("encrypt.key-secret", "s"), ("encrypt.iter-time", "1")],
    ),
    (Format::Qcow2, &[("preallocation", "metadata")]),
    (Format::Qcow, &[]),
    (Format::Qcow, &[("encryption", "on"), ("encrypt.key-secret", "s")]),
    (Format::Qed, &[("cluster_size", "4096"), ("table_size", "2")]),
    (Format::Vmdk, &[]),
    (Format::Vmdk, &[("zeroed_grain", "on")]),
    (Format::Vmdk, &[("subformat", "monolithicFlat")]),
    (Format::Vmdk, &[("subformat", "twoGbMaxExtentSparse")]),
    (Format::Vmdk, &[("subformat", "twoGbMaxExtentFlat")]),
    (Format::Vmdk, &[("subformat", "streamOptimized")]),
    (Format::Vdi, &[]),
    (Format::Vdi, &[("static", "on")]),
    (Format::Vhdx, &[("block_size", "1M")]),
    (Format::Vhdx, &[("block_size", "1M"), ("subformat", "fixed")]),
    (Format::Vpc, &[("force_size", "on")]),
    (Format::Vpc, &[("force_size", "on"), ("subformat", "fixed")]),
    (Format::Parallels, &[("cluster_size", "65536")]),
    (Format::Luks, &[("key-secret", "s"), ("iter-time", "1")]),
];

const SIZE: u64 = 5 << 20;

async fn make(files: &Files, format: Format, options: &[(&str, &str)]) -> Result<(), BlockError> {
    let mut values = Values::default();
    values.set("size", SIZE.to_string());
    options.iter().for_each(|(name, value)| values.set(name, *value));
    let host = Host {
        fs: files,
        secret: &|_: &str| Some(b"secret"[..].into()),
        rounds: &|_, _| 1000,
        now: 1_700_000_000,
    };
    create(&BlockGraph::new(), &host, "disk", format, &values).await
}

fn open(format: Format) -> OpenOptions {
    OpenOptions {
        format: Some(format),
        gate: Gate::PlainFiles,
        secret: Some(b"secret"[..].into()),
        ..OpenOptions::default()
    }
}

#[test]
fn every_format_behaves_like_an_array_and_stays_clean() {
    for (number, (format, options)) in SHAPES.iter().enumerate() {
        let files = Files::new(number as u64 + 77);
        let mut model = vec![0u8; SIZE as usize];
        let result = run(async {
            make(&files, *format, options).await?;
            for _ in 0..3 {
                let graph = BlockGraph::new();
                let node = graph.open(&files, "disk", &open(*format)).await?;
                assert_eq!(node.len(), SIZE);
                if *format == Format::Luks && model.iter().all(|byte| *byte == 0) {
                    // What was never written decrypts to noise.
                    node.write_zeroes(0, SIZE, false).await?;
                }
                for _ in 0..25 {
                    let at = files.below(SIZE);
                    let len = (1 + files.below(150_000)).min(SIZE - at);
                    let range = at as usize..(at + len) as usize;
                    if files.below(4) == 0 {
                        node.write_zeroes(at, len, files.below(2) == 0).await?;
                        model[range].fill(0);
                    } else {
                        let byte = files.next() as u8 | 1;
                        node.write(at, vec![byte; len as usize].into()).await?;
                        model[range].fill(byte);
                    }
                }
                let seen = node.read(0, IoBuf::zeroed(SIZE as usize)).await?;
                assert!(seen[..] == model[..], "{format:?} {options:?}");
                node.close().await?;
            }
            let graph = BlockGraph::new();
            let node = graph
                .open(&files, "disk", &OpenOptions { read_only: true, ..open(*format) })
                .await?;
            let seen = node.read(0, IoBuf::zeroed(SIZE as usize)).await?;
            assert!(seen[..] == model[..], "{format:?} {options:?} opened again");
            drop(node);
            match img::check(&BlockGraph::new(), &files, "disk", Some(*format), Repair::Nothing)
                .await
            {
                Ok(result) => assert!(result.is_clean(), "{format:?} {options:?}: {result:?}"),
                Err(BlockError::Unsupported(_)) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        });
        result.unwrap_or_else(|error: BlockError| panic!("{format:?} {options:?}: {error}"));
    }
}

#[test]
fn damaged_headers_never_panic_and_encrypted_disks_stay_closed() {
    const VALUES: [u32; 7] = [0, 1, 0x1ff, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];
    for (number, (format, options)) in SHAPES.iter().enumerate() {
        let files = Files::new(number as u64 + 5);
        run(make(&files, *format, options)).unwrap();
        let file = run(files.open("disk", true)).unwrap();
        let locked = run(BlockGraph::new().open(
            &files,
            "disk",
            &OpenOptions { secret: None, read_only: true, ..open(*format) },
        ));
        let secret = options.iter().any(|(name, _)| name.ends_with("key-secret"));
        assert_eq!(matches!(locked, Err(BlockError::Encrypted(_))), secret, "{format:?}");
        drop(locked);
        // Key derivation would take most of the time.
        if secret {
            continue;
        }
        let len = file.len().min(4 << 20) as usize;
        let good = run(file.read_at(0, IoBuf::zeroed(len))).unwrap().into_vec();
        for _ in 0..300 {
            let mut bytes = good.clone();
            let zone = [128, 1024, 70_000][files.below(3) as usize].min(len);
            let at = files.below(zone as u64 - 4) as usize / 4 * 4;
            let value = VALUES[files.below(7) as usize];
            let value = if files.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
            bytes[at..at + 4].copy_from_slice(&value);
            let fs = MemFs::new();
            fs.add("disk", Arc::new(MemFile::from_bytes(&bytes)));
            run(async {
                let graph = BlockGraph::new();
                if let Ok(node) = graph.open(&fs, "disk", &open(*format)).await {
                    let n = node.len().min(100_000);
                    let _ = node.read(0, IoBuf::zeroed(n as usize)).await;
                    let _ = node.write(n / 2, vec![1; (n - n / 2).min(5000) as usize].into()).await;
                    let _ = node.close().await;
                }
                let _ =
                    img::check(&BlockGraph::new(), &fs, "disk", Some(*format), Repair::All).await;
            });
        }
    }
}
