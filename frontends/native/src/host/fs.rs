//! Host files by name.

use super::file::{NativeFile, host_error};
use orrery_block::host::{BlockFile, HostFs};
use orrery_block::{BlockError, Op, Result};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The host's file system.
pub(crate) struct NativeFs;

impl NativeFs {
    pub(crate) fn open_file(name: &str, write: bool) -> Result<Arc<dyn BlockFile>> {
        let error = |e: &io::Error| host_error(name, "open", e);
        let file = OpenOptions::new().read(true).write(write).open(name).map_err(|e| error(&e))?;
        if file.metadata().is_ok_and(|m| m.is_dir()) {
            return Err(BlockError::Host(format!("'{name}' is a folder, not a disk image")));
        }
        Ok(Arc::new(NativeFile::new(file, name, !write).map_err(|e| error(&e))?))
    }

    /// Opens a file past the host's page cache.
    #[cfg(target_os = "linux")]
    pub(crate) fn open_direct(name: &str, write: bool) -> Result<Arc<dyn BlockFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        let error = |e: &io::Error| match e.kind() {
            io::ErrorKind::InvalidInput => BlockError::Host(format!(
                "Could not open '{name}': its file system does not take direct access"
            )),
            _ => host_error(name, "open", e),
        };
        let mut options = OpenOptions::new();
        options.read(true).write(write);
        options.custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32);
        let file = options.open(name).map_err(|e| error(&e))?;
        Ok(Arc::new(NativeFile::new_direct(file, name, !write).map_err(|e| error(&e))?))
    }

    /// Opens a file; this host has no way past its cache.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn open_direct(name: &str, write: bool) -> Result<Arc<dyn BlockFile>> {
        Self::open_file(name, write)
    }

    fn create_file(name: &str) -> Result<Arc<dyn BlockFile>> {
        let error = |e: &io::Error| host_error(name, "create", e);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = options.open(name).map_err(|e| error(&e))?;
        Ok(Arc::new(NativeFile::new(file, name, false).map_err(|e| error(&e))?))
    }
}

fn op<T: Send + 'static>(result: Result<T>) -> Op<T> {
    match result {
        Ok(v) => Op::ok(v),
        Err(e) => Op::err(e),
    }
}

impl HostFs for NativeFs {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        op(Self::open_file(name, write))
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        op(Self::create_file(name))
    }

    fn random(&self, buf: &mut [u8]) -> bool {
        getrandom::fill(buf).is_ok()
    }

    fn resolve(&self, base: &str, name: &str) -> String {
        let folder = Path::new(base).parent().unwrap_or(Path::new(""));
        folder.join(name).to_string_lossy().into_owned()
    }
}
