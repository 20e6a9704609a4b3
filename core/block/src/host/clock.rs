//! Time, as the host lends it.

use crate::Op;

/// A host's clock: for limits on rate, time-outs and statistics. A machine with a deterministic
/// clock lends its virtual time.
pub trait HostClock: Send + Sync {
    /// Nanoseconds since some fixed moment; never goes back.
    fn now(&self) -> u64;

    /// Seconds and nanoseconds since 1970, for stamps on events and snapshots.
    fn wall(&self) -> (u64, u32);

    /// Finishes after `ns` nanoseconds at the earliest.
    fn sleep(&self, ns: u64) -> Op<()>;
}
