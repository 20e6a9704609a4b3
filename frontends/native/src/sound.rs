//! The machine's sound on this host: WAV files, and the sound system if this build has it.

use anyhow::{Context as _, Result, ensure};
use orrery_core::Machine;
use orrery_core::audio::{Listener, wav_header, wav_samples};
use orrery_core::options::{AudioOption, AudioTarget};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};

/// A place where the machine's sound goes.
pub(crate) struct Sound {
    listener: Listener,
    output: Output,
}

enum Output {
    Wav {
        name: String,
        file: BufWriter<File>,
        bytes: u64,
    },
    #[cfg(feature = "sound")]
    Host(crate::speaker::Speaker),
}

/// Opens what `-audiodev` names. A host without sound is no reason not to start.
pub(crate) fn open(options: &[AudioOption], machine: &Machine) -> Result<Vec<Sound>> {
    let mut all = Vec::new();
    for option in options {
        match &option.target {
            AudioTarget::None => {}
            AudioTarget::Wav(name) => {
                let file = File::create(name)
                    .with_context(|| format!("-audiodev: cannot create '{name}'"))?;
                let mut file = BufWriter::new(file);
                file.write_all(&wav_header(option.rate, 0))
                    .with_context(|| format!("-audiodev: cannot write '{name}'"))?;
                let listener = Listener::new(machine, option.rate);
                let output = Output::Wav { name: name.clone(), file, bytes: 0 };
                all.push(Sound { listener, output });
            }
            AudioTarget::Host => all.extend(host(option.rate, machine)),
        }
    }
    Ok(all)
}

#[cfg(feature = "sound")]
fn host(rate: u32, machine: &Machine) -> Option<Sound> {
    match crate::speaker::Speaker::open(rate) {
        Ok(speaker) => {
            let listener = Listener::new(machine, speaker.rate());
            Some(Sound { listener, output: Output::Host(speaker) })
        }
        Err(e) => {
            tracing::warn!("no sound: {e:#}");
            None
        }
    }
}

#[cfg(not(feature = "sound"))]
fn host(_: u32, _: &Machine) -> Option<Sound> {
    tracing::warn!(
        "no sound: this build cannot play it; use -audiodev wav, or build with the feature 'sound'"
    );
    None
}

impl Sound {
    /// Passes on what the machine has sounded since the last call.
    pub(crate) fn play(&mut self, machine: &mut Machine) -> Result<()> {
        #[cfg(feature = "sound")]
        if let Output::Host(speaker) = &self.output {
            self.listener.skip_to(machine, speaker.latency());
        }
        loop {
            let frames = self.listener.take(machine);
            if frames.is_empty() {
                return Ok(());
            }
            match &mut self.output {
                Output::Wav { name, file, bytes } => {
                    let samples = wav_samples(&frames);
                    *bytes += samples.len() as u64;
                    file.write_all(&samples).with_context(|| format!("cannot write '{name}'"))?;
                }
                #[cfg(feature = "sound")]
                Output::Host(speaker) => speaker.push(&frames),
            }
        }
    }

    /// Writes out what is left.
    pub(crate) fn finish(self) -> Result<()> {
        match self.output {
            Output::Wav { name, mut file, bytes } => {
                ensure!(
                    u32::try_from(bytes + 36).is_ok(),
                    "'{name}' is longer than a WAV file can be"
                );
                file.seek(SeekFrom::Start(0))
                    .and_then(|_| file.write_all(&wav_header(self.listener.rate(), bytes as u32)))
                    .and_then(|()| file.flush())
                    .with_context(|| format!("cannot write '{name}'"))
            }
            #[cfg(feature = "sound")]
            Output::Host(_) => Ok(()),
        }
    }
}
