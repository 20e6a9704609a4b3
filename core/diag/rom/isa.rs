//! What answers at the ports and addresses where an AT has its devices.

use crate::rom::asm::{Asm, Built};
use crate::rom::chips::{HAS_APIC, LOCAL_APIC};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

const FW_CFG: u32 = 0x510;
const HPET: u32 = 0xfed0_0000;
const IO_APIC: u32 = 0xfec0_0000;

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    a.at(l.isa_list)?;
    intel_chips(a)?;
    clock(a)?;
    controller_8042(a)?;
    for (n, port) in [0x3f8, 0x2f8, 0x3e8, 0x2e8].into_iter().enumerate() {
        com(a, n + 1, port)?;
    }
    for (n, port) in [0x378, 0x278, 0x3bc].into_iter().enumerate() {
        lpt(a, n + 1, port)?;
    }
    floppy(a)?;
    fw_cfg(a)?;
    memory_mapped(a)?;
    a.ret()
}

/// 8259A, 8254, 8237A: registers that read back, a counter that counts, an interrupt that comes.
fn intel_chips(a: &mut Asm) -> Built {
    let (no_pic, no_pit, moves, still, came, silent, end) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    let count = a.local();
    let over = a.local();
    asm!(a:
        // The mask of the second controller, turned over and back.
        in_ al, 0xa1;
        mov bl, al;
        xor al, 0x0c;
        mov bh, al;
        out 0xa1, al;
        in_ al, 0xa1;
        cmp al, bh;
        jne no_pic;
        say "isa 020 8259A pair\n";
        at no_pic;
        mov al, bl;
        out 0xa1, al;

        call count;
        mov ebx, eax;
        mov ecx, 100_000;
        at moves;
        call count;
        cmp eax, ebx;
        jne still;
        dec ecx;
        jnz moves;
        jmp no_pit;
        at still;
        mov eax, dword_ptr(TICKS);
        mov ecx, 50_000_000;
        say "isa 040 8254 running, ";
        at came;
        cmp eax, dword_ptr(TICKS);
        jne silent;
        dec ecx;
        jnz came;
        say "no interrupt\n";
        jmp end;
        at silent;
        say "interrupts arrive\n";
        jmp end;
        // EAX: count of counter 0, latched.
        at count;
        outb 0x43, 0;
        inb 0x40;
        mov ah, al;
        inb 0x40;
        xchg al, ah;
        movzx eax, ax;
        ret;
        at no_pit;
        say "isa 040 8254 stopped\n";
        at end;
    );
    // Address register of a channel of each 8237A, through the byte flip-flop.
    for (name, address, flip_flop) in
        [("isa 000 8237A DMA 0-3\n", 0x02, 0x0c), ("isa 0c0 8237A DMA 4-7\n", 0xc4, 0xd8)]
    {
        let none = a.local();
        asm!(a:
            outb flip_flop, 0;
            outb address, 0x34;
            outb address, 0x12;
            outb flip_flop, 0;
            inb address;
            mov ah, al;
            inb address;
            cmp ax, 0x3412;
            jne none;
            say name;
            at none;
        );
    }
    asm!(a: at over;);
    Ok(())
}

/// MC146818A: date and time, read while no update is in progress (register A bit 7).
fn clock(a: &mut Asm) -> Built {
    let l = a.l;
    let (wait, read, decimal, number, end) =
        (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        say "isa 070 RTC ";
        mov ecx, 1_000_000;
        at wait;
        mov al, 0x0a;
        call l.cmos_read;
        test al, 0x80;
        jz read;
        dec ecx;
        jnz wait;
        at read;
    );
    for (register, before) in
        [(0x32, ""), (9, ""), (8, "-"), (7, "-"), (4, " "), (2, ":"), (0, ":")]
    {
        a.say(before)?;
        asm!(a: mov al, register; call number;);
    }
    asm!(a:
        say "\n";
        jmp end;
        // Prints a register, BCD or binary as register B bit 2 says.
        at number;
        call l.cmos_read;
        mov bl, al;
        mov al, 0x0b;
        call l.cmos_read;
        test al, 4;
        mov al, bl;
        jz decimal;
        call l.dec2;
        ret;
        at decimal;
        call l.hex2;
        ret;
        at end;
    );
    Ok(())
}

fn controller_8042(a: &mut Asm) -> Built {
    let (no_keyboard, no_mouse) = (a.local(), a.local());
    asm!(a:
        say "isa 060 8042";
        cmp byte_ptr(KEYBOARD_FOUND), 0;
        je no_keyboard;
        say " keyboard";
        at no_keyboard;
        cmp byte_ptr(MOUSE_FOUND), 0;
        je no_mouse;
        say " mouse";
        at no_mouse;
        say "\n";
    );
    Ok(())
}

/// 16550 and before: a scratch register that keeps two values, and FIFOs if IIR says so.
fn com(a: &mut Asm, number: usize, port: u32) -> Built {
    let (none, old, end) = (a.local(), a.local(), a.local());
    for value in [0x5a, 0xa5] {
        asm!(a: outb port + 7, value; inb port + 7; cmp al, value; jne none;);
    }
    asm!(a:
        say &format!("isa {port:03x} COM{number} ");
        outb port + 2, 1;
        inb port + 2;
        and al, 0xc0;
        cmp al, 0xc0;
        jne old;
        say "16550A\n";
        jmp end;
        at old;
        say "16450\n";
        at none;
        at end;
    );
    Ok(())
}

/// A data register that keeps two values.
fn lpt(a: &mut Asm, number: usize, port: u32) -> Built {
    let none = a.local();
    for value in [0x55, 0xaa] {
        asm!(a: outb port, value; inb port; cmp al, value; jne none;);
    }
    asm!(a: say &format!("isa {port:03x} LPT{number}\n"); at none;);
    Ok(())
}

/// Intel 82077AA data sheet, 5.2.7 VERSION: answered with 90h, by older ones with 80h.
fn floppy(a: &mut Asm) -> Built {
    let l = a.l;
    let (none, idle, answer, send, take, old, end) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        // Out of reset, DMA gate on, motors off.
        outb 0x3f2, 0x0c;
        mov ecx, 100_000;
        at idle;
        inb 0x3f4;
        and al, 0xc0;
        cmp al, 0x80;
        je send;
        dec ecx;
        jnz idle;
        jmp none;
        at send;
        outb 0x3f5, 0x10;
        mov ecx, 100_000;
        at answer;
        inb 0x3f4;
        and al, 0xc0;
        cmp al, 0xc0;
        je take;
        dec ecx;
        jnz answer;
        jmp none;
        at take;
        inb 0x3f5;
        say "isa 3f0 FDC ";
        cmp al, 0x90;
        jne old;
        say "82077AA";
        jmp end;
        at old;
        say "765";
        at end;
        say ", drive types ";
        mov al, 0x10;
        call l.cmos_read;
        call l.hex2;
        say "\n";
        at none;
    );
    Ok(())
}

/// The firmware configuration interface of virtual machines: selector 0 reads "QEMU", selector 3
/// the memory size, selector 5 the number of processors.
fn fw_cfg(a: &mut Asm) -> Built {
    let l = a.l;
    let none = a.local();
    let select = |a: &mut Asm, key: u32| -> Built {
        asm!(a: mov dx, FW_CFG; mov ax, key; out dx, ax; inc edx;);
        Ok(())
    };
    select(a, 0)?;
    for letter in *b"QEMU" {
        asm!(a: in_ al, dx; cmp al, u32::from(letter); jne none;);
    }
    a.say("isa 510 fw_cfg, memory ")?;
    select(a, 3)?;
    for n in 0..8_u32 {
        asm!(a: in_ al, dx; mov byte_ptr(SCRATCH + n), al;);
    }
    asm!(a:
        mov eax, dword_ptr(SCRATCH);
        mov edx, dword_ptr(SCRATCH + 4);
        shrd eax, edx, 20;
        call l.dec;
        say " MiB, processors ";
    );
    select(a, 5)?;
    asm!(a:
        in_ al, dx;
        mov bl, al;
        in_ al, dx;
        mov bh, al;
        movzx eax, bx;
        call l.dec;
        say "\n";
        at none;
    );
    Ok(())
}

/// HPET (IA-PC HPET specification 1.0a, 2.3.4), local APIC (SDM volume 3, 11.4.8) and I/O APIC
/// (82093AA data sheet, 3.2).
fn memory_mapped(a: &mut Asm) -> Built {
    let l = a.l;
    let (no_hpet, no_apic, no_io_apic) = (a.local(), a.local(), a.local());
    asm!(a:
        mov eax, dword_ptr(HPET);
        test al, al;
        jz no_hpet;
        cmp al, 0xff;
        je no_hpet;
        say "hpet fed00000 vendor ";
        shr eax, 16;
        call l.hex4;
        say " timers ";
        mov eax, dword_ptr(HPET);
        shr eax, 8;
        and eax, 0x1f;
        inc eax;
        call l.dec;
        say "\n";
        at no_hpet;
        test dword_ptr(CPU_FEATURES), HAS_APIC;
        jz no_apic;
        say "apic fee00000 version ";
        mov eax, dword_ptr(LOCAL_APIC + 0x30);
        call l.hex2;
        say "\n";
        at no_apic;
        mov dword_ptr(IO_APIC), 1;
        mov eax, dword_ptr(IO_APIC + 0x10);
        test al, al;
        jz no_io_apic;
        cmp al, 0xff;
        je no_io_apic;
        say "ioapic fec00000 version ";
        call l.hex2;
        say " pins ";
        shr eax, 16;
        and eax, 0xff;
        inc eax;
        call l.dec;
        say "\n";
        at no_io_apic;
    );
    Ok(())
}
