//! IDENTIFY data (ATA8-ACS 7.16, ATA/ATAPI-7 6.18): 256 words in which a drive says what it is.

use super::ata::{Drive, Kind, MAX_MULTIPLE};

/// Puts `text` into the words from `at`: two characters a word, the first in the high byte.
fn text(words: &mut [u16], at: usize, len: usize, text: &str) {
    let mut chars = text.bytes().filter(u8::is_ascii).chain(std::iter::repeat(b' '));
    for w in &mut words[at..at + len] {
        let hi = u16::from(chars.next().unwrap_or(b' '));
        let lo = u16::from(chars.next().unwrap_or(b' '));
        *w = hi << 8 | lo;
    }
}

impl Drive {
    /// The answer to IDENTIFY DEVICE or IDENTIFY PACKET DEVICE.
    pub(super) fn identify(&self) -> Vec<u8> {
        let words = match self.config.kind {
            Kind::Disk => self.identify_disk(),
            Kind::Cdrom => self.identify_packet(),
        };
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn identify_disk(&self) -> [u16; 256] {
        let s = &self.state;
        let g = self.geometry();
        let sectors = self.sectors();
        let mut w = [0; 256];
        w[0] = 0x0040;
        (w[1], w[3], w[6]) = (g.cylinders, g.heads.into(), g.sectors.into());
        (w[4], w[5]) = (512 * w[6], 512);
        text(&mut w, 10, 10, &self.config.serial);
        (w[20], w[21], w[22]) = (3, 512, 4);
        text(&mut w, 23, 4, &self.config.firmware);
        text(&mut w, 27, 20, &self.config.model);
        w[47] = 0x8000 | u16::from(MAX_MULTIPLE);
        w[48] = 1;
        // IORDY, LBA, DMA.
        w[49] = 0x0b00;
        (w[51], w[52]) = (0x0200, 0x0200);
        // Words 54-58, 64-70 and 88 are valid.
        w[53] = 7;
        let t = s.translation;
        let cylinders = self.translated_cylinders();
        let chs = u32::from(cylinders) * u32::from(t.heads) * u32::from(t.sectors);
        (w[54], w[55], w[56]) = (cylinders, t.heads.into(), t.sectors.into());
        (w[57], w[58]) = (chs as u16, (chs >> 16) as u16);
        if s.multiple != 0 {
            w[59] = 0x0100 | u16::from(s.multiple);
        }
        let lba28 = sectors.min(0x0fff_ffff) as u32;
        (w[60], w[61]) = (lba28 as u16, (lba28 >> 16) as u16);
        w[63] = s.mwdma_word();
        w[64] = 3;
        w[65..69].fill(120);
        if self.config.ncq {
            w[75] = 31;
            // NCQ; first and second generation signalling.
            w[76] = 1 << 8 | 1 << 2 | 1 << 1;
        }
        w[80] = 0x00f0;
        w[81] = 0x0016;
        // SMART, look-ahead, write cache, NOP / flush EXT, flush, LBA48 / WWN.
        w[82] = 1 << 14 | 1 << 5 | 1;
        w[83] = 1 << 14 | 1 << 13 | 1 << 12 | 1 << 10;
        w[84] = 1 << 14 | u16::from(self.config.wwn != 0) << 8;
        w[85] = 1 << 14 | u16::from(s.write_cache) << 5 | u16::from(s.smart);
        w[86] = 1 << 13 | 1 << 12 | 1 << 10;
        w[87] = w[84];
        w[88] = s.udma_word();
        // Reset result: drive 0 passed, cable with 80 wires.
        w[93] = 0x6001;
        for i in 0..4 {
            w[100 + i] = (sectors >> (16 * i)) as u16;
        }
        w[106] = 0x4000;
        for i in 0..4 {
            w[108 + i] = (self.config.wwn >> (48 - 16 * i)) as u16;
        }
        if self.config.discard {
            w[105] = 1;
            // Deterministic reads after trim are not promised.
            w[169] = 1;
        }
        w[217] = self.config.rotation_rate;
        w
    }

    fn identify_packet(&self) -> [u16; 256] {
        let s = &self.state;
        let mut w = [0; 256];
        // ATAPI, CD-ROM, removable, DRQ within 50 us, 12-byte packets.
        w[0] = 2 << 14 | 5 << 8 | 1 << 7 | 2 << 5;
        text(&mut w, 10, 10, &self.config.serial);
        (w[20], w[21], w[22]) = (3, 512, 4);
        text(&mut w, 23, 4, &self.config.firmware);
        text(&mut w, 27, 20, &self.config.model);
        w[48] = 1;
        w[49] = 0x0b00;
        w[53] = 7;
        w[62] = 7;
        w[63] = s.mwdma_word();
        w[64] = 3;
        (w[65], w[66], w[67], w[68]) = (0xb4, 0xb4, 0x12c, 0xb4);
        (w[71], w[72]) = (30, 30);
        if self.config.ncq {
            w[76] = 1 << 2 | 1 << 1;
        }
        w[80] = 0x001e;
        w[84] = u16::from(self.config.wwn != 0) << 8;
        w[87] = w[84];
        w[88] = s.udma_word();
        for i in 0..4 {
            w[108 + i] = (self.config.wwn >> (48 - 16 * i)) as u16;
        }
        w
    }
}
