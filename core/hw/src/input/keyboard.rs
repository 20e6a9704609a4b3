//! PS/2 keyboard.
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference, keyboard (101/102 key).
//! Keys repeat as the person's keyboard repeats them; the typematic rate is remembered only.

use super::scancode::{set2, set3};
use orrery_system::input::Key;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// Bytes of keys it keeps; more are dropped, a key at a time.
const KEYS: usize = 256;

/// Modifier keys held down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    shift: u8,
    ctrl: u8,
    alt: u8,
}

/// Which keys of set 3 report their release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Releases {
    Modifiers,
    All,
    None,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    set: u8,
    scanning: bool,
    leds: u8,
    typematic: u8,
    releases: Releases,
    /// The command whose parameter is awaited.
    command: Option<u8>,
    last: u8,
    held: Held,
    replies: VecDeque<u8>,
    keys: VecDeque<u8>,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self {
            set: 2,
            scanning: true,
            leds: 0,
            typematic: 0x2b,
            releases: Releases::Modifiers,
            command: None,
            last: 0,
            held: Held::default(),
            replies: VecDeque::new(),
            keys: VecDeque::new(),
        }
    }

    pub(super) fn is_sane(&self) -> bool {
        (1..=3).contains(&self.set) && self.replies.len() <= KEYS && self.keys.len() <= KEYS
    }

    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    fn defaults(&mut self, scanning: bool) {
        let (held, last) = (self.held, self.last);
        *self = Self { scanning, held, last, ..Self::new() };
    }

    fn reply(&mut self, bytes: &[u8]) {
        if self.replies.len() + bytes.len() <= KEYS {
            self.replies.extend(bytes);
        }
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, byte: u8) {
        if let Some(command) = self.command.take() {
            self.parameter(command, byte);
            return;
        }
        match byte {
            0xed | 0xf0 | 0xf3 => {
                self.command = Some(byte);
                self.reply(&[ACK]);
            }
            0xee => self.reply(&[0xee]),
            0xf2 => self.reply(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.scanning = true;
                self.keys.clear();
                self.reply(&[ACK]);
            }
            0xf5 | 0xf6 => {
                let leds = self.leds;
                self.defaults(byte == 0xf6);
                self.leds = leds;
                self.reply(&[ACK]);
            }
            0xf7 | 0xf9 => {
                self.releases = if byte == 0xf7 { Releases::Modifiers } else { Releases::None };
                self.reply(&[ACK]);
            }
            0xf8 | 0xfa => {
                self.releases = Releases::All;
                self.reply(&[ACK]);
            }
            // Single keys of set 3: acknowledged, the following codes too, to no effect.
            0xfb..=0xfd => {
                self.command = Some(byte);
                self.reply(&[ACK]);
            }
            RESEND => self.reply(&[self.last]),
            0xff => {
                self.defaults(true);
                self.reply(&[ACK, SELF_TEST_PASSED]);
            }
            _ => self.reply(&[RESEND]),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (0xed, _) => self.leds = byte & 7,
            (0xf0, 0) => {
                self.reply(&[ACK, self.set]);
                return;
            }
            (0xf0, 1..=3) => {
                self.set = byte;
                self.keys.clear();
            }
            (0xf3, _) => self.typematic = byte & 0x7f,
            (0xfb..=0xfd, 0xed..) => {
                self.write(byte);
                return;
            }
            (0xfb..=0xfd, _) => self.command = Some(command),
            _ => {
                self.reply(&[RESEND]);
                return;
            }
        }
        self.reply(&[ACK]);
    }

    /// The next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        let byte = self.replies.pop_front().or_else(|| self.keys.pop_front())?;
        if byte != RESEND {
            self.last = byte;
        }
        Some(byte)
    }

    pub(super) fn has_output(&self) -> bool {
        !self.replies.is_empty() || !self.keys.is_empty()
    }

    /// A key went down or up.
    pub(super) fn key(&mut self, key: Key, down: bool) {
        let mut hold = |mask: u8, which: fn(&mut Held) -> &mut u8| {
            let bits = which(&mut self.held);
            *bits = if down { *bits | mask } else { *bits & !mask };
        };
        match key.0 {
            0x2a => hold(1, |h| &mut h.shift),
            0x36 => hold(2, |h| &mut h.shift),
            0x1d => hold(1, |h| &mut h.ctrl),
            0xe01d => hold(2, |h| &mut h.ctrl),
            0x38 => hold(1, |h| &mut h.alt),
            0xe038 => hold(2, |h| &mut h.alt),
            _ => {}
        }
        if !self.scanning {
            return;
        }
        let codes = match self.set {
            3 => self.codes3(key, down),
            set => {
                let sequence = self.sequence(key, down);
                sequence.into_iter().flat_map(|(code, down)| encode(set, code, down)).collect()
            }
        };
        if self.keys.len() + codes.len() <= KEYS {
            self.keys.extend(codes);
        }
    }

    /// What a key sends in sets 1 and 2, as keys going down and up.
    fn sequence(&self, key: Key, down: bool) -> Vec<(u16, bool)> {
        const FAKE_SHIFT: u16 = 0xe02a;
        let Held { shift, ctrl, alt } = self.held;
        match key {
            Key::PAUSE if !down => vec![],
            Key::PAUSE if ctrl != 0 => vec![(0xe046, true), (0xe046, false)],
            Key::PAUSE => vec![(0xe11d, true), (0x45, true), (0xe11d, false), (0x45, false)],
            Key::PRINT if alt != 0 => vec![(0x54, down)],
            Key::PRINT if shift | ctrl != 0 => vec![(key.0, down)],
            Key::PRINT if down => vec![(FAKE_SHIFT, true), (key.0, true)],
            Key::PRINT => vec![(key.0, false), (FAKE_SHIFT, false)],
            _ => vec![(key.0, down)],
        }
    }

    fn codes3(&self, key: Key, down: bool) -> Vec<u8> {
        let modifier = matches!(key.0, 0x1d | 0x2a | 0x36 | 0x38 | 0x3a | 0xe01d | 0xe038);
        let reports = match self.releases {
            Releases::All => true,
            Releases::Modifiers => modifier,
            Releases::None => false,
        };
        match set3(key.0) {
            Some(code) if down => vec![code],
            Some(code) if reports => vec![0xf0, code],
            _ => vec![],
        }
    }
}

/// The bytes of one key going down or up in set 1 or 2.
fn encode(set: u8, code: u16, down: bool) -> Vec<u8> {
    let [prefix, low] = code.to_be_bytes();
    let mut bytes = if prefix == 0 { vec![] } else { vec![prefix] };
    if set == 1 {
        bytes.push(if down { low } else { low | 0x80 });
        return bytes;
    }
    let Some(low) = set2(low & 0x7f) else { return vec![] };
    if !down {
        bytes.push(0xf0);
    }
    bytes.push(low);
    bytes
}
