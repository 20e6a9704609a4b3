//! The sound of a whole machine, in pieces as virtual time passes, and as a file.

use crate::machine::Machine;
use orrery_system::time::{NANOS_PER_SEC, VmTime};

/// Frames mixed at once.
const CHUNK: u64 = 4096;

/// Takes the sound out of a machine at a fixed rate. Frame boundaries depend on the rate alone, so
/// the same run gives the same samples however often it is asked.
#[derive(Clone, Debug)]
pub struct Listener {
    rate: u32,
    /// Frames since power-on that have been taken.
    frame: u64,
}

impl Listener {
    /// Listens from now on, at `rate` Hz.
    pub fn new(machine: &Machine, rate: u32) -> Self {
        Self { rate, frame: machine.board.now().ticks(rate.into()) }
    }

    /// Frames a second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Leaves out what is more than `frames` behind the machine: nobody wants to hear it late.
    pub fn skip_to(&mut self, machine: &Machine, frames: u64) {
        let now = machine.board.now().ticks(self.rate.into());
        self.frame = self.frame.max(now.saturating_sub(frames));
    }

    /// The frames since the last call: interleaved stereo, at most about a tenth of a second;
    /// nothing once it has caught up.
    pub fn take(&mut self, machine: &mut Machine) -> Vec<f32> {
        let now = machine.board.now().ticks(self.rate.into());
        let end = now.min(self.frame.saturating_add(CHUNK));
        let frames = end.saturating_sub(self.frame);
        let mut out = vec![0.0; frames as usize * 2];
        if frames > 0 {
            machine.mix(self.time(self.frame), self.time(end), self.rate, &mut out);
            self.frame = end;
        }
        out
    }

    fn time(&self, frame: u64) -> VmTime {
        VmTime((u128::from(frame) * u128::from(NANOS_PER_SEC) / u128::from(self.rate)) as u64)
    }
}

/// Bytes in front of the samples of a WAV file.
pub const WAV_HEADER: usize = 44;

/// The header of a WAV file of 16-bit stereo with so many bytes of samples (Microsoft RIFF,
/// WAVE_FORMAT_PCM).
pub fn wav_header(rate: u32, bytes: u32) -> [u8; WAV_HEADER] {
    let mut h = [0; WAV_HEADER];
    let mut put = |at: usize, field: &[u8]| h[at..at + field.len()].copy_from_slice(field);
    put(0, b"RIFF");
    put(4, &bytes.saturating_add(36).to_le_bytes());
    put(8, b"WAVEfmt ");
    put(16, &16_u32.to_le_bytes());
    put(20, &1_u16.to_le_bytes());
    put(22, &2_u16.to_le_bytes());
    put(24, &rate.to_le_bytes());
    put(28, &rate.saturating_mul(4).to_le_bytes());
    put(32, &4_u16.to_le_bytes());
    put(34, &16_u16.to_le_bytes());
    put(36, b"data");
    put(40, &bytes.to_le_bytes());
    h
}

/// Samples as a WAV file holds them.
pub fn wav_samples(samples: &[f32]) -> Vec<u8> {
    let clip = |s: &f32| (s.clamp(-1.0, 1.0) * 32767.0) as i16;
    samples.iter().flat_map(|s| clip(s).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_how_long_it_is_and_samples_are_clipped() {
        let header = wav_header(44100, 8);
        assert_eq!((&header[..4], &header[36..]), (&b"RIFF"[..], &b"data\x08\0\0\0"[..]));
        assert_eq!(header[4..8], 44_u32.to_le_bytes());
        assert_eq!(header[28..32], 176_400_u32.to_le_bytes());
        assert_eq!(wav_samples(&[0.0, 2.0, -1.0]), [0, 0, 0xff, 0x7f, 0x01, 0x80]);
    }
}
