//! Files of the host.

use orrery_block::host::{BlockFile, HostFs};
use orrery_block::{BlockError, IoBuf, Op};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct NativeFile {
    file: File,
    write: bool,
    len: AtomicU64,
}

fn host(error: &std::io::Error) -> BlockError {
    match error.kind() {
        ErrorKind::NotFound => BlockError::NotFound(error.to_string()),
        ErrorKind::StorageFull => BlockError::NoSpace,
        _ => BlockError::Host(error.to_string()),
    }
}

impl BlockFile for NativeFile {
    fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        !self.write
    }

    fn read_at(&self, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) => return Op::err(host(&error)),
            }
        }
        buf[done..].fill(0);
        Op::ok(buf)
    }

    fn write_at(&self, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if let Err(error) = self.file.write_all_at(&buf, offset) {
            return Op::err(host(&error));
        }
        self.len.fetch_max(offset + buf.len() as u64, Ordering::Relaxed);
        Op::ok(buf)
    }

    fn flush(&self) -> Op<()> {
        Op::ok(())
    }

    fn set_len(&self, len: u64) -> Op<()> {
        match self.file.set_len(len) {
            Ok(()) => {
                self.len.store(len, Ordering::Relaxed);
                Op::ok(())
            }
            Err(error) => Op::err(host(&error)),
        }
    }
}

/// Files below a folder.
pub(crate) struct NativeFs;

impl NativeFs {
    fn lend(file: File, write: bool) -> Op<Arc<dyn BlockFile>> {
        let len = match file.metadata() {
            Ok(meta) => AtomicU64::new(meta.len()),
            Err(error) => return Op::err(host(&error)),
        };
        Op::ok(Arc::new(NativeFile { file, write, len }))
    }
}

impl HostFs for NativeFs {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        match OpenOptions::new().read(true).write(write).open(name) {
            Ok(file) => Self::lend(file, write),
            Err(error) => Op::err(host(&error)),
        }
    }

    fn resolve(&self, base: &str, name: &str) -> String {
        let beside = Path::new(base).parent().expect("images are in a folder").join(name);
        let chosen = match corpus() {
            // Names of data files count from the folder in which the other tool was started.
            Some(folder) if !beside.exists() && folder.join(name).exists() => folder.join(name),
            _ => beside,
        };
        chosen.to_str().expect("plain path").to_owned()
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        let options =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(name);
        match options {
            Ok(file) => Self::lend(file, true),
            Err(error) => Op::err(host(&error)),
        }
    }
}

/// A folder that goes when the test does.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("orrery-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("plain path").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder is no reason to fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Material that lies beside the checkout, or where a variable says.
pub(crate) fn beside(variable: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var(variable).map_or_else(|_| root.join("../shared/corpus").join(name), PathBuf::from)
}

/// The folder of images made by another program, when there is one.
pub(crate) fn corpus() -> Option<PathBuf> {
    let folder = beside("ORRERY_IMAGES", "images");
    folder.join("manifest.tsv").exists().then_some(folder)
}
