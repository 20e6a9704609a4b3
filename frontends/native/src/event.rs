//! What happens outside a machine while it runs.

use crate::terminal::Typed;
use orrery_system::input::InputEvent;

/// Something for the machine's thread.
#[derive(Debug)]
pub(crate) enum Event {
    /// Typed at the terminal.
    Typed(Typed),
    /// Done in the window.
    Input(InputEvent),
    /// The window was closed.
    Close,
    /// A host operation finished.
    Host,
}
