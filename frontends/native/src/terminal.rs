//! The terminal as a serial line, with Ctrl-A escapes.

use crate::chardev::CharEvent;
use crate::event::Event;
use std::io::{IsTerminal, Read, Write};
use std::sync::mpsc::Sender;

/// Puts the terminal in raw mode until dropped, if there is one.
pub(crate) struct Raw {
    #[cfg(unix)]
    saved: Option<rustix::termios::Termios>,
}

impl Raw {
    /// Enters raw mode. Output keeps its newline translation, as a serial terminal's user expects.
    pub(crate) fn enter() -> Self {
        #[cfg(unix)]
        {
            use rustix::termios::{OptionalActions, OutputModes, tcgetattr, tcsetattr};
            let stdin = std::io::stdin();
            let saved = if stdin.is_terminal() { tcgetattr(&stdin).ok() } else { None };
            if let Some(t) = &saved {
                let mut raw = t.clone();
                raw.make_raw();
                raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
                let _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
            }
            Self { saved }
        }
        #[cfg(not(unix))]
        Self {}
    }
}

#[cfg(unix)]
impl Drop for Raw {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(t) = &self.saved {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, t);
        }
    }
}

/// What a byte typed at the terminal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// For the guest.
    Byte(u8),
    /// Ctrl-A x: end.
    Quit,
    /// Ctrl-A s: write disks to storage now.
    Flush,
    /// Ctrl-A h: say what the escapes are.
    Help,
    /// Ctrl-A c: the next of those that share the terminal.
    Next,
}

/// Finds Ctrl-A escapes in what is typed.
#[derive(Default)]
pub(crate) struct Escapes {
    armed: bool,
}

impl Escapes {
    /// Takes the next byte.
    pub(crate) fn next(&mut self, byte: u8) -> Option<Typed> {
        const CTRL_A: u8 = 1;
        if !std::mem::take(&mut self.armed) {
            if byte == CTRL_A {
                self.armed = true;
                return None;
            }
            return Some(Typed::Byte(byte));
        }
        match byte {
            b'x' => Some(Typed::Quit),
            b's' => Some(Typed::Flush),
            b'h' | b'?' => Some(Typed::Help),
            b'c' => Some(Typed::Next),
            CTRL_A => Some(Typed::Byte(CTRL_A)),
            _ => None,
        }
    }
}

/// What Ctrl-A h prints.
pub(crate) const HELP: &str = "\n\
Ctrl-A h    this text\n\
Ctrl-A x    end the emulator\n\
Ctrl-A c    switch between console and monitor\n\
Ctrl-A s    write disks to storage now\n\
Ctrl-A Ctrl-A   send Ctrl-A to the guest\n";

/// Reads standard input on a thread of its own, as character device `n`. The end of input ends
/// nothing: a machine goes on without.
pub(crate) fn read_stdin(events: Sender<Event>, n: usize) {
    std::thread::spawn(move || {
        let mut buf = [0u8; 4096];
        while let Ok(len) = std::io::stdin().lock().read(&mut buf) {
            if len == 0 {
                break;
            }
            let bytes = CharEvent::Bytes(buf[..len].to_vec());
            if events.send(Event::Char(n, bytes)).is_err() {
                return;
            }
        }
    });
}

/// Writes bytes to the terminal as they are.
pub(crate) fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    // A closed pipe must not end the machine: the guest does not know about it.
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_escapes_are_found_and_ctrl_a_itself_can_be_sent() {
        let mut e = Escapes::default();
        let out: Vec<_> = b"a\x01\x01\x01zb\x01x".iter().filter_map(|&b| e.next(b)).collect();
        assert_eq!(out, [Typed::Byte(b'a'), Typed::Byte(1), Typed::Byte(b'b'), Typed::Quit]);
    }
}
