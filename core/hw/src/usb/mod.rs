//! USB: devices, hubs and host controllers.
//!
//! Reference: USB 2.0, USB 3.1.
//!
//! A controller is a PCI function with a [`Bus`]: sockets that devices are plugged into. A device is a [`Function`] behind the
//! part that all share ([`Peripheral`]: address, configuration, endpoint 0, descriptors), and a device of the board
//! besides ([`Seat`]), so that it is in snapshots, has timers, and gets input. A controller reaches it through its socket
//! and sends it packets, one at a time, which it answers at once.

mod bus;
mod descriptor;
mod device;
pub mod ehci;
mod exchange;
pub mod hid;
pub mod hub;
pub mod ohci;
mod roots;
pub mod storage;
pub mod uas;
pub mod uhci;
pub mod xhci;

pub use bus::{Bus, Position, Socket};
pub use descriptor::{Configuration, Description, Endpoint, Interface, Layout, Speed, Transfer};
pub use device::{Attached, Function, Handle, In, Out, Peripheral, Seat, Setup};
pub use roots::Wires;
