//! Keys and pointers.

use serde::{Deserialize, Serialize};

/// A key by its position: the set-1 scan code of the PC keyboard; `0xe0xx` for extended keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(pub u16);

impl Key {
    /// Pause, which has a sequence of its own (e1 1d 45).
    pub const PAUSE: Self = Self(0xe11d);
    /// Print Screen.
    pub const PRINT: Self = Self(0xe037);
}

/// What a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InputEvent {
    /// A key went down or up.
    Key {
        /// Which.
        key: Key,
        /// Down?
        down: bool,
    },
    /// The pointer moved, right and down positive, in counts.
    Motion {
        /// Counts to the right.
        dx: i32,
        /// Counts down.
        dy: i32,
    },
    /// The pointer is at a place of the screen, each axis 0 to 32767.
    Position {
        /// From the left.
        x: u16,
        /// From the top.
        y: u16,
    },
    /// A button went down or up: 0 left, 1 middle, 2 right.
    Button {
        /// Which.
        index: u8,
        /// Down?
        down: bool,
    },
    /// The wheel turned: positive away from the person.
    Wheel {
        /// Steps.
        dz: i32,
    },
}

/// A device that takes input.
pub trait InputSink {
    /// Whether it wants events of this sort now.
    fn accepts(&self, event: &InputEvent) -> bool;
    /// Takes one. A full queue drops it.
    fn input(&mut self, event: InputEvent);
}
