//! Virtio input devices: VIRTIO 1.2 chapter 5.8. Keyboard, mouse and tablet.
//!
//! Events are those of Linux's evdev: type, code and value, with a report at the end of what belongs together.

use super::{Context, VirtioDevice};
use crate::pci;
use orrery_system::input::{InputEvent, InputSink, Key};
use orrery_system::time::VmTime;
use orrery_system::{Board, DeviceId, RestoreError};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What of the configuration is selected (5.8.5).
mod select {
    pub(super) const NAME: u8 = 1;
    pub(super) const SERIAL: u8 = 2;
    pub(super) const IDENTITY: u8 = 3;
    pub(super) const EVENTS: u8 = 0x11;
    pub(super) const ABSOLUTE: u8 = 0x12;
}

/// Types of events.
const SYN: u16 = 0;
const KEY: u16 = 1;
const REL: u16 = 2;
const ABS: u16 = 3;
const LED: u16 = 0x11;
const REP: u16 = 0x14;

/// Codes: the wheel, the buttons left, right and middle.
const WHEEL: u16 = 8;
const BUTTONS: [u16; 3] = [0x110, 0x111, 0x112];

/// Queues, and entries of each.
const EVENTS: usize = 0;
const STATUS: usize = 1;
const ENTRIES: u16 = 64;
/// Events that wait for buffers; more are lost.
const WAITING: usize = 256;
/// The end of an axis.
const AXIS: u32 = 0x7fff;

/// A keyboard.
pub const KEYBOARD: u8 = 1;
/// A mouse.
pub const MOUSE: u8 = 2;
/// A tablet.
pub const TABLET: u8 = 3;

/// Everything the guest can observe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    select: u8,
    subselect: u8,
    running: bool,
    /// There are no buffers.
    starved: bool,
    events: VecDeque<(u16, u16, u32)>,
}

/// The device of kind `KIND`.
#[derive(Default)]
pub struct Input<const KIND: u8> {
    serial: String,
    state: State,
}

/// Puts a device at `devfn` of `bus`.
pub fn build<const KIND: u8>(
    board: &mut Board,
    bus: &pci::Bus,
    devfn: u8,
    transport: super::pci::Config,
    serial: String,
) -> DeviceId {
    super::pci::build(board, bus, devfn, transport, |_, _| Input::<KIND>::new(serial))
}

/// evdev's code of a key: that of the PC keyboard, but for extended keys.
fn code_of(key: Key) -> Option<u16> {
    const EXTENDED: [(u16, u16); 20] = [
        (0xe01c, 96),
        (0xe01d, 97),
        (0xe035, 98),
        (0xe037, 99),
        (0xe038, 100),
        (0xe047, 102),
        (0xe048, 103),
        (0xe049, 104),
        (0xe04b, 105),
        (0xe04d, 106),
        (0xe04f, 107),
        (0xe050, 108),
        (0xe051, 109),
        (0xe052, 110),
        (0xe053, 111),
        (0xe11d, 119),
        (0xe05b, 125),
        (0xe05c, 126),
        (0xe05d, 127),
        (0xe046, 119),
    ];
    match key.0 {
        code @ 1..=0x58 => Some(code),
        code => EXTENDED.iter().find(|(k, _)| *k == code).map(|(_, c)| *c),
    }
}

/// A set of bits, in bytes.
fn bits(codes: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut b = Vec::new();
    for code in codes {
        let at = usize::from(code / 8);
        if b.len() <= at {
            b.resize(at + 1, 0);
        }
        b[at] |= 1 << (code % 8);
    }
    b
}

impl<const KIND: u8> Input<KIND> {
    /// A device that no driver uses yet.
    pub fn new(serial: String) -> Self {
        Self { serial, state: State::default() }
    }

    /// What the selected part of the configuration holds.
    fn selected(&self) -> Vec<u8> {
        match (self.state.select, self.state.subselect) {
            (select::NAME, 0) => match KIND {
                KEYBOARD => b"QEMU Virtio Keyboard".to_vec(),
                MOUSE => b"QEMU Virtio Mouse".to_vec(),
                _ => b"QEMU Virtio Tablet".to_vec(),
            },
            (select::SERIAL, 0) => self.serial.bytes().take(128).collect(),
            (select::IDENTITY, 0) => {
                // A virtual bus; vendor, product, version.
                [6_u16, 0x0627, KIND.into(), 1].into_iter().flat_map(u16::to_le_bytes).collect()
            }
            (select::EVENTS, kind) => self.events(kind.into()),
            (select::ABSOLUTE, 0 | 1) if KIND == TABLET => {
                [0, AXIS, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The codes of a type that it sends.
    fn events(&self, kind: u16) -> Vec<u8> {
        match (KIND, kind) {
            (KEYBOARD, KEY) => {
                bits((1..=0x58).chain(96..=100).chain(102..=111).chain([119, 125, 126, 127]))
            }
            // Repeats: delay and period. Lights: number, capitals, scrolling.
            (KEYBOARD, REP) => bits([0, 1]),
            (KEYBOARD, LED) => bits([0, 1, 2]),
            (MOUSE | TABLET, KEY) => bits(BUTTONS),
            (MOUSE, REL) => bits([0, 1, WHEEL]),
            (TABLET, REL) => bits([WHEEL]),
            (TABLET, ABS) => bits([0, 1]),
            _ => Vec::new(),
        }
    }

    /// What an event of a person is to the guest.
    fn translate(event: &InputEvent) -> Option<[Option<(u16, u16, u32)>; 2]> {
        let keyboard = KIND == KEYBOARD;
        Some(match *event {
            InputEvent::Key { key, down } if keyboard => {
                [Some((KEY, code_of(key)?, down.into())), None]
            }
            InputEvent::Motion { dx, dy } if KIND == MOUSE => {
                let moved = |code, by: i32| (by != 0).then_some((REL, code, by as u32));
                [moved(0, dx), moved(1, dy)]
            }
            InputEvent::Position { x, y } if KIND == TABLET => {
                [Some((ABS, 0, x.into())), Some((ABS, 1, y.into()))]
            }
            InputEvent::Button { index, down } if !keyboard => {
                // Left, middle, right.
                let code = [BUTTONS[0], BUTTONS[2], BUTTONS[1]].get(usize::from(index)).copied()?;
                [Some((KEY, code, down.into())), None]
            }
            InputEvent::Wheel { dz } if !keyboard => [Some((REL, WHEEL, dz as u32)), None],
            _ => return None,
        })
    }

    fn send(&mut self, context: &mut Context<'_>) {
        while !self.state.events.is_empty() {
            let Some(chain) = context.pop(EVENTS) else {
                self.state.starved = true;
                return;
            };
            let Some((kind, code, value)) = self.state.events.pop_front() else { return };
            let mut b = kind.to_le_bytes().to_vec();
            b.extend(code.to_le_bytes());
            b.extend(value.to_le_bytes());
            match chain.writable.write(context.dma, 0, &b) {
                Ok(8) => context.push(EVENTS, &chain, 8),
                _ => return context.fail("no place for an event"),
            }
        }
    }
}

impl<const KIND: u8> InputSink for Input<KIND> {
    fn accepts(&self, event: &InputEvent) -> bool {
        self.state.running && Self::translate(event).is_some()
    }

    fn input(&mut self, event: InputEvent) {
        let events = &mut self.state.events;
        let Some(made) = Self::translate(&event) else { return };
        if self.state.running && events.len() + 3 <= WAITING {
            events.extend(made.into_iter().flatten());
            events.push_back((SYN, 0, 0));
        }
    }
}

impl<const KIND: u8> VirtioDevice for Input<KIND> {
    type State = State;

    const PCI_NAME: &'static str = match KIND {
        KEYBOARD => "virtio-keyboard-pci",
        MOUSE => "virtio-mouse-pci",
        _ => "virtio-tablet-pci",
    };
    const TYPE: u16 = 18;
    const PCI_CLASS: u32 = match KIND {
        KEYBOARD => 0x09_00_00,
        MOUSE => 0x09_02_00,
        _ => 0x09_80_00,
    };

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![ENTRIES; 2]
    }

    fn config(&self) -> Vec<u8> {
        let mut data = self.selected();
        data.truncate(128);
        let mut c = vec![self.state.select, self.state.subselect, data.len() as u8, 0, 0, 0, 0, 0];
        c.extend(data);
        c.resize(136, 0);
        c
    }

    fn write_config(&mut self, at: usize, value: u8) {
        match at {
            0 => self.state.select = value,
            1 => self.state.subselect = value,
            _ => {}
        }
    }

    fn start(&mut self, _: u64) {
        self.state.running = true;
    }

    fn reset(&mut self) {
        self.state = State::default();
    }

    fn notified(&mut self, n: usize, context: &mut Context<'_>) {
        if n == EVENTS {
            self.state.starved = false;
            return self.send(context);
        }
        // Lights: nobody looks at them.
        while let Some(chain) = context.pop(STATUS) {
            context.push(STATUS, &chain, 0);
        }
    }

    fn save(&self) -> State {
        self.state.clone()
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.state = state;
        Ok(())
    }

    fn ready(&self) -> bool {
        !self.state.events.is_empty() && !self.state.starved
    }

    fn deliver(&mut self, _: VmTime, context: &mut Context<'_>) {
        self.send(context);
    }

    fn input(&mut self) -> Option<&mut dyn InputSink> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Bench;
    use super::super::pci::standing_alone;
    use super::*;
    use crate::pci::CONFIG_BANK;
    use crate::virtio::pci::{LEGACY_BANK, MODERN_BANK};

    /// What the selected part holds.
    fn part<const KIND: u8>(dev: &mut Input<KIND>, select: u8, subselect: u8) -> Vec<u8> {
        dev.write_config(0, select);
        dev.write_config(1, subselect);
        let c = dev.config();
        c[8..8 + usize::from(c[2])].to_vec()
    }

    #[test]
    fn each_kind_says_what_it_sends() {
        let mut tablet = Input::<TABLET>::new("s1".into());
        assert_eq!(part(&mut tablet, 1, 0), b"QEMU Virtio Tablet");
        assert_eq!(part(&mut tablet, 2, 0), b"s1");
        assert_eq!(part(&mut tablet, 0x11, 3), [3]);
        assert_eq!(part(&mut tablet, 0x12, 1)[4..8], [0xff, 0x7f, 0, 0]);
        let mut keyboard = Input::<KEYBOARD>::new(String::new());
        assert_eq!(part(&mut keyboard, 0x11, 1)[..2], [0xfe, 0xff]);
        assert!(part(&mut keyboard, 0x11, 2).is_empty());
        assert_eq!(part(&mut keyboard, 3, 0), [6, 0, 0x27, 6, 1, 0, 1, 0]);
    }

    #[test]
    fn events_go_to_whom_they_concern_once_a_driver_is_there() {
        let mut mouse = Input::<MOUSE>::new(String::new());
        let motion = InputEvent::Motion { dx: -2, dy: 0 };
        assert!(!mouse.accepts(&motion), "no driver");
        mouse.start(0);
        assert!(mouse.accepts(&motion));
        assert!(!mouse.accepts(&InputEvent::Key { key: Key(0x1e), down: true }));
        InputSink::input(&mut mouse, motion);
        let mut bench = Bench::new();
        let mut take = |mouse: &mut Input<MOUSE>| bench.request(mouse, EVENTS, &[], 8);
        assert_eq!(take(&mut mouse).unwrap().0, [2, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(take(&mut mouse).unwrap().0, [0; 8], "the report");
        assert!(take(&mut mouse).is_none());
        InputSink::input(&mut mouse, InputEvent::Button { index: 2, down: true });
        assert_eq!(take(&mut mouse).unwrap().0, [1, 0, 0x11, 1, 1, 0, 0, 0]);
        let key = Input::<KEYBOARD>::translate(&InputEvent::Key { key: Key(0xe048), down: false });
        assert_eq!(key, Some([Some((KEY, 103, 0)), None]));
    }

    orrery_system::conformance!(
        {
            let board = Board::with_ram(0x1_0000);
            let bus = pci::Bus::simple(&board);
            standing_alone(&board, &bus, Input::<TABLET>::new(String::new()))
        },
        [(LEGACY_BANK, &[]), (MODERN_BANK, &[]), (CONFIG_BANK, &[])]
    );
}
