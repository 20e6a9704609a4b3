//! The end of the run: shows input, obeys four keys.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

/// PM1_CNT: SLP_EN, and the sleep type from bit 10 (ACPI specification, 4.8.3.2).
const SLP_EN: u32 = 1 << 13;
const SLP_TYP: u32 = 10;

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    let (again, sleep) = (a.local(), a.local());
    let (graphics, beep, reboot, power) = (a.local(), a.local(), a.local(), a.local());
    let (no_vbe, no_vga, halt, no_power) = (a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.prompt;
        say "keys: G graphics, B beep, R reboot, P power off\n";
        mov byte_ptr(ATTR), 0x0a;
        say "ready\n";
        mov byte_ptr(ATTR), 0x07;
        at again;
        call l.events;
        cmp al, u32::from(b'g');
        je graphics;
        cmp al, u32::from(b'b');
        je beep;
        cmp al, u32::from(b'r');
        je reboot;
        cmp al, u32::from(b'p');
        je power;
        at sleep;
        // Woken by the timer at the latest.
        hlt;
        jmp again;

        at graphics;
        cmp byte_ptr(VGA_FOUND), 0;
        je no_vga;
        say "graphics: 320x200, any key goes on\n";
        call l.picture_13h;
        call l.any_key;
        cmp dword_ptr(VBE_ID), 0;
        je no_vbe;
        say "graphics: 640x480, any key goes on\n";
        call l.picture_vbe;
        call l.any_key;
        at no_vbe;
        call l.text_mode;
        say "text\n";
        jmp again;
        at no_vga;
        say "no VGA\n";
        jmp again;

        at beep;
        call l.beep;
        say "beep\n";
        jmp again;

        // 8042 command FEh pulses its output 0, the reset line.
        at reboot;
        say "reboot\n";
        outb 0x64, 0xfe;
        jmp halt;

        at power;
        mov edx, dword_ptr(PM_CONTROL);
        test edx, edx;
        jz no_power;
        say "power off\n";
        // Soft off is type 7 on ICH9 (data sheet, 13.8.3.3) and type 0 on PIIX4 (82371AB, 7.2.3);
        // virtual machines use 0 on both. Type 7 means nothing to a PIIX4.
        mov ax, 7 << SLP_TYP | SLP_EN;
        out dx, ax;
        mov ax, SLP_EN;
        out dx, ax;
        at no_power;
        say "halted\n";
        at halt;
        cli;
        hlt;
        jmp halt;
    );
    Ok(())
}
