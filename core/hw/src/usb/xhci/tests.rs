use super::*;
use crate::pci::Card;
use crate::usb::hid::{self, Hid, Keyboard};
use orrery_system::input::{InputEvent, Key};

const COMMANDS: u64 = 0x1000;
const TABLE: u64 = 0x2000;
const EVENTS: u64 = 0x3000;
const CONTEXTS: u64 = 0x4000;
const INPUT: u64 = 0x5000;
const CONTROL: u64 = 0x6000;
const KEYS: u64 = 0x7000;
const DATA: u64 = 0x8000;
const DEVICE: u64 = 0x9000;

/// A controller as a driver sees it.
struct Bench {
    board: Board,
    id: DeviceId,
    bus: Bus,
    /// Entries that the driver has put into a ring, by ring, and events that it has taken.
    put: BTreeMap<u64, u64>,
    taken: u64,
}

impl Bench {
    fn new() -> Self {
        let mut board = Board::with_ram(0x2_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "x.0");
        let id = build(&mut board, &pins, 8, MODELS[0], bus.clone());
        board.device_write(id, pci::CONFIG_BANK, 4, 2, 7);
        board.write(CONTEXTS + 8, 8, DEVICE);
        board.write(TABLE, 8, EVENTS);
        board.write(TABLE + 8, 4, 16);
        let mut b = Self { board, id, bus, put: BTreeMap::new(), taken: 0 };
        b.write(Reg::Config, 8);
        b.write(Reg::ContextsLow, CONTEXTS as u32);
        b.write(Reg::RingLow, COMMANDS as u32 | 1);
        b.write(Reg::TableSize, 1);
        b.write(Reg::DequeueLow, EVENTS as u32);
        b.write(Reg::TableLow, TABLE as u32);
        b.write(Reg::Management, 2);
        b.write(Reg::Command, 5);
        b
    }

    fn keyboard(&mut self) -> DeviceId {
        let socket = self.bus.sockets()[0].clone();
        let id = self.bus.clone().plug(&mut self.board, &socket, |board, id| {
            Hid::<Keyboard>::new(hid::Config::default(), hid::Wires::new(board, id))
        });
        self.board.settle();
        id
    }

    fn read(&mut self, reg: Reg) -> u32 {
        self.board.device_read(self.id, REGISTERS, reg.offset(), 4) as u32
    }

    fn write(&mut self, reg: Reg, v: u32) {
        self.write_at(reg.offset(), v);
    }

    fn write_at(&mut self, at: u64, v: u32) {
        self.board.device_write(self.id, REGISTERS, at, 4, v.into());
        self.board.settle();
    }

    fn port(&mut self, n: u64) -> u32 {
        self.board.device_read(self.id, REGISTERS, PORTS_AT + 16 * n, 4) as u32
    }

    fn put(&mut self, ring: u64, parameter: u64, status: u32, control: u32) {
        let n = self.put.entry(ring).or_default();
        let at = ring + 16 * *n;
        *n += 1;
        self.board.write(at, 8, parameter);
        self.board.write(at + 8, 4, status.into());
        self.board.write(at + 12, 4, u64::from(control | 1));
    }

    /// The next event: type, code, parameter, slot.
    fn event(&mut self) -> Option<(u32, u32, u64, u32)> {
        let at = EVENTS + 16 * self.taken;
        let control = self.board.read(at + 12, 4) as u32;
        if control & 1 == 0 {
            return None;
        }
        self.taken += 1;
        let code = self.board.read(at + 8, 4) as u32 >> 24;
        Some((control >> 10 & 63, code, self.board.read(at, 8), control >> 24))
    }

    fn command(&mut self, parameter: u64, control: u32) -> (u32, u32) {
        self.put(COMMANDS, parameter, 0, control);
        self.write_at(DOORBELLS_AT, 0);
        let (kind, code, _, slot) = self.event().expect("an event");
        assert_eq!(kind, 33);
        (code, slot)
    }

    /// Port 5 reset, slot 1 addressed.
    fn address(&mut self) {
        while self.event().is_some() {}
        self.write_at(PORTS_AT + 4 * 16, 0x210);
        assert_eq!(self.event().map(|e| (e.0, e.2)), Some((34, 5 << 24)));
        assert_eq!(self.command(0, 9 << 10), (1, 1));
        self.board.write(INPUT + 4, 4, 3);
        self.board.write(INPUT + 0x20, 4, 1 << 27 | 3 << 20);
        self.board.write(INPUT + 0x24, 4, 5 << 16);
        self.board.write(INPUT + 0x44, 4, 64 << 16 | 4 << 3 | 3 << 1);
        self.board.write(INPUT + 0x48, 8, CONTROL | 1);
        assert_eq!(self.command(INPUT, 11 << 10 | 1 << 24), (1, 1));
        assert_eq!(self.board.read(DEVICE + 12, 4), 2 << 27 | 1);
    }
}

#[test]
fn a_device_shows_at_the_port_of_its_speed_and_is_told_of() {
    let mut b = Bench::new();
    b.keyboard();
    assert_eq!((b.port(0) & 1, b.port(4) & 0x2_0001), (0, 0x2_0001));
    assert_eq!(b.event(), Some((34, 1, 5 << 24, 0)));
    assert_eq!(b.read(Reg::Status) & 0x18, 0x18);
    assert_eq!(b.read(Reg::Management), 3);
}

#[test]
fn a_driver_addresses_a_keyboard_reads_what_it_is_and_gets_a_key() {
    let mut b = Bench::new();
    let keyboard = b.keyboard();
    b.address();
    // Get device descriptor, more than there is of it.
    b.put(CONTROL, 0x0040_0000_0100_0680, 8, 2 << 10 | 3 << 16 | 0x40);
    b.put(CONTROL, DATA, 64, 3 << 10 | 1 << 16 | 4);
    b.put(CONTROL, 0, 0, 4 << 10 | 0x20);
    b.write_at(DOORBELLS_AT + 4, 1);
    assert_eq!(b.board.read(DATA, 4), 0x0200_0112);
    assert_eq!(b.event().map(|e| (e.0, e.1)), Some((32, 13)), "46 bytes short");
    assert_eq!(b.event().map(|e| (e.0, e.1)), Some((32, 1)));
    // Configure: endpoint 1 in is context 3.
    b.put(CONTROL, 0x0000_0000_0001_0900, 8, 2 << 10 | 0x40);
    b.put(CONTROL, 0, 0, 4 << 10 | 1 << 16 | 0x20);
    b.write_at(DOORBELLS_AT + 4, 1);
    assert_eq!(b.event().map(|e| e.1), Some(1));
    b.board.write(INPUT + 4, 4, 1 << 3 | 1);
    b.board.write(INPUT + 0x84, 4, 8 << 16 | 7 << 3 | 3 << 1);
    b.board.write(INPUT + 0x88, 8, KEYS | 1);
    assert_eq!(b.command(INPUT, 12 << 10 | 1 << 24), (1, 1));
    b.put(KEYS, DATA, 8, 1 << 10 | 0x20);
    b.write_at(DOORBELLS_AT + 4, 3);
    assert_eq!(b.event(), None, "no key yet");
    let event = InputEvent::Key { key: Key(0x1e), down: true };
    b.board.device(keyboard).unwrap().input().unwrap().input(event);
    b.board.settle();
    assert_eq!(b.event(), Some((32, 1, KEYS, 1)));
    assert_eq!(b.board.read(DATA, 4), 0x0004_0000);
}

#[test]
fn an_endpoint_that_stalls_is_halted_until_it_is_reset() {
    let mut b = Bench::new();
    b.keyboard();
    b.address();
    // A string that is not there.
    b.put(CONTROL, 0x0040_0000_0377_0680, 8, 2 << 10 | 3 << 16 | 0x40);
    b.put(CONTROL, DATA, 64, 3 << 10 | 1 << 16);
    b.put(CONTROL, 0, 0, 4 << 10 | 0x20);
    b.write_at(DOORBELLS_AT + 4, 1);
    assert_eq!(b.event(), Some((32, 6, CONTROL + 16, 1)));
    assert_eq!(b.board.read(DEVICE + 0x20, 4) & 7, 2);
    let endpoint = 1 << 16 | 1 << 24;
    assert_eq!(b.command(0, 15 << 10 | endpoint).0, 19, "it does not run");
    assert_eq!(b.command(0, 14 << 10 | endpoint).0, 1);
    assert_eq!(b.command((CONTROL + 48) | 1, 16 << 10 | endpoint).0, 1);
    b.put(CONTROL, 0x0002_0000_0000_0080, 8, 2 << 10 | 3 << 16 | 0x40);
    b.put(CONTROL, DATA, 2, 3 << 10 | 1 << 16);
    b.put(CONTROL, 0, 0, 4 << 10 | 0x20);
    b.write_at(DOORBELLS_AT + 4, 1);
    assert_eq!(b.event().map(|e| e.1), Some(1));
}

#[test]
fn rings_that_lead_into_themselves_do_not_hang_it() {
    let mut b = Bench::new();
    b.put(COMMANDS, COMMANDS, 0, 6 << 10);
    b.write_at(DOORBELLS_AT, 0);
    assert_eq!(b.event(), None);
    assert_eq!(b.read(Reg::Status) & 1, 0);
}

mod suite {
    use super::*;

    fn fresh() -> Card<Xhci> {
        let mut board = Board::with_ram(0x1_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "x.0");
        let function = function(&board, &pins, 8, DeviceId(0), MODELS[0]);
        let wires = Wires::new(&mut board, DeviceId(0), bus);
        Card::new(function, Xhci::new(MODELS[0], wires))
    }

    orrery_system::conformance!(
        fresh(),
        [(REGISTERS, Reg::TABLE), (pci::CONFIG_BANK, &[]), (pci::MSIX_BANK, &[])]
    );
}
