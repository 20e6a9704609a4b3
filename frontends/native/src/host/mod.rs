//! What the host lends to the block layer.

mod file;
mod fs;

pub(crate) use fs::NativeFs;
