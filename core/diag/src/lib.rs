//! The diagnostic ROM that starts when nothing else is there to start.
//!
//! A PC firmware image of this project's own, assembled from `rom/` when the crate is built. It
//! takes the place of the BIOS on the machines `pc`, `isapc` and `q35`: sets the chips up by their
//! registers, lists what it finds, tests the memory, shows text and graphics, beeps, counts its
//! own starts on the first IDE disk, and then shows keyboard and mouse input. Everything it prints
//! appears on the screen and on COM1, one fact per line, beginning with `orrery-diag 1` and ending
//! with `ready`.

#![forbid(unsafe_code)]

/// The image: 64 KiB, to be shown at F0000h and at the end of the 4 GiB.
pub const ROM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/diag.bin"));

#[cfg(test)]
mod tests {
    use super::ROM;

    fn holds(text: &str) -> bool {
        ROM.windows(text.len()).any(|w| w == text.as_bytes())
    }

    #[test]
    fn the_image_is_64_kib_and_covers_f0000() {
        assert_eq!(ROM.len(), 0x1_0000);
    }

    #[test]
    fn the_reset_vector_jumps_far_into_the_image() {
        // JMP F000:FF00, then the date and the model byte of an AT.
        assert_eq!(ROM[0xfff0..0xfff5], [0xea, 0x00, 0xff, 0x00, 0xf0]);
        assert_eq!(ROM[0xfffe], 0xfc);
        // CLI, CLD.
        assert_eq!(ROM[0xff00..0xff02], [0xfa, 0xfc]);
    }

    #[test]
    fn lgdt_reads_a_pointer_to_flat_segments() {
        let code = &ROM[0xff00..0xffd8];
        let lgdt = code.windows(4).position(|w| w == [0x2e, 0x0f, 0x01, 0x16]).expect("lgdt cs:[]");
        let pointer = usize::from(u16::from_le_bytes([code[lgdt + 4], code[lgdt + 5]]));
        assert_eq!(ROM[pointer..pointer + 2], [23, 0]);
        let gdt = u32::from_le_bytes(ROM[pointer + 2..pointer + 6].try_into().expect("four bytes"));
        let gdt = (gdt - 0xf_0000) as usize;
        assert_eq!(ROM[gdt..gdt + 8], [0; 8]);
        assert_eq!(ROM[gdt + 8..gdt + 16], [0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0]);
        assert_eq!(ROM[gdt + 16..gdt + 24], [0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0]);
    }

    #[test]
    fn the_lines_that_scripts_look_for_are_there() {
        for line in ["orrery-diag 1\n", "cpu ", "ram ", " errors\n", "pci ", "starts: ", "ready\n"]
        {
            assert!(holds(line), "{line:?}");
        }
        // The magic is compared and stored in two halves.
        assert!(holds("ORRY") && holds("DIAG"));
    }
}
