//! `-chardev`, `-serial`, `-monitor`, `-qmp` and what else names the other end of a line.

use super::{CharTarget, KeyVals, MonitorOption, OptionError, Options, SocketOption};
use crate::monitor::Mode;
use orrery_block::host::Address;

/// Kinds of character devices.
pub(crate) const CHARDEV_BACKENDS: &[&str] =
    &["null", "stdio", "file", "pipe", "pty", "socket", "ringbuf"];

/// `HOST:PORT`.
fn inet(option: &str, text: &str) -> Result<Address, OptionError> {
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            Ok(Address::Inet { host: host.into(), port: port.into() })
        }
        _ => Err(OptionError::value(option, "address", text, "HOST:PORT")),
    }
}

fn switches(option: &str, k: &mut KeyVals) -> Result<(bool, bool), OptionError> {
    // `server,nowait` is the old spelling; `nowait` has been read as `wait=off` by now.
    let server = k.take_bool(option, "server")?.unwrap_or(false);
    let nowait = k.take_bool(option, "nowait")?.unwrap_or(false);
    let wait = k.take_bool(option, "wait")?.unwrap_or(server && !nowait);
    for key in [
        "telnet",
        "tn3270",
        "websocket",
        "nodelay",
        "delay",
        "reconnect",
        "reconnect-ms",
        "ipv4",
        "ipv6",
        "to",
        "abstract",
        "tight",
        "logfile",
        "logappend",
    ] {
        k.take(key);
    }
    Ok((server, server && wait))
}

/// `-chardev`
pub(super) fn chardev(o: &mut Options, v: &str) -> Result<(), OptionError> {
    const NAME: &str = "-chardev";
    let mut k = KeyVals::parse(v, Some("backend"));
    let backend = k.take("backend").unwrap_or_default();
    if backend == "help" {
        o.print = Some(super::Print::Chardevs);
        return Ok(());
    }
    let id = k.take("id").ok_or_else(|| OptionError::refused(NAME, "'id' is missing"))?;
    let mux = k.take_bool(NAME, "mux")?.unwrap_or(false);
    let missing = |what: &str| OptionError::refused(NAME, format!("'{what}' is missing"));
    let target = match backend.as_str() {
        "stdio" => CharTarget::Stdio { mux },
        "null" => CharTarget::Null,
        "file" => CharTarget::File(k.take("path").ok_or_else(|| missing("path"))?),
        "pipe" => CharTarget::Pipe(k.take("path").ok_or_else(|| missing("path"))?),
        "pty" => CharTarget::Pty,
        "ringbuf" | "memory" => {
            let size = k.take_size(NAME, "size", 1)?.unwrap_or(65536);
            if !size.is_power_of_two() || size > 1 << 30 {
                return Err(OptionError::value(NAME, "size", &size.to_string(), "a power of two"));
            }
            CharTarget::Ringbuf(size as usize)
        }
        "socket" => {
            let address = match (k.take("path"), k.take("host"), k.take("port")) {
                (Some(path), ..) => Address::Unix(path),
                (_, host, Some(port)) => Address::Inet { host: host.unwrap_or_default(), port },
                _ => return Err(OptionError::refused(NAME, "give 'path', or 'host' and 'port'")),
            };
            let (server, wait) = switches(NAME, &mut k)?;
            CharTarget::Socket(SocketOption { address, server, wait })
        }
        other => {
            return Err(OptionError::value(NAME, "backend", other, &CHARDEV_BACKENDS.join(", ")));
        }
    };
    for key in ["signal", "logfile", "logappend", "append", "input-path"] {
        k.take(key);
    }
    k.finish(NAME, &["id", "path", "mux", "signal", "host", "port", "server", "wait", "size"])?;
    if o.chardevs.iter().any(|(name, _)| *name == id) {
        return Err(OptionError::refused(NAME, format!("there are two with the id '{id}'")));
    }
    o.chardevs.push((id, target));
    Ok(())
}

/// What a device's line is connected to.
pub(super) fn char_target(option: &str, v: &str) -> Result<CharTarget, OptionError> {
    let (kind, rest) = v.split_once(':').unwrap_or((v, ""));
    let socket = |text: &str, unix: bool| {
        let (place, flags) = text.split_once(',').unwrap_or((text, ""));
        let mut k = KeyVals::parse(flags, None);
        let (server, wait) = switches(option, &mut k)?;
        k.finish(option, &["server", "wait"])?;
        let address = if unix { Address::Unix(place.into()) } else { inet(option, place)? };
        Ok(CharTarget::Socket(SocketOption { address, server, wait }))
    };
    Ok(match (kind, rest) {
        ("none", "") => CharTarget::None,
        ("null", "") => CharTarget::Null,
        ("stdio", "") => CharTarget::Stdio { mux: false },
        ("mon", "stdio") => CharTarget::Stdio { mux: true },
        ("mon", rest) => return char_target(option, rest),
        ("vc", _) => CharTarget::Vc,
        ("pty", "") => CharTarget::Pty,
        ("file", path) if !path.is_empty() => CharTarget::File(path.into()),
        ("pipe", path) if !path.is_empty() => CharTarget::Pipe(path.into()),
        ("chardev", id) if !id.is_empty() => CharTarget::Chardev(id.into()),
        ("unix", text) => socket(text, true)?,
        ("tcp" | "telnet", text) => socket(text, false)?,
        _ => {
            let wants = "stdio, mon:stdio, null, none, pty, file:FILE, pipe:FILE, \
                         unix:PATH[,server=on][,wait=off], tcp:HOST:PORT[,server=on][,wait=off] \
                         or chardev:ID";
            return Err(OptionError::value(option, "target", v, wants));
        }
    })
}

/// `-qmp`, `-qmp-pretty`, `-monitor`
pub(super) fn monitor(
    o: &mut Options,
    option: &str,
    v: &str,
    mode: Mode,
) -> Result<(), OptionError> {
    if v == "help" {
        o.print = Some(super::Print::Reference);
        return Ok(());
    }
    match char_target(option, v)? {
        CharTarget::None | CharTarget::Null => Ok(()),
        target => {
            o.monitors.push(MonitorOption { target, mode });
            Ok(())
        }
    }
}

/// `-mon`
pub(super) fn mon(o: &mut Options, v: &str) -> Result<(), OptionError> {
    let mut k = KeyVals::parse(v, Some("chardev"));
    let id =
        k.take("chardev").ok_or_else(|| OptionError::refused("-mon", "'chardev' is missing"))?;
    let pretty = k.take_bool("-mon", "pretty")?.unwrap_or(false);
    let mode = match k.take("mode").as_deref() {
        None | Some("readline") => Mode::Readline,
        Some("control") => Mode::Control { pretty },
        Some(other) => {
            return Err(OptionError::value("-mon", "mode", other, "'readline' or 'control'"));
        }
    };
    k.finish("-mon", &["chardev", "mode", "pretty"])?;
    o.monitors.push(MonitorOption { target: CharTarget::Chardev(id), mode });
    Ok(())
}
