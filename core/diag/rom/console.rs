//! Printing: to the text screen and to COM1 at once.
//!
//! COM1 is a 16550 (National Semiconductor PC16550D, section 8) at 115200 baud, 8N1, polled.
//! Row 0 of the screen is the title and stays; the other rows scroll.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

/// Port of COM1.
pub(crate) const COM1: u32 = 0x3f8;

pub(crate) fn emit(a: &mut Asm) -> Built {
    com1_init(a)?;
    putc(a)?;
    strings(a)?;
    numbers(a)
}

fn com1_init(a: &mut Asm) -> Built {
    let l = a.l;
    let none = a.local();
    asm!(a:
        at l.com1_init;
        // Line control: divisor latch; 1 is 115200 baud.
        outb COM1 + 3, 0x80;
        outb COM1, 1;
        outb COM1 + 1, 0;
        // 8N1, FIFOs on and empty, DTR, RTS and OUT2 (the gate of the interrupt).
        outb COM1 + 3, 0x03;
        outb COM1 + 2, 0x07;
        outb COM1 + 4, 0x0b;
        // Is it there? The scratch register keeps what is written.
        outb COM1 + 7, 0x5a;
        inb COM1 + 7;
        cmp al, 0x5a;
        jne none;
        mov byte_ptr(COM1_FOUND), 1;
        // Interrupt on received data.
        outb COM1 + 1, 1;
        at none;
        ret;
    );
    Ok(())
}

fn putc(a: &mut Asm) -> Built {
    let l = a.l;
    let (serial, send, full, out, screen) = (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.putc;
        pushad;
        cmp al, 10;
        jne serial;
        mov bl, al;
        mov al, 13;
        call send;
        mov al, bl;
        at serial;
        call send;
        call screen;
        popad;
        ret;
        // AL to COM1.
        at send;
        cmp byte_ptr(COM1_FOUND), 0;
        je out;
        mov ah, al;
        mov ecx, 100_000;
    );
    let ready = a.local();
    asm!(a:
        at full;
        // Line status bit 5: the transmitter takes a byte.
        inb COM1 + 5;
        test al, 0x20;
        jnz ready;
        dec ecx;
        jnz full;
        at ready;
        mov al, ah;
        out_al COM1;
        at out;
        ret;
    );

    // AL to the screen: to the copy in RAM, and to text memory while text is shown.
    let (plain, update, no_scroll, cursor, done) =
        (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at screen;
        mov ebx, dword_ptr(CURSOR);
        cmp al, 10;
        jne plain;
        // To the start of the next row.
        mov eax, ebx;
        xor edx, edx;
        mov ecx, COLUMNS;
        div ecx;
        sub ebx, edx;
        add ebx, COLUMNS;
        jmp update;
        at plain;
        mov ah, byte_ptr(ATTR);
        mov word_ptr(ebx * 2 + SHADOW as i32), ax;
        cmp byte_ptr(TEXT_ON), 0;
    );
    let hidden = a.local();
    asm!(a:
        je hidden;
        mov word_ptr(ebx * 2 + TEXT as i32), ax;
        at hidden;
        inc ebx;
        at update;
        cmp ebx, CELLS;
        jb no_scroll;
        sub ebx, COLUMNS;
        mov edi, SHADOW + COLUMNS * 2;
        mov esi, SHADOW + COLUMNS * 4;
        mov ecx, (CELLS - COLUMNS * 2) / 2;
        rep_movsd;
        mov eax, 0x0720_0720;
        mov ecx, COLUMNS / 2;
        rep_stosd;
        cmp byte_ptr(TEXT_ON), 0;
        je no_scroll;
        mov esi, SHADOW;
        mov edi, TEXT;
        mov ecx, CELLS / 2;
        rep_movsd;
        at no_scroll;
        mov dword_ptr(CURSOR), ebx;
        cmp byte_ptr(TEXT_ON), 0;
        je done;
        at cursor;
        // CRTC 0Eh and 0Fh: cursor location.
        mov dx, 0x3d4;
        mov al, 0x0e;
        mov ah, bh;
        out dx, ax;
        mov al, 0x0f;
        mov ah, bl;
        out dx, ax;
        at done;
        ret;
    );
    Ok(())
}

fn strings(a: &mut Asm) -> Built {
    let l = a.l;
    let (next, end) = (a.local(), a.local());
    asm!(a:
        at l.puts;
        pushad;
        at next;
        mov al, byte_ptr(esi);
        test al, al;
        jz end;
        call l.putc;
        inc esi;
        jmp next;
        at end;
        popad;
        ret;
    );
    let (front, front_done, back, each, bad, done) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.trimmed;
        pushad;
        at front;
        test ecx, ecx;
        jz done;
        cmp byte_ptr(esi), 0x20;
        jne front_done;
        inc esi;
        dec ecx;
        jmp front;
        at front_done;
        at back;
        mov al, byte_ptr(esi + ecx - 1);
        and al, 0xdf;
        jnz each;
        dec ecx;
        jnz back;
        jmp done;
        at each;
        mov al, byte_ptr(esi);
        // What is not printable shows as a full stop; a zero ends.
        test al, al;
        jz done;
        cmp al, 0x20;
        jb bad;
        cmp al, 0x7f;
    );
    let good = a.local();
    asm!(a:
        jb good;
        at bad;
        mov al, 0x2e;
        at good;
        call l.putc;
        inc esi;
        dec ecx;
        jnz each;
        at done;
        popad;
        ret;
    );
    Ok(())
}

fn numbers(a: &mut Asm) -> Built {
    let l = a.l;
    let digits = a.bytes(b"0123456789abcdef");
    let (hex, each) = (a.local(), a.local());
    asm!(a:
        at l.hex8;
        pushad;
        mov ecx, 8;
        jmp hex;
        at l.hex4;
        pushad;
        shl eax, 16;
        mov ecx, 4;
        jmp hex;
        at l.hex2;
        pushad;
        shl eax, 24;
        mov ecx, 2;
        at hex;
        mov ebx, eax;
        at each;
        rol ebx, 4;
        mov eax, ebx;
        and eax, 15;
        mov al, byte_ptr(eax + digits);
        call l.putc;
        dec ecx;
        jnz each;
        popad;
        ret;
    );
    let (positive, divide, print) = (a.local(), a.local(), a.local());
    asm!(a:
        at l.sdec;
        pushad;
        test eax, eax;
        jns positive;
        neg eax;
        push eax;
        mov al, 0x2d;
        call l.putc;
        pop eax;
        jmp positive;
        at l.dec;
        pushad;
        at positive;
        xor ecx, ecx;
        mov ebx, 10;
        at divide;
        xor edx, edx;
        div ebx;
        push edx;
        inc ecx;
        test eax, eax;
        jnz divide;
        at print;
        pop eax;
        add al, 0x30;
        call l.putc;
        dec ecx;
        jnz print;
        popad;
        ret;
        at l.dec2;
        pushad;
        movzx eax, al;
        mov cl, 10;
        div cl;
        add eax, 0x3030;
        call l.putc;
        mov al, ah;
        call l.putc;
        popad;
        ret;
    );
    Ok(())
}
