//! Keyboard and mouse on the 8042, and characters from COM1.
//!
//! IBM PS/2 Hardware Interface Technical Reference, keyboard and auxiliary device controller;
//! scan codes arrive as set 1, translated by the controller from the keyboard's set 2.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

/// Set 1 make codes from 00h: the character without shift, zero for none.
const SET_1: &[u8; 0x3a] =
    b"\0\x1b1234567890-=\x08\tqwertyuiop[]\n\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";

pub(crate) fn emit(a: &mut Asm) -> Built {
    controller(a)?;
    events(a)
}

fn controller(a: &mut Asm) -> Built {
    let l = a.l;
    let (ready, command, data, read) = (a.local(), a.local(), a.local(), a.local());
    let (drain, drained, no_controller, no_keyboard, no_mouse, mouse) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.input_init;
        // The timer runs for the time limits, the keyboard's and mouse's lines are still masked.
        sti;
        // Both devices off, and what was left in the output buffer taken out.
        mov al, 0xad;
        call command;
        mov al, 0xa7;
        call command;
        mov ecx, 64;
        at drain;
        in_ al, 0x64;
        test al, 1;
        jz drained;
        in_ al, 0x60;
        dec ecx;
        jnz drain;
        at drained;
        // Self-test.
        mov al, 0xaa;
        call command;
        call read;
        cmp al, 0x55;
        jne no_controller;
        // Both devices on; configuration: interrupts still off, translation.
        mov al, 0xae;
        call command;
        mov al, 0xa8;
        call command;
        mov al, 0x60;
        call command;
        mov al, 0x44;
        call data;

        // Keyboard: reset (answers FAh, then AAh when its own test is done), scan.
        mov al, 0xff;
        call data;
        call read;
        cmp al, 0xfa;
        jne no_keyboard;
        call read;
        cmp al, 0xaa;
        jne no_keyboard;
        mov al, 0xf4;
        call data;
        call read;
        cmp al, 0xfa;
        jne no_keyboard;
        mov byte_ptr(KEYBOARD_FOUND), 1;
        at no_keyboard;

        // Mouse: the same, with its identification after the test.
        mov al, 0xff;
        call mouse;
        call read;
        cmp al, 0xfa;
        jne no_mouse;
        call read;
        cmp al, 0xaa;
        jne no_mouse;
        call read;
        test al, al;
        jne no_mouse;
        mov al, 0xf4;
        call mouse;
        call read;
        cmp al, 0xfa;
        jne no_mouse;
        mov byte_ptr(MOUSE_FOUND), 1;
        at no_mouse;

        // Configuration: both interrupts, translation. Then the lines are opened.
        mov al, 0x60;
        call command;
        mov al, 0x47;
        call data;
        in_ al, 0x21;
        and al, 0xff & !0x06;
        out 0x21, al;
        in_ al, 0xa1;
        and al, 0xff & !0x10;
        out 0xa1, al;
        at no_controller;
        ret;

        // AL to the command port, the data port, the mouse.
        at command;
        call ready;
        out 0x64, al;
        ret;
        at mouse;
        push eax;
        mov al, 0xd4;
        call command;
        pop eax;
        at data;
        call ready;
        out 0x60, al;
        ret;
    );

    // Status bit 1: the controller has not yet taken the last byte. Bit 0: it has one for us.
    // Either is waited for up to a second; then AL is zero.
    let (wait, over, wait_output, taken, late) =
        (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at ready;
        push eax;
        mov ebx, dword_ptr(TICKS);
        at wait;
        in_ al, 0x64;
        test al, 2;
        jz over;
        mov edx, dword_ptr(TICKS);
        sub edx, ebx;
        cmp edx, 100;
        jb wait;
        at over;
        pop eax;
        ret;
        at read;
        mov ebx, dword_ptr(TICKS);
        at wait_output;
        in_ al, 0x64;
        test al, 1;
        jnz taken;
        mov edx, dword_ptr(TICKS);
        sub edx, ebx;
        cmp edx, 100;
        jb wait_output;
        jmp late;
        at taken;
        in_ al, 0x60;
        ret;
        at late;
        xor eax, eax;
        ret;
    );
    Ok(())
}

fn events(a: &mut Asm) -> Built {
    let l = a.l;
    let set_1 = a.bytes(SET_1);
    let take = a.local();
    let (keys, no_keys, silent, mice, no_mice, first, coms, no_coms, other) = (
        a.local(),
        a.local(),
        a.local(),
        a.local(),
        a.local(),
        a.local(),
        a.local(),
        a.local(),
        a.local(),
    );
    let quoted = a.local();
    asm!(a:
        // EBP: the command to answer.
        at l.events;
        pushad;
        xor ebp, ebp;
        at keys;
        mov edi, KEY_QUEUE;
        call take;
        jc no_keys;
        say "key ";
        call l.hex2;
        cmp al, SET_1.len() as u32;
        jae silent;
        movzx eax, al;
        mov al, byte_ptr(eax + set_1);
        call quoted;
        at silent;
        say "\n";
        jmp keys;
        at no_keys;

        // A packet is three bytes; bit 3 of the first is set, which finds the start again.
        at mice;
        mov edi, MOUSE_QUEUE;
        call take;
        jc no_mice;
        mov ecx, dword_ptr(MOUSE_COUNT);
        test ecx, ecx;
        jnz first;
        test al, 8;
        jz mice;
        at first;
        mov byte_ptr(ecx + MOUSE_PACKET), al;
        inc ecx;
        mov dword_ptr(MOUSE_COUNT), ecx;
        cmp ecx, 3;
        jb mice;
        mov dword_ptr(MOUSE_COUNT), 0;
        say "mouse ";
        mov al, byte_ptr(MOUSE_PACKET);
        call l.hex2;
    );
    // Bits 4 and 5 of the first byte are the signs of the second and third.
    for (byte, sign) in [(1_u32, 0x10), (2, 0x20)] {
        let positive = a.local();
        asm!(a:
            say " ";
            movzx eax, byte_ptr(MOUSE_PACKET + byte);
            test byte_ptr(MOUSE_PACKET), sign;
            jz positive;
            sub eax, 0x100;
            at positive;
            call l.sdec;
        );
    }
    asm!(a:
        say "\n";
        jmp mice;
        at no_mice;

        at coms;
        mov edi, COM_QUEUE;
        call take;
        jc no_coms;
        say "serial ";
        call l.hex2;
        call quoted;
        say "\n";
        jmp coms;
        at no_coms;
        mov dword_ptr(esp + 28), ebp;
        popad;
        ret;

        // Prints AL in quotes if it can be printed, and takes it for the command.
        at quoted;
        cmp al, 0x20;
        jb other;
        cmp al, 0x7f;
        jae other;
        say " '";
        call l.putc;
        say "'";
        movzx ebp, al;
        or ebp, 0x20;
        at other;
        ret;
    );

    let (empty, sleep, over) = (a.local(), a.local(), a.local());
    asm!(a:
        // AL from the queue at EDI, or carry.
        at take;
        mov ecx, dword_ptr(edi);
        cmp ecx, dword_ptr(edi + 4);
        je empty;
        mov al, byte_ptr(edi + ecx + 8);
        inc ecx;
        and ecx, QUEUE_LEN - 1;
        mov dword_ptr(edi), ecx;
        clc;
        ret;
        at empty;
        stc;
        ret;
        at l.any_key;
        at sleep;
        hlt;
        call l.events;
        test eax, eax;
        jnz over;
        jmp sleep;
        at over;
        ret;
    );
    Ok(())
}
