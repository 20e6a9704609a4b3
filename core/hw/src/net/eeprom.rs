//! The 93C46 serial EEPROM beside a network controller (Microchip DS21749).

use serde::{Deserialize, Serialize};

/// 16-bit words it holds.
pub(crate) const WORDS: usize = 64;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Before the start bit.
    Idle,
    /// Two bits of operation and six of address come.
    Command,
    /// The word at this address goes out.
    Out(u8),
    /// A word for this address comes; `None`: for all.
    In(Option<u8>),
    /// The cycle is over.
    Done,
}

/// Contents and the state of its three-wire interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Eeprom {
    words: Vec<u16>,
    phase: Phase,
    shift: u16,
    bits: u8,
    clock: bool,
    out: bool,
    writable: bool,
}

impl Eeprom {
    /// One that holds `words`; what is missing of them reads as erased.
    pub(crate) fn new(mut words: Vec<u16>) -> Self {
        words.resize(WORDS, 0xffff);
        Self {
            words,
            phase: Phase::Idle,
            shift: 0,
            bits: 0,
            clock: false,
            out: true,
            writable: false,
        }
    }

    /// Whether it has as many words as it must.
    pub(crate) fn is_whole(&self) -> bool {
        self.words.len() == WORDS
    }

    /// The word at `at`.
    pub(crate) fn word(&self, at: usize) -> Option<u16> {
        self.words.get(at).copied()
    }

    /// Data out.
    pub(crate) fn out(&self) -> bool {
        self.out
    }

    /// The level of its pins.
    pub(crate) fn pins(&mut self, select: bool, clock: bool, data: bool) {
        let rises = clock && !self.clock;
        self.clock = clock;
        if !select {
            (self.phase, self.shift, self.bits, self.out) = (Phase::Idle, 0, 0, true);
        } else if rises {
            self.clock_in(data);
        }
    }

    fn clock_in(&mut self, data: bool) {
        match self.phase {
            Phase::Idle if data => (self.phase, self.shift, self.bits) = (Phase::Command, 0, 0),
            Phase::Idle | Phase::Done => {}
            Phase::Command => {
                self.take(data);
                if self.bits == 8 {
                    self.command((self.shift >> 6) as u8 & 3, self.shift as u8 & 63);
                }
            }
            Phase::Out(at) => {
                let word = self.words.get(usize::from(at)).copied().unwrap_or(0xffff);
                self.out = word >> (15 - self.bits.min(15)) & 1 != 0;
                self.bits += 1;
                if self.bits >= 16 {
                    self.bits = 0;
                    // Reading on gives the words that follow.
                    self.phase = Phase::Out((at + 1) % WORDS as u8);
                }
            }
            Phase::In(at) => {
                self.take(data);
                if self.bits == 16 {
                    self.store(at, self.shift);
                }
            }
        }
    }

    fn take(&mut self, data: bool) {
        self.shift = self.shift << 1 | u16::from(data);
        self.bits += 1;
    }

    fn command(&mut self, op: u8, at: u8) {
        (self.shift, self.bits) = (0, 0);
        match (op, at >> 4) {
            (2, _) => {
                // A zero goes before the first bit.
                self.out = false;
                self.phase = Phase::Out(at);
            }
            (1, _) => self.phase = Phase::In(Some(at)),
            (0, 1) => self.phase = Phase::In(None),
            (3, _) => self.store(Some(at), 0xffff),
            (_, 2) => self.store(None, 0xffff),
            (_, n) => {
                self.writable = n == 3;
                self.phase = Phase::Done;
            }
        }
    }

    fn store(&mut self, at: Option<u8>, value: u16) {
        self.phase = Phase::Done;
        self.out = true;
        if !self.writable {
            return;
        }
        match at {
            Some(at) => {
                if let Some(word) = self.words.get_mut(usize::from(at)) {
                    *word = value;
                }
            }
            None => self.words.fill(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(e: &mut Eeprom, bits: u32, n: u32) {
        for i in (0..n).rev() {
            let bit = bits >> i & 1 != 0;
            e.pins(true, false, bit);
            e.pins(true, true, bit);
        }
    }

    fn read(e: &mut Eeprom, at: u32) -> u16 {
        e.pins(false, false, false);
        send(e, 0b110 << 6 | at, 9);
        assert!(!e.out(), "the zero before the data");
        let mut word = 0;
        for _ in 0..16 {
            e.pins(true, false, false);
            e.pins(true, true, false);
            word = word << 1 | u16::from(e.out());
        }
        word
    }

    fn eeprom() -> Eeprom {
        Eeprom::new(vec![0x5452, 0x1200, 0x5634])
    }

    #[test]
    fn a_word_is_read_bit_by_bit_behind_a_zero() {
        let mut e = eeprom();
        assert_eq!((read(&mut e, 1), read(&mut e, 63)), (0x1200, 0xffff));
        assert_eq!(e.word(2), Some(0x5634));
    }

    #[test]
    fn a_word_is_stored_once_writing_is_enabled() {
        let mut e = eeprom();
        let write = |e: &mut Eeprom| {
            e.pins(false, false, false);
            send(e, 0b101 << 6 | 5, 9);
            send(e, 0x1234, 16);
        };
        write(&mut e);
        assert_eq!(read(&mut e, 5), 0xffff);
        e.pins(false, false, false);
        send(&mut e, 0b100_110000, 9);
        write(&mut e);
        e.pins(false, false, false);
        assert!(e.out(), "ready");
        assert_eq!(read(&mut e, 5), 0x1234);
    }
}
