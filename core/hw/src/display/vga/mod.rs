//! VGA with the Bochs display interface: the `VGA` (PCI 1234:1111) and `isa-vga` adapters.
//!
//! References: IBM PS/2 Hardware Interface Technical Reference (video subsystem); FreeVGA project
//! documentation; Bochs VBE interface as the Linux `bochs` driver and SeaVGABIOS use it.
//!
//! Not modelled: light pen, character panning of text, the vertical interrupt, 2-bank DAC tricks
//! within a frame (the picture is taken at one instant).

mod card;
mod memory;
mod regs;
mod render;

pub use card::{PciVga, build_isa, build_pci};
use orrery_system::device::Device;
use orrery_system::display::{Display, Surface};
use orrery_system::map::Region;
use orrery_system::{
    BusError, BusResult, Clock, Ram, RamBlock, Registers, RestoreError, StateBlob,
};
use regs::{Effect, vbe};
pub use regs::{Misc, Port};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Bank of ports 3B0–3DF.
pub const PORTS: u32 = 0;
/// Bank of the window A0000–BFFFF.
pub const WINDOW: u32 = 1;
/// Bank of the Bochs index and data ports, 1CE–1D0.
pub const VBE_PORTS: u32 = 2;
/// Bank of the memory-mapped registers (BAR 2 of the PCI adapter), 4 KiB.
pub const MMIO: u32 = 3;

/// Settings fixed when the machine is built.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The EDID block the display sends, if the adapter has one.
    pub edid: Vec<u8>,
}

/// What the machine wires up.
pub struct Wires {
    /// Guest memory, which holds the display memory.
    pub ram: Arc<Ram>,
    /// The display memory.
    pub vram: RamBlock,
    /// Virtual time: retrace and blinking.
    pub clock: Clock,
    /// A 64 KiB window onto display memory at A0000, above the register window, that Bochs modes
    /// deeper than 4 bits switch on so that the CPU reaches memory directly.
    pub linear_window: Option<Region>,
}

/// Everything the guest can observe, besides display memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    misc: Misc,
    feature: u8,
    enable: u8,
    seq_index: u8,
    seq: [u8; 8],
    gc_index: u8,
    gc: [u8; 16],
    crtc_index: u8,
    crtc: [u8; 25],
    attr_index: u8,
    attr_is_data: bool,
    attr: [u8; 21],
    dac_mask: u8,
    dac_state: u8,
    dac_read_index: u8,
    dac_write_index: u8,
    dac_step: u8,
    dac_latch: [u8; 3],
    /// 256 entries of red, green, blue, 8 bits each.
    palette: Vec<[u8; 3]>,
    latch: u32,
    vbe_index: u16,
    vbe: [u16; vbe::COUNT],
    /// Bytes of display memory; fixed, but the registers are checked against it.
    vram_len: u64,
}

impl orrery_system::State for State {
    const KIND: &'static str = "vga";
    const VERSION: u16 = 1;
}

/// The adapter without its bus.
pub struct Vga {
    config: Config,
    wires: Wires,
    state: State,
    // What was drawn last; not state, a full redraw makes it anew.
    cells: Vec<render::Cell>,
    glyph_hash: u64,
    blink_on: bool,
    registers_changed: bool,
}

impl State {
    fn power_on(vram_len: u64) -> Self {
        let mut vbe = [0; vbe::COUNT];
        vbe[vbe::ID] = vbe::VERSION;
        vbe[vbe::BPP] = 8;
        Self {
            misc: Misc::new(),
            feature: 0,
            enable: 0,
            seq_index: 0,
            seq: [0; 8],
            gc_index: 0,
            gc: [0; 16],
            crtc_index: 0,
            crtc: [0; 25],
            attr_index: 0,
            attr_is_data: false,
            attr: [0; 21],
            dac_mask: 0xff,
            dac_state: 0,
            dac_read_index: 0,
            dac_write_index: 0,
            dac_step: 0,
            dac_latch: [0; 3],
            palette: vec![[0; 3]; 256],
            latch: 0,
            vbe_index: 0,
            vbe,
            vram_len,
        }
    }

    fn check(&self) -> Result<(), RestoreError> {
        let invalid = Err(RestoreError::Invalid("vga registers"));
        if self.palette.len() != 256
            || self.dac_step > 2
            || self.seq_index > 7
            || self.gc_index > 15
        {
            return invalid;
        }
        if self.vbe_on()
            && u64::from(self.vbe_pitch()) * u64::from(self.vbe[vbe::YRES]) > self.vram_len
        {
            return invalid;
        }
        Ok(())
    }
}

impl Vga {
    /// Builds the adapter in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let state = State::power_on(wires.vram.len as u64);
        let vga = Self {
            config,
            wires,
            state,
            cells: Vec::new(),
            glyph_hash: 0,
            blink_on: false,
            registers_changed: true,
        };
        vga.drive();
        vga
    }

    /// The text screen as strings, code page 437 as Unicode; `None` in graphics modes.
    pub fn text(&self) -> Option<Vec<String>> {
        self.text_rows()
    }

    /// Sets the window from the state: the one place that touches it.
    fn drive(&self) {
        if let Some(window) = &self.wires.linear_window {
            window.set_alias_offset(u64::from(self.state.vbe[vbe::BANK]) << 16);
            window.set_enabled(self.state.linear());
        }
    }

    /// Replaces the state by a saved one.
    fn take(&mut self, state: State) -> Result<(), RestoreError> {
        state.check()?;
        if state.vram_len != self.state.vram_len {
            return Err(RestoreError::Invalid("size of display memory"));
        }
        self.state = state;
        self.registers_changed = true;
        self.cells.clear();
        self.drive();
        Ok(())
    }

    fn vram_at(&self, linear: u64) -> Option<usize> {
        (linear < self.state.vram_len).then(|| self.wires.vram.offset + linear as usize)
    }

    fn read_window(&mut self, offset: u64) -> u8 {
        let Some(a) = self.state.window(offset) else { return 0xff };
        if self.state.linear() {
            let at = (u64::from(self.state.vbe[vbe::BANK]) << 16) + a as u64;
            return self.vram_at(at).map_or(0xff, |o| self.wires.ram.read_u8(o));
        }
        let (ram, vram) = (&self.wires.ram, self.wires.vram);
        self.state.read_planar(a, |o| ram.read_u32(vram.offset + o * 4 % vram.len))
    }

    fn write_window(&mut self, offset: u64, v: u8) {
        let Some(a) = self.state.window(offset) else { return };
        if self.state.linear() {
            let at = (u64::from(self.state.vbe[vbe::BANK]) << 16) + a as u64;
            if let Some(o) = self.vram_at(at) {
                self.wires.ram.write_u8(o, v);
            }
            return;
        }
        let (o, value, mask) = self.state.write_planar(a, v);
        let at = self.wires.vram.offset + o * 4 % self.wires.vram.len;
        let ram = &self.wires.ram;
        ram.write_u32(at, ram.read_u32(at) & !mask | value & mask);
    }

    fn read_ports(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        let port = self.state.decode_port(offset, width)?;
        let status1 = self.state.status1(self.wires.clock.now());
        Ok(self.state.read_port(port, status1).into())
    }

    fn write_ports(&mut self, offset: u64, width: u8, v: u64) -> BusResult<()> {
        let port = self.state.decode_port(offset, width)?;
        self.state.write_port(port, v as u8);
        self.registers_changed = true;
        Ok(())
    }

    fn write_vbe(&mut self, index: u16, v: u16) {
        let effect = self.state.write_vbe(index, v);
        if effect == Effect::Clear {
            let len = u64::from(self.state.vbe_pitch()) * u64::from(self.state.vbe[vbe::YRES]);
            let factor = if self.state.vbe[vbe::BPP] == 4 { 4 } else { 1 };
            let len = (len * factor).min(self.state.vram_len) as usize;
            self.wires.ram.fill(self.wires.vram.offset, len, 0);
        }
        self.registers_changed = true;
        self.drive();
    }

    fn mmio_read(&mut self, offset: u64, width: u8) -> BusResult<u64> {
        match offset {
            0..0x400 if width == 1 => {
                Ok(self.config.edid.get(offset as usize).copied().unwrap_or(0).into())
            }
            // The VGA ports from 3C0.
            0x400..0x420 => self.read_ports(offset - 0x400 + 0x10, width),
            0x500..0x516 if width == 2 => {
                Ok(self.state.read_vbe((offset - 0x500) as u16 / 2).into())
            }
            // Extension registers: size, and byte order (little).
            0x600 if width == 4 => Ok(8),
            0x604 if width == 4 => Ok(0x1e1e_1e1e),
            0..0x400 | 0x500..0x516 | 0x600..0x608 => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn mmio_write(&mut self, offset: u64, width: u8, v: u64) -> BusResult<()> {
        match offset {
            0x400..0x420 => self.write_ports(offset - 0x400 + 0x10, width, v),
            0x500..0x516 if width == 2 => {
                self.write_vbe((offset - 0x500) as u16 / 2, v as u16);
                Ok(())
            }
            0x500..0x516 => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }
}

impl Device for Vga {
    fn name(&self) -> &'static str {
        "isa-vga"
    }

    fn reset(&mut self) {
        self.state = State::power_on(self.wires.vram.len as u64);
        self.registers_changed = true;
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        self.take(blob.decode()?)
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn display(&mut self) -> Option<&mut dyn Display> {
        Some(self)
    }
}

impl Registers for Vga {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        match bank {
            PORTS => self.read_ports(offset, width),
            WINDOW if width == 1 => Ok(self.read_window(offset).into()),
            WINDOW => Err(BusError::Width),
            VBE_PORTS => match (offset, width) {
                (0, 2) => Ok(self.state.vbe_index.into()),
                (1 | 2, 2) => Ok(self.state.read_vbe(self.state.vbe_index).into()),
                (_, 4) => Err(BusError::Width),
                _ => Err(BusError::NoRegister),
            },
            MMIO => self.mmio_read(offset, width),
            _ => Err(BusError::NoRegister),
        }
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        match bank {
            PORTS => self.write_ports(offset, width, value),
            WINDOW if width == 1 => {
                self.write_window(offset, value as u8);
                Ok(())
            }
            WINDOW => Err(BusError::Width),
            VBE_PORTS => {
                match (offset, width) {
                    (0, 2) => self.state.vbe_index = value as u16,
                    (1 | 2, 2) => self.write_vbe(self.state.vbe_index, value as u16),
                    (_, 4) => return Err(BusError::Width),
                    _ => return Err(BusError::NoRegister),
                }
                Ok(())
            }
            MMIO => self.mmio_write(offset, width, value),
            _ => Err(BusError::NoRegister),
        }
    }
}

impl Display for Vga {
    fn render(&mut self, surface: &mut Surface, full: bool) {
        self.draw(surface, full);
    }

    fn text(&mut self) -> Option<Vec<String>> {
        self.text_rows()
    }
}

#[cfg(test)]
mod tests;
