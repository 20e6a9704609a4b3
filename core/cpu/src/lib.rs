//! Orrery: cpu. One IR, engines that run it, a front-end per instruction set.

#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate orrery_browser_test;
#[cfg(all(test, target_arch = "wasm32"))]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

pub mod aarch64;
mod cache;
pub mod cluster;
pub mod cpus;
pub mod debug;
pub mod decode;
#[cfg(test)]
mod engine_tests;
pub mod env;
pub mod float;
pub mod frame;
mod fuse;
mod interp;
pub mod ir;
pub mod isa;
pub mod jit;
pub mod log;
mod lower;
pub mod region;
pub mod tlb;
#[cfg(test)]
mod toy;
mod uop;
pub mod x86;

pub use cache::CodeMap;
pub use cluster::Cluster;
pub use cpus::{Cpus, Ran};
pub use debug::DebugCpus;
