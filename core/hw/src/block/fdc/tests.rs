use super::*;
use orrery_block::IoBuf;
use orrery_block::backend::Request;
use orrery_system::time::Latency;
use std::sync::{Arc, Mutex};

/// A DMA controller's channel: memory, and how many bytes are left to the terminal count.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<(Vec<u8>, usize)>>);

impl DmaChannel for Memory {
    fn store(&mut self, data: &[u8]) -> (usize, bool) {
        let mut m = self.0.lock().unwrap();
        let n = data.len().min(m.1);
        m.0.extend(&data[..n]);
        m.1 -= n;
        (n, n > 0 && m.1 == 0)
    }
    fn fetch(&mut self, data: &mut [u8]) -> (usize, bool) {
        let mut m = self.0.lock().unwrap();
        let n = data.len().min(m.1).min(m.0.len());
        data[..n].copy_from_slice(&m.0[..n]);
        m.0.drain(..n);
        m.1 -= n;
        (n, n > 0 && m.1 == 0)
    }
}

struct Bench {
    dev: Fdc,
    irq: IrqLine,
    clock: Clock,
    timer: Timer,
    memory: Memory,
    disk: BlockBackend,
}

impl Bench {
    fn with(disk: BlockBackend) -> Self {
        let (irq, clock, timer) = (IrqLine::open(), Clock::default(), Timer::default());
        let memory = Memory::default();
        let drives = vec![disk.clone(), BlockBackend::detached()];
        let io = DriveIo::detached(drives, clock.clone(), Latency::new(true));
        let wires = Wires {
            irq: irq.clone(),
            dma: Box::new(memory.clone()),
            clock: clock.clone(),
            timer: timer.clone(),
            io,
        };
        let config = Config { drives: [DriveType::D144, DriveType::None] };
        Self { dev: Fdc::new(config, wires), irq, clock, timer, memory, disk }
    }

    /// A 1.44 MB disk whose every sector begins with its number.
    fn new() -> Self {
        let mut bytes = vec![0; 1440 * 1024];
        for (i, sector) in bytes.as_chunks_mut::<512>().0.iter_mut().enumerate() {
            sector[..4].copy_from_slice(&(i as u32).to_le_bytes());
        }
        let mut b = Self::with(BlockBackend::ram(bytes));
        b.put(Reg::Dir, 0);
        b.put(Reg::Dor, 0x1c);
        b
    }

    fn get(&mut self, reg: Reg) -> u8 {
        self.dev.read(0, reg.offset(), 1).unwrap() as u8
    }

    fn put(&mut self, reg: Reg, value: u8) {
        self.dev.write(0, reg.offset(), 1, value.into()).unwrap();
    }

    fn send(&mut self, bytes: &[u8]) {
        for &b in bytes {
            assert_eq!(self.get(Reg::Msr) & 0xc0, 0x80, "ready for a command byte");
            self.put(Reg::Fifo, b);
        }
    }

    /// Lets time pass until the controller interrupts.
    fn wait(&mut self) {
        for _ in 0..100 {
            if self.irq.level() {
                return;
            }
            let wake = self.timer.deadline();
            let due =
                [wake, self.dev.due()].into_iter().flatten().min().expect("something to come");
            self.clock.advance_to(due);
            self.timer.disarm();
            self.dev.wake(TIMER, due);
            self.dev.deliver(due);
        }
        panic!("no interrupt");
    }

    fn results(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.get(Reg::Msr) & 0xd0 == 0xd0 {
            out.push(self.get(Reg::Fifo));
        }
        out
    }

    fn seek(&mut self, track: u8) {
        self.send(&[0x0f, 0, track]);
        self.wait();
        self.send(&[8]);
        assert_eq!(self.results(), [0x20, track]);
    }

    /// Prepares the DMA channel for `count` bytes, with `data` in memory.
    fn dma(&self, data: &[u8], count: usize) {
        *self.memory.0.lock().unwrap() = (data.to_vec(), count);
    }

    fn stored(&self, sector: u64) -> Vec<u8> {
        let read = Request::Read { offset: sector * 512, buf: IoBuf::zeroed(512) };
        self.disk.submit(read).take().unwrap().unwrap().into_vec()
    }
}

#[test]
fn a_reset_interrupts_and_reports_four_drives() {
    let mut b = Bench::new();
    b.put(Reg::Dor, 0x08);
    assert_eq!((b.get(Reg::Msr), b.irq.level()), (0, false));
    b.put(Reg::Dor, 0x0c);
    assert!(b.irq.level());
    for drive in 0..4 {
        b.send(&[8]);
        assert_eq!(b.results(), [0xc0 | drive, 0]);
        assert!(!b.irq.level());
    }
    b.send(&[8]);
    assert_eq!(b.results(), [0x80], "nothing more to report");
}

#[test]
fn the_chip_says_what_it_is_and_unknown_commands_are_invalid() {
    let mut b = Bench::new();
    for (code, answer) in [(0x10, 0x90), (0x18, 0x41), (0x14, 0x00), (0x94, 0x10), (0x1f, 0x80)] {
        b.send(&[code]);
        assert_eq!(b.results(), [answer]);
    }
    b.send(&[0x13, 0, 0x57, 3]);
    b.send(&[0x03, 0xaf, 0x02]);
    b.send(&[0x0e]);
    assert_eq!(b.results(), [0, 0, 0, 0, 0xaf, 2, 0, 0x80, 0x57, 3]);
    b.put(Reg::Msr, 0x80);
    b.send(&[8]);
    b.results();
    b.send(&[0x0e]);
    assert_eq!(b.results()[8..], [0x57, 3], "locked against reset");
}

#[test]
fn a_dma_read_moves_the_sectors_the_channel_counts_and_names_the_next() {
    let mut b = Bench::new();
    b.seek(2);
    b.dma(&[], 1024);
    b.send(&[0xe6, 4, 2, 1, 3, 2, 18, 0x1b, 0xff]);
    assert_eq!(b.get(Reg::Msr), 0x10, "busy");
    b.wait();
    assert_eq!(b.results(), [4, 0, 0, 2, 1, 5, 2]);
    assert!(!b.irq.level());
    let memory = b.memory.0.lock().unwrap().0.clone();
    let first = (2 * 2 + 1) * 18 + 2_u32;
    assert_eq!(
        (&memory[..4], &memory[512..516]),
        (&first.to_le_bytes()[..], &(first + 1).to_le_bytes()[..])
    );
}

#[test]
fn a_multitrack_read_goes_on_at_the_other_side() {
    let mut b = Bench::new();
    b.dma(&[], 2 * 18 * 512);
    b.send(&[0xe6, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    b.wait();
    assert_eq!(b.results(), [4, 0, 0, 1, 0, 1, 2], "the next cylinder");
    let memory = b.memory.0.lock().unwrap().0.clone();
    assert_eq!(memory[35 * 512..][..4], 35_u32.to_le_bytes());
}

#[test]
fn a_dma_write_reaches_the_disk() {
    let mut b = Bench::new();
    b.dma(&[0x77; 700], 700);
    b.send(&[0xc5, 0, 0, 0, 5, 2, 18, 0x1b, 0xff]);
    b.wait();
    assert_eq!(b.results(), [0, 0, 0, 0, 0, 7, 2]);
    assert_eq!(b.stored(4), [0x77; 512]);
    let half = b.stored(5);
    assert_eq!((half[187], half[188], half[511]), (0x77, 0, 0));
    assert_eq!(b.stored(6)[0], 6);
}

#[test]
fn without_dma_the_processor_moves_every_byte() {
    let mut b = Bench::new();
    b.send(&[0x03, 0xaf, 0x03]);
    b.send(&[0x46, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    b.wait();
    let mut data = Vec::new();
    while b.get(Reg::Msr) == 0xf0 {
        data.push(b.get(Reg::Fifo));
    }
    assert_eq!((data.len(), data[0]), (512, 17));
    assert_eq!(b.results(), [0, 0, 0, 1, 0, 1, 2]);
    b.send(&[0x45, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    for i in 0..512 {
        assert_eq!(b.get(Reg::Msr), 0xb0);
        b.put(Reg::Fifo, i as u8);
    }
    b.wait();
    assert_eq!(b.results()[..3], [0, 0, 0]);
    assert_eq!(b.stored(17)[255], 255);
}

#[test]
fn formatting_fills_the_track() {
    let mut b = Bench::new();
    b.seek(79);
    b.dma(&[0; 72], 72);
    b.send(&[0x4d, 4, 2, 18, 0x54, 0xf6]);
    b.wait();
    assert_eq!(b.results()[..3], [4, 0, 0]);
    assert_eq!(b.stored(2879), [0xf6; 512]);
    assert_eq!(b.stored(2861)[0], 2861_u32 as u8, "the other side is as it was");
}

#[test]
fn read_id_finds_a_disk_only_at_its_data_rate() {
    let mut b = Bench::new();
    b.seek(7);
    b.send(&[0x4a, 4]);
    b.wait();
    assert_eq!(b.results(), [4, 0, 0, 7, 1, 1, 2]);
    b.put(Reg::Dir, 2);
    b.send(&[0x4a, 0]);
    b.wait();
    assert_eq!(b.results()[..2], [0x40, 1]);
}

#[test]
fn what_cannot_be_read_ends_abnormally_and_says_why() {
    let mut b = Bench::new();
    for (command, st1) in [
        ([0x46, 0, 5, 0, 1, 2, 18, 0x1b, 0xff], 4),
        ([0x46, 0, 0, 0, 19, 2, 18, 0x1b, 0xff], 4),
        ([0x46, 0, 0, 0, 1, 3, 18, 0x1b, 0xff], 4),
        ([0x46, 1, 0, 0, 1, 2, 18, 0x1b, 0xff], 1),
    ] {
        b.send(&command);
        b.wait();
        let r = b.results();
        assert_eq!((r[0] & 0xc0, r[1]), (0x40, st1));
    }
    let mut b = Bench::with(BlockBackend::ram_read_only(vec![0; 1440 * 1024]));
    b.put(Reg::Dir, 0);
    b.send(&[0x45, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    b.wait();
    assert_eq!(b.results()[1], 2);
    b.send(&[4, 0]);
    assert_eq!(b.results(), [0x78]);
}

#[test]
fn the_change_line_drops_with_a_step_once_a_disk_is_in() {
    let mut b = Bench::new();
    assert_eq!(b.get(Reg::Dir), 0x80, "since power-on");
    b.seek(1);
    assert_eq!(b.get(Reg::Dir), 0);
    b.disk.set_tray_open(true);
    assert_eq!(b.get(Reg::Dir), 0x80);
    b.seek(2);
    assert_eq!(b.get(Reg::Dir), 0x80, "still no disk");
    b.disk.set_tray_open(false);
    b.seek(2);
    assert_eq!(b.get(Reg::Dir), 0x80, "the heads stood there already");
    b.seek(1);
    assert_eq!(b.get(Reg::Dir), 0);
}

#[test]
fn a_transfer_waits_for_the_dma_channel() {
    let mut b = Bench::new();
    b.dma(&[], 0);
    b.send(&[0x46, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]);
    let due = b.dev.due().unwrap();
    b.clock.advance_to(due);
    b.dev.deliver(due);
    assert!(!b.irq.level());
    b.dma(&[], 512);
    b.wait();
    assert_eq!(b.results()[5], 2);
}

#[test]
fn a_read_in_flight_survives_a_snapshot() {
    let mut b = Bench::new();
    b.send(&[0x46, 0, 0, 0, 9, 2, 18, 0x1b, 0xff]);
    let blob = b.dev.save();
    let mut other = Bench::new();
    other.dev.restore(&blob).unwrap();
    other.dma(&[], 512);
    other.wait();
    assert_eq!(other.memory.0.lock().unwrap().0[0], 8);
}

orrery_system::conformance!(Bench::with(BlockBackend::ram(vec![0; 1440 * 1024])).dev, Reg::TABLE);

#[test]
fn on_a_board_port_six_is_left_to_others() {
    let mut board = Board::new(orrery_system::board::BoardConfig::default());
    let drives = [DriveType::D144, DriveType::None];
    let backends = [BlockBackend::ram(vec![0; 1440 * 1024]), BlockBackend::detached()];
    build(&mut board, 0x3f0, drives, backends, IrqLine::open(), Box::new(NoDma));
    board.settle();
    let read = |b: &mut Board, port| b.port_in(port, 1);
    assert_eq!(read(&mut board, 0x3f4), 0x80);
    assert_eq!(read(&mut board, 0x3f6), 0xff);
    board.port_out(0x3f2, 1, 0x1c);
    assert_eq!(read(&mut board, 0x3f7), 0x80);
}

#[test]
fn with_the_gate_to_the_dma_controller_closed_the_processor_moves_the_bytes() {
    let mut b = Bench::new();
    b.put(Reg::Dor, 0x14);
    b.send(&[0xe6, 0, 0, 0, 1, 2, 1, 0x1b, 0xff]);
    b.wait();
    assert_eq!(b.get(Reg::Msr), 0xf0);
    for _ in 0..2 * 512 {
        b.get(Reg::Fifo);
    }
    let results = b.results();
    assert_eq!(
        (results[0], &results[3..]),
        (0x04, &[1, 0, 1, 2][..]),
        "it ended on the other side"
    );
}

#[test]
fn a_last_sector_beyond_the_track_lets_the_transfer_run_on() {
    let mut b = Bench::new();
    b.put(Reg::Dor, 0x14);
    b.send(&[0xe6, 0, 0, 0, 1, 2, 19, 0x1b, 0xff]);
    b.wait();
    for _ in 0..38 * 512 {
        assert_eq!(b.get(Reg::Msr), 0xf0);
        b.get(Reg::Fifo);
    }
    let results = b.results();
    assert_eq!((results[0], &results[3..]), (0x20, &[1, 0, 3, 2][..]), "two sectors of track 1");
}
