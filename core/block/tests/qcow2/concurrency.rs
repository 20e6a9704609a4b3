//! Many requests at once over storage that finishes them late and out of order.

use crate::model::shapes;
use crate::{Random, run};
use orrery_block::backend::{BlockBackend, Request, Ticket};
use orrery_block::graph::BlockGraph;
use orrery_block::host::{BlockFile, HeldFile, MemFile, MemFs};
use orrery_block::qcow2::{CreateOptions, Repair};
use orrery_block::{Format, IoBuf, OpenOptions, img};
use std::sync::Arc;

const GRAIN: u64 = 512;

enum Doing {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Discard(u64, u64),
    Read(u64, u64),
    Flush,
}

impl Doing {
    fn range(&self) -> (u64, u64) {
        match self {
            Self::Write(at, bytes) => (*at, *at + bytes.len() as u64),
            Self::Zero(at, len) | Self::Discard(at, len) | Self::Read(at, len) => (*at, at + len),
            Self::Flush => (0, 0),
        }
    }
}

struct Bench {
    backend: BlockBackend,
    graph: BlockGraph,
    file: Arc<HeldFile>,
    /// Values that a sector may have.
    model: Vec<Vec<u8>>,
    open: Vec<(Ticket, Doing)>,
    random: Random,
}

impl Bench {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.open.iter().any(|(_, doing)| {
            let (a, b) = doing.range();
            a < end && start < b
        })
    }

    fn start(&mut self) {
        let sectors = self.model.len() as u64;
        let first = self.random.below(sectors);
        let most = [1, 20, 260][self.random.below(3) as usize];
        let count = (1 + self.random.below(most)).min(sectors - first);
        let (at, len) = (first * GRAIN, count * GRAIN);
        // Requests that overlap may take effect in any order; the model wants to know.
        if self.overlaps(at, at + len) {
            return;
        }
        let (request, doing) = match self.random.below(9) {
            0..=3 => {
                let value = 1 + self.random.below(255) as u8;
                let bytes = vec![value; len as usize];
                let buf = IoBuf::from(&bytes[..]);
                (Request::Write { offset: at, buf, fua: false }, Doing::Write(at, bytes))
            }
            4 => (Request::WriteZeroes { offset: at, len, unmap: true }, Doing::Zero(at, len)),
            5 => (Request::Discard { offset: at, len }, Doing::Discard(at, len)),
            6 | 7 => (
                Request::Read { offset: at, buf: IoBuf::zeroed(len as usize) },
                Doing::Read(at, len),
            ),
            _ => (Request::Flush, Doing::Flush),
        };
        let ticket = self.backend.submit(request);
        self.open.push((ticket, doing));
    }

    fn collect(&mut self) {
        let mut index = 0;
        while index < self.open.len() {
            if !self.open[index].0.poll() {
                index += 1;
                continue;
            }
            let (mut ticket, doing) = self.open.swap_remove(index);
            let buf = ticket.take().expect("polled").expect("storage works");
            let (start, end) = doing.range();
            let sectors = (start / GRAIN) as usize..(end / GRAIN) as usize;
            match doing {
                Doing::Write(_, bytes) => self.model[sectors].fill(vec![bytes[0]]),
                Doing::Zero(..) => self.model[sectors].fill(vec![0]),
                Doing::Discard(..) => {
                    for may in &mut self.model[sectors] {
                        if !may.contains(&0) {
                            may.push(0);
                        }
                    }
                }
                Doing::Read(..) => {
                    for (k, sector) in sectors.enumerate() {
                        let got = &buf[k * GRAIN as usize..(k + 1) * GRAIN as usize];
                        let may = &self.model[sector];
                        let same = may.contains(&got[0]) && got.iter().all(|b| *b == got[0]);
                        assert!(same, "sector {sector} reads {} but may be {may:?}", got[0]);
                    }
                }
                Doing::Flush => {}
            }
        }
    }

    fn turn(&mut self) {
        match self.random.below(5) {
            0 | 1 if self.open.len() < 24 => self.start(),
            _ => {
                let held = self.file.held() as u64;
                if held > 0 {
                    let index = self.random.below(held) as usize;
                    self.file.release(index);
                }
            }
        }
        self.graph.poll();
        self.collect();
    }
}

fn play(shape: &CreateOptions, seed: u64) {
    let sectors = 2000;
    let create = CreateOptions { size: sectors * GRAIN, ..shape.clone() };
    let graph = BlockGraph::new();
    let fs = MemFs::new();
    let plain = Arc::new(MemFile::new());
    run(img::create(&graph, plain.clone(), Format::Qcow2, &create)).unwrap();
    let file = Arc::new(HeldFile::new(plain.fork()));
    file.set_hold(false);
    fs.add("disk", file.clone());
    let node = run(graph.open(&fs, "disk", &OpenOptions::default())).unwrap();
    let backend = graph.create_backend("disk").unwrap();
    backend.insert(node.medium(false)).unwrap();
    file.set_hold(true);
    let model = vec![vec![0]; sectors as usize];
    let random = Random::new(seed);
    let mut bench = Bench { backend, graph, file, model, open: Vec::new(), random };
    for _ in 0..2500 {
        bench.turn();
    }
    while !bench.open.is_empty() {
        assert!(bench.file.release_one(), "{} requests are stuck", bench.open.len());
        bench.graph.poll();
        bench.collect();
    }
    bench.file.set_hold(false);
    drop(node);
    run(bench.graph.close()).unwrap();
    bench.graph.remove_backend("disk").unwrap();
    bench.graph.poll();
    let done = MemFs::new();
    done.add("disk", Arc::new(bench.file.file().fork()));
    let result = run(img::check(&bench.graph, &done, "disk", None, Repair::Nothing)).unwrap();
    assert!(result.is_clean(), "{shape:?}, seed {seed}: {result:?}");
    let node = run(bench.graph.open(&done, "disk", &OpenOptions::default())).unwrap();
    let bytes = run(node.read(0, IoBuf::zeroed(sectors as usize * GRAIN as usize))).unwrap();
    for (sector, may) in bench.model.iter().enumerate() {
        let got = bytes[sector * GRAIN as usize];
        assert!(may.contains(&got), "sector {sector} is {got} but may be {may:?}");
    }
}

#[test]
fn requests_that_finish_late_and_out_of_order_leave_what_they_should() {
    for (number, shape) in shapes().iter().enumerate() {
        for seed in 0..6 {
            play(shape, 31 * number as u64 + seed);
        }
    }
}

#[test]
fn a_freed_cluster_is_not_reused_while_somebody_still_reads_it() {
    let graph = BlockGraph::new();
    let fs = MemFs::new();
    let plain = Arc::new(MemFile::new());
    let create = CreateOptions { size: 1 << 20, ..CreateOptions::default() };
    run(img::create(&graph, plain.clone(), Format::Qcow2, &create)).unwrap();
    let file = Arc::new(HeldFile::new(plain.fork()));
    file.set_hold(false);
    fs.add("disk", file.clone());
    let node = run(graph.open(&fs, "disk", &OpenOptions::default())).unwrap();
    let disk = graph.create_backend("disk").unwrap();
    disk.insert(node.medium(false)).unwrap();
    run(disk.write(0, vec![1; 65536].into())).unwrap();
    run(disk.flush()).unwrap();
    file.set_hold(true);
    let mut read = disk.submit(Request::Read { offset: 0, buf: IoBuf::zeroed(65536) });
    assert_eq!(file.held(), 1, "the read is on its way to the cluster");
    file.set_hold(false);
    run(async {
        disk.submit(Request::Discard { offset: 0, len: 65536 }).await?;
        disk.flush().await?;
        disk.flush().await?;
        for i in 1..8 {
            disk.write(i * 65536, vec![2; 65536].into()).await?;
        }
        Ok::<_, orrery_block::BlockError>(())
    })
    .unwrap();
    let full = file.len();
    file.release_all();
    graph.poll();
    let bytes = read.take().unwrap().unwrap();
    assert!(bytes.iter().all(|b| *b == 1), "neither a hole nor another's data");
    run(async {
        disk.flush().await?;
        disk.flush().await?;
        disk.write(8 * 65536, vec![3; 65536].into()).await
    })
    .unwrap();
    assert_eq!(file.len(), full, "now it is reused");
}
