//! Mouse and tablet: HID 1.11 appendix B.2 (boot mouse), HID Usage Tables 1.12 chapter 4.

use super::{Identity, Kind};
use orrery_system::input::InputEvent;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Reports that it keeps; movement past that goes into the last one.
const EVENTS: usize = 16;
/// Counts that it remembers.
const FAR: i32 = 0x7fff;

/// What the pointer does until the buttons change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Move {
    /// Counts moved, or the place on the screen.
    x: i32,
    y: i32,
    wheel: i32,
    buttons: u8,
}

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// As it was last reported.
    now: Move,
    events: VecDeque<Move>,
}

impl Pointer {
    fn is_sane(&self) -> bool {
        let near = |v: i32| v.unsigned_abs() <= FAR as u32;
        let sane = |m: &Move| near(m.x) && near(m.y) && near(m.wheel);
        self.events.len() <= EVENTS && self.events.iter().all(sane) && sane(&self.now)
    }

    /// The event that movement goes into. Those that tell of a button stay as they are while there is room.
    fn last(&mut self, absolute: bool) -> &mut Move {
        let before = self.events.iter().rev().nth(1).unwrap_or(&self.now).buttons;
        let last = self.events.back().copied();
        let fresh = match last {
            None => true,
            Some(l) => l.buttons != before && self.events.len() < EVENTS,
        };
        if fresh {
            let from = last.unwrap_or(self.now);
            let Move { x, y, buttons, .. } = from;
            let (x, y) = if absolute { (x, y) } else { (0, 0) };
            self.events.push_back(Move { x, y, wheel: 0, buttons });
        }
        self.events.back_mut().expect("just pushed, or it was there")
    }

    fn button(&mut self, index: u8, down: bool, absolute: bool) {
        let bit = match index {
            0 => 1,
            1 => 4,
            2 => 2,
            3 => 8,
            4 => 16,
            _ => return,
        };
        let m = self.last(absolute);
        m.buttons = if down { m.buttons | bit } else { m.buttons & !bit };
    }

    fn wheel(&mut self, dz: i32, absolute: bool) {
        let m = self.last(absolute);
        m.wheel = m.wheel.saturating_add(dz).clamp(-FAR, FAR);
    }

    /// Takes from the oldest event what fits into a byte each.
    fn take(&mut self, absolute: bool) -> Move {
        let Some(first) = self.events.front_mut() else {
            let (x, y) = if absolute { (self.now.x, self.now.y) } else { (0, 0) };
            return Move { x, y, wheel: 0, buttons: self.now.buttons };
        };
        let part = |v: &mut i32| {
            let n = (*v).clamp(-127, 127);
            *v -= n;
            n
        };
        let mut out = Move { wheel: part(&mut first.wheel), ..*first };
        if !absolute {
            (out.x, out.y) = (part(&mut first.x), part(&mut first.y));
        }
        let rest = first.wheel != 0 || !absolute && (first.x, first.y) != (0, 0);
        self.now = out;
        if !rest {
            self.events.pop_front();
        }
        out
    }
}

/// Five buttons, movement and a wheel, each movement a byte.
#[rustfmt::skip]
const MOUSE: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,
    // Five buttons, three bits of nothing.
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02,
    0x95, 0x01, 0x75, 0x03, 0x81, 0x01,
    // X, Y and wheel, relative.
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f,
    0x75, 0x08, 0x95, 0x03, 0x81, 0x06,
    0xc0, 0xc0,
];

/// Five buttons, a place of 15 bits each way, and a wheel.
#[rustfmt::skip]
const TABLET: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,
    // Five buttons, three bits of nothing.
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02,
    0x95, 0x01, 0x75, 0x03, 0x81, 0x01,
    // X and Y, absolute.
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f,
    0x75, 0x10, 0x95, 0x02, 0x81, 0x02,
    // Wheel, relative.
    0x05, 0x01, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00,
    0x75, 0x08, 0x95, 0x01, 0x81, 0x06,
    0xc0, 0xc0,
];

/// `usb-mouse`.
pub enum Mouse {}

impl Kind for Mouse {
    type State = Pointer;
    const NAME: &'static str = "usb-mouse";

    fn identity() -> Identity {
        Identity {
            product: "QEMU USB Mouse",
            serial: "89126",
            boot: [1, 2],
            packet: 4,
            intervals: [10, 7],
            reports: MOUSE,
        }
    }

    fn power_on() -> Pointer {
        Pointer::default()
    }

    fn is_sane(s: &Pointer) -> bool {
        s.is_sane()
    }

    fn accepts(event: &InputEvent) -> bool {
        use InputEvent::{Button, Motion, Wheel};
        matches!(event, Motion { .. } | Button { .. } | Wheel { .. })
    }

    fn event(s: &mut Pointer, event: InputEvent) {
        match event {
            InputEvent::Motion { dx, dy } => {
                let m = s.last(false);
                m.x = m.x.saturating_add(dx).clamp(-FAR, FAR);
                m.y = m.y.saturating_add(dy).clamp(-FAR, FAR);
            }
            InputEvent::Button { index, down } => s.button(index, down, false),
            InputEvent::Wheel { dz } => s.wheel(dz, false),
            InputEvent::Key { .. } | InputEvent::Position { .. } => {}
        }
    }

    fn pending(s: &Pointer) -> bool {
        !s.events.is_empty()
    }

    fn report(s: &mut Pointer, boot: bool) -> Vec<u8> {
        let m = s.take(false);
        let mut report = vec![m.buttons, m.x as u8, m.y as u8, m.wheel as u8];
        report.truncate(if boot { 3 } else { 4 });
        report
    }
}

/// `usb-tablet`.
pub enum Tablet {}

impl Kind for Tablet {
    type State = Pointer;
    const NAME: &'static str = "usb-tablet";

    fn identity() -> Identity {
        Identity {
            product: "QEMU USB Tablet",
            serial: "28754",
            boot: [0, 0],
            packet: 8,
            intervals: [10, 4],
            reports: TABLET,
        }
    }

    fn power_on() -> Pointer {
        Pointer::default()
    }

    fn is_sane(s: &Pointer) -> bool {
        s.is_sane()
    }

    fn accepts(event: &InputEvent) -> bool {
        use InputEvent::{Button, Position, Wheel};
        matches!(event, Position { .. } | Button { .. } | Wheel { .. })
    }

    fn event(s: &mut Pointer, event: InputEvent) {
        match event {
            InputEvent::Position { x, y } => {
                let m = s.last(true);
                (m.x, m.y) = (i32::from(x).min(FAR), i32::from(y).min(FAR));
            }
            InputEvent::Button { index, down } => s.button(index, down, true),
            InputEvent::Wheel { dz } => s.wheel(dz, true),
            InputEvent::Key { .. } | InputEvent::Motion { .. } => {}
        }
    }

    fn pending(s: &Pointer) -> bool {
        !s.events.is_empty()
    }

    fn report(s: &mut Pointer, _: bool) -> Vec<u8> {
        let m = s.take(true);
        let ([xl, xh], [yl, yh]) = ((m.x as u16).to_le_bytes(), (m.y as u16).to_le_bytes());
        vec![m.buttons, xl, xh, yl, yh, m.wheel as u8]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_movement_takes_several_reports() {
        let mut s = Mouse::power_on();
        Mouse::event(&mut s, InputEvent::Motion { dx: 200, dy: -5 });
        assert_eq!(Mouse::report(&mut s, false), [0, 127, 0xfb, 0]);
        assert!(Mouse::pending(&s));
        assert_eq!(Mouse::report(&mut s, false), [0, 73, 0, 0]);
        assert!(!Mouse::pending(&s));
    }

    #[test]
    fn a_quick_click_is_seen_down_and_up() {
        let mut s = Tablet::power_on();
        Tablet::event(&mut s, InputEvent::Position { x: 0x1234, y: 0x0567 });
        Tablet::event(&mut s, InputEvent::Button { index: 0, down: true });
        Tablet::event(&mut s, InputEvent::Button { index: 0, down: false });
        let mut next = || Tablet::report(&mut s, false);
        assert_eq!(next(), [1, 0x34, 0x12, 0x67, 0x05, 0]);
        assert_eq!(next(), [0, 0x34, 0x12, 0x67, 0x05, 0]);
        assert!(!Tablet::pending(&s));
    }

    #[test]
    fn movement_that_nobody_fetches_is_bounded() {
        let mut s = Mouse::power_on();
        for i in 0..1000 {
            Mouse::event(&mut s, InputEvent::Motion { dx: i32::MAX, dy: 0 });
            Mouse::event(&mut s, InputEvent::Button { index: 0, down: i % 2 == 0 });
        }
        assert!(s.is_sane());
    }
}
