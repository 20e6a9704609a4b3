//! The host's sound system, by cpal.

use anyhow::{Context as _, Result};
use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Frames that may wait to be played: more are dropped, so that sound never comes late.
const LATENCY_MS: u64 = 50;

/// An open output.
pub(crate) struct Speaker {
    /// Plays as long as it lives.
    _stream: cpal::Stream,
    queue: Arc<Mutex<VecDeque<[f32; 2]>>>,
    rate: u32,
}

impl Speaker {
    /// Opens the default output, at `rate` if it can do that.
    pub(crate) fn open(rate: u32) -> Result<Self> {
        let device = cpal::default_host().default_output_device().context("there is no output")?;
        let usual = device.default_output_config().context("the output says nothing")?;
        let fits = |c: &cpal::SupportedStreamConfigRange| {
            c.channels() == usual.channels()
                && c.sample_format() == cpal::SampleFormat::F32
                && (c.min_sample_rate().0..=c.max_sample_rate().0).contains(&rate)
        };
        let asked = device.supported_output_configs().ok().and_then(|mut all| all.find(fits));
        let config: cpal::StreamConfig = match asked {
            Some(range) => range.with_sample_rate(cpal::SampleRate(rate)).config(),
            None => usual.config(),
        };
        let channels = usize::from(config.channels).max(1);
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        let source = queue.clone();
        let stream = device
            .build_output_stream(
                &config,
                move |out: &mut [f32], _: &cpal::OutputCallbackInfo| {
                    let mut queue = source.lock().expect("no panic while held");
                    for frame in out.chunks_mut(channels) {
                        let [left, right] = queue.pop_front().unwrap_or_default();
                        for (n, sample) in frame.iter_mut().enumerate() {
                            *sample = match n {
                                0 if channels == 1 => (left + right) / 2.0,
                                0 => left,
                                1 => right,
                                _ => 0.0,
                            };
                        }
                    }
                },
                |e| tracing::warn!("sound: {e}"),
                None,
            )
            .context("the output does not open")?;
        stream.play().context("the output does not play")?;
        Ok(Self { _stream: stream, queue, rate: config.sample_rate.0 })
    }

    /// Frames a second.
    pub(crate) fn rate(&self) -> u32 {
        self.rate
    }

    /// Frames that may wait.
    pub(crate) fn latency(&self) -> u64 {
        u64::from(self.rate) * LATENCY_MS / 1000
    }

    /// Plays interleaved stereo after what waits already.
    pub(crate) fn push(&self, samples: &[f32]) {
        let mut queue = self.queue.lock().expect("no panic while held");
        queue.extend(samples.chunks_exact(2).map(|f| [f[0], f[1]]));
        let late = queue.len().saturating_sub(self.latency() as usize);
        queue.drain(..late);
    }
}
