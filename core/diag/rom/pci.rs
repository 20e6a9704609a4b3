//! PCI: set-up of the few functions the ROM uses, and the list of all of them.
//! Base address registers are placed for displays and IDE only; the rest is listed.
//!
//! PCI Local Bus Specification 3.0, 3.2.2.3.2 (configuration mechanism 1) and chapter 6.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

const ADDRESS: u32 = 0xcf8;
const CONTENTS: u32 = 0xcfc;

/// Base class and subclass (FFh: any), as in appendix D of the specification, and a name.
const CLASSES: &[(u8, u8, &str)] = &[
    (0x00, 0xff, "unclassified"),
    (0x01, 0x00, "SCSI"),
    (0x01, 0x01, "IDE"),
    (0x01, 0x02, "floppy"),
    (0x01, 0x06, "SATA"),
    (0x01, 0x08, "NVMe"),
    (0x01, 0xff, "storage"),
    (0x02, 0x00, "ethernet"),
    (0x02, 0xff, "network"),
    (0x03, 0x00, "VGA"),
    (0x03, 0xff, "display"),
    (0x04, 0x01, "audio"),
    (0x04, 0x03, "HD audio"),
    (0x04, 0xff, "multimedia"),
    (0x05, 0xff, "memory"),
    (0x06, 0x00, "host bridge"),
    (0x06, 0x01, "ISA bridge"),
    (0x06, 0x04, "PCI bridge"),
    (0x06, 0xff, "bridge"),
    (0x07, 0x00, "serial port"),
    (0x07, 0xff, "communication"),
    (0x08, 0xff, "system"),
    (0x09, 0xff, "input"),
    (0x0c, 0x03, "USB"),
    (0x0c, 0x05, "SMBus"),
    (0x0c, 0xff, "serial bus"),
    (0x0d, 0xff, "wireless"),
    (0xff, 0xff, "other"),
];

pub(crate) fn emit(a: &mut Asm) -> Built {
    access(a)?;
    scan(a)?;
    list(a)
}

fn access(a: &mut Asm) -> Built {
    let l = a.l;
    asm!(a:
        at l.pci_read;
        push edx;
        or eax, 0x8000_0000_u32;
        mov dx, ADDRESS;
        out dx, eax;
        mov dx, CONTENTS;
        in_ eax, dx;
        pop edx;
        ret;
        at l.pci_write;
        push edx;
        push eax;
        or eax, 0x8000_0000_u32;
        mov dx, ADDRESS;
        out dx, eax;
        mov dx, CONTENTS;
        mov eax, ecx;
        out dx, eax;
        pop eax;
        pop edx;
        ret;
    );
    Ok(())
}

/// Fills the table of functions; numbers the buses behind bridges.
fn scan(a: &mut Asm) -> Built {
    let l = a.l;
    let none = a.local();
    asm!(a:
        at l.pci_setup;
        mov dword_ptr(PCI_NEXT_MEMORY), PCI_MEMORY;
        // The address register keeps what is written, if it is there.
        mov dx, ADDRESS;
        mov eax, 0x8000_0000_u32;
        out dx, eax;
        in_ eax, dx;
        cmp eax, 0x8000_0000_u32;
        jne none;
        xor ebx, ebx;
        call l.pci_bus;
        at none;
        ret;
    );

    // EBX: address of the first device of a bus.
    let (function, next_device, end, single, keep) =
        (a.local(), a.local(), a.local(), a.local(), a.local());
    let configure = a.local();
    let (bridge, advance) = (a.local(), a.local());
    asm!(a:
        at l.pci_bus;
        mov ebp, ebx;
        add ebp, 0x1_0000;
        at function;
        mov eax, ebx;
        call l.pci_read;
        cmp ax, 0xffff;
        je single;
        mov esi, eax;
        lea eax, ptr(ebx + 8);
        call l.pci_read;
        mov edi, eax;
        mov edx, dword_ptr(PCI_COUNT);
        cmp edx, PCI_MAX;
        jae keep;
        inc dword_ptr(PCI_COUNT);
        imul_3 edx, edx, PCI_ENTRY;
        mov dword_ptr(edx + PCI_TABLE), ebx;
        mov dword_ptr(edx + PCI_TABLE + 4), esi;
        mov dword_ptr(edx + PCI_TABLE + 8), edi;
        at keep;
        call configure;
        // A header of type 1 is a bridge: its bus gets the next number, and while what is behind
        // it is found it passes on all numbers from there.
        lea eax, ptr(ebx + 0x0c);
        call l.pci_read;
        shr eax, 16;
        and al, 0x7f;
        cmp al, 1;
        jne advance;
        at bridge;
        inc dword_ptr(PCI_LAST_BUS);
        mov ecx, dword_ptr(PCI_LAST_BUS);
        push ecx;
        shl ecx, 8;
        mov eax, ebx;
        shr eax, 16;
        mov cl, al;
        or ecx, 0xff_0000;
        lea eax, ptr(ebx + 0x18);
        call l.pci_write;
        mov edx, ecx;
        pop ecx;
        push ebx;
        push ebp;
        push edx;
        mov ebx, ecx;
        shl ebx, 16;
        call l.pci_bus;
        pop ecx;
        pop ebp;
        pop ebx;
        and ecx, 0xffff;
        mov eax, dword_ptr(PCI_LAST_BUS);
        shl eax, 16;
        or ecx, eax;
        lea eax, ptr(ebx + 0x18);
        call l.pci_write;
        at advance;
        // Function 0 says whether there are others.
        test ebx, 0x700;
        jnz next_device;
        lea eax, ptr(ebx + 0x0c);
        call l.pci_read;
        test eax, 0x80_0000;
        jnz next_device;
        at single;
        test ebx, 0x700;
        jnz next_device;
        add ebx, 0x700;
        at next_device;
        add ebx, 0x100;
        cmp ebx, ebp;
        jb function;
        at end;
        ret;
    );
    configure_function(a, configure)
}

/// EBX: address, ESI: identification, EDI: class. Sets up displays, IDE and power management.
fn configure_function(a: &mut Asm, configure: CodeLabel) -> Built {
    let (display, ide, piix4, ich9) = (a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at configure;
        mov eax, edi;
        shr eax, 16;
        cmp ah, 3;
        je display;
        cmp ax, 0x0101;
        je ide;
        cmp esi, 0x7113_8086;
        je piix4;
        cmp esi, 0x2918_8086;
        je ich9;
        ret;
    );
    let l = a.l;

    // Memory BARs are sized (6.2.5.1) and placed one behind the other; the first one of the first
    // display is the frame buffer. I/O and memory are then switched on.
    let (bar, next, enable, first, wide) = (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at display;
        pushad;
        lea esi, ptr(ebx + 0x10);
        lea edi, ptr(ebx + 0x28);
        at bar;
        mov eax, esi;
        mov ecx, 0xffff_ffff_u32;
        call l.pci_write;
        call l.pci_read;
        test al, 1;
        jnz next;
        mov edx, eax;
        and eax, 0xffff_fff0_u32;
        jz next;
        neg eax;
        // EAX: size. The place is a multiple of it.
        mov ecx, dword_ptr(PCI_NEXT_MEMORY);
        lea ecx, ptr(ecx + eax - 1);
        mov ebp, eax;
        neg ebp;
        and ecx, ebp;
        add eax, ecx;
        mov dword_ptr(PCI_NEXT_MEMORY), eax;
        mov eax, esi;
        call l.pci_write;
        cmp dword_ptr(LFB), 0;
        jne first;
        mov dword_ptr(LFB), ecx;
        at first;
        test dl, 4;
        jz next;
        at wide;
        // The upper half of a 64-bit BAR.
        add esi, 4;
        mov eax, esi;
        xor ecx, ecx;
        call l.pci_write;
        at next;
        add esi, 4;
        cmp esi, edi;
        jb bar;
        mov ecx, 3;
        at enable;
        lea eax, ptr(ebx + 4);
        call l.pci_write;
        popad;
        ret;
    );

    // 82371SB (PIIX3) data sheet, 2.3: BMIBA at 20h, IDETIM at 40h with the decode enable of either
    // channel in bit 15. Others answer at the compatible ports without.
    let other = a.local();
    asm!(a:
        at ide;
        pushad;
        lea eax, ptr(ebx + 0x20);
        mov ecx, PCI_IO;
        call l.pci_write;
        cmp si, 0x8086;
        jne other;
        lea eax, ptr(ebx + 0x40);
        call l.pci_read;
        mov ecx, eax;
        or ecx, 0x8000_8000_u32;
        lea eax, ptr(ebx + 0x40);
        call l.pci_write;
        at other;
        mov ecx, 1;
        jmp enable;
    );

    // 82371AB (PIIX4) data sheet, 7.1: PMBA at 40h, PMREGMISC at 80h.
    // ICH9 data sheet, 13.1: PMBASE at 40h, ACPI_CNTL at 44h.
    asm!(a:
        at piix4;
        pushad;
        mov ebp, 0x80;
        mov edx, 1;
    );
    let power = a.local();
    asm!(a:
        jmp power;
        at ich9;
        pushad;
        mov ebp, 0x44;
        mov edx, 0x80;
        at power;
        lea eax, ptr(ebx + 0x40);
        mov ecx, PM_BASE | 1;
        call l.pci_write;
        lea eax, ptr(ebx + ebp);
        call l.pci_read;
        mov ecx, eax;
        or ecx, edx;
        lea eax, ptr(ebx + ebp);
        call l.pci_write;
        mov dword_ptr(PM_CONTROL), PM_BASE + 4;
        // Command: I/O, and for the bridge what it had.
        lea eax, ptr(ebx + 4);
        call l.pci_read;
        movzx ecx, ax;
        or ecx, 1;
        jmp enable;
    );
    Ok(())
}

fn list(a: &mut Asm) -> Built {
    let l = a.l;
    let mut table = Vec::new();
    for &(base, sub, name) in CLASSES {
        let name = a.string(name);
        table.extend([sub, base, 0, 0]);
        table.extend(name.to_le_bytes());
    }
    let table = a.bytes(&table);
    let end_of_table = table + CLASSES.len() as u32 * 8;
    let unknown = a.string("unknown");

    let (some, each, class, found, miss, end) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.pci_list;
        mov ebp, dword_ptr(PCI_COUNT);
        test ebp, ebp;
        jnz some;
        say "pci none\n";
        ret;
        at some;
        mov edi, PCI_TABLE;
        at each;
        say "pci ";
        mov ebx, dword_ptr(edi);
        mov eax, ebx;
        shr eax, 16;
        call l.hex2;
        say ":";
        mov eax, ebx;
        shr eax, 11;
        and eax, 31;
        call l.hex2;
        say ".";
        mov eax, ebx;
        shr eax, 8;
        and eax, 7;
        call l.dec;
        say " ";
        mov eax, dword_ptr(edi + 4);
        call l.hex4;
        say ":";
        shr eax, 16;
        call l.hex4;
        say " ";
        mov ecx, dword_ptr(edi + 8);
        mov eax, ecx;
        shr eax, 24;
        call l.hex2;
        say ".";
        mov eax, ecx;
        shr eax, 16;
        call l.hex2;
        say " ";
        shr ecx, 16;
        mov esi, table;
        at class;
        cmp ch, byte_ptr(esi + 1);
        jne miss;
        cmp cl, byte_ptr(esi);
        je found;
        cmp byte_ptr(esi), 0xff;
        je found;
        at miss;
        add esi, 8;
        cmp esi, end_of_table;
        jb class;
        mov esi, unknown;
        jmp end;
        at found;
        mov esi, dword_ptr(esi + 4);
        at end;
        call l.puts;
        say "\n";
        add edi, PCI_ENTRY;
        dec ebp;
        jnz each;
        ret;
    );
    Ok(())
}
