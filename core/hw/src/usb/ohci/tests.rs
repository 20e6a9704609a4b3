use super::*;
use crate::pci::Card;
use crate::usb::hid::{self, Hid, Keyboard};
use orrery_system::IrqInput;

const AREA: u64 = 0x1000;
const ED: u64 = 0x2000;
const TDS: u64 = 0x3000;
const DATA: u64 = 0x4000;

/// A controller as a driver sees it, on a board, with a keyboard in its first port.
struct Bench {
    board: Board,
    id: DeviceId,
    bus: Bus,
    pins: pci::Bus,
    keyboard: DeviceId,
}

impl Bench {
    fn new() -> Self {
        let mut board = Board::with_ram(0x1_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "usb-bus.0");
        let id = build(&mut board, &pins, 8, bus.clone());
        board.device_write(id, pci::CONFIG_BANK, 4, 2, 7);
        let mut bench = Self { board, id, bus, pins, keyboard: id };
        bench.keyboard = bench.plug();
        bench.write(Reg::Area, AREA as u32);
        bench.write(Reg::Control, 0x9c);
        bench.write(Reg::Port1, 0x10);
        bench.write(Reg::Port1, CHANGES);
        bench
    }

    fn plug(&mut self) -> DeviceId {
        let (bus, socket) = (self.bus.clone(), self.bus.sockets()[0].clone());
        let id = bus.plug(&mut self.board, &socket, |board, id| {
            Hid::<Keyboard>::new(hid::Config::default(), hid::Wires::new(board, id))
        });
        self.board.settle();
        id
    }

    fn read(&mut self, reg: Reg) -> u32 {
        self.board.device_read(self.id, REGISTERS, reg.offset(), 4) as u32
    }

    fn write(&mut self, reg: Reg, v: u32) {
        self.board.device_write(self.id, REGISTERS, reg.offset(), 4, v.into());
    }

    fn run(&mut self, frames: u64) {
        for _ in 0..frames {
            let at = self.board.now().after(FRAME_NS);
            self.board.warp_to(at);
            self.board.run_timers();
            self.board.settle();
        }
    }

    fn words(&mut self, at: u64, words: &[u64]) {
        for (i, w) in words.iter().enumerate() {
            self.board.write(at + 4 * i as u64, 4, *w);
        }
    }

    /// Puts transfers into an endpoint: direction, bytes; data follow each other from [`DATA`].
    fn queue(&mut self, address: u64, number: u64, packet: u64, transfers: &[(u64, u64)]) {
        let mut data = DATA;
        for (i, &(direction, len)) in transfers.iter().enumerate() {
            let td = TDS + 16 * i as u64;
            let toggle = if direction == 0 { 2 } else { 3 };
            let now = if len == 0 { 0 } else { data };
            let first = 0xf << 28 | toggle << 24 | direction << 19;
            self.words(td, &[first, now, td + 16, (data + len).wrapping_sub(1)]);
            data += len;
        }
        let tail = TDS + 16 * transfers.len() as u64;
        self.words(ED, &[packet << 16 | number << 7 | address, tail, TDS, 0]);
    }

    /// A request on the control list.
    fn request(&mut self, address: u64, setup: u64, rest: &[(u64, u64)]) {
        self.board.write(DATA, 8, setup);
        self.queue(address, 0, 8, &[&[(0, 8)], rest].concat());
        self.write(Reg::ControlHead, ED as u32);
        self.write(Reg::Command, 2);
        self.run(3);
        assert_eq!(self.board.read(ED + 8, 4) & !2, self.board.read(ED + 4, 4), "all are done");
    }

    /// The transfers that were handed over, the first one first, with their codes.
    fn done(&mut self) -> Vec<(u64, u64)> {
        let mut at = self.board.read(AREA + 0x84, 4) & !1;
        let mut all = Vec::new();
        while at != 0 {
            all.insert(0, (at, self.board.read(at, 4) >> 28));
            at = self.board.read(at + 8, 4);
        }
        self.write(Reg::Status, cause::DONE);
        all
    }
}

const SET_ADDRESS_5: u64 = 0x0000_0000_0005_0500;

#[test]
fn a_driver_reads_what_a_device_is_and_is_told_when_it_is_over() {
    let mut b = Bench::new();
    assert_eq!(b.read(Reg::Port1), 0x103, "connected, enabled, powered");
    assert_eq!(b.read(Reg::Port2), 0x100);
    b.write(Reg::Enable, cause::MASTER | cause::DONE);
    b.request(0, SET_ADDRESS_5, &[(2, 0)]);
    assert!(b.pins.wires().iter().any(IrqInput::level));
    assert_eq!(b.done(), [(TDS, 0), (TDS + 16, 0)]);
    assert!(!b.pins.wires().iter().any(IrqInput::level));
    b.request(5, 0x0012_0000_0100_0680, &[(2, 18), (1, 0)]);
    assert_eq!(b.done().len(), 3);
    assert_eq!(b.board.read(DATA + 8, 4), 0x0200_0112, "18 bytes of a device descriptor");
    assert_eq!(b.board.read(TDS + 16 + 4, 4), 0, "all of the buffer");
    // Less comes than was asked for, which is an error unless it may.
    b.board.write(DATA, 8, 0x0040_0000_0100_0680);
    b.queue(5, 0, 8, &[(0, 8), (2, 64)]);
    b.write(Reg::Command, 2);
    b.run(3);
    assert_eq!(b.done(), [(TDS, 0), (TDS + 16, 9)]);
    assert_eq!(b.board.read(ED + 8, 4) & 1, 1, "halted");
    assert_eq!(b.board.read(TDS + 16 + 4, 4), DATA + 8 + 18, "where it ended");
}

#[test]
fn nobody_answers_three_times_and_unplugging_is_told() {
    let mut b = Bench::new();
    b.queue(9, 0, 8, &[(0, 8)]);
    b.write(Reg::ControlHead, ED as u32);
    b.write(Reg::Command, 2);
    b.run(1);
    assert_eq!(b.board.read(TDS, 4) >> 26 & 3, 1, "one error");
    b.run(3);
    assert_eq!(b.done(), [(TDS, 5)]);
    let (bus, keyboard) = (b.bus.clone(), b.keyboard);
    crate::registry::unplug_usb(&mut b.board, &bus, keyboard);
    assert_eq!(b.read(Reg::Port1), 0x3_0100, "gone, and disabled");
    assert_eq!(b.read(Reg::Status) & cause::HUB, cause::HUB);
    b.write(Reg::Command, 1);
    assert_eq!((b.read(Reg::Control), b.read(Reg::Port1)), (0xc0, 0x3_0100), "the hub stays");
}

#[test]
fn lists_that_lead_into_themselves_and_into_nothing_end() {
    let mut b = Bench::new();
    b.words(ED, &[8 << 16, 0, 0, ED]);
    b.write(Reg::ControlHead, ED as u32);
    b.write(Reg::Command, 2);
    b.run(2);
    assert_eq!(b.read(Reg::Frame), 2);
    b.words(ED, &[8 << 16, 0, 0, 0xfff0_0000]);
    b.write(Reg::Command, 2);
    b.run(1);
    assert_eq!(b.read(Reg::Status) & cause::BROKEN, cause::BROKEN);
}

mod conformance {
    use super::*;

    fn fresh() -> Card<Ohci> {
        let mut board = Board::with_ram(0x1_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "usb-bus.0");
        let function = function(&board, &pins, 8, DeviceId(0));
        Card::new(function, Ohci::new(Wires::new(&mut board, DeviceId(0), bus)))
    }

    orrery_system::conformance!(fresh(), [(REGISTERS, Reg::TABLE), (pci::CONFIG_BANK, &[])]);
}
