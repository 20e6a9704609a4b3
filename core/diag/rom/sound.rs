//! PC speaker: counter 2 of the 8254 through the gate and enable bits of port 61h (IBM AT
//! Technical Reference, system board, speaker).

use crate::rom::asm::{Asm, Built};
use crate::rom::chips::PIT_HZ;
use iced_x86::code_asm::*;

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    let divisor = PIT_HZ / 1000;
    asm!(a:
        at l.beep;
        outb 0x43, 0xb6;
        outb 0x42, divisor & 0xff;
        outb 0x42, divisor >> 8;
        in_ al, 0x61;
        or al, 3;
        out 0x61, al;
        mov eax, 20;
        call l.wait_ticks;
        in_ al, 0x61;
        and al, 0xfc;
        out 0x61, al;
        ret;
    );
    let (sample, changed, stuck, end) = (a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.sound_list;
        call l.beep;
        // The counter's output shows in bit 5, with the gate open and the speaker off.
        in_ al, 0x61;
        or al, 1;
        out 0x61, al;
        in_ al, 0x61;
        mov bl, al;
        mov ecx, 1_000_000;
        at sample;
        in_ al, 0x61;
        xor al, bl;
        test al, 0x20;
        jnz changed;
        dec ecx;
        jnz sample;
        jmp stuck;
        at changed;
        say "speaker 1000 Hz, 200 ms\n";
        jmp end;
        at stuck;
        say "speaker silent: counter 2 stands still\n";
        at end;
        in_ al, 0x61;
        and al, 0xfc;
        out 0x61, al;
        ret;
    );
    Ok(())
}
