//! How much memory there is, and whether it keeps what is written to it.
//!
//! The sizes come from CMOS, registers 15h-18h, 30h/31h (IBM AT Technical Reference, real-time
//! clock) and, as virtual machines and many BIOSes use them, 34h/35h for memory above 16 MiB and
//! 5Bh-5Dh for memory above 4 GiB, both in units of 64 KiB.
//!
//! The test fills every 4 KiB block of a range with a pattern of its own, compares, fills with the
//! complement, and compares again; above 1 MiB it then puts at every power of two its own address.
//! The last range is the memory the ROM works in: it is saved, tested without a stack, and put back.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

/// Where the working memory is kept meanwhile.
const SAVED: u32 = 0x2_0000;
/// Bytes of working memory.
const WORKING: u32 = 0x1_0000;
const MIB: u32 = 0x10_0000;
/// An odd number, so that blocks get different patterns.
const MIX: u32 = 0x9e37_79b1;

pub(crate) fn emit(a: &mut Asm) -> Built {
    sizes(a)?;
    test(a)
}

/// EAX: the 16-bit number in two CMOS registers.
fn cmos_word(a: &mut Asm, low: u32) -> Built {
    let l = a.l;
    asm!(a:
        mov al, low + 1;
        call l.cmos_read;
        mov ah, al;
        mov al, low;
        call l.cmos_read;
        movzx eax, ax;
    );
    Ok(())
}

fn sizes(a: &mut Asm) -> Built {
    let l = a.l;
    let (small, base_fits, done, no_high) = (a.local(), a.local(), a.local(), a.local());
    asm!(a: at l.ram_list;);
    cmos_word(a, 0x15)?;
    asm!(a:
        shl eax, 10;
        cmp eax, WINDOW;
        jbe base_fits;
        mov eax, WINDOW;
        at base_fits;
        and eax, 0xffff_f000_u32;
        mov dword_ptr(RAM_BASE_TOP), eax;
    );
    cmos_word(a, 0x34)?;
    asm!(a:
        test eax, eax;
        jz small;
        shl eax, 16;
        add eax, MIB * 16;
        jmp done;
        at small;
    );
    cmos_word(a, 0x30)?;
    asm!(a:
        shl eax, 10;
        add eax, MIB;
        at done;
        and eax, 0xffff_f000_u32;
        mov dword_ptr(RAM_TOP), eax;
        say "memory ";
        mov eax, dword_ptr(RAM_BASE_TOP);
        shr eax, 10;
        call l.dec;
        say " KiB + ";
        mov eax, dword_ptr(RAM_TOP);
        sub eax, MIB;
        shr eax, 10;
        call l.dec;
        say " KiB";
        // Above 4 GiB.
        mov al, 0x5d;
        call l.cmos_read;
        shl eax, 16;
        mov ebx, eax;
    );
    cmos_word(a, 0x5b)?;
    asm!(a:
        and ebx, 0xff_0000;
        or eax, ebx;
        shr eax, 4;
        jz no_high;
        say " + ";
        call l.dec;
        say " MiB above 4 GiB (not tested)";
        at no_high;
        say "\n";
        ret;
    );
    Ok(())
}

/// Tests from the start that `start` loads into EBX up to EBP. Counts in EDX, keeps the first bad
/// address in ESI, and uses neither stack nor variables but what `start` reads.
fn patterns(a: &mut Asm, start: impl Fn(&mut Asm) -> Built) -> Built {
    let pattern = |a: &mut Asm, complement: bool| -> Built {
        asm!(a: imul_3 eax, ebx, MIX as i32;);
        if complement {
            a.not(eax)?;
        }
        asm!(a: mov edi, ebx; mov ecx, 1024;);
        Ok(())
    };
    let compare = |a: &mut Asm| -> Built {
        let (again, equal, counted) = (a.local(), a.local(), a.local());
        asm!(a:
            at again;
            repe_scasd;
            je equal;
            test edx, edx;
            jnz counted;
            lea esi, ptr(edi - 4);
            at counted;
            inc edx;
            test ecx, ecx;
            jnz again;
            at equal;
        );
        Ok(())
    };
    let (fill, flip, check) = (a.local(), a.local(), a.local());
    start(a)?;
    a.at(fill)?;
    pattern(a, false)?;
    asm!(a: rep_stosd; add ebx, 0x1000; cmp ebx, ebp; jb fill;);
    start(a)?;
    a.at(flip)?;
    pattern(a, false)?;
    compare(a)?;
    pattern(a, true)?;
    asm!(a: rep_stosd; add ebx, 0x1000; cmp ebx, ebp; jb flip;);
    start(a)?;
    a.at(check)?;
    pattern(a, true)?;
    compare(a)?;
    asm!(a: add ebx, 0x1000; cmp ebx, ebp; jb check;);
    Ok(())
}

fn test(a: &mut Asm) -> Built {
    let l = a.l;
    let range = a.local();
    let (no_extended, write, written, verify, same, verified) =
        (a.local(), a.local(), a.local(), a.local(), a.local(), a.local());
    let (fine, kept) = (a.local(), a.local());
    asm!(a:
        at l.ram_test;
        mov dword_ptr(SCRATCH), WORKING;
        mov ebp, dword_ptr(RAM_BASE_TOP);
        call range;
        mov dword_ptr(SCRATCH), MIB;
        mov ebp, dword_ptr(RAM_TOP);
        cmp ebp, MIB;
        jbe no_extended;
        call range;
        // Address lines.
        mov ebx, 4;
        at write;
        lea edi, ptr(ebx + MIB);
        cmp edi, ebp;
        jae written;
        mov dword_ptr(edi), edi;
        add ebx, ebx;
        jnc write;
        at written;
        mov ebx, 4;
        at verify;
        lea edi, ptr(ebx + MIB);
        cmp edi, ebp;
        jae verified;
        cmp dword_ptr(edi), edi;
        je same;
        mov dword_ptr(RAM_FIRST), edi;
        inc dword_ptr(RAM_ERRORS);
        at same;
        add ebx, ebx;
        jnc verify;
        at verified;
        at no_extended;
        // The memory below 64 KiB, with this routine's stack in it.
        cli;
        xor esi, esi;
        mov edi, SAVED;
        mov ecx, WORKING / 4;
        rep_movsd;
        mov ebp, WORKING;
        xor edx, edx;
    );
    patterns(a, |a| a.xor(ebx, ebx))?;
    asm!(a:
        mov eax, esi;
        mov esi, SAVED;
        xor edi, edi;
        mov ecx, WORKING / 4;
        rep_movsd;
        sti;
        test edx, edx;
        jz kept;
        add dword_ptr(RAM_ERRORS), edx;
        mov dword_ptr(RAM_FIRST), eax;
        at kept;
        say "ram ";
        mov eax, dword_ptr(RAM_TOP);
        shr eax, 20;
        call l.dec;
        say " MiB, ";
        mov eax, dword_ptr(RAM_ERRORS);
        call l.dec;
        say " errors\n";
        test eax, eax;
        jz fine;
        say "ram-error at ";
        mov eax, dword_ptr(RAM_FIRST);
        call l.hex8;
        say "\n";
        at fine;
        ret;
    );

    let good = a.local();
    asm!(a: at range; xor edx, edx;);
    patterns(a, |a| a.mov(ebx, dword_ptr(SCRATCH)))?;
    asm!(a:
        test edx, edx;
        jz good;
        add dword_ptr(RAM_ERRORS), edx;
        mov dword_ptr(RAM_FIRST), esi;
        at good;
        ret;
    );
    Ok(())
}
