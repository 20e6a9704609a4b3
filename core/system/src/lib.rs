//! What every machine is made of: guest memory, address maps, interrupt wires, virtual time,
//! timers, DMA, host ports, the [`device::Device`] trait and its snapshots.
//!
//! Nothing here names a host: no file, thread, socket or clock. A front end moves bytes, frames
//! and pixels in and out through the ports in [`ports`], and moves time through
//! [`board::Board::elapse`] and [`time::Clock::advance_to`].

#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate orrery_browser_test;
#[cfg(all(test, target_arch = "wasm32"))]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

pub mod audio;
pub mod board;
pub mod bus;
pub mod device;
pub mod display;
pub mod dma;
pub mod input;
pub mod irq;
pub mod map;
pub mod pins;
pub mod ports;
pub mod ram;
pub mod reg_map;
pub mod snapshot;
pub mod time;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(any(test, feature = "conformance"))]
pub mod fuzz;

pub use board::{Board, DeviceId};
pub use bus::{BusError, BusResult, Registers};
pub use device::Device;
pub use dma::Dma;
pub use irq::{IrqInput, IrqLine};
pub use map::Region;
pub use pins::CpuPins;
pub use ram::{Ram, RamBlock};
pub use snapshot::{RestoreError, State, StateBlob};
pub use time::{Clock, Timer, VmTime};

/// Size of a guest page, the grain of dirty tracking and of direct access, in bytes.
pub const PAGE_SIZE: usize = 4096;
