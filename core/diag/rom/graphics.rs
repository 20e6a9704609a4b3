//! Two pictures: the 256 colours of mode 13h, and colour ramps with writing in the linear mode.

use crate::rom::asm::{Asm, Built};
use crate::rom::font;
use crate::rom::layout::*;
use crate::rom::vga::{HEIGHT, WIDTH};
use iced_x86::code_asm::*;

/// How long each picture is shown at start, in ticks.
const SHOWN: u32 = 50;
/// Size of a pixel of the writing.
const SCALE: u32 = 3;

pub(crate) fn emit(a: &mut Asm) -> Built {
    list(a)?;
    picture_13h(a)?;
    picture_vbe(a)
}

fn list(a: &mut Asm) -> Built {
    let l = a.l;
    let (some, no_vbe, sum, each) = (a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.graphics_list;
        cmp byte_ptr(VGA_FOUND), 0;
        jne some;
        say "vga none\n";
        ret;
        at some;
        say "vga text 80x25\n";
        call l.picture_13h;
        mov esi, WINDOW;
        mov ecx, 320 * 200 / 4;
        call sum;
        say "vga 320x200x8 at 000a0000 sum ";
        call l.hex8;
        say "\n";
        mov eax, SHOWN;
        call l.wait_ticks;
        cmp dword_ptr(VBE_ID), 0;
        je no_vbe;
        call l.picture_vbe;
        mov esi, dword_ptr(LFB);
        mov ecx, WIDTH * HEIGHT;
        call sum;
        say "vbe ";
        push eax;
        mov eax, dword_ptr(VBE_ID);
        call l.hex4;
        say " 640x480x32 at ";
        mov eax, dword_ptr(LFB);
        call l.hex8;
        say " sum ";
        pop eax;
        call l.hex8;
        say "\n";
        mov eax, SHOWN;
        call l.wait_ticks;
        at no_vbe;
        call l.text_mode;
        ret;
        // EAX: sum over ECX double words at ESI, each turned by one bit more than the next.
        at sum;
        xor ebx, ebx;
        at each;
        lodsd;
        rol ebx, 1;
        add ebx, eax;
        dec ecx;
        jnz each;
        mov eax, ebx;
        ret;
    );
    Ok(())
}

/// 16 rows of 16 colours, 20 by 12 pixels each, and a ramp below.
fn picture_13h(a: &mut Asm) -> Built {
    let l = a.l;
    let (row, colour, line, ramp, each) = (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.picture_13h;
        call l.mode_13h;
        mov edi, WINDOW;
        // AH: first colour of the row.
        xor eax, eax;
        at row;
        mov edx, 12;
        at line;
        mov al, ah;
        at colour;
        mov ecx, 20;
        rep_stosb;
        inc al;
        test al, 15;
        jnz colour;
        dec edx;
        jnz line;
        add ah, 16;
        jnz row;
        mov edx, 8;
        at ramp;
        xor eax, eax;
        mov ecx, 320;
        at each;
        stosb;
        inc al;
        dec ecx;
        jnz each;
        dec edx;
        jnz ramp;
        ret;
    );
    Ok(())
}

/// Red from left to right, green from top to bottom, blue the other way; a line of writing.
fn picture_vbe(a: &mut Asm) -> Built {
    let l = a.l;
    let text = a.string("Orrery 640x480x32");
    let glyphs = a.bytes(&font::glyphs());
    let (row, pixel) = (a.local(), a.local());
    asm!(a:
        at l.picture_vbe;
        call l.mode_vbe;
        mov edi, dword_ptr(LFB);
        xor ebx, ebx;
        at row;
        // EBX: y; green = y * 136 / 256.
        imul_3 esi, ebx, 136;
        and esi, 0xff00;
        xor ecx, ecx;
        at pixel;
        // ECX: x; red = x * 102 / 256, blue = 255 - red.
        imul_3 eax, ecx, 102;
        shr eax, 8;
        mov edx, eax;
        shl eax, 16;
        xor edx, 0xff;
        or eax, edx;
        or eax, esi;
        stosd;
        inc ecx;
        cmp ecx, WIDTH;
        jb pixel;
        inc ebx;
        cmp ebx, HEIGHT;
        jb row;
    );

    let length = "Orrery 640x480x32".len() as u32;
    let left = (WIDTH - length * 8 * SCALE) / 2;
    let top = (HEIGHT - 16 * SCALE) / 2;
    let (letter, line, bit, dark, done) = (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        mov esi, text;
        mov edi, dword_ptr(LFB);
        add edi, (top * WIDTH + left) * 4;
        at letter;
        xor eax, eax;
        lodsb;
        test al, al;
        jz done;
        push esi;
        push edi;
        sub eax, font::FIRST;
        shl eax, 4;
        lea esi, ptr(eax + glyphs);
        mov ebx, 16;
        at line;
        mov dl, byte_ptr(esi);
        inc esi;
        push edi;
        mov ecx, 8;
        at bit;
        add dl, dl;
        jnc dark;
    );
    for y in 0..SCALE {
        for x in 0..SCALE {
            asm!(a: mov dword_ptr(edi + (y * WIDTH + x) * 4), 0xff_ffff;);
        }
    }
    asm!(a:
        at dark;
        add edi, SCALE * 4;
        dec ecx;
        jnz bit;
        pop edi;
        add edi, SCALE * WIDTH * 4;
        dec ebx;
        jnz line;
        pop edi;
        pop esi;
        add edi, 8 * SCALE * 4;
        jmp letter;
        at done;
        ret;
    );
    Ok(())
}
