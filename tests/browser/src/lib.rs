//! Runs the unit tests of the core in a browser: on wasm32, `#[test]` means the browser's harness.
//!
//! A crate takes part with a dev-dependency on this one and on `wasm-bindgen-test`, and
//! `#[cfg(all(test, target_arch = "wasm32"))] #[macro_use] extern crate orrery_browser_test;`
//! at its root: an attribute so imported comes before the standard one of the same name. Beside it,
//! `wasm_bindgen_test_configure!(run_in_browser)` tells the runner where.

#![forbid(unsafe_code)]

#[cfg(target_arch = "wasm32")]
pub use wasm_bindgen_test::wasm_bindgen_test as test;
