//! Sound.

use crate::time::VmTime;

/// A device that makes sound. The machine asks for samples as virtual time passes.
pub trait AudioSource {
    /// Adds the sound made from `from` to `to` to `out`: interleaved stereo frames at `rate` Hz,
    /// full scale at plus and minus one. `out.len()` is twice the number of frames.
    fn mix(&mut self, from: VmTime, to: VmTime, rate: u32, out: &mut [f32]);
}
