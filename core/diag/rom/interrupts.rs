//! Interrupt descriptor table, exceptions, and the handlers of the timer, keyboard, mouse and COM1.

use crate::rom::asm::{Asm, Built};
use crate::rom::console::COM1;
use crate::rom::layout::*;
use crate::rom::reset::CODE_SELECTOR;
use iced_x86::code_asm::*;

/// First vector of the interrupt controllers.
pub(crate) const IRQ_BASE: u32 = 0x20;
const VECTORS: usize = 0x30;
/// Exceptions that push an error code: SDM volume 3, table 6-1.
const WITH_ERROR_CODE: [usize; 9] = [8, 10, 11, 12, 13, 14, 17, 21, 29];

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    let handlers: Vec<CodeLabel> = (0..VECTORS).map(|_| a.local()).collect();
    let table = a.table(&handlers);
    let each = a.local();
    let pointer = a.bytes(&[(VECTORS * 8 - 1) as u8, ((VECTORS * 8 - 1) >> 8) as u8]);
    a.bytes(&IDT.to_le_bytes());
    asm!(a:
        at l.interrupts_init;
        mov esi, table;
        mov edi, IDT;
        mov ecx, VECTORS as u32;
        at each;
        // An interrupt gate: SDM volume 3, figure 6-2.
        lodsd;
        mov word_ptr(edi), ax;
        mov word_ptr(edi + 2), CODE_SELECTOR;
        mov word_ptr(edi + 4), 0x8e00;
        shr eax, 16;
        mov word_ptr(edi + 6), ax;
        add edi, 8;
        dec ecx;
        jnz each;
        lidt ptr(pointer);
        ret;
    );

    let stopped = a.local();
    for (vector, &handler) in handlers.iter().enumerate().take(IRQ_BASE as usize) {
        a.at(handler)?;
        if !WITH_ERROR_CODE.contains(&vector) {
            a.push(0)?;
        }
        a.push(vector as u32)?;
        a.jmp(stopped)?;
    }
    let halt = a.local();
    asm!(a:
        at stopped;
        mov byte_ptr(ATTR), 0x0c;
        say "\nexception ";
        mov eax, dword_ptr(esp);
        call l.dec;
        say " at ";
        mov eax, dword_ptr(esp + 8);
        call l.hex8;
        say " error code ";
        mov eax, dword_ptr(esp + 4);
        call l.hex8;
        say ", halted\n";
        at halt;
        cli;
        hlt;
        jmp halt;
    );

    // Of the interrupts not used here only the spurious ones can come: line 7 of either
    // controller. The first controller does not know that the second one's was spurious.
    let irq = |n: usize| handlers[IRQ_BASE as usize + n];
    for n in [2, 3, 5, 6, 7] {
        a.at(irq(n))?;
        a.nop()?;
    }
    asm!(a: iretd;);
    for n in 8..16 {
        if n != 12 {
            a.at(irq(n))?;
            a.nop()?;
        }
    }
    asm!(a:
        push eax;
        mov al, 0x20;
        out 0x20, al;
        pop eax;
        iretd;
        at irq(0);
        inc dword_ptr(TICKS);
        push eax;
        mov al, 0x20;
        out 0x20, al;
        pop eax;
        iretd;
    );

    let store = a.local();
    let full = a.local();
    let (more, done) = (a.local(), a.local());
    let (keyboard, taken) = (a.local(), a.local());
    asm!(a:
        // Keyboard and mouse: status bit 0 says whether there is a byte, bit 5 whose it is.
        at irq(12);
        push eax;
        mov al, 0x20;
        out 0xa0, al;
        pop eax;
        at irq(1);
        pushad;
        in_ al, 0x64;
        test al, 1;
        jz taken;
        mov edi, KEY_QUEUE;
        test al, 0x20;
        jz keyboard;
        mov edi, MOUSE_QUEUE;
        at keyboard;
        in_ al, 0x60;
        call store;
        at taken;
        mov al, 0x20;
        out 0x20, al;
        popad;
        iretd;
        // COM1: empties the receiver, which takes the interrupt away.
        at irq(4);
        pushad;
        mov edi, COM_QUEUE;
        at more;
        inb COM1 + 5;
        test al, 1;
        jz done;
        inb COM1;
        call store;
        jmp more;
        at done;
        mov al, 0x20;
        out 0x20, al;
        popad;
        iretd;
        // AL into the queue at EDI; a full queue drops it.
        at store;
        mov ecx, dword_ptr(edi + 4);
        lea edx, ptr(ecx + 1);
        and edx, QUEUE_LEN - 1;
        cmp edx, dword_ptr(edi);
        je full;
        mov byte_ptr(edi + ecx + 8), al;
        mov dword_ptr(edi + 4), edx;
        at full;
        ret;
    );
    Ok(())
}
