//! Starts kernels without firmware (Linux, Documentation/arm64/booting.rst), and puts images into memory at every reset.

use crate::machine::{BuildError, Kernel};
use orrery_system::device::Device;
use orrery_system::ram::{Ram, RamBlock};
use orrery_system::{Board, RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// Images and where they go in RAM, from its start.
pub(super) type Images = Vec<(u64, Vec<u8>)>;

/// Nothing: all of it is in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State;

impl orrery_system::State for State {
    const KIND: &'static str = "loader";
    const VERSION: u16 = 1;
}

/// Writes images into RAM when the machine is reset.
struct Loader {
    ram: Arc<Ram>,
    block: RamBlock,
    images: Images,
}

/// Has images put into a block at every reset.
pub(super) fn build(board: &mut Board, block: RamBlock, images: Images) {
    let id = board.reserve("loader");
    let ram = board.shared_ram();
    board.attach(id, Box::new(Loader { ram, block, images }));
}

impl Device for Loader {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        for (at, bytes) in &self.images {
            let at = *at as usize;
            if at.checked_add(bytes.len()).is_some_and(|end| end <= self.block.len) {
                self.ram.write_bytes(self.block.offset + at, bytes);
            }
        }
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&State)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        blob.decode::<State>().map(|_| ())
    }
}

/// Where the parts of a kernel go, from the start of RAM.
pub(super) struct Plan {
    pub(super) images: Images,
    entry: u64,
    /// Where the device tree goes.
    pub(super) tree: u64,
    /// Start and end of the initial RAM disk.
    pub(super) initrd: Option<(u64, u64)>,
}

/// Finds places for a kernel.
pub(super) fn plan(kernel: &Kernel, memory: u64) -> Result<Plan, BuildError> {
    let error = |text: &str| BuildError::Kernel(text.into());
    let image = &kernel.image;
    let word =
        |at: usize| image.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    if image.get(56..60) != Some(b"ARM\x64") {
        return Err(error("it is no arm64 Image (compressed ones are to be unpacked first)"));
    }
    let offset = word(8).filter(|&o| o < 2 * MIB).unwrap_or(0);
    let size = word(16).unwrap_or(0).max(image.len() as u64);
    let entry = 2 * MIB + offset;
    let end = entry.saturating_add(size);
    let modules: Vec<u8> = kernel.initrd.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let start = (memory / 2).min(128 * MIB).max(end).next_multiple_of(2 * MIB);
    let initrd = (!modules.is_empty()).then(|| (start, start + modules.len() as u64));
    let tree = initrd.map_or(start, |(_, end)| end).next_multiple_of(2 * MIB);
    if tree + 2 * MIB > memory {
        return Err(error("kernel and initial RAM disk do not fit into memory"));
    }
    let mut images = vec![(entry, image.clone())];
    images.extend(initrd.map(|(at, _)| (at, modules)));
    Ok(Plan { images, entry, tree, initrd })
}

impl Plan {
    /// What CPU 0 executes first, at address 0: registers as a kernel expects them, and a jump.
    pub(super) fn first_code(&self, ram: u64) -> Vec<u8> {
        // ldr x0, tree; mov x1, xzr; mov x2, xzr; mov x3, xzr; ldr x4, entry; br x4
        const CODE: [u32; 6] =
            [0x5800_00c0, 0xaa1f_03e1, 0xaa1f_03e2, 0xaa1f_03e3, 0x5800_0084, 0xd61f_0080];
        let mut out: Vec<u8> = CODE.iter().flat_map(|w| w.to_le_bytes()).collect();
        out.extend((ram + self.tree).to_le_bytes());
        out.extend((ram + self.entry).to_le_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(len: usize) -> Kernel {
        let mut image = vec![0; len];
        image[56..60].copy_from_slice(b"ARM\x64");
        image[16..24].copy_from_slice(&(3 * MIB).to_le_bytes());
        Kernel { image, initrd: vec![("i".into(), vec![1; 100])], command_line: String::new() }
    }

    #[test]
    fn parts_of_a_kernel_do_not_overlap() {
        let p = plan(&kernel(0x1000), 64 * MIB).unwrap();
        assert_eq!(
            (p.entry, p.initrd, p.tree),
            (2 * MIB, Some((32 * MIB, 32 * MIB + 100)), 34 * MIB)
        );
        assert!(plan(&kernel(0x1000), 6 * MIB).is_err());
        assert!(plan(&Kernel::default(), 64 * MIB).is_err());
    }

    #[test]
    fn a_reset_puts_images_back() {
        let mut board = Board::with_ram(1 << 20);
        let block = RamBlock { offset: 0, len: 1 << 20 };
        build(&mut board, block, vec![(0x100, vec![7; 4]), (1 << 20, vec![1])]);
        board.reset();
        assert_eq!(board.ram().read_u32(0x100), 0x0707_0707);
    }
}
