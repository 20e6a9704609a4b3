//! VGA by its registers: text mode 3 with the ROM's own font, mode 13h, and the Bochs linear mode.
//!
//! Register values: IBM Personal System/2 Hardware Interface Technical Reference, video subsystem.
//! The Bochs interface (VBE_DISPI) is two 16-bit ports, index 1CEh and data 1CFh.

use crate::rom::asm::{Asm, Built};
use crate::rom::font;
use crate::rom::layout::*;
use iced_x86::code_asm::*;

const VBE_INDEX: u32 = 0x1ce;
const VBE_DATA: u32 = 0x1cf;
/// Width and height of the linear picture.
pub(crate) const WIDTH: u32 = 640;
pub(crate) const HEIGHT: u32 = 480;

/// One video mode: miscellaneous output, then sequencer, CRTC, graphics and attribute registers.
struct Mode {
    misc: u8,
    sequencer: [u8; 5],
    crtc: [u8; 25],
    graphics: [u8; 9],
    /// Registers 10h to 14h; the palette before them maps each colour to the DAC's same entry.
    attribute: [u8; 5],
}

/// 80x25 in 720x400, cursor on the last two lines of a cell.
const TEXT_MODE: Mode = Mode {
    misc: 0x67,
    sequencer: [0x03, 0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0e, 0x0f, 0x00, 0x00, 0x00,
        0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x00, 0xff],
    attribute: [0x04, 0x00, 0x0f, 0x08, 0x00],
};

/// 320x200 in 256 colours.
const GRAPHICS_MODE: Mode = Mode {
    misc: 0x63,
    sequencer: [0x03, 0x01, 0x0f, 0x00, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x05, 0x0f, 0xff],
    attribute: [0x41, 0x00, 0x0f, 0x00, 0x00],
};

impl Mode {
    /// The order in which `load` writes them.
    fn bytes(&self) -> Vec<u8> {
        let mut all = vec![self.misc];
        all.extend(self.sequencer);
        all.extend(self.crtc);
        all.extend(self.graphics);
        all.extend(0..16);
        all.extend(self.attribute);
        all
    }
}

/// The 16 text colours: red, green, blue in six bits each.
fn text_colours() -> Vec<u8> {
    (0..16_u8)
        .flat_map(|c| {
            let dim = if c & 8 == 0 { 0 } else { 21 };
            let part = |bit: u8| if c & bit == 0 { dim } else { 42 + dim };
            // Dark yellow is brown on this display.
            if c == 6 { [42, 21, 0] } else { [part(4), part(2), part(1)] }
        })
        .collect()
}

/// 256 colours: three bits of red, three of green, two of blue.
fn graphics_colours() -> Vec<u8> {
    (0..=255_u8).flat_map(|c| [(c >> 5) * 9, (c >> 2 & 7) * 9, (c & 3) * 21]).collect()
}

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    let load = a.local();
    let colours = a.local();
    init(a)?;
    load_mode(a, load)?;
    load_colours(a, colours)?;

    let mode = a.bytes(&TEXT_MODE.bytes());
    let palette = a.bytes(&text_colours());
    let glyphs = a.bytes(&font::glyphs());
    let (each, none) = (a.local(), a.local());
    asm!(a:
        at l.text_mode;
        pushad;
        cmp byte_ptr(VGA_FOUND), 0;
        je none;
        mov esi, mode;
        call load;
        mov esi, palette;
        mov ecx, 16 * 3;
        call colours;
        // The font lives in plane 2, 32 bytes a character. Sequencer: write that plane alone,
        // bytes in order; graphics controller: the same for the processor, window at A0000h.
    );
    for (port, pairs) in [(0x3c4, [0x0402_u32, 0x0704, 0x0402]), (0x3ce, [0x0005, 0x0406, 0x0204])]
    {
        a.mov(dx, port)?;
        for pair in pairs {
            asm!(a: mov ax, pair; out dx, ax;);
        }
    }
    asm!(a:
        mov edi, WINDOW;
        mov ecx, 0x2000 / 4;
        xor eax, eax;
        rep_stosd;
        mov esi, glyphs;
        mov edi, WINDOW + font::FIRST * 32;
        mov ebx, font::COUNT;
        at each;
        mov ecx, 4;
        rep_movsd;
        add edi, 16;
        dec ebx;
        jnz each;
        mov esi, mode;
        call load;
        mov esi, SHADOW;
        mov edi, TEXT;
        mov ecx, CELLS / 2;
        rep_movsd;
        mov byte_ptr(TEXT_ON), 1;
        at none;
        popad;
        ret;
    );

    let mode = a.bytes(&GRAPHICS_MODE.bytes());
    let palette = a.bytes(&graphics_colours());
    asm!(a:
        at l.mode_13h;
        mov byte_ptr(TEXT_ON), 0;
        mov esi, mode;
        call load;
        mov esi, palette;
        mov ecx, 256 * 3;
        call colours;
        ret;
        // 640x480 with 32 bits a pixel: index 4 is the switch, 40h asks for the linear buffer.
        at l.mode_vbe;
        mov byte_ptr(TEXT_ON), 0;
    );
    for (index, value) in [(4, 0), (1, WIDTH), (2, HEIGHT), (3, 32), (4, 0x41)] {
        vbe_write(a, index, value)?;
    }
    asm!(a: ret;);
    Ok(())
}

fn vbe_write(a: &mut Asm, index: u32, value: u32) -> Built {
    asm!(a:
        mov dx, VBE_INDEX;
        mov ax, index;
        out dx, ax;
        mov dx, VBE_DATA;
        mov ax, value;
        out dx, ax;
    );
    Ok(())
}

/// Looks for a VGA and the Bochs interface, and puts up the empty text screen.
fn init(a: &mut Asm) -> Built {
    let l = a.l;
    let (none, no_vbe) = (a.local(), a.local());
    let title = a.string(" Orrery diagnostic ROM");
    let (each, end) = (a.local(), a.local());
    asm!(a:
        at l.vga_init;
        // The copy of the screen: blanks, and the title on white on blue.
        mov edi, SHADOW;
        mov ecx, CELLS;
        mov ax, 0x0720;
        rep_stosw;
        mov edi, SHADOW;
        mov ecx, COLUMNS - 16;
        mov ax, 0x1f20;
        rep_stosw;
        // The 16 colours at its right end.
        xor eax, eax;
        mov al, 0x20;
    );
    for colour in 0..16_u32 {
        asm!(a: mov ah, colour << 4; stosw;);
    }
    asm!(a:
        mov esi, title;
        mov edi, SHADOW;
        at each;
        lodsb;
        test al, al;
        jz end;
        stosb;
        inc edi;
        jmp each;
        at end;
        // Colour at 3Dx, then: does the graphics controller keep a bit mask?
        outb 0x3c2, 0x67;
        outb 0x3ce, 8;
        outb 0x3cf, 0xa5;
        inb 0x3cf;
        cmp al, 0xa5;
        jne none;
        mov byte_ptr(VGA_FOUND), 1;
        mov dx, VBE_INDEX;
        xor eax, eax;
        out dx, ax;
        mov dx, VBE_DATA;
        in_ ax, dx;
        mov ecx, eax;
        and ch, 0xf0;
        cmp ch, 0xb0;
        jne no_vbe;
        mov dword_ptr(VBE_ID), eax;
        cmp dword_ptr(LFB), 0;
        jne no_vbe;
        mov dword_ptr(LFB), PCI_MEMORY;
        at no_vbe;
        call l.text_mode;
        at none;
        ret;
    );
    Ok(())
}

/// Loads the registers at ESI.
fn load_mode(a: &mut Asm, load: CodeLabel) -> Built {
    let (no_vbe, crtc, attribute) = (a.local(), a.local(), a.local());
    let indexed = a.local();
    asm!(a:
        at load;
        cmp dword_ptr(VBE_ID), 0;
        je no_vbe;
    );
    vbe_write(a, 4, 0)?;
    asm!(a:
        at no_vbe;
        mov dx, 0x3c2;
        outsb;
        // Sequencer: stopped while it changes.
        mov dx, 0x3c4;
        mov ax, 0x0100;
        out dx, ax;
        mov ecx, 5;
        call indexed;
        mov ax, 0x0300;
        out dx, ax;
        // Bit 7 of CRTC 11h write-protects the first eight registers.
        mov dx, 0x3d4;
        mov ax, 0x0e11;
        out dx, ax;
        mov ecx, 25;
        call indexed;
        mov dx, 0x3ce;
        mov ecx, 9;
        call indexed;
        // Reading the input status makes the attribute controller expect an index.
        inb 0x3da;
        xor ebx, ebx;
        mov dx, 0x3c0;
        at attribute;
        mov al, bl;
        out dx, al;
        outsb;
        inc ebx;
        cmp ebx, 21;
        jb attribute;
        // The palette belongs to the display again.
        mov al, 0x20;
        out dx, al;
        outb 0x3c6, 0xff;
        ret;
        // ECX registers from ESI to the index and data ports at DX.
        at indexed;
        xor ebx, ebx;
        at crtc;
        mov al, bl;
        out dx, al;
        inc edx;
        outsb;
        dec edx;
        inc ebx;
        cmp ebx, ecx;
        jb crtc;
        ret;
    );
    Ok(())
}

/// Loads ECX bytes of colours from ESI into the DAC, from entry 0.
fn load_colours(a: &mut Asm, colours: CodeLabel) -> Built {
    let each = a.local();
    asm!(a:
        at colours;
        outb 0x3c8, 0;
        mov dx, 0x3c9;
        at each;
        outsb;
        dec ecx;
        jnz each;
        ret;
    );
    Ok(())
}
