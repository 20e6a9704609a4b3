//! A keyboard: HID 1.11 appendix B.1 (boot keyboard), HID Usage Tables 1.12 chapter 10.

use super::{Identity, Kind};
use orrery_system::input::{InputEvent, Key};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Events that it keeps.
const EVENTS: usize = 64;
/// Keys in a report.
const KEYS: usize = 6;
/// In place of every key when there are too many.
const ROLL_OVER: u8 = 1;
/// The first modifier key.
const MODIFIERS: u8 = 0xe0;

/// Usages of the keys with set 1 codes 01h to 58h; 0: there is none.
#[rustfmt::skip]
const USAGES: [u8; 0x59] = [
    0,
    // Escape, digits, minus, equals, backspace.
    0x29, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2d, 0x2e, 0x2a,
    // Tab, Q to P, brackets, return, left control.
    0x2b, 0x14, 0x1a, 0x08, 0x15, 0x17, 0x1c, 0x18, 0x0c, 0x12, 0x13, 0x2f, 0x30, 0x28, 0xe0,
    // A to L, semicolon, quote, grave, left shift, backslash.
    0x04, 0x16, 0x07, 0x09, 0x0a, 0x0b, 0x0d, 0x0e, 0x0f, 0x33, 0x34, 0x35, 0xe1, 0x31,
    // Z to M, comma, full stop, slash, right shift, keypad *, left alt, space, caps lock.
    0x1d, 0x1b, 0x06, 0x19, 0x05, 0x11, 0x10, 0x36, 0x37, 0x38, 0xe5, 0x55, 0xe2, 0x2c, 0x39,
    // F1 to F10, num lock, scroll lock.
    0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x40, 0x41, 0x42, 0x43, 0x53, 0x47,
    // Keypad.
    0x5f, 0x60, 0x61, 0x56, 0x5c, 0x5d, 0x5e, 0x57, 0x59, 0x5a, 0x5b, 0x62, 0x63,
    // System request, the key beside left shift, F11, F12.
    0x46, 0, 0x64, 0x44, 0x45,
];

/// Usages of the other keys: set 1 code and usage.
const MORE: &[(u16, u8)] = &[
    (0x59, 0x67),
    (0x64, 0x68),
    (0x65, 0x69),
    (0x66, 0x6a),
    (0x67, 0x6b),
    (0x68, 0x6c),
    (0x69, 0x6d),
    (0x6a, 0x6e),
    (0x6b, 0x6f),
    (0x6c, 0x70),
    (0x6d, 0x71),
    (0x6e, 0x72),
    (0x70, 0x88),
    (0x73, 0x87),
    (0x79, 0x8a),
    (0x7b, 0x8b),
    (0x7d, 0x89),
    (0x7e, 0x85),
    (0xe01c, 0x58),
    (0xe01d, 0xe4),
    (0xe020, 0x7f),
    (0xe02e, 0x81),
    (0xe030, 0x80),
    (0xe035, 0x54),
    (0xe037, 0x46),
    (0xe038, 0xe6),
    (0xe046, 0x48),
    (0xe047, 0x4a),
    (0xe048, 0x52),
    (0xe049, 0x4b),
    (0xe04b, 0x50),
    (0xe04d, 0x4f),
    (0xe04f, 0x4d),
    (0xe050, 0x51),
    (0xe051, 0x4e),
    (0xe052, 0x49),
    (0xe053, 0x4c),
    (0xe05b, 0xe3),
    (0xe05c, 0xe7),
    (0xe05d, 0x65),
    (0xe05e, 0x66),
    (Key::PAUSE.0, 0x48),
];

/// The usage of a key.
fn usage(key: Key) -> Option<u8> {
    let usual = USAGES.get(usize::from(key.0)).copied().filter(|&u| u != 0);
    usual.or_else(|| MORE.iter().find(|m| m.0 == key.0).map(|m| m.1))
}

/// The report descriptor: modifiers, a reserved byte, five lamps, six keys.
#[rustfmt::skip]
const REPORTS: &[u8] = &[
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01,
    // Eight modifiers, a bit each.
    0x75, 0x01, 0x95, 0x08, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x81, 0x02,
    // A byte of nothing.
    0x95, 0x01, 0x75, 0x08, 0x81, 0x01,
    // Five lamps and three bits of nothing, from the host.
    0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02,
    0x95, 0x01, 0x75, 0x03, 0x91, 0x01,
    // Six keys, a byte each.
    0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x26, 0xff, 0x00,
    0x05, 0x07, 0x19, 0x00, 0x2a, 0xff, 0x00, 0x81, 0x00,
    0xc0,
];

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    modifiers: u8,
    /// Keys that are down, in the order they went.
    down: Vec<u8>,
    /// What happened since: usage, and whether it went down.
    events: VecDeque<(u8, bool)>,
    lamps: u8,
}

impl State {
    /// What happens with the next event.
    fn take(&mut self) {
        let Some((usage, down)) = self.events.pop_front() else { return };
        if usage >= MODIFIERS {
            let bit = 1 << (usage & 7);
            self.modifiers = if down { self.modifiers | bit } else { self.modifiers & !bit };
            return;
        }
        let before = self.down.len();
        self.down.retain(|&u| u != usage);
        // A key that repeats keeps its place.
        if down && self.down.len() == before && before < EVENTS {
            self.down.push(usage);
        } else if down && self.down.len() < before {
            self.down.insert(before.saturating_sub(1), usage);
        }
    }
}

/// `usb-kbd`.
pub enum Keyboard {}

impl Kind for Keyboard {
    type State = State;
    const NAME: &'static str = "usb-kbd";

    fn identity() -> Identity {
        Identity {
            product: "QEMU USB Keyboard",
            serial: "68284",
            boot: [1, 1],
            packet: 8,
            intervals: [10, 7],
            reports: REPORTS,
        }
    }

    fn power_on() -> State {
        State::default()
    }

    fn is_sane(s: &State) -> bool {
        s.events.len() <= EVENTS && s.down.len() <= EVENTS
    }

    fn accepts(event: &InputEvent) -> bool {
        matches!(event, InputEvent::Key { .. })
    }

    fn event(s: &mut State, event: InputEvent) {
        let InputEvent::Key { key, down } = event else { return };
        if let Some(usage) = usage(key)
            && s.events.len() < EVENTS
        {
            s.events.push_back((usage, down));
        }
    }

    fn pending(s: &State) -> bool {
        !s.events.is_empty()
    }

    fn report(s: &mut State, _: bool) -> Vec<u8> {
        s.take();
        let mut report = vec![s.modifiers, 0];
        if s.down.len() > KEYS {
            report.extend([ROLL_OVER; KEYS]);
        } else {
            report.extend(&s.down);
        }
        report.resize(2 + KEYS, 0);
        report
    }

    fn output(s: &mut State, data: &[u8]) -> bool {
        s.lamps = data.first().copied().unwrap_or(0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(s: &mut State, code: u16, down: bool) {
        Keyboard::event(s, InputEvent::Key { key: Key(code), down });
    }

    #[test]
    fn every_event_has_a_report_of_its_own() {
        let mut s = Keyboard::power_on();
        for (code, down) in [(0x2a, true), (0x1e, true), (0x1e, false), (0x2a, false)] {
            press(&mut s, code, down);
        }
        let mut next = || Keyboard::report(&mut s, false);
        assert_eq!(next(), [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(next(), [2, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(next(), [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(next(), [0; 8]);
        assert!(!Keyboard::pending(&s));
    }

    #[test]
    fn seven_keys_are_too_many() {
        let mut s = Keyboard::power_on();
        for code in 0x10..0x17 {
            press(&mut s, code, true);
        }
        let last = (0..7).map(|_| Keyboard::report(&mut s, false)).last().unwrap();
        assert_eq!(last, [0, 0, 1, 1, 1, 1, 1, 1]);
        press(&mut s, 0x10, false);
        assert_eq!(Keyboard::report(&mut s, false)[2..], [0x1a, 8, 0x15, 0x17, 0x1c, 0x18]);
    }

    #[test]
    fn a_key_that_repeats_is_down_once() {
        let mut s = Keyboard::power_on();
        press(&mut s, 0x1e, true);
        press(&mut s, 0x1e, true);
        Keyboard::report(&mut s, false);
        assert_eq!(Keyboard::report(&mut s, false), [0, 0, 4, 0, 0, 0, 0, 0]);
    }
}
