//! qcow2 from the outside: against images and tools that are not ours, against a model, and
//! against crashes.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "these tests are a front end: they lend real files and say what they skip"
)]

mod concurrency;
mod crash;
mod foreign;
mod hostile;
#[path = "../log/mod.rs"]
mod log;
mod model;
mod native;
mod tools;
mod triangle;

use orrery_block::exec::Executor;
use std::future::Future;

/// Runs what cannot wait, because its storage completes in place.
fn run<T>(future: impl Future<Output = T>) -> T {
    Executor::new().run_in_place(future).expect("nothing here waits")
}

/// A small generator of random numbers; the same seed gives the same test.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let tag = self.next() as u8;
        (0..n).map(|i| tag ^ (i / 64) as u8 | 1).collect()
    }
}
