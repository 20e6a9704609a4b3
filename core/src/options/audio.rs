//! `-audiodev`.

use super::{AudioOption, AudioTarget, KeyVals, OptionError, Options};

/// Names of drivers that mean the host's sound system, whichever it has.
const HOST: &[&str] =
    &["alsa", "pa", "pipewire", "jack", "sndio", "oss", "sdl", "coreaudio", "dsound", "cpal"];

/// `-audiodev`
pub(super) fn audiodev(o: &mut Options, v: &str) -> Result<(), OptionError> {
    const OPTION: &str = "-audiodev";
    let mut k = KeyVals::parse(v, Some("driver"));
    let driver = k.take("driver").unwrap_or_default();
    let id = k.take("id").ok_or_else(|| OptionError::refused(OPTION, "'id' is missing"))?;
    if o.audiodevs.iter().any(|a| a.id == id) {
        return Err(OptionError::refused(
            OPTION,
            format!("there is another one with the id '{id}'"),
        ));
    }
    let path = k.take("path");
    let target = match driver.as_str() {
        "none" => AudioTarget::None,
        "wav" => AudioTarget::Wav(path.unwrap_or_else(|| "qemu.wav".into())),
        name if HOST.contains(&name) => AudioTarget::Host,
        other => return Err(OptionError::value(OPTION, "driver", other, "none, wav or alsa")),
    };
    let rate = match k.take_number(OPTION, "out.frequency")? {
        None => 44_100,
        Some(n @ 8000..=192_000) => n as u32,
        Some(n) => {
            let wants = "8000 to 192000";
            return Err(OptionError::value(OPTION, "out.frequency", &n.to_string(), wants));
        }
    };
    // Host tuning that does not change what is heard.
    for side in ["in", "out"] {
        for key in [
            "frequency",
            "channels",
            "format",
            "voices",
            "fixed-settings",
            "mixing-engine",
            "buffer-length",
            "dev",
            "period-length",
            "latency",
            "name",
            "stream-name",
            "try-poll",
        ] {
            k.take(&format!("{side}.{key}"));
        }
    }
    k.take("timer-period");
    k.take("threshold");
    k.take("server");
    k.finish(OPTION, &["driver", "id", "path", "out.frequency", "timer-period"])?;
    o.audiodevs.push(AudioOption { id, target, rate });
    Ok(())
}
