use super::*;
use crate::pci::{CONFIG_BANK, Card};
use crate::scsi::{Address, Kind, sbc};
use orrery_block::backend::BlockBackend;
use orrery_system::bus::Registers;
use orrery_system::device::HostIo;
use orrery_system::time::Latency;
use orrery_system::{Dma, IrqInput};

const SCRIPT: u64 = 0x1000;
const DATA: u64 = 0x4000;

struct Bench {
    dev: Card<Lsi>,
    dma: Dma,
    bus: pci::Bus,
}

fn device(model: Model) -> (Card<Lsi>, Dma, pci::Bus) {
    let board = Board::with_ram(0x1_0000);
    let bus = pci::Bus::simple(&board);
    let pci = function(&board, &bus, 8, DeviceId(0), model);
    let wires = Wires { clock: board.clock(), timer: Timer::default() };
    let disk = BlockBackend::ram((0..0x4_0000_u32).flat_map(u32::to_le_bytes).collect());
    let unit = UnitConfig {
        at: Address::new(2, 0),
        kind: Kind::Disk(sbc::Config::default()),
        backend: disk,
    };
    let units = Bus::detached(vec![unit], board.clock(), Latency::new(false));
    (Card::new(pci, Lsi::new(model, wires, units)), board.dma(), bus)
}

impl Bench {
    fn new() -> Self {
        let (mut dev, dma, bus) = device(Model::C895a);
        dev.write(CONFIG_BANK, 4, 2, 7).unwrap();
        dev.write(REGISTERS, 0x39, 1, 0x7f).unwrap();
        dev.write(REGISTERS, 0x40, 2, 0x048f).unwrap();
        Self { dev, dma, bus }
    }

    fn reg(&mut self, at: u64, width: u8) -> u64 {
        self.dev.read(REGISTERS, at, width).unwrap()
    }

    /// Runs the script to its end.
    fn run(&mut self, script: &[u32]) {
        let bytes: Vec<u8> = script.iter().copied().flat_map(u32::to_le_bytes).collect();
        self.dma.write(SCRIPT, &bytes).unwrap();
        self.dev.write(REGISTERS, 0x2c, 4, SCRIPT).unwrap();
        while self.dev.ready() {
            self.dev.deliver(VmTime::NEVER);
        }
    }

    fn level(&self) -> bool {
        self.bus.wires().iter().any(IrqInput::level)
    }

    /// Selects target 2 and carries out `cdb`; `data` is the instruction for its data.
    fn command(&mut self, cdb: &[u8], data: &[u32]) -> u8 {
        self.dma.write(0x3000, &[0x80]).unwrap();
        self.dma.write(0x3010, cdb).unwrap();
        let mut script = vec![0x4102_0000, 0, 0x0e00_0001, 0x3000];
        script.extend([0x0a00_0000 | cdb.len() as u32, 0x3010]);
        script.extend(data);
        script.extend([0x0b00_0001, 0x3020, 0x0f00_0001, 0x3021]);
        // Acknowledge, wait for the bus to be free, tell.
        script.extend([0x6000_0040, 0, 0x4800_0000, 0, 0x9808_0000, 0x1234]);
        self.run(&script);
        assert!(self.level());
        self.dma.read_u16(0x3020).unwrap() as u8
    }
}

#[test]
fn a_script_reads_a_block_and_tells() {
    let mut b = Bench::new();
    assert_eq!(b.command(&[0; 6], &[]), 2, "power-on");
    assert_eq!((b.reg(0x0c, 1), b.reg(0x30, 4)), (0x84, 0x1234));
    assert!(!b.level(), "reading clears it");
    let status = b.command(&[0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0], &[0x0900_0400, DATA as u32]);
    assert_eq!(status, 0);
    assert_eq!((b.dma.read_u32(DATA), b.dma.read_u32(DATA + 0x3fc)), (Ok(0x80), Ok(0x17f)));
    assert_eq!(b.reg(0x14, 1) & 8, 0, "not connected any more");
}

#[test]
fn a_write_goes_out_and_a_phase_that_was_not_expected_interrupts() {
    let mut b = Bench::new();
    b.command(&[0; 6], &[]);
    b.dma.write(DATA, &[7; 512]).unwrap();
    assert_eq!(b.command(&[0x0a, 0, 0, 3, 1, 0], &[0x0800_0200, DATA as u32]), 0);
    b.command(&[0x08, 0, 0, 3, 1, 0], &[0x0900_0200, DATA as u32 + 0x200]);
    assert_eq!(b.dma.read_u32(DATA + 0x200), Ok(0x0707_0707));
    b.reg(0x0c, 1);
    // INQUIRY gives 36 bytes where 255 were expected.
    b.dma.write(0x3000, &[0x80]).unwrap();
    b.dma.write(0x3010, &[0x12, 0, 0, 0, 255, 0]).unwrap();
    let script =
        [0x4102_0000, 0, 0x0e00_0001, 0x3000, 0x0a00_0006, 0x3010, 0x0900_00ff, DATA as u32];
    b.run(&script);
    assert_eq!(b.reg(0x42, 1), 0x80);
    assert_eq!((b.reg(0x24, 4) & 0xff_ffff, b.reg(0x28, 4)), (255 - 36, DATA + 36));
}

#[test]
fn a_message_is_taken_without_attention_and_empty_instructions_are_passed_over() {
    let mut b = Bench::new();
    b.dma.write(0x3000, &[0x80]).unwrap();
    b.dma.write(0x3010, &[0; 16]).unwrap();
    // As SeaBIOS asks a unit whether it is ready: no data, so nothing where the move of data would be.
    let script = [
        0x4002_0000,
        0,
        0x0600_0001,
        0x3000,
        0x0200_0010,
        0x3010,
        0x8782_0000,
        0x18,
        0x0700_0002,
        0x3030,
        0x5000_0000,
        0,
        0x0700_0002,
        0x3030,
        0,
        0,
        0x0300_0001,
        0x3020,
        0x0700_0001,
        0x3021,
        0x9808_0000,
        0,
    ];
    for status in [2, 0] {
        b.run(&script);
        assert_eq!((b.reg(0x0c, 1), b.reg(0x42, 2)), (0x84, 0));
        assert_eq!(b.dma.read_u16(0x3020), Ok(status), "its status, and that it is complete");
    }
}

#[test]
fn nobody_answers_at_an_empty_place() {
    let mut b = Bench::new();
    b.run(&[0x4105_0000, 0]);
    assert_eq!(b.reg(0x43, 1), 4);
}

#[test]
fn registers_and_jumps_compute() {
    let mut b = Bench::new();
    // SCRATCHA = 0x41 + 1; SFBR = it; if it is 0x42, tell 1, else 2.
    let script = [0x7834_4100, 0, 0x7e34_0100, 0, 0x7234_0000, 0, 0x980c_0042, 1, 0x9808_0000, 2];
    b.run(&script);
    assert_eq!((b.reg(0x34, 1), b.reg(0x30, 4)), (0x42, 1));
    // A memory move, a store, and a wait that a signal ends.
    b.dma.write(DATA, &[1, 2, 3, 4]).unwrap();
    let script = [
        0xc000_0004,
        DATA as u32,
        DATA as u32 + 8,
        0xe034_0001,
        DATA as u32 + 16,
        0x5000_0000,
        SCRIPT as u32 + 0x24,
        0x9808_0000,
        3,
        0x9808_0000,
        4,
    ];
    b.run(&script);
    assert_eq!((b.dma.read_u32(DATA + 8), b.dma.read_u16(DATA + 16)), (Ok(0x0403_0201), Ok(0x42)));
    b.dev.write(REGISTERS, 0x14, 1, 0x20).unwrap();
    assert_eq!(b.reg(0x30, 4), 4);
}

#[test]
fn a_script_without_end_makes_pauses() {
    let mut b = Bench::new();
    b.run(&[0x8008_0000, SCRIPT as u32]);
    assert_eq!(b.reg(0x14, 1) & 3, 0);
    b.dev.write(REGISTERS, 0x14, 1, 0x80).unwrap();
    assert_eq!(b.reg(0x0c, 1), 0x90, "aborted");
}

orrery_system::conformance!(
    device(Model::C895a).0,
    [(REGISTERS, &[]), (SCRIPT_RAM, &[]), (CONFIG_BANK, &[])]
);
