//! From the reset vector to 32-bit code, and the order of what follows.
//!
//! Intel SDM volume 3, 10.1.4: the first instruction is fetched 16 bytes below 4 GiB, where the
//! chip set shows the end of this image. A far jump brings CS to F000h, its real-mode meaning;
//! 10.9.1 describes the switch to protected mode.

use crate::rom::asm::{Asm, Built};
use crate::rom::layout::*;
use iced_x86::code_asm::*;

/// Where the processor starts.
pub(crate) const VECTOR: u32 = ROM_BASE + 0xfff0;

/// Flat 32-bit code.
pub(crate) const CODE_SELECTOR: u32 = 0x08;
const DATA_SELECTOR: u32 = 0x10;

/// Flat segments, marked accessed since the processor could not write that into ROM, and behind
/// them the pointer that LGDT reads.
pub(crate) fn gdt() -> Vec<u8> {
    [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]
        .iter()
        .flat_map(|d| d.to_le_bytes())
        .collect()
}

/// The reset vector, the date and the model byte where a BIOS has them.
pub(crate) fn vector() -> [u8; 16] {
    let mut bytes = *b"\xea\x00\xff\x00\xf011/22/26\x00\xfc\x00";
    bytes[1..3].copy_from_slice(&((ENTRY16 - ROM_BASE) as u16).to_le_bytes());
    bytes
}

/// 16-bit code: loads flat segments and jumps to the 32-bit code.
pub(crate) fn entry16(gdt: u32) -> Built<Vec<u8>> {
    let mut a = CodeAssembler::new(16)?;
    let pointer = 0xffe0 - 8;
    a.cli()?;
    a.cld()?;
    // A reset of the CPU alone leaves the NMI gate as it was: close it.
    a.mov(al, 0x8f)?;
    a.out(0x70, al)?;
    a.lgdt(ptr(pointer).cs())?;
    a.mov(eax, cr0)?;
    a.or(al, 1)?;
    a.mov(cr0, eax)?;
    // JMP ptr16:32, for which the operand size prefix is needed here.
    a.db(&[0x66, 0xea])?;
    a.dd(&[CODE])?;
    a.dw(&[CODE_SELECTOR as u16])?;
    let mut bytes = a.assemble(u64::from(ENTRY16 - ROM_BASE))?;
    bytes.resize((pointer - (ENTRY16 - ROM_BASE)) as usize, 0xff);
    bytes.extend_from_slice(&23_u16.to_le_bytes());
    bytes.extend_from_slice(&gdt.to_le_bytes());
    Ok(bytes)
}

/// The 32-bit entry point.
pub(crate) fn start(a: &mut Asm) -> Built {
    let l = a.l;
    asm!(a:
        mov ax, DATA_SELECTOR;
        mov ds, ax;
        mov es, ax;
        mov fs, ax;
        mov gs, ax;
        mov ss, ax;
        mov esp, STACK;
        // A20: fast gate, bit 1 of port 92h; bit 0 would reset the processor.
        in_ al, 0x92;
        or al, 2;
        and al, 0xfe;
        out 0x92, al;
        mov edi, VARS;
        mov ecx, (VARS_END - VARS) / 4;
        xor eax, eax;
        rep_stosd;
        mov byte_ptr(ATTR), 0x07;
        mov dword_ptr(CURSOR), COLUMNS;
        call l.com1_init;
        call l.pci_setup;
        call l.vga_init;
        say "orrery-diag 1\n";
        call l.interrupts_init;
        call l.cpu_list;
        call l.chips_init;
        call l.input_init;
        call l.ram_list;
        call l.pci_list;
        call l.isa_list;
        call l.sound_list;
        call l.disk_list;
        call l.ram_test;
        call l.graphics_list;
        call l.disk_starts;
        jmp l.prompt;
    );
    Ok(())
}
