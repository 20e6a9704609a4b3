//! Disks on the two IDE channels, and the count of starts kept on the first of them.
//!
//! ATA/ATAPI-4 (T13/1153D), chapters 7 to 9: everything by programmed I/O, polled, 28-bit LBA.
//!
//! The count is in sector 1: the magic `ORRYDIAG`, then a 32-bit number, then zeros. A disk that
//! holds anything else there, or a boot sector in sector 0, is left alone.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

const MAGIC: [u32; 2] = [u32::from_le_bytes(*b"ORRY"), u32::from_le_bytes(*b"DIAG")];
/// Longest wait for a command, in ticks.
const PATIENCE: u32 = 1000;
const BSY: u32 = 0x80;
const DF_DRQ_ERR: u32 = 0x29;
const DRQ: u32 = 0x08;
const READ: u32 = 0x20;
const WRITE: u32 = 0x30;
const FLUSH: u32 = 0xe7;
const IDENTIFY: u32 = 0xec;

pub(crate) fn emit(a: &mut Asm) -> Built {
    // Carry: no answer or an error. AL: status.
    let (idle, wait, over, failed) = (a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at idle;
        push ebx;
        mov ebx, dword_ptr(TICKS);
        mov edx, dword_ptr(IDE_BASE);
        add edx, 7;
        at wait;
        in_ al, dx;
        test al, BSY;
        jz over;
        mov ecx, dword_ptr(TICKS);
        sub ecx, ebx;
        cmp ecx, PATIENCE;
        jb wait;
        at failed;
        pop ebx;
        stc;
        ret;
        at over;
        pop ebx;
        clc;
        ret;
    );

    // Selects the drive and sends command AL for sector EBX, then waits. Carry: refused.
    let command = a.local();
    let (refused, moved) = (a.local(), a.local());
    asm!(a:
        at command;
        push eax;
        mov edx, dword_ptr(IDE_BASE);
        add edx, 6;
        mov eax, ebx;
        shr eax, 24;
        or al, byte_ptr(IDE_DRIVE);
        out dx, al;
        call idle;
        jc refused;
        mov edx, dword_ptr(IDE_BASE);
        add edx, 2;
        mov al, 1;
        out dx, al;
        inc edx;
        mov eax, ebx;
        out dx, al;
        inc edx;
        mov al, ah;
        out dx, al;
        inc edx;
        shr eax, 16;
        out dx, al;
        pop eax;
        add edx, 2;
        out dx, al;
        // The status is valid 400 ns later: reading the alternate status takes that long.
        push eax;
        add edx, 0x1ff;
        in_ al, dx;
        in_ al, dx;
        in_ al, dx;
        in_ al, dx;
        pop eax;
        call idle;
        jc moved;
        test al, 0x21;
        jz moved;
        stc;
        ret;
        at refused;
        pop eax;
        stc;
        at moved;
        ret;
    );

    // 512 bytes between the data port and the sector buffer. Carry: the drive did not ask for it.
    let (take, give, no_data) = (a.local(), a.local(), a.local());
    asm!(a:
        at take;
        and al, DF_DRQ_ERR;
        cmp al, DRQ;
        jne no_data;
        mov edx, dword_ptr(IDE_BASE);
        mov edi, SECTOR;
        mov ecx, 256;
        rep_insw;
        clc;
        ret;
        at give;
        and al, DF_DRQ_ERR;
        cmp al, DRQ;
        jne no_data;
        mov edx, dword_ptr(IDE_BASE);
        mov esi, SECTOR;
        mov ecx, 256;
        rep_outsw;
        call idle;
        jc no_data;
        test al, 0x21;
        jnz no_data;
        clc;
        ret;
        at no_data;
        stc;
        ret;
    );
    list(a, command, take)?;
    starts(a, command, take, give)
}

fn list(a: &mut Asm, command: CodeLabel, take: CodeLabel) -> Built {
    let l = a.l;
    let (probe, none, some, lba) = (a.local(), a.local(), a.local(), a.local());
    a.at(l.disk_list)?;
    for base in [0x1f0, 0x170] {
        for drive in [0xe0, 0xf0] {
            asm!(a:
                mov dword_ptr(IDE_BASE), base;
                mov dword_ptr(IDE_DRIVE), drive;
                call probe;
            );
        }
    }
    let (swap, packet, is_disk, end) = (a.local(), a.local(), a.local(), a.local());
    asm!(a:
        cmp dword_ptr(IDE_COUNT), 0;
        jne some;
        say "disk none\n";
        at some;
        ret;

        at probe;
        mov edx, dword_ptr(IDE_BASE);
        // Interrupts off: device control, nIEN.
        push edx;
        add edx, 0x206;
        mov al, 2;
        out dx, al;
        pop edx;
        add edx, 6;
        mov al, byte_ptr(IDE_DRIVE);
        out dx, al;
        inc edx;
        in_ al, dx;
        // A bus without drives floats high, an absent drive reads zero.
        cmp al, 0xff;
        je none;
        test al, al;
        je none;
        xor ebx, ebx;
        mov al, IDENTIFY;
        call command;
        jc packet;
        call take;
        jc none;
        at is_disk;
        cmp dword_ptr(IDE_FIRST), 0;
        jne lba;
        mov eax, dword_ptr(IDE_BASE);
        mov dword_ptr(IDE_FIRST), eax;
        mov eax, dword_ptr(IDE_DRIVE);
        mov dword_ptr(IDE_FIRST_DRIVE), eax;
        at lba;
        inc dword_ptr(IDE_COUNT);
        say "disk ";
        mov eax, dword_ptr(IDE_BASE);
        call l.hex4;
        say " drive ";
        mov eax, dword_ptr(IDE_DRIVE);
        shr eax, 4;
        and eax, 1;
        call l.dec;
        say " ";
        // Words 27 to 46: the model, first letter in the high byte.
        mov ecx, 20;
        mov esi, SECTOR + 54;
        at swap;
        rol word_ptr(esi), 8;
        add esi, 2;
        dec ecx;
        jnz swap;
        mov esi, SECTOR + 54;
        mov ecx, 40;
        call l.trimmed;
        say ", ";
        // Words 60 and 61: sectors.
        mov eax, dword_ptr(SECTOR + 120);
        call l.dec;
        say " sectors\n";
        ret;
        // A packet device refuses and leaves its signature in the cylinder registers.
        at packet;
        mov edx, dword_ptr(IDE_BASE);
        add edx, 4;
        in_ al, dx;
        mov ah, al;
        inc edx;
        in_ al, dx;
        cmp ax, 0x14eb;
        jne end;
        inc dword_ptr(IDE_COUNT);
        say "disk ";
        mov eax, dword_ptr(IDE_BASE);
        call l.hex4;
        say " drive ";
        mov eax, dword_ptr(IDE_DRIVE);
        shr eax, 4;
        and eax, 1;
        call l.dec;
        say " ATAPI\n";
        at end;
        at none;
        ret;
    );
    Ok(())
}

fn starts(a: &mut Asm, command: CodeLabel, take: CodeLabel, give: CodeLabel) -> Built {
    let l = a.l;
    let (some, no_boot, known, check, count, foreign, error) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        at l.disk_starts;
        mov eax, dword_ptr(IDE_FIRST);
        test eax, eax;
        jnz some;
        say "starts: not counted, no IDE disk\n";
        ret;
        at some;
        mov dword_ptr(IDE_BASE), eax;
        mov eax, dword_ptr(IDE_FIRST_DRIVE);
        mov dword_ptr(IDE_DRIVE), eax;
        xor ebx, ebx;
        mov al, READ;
        call command;
        jc error;
        call take;
        jc error;
        cmp word_ptr(SECTOR + 510), 0xaa55;
        jne no_boot;
        say "starts: not counted, the disk has a boot sector\n";
        ret;
        at no_boot;
        mov ebx, 1;
        mov al, READ;
        call command;
        jc error;
        call take;
        jc error;
        mov edi, SECTOR;
        mov ecx, 512 / 4;
        cmp dword_ptr(SECTOR), MAGIC[0];
        jne check;
        cmp dword_ptr(SECTOR + 4), MAGIC[1];
        jne check;
        at known;
        add edi, 12;
        mov ecx, 500 / 4;
        at check;
        xor eax, eax;
        repe_scasd;
        jne foreign;
        at count;
        mov dword_ptr(SECTOR), MAGIC[0];
        mov dword_ptr(SECTOR + 4), MAGIC[1];
        inc dword_ptr(SECTOR + 8);
        mov al, WRITE;
        call command;
        jc error;
        call give;
        jc error;
        mov al, FLUSH;
        call command;
        jc error;
        say "starts: ";
        mov eax, dword_ptr(SECTOR + 8);
        call l.dec;
        say "\n";
        ret;
        at foreign;
        say "starts: not counted, sector 1 of the disk holds something else\n";
        ret;
        at error;
        say "starts: not counted, disk error\n";
        ret;
    );
    Ok(())
}
