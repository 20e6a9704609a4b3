//! The ACPI fixed hardware: PM1 event and control blocks, the PM timer, a general-purpose event
//! block, and the APM ports that raise an SMI (ACPI 5.0 4.8).

use orrery_system::{BusError, BusResult, VmTime};
use serde::{Deserialize, Serialize};

/// The PM timer's clock.
const HZ: u64 = 3_579_545;
/// The timer sets its status bit whenever its top bit (23) changes.
const HALF: u64 = 1 << 23;

/// PM1 status and enable bits (ACPI 5.0 table 4-16).
mod event {
    /// Timer.
    pub(super) const TIMER: u16 = 1 << 0;
    /// Global lock released.
    pub(super) const GLOBAL: u16 = 1 << 5;
    /// Power button.
    pub(super) const POWER_BUTTON: u16 = 1 << 8;
    /// Clock alarm.
    pub(super) const RTC: u16 = 1 << 10;
    /// The system woke up.
    pub(super) const WAKE: u16 = 1 << 15;
    /// Those that can raise an interrupt.
    pub(super) const ALL: u16 = TIMER | GLOBAL | POWER_BUTTON | RTC;
}

/// What a write to the control register asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// S5 or S4: power off.
    Off,
    /// S3: suspend to RAM.
    Suspend,
}

/// The PM1 blocks and the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pm {
    status: u16,
    enable: u16,
    control: u16,
    /// Timer tick at which the status bit sets next.
    overflow: u64,
}

fn ticks(now: VmTime) -> u64 {
    now.ticks(HZ)
}

impl Pm {
    pub(crate) fn power_on(now: VmTime) -> Self {
        Self { status: 0, enable: 0, control: 0, overflow: next_overflow(now) }
    }

    /// Latches a timer overflow up to `now`.
    pub(crate) fn catch_up(&mut self, now: VmTime) {
        if ticks(now) >= self.overflow {
            self.status |= event::TIMER;
        }
    }

    /// The 32-bit word at `index`: events, control, timer.
    fn word(&self, index: u64, now: VmTime) -> u32 {
        match index {
            0 => u32::from(self.status) | u32::from(self.enable) << 16,
            1 => self.control.into(),
            2 => ticks(now) as u32 & 0xff_ffff,
            _ => 0,
        }
    }

    /// A read of the block at `offset`, 0 to 11.
    pub(crate) fn read(&mut self, offset: u64, width: u8, now: VmTime) -> BusResult<u64> {
        self.catch_up(now);
        word_read(offset, width, |i| self.word(i, now))
    }

    /// A write of it.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        width: u8,
        value: u64,
        now: VmTime,
    ) -> BusResult<Option<Sleep>> {
        self.catch_up(now);
        let (index, bits, mask) = word_write(offset, width, value)?;
        match index {
            0 => {
                let clear = bits as u16 & (event::ALL | event::WAKE);
                self.status &= !clear;
                if clear & event::TIMER != 0 {
                    self.overflow = next_overflow(now);
                }
                let mask = (mask >> 16) as u16;
                self.enable = self.enable & !mask | (bits >> 16) as u16 & mask & event::ALL;
            }
            1 if mask & 0x3000 != 0 || mask & 1 != 0 => {
                let m = mask as u16;
                self.control = self.control & !m | bits as u16 & m & 0x1c07;
                // SLP_EN: bit 13, write only. SLP_TYP 0 is soft off, 1 suspend, 2 S4.
                if bits & 0x2000 != 0 {
                    return Ok(match self.control >> 10 & 7 {
                        0 | 2 => Some(Sleep::Off),
                        1 => Some(Sleep::Suspend),
                        _ => None,
                    });
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Whether an enabled event asks for an SCI, and the system is in ACPI mode.
    pub(crate) fn sci(&self) -> bool {
        self.acpi_mode() && self.status & self.enable & event::ALL != 0
    }

    /// SCI_EN: events raise the SCI.
    pub(crate) fn acpi_mode(&self) -> bool {
        self.control & 1 != 0
    }

    /// Enters or leaves ACPI mode.
    pub(crate) fn set_acpi_mode(&mut self, on: bool) {
        self.control = self.control & !1 | u16::from(on);
    }

    /// The power button was pressed.
    pub(crate) fn press_power_button(&mut self) {
        self.status |= event::POWER_BUTTON;
    }

    /// The clock's alarm rang.
    pub(crate) fn ring_alarm(&mut self) {
        self.status |= event::RTC;
    }

    /// The events that end a suspend: the button always, others if they are enabled.
    pub(crate) fn wakes(&self) -> u16 {
        self.status & (event::POWER_BUTTON | self.enable & event::RTC)
    }

    /// The machine woke from suspend: sets these status bits.
    pub(crate) fn wake(&mut self, status: u16) {
        self.status |= status & (event::ALL | event::WAKE);
    }

    /// When the timer must look again: while its interrupt is enabled and not pending.
    pub(crate) fn deadline(&self) -> Option<VmTime> {
        let waits = self.enable & event::TIMER != 0 && self.status & event::TIMER == 0;
        waits.then(|| VmTime::at_tick(self.overflow, HZ))
    }
}

fn next_overflow(now: VmTime) -> u64 {
    (ticks(now) & !(HALF - 1)) + HALF
}

/// Reads part of a 32-bit word.
fn word_read(offset: u64, width: u8, word: impl Fn(u64) -> u32) -> BusResult<u64> {
    let shift = offset & 3;
    if shift + u64::from(width) > 4 {
        return Err(BusError::Width);
    }
    Ok(u64::from(word(offset >> 2) >> (8 * shift)))
}

/// The word a write hits, its bits there, and which bits it covers.
fn word_write(offset: u64, width: u8, value: u64) -> BusResult<(u64, u32, u32)> {
    let shift = offset & 3;
    if shift + u64::from(width) > 4 {
        return Err(BusError::Width);
    }
    let mask = (orrery_system::bus::open_bus(width) << (8 * shift)) as u32;
    Ok((offset >> 2, (value << (8 * shift)) as u32 & mask, mask))
}

/// A general-purpose event block: `len` status bytes, then as many enable bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gpe {
    status: u64,
    enable: u64,
}

impl Gpe {
    /// A read of the block, whose halves are `len` bytes (to 8).
    pub(crate) fn read(&self, len: u64, offset: u64, width: u8) -> BusResult<u64> {
        let byte = |at: u64| match at.checked_sub(len) {
            None => self.status >> (8 * at) & 0xff,
            Some(at) if at < len => self.enable >> (8 * at) & 0xff,
            Some(_) => 0,
        };
        if offset >= 2 * len {
            return Err(BusError::NoRegister);
        }
        Ok((0..u64::from(width)).fold(0, |v, i| v | byte(offset + i) << (8 * i)))
    }

    /// A write of it: ones clear status bits.
    pub(crate) fn write(&mut self, len: u64, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if offset >= 2 * len {
            return Err(BusError::NoRegister);
        }
        for i in 0..u64::from(width) {
            let (at, v) = (offset + i, value >> (8 * i) & 0xff);
            match at.checked_sub(len) {
                None => self.status &= !(v << (8 * at)),
                Some(at) if at < len => {
                    self.enable = self.enable & !(0xff << (8 * at)) | v << (8 * at);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Event `n` has happened.
    pub(crate) fn raise(&mut self, n: u8) {
        self.status |= 1 << n;
    }

    /// Whether an enabled event is pending.
    pub(crate) fn sci(&self) -> bool {
        self.status & self.enable != 0
    }
}

/// The APM control and status ports, B2 and B3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Apm {
    control: u8,
    status: u8,
}

impl Apm {
    pub(crate) fn read(self, offset: u64, width: u8) -> BusResult<u64> {
        match (offset, width) {
            (0, 1) => Ok(self.control.into()),
            (1, 1) => Ok(self.status.into()),
            (0 | 1, _) => Err(BusError::Width),
            _ => Err(BusError::NoRegister),
        }
    }

    /// A write; true if it was a command.
    pub(crate) fn write(&mut self, offset: u64, width: u8, value: u64) -> BusResult<bool> {
        match (offset, width) {
            (0, 1) => self.control = value as u8,
            (1, 1) => self.status = value as u8,
            (0 | 1, _) => return Err(BusError::Width),
            _ => return Err(BusError::NoRegister),
        }
        Ok(offset == 0)
    }

    /// The command last written.
    pub(crate) fn command(self) -> u8 {
        self.control
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_timer_counts_24_bits_at_its_rate() {
        let mut pm = Pm::power_on(VmTime(0));
        assert_eq!(pm.read(8, 4, VmTime(SECOND)), Ok(HZ));
        assert_eq!(pm.read(8, 4, VmTime(5 * SECOND)), Ok(5 * HZ & 0xff_ffff));
    }

    #[test]
    fn the_timer_raises_the_sci_each_time_its_top_bit_changes() {
        let mut pm = Pm::power_on(VmTime(0));
        pm.write(2, 2, 1, VmTime(0)).unwrap();
        pm.set_acpi_mode(true);
        let t = pm.deadline().unwrap();
        pm.catch_up(VmTime(t.0 - 300));
        assert!(!pm.sci());
        pm.catch_up(t);
        assert!(pm.sci() && pm.deadline().is_none());
        pm.write(0, 2, 1, t).unwrap();
        assert!(!pm.sci());
        assert_eq!(pm.deadline().map(|d| d.ticks(HZ)), Some(2 * HALF));
    }

    #[test]
    fn enabling_events_does_not_clear_status() {
        let mut pm = Pm::power_on(VmTime(0));
        pm.press_power_button();
        pm.write(2, 2, 0x100, VmTime(0)).unwrap();
        assert_eq!(pm.read(0, 4, VmTime(0)), Ok(0x0100_0100));
        assert!(!pm.sci(), "legacy mode");
        pm.set_acpi_mode(true);
        assert!(pm.sci());
        pm.write(1, 1, 1, VmTime(0)).unwrap();
        assert!(!pm.sci(), "cleared through its own byte");
    }

    #[test]
    fn sleep_types_are_soft_off_and_suspend() {
        let mut pm = Pm::power_on(VmTime(0));
        assert_eq!(pm.write(4, 2, 0x0401, VmTime(0)), Ok(None));
        assert_eq!(pm.write(4, 2, 0x2401, VmTime(0)), Ok(Some(Sleep::Suspend)));
        assert_eq!(pm.write(4, 2, 0x2001, VmTime(0)), Ok(Some(Sleep::Off)));
        assert_eq!(pm.read(4, 2, VmTime(0)), Ok(1));
    }

    #[test]
    fn a_gpe_block_is_status_then_enable() {
        let mut gpe = Gpe { status: 0x0102, enable: 0 };
        assert_eq!(gpe.read(2, 0, 4), Ok(0x0102));
        gpe.write(2, 2, 2, 0xffff).unwrap();
        assert!(gpe.sci());
        gpe.write(2, 0, 2, 0xffff).unwrap();
        assert_eq!(gpe.read(2, 0, 4), Ok(0xffff_0000));
        assert!(!gpe.sci());
    }
}
