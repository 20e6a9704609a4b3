//! What processor this is: Intel SDM volume 2, CPUID.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

const AC: u32 = 1 << 18;
const ID: u32 = 1 << 21;

pub(crate) fn emit(a: &mut Asm) -> Built {
    let l = a.l;
    let toggles = a.local();
    let (i386, i486, identified, no_name, end) =
        (a.local(), a.local(), a.local(), a.local(), a.local());
    asm!(a:
        // Flags in EAX that can be changed, of those in ECX.
        at toggles;
        pushfd;
        pop eax;
        mov ebx, eax;
        xor eax, ecx;
        push eax;
        popfd;
        pushfd;
        pop eax;
        push ebx;
        popfd;
        xor eax, ebx;
        and eax, ecx;
        ret;

        at l.cpu_list;
        say "cpu ";
        mov ecx, ID;
        call toggles;
        jnz identified;
        mov ecx, AC;
        call toggles;
        jz i386;
        say "486 without CPUID\n";
        jmp i486;
        at i386;
        say "386\n";
        at i486;
        jmp end;

        at identified;
        xor eax, eax;
        cpuid;
        mov dword_ptr(SCRATCH), ebx;
        mov dword_ptr(SCRATCH + 4), edx;
        mov dword_ptr(SCRATCH + 8), ecx;
        mov esi, SCRATCH;
        mov ecx, 12;
        call l.trimmed;
        mov eax, 1;
        cpuid;
        mov dword_ptr(CPU_SIGNATURE), eax;
        mov dword_ptr(CPU_FEATURES), edx;
        // The extended family counts when the family is 15, the extended model when it is 6 or 15.
        mov ebx, eax;
        shr ebx, 8;
        and ebx, 15;
        mov ecx, eax;
        shr ecx, 4;
        and ecx, 15;
        mov edx, eax;
        shr edx, 12;
        and edx, 0xf0;
    );
    let (with_model, no_model, no_family) = (a.local(), a.local(), a.local());
    asm!(a:
        cmp ebx, 6;
        je with_model;
        cmp ebx, 15;
        jne no_model;
        at with_model;
        or ecx, edx;
        at no_model;
        cmp ebx, 15;
        jne no_family;
        mov edx, eax;
        shr edx, 20;
        and edx, 0xff;
        add ebx, edx;
        at no_family;
        say " family ";
        push eax;
        mov eax, ebx;
        call l.dec;
        say " model ";
        mov eax, ecx;
        call l.dec;
        say " stepping ";
        pop eax;
        and eax, 15;
        call l.dec;
        say " features ";
        mov eax, dword_ptr(CPU_FEATURES);
        call l.hex8;
        say "\n";
        mov eax, 0x8000_0000_u32;
        cpuid;
        cmp eax, 0x8000_0004_u32;
        jb no_name;
        say "cpu-name ";
    );
    for leaf in 0x8000_0002_u32..=0x8000_0004 {
        asm!(a: mov eax, leaf; cpuid;);
        let at = SECTOR + (leaf - 0x8000_0002) * 16;
        for (n, register) in [eax, ebx, ecx, edx].into_iter().enumerate() {
            a.mov(dword_ptr(at + n as u32 * 4), register)?;
        }
    }
    asm!(a:
        mov esi, SECTOR;
        mov ecx, 48;
        call l.trimmed;
        say "\n";
        at no_name;
        at end;
        ret;
    );
    Ok(())
}
