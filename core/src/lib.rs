//! Orrery: whole computers.
//!
//! A front end builds a [`Machine`] from a [`launch`] description (the command line, a form on a
//! page), lends it files through host ports, and then calls [`Machine::run`] again and again,
//! moving bytes, pixels, sound and input in and out between the calls.

#![forbid(unsafe_code)]

#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate orrery_browser_test;
#[cfg(all(test, target_arch = "wasm32"))]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

pub mod audio;
pub(crate) mod compat;
pub(crate) mod drives;
pub mod gdb;
pub mod handles;
pub mod keyboard;
pub mod launch;
pub mod machine;
pub mod monitor;
pub(crate) mod numa;
pub mod options;
pub(crate) mod plug;
pub mod qtest;
pub mod replay;
pub mod screenshot;
pub mod script;
pub mod state;

pub use handles::Handles;
pub use machine::{Machine, Outcome, Policy, Stop};
pub use state::SnapshotError;
