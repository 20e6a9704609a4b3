//! The diagnostic ROM, one module per part of the machine.
//!
//! The image is 64 KiB and sits at F0000h. Its first half is read-only data (strings, tables, the
//! font), its second half is 32-bit code in a flat address space, and the last 256 bytes hold the
//! 16-bit code that the processor meets at reset. All it writes lies below 64 KiB, see [`layout`].

#[macro_use]
mod asm;
mod chips;
mod console;
mod cpu;
mod disk;
mod font;
mod graphics;
mod input;
mod interrupts;
mod isa;
mod layout;
mod pci;
mod prompt;
mod ram;
mod reset;
mod sound;
mod vga;

use asm::{Asm, Built};
use layout::{CODE, DATA, ENTRY16, IMAGE_SIZE, ROM_BASE};

/// The 64 KiB image.
pub(crate) fn build() -> Built<Vec<u8>> {
    let mut asm = Asm::new()?;
    // The first instruction emitted is the 32-bit entry point.
    reset::start(&mut asm)?;
    console::emit(&mut asm)?;
    interrupts::emit(&mut asm)?;
    chips::emit(&mut asm)?;
    vga::emit(&mut asm)?;
    cpu::emit(&mut asm)?;
    pci::emit(&mut asm)?;
    isa::emit(&mut asm)?;
    ram::emit(&mut asm)?;
    graphics::emit(&mut asm)?;
    sound::emit(&mut asm)?;
    input::emit(&mut asm)?;
    disk::emit(&mut asm)?;
    prompt::emit(&mut asm)?;
    let gdt = asm.bytes(&reset::gdt());
    let (data, code) = asm.finish()?;

    let mut image = vec![0xff; IMAGE_SIZE];
    let mut put = |at: u32, bytes: &[u8]| {
        let at = (at - ROM_BASE) as usize;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(DATA, &data);
    put(CODE, &code);
    put(ENTRY16, &reset::entry16(gdt)?);
    put(reset::VECTOR, &reset::vector());
    Ok(image)
}
