use super::super::ata::Config as DriveConfig;
use super::*;
use crate::pci::CONFIG_BANK;
use orrery_block::IoBuf;
use orrery_block::backend::Request;
use orrery_system::board::BoardConfig;

/// Where the registers, the command list, the received frames and the tables are.
const ABAR: u64 = 0xf000_0000;
const LIST: u64 = 0x1000;
const FIS: u64 = 0x2000;
const TABLES: u64 = 0x4000;

struct Bench {
    board: Board,
    bus: Bus,
    disk: BlockBackend,
}

impl Bench {
    fn new() -> Self {
        let mut board =
            Board::new(BoardConfig { ram_capacity: 0x20_0000, ..BoardConfig::default() });
        let ram = board.ram().alloc("ram", 0x20_0000).unwrap();
        board.memory().add(0, &board.regions().ram("ram", ram));
        let bus = Bus::simple(&board);
        let disk = BlockBackend::ram((0..2_000_000_u32).flat_map(u32::to_le_bytes).collect());
        let cd = BlockBackend::ram_read_only(vec![0xcd; 2048 * 50]);
        let mut drives: [Plug; PORTS] = Default::default();
        drives[0] = Some((DriveConfig::disk(0), disk.clone()));
        drives[2] = Some((DriveConfig::cdrom(2), cd));
        let id = build(&mut board, &bus, pci::devfn(31, 2), Config { drives });
        board.settle();
        let mut b = Self { board, bus, disk };
        b.board.device_write(id, CONFIG_BANK, 0x24, 4, ABAR);
        b.board.device_write(id, CONFIG_BANK, 4, 2, 6);
        b.set(0x04, 0x8000_0002);
        for port in [0, 2] {
            b.port_set(port, PortReg::Clb, LIST as u32);
            b.port_set(port, PortReg::Fb, FIS as u32);
            b.port_set(port, PortReg::Ie, u32::MAX);
            b.port_set(port, PortReg::Serr, u32::MAX);
            b.port_set(port, PortReg::Cmd, 0x11);
        }
        b
    }

    fn get(&mut self, at: u64) -> u32 {
        self.board.read(ABAR + at, 4) as u32
    }

    fn set(&mut self, at: u64, value: u32) {
        self.board.write(ABAR + at, 4, value.into());
    }

    fn port(&mut self, port: u64, reg: PortReg) -> u32 {
        self.get(0x100 + 0x80 * port + reg.offset())
    }

    fn port_set(&mut self, port: u64, reg: PortReg, value: u32) {
        self.set(0x100 + 0x80 * port + reg.offset(), value);
    }

    fn irq(&self) -> bool {
        // INTA# of device 31.
        self.bus.wires()[3].level()
    }

    /// Lets every operation in flight finish.
    fn wait(&mut self) {
        while self.board.host_due() != VmTime::NEVER {
            let due = self.board.host_due();
            self.board.warp_to(due);
            assert!(self.board.deliver_host_io());
        }
    }

    /// Writes a command into `slot`: its FIS and its regions.
    fn prepare(&mut self, slot: u64, fis: &[u8], regions: &[(u32, u32)], flags: u32) {
        let table = TABLES + 0x400 * slot;
        let header = LIST + 32 * slot;
        self.board.write(header, 4, (5 | flags | (regions.len() as u32) << 16).into());
        self.board.write(header + 4, 4, 0);
        self.board.write(header + 8, 8, table);
        for (i, &byte) in fis.iter().enumerate() {
            self.board.write(table + i as u64, 1, byte.into());
        }
        for (i, &(addr, len)) in regions.iter().enumerate() {
            let at = table + 0x80 + 16 * i as u64;
            self.board.write(at, 8, addr.into());
            self.board.write(at + 12, 4, (len - 1).into());
        }
    }

    fn command_fis(code: u8, lba: u64, count: u16) -> [u8; 20] {
        let l = lba.to_le_bytes();
        let c = count.to_le_bytes();
        let mut f = [0; 20];
        (f[0], f[1], f[2], f[7]) = (0x27, 0x80, code, 0x40);
        (f[4], f[5], f[6], f[8], f[9], f[10]) = (l[0], l[1], l[2], l[3], l[4], l[5]);
        (f[12], f[13]) = (c[0], c[1]);
        f
    }

    fn queued_fis(write: bool, lba: u64, count: u16, tag: u8) -> [u8; 20] {
        let mut f = Self::command_fis(0x60 | u8::from(write), lba, u16::from(tag) << 3);
        (f[3], f[11]) = (count as u8, (count >> 8) as u8);
        f
    }

    fn stored(&self, sector: u64) -> Vec<u8> {
        let read = Request::Read { offset: sector * 512, buf: IoBuf::zeroed(512) };
        self.disk.submit(read).take().unwrap().unwrap().into_vec()
    }
}

#[test]
fn ports_show_what_is_plugged_in_and_send_its_signature() {
    let mut b = Bench::new();
    assert_eq!(b.get(0x00), 0xc014_1f05);
    assert_eq!(b.get(0x0c), 0x3f);
    assert_eq!((b.port(0, PortReg::Ssts), b.port(0, PortReg::Sig)), (0x113, 0x101));
    assert_eq!(b.port(2, PortReg::Sig), 0xeb14_0101);
    assert_eq!((b.port(1, PortReg::Ssts), b.port(1, PortReg::Tfd)), (0, 0x7f));
    assert_eq!(b.board.read(FIS + 0x40, 1), 0x34, "the signature frame");
    b.port_set(0, PortReg::Cmd, 0x10);
    b.port_set(0, PortReg::Sctl, 0x301);
    assert_eq!(b.port(0, PortReg::Ssts), 0);
    b.port_set(0, PortReg::Sctl, 0x300);
    assert_eq!((b.port(0, PortReg::Ssts), b.port(0, PortReg::Tfd)), (0x113, 0x150));
    b.port_set(0, PortReg::Cmd, 0);
    b.port_set(0, PortReg::Sctl, 0x301);
    b.port_set(0, PortReg::Sctl, 0x300);
    assert_eq!((b.port(0, PortReg::Sig), b.port(0, PortReg::Tfd)), (u32::MAX, 0x7f));
    b.port_set(0, PortReg::Cmd, 0x10);
    assert_eq!((b.port(0, PortReg::Sig), b.port(0, PortReg::Tfd)), (0x101, 0x150), "received");
    assert_eq!(b.port(0, PortReg::Is) & 0x40, 0x40, "connect change");
    b.port_set(0, PortReg::Serr, u32::MAX);
    assert_eq!(b.port(0, PortReg::Is) & 0x40, 0);
}

#[test]
fn identify_comes_as_a_pio_block() {
    let mut b = Bench::new();
    b.prepare(0, &Bench::command_fis(0xec, 0, 0), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Ci, 1);
    assert_eq!(b.port(0, PortReg::Ci), 0);
    assert_eq!(b.port(0, PortReg::Is), 3, "PIO setup, then the registers");
    assert_eq!((b.board.read(FIS + 0x20, 1), b.board.read(FIS + 0x2f, 1)), (0x5f, 0x50));
    assert_eq!(b.board.read(LIST + 4, 4), 512);
    assert_eq!(b.board.read(0x8000 + 2 * 76, 2), 0x106, "queueing, two generations");
    assert_eq!(b.port(0, PortReg::Tfd), 0x50);
}

#[test]
fn a_dma_read_fills_the_regions_then_interrupts() {
    let mut b = Bench::new();
    b.prepare(3, &Bench::command_fis(0x25, 100, 4), &[(0x8000, 512), (0x1_0000, 1536)], 0);
    b.port_set(0, PortReg::Ci, 8);
    assert_eq!(b.port(0, PortReg::Tfd) & 0x80, 0x80);
    assert!(!b.irq());
    b.wait();
    assert!(b.irq());
    assert_eq!((b.port(0, PortReg::Ci), b.port(0, PortReg::Is)), (0, 1));
    assert_eq!((b.board.read(0x8000, 4), b.board.read(0x1_0000, 4)), (100 * 128, 101 * 128));
    assert_eq!(b.board.read(LIST + 32 * 3 + 4, 4), 2048);
    assert_eq!(b.get(0x08), 1);
    b.port_set(0, PortReg::Is, 1);
    assert!(b.irq(), "the controller's own bit is still set");
    b.set(0x08, 1);
    assert!(!b.irq());
}

#[test]
fn a_dma_write_reaches_the_disk() {
    let mut b = Bench::new();
    for i in 0..128 {
        b.board.write(0x8000 + 4 * i, 4, 0xabcd_0000 | i);
    }
    b.prepare(0, &Bench::command_fis(0x35, 9, 1), &[(0x8000, 512)], 0x40);
    b.port_set(0, PortReg::Ci, 1);
    b.wait();
    assert_eq!(b.stored(9)[508..], 0xabcd_007f_u32.to_le_bytes());
    assert_eq!(b.port(0, PortReg::Tfd), 0x50);
}

#[test]
fn queued_commands_run_side_by_side_and_end_with_their_active_bits() {
    let mut b = Bench::new();
    b.prepare(0, &Bench::queued_fis(false, 10, 64, 0), &[(0x1_0000, 64 * 512)], 0);
    b.prepare(5, &Bench::queued_fis(false, 500, 1, 5), &[(0x8000, 512)], 0);
    b.board.write(0x9000, 4, 0x5555_aaaa);
    b.prepare(6, &Bench::queued_fis(true, 700, 1, 6), &[(0x9000, 512)], 0x40);
    b.port_set(0, PortReg::Sact, 0x61);
    b.port_set(0, PortReg::Ci, 0x61);
    assert_eq!((b.port(0, PortReg::Ci), b.port(0, PortReg::Sact)), (0, 0x61));
    let due = b.board.host_due();
    b.board.warp_to(due);
    b.board.deliver_host_io();
    assert_eq!(b.port(0, PortReg::Sact), 1, "the short ones first");
    assert_eq!(b.port(0, PortReg::Is), 8);
    b.wait();
    assert_eq!(b.port(0, PortReg::Sact), 0);
    assert_eq!((b.board.read(0x1_0000, 4), b.board.read(0x8000, 4)), (1280, 500 * 128));
    assert_eq!(b.stored(700)[..4], 0x5555_aaaa_u32.to_le_bytes());
}

#[test]
fn a_large_queued_read_comes_in_parts() {
    let mut b = Bench::new();
    let sectors = 2500_u32;
    let half = sectors * 256;
    b.prepare(
        1,
        &Bench::queued_fis(false, 3, 2500, 1),
        &[(0x2_0000, half), (0x2_0000 + half, half)],
        0,
    );
    b.port_set(0, PortReg::Sact, 2);
    b.port_set(0, PortReg::Ci, 2);
    b.wait();
    assert_eq!(b.port(0, PortReg::Sact), 0);
    assert_eq!(b.board.read(0x2_0000 + 2499 * 512, 4), 2502 * 128);
}

#[test]
fn a_failed_command_stops_the_port_until_it_is_restarted() {
    let mut b = Bench::new();
    b.prepare(0, &Bench::command_fis(0x25, 1 << 40, 1), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Ci, 1);
    assert_eq!(b.port(0, PortReg::Is), 0x4000_0001);
    assert_eq!(b.port(0, PortReg::Tfd), 0x1051);
    assert_eq!(b.port(0, PortReg::Ci), 1, "which one it was");
    b.port_set(0, PortReg::Cmd, 0x10);
    assert_eq!(b.port(0, PortReg::Ci), 0);
    b.port_set(0, PortReg::Cmd, 0x11);
    b.prepare(0, &Bench::command_fis(0x25, 1, 1), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Ci, 1);
    b.wait();
    assert_eq!(b.board.read(0x8000, 4), 128);
}

#[test]
fn the_log_tells_which_queued_command_failed() {
    let mut b = Bench::new();
    b.prepare(4, &Bench::queued_fis(false, 1 << 40, 1, 4), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Sact, 0x10);
    b.port_set(0, PortReg::Ci, 0x10);
    assert_eq!(b.port(0, PortReg::Is), 0x4000_0008);
    assert_eq!(b.port(0, PortReg::Sact), 0x10);
    b.port_set(0, PortReg::Cmd, 0x10);
    b.port_set(0, PortReg::Cmd, 0x11);
    b.prepare(0, &Bench::command_fis(0x2f, 0x10, 1), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Ci, 1);
    assert_eq!((b.board.read(0x8000, 1), b.board.read(0x8003, 1)), (4, 0x10));
    b.port_set(0, PortReg::Ci, 1);
    assert_eq!(b.board.read(0x8000, 1), 0x80, "told once");
}

#[test]
fn a_cdrom_takes_packets_from_the_command_table() {
    let mut b = Bench::new();
    let mut fis = Bench::command_fis(0xa0, 0, 0);
    fis[3] = 1;
    b.prepare(0, &fis, &[(0x8000, 2048)], 0x20);
    for (i, byte) in [0x28, 0, 0, 0, 0, 1, 0, 0, 1].into_iter().enumerate() {
        b.board.write(TABLES + 0x40 + i as u64, 1, byte);
    }
    b.port_set(2, PortReg::Ci, 1);
    b.wait();
    assert_eq!(b.board.read(0x87ff, 1), 0xcd);
    assert_eq!(b.port(2, PortReg::Is) & 1, 1);
    b.board.write(TABLES + 0x42, 1, 0xff);
    b.port_set(2, PortReg::Ci, 1);
    assert_eq!(b.port(2, PortReg::Tfd), 0x5451, "illegal request, aborted");
}

#[test]
fn a_command_list_outside_memory_is_an_error_and_garbage_ends() {
    let mut b = Bench::new();
    b.port_set(0, PortReg::Cmd, 0x10);
    b.port_set(0, PortReg::Clb, 0xd000_0000);
    b.port_set(0, PortReg::Cmd, 0x11);
    b.port_set(0, PortReg::Ci, u32::MAX);
    assert_eq!(b.port(0, PortReg::Is) & 1 << 29, 1 << 29);
    // Random command lists: each must end or wait, and the port must restart.
    let mut rng = orrery_system::fuzz::Rng::new(7);
    for _ in 0..2000 {
        b.port_set(0, PortReg::Cmd, 0x10);
        b.port_set(0, PortReg::Clb, LIST as u32);
        for slot in 0..4 {
            let mut fis = [0; 20];
            fis.iter_mut().for_each(|f| *f = rng.next_u64() as u8);
            (fis[0], fis[1]) = (0x27, (rng.next_u64() as u8) | 0x80 * u8::from(rng.below(8) != 0));
            let regions: Vec<(u32, u32)> = (0..rng.below(4))
                .map(|_| (rng.next_u64() as u32, 1 + rng.below(0x40_0000) as u32))
                .collect();
            b.prepare(slot, &fis, &regions, (rng.next_u64() as u32) & 0xffe0);
        }
        b.port_set(0, PortReg::Cmd, 0x11);
        b.port_set(0, PortReg::Sact, rng.next_u64() as u32);
        b.port_set(0, PortReg::Ci, 0xf);
        if rng.below(4) == 0 {
            b.wait();
        }
    }
    b.port_set(0, PortReg::Cmd, 0x10);
    b.port_set(0, PortReg::Cmd, 0x11);
    b.prepare(0, &Bench::command_fis(0x25, 77, 1), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Ci, 1);
    b.wait();
    assert_eq!(b.port(0, PortReg::Tfd) & 0x81, 0);
}

#[test]
fn a_command_in_flight_survives_a_snapshot() {
    let mut b = Bench::new();
    b.prepare(0, &Bench::queued_fis(false, 10, 1, 0), &[(0x8000, 512)], 0);
    b.port_set(0, PortReg::Sact, 1);
    b.port_set(0, PortReg::Ci, 1);
    let (state, devices) = b.board.save();
    let mut other = Bench::new();
    other.prepare(0, &Bench::queued_fis(false, 10, 1, 0), &[(0x8000, 512)], 0);
    other.board.restore(&state, &devices).unwrap();
    other.wait();
    assert_eq!(other.board.read(0x8000, 4), 1280);
    assert_eq!(other.port(0, PortReg::Sact), 0);
}

fn alone() -> Ahci {
    let mut board = Board::new(BoardConfig::default());
    let bus = Bus::simple(&board);
    let id = board.reserve("ich9-ahci");
    let mut config = Config::default();
    config.drives[0] = Some((DriveConfig::disk(0), BlockBackend::ram(vec![0; 1 << 20])));
    config.drives[1] = Some((DriveConfig::cdrom(1), BlockBackend::detached()));
    let io = DriveIo::new(&mut board, id, 0, backends(&config.drives));
    let identity = pci::Identity {
        vendor: 0x8086,
        device: 0x2922,
        revision: 2,
        class: 0x01_06_01,
        subsystem: (0, 0),
        pin: 1,
    };
    let pci = pci::Builder::new(&board, &bus, id, identity).msi(1).build(0xfa);
    Ahci::new(config, Wires { pci, io })
}

orrery_system::conformance!(
    alone(),
    [(MEMORY_BANK, Reg::TABLE), (INDEX_BANK, &[]), (CONFIG_BANK, &[])]
);
