//! PS/2 mouse with the wheel and fourth and fifth button of the IntelliMouse.
//!
//! Reference: IBM PS/2 Hardware Interface Technical Reference, mouse; Microsoft "Wheel and
//! five-button support": sample rates 200, 100, 80 in a row make the ID 3, then 200, 200, 80
//! make it 4.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const SELF_TEST_PASSED: u8 = 0xaa;
/// Replies it keeps.
const REPLIES: usize = 64;
/// Counts of movement it remembers in each direction while nobody asks.
const FAR: i32 = 4095;

/// Everything the guest can observe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    id: u8,
    /// Sends packets by itself, not only when asked.
    stream: bool,
    reporting: bool,
    /// Echoes everything.
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    /// The last three sample rates set, latest last.
    knock: [u8; 3],
    command: Option<u8>,
    last: u8,
    buttons: u8,
    dx: i32,
    dy: i32,
    dz: i32,
    /// Something happened since the last packet.
    changed: bool,
    out: VecDeque<u8>,
}

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            id: 0,
            stream: true,
            reporting: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            knock: [0; 3],
            command: None,
            last: 0,
            buttons: 0,
            dx: 0,
            dy: 0,
            dz: 0,
            changed: false,
            out: VecDeque::new(),
        }
    }

    pub(super) fn is_sane(&self) -> bool {
        let near = |d: i32| d.unsigned_abs() <= FAR as u32;
        self.out.len() <= REPLIES && near(self.dx) && near(self.dy) && near(self.dz)
    }

    fn defaults(&mut self) {
        let (buttons, last) = (self.buttons, self.last);
        *self = Self { buttons, last, ..Self::new() };
    }

    fn reply(&mut self, bytes: &[u8]) {
        if self.out.len() + bytes.len() <= REPLIES {
            self.out.extend(bytes);
        }
    }

    /// A byte from the controller.
    pub(super) fn write(&mut self, byte: u8) {
        if self.wrap && !matches!(byte, 0xec | 0xff) {
            self.reply(&[byte]);
            return;
        }
        if let Some(command) = self.command.take() {
            if command == 0xf3 {
                self.set_rate(byte);
            } else {
                self.resolution = byte & 3;
            }
            self.reply(&[ACK]);
            return;
        }
        // A command ends a packet that is on its way.
        self.out.clear();
        match byte {
            0xe6 | 0xe7 => self.scaling = byte == 0xe7,
            0xe8 | 0xf3 => self.command = Some(byte),
            0xe9 => {
                let status = u8::from(!self.stream) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.scaling) << 4
                    | (self.buttons & 1) << 2
                    | (self.buttons & 4) >> 1
                    | (self.buttons & 2) >> 1;
                self.reply(&[ACK, status, self.resolution, self.rate]);
                return;
            }
            0xea => self.stream = true,
            0xeb => {
                self.reply(&[ACK]);
                self.packet();
                return;
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.stream = false,
            0xf2 => {
                self.reply(&[ACK, self.id]);
                return;
            }
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => {
                let id = self.id;
                self.defaults();
                self.id = id;
            }
            RESEND => {
                self.reply(&[self.last]);
                return;
            }
            0xff => {
                self.defaults();
                self.reply(&[ACK, SELF_TEST_PASSED, 0]);
                return;
            }
            _ => {
                self.reply(&[RESEND]);
                return;
            }
        }
        self.reply(&[ACK]);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.knock = [self.knock[1], self.knock[2], rate];
        match self.knock {
            [200, 100, 80] if self.id < 3 => self.id = 3,
            [200, 200, 80] if self.id == 3 => self.id = 4,
            _ => {}
        }
    }

    /// Sends a packet of what happened since the last one, or as much as fits in it.
    fn packet(&mut self) {
        let part = |d: &mut i32, low: i32, high: i32| {
            let v = (*d).clamp(low, high);
            *d -= v;
            v
        };
        let dx = part(&mut self.dx, -256, 255);
        let dy = part(&mut self.dy, -256, 255);
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        self.reply(&[8 | self.buttons & 7 | signs, dx as u8, dy as u8]);
        match self.id {
            3 => {
                let dz = part(&mut self.dz, -128, 127);
                self.reply(&[dz as u8]);
            }
            4 => {
                let dz = part(&mut self.dz, -8, 7);
                self.reply(&[dz as u8 & 15 | (self.buttons & 0x18) << 1]);
            }
            _ => self.dz = 0,
        }
        self.changed = self.dx != 0 || self.dy != 0 || self.dz != 0;
    }

    /// The next byte for the controller.
    pub(super) fn take(&mut self) -> Option<u8> {
        if self.out.is_empty() && self.changed && self.stream && self.reporting && !self.wrap {
            self.packet();
        }
        let byte = self.out.pop_front()?;
        if byte != RESEND {
            self.last = byte;
        }
        Some(byte)
    }

    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.changed && self.stream && self.reporting && !self.wrap
    }

    /// Moved: right, down, wheel turned towards the person.
    pub(super) fn motion(&mut self, dx: i32, dy: i32, dz: i32) {
        let add = |a: i32, b: i32| a.saturating_add(b).clamp(-FAR, FAR);
        self.dx = add(self.dx, dx);
        self.dy = add(self.dy, dy.saturating_neg());
        self.dz = add(self.dz, dz);
        self.changed = true;
    }

    /// A button, numbered left, middle, right, went down or up.
    pub(super) fn button(&mut self, index: u8, down: bool) {
        let bit = match index {
            0 => 1,
            1 => 4,
            2 => 2,
            3 => 8,
            4 => 16,
            _ => return,
        };
        let before = self.buttons;
        self.buttons = if down { before | bit } else { before & !bit };
        self.changed |= self.buttons != before;
    }
}
