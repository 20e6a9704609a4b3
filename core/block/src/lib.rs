//! Block storage: what a disk is to a device, and what a disk image is to a host.
//!
//! Two faces, and a wall between them:
//!
//! * [`backend`] is what device models use: a [`BlockBackend`](backend::BlockBackend) takes
//!   requests, hands out tickets, has a medium in it or has none. Nothing reachable from that
//!   module names a node, a format or a file.
//! * [`graph`] is what the machine and the tools use: nodes, typed edges, permissions, the
//!   registry of backends and the executor that runs unfinished requests.
//!
//! The host enters through [`host`] alone: a front end implements [`BlockFile`](host::BlockFile)
//! and lends it to a node. Nothing here waits, sleeps, starts a thread or opens a file.

#![forbid(unsafe_code)]

#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate orrery_browser_test;
#[cfg(all(test, target_arch = "wasm32"))]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

pub mod backend;
pub mod bitmap;
mod buf;
mod context;
pub mod crypto;
mod driver;
mod error;
pub mod exec;
mod filter;
pub mod formats;
pub mod graph;
pub mod host;
pub mod img;
pub mod job;
pub mod nbd;
mod op;
mod open;
mod options;
mod pack;
mod probe;
pub mod qapi;
pub mod qcow2;
pub mod qmp;
mod sync;
mod table;
mod throttle;

pub use buf::IoBuf;
pub use context::{Context, Event, EventHook};
pub use error::{BlockError, Result, errno};
pub use filter::{BreakHook, Breakpoints, Layer, Scratch};
pub use op::{Completion, Op, completion};
pub use open::{Backing, Format, OpenOptions};
pub use options::{NodeOptions, driver_names, parse_options};
