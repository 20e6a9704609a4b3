//! Parts of the PC/AT that hang on one another: DMA, speaker, parallel port.

use crate::block::fdc::{DmaChannel, NoDma};
use crate::timer::i8254::Channel2;
use orrery_system::ports::CharPort;
use orrery_system::{Board, IrqInput};

/// The speaker and its port.
pub(super) fn speaker(_board: &mut Board, _channel2: Channel2) {}

/// Parallel port `n`.
pub(super) fn parallel(_board: &mut Board, _isa: &[IrqInput], _n: usize) -> Option<CharPort> {
    None
}

/// The floppy controller's DMA channel.
pub(super) fn floppy_dma(_board: &mut Board) -> Box<dyn DmaChannel> {
    Box::new(NoDma)
}
