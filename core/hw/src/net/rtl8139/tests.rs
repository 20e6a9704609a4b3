//! The card through its registers and rings.

use super::*;
use crate::net::FIRST_MAC;
use crate::pci::Card;
use orrery_system::bus::Registers;
use orrery_system::device::HostIo;
use orrery_system::{Device, IrqInput};

const RING_AT: u64 = 0x2000;
const TX: u64 = 0x8000;
const RX: u64 = 0x1_0000;

struct Bench {
    dev: Card<Rtl8139>,
    board: Board,
    bus: pci::Bus,
    clock: Clock,
    cable: NetPort,
}

impl Bench {
    fn new() -> Self {
        let board = Board::with_ram(0x4_0000);
        let bus = pci::Bus::simple(&board);
        let pci = function(&board, &bus, 8, DeviceId(0));
        let (clock, cable) = (board.clock(), NetPort::default());
        let wires = Wires { cable: cable.clone(), clock: clock.clone(), timer: Timer::default() };
        let mut dev = Card::new(pci, Rtl8139::new(Config { mac: FIRST_MAC }, wires));
        dev.write(pci::CONFIG_BANK, 4, 2, 7).unwrap();
        let mut b = Self { dev, board, bus, clock, cable };
        b.set(Reg::Cr, u32::from(TE | RE));
        b.set(Reg::Rcr, APM | AB | WRAP);
        b.set(Reg::Rbstart, RX as u32);
        b.set(Reg::Imr, 0xffff);
        b
    }

    fn width(reg: Reg) -> u8 {
        Reg::TABLE.iter().find(|r| r.offset == reg.offset()).unwrap().width
    }

    fn get(&mut self, reg: Reg) -> u32 {
        self.dev.read(REGISTERS, reg.offset(), Self::width(reg)).unwrap() as u32
    }

    fn set(&mut self, reg: Reg, v: u32) {
        self.dev.write(REGISTERS, reg.offset(), Self::width(reg), v.into()).unwrap();
    }

    fn interrupts(&self) -> bool {
        self.bus.wires().iter().any(IrqInput::level)
    }

    fn poke(&mut self, at: u64, bytes: &[u8]) {
        for (i, &b) in bytes.iter().enumerate() {
            self.board.write(at + i as u64, 1, b.into());
        }
    }

    fn peek(&mut self, at: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| self.board.read(at + i, 1) as u8).collect()
    }

    fn arrive(&mut self, frame: &[u8]) {
        self.cable.push([frame.to_vec()]);
        assert!(HostIo::ready(&self.dev));
        HostIo::deliver(&mut self.dev, VmTime(0));
    }
}

fn to(mac: Mac, len: usize) -> Vec<u8> {
    let mut f = mac.to_vec();
    f.extend((6..len).map(|i| i as u8));
    f
}

#[test]
fn a_pulled_cable_shows_in_both_status_registers_and_interrupts() {
    let mut b = Bench::new();
    assert_eq!((b.get(Reg::Msr) & 4, b.get(Reg::Bmsr) & 0x24), (0, 0x24));
    for (up, failed, status) in [(false, 4, 0), (true, 0, 0x24)] {
        b.cable.set_carrier(up);
        assert!(b.dev.host_io().unwrap().ready());
        b.dev.host_io().unwrap().deliver(VmTime(0));
        assert!(!b.dev.host_io().unwrap().ready());
        assert_eq!((b.get(Reg::Msr) & 4, b.get(Reg::Bmsr) & 0x24), (failed, status));
        assert_eq!(b.get(Reg::Isr), u32::from(isr::LINK));
        assert!(b.interrupts());
        b.set(Reg::Isr, isr::LINK.into());
        assert!(!b.interrupts());
        b.set(Reg::Cr, RST.into());
        assert_eq!(b.get(Reg::Msr) & 4, failed, "a reset does not put it back");
        b.set(Reg::Imr, 0xffff);
    }
}

#[test]
fn the_eeprom_and_the_registers_name_the_station() {
    let mut b = Bench::new();
    assert_eq!(b.dev.read(REGISTERS, 0, 4), Ok(0x1200_5452));
    assert_eq!(b.get(Reg::Tcr) & 0x7cc0_0000, 0x7480_0000);
    let mut clock = |bit: u32| {
        b.set(Reg::Cr9346, 0x88 | bit << 1);
        b.set(Reg::Cr9346, 0x8c | bit << 1);
        b.get(Reg::Cr9346) & 1
    };
    for i in (0..9).rev() {
        clock((0b110 << 6 | 8) >> i & 1);
    }
    assert_eq!((0..16).fold(0, |v, _| v << 1 | clock(0)), 0x1200);
}

#[test]
fn a_transmit_buffer_is_sent_when_it_is_given_to_the_card() {
    let mut b = Bench::new();
    b.poke(TX, &to([2; 6], 70));
    b.dev.write(REGISTERS, 0x24, 4, TX).unwrap();
    b.dev.write(REGISTERS, 0x14, 4, 70).unwrap();
    assert_eq!(b.cable.drain(), [to([2; 6], 70)]);
    assert_eq!(b.dev.read(REGISTERS, 0x14, 4), Ok(0xa046));
    assert!(b.interrupts());
    assert_eq!(b.get(Reg::Isr), 4);
    b.set(Reg::Isr, 4);
    assert!(!b.interrupts());
}

#[test]
fn a_frame_lands_in_the_ring_and_the_ring_can_be_full() {
    let mut b = Bench::new();
    let frame = to(FIRST_MAC, 101);
    assert_eq!(b.get(Reg::Cr) & 1, 1, "empty");
    b.arrive(&frame);
    assert_eq!((b.get(Reg::Cr) & 1, b.get(Reg::Isr), b.get(Reg::Cbr)), (0, 1, 112));
    assert_eq!(b.peek(RX, 4), [0x01, 0x40, 105, 0]);
    assert_eq!(b.peek(RX + 4, 101), frame);
    b.set(Reg::Capr, 112 - 16);
    assert_eq!(b.get(Reg::Cr) & 1, 1);
    b.arrive(&to([2; 6], 60));
    assert_eq!(b.get(Reg::Cbr), 112, "not for us");
    for _ in 0..6 {
        b.arrive(&to(FIRST_MAC, 1500));
    }
    assert_ne!(b.get(Reg::Isr) & 0x10, 0, "overflow");
    assert_eq!(b.get(Reg::Mpc), 1);
}

#[test]
fn descriptor_rings_move_frames_with_checksums_and_tags() {
    let mut b = Bench::new();
    b.set(Reg::Cpcr, 0x63);
    b.set(Reg::RdsarLow, RING_AT as u32);
    b.board.write(RING_AT, 4, u64::from(OWN | EOR | 0x600));
    b.board.write(RING_AT + 8, 8, RX);
    b.arrive(&to(FIRST_MAC, 60));
    assert_eq!(b.board.read(RING_AT, 4) as u32, EOR | FS | LS | 1 << 26 | 64);
    assert_eq!(b.peek(RX, 60), to(FIRST_MAC, 60));
    b.arrive(&to(FIRST_MAC, 60));
    assert_ne!(b.get(Reg::Isr) & 0x10, 0, "no descriptor");

    let mut tcp = to([2; 6], 14);
    tcp[12..14].copy_from_slice(&[8, 0]);
    tcp.extend([0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    tcp.extend([0x12, 0x34, 0, 80, 0, 0, 1, 0, 0, 0, 0, 0, 0x50, 0x10, 2, 0, 0, 0, 0, 0]);
    tcp.extend([7; 20]);
    b.poke(TX, &tcp);
    let ring = RING_AT + 0x1000;
    b.board.write(ring, 4, u64::from(OWN | EOR | FS | LS | 1 << 18 | 1 << 16 | 74));
    b.board.write(ring + 4, 4, 1 << 17 | 0x2301);
    b.board.write(ring + 8, 8, TX);
    b.dev.write(REGISTERS, 0x20, 4, ring).unwrap();
    b.set(Reg::TpPoll, 0x40);
    let sent = b.cable.drain();
    assert_eq!((sent.len(), &sent[0][12..16]), (1, &[0x81, 0, 1, 0x23][..]));
    assert!(frame::transport(&sent[0]).is_some_and(|t| t.ip_good && t.good == Some(true)));
    assert_eq!(b.board.read(ring, 4) as u32 & OWN, 0);
}

#[test]
fn the_timer_interrupts_at_its_count() {
    let mut b = Bench::new();
    b.set(Reg::TimerInt, 33_000);
    b.set(Reg::Tctr, 0);
    b.clock.advance_to(b.clock.now().after(999_000));
    assert_eq!(b.get(Reg::Isr), 0);
    b.clock.advance_to(b.clock.now().after(1_000));
    assert_eq!(b.get(Reg::Isr), 0x4000);
    assert!(b.interrupts());
}

#[test]
fn the_timer_interrupts_again_when_its_counter_comes_round() {
    let mut b = Bench::new();
    b.set(Reg::Tctr, 0);
    b.clock.advance_to(b.clock.now().after(1_000_000));
    b.set(Reg::TimerInt, 1);
    assert_eq!(b.get(Reg::Isr), 0, "it went by before");
    // 2^32 ticks of 33 MHz.
    let round = 130_150_524_122;
    for _ in 0..2 {
        b.clock.advance_to(b.clock.now().after(round));
        assert_eq!(b.get(Reg::Isr), 0x4000);
        b.set(Reg::Isr, 0x4000);
    }
}

/// Random registers and memory: nothing panics or hangs.
#[test]
fn random_rings_are_safe() {
    let mut rng = orrery_system::fuzz::Rng::new(5);
    for _ in 0..20 {
        let mut b = Bench::new();
        for at in (0..0x4000).step_by(8) {
            b.board.write(at, 8, rng.next_u64());
        }
        for _ in 0..400 {
            let at = rng.below(0x40) * 4;
            _ = b.dev.write(REGISTERS, at, 4, rng.next_u64() & 0xffff_ffef);
            _ = b.dev.write(REGISTERS, 0x37, 1, u64::from(TE | RE));
            _ = b.dev.write(REGISTERS, 0xd9, 1, 0x40);
            b.cable.push([to(FIRST_MAC, rng.below(1600) as usize)]);
            HostIo::deliver(&mut b.dev, VmTime(0));
            b.cable.drain();
        }
        let saved = b.dev.save();
        let mut other = Bench::new();
        other.dev.restore(&saved).unwrap();
        assert_eq!(other.dev.save(), saved);
    }
}

mod suite {
    use super::*;

    fn fresh() -> Card<Rtl8139> {
        let board = Board::with_ram(0x1_0000);
        let bus = pci::Bus::simple(&board);
        let pci = function(&board, &bus, 8, DeviceId(0));
        let (clock, cable, timer) = (board.clock(), NetPort::default(), Timer::default());
        Card::new(pci, Rtl8139::new(Config { mac: FIRST_MAC }, Wires { cable, clock, timer }))
    }

    orrery_system::conformance!(fresh(), [(REGISTERS, Reg::TABLE), (pci::CONFIG_BANK, &[])]);
}
