//! Compiled regions: the runtime's interface to them ([`abi`]).

pub mod abi;
