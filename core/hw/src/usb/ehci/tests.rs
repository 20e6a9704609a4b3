use super::*;
use crate::pci::Card;
use crate::usb::hid::{self, Hid, Tablet};
use crate::usb::uhci;

struct Bench {
    board: Board,
    id: DeviceId,
    companion: DeviceId,
    bus: Bus,
}

impl Bench {
    fn new() -> Self {
        let mut board = Board::with_ram(0x2_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "usb-bus.0");
        let id = build(&mut board, &pins, 0xef, MODELS[1], bus.clone());
        bus.add_companion();
        let config = uhci::Config { model: uhci::MODELS[3], companion: Some(0) };
        let companion = uhci::build(&mut board, &pins, 0xe8, config, bus.clone());
        for id in [id, companion] {
            board.device_write(id, pci::CONFIG_BANK, 4, 2, 7);
        }
        board.settle();
        Self { board, id, companion, bus }
    }

    fn tablet(&mut self, n: usize, high_speed: bool) {
        let socket = self.bus.sockets()[n].clone();
        let config = hid::Config { high_speed, ..hid::Config::default() };
        self.bus.clone().plug(&mut self.board, &socket, |board, id| {
            Hid::<Tablet>::new(config, hid::Wires::new(board, id))
        });
        self.board.settle();
    }

    fn read(&mut self, reg: Reg) -> u32 {
        self.board.device_read(self.id, REGISTERS, reg.offset(), 4) as u32
    }

    fn write(&mut self, reg: Reg, v: u32) {
        self.board.device_write(self.id, REGISTERS, reg.offset(), 4, v.into());
        self.board.settle();
    }

    fn companion_port(&mut self, n: u64) -> u64 {
        self.board.device_read(self.companion, uhci::REGISTERS, 0x10 + 2 * n, 2)
    }

    fn run(&mut self, frames: u64) {
        for _ in 0..8 * frames {
            let at = self.board.now().after(MICROFRAME_NS);
            self.board.warp_to(at);
            self.board.run_timers();
            self.board.settle();
        }
    }
}

#[test]
fn a_port_is_the_companions_until_the_controller_is_configured() {
    let mut b = Bench::new();
    b.tablet(0, true);
    assert_eq!(b.read(Reg::Port1), 0x3000);
    assert_eq!(b.companion_port(0) & 1, 1);
    b.write(Reg::Config, 1);
    assert_eq!(b.read(Reg::Port1) & 0x3001, 0x1001);
    assert_eq!(b.companion_port(0) & 1, 0);
    assert_eq!(b.read(Reg::Structure), 0x1206);
}

#[test]
fn a_slower_device_is_not_enabled_and_goes_to_the_companion() {
    let mut b = Bench::new();
    b.tablet(0, false);
    b.tablet(1, true);
    b.write(Reg::Config, 1);
    for (reg, enabled) in [(Reg::Port1, 0), (Reg::Port2, 4)] {
        b.write(reg, 0x1100);
        b.write(reg, 0x1000);
        assert_eq!(b.read(reg) & 5, 1 | enabled);
    }
    b.write(Reg::Port1, 0x3000);
    assert_eq!((b.read(Reg::Port1) & 1, b.companion_port(0) & 1), (0, 1));
}

#[test]
fn the_asynchronous_schedule_carries_a_request_and_its_data() {
    let mut b = Bench::new();
    b.tablet(0, true);
    b.write(Reg::Config, 1);
    b.write(Reg::Port1, 0x1100);
    b.write(Reg::Port1, 0x1000);
    let (queue, td, data) = (0x1000_u64, 0x2000_u64, 0x3ffc_u64);
    // One queue that leads to itself: address 0, high speed, head, packets of 64.
    let words = [queue as u32 | 2, 2 << 12 | 1 << 14 | 1 << 15 | 64 << 16, 1 << 30, 0, td as u32];
    for (i, w) in words.into_iter().enumerate() {
        b.board.write(queue + 4 * i as u64, 4, w.into());
    }
    // Get device descriptor; data across a page; status.
    b.board.write(0x5000, 8, 0x0012_0000_0100_0680);
    let transfers = [(8, 2, 0x5000, 0), (18, 1, data, 0), (0, 0, 0x5000, 1 << 15)];
    for (i, (len, pid, buffer, interrupt)) in transfers.into_iter().enumerate() {
        let at = td + 64 * i as u64;
        let next = if i == 2 { 1 } else { at + 64 };
        b.board.write(at, 4, next);
        b.board.write(at + 4, 4, 1);
        let token = len << 16 | interrupt | 3 << 10 | pid << 8 | 0x80;
        b.board.write(at + 8, 4, token);
        b.board.write(at + 12, 4, buffer);
        b.board.write(at + 16, 4, (buffer & !0xfff) + 0x1000);
    }
    b.write(Reg::Enable, 0x3f);
    b.write(Reg::Async, queue as u32);
    b.write(Reg::Command, 0x0008_0021);
    b.run(1);
    assert_eq!(b.board.read(data, 4), 0x0200_0112);
    assert_eq!(b.board.read(0x4000, 4), 0x4000_0000, "64 bytes in a packet, no class");
    assert_eq!(b.board.read(td + 64 + 8, 4) & 0x7fff_0080, 0, "all moved");
    assert_eq!(b.read(Reg::Status) & 1, 1);
    b.write(Reg::Command, 0x0008_0061);
    b.run(1);
    assert_eq!(b.read(Reg::Status) & 0x20, 0x20, "old queues are let go of");
}

#[test]
fn schedules_that_lead_into_themselves_end_with_the_microframe() {
    let mut b = Bench::new();
    b.write(Reg::Config, 1);
    // A frame list of queues, transfers and split transfers that lead to themselves.
    for (i, kind) in [0_u64, 2, 4, 6].into_iter().cycle().take(1024).enumerate() {
        b.board.write(0x1000 + 4 * i as u64, 4, 0x3000 + (kind << 8) | kind);
        b.board.write(0x3000 + (kind << 8), 4, 0x3000 + (kind << 8) | kind);
    }
    b.write(Reg::Periodic, 0x1000);
    b.write(Reg::Async, 0x3200);
    b.write(Reg::Command, 0x0008_0031);
    b.run(4);
    assert_eq!(b.read(Reg::Status) & 0x1010, 0, "still running");
}

mod suite {
    use super::*;

    fn fresh() -> Card<Ehci> {
        let mut board = Board::with_ram(0x1_0000);
        let pins = pci::Bus::simple(&board);
        let bus = bus(&board, "usb-bus.0");
        let function = function(&board, &pins, 8, DeviceId(0), MODELS[0]);
        let wires = Wires::new(&mut board, DeviceId(0), bus);
        Card::new(function, Ehci::new(wires))
    }

    orrery_system::conformance!(fresh(), [(REGISTERS, Reg::TABLE), (pci::CONFIG_BANK, &[])]);
}
