//! DMA controllers.

pub mod i8237;
mod pieces;

pub use pieces::Pieces;
