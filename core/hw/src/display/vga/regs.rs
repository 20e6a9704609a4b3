//! The VGA's registers: ports 3C0–3DF (and 3B0–3BB), and the Bochs display interface.

use super::State;
use bitfield_struct::bitfield;
use orrery_system::{BusError, BusResult};

orrery_system::reg_map! {
    /// Ports from 3B0, as the bank of the whole range 3B0–3DF. The monochrome alias of the CRTC
    /// (3B4, 3B5, 3BA) is folded onto the colour one before decoding.
    pub enum Port {
        /// Attribute controller index, and data in turn.
        0x10 AttrAddress: 1 Rw,
        /// Attribute controller data, for reading.
        0x11 AttrData: 1 Rw,
        /// Input status 0 (read), miscellaneous output (write).
        0x12 MiscWrite: 1 Rw,
        /// Video subsystem enable.
        0x13 Enable: 1 Rw,
        /// Sequencer index.
        0x14 SeqIndex: 1 Rw,
        /// Sequencer data.
        0x15 SeqData: 1 Rw,
        /// DAC pixel mask.
        0x16 DacMask: 1 Rw,
        /// DAC state (read), DAC read index (write).
        0x17 DacReadIndex: 1 Rw,
        /// DAC write index.
        0x18 DacWriteIndex: 1 Rw,
        /// DAC data: red, green, blue in turn.
        0x19 DacData: 1 Rw,
        /// Feature control, for reading.
        0x1a FeatureRead: 1 Rw,
        /// Miscellaneous output, for reading.
        0x1c MiscRead: 1 Rw,
        /// Graphics controller index.
        0x1e GcIndex: 1 Rw,
        /// Graphics controller data.
        0x1f GcData: 1 Rw,
        /// CRT controller index.
        0x24 CrtcIndex: 1 Rw,
        /// CRT controller data.
        0x25 CrtcData: 1 Rw,
        /// Input status 1 (read), feature control (write).
        0x2a Status1: 1 Rw,
    }
}

/// Miscellaneous output register.
#[bitfield(u8)]
#[derive(PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Misc {
    /// CRTC at 3Dx (colour) instead of 3Bx.
    pub colour: bool,
    /// The CPU may access display memory.
    pub ram_enable: bool,
    /// Clock: 0 is 25.175 MHz, 1 is 28.322 MHz.
    #[bits(2)]
    pub clock: u8,
    /// Not used.
    reserved: bool,
    /// Odd/even page.
    pub page: bool,
    /// Horizontal sync polarity.
    pub hsync_negative: bool,
    /// Vertical sync polarity.
    pub vsync_negative: bool,
}

/// Bochs display interface registers, by index.
pub(super) mod vbe {
    /// Version: B0C0 to B0C5.
    pub(crate) const ID: usize = 0;
    /// Width in pixels.
    pub(crate) const XRES: usize = 1;
    /// Height in lines.
    pub(crate) const YRES: usize = 2;
    /// Bits per pixel.
    pub(crate) const BPP: usize = 3;
    /// Enable and its options.
    pub(crate) const ENABLE: usize = 4;
    /// 64 KiB bank at A0000.
    pub(crate) const BANK: usize = 5;
    /// Width of the virtual screen in pixels.
    pub(crate) const VIRT_WIDTH: usize = 6;
    /// Height of the virtual screen in lines; follows from the memory there is.
    pub(crate) const VIRT_HEIGHT: usize = 7;
    /// First visible column.
    pub(crate) const X_OFFSET: usize = 8;
    /// First visible line.
    pub(crate) const Y_OFFSET: usize = 9;
    /// Display memory in 64 KiB.
    pub(crate) const MEMORY_64K: usize = 10;
    /// Number of registers.
    pub(crate) const COUNT: usize = 11;

    /// `ENABLE`: the interface drives the screen.
    pub(crate) const ENABLED: u16 = 0x01;
    /// `ENABLE`: the size registers read the largest values.
    pub(crate) const GETCAPS: u16 = 0x02;
    /// `ENABLE`: the DAC takes 8 bits a colour.
    pub(crate) const DAC_8BIT: u16 = 0x20;
    /// `ENABLE`: keep memory as it is when enabling.
    pub(crate) const NO_CLEAR: u16 = 0x80;

    /// Largest width.
    pub(crate) const MAX_XRES: u16 = 16000;
    /// Largest height.
    pub(crate) const MAX_YRES: u16 = 12000;
    /// The newest version this model speaks.
    pub(crate) const VERSION: u16 = 0xb0c5;
}

/// What a register write asks of the device besides the new register value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// Clear display memory: the Bochs interface was enabled.
    Clear,
}

impl State {
    /// Reads a port. `status1` is what input status 1 shows now; `sense` is input status 0.
    pub(super) fn read_port(&mut self, port: Port, status1: u8) -> u8 {
        match port {
            Port::AttrAddress if self.attr_is_data => 0,
            Port::AttrAddress => self.attr_index,
            Port::AttrData => {
                self.attr.get(usize::from(self.attr_index & 0x1f)).copied().unwrap_or(0)
            }
            // Switch sense: a colour monitor is there.
            Port::MiscWrite => 0x10,
            Port::Enable => self.enable,
            Port::SeqIndex => self.seq_index,
            Port::SeqData => self.seq.get(usize::from(self.seq_index)).copied().unwrap_or(0),
            Port::DacMask => self.dac_mask,
            Port::DacReadIndex => self.dac_state,
            Port::DacWriteIndex => self.dac_write_index,
            Port::DacData => self.read_dac(),
            Port::FeatureRead => self.feature,
            Port::MiscRead => self.misc.into(),
            Port::GcIndex => self.gc_index,
            Port::GcData => self.gc.get(usize::from(self.gc_index)).copied().unwrap_or(0),
            Port::CrtcIndex => self.crtc_index,
            Port::CrtcData => self.crtc.get(usize::from(self.crtc_index)).copied().unwrap_or(0),
            Port::Status1 => {
                self.attr_is_data = false;
                status1
            }
        }
    }

    pub(super) fn write_port(&mut self, port: Port, v: u8) {
        match port {
            Port::AttrAddress => self.write_attr(v),
            Port::MiscWrite => self.misc = v.into(),
            Port::Enable => self.enable = v,
            Port::SeqIndex => self.seq_index = v & 7,
            Port::SeqData => {
                const MASK: [u8; 8] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff];
                let i = usize::from(self.seq_index);
                self.seq[i] = v & MASK[i];
            }
            Port::DacMask => self.dac_mask = v,
            Port::DacReadIndex => {
                (self.dac_read_index, self.dac_step, self.dac_state) = (v, 0, 3);
            }
            Port::DacWriteIndex => {
                (self.dac_write_index, self.dac_step, self.dac_state) = (v, 0, 0);
            }
            Port::DacData => self.write_dac(v),
            Port::GcIndex => self.gc_index = v & 0x0f,
            Port::GcData => {
                const MASK: [u8; 16] =
                    [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0];
                let i = usize::from(self.gc_index);
                self.gc[i] = v & MASK[i];
            }
            Port::CrtcIndex => self.crtc_index = v,
            Port::CrtcData => self.write_crtc(v),
            Port::Status1 => self.feature = v & 0x10,
            Port::AttrData | Port::FeatureRead | Port::MiscRead => {}
        }
    }

    fn write_attr(&mut self, v: u8) {
        if !self.attr_is_data {
            self.attr_index = v & 0x3f;
        } else {
            let i = usize::from(self.attr_index & 0x1f);
            const MASK: [u8; 5] = [0xef, 0xff, 0x3f, 0x0f, 0x0f];
            match i {
                0..16 => self.attr[i] = v & 0x3f,
                16..21 => self.attr[i] = v & MASK[i - 16],
                _ => {}
            }
        }
        self.attr_is_data = !self.attr_is_data;
    }

    fn write_crtc(&mut self, v: u8) {
        let i = usize::from(self.crtc_index);
        if i >= self.crtc.len() {
            return;
        }
        // CRTC 11 bit 7 protects registers 0 to 7, but for line compare's bit in 7.
        if i < 8 && self.crtc[0x11] & 0x80 != 0 {
            if i == 7 {
                self.crtc[7] = self.crtc[7] & !0x10 | v & 0x10;
            }
            return;
        }
        self.crtc[i] = v;
    }

    fn dac_shift(&self) -> u32 {
        if self.vbe[vbe::ENABLE] & vbe::DAC_8BIT != 0 { 0 } else { 2 }
    }

    fn read_dac(&mut self) -> u8 {
        let entry = self.palette[usize::from(self.dac_read_index)];
        let v = entry[usize::from(self.dac_step)] >> self.dac_shift();
        self.dac_step += 1;
        if self.dac_step == 3 {
            self.dac_step = 0;
            self.dac_read_index = self.dac_read_index.wrapping_add(1);
        }
        v
    }

    fn write_dac(&mut self, v: u8) {
        self.dac_latch[usize::from(self.dac_step)] = v;
        self.dac_step += 1;
        if self.dac_step == 3 {
            self.dac_step = 0;
            let widen = |v: u8| match self.dac_shift() {
                0 => v,
                // 6 bits to 8: the top bits repeat, so that full scale stays full scale.
                _ => (v & 0x3f) << 2 | (v & 0x3f) >> 4,
            };
            self.palette[usize::from(self.dac_write_index)] = self.dac_latch.map(widen);
            self.dac_write_index = self.dac_write_index.wrapping_add(1);
        }
    }

    // The Bochs display interface.

    /// Whether the Bochs interface drives the screen.
    pub(super) fn vbe_on(&self) -> bool {
        self.vbe[vbe::ENABLE] & vbe::ENABLED != 0
    }

    /// Whether display memory is linear bytes: Bochs modes deeper than 4 bits.
    pub(super) fn linear(&self) -> bool {
        self.vbe_on() && self.vbe[vbe::BPP] > 4
    }

    /// Bytes from one line to the next in Bochs modes.
    pub(super) fn vbe_pitch(&self) -> u32 {
        let width = u32::from(self.vbe[vbe::VIRT_WIDTH]);
        match self.vbe[vbe::BPP] {
            4 => width / 8,
            15 => width * 2,
            bpp => width * (u32::from(bpp) / 8),
        }
    }

    pub(super) fn read_vbe(&self, index: u16) -> u16 {
        let i = usize::from(index);
        let caps = self.vbe[vbe::ENABLE] & vbe::GETCAPS != 0;
        match i {
            vbe::XRES if caps => vbe::MAX_XRES,
            vbe::YRES if caps => vbe::MAX_YRES,
            vbe::BPP if caps => 32,
            vbe::VIRT_HEIGHT => {
                let lines = self.vram_len / u64::from(self.vbe_pitch().max(1));
                u16::try_from(lines).unwrap_or(u16::MAX)
            }
            vbe::MEMORY_64K => (self.vram_len >> 16) as u16,
            _ => self.vbe.get(i).copied().unwrap_or(0),
        }
    }

    pub(super) fn write_vbe(&mut self, index: u16, v: u16) -> Effect {
        match usize::from(index) {
            // A version this model speaks is taken; others leave the register alone.
            vbe::ID => {
                if (0xb0c0..=vbe::VERSION).contains(&v) {
                    self.vbe[vbe::ID] = v;
                }
            }
            i @ (vbe::XRES | vbe::YRES | vbe::BPP | vbe::VIRT_WIDTH) => {
                if i == vbe::VIRT_WIDTH || !self.vbe_on() {
                    self.vbe[i] = v;
                    self.fix_vbe();
                }
            }
            i @ (vbe::X_OFFSET | vbe::Y_OFFSET) => {
                self.vbe[i] = v;
                self.fix_vbe();
            }
            vbe::BANK => {
                let banks = (self.vram_len >> 16).max(1) as u16;
                self.vbe[vbe::BANK] = v % banks;
            }
            vbe::ENABLE => {
                let was = self.vbe_on();
                self.vbe[vbe::ENABLE] = v;
                if v & vbe::ENABLED != 0 && !was {
                    self.vbe[vbe::VIRT_WIDTH] = 0;
                    self.vbe[vbe::X_OFFSET] = 0;
                    self.vbe[vbe::Y_OFFSET] = 0;
                    self.fix_vbe();
                    if v & vbe::NO_CLEAR == 0 {
                        return Effect::Clear;
                    }
                } else if v & vbe::ENABLED == 0 {
                    self.vbe[vbe::BANK] = 0;
                }
            }
            _ => {}
        }
        Effect::None
    }

    /// Brings the mode registers into the range that fits display memory.
    fn fix_vbe(&mut self) {
        let r = &mut self.vbe;
        r[vbe::BPP] = match r[vbe::BPP] {
            0 => 8,
            b @ (4 | 8 | 15 | 16 | 24 | 32) => b,
            _ => 32,
        };
        r[vbe::XRES] = (r[vbe::XRES] & !7).clamp(8, vbe::MAX_XRES);
        r[vbe::VIRT_WIDTH] = (r[vbe::VIRT_WIDTH] & !7).clamp(r[vbe::XRES], vbe::MAX_XRES);
        let pitch = u64::from(self.vbe_pitch().max(1));
        let lines = u16::try_from(self.vram_len / pitch).unwrap_or(u16::MAX).max(1);
        let r = &mut self.vbe;
        r[vbe::YRES] = r[vbe::YRES].clamp(1, vbe::MAX_YRES.min(lines));
        r[vbe::X_OFFSET] = r[vbe::X_OFFSET].min(r[vbe::VIRT_WIDTH] - r[vbe::XRES]);
        r[vbe::Y_OFFSET] = r[vbe::Y_OFFSET].min(lines - r[vbe::YRES]);
    }

    /// Decodes an offset in the bank of ports 3B0–3DF; the CRTC answers at 3Bx or 3Dx.
    pub(super) fn decode_port(&self, offset: u64, width: u8) -> BusResult<Port> {
        let offset = match offset {
            4 | 5 | 0xa if !self.misc.colour() => offset + 0x20,
            0x24 | 0x25 | 0x2a if !self.misc.colour() => return Err(BusError::NoRegister),
            _ => offset,
        };
        Port::decode(offset, width).map(|(port, _)| port)
    }
}
