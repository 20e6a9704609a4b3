//! Orrery for JavaScript.
//!
//! Narrow lists are the whole boundary: what JavaScript may call is [`Session`] and the image tools in
//! [`images`]; what the core may ask of JavaScript is the `extern` block in `host`. Pages run it in a worker, tests and
//! `./x node` in Node.

#![deny(clippy::unwrap_used)]

pub mod host;
pub mod images;
#[cfg(target_arch = "wasm32")]
mod jit;
mod monitor;
mod session;

pub use session::Session;

use wasm_bindgen::prelude::*;

/// Sends panics to the console with their place: in a worker nobody would see them otherwise.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|info| host::report(&format!("orrery: {info}"))));
}
