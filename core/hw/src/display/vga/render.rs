//! Display memory to pixels: text, planar and 256-colour VGA modes, and the Bochs modes.

use super::regs::vbe;
use super::{State, Vga};
use orrery_system::display::Surface;
use orrery_system::time::VmTime;

/// What the CRT controller and the sequencer say about the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// Visible character clocks a line.
    pub columns: u32,
    /// Visible scan lines.
    pub lines: u32,
    /// All scan lines, retrace included.
    pub total_lines: u32,
    /// First line of vertical retrace, and the one after the last.
    pub retrace: (u32, u32),
    /// Nanoseconds a scan line takes.
    pub line_ns: u64,
}

/// One character cell as drawn: character, attribute, and whether the cursor is on it.
pub(super) type Cell = (u8, u8, bool);

/// Code page 437 as Unicode, for [`Vga::text_rows`].
const CP437: &str = "\
\u{20}☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_\
`abcdefghijklmnopqrstuvwxyz{|}~⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

impl State {
    fn crtc10(&self, reg: usize, bit8: u8, bit9: u8) -> u32 {
        let o = self.crtc[7];
        u32::from(self.crtc[reg]) | u32::from(o >> bit8 & 1) << 8 | u32::from(o >> bit9 & 1) << 9
    }

    pub(super) fn timing(&self) -> Timing {
        let total_lines = self.crtc10(6, 0, 5) + 2;
        let start = self.crtc10(0x10, 2, 7);
        let width = u32::from(self.crtc[0x11] & 0x0f).wrapping_sub(start) & 0x0f;
        let dots = if self.seq[1] & 1 != 0 { 8 } else { 9 };
        let hz = if self.misc.clock() & 1 == 0 { 25_175_000 } else { 28_322_000 };
        let hz = if self.seq[1] & 8 != 0 { hz / 2 } else { hz };
        let chars = u64::from(self.crtc[0]) + 5;
        Timing {
            columns: u32::from(self.crtc[1]) + 1,
            lines: self.crtc10(0x12, 1, 6) + 1,
            total_lines,
            retrace: (start, start + if width == 0 { 16 } else { width }),
            line_ns: (chars * dots * 1_000_000_000 / hz).max(1),
        }
    }

    /// Input status 1: bit 0 blanking, bit 3 vertical retrace.
    pub(super) fn status1(&self, now: VmTime) -> u8 {
        let t = self.timing();
        let line = (now.0 / t.line_ns % u64::from(t.total_lines)) as u32;
        let chars = u64::from(self.crtc[0]) + 5;
        let column = now.0 % t.line_ns * chars / t.line_ns;
        let retrace = (t.retrace.0..t.retrace.1).contains(&line);
        let blank = line >= t.lines || column >= u64::from(t.columns);
        u8::from(retrace) << 3 | u8::from(blank)
    }

    fn graphics(&self) -> bool {
        self.gc[6] & 1 != 0
    }

    fn line_compare(&self) -> u32 {
        u32::from(self.crtc[0x18])
            | u32::from(self.crtc[7] >> 4 & 1) << 8
            | u32::from(self.crtc[9] >> 6 & 1) << 9
    }

    fn start(&self) -> u32 {
        u32::from(self.crtc[0x0c]) << 8 | u32::from(self.crtc[0x0d])
    }

    /// Counter to plane offset: byte, word or doubleword addressing (CRTC 14 and 17), and the
    /// row-scan bits that CGA-like modes put into the address.
    fn address(&self, counter: u32, row: u32) -> usize {
        let c = counter & 0xffff;
        let mode = self.crtc[0x17];
        let mut o = if self.crtc[0x14] & 0x40 != 0 {
            c << 2 | c >> 14 & 3
        } else if mode & 0x40 == 0 {
            c << 1 | if mode & 0x20 != 0 { c >> 15 & 1 } else { c >> 13 & 1 }
        } else {
            c
        };
        if mode & 1 == 0 {
            o = o & !(1 << 13) | (row & 1) << 13;
        }
        if mode & 2 == 0 {
            o = o & !(1 << 14) | (row >> 1 & 1) << 14;
        }
        o as usize & 0xffff
    }

    /// The 16 attribute colours as pixels.
    fn colours(&self) -> [u32; 16] {
        std::array::from_fn(|i| {
            let a = self.attr[i];
            let index = if self.attr[0x10] & 0x80 != 0 {
                a & 0x0f | self.attr[0x14] << 4
            } else {
                a & 0x3f | self.attr[0x14] << 4 & 0xc0
            };
            self.pixel(index)
        })
    }

    fn pixel(&self, index: u8) -> u32 {
        let [r, g, b] = self.palette[usize::from(index & self.dac_mask)];
        u32::from(r) << 16 | u32::from(g) << 8 | u32::from(b)
    }

    /// Whether the sequencer or the attribute controller blanks the screen.
    fn blanked(&self) -> bool {
        self.seq[1] & 0x20 != 0 || self.attr_index & 0x20 == 0
    }

    /// Lines a row of characters or a doubled pixel takes.
    fn row_lines(&self) -> u32 {
        let lines = u32::from(self.crtc[9] & 0x1f) + 1;
        if self.crtc[9] & 0x80 != 0 { lines * 2 } else { lines }
    }

    /// Width and height of the picture.
    pub(super) fn size(&self) -> (u32, u32) {
        if self.vbe_on() {
            return (self.vbe[vbe::XRES].into(), self.vbe[vbe::YRES].into());
        }
        let t = self.timing();
        // Registers half programmed must not make a screen of nothing.
        let lines = t.lines.clamp(8, 2048);
        if !self.graphics() {
            let dots = if self.seq[1] & 1 != 0 { 8 } else { 9 };
            return (t.columns * dots, lines);
        }
        let width = if self.gc[5] & 0x40 != 0 { t.columns * 4 } else { t.columns * 8 };
        (width, (lines / self.pixel_lines()).max(1))
    }

    /// Scan lines a pixel row takes in graphics modes: pixels are square in the surface.
    fn pixel_lines(&self) -> u32 {
        // With row-scan bits in the address every scan row is a row of its own.
        let scans = u32::from(self.crtc[9] & 0x1f) + 1;
        let own = if self.crtc[0x17] & 1 == 0 { scans.min(2) } else { 1 };
        (self.row_lines() / own).max(1)
    }
}

impl Vga {
    fn plane(&self, o: usize, p: usize) -> u8 {
        self.wires.ram.read_u8(self.wires.vram.offset + (o * 4 + p) % self.wires.vram.len)
    }

    fn planes(&self, o: usize) -> u32 {
        self.wires.ram.read_u32(self.wires.vram.offset + (o * 4) % self.wires.vram.len)
    }

    /// The cells of the text screen, row by row, and the number of columns.
    pub(super) fn cells(&self, blink_on: bool) -> (Vec<Cell>, usize) {
        let s = &self.state;
        let t = s.timing();
        let columns = t.columns as usize;
        let rows = (t.lines.clamp(8, 2048)).div_ceil(s.row_lines());
        let cursor = u32::from(s.crtc[0x0e]) << 8 | u32::from(s.crtc[0x0f]);
        let shown = s.crtc[0x0a] & 0x20 == 0 && blink_on;
        let split = s.line_compare() / s.row_lines();
        let pitch = u32::from(s.crtc[0x13]) * 2;
        let mut out = Vec::with_capacity(columns * rows as usize);
        for row in 0..rows {
            let first =
                if row > split { (row - split - 1) * pitch } else { s.start() + row * pitch };
            for col in 0..t.columns {
                let counter = first.wrapping_add(col) & 0xffff;
                let o = s.address(counter, 0);
                out.push((self.plane(o, 0), self.plane(o, 1), shown && counter == cursor));
            }
        }
        (out, columns)
    }

    /// The text screen as strings.
    pub(super) fn text_rows(&self) -> Option<Vec<String>> {
        if self.state.vbe_on() || self.state.graphics() {
            return None;
        }
        let table: Vec<char> = CP437.chars().collect();
        let (cells, columns) = self.cells(false);
        let glyph = |c: &Cell| table.get(usize::from(c.0)).copied().unwrap_or(' ');
        let line = |row: &[Cell]| row.iter().map(glyph).collect::<String>().trim_end().to_string();
        Some(cells.chunks(columns.max(1)).map(line).collect())
    }

    pub(super) fn draw(&mut self, surface: &mut Surface, full: bool) {
        let (w, h) = self.state.size();
        let full = surface.resize(w, h) || full;
        if self.state.linear() || self.state.vbe_on() {
            self.draw_vbe(surface, full);
        } else if self.state.blanked() {
            self.cells.clear();
            if surface.pixels.iter().any(|&p| p != 0) {
                surface.pixels.fill(0);
                surface.mark(0, h);
            }
        } else if self.state.graphics() {
            self.draw_graphics(surface, full);
        } else {
            self.draw_text(surface, full);
        }
    }

    /// Whether anything the picture depends on changed since the last call.
    fn changed(&mut self, full: bool) -> bool {
        let mut any = full || self.registers_changed;
        self.registers_changed = false;
        let ram = &self.wires.ram;
        ram.take_dirty(self.wires.vram, orrery_system::Ram::DIRTY_DISPLAY, |_| any = true);
        any
    }

    fn draw_text(&mut self, surface: &mut Surface, full: bool) {
        let now = self.wires.clock.now();
        // The cursor blinks every 16 frames, characters every 32 (about 3.7 and 1.9 Hz).
        let cursor_on = (now.0 / 266_000_000).is_multiple_of(2);
        let blink_on = (now.0 / 533_000_000).is_multiple_of(2);
        let fonts = self.changed(full);
        let (cells, columns) = self.cells(cursor_on);
        let blinks = self.state.attr[0x10] & 8 != 0;
        let redraw_all = full || cells.len() != self.cells.len() || blink_on != self.blink_on;
        self.blink_on = blink_on;
        if !fonts && !redraw_all && cells == self.cells {
            return;
        }
        // A change of registers or fonts may change any glyph.
        let redraw_all = redraw_all || self.glyphs_changed();
        let colours = self.state.colours();
        let height = self.state.row_lines();
        for (i, &cell) in cells.iter().enumerate() {
            if redraw_all || self.cells[i] != cell {
                let (x, y) = ((i % columns) as u32, (i / columns) as u32);
                self.draw_cell(surface, x, y * height, cell, &colours, blinks && !blink_on);
            }
        }
        self.cells = cells;
    }

    /// Whether registers or fonts changed since the last call: a hash, because fonts live in the
    /// same pages as the characters.
    fn glyphs_changed(&mut self) -> bool {
        let s = &self.state;
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut mix = |v: u64| hash = (hash ^ v).wrapping_mul(0x100_0000_01b3);
        for o in (0..0x1_0000).step_by(1) {
            mix(u64::from(self.plane(o, 2)));
        }
        for p in &s.palette {
            mix(u64::from(p[0]) << 16 | u64::from(p[1]) << 8 | u64::from(p[2]));
        }
        s.attr.iter().chain(&s.crtc[..0x0a]).chain(&s.seq).for_each(|&v| mix(v.into()));
        mix(s.crtc[0x0a].into());
        mix(s.crtc[0x0b].into());
        mix(s.dac_mask.into());
        std::mem::replace(&mut self.glyph_hash, hash) != hash
    }

    fn draw_cell(
        &self,
        surface: &mut Surface,
        col: u32,
        y0: u32,
        (ch, attr, cursor): Cell,
        colours: &[u32; 16],
        hide_blinking: bool,
    ) {
        let s = &self.state;
        let dots = if s.seq[1] & 1 != 0 { 8 } else { 9 };
        let height = s.row_lines();
        let scan_shift = u32::from(s.crtc[9] >> 7);
        // Sequencer 3 picks one of two fonts by attribute bit 3.
        let map = s.seq[3];
        let select =
            if attr & 8 != 0 { map >> 2 & 3 | map >> 3 & 4 } else { map & 3 | map >> 2 & 4 };
        let font =
            [0, 0x4000, 0x8000, 0xc000, 0x2000, 0x6000, 0xa000, 0xe000][usize::from(select & 7)];
        let mut fg = usize::from(attr & 0x0f);
        let mut bg = usize::from(attr >> 4);
        if s.attr[0x10] & 8 != 0 {
            bg &= 7;
            if attr & 0x80 != 0 && hide_blinking {
                fg = bg;
            }
        }
        let mono = s.attr[0x10] & 2 != 0;
        let underline = u32::from(s.crtc[0x14] & 0x1f);
        let (c0, c1) = (u32::from(s.crtc[0x0a] & 0x1f), u32::from(s.crtc[0x0b] & 0x1f));
        let wide = s.attr[0x10] & 4 != 0 && (0xc0..0xe0).contains(&ch);
        for line in 0..height {
            let y = y0 + line;
            if y >= surface.height {
                break;
            }
            let scan = line >> scan_shift;
            let under = mono && scan == underline && attr & 7 == 1;
            let bits = if under || cursor && (c0..=c1).contains(&scan) {
                0x1ff
            } else {
                let b = u32::from(self.plane(font + usize::from(ch) * 32 + scan as usize % 32, 2));
                b << 1 | if wide { b & 1 } else { 0 }
            };
            let row = surface.row_mut(y);
            for dot in 0..dots {
                let on = bits >> (8 - dot) & 1 != 0;
                if let Some(p) = row.get_mut((col * dots + dot) as usize) {
                    *p = colours[if on { fg } else { bg }];
                }
            }
        }
        surface.mark(y0.min(surface.height), (y0 + height).min(surface.height));
    }

    fn draw_graphics(&mut self, surface: &mut Surface, full: bool) {
        if !self.changed(full) {
            return;
        }
        let s = &self.state;
        let colours = s.colours();
        let (w, h) = (surface.width as usize, surface.height);
        let deep = s.gc[5] & 0x40 != 0;
        let cga = s.gc[5] & 0x20 != 0;
        let pitch = u32::from(s.crtc[0x13]) * 2;
        let lines = s.pixel_lines();
        let scans = u32::from(s.crtc[9] & 0x1f) + 1;
        let split = s.line_compare();
        let plane_mask = s.attr[0x12];
        let mut line = vec![0u8; w + 16];
        for y in 0..h {
            let scan = y * lines;
            let (first, rel) =
                if scan > split { (0, (scan - split - 1) / lines) } else { (s.start(), y) };
            // Rows within a character row share the counter where row-scan bits are in use.
            let (group, row) = if s.crtc[0x17] & 1 == 0 {
                (rel / scans.min(2), rel % scans.min(2))
            } else {
                (rel, 0)
            };
            let mut counter = first.wrapping_add(group * pitch);
            let pan = usize::from(s.attr[0x13] & 7);
            let pan = if scan > split && s.attr[0x10] & 0x20 != 0 {
                0
            } else if deep {
                pan / 2
            } else {
                pan
            };
            let mut x = 0;
            while x < w + 8 {
                let v = self.planes(s.address(counter, row));
                counter = counter.wrapping_add(1);
                if deep {
                    for p in 0..4 {
                        put(&mut line, x + p, (v >> (8 * p)) as u8);
                    }
                    x += 4;
                } else if cga {
                    // Two bits a pixel: planes 0 and 1 hold the bits of even and odd bytes.
                    for p in 0..8 {
                        let byte = (v >> (8 * (p / 4))) as u8;
                        let high = (v >> (16 + 8 * (p / 4))) as u8;
                        let shift = 6 - 2 * (p % 4);
                        put(&mut line, x + p, byte >> shift & 3 | (high >> shift & 3) << 2);
                    }
                    x += 8;
                } else {
                    for p in 0..8 {
                        let bit = 7 - p;
                        let c = (v >> bit & 1)
                            | (v >> (8 + bit) & 1) << 1
                            | (v >> (16 + bit) & 1) << 2
                            | (v >> (24 + bit) & 1) << 3;
                        put(&mut line, x + p, c as u8);
                    }
                    x += 8;
                }
            }
            let out = surface.row_mut(y);
            for (x, p) in out.iter_mut().enumerate() {
                let c = line[x + pan];
                *p = if deep { s.pixel(c) } else { colours[usize::from(c & plane_mask & 0x0f)] };
            }
        }
        surface.mark(0, h);
    }

    fn draw_vbe(&mut self, surface: &mut Surface, full: bool) {
        if !self.changed(full) {
            return;
        }
        let s = &self.state;
        let (w, h) = (surface.width as usize, surface.height);
        let bpp = s.vbe[vbe::BPP];
        let (x0, y0) = (u64::from(s.vbe[vbe::X_OFFSET]), u64::from(s.vbe[vbe::Y_OFFSET]));
        let pitch = u64::from(s.vbe_pitch());
        if bpp == 4 {
            let colours = s.colours();
            for y in 0..h {
                let first = ((y0 + u64::from(y)) * pitch + x0 / 8) as usize;
                let out = surface.row_mut(y);
                for (x, p) in out.iter_mut().enumerate() {
                    let v = self.planes(first + x / 8) >> (7 - x % 8);
                    let c = v & 1 | v >> 7 & 2 | v >> 14 & 4 | v >> 21 & 8;
                    *p = colours[c as usize];
                }
            }
            return surface.mark(0, h);
        }
        let bytes = usize::from(bpp.div_ceil(8));
        let mut line = vec![0u8; w * bytes];
        for y in 0..h {
            let first = ((y0 + u64::from(y)) * pitch) as usize + x0 as usize * bytes;
            if first + line.len() > self.wires.vram.len {
                break;
            }
            self.wires.ram.read_bytes(self.wires.vram.offset + first, &mut line);
            let out = surface.row_mut(y);
            match bpp {
                8 => out.iter_mut().zip(&line).for_each(|(p, &c)| *p = s.pixel(c)),
                15 | 16 => {
                    for (p, c) in out.iter_mut().zip(line.as_chunks().0) {
                        *p = widen16(u16::from_le_bytes(*c), bpp);
                    }
                }
                _ => {
                    for (p, c) in out.iter_mut().zip(line.chunks_exact(bytes)) {
                        *p = u32::from(c[2]) << 16 | u32::from(c[1]) << 8 | u32::from(c[0]);
                    }
                }
            }
        }
        surface.mark(0, h);
    }
}

fn put(line: &mut [u8], x: usize, v: u8) {
    if let Some(p) = line.get_mut(x) {
        *p = v;
    }
}

/// 5:5:5 or 5:6:5 to 8:8:8, top bits repeated.
fn widen16(v: u16, bpp: u16) -> u32 {
    let v = u32::from(v);
    let five = |c: u32| (c & 0x1f) << 3 | (c & 0x1f) >> 2;
    if bpp == 15 {
        five(v >> 10) << 16 | five(v >> 5) << 8 | five(v)
    } else {
        let g = v >> 5 & 0x3f;
        five(v >> 11) << 16 | (g << 2 | g >> 4) << 8 | five(v)
    }
}
