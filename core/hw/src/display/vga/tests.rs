//! The adapter as a driver sees it.

use super::*;
use orrery_system::VmTime;

struct Bench {
    dev: Vga,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        let ram = Arc::new(Ram::new(1 << 20));
        let vram = ram.alloc("vga.vram", 1 << 20).unwrap();
        let clock = Clock::default();
        let wires = Wires { ram, vram, clock: clock.clone(), linear_window: None };
        Self { dev: Vga::new(Config::default(), wires), clock }
    }

    fn out(&mut self, port: u64, v: u8) {
        let _ = self.dev.write(PORTS, port - 0x3b0, 1, v.into());
    }

    fn inp(&mut self, port: u64) -> u8 {
        self.dev.read(PORTS, port - 0x3b0, 1).map_or(0xff, |v| v as u8)
    }

    fn indexed(&mut self, port: u64, index: u8, v: u8) {
        self.out(port, index);
        self.out(port + 1, v);
    }

    fn attr(&mut self, index: u8, v: u8) {
        self.inp(0x3da);
        self.out(0x3c0, index);
        self.out(0x3c0, v);
    }

    fn vbe(&mut self, index: u16, v: u16) {
        self.dev.write(VBE_PORTS, 0, 2, index.into()).unwrap();
        self.dev.write(VBE_PORTS, 1, 2, v.into()).unwrap();
    }

    fn poke(&mut self, at: u64, v: u8) {
        self.dev.write(WINDOW, at - 0xa_0000, 1, v.into()).unwrap();
    }

    fn peek(&mut self, at: u64) -> u8 {
        self.dev.read(WINDOW, at - 0xa_0000, 1).unwrap() as u8
    }

    /// A mode's registers as its BIOS table lists them.
    fn mode(&mut self, misc: u8, seq: [u8; 5], crtc: [u8; 25], gc: [u8; 9], attr: [u8; 20]) {
        self.out(0x3c2, misc);
        (0..5).for_each(|i| self.indexed(0x3c4, i, seq[usize::from(i)]));
        self.indexed(0x3d4, 0x11, 0);
        (0..25).for_each(|i| self.indexed(0x3d4, i, crtc[usize::from(i)]));
        (0..9).for_each(|i| self.indexed(0x3ce, i, gc[usize::from(i)]));
        (0..20).for_each(|i| self.attr(i, attr[usize::from(i)]));
        self.inp(0x3da);
        self.out(0x3c0, 0x20);
    }

    /// Mode 3: 80 by 25 characters of 9 by 16 dots.
    fn text_mode(&mut self) {
        let crtc = [
            0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c,
            0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
        ];
        let attr = [
            0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0,
            0x0f, 8,
        ];
        self.mode(0x67, [3, 0, 3, 0, 2], crtc, [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff], attr);
    }

    /// Mode 13h: 320 by 200, 256 colours.
    fn mode_13h(&mut self) {
        let crtc = [
            0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e,
            0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
        ];
        let attr = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0];
        self.mode(0x63, [3, 1, 0x0f, 0, 0x0e], crtc, [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff], attr);
    }

    /// Mode 12h: 640 by 480, 16 colours in planes.
    fn mode_12h(&mut self) {
        let crtc = [
            0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c,
            0xdf, 0x28, 0, 0xe7, 0x04, 0xe3, 0xff,
        ];
        let attr = [
            0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 1, 0, 0x0f,
            0,
        ];
        self.mode(0xe3, [3, 1, 0x0f, 0, 6], crtc, [0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff], attr);
    }

    fn dac(&mut self, index: u8, rgb: [u8; 3]) {
        self.out(0x3c8, index);
        rgb.into_iter().for_each(|v| self.out(0x3c9, v));
    }

    fn picture(&mut self) -> Surface {
        let mut s = Surface::default();
        self.dev.render(&mut s, true);
        s
    }
}

#[test]
fn text_is_drawn_with_the_font_in_plane_2() {
    let mut b = Bench::new();
    b.text_mode();
    b.dac(7, [42, 42, 42]);
    // The font is written as a BIOS does: planar, plane 2 only.
    b.indexed(0x3c4, 2, 4);
    b.indexed(0x3c4, 4, 6);
    b.indexed(0x3ce, 5, 0);
    b.indexed(0x3ce, 6, 4);
    b.poke(0xa_0000 + 0x41 * 32, 0x80);
    b.text_mode();
    b.poke(0xb_8000 + 2, 0x41);
    b.poke(0xb_8000 + 3, 0x07);
    let s = b.picture();
    assert_eq!((s.width, s.height), (720, 400));
    assert_eq!(s.pixels[9], 0xaaaaaa);
    assert_eq!(s.pixels[10], 0);
    assert_eq!(b.dev.text().unwrap()[0], " A");
}

#[test]
fn mode_13h_bytes_are_pixels() {
    let mut b = Bench::new();
    b.mode_13h();
    b.dac(200, [63, 0, 0]);
    b.poke(0xa_0000 + 320 * 199 + 319, 200);
    let s = b.picture();
    assert_eq!((s.width, s.height), (320, 200));
    assert_eq!(s.pixels[320 * 200 - 1], 0xff0000);
    assert_eq!(b.peek(0xa_0000 + 320 * 199 + 319), 200);
}

#[test]
fn planar_writes_go_through_mask_and_latches() {
    let mut b = Bench::new();
    b.mode_12h();
    (0..=63).for_each(|i| b.dac(i, [i, i, i]));
    // Write mode 2, colour 5 into bit 0 of the byte at line 1.
    b.indexed(0x3ce, 5, 2);
    b.indexed(0x3ce, 8, 0x01);
    b.peek(0xa_0000 + 80);
    b.poke(0xa_0000 + 80, 5);
    let s = b.picture();
    assert_eq!((s.width, s.height), (640, 480));
    assert_eq!(s.pixels[640 + 7], 0x141414);
    assert_eq!(s.pixels[640 + 6], 0);
    // Read mode 1 finds the pixel by its colour.
    b.indexed(0x3ce, 5, 8);
    b.indexed(0x3ce, 2, 5);
    assert_eq!(b.peek(0xa_0000 + 80), 0x01);
}

#[test]
fn a_bochs_mode_shows_linear_memory() {
    let mut b = Bench::new();
    b.vbe(4, 0);
    b.vbe(1, 320);
    b.vbe(2, 200);
    b.vbe(3, 32);
    b.vbe(4, 0x41);
    let at = b.dev.wires.vram.offset + 320 * 4;
    b.dev.wires.ram.write_u32(at, 0x0012_3456);
    let s = b.picture();
    assert_eq!((s.width, s.height), (320, 200));
    assert_eq!(s.pixels[320], 0x123456);
}

#[test]
fn a_bochs_mode_larger_than_memory_is_cut() {
    let mut b = Bench::new();
    b.vbe(1, 16000);
    b.vbe(2, 12000);
    b.vbe(3, 32);
    b.vbe(4, 1);
    let (w, h) = b.dev.state.size();
    assert!(u64::from(w) * u64::from(h) * 4 <= 1 << 20);
    b.picture();
}

#[test]
fn getcaps_reads_the_largest_mode() {
    let mut b = Bench::new();
    b.vbe(4, 2);
    b.dev.write(VBE_PORTS, 0, 2, 3).unwrap();
    assert_eq!(b.dev.read(VBE_PORTS, 1, 2), Ok(32));
}

#[test]
fn retrace_comes_and_goes_with_time() {
    let mut b = Bench::new();
    b.text_mode();
    let mut seen = [false; 2];
    for us in 0..20_000 {
        b.clock.advance_to(VmTime(us * 1000));
        seen[usize::from(b.inp(0x3da) >> 3 & 1)] = true;
    }
    assert_eq!(seen, [true, true]);
}

#[test]
fn protected_crtc_registers_keep_their_value() {
    let mut b = Bench::new();
    b.text_mode();
    b.indexed(0x3d4, 0, 0x12);
    b.out(0x3d4, 0);
    assert_eq!(b.inp(0x3d5), 0x5f, "CRTC 11 bit 7 protects");
}

#[test]
fn every_register_combination_draws() {
    let mut rng = orrery_system::fuzz::Rng::new(1);
    for _ in 0..300 {
        let mut b = Bench::new();
        for _ in 0..200 {
            let r = rng.next_u64();
            match r % 4 {
                0 => b.out(0x3b0 + rng.below(0x30), (r >> 8) as u8),
                1 => b.vbe((r >> 8) as u16 % 12, (r >> 32) as u16),
                2 => b.poke(0xa_0000 + (r >> 8) % 0x2_0000, (r >> 32) as u8),
                _ => b.attr((r >> 8) as u8, (r >> 16) as u8),
            }
        }
        b.picture();
    }
}

orrery_system::conformance!(
    Bench::new().dev,
    [(PORTS, Port::TABLE), (WINDOW, &[]), (VBE_PORTS, &[]), (MMIO, &[])]
);
