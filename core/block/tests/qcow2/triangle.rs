//! Allocation, discard and flush from four threads on one image, over storage that is sometimes
//! late: every thread knows what its own clusters hold, and `check` judges what is left.
//!
//! `ORRERY_TRIANGLE_ROUNDS=100` runs that many times as long.

use crate::Random;
use orrery_block::exec::{Executor, yield_now};
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::{BlockFile, MemFile, MemFs};
use orrery_block::qcow2::{CreateOptions, Repair};
use orrery_block::{Format, IoBuf, Op, OpenOptions, Result, img};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: usize = 4;
const CLUSTERS: usize = 1024;
const CLUSTER: usize = 4096;
const STEPS: u64 = 30_000;

/// A file that answers one request in four only when it is asked again.
struct Late {
    file: Arc<MemFile>,
    count: AtomicU64,
}

impl Late {
    fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&MemFile) -> Op<T> + Send + 'static,
    ) -> Op<T> {
        let n =
            self.count.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        if n >= 4 {
            return work(&self.file);
        }
        let file = self.file.clone();
        Op::pending(async move {
            for _ in 0..n {
                yield_now().await;
            }
            let done = work(&file).await;
            yield_now().await;
            done
        })
    }
}

impl BlockFile for Late {
    fn len(&self) -> u64 {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.answer(move |file| file.read_at(offset, buf))
    }
    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        self.answer(move |file| file.write_at(offset, buf))
    }
    fn flush(&self) -> Op<()> {
        self.answer(|file| file.flush())
    }
    fn set_len(&self, len: u64) -> Op<()> {
        self.answer(move |file| file.set_len(len))
    }
    fn punch_hole(&self, offset: u64, len: u64) -> Op<()> {
        self.answer(move |file| file.punch_hole(offset, len))
    }
}

/// One thread's work on the clusters that are its own: each holds one value throughout.
async fn play(node: &Arc<Node>, own: usize, steps: u64) -> Result<Vec<u8>> {
    let mut random = Random::new(own as u64 + 77);
    let mut model = vec![0u8; CLUSTERS / THREADS];
    for _ in 0..steps {
        let i = random.below(model.len() as u64) as usize;
        let at = ((i * THREADS + own) * CLUSTER) as u64;
        match random.below(12) {
            0..=4 => {
                let value = 1 + random.below(255) as u8;
                node.write(at, vec![value; CLUSTER].into()).await?;
                model[i] = value;
            }
            5..=8 => {
                node.discard(at, CLUSTER as u64).await?;
                model[i] = 0;
            }
            9 => {
                node.write_zeroes(at, CLUSTER as u64, true).await?;
                model[i] = 0;
            }
            10 => node.flush().await?,
            _ => {
                let bytes = node.read(at, IoBuf::zeroed(CLUSTER)).await?;
                let same = bytes.iter().all(|byte| *byte == model[i]);
                assert!(same, "thread {own}: cluster {i} is {}, not {}", bytes[0], model[i]);
            }
        }
    }
    Ok(model)
}

#[test]
fn four_threads_allocate_discard_and_flush_and_nothing_is_lost() {
    let rounds = crate::log::rounds_of("ORRERY_TRIANGLE_ROUNDS");
    let plain = Arc::new(MemFile::new());
    let size = (CLUSTERS * CLUSTER) as u64;
    let create = CreateOptions { size, cluster_size: CLUSTER as u64, ..CreateOptions::default() };
    crate::run(img::create(&BlockGraph::new(), plain.clone(), Format::Qcow2, &create)).unwrap();
    let graph = BlockGraph::new();
    let fs = MemFs::new();
    fs.add("disk", Arc::new(Late { file: plain.clone(), count: AtomicU64::new(0) }));
    let wait = || std::thread::yield_now();
    let exec = graph.executor().clone();
    let node = exec.block_on(graph.open(&fs, "disk", &OpenOptions::default()), &wait).unwrap();
    let models: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|own| {
                let node = &node;
                scope.spawn(move || {
                    Executor::new().block_on(play(node, own, STEPS * rounds), &wait).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    exec.block_on(node.close(), &wait).unwrap();
    drop(node);
    let fs = MemFs::new();
    fs.add("disk", Arc::new(plain.fork()));
    let result =
        crate::run(img::check(&BlockGraph::new(), &fs, "disk", None, Repair::Nothing)).unwrap();
    assert!(result.is_clean(), "{result:?}");
    let node = crate::run(BlockGraph::new().open(&fs, "disk", &OpenOptions::default())).unwrap();
    for cluster in 0..CLUSTERS {
        let at = (cluster * CLUSTER) as u64;
        let bytes = crate::run(node.read(at, IoBuf::zeroed(CLUSTER))).unwrap();
        let want = models[cluster % THREADS][cluster / THREADS];
        assert!(bytes.iter().all(|byte| *byte == want), "cluster {cluster} at the end");
    }
}
