//! Commands about the drive itself: settings, logs, SMART (ATA8-ACS 7, A).

use super::{Drive, Geometry, Kind, MAX_MULTIPLE, QueuedError, READY, Status};

impl Drive {
    pub(super) fn diagnose(&mut self) {
        self.soft_reset();
        self.state.intrq = true;
    }

    pub(super) fn initialize_parameters(&mut self) {
        let r = &self.state.regs;
        let (heads, sectors) = ((r.device & 0xf) + 1, r.count as u8);
        if sectors == 0 {
            return self.abort();
        }
        self.state.translation = Geometry { heads, sectors, ..self.state.translation };
        self.done();
    }

    pub(super) fn set_multiple(&mut self) {
        let n = self.state.regs.count as u8;
        if n > MAX_MULTIPLE || n & n.wrapping_sub(1) != 0 {
            return self.abort();
        }
        self.state.multiple = n;
        self.done();
    }

    /// The last sector: as a number, or as cylinder, head and sector where the device register says so.
    pub(super) fn read_native_max(&mut self, ext: bool) {
        let mut last = self.sectors().saturating_sub(1);
        if !ext && self.state.regs.device & 0x40 == 0 {
            // The last one of a whole cylinder.
            let t = self.state.translation;
            let cylinder = u64::from(t.heads) * u64::from(t.sectors);
            let whole = ((last + 1) / cylinder).min(65535) * cylinder;
            last = if whole == 0 { last } else { whole - 1 };
        }
        self.show_lba(if ext { last } else { last.min(0x0fff_ffff) }, ext);
        self.done();
    }

    /// READ LOG EXT: page 0x10 says which queued command failed, and so lets the drive go on.
    pub(super) fn read_log(&mut self) {
        let r = &self.state.regs;
        if !self.config.ncq || r.low & 0xff != 0x10 || r.count != 1 {
            return self.abort();
        }
        let mut d = vec![0; 512];
        match self.state.queued_error.take() {
            Some(e) => {
                let lba = e.lba.to_le_bytes();
                (d[0], d[2], d[3]) = (e.tag, (READY | Status::ERR).bits(), e.error);
                d[4..7].copy_from_slice(&lba[..3]);
                d[8..11].copy_from_slice(&lba[3..6]);
            }
            // Not a queued command.
            None => d[0] = 0x80,
        }
        self.answer(checked(d));
    }

    /// Keeps the error of a queued command; until its log page is read the drive takes no other.
    pub fn queued_failed(&mut self, e: QueuedError) {
        self.state.queued_error = Some(e);
        self.state.regs.status = READY | Status::ERR;
        self.state.regs.error = e.error;
    }

    pub(super) fn set_features(&mut self) {
        let disk = self.config.kind == Kind::Disk;
        match self.state.regs.feature as u8 {
            0x02 | 0x82 if disk => {
                self.state.write_cache = self.state.regs.feature as u8 == 0x02;
                self.backend.set_write_cache(self.state.write_cache);
                self.done();
            }
            0x03 => {
                let mode = self.state.regs.count as u8;
                let known = match mode >> 3 {
                    0 => mode <= 1,
                    1 => mode & 7 <= 4,
                    4 => mode & 7 <= 2,
                    8 => mode & 7 <= 5,
                    _ => false,
                };
                if !known {
                    return self.abort();
                }
                self.state.mode = mode;
                self.done();
            }
            // Power and acoustic management, look-ahead, reverting to defaults: nothing to do.
            0x05 | 0x85 | 0x42 | 0xc2 | 0x55 | 0xaa | 0x66 | 0xcc | 0x69 | 0x96 | 0x9a if disk => {
                self.done();
            }
            _ => self.abort(),
        }
    }

    /// SMART (ATA8-ACS 7.53): status, data, thresholds and logs of a drive that never fails.
    pub(super) fn smart(&mut self) {
        let r = &self.state.regs;
        let (sub, key) = (r.feature as u8, (r.mid as u8, r.high as u8));
        if key != (0x4f, 0xc2) || (!self.state.smart && sub != 0xd8) {
            return self.abort();
        }
        match sub {
            0xd8 | 0xd9 => {
                self.state.smart = sub == 0xd8;
                self.done();
            }
            // Attribute autosave, off-line tests: accepted.
            0xd2 | 0xd4 => self.done(),
            // Thresholds not exceeded: the key stays in the registers.
            0xda => self.done(),
            0xd0 | 0xd1 => {
                let mut d = vec![0; 512];
                d[0] = 0x10;
                // Reallocated sectors, power-on hours, power cycles; worst and current 100.
                for (i, id) in [5_u8, 9, 12].into_iter().enumerate() {
                    let at = 2 + 12 * i;
                    d[at] = id;
                    if sub == 0xd0 {
                        (d[at + 1], d[at + 3], d[at + 4]) = (3, 100, 100);
                    } else {
                        d[at + 1] = if id == 5 { 36 } else { 0 };
                    }
                }
                if sub == 0xd0 {
                    // Off-line collection never started; capabilities; times in minutes.
                    (d[367], d[368], d[370], d[372], d[373]) = (0x19, 3, 1, 2, 10);
                }
                self.answer(checked(d));
            }
            0xd5 => {
                let mut d = vec![0; 512];
                match r.low as u8 {
                    1 | 6 => d[0] = 1,
                    _ => return self.abort(),
                }
                self.answer(checked(d));
            }
            _ => self.abort(),
        }
    }
}

/// Sets the last byte so that all add up to zero.
fn checked(mut d: Vec<u8>) -> Vec<u8> {
    let sum = d[..511].iter().fold(0_u8, |a, &b| a.wrapping_add(b));
    d[511] = sum.wrapping_neg();
    d
}
