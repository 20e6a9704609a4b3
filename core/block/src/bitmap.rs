//! Dirty bitmaps: which parts of a disk were written since somebody last asked.

mod bits;

pub use bits::Bits;

use crate::sync::{Notify, lock};
use crate::{BlockError, Result};
use std::sync::{Arc, Mutex};

/// A bitmap that follows the writes to one node.
pub struct DirtyBitmap {
    name: Option<String>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    bits: Bits,
    enabled: bool,
    persistent: bool,
    /// Was not saved properly: it can only be removed.
    inconsistent: bool,
    /// A job or an export uses it.
    busy: bool,
    /// Collects what a job must not see while it works on this one.
    successor: Option<Bits>,
}

/// What is known about a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Dirty bytes.
    pub count: u64,
    /// Bytes to a bit.
    pub granularity: u64,
    /// It follows writes.
    pub recording: bool,
    /// A job or an export uses it.
    pub busy: bool,
    /// It is stored in the image.
    pub persistent: bool,
    /// It was not saved properly.
    pub inconsistent: bool,
}

/// Smallest granularity.
pub const MIN_GRANULARITY: u64 = 512;
/// Granularity where the image suggests none.
pub const DEFAULT_GRANULARITY: u64 = 65536;

impl DirtyBitmap {
    /// A clean bitmap for a disk of `size` bytes. `granularity` is a power of two.
    pub fn new(name: Option<&str>, size: u64, granularity: u64) -> Result<Arc<Self>> {
        if !granularity.is_power_of_two() {
            return Err(BlockError::invalid("Granularity must be power of 2"));
        }
        if granularity < MIN_GRANULARITY {
            return Err(BlockError::invalid("Granularity must be at least 512"));
        }
        if granularity > 1 << 31 {
            return Err(BlockError::invalid("Granularity must be at most 2 GiB"));
        }
        Ok(Self::with_bits(name, Bits::new(size, granularity)))
    }

    /// A bitmap with this content.
    pub fn with_bits(name: Option<&str>, bits: Bits) -> Arc<Self> {
        Arc::new(Self {
            name: name.map(str::to_owned),
            state: Mutex::new(State {
                bits,
                enabled: true,
                persistent: false,
                inconsistent: false,
                busy: false,
                successor: None,
            }),
            changed: Notify::default(),
        })
    }

    /// Its name; a job's own bitmap has none.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What is known about it.
    pub fn info(&self) -> BitmapInfo {
        let state = lock(&self.state);
        BitmapInfo {
            count: state.bits.count(),
            granularity: state.bits.granularity(),
            recording: state.enabled || state.successor.is_some(),
            busy: state.busy,
            persistent: state.persistent,
            inconsistent: state.inconsistent,
        }
    }

    /// Notes a write.
    pub fn mark(&self, offset: u64, len: u64) {
        let mut state = lock(&self.state);
        if !state.enabled {
            return;
        }
        match &mut state.successor {
            Some(bits) => bits.set(offset, len),
            None => state.bits.set(offset, len),
        }
        drop(state);
        self.changed.notify();
    }

    /// Waits until something is dirty.
    pub(crate) async fn until_dirty(&self) {
        self.changed.until(|| (!lock(&self.state).bits.is_clean()).then_some(())).await;
    }

    /// Runs `f` on the bits.
    pub fn with<T>(&self, f: impl FnOnce(&mut Bits) -> T) -> T {
        f(&mut lock(&self.state).bits)
    }

    /// The next dirty range at or after `offset`, at most `max` bytes of it.
    pub fn next_dirty(&self, offset: u64, max: u64) -> Option<std::ops::Range<u64>> {
        lock(&self.state).bits.next_dirty(offset, max)
    }

    /// Stops and starts following writes.
    pub fn set_enabled(&self, on: bool) {
        lock(&self.state).enabled = on;
    }

    /// Has it stored in the image or not.
    pub fn set_persistent(&self, on: bool) {
        lock(&self.state).persistent = on;
    }

    /// Marks it as not saved properly.
    pub fn set_inconsistent(&self) {
        let mut state = lock(&self.state);
        (state.inconsistent, state.enabled) = (true, false);
    }

    /// Reserves it for one user, or gives it back.
    pub fn set_busy(&self, busy: bool) {
        lock(&self.state).busy = busy;
    }

    /// Refuses what a bitmap in its state does not bear.
    pub fn check(&self, allow_busy: bool, allow_inconsistent: bool) -> Result<()> {
        let state = lock(&self.state);
        let name = self.name.as_deref().unwrap_or("");
        if state.busy && !allow_busy {
            return Err(BlockError::InUse(format!(
                "Bitmap '{name}' is currently in use by another operation and cannot be used"
            )));
        }
        if state.inconsistent && !allow_inconsistent {
            return Err(BlockError::invalid(format!(
                "Bitmap '{name}' is inconsistent and cannot be used"
            )));
        }
        Ok(())
    }

    /// Follows the disk to a new size.
    pub fn resize(&self, size: u64) {
        let mut state = lock(&self.state);
        state.bits.resize(size);
        if let Some(bits) = &mut state.successor {
            bits.resize(size);
        }
    }

    /// From here on writes go elsewhere: a job works on what is there.
    pub fn freeze(&self) {
        let mut state = lock(&self.state);
        let bits = Bits::new(state.bits.size(), state.bits.granularity());
        state.busy = true;
        state.successor = Some(bits);
    }

    /// The job is over. When it did its work, only what came since stays dirty.
    pub fn thaw(&self, done: bool) {
        let mut state = lock(&self.state);
        state.busy = false;
        let Some(since) = state.successor.take() else { return };
        if done {
            state.bits = since;
        } else {
            state.bits.merge(&since);
        }
    }
}
