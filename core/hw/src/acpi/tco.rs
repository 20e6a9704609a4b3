//! The TCO watchdog of the I/O controller hubs: a timer of 0.6-second ticks that raises an SMI when it
//! runs out, and resets the machine when it runs out again.
//!
//! Reference: Intel 316972-004 (ICH9), 13.9 (registers) and 5.14 (system management).
//!
//! Not modelled: the inputs of other agents (bus errors, intruder detection), the interrupt that TCO2_CNT can select.

use orrery_system::{BusError, BusResult, VmTime};
use serde::{Deserialize, Serialize};

/// A tick.
const TICK_NS: u64 = 600_000_000;
/// Bits of the counter.
const COUNT: u16 = 0x3ff;

/// Offsets of the 16-bit words in the block.
mod word {
    /// Reload and current value.
    pub(super) const RLD: u64 = 0x00;
    /// Data in, data out: one byte each.
    pub(super) const DAT: u64 = 0x02;
    pub(super) const STS1: u64 = 0x04;
    pub(super) const STS2: u64 = 0x06;
    pub(super) const CNT1: u64 = 0x08;
    pub(super) const CNT2: u64 = 0x0a;
    /// Two message bytes, which nothing interprets.
    pub(super) const MESSAGE: u64 = 0x0c;
    /// Watchdog control: a byte for the management controller.
    pub(super) const WDCNT: u64 = 0x0e;
    /// Software interrupts: a byte.
    pub(super) const IRQ_GEN: u64 = 0x10;
    /// What the timer starts from.
    pub(super) const TMR: u64 = 0x12;
}

/// TCO1_STS: software asked for an SMI.
const SW_SMI: u16 = 1 << 1;
/// TCO1_STS: the SMI handler asked for an interrupt.
const TCO_INT: u16 = 1 << 2;
/// TCO1_STS: the timer ran out.
const TIMEOUT: u16 = 1 << 3;
/// TCO2_STS: the timer ran out twice.
const SECOND_TIMEOUT: u16 = 1 << 1;
/// TCO2_STS: the reset was the watchdog's.
const BOOT: u16 = 1 << 2;
/// TCO1_CNT: the timer stands.
const HALT: u16 = 1 << 11;
/// TCO1_CNT: fixed until a reset.
const LOCK: u16 = 1 << 12;

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// An SMI is wanted.
    pub(crate) smi: bool,
    /// The second time is over.
    pub(crate) bites: bool,
}

/// The registers and the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tco {
    reload: u16,
    data: u16,
    status: [u16; 2],
    control: [u16; 2],
    message: u16,
    watchdog: u8,
    irq_gen: u8,
    timer: u16,
    /// When the timer runs out, while it runs.
    ends: Option<VmTime>,
    /// It ran out once since it was last reloaded.
    once: bool,
}

impl Tco {
    pub(crate) fn power_on() -> Self {
        Self {
            reload: 0,
            data: 0,
            status: [0; 2],
            control: [0, 8],
            message: 0,
            watchdog: 0,
            irq_gen: 3,
            timer: 4,
            ends: None,
            once: false,
        }
    }

    /// When the timer must be looked at.
    pub(crate) fn deadline(&self) -> Option<VmTime> {
        self.ends
    }

    /// Whether TCO1_CNT was locked.
    pub(crate) fn locked(&self) -> bool {
        self.control[0] & LOCK != 0
    }

    /// Lets the timer run out as often as it does up to `now`. `reboots` says whether the second time
    /// resets the machine, which also stops the timer.
    pub(crate) fn catch_up(&mut self, now: VmTime, reboots: bool) -> Outcome {
        let mut out = Outcome::default();
        while let Some(end) = self.ends.filter(|&end| end <= now) {
            self.status[0] |= TIMEOUT;
            let second = self.once;
            self.once = !second;
            if second {
                self.status[1] |= SECOND_TIMEOUT | BOOT;
                if reboots {
                    (self.ends, self.reload) = (None, 0);
                    return Outcome { bites: true, ..out };
                }
            }
            out.smi = true;
            self.ends = Some(end.after(self.length()));
        }
        out
    }

    /// Nanoseconds of a run; at least two ticks, because fewer do not start the timer.
    fn length(&self) -> u64 {
        u64::from((self.timer & COUNT).max(2)) * TICK_NS
    }

    /// Starts the timer anew if it may run, else stops it.
    fn start(&mut self, now: VmTime) {
        let runs = self.control[0] & HALT == 0 && self.timer & COUNT > 1;
        self.ends = runs.then(|| now.after(self.length()));
    }

    fn word(&self, at: u64, now: VmTime) -> u16 {
        match at {
            word::RLD => match self.ends {
                Some(end) => (end.since(now) / TICK_NS) as u16 & COUNT,
                None => self.reload,
            },
            word::DAT => self.data,
            word::STS1 => self.status[0],
            word::STS2 => self.status[1],
            word::CNT1 => self.control[0],
            word::CNT2 => self.control[1],
            word::MESSAGE => self.message,
            word::WDCNT => self.watchdog.into(),
            word::IRQ_GEN => self.irq_gen.into(),
            word::TMR => self.timer,
            _ => 0,
        }
    }

    /// A read of the block at `offset`; the timer was caught up.
    pub(crate) fn read(&self, offset: u64, width: u8, now: VmTime) -> BusResult<u64> {
        match (width, offset & 1) {
            (1, odd) => Ok(u64::from(self.word(offset & !1, now) >> (8 * odd) & 0xff)),
            (2, 0) => Ok(self.word(offset, now).into()),
            _ => Err(BusError::Width),
        }
    }

    /// A write of it.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        width: u8,
        value: u64,
        now: VmTime,
    ) -> BusResult<Outcome> {
        let (at, shift) = (offset & !1, 8 * (offset & 1));
        let mask = match (width, shift) {
            (1, _) => 0xff_u16 << shift,
            (2, 0) => 0xffff,
            _ => return Err(BusError::Width),
        };
        let bits = (value << shift) as u16 & mask;
        let merged = |old: u16| old & !mask | bits;
        let mut out = Outcome::default();
        match at {
            word::RLD => {
                self.once = false;
                self.reload = bits & COUNT;
                self.start(now);
            }
            word::DAT => {
                self.data = merged(self.data);
                if mask & 0xff != 0 {
                    self.status[0] |= SW_SMI;
                    out.smi = true;
                }
                if mask >> 8 != 0 {
                    self.status[0] |= TCO_INT;
                }
            }
            word::STS1 => self.status[0] &= !bits,
            word::STS2 => self.status[1] &= !bits,
            word::CNT1 => {
                let was = self.control[0];
                self.control[0] = merged(was) & (LOCK | HALT | 0x300) | was & LOCK;
                if (was ^ self.control[0]) & HALT != 0 {
                    self.reload = self.word(word::RLD, now);
                    self.start(now);
                }
            }
            word::CNT2 => self.control[1] = merged(self.control[1]),
            word::MESSAGE => self.message = merged(self.message),
            word::WDCNT if mask & 0xff != 0 => self.watchdog = bits as u8,
            word::IRQ_GEN if mask & 0xff != 0 => self.irq_gen = bits as u8,
            word::TMR => self.timer = merged(self.timer) & COUNT,
            _ => {}
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ticks: u64) -> VmTime {
        VmTime(ticks * TICK_NS)
    }

    /// A watchdog that counts from `ticks`.
    fn running(ticks: u64) -> Tco {
        let mut t = Tco::power_on();
        t.write(word::TMR, 2, ticks, at(0)).unwrap();
        t.write(word::RLD, 2, 1, at(0)).unwrap();
        t
    }

    #[test]
    fn it_counts_down_asks_for_an_smi_and_then_resets() {
        let mut t = running(10);
        assert_eq!(t.read(word::RLD, 2, at(0)), Ok(10));
        assert_eq!(t.read(word::RLD, 2, at(3)), Ok(7));
        assert_eq!(t.catch_up(at(9), true), Outcome::default());
        assert_eq!(t.catch_up(at(10), true), Outcome { smi: true, bites: false });
        assert_eq!(t.read(word::STS1, 2, at(10)), Ok(8));
        assert_eq!(t.deadline(), Some(at(20)));
        assert!(t.catch_up(at(20), true).bites);
        assert_eq!(t.read(word::STS2, 2, at(20)), Ok(6));
        assert_eq!(t.deadline(), None, "it does not bite again");
    }

    #[test]
    fn feeding_it_forgets_the_first_time() {
        let mut t = running(4);
        t.catch_up(at(4), true);
        t.write(word::RLD, 2, 1, at(5)).unwrap();
        assert!(!t.catch_up(at(9), true).bites);
        assert!(t.catch_up(at(13), true).bites);
    }

    #[test]
    fn without_leave_to_reset_it_goes_on_counting() {
        let mut t = running(4);
        assert!(!t.catch_up(at(9), false).bites);
        assert_eq!((t.read(word::STS2, 2, at(9)), t.deadline()), (Ok(6), Some(at(12))));
        t.write(word::STS2, 2, 6, at(9)).unwrap();
        assert_eq!(t.read(word::STS2, 1, at(9)), Ok(0));
    }

    #[test]
    fn it_stands_while_halted_and_the_lock_holds() {
        let mut t = running(4);
        t.write(word::CNT1, 2, (HALT | LOCK).into(), at(1)).unwrap();
        assert_eq!((t.deadline(), t.read(word::RLD, 2, at(3))), (None, Ok(3)));
        t.write(word::CNT1, 2, 0, at(3)).unwrap();
        assert_eq!(t.read(word::CNT1, 2, at(3)), Ok(LOCK.into()));
        assert_eq!(t.deadline(), Some(at(7)));
    }

    #[test]
    fn the_data_bytes_raise_their_status_bits() {
        let mut t = Tco::power_on();
        assert!(t.write(word::DAT, 1, 5, at(0)).unwrap().smi);
        assert!(!t.write(word::DAT + 1, 1, 6, at(0)).unwrap().smi);
        assert_eq!((t.read(word::DAT, 2, at(0)), t.read(word::STS1, 1, at(0))), (Ok(0x605), Ok(6)));
    }
}
