//! The card as a driver sees it.

use super::*;
use crate::net::{FIRST_MAC, frame};
use crate::pci::Card;
use orrery_system::{Device as _, IrqInput, Registers as _};

const TX_RING: u64 = 0x1000;
const RX_RING: u64 = 0x2000;
const TX_DATA: u64 = 0x8000;
const RX_DATA: u64 = 0x1_0000;

struct Bench {
    dev: Card<E1000>,
    timer: Timer,
    board: Board,
    bus: pci::Bus,
    clock: Clock,
    cable: NetPort,
}

impl Bench {
    fn bare() -> Self {
        let board = Board::with_ram(0x4_0000);
        let bus = pci::Bus::simple(&board);
        let pci = function(&board, &bus, 3 << 3, DeviceId(0));
        let clock = board.clock();
        let cable = NetPort::default();
        let timer = Timer::default();
        let wires = Wires { cable: cable.clone(), clock: clock.clone(), timer: timer.clone() };
        let dev = Card::new(pci, E1000::new(Config { mac: FIRST_MAC }, wires));
        Self { dev, timer, board, bus, clock, cable }
    }

    /// A card that a driver has set up, with eight descriptors each way.
    fn new() -> Self {
        let mut b = Self::bare();
        b.dev.write(pci::CONFIG_BANK, 4, 2, 6).unwrap();
        for (reg, v) in [
            (Reg::Tdbal, TX_RING as u32),
            (Reg::Tdlen, 128),
            (Reg::Tctl, 0x0004_010a),
            (Reg::Rdbal, RX_RING as u32),
            (Reg::Rdlen, 128),
            (Reg::Rdt, 7),
            (Reg::Rctl, 0x0400_8002),
            (Reg::Ims, 0x1_ffff),
        ] {
            b.set(reg, v);
        }
        for n in 0..8 {
            b.board.write(RX_RING + 16 * n, 8, RX_DATA + 0x1000 * n);
        }
        b.get(Reg::Icr);
        b
    }

    fn get(&mut self, reg: Reg) -> u32 {
        self.dev.read(REGISTERS, reg.offset(), 4).unwrap() as u32
    }

    fn set(&mut self, reg: Reg, v: u32) {
        self.dev.write(REGISTERS, reg.offset(), 4, v.into()).unwrap();
    }

    fn interrupts(&self) -> bool {
        self.bus.wires().iter().any(IrqInput::level)
    }

    fn run(&mut self, ns: u64) {
        let end = self.clock.now().after(ns);
        while let Some(t) = self.timer.deadline().filter(|&t| t <= end) {
            self.clock.advance_to(t);
            self.timer.disarm();
            self.dev.wake(0, t);
        }
        self.clock.advance_to(end);
    }

    fn poke(&mut self, at: u64, bytes: &[u8]) {
        for (i, &b) in bytes.iter().enumerate() {
            self.board.write(at + i as u64, 1, b.into());
        }
    }

    fn peek(&mut self, at: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| self.board.read(at + i, 1) as u8).collect()
    }

    /// Queues a descriptor and rings the doorbell.
    fn queue(&mut self, address: u64, low: u32, high: u32) {
        let tail = self.get(Reg::Tdt);
        let at = TX_RING + 16 * u64::from(tail);
        self.board.write(at, 8, address);
        self.board.write(at + 8, 4, low.into());
        self.board.write(at + 12, 4, high.into());
        self.set(Reg::Tdt, (tail + 1) % 8);
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.cable.drain()
    }

    fn receive(&mut self, frame: &[u8]) {
        self.cable.push([frame.to_vec()]);
        let io = self.dev.host_io().unwrap();
        assert!(io.ready());
        io.deliver(VmTime(0));
    }

    fn link_interrupts(&mut self, op: u32, reg: u32, data: u32) -> u32 {
        self.set(Reg::Mdic, op << 26 | 1 << 21 | reg << 16 | data);
        let m = self.get(Reg::Mdic);
        assert_eq!(m >> 28 & 5, 1, "ready, no error");
        m & 0xffff
    }
}

fn to_us(len: usize) -> Vec<u8> {
    let mut f = FIRST_MAC.to_vec();
    f.extend([2, 0, 0, 0, 0, 1, 0x12, 0x34]);
    f.extend((f.len()..len).map(|i| i as u8));
    f
}

/// An IPv4 frame around a TCP segment with this payload.
fn tcp(payload: usize) -> Vec<u8> {
    let mut f = to_us(14);
    f[12..14].copy_from_slice(&[8, 0]);
    let total = (40 + payload) as u16;
    f.extend([0x45, 0]);
    f.extend(total.to_be_bytes());
    f.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    f.extend([0x12, 0x34, 0, 80, 0, 0, 1, 0, 0, 0, 0, 0, 0x50, 0x19, 2, 0, 0, 0, 0, 0]);
    f.extend((0..payload).map(|i| i as u8));
    f
}

fn good(frame: &[u8]) -> bool {
    frame::transport(frame).is_some_and(|t| t.ip_good && t.good == Some(true))
}

#[test]
fn the_station_address_comes_from_the_eeprom() {
    let mut b = Bench::bare();
    assert_eq!(b.dev.read(REGISTERS, 0x5400, 4), Ok(0x1200_5452));
    assert_eq!(b.dev.read(REGISTERS, 0x5404, 4), Ok(0x8000_5634));
    b.set(Reg::Eerd, 2 << 8 | 1);
    assert_eq!(b.get(Reg::Eerd), 0x5634_0210);
    let sum = (0..64_u32).fold(0_u16, |sum, at| {
        b.set(Reg::Eerd, at << 8 | 1);
        sum.wrapping_add((b.get(Reg::Eerd) >> 16) as u16)
    });
    assert_eq!(sum, 0xbaba);
    // The same through the I/O ports.
    b.dev.write(PORTS, 0, 4, 0x5404).unwrap();
    assert_eq!(b.dev.read(PORTS, 4, 4), Ok(0x8000_5634));
}

#[test]
fn the_phy_names_itself_and_negotiates() {
    let mut b = Bench::new();
    assert_eq!((b.link_interrupts(2, 2, 0), b.link_interrupts(2, 3, 0)), (0x0141, 0x0c20));
    assert_eq!(b.get(Reg::Status) & 2, 2);
    b.link_interrupts(1, 0, 0x1340);
    assert_eq!((b.get(Reg::Status) & 2, b.get(Reg::Icr)), (0, 4));
    b.run(600_000_000);
    assert!(b.interrupts());
    assert_eq!((b.get(Reg::Status) & 2, b.get(Reg::Icr)), (2, 4));
    assert_eq!(b.link_interrupts(2, 1, 0) & 0x24, 0x24);
    b.set(Reg::Mdic, 2 << 26 | 2 << 21);
    assert_eq!(b.get(Reg::Mdic) >> 30 & 1, 1, "no other PHY");
}

#[test]
fn a_legacy_descriptor_sends_a_padded_frame_and_interrupts() {
    let mut b = Bench::new();
    b.poke(TX_DATA, &to_us(40));
    b.queue(TX_DATA, 20 | 0x08 << 24, 0);
    assert!(b.sent().is_empty(), "not the end of the packet");
    b.queue(TX_DATA + 20, 20 | 0x0b << 24, 0);
    let sent = b.sent();
    assert_eq!((sent.len(), sent[0].len()), (1, 60));
    assert_eq!(sent[0][..40], to_us(40));
    assert_eq!(b.board.read(TX_RING + 12, 1), 1, "done");
    assert_eq!(b.get(Reg::Tdh), 2);
    assert!(b.interrupts());
    assert_eq!(b.get(Reg::Icr) & 3, 3);
    assert!(!b.interrupts());
    assert_eq!((b.get(Reg::Gptc), b.get(Reg::Gptc)), (1, 0), "counters clear when read");
    assert_eq!((b.get(Reg::Totl), b.get(Reg::Toth), b.get(Reg::Totl)), (64, 0, 0));
}

#[test]
fn a_vlan_tag_goes_in_and_comes_out() {
    let mut b = Bench::new();
    b.set(Reg::Ctrl, 0x4000_0041);
    b.poke(TX_DATA, &to_us(64));
    b.queue(TX_DATA, 64 | 0x4b << 24, 0x0123 << 16);
    let sent = b.sent().remove(0);
    assert_eq!(sent[12..18], [0x81, 0, 1, 0x23, 0x12, 0x34]);
    b.receive(&sent);
    assert_eq!(b.peek(RX_DATA, 64), to_us(64));
    assert_eq!(b.board.read(RX_RING + 12, 4), 0x0123_000f);
    // With the filter on, only tags that are in the table pass.
    b.set(Reg::Rctl, 0x0404_8002);
    b.receive(&sent);
    assert_eq!(b.get(Reg::Rdh), 1);
    b.dev.write(REGISTERS, 0x5600 + (0x123 >> 5) * 4, 4, 1 << 3).unwrap();
    b.receive(&sent);
    assert_eq!(b.get(Reg::Rdh), 2);
}

#[test]
fn a_pulled_cable_is_seen_and_link_comes_back_after_negotiation() {
    let mut b = Bench::new();
    assert_ne!(b.get(Reg::Status) & regs::STATUS_LU, 0);
    b.cable.set_carrier(false);
    assert!(b.dev.host_io().unwrap().ready());
    b.dev.host_io().unwrap().deliver(VmTime(0));
    assert_eq!(b.get(Reg::Status) & regs::STATUS_LU, 0);
    assert_ne!(b.get(Reg::Icr) & cause::LSC, 0);
    b.cable.push([to_us(60)]);
    assert!(!b.cable.has_input() && !b.dev.host_io().unwrap().ready(), "nothing passes");
    // A reset does not put the cable back.
    b.dev.reset();
    assert_eq!(b.get(Reg::Status) & regs::STATUS_LU, 0);
    b.set(Reg::Ctrl, 0x8000_0040);
    assert_eq!(b.get(Reg::Status) & regs::STATUS_LU, 0, "nor does one of the PHY");
    let saved = b.dev.save();
    b.cable.set_carrier(true);
    b.dev.host_io().unwrap().deliver(VmTime(0));
    assert_eq!(b.get(Reg::Status) & regs::STATUS_LU, 0, "the sides negotiate first");
    b.clock.set(VmTime(phy::NEGOTIATION_NS));
    assert_ne!(b.get(Reg::Status) & regs::STATUS_LU, 0);
    assert_ne!(b.get(Reg::Icr) & cause::LSC, 0);
    b.dev.restore(&saved).unwrap();
    assert_eq!(b.get(Reg::Status) & regs::STATUS_LU, 0);
    assert!(b.dev.host_io().unwrap().ready());
}

#[test]
fn checksums_are_inserted_where_the_context_says() {
    let mut b = Bench::new();
    let mut f = tcp(100);
    let pseudo = frame::fold(frame::sum(&f[26..34]) + 6 + 120);
    frame::put16(&mut f, 50, pseudo);
    b.poke(TX_DATA, &f);
    b.queue(14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40, 0x20 << 24, 0);
    b.queue(TX_DATA, f.len() as u32 | 1 << 20 | 0x2b << 24, 0x0300);
    let sent = b.sent().remove(0);
    assert!(good(&sent));
}

#[test]
fn a_large_packet_goes_out_in_segments() {
    let mut b = Bench::new();
    let mut f = tcp(2500);
    // As a driver leaves it: no length in the pseudo header.
    let pseudo = frame::fold(frame::sum(&f[26..34]) + 6);
    frame::put16(&mut f, 50, pseudo);
    b.poke(TX_DATA, &f);
    let offsets = 14 | 24 << 8 | 33 << 16 | 34_u64 << 32 | 50 << 40;
    b.queue(offsets, 2500 | 0x27 << 24, 54 << 8 | 1000 << 16);
    b.queue(TX_DATA, 54 | 1 << 20 | 0x24 << 24, 0x0300);
    b.queue(TX_DATA + 54, 2500 | 1 << 20 | 0x2d << 24, 0x0300);
    let sent = b.sent();
    let lens: Vec<_> = sent.iter().map(Vec::len).collect();
    assert_eq!(lens, [1054, 1054, 554]);
    assert!(sent.iter().all(|f| good(f)));
    let seqs: Vec<_> = sent.iter().map(|f| f[40..42].to_vec()).collect();
    assert_eq!(seqs, [[1, 0], [4, 0xe8], [8, 0xd0]]);
    let flags: Vec<_> = sent.iter().map(|f| f[47]).collect();
    assert_eq!(flags, [0x10, 0x10, 0x19], "FIN and PSH at the end");
    assert_eq!(sent[2][18..20], [0, 11], "identification counts");
    assert_eq!(sent[1][54], (1000 % 256) as u8);
}

#[test]
fn a_frame_lands_in_buffers_with_its_checks() {
    let mut b = Bench::new();
    let mut f = tcp(400);
    frame::insert_checksum(&mut f, 14, 24, 33);
    let pseudo = frame::fold(frame::sum(&f[26..34]) + 6 + 420);
    frame::put16(&mut f, 50, pseudo);
    frame::insert_checksum(&mut f, 34, 50, 0);
    // 256-byte buffers, check sequence kept.
    b.set(Reg::Rctl, 0x0003_8002);
    b.receive(&f);
    assert_eq!(b.peek(RX_DATA, 256), f[..256]);
    assert_eq!(b.peek(RX_DATA + 0x1000, 198), f[256..]);
    let fcs = frame::crc32(&f).to_le_bytes();
    assert_eq!(b.peek(RX_DATA + 0x1000 + 198, 4), fcs);
    assert_eq!(b.board.read(RX_RING + 12, 2), 0x61);
    assert_eq!(b.board.read(RX_RING + 16 + 8, 2), 202);
    assert_eq!(b.board.read(RX_RING + 16 + 12, 2), 0x63);
    assert!(b.interrupts());
    f[60] ^= 1;
    b.receive(&f);
    assert_eq!(b.board.read(RX_RING + 48 + 12, 2), 0x2063, "TCP checksum error");
    assert_eq!((b.get(Reg::Gprc), b.get(Reg::Prc511)), (2, 2));
}

#[test]
fn filters_pass_what_they_should() {
    let mut b = Bench::new();
    let to = |mac: [u8; 6]| {
        let mut f = to_us(60);
        f[..6].copy_from_slice(&mac);
        f
    };
    let mut head = 0;
    let mut passes = |b: &mut Bench, mac| {
        b.receive(&to(mac));
        let now = b.get(Reg::Rdh);
        b.set(Reg::Rdt, (now + 7) % 8);
        std::mem::replace(&mut head, now) != now
    };
    let (other, group) = ([2, 0, 0, 0, 0, 9], [1, 0, 0x5e, 0, 0, 0xfb]);
    assert!(passes(&mut b, FIRST_MAC) && passes(&mut b, [0xff; 6]));
    assert!(!passes(&mut b, other) && !passes(&mut b, group));
    // Bits 47:36 of the address: 0xfb0.
    b.dev.write(REGISTERS, 0x5200 + (0xfb0 >> 5) * 4, 4, 1 << 16).unwrap();
    assert!(passes(&mut b, group));
    b.set(Reg::Rctl, 0x0400_0012);
    assert!(passes(&mut b, [3; 6]) && !passes(&mut b, other) && !passes(&mut b, [0xff; 6]));
    b.set(Reg::Rctl, 0x0400_000a);
    assert!(passes(&mut b, other));
    b.set(Reg::Rctl, 0x0400_8000);
    assert!(!passes(&mut b, FIRST_MAC), "switched off");
}

#[test]
fn frames_wait_for_buffers_and_then_come_in_order() {
    let mut b = Bench::new();
    b.set(Reg::Rdt, 1);
    for n in 0..3 {
        b.receive(&to_us(100 + n));
    }
    assert_eq!(b.get(Reg::Rdh), 1);
    assert_ne!(b.get(Reg::Icr) & 0x10, 0, "few buffers left");
    b.set(Reg::Rdt, 7);
    assert_eq!(b.get(Reg::Rdh), 3);
    assert_eq!(b.board.read(RX_RING + 32 + 8, 2), 102);
    assert!(b.interrupts());
}

#[test]
fn interrupts_are_throttled_and_delayed() {
    let mut b = Bench::new();
    b.set(Reg::Itr, 1000);
    b.set(Reg::Ics, 4);
    assert!(b.interrupts());
    b.get(Reg::Icr);
    b.set(Reg::Ics, 4);
    assert!(!b.interrupts(), "too soon");
    b.run(256_000);
    assert!(b.interrupts());
    b.get(Reg::Icr);
    b.set(Reg::Itr, 0);
    b.run(256_000);
    b.set(Reg::Rdtr, 100);
    b.set(Reg::Radv, 150);
    for _ in 0..2 {
        b.receive(&to_us(60));
        assert!(!b.interrupts());
        b.run(90_000);
    }
    // The second frame put the first off, but not past the absolute limit.
    assert!(b.interrupts());
    assert_ne!(b.get(Reg::Icr) & 0x80, 0);
}

#[test]
fn a_reset_brings_back_the_registers_but_not_the_link() {
    let mut b = Bench::new();
    b.dev.write(REGISTERS, 0x5400, 4, 0).unwrap();
    b.link_interrupts(1, 4, 0x0101);
    b.set(Reg::Ctrl, 0x0400_0041);
    assert_eq!((b.get(Reg::Rctl), b.get(Reg::Ims), b.get(Reg::Tdlen)), (0, 0, 0));
    assert_eq!(b.dev.read(REGISTERS, 0x5400, 4), Ok(0x1200_5452));
    assert_eq!(b.link_interrupts(2, 4, 0), 0x0101);
}

#[test]
fn a_ring_that_never_ends_does_not_hang() {
    let mut b = Bench::new();
    // Every descriptor a megabyte of nothing in particular, and the tail far away.
    b.set(Reg::Tdlen, 0xf_ff80);
    b.set(Reg::Tdbal, 0);
    for at in (0..0x4_0000).step_by(16) {
        b.board.write(at + 8, 4, 0x201f_ffff);
    }
    b.set(Reg::Tdt, 0xfff0);
    assert!(b.get(Reg::Tdh) < 4);
    b.run(100_000);
    assert!(b.get(Reg::Tdh) > 4, "it goes on");
    let saved = b.dev.save();
    let mut other = Bench::new();
    other.dev.restore(&saved).unwrap();
    assert_eq!(other.dev.save(), saved);
}

/// Random descriptors in random rings: nothing panics.
#[test]
fn random_rings_are_safe() {
    let mut rng = orrery_system::fuzz::Rng::new(7);
    for _ in 0..30 {
        let mut b = Bench::new();
        for at in (0..0x4000).step_by(8) {
            let mut v = rng.next_u64();
            if rng.below(2) == 0 {
                v &= 0x3_ffff;
            }
            b.board.write(at, 8, v);
        }
        for _ in 0..300 {
            let regs = [Reg::Tdt, Reg::Rdt, Reg::Tdh, Reg::Rdh, Reg::Ctrl, Reg::Rctl, Reg::Tctl];
            let reg = regs[rng.below(7) as usize];
            let v = match reg {
                Reg::Ctrl | Reg::Rctl | Reg::Tctl => rng.next_u64() as u32 & 0xfbff_ffff | 2,
                _ => rng.below(8) as u32,
            };
            b.set(reg, v);
            let len = rng.below(2000) as usize;
            b.cable.push([to_us(len)]);
            let io = b.dev.host_io().unwrap();
            if io.ready() {
                io.deliver(VmTime(0));
            }
            b.sent();
            b.run(rng.below(100_000));
        }
        let saved = b.dev.save();
        let mut other = Bench::new();
        other.dev.restore(&saved).unwrap();
        assert_eq!(other.dev.save(), saved);
    }
}

mod suite {
    use super::*;

    orrery_system::conformance!(
        Bench::bare().dev,
        [(REGISTERS, Reg::TABLE), (PORTS, &[]), (pci::CONFIG_BANK, &[])]
    );
}
