use super::*;
use crate::pci::Card;
use crate::usb::hid::{self, Hid, Keyboard};
use crate::usb::hub::{self, Hub};
use orrery_system::IrqInput;
use orrery_system::input::{InputEvent, Key};

/// A controller as a driver sees it, on a board.
struct Bench {
    board: Board,
    id: DeviceId,
    bus: Bus,
    pins: pci::Bus,
}

const LIST: u64 = 0x1000;
const QUEUE_AT: u64 = 0x2000;
const TDS: u64 = 0x3000;
const DATA: u64 = 0x4000;

impl Bench {
    fn new() -> Self {
        let mut board = Board::with_ram(0x1_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "usb-bus.0");
        let config = Config { model: MODELS[0], companion: None };
        let id = build(&mut board, &pins, 8, config, bus.clone());
        board.device_write(id, pci::CONFIG_BANK, 4, 2, 7);
        Self { board, id, bus, pins }
    }

    fn keyboard(&mut self, path: &str) -> DeviceId {
        let position = self.bus.positions().into_iter().find(|p| p.path == path).unwrap();
        let id = self.bus.clone().plug(&mut self.board, &position.socket, |board, id| {
            Hid::<Keyboard>::new(hid::Config::default(), hid::Wires::new(board, id))
        });
        self.board.settle();
        id
    }

    fn read(&mut self, reg: Reg) -> u16 {
        self.board.device_read(self.id, REGISTERS, reg.offset(), 2) as u16
    }

    fn write(&mut self, reg: Reg, v: u32) {
        let width = if reg == Reg::Base { 4 } else { 2 };
        self.board.device_write(self.id, REGISTERS, reg.offset(), width, v.into());
    }

    fn run(&mut self, frames: u64) {
        for _ in 0..frames {
            let at = self.board.now().after(FRAME_NS);
            self.board.warp_to(at);
            self.board.run_timers();
            self.board.settle();
        }
    }

    fn start(&mut self) {
        for i in 0..1024 {
            self.board.write(LIST + 4 * i, 4, QUEUE_AT | u64::from(QUEUE));
        }
        self.board.write(QUEUE_AT, 4, 1);
        self.board.write(QUEUE_AT + 4, 4, 1);
        self.write(Reg::Base, LIST as u32);
        self.write(Reg::Enable, 0xf);
        self.write(Reg::Command, 1);
    }

    /// Resets the port and enables it.
    fn enable(&mut self, port: Reg) {
        self.write(port, 0x200);
        self.write(port, 0x4);
        self.write(port, 0xe);
    }

    /// Puts packets into the queue: pid, address, endpoint, length; data follow each other from [`DATA`].
    fn queue(&mut self, packets: &[(u8, u8, u8, usize)]) {
        let mut at = DATA;
        for (i, &(pid, address, endpoint, len)) in packets.iter().enumerate() {
            let td = TDS + 32 * i as u64;
            let last = i + 1 == packets.len();
            let link = if last { 1 } else { (td + 32) as u32 | DEPTH };
            let control = Control::new()
                .with_active(true)
                .with_errors(3)
                .with_interrupt(last)
                .with_short(pid == PID_IN);
            let token = Token::new()
                .with_pid(pid)
                .with_address(address)
                .with_endpoint(endpoint)
                .with_length((len as u16).wrapping_sub(1) & 0x7ff);
            for (j, word) in
                [link, control.into_bits(), token.into_bits(), at as u32].into_iter().enumerate()
            {
                self.board.write(td + 4 * j as u64, 4, word.into());
            }
            at += len as u64;
        }
        self.board.write(QUEUE_AT + 4, 4, TDS);
    }

    fn control(&mut self, i: u64) -> Control {
        Control::from_bits(self.board.read(TDS + 32 * i + 4, 4) as u32)
    }

    /// A request without data.
    fn request(&mut self, address: u8, setup: u64) {
        self.board.write(DATA, 8, setup);
        self.queue(&[(PID_SETUP, address, 0, 8), (PID_IN, address, 0, 0)]);
        self.run(2);
        assert!(!self.control(1).active() && !self.control(1).stalled());
    }

    fn interrupt(&self) -> bool {
        self.pins.wires().iter().any(IrqInput::level)
    }
}

const SET_ADDRESS_5: u64 = 0x0000_0000_0005_0500;
const SET_CONFIGURATION: u64 = 0x0000_0000_0001_0900;

#[test]
fn a_driver_finds_a_keyboard_and_reads_what_it_is() {
    let mut b = Bench::new();
    b.keyboard("1");
    assert_eq!(b.read(Reg::Port1) & 3, 3, "connected, and that is news");
    assert_eq!(b.read(Reg::Port2) & 1, 0);
    b.start();
    b.enable(Reg::Port1);
    assert_eq!(b.read(Reg::Port1) & 7, 5);
    b.request(0, SET_ADDRESS_5);
    b.board.write(DATA, 8, 0x0012_0000_0100_0680);
    let input = (PID_IN, 5, 0, 8);
    b.queue(&[(PID_SETUP, 5, 0, 8), input, input, (PID_IN, 5, 0, 2), (PID_OUT, 5, 0, 0)]);
    b.write(Reg::Status, 0x3f);
    b.run(2);
    assert_eq!(b.board.read(DATA + 8, 4), 0x0200_0112, "18 bytes of a device descriptor");
    assert_eq!(b.board.read(DATA + 16, 4), 0x0001_0627);
    assert!(b.interrupt() && b.read(Reg::Status) & 1 == 1);
    b.write(Reg::Status, 1);
    assert!(!b.interrupt());
    assert_eq!(b.board.read(QUEUE_AT + 4, 4), 1, "the queue is empty");
}

#[test]
fn a_key_arrives_when_it_is_pressed_and_not_before() {
    let mut b = Bench::new();
    let keyboard = b.keyboard("1");
    b.start();
    b.enable(Reg::Port1);
    b.request(0, SET_ADDRESS_5);
    b.request(5, SET_CONFIGURATION);
    b.queue(&[(PID_IN, 5, 1, 8)]);
    b.run(5);
    assert!(b.control(0).active() && b.control(0).nak());
    let event = InputEvent::Key { key: Key(0x1e), down: true };
    let sink = b.board.device(keyboard).unwrap().input().unwrap();
    assert!(sink.accepts(&event));
    sink.input(event);
    b.run(1);
    assert_eq!(b.control(0).actual(), 7);
    assert_eq!(b.board.read(DATA, 4), 0x0004_0000);
}

#[test]
fn a_device_behind_a_hub_is_reached_and_unplugging_it_is_told() {
    let mut b = Bench::new();
    let root = b.bus.sockets()[0].clone();
    let bus = b.bus.clone();
    bus.plug(&mut b.board, &root, |_, _| Hub::new(hub::Config::default()));
    let keyboard = b.keyboard("1.3");
    b.start();
    b.enable(Reg::Port1);
    b.request(0, SET_ADDRESS_5);
    b.request(5, SET_CONFIGURATION);
    // Set port feature: reset of port 3.
    b.request(5, 0x0000_0003_0004_0323);
    b.request(0, 0x0000_0000_0006_0500);
    b.request(6, SET_CONFIGURATION);
    // All that happened so far is acknowledged: connection and reset of port 3.
    b.request(5, 0x0000_0003_0010_0123);
    b.request(5, 0x0000_0003_0014_0123);
    b.queue(&[(PID_IN, 5, 1, 2)]);
    b.run(2);
    assert!(b.control(0).active(), "no news");
    crate::registry::unplug_usb(&mut b.board, &bus, keyboard);
    b.run(2);
    assert_eq!(b.board.read(DATA, 1), 8, "port 3 changed");
    b.queue(&[(PID_IN, 6, 1, 8)]);
    b.run(8);
    assert!(b.control(0).stalled() && b.control(0).timeout(), "nobody answers any more");
}

#[test]
fn a_hub_wakes_the_host_for_what_came_before_and_after_it_fell_asleep() {
    const SET_WAKEUP: u64 = 0x0000_0000_0001_0300;
    const SLEEPS: u32 = 0x1004;
    for (late, lets) in [(false, true), (true, true), (true, false)] {
        let mut b = Bench::new();
        let (root, bus) = (b.bus.sockets()[0].clone(), b.bus.clone());
        bus.plug(&mut b.board, &root, |_, _| Hub::new(hub::Config::default()));
        b.board.settle();
        b.start();
        b.enable(Reg::Port1);
        b.request(0, SET_ADDRESS_5);
        b.request(5, SET_CONFIGURATION);
        if lets {
            b.request(5, SET_WAKEUP);
        }
        b.write(Reg::Status, 0x3f);
        if late {
            b.write(Reg::Port1, SLEEPS);
            assert_eq!((b.read(Reg::Port1) & 0x40, b.read(Reg::Status) & 4), (0, 0));
        }
        b.keyboard("1.2");
        if !late {
            assert_eq!(b.read(Reg::Port1) & 0x40, 0, "awake");
            b.write(Reg::Port1, SLEEPS);
        }
        let resumes = if lets { (0x40, 4) } else { (0, 0) };
        assert_eq!((b.read(Reg::Port1) & 0x40, b.read(Reg::Status) & 4), resumes);
        b.write(Reg::Status, 4);
        assert_eq!(b.read(Reg::Status) & 4, 0, "it is told once");
    }
}

#[test]
fn a_schedule_that_leads_into_itself_ends_with_the_frame() {
    let mut b = Bench::new();
    b.start();
    b.board.write(QUEUE_AT, 4, QUEUE_AT | u64::from(QUEUE));
    b.run(3);
    b.board.write(QUEUE_AT + 4, 4, TDS);
    b.board.write(TDS, 4, TDS);
    b.run(3);
    assert_eq!(b.read(Reg::Frame), 6);
    assert_eq!(b.read(Reg::Status) & 0x38, 0, "still running");
}

#[test]
fn a_frame_list_where_there_is_no_memory_stops_it() {
    let mut b = Bench::new();
    b.start();
    b.write(Reg::Base, 0xfff0_0000);
    b.run(1);
    assert_eq!(b.read(Reg::Status) & 0x28, 0x28);
    assert!(b.interrupt());
}

#[test]
fn what_is_under_way_goes_on_after_a_snapshot() {
    let mut b = Bench::new();
    let keyboard = b.keyboard("1");
    b.start();
    b.enable(Reg::Port1);
    b.request(0, SET_ADDRESS_5);
    b.board.write(DATA, 8, 0x0012_0000_0100_0680);
    b.queue(&[(PID_SETUP, 5, 0, 8)]);
    b.run(1);
    let (chip, device) =
        (b.board.device(b.id).unwrap().save(), b.board.device(keyboard).unwrap().save());
    let now = b.board.now();
    let mut c = Bench::new();
    let keyboard = c.keyboard("1");
    c.board.warp_to(now);
    for i in 0..0x100 {
        let word = b.board.read(LIST + 4 * i, 4);
        c.board.write(LIST + 4 * i, 4, word);
    }
    c.board.device(c.id).unwrap().restore(&chip).unwrap();
    c.board.device(keyboard).unwrap().restore(&device).unwrap();
    c.board.write(QUEUE_AT, 4, 1);
    c.queue(&[(PID_IN, 5, 0, 8)]);
    c.run(2);
    assert_eq!(c.board.read(DATA, 4), 0x0200_0112);
}

mod suite {
    use super::*;

    fn fresh() -> Card<Uhci> {
        let mut board = Board::with_ram(0x1_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "usb-bus.0");
        let socket = bus.sockets()[0].clone();
        bus.plug(&mut board, &socket, |board, id| {
            Hid::<Keyboard>::new(hid::Config::default(), hid::Wires::new(board, id))
        });
        let function = function(&board, &pins, 8, DeviceId(0), MODELS[0]);
        let wires = Wires::new(&mut board, DeviceId(0), bus);
        Card::new(function, Uhci::new(Config { model: MODELS[0], companion: None }, wires))
    }

    orrery_system::conformance!(fresh(), [(REGISTERS, Reg::TABLE), (pci::CONFIG_BANK, &[])]);
}
