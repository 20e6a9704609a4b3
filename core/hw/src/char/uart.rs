//! National 16550A UART: the chip, for use behind any bus.
//!
//! Reference: National PC16550D data sheet (June 1995). Characters arrive no faster than the line
//! carries them. They leave at once unless [`Config::paced`] asks for the line's speed too: guests
//! wait for the transmitter by polling, which costs instructions and buys nothing.
//!
//! Not modelled: parity and framing errors, and break from the line, which no host port sends.

use orrery_system::irq::IrqLine;
use orrery_system::ports::CharPort;
use orrery_system::time::NANOS_PER_SEC;
use orrery_system::{Clock, RestoreError, Timer, VmTime};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Registers. The first two are the divisor while LCR bit 7 is set.
    pub enum Reg {
        /// Receiver buffer, transmitter holding register; divisor, low byte.
        0 Data: 1 Rw,
        /// Interrupt enable; divisor, high byte.
        1 Ier: 1 Rw,
        /// Interrupt identification; FIFO control when written.
        2 Iir: 1 Rw,
        /// Line control.
        3 Lcr: 1 Rw,
        /// Modem control.
        4 Mcr: 1 Rw,
        /// Line status.
        5 Lsr: 1 Ro,
        /// Modem status.
        6 Msr: 1 Ro,
        /// Scratch.
        7 Scr: 1 Rw,
    }
}

mod ier {
    pub(super) const RX: u8 = 1;
    pub(super) const THRE: u8 = 2;
    pub(super) const LINE: u8 = 4;
    pub(super) const MODEM: u8 = 8;
}

mod lsr {
    pub(super) const DR: u8 = 0x01;
    pub(super) const OE: u8 = 0x02;
    pub(super) const ERRORS: u8 = 0x1e;
    pub(super) const THRE: u8 = 0x20;
    pub(super) const TEMT: u8 = 0x40;
}

/// Interrupt identification codes.
mod iir {
    pub(super) const NONE: u8 = 0x01;
    pub(super) const MODEM: u8 = 0x00;
    pub(super) const THRE: u8 = 0x02;
    pub(super) const RX: u8 = 0x04;
    pub(super) const LINE: u8 = 0x06;
    pub(super) const TIMEOUT: u8 = 0x0c;
    pub(super) const FIFOS: u8 = 0xc0;
}

mod msr {
    pub(super) const CTS: u8 = 0x10;
    pub(super) const DSR: u8 = 0x20;
    pub(super) const RI: u8 = 0x40;
    pub(super) const DCD: u8 = 0x80;
    pub(super) const TERI: u8 = 0x04;
}

const FIFO: usize = 16;
const LCR_DLAB: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;

/// Number of the timer that paces the receiver.
pub const TIMER_RX: u32 = 0;
/// Number of the timer for characters left lying in the FIFO.
pub const TIMER_TIMEOUT: u32 = 1;
/// Number of the timer that paces the transmitter.
pub const TIMER_TX: u32 = 2;

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Baud at divisor 1: a sixteenth of the crystal's frequency.
    pub base_baud: u32,
    /// The transmitter takes its time.
    pub paced: bool,
}

impl Default for Config {
    /// A PC's: 1.8432 MHz, unpaced.
    fn default() -> Self {
        Self { base_baud: 115_200, paced: false }
    }
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// `INTR`.
    pub irq: IrqLine,
    /// The line.
    pub port: CharPort,
    /// Virtual time.
    pub clock: Clock,
    /// Wake-ups, in the order of [`TIMER_RX`], [`TIMER_TIMEOUT`], [`TIMER_TX`].
    pub timers: [Timer; 3],
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    /// LSR error bits.
    errors: u8,
    /// MSR delta bits.
    deltas: u8,
    thre_pending: bool,
    timeout_pending: bool,
    rx: Vec<u8>,
    tx: Vec<u8>,
    /// The character in the shift register and when it will have left.
    shifting: Option<(u8, VmTime)>,
    /// When the line may bring the next character.
    next_rx: VmTime,
    /// When characters in the FIFO will have been left lying too long.
    timeout: Option<VmTime>,
}

impl State {
    fn power_on() -> Self {
        Self {
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            scr: 0,
            divisor: 12,
            errors: 0,
            deltas: 0,
            thre_pending: false,
            timeout_pending: false,
            rx: Vec::new(),
            tx: Vec::new(),
            shifting: None,
            next_rx: VmTime(0),
            timeout: None,
        }
    }

    fn fifos(&self) -> bool {
        self.fcr & 1 != 0
    }

    fn depth(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    fn trigger(&self) -> usize {
        if self.fifos() { [1, 4, 8, 14][usize::from(self.fcr >> 6)] } else { 1 }
    }

    fn loops(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// How long one character takes on the line.
    fn char_ns(&self, config: &Config) -> u64 {
        let halves = match (self.lcr & 4 != 0, self.lcr & 3) {
            (false, _) => 2,
            (true, 0) => 3,
            (true, _) => 4,
        };
        let parity = if self.lcr & 8 != 0 { 2 } else { 0 };
        let half_bits = 2 + 2 * (5 + u64::from(self.lcr & 3)) + parity + halves;
        let divisor = u64::from(self.divisor.max(1));
        half_bits * NANOS_PER_SEC * divisor / (2 * u64::from(config.base_baud.max(1)))
    }

    fn lsr(&self) -> u8 {
        let dr = if self.rx.is_empty() { 0 } else { lsr::DR };
        let thre = if self.tx.is_empty() { lsr::THRE } else { 0 };
        let temt = if self.tx.is_empty() && self.shifting.is_none() { lsr::TEMT } else { 0 };
        dr | self.errors | thre | temt
    }

    /// The modem's lines: those of a connected terminal, or our own in loopback.
    fn modem(&self) -> u8 {
        if !self.loops() {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        let wire = |from: u8, to: u8| if self.mcr & from != 0 { to } else { 0 };
        wire(2, msr::CTS) | wire(1, msr::DSR) | wire(4, msr::RI) | wire(8, msr::DCD)
    }

    fn set_mcr(&mut self, v: u8) {
        let before = self.modem();
        self.mcr = v & 0x1f;
        let after = self.modem();
        let ring_ended = if before & !after & msr::RI != 0 { msr::TERI } else { 0 };
        self.deltas |= (before ^ after) >> 4 & 0x0b | ring_ended;
    }

    fn iir(&self) -> u8 {
        let on = |bit: u8, what: bool| self.ier & bit != 0 && what;
        let code = if on(ier::LINE, self.errors & lsr::ERRORS != 0) {
            iir::LINE
        } else if on(ier::RX, self.rx.len() >= self.trigger()) {
            iir::RX
        } else if on(ier::RX, self.timeout_pending) {
            iir::TIMEOUT
        } else if on(ier::THRE, self.thre_pending) {
            iir::THRE
        } else if on(ier::MODEM, self.deltas != 0) {
            iir::MODEM
        } else {
            iir::NONE
        };
        code | if self.fifos() { iir::FIFOS } else { 0 }
    }

    fn set_fcr(&mut self, v: u8) {
        if (v ^ self.fcr) & 1 != 0 || v & 2 != 0 {
            self.rx.clear();
            self.timeout = None;
            self.timeout_pending = false;
        }
        if (v ^ self.fcr) & 1 != 0 || v & 4 != 0 {
            self.tx.clear();
            self.thre_pending = true;
        }
        self.fcr = if v & 1 != 0 { v & 0xc9 } else { 0 };
    }

    fn set_ier(&mut self, v: u8) {
        let enabled = v & !self.ier;
        self.ier = v & 0x0f;
        if enabled & ier::THRE != 0 && self.tx.is_empty() {
            self.thre_pending = true;
        }
    }

    /// A character came in.
    fn receive(&mut self, byte: u8, now: VmTime, config: &Config) {
        if self.rx.len() >= self.depth() {
            self.errors |= lsr::OE;
            if !self.fifos() {
                self.rx[0] = byte;
            }
        } else {
            self.rx.push(byte);
        }
        self.lies(now, config);
    }

    /// The FIFO was filled or read: characters in it begin to lie anew.
    fn lies(&mut self, now: VmTime, config: &Config) {
        let waits = self.fifos() && !self.rx.is_empty();
        self.timeout = waits.then(|| now.after(4 * self.char_ns(config)));
    }
}

/// The chip.
pub struct Uart {
    config: Config,
    wires: Wires,
    state: State,
}

impl Uart {
    /// Builds it in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        Self { config, wires, state: State::power_on() }
    }

    /// Puts it in its power-on state.
    pub fn reset(&mut self) {
        self.state = State::power_on();
        self.drive();
    }

    /// Its state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Replaces its state.
    pub fn set_state(&mut self, state: State) -> Result<(), RestoreError> {
        if state.rx.len() > FIFO || state.tx.len() > FIFO {
            return Err(RestoreError::Invalid("FIFO longer than 16"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn drive(&self) {
        self.wires.irq.set(self.state.iir() & iir::NONE == 0);
        let [rx, timeout, tx] = &self.wires.timers;
        let now = self.wires.clock.now();
        rx.set((self.state.next_rx > now).then_some(self.state.next_rx));
        timeout.set(self.state.timeout);
        tx.set(self.state.shifting.map(|s| s.1));
    }

    fn send(&mut self, byte: u8, now: VmTime) {
        if self.state.loops() {
            self.state.receive(byte, now, &self.config);
        } else {
            self.wires.port.send(byte);
        }
    }

    /// Moves the transmitter on to `now`.
    fn transmit(&mut self, now: VmTime) {
        while let Some((byte, _)) = self.state.shifting.filter(|s| s.1 <= now) {
            self.send(byte, now);
            self.shift(now);
        }
        if self.state.shifting.is_none() {
            self.shift(now);
        }
    }

    fn shift(&mut self, now: VmTime) {
        self.state.shifting = None;
        if self.state.tx.is_empty() {
            return;
        }
        let byte = self.state.tx.remove(0);
        self.state.shifting = Some((byte, now.after(self.state.char_ns(&self.config))));
        self.state.thre_pending |= self.state.tx.is_empty();
    }

    /// Brings the clockwork to now.
    fn catch_up(&mut self) -> VmTime {
        let now = self.wires.clock.now();
        self.transmit(now);
        if self.state.timeout.is_some_and(|t| t <= now) {
            self.state.timeout = None;
            self.state.timeout_pending = true;
        }
        now
    }

    /// Whether a character waits on the port that the line may bring now.
    pub fn ready(&self) -> bool {
        let s = &self.state;
        self.wires.port.has_input()
            && !s.loops()
            && s.rx.len() < s.depth()
            && s.next_rx <= self.wires.clock.now()
    }

    /// Takes a character from the port if the line may bring one now.
    pub fn deliver(&mut self) {
        let now = self.catch_up();
        if self.ready() {
            if let Some(byte) = self.wires.port.receive() {
                self.state.receive(byte, now, &self.config);
                self.state.next_rx = now.after(self.state.char_ns(&self.config));
            }
        }
        self.drive();
    }

    /// One of its timers came due.
    pub fn wake(&mut self) {
        self.deliver();
    }

    /// Reads a register.
    pub fn read(&mut self, reg: Reg) -> u8 {
        let now = self.catch_up();
        let s = &mut self.state;
        let dlab = s.lcr & LCR_DLAB != 0;
        let value = match reg {
            Reg::Data if dlab => s.divisor as u8,
            Reg::Ier if dlab => (s.divisor >> 8) as u8,
            Reg::Data if s.rx.is_empty() => 0,
            Reg::Data => {
                let byte = s.rx.remove(0);
                s.timeout_pending = false;
                s.lies(now, &self.config);
                byte
            }
            Reg::Ier => s.ier,
            Reg::Iir => {
                let v = s.iir();
                if v & 0x0f == iir::THRE {
                    s.thre_pending = false;
                }
                v
            }
            Reg::Lcr => s.lcr,
            Reg::Mcr => s.mcr,
            Reg::Lsr => s.lsr() & !lsr::ERRORS | std::mem::take(&mut s.errors),
            Reg::Msr => s.modem() | std::mem::take(&mut s.deltas),
            Reg::Scr => s.scr,
        };
        self.deliver();
        value
    }

    /// Writes a register.
    pub fn write(&mut self, reg: Reg, v: u8) {
        let now = self.catch_up();
        let s = &mut self.state;
        let dlab = s.lcr & LCR_DLAB != 0;
        match reg {
            Reg::Data if dlab => s.divisor = s.divisor & 0xff00 | u16::from(v),
            Reg::Ier if dlab => s.divisor = s.divisor & 0x00ff | u16::from(v) << 8,
            Reg::Data => {
                s.thre_pending = false;
                // The interrupt goes away before the next one comes.
                self.drive();
                if self.config.paced {
                    let s = &mut self.state;
                    if s.tx.len() < s.depth() {
                        s.tx.push(v);
                    }
                    self.transmit(now);
                } else {
                    self.send(v, now);
                    self.state.thre_pending = true;
                }
            }
            Reg::Ier => s.set_ier(v),
            Reg::Iir => s.set_fcr(v),
            Reg::Lcr => s.lcr = v,
            Reg::Mcr => s.set_mcr(v),
            Reg::Scr => s.scr = v,
            Reg::Lsr | Reg::Msr => {}
        }
        self.drive();
    }
}
