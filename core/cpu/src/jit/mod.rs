//! Compiled regions: the runtime's interface to them ([`abi`]).

pub mod abi;
#[cfg(any(target_arch = "wasm32", test))]
pub mod wasm;
