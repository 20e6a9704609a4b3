//! The 8259A pair, the 8254, the CMOS clock and the local APIC: set-up and access.

use crate::rom::asm::{Asm, Built};
use crate::rom::interrupts::IRQ_BASE;
use crate::rom::layout::*;
use iced_x86::code_asm::*;

/// Input clock of the 8254 in Hz.
pub(crate) const PIT_HZ: u32 = 1_193_182;

/// Where the local APIC is after reset.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// CPUID leaf 1 EDX: there is one.
pub(crate) const HAS_APIC: u32 = 1 << 9;

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    let divisor = PIT_HZ.div_ceil(100);
    let no_apic = a.local();
    asm!(a:
        at l.chips_init;
        // Intel 8259A data sheet, initialisation command words: edge triggered, cascaded on line
        // 2, 8086 mode, normal end of interrupt.
        outb 0x20, 0x11;
        outb 0xa0, 0x11;
        outb 0x21, IRQ_BASE;
        outb 0xa1, IRQ_BASE + 8;
        outb 0x21, 0x04;
        outb 0xa1, 0x02;
        outb 0x21, 0x01;
        outb 0xa1, 0x01;
        // Open: timer and COM1. Keyboard and mouse follow when they are set up.
        outb 0x21, 0xff & !0x11;
        outb 0xa1, 0xff;
        // Intel 8254 data sheet: counter 0, both bytes, mode 2, 100 Hz.
        outb 0x43, 0x34;
        outb 0x40, divisor & 0xff;
        outb 0x40, divisor >> 8;
        // Motorola MC146818A: 24 hours, BCD, no interrupts.
        outb 0x70, 0x8b;
        outb 0x71, 0x02;
        outb 0x70, 0x8c;
        inb 0x71;
        // SDM volume 3, 11.5.1 and 11.9: with a local APIC, the 8259A's request comes in at its
        // pin LINT0, which is masked at reset: on, LINT0 an external interrupt, LINT1 the NMI.
        test dword_ptr(CPU_FEATURES), HAS_APIC;
        jz no_apic;
        mov dword_ptr(LOCAL_APIC + 0xf0), 0x1ff;
        mov dword_ptr(LOCAL_APIC + 0x350), 0x700;
        mov dword_ptr(LOCAL_APIC + 0x360), 0x400;
        at no_apic;
        ret;

        at l.cmos_read;
        or al, 0x80;
        out 0x70, al;
        in_ al, 0x71;
        ret;
    );
    let (sleep, over) = (a.local(), a.local());
    asm!(a:
        at l.wait_ticks;
        push ebx;
        mov ebx, dword_ptr(TICKS);
        at sleep;
        mov edx, dword_ptr(TICKS);
        sub edx, ebx;
        cmp edx, eax;
        jae over;
        hlt;
        jmp sleep;
        at over;
        pop ebx;
        ret;
    );
    Ok(())
}
