//! What the host lends to the block layer.

mod file;
mod fs;

pub use fs::NativeFs;
