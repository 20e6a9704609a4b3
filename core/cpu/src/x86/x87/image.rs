//! The memory images of the x87 state: FSTENV, FSAVE (SDM vol. 1, figures 8-9 to 8-12) and the
//! legacy region of FXSAVE (SDM vol. 1, table 10-2).

use super::{F80, X87};

/// Which of the four FSTENV layouts is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 16-bit operands, real or virtual-8086 mode.
    Real16,
    /// 16-bit operands, protected mode.
    Protected16,
    /// 32-bit operands, real or virtual-8086 mode.
    Real32,
    /// 32-bit operands, protected mode.
    Protected32,
}

impl Layout {
    /// Bytes of the environment: 14 or 28.
    #[must_use]
    pub const fn environment_len(self) -> usize {
        match self {
            Self::Real16 | Self::Protected16 => 14,
            Self::Real32 | Self::Protected32 => 28,
        }
    }

    /// Bytes of the FSAVE image: 94 or 108.
    #[must_use]
    pub const fn save_len(self) -> usize {
        self.environment_len() + 80
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) | u32::from(get16(bytes, at + 2)) << 16
}

fn put(bytes: &mut [u8], at: usize, value: u64, len: usize) {
    bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

impl X87 {
    /// The full tag word: 00 valid, 01 zero, 10 special, 11 empty, by physical register.
    #[must_use]
    pub fn tag_word(&self) -> u16 {
        let mut word = 0;
        for (i, reg) in self.regs.iter().enumerate() {
            let tag = if self.valid >> i & 1 == 0 {
                3
            } else if reg.head & 0x7FFF == 0 && reg.sig == 0 {
                1
            } else if matches!(reg.head & 0x7FFF, 0 | 0x7FFF) || reg.sig >> 63 == 0 {
                2
            } else {
                0
            };
            word |= tag << (2 * i);
        }
        word
    }

    /// Loads a full tag word; only "empty" matters.
    pub fn set_tag_word(&mut self, word: u16) {
        self.valid = 0;
        for i in 0..8 {
            if word >> (2 * i) & 3 != 3 {
                self.valid |= 1 << i;
            }
        }
    }

    /// FNSTENV: writes `layout.environment_len()` bytes of `out`, then masks all exceptions.
    pub fn store_environment(&mut self, layout: Layout, out: &mut [u8]) {
        self.put_environment(layout, out);
        self.set_control_word(self.control | 0x3F);
    }

    /// The environment image, the state unchanged (for a caller that must first know whether the
    /// store faults). `out` has at least `layout.environment_len()` bytes.
    pub fn put_environment(&self, layout: Layout, out: &mut [u8]) {
        let words = [self.control, self.status_word(), self.tag_word()];
        let wide = layout.environment_len() == 28;
        let step = if wide { 4 } else { 2 };
        for (i, word) in words.into_iter().enumerate() {
            let high = if wide { 0xFFFF_0000 } else { 0 };
            put(out, i * step, high | u64::from(word), step);
        }
        // In real mode the images hold linear addresses.
        let linear = |segment: u16, offset: u64| (u64::from(segment) << 4).wrapping_add(offset);
        let (ip, dp) = (linear(self.fcs, self.fip), linear(self.fds, self.fdp));
        let fop = u64::from(self.fop & 0x7FF);
        match layout {
            Layout::Protected16 => {
                put(out, 6, self.fip, 2);
                put(out, 8, u64::from(self.fcs), 2);
                put(out, 10, self.fdp, 2);
                put(out, 12, u64::from(self.fds), 2);
            }
            Layout::Real16 => {
                put(out, 6, ip, 2);
                put(out, 8, ip >> 4 & 0xF000 | fop, 2);
                put(out, 10, dp, 2);
                put(out, 12, dp >> 4 & 0xF000, 2);
            }
            Layout::Protected32 => {
                put(out, 12, self.fip, 4);
                put(out, 16, fop << 16 | u64::from(self.fcs), 4);
                put(out, 20, self.fdp, 4);
                put(out, 24, 0xFFFF_0000 | u64::from(self.fds), 4);
            }
            Layout::Real32 => {
                put(out, 12, 0xFFFF_0000 | ip & 0xFFFF, 4);
                put(out, 16, (ip >> 4 & 0x0FFF_F000) | fop, 4);
                put(out, 20, 0xFFFF_0000 | dp & 0xFFFF, 4);
                put(out, 24, dp >> 4 & 0x0FFF_F000, 4);
            }
        }
    }

    /// FLDENV from at least `layout.environment_len()` bytes.
    pub fn load_environment(&mut self, layout: Layout, image: &[u8]) {
        let step = if layout.environment_len() == 28 { 4 } else { 2 };
        self.control = get16(image, 0) & 0x1F3F | 0x40;
        self.set_status_word(get16(image, step));
        self.set_tag_word(get16(image, 2 * step));
        let half = |at| u64::from(get16(image, at));
        match layout {
            Layout::Protected16 => {
                (self.fip, self.fcs) = (half(6), get16(image, 8));
                (self.fdp, self.fds) = (half(10), get16(image, 12));
                self.fop = 0;
            }
            Layout::Real16 => {
                self.fip = half(6) | (half(8) & 0xF000) << 4;
                self.fdp = half(10) | (half(12) & 0xF000) << 4;
                self.fop = get16(image, 8) & 0x7FF;
                (self.fcs, self.fds) = (0, 0);
            }
            Layout::Protected32 => {
                self.fip = u64::from(get32(image, 12));
                self.fcs = get16(image, 16);
                self.fop = get16(image, 18) & 0x7FF;
                self.fdp = u64::from(get32(image, 20));
                self.fds = get16(image, 24);
            }
            Layout::Real32 => {
                self.fip = half(12) | u64::from(get32(image, 16) & 0x0FFF_F000) << 4;
                self.fop = get16(image, 16) & 0x7FF;
                self.fdp = half(20) | u64::from(get32(image, 24) & 0x0FFF_F000) << 4;
                (self.fcs, self.fds) = (0, 0);
            }
        }
    }

    /// FNSAVE: writes `layout.save_len()` bytes of `out`, then initialises.
    pub fn save(&mut self, layout: Layout, out: &mut [u8]) {
        self.put_save(layout, out);
        self.init();
    }

    /// The FNSAVE image, the state unchanged. `out` has at least `layout.save_len()` bytes.
    pub fn put_save(&self, layout: Layout, out: &mut [u8]) {
        self.put_environment(layout, out);
        let base = layout.environment_len();
        for i in 0..8u8 {
            let at = base + 10 * usize::from(i);
            out[at..at + 10].copy_from_slice(&self.st(i).bits().to_le_bytes()[..10]);
        }
    }

    /// FRSTOR from at least `layout.save_len()` bytes.
    pub fn restore(&mut self, layout: Layout, image: &[u8]) {
        self.load_environment(layout, image);
        let base = layout.environment_len();
        for i in 0..8u8 {
            let at = base + 10 * usize::from(i);
            let r = self.phys(i);
            self.regs[r] = F80 {
                head: get16(image, at + 8),
                sig: u64::from(get32(image, at)) | u64::from(get32(image, at + 4)) << 32,
            };
        }
    }

    /// The x87 part of FXSAVE: bytes 0-23 and 32-159 of `out`; `wide` is the 64-bit form
    /// (REX.W), which has FIP and FDP in full and no segments. MXCSR (24-31) is the caller's.
    pub fn put_fxsave(&self, wide: bool, out: &mut [u8]) {
        put(out, 0, u64::from(self.control), 2);
        put(out, 2, u64::from(self.status_word()), 2);
        put(out, 4, u64::from(self.valid), 2);
        put(out, 6, u64::from(self.fop & 0x7FF), 2);
        if wide {
            put(out, 8, self.fip, 8);
            put(out, 16, self.fdp, 8);
        } else {
            put(out, 8, self.fip & 0xFFFF_FFFF | u64::from(self.fcs) << 32, 8);
            put(out, 16, self.fdp & 0xFFFF_FFFF | u64::from(self.fds) << 32, 8);
        }
        for i in 0..8u8 {
            let at = 32 + 16 * usize::from(i);
            out[at..at + 16].copy_from_slice(&self.st(i).bits().to_le_bytes());
        }
    }

    /// The x87 part of FXRSTOR, from at least 160 bytes.
    pub fn load_fxsave(&mut self, wide: bool, image: &[u8]) {
        let long = |at| u64::from(get32(image, at)) | u64::from(get32(image, at + 4)) << 32;
        self.control = get16(image, 0) & 0x1F3F | 0x40;
        self.set_status_word(get16(image, 2));
        self.valid = image[4];
        self.fop = get16(image, 6) & 0x7FF;
        if wide {
            (self.fip, self.fdp) = (long(8), long(16));
            (self.fcs, self.fds) = (0, 0);
        } else {
            (self.fip, self.fcs) = (u64::from(get32(image, 8)), get16(image, 12));
            (self.fdp, self.fds) = (u64::from(get32(image, 16)), get16(image, 20));
        }
        for i in 0..8u8 {
            let at = 32 + 16 * usize::from(i);
            let r = self.phys(i);
            self.regs[r] = F80 { head: get16(image, at + 8), sig: long(at) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> X87 {
        let mut fpu = X87::new();
        fpu.init();
        fpu.set_status_word(0x3900);
        fpu.valid = 0x80;
        fpu.regs[7] = F80::ONE;
        fpu.note(0x1C2, 0x1234, 0x5678, Some((0x9ABC, 0xDEF0)));
        fpu
    }

    #[test]
    fn the_real_mode_images_hold_linear_addresses() {
        let mut image = [0; 28];
        sample().put_environment(Layout::Real16, &mut image);
        assert_eq!(get16(&image, 0), 0x037F);
        assert_eq!(get16(&image, 2), 0x3900);
        assert_eq!(get16(&image, 4), 0x3FFF);
        // 0x1234:0x5678 is 0x179B8, 0x9ABC:0xDEF0 is 0xA8AB0.
        assert_eq!(get16(&image, 6), 0x79B8);
        assert_eq!(get16(&image, 8), 0x11C2);
        assert_eq!(get16(&image, 10), 0x8AB0);
        assert_eq!(get16(&image, 12), 0xA000);
        sample().put_environment(Layout::Real32, &mut image);
        assert_eq!(get32(&image, 12), 0xFFFF_79B8);
        assert_eq!(get32(&image, 16), 0x0000_11C2);
        assert_eq!(get32(&image, 20), 0xFFFF_8AB0);
        assert_eq!(get32(&image, 24), 0x0000_A000);
    }

    #[test]
    fn the_protected_mode_images_hold_selectors() {
        let mut image = [0; 28];
        sample().put_environment(Layout::Protected16, &mut image);
        assert_eq!(image[6..14], [0x78, 0x56, 0x34, 0x12, 0xF0, 0xDE, 0xBC, 0x9A]);
        sample().put_environment(Layout::Protected32, &mut image);
        assert_eq!(get32(&image, 12), 0x5678);
        assert_eq!(get32(&image, 16), 0x01C2_1234);
        assert_eq!(get32(&image, 20), 0xDEF0);
        assert_eq!(get32(&image, 24), 0xFFFF_9ABC);
    }

    #[test]
    fn saving_and_restoring_is_the_identity_in_the_protected_layouts() {
        let fpu = sample();
        for layout in [Layout::Protected16, Layout::Protected32] {
            let mut image = [0; 108];
            fpu.put_save(layout, &mut image);
            let mut back = X87::new();
            back.restore(layout, &image);
            if layout == Layout::Protected16 {
                // That image has no room for the opcode.
                back.fop = fpu.fop;
            }
            assert_eq!(back.st(0), fpu.st(0));
            assert_eq!(back, fpu);
        }
    }

    #[test]
    fn fxsave_round_trips_in_both_forms() {
        let mut fpu = sample();
        let mut image = [0; 512];
        fpu.put_fxsave(false, &mut image);
        let mut back = X87::new();
        back.load_fxsave(false, &image);
        assert_eq!(back, fpu);
        (fpu.fcs, fpu.fds, fpu.fip) = (0, 0, 0x1234_5678_9ABC);
        fpu.put_fxsave(true, &mut image);
        back.load_fxsave(true, &image);
        assert_eq!(back, fpu);
    }

    #[test]
    fn tags_tell_zero_and_special_values() {
        let mut fpu = X87::new();
        fpu.regs[1] = F80::ONE;
        fpu.regs[2] = F80::INDEFINITE;
        fpu.regs[3] = F80 { head: 0, sig: 1 };
        fpu.valid = 0x0F;
        assert_eq!(fpu.tag_word(), 0b11_11_11_11_10_10_00_01);
    }
}
