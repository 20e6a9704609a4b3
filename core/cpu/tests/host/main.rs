//! The floating-point and vector functions against the processor that runs the tests: the same
//! instruction on the same operands, results and flags compared. Seeded, so a failure repeats.
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "the host runs the instructions under test")]

mod elementary;
mod simd;
#[cfg(target_os = "linux")]
mod unmasked;
mod values;
mod x87;
