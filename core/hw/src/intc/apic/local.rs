//! One local APIC.

use serde::{Deserialize, Serialize};

/// Local vector table, in the order of [`Lapic::lvt`].
pub(super) mod lvt {
    pub(crate) const TIMER: usize = 0;
    pub(crate) const LINT0: usize = 3;
    pub(crate) const LINT1: usize = 4;
    pub(crate) const ERROR: usize = 5;
    pub(crate) const COUNT: usize = 6;

    pub(crate) const MASKED: u32 = 1 << 16;
    pub(crate) const LEVEL: u32 = 1 << 15;
    pub(crate) const REMOTE_IRR: u32 = 1 << 14;
    pub(crate) const ACTIVE_LOW: u32 = 1 << 13;
    pub(crate) const PERIODIC: u32 = 1 << 17;
    pub(crate) const DEADLINE: u32 = 2 << 17;
    pub(crate) const MODES: u32 = 3 << 17;

    /// Bits that can be written in each entry; status bits aside.
    pub(super) const WRITABLE: [u32; COUNT] =
        [0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];
}

/// Error status bits.
pub(super) mod error {
    pub(crate) const SEND_ILLEGAL: u32 = 1 << 5;
    pub(crate) const RECEIVE_ILLEGAL: u32 = 1 << 6;
    pub(crate) const REGISTER: u32 = 1 << 7;
}

/// IA32_APIC_BASE.
pub(super) mod base {
    pub(crate) const BSP: u64 = 1 << 8;
    pub(crate) const EXTD: u64 = 1 << 10;
    pub(crate) const EN: u64 = 1 << 11;
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    pub(crate) const RESET: u64 = 0xfee0_0000;
}

/// Delivery modes.
pub(super) mod mode {
    pub(crate) const FIXED: u8 = 0;
    pub(crate) const LOWEST: u8 = 1;
    pub(crate) const SMI: u8 = 2;
    pub(crate) const NMI: u8 = 4;
    pub(crate) const INIT: u8 = 5;
    pub(crate) const STARTUP: u8 = 6;
    pub(crate) const EXTINT: u8 = 7;
}

const SVR_ENABLE: u32 = 1 << 8;
/// Shortest timer period that is served one by one.
const SHORTEST_NS: u64 = 10_000;

/// What an APIC does to its CPU or to others, besides INTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Nmi(usize),
    Smi(usize),
    Init(usize),
    Startup(usize, u8),
    /// End of a level-triggered interrupt, for the I/O APICs.
    Eoi(u8),
}

/// 256 bits, one a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vectors([u32; 8]);

impl Vectors {
    pub(super) fn has(&self, v: u8) -> bool {
        self.0[usize::from(v >> 5)] & 1 << (v & 31) != 0
    }

    pub(super) fn set(&mut self, v: u8, on: bool) {
        let bit = 1 << (v & 31);
        let word = &mut self.0[usize::from(v >> 5)];
        *word = if on { *word | bit } else { *word & !bit };
    }

    pub(super) fn highest(&self) -> Option<u8> {
        let (i, word) = self.0.iter().enumerate().rev().find(|(_, w)| **w != 0)?;
        Some((i as u32 * 32 + word.ilog2()) as u8)
    }

    pub(super) fn word(&self, i: usize) -> u32 {
        self.0[i & 7]
    }
}

/// Everything the guest can observe of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lapic {
    pub(super) id: u32,
    pub(super) base: u64,
    pub(super) tpr: u8,
    pub(super) ldr: u8,
    pub(super) dfr: u32,
    pub(super) svr: u32,
    pub(super) isr: Vectors,
    pub(super) tmr: Vectors,
    pub(super) irr: Vectors,
    pub(super) esr: u32,
    /// Errors since ESR was last written.
    pub(super) errors: u32,
    pub(super) icr: u64,
    pub(super) lvt: [u32; lvt::COUNT],
    pub(super) initial: u32,
    pub(super) divide: u8,
    /// When the timer reaches zero, in nanoseconds.
    pub(super) zero_at: Option<u64>,
    pub(super) tsc_deadline: u64,
    /// An ExtINT message waits to be acknowledged.
    pub(super) extint: bool,
}

impl Lapic {
    pub(super) fn new(index: usize) -> Self {
        let bsp = if index == 0 { base::BSP } else { 0 };
        let mut lapic = Self {
            id: index as u32,
            base: base::RESET | base::EN | bsp,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [lvt::MASKED; lvt::COUNT],
            initial: 0,
            divide: 0,
            zero_at: None,
            tsc_deadline: 0,
            extint: false,
        };
        if index == 0 {
            // Virtual wire mode, as firmware sets it up: interrupts of the 8259 pair pass.
            lapic.lvt[lvt::LINT0] = u32::from(mode::EXTINT) << 8;
        }
        lapic
    }

    /// INIT: everything but identity and base.
    pub(super) fn init(&mut self, index: usize) {
        *self = Self { id: self.id, base: self.base, ..Self::new(index) };
        self.lvt[lvt::LINT0] |= lvt::MASKED;
    }

    /// Not switched off in IA32_APIC_BASE.
    pub(super) fn is_on(&self) -> bool {
        self.base & base::EN != 0
    }

    pub(super) fn is_x2(&self) -> bool {
        self.base & base::EXTD != 0
    }

    /// Software-enabled in the spurious vector register, too.
    pub(super) fn is_enabled(&self) -> bool {
        self.is_on() && self.svr & SVR_ENABLE != 0
    }

    pub(super) fn ppr(&self) -> u8 {
        let isr = self.isr.highest().unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= isr { self.tpr } else { isr }
    }

    /// The vector that may interrupt now.
    pub(super) fn deliverable(&self) -> Option<u8> {
        let v = self.irr.highest()?;
        (self.is_enabled() && v & 0xf0 > self.ppr() & 0xf0).then_some(v)
    }

    /// Whether the 8259 pair's interrupts pass through LINT0.
    pub(super) fn passes_lint0(&self) -> bool {
        let e = self.lvt[lvt::LINT0];
        !self.is_on() || e & lvt::MASKED == 0 && e >> 8 & 7 == u32::from(mode::EXTINT)
    }

    /// Whether it interrupts the CPU.
    pub(super) fn intr(&self, bsp: bool, lint0: bool) -> bool {
        if !self.is_on() {
            return bsp && lint0;
        }
        self.deliverable().is_some() || self.extint || lint0 && self.passes_lint0()
    }

    pub(super) fn fail(&mut self, bit: u32) {
        if self.errors & bit == 0 {
            self.errors |= bit;
            let e = self.lvt[lvt::ERROR];
            if e & lvt::MASKED == 0 && bit != error::RECEIVE_ILLEGAL {
                self.accept(e as u8, false);
            }
        }
    }

    /// A fixed interrupt comes in.
    pub(super) fn accept(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.fail(error::RECEIVE_ILLEGAL);
        } else if self.is_enabled() {
            self.irr.set(vector, true);
            self.tmr.set(vector, level);
        }
    }

    /// Something of any delivery mode comes in for CPU `cpu`, which this is.
    pub(super) fn receive(
        &mut self,
        cpu: usize,
        m: u8,
        vector: u8,
        level: bool,
        out: &mut Vec<Effect>,
    ) {
        if !self.is_on() {
            return;
        }
        match m {
            mode::FIXED | mode::LOWEST => self.accept(vector, level),
            mode::SMI => out.push(Effect::Smi(cpu)),
            mode::NMI => out.push(Effect::Nmi(cpu)),
            mode::INIT => {
                self.init(cpu);
                out.push(Effect::Init(cpu));
            }
            mode::STARTUP => out.push(Effect::Startup(cpu, vector)),
            mode::EXTINT => self.extint = self.is_enabled(),
            _ => {}
        }
    }

    pub(super) fn eoi(&mut self, out: &mut Vec<Effect>) {
        let Some(v) = self.isr.highest() else { return };
        self.isr.set(v, false);
        if self.tmr.has(v) {
            out.push(Effect::Eoi(v));
            for i in [lvt::LINT0, lvt::LINT1] {
                if self.lvt[i] & 0xff == u32::from(v) {
                    self.lvt[i] &= !lvt::REMOTE_IRR;
                }
            }
        }
    }

    /// Whether an interrupt for `dest` is for this one. `wide`: a destination of 32 bits.
    pub(super) fn is_addressed(&self, dest: u32, logical: bool, wide: bool) -> bool {
        if !self.is_on() {
            return false;
        }
        let all = if wide { u32::MAX } else { 0xff };
        if !logical {
            return dest == all || dest == self.id;
        }
        if self.is_x2() {
            let ldr = self.logical_x2();
            return dest == all || dest >> 16 == ldr >> 16 && dest & ldr & 0xffff != 0;
        }
        let (dest, ldr) = (if wide && dest == all { 0xff } else { dest }, u32::from(self.ldr));
        if dest > 0xff {
            false
        } else if self.dfr >> 28 == 0xf {
            dest & ldr != 0
        } else {
            (dest >> 4 == 0xf || dest >> 4 == ldr >> 4) && dest & ldr & 0xf != 0
        }
    }

    pub(super) fn logical_x2(&self) -> u32 {
        self.id >> 4 << 16 | 1 << (self.id & 15)
    }

    pub(super) fn set_lvt(&mut self, i: usize, v: u32) {
        let status = self.lvt[i] & lvt::REMOTE_IRR;
        let masked = if self.svr & SVR_ENABLE == 0 { lvt::MASKED } else { 0 };
        self.lvt[i] = v & lvt::WRITABLE[i] | status | masked;
    }

    pub(super) fn set_svr(&mut self, v: u32) {
        self.svr = v & 0x1ff;
        if v & SVR_ENABLE == 0 {
            for e in &mut self.lvt {
                *e |= lvt::MASKED;
            }
        }
    }

    // The timer: counts at 1 GHz through the divider.

    fn shift(&self) -> u32 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        u32::from(code.wrapping_add(1) & 7)
    }

    fn timer_mode(&self) -> u32 {
        self.lvt[lvt::TIMER] & lvt::MODES
    }

    pub(super) fn current_count(&self, now: u64) -> u32 {
        if self.timer_mode() & lvt::DEADLINE != 0 {
            return 0;
        }
        let left = self.zero_at.map_or(0, |t| t.saturating_sub(now));
        (left.div_ceil(1 << self.shift())).min(u64::from(u32::MAX)) as u32
    }

    pub(super) fn set_initial_count(&mut self, v: u32, now: u64) {
        if self.timer_mode() & lvt::DEADLINE != 0 {
            return;
        }
        self.initial = v;
        let ns = u64::from(v) << self.shift();
        self.zero_at = (v != 0).then_some(now.saturating_add(ns));
    }

    pub(super) fn set_divide(&mut self, v: u8, now: u64) {
        let left = self.current_count(now);
        self.divide = v & 0x0b;
        if self.timer_mode() & lvt::DEADLINE == 0 && self.zero_at.is_some() {
            self.zero_at = Some(now.saturating_add(u64::from(left) << self.shift()));
        }
    }

    pub(super) fn set_timer_entry(&mut self, v: u32) {
        let before = self.timer_mode();
        self.set_lvt(lvt::TIMER, v);
        if (before ^ self.timer_mode()) & lvt::DEADLINE != 0 {
            self.zero_at = None;
            self.initial = 0;
            self.tsc_deadline = 0;
        }
    }

    pub(super) fn set_tsc_deadline(&mut self, v: u64) {
        if self.timer_mode() == lvt::DEADLINE {
            self.tsc_deadline = v;
            self.zero_at = (v != 0).then_some(v);
        }
    }

    /// Runs the timer up to `now`.
    pub(super) fn catch_up(&mut self, now: u64) {
        let Some(zero) = self.zero_at.filter(|&t| t <= now) else { return };
        let period = u64::from(self.initial) << self.shift();
        self.zero_at = if self.timer_mode() == lvt::PERIODIC && period != 0 {
            Some(zero + ((now - zero) / period + 1) * period)
        } else {
            None
        };
        self.tsc_deadline = 0;
        let e = self.lvt[lvt::TIMER];
        if e & lvt::MASKED == 0 {
            self.accept(e as u8, false);
        }
    }

    /// When the timer interrupts next. Periods too short to serve are served late, all in one.
    pub(super) fn next_interrupt(&self, now: u64) -> Option<u64> {
        let live = self.lvt[lvt::TIMER] & lvt::MASKED == 0 && self.is_enabled();
        let period = u64::from(self.initial) << self.shift();
        let short = self.timer_mode() == lvt::PERIODIC && period < SHORTEST_NS;
        let soonest = if short { now.saturating_add(SHORTEST_NS) } else { 0 };
        self.zero_at.filter(|_| live).map(|t| t.max(soonest))
    }

    pub(super) fn is_sane(&self) -> bool {
        self.initial != 0 || self.zero_at.is_none() || self.timer_mode() & lvt::DEADLINE != 0
    }
}
