//! What happens outside a machine while it runs.

use crate::chardev::CharEvent;
use orrery_system::input::InputEvent;

/// Something for the machine's thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// At the other end of a character device, by its number.
    Char(usize, CharEvent),
    /// Done in the window.
    Input(InputEvent),
    /// The window was closed.
    Close,
    /// A host operation finished.
    Host,
}
