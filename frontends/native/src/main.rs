//! `orrery`: the native program.
fn main() {}
mod event;
mod host;
mod keys;
mod runner;
mod terminal;
mod window;
