use super::*;
use crate::pci::{CONFIG_BANK, Card};
use orrery_system::bus::Registers;
use orrery_system::device::HostIo;
use orrery_system::{Device, Dma, IrqInput};

const ADMIN_SQ: u64 = 0x1000;
const ADMIN_CQ: u64 = 0x2000;
const SQ: u64 = 0x3000;
const CQ: u64 = 0x4000;
const DATA: u64 = 0x1_0000;
const LIST: u64 = 0x8000;

struct Bench {
    dev: Card<Nvme>,
    dma: Dma,
    bus: pci::Bus,
    tails: [u32; 2],
    heads: [u32; 2],
}

fn config(disk: &BlockBackend) -> Config {
    let ns = |id, block_size| Namespace { id, block_size, eui64: 7, backend: disk.clone() };
    Config {
        serial: "deadbeef".into(),
        queues: 4,
        vectors: 5,
        namespaces: vec![ns(1, 512), ns(3, 4096)],
    }
}

fn device(disk: &BlockBackend) -> (Card<Nvme>, Dma, pci::Bus) {
    let board = Board::with_ram(1 << 20);
    let bus = pci::Bus::simple(&board);
    let config = config(disk);
    let pci = function(&board, &bus, 8, DeviceId(0), &config);
    let drives = config.namespaces.iter().map(|n| n.backend.clone()).collect();
    let io = DriveIo::detached(drives, board.clock(), board.latency());
    (Card::new(pci, Nvme::new(config, io)), board.dma(), bus)
}

impl Bench {
    fn new(disk: &BlockBackend) -> Self {
        let (dev, dma, bus) = device(disk);
        let mut b = Self { dev, dma, bus, tails: [0; 2], heads: [0; 2] };
        b.dev.write(CONFIG_BANK, 4, 2, 6).unwrap();
        b.set(0x24, 0x000f_000f);
        b.set(0x28, ADMIN_SQ as u32);
        b.set(0x30, ADMIN_CQ as u32);
        b.set(0x14, 0x0046_0001);
        assert_eq!(b.get(0x1c), CSTS_RDY);
        b
    }

    fn get(&mut self, at: u64) -> u32 {
        self.dev.read(REGISTERS, at, 4).unwrap() as u32
    }

    fn set(&mut self, at: u64, v: u32) {
        self.dev.write(REGISTERS, at, 4, v.into()).unwrap();
    }

    /// Makes a command on queue 0 or 1: status and result.
    fn run(&mut self, queue: usize, opcode: u8, ns: u32, words: &[(usize, u32)]) -> (u16, u32) {
        let mut c = [0_u32; 16];
        (c[0], c[1]) = (u32::from(opcode) | 0x55 << 16, ns);
        words.iter().for_each(|&(n, v)| c[n] |= v);
        let (sq, cq) = if queue == 0 { (ADMIN_SQ, ADMIN_CQ) } else { (SQ, CQ) };
        let bytes: Vec<u8> = c.into_iter().flat_map(u32::to_le_bytes).collect();
        self.dma.write(sq + 64 * u64::from(self.tails[queue]), &bytes).unwrap();
        self.tails[queue] = (self.tails[queue] + 1) % 16;
        self.set(0x1000 + 8 * queue as u64, self.tails[queue]);
        while self.dev.ready() {
            self.dev.deliver(VmTime::NEVER);
        }
        let at = cq + 16 * u64::from(self.heads[queue]);
        let word = self.dma.read_u32(at + 12).unwrap();
        assert_eq!(word & 0xffff, 0x55);
        let result = self.dma.read_u32(at).unwrap();
        self.heads[queue] = (self.heads[queue] + 1) % 16;
        self.set(0x1004 + 8 * queue as u64, self.heads[queue]);
        ((word >> 17) as u16, result)
    }

    fn with_queues(disk: &BlockBackend) -> Self {
        let mut b = Self::new(disk);
        assert_eq!(b.run(0, 1, 0, &[(6, SQ as u32), (10, 0xf_0001), (11, 1 << 16 | 1)]).0, 0x4100);
        assert_eq!(b.run(0, 5, 0, &[(6, CQ as u32), (10, 0xf_0001), (11, 3)]).0, 0);
        assert_eq!(b.run(0, 1, 0, &[(6, SQ as u32), (10, 0xf_0001), (11, 1 << 16 | 1)]).0, 0);
        b
    }
}

#[test]
fn the_controller_tells_of_itself_and_its_namespaces() {
    let disk = BlockBackend::ram(vec![0; 1 << 20]);
    let mut b = Bench::new(&disk);
    let byte = |b: &Bench, at: u64| b.dma.read_u16(DATA + at).unwrap() as u8;
    assert_eq!(b.run(0, 6, 0, &[(6, DATA as u32), (10, 1)]), (0, 0));
    let mut serial = [0; 20];
    b.dma.read(DATA + 4, &mut serial).unwrap();
    assert_eq!(&serial, b"deadbeef            ");
    b.run(0, 6, 0, &[(6, DATA as u32), (10, 2)]);
    assert_eq!((b.dma.read_u32(DATA), b.dma.read_u64(DATA + 4)), (Ok(1), Ok(3)));
    b.run(0, 6, 3, &[(6, DATA as u32)]);
    assert_eq!((b.dma.read_u64(DATA), byte(&b, 130)), (Ok(256), 12));
    assert_eq!(b.run(0, 6, 0, &[(6, DATA as u32)]).0, 0x400b);
    assert_eq!(b.run(0, 10, 0, &[(10, 7)]), (0, 0x0003_0003));
    assert_eq!(b.run(0, 2, 0, &[(6, DATA as u32), (10, 127 << 16 | 2)]).0, 0);
    assert_eq!(byte(&b, 3), 100);
    assert_eq!(b.run(0, 0x7f, 0, &[]).0, 0x4001);
}

#[test]
fn what_is_written_through_a_page_list_is_read_through_a_scatter_list() {
    let disk = BlockBackend::ram(vec![0; 1 << 20]);
    let mut b = Bench::with_queues(&disk);
    let data: Vec<u8> = (0..16384_u32).map(|i| (i / 512) as u8 ^ i as u8).collect();
    // Half a page, then three and a half through a list.
    b.dma.write(DATA + 0x800, &data).unwrap();
    for i in 0..4 {
        let page = DATA + 0x1000 * (i + 1);
        b.dma.write(LIST + 8 * i, &page.to_le_bytes()).unwrap();
    }
    let at = [(6, DATA as u32 + 0x800), (8, LIST as u32), (10, 8), (12, 31)];
    assert_eq!(b.run(1, 1, 1, &at).0, 0);
    // Three descriptors in a segment.
    let mut list = Vec::new();
    for (i, n) in [(0_u64, 100_u32), (1, 9900), (2, 6384)] {
        list.extend((DATA + 0x1_0000 * (i + 1)).to_le_bytes());
        list.extend([n.to_le_bytes(), [0; 4]].concat());
    }
    b.dma.write(LIST, &list).unwrap();
    let segment = [(0, 1 << 14), (6, LIST as u32), (8, 48), (9, 3 << 28), (10, 1)];
    let mut read = segment.to_vec();
    read.push((12, 3));
    assert_eq!(b.run(1, 2, 3, &read).0, 0, "blocks of 4 KiB in the other namespace");
    let mut back = vec![0; 100];
    b.dma.read(DATA + 0x1_0000, &mut back).unwrap();
    assert_eq!(back, data[..100]);
    let mut back = vec![0; 6384];
    b.dma.read(DATA + 0x3_0000, &mut back).unwrap();
    assert_eq!(back, data[10000..]);
    assert_eq!(b.run(1, 5, 3, &read).0, 0, "it compares");
    b.dma.write(DATA + 0x1_0000, &[!data[0]]).unwrap();
    assert_eq!(b.run(1, 5, 3, &read).0, 0x4285);
}

#[test]
fn senseless_commands_are_refused() {
    let mut b = Bench::with_queues(&BlockBackend::ram(vec![0; 1 << 20]));
    assert_eq!(b.run(1, 2, 1, &[(6, DATA as u32), (10, 2048)]).0, 0x4080, "past the end");
    assert_eq!(b.run(1, 2, 1, &[(6, DATA as u32), (10, u32::MAX), (11, u32::MAX)]).0, 0x4080);
    assert_eq!(b.run(1, 2, 1, &[(6, DATA as u32), (12, 2000)]).0, 0x4002, "too long");
    assert_eq!(b.run(1, 2, 2, &[(6, DATA as u32)]).0, 0x400b, "no such namespace");
    assert_eq!(b.run(1, 2, 1, &[(6, DATA as u32 + 1)]).0, 0x4013);
    assert_eq!(b.run(1, 2, 1, &[(0, 1 << 14), (6, DATA as u32), (8, 100)]).0, 0x400f, "too short");
    assert_eq!(b.run(0, 4, 0, &[(10, 1)]).0, 0x410c, "in use");
    assert_eq!(b.run(0, 0, 0, &[(10, 1)]).0, 0);
    assert_eq!(b.run(0, 4, 0, &[(10, 1)]).0, 0);
}

#[test]
fn blocks_are_cleared_and_given_back() {
    let disk = BlockBackend::ram(vec![9; 1 << 20]);
    let mut b = Bench::with_queues(&disk);
    assert_eq!(b.run(1, 8, 1, &[(10, 1), (12, 1)]).0, 0);
    b.dma
        .write(DATA, &[[0; 4], 2_u32.to_le_bytes(), 3_u32.to_le_bytes(), [0; 4]].concat())
        .unwrap();
    assert_eq!(b.run(1, 9, 1, &[(6, DATA as u32), (11, 4)]).0, 0);
    assert_eq!(b.run(1, 2, 1, &[(6, DATA as u32), (12, 5)]).0, 0);
    let mut back = vec![0; 3072];
    b.dma.read(DATA, &mut back).unwrap();
    assert!(back[..512].iter().all(|&b| b == 9) && back[2560..].iter().all(|&b| b == 9));
    assert!(back[512..1536].iter().all(|&b| b == 0));
    assert_eq!(b.run(1, 0, u32::MAX, &[]).0, 0, "a flush of all");
}

#[test]
fn the_interrupt_holds_until_completions_are_taken_and_can_be_masked() {
    let mut b = Bench::new(&BlockBackend::ram(vec![0; 1 << 20]));
    let level = |b: &Bench| b.bus.wires().iter().any(IrqInput::level);
    b.dma.write(ADMIN_SQ, &[0x0a, 0, 1, 0]).unwrap();
    b.set(0x1000, 1);
    assert!(level(&b));
    b.set(0x0c, 1);
    assert!(!level(&b));
    b.set(0x10, 1);
    assert!(level(&b));
    b.set(0x1004, 1);
    assert!(!level(&b));
    b.set(0x14, 0x0046_4001);
    while b.dev.ready() {
        b.dev.deliver(VmTime::NEVER);
    }
    assert_eq!(b.get(0x1c), CSTS_RDY | CSTS_SHUT);
    b.set(0x14, 0);
    assert_eq!(b.get(0x1c), 0);
}

#[test]
fn a_full_completion_queue_keeps_commands_waiting_and_a_saved_controller_goes_on() {
    let disk = BlockBackend::ram(vec![0; 1 << 20]);
    let mut b = Bench::new(&disk);
    // Completion queue of two entries.
    b.set(0x14, 0);
    b.set(0x24, 0x0001_000f);
    b.set(0x14, 0x0046_0001);
    for i in 0..5_u8 {
        b.dma.write(ADMIN_SQ + 64 * u64::from(i), &[0x0a, 0, i, 0]).unwrap();
        b.dma.write(ADMIN_SQ + 64 * u64::from(i) + 40, &[7]).unwrap();
    }
    b.set(0x1000, 5);
    let saved = b.dev.save();
    let (mut other, ..) = device(&disk);
    other.restore(&saved).unwrap();
    assert_eq!(other.save(), saved);
    for i in 0..5_u32 {
        let at = ADMIN_CQ + 16 * u64::from(i % 2) + 12;
        assert_eq!(b.dma.read_u16(at), Ok(i as u16));
        b.set(0x1004, (i + 1) % 2);
    }
    assert!(!b.bus.wires().iter().any(IrqInput::level));
}

orrery_system::conformance!(
    device(&BlockBackend::ram(vec![0; 1 << 20])).0,
    [(REGISTERS, Reg::TABLE), (CONFIG_BANK, &[])]
);
