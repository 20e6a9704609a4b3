//! Keyboards, mice and their controllers.

pub mod i8042;
pub mod keyboard;
pub mod mouse;
pub mod scancode;
