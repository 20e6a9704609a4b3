//! Device models and machines, one folder per family, named as in QEMU's `hw/`.
#![forbid(unsafe_code)]

#[cfg(all(test, target_arch = "wasm32"))]
#[macro_use]
extern crate orrery_browser_test;
#[cfg(all(test, target_arch = "wasm32"))]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

pub mod acpi;
pub mod arm;
pub mod audio;
pub mod block;
pub mod char;
pub mod display;
pub mod dma;
pub mod fdt;
pub mod i386;
pub mod ide;
pub mod input;
pub mod intc;
pub mod isa;
pub(crate) mod loader;
pub mod machine;
pub mod misc;
pub mod net;
pub mod numa;
pub mod nvram;
pub mod pci;
pub mod pci_bridge;
pub mod pci_host;
pub mod registry;
pub mod rtc;
pub mod scsi;
pub mod timer;
pub mod usb;
pub mod virtio;

/// Every machine; the first one is started where none is named.
pub fn machines() -> impl Iterator<Item = &'static machine::MachineType> {
    i386::MACHINES.iter().chain(arm::MACHINES)
}
