//! What file names stand for.

use crate::{BlockError, Result};
use serde_json::{Map, Value, json};

/// Options of the protocol node that a name means.
pub(crate) fn from_filename(name: &str) -> Result<Value> {
    let bad = |text: &str| BlockError::Invalid(format!("{text}: '{name}'"));
    if let Some(json) = name.strip_prefix("json:") {
        return serde_json::from_str(json).map_err(|error| {
            BlockError::Invalid(format!("Could not parse the JSON options: {error}"))
        });
    }
    if let Some(path) = name.strip_prefix("file:") {
        return Ok(json!({"driver": "file", "filename": path}));
    }
    for driver in ["null-co", "null-aio"] {
        if name.strip_prefix(driver).is_some_and(|rest| rest == "://") {
            return Ok(json!({"driver": driver}));
        }
    }
    if name.starts_with("nbd:") || name.starts_with("nbd+") {
        return nbd(name).ok_or_else(|| bad("not a valid NBD name"));
    }
    if let Some(rest) = name.strip_prefix("blkdebug:") {
        let (config, image) =
            rest.split_once(':').ok_or_else(|| bad("blkdebug requires an image"))?;
        let mut options = json!({"driver": "blkdebug", "image": from_filename(image)?});
        if !config.is_empty() {
            options["config"] = config.into();
        }
        return Ok(options);
    }
    Ok(json!({"driver": "file", "filename": name}))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// `nbd://host[:port]/[export]`, `nbd+unix:///[export]?socket=path`, `nbd:unix:path[:exportname=x]`
/// and `nbd:host:port[:exportname=x]`.
fn nbd(name: &str) -> Option<Value> {
    let with = |server: Value, export: &str| {
        let mut options = json!({"driver": "nbd", "server": server});
        if !export.is_empty() {
            options["export"] = export.into();
        }
        options
    };
    if let Some((scheme, rest)) = name.split_once("://") {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = unescape(export)?;
        return match scheme {
            "nbd+unix" => {
                let path = query.split('&').find_map(|pair| pair.strip_prefix("socket="))?;
                Some(with(json!({"type": "unix", "path": unescape(path)?}), &export))
            }
            "nbd" | "nbd+tcp" => {
                let (host, port) = match authority.rsplit_once(':') {
                    Some((host, port)) if !port.contains(']') => (host, port),
                    _ => (authority, "10809"),
                };
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let host = if host.is_empty() { "localhost" } else { host };
                Some(with(json!({"type": "inet", "host": host, "port": port}), &export))
            }
            _ => None,
        };
    }
    let rest = name.strip_prefix("nbd:")?;
    let (rest, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
    if let Some(path) = rest.strip_prefix("unix:") {
        return Some(with(json!({"type": "unix", "path": path}), export));
    }
    let (host, port) = rest.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(with(json!({"type": "inet", "host": host, "port": port}), export))
}

/// Makes an address of its own of a server that was given by `host` and `port` or by `path`, as people
/// type it.
pub(super) fn nbd_server(options: &mut Map<String, Value>) -> Result<()> {
    let mut take = |name: &str| options.remove(name);
    let wrong = |text: &str| Err(BlockError::Invalid(text.into()));
    let server = match (take("path"), take("host"), take("port")) {
        (None, None, None) => return Ok(()),
        (Some(_), Some(_), _) => return wrong("path and host may not be used at the same time"),
        (_, None, Some(_)) => return wrong("port may not be used without host"),
        (Some(path), None, None) => json!({"type": "unix", "path": path}),
        (None, Some(host), port) => {
            let port = port.unwrap_or_else(|| "10809".into());
            json!({"type": "inet", "host": host, "port": port})
        }
    };
    match options.insert("server".into(), server) {
        None => Ok(()),
        Some(_) => wrong("'server' and path/host/port cannot be used at the same time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers_are_taken_apart() {
        let unix = json!({"type": "unix", "path": "/tmp/s"});
        let inet = json!({"type": "inet", "host": "h", "port": "10809"});
        let nbd = |server: &Value| json!({"driver": "nbd", "server": server});
        let named = |server: &Value| json!({"driver": "nbd", "server": server, "export": "a b"});
        for (name, expected) in [
            ("nbd:unix:/tmp/s", nbd(&unix)),
            ("nbd+unix:///a%20b?socket=/tmp/s", named(&unix)),
            ("nbd:unix:/tmp/s:exportname=a b", named(&unix)),
            ("nbd://h", nbd(&inet)),
            ("nbd://h:10809/a%20b", named(&inet)),
            ("nbd:h:10809:exportname=a b", named(&inet)),
            ("a:b.raw", json!({"driver": "file", "filename": "a:b.raw"})),
        ] {
            assert_eq!(from_filename(name).unwrap(), expected, "{name}");
        }
    }
}
