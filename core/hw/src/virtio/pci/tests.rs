use super::super::{F_VERSION_1, blk};
use super::*;
use orrery_block::IoBuf;
use orrery_block::backend::{BlockBackend, Request};
use orrery_system::board::BoardConfig;

const IO: u16 = 0xc000;
const BAR: u64 = 0xe000_0000;
const MSIX: u64 = 0xe100_0000;
/// Where the driver keeps its rings and its request.
const DESC: u64 = 0x1_0000;
const AVAIL: u64 = 0x1_1000;
const USED: u64 = 0x1_2000;
const HEADER: u64 = 0x2_0000;
const STATUS: u64 = 0x2_1000;
const DATA: u64 = 0x3_0000;

struct Bench {
    board: Board,
    bus: Bus,
    id: DeviceId,
    disk: BlockBackend,
    queued: u16,
}

impl Bench {
    fn new(disk: BlockBackend) -> Self {
        let mut board =
            Board::new(BoardConfig { ram_capacity: 0x10_0000, ..BoardConfig::default() });
        let ram = board.ram().alloc("ram", 0x10_0000).unwrap();
        board.memory().add(0, &board.regions().ram("ram", ram));
        let bus = Bus::simple(&board);
        let config = blk::Config { serial: "disk-1".into(), ..blk::Config::default() };
        let id = blk::build(&mut board, &bus, 0x20, Config::default(), config, disk.clone());
        board.settle();
        let mut b = Self { board, bus, id, disk, queued: 0 };
        b.config_write(0x10, 4, u32::from(IO) | 1);
        b.config_write(0x14, 4, MSIX as u32);
        b.config_write(0x20, 4, BAR as u32);
        b.config_write(4, 2, 7);
        b
    }

    fn numbered() -> Self {
        Self::new(BlockBackend::ram((0..1_000_000_u32).flat_map(u32::to_le_bytes).collect()))
    }

    fn config_read(&mut self, at: u64, width: u8) -> u32 {
        self.board.device_read(self.id, CONFIG_BANK, at, width) as u32
    }

    fn config_write(&mut self, at: u64, width: u8, value: u32) {
        self.board.device_write(self.id, CONFIG_BANK, at, width, value.into());
    }

    fn common(&mut self, reg: Common) -> u64 {
        let width = Common::TABLE.iter().find(|r| r.offset == reg.offset()).unwrap().width;
        self.board.read(BAR + reg.offset(), width)
    }

    fn set_common(&mut self, reg: Common, value: u64) {
        let width = Common::TABLE.iter().find(|r| r.offset == reg.offset()).unwrap().width;
        self.board.write(BAR + reg.offset(), width, value);
    }

    /// Drives the device as a modern driver, up to "driver ready".
    fn start(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.set_common(Common::DeviceStatus, status);
        }
        for half in 0..2 {
            self.set_common(Common::DriverFeatureSelect, half);
            self.set_common(Common::DriverFeature, features >> (32 * half) & 0xffff_ffff);
        }
        self.set_common(Common::DeviceStatus, 0xb);
        assert_eq!(self.common(Common::DeviceStatus), 0xb, "features accepted");
        self.board.write(BAR + Common::QueueDescLow.offset(), 8, DESC);
        self.board.write(BAR + Common::QueueDriverLow.offset(), 8, AVAIL);
        self.board.write(BAR + Common::QueueDeviceLow.offset(), 8, USED);
        self.set_common(Common::QueueEnable, 1);
        self.set_common(Common::DeviceStatus, 0xf);
    }

    fn start_legacy(&mut self) {
        for status in [0, 1, 3] {
            self.board.port_out(IO + 0x12, 1, status);
        }
        self.board.port_out(IO + 4, 4, 0);
        self.board.port_out(IO + 0xe, 2, 0);
        assert_eq!(self.board.port_in(IO + 0xc, 2), 256);
        self.board.port_out(IO + 8, 4, (DESC >> 12) as u32);
        self.board.port_out(IO + 0x12, 1, 7);
    }

    /// Puts a request into the rings at `avail`: type, sector, payload of the guest, room for
    /// the device.
    fn request(&mut self, avail: u64, kind: u32, sector: u64, payload: u32, room: u32) {
        self.board.write(HEADER, 4, kind.into());
        self.board.write(HEADER + 8, 8, sector);
        self.board.write(STATUS, 1, 0xff);
        let mut pieces = vec![(HEADER, 16, 0)];
        if payload > 0 {
            pieces.push((DATA, payload, 0));
        }
        if room > 0 {
            pieces.push((DATA, room, 2));
        }
        pieces.push((STATUS, 1, 2));
        let last = pieces.len() as u64 - 1;
        for (i, (addr, len, flags)) in pieces.into_iter().enumerate() {
            let (at, i) = (DESC + 16 * i as u64, i as u64);
            self.board.write(at, 8, addr);
            self.board.write(at + 8, 4, len.into());
            self.board.write(at + 12, 2, flags | u64::from(i < last));
            self.board.write(at + 14, 2, i + 1);
        }
        self.board.write(avail + 4 + 2 * u64::from(self.queued % 256), 2, 0);
        self.queued += 1;
        self.board.write(avail + 2, 2, self.queued.into());
    }

    fn kick(&mut self) {
        self.board.write(BAR + 3 * PAGE, 2, 0);
    }

    fn wait(&mut self) {
        while self.board.host_due() != VmTime::NEVER {
            let due = self.board.host_due();
            self.board.warp_to(due);
            assert!(self.board.deliver_host_io());
        }
    }

    /// Carries a request out and gives its status and the bytes the device says it wrote.
    fn ask(&mut self, kind: u32, sector: u64, payload: u32, room: u32) -> (u64, u64) {
        self.request(AVAIL, kind, sector, payload, room);
        self.kick();
        self.wait();
        let slot = u64::from((self.queued - 1) % 256);
        (self.board.read(STATUS, 1), self.board.read(USED + 8 + 8 * slot, 4))
    }

    fn irq(&self) -> bool {
        self.bus.wires()[0].level()
    }

    fn stored(&self, offset: u64) -> Vec<u8> {
        let read = Request::Read { offset, buf: IoBuf::zeroed(512) };
        self.disk.submit(read).take().unwrap().unwrap().into_vec()
    }
}

const MODERN: u64 = F_VERSION_1 | 1 << 9;

#[test]
fn the_capabilities_lead_to_the_structures() {
    let mut b = Bench::numbered();
    assert_eq!(b.config_read(0, 4), 0x1001_1af4);
    let mut at = u64::from(b.config_read(0x34, 1) as u8);
    let mut kinds = Vec::new();
    while at != 0 {
        if b.config_read(at, 1) == 9 {
            kinds.push(b.config_read(at + 3, 1));
        }
        at = b.config_read(at + 1, 1).into();
    }
    assert_eq!(kinds, [1, 3, 4, 2, 5]);
    assert_eq!(b.common(Common::NumQueues), 1);
    assert_eq!(b.board.read(BAR + 2 * PAGE, 8), 1_000_000 * 4 / 512, "capacity");
}

#[test]
fn a_modern_driver_reads_and_writes() {
    let mut b = Bench::numbered();
    b.start(MODERN);
    assert_eq!(b.ask(0, 100, 0, 1024), (0, 1025));
    assert_eq!(b.board.read(DATA + 512, 4), 101 * 128);
    assert!(b.irq());
    assert_eq!(b.board.read(BAR + PAGE, 1), 1);
    assert!(!b.irq(), "reading takes it back");
    b.board.write(DATA, 8, 0x1122_3344_5566_7788);
    assert_eq!(b.ask(1, 7, 512, 0), (0, 1));
    assert_eq!(b.stored(7 * 512)[..8], 0x1122_3344_5566_7788_u64.to_le_bytes());
    assert_eq!(b.ask(4, 0, 0, 0).0, 0, "flush");
    assert_eq!(b.disk.stats().flush.ops, 1);
}

#[test]
fn a_legacy_driver_reads_through_the_ports() {
    let mut b = Bench::numbered();
    b.start_legacy();
    assert_eq!(b.board.port_in(IO + 0x14, 4), 1_000_000 * 4 / 512);
    b.request(DESC + 0x1000, 0, 3, 0, 512);
    b.board.port_out(IO + 0x10, 2, 0);
    b.wait();
    assert_eq!((b.board.read(STATUS, 1), b.board.read(DATA, 4)), (0, 3 * 128));
    assert_eq!(b.board.read(DESC + 0x2002, 2), 1, "used");
    assert!(b.irq());
    assert_eq!(b.board.port_in(IO + 0x13, 1), 1);
    assert!(!b.irq());
}

#[test]
fn with_msix_each_queue_has_its_message() {
    let mut b = Bench::numbered();
    let cap = {
        let mut at = b.config_read(0x34, 1);
        while b.config_read(at.into(), 1) != 0x11 {
            at = b.config_read(u64::from(at) + 1, 1);
        }
        at
    };
    b.board.write(MSIX + 16, 4, 0xfee0_0000);
    b.board.write(MSIX + 24, 4, 0x41);
    b.board.write(MSIX + 28, 4, 0);
    b.config_write(u64::from(cap) + 2, 2, 0x8000);
    b.set_common(Common::QueueVector, 1);
    assert_eq!(b.common(Common::QueueVector), 1);
    b.set_common(Common::ConfigVector, 9);
    assert_eq!(b.common(Common::ConfigVector), 0xffff, "no such vector");
    b.set_common(Common::DeviceStatus, 0);
    b.set_common(Common::QueueVector, 1);
    b.request(AVAIL, 0, 0, 0, 512);
    // The reset took the vector; a driver sets it up again before the queue.
    for status in [1, 3] {
        b.set_common(Common::DeviceStatus, status);
    }
    b.set_common(Common::DriverFeatureSelect, 1);
    b.set_common(Common::DriverFeature, 1);
    b.set_common(Common::DeviceStatus, 0xb);
    b.board.write(BAR + Common::QueueDescLow.offset(), 8, DESC);
    b.board.write(BAR + Common::QueueDriverLow.offset(), 8, AVAIL);
    b.board.write(BAR + Common::QueueDeviceLow.offset(), 8, USED);
    b.set_common(Common::QueueEnable, 1);
    b.set_common(Common::DeviceStatus, 0xf);
    b.wait();
    assert_eq!(b.board.read(STATUS, 1), 0, "what waited before it was ready is served");
    assert!(!b.irq());
    assert_eq!(b.board.messages().take().map(|m| m.data), Some(0x41));
}

#[test]
fn the_device_names_itself_and_refuses_what_it_does_not_know() {
    let mut b = Bench::numbered();
    b.start(MODERN);
    assert_eq!(b.ask(8, 0, 0, 20), (0, 21));
    assert_eq!(b.board.read(DATA, 8), u64::from_le_bytes(*b"disk-1\0\0"));
    assert_eq!(b.ask(77, 0, 0, 0).0, 2);
    assert_eq!(b.ask(0, 7812, 0, 1024).0, 1, "past the end");
    assert_eq!(b.ask(0, u64::MAX, 0, 512).0, 1);
    assert_eq!(b.ask(1, 0, 100, 0).0, 1, "not whole sectors");
}

#[test]
fn discard_and_write_zeroes_take_one_segment() {
    let mut b = Bench::numbered();
    b.start(MODERN | 1 << 13 | 1 << 14);
    b.board.write(DATA, 8, 4);
    b.board.write(DATA + 8, 8, 2);
    assert_eq!(b.ask(13, 0, 16, 0).0, 0);
    assert_eq!(b.stored(4 * 512), [0; 512]);
    assert_eq!(b.ask(11, 0, 16, 0).0, 0);
    b.board.write(DATA + 12, 4, 2);
    assert_eq!(b.ask(13, 0, 16, 0).0, 2, "unknown flag");
    b.board.write(DATA, 8, u64::MAX);
    assert_eq!(b.ask(11, 0, 16, 0).0, 1);
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let mut b = Bench::new(BlockBackend::ram_read_only(vec![0; 8192]));
    assert_eq!(b.common(Common::DeviceFeature) & 1 << 5, 1 << 5);
    b.start(MODERN | 1 << 5);
    assert_eq!(b.ask(1, 0, 512, 0).0, 1);
}

#[test]
fn unknown_features_and_version_zero_are_not_ok_with_a_modern_only_device() {
    let mut b = Bench::numbered();
    b.set_common(Common::DeviceStatus, 3);
    b.set_common(Common::DriverFeatureSelect, 1);
    b.set_common(Common::DriverFeature, 1 << 20);
    b.set_common(Common::DeviceStatus, 0xb);
    assert_eq!(b.common(Common::DeviceStatus), 3);
}

#[test]
fn a_senseless_ring_needs_a_reset_and_gets_it() {
    let mut b = Bench::numbered();
    b.start(MODERN);
    b.request(AVAIL, 0, 0, 0, 512);
    b.board.write(DESC + 14, 2, 999);
    b.kick();
    assert_eq!(b.common(Common::DeviceStatus), 0x4f);
    assert!(b.irq());
    b.queued = 0;
    b.board.write(AVAIL + 2, 2, 0);
    b.start(MODERN);
    assert_eq!(b.ask(0, 1, 0, 512).0, 0);
}

#[test]
fn configuration_cycles_reach_the_structures_through_the_window() {
    let mut b = Bench::numbered();
    let mut at = u64::from(b.config_read(0x34, 1));
    while b.config_read(at, 1) != 9 || b.config_read(at + 3, 1) != 5 {
        at = u64::from(b.config_read(at + 1, 1));
    }
    b.config_write(at + 4, 1, 4);
    b.config_write(at + 8, 4, 0x2000);
    b.config_write(at + 12, 4, 4);
    assert_eq!(b.config_read(at + 16, 4), 1_000_000 * 4 / 512);
}

#[test]
fn a_request_in_flight_survives_a_snapshot() {
    let mut b = Bench::numbered();
    b.start(MODERN);
    b.request(AVAIL, 0, 55, 0, 512);
    b.kick();
    let (state, devices) = b.board.save();
    let mut other = Bench::numbered();
    for at in (DESC..STATUS + 8).step_by(8) {
        let v = b.board.read(at, 8);
        other.board.write(at, 8, v);
    }
    other.board.restore(&state, &devices).unwrap();
    other.wait();
    assert_eq!((other.board.read(STATUS, 1), other.board.read(DATA, 4)), (0, 55 * 128));
    assert!(other.irq());
}

fn alone() -> VirtioPci<blk::Blk> {
    let mut board = Board::new(BoardConfig::default());
    let bus = Bus::simple(&board);
    let id = board.reserve("virtio-blk-pci");
    let drives = vec![BlockBackend::ram(vec![0; 1 << 20])];
    let io = crate::block::drive::DriveIo::new(&mut board, id, 0, drives);
    let device = blk::Blk::new(blk::Config::default(), io);
    standing_alone(&board, &bus, device)
}

orrery_system::conformance!(
    alone(),
    [(LEGACY_BANK, Legacy::TABLE), (MODERN_BANK, Common::TABLE), (CONFIG_BANK, &[])]
);
