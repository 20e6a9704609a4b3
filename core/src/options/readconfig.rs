//! Options that change other options: `-set`, and files of options (`-readconfig`).

use super::{KeyVals, OptionError};

/// Turns a file of options (`[group "id"]`, then lines of `key = "value"`) into arguments.
pub fn readconfig(text: &str) -> Result<Vec<String>, OptionError> {
    let wrong = |n: usize, line: &str| {
        let reason =
            format!("line {}: '{line}' is neither [GROUP \"ID\"] nor KEY = \"VALUE\"", n + 1);
        OptionError::refused("-readconfig", reason)
    };
    let mut out: Vec<String> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(head) = line.strip_prefix('[') {
            let head = head.strip_suffix(']').ok_or_else(|| wrong(n, line))?.trim();
            let (group, id) = head.split_once(char::is_whitespace).unwrap_or((head, ""));
            let id = id.trim().trim_matches('"');
            // Groups that are not called like their option.
            let option = match group {
                "smp-opts" => "smp",
                "boot-opts" => "boot",
                "memory" => "m",
                other => other,
            };
            out.push(format!("-{option}"));
            out.push(if id.is_empty() { String::new() } else { format!("id={}", quoted(id)) });
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| wrong(n, line))?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = value.ok_or_else(|| wrong(n, line))?;
        let last = out.last_mut().ok_or_else(|| wrong(n, line))?;
        append(last, key.trim(), value);
    }
    Ok(out)
}

/// A value inside a list: commas are written twice.
fn quoted(value: &str) -> String {
    value.replace(',', ",,")
}

fn append(list: &mut String, key: &str, value: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(key);
    list.push('=');
    list.push_str(&quoted(value));
}

/// Carries out every `-set GROUP.ID.KEY=VALUE` on the option before it that has this id.
pub(super) fn with_sets<S: AsRef<str>>(args: &[S]) -> Result<Vec<String>, OptionError> {
    let mut out: Vec<String> = Vec::new();
    let mut args = args.iter().map(AsRef::as_ref);
    while let Some(arg) = args.next() {
        if arg != "-set" && arg != "--set" {
            out.push(arg.into());
            continue;
        }
        let usage = "GROUP.ID.KEY=VALUE";
        let text = args.next().ok_or_else(|| OptionError::Missing {
            option: "-set".into(),
            usage: format!("-set {usage}"),
        })?;
        let parts = text.split_once('=').and_then(|(place, value)| {
            let (group, rest) = place.split_once('.')?;
            let (id, key) = rest.rsplit_once('.')?;
            Some((group, id, key, value))
        });
        let Some((group, id, key, value)) = parts else {
            return Err(OptionError::value("-set", "set", text, usage));
        };
        let is_it = |n: usize| {
            out[n].trim_start_matches('-') == group
                && out[n].starts_with('-')
                && KeyVals::parse(&out[n + 1], Some("")).take("id").as_deref() == Some(id)
        };
        let found = (0..out.len().saturating_sub(1)).rev().find(|&n| is_it(n));
        let Some(n) = found else {
            let reason = format!("there is no -{group} with the id '{id}' before it");
            return Err(OptionError::refused("-set", reason));
        };
        append(&mut out[n + 1], key, value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_options_reads_like_the_options() {
        let text = "# a machine\n[machine]\n  type = \"q35\"\n\n[device \"n0\"]\n  driver = \"e1000\"\n  \
                    mac = \"52:54:00:12:34:56\"\n[name]\nguest = \"a,b\"\n";
        let args = readconfig(text).unwrap();
        assert_eq!(
            args,
            [
                "-machine",
                "type=q35",
                "-device",
                "id=n0,driver=e1000,mac=52:54:00:12:34:56",
                "-name",
                "guest=a,,b"
            ]
        );
        assert!(readconfig("key = \"1\"").is_err(), "before any group");
        let error = readconfig("[a]\nb").unwrap_err().to_string();
        assert_eq!(error, "-readconfig: line 2: 'b' is neither [GROUP \"ID\"] nor KEY = \"VALUE\"");
    }

    #[test]
    fn a_setting_goes_to_the_option_with_its_id() {
        let args = ["-device", "e1000,id=a", "-device", "e1000,id=b", "-set", "device.a.mac=1,2"];
        let set = with_sets(&args).unwrap();
        assert_eq!(set, ["-device", "e1000,id=a,mac=1,,2", "-device", "e1000,id=b"]);
        let error = with_sets(&["-set", "device.a.mac=1"]).unwrap_err().to_string();
        assert_eq!(error, "-set: there is no -device with the id 'a' before it");
    }
}
