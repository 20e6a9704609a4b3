//! The card as a driver sees it.

use super::isa::IsaNe2000;
use super::*;
use crate::net::{FIRST_MAC, frame};
use orrery_system::IrqInput;
use orrery_system::bus::Registers;
use orrery_system::device::HostIo;
use orrery_system::ports::NetPort;
use orrery_system::time::VmTime;

struct Bench {
    dev: IsaNe2000,
    irq: IrqInput,
    cable: NetPort,
}

impl Bench {
    /// A card that a driver has set up: pages 40h to 45h to send, the rest of the memory a ring.
    fn new() -> Self {
        let (irq, cable) = (IrqInput::detached(), NetPort::default());
        let dev = IsaNe2000::new(&Config { mac: FIRST_MAC }, irq.pin(), cable.clone());
        let mut b = Self { dev, irq, cable };
        b.out(&[(0x0, 0x21), (0xe, 0x49), (0xc, 0x04), (0xd, 0)]);
        b.out(&[(1, 0x46), (2, 0x80), (3, 0x46), (7, 0xff), (0xf, 0x3f)]);
        b.out(&[(0, 0x61)]);
        for (i, &byte) in FIRST_MAC.iter().enumerate() {
            b.out(&[(1 + i as u64, byte)]);
        }
        b.out(&[(7, 0x47), (0, 0x22)]);
        b
    }

    fn out(&mut self, writes: &[(u64, u8)]) {
        for &(at, v) in writes {
            self.dev.write(0, at, 1, v.into()).unwrap();
        }
    }

    fn get(&mut self, at: u64) -> u8 {
        self.dev.read(0, at, 1).unwrap() as u8
    }

    fn remote(&mut self, command: u8, at: u16, len: u16) {
        let bytes = |v: u16| (v as u8, (v >> 8) as u8);
        let ((al, ah), (ll, lh)) = (bytes(at), bytes(len));
        self.out(&[(8, al), (9, ah), (0xa, ll), (0xb, lh), (0, command)]);
    }

    fn peek(&mut self, at: u16, len: u16) -> Vec<u8> {
        self.remote(0x0a, at, len);
        (0..len / 2)
            .flat_map(|_| (self.dev.read(0, 0x10, 2).unwrap() as u16).to_le_bytes())
            .collect()
    }

    fn poke(&mut self, at: u16, bytes: &[u8]) {
        self.remote(0x12, at, bytes.len() as u16);
        for pair in bytes.chunks(2) {
            let word = u16::from_le_bytes([pair[0], pair[1]]);
            self.dev.write(0, 0x10, 2, word.into()).unwrap();
        }
    }

    fn arrive(&mut self, frame: &[u8]) {
        self.cable.push([frame.to_vec()]);
        assert!(self.dev.ready());
        self.dev.deliver(VmTime(0));
    }
}

fn to(mac: frame::Mac, len: usize) -> Vec<u8> {
    let mut f = mac.to_vec();
    f.extend((6..len).map(|i| i as u8));
    f
}

#[test]
fn the_address_prom_names_the_station_and_the_bus_width() {
    let mut b = Bench::new();
    let prom = b.peek(0, 32);
    let mac: Vec<u8> = prom.iter().step_by(2).take(6).copied().collect();
    assert_eq!((&mac[..], &prom[28..]), (&FIRST_MAC[..], &[0x57; 4][..]));
    assert_ne!(b.get(7) & 0x40, 0, "remote transfer complete");
    // Bytes of a 16-bit port are every other one.
    b.remote(0x0a, 0, 32);
    let bytes: Vec<u8> = (0..6).map(|_| b.get(0x10)).collect();
    assert_eq!(bytes, FIRST_MAC);
    b.out(&[(0xe, 0x48)]);
    b.remote(0x0a, 0, 32);
    assert_eq!([b.get(0x10), b.get(0x10), b.get(0x10)], [0x52, 0x52, 0x54]);
    b.out(&[(0xe, 0x49)]);
    assert_eq!((b.get(0xa), b.get(0xb)), (b'P', b'C'));
}

#[test]
fn what_is_put_in_the_buffer_is_sent() {
    let mut b = Bench::new();
    b.poke(0x4000, &to([2; 6], 60));
    b.out(&[(7, 0xff), (4, 0x40), (5, 60), (6, 0), (0, 0x26)]);
    assert_eq!(b.cable.drain(), [to([2; 6], 60)]);
    assert!(b.irq.level());
    assert_eq!((b.get(7), b.get(4), b.get(0) & 4), (2, 1, 0));
    b.out(&[(7, 2)]);
    assert!(!b.irq.level());
}

#[test]
fn a_frame_lands_in_the_ring_behind_its_header_and_wraps() {
    let mut b = Bench::new();
    let frame = to(FIRST_MAC, 300);
    b.arrive(&frame);
    assert!(b.irq.level());
    assert_eq!(b.peek(0x4700, 4), [1, 0x49, 48, 1]);
    assert_eq!(b.peek(0x4704, 300), frame);
    // The last page of the ring: it goes on at its start.
    b.out(&[(3, 0x7f), (0, 0x62), (7, 0x7f), (0, 0x22), (3, 0x70)]);
    b.arrive(&frame);
    assert_eq!(b.peek(0x7f00, 4), [1, 0x47, 48, 1]);
    assert_eq!(b.peek(0x7f04, 300), frame);
    b.out(&[(0, 0x62)]);
    assert_eq!(b.get(7), 0x47);
}

#[test]
fn a_full_ring_says_so_and_filters_keep_others_out() {
    let mut b = Bench::new();
    b.arrive(&to([2; 6], 60));
    b.arrive(&to([1, 0, 0x5e, 0, 0, 1], 60));
    assert_eq!(b.get(7) & 1, 0);
    b.arrive(&to([0xff; 6], 60));
    assert_eq!((b.get(7) & 1, b.get(0xc)), (1, 0x21));
    for _ in 0..10 {
        b.arrive(&to(FIRST_MAC, 1500));
    }
    assert_ne!(b.get(7) & 0x10, 0, "overwrite warning");
    assert_ne!(b.get(0xf), 0);
    assert_eq!(b.get(0xf), 0, "the counter clears when read");
}

mod suite {
    use super::*;
    use crate::pci::{Bus, CONFIG_BANK, Card};
    use orrery_system::{Board, DeviceId};

    fn on_pci() -> Card<Ne2000> {
        let board = Board::with_ram(0x1000);
        let bus = Bus::simple(&board);
        let pci = pci::function(&board, &bus, 8, DeviceId(0));
        Card::new(pci, Ne2000::new(&Config { mac: FIRST_MAC }, NetPort::default()))
    }

    fn on_isa() -> IsaNe2000 {
        let irq = IrqInput::detached().pin();
        IsaNe2000::new(&Config { mac: FIRST_MAC }, irq, NetPort::default())
    }

    mod pci_card {
        use super::*;
        orrery_system::conformance!(on_pci(), [(0, &[]), (CONFIG_BANK, &[])]);
    }

    mod isa_card {
        use super::*;
        orrery_system::conformance!(on_isa(), []);
    }
}
